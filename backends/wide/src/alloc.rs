//! Registers: the `regalloc2` crate on [`crate::lir`].

use crate::Unsupported;
use crate::isa::Isa;
use crate::lir::{Function, Op};
use regalloc2::{
    Block, Ctx, Inst, InstRange, MachineEnv, Operand, Output, PReg, PRegSet, RegClass, RegallocOptions, VReg,
};
use std::cell::RefCell;

/// The function as `regalloc2` sees it: instructions in one row.
pub(crate) struct View<'f> {
    func: &'f Function,
    /// Words of 8 bytes in a vector register.
    words: usize,
    ranges: Vec<InstRange>,
    /// Block and position of each instruction.
    places: Vec<(u32, u32)>,
    operands: Vec<Operand>,
    starts: Vec<u32>,
}

impl<'f> View<'f> {
    pub(crate) fn new(func: &'f Function, isa: &Isa) -> View<'f> {
        let mut view =
            View { func, words: isa.bytes / 8, ranges: vec![], places: vec![], operands: vec![], starts: vec![] };
        for (b, block) in func.blocks.iter().enumerate() {
            let first = view.places.len();
            for (i, inst) in block.insts.iter().enumerate() {
                view.starts.push(view.operands.len() as u32);
                view.places.push((b as u32, i as u32));
                inst.operands(&mut view.operands);
            }
            view.ranges.push(InstRange::new(Inst::new(first), Inst::new(view.places.len())));
        }
        view.starts.push(view.operands.len() as u32);
        view
    }

    /// The instruction that the allocator calls `i`.
    pub(crate) fn inst(&self, i: Inst) -> &'f crate::lir::Inst {
        let (b, k) = self.places[i.index()];
        &self.func.blocks[b as usize].insts[k as usize]
    }
}

impl regalloc2::Function for View<'_> {
    fn num_insts(&self) -> usize {
        self.places.len()
    }
    fn num_blocks(&self) -> usize {
        self.func.blocks.len()
    }
    fn entry_block(&self) -> Block {
        Block::new(0)
    }
    fn block_insns(&self, block: Block) -> InstRange {
        self.ranges[block.index()]
    }
    fn block_succs(&self, block: Block) -> &[Block] {
        &self.func.blocks[block.index()].succs
    }
    fn block_preds(&self, block: Block) -> &[Block] {
        &self.func.blocks[block.index()].preds
    }
    fn block_params(&self, block: Block) -> &[VReg] {
        &self.func.blocks[block.index()].params
    }
    fn is_ret(&self, insn: Inst) -> bool {
        self.inst(insn).op == Op::Return
    }
    fn is_branch(&self, insn: Inst) -> bool {
        self.inst(insn).is_branch()
    }
    fn branch_blockparams(&self, block: Block, _insn: Inst, succ: usize) -> &[VReg] {
        &self.func.blocks[block.index()].args[succ]
    }
    fn inst_operands(&self, insn: Inst) -> &[Operand] {
        let i = insn.index();
        &self.operands[self.starts[i] as usize..self.starts[i + 1] as usize]
    }
    fn inst_clobbers(&self, _insn: Inst) -> PRegSet {
        PRegSet::empty()
    }
    fn num_vregs(&self) -> usize {
        self.func.classes.len()
    }
    fn spillslot_size(&self, class: RegClass) -> usize {
        if class == RegClass::Int { 1 } else { self.words }
    }
}

/// Hardware numbers of the general registers that code may use, those that a function must keep last.
const GENERAL: [usize; 14] = [0, 1, 2, 6, 7, 8, 9, 10, 11, 3, 12, 13, 14, 15];
/// How many of them it need not keep.
const VOLATILE: usize = 9;

/// Whether a function must keep general register `n` for its caller.
pub(crate) fn is_kept(n: usize) -> bool {
    GENERAL[VOLATILE..].contains(&n)
}

fn environment(isa: &Isa) -> MachineEnv {
    let set = |class, numbers: &mut dyn Iterator<Item = usize>| {
        numbers.fold(PRegSet::empty(), |mut s, n| {
            s.add(PReg::new(n, class));
            s
        })
    };
    let general = |r: std::ops::Range<usize>| set(RegClass::Int, &mut GENERAL[r].iter().copied());
    let vectors = if isa.avx512 { 32 } else { 16 };
    // Below 16 the shorter encoding does.
    let low = set(RegClass::Float, &mut (0..16));
    let high = set(RegClass::Float, &mut (16..vectors));
    MachineEnv {
        preferred_regs_by_class: [general(0..VOLATILE), low, PRegSet::empty()],
        non_preferred_regs_by_class: [general(VOLATILE..GENERAL.len()), high, PRegSet::empty()],
        scratch_by_class: [None; 3],
        fixed_stack_slots: vec![],
    }
}

thread_local! {
    /// What the allocator works in: some megabytes for a large function, which the next one finds there.
    static ROOM: RefCell<Ctx> = RefCell::default();
}

/// A register or stack slot for every value.
pub(crate) fn allocate(view: &View<'_>, isa: &Isa) -> Result<Output, Unsupported> {
    let options = RegallocOptions { validate_ssa: cfg!(debug_assertions), ..RegallocOptions::default() };
    ROOM.with_borrow_mut(|room| {
        regalloc2::run_with_ctx(view, &environment(isa), &options, room)
            .map_err(|e| Unsupported::Registers(format!("{e:?}")))?;
        Ok(std::mem::take(&mut room.output))
    })
}

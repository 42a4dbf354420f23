//! Machine code: instructions with registers to bytes, branches as short as they can be, constants behind the code.
//!
//! The function is position independent. It follows the System V convention on every system (its callers say so), keeps
//! a frame pointer, and leaves the upper halves of vector registers clean.

mod general;
mod layout;

use crate::Unsupported;
use crate::alloc::{View, is_kept};
use crate::isa::Isa;
use crate::lir::{Arg, Base, Cond, Function, Inst, Mem, Op, Width};
use crate::table::V;
use iced_x86::{Code, Encoder, Instruction, MemoryOperand, OpKind, Register};
use layout::{Fix, Item, lay_out};
use regalloc2::{Allocation, Block, Edit, InstOrEdit, Output, RegClass};
use std::collections::BTreeSet;

/// An operand with its place.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// A general register.
    General(usize),
    /// A vector register.
    Vector(usize),
    Memory(MemoryOperand, Option<u32>),
    Imm(i64),
}

/// Makes the encoder's tables.
pub(crate) fn prepare() {
    drop(Encoder::new(64));
}

/// Emits `func` with the registers that `out` gives: its bytes, and bytes of the stack that it takes at most.
pub(crate) fn emit(
    func: &Function,
    view: &View<'_>,
    out: &Output,
    isa: &Isa,
) -> Result<(Vec<u8>, usize), Unsupported> {
    let mut e = Emitter {
        isa: *isa,
        encoder: Encoder::new(64),
        items: vec![],
        kept: kept(out),
        frame: out.num_spillslots * 8,
        error: None,
    };
    e.prologue();
    let targets = resolve(func, view, out);
    for b in 0..func.blocks.len() {
        let block = Block::new(b);
        if b > 0 && targets[b] != b {
            continue; // empty: branches go past it
        }
        if func.blocks[b].hot {
            e.items.push(Item::Align);
        }
        e.items.push(Item::Start(b));
        let mut steps = out.block_insts_and_edits(view, block).peekable();
        // Of an instruction's last operand, where on the stack it is read.
        let mut spilled = None;
        while let Some(step) = steps.next() {
            match step {
                InstOrEdit::Edit(Edit::Move { from, to }) => match steps.peek() {
                    Some(InstOrEdit::Inst(i))
                        if folds(view.inst(*i), out.inst_allocs(*i), *to) && from.is_stack() =>
                    {
                        spilled = Some(*from);
                    }
                    _ => e.copy(*from, *to),
                },
                InstOrEdit::Inst(i) => {
                    let inst = view.inst(i);
                    let next = (b + 1..func.blocks.len()).find(|&n| targets[n] == n);
                    let to = |k: usize| targets[func.blocks[b].succs[k].index()];
                    match inst.op {
                        Op::Jump => e.jump(None, to(0), next),
                        Op::Branch(cond, size) => {
                            let args = e.places(&inst.args, out.inst_allocs(i));
                            e.compare(size, &args[0], &args[1]);
                            let (yes, no) = (to(0), to(1));
                            if Some(yes) == next {
                                e.jump(Some(cond.not()), no, next);
                            } else {
                                e.jump(Some(cond), yes, next);
                                e.jump(None, no, next);
                            }
                        }
                        Op::Return => e.epilogue(),
                        op => {
                            let mut args = e.places(&inst.args, out.inst_allocs(i));
                            if let (Some(slot), Some(last)) = (spilled.take().and_then(stack), args.last_mut()) {
                                *last = Place::Memory(slot, None);
                            }
                            e.instruction(op, &args);
                        }
                    }
                }
            }
        }
    }
    if let Some(message) = e.error {
        return Err(Unsupported::Encoding(message));
    }
    let stack = e.stack();
    Ok((lay_out(e.items, &func.pool, func.pool_align), stack))
}

/// For each block, the one that a jump to it ends up in: blocks that only jump are passed over.
fn resolve(func: &Function, view: &View<'_>, out: &Output) -> Vec<usize> {
    let empty: Vec<bool> = (0..func.blocks.len())
        .map(|b| {
            func.blocks[b].insts.len() == 1
                && func.blocks[b].insts[0].op == Op::Jump
                && out.block_insts_and_edits(view, Block::new(b)).count() == 1
        })
        .collect();
    (0..func.blocks.len())
        .map(|b| {
            let mut at = b;
            // Chains are shorter than the function; a loop of empty blocks cannot be, for loops count.
            for _ in 0..func.blocks.len() {
                if !empty[at] {
                    break;
                }
                at = func.blocks[at].succs[0].index();
            }
            at
        })
        .collect()
}

/// General registers that are used and belong to the caller.
fn kept(out: &Output) -> Vec<usize> {
    let mut used = BTreeSet::new();
    let mut add = |a: &Allocation| {
        if let Some(p) = a.as_reg()
            && p.class() == RegClass::Int
            && is_kept(p.hw_enc())
        {
            used.insert(p.hw_enc());
        }
    };
    out.allocs.iter().for_each(&mut add);
    for (_, Edit::Move { from, to }) in &out.edits {
        add(from);
        add(to);
    }
    used.into_iter().collect()
}

struct Emitter {
    isa: Isa,
    encoder: Encoder,
    items: Vec<Item>,
    kept: Vec<usize>,
    /// Bytes of spilled values.
    frame: usize,
    error: Option<String>,
}

/// The general register `n` of 64 bits.
fn r64(n: usize) -> Register {
    Register::RAX + n as u32
}

/// The slot of a value that is spilled.
fn stack(a: Allocation) -> Option<MemoryOperand> {
    let at = 8 * a.as_stack()?.index() as i64;
    Some(MemoryOperand::new(Register::RSP, Register::None, 1, at, u32::from(at != 0), false, Register::None))
}

/// Whether `inst` may read its last operand, for which a value is loaded into `from` just before it, where that value is: nothing reads the
/// register any more, as the result goes there.
fn folds(inst: &Inst, allocs: &[Allocation], from: Allocation) -> bool {
    inst.takes_memory() && matches!(allocs, [d, a, b] if *d == from && *b == from && *a != from)
}

/// The vector register `n` of width `w`.
fn vector(n: usize, w: Width) -> Register {
    let first = match w {
        Width::S | Width::X => Register::XMM0,
        Width::Y => Register::YMM0,
        Width::Z => Register::ZMM0,
    };
    first + n as u32
}

impl Emitter {
    /// Encodes one instruction; `pool` is the constant that it reads.
    fn put(&mut self, i: &Instruction, pool: Option<u32>) {
        // Far from every constant, so that the displacement has 4 bytes.
        let len = match self.encoder.encode(i, 0) {
            Ok(len) => len,
            Err(e) => {
                self.error.get_or_insert_with(|| format!("{:?}: {e}", i.code()));
                drop(self.encoder.take_buffer());
                return;
            }
        };
        let code = self.encoder.take_buffer();
        if !matches!(self.items.last(), Some(Item::Code { .. })) {
            self.items.push(Item::Code { bytes: vec![], fixes: vec![] });
        }
        if let Some(Item::Code { bytes, fixes }) = self.items.last_mut() {
            if let Some(pool) = pool {
                let at = bytes.len() + self.encoder.get_constant_offsets().displacement_offset();
                fixes.push(Fix { at, end: bytes.len() + len, pool });
            }
            bytes.extend_from_slice(&code);
        }
    }

    fn built(&mut self, i: Result<Instruction, iced_x86::IcedError>) {
        match i {
            Ok(i) => self.put(&i, None),
            Err(e) => {
                self.error.get_or_insert_with(|| e.to_string());
            }
        }
    }

    fn prologue(&mut self) {
        self.built(Instruction::with1(Code::Push_r64, Register::RBP));
        self.built(Instruction::with2(Code::Mov_r64_rm64, Register::RBP, Register::RSP));
        for n in self.kept.clone() {
            self.built(Instruction::with1(Code::Push_r64, r64(n)));
        }
        if self.frame > 0 {
            self.built(Instruction::with2(Code::Sub_rm64_imm32, Register::RSP, self.frame as i32));
            self.built(Instruction::with2(Code::And_rm64_imm8, Register::RSP, -64i32));
        }
    }

    /// Bytes of the stack: return address, saved registers, spilled values with what aligns them.
    fn stack(&self) -> usize {
        16 + 8 * self.kept.len() + if self.frame > 0 { self.frame + 63 } else { 0 }
    }

    fn epilogue(&mut self) {
        if self.frame > 0 {
            let below = -8 * self.kept.len() as i64;
            let m = MemoryOperand::with_base_displ(Register::RBP, below);
            self.built(Instruction::with2(Code::Lea_r64_m, Register::RSP, m));
        }
        for n in self.kept.clone().into_iter().rev() {
            self.built(Instruction::with1(Code::Pop_r64, r64(n)));
        }
        self.built(Instruction::with1(Code::Pop_r64, Register::RBP));
        self.put(&Instruction::with(Code::VEX_Vzeroupper), None);
        self.put(&Instruction::with(Code::Retnq), None);
    }

    /// A branch to block `to`, unless it is next.
    fn jump(&mut self, cond: Option<Cond>, to: usize, next: Option<usize>) {
        if cond.is_some() || Some(to) != next {
            self.items.push(Item::Branch { cond, to, long: false });
        }
    }

    /// The places of an instruction's operands, in order; one for [`Arg::Mod`].
    fn places(&self, args: &[Arg], allocs: &[Allocation]) -> Vec<Place> {
        let mut at = 0;
        let mut next = || {
            at += 1;
            allocs[at - 1]
        };
        let place = |a: Allocation| match a.as_reg() {
            Some(p) if p.class() == RegClass::Int => Place::General(p.hw_enc()),
            Some(p) => Place::Vector(p.hw_enc()),
            None => unreachable!("every operand asks for a register"),
        };
        args.iter()
            .map(|arg| match arg {
                Arg::Def(_) | Arg::Use(_) | Arg::UseLate(_) | Arg::DefIn(..) | Arg::UseIn(..) => place(next()),
                Arg::Mod(..) => {
                    next();
                    place(next())
                }
                Arg::Imm(v) => Place::Imm(*v),
                Arg::Mem(m) => {
                    let mut register = |present: bool| match present.then(&mut next).and_then(Allocation::as_reg) {
                        Some(p) => r64(p.hw_enc()),
                        None => Register::None,
                    };
                    let base = register(matches!(m.base, Base::Reg(_)));
                    let index = register(m.index.is_some());
                    memory(m, base, index)
                }
            })
            .collect()
    }

    fn copy(&mut self, from: Allocation, to: Allocation) {
        if from == to {
            return;
        }
        let whole = Width::of(self.isa.bytes);
        match (from.as_reg(), to.as_reg(), stack(from), stack(to)) {
            (Some(f), Some(t), ..) if f.class() == RegClass::Int => {
                self.built(Instruction::with2(Code::Mov_r64_rm64, r64(t.hw_enc()), r64(f.hw_enc())));
            }
            (Some(f), Some(t), ..) => {
                self.vector(V::Movaps, whole, &[Place::Vector(t.hw_enc()), Place::Vector(f.hw_enc())]);
            }
            (Some(f), None, _, Some(m)) if f.class() == RegClass::Int => {
                self.built(Instruction::with2(Code::Mov_rm64_r64, m, r64(f.hw_enc())));
            }
            (Some(f), None, _, Some(m)) => {
                self.vector(V::MovupsStore, whole, &[Place::Memory(m, None), Place::Vector(f.hw_enc())]);
            }
            (None, Some(t), Some(m), _) if t.class() == RegClass::Int => {
                self.built(Instruction::with2(Code::Mov_r64_rm64, r64(t.hw_enc()), m));
            }
            (None, Some(t), Some(m), _) => {
                self.vector(V::Movups, whole, &[Place::Vector(t.hw_enc()), Place::Memory(m, None)]);
            }
            _ => {
                self.error.get_or_insert_with(|| "a move from the stack to the stack".into());
            }
        }
    }

    /// A vector instruction.
    fn vector(&mut self, op: V, w: Width, args: &[Place]) {
        let far = args.iter().any(|a| match a {
            Place::Vector(n) => *n >= 16,
            Place::Memory(m, _) => m.is_broadcast,
            _ => false,
        });
        let long = far || self.isa.avx512 && op.vex_is_apart();
        let code = match (op.code(w, false), op.code(w, true)) {
            (Some(code), _) if !long => code,
            (_, Some(code)) if self.isa.avx512 => code,
            _ => {
                self.error.get_or_insert_with(|| format!("{op:?} has no form of width {w:?}"));
                return;
            }
        };
        let i = self.assemble(code, op, w, args);
        self.put(&i.0, i.1);
    }

    /// An instruction with these operands.
    fn assemble(&self, code: Code, op: V, w: Width, args: &[Place]) -> (Instruction, Option<u32>) {
        let mut i = Instruction::default();
        i.set_code(code);
        let mut pool = None;
        for (n, a) in args.iter().enumerate() {
            let at = n as u32;
            match *a {
                Place::Vector(r) => {
                    i.set_op_kind(at, OpKind::Register);
                    i.set_op_register(at, vector(r, op.operand_width(n, w)));
                }
                Place::General(r) => {
                    i.set_op_kind(at, OpKind::Register);
                    let first = if op.wide_general() { Register::RAX } else { Register::EAX };
                    i.set_op_register(at, first + r as u32);
                }
                Place::Memory(m, constant) => {
                    i.set_op_kind(at, OpKind::Memory);
                    i.set_memory_base(m.base);
                    i.set_memory_index(m.index);
                    i.set_memory_index_scale(m.scale);
                    i.set_memory_displ_size(m.displ_size);
                    i.set_memory_displacement64(m.displacement as u64);
                    i.set_is_broadcast(m.is_broadcast);
                    pool = constant;
                }
                Place::Imm(v) => {
                    i.set_op_kind(at, OpKind::Immediate8);
                    i.set_immediate8(v as u8);
                }
            }
        }
        (i, pool)
    }
}

/// The memory operand `m`.
fn memory(m: &Mem, base: Register, index: Register) -> Place {
    let (scale, disp) = (m.index.map_or(1, |i| u32::from(i.1)), i64::from(m.disp));
    let of = |base, disp: i64, size| MemoryOperand::new(base, index, scale, disp, size, m.broadcast, Register::None);
    match m.base {
        Base::Pool(at) => Place::Memory(of(Register::RIP, 0x1000, 8), Some(at + m.disp as u32)),
        Base::Frame => Place::Memory(of(Register::RBP, disp, 1), None),
        Base::Reg(_) => Place::Memory(of(base, disp, u32::from(disp != 0)), None),
    }
}

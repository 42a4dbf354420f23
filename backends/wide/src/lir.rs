//! Machine instructions over virtual registers, in blocks: what selection writes and the register allocator reads.
//!
//! Values are in SSA form; a block's parameters are the values that differ between its predecessors. No edge is
//! critical: a conditional branch goes to two blocks of its own.

use crate::table::V;
use regalloc2::{Block, Operand, PReg, RegClass, VReg};
use smallvec::SmallVec;

/// The class of general registers.
pub(crate) const GENERAL: RegClass = RegClass::Int;
/// The class of vector registers, which also hold scalar floats.
pub(crate) const VECTOR: RegClass = RegClass::Float;

/// How much of the vector registers an instruction works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Width {
    /// The first lane.
    S,
    /// 128 bits.
    X,
    /// 256 bits.
    Y,
    /// 512 bits.
    Z,
}

impl Width {
    /// The narrowest whole register of at least `bytes`.
    pub(crate) fn of(bytes: usize) -> Width {
        match bytes {
            0..=16 => Width::X,
            17..=32 => Width::Y,
            _ => Width::Z,
        }
    }

    /// Bytes of a register of this width (of its lane for [`Width::S`] it is not known: 16).
    pub(crate) fn bytes(self) -> usize {
        match self {
            Width::S | Width::X => 16,
            Width::Y => 32,
            Width::Z => 64,
        }
    }
}

/// Condition codes, as in the instructions' low four bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cond {
    B = 2,
    Ae = 3,
    E = 4,
    Ne = 5,
    Be = 6,
    A = 7,
    L = 12,
    Ge = 13,
    Le = 14,
    G = 15,
}

impl Cond {
    /// The condition that holds when this does not.
    pub(crate) fn not(self) -> Cond {
        match self {
            Cond::B => Cond::Ae,
            Cond::Ae => Cond::B,
            Cond::E => Cond::Ne,
            Cond::Ne => Cond::E,
            Cond::Be => Cond::A,
            Cond::A => Cond::Be,
            Cond::L => Cond::Ge,
            Cond::Ge => Cond::L,
            Cond::Le => Cond::G,
            Cond::G => Cond::Le,
        }
    }
}

/// Two-operand integer arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alu {
    Add,
    Sub,
    And,
    Or,
    Xor,
    Imul,
}

/// Shifts of general registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shift {
    Shl,
    Shr,
    Sar,
}

/// Products of tiles, by their factors: signs of bytes, or `bf16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TileDot {
    Bf16,
    Ss,
    Su,
    Us,
    Uu,
}

/// An operation; operands are in the order of the machine instruction. Sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// A vector instruction.
    V(V, Width),
    /// A vector of zeros: `def`.
    Zero,
    /// AVX-512: a comparison into a mask register, then that into lanes: `def, a, b, predicate`. The first is the
    /// comparison, the second spreads the mask.
    CmpLanes(V, V, Width),
    /// AVX-512: a comparison of scalar floats to 0 or 1 in a general register: `def, a, b, predicate`.
    CmpScalar(V),
    /// AVX-512: `def, mask (general), memory`: the bytes whose bit in the mask is set, the others 0.
    MaskLoad(Width),
    /// AVX-512: `memory, vector, mask (general)`.
    MaskStore(Width),
    /// `def, imm`
    MovImm,
    /// `mod, use | memory | imm`
    Alu(Alu, u8),
    /// `def, use, imm`
    MulImm(u8),
    /// `def, memory`
    Lea,
    /// `mod, imm`
    ShiftImm(Shift, u8),
    /// `def, use, count`; the count's low bits count.
    ShiftVar(Shift, u8),
    /// `mod`
    Neg(u8),
    /// `mod`
    Not(u8),
    /// `def, use`: the low bytes extended, to 64 bits if signed and of 4, else to 32 with the upper half 0.
    Extend { bytes: u8, signed: bool, to: u8 },
    /// `def, memory`: as [`Op::Extend`].
    Load { bytes: u8, signed: bool },
    /// `memory, use`
    Store(u8),
    /// `memory`: into all caches.
    Prefetch,
    /// `def, a, b`: 0 or 1.
    SetCmp(Cond, u8),
    /// `mod, a, b, other`: `other` if the comparison of `a` and `b` holds.
    CmovCmp { cond: Cond, cmp: u8, size: u8 },
    /// `mod, a, b, other`: the same for float scalars, of 8 bytes if `double`; nothing but [`Cond::A`] and [`Cond::Ae`] is right of NaN.
    CmovFloat { cond: Cond, double: bool, size: u8 },
    /// `a (rax), b, high (rdx), low (rax)`: the signed product of 64 bits each.
    MulHigh,
    /// `a (rax), b, quotient (rax), rest (rdx)`
    Div { signed: bool, size: u8 },
    /// AMX: `memory`: the sizes of all tiles, which become zero.
    TileConfig,
    /// AMX: no tile is in use any more.
    TileRelease,
    /// AMX: a tile of zeros.
    TileZero(u8),
    /// AMX: a tile from `memory`, whose index register holds the bytes from row to row.
    TileLoad(u8),
    /// AMX: the same to `memory`.
    TileStore(u8),
    /// AMX: the first tile plus the product of the others.
    TileDot(TileDot, [u8; 3]),
    /// The parameters that come in registers: `def…`.
    Params,
    /// `goto`
    Jump,
    /// `a, b`: to the first successor if the comparison holds, else to the second.
    Branch(Cond, u8),
    /// The end.
    Return,
}

/// Where an access begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// A register.
    Reg(VReg),
    /// A byte of the constants behind the code.
    Pool(u32),
    /// A byte above the frame pointer: parameters on the stack.
    Frame,
}

/// A memory operand: `base + index · scale + disp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mem {
    pub(crate) base: Base,
    pub(crate) index: Option<(VReg, u8)>,
    pub(crate) disp: i32,
    /// One element, in every lane (AVX-512).
    pub(crate) broadcast: bool,
}

impl Mem {
    /// The byte `by` further on.
    pub(crate) fn offset(self, by: usize) -> Mem {
        Mem { disp: self.disp + by as i32, ..self }
    }
}

/// An operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arg {
    Def(VReg),
    Use(VReg),
    /// Read until the end: shares no register with a result.
    UseLate(VReg),
    /// Result and first operand in one register.
    Mod(VReg, VReg),
    DefIn(VReg, PReg),
    UseIn(VReg, PReg),
    Mem(Mem),
    Imm(i64),
}

/// An instruction.
#[derive(Clone, Debug)]
pub(crate) struct Inst {
    pub(crate) op: Op,
    pub(crate) args: SmallVec<[Arg; 4]>,
}

/// A block.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlockData {
    pub(crate) insts: Vec<Inst>,
    pub(crate) params: Vec<VReg>,
    pub(crate) succs: Vec<Block>,
    pub(crate) preds: Vec<Block>,
    /// The values of each successor's parameters.
    pub(crate) args: Vec<Vec<VReg>>,
    /// The head of an innermost loop.
    pub(crate) hot: bool,
}

/// A function under construction and after.
#[derive(Clone, Debug, Default)]
pub(crate) struct Function {
    /// By number; after [`Function::finish`] in layout order.
    pub(crate) blocks: Vec<BlockData>,
    /// Blocks in layout order.
    pub(crate) order: Vec<Block>,
    /// The class of each register.
    pub(crate) classes: Vec<RegClass>,
    /// Constants behind the code, and the bytes at each place that was asked for.
    pub(crate) pool: Vec<u8>,
    /// The address of the constants is a multiple of this, if there are any.
    pub(crate) pool_align: usize,
}

impl Function {
    /// A new virtual register.
    pub(crate) fn reg(&mut self, class: RegClass) -> VReg {
        self.classes.push(class);
        VReg::new(self.classes.len() - 1, class)
    }

    /// A new block, not in the layout yet.
    pub(crate) fn block(&mut self) -> Block {
        self.blocks.push(BlockData::default());
        Block::new(self.blocks.len() - 1)
    }

    /// Links `from` to its next successor.
    pub(crate) fn edge(&mut self, from: Block, to: Block, args: Vec<VReg>) {
        let f = &mut self.blocks[from.index()];
        f.succs.push(to);
        f.args.push(args);
        self.blocks[to.index()].preds.push(from);
    }

    /// Numbers the blocks in layout order, as the register allocator wants them.
    pub(crate) fn finish(&mut self) {
        let mut to = vec![Block::new(0); self.blocks.len()];
        for (i, b) in self.order.iter().enumerate() {
            to[b.index()] = Block::new(i);
        }
        let mut old = std::mem::take(&mut self.blocks);
        for b in &self.order {
            let mut data = std::mem::take(&mut old[b.index()]);
            for other in data.succs.iter_mut().chain(&mut data.preds) {
                *other = to[other.index()];
            }
            self.blocks.push(data);
        }
        self.order = (0..self.blocks.len()).map(Block::new).collect();
    }

    /// Instructions in all.
    pub(crate) fn len(&self) -> usize {
        self.blocks.iter().map(|b| b.insts.len()).sum()
    }
}

impl Inst {
    /// What the register allocator needs to know, in the order in which [`crate::emit`] reads the result.
    pub(crate) fn operands(&self, out: &mut Vec<Operand>) {
        let first = out.len();
        for a in &self.args {
            match *a {
                Arg::Def(v) => out.push(Operand::reg_def(v)),
                Arg::Use(v) => out.push(Operand::reg_use(v)),
                Arg::UseLate(v) => out.push(Operand::reg_use_at_end(v)),
                Arg::Mod(d, v) => {
                    out.push(Operand::reg_use(v));
                    out.push(Operand::reg_reuse_def(d, out.len() - 1 - first));
                }
                Arg::DefIn(v, p) => out.push(Operand::reg_fixed_def(v, p)),
                Arg::UseIn(v, p) => out.push(Operand::reg_fixed_use(v, p)),
                Arg::Mem(m) => {
                    if let Base::Reg(v) = m.base {
                        out.push(Operand::reg_use(v));
                    }
                    if let Some((v, _)) = m.index {
                        out.push(Operand::reg_use(v));
                    }
                }
                Arg::Imm(_) => {}
            }
        }
    }

    /// Whether it is arithmetic of two registers, the second of which might as well be in memory.
    pub(crate) fn takes_memory(&self) -> bool {
        use V::{Addpd, Addps, Maxpd, Maxps, Minpd, Minps, Mulpd, Mulps, Subpd, Subps};
        let arithmetic = matches!(
            self.op,
            Op::V(Addps | Addpd | Subps | Subpd | Mulps | Mulpd | Minps | Minpd | Maxps | Maxpd, _)
        );
        arithmetic && matches!(self.args[..], [Arg::Def(_), Arg::Use(_), Arg::Use(_)])
    }

    /// Whether it ends a block.
    pub(crate) fn is_branch(&self) -> bool {
        matches!(self.op, Op::Jump | Op::Branch(..))
    }
}

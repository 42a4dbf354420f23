//! What each machine's vectors lack, and how it is made up for.
//!
//! Cranelift reports some gaps as errors and panics on others, so the lowering never asks for what is not listed here
//! as native. The matrix test compiles every operator on every dtype for every target.

use tenon_base::DType;
use tenon_kernel::{BinOp, UnOp};
use tenon_target::{Arch, Feature, Target};

/// How an operation on vectors is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// One CLIF instruction a register.
    Native,
    /// In lanes of twice the width, then narrowed.
    Widen,
    /// A comparison and a select.
    Compare,
    /// Integer or magic-number arithmetic.
    Emulate,
    /// Lane by lane.
    Scalar,
}

/// Instructions for dot products of four bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dot {
    /// x86 with VNNI: unsigned by signed.
    Vnni,
    /// x86 without: pairs of 16-bit elements.
    Pairs,
    /// Arm: signed by signed, and unsigned by signed where `mixed`.
    Arm {
        /// Whether the machine has the mixed form.
        mixed: bool,
    },
    /// Widening multiplications and pairwise sums.
    Widen,
}

impl Dot {
    fn of(target: &Target) -> Dot {
        let vnni = target.has(Feature::AvxVnni) || target.has(Feature::Avx512vnni) && target.has(Feature::Avx512vl);
        match target.arch {
            Arch::X86_64 if vnni => Dot::Vnni,
            Arch::X86_64 => Dot::Pairs,
            Arch::Aarch64 if target.has(Feature::Dotprod) => Dot::Arm { mixed: target.has(Feature::I8mm) },
            _ => Dot::Widen,
        }
    }
}

/// The facts about a target that the lowering asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    pub(crate) arch: Arch,
    /// Whether there are 128-bit vectors at all.
    pub(crate) vectors: bool,
    /// Whether rounding to an integer is an instruction.
    rounds: bool,
    /// Whether bytes of two vectors are put into any order by instructions.
    pub(crate) shuffles: bool,
    /// Whether a vector operand in memory must be aligned to 16 bytes: SSE without AVX.
    pub(crate) aligned_operands: bool,
    /// Whether `fma` rounds once.
    pub(crate) fused: bool,
    /// How the products of bytes in [`tenon_kernel::Expr::Dot`] are made.
    pub(crate) dot: Dot,
    /// Induction pointers of one loop that fit the integer registers.
    pub(crate) max_pointers: usize,
}

impl Machine {
    /// `fused`: what [`tenon_kernel::Program::fused_multiply_add`] says.
    pub(crate) fn new(target: &Target, fused: bool) -> Machine {
        Machine {
            arch: target.arch,
            // 128 bits of them: wider virtual vectors are split.
            vectors: target.vector_bytes >= 16,
            rounds: target.arch != Arch::X86_64 || target.has(Feature::Sse41),
            shuffles: target.shuffles_words(),
            aligned_operands: target.arch == Arch::X86_64 && !target.has(Feature::Avx),
            fused,
            dot: Dot::of(target),
            max_pointers: if target.arch == Arch::X86_64 { 8 } else { 16 },
        }
    }

    /// Lanes of `bytes` each in one register.
    pub(crate) fn per_register(&self, bytes: usize) -> usize {
        if self.vectors { 16 / bytes } else { 1 }
    }

    /// `op` on vectors of `elem` (never `f16` or `bool`, which are computed as other types).
    pub(crate) fn unary(&self, op: UnOp, elem: DType) -> Plan {
        match op {
            UnOp::Ceil | UnOp::Floor | UnOp::Trunc | UnOp::Nearest => self.round(elem),
            _ => Plan::Native,
        }
    }

    /// Rounding of `elem` to an integral value, in vectors; scalars are emulated where this is not native.
    pub(crate) fn round(&self, elem: DType) -> Plan {
        match elem {
            _ if self.rounds => Plan::Native,
            // 64-bit integers are converted one by one.
            DType::F64 => Plan::Scalar,
            _ => Plan::Emulate,
        }
    }

    /// `op` on vectors of `elem` (never `f16` or `bool`); shifts by a count that differs between lanes.
    pub(crate) fn binary(&self, op: BinOp, elem: DType) -> Plan {
        match op {
            BinOp::Mul if elem.size() == 1 && self.arch == Arch::X86_64 => Plan::Widen,
            BinOp::Div | BinOp::Rem if elem.is_int() => Plan::Scalar,
            BinOp::Min | BinOp::Max if elem.is_float() || elem.size() == 8 => Plan::Compare,
            BinOp::Shl | BinOp::Shr => Plan::Scalar,
            _ => Plan::Native,
        }
    }

    /// Conversion of vectors of 64-bit integers to `f64`.
    pub(crate) fn converts_i64(&self) -> bool {
        self.arch != Arch::X86_64
    }

    /// Whether taking every other lane of two registers is one instruction for every width.
    pub(crate) fn unzips(&self) -> bool {
        self.arch == Arch::Aarch64
    }
}

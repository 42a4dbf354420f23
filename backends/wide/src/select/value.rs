//! Values of any lane count.

use super::Select;
use crate::lir::{GENERAL, Mem, VECTOR, Width};
use regalloc2::VReg;
use smallvec::{SmallVec, smallvec};
use tenon_base::{DType, Scalar};
use tenon_kernel::Type;

/// One register of a value, or what stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    Reg(VReg),
    /// Memory that holds the whole register, or with `broadcast` one element of it. Memory of the kernel stays so only
    /// within one expression: a store may follow.
    Mem(Mem),
    /// Constant bytes: see [`Select::constant`].
    Const(u32),
    /// A constant in a general register, extended from the element's type.
    Imm(i64),
}

/// A value.
///
/// One lane is a scalar: floats in the first lane of a vector register, all else in a general register, narrow
/// integers extended to 32 bits by their signedness, `bool` as 0 or 1, `f16` as its bits. More lanes are
/// `ceil(lanes / n)` vector registers of `n = bytes / lane` lanes each; the last may be part full, its other lanes hold
/// anything. A value of one register is computed in the narrowest that holds it.
///
/// Lanes of `bool` are masks, all zeros or all ones, as wide as what they were compared from.
#[derive(Clone, Debug)]
pub(super) struct Val {
    /// Element type and lanes.
    pub(super) ty: Type,
    /// Bytes of a lane: the element's size, for masks anything.
    pub(super) lane: usize,
    /// Lane 0 first.
    pub(super) rows: Rows,
    /// The scalar that every lane equals, if known.
    pub(super) splat: Option<Row>,
}

pub(super) type Rows = SmallVec<[Row; 4]>;

/// What a variable of the kernel is bound to.
#[derive(Clone, Debug)]
pub(super) struct Binding {
    pub(super) val: Val,
    /// Loops around the definition.
    pub(super) depth: u32,
}

/// Whether a scalar of `elem` is in a vector register.
pub(super) fn in_vector(elem: DType) -> bool {
    matches!(elem, DType::F32 | DType::F64)
}

impl Val {
    /// A scalar.
    pub(super) fn scalar(elem: DType, row: Row) -> Val {
        Val { ty: Type::scalar(elem), lane: elem.size(), rows: smallvec![row], splat: Some(row) }
    }

    /// A vector whose lanes are as wide as the element.
    pub(super) fn vector(ty: Type, rows: Rows) -> Val {
        Val { ty, lane: ty.elem.size(), rows, splat: None }
    }

    /// Whether it is one lane.
    pub(super) fn is_scalar(&self) -> bool {
        self.ty.lanes == 1
    }
}

impl Select<'_> {
    /// Registers of a vector of `lanes` lanes of `lane` bytes.
    pub(super) fn registers(&self, lanes: u16, lane: usize) -> usize {
        (usize::from(lanes) * lane).div_ceil(self.isa.bytes)
    }

    /// Their width.
    pub(super) fn width(&self, lanes: u16, lane: usize) -> Width {
        Width::of((usize::from(lanes) * lane).min(self.isa.bytes))
    }

    /// The width that instructions on `v` have.
    pub(super) fn width_of(&self, v: &Val) -> Width {
        if v.is_scalar() { Width::S } else { self.width(v.ty.lanes, v.lane) }
    }

    /// Bytes of register `r` of a vector that hold lanes.
    pub(super) fn filled(&self, lanes: u16, lane: usize, r: usize) -> usize {
        (usize::from(lanes) * lane - r * self.isa.bytes).min(self.isa.bytes)
    }

    /// A fresh vector register.
    pub(super) fn vec_reg(&mut self) -> VReg {
        self.func.reg(VECTOR)
    }

    /// A fresh general register.
    pub(super) fn gen_reg(&mut self) -> VReg {
        self.func.reg(GENERAL)
    }

    /// The constant with these bytes.
    pub(super) fn constant(&mut self, bytes: Vec<u8>) -> Row {
        let next = self.constants.len() as u32;
        let id = *self.constant_ids.entry(bytes.clone()).or_insert(next);
        if id == next {
            self.constants.push(bytes);
        }
        Row::Const(id)
    }

    /// A register of width `w` that repeats `pattern`.
    pub(super) fn repeated(&mut self, pattern: &[u8], w: Width) -> Row {
        self.constant(pattern.iter().copied().cycle().take(w.bytes()).collect())
    }

    /// The integer `v` in every lane of `lane` bytes.
    pub(super) fn lanes_of(&mut self, v: i64, lane: usize, w: Width) -> Row {
        self.repeated(&v.to_le_bytes()[..lane], w)
    }

    /// A scalar constant.
    pub(super) fn scalar_constant(&mut self, s: Scalar) -> Row {
        match s {
            Scalar::Float(DType::F32 | DType::F64, _) => self.constant(s.to_le_bytes().to_vec()),
            Scalar::Int(_, v) => Row::Imm(v as i64),
            s => {
                let mut bytes = [0; 8];
                let le = s.to_le_bytes();
                bytes[..le.len()].copy_from_slice(&le);
                Row::Imm(i64::from_le_bytes(bytes))
            }
        }
    }

    /// The bytes of a scalar that is a constant.
    pub(super) fn constant_bytes(&self, row: Row, elem: DType) -> Option<Vec<u8>> {
        match row {
            Row::Const(id) => Some(self.constants[id as usize].clone()),
            Row::Imm(v) => Some(v.to_le_bytes()[..elem.size()].to_vec()),
            _ => None,
        }
    }
}

//! Scalar integers, in general registers.
//!
//! Narrow integers are kept extended to 32 bits by their signedness, `u32` to 64; the upper half of an `i32` is anything.

use super::Select;
use super::value::Row;
use crate::lir::{Alu, Arg, Cond, Op, Shift};
use regalloc2::{PReg, RegClass, VReg};
use tenon_base::DType;
use tenon_kernel::codegen::divide::signed_magic;
use tenon_kernel::{BinOp, CmpOp, UnOp};

/// The condition code of `op`.
pub(super) fn condition(op: CmpOp, signed: bool) -> Cond {
    match (op, signed) {
        (CmpOp::Eq, _) => Cond::E,
        (CmpOp::Ne, _) => Cond::Ne,
        (CmpOp::Lt, true) => Cond::L,
        (CmpOp::Le, true) => Cond::Le,
        (CmpOp::Gt, true) => Cond::G,
        (CmpOp::Ge, true) => Cond::Ge,
        (CmpOp::Lt, false) => Cond::B,
        (CmpOp::Le, false) => Cond::Be,
        (CmpOp::Gt, false) => Cond::A,
        (CmpOp::Ge, false) => Cond::Ae,
    }
}

/// Bytes of the registers that `elem` is computed in.
fn size_of(elem: DType) -> u8 {
    if elem.size() == 8 { 8 } else { 4 }
}

/// `v` as a register holds it for `elem`.
pub(super) fn canonical(v: i64, elem: DType) -> i64 {
    match elem {
        DType::I8 => i64::from(v as i8),
        DType::I16 => i64::from(v as i16),
        DType::I32 => i64::from(v as i32),
        DType::U8 => i64::from(v as u8),
        DType::U16 | DType::F16 => i64::from(v as u16),
        DType::U32 => i64::from(v as u32),
        _ => v,
    }
}

impl Select<'_> {
    /// `row`, of type `elem`, in a general register.
    pub(super) fn int_reg(&mut self, row: Row, elem: DType) -> VReg {
        self.in_general(row, elem.size(), elem.is_signed_int())
    }

    /// `v` extended after an operation that may have left more bits than `elem` has.
    pub(super) fn extended(&mut self, v: VReg, elem: DType) -> VReg {
        match elem.size() {
            1 | 2 => self.extend(v, elem.size(), elem.is_signed_int(), 4),
            _ => v,
        }
    }

    /// The low `bytes` bytes of `v` extended to `to` bytes.
    pub(super) fn extend(&mut self, v: VReg, bytes: usize, signed: bool, to: u8) -> VReg {
        let d = self.gen_reg();
        self.push(Op::Extend { bytes: bytes as u8, signed, to }, [Arg::Def(d), Arg::Use(v)]);
        d
    }

    /// `op a`
    pub(super) fn unary_int(&mut self, op: UnOp, elem: DType, a: Row) -> Row {
        let size = size_of(elem);
        let a = self.int_reg(a, elem);
        let v = match op {
            UnOp::Not if elem == DType::Bool => return Row::Reg(self.alu_imm(Alu::Xor, 4, a, 1)),
            UnOp::Abs if !elem.is_signed_int() => return Row::Reg(a),
            UnOp::Not => {
                let d = self.gen_reg();
                self.push(Op::Not(size), [Arg::Mod(d, a)]);
                d
            }
            UnOp::Neg => self.negate(a, size),
            UnOp::Abs => {
                let minus = self.negate(a, size);
                self.cmov(Cond::L, size, (a, Arg::Imm(0)), minus, a, size)
            }
            _ => {
                self.unsupported(format!("{op:?} of {elem}"));
                a
            }
        };
        Row::Reg(self.extended(v, elem))
    }

    fn negate(&mut self, a: VReg, size: u8) -> VReg {
        let d = self.gen_reg();
        self.push(Op::Neg(size), [Arg::Mod(d, a)]);
        d
    }

    /// `yes` if the comparison holds, else `no`.
    pub(super) fn cmov(&mut self, cond: Cond, cmp: u8, ab: (VReg, Arg), yes: VReg, no: VReg, size: u8) -> VReg {
        let d = self.gen_reg();
        self.push(Op::CmovCmp { cond, cmp, size }, [Arg::Mod(d, no), Arg::Use(ab.0), ab.1, Arg::Use(yes)]);
        d
    }

    /// `a op b` of one integer type or `bool`.
    pub(super) fn binary_int(&mut self, op: BinOp, elem: DType, a: Row, b: Row) -> Row {
        if let (Row::Imm(x), Row::Imm(y), DType::I64) = (a, b, elem)
            && let Some(v) = fold(op, x, y)
        {
            return Row::Imm(v);
        }
        let size = size_of(elem);
        let signed = elem.is_signed_int();
        let bits = elem.size() as i64 * 8;
        // A constant comes second where the order does not matter.
        let (a, b) = match (op, a) {
            (BinOp::Add | BinOp::Mul | BinOp::And | BinOp::Or | BinOp::Xor, Row::Imm(_)) => (b, a),
            _ => (a, b),
        };
        let v = match op {
            BinOp::Add | BinOp::Sub | BinOp::Mul | BinOp::And | BinOp::Or | BinOp::Xor => {
                let alu = match op {
                    BinOp::Add => Alu::Add,
                    BinOp::Sub => Alu::Sub,
                    BinOp::Mul => Alu::Imul,
                    BinOp::And => Alu::And,
                    BinOp::Or => Alu::Or,
                    _ => Alu::Xor,
                };
                let a = self.int_reg(a, elem);
                match b {
                    Row::Imm(v) => self.alu_imm(alu, size, a, v),
                    b => {
                        let b = self.int_reg(b, elem);
                        self.alu(alu, size, a, b)
                    }
                }
            }
            BinOp::Shl | BinOp::Shr => {
                let shift = match (op, signed) {
                    (BinOp::Shl, _) => Shift::Shl,
                    (_, true) => Shift::Sar,
                    _ => Shift::Shr,
                };
                let a = self.int_reg(a, elem);
                match b {
                    Row::Imm(by) => self.shift_imm(shift, size, a, (by & (bits - 1)) as u32),
                    b => {
                        let b = self.int_reg(b, elem);
                        // Of 32 and 64 bits the machine takes the low bits itself.
                        let b = if bits < 32 { self.alu_imm(Alu::And, 4, b, bits - 1) } else { b };
                        let d = self.gen_reg();
                        self.push(Op::ShiftVar(shift, size), [Arg::Def(d), Arg::Use(a), Arg::Use(b)]);
                        d
                    }
                }
            }
            BinOp::Min | BinOp::Max => {
                let cond = condition(if op == BinOp::Min { CmpOp::Lt } else { CmpOp::Gt }, signed);
                let (a, b) = (self.int_reg(a, elem), self.int_reg(b, elem));
                return Row::Reg(self.cmov(cond, size, (a, Arg::Use(b)), a, b, size));
            }
            BinOp::Div | BinOp::Rem => {
                if let (Row::Imm(d), DType::I64) = (b, elem) {
                    let a = self.int_reg(a, elem);
                    return Row::Reg(self.divide_const(op, a, d));
                }
                let (a, b) = (self.int_reg(a, elem), self.int_reg(b, elem));
                self.divide(op, elem, a, b)
            }
        };
        Row::Reg(self.extended(v, elem))
    }

    /// Division without traps: `x / 0 = 0`, `MIN / -1 = MIN`, `x % 0 = 0`.
    fn divide(&mut self, op: BinOp, elem: DType, a: VReg, b: VReg) -> VReg {
        let size = size_of(elem);
        let signed = elem.is_signed_int();
        let one = self.imm(1);
        let mut safe = self.cmov(Cond::E, size, (b, Arg::Imm(0)), one, b, size);
        if signed {
            safe = self.cmov(Cond::E, size, (b, Arg::Imm(-1)), one, safe, size);
        }
        let (q, r) = self.div(signed, size, a, safe);
        if op == BinOp::Rem {
            return r; // x % 1 = 0
        }
        let mut q = q;
        if signed {
            let minus = self.negate(a, size);
            q = self.cmov(Cond::E, size, (b, Arg::Imm(-1)), minus, q, size);
        }
        let zero = self.imm(0);
        self.cmov(Cond::E, size, (b, Arg::Imm(0)), zero, q, size)
    }

    /// Quotient and remainder.
    fn div(&mut self, signed: bool, size: u8, a: VReg, b: VReg) -> (VReg, VReg) {
        let (q, r) = (self.gen_reg(), self.gen_reg());
        let (rax, rdx) = (PReg::new(0, RegClass::Int), PReg::new(2, RegClass::Int));
        self.push(
            Op::Div { signed, size },
            [Arg::UseIn(a, rax), Arg::UseLate(b), Arg::DefIn(q, rax), Arg::DefIn(r, rdx)],
        );
        (q, r)
    }

    /// Division of an `i64` by a constant: indices are full of it, and the divider takes tens of cycles.
    fn divide_const(&mut self, op: BinOp, a: VReg, d: i64) -> VReg {
        let q = match d {
            0 => return self.imm(0),
            1 => a,
            -1 => self.negate(a, 8),
            _ => self.quotient(a, d),
        };
        if op == BinOp::Div {
            return q;
        }
        let whole = self.alu_imm(Alu::Imul, 8, q, d);
        self.alu(Alu::Sub, 8, a, whole)
    }

    /// `a / d` for `|d| >= 2`.
    fn quotient(&mut self, a: VReg, d: i64) -> VReg {
        let abs = d.unsigned_abs();
        let q = if abs.is_power_of_two() {
            // Rounds towards 0: a negative dividend gets `|d| - 1` first.
            let k = abs.trailing_zeros();
            let sign = self.shift_imm(Shift::Sar, 8, a, 63);
            let bias = self.shift_imm(Shift::Shr, 8, sign, 64 - k);
            let sum = self.alu(Alu::Add, 8, a, bias);
            self.shift_imm(Shift::Sar, 8, sum, k)
        } else {
            let (multiplier, shift) = signed_magic(abs);
            let m = self.imm(multiplier);
            let (high, low) = (self.gen_reg(), self.gen_reg());
            let (rax, rdx) = (PReg::new(0, RegClass::Int), PReg::new(2, RegClass::Int));
            self.push(Op::MulHigh, [Arg::UseIn(m, rax), Arg::Use(a), Arg::DefIn(high, rdx), Arg::DefIn(low, rax)]);
            let high = if multiplier < 0 { self.alu(Alu::Add, 8, high, a) } else { high };
            let q = self.shift_imm(Shift::Sar, 8, high, shift);
            let sign = self.shift_imm(Shift::Shr, 8, a, 63);
            self.alu(Alu::Add, 8, q, sign)
        };
        if d < 0 { self.negate(q, 8) } else { q }
    }

    /// `a op b` as 0 or 1.
    pub(super) fn compare_int(&mut self, op: CmpOp, elem: DType, a: Row, b: Row) -> Row {
        let size = size_of(elem);
        let signed = elem.is_signed_int();
        let a = self.int_reg(a, elem);
        let b = self.compared(b, size, elem.size(), signed);
        let d = self.gen_reg();
        self.push(Op::SetCmp(condition(op, signed), size), [Arg::Def(d), Arg::Use(a), b]);
        Row::Reg(d)
    }

    /// Integer (or `bool`) to integer, wrapping.
    pub(super) fn resize_int(&mut self, row: Row, from: DType, to: DType) -> Row {
        if let Row::Imm(v) = row {
            return Row::Imm(canonical(v, to));
        }
        let v = self.int_reg(row, from);
        Row::Reg(match (from.size(), to.size()) {
            // From the low 32 bits, which are right for every narrower type.
            (f, 8) if f < 8 => {
                let signed = from.is_signed_int();
                if from == DType::I32 || signed { self.extend(v, 4, true, 8) } else { v }
            }
            (_, 4) if to == DType::U32 => self.extend(v, 4, false, 4),
            (_, 1 | 2) => self.extend(v, to.size(), to.is_signed_int(), 4),
            _ => v,
        })
    }
}

/// Arithmetic of `i64` constants.
fn fold(op: BinOp, x: i64, y: i64) -> Option<i64> {
    Some(match op {
        BinOp::Add => x.wrapping_add(y),
        BinOp::Sub => x.wrapping_sub(y),
        BinOp::Mul => x.wrapping_mul(y),
        BinOp::Min => x.min(y),
        BinOp::Max => x.max(y),
        BinOp::Div if y == 0 => 0,
        BinOp::Rem if y == 0 => 0,
        BinOp::Div => x.wrapping_div(y),
        BinOp::Rem => x.wrapping_rem(y),
        _ => return None,
    })
}

//! Operations on one scalar. The shared ones also take vector registers where [`crate::capability`] says so.

use super::Lower;
use super::value::scalar_type;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, Type as Clif, Value, types};
use tenon_base::DType;
use tenon_kernel::codegen::divide::signed_magic;
use tenon_kernel::{BinOp, CmpOp, UnOp};

/// The integer condition of `op` on `elem`.
pub(super) fn int_condition(op: CmpOp, elem: DType) -> IntCC {
    let signed = elem.is_signed_int();
    match op {
        CmpOp::Eq => IntCC::Equal,
        CmpOp::Ne => IntCC::NotEqual,
        CmpOp::Lt if signed => IntCC::SignedLessThan,
        CmpOp::Le if signed => IntCC::SignedLessThanOrEqual,
        CmpOp::Gt if signed => IntCC::SignedGreaterThan,
        CmpOp::Ge if signed => IntCC::SignedGreaterThanOrEqual,
        CmpOp::Lt => IntCC::UnsignedLessThan,
        CmpOp::Le => IntCC::UnsignedLessThanOrEqual,
        CmpOp::Gt => IntCC::UnsignedGreaterThan,
        CmpOp::Ge => IntCC::UnsignedGreaterThanOrEqual,
    }
}

/// The float condition of `op`; with NaN only `Ne` holds.
pub(super) fn float_condition(op: CmpOp) -> FloatCC {
    match op {
        CmpOp::Eq => FloatCC::Equal,
        CmpOp::Ne => FloatCC::NotEqual,
        CmpOp::Lt => FloatCC::LessThan,
        CmpOp::Le => FloatCC::LessThanOrEqual,
        CmpOp::Gt => FloatCC::GreaterThan,
        CmpOp::Ge => FloatCC::GreaterThanOrEqual,
    }
}

impl Lower<'_> {
    /// `op v`, in a scalar or a vector register whose machine has it.
    pub(super) fn unary_reg(&mut self, op: UnOp, elem: DType, v: Value) -> Value {
        let float = elem.is_float();
        match op {
            UnOp::Neg if float => self.ins().fneg(v),
            UnOp::Neg => self.ins().ineg(v),
            UnOp::Abs if float => self.ins().fabs(v),
            UnOp::Abs if elem.is_signed_int() => self.ins().iabs(v),
            UnOp::Abs => v,
            UnOp::Sqrt => self.ins().sqrt(v),
            UnOp::Ceil => self.ins().ceil(v),
            UnOp::Floor => self.ins().floor(v),
            UnOp::Trunc => self.ins().trunc(v),
            UnOp::Nearest => self.ins().nearest(v),
            UnOp::Not if elem == DType::Bool && self.type_of(v) == types::I8 => {
                let one = self.iconst(types::I8, 1);
                self.ins().bxor(v, one)
            }
            UnOp::Not => self.ins().bnot(v),
        }
    }

    /// `a op b`, in scalars or in vector registers whose machine has it; not division, shifts or the minimum and
    /// maximum of floats.
    pub(super) fn binary_reg(&mut self, op: BinOp, elem: DType, a: Value, b: Value) -> Value {
        let signed = elem.is_signed_int();
        match op {
            BinOp::Add if elem.is_float() => self.ins().fadd(a, b),
            BinOp::Sub if elem.is_float() => self.ins().fsub(a, b),
            BinOp::Mul if elem.is_float() => self.ins().fmul(a, b),
            BinOp::Div if elem.is_float() => self.ins().fdiv(a, b),
            BinOp::Add => self.ins().iadd(a, b),
            BinOp::Sub => self.ins().isub(a, b),
            BinOp::Mul => self.ins().imul(a, b),
            BinOp::Min if signed => self.ins().smin(a, b),
            BinOp::Max if signed => self.ins().smax(a, b),
            BinOp::Min => self.ins().umin(a, b),
            BinOp::Max => self.ins().umax(a, b),
            BinOp::And => self.ins().band(a, b),
            BinOp::Or => self.ins().bor(a, b),
            BinOp::Xor => self.ins().bxor(a, b),
            BinOp::Shl => self.ins().ishl(a, b),
            BinOp::Shr if signed => self.ins().sshr(a, b),
            BinOp::Shr => self.ins().ushr(a, b),
            BinOp::Div | BinOp::Rem => unreachable!("division is not one instruction"),
        }
    }

    /// `a op b` in scalars.
    pub(super) fn binary_scalar(&mut self, op: BinOp, elem: DType, a: Value, b: Value) -> Value {
        match op {
            BinOp::Min | BinOp::Max if elem.is_float() => {
                let (x, y) = if op == BinOp::Min { (a, b) } else { (b, a) };
                let c = self.ins().fcmp(FloatCC::LessThan, x, y);
                self.ins().select(c, a, b)
            }
            BinOp::Div | BinOp::Rem if !elem.is_float() => self.divide(op, elem, a, b),
            _ => self.binary_reg(op, elem, a, b),
        }
    }

    /// Integer division without traps: `x / 0 = 0`, `MIN / -1 = MIN`, `x % 0 = 0`.
    fn divide(&mut self, op: BinOp, elem: DType, a: Value, b: Value) -> Value {
        let ty = scalar_type(elem);
        let one = self.iconst(ty, 1);
        let zero = self.iconst(ty, 0);
        let by_zero = self.ins().icmp(IntCC::Equal, b, zero);
        if !elem.is_signed_int() {
            let safe = self.ins().select(by_zero, one, b);
            if op == BinOp::Rem {
                // x % 1 = 0
                return self.ins().urem(a, safe);
            }
            let q = self.ins().udiv(a, safe);
            return self.ins().select(by_zero, zero, q);
        }
        let minus = self.iconst(ty, -1);
        let by_minus = self.ins().icmp(IntCC::Equal, b, minus);
        let special = self.ins().bor(by_zero, by_minus);
        let safe = self.ins().select(special, one, b);
        if op == BinOp::Rem {
            return self.ins().srem(a, safe);
        }
        let q = self.ins().sdiv(a, safe);
        let negated = self.ins().ineg(a);
        let q = self.ins().select(by_minus, negated, q);
        self.ins().select(by_zero, zero, q)
    }

    /// Division of an `i64` by a constant: indices are full of it, and the divider takes tens of cycles.
    pub(super) fn divide_const(&mut self, op: BinOp, a: Value, d: i64) -> Value {
        let q = match d {
            0 => return self.iconst(types::I64, 0),
            1 => a,
            -1 => self.ins().ineg(a),
            _ => self.quotient(a, d),
        };
        if op == BinOp::Div {
            return q;
        }
        let d = self.iconst(types::I64, d);
        let whole = self.ins().imul(q, d);
        self.ins().isub(a, whole)
    }

    /// `a / d` for `|d| >= 2`.
    fn quotient(&mut self, a: Value, d: i64) -> Value {
        let abs = d.unsigned_abs();
        let q = if abs.is_power_of_two() {
            // Rounds towards 0: a negative dividend gets `|d| - 1` first.
            let k = abs.trailing_zeros();
            let sign = self.shift(BinOp::Shr, true, a, 63);
            let bias = self.shift(BinOp::Shr, false, sign, 64 - k);
            let sum = self.ins().iadd(a, bias);
            self.shift(BinOp::Shr, true, sum, k)
        } else {
            let (multiplier, shift) = signed_magic(abs);
            let m = self.iconst(types::I64, multiplier);
            let high = self.ins().smulhi(a, m);
            let high = if multiplier < 0 { self.ins().iadd(high, a) } else { high };
            let q = self.shift(BinOp::Shr, true, high, shift);
            let sign = self.shift(BinOp::Shr, false, a, 63);
            self.ins().iadd(q, sign)
        };
        if d < 0 { self.ins().ineg(q) } else { q }
    }

    /// A shift of a scalar by a constant.
    pub(super) fn shift(&mut self, op: BinOp, signed: bool, v: Value, by: u32) -> Value {
        if by == 0 {
            return v;
        }
        let by = self.iconst(types::I32, i64::from(by));
        match op {
            BinOp::Shl => self.ins().ishl(v, by),
            _ if signed => self.ins().sshr(v, by),
            _ => self.ins().ushr(v, by),
        }
    }

    /// `a op b` as a scalar `bool`.
    pub(super) fn compare_scalar(&mut self, op: CmpOp, elem: DType, a: Value, b: Value) -> Value {
        if elem.is_float() {
            self.ins().fcmp(float_condition(op), a, b)
        } else {
            self.ins().icmp(int_condition(op, elem), a, b)
        }
    }

    /// `v != 0` of an integer: a scalar `bool` or a mask.
    pub(super) fn is_nonzero(&mut self, v: Value) -> Value {
        let ty: Clif = self.type_of(v);
        let zero = self.int_like(ty, 0);
        self.ins().icmp(IntCC::NotEqual, v, zero)
    }
}

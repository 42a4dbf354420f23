//! Rounding to an integral value where the machine has no instruction for it (x86-64 before SSE4.1).

use super::Lower;
use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::{InstBuilder, Type as Clif, Value, types};
use tenon_kernel::UnOp;

impl Lower<'_> {
    /// `op v` for a scalar or an `f32x4`: exact for every value, NaN, infinities and the sign of zero included.
    ///
    /// Values of 2^23 (2^52 for `f64`) and above are integral already. Below, conversion to an integer and back
    /// truncates, and adding and subtracting that power rounds to nearest even.
    pub(super) fn round_emulated(&mut self, op: UnOp, v: Value) -> Value {
        let ty = self.type_of(v);
        let double = ty.lane_type() == types::F64;
        let limit = self.float_like(ty, if double { 4_503_599_627_370_496.0 } else { 8_388_608.0 });
        let magnitude = self.ins().fabs(v);
        let small = self.ins().fcmp(FloatCC::LessThan, magnitude, limit);
        let whole = if op == UnOp::Nearest {
            let up = self.ins().fadd(magnitude, limit);
            self.ins().fsub(up, limit)
        } else {
            let int = self.int_lanes(ty);
            let i = self.ins().fcvt_to_sint_sat(int, magnitude);
            self.ins().fcvt_from_sint(ty, i)
        };
        let signed = self.copy_sign(whole, v);
        let one = self.float_like(ty, 1.0);
        let rounded = match op {
            UnOp::Floor => {
                let down = self.ins().fsub(signed, one);
                let above = self.ins().fcmp(FloatCC::LessThan, v, signed);
                self.pick_lanes(above, down, signed)
            }
            UnOp::Ceil => {
                let up = self.ins().fadd(signed, one);
                let below = self.ins().fcmp(FloatCC::LessThan, signed, v);
                // -0.5 rounds up to -0: the sum never crosses zero, and exact zeros keep their sign.
                self.pick_lanes(below, up, signed)
            }
            _ => signed,
        };
        self.pick_lanes(small, rounded, v)
    }

    /// Integers as wide as the floats of `ty`.
    pub(super) fn int_lanes(&self, ty: Clif) -> Clif {
        let lane = if ty.lane_type() == types::F64 { types::I64 } else { types::I32 };
        if ty.is_vector() { self.vector_of(lane) } else { lane }
    }

    /// The magnitude of `v`, which is not negative, with the sign of `sign`.
    fn copy_sign(&mut self, v: Value, sign: Value) -> Value {
        let ty = self.type_of(v);
        let int = self.int_lanes(ty);
        let bit = self.int_like(int, if int.lane_type() == types::I64 { i64::MIN } else { 1 << 31 });
        let (v, sign) = (self.bits_as(int, v), self.bits_as(int, sign));
        let sign = self.ins().band(sign, bit);
        let v = self.ins().bor(v, sign);
        self.bits_as(ty, v)
    }

    /// `mask ? a : b` for a comparison's result, in scalars or lanes.
    pub(super) fn pick_lanes(&mut self, mask: Value, a: Value, b: Value) -> Value {
        let ty = self.type_of(a);
        if ty.is_vector() {
            let mask = self.bits_as(ty, mask);
            self.ins().bitselect(mask, a, b)
        } else {
            self.ins().select(mask, a, b)
        }
    }
}

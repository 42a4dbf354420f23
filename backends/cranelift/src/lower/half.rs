//! Conversion between half and single precision by integer arithmetic: Cranelift has no such instruction.
//!
//! Both directions work on one scalar (`i32` bits) or four lanes, and give the IEEE result to the bit: ties to even,
//! subnormals, infinities, and NaNs made quiet with their payload's high bits kept.

use super::Lower;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, Type as Clif, Value, types};
use tenon_kernel::BinOp;

impl Lower<'_> {
    /// Half precision bits, zero-extended to 32 bits (a scalar or `i32x4`), as `f32`.
    pub(super) fn half_to_single(&mut self, h: Value) -> Value {
        let int = self.type_of(h);
        let float = self.single_like(int);
        let magnitude = self.int_like(int, 0x7fff);
        let m = self.ins().band(h, magnitude);
        let sign = self.ins().bxor(h, m);
        let sign = self.shift_lanes(BinOp::Shl, sign, 16);
        // The half's exponent and fraction in the single's fields, the exponent too small by 112.
        let fields = self.shift_lanes(BinOp::Shl, m, 13);
        let bias = self.int_like(int, 112 << 23);
        let normal = self.ins().iadd(fields, bias);
        // Infinity and NaN: the largest exponent, NaNs quiet.
        let inf = self.int_like(int, 0x7c00);
        let special = self.ins().icmp(IntCC::SignedGreaterThanOrEqual, m, inf);
        let top = self.int_like(int, 0x7f80_0000);
        let largest = self.ins().bor(fields, top);
        let is_nan = self.ins().icmp(IntCC::SignedGreaterThan, m, inf);
        let quiet_bit = self.int_like(int, 0x0040_0000);
        let quiet = self.ins().bor(largest, quiet_bit);
        let largest = self.pick_lanes(is_nan, quiet, largest);
        let r = self.pick_lanes(special, largest, normal);
        // Subnormals: as a normal number with exponent -14, minus that number's leading one.
        let smallest = self.int_like(int, 0x0400);
        let subnormal = self.ins().icmp(IntCC::SignedLessThan, m, smallest);
        let one = self.int_like(int, 113 << 23);
        let shifted = self.ins().iadd(fields, one);
        let (shifted, one) = (self.bits_as(float, shifted), self.bits_as(float, one));
        let value = self.ins().fsub(shifted, one);
        let value = self.bits_as(int, value);
        let r = self.pick_lanes(subnormal, value, r);
        let r = self.ins().bor(r, sign);
        self.bits_as(float, r)
    }

    /// `f32` (a scalar or `f32x4`) as half precision bits in the low half of 32-bit integers, the high half 0.
    pub(super) fn single_to_half(&mut self, v: Value) -> Value {
        let float = self.type_of(v);
        let int = self.int_lanes(float);
        let bits = self.bits_as(int, v);
        let magnitude = self.int_like(int, 0x7fff_ffff);
        let m = self.ins().band(bits, magnitude);
        let sign = self.ins().bxor(bits, m);
        let sign = self.shift_lanes(BinOp::Shr, sign, 16);
        // Normal: rebias the exponent and round at bit 13, ties to even. A carry runs into the exponent, as it should.
        let odd = self.shift_lanes(BinOp::Shr, m, 13);
        let one = self.int_like(int, 1);
        let odd = self.ins().band(odd, one);
        let rebias = self.int_like(int, i64::from((15u32.wrapping_sub(127) << 23).wrapping_add(0xfff)));
        let sum = self.ins().iadd(m, rebias);
        let sum = self.ins().iadd(sum, odd);
        let normal = self.shift_lanes(BinOp::Shr, sum, 13);
        // Subnormal: 0.5 has the half's smallest subnormal as its last bit, so the addition rounds there.
        let half = self.float_like(float, 0.5);
        let magnitude = self.bits_as(float, m);
        let rounded = self.ins().fadd(magnitude, half);
        let rounded = self.bits_as(int, rounded);
        let half_bits = self.int_like(int, 0x3f00_0000);
        let subnormal = self.ins().isub(rounded, half_bits);
        let least_normal = self.int_like(int, 0x3880_0000);
        let is_subnormal = self.ins().icmp(IntCC::SignedLessThan, m, least_normal);
        let r = self.pick_lanes(is_subnormal, subnormal, normal);
        // From 65520 on, infinity.
        let overflow = self.int_like(int, 0x477f_f000);
        let inf = self.int_like(int, 0x7c00);
        let is_over = self.ins().icmp(IntCC::SignedGreaterThanOrEqual, m, overflow);
        let r = self.pick_lanes(is_over, inf, r);
        // NaN: quiet, with what fits of its payload.
        let payload = self.shift_lanes(BinOp::Shr, m, 13);
        let low = self.int_like(int, 0x03ff);
        let payload = self.ins().band(payload, low);
        let quiet = self.int_like(int, 0x7e00);
        let nan = self.ins().bor(payload, quiet);
        let is_nan = self.ins().fcmp(FloatCC::Unordered, v, v);
        let r = self.pick_lanes(is_nan, nan, r);
        self.ins().bor(r, sign)
    }

    /// A logical shift of a scalar or of every lane by a constant.
    pub(super) fn shift_lanes(&mut self, op: BinOp, v: Value, by: u32) -> Value {
        self.shift(op, false, v, by)
    }

    fn single_like(&self, int: Clif) -> Clif {
        if int.is_vector() { types::F32X4 } else { types::F32 }
    }
}

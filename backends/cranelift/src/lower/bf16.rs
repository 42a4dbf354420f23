//! Factors of `bf16`, as [`tenon_kernel::bf16`] defines them.
//!
//! The schedule asks for them where a machine has the instructions, which CLIF has not; what is here is for the rare kernel that the
//! generator with those instructions refuses. So it is short and not fast: lane by lane, fused multiply-adds in `f64`, on any machine.

use super::Lower;
use super::value::Val;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};
use tenon_base::DType;
use tenon_kernel::bf16::TINY;

impl Lower<'_> {
    /// Lane `i` is `c[i]` plus the products of the pairs `i`, the upper one first.
    pub(super) fn dot_bf16(&mut self, a: &Val, b: &Val, c: &Val) -> Val {
        let (a, b, mut sums) = (self.unpack(a), self.unpack(b), self.unpack(c));
        for (i, sum) in sums.iter_mut().enumerate() {
            for j in [2 * i + 1, 2 * i] {
                *sum = self.multiply_add_bf16(a[j], b[j], *sum);
            }
        }
        if c.ty.lanes == 1 { self.scalar(DType::F32, sums[0]) } else { self.pack(DType::F32, &sums) }
    }

    /// `a · b + c` of the bits `a` and `b`, rounded once.
    fn multiply_add_bf16(&mut self, a: Value, b: Value, c: Value) -> Value {
        let [a, b] = [a, b].map(|v| {
            let wide = self.ins().uextend(types::I32, v);
            self.ins().ishl_imm_u(wide, 16)
        });
        let c = self.ins().bitcast(types::I32, MemFlagsData::new(), c);
        let [a, b, c] = [a, b, c].map(|v| self.normal_f64(v));
        let product = self.ins().fmul(a, b);
        let sum = self.ins().fadd(product, c);
        let result = self.ins().fdemote(types::F32, sum);
        let tiny = self.ins().f64const(TINY);
        let size = self.ins().fabs(sum);
        let flushed = self.ins().fcmp(FloatCC::LessThan, size, tiny);
        let zero = self.ins().f32const(0.0);
        let zero = self.ins().fcopysign(zero, result);
        self.ins().select(flushed, zero, result)
    }

    /// The `f32` of these bits in `f64`, but zero where it is subnormal.
    fn normal_f64(&mut self, bits: Value) -> Value {
        let v = self.without_subnormal(bits);
        let v = self.ins().bitcast(types::F32, MemFlagsData::new(), v);
        self.ins().fpromote(types::F64, v)
    }

    /// The bits of an `f32`, but of zero where it is subnormal.
    fn without_subnormal(&mut self, bits: Value) -> Value {
        let exponent = self.ins().band_imm_u(bits, 0x7f80_0000);
        let sign = self.ins().band_imm_u(bits, 0x8000_0000);
        let small = self.ins().icmp_imm_u(IntCC::Equal, exponent, 0);
        self.ins().select(small, sign, bits)
    }

    /// The bits of the `f32` lanes of `x` as `bf16`.
    pub(super) fn rounded_bf16(&mut self, x: &Val) -> Val {
        let lanes: Vec<Value> = self.unpack(x).into_iter().map(|v| self.round_bf16(v)).collect();
        if x.ty.lanes == 1 { self.scalar(DType::U16, lanes[0]) } else { self.pack(DType::U16, &lanes) }
    }

    fn round_bf16(&mut self, x: Value) -> Value {
        let nan = self.ins().fcmp(FloatCC::Unordered, x, x);
        let bits = self.ins().bitcast(types::I32, MemFlagsData::new(), x);
        let bits = self.without_subnormal(bits);
        let half = self.ins().ushr_imm_u(bits, 16);
        let odd = self.ins().band_imm_u(half, 1);
        let rounded = self.ins().iadd(bits, odd);
        let rounded = self.ins().iadd_imm_u(rounded, 0x7fff);
        let rounded = self.ins().ushr_imm_u(rounded, 16);
        let quiet = self.ins().bor_imm_u(half, 0x40);
        let v = self.ins().select(nan, quiet, rounded);
        self.ins().ireduce(types::I16, v)
    }
}

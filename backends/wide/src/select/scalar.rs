//! Scalar floats, in the first lane of vector registers, and conversions of scalars.

use super::Select;
use super::compare::predicate;
use super::integer::canonical;
use super::value::{Row, in_vector};
use crate::lir::{Alu, Arg, Cond, Op, Shift, Width};
use crate::table::V;
use regalloc2::VReg;
use tenon_base::DType;
use tenon_kernel::CmpOp;

/// Limits of conversions, as `f64`: 2^63 and 2^64.
const TWO_63: f64 = 9_223_372_036_854_775_808.0;
const TWO_64: f64 = 18_446_744_073_709_551_616.0;

impl Select<'_> {
    /// The float scalar `row` in a register.
    pub(super) fn float_reg(&mut self, row: Row, elem: DType) -> VReg {
        self.in_reg(row, Width::S, elem.size())
    }

    /// `op(a, b)` of float scalars in the first lane.
    pub(super) fn s2(&mut self, op: V, elem: DType, a: Row, b: Row) -> Row {
        self.v2(op, Width::S, elem.size(), a, b)
    }

    /// `a op b` as a mask in the first lane; not on AVX-512.
    pub(super) fn scalar_mask(&mut self, op: CmpOp, elem: DType, a: Row, b: Row) -> VReg {
        let a = self.float_reg(a, elem);
        let b = self.operand(b);
        let cmp = if elem == DType::F64 { V::Cmppd } else { V::Cmpps };
        self.v(cmp, Width::S, &[Arg::Use(a), b, Arg::Imm(predicate(op))])
    }

    /// `a op b` of float scalars as 0 or 1.
    pub(super) fn compare_float(&mut self, op: CmpOp, elem: DType, a: Row, b: Row) -> Row {
        let d = self.gen_reg();
        if self.isa.avx512 {
            let a = self.float_reg(a, elem);
            let b = self.operand(b);
            let cmp = if elem == DType::F64 { V::CmppdK } else { V::CmppsK };
            self.push(Op::CmpScalar(cmp), [Arg::Def(d), Arg::Use(a), b, Arg::Imm(predicate(op))]);
            return Row::Reg(d);
        }
        let mask = self.scalar_mask(op, elem, a, b);
        self.push(Op::V(V::MovdTo, Width::X), [Arg::Def(d), Arg::Use(mask)]);
        Row::Reg(self.alu_imm(Alu::And, 4, d, 1))
    }

    /// `mask ? a : b` of scalars; `mask` is 0 or 1.
    pub(super) fn select_scalar(&mut self, mask: Row, elem: DType, a: Row, b: Row) -> Row {
        if let Row::Imm(m) = mask {
            return if m != 0 { a } else { b };
        }
        let m = self.int_reg(mask, DType::Bool);
        if !in_vector(elem) {
            let size = if elem.size() == 8 { 8 } else { 4 };
            let (a, b) = (self.int_reg(a, elem), self.int_reg(b, elem));
            return Row::Reg(self.cmov(Cond::Ne, 4, (m, Arg::Imm(0)), a, b, size));
        }
        let size = elem.size() as u8;
        let d = self.gen_reg();
        self.push(Op::Neg(8), [Arg::Mod(d, m)]);
        let mask = self.v(if size == 8 { V::MovqFrom } else { V::MovdFrom }, Width::X, &[Arg::Use(d)]);
        let (a, b) = (self.float_reg(a, elem), self.float_reg(b, elem));
        self.blend(mask, Row::Reg(a), Row::Reg(b), elem.size(), Width::X)
    }

    /// The scalar float as the bits in a general register.
    pub(super) fn float_bits(&mut self, row: Row, elem: DType) -> Row {
        match row {
            Row::Const(_) => {
                let bytes = self.constant_bytes(row, elem).unwrap_or_default();
                let mut le = [0; 8];
                le[..bytes.len()].copy_from_slice(&bytes);
                Row::Imm(i64::from_le_bytes(le))
            }
            Row::Mem(_) => row,
            row => {
                let v = self.float_reg(row, elem);
                let d = self.gen_reg();
                let op = if elem.size() == 8 { V::MovqTo } else { V::MovdTo };
                self.push(Op::V(op, Width::X), [Arg::Def(d), Arg::Use(v)]);
                Row::Reg(d)
            }
        }
    }

    /// The bits in a general register as a scalar float.
    pub(super) fn float_of_bits(&mut self, row: Row, elem: DType) -> Row {
        match row {
            Row::Imm(v) => self.constant(v.to_le_bytes()[..elem.size()].to_vec()),
            Row::Mem(_) => row,
            row => {
                let g = self.in_general(row, elem.size(), false);
                let op = if elem.size() == 8 { V::MovqFrom } else { V::MovdFrom };
                Row::Reg(self.v(op, Width::X, &[Arg::Use(g)]))
            }
        }
    }

    /// The scalar `row` of type `from` as `to`.
    pub(super) fn cast_scalar(&mut self, row: Row, from: DType, to: DType) -> Row {
        if from == to {
            return row;
        }
        match (from, to) {
            (DType::F32 | DType::F64, DType::Bool) => {
                let zero = self.constant(vec![0; from.size()]);
                self.compare_float(CmpOp::Ne, from, row, zero)
            }
            (DType::F16, DType::Bool) => {
                let v = self.int_reg(row, from);
                let v = self.alu_imm(Alu::And, 4, v, 0x7fff);
                self.compare_int(CmpOp::Ne, DType::U16, Row::Reg(v), Row::Imm(0))
            }
            (_, DType::Bool) => match row {
                Row::Imm(v) => Row::Imm(i64::from(v != 0)),
                row => self.compare_int(CmpOp::Ne, from, row, Row::Imm(0)),
            },
            (DType::F16, DType::F32) => {
                let bits = self.int_reg(row, from);
                let x = self.v(V::MovdFrom, Width::X, &[Arg::Use(bits)]);
                self.half_to_single(Row::Reg(x), Width::X)
            }
            (DType::F16, _) => {
                let single = self.cast_scalar(row, from, DType::F32);
                self.cast_scalar(single, DType::F32, to)
            }
            (DType::F32, DType::F16) => {
                let x = self.float_reg(row, from);
                let h = self.single_to_half(Row::Reg(x), Width::X);
                let h = self.in_reg(h, Width::X, 2);
                let d = self.gen_reg();
                self.push(Op::V(V::MovdTo, Width::X), [Arg::Def(d), Arg::Use(h)]);
                Row::Reg(self.extend(d, 2, false, 4))
            }
            (_, DType::F16) => {
                let single = self.cast_scalar(row, from, DType::F32);
                self.cast_scalar(single, DType::F32, to)
            }
            (DType::F32, DType::F64) => {
                let x = self.float_reg(row, from);
                Row::Reg(self.v(V::Cvtss2sd, Width::X, &[Arg::Use(x), Arg::Use(x)]))
            }
            (DType::F64, DType::F32) => {
                let x = self.float_reg(row, from);
                Row::Reg(self.v(V::Cvtsd2ss, Width::X, &[Arg::Use(x), Arg::Use(x)]))
            }
            _ if from.is_float() => self.float_to_int_scalar(row, from, to),
            _ if to.is_float() => self.int_to_float_scalar(row, from, to),
            _ => self.resize_int(row, from, to),
        }
    }

    fn int_to_float_scalar(&mut self, row: Row, from: DType, to: DType) -> Row {
        if let Row::Imm(v) = row {
            let wide = if from == DType::U64 { i128::from(v as u64) } else { i128::from(canonical(v, from)) };
            let bytes = if to == DType::F64 {
                (wide as f64).to_le_bytes().to_vec()
            } else {
                (wide as f32).to_le_bytes().to_vec()
            };
            return self.constant(bytes);
        }
        let v = self.int_reg(row, from);
        let (narrow, wide) = match to {
            DType::F64 => (V::Cvtsi2sd32, V::Cvtsi2sd64),
            _ => (V::Cvtsi2ss32, V::Cvtsi2ss64),
        };
        // The first operand gives the other lanes; a fresh zero depends on nothing.
        let zero = self.vec_reg();
        self.push(Op::Zero, [Arg::Def(zero)]);
        match from {
            DType::U64 => {
                // Halved (the lost bit kept for rounding), converted and doubled where the top bit is set.
                let half = self.shift_imm(Shift::Shr, 8, v, 1);
                let low = self.alu_imm(Alu::And, 8, v, 1);
                let half = self.alu(Alu::Or, 8, half, low);
                let halved = self.v(wide, Width::X, &[Arg::Use(zero), Arg::Use(half)]);
                let add = if to == DType::F64 { V::Addpd } else { V::Addps };
                let doubled = self.s2(add, to, Row::Reg(halved), Row::Reg(halved));
                let plain = self.v(wide, Width::X, &[Arg::Use(zero), Arg::Use(v)]);
                let big = self.shift_imm(Shift::Shr, 8, v, 63);
                self.select_scalar(Row::Reg(big), to, doubled, Row::Reg(plain))
            }
            DType::I64 | DType::U32 => Row::Reg(self.v(wide, Width::X, &[Arg::Use(zero), Arg::Use(v)])),
            _ => Row::Reg(self.v(narrow, Width::X, &[Arg::Use(zero), Arg::Use(v)])),
        }
    }

    /// Truncates and saturates; NaN gives 0.
    fn float_to_int_scalar(&mut self, row: Row, from: DType, to: DType) -> Row {
        let x = self.cast_scalar(row, from, DType::F64);
        let x = self.float_reg(x, DType::F64);
        let x = Row::Reg(x);
        let d = DType::F64;
        let f = |s: &mut Self, v: f64| s.constant(v.to_le_bytes().to_vec());
        let truncate = |s: &mut Self, x: Row| {
            let x = s.operand(x);
            let g = s.gen_reg();
            s.push(Op::V(V::Cvttsd2si64, Width::X), [Arg::Def(g), x]);
            g
        };
        let is_number = self.compare_float(CmpOp::Eq, d, x, x);
        let is_number = self.int_reg(is_number, DType::Bool);
        let zero = self.imm(0);
        let v = if to.size() < 8 {
            // Every limit is a double.
            let (lo, hi) = to.int_range().unwrap_or((0, 0));
            let (lo, hi) = (f(self, lo as f64), f(self, hi as f64));
            let y = self.s2(V::Maxpd, d, x, lo);
            let y = self.s2(V::Minpd, d, y, hi);
            truncate(self, y)
        } else if to == DType::I64 {
            // Too large gives MIN, which should be MAX; too small gives MIN.
            let v = truncate(self, x);
            let limit = f(self, TWO_63);
            let over = self.compare_float(CmpOp::Ge, d, x, limit);
            let over = self.int_reg(over, DType::Bool);
            let max = self.imm(i64::MAX);
            self.cmov(Cond::Ne, 4, (over, Arg::Imm(0)), max, v, 8)
        } else {
            let small = truncate(self, x);
            let limit = f(self, TWO_63);
            let less = self.s2(V::Subpd, d, x, limit);
            let large = truncate(self, less);
            let sign = self.imm(i64::MIN);
            let large = self.alu(Alu::Xor, 8, large, sign);
            let limit = f(self, TWO_63);
            let is_large = self.compare_float(CmpOp::Ge, d, x, limit);
            let is_large = self.int_reg(is_large, DType::Bool);
            let v = self.cmov(Cond::Ne, 4, (is_large, Arg::Imm(0)), large, small, 8);
            let limit = f(self, TWO_64);
            let over = self.compare_float(CmpOp::Ge, d, x, limit);
            let over = self.int_reg(over, DType::Bool);
            let max = self.imm(-1);
            let v = self.cmov(Cond::Ne, 4, (over, Arg::Imm(0)), max, v, 8);
            let zero_f = f(self, 0.0);
            let negative = self.compare_float(CmpOp::Lt, d, x, zero_f);
            let negative = self.int_reg(negative, DType::Bool);
            self.cmov(Cond::Ne, 4, (negative, Arg::Imm(0)), zero, v, 8)
        };
        let v = self.cmov(Cond::Ne, 4, (is_number, Arg::Imm(0)), v, zero, 8);
        Row::Reg(if to.size() < 8 { self.extend(v, to.size(), to.is_signed_int(), 4) } else { v })
    }
}

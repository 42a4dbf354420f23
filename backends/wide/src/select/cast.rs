//! Conversions of vectors.

use super::Select;
use super::value::{Row, Rows, Val, in_vector};
use crate::lir::{Arg, Width};
use crate::table::V;
use regalloc2::VReg;
use smallvec::smallvec;
use tenon_base::DType;
use tenon_kernel::{CmpOp, Type};

impl Select<'_> {
    /// The value of `v` as `to`.
    pub(super) fn cast(&mut self, v: &Val, to: DType) -> Val {
        let from = v.ty.elem;
        if from == to {
            return v.clone();
        }
        let ty = Type::vector(to, v.ty.lanes);
        if v.is_scalar() {
            return Val::scalar(to, self.cast_scalar(v.rows[0], from, to));
        }
        if let Some(s) = v.splat {
            let s = self.cast_scalar(s, from, to);
            return self.splat(to, s, ty.lanes, to.size());
        }
        if to == DType::Bool {
            return self.nonzero(v);
        }
        match (from, to) {
            (DType::Bool, _) => self.cast_mask(v, to),
            (DType::F16, DType::F32) => {
                let rows = self.halves_to_singles(v);
                Val::vector(ty, rows)
            }
            (DType::F16, _) => {
                let single = self.cast(v, DType::F32);
                self.cast(&single, to)
            }
            (DType::F32, DType::F16) => {
                let rows = self.singles_to_halves(v);
                Val::vector(ty, rows)
            }
            (_, DType::F16) => {
                let single = self.cast(v, DType::F32);
                self.cast(&single, to)
            }
            (DType::F32, DType::F64) => {
                let rows = self.rows_widened(v, V::Cvtps2pd);
                Val::vector(ty, rows)
            }
            (DType::F64, DType::F32) => {
                let rows = self.rows_narrowed(v, &mut |s, r, w| s.v1(V::Cvtpd2ps, w, r));
                Val::vector(ty, rows)
            }
            _ if from.is_float() => self.float_to_int(v, to),
            _ if to.is_float() => self.int_to_float(v, to),
            _ => {
                let rows = self.resize_rows(&v.rows, ty.lanes, from.size(), to.size(), from.is_signed_int());
                Val::vector(ty, rows)
            }
        }
    }

    /// The same bits as `to`, which has the same size.
    pub(super) fn bitcast(&mut self, v: &Val, to: DType) -> Val {
        let from = v.ty.elem;
        let ty = Type::vector(to, v.ty.lanes);
        let scalar = |s: &mut Self, row: Row| match (in_vector(from), in_vector(to)) {
            (true, false) => s.float_bits(row, from),
            (false, true) => s.float_of_bits(row, to),
            (true, true) => row,
            (false, false) => s.resize_int(row, from, to),
        };
        if v.is_scalar() {
            let row = scalar(self, v.rows[0]);
            return Val::scalar(to, row);
        }
        let splat = match v.splat {
            // Only where it costs nothing.
            Some(s @ (Row::Imm(_) | Row::Const(_))) => Some(scalar(self, s)),
            _ => None,
        };
        Val { ty, lane: to.size(), rows: v.rows.clone(), splat }
    }

    /// Masks to 0 and 1 of `to`.
    fn cast_mask(&mut self, v: &Val, to: DType) -> Val {
        let mask = self.mask_to(v, to.size());
        let w = self.width_of(&mask);
        let one = match to {
            DType::F32 => i64::from(1f32.to_bits()),
            DType::F64 => 1f64.to_bits() as i64,
            DType::F16 => 0x3c00,
            _ => 1,
        };
        let one = self.lanes_of(one, to.size(), w);
        let rows = self.map1(&mask, &mut |s, r| s.v2c(V::Pand, w, to.size(), r, one));
        Val::vector(Type::vector(to, v.ty.lanes), rows)
    }

    /// Lanes of 4 bytes to lanes of 8 (or of 2 to 4) by `op`, which reads half of what it writes.
    fn rows_widened(&mut self, v: &Val, op: V) -> Rows {
        let to = 2 * v.lane;
        let (ws, wd) = (self.width_of(v), self.width(v.ty.lanes, to));
        let step = wd.bytes() / 2;
        let mut out: Rows = smallvec![];
        for j in 0..self.registers(v.ty.lanes, to) {
            let (r, within) = (j * step / self.isa.bytes, j * step % self.isa.bytes);
            let arg = match self.as_memory(v.rows[r]) {
                Some(m) => Arg::Mem(m.offset(within)),
                None => {
                    let reg = self.in_reg(v.rows[r], ws, v.lane);
                    Arg::Use(self.part(reg, ws, within, step))
                }
            };
            out.push(Row::Reg(self.v(op, wd, &[arg])));
        }
        out
    }

    /// Lanes to lanes of half the size by `f`, which gives half a register; two become one.
    pub(super) fn rows_narrowed(&mut self, v: &Val, f: &mut dyn FnMut(&mut Self, Row, Width) -> Row) -> Rows {
        let w = self.width_of(v);
        let to = self.width(v.ty.lanes, v.lane / 2);
        let mut out: Rows = smallvec![];
        for pair in v.rows.chunks(2) {
            let low = f(self, pair[0], w);
            let low = self.in_reg(low, w, 0);
            let Some(high) = pair.get(1) else {
                out.push(Row::Reg(low));
                continue;
            };
            let high = f(self, *high, w);
            let high = self.in_reg(high, w, 0);
            let op = if to == Width::Z { V::Insert256 } else { V::Insert128 };
            out.push(Row::Reg(self.v(op, to, &[Arg::Use(low), Arg::Use(high), Arg::Imm(1)])));
        }
        out
    }

    fn halves_to_singles(&mut self, v: &Val) -> Rows {
        if !self.isa.f16c {
            self.unsupported("half floats without F16C");
            let n = self.registers(v.ty.lanes, 4);
            return smallvec![Row::Imm(0); n];
        }
        self.rows_widened(v, V::Cvtph2ps)
    }

    fn singles_to_halves(&mut self, v: &Val) -> Rows {
        self.rows_narrowed(v, &mut |s, r, w| s.single_to_half(r, w))
    }

    /// Half floats in the low half of a register as single ones.
    pub(super) fn half_to_single(&mut self, row: Row, w: Width) -> Row {
        if !self.isa.f16c {
            self.unsupported("half floats without F16C");
        }
        let x = self.in_reg(row, w, 2);
        Row::Reg(self.v(V::Cvtph2ps, w, &[Arg::Use(x)]))
    }

    /// Single floats as half ones, rounded to nearest even.
    pub(super) fn single_to_half(&mut self, row: Row, w: Width) -> Row {
        if !self.isa.f16c {
            self.unsupported("half floats without F16C");
        }
        self.vri(V::Cvtps2ph, w, row, 0)
    }

    fn int_to_float(&mut self, v: &Val, to: DType) -> Val {
        let ty = Type::vector(to, v.ty.lanes);
        let from = v.ty.elem;
        if from.size() < 4 {
            // Through 32 bits, signed: every value fits.
            let rows = self.resize_rows(&v.rows, ty.lanes, from.size(), 4, from.is_signed_int());
            return self.int_to_float(&Val::vector(Type::vector(DType::I32, ty.lanes), rows), to);
        }
        let w = self.width_of(v);
        match (from, to) {
            (DType::I32, DType::F32) => {
                let rows = self.map1(v, &mut |s, r| s.v1(V::Cvtdq2ps, w, r));
                Val::vector(ty, rows)
            }
            (DType::I32, _) => {
                let rows = self.rows_widened(v, V::Cvtdq2pd);
                Val::vector(ty, rows)
            }
            (DType::U32, DType::F32) => {
                let rows = self.map1(v, &mut |s, r| s.unsigned_to_single(r, w));
                Val::vector(ty, rows)
            }
            (DType::U32, _) => {
                // With the top bit turned it is the signed value 2^31 less.
                let top = self.lanes_of(1 << 31, 4, w);
                let rows = self.map1(v, &mut |s, r| s.v2c(V::Pxor, w, 4, r, top));
                let signed = Val::vector(Type::vector(DType::I32, ty.lanes), rows);
                let rows = self.rows_widened(&signed, V::Cvtdq2pd);
                let wide = Val::vector(ty, rows);
                let w = self.width_of(&wide);
                let offset = self.repeated(&2_147_483_648f64.to_le_bytes(), w);
                let rows = self.map1(&wide, &mut |s, r| s.v2c(V::Addpd, w, 8, r, offset));
                Val::vector(ty, rows)
            }
            (_, DType::F64) if self.isa.avx512 => {
                let op = if from.is_signed_int() { V::Cvtqq2pd } else { V::Cvtuqq2pd };
                let rows = self.map1(v, &mut |s, r| s.v1(op, w, r));
                Val::vector(ty, rows)
            }
            _ => self.cast_lanes(v, to),
        }
    }

    /// `u32` to `f32`, rounded once: the halves are exact, their sum is rounded.
    fn unsigned_to_single(&mut self, row: Row, w: Width) -> Row {
        if self.isa.avx512 {
            return self.v1(V::Cvtudq2ps, w, row);
        }
        let v = Row::Reg(self.in_reg(row, w, 4));
        let low = self.lanes_of(0xffff, 4, w);
        let low = self.v2c(V::Pand, w, 4, v, low);
        let high = self.vri(V::PsrldI, w, v, 16);
        let low = self.v1(V::Cvtdq2ps, w, low);
        let high = self.v1(V::Cvtdq2ps, w, high);
        let scale = self.repeated(&65536f32.to_le_bytes(), w);
        let high = self.v2c(V::Mulps, w, 4, high, scale);
        self.v2c(V::Addps, w, 4, high, low)
    }

    fn float_to_int(&mut self, v: &Val, to: DType) -> Val {
        let ty = Type::vector(to, v.ty.lanes);
        if v.ty.elem == DType::F64 || to.size() == 8 {
            return self.cast_lanes(v, to);
        }
        let w = self.width_of(v);
        if to == DType::U32 {
            let rows = self.map1(v, &mut |s, r| s.single_to_unsigned(r, w));
            return Val::vector(ty, rows);
        }
        let range = (to.size() < 4).then(|| to.int_range()).flatten();
        let rows = self.map1(v, &mut |s, r| {
            let i = s.single_to_signed(r, w);
            match range {
                None => i,
                Some((lo, hi)) => {
                    let (lo, hi) = (s.lanes_of(lo as i64, 4, w), s.lanes_of(hi as i64, 4, w));
                    let i = s.v2c(V::Pmaxsd, w, 4, i, lo);
                    s.v2c(V::Pminsd, w, 4, i, hi)
                }
            }
        });
        let rows = self.resize_rows(&rows, ty.lanes, 4, to.size(), true);
        Val::vector(ty, rows)
    }

    /// Truncates and saturates; NaN gives 0.
    fn single_to_signed(&mut self, row: Row, w: Width) -> Row {
        let x = Row::Reg(self.in_reg(row, w, 4));
        // What does not fit gives MIN: for large values all bits are to be turned.
        let i = self.v1(V::Cvttps2dq, w, x);
        let limit = self.repeated(&2_147_483_648f32.to_le_bytes(), w);
        let over = self.compare_rows(CmpOp::Ge, DType::F32, x, limit, w);
        let i = self.v2c(V::Pxor, w, 4, i, over);
        let number = self.compare_rows(CmpOp::Eq, DType::F32, x, x, w);
        self.v2c(V::Pand, w, 4, i, number)
    }

    fn single_to_unsigned(&mut self, row: Row, w: Width) -> Row {
        let zero = self.lanes_of(0, 4, w);
        // Negative values and NaN are 0: the second operand where the first is not larger.
        let x = self.v2(V::Maxps, w, 4, row, zero);
        let limit = self.repeated(&2_147_483_648f32.to_le_bytes(), w);
        let big = self.compare_rows(CmpOp::Ge, DType::F32, x, limit, w);
        let less = self.v2c(V::Pand, w, 4, big, limit);
        let y = self.v2(V::Subps, w, 4, x, less);
        let i = self.v1(V::Cvttps2dq, w, y);
        let top = self.lanes_of(1 << 31, 4, w);
        let top = self.v2c(V::Pand, w, 4, big, top);
        let i = self.v2c(V::Pxor, w, 4, i, top);
        let limit = self.repeated(&4_294_967_296f32.to_le_bytes(), w);
        let over = self.compare_rows(CmpOp::Ge, DType::F32, x, limit, w);
        self.v2c(V::Por, w, 4, i, over)
    }

    /// Lane by lane in scalars.
    fn cast_lanes(&mut self, v: &Val, to: DType) -> Val {
        let from = v.ty.elem;
        let lanes: Vec<Row> = (0..v.ty.lanes)
            .map(|i| {
                let s = self.extract(v, i);
                self.cast_scalar(s, from, to)
            })
            .collect();
        self.pack(to, &lanes)
    }

    /// One register for each of `v`'s, equal ones once.
    pub(super) fn map1(&mut self, v: &Val, f: &mut dyn FnMut(&mut Self, Row) -> Row) -> Rows {
        let mut rows: Rows = smallvec![];
        for (i, r) in v.rows.iter().enumerate() {
            let same = i > 0 && v.rows[i - 1] == *r;
            let row = if same { rows[i - 1] } else { f(self, *r) };
            rows.push(row);
        }
        rows
    }

    /// The same for two values of one layout.
    pub(super) fn map2(&mut self, a: &Val, b: &Val, f: &mut dyn FnMut(&mut Self, Row, Row) -> Row) -> Rows {
        let mut rows: Rows = smallvec![];
        for i in 0..a.rows.len() {
            let same = i > 0 && (a.rows[i - 1], b.rows[i - 1]) == (a.rows[i], b.rows[i]);
            let row = if same { rows[i - 1] } else { f(self, a.rows[i], b.rows[i]) };
            rows.push(row);
        }
        rows
    }

    /// A register that is one.
    pub(super) fn reg_of(&mut self, v: &Val, i: usize) -> VReg {
        let w = self.width_of(v);
        self.in_reg(v.rows[i], w, v.lane)
    }
}

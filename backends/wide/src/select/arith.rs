//! Arithmetic on values of any lane count.

use super::Select;
use super::compare::by_lane;
use super::value::{Row, Rows, Val, in_vector};
use crate::lir::{Arg, Op, Width};
use crate::table::V;
use regalloc2::VReg;
use smallvec::smallvec;
use tenon_base::DType;
use tenon_kernel::{BinOp, CmpOp, Type, UnOp};

impl Select<'_> {
    /// `op v`
    pub(super) fn unary(&mut self, op: UnOp, v: &Val) -> Val {
        let elem = v.ty.elem;
        if v.is_scalar() && !in_vector(elem) {
            return Val::scalar(elem, self.unary_int(op, elem, v.rows[0]));
        }
        let w = self.width_of(v);
        let rows = self.map1(v, &mut |s, r| s.unary_row(op, elem, r, w));
        let splat = v.is_scalar().then(|| rows[0]);
        Val { ty: v.ty, lane: v.lane, rows, splat }
    }

    /// `op row` in lanes of `elem`.
    fn unary_row(&mut self, op: UnOp, elem: DType, row: Row, w: Width) -> Row {
        let lane = elem.size();
        if in_vector(elem) {
            let double = elem == DType::F64;
            let pick = |single: V, wide: V| if double { wide } else { single };
            // Bitwise operations work on whole registers.
            let bitwise = |s: &mut Self, op: V, pattern: i64| {
                let row = if w == Width::S { Row::Reg(s.in_reg(row, w, lane)) } else { row };
                let wide = w.max(Width::X);
                let mask = s.lanes_of(pattern, lane, wide);
                s.v2c(op, wide, lane, row, mask)
            };
            let sign = if double { i64::MIN } else { 1 << 31 };
            let round = |s: &mut Self, mode: i64| {
                let op = pick(V::Roundps, V::Roundpd);
                if w == Width::S {
                    let x = s.in_reg(row, w, lane);
                    Row::Reg(s.v(op, w, &[Arg::Use(x), Arg::Use(x), Arg::Imm(8 | mode)]))
                } else {
                    s.v1i(op, w, row, 8 | mode)
                }
            };
            return match op {
                UnOp::Neg => bitwise(self, pick(V::Xorps, V::Xorpd), sign),
                UnOp::Abs => bitwise(self, pick(V::Andps, V::Andpd), !sign),
                UnOp::Sqrt if w == Width::S => {
                    let x = self.in_reg(row, w, lane);
                    Row::Reg(self.v(pick(V::Sqrtps, V::Sqrtpd), w, &[Arg::Use(x), Arg::Use(x)]))
                }
                UnOp::Sqrt => self.v1(pick(V::Sqrtps, V::Sqrtpd), w, row),
                UnOp::Nearest => round(self, 0),
                UnOp::Floor => round(self, 1),
                UnOp::Ceil => round(self, 2),
                UnOp::Trunc => round(self, 3),
                UnOp::Not => {
                    self.unsupported("the complement of a float");
                    row
                }
            };
        }
        match op {
            UnOp::Not => self.complement(row, w),
            UnOp::Neg => {
                let zero = self.lanes_of(0, 8, w);
                self.v2(by_lane(lane, [V::Psubb, V::Psubw, V::Psubd, V::Psubq]), w, lane, zero, row)
            }
            UnOp::Abs if !elem.is_signed_int() => row,
            UnOp::Abs if lane == 8 && !self.isa.avx512 => {
                let x = Row::Reg(self.in_reg(row, w, lane));
                let zero = self.lanes_of(0, 8, w);
                let sign = self.v2(V::Pcmpgtq, w, lane, zero, x);
                let turned = self.v2c(V::Pxor, w, lane, x, sign);
                self.v2(V::Psubq, w, lane, turned, sign)
            }
            UnOp::Abs => self.v1(by_lane(lane, [V::Pabsb, V::Pabsw, V::Pabsd, V::Pabsq]), w, row),
            _ => {
                self.unsupported(format!("{op:?} of {elem}"));
                row
            }
        }
    }

    /// `a op b`
    pub(super) fn binary(&mut self, op: BinOp, a: &Val, b: &Val) -> Val {
        let elem = a.ty.elem;
        if a.is_scalar() && !in_vector(elem) {
            return Val::scalar(elem, self.binary_int(op, elem, a.rows[0], b.rows[0]));
        }
        if elem == DType::Bool {
            let (a, b) = self.same_masks(a, b);
            let w = self.width_of(&a);
            let op = match op {
                BinOp::And => V::Pand,
                BinOp::Or => V::Por,
                _ => V::Pxor,
            };
            let rows = self.map2(&a, &b, &mut |s, x, y| s.v2c(op, w, 8, x, y));
            return Val { ty: a.ty, lane: a.lane, rows, splat: None };
        }
        let w = self.width_of(a);
        if in_vector(elem) {
            let rows = self.map2(a, b, &mut |s, x, y| s.float_row(op, elem, x, y, w));
            let splat = a.is_scalar().then(|| rows[0]);
            return Val { ty: a.ty, lane: a.lane, rows, splat };
        }
        let scalars = match op {
            BinOp::Div | BinOp::Rem => true,
            BinOp::Shl | BinOp::Shr => match b.splat {
                Some(Row::Imm(by)) => {
                    let by = (by & (elem.size() as i64 * 8 - 1)) as u32;
                    let rows = self.map1(a, &mut |s, r| s.shift_row(op, elem, r, by, w));
                    return Val::vector(a.ty, rows);
                }
                // Only lanes of 4 and 8 bytes have shifts by a count each.
                _ => elem.size() < 4 || (elem == DType::I64 && !self.isa.avx512 && op == BinOp::Shr),
            },
            _ => false,
        };
        if scalars {
            let lanes: Vec<Row> = (0..a.ty.lanes)
                .map(|i| {
                    let (x, y) = (self.extract(a, i), self.extract(b, i));
                    self.binary_int(op, elem, x, y)
                })
                .collect();
            return self.pack(elem, &lanes);
        }
        let rows = self.map2(a, b, &mut |s, x, y| s.int_row(op, elem, x, y, w));
        Val::vector(a.ty, rows)
    }

    /// `a op b` in lanes of floats, or in the first.
    pub(super) fn float_row(&mut self, op: BinOp, elem: DType, a: Row, b: Row, w: Width) -> Row {
        let double = elem == DType::F64;
        let pick = |single: V, wide: V| if double { wide } else { single };
        let lane = elem.size();
        match op {
            BinOp::Add => self.v2c(pick(V::Addps, V::Addpd), w, lane, a, b),
            BinOp::Mul => self.v2c(pick(V::Mulps, V::Mulpd), w, lane, a, b),
            BinOp::Sub => self.v2(pick(V::Subps, V::Subpd), w, lane, a, b),
            BinOp::Div => self.v2(pick(V::Divps, V::Divpd), w, lane, a, b),
            // The machine's minimum is this very selection, with NaN as with zeros of both signs.
            BinOp::Min => self.v2(pick(V::Minps, V::Minpd), w, lane, a, b),
            BinOp::Max => self.v2(pick(V::Maxps, V::Maxpd), w, lane, a, b),
            _ => {
                self.unsupported(format!("{op:?} of {elem}"));
                a
            }
        }
    }

    /// `a op b` in lanes of integers; not division, nor shifts of lanes below 4 bytes.
    fn int_row(&mut self, op: BinOp, elem: DType, a: Row, b: Row, w: Width) -> Row {
        use V::*;
        let lane = elem.size();
        let signed = elem.is_signed_int();
        let q = lane == 8 && !self.isa.avx512;
        match op {
            BinOp::Add => self.v2c(by_lane(lane, [Paddb, Paddw, Paddd, Paddq]), w, lane, a, b),
            BinOp::Sub => self.v2(by_lane(lane, [Psubb, Psubw, Psubd, Psubq]), w, lane, a, b),
            BinOp::And => self.v2c(Pand, w, lane, a, b),
            BinOp::Or => self.v2c(Por, w, lane, a, b),
            BinOp::Xor => self.v2c(Pxor, w, lane, a, b),
            BinOp::Mul if lane == 1 => self.multiply_bytes(a, b, w),
            BinOp::Mul if q => self.multiply_quads(a, b, w),
            BinOp::Mul => self.v2c(by_lane(lane, [Pmullw, Pmullw, Pmulld, Pmullq]), w, lane, a, b),
            BinOp::Min | BinOp::Max if q => {
                let (a, b) = (Row::Reg(self.in_reg(a, w, lane)), Row::Reg(self.in_reg(b, w, lane)));
                let cmp = if op == BinOp::Min { CmpOp::Lt } else { CmpOp::Gt };
                let mask = self.compare_rows(cmp, elem, a, b, w);
                let mask = self.in_reg(mask, w, lane);
                self.blend(mask, a, b, lane, w)
            }
            BinOp::Min if signed => self.v2c(by_lane(lane, [Pminsb, Pminsw, Pminsd, Pminsq]), w, lane, a, b),
            BinOp::Max if signed => self.v2c(by_lane(lane, [Pmaxsb, Pmaxsw, Pmaxsd, Pmaxsq]), w, lane, a, b),
            BinOp::Min => self.v2c(by_lane(lane, [Pminub, Pminuw, Pminud, Pminuq]), w, lane, a, b),
            BinOp::Max => self.v2c(by_lane(lane, [Pmaxub, Pmaxuw, Pmaxud, Pmaxuq]), w, lane, a, b),
            BinOp::Shl | BinOp::Shr => {
                let low_bits = self.lanes_of(lane as i64 * 8 - 1, lane, w);
                let by = self.v2c(Pand, w, lane, b, low_bits);
                let op = match (op, signed, lane) {
                    (BinOp::Shl, _, 4) => Psllvd,
                    (BinOp::Shl, ..) => Psllvq,
                    (_, true, 4) => Psravd,
                    (_, true, _) => Psravq,
                    (_, false, 4) => Psrlvd,
                    _ => Psrlvq,
                };
                self.v2(op, w, lane, a, by)
            }
            BinOp::Div | BinOp::Rem => {
                self.unsupported(format!("{op:?} of {elem} in vectors"));
                a
            }
        }
    }

    /// A shift of every lane by `by`, below the lane's bits.
    fn shift_row(&mut self, op: BinOp, elem: DType, a: Row, by: u32, w: Width) -> Row {
        use V::*;
        if by == 0 {
            return a;
        }
        let lane = elem.size();
        let imm = i64::from(by);
        match (op, elem.is_signed_int(), lane) {
            (BinOp::Shl, _, 1) => {
                let wide = self.vri(PsllwI, w, a, imm);
                let kept = self.lanes_of((0xff << by) & 0xff, 1, w);
                self.v2c(Pand, w, lane, wide, kept)
            }
            (BinOp::Shl, ..) => self.vri(by_lane(lane, [PsllwI, PsllwI, PslldI, PsllqI]), w, a, imm),
            (_, false, 1) => {
                let wide = self.vri(PsrlwI, w, a, imm);
                let kept = self.lanes_of(0xff >> by, 1, w);
                self.v2c(Pand, w, lane, wide, kept)
            }
            (_, false, _) => self.vri(by_lane(lane, [PsrlwI, PsrlwI, PsrldI, PsrlqI]), w, a, imm),
            (_, true, 1) => {
                // Logical, then the sign put back: flip its bit and subtract it.
                let wide = self.vri(PsrlwI, w, a, imm);
                let kept = self.lanes_of(0xff >> by, 1, w);
                let v = self.v2c(Pand, w, lane, wide, kept);
                let sign = self.lanes_of(0x80 >> by, 1, w);
                let v = self.v2c(Pxor, w, lane, v, sign);
                self.v2(Psubb, w, lane, v, sign)
            }
            (_, true, 8) if !self.isa.avx512 => {
                let v = self.vri(PsrlqI, w, a, imm);
                let sign = self.lanes_of((1u64 << (63 - by)) as i64, 8, w);
                let v = self.v2c(Pxor, w, lane, v, sign);
                self.v2(Psubq, w, lane, v, sign)
            }
            (_, true, _) => self.vri(by_lane(lane, [PsrawI, PsrawI, PsradI, PsraqI]), w, a, imm),
        }
    }

    /// Products of bytes: even and odd ones in lanes of 16 bits.
    fn multiply_bytes(&mut self, a: Row, b: Row, w: Width) -> Row {
        let (a, b) = (Row::Reg(self.in_reg(a, w, 1)), Row::Reg(self.in_reg(b, w, 1)));
        let even = self.v2(V::Pmullw, w, 2, a, b);
        let low = self.lanes_of(0xff, 2, w);
        let even = self.v2c(V::Pand, w, 2, even, low);
        let (x, y) = (self.vri(V::PsrlwI, w, a, 8), self.vri(V::PsrlwI, w, b, 8));
        let odd = self.v2(V::Pmullw, w, 2, x, y);
        let odd = self.vri(V::PsllwI, w, odd, 8);
        self.v2c(V::Por, w, 2, even, odd)
    }

    /// Products of 64 bits from those of halves.
    fn multiply_quads(&mut self, a: Row, b: Row, w: Width) -> Row {
        let (a, b) = (Row::Reg(self.in_reg(a, w, 8)), Row::Reg(self.in_reg(b, w, 8)));
        let (x, y) = (self.vri(V::PsrlqI, w, a, 32), self.vri(V::PsrlqI, w, b, 32));
        let cross = self.v2(V::Pmuludq, w, 8, x, b);
        let other = self.v2(V::Pmuludq, w, 8, a, y);
        let cross = self.v2(V::Paddq, w, 8, cross, other);
        let cross = self.vri(V::PsllqI, w, cross, 32);
        let low = self.v2(V::Pmuludq, w, 8, a, b);
        self.v2(V::Paddq, w, 8, low, cross)
    }

    /// `a * b + c`, rounded once; `free` says of each whether nothing after this reads it.
    pub(super) fn fma(&mut self, a: &Val, b: &Val, c: &Val, free: [bool; 3]) -> Val {
        let elem = a.ty.elem;
        let w = self.width_of(a);
        let mut rows: Rows = smallvec![];
        for i in 0..a.rows.len() {
            // A register that a later row reads too is not free yet.
            let dies = |v: &Val, free: bool| free && !v.rows[i + 1..].contains(&v.rows[i]);
            let free = [dies(a, free[0]), dies(b, free[1]), dies(c, free[2])];
            rows.push(Row::Reg(self.fma_row(elem, [a.rows[i], b.rows[i], c.rows[i]], free, w)));
        }
        let splat = a.is_scalar().then(|| rows[0]);
        Val { ty: Type::vector(elem, a.ty.lanes), lane: a.lane, rows, splat }
    }

    /// One register of it. The result takes the place of an operand, preferably one that nothing reads afterwards; another may
    /// be in memory.
    fn fma_row(&mut self, elem: DType, abc: [Row; 3], free: [bool; 3], w: Width) -> VReg {
        let lane = elem.size();
        let is_reg = |r: Row| matches!(r, Row::Reg(_));
        // The operand whose register the result takes.
        let over = [2, 0, 1]
            .into_iter()
            .find(|&i| is_reg(abc[i]) && free[i])
            .or_else(|| [2, 0, 1].into_iter().find(|&i| !is_reg(abc[i])))
            .unwrap_or(2);
        // One that stays in memory.
        let memory = [2, 1, 0].into_iter().find(|&i| i != over && !is_reg(abc[i]));
        let args: [Arg; 3] = std::array::from_fn(|i| match Some(i) == memory {
            true => self.operand(abc[i]),
            false => Arg::Use(self.in_reg(abc[i], w, lane)),
        });
        let d = self.vec_reg();
        let from = match args[over] {
            Arg::Use(v) => v,
            _ => d,
        };
        let pick = |single: V, wide: V| if elem == DType::F64 { wide } else { single };
        // 231: d = x·y + d; 213: d = x·d + y; 132: d = d·y + x.
        let (op, x, y) = match (over, memory) {
            (2, Some(0)) => (pick(V::Fmadd231ps, V::Fmadd231pd), args[1], args[0]),
            (2, _) => (pick(V::Fmadd231ps, V::Fmadd231pd), args[0], args[1]),
            (m, Some(2)) => (pick(V::Fmadd213ps, V::Fmadd213pd), args[1 - m], args[2]),
            (m, _) => (pick(V::Fmadd132ps, V::Fmadd132pd), args[2], args[1 - m]),
        };
        self.push(Op::V(op, w), [Arg::Mod(d, from), x, y]);
        d
    }
}

//! Lanes to scalars and back, and folding lanes.

use super::Select;
use super::value::{Row, Rows, Val, in_vector};
use crate::lir::{Alu, Arg, Op, Width};
use crate::table::V;
use regalloc2::VReg;
use smallvec::smallvec;
use tenon_base::DType;
use tenon_kernel::{BinOp, Type};

/// An instruction that picks words of two registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pick {
    op: V,
    imm: Option<i64>,
}

impl Select<'_> {
    /// One lane as a scalar.
    pub(super) fn extract(&mut self, v: &Val, i: u16) -> Row {
        if let Some(s) = v.splat {
            return s;
        }
        let at = usize::from(i) * v.lane;
        let (r, within) = (at / self.isa.bytes, at % self.isa.bytes);
        let elem = v.ty.elem;
        if elem != DType::Bool
            && let Row::Mem(m) = v.rows[r]
            && !m.broadcast
        {
            return Row::Mem(m.offset(within));
        }
        let w = self.width_of(v);
        let reg = self.in_reg(v.rows[r], w, v.lane);
        let quarter = match within / 16 {
            0 => reg,
            q => self.v(V::Extract128, w, &[Arg::Use(reg), Arg::Imm(q as i64)]),
        };
        let lane = within % 16 / v.lane;
        if in_vector(elem) {
            return Row::Reg(self.float_lane(quarter, v.lane, lane));
        }
        let d = self.gen_reg();
        let (op, imm) = match (v.lane, lane) {
            (1, _) => (V::Pextrb, true),
            (2, _) => (V::Pextrw, true),
            (4, 0) => (V::MovdTo, false),
            (8, 0) => (V::MovqTo, false),
            (4, _) => (V::Pextrd, true),
            _ => (V::Pextrq, true),
        };
        if imm {
            self.push(Op::V(op, Width::X), [Arg::Def(d), Arg::Use(quarter), Arg::Imm(lane as i64)]);
        } else {
            self.push(Op::V(op, Width::X), [Arg::Def(d), Arg::Use(quarter)]);
        }
        if elem == DType::Bool {
            return Row::Reg(self.alu_imm(Alu::And, 4, d, 1));
        }
        Row::Reg(if elem.is_signed_int() { self.extended(d, elem) } else { d })
    }

    /// The instruction that picks words `from` of two registers one after the other, if one does: those that interleave words or pairs of words
    /// within 128 bits, and those that move 128 bits each.
    pub(super) fn pick(&self, from: &[usize]) -> Option<Pick> {
        let n = from.len();
        if !matches!(n, 4 | 8 | 16) {
            return None;
        }
        let within = |order: [usize; 4]| {
            from.iter().enumerate().all(|(i, f)| {
                let o = order[i % 4];
                *f == (o / 4) * n + i / 4 * 4 + o % 4
            })
        };
        for (op, order) in [
            (V::Unpcklps, [0, 4, 1, 5]),
            (V::Unpckhps, [2, 6, 3, 7]),
            (V::Unpcklpd, [0, 1, 4, 5]),
            (V::Unpckhpd, [2, 3, 6, 7]),
        ] {
            if within(order) {
                return Some(Pick { op, imm: None });
            }
        }
        let blocks: Option<Vec<usize>> = from
            .chunks(4)
            .map(|c| c.iter().enumerate().all(|(i, f)| *f == c[0] + i && c[0] % 4 == 0).then_some(c[0] / 4))
            .collect();
        let (blocks, half) = (blocks?, n / 4);
        if n == 8 && !self.isa.avx512 {
            return Some(Pick { op: V::Perm2x128, imm: Some((blocks[0] | blocks[1] << 4) as i64) });
        }
        // The lower half comes from the first register, the upper one from the second.
        let halves = blocks.iter().enumerate().all(|(i, b)| b / half == i * 2 / half);
        let bits = if n == 8 { 1 } else { 2 };
        let imm = blocks.iter().enumerate().fold(0, |imm, (i, b)| imm | (b % half) << (i * bits));
        (n > 4 && halves && self.isa.avx512).then_some(Pick { op: V::Shuff32x4, imm: Some(imm as i64) })
    }

    /// Words of `a` and `b`, each of one register.
    pub(super) fn picked(&mut self, a: &Val, b: &Val, pick: Pick) -> Val {
        let w = self.width_of(a);
        let [x, y] = [a, b].map(|v| self.reg_of(v, 0));
        let args = [Some(Arg::Use(x)), Some(Arg::Use(y)), pick.imm.map(Arg::Imm)];
        let args: Vec<Arg> = args.into_iter().flatten().collect();
        let row = self.v(pick.op, w, &args);
        Val::vector(a.ty, smallvec![Row::Reg(row)])
    }

    /// Float lane `lane` of 128 bits as the first.
    fn float_lane(&mut self, v: VReg, size: usize, lane: usize) -> VReg {
        match (size, lane) {
            (_, 0) => v,
            (8, _) => self.v(V::Unpckhpd, Width::X, &[Arg::Use(v), Arg::Use(v)]),
            _ => self.v(V::Pshufd, Width::X, &[Arg::Use(v), Arg::Imm(lane as i64)]),
        }
    }

    /// The first `lanes` lanes, where they are: what a register holds beyond its lanes is of no account.
    pub(super) fn narrowed(&mut self, mut v: Val, lanes: u16) -> Val {
        v.ty.lanes = lanes;
        v.rows.truncate(self.registers(lanes, v.lane));
        v
    }

    /// A vector of scalars.
    pub(super) fn pack(&mut self, elem: DType, lanes: &[Row]) -> Val {
        let n = lanes.len() as u16;
        if let [one] = lanes {
            return Val::scalar(elem, *one);
        }
        let ty = Type::vector(elem, n);
        if lanes.iter().all(|l| *l == lanes[0]) && elem != DType::Bool {
            return self.splat(elem, lanes[0], n, elem.size());
        }
        let size = elem.size();
        let w = self.width(n, size);
        let mut rows: Rows = smallvec![];
        for row in lanes.chunks(self.isa.bytes / size) {
            let constants: Option<Vec<u8>> = (elem != DType::Bool)
                .then(|| row.iter().map(|l| self.constant_bytes(*l, elem)).collect::<Option<Vec<_>>>())
                .flatten()
                .map(|b| b.concat());
            if let Some(mut bytes) = constants {
                bytes.resize(w.bytes(), 0);
                rows.push(self.constant(bytes));
                continue;
            }
            let quarters: Vec<VReg> = row.chunks(16 / size).map(|q| self.pack_quarter(elem, q)).collect();
            let mut v = quarters[0];
            for (i, q) in quarters.iter().enumerate().skip(1) {
                v = self.v(V::Insert128, w, &[Arg::Use(v), Arg::Use(*q), Arg::Imm(i as i64)]);
            }
            rows.push(if elem == DType::Bool {
                let zero = self.lanes_of(0, 8, w);
                self.v2(V::Psubb, w, 1, zero, Row::Reg(v))
            } else {
                Row::Reg(v)
            });
        }
        Val::vector(ty, rows)
    }

    /// Scalars in the lanes of 128 bits.
    fn pack_quarter(&mut self, elem: DType, lanes: &[Row]) -> VReg {
        let size = elem.size();
        if in_vector(elem) {
            let mut v = self.float_reg(lanes[0], elem);
            for (i, l) in lanes.iter().enumerate().skip(1) {
                if size == 4 {
                    let l = self.operand(*l);
                    v = self.v(V::Insertps, Width::X, &[Arg::Use(v), l, Arg::Imm((i as i64) << 4)]);
                } else {
                    let l = self.float_reg(*l, elem);
                    v = self.v(V::Unpcklpd, Width::X, &[Arg::Use(v), Arg::Use(l)]);
                }
            }
            return v;
        }
        let insert = match size {
            1 => V::Pinsrb,
            2 => V::Pinsrw,
            4 => V::Pinsrd,
            _ => V::Pinsrq,
        };
        let first = self.int_reg(lanes[0], elem);
        let op = if size == 8 { V::MovqFrom } else { V::MovdFrom };
        let mut v = self.v(op, Width::X, &[Arg::Use(first)]);
        for (i, l) in lanes.iter().enumerate().skip(1) {
            let l = match l {
                Row::Mem(m) => Arg::Mem(*m),
                l => Arg::Use(self.int_reg(*l, elem)),
            };
            v = self.v(insert, Width::X, &[Arg::Use(v), l, Arg::Imm(i as i64)]);
        }
        v
    }

    /// Folds the lanes by halving: lane `i` with lane `i + n/2`.
    pub(super) fn reduce(&mut self, op: BinOp, v: &Val) -> Val {
        let mut v = v.clone();
        while v.ty.lanes > 1 {
            let (low, high) = self.halves(&v);
            v = self.binary(op, &low, &high);
        }
        v
    }

    /// The folds of eight vectors of eight `f32` or more in the lanes of one: the same sums as of [`Select::reduce`], but of halves of
    /// several vectors in one register.
    pub(super) fn reduce_eight(&mut self, op: BinOp, vectors: Vec<Val>) -> Val {
        let ty = Type::vector(DType::F32, 8);
        let mut eight = vec![];
        for mut v in vectors {
            while v.ty.lanes > 8 {
                let (low, high) = self.halves(&v);
                v = self.binary(op, &low, &high);
            }
            eight.push(self.reg_of(&v, 0));
        }
        let y = Width::Y;
        let both = |s: &mut Self, low: VReg, high: VReg| {
            let (low, high) = (Val::vector(ty, smallvec![Row::Reg(low)]), Val::vector(ty, smallvec![Row::Reg(high)]));
            let v = s.binary(op, &low, &high);
            s.reg_of(&v, 0)
        };
        // Halves of one vector of the first four below those of one of the others, then quarters, then single lanes of two.
        let mut halves = vec![];
        for (&a, &b) in eight.iter().zip(&eight[4..]) {
            let low = self.v(V::Insert128, y, &[Arg::Use(a), Arg::Use(b), Arg::Imm(1)]);
            let high = if self.isa.avx512 {
                let a = self.v(V::Extract128, y, &[Arg::Use(a), Arg::Imm(1)]);
                self.v(V::Insert128, y, &[Arg::Use(b), Arg::Use(a), Arg::Imm(0)])
            } else {
                self.v(V::Perm2x128, y, &[Arg::Use(a), Arg::Use(b), Arg::Imm(0x31)])
            };
            halves.push(both(self, low, high));
        }
        let mut quarters = vec![];
        for ab in halves.chunks(2) {
            let ab = [Arg::Use(ab[0]), Arg::Use(ab[1])];
            let (low, high) = (self.v(V::Unpcklpd, y, &ab), self.v(V::Unpckhpd, y, &ab));
            quarters.push(both(self, low, high));
        }
        let ab = |imm| [Arg::Use(quarters[0]), Arg::Use(quarters[1]), Arg::Imm(imm)];
        let (low, high) = (self.v(V::Shufps, y, &ab(0x88)), self.v(V::Shufps, y, &ab(0xdd)));
        let all = both(self, low, high);
        Val::vector(ty, smallvec![Row::Reg(all)])
    }

    /// The lanes of `a` and `b`, words, in turns.
    pub(super) fn weave(&mut self, a: &Val, b: &Val) -> Val {
        let ty = Type::vector(a.ty.elem, 2 * a.ty.lanes);
        let w = self.width_of(a);
        let mut rows: Rows = smallvec![];
        for r in 0..a.rows.len() {
            // Within 128 bits, lanes of the lower half alternate to one register and those of the upper half to another: so halves of
            // what comes first go to the lower halves.
            let mut spread = |v: &Val| {
                let v = self.reg_of(v, r);
                match w {
                    Width::Y => self.v(V::PermqI, w, &[Arg::Use(v), Arg::Imm(0xd8)]),
                    Width::Z => {
                        let order = [0u32, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15];
                        let order = self.constant(order.iter().flat_map(|l| l.to_le_bytes()).collect());
                        let order = self.in_reg(order, w, 4);
                        self.v(V::Permd, w, &[Arg::Use(order), Arg::Use(v)])
                    }
                    _ => v,
                }
            };
            let ab = [Arg::Use(spread(a)), Arg::Use(spread(b))];
            let low = self.v(V::Unpcklps, w, &ab);
            let left = usize::from(ty.lanes) * 4 - rows.len() * self.isa.bytes;
            if w.bytes() < self.isa.bytes && left > w.bytes() {
                // Both halves fill one register.
                let high = self.v(V::Unpckhps, w, &ab);
                let (op, both) = match w {
                    Width::Y => (V::Insert256, Width::Z),
                    _ => (V::Insert128, Width::Y),
                };
                rows.push(Row::Reg(self.v(op, both, &[Arg::Use(low), Arg::Use(high), Arg::Imm(1)])));
                continue;
            }
            rows.push(Row::Reg(low));
            if left > w.bytes() {
                let high = self.v(V::Unpckhps, w, &ab);
                rows.push(Row::Reg(high));
            }
        }
        Val::vector(ty, rows)
    }

    /// The lower and the upper half of the lanes.
    fn halves(&mut self, v: &Val) -> (Val, Val) {
        let half = v.ty.lanes / 2;
        let ty = Type::vector(v.ty.elem, half);
        if half == 1 {
            let (low, high) = (self.extract(v, 0), self.extract(v, 1));
            return (Val::scalar(v.ty.elem, low), Val::scalar(v.ty.elem, high));
        }
        let part = |rows: &[Row]| Val { ty, lane: v.lane, rows: rows.iter().copied().collect(), splat: None };
        if v.rows.len() > 1 {
            let (low, high) = v.rows.split_at(v.rows.len() / 2);
            return (part(low), part(high));
        }
        // Within one register: the upper half moves down.
        let w = self.width_of(v);
        let reg = self.reg_of(v, 0);
        let bytes = usize::from(half) * v.lane;
        let use_ = Arg::Use(reg);
        let moved = match bytes {
            32 => self.v(V::Extract256, w, &[use_, Arg::Imm(1)]),
            16 => self.v(V::Extract128, w, &[use_, Arg::Imm(1)]),
            8 => self.v(V::Pshufd, Width::X, &[use_, Arg::Imm(0x0e)]),
            4 => self.v(V::Pshufd, Width::X, &[use_, Arg::Imm(0x01)]),
            2 => self.v(V::PsrldI, Width::X, &[use_, Arg::Imm(16)]),
            _ => self.v(V::PsrlwI, Width::X, &[use_, Arg::Imm(8)]),
        };
        (part(&[Row::Reg(reg)]), part(&[Row::Reg(moved)]))
    }
}

//! Integer lanes to wider and narrower ones.

use super::Select;
use super::compare::by_lane;
use super::value::{Row, Rows};
use crate::lir::{Arg, Width};
use crate::table::V;
use regalloc2::VReg;
use smallvec::smallvec;

impl Select<'_> {
    /// Lanes of `from` bytes as lanes of `to` bytes: extended by `signed`, or cut. Masks are signed and stay masks.
    pub(super) fn resize_rows(&mut self, rows: &[Row], lanes: u16, from: usize, to: usize, signed: bool) -> Rows {
        if from < to {
            return self.widen_rows(rows, lanes, from, to, signed);
        }
        let mut rows: Rows = rows.iter().copied().collect();
        let mut size = from;
        while size > to {
            rows = self.narrow_rows(&rows, lanes, size);
            size /= 2;
        }
        rows
    }

    fn widen_rows(&mut self, rows: &[Row], lanes: u16, from: usize, to: usize, signed: bool) -> Rows {
        use V::*;
        let n = self.registers(lanes, to);
        let (ws, wd) = (self.width(lanes, from), self.width(lanes, to));
        let op = match (signed, from, to) {
            (true, 1, 2) => Pmovsxbw,
            (true, 1, 4) => Pmovsxbd,
            (true, 1, _) => Pmovsxbq,
            (true, 2, 4) => Pmovsxwd,
            (true, 2, _) => Pmovsxwq,
            (true, ..) => Pmovsxdq,
            (false, 1, 2) => Pmovzxbw,
            (false, 1, 4) => Pmovzxbd,
            (false, 1, _) => Pmovzxbq,
            (false, 2, 4) => Pmovzxwd,
            (false, 2, _) => Pmovzxwq,
            (false, ..) => Pmovzxdq,
        };
        // Bytes of the source that fill one register of the result.
        let step = wd.bytes() * from / to;
        let mut out: Rows = smallvec![];
        for j in 0..n {
            let at = j * step;
            let (r, within) = (at / self.isa.bytes, at % self.isa.bytes);
            let arg = match self.as_memory(rows[r]) {
                Some(m) => Arg::Mem(m.offset(within)),
                None => {
                    let reg = self.in_reg(rows[r], ws, from);
                    Arg::Use(self.part(reg, ws, within, step))
                }
            };
            out.push(Row::Reg(self.v(op, wd, &[arg])));
        }
        out
    }

    /// `bytes` bytes of a register of width `w`, from byte `at` on, at the bottom of a register.
    pub(super) fn part(&mut self, v: VReg, w: Width, at: usize, bytes: usize) -> VReg {
        if at == 0 {
            return v;
        }
        if bytes == 32 {
            return self.v(V::Extract256, w, &[Arg::Use(v), Arg::Imm(1)]);
        }
        let mut v = v;
        if at >= 16 {
            v = self.v(V::Extract128, w, &[Arg::Use(v), Arg::Imm((at / 16) as i64)]);
        }
        match at % 16 {
            0 => v,
            by => self.v(V::PsrldqI, Width::X, &[Arg::Use(v), Arg::Imm(by as i64)]),
        }
    }

    /// Lanes of `size` bytes to half of that: the low halves. All bits of a mask are the same, so that holds for masks too.
    fn narrow_rows(&mut self, rows: &[Row], lanes: u16, size: usize) -> Rows {
        let w = self.width(lanes, size);
        let to = self.width(lanes, size / 2);
        let mut out: Rows = smallvec![];
        for pair in rows.chunks(2) {
            let a = self.in_reg(pair[0], w, size);
            let b = pair.get(1).map(|b| self.in_reg(*b, w, size));
            let v = if self.isa.avx512 {
                let op = by_lane(size / 2, [V::Pmovwb, V::Pmovdw, V::Pmovqd, V::Pmovqd]);
                let low = self.v(op, w, &[Arg::Use(a)]);
                match b {
                    None => low,
                    Some(b) => {
                        let high = self.v(op, w, &[Arg::Use(b)]);
                        self.v(V::Insert256, Width::Z, &[Arg::Use(low), Arg::Use(high), Arg::Imm(1)])
                    }
                }
            } else if w == Width::X {
                self.narrow_pair(a, a, size, Width::X)
            } else if b.is_none() && to == Width::X {
                let high = self.v(V::Extract128, w, &[Arg::Use(a), Arg::Imm(1)]);
                self.narrow_pair(a, high, size, Width::X)
            } else {
                // Quarters come out as a0 b0 a1 b1.
                let v = self.narrow_pair(a, b.unwrap_or(a), size, Width::Y);
                self.v(V::PermqI, Width::Y, &[Arg::Use(v), Arg::Imm(0xd8)])
            };
            out.push(Row::Reg(v));
        }
        out
    }

    /// The low halves of the lanes of `a`, then of `b`, in each 128 bits.
    fn narrow_pair(&mut self, a: VReg, b: VReg, size: usize, w: Width) -> VReg {
        if size == 8 {
            return self.v(V::Shufps, w, &[Arg::Use(a), Arg::Use(b), Arg::Imm(0x88)]);
        }
        // The saturating narrowings, after cutting the lanes to what they keep.
        let mask = self.lanes_of(if size == 2 { 0xff } else { 0xffff }, size, w);
        let cut = |s: &mut Self, v: VReg| s.v2c(V::Pand, w, size, Row::Reg(v), mask);
        let x = cut(self, a);
        let y = if a == b { x } else { cut(self, b) };
        let op = if size == 2 { V::Packuswb } else { V::Packusdw };
        let v = self.v2(op, w, size, x, y);
        self.in_reg(v, w, size)
    }
}

//! Integer lanes to wider and narrower ones.

use super::Select;
use super::compare::by_lane;
use super::value::{Row, Rows};
use crate::lir::{Arg, Width};
use crate::table::V;
use regalloc2::VReg;
use smallvec::smallvec;

impl Select<'_> {
    /// Lanes of `from` bytes as lanes of `to` bytes: extended by `signed`, or cut.
    pub(super) fn resize_rows(&mut self, rows: &[Row], lanes: u16, from: usize, to: usize, signed: bool) -> Rows {
        if from < to {
            self.widen_rows(rows, lanes, from, to, signed)
        } else {
            self.narrow(rows, lanes, from, to, false)
        }
    }

    /// The same for masks.
    pub(super) fn resize_masks(&mut self, rows: &[Row], lanes: u16, from: usize, to: usize) -> Rows {
        if from < to {
            self.widen_rows(rows, lanes, from, to, true)
        } else {
            self.narrow(rows, lanes, from, to, true)
        }
    }

    fn narrow(&mut self, rows: &[Row], lanes: u16, from: usize, to: usize, masks: bool) -> Rows {
        self.narrow_by(rows, lanes, from, to, if masks { Cut::Mask } else { Cut::To(to) })
    }

    /// Lanes of 4 bytes as bytes.
    pub(super) fn narrow_to_bytes(&mut self, rows: &[Row], lanes: u16, cut: Cut) -> Rows {
        self.narrow_by(rows, lanes, 4, 1, cut)
    }

    fn narrow_by(&mut self, rows: &[Row], lanes: u16, from: usize, to: usize, mut cut: Cut) -> Rows {
        let mut rows: Rows = rows.iter().copied().collect();
        let mut size = from;
        while size > to {
            if size == 4 && to == 1 && rows.len() > 1 && !self.isa.avx512 {
                return self.narrow_quads(&rows, cut);
            }
            if size == 4 && to == 1 && cut == Cut::To(1) && !self.isa.avx512 {
                return smallvec![self.narrow_quarter(rows[0], self.width(lanes, size))];
            }
            rows = self.narrow_rows(&rows, lanes, size, cut);
            if size <= 4 && matches!(cut, Cut::To(_)) {
                cut = Cut::Done;
            }
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

    /// Lanes of `size` bytes to half of that: the low halves.
    fn narrow_rows(&mut self, rows: &[Row], lanes: u16, size: usize, cut: Cut) -> Rows {
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
                self.narrow_pair(a, a, size, cut, Width::X)
            } else if b.is_none() && to == Width::X {
                let high = self.v(V::Extract128, w, &[Arg::Use(a), Arg::Imm(1)]);
                self.narrow_pair(a, high, size, cut, Width::X)
            } else {
                // Quarters come out as a0 b0 a1 b1.
                let v = self.narrow_pair(a, b.unwrap_or(a), size, cut, Width::Y);
                self.v(V::PermqI, Width::Y, &[Arg::Use(v), Arg::Imm(0xd8)])
            };
            out.push(Row::Reg(v));
        }
        out
    }

    /// Lanes of 4 bytes to 1, up to four registers at once: the quarters are put in order once.
    fn narrow_quads(&mut self, rows: &[Row], cut: Cut) -> Rows {
        let order: Vec<u8> = [0u32, 4, 1, 5, 2, 6, 3, 7].iter().flat_map(|i| i.to_le_bytes()).collect();
        let order = self.constant(order);
        let then = if matches!(cut, Cut::To(_)) { Cut::Done } else { cut };
        let mut out: Rows = smallvec![];
        for four in rows.chunks(4) {
            let regs: Vec<VReg> = four.iter().map(|r| self.in_reg(*r, Width::Y, 4)).collect();
            let at = |i: usize| regs.get(i).copied();
            let low = self.narrow_pair(regs[0], at(1).unwrap_or(regs[0]), 4, cut, Width::Y);
            let high = match at(2) {
                Some(c) => self.narrow_pair(c, at(3).unwrap_or(c), 4, cut, Width::Y),
                None => low,
            };
            let v = self.narrow_pair(low, high, 2, then, Width::Y);
            let order = self.in_reg(order, Width::Y, 4);
            out.push(Row::Reg(self.v(V::Permd, Width::Y, &[Arg::Use(order), Arg::Use(v)])));
        }
        out
    }

    /// The low bytes of the lanes of 4 bytes of one register of at most 256 bits.
    fn narrow_quarter(&mut self, row: Row, w: Width) -> Row {
        let order: Vec<u8> = (0..16).map(|i| if i < 4 { 4 * i } else { 0x80 }).collect();
        let order = self.repeated(&order, w);
        let v = self.v2(V::Pshufb, w, 1, row, order);
        if w != Width::Y {
            return v;
        }
        let low = self.in_reg(v, w, 4);
        let high = self.v(V::Extract128, w, &[Arg::Use(low), Arg::Imm(1)]);
        Row::Reg(self.v(V::Punpckldq, Width::X, &[Arg::Use(low), Arg::Use(high)]))
    }

    /// The low halves of the lanes of `a`, then of `b`, in each 128 bits.
    fn narrow_pair(&mut self, a: VReg, b: VReg, size: usize, cut: Cut, w: Width) -> VReg {
        if size == 8 {
            return self.v(V::Shufps, w, &[Arg::Use(a), Arg::Use(b), Arg::Imm(0x88)]);
        }
        // The machine's narrowings saturate.
        let op = match (size, cut) {
            (2, Cut::Mask) => V::Packsswb,
            (2, Cut::Saturate { signed: true, .. }) => V::Packsswb,
            (4, Cut::Mask | Cut::Saturate { .. }) => V::Packssdw,
            (2, _) => V::Packuswb,
            _ => V::Packusdw,
        };
        let (x, y) = match cut {
            Cut::To(bytes) => {
                let mask = self.lanes_of(if bytes == 1 { 0xff } else { 0xffff }, size, w);
                let x = self.v2c(V::Pand, w, size, Row::Reg(a), mask);
                (x, if a == b { x } else { self.v2c(V::Pand, w, size, Row::Reg(b), mask) })
            }
            _ => (Row::Reg(a), Row::Reg(b)),
        };
        let mut v = self.v2(op, w, size, x, y);
        if let (4, Cut::Saturate { zero, .. }) = (size, cut)
            && zero != 0
        {
            let zero = self.lanes_of(zero.into(), 2, w);
            v = self.v2c(V::Paddsw, w, 2, v, zero);
        }
        self.in_reg(v, w, size)
    }
}

/// What is to be done to lanes before the machine narrows them with saturation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Keep the low bytes, that many.
    To(usize),
    /// Nothing: it has been done.
    Done,
    /// Nothing: all bits of a mask are the same.
    Mask,
    /// Nothing: they are to be cut off at the ends of the bytes' range, after `zero` is added to them.
    Saturate { signed: bool, zero: i16 },
}

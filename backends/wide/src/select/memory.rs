//! Loads and stores: never a byte outside the elements.

use super::Select;
use super::value::{Row, Rows, Val, in_vector};
use crate::lir::{Arg, Base, Mem, Op, Width};
use crate::table::V;
use regalloc2::VReg;
use smallvec::smallvec;
use tenon_base::DType;
use tenon_kernel::{Buf, CmpOp, Type};

impl Select<'_> {
    /// `lanes` elements of `buf` at `m`. Whole registers stay memory operands.
    pub(super) fn load(&mut self, buf: Buf, lanes: u16, m: Mem) -> Val {
        self.load_elements(self.kernel.buffer(buf).dtype, lanes, m)
    }

    /// The same by the element's type.
    pub(super) fn load_elements(&mut self, elem: DType, lanes: u16, m: Mem) -> Val {
        if lanes == 1 {
            if elem != DType::Bool {
                return Val::scalar(elem, Row::Mem(m));
            }
            let v = self.in_general(Row::Mem(m), 1, false);
            let v = self.compare_int(CmpOp::Ne, DType::U8, Row::Reg(v), Row::Imm(0));
            return Val::scalar(elem, v);
        }
        let size = elem.size();
        let w = self.width(lanes, size);
        let mut rows: Rows = smallvec![];
        for r in 0..self.registers(lanes, size) {
            let bytes = self.filled(lanes, size, r);
            let at = m.offset(r * self.isa.bytes);
            let row = if bytes == w.bytes() { Row::Mem(at) } else { Row::Reg(self.load_part(at, bytes, size, w)) };
            rows.push(if elem == DType::Bool { self.is_nonzero(row, DType::U8, w) } else { row });
        }
        Val::vector(Type::vector(elem, lanes), rows)
    }

    /// `bytes` bytes in a register of width `w`, which holds more; zeros or anything above.
    fn load_part(&mut self, m: Mem, bytes: usize, lane: usize, w: Width) -> VReg {
        if bytes.is_power_of_two() {
            match bytes {
                1 | 2 => {
                    let g = self.in_general(Row::Mem(m), bytes, false);
                    return self.v(V::MovdFrom, Width::X, &[Arg::Use(g)]);
                }
                4 => return self.v(V::Movss, Width::X, &[Arg::Mem(m)]),
                8 => return self.v(V::Movsd, Width::X, &[Arg::Mem(m)]),
                // The upper part becomes 0.
                n => return self.v(V::Movups, Width::of(n), &[Arg::Mem(m)]),
            }
        }
        if self.isa.avx512 {
            let mask = self.imm(((1u128 << bytes) - 1) as i64);
            let d = self.vec_reg();
            self.push(Op::MaskLoad(w), [Arg::Def(d), Arg::Use(mask), Arg::Mem(m)]);
            return d;
        }
        if lane.is_multiple_of(4) && bytes.is_multiple_of(4) {
            // A lane whose mask is clear is not read.
            let mask: Vec<u8> = (0..w.bytes()).map(|i| if i < bytes { 0xff } else { 0 }).collect();
            let mask = self.constant(mask);
            let mask = self.in_reg(mask, w, 4);
            return self.v(V::MaskmovLoad, w, &[Arg::Use(mask), Arg::Mem(m)]);
        }
        if bytes > 16 {
            let low = self.v(V::Movups, Width::X, &[Arg::Mem(m)]);
            let high = self.load_part(m.offset(16), bytes - 16, lane, Width::X);
            return self.v(V::Insert128, w, &[Arg::Use(low), Arg::Use(high), Arg::Imm(1)]);
        }
        let mut reg: Option<VReg> = None;
        for (at, size) in pieces(bytes) {
            let here = m.offset(at);
            reg = Some(match reg {
                None => self.load_part(here, size, lane, Width::X),
                Some(v) => {
                    let op = match size {
                        1 => V::Pinsrb,
                        2 => V::Pinsrw,
                        4 => V::Pinsrd,
                        _ => V::Pinsrq,
                    };
                    self.v(op, Width::X, &[Arg::Use(v), Arg::Mem(here), Arg::Imm((at / size) as i64)])
                }
            });
        }
        reg.expect("at least one byte")
    }

    /// Writes `v` to `m`.
    pub(super) fn store(&mut self, v: &Val, m: Mem) {
        let elem = v.ty.elem;
        let size = elem.size();
        if v.is_scalar() {
            if in_vector(elem) {
                let r = self.float_reg(v.rows[0], elem);
                let op = if size == 8 { V::MovsdStore } else { V::MovssStore };
                self.push(Op::V(op, Width::X), [Arg::Mem(m), Arg::Use(r)]);
            } else {
                let r = self.int_reg(v.rows[0], elem);
                self.push(Op::Store(size as u8), [Arg::Mem(m), Arg::Use(r)]);
            }
            return;
        }
        let v = self.mask_to(v, size);
        let w = self.width_of(&v);
        for (r, row) in v.rows.clone().into_iter().enumerate() {
            let bytes = self.filled(v.ty.lanes, size, r);
            let row = if elem == DType::Bool {
                let one = self.lanes_of(1, 1, w);
                self.v2c(V::Pand, w, 1, row, one)
            } else {
                row
            };
            let reg = self.in_reg(row, w, size);
            self.store_part(m.offset(r * self.isa.bytes), reg, bytes, w);
        }
    }

    /// Writes the low `bytes` bytes of a register of width `w`.
    fn store_part(&mut self, m: Mem, v: VReg, bytes: usize, w: Width) {
        if bytes.is_power_of_two() && bytes >= 16 {
            self.push(Op::V(V::MovupsStore, Width::of(bytes)), [Arg::Mem(m), Arg::Use(v)]);
            return;
        }
        if self.isa.avx512 && !bytes.is_power_of_two() {
            let mask = self.imm(((1u128 << bytes) - 1) as i64);
            self.push(Op::MaskStore(w), [Arg::Mem(m), Arg::Use(v), Arg::Use(mask)]);
            return;
        }
        if bytes > 16 {
            // Masked stores are slow on many machines; a few pieces are not.
            self.push(Op::V(V::MovupsStore, Width::X), [Arg::Mem(m), Arg::Use(v)]);
            let high = self.v(V::Extract128, w, &[Arg::Use(v), Arg::Imm(1)]);
            self.store_part(m.offset(16), high, bytes - 16, Width::X);
            return;
        }
        for (at, size) in pieces(bytes) {
            let here = Arg::Mem(m.offset(at));
            let (op, lane) = match size {
                8 if at == 0 => (V::MovsdStore, None),
                4 if at == 0 => (V::MovssStore, None),
                8 => (V::Pextrq, Some(at / 8)),
                4 => (V::Pextrd, Some(at / 4)),
                2 => (V::Pextrw, Some(at / 2)),
                _ => (V::Pextrb, Some(at)),
            };
            match lane {
                None => self.push(Op::V(op, Width::X), [here, Arg::Use(v)]),
                Some(i) => self.push(Op::V(op, Width::X), [here, Arg::Use(v), Arg::Imm(i as i64)]),
            }
        }
    }

    /// `scalar` of type `elem` in every one of `lanes` lanes; masks take `lane` bytes.
    pub(super) fn splat(&mut self, elem: DType, scalar: Row, lanes: u16, lane: usize) -> Val {
        let ty = Type::vector(elem, lanes);
        if lanes == 1 {
            return Val::scalar(elem, scalar);
        }
        let w = self.width(lanes, lane);
        let n = self.registers(lanes, lane);
        let row = self.splat_row(elem, scalar, lane, w, n);
        Val { ty, lane, rows: smallvec![row; n], splat: Some(scalar) }
    }

    fn splat_row(&mut self, elem: DType, scalar: Row, lane: usize, w: Width, n: usize) -> Row {
        if elem == DType::Bool {
            return match scalar {
                Row::Imm(v) => self.lanes_of(-i64::from(v != 0), lane, w),
                row => {
                    // 0 or 1 to all zeros or all ones.
                    let v = self.int_reg(row, elem);
                    let d = self.gen_reg();
                    self.push(Op::Neg(8), [Arg::Mod(d, v)]);
                    let x = self.v(V::MovqFrom, Width::X, &[Arg::Use(d)]);
                    Row::Reg(self.broadcast(Row::Reg(x), lane, false, w))
                }
            };
        }
        if let Some(bytes) = self.constant_bytes(scalar, elem) {
            return self.repeated(&bytes, w);
        }
        let float = in_vector(elem);
        match scalar {
            Row::Mem(m) if self.isa.avx512 && n == 1 && w == Width::Z && float => {
                Row::Mem(Mem { broadcast: true, ..m })
            }
            Row::Mem(_) => Row::Reg(self.broadcast(scalar, lane, float, w)),
            Row::Reg(v) if float => Row::Reg(self.broadcast(Row::Reg(v), lane, true, w)),
            row => {
                let g = self.int_reg(row, elem);
                let op = if lane == 8 { V::MovqFrom } else { V::MovdFrom };
                let x = self.v(op, Width::X, &[Arg::Use(g)]);
                Row::Reg(self.broadcast(Row::Reg(x), lane, false, w))
            }
        }
    }

    /// The first lane of a register, or memory, in every lane of `lane` bytes.
    pub(super) fn broadcast(&mut self, row: Row, lane: usize, float: bool, w: Width) -> VReg {
        let memory = matches!(row, Row::Mem(_) | Row::Const(_));
        let op = match (lane, float, memory) {
            (4, true, true) => V::BroadcastssM,
            (4, true, false) => V::Broadcastss,
            (8, true, true) => V::BroadcastsdM,
            (8, true, false) => V::Broadcastsd,
            (1, ..) => V::Pbroadcastb,
            (2, ..) => V::Pbroadcastw,
            (4, ..) => V::Pbroadcastd,
            _ => V::Pbroadcastq,
        };
        let arg = self.operand(row);
        self.v(op, w, &[arg])
    }

    /// A memory operand of the kernel or of the pool, if `row` is one and not a broadcast.
    pub(super) fn as_memory(&mut self, row: Row) -> Option<Mem> {
        match row {
            Row::Mem(m) if !m.broadcast => Some(m),
            Row::Const(_) => match self.operand(row) {
                Arg::Mem(m) => {
                    debug_assert!(matches!(m.base, Base::Pool(_)), "constants are in the pool");
                    Some(m)
                }
                _ => None,
            },
            _ => None,
        }
    }
}

/// `bytes < 16` as a sum of powers of two, largest first: (offset, size).
fn pieces(bytes: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    [8, 4, 2, 1].into_iter().filter_map(move |size| {
        let here = at;
        (bytes & size != 0).then(|| {
            at += size;
            (here, size)
        })
    })
}

//! Comparisons, masks and selection of lanes.

use super::Select;
use super::value::{Row, Rows, Val};
use crate::lir::{Arg, Op, Width};
use crate::table::V;
use regalloc2::VReg;
use smallvec::smallvec;
use tenon_base::DType;
use tenon_kernel::{CmpOp, Type};

/// The predicate of float comparisons: quiet, and with NaN only `Ne` holds.
pub(super) fn predicate(op: CmpOp) -> i64 {
    match op {
        CmpOp::Eq => 0x00,
        CmpOp::Ne => 0x04,
        CmpOp::Lt => 0x11,
        CmpOp::Le => 0x12,
        CmpOp::Gt => 0x1e,
        CmpOp::Ge => 0x1d,
    }
}

/// The predicate of AVX-512's integer comparisons.
fn integer_predicate(op: CmpOp) -> i64 {
    match op {
        CmpOp::Eq => 0,
        CmpOp::Lt => 1,
        CmpOp::Le => 2,
        CmpOp::Ne => 4,
        CmpOp::Ge => 5,
        CmpOp::Gt => 6,
    }
}

/// One of four instructions by the size of a lane.
pub(super) fn by_lane(lane: usize, ops: [V; 4]) -> V {
    ops[lane.trailing_zeros() as usize]
}

impl Select<'_> {
    /// `a op b` of vectors (not of `bool`): masks.
    pub(super) fn compare_vectors(&mut self, op: CmpOp, a: &Val, b: &Val) -> Val {
        let elem = a.ty.elem;
        let w = self.width_of(a);
        let rows = self.map2(a, b, &mut |s, x, y| s.compare_rows(op, elem, x, y, w));
        Val { ty: Type::vector(DType::Bool, a.ty.lanes), lane: a.lane, rows, splat: None }
    }

    /// `a op b` of registers with lanes of `elem`.
    pub(super) fn compare_rows(&mut self, op: CmpOp, elem: DType, a: Row, b: Row, w: Width) -> Row {
        let lane = elem.size();
        if self.isa.avx512 {
            let compare = match (elem, elem.is_signed_int()) {
                (DType::F32, _) => V::CmppsK,
                (DType::F64, _) => V::CmppdK,
                (_, true) => by_lane(lane, [V::PcmpbK, V::PcmpwK, V::PcmpdK, V::PcmpqK]),
                (_, false) => by_lane(lane, [V::PcmpubK, V::PcmpuwK, V::PcmpudK, V::PcmpuqK]),
            };
            let imm = if elem.is_float() { predicate(op) } else { integer_predicate(op) };
            let spread = by_lane(lane, [V::Pmovm2b, V::Pmovm2w, V::Pmovm2d, V::Pmovm2q]);
            let a = self.in_reg(a, w, lane);
            let b = self.operand(b);
            let d = self.vec_reg();
            self.push(Op::CmpLanes(compare, spread, w), [Arg::Def(d), Arg::Use(a), b, Arg::Imm(imm)]);
            return Row::Reg(d);
        }
        if elem.is_float() {
            let cmp = if elem == DType::F64 { V::Cmppd } else { V::Cmpps };
            return self.v2i(cmp, w, a, b, predicate(op));
        }
        let eq = by_lane(lane, [V::Pcmpeqb, V::Pcmpeqw, V::Pcmpeqd, V::Pcmpeqq]);
        let gt = by_lane(lane, [V::Pcmpgtb, V::Pcmpgtw, V::Pcmpgtd, V::Pcmpgtq]);
        match op {
            CmpOp::Eq => return self.v2c(eq, w, lane, a, b),
            CmpOp::Ne => {
                let same = self.v2c(eq, w, lane, a, b);
                return self.complement(same, w);
            }
            _ => {}
        }
        let (a, b) = if elem.is_signed_int() {
            (a, b)
        } else if lane < 8 {
            // `a >= b` where the larger of them is `a`.
            let a = Row::Reg(self.in_reg(a, w, lane));
            let b = Row::Reg(self.in_reg(b, w, lane));
            let max = by_lane(lane, [V::Pmaxub, V::Pmaxuw, V::Pmaxud, V::Pmaxuq]);
            let larger = self.v2(max, w, lane, a, b);
            return match op {
                CmpOp::Ge => self.v2(eq, w, lane, larger, a),
                CmpOp::Le => self.v2(eq, w, lane, larger, b),
                CmpOp::Lt => {
                    let ge = self.v2(eq, w, lane, larger, a);
                    self.complement(ge, w)
                }
                _ => {
                    let le = self.v2(eq, w, lane, larger, b);
                    self.complement(le, w)
                }
            };
        } else {
            // The order of signed integers with the top bit turned.
            let top = self.lanes_of(i64::MIN, 8, w);
            (self.v2c(V::Pxor, w, 8, a, top), self.v2c(V::Pxor, w, 8, b, top))
        };
        match op {
            CmpOp::Gt => self.v2(gt, w, lane, a, b),
            CmpOp::Lt => self.v2(gt, w, lane, b, a),
            CmpOp::Le => {
                let more = self.v2(gt, w, lane, a, b);
                self.complement(more, w)
            }
            _ => {
                let less = self.v2(gt, w, lane, b, a);
                self.complement(less, w)
            }
        }
    }

    /// All bits turned.
    pub(super) fn complement(&mut self, a: Row, w: Width) -> Row {
        let ones = self.lanes_of(-1, 8, w);
        self.v2c(V::Pxor, w, 8, a, ones)
    }

    /// The mask of lanes of `row` that are not 0.
    pub(super) fn is_nonzero(&mut self, row: Row, elem: DType, w: Width) -> Row {
        let zero = self.lanes_of(0, 8, w);
        let (row, elem) = match elem {
            DType::F16 => {
                let magnitude = self.lanes_of(0x7fff, 2, w);
                (self.v2c(V::Pand, w, 2, row, magnitude), DType::U16)
            }
            e => (row, e),
        };
        self.compare_rows(CmpOp::Ne, elem, row, zero, w)
    }

    /// `v != 0` of vectors of any type but `bool`.
    pub(super) fn nonzero(&mut self, v: &Val) -> Val {
        let w = self.width_of(v);
        let elem = v.ty.elem;
        let rows = self.map1(v, &mut |s, r| s.is_nonzero(r, elem, w));
        Val { ty: Type::vector(DType::Bool, v.ty.lanes), lane: v.lane, rows, splat: None }
    }

    /// `mask ? a : b` of registers with lanes of `lane` bytes.
    pub(super) fn blend(&mut self, mask: VReg, a: Row, b: Row, lane: usize, w: Width) -> Row {
        if self.isa.avx512 {
            let a = self.in_reg(a, w, lane);
            let b = self.operand(b);
            let d = self.vec_reg();
            // 0xca: the second where the first is set, else the third.
            self.push(Op::V(V::Pternlogd, w), [Arg::Mod(d, mask), Arg::Use(a), b, Arg::Imm(0xca)]);
            return Row::Reg(d);
        }
        let op = match lane {
            4 => V::Blendvps,
            8 => V::Blendvpd,
            _ => V::Pblendvb,
        };
        let b = self.in_reg(b, w, lane);
        let a = self.operand(a);
        Row::Reg(self.v(op, w, &[Arg::Use(b), a, Arg::Use(mask)]))
    }

    /// `mask ? a : b` of vectors.
    pub(super) fn select_vectors(&mut self, mask: &Val, a: &Val, b: &Val) -> Val {
        let (a, b) = if a.ty.elem == DType::Bool { self.same_masks(a, b) } else { (a.clone(), b.clone()) };
        let mask = self.mask_to(mask, a.lane);
        let w = self.width_of(&a);
        let mut rows: Rows = smallvec![];
        for i in 0..a.rows.len() {
            let m = self.in_reg(mask.rows[i], w, a.lane);
            rows.push(self.blend(m, a.rows[i], b.rows[i], a.lane, w));
        }
        Val { ty: a.ty, lane: a.lane, rows, splat: None }
    }

    /// Two masks of the same width: the narrower of theirs, which takes fewer registers.
    pub(super) fn same_masks(&mut self, a: &Val, b: &Val) -> (Val, Val) {
        let lane = a.lane.min(b.lane);
        (self.mask_to(a, lane), self.mask_to(b, lane))
    }

    /// A mask with lanes of `lane` bytes; other values as they are.
    pub(super) fn mask_to(&mut self, v: &Val, lane: usize) -> Val {
        if v.ty.elem != DType::Bool || v.is_scalar() || v.lane == lane {
            return v.clone();
        }
        if let Some(s) = v.splat {
            return self.splat(DType::Bool, s, v.ty.lanes, lane);
        }
        let rows = self.resize_masks(&v.rows, v.ty.lanes, v.lane, lane);
        Val { ty: v.ty, lane, rows, splat: None }
    }
}

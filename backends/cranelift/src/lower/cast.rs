//! Conversions.

use super::Lower;
use super::value::{Val, scalar_type};
use cranelift_codegen::ir::{InstBuilder, Value, types};
use tenon_base::DType;
use tenon_kernel::{BinOp, Type};

impl Lower<'_> {
    /// The value of `v` as `to`.
    pub(super) fn cast(&mut self, v: &Val, to: DType) -> Val {
        let from = v.ty.elem;
        if from == to {
            return v.clone();
        }
        if to == DType::Bool {
            return self.nonzero(v);
        }
        let ty = Type::vector(to, v.ty.lanes);
        if let (Some(s), true) = (v.splat, ty.lanes > 1) {
            let s = self.cast_scalar(s, from, to);
            return self.splat(to, s, ty.lanes, to.size());
        }
        if self.in_scalars(ty) {
            let regs: Vec<Value> = v.regs.iter().map(|r| self.cast_scalar(*r, from, to)).collect();
            let splat = (ty.lanes == 1).then(|| regs[0]);
            return Val { ty, lane: to.size(), regs, splat };
        }
        match (from, to) {
            (DType::Bool, _) => self.cast_mask(v, to),
            // Half precision goes by way of single.
            (DType::F16, DType::F32) => {
                let wide = self.cast(&self.relabel(v, DType::U16), DType::U32);
                let regs = wide.regs.iter().map(|r| self.half_to_single(*r)).collect();
                self.val(ty, regs)
            }
            (DType::F16, _) => {
                let single = self.cast(v, DType::F32);
                self.cast(&single, to)
            }
            (DType::F32, DType::F16) => {
                let regs = v.regs.iter().map(|r| self.single_to_half(*r)).collect();
                let wide = self.val(Type::vector(DType::U32, ty.lanes), regs);
                let narrow = self.cast(&wide, DType::U16);
                self.relabel(&narrow, DType::F16)
            }
            (_, DType::F16) => {
                let single = self.cast(v, DType::F32);
                self.cast(&single, to)
            }
            (DType::F32, DType::F64) => self.promote(v),
            (DType::F64, DType::F32) => self.demote(v),
            _ if from.is_float() => self.float_to_int(v, to),
            _ if to.is_float() => self.int_to_float(v, to),
            _ => self.resize(v, to),
        }
    }

    /// The same registers as an element type of the same size and kind.
    fn relabel(&self, v: &Val, elem: DType) -> Val {
        Val { ty: Type::vector(elem, v.ty.lanes), lane: elem.size(), ..v.clone() }
    }

    /// The same bits as `to`.
    pub(super) fn bitcast(&mut self, v: &Val, to: DType) -> Val {
        let ty = Type::vector(to, v.ty.lanes);
        let reg_ty = self.reg_type(ty, to.size());
        let regs: Vec<Value> = v.regs.iter().map(|r| self.bits_as(reg_ty, *r)).collect();
        let splat = match v.splat {
            Some(_) if ty.lanes == 1 => Some(regs[0]),
            Some(s) => Some(self.bits_as(scalar_type(to), s)),
            None => None,
        };
        Val { ty, lane: to.size(), regs, splat }
    }

    /// Masks to 0 and 1 of `to`.
    fn cast_mask(&mut self, v: &Val, to: DType) -> Val {
        let mask = self.mask_to(v, to.size());
        let ty = Type::vector(to, v.ty.lanes);
        let reg_ty = self.reg_type(ty, to.size());
        let one = match to {
            DType::F32 => i64::from(1f32.to_bits()),
            DType::F64 => 1f64.to_bits() as i64,
            DType::F16 => 0x3c00,
            _ => 1,
        };
        let regs = mask
            .regs
            .iter()
            .map(|r| {
                let int = self.type_of(*r);
                let one = self.int_like(int, one);
                let v = self.ins().band(*r, one);
                self.bits_as(reg_ty, v)
            })
            .collect();
        self.val(ty, regs)
    }

    /// Integer to integer of another width, wrapping.
    fn resize(&mut self, v: &Val, to: DType) -> Val {
        let ty = Type::vector(to, v.ty.lanes);
        let signed = v.ty.elem.is_signed_int();
        let mut regs = v.regs.clone();
        let mut size = v.ty.elem.size();
        while size < to.size() {
            let n = self.registers(ty.lanes, 2 * size);
            regs = self.widen_regs(&regs, size, n, signed);
            size *= 2;
        }
        while size > to.size() {
            size /= 2;
            regs = regs.chunks(2).map(|p| self.narrow(p[0], p[p.len() - 1], size)).collect();
        }
        self.val(ty, regs)
    }

    /// The low halves of the lanes of two registers; `size` bytes each.
    fn narrow(&mut self, a: Value, b: Value, size: usize) -> Value {
        if size == 4 || self.machine.unzips() {
            return self.even(a, b, size);
        }
        // The saturating narrowings, after cutting the lanes to what they keep.
        let cut = |s: &mut Self, r: Value| {
            if size == 1 {
                let low = s.int_like(types::I16X8, 0xff);
                s.ins().band(r, low)
            } else {
                let up = s.shift(BinOp::Shl, true, r, 16);
                s.shift(BinOp::Shr, true, up, 16)
            }
        };
        let x = cut(self, a);
        let y = if a == b { x } else { cut(self, b) };
        if size == 1 { self.ins().unarrow(x, y) } else { self.ins().snarrow(x, y) }
    }

    fn promote(&mut self, v: &Val) -> Val {
        let ty = Type::vector(DType::F64, v.ty.lanes);
        let n = self.registers(ty.lanes, 8);
        let mut regs = Vec::with_capacity(n);
        for r in &v.regs {
            for high in [false, true] {
                if regs.len() < n {
                    let low = if high { self.upper_half(*r, types::F32X4) } else { *r };
                    regs.push(self.ins().fvpromote_low(low));
                }
            }
        }
        self.val(ty, regs)
    }

    /// The upper 8 bytes in the lower.
    fn upper_half(&mut self, r: Value, ty: cranelift_codegen::ir::Type) -> Value {
        let v = self.shuffle(r, r, [8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15]);
        self.bits_as(ty, v)
    }

    fn demote(&mut self, v: &Val) -> Val {
        let ty = Type::vector(DType::F32, v.ty.lanes);
        let regs = v
            .regs
            .chunks(2)
            .map(|pair| {
                let low = self.ins().fvdemote(pair[0]);
                let Some(second) = pair.get(1) else { return low };
                let high = self.ins().fvdemote(*second);
                let v = self.shuffle(low, high, [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23]);
                self.bits_as(types::F32X4, v)
            })
            .collect();
        self.val(ty, regs)
    }

    fn int_to_float(&mut self, v: &Val, to: DType) -> Val {
        let ty = Type::vector(to, v.ty.lanes);
        let from = v.ty.elem;
        if from.size() < 4 {
            // Through 32 bits, signed: every value fits.
            let wide = self.resize(v, DType::I32);
            return self.int_to_float(&self.relabel(&wide, DType::I32), to);
        }
        let signed = from.is_signed_int();
        if from.size() == 4 && to == DType::F32 {
            let regs = v
                .regs
                .iter()
                .map(|r| {
                    if signed {
                        self.ins().fcvt_from_sint(types::F32X4, *r)
                    } else {
                        self.ins().fcvt_from_uint(types::F32X4, *r)
                    }
                })
                .collect();
            return self.val(ty, regs);
        }
        if from.size() == 4 && to == DType::F64 {
            let n = self.registers(ty.lanes, 8);
            let mut regs = Vec::with_capacity(n);
            for r in &v.regs {
                for high in [false, true] {
                    if regs.len() < n {
                        // Low halves only: the widening and the conversion are one instruction on x86.
                        let low = if high { self.upper_half(*r, types::I32X4) } else { *r };
                        regs.push(if signed {
                            let wide = self.ins().swiden_low(low);
                            self.ins().fcvt_from_sint(types::F64X2, wide)
                        } else {
                            let wide = self.ins().uwiden_low(low);
                            self.ins().fcvt_from_uint(types::F64X2, wide)
                        });
                    }
                }
            }
            return self.val(ty, regs);
        }
        if to == DType::F64 && self.machine.converts_i64() {
            let regs = v
                .regs
                .iter()
                .map(|r| {
                    if signed {
                        self.ins().fcvt_from_sint(types::F64X2, *r)
                    } else {
                        self.ins().fcvt_from_uint(types::F64X2, *r)
                    }
                })
                .collect();
            return self.val(ty, regs);
        }
        self.cast_lanes(v, to)
    }

    fn float_to_int(&mut self, v: &Val, to: DType) -> Val {
        if v.ty.elem == DType::F64 || to.size() == 8 {
            return self.cast_lanes(v, to);
        }
        let wide = if to == DType::U32 { DType::U32 } else { DType::I32 };
        let regs = v
            .regs
            .iter()
            .map(|r| {
                if to == DType::U32 {
                    self.ins().fcvt_to_uint_sat(types::I32X4, *r)
                } else {
                    let i = self.ins().fcvt_to_sint_sat(types::I32X4, *r);
                    self.clamp_to(i, to)
                }
            })
            .collect();
        let v = self.val(Type::vector(wide, v.ty.lanes), regs);
        if to.size() == 4 { v } else { self.resize(&v, to) }
    }

    /// 32-bit signed integers kept within the range of `to`, which is narrower or the same.
    fn clamp_to(&mut self, i: Value, to: DType) -> Value {
        let Some((lo, hi)) = to.int_range() else { return i };
        if to.size() >= 4 {
            return i;
        }
        let ty = self.type_of(i);
        let (lo, hi) = (self.int_like(ty, lo as i64), self.int_like(ty, hi as i64));
        let i = self.ins().smax(i, lo);
        self.ins().smin(i, hi)
    }

    /// Lane by lane in scalars.
    fn cast_lanes(&mut self, v: &Val, to: DType) -> Val {
        let from = v.ty.elem;
        let lanes: Vec<Value> = self.unpack(v).into_iter().map(|s| self.cast_scalar(s, from, to)).collect();
        self.pack(to, &lanes)
    }

    /// The scalar `v` of type `from` as `to`.
    pub(super) fn cast_scalar(&mut self, v: Value, from: DType, to: DType) -> Value {
        if from == to {
            return v;
        }
        let ty = scalar_type(to);
        match (from, to) {
            (_, DType::Bool) => {
                let v = self.scalar(from, v);
                self.nonzero(&v).regs[0]
            }
            (DType::F16, _) => {
                let wide = self.ins().uextend(types::I32, v);
                let single = self.half_to_single(wide);
                self.cast_scalar(single, DType::F32, to)
            }
            (DType::F32, DType::F16) => {
                let h = self.single_to_half(v);
                self.ins().ireduce(types::I16, h)
            }
            (_, DType::F16) => {
                let single = self.cast_scalar(v, from, DType::F32);
                self.cast_scalar(single, DType::F32, to)
            }
            (DType::F32, DType::F64) => self.ins().fpromote(ty, v),
            (DType::F64, DType::F32) => self.ins().fdemote(ty, v),
            _ if from.is_float() && to.size() < 4 => {
                let i = self.ins().fcvt_to_sint_sat(types::I32, v);
                let i = self.clamp_to(i, to);
                self.ins().ireduce(ty, i)
            }
            _ if from.is_float() && to.is_signed_int() => self.ins().fcvt_to_sint_sat(ty, v),
            _ if from.is_float() => self.ins().fcvt_to_uint_sat(ty, v),
            _ if to.is_float() => {
                let signed = from.is_signed_int();
                match from.size() {
                    8 if !signed => self.ins().fcvt_from_uint(ty, v),
                    // Unsigned 32-bit values fit 64 signed bits, narrower ones 32.
                    size => {
                        let wide = if size == 8 || (size == 4 && !signed) { types::I64 } else { types::I32 };
                        let wide = self.resize_int(v, wide, signed);
                        self.ins().fcvt_from_sint(ty, wide)
                    }
                }
            }
            _ => self.resize_int(v, ty, from.is_signed_int()),
        }
    }
}

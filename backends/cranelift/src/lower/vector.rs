//! Operations on values of any lane count.

use super::Lower;
use super::scalar::{float_condition, int_condition};
use super::value::{Val, int_type};
use crate::capability::Plan;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, Type as Clif, Value, types};
use tenon_base::DType;
use tenon_kernel::{BinOp, CmpOp, Type, UnOp};

/// Bytes of the even lanes of two registers, `lane` bytes each.
const fn even_lanes(lane: usize) -> [u8; 16] {
    let mut mask = [0; 16];
    let mut i = 0;
    while i < 16 {
        mask[i] = (i / lane * 2 * lane + i % lane) as u8;
        i += 1;
    }
    mask
}

impl Lower<'_> {
    /// A value with the same layout as `like`, each register computed by `f`; a splat stays one register.
    fn map1(&mut self, v: &Val, f: &mut dyn FnMut(&mut Self, Value) -> Value) -> Val {
        let mut regs: Vec<Value> = Vec::with_capacity(v.regs.len());
        for (i, r) in v.regs.iter().enumerate() {
            let same = i > 0 && v.regs[i - 1] == *r;
            regs.push(if same { regs[i - 1] } else { f(self, *r) });
        }
        Val { ty: v.ty, lane: v.lane, splat: (v.ty.lanes == 1).then(|| regs[0]), regs }
    }

    fn map2(&mut self, a: &Val, b: &Val, f: &mut dyn FnMut(&mut Self, Value, Value) -> Value) -> Val {
        let mut regs: Vec<Value> = Vec::with_capacity(a.regs.len());
        for i in 0..a.regs.len() {
            let same = i > 0 && (a.regs[i - 1], b.regs[i - 1]) == (a.regs[i], b.regs[i]);
            regs.push(if same { regs[i - 1] } else { f(self, a.regs[i], b.regs[i]) });
        }
        Val { ty: a.ty, lane: a.lane, splat: (a.ty.lanes == 1).then(|| regs[0]), regs }
    }

    /// Lane by lane in scalars.
    fn scalarised(&mut self, a: &Val, b: &Val, f: &mut dyn FnMut(&mut Self, Value, Value) -> Value) -> Val {
        let (xs, ys) = (self.unpack(a), self.unpack(b));
        let lanes: Vec<Value> = xs.into_iter().zip(ys).map(|(x, y)| f(self, x, y)).collect();
        self.pack(a.ty.elem, &lanes)
    }

    /// `op v`
    pub(super) fn unary(&mut self, op: UnOp, v: &Val) -> Val {
        let elem = v.ty.elem;
        let rounds = matches!(op, UnOp::Ceil | UnOp::Floor | UnOp::Trunc | UnOp::Nearest);
        let scalars = self.in_scalars(v.ty);
        let plan = if scalars && rounds { self.machine.round(elem) } else { self.machine.unary(op, elem) };
        match plan {
            _ if !rounds => self.map1(v, &mut |s, r| s.unary_reg(op, elem, r)),
            Plan::Native => self.map1(v, &mut |s, r| s.unary_reg(op, elem, r)),
            Plan::Scalar if !scalars => self.scalarised(v, v, &mut |s, x, _| s.round_emulated(op, x)),
            _ => self.map1(v, &mut |s, r| s.round_emulated(op, r)),
        }
    }

    /// `a op b`
    pub(super) fn binary(&mut self, op: BinOp, a: &Val, b: &Val) -> Val {
        let elem = a.ty.elem;
        if elem == DType::Bool {
            let (a, b) = self.same_masks(a, b);
            return self.map2(&a, &b, &mut |s, x, y| s.binary_reg(op, elem, x, y));
        }
        if self.in_scalars(a.ty) {
            return self.map2(a, b, &mut |s, x, y| s.binary_scalar(op, elem, x, y));
        }
        if let (BinOp::Shl | BinOp::Shr, Some(count)) = (op, b.splat) {
            // One count for all lanes is an instruction everywhere.
            let low_bits = elem.size() as i64 * 8 - 1;
            let count = match self.constant_value(count) {
                Some(n) => self.iconst(types::I32, n & low_bits),
                None => {
                    let mask = self.iconst(types::I32, low_bits);
                    let count = self.resize_int(count, types::I32, false);
                    self.ins().band(count, mask)
                }
            };
            return self.map1(a, &mut |s, r| s.binary_reg(op, elem, r, count));
        }
        match self.machine.binary(op, elem) {
            Plan::Native | Plan::Emulate => self.map2(a, b, &mut |s, x, y| s.binary_reg(op, elem, x, y)),
            Plan::Compare => self.map2(a, b, &mut |s, x, y| s.pick(op, elem, x, y)),
            Plan::Scalar => self.scalarised(a, b, &mut |s, x, y| s.binary_scalar(op, elem, x, y)),
            Plan::Widen => {
                let wide = if elem.is_signed_int() { DType::I16 } else { DType::U16 };
                let (x, y) = (self.cast(a, wide), self.cast(b, wide));
                let product = self.map2(&x, &y, &mut |s, x, y| s.binary_reg(op, wide, x, y));
                self.cast(&product, elem)
            }
        }
    }

    /// The minimum or maximum of vector registers as a comparison and a select.
    fn pick(&mut self, op: BinOp, elem: DType, a: Value, b: Value) -> Value {
        let ty = self.type_of(a);
        let (x, y) = if op == BinOp::Min { (a, b) } else { (b, a) };
        let mask = if elem.is_float() {
            // This very shape is one instruction on x86: the condition first, then the operands in its order.
            self.ins().fcmp(FloatCC::LessThan, x, y)
        } else {
            self.ins().icmp(int_condition(CmpOp::Lt, elem), x, y)
        };
        let mask = self.bits_as(ty, mask);
        self.ins().bitselect(mask, a, b)
    }

    /// `a op b` as `bool`.
    pub(super) fn compare(&mut self, op: CmpOp, a: &Val, b: &Val) -> Val {
        let elem = a.ty.elem;
        let ty = Type::vector(DType::Bool, a.ty.lanes);
        if self.in_scalars(ty) {
            let v = self.map2(a, b, &mut |s, x, y| s.compare_scalar(op, elem, x, y));
            return Val { ty, lane: 1, ..v };
        }
        let (a, b) = if elem == DType::Bool { self.same_masks(a, b) } else { (a.clone(), b.clone()) };
        let v = self.map2(&a, &b, &mut |s, x, y| {
            if elem.is_float() {
                s.ins().fcmp(float_condition(op), x, y)
            } else {
                s.ins().icmp(int_condition(op, elem), x, y)
            }
        });
        Val { ty, splat: None, ..v }
    }

    /// `mask ? a : b`
    pub(super) fn select(&mut self, mask: &Val, a: &Val, b: &Val) -> Val {
        if self.in_scalars(a.ty) {
            let regs: Vec<Value> =
                (0..a.regs.len()).map(|i| self.ins().select(mask.regs[i], a.regs[i], b.regs[i])).collect();
            let splat = (a.ty.lanes == 1).then(|| regs[0]);
            return Val { ty: a.ty, lane: a.lane, regs, splat };
        }
        let (a, b) = if a.ty.elem == DType::Bool { self.same_masks(a, b) } else { (a.clone(), b.clone()) };
        let mask = self.mask_to(mask, a.lane);
        let regs = (0..a.regs.len())
            .map(|i| {
                let ty = self.type_of(a.regs[i]);
                let m = self.bits_as(ty, mask.regs[i]);
                self.ins().bitselect(m, a.regs[i], b.regs[i])
            })
            .collect();
        Val { ty: a.ty, lane: a.lane, regs, splat: None }
    }

    /// `a * b + c`; `free` says of `a` and `b` whether nothing after this reads them.
    pub(super) fn fma(&mut self, a: &Val, b: &Val, c: &Val, free: [bool; 2]) -> Val {
        let elem = a.ty.elem;
        let fused = self.machine.fused;
        let n = a.regs.len();
        let regs: Vec<Value> = (0..n)
            .map(|i| {
                let (x, y, z) = (a.regs[i], b.regs[i], c.regs[i]);
                if !fused {
                    let product = self.binary_reg(BinOp::Mul, elem, x, y);
                    return self.binary_reg(BinOp::Add, elem, product, z);
                }
                // x86 overwrites the first operand: it should be one that dies here, or it is copied first.
                let dies = |v: &Val, free: bool| free && !v.regs[i + 1..].contains(&v.regs[i]);
                if dies(b, free[1]) && !dies(a, free[0]) { self.ins().fma(y, x, z) } else { self.ins().fma(x, y, z) }
            })
            .collect();
        Val { ty: a.ty, lane: a.lane, splat: (n == 1 && a.ty.lanes == 1).then(|| regs[0]), regs }
    }

    /// Folds the lanes by halving.
    pub(super) fn reduce(&mut self, op: BinOp, v: &Val) -> Val {
        let mut v = v.clone();
        while v.ty.lanes > 1 {
            let (low, high) = self.halves(&v);
            v = self.binary(op, &low, &high);
        }
        v
    }

    /// The lower and the upper half of the lanes.
    fn halves(&mut self, v: &Val) -> (Val, Val) {
        let half = v.ty.lanes / 2;
        let ty = Type::vector(v.ty.elem, half);
        if half == 1 {
            let (low, high) = (self.extract(v, 0), self.extract(v, 1));
            return (self.scalar(v.ty.elem, low), self.scalar(v.ty.elem, high));
        }
        if v.regs.len() > 1 {
            let (low, high) = v.regs.split_at(v.regs.len() / 2);
            let part = |regs: &[Value]| Val { ty, lane: v.lane, regs: regs.to_vec(), splat: None };
            return (part(low), part(high));
        }
        // Within one register: the upper half moves down.
        let reg = v.regs[0];
        let bytes = usize::from(half) * v.lane;
        let reg_ty = self.type_of(reg);
        let moved = if bytes >= 4 {
            // In whole 32-bit lanes, which every machine moves by one instruction.
            let mut mask = [0; 16];
            for (i, m) in mask.iter_mut().enumerate() {
                *m = ((i + bytes) % 16) as u8;
            }
            self.shuffle(reg, reg, mask)
        } else {
            let wide = self.bits_as(types::I32X4, reg);
            let by = self.iconst(types::I32, bytes as i64 * 8);
            self.ins().ushr(wide, by)
        };
        let moved = self.bits_as(reg_ty, moved);
        let part = |reg: Value| Val { ty, lane: v.lane, regs: vec![reg], splat: None };
        (part(reg), part(moved))
    }

    /// Two masks of the same width: the narrower of theirs, which takes fewer registers.
    fn same_masks(&mut self, a: &Val, b: &Val) -> (Val, Val) {
        let lane = a.lane.min(b.lane);
        (self.mask_to(a, lane), self.mask_to(b, lane))
    }

    /// A mask with lanes of `lane` bytes; other values as they are.
    pub(super) fn mask_to(&mut self, v: &Val, lane: usize) -> Val {
        if !self.is_mask(v.ty) || v.lane == lane {
            return v.clone();
        }
        if let Some(s) = v.splat {
            return self.splat(DType::Bool, s, v.ty.lanes, lane);
        }
        let mut regs = v.regs.clone();
        let mut from = v.lane;
        while from < lane {
            let n = self.registers(v.ty.lanes, 2 * from);
            regs = self.widen_regs(&regs, from, n, true);
            from *= 2;
        }
        while from > lane {
            from /= 2;
            regs = regs
                .chunks(2)
                .map(|pair| {
                    let (a, b) = (pair[0], pair[pair.len() - 1]);
                    if from == 4 { self.even(a, b, 4) } else { self.ins().snarrow(a, b) }
                })
                .collect();
        }
        Val { ty: v.ty, lane, regs, splat: None }
    }

    /// Integer registers with lanes of `from` bytes to `n` registers with lanes twice as wide.
    pub(super) fn widen_regs(&mut self, regs: &[Value], from: usize, n: usize, signed: bool) -> Vec<Value> {
        let ty = self.vector_of(int_type(from));
        let mut out = Vec::with_capacity(n);
        for (i, reg) in regs.iter().enumerate() {
            let reg = self.bits_as(ty, *reg);
            for high in [false, true] {
                if 2 * i + usize::from(high) < n {
                    out.push(match (signed, high) {
                        (true, false) => self.ins().swiden_low(reg),
                        (true, true) => self.ins().swiden_high(reg),
                        (false, false) => self.ins().uwiden_low(reg),
                        (false, true) => self.ins().uwiden_high(reg),
                    });
                }
            }
        }
        out
    }

    /// The even lanes, `lane` bytes each, of two registers.
    pub(super) fn even(&mut self, a: Value, b: Value, lane: usize) -> Value {
        let v = self.shuffle(a, b, even_lanes(lane));
        let ty: Clif = self.vector_of(int_type(lane));
        self.bits_as(ty, v)
    }

    /// `v != 0` of lanes of any type.
    pub(super) fn nonzero(&mut self, v: &Val) -> Val {
        let ty = Type::vector(DType::Bool, v.ty.lanes);
        let elem = v.ty.elem;
        let r = self.map1(v, &mut |s, r| match elem {
            DType::F32 | DType::F64 => {
                let clif = s.type_of(r);
                let zero = s.float_like(clif, 0.0);
                s.ins().fcmp(FloatCC::NotEqual, r, zero)
            }
            DType::F16 => {
                let clif = s.type_of(r);
                let magnitude = s.int_like(clif, 0x7fff);
                let r = s.ins().band(r, magnitude);
                s.is_nonzero(r)
            }
            _ => {
                let clif = s.type_of(r);
                let zero = s.int_like(clif, 0);
                s.ins().icmp(IntCC::NotEqual, r, zero)
            }
        });
        let lane = if self.in_scalars(ty) { 1 } else { v.lane };
        Val { ty, lane, splat: if ty.lanes == 1 { r.splat } else { None }, regs: r.regs }
    }
}

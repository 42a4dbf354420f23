//! Dot products of short runs of narrow integers, and the repeated vectors that they multiply.
//!
//! CLIF has no dot product: the back ends recognise trees of widenings, products and pairwise sums. The trees, and the order of
//! operands in them, are those that become one instruction: `vpdpbusd` (the unsigned operand second), `sdot`, `usdot` (the
//! unsigned operand first) and `pmaddwd`.

use super::Lower;
use super::value::Val;
use crate::capability::Dot;
use cranelift_codegen::ir::{InstBuilder, Type as Clif, Value, types};
use tenon_base::DType;
use tenon_kernel::{Expr, Type};

impl Lower<'_> {
    /// Lane `i` is `c[i] + Σ_j a[g·i + j] · b[g·i + j]`.
    pub(super) fn dot(&mut self, a: &Val, b: &Val, c: &Val) -> Val {
        if a.ty.elem == DType::U16 {
            return self.dot_bf16(a, b, c);
        }
        if self.in_scalars(c.ty) {
            return self.dot_scalars(a, b, c);
        }
        let (x, y) = (a.ty.elem, b.ty.elem);
        let regs = (0..c.regs.len()).map(|i| self.dot_reg((x, a.regs[i]), (y, b.regs[i]), c.regs[i])).collect();
        Val { ty: c.ty, lane: c.lane, regs, splat: None }
    }

    /// In scalars, lane by lane.
    fn dot_scalars(&mut self, a: &Val, b: &Val, c: &Val) -> Val {
        let group = usize::from(a.ty.lanes / c.ty.lanes);
        let (xs, ys) = (self.unpack(a), self.unpack(b));
        let (signed_x, signed_y) = (a.ty.elem.is_signed_int(), b.ty.elem.is_signed_int());
        let mut regs = c.regs.clone();
        for (i, (x, y)) in xs.into_iter().zip(ys).enumerate() {
            let (x, y) = (self.resize_int(x, types::I32, signed_x), self.resize_int(y, types::I32, signed_y));
            let product = self.ins().imul(x, y);
            regs[i / group] = self.ins().iadd(regs[i / group], product);
        }
        Val { ty: c.ty, lane: c.lane, splat: (c.ty.lanes == 1).then(|| regs[0]), regs }
    }

    fn dot_reg(&mut self, (x, a): (DType, Value), (y, b): (DType, Value), c: Value) -> Value {
        if x == DType::I16 {
            return self.dot_pairs(a, b, c);
        }
        match (self.machine.dot, x, y) {
            (Dot::Vnni, DType::I8, DType::U8) => self.dot_bytes((x, a), (y, b), c),
            (Dot::Vnni, DType::U8, DType::I8) => self.dot_bytes((y, b), (x, a), c),
            (Dot::Vnni | Dot::Pairs, ..) => {
                let [(al, ah), (bl, bh)] = [self.widened(x, a), self.widened(y, b)];
                let zero = self.int_like(types::I32X4, 0);
                let (low, high) = (self.dot_pairs(al, bl, zero), self.dot_pairs(ah, bh, zero));
                let sum = self.ins().iadd_pairwise(low, high);
                self.ins().iadd(sum, c)
            }
            (Dot::Arm { mixed: true }, DType::I8, DType::U8) => self.dot_bytes((y, b), (x, a), c),
            _ => self.dot_bytes((x, a), (y, b), c),
        }
    }

    /// The lower and upper eight bytes as 16-bit lanes.
    fn widened(&mut self, elem: DType, v: Value) -> (Value, Value) {
        if elem.is_signed_int() {
            (self.ins().swiden_low(v), self.ins().swiden_high(v))
        } else {
            (self.ins().uwiden_low(v), self.ins().uwiden_high(v))
        }
    }

    /// The tree over bytes that machines with dot products recognise. Products of two unsigned bytes are unsigned.
    fn dot_bytes(&mut self, (x, a): (DType, Value), (y, b): (DType, Value), c: Value) -> Value {
        let ((al, ah), (bl, bh)) = (self.widened(x, a), self.widened(y, b));
        let low = self.ins().imul(al, bl);
        let high = self.ins().imul(ah, bh);
        let mut pairs = |v: Value| {
            let (l, h) = if x.is_signed_int() || y.is_signed_int() {
                (self.ins().swiden_low(v), self.ins().swiden_high(v))
            } else {
                (self.ins().uwiden_low(v), self.ins().uwiden_high(v))
            };
            self.ins().iadd_pairwise(l, h)
        };
        let (low, high) = (pairs(low), pairs(high));
        let sum = self.ins().iadd_pairwise(low, high);
        self.ins().iadd(sum, c)
    }

    /// The tree over 16-bit lanes: `pmaddwd` on x86.
    fn dot_pairs(&mut self, a: Value, b: Value, c: Value) -> Value {
        let (al, bl) = (self.ins().swiden_low(a), self.ins().swiden_low(b));
        let low = self.ins().imul(al, bl);
        let (ah, bh) = (self.ins().swiden_high(a), self.ins().swiden_high(b));
        let high = self.ins().imul(ah, bh);
        let sum = self.ins().iadd_pairwise(low, high);
        self.ins().iadd(sum, c)
    }

    /// `x`, a vector, repeated until there are `n` lanes.
    pub(super) fn repeat_expr(&mut self, n: u16, x: &Expr) -> Val {
        let Type { elem, lanes } = self.kernel.type_of(x);
        let bytes = usize::from(lanes) * elem.size();
        let ty = Type::vector(elem, n);
        let word = match bytes {
            _ if self.in_scalars(ty) || elem == DType::Bool => None,
            2 => Some(types::I16),
            4 => Some(types::I32),
            8 => Some(types::I64),
            _ => None,
        };
        let Some(word) = word else {
            let x = self.expr(x);
            if bytes == 16 && !self.in_scalars(ty) && elem != DType::Bool {
                let regs = vec![x.regs[0]; self.registers(n, elem.size())];
                return Val { ty, lane: x.lane, regs, splat: None };
            }
            let parts = self.unpack(&x);
            let all: Vec<Value> = parts.iter().copied().cycle().take(usize::from(n)).collect();
            return self.pack(elem, &all);
        };
        // The run is one word, which is repeated.
        let word = match x {
            Expr::Load { buf, index, .. } => {
                let (addr, offset) = self.address(*buf, index);
                let flags = self.flags(*buf);
                self.ins().load(word, flags, addr, offset)
            }
            x => {
                let v = self.expr(x);
                let vector: Clif = self.vector_of(word);
                let reg = self.bits_as(vector, v.regs[0]);
                self.ins().extractlane(reg, 0)
            }
        };
        let vector = self.vector_of(self.type_of(word));
        let reg = self.ins().splat(vector, word);
        let reg_ty = self.reg_type(ty, elem.size());
        let reg = self.bits_as(reg_ty, reg);
        Val { ty, lane: elem.size(), regs: vec![reg; self.registers(n, elem.size())], splat: None }
    }
}

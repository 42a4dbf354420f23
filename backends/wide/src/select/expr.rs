//! Expressions.

use super::Select;
use super::integer::condition;
use super::saturate::saturating;
use super::value::{Row, Val, in_vector};
use crate::lir::{Arg, Cond, Op};
use regalloc2::VReg;
use tenon_base::DType;
use tenon_kernel::{BinOp, CmpOp, Expr, Type, Var};

impl Select<'_> {
    /// The value of `e`. Operands are evaluated in order, left to right.
    pub(super) fn expr(&mut self, e: &Expr) -> Val {
        match e {
            Expr::Const(s) => {
                let row = self.scalar_constant(*s);
                Val::scalar(s.dtype(), row)
            }
            Expr::Var(v) => self.read(*v),
            Expr::Load { buf, index, lanes } => {
                let m = self.address(*buf, index);
                self.load(*buf, *lanes, m)
            }
            Expr::Unary(op, x) => {
                let x = self.expr(x);
                self.unary(*op, &x)
            }
            Expr::Binary(op, xy) => {
                let (x, y) = (self.expr(&xy[0]), self.expr(&xy[1]));
                self.binary(*op, &x, &y)
            }
            Expr::Compare(op, xy) => {
                let (x, y) = (self.expr(&xy[0]), self.expr(&xy[1]));
                let elem = x.ty.elem;
                if !x.is_scalar() {
                    if elem == DType::Bool {
                        return self.compare_masks(*op == tenon_kernel::CmpOp::Eq, &x, &y);
                    }
                    return self.compare_vectors(*op, &x, &y);
                }
                let (x, y) = (x.rows[0], y.rows[0]);
                let row = if in_vector(elem) {
                    self.compare_float(*op, elem, x, y)
                } else {
                    self.compare_int(*op, elem, x, y)
                };
                Val::scalar(DType::Bool, row)
            }
            Expr::Select(mxy) => self.select_expr(&mxy[0], &mxy[1], &mxy[2]),
            Expr::Fma(xyz) => {
                let [x, y, z] = [0, 1, 2].map(|i| self.expr(&xyz[i]));
                let free = [0, 1, 2].map(|i| self.is_free(&xyz[i]));
                self.fma(&x, &y, &z, free)
            }
            Expr::ToBf16(x) => {
                let x = self.expr(x);
                self.rounded_bf16(&x)
            }
            Expr::Cast(to, x) => self.cast_expr(x, *to),
            Expr::Bitcast(to, x) => {
                let x = self.expr(x);
                self.bitcast(&x, *to)
            }
            Expr::Dot(xyz) => {
                let [x, y, z] = [0, 1, 2].map(|i| self.expr(&xyz[i]));
                self.dot(&x, &y, &z)
            }
            // A run of one word is broadcast straight from memory.
            Expr::Splat(n, x) if self.is_word_load(x) => match &**x {
                Expr::Load { buf, index, lanes } => {
                    let elem = self.kernel.buffer(*buf).dtype;
                    let m = self.address(*buf, index);
                    self.repeat_memory(elem, m, *lanes, *n)
                }
                x => self.expr(x),
            },
            Expr::Splat(n, x) => {
                let x = self.expr(x);
                if !x.is_scalar() {
                    return self.repeat(&x, *n);
                }
                self.splat(x.ty.elem, x.rows[0], *n, x.ty.elem.size())
            }
            Expr::Lanes(es) => {
                if let Some(op) = self.folds_eight(es) {
                    let folded = |e: &Expr| if let Expr::Reduce(_, x) = e { self.expr(x) } else { self.expr(e) };
                    let vectors: Vec<Val> = es.iter().map(folded).collect();
                    return self.reduce_eight(op, vectors);
                }
                if let Some((a, b)) = self.alternate(es) {
                    let (a, b) = (self.expr(a), self.expr(b));
                    return self.weave(&a, &b);
                }
                if let Some((a, b, from)) = self.of_two(es)
                    && let Some(pick) = self.pick(&from)
                {
                    let [x, y] = [a, b].map(|v| self.read(v));
                    es.iter().skip(2).for_each(|e| drop(e.as_lane().map(|(v, _)| self.read(v))));
                    return self.picked(&x, &y, pick);
                }
                if let Some(v) = first_lanes(es) {
                    // One value, but as many uses.
                    es.iter().skip(1).for_each(|_| drop(self.read(v)));
                    let v = self.read(v);
                    return self.narrowed(v, es.len() as u16);
                }
                let elem = self.kernel.type_of(&es[0]).elem;
                let lanes: Vec<Row> = es.iter().map(|e| self.expr(e).rows[0]).collect();
                self.pack(elem, &lanes)
            }
            Expr::Extract(x, i) => {
                let x = self.expr(x);
                let row = self.extract(&x, *i);
                Val::scalar(x.ty.elem, row)
            }
            Expr::Reduce(op, x) => {
                let x = self.expr(x);
                self.reduce(*op, &x)
            }
            Expr::Math(f, x) => {
                self.unsupported(format!("the function {f:?}"));
                self.expr(&x[0])
            }
        }
    }

    fn compare_masks(&mut self, equal: bool, a: &Val, b: &Val) -> Val {
        let differ = self.binary(BinOp::Xor, a, b);
        if !equal {
            return differ;
        }
        let w = self.width_of(&differ);
        let rows = self.map1(&differ, &mut |s, r| s.complement(r, w));
        Val { rows, splat: None, ..differ }
    }

    fn select_expr(&mut self, mask: &Expr, x: &Expr, y: &Expr) -> Val {
        let ty = self.kernel.type_of(x);
        if ty.lanes > 1 {
            let m = self.expr(mask);
            let (x, y) = (self.expr(x), self.expr(y));
            return self.select_vectors(&m, &x, &y);
        }
        // A comparison of floats selects floats of its size without a detour.
        if let Expr::Compare(op, ab) = mask
            && in_vector(ty.elem)
            && self.kernel.type_of(&ab[0]) == ty
            && !self.isa.avx512
        {
            let (a, b) = (self.expr(&ab[0]).rows[0], self.expr(&ab[1]).rows[0]);
            let m = self.scalar_mask(*op, ty.elem, a, b);
            let (x, y) = (self.scalar_float(x), self.scalar_float(y));
            let row = self.blend(m, Row::Reg(x), Row::Reg(y), ty.elem.size(), crate::lir::Width::X);
            return Val::scalar(ty.elem, row);
        }
        // Flags select integers without a detour, too.
        if let Expr::Compare(op, ab) = mask
            && !in_vector(ty.elem)
            && let Some(row) = self.select_by_flags(*op, ab, ty.elem, (x, y))
        {
            return Val::scalar(ty.elem, row);
        }
        let m = self.expr(mask).rows[0];
        let (x, y) = (self.expr(x).rows[0], self.expr(y).rows[0]);
        let row = self.select_scalar(m, ty.elem, x, y);
        Val::scalar(ty.elem, row)
    }

    /// `a op b ? x : y` for integer scalars `x` and `y`, if one comparison sets flags that say so.
    fn select_by_flags(&mut self, op: CmpOp, ab: &[Expr; 2], elem: DType, (x, y): (&Expr, &Expr)) -> Option<Row> {
        let of = self.kernel.type_of(&ab[0]).elem;
        let size = if elem.size() == 8 { 8 } else { 4 };
        // Where one is NaN, the flags say that the first is below the second.
        let (first, second, cond) = match (op, in_vector(of)) {
            (_, false) if of.is_int() => (0, 1, condition(op, of.is_signed_int())),
            (CmpOp::Gt, true) => (0, 1, Cond::A),
            (CmpOp::Ge, true) => (0, 1, Cond::Ae),
            (CmpOp::Lt, true) => (1, 0, Cond::A),
            (CmpOp::Le, true) => (1, 0, Cond::Ae),
            _ => return None,
        };
        let ab = [self.expr(&ab[0]).rows[0], self.expr(&ab[1]).rows[0]];
        let (a, b) = (ab[first], ab[second]);
        let (x, y) = (self.expr(x).rows[0], self.expr(y).rows[0]);
        let (x, y) = (self.int_reg(x, elem), self.int_reg(y, elem));
        if in_vector(of) {
            let a = self.float_reg(a, of);
            let b = self.operand(b);
            let d = self.gen_reg();
            let op = Op::CmovFloat { cond, double: of == DType::F64, size };
            self.push(op, [Arg::Mod(d, y), Arg::Use(a), b, Arg::Use(x)]);
            return Some(Row::Reg(d));
        }
        let bytes = if of.size() == 8 { 8 } else { 4 };
        let a = self.int_reg(a, of);
        let b = self.compared(b, bytes, of.size(), of.is_signed_int());
        Some(Row::Reg(self.cmov(cond, bytes, (a, b), x, y, size)))
    }

    /// `x` as `to`.
    fn cast_expr(&mut self, x: &Expr, to: DType) -> Val {
        // Integers that fill a part of a register are widened as they are loaded.
        if let Expr::Load { buf, index, lanes } = x
            && self.widens_as_loaded(x, to)
        {
            let from = self.kernel.buffer(*buf).dtype;
            let wide = if to.is_float() { DType::I32 } else { to };
            let m = self.address(*buf, index);
            let rows = self.resize_rows(&[Row::Mem(m)], *lanes, from.size(), wide.size(), from.is_signed_int());
            return self.cast(&Val::vector(Type::vector(wide, *lanes), rows), to);
        }
        if !self.isa.avx512
            && self.kernel.type_of(x).lanes > 1
            && let Some(s) = saturating(x, to)
        {
            return self.saturate(&s, to);
        }
        let x = self.expr(x);
        self.cast(&x, to)
    }

    /// Whether `e` loads narrow integers, 4 or 8 bytes of them, that as `to` fill one register.
    fn widens_as_loaded(&self, e: &Expr, to: DType) -> bool {
        let Expr::Load { buf, lanes, .. } = e else { return false };
        let (from, n) = (self.kernel.buffer(*buf).dtype, usize::from(*lanes));
        let size = if to.is_float() { 4 } else { to.size() };
        let integers = from.is_int() && (to.is_int() || matches!(to, DType::F32 | DType::F64));
        let whole = n * size == 16 || n * size == 32 && self.isa.bytes >= 32;
        integers && from.size() < size && matches!(n * from.size(), 4 | 8) && whole
    }

    /// The operation by which `es` fold eight vectors of at least eight `f32` each, if they do.
    fn folds_eight(&self, es: &[Expr]) -> Option<BinOp> {
        let Some(Expr::Reduce(op @ (BinOp::Add | BinOp::Mul), _)) = es.first() else { return None };
        let folds = |e: &Expr| match e {
            Expr::Reduce(o, x) => {
                let ty = self.kernel.type_of(x);
                o == op && ty.elem == DType::F32 && ty.lanes >= 8 && ty.lanes.is_power_of_two()
            }
            _ => false,
        };
        (es.len() == 8 && es.iter().all(folds)).then_some(*op)
    }

    /// The two vectors of words whose lanes alternate in `es`, all of them and in order, if they are such.
    fn alternate<'e>(&self, es: &'e [Expr]) -> Option<(&'e Expr, &'e Expr)> {
        let of = |e: &'e Expr| if let Expr::Extract(x, l) = e { Some((&**x, usize::from(*l))) } else { None };
        let ((a, _), (b, _)) = (of(es.first()?)?, of(es.get(1)?)?);
        let ty = self.kernel.type_of(a);
        let plain = matches!((a, b), (Expr::Var(_), Expr::Var(_))) && ty == self.kernel.type_of(b);
        let fits = ty.elem.size() == 4 && 2 * usize::from(ty.lanes) == es.len() && ty.lanes > 1;
        let alternate = es.iter().enumerate().all(|(i, e)| of(e) == Some((if i % 2 == 0 { a } else { b }, i / 2)));
        (plain && fits && alternate).then_some((a, b))
    }

    /// The two vectors of words that all of `es` are lanes of, if each fills as much of one register as the result; and for each lane the one
    /// that it is of the two vectors one after the other.
    fn of_two(&self, es: &[Expr]) -> Option<(Var, Var, Vec<usize>)> {
        let all = es.iter().map(Expr::as_lane).collect::<Option<Vec<_>>>()?;
        let a = all[0].0;
        let b = all.iter().map(|(v, _)| *v).find(|v| *v != a)?;
        let ty = self.kernel.var(a).ty;
        let fits = ty.elem.size() == 4 && usize::from(ty.lanes) == es.len() && 4 * es.len() <= self.isa.bytes;
        let lane = |(v, l): &(Var, u16)| match *v {
            v if v == a => Some(usize::from(*l)),
            v if v == b => Some(es.len() + usize::from(*l)),
            _ => None,
        };
        let from = all.iter().map(lane).collect::<Option<Vec<_>>>()?;
        (fits && self.kernel.var(b).ty == ty).then_some((a, b, from))
    }

    fn scalar_float(&mut self, e: &Expr) -> VReg {
        let v = self.expr(e);
        self.float_reg(v.rows[0], v.ty.elem)
    }

    /// The present value of a variable.
    fn read(&mut self, v: Var) -> Val {
        let uses = &mut self.uses[v.0 as usize];
        *uses = uses.saturating_sub(1);
        self.vars[v.0 as usize].clone().expect("the verifier saw that it is in scope").val
    }

    /// Whether nothing later reads the register of `e`, which was just selected.
    fn is_free(&self, e: &Expr) -> bool {
        match e {
            Expr::Var(v) if self.setting == Some(*v) => true,
            Expr::Var(v) => {
                let here = self.vars[v.0 as usize].as_ref().is_some_and(|b| b.depth == self.depth);
                here && self.uses[v.0 as usize] == 0
            }
            // These may give the operand's own register. A wrong answer costs a copy, no more.
            Expr::Bitcast(_, x) | Expr::Extract(x, _) => self.is_free(x),
            Expr::Cast(to, x) => self.kernel.type_of(x).elem != *to || self.is_free(x),
            _ => true,
        }
    }
}

/// The variable whose first lanes `es` are, in their order.
fn first_lanes(es: &[Expr]) -> Option<Var> {
    let lane = |(i, e): (usize, &Expr)| e.as_lane().filter(|(_, at)| usize::from(*at) == i).map(|(v, _)| v);
    let first = lane((0, &es[0]))?;
    (es.len() > 1 && es.iter().enumerate().all(|e| lane(e) == Some(first))).then_some(first)
}

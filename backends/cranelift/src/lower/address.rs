//! Addresses.
//!
//! An index is split into a constant, which becomes the displacement of the load, and terms `coefficient · atom`; an
//! atom is a variable, or a subexpression that is not affine. Accesses that differ by a constant only share one
//! address. Before a loop, the terms that do not change in it are summed once for each such address; in an innermost
//! loop the sum becomes a pointer that advances by a constant.

use super::Lower;
use cranelift_codegen::ir::{InstBuilder, Value, types};
use std::collections::{BTreeMap, HashMap};
use tenon_base::{DType, Scalar};
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::{BinOp, Buf, Expr, Kernel, Stmt, Type, Var};

/// What an index is linear in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Atom {
    /// A variable.
    Var(Var),
    /// An expression: its position in [`Addresses::exprs`].
    Expr(u32),
}

/// `coefficient · atom`, one for each atom; coefficients are in elements and never 0.
pub(super) type Terms = BTreeMap<Atom, i64>;

/// A linear form; arithmetic wraps, as that of `i64` in the kernel does.
#[derive(Clone, Debug, Default)]
struct Linear {
    base: i64,
    terms: Terms,
}

impl Linear {
    fn add(mut self, other: &Linear, factor: i64) -> Linear {
        self.base = self.base.wrapping_add(other.base.wrapping_mul(factor));
        for (a, c) in &other.terms {
            let e = self.terms.entry(*a).or_insert(0);
            *e = e.wrapping_add(c.wrapping_mul(factor));
        }
        self.terms.retain(|_, c| *c != 0);
        self
    }
}

/// An address that was computed: that of element `terms` of `buf`.
#[derive(Clone, Debug)]
struct Known {
    buf: Buf,
    terms: Terms,
    value: Value,
}

/// A pointer that advances with a loop.
pub(super) struct LoopPointer {
    pub(super) buf: Buf,
    pub(super) terms: Terms,
    /// Its value in the first iteration.
    pub(super) first: Value,
    /// Bytes an iteration.
    pub(super) step: i64,
}

/// What is known of addresses at the present point.
pub(super) struct Addresses {
    exprs: Vec<Expr>,
    numbers: HashMap<Expr, u32>,
    /// Variables whose present value is linear in others, or constant.
    lets: BTreeMap<Var, Linear>,
    /// Variables that `set` may change.
    mutable: Vec<bool>,
    /// By block, innermost last.
    scopes: Vec<Scope>,
}

#[derive(Default)]
struct Scope {
    known: Vec<Known>,
    values: Vec<(Atom, Value)>,
}

impl Addresses {
    pub(super) fn new(kernel: &Kernel) -> Addresses {
        let mut a = Addresses {
            exprs: vec![],
            numbers: HashMap::new(),
            lets: BTreeMap::new(),
            mutable: vec![false; kernel.vars.len()],
            scopes: vec![],
        };
        visit_stmts(&kernel.body, &mut |s| {
            if let Stmt::Declare { var, .. } = s {
                a.mutable[var.0 as usize] = true;
            }
        });
        a
    }

    /// `var` has the value of `e` from here on, if that is linear in variables that do not change.
    pub(super) fn define(&mut self, var: Var, e: &Expr, kernel: &Kernel) {
        self.lets.remove(&var);
        // A value that is not linear is better computed once, where the `let` stands.
        let arithmetic =
            matches!(e, Expr::Binary(BinOp::Add | BinOp::Sub | BinOp::Mul, _) | Expr::Var(_) | Expr::Const(_));
        if !arithmetic || kernel.var(var).ty != Type::INDEX {
            return;
        }
        let linear = self.linear(e);
        if linear.terms.keys().all(|t| matches!(t, Atom::Var(v) if !self.mutable[v.0 as usize])) {
            self.lets.insert(var, linear);
        }
    }

    /// `var` is defined anew, as a loop's variable.
    pub(super) fn define_opaque(&mut self, var: Var) {
        self.lets.remove(&var);
    }

    pub(super) fn enter(&mut self) {
        self.scopes.push(Scope::default());
    }

    pub(super) fn leave(&mut self) {
        self.scopes.pop();
    }

    /// `var` has the value `v` from here on.
    pub(super) fn define_constant(&mut self, var: Var, v: i64) {
        self.lets.insert(var, Linear { base: v, terms: Terms::new() });
    }

    /// `value` is the address of element `terms` of `buf`, in the present scope.
    pub(super) fn remember(&mut self, buf: Buf, terms: Terms, value: Value) {
        if let Some(s) = self.scopes.last_mut() {
            s.known.push(Known { buf, terms, value });
        }
    }

    fn linear(&mut self, e: &Expr) -> Linear {
        let of = |a: Atom| Linear { base: 0, terms: Terms::from([(a, 1)]) };
        match e {
            Expr::Const(Scalar::Int(DType::I64, v)) => Linear { base: *v as i64, terms: Terms::new() },
            Expr::Var(v) => match self.lets.get(v) {
                Some(l) => l.clone(),
                None => of(Atom::Var(*v)),
            },
            Expr::Binary(BinOp::Add, xy) => self.linear(&xy[0]).add(&self.linear(&xy[1]), 1),
            Expr::Binary(BinOp::Sub, xy) => self.linear(&xy[0]).add(&self.linear(&xy[1]), -1),
            Expr::Binary(BinOp::Mul, xy) => {
                let (x, y) = (self.linear(&xy[0]), self.linear(&xy[1]));
                match (x.terms.is_empty(), y.terms.is_empty()) {
                    (true, _) => Linear::default().add(&y, x.base),
                    (_, true) => Linear::default().add(&x, y.base),
                    _ => of(self.number(e)),
                }
            }
            _ => of(self.number(e)),
        }
    }

    fn number(&mut self, e: &Expr) -> Atom {
        let next = self.exprs.len() as u32;
        let n = *self.numbers.entry(e.clone()).or_insert(next);
        if n == next {
            self.exprs.push(e.clone());
        }
        Atom::Expr(n)
    }

    /// Whether the atom has one value wherever it is in scope.
    fn is_stable(&self, a: Atom) -> bool {
        match a {
            Atom::Var(v) => !self.mutable[v.0 as usize],
            Atom::Expr(n) => {
                let mut stable = true;
                self.exprs[n as usize].visit(&mut |e| match e {
                    Expr::Load { .. } => stable = false,
                    Expr::Var(v) => stable &= !self.mutable[v.0 as usize],
                    _ => {}
                });
                stable
            }
        }
    }
}

impl Lower<'_> {
    /// The value of `e` if it is a constant, by way of variables or not.
    pub(super) fn constant_index(&mut self, e: &Expr) -> Option<i64> {
        let l = self.addresses.linear(e);
        l.terms.is_empty().then_some(l.base)
    }

    /// The address of element `index` of `buf`, and a displacement to add.
    pub(super) fn address(&mut self, buf: Buf, index: &Expr) -> (Value, i32) {
        let linear = self.addresses.linear(index);
        let addr = self.element(buf, &linear.terms);
        let bytes = linear.base.wrapping_mul(self.kernel.buffer(buf).dtype.size() as i64);
        // Far from the ends of `i32`: the pieces of a wide access add to it.
        match i32::try_from(bytes) {
            Ok(b) if b.unsigned_abs() < 1 << 30 => (addr, b),
            _ => {
                let far = self.iconst(types::I64, bytes);
                (self.ins().iadd(addr, far), 0)
            }
        }
    }

    /// The address of element `terms` of `buf`.
    fn element(&mut self, buf: Buf, terms: &Terms) -> Value {
        let stable: Terms =
            terms.iter().filter(|(a, _)| self.addresses.is_stable(**a)).map(|(a, c)| (*a, *c)).collect();
        let mut addr = self.stable_element(buf, &stable);
        for (a, c) in terms.iter().filter(|(a, _)| !stable.contains_key(a)) {
            addr = self.advance(addr, *a, *c, buf);
        }
        addr
    }

    /// The same for terms that do not change: known, or computed from the nearest that is.
    fn stable_element(&mut self, buf: Buf, terms: &Terms) -> Value {
        let mut best: Option<&Known> = None;
        for k in self.addresses.scopes.iter().rev().flat_map(|s| &s.known).filter(|k| k.buf == buf) {
            let part = k.terms.iter().all(|(a, c)| terms.get(a) == Some(c));
            if part && best.is_none_or(|b| k.terms.len() > b.terms.len()) {
                best = Some(k);
            }
        }
        let (mut addr, done) = match best {
            Some(k) => (k.value, k.terms.clone()),
            None => (self.buffers[buf.0 as usize], Terms::new()),
        };
        if done.len() == terms.len() {
            return addr;
        }
        for (a, c) in terms.iter().filter(|(a, _)| !done.contains_key(a)) {
            addr = self.advance(addr, *a, *c, buf);
        }
        self.addresses.remember(buf, terms.clone(), addr);
        addr
    }

    /// `addr` plus `coefficient · atom` elements of `buf`.
    fn advance(&mut self, addr: Value, atom: Atom, coefficient: i64, buf: Buf) -> Value {
        let v = self.atom(atom);
        let bytes = coefficient.wrapping_mul(self.kernel.buffer(buf).dtype.size() as i64);
        let offset = self.scale(v, bytes);
        self.ins().iadd(addr, offset)
    }

    /// `v · by`
    fn scale(&mut self, v: Value, by: i64) -> Value {
        if by == 1 {
            v
        } else if by > 0 && by.count_ones() == 1 {
            self.shift(BinOp::Shl, false, v, by.trailing_zeros())
        } else {
            let by = self.iconst(types::I64, by);
            self.ins().imul(v, by)
        }
    }

    fn atom(&mut self, atom: Atom) -> Value {
        let n = match atom {
            Atom::Var(v) => return self.scalar_expr(&Expr::Var(v)),
            Atom::Expr(n) => n,
        };
        let known = self.addresses.scopes.iter().rev().flat_map(|s| &s.values).find(|(a, _)| *a == atom);
        if let Some((_, v)) = known {
            return *v;
        }
        let e = self.addresses.exprs[n as usize].clone();
        let v = self.scalar_expr(&e);
        if self.addresses.is_stable(atom)
            && let Some(s) = self.addresses.scopes.last_mut()
        {
            s.values.push((atom, v));
        }
        v
    }

    /// Whether the atom can be computed here and does not change.
    fn is_available(&self, atom: Atom) -> bool {
        if !self.addresses.is_stable(atom) {
            return false;
        }
        match atom {
            Atom::Var(v) => self.vars[v.0 as usize].is_some(),
            Atom::Expr(n) => {
                let mut all = true;
                self.addresses.exprs[n as usize].visit(&mut |e| {
                    if let Expr::Var(v) = e {
                        all &= self.vars[v.0 as usize].is_some();
                    }
                });
                all
            }
        }
    }

    /// Computes, before the loop over `var`, what the addresses in `body` have in common with all iterations; in an
    /// innermost loop gives the pointers that advance with it.
    pub(super) fn loop_pointers(
        &mut self,
        var: Var,
        lo: Option<i64>,
        lo_value: Value,
        step: i64,
        body: &[Stmt],
    ) -> Vec<LoopPointer> {
        let mut innermost = true;
        visit_stmts(body, &mut |s| innermost &= !matches!(s, Stmt::For { .. } | Stmt::While { .. }));
        let mut pointers: Vec<LoopPointer> = vec![];
        for (buf, terms) in self.accesses(body) {
            let here: Terms = terms.iter().filter(|(a, _)| self.is_available(**a)).map(|(a, c)| (*a, *c)).collect();
            let base = self.stable_element(buf, &here);
            let Some(&c) = terms.get(&Atom::Var(var)) else { continue };
            if !innermost || pointers.len() >= self.machine.max_pointers {
                continue;
            }
            let mut with_var = here;
            with_var.insert(Atom::Var(var), c);
            if pointers.iter().any(|p| p.buf == buf && p.terms == with_var) {
                continue;
            }
            let bytes = c.wrapping_mul(self.kernel.buffer(buf).dtype.size() as i64);
            let first = match lo {
                Some(0) => base,
                Some(lo) => {
                    let at = self.iconst(types::I64, lo.wrapping_mul(bytes));
                    self.ins().iadd(base, at)
                }
                None => {
                    let at = self.scale(lo_value, bytes);
                    self.ins().iadd(base, at)
                }
            };
            pointers.push(LoopPointer { buf, terms: with_var, first, step: bytes.wrapping_mul(step) });
        }
        pointers
    }

    /// The distinct addresses, but for constants, that `body` accesses.
    fn accesses(&mut self, body: &[Stmt]) -> Vec<(Buf, Terms)> {
        let outside = self.addresses.lets.clone();
        let mut out = vec![];
        let kernel = self.kernel;
        // In text order, so that each access sees the `let`s before it; the same variable may be defined again later.
        visit_stmts(body, &mut |s| {
            let mut access = |buf: Buf, index: &Expr| {
                let access = (buf, self.addresses.linear(index).terms);
                if !out.contains(&access) {
                    out.push(access);
                }
            };
            s.exprs(&mut |e| {
                e.visit(&mut |e| {
                    if let Expr::Load { buf, index, .. } = e {
                        access(*buf, index);
                    }
                });
            });
            match s {
                Stmt::Store { buf, index, .. } => access(*buf, index),
                Stmt::Let { var, value } => self.addresses.define(*var, value, kernel),
                Stmt::For { var, .. } => self.addresses.define_opaque(*var),
                _ => {}
            }
        });
        self.addresses.lets = outside;
        out
    }
}

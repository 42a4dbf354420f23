//! Addresses: how an index splits into what changes and what does not, and what of it is already in a register.
//!
//! An index is a constant and terms `coefficient · atom`; an atom is a variable, or a subexpression that is not affine. The
//! constant becomes the displacement of an access, so accesses that differ by a constant only share one address. `V` is a
//! code generator's value in a register.

use crate::stmt::visit_stmts;
use crate::{BinOp, Buf, Expr, Kernel, Stmt, Type, Var};
use std::collections::{BTreeMap, HashMap};
use tenon_base::{DType, Scalar};

/// What an index is linear in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Atom {
    /// A variable.
    Var(Var),
    /// An expression: its position in [`Addresses::exprs`].
    Expr(u32),
}

/// `coefficient · atom`, one for each atom; coefficients are in elements and never 0.
pub type Terms = BTreeMap<Atom, i64>;

/// A linear form; arithmetic wraps, as that of `i64` in the kernel does.
#[derive(Clone, Debug, Default)]
pub struct Linear {
    /// The constant.
    pub base: i64,
    /// All else.
    pub terms: Terms,
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
pub struct Known<V> {
    buf: Buf,
    /// The element, without its constant.
    pub terms: Terms,
    /// Its address.
    pub value: V,
}

/// A pointer that advances with a loop.
#[derive(Clone, Debug)]
pub struct LoopPointer<V> {
    /// The buffer it points into.
    pub buf: Buf,
    /// The element, without its constant.
    pub terms: Terms,
    /// Its value in the first iteration.
    pub first: V,
    /// Bytes an iteration.
    pub step: i64,
}

/// What is known of addresses at the present point.
#[derive(Debug)]
pub struct Addresses<V> {
    exprs: Vec<Expr>,
    numbers: HashMap<Expr, u32>,
    /// Variables whose present value is linear in others, or constant.
    lets: BTreeMap<Var, Linear>,
    /// Variables that `set` may change.
    mutable: Vec<bool>,
    /// By block, innermost last.
    scopes: Vec<Scope<V>>,
}

#[derive(Debug)]
struct Scope<V> {
    known: Vec<Known<V>>,
    values: Vec<(Atom, V)>,
}

impl<V: Copy> Addresses<V> {
    /// Nothing is known at the start of `kernel`.
    pub fn new(kernel: &Kernel) -> Addresses<V> {
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
    pub fn define(&mut self, var: Var, e: &Expr, kernel: &Kernel) {
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
    pub fn define_opaque(&mut self, var: Var) {
        self.lets.remove(&var);
    }

    /// `var` has the value `v` from here on.
    pub fn define_constant(&mut self, var: Var, v: i64) {
        self.lets.insert(var, Linear { base: v, terms: Terms::new() });
    }

    /// A block begins.
    pub fn enter(&mut self) {
        self.scopes.push(Scope { known: vec![], values: vec![] });
    }

    /// A block ends, and what was computed in it is out of reach.
    pub fn leave(&mut self) {
        self.scopes.pop();
    }

    /// `value` is the address of element `terms` of `buf`, in the present scope.
    pub fn remember(&mut self, buf: Buf, terms: Terms, value: V) {
        if let Some(s) = self.scopes.last_mut() {
            s.known.push(Known { buf, terms, value });
        }
    }

    /// The index `e` at the present point.
    pub fn linear(&mut self, e: &Expr) -> Linear {
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
    pub fn is_stable(&self, a: Atom) -> bool {
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

    /// The nearest known address of `buf` whose terms are all among `terms`.
    pub fn nearest(&self, buf: Buf, terms: &Terms) -> Option<&Known<V>> {
        let mut best: Option<&Known<V>> = None;
        for k in self.scopes.iter().rev().flat_map(|s| &s.known).filter(|k| k.buf == buf) {
            let part = k.terms.iter().all(|(a, c)| terms.get(a) == Some(c));
            if part && best.is_none_or(|b| k.terms.len() > b.terms.len()) {
                best = Some(k);
            }
        }
        best
    }

    /// The expression that atom number `n` stands for.
    pub fn expr(&self, n: u32) -> &Expr {
        &self.exprs[n as usize]
    }

    /// The value of `atom`, if it was computed in a block around.
    pub fn value_of(&self, atom: Atom) -> Option<V> {
        self.scopes.iter().rev().flat_map(|s| &s.values).find(|(a, _)| *a == atom).map(|(_, v)| *v)
    }

    /// `atom` has the value `v` in the present scope, if it does not change there.
    pub fn remember_value(&mut self, atom: Atom, v: V) {
        if self.is_stable(atom)
            && let Some(s) = self.scopes.last_mut()
        {
            s.values.push((atom, v));
        }
    }

    /// Whether `atom` does not change and can be computed from the variables that `defined` accepts.
    pub fn is_available(&self, atom: Atom, defined: &dyn Fn(Var) -> bool) -> bool {
        let mut all = self.is_stable(atom);
        match atom {
            Atom::Var(v) => all &= defined(v),
            Atom::Expr(n) => self.expr(n).visit(&mut |e| {
                if let Expr::Var(v) = e {
                    all &= defined(*v);
                }
            }),
        }
        all
    }

    /// The distinct addresses, but for constants, that `body` accesses.
    pub fn accesses(&mut self, body: &[Stmt], kernel: &Kernel) -> Vec<(Buf, Terms)> {
        let outside = self.lets.clone();
        let mut out = vec![];
        // In text order, so that each access sees the `let`s before it; the same variable may be defined again later.
        visit_stmts(body, &mut |s| {
            let mut access = |buf: Buf, index: &Expr| {
                let access = (buf, self.linear(index).terms);
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
                Stmt::Store { buf, index, .. } | Stmt::Prefetch { buf, index } => access(*buf, index),
                Stmt::Tiles(t) => access(t.out, &t.out_index),
                Stmt::Let { var, value } => self.define(*var, value, kernel),
                Stmt::For { var, .. } => self.define_opaque(*var),
                _ => {}
            }
        });
        self.lets = outside;
        out
    }
}

/// Whether `body` has no loop in it, of statements or of tiles.
pub fn is_innermost(body: &[Stmt]) -> bool {
    let mut innermost = true;
    visit_stmts(body, &mut |s| innermost &= !matches!(s, Stmt::For { .. } | Stmt::While { .. } | Stmt::Tiles(_)));
    innermost
}

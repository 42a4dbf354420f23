//! Whole kernels: expressions are simplified with what is known where they stand.

use super::{Simplifier, bool_const};
use crate::interval::Interval;
use crate::stmt::set_in;
use crate::{Contract, Expr, Facts, Fetch, Kernel, Stmt, Var};
use std::collections::BTreeSet;

/// Simplifies statements, with what is known at each.
pub(super) struct Walker<'k> {
    kernel: &'k Kernel,
    facts: Facts<'k>,
}

impl<'k> Walker<'k> {
    pub(super) fn new(kernel: &'k Kernel) -> Walker<'k> {
        Walker { kernel, facts: Facts::new(kernel) }
    }

    fn expr(&self, e: Expr) -> Expr {
        Simplifier { facts: &self.facts, kernel: Some(self.kernel) }.any(e)
    }

    pub(super) fn block(&mut self, body: Vec<Stmt>) -> Vec<Stmt> {
        let mark = self.facts.enter();
        let mut out = Vec::with_capacity(body.len());
        body.into_iter().for_each(|s| self.stmt(s, &mut out));
        self.facts.leave(mark);
        out
    }

    fn change(&mut self, vars: &BTreeSet<Var>) {
        vars.iter().for_each(|v| self.facts.change(*v));
    }

    fn guarded(&mut self, cond: &Expr, outcome: bool, body: Vec<Stmt>) -> Vec<Stmt> {
        if bool_const(cond) == Some(!outcome) {
            return vec![];
        }
        let mark = self.facts.enter();
        self.facts.assume(cond, outcome);
        let body = self.block(body);
        self.facts.leave(mark);
        body
    }

    /// A value given to a variable that may change.
    fn give(&mut self, var: Var, value: Expr) -> Expr {
        let value = self.expr(value);
        let elem = self.kernel.var(var).ty.elem;
        if elem.is_float() {
            return value; // of which nothing is known
        }
        let values = self.facts.interval(&value);
        self.facts.confine(var, Interval::of_type(elem));
        self.facts.give(var, values);
        value
    }

    fn stmt(&mut self, s: Stmt, out: &mut Vec<Stmt>) {
        out.push(match s {
            Stmt::Let { var, value } => {
                let value = self.expr(value);
                self.facts.bind(var, &value);
                Stmt::Let { var, value }
            }
            Stmt::Declare { var, value } => Stmt::Declare { var, value: self.give(var, value) },
            Stmt::Set { var, value } => Stmt::Set { var, value: self.give(var, value) },
            Stmt::Store { buf, index, value } => {
                Stmt::Store { buf, index: self.expr(index), value: self.expr(value) }
            }
            Stmt::Prefetch { buf, index } => Stmt::Prefetch { buf, index: self.expr(index) },
            Stmt::For { var, lo, hi, step, parallel, body } => {
                let (lo, hi) = (self.expr(lo), self.expr(hi));
                let (set, mark) = (set_in(&body), self.facts.enter());
                if !self.facts.iterate(var, &lo, &hi, step) {
                    return;
                }
                self.change(&set);
                let body = self.block(body);
                self.change(&set);
                self.facts.leave(mark);
                Stmt::For { var, lo, hi, step, parallel, body }
            }
            Stmt::If { cond, then, otherwise } => {
                let cond = self.expr(cond);
                let mut set = set_in(&then);
                set.extend(set_in(&otherwise));
                let then = self.guarded(&cond, true, then);
                let otherwise = self.guarded(&cond, false, otherwise);
                self.change(&set);
                let taken = bool_const(&cond).map(|v| if v { &then } else { &otherwise });
                // A definition must stay in a block of its own.
                let defines = |s: &Stmt| matches!(s, Stmt::Let { .. } | Stmt::Declare { .. });
                match taken {
                    Some(body) if !body.iter().any(defines) => return out.extend(body.iter().cloned()),
                    _ if then.is_empty() && otherwise.is_empty() => return,
                    _ => Stmt::If { cond, then, otherwise },
                }
            }
            Stmt::While { cond, body } => {
                let set = set_in(&body);
                self.change(&set);
                let cond = self.expr(cond);
                if bool_const(&cond) == Some(false) {
                    return;
                }
                let body = self.guarded(&cond, true, body);
                self.change(&set);
                self.facts.assume(&cond, false);
                Stmt::While { cond, body }
            }
            Stmt::Contract(c) => Stmt::Contract(Box::new(self.contract(*c))),
            Stmt::Tiles(mut t) => {
                t.out_index = self.expr(t.out_index);
                let mark = self.facts.enter();
                for d in &t.reduce {
                    self.facts.iterate(d.var, &Expr::int(0), &Expr::from(d.extent), 1);
                }
                // Loads stay loads: their indices alone are looked at.
                for e in [&mut t.x, &mut t.w] {
                    *e = std::mem::replace(e, Expr::int(0)).map_children(&mut |i| self.expr(i));
                }
                self.facts.leave(mark);
                let inside = |e: Expr| e.map_children(&mut |i| self.expr(i));
                t.fetch = t.fetch.map(|f| Fetch { first: inside(f.first), ..f });
                Stmt::Tiles(t)
            }
        });
    }

    fn contract(&mut self, c: Contract) -> Contract {
        let Contract { dims, reduce, acc, init, a, b, out, out_index, value } = c;
        for d in &dims {
            self.facts.iterate(d.var, &Expr::int(0), &Expr::from(d.extent), 1);
        }
        let [init, out_index, value] = [init, out_index, value].map(|e| self.expr(e));
        for d in &reduce {
            self.facts.iterate(d.var, &Expr::int(0), &Expr::from(d.extent), 1);
        }
        let [a, b] = [a, b].map(|e| self.expr(e));
        Contract { dims, reduce, acc, init, a, b, out, out_index, value }
    }
}

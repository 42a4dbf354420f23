//! Small helpers to build statements.

use std::collections::BTreeMap;
use tenon_kernel::{Expr, Kernel, Stmt, Type, Var};

/// Iterations of a loop from `lo` to `hi`; one where that is not known.
pub(super) fn trips(lo: &Expr, hi: &Expr, step: i64) -> usize {
    let all = lo.as_int().zip(hi.as_int()).map_or(1, |(lo, hi)| hi.saturating_sub(lo) / step.max(1));
    usize::try_from(all).unwrap_or(1).max(1)
}

/// `for var in 0..n step s { body }`
pub(super) fn for_loop(var: Var, n: usize, step: usize, parallel: bool, body: Vec<Stmt>) -> Stmt {
    Stmt::For { var, lo: Expr::int(0), hi: n.into(), step: step as i64, parallel, body }
}

/// A list of statements under construction, in a kernel whose variables it adds to.
pub(super) struct Block<'k> {
    pub(super) kernel: &'k mut Kernel,
    pub(super) stmts: Vec<Stmt>,
}

impl<'k> Block<'k> {
    pub(super) fn new(kernel: &'k mut Kernel) -> Block<'k> {
        Block { kernel, stmts: vec![] }
    }

    /// `let name = value`, unless `value` is a variable or a constant already.
    pub(super) fn bind(&mut self, name: &str, value: Expr) -> Expr {
        match value {
            Expr::Var(_) | Expr::Const(_) => value,
            value => {
                let var = self.kernel.new_var(name, self.kernel.type_of(&value));
                self.stmts.push(Stmt::Let { var, value });
                Expr::Var(var)
            }
        }
    }

    /// `var name = value`
    pub(super) fn declare(&mut self, name: &str, value: Expr) -> Var {
        let var = self.kernel.new_var(name, self.kernel.type_of(&value));
        self.stmts.push(Stmt::Declare { var, value });
        var
    }

    /// A fresh loop variable.
    pub(super) fn index(&mut self, name: &str) -> Var {
        self.kernel.new_var(name, Type::INDEX)
    }

    /// The statements `f` builds, as a block of their own.
    pub(super) fn nested(&mut self, f: impl FnOnce(&mut Block<'_>)) -> Vec<Stmt> {
        let mut inner = Block::new(self.kernel);
        f(&mut inner);
        inner.stmts
    }
}

/// `s` with variables renamed wherever they stand: defined, set and read.
pub(super) fn renamed(s: Stmt, to: &BTreeMap<Var, Var>) -> Stmt {
    let name = |v: Var| to.get(&v).copied().unwrap_or(v);
    let in_expr = |e: Expr| match e {
        Expr::Var(v) => Expr::Var(name(v)),
        e => e,
    };
    targets_renamed(s.map_exprs(&mut |e| e.rewrite(&mut |e| in_expr(e))), &name)
}

fn targets_renamed(s: Stmt, name: &dyn Fn(Var) -> Var) -> Stmt {
    let all = |body: Vec<Stmt>| body.into_iter().map(|s| targets_renamed(s, name)).collect();
    match s {
        Stmt::Let { var, value } => Stmt::Let { var: name(var), value },
        Stmt::Declare { var, value } => Stmt::Declare { var: name(var), value },
        Stmt::Set { var, value } => Stmt::Set { var: name(var), value },
        Stmt::For { var, lo, hi, step, parallel, body } => {
            Stmt::For { var: name(var), lo, hi, step, parallel, body: all(body) }
        }
        Stmt::If { cond, then, otherwise } => Stmt::If { cond, then: all(then), otherwise: all(otherwise) },
        Stmt::While { cond, body } => Stmt::While { cond, body: all(body) },
        Stmt::Tiles(mut t) => {
            t.reduce.iter_mut().for_each(|d| d.var = name(d.var));
            Stmt::Tiles(t)
        }
        s => s,
    }
}

/// Replaces every statement of `body` by what `f` makes of it, inner ones first.
pub(super) fn rewrite_stmts(body: Vec<Stmt>, f: &mut dyn FnMut(Stmt) -> Vec<Stmt>) -> Vec<Stmt> {
    body.into_iter()
        .flat_map(|s| {
            let s = match s {
                Stmt::For { var, lo, hi, step, parallel, body } => {
                    Stmt::For { var, lo, hi, step, parallel, body: rewrite_stmts(body, f) }
                }
                Stmt::If { cond, then, otherwise } => {
                    Stmt::If { cond, then: rewrite_stmts(then, f), otherwise: rewrite_stmts(otherwise, f) }
                }
                Stmt::While { cond, body } => Stmt::While { cond, body: rewrite_stmts(body, f) },
                s => s,
            };
            f(s)
        })
        .collect()
}

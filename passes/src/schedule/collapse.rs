//! Perfectly nested loops that walk memory as one become one.

use super::scope::{renamed, rewrite_stmts};
use super::{ScheduleCx, Unit};
use std::collections::{BTreeMap, BTreeSet};
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::{Affine, Contract, ContractDim, Expr, Kernel, Stmt, Var};

/// Merges the loops of the kernel, and the dims of its contractions.
pub(super) fn run(unit: &mut Unit, _cx: &ScheduleCx<'_>) {
    let body = std::mem::take(&mut unit.kernel.body);
    let several = defined_several_times(&body);
    let kernel = &mut unit.kernel;
    let body = rewrite_stmts(body, &mut |s| match s {
        Stmt::Contract(mut c) => {
            collapse_contract(&mut c);
            vec![Stmt::Contract(c)]
        }
        s => single(s, &several, kernel).into_iter().map(collapse_nest).collect(),
    });
    unit.kernel.body = body;
}

/// The variables that more than one `let` or `var` defines, in blocks of their own.
fn defined_several_times(body: &[Stmt]) -> BTreeSet<Var> {
    let (mut once, mut several) = (BTreeSet::new(), BTreeSet::new());
    visit_stmts(body, &mut |s| {
        if let Stmt::Let { var, .. } | Stmt::Declare { var, .. } = s
            && !once.insert(*var)
        {
            several.insert(*var);
        }
    });
    several
}

/// A loop of one iteration is its body. What the body defines comes into the scope around it, where another such loop
/// may have put the same variable: those of `several` definitions get new names.
fn single(s: Stmt, several: &BTreeSet<Var>, kernel: &mut Kernel) -> Vec<Stmt> {
    match s {
        Stmt::For { var, lo, hi, step, body, .. } if matches!((lo.as_int(), hi.as_int()), (Some(l), Some(h)) if l < h && h - l <= step) =>
        {
            let mut names = BTreeMap::new();
            for s in &body {
                if let Stmt::Let { var, .. } | Stmt::Declare { var, .. } = s
                    && several.contains(var)
                {
                    let info = kernel.var(*var).clone();
                    names.insert(*var, kernel.new_var(&info.name, info.ty));
                }
            }
            body.into_iter().map(|s| renamed(s.map_exprs(&mut |e| e.substitute(var, &lo)), &names)).collect()
        }
        s => vec![s],
    }
}

/// A loop over a loop, if they are one.
fn collapse_nest(s: Stmt) -> Stmt {
    let Stmt::For { var: outer, lo, hi, step: 1, parallel, body } = s else { return s };
    let whole = |body| Stmt::For { var: outer, lo: lo.clone(), hi: hi.clone(), step: 1, parallel, body };
    let (Some(0), Some(n), [inner @ Stmt::For { .. }]) = (lo.as_int(), hi.as_int(), &body[..]) else {
        return whole(body);
    };
    let Stmt::For { var, lo: l, hi: h, step: 1, parallel: p, body: inner_body } = inner else { return whole(body) };
    let (Some(0), Some(m)) = (l.as_int(), h.as_int()) else { return whole(body) };
    let Some(total) = n.checked_mul(m).filter(|_| *p == parallel) else { return whole(body) };
    let mut ok = true;
    let merged: Vec<Stmt> = inner_body
        .iter()
        .map(|s| {
            s.clone().map_exprs(&mut |e| {
                merge(&e, outer, *var, m).unwrap_or_else(|| {
                    ok = false;
                    e
                })
            })
        })
        .collect();
    if !ok {
        return whole(body);
    }
    Stmt::For { var: *var, lo: Expr::int(0), hi: Expr::int(total), step: 1, parallel, body: merged }
}

/// `e` with `inner`, which runs over `0..extent`, in place of `outer · extent + inner`; `None` if either occurs otherwise.
fn merge(e: &Expr, outer: Var, inner: Var, extent: i64) -> Option<Expr> {
    if let Some(mut a) = Affine::of(e) {
        let (o, i) = (a.coefficient(outer), a.coefficient(inner));
        if (o, i) == (0, 0) {
            return Some(e.clone());
        }
        if Some(o) != i.checked_mul(extent) {
            return None;
        }
        a.terms.remove(&outer);
        return Some(a.to_expr());
    }
    let mut ok = true;
    let merged = e.clone().map_children(&mut |c| {
        merge(&c, outer, inner, extent).unwrap_or_else(|| {
            ok = false;
            c
        })
    });
    ok.then_some(merged)
}

/// Drops dims of one iteration and merges dims, those of the output and those summed over.
pub(super) fn collapse_contract(c: &mut Contract) {
    for list in 0..2 {
        let dims = if list == 0 { &mut c.dims } else { &mut c.reduce };
        let ones: Vec<Var> = dims.iter().filter(|d| d.extent == 1).map(|d| d.var).collect();
        dims.retain(|d| d.extent != 1);
        for v in ones {
            for e in exprs(c) {
                *e = std::mem::replace(e, Expr::int(0)).substitute(v, &Expr::int(0));
            }
        }
        while merge_pair(c, list) {}
    }
}

fn exprs(c: &mut Contract) -> [&mut Expr; 5] {
    [&mut c.init, &mut c.a, &mut c.b, &mut c.out_index, &mut c.value]
}

/// Merges the first two dims of a list that can be.
fn merge_pair(c: &mut Contract, list: usize) -> bool {
    let dims: Vec<ContractDim> = if list == 0 { c.dims.clone() } else { c.reduce.clone() };
    for (i, outer) in dims.iter().enumerate() {
        for (j, inner) in dims.iter().enumerate().filter(|(j, _)| *j != i) {
            let Some(extent) = outer.extent.checked_mul(inner.extent) else { continue };
            let merged: Option<Vec<Expr>> =
                exprs(c).iter().map(|e| merge(e, outer.var, inner.var, inner.extent as i64)).collect();
            let Some(merged) = merged else { continue };
            for (e, m) in exprs(c).into_iter().zip(merged) {
                *e = m;
            }
            let dims = if list == 0 { &mut c.dims } else { &mut c.reduce };
            dims[j].extent = extent;
            dims.remove(i);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenon_base::DType;
    use tenon_kernel::{Access, KernelBuilder};

    fn collapsed(dims: &[usize], strides: [i64; 3]) -> usize {
        let mut k = KernelBuilder::new("k");
        let x = k.buffer("x", DType::F32, 100_000, Access::In);
        let y = k.buffer("y", DType::F32, dims.iter().product(), Access::Out);
        k.parfor_nest(dims, |k, i| {
            let at = |s: [i64; 3]| i.iter().zip(s).fold(Expr::int(0), |sum, (i, s)| sum + i.clone() * s);
            k.store(y, at([20, 5, 1]), Expr::load(x, at(strides)));
        });
        let mut unit = Unit::new(k.finish(), vec![false; 2]);
        let target = tenon_target::Target::parse("x86_64-linux").expect("a target");
        run(&mut unit, &ScheduleCx::new(&target, true));
        let mut loops = 0;
        tenon_kernel::stmt::visit_stmts(&unit.kernel.body, &mut |s| {
            loops += usize::from(matches!(s, Stmt::For { .. }))
        });
        loops
    }

    #[test]
    fn loops_merge_only_where_memory_is_one_run() {
        assert_eq!(collapsed(&[3, 4, 5], [20, 5, 1]), 1);
        assert_eq!(collapsed(&[3, 4, 5], [100, 10, 2]), 2); // the outer stride is not 5 · 4 · 2
        assert_eq!(collapsed(&[3, 4, 5], [0, 0, 1]), 2); // rows repeat
        assert_eq!(collapsed(&[3, 4, 5], [20, 5, 2]), 2);
        assert_eq!(collapsed(&[1, 4, 5], [7, 5, 1]), 1);
    }
}

//! Copies of operands that every iteration of a loop would make alike are made once, before it.
//!
//! A contraction inside a loop over blocks of rows packs the factor that its columns read for itself. Where that factor does not depend
//! on the loop, neither do the panels; and where blocks of two sizes follow each other, the second finds the panels of the first.

use crate::schedule::link::rename_buffers;
use crate::schedule::scope::{renamed, rewrite_stmts};
use std::collections::{BTreeMap, BTreeSet};
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::{Access, Buf, Expr, Kernel, Stmt, Var};

/// Moves copies into those scratch buffers of `kernel` that come behind the first `made` parameters out of the loops of `body`.
pub(super) fn run(body: Vec<Stmt>, kernel: &Kernel, made: usize) -> Vec<Stmt> {
    if !kernel.buffers.iter().skip(made).any(|b| b.access == Access::Scratch) {
        return body;
    }
    let copy = |s: &Stmt| Copy::of(s, kernel, made);
    let body = rewrite_stmts(body, &mut |s| match s {
        Stmt::For { var, lo, hi, step, parallel, body } => {
            let (mut out, body) = split(body, var, &copy);
            let body = once(body, &copy);
            out.push(Stmt::For { var, lo, hi, step, parallel, body });
            out
        }
        s => vec![s],
    });
    once(body, &copy)
}

/// A statement that fills a scratch buffer with elements of operands.
struct Copy {
    to: Buf,
    /// Variables of loops around it.
    free: BTreeSet<Var>,
    /// Its own loops, in the order of the text.
    own: Vec<Var>,
}

impl Copy {
    fn of(s: &Stmt, kernel: &Kernel, made: usize) -> Option<Copy> {
        if !matches!(s, Stmt::For { .. }) {
            return None;
        }
        let (mut to, mut own, mut used, mut plain) = (BTreeSet::new(), vec![], BTreeSet::new(), true);
        visit_stmts(std::slice::from_ref(s), &mut |s| {
            match s {
                Stmt::Store { buf, .. } => {
                    to.insert(*buf);
                }
                Stmt::For { var, .. } => own.push(*var),
                _ => plain = false,
            }
            s.exprs(&mut |e| {
                e.visit(&mut |e| match e {
                    Expr::Var(v) => {
                        used.insert(*v);
                    }
                    Expr::Load { buf, .. } => plain &= kernel.buffer(*buf).access == Access::In,
                    _ => {}
                });
            });
        });
        let to = to.pop_first().filter(|_| to.is_empty())?;
        let scratch = to.0 as usize >= made && kernel.buffer(to).access == Access::Scratch;
        own.iter().for_each(|v| {
            used.remove(v);
        });
        (plain && scratch).then_some(Copy { to, free: used, own })
    }
}

fn written(s: &Stmt) -> BTreeSet<Buf> {
    let mut all = BTreeSet::new();
    visit_stmts(std::slice::from_ref(s), &mut |s| all.extend(s.written()));
    all
}

/// What of `body`, the body of a loop over `var`, is the same in every iteration, and the rest.
fn split(body: Vec<Stmt>, var: Var, copy: &dyn Fn(&Stmt) -> Option<Copy>) -> (Vec<Stmt>, Vec<Stmt>) {
    let mut changing = BTreeSet::from([var]);
    for s in &body {
        if let Stmt::Let { var, .. } | Stmt::Declare { var, .. } = s {
            changing.insert(*var);
        }
    }
    let alike: Vec<Option<Buf>> =
        body.iter().map(|s| copy(s).filter(|c| c.free.is_disjoint(&changing)).map(|c| c.to)).collect();
    // A buffer that something else writes, too, is filled anew in every iteration.
    let others: BTreeSet<Buf> =
        body.iter().zip(&alike).filter(|(_, a)| a.is_none()).flat_map(|(s, _)| written(s)).collect();
    let (mut out, mut left) = (vec![], vec![]);
    for (s, a) in body.into_iter().zip(alike) {
        if a.is_some_and(|to| !others.contains(&to)) { out.push(s) } else { left.push(s) }
    }
    (out, left)
}

/// `body` without copies that it has made before; what read those reads the first ones.
fn once(body: Vec<Stmt>, copy: &dyn Fn(&Stmt) -> Option<Copy>) -> Vec<Stmt> {
    // What fills each buffer, in terms that two buffers share.
    let mut fills: BTreeMap<Buf, Vec<Stmt>> = BTreeMap::new();
    let mut others: BTreeSet<Buf> = BTreeSet::new();
    for s in &body {
        let Some(c) = copy(s) else {
            others.extend(written(s));
            continue;
        };
        // Names that nothing else has.
        let names = c.own.iter().enumerate().map(|(i, v)| (*v, Var(u32::MAX - i as u32))).collect();
        let same = rename_buffers(vec![renamed(s.clone(), &names)], &|b| if b == c.to { Buf(u32::MAX) } else { b });
        fills.entry(c.to).or_default().extend(same);
    }
    let mut first: BTreeMap<Buf, Buf> = BTreeMap::new();
    let all: Vec<(&Buf, &Vec<Stmt>)> = fills.iter().filter(|(b, _)| !others.contains(b)).collect();
    for (i, (buf, fill)) in all.iter().enumerate() {
        if let Some((known, _)) = all[..i].iter().find(|(k, f)| f == fill && !first.contains_key(k)) {
            first.insert(**buf, **known);
        }
    }
    if first.is_empty() {
        return body;
    }
    let kept = body.into_iter().filter(|s| copy(s).is_none_or(|c| !first.contains_key(&c.to))).collect();
    rename_buffers(kept, &|b| first.get(&b).copied().unwrap_or(b))
}

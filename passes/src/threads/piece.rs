//! From runs of units to kernels.

use super::divide::{Divider, Plan, touched};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::{Access, Buf, Buffer, Expr, Kernel, Parts, Program, Stmt, Tiles, Var};

/// A kernel that takes some of the buffers of the one it was made of: their positions.
pub(super) struct Made {
    pub(super) kernel: Kernel,
    pub(super) buffers: Vec<usize>,
}

/// The kernels that together do what one did.
pub(super) type Pieces = Vec<Made>;

/// The body of a kernel to be.
pub(super) struct Piece<'p> {
    body: Vec<Stmt>,
    plan: Option<&'p Plan<'p>>,
}

impl<'p> Piece<'p> {
    /// In parts.
    pub(super) fn parts(d: &Divider<'p>, plan: &'p Plan<'p>) -> Piece<'p> {
        let mut body: Vec<Stmt> = d.prelude.iter().map(|s| (*s).clone()).collect();
        body.extend(plan.choices.iter().flat_map(|c| d.statements(c)));
        for b in &plan.private {
            let buffer = d.kernel.buffer(*b);
            let by = Expr::Var(d.part) * Expr::from(stride(buffer));
            body = body.into_iter().map(|s| shifted(s, *b, &by)).collect();
        }
        Piece { body: without_unused(body), plan: Some(plan) }
    }

    /// In one piece.
    pub(super) fn whole(d: &Divider<'p>, units: Range<usize>) -> Piece<'p> {
        let stmts = d.prelude.iter().chain(d.units[units].iter().flatten());
        Piece { body: without_unused(stmts.map(|s| (*s).clone()).collect()), plan: None }
    }
}

/// Elements from one part's copy of a private buffer to the next: whole lines, which no two parts share.
fn stride(b: &Buffer) -> usize {
    (b.len * b.dtype.size()).next_multiple_of(Program::ALIGN) / b.dtype.size()
}

/// `s` with every access to `buf` moved by `by` elements.
fn shifted(s: Stmt, buf: Buf, by: &Expr) -> Stmt {
    let s = s.map_exprs(&mut |e| {
        e.rewrite(&mut |e| match e {
            Expr::Load { buf: b, index, lanes } if b == buf => {
                Expr::Load { buf: b, index: Box::new(by.clone() + *index), lanes }
            }
            e => e,
        })
    });
    moved_stores(s, buf, by)
}

fn moved_stores(s: Stmt, buf: Buf, by: &Expr) -> Stmt {
    let all = |body: Vec<Stmt>| body.into_iter().map(|s| moved_stores(s, buf, by)).collect();
    match s {
        Stmt::Store { buf: b, index, value } if b == buf => Stmt::Store { buf: b, index: by.clone() + index, value },
        Stmt::Tiles(t) if t.out == buf => {
            let out_index = by.clone() + t.out_index;
            Stmt::Tiles(Box::new(Tiles { out_index, ..*t }))
        }
        Stmt::For { var, lo, hi, step, parallel, body } => Stmt::For { var, lo, hi, step, parallel, body: all(body) },
        Stmt::If { cond, then, otherwise } => Stmt::If { cond, then: all(then), otherwise: all(otherwise) },
        Stmt::While { cond, body } => Stmt::While { cond, body: all(body) },
        s => s,
    }
}

/// `body` without definitions that nothing uses.
fn without_unused(mut body: Vec<Stmt>) -> Vec<Stmt> {
    loop {
        let mut used: BTreeSet<Var> = BTreeSet::new();
        visit_stmts(&body, &mut |s| {
            s.exprs(&mut |e| {
                e.visit(&mut |e| {
                    if let Expr::Var(v) = e {
                        used.insert(*v);
                    }
                });
            });
        });
        let before = body.len();
        body.retain(|s| !matches!(s, Stmt::Let { var, .. } if !used.contains(var)));
        if body.len() == before {
            return body;
        }
    }
}

/// Kernels of `pieces`, which run in this order.
pub(super) fn kernels(d: &Divider<'_>, pieces: Vec<Piece<'_>>) -> Pieces {
    let uses: Vec<(BTreeSet<Buf>, BTreeSet<Buf>)> = pieces.iter().map(|p| touched(&p.body)).collect();
    let touches = |i: usize, b: &Buf| uses[i].0.contains(b) || uses[i].1.contains(b);
    let all: Vec<Buf> = (0..d.kernel.buffers.len() as u32).map(Buf).collect();
    let first: BTreeMap<Buf, usize> =
        all.iter().filter_map(|b| Some((*b, (0..pieces.len()).find(|i| touches(*i, b))?))).collect();
    let mut made = vec![];
    for (i, p) in pieces.into_iter().enumerate() {
        // A result without elements still belongs to a kernel.
        let unwritten = |b: &Buf| i == 0 && d.kernel.buffer(*b).access == Access::Out && !first.contains_key(b);
        let kept: Vec<Buf> = all.iter().filter(|b| touches(i, b) || unwritten(b)).copied().collect();
        let access = |b: &Buf| {
            let writes = uses[i].1.contains(b);
            let alone = (0..uses.len()).all(|k| k == i || !touches(k, b));
            match d.kernel.buffer(*b).access {
                Access::Scratch if alone => Access::Scratch,
                Access::Out | Access::Scratch if first.get(b).is_none_or(|f| *f == i) => Access::Out,
                _ if writes => Access::InOut,
                _ => Access::In,
            }
        };
        let private = |b: &Buf| p.plan.is_some_and(|plan| plan.private.contains(b));
        let buffers: Vec<Buffer> = kept
            .iter()
            .map(|b| {
                let old = d.kernel.buffer(*b);
                let len = if private(b) { stride(old) * d.count } else { old.len };
                Buffer { name: old.name.clone(), dtype: old.dtype, len, access: access(b) }
            })
            .collect();
        let position = |b: Buf| kept.iter().position(|k| *k == b).map(|k| Buf(k as u32));
        // Memory is shared in a kernel that alone writes the one and is the last to read the other.
        let in_place = d
            .kernel
            .in_place
            .iter()
            .filter(|(x, y)| {
                (0..uses.len()).all(|k| k == i || !touches(k, y)) && (i + 1..uses.len()).all(|k| !touches(k, x))
            })
            .filter_map(|(x, y)| Some((position(*x)?, position(*y)?)))
            .collect();
        let to: BTreeMap<Buf, Buf> = kept.iter().filter_map(|b| Some((*b, position(*b)?))).collect();
        let body = crate::schedule::rename_buffers(p.body, &|b| to.get(&b).copied().unwrap_or(b));
        let parts = p.plan.map(|_| Parts { var: d.part, count: d.count });
        let (name, vars) = (d.kernel.name.clone(), d.kernel.vars.clone());
        let kernel = Kernel { name, buffers, vars, body, in_place, parts };
        made.push(Made { kernel, buffers: kept.iter().map(|b| b.0 as usize).collect() });
    }
    made
}

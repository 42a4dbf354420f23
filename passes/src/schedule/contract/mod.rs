//! Contractions become loops.
//!
//! [`plan`] decides with [`shape`] and [`order`], [`tile`] writes one register tile (its sum by [`window`] where both factors are
//! vectors), [`nest`] the loops around it, [`hoist`] takes copies out of loops that do not change them; what has no row of results is summed in lanes ([`fold`]), what fits no plan is [`scalar`].
//! Those that fill one result in turns may share their loops ([`beside`]).

mod beside;
mod dot;
mod fold;
mod halves;
mod hoist;
mod nest;
mod order;
mod plan;
mod scalar;
mod shape;
mod tile;
mod window;

use super::collapse::collapse_contract;
use super::scope::{rewrite_stmts, trips};
use super::{ScheduleCx, Unit};
use std::collections::BTreeSet;
use tenon_kernel::{Affine, Buf, Contract, Expr, Stmt, Var};

/// Replaces every contraction of the kernel.
pub(super) fn run(unit: &mut Unit, cx: &ScheduleCx<'_>) {
    let body = std::mem::take(&mut unit.kernel.body);
    let parameters = unit.kernel.buffers.len();
    let mut widened = dot::Widened::of(&body);
    let (mut loops, mut all) = (vec![], vec![]);
    around(&body, &mut loops, &mut all);
    let mut all = all.into_iter();
    let joins = beside::with_the_one_before(&body, unit, cx);
    let mut one = |s: Stmt| match s {
        Stmt::Contract(mut c) => {
            collapse_contract(&mut c);
            let moving = moving(&c, unit);
            moving.iter().for_each(|b| unit.constant[b.0 as usize] = false);
            let around = all.next().unwrap_or_default();
            let loops = lower(c, &around, unit, cx, &mut widened);
            moving.iter().for_each(|b| unit.constant[b.0 as usize] = true);
            loops
        }
        s => vec![s],
    };
    let mut done = vec![];
    for (s, joined) in body.into_iter().zip(joins) {
        let loops = rewrite_stmts(vec![s], &mut one);
        match joined {
            true => beside::join(&mut done, loops),
            false => done.extend(loops),
        }
    }
    let body = dot::widen_stores(done, &widened);
    unit.kernel.body = hoist::run(body, &unit.kernel, parameters);
}

/// The loops around each contraction of `body`, in the order of the text, with their iterations; `loops` are those around `body`.
fn around(body: &[Stmt], loops: &mut Vec<(Var, usize)>, all: &mut Vec<Vec<(Var, usize)>>) {
    for s in body {
        match s {
            Stmt::Contract(_) => all.push(loops.clone()),
            Stmt::For { var, lo, hi, step, body, .. } => {
                loops.push((*var, trips(lo, hi, *step)));
                around(body, loops, all);
                loops.pop();
            }
            Stmt::While { body, .. } => around(body, loops, all),
            Stmt::If { then, otherwise, .. } => {
                around(then, loops, all);
                around(otherwise, loops, all);
            }
            _ => {}
        }
    }
}

/// Loops for `c`.
fn lower(
    mut c: Box<Contract>,
    around: &[(Var, usize)],
    unit: &mut Unit,
    cx: &ScheduleCx<'_>,
    widened: &mut dot::Widened,
) -> Vec<Stmt> {
    if let Some(loops) = dot::lower(&c, unit, cx, widened) {
        return loops;
    }
    if fold::is_narrow(&c, unit, cx)
        && let Some(loops) = fold::lower(&c, unit, cx)
    {
        return loops;
    }
    if let Some(loops) = dot::lower_rounded(&c, unit, cx, widened) {
        return loops;
    }
    let mut loops = halves::widen(&mut c, unit, cx, widened);
    let known = unit.packs.len();
    loops.extend(match plan::plan(&c, around, unit, cx) {
        Some(mut p) => {
            halves::constants(&mut p, known, unit, cx);
            nest::lower(&c, p, &mut unit.kernel)
        }
        None => fold::lower(&c, unit, cx).unwrap_or_else(|| scalar::lower(*c, &mut unit.kernel)),
    });
    loops
}

/// The constants that `c` reads elsewhere in every iteration of loops around it. They are laid out by the loops of a contraction alone, so
/// these are left as they are.
fn moving(c: &Contract, unit: &Unit) -> BTreeSet<Buf> {
    let own: BTreeSet<_> = c.dims.iter().chain(&c.reduce).map(|d| d.var).collect();
    let mut found = BTreeSet::new();
    for e in [&c.init, &c.a, &c.b] {
        e.visit(&mut |e| {
            if let Expr::Load { buf, index, .. } = e
                && unit.constant.get(buf.0 as usize) == Some(&true)
                && Affine::of(index).is_none_or(|a| a.terms.keys().any(|v| !own.contains(v)))
            {
                found.insert(*buf);
            }
        });
    }
    found
}

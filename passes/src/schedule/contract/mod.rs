//! Contractions become loops.
//!
//! [`plan`] decides with [`shape`] and [`order`], [`tile`] writes one register tile (its sum by [`window`] where both factors are
//! vectors), [`nest`] the loops around it; what has no row of results is summed in lanes ([`fold`]), what fits no plan is [`scalar`].

mod dot;
mod fold;
mod halves;
mod nest;
mod order;
mod plan;
mod scalar;
mod shape;
mod tile;
mod window;

use super::collapse::collapse_contract;
use super::scope::rewrite_stmts;
use super::{ScheduleCx, Unit};
use tenon_kernel::Stmt;

/// Replaces every contraction of the kernel.
pub(super) fn run(unit: &mut Unit, cx: &ScheduleCx<'_>) {
    let body = std::mem::take(&mut unit.kernel.body);
    let mut widened = dot::Widened::of(&body);
    let body = rewrite_stmts(body, &mut |s| match s {
        Stmt::Contract(mut c) => {
            collapse_contract(&mut c);
            if let Some(loops) = dot::lower(&c, unit, cx, &mut widened) {
                return loops;
            }
            if fold::is_narrow(&c, unit, cx)
                && let Some(loops) = fold::lower(&c, unit, cx)
            {
                return loops;
            }
            let mut loops = halves::widen(&mut c, unit, cx, &mut widened);
            let known = unit.packs.len();
            loops.extend(match plan::plan(&c, unit, cx) {
                Some(mut p) => {
                    halves::constants(&mut p, known, unit, cx);
                    nest::lower(&c, p, &mut unit.kernel)
                }
                None => fold::lower(&c, unit, cx).unwrap_or_else(|| scalar::lower(*c, &mut unit.kernel)),
            });
            loops
        }
        s => vec![s],
    });
    unit.kernel.body = dot::widen_stores(body, &widened);
}

//! Contractions become loops.
//!
//! [`plan`] decides with [`shape`], [`tile`] writes one register tile (its sum by [`window`] where both factors are
//! vectors), [`nest`] the loops around it; what fits no plan is [`scalar`].

mod nest;
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
    unit.kernel.body = rewrite_stmts(body, &mut |s| match s {
        Stmt::Contract(mut c) => {
            collapse_contract(&mut c);
            match plan::plan(&c, unit, cx) {
                Some(p) => nest::lower(&c, p, &mut unit.kernel),
                None => scalar::lower(*c, &mut unit.kernel),
            }
        }
        s => vec![s],
    });
}

//! Contractions become loops.

mod scalar;

use super::scope::rewrite_stmts;
use super::{ScheduleCx, Unit};
use tenon_kernel::Stmt;

/// Replaces every contraction of the kernel.
pub(super) fn run(unit: &mut Unit, _cx: &ScheduleCx<'_>) {
    let body = std::mem::take(&mut unit.kernel.body);
    unit.kernel.body = rewrite_stmts(body, &mut |s| match s {
        Stmt::Contract(c) => scalar::lower(*c, &mut unit.kernel),
        s => vec![s],
    });
}

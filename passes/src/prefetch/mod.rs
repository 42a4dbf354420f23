//! Weights come to the caches before they are needed: those that one tile after the other reads, a panel ahead ([`panels`]), and those that a kernel
//! reads once, while the kernels before it compute ([`across`]).

mod across;
mod panels;

use crate::effort::Price;
use tenon_kernel::{Expr, Program, Var};
use tenon_target::Target;

/// Adds prefetches to the kernels of `program`, which is scheduled, where code costs `price`; gives how many kernels have some.
pub fn run(program: &mut Program, target: &Target, price: Price) -> usize {
    // The code generator for wide vectors has the instruction. Few weights stay in the cache from run to run.
    if target.vector_bytes <= 16 || program.weight_bytes() <= target.caches.l2 {
        return 0;
    }
    let panels = panels::run(program, target);
    panels + across::run(program, target, price)
}

/// How many iterations of the loop over `var`, from `lo` on in steps, come before the present one.
fn nth(var: Var, lo: &Expr, step: i64) -> Expr {
    let from = Expr::Var(var);
    let from = if lo.as_int() == Some(0) { from } else { from - lo.clone() };
    if step == 1 { from } else { from / step }
}

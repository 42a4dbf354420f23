//! Long sums in blocks.
//!
//! A sum of `n` products in one accumulator has a rounding error that grows with `√n`: the accumulator is as large as the sum so
//! far, and every addition rounds to its last bit. Blocks of a fixed length that are summed on their own and then added keep
//! the error of each small (Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., section 4.2), at the price of one
//! addition a block. Tuned matrix libraries do so by blocking for the cache; here it is done for its own sake.
//!
//! ```text
//! for %k in 0..1152 step 4 { %acc = fma(…, %acc) … }
//! ```
//! becomes
//! ```text
//! for %b in 0..9 {
//!   var %part = 0.0
//!   for %k in 0..128 step 4 { %part = fma(…, %part) … }
//!   %acc = %part + %acc
//! }
//! ```

use super::scope::{renamed, rewrite_stmts};
use super::{ScheduleCx, Unit};
use std::collections::BTreeMap;
use tenon_kernel::{BinOp, Expr, Kernel, Stmt, Type, Var};

/// Products that one accumulator sums up at most, about: as few as cost next to nothing. The error of `n` products is least with blocks of `√n`
/// (16 to 48 for most layers), by a quarter in whole networks; but those took 2 to 7 % longer, for want of registers for two sets of sums.
const BLOCK: usize = 128;

/// Splits the loops of register tiles whose sums are too long.
pub(super) fn run(unit: &mut Unit, _cx: &ScheduleCx<'_>) {
    let body = std::mem::take(&mut unit.kernel.body);
    // Inner loops come first; one that has been split is no plain loop of sums any more, so its parents are left alone.
    unit.kernel.body = rewrite_stmts(body, &mut |s| split(s, &mut unit.kernel));
}

/// How often the statements of a loop's body add to each accumulator; `None` unless they do nothing else.
fn sums(body: &[Stmt], kernel: &Kernel) -> Option<BTreeMap<Var, usize>> {
    let mut all: BTreeMap<Var, usize> = BTreeMap::new();
    for s in body {
        match s {
            Stmt::Let { .. } => {}
            Stmt::Set { var, value } if kernel.var(*var).ty.elem.is_float() && adds(*var, value) => {
                *all.entry(*var).or_insert(0) += if matches!(value, Expr::Dot(_)) { 2 } else { 1 };
            }
            Stmt::For { lo, hi, step, parallel: false, body, .. } => {
                let trips = trips(lo, hi, *step)?;
                for (var, n) in sums(body, kernel)? {
                    *all.entry(var).or_insert(0) += n * trips;
                }
            }
            _ => return None,
        }
    }
    // An accumulator that something else reads is none.
    let mut reads = 0;
    tenon_kernel::stmt::visit_stmts(body, &mut |s| {
        s.exprs(&mut |e| e.visit(&mut |e| reads += usize::from(matches!(e, Expr::Var(v) if all.contains_key(v)))));
    });
    let mut writes = 0;
    tenon_kernel::stmt::visit_stmts(body, &mut |s| writes += usize::from(matches!(s, Stmt::Set { .. })));
    (reads == writes && !all.is_empty()).then_some(all)
}

/// `acc = a · b + acc`, or the same of pairs
fn adds(acc: Var, value: &Expr) -> bool {
    let is_acc = |e: &Expr| *e == Expr::Var(acc);
    let product = |e: &Expr| matches!(e, Expr::Binary(BinOp::Mul, _));
    match value {
        Expr::Fma(abc) | Expr::Dot(abc) => is_acc(&abc[2]),
        Expr::Binary(BinOp::Add, ab) => (is_acc(&ab[0]) && product(&ab[1])) || (is_acc(&ab[1]) && product(&ab[0])),
        _ => false,
    }
}

fn trips(lo: &Expr, hi: &Expr, step: i64) -> Option<usize> {
    let n = hi.as_int()?.checked_sub(lo.as_int()?)?.max(0);
    usize::try_from(n as u64).ok().map(|n| n.div_ceil(step as usize))
}

fn split(s: Stmt, kernel: &mut Kernel) -> Vec<Stmt> {
    let Stmt::For { var, lo, hi, step, parallel: false, body } = s else { return vec![s] };
    let again = |body| vec![Stmt::For { var, lo: lo.clone(), hi: hi.clone(), step, parallel: false, body }];
    let (Some(n), Some(first), Some(accumulators)) = (trips(&lo, &hi, step), lo.as_int(), sums(&body, kernel)) else {
        return again(body);
    };
    // Sums of a single element are made lanes of later.
    let tiled = accumulators.len() > 1 || accumulators.keys().all(|a| kernel.var(*a).ty.lanes > 1);
    let each = accumulators.values().copied().max().unwrap_or(1);
    if !tiled || n.saturating_mul(each) <= BLOCK + BLOCK / 2 {
        return again(body);
    }
    let most = (BLOCK / each).max(1);
    // Equal blocks if there are any of at least half the length; else a shorter one in the end.
    let length = (most.div_ceil(2)..=most).rev().find(|l| n.is_multiple_of(*l)).unwrap_or(most);
    let (blocks, rest) = (n / length, n % length);
    let span = length as i64 * step;
    let block = kernel.new_var("block", Type::INDEX);
    let index = |e: Expr| e.substitute(var, &(Expr::Var(block) * span + Expr::Var(var)));
    let moved: Vec<Stmt> = body.iter().cloned().map(|s| s.map_exprs(&mut |e| index(e))).collect();
    let inner = |lo: i64, hi: i64, body| Stmt::For { var, lo: lo.into(), hi: hi.into(), step, parallel: false, body };
    let mut out = vec![Stmt::For {
        var: block,
        lo: Expr::int(0),
        hi: blocks.into(),
        step: 1,
        parallel: false,
        body: in_parts(inner(first, first + span, moved), &accumulators, kernel),
    }];
    if rest > 0 {
        let from = first + blocks as i64 * span;
        out.append(&mut in_parts(inner(from, from + rest as i64 * step, body), &accumulators, kernel));
    }
    out
}

/// `sum` with an accumulator of its own for each of `accumulators`, and what adds it to that.
fn in_parts(sum: Stmt, accumulators: &BTreeMap<Var, usize>, kernel: &mut Kernel) -> Vec<Stmt> {
    let mut out = vec![];
    let mut parts: BTreeMap<Var, Var> = BTreeMap::new();
    for acc in accumulators.keys() {
        let ty = kernel.var(*acc).ty;
        let part = kernel.new_var("part", ty);
        let zero = Expr::constant(ty.elem, 0.0);
        out.push(Stmt::Declare { var: part, value: if ty.lanes > 1 { zero.splat(ty.lanes) } else { zero } });
        parts.insert(*acc, part);
    }
    out.push(renamed(sum, &parts));
    for (acc, part) in parts {
        out.push(Stmt::Set { var: acc, value: Expr::Var(part) + Expr::Var(acc) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocked(text: &str) -> String {
        let mut kernel = Kernel::parse(text).expect("the kernel reads");
        let body = std::mem::take(&mut kernel.body);
        kernel.body = rewrite_stmts(body, &mut |s| split(s, &mut kernel));
        kernel.to_string()
    }

    const SUM: &str = "kernel k(in %a: f32[8000], out %y: f32[4]) {
  var %acc = splat4(0.0)
  for %k in 0..N step 4 {
    %acc = fma(load4 %a[%k], load4 %a[%k + 4], %acc)
  }
  store %y[0] = %acc
}
";

    #[test]
    fn long_sums_are_split_and_short_ones_are_not() {
        let long = blocked(&SUM.replace('N', "4096"));
        assert!(long.contains("for %block in 0..8 {"), "{long}");
        assert!(long.contains("for %k in 0..512 step 4 {"), "{long}");
        assert!(long.contains("%acc = %part + %acc"), "{long}");
        // 7 blocks of 128 iterations and one of 104.
        let odd = blocked(&SUM.replace('N', "4000"));
        assert!(odd.contains("for %block in 0..8 {") || odd.contains("for %k in 3584..4000 step 4 {"), "{odd}");
        let short = blocked(&SUM.replace('N', "512"));
        assert!(!short.contains("%part"), "{short}");
    }

    #[test]
    fn what_is_no_plain_sum_stays() {
        for body in
            ["%acc = max(%acc, load4 %a[%k])", "%acc = fma(%acc, load4 %a[%k], %acc)", "%acc = load4 %a[%k] + %acc"]
        {
            let text = SUM.replace('N', "4096").replace("%acc = fma(load4 %a[%k], load4 %a[%k + 4], %acc)", body);
            assert!(!blocked(&text).contains("%part"), "{body}");
        }
    }
}

//! Contractions that fill one result in turns: the phases of a transposed convolution.
//!
//! One after the other, each would go through the whole result and its operand, and touch lines of both that the others
//! touch again. Where the result does not stay in the second cache, what is outermost of their loops becomes one: a line is
//! then fetched once.

use super::plan::Factor;
use crate::schedule::scope::renamed;
use crate::schedule::{ScheduleCx, Unit};
use std::collections::BTreeMap;
use tenon_kernel::{Affine, Buf, Contract, ContractDim, Expr, Stmt};

/// Values that a difference of one variable may have before sets of places are taken to meet.
const MOST_TRIED: i64 = 4;

/// Which of the statements of `body` are to share their loops with the one before.
pub(super) fn with_the_one_before(body: &[Stmt], unit: &Unit, cx: &ScheduleCx<'_>) -> Vec<bool> {
    let mut group: Vec<&Contract> = vec![];
    let mut joins = vec![];
    for s in body {
        let Stmt::Contract(c) = s else {
            group.clear();
            joins.push(false);
            continue;
        };
        let joined = !group.is_empty()
            && group.iter().all(|other| apart(other, c))
            && group.iter().map(|c| constant_bytes(c, unit)).sum::<usize>() + constant_bytes(c, unit)
                <= cx.target.caches.l2 / 4;
        if !joined {
            group.clear();
        }
        let result = unit.kernel.buffer(c.out);
        if result.len * result.dtype.size() > cx.target.caches.l2 / 2 && !reads(c, c.out) {
            group.push(c);
        }
        joins.push(joined);
    }
    joins
}

/// Whether both write to one result, to places of their own.
fn apart(a: &Contract, b: &Contract) -> bool {
    let (Some(x), Some(y)) = (Affine::of(&a.out_index), Affine::of(&b.out_index)) else { return false };
    if a.out != b.out || reads(b, a.out) {
        return false;
    }
    // By coefficient how far a variable of the one can be from one of the other: a sum of these is the distance of two places.
    let mut ranges: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    let far = |d: &ContractDim| i64::try_from(d.extent).unwrap_or(i64::MAX).saturating_sub(1);
    for (affine, dims, first) in [(&x, &a.dims, true), (&y, &b.dims, false)] {
        for d in dims.iter() {
            let c = affine.coefficient(d.var);
            let range = ranges.entry(c.saturating_abs()).or_insert((0, 0));
            match (c >= 0) == first {
                true => range.1 = range.1.saturating_add(far(d)),
                false => range.0 = range.0.saturating_sub(far(d)),
            }
        }
    }
    ranges.remove(&0);
    let terms: Vec<(i64, i64, i64)> = ranges.into_iter().rev().map(|(c, (lo, hi))| (c, lo, hi)).collect();
    !may_be(y.base.saturating_sub(x.base), &terms)
}

/// Whether `sum` may be `Σ c · t` for some `t` in `lo..=hi`, for terms `(c, lo, hi)` with the largest `c` first.
fn may_be(sum: i64, terms: &[(i64, i64, i64)]) -> bool {
    let Some(((c, lo, hi), rest)) = terms.split_first() else { return sum == 0 };
    let end = |f: &dyn Fn(&(i64, i64, i64)) -> i64| rest.iter().map(f).fold(0i64, i64::saturating_add);
    let (least, most) = (end(&|t| t.0.saturating_mul(t.1)), end(&|t| t.0.saturating_mul(t.2)));
    // What the others can make up for.
    let from = sum.saturating_sub(most).div_euclid(*c).max(*lo);
    let to = sum.saturating_sub(least).div_euclid(*c).saturating_add(1).min(*hi);
    if to.saturating_sub(from) > MOST_TRIED {
        return true;
    }
    (from..=to).any(|t| may_be(sum.saturating_sub(c.saturating_mul(t)), rest))
}

/// Whether `c` reads `buf`.
fn reads(c: &Contract, buf: Buf) -> bool {
    let mut found = false;
    for e in [&c.init, &c.a, &c.b, &c.value] {
        e.visit(&mut |e| found |= matches!(e, Expr::Load { buf: b, .. } if *b == buf));
    }
    found
}

/// Bytes of the constants that every row of `c` is multiplied with.
fn constant_bytes(c: &Contract, unit: &Unit) -> usize {
    let bytes = |e: &Expr| {
        let f = Factor::of(e).filter(|f| unit.constant.get(f.buf.0 as usize) == Some(&true))?;
        let extents = c.dims.iter().chain(&c.reduce).filter(|d| f.uses(d)).map(|d| d.extent);
        Some(extents.fold(unit.kernel.buffer(f.buf).dtype.size(), usize::saturating_mul))
    };
    [&c.a, &c.b].into_iter().filter_map(bytes).fold(0, usize::saturating_add)
}

/// Adds the loops `next` to those that end `loops`, as one loop if each is one with the same steps.
pub(super) fn join(loops: &mut Vec<Stmt>, mut next: Vec<Stmt>) {
    let same = match (loops.last(), next.as_slice()) {
        (
            Some(Stmt::For { lo, hi, step, parallel: true, .. }),
            [Stmt::For { lo: l, hi: h, step: s, parallel: true, .. }],
        ) => lo == l && hi == h && step == s && matches!((lo, hi), (Expr::Const(_), Expr::Const(_))),
        _ => false,
    };
    match (same, loops.last_mut(), next.pop()) {
        (true, Some(Stmt::For { var, body, .. }), Some(Stmt::For { var: other, body: more, .. })) => {
            let names = BTreeMap::from([(other, *var)]);
            body.extend(more.into_iter().map(|s| renamed(s, &names)));
        }
        (_, _, last) => {
            loops.append(&mut next);
            loops.extend(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_meet_or_do_not() {
        // Rows of 40 in steps of two: `80 p + 4 q + o` for `p` in 0..5, `q` in 0..10, `o` in 0..2.
        let terms = [(80, -4, 4), (4, -9, 9), (1, -1, 1)];
        for (sum, meet) in [(0, true), (2, false), (40, false), (42, false), (3, true), (80, true), (38, false)] {
            assert_eq!(may_be(sum, &terms), meet, "{sum}");
        }
        // Far out of reach, and too much to try.
        assert!(!may_be(1000, &terms));
        assert!(may_be(7, &[(1, -100, 100), (1, -100, 100)]));
        assert!(may_be(i64::MAX, &[(1, i64::MIN, i64::MAX)]));
    }
}

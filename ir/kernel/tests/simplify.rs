//! Canonical forms of index expressions.

mod common;

use common::{Stream, decisions};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::BTreeMap;
use tenon_base::Scalar;
use tenon_kernel::{BinOp, CmpOp, Expr, Kernel, UnOp, Var, simplify_index, simplify_kernel};

/// Simplifies an expression of loop variables `%a` in 0..12, `%b` in 0..12, `%c` in 0..64, `%n` in -5..6.
fn simple(e: &str) -> String {
    let text = format!(
        "kernel k(out %y: i64[1]) {{
  for %a in 0..12 {{
    for %b in 0..12 {{
      for %c in 0..64 {{
        for %n in -5..6 {{
          store %y[0] = {e}
        }}
      }}
    }}
  }}
}}"
    );
    let k = Kernel::parse(&text).unwrap_or_else(|e| panic!("{e}"));
    let text = simplify_kernel(k).to_string();
    text.lines().find_map(|l| l.trim().strip_prefix("store %y[0] = ")).unwrap_or("").to_string()
}

#[test]
fn canonical_forms() {
    for (e, expected) in [
        ("(%a * 768 + %b * 64 + %c) % 64", "%c"),
        ("(%a * 768 + %b * 64 + %c) / 64 % 12", "%b"),
        ("(%a * 768 + %b * 64 + %c) / 768", "%a"),
        ("(%a * 768 + %b * 64 + %c) / 64", "%a * 12 + %b"),
        ("(%a * 768 + %b * 64 + %c) % 768 / 64", "%b"),
        ("(%c + %b * 64 + %a * 768) % 768 % 64", "%c"),
        // Apart and together again.
        ("%c / 16 * 16 + %c % 16", "%c"),
        ("%c / 16 * 16 + %c / 4 % 4 * 4 + %c % 4", "%c"),
        ("(%c / 4 + %a * 16) * 4 + %c % 4", "%a * 64 + %c"),
        // Nested.
        ("%c / 4 / 8", "%c / 32"),
        ("(%c / 4 + 3) / 8", "(%c + 12) / 32"),
        ("%c % 32 % 8", "%c % 8"),
        ("%c % 8 % 32", "%c % 8"),
        ("(%c + 8) % 8", "%c % 8"),
        ("(%c * 2 + 1) / 2", "%c"),
        ("(%c * 6 + 2) / 4", "(%c * 3 + 1) / 2"),
        ("(%c * 6 + 3) % 4", "(%c + 1) % 2 * 2 + 1"),
        ("(%c * 65 + 130) % 64", "(%c + 2) % 64"),
        ("(63 - %c) / 64", "0"),
        ("(%a * 64 - %c + 63) / 64", "%a"),
        // Of both signs, division rounds towards 0 and splits only where it is exact.
        ("(%n * 4 + 1) / 4", "(%n * 4 + 1) / 4"),
        ("(%n * 4 + 8) / 4", "%n + 2"),
        ("(%n + 5) / 16", "0"),
        ("%n % 8", "%n"),
        ("%n % 4", "%n % 4"),
        ("%n / 0", "0"),
        // Shifts and masks.
        ("(%a << 6) + %c >> 6", "%a"),
        ("%c + %a * 64 & 63", "%c"),
        ("%n >> 1", "%n >> 1"),
        // Order, cancellation.
        ("1 + %c + %a - %c + 2 * (%a - 1)", "%a * 3 - 1"),
        ("%c - %c", "0"),
        ("-%c + %a", "%a - %c"),
        ("-%c + 3 - 2 * %a", "3 - %a * 2 - %c"),
        ("-%c", "%c * -1"),
        // Bounds.
        ("min(%c, 63)", "%c"),
        ("max(min(%c + 1, 63), 0)", "min(%c + 1, 63)"),
        ("min(%c, %c + 1)", "%c"),
        ("max(63, %c)", "63"),
        ("max(3, %c)", "max(%c, 3)"),
        ("select(%c < 64, %a, %b)", "%a"),
        ("select(%c < 63, %a + 0, 1 * %a)", "%a"),
        ("select((%c >= 0) & (%a == 3), %a, %b)", "select(%a == 3, %a, %b)"),
        ("select(not(%c >= %c + 1), %a, %b)", "%a"),
        ("i64(%a + 0)", "%a"),
        ("i64(u8(%a + 0))", "i64(u8(%a))"),
        // Wrapping: nothing can be said of the quotient.
        ("%c * 288230376151711744 / 2", "%c * 288230376151711744 / 2"),
    ] {
        assert_eq!(simple(e), expected, "{e}");
    }
}

#[test]
fn statements_that_never_run_are_dropped() {
    let k = "kernel k(in %x: i64[8], out %y: f32[64]) {
  for %i in 0..8 {
    for %j in %i..%i { store %y[0] = 1.0 }
    if %i < 8 { store %y[%i * 1 + 0] = 1.5 - 1.5 } else { store %y[1] = 1.0 }
    if %i > 8 { store %y[1] = 1.0 }
    let %k = load %x[0 + %i]
    if (%k >= 0) & (%k < 4) {
      store %y[(%k * 8 + %i) / 8] = 1.0
    }
    var %v = 3
    while %v < %i * 2 - %i { %v = %v + 1 + 1 }
  }
  for %one in 0..1 { store %y[%one] = 1.0 }
  while 1 > 2 { store %y[0] = 1.0 }
}
";
    let expected = "kernel k(in %x: i64[8], out %y: f32[64]) {
  vars %i: i64, %j: i64, %k: i64, %v: i64, %one: i64
  for %i in 0..8 {
    store %y[%i] = 1.5 - 1.5
    let %k = load %x[%i]
    if (%k >= 0) & (%k < 4) {
      store %y[%k] = 1.0
    }
    var %v = 3
    while %v < %i {
      %v = %v + 2
    }
  }
  for %one in 0..1 {
    store %y[0] = 1.0
  }
}
";
    assert_eq!(simplify_kernel(Kernel::parse(k).unwrap()).to_string(), expected);
}

/// A random `i64` expression of `%0`, `%1`, `%2`, %3.
fn index(s: &mut Stream, depth: usize) -> Expr {
    if depth == 0 || s.below(6) == 0 {
        return match s.below(4) {
            0 => Expr::int(s.one(&[0, 1, 2, 3, 4, 8, 12, 64, -1, -7, i64::MAX, i64::MIN])),
            _ => Expr::Var(Var(s.below(4) as u32)),
        };
    }
    let x = index(s, depth - 1);
    let d = s.one(&[1, 2, 3, 4, 8, 12, 16, 64]);
    match s.below(14) {
        0..=2 => x + index(s, depth - 1),
        3 => x - index(s, depth - 1),
        4 => x * s.one(&[2, 3, 4, 8, 64, -1, -3]),
        5 | 6 => x / d,
        7 | 8 => x % d,
        9 => x.min(index(s, depth - 1)),
        10 => x.max(index(s, depth - 1)),
        11 => {
            let op = s.one(&[CmpOp::Lt, CmpOp::Eq, CmpOp::Ge]);
            index(s, depth - 1).compare(op, x.clone()).select(x, index(s, depth - 1))
        }
        12 => {
            let op = s.one(&[BinOp::Shl, BinOp::Shr, BinOp::And, BinOp::Mul, BinOp::Div, BinOp::Rem]);
            x.binary(op, index(s, depth - 1))
        }
        _ => x.unary(s.one(&[UnOp::Neg, UnOp::Abs])),
    }
}

/// The value of `e`; comparisons give 0 and 1.
fn eval(e: &Expr, vars: &[i64]) -> i64 {
    let at = |e: &Expr| eval(e, vars);
    match e {
        Expr::Const(Scalar::Int(_, v)) => *v as i64,
        Expr::Var(v) => vars[v.0 as usize],
        Expr::Unary(UnOp::Neg, x) => at(x).wrapping_neg(),
        Expr::Unary(_, x) => at(x).wrapping_abs(),
        Expr::Compare(op, b) => {
            let (x, y) = (at(&b[0]), at(&b[1]));
            i64::from(match op {
                CmpOp::Lt => x < y,
                CmpOp::Eq => x == y,
                _ => x >= y,
            })
        }
        Expr::Select(b) => {
            if at(&b[0]) != 0 {
                at(&b[1])
            } else {
                at(&b[2])
            }
        }
        Expr::Binary(op, b) => {
            let (x, y) = (at(&b[0]), at(&b[1]));
            match op {
                BinOp::Add => x.wrapping_add(y),
                BinOp::Sub => x.wrapping_sub(y),
                BinOp::Mul => x.wrapping_mul(y),
                BinOp::Div => {
                    if y == 0 {
                        0
                    } else {
                        x.wrapping_div(y)
                    }
                }
                BinOp::Rem => {
                    if y == 0 {
                        0
                    } else {
                        x.wrapping_rem(y)
                    }
                }
                BinOp::Min => x.min(y),
                BinOp::Max => x.max(y),
                BinOp::And => x & y,
                BinOp::Shl => x.wrapping_shl(y as u32),
                _ => x.wrapping_shr(y as u32),
            }
        }
        _ => unreachable!("not generated: {e:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4000,
        rng_seed: RngSeed::Fixed(0),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// The simplified expression has the same value at every point of the ranges, which is within its interval, and
    /// does not simplify further.
    #[test]
    fn values_stay(
        data in decisions(60),
        ranges in prop::array::uniform4((prop::sample::select(vec![0i64, 0, 0, 1, -5, 100, i64::MIN, -1 << 40]), 0..80i64)),
        points in prop::collection::vec(prop::array::uniform4(any::<u32>()), 20),
        hidden in 0..8usize,
    ) {
        let e = index(&mut Stream::new(data), 5);
        // One variable may have no range.
        let range = |v: Var| {
            let (lo, n) = ranges[v.0 as usize];
            (v.0 as usize != hidden).then_some((lo, lo.saturating_add(n)))
        };
        let simple = simplify_index(e.clone(), &range);
        let known: BTreeMap<Var, (i64, i64)> = (0..4).filter_map(|v| Some((Var(v), range(Var(v))?))).collect();
        let facts = tenon_kernel::Facts::of_ranges(
            known.iter().map(|(v, (lo, hi))| (*v, tenon_kernel::Interval::new((*lo).into(), (*hi).into()))),
        );
        let interval = facts.interval(&e);
        for p in &points {
            let vars: Vec<i64> = ranges.iter().zip(p).map(|((lo, n), p)| lo + i64::from(*p) % (n + 1)).collect();
            let value = eval(&e, &vars);
            prop_assert_eq!(eval(&simple, &vars), value, "{:?}\n{:?}\nat {:?}", e, simple, vars);
            let inside = interval.lo <= value.into() && i128::from(value) <= interval.hi;
            prop_assert!(inside, "{value} is not within {interval:?}: {e:?} at {vars:?}");
        }
        prop_assert_eq!(simplify_index(simple.clone(), &range), simple, "{:?}", e);
    }
}

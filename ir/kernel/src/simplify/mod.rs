//! Index expressions in canonical form: what makes fused reshapes, broadcasts and transposes cheap.
//!
//! Sums are collected, quotients and remainders by constants lose the terms that divide evenly, and whatever the
//! ranges of variables decide is decided: `(i·768 + j·64 + k) / 64 % 12` with `j < 12` and `k < 64` becomes `j`. Only
//! `i64` and `bool` expressions change; floating-point arithmetic keeps its bits.

mod kernel;

use crate::interval::{Interval, elem};
use crate::linear::Linear;
use crate::{BinOp, Expr, Facts, Kernel, UnOp, Var};
use kernel::Walker;
use tenon_base::{DType, Scalar};

/// Divisors beyond this are left alone, so that products of two fit.
const MAX_DIVISOR: i128 = 1 << 31;

/// The scalar `i64` expression `e`, simplified. `range` gives the smallest and largest value of an `i64` variable;
/// variables without a range may have any type and value.
pub fn simplify_index(e: Expr, range: &dyn Fn(Var) -> Option<(i64, i64)>) -> Expr {
    let mut ranges = vec![];
    e.visit(&mut |e| {
        if let Expr::Var(v) = e {
            ranges.extend(range(*v).map(|(lo, hi)| (*v, Interval::new(lo.into(), hi.into()))));
        }
    });
    Simplifier { facts: &Facts::of_ranges(ranges), kernel: None }.index(&e)
}

/// `kernel` with all index arithmetic and all decidable conditions simplified; statements that never run are dropped.
pub fn simplify_kernel(mut kernel: Kernel) -> Kernel {
    let body = std::mem::take(&mut kernel.body);
    let body = Walker::new(&kernel).block(body);
    kernel.body = body;
    kernel
}

struct Simplifier<'f, 'k> {
    facts: &'f Facts<'k>,
    kernel: Option<&'k Kernel>,
}

fn gcd(a: i128, b: i128) -> i128 {
    if b == 0 { a.abs() } else { gcd(b, a % b) }
}

/// The operands of `x op d` where `d` is a constant above 0.
fn by_constant(op: BinOp, e: &Expr) -> Option<(&Expr, i128)> {
    match e {
        Expr::Binary(o, b) if *o == op => b[1].as_int().filter(|d| *d > 0).map(|d| (&b[0], d.into())),
        _ => None,
    }
}

fn bool_const(e: &Expr) -> Option<bool> {
    match e {
        Expr::Const(Scalar::Int(DType::Bool, v)) => Some(*v != 0),
        _ => None,
    }
}

fn of_bool(v: bool) -> Expr {
    Expr::Const(Scalar::Int(DType::Bool, v.into()))
}

impl Simplifier<'_, '_> {
    fn index(&self, e: &Expr) -> Expr {
        self.linear(e).into_expr()
    }

    fn lanes(&self, e: &Expr) -> u16 {
        match e {
            Expr::Const(_) | Expr::Extract(..) | Expr::Reduce(..) => 1,
            Expr::Var(v) => self.kernel.and_then(|k| k.vars.get(v.0 as usize)).map_or(1, |v| v.ty.lanes),
            Expr::Load { lanes, .. } | Expr::Splat(lanes, _) => *lanes,
            Expr::Lanes(v) => v.len() as u16,
            Expr::Dot(b) => self.lanes(&b[2]),
            e => e.first_child().map_or(1, |e| self.lanes(e)),
        }
    }

    /// An expression of any type.
    fn any(&self, e: Expr) -> Expr {
        let scalar = self.lanes(&e) == 1;
        if scalar && elem(&e, self.facts) == Some(DType::I64) {
            return self.index(&e);
        }
        let e = e.map_children(&mut |c| self.any(c));
        if !scalar {
            return e;
        }
        match &e {
            Expr::Compare(..) => match self.facts.interval(&e).as_point() {
                Some(v) => of_bool(v != 0),
                None => e,
            },
            Expr::Unary(UnOp::Not, x) => bool_const(x).map_or(e.clone(), |v| of_bool(!v)),
            Expr::Binary(op @ (BinOp::And | BinOp::Or), b) => match (bool_const(&b[0]), bool_const(&b[1])) {
                // `true & x` and `false | x` are x, `false & x` and `true | x` what they begin with.
                (Some(v), _) => {
                    if v == (*op == BinOp::And) {
                        b[1].clone()
                    } else {
                        of_bool(v)
                    }
                }
                (_, Some(v)) => {
                    if v == (*op == BinOp::And) {
                        b[0].clone()
                    } else {
                        of_bool(v)
                    }
                }
                _ => e,
            },
            Expr::Select(b) => match bool_const(&b[0]) {
                Some(v) => b[if v { 1 } else { 2 }].clone(),
                None => e,
            },
            _ => e,
        }
    }

    /// The integers that `l` can be, if as an `i64` expression it cannot wrap.
    fn exact(&self, l: &Linear) -> Option<Interval> {
        self.facts.sum_of(l).filter(|i| i.within(Interval::of_type(DType::I64)))
    }

    /// An expression that is not a sum.
    fn atom(&self, e: Expr) -> Linear {
        let l = Linear::atom(e);
        match self.exact(&l).and_then(Interval::as_point) {
            Some(v) => Linear::constant(v),
            None => l,
        }
    }

    /// The scalar `i64` expression `e` as a simplified sum.
    fn linear(&self, e: &Expr) -> Linear {
        let binary = |op: BinOp, x: Linear, y: Linear| self.atom(x.into_expr().binary(op, y.into_expr()));
        match e {
            Expr::Const(Scalar::Int(DType::I64, v)) => Linear::constant(*v),
            Expr::Unary(UnOp::Neg, x) => {
                let x = self.linear(x);
                x.scaled(-1).map(Linear::wrapped).unwrap_or_else(|| self.atom(x.into_expr().unary(UnOp::Neg)))
            }
            Expr::Binary(op, b) => {
                let (x, y) = (self.linear(&b[0]), self.linear(&b[1]));
                let sum = match (op, x.as_constant(), y.as_constant()) {
                    (BinOp::Add, ..) => x.clone().plus(&y, 1).map(|l| self.rejoined(l)),
                    (BinOp::Sub, ..) => x.clone().plus(&y, -1).map(|l| self.rejoined(l)),
                    (BinOp::Mul, Some(c), _) => y.scaled(c),
                    (BinOp::Mul, _, Some(c)) => x.scaled(c),
                    (BinOp::Shl, _, Some(n)) if (0..62).contains(&n) => x.scaled(1 << n),
                    (BinOp::Div, _, Some(d)) if d > 0 => self.div(&x, d),
                    (BinOp::Rem, _, Some(d)) if d > 0 => self.rem(&x, d),
                    // Of numbers that are not negative, shifts divide and masks of low bits take remainders.
                    (BinOp::Shr, _, Some(n)) if (0..31).contains(&n) && self.is_natural(&x) => self.div(&x, 1 << n),
                    (BinOp::And, _, Some(m)) if m >= 0 && m & (m + 1) == 0 && self.is_natural(&x) => {
                        self.rem(&x, m + 1)
                    }
                    (BinOp::Min, ..) => self.smaller(&x, &y),
                    (BinOp::Max, ..) => self.smaller(&y, &x).map(|l| if l == y { x.clone() } else { y.clone() }),
                    _ => None,
                };
                match (sum, op) {
                    (Some(l), _) => l.wrapped(),
                    // Constants on the right.
                    (None, BinOp::Min | BinOp::Max) if x.as_constant().is_some() => binary(*op, y, x),
                    (None, _) => binary(*op, x, y),
                }
            }
            Expr::Select(b) => {
                let (cond, x, y) = (self.any(b[0].clone()), self.linear(&b[1]), self.linear(&b[2]));
                match bool_const(&cond) {
                    Some(true) => x,
                    Some(false) => y,
                    None if x == y => x,
                    None => self.atom(cond.select(x.into_expr(), y.into_expr())),
                }
            }
            Expr::Cast(DType::I64, x) if elem(x, self.facts) == Some(DType::I64) => self.linear(x),
            // A load's index is an index whether or not its variables are known.
            Expr::Load { buf, index, lanes } => {
                Linear::atom(Expr::Load { buf: *buf, index: Box::new(self.index(index)), lanes: *lanes })
            }
            e => self.atom(e.clone().map_children(&mut |c| self.any(c))),
        }
    }

    fn is_natural(&self, l: &Linear) -> bool {
        self.exact(l).is_some_and(|i| i.lo >= 0)
    }

    /// The smaller of the two, if that can be told.
    fn smaller(&self, x: &Linear, y: &Linear) -> Option<Linear> {
        self.exact(x)?;
        self.exact(y)?;
        let Interval { lo, hi } = self.facts.sum_of(&x.clone().plus(y, -1)?)?;
        if hi <= 0 {
            Some(x.clone())
        } else if lo >= 0 {
            Some(y.clone())
        } else {
            None
        }
    }

    /// `l` with `(x / d)·d + x % d` put together to `x`.
    fn rejoined(&self, mut l: Linear) -> Linear {
        'again: loop {
            for (atom, c) in &l.terms {
                let Some((x, d)) = by_constant(BinOp::Rem, atom) else { continue };
                let x = self.linear(x);
                let Some(q) = self.div(&x, d) else { continue };
                let [(quotient, 1)] = q.terms.as_slice() else { continue };
                if q.base != 0 || l.coefficient(quotient) != c * d {
                    continue;
                }
                let (atom, c, quotient) = (atom.clone(), *c, quotient.clone());
                let mut rest = l.clone();
                rest.take(&atom);
                rest.take(&quotient);
                if let Some(joined) = rest.plus(&x, c) {
                    l = joined;
                    continue 'again;
                }
            }
            return l;
        }
    }

    /// Splits a sum that is not negative, by a divisor `d`, into what divides evenly (divided) and a rest that is not
    /// negative.
    fn split(&self, l: &Linear, d: i128) -> Option<(Linear, Linear, Interval)> {
        let mut even = Linear::constant(l.base.div_euclid(d));
        let mut rest = Linear::constant(l.base.rem_euclid(d));
        for (atom, c) in &l.terms {
            let (to, c) = if c % d == 0 { (&mut even, c / d) } else { (&mut rest, *c) };
            to.terms.push((atom.clone(), c));
        }
        let values = self.exact(&rest)?;
        let whole = values.lo.div_euclid(d);
        even.base += whole;
        rest.base -= whole * d;
        let values = values.plus(Interval::point(-whole * d));
        Some((even, rest, values))
    }

    /// The common divisor of `d` and the coefficients (not the constant) of `l`.
    fn common(l: &Linear, d: i128) -> i128 {
        l.terms.iter().fold(d, |g, (_, c)| gcd(g, *c))
    }

    /// `⌊l / g⌋` where `g` divides all coefficients.
    fn reduced(l: &Linear, g: i128) -> Linear {
        let terms = l.terms.iter().map(|(a, c)| (a.clone(), c / g)).collect();
        Linear { base: l.base.div_euclid(g), terms }
    }

    /// The operands of the single quotient or remainder that `l` is but for its constant: `x`, `d` and the constant.
    fn single(&self, op: BinOp, l: &Linear) -> Option<(Linear, i128, i128)> {
        let [(atom, 1)] = l.terms.as_slice() else { return None };
        let (x, d) = by_constant(op, atom)?;
        let x = self.linear(x);
        self.is_natural(&x).then_some((x, d, l.base))
    }

    /// `l / d`, `d > 0`.
    fn div(&self, l: &Linear, d: i128) -> Option<Linear> {
        if d == 1 {
            return Some(l.clone());
        }
        let values = self.exact(l).filter(|_| d <= MAX_DIVISOR)?;
        if l.base % d == 0 && l.terms.iter().all(|(_, c)| c % d == 0) {
            return Some(Linear { base: l.base / d, ..Self::reduced(l, d) });
        }
        if let Some(v) = l.as_constant() {
            return Some(Linear::constant(v / d));
        }
        if values.lo < 0 {
            return None;
        }
        let (even, rest, values) = self.split(l, d)?;
        if values.hi < d {
            return Some(even);
        }
        let g = Self::common(&rest, d);
        let (rest, d) = (Self::reduced(&rest, g), d / g);
        let quotient = match self.single(BinOp::Div, &rest) {
            // (x / a + b) / d = (x + a·b) / (a·d)
            Some((mut x, a, b)) if a * d <= MAX_DIVISOR => {
                x.base += a * b;
                self.div(&x, a * d)
            }
            _ => None,
        };
        let quotient = match quotient {
            Some(q) => q,
            None if d == 1 => rest,
            None => self.atom(rest.into_expr() / Expr::int(d as i64)),
        };
        even.plus(&quotient, 1)
    }

    /// `l % d`, `d > 0`.
    fn rem(&self, l: &Linear, d: i128) -> Option<Linear> {
        let values = self.exact(l).filter(|_| d <= MAX_DIVISOR)?;
        if l.base % d == 0 && l.terms.iter().all(|(_, c)| c % d == 0) {
            return Some(Linear::constant(0));
        }
        if let Some(v) = l.as_constant() {
            return Some(Linear::constant(v % d));
        }
        if values.lo < 0 {
            // Of both signs: nothing but what is smaller than the divisor anyhow.
            return (values.lo > -d && values.hi < d).then(|| l.clone());
        }
        let (_, rest, values) = self.split(l, d)?;
        if values.hi < d {
            return Some(rest);
        }
        // What is congruent and nearer to 0, where it is not negative.
        let mut near = Linear::constant(rest.base);
        near.terms = rest.terms.iter().map(|(a, c)| (a.clone(), c % d)).collect();
        if near != rest && self.is_natural(&near) {
            return self.rem(&near, d);
        }
        // (g·s + b) % (g·d) = g·((s + b/g) % d) + b % g
        let g = Self::common(&rest, d);
        let low = rest.base.rem_euclid(g);
        let (rest, d) = (Self::reduced(&rest, g), d / g);
        let remainder = match self.single(BinOp::Rem, &rest) {
            // (x % (a·d) + b) % d = (x + b) % d
            Some((mut x, m, b)) if m % d == 0 => {
                x.base += b;
                self.rem(&x, d)
            }
            _ => None,
        };
        let remainder = match remainder {
            Some(r) => r,
            None if d == 1 => Linear::constant(0),
            None => self.atom(rest.into_expr() % Expr::int(d as i64)),
        };
        Linear::constant(low).plus(&remainder, g)
    }
}

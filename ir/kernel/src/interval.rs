//! Which values an integer expression can take.

use crate::facts::Facts;
use crate::linear::Linear;
use crate::{BinOp, CmpOp, Expr, UnOp};
use tenon_base::{DType, Scalar};

/// The integers from `lo` to `hi`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The smallest.
    pub lo: i128,
    /// The largest.
    pub hi: i128,
}

/// Beyond every integer type, yet far from overflow. As an end of an interval it means that there is no bound.
pub(crate) const INFINITY: i128 = 1 << 100;

impl Interval {
    /// From `lo` to `hi`.
    pub const fn new(lo: i128, hi: i128) -> Interval {
        Interval { lo, hi }
    }

    /// One value.
    pub const fn point(v: i128) -> Interval {
        Interval { lo: v, hi: v }
    }

    /// All values of `dtype`; for floats, no bound.
    pub fn of_type(dtype: DType) -> Interval {
        let (lo, hi) = dtype.int_range().unwrap_or((-INFINITY, INFINITY));
        Interval { lo, hi }
    }

    /// Whether every value of `self` is in `other`.
    pub fn within(self, other: Interval) -> bool {
        other.lo <= self.lo && self.hi <= other.hi
    }

    /// The smallest interval around both.
    #[must_use]
    pub fn hull(self, other: Interval) -> Interval {
        Interval { lo: self.lo.min(other.lo), hi: self.hi.max(other.hi) }
    }

    /// The values in both; `self` where there are none, which happens only in code that never runs.
    #[must_use]
    pub fn meet(self, other: Interval) -> Interval {
        let both = Interval { lo: self.lo.max(other.lo), hi: self.hi.min(other.hi) };
        if both.lo <= both.hi { both } else { self }
    }

    /// The single value, if there is only one.
    pub fn as_point(self) -> Option<i128> {
        (self.lo == self.hi).then_some(self.lo)
    }

    /// The same in `dtype`: what wraps may be anything.
    fn wrapped(self, dtype: DType) -> Interval {
        let all = Interval::of_type(dtype);
        if self.within(all) { self } else { all }
    }

    /// Around the results of `f` on the ends of both; for functions monotone in each operand.
    fn corners(self, other: Interval, f: impl Fn(i128, i128) -> i128) -> Interval {
        let all = [f(self.lo, other.lo), f(self.lo, other.hi), f(self.hi, other.lo), f(self.hi, other.hi)];
        all.iter().fold(Interval::point(all[0]), |i, v| i.hull(Interval::point(*v)))
    }

    /// `factor · self`
    pub(crate) fn scaled(self, factor: i128) -> Interval {
        // Whatever passes infinity is infinity, and stays it.
        let times = |v: i128| match v {
            v if v.abs() >= INFINITY && factor != 0 => v.signum() * factor.signum() * INFINITY,
            v => v.saturating_mul(factor).clamp(-INFINITY, INFINITY),
        };
        let (a, b) = (times(self.lo), times(self.hi));
        Interval { lo: a.min(b), hi: a.max(b) }
    }

    /// `self + other`
    pub(crate) fn plus(self, other: Interval) -> Interval {
        let lo = if self.lo.min(other.lo) <= -INFINITY { -INFINITY } else { self.lo + other.lo };
        let hi = if self.hi.max(other.hi) >= INFINITY { INFINITY } else { self.hi + other.hi };
        Interval { lo: lo.min(INFINITY), hi: hi.max(-INFINITY) }
    }

    fn divided(self, by: Interval) -> Interval {
        let zero = Interval::point(0);
        let part = |by: Interval| self.corners(by, |a, b| a / b);
        let mut r = None;
        let mut include = |i: Interval| r = Some(r.map_or(i, |r: Interval| r.hull(i)));
        if by.hi >= 1 {
            include(part(Interval::new(by.lo.max(1), by.hi)));
        }
        if by.lo <= -1 {
            include(part(Interval::new(by.lo, by.hi.min(-1))));
        }
        if by.lo <= 0 && by.hi >= 0 {
            include(zero);
        }
        // Between the ends the dividend may pass 0.
        let r = r.unwrap_or(zero);
        if self.lo <= 0 && self.hi >= 0 { r.hull(zero) } else { r }
    }

    fn remainder(self, by: Interval) -> Interval {
        if let Some(d) = by.as_point().filter(|d| *d != 0) {
            let same_sign = self.lo >= 0 || self.hi <= 0;
            if same_sign && self.lo / d == self.hi / d {
                return Interval::new(self.lo % d, self.hi % d);
            }
        }
        let largest = by.lo.abs().max(by.hi.abs()) - 1;
        if largest < 0 {
            return Interval::point(0);
        }
        Interval::new(self.lo.max(-largest).min(0), self.hi.min(largest).max(0))
    }
}

/// The element type of `e`, where it can be told.
pub(crate) fn elem(e: &Expr, facts: &Facts) -> Option<DType> {
    match e {
        Expr::Const(s) => Some(s.dtype()),
        Expr::Var(v) => facts.var_type(*v),
        Expr::Load { buf, .. } => facts.buffer_type(*buf),
        Expr::Unary(_, e) | Expr::Splat(_, e) | Expr::Extract(e, _) | Expr::Reduce(_, e) => elem(e, facts),
        Expr::Binary(_, b) => elem(&b[0], facts).or_else(|| elem(&b[1], facts)),
        Expr::Compare(..) => Some(DType::Bool),
        Expr::Select(b) => elem(&b[1], facts).or_else(|| elem(&b[2], facts)),
        Expr::Fma(b) => elem(&b[0], facts),
        Expr::Dot(b) => elem(&b[2], facts),
        Expr::ToBf16(_) => Some(DType::U16),
        Expr::Cast(d, _) | Expr::Bitcast(d, _) => Some(*d),
        Expr::Lanes(v) | Expr::Math(_, v) => v.first().and_then(|e| elem(e, facts)),
    }
}

/// The values of `e` (of all its lanes); without bound for floats.
pub fn interval(e: &Expr, facts: &Facts) -> Interval {
    let Some(d) = elem(e, facts) else {
        return Interval::new(-INFINITY, INFINITY);
    };
    let all = Interval::of_type(d);
    if d.is_float() || !facts.spend() {
        return all;
    }
    let of = |e: &Expr| interval(e, facts);
    match e {
        Expr::Const(Scalar::Int(_, v)) => Interval::point(*v),
        Expr::Var(v) => facts.var(*v).meet(facts.known(e)),
        Expr::Splat(_, x) | Expr::Extract(x, _) => of(x),
        Expr::Reduce(BinOp::Min | BinOp::Max, x) => of(x),
        Expr::Lanes(v) => v.iter().map(of).reduce(Interval::hull).unwrap_or(all),
        Expr::Select(b) => match of(&b[0]).as_point() {
            Some(0) => of(&b[2]),
            Some(_) => of(&b[1]),
            None => of(&b[1]).hull(of(&b[2])),
        },
        Expr::Compare(op, b) => compare(*op, &b[0], &b[1], facts),
        Expr::Cast(_, x) => match elem(x, facts) {
            Some(from) if !from.is_float() && d == DType::Bool => match of(x) {
                Interval { lo: 0, hi: 0 } => Interval::point(0),
                i if i.lo > 0 || i.hi < 0 => Interval::point(1),
                _ => all,
            },
            Some(from) if !from.is_float() => of(x).wrapped(d),
            _ => all,
        },
        Expr::Unary(op, x) => match op {
            UnOp::Neg if d == DType::I64 => sum(e, facts).unwrap_or(all),
            UnOp::Neg => of(x).scaled(-1).wrapped(d),
            UnOp::Abs => {
                let i = of(x);
                let lo = if i.lo <= 0 && i.hi >= 0 { 0 } else { i.lo.abs().min(i.hi.abs()) };
                Interval::new(lo, i.lo.abs().max(i.hi.abs())).wrapped(d)
            }
            UnOp::Not => {
                // All ones minus x, for signed types -1 - x.
                let ones = if d.is_signed_int() { -1 } else { all.hi };
                of(x).scaled(-1).plus(Interval::point(ones))
            }
            _ => all,
        },
        Expr::Binary(op, b) => {
            let is_sum = d == DType::I64 && matches!(op, BinOp::Add | BinOp::Sub | BinOp::Mul);
            let i = if is_sum { sum(e, facts) } else { None };
            i.unwrap_or_else(|| binary(*op, of(&b[0]), of(&b[1]), d)).meet(facts.known(e))
        }
        _ => all,
    }
}

/// The values of the `i64` expression `e` as a sum, if it is one.
fn sum(e: &Expr, facts: &Facts) -> Option<Interval> {
    let l = Linear::of(e, &|v| facts.inline(v));
    let trivial = matches!(l.terms.as_slice(), [(a, 1)] if a == e);
    (!trivial).then(|| facts.sum(&l).wrapped(DType::I64))
}

fn binary(op: BinOp, x: Interval, y: Interval, d: DType) -> Interval {
    let all = Interval::of_type(d);
    match op {
        BinOp::Add => x.plus(y).wrapped(d),
        BinOp::Sub => x.plus(y.scaled(-1)).wrapped(d),
        BinOp::Mul => x.corners(y, i128::saturating_mul).wrapped(d),
        BinOp::Div => x.divided(y).wrapped(d),
        BinOp::Rem => x.remainder(y),
        BinOp::Min => Interval::new(x.lo.min(y.lo), x.hi.min(y.hi)),
        BinOp::Max => Interval::new(x.lo.max(y.lo), x.hi.max(y.hi)),
        BinOp::And if x.lo >= 0 && y.lo >= 0 => Interval::new(0, x.hi.min(y.hi)),
        BinOp::And if x.lo >= 0 => Interval::new(0, x.hi),
        BinOp::And if y.lo >= 0 => Interval::new(0, y.hi),
        BinOp::Or | BinOp::Xor if x.lo >= 0 && y.lo >= 0 => {
            let bits = 128 - x.hi.max(y.hi).leading_zeros();
            Interval::new(0, (1i128 << bits) - 1)
        }
        BinOp::Shl | BinOp::Shr => {
            let bits = d.size() as i128 * 8;
            match y.as_point().filter(|n| (0..bits).contains(n)) {
                Some(n) if op == BinOp::Shl => x.scaled(1 << n).wrapped(d),
                Some(n) => Interval::new(x.lo >> n, x.hi >> n),
                None if op == BinOp::Shr => Interval::new(x.lo.min(0), x.hi.max(-1)),
                None => all,
            }
        }
        _ => all,
    }
}

/// The outcome of `x op y`.
fn compare(op: CmpOp, x: &Expr, y: &Expr, facts: &Facts) -> Interval {
    let unknown = Interval::new(0, 1);
    let difference = match elem(x, facts).or_else(|| elem(y, facts)) {
        Some(DType::I64) => facts.difference(x, y),
        Some(d) if !d.is_float() => Some(interval(x, facts).plus(interval(y, facts).scaled(-1))),
        _ => None,
    };
    let Some(Interval { lo, hi }) = difference else {
        return unknown;
    };
    let (yes, no) = match op {
        CmpOp::Eq => (lo == 0 && hi == 0, lo > 0 || hi < 0),
        CmpOp::Ne => (lo > 0 || hi < 0, lo == 0 && hi == 0),
        CmpOp::Lt => (hi < 0, lo >= 0),
        CmpOp::Le => (hi <= 0, lo > 0),
        CmpOp::Gt => (lo > 0, hi <= 0),
        CmpOp::Ge => (lo >= 0, hi < 0),
    };
    match (yes, no) {
        (true, _) => Interval::point(1),
        (_, true) => Interval::point(0),
        _ => unknown,
    }
}

//! Sums of integer expressions: `base + Σ coefficient · atom`, where an atom is any `i64` expression that is not itself
//! a sum.
//!
//! Index arithmetic wraps, so an expression is a sum only modulo 2⁶⁴; where the sum as an integer is within the range
//! of `i64`, it is the expression's value.

use crate::{BinOp, Expr, UnOp, Var};
use tenon_base::{DType, Scalar};

/// A sum; atoms are distinct and coefficients never 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Linear {
    pub(crate) base: i128,
    pub(crate) terms: Vec<(Expr, i128)>,
}

/// The order of terms does not matter.
impl PartialEq for Linear {
    fn eq(&self, other: &Linear) -> bool {
        self.base == other.base
            && self.terms.len() == other.terms.len()
            && self.terms.iter().all(|(atom, c)| other.coefficient(atom) == *c)
    }
}

/// Beyond any coefficient that comes from an index.
const LARGEST: i128 = 1 << 100;
/// Longer sums are atoms, since finding an atom takes time in their number.
const MAX_TERMS: usize = 64;

impl Linear {
    pub(crate) fn constant(base: i128) -> Linear {
        Linear { base, terms: vec![] }
    }

    pub(crate) fn atom(e: Expr) -> Linear {
        Linear { base: 0, terms: vec![(e, 1)] }
    }

    /// The sum that the `i64` expression `e` is, modulo 2⁶⁴. Variables for which `inline` gives a sum are replaced by
    /// it.
    pub(crate) fn of(e: &Expr, inline: &dyn Fn(Var) -> Option<Linear>) -> Linear {
        let of = |e: &Expr| Linear::of(e, inline);
        let sum = match e {
            Expr::Const(Scalar::Int(DType::I64, v)) => return Linear::constant(*v),
            Expr::Var(v) => inline(*v),
            Expr::Unary(UnOp::Neg, x) => of(x).scaled(-1),
            Expr::Binary(BinOp::Add, b) => of(&b[0]).plus(&of(&b[1]), 1),
            Expr::Binary(BinOp::Sub, b) => of(&b[0]).plus(&of(&b[1]), -1),
            Expr::Binary(BinOp::Mul, b) => {
                let (x, y) = (of(&b[0]), of(&b[1]));
                match (x.as_constant(), y.as_constant()) {
                    (Some(c), _) => y.scaled(c),
                    (_, Some(c)) => x.scaled(c),
                    _ => None,
                }
            }
            _ => None,
        };
        sum.unwrap_or_else(|| Linear::atom(e.clone()))
    }

    /// The value of a sum of no terms.
    pub(crate) fn as_constant(&self) -> Option<i128> {
        self.terms.is_empty().then_some(self.base)
    }

    /// The coefficient of `atom`; 0 if it does not occur.
    pub(crate) fn coefficient(&self, atom: &Expr) -> i128 {
        self.terms.iter().find(|(a, _)| a == atom).map_or(0, |(_, c)| *c)
    }

    /// `self + factor · other`, as integers; `None` where that is too large or too long.
    pub(crate) fn plus(mut self, other: &Linear, factor: i128) -> Option<Linear> {
        let add =
            |a: i128, b: i128| b.checked_mul(factor)?.checked_add(a).filter(|v| (-LARGEST..=LARGEST).contains(v));
        self.base = add(self.base, other.base)?;
        for (atom, c) in &other.terms {
            match self.terms.iter_mut().find(|(a, _)| a == atom) {
                Some((_, old)) => *old = add(*old, *c)?,
                None => self.terms.push((atom.clone(), add(0, *c)?)),
            }
        }
        self.terms.retain(|(_, c)| *c != 0);
        (self.terms.len() <= MAX_TERMS).then_some(self)
    }

    /// `factor · self`; `None` where that is too large.
    pub(crate) fn scaled(&self, factor: i128) -> Option<Linear> {
        let times = |v: i128| v.checked_mul(factor).filter(|v| (-LARGEST..=LARGEST).contains(v));
        let base = times(self.base)?;
        let mut terms = Vec::with_capacity(self.terms.len());
        for (atom, c) in self.terms.iter().filter(|_| factor != 0) {
            terms.push((atom.clone(), times(*c)?));
        }
        (terms.len() <= MAX_TERMS).then_some(Linear { base, terms })
    }

    /// The same expression, with the constant and the coefficients in the range of `i64`.
    pub(crate) fn wrapped(mut self) -> Linear {
        let wrap = |v: i128| i128::from(v as i64);
        self.base = wrap(self.base);
        self.terms.iter_mut().for_each(|(_, c)| *c = wrap(*c));
        self.terms.retain(|(_, c)| *c != 0);
        self
    }

    /// Takes the term of `atom` out; gives its coefficient.
    pub(crate) fn take(&mut self, atom: &Expr) -> i128 {
        let c = self.coefficient(atom);
        self.terms.retain(|(a, _)| a != atom);
        c
    }

    /// As an expression in its canonical form: largest coefficients first, then the order of variables; subtractions
    /// rather than negative factors, where a positive term can come first.
    pub(crate) fn into_expr(mut self) -> Expr {
        let rank = |e: &Expr| if let Expr::Var(v) = e { v.0 } else { u32::MAX };
        self.terms.sort_by_key(|(e, c)| (*c < 0, std::cmp::Reverse(c.unsigned_abs()), rank(e)));
        let int = |v: i128| Expr::int(v as i64);
        let mut sum: Option<Expr> = None;
        if self.base > 0 && self.terms.first().is_some_and(|(_, c)| *c < 0) {
            sum = Some(int(std::mem::take(&mut self.base)));
        }
        for (atom, c) in self.terms {
            sum = Some(match sum {
                None => atom * int(c),
                // -2⁶³ has no positive counterpart.
                Some(s) if c < 0 && c > i128::from(i64::MIN) => s - atom * int(-c),
                Some(s) => s + atom * int(c),
            });
        }
        match sum {
            None => int(self.base),
            Some(s) if self.base < 0 && self.base > i128::from(i64::MIN) => s - int(-self.base),
            Some(s) if self.base > i128::from(i64::MAX) => s - int(-self.base),
            Some(s) => s + int(self.base),
        }
    }
}

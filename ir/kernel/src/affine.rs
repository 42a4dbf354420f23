//! Affine index forms: `base + Σ coefficient · variable`.

use crate::{BinOp, Expr, Var};
use std::collections::BTreeMap;
use tenon_base::{DType, Scalar};

/// An affine function of variables; coefficients are never 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Affine {
    /// The constant term.
    pub base: i64,
    /// Coefficients by variable.
    pub terms: BTreeMap<Var, i64>,
}

impl Affine {
    /// The affine form of `e`, if it has one that does not overflow.
    pub fn of(e: &Expr) -> Option<Affine> {
        match e {
            Expr::Const(Scalar::Int(DType::I64, v)) => {
                Some(Affine { base: i64::try_from(*v).ok()?, terms: BTreeMap::new() })
            }
            Expr::Var(v) => Some(Affine { base: 0, terms: BTreeMap::from([(*v, 1)]) }),
            Expr::Binary(BinOp::Add, b) => Affine::of(&b[0])?.plus(&Affine::of(&b[1])?, 1),
            Expr::Binary(BinOp::Sub, b) => Affine::of(&b[0])?.plus(&Affine::of(&b[1])?, -1),
            Expr::Binary(BinOp::Mul, b) => {
                let (x, y) = (Affine::of(&b[0])?, Affine::of(&b[1])?);
                match (x.terms.is_empty(), y.terms.is_empty()) {
                    (true, _) => Affine::default().plus(&y, x.base),
                    (_, true) => Affine::default().plus(&x, y.base),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// `self + factor · other`
    fn plus(mut self, other: &Affine, factor: i64) -> Option<Affine> {
        self.base = self.base.checked_add(other.base.checked_mul(factor)?)?;
        for (v, c) in &other.terms {
            let e = self.terms.entry(*v).or_insert(0);
            *e = e.checked_add(c.checked_mul(factor)?)?;
        }
        self.terms.retain(|_, c| *c != 0);
        Some(self)
    }

    /// The same with another coefficient of `var`.
    #[must_use]
    pub fn with(mut self, var: Var, coefficient: i64) -> Affine {
        if coefficient == 0 {
            self.terms.remove(&var);
        } else {
            self.terms.insert(var, coefficient);
        }
        self
    }

    /// The coefficient of `var`; 0 if it does not occur.
    pub fn coefficient(&self, var: Var) -> i64 {
        self.terms.get(&var).copied().unwrap_or(0)
    }

    /// As an expression, largest coefficients first.
    pub fn to_expr(&self) -> Expr {
        let mut terms: Vec<_> = self.terms.iter().collect();
        terms.sort_by_key(|(v, c)| (std::cmp::Reverse(c.unsigned_abs()), **v));
        let sum = terms.into_iter().fold(None, |sum: Option<Expr>, (v, c)| {
            let t = Expr::Var(*v) * *c;
            Some(sum.map_or(t.clone(), |s| s + t))
        });
        match sum {
            None => Expr::int(self.base),
            Some(s) if self.base < 0 => s - self.base.saturating_neg(),
            Some(s) => s + self.base,
        }
    }
}

//! Symbolic dimensions: constants, named symbols, and arithmetic over them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Terms that a product of sums has at most: one of four sums of eight terms is.
const MOST_TERMS: usize = 4096;
/// Factors that a term has at most.
const MOST_FACTORS: usize = 64;

/// The extent of one axis. Always kept in the normal form its constructors make, so that equal sums and
/// products compare equal. Division rounds towards negative infinity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dim {
    /// A known extent. Negative values occur only in intermediate shape arithmetic.
    Const(i64),
    /// A dimension named by the model, e.g. `batch`.
    Sym(Arc<str>),
    /// Σ coefficient · product of symbols: at least two terms, or one that is not a bare symbol. The key is a
    /// sorted product of atoms (empty for the constant term); coefficients are never 0.
    Sum(Arc<BTreeMap<Vec<Dim>, i64>>),
    /// `⌊a / b⌋`
    Div(Arc<(Dim, Dim)>),
    /// The smaller.
    Min(Arc<(Dim, Dim)>),
    /// The larger.
    Max(Arc<(Dim, Dim)>),
}

impl Dim {
    /// The symbol `name`.
    pub fn sym(name: impl AsRef<str>) -> Dim {
        Dim::Sym(Arc::from(name.as_ref()))
    }

    /// The value, when it is known.
    pub fn as_const(&self) -> Option<i64> {
        match self {
            Dim::Const(c) => Some(*c),
            _ => None,
        }
    }

    /// As a non-negative extent, when it is known.
    pub fn as_usize(&self) -> Option<usize> {
        self.as_const().and_then(|c| usize::try_from(c).ok())
    }

    fn terms(&self) -> BTreeMap<Vec<Dim>, i64> {
        match self {
            Dim::Const(0) => BTreeMap::new(),
            Dim::Const(c) => BTreeMap::from([(vec![], *c)]),
            Dim::Sum(t) => (**t).clone(),
            atom => BTreeMap::from([(vec![atom.clone()], 1)]),
        }
    }

    fn from_terms(mut t: BTreeMap<Vec<Dim>, i64>) -> Dim {
        t.retain(|_, c| *c != 0);
        match t.len() {
            0 => Dim::Const(0),
            1 => {
                let (k, c) = t.first_key_value().expect("one term");
                match (k.as_slice(), *c) {
                    ([], c) => Dim::Const(c),
                    ([atom], 1) => atom.clone(),
                    _ => Dim::Sum(Arc::new(t)),
                }
            }
            _ => Dim::Sum(Arc::new(t)),
        }
    }

    /// `self + other`, saturating on overflow of the constants.
    #[must_use]
    pub fn add(&self, other: &Dim) -> Dim {
        let mut t = self.terms();
        for (k, c) in other.terms() {
            let e = t.entry(k).or_insert(0);
            *e = e.saturating_add(c);
        }
        Dim::from_terms(t)
    }

    /// `self - other`.
    #[must_use]
    pub fn sub(&self, other: &Dim) -> Dim {
        self.add(&other.mul(&Dim::Const(-1)))
    }

    /// `self · other`, multiplied out. A product that would be too large for that is a symbol of its own: nothing is known of it but that it
    /// is equal to itself.
    #[must_use]
    pub fn mul(&self, other: &Dim) -> Dim {
        let (a, b) = (self.terms(), other.terms());
        let longest = |t: &BTreeMap<Vec<Dim>, i64>| t.keys().map(Vec::len).max().unwrap_or(0);
        let many = a.len() > 1 && b.len() > 1 && a.len() * b.len() > MOST_TERMS;
        if many || longest(&a) + longest(&b) > MOST_FACTORS {
            return Dim::too_large(self, other);
        }
        let mut t: BTreeMap<Vec<Dim>, i64> = BTreeMap::new();
        for (ka, ca) in &a {
            for (kb, cb) in &b {
                let mut k = ka.clone();
                k.extend(kb.iter().cloned());
                k.sort();
                let e = t.entry(k).or_insert(0);
                *e = e.saturating_add(ca.saturating_mul(*cb));
            }
        }
        Dim::from_terms(t)
    }

    /// The symbol of a product that is not multiplied out: equal factors give an equal one.
    fn too_large(a: &Dim, b: &Dim) -> Dim {
        let mut hash = DefaultHasher::new();
        (a.min(b), a.max(b)).hash(&mut hash);
        Dim::sym(format!("product_{:016x}", hash.finish()))
    }

    /// `⌊self / other⌋`; exact quotients of products simplify. Division by zero stays symbolic.
    #[must_use]
    pub fn div(&self, other: &Dim) -> Dim {
        match (self, other) {
            (_, Dim::Const(1)) => return self.clone(),
            (Dim::Const(a), Dim::Const(b)) if *b != 0 => {
                return Dim::Const(a.checked_div_euclid(*b).map_or(i64::MAX, |q| {
                    // `div_euclid` rounds away from zero for a negative divisor; floor does not.
                    if *b < 0 && a.rem_euclid(*b) != 0 { q - 1 } else { q }
                }));
            }
            (Dim::Const(0), _) => return Dim::Const(0),
            _ => {}
        }
        if self == other {
            return Dim::Const(1);
        }
        if let Some(q) = self.exact_div(other) {
            return q;
        }
        Dim::Div(Arc::new((self.clone(), other.clone())))
    }

    /// `self / other` where `other` is a single product that divides every term.
    fn exact_div(&self, other: &Dim) -> Option<Dim> {
        let d = other.terms();
        if d.len() != 1 {
            return None;
        }
        let (dk, dc) = d.first_key_value()?;
        let mut out = BTreeMap::new();
        for (k, c) in self.terms() {
            if c.checked_rem(*dc)? != 0 {
                return None;
            }
            let mut rest = k;
            for atom in dk {
                let i = rest.iter().position(|a| a == atom)?;
                rest.remove(i);
            }
            out.insert(rest, c / dc);
        }
        Some(Dim::from_terms(out))
    }

    /// The smaller of the two.
    #[must_use]
    pub fn smaller(&self, other: &Dim) -> Dim {
        match (self.as_const(), other.as_const()) {
            (Some(a), Some(b)) => Dim::Const(a.min(b)),
            _ if self == other => self.clone(),
            _ => Dim::Min(Arc::new((self.clone(), other.clone()))),
        }
    }

    /// The larger of the two.
    #[must_use]
    pub fn larger(&self, other: &Dim) -> Dim {
        match (self.as_const(), other.as_const()) {
            (Some(a), Some(b)) => Dim::Const(a.max(b)),
            _ if self == other => self.clone(),
            _ => Dim::Max(Arc::new((self.clone(), other.clone()))),
        }
    }

    /// Replaces symbols by `value`; those it does not know stay.
    #[must_use]
    pub fn substitute(&self, value: &dyn Fn(&str) -> Option<i64>) -> Dim {
        self.replaced(&|n| value(n).map(Dim::Const))
    }

    /// The same with other names for its symbols; those that `name` does not know stay.
    #[must_use]
    pub fn renamed(&self, name: &dyn Fn(&str) -> Option<String>) -> Dim {
        self.replaced(&|n| name(n).map(Dim::sym))
    }

    /// The same with `with` in the place of symbols; those that it does not know stay.
    fn replaced(&self, with: &dyn Fn(&str) -> Option<Dim>) -> Dim {
        match self {
            Dim::Const(_) => self.clone(),
            Dim::Sym(n) => with(n).unwrap_or_else(|| self.clone()),
            Dim::Sum(t) => t.iter().fold(Dim::Const(0), |acc, (k, c)| {
                acc.add(&k.iter().fold(Dim::Const(*c), |p, a| p.mul(&a.replaced(with))))
            }),
            Dim::Div(p) => p.0.replaced(with).div(&p.1.replaced(with)),
            Dim::Min(p) => p.0.replaced(with).smaller(&p.1.replaced(with)),
            Dim::Max(p) => p.0.replaced(with).larger(&p.1.replaced(with)),
        }
    }

    /// What it is at least, as no symbol is negative; `None` where that says nothing.
    pub fn lower_bound(&self) -> Option<i64> {
        match self {
            Dim::Const(c) => Some(*c),
            Dim::Sym(_) => Some(0),
            Dim::Sum(t) => t.iter().try_fold(0i64, |sum, (k, c)| {
                let least =
                    k.iter().try_fold(*c, |p, a| a.lower_bound().filter(|l| *l >= 0).map(|l| p.saturating_mul(l)))?;
                (k.is_empty() || *c > 0).then(|| sum.saturating_add(least))
            }),
            Dim::Div(p) => match p.1.as_const() {
                Some(b) if b > 0 => p.0.lower_bound().map(|l| l.div_euclid(b)),
                _ => None,
            },
            Dim::Min(p) => Some(p.0.lower_bound()?.min(p.1.lower_bound()?)),
            Dim::Max(p) => p.0.lower_bound().max(p.1.lower_bound()),
        }
    }

    /// What it is at most where no symbol is more than `most` says; `None` where that says nothing.
    pub fn upper_bound(&self, most: &dyn Fn(&str) -> Option<i64>) -> Option<i64> {
        match self {
            Dim::Const(c) => Some(*c),
            Dim::Sym(n) => most(n),
            Dim::Sum(t) => t.iter().try_fold(0i64, |sum, (atoms, c)| {
                let end = |a: &Dim| {
                    let least = a.lower_bound().filter(|l| *l >= 0)?;
                    if *c > 0 { a.upper_bound(most) } else { Some(least) }
                };
                Some(sum.saturating_add(atoms.iter().try_fold(*c, |p, a| Some(p.saturating_mul(end(a)?)))?))
            }),
            Dim::Div(p) => match p.1.as_const() {
                Some(b) if b > 0 => p.0.upper_bound(most).map(|u| u.div_euclid(b)),
                _ => None,
            },
            Dim::Min(p) => match (p.0.upper_bound(most), p.1.upper_bound(most)) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
            Dim::Max(p) => Some(p.0.upper_bound(most)?.max(p.1.upper_bound(most)?)),
        }
    }

    /// Adds the names of all symbols in it to `out`.
    pub fn symbols(&self, out: &mut BTreeSet<Arc<str>>) {
        match self {
            Dim::Const(_) => {}
            Dim::Sym(n) => {
                out.insert(n.clone());
            }
            Dim::Sum(t) => t.keys().flatten().for_each(|a| a.symbols(out)),
            Dim::Div(p) | Dim::Min(p) | Dim::Max(p) => {
                p.0.symbols(out);
                p.1.symbols(out);
            }
        }
    }
}

impl From<i64> for Dim {
    fn from(c: i64) -> Dim {
        Dim::Const(c)
    }
}

impl From<usize> for Dim {
    fn from(c: usize) -> Dim {
        Dim::Const(i64::try_from(c).unwrap_or(i64::MAX))
    }
}

/// `7`, `batch`, `2*n+1`, `div(n, 2)`, `min(n, 8)`; names that are not words are quoted. [`Dim::parse`] reads it back.
impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Const(c) => write!(f, "{c}"),
            Dim::Sym(n) if matches!(&**n, "div" | "min" | "max") => write!(f, "\"{n}\""),
            Dim::Sym(n) => {
                let mut out = String::new();
                crate::text::word(&mut out, n);
                f.write_str(&out)
            }
            Dim::Sum(t) => {
                // The constant sorts first; print it last, as one writes it.
                let ordered = t.iter().skip_while(|(k, _)| k.is_empty()).chain(t.get_key_value(&vec![]));
                for (i, (k, c)) in ordered.enumerate() {
                    if i > 0 && *c >= 0 {
                        f.write_str("+")?;
                    }
                    match (k.is_empty(), *c) {
                        (true, c) => write!(f, "{c}")?,
                        (false, 1) => {}
                        (false, -1) => f.write_str("-")?,
                        (false, c) => write!(f, "{c}*")?,
                    }
                    for (j, a) in k.iter().enumerate() {
                        write!(f, "{}{a}", if j > 0 { "*" } else { "" })?;
                    }
                }
                Ok(())
            }
            Dim::Div(p) => write!(f, "div({}, {})", p.0, p.1),
            Dim::Min(p) => write!(f, "min({}, {})", p.0, p.1),
            Dim::Max(p) => write!(f, "max({}, {})", p.0, p.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_multiplied_out_while_they_are_small() {
        let sum = |a: &str, b: &str| Dim::sym(a).add(&Dim::sym(b));
        let (x, y) = (sum("a", "b"), sum("c", "d"));
        assert_eq!(x.mul(&y).to_string(), "a*c+a*d+b*c+b*d");
        // Thirty factors are a thousand million terms; a square of a square, and so on, as many factors a term.
        let product = |from: usize| {
            (from..from + 30).fold(Dim::Const(1), |p, i| p.mul(&sum(&format!("l{i}"), &format!("r{i}"))))
        };
        assert_eq!(product(0), product(0));
        assert_ne!(product(0), product(1));
        assert!(product(0).to_string().len() < 1 << 20);
        let squares = |x: &Dim| (0..40).fold(x.clone(), |s, _| s.mul(&s));
        assert_eq!(squares(&Dim::sym("n")), squares(&Dim::sym("n")));
        assert_ne!(squares(&Dim::sym("n")), squares(&Dim::sym("m")));
        assert!(squares(&x).to_string().len() < 1 << 20);
        let (p, q) = (product(0), product(1));
        assert_eq!(p.mul(&q), q.mul(&p));
    }
}

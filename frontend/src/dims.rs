//! Extents as a model declares them: numbers, names, and (newer exporters) sums and products of names.

use crate::proto::{Dimension, DimensionValue};
use tenon_base::Dim;

/// A declared extent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Extent {
    /// A number, a name or an expression of names.
    Known(Dim),
    /// Dynamic, without a name.
    Unnamed,
    /// A negative number.
    Negative(i64),
}

/// Reads a declared extent. Some exporters write -1, `?`, `None` or nothing for a dynamic extent without a name.
pub(crate) fn extent(d: &Dimension) -> Extent {
    match &d.value {
        None | Some(DimensionValue::Value(-1)) => Extent::Unnamed,
        Some(DimensionValue::Value(v)) if *v < 0 => Extent::Negative(*v),
        Some(DimensionValue::Value(v)) => Extent::Known(Dim::Const(*v)),
        Some(DimensionValue::Param(p)) => match p.trim() {
            "" | "?" | "-1" | "None" => Extent::Unnamed,
            name => Extent::Known(expression(name)),
        },
    }
}

/// `n + 1`, `2*n`, `(a + b)*4` as arithmetic over the names; anything else is one name.
fn expression(text: &str) -> Dim {
    // Longer texts are names: this also bounds the recursion.
    if text.len() > 128 {
        return Dim::sym(text);
    }
    let mut p = Parser { rest: text };
    match p.sum() {
        Some(d) if p.rest.is_empty() => d,
        _ => Dim::sym(text),
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn eat(&mut self, token: &str) -> bool {
        self.rest.strip_prefix(token).map(|r| self.rest = r.trim_start()).is_some()
    }

    fn sum(&mut self) -> Option<Dim> {
        let mut d = self.product()?;
        loop {
            if self.eat("+") {
                d = d.add(&self.product()?);
            } else if self.eat("- ") {
                // A hyphen without a space is part of a name, as in `batch-size`.
                d = d.sub(&self.product()?);
            } else {
                return Some(d);
            }
        }
    }

    fn product(&mut self) -> Option<Dim> {
        let mut d = self.atom()?;
        while self.eat("*") {
            d = d.mul(&self.atom()?);
        }
        Some(d)
    }

    fn atom(&mut self) -> Option<Dim> {
        if self.eat("(") {
            let d = self.sum()?;
            return self.eat(")").then_some(d);
        }
        let end = self.rest.find(|c: char| c.is_whitespace() || "+*()".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            return word.parse().ok().map(Dim::Const);
        }
        (!word.is_empty() && !word.starts_with('-')).then(|| Dim::sym(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_expressions() {
        // Not arithmetic: one name.
        let long = "(".repeat(500);
        for name in ["batch", "batch-size", "unk__12", "n +", "two words", "(n", "n)", "-n", long.as_str()] {
            assert_eq!(expression(name), Dim::sym(name));
        }
        let (n, a, b, c) = (Dim::sym("n"), Dim::sym("a"), Dim::sym("b"), Dim::Const);
        assert_eq!(expression("n + 1"), n.add(&c(1)));
        assert_eq!(expression("n - 1"), n.sub(&c(1)));
        assert_eq!(expression("2*n"), n.mul(&c(2)));
        assert_eq!(expression("(a + b)*4"), a.add(&b).mul(&c(4)));
        assert_eq!(expression("12"), c(12));
    }
}

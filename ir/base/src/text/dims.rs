//! Reading dims, shapes and facts.

use super::{Lexer, ParseError, Token};
use crate::{DType, Dim, Fact, Shape};
use std::str::FromStr;

/// How deep `div`, `min` and `max` may nest in text.
const MAX_DEPTH: usize = 100;

/// How many terms, and how many factors, one dim may have in text: expanding products is not linear.
const MAX_TERMS: usize = 256;

/// Reads a dim: `7`, `batch`, `2*n+1`, `div(n, 2)`, `min(n, 8)`, `"any name"`.
pub fn parse_dim(lex: &mut Lexer<'_>) -> Result<Dim, ParseError> {
    sum(lex, 0)
}

/// Reads a shape: `[1,3,224,batch]`.
pub fn parse_shape(lex: &mut Lexer<'_>) -> Result<Shape, ParseError> {
    lex.expect("[")?;
    let mut dims = vec![];
    while !lex.eat("]")? {
        if !dims.is_empty() {
            lex.expect(",")?;
        }
        dims.push(parse_dim(lex)?);
    }
    Ok(Shape(dims))
}

/// Reads a fact: `f32[1,3,224,224]`.
pub fn parse_fact(lex: &mut Lexer<'_>) -> Result<Fact, ParseError> {
    let dtype = match lex.peek() {
        Token::Word(w) => DType::from_str(w).ok(),
        _ => None,
    };
    let Some(dtype) = dtype else {
        return lex.expected("a type like `f32[1,8]`");
    };
    lex.next()?;
    Ok(Fact::new(dtype, parse_shape(lex)?))
}

impl FromStr for Dim {
    type Err = ParseError;

    /// The inverse of `Display`.
    fn from_str(text: &str) -> Result<Dim, ParseError> {
        let mut lex = Lexer::new(text)?;
        let d = parse_dim(&mut lex)?;
        if *lex.peek() == Token::End { Ok(d) } else { lex.expected("the end of the dimension") }
    }
}

impl Dim {
    /// Reads what `Display` prints.
    pub fn parse(text: &str) -> Result<Dim, ParseError> {
        text.parse()
    }
}

fn sum(lex: &mut Lexer<'_>, depth: usize) -> Result<Dim, ParseError> {
    if depth > MAX_DEPTH {
        return lex.fail(format!("a dimension is nested more than {MAX_DEPTH} deep"));
    }
    let mut total = {
        let negative = lex.eat("-")?;
        product(lex, negative, depth)?
    };
    let mut terms = 1;
    loop {
        let negative = match lex.peek() {
            Token::Mark("+") => false,
            Token::Mark("-") => true,
            _ => return Ok(total),
        };
        terms += 1;
        if terms > MAX_TERMS {
            return lex.fail(format!("a dimension has more than {MAX_TERMS} terms"));
        }
        lex.next()?;
        total = total.add(&product(lex, negative, depth)?);
    }
}

fn product(lex: &mut Lexer<'_>, negative: bool, depth: usize) -> Result<Dim, ParseError> {
    let mut p = factor(lex, negative, depth)?;
    let mut size = terms(&p);
    while lex.eat("*")? {
        let f = factor(lex, false, depth)?;
        // An upper bound of the terms, and of the factors, of the expanded product.
        size = (size * terms(&f)).max(size + 1);
        if size > MAX_TERMS {
            return lex.fail(format!("a product in a dimension has more than {MAX_TERMS} parts"));
        }
        p = p.mul(&f);
    }
    Ok(p)
}

fn terms(d: &Dim) -> usize {
    match d {
        Dim::Sum(t) => t.len().max(t.keys().map(Vec::len).max().unwrap_or(1)),
        _ => 1,
    }
}

/// A number, a symbol or a function; `negative` is folded into a number, so that the smallest one can be read.
fn factor(lex: &mut Lexer<'_>, negative: bool, depth: usize) -> Result<Dim, ParseError> {
    let sign = |d: Dim| if negative { d.mul(&Dim::Const(-1)) } else { d };
    let at = lex.here();
    match lex.next()? {
        Token::Int(v, "") => {
            let value = i128::try_from(v).ok().map(|v| if negative { -v } else { v });
            match value.and_then(|v| i64::try_from(v).ok()) {
                Some(c) => Ok(Dim::Const(c)),
                None => lex.fail_at(at, "the extent is too large"),
            }
        }
        Token::Str(s) => Ok(sign(Dim::sym(&s))),
        Token::Word(w @ ("div" | "min" | "max")) => {
            lex.expect("(")?;
            let a = sum(lex, depth + 1)?;
            lex.expect(",")?;
            let b = sum(lex, depth + 1)?;
            lex.expect(")")?;
            Ok(sign(match w {
                "div" => a.div(&b),
                "min" => a.smaller(&b),
                _ => a.larger(&b),
            }))
        }
        Token::Word(w) => Ok(sign(Dim::sym(w))),
        other => lex.fail_at(at, format!("expected an extent like `3`, `batch` or `2*n+1`, found {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_text_stays() {
        for text in [
            "0",
            "-1",
            "-9223372036854775808",
            "batch",
            "2*n+1",
            "-n",
            "m-n",
            "3*m-2*n*n-7",
            "div(n, 2)",
            "min(n, 8)",
            "div(div(h+5, 2)+1, 2)",
            "div(-9223372036854775808*n, -n)",
            "p*max(n, m)",
            "\"a b\\u{0}\\\"\"",
            "\"\"",
            "\"div\"",
            "div(n, 0)",
            "a.b",
        ] {
            let d = Dim::parse(text).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(d.to_string(), text);
            assert_eq!(Dim::parse(&d.to_string()).unwrap(), d);
        }
        assert_eq!(Dim::parse("n + n").unwrap().to_string(), "2*n");
        assert_eq!(Dim::parse("div(4*n, 2) // half").unwrap().to_string(), "2*n");
    }

    #[test]
    fn hostile_text_is_refused() {
        for (text, message) in [
            ("", "expected an extent"),
            ("n m", "expected the end of the dimension, found `m`"),
            ("99999999999999999999", "the extent is too large"),
            ("2n", "expected an extent"),
            ("n+", "expected an extent"),
            (&"div(".repeat(100_000), "nested more than 100 deep"),
            (&"n+".repeat(100_000), "more than 256 terms"),
            (&"n*".repeat(100_000), "more than 256 parts"),
        ] {
            let e = Dim::parse(text).unwrap_err();
            assert!(e.message.contains(message), "{text:.20}: {}", e.message);
        }
        let blow_up = vec!["div(2*a+2*b+2*c, 2)"; 100].join("*");
        assert!(Dim::parse(&blow_up).unwrap_err().message.contains("parts"));
    }
}

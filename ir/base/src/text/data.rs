//! Constant data in text: a short list of values, or hexadecimal bytes.

use super::{Lexer, ParseError, Token};
use crate::{DType, Scalar, Tensor};
use half::f16;
use std::fmt::Write;

/// Tensors of at most this many elements are printed as values, longer ones as hexadecimal bytes.
const MAX_VALUES: usize = 16;

/// Writes the elements of `t` so that they read back bit for bit: `[1.0, -2.5]`, or little-endian `hex"0000803f"`.
pub fn write_data(out: &mut String, t: &Tensor) {
    // The bits of a NaN are not in its name.
    let is_nan = |s: Scalar| matches!(s, Scalar::Float(_, v) if v.is_nan());
    if t.len() <= MAX_VALUES && !t.scalars().any(is_nan) {
        out.push('[');
        for (i, s) in t.scalars().enumerate() {
            let _ = write!(out, "{}{s}", if i > 0 { ", " } else { "" });
        }
        out.push(']');
    } else {
        out.push_str("hex\"");
        for b in t.bytes().iter() {
            let digit = |n: u8| char::from(b"0123456789abcdef"[usize::from(n)]);
            out.push(digit(b >> 4));
            out.push(digit(b & 15));
        }
        out.push('"');
    }
}

/// Reads what [`write_data`] writes: a tensor of `dtype` and `shape`.
pub fn parse_data(lex: &mut Lexer<'_>, dtype: DType, shape: &[usize]) -> Result<Tensor, ParseError> {
    let at = lex.here();
    let bytes = match lex.peek() {
        Token::Word("hex") => {
            lex.next()?;
            let at = lex.here();
            let Token::Str(digits) = lex.next()? else {
                return lex.fail_at(at, "expected a string of hexadecimal digits");
            };
            match hex(digits.as_bytes()) {
                Some(bytes) => bytes,
                None => return lex.fail_at(at, "not an even number of hexadecimal digits"),
            }
        }
        Token::Mark("[") => {
            lex.next()?;
            let mut bytes = vec![];
            while !lex.eat("]")? {
                if !bytes.is_empty() {
                    lex.expect(",")?;
                }
                bytes.extend(value(lex, dtype)?.to_le_bytes());
            }
            bytes
        }
        _ => return lex.expected("a list of values or `hex\"…\"`"),
    };
    match Tensor::from_bytes(dtype, shape, bytes.into()) {
        Ok(t) => Ok(t),
        Err(e) => lex.fail_at(at, e.to_string()),
    }
}

fn hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |d: u8| char::from(d).to_digit(16).map(|d| d as u8);
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks_exact(2).map(|d| Some(digit(d[0])? << 4 | digit(d[1])?)).collect()
}

/// One value of a list, whose dtype is known.
fn value(lex: &mut Lexer, dtype: DType) -> Result<Scalar, ParseError> {
    let at = lex.here();
    let negative = lex.eat("-")?;
    let v = match lex.next()? {
        Token::Int(v, "") if dtype != DType::Bool => literal(dtype, &v.to_string(), negative),
        Token::Float(v, "") if dtype.is_float() => literal(dtype, v, negative),
        Token::Word("inf") if dtype.is_float() => {
            Some(Scalar::Float(dtype, if negative { f64::NEG_INFINITY } else { f64::INFINITY }))
        }
        Token::Word("nan") if dtype.is_float() && !negative => Some(Scalar::Float(dtype, f64::NAN)),
        Token::Word(w @ ("true" | "false")) if dtype == DType::Bool && !negative => {
            Some(Scalar::Int(dtype, i128::from(w == "true")))
        }
        _ => None,
    };
    match v {
        Some(v) => Ok(v),
        None => lex.fail_at(at, format!("not a value of {dtype}")),
    }
}

/// The value of `digits` in `d`.
pub fn literal(d: DType, digits: &str, negative: bool) -> Option<Scalar> {
    if let Some((lo, hi)) = d.int_range() {
        let v = i128::try_from(digits.parse::<u128>().ok()?).ok()?;
        let v = if negative { -v } else { v };
        return (lo..=hi).contains(&v).then_some(Scalar::Int(d, v));
    }
    let v = match d {
        DType::F64 => digits.parse::<f64>().ok()?,
        DType::F32 => f64::from(digits.parse::<f32>().ok()?),
        DType::F16 => f64::from(f16::from_f32(digits.parse::<f32>().ok()?)),
        _ => Scalar::of_f64(d, f64::from(digits.parse::<f32>().ok()?)).as_f64(),
    };
    v.is_finite().then_some(Scalar::Float(d, if negative { -v } else { v }))
}

//! Parsing expressions.

use super::{BINARY, INFIX, Infix, MATH, MAX_DEPTH, MAX_RECURSION, UNARY};
use crate::{Buf, Expr, Kernel, Type, UnOp, Var};
use half::f16;
use std::collections::BTreeMap;
use tenon_base::text::{Lexer, ParseError, Token, literal};
use tenon_base::{DType, Scalar};

/// A kernel being read.
pub(super) struct KernelParser<'l, 't> {
    pub(super) lex: &'l mut Lexer<'t>,
    pub(super) kernel: Kernel,
    pub(super) buffers: BTreeMap<String, Buf>,
    pub(super) vars: BTreeMap<String, Var>,
    /// Open calls of the recursive functions below.
    pub(super) depth: usize,
}

/// An expression and the height of its tree: chains of infix operators are read without recursion, yet what uses the
/// tree recurses.
type Tall = (Expr, usize);

/// Parses a word of the form `<prefix><number>`.
fn numbered(word: &str, prefix: &str) -> Option<u16> {
    let digits = word.strip_prefix(prefix)?;
    let canonical = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| canonical)
}

/// `f32`, `i64`, … `bool`.
pub(super) fn dtype(word: &str) -> Option<DType> {
    word.parse().ok().filter(|d: &DType| !d.is_stored())
}

/// `f32` or `f32x8`.
pub(super) fn ty(word: &str) -> Option<Type> {
    match word.split_once('x') {
        None => Some(Type::scalar(dtype(word)?)),
        Some((elem, n)) => numbered(n, "").map(|n| (n, dtype(elem))).and_then(|(n, d)| Some(Type::vector(d?, n))),
    }
}

impl<'t> KernelParser<'_, 't> {
    /// An expression.
    pub(super) fn expr(&mut self) -> Result<Expr, ParseError> {
        self.infix(0).map(|(e, _)| e)
    }

    /// An expression that needs no parentheses as an operand.
    pub(super) fn operand(&mut self) -> Result<Expr, ParseError> {
        self.prefix().map(|(e, _)| e)
    }

    /// The buffer of a name that has been declared.
    pub(super) fn buf(&mut self) -> Result<Buf, ParseError> {
        let Token::Name(n) = self.lex.peek() else {
            return self.lex.expected("a buffer like `%x`");
        };
        match self.buffers.get(n.as_ref()) {
            Some(b) => {
                let b = *b;
                self.lex.next()?;
                Ok(b)
            }
            None => self.lex.fail(format!("the kernel has no buffer %{n}")),
        }
    }

    /// Runs `f` one level deeper.
    pub(super) fn deeper<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T, ParseError>) -> Result<T, ParseError> {
        if self.depth >= MAX_RECURSION {
            return self.lex.fail(format!("nested more than {MAX_DEPTH} deep"));
        }
        self.depth += 1;
        let r = f(self);
        self.depth -= 1;
        r
    }

    fn check(&self, (e, height): Tall) -> Result<Tall, ParseError> {
        if height > MAX_DEPTH {
            return self.lex.fail(format!("an expression is more than {MAX_DEPTH} operations deep"));
        }
        Ok((e, height))
    }

    /// Operators that bind at least as tightly as `min`.
    fn infix(&mut self, min: u8) -> Result<Tall, ParseError> {
        let (mut left, mut height) = self.prefix()?;
        while let Token::Mark(m) = self.lex.peek() {
            let Some((op, _, p)) = INFIX.iter().find(|(_, s, p)| s == m && *p >= min) else { break };
            self.lex.next()?;
            let (right, h) = self.deeper(|k| k.infix(p + 1))?;
            let operands = Box::new([left, right]);
            let e = match op {
                Infix::Binary(op) => Expr::Binary(*op, operands),
                Infix::Compare(op) => Expr::Compare(*op, operands),
            };
            (left, height) = self.check((e, height.max(h) + 1))?;
            if *p == 0 {
                break; // comparisons do not associate
            }
        }
        Ok((left, height))
    }

    fn prefix(&mut self) -> Result<Tall, ParseError> {
        if !self.lex.eat("-")? {
            return self.primary();
        }
        match self.lex.peek() {
            Token::Int(..) | Token::Float(..) => Ok((Expr::Const(self.number(true)?), 1)),
            Token::Word(w) if w.starts_with("inf") => match self.special(w) {
                Some(Scalar::Float(d, v)) => {
                    self.lex.next()?;
                    Ok((Expr::Const(Scalar::Float(d, -v)), 1))
                }
                _ => self.lex.expected("an operand"),
            },
            _ => {
                let (e, h) = self.deeper(Self::prefix)?;
                self.check((e.unary(UnOp::Neg), h + 1))
            }
        }
    }

    /// `inf`, `nan`, `inf_f64`, …
    fn special(&self, word: &str) -> Option<Scalar> {
        let (kind, d) = match word.split_once('_') {
            None => (word, DType::F32),
            Some((kind, d)) => (kind, dtype(d).filter(|d| d.is_float())?),
        };
        match kind {
            "inf" => Some(Scalar::Float(d, f64::INFINITY)),
            "nan" => Some(Scalar::Float(d, f64::NAN)),
            _ => None,
        }
    }

    /// The constant at the present token, which is a number.
    fn number(&mut self, negative: bool) -> Result<Scalar, ParseError> {
        let at = self.lex.here();
        let token = self.lex.next()?;
        let (digits, suffix, int) = match &token {
            Token::Int(v, s) => (v.to_string(), *s, Some(*v)),
            Token::Float(v, s) => ((*v).to_string(), *s, None),
            _ => return self.lex.fail_at(at, "expected a number"),
        };
        let default = if int.is_some() { DType::I64 } else { DType::F32 };
        let d = if suffix.is_empty() { Some(default) } else { dtype(suffix) };
        match d {
            Some(d) if d != DType::Bool => match literal(d, &digits, negative) {
                Some(s) => Ok(s),
                None => self.lex.fail_at(at, format!("not a value of {d}")),
            },
            _ => self.lex.fail_at(at, format!("unknown suffix `{suffix}`; a number may end in i32, u8, f64, …")),
        }
    }

    fn primary(&mut self) -> Result<Tall, ParseError> {
        let at = self.lex.here();
        match self.lex.peek() {
            Token::Int(..) | Token::Float(..) => Ok((Expr::Const(self.number(false)?), 1)),
            Token::Name(n) => match self.vars.get(n.as_ref()) {
                Some(v) => {
                    let v = *v;
                    self.lex.next()?;
                    Ok((Expr::Var(v), 1))
                }
                None => self.lex.fail(format!("unknown variable %{n}")),
            },
            Token::Mark("(") => {
                self.lex.next()?;
                let e = self.deeper(|k| k.infix(0))?;
                self.lex.expect(")")?;
                Ok(e)
            }
            Token::Word(w) => {
                let w = *w;
                self.lex.next()?;
                self.function(w, at)
            }
            _ => self.lex.expected("an expression"),
        }
    }

    /// What begins with the word `w`, which has been taken.
    fn function(&mut self, w: &'t str, at: usize) -> Result<Tall, ParseError> {
        let lanes = if w == "load" { Some(1) } else { numbered(w, "load") };
        if let Some(lanes) = lanes {
            let buf = self.buf()?;
            self.lex.expect("[")?;
            let (index, h) = self.deeper(|k| k.infix(0))?;
            self.lex.expect("]")?;
            return self.check((Expr::Load { buf, index: Box::new(index), lanes }, h + 1));
        }
        match w {
            "true" | "false" => {
                return Ok((Expr::Const(Scalar::Int(DType::Bool, i128::from(w == "true"))), 1));
            }
            _ => {}
        }
        if let Some(s) = self.special(w) {
            let s = if self.lex.peek() == &Token::Mark("(") { self.nan_bits(s.dtype())? } else { s };
            return Ok((Expr::Const(s), 1));
        }
        if w == "extract" {
            self.lex.expect("(")?;
            let (e, h) = self.deeper(|k| k.infix(0))?;
            self.lex.expect(",")?;
            let lane = match self.lex.peek() {
                Token::Int(v, "") => u16::try_from(*v).ok(),
                _ => None,
            };
            let Some(lane) = lane else {
                return self.lex.expected("a lane");
            };
            self.lex.next()?;
            self.lex.expect(")")?;
            return self.check((Expr::Extract(Box::new(e), lane), h + 1));
        }
        let (args, height) = self.arguments(at, w)?;
        match apply(w, args) {
            Ok(e) => self.check((e, height + 1)),
            Err(message) => self.lex.fail_at(at, message),
        }
    }

    /// `(0xffc00001)` after `nan_f32`.
    fn nan_bits(&mut self, d: DType) -> Result<Scalar, ParseError> {
        self.lex.expect("(")?;
        let at = self.lex.here();
        let v = match self.lex.next()? {
            Token::Int(v, "") => match d {
                DType::F16 => u16::try_from(v).ok().map(|b| f64::from(f16::from_bits(b))),
                DType::F32 => u32::try_from(v).ok().map(|b| f64::from(f32::from_bits(b))),
                _ => u64::try_from(v).ok().map(f64::from_bits),
            },
            _ => None,
        };
        self.lex.expect(")")?;
        match v.filter(|v| v.is_nan()) {
            Some(v) => Ok(Scalar::Float(d, v)),
            None => self.lex.fail_at(at, format!("not the bits of a NaN of {d}")),
        }
    }

    /// `(a, b, …)`
    fn arguments(&mut self, at: usize, f: &str) -> Result<(Vec<Expr>, usize), ParseError> {
        if self.lex.peek() != &Token::Mark("(") {
            return self.lex.fail_at(at, format!("expected an expression, found `{f}`"));
        }
        self.lex.next()?;
        let (mut args, mut height) = (vec![], 0);
        while !self.lex.eat(")")? {
            if !args.is_empty() {
                self.lex.expect(",")?;
            }
            let (e, h) = self.deeper(|k| k.infix(0))?;
            args.push(e);
            height = height.max(h);
        }
        Ok((args, height))
    }
}

/// The function `f` of `args`.
fn apply(f: &str, args: Vec<Expr>) -> Result<Expr, String> {
    let find = |table: &[(crate::BinOp, &str)], n: &str| table.iter().find(|(_, s)| *s == n).map(|(op, _)| *op);
    let n = args.len();
    let wrong = |want: &str| Err(format!("`{f}` takes {want}, found {n}"));
    if f == "lanes" {
        return if (1..=usize::from(u16::MAX)).contains(&n) {
            Ok(Expr::Lanes(args))
        } else {
            wrong("1 to 65535 operands")
        };
    }
    if let Some((m, _)) = MATH.iter().find(|(_, s)| *s == f) {
        let want = m.arity();
        return if n == want { Ok(Expr::Math(*m, args)) } else { wrong(&format!("{want} operand(s)")) };
    }
    if matches!(f, "select" | "fma" | "dot") {
        return match <[Expr; 3]>::try_from(args) {
            Ok(abc) if f == "fma" => Ok(Expr::Fma(Box::new(abc))),
            Ok(abc) if f == "dot" => Ok(Expr::Dot(Box::new(abc))),
            Ok(abc) => Ok(Expr::Select(Box::new(abc))),
            Err(_) => wrong("3 operands"),
        };
    }
    if matches!(f, "min" | "max") {
        let op = find(&BINARY, f).unwrap_or(crate::BinOp::Min);
        return match <[Expr; 2]>::try_from(args) {
            Ok(ab) => Ok(Expr::Binary(op, Box::new(ab))),
            Err(_) => wrong("2 operands"),
        };
    }
    let make: Box<dyn FnOnce(Box<Expr>) -> Expr> = if let Some((op, _)) = UNARY.iter().find(|(_, s)| *s == f) {
        Box::new(|x| Expr::Unary(*op, x))
    } else if f == "to_bf16" {
        Box::new(Expr::ToBf16)
    } else if let Some(d) = dtype(f) {
        Box::new(move |x| Expr::Cast(d, x))
    } else if let Some(d) = f.strip_prefix("bitcast_").and_then(dtype) {
        Box::new(move |x| Expr::Bitcast(d, x))
    } else if let Some(lanes) = numbered(f, "splat") {
        Box::new(move |x| Expr::Splat(lanes, x))
    } else if let Some(op) = f.strip_prefix("reduce_").and_then(|op| find(&BINARY, op)) {
        Box::new(move |x| Expr::Reduce(op, x))
    } else {
        return Err(format!("unknown function `{f}`"));
    };
    match <[Expr; 1]>::try_from(args) {
        Ok([x]) => Ok(make(Box::new(x))),
        Err(_) => wrong("1 operand"),
    }
}

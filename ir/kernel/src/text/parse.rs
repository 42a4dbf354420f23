//! Parsing kernels.

use super::parse_expr::{KernelParser, dtype, ty};
use crate::{Access, Buf, Contract, ContractDim, Fetch, Kernel, Parts, Program, Stmt, Tiles, Type, Var};
use std::collections::BTreeMap;
use tenon_base::DType;
use tenon_base::text::{Lexer, ParseError, Token};

impl Kernel {
    /// Reads a kernel's text.
    pub fn parse(text: &str) -> Result<Kernel, ParseError> {
        let mut lex = Lexer::new(text)?;
        let k = kernel(&mut lex)?;
        match lex.peek() {
            Token::End => Ok(k),
            _ => lex.expected("the end of the text"),
        }
    }
}

impl Program {
    /// Reads a program's text.
    pub fn parse(text: &str) -> Result<Program, ParseError> {
        let mut lex = Lexer::new(text)?;
        let p = super::parse_program::program(&mut lex)?;
        match lex.peek() {
            Token::End => Ok(p),
            _ => lex.expected("the end of the text"),
        }
    }
}

/// A word, or a string where a plain word will not do.
pub(super) fn word(lex: &mut Lexer, what: &str) -> Result<String, ParseError> {
    let w = match lex.peek() {
        Token::Word(w) => (*w).to_string(),
        Token::Str(s) => s.to_string(),
        _ => return lex.expected(what),
    };
    lex.next()?;
    Ok(w)
}

/// `%name`
pub(super) fn name(lex: &mut Lexer, what: &str) -> Result<String, ParseError> {
    let Token::Name(n) = lex.peek() else {
        return lex.expected(what);
    };
    let n = n.to_string();
    lex.next()?;
    Ok(n)
}

/// A count without a sign or suffix.
pub(super) fn count(lex: &mut Lexer) -> Result<usize, ParseError> {
    let v = match lex.peek() {
        Token::Int(v, "") => usize::try_from(*v).ok(),
        _ => None,
    };
    match v {
        Some(v) => lex.next().map(|_| v),
        None => lex.expected("a count"),
    }
}

/// `f32`
pub(super) fn elem(lex: &mut Lexer) -> Result<DType, ParseError> {
    let d = match lex.peek() {
        Token::Word(w) => dtype(w),
        _ => None,
    };
    match d {
        Some(d) => lex.next().map(|_| d),
        None => lex.expected("a dtype"),
    }
}

/// `kernel name(…) { … }`
pub(super) fn kernel(lex: &mut Lexer) -> Result<Kernel, ParseError> {
    lex.expect_word("kernel")?;
    let name = word(lex, "the kernel's name")?;
    let kernel = Kernel { name, ..Kernel::default() };
    let mut k = KernelParser { lex, kernel, buffers: BTreeMap::new(), vars: BTreeMap::new(), depth: 0 };
    k.parameters()?;
    while k.lex.eat_word("inplace")? {
        k.lex.expect("(")?;
        let input = k.buf()?;
        k.lex.expect(",")?;
        let output = k.buf()?;
        k.lex.expect(")")?;
        k.kernel.in_place.push((input, output));
    }
    let mut part = None;
    if k.lex.eat_word("part")? {
        let name = name_of_var(k.lex)?;
        k.lex.expect_word("of")?;
        part = Some((name, count(k.lex)?));
    }
    k.lex.expect("{")?;
    if k.lex.eat_word("vars")? {
        loop {
            let (at, n) = (k.lex.here(), name_of_var(k.lex)?);
            k.lex.expect(":")?;
            let ty = k.ty()?;
            if k.vars.contains_key(&n) {
                return k.lex.fail_at(at, format!("%{n} is listed twice"));
            }
            k.add_var(n, ty);
            if !k.lex.eat(",")? {
                break;
            }
        }
    }
    if let Some((name, count)) = part {
        let var = match k.vars.get(&name) {
            Some(v) => *v,
            None => k.add_var(name, Type::INDEX),
        };
        k.kernel.parts = Some(Parts { var, count });
    }
    let body = k.statements()?;
    k.kernel.body = body;
    Ok(k.kernel)
}

fn name_of_var(lex: &mut Lexer) -> Result<String, ParseError> {
    name(lex, "a variable like `%i`")
}

impl KernelParser<'_, '_> {
    fn parameters(&mut self) -> Result<(), ParseError> {
        self.lex.expect("(")?;
        while !self.lex.eat(")")? {
            if !self.kernel.buffers.is_empty() {
                self.lex.expect(",")?;
            }
            let access = match self.lex.peek() {
                Token::Word("in") => Access::In,
                Token::Word("out") => Access::Out,
                Token::Word("inout") => Access::InOut,
                Token::Word("scratch") => Access::Scratch,
                _ => return self.lex.expected("`in`, `out`, `inout` or `scratch`"),
            };
            self.lex.next()?;
            let (at, n) = (self.lex.here(), name(self.lex, "a buffer like `%x`")?);
            self.lex.expect(":")?;
            let dtype = elem(self.lex)?;
            self.lex.expect("[")?;
            let len = count(self.lex)?;
            self.lex.expect("]")?;
            let id = Buf(self.kernel.buffers.len() as u32);
            if self.buffers.insert(n.clone(), id).is_some() {
                return self.lex.fail_at(at, format!("a second buffer %{n}"));
            }
            self.kernel.buffers.push(crate::Buffer { name: n, dtype, len, access });
        }
        Ok(())
    }

    /// `f32` or `f32x8`
    fn ty(&mut self) -> Result<Type, ParseError> {
        let t = match self.lex.peek() {
            Token::Word(w) => ty(w),
            _ => None,
        };
        match t {
            Some(t) => self.lex.next().map(|_| t),
            None => self.lex.expected("a type like `f32` or `f32x8`"),
        }
    }

    fn add_var(&mut self, name: String, ty: Type) -> Var {
        let v = Var(self.kernel.vars.len() as u32);
        self.vars.insert(name.clone(), v);
        self.kernel.vars.push(crate::VarInfo { name, ty });
        v
    }

    /// The variable `name`, which a statement at `at` defines with type `ty`.
    fn define(&mut self, at: usize, name: String, ty: Type) -> Result<Var, ParseError> {
        match self.vars.get(&name) {
            None => Ok(self.add_var(name, ty)),
            Some(v) if self.kernel.var(*v).ty == ty => Ok(*v),
            Some(_) => self.lex.fail_at(at, format!("%{name} is defined again with another type")),
        }
    }

    /// Statements up to and with `}`.
    fn statements(&mut self) -> Result<Vec<Stmt>, ParseError> {
        let mut body = vec![];
        while !self.lex.eat("}")? {
            body.push(self.deeper(Self::stmt)?);
        }
        Ok(body)
    }

    fn block(&mut self) -> Result<Vec<Stmt>, ParseError> {
        self.lex.expect("{")?;
        self.statements()
    }

    fn stmt(&mut self) -> Result<Stmt, ParseError> {
        let at = self.lex.here();
        let keyword = match self.lex.peek() {
            Token::Word(w) => *w,
            Token::Name(_) => {
                let n = name_of_var(self.lex)?;
                let Some(&var) = self.vars.get(&n) else {
                    return self.lex.fail_at(at, format!("unknown variable %{n}"));
                };
                self.lex.expect("=")?;
                return Ok(Stmt::Set { var, value: self.expr()? });
            }
            _ => return self.lex.expected("a statement"),
        };
        const KEYWORDS: [&str; 10] =
            ["let", "var", "store", "prefetch", "for", "parfor", "if", "while", "contract", "tiles"];
        if !KEYWORDS.contains(&keyword) {
            return self.lex.expected("a statement");
        }
        self.lex.next()?;
        match keyword {
            "let" | "var" => {
                let (at, n) = (self.lex.here(), name_of_var(self.lex)?);
                self.lex.expect("=")?;
                let value = self.expr()?;
                let var = self.define(at, n, self.kernel.type_of(&value))?;
                Ok(if keyword == "let" { Stmt::Let { var, value } } else { Stmt::Declare { var, value } })
            }
            "store" => {
                let buf = self.buf()?;
                self.lex.expect("[")?;
                let index = self.expr()?;
                self.lex.expect("]")?;
                self.lex.expect("=")?;
                Ok(Stmt::Store { buf, index, value: self.expr()? })
            }
            "prefetch" => {
                let buf = self.buf()?;
                self.lex.expect("[")?;
                let index = self.expr()?;
                self.lex.expect("]")?;
                Ok(Stmt::Prefetch { buf, index })
            }
            "for" | "parfor" => {
                let (at, n) = (self.lex.here(), name_of_var(self.lex)?);
                self.lex.expect_word("in")?;
                let lo = self.expr()?;
                self.lex.expect("..")?;
                let hi = self.expr()?;
                let step = if self.lex.eat_word("step")? { self.step()? } else { 1 };
                let var = self.define(at, n, Type::INDEX)?;
                Ok(Stmt::For { var, lo, hi, step, parallel: keyword == "parfor", body: self.block()? })
            }
            "if" => {
                let cond = self.expr()?;
                let then = self.block()?;
                let otherwise = if self.lex.eat_word("else")? { self.block()? } else { vec![] };
                Ok(Stmt::If { cond, then, otherwise })
            }
            "while" => Ok(Stmt::While { cond: self.expr()?, body: self.block()? }),
            "tiles" => self.tiles(),
            _ => self.contract(),
        }
    }

    /// What follows `tiles`.
    fn tiles(&mut self) -> Result<Stmt, ParseError> {
        let out = self.buf()?;
        self.lex.expect("[")?;
        let out_index = self.expr()?;
        self.lex.expect("]")?;
        self.lex.expect("=")?;
        let blocks = count(self.lex)?;
        self.lex.expect("*")?;
        let rows = count(self.lex)?;
        self.lex.expect_word("rows")?;
        self.lex.expect(",")?;
        let panels = count(self.lex)?;
        self.lex.expect("*")?;
        let at = self.lex.here();
        if count(self.lex)? != Tiles::LANES {
            return self.lex.fail_at(at, format!("a tile has {} columns", Tiles::LANES));
        }
        self.lex.expect_word("columns")?;
        self.lex.expect(",")?;
        let groups = count(self.lex)?;
        self.lex.expect_word("groups")?;
        let reduce = if self.lex.eat_word("reduce")? { self.dims()? } else { vec![] };
        self.lex.expect("{")?;
        let x = self.operand()?;
        self.lex.expect(",")?;
        let row = count(self.lex)?;
        self.lex.expect(",")?;
        let below = count(self.lex)?;
        let w = self.operand()?;
        self.lex.expect(",")?;
        let beside = count(self.lex)?;
        let fetch = if self.lex.eat_word("fetch")? { Some(self.fetch()?) } else { None };
        self.lex.expect("}")?;
        let t = Tiles { out, out_index, blocks, rows, panels, groups, reduce, x, row, below, w, beside, fetch };
        Ok(Stmt::Tiles(Box::new(t)))
    }

    /// What follows `fetch`.
    fn fetch(&mut self) -> Result<Fetch, ParseError> {
        let first = self.operand()?;
        self.lex.expect(",")?;
        Ok(Fetch { first, lines: count(self.lex)? })
    }

    fn step(&mut self) -> Result<i64, ParseError> {
        let at = self.lex.here();
        match i64::try_from(count(self.lex)?) {
            Ok(s) if s > 0 => Ok(s),
            _ => self.lex.fail_at(at, "a step is at least 1"),
        }
    }

    fn dims(&mut self) -> Result<Vec<ContractDim>, ParseError> {
        let mut dims = vec![];
        loop {
            let (at, n) = (self.lex.here(), name_of_var(self.lex)?);
            self.lex.expect_word("in")?;
            let zero = self.lex.here();
            if count(self.lex)? != 0 {
                return self.lex.fail_at(zero, "the loops of a contraction begin at 0");
            }
            self.lex.expect("..")?;
            let extent = count(self.lex)?;
            dims.push(ContractDim { var: self.define(at, n, Type::INDEX)?, extent });
            if !self.lex.eat(",")? {
                return Ok(dims);
            }
        }
    }

    /// What follows `contract`.
    fn contract(&mut self) -> Result<Stmt, ParseError> {
        let dims = if matches!(self.lex.peek(), Token::Name(_)) { self.dims()? } else { vec![] };
        let reduce = if self.lex.eat_word("reduce")? { self.dims()? } else { vec![] };
        self.lex.expect("{")?;
        let (at, n) = (self.lex.here(), name_of_var(self.lex)?);
        self.lex.expect(":")?;
        let ty = self.ty()?;
        self.lex.expect("=")?;
        let init = self.expr()?;
        let acc = self.define(at, n, ty)?;
        let (at, n) = (self.lex.here(), name_of_var(self.lex)?);
        if n != self.kernel.var(acc).name {
            return self.lex.fail_at(at, format!("expected the accumulator, %{}", self.kernel.var(acc).name));
        }
        self.lex.expect("+=")?;
        let a = self.operand()?;
        self.lex.expect("*")?;
        let b = self.operand()?;
        self.lex.expect_word("store")?;
        let out = self.buf()?;
        self.lex.expect("[")?;
        let out_index = self.expr()?;
        self.lex.expect("]")?;
        self.lex.expect("=")?;
        let value = self.expr()?;
        self.lex.expect("}")?;
        Ok(Stmt::Contract(Box::new(Contract { dims, reduce, acc, init, a, b, out, out_index, value })))
    }
}

//! Parsing programs.

use super::MAX_DEPTH;
use super::parse::{count, elem, kernel, name, word};
use crate::{BufferId, BufferKind, Call, If, Io, Loop, Program, ProgramBuffer, State, Step};
use std::collections::BTreeMap;
use tenon_base::text::{Lexer, ParseError, Token, parse_data};
use tenon_base::{DType, Fact, Loc, Tensor};

/// `program name { … }`
pub(super) fn program(lex: &mut Lexer) -> Result<Program, ParseError> {
    lex.expect_word("program")?;
    let mut p = Program { name: word(lex, "the program's name")?, ..Program::default() };
    let mut buffers: BTreeMap<String, BufferId> = BTreeMap::new();
    let mut kernels: BTreeMap<String, usize> = BTreeMap::new();
    let mut sized = vec![];
    lex.expect("{")?;
    while !lex.eat("}")? {
        let at = lex.here();
        match lex.peek() {
            Token::Word("fma") => {
                lex.next()?;
                p.fused_multiply_add = true;
            }
            Token::Word("flush") => {
                lex.next()?;
                p.flush_to_zero = true;
            }
            Token::Word("arena") => {
                lex.next()?;
                p.arena_bytes = count(lex)?;
            }
            Token::Word("input") => {
                lex.next()?;
                p.inputs.push(io(lex)?);
                if lex.eat_word("bounded")? {
                    let limit = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
                    let (least, most) = (limit(count(lex)?), limit(count(lex)?));
                    p.bounded.insert(p.inputs.len() - 1, (least, most));
                }
            }
            Token::Word("output") => {
                lex.next()?;
                p.outputs.push(io(lex)?);
                if lex.eat_word("sized")? {
                    sized.push((p.outputs.len() - 1, lex.here(), string(lex)?));
                }
            }
            Token::Word("buffer") => {
                lex.next()?;
                let b = buffer(lex)?;
                if buffers.insert(b.name.clone(), BufferId(p.buffers.len() as u32)).is_some() {
                    return lex.fail_at(at, format!("a second buffer %{}", b.name));
                }
                p.buffers.push(b);
            }
            Token::Word("kernel") => {
                let k = kernel(lex)?;
                if kernels.insert(k.name.clone(), p.kernels.len()).is_some() {
                    return lex.fail_at(at, format!("a second kernel {}", k.name));
                }
                p.kernels.push(k);
            }
            Token::Word("state") => {
                lex.next()?;
                let Io { name, fact } = io(lex)?;
                lex.expect("=")?;
                let buffer = Names { kernels: &kernels, buffers: &buffers }.buffer(lex)?;
                p.states.push(State { name, fact, buffer });
            }
            Token::Word("call" | "if" | "loop") => {
                let s = Names { kernels: &kernels, buffers: &buffers }.step(lex, 0)?;
                p.steps.push(s);
            }
            _ => {
                return lex.expected(
                    "`fma`, `arena`, `input`, `output`, `buffer`, `state`, `kernel`, `call`, `if`, `loop` or `}`",
                );
            }
        }
    }
    for (k, at, name) in sized {
        match p.outputs.iter().position(|o| o.name == name) {
            Some(by) => {
                p.sized.insert(k, by);
            }
            None => return lex.fail_at(at, format!("there is no output {name:?}")),
        }
    }
    Ok(p)
}

fn string(lex: &mut Lexer) -> Result<String, ParseError> {
    let Token::Str(s) = lex.peek() else {
        return lex.expected("a string");
    };
    let s = s.to_string();
    lex.next()?;
    Ok(s)
}

/// Counts up to `close`.
fn counts(lex: &mut Lexer, close: &'static str) -> Result<Vec<usize>, ParseError> {
    let mut dims = vec![];
    while !lex.eat(close)? {
        if !dims.is_empty() {
            lex.expect(",")?;
        }
        dims.push(count(lex)?);
    }
    Ok(dims)
}

/// `"name": f32[1,10]`
fn io(lex: &mut Lexer) -> Result<Io, ParseError> {
    let name = string(lex)?;
    lex.expect(":")?;
    let dtype = elem(lex)?;
    lex.expect("[")?;
    Ok(Io { name, fact: Fact::of(dtype, &counts(lex, "]")?) })
}

/// `%name: f32[64] = …`
fn buffer(lex: &mut Lexer) -> Result<ProgramBuffer, ParseError> {
    let name = name(lex, "a buffer like `%x`")?;
    lex.expect(":")?;
    let dtype = elem(lex)?;
    lex.expect("[")?;
    let len = count(lex)?;
    lex.expect("]")?;
    lex.expect("=")?;
    let Token::Word(kind) = lex.peek() else {
        return lex.expected("`input`, `output`, `const` or `arena`");
    };
    let kind = *kind;
    if !matches!(kind, "input" | "output" | "const" | "arena") {
        return lex.expected("`input`, `output`, `const` or `arena`");
    }
    lex.next()?;
    let kind = match kind {
        "input" => BufferKind::Input(count(lex)?),
        "output" => BufferKind::Output(count(lex)?),
        "const" => BufferKind::Const(tensor(lex, dtype, len)?),
        _ if lex.eat("@")? => BufferKind::Arena(Some(count(lex)?)),
        _ => BufferKind::Arena(None),
    };
    Ok(ProgramBuffer { name, dtype, len, kind })
}

/// What follows `const`.
fn tensor(lex: &mut Lexer, dtype: DType, len: usize) -> Result<Tensor, ParseError> {
    let shape = if lex.eat("(")? { counts(lex, ")")? } else { vec![len] };
    if *lex.peek() == Token::Mark("<") {
        return lex.fail("the constant was left out when this was printed");
    }
    parse_data(lex, dtype, &shape)
}

/// What steps may name.
struct Names<'a> {
    kernels: &'a BTreeMap<String, usize>,
    buffers: &'a BTreeMap<String, BufferId>,
}

impl Names<'_> {
    fn step(&self, lex: &mut Lexer, depth: usize) -> Result<Step, ParseError> {
        if lex.eat_word("call")? {
            return self.call(lex).map(Step::Call);
        }
        if lex.eat_word("if")? {
            let cond = self.buffer(lex)?;
            let then = self.block(lex, depth)?;
            let otherwise = if lex.eat_word("else")? { self.block(lex, depth)? } else { vec![] };
            return Ok(Step::If(If { cond, then, otherwise, loc: loc(lex)? }));
        }
        if lex.eat_word("loop")? {
            let iter = if matches!(lex.peek(), Token::Name(_)) { Some(self.buffer(lex)?) } else { None };
            let trip = if lex.eat_word("to")? { Some(self.buffer(lex)?) } else { None };
            let cond = if lex.eat_word("while")? { Some(self.buffer(lex)?) } else { None };
            let body = self.block(lex, depth)?;
            return Ok(Step::Loop(Loop { iter, trip, cond, body, loc: loc(lex)? }));
        }
        lex.expected("`call`, `if`, `loop` or `}`")
    }

    /// `{ steps }`
    fn block(&self, lex: &mut Lexer, depth: usize) -> Result<Vec<Step>, ParseError> {
        if depth >= MAX_DEPTH {
            return lex.fail(format!("nested more than {MAX_DEPTH} deep"));
        }
        lex.expect("{")?;
        let mut steps = vec![];
        while !lex.eat("}")? {
            steps.push(self.step(lex, depth + 1)?);
        }
        Ok(steps)
    }

    fn buffer(&self, lex: &mut Lexer) -> Result<BufferId, ParseError> {
        let (at, n) = (lex.here(), name(lex, "a buffer like `%x`")?);
        match self.buffers.get(&n) {
            Some(id) => Ok(*id),
            None => lex.fail_at(at, format!("there is no buffer %{n}")),
        }
    }

    /// `kernel(%a, %b) @ "loc"`
    fn call(&self, lex: &mut Lexer) -> Result<Call, ParseError> {
        let (at, k) = (lex.here(), word(lex, "a kernel's name")?);
        let Some(&kernel) = self.kernels.get(&k) else {
            return lex.fail_at(at, format!("there is no kernel {k} above this call"));
        };
        lex.expect("(")?;
        let mut args = vec![];
        while !lex.eat(")")? {
            if !args.is_empty() {
                lex.expect(",")?;
            }
            args.push(self.buffer(lex)?);
        }
        Ok(Call { kernel, args, loc: loc(lex)? })
    }
}

fn loc(lex: &mut Lexer) -> Result<Loc, ParseError> {
    Ok(if lex.eat("@")? { Loc::new(string(lex)?) } else { Loc::none() })
}

//! Patterns as text: `mul(x, sigmoid(x))`.
//!
//! ```text
//! pattern  = operator | variable | "$" variable | "#" variable | number | ".." variable
//! operator = (name | "_") [ "[" word "]" ] [ "@" name ] "(" [ pattern { "," pattern } ] ")"
//! result   = operator with attributes, `clip{min=0.0,max=6.0}(x)` | a bound operator, `k(x, w)` | variable | number
//! ```
//!
//! A variable is any value, the same wherever it stands; `$c` must be constant, `#c` a constant whose elements are all one
//! number, a number a constant of that number (as its dtype rounds it). `name` is an operator's name in graph text, `_` any
//! operator; `[mean]` asks for an attribute spelt so; `@k` names the operator with its attributes; `..rest` takes all
//! operands that are left. The two operands of a commutative operator match in both orders.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::LazyLock;
use tenon_ir::{Attr, Op, Operator};

/// What a variable asks of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Any,
    /// `$c`
    Constant,
    /// `#c`
    Uniform,
}

/// One place of a pattern or result.
#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    /// The slot of a variable.
    Var(usize, Need),
    /// A constant of one number.
    Number(f64),
    /// An operator.
    Op(OpTerm),
}

/// An operator in a pattern or result.
#[derive(Clone, Debug, PartialEq)]
pub struct OpTerm {
    /// Which; for any `_`, and for a bound operator of a result, `None`.
    pub name: Option<&'static str>,
    /// An attribute must be spelt so.
    pub word: Option<String>,
    /// The slot of the operator: in a pattern what binds it, in a result which to use.
    pub slot: Option<usize>,
    /// Attributes, of results only.
    pub attrs: tenon_ir::Attrs,
    /// Operands, in order.
    pub args: Vec<Term>,
    /// The slot of the list of what operands remain.
    pub rest: Option<usize>,
    /// Whether two operands may be exchanged.
    pub commutes: bool,
}

/// The names that a pattern binds, by kind; a slot is a position in these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Variables.
    pub values: Vec<String>,
    /// Operators.
    pub ops: Vec<String>,
    /// Lists.
    pub lists: Vec<String>,
}

/// A pattern, or a result.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern {
    /// Its outermost term.
    pub root: Term,
    /// What it binds.
    pub names: Names,
}

/// Text that is no pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternError {
    /// The text.
    pub text: String,
    /// Where it goes wrong, in characters.
    pub at: usize,
    /// What was expected.
    pub expected: String,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pattern `{}`, character {}: expected {}", self.text, self.at, self.expected)
    }
}
impl std::error::Error for PatternError {}

/// The names of all operators: rules have hundreds of them to look up before the first model is optimised.
static OPERATORS: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| Op::names().into_iter().collect());

/// Operators whose two operands may be exchanged without changing a bit.
pub fn commutes(name: &str) -> bool {
    matches!(name, "add" | "mul" | "and" | "or" | "xor" | "equal")
}

impl Pattern {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Pattern, PatternError> {
        let mut p = Parser { text, at: 0, names: Names::default(), bound: false };
        let root = p.term()?;
        p.end()?;
        Ok(Pattern { root, names: p.names })
    }

    /// Reads a result that uses what a pattern with `names` binds.
    pub fn parse_result(text: &str, names: &Names) -> Result<Pattern, PatternError> {
        let mut p = Parser { text, at: 0, names: names.clone(), bound: true };
        let root = p.term()?;
        p.end()?;
        Ok(Pattern { root, names: p.names })
    }

    /// The operator of the root, where it is a certain one.
    pub fn root_name(&self) -> Option<&'static str> {
        if let Term::Op(o) = &self.root { o.name } else { None }
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    names: Names,
    /// A result: names must be bound already.
    bound: bool,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, mark: &str) -> bool {
        self.skip();
        let found = self.rest().starts_with(mark);
        self.at += if found { mark.len() } else { 0 };
        found
    }

    fn fail<T>(&self, expected: impl Into<String>) -> Result<T, PatternError> {
        Err(PatternError { text: self.text.to_string(), at: self.at, expected: expected.into() })
    }

    fn expect(&mut self, mark: &str) -> Result<(), PatternError> {
        if self.eat(mark) { Ok(()) } else { self.fail(format!("`{mark}`")) }
    }

    fn end(&mut self) -> Result<(), PatternError> {
        self.skip();
        if self.rest().is_empty() { Ok(()) } else { self.fail("the end") }
    }

    fn word(&mut self) -> Option<String> {
        self.skip();
        let n = self.rest().find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(self.rest().len());
        let word = self.rest()[..n].to_string();
        self.at += n;
        (n > 0).then_some(word)
    }

    fn number(&mut self) -> Option<f64> {
        self.skip();
        let part = |c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | 'e');
        let n = self.rest().find(|c| !part(c)).unwrap_or(self.rest().len());
        let v = self.rest()[..n].parse().ok()?;
        self.at += n;
        Some(v)
    }

    fn slot(&mut self, kind: fn(&mut Names) -> &mut Vec<String>, name: String) -> Result<usize, PatternError> {
        let bound = self.bound;
        let all = kind(&mut self.names);
        if let Some(i) = all.iter().position(|n| *n == name) {
            return Ok(i);
        }
        if bound {
            return self.fail(format!("a name that the pattern binds, not `{name}`"));
        }
        all.push(name);
        Ok(all.len() - 1)
    }

    fn term(&mut self) -> Result<Term, PatternError> {
        self.skip();
        for (mark, need) in [("$", Need::Constant), ("#", Need::Uniform)] {
            if self.eat(mark) {
                let Some(name) = self.word() else { return self.fail("a variable") };
                return Ok(Term::Var(self.slot(|n| &mut n.values, name)?, need));
            }
        }
        if self.rest().starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            return match self.number() {
                Some(v) => Ok(Term::Number(v)),
                None => self.fail("a number"),
            };
        }
        let Some(name) = self.word() else { return self.fail("a variable, an operator or a number") };
        let attributes = self.bound && self.rest().starts_with('{');
        if attributes || self.rest().starts_with(['(', '[', '@']) {
            return self.operator(&name);
        }
        Ok(Term::Var(self.slot(|n| &mut n.values, name)?, Need::Any))
    }

    fn operator(&mut self, name: &str) -> Result<Term, PatternError> {
        let mut op = OpTerm {
            name: OPERATORS.get(name).copied(),
            word: None,
            slot: None,
            attrs: tenon_ir::Attrs::default(),
            args: vec![],
            rest: None,
            commutes: commutes(name),
        };
        if self.bound
            && let Some(i) = self.names.ops.iter().position(|n| n == name)
        {
            (op.slot, op.name) = (Some(i), None);
        } else if op.name.is_none() && name != "_" {
            return self.fail(format!("an operator, not `{name}`"));
        }
        if self.eat("[") {
            op.word = self.word();
            self.expect("]")?;
        }
        if self.eat("@") {
            let Some(n) = self.word() else { return self.fail("a name") };
            op.slot = Some(self.slot(|n| &mut n.ops, n)?);
        }
        if self.eat("{") {
            self.attributes(&mut op)?;
        }
        self.expect("(")?;
        while !self.eat(")") {
            if !op.args.is_empty() {
                self.expect(",")?;
            }
            if self.eat("..") {
                let Some(n) = self.word() else { return self.fail("a name") };
                op.rest = Some(self.slot(|n| &mut n.lists, n)?);
                self.expect(")")?;
                break;
            }
            op.args.push(self.term()?);
        }
        Ok(Term::Op(op))
    }

    /// `min=0.0, mode=erf, wide=true}`
    fn attributes(&mut self, op: &mut OpTerm) -> Result<(), PatternError> {
        while !self.eat("}") {
            if !op.attrs.0.is_empty() {
                self.expect(",")?;
            }
            let Some(key) = self.word() else { return self.fail("the name of an attribute") };
            self.expect("=")?;
            self.skip();
            let value = if self.rest().starts_with(|c: char| c.is_ascii_digit() || c == '-') {
                let start = self.at;
                match self.number() {
                    Some(v) if self.text[start..self.at].contains(['.', 'e']) => Attr::Real(tenon_base::Real(v)),
                    Some(v) => Attr::Int(v as i64),
                    None => return self.fail("a number"),
                }
            } else {
                match self.word().as_deref() {
                    Some("true") => Attr::Bool(true),
                    Some("false") => Attr::Bool(false),
                    Some(w) => Attr::Str(w.to_string()),
                    None => return self.fail("the value of an attribute"),
                }
            };
            op.attrs.0.insert(key, value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_the_same_wherever_they_stand() {
        let p = Pattern::parse("mul(x, sigmoid(x))").expect("reads");
        assert_eq!(p.names.values, ["x"]);
        assert_eq!(p.root_name(), Some("mul"));
        let r = Pattern::parse_result("swish{alpha=1.0}(x)", &p.names).expect("reads");
        assert_eq!(r.root_name(), Some("swish"));
    }

    #[test]
    fn operators_are_bound_with_their_attributes() {
        let p = Pattern::parse("mul(conv@k(x, $w, ..b), #s)").expect("reads");
        assert_eq!((p.names.ops.len(), p.names.lists.len()), (1, 1));
        let r = Pattern::parse_result("k(x, w)", &p.names).expect("reads");
        assert!(matches!(r.root, Term::Op(OpTerm { slot: Some(0), name: None, .. })));
    }

    #[test]
    fn what_is_no_pattern_is_reported_with_its_place() {
        let at = |t: &str| Pattern::parse(t).expect_err("no pattern").at;
        assert_eq!(at("mul(x"), 5);
        assert_eq!(at("nothing(x)"), 7);
        assert_eq!(at("mul(x, y) z"), 10);
        let names = Names::default();
        assert!(Pattern::parse_result("relu(x)", &names).is_err(), "x is not bound");
    }
}

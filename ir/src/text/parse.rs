//! Reading graphs.

use super::ParseError;
use crate::{Attr, Attrs, Graph, Op, Operator, Region, ValueId};
use std::collections::BTreeMap;
use std::str::FromStr;
use tenon_base::text::{Lexer, Token, parse_data, parse_fact, parse_shape};
use tenon_base::{DType, Fact, Loc, Real};

/// A value as it is written: a name, or a number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Word(String),
    Number(u128),
}

impl Name {
    fn shown(&self) -> String {
        let mut s = String::from("%");
        match self {
            Name::Word(w) => tenon_base::text::word(&mut s, w),
            Name::Number(n) => s.push_str(&n.to_string()),
        }
        s
    }
}

/// Reads one graph, and nothing after it.
pub(super) fn graph(text: &str) -> Result<Graph, ParseError> {
    let mut lex = Lexer::new(text)?;
    let g = one_graph(&mut lex, 0)?;
    if *lex.peek() == Token::End { Ok(g) } else { lex.expected("the end of the text") }
}

/// A graph, inside `depth` others.
fn one_graph(lex: &mut Lexer<'_>, depth: usize) -> Result<Graph, ParseError> {
    if depth > MAX_NESTED {
        return lex.fail(format!("graphs are nested more than {MAX_NESTED} deep"));
    }
    let mut p = Parser { graph: Graph::default(), values: BTreeMap::new(), depth };
    p.parse(lex)?;
    Ok(p.graph)
}

/// Graphs inside each other.
const MAX_NESTED: usize = 50;

struct Parser {
    graph: Graph,
    values: BTreeMap<Name, ValueId>,
    /// Graphs around it.
    depth: usize,
}

impl Parser {
    fn parse(&mut self, lex: &mut Lexer<'_>) -> Result<(), ParseError> {
        lex.expect_word("graph")?;
        self.graph.name = match lex.peek() {
            Token::Word(w) => (*w).to_string(),
            Token::Str(s) => s.to_string(),
            _ => return lex.expected("the graph's name"),
        };
        lex.next()?;
        self.inputs(lex)?;
        lex.expect("-")?;
        lex.expect(">")?;
        let outputs = outputs(lex)?;
        lex.expect("{")?;
        while !lex.eat("}")? {
            self.line(lex)?;
        }
        let labels: Vec<String> = outputs.iter().map(|o| o.label.clone()).collect();
        for (k, Output { label, name, at, sized }) in outputs.into_iter().enumerate() {
            if let Some(sized) = sized {
                match labels.iter().position(|l| *l == sized) {
                    Some(by) => self.graph.size_output(k, by),
                    None => return lex.fail_at(at, format!("there is no output {sized:?}")),
                }
            }
            match self.values.get(&name) {
                Some(v) => self.graph.add_output(label, *v),
                None => return lex.fail_at(at, format!("there is no value {}", name.shown())),
            }
        }
        Ok(())
    }

    /// `(%x: f32[1,8], %"a/b": i64[])`
    fn inputs(&mut self, lex: &mut Lexer<'_>) -> Result<(), ParseError> {
        lex.expect("(")?;
        let mut first = true;
        while !lex.eat(")")? {
            if !std::mem::take(&mut first) {
                lex.expect(",")?;
            }
            let at = lex.here();
            let Name::Word(label) = value_name(lex)? else {
                return lex.fail_at(at, "an input has a name, not a number");
            };
            lex.expect(":")?;
            let fact = parse_fact(lex)?;
            check_extents(lex, at, &fact)?;
            let v = self.graph.add_input(label.clone(), fact);
            let loc = loc(lex)?;
            self.graph.set_loc(v.node, loc);
            self.define(lex, at, Name::Word(label), v)?;
        }
        Ok(())
    }

    fn define(&mut self, lex: &Lexer<'_>, at: usize, name: Name, v: ValueId) -> Result<(), ParseError> {
        let shown = name.shown();
        match self.values.insert(name, v) {
            None => Ok(()),
            Some(_) => lex.fail_at(at, format!("a second value {shown}")),
        }
    }

    /// `%1 = conv(%x, %0) {pads=[1,1,1,1]} : f32[1,8]  @ "Conv_0"` or a weight.
    fn line(&mut self, lex: &mut Lexer<'_>) -> Result<(), ParseError> {
        let mut names = vec![];
        loop {
            let at = lex.here();
            if !matches!(lex.peek(), Token::Name(_) | Token::Mark("%")) {
                return lex.expected(if names.is_empty() {
                    "a node like `%1 = relu(%0)` or `}`"
                } else {
                    "a value like `%1`"
                });
            }
            names.push((value_name(lex)?, at));
            if !lex.eat(",")? {
                break;
            }
        }
        lex.expect("=")?;
        let at = lex.here();
        let Token::Word(op) = *lex.peek() else {
            return lex.expected("an operator, or `weight`");
        };
        lex.next()?;
        let values = if op == "weight" { vec![self.weight(lex)?] } else { self.op(lex, op, at)? };
        if values.len() != names.len() {
            let message = format!("{op} has {} result(s), but {} are named", values.len(), names.len());
            return lex.fail_at(names[0].1, message);
        }
        for ((name, at), v) in names.into_iter().zip(values) {
            self.define(lex, at, name, v)?;
        }
        Ok(())
    }

    /// What follows `weight`: `"conv.w" : f32[2] = [1.0, 2.0]  @ "loc"`
    fn weight(&mut self, lex: &mut Lexer<'_>) -> Result<ValueId, ParseError> {
        let label = match lex.peek() {
            Token::Str(s) => {
                let s = s.to_string();
                lex.next()?;
                s
            }
            _ => String::new(),
        };
        lex.expect(":")?;
        let at = lex.here();
        let fact = parse_fact(lex)?;
        let Some(dims) = fact.dims() else {
            return lex.fail_at(at, format!("the shape of a weight is made of numbers, found {fact}"));
        };
        lex.expect("=")?;
        if *lex.peek() == Token::Mark("<") {
            return lex.fail("the data was left out when this was printed");
        }
        let v = self.graph.add_weight(label, parse_data(lex, fact.dtype, &dims)?);
        let loc = loc(lex)?;
        self.graph.set_loc(v.node, loc);
        Ok(v)
    }

    /// What follows the operator's name.
    fn op(&mut self, lex: &mut Lexer<'_>, op: &str, at: usize) -> Result<Vec<ValueId>, ParseError> {
        if !Op::names().contains(&op) {
            return lex.fail_at(at, format!("unknown operator `{op}`"));
        }
        lex.expect("(")?;
        let mut operands = vec![];
        while !lex.eat(")")? {
            if !operands.is_empty() {
                lex.expect(",")?;
            }
            let at = lex.here();
            let name = value_name(lex)?;
            match self.values.get(&name) {
                Some(v) => operands.push(*v),
                None => return lex.fail_at(at, format!("there is no value {} above this line", name.shown())),
            }
        }
        let attrs = attrs(lex, self.depth)?;
        let op = match Op::parse(op, attrs) {
            Ok(op) => op,
            Err(e) => return lex.fail_at(at, format!("{op}: {e}")),
        };
        let facts_at = lex.here();
        let facts = if lex.eat(":")? { facts(lex)? } else { vec![] };
        let loc = loc(lex)?;
        let name = op.name();
        let values = match self.graph.add_op(op, &operands, loc) {
            Ok(values) => values,
            Err(e) => return lex.fail_at(at, format!("{name}: {e}")),
        };
        let inferred: Vec<&Fact> = values.iter().map(|v| self.graph.fact(*v)).collect();
        if !facts.is_empty() && !facts.iter().eq(inferred.iter().copied()) {
            let show = |f: &mut dyn Iterator<Item = &Fact>| f.map(Fact::to_string).collect::<Vec<_>>().join(", ");
            let expected = show(&mut inferred.iter().copied());
            return lex.fail_at(facts_at, format!("{name} gives {expected}, found {}", show(&mut facts.iter())));
        }
        Ok(values)
    }
}

/// An output as it is written.
struct Output {
    label: String,
    name: Name,
    /// Where the value is written.
    at: usize,
    /// The output that tells its extents.
    sized: Option<String>,
}

/// `("logits": %2)`
fn outputs(lex: &mut Lexer<'_>) -> Result<Vec<Output>, ParseError> {
    lex.expect("(")?;
    let mut all = vec![];
    while !lex.eat(")")? {
        if !all.is_empty() {
            lex.expect(",")?;
        }
        let Token::Str(label) = lex.peek() else {
            return lex.expected("the output's name, like `\"y\": %2`");
        };
        let label = label.to_string();
        lex.next()?;
        lex.expect(":")?;
        let at = lex.here();
        let name = value_name(lex)?;
        let mut sized = None;
        if lex.eat_word("sized")? {
            let Token::Str(s) = lex.peek() else {
                return lex.expected("an output's name");
            };
            sized = Some(s.to_string());
            lex.next()?;
        }
        all.push(Output { label, name, at, sized });
    }
    Ok(all)
}

/// `%x`, `%"any name"` or `%7`
fn value_name(lex: &mut Lexer<'_>) -> Result<Name, ParseError> {
    match lex.peek() {
        Token::Name(n) => {
            let n = n.to_string();
            lex.next()?;
            Ok(Name::Word(n))
        }
        Token::Mark("%") => {
            lex.next()?;
            let &Token::Int(n, "") = lex.peek() else {
                return lex.expected("a name or number after `%`");
            };
            lex.next()?;
            Ok(Name::Number(n))
        }
        _ => lex.expected("a value like `%x`"),
    }
}

fn facts(lex: &mut Lexer<'_>) -> Result<Vec<Fact>, ParseError> {
    let mut all = vec![parse_fact(lex)?];
    while lex.eat(",")? {
        all.push(parse_fact(lex)?);
    }
    Ok(all)
}

/// Extents that are numbers must not be negative.
fn check_extents(lex: &Lexer<'_>, at: usize, fact: &Fact) -> Result<(), ParseError> {
    match fact.shape.0.iter().find(|d| d.as_const().is_some_and(|c| c < 0)) {
        Some(d) => lex.fail_at(at, format!("an extent is not negative, found {d}")),
        None => Ok(()),
    }
}

/// `@ "Conv_0"`, if it is there.
fn loc(lex: &mut Lexer<'_>) -> Result<Loc, ParseError> {
    if !lex.eat("@")? {
        return Ok(Loc::none());
    }
    let Token::Str(s) = lex.peek() else {
        return lex.expected("a location like `\"Conv_0\"`");
    };
    let loc = Loc::new(s);
    lex.next()?;
    Ok(loc)
}

/// `{pads=[1,1], mode="linear"}`, if it is there.
fn attrs(lex: &mut Lexer<'_>, depth: usize) -> Result<Attrs, ParseError> {
    let mut all = Attrs::default();
    if !lex.eat("{")? {
        return Ok(all);
    }
    while !lex.eat("}")? {
        if !all.0.is_empty() {
            lex.expect(",")?;
        }
        let at = lex.here();
        let Token::Word(key) = *lex.peek() else {
            return lex.expected("the name of an attribute");
        };
        lex.next()?;
        lex.expect("=")?;
        if all.0.insert(key.to_string(), attr(lex, depth)?).is_some() {
            return lex.fail_at(at, format!("a second attribute `{key}`"));
        }
    }
    Ok(all)
}

fn attr(lex: &mut Lexer<'_>, depth: usize) -> Result<Attr, ParseError> {
    let found = match lex.peek() {
        Token::Str(s) => Attr::Str(s.to_string()),
        Token::Word("graph") => return Ok(Attr::Graph(Region::new(one_graph(lex, depth + 1)?))),
        Token::Word("true") => Attr::Bool(true),
        Token::Word("false") => Attr::Bool(false),
        Token::Word(w) if let Ok(d) = DType::from_str(w) => Attr::DType(d),
        Token::Mark("[") => return list(lex),
        Token::Mark("<") => {
            lex.next()?;
            let shape = parse_shape(lex)?;
            lex.expect(">")?;
            return Ok(Attr::Shape(shape));
        }
        _ => return number(lex),
    };
    lex.next()?;
    Ok(found)
}

/// `[1,2]` or `[0.5,1.0]`; whole numbers among others are taken as such.
fn list(lex: &mut Lexer<'_>) -> Result<Attr, ParseError> {
    lex.expect("[")?;
    let mut all = vec![];
    while !lex.eat("]")? {
        if !all.is_empty() {
            lex.expect(",")?;
        }
        all.push(number(lex)?);
    }
    let ints: Option<Vec<i64>> = all.iter().map(|a| if let Attr::Int(i) = a { Some(*i) } else { None }).collect();
    Ok(match ints {
        Some(ints) => Attr::Ints(ints),
        None => Attr::Reals(
            all.into_iter()
                .filter_map(|a| match a {
                    Attr::Int(i) => Some(Real(i as f64)),
                    Attr::Real(r) => Some(r),
                    _ => None,
                })
                .collect(),
        ),
    })
}

fn number(lex: &mut Lexer<'_>) -> Result<Attr, ParseError> {
    let at = lex.here();
    let negative = lex.eat("-")?;
    let sign = |v: f64| Attr::Real(Real(if negative { -v } else { v }));
    Ok(match lex.next()? {
        Token::Int(v, "") => {
            let v = i128::try_from(v).ok().map(|v| if negative { -v } else { v });
            match v.and_then(|v| i64::try_from(v).ok()) {
                Some(v) => Attr::Int(v),
                None => return lex.fail_at(at, "the number is too large"),
            }
        }
        Token::Float(v, "") => match v.parse() {
            Ok(v) => sign(v),
            Err(_) => return lex.fail_at(at, "not a number"),
        },
        Token::Word("inf") => sign(f64::INFINITY),
        Token::Word("nan") if !negative => {
            if !lex.eat("(")? {
                return Ok(Attr::Real(Real(f64::NAN)));
            }
            let bits = match lex.next()? {
                Token::Int(bits, "") => u64::try_from(bits).ok().map(f64::from_bits).filter(|v| v.is_nan()),
                _ => None,
            };
            lex.expect(")")?;
            match bits {
                Some(v) => Attr::Real(Real(v)),
                None => return lex.fail_at(at, "not the bits of a NaN"),
            }
        }
        other => return lex.fail_at(at, format!("expected the value of an attribute, found {other}")),
    })
}

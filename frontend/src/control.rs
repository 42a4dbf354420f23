//! What has subgraphs or is a function: branches, loops, functions of the model. And checking the operators of what is not
//! imported.

use crate::attr::{Passed, domain};
use crate::body::{Body, Frame, Made, Meaning, Session, Site, Slot};
use crate::import::{op_label, opsets};
use crate::limits::MAX_DEPTH;
use crate::lists::value;
use crate::proto::{FunctionProto, GraphProto, NodeProto, ValueInfoProto};
use crate::report::shortened;
use crate::types::declared;
use std::rc::Rc;
use tenon_base::{DType, Dim, Fact, Scalar, Shape, Tensor};
use tenon_ir::ops::branch::Branch;
use tenon_ir::ops::concat::Concat;
use tenon_ir::ops::expand::Expand;
use tenon_ir::ops::reshape::Reshape;
use tenon_ir::ops::slice::Slice;
use tenon_ir::{ImportError, Importer, NodeKind, Op, Operator, ValueId};

/// Operators of `ai.onnx` that are imported here and not by a file of `tenon_ir::ops`.
const BUILT_IN: [&str; 16] = [
    "Constant",
    "If",
    "Loop",
    "Scan",
    "SequenceMap",
    "SequenceEmpty",
    "SequenceConstruct",
    "SequenceAt",
    "SequenceInsert",
    "SequenceErase",
    "SequenceLength",
    "SplitToSequence",
    "ConcatFromSequence",
    "Optional",
    "OptionalHasElement",
    "OptionalGetElement",
];

/// Whether operator `op` of `domain` is imported here: one of [`BUILT_IN`], or FlexAttention.
pub(crate) fn built_in(domain: &str, op: &str) -> bool {
    (domain.is_empty() && BUILT_IN.contains(&op)) || (domain, op) == ("ai.onnx.preview", "FlexAttention")
}

impl<'p> Session<'p> {
    /// An operator of [`BUILT_IN`], but for `Constant`.
    pub(crate) fn control(&mut self, site: Site<'_, 'p>) -> Made<'p> {
        match site.node.op_type.as_str() {
            "If" => self.import_if(site),
            "Loop" => self.import_loop(site),
            "Scan" => self.import_scan(site),
            "FlexAttention" => self.flex_attention(site),
            _ => self.list_operator(site),
        }
    }

    /// The branch that the condition selects, where it is known; else both, and a choice between their results.
    fn import_if(&mut self, site: Site<'_, 'p>) -> Made<'p> {
        let Site { attrs, operands, loc, body, .. } = site;
        let condition = value(operands.first().unwrap_or(&Slot::Absent))
            .map_err(|e| ImportError::new(format!("condition: {}", e.message)))?;
        let condition = scalar(&mut self.importer(loc), condition, DType::Bool, "condition")?;
        let names = ["then_branch", "else_branch"];
        let branch = |k: usize| {
            let g = subgraph(attrs, names[k])?;
            if g.input.is_empty() {
                Ok(g)
            } else {
                Err(ImportError::new(format!("`{}` has inputs: expected none", names[k])))
            }
        };
        let inner = body.enter(loc)?;
        let unknown = match self.importer(loc).constant(condition, "cond").map(|t| t.get(0).as_int() != 0) {
            Ok(taken) => {
                let k = usize::from(!taken);
                return self.inline(branch(k)?, vec![], names[k], &inner);
            }
            Err(e) => e,
        };
        let branches = [branch(0)?, branch(1)?];
        let then = self.inline(branches[0], vec![], names[0], &inner);
        let told = self.report.clone();
        let otherwise = self.inline(branches[1], vec![], names[1], &inner);
        let (then, otherwise) = match (then, otherwise) {
            (Ok(Some(a)), Ok(Some(b))) => (a, b),
            (Ok(Some(a)), _) if let Some((name, v)) = self.equality(condition) => {
                // Nobody can compute the other branch for these shapes: the entry point refuses what leads there.
                self.report = told;
                let message = format!(
                    "`else_branch` cannot be computed for these shapes: runs must have {v} in input `{name}`, others are refused"
                );
                self.report.warning(loc, "If", ImportError::new(message));
                self.required.insert(name, v);
                return Ok(Some(a));
            }
            (a, b) => {
                // Perhaps only one of them cannot be, and the condition would tell that it is not needed.
                for e in [a, b].into_iter().filter_map(Result::err) {
                    self.report.error(loc, "If", e);
                }
                let message = format!("not both branches can be compiled, and {}", unknown.message);
                return Err(ImportError { message, ..unknown });
            }
        };
        if then.len() != otherwise.len() {
            return Err(ImportError::new(format!(
                "the branches have {} and {} outputs",
                then.len(),
                otherwise.len()
            )));
        }
        let mut pairs = (vec![], vec![]);
        let merged = then.iter().zip(&otherwise).map(|(a, b)| self.pair(*a, *b, &mut pairs, loc));
        let merged = merged
            .collect::<Result<Vec<_>, _>>()
            .map_err(|message| ImportError { message: format!("{message}, and {}", unknown.message), ..unknown })?;
        let mut made = vec![];
        if !pairs.0.is_empty() {
            let operands: Vec<ValueId> = [condition].into_iter().chain(pairs.0).chain(pairs.1).collect();
            made = self.importer(loc).ops(Branch {}, &operands)?;
        }
        let all = merged.into_iter().map(|m| self.resolve(m, &made, loc));
        Ok(Some(all.collect::<Result<_, _>>()?))
    }

    /// An input of the model, one `i64`, and the value that `condition` compares it with.
    fn equality(&self, condition: ValueId) -> Option<(String, i64)> {
        let mut v = condition;
        let graph = &self.top.graph;
        while let Some(Op::Reshape(_)) = graph.op(v.node) {
            v = graph.operands(v.node)[0];
        }
        let equal = self.outer.is_empty() && graph.op(v.node).is_some_and(|op| op.name() == "equal");
        let ins = if equal { graph.operands(v.node) } else { vec![] };
        let input = |v: ValueId| match &graph.node(v.node).kind {
            NodeKind::Input(name) if *graph.fact(v) == Fact::of(DType::I64, &[]) => Some(name.clone()),
            _ => None,
        };
        let value = |v: ValueId| graph.weight(v).filter(|t| t.len() == 1).and_then(|t| t.to_i64().first().copied());
        let (a, b) = (*ins.first()?, *ins.get(1)?);
        input(a).zip(value(b)).or_else(|| input(b).zip(value(a)))
    }

    /// One result of both branches; what has to be chosen at run time is added to `pairs`.
    fn pair(
        &mut self,
        a: Slot<'p>,
        b: Slot<'p>,
        pairs: &mut (Vec<ValueId>, Vec<ValueId>),
        loc: &str,
    ) -> Result<Merged<'p>, String> {
        match (a, b) {
            (Slot::Value(x), Slot::Value(y)) if x == y => Ok(Merged::Same(a)),
            (Slot::Value(x), Slot::Value(y)) => {
                let (f, g) = (self.top.graph.fact(x).clone(), self.top.graph.fact(y).clone());
                let mut choose = |x: ValueId, y: ValueId| {
                    pairs.0.push(x);
                    pairs.1.push(y);
                    pairs.0.len() - 1
                };
                if f == g {
                    return Ok(Merged::Chosen(choose(x, y)));
                }
                let fitted = self.fitted(x, y, loc).map_err(|e| e.message)?;
                let Some((x, y, counts)) = fitted else {
                    return Err(format!("a result is {f} in one branch and {g} in the other"));
                };
                let value = choose(x, y);
                let counts = counts.into_iter().map(|(axis, n, m)| (axis, choose(n, m))).collect();
                Ok(Merged::Sized(value, counts))
            }
            (Slot::List(x), Slot::List(y)) if self.lists[x].len() == self.lists[y].len() => {
                let items = self.lists[x].clone().into_iter().zip(self.lists[y].clone());
                items.map(|(a, b)| self.pair(a, b, pairs, loc)).collect::<Result<_, _>>().map(Merged::List)
            }
            (Slot::Nothing, Slot::Nothing) => Ok(Merged::Same(a)),
            _ => Err("a result is a tensor, a sequence of some length or nothing in one branch, and another of these in the other".into()),
        }
    }

    fn resolve(&mut self, m: Merged<'p>, made: &[ValueId], loc: &str) -> Result<Slot<'p>, ImportError> {
        Ok(match m {
            Merged::Same(s) => s,
            Merged::Chosen(i) => Slot::Value(made[i]),
            Merged::Sized(i, counts) => {
                let mut v = made[i];
                for (axis, n) in counts {
                    v = self.importer(loc).sized(v, axis, made[n])?;
                }
                Slot::Value(v)
            }
            Merged::List(items) => {
                let items = items.into_iter().map(|m| self.resolve(m, made, loc));
                let items = items.collect::<Result<_, _>>()?;
                self.list(items)
            }
        })
    }

    /// Two values that differ in extents only, in one shape with room for both, and for each axis where they do, how many each has. Where
    /// that is not possible, nothing.
    fn fitted(&mut self, x: ValueId, y: ValueId, loc: &str) -> Result<Option<Fitted>, ImportError> {
        let (f, g) = (self.top.graph.fact(x).clone(), self.top.graph.fact(y).clone());
        if f.dtype != g.dtype || f.shape.rank() != g.shape.rank() {
            return Ok(None);
        }
        let (mut x, mut y, mut counts) = (x, y, vec![]);
        for (axis, (a, b)) in f.shape.0.iter().zip(&g.shape.0).enumerate().filter(|(_, (a, b))| a != b) {
            let mut cx = self.importer(loc);
            let Some((m, n)) = cx.at_most(a).zip(cx.at_most(b)) else { return Ok(None) };
            let mut with_room = |v: ValueId| -> Result<(ValueId, ValueId), ImportError> {
                let (room, fact) = (m.max(n), cx.fact(v).clone());
                let d = fact.shape.0[axis].clone();
                let count = match d.as_const() {
                    Some(n) => cx.weight(Tensor::scalar(n)),
                    None => cx.symbolic(vec![d.clone()], &[]),
                };
                let mut rest = fact.shape.clone();
                rest.0[axis] = Dim::Const(room - d.as_const().unwrap_or(0));
                let zero = cx.weight(Tensor::full(&[], Scalar::of_f64(fact.dtype, 0.0)));
                let rest = cx.op(Expand { to: rest }, &[zero])?;
                let wide = cx.op(Concat { axis }, &[v, rest])?;
                let mut to = fact.shape;
                to.0[axis] = Dim::Const(room);
                let (starts, steps) = (vec![0; to.rank()], vec![1; to.rank()]);
                Ok((if *cx.shape(wide) == to { wide } else { cx.op(Slice { starts, steps, to }, &[wide])? }, count))
            };
            let ((p, n), (q, m)) = (with_room(x)?, with_room(y)?);
            (x, y) = (p, q);
            counts.push((axis, n, m));
        }
        Ok(Some((x, y, counts)))
    }

    /// Imports subgraph `g` into the current graph, in a frame of its own; `given` are its inputs.
    pub(crate) fn inline(
        &mut self,
        g: &'p GraphProto,
        given: Vec<Slot<'p>>,
        what: &str,
        inner: &Body<'p>,
    ) -> Made<'p> {
        self.frames.push(Frame::new(true, self.depth()));
        for (v, slot) in g.input.iter().zip(given) {
            self.define(&v.name, slot);
        }
        self.define_initializers(g);
        self.import_nodes(&g.node, inner);
        let result = self.results(g.output.iter().map(|v| v.name.as_str()), what);
        self.frames.pop();
        result
    }

    /// The body of a function, with `operands` and `attrs` for its parameters.
    pub(crate) fn inline_function(&mut self, f: &'p FunctionProto, site: Site<'_, 'p>) -> Made<'p> {
        let Site { attrs, operands, loc, body, .. } = site;
        if operands.len() > f.input.len() {
            return Err(ImportError::new(format!(
                "expected at most {} operands, found {}",
                f.input.len(),
                operands.len()
            )));
        }
        let mut passed: Passed<'p> = f.attribute_proto.iter().map(|a| (a.name.as_str(), a)).collect();
        passed.extend(attrs.iter().map(|(name, a)| (*name, *a)));
        self.charge_inlined(passed.len() + f.opset_import.len() + f.input.len() + f.output.len());
        let own = if f.opset_import.is_empty() { body.opsets.clone() } else { Rc::new(opsets(&f.opset_import)) };
        let inner = Body { opsets: own, passed: Some(Rc::new(passed)), ..body.enter(loc)? };
        self.frames.push(Frame::new(false, self.depth()));
        for (i, name) in f.input.iter().enumerate() {
            self.define(name, operands.get(i).copied().unwrap_or(Slot::Absent));
        }
        self.import_nodes(&f.node, &inner);
        let result = self.results(f.output.iter().map(String::as_str), &f.name);
        self.frames.pop();
        result
    }

    /// What `names`, outputs of `what`, stand for; `None` when one has a problem that is already reported.
    fn results<'a>(&mut self, names: impl Iterator<Item = &'a str>, what: &str) -> Made<'p> {
        // After a stop nothing is complete, and that is reported already.
        let mut all = (!self.stopped).then(Vec::new);
        for name in names {
            match self.lookup(name) {
                s @ (Slot::Value(_) | Slot::List(_) | Slot::Nothing) => {
                    if let Some(all) = &mut all {
                        all.push(s);
                    }
                }
                Slot::Missing if !self.stopped => {
                    return Err(ImportError::new(format!("nothing in `{what}` gives its output `{name}`")));
                }
                _ => all = None,
            }
        }
        Ok(all)
    }

    /// An optional operand of one element, as a scalar.
    pub(crate) fn opt_scalar(
        &mut self,
        slot: Option<&Slot<'p>>,
        dtype: DType,
        what: &str,
        loc: &str,
    ) -> Result<Option<ValueId>, ImportError> {
        match slot {
            None | Some(Slot::Absent | Slot::Nothing) => Ok(None),
            Some(s) => scalar(&mut self.importer(loc), value(s)?, dtype, what).map(Some),
        }
    }

    /// Reports the operators that cannot be imported of a node that is not imported, and of its subgraphs and functions.
    pub(crate) fn scan_node(&mut self, n: &'p NodeProto, loc: &str, body: &Body<'p>) {
        if !self.visit(1) {
            return;
        }
        match self.meaning(n, body) {
            Meaning::Unsupported(reason, help) => {
                let op = op_label(domain(&n.domain), &n.op_type, Some(Self::opset(n, body)));
                self.report.unsupported(&op, loc, reason, help);
            }
            // Each function once: calls may fan out exponentially.
            Meaning::Function(f)
                if body.depth < MAX_DEPTH && self.scanned.insert((&f.domain, &f.name, &f.overload)) =>
            {
                let opsets = Rc::new(opsets(&f.opset_import));
                let inner = Body { opsets, passed: None, prefix: String::new(), depth: body.depth + 1 };
                self.scan_nodes(&f.node, loc, &inner);
            }
            _ => {}
        }
        for g in n.attribute.iter().filter_map(|a| a.g.as_deref()) {
            self.scan_nodes(&g.node, loc, body);
        }
    }

    fn scan_nodes(&mut self, nodes: &'p [NodeProto], loc: &str, body: &Body<'p>) {
        for n in nodes {
            let name = if n.name.is_empty() { &n.op_type } else { &n.name };
            self.scan_node(n, &shortened(&format!("{loc}/{name}")), body);
        }
    }
}

/// A result of both branches of an `If`.
enum Merged<'p> {
    /// The same in both.
    Same(Slot<'p>),
    /// One of a pair.
    Chosen(usize),
    /// One of a pair, and along these axes as many of its elements as one of another pair says.
    Sized(usize, Vec<(usize, usize)>),
    /// A sequence.
    List(Vec<Merged<'p>>),
}

/// Two values of one shape, and the axes along which less of them counts, with how much of each.
type Fitted = (ValueId, ValueId, Vec<(usize, ValueId, ValueId)>);

/// Attribute `name`, a graph.
pub(crate) fn subgraph<'p>(attrs: &Passed<'p>, name: &str) -> Result<&'p GraphProto, ImportError> {
    let g = attrs.get(name).and_then(|a| a.g.as_deref());
    g.ok_or_else(|| ImportError::new(format!("attribute `{name}` is missing")))
}

/// The rank that a value is declared with.
pub(crate) fn declared_rank(v: &ValueInfoProto) -> Option<usize> {
    declared(v).ok().flatten()?.dims.map(|d| d.len())
}

/// `v`, which has one element of `dtype`, as a scalar.
pub(crate) fn scalar(cx: &mut Importer<'_>, v: ValueId, dtype: DType, what: &str) -> Result<ValueId, ImportError> {
    let fact = cx.fact(v).clone();
    if fact.dtype != dtype || fact.shape.numel().as_const() != Some(1) {
        return Err(ImportError::new(format!("{what}: expected one {dtype}, found {fact}")));
    }
    if fact.shape.rank() == 0 { Ok(v) } else { cx.op(Reshape { to: Shape(vec![]) }, &[v]) }
}

//! What every pass may rely on, and must leave true:
//!
//! - The graph has no cycle.
//! - Inputs and weights take no operands and give one value; operators give at least one.
//! - The operands of a node are numbered from 0 without a gap, and each is a value that exists: the producer is in the
//!   graph and has that port.
//! - The facts of an operator's results are those that `infer` gives for the facts of its operands. So the number of
//!   operands, their dtypes and their shapes are what the operator takes.
//! - The fact of a weight is that of its tensor.
//! - Extents that are numbers are not negative.
//! - Every input node is listed once among the graph's inputs, and nothing else is; every output exists.
//! - Inputs and outputs have names; no two inputs, and no two outputs, have one name.
//! - An output whose extents are known only at run time is sized by an output that is an `i64` for each of its axes.
//! - All this holds for the graphs inside operators.

use crate::text::{PrintOptions, print};
use crate::{Graph, GraphError, NodeId, NodeKind, Operator};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use tenon_base::{Fact, Loc};

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    /// The node at fault; `None` if it is the graph as a whole.
    pub node: Option<NodeId>,
    /// The node's operator, `input` or `weight`; empty without a node.
    pub op: &'static str,
    /// Where the node came from.
    pub loc: Loc,
    /// Expected and found: lower case, no full stop.
    pub message: String,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.node.is_some() {
            write!(f, "{} \"{}\": ", self.op, self.loc)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for VerifyError {}

/// Checks all invariants and gives every violation, in the order of the nodes.
pub fn verify(graph: &Graph) -> Result<(), Vec<VerifyError>> {
    let mut v = Verifier { graph, errors: vec![] };
    if let Err(GraphError::Cycle(loc)) = graph.topological() {
        v.graph_error(format!("the graph has a cycle through {loc}"));
    }
    graph.nodes().for_each(|id| v.node(id));
    v.borders();
    if v.errors.is_empty() { Ok(()) } else { Err(v.errors) }
}

/// The text of `graph` with each error below the line of its node, those of the whole graph at the end.
pub fn report(graph: &Graph, errors: &[VerifyError]) -> String {
    let mut options = PrintOptions::for_reading();
    let mut rest = String::new();
    for e in errors {
        match e.node {
            Some(id) => options.notes.entry(id).or_default().push(format!("error: {}", e.message)),
            None => rest.push_str(&format!("// error: {}\n", e.message)),
        }
    }
    print(graph, &options) + &rest
}

struct Verifier<'g> {
    graph: &'g Graph,
    errors: Vec<VerifyError>,
}

impl Verifier<'_> {
    fn graph_error(&mut self, message: String) {
        self.errors.push(VerifyError { node: None, op: "", loc: Loc::none(), message });
    }

    fn error(&mut self, id: NodeId, message: String) {
        let node = self.graph.node(id);
        let op = match &node.kind {
            NodeKind::Input(_) => "input",
            NodeKind::Weight(..) => "weight",
            NodeKind::Op(op) => op.name(),
        };
        self.errors.push(VerifyError { node: Some(id), op, loc: node.loc.clone(), message });
    }

    fn node(&mut self, id: NodeId) {
        let (graph, node) = (self.graph, self.graph.node(id));
        for fact in &node.facts {
            if let Some(d) = fact.shape.0.iter().find(|d| d.as_const().is_some_and(|c| c < 0)) {
                self.error(id, format!("expected extents of 0 or more, found {d} in {fact}"));
            }
        }
        let operands = graph.operand_edges(id);
        if !operands.iter().map(|(i, _)| *i).eq(0..operands.len() as u32) {
            let found: Vec<String> = operands.iter().map(|(i, _)| i.to_string()).collect();
            self.error(id, format!("expected operands numbered without a gap, found {}", found.join(", ")));
            return;
        }
        let missing = operands.iter().find(|(_, v)| !graph.contains(*v));
        if let Some((i, v)) = missing {
            self.error(id, format!("operand {i} is result {} of a node that does not have it", v.port));
            return;
        }
        match &node.kind {
            NodeKind::Op(op) => {
                if let crate::Op::Repeat(op) = op
                    && let Err(errors) = verify(op.body.graph())
                {
                    errors.iter().for_each(|e| self.error(id, format!("in its body: {e}")));
                    return;
                }
                let ins: Vec<Fact> = operands.iter().map(|(_, v)| graph.fact(*v).clone()).collect();
                match op.infer(&ins) {
                    Err(e) => self.error(id, e.message),
                    Ok(facts) if facts.is_empty() => self.error(id, "expected at least one result".into()),
                    Ok(facts) if facts != node.facts => {
                        let message = format!("expected results {}, found {}", show(&facts), show(&node.facts));
                        self.error(id, message);
                    }
                    Ok(_) => {}
                }
            }
            NodeKind::Input(_) | NodeKind::Weight(..) if !operands.is_empty() => {
                self.error(id, format!("expected no operands, found {}", operands.len()));
            }
            NodeKind::Weight(_, t) if node.facts != [t.fact()] => {
                self.error(id, format!("expected the type of its data, {}, found {}", t.fact(), show(&node.facts)));
            }
            NodeKind::Input(_) if node.facts.len() != 1 => {
                self.error(id, format!("expected one type, found {}", node.facts.len()));
            }
            NodeKind::Input(_) | NodeKind::Weight(..) => {}
        }
    }

    /// Inputs and outputs.
    fn borders(&mut self) {
        let graph = self.graph;
        let mut listed: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut names = BTreeSet::new();
        for &id in graph.inputs() {
            *listed.entry(id).or_default() += 1;
            if !graph.contains(crate::ValueId { node: id, port: 0 }) {
                self.graph_error("an input of the graph is not in it".into());
                continue;
            }
            match &graph.node(id).kind {
                NodeKind::Input(name) if name.is_empty() => self.error(id, "an input without a name".into()),
                NodeKind::Input(name) if !names.insert(name.as_str()) => {
                    self.error(id, format!("a second input named {name:?}"));
                }
                NodeKind::Input(_) => {}
                _ => self.error(id, "listed among the inputs, but it is not one".into()),
            }
        }
        for id in graph.nodes() {
            let times = listed.get(&id).copied().unwrap_or(0);
            if matches!(graph.node(id).kind, NodeKind::Input(_)) && times != 1 {
                self.error(id, format!("expected to be listed once among the inputs, found {times} times"));
            }
        }
        for (k, by) in graph.sized() {
            let fact =
                |k: &usize| graph.outputs().get(*k).filter(|(_, v)| graph.contains(*v)).map(|(_, v)| graph.fact(*v));
            let fits = fact(k)
                .zip(fact(by))
                .is_some_and(|(y, dims)| *dims == Fact::of(tenon_base::DType::I64, &[y.shape.rank()]));
            if !fits {
                self.graph_error(format!("output {k} is sized by output {by}, which is not a vector of its extents"));
            }
        }
        let mut names = BTreeSet::new();
        for (name, v) in graph.outputs() {
            if !graph.contains(*v) {
                self.graph_error(format!("output {name:?} is a value that does not exist"));
            }
            if name.is_empty() {
                self.graph_error("an output without a name".into());
            } else if !names.insert(name.as_str()) {
                self.graph_error(format!("a second output named {name:?}"));
            }
        }
    }
}

fn show(facts: &[Fact]) -> String {
    if facts.is_empty() {
        return "none".into();
    }
    facts.iter().map(Fact::to_string).collect::<Vec<_>>().join(", ")
}

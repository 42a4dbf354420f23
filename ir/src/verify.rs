//! What every graph between passes must satisfy:
//!
//! - it has no cycle;
//! - every operand and every output of the model is an output of a node of the graph;
//! - an operator's facts are what its `infer` says of its operands' facts;
//! - a weight's fact is its tensor's; inputs and weights have one result and no operands;
//! - input names are unique and not empty, and so are output names.

use crate::{Graph, NodeId, NodeKind, Operator};
use std::collections::BTreeSet;
use std::fmt;
use tenon_base::{Fact, Loc};

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    /// At which node, if it is one node's.
    pub node: Option<NodeId>,
    /// Where that came from.
    pub loc: Loc,
    /// Expected and found.
    pub message: String,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.loc.name() {
            Some(n) => write!(f, "\"{n}\": {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}
impl std::error::Error for VerifyError {}

/// Checks `graph`; gives everything that is wrong.
pub fn verify(graph: &Graph) -> Result<(), Vec<VerifyError>> {
    let mut errors = vec![];
    if let Err(e) = graph.topological() {
        // Nothing else can be trusted in a cyclic graph.
        return Err(vec![VerifyError { node: None, loc: Loc::none(), message: e.to_string() }]);
    }
    for id in graph.nodes() {
        let node = graph.node(id);
        let mut fail = |message: String| errors.push(VerifyError { node: Some(id), loc: node.loc.clone(), message });
        let operands = graph.operands(id);
        if let Some(v) = operands.iter().find(|v| graph.node(v.node).facts.len() <= v.port as usize) {
            fail(format!("an operand is result {} of a node that has {}", v.port, graph.node(v.node).facts.len()));
            continue;
        }
        match &node.kind {
            NodeKind::Input(_) | NodeKind::Weight(..) if !operands.is_empty() || node.facts.len() != 1 => {
                fail("an input or weight has operands, or not one result".into());
            }
            NodeKind::Input(_) => {}
            NodeKind::Weight(_, t) if t.fact() != node.facts[0] => {
                fail(format!("a weight is a {}, its fact says {}", t.fact(), node.facts[0]));
            }
            NodeKind::Weight(..) => {}
            NodeKind::Op(op) => {
                let ins: Vec<Fact> = operands.iter().map(|v| graph.fact(*v).clone()).collect();
                match op.infer(&ins) {
                    Ok(facts) if facts == node.facts => {}
                    Ok(facts) => {
                        fail(format!("{} gives {}, its facts say {}", op.name(), list(&facts), list(&node.facts)))
                    }
                    Err(e) => fail(format!("{}: {e}", op.name())),
                }
            }
        }
    }
    let inputs = graph.inputs().iter().filter_map(|n| match &graph.node(*n).kind {
        NodeKind::Input(name) => Some(name.as_str()),
        _ => None,
    });
    let mut seen = BTreeSet::new();
    let outputs = graph.outputs().iter().map(|(n, _)| n.as_str());
    for (kind, name) in inputs.map(|n| ("input", n)).chain(outputs.map(|n| ("output", n))) {
        if name.is_empty() || !seen.insert((kind, name)) {
            let message = format!("the {kind} name {name:?} is empty or stands twice");
            errors.push(VerifyError { node: None, loc: Loc::none(), message });
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn list(facts: &[Fact]) -> String {
    facts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

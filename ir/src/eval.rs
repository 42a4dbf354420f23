//! The reference interpreter: runs a graph operator by operator with [`Operator::eval`].

use crate::{Graph, NodeId, NodeKind, Op, Operator, ValueId, gate};
use std::collections::BTreeMap;
use std::fmt;
use tenon_base::{Loc, Tensor};

/// Why a graph could not be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EvalError {
    /// An operator failed on its operands.
    Op {
        /// Which node.
        loc: Loc,
        /// Its operator.
        op: &'static str,
        /// What went wrong.
        message: String,
    },
    /// An input is missing, or of the wrong dtype or shape.
    Input(String),
    /// The graph is ill formed.
    Graph(String),
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EvalError::Op { loc, op, message } => write!(f, "{op} \"{loc}\": {message}"),
            EvalError::Input(m) | EvalError::Graph(m) => f.write_str(m),
        }
    }
}
impl std::error::Error for EvalError {}

/// Runs `graph` on `inputs` (in the graph's order) and gives its outputs.
pub fn run(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, EvalError> {
    run_with(graph, inputs, &mut |_, _| {})
}

/// The same, showing every value to `watch` as it is computed. Values are dropped after their last use. Of an `if`, only the
/// side that is taken runs.
pub fn run_with(
    graph: &Graph,
    inputs: &[Tensor],
    watch: &mut dyn FnMut(ValueId, &Tensor),
) -> Result<Vec<Tensor>, EvalError> {
    if inputs.len() != graph.inputs().len() {
        return Err(EvalError::Input(format!("expected {} inputs, found {}", graph.inputs().len(), inputs.len())));
    }
    let (order, gates) = gate::order(graph).map_err(|e| EvalError::Graph(e.to_string()))?;
    let mut taken: BTreeMap<NodeId, bool> = BTreeMap::new();
    let mut left: BTreeMap<ValueId, usize> = BTreeMap::new();
    let mut values: BTreeMap<ValueId, Tensor> = BTreeMap::new();
    for (&id, tensor) in graph.inputs().iter().zip(inputs) {
        let v = ValueId { node: id, port: 0 };
        let fact = graph.fact(v);
        let fits = fact.dims().is_none_or(|d| d == tensor.shape()) && fact.shape.rank() == tensor.shape().len();
        if fact.dtype != tensor.dtype() || !fits {
            return Err(EvalError::Input(format!("input: expected {fact}, found {}", tensor.fact())));
        }
        values.insert(v, tensor.clone());
    }
    for id in order {
        let node = graph.node(id);
        let runs = gates.path(id).iter().all(|(branch, side)| {
            let cond = graph.operands(*branch)[0];
            let now = values.get(&cond).map(|t| t.get(0).as_int() != 0);
            now.is_some_and(|now| *taken.entry(*branch).or_insert(now) == *side)
        });
        if !runs {
            release(&graph.operands(id), &mut left, &mut values);
            continue;
        }
        let outs = match &node.kind {
            NodeKind::Input(_) => continue,
            NodeKind::Weight(_, t) => vec![t.clone()],
            NodeKind::Op(op) => {
                let operands = graph.operands(id);
                let err = |message| EvalError::Op { loc: node.loc.clone(), op: op.name(), message };
                let outs = if let Op::Branch(_) = op {
                    let n = node.facts.len();
                    let first = if values[&operands[0]].get(0).as_int() != 0 { 1 } else { 1 + n };
                    operands[first..first + n].iter().map(|v| values[v].clone()).collect()
                } else {
                    let ins: Vec<Tensor> = operands.iter().map(|v| values[v].clone()).collect();
                    op.eval(&ins).map_err(err)?
                };
                check_outputs(graph, id, &outs).map_err(err)?;
                release(&operands, &mut left, &mut values);
                outs
            }
        };
        for (port, t) in outs.into_iter().enumerate() {
            let v = ValueId { node: id, port: port as u16 };
            watch(v, &t);
            left.insert(v, graph.use_count(v));
            if graph.use_count(v) > 0 {
                values.insert(v, t);
            }
        }
    }
    Ok(graph.outputs().iter().map(|(_, v)| values[v].clone()).collect())
}

/// Drops those of `operands` that nothing else will use.
fn release(operands: &[ValueId], left: &mut BTreeMap<ValueId, usize>, values: &mut BTreeMap<ValueId, Tensor>) {
    for v in operands {
        if let Some(n) = left.get_mut(v) {
            *n -= 1;
            if *n == 0 {
                values.remove(v);
            }
        }
    }
}

/// `infer` and `eval` must agree: a disagreement is a bug of the operator, found here in every run.
fn check_outputs(graph: &Graph, id: NodeId, outs: &[Tensor]) -> Result<(), String> {
    let facts = &graph.node(id).facts;
    if facts.len() != outs.len() {
        return Err(format!("the reference made {} outputs, its facts say {}", outs.len(), facts.len()));
    }
    for (f, t) in facts.iter().zip(outs) {
        if f.dtype != t.dtype() || f.dims().is_some_and(|d| d != t.shape()) {
            return Err(format!("the reference made a {}, its facts say {f}", t.fact()));
        }
    }
    Ok(())
}

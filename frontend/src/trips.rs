//! How often a loop runs whose body decides when to end, where that can be known: exporters write `while i < n` as a carried
//! integer, a comparison with a constant and no trip count, as Keras does for every recurrent layer.
//!
//! The condition is computed at import, one iteration after the other, from the number of the iteration and the carried values
//! that it depends on; these must begin as constants and depend on nothing else.

use std::collections::{BTreeMap, BTreeSet};
use tenon_base::Tensor;
use tenon_ir::{Graph, NodeId, NodeKind, OpClass, Operator as _, ValueId};

/// Iterations computed at most.
const MOST: usize = 1 << 14;
/// Nodes that a condition depends on, at most.
const MOST_NODES: usize = 64;
/// Elements of any value among them, at most.
const MOST_ELEMENTS: i64 = 16;
/// What evaluating a node costs, in elements: see [`Graph::spend_effort`].
const EFFORT: u64 = 16;

/// A value that one iteration hands to the next.
#[derive(Debug)]
pub(crate) struct Carried {
    /// The input of the body.
    pub(crate) input: ValueId,
    /// What it is in the first iteration, if that is known.
    pub(crate) first: Option<Tensor>,
    /// What the body makes of it.
    pub(crate) next: ValueId,
}

/// The number of iterations of a loop that begins, and runs `limit` times unless `more` of its body is false before; `None` if
/// that depends on more than constants, or takes long to find out. `number` is the body's input for the number of the iteration.
pub(crate) fn iterations(
    body: &mut Graph,
    number: ValueId,
    carried: &[Carried],
    more: ValueId,
    limit: Option<usize>,
) -> Option<usize> {
    let nodes = cone(body, number, carried, more)?;
    let order: Vec<NodeId> = body.topological().ok()?.into_iter().filter(|n| nodes.contains(n)).collect();
    let mut state: BTreeMap<ValueId, Tensor> = carried
        .iter()
        .filter(|c| nodes.contains(&c.input.node))
        .map(|c| Some((c.input, c.first.clone()?)))
        .collect::<Option<_>>()?;
    for k in 0..limit.unwrap_or(usize::MAX).min(MOST) {
        if !body.spend_effort(EFFORT * order.len() as u64) {
            return None;
        }
        state.insert(number, Tensor::scalar(k as i64));
        let values = run(body, &order, state)?;
        if values.get(&more)?.get(0).as_int() == 0 {
            return Some(k + 1);
        }
        let kept = carried.iter().filter(|c| nodes.contains(&c.input.node));
        state = kept.map(|c| Some((c.input, values.get(&c.next)?.clone()))).collect::<Option<_>>()?;
    }
    limit.filter(|n| *n <= MOST)
}

/// The nodes that `more` depends on, in this iteration or through those before it; `None` if it takes more than constants.
fn cone(body: &Graph, number: ValueId, carried: &[Carried], more: ValueId) -> Option<BTreeSet<NodeId>> {
    let mut nodes = BTreeSet::new();
    let mut open = vec![more];
    while let Some(v) = open.pop() {
        let elements = body.fact(v).shape.0.iter().try_fold(1i64, |n, d| Some(n.saturating_mul(d.as_const()?)))?;
        if elements > MOST_ELEMENTS || nodes.len() > MOST_NODES {
            return None;
        }
        if !nodes.insert(v.node) {
            continue;
        }
        match &body.node(v.node).kind {
            NodeKind::Weight(..) => {}
            NodeKind::Input(_) if v == number => {}
            NodeKind::Input(_) => {
                let c = carried.iter().find(|c| c.input == v && c.first.is_some())?;
                open.push(c.next);
            }
            NodeKind::Op(op) => {
                if op.class() == OpClass::Control {
                    return None;
                }
                open.extend(body.operands(v.node));
            }
        }
    }
    Some(nodes)
}

/// All values of the nodes `order`, given those of inputs.
fn run(body: &Graph, order: &[NodeId], mut values: BTreeMap<ValueId, Tensor>) -> Option<BTreeMap<ValueId, Tensor>> {
    for &id in order {
        let made = match &body.node(id).kind {
            NodeKind::Input(_) => continue,
            NodeKind::Weight(_, t) => vec![t.clone()],
            NodeKind::Op(op) => {
                let ins: Option<Vec<Tensor>> = body.operands(id).iter().map(|v| values.get(v).cloned()).collect();
                op.eval(&ins?).ok()?
            }
        };
        values.extend(made.into_iter().enumerate().map(|(port, t)| (ValueId { node: id, port: port as u16 }, t)));
    }
    Some(values)
}

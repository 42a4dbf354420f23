//! Constant folding by the reference interpreter, and dead code.

use crate::PassError;
use tenon_base::{Fact, Tensor};
use tenon_ir::effort::effort;
use tenon_ir::{Graph, NodeKind, Op, Operator, ValueId};

/// A folded result may have this many elements whatever its operands have.
const SMALL: usize = 1 << 16;

/// Evaluates operators whose operands are all constant, unless the result is much larger than the operands (an
/// expanded scalar is better expanded at run time), or takes longer than the graph's budget allows
/// ([`Graph::spend_effort`]). Then drops what nothing uses.
pub fn fold(graph: &mut Graph) -> Result<usize, PassError> {
    let internal = |message: String| PassError::Internal { pass: "fold".into(), message };
    let mut folded = 0;
    for id in graph.topological().map_err(|e| internal(e.to_string()))? {
        let Some(op) = graph.op(id) else { continue };
        // Quantised constants stay until the integer operators are made of them; that pass folds what is left. A loop may take any time; of
        // a branch the condition is enough.
        if matches!(op, Op::Dequantize(_) | Op::Repeat(_)) {
            continue;
        }
        let operands = graph.operands(id);
        if let Op::Branch(_) = op
            && let Some(cond) = graph.weight(operands[0])
        {
            let n = graph.node(id).facts.len();
            let first = if cond.get(0).as_int() != 0 { 1 } else { 1 + n };
            for port in 0..n {
                let old = ValueId { node: id, port: port as u16 };
                graph.replace(old, operands[first + port]).map_err(|e| internal(e.to_string()))?;
            }
            folded += 1;
            continue;
        }
        let Some(ins) = operands.iter().map(|v| graph.weight(*v).cloned()).collect::<Option<Vec<Tensor>>>() else {
            continue;
        };
        let op = op.clone();
        let total: usize = ins.iter().map(Tensor::len).sum();
        let len = |f: &Fact| f.dims().map_or(usize::MAX, |d| d.iter().product());
        if graph.node(id).facts.iter().any(|f| len(f) > SMALL.max(2 * total)) {
            continue;
        }
        let facts: Vec<Fact> = ins.iter().map(Tensor::fact).collect();
        let effort = effort(&op, &facts, &graph.node(id).facts);
        if !graph.spend_effort(effort) {
            continue;
        }
        // An operator that cannot be evaluated here is not an error: it may fail, or not, at run time.
        let Ok(outs) = op.eval(&ins) else { continue };
        let loc = graph.node(id).loc.clone();
        for (port, t) in outs.into_iter().enumerate() {
            let new = graph.add_weight("", t);
            graph.set_loc(new.node, loc.clone());
            graph.replace(ValueId { node: id, port: port as u16 }, new).map_err(|e| internal(e.to_string()))?;
        }
        folded += 1;
    }
    graph.remove_dead();
    Ok(folded)
}

/// What a graph may spend for each element of its constants, beside [`Graph::FREE_EFFORT`]: rewrites scale, transpose and
/// convert weights a few times each.
const EFFORT_PER_ELEMENT: u64 = 16;

/// Gives `graph` a budget for constants that is in proportion to its own. Once, before the passes.
pub fn allow_for_weights(graph: &mut Graph) {
    let len = |t: &Tensor| t.len() as u64;
    let weights = graph.nodes().filter_map(|n| match &graph.node(n).kind {
        NodeKind::Weight(_, t) => Some(len(t)),
        _ => None,
    });
    let elements: u64 = weights.fold(0, u64::saturating_add);
    graph.allow_effort(elements.saturating_mul(EFFORT_PER_ELEMENT));
}

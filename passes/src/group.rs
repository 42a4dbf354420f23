//! Kernel groups: which operators are computed in one loop nest.
//!
//! Every operator that moves or computes is in a group. A group has an *anchor*; pointwise operators after it that use
//! nothing else's whole result are its *epilogue* (computed on the value about to be stored). Operators before it are
//! *inlined*: computed where they are read, in every group that has them. Views belong to no group: they share their operand's
//! buffer. The optimiser ([`crate::egraph`]) chooses the groups.

use crate::PassError;
use std::collections::BTreeSet;
use std::fmt::Write;
use tenon_ir::{Graph, NodeId, OpClass, Operator, ValueId};

/// Operators of one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The operator that shapes the loop nest.
    pub anchor: NodeId,
    /// Pointwise operators applied to the anchor's result before it is stored, in order.
    pub epilogue: Vec<NodeId>,
    /// Operators computed where the anchor, or another inlined operator, reads them.
    pub inlined: BTreeSet<NodeId>,
}

impl Group {
    /// The node whose result the group stores.
    pub fn last(&self) -> NodeId {
        self.epilogue.last().copied().unwrap_or(self.anchor)
    }

    /// All nodes, anchor first.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        std::iter::once(self.anchor).chain(self.epilogue.iter().copied()).chain(self.inlined.iter().copied())
    }
}

/// The operand of the views above `v` that is not itself a view: the value whose buffer `v` shares.
pub fn root(graph: &Graph, mut v: ValueId) -> ValueId {
    while graph.op(v.node).is_some_and(|op| op.class() == OpClass::View) {
        v = graph.operands(v.node)[0];
    }
    v
}

/// Fails unless every operator that an output needs and that is no view is in a group, and every group comes after those whose
/// results it reads. Gives how many there are.
pub fn check(graph: &Graph, groups: &[Group]) -> Result<usize, PassError> {
    let fail = |n: NodeId, what: &str| {
        let op = graph.op(n).map_or("?", |o| o.name());
        Err(PassError::Internal { pass: "group".into(), message: format!("{op} \"{}\" {what}", graph.node(n).loc) })
    };
    let mut ready: BTreeSet<NodeId> = BTreeSet::new();
    for g in groups {
        let inside: BTreeSet<NodeId> = g.nodes().collect();
        for n in g.nodes() {
            for v in graph.operands(n) {
                let v = root(graph, v);
                if graph.op(v.node).is_some() && !inside.contains(&v.node) && !ready.contains(&v.node) {
                    return fail(v.node, "is read before it is computed");
                }
            }
        }
        ready.insert(g.last());
    }
    for (_, v) in graph.outputs() {
        let v = root(graph, *v);
        if graph.op(v.node).is_some() && !ready.contains(&v.node) {
            return fail(v.node, "is an output that nothing computes");
        }
    }
    Ok(groups.len())
}

/// The partition as text: the graph, then one line a group.
pub fn print(graph: &Graph, groups: &[Group]) -> String {
    let mut out = String::new();
    for (i, g) in groups.iter().enumerate() {
        let name = |n: NodeId| {
            let op = graph.op(n).map_or("?", |o| o.name());
            format!("{op} \"{}\"", graph.node(n).loc)
        };
        let _ = write!(out, "group {i}: {}", name(g.anchor));
        for n in &g.epilogue {
            let _ = write!(out, " then {}", name(*n));
        }
        for n in &g.inlined {
            let _ = write!(out, " inlining {}", name(*n));
        }
        out.push('\n');
    }
    out
}

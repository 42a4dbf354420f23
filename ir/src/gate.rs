//! Which branch of which `if` a node belongs to.
//!
//! Both branches of an `if` are ordinary nodes of the graph: nothing but the operands of the `if` says which of them a node
//! is for. A node is *gated* when every use of it is, in the end, for one side of one `if`; then it need not run when the
//! other side is taken. All operators are pure, so running it anyway changes nothing but the time, and errors.

use crate::{Graph, GraphError, NodeId, Op};
use std::collections::{BTreeMap, BTreeSet};

/// One side of one `if`: the node, and whether it is the side taken when the condition is true.
pub type Gate = (NodeId, bool);

/// The gates around something, outermost first.
pub type Path = Vec<Gate>;

/// Finds the paths of values from their uses, last use first.
#[derive(Clone, Debug, Default)]
pub struct Gates {
    paths: BTreeMap<NodeId, Path>,
}

impl Gates {
    /// The paths of all nodes of `graph`, whose nodes are `order` in topological order.
    pub fn of(graph: &Graph, order: &[NodeId]) -> Gates {
        let mut gates = Gates::default();
        graph.outputs().iter().for_each(|(_, v)| gates.used(v.node, &[]));
        for &id in order.iter().rev() {
            let path = gates.path(id);
            for (i, v) in graph.operands(id).into_iter().enumerate() {
                gates.used(v.node, &operand_path(graph, id, i, &path));
            }
        }
        gates
    }

    /// Notes a use of what `node` makes at `path`.
    pub fn used(&mut self, node: NodeId, path: &[Gate]) {
        match self.paths.get_mut(&node) {
            None => {
                self.paths.insert(node, path.to_vec());
            }
            Some(old) => {
                let common = old.iter().zip(path).take_while(|(a, b)| a == b).count();
                old.truncate(common);
            }
        }
    }

    /// The path of `node`, once all its uses are noted.
    pub fn path(&self, node: NodeId) -> Path {
        self.paths.get(&node).cloned().unwrap_or_default()
    }
}

/// The path at which node `id`, itself at `path`, uses its operand `i`.
pub fn operand_path(graph: &Graph, id: NodeId, i: usize, path: &[Gate]) -> Path {
    let mut path = path.to_vec();
    if let Some(Op::Branch(_)) = graph.op(id)
        && i > 0
    {
        path.push((id, i <= graph.node(id).facts.len()));
    }
    path
}

/// The nodes of `graph` in topological order, such that what decides whether a node runs comes before it; and their paths.
pub fn order(graph: &Graph) -> Result<(Vec<NodeId>, Gates), GraphError> {
    let plain = graph.topological()?;
    let is_branch = |id: &NodeId| matches!(graph.op(*id), Some(Op::Branch(_)));
    if !plain.iter().any(is_branch) {
        return Ok((plain, Gates::default()));
    }
    let gates = Gates::of(graph, &plain);
    // Depth first: what a node waits for is its operands and the conditions around it. No condition waits for what it
    // decides about, so this ends.
    let mut order = Vec::with_capacity(plain.len());
    let mut seen: BTreeSet<NodeId> = BTreeSet::new();
    for &root in &plain {
        let mut work = vec![(root, false)];
        while let Some((id, ready)) = work.pop() {
            if ready {
                order.push(id);
            } else if seen.insert(id) {
                work.push((id, true));
                let conditions = gates.path(id).into_iter().map(|(branch, _)| graph.operands(branch)[0].node);
                let mut before: Vec<NodeId> =
                    graph.operands(id).into_iter().map(|v| v.node).chain(conditions).collect();
                before.reverse();
                work.extend(before.into_iter().filter(|n| !seen.contains(n)).map(|n| (n, false)));
            }
        }
    }
    Ok((order, gates))
}

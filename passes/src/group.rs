//! Kernel groups: which operators are computed in one loop nest.
//!
//! Every operator that moves or computes is in one group. A group has an *anchor*; pointwise operators after it that use
//! nothing else's whole result join as its *epilogue* (computed on the value about to be stored). Pointwise and
//! moving operators before a pointwise or moving anchor are *inlined* (computed where they are read) when nobody
//! else wants them. Views belong to no group: they share their operand's buffer.

use crate::PassError;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use tenon_base::DType;
use tenon_ir::lower::wide;
use tenon_ir::{Graph, NodeId, OpClass, Operator, ValueId};
use tenon_kernel::{Expr, Var};

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

/// The uses of `v` and of all views of it, without the views themselves; and whether any of them is an output.
fn real_users(graph: &Graph, v: ValueId) -> (Vec<(NodeId, usize)>, bool) {
    let mut users = vec![];
    let mut is_output = graph.is_output(v);
    for (n, i) in graph.users(v) {
        if graph.op(n).is_some_and(|op| op.class() == OpClass::View) {
            let (more, out) = real_users(graph, ValueId { node: n, port: 0 });
            users.extend(more);
            is_output |= out;
        } else {
            users.push((n, i));
        }
    }
    (users, is_output)
}

fn numel(graph: &Graph, v: ValueId) -> Option<i64> {
    graph.fact(v).shape.numel().as_const()
}

/// The one user of `v`, if it has one and is no output.
fn only_user(graph: &Graph, v: ValueId) -> Option<(NodeId, usize)> {
    match real_users(graph, v) {
        (users, false) if users.len() == 1 => Some(users[0]),
        _ => None,
    }
}

/// Operators inlined into one kernel at most: keeps kernels, and register pressure, bounded.
const MAX_INLINED: usize = 24;
/// How often an inlined operator's expression may be written.
const MAX_TIMES: usize = 8;
/// Operators in an epilogue at most.
const MAX_EPILOGUE: usize = 16;
/// Nodes of an epilogue's expression at most, shared parts counted each time they are written.
const MAX_EXPR: usize = 64;

/// Partitions the graph. Groups come in an order in which they can run.
pub fn group(graph: &Graph) -> Result<Vec<Group>, PassError> {
    let order =
        graph.topological().map_err(|e| PassError::Internal { pass: "group".into(), message: e.to_string() })?;
    let class = |n: NodeId| graph.op(n).map(|op| op.class());
    let position: BTreeMap<NodeId, usize> = order.iter().enumerate().map(|(i, n)| (*n, i)).collect();
    let mut taken: BTreeSet<NodeId> = BTreeSet::new();
    let mut groups: Vec<Group> = vec![];

    // Kernels with an epilogue first: they gain most, a store and a load of every element.
    for &n in order.iter().filter(|n| matches!(class(**n), Some(OpClass::Kernel | OpClass::Control))) {
        let mut g = Group { anchor: n, epilogue: vec![], inlined: BTreeSet::new() };
        taken.insert(n);
        if graph.node(n).facts.len() == 1 && class(n) == Some(OpClass::Kernel) {
            extend_epilogue(graph, &mut g, &taken, &position);
            taken.extend(g.epilogue.iter().copied());
        }
        groups.push(g);
    }
    // What is left, consumers first, so that producers are inlined into the last of a chain.
    for &n in order.iter().rev() {
        if taken.contains(&n) || !matches!(class(n), Some(OpClass::Pointwise | OpClass::Move)) {
            continue;
        }
        let mut g = Group { anchor: n, epilogue: vec![], inlined: BTreeSet::new() };
        taken.insert(n);
        inline_operands(graph, n, 1, &mut g, &mut taken);
        groups.push(g);
    }
    Ok(sort(graph, &position, groups))
}

/// Grows the epilogue as a small DAG, in topological order, and keeps the longest prefix from which one value leaves: the
/// last. So `x·sigmoid(x)` joins whole, and nothing outside can lie between two members.
fn extend_epilogue(graph: &Graph, g: &mut Group, taken: &BTreeSet<NodeId>, position: &BTreeMap<NodeId, usize>) {
    let n = numel(graph, ValueId { node: g.anchor, port: 0 });
    // Expression sizes: a value used twice is written twice.
    let mut size: BTreeMap<NodeId, usize> = BTreeMap::from([(g.anchor, 1)]);
    let mut members = vec![g.anchor];
    let mut keep = 0;
    loop {
        let mut candidates: Vec<NodeId> = vec![];
        let mut escaping = vec![];
        for &m in &members {
            let (users, is_output) = real_users(graph, ValueId { node: m, port: 0 });
            let outside: Vec<NodeId> = users.into_iter().map(|(u, _)| u).filter(|u| !size.contains_key(u)).collect();
            if is_output || !outside.is_empty() {
                escaping.push((m, is_output));
            }
            candidates.extend(outside);
        }
        if let [(only, _)] = escaping[..]
            && Some(&only) == members.last()
        {
            keep = members.len() - 1;
        }
        let Some(&next) = candidates.iter().min_by_key(|u| position.get(u)) else { break };
        let operands = graph.operands(next);
        let cost: usize = written(graph, next)
            .iter()
            .zip(&operands)
            .map(|(times, v)| times * size.get(&root(graph, *v).node).copied().unwrap_or(1))
            .fold(1, usize::saturating_add);
        let joins = graph.op(next).is_some_and(|op| op.class() == OpClass::Pointwise)
            && !taken.contains(&next)
            && numel(graph, ValueId { node: next, port: 0 }) == n
            && members.len() <= MAX_EPILOGUE
            && cost <= MAX_EXPR;
        if !joins {
            break;
        }
        size.insert(next, cost);
        members.push(next);
    }
    g.epilogue = members[1..=keep].to_vec();
}

/// How often the expression of a pointwise operator writes each operand; once for all others.
fn written(graph: &Graph, n: NodeId) -> Vec<usize> {
    let operands = graph.operands(n);
    let ins: Vec<DType> = operands.iter().map(|v| wide(graph.fact(*v).dtype)).collect();
    let args: Vec<Expr> = (0..operands.len() as u32).map(|i| Expr::Var(Var(i))).collect();
    let out = wide(graph.node(n).facts[0].dtype);
    let Some(e) = graph.op(n).and_then(|op| op.scalar(&ins, out, &args)) else { return vec![1; operands.len()] };
    let mut times = vec![0; operands.len()];
    e.visit(&mut |e| {
        if let Expr::Var(v) = e {
            times[v.0 as usize] += 1;
        }
    });
    times
}

/// `times`: how often the expression of `n` is written in the kernel.
fn inline_operands(graph: &Graph, n: NodeId, times: usize, g: &mut Group, taken: &mut BTreeSet<NodeId>) {
    let here = numel(graph, ValueId { node: n, port: 0 });
    for (operand, per) in graph.operands(n).into_iter().zip(written(graph, n)) {
        let v = root(graph, operand);
        let times = times * per;
        let Some(op) = graph.op(v.node) else { continue };
        let movable = matches!(op.class(), OpClass::Pointwise | OpClass::Move);
        // A value that is read more often than it has elements would be computed again each time.
        let once = numel(graph, v).zip(here).is_some_and(|(a, b)| a >= b);
        if !movable
            || !once
            || taken.contains(&v.node)
            || g.inlined.len() >= MAX_INLINED
            || times > MAX_TIMES
            || only_user(graph, v).is_none()
        {
            continue;
        }
        taken.insert(v.node);
        g.inlined.insert(v.node);
        inline_operands(graph, v.node, times, g, taken);
    }
}

/// Orders groups so that each comes after those it reads from.
fn sort(graph: &Graph, position: &BTreeMap<NodeId, usize>, groups: Vec<Group>) -> Vec<Group> {
    // A group may run once all its operands exist: at the position of its last node in the topological order.
    let mut keyed: Vec<(usize, Group)> = groups
        .into_iter()
        .map(|g| (g.nodes().filter_map(|n| position.get(&n).copied()).max().unwrap_or(0), g))
        .collect();
    keyed.sort_by_key(|(p, g)| (*p, g.anchor));
    debug_assert!(keyed.iter().all(|(_, g)| g.nodes().all(|n| graph.op(n).is_some())));
    keyed.into_iter().map(|(_, g)| g).collect()
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

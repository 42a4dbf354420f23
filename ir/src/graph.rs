//! The graph: SSA values between operators, over petgraph, which stays inside this module.

use crate::op::InferError;
use crate::{Op, Operator};
use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::{EdgeRef, NodeIndexable};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use tenon_base::{Fact, Loc, Tensor};

/// A node of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);

/// A value: an output of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId {
    /// Who makes it.
    pub node: NodeId,
    /// Which of its outputs.
    pub port: u16,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeKind {
    /// An input of the model, named.
    Input(String),
    /// Constant data, with the name the model gave it (may be empty).
    Weight(String, Tensor),
    /// An operator.
    Op(Op),
}

/// A node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Facts of its outputs.
    pub facts: Vec<Fact>,
    /// Where it came from.
    pub loc: Loc,
}

/// An operand: which output of the producer, and which operand of the user. petgraph's edges are unordered, so the
/// order lives here.
#[derive(Clone, Copy, Debug)]
struct Edge {
    port: u16,
    operand: u32,
}

/// A graph that would be ill formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GraphError {
    /// The operator cannot take its operands.
    Infer(InferError),
    /// A rewrite would change the fact of a value that is used.
    FactChanged {
        /// The value to be replaced.
        old: Fact,
        /// Its replacement.
        new: Fact,
    },
    /// The graph has a cycle through this node.
    Cycle(Loc),
}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GraphError::Infer(e) => e.fmt(f),
            GraphError::FactChanged { old, new } => write!(f, "a {old} would be replaced by a {new}"),
            GraphError::Cycle(loc) => write!(f, "the graph has a cycle through {loc}"),
        }
    }
}
impl std::error::Error for GraphError {}
impl From<InferError> for GraphError {
    fn from(e: InferError) -> Self {
        GraphError::Infer(e)
    }
}

/// A graph of operators.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// The model's name.
    pub name: String,
    inner: StableDiGraph<Node, Edge, u32>,
    inputs: Vec<NodeId>,
    outputs: Vec<(String, ValueId)>,
    /// Outputs whose actual extents another output tells.
    sized: BTreeMap<usize, usize>,
    /// Of evaluating constants: what may still be spent.
    effort: Effort,
}

/// What may be spent on evaluating constants of one graph, in elements: see [`crate::effort::effort`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Effort {
    left: u64,
    refused: bool,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort { left: Graph::FREE_EFFORT, refused: false }
    }
}

impl Graph {
    /// What every graph may spend on evaluating constants, in elements; [`Graph::allow_effort`] adds to it. Less than a second.
    pub const FREE_EFFORT: u64 = 1 << 24;

    /// Takes `effort` (see [`crate::effort::effort`]) from what may be spent on evaluating constants. `false`: it is more than is
    /// left, and nothing is taken. Importer and passes share one budget, which follows the graph, so that no model makes the
    /// compiler compute for long.
    pub fn spend_effort(&mut self, effort: u64) -> bool {
        let left = self.effort.left.checked_sub(effort);
        self.effort.refused |= left.is_none();
        self.effort.left = left.unwrap_or(self.effort.left);
        left.is_some()
    }

    /// Adds to what may be spent: what is in proportion to the model's own data is no hostile demand.
    pub fn allow_effort(&mut self, more: u64) {
        self.effort.left = self.effort.left.saturating_add(more);
    }

    /// Whether [`Graph::spend_effort`] has refused something.
    pub fn effort_refused(&self) -> bool {
        self.effort.refused
    }

    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    fn add(&mut self, node: Node, operands: &[ValueId]) -> NodeId {
        let id = self.inner.add_node(node);
        for (i, v) in operands.iter().enumerate() {
            self.inner.add_edge(NodeIndex::new(v.node.0 as usize), id, Edge { port: v.port, operand: i as u32 });
        }
        NodeId(id.index() as u32)
    }

    /// Adds an input of the model.
    pub fn add_input(&mut self, name: impl Into<String>, fact: Fact) -> ValueId {
        let name = name.into();
        let id = self.add(Node { loc: Loc::none(), kind: NodeKind::Input(name), facts: vec![fact] }, &[]);
        self.inputs.push(id);
        ValueId { node: id, port: 0 }
    }

    /// Adds constant data.
    pub fn add_weight(&mut self, name: impl Into<String>, tensor: Tensor) -> ValueId {
        let facts = vec![tensor.fact()];
        let id = self.add(Node { kind: NodeKind::Weight(name.into(), tensor), facts, loc: Loc::none() }, &[]);
        ValueId { node: id, port: 0 }
    }

    /// Adds an operator; its facts are inferred. Gives one value an output.
    pub fn add_op(&mut self, op: impl Into<Op>, operands: &[ValueId], loc: Loc) -> Result<Vec<ValueId>, InferError> {
        let op = op.into();
        let ins: Vec<Fact> = operands.iter().map(|v| self.fact(*v).clone()).collect();
        let facts = op.infer(&ins)?;
        let n = facts.len() as u16;
        let node = self.add(Node { kind: NodeKind::Op(op), facts, loc }, operands);
        Ok((0..n).map(|port| ValueId { node, port }).collect())
    }

    /// Declares `value` an output of the model.
    pub fn add_output(&mut self, name: impl Into<String>, value: ValueId) {
        self.outputs.push((name.into(), value));
    }

    /// Declares that output `k` has as many elements along each axis as output `sizes`, a vector of i64, tells: its own shape is the
    /// largest. Both are positions among the outputs.
    pub fn size_output(&mut self, k: usize, sizes: usize) {
        self.sized.insert(k, sizes);
    }

    /// Outputs whose extents are known only at run time, and the outputs that tell them.
    pub fn sized(&self) -> &BTreeMap<usize, usize> {
        &self.sized
    }

    /// Inputs, in the model's order.
    pub fn inputs(&self) -> &[NodeId] {
        &self.inputs
    }

    /// Outputs, in the model's order.
    pub fn outputs(&self) -> &[(String, ValueId)] {
        &self.outputs
    }

    /// The node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.inner[NodeIndex::new(id.0 as usize)]
    }

    /// Changes where a node says it came from.
    pub fn set_loc(&mut self, id: NodeId, loc: Loc) {
        self.inner[NodeIndex::new(id.0 as usize)].loc = loc;
    }

    /// Whether `v` is a value of this graph: nodes may have been removed.
    pub fn contains(&self, v: ValueId) -> bool {
        self.inner.node_weight(NodeIndex::new(v.node.0 as usize)).is_some_and(|n| usize::from(v.port) < n.facts.len())
    }

    /// The type of a value.
    pub fn fact(&self, v: ValueId) -> &Fact {
        &self.node(v.node).facts[v.port as usize]
    }

    /// The operator that makes `v`, if one does.
    pub fn op(&self, id: NodeId) -> Option<&Op> {
        match &self.node(id).kind {
            NodeKind::Op(op) => Some(op),
            _ => None,
        }
    }

    /// The data of `v`, if it is constant.
    pub fn weight(&self, v: ValueId) -> Option<&Tensor> {
        match &self.node(v.node).kind {
            NodeKind::Weight(_, t) => Some(t),
            _ => None,
        }
    }

    /// Operands of a node, in order.
    pub fn operands(&self, id: NodeId) -> Vec<ValueId> {
        self.operand_edges(id).into_iter().map(|(_, v)| v).collect()
    }

    /// Operands of a node with their positions, in order.
    pub(crate) fn operand_edges(&self, id: NodeId) -> Vec<(u32, ValueId)> {
        let mut all: Vec<(u32, ValueId)> = self
            .inner
            .edges_directed(NodeIndex::new(id.0 as usize), Direction::Incoming)
            .map(|e| {
                let w = e.weight();
                (w.operand, ValueId { node: NodeId(e.source().index() as u32), port: w.port })
            })
            .collect();
        all.sort_unstable_by_key(|(i, _)| *i);
        all
    }

    /// Who uses `v`: node and operand position, in ascending order. Does not include the graph's outputs.
    pub fn users(&self, v: ValueId) -> Vec<(NodeId, usize)> {
        let mut all: Vec<(NodeId, usize)> = self
            .inner
            .edges_directed(NodeIndex::new(v.node.0 as usize), Direction::Outgoing)
            .filter(|e| e.weight().port == v.port)
            .map(|e| (NodeId(e.target().index() as u32), e.weight().operand as usize))
            .collect();
        all.sort_unstable();
        all
    }

    /// Whether `v` is an output of the model.
    pub fn is_output(&self, v: ValueId) -> bool {
        self.outputs.iter().any(|(_, o)| *o == v)
    }

    /// Uses of `v`, outputs of the model included.
    pub fn use_count(&self, v: ValueId) -> usize {
        self.users(v).len() + self.outputs.iter().filter(|(_, o)| *o == v).count()
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.inner.node_count()
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All nodes in ascending order of id.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.inner.node_indices().map(|i| NodeId(i.index() as u32))
    }

    /// Makes every user of `old`, the model's outputs included, use `new`, which must have the same fact.
    pub fn replace(&mut self, old: ValueId, new: ValueId) -> Result<(), GraphError> {
        if old == new {
            return Ok(());
        }
        if self.fact(old) != self.fact(new) {
            return Err(GraphError::FactChanged { old: self.fact(old).clone(), new: self.fact(new).clone() });
        }
        for (user, operand) in self.users(old) {
            self.set_operand(user, operand, new);
        }
        for (_, o) in &mut self.outputs {
            if *o == old {
                *o = new;
            }
        }
        Ok(())
    }

    /// Makes one operand of `user` another value of the same fact; facts are not inferred again.
    pub fn set_operand(&mut self, user: NodeId, operand: usize, value: ValueId) {
        let target = NodeIndex::new(user.0 as usize);
        let old = self
            .inner
            .edges_directed(target, Direction::Incoming)
            .find(|e| e.weight().operand as usize == operand)
            .map(|e| e.id());
        if let Some(e) = old {
            self.inner.remove_edge(e);
        }
        let weight = Edge { port: value.port, operand: operand as u32 };
        self.inner.add_edge(NodeIndex::new(value.node.0 as usize), target, weight);
    }

    /// Makes the operator of `id` another one, which must give the same facts for its operands.
    pub fn set_op(&mut self, id: NodeId, op: impl Into<Op>) -> Result<(), GraphError> {
        let op = op.into();
        let ins: Vec<Fact> = self.operands(id).into_iter().map(|v| self.fact(v).clone()).collect();
        for (old, new) in self.node(id).facts.iter().zip(op.infer(&ins)?) {
            if *old != new {
                return Err(GraphError::FactChanged { old: old.clone(), new });
            }
        }
        self.inner[NodeIndex::new(id.0 as usize)].kind = NodeKind::Op(op);
        Ok(())
    }

    /// Removes every node that no output depends on; inputs stay. Gives how many were removed.
    pub fn remove_dead(&mut self) -> usize {
        let mut live = vec![false; self.inner.node_bound()];
        let mut work: Vec<NodeId> = self.outputs.iter().map(|(_, v)| v.node).collect();
        while let Some(n) = work.pop() {
            if !std::mem::replace(&mut live[n.0 as usize], true) {
                work.extend(self.producers(n));
            }
        }
        self.inputs.iter().for_each(|n| live[n.0 as usize] = true);
        let before = self.len();
        self.inner.retain_nodes(|_, i| live[i.index()]);
        before - self.len()
    }

    /// The nodes whose values `n` takes, once for each.
    fn producers(&self, n: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let edges = self.inner.edges_directed(NodeIndex::new(n.0 as usize), Direction::Incoming);
        edges.map(|e| NodeId(e.source().index() as u32))
    }

    /// Nodes in an order in which operands come first: deterministic, close to insertion order.
    pub fn topological(&self) -> Result<Vec<NodeId>, GraphError> {
        let mut missing = vec![0usize; self.inner.node_bound()];
        // The lowest first.
        let mut ready = BinaryHeap::new();
        for n in self.nodes() {
            let count = self.producers(n).count();
            missing[n.0 as usize] = count;
            if count == 0 {
                ready.push(Reverse(n));
            }
        }
        let mut order = Vec::with_capacity(self.len());
        while let Some(Reverse(n)) = ready.pop() {
            order.push(n);
            for e in self.inner.edges_directed(NodeIndex::new(n.0 as usize), Direction::Outgoing) {
                let left = &mut missing[e.target().index()];
                *left -= 1;
                if *left == 0 {
                    ready.push(Reverse(NodeId(e.target().index() as u32)));
                }
            }
        }
        if order.len() == self.len() {
            return Ok(order);
        }
        let stuck = self.nodes().find(|n| missing[n.0 as usize] > 0);
        Err(GraphError::Cycle(stuck.map_or_else(Loc::none, |n| self.node(n).loc.clone())))
    }
}

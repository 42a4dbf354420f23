//! The choice as a graph, and the groups of its nodes that are one kernel each.

use super::cover::{At, Cone, Cut, Known};
use super::node::Head;
use super::space::{Arg, Part, Space};
use crate::group::Group;
use egg::Id;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use tenon_base::Tensor;
use tenon_ir::{Graph, NodeKind, ValueId};

/// A kernel that was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// The class it makes.
    pub class: u32,
    /// Its cut.
    pub cut: Cut,
    /// Position among the class's cuts.
    pub tag: u32,
}

/// A graph with its kernels.
#[derive(Clone, Debug)]
pub struct Emitted {
    /// The graph.
    pub graph: Graph,
    /// Groups in an order in which they can run.
    pub groups: Vec<Group>,
    /// The choice behind each group.
    pub chosen: Vec<Chosen>,
}

/// The graph that `choice` (a cut a class) makes, with the inputs and outputs of `model`.
///
/// # Errors
/// A constant that cannot be computed, or a choice that is none: bugs.
pub fn emit(
    space: &Space<'_>,
    choice: &dyn Fn(u32) -> Option<(u32, Cut)>,
    model: &Graph,
    roots: &[Id],
) -> Result<Emitted, String> {
    let mut e = Emitter {
        space,
        graph: Graph::new(model.name.clone()),
        inputs: vec![],
        constants: BTreeMap::new(),
        tensors: space.eg.analysis.constants.clone(),
        nodes: BTreeMap::new(),
        made: BTreeMap::new(),
        groups: vec![],
        chosen: vec![],
    };
    for &id in model.inputs() {
        let NodeKind::Input(name) = &model.node(id).kind else { return Err("an input that is none".into()) };
        let v = e.graph.add_input(name.clone(), model.fact(ValueId { node: id, port: 0 }).clone());
        e.inputs.push(v);
    }
    for (class, tag, cut) in ordered(space, choice)? {
        e.kernel(class, tag, cut)?;
    }
    for ((name, _), root) in model.outputs().iter().zip(roots) {
        let v = match space.index.get(&space.eg.find(*root)) {
            Some(c) => *e.made.get(c).ok_or("an output is not made")?,
            None => e.constant(space.eg[space.eg.find(*root)].data.constant.ok_or("an output is not made")?)?,
        };
        e.graph.add_output(name.clone(), v);
    }
    for (k, by) in model.sized() {
        e.graph.size_output(*k, *by);
    }
    Ok(Emitted { graph: e.graph, groups: e.groups, chosen: e.chosen })
}

/// The chosen cuts, leaves before those that read them, otherwise in the order of the model.
fn ordered(space: &Space<'_>, choice: &dyn Fn(u32) -> Option<(u32, Cut)>) -> Result<Vec<(u32, u32, Cut)>, String> {
    let mut cuts: BTreeMap<u32, (u32, Cut)> = BTreeMap::new();
    let mut stack = space.roots.clone();
    while let Some(c) = stack.pop() {
        if let Entry::Vacant(new) = cuts.entry(c) {
            let (tag, cut) = choice(c).ok_or("a value is not made")?;
            stack.extend(&cut.leaves);
            new.insert((tag, cut));
        }
    }
    let mut missing: BTreeMap<u32, usize> = cuts.iter().map(|(c, (_, k))| (*c, k.leaves.len())).collect();
    let mut users: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (c, (_, k)) in &cuts {
        k.leaves.iter().for_each(|l| users.entry(*l).or_default().push(*c));
    }
    let t = &space.eg.analysis;
    // The last of the model's nodes in a kernel says when it ran there.
    let key = |c: u32| {
        let of = |at: &At| Some(t.last(space.item(*at).origin.places)).filter(|p| *p != u32::MAX);
        (cuts[&c].1.nodes.iter().filter_map(of).max().unwrap_or(0), c)
    };
    let mut ready: BTreeSet<(u32, u32)> = missing.iter().filter(|(_, n)| **n == 0).map(|(c, _)| key(*c)).collect();
    let mut order = vec![];
    while let Some((_, c)) = ready.pop_first() {
        order.push((c, cuts[&c].0, cuts[&c].1.clone()));
        for u in users.get(&c).into_iter().flatten() {
            if let Some(n) = missing.get_mut(u) {
                *n -= 1;
                if *n == 0 {
                    ready.insert(key(*u));
                }
            }
        }
    }
    if order.len() == cuts.len() { Ok(order) } else { Err("the choice needs itself".into()) }
}

struct Emitter<'s, 'e> {
    space: &'s Space<'e>,
    graph: Graph,
    inputs: Vec<ValueId>,
    constants: BTreeMap<super::constants::ConstId, ValueId>,
    tensors: super::constants::Constants,
    /// Nodes made so far: what two kernels compute alike is one node of the graph, in both groups.
    nodes: BTreeMap<(super::node::OpId, Vec<ValueId>), Vec<ValueId>>,
    /// The value of each class that is made.
    made: BTreeMap<u32, ValueId>,
    groups: Vec<Group>,
    chosen: Vec<Chosen>,
}

impl Emitter<'_, '_> {
    fn constant(&mut self, c: super::constants::ConstId) -> Result<ValueId, String> {
        if let Some(v) = self.constants.get(&c) {
            return Ok(*v);
        }
        let t: Tensor = self.tensors.materialize(c)?;
        let name = self.tensors.name(c).to_string();
        let v = self.graph.add_weight(name, t);
        self.constants.insert(c, v);
        Ok(v)
    }

    fn kernel(&mut self, class: u32, tag: u32, cut: Cut) -> Result<(), String> {
        let cone = Cone::new(self.space, class, &cut.nodes).ok_or("a cone needs itself")?;
        let shape = cone.shape(&Known::default()).ok_or("a cone is no kernel")?;
        let mut values: BTreeMap<u32, ValueId> = BTreeMap::new();
        // Operands first.
        for at in cone.order.iter().rev() {
            let item = self.space.item(*at);
            let mut operands = vec![];
            for a in &item.args {
                operands.push(match a {
                    Arg::Const(c) => self.constant(*c)?,
                    Arg::Class(c) => *values.get(c).or_else(|| self.made.get(c)).ok_or("an operand is not made")?,
                });
            }
            let v = match item.node.head {
                Head::Input(i) => self.inputs[i as usize],
                Head::Port(p) => ValueId { node: operands.first().ok_or("a result of nothing")?.node, port: p },
                Head::Const(c) => self.constant(c)?,
                Head::Op(_, op) => self.operator(op, &operands, *at)?[0],
            };
            values.insert(at.0, v);
        }
        self.made.insert(class, values[&class]);
        if cut.is_free() {
            return Ok(());
        }
        let node = |at: &At| values[&at.0].node;
        let moves = |at: &&At| self.space.item(**at).part != Part::View;
        let anchor = match shape.anchor {
            Some(a) => a,
            // Without an anchor the last operator that is no view shapes the loops.
            None => *cone.order.iter().find(moves).ok_or("nothing to compute")?,
        };
        let mut group = Group { anchor: node(&anchor), epilogue: vec![], inlined: BTreeSet::new() };
        for (at, after) in cone.order.iter().zip(&shape.after).rev().filter(|(at, _)| moves(at) && **at != anchor) {
            if *after {
                group.epilogue.push(node(at));
            } else {
                group.inlined.insert(node(at));
            }
        }
        self.groups.push(group);
        self.chosen.push(Chosen { class, cut, tag });
        Ok(())
    }

    fn operator(&mut self, op: super::node::OpId, operands: &[ValueId], at: At) -> Result<Vec<ValueId>, String> {
        let key = (op, operands.to_vec());
        if let Some(v) = self.nodes.get(&key) {
            return Ok(v.clone());
        }
        let t = &self.space.eg.analysis;
        let loc = t.loc(self.space.item(at).origin.places);
        let v = self.graph.add_op(t.op(op).clone(), operands, loc).map_err(|e| e.message)?;
        self.nodes.insert(key, v.clone());
        Ok(v)
    }
}

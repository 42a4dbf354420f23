//! The saturated e-graph as the cover sees it: the classes that outputs depend on, numbered, without constants.

use super::constants::ConstId;
use super::cost::bytes;
use super::node::{Egraph, Head, Node, OpId, Origin};
use egg::Id;
use std::collections::BTreeMap;
use tenon_base::{DType, Fact};
use tenon_ir::lower::pointwise_value;
use tenon_ir::{Op, OpClass, Operator};
use tenon_kernel::{Expr, Var};

/// How a node can be part of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// An input of the model, or one of several results: nothing to compute.
    Free,
    /// Shares its operand's buffer.
    View,
    /// Elementwise.
    Pointwise,
    /// Elements from elsewhere.
    Move,
    /// Shapes a loop nest of its own.
    Anchor,
    /// A branch or a loop: a step of the program, with which nothing fuses.
    Control,
}

/// An operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// A class of the space.
    Class(u32),
    /// Constant.
    Const(ConstId),
}

/// A node of a class.
#[derive(Clone, Debug)]
pub struct Item {
    /// As in the e-graph.
    pub node: Node,
    /// Its operator, if it is one.
    pub op: Option<OpId>,
    /// How it can be part of a kernel.
    pub part: Part,
    /// Operands.
    pub args: Vec<Arg>,
    /// How often the expression of a pointwise operator writes each operand.
    pub written: Vec<usize>,
    /// Bytes of each operand.
    pub read: Vec<f64>,
    /// Who made it.
    pub origin: Origin,
}

/// A class.
#[derive(Clone, Debug)]
pub struct Class {
    /// In the e-graph.
    pub id: Id,
    /// Facts of its results: one, but for operators with several.
    pub facts: Vec<Fact>,
    /// Elements of the first result.
    pub len: usize,
    /// Bytes of all results.
    pub bytes: f64,
    /// Its nodes.
    pub items: Vec<Item>,
}

/// All classes that outputs depend on.
#[derive(Clone, Debug)]
pub struct Space<'e> {
    /// The e-graph.
    pub eg: &'e Egraph,
    /// Classes; outputs are not constant ones.
    pub classes: Vec<Class>,
    /// Number of a class of the e-graph.
    pub index: BTreeMap<Id, u32>,
    /// Classes of the outputs that are not constant.
    pub roots: Vec<u32>,
}

impl<'e> Space<'e> {
    /// The space below `roots`.
    pub fn new(eg: &'e Egraph, roots: &[Id]) -> Space<'e> {
        let constant = |id: Id| eg[id].data.constant;
        let origins = origins(eg);
        let mut index: BTreeMap<Id, u32> = BTreeMap::new();
        let mut order: Vec<Id> = vec![];
        let mut stack: Vec<Id> = roots.iter().rev().map(|r| eg.find(*r)).collect();
        while let Some(id) = stack.pop() {
            if constant(id).is_some() || index.contains_key(&id) {
                continue;
            }
            index.insert(id, order.len() as u32);
            order.push(id);
            for n in &eg[id].nodes {
                stack.extend(n.args.iter().map(|a| eg.find(*a)));
            }
        }
        let arg = |a: &Id| {
            let a = eg.find(*a);
            constant(a).map_or_else(|| Arg::Class(index[&a]), Arg::Const)
        };
        let mut classes: Vec<Class> = order
            .iter()
            .map(|&id| {
                let facts = eg.analysis.facts(eg[id].data.ty).to_vec();
                let len = facts.first().and_then(Fact::dims).map_or(0, |d| d.iter().product());
                let items = eg[id].nodes.iter().map(|n| Item {
                    node: n.clone(),
                    op: if let Head::Op(_, op) = n.head { Some(op) } else { None },
                    part: part(eg, n, &facts),
                    args: n.args.iter().map(arg).collect(),
                    written: written(eg, n, &facts),
                    read: vec![],
                    origin: origins.get(n).copied().unwrap_or_else(|| eg.analysis.origin(id)),
                });
                let mut items: Vec<Item> = items.collect();
                // The importer's nodes first: at equal prices the model stays as it is.
                items.sort_by_key(|i| (i.origin.rule.is_some(), i.origin.rule));
                let bytes = facts.iter().map(bytes).sum();
                Class { id, facts, len, bytes, items }
            })
            .collect();
        let results: Vec<f64> = classes.iter().map(|c| c.facts.first().map_or(0.0, bytes)).collect();
        for item in classes.iter_mut().flat_map(|c| &mut c.items) {
            let size = |a: &Arg| match a {
                Arg::Class(c) => results[*c as usize],
                Arg::Const(c) => bytes(&eg.analysis.constants.fact(*c)),
            };
            item.read = item.args.iter().map(size).collect();
        }
        let roots = roots.iter().filter_map(|r| index.get(&eg.find(*r)).copied()).collect();
        Space { eg, classes, index, roots }
    }

    /// The node.
    pub fn item(&self, (class, item): (u32, u32)) -> &Item {
        &self.classes[class as usize].items[item as usize]
    }

    /// Its operator.
    pub fn op(&self, at: (u32, u32)) -> Option<&'e Op> {
        self.item(at).op.map(|o| self.eg.analysis.op(o))
    }

    /// The fact of an operand.
    pub fn arg_fact(&self, a: Arg) -> Fact {
        match a {
            Arg::Class(c) => self.classes[c as usize].facts.first().cloned().unwrap_or(Fact::of(DType::F32, &[])),
            Arg::Const(c) => self.eg.analysis.constants.fact(c),
        }
    }
}

/// Who made each node first, by its present operands.
fn origins(eg: &Egraph) -> BTreeMap<Node, Origin> {
    let mut all = BTreeMap::new();
    for (i, n) in eg.nodes().iter().enumerate() {
        let mut n = n.clone();
        n.args.iter_mut().for_each(|a| *a = eg.find(*a));
        all.entry(n).or_insert_with(|| eg.analysis.origin(Id::from(i)));
    }
    all
}

fn part(eg: &Egraph, n: &Node, facts: &[Fact]) -> Part {
    let Head::Op(_, op) = n.head else { return Part::Free };
    match eg.analysis.op(op).class() {
        OpClass::Control => Part::Control,
        _ if facts.len() != 1 => Part::Anchor,
        OpClass::View => Part::View,
        OpClass::Pointwise => Part::Pointwise,
        OpClass::Move => Part::Move,
        OpClass::Kernel => Part::Anchor,
    }
}

fn written(eg: &Egraph, n: &Node, facts: &[Fact]) -> Vec<usize> {
    let once = vec![1; n.args.len()];
    let Head::Op(_, op) = n.head else { return once };
    let op = eg.analysis.op(op);
    if op.class() != OpClass::Pointwise || facts.len() != 1 {
        return once;
    }
    let dtype = |a: &Id| eg.analysis.facts(eg[eg.find(*a)].data.ty).first().map_or(DType::F32, |f| f.dtype);
    let ins: Vec<DType> = n.args.iter().map(dtype).collect();
    let args: Vec<Expr> = (0..ins.len() as u32).map(|i| Expr::Var(Var(i))).collect();
    // Rounding to a type that is only stored takes many steps, each of which has the value.
    let Some(e) = pointwise_value(op, &ins, facts[0].dtype, args) else { return once };
    let mut times = vec![0; ins.len()];
    e.visit(&mut |e| {
        if let Expr::Var(v) = e {
            times[v.0 as usize] += 1;
        }
    });
    times
}

//! Matches of patterns in the e-graph, and what a rule may do with them.

use super::node::{Egraph, Facts, Head, Node, OpId, add, add_data, fact, uniform};
use super::rules::Why;
use crate::rule::pattern::{Names, Need, OpTerm, Pattern, Term};
use egg::Id;
use smallvec::{SmallVec, smallvec};
use std::rc::Rc;
use tenon_base::{DType, Fact, Scalar, Shape, Tensor};
use tenon_ir::{Attr, Op, Operator};

/// What a pattern found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    names: Rc<Names>,
    /// The class of the pattern's root.
    pub root: Id,
    values: SmallVec<[Option<Id>; 8]>,
    ops: SmallVec<[Option<OpId>; 4]>,
    lists: SmallVec<[Vec<Id>; 1]>,
    bound_lists: u32,
    /// Classes of the operators matched, root first.
    pub inner: SmallVec<[Id; 8]>,
}

impl Match {
    /// The class bound to variable `name`; the root if there is none (a bug of the rule, which its test shows).
    pub fn value(&self, name: &str) -> Id {
        let i = self.names.values.iter().position(|n| n == name);
        i.and_then(|i| self.values[i]).unwrap_or(self.root)
    }

    /// The operator bound as `name`.
    pub fn op(&self, name: &str) -> Option<OpId> {
        self.ops[self.names.ops.iter().position(|n| n == name)?]
    }

    /// The operands bound as `..name`.
    pub fn list(&self, name: &str) -> &[Id] {
        self.names.lists.iter().position(|n| n == name).map_or(&[], |i| &self.lists[i])
    }

    /// The same by the present names of classes.
    pub fn canonical(mut self, eg: &Egraph) -> Match {
        self.root = eg.find(self.root);
        self.values.iter_mut().flatten().for_each(|v| *v = eg.find(*v));
        self.lists.iter_mut().flatten().for_each(|v| *v = eg.find(*v));
        self.inner.iter_mut().for_each(|v| *v = eg.find(*v));
        self
    }

    /// What tells it from other matches of the same rule.
    pub fn key(&self) -> Vec<Id> {
        let mut all = vec![self.root];
        all.extend(self.values.iter().flatten());
        all.extend(self.lists.iter().flatten());
        all.extend(self.inner.iter());
        // Operators of one class on the same operands may still differ in their attributes.
        all.extend(self.ops.iter().flatten().map(|o| Id::from(o.index())));
        all
    }
}

/// All matches of `pattern` at class `root`, at most `most`.
pub fn matches(eg: &Egraph, pattern: &Pattern, names: &Rc<Names>, root: Id, most: usize) -> Vec<Match> {
    let blank = Match {
        names: names.clone(),
        root,
        values: smallvec![None; names.values.len()],
        ops: smallvec![None; names.ops.len()],
        lists: smallvec![vec![]; names.lists.len()],
        bound_lists: 0,
        inner: smallvec![],
    };
    let mut out = vec![];
    search(eg, vec![(&pattern.root, root)], blank, most, &mut out);
    out
}

/// Works off goals, last first, trying every node of a class.
fn search(eg: &Egraph, mut goals: Vec<(&Term, Id)>, mut m: Match, most: usize, out: &mut Vec<Match>) {
    loop {
        if out.len() >= most {
            return;
        }
        let Some((term, class)) = goals.pop() else {
            out.push(m);
            return;
        };
        match term {
            Term::Number(v) => {
                if !is_number(eg, class, *v) {
                    return;
                }
            }
            Term::Var(slot, need) => {
                let data: &Facts = &eg[class].data;
                let fits = match need {
                    Need::Any => true,
                    Need::Constant => data.constant.is_some(),
                    Need::Uniform => data.constant.is_some_and(|c| eg.analysis.constants.uniform(c).is_some()),
                };
                if !fits || m.values[*slot].is_some_and(|old| old != class) {
                    return;
                }
                m.values[*slot] = Some(class);
            }
            Term::Op(o) => {
                for node in &eg[class].nodes {
                    let Head::Op(_, op) = node.head else { continue };
                    if !takes(o, node, op, &m) {
                        continue;
                    }
                    let orders: &[[usize; 2]] = if o.commutes { &[[0, 1], [1, 0]] } else { &[[0, 1]] };
                    let operand = |i: usize, order: &[usize; 2]| {
                        let at = if o.commutes && i < 2 { order[i] } else { i };
                        eg.find(node.args[at])
                    };
                    // Most operators have operands of another kind: that is seen before anything is copied.
                    let fits = |order: &&[usize; 2]| {
                        o.args.iter().enumerate().all(|(i, arg)| may_match(eg, arg, operand(i, order)))
                    };
                    if !orders.iter().any(|order| fits(&order)) || !spelt(eg, o, op) {
                        continue;
                    }
                    let mut next = m.clone();
                    next.inner.push(class);
                    if let Some(s) = o.slot {
                        next.ops[s] = Some(op);
                    }
                    if let Some(s) = o.rest {
                        let rest: Vec<Id> = node.args[o.args.len()..].iter().map(|a| eg.find(*a)).collect();
                        if next.bound_lists & (1 << s) != 0 && next.lists[s] != rest {
                            continue;
                        }
                        next.bound_lists |= 1 << s;
                        next.lists[s] = rest;
                    }
                    for order in orders.iter().filter(fits) {
                        let mut goals = goals.clone();
                        goals.extend(o.args.iter().enumerate().rev().map(|(i, arg)| (arg, operand(i, order))));
                        search(eg, goals, next.clone(), most, out);
                    }
                }
                return;
            }
        }
    }
}

/// Whether `term` can match at `class`, as far as the class alone says.
fn may_match(eg: &Egraph, term: &Term, class: Id) -> bool {
    match term {
        Term::Number(v) => is_number(eg, class, *v),
        Term::Var(_, Need::Any) => true,
        Term::Var(_, Need::Constant | Need::Uniform) => eg[class].data.constant.is_some(),
        Term::Op(o) => o
            .name
            .is_none_or(|name| eg[class].nodes.iter().any(|n| matches!(n.head, Head::Op(found, _) if found == name))),
    }
}

/// Whether one of the attributes is the word that the pattern spells. They are made for the question, so it is asked last.
fn spelt(eg: &Egraph, o: &OpTerm, op: OpId) -> bool {
    let is = |w: &String| eg.analysis.op(op).attrs().0.values().any(|a| matches!(a, Attr::Str(s) if s == w));
    o.word.as_ref().is_none_or(is)
}

fn takes(o: &OpTerm, node: &Node, op: OpId, m: &Match) -> bool {
    let Head::Op(name, _) = node.head else { return false };
    let count = match o.rest {
        Some(_) => node.args.len() >= o.args.len(),
        None => node.args.len() == o.args.len(),
    };
    o.name.is_none_or(|n| n == name) && count && o.slot.is_none_or(|s| m.ops[s].is_none_or(|old| old == op))
}

/// Whether the class is a constant of `v` all over, as its dtype rounds it. Exporters also write numbers such as √2 with few
/// digits: where `v` itself is not exact in the dtype, a few units in the last place are forgiven.
fn is_number(eg: &Egraph, class: Id, v: f64) -> bool {
    let (Some(found), Some(fact)) = (uniform(eg, class), fact(eg, class)) else { return false };
    let rounded = Scalar::of_f64(fact.dtype, v).as_f64();
    let epsilon = match fact.dtype {
        DType::F16 => 1e-3,
        DType::F32 => 2.4e-7,
        _ => 4.5e-16,
    };
    let exact = rounded == v;
    found == rounded || (!exact && fact.dtype.is_float() && (found - v).abs() <= 2.0 * epsilon * v.abs())
}

/// What a rule sees and adds to.
#[derive(Debug)]
pub struct Cx<'e> {
    /// The e-graph.
    pub eg: &'e mut Egraph,
}

impl Cx<'_> {
    /// The operator of a handle.
    pub fn op(&self, id: OpId) -> &Op {
        self.eg.analysis.op(id)
    }

    /// The dtype of a class.
    pub fn dtype(&self, id: Id) -> Result<DType, Why> {
        Ok(self.fact(id)?.dtype)
    }

    /// Dtype and shape of a class.
    pub fn fact(&self, id: Id) -> Result<&Fact, Why> {
        fact(self.eg, id).ok_or_else(|| Why::new("not one value"))
    }

    /// Extents of a class.
    pub fn dims(&self, id: Id) -> Result<Vec<usize>, Why> {
        self.fact(id)?.dims().ok_or_else(|| Why::new("an extent is not known"))
    }

    /// The number of elements of a class.
    pub fn len(&self, id: Id) -> Result<usize, Why> {
        Ok(self.dims(id)?.iter().product())
    }

    /// Whether a class is constant.
    pub fn is_constant(&self, id: Id) -> bool {
        self.eg[self.eg.find(id)].data.constant.is_some()
    }

    /// The data of a constant class, if it is small.
    pub fn data(&self, id: Id) -> Option<&Tensor> {
        self.eg.analysis.constants.small(self.eg[self.eg.find(id)].data.constant?)
    }

    /// The number that a constant class is all over.
    pub fn number(&self, id: Id) -> Result<f64, Why> {
        uniform(self.eg, id).ok_or_else(|| Why::new("not one number"))
    }

    /// The operators of a class with their operands.
    pub fn nodes(&self, id: Id) -> impl Iterator<Item = (&Op, &[Id])> {
        self.eg[self.eg.find(id)].nodes.iter().filter_map(|n| match n.head {
            Head::Op(_, op) => Some((self.eg.analysis.op(op), &n.args[..])),
            _ => None,
        })
    }

    /// The operators that use a class, with their operands and the class they are in, in the order they were made.
    pub fn users(&self, id: Id) -> Vec<(Op, Vec<Id>, Id)> {
        let mut ids: Vec<Id> = self.eg[self.eg.find(id)].parents().collect();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter()
            .filter_map(|p| {
                let n = &self.eg.nodes()[usize::from(p)];
                let Head::Op(_, op) = n.head else { return None };
                let args = n.args.iter().map(|a| self.eg.find(*a)).collect();
                Some((self.op(op).clone(), args, self.eg.find(p)))
            })
            .collect()
    }

    /// Adds an operator.
    pub fn add(&mut self, op: impl Into<Op>, args: &[Id]) -> Result<Id, Why> {
        add(self.eg, op.into(), args).map_err(Why)
    }

    /// Adds an operator without attributes by its name.
    pub fn named(&mut self, name: &str, args: &[Id]) -> Result<Id, Why> {
        let op = Op::parse(name, tenon_ir::Attrs::default()).map_err(Why)?;
        self.add(op, args)
    }

    /// Adds a constant.
    pub fn weight(&mut self, t: Tensor) -> Id {
        add_data(self.eg, "", t)
    }

    /// Adds a constant of one number and no axes.
    pub fn scalar(&mut self, dtype: DType, v: f64) -> Id {
        self.weight(Tensor::full(&[], Scalar::of_f64(dtype, v)))
    }

    /// Adds a view of `x` under `dims`; `x` itself if it has them.
    pub fn reshape(&mut self, x: Id, dims: &[usize]) -> Result<Id, Why> {
        if self.dims(x)? == dims {
            return Ok(x);
        }
        self.add(tenon_ir::ops::reshape::Reshape { to: Shape::of(dims) }, &[x])
    }

    /// Adds a transpose of `x`; `x` itself if nothing moves.
    pub fn transpose(&mut self, x: Id, perm: &[usize]) -> Result<Id, Why> {
        if perm.is_sorted() {
            return Ok(x);
        }
        self.add(tenon_ir::ops::transpose::Transpose { perm: perm.to_vec() }, &[x])
    }

    /// Adds what the result of a rule says.
    pub fn instantiate(&mut self, result: &Pattern, m: &Match) -> Result<Id, Why> {
        let dtype = self.dtype(m.root);
        self.term(&result.root, m, &dtype)
    }

    fn term(&mut self, t: &Term, m: &Match, dtype: &Result<DType, Why>) -> Result<Id, Why> {
        match t {
            Term::Number(v) => {
                let d = dtype.clone()?;
                Ok(self.scalar(d, *v))
            }
            Term::Var(slot, _) => m.values[*slot].ok_or_else(|| Why::new("a variable is not bound")),
            Term::Op(o) => {
                let mut args = vec![];
                for a in &o.args {
                    args.push(self.term(a, m, dtype)?);
                }
                if let Some(l) = o.rest {
                    args.extend(m.lists[l].iter().copied());
                }
                let op = match (o.slot, o.name) {
                    (Some(s), _) => {
                        let id = m.ops[s].ok_or_else(|| Why::new("an operator is not bound"))?;
                        self.op(id).clone()
                    }
                    (None, Some(name)) => Op::parse(name, o.attrs.clone()).map_err(Why)?,
                    (None, None) => return Err(Why::new("no operator")),
                };
                self.add(op, &args)
            }
        }
    }
}

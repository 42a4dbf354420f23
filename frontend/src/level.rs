//! The graphs that nodes are imported into: the model's, and inside it the bodies of loops. A body sees the values of the
//! graphs around it: each that it uses becomes an input of it, constants excepted, which are simply repeated.

use crate::body::{Session, Slot};
use std::collections::BTreeMap;
use tenon_base::{Dim, Loc, Tensor};
use tenon_ir::import::Counts;
use tenon_ir::{Graph, Importer, Op, ValueId};

/// A graph under construction.
#[derive(Debug, Default)]
pub(crate) struct Level {
    /// The graph.
    pub(crate) graph: Graph,
    /// Small integer values known only symbolically.
    pub(crate) dims: BTreeMap<ValueId, Vec<Dim>>,
    /// Extents that data decide.
    pub(crate) counts: Counts,
    /// What values of the graph around it are called here.
    captures: BTreeMap<ValueId, ValueId>,
    /// Those of them that are inputs, in order.
    pub(crate) captured: Vec<ValueId>,
}

impl<'p> Session<'p> {
    /// Begins a graph inside the current one.
    pub(crate) fn enter(&mut self) {
        let counts = self.top.counts.inside();
        self.outer.push(std::mem::replace(&mut self.top, Level { counts, ..Level::default() }));
    }

    /// Ends it and gives it.
    pub(crate) fn leave(&mut self) -> Level {
        let around = self.outer.pop().unwrap_or_default();
        std::mem::replace(&mut self.top, around)
    }

    /// How many graphs are around the current one.
    pub(crate) fn depth(&self) -> usize {
        self.outer.len()
    }

    pub(crate) fn level_mut(&mut self, level: usize) -> &mut Level {
        match self.outer.get_mut(level) {
            Some(l) => l,
            None => &mut self.top,
        }
    }

    /// `slot` of graph `level` in the current graph.
    pub(crate) fn seen(&mut self, slot: Slot<'p>, level: usize) -> Slot<'p> {
        match slot {
            _ if level >= self.depth() => slot,
            Slot::Value(v) => Slot::Value((level + 1..=self.depth()).fold(v, |v, l| self.capture(v, l))),
            Slot::List(i) => {
                let items = self.lists[i].clone();
                let here = items.into_iter().map(|s| self.seen(s, level)).collect();
                self.list(here)
            }
            other => other,
        }
    }

    /// A value of the graph around graph `level`, there.
    fn capture(&mut self, v: ValueId, level: usize) -> ValueId {
        if let Some(known) = self.level_mut(level).captures.get(&v) {
            return *known;
        }
        let around = self.level_mut(level - 1);
        let (fact, weight) = (around.graph.fact(v).clone(), around.graph.weight(v).cloned());
        let dims = around.dims.get(&v).cloned();
        let here = self.level_mut(level);
        let new = match weight {
            Some(t) => here.graph.add_weight("", t),
            None => {
                let name = format!("c{}", here.captured.len());
                here.captured.push(v);
                here.graph.add_input(name, fact)
            }
        };
        here.captures.insert(v, new);
        if let Some(d) = dims {
            here.dims.insert(new, d);
        }
        new
    }

    /// A sequence of `items`.
    pub(crate) fn list(&mut self, items: Vec<Slot<'p>>) -> Slot<'p> {
        self.lists.push(items);
        Slot::List(self.lists.len() - 1)
    }

    /// An importer for one node.
    pub(crate) fn importer(&mut self, loc: &str) -> Importer<'_> {
        Importer::new(&mut self.top.graph, &mut self.top.dims, &mut self.top.counts, Loc::new(loc))
    }

    /// Constant data of the current graph.
    pub(crate) fn weight(&mut self, t: Tensor) -> ValueId {
        self.top.graph.add_weight("", t)
    }

    /// Adds an operator with one result.
    pub(crate) fn op(
        &mut self,
        loc: &str,
        op: impl Into<Op>,
        operands: &[ValueId],
    ) -> Result<ValueId, tenon_ir::ImportError> {
        self.importer(loc).op(op, operands)
    }
}

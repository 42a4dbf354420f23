//! Borders around values that padded convolutions read.
//!
//! A convolution with padding reads beyond its operand. Guarding every load costs more than the products, and a padded copy
//! costs as much as a depthwise convolution itself; so the operand's producer writes into the middle of a buffer with
//! a border, which the producer also fills (the arena is shared, so every time). All other readers find
//! their elements through [`Border::at`].

use crate::group::Group;
use std::collections::BTreeMap;
use tenon_ir::lower::{Halo, flatten, unflatten};
use tenon_ir::{Graph, Op, OpClass, Operator, ValueId};
use tenon_kernel::{Buf, Expr};

/// A value in the middle of its buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Border {
    /// The value's extents.
    pub(crate) inner: Vec<usize>,
    /// Elements before it, along every axis.
    pub(crate) before: Vec<usize>,
    /// The buffer's extents.
    pub(crate) dims: Vec<usize>,
    /// What is around it.
    pub(crate) fill: i64,
}

impl Border {
    /// Elements of the buffer.
    pub(crate) fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Where in the buffer the value's element at row-major index `flat` is.
    pub(crate) fn at(&self, flat: &Expr) -> Expr {
        let index = unflatten(flat, &self.inner);
        let shifted: Vec<Expr> = index.into_iter().zip(&self.before).map(|(i, &b)| i + b).collect();
        flatten(&shifted, &self.dims)
    }

    /// As an operator sees it that reads it from `buf`.
    pub(crate) fn halo(&self, buf: Buf) -> Halo {
        let after = (0..self.dims.len()).map(|a| self.dims[a] - self.before[a] - self.inner[a]).collect();
        Halo { buf, dims: self.dims.clone(), before: self.before.clone(), after, fill: self.fill }
    }
}

/// The values that get a border: results of one kernel, in the arena, that a padded convolution reads and nobody reads
/// through a view, to whom it would lie in pieces.
pub(crate) fn borders(graph: &Graph, groups: &[Group]) -> BTreeMap<ValueId, Border> {
    let mut all = BTreeMap::new();
    for g in groups {
        let v = ValueId { node: g.last(), port: 0 };
        // What a branch or a loop leaves is copied there, whole.
        let kernel = graph.op(v.node).is_some_and(|op| op.class() != OpClass::Control);
        if kernel
            && graph.node(v.node).facts.len() == 1
            && !graph.is_output(v)
            && let Some(b) = border(graph, v)
        {
            all.insert(v, b);
        }
    }
    all
}

fn border(graph: &Graph, v: ValueId) -> Option<Border> {
    let inner = graph.fact(v).dims()?;
    let mut widths = vec![[0; 2]; inner.len()];
    let mut fill = None;
    for (n, i) in graph.users(v) {
        let op = graph.op(n)?;
        let ins: Vec<_> = graph.operands(n).into_iter().map(|o| graph.fact(o).clone()).collect();
        match op.halo(&ins) {
            // The first that asks decides what is around.
            Some(p) if i == 0 && p.widths.len() == widths.len() => {
                if *fill.get_or_insert(p.fill) == p.fill {
                    for (w, p) in widths.iter_mut().zip(p.widths) {
                        *w = [w[0].max(p[0]), w[1].max(p[1])];
                    }
                }
            }
            _ if op.class() == OpClass::Pointwise => {}
            _ if matches!(op, Op::Conv(_) | Op::Pool(_) | Op::Reduce(_) | Op::Concat(_)) => {}
            _ => return None,
        }
    }
    let fill = fill.filter(|_| !inner.contains(&0))?;
    let before = widths.iter().map(|w| w[0]).collect();
    let dims = inner.iter().zip(&widths).map(|(n, w)| n + w[0] + w[1]).collect();
    Some(Border { inner, before, dims, fill })
}

//! Borders around values that padded convolutions read.
//!
//! A convolution with padding reads beyond its operand. Guarding every load costs more than the products, and a padded copy
//! costs as much as a depthwise convolution itself; so the operand's producer writes into the middle of a buffer with
//! a border, which the producer also fills (the arena is shared, so every time). All other readers find
//! their elements through [`Border::at`].
//!
//! What is concatenated lies in the same way in the middle of the result: whoever makes a part writes it there, and nothing is left to
//! copy ([`parts`]).

use crate::group::Group;
use crate::lower::{elements, external_reads};
use std::collections::BTreeMap;
use tenon_ir::lower::{Halo, flatten, unflatten};
use tenon_ir::{Graph, NodeId, Op, OpClass, Operator, ValueId};
use tenon_kernel::affine::Affine;
use tenon_kernel::simplify::simplify_index;
use tenon_kernel::{Buf, Expr, Var};

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
    /// The concatenation that it is a part of, in whose buffer it lies, if it is one: around it are other parts then.
    pub(crate) within: Option<ValueId>,
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

    /// As an operator sees it that reads it from `buf`; a part of something else has no border.
    pub(crate) fn halo(&self, buf: Buf) -> Option<Halo> {
        if self.within.is_some() {
            return None;
        }
        let after = (0..self.dims.len()).map(|a| self.dims[a] - self.before[a] - self.inner[a]).collect();
        Some(Halo { buf, dims: self.dims.clone(), before: self.before.clone(), after, fill: self.fill })
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
            && stores(graph, g, &b)
        {
            all.insert(v, b);
        }
    }
    all
}

/// Whether the kernel of `g` can write its result where `b` says. A contraction stores at an affine function of its loops, which run over
/// the axes of its own result: what is a view of that to the operators behind it may have axes that do not lie side by side in a border.
fn stores(graph: &Graph, g: &Group, b: &Border) -> bool {
    let contracts =
        matches!(graph.op(g.anchor), Some(Op::MatMul(_) | Op::Conv(_) | Op::ConvTranspose(_) | Op::WinogradConv(_)));
    if !contracts || g.epilogue.is_empty() {
        return true;
    }
    let Some(dims) = graph.fact(ValueId { node: g.anchor, port: 0 }).dims() else { return false };
    let range = |v: Var| Some((0, dims.get(v.0 as usize)?.saturating_sub(1) as i64));
    let index: Vec<Expr> = (0..dims.len() as u32).map(|i| Expr::Var(Var(i))).collect();
    let mut flat = simplify_index(flatten(&index, &dims), &range);
    for &n in &g.epilogue {
        let Some(Op::Transpose(t)) = graph.op(n) else { continue };
        let (from, to) = (graph.fact(graph.operands(n)[0]).dims(), graph.node(n).facts[0].dims());
        let (Some(from), Some(to)) = (from, to) else { return false };
        let index = unflatten(&flat, &from);
        let moved: Vec<Expr> = t.perm.iter().map(|&a| index[a].clone()).collect();
        flat = simplify_index(flatten(&moved, &to), &range);
    }
    Affine::of(&simplify_index(b.at(&flat), &range)).is_some()
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
            _ if reads_anywhere(op) => {}
            _ => return None,
        }
    }
    let fill = fill.filter(|_| !inner.contains(&0))?;
    let before = widths.iter().map(|w| w[0]).collect();
    let dims = inner.iter().zip(&widths).map(|(n, w)| n + w[0] + w[1]).collect();
    Some(Border { inner, before, dims, fill, within: None })
}

/// Whether `op` reads its operands as well where their rows are apart.
fn reads_anywhere(op: &Op) -> bool {
    op.class() == OpClass::Pointwise || matches!(op, Op::Conv(_) | Op::Pool(_) | Op::Reduce(_) | Op::Concat(_))
}

/// Whether a kernel around `op` may write its result in pieces: all that do so element by element.
fn writes_anywhere(op: &Op) -> bool {
    let kernel = matches!(op, Op::Conv(_) | Op::WinogradConv(_) | Op::ConvTranspose(_) | Op::MatMul(_) | Op::Pool(_));
    kernel || matches!(op.class(), OpClass::Pointwise | OpClass::Move)
}

/// The shortest piece, in bytes, that a part of a concatenation is written in: a cache line. Shorter ones would share lines.
pub(crate) const PIECE: usize = 64;

/// The extents of a concatenation of `dims` along `axis`, as if there were two: how many pieces there are, and the elements of one.
pub(crate) fn pieces(dims: &[usize], axis: usize) -> (usize, usize) {
    (dims[..axis].iter().product(), dims[axis..].iter().product())
}

/// Adds to `all` the values that are written into the concatenation that reads them. `together` says whether two nodes run under the same
/// conditions.
pub(crate) fn parts(
    graph: &Graph,
    groups: &[Group],
    together: &dyn Fn(NodeId, NodeId) -> bool,
    all: &mut BTreeMap<ValueId, Border>,
) {
    let makers: BTreeMap<NodeId, &Group> = groups.iter().map(|g| (g.last(), g)).collect();
    for g in groups {
        let Some(Op::Concat(op)) = graph.op(g.anchor) else { continue };
        let whole = ValueId { node: g.anchor, port: 0 };
        let Some(dims) = graph.fact(whole).dims() else { continue };
        if !g.epilogue.is_empty() || elements(graph.fact(whole)) == 0 {
            continue;
        }
        let operands = graph.operands(g.anchor);
        let inlined: Vec<ValueId> = g.inlined.iter().flat_map(|n| graph.operands(*n)).collect();
        let around = all.get(&whole).cloned();
        let mut before = 0;
        let mut placed: Vec<ValueId> = vec![];
        for &v in &operands {
            let Some(inner) = graph.fact(v).dims() else { break };
            let offset = before;
            before += inner[op.axis];
            let Some(maker) = makers.get(&v.node) else { continue };
            let once = operands.iter().filter(|o| **o == v).count() == 1 && !inlined.contains(&v);
            let free = !g.inlined.contains(&v.node) && !all.contains_key(&v) && !graph.is_output(v);
            let one = graph.node(v.node).facts.len() == 1 && graph.op(maker.anchor).is_some_and(writes_anywhere);
            let long = pieces(&inner, op.axis).1 * graph.fact(v).dtype.carrier().size() >= PIECE;
            let readers = graph.users(v).into_iter().all(|(n, _)| graph.op(n).is_some_and(reads_anywhere));
            // What a kernel reads does not lie where it writes.
            let reads = external_reads(graph, maker);
            let read = |by: &ValueId| makers.get(&by.node).is_some_and(|m| external_reads(graph, m).contains(&v));
            let apart = !placed.iter().any(|p| reads.contains(p) || read(p));
            let moves = maker.epilogue.iter().any(|n| matches!(graph.op(*n), Some(Op::Transpose(_))));
            if !(once && free && one && long && readers && apart && !moves && together(v.node, g.anchor)) {
                continue;
            }
            let border = match &around {
                Some(b) => {
                    let mut start = b.before.clone();
                    start[op.axis] += offset;
                    Border { inner, before: start, dims: b.dims.clone(), fill: b.fill, within: Some(whole) }
                }
                None => {
                    let ((outer, part), (_, all)) = (pieces(&inner, op.axis), pieces(&dims, op.axis));
                    let start = offset * pieces(&dims, op.axis).1 / dims[op.axis];
                    let (inner, before, dims) = (vec![outer, part], vec![0, start], vec![outer, all]);
                    Border { inner, before, dims, fill: 0, within: Some(whole) }
                }
            };
            if !stores(graph, maker, &border) {
                continue;
            }
            all.insert(v, border);
            placed.push(v);
        }
    }
}

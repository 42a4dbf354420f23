//! Constant weights whose numbers fit 4 bits, beside floats: kept two a byte, with a scale for every block of a column.
//!
//! `x · DQ(w, s, z)` becomes a [`NibbleMatMul`], an eighth of the floats that folding would make. It does not matter how the numbers
//! are stored in the model, only that they are few enough; nor how scales are said to repeat: blocks are what is the same from
//! row to row.

use crate::normalize::Rewrite;
use tenon_base::{DType, Fact, Tensor, gcd};
use tenon_ir::ops::nibble_matmul::{NibbleMatMul, nibbles};
use tenon_ir::{Graph, NodeId, Op, Operator, ValueId};

/// Weights from which on they stay packed: fewer are sooner multiplied as floats.
const WORTH: usize = 1 << 14;

/// Rows that must share a scale: with fewer, scales are as large as what is saved.
const LEAST_BLOCK: usize = 8;

/// `x · DQ(w, s, z)` for floats `x` and constants of 4 bits as a [`NibbleMatMul`].
pub(super) fn product(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    let (op, ins) = cx.operands_if(v, |op| if let Op::MatMul(m) = op { Some(m.clone()) } else { None })?;
    let Some(Op::Dequantize(_)) = cx.graph.op(ins[1].node) else { return None };
    let parts = cx.graph.operands(ins[1].node);
    let q = cx.graph.weight(parts[0])?.clone();
    let float = cx.graph.fact(ins[0]).dtype;
    if op.trans_a || q.shape().len() != 2 || q.len() < WORTH || !matches!(float, DType::F32 | DType::F16) {
        return None;
    }
    let (lo, hi) = range(&q);
    if hi - lo > 15 {
        return None;
    }
    // Numbers are stored about 0.
    let middle = if lo >= -8 && hi <= 7 { 0 } else { lo + 8 };
    let scales = spread(cx.graph, parts[1], q.shape())?;
    let zeros = parts.get(2).map_or(Some(None), |z| spread(cx.graph, *z, q.shape()).map(Some))?;
    let w = Weights { q: q.to_i64(), scales, zeros, middle, columns: q.shape()[1], trans: op.trans_b };
    let [k, n] = if op.trans_b { [q.shape()[1], q.shape()[0]] } else { [q.shape()[0], q.shape()[1]] };
    let block = w.block(k, n).filter(|b| *b >= LEAST_BLOCK && b.is_multiple_of(2))?;
    let made = nibbles(
        [k, n, k / block],
        |k, n| (w.q[w.at(k, n)] - middle) as i8,
        |b, n| w.scales[w.at(b * block, n)],
        |b, n| w.zero(b * block, n),
    );
    let mut operands = vec![ins[0], cx.graph.add_weight("", made.weights), cx.graph.add_weight("", made.scales)];
    operands.extend(made.zeros.map(|z| cx.graph.add_weight("", z)));
    let y = cx.op(NibbleMatMul { columns: n, block }, &operands)?;
    let same: (&Fact, &Fact) = (cx.graph.fact(y), cx.graph.fact(v));
    (same.0 == same.1).then_some(y)
}

/// The least and the largest of the integers of `t`.
fn range(t: &Tensor) -> (i64, i64) {
    t.to_i64().into_iter().fold((i64::MAX, i64::MIN), |(lo, hi), v| (lo.min(v), hi.max(v)))
}

/// The constant `v`, broadcast to the matrix `dims`: it may be made by moves of one, which are not folded where it becomes large.
fn spread(graph: &Graph, v: ValueId, dims: &[usize]) -> Option<Vec<f32>> {
    let t = constant(graph, v, dims.iter().product())?;
    let shape = [vec![1; dims.len().checked_sub(t.shape().len())?], t.shape().to_vec()].concat();
    let fits = shape.iter().zip(dims).all(|(s, d)| *s == 1 || s == d);
    let values = t.to_f64();
    let at = |r: usize, c: usize| (if shape[0] == 1 { 0 } else { r }) * shape[1] + if shape[1] == 1 { 0 } else { c };
    fits.then(|| {
        (0..dims[0]).flat_map(|r| (0..dims[1]).map(move |c| (r, c))).map(|(r, c)| values[at(r, c)] as f32).collect()
    })
}

/// The constant that `v` is, if it has `most` elements at most and is made of one by moves.
fn constant(graph: &Graph, v: ValueId, most: usize) -> Option<Tensor> {
    if let Some(t) = graph.weight(v) {
        return Some(t.clone());
    }
    let len = graph.fact(v).dims()?.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
    let op = graph.op(v.node)?;
    let moves = matches!(op, Op::Expand(_) | Op::Reshape(_) | Op::Slice(_) | Op::Transpose(_) | Op::Cast(_));
    let [x] = graph.operands(v.node)[..] else { return None };
    if !moves || len > most {
        return None;
    }
    op.eval(&[constant(graph, x, most)?]).ok()?.pop()
}

/// Weights as the model has them.
struct Weights {
    q: Vec<i64>,
    scales: Vec<f32>,
    zeros: Option<Vec<f32>>,
    /// What is subtracted of the numbers.
    middle: i64,
    /// Of the matrix as it lies.
    columns: usize,
    /// The matrix lies with its columns as rows.
    trans: bool,
}

impl Weights {
    fn at(&self, k: usize, n: usize) -> usize {
        if self.trans { n * self.columns + k } else { k * self.columns + n }
    }

    fn zero(&self, k: usize, n: usize) -> f32 {
        self.zeros.as_ref().map_or(0.0, |z| z[self.at(k, n)]) - self.middle as f32
    }

    /// Of how many rows each block is: the most that every change of a scale or zero point allows.
    fn block(&self, k: usize, n: usize) -> Option<usize> {
        let same = |i: usize| {
            (0..n).all(|c| {
                let [a, b] = [i - 1, i].map(|i| (self.scales[self.at(i, c)].to_bits(), self.zero(i, c).to_bits()));
                a == b
            })
        };
        let block = (1..k).filter(|i| !same(*i)).fold(k, gcd);
        (block > 0).then_some(block)
    }
}

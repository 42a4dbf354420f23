//! Channels-last activations.
//!
//! Operators that slide over spatial axes are flipped to `[N, spatial…, C]` between two transposes. Transposes then sink
//! towards the outputs through everything that can be permuted, meet their inverses and cancel; what is left stands at the
//! graph's borders. With channels contiguous, a convolution is a GEMM over rows of pixels, and depthwise
//! convolutions and poolings vectorise over channels.

mod views;

use crate::PassError;
use tenon_base::{Dim, Loc, Shape};
use tenon_ir::ops::conv::Conv;
use tenon_ir::ops::expand::Expand;
use tenon_ir::ops::reshape::Reshape;
use tenon_ir::ops::transpose::Transpose;
use tenon_ir::{Graph, NodeId, Op, OpClass, Operator, ValueId};

/// Rounds of sinking after which the pass is taken to loop.
const MAX_ROUNDS: usize = 500;

/// Flips spatial operators to channels last and sinks the transposes; gives how many nodes changed.
pub fn channels_last(graph: &mut Graph) -> Result<usize, PassError> {
    let internal = |message: String| PassError::Internal { pass: "channels-last".into(), message };
    let mut changed = 0;
    for id in graph.topological().map_err(|e| internal(e.to_string()))? {
        if let Some(new) = flip(graph, id) {
            graph.replace(ValueId { node: id, port: 0 }, new).map_err(|e| internal(e.to_string()))?;
            changed += 1;
        }
    }
    for _ in 0..MAX_ROUNDS {
        let mut sunk = 0;
        for id in graph.topological().map_err(|e| internal(e.to_string()))? {
            let Some(news) = sink(graph, id) else { continue };
            for (port, new) in news.into_iter().enumerate() {
                graph.replace(ValueId { node: id, port: port as u16 }, new).map_err(|e| internal(e.to_string()))?;
            }
            sunk += 1;
        }
        graph.remove_dead();
        if sunk == 0 {
            return Ok(changed);
        }
        changed += sunk;
    }
    Err(internal(format!("transposes still sink after {MAX_ROUNDS} rounds")))
}

/// `[N, C, spatial…]` → `[N, spatial…, C]`
fn to_last(rank: usize) -> Vec<usize> {
    let mut p = vec![0];
    p.extend(2..rank);
    p.push(1);
    p
}

fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut inv = vec![0; perm.len()];
    for (i, &p) in perm.iter().enumerate() {
        inv[p] = i;
    }
    inv
}

fn loc_of(graph: &Graph, id: NodeId) -> Loc {
    graph.node(id).loc.clone()
}

/// Transposes `v`, cancelling against a transpose that makes it.
fn transposed(graph: &mut Graph, v: ValueId, perm: &[usize], loc: &Loc) -> Option<ValueId> {
    if let Some(Op::Transpose(t)) = graph.op(v.node) {
        let combined: Vec<usize> = perm.iter().map(|&a| t.perm[a]).collect();
        let from = graph.operands(v.node)[0];
        if combined.is_sorted() {
            return Some(from);
        }
        return graph.add_op(Transpose { perm: combined }, &[from], loc.clone()).ok().map(|v| v[0]);
    }
    graph.add_op(Transpose { perm: perm.to_vec() }, &[v], loc.clone()).ok().map(|v| v[0])
}

/// More results than these a channel are lanes of a vector themselves: an image that is four times as large was slower than these.
const MOST_RESULTS: usize = 3;

/// A depthwise convolution with several results a channel, channels last, as one with one result a channel of an image in which each channel
/// stands as often as it has results: lanes then lie along the channels, for one more image to write. Gives that image.
fn repeated(graph: &mut Graph, conv: &mut Conv, operands: &[ValueId], loc: &Loc) -> Option<ValueId> {
    let shape = graph.fact(operands[0]).shape.clone();
    let weights = graph.fact(operands[1]).shape.to_usize()?;
    let (channels, around) = shape.0.split_last()?;
    let results = weights.first()? / conv.group.max(1);
    let taps: usize = conv.kernel.iter().product();
    if *channels != Dim::from(conv.group) || !(2..=MOST_RESULTS).contains(&results) || taps == 1 {
        return None;
    }
    let with = |last: &[Dim]| Shape([around, last].concat());
    let each = with(&[channels.clone(), Dim::Const(1)]);
    let v = graph.add_op(Reshape { to: each }, &operands[..1], loc.clone()).ok()?[0];
    let all = with(&[channels.clone(), Dim::from(results)]);
    let v = graph.add_op(Expand { to: all }, &[v], loc.clone()).ok()?[0];
    let flat = with(&[Dim::from(conv.group * results)]);
    let v = graph.add_op(Reshape { to: flat }, &[v], loc.clone()).ok()?[0];
    conv.group *= results;
    Some(v)
}

fn flip(graph: &mut Graph, id: NodeId) -> Option<ValueId> {
    let mut op = graph.op(id)?.channels_last()?;
    let loc = loc_of(graph, id);
    let mut operands = graph.operands(id);
    let rank = graph.fact(operands[0]).shape.rank();
    if rank < 3 {
        return None;
    }
    let perm = to_last(rank);
    operands[0] = transposed(graph, operands[0], &perm, &loc)?;
    if let Op::Conv(conv) = &mut op
        && let Some(image) = repeated(graph, conv, &operands, &loc)
    {
        operands[0] = image;
    }
    let y = graph.add_op(op, &operands, loc.clone()).ok()?;
    graph.add_op(Transpose { perm: inverse(&perm) }, &y[..1], loc).ok().map(|v| v[0])
}

/// The permutation by which `v` is transposed, if it is the result of a transpose that moves data.
fn perm_of(graph: &Graph, v: ValueId) -> Option<Vec<usize>> {
    match graph.op(v.node) {
        Some(Op::Transpose(t)) if !t.perm.is_sorted() => Some(t.perm.clone()),
        _ => None,
    }
}

/// Moves the transposes of `id`'s operands behind it; gives the values that replace its results.
fn sink(graph: &mut Graph, id: NodeId) -> Option<Vec<ValueId>> {
    let op = graph.op(id)?.clone();
    match &op {
        Op::Transpose(t) => return views::behind_shuffle(graph, id, &t.perm).map(|v| vec![v]),
        Op::Reshape(_) => return views::behind_reshape(graph, id).map(|v| vec![v]),
        _ => {}
    }
    let operands = graph.operands(id);
    // Constants are folded later, transposed or not.
    let constant = |graph: &Graph, v: ValueId| {
        let moved =
            matches!(graph.op(v.node), Some(Op::Transpose(_))) && graph.weight(graph.operands(v.node)[0]).is_some();
        moved || graph.weight(v).is_some()
    };
    let moved = |(i, v): (usize, &ValueId)| (op.permutes(i) && !constant(graph, *v)).then(|| perm_of(graph, *v))?;
    let perm = operands.iter().enumerate().find_map(moved)?;
    let rank = perm.len();
    let out_rank = graph.node(id).facts.iter().map(|f| f.shape.rank()).max()?;
    let class = op.class();
    let ins: Vec<_> = operands.iter().map(|v| graph.fact(*v).clone()).collect();
    let table: Vec<bool> = (0..ins.len()).map(|i| class != OpClass::Pointwise && !op.permutes(i)).collect();
    let fits = ins.iter().zip(&table).all(|(f, table)| *table || f.shape.rank() == rank);
    let new_op = match class {
        OpClass::Pointwise if out_rank == rank => op,
        OpClass::Kernel | OpClass::Move if fits => op.permuted(&perm, &ins)?,
        _ => return None,
    };
    let out_len = graph.node(id).facts.iter().filter_map(|f| f.shape.numel().as_const()).max()?;
    // Every large operand must be transposed alike, or it would be transposed once more instead of once less.
    let free = |graph: &Graph, v: ValueId| {
        perm_of(graph, v).as_ref() == Some(&perm)
            || constant(graph, v)
            || graph.fact(v).shape.numel().as_const().is_some_and(|n| n * 8 <= out_len)
    };
    if !operands.iter().zip(&table).all(|(v, t)| *t || free(graph, *v)) {
        return None;
    }
    // More must be spared than is transposed in exchange; of two small operands that broadcast against each other, each would
    // hand the transpose to the other for ever.
    let elements = |alike: bool| -> i64 {
        let of = |v: &ValueId| graph.fact(*v).shape.numel().as_const().unwrap_or(0);
        let those = operands.iter().zip(&table).filter(|(v, t)| !**t && !constant(graph, **v));
        those.filter(|(v, _)| (perm_of(graph, **v).as_ref() == Some(&perm)) == alike).map(|(v, _)| of(v)).sum()
    };
    if elements(true) <= elements(false) {
        return None;
    }
    let loc = loc_of(graph, id);
    let inv = inverse(&perm);
    let mut inner = vec![];
    for (v, table) in operands.into_iter().zip(table) {
        inner.push(if table { v } else { permuted_operand(graph, v, rank, &inv, &loc)? });
    }
    let ys = graph.add_op(new_op, &inner, loc.clone()).ok()?;
    ys.into_iter()
        .map(|y| graph.add_op(Transpose { perm: perm.clone() }, &[y], loc.clone()).ok().map(|v| v[0]))
        .collect()
}

/// `v`, given extents 1 in front up to `rank`, transposed by `inv`.
fn permuted_operand(graph: &mut Graph, v: ValueId, rank: usize, inv: &[usize], loc: &Loc) -> Option<ValueId> {
    let mut shape = graph.fact(v).shape.clone();
    if shape.numel().as_const() == Some(1) && graph.weight(v).is_none() && shape.rank() < rank {
        return Some(v);
    }
    let mut v = v;
    if shape.rank() < rank {
        let mut dims = vec![tenon_base::Dim::Const(1); rank - shape.rank()];
        dims.append(&mut shape.0);
        v = graph.add_op(Reshape { to: Shape(dims) }, &[v], loc.clone()).ok()?[0];
    }
    transposed(graph, v, inv, loc)
}

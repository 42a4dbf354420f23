//! What moves elements without changing them moves integers as well; so does what picks the largest.

use super::params::{Quantised, Quantiser, dequantize};
use crate::normalize::Rewrite;
use tenon_base::{Scalar, Tensor};
use tenon_ir::ops::dequantize::Dequantize;
use tenon_ir::ops::gather::Gather;
use tenon_ir::ops::pool::PoolKind;
use tenon_ir::ops::quantize::Quantize;
use tenon_ir::ops::requantize::Requantize;
use tenon_ir::{NodeId, Op, ValueId};

/// Whether `op` gives elements of operand 0, all of them meaning what they meant.
pub(super) fn moves(op: &Op) -> bool {
    match op {
        Op::Reshape(_)
        | Op::Transpose(_)
        | Op::Slice(_)
        | Op::Gather(_)
        | Op::GatherElements(_)
        | Op::GatherNd(_)
        | Op::Nearest(_)
        | Op::ReverseSequence(_) => true,
        Op::Pool(p) => p.kind == PoolKind::Max && p.indices.is_none(),
        _ => false,
    }
}

/// `f(DQ x) → DQ(f x)`
pub(super) fn down(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    let (op, mut ins) = cx.operands_if(v, |op| moves(op).then(|| op.clone()))?;
    let x = Quantised::of(cx, ins[0])?;
    if let Some((scale, zero)) = x.per_tensor() {
        // The largest of negative multiples is the smallest.
        if matches!(op, Op::Pool(_)) && scale <= 0.0 {
            return None;
        }
        ins[0] = x.q;
        let y = cx.op(op, &ins)?;
        return dequantize(cx, y, Tensor::new(&[], &[scale]), zero);
    }
    if let Op::Gather(g) = &op {
        return rows(cx, &x, g.axis, &ins);
    }
    // One scale a channel: a transpose takes it along.
    let Op::Transpose(t) = &op else { return None };
    let rank = t.perm.len();
    let along = |cx: &mut Rewrite<'_>, p: Tensor| {
        let mut shape = vec![1; rank.checked_sub(p.shape().len())?];
        shape.extend(p.shape());
        let p = cx.graph.add_weight("", p.reshaped(&shape));
        cx.op(t.clone(), &[p])
    };
    let mut operands = vec![cx.op(t.clone(), &[x.q])?, along(cx, x.scale)?];
    if let Some(z) = x.zero {
        operands.push(along(cx, z)?);
    }
    cx.op(Dequantize {}, &operands)
}

/// `gather(DQ(x, s), i) → DQ(gather(x, i), gather(s, i))` for scales that differ along `axis` alone, of constant `x`.
fn rows(cx: &mut Rewrite<'_>, x: &Quantised, axis: usize, ins: &[ValueId]) -> Option<ValueId> {
    let dims = cx.graph.weight(x.q)?.shape().to_vec();
    let op = Gather { axis };
    let mut operands = vec![cx.op(op.clone(), &[x.q, ins[1]])?];
    for p in [Some(&x.scale), x.zero.as_ref()].into_iter().flatten() {
        let mut shape = vec![1; dims.len().checked_sub(p.shape().len())?];
        shape.extend(p.shape());
        let only = shape.iter().enumerate().all(|(a, d)| *d == if a == axis { dims[axis] } else { 1 });
        if !only && p.len() != 1 {
            return None;
        }
        let p = if only { p.reshaped(&shape) } else { p.reshaped(&[]) };
        let v = cx.graph.add_weight("", p);
        operands.push(if only { cx.op(op.clone(), &[v, ins[1]])? } else { v });
    }
    cx.op(Dequantize {}, &operands)
}

/// `Q(f x) → f(Q x)`: rounding keeps the order of values.
pub(super) fn up(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let y = Quantiser::of(cx, ValueId { node: id, port: 0 })?;
    let (op, mut ins) = cx.operands_if(y.x, |op| moves(op).then(|| op.clone()))?;
    let reversed = matches!(op, Op::Pool(_)) && y.scale <= 0.0;
    if reversed || !cx.single_use(y.x) || cx.graph.weight(ins[0]).is_some() {
        return None;
    }
    let scale = cx.graph.add_weight("", Tensor::new(&[], &[y.scale]));
    let zero = cx.graph.add_weight("", Tensor::full(&[], Scalar::of_int(y.to, i128::from(y.zero))));
    ins[0] = cx.op(Quantize { to: y.to }, &[ins[0], scale, zero])?;
    cx.op(op, &ins)
}

/// `Q(concat(DQ a, DQ b, …))`: every part in the scale of the result. `concat(DQ a, DQ b, …)` of one scale is the `DQ` of one.
pub(super) fn concat(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    if let Some(y) = Quantiser::of(cx, v) {
        let y = y.absorbing(cx);
        let (op, ins) = cx.operands_if(y.x, |op| if let Op::Concat(c) = op { Some(c.clone()) } else { None })?;
        let parts = ins.iter().map(|v| Quantised::of(cx, *v)).collect::<Option<Vec<_>>>()?;
        let params = parts.iter().map(Quantised::per_tensor).collect::<Option<Vec<_>>>()?;
        let mut operands = vec![];
        for (x, (scale, zero)) in parts.iter().zip(params) {
            let full = Requantize::new(vec![zero], y.zero, y.to);
            let same = scale == y.scale && zero == y.zero && x.dtype(cx) == y.to;
            let bounded = full.clone().within(y.min, y.max);
            operands.push(if same && full == bounded {
                x.q
            } else {
                let m = cx.graph.add_weight("", Tensor::new(&[], &[scale / y.scale]));
                cx.op(bounded, &[x.q, m])?
            });
        }
        return cx.op(op, &operands);
    }
    let (op, ins) = cx.operands_if(v, |op| if let Op::Concat(c) = op { Some(c.clone()) } else { None })?;
    let parts = ins.iter().map(|v| Quantised::of(cx, *v)).collect::<Option<Vec<_>>>()?;
    let (scale, zero) = parts.first()?.per_tensor()?;
    let dtype = parts[0].dtype(cx);
    if !parts.iter().all(|p| p.per_tensor() == Some((scale, zero)) && p.dtype(cx) == dtype) {
        return None;
    }
    let qs: Vec<ValueId> = parts.iter().map(|p| p.q).collect();
    let y = cx.op(op, &qs)?;
    dequantize(cx, y, Tensor::new(&[], &[scale]), zero)
}

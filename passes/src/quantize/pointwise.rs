//! Requantisation, and sums, products and means of quantised values.

use super::params::{Quantised, Quantiser, dequantize};
use crate::normalize::Rewrite;
use tenon_base::{DType, Scalar, Tensor};
use tenon_ir::ops::binary::Binary;
use tenon_ir::ops::cast::Cast;
use tenon_ir::ops::conv::Conv;
use tenon_ir::ops::pool::{Pool, PoolKind};
use tenon_ir::ops::reduce::{Kind, Reduce};
use tenon_ir::ops::requantize::Requantize;
use tenon_ir::{NodeId, Op, Operator, ValueId};

/// The factors `scale / by`, each rounded once.
fn factors(scale: &Tensor, by: f32) -> Tensor {
    let v: Vec<f32> = scale.to_f64().iter().map(|s| *s as f32 / by).collect();
    Tensor::new(scale.shape(), &v)
}

/// `Q(clip(DQ x)) → requantize(x)`, or `x` where nothing changes.
pub(super) fn requantize(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    let y = Quantiser::of(cx, v)?.absorbing(cx);
    let x = Quantised::of(cx, y.x)?;
    let zero = x.one_zero()?;
    let dtype = x.dtype(cx);
    if !dtype.is_int() || dtype.size() > 4 || cx.graph.fact(x.q).shape != cx.graph.fact(v).shape {
        return None;
    }
    let m = factors(&x.scale, y.scale);
    let range = y.to.int_range()?;
    let unbounded = (i128::from(y.min), i128::from(y.max)) == range;
    if dtype == y.to && zero == y.zero && unbounded && m.to_f64().iter().all(|m| *m == 1.0) {
        return Some(x.q);
    }
    let m = cx.graph.add_weight("", m);
    cx.op(Requantize::new(vec![zero], y.zero, y.to).within(y.min, y.max), &[x.q, m])
}

/// `Q(clip(DQ a + DQ b)) → requantize(a, b)`, and the difference.
pub(super) fn sum(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let y = Quantiser::of(cx, ValueId { node: id, port: 0 })?.absorbing(cx);
    let name = cx.graph.op(y.x.node).map(|op| op.name()).filter(|n| matches!(*n, "add" | "sub"))?;
    let ins = cx.graph.operands(y.x.node);
    let (mut zeros, mut operands) = (vec![], vec![]);
    for (i, v) in ins.iter().enumerate() {
        let x = Quantised::of(cx, *v)?;
        zeros.push(x.one_zero()?);
        if x.dtype(cx).size() > 4 || x.scale.len() > 1 && x.scale.shape().len() > cx.graph.fact(*v).shape.rank() {
            return None;
        }
        let by = if i == 1 && name == "sub" { -y.scale } else { y.scale };
        operands.extend([x.q, cx.graph.add_weight("", factors(&x.scale, by))]);
    }
    cx.op(Requantize::new(zeros, y.zero, y.to).within(y.min, y.max), &operands)
}

/// Whether all that uses `v` quantises it, perhaps within bounds.
pub(super) fn is_quantised(cx: &Rewrite<'_>, v: ValueId) -> bool {
    let users = cx.graph.users(v);
    !cx.graph.is_output(v)
        && !users.is_empty()
        && users.iter().all(|(n, _)| match cx.graph.op(*n) {
            Some(Op::Quantize(_)) => true,
            Some(op @ (Op::Clip(_) | Op::Unary(_))) if op.name() == "clip" || op.name() == "relu" => {
                is_quantised(cx, ValueId { node: *n, port: 0 })
            }
            _ => false,
        })
}

/// `x - zero` in `i32`.
fn centred(cx: &mut Rewrite<'_>, q: ValueId, zero: i64) -> Option<ValueId> {
    let wide = cx.op(Cast::to(DType::I32), &[q])?;
    if zero == 0 {
        return Some(wide);
    }
    let zero = Tensor::full(&[], Scalar::of_int(DType::I32, i128::from(zero)));
    let zero = cx.graph.add_weight("", zero);
    cx.op(Binary::named("sub")?, &[wide, zero])
}

/// `DQ a · DQ b → DQ((a - za)(b - zb))`, where the product is quantised.
pub(super) fn multiply(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    let (_, ins) = cx.operands_if(v, |op| (op.name() == "mul").then_some(()))?;
    let (a, b) = (Quantised::of(cx, ins[0])?, Quantised::of(cx, ins[1])?);
    let ((a_scale, a_zero), (b_scale, b_zero)) = (a.per_tensor()?, b.per_tensor()?);
    if !a.is_bytes(cx) || !b.is_bytes(cx) || !is_quantised(cx, v) {
        return None;
    }
    let (x, y) = (centred(cx, a.q, a_zero)?, centred(cx, b.q, b_zero)?);
    let product = cx.op(Binary::named("mul")?, &[x, y])?;
    dequantize(cx, product, Tensor::new(&[], &[a_scale * b_scale]), 0)
}

/// Means of a whole plane are reductions, however they are written.
pub(super) fn pooled_mean(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    let (op, ins) = cx.operands_if(v, |op| if let Op::Pool(p) = op { Some(p.clone()) } else { None })?;
    let dims = cx.graph.fact(ins[0]).dims()?;
    Quantised::of(cx, ins[0])?;
    let whole = op.layout.spatial(&dims) == op.kernel && op.pads.iter().all(|p| *p == 0);
    let plain = op.dilations.iter().all(|d| *d == 1)
        && cx.graph.fact(v).dims()?.iter().product::<usize>() * op.kernel.iter().product::<usize>()
            == dims.iter().product();
    if op.kind != PoolKind::Average || !whole || !plain {
        return None;
    }
    let axes = (0..op.kernel.len()).map(|i| op.layout.spatial_axis(i)).collect();
    cx.op(Reduce { kind: Kind::Mean, axes }, &ins)
}

/// `average(DQ x) → DQ(conv(x, ones) - n·z)` for windows of a plane: a depthwise convolution of bytes, padded with the zero point, sums
/// what is in the window; the count of what is averaged, which at the border may be less, goes into the scale.
pub(super) fn average(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    let (op, ins) = cx.operands_if(v, |op| if let Op::Pool(p) = op { Some(p.clone()) } else { None })?;
    let x = Quantised::of(cx, ins[0])?;
    let (scale, zero) = x.per_tensor()?;
    let (dims, out) = (cx.graph.fact(ins[0]).dims()?, cx.graph.fact(v).dims()?);
    let window: usize = op.kernel.iter().product();
    let channels = *dims.get(op.layout.channel_axis(dims.len()))?;
    if op.kind != PoolKind::Average || !x.is_bytes(cx) || scale <= 0.0 || !is_quantised(cx, v) {
        return None;
    }
    if channels == 0 || window == 0 || window > 1 << 15 {
        return None;
    }
    let padded = op.pads.iter().any(|p| *p != 0);
    let conv = Conv {
        kernel: op.kernel.clone(),
        strides: op.strides.clone(),
        dilations: op.dilations.clone(),
        pads: op.pads.clone(),
        group: channels,
        layout: op.layout,
        fill: Some(zero).filter(|z| padded && *z != 0),
    };
    let mut shape = vec![channels, 1];
    shape.extend(&op.kernel);
    let ones = cx.graph.add_weight("", Tensor::new(&shape, &vec![1i8; channels * window]));
    let bias = i32::try_from(-zero * window as i64).ok()?;
    let bias = cx.graph.add_weight("", Tensor::new(&[channels], &vec![bias; channels]));
    let y = cx.op(conv, &[x.q, ones, bias])?;
    // Windows that reach beyond the padding have no place in a convolution.
    if cx.graph.fact(y).dims()? != out {
        return None;
    }
    let scale = if padded && !op.count_pad {
        let counts = (0..op.kernel.len()).map(|i| counts(&op, i, &dims, &out)).collect::<Vec<_>>();
        let mut plane = vec![1; out.len()];
        (0..counts.len()).for_each(|i| plane[op.layout.spatial_axis(i)] = counts[i].len());
        let all = counts
            .iter()
            .fold(vec![1usize], |all, axis| all.iter().flat_map(|n| axis.iter().map(move |m| n * m)).collect());
        if all.contains(&0) {
            return None;
        }
        Tensor::new(&plane, &all.iter().map(|n| scale / *n as f32).collect::<Vec<f32>>())
    } else {
        Tensor::new(&[], &[scale / window as f32])
    };
    dequantize(cx, y, scale, 0)
}

/// For every place of spatial axis `i`, how many elements of a window lie in the operand.
fn counts(op: &Pool, i: usize, dims: &[usize], out: &[usize]) -> Vec<usize> {
    let axis = op.layout.spatial_axis(i);
    let inside = |place: usize, tap: usize| {
        (place * op.strides[i] + tap * op.dilations[i]).checked_sub(op.pads[i]).is_some_and(|at| at < dims[axis])
    };
    (0..out[axis]).map(|place| (0..op.kernel[i]).filter(|tap| inside(place, *tap)).count()).collect()
}

/// `mean(DQ x) → DQ(Σ x)`: the count goes into scale and zero point. The largest and smallest are those of the integers.
pub(super) fn mean(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    let (op, ins) = cx.operands_if(v, |op| if let Op::Reduce(r) = op { Some(r.clone()) } else { None })?;
    let x = Quantised::of(cx, ins[0])?;
    let (scale, zero) = x.per_tensor()?;
    let dims = cx.graph.fact(ins[0]).dims()?;
    let count: usize = op.axes.iter().map(|a| dims[*a]).product();
    if !x.is_bytes(cx) || scale <= 0.0 || count == 0 || count > 1 << 22 {
        return None;
    }
    match op.kind {
        Kind::Max | Kind::Min => {
            let y = cx.op(op, &[x.q])?;
            dequantize(cx, y, x.scale, zero)
        }
        Kind::Mean | Kind::Sum => {
            let by = if op.kind == Kind::Mean { count as f32 } else { 1.0 };
            let wide = cx.op(Cast::to(DType::I32), &[x.q])?;
            let y = cx.op(Reduce { kind: Kind::Sum, axes: op.axes }, &[wide])?;
            dequantize(cx, y, Tensor::new(&[], &[scale / by]), zero * count as i64)
        }
        _ => None,
    }
}

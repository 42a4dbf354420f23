//! Scales and offsets per channel go into the weights and bias of the convolution or matrix product before them: this is
//! how batch normalisation, imported as a product and a sum, disappears.

use super::algebra::{as_binary, named};
use super::{Class, Rewrite, Rule};
use tenon_base::{DType, Shape, Tensor};
use tenon_ir::ops::conv::{Conv, zero_bias};
use tenon_ir::ops::matmul::MatMul;
use tenon_ir::ops::pad::Mode;
use tenon_ir::ops::reshape::Reshape;
use tenon_ir::ops::slice::Slice;
use tenon_ir::{NodeId, Op, ValueId};

/// The rules of this file.
pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "conv-scale",
        class: Class::Reassociating,
        doc: "conv(x, w, b) · s with s per channel → conv(x, w·s, b·s)",
        apply: conv_scale,
    },
    Rule {
        name: "conv-bias",
        class: Class::Reassociating,
        doc: "conv(x, w, b) + t with t per channel → conv(x, w, b + t)",
        apply: conv_bias,
    },
    Rule {
        name: "conv-pad",
        class: Class::Exact,
        doc: "conv(pad(x)) with zeros around spatial axes → conv with that padding",
        apply: conv_pad,
    },
    Rule {
        name: "conv-unreached",
        class: Class::Exact,
        doc: "conv whose outer taps read padding at every position → conv without these taps",
        apply: conv_unreached,
    },
    Rule {
        name: "matmul-scale",
        class: Class::Reassociating,
        doc: "(x × w) · s with s per column → x × (w·s)",
        apply: matmul_scale,
    },
];

/// `c` as one value a channel of a result of `shape` with its channels on `axis`, if it is constant along all others.
fn per_channel(c: &Tensor, shape: &Shape, axis: usize) -> Option<Tensor> {
    let dims = shape.to_usize()?;
    let channels = dims[axis];
    let skip = dims.len().checked_sub(c.shape().len())?;
    let varies_elsewhere = c.shape().iter().enumerate().any(|(i, &d)| d != 1 && i + skip != axis);
    if varies_elsewhere || !c.dtype().is_float() {
        return None;
    }
    let v = c.to_f64();
    let all: Vec<f64> = if v.len() == 1 { vec![v[0]; channels] } else { v };
    Some(Tensor::from_f64(c.dtype(), &[channels], &all))
}

/// A convolution whose weights are constant and whose result nobody else uses, with a constant per channel applied.
fn conv_and_constant(cx: &Rewrite<'_>, id: NodeId, name: &str) -> Option<(Conv, Vec<ValueId>, Tensor)> {
    let v = ValueId { node: id, port: 0 };
    let (found, outer) = cx.operands_if(v, as_binary)?;
    let (conv, ins) = cx.operands_if(outer[0], |op| if let Op::Conv(c) = op { Some(c.clone()) } else { None })?;
    if found != name || !cx.single_use(outer[0]) || cx.graph.fact(v) != cx.graph.fact(outer[0]) {
        return None;
    }
    if !ins[1..].iter().all(|w| cx.graph.weight(*w).is_some()) {
        return None;
    }
    let shape = &cx.graph.fact(v).shape;
    let c = per_channel(cx.graph.weight(outer[1])?, shape, conv.layout.channel_axis(shape.rank()))?;
    Some((conv, ins, c))
}

fn bias_of(cx: &mut Rewrite<'_>, ins: &[ValueId], dtype: DType, channels: usize) -> ValueId {
    match ins.get(2) {
        Some(b) => *b,
        None => cx.graph.add_weight("", zero_bias(dtype, channels)),
    }
}

fn conv_scale(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let (conv, ins, s) = conv_and_constant(cx, id, "mul")?;
    let rank = cx.graph.fact(ins[1]).shape.rank();
    let mut to = vec![1; rank];
    to[0] = s.len();
    let wide = cx.graph.add_weight("", s.reshaped(&to));
    let w = cx.op(named("mul")?, &[ins[1], wide])?;
    let mut operands = vec![ins[0], w];
    if let Some(&b) = ins.get(2) {
        let s = cx.graph.add_weight("", s);
        operands.push(cx.op(named("mul")?, &[b, s])?);
    }
    cx.op(conv, &operands)
}

fn conv_pad(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    let (conv, mut ins) = cx.operands_if(v, |op| if let Op::Conv(c) = op { Some(c.clone()) } else { None })?;
    let (pad, x) = cx.operands_if(ins[0], |op| if let Op::Pad(p) = op { Some(p.clone()) } else { None })?;
    let rank = pad.pads.len() / 2;
    let zeros = pad.mode == Mode::Constant && pad.value.0 == 0.0 && cx.graph.fact(x[0]).dtype.is_float();
    let spatial: Vec<usize> = (0..conv.kernel.len()).map(|i| conv.layout.spatial_axis(i)).collect();
    let only = (0..rank).all(|a| spatial.contains(&a) || pad.pads[a] == 0 && pad.pads[a + rank] == 0);
    if !zeros || !only || conv.fill.is_some() || pad.pads.iter().any(|p| *p < 0) {
        return None;
    }
    let mut pads = conv.pads.clone();
    let n = spatial.len();
    for (i, a) in spatial.into_iter().enumerate() {
        pads[i] = pads[i].checked_add(usize::try_from(pad.pads[a]).ok()?)?;
        pads[i + n] = pads[i + n].checked_add(usize::try_from(pad.pads[a + rank]).ok()?)?;
    }
    ins[0] = x[0];
    cx.op(Conv { pads, ..conv }, &ins)
}

/// The taps of an axis that some position reads outside of the padding, as the first one and how many: taps at either end
/// that none does are left out as far as the padding there goes. `None` if the axis keeps all of its taps.
fn reached(window: &Conv, axis: usize, extent: usize, positions: usize) -> Option<(usize, usize)> {
    let (taps, step) = (window.kernel[axis], window.dilations[axis]);
    let (before, after) = (window.pads[axis], window.pads[axis + window.kernel.len()]);
    let last = positions.checked_sub(1)? * window.strides[axis];
    let left_of = |k: usize| last + k * step < before && (k + 1) * step <= before;
    let right_of = |k: usize| k * step >= before + extent && (taps - k) * step <= after;
    let first = (0..taps - 1).find(|k| !left_of(*k)).unwrap_or(taps - 1);
    let end = (first + 1..taps).rev().find(|k| !right_of(*k)).map_or(first + 1, |k| k + 1);
    (end - first < taps).then_some((first, end - first))
}

/// Dilated windows of segmentation networks are often wider than the image: what is left of 3 × 3 taps is one.
fn conv_unreached(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    let (mut conv, mut ins) = cx.operands_if(v, |op| if let Op::Conv(c) = op { Some(c.clone()) } else { None })?;
    let mut to = cx.graph.weight(ins[1])?.shape().to_vec();
    let spatial = |v: ValueId| Some(conv.layout.spatial(&cx.graph.fact(v).shape.to_usize()?));
    let (x, y) = (spatial(ins[0])?, spatial(v)?);
    let (n, all) = (conv.kernel.len(), conv.kernel.clone());
    let mut starts = vec![0; to.len()];
    for i in 0..n {
        let Some((first, taps)) = reached(&conv, i, x[i], y[i]) else { continue };
        (starts[i + 2], to[i + 2]) = (first as i64, taps);
        conv.pads[i] -= first * conv.dilations[i];
        conv.pads[i + n] -= (conv.kernel[i] - first - taps) * conv.dilations[i];
        conv.kernel[i] = taps;
    }
    if conv.kernel == all || conv.fill.is_some() {
        return None;
    }
    ins[1] = cx.op(Slice { starts, steps: vec![1; to.len()], to: Shape::of(&to) }, &[ins[1]])?;
    cx.op(conv, &ins)
}

fn conv_bias(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let (conv, ins, t) = conv_and_constant(cx, id, "add")?;
    let bias = bias_of(cx, &ins, t.dtype(), t.len());
    let t = cx.graph.add_weight("", t);
    let b = cx.op(named("add")?, &[bias, t])?;
    cx.op(conv, &[ins[0], ins[1], b])
}

fn matmul_scale(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    let (name, outer) = cx.operands_if(v, as_binary)?;
    let (op, ins) = cx.operands_if(outer[0], |op| if let Op::MatMul(m) = op { Some(m.clone()) } else { None })?;
    let fits = name == "mul" && cx.single_use(outer[0]) && cx.graph.fact(v) == cx.graph.fact(outer[0]);
    let constant = cx.graph.weight(ins[1]).is_some() && cx.graph.fact(ins[1]).shape.rank() == 2;
    if !fits || !constant {
        return None;
    }
    let shape = cx.graph.fact(v).shape.clone();
    let s = per_channel(cx.graph.weight(outer[1])?, &shape, shape.rank() - 1)?;
    let n = s.len();
    let s = cx.graph.add_weight("", s);
    let to = Shape::of(&if op.trans_b { [n, 1] } else { [1, n] });
    let s = cx.op(Reshape { to }, &[s])?;
    let w = cx.op(named("mul")?, &[ins[1], s])?;
    let op = MatMul { ..op };
    cx.op(op, &[ins[0], w])
}

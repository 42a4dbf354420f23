//! Convolutions and matrix products of quantised operands, and what is applied to their sums.

use super::params::{Quantised, dequantize, floats};
use super::pointwise::is_quantised;
use crate::normalize::Rewrite;
use tenon_base::{DType, Tensor};
use tenon_ir::ops::binary::Binary;
use tenon_ir::ops::cast::Cast;
use tenon_ir::ops::conv::Conv;
use tenon_ir::ops::integer_product::narrow_difference;
use tenon_ir::ops::matmul::MatMul;
use tenon_ir::{NodeId, Op, Operator, ValueId};

/// More products than this could overflow an `i32` with a bias of up to 2³⁰.
const MOST_PRODUCTS: usize = 1 << 15;
/// The largest bias, in units of the sum.
const LARGEST_BIAS: f64 = (1u64 << 30) as f64;

/// Constant weights without their zero point, and one scale a channel of `axis` (or one for all).
pub(super) struct Weights {
    /// Bytes, or 16 bits where the zero point leads out of them.
    pub(super) data: Tensor,
    pub(super) scale: Vec<f32>,
}

impl Weights {
    /// The weights that `v` dequantises.
    pub(super) fn of(cx: &Rewrite<'_>, v: ValueId, axis: usize) -> Option<Weights> {
        let w = Quantised::of(cx, v)?;
        let data = cx.graph.weight(w.q)?.clone();
        if !w.is_bytes(cx) {
            return None;
        }
        let zero = w.zero.unwrap_or_else(|| Tensor::full(&[], tenon_base::Scalar::of_int(data.dtype(), 0)));
        let along = |t: &Tensor| {
            let skip = data.shape().len().checked_sub(t.shape().len())?;
            let only = t.shape().iter().enumerate().all(|(i, &d)| d == 1 || i + skip == axis);
            (t.len() == 1 || only).then_some(())
        };
        along(&w.scale)?;
        along(&zero)?;
        let scale: Vec<f32> = w.scale.to_f64().iter().map(|s| *s as f32).collect();
        if scale.iter().any(|s| *s <= 0.0) {
            return None;
        }
        let data = narrow_difference(&data, &zero).ok()?;
        Some(Weights { data, scale })
    }

    /// The scale of channel `i`.
    fn scale(&self, i: usize) -> f32 {
        self.scale[if self.scale.len() == 1 { 0 } else { i }]
    }
}

/// Elements of [`Weights::data`].
fn integers(data: &Tensor) -> Vec<i16> {
    match data.dtype() {
        DType::I8 => data.bytes().iter().map(|b| i16::from(*b as i8)).collect(),
        DType::U8 => data.bytes().iter().map(|b| i16::from(*b)).collect(),
        _ => data.to_vec(),
    }
}

/// The sum of at most [`MOST_PRODUCTS`] of them.
fn sum(weights: &[i16]) -> i32 {
    weights.iter().map(|w| i32::from(*w)).sum()
}

/// The integers of `x` as an operand beside `w`: both are of 16 bits where the weights are.
fn beside(cx: &mut Rewrite<'_>, x: ValueId, w: &Tensor) -> Option<ValueId> {
    if w.dtype() == DType::I16 { cx.op(Cast::to(DType::I16), &[x]) } else { Some(x) }
}

/// `bias` in units of `scale`, one for each channel. One that lies between them is rounded where that is `rounded`: where what it is
/// added to is quantised in much larger steps.
fn bias_units(cx: &Rewrite<'_>, bias: ValueId, scale: &[f32], rounded: bool) -> Option<Vec<i64>> {
    if let Some(b) = Quantised::of(cx, bias)
        && let Some(t) = cx.graph.weight(b.q)
        && b.one_zero() == Some(0)
        && t.len() == scale.len()
    {
        let own = b.scale.to_f64();
        let at = |i: usize| own[if own.len() == 1 { 0 } else { i }];
        let same = |(i, s): (usize, &f32)| (at(i) / f64::from(*s) - 1.0).abs() < 1e-5;
        if (own.len() == 1 || own.len() == scale.len()) && scale.iter().enumerate().all(same) {
            return Some(t.to_i64());
        }
    }
    let t = constant(cx, bias)?;
    if t.len() != scale.len() {
        return None;
    }
    let exact: Vec<f64> = t.to_f64().iter().zip(scale).map(|(b, s)| b / f64::from(*s)).collect();
    let units: Vec<f64> = exact.iter().map(|b| b.round_ties_even()).collect();
    // As near as a product of `f32` is to the number of units that it stands for.
    let whole = |(b, u): (&f64, &f64)| (b - u).abs() <= 1e-4 + 1e-6 * u.abs();
    if !rounded && !exact.iter().zip(&units).all(whole) {
        return None;
    }
    units.iter().all(|b| b.abs() <= LARGEST_BIAS).then(|| units.iter().map(|b| *b as i64).collect())
}

/// The data of a float constant, also one that is quantised.
fn constant(cx: &Rewrite<'_>, v: ValueId) -> Option<Tensor> {
    if let Some(t) = cx.graph.weight(v) {
        return Some(t.clone());
    }
    let Some(Op::Dequantize(op)) = cx.graph.op(v.node) else { return None };
    let ins = cx.graph.operands(v.node).iter().map(|v| cx.graph.weight(*v).cloned()).collect::<Option<Vec<_>>>()?;
    op.eval(&ins).ok()?.pop()
}

/// `conv(DQ x, DQ w, b) → DQ(conv(x, w - zw, b' - zx·Σ(w - zw)))`; a bias that is no whole number of units is added behind it.
pub(super) fn conv(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    let (op, ins) = cx.operands_if(v, |op| if let Op::Conv(c) = op { Some(c.clone()) } else { None })?;
    let x = Quantised::of(cx, ins[0])?;
    let (scale, zero) = x.per_tensor()?;
    let w = Weights::of(cx, ins[1], 0)?;
    let channels = w.data.shape()[0];
    let each = w.data.len() / channels.max(1);
    if !x.is_bytes(cx) || scale <= 0.0 || channels == 0 || each > MOST_PRODUCTS {
        return None;
    }
    let scales: Vec<f32> = (0..channels).map(|o| scale * w.scale(o)).collect();
    let mut behind = None;
    let mut bias = match ins.get(2) {
        Some(b) => bias_units(cx, *b, &scales, is_quantised(cx, v)).or_else(|| {
            behind = Some(constant(cx, *b).filter(|b| b.len() == channels)?);
            Some(vec![0; channels])
        })?,
        None => vec![0; channels],
    };
    let data = integers(&w.data);
    for (b, w) in bias.iter_mut().zip(data.chunks(each.max(1))) {
        *b -= zero * i64::from(sum(w));
    }
    let bias = bias.iter().map(|b| i32::try_from(*b).ok()).collect::<Option<Vec<i32>>>()?;
    let padded = op.pads.iter().any(|p| *p != 0);
    let axis = op.layout.channel_axis(w.data.shape().len());
    let rank = w.data.shape().len();
    let q = beside(cx, x.q, &w.data)?;
    let operands = [q, cx.graph.add_weight("", w.data), cx.graph.add_weight("", Tensor::new(&[channels], &bias))];
    let fill = Some(zero).filter(|z| padded && *z != 0);
    let y = cx.op(Conv { fill, ..op }, &operands)?;
    let mut shape = vec![1; rank];
    shape[axis] = channels;
    let y = dequantize(cx, y, floats(&shape[axis..], &scales), 0)?;
    let Some(bias) = behind else { return Some(y) };
    let bias = cx.graph.add_weight("", bias.reshaped(&shape[axis..]));
    cx.op(Binary::named("add")?, &[y, bias])
}

/// `matmul(DQ a, DQ b) → DQ(matmul(a, b - zb) - za·Σ(b - zb))` where `b` is constant; else zero points are subtracted first.
pub(super) fn matmul(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    let (op, ins) = cx.operands_if(v, |op| if let Op::MatMul(m) = op { Some(m.clone()) } else { None })?;
    let a = Quantised::of(cx, ins[0])?;
    let (scale, zero) = a.per_tensor()?;
    let rank = cx.graph.fact(ins[1]).shape.rank();
    let (k_axis, n_axis) = if op.trans_b { (rank - 1, rank - 2) } else { (rank - 2, rank - 1) };
    let k = cx.graph.fact(ins[1]).shape.0[k_axis].as_usize()?;
    if !a.is_bytes(cx) || scale <= 0.0 || k > MOST_PRODUCTS || k == 0 {
        return None;
    }
    let Some(w) = Weights::of(cx, ins[1], n_axis) else { return activations(cx, &op, &a, (scale, zero), ins[1]) };
    let dims = w.data.shape().to_vec();
    let n = dims[n_axis];
    let scales: Vec<f32> = (0..n).map(|i| scale * w.scale(i)).collect();
    // Sums over k, in the shape of the product's last two axes [.., 1, n].
    let data = integers(&w.data);
    let sums: Option<Vec<i32>> = data
        .chunks((k * n).max(1))
        .flat_map(|m| {
            // In the order of memory.
            if op.trans_b {
                return m.chunks(k).map(sum).collect();
            }
            let mut sums = vec![0i32; n];
            m.chunks(n).for_each(|row| sums.iter_mut().zip(row).for_each(|(s, w)| *s += i32::from(*w)));
            sums
        })
        .map(|s| i32::try_from(-zero * i64::from(s)).ok())
        .collect();
    let q = beside(cx, a.q, &w.data)?;
    let w = cx.graph.add_weight("", w.data);
    let mut y = cx.op(MatMul { ..op }, &[q, w])?;
    if zero != 0 {
        let mut shape = dims[..rank - 2].to_vec();
        shape.extend([1, n]);
        let correction = Tensor::new(&shape, &sums?);
        let correction = if rank == 2 { correction.reshaped(&[n]) } else { correction };
        let c = cx.graph.add_weight("", correction);
        y = cx.op(Binary::named("add")?, &[y, c])?;
    }
    dequantize(cx, y, floats(&[n], &scales), 0)
}

/// A product of two quantised activations.
fn activations(
    cx: &mut Rewrite<'_>,
    op: &MatMul,
    a: &Quantised,
    (scale, zero): (f32, i64),
    b: ValueId,
) -> Option<ValueId> {
    let b = Quantised::of(cx, b)?;
    let (b_scale, b_zero) = b.per_tensor()?;
    if !b.is_bytes(cx) || b_scale <= 0.0 {
        return None;
    }
    let (x, y) =
        if zero == 0 && b_zero == 0 { (a.q, b.q) } else { (centred(cx, a.q, zero)?, centred(cx, b.q, b_zero)?) };
    let y = cx.op(MatMul { ..op.clone() }, &[x, y])?;
    dequantize(cx, y, Tensor::new(&[], &[scale * b_scale]), 0)
}

/// `q - zero` in 16 bits.
fn centred(cx: &mut Rewrite<'_>, q: ValueId, zero: i64) -> Option<ValueId> {
    let wide = cx.op(Cast::to(DType::I16), &[q])?;
    if zero == 0 {
        return Some(wide);
    }
    let zero = cx.graph.add_weight("", Tensor::new(&[], &[i16::try_from(zero).ok()?]));
    cx.op(Binary::named("sub")?, &[wide, zero])
}

/// A sum in `i32` with its scale.
fn sum_of(cx: &Rewrite<'_>, v: ValueId) -> Option<Quantised> {
    Quantised::of(cx, v).filter(|s| s.dtype(cx) == DType::I32 && s.zero.is_none())
}

/// `DQ(sum) + c → DQ(sum + c')`, the constant in units of the sum, if it is a whole number of them or the result is quantised.
pub(super) fn bias(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    let (_, ins) = cx.operands_if(v, |op| (op.name() == "add").then_some(()))?;
    let rounded = is_quantised(cx, v);
    for (sum, c) in [(ins[0], ins[1]), (ins[1], ins[0])] {
        let (Some(sum), Some(t)) = (sum_of(cx, sum), constant(cx, c)) else { continue };
        if cx.graph.fact(sum.q).shape != cx.graph.fact(v).shape || t.len() > 1 << 20 {
            continue;
        }
        let units = if t.len() == sum.scale.len() {
            let scale: Vec<f32> = sum.scale.to_f64().iter().map(|s| *s as f32).collect();
            // Only where they lie along the same axis.
            let trimmed = |t: &Tensor| t.shape().iter().copied().skip_while(|d| *d == 1).collect::<Vec<_>>();
            (trimmed(&t) == trimmed(&sum.scale)).then(|| bias_units(cx, c, &scale, rounded))?
        } else if sum.scale.len() == 1 {
            bias_units(cx, c, &vec![sum.scale.to_f64()[0] as f32; t.len()], rounded)
        } else {
            None
        };
        let units = units?.iter().map(|b| i32::try_from(*b).ok()).collect::<Option<Vec<i32>>>()?;
        let c = cx.graph.add_weight("", Tensor::new(t.shape(), &units));
        let y = cx.op(Binary::named("add")?, &[sum.q, c])?;
        return dequantize(cx, y, sum.scale, 0);
    }
    None
}

/// `DQ(sum) · c → DQ(sum)` with the product of the scales, for one constant above 0.
pub(super) fn scale(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    let (_, ins) = cx.operands_if(v, |op| (op.name() == "mul").then_some(()))?;
    let sum = sum_of(cx, ins[0])?;
    let c = super::params::uniform(cx.graph.weight(ins[1])?)?.as_f64();
    if c.partial_cmp(&0.0) != Some(std::cmp::Ordering::Greater)
        || cx.graph.fact(sum.q).shape != cx.graph.fact(v).shape
    {
        return None;
    }
    let scaled: Vec<f32> = sum.scale.to_f64().iter().map(|s| *s as f32 * c as f32).collect();
    let scale = Tensor::new(sum.scale.shape(), &scaled);
    dequantize(cx, sum.q, scale, 0)
}

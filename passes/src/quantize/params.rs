//! What is known of quantised values.

use crate::normalize::Rewrite;
use tenon_base::{DType, Scalar, Tensor};
use tenon_ir::ops::clip::Clip;
use tenon_ir::{Op, Operator, ValueId};

/// A float value that is `(q - zero) · scale`, with constants.
#[derive(Clone, Debug)]
pub(super) struct Quantised {
    /// The integers.
    pub(super) q: ValueId,
    /// `f32`, broadcasting to the shape of `q`.
    pub(super) scale: Tensor,
    /// Of the dtype of `q`; `None`: 0.
    pub(super) zero: Option<Tensor>,
}

impl Quantised {
    /// What `v` dequantises.
    pub(super) fn of(cx: &Rewrite<'_>, v: ValueId) -> Option<Quantised> {
        let Some(Op::Dequantize(_)) = cx.graph.op(v.node) else { return None };
        let ins = cx.graph.operands(v.node);
        let scale = cx.graph.weight(ins[1])?.clone();
        let zero = match ins.get(2) {
            Some(z) => Some(cx.graph.weight(*z)?.clone()).filter(|t| t.scalars().any(|z| z.as_int() != 0)),
            None => None,
        };
        let usable = scale.dtype() == DType::F32 && scale.to_f64().iter().all(|s| s.is_finite() && *s != 0.0);
        usable.then_some(Quantised { q: ins[0], scale, zero })
    }

    /// The dtype of the integers.
    pub(super) fn dtype(&self, cx: &Rewrite<'_>) -> DType {
        cx.graph.fact(self.q).dtype
    }

    /// Whether the integers are bytes.
    pub(super) fn is_bytes(&self, cx: &Rewrite<'_>) -> bool {
        matches!(self.dtype(cx), DType::U8 | DType::I8)
    }

    /// The zero point, if it is one for all elements.
    pub(super) fn one_zero(&self) -> Option<i64> {
        match &self.zero {
            None => Some(0),
            Some(t) => uniform(t).map(|z| z.as_int() as i64),
        }
    }

    /// Scale and zero point, if they are the same for all elements.
    pub(super) fn per_tensor(&self) -> Option<(f32, i64)> {
        Some((uniform(&self.scale)?.as_f64() as f32, self.one_zero()?))
    }
}

/// The one value of a constant whose elements are all equal.
pub(super) fn uniform(t: &Tensor) -> Option<Scalar> {
    let first = t.scalars().next()?;
    t.scalars().all(|s| s == first).then_some(first)
}

/// How `v` is quantised: `Q` with one scale and zero point.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quantiser {
    /// The float operand.
    pub(super) x: ValueId,
    /// The scale.
    pub(super) scale: f32,
    /// The zero point.
    pub(super) zero: i64,
    /// The result's dtype.
    pub(super) to: DType,
    /// Bounds of the result.
    pub(super) min: i64,
    /// Bounds of the result.
    pub(super) max: i64,
}

impl Quantiser {
    /// The quantiser that makes `v`, if it is one of `f32` with constant parameters.
    pub(super) fn of(cx: &Rewrite<'_>, v: ValueId) -> Option<Quantiser> {
        let Some(Op::Quantize(op)) = cx.graph.op(v.node) else { return None };
        let to = op.to;
        let ins = cx.graph.operands(v.node);
        let scale = uniform(cx.graph.weight(ins[1])?)?.as_f64() as f32;
        let zero = match ins.get(2) {
            Some(z) => uniform(cx.graph.weight(*z)?)?.as_int() as i64,
            None => 0,
        };
        let (lo, hi) = to.int_range()?;
        let usable = cx.graph.fact(ins[0]).dtype == DType::F32 && scale.is_finite() && scale > 0.0;
        usable.then_some(Quantiser { x: ins[0], scale, zero, to, min: lo as i64, max: hi as i64 })
    }

    /// The same with the rectifiers and clips before it as bounds of the result: rounding keeps the order of values, so
    /// `Q(clip(x, a, b))` is `clip(Q(x), Q(a), Q(b))`.
    pub(super) fn absorbing(mut self, cx: &Rewrite<'_>) -> Quantiser {
        while cx.single_use(self.x) {
            let Some((lo, hi)) = cx.graph.op(self.x.node).and_then(bounds) else { break };
            let bound = |v: f64, s: &Quantiser| {
                let q = f64::from((v as f32 / s.scale).round_ties_even()) + s.zero as f64;
                q.clamp(s.min as f64, s.max as f64) as i64
            };
            // An inner clip applies first: the outer one's bounds hold where they disagree.
            let (lo, hi) = (bound(lo, &self), bound(hi, &self));
            self.min = lo;
            self.max = hi.max(lo);
            self.x = cx.graph.operands(self.x.node)[0];
        }
        self
    }
}

/// The bounds that a rectifier or clip keeps its operand within.
fn bounds(op: &Op) -> Option<(f64, f64)> {
    match op {
        Op::Unary(_) if op.name() == "relu" => Some((0.0, f64::INFINITY)),
        Op::Clip(Clip { min, max }) => {
            let (lo, hi) = (min.map_or(f64::NEG_INFINITY, |r| r.0), max.map_or(f64::INFINITY, |r| r.0));
            (lo <= hi).then_some((lo, hi))
        }
        _ => None,
    }
}

/// Adds `(q - zero) · scale`; without the zero point where it is 0.
pub(super) fn dequantize(cx: &mut Rewrite<'_>, q: ValueId, scale: Tensor, zero: i64) -> Option<ValueId> {
    let dtype = cx.graph.fact(q).dtype;
    let mut ins = vec![q, cx.graph.add_weight("", scale)];
    if zero != 0 {
        let zero = Tensor::full(&[], Scalar::of_int(dtype, i128::from(zero)));
        ins.push(cx.graph.add_weight("", zero));
    }
    cx.op(tenon_ir::ops::dequantize::Dequantize {}, &ins)
}

/// A scalar of `f32`, or a list.
pub(super) fn floats(shape: &[usize], v: &[f32]) -> Tensor {
    match v {
        [first, rest @ ..] if rest.iter().all(|s| s == first) => Tensor::new(&[], &[*first]),
        v => Tensor::new(shape, v),
    }
}

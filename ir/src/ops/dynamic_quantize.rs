//! DynamicQuantizeLinear: quantisation to `u8` whose scale and zero point come from the data's range, extended to 0.
//!
//! ONNX: [DynamicQuantizeLinear](https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html) (11), by composition.

use super::quantize::Quantize;
use super::reduce::{Kind, Reduce};
use super::util::{apply, cast, number, reshape};
use super::where_::Where;
use crate::ops::*;
use tenon_base::Shape;

pub(super) fn onnx() -> Vec<OnnxName> {
    vec![OnnxName { domain: "", name: "DynamicQuantizeLinear", versions: &[11] }]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    Ok(quantize(cx, x)?.to_vec())
}

/// `x` quantised, its scale and its zero point.
pub(super) fn quantize(cx: &mut Importer<'_>, x: ValueId) -> Result<[ValueId; 3], ImportError> {
    let dtype = cx.dtype(x);
    let axes: Vec<usize> = (0..cx.rank(x)).collect();
    let (zero, most) = (number(cx, dtype, 0.0), number(cx, dtype, 255.0));
    let end = |cx: &mut Importer<'_>, kind: Kind, name: &str| {
        let v = cx.op(Reduce { kind, axes: axes.clone() }, &[x])?;
        let v = reshape(cx, v, Shape(vec![]))?;
        apply(cx, name, &[v, zero])
    };
    let lo = end(cx, Kind::Min, "min")?;
    let hi = end(cx, Kind::Max, "max")?;
    let span = apply(cx, "sub", &[hi, lo])?;
    let scale = apply(cx, "div", &[span, most])?;
    // Zeros only: any scale will do, but not 0.
    let flat = apply(cx, "equal", &[scale, zero])?;
    let one = number(cx, dtype, 1.0);
    let scale = cx.op(Where {}, &[flat, one, scale])?;
    let v = apply(cx, "div", &[lo, scale])?;
    let v = apply(cx, "neg", &[v])?;
    let v = apply(cx, "max", &[v, zero])?;
    let v = apply(cx, "min", &[v, most])?;
    let v = apply(cx, "round", &[v])?;
    let zero_point = cast(cx, v, DType::U8)?;
    let y = cx.op(Quantize { to: DType::U8 }, &[x, scale, zero_point])?;
    Ok([y, scale, zero_point])
}

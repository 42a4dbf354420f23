//! Hardmax: 1 for the first largest element along an axis, 0 for all others.
//!
//! ONNX: [Hardmax](https://onnx.ai/onnx/operators/onnx__Hardmax.html) (1, 11, 13). Before opset 13 the axes from `axis` on were one.

use super::arg_reduce::ArgReduce;
use super::cast::Cast;
use super::reshape::Reshape;
use super::util::apply;
use crate::op::resolve_axis;
use crate::ops::*;
use tenon_base::Shape;

pub(super) fn onnx() -> Vec<OnnxName> {
    vec![OnnxName { domain: "", name: "Hardmax", versions: &[1, 11, 13] }]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    let shape = cx.shape(x).clone();
    let joined = node.opset < 13;
    let axis = resolve_axis(node.int("axis", if joined { 1 } else { -1 })?, shape.rank())?;
    if !joined {
        return Ok(vec![hardmax(cx, x, axis)?]);
    }
    let (a, b) = shape.0.split_at(axis);
    let to = Shape(vec![Shape(a.to_vec()).numel(), Shape(b.to_vec()).numel()]);
    let flat = cx.op(Reshape { to }, &[x])?;
    let y = hardmax(cx, flat, 1)?;
    Ok(vec![cx.op(Reshape { to: shape }, &[y])?])
}

fn hardmax(cx: &mut Importer<'_>, x: ValueId, axis: usize) -> Result<ValueId, ImportError> {
    let (rank, dtype, extent) = (cx.rank(x), cx.dtype(x), cx.shape(x).0[axis].clone());
    let n = extent.as_usize().ok_or_else(|| {
        ImportError::new(format!("axis {axis} must have a known extent, found {extent}"))
            .with_pins(&extent)
    })?;
    let first = cx.op(ArgReduce { axis, max: true, last: false }, &[x])?;
    let mut dims = vec![1; rank];
    dims[axis] = n;
    let positions: Vec<i64> = (0..n as i64).collect();
    let positions = cx.weight(Tensor::new(&dims, &positions));
    let hit = apply(cx, "equal", &[positions, first])?;
    cx.op(Cast::to(dtype), &[hit])
}

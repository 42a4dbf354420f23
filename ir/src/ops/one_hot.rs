//! OneHot: one element of a new axis set apart, by comparison with the positions along it.
//!
//! ONNX: [OneHot](https://onnx.ai/onnx/operators/onnx__OneHot.html) (9, 11).

use super::slice::Slice;
use super::util::{apply, cast, number, reshape};
use super::where_::Where;
use crate::op::resolve_axis;
use crate::ops::*;
use tenon_base::Shape;

pub(super) fn onnx() -> Vec<OnnxName> {
    vec![OnnxName { domain: "", name: "OneHot", versions: &[9, 11] }]
}

/// Positions along an axis that are compared with at most.
const MAX_DEPTH: i64 = 1 << 26;

/// `indices == [0, 1, …, depth - 1]` along axis `axis` of `rank`; `indices` (i64) has extent 1 there, or broadcasts.
fn at_positions(
    cx: &mut Importer<'_>,
    indices: ValueId,
    depth: i64,
    axis: usize,
    rank: usize,
) -> Result<ValueId, ImportError> {
    if !(0..=MAX_DEPTH).contains(&depth) {
        return Err(ImportError::new(format!("depth: expected 0 to {MAX_DEPTH}, found {depth}")));
    }
    let mut shape = vec![1; rank];
    shape[axis] = depth as usize;
    let positions = cx.weight(Tensor::new(&shape, &(0..depth).collect::<Vec<i64>>()));
    apply(cx, "equal", &[indices, positions])
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let (indices, values) = (node.input(0)?, node.input(2)?);
    let depth = match cx.constant(node.input(1)?, "depth")?.to_i64()[..] {
        [d] => d,
        ref other => return Err(ImportError::new(format!("depth: expected one number, found {}", other.len()))),
    };
    let rank = cx.rank(indices) + 1;
    let axis = resolve_axis(node.int("axis", -1)?, rank)?;
    let mut to = cx.shape(indices).0.clone();
    to.insert(axis, Dim::Const(1));
    let i = cast(cx, indices, DType::I64)?;
    let i = reshape(cx, i, Shape(to))?;
    // Indices in -depth..0 count from the end; all others outside match nothing.
    let (zero, count) = (number(cx, DType::I64, 0.0), number(cx, DType::I64, depth as f64));
    let negative = apply(cx, "less", &[i, zero])?;
    let wrapped = apply(cx, "add", &[i, count])?;
    let i = cx.op(Where {}, &[negative, wrapped, i])?;
    let hot = at_positions(cx, i, depth, axis, rank)?;
    if cx.shape(values).numel().as_const().is_some_and(|n| n != 2) {
        return Err(ImportError::new(format!("values: expected [off, on], found {}", cx.fact(values))));
    }
    let values = reshape(cx, values, Shape::of(&[2]))?;
    let value = |cx: &mut Importer<'_>, at: i64| {
        let one = cx.op(Slice { starts: vec![at], steps: vec![1], to: Shape::of(&[1]) }, &[values])?;
        reshape(cx, one, Shape(vec![]))
    };
    let (off, on) = (value(cx, 0)?, value(cx, 1)?);
    Ok(vec![cx.op(Where {}, &[hot, on, off])?])
}

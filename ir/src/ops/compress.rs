//! Compress and NonZero: results whose extents depend on data. Where the data is known at compile time, so are they.
//!
//! ONNX: [Compress](https://onnx.ai/onnx/operators/onnx__Compress.html) (9, 11), a gather at the true positions;
//! [NonZero](https://onnx.ai/onnx/operators/onnx__NonZero.html) (9, 13), a constant.

use super::choose::Choose;
use super::gather::Gather;
use super::nonzero::NonZero;
use super::util::{for_each_index, reshape};
use crate::op::resolve_axis;
use crate::ops::*;
use tenon_base::Shape;

pub(super) fn onnx() -> Vec<OnnxName> {
    let on = |name, versions| OnnxName { domain: "", name, versions };
    vec![on("Compress", &[9, 11]), on("NonZero", &[9, 13])]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let mut x = node.input(0)?;
    if node.op_type() == "NonZero" {
        return import_non_zero(cx, x);
    }
    let axis = match node.opt_int("axis")? {
        Some(a) => resolve_axis(a, cx.rank(x))?,
        None => {
            let n = cx.shape(x).numel();
            x = reshape(cx, x, Shape(vec![n]))?;
            0
        }
    };
    let condition = node.input(1)?;
    let Some(condition) = cx.known(condition).map(Tensor::to_i64) else {
        let made = cx.ops(Choose { axis }, &[x, condition])?;
        return Ok(vec![cx.sized(made[0], axis, made[1])?]);
    };
    let extent = cx.shape(x).0[axis].clone();
    if extent.as_const().is_some_and(|n| n < condition.len() as i64) {
        return Err(ImportError::new(format!("condition: expected at most {extent} elements, found {}", condition.len())));
    }
    let chosen: Vec<i64> = (0..).zip(&condition).filter(|(_, c)| **c != 0).map(|(i, _)| i).collect();
    let chosen = cx.weight(Tensor::new(&[chosen.len()], &chosen));
    Ok(vec![cx.op(Gather { axis }, &[x, chosen])?])
}

fn import_non_zero(cx: &mut Importer<'_>, x: ValueId) -> Result<Vec<ValueId>, ImportError> {
    let Some(x) = cx.known(x).cloned() else {
        let made = cx.ops(NonZero {}, &[x])?;
        return Ok(vec![cx.sized(made[0], 1, made[1])?]);
    };
    // A scalar is a vector of one element.
    let dims = if x.shape().is_empty() { vec![1] } else { x.shape().to_vec() };
    let mut found: Vec<Vec<i64>> = vec![vec![]; dims.len()];
    let mut values = x.scalars();
    for_each_index(&dims, |i| {
        if values.next().is_some_and(|v| v.as_f64() != 0.0) {
            found.iter_mut().zip(i).for_each(|(list, &i)| list.push(i as i64));
        }
    });
    let count = found[0].len();
    Ok(vec![cx.weight(Tensor::new(&[dims.len(), count], &found.concat()))])
}

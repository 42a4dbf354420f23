//! What is known of shapes at compile time, as constants: Shape, Size, ConstantOfShape and Range.
//!
//! ONNX: [Shape](https://onnx.ai/onnx/operators/onnx__Shape.html) (1, 13, 15, 19, 21, 23, 24, 25),
//! [Size](https://onnx.ai/onnx/operators/onnx__Size.html), [ConstantOfShape](https://onnx.ai/onnx/operators/onnx__ConstantOfShape.html) (9, 20, 21, 23),
//! [Range](https://onnx.ai/onnx/operators/onnx__Range.html) (11).

use super::cast::convert;
use super::expand::Expand;
use super::util;
use crate::ops::*;
use tenon_base::{Scalar, Shape};

pub(super) fn onnx() -> Vec<OnnxName> {
    let on = |name, versions| OnnxName { domain: "", name, versions };
    vec![
        on("Shape", &[1, 13, 15, 19, 21, 23, 24, 25]),
        on("Size", &[1, 13, 19, 21, 23, 24, 25]),
        on("ConstantOfShape", &[9, 20, 21, 23, 24, 25]),
        on("Range", &[11, 27]),
        OnnxName { domain: "com.microsoft", name: "Range", versions: &[1] },
    ]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    match node.op_type() {
        "Shape" => import_shape(node, cx),
        "Size" => {
            let x = node.input(0)?;
            let n = cx.shape(x).numel();
            Ok(vec![integers(cx, vec![n], &[])])
        }
        "ConstantOfShape" => import_constant(node, cx),
        _ => import_range(node, cx),
    }
}

/// A small integer tensor; extents that are not numbers yet are remembered beside a placeholder that nothing may read.
fn integers(cx: &mut Importer<'_>, dims: Vec<Dim>, shape: &[usize]) -> ValueId {
    match dims.iter().map(Dim::as_const).collect::<Option<Vec<i64>>>() {
        Some(v) => cx.weight(Tensor::new(shape, &v)),
        None => cx.symbolic(dims, shape),
    }
}

fn import_shape(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    let dims = cx.shape(x).0.clone();
    let rank = dims.len() as i64;
    let clamp = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
    let (start, end) = (clamp(node.int("start", 0)?), clamp(node.int("end", rank)?));
    let part = dims.get(start..end.max(start)).unwrap_or_default().to_vec();
    let n = part.len();
    Ok(vec![integers(cx, part, &[n])])
}

fn import_constant(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let shape = Shape(cx.constant_dims(node.input(0)?, "shape")?);
    if let Some(d) = shape.0.iter().find(|d| d.as_const().is_some_and(|d| d < 0)) {
        return Err(ImportError::new(format!("shape: expected non-negative extents, found {d}")));
    }
    let value = match node.opt_tensor("value")? {
        None => Scalar::Float(DType::F32, 0.0),
        Some(t) if t.len() == 1 => t.get(0),
        Some(t) => return Err(ImportError::new(format!("value: expected one element, found {}", t.fact()))),
    };
    if shape == Shape(vec![Dim::Const(0)]) {
        return Ok(vec![cx.weight(Tensor::full(&[0], value))]);
    }
    let one = cx.weight(Tensor::full(&[], value));
    if shape.rank() == 0 {
        return Ok(vec![one]);
    }
    Ok(vec![cx.op(Expand { to: shape }, &[one])?])
}

/// Elements at most: a range is a constant of the artifact.
const MAX_RANGE: f64 = (1u64 << 26) as f64;

/// A range whose length is an expression of free dimensions: the running count of that many ones.
fn symbolic_range(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Option<Vec<ValueId>>, ImportError> {
    let one = |cx: &Importer<'_>, i: usize| -> Result<Option<Dim>, ImportError> {
        Ok(cx.known_dims(node.input(i)?).filter(|d| d.len() == 1).map(|d| d[0].clone()))
    };
    let (Some(start), Some(limit), Some(delta)) = (one(cx, 0)?, one(cx, 1)?, one(cx, 2)?) else { return Ok(None) };
    let length = limit.sub(&start);
    if delta.as_const() != Some(1) || length.as_const().is_some() || cx.dtype(node.input(0)?) != DType::I64 {
        return Ok(None);
    }
    let all = util::positions(cx, &length)?;
    if start == Dim::Const(0) {
        return Ok(Some(vec![all]));
    }
    let start = cx.symbolic(vec![start], &[]);
    Ok(Some(vec![cx.op(Op::parse("add", Attrs::default())?, &[all, start])?]))
}

fn import_range(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let stated = node.opt_input(2).is_some() || node.domain() != "com.microsoft";
    if stated
        && let Some(made) = symbolic_range(node, cx)? {
        return Ok(made);
    }
    let read = |i: usize, what: &str| -> Result<Scalar, ImportError> {
        let t = cx.constant(node.input(i)?, what)?;
        if t.len() == 1 { Ok(t.get(0)) } else { Err(ImportError::new(format!("{what}: expected one element"))) }
    };
    let (start, limit) = (read(0, "start")?, read(1, "limit")?);
    let dtype = start.dtype();
    let delta = if stated { read(2, "delta")? } else { convert(Scalar::Int(DType::I64, 1), dtype) };
    let n = ((limit.as_f64() - start.as_f64()) / delta.as_f64()).ceil().max(0.0);
    if n.is_nan() || n > MAX_RANGE {
        return Err(ImportError::new(format!("a range from {start} to {limit} by {delta} has no sensible length")));
    }
    let value = |i: usize| match (start, delta) {
        (Scalar::Int(_, s), Scalar::Int(_, d)) => Scalar::of_int(dtype, s + d * i as i128),
        (s, d) => convert(Scalar::Float(DType::F64, s.as_f64() + d.as_f64() * i as f64), dtype),
    };
    let n = n as usize;
    Ok(vec![cx.weight(Tensor::from_scalars(dtype, &[n], (0..n).map(value)))])
}

//! Products and convolutions of quantised operands: integers without their zero points, summed in `i32`.
//!
//! ONNX: [MatMulInteger](https://onnx.ai/onnx/operators/onnx__MatMulInteger.html) (10), [ConvInteger](https://onnx.ai/onnx/operators/onnx__ConvInteger.html)
//! (10), [QLinearMatMul](https://onnx.ai/onnx/operators/onnx__QLinearMatMul.html) (10, 21) and
//! [QLinearConv](https://onnx.ai/onnx/operators/onnx__QLinearConv.html) (10), which quantise the sum again.

use super::conv::convolution;
use super::matmul::product;
use super::quantize::Quantize;
use super::util::{apply, cast, reshape};
use crate::ops::*;
use tenon_base::Shape;

pub(super) fn onnx() -> Vec<OnnxName> {
    let on = |name, versions| OnnxName { domain: "", name, versions };
    vec![
        on("ConvInteger", &[10]),
        on("MatMulInteger", &[10]),
        on("QLinearConv", &[10]),
        on("QLinearMatMul", &[10, 21]),
    ]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let y = match node.op_type() {
        "MatMulInteger" => {
            let (a, b) = (node.input(0)?, node.input(1)?);
            let a = centred(cx, a, node.opt_input(2), Along::Rows)?;
            let b = centred(cx, b, node.opt_input(3), Along::Columns)?;
            product(cx, a, b)?
        }
        "ConvInteger" => {
            let (x, w) = (node.input(0)?, node.input(1)?);
            let x = centred(cx, x, node.opt_input(2), Along::Columns)?;
            let w = centred(cx, w, node.opt_input(3), Along::First)?;
            convolution(node, cx, x, w, None)?
        }
        "QLinearMatMul" => {
            let (a, b) = (node.input(0)?, node.input(3)?);
            let a_ = centred(cx, a, node.opt_input(2), Along::Rows)?;
            let b_ = centred(cx, b, node.opt_input(5), Along::Columns)?;
            let y = product(cx, a_, b_)?;
            let rank = cx.rank(y);
            let (a_scale, b_scale) = (node.input(1)?, node.input(4)?);
            let a_scale = broadcasting(cx, a_scale, Along::Rows, rank)?;
            let b_scale = broadcasting(cx, b_scale, Along::Columns, rank)?;
            requantised(cx, y, a_scale, b_scale, node.input(6)?, node.input(7)?)?
        }
        _ => {
            let (x, w) = (node.input(0)?, node.input(3)?);
            let x_ = centred(cx, x, node.opt_input(2), Along::Columns)?;
            let w_ = centred(cx, w, node.opt_input(5), Along::First)?;
            let y = convolution(node, cx, x_, w_, node.opt_input(8))?;
            let rank = cx.rank(y);
            let x_scale = node.input(1)?;
            let x_scale = broadcasting(cx, x_scale, Along::Columns, rank)?;
            let w_scale = node.input(4)?;
            // One a kernel is one an output channel.
            let w_scale = broadcasting(cx, w_scale, Along::Channels, rank)?;
            requantised(cx, y, x_scale, w_scale, node.input(6)?, node.input(7)?)?
        }
    };
    Ok(vec![y])
}

/// Which axis a list of scales or zero points belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Along {
    /// The axis before the last.
    Rows,
    /// The last axis.
    Columns,
    /// Axis 0.
    First,
    /// Axis 1.
    Channels,
}

/// `v`, one value or one for every element of an axis, in a shape that broadcasts to an operand of `rank` axes.
fn broadcasting(cx: &mut Importer<'_>, v: ValueId, along: Along, rank: usize) -> Result<ValueId, ImportError> {
    let shape = cx.shape(v).clone();
    if shape.numel() == Dim::Const(1) {
        return reshape(cx, v, Shape(vec![]));
    }
    if shape.rank() != 1 {
        // Already one a row of every matrix.
        return Ok(v);
    }
    let axis = match along {
        Along::Rows if rank >= 2 => rank - 2,
        Along::Channels if rank >= 2 => 1,
        Along::First => 0,
        _ => rank.saturating_sub(1),
    };
    let mut to = vec![Dim::Const(1); rank.max(1)];
    to[axis] = shape.0[0].clone();
    reshape(cx, v, Shape(to))
}

/// `x - zero` as `i32`.
fn centred(cx: &mut Importer<'_>, x: ValueId, zero: Option<ValueId>, along: Along) -> Result<ValueId, ImportError> {
    if !matches!(cx.dtype(x), DType::U8 | DType::I8) {
        return Err(ImportError::new(format!("expected an operand of u8 or i8, found {}", cx.fact(x))));
    }
    let rank = cx.rank(x);
    let wide = cast(cx, x, DType::I32)?;
    let Some(zero) = zero else { return Ok(wide) };
    if cx.known(zero).is_some_and(|t| t.scalars().all(|z| z.as_int() == 0)) {
        return Ok(wide);
    }
    let zero = broadcasting(cx, zero, along, rank)?;
    let zero = cast(cx, zero, DType::I32)?;
    apply(cx, "sub", &[wide, zero])
}

/// `saturate(round(y · a_scale · b_scale / scale) + zero)`
fn requantised(
    cx: &mut Importer<'_>,
    y: ValueId,
    a_scale: ValueId,
    b_scale: ValueId,
    scale: ValueId,
    zero: ValueId,
) -> Result<ValueId, ImportError> {
    let rank = cx.rank(y);
    let both = [a_scale, b_scale].map(|s| cast(cx, s, DType::F32));
    let [a, b] = both;
    let factor = apply(cx, "mul", &[a?, b?])?;
    let scale = broadcasting(cx, scale, Along::Rows, rank)?;
    let scale = cast(cx, scale, DType::F32)?;
    let zero = broadcasting(cx, zero, Along::Rows, rank)?;
    let to = cx.dtype(zero);
    let y = cast(cx, y, DType::F32)?;
    let y = apply(cx, "mul", &[y, factor])?;
    cx.op(Quantize { to }, &[y, scale, zero])
}

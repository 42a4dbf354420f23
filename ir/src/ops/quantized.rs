//! Operators on quantised tensors, with scales and zero points as operands: the same as dequantising, computing in floats and
//! quantising again, which is what they are imported as. A pass makes integer operators of such regions, whichever
//! way a model writes them.
//!
//! ONNX: [QLinearConv](https://onnx.ai/onnx/operators/onnx__QLinearConv.html) (10) and
//! [QLinearMatMul](https://onnx.ai/onnx/operators/onnx__QLinearMatMul.html) (10, 21); of `com.microsoft` QGemm, QLinearAdd, QLinearMul,
//! QLinearConv, QLinearAveragePool, QLinearGlobalAveragePool, QLinearReduceMean, QLinearSigmoid, QLinearLeakyRelu, QLinearSoftmax,
//! QLinearConcat and QLinearWhere.

use super::activation::Activation;
use super::concat::Concat;
use super::conv::convolution;
use super::dequantize::Dequantize;
use super::matmul::{MatMul, product};
use super::pool::Pool;
use super::quantize::Quantize;
use super::reduce::Reduce;
use super::softmax::Softmax;
use super::transpose::Transpose;
use super::util::{apply, cast, number, reshape};
use super::where_::Where;
use crate::op::resolve_axis;
use crate::ops::*;
use tenon_base::Shape;

pub(super) fn onnx() -> Vec<OnnxName> {
    let on = |domain, name, versions: &'static [i64]| OnnxName { domain, name, versions };
    let mut all = vec![on("", "QLinearConv", &[10]), on("", "QLinearMatMul", &[10, 21])];
    all.extend(
        [
            "QGemm",
            "QLinearAdd",
            "QLinearAveragePool",
            "QLinearConcat",
            "QLinearConv",
            "QLinearGlobalAveragePool",
            "QLinearLeakyRelu",
            "QLinearMul",
            "QLinearReduceMean",
            "QLinearSigmoid",
            "QLinearSoftmax",
            "QLinearWhere",
        ]
        .map(|name| on("com.microsoft", name, &[1])),
    );
    all
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let y = match node.op_type() {
        "QLinearConv" => conv(node, cx)?,
        "QLinearMatMul" => {
            let a = dequantized(node, cx, 0, Along::Rows)?;
            let b = dequantized(node, cx, 3, Along::Columns)?;
            let y = product(cx, a, b)?;
            quantized(node, cx, y, 6)?
        }
        "QGemm" => gemm(node, cx)?,
        name @ ("QLinearAdd" | "QLinearMul") => {
            let (a, b) = (dequantized(node, cx, 0, Along::Columns)?, dequantized(node, cx, 3, Along::Columns)?);
            let y = apply(cx, if name == "QLinearAdd" { "add" } else { "mul" }, &[a, b])?;
            quantized(node, cx, y, 6)?
        }
        "QLinearWhere" => {
            let cond = node.input(0)?;
            let (a, b) = (dequantized(node, cx, 1, Along::Columns)?, dequantized(node, cx, 4, Along::Columns)?);
            let y = cx.op(Where {}, &[cond, a, b])?;
            quantized(node, cx, y, 7)?
        }
        "QLinearConcat" => {
            let operands = node.inputs.len().saturating_sub(2) / 3;
            let parts: Vec<ValueId> = (0..operands)
                .map(|i| dequantized(node, cx, 2 + 3 * i, Along::Columns))
                .collect::<Result<_, _>>()?;
            let first = *parts.first().ok_or_else(|| ImportError::new("expected at least one operand, found none"))?;
            let axis = resolve_axis(node.int("axis", 0)?, cx.rank(first))?;
            let y = cx.op(Concat { axis }, &parts)?;
            quantized(node, cx, y, 0)?
        }
        name => {
            let x = dequantized(node, cx, 0, Along::Columns)?;
            let y = of_one(node, cx, name, x)?;
            quantized(node, cx, y, 3)?
        }
    };
    Ok(vec![y])
}

/// Operators of one quantised operand, on its float value.
fn of_one(node: &OnnxNode<'_>, cx: &mut Importer<'_>, name: &str, x: ValueId) -> Result<ValueId, ImportError> {
    let renamed = |cx: &mut Importer<'_>, to: &str, opset: i64, import: ImportFn, x: ValueId| {
        let raw = node.renamed(to);
        import(&OnnxNode::new(&raw, opset, &[Some(x)]), cx).map(|v| v[0])
    };
    let opset = 13;
    match name {
        "QLinearSigmoid" => apply(cx, "sigmoid", &[x]),
        "QLinearLeakyRelu" => renamed(cx, "LeakyRelu", 16, Activation::import, x),
        "QLinearReduceMean" => renamed(cx, "ReduceMean", opset, Reduce::import, x),
        "QLinearSoftmax" => renamed(cx, "Softmax", node.int("opset", opset)?, Softmax::import, x),
        _ => {
            let (to, import): (&str, ImportFn) = match name {
                "QLinearGlobalAveragePool" => ("GlobalAveragePool", Reduce::import),
                _ => ("AveragePool", Pool::import),
            };
            let last = node.int("channels_last", 0)? != 0;
            let x = if last { moved_channels(cx, x, false)? } else { x };
            let y = renamed(cx, to, 11, import, x)?;
            if last { moved_channels(cx, y, true) } else { Ok(y) }
        }
    }
}

/// `[N, spatial…, C]` as `[N, C, spatial…]`, or back.
fn moved_channels(cx: &mut Importer<'_>, x: ValueId, back: bool) -> Result<ValueId, ImportError> {
    let rank = cx.rank(x);
    if rank < 3 {
        return Ok(x);
    }
    let mut perm: Vec<usize> = vec![0];
    if back {
        perm.extend(2..rank);
        perm.push(1);
    } else {
        perm.push(rank - 1);
        perm.extend(1..rank - 1);
    }
    cx.op(Transpose { perm }, &[x])
}

fn conv(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<ValueId, ImportError> {
    let mut x = dequantized(node, cx, 0, Along::Columns)?;
    let w = dequantized(node, cx, 3, Along::First)?;
    let bias = match node.opt_input(8) {
        None => None,
        Some(b) => {
            let (x_scale, w_scale) = (node.input(1)?, node.input(4)?);
            let x_scale = broadcasting(cx, x_scale, Along::First, 1)?;
            let w_scale = broadcasting(cx, w_scale, Along::First, 1)?;
            let scale = apply(cx, "mul", &[x_scale, w_scale])?;
            Some(cx.op(Dequantize {}, &[b, scale])?)
        }
    };
    let last = node.int("channels_last", 0)? != 0;
    if last {
        x = moved_channels(cx, x, false)?;
    }
    let mut y = convolution(node, cx, x, w, bias)?;
    if last {
        y = moved_channels(cx, y, true)?;
    }
    quantized(node, cx, y, 6)
}

/// `alpha · A' · B' + C`, quantised where the scale of the result is given.
fn gemm(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<ValueId, ImportError> {
    let trans_b = node.int("transB", 0)? != 0;
    let a = dequantized(node, cx, 0, Along::Rows)?;
    let b = dequantized(node, cx, 3, if trans_b { Along::First } else { Along::Columns })?;
    if cx.rank(a) != 2 || cx.rank(b) != 2 {
        return Err(ImportError::new(format!("expected matrices, found {} and {}", cx.fact(a), cx.fact(b))));
    }
    let mut y = cx.op(MatMul { trans_a: node.int("transA", 0)? != 0, trans_b }, &[a, b])?;
    let alpha = node.float("alpha", 1.0)?;
    let alpha = (alpha != 1.0).then(|| number(cx, DType::F32, f64::from(alpha)));
    if let Some(alpha) = alpha {
        y = apply(cx, "mul", &[y, alpha])?;
    }
    if let Some(c) = node.opt_input(6) {
        let (a_scale, b_scale) = (node.input(1)?, node.input(4)?);
        let a_scale = broadcasting(cx, a_scale, Along::Rows, 2)?;
        let b_scale = broadcasting(cx, b_scale, Along::Columns, 2)?;
        let mut scale = apply(cx, "mul", &[a_scale, b_scale])?;
        if let Some(alpha) = alpha {
            scale = apply(cx, "mul", &[scale, alpha])?;
        }
        let c = cast(cx, c, DType::I32)?;
        let scale = if cx.shape(scale).numel() == Dim::Const(1) {
            reshape(cx, scale, Shape(vec![]))?
        } else if cx.rank(c) == 1 {
            reshape(cx, scale, cx.shape(c).clone())?
        } else {
            scale
        };
        let c = cx.op(Dequantize {}, &[c, scale])?;
        y = apply(cx, "add", &[y, c])?;
    }
    if node.opt_input(7).is_some() { quantized(node, cx, y, 7) } else { Ok(y) }
}

/// Which axis a list of scales or zero points belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Along {
    /// The axis before the last.
    Rows,
    /// The last axis.
    Columns,
    /// Axis 0.
    First,
}

/// `v`, one value or one for every element of an axis, in a shape that broadcasts to an operand of `rank` axes.
pub(super) fn broadcasting(
    cx: &mut Importer<'_>,
    v: ValueId,
    along: Along,
    rank: usize,
) -> Result<ValueId, ImportError> {
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
        Along::First => 0,
        _ => rank.saturating_sub(1),
    };
    let mut to = vec![Dim::Const(1); rank.max(1)];
    to[axis] = shape.0[0].clone();
    reshape(cx, v, Shape(to))
}

/// Operand `i` with its scale and zero point, the two operands after it, as floats.
fn dequantized(node: &OnnxNode<'_>, cx: &mut Importer<'_>, i: usize, along: Along) -> Result<ValueId, ImportError> {
    let (x, scale) = (node.input(i)?, node.input(i + 1)?);
    if !matches!(cx.dtype(x), DType::U8 | DType::I8 | DType::U16 | DType::I16) {
        return Err(ImportError::new(format!("operand {i}: expected quantised elements, found {}", cx.fact(x))));
    }
    let rank = cx.rank(x);
    let scale = broadcasting(cx, scale, along, rank)?;
    let mut operands = vec![x, cast(cx, scale, DType::F32)?];
    if let Some(z) = node.opt_input(i + 2)
        && cx.known(z).is_none_or(|t| t.scalars().any(|z| z.as_int() != 0))
    {
        operands.push(broadcasting(cx, z, along, rank)?);
    }
    cx.op(Dequantize {}, &operands)
}

/// `y` quantised with the scale and zero point that are operands `i` and `i + 1`.
fn quantized(node: &OnnxNode<'_>, cx: &mut Importer<'_>, y: ValueId, i: usize) -> Result<ValueId, ImportError> {
    let rank = cx.rank(y);
    let scale = node.input(i)?;
    let scale = broadcasting(cx, scale, Along::Rows, rank)?;
    let scale = cast(cx, scale, DType::F32)?;
    match node.opt_input(i + 1) {
        None => cx.op(Quantize { to: DType::U8 }, &[y, scale]),
        Some(z) => {
            let z = broadcasting(cx, z, Along::Rows, rank)?;
            let to = cx.dtype(z);
            cx.op(Quantize { to }, &[y, scale, z])
        }
    }
}

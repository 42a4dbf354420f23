//! Products and convolutions of quantised operands whose results are the sums themselves, in `i32`; and those that scale
//! the sums to floats.
//!
//! ONNX: [MatMulInteger](https://onnx.ai/onnx/operators/onnx__MatMulInteger.html) (10) and
//! [ConvInteger](https://onnx.ai/onnx/operators/onnx__ConvInteger.html) (10); of `com.microsoft` MatMulIntegerToFloat and
//! DynamicQuantizeMatMul. `Σ (a - za)(b - zb)` becomes a product of bytes and, where `b` is constant, a correction by sums of its
//! columns: `Σ a·b' - za·Σ b'` with `b' = b - zb`.

use super::conv::{Conv, convolution};
use super::matmul::product;
use super::quantized::{Along, broadcasting};
use super::reduce::{Kind, Reduce};
use super::util::{apply, cast, number, with_constant};
use crate::ops::*;
use tenon_base::Scalar;

pub(super) fn onnx() -> Vec<OnnxName> {
    let on = |domain, name, versions| OnnxName { domain, name, versions };
    vec![
        on("", "ConvInteger", &[10]),
        on("", "MatMulInteger", &[10]),
        on("com.microsoft", "MatMulIntegerToFloat", &[1]),
        on("com.microsoft", "DynamicQuantizeMatMul", &[1]),
    ]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    Ok(vec![match node.op_type() {
        "MatMulInteger" => {
            matmul_integer(cx, node.input(0)?, node.opt_input(2), node.input(1)?, node.opt_input(3))?
        }
        "ConvInteger" => conv_integer(node, cx)?,
        "MatMulIntegerToFloat" => {
            let y = matmul_integer(cx, node.input(0)?, node.opt_input(4), node.input(1)?, node.opt_input(5))?;
            scaled(cx, y, node.input(2)?, node.input(3)?, node.opt_input(6))?
        }
        _ => {
            let y = dynamic_product(cx, node.input(0)?, node.input(1)?, node.input(2)?, node.opt_input(3))?;
            match node.opt_input(4) {
                Some(bias) => apply(cx, "add", &[y, bias])?,
                None => y,
            }
        }
    }])
}

/// The product of `a`, quantised by its own range, with bytes `b` of that scale and zero point.
pub(super) fn dynamic_product(
    cx: &mut Importer<'_>,
    a: ValueId,
    b: ValueId,
    b_scale: ValueId,
    b_zero: Option<ValueId>,
) -> Result<ValueId, ImportError> {
    let [a, a_scale, a_zero] = super::dynamic_quantize::quantize(cx, a)?;
    let y = matmul_integer(cx, a, Some(a_zero), b, b_zero)?;
    scaled(cx, y, a_scale, b_scale, None)
}

/// `y · a_scale · b_scale + bias` in `f32`.
fn scaled(
    cx: &mut Importer<'_>,
    y: ValueId,
    a_scale: ValueId,
    b_scale: ValueId,
    bias: Option<ValueId>,
) -> Result<ValueId, ImportError> {
    let rank = cx.rank(y);
    let a_scale = broadcasting(cx, a_scale, Along::Rows, rank)?;
    let b_scale = broadcasting(cx, b_scale, Along::Columns, rank)?;
    let scale = apply(cx, "mul", &[a_scale, b_scale])?;
    let y = cast(cx, y, DType::F32)?;
    let y = apply(cx, "mul", &[y, scale])?;
    match bias {
        Some(b) => apply(cx, "add", &[y, b]),
        None => Ok(y),
    }
}

/// `zero` unless it is known to be 0.
fn nonzero(cx: &Importer<'_>, zero: Option<ValueId>) -> Option<ValueId> {
    zero.filter(|z| cx.known(*z).is_none_or(|t| t.scalars().any(|z| z.as_int() != 0)))
}

/// `x - zero`: itself where there is no zero point, else as `i16`, of few bytes where the result is a constant.
fn centred(cx: &mut Importer<'_>, x: ValueId, zero: Option<ValueId>, along: Along) -> Result<ValueId, ImportError> {
    if !matches!(cx.dtype(x), DType::U8 | DType::I8) {
        return Err(ImportError::new(format!("expected an operand of u8 or i8, found {}", cx.fact(x))));
    }
    let Some(zero) = nonzero(cx, zero) else { return Ok(x) };
    let rank = cx.rank(x);
    let zero = broadcasting(cx, zero, along, rank)?;
    if let (Some(x), Some(z)) = (cx.known(x), cx.known(zero)) {
        let t = narrow_difference(x, z)?;
        return Ok(cx.weight(t));
    }
    let (x, zero) = (cast(cx, x, DType::I16)?, cast(cx, zero, DType::I16)?);
    apply(cx, "sub", &[x, zero])
}

/// `x - zero` of bytes in the narrowest dtype that holds it: `i8`, `u8`, else `i16`.
pub fn narrow_difference(x: &Tensor, zero: &Tensor) -> Result<Tensor, String> {
    if x.dtype() == DType::I8 && zero.scalars().all(|z| z.as_int() == 0) {
        return Ok(x.clone());
    }
    let fact = Fact::of(DType::I16, x.shape());
    let wide = match (x.dtype(), zero.len()) {
        // As most weights are: without the way over wider integers.
        (DType::U8, 1) => {
            let zero = zero.get(0).as_int() as i16;
            x.bytes().iter().map(|b| i16::from(*b) - zero).collect()
        }
        _ => super::util::map_broadcast(&fact, [x, zero], |[x, z]: [i128; 2]| x - z)?.to_vec::<i16>(),
    };
    let (lo, hi) = wide.iter().fold((0, 0), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
    let fits = |d: &DType| d.int_range().is_some_and(|(a, b)| a <= lo.into() && i128::from(hi) <= b);
    match [DType::I8, DType::U8].into_iter().find(fits) {
        Some(byte) => {
            let bytes: Vec<u8> = wide.iter().map(|v| *v as u8).collect();
            Tensor::from_bytes(byte, x.shape(), bytes.into()).map_err(|e| e.to_string())
        }
        None => Ok(Tensor::new(x.shape(), &wide)),
    }
}

/// Both operands as `i16` where one is.
fn alike(cx: &mut Importer<'_>, a: ValueId, b: ValueId) -> Result<(ValueId, ValueId), ImportError> {
    if cx.dtype(a) != DType::I16 && cx.dtype(b) != DType::I16 {
        return Ok((a, b));
    }
    Ok((cast(cx, a, DType::I16)?, cast(cx, b, DType::I16)?))
}

/// Constant `b` as `i8` with its zero points along columns, where `b - zero` does not fit a byte; `None` where it does.
fn signed(cx: &mut Importer<'_>, b: ValueId, zero: Option<ValueId>) -> Result<Option<(ValueId, ValueId)>, ImportError> {
    let Some(zero) = nonzero(cx, zero) else { return Ok(None) };
    let zero = broadcasting(cx, zero, Along::Columns, cx.rank(b))?;
    let (Some(b), Some(z)) = (cx.known(b), cx.known(zero)) else { return Ok(None) };
    if narrow_difference(b, z)?.dtype() != DType::I16 {
        return Ok(None);
    }
    let by = if b.dtype() == DType::U8 { 128 } else { 0 };
    let less = |t: &Tensor, d: DType| Tensor::from_scalars(d, t.shape(), t.scalars().map(|v| Scalar::of_int(d, v.as_int() - by)));
    let (b, z) = (less(b, DType::I8), less(z, DType::I32));
    Ok(Some((cx.weight(b), cx.weight(z))))
}

/// The sums of `x` along an axis, which stays, in `i32`.
fn sums(cx: &mut Importer<'_>, x: ValueId, axis: usize) -> Result<ValueId, ImportError> {
    let sum = Reduce { kind: Kind::Sum, axes: vec![axis] };
    if let Some(t) = cx.known(x) {
        // As of most weights: without the way over wider integers.
        let t = sum.integer_sums(t, DType::I32);
        return Ok(cx.weight(t));
    }
    let wide = cast(cx, x, DType::I32)?;
    cx.op(sum, &[wide])
}

/// `Σ_k (a - za)(b - zb)` in `i32`.
fn matmul_integer(
    cx: &mut Importer<'_>,
    a: ValueId,
    a_zero: Option<ValueId>,
    b: ValueId,
    b_zero: Option<ValueId>,
) -> Result<ValueId, ImportError> {
    let constant = cx.known(b).is_some() && b_zero.is_none_or(|z| cx.known(z).is_some());
    let a_zero = nonzero(cx, a_zero);
    let (rank, inner) = (cx.rank(a), cx.shape(b).0.first().and_then(Dim::as_const));
    if rank >= 2
        && cx.rank(b) == 2
        && let Some(inner) = inner
        && let Some((b, b_zero)) = signed(cx, b, b_zero)?
    {
        // Bytes stay bytes: `Σ a·b - zb·Σ a - za·(Σ b - K·zb)`.
        let a = centred(cx, a, None, Along::Rows)?;
        let y = product(cx, a, b)?;
        let rows = sums(cx, a, rank - 1)?;
        let by_row = apply(cx, "mul", &[rows, b_zero])?;
        let y = apply(cx, "sub", &[y, by_row])?;
        let Some(zero) = a_zero else { return Ok(y) };
        let zero = broadcasting(cx, zero, Along::Rows, rank)?;
        let zero = cast(cx, zero, DType::I32)?;
        let columns = sums(cx, b, 0)?;
        let all = with_constant(cx, "mul", b_zero, inner as f64)?;
        let columns = apply(cx, "sub", &[columns, all])?;
        let by_column = apply(cx, "mul", &[columns, zero])?;
        return apply(cx, "sub", &[y, by_column]);
    }
    let b_ = centred(cx, b, b_zero, Along::Columns)?;
    if !constant || cx.rank(b) < 2 {
        let a = centred(cx, a, a_zero, Along::Rows)?;
        let (a, b) = alike(cx, a, b_)?;
        return product(cx, a, b);
    }
    let raw = centred(cx, a, None, Along::Rows)?;
    let (a, b) = alike(cx, raw, b_)?;
    let y = product(cx, a, b)?;
    let Some(zero) = a_zero else { return Ok(y) };
    let zero = broadcasting(cx, zero, Along::Rows, cx.rank(a))?;
    let zero = cast(cx, zero, DType::I32)?;
    let columns = sums(cx, b_, cx.rank(b_) - 2)?;
    let columns = if cx.rank(a) == 1 { super::util::reshape(cx, columns, cx.shape(y).clone())? } else { columns };
    let correction = apply(cx, "mul", &[columns, zero])?;
    apply(cx, "sub", &[y, correction])
}

/// `Σ (x - zx)(w - zw)` over windows, in `i32`; the padding counts as `zx`.
fn conv_integer(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<ValueId, ImportError> {
    let (x, w) = (node.input(0)?, node.input(1)?);
    let w_ = centred(cx, w, node.opt_input(3), Along::First)?;
    let zero = nonzero(cx, node.opt_input(2));
    let known = zero.and_then(|z| cx.known(z)).filter(|t| t.len() == 1).map(|t| t.get(0).as_int());
    let Some(zero) = known.filter(|_| cx.known(w_).is_some()) else {
        let x = centred(cx, x, zero, Along::Columns)?;
        let (x, w) = alike(cx, x, w_)?;
        return convolution(node, cx, x, w, None);
    };
    let x = centred(cx, x, None, Along::Columns)?;
    let (x, w) = alike(cx, x, w_)?;
    let y = convolution(node, cx, x, w, None)?;
    let Some(Op::Conv(conv)) = cx.graph().op(y.node).cloned() else { return Ok(y) };
    let axes: Vec<usize> = (1..cx.rank(w)).collect();
    let wide = cast(cx, w, DType::I32)?;
    let sums = cx.op(Reduce { kind: Kind::Sum, axes }, &[wide])?;
    let sums = super::util::reshape(cx, sums, tenon_base::Shape(vec![cx.shape(w).0[0].clone()]))?;
    let factor = number(cx, DType::I32, -(zero as f64));
    let bias = apply(cx, "mul", &[sums, factor])?;
    cx.op(Conv { fill: Some(zero as i64), ..conv }, &[x, w, bias])
}

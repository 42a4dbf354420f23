//! LpNormalization and MeanVarianceNormalization: elements divided by the norm, or by the standard deviation, of their row.
//!
//! ONNX: [LpNormalization](https://onnx.ai/onnx/operators/onnx__LpNormalization.html) (1, 22): `y = x / (Σ |x|^p)^(1/p)` along `axis`, 0 where
//! the norm is 0. [MeanVarianceNormalization](https://onnx.ai/onnx/operators/onnx__MeanVarianceNormalization.html) (9, 13):
//! `y = (x - mean) / (√variance + 1e-9)` over `axes`.

use super::reduce::{Kind, Reduce};
use super::util::{apply, number, with_constant};
use super::where_::Where;
use crate::op::resolve_axis;
use crate::ops::*;

pub(super) fn onnx() -> Vec<OnnxName> {
    vec![
        OnnxName { domain: "", name: "LpNormalization", versions: &[1, 22] },
        OnnxName { domain: "", name: "MeanVarianceNormalization", versions: &[9, 13] },
    ]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    let rank = cx.rank(x);
    if node.op_type() == "MeanVarianceNormalization" {
        let axes = node.opt_ints("axes")?.unwrap_or(vec![0, 2, 3]);
        let mut axes: Vec<usize> = axes.iter().map(|&a| resolve_axis(a, rank)).collect::<Result<_, _>>()?;
        axes.sort_unstable();
        axes.dedup();
        let mean = cx.op(Reduce { kind: Kind::Mean, axes: axes.clone() }, &[x])?;
        let centred = apply(cx, "sub", &[x, mean])?;
        let square = apply(cx, "mul", &[centred, centred])?;
        let variance = cx.op(Reduce { kind: Kind::Mean, axes }, &[square])?;
        let deviation = apply(cx, "sqrt", &[variance])?;
        let deviation = with_constant(cx, "add", deviation, 1e-9)?;
        return Ok(vec![apply(cx, "div", &[centred, deviation])?]);
    }
    let axis = resolve_axis(node.int("axis", -1)?, rank)?;
    let kind = match node.int("p", 2)? {
        1 => Kind::L1,
        2 => Kind::L2,
        other => return Err(ImportError::new(format!("p: expected 1 or 2, found {other}"))),
    };
    let norm = cx.op(Reduce { kind, axes: vec![axis] }, &[x])?;
    // Where the norm is 0 all elements are, and stay so when divided by 1.
    let zero = with_constant(cx, "equal", norm, 0.0)?;
    let one = number(cx, cx.dtype(x), 1.0);
    let divisor = cx.op(Where {}, &[zero, one, norm])?;
    Ok(vec![apply(cx, "div", &[x, divisor])?])
}

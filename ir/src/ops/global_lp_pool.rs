//! GlobalLpPool: the p-norm of every channel. ONNX: [GlobalLpPool](https://onnx.ai/onnx/operators/onnx__GlobalLpPool.html) (1, 2, 22).
//!
//! `y[n, c, 1, …] = (Σ_h |x[n, c, h]|^p)^(1/p)`

use super::reduce::{Kind, Reduce};
use super::util::{apply, with_constant};
use crate::ops::*;

pub(super) fn onnx() -> Vec<OnnxName> {
    vec![OnnxName { domain: "", name: "GlobalLpPool", versions: &[1, 2, 22] }]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    if cx.rank(x) < 2 {
        return Err(ImportError::new(format!("expected an operand [N,C,spatial…], found {}", cx.fact(x))));
    }
    let axes: Vec<usize> = (2..cx.rank(x)).collect();
    let y = match node.int("p", 2)? {
        1 => cx.op(Reduce { kind: Kind::L1, axes }, &[x])?,
        2 => cx.op(Reduce { kind: Kind::L2, axes }, &[x])?,
        p if p > 2 => {
            let magnitude = apply(cx, "abs", &[x])?;
            let power = with_constant(cx, "pow", magnitude, p as f64)?;
            let sum = cx.op(Reduce { kind: Kind::Sum, axes }, &[power])?;
            with_constant(cx, "pow", sum, 1.0 / p as f64)?
        }
        p => return Err(ImportError::new(format!("p: expected a positive integer, found {p}"))),
    };
    Ok(vec![y])
}

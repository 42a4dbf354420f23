//! Causal convolution with a state, and SwiGLU: parts of state-space and gated models.
//!
//! ONNX: [CausalConvWithState](https://onnx.ai/onnx/operators/onnx__CausalConvWithState.html) (27),
//! [SwiGLU](https://onnx.ai/onnx/operators/onnx__SwiGLU.html) (28).

use super::concat::Concat;
use super::conv::{Conv, Layout};
use super::expand::Expand;
use super::util::{apply, number, part, with_constant};
use crate::ops::*;
use tenon_base::Shape;

pub(super) fn onnx() -> Vec<OnnxName> {
    let on = |name, versions| OnnxName { domain: "", name, versions };
    vec![on("CausalConvWithState", &[27]), on("SwiGLU", &[28])]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    if node.op_type() == "SwiGLU" {
        let (a, b) = (node.input(0)?, node.input(1)?);
        let gate = swish(cx, a, f64::from(node.float("alpha", 1.0)?))?;
        return Ok(vec![apply(cx, "mul", &[gate, b])?]);
    }
    let (x, w) = (node.input(0)?, node.input(1)?);
    let (xs, ws) = (cx.shape(x).clone(), cx.shape(w).clone());
    if xs.rank() != 3 || ws.rank() != 3 {
        return Err(ImportError::new(format!("expected operands of rank 3, found {xs} and {ws}")));
    }
    let known = |d: &Dim| d.as_usize().filter(|n| *n > 0);
    let (Some(channels), Some(k)) = (known(&ws.0[0]), known(&ws.0[2])) else {
        return Err(ImportError::new(format!("the shape of the weight must be known, found {ws}")));
    };
    let length = xs.0[2].clone();
    let before = match node.opt_input(3) {
        Some(state) => state,
        None => {
            let zero = number(cx, cx.dtype(x), 0.0);
            cx.op(Expand { to: Shape(vec![xs.0[0].clone(), xs.0[1].clone(), Dim::from(k - 1)]) }, &[zero])?
        }
    };
    let all = if k == 1 { x } else { cx.op(Concat { axis: 2 }, &[before, x])? };
    let conv = Conv {
        kernel: vec![k],
        strides: vec![1],
        dilations: vec![1],
        pads: vec![0, 0],
        group: channels,
        fill: None,
        layout: Layout::ChannelsFirst,
    };
    let mut operands = vec![all, w];
    operands.extend(node.opt_input(2));
    let mut y = cx.op(conv, &operands)?;
    match node.str("activation", "none")? {
        "none" => {}
        "silu" | "swish" => y = swish(cx, y, 1.0)?,
        other => return Err(ImportError::new(format!("activation: expected silu, swish or none, found {other:?}"))),
    }
    let state = if k == 1 {
        before
    } else {
        let from = length.as_usize().ok_or_else(|| ImportError::new("the length must be known"))?;
        part(cx, all, 2, from, k - 1)?
    };
    Ok(vec![y, state])
}

/// `a · sigmoid(alpha · a)`
fn swish(cx: &mut Importer<'_>, a: ValueId, alpha: f64) -> Result<ValueId, ImportError> {
    let scaled = if alpha == 1.0 { a } else { with_constant(cx, "mul", a, alpha)? };
    let s = apply(cx, "sigmoid", &[scaled])?;
    apply(cx, "mul", &[a, s])
}

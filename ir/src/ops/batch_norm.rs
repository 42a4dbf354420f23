//! BatchNormalization: at inference `y = x · s + t` with `s = scale / √(var + ε)` and `t = bias - mean · s` per channel. Both are constants in a
//! trained model, so this is a product and a sum that a convolution before them absorbs.
//!
//! ONNX: [BatchNormalization](https://onnx.ai/onnx/operators/onnx__BatchNormalization.html) (1, 6, 7, 9, 14, 15). With `training_mode` mean and
//! variance are the batch's own, and the running ones come out as `running · momentum + batch · (1 - momentum)`.

use super::reduce::{Kind, Reduce};
use super::util::{apply, cast, reshape, with_constant};
use crate::ops::*;
use tenon_base::Shape;

pub(super) fn onnx() -> Vec<OnnxName> {
    vec![OnnxName { domain: "", name: "BatchNormalization", versions: &[1, 6, 7, 9, 14, 15] }]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    let (running_mean, running_var) = (node.input(3)?, node.input(4)?);
    let rank = cx.rank(x);
    if rank < 1 {
        return Err(ImportError::new("expected an operand [N,C,…], found a scalar"));
    }
    // Scale, bias and statistics may be of a wider dtype than the operand.
    let dtype = cx.dtype(running_var);
    let (scale, bias) = (node.input(1)?, node.input(2)?);
    let (scale, bias) = (cast(cx, scale, dtype)?, cast(cx, bias, dtype)?);
    let (mut mean, mut var) = (running_mean, running_var);
    let mut running = vec![];
    if node.opset >= 14 && node.int("training_mode", 0)? != 0 {
        let momentum = f64::from(node.float("momentum", 0.9)?);
        (mean, var) = batch_statistics(cx, x, dtype)?;
        for (old, new) in [(running_mean, mean), (running_var, var)] {
            let old = with_constant(cx, "mul", old, momentum)?;
            let new = with_constant(cx, "mul", new, 1.0 - momentum)?;
            running.push(apply(cx, "add", &[old, new])?);
        }
    }
    let variance = with_constant(cx, "add", var, f64::from(node.float("epsilon", 1e-5)?))?;
    let deviation = apply(cx, "sqrt", &[variance])?;
    let s = apply(cx, "div", &[scale, deviation])?;
    let shift = apply(cx, "mul", &[mean, s])?;
    let t = apply(cx, "sub", &[bias, shift])?;
    let mut y = x;
    for (name, v) in [("mul", s), ("add", t)] {
        // One value a channel, the channel being axis 1 (axis 0 of a vector).
        let mut to = vec![cx.shape(v).numel()];
        to.extend(vec![Dim::Const(1); rank.saturating_sub(2)]);
        let v = reshape(cx, v, Shape(to))?;
        let v = cast(cx, v, cx.dtype(y))?;
        let before = cx.fact(y).clone();
        y = apply(cx, name, &[y, v])?;
        if *cx.fact(y) != before {
            return Err(ImportError::new(format!("expected one value a channel of {before}, found {}", cx.fact(v))));
        }
    }
    let mut all = vec![y];
    all.append(&mut running);
    Ok(all)
}

/// Mean and variance of every channel, in `dtype`.
fn batch_statistics(cx: &mut Importer<'_>, x: ValueId, dtype: DType) -> Result<(ValueId, ValueId), ImportError> {
    let rank = cx.rank(x);
    if rank < 2 {
        return Err(ImportError::new(format!("training_mode: expected an operand [N,C,…], found {}", cx.fact(x))));
    }
    let axes: Vec<usize> = (0..rank).filter(|a| *a != 1).collect();
    let channels = Shape(vec![cx.shape(x).0[1].clone()]);
    let x = cast(cx, x, dtype)?;
    let mean = cx.op(Reduce { kind: Kind::Mean, axes: axes.clone() }, &[x])?;
    let centred = apply(cx, "sub", &[x, mean])?;
    let square = apply(cx, "mul", &[centred, centred])?;
    let var = cx.op(Reduce { kind: Kind::Mean, axes }, &[square])?;
    Ok((reshape(cx, mean, channels.clone())?, reshape(cx, var, channels)?))
}

//! BatchNormalization: at inference `y = x · s + t` with `s = scale / √(var + ε)` and `t = bias - mean · s` per channel. Both are constants in a
//! trained model, so this is a product and a sum that a convolution before them absorbs.
//!
//! ONNX: [BatchNormalization](https://onnx.ai/onnx/operators/onnx__BatchNormalization.html) (1, 6, 7, 9, 14, 15).

use super::binary::Binary;
use super::reshape::Reshape;
use super::unary::Unary;
use crate::ops::*;
use tenon_base::{Scalar, Shape};

pub(super) fn onnx() -> Vec<OnnxName> {
    vec![OnnxName { domain: "", name: "BatchNormalization", versions: &[1, 6, 7, 9, 14, 15] }]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    if node.opset >= 14 && node.int("training_mode", 0)? != 0 {
        return Err(ImportError::new("training_mode=1: expected a model exported for inference")
            .with_help("export with training mode off (model.eval() in PyTorch)"));
    }
    let x = node.input(0)?;
    let (scale, bias, mean, var) = (node.input(1)?, node.input(2)?, node.input(3)?, node.input(4)?);
    let rank = cx.rank(x);
    if rank < 1 {
        return Err(ImportError::new("expected an operand [N,C,…], found a scalar"));
    }
    let binary = |n: &str| Binary::named(n).ok_or_else(|| ImportError::new(format!("no {n}")));
    let dtype = cx.dtype(var);
    let epsilon = cx.weight(Tensor::full(&[], Scalar::of_f64(dtype, f64::from(node.float("epsilon", 1e-5)?))));
    let v = cx.op(binary("add")?, &[var, epsilon])?;
    let deviation = cx.op(Unary::named("sqrt").ok_or_else(|| ImportError::new("no sqrt"))?, &[v])?;
    let s = cx.op(binary("div")?, &[scale, deviation])?;
    let shift = cx.op(binary("mul")?, &[mean, s])?;
    let t = cx.op(binary("sub")?, &[bias, shift])?;
    let mut y = x;
    for (name, v) in [("mul", s), ("add", t)] {
        let channels = cx.shape(v).numel();
        // One value a channel, the channel being axis 1 (axis 0 of a vector).
        let mut to = vec![channels];
        to.extend(vec![Dim::Const(1); rank.saturating_sub(2)]);
        let mut v = cx.op(Reshape { to: Shape(to) }, &[v])?;
        if cx.dtype(v) != cx.dtype(y) {
            v = cx.op(super::cast::Cast { to: cx.dtype(y) }, &[v])?;
        }
        let before = cx.fact(y).clone();
        y = cx.op(binary(name)?, &[y, v])?;
        if *cx.fact(y) != before {
            return Err(ImportError::new(format!("expected one value a channel of {before}, found {}", cx.fact(v))));
        }
    }
    Ok(vec![y])
}

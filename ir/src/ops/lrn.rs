//! LRN: local response normalisation across channels.
//!
//! ONNX: [LRN](https://onnx.ai/onnx/operators/onnx__LRN.html) (1, 13).
//! `y[n, c, …] = x[n, c, …] / (bias + alpha / size · Σ_{c'} x[n, c', …]²)^beta`, `c'` the `size` channels around `c`. The sum is an average
//! pooling along the channels that counts its padding.

use super::conv::Layout;
use super::pool::{Pool, PoolKind};
use super::reshape::Reshape;
use super::util::{apply, with_constant};
use crate::ops::*;
use tenon_base::Shape;

pub(super) fn onnx() -> Vec<OnnxName> {
    vec![OnnxName { domain: "", name: "LRN", versions: &[1, 13] }]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    let shape = cx.shape(x).clone();
    let size = node.opt_int("size")?.and_then(|s| usize::try_from(s).ok()).filter(|s| (1..1 << 20).contains(s));
    let size = size.ok_or_else(|| ImportError::new("size: expected a positive number of channels"))?;
    if shape.rank() < 2 {
        return Err(ImportError::new(format!("expected an operand [N,C,…], found {shape}")));
    }
    let square = apply(cx, "mul", &[x, x])?;
    // The channels are the axis that windows slide over, the positions are what does not mix.
    let positions = Shape(shape.0[2..].to_vec()).numel();
    let flat = Shape(vec![shape.0[0].clone(), shape.0[1].clone(), positions]);
    let square = cx.op(Reshape { to: flat }, &[square])?;
    let mean = Pool {
        kind: PoolKind::Average,
        kernel: vec![size],
        strides: vec![1],
        dilations: vec![1],
        pads: vec![(size - 1) / 2, size / 2],
        ceil: false,
        count_pad: true,
        p: 1,
        indices: None,
        layout: Layout::ChannelsLast,
    };
    let mean = cx.op(mean, &[square])?;
    let mean = cx.op(Reshape { to: shape }, &[mean])?;
    let sum = with_constant(cx, "mul", mean, f64::from(node.float("alpha", 1e-4)?))?;
    let sum = with_constant(cx, "add", sum, f64::from(node.float("bias", 1.0)?))?;
    let beta = node.float("beta", 0.75)?;
    let power = if beta == 0.75 {
        // What every known model has; two roots take less than a power.
        let root = apply(cx, "sqrt", &[sum])?;
        let fourth = apply(cx, "sqrt", &[root])?;
        apply(cx, "mul", &[root, fourth])?
    } else {
        with_constant(cx, "pow", sum, f64::from(beta))?
    };
    Ok(vec![apply(cx, "div", &[x, power])?])
}

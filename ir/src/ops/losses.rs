//! NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss, by composition.
//!
//! ONNX: [NegativeLogLikelihoodLoss](https://onnx.ai/onnx/operators/onnx__NegativeLogLikelihoodLoss.html) (12, 13, 22),
//! [SoftmaxCrossEntropyLoss](https://onnx.ai/onnx/operators/onnx__SoftmaxCrossEntropyLoss.html) (12, 13).
//! `loss[n, d…] = -x[n, target[n, d…], d…] · weight[target[n, d…]]`, for SoftmaxCrossEntropyLoss of the logarithm of the softmax of `x`; then summed,
//! or averaged by weight.

use super::gather::Gather;
use super::gather_elements::GatherElements;
use super::reduce::{Kind, Reduce};
use super::softmax::Softmax;
use super::util::{apply, cast, number, reshape};
use super::where_::Where;
use crate::ops::*;
use tenon_base::Shape;

pub(super) fn onnx() -> Vec<OnnxName> {
    let on = |name, versions| OnnxName { domain: "", name, versions };
    vec![on("NegativeLogLikelihoodLoss", &[12, 13, 22]), on("SoftmaxCrossEntropyLoss", &[12, 13])]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let (mut x, target) = (node.input(0)?, node.input(1)?);
    if cx.rank(x) < 2 || cx.rank(target) + 1 != cx.rank(x) {
        return Err(ImportError::new(format!(
            "expected [N,C,d…] and targets [N,d…], found {} and {}",
            cx.shape(x),
            cx.shape(target)
        )));
    }
    let cross_entropy = node.op_type() == "SoftmaxCrossEntropyLoss";
    if cross_entropy {
        x = cx.op(Softmax { axis: 1, log: true }, &[x])?;
    }
    let loss = loss(node, cx, x, target)?;
    Ok(if cross_entropy { vec![loss, x] } else { vec![loss] })
}

fn loss(node: &OnnxNode<'_>, cx: &mut Importer<'_>, x: ValueId, target: ValueId) -> Result<ValueId, ImportError> {
    let (dtype, shape) = (cx.dtype(x), cx.shape(target).clone());
    let ignored = match node.opt_int("ignore_index")? {
        None => None,
        Some(i) => {
            let (wide, i) = (cast(cx, target, DType::I64)?, cx.weight(Tensor::scalar(i)));
            Some(apply(cx, "equal", &[wide, i])?)
        }
    };
    let mut with_axis = shape.0.clone();
    with_axis.insert(1, Dim::Const(1));
    let at = reshape(cx, target, Shape(with_axis))?;
    let picked = cx.op(GatherElements { axis: 1 }, &[x, at])?;
    let picked = reshape(cx, picked, shape.clone())?;
    let mut y = apply(cx, "neg", &[picked])?;
    let mut weight = match node.opt_input(2) {
        None => None,
        Some(w) => Some(cx.op(Gather { axis: 0 }, &[w, target])?),
    };
    if let Some(w) = weight {
        y = apply(cx, "mul", &[y, w])?;
    }
    if let Some(ignored) = ignored {
        let (zero, one) = (number(cx, dtype, 0.0), number(cx, dtype, 1.0));
        y = cx.op(Where {}, &[ignored, zero, y])?;
        weight = Some(cx.op(Where {}, &[ignored, zero, weight.unwrap_or(one)])?);
    }
    let fold = |cx: &mut Importer<'_>, v: ValueId, kind: Kind| {
        let axes = (0..cx.rank(v)).collect();
        let y = cx.op(Reduce { kind, axes }, &[v])?;
        reshape(cx, y, Shape(vec![]))
    };
    match (node.str("reduction", "mean")?, weight) {
        ("none", _) => Ok(y),
        ("sum", _) => fold(cx, y, Kind::Sum),
        ("mean", None) => fold(cx, y, Kind::Mean),
        ("mean", Some(w)) => {
            let (sum, all) = (fold(cx, y, Kind::Sum)?, fold(cx, w, Kind::Sum)?);
            apply(cx, "div", &[sum, all])
        }
        (other, _) => Err(ImportError::new(format!("reduction: expected none, sum or mean, found {other:?}"))),
    }
}

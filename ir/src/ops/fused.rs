//! Operators of com.microsoft that are others with something done to the result, as ONNX Runtime's optimizer writes them.
//!
//! [FusedConv, FusedGemm, FusedMatMul, TransposeMatMul, NhwcFusedConv, NhwcConv, BiasGelu, BiasSoftmax, CDist,
//! Trilu](https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md).

use super::activation::Activation;
use super::clip::Clip;
use super::conv::convolution;
use super::gelu::{Form, Gelu};
use super::matmul::{MatMul, import_gemm};
use super::reduce::{Kind, Reduce};
use super::softmax::Softmax;
use super::transpose::Transpose;
use super::util::{apply, reshape, with_constant};
use crate::OnnxAttr;
use crate::op::resolve_axis;
use crate::ops::*;
use tenon_base::{Real, Shape};

pub(super) fn onnx() -> Vec<OnnxName> {
    let names = [
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "TransposeMatMul",
        "NhwcFusedConv",
        "NhwcConv",
        "BiasGelu",
        "BiasSoftmax",
        "CDist",
        "Trilu",
    ];
    names.map(|name| OnnxName { domain: "com.microsoft", name, versions: &[1] }).to_vec()
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let y = match node.op_type() {
        "FusedConv" => {
            let mut y = convolution(node, cx, node.input(0)?, node.input(1)?, node.opt_input(2))?;
            if let Some(z) = node.opt_input(3) {
                y = apply(cx, "add", &[y, z])?;
            }
            activated(node, cx, y)?
        }
        "NhwcFusedConv" | "NhwcConv" => {
            let last = cx.rank(node.input(0)?);
            let first = transposed(cx, node.input(0)?, |rank| [vec![0, rank - 1], (1..rank - 1).collect()].concat())?;
            let y = convolution(node, cx, first, node.input(1)?, node.opt_input(2))?;
            let mut y = transposed(cx, y, |_| [vec![0], (2..last).collect(), vec![1]].concat())?;
            if let Some(z) = node.opt_input(3) {
                y = apply(cx, "add", &[y, z])?;
            }
            activated(node, cx, y)?
        }
        "FusedGemm" => {
            let y = import_gemm(node, cx)?[0];
            activated(node, cx, y)?
        }
        "FusedMatMul" | "TransposeMatMul" => matrices(node, cx)?,
        "BiasGelu" => {
            let x = apply(cx, "add", &[node.input(0)?, node.input(1)?])?;
            cx.op(Gelu { form: Form::Erf, alpha: Real(0.0) }, &[x])?
        }
        "BiasSoftmax" => bias_softmax(node, cx)?,
        "CDist" => distances(node, cx)?,
        _ => return super::trilu::Trilu::import(node, cx),
    };
    Ok(vec![y])
}

fn transposed(cx: &mut Importer<'_>, x: ValueId, perm: impl Fn(usize) -> Vec<usize>) -> Result<ValueId, ImportError> {
    let rank = cx.rank(x);
    if rank < 3 {
        return Err(ImportError::new(format!("expected an operand [N, spatial…, C], found {}", cx.shape(x))));
    }
    cx.op(Transpose { perm: perm(rank) }, &[x])
}

/// The attribute `activation` with its parameters.
fn activated(node: &OnnxNode<'_>, cx: &mut Importer<'_>, x: ValueId) -> Result<ValueId, ImportError> {
    let params: Vec<f64> = match node.attr("activation_params") {
        Some(OnnxAttr::Floats(v)) => v.iter().map(|v| f64::from(*v)).collect(),
        _ => ["activation_alpha", "activation_beta", "activation_gamma"]
            .into_iter()
            .map_while(|name| node.opt_float(name).ok().flatten().map(f64::from))
            .collect(),
    };
    let at = |i: usize, default: f64| Real(params.get(i).copied().unwrap_or(default));
    match node.str("activation", "")? {
        "" => Ok(x),
        "Relu" => apply(cx, "relu", &[x]),
        "Tanh" => apply(cx, "tanh", &[x]),
        "Sigmoid" => apply(cx, "sigmoid", &[x]),
        "Softplus" => apply(cx, "softplus", &[x]),
        "HardSwish" => apply(cx, "hard_swish", &[x]),
        "Clip" => cx.op(Clip { min: Some(at(0, f64::MIN)), max: Some(at(1, f64::MAX)) }, &[x]),
        name @ ("LeakyRelu" | "Elu" | "HardSigmoid" | "ThresholdedRelu" | "Selu") => {
            let op = Activation::of(name, params.first().copied(), params.get(1).copied());
            cx.op(op.ok_or_else(|| ImportError::new(format!("no {name}")))?, &[x])
        }
        other => Err(ImportError::new(format!("activation: {other:?} is not supported"))),
    }
}

/// `alpha · A·B`, either transposed, or with its first batch axis moved next to the last.
fn matrices(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<ValueId, ImportError> {
    let mut sides = [node.input(0)?, node.input(1)?];
    for (x, name) in sides.iter_mut().zip(["transBatchA", "transBatchB"]) {
        let rank = cx.rank(*x);
        if node.int(name, 0)? != 0 {
            if rank < 3 {
                return Err(ImportError::new(format!("{name}: expected an operand of rank 3 or more, found {}", cx.shape(*x))));
            }
            // [M, batch…, K] → [batch…, M, K]
            let perm = [(1..rank - 1).collect(), vec![0, rank - 1]].concat();
            *x = cx.op(Transpose { perm }, &[*x])?;
        }
    }
    // A vector is not transposed.
    let trans = |name: &str, x: ValueId, cx: &Importer<'_>| -> Result<bool, ImportError> {
        Ok(node.int(name, 0)? != 0 && cx.rank(x) >= 2)
    };
    let (trans_a, trans_b) = (trans("transA", sides[0], cx)?, trans("transB", sides[1], cx)?);
    let y = if cx.rank(sides[0]) < 2 || cx.rank(sides[1]) < 2 {
        if trans_a || trans_b {
            return Err(ImportError::new("transA and transB: expected matrices, found a vector"));
        }
        super::matmul::product(cx, sides[0], sides[1])?
    } else {
        cx.op(MatMul { trans_a, trans_b }, &sides)?
    };
    match node.float("alpha", 1.0)? {
        1.0 => Ok(y),
        alpha => with_constant(cx, "mul", y, f64::from(alpha)),
    }
}

/// The softmax of all axes from `axis` on, of the operand and what is added to it.
fn bias_softmax(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<ValueId, ImportError> {
    let (x, mut bias) = (node.input(0)?, node.input(1)?);
    let shape = cx.shape(x).clone();
    let axis = resolve_axis(node.int("axis", 1)?, shape.rank())?;
    if node.int("is_inner_broadcast", 1)? != 0 && cx.rank(bias) == shape.rank() {
        // The bias repeats within a batch: its axes before `axis` but the first are 1 already.
    } else if cx.rank(bias) < shape.rank() {
        let mut to = vec![Dim::Const(1); shape.rank() - cx.rank(bias)];
        to.extend(cx.shape(bias).0.clone());
        bias = reshape(cx, bias, Shape(to))?;
    }
    let y = apply(cx, "add", &[x, bias])?;
    if axis + 1 == shape.rank() {
        return cx.op(Softmax { axis, log: false }, &[y]);
    }
    let mut to = shape.0[..axis].to_vec();
    to.push(Shape(shape.0[axis..].to_vec()).numel());
    let flat = reshape(cx, y, Shape(to))?;
    let y = cx.op(Softmax { axis, log: false }, &[flat])?;
    reshape(cx, y, shape)
}

/// The distance of every row of one operand from every row of the other.
fn distances(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<ValueId, ImportError> {
    let (a, b) = (node.input(0)?, node.input(1)?);
    let ([m, k], [n, _]) = (&cx.shape(a).0[..], &cx.shape(b).0[..]) else {
        return Err(ImportError::new(format!("expected two matrices, found {} and {}", cx.shape(a), cx.shape(b))));
    };
    let (to_a, to) = (Shape(vec![m.clone(), Dim::Const(1), k.clone()]), Shape(vec![m.clone(), n.clone()]));
    let a = reshape(cx, a, to_a)?;
    let d = apply(cx, "sub", &[a, b])?;
    let square = cx.op(Reduce { kind: Kind::SumSquare, axes: vec![2] }, &[d])?;
    let square = reshape(cx, square, to)?;
    match node.str("metric", "sqeuclidean")? {
        "sqeuclidean" => Ok(square),
        "euclidean" => apply(cx, "sqrt", &[square]),
        other => Err(ImportError::new(format!("metric: expected sqeuclidean or euclidean, found {other:?}"))),
    }
}

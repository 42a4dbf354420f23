//! What the operators of `ai.onnx.ml` share: their attributes, class labels, and what becomes of scores.

use super::gather::Gather;
use super::reduce::{Kind, Reduce};
use super::softmax::Softmax;
use super::util::{apply, cast, number, reshape, with_constant};
use super::where_::Where;
use crate::OnnxAttr;
use crate::ops::*;
use tenon_base::Shape;

/// An operator of `ai.onnx.ml`.
pub(super) fn on(name: &'static str, versions: &'static [i64]) -> OnnxName {
    OnnxName { domain: "ai.onnx.ml", name, versions }
}

/// FLOATS, or the tensor called `{name}_as_tensor`; nothing where neither is there.
pub(super) fn floats(node: &OnnxNode<'_>, name: &str) -> Result<Vec<f64>, ImportError> {
    match node.attr(name) {
        None => {}
        Some(OnnxAttr::Floats(v)) => return Ok(v.iter().map(|v| f64::from(*v)).collect()),
        // An empty list may have been written as one of any kind.
        Some(OnnxAttr::Ints(v)) if v.is_empty() => {}
        Some(other) => {
            return Err(ImportError::new(format!(
                "attribute `{name}`: expected a list of floats, found {}",
                other.kind()
            )));
        }
    }
    Ok(node.opt_tensor(&format!("{name}_as_tensor"))?.map(Tensor::to_f64).unwrap_or_default())
}

/// INTS; nothing where the attribute is not there.
pub(super) fn ints(node: &OnnxNode<'_>, name: &str) -> Result<Vec<i64>, ImportError> {
    match node.attr(name) {
        Some(OnnxAttr::Floats(v)) if v.is_empty() => Ok(vec![]),
        _ => Ok(node.opt_ints(name)?.unwrap_or_default()),
    }
}

/// STRINGS; nothing where the attribute is not there.
pub(super) fn strings<'a>(node: &OnnxNode<'a>, name: &str) -> Result<&'a [String], ImportError> {
    match node.attr(name) {
        None => Ok(&[]),
        Some(OnnxAttr::Strs(v)) => Ok(v),
        Some(other) => {
            Err(ImportError::new(format!("attribute `{name}`: expected a list of strings, found {}", other.kind())))
        }
    }
}

/// A list as a constant of rank 1.
pub(super) fn vector(cx: &mut Importer<'_>, dtype: DType, v: &[f64]) -> ValueId {
    cx.weight(Tensor::from_f64(dtype, &[v.len()], v))
}

/// `[N, F]`, of `dtype`: a vector is one row.
pub(super) fn rows(cx: &mut Importer<'_>, x: ValueId, dtype: DType) -> Result<ValueId, ImportError> {
    let shape = cx.shape(x).clone();
    let x = match shape.rank() {
        1 => reshape(cx, x, Shape(vec![Dim::Const(1), shape.0[0].clone()]))?,
        2 => x,
        _ => return Err(ImportError::new(format!("expected an operand [N, features], found {shape}"))),
    };
    cast(cx, x, dtype)
}

/// The dtype that `x` is computed in: `f64` stays, all else is `f32`.
pub(super) fn computed_in(cx: &Importer<'_>, x: ValueId) -> DType {
    if cx.dtype(x) == DType::F64 { DType::F64 } else { DType::F32 }
}

/// The labels of a classifier.
#[derive(Debug)]
pub(super) enum Labels {
    /// Numbers.
    Ints(Vec<i64>),
    /// So many texts, of which there are none here: the label is the position among them.
    Positions(usize),
}

impl Labels {
    /// From the attributes `classlabels_strings` and `ints`.
    pub(super) fn read(node: &OnnxNode<'_>, ints_name: &str) -> Result<Labels, ImportError> {
        let texts = strings(node, "classlabels_strings")?;
        let numbers = ints(node, ints_name)?;
        match (texts.len(), numbers.len()) {
            (0, _) => Ok(Labels::Ints(numbers)),
            (n, 0) => Ok(Labels::Positions(n)),
            _ => Err(ImportError::new(format!("expected either classlabels_strings or {ints_name}, found both"))),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Labels::Ints(v) => v.len(),
            Labels::Positions(n) => *n,
        }
    }

    /// The labels `[N]` for the positions `[N]` (i64).
    pub(super) fn of(&self, cx: &mut Importer<'_>, positions: ValueId) -> Result<ValueId, ImportError> {
        match self {
            Labels::Ints(v) if !v.iter().enumerate().all(|(i, l)| *l == i as i64) => {
                let table = cx.weight(Tensor::new(&[v.len()], v));
                cx.op(Gather { axis: 0 }, &[table, positions])
            }
            _ => Ok(positions),
        }
    }
}

/// The position of the largest score in each row `[N, C]`, the first of equal ones: `[N]`.
pub(super) fn best(cx: &mut Importer<'_>, scores: ValueId) -> Result<ValueId, ImportError> {
    let op = super::arg_reduce::ArgReduce { axis: 1, max: true, last: false };
    let at = cx.op(op, &[scores])?;
    let to = Shape(vec![cx.shape(scores).0[0].clone()]);
    reshape(cx, at, to)
}

/// The position 1 where `scores[N, 1] > limit`, else 0: `[N]`.
pub(super) fn above(cx: &mut Importer<'_>, scores: ValueId, limit: f64) -> Result<ValueId, ImportError> {
    let over = with_constant(cx, "greater", scores, limit)?;
    let at = cast(cx, over, DType::I64)?;
    let to = Shape(vec![cx.shape(scores).0[0].clone()]);
    reshape(cx, at, to)
}

crate::attr_enum! {
    /// `post_transform`
    pub(super) enum Post {
        None = "NONE",
        Softmax = "SOFTMAX",
        Logistic = "LOGISTIC",
        SoftmaxZero = "SOFTMAX_ZERO",
        Probit = "PROBIT",
    }
}

impl Post {
    /// From the attribute.
    pub(super) fn read(node: &OnnxNode<'_>) -> Result<Post, ImportError> {
        let name = node.str("post_transform", "NONE")?;
        Post::parse(name).map_err(|e| ImportError::new(format!("post_transform: {e}")))
    }

    /// Of scores `[N, C]`.
    pub(super) fn of(self, cx: &mut Importer<'_>, x: ValueId) -> Result<ValueId, ImportError> {
        match self {
            Post::None => Ok(x),
            Post::Logistic => apply(cx, "sigmoid", &[x]),
            Post::Softmax => cx.op(Softmax { axis: 1, log: false }, &[x]),
            Post::SoftmaxZero => softmax_zero(cx, x),
            Post::Probit => probit(cx, x),
        }
    }
}

/// A softmax that leaves scores of (almost) 0 at 0.
fn softmax_zero(cx: &mut Importer<'_>, x: ValueId) -> Result<ValueId, ImportError> {
    let zero = number(cx, cx.dtype(x), 0.0);
    let most = cx.op(Reduce { kind: Kind::Max, axes: vec![1] }, &[x])?;
    let shifted = apply(cx, "sub", &[x, most])?;
    let e = apply(cx, "exp", &[shifted])?;
    let size = apply(cx, "abs", &[x])?;
    let counts = with_constant(cx, "greater", size, 1e-7)?;
    let e = cx.op(Where {}, &[counts, e, zero])?;
    let sum = cx.op(Reduce { kind: Kind::Sum, axes: vec![1] }, &[e])?;
    apply(cx, "div", &[e, sum])
}

/// √2 · erf⁻¹(2x - 1), by the approximation of erf⁻¹ that ONNX's definition of the transform has (Winitzki's, with its constants).
fn probit(cx: &mut Importer<'_>, p: ValueId) -> Result<ValueId, ImportError> {
    const A: f64 = 0.147;
    #[allow(clippy::approx_constant, reason = "the definition has so many digits")]
    const PI: f64 = 3.14159;
    let twice = with_constant(cx, "mul", p, 2.0)?;
    let x = with_constant(cx, "sub", twice, 1.0)?;
    let square = apply(cx, "mul", &[x, x])?;
    let rest = apply(cx, "neg", &[square])?;
    let rest = with_constant(cx, "add", rest, 1.0)?;
    let log = apply(cx, "log", &[rest])?;
    let half = with_constant(cx, "mul", log, 0.5)?;
    let v = with_constant(cx, "add", half, 2.0 / (PI * A))?;
    let v2 = with_constant(cx, "mul", log, 1.0 / A)?;
    let squared = apply(cx, "mul", &[v, v])?;
    let inner = apply(cx, "sub", &[squared, v2])?;
    let root = apply(cx, "sqrt", &[inner])?;
    let size = apply(cx, "sub", &[root, v])?;
    let size = apply(cx, "sqrt", &[size])?;
    let sign = apply(cx, "sign", &[x])?;
    let y = apply(cx, "mul", &[sign, size])?;
    with_constant(cx, "mul", y, std::f64::consts::SQRT_2)
}

/// Scores of both classes and the position of the winner from the one score `s[N, 1]` of the second class, as ONNX Runtime gives them:
/// `1 - s, s` where scores are probabilities, won above ½; else `-s, s`, won above 0; the logistic of `-s, s` where that is asked for.
pub(super) fn two_classes(
    cx: &mut Importer<'_>,
    s: ValueId,
    probability: bool,
    post: Post,
) -> Result<(ValueId, ValueId), ImportError> {
    let label = above(cx, s, if probability { 0.5 } else { 0.0 })?;
    if post == Post::Probit {
        return Ok((label, probit(cx, s)?));
    }
    let other = apply(cx, "neg", &[s])?;
    let other = if probability && post != Post::Logistic { with_constant(cx, "add", other, 1.0)? } else { other };
    let both = cx.op(super::concat::Concat { axis: 1 }, &[other, s])?;
    let both = if post == Post::Logistic { apply(cx, "sigmoid", &[both])? } else { both };
    Ok((label, both))
}

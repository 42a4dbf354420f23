//! Linear models of `ai.onnx.ml`: one matrix product, then labels and scores.
//!
//! ONNX: [LinearRegressor](https://onnx.ai/onnx/operators/onnx_aionnxml_LinearRegressor.html) (1),
//! [LinearClassifier](https://onnx.ai/onnx/operators/onnx_aionnxml_LinearClassifier.html) (1). One score for two classes gives both as
//! ONNX Runtime does.

use super::matmul::MatMul;
use super::ml::{self, Labels, Post};
use super::util::apply;
use crate::ops::*;

pub(super) fn onnx() -> Vec<OnnxName> {
    vec![ml::on("LinearRegressor", &[1]), ml::on("LinearClassifier", &[1])]
}

/// `x[N, F] · coefficients[C, F]ᵀ + intercepts[C]` in `f32`.
pub(super) fn scores(
    cx: &mut Importer<'_>,
    x: ValueId,
    coefficients: &[f64],
    intercepts: &[f64],
    count: usize,
) -> Result<ValueId, ImportError> {
    let x = ml::rows(cx, x, DType::F32)?;
    let features = coefficients.len().checked_div(count).unwrap_or(0);
    if features * count != coefficients.len() || features == 0 || cx.shape(x).0[1].as_const().is_some_and(|f| f != features as i64) {
        return Err(ImportError::new(format!(
            "{} coefficients do not fit {count} rows of features of {}",
            coefficients.len(),
            cx.shape(x)
        )));
    }
    let w = cx.weight(Tensor::from_f64(DType::F32, &[count, features], coefficients));
    let y = cx.op(MatMul { trans_a: false, trans_b: true }, &[x, w])?;
    if intercepts.is_empty() {
        return Ok(y);
    }
    let b = ml::vector(cx, DType::F32, intercepts);
    apply(cx, "add", &[y, b])
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    let (coefficients, intercepts) = (ml::floats(node, "coefficients")?, ml::floats(node, "intercepts")?);
    let post = Post::read(node)?;
    if node.op_type() == "LinearRegressor" {
        let targets = usize::try_from(node.int("targets", 1)?).unwrap_or(0);
        if !intercepts.is_empty() && intercepts.len() != targets {
            return Err(ImportError::new(format!("expected {targets} intercepts, found {}", intercepts.len())));
        }
        let y = scores(cx, x, &coefficients, &intercepts, targets)?;
        return Ok(vec![post.of(cx, y)?]);
    }
    let labels = Labels::read(node, "classlabels_ints")?;
    let count = if intercepts.is_empty() { labels.len() } else { intercepts.len() };
    if count != labels.len() && !(count == 1 && labels.len() == 2) {
        return Err(ImportError::new(format!("{count} rows of coefficients do not fit {} labels", labels.len())));
    }
    let y = scores(cx, x, &coefficients, &intercepts, count)?;
    let (position, y) = if count == 1 {
        let at = ml::above(cx, y, 0.0)?;
        let both = if labels.len() == 2 { ml::two_classes(cx, y, true, post)?.1 } else { post.of(cx, y)? };
        (at, both)
    } else {
        (ml::best(cx, y)?, post.of(cx, y)?)
    };
    Ok(vec![labels.of(cx, position)?, y])
}

//! Support vector machines of `ai.onnx.ml`: a kernel function of every row with every support vector, and products with constants.
//!
//! ONNX: [SVMRegressor](https://onnx.ai/onnx/operators/onnx_aionnxml_SVMRegressor.html) (1),
//! [SVMClassifier](https://onnx.ai/onnx/operators/onnx_aionnxml_SVMClassifier.html) (1). A classifier compares its classes two by two; the
//! label is the class that wins most often, and probabilities of pairs are coupled as in libsvm (see `pair_coupling.rs`).

use super::linear_models::scores;
use super::matmul::MatMul;
use super::ml::{self, Labels, Post};
use super::pair_coupling::PairCoupling;
use super::reduce::{Kind, Reduce};
use super::util::{apply, cast, reshape, table_size, with_constant};
use super::where_::Where;
use crate::ops::*;
use tenon_base::Shape;

pub(super) fn onnx() -> Vec<OnnxName> {
    vec![ml::on("SVMRegressor", &[1]), ml::on("SVMClassifier", &[1])]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    if node.op_type() == "SVMRegressor" { regressor(node, cx) } else { classifier(node, cx) }
}

/// The kernel function of every row of `x` with each of `count` vectors: `[N, count]`.
fn kernels(node: &OnnxNode<'_>, cx: &mut Importer<'_>, x: ValueId, vectors: &[f64], count: usize) -> Result<ValueId, ImportError> {
    let params = ml::floats(node, "kernel_params")?;
    let at = |i: usize, default: f64| params.get(i).copied().unwrap_or(default);
    let (gamma, coef0, degree) = (at(0, 0.0), at(1, 0.0), at(2, 0.0));
    let kind = node.str("kernel_type", "LINEAR")?;
    if kind == "RBF" {
        let x = ml::rows(cx, x, DType::F32)?;
        let features = vectors.len().checked_div(count).unwrap_or(0);
        let shape = cx.shape(x).0.clone();
        if features * count != vectors.len() || shape[1].as_const().is_some_and(|f| f != features as i64) {
            return Err(ImportError::new(format!("support_vectors do not fit features of {}", cx.shape(x))));
        }
        // By differences: the squares of rows and vectors alone would cancel.
        let x = reshape(cx, x, Shape(vec![shape[0].clone(), Dim::Const(1), shape[1].clone()]))?;
        let s = cx.weight(Tensor::from_f64(DType::F32, &[count, features], vectors));
        let d = apply(cx, "sub", &[x, s])?;
        let square = cx.op(Reduce { kind: Kind::SumSquare, axes: vec![2] }, &[d])?;
        let square = reshape(cx, square, Shape(vec![shape[0].clone(), Dim::from(count)]))?;
        let scaled = with_constant(cx, "mul", square, -gamma)?;
        return apply(cx, "exp", &[scaled]);
    }
    let dot = scores(cx, x, vectors, &[], count)?;
    let affine = |cx: &mut Importer<'_>| -> Result<ValueId, ImportError> {
        let scaled = with_constant(cx, "mul", dot, gamma)?;
        with_constant(cx, "add", scaled, coef0)
    };
    match kind {
        "LINEAR" => Ok(dot),
        "POLY" => {
            let base = affine(cx)?;
            with_constant(cx, "pow", base, degree)
        }
        "SIGMOID" => {
            let t = affine(cx)?;
            apply(cx, "tanh", &[t])
        }
        other => Err(ImportError::new(format!("kernel_type: expected LINEAR, POLY, RBF or SIGMOID, found {other:?}"))),
    }
}

fn regressor(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    let (coefficients, rho) = (ml::floats(node, "coefficients")?, ml::floats(node, "rho")?);
    let rho = rho.first().copied().ok_or_else(|| ImportError::new("`rho` is missing"))?;
    let count = usize::try_from(node.int("n_supports", 0)?).unwrap_or(0);
    let y = if count == 0 {
        scores(cx, x, &coefficients, &[rho], 1)?
    } else {
        let k = kernels(node, cx, x, &ml::floats(node, "support_vectors")?, count)?;
        scores(cx, k, &coefficients, &[rho], 1)?
    };
    if node.int("one_class", 0)? != 0 {
        let inside = with_constant(cx, "greater", y, 0.0)?;
        let (one, minus) = (ml::vector(cx, DType::F32, &[1.0]), ml::vector(cx, DType::F32, &[-1.0]));
        return Ok(vec![cx.op(Where {}, &[inside, one, minus])?]);
    }
    Ok(vec![Post::read(node)?.of(cx, y)?])
}

fn classifier(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    let labels = Labels::read(node, "classlabels_ints")?;
    let (classes, post) = (labels.len(), Post::read(node)?);
    let (coefficients, rho) = (ml::floats(node, "coefficients")?, ml::floats(node, "rho")?);
    let per_class = ml::ints(node, "vectors_per_class")?;
    if classes < 2 || rho.is_empty() {
        return Err(ImportError::new(format!("expected two classes or more and `rho`, found {classes} and {} numbers", rho.len())));
    }
    if per_class.iter().all(|n| *n == 0) {
        let y = scores(cx, x, &coefficients, &vec![rho[0]; classes], classes)?;
        let mut at = ml::best(cx, y)?;
        if classes == 2 {
            // Two classes: the second one with any positive score (with positive weights: of ½).
            let most = cx.op(Reduce { kind: Kind::Max, axes: vec![1] }, &[y])?;
            let positive = coefficients.iter().all(|c| *c >= 0.0);
            let name = if positive { "greater_or_equal" } else { "greater" };
            let over = with_constant(cx, name, most, if positive { 0.5 } else { 0.0 })?;
            let shape = cx.shape(at).clone();
            let over = reshape(cx, over, shape)?;
            let one = cx.weight(Tensor::scalar(1i64));
            at = cx.op(Where {}, &[over, one, at])?;
        }
        return Ok(vec![labels.of(cx, at)?, post.of(cx, y)?]);
    }
    let count = per_class.iter().try_fold(0usize, |sum, n| sum.checked_add(usize::try_from(*n).ok()?));
    let count = count.filter(|c| *c < 1 << 24 && per_class.len() == classes);
    let count = count.ok_or_else(|| ImportError::new(format!("vectors_per_class: expected a count for each class, found {per_class:?}")))?;
    table_size(&[classes, classes, count.max(classes) / 2 + 1], "the pairs of classes")?;
    let pairs: Vec<(usize, usize)> = (0..classes).flat_map(|i| (i + 1..classes).map(move |j| (i, j))).collect();
    let (prob_a, prob_b) = (ml::floats(node, "prob_a")?, ml::floats(node, "prob_b")?);
    let fits = rho.len() >= pairs.len() && coefficients.len() >= (classes - 1) * count;
    let probable = !prob_a.is_empty();
    if !fits || (probable && (prob_a.len() < pairs.len() || prob_b.len() < pairs.len())) {
        return Err(ImportError::new(format!(
            "{classes} classes with {count} support vectors need {} pairs of rho, prob_a and prob_b and {} coefficients, found {}, {}, {} and {}",
            pairs.len(),
            (classes - 1) * count,
            rho.len(),
            prob_a.len(),
            prob_b.len(),
            coefficients.len()
        )));
    }
    let k = kernels(node, cx, x, &ml::floats(node, "support_vectors")?, count)?;
    // The score of a pair takes the coefficients of the vectors of either class against the other.
    let mut first = vec![0];
    per_class.iter().for_each(|n| first.push(first.last().copied().unwrap_or(0) + *n as usize));
    let mut weights = vec![0.0; pairs.len() * count];
    for (row, &(i, j)) in weights.chunks_mut(count.max(1)).zip(&pairs) {
        for m in first[i]..first[i + 1] {
            row[m] = coefficients[(j - 1) * count + m];
        }
        for m in first[j]..first[j + 1] {
            row[m] = coefficients[i * count + m];
        }
    }
    let y = scores(cx, k, &weights, &rho[..pairs.len()], pairs.len())?;
    // A pair's winner gets a vote: the first class where the score is positive.
    let won = with_constant(cx, "greater", y, 0.0)?;
    let won = cast(cx, won, DType::F32)?;
    let (mut change, mut rest) = (vec![0.0; pairs.len() * classes], vec![0.0; classes]);
    for (row, &(i, j)) in change.chunks_mut(classes).zip(&pairs) {
        (row[i], row[j]) = (1.0, -1.0);
        rest[j] += 1.0;
    }
    let change = cx.weight(Tensor::from_f64(DType::F32, &[pairs.len(), classes], &change));
    let rest = ml::vector(cx, DType::F32, &rest);
    let votes = cx.op(MatMul { trans_a: false, trans_b: false }, &[won, change])?;
    let votes = apply(cx, "add", &[votes, rest])?;
    let at = ml::best(cx, votes)?;
    let label = labels.of(cx, at)?;
    if probable {
        let a = ml::vector(cx, DType::F32, &prob_a[..pairs.len()]);
        let b = ml::vector(cx, DType::F32, &prob_b[..pairs.len()]);
        let t = apply(cx, "mul", &[y, a])?;
        let t = apply(cx, "add", &[t, b])?;
        let t = apply(cx, "neg", &[t])?;
        let p = apply(cx, "sigmoid", &[t])?;
        let p = cx.op(PairCoupling { classes }, &[p])?;
        return Ok(vec![label, post.of(cx, p)?]);
    }
    if classes == 2 {
        let both = ml::two_classes(cx, y, post != Post::None, post)?.1;
        return Ok(vec![label, both]);
    }
    Ok(vec![label, post.of(cx, y)?])
}

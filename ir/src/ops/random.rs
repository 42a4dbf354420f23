//! Random operators: drawn once, when the model is compiled.
//!
//! ONNX: [RandomNormal](https://onnx.ai/onnx/operators/onnx__RandomNormal.html), RandomUniform, RandomNormalLike, RandomUniformLike (1, 22),
//! [Bernoulli](https://onnx.ai/onnx/operators/onnx__Bernoulli.html) (15, 22), [Multinomial](https://onnx.ai/onnx/operators/onnx__Multinomial.html) (7,
//! 22). A compiled model is deterministic: the numbers are constants in it, the same in every run. They come from SplitMix64, seeded with the
//! bits of the `seed` attribute (0 without one) and the number of elements; normal ones by Box and Muller's transform of two uniform ones. ONNX
//! prescribes no generator, so no other implementation gives the same numbers.

use super::util::{apply, cast, reshape};
use crate::import::dtype_of_code;
use crate::ops::*;
use tenon_base::Shape;

pub(super) fn onnx() -> Vec<OnnxName> {
    let on = |name, versions| OnnxName { domain: "", name, versions };
    vec![
        on("RandomNormal", &[1, 22]),
        on("RandomUniform", &[1, 22]),
        on("RandomNormalLike", &[1, 22]),
        on("RandomUniformLike", &[1, 22]),
        on("Bernoulli", &[15, 22]),
        on("Multinomial", &[7, 22]),
    ]
}

/// SplitMix64.
struct Stream(u64);

impl Stream {
    fn new(node: &OnnxNode<'_>, n: usize) -> Result<Stream, ImportError> {
        let seed = node.opt_float("seed")?.map_or(0, f32::to_bits);
        Ok(Stream(u64::from(seed) << 32 ^ n as u64))
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `0..1`.
    fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
    }
}

/// More numbers than this are not put into a model.
const MOST: usize = 1 << 26;

fn elements(dims: &[usize]) -> Result<usize, ImportError> {
    let n = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n <= MOST);
    n.ok_or_else(|| ImportError::new(format!("{dims:?} are more random numbers than the {MOST} that are drawn at most")))
}

fn known(cx: &Importer<'_>, v: ValueId) -> Result<Vec<usize>, ImportError> {
    let unknown = || ImportError::new(format!("the shape of random numbers must be known, found {}", cx.shape(v)));
    cx.fact(v).dims().ok_or_else(unknown)
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let name = node.op_type();
    let given = match node.opt_int("dtype")? {
        Some(code) => Some(dtype_of_code(code)?),
        None => None,
    };
    if name == "Multinomial" {
        return multinomial(node, cx, given.unwrap_or(DType::I32));
    }
    let (dims, dtype) = if name.ends_with("Like") || name == "Bernoulli" {
        let x = node.input(0)?;
        (known(cx, x)?, given.unwrap_or(cx.dtype(x)))
    } else {
        let shape = node.opt_ints("shape")?.ok_or_else(|| ImportError::new("`shape` is missing"))?;
        let dims = shape.iter().map(|d| usize::try_from(*d).ok()).collect::<Option<Vec<_>>>();
        (dims.ok_or_else(|| ImportError::new(format!("shape: expected extents, found {shape:?}")))?, given.unwrap_or(DType::F32))
    };
    let n = elements(&dims)?;
    let mut stream = Stream::new(node, n)?;
    let real = |name: &str, default: f32| -> Result<f64, ImportError> { Ok(f64::from(node.float(name, default)?)) };
    if name == "Bernoulli" {
        let x = node.input(0)?;
        let drawn: Vec<f64> = (0..n).map(|_| stream.unit()).collect();
        let drawn = cx.weight(Tensor::from_f64(cx.dtype(x), &dims, &drawn));
        let hit = apply(cx, "less", &[drawn, x])?;
        return Ok(vec![cast(cx, hit, dtype)?]);
    }
    let values: Vec<f64> = if name.starts_with("RandomNormal") {
        let (mean, scale) = (real("mean", 0.0)?, real("scale", 1.0)?);
        (0..n).map(|_| mean + scale * stream.normal()).collect()
    } else {
        let (low, high) = (real("low", 0.0)?, real("high", 1.0)?);
        (0..n).map(|_| low + (high - low) * stream.unit()).collect()
    };
    Ok(vec![cx.weight(Tensor::from_f64(dtype, &dims, &values))])
}

/// The class whose part of the cumulated probabilities a uniform number falls into.
fn multinomial(node: &OnnxNode<'_>, cx: &mut Importer<'_>, dtype: DType) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    let dims = known(cx, x)?;
    let [batch, classes] = dims[..] else {
        return Err(ImportError::new(format!("expected log-probabilities [batch, classes], found {}", cx.shape(x))));
    };
    let count = node.int("sample_size", 1)?;
    let count = usize::try_from(count).map_err(|_| ImportError::new(format!("sample_size: expected a count, found {count}")))?;
    let n = elements(&[batch, count])?;
    let mut stream = Stream::new(node, n)?;
    let drawn: Vec<f64> = (0..n).map(|_| stream.unit()).collect();
    let drawn = cx.weight(Tensor::from_f64(cx.dtype(x), &[batch, count, 1], &drawn));
    let p = cx.op(super::softmax::Softmax { axis: 1, log: false }, &[x])?;
    let sums = cx.op(super::cumulate::Cumulate { axis: 1, product: false, exclusive: false, reverse: false }, &[p])?;
    let sums = reshape(cx, sums, Shape::of(&[batch, 1, classes]))?;
    let passed = apply(cx, "greater_or_equal", &[drawn, sums])?;
    let passed = cast(cx, passed, DType::I32)?;
    let class = cx.op(super::reduce::Reduce { kind: super::reduce::Kind::Sum, axes: vec![2] }, &[passed])?;
    let class = reshape(cx, class, Shape::of(&[batch, count]))?;
    // The sums may end a little below 1.
    let last = cx.weight(Tensor::scalar(classes.max(1) as i32 - 1));
    let class = apply(cx, "min", &[class, last])?;
    Ok(vec![cast(cx, class, dtype)?])
}

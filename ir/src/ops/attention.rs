//! Attention: `softmax(scale · Q · Kᵀ + mask) · V`, by composition.
//!
//! ONNX: [Attention](https://onnx.ai/onnx/operators/onnx__Attention.html) (23, 24, 25): grouped and multi-query heads, 3-D and 4-D
//! operands, causal, windowed and explicit masks (boolean or added), soft capping, past keys and values. The passes recognise
//! the composition again where a fused kernel pays.

use super::binary::Binary;
use super::cast::Cast;
use super::matmul::MatMul;
use super::reduce::{Kind, Reduce};
use super::reshape::Reshape;
use super::softmax::Softmax;
use super::transpose::Transpose;
use super::unary::Unary;
use super::util::cast;
use crate::import::dtype_of_code;
use crate::lower::wide;
use crate::ops::*;
use tenon_base::{Scalar, Shape};

pub(super) fn onnx() -> Vec<OnnxName> {
    vec![OnnxName { domain: "", name: "Attention", versions: &[23, 24, 25] }]
}

/// Operands: Q, K, V, mask, past key, past value, valid lengths. Results: Y, present key, present value, scores.
pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let (q, k, v) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let packed = cx.rank(q) == 3;
    let heads = |name: &str, cx: &Importer<'_>, x: ValueId| -> Result<Dim, ImportError> {
        match node.opt_int(name)? {
            Some(h) if h > 0 => Ok(Dim::Const(h)),
            _ if packed => Err(ImportError::new(format!("{name} is missing: operands of rank 3 need it"))),
            _ => Ok(cx.shape(x).0[1].clone()),
        }
    };
    let (hq, hk) = (heads("q_num_heads", cx, q)?, heads("kv_num_heads", cx, k)?);
    let q = to_heads(cx, q, &hq)?;
    let (mut k, mut v) = (to_heads(cx, k, &hk)?, to_heads(cx, v, &hk)?);
    if let (Some(past_k), Some(past_v)) = (node.opt_input(4), node.opt_input(5)) {
        k = cx.op(super::concat::Concat { axis: 2 }, &[past_k, k])?;
        v = cx.op(super::concat::Concat { axis: 2 }, &[past_v, v])?;
    }
    let (present_k, present_v) = (k, v);
    let (k, v) = (repeat_heads(cx, k, &hq, &hk)?, repeat_heads(cx, v, &hq, &hk)?);
    // Half floats are rounded once, in the end: exact to the last place of the results whatever the order of the steps.
    let narrow = cx.dtype(q);
    let dtype = if narrow.is_float() { wide(narrow) } else { narrow };
    let (q, k, v) = (cast(cx, q, dtype)?, cast(cx, k, dtype)?, cast(cx, v, dtype)?);
    let size = cx.shape(q).0[3].as_usize().ok_or_else(|| ImportError::new("the head size must be known"))?;
    let scale = node.opt_float("scale")?.map_or(1.0 / (size as f64).sqrt(), f64::from);
    // As the specification has it: √scale on both factors, for the range of f16.
    let root = constant(cx, dtype, scale.sqrt());
    let q = cx.op(named("mul")?, &[q, root])?;
    let k = cx.op(named("mul")?, &[k, root])?;
    let product = cx.op(MatMul { trans_a: false, trans_b: true }, &[q, k])?;
    let mut scores = product;
    let mode = node.int("qk_matmul_output_mode", 0)?;
    let mut wanted = product;
    let cap = node.float("softcap", 0.0)?;
    if cap > 0.0 {
        let c = constant(cx, dtype, f64::from(cap));
        let x = cx.op(named("div")?, &[scores, c])?;
        let t = cx.op(Unary::named("tanh").ok_or_else(|| ImportError::new("no tanh"))?, &[x])?;
        scores = cx.op(named("mul")?, &[t, c])?;
    }
    if mode == 1 {
        wanted = scores;
    }
    let bias = mask(node, cx, scores, node.opt_input(4))?;
    if let Some(b) = bias {
        scores = cx.op(named("add")?, &[scores, b])?;
    }
    if mode == 2 {
        wanted = scores;
    }
    let within = match node.opt_int("softmax_precision")? {
        Some(code) => dtype_of_code(code)?,
        None => dtype,
    };
    // Never in fewer bits than the rest.
    let within = if within.size() > dtype.size() { within } else { dtype };
    let mut weights = softmax_in(cx, scores, within, dtype)?;
    if let Some(b) = bias {
        // A query that may attend to nothing has weights of 0, where a softmax of -∞ alone would be NaN.
        let last = cx.rank(b).checked_sub(1).ok_or_else(|| ImportError::new("attn_mask: expected a matrix"))?;
        let most = cx.op(Reduce { kind: Kind::Max, axes: vec![last] }, &[b])?;
        let (none, zero) = (constant(cx, dtype, f64::NEG_INFINITY), constant(cx, dtype, 0.0));
        let masked = cx.op(named("equal")?, &[most, none])?;
        weights = cx.op(super::where_::Where {}, &[masked, zero, weights])?;
    }
    if mode == 3 {
        wanted = weights;
    }
    let mut y = cx.op(MatMul { trans_a: false, trans_b: false }, &[weights, v])?;
    if packed {
        let s = cx.shape(y).0.clone();
        y = cx.op(Transpose { perm: vec![0, 2, 1, 3] }, &[y])?;
        let to = Shape(vec![s[0].clone(), s[2].clone(), s[1].mul(&s[3])]);
        y = cx.op(Reshape { to }, &[y])?;
    }
    Ok(vec![cast(cx, y, narrow)?, present_k, present_v, cast(cx, wanted, narrow)?])
}

fn named(name: &str) -> Result<Binary, ImportError> {
    Binary::named(name).ok_or_else(|| ImportError::new(format!("no {name}")))
}

fn constant(cx: &mut Importer<'_>, dtype: DType, v: f64) -> ValueId {
    cx.weight(Tensor::full(&[], Scalar::of_f64(dtype, v)))
}

fn softmax_in(cx: &mut Importer<'_>, x: ValueId, wide: DType, dtype: DType) -> Result<ValueId, ImportError> {
    let softmax = Softmax { axis: 3, log: false };
    if wide == dtype || !wide.is_float() {
        return cx.op(softmax, &[x]);
    }
    let x = cx.op(Cast::to(wide), &[x])?;
    let y = cx.op(softmax, &[x])?;
    cx.op(Cast::to(dtype), &[y])
}

/// `[B, L, H·E]` → `[B, H, L, E]`
fn to_heads(cx: &mut Importer<'_>, x: ValueId, heads: &Dim) -> Result<ValueId, ImportError> {
    let s = cx.shape(x).0.clone();
    match s.len() {
        4 => Ok(x),
        3 => {
            let to = Shape(vec![s[0].clone(), s[1].clone(), heads.clone(), s[2].div(heads)]);
            let x = cx.op(Reshape { to }, &[x])?;
            cx.op(Transpose { perm: vec![0, 2, 1, 3] }, &[x])
        }
        n => Err(ImportError::new(format!("expected operands of rank 3 or 4, found rank {n}"))),
    }
}

/// Every key head serves `hq / hk` query heads in a row.
pub fn repeat_heads(cx: &mut Importer<'_>, x: ValueId, hq: &Dim, hk: &Dim) -> Result<ValueId, ImportError> {
    if hq == hk {
        return Ok(x);
    }
    let s = cx.shape(x).0.clone();
    let times = hq.div(hk);
    let one = Shape(vec![s[0].clone(), s[1].clone(), Dim::Const(1), s[2].clone(), s[3].clone()]);
    let many = Shape(vec![s[0].clone(), s[1].clone(), times, s[2].clone(), s[3].clone()]);
    let x = cx.op(Reshape { to: one }, &[x])?;
    let x = cx.op(super::expand::Expand { to: many }, &[x])?;
    cx.op(Reshape { to: Shape(vec![s[0].clone(), hq.clone(), s[2].clone(), s[3].clone()]) }, &[x])
}

/// What is added to the scores `[B, H, L, S]`: the explicit mask and the causal one.
fn mask(
    node: &OnnxNode<'_>,
    cx: &mut Importer<'_>,
    scores: ValueId,
    past: Option<ValueId>,
) -> Result<Option<ValueId>, ImportError> {
    let fact = cx.fact(scores).clone();
    let mut bias = None;
    if let Some(m) = node.opt_input(3) {
        let m = if cx.dtype(m) == DType::Bool {
            let (zero, low) = (constant(cx, fact.dtype, 0.0), constant(cx, fact.dtype, f64::NEG_INFINITY));
            cx.op(super::where_::Where {}, &[m, zero, low])?
        } else {
            m
        };
        let m = cast(cx, m, fact.dtype)?;
        bias = Some(lengthened(cx, m, fact.shape.0.get(3))?);
    }
    let bound = |name: &str| -> Result<Option<i64>, ImportError> { Ok(node.opt_int(name)?.filter(|w| *w >= 0)) };
    let (left, mut right) = (bound("left_window_size")?, bound("right_window_size")?);
    if node.int("is_causal", 0)? != 0 {
        right = Some(0);
    }
    if let Some(lengths) = node.opt_input(6) {
        let hidden = hidden(cx, &fact, lengths, left, right)?;
        let (low, zero) = (constant(cx, fact.dtype, f64::NEG_INFINITY), constant(cx, fact.dtype, 0.0));
        let padding = cx.op(super::where_::Where {}, &[hidden, low, zero])?;
        bias = Some(match bias {
            Some(b) => cx.op(named("add")?, &[b, padding])?,
            None => padding,
        });
    } else if left.is_some() || right.is_some() {
        let dims = fact.dims().ok_or_else(|| ImportError::new(format!("a causal mask needs known extents, found {fact}")))?;
        super::util::table_size(&dims[2..], "a causal mask")?;
        let (l, s) = (dims[2] as i64, dims[3] as i64);
        // Queries come after the past keys.
        let before = match past {
            Some(p) => cx.shape(p).0[2].as_const().unwrap_or(0),
            None => 0,
        };
        let open = |i: i64, j: i64| {
            let distance = j - (i + before);
            left.is_none_or(|w| distance >= -w) && right.is_none_or(|w| distance <= w)
        };
        let values: Vec<f64> = (0..l)
            .flat_map(|i| (0..s).map(move |j| (i, j)))
            .map(|(i, j)| if open(i, j) { 0.0 } else { f64::NEG_INFINITY })
            .collect();
        let causal = cx.weight(Tensor::from_f64(fact.dtype, &[dims[2], dims[3]], &values));
        bias = Some(match bias {
            Some(b) => cx.op(named("add")?, &[b, causal])?,
            None => causal,
        });
    }
    Ok(bias)
}

/// A mask for fewer keys than there are hides the others.
fn lengthened(cx: &mut Importer<'_>, m: ValueId, keys: Option<&Dim>) -> Result<ValueId, ImportError> {
    let rank = cx.rank(m);
    let last = cx.shape(m).0.last().and_then(Dim::as_const);
    let (Some(n), Some(keys)) = (last, keys.and_then(Dim::as_const)) else { return Ok(m) };
    if n <= 1 || n >= keys {
        return Ok(m);
    }
    let mut pads = vec![0; 2 * rank];
    pads[2 * rank - 1] = keys - n;
    let value = tenon_base::Real(f64::NEG_INFINITY);
    cx.op(super::pad::Pad { mode: super::pad::Mode::Constant, pads, value }, &[m])
}

/// Where keys `[B, 1, L, S]` are hidden: beyond the `lengths` `[B]` of the keys that are valid, the last of which the last query
/// stands at, and outside each query's window.
fn hidden(
    cx: &mut Importer<'_>,
    scores: &tenon_base::Fact,
    lengths: ValueId,
    left: Option<i64>,
    right: Option<i64>,
) -> Result<ValueId, ImportError> {
    let dims = scores.dims().filter(|d| d.len() == 4);
    let dims = dims.ok_or_else(|| ImportError::new(format!("valid lengths need known extents, found {scores}")))?;
    let (l, s) = (dims[2], dims[3]);
    let keys = super::util::counted(cx, 0, &[1, 1, 1, s])?;
    let queries = super::util::counted(cx, 0, &[1, 1, l, 1])?;
    let to = Shape(vec![cx.shape(lengths).numel(), Dim::Const(1), Dim::Const(1), Dim::Const(1)]);
    let lengths = super::util::cast(cx, lengths, DType::I64)?;
    let lengths = cx.op(Reshape { to }, &[lengths])?;
    let mut hidden = cx.op(named("greater_or_equal")?, &[keys, lengths])?;
    if left.is_none() && right.is_none() {
        return Ok(hidden);
    }
    let places = cx.op(named("add")?, &[queries, lengths])?;
    let places = super::util::with_constant(cx, "sub", places, l as f64)?;
    let distance = cx.op(named("sub")?, &[keys, places])?;
    for (bound, name, sign) in [(left, "less", -1), (right, "greater", 1)] {
        if let Some(w) = bound {
            let w = cx.weight(Tensor::scalar(sign * w));
            let far = cx.op(named(name)?, &[distance, w])?;
            hidden = cx.op(named("or")?, &[hidden, far])?;
        }
    }
    Ok(hidden)
}

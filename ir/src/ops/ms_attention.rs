//! Attention as com.microsoft has it, by composition.
//!
//! [Attention, MultiHeadAttention, GroupQueryAttention](https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md). Past keys
//! and values are concatenated with the new ones. Of GroupQueryAttention this means that the past is full: `total_sequence_length` is
//! its length and that of the query together, as decoders that grow their cache by concatenation have it; where it is known to be no
//! more than the length of the past, the past is a buffer with room, and new keys go where `seqlens_k` says.

use super::concat::Concat;
use super::expand::Expand;
use super::gather_elements::GatherElements;
use super::matmul::MatMul;
use super::rotary::{angles, rotate};
use super::softmax::Softmax;
use super::transpose::Transpose;
use super::util::{apply, cast, counted, number, part, reshape, table_size, with_constant};
use super::where_::Where;
use crate::ops::*;
use tenon_base::Shape;

pub(super) fn onnx() -> Vec<OnnxName> {
    ["Attention", "MultiHeadAttention", "GroupQueryAttention"]
        .map(|name| OnnxName { domain: "com.microsoft", name, versions: &[1] })
        .to_vec()
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    match node.op_type() {
        "Attention" => packed(node, cx),
        "MultiHeadAttention" => multi_head(node, cx),
        _ => group_query(node, cx),
    }
}

fn count(node: &OnnxNode<'_>, name: &str) -> Result<usize, ImportError> {
    let v = node.int(name, 0)?;
    let n = usize::try_from(v).ok().filter(|n| (1..1 << 20).contains(n));
    n.ok_or_else(|| ImportError::new(format!("{name}: expected a positive integer, found {v}")))
}

/// `[B, L, H·E]` as `[B, L, H, E]`.
fn split_heads(cx: &mut Importer<'_>, x: ValueId, heads: usize) -> Result<ValueId, ImportError> {
    let [b, l, w] = &cx.shape(x).0[..] else {
        return Err(ImportError::new(format!("expected an operand of rank 3, found {}", cx.shape(x))));
    };
    if w.as_usize().is_some_and(|w| w % heads != 0) {
        return Err(ImportError::new(format!("{w} elements do not divide into {heads} heads")));
    }
    let h = Dim::from(heads);
    let to = Shape(vec![b.clone(), l.clone(), h.clone(), w.div(&h)]);
    reshape(cx, x, to)
}

/// `[B, L, H, E]` to `[B, H, L, E]` and back.
fn swap(cx: &mut Importer<'_>, x: ValueId) -> Result<ValueId, ImportError> {
    cx.op(Transpose { perm: vec![0, 2, 1, 3] }, &[x])
}

/// What all forms come down to; q, k and v are `[B, H, L, E]`.
struct Core {
    q: ValueId,
    k: ValueId,
    v: ValueId,
    /// Added to the scores.
    biases: Vec<ValueId>,
    scale: Option<f64>,
    softcap: f64,
}

impl Core {
    /// `[B, L, H·E]`
    fn import(self, cx: &mut Importer<'_>) -> Result<ValueId, ImportError> {
        let size = cx.shape(self.q).0[3].as_usize().ok_or_else(|| ImportError::new("the head size must be known"))?;
        let scale = self.scale.unwrap_or(1.0 / (size as f64).sqrt());
        let dtype = cx.dtype(self.q);
        let mut s = cx.op(MatMul { trans_a: false, trans_b: true }, &[self.q, self.k])?;
        s = with_constant(cx, "mul", s, scale)?;
        if self.softcap > 0.0 {
            let x = with_constant(cx, "div", s, self.softcap)?;
            let t = apply(cx, "tanh", &[x])?;
            s = with_constant(cx, "mul", t, self.softcap)?;
        }
        for b in self.biases {
            let b = cast(cx, b, dtype)?;
            s = apply(cx, "add", &[s, b])?;
        }
        let w = cx.op(Softmax { axis: 3, log: false }, &[s])?;
        let y = cx.op(MatMul { trans_a: false, trans_b: false }, &[w, self.v])?;
        let y = swap(cx, y)?;
        let [b, l, h, e] = &cx.shape(y).0[..] else { return Ok(y) };
        let to = Shape(vec![b.clone(), l.clone(), h.mul(e)]);
        reshape(cx, y, to)
    }
}

/// `low` where `hidden` (of bool), else 0.
fn masked(cx: &mut Importer<'_>, hidden: ValueId, low: f64, dtype: DType) -> Result<ValueId, ImportError> {
    let (low, zero) = (number(cx, dtype, low), number(cx, dtype, 0.0));
    cx.op(Where {}, &[hidden, low, zero])
}

/// The most negative finite number that a mask of `dtype` adds.
fn lowest(dtype: DType) -> f64 {
    if dtype == DType::F16 { -65504.0 } else { f64::from(f32::MIN) }
}

/// Hides keys behind each query, `before` of them being in the past, and those more than `window` before it.
fn causal(cx: &mut Importer<'_>, l: &Dim, s: &Dim, window: Option<usize>, dtype: DType) -> Result<ValueId, ImportError> {
    let (Some(l), Some(s)) = (l.as_usize(), s.as_usize()) else {
        return Err(ImportError::new(format!("a causal mask needs known extents, found {l} queries and {s} keys")));
    };
    table_size(&[l, s], "a causal mask")?;
    let before = s.saturating_sub(l);
    let value = |i: usize, j: usize| {
        let at = i + before;
        if j > at || window.is_some_and(|w| j + w <= at) { lowest(dtype) } else { 0.0 }
    };
    let all: Vec<f64> = (0..l).flat_map(|i| (0..s).map(move |j| value(i, j))).collect();
    Ok(cx.weight(Tensor::from_f64(dtype, &[l, s], &all)))
}

/// `[B, 1, 1, 1]`
fn of_batch(b: Dim) -> Shape {
    Shape(vec![b, Dim::Const(1), Dim::Const(1), Dim::Const(1)])
}

/// The key mask in any of its forms as something to add: lengths `[B]`, ends and beginnings `[2·B]`, keys to keep `[B, S]` or `[B, L, S]`.
fn key_mask(
    cx: &mut Importer<'_>,
    mask: ValueId,
    [batch, s]: [&Dim; 2],
    low: f64,
    dtype: DType,
) -> Result<ValueId, ImportError> {
    let shape = cx.shape(mask).clone();
    let hidden = match &shape.0[..] {
        [b] => {
            let n = s.as_usize().ok_or_else(|| ImportError::new(format!("the number of keys must be known, found {s}")))?;
            let keys = counted(cx, 0, &[1, 1, 1, n])?;
            let limits = cast(cx, mask, DType::I64)?;
            let each = |cx: &mut Importer<'_>, v: ValueId| reshape(cx, v, of_batch(batch.clone()));
            match batch.as_usize() {
                // The ends of all rows, then where they begin.
                Some(rows) if *b == Dim::from(2 * rows) => {
                    let (ends, begins) = (part(cx, limits, 0, 0, rows)?, part(cx, limits, 0, rows, rows)?);
                    let (ends, begins) = (each(cx, ends)?, each(cx, begins)?);
                    let behind = apply(cx, "greater_or_equal", &[keys, ends])?;
                    let before = apply(cx, "less", &[keys, begins])?;
                    apply(cx, "or", &[behind, before])?
                }
                _ => {
                    let lengths = each(cx, limits)?;
                    apply(cx, "greater_or_equal", &[keys, lengths])?
                }
            }
        }
        [b, s] => {
            let m = reshape(cx, mask, Shape(vec![b.clone(), Dim::Const(1), Dim::Const(1), s.clone()]))?;
            kept(cx, m)?
        }
        [b, l, s] => {
            let m = reshape(cx, mask, Shape(vec![b.clone(), Dim::Const(1), l.clone(), s.clone()]))?;
            kept(cx, m)?
        }
        _ => return Err(ImportError::new(format!("expected a mask of rank 1 to 3, found {shape}"))),
    };
    masked(cx, hidden, low, dtype)
}

/// Where a mask of ones and zeros hides.
fn kept(cx: &mut Importer<'_>, m: ValueId) -> Result<ValueId, ImportError> {
    if cx.dtype(m) == DType::Bool { apply(cx, "not", &[m]) } else { with_constant(cx, "equal", m, 0.0) }
}

/// Past and new along the positions of `[B, H, S, E]`.
fn extended(cx: &mut Importer<'_>, past: Option<ValueId>, new: ValueId) -> Result<ValueId, ImportError> {
    match past {
        Some(p) if cx.shape(p).0.get(2) != Some(&Dim::Const(0)) => cx.op(Concat { axis: 2 }, &[p, new]),
        _ => Ok(new),
    }
}

/// One product for queries, keys and values.
fn packed(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let (x, w) = (node.input(0)?, node.input(1)?);
    let heads = count(node, "num_heads")?;
    no_room(node, 6)?;
    if node.int("do_rotary", 0)? != 0 {
        return Err(ImportError::new("do_rotary is not supported").with_help("export with RotaryEmbedding nodes"));
    }
    let mut all = super::matmul::product(cx, x, w)?;
    if let Some(b) = node.opt_input(2) {
        all = apply(cx, "add", &[all, b])?;
    }
    let width = cx.shape(all).0.last().and_then(Dim::as_usize).filter(|_| cx.rank(all) == 3);
    let width = width.ok_or_else(|| ImportError::new("expected an operand of rank 3 and weights of known extents"))?;
    let sizes = match node.opt_ints("qkv_hidden_sizes")? {
        Some(v) => v.iter().map(|s| usize::try_from(*s).ok()).collect::<Option<Vec<_>>>(),
        None => Some(vec![width / 3; 3]),
    };
    let sizes = sizes.filter(|s| s.len() == 3 && s.iter().try_fold(0usize, |a, b| a.checked_add(*b)) == Some(width));
    let sizes = sizes.ok_or_else(|| ImportError::new(format!("{width} columns do not divide into queries, keys and values")))?;
    let mut parts = vec![];
    let mut from = 0;
    for size in sizes {
        let p = part(cx, all, 2, from, size)?;
        let p = split_heads(cx, p, heads)?;
        parts.push(swap(cx, p)?);
        from += size;
    }
    let dtype = cx.dtype(x);
    let (mut k, mut v) = (parts[1], parts[2]);
    let mut present = vec![];
    if let Some(past) = node.opt_input(4) {
        // [2, B, H, P, E]
        let half = |cx: &mut Importer<'_>, i: usize| -> Result<ValueId, ImportError> {
            let p = part(cx, past, 0, i, 1)?;
            let to = Shape(cx.shape(p).0.get(1..).unwrap_or_default().to_vec());
            reshape(cx, p, to)
        };
        let (pk, pv) = (half(cx, 0)?, half(cx, 1)?);
        k = extended(cx, Some(pk), k)?;
        v = extended(cx, Some(pv), v)?;
    }
    if node.wants_output(1) {
        let stacked = |cx: &mut Importer<'_>, x: ValueId| -> Result<ValueId, ImportError> {
            let to = Shape([vec![Dim::Const(1)], cx.shape(x).0.clone()].concat());
            reshape(cx, x, to)
        };
        let (a, b) = (stacked(cx, k)?, stacked(cx, v)?);
        present.push(cx.op(Concat { axis: 0 }, &[a, b])?);
    }
    let (l, s) = (cx.shape(parts[0]).0[2].clone(), cx.shape(k).0[2].clone());
    let mut biases = vec![];
    if let Some(m) = node.opt_input(3) {
        let batch = cx.shape(parts[0]).0[0].clone();
        biases.push(key_mask(cx, m, [&batch, &s], f64::from(node.float("mask_filter_value", -10000.0)?), dtype)?);
    }
    biases.extend(node.opt_input(5));
    if node.int("unidirectional", 0)? != 0 {
        biases.push(causal(cx, &l, &s, None, dtype)?);
    }
    let scale = scale(node)?;
    let y = Core { q: parts[0], k, v, biases, scale, softcap: 0.0 }.import(cx)?;
    Ok([vec![y], present].concat())
}

fn scale(node: &OnnxNode<'_>) -> Result<Option<f64>, ImportError> {
    Ok(node.opt_float("scale")?.filter(|s| *s != 0.0).map(f64::from))
}

/// Refuses operand `at`, the length of a past in a buffer with room for more.
fn no_room(node: &OnnxNode<'_>, at: usize) -> Result<(), ImportError> {
    if node.opt_input(at).is_none() && node.int("past_present_share_buffer", 0)? == 0 {
        return Ok(());
    }
    let e = ImportError::new("`past_sequence_length`: a past with room for more keys is not supported");
    Err(e.with_help("export with past keys and values that are as long as the sequence so far"))
}

fn multi_head(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let heads = count(node, "num_heads")?;
    no_room(node, 8)?;
    let query = node.input(0)?;
    let dtype = cx.dtype(query);
    let unpack = |cx: &mut Importer<'_>, x: ValueId, i: usize| -> Result<ValueId, ImportError> {
        // [B, S, H, 2 or 3, E]
        let p = part(cx, x, 3, i, 1)?;
        let mut to = cx.shape(p).clone();
        to.0.remove(3);
        reshape(cx, p, to)
    };
    // All as [B, L, H, E], or already with heads before positions.
    let (mut q, mut k, mut v);
    let mut swapped = false;
    match (cx.rank(query), node.opt_input(1), node.opt_input(2)) {
        (5, ..) => {
            (q, k, v) = (unpack(cx, query, 0)?, unpack(cx, query, 1)?, unpack(cx, query, 2)?);
        }
        (3, Some(key), _) if cx.rank(key) == 5 => {
            (q, k, v) = (split_heads(cx, query, heads)?, unpack(cx, key, 0)?, unpack(cx, key, 1)?);
        }
        (3, Some(key), Some(value)) if cx.rank(key) == 4 => {
            (q, k, v) = (split_heads(cx, query, heads)?, key, value);
            swapped = true;
        }
        (3, Some(key), Some(value)) => {
            (q, k, v) = (split_heads(cx, query, heads)?, split_heads(cx, key, heads)?, split_heads(cx, value, heads)?);
        }
        _ => return Err(ImportError::new("expected query, key and value, or a packed query")),
    }
    if let Some(bias) = node.opt_input(3) {
        let mut from = 0;
        for x in [&mut q, &mut k, &mut v] {
            let dims = cx.shape(*x).0.clone();
            let e = dims[3].as_usize().ok_or_else(|| ImportError::new("the head size must be known"))?;
            if cx.shape(bias).0.first().and_then(Dim::as_usize).is_some_and(|n| n < from + heads * e) {
                return Err(ImportError::new(format!("the bias {} does not fit {heads} heads of {e}", cx.shape(bias))));
            }
            let b = part(cx, bias, 0, from, heads * e)?;
            from += heads * e;
            let b = reshape(cx, b, Shape::of(&[heads, e]))?;
            if !swapped || dims[2] == Dim::from(heads) {
                *x = apply(cx, "add", &[*x, b])?;
            }
        }
    }
    q = swap(cx, q)?;
    if !swapped {
        (k, v) = (swap(cx, k)?, swap(cx, v)?);
    }
    k = extended(cx, node.opt_input(6), k)?;
    v = extended(cx, node.opt_input(7), v)?;
    let (l, s) = (cx.shape(q).0[2].clone(), cx.shape(k).0[2].clone());
    let mut biases = vec![];
    if let Some(m) = node.opt_input(4) {
        let batch = cx.shape(q).0[0].clone();
        biases.push(key_mask(cx, m, [&batch, &s], f64::from(node.float("mask_filter_value", -10000.0)?), dtype)?);
    }
    biases.extend(node.opt_input(5));
    if node.int("unidirectional", 0)? != 0 {
        biases.push(causal(cx, &l, &s, None, dtype)?);
    }
    let scale = scale(node)?;
    let y = Core { q, k, v, biases, scale, softcap: 0.0 }.import(cx)?;
    Ok(vec![y, k, v])
}

/// A past that is a buffer with room for the new keys: they go behind those that count.
struct Room {
    /// `i64[B, 1, 1, 1]`: how many keys of each row's past count.
    before: ValueId,
    /// New keys.
    new: usize,
    /// Keys that there is room for.
    size: usize,
}

impl Room {
    /// `None` where the past counts to its end, or nothing is known of it.
    fn of(node: &OnnxNode<'_>, cx: &mut Importer<'_>, [b, l]: [&Dim; 2]) -> Result<Option<Room>, ImportError> {
        let known = |v: Option<ValueId>| v.and_then(|v| cx.known(v)).and_then(|t| t.to_i64().first().copied());
        let size = node.opt_input(3).and_then(|p| cx.shape(p).0.get(2).and_then(Dim::as_usize));
        let (Some(total), Some(size), Some(new)) = (known(node.opt_input(6)), size, l.as_usize()) else { return Ok(None) };
        let total = usize::try_from(total).unwrap_or(0);
        if total == size + new {
            return Ok(None);
        }
        if total > size || total < new {
            return Err(ImportError::new(format!(
                "total_sequence_length: expected {} for a past of {size} keys and {new} more, or {new} to {size} for one with room, found {total}",
                size + new
            )));
        }
        let before = if total == new {
            let zero = number(cx, DType::I64, 0.0);
            cx.op(Expand { to: of_batch(b.clone()) }, &[zero])?
        } else {
            let last = cast(cx, node.input(5)?, DType::I64)?;
            let last = reshape(cx, last, of_batch(b.clone()))?;
            with_constant(cx, "add", last, 1.0 - new as f64)?
        };
        Ok(Some(Room { before, new, size }))
    }

    /// The positions `i64[B, L]` of the new keys.
    fn positions(&self, cx: &mut Importer<'_>) -> Result<ValueId, ImportError> {
        let steps = counted(cx, 0, &[1, self.new])?;
        let to = Shape(cx.shape(self.before).0[..2].to_vec());
        let before = reshape(cx, self.before, to)?;
        apply(cx, "add", &[before, steps])
    }

    /// `past[B, H, size, E]` with `new[B, H, L, E]` in its place, and zeros behind.
    fn filled(&self, cx: &mut Importer<'_>, past: ValueId, new: ValueId) -> Result<ValueId, ImportError> {
        let keys = counted(cx, 0, &[1, 1, self.size, 1])?;
        let at = apply(cx, "sub", &[keys, self.before])?;
        let shape = cx.shape(past).clone();
        let index = cx.op(Expand { to: shape }, &[at])?;
        let chosen = cx.op(GatherElements { axis: 2 }, &[new, index])?;
        let old = with_constant(cx, "less", at, 0.0)?;
        let behind = with_constant(cx, "greater_or_equal", at, self.new as f64)?;
        let zero = number(cx, cx.dtype(past), 0.0);
        let rest = cx.op(Where {}, &[behind, zero, chosen])?;
        cx.op(Where {}, &[old, past, rest])
    }

    /// Hides what is behind each query, and what is more than `window` before it.
    fn causal(&self, cx: &mut Importer<'_>, window: Option<usize>, dtype: DType) -> Result<ValueId, ImportError> {
        let keys = counted(cx, 0, &[1, 1, 1, self.size])?;
        let queries = counted(cx, 0, &[1, 1, self.new, 1])?;
        let at = apply(cx, "add", &[self.before, queries])?;
        let mut hidden = apply(cx, "greater", &[keys, at])?;
        if let Some(w) = window {
            let first = with_constant(cx, "sub", at, w as f64)?;
            let gone = apply(cx, "less_or_equal", &[keys, first])?;
            hidden = apply(cx, "or", &[hidden, gone])?;
        }
        masked(cx, hidden, lowest(dtype), dtype)
    }
}

fn group_query(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let (heads, shared) = (count(node, "num_heads")?, count(node, "kv_num_heads")?);
    if heads % shared != 0 {
        return Err(ImportError::new(format!("{heads} heads do not share {shared} heads of keys")));
    }
    if node.opt_input(11).is_some() || node.int("smooth_softmax", 0)? > 0 {
        return Err(ImportError::new("attention sinks are not supported"));
    }
    let query = node.input(0)?;
    let dtype = cx.dtype(query);
    let (mut q, mut k, v) = match (node.opt_input(1), node.opt_input(2)) {
        (Some(k), Some(v)) => (split_heads(cx, query, heads)?, split_heads(cx, k, shared)?, split_heads(cx, v, shared)?),
        _ => {
            let all = split_heads(cx, query, heads + 2 * shared)?;
            (part(cx, all, 2, 0, heads)?, part(cx, all, 2, heads, shared)?, part(cx, all, 2, heads + shared, shared)?)
        }
    };
    let past = |i: usize| node.opt_input(i);
    let l = cx.shape(q).0[1].clone();
    let room = Room::of(node, cx, [&cx.shape(q).0[0].clone(), &l])?;
    if node.int("do_rotary", 0)? != 0 {
        let (cos, sin) = (node.input(7)?, node.input(8)?);
        let positions = match (node.opt_input(9), &room) {
            (Some(p), _) => p,
            (None, Some(room)) => room.positions(cx)?,
            (None, None) => {
                // The new positions follow those of the past.
                let before = past(3).and_then(|p| cx.shape(p).0.get(2).cloned()).unwrap_or(Dim::Const(0));
                let (Some(from), Some(n)) = (before.as_const(), l.as_const()) else {
                    return Err(ImportError::new(format!("the number of positions must be known, found {before} and {l}")));
                };
                counted(cx, from, &[1, usize::try_from(n).unwrap_or(0)])?
            }
        };
        let (c, s) = (angles(cx, cos, Some(positions), l.clone())?, angles(cx, sin, Some(positions), l.clone())?);
        let width = 2 * cx.shape(c).0[3].as_const().unwrap_or(0);
        let interleaved = node.int("rotary_interleaved", 0)? != 0;
        q = rotate(cx, q, c, s, width, interleaved)?;
        k = rotate(cx, k, c, s, width, interleaved)?;
    }
    let (q, k, v) = (swap(cx, q)?, swap(cx, k)?, swap(cx, v)?);
    let extend = |cx: &mut Importer<'_>, past: Option<ValueId>, new: ValueId| match (&room, past) {
        (Some(room), Some(past)) => room.filled(cx, past, new),
        _ => extended(cx, past, new),
    };
    let present_k = extend(cx, past(3), k)?;
    let present_v = extend(cx, past(4), v)?;
    let s = cx.shape(present_k).0[2].clone();
    let window = usize::try_from(node.int("local_window_size", -1)?).ok().filter(|w| *w > 0);
    let mut biases = vec![match &room {
        Some(room) => room.causal(cx, window, dtype)?,
        None => causal(cx, &l, &s, window, dtype)?,
    }];
    if let (Some(last), None) = (node.opt_input(5), &room) {
        // The last valid key of each batch element.
        let to = Shape(vec![cx.shape(last).numel()]);
        let last = reshape(cx, last, to)?;
        let lengths = with_constant(cx, "add", last, 1.0)?;
        let batch = cx.shape(lengths).0[0].clone();
        biases.push(key_mask(cx, lengths, [&batch, &s], lowest(dtype), dtype)?);
    }
    biases.extend(node.opt_input(10));
    let (hq, hk) = (Dim::from(heads), Dim::from(shared));
    let all_k = super::attention::repeat_heads(cx, present_k, &hq, &hk)?;
    let all_v = super::attention::repeat_heads(cx, present_v, &hq, &hk)?;
    let (scale, softcap) = (scale(node)?, f64::from(node.float("softcap", 0.0)?));
    let y = Core { q, k: all_k, v: all_v, biases, scale, softcap }.import(cx)?;
    Ok(vec![y, present_k, present_v])
}

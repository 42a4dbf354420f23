//! Rotary position embedding: pairs of a head's elements turned by the angles of their position.
//!
//! ONNX: [RotaryEmbedding](https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html) (23), and that of com.microsoft, whose operands come in
//! another order. `(a, b) → (a·cos - b·sin, a·sin + b·cos)`, where `a` and `b` are the halves of what is turned, or its even and
//! odd elements.

use super::concat::Concat;
use super::gather::Gather;
use super::transpose::Transpose;
use super::util::{apply, counted, part, reshape, strided};
use crate::ops::*;
use tenon_base::Shape;

pub(super) fn onnx() -> Vec<OnnxName> {
    let on = |domain, versions| OnnxName { domain, name: "RotaryEmbedding", versions };
    vec![on("", &[23]), on("com.microsoft", &[1])]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    let (cos, sin, positions) = if node.domain() == "com.microsoft" {
        (node.input(2)?, node.input(3)?, Some(node.input(1)?))
    } else {
        (node.input(1)?, node.input(2)?, node.opt_input(3))
    };
    if node.float("scale", 1.0)? != 1.0 || node.int("is_packed_batching", 0)? != 0 {
        return Err(ImportError::new("expected scale 1 and no packed batching"));
    }
    let shape = cx.shape(x).clone();
    let width = node.int("rotary_embedding_dim", 0)?;
    let interleaved = node.int("interleaved", 0)? != 0;
    // Everything is done on [batch, positions, heads, elements].
    let given = match shape.rank() {
        3 => {
            let heads = match node.int("num_heads", 0)? {
                h if h > 0 => Dim::Const(h),
                // com.microsoft may leave the number of heads out where the tables tell it.
                _ if node.domain() == "com.microsoft" && width == 0 => {
                    let half = cx.shape(cos).0.last().filter(|d| d.as_const() != Some(0)).cloned().unwrap_or(Dim::Const(1));
                    shape.0[2].div(&half.mul(&Dim::Const(2)))
                }
                other => return Err(ImportError::new(format!("num_heads: expected a positive integer, found {other}"))),
            };
            let size = shape.0[2].div(&heads);
            reshape(cx, x, Shape(vec![shape.0[0].clone(), shape.0[1].clone(), heads, size]))?
        }
        4 => cx.op(Transpose { perm: vec![0, 2, 1, 3] }, &[x])?,
        n => return Err(ImportError::new(format!("expected an operand of rank 3 or 4, found rank {n}"))),
    };
    let count = shape.0[if shape.rank() == 3 { 1 } else { 2 }].clone();
    let [cos, sin] = [cos, sin].map(|table| angles(cx, table, positions, count.clone()));
    let y = rotate(cx, given, cos?, sin?, width, interleaved)?;
    if shape.rank() == 3 {
        return Ok(vec![reshape(cx, y, shape)?]);
    }
    Ok(vec![cx.op(Transpose { perm: vec![0, 2, 1, 3] }, &[y])?])
}

/// The angles' cosines or sines `[batch or 1, positions, 1, pairs]`, from a table of all positions or of just these.
pub(super) fn angles(
    cx: &mut Importer<'_>,
    table: ValueId,
    positions: Option<ValueId>,
    count: Dim,
) -> Result<ValueId, ImportError> {
    let mut t = table;
    if let Some(mut p) = positions {
        if cx.rank(t) != 2 {
            return Err(ImportError::new(format!("expected a table of rank 2, found {}", cx.shape(t))));
        }
        if cx.shape(p).numel() == Dim::Const(1) && count != Dim::Const(1) {
            // One offset: positions follow each other from there on.
            let n = count.as_usize().ok_or_else(|| ImportError::new("the number of positions must be known"))?;
            let steps = counted(cx, 0, &[1, n])?;
            let first = reshape(cx, p, Shape(vec![Dim::Const(1), Dim::Const(1)]))?;
            let first = super::util::cast(cx, first, DType::I64)?;
            p = apply(cx, "add", &[first, steps])?;
        }
        if cx.rank(p) == 1 {
            let to = Shape(vec![Dim::Const(1), cx.shape(p).0[0].clone()]);
            p = reshape(cx, p, to)?;
        }
        t = cx.op(Gather { axis: 0 }, &[t, p])?;
    }
    let s = cx.shape(t).0.clone();
    match &s[..] {
        [b, n, h] => reshape(cx, t, Shape(vec![b.clone(), n.clone(), Dim::Const(1), h.clone()])),
        [n, h] => reshape(cx, t, Shape(vec![Dim::Const(1), n.clone(), Dim::Const(1), h.clone()])),
        _ => Err(ImportError::new(format!("expected cosines and sines [batch, positions, pairs], found {}", cx.shape(t)))),
    }
}

/// Turns the first `width` elements (0: all) of the last axis of `x[batch, positions, heads, elements]`.
pub(super) fn rotate(
    cx: &mut Importer<'_>,
    x: ValueId,
    cos: ValueId,
    sin: ValueId,
    width: i64,
    interleaved: bool,
) -> Result<ValueId, ImportError> {
    let size = cx.shape(x).0[3].as_usize().ok_or_else(|| ImportError::new("the head size must be known"))?;
    let width = match usize::try_from(width) {
        Ok(0) => size,
        Ok(w) if w <= size => w,
        _ => return Err(ImportError::new(format!("rotary_embedding_dim: expected 0 to {size}, found {width}"))),
    };
    let half = width / 2;
    let pairs = cx.shape(cos).0[3].clone();
    if width % 2 != 0 || pairs != Dim::from(half) {
        return Err(ImportError::new(format!("{width} elements do not make the {pairs} pairs of the angles")));
    }
    let (a, b) = if interleaved {
        (strided(cx, x, 3, 0, 2, half)?, strided(cx, x, 3, 1, 2, half)?)
    } else {
        (part(cx, x, 3, 0, half)?, part(cx, x, 3, half, half)?)
    };
    let product = |cx: &mut Importer<'_>, u: ValueId, v: ValueId| apply(cx, "mul", &[u, v]);
    let (ac, bs) = (product(cx, a, cos)?, product(cx, b, sin)?);
    let (as_, bc) = (product(cx, a, sin)?, product(cx, b, cos)?);
    let real = apply(cx, "sub", &[ac, bs])?;
    let imaginary = apply(cx, "add", &[as_, bc])?;
    let shape = cx.shape(x).clone();
    let mut turned = shape.clone();
    turned.0[3] = Dim::from(width);
    let y = if interleaved {
        let mut pair = shape.clone();
        pair.0[3] = Dim::from(half);
        pair.0.push(Dim::Const(1));
        let (r, i) = (reshape(cx, real, pair.clone())?, reshape(cx, imaginary, pair)?);
        let both = cx.op(Concat { axis: 4 }, &[r, i])?;
        reshape(cx, both, turned)?
    } else {
        cx.op(Concat { axis: 3 }, &[real, imaginary])?
    };
    if width == size {
        return Ok(y);
    }
    let rest = part(cx, x, 3, width, size - width)?;
    cx.op(Concat { axis: 3 }, &[y, rest])
}

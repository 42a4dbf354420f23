//! DeformConv: a convolution whose window reaches, at every place, for elements that an operand moves it to.
//!
//! ONNX: [DeformConv](https://onnx.ai/onnx/operators/onnx__DeformConv.html) (19, 22), over two spatial axes. The elements of all windows are
//! sampled (linearly between neighbours, zeros outside), and a product with the weights sums them.

use super::concat::Concat;
use super::conv::Window;
use super::grid_sample::{GridSample, Outside, SampleMode};
use super::matmul::MatMul;
use super::util::{apply, part, reshape, table_size, with_constant};
use crate::ops::*;
use tenon_base::Shape;

pub(super) fn onnx() -> Vec<OnnxName> {
    vec![OnnxName { domain: "", name: "DeformConv", versions: &[19, 22] }]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let (x, w, offset) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let known = |v: ValueId, cx: &Importer<'_>| -> Result<[usize; 4], ImportError> {
        let dims = cx.fact(v).dims().and_then(|d| <[usize; 4]>::try_from(d).ok()).filter(|d| !d.contains(&0));
        dims.ok_or_else(|| ImportError::new(format!("expected operands of rank 4 and known extents, found {}", cx.shape(v))))
    };
    let ([n, c, h, width], [m, _, kh, kw]) = (known(x, cx)?, known(w, cx)?);
    let [_, offsets, oh, ow] = known(offset, cx)?;
    let window = Window::import(node, vec![kh, kw], &cx.shape(x).0[2..])?;
    let count = |name: &str| -> Result<usize, ImportError> {
        let v = node.int(name, 1)?;
        usize::try_from(v).ok().filter(|v| *v > 0).ok_or_else(|| ImportError::new(format!("{name}: expected a positive integer, found {v}")))
    };
    let (group, moved) = (count("group")?, count("offset_group")?);
    let taps = kh * kw;
    if c % group != 0 || m % group != 0 || c % moved != 0 || offsets != moved * taps * 2 {
        return Err(ImportError::new(format!(
            "{c} channels, {m} kernels and {offsets} offsets do not fit {group} groups and {moved} groups of offsets"
        )));
    }
    let out = [window.out_extent(0, &Dim::from(h))?, window.out_extent(1, &Dim::from(width))?];
    if out != [Dim::from(oh), Dim::from(ow)] {
        return Err(ImportError::new(format!("expected offsets for {} by {} places, found {oh} by {ow}", out[0], out[1])));
    }
    table_size(&[taps, oh, ow, 2], "the windows' elements")?;
    // Where the window reaches without offsets: [taps·oh, ow, (y, x)].
    let mut base = [Vec::with_capacity(taps * oh * ow), Vec::with_capacity(taps * oh * ow)];
    for k in 0..taps {
        for p in 0..oh * ow {
            for (axis, (k, p)) in [(k / kw, p / ow), (k % kw, p % ow)].into_iter().enumerate() {
                let at = p * window.strides[axis] + k * window.dilations[axis];
                base[axis].push(at as f64 - window.pads[axis] as f64);
            }
        }
    }
    let dtype = cx.dtype(x);
    let base = base.map(|v| cx.weight(Tensor::from_f64(dtype, &[1, taps * oh, ow, 1], &v)));
    let per = c / moved;
    let mut columns = vec![];
    for g in 0..moved {
        let all = part(cx, offset, 1, g * taps * 2, taps * 2)?;
        let all = reshape(cx, all, Shape::of(&[n, taps, 2, oh * ow]))?;
        let mut coordinates = vec![];
        for (axis, extent) in [(1, width), (0, h)] {
            let d = part(cx, all, 2, axis, 1)?;
            let d = reshape(cx, d, Shape::of(&[n, taps * oh, ow, 1]))?;
            let at = apply(cx, "add", &[d, base[axis]])?;
            // As the sampler counts: from -1 at the first edge to 1 at the last.
            let twice = with_constant(cx, "mul", at, 2.0 / extent as f64)?;
            coordinates.push(with_constant(cx, "add", twice, 1.0 / extent as f64 - 1.0)?);
        }
        let grid = cx.op(Concat { axis: 3 }, &coordinates)?;
        let xs = part(cx, x, 1, g * per, per)?;
        let sampler = GridSample { mode: SampleMode::Linear, outside: Outside::Zeros, align_corners: false };
        let mut s = cx.op(sampler, &[xs, grid])?;
        if let Some(mask) = node.opt_input(4) {
            let weight = part(cx, mask, 1, g * taps, taps)?;
            let weight = reshape(cx, weight, Shape::of(&[n, 1, taps * oh, ow]))?;
            s = apply(cx, "mul", &[s, weight])?;
        }
        columns.push(s);
    }
    let all = if columns.len() == 1 { columns[0] } else { cx.op(Concat { axis: 1 }, &columns)? };
    let all = reshape(cx, all, Shape::of(&[n, group, c / group * taps, oh * ow]))?;
    let w = reshape(cx, w, Shape::of(&[group, m / group, c / group * taps]))?;
    let y = cx.op(MatMul { trans_a: false, trans_b: false }, &[w, all])?;
    let mut y = reshape(cx, y, Shape::of(&[n, m, oh, ow]))?;
    if let Some(b) = node.opt_input(3) {
        let b = reshape(cx, b, Shape::of(&[m, 1, 1]))?;
        y = apply(cx, "add", &[y, b])?;
    }
    Ok(vec![y])
}

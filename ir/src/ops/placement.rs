//! Operators that put elements elsewhere, by composition.
//!
//! ONNX: [CenterCropPad](https://onnx.ai/onnx/operators/onnx__CenterCropPad.html) (18), [Col2Im](https://onnx.ai/onnx/operators/onnx__Col2Im.html)
//! (18), [MaxUnpool](https://onnx.ai/onnx/operators/onnx__MaxUnpool.html) (9, 11, 22),
//! [TensorScatter](https://onnx.ai/onnx/operators/onnx__TensorScatter.html) (24),
//! [AffineGrid](https://onnx.ai/onnx/operators/onnx__AffineGrid.html) (20).

use super::conv::Layout;
use super::conv_transpose::ConvTranspose;
use super::expand::Expand;
use super::matmul::MatMul;
use super::pad::{Mode, Pad};
use super::scatter_elements::{Reduction, ScatterElements};
use super::util::{apply, cast, counted, number, reshape, table_size, with_constant};
use crate::op::resolve_axis;
use crate::ops::*;
use tenon_base::{Real, Shape};

pub(super) fn onnx() -> Vec<OnnxName> {
    let on = |name, versions| OnnxName { domain: "", name, versions };
    vec![
        on("CenterCropPad", &[18]),
        on("Col2Im", &[18]),
        on("MaxUnpool", &[9, 11, 22]),
        on("TensorScatter", &[24]),
        on("AffineGrid", &[20]),
    ]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    Ok(vec![match node.op_type() {
        "CenterCropPad" => center(node, cx)?,
        "Col2Im" => col2im(node, cx)?,
        "MaxUnpool" => max_unpool(node, cx)?,
        "TensorScatter" => tensor_scatter(node, cx)?,
        _ => affine_grid(node, cx)?,
    }])
}

fn padded(cx: &mut Importer<'_>, x: ValueId, pads: Vec<i64>) -> Result<ValueId, ImportError> {
    if pads.iter().all(|p| *p == 0) {
        return Ok(x);
    }
    cx.op(Pad { mode: Mode::Constant, pads, value: Real(0.0) }, &[x])
}

/// Crops or pads about the middle.
fn center(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<ValueId, ImportError> {
    let x = node.input(0)?;
    let shape = cx.shape(x).clone();
    let rank = shape.rank();
    let to = cx.constant_ints(node.input(1)?, "shape")?;
    let axes = node.opt_ints("axes")?.unwrap_or_else(|| (0..rank as i64).collect());
    if axes.len() != to.len() {
        return Err(ImportError::new(format!("expected an extent for each of {} axes, found {}", axes.len(), to.len())));
    }
    let mut pads = vec![0; 2 * rank];
    for (a, t) in axes.iter().zip(to) {
        let a = resolve_axis(*a, rank)?;
        let d = shape.0[a].as_const().ok_or_else(|| ImportError::new(format!("axis {a} must be known, found {shape}")))?;
        if !(0..1 << 40).contains(&t) {
            return Err(ImportError::new(format!("shape: expected extents, found {t}")));
        }
        let before = if t >= d { (t - d) / 2 } else { -((d - t) / 2) };
        (pads[a], pads[a + rank]) = (before, t - d - before);
    }
    padded(cx, x, pads)
}

fn extents(v: &[i64], what: &str) -> Result<Vec<usize>, ImportError> {
    let all = v.iter().map(|d| usize::try_from(*d).ok().filter(|d| (1..1 << 24).contains(d))).collect::<Option<Vec<_>>>();
    all.ok_or_else(|| ImportError::new(format!("{what}: expected positive extents, found {v:?}")))
}

/// Overlapping blocks added up: a transposed convolution whose kernels are each one element of a block.
fn col2im(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<ValueId, ImportError> {
    let x = node.input(0)?;
    let image = extents(&cx.constant_ints(node.input(1)?, "image_shape")?, "image_shape")?;
    let block = extents(&cx.constant_ints(node.input(2)?, "block_shape")?, "block_shape")?;
    let rank = image.len();
    let list = |name: &str, n: usize, default: i64| -> Result<Vec<i64>, ImportError> {
        let v = node.opt_ints(name)?.unwrap_or_else(|| vec![default; n]);
        if v.len() == n { Ok(v) } else { Err(ImportError::new(format!("{name}: expected {n} numbers, found {v:?}"))) }
    };
    let (dilations, strides) = (extents(&list("dilations", rank, 1)?, "dilations")?, extents(&list("strides", rank, 1)?, "strides")?);
    let pads = list("pads", 2 * rank, 0)?;
    let pads = pads.iter().map(|p| usize::try_from(*p).ok()).collect::<Option<Vec<_>>>();
    let pads = pads.ok_or_else(|| ImportError::new("pads: expected non-negative numbers"))?;
    let taps = table_size(&block, "block_shape")?;
    let shape = cx.shape(x).clone();
    let channels = shape.0.get(1).and_then(Dim::as_usize).filter(|c| shape.rank() == 3 && c % taps == 0 && *c > 0);
    let columns = channels.filter(|_| block.len() == rank);
    let columns = columns.ok_or_else(|| ImportError::new(format!("expected [N, channels·{taps}, blocks], found {shape}")))?;
    let mut spatial = vec![];
    let mut output_padding = vec![];
    for i in 0..rank {
        let span = (block[i] - 1) * dilations[i] + 1;
        let padded = image[i] + pads[i] + pads[i + rank];
        let free = padded.checked_sub(span).ok_or_else(|| {
            ImportError::new(format!("a block spans {span} elements of axis {i}, the padded image has {padded}"))
        })?;
        spatial.push(free / strides[i] + 1);
        output_padding.push(free % strides[i]);
    }
    let to = [vec![shape.0[0].clone(), Dim::from(columns)], spatial.iter().map(|s| Dim::from(*s)).collect()].concat();
    let x = reshape(cx, x, Shape(to))?;
    // Channel c·taps + k of the operand goes to tap k of channel c.
    let mut w = vec![0.0; table_size(&[columns, taps], "the blocks")?];
    for (c, row) in w.chunks_mut(taps).enumerate() {
        row[c % taps] = 1.0;
    }
    let w = Tensor::from_f64(cx.dtype(x), &[&[columns, 1], &block[..]].concat(), &w);
    let w = cx.weight(w);
    let op = ConvTranspose {
        kernel: block,
        strides,
        dilations,
        pads,
        output_padding,
        group: columns / taps,
        layout: Layout::ChannelsFirst,
    };
    cx.op(op, &[x, w])
}

/// Elements back to the places that MaxPool gives, zeros elsewhere.
fn max_unpool(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<ValueId, ImportError> {
    let (x, at) = (node.input(0)?, node.input(1)?);
    let shape = cx.fact(x).dims().filter(|d| d.len() >= 3);
    let shape = shape.ok_or_else(|| ImportError::new(format!("expected [N,C,spatial…] of known extents, found {}", cx.shape(x))))?;
    let rank = shape.len() - 2;
    let kernel = node.opt_ints("kernel_shape")?.ok_or_else(|| ImportError::new("kernel_shape is missing"))?;
    let strides = node.opt_ints("strides")?.unwrap_or_else(|| vec![1; rank]);
    let pads = node.opt_ints("pads")?.unwrap_or_else(|| vec![0; 2 * rank]);
    if kernel.len() != rank || strides.len() != rank || pads.len() != 2 * rank {
        return Err(ImportError::new(format!("kernel_shape, strides and pads do not fit {rank} spatial axes")));
    }
    let (kernel, strides) = (extents(&kernel, "kernel_shape")?, extents(&strides, "strides")?);
    let mut inner = shape[..2].to_vec();
    for i in 0..rank {
        let made = ((shape[i + 2].max(1) - 1) as i64).saturating_mul(strides[i] as i64).saturating_add(kernel[i] as i64);
        let n = made.saturating_sub(pads[i]).saturating_sub(pads[i + rank]);
        inner.push(usize::try_from(n).map_err(|_| ImportError::new("pads cut off everything"))?);
    }
    let n = inner.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n < 1 << 40);
    let n = n.ok_or_else(|| ImportError::new(format!("the result would be {inner:?}")))?;
    let count = shape.iter().product::<usize>();
    let zero = number(cx, cx.dtype(x), 0.0);
    let zeros = cx.op(Expand { to: Shape::of(&[n]) }, &[zero])?;
    let (flat, at) = (reshape(cx, x, Shape::of(&[count]))?, reshape(cx, at, Shape::of(&[count]))?);
    let y = cx.op(ScatterElements { axis: 0, reduction: Reduction::None }, &[zeros, at, flat])?;
    let y = reshape(cx, y, Shape::of(&inner))?;
    let Some(wanted) = node.opt_input(2) else { return Ok(y) };
    // A larger result has the elements at its beginning.
    let wanted = cx.constant_ints(wanted, "output_shape")?;
    if wanted.len() != inner.len() {
        return Err(ImportError::new(format!("output_shape: expected {} extents, found {wanted:?}", inner.len())));
    }
    let mut all = vec![0; inner.len()];
    all.extend(wanted.iter().zip(&inner).map(|(w, i)| w.saturating_sub(*i as i64)));
    padded(cx, y, all)
}

/// Writes along one axis from a place of each batch element on.
fn tensor_scatter(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<ValueId, ImportError> {
    let (cache, update) = (node.input(0)?, node.input(1)?);
    let shape = cx.shape(update).clone();
    let rank = cx.rank(cache);
    let axis = resolve_axis(node.int("axis", -2)?, rank)?;
    if axis == 0 || shape.rank() != rank {
        return Err(ImportError::new(format!("axis {axis} of {} cannot be written with {shape}", cx.shape(cache))));
    }
    let count = shape.0[axis].as_usize().ok_or_else(|| ImportError::new("the number of positions must be known"))?;
    let mut along = vec![1; rank];
    along[axis] = count;
    let mut at = counted(cx, 0, &along)?;
    if let Some(first) = node.opt_input(2) {
        let mut to = vec![Dim::Const(1); rank];
        to[0] = cx.shape(first).numel();
        let first = cast(cx, first, DType::I64)?;
        let first = reshape(cx, first, Shape(to))?;
        at = apply(cx, "add", &[first, at])?;
    }
    match node.str("mode", "linear")? {
        "linear" => {}
        "circular" => {
            let n = cx.shape(cache).0[axis].as_const().filter(|n| *n > 0);
            let n = n.ok_or_else(|| ImportError::new("the length of the cache must be known"))?;
            at = with_constant(cx, "mod", at, n as f64)?;
        }
        other => return Err(ImportError::new(format!("mode: expected linear or circular, found {other:?}"))),
    }
    let at = cx.op(Expand { to: shape }, &[at])?;
    cx.op(ScatterElements { axis, reduction: Reduction::None }, &[cache, at, update])
}

/// The places, under an affine map of each batch element, that an image's elements come from.
fn affine_grid(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<ValueId, ImportError> {
    let theta = node.input(0)?;
    let size = extents(&cx.constant_ints(node.input(1)?, "size")?, "size")?;
    let axes = size.len().saturating_sub(2);
    if !(axes == 2 || axes == 3) {
        return Err(ImportError::new(format!("size: expected [N,C,H,W] or [N,C,D,H,W], found {size:?}")));
    }
    let corners = node.int("align_corners", 0)? != 0;
    let spatial = &size[2..];
    let place = |i: usize, n: usize| match (corners, n) {
        (true, 1) => 0.0,
        (true, n) => 2.0 * i as f64 / (n - 1) as f64 - 1.0,
        (false, n) => (2 * i + 1) as f64 / n as f64 - 1.0,
    };
    let points = table_size(spatial, "size")?;
    let mut grid = Vec::with_capacity(points * (axes + 1));
    super::util::for_each_index(spatial, |at| {
        // The last axis of the image is the first coordinate.
        grid.extend((0..axes).rev().map(|a| place(at[a], spatial[a])));
        grid.push(1.0);
    });
    let grid = cx.weight(Tensor::from_f64(cx.dtype(theta), &[points, axes + 1], &grid));
    let y = cx.op(MatMul { trans_a: false, trans_b: true }, &[grid, theta])?;
    cx.op(super::reshape::Reshape { to: Shape::of(&[&size[..1], spatial, &[axes]].concat()) }, &[y])
}

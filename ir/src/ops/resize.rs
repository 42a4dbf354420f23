//! Resize and Upsample: interpolation at other positions along some axes.
//!
//! ONNX: [Resize](https://onnx.ai/onnx/operators/onnx__Resize.html) (10, 11, 13, 18, 19) and
//! [Upsample](https://onnx.ai/onnx/operators/onnx__Upsample.html) (7, 9). Interpolation is separable, and where an element of the result comes from
//! is known at compile time: an axis becomes a `resample` with its filter as a constant, or, for mode `nearest`, all axes one `nearest`.
//! The filters are those of ONNX's reference, `antialias` included.

use super::cast::Cast;
use super::nearest::{Nearest, rule};
use super::resample::Resample;
use super::resize_late;
use super::unary::Unary;
use super::where_::Where;
use crate::lower::wide;
use crate::op::resolve_axis;
use crate::ops::*;
use tenon_base::Scalar;

/// Positions this near to a half or a whole element, relative to the position, are taken to be there.
pub(super) const SNAP: f64 = 4e-7;
/// No axis is made longer than this.
const MAX_EXTENT: i64 = 1 << 24;

pub(super) fn onnx() -> Vec<OnnxName> {
    vec![
        OnnxName { domain: "", name: "Resize", versions: &[10, 11, 13, 18, 19] },
        OnnxName { domain: "", name: "Upsample", versions: &[7, 9] },
    ]
}

crate::attr_enum! {
    /// How elements are interpolated.
    pub(super) enum Mode {
        /// The nearest element.
        Nearest = "nearest",
        /// Between the two nearest, in proportion.
        Linear = "linear",
        /// By a cubic through the four nearest.
        Cubic = "cubic",
    }
}

crate::attr_enum! {
    /// Which position of the operand an element of the result is at.
    pub(super) enum Coordinates {
        /// Elements are areas: `(i + 1/2) / scale - 1/2`.
        HalfPixel = "half_pixel",
        /// As half pixels, centred when the scaled extent was rounded.
        HalfPixelSymmetric = "half_pixel_symmetric",
        /// As half pixels, 0 where the result has one element.
        PytorchHalfPixel = "pytorch_half_pixel",
        /// `(i + 1/2) / scale`, of opset 11: for neighbours only.
        HalfPixelForNearest = "tf_half_pixel_for_nn",
        /// First and last elements meet.
        AlignCorners = "align_corners",
        /// `i / scale`
        Asymmetric = "asymmetric",
        /// Within a region of interest.
        CropAndResize = "tf_crop_and_resize",
    }
}

crate::attr_enum! {
    /// Which neighbour a position between two is taken to be.
    pub(super) enum Rounding {
        /// To the nearest, down at the middle.
        PreferFloor = "round_prefer_floor",
        /// To the nearest, up at the middle.
        PreferCeil = "round_prefer_ceil",
        /// Down.
        Floor = "floor",
        /// Up.
        Ceil = "ceil",
        /// Of opset 10: down where the axis grows, up where it shrinks.
        Simple = "simple",
    }
}

/// What holds for all axes.
pub(super) struct Method {
    pub(super) mode: Mode,
    pub(super) coordinates: Coordinates,
    pub(super) rounding: Rounding,
    pub(super) cubic_a: f64,
    pub(super) antialias: bool,
    pub(super) exclude_outside: bool,
}

/// One axis that changes.
struct Axis {
    axis: usize,
    from: usize,
    to: usize,
    scale: f64,
    /// For `tf_crop_and_resize`, in parts of the axis.
    roi: (f64, f64),
}

/// One axis that changes, by extents that only a run knows.
pub(super) struct Late {
    pub(super) axis: usize,
    pub(super) from: Dim,
    pub(super) to: Dim,
    /// The extents' ratio where it is not given.
    pub(super) scale: Option<f64>,
}

impl Method {
    /// How often every element is repeated, where that is all.
    pub(super) fn repeats(&self, a: &Late) -> Option<usize> {
        let k = match a.scale {
            Some(s) => (s.fract() == 0.0 && (1.0..65536.0).contains(&s)).then_some(s as usize)?,
            None => a.to.div(&a.from).as_usize().filter(|k| *k > 0)?,
        };
        // Positions along an axis are alike for every extent but where its ends meet.
        if self.mode != Mode::Nearest || self.coordinates == Coordinates::AlignCorners || a.from.mul(&Dim::from(k)) != a.to {
            return None;
        }
        let probe = Axis { axis: a.axis, from: 4, to: 4 * k, scale: k as f64, roi: (0.0, 1.0) };
        (0..4 * k).all(|o| self.nearest(&probe, o) == o / k).then_some(k)
    }

    fn import(node: &OnnxNode<'_>) -> Result<Method, ImportError> {
        let named = |name: &str, e: String| ImportError::new(format!("{name}: {e}"));
        let old = node.op_type() == "Upsample" || node.opset < 11;
        let mode = Mode::parse(node.str("mode", "nearest")?).map_err(|e| named("mode", e))?;
        let coordinates = node.str("coordinate_transformation_mode", if old { "asymmetric" } else { "half_pixel" })?;
        let rounding = match node.op_type() {
            "Upsample" => "floor",
            _ if old => "simple",
            _ => "round_prefer_floor",
        };
        let method = Method {
            mode,
            coordinates: Coordinates::parse(coordinates).map_err(|e| named("coordinate_transformation_mode", e))?,
            rounding: Rounding::parse(node.str("nearest_mode", rounding)?).map_err(|e| named("nearest_mode", e))?,
            cubic_a: f64::from(node.float("cubic_coeff_a", -0.75)?),
            antialias: node.int("antialias", 0)? != 0,
            exclude_outside: node.int("exclude_outside", 0)? != 0,
        };
        if method.antialias && mode == Mode::Nearest {
            return Err(ImportError::new("antialias: expected mode linear or cubic, found nearest"));
        }
        Ok(method)
    }

    /// The position in the operand of element `o`.
    fn position(&self, a: &Axis, o: usize) -> f64 {
        let (o, from) = (o as f64, a.from as f64);
        // Not rounded to whole elements: a scale may make a fraction of one.
        let to = a.scale * from;
        match self.coordinates {
            Coordinates::HalfPixel => (o + 0.5) / a.scale - 0.5,
            Coordinates::HalfPixelSymmetric => {
                let offset = from / 2.0 * (1.0 - a.to as f64 / to);
                offset + (o + 0.5) / a.scale - 0.5
            }
            Coordinates::PytorchHalfPixel if a.to <= 1 => 0.0,
            Coordinates::PytorchHalfPixel => (o + 0.5) / a.scale - 0.5,
            Coordinates::HalfPixelForNearest => (o + 0.5) / a.scale,
            Coordinates::AlignCorners if a.to <= 1 || to == 1.0 => 0.0,
            Coordinates::AlignCorners => o * (from - 1.0) / (to - 1.0),
            Coordinates::Asymmetric => o / a.scale,
            Coordinates::CropAndResize if a.to <= 1 => 0.5 * (a.roi.0 + a.roi.1) * (from - 1.0),
            Coordinates::CropAndResize => {
                let length = (a.roi.1 - a.roi.0) * (from - 1.0);
                a.roi.0 * (from - 1.0) + o * length / (to - 1.0).max(f64::MIN_POSITIVE)
            }
        }
    }

    /// The element nearest to the position of element `o`.
    fn nearest(&self, a: &Axis, o: usize) -> usize {
        let mut x = self.position(a, o);
        // A scale is rounded, halves and whole numbers are not meant to be.
        let half = (x * 2.0).round() / 2.0;
        if (x - half).abs() < SNAP * x.abs().max(1.0) {
            x = half;
        }
        let i = match self.rounding {
            Rounding::PreferFloor => (x - 0.5).ceil(),
            Rounding::PreferCeil => (x + 0.5).floor(),
            Rounding::Floor => x.floor(),
            Rounding::Ceil => x.ceil(),
            Rounding::Simple if a.scale < 1.0 => x.ceil(),
            Rounding::Simple => x.floor(),
        };
        (i.max(0.0) as usize).min(a.from - 1)
    }

    /// The first neighbour of position `x` and the weights of all, which may lie outside.
    fn filter(&self, a: &Axis, x: f64) -> (i64, Vec<f64>) {
        let p = x.floor();
        // In (0, 1]: an element at the position itself counts as the right neighbour.
        let ratio = if x == p { 1.0 } else { x - p };
        let base = p as i64 - i64::from(x == p);
        let scale = if self.antialias { a.scale.min(1.0) } else { 1.0 };
        let support = if self.mode == Mode::Cubic { 2.0 } else { 1.0 };
        let start = (-support / scale).floor() as i64 + 1;
        let weights: Vec<f64> = (start..2 - start)
            .map(|i| {
                let d = ((i as f64 - ratio) * scale).abs();
                if self.mode == Mode::Cubic { cubic(d, self.cubic_a) } else { (1.0 - d).max(0.0) }
            })
            .collect();
        let sum: f64 = weights.iter().sum();
        let weights = if self.antialias { weights.iter().map(|w| w / sum).collect() } else { weights };
        (base + start, weights)
    }

    /// The filter of element `o` within the operand: its first element and its weights.
    fn inner_filter(&self, a: &Axis, o: usize) -> (usize, Vec<f64>) {
        let (start, mut weights) = self.filter(a, self.position(a, o));
        let last = a.from as i64 - 1;
        if self.exclude_outside {
            let outside = |t: usize| !(0..=last).contains(&(start + t as i64));
            (0..weights.len()).filter(|t| outside(*t)).for_each(|t| weights[t] = 0.0);
            let sum: f64 = weights.iter().sum();
            weights.iter_mut().for_each(|w| *w /= if sum == 0.0 { 1.0 } else { sum });
        }
        // What lies outside is the edge again.
        let first = start.clamp(0, last);
        let end = (start + weights.len() as i64 - 1).clamp(first, last);
        let mut inner = vec![0.0; (end - first + 1) as usize];
        for (t, w) in weights.into_iter().enumerate() {
            inner[((start + t as i64).clamp(first, end) - first) as usize] += w;
        }
        // Zeros at the ends only widen every other filter.
        let keep = |w: &f64| *w != 0.0;
        let (front, back) = match (inner.iter().position(keep), inner.iter().rposition(keep)) {
            (Some(f), Some(b)) => (f, b),
            _ => (0, 0),
        };
        (first as usize + front, inner[front..=back].to_vec())
    }
}

fn cubic(x: f64, a: f64) -> f64 {
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    let method = Method::import(node)?;
    let (axes, late) = axes_to_change(node, cx, &method)?;
    let mut x = x;
    for a in &late {
        x = resize_late::resized(cx, x, &method, a)?;
    }
    if axes.is_empty() {
        return Ok(vec![x]);
    }
    let dtype = cx.dtype(x);
    let mut y = match method.mode {
        Mode::Nearest => nearest(cx, x, &method, &axes)?,
        _ => interpolate(cx, x, &method, &axes)?,
    };
    if method.coordinates == Coordinates::CropAndResize {
        let value = Scalar::of_f64(dtype, f64::from(node.float("extrapolation_value", 0.0)?));
        y = extrapolate(cx, y, &method, &axes, value)?;
    }
    Ok(vec![y])
}

fn nearest(cx: &mut Importer<'_>, x: ValueId, method: &Method, axes: &[Axis]) -> Result<ValueId, ImportError> {
    let mut simple = Nearest { axes: vec![], to: vec![], mul: vec![], add: vec![], div: vec![] };
    let mut y = x;
    for a in axes {
        let table: Vec<usize> = (0..a.to).map(|o| method.nearest(a, o)).collect();
        if let Some((mul, add, div)) = rule(&table, a.from) {
            simple.axes.push(a.axis);
            simple.to.push(a.to);
            simple.mul.push(mul);
            simple.add.push(add);
            simple.div.push(div);
        } else {
            let table: Vec<i64> = table.into_iter().map(|i| i as i64).collect();
            let first = cx.weight(Tensor::new(&[a.to], &table));
            y = cx.op(Resample { axis: a.axis }, &[y, first])?;
        }
    }
    if simple.axes.is_empty() { Ok(y) } else { cx.op(simple, &[y]) }
}

fn interpolate(cx: &mut Importer<'_>, x: ValueId, method: &Method, axes: &[Axis]) -> Result<ValueId, ImportError> {
    let dtype = cx.dtype(x);
    // Between two axes nothing is rounded to less than `f32`.
    let computed = if dtype.is_float() { wide(dtype) } else { DType::F32 };
    let mut y = if computed == dtype { x } else { cx.op(Cast::to(computed), &[x])? };
    for a in axes {
        let filters: Vec<(usize, Vec<f64>)> = (0..a.to).map(|o| method.inner_filter(a, o)).collect();
        let taps = filters.iter().map(|(_, w)| w.len()).max().unwrap_or(1);
        let (mut first, mut weights) = (vec![], vec![0.0; a.to * taps]);
        for (o, (at, w)) in filters.into_iter().enumerate() {
            let begin = at.min(a.from - taps);
            let row = &mut weights[o * taps + at - begin..];
            row[..w.len()].copy_from_slice(&w);
            first.push(begin as i64);
        }
        let first = cx.weight(Tensor::new(&[a.to], &first));
        let weights = cx.weight(Tensor::from_f64(computed, &[a.to, taps], &weights));
        y = cx.op(Resample { axis: a.axis }, &[y, first, weights])?;
    }
    if computed == dtype {
        return Ok(y);
    }
    if !dtype.is_float() {
        let round = Unary::named("round").ok_or_else(|| ImportError::new("no round"))?;
        y = cx.op(round, &[y])?;
    }
    cx.op(Cast::to(dtype), &[y])
}

/// Elements whose position lies outside the operand become `value`.
fn extrapolate(
    cx: &mut Importer<'_>,
    y: ValueId,
    method: &Method,
    axes: &[Axis],
    value: Scalar,
) -> Result<ValueId, ImportError> {
    let rank = cx.rank(y);
    let value = cx.weight(Tensor::full(&[], value));
    let mut y = y;
    for a in axes {
        let outside = |o: usize| !(0.0..=a.from as f64 - 1.0).contains(&method.position(a, o));
        let outside: Vec<bool> = (0..a.to).map(outside).collect();
        if outside.contains(&true) {
            let mut dims = vec![1; rank];
            dims[a.axis] = a.to;
            let mask = cx.weight(Tensor::new(&dims, &outside));
            y = cx.op(Where {}, &[mask, value, y])?;
        }
    }
    Ok(y)
}

/// Operand `i`, if it is there and not empty.
fn given(node: &OnnxNode<'_>, cx: &Importer<'_>, i: usize) -> Option<ValueId> {
    node.opt_input(i).filter(|v| cx.shape(*v).numel() != Dim::Const(0))
}

/// Scales (attribute or operand) or extents, per named axis; only axes that change are given.
fn axes_to_change(
    node: &OnnxNode<'_>,
    cx: &Importer<'_>,
    method: &Method,
) -> Result<(Vec<Axis>, Vec<Late>), ImportError> {
    let shape = cx.shape(node.input(0)?).clone();
    let rank = shape.rank();
    let named: Vec<usize> = match node.opt_ints("axes")? {
        None => (0..rank).collect(),
        Some(a) => a.iter().map(|&a| resolve_axis(a, rank)).collect::<Result<_, _>>()?,
    };
    let (scales_at, sizes_at) = if node.op_type() == "Upsample" || node.opset < 11 { (1, 4) } else { (2, 3) };
    let sizes = given(node, cx, sizes_at).map(|v| cx.constant_dims(v, "sizes")).transpose()?;
    let scales = match (node.attr("scales"), given(node, cx, scales_at)) {
        (Some(crate::OnnxAttr::Floats(f)), _) => Some(f.clone()),
        (_, Some(v)) => Some(cx.constant(v, "scales")?.to_f64().into_iter().map(|s| s as f32).collect()),
        _ => None,
    };
    let count = sizes.as_ref().map(Vec::len).or(scales.as_ref().map(Vec::len));
    if count != Some(named.len()) {
        return Err(ImportError::new(format!(
            "expected scales or sizes for {} axes of {shape}, found {}",
            named.len(),
            count.unwrap_or(0)
        )));
    }
    let roi = match (method.coordinates, given(node, cx, 1)) {
        (Coordinates::CropAndResize, Some(v)) => cx.constant(v, "roi")?.to_f64(),
        (Coordinates::CropAndResize, None) => return Err(ImportError::new("tf_crop_and_resize: `roi` is missing")),
        _ => [vec![0.0; named.len()], vec![1.0; named.len()]].concat(),
    };
    if roi.len() != 2 * named.len() {
        return Err(ImportError::new(format!("roi: expected {} numbers, found {}", 2 * named.len(), roi.len())));
    }
    let (mut all, mut late) = (vec![], vec![]);
    let stretch = node.str("keep_aspect_ratio_policy", "stretch")? == "stretch";
    for (i, &axis) in named.iter().enumerate() {
        let d = &shape.0[axis];
        let roi = (roi[i], roi[i + named.len()]);
        let same = match (&sizes, &scales) {
            (Some(s), _) => s[i] == *d,
            (None, Some(s)) => s[i] == 1.0,
            _ => false,
        };
        if same && roi == (0.0, 1.0) {
            continue;
        }
        let scaled = match (&sizes, &scales) {
            (Some(s), _) => Some((s[i].clone(), None)),
            (None, Some(s)) => scaled(d, s[i]).map(|to| (to, Some(f64::from(s[i])))),
            (None, None) => None,
        };
        if let Some((to, scale)) = scaled
            && stretch
            && (d.as_const().is_none() || to.as_const().is_none())
        {
            late.push(Late { axis, from: d.clone(), to, scale });
            continue;
        }
        let from = d.as_usize().filter(|n| *n > 0).ok_or_else(|| {
            ImportError::new(format!("axis {axis} is resized and must have a known extent, found {d}"))
                .with_pins(d)
        })?;
        let (to, scale) = match (&sizes, &scales) {
            (Some(s), _) => {
                let n = s[i].as_const().ok_or_else(|| {
                    ImportError::new(format!("sizes: axis {axis} becomes {}, which must be known", s[i]))
                        .with_help("pin the dimensions in it with --dim NAME=…")
                })?;
                (n, n as f64 / from as f64)
            }
            (None, Some(s)) => ((from as f32 * s[i]).floor() as i64, f64::from(s[i])),
            (None, None) => (0, 0.0),
        };
        if !(0..=MAX_EXTENT).contains(&to) || !(scale.is_finite() && scale > 0.0 || to == 0) {
            return Err(ImportError::new(format!("axis {axis}: {from} elements cannot become {to} (scale {scale})")));
        }
        all.push(Axis { axis, from, to: to as usize, scale, roi });
    }
    if sizes.is_some() {
        keep_aspect_ratio(node, &shape, &named, &mut all)?;
    }
    Ok((all, late))
}

/// `⌊d · scale⌋`, where the scale is a ratio of small numbers.
fn scaled(d: &Dim, scale: f32) -> Option<Dim> {
    let by = (1..=64).find(|q| (scale * *q as f32).fract() == 0.0 && scale > 0.0 && scale < 65536.0)?;
    Some(d.mul(&Dim::Const((scale * by as f32) as i64)).div(&Dim::Const(by)))
}

/// One scale for all axes, the smallest or the largest of theirs, where the node asks for it.
fn keep_aspect_ratio(
    node: &OnnxNode<'_>,
    shape: &tenon_base::Shape,
    named: &[usize],
    axes: &mut Vec<Axis>,
) -> Result<(), ImportError> {
    let pick = match node.str("keep_aspect_ratio_policy", "stretch")? {
        "stretch" => return Ok(()),
        "not_larger" => f64::min,
        "not_smaller" => f64::max,
        other => {
            return Err(ImportError::new(format!(
                "keep_aspect_ratio_policy: expected stretch, not_larger or not_smaller, found {other:?}"
            )));
        }
    };
    // An axis that is not in the list keeps its extent.
    let scales = named.iter().map(|n| axes.iter().find(|a| a.axis == *n).map_or(1.0, |a| a.scale));
    let Some(scale) = scales.reduce(pick) else { return Ok(()) };
    let mut all = vec![];
    for &axis in named {
        let d = &shape.0[axis];
        let from = d.as_usize().filter(|n| *n > 0).ok_or_else(|| {
            ImportError::new(format!("axis {axis} is resized and must have a known extent, found {d}"))
                .with_pins(d)
        })?;
        let to = (scale * from as f64 + 0.5).floor();
        if to > MAX_EXTENT as f64 {
            return Err(ImportError::new(format!("axis {axis}: {from} elements cannot become {to}")));
        }
        if scale != 1.0 {
            all.push(Axis { axis, from, to: to as usize, scale, roi: (0.0, 1.0) });
        }
    }
    *axes = all;
    Ok(())
}

//! Resize along an axis whose extents only a run knows: the positions of its elements are computed in the run, by the formulas of
//! [`super::resize`].

use super::cast::Cast;
use super::expand::Expand;
use super::gather::Gather;
use super::reshape::Reshape;
use super::resize::{Coordinates, Late, Method, Mode, Rounding, SNAP};
use super::util::{apply, cast, number, positions, with_constant};
use super::where_::Where;
use crate::lower::wide;
use crate::ops::*;
use tenon_base::Shape;

/// `x` with the axis `a` resized.
pub(super) fn resized(cx: &mut Importer<'_>, x: ValueId, m: &Method, a: &Late) -> Result<ValueId, ImportError> {
    if m.antialias || m.exclude_outside || m.coordinates == Coordinates::CropAndResize {
        return Err(ImportError::new(format!(
            "axis {}: antialias, exclude_outside and tf_crop_and_resize need a known extent, found {}",
            a.axis, a.from
        ))
        .with_pins(&a.from));
    }
    if let Some(k) = m.repeats(a) {
        return repeated(cx, x, a.axis, k);
    }
    let position = position(cx, m, a)?;
    let last = scalar(cx, &a.from.sub(&Dim::Const(1)))?;
    if m.mode == Mode::Nearest {
        let at = nearest(cx, m, a, position)?;
        let at = inside(cx, at, last)?;
        return cx.op(Gather { axis: a.axis }, &[x, at]);
    }
    let dtype = cx.dtype(x);
    let computed = if dtype.is_float() { wide(dtype) } else { DType::F32 };
    let x = cast(cx, x, computed)?;
    let first = apply(cx, "floor", &[position])?;
    let ratio = apply(cx, "sub", &[position, first])?;
    let mut along = vec![Dim::Const(1); cx.rank(x)];
    along[a.axis] = a.to.clone();
    let mut sum: Option<ValueId> = None;
    for tap in if m.mode == Mode::Cubic { -1..3 } else { 0..2 } {
        let at = with_constant(cx, "add", first, f64::from(tap))?;
        let at = inside(cx, at, last)?;
        let row = cx.op(Gather { axis: a.axis }, &[x, at])?;
        let away = with_constant(cx, "sub", ratio, f64::from(tap))?;
        let away = apply(cx, "abs", &[away])?;
        let weight = match (m.mode, tap) {
            (Mode::Cubic, 0 | 1) => polynomial(cx, away, &[m.cubic_a + 2.0, -(m.cubic_a + 3.0), 0.0, 1.0])?,
            (Mode::Cubic, _) => {
                polynomial(cx, away, &[m.cubic_a, -5.0 * m.cubic_a, 8.0 * m.cubic_a, -4.0 * m.cubic_a])?
            }
            _ => polynomial(cx, away, &[-1.0, 1.0])?,
        };
        let weight = cast(cx, weight, computed)?;
        let weight = cx.op(Reshape { to: Shape(along.clone()) }, &[weight])?;
        let term = apply(cx, "mul", &[row, weight])?;
        sum = Some(match sum {
            None => term,
            Some(s) => apply(cx, "add", &[s, term])?,
        });
    }
    let mut y = sum.ok_or_else(|| ImportError::new("no taps"))?;
    if !dtype.is_float() {
        y = apply(cx, "round", &[y])?;
    }
    cast(cx, y, dtype)
}

/// Every element `k` times.
fn repeated(cx: &mut Importer<'_>, x: ValueId, axis: usize, k: usize) -> Result<ValueId, ImportError> {
    let shape = cx.shape(x).clone();
    let (mut one, mut wide, mut to) = (shape.clone(), shape.clone(), shape);
    one.0.insert(axis + 1, Dim::Const(1));
    wide.0.insert(axis + 1, Dim::from(k));
    to.0[axis] = to.0[axis].mul(&Dim::from(k));
    let y = cx.op(Reshape { to: one }, &[x])?;
    let y = cx.op(Expand { to: wide }, &[y])?;
    cx.op(Reshape { to }, &[y])
}

/// An extent as `f64`.
fn scalar(cx: &mut Importer<'_>, d: &Dim) -> Result<ValueId, ImportError> {
    if let Some(c) = d.as_const() {
        return Ok(number(cx, DType::F64, c as f64));
    }
    let v = cx.symbolic(vec![d.clone()], &[]);
    cx.op(Cast::to(DType::F64), &[v])
}

/// `Σ c[i] · x^(n - i)`
fn polynomial(cx: &mut Importer<'_>, x: ValueId, c: &[f64]) -> Result<ValueId, ImportError> {
    let mut y = with_constant(cx, "mul", x, c[0])?;
    y = with_constant(cx, "add", y, c[1])?;
    for &c in &c[2..] {
        y = apply(cx, "mul", &[y, x])?;
        y = with_constant(cx, "add", y, c)?;
    }
    Ok(y)
}

/// Positions, at least 0 and at most `last`, as indices.
fn inside(cx: &mut Importer<'_>, at: ValueId, last: ValueId) -> Result<ValueId, ImportError> {
    let at = with_constant(cx, "max", at, 0.0)?;
    let at = apply(cx, "min", &[at, last])?;
    cast(cx, at, DType::I64)
}

/// The positions in the operand of all elements of the result: `f64[to]`.
fn position(cx: &mut Importer<'_>, m: &Method, a: &Late) -> Result<ValueId, ImportError> {
    let o = positions(cx, &a.to)?;
    let o = cast(cx, o, DType::F64)?;
    let (from, whole) = (scalar(cx, &a.from)?, scalar(cx, &a.to)?);
    let scale = match a.scale {
        Some(s) => number(cx, DType::F64, s),
        None => apply(cx, "div", &[whole, from])?,
    };
    // Not rounded to whole elements: a scale may make a fraction of one.
    let to = apply(cx, "mul", &[scale, from])?;
    let half_pixel = |cx: &mut Importer<'_>| -> Result<ValueId, ImportError> {
        let x = with_constant(cx, "add", o, 0.5)?;
        let x = apply(cx, "div", &[x, scale])?;
        with_constant(cx, "sub", x, 0.5)
    };
    match m.coordinates {
        Coordinates::HalfPixel => half_pixel(cx),
        Coordinates::PytorchHalfPixel => {
            let x = half_pixel(cx)?;
            let several = with_constant(cx, "greater", whole, 1.0)?;
            let zero = number(cx, DType::F64, 0.0);
            cx.op(Where {}, &[several, x, zero])
        }
        Coordinates::HalfPixelSymmetric => {
            let x = half_pixel(cx)?;
            let (part, half) = (apply(cx, "div", &[whole, to])?, with_constant(cx, "mul", from, 0.5)?);
            let taken = apply(cx, "mul", &[half, part])?;
            let offset = apply(cx, "sub", &[half, taken])?;
            apply(cx, "add", &[x, offset])
        }
        Coordinates::HalfPixelForNearest => {
            let x = with_constant(cx, "add", o, 0.5)?;
            apply(cx, "div", &[x, scale])
        }
        Coordinates::AlignCorners => {
            let (from, to) = (with_constant(cx, "sub", from, 1.0)?, with_constant(cx, "sub", to, 1.0)?);
            // One element lies at 0.
            let to = with_constant(cx, "max", to, f64::MIN_POSITIVE)?;
            let x = apply(cx, "mul", &[o, from])?;
            apply(cx, "div", &[x, to])
        }
        Coordinates::Asymmetric => apply(cx, "div", &[o, scale]),
        Coordinates::CropAndResize => Err(ImportError::new("tf_crop_and_resize needs a known extent")),
    }
}

/// The whole positions nearest to `x`, not yet within the operand.
fn nearest(cx: &mut Importer<'_>, m: &Method, a: &Late, x: ValueId) -> Result<ValueId, ImportError> {
    // A scale is rounded, halves and whole numbers are not meant to be.
    let twice = with_constant(cx, "mul", x, 2.0)?;
    let twice = apply(cx, "round", &[twice])?;
    let half = with_constant(cx, "mul", twice, 0.5)?;
    let off = apply(cx, "sub", &[x, half])?;
    let off = apply(cx, "abs", &[off])?;
    let size = apply(cx, "abs", &[x])?;
    let size = with_constant(cx, "max", size, 1.0)?;
    let limit = with_constant(cx, "mul", size, SNAP)?;
    let near = apply(cx, "less", &[off, limit])?;
    let x = cx.op(Where {}, &[near, half, x])?;
    let (offset, round) = match m.rounding {
        Rounding::PreferFloor => (-0.5, "ceil"),
        Rounding::PreferCeil => (0.5, "floor"),
        Rounding::Floor => (0.0, "floor"),
        Rounding::Ceil => (0.0, "ceil"),
        Rounding::Simple => match a.scale {
            Some(s) if s < 1.0 => (0.0, "ceil"),
            Some(_) => (0.0, "floor"),
            None => {
                return Err(ImportError::new(format!("axis {}: its extent {} must be known", a.axis, a.from))
                    .with_pins(&a.from));
            }
        },
    };
    let x = with_constant(cx, "add", x, offset)?;
    apply(cx, round, &[x])
}

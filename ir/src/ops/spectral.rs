//! Discrete Fourier transforms as products with constant matrices, and the tables that go with them.
//!
//! One matrix does a short transform. A longer one of `n = a·b` points is `b` transforms of `a` points and then `a` of `b` points (J. Cooley and
//! J. Tukey, *An Algorithm for the Machine Calculation of Complex Fourier Series*, 1965), whose matrices hold the factors between the two: products
//! in proportion to `n·(a + b)` in place of `n²`, and tables that are as much smaller.
//!
//! ONNX: [DFT](https://onnx.ai/onnx/operators/onnx__DFT.html) (17, 20), [STFT](https://onnx.ai/onnx/operators/onnx__STFT.html) (17),
//! [HannWindow](https://onnx.ai/onnx/operators/onnx__HannWindow.html), HammingWindow and BlackmanWindow (17),
//! [MelWeightMatrix](https://onnx.ai/onnx/operators/onnx__MelWeightMatrix.html) (17). A matrix takes `4·n·k` numbers: transforms of more
//! than 4096 points are refused.

use super::matmul::MatMul;
use super::slice::Slice;
use super::transpose::Transpose;
use super::util::{apply, cast, reshape, table_size};
use crate::import::dtype_of_code;
use crate::op::resolve_axis;
use crate::ops::*;
use std::f64::consts::PI;
use tenon_base::Shape;

pub(super) fn onnx() -> Vec<OnnxName> {
    let on = |name, versions| OnnxName { domain: "", name, versions };
    vec![
        on("DFT", &[17, 20]),
        on("STFT", &[17]),
        on("HannWindow", &[17]),
        on("HammingWindow", &[17]),
        on("BlackmanWindow", &[17]),
        on("MelWeightMatrix", &[17]),
    ]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    Ok(vec![match node.op_type() {
        "DFT" => dft(node, cx)?,
        "STFT" => stft(node, cx)?,
        "MelWeightMatrix" => mel(node, cx)?,
        _ => window(node, cx)?,
    }])
}

/// The longest transform.
const LONGEST: usize = 4096;

/// `(cos, sin)` of `2π·i/n`, exact at the multiples of a quarter turn.
fn turn(i: usize, n: usize) -> (f64, f64) {
    let i = i % n;
    match (4 * i) % n {
        0 => [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)][4 * i / n],
        _ => {
            let angle = 2.0 * PI * i as f64 / n as f64;
            (angle.cos(), angle.sin())
        }
    }
}

/// What a transform of `length` points does to `rows` of them, `parts` numbers each: `[rows·parts, columns·2]`.
#[derive(Clone, Copy)]
struct Transform {
    length: usize,
    rows: usize,
    parts: usize,
    inverse: bool,
    columns: usize,
}

impl Transform {
    fn matrix(self) -> Result<Vec<f64>, ImportError> {
        let n = self.length;
        table_size(&[self.rows * self.parts, self.columns * 2], "a transform")?;
        let scale = if self.inverse { 1.0 / n as f64 } else { 1.0 };
        let mut m = vec![0.0; self.rows * self.parts * self.columns * 2];
        for row in 0..self.rows.min(n) {
            for column in 0..self.columns {
                let (c, s) = turn(row * column, n);
                let (c, s) = (c * scale, if self.inverse { s } else { -s } * scale);
                let at = |part: usize, out: usize| ((row * self.parts + part) * self.columns + column) * 2 + out;
                (m[at(0, 0)], m[at(0, 1)]) = (c, s);
                if self.parts == 2 {
                    (m[at(1, 0)], m[at(1, 1)]) = (-s, c);
                }
            }
        }
        Ok(m)
    }

    /// The two factors that take the fewest products, if that is worth two transpositions.
    fn factors(self) -> Option<(usize, usize)> {
        let n = self.length;
        // Signals that are cut or filled up would have to be first.
        let (a, b) = (2..n).filter(|a| n.is_multiple_of(*a)).map(|a| (a, n / a)).min_by_key(|(a, b)| (a + b, *a))?;
        (self.rows == n && 8 * (a + b) <= n).then_some((a, b))
    }

    /// Does it to the rows of `x` `[…, rows·parts]`; gives `[…, columns·2]`.
    ///
    /// With `j = j₁·b + j₂` and `k = k₁ + a·k₂`, `w^(j·k)` is `w_a^(j₁·k₁) · w^(j₂·k₁) · w_b^(j₂·k₂)`: the sum over `j₁` first, then for each `k₁` that
    /// over `j₂`, whose matrix is that of a transform of `n` points at the rows `j₂` and the columns `k₁ + a·k₂`.
    fn of(self, cx: &mut Importer<'_>, x: ValueId) -> Result<ValueId, ImportError> {
        let Some((a, b)) = self.factors() else { return times(cx, x, &self.matrix()?, self.columns * 2) };
        let sign = if self.inverse { 1.0 } else { -1.0 };
        // A complex factor at a row and a column of pairs, for a matrix of `parts` numbers a row.
        let put = |m: &mut [f64], parts: usize, width: usize, [row, column]: [usize; 2], (c, s): (f64, f64)| {
            let at = |part: usize, out: usize| ((row * parts + part) * width + column) * 2 + out;
            (m[at(0, 0)], m[at(0, 1)]) = (c, sign * s);
            if parts == 2 {
                (m[at(1, 0)], m[at(1, 1)]) = (-sign * s, c);
            }
        };
        let mut first = vec![0.0; a * self.parts * a * 2];
        for (j, k) in (0..a).flat_map(|j| (0..a).map(move |k| (j, k))) {
            put(&mut first, self.parts, a, [j, k], turn(j * k, a));
        }
        // Of a result that ends early as many columns as are needed.
        let wide = self.columns.div_ceil(a);
        let scale = if self.inverse { 1.0 / self.length as f64 } else { 1.0 };
        let mut second = vec![0.0; a * b * 2 * wide * 2];
        for (k1, m) in second.chunks_exact_mut(b * 2 * wide * 2).enumerate() {
            for (j, k) in (0..b).flat_map(|j| (0..wide).map(move |k| (j, k))) {
                let (c, s) = turn(j * (k1 + a * k), self.length);
                put(m, 2, wide, [j, k], (c * scale, s * scale));
            }
        }
        let outer = cx.shape(x).0[..cx.rank(x) - 1].to_vec();
        let rows = outer.iter().fold(Dim::Const(1), |n, d| n.mul(d));
        let shaped = |dims: &[usize]| Shape([vec![rows.clone()], dims.iter().map(|d| Dim::from(*d)).collect()].concat());
        let x = reshape(cx, x, shaped(&[a, b, self.parts]))?;
        let x = cx.op(Transpose { perm: vec![0, 2, 1, 3] }, &[x])?;
        let x = reshape(cx, x, shaped(&[b, a * self.parts]))?;
        let y = times(cx, x, &first, a * 2)?;
        let y = reshape(cx, y, shaped(&[b, a, 2]))?;
        let y = cx.op(Transpose { perm: vec![2, 0, 1, 3] }, &[y])?;
        let y = reshape(cx, y, Shape(vec![Dim::from(a), rows.clone(), Dim::from(b * 2)]))?;
        let m = cx.weight(Tensor::from_f64(cx.dtype(y), &[a, b * 2, wide * 2], &second));
        let z = cx.op(MatMul { trans_a: false, trans_b: false }, &[y, m])?;
        let z = reshape(cx, z, Shape(vec![Dim::from(a), rows.clone(), Dim::from(wide), Dim::Const(2)]))?;
        let z = cx.op(Transpose { perm: vec![1, 2, 0, 3] }, &[z])?;
        let mut z = reshape(cx, z, shaped(&[wide * a * 2]))?;
        if wide * a > self.columns {
            let to = shaped(&[self.columns * 2]);
            z = cx.op(Slice { starts: vec![0; 2], steps: vec![1; 2], to }, &[z])?;
        }
        reshape(cx, z, Shape([outer, vec![Dim::from(self.columns * 2)]].concat()))
    }

    /// Real results of the half of a spectrum that a real signal needs: `[rows·2, length]`.
    fn real_matrix(self) -> Vec<f64> {
        let n = self.length;
        let mut m = vec![0.0; self.rows * self.parts * n];
        for row in 0..self.rows.min(n / 2 + 1) {
            // The other half has the same real parts and opposite imaginary ones.
            let twice = if row == 0 || 2 * row == n { 1.0 } else { 2.0 } / n as f64;
            for column in 0..n {
                let (c, s) = turn(row * column, n);
                m[row * self.parts * n + column] = c * twice;
                if self.parts == 2 {
                    m[(row * 2 + 1) * n + column] = -s * twice;
                }
            }
        }
        m
    }
}

fn known_extent(d: &Dim, what: &str) -> Result<usize, ImportError> {
    let n = d.as_usize().ok_or_else(|| ImportError::new(format!("{what} must be known, found {d}")))?;
    if n == 0 || n > LONGEST {
        return Err(ImportError::new(format!("{what}: expected 1 to {LONGEST}, found {n}")));
    }
    Ok(n)
}

/// One number of a constant operand.
fn number_of(cx: &Importer<'_>, v: ValueId, what: &str) -> Result<i64, ImportError> {
    match cx.constant_ints(v, what)?[..] {
        [n] => Ok(n),
        ref all => Err(ImportError::new(format!("{what}: expected one number, found {}", all.len()))),
    }
}

/// `x[…, rows·parts]` times a constant, in the dtype of `x`.
fn times(cx: &mut Importer<'_>, x: ValueId, m: &[f64], columns: usize) -> Result<ValueId, ImportError> {
    let dtype = cx.dtype(x);
    let m = cx.weight(Tensor::from_f64(dtype, &[m.len() / columns.max(1), columns], m));
    cx.op(MatMul { trans_a: false, trans_b: false }, &[x, m])
}

fn dft(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<ValueId, ImportError> {
    let x = node.input(0)?;
    let shape = cx.shape(x).clone();
    let rank = shape.rank();
    let axis = match node.opt_input(2) {
        Some(a) if node.opset >= 20 => number_of(cx, a, "axis")?,
        _ if node.opset >= 20 => -2,
        _ => node.int("axis", 1)?,
    };
    let axis = resolve_axis(axis, rank)?;
    if rank < 2 || axis == rank - 1 {
        return Err(ImportError::new(format!("axis {axis}: expected a signal axis of {shape}")));
    }
    let parts = shape.0[rank - 1].as_usize().filter(|p| *p == 1 || *p == 2);
    let parts = parts.ok_or_else(|| ImportError::new(format!("expected a last axis of 1 or 2, found {shape}")))?;
    let n = known_extent(&shape.0[axis], "the signal's length")?;
    let (inverse, onesided) = (node.int("inverse", 0)? != 0, node.int("onesided", 0)? != 0);
    let length = match node.opt_input(1) {
        Some(l) => known_extent(&Dim::Const(number_of(cx, l, "dft_length")?), "dft_length")?,
        None if inverse && onesided => 2 * n.saturating_sub(1).max(1),
        None => n,
    };
    // The signal's axis next to the last.
    let mut perm: Vec<usize> = (0..rank).filter(|a| *a != axis && *a != rank - 1).collect();
    perm.extend([axis, rank - 1]);
    let moved = if perm.is_sorted() { x } else { cx.op(Transpose { perm: perm.clone() }, &[x])? };
    let outer = cx.shape(moved).0[..rank - 2].to_vec();
    let flat = reshape(cx, moved, Shape([outer.clone(), vec![Dim::from(n * parts)]].concat()))?;
    let columns = if onesided && !inverse { length / 2 + 1 } else { length };
    let t = Transform { length, rows: n, parts, inverse, columns };
    let (y, out) = if inverse && onesided {
        (times(cx, flat, &t.real_matrix(), length)?, 1)
    } else {
        (t.of(cx, flat)?, 2)
    };
    let y = reshape(cx, y, Shape([outer, vec![Dim::from(columns), Dim::Const(out)]].concat()))?;
    if perm.is_sorted() {
        return Ok(y);
    }
    let mut back = vec![0; rank];
    perm.iter().enumerate().for_each(|(i, p)| back[*p] = i);
    cx.op(Transpose { perm: back }, &[y])
}

/// Frames of the signal times one matrix that holds window and transform.
fn stft(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<ValueId, ImportError> {
    let x = node.input(0)?;
    let shape = cx.shape(x).clone();
    let step = number_of(cx, node.input(1)?, "frame_step")?;
    let step = usize::try_from(step).ok().filter(|s| (1..1 << 20).contains(s));
    let step = step.ok_or_else(|| ImportError::new("frame_step: expected a positive number"))?;
    let window = node.opt_input(2);
    let length = match (node.opt_input(3), window) {
        (Some(l), _) => Dim::Const(number_of(cx, l, "frame_length")?),
        (None, Some(w)) => cx.shape(w).numel(),
        _ => return Err(ImportError::new("expected a window or a frame length, found neither")),
    };
    let length = known_extent(&length, "the frame length")?;
    let (parts, signal) = match &shape.0[..] {
        [_, n] => (1, n.clone()),
        [_, n, p] if *p == Dim::Const(1) => (1, n.clone()),
        [_, n, p] if *p == Dim::Const(2) => (2, n.clone()),
        _ => return Err(ImportError::new(format!("expected a signal [batch, length, 1 or 2], found {shape}"))),
    };
    let n = signal.as_usize().ok_or_else(|| ImportError::new("the signal's length must be known"))?;
    if n < length {
        return Err(ImportError::new(format!("a signal of {n} is shorter than one frame of {length}")));
    }
    let frames = (n - length) / step + 1;
    table_size(&[frames, length], "the frames of the signal")?;
    let onesided = node.int("onesided", 1)? != 0 && parts == 1;
    let columns = if onesided { length / 2 + 1 } else { length };
    // The positions of all frames, then one product.
    let positions: Vec<i64> = (0..frames).flat_map(|f| (0..length).map(move |i| (f * step + i) as i64)).collect();
    let positions = cx.weight(Tensor::new(&[frames, length], &positions));
    let batch = shape.0[0].clone();
    let x = reshape(cx, x, Shape(vec![batch.clone(), signal, Dim::from(parts)]))?;
    let mut all = cx.op(super::gather::Gather { axis: 1 }, &[x, positions])?;
    if let Some(w) = window {
        let w = cast(cx, w, cx.dtype(x))?;
        let w = reshape(cx, w, Shape(vec![cx.shape(w).numel(), Dim::Const(1)]))?;
        all = apply(cx, "mul", &[all, w])?;
    }
    let flat = reshape(cx, all, Shape(vec![batch.clone(), Dim::from(frames), Dim::from(length * parts)]))?;
    let t = Transform { length, rows: length, parts, inverse: false, columns };
    let y = t.of(cx, flat)?;
    reshape(cx, y, Shape(vec![batch, Dim::from(frames), Dim::from(columns), Dim::Const(2)]))
}

fn window(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<ValueId, ImportError> {
    let n = number_of(cx, node.input(0)?, "size")?;
    let n = usize::try_from(n).map_err(|_| ImportError::new(format!("size: expected a length, found {n}")))?;
    table_size(&[n], "a window")?;
    let dtype = dtype_of_code(node.int("output_datatype", 1)?)?;
    let turns = if node.int("periodic", 1)? != 0 { n } else { n.saturating_sub(1) }.max(1);
    let (a0, a1, a2) = match node.op_type() {
        "HannWindow" => (0.5, 0.5, 0.0),
        "HammingWindow" => (25.0 / 46.0, 21.0 / 46.0, 0.0),
        _ => (0.42, 0.5, 0.08),
    };
    let cos = |i: usize| if n == 1 { -1.0 } else { turn(i, turns).0 };
    let v: Vec<f64> = (0..n).map(|i| a0 - a1 * cos(i) + a2 * if n == 1 { 1.0 } else { cos(2 * i) }).collect();
    Ok(cx.weight(Tensor::from_f64(dtype, &[n], &v)))
}

/// Triangles over the bins of a spectrum, evenly spaced in mel: `2595 · log10(1 + f/700)`.
fn mel(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<ValueId, ImportError> {
    let names = ["num_mel_bins", "dft_length", "sample_rate"];
    let mut counts = [0i64; 3];
    for (i, name) in names.iter().enumerate() {
        counts[i] = number_of(cx, node.input(i)?, name)?;
    }
    let edge = |cx: &Importer<'_>, i: usize, name: &str| -> Result<f64, ImportError> {
        let t = cx.constant(node.input(i)?, name)?.to_f64();
        t.first().copied().ok_or_else(|| ImportError::new(format!("{name}: expected one number")))
    };
    let (low, high) = (edge(cx, 3, "lower_edge_hertz")?, edge(cx, 4, "upper_edge_hertz")?);
    let [bins, length, rate] = counts;
    if !(1..1 << 16).contains(&bins) || !(1..1 << 20).contains(&length) || rate < 1 {
        return Err(ImportError::new(format!("{bins} bins of a transform of {length} at {rate} Hz make no matrix")));
    }
    let (bins, rows) = (bins as usize, length as usize / 2 + 1);
    table_size(&[bins, rows], "the mel matrix")?;
    let to_mel = |f: f64| 2595.0 * (1.0 + f / 700.0).log10();
    let (low_mel, high_mel) = (to_mel(low), to_mel(high));
    let step = (high_mel - low_mel) / (bins as f64 + 2.0);
    let centre = |i: usize| {
        let hertz = 700.0 * (10f64.powf((low_mel + i as f64 * step) / 2595.0) - 1.0);
        ((length as f64 + 1.0) * hertz / rate as f64).floor() as i64
    };
    let mut m = vec![0.0; rows * bins];
    for b in 0..bins {
        let (lower, centre, upper) = (centre(b), centre(b + 1), centre(b + 2));
        let mut set = |row: i64, v: f64| {
            if let Some(row) = usize::try_from(row).ok().filter(|r| *r < rows) {
                m[row * bins + b] = v;
            }
        };
        if centre == lower {
            set(centre, 1.0);
        } else {
            (lower..=centre).for_each(|j| set(j, (j - lower) as f64 / (centre - lower) as f64));
        }
        if upper > centre {
            (centre..upper).for_each(|j| set(j, (upper - j) as f64 / (upper - centre) as f64));
        }
    }
    let dtype = dtype_of_code(node.int("output_datatype", 1)?)?;
    Ok(cx.weight(Tensor::from_f64(dtype, &[rows, bins], &m)))
}

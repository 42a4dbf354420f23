//! Convolution by minimal filtering (Winograd): fewer multiplications for a window that moves by one element. Where a window's elements
//! are `d` apart, every `d`-th result is filtered as if there were no others: a tile has the same distance between its elements.
//!
//! Tiles of `α = tile + kernel - 1` elements an axis overlap by `kernel - 1`. Each is transformed (`v = Bᵀ d B`), multiplied with the
//! transformed weights and summed over channels, one matrix product for each of the `Π α` places, and transformed back
//! (`y = Aᵀ m A`); see [`super::cook_toom`]. `F(4×4, 3×3)` multiplies 2.25 times a result instead of 9; its rounding errors are
//! about ten times those of the direct sum.
//!
//! Bytes are filtered in integers, exactly: tiles and weights are transformed in 16 bits, sums have 32, and what is transformed
//! back is a multiple of the result, `factor` times as large. Only its last 32 bits are known, which is enough: the odd part of the
//! factor is divided out by its inverse modulo 2³², the even part by a shift, as long as the result itself has as many bits less
//! (`WinogradWeight::fits` looks at the weights).
//!
//! The kernel takes `block` tiles at a time, so that what is between the three steps stays in the cache.

use super::conv::{Layout, as_dtype, pad_input_with};
use super::cook_toom::{self, CookToom, Whole};
use super::util::for_each_index;
use super::winograd_weight::{check_tile, filters, two_axes};
use crate::lower::{Padding, flatten};
use crate::op::{expect_dtype, expect_operands};
use crate::ops::*;
use tenon_base::{Scalar, Shape};
use tenon_kernel::{BinOp, Buf, Contract, Type};

crate::attributes! {
    /// Operands are the activations `[N, spatial…, C]`, the weights as `winograd_weight` makes them, and an optional bias `[O]`. Bytes are
    /// summed in `i32`, which the bias and the result then have; their weights are of `i16`.
    pub struct WinogradConv {
        /// Extent of the window, per spatial axis (one or two).
        pub kernel: Vec<usize>,
        /// Distance of the window's elements, per spatial axis.
        pub dilations: Vec<usize>,
        /// Outputs of a tile, per spatial axis.
        pub tile: Vec<usize>,
        /// Padding with `fill` before, then after, every spatial axis.
        pub pads: Vec<usize>,
        /// Quantised activations: what the padding holds, their zero point; 0 if absent.
        pub fill: Option<i64>,
        /// Tiles that are taken through all steps at a time; at least 1.
        pub block: usize,
    }
}

impl Operator for WinogradConv {
    fn names() -> Vec<&'static str> {
        vec!["winograd_conv"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![]
    }

    fn name(&self) -> &'static str {
        "winograd_conv"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        WinogradConv::from_attrs(attrs)
    }

    fn import(_: &OnnxNode<'_>, _: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        Err(ImportError::new("the operator is not ONNX's"))
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 2..=3)?;
        let known = |d| matches!(d, DType::F32 | DType::F64 | DType::U8 | DType::I8);
        expect_dtype(ins, 0, known, "f32, f64, u8 or i8")?;
        let [_, factors, sum] = dtypes(ins[0].dtype);
        let all = [ins[0].dtype, factors, sum];
        (1..ins.len()).try_for_each(|i| expect_dtype(ins, i, |d| d == all[i], &all[i].to_string()))?;
        if self.fill.is_some_and(|v| ins[0].dtype.int_range().is_none_or(|(lo, hi)| !(lo..=hi).contains(&v.into()))) {
            return Err(InferError::new(format!("the padding does not fit operands of {}", ins[0].dtype)));
        }
        check_tile(&self.tile, &self.kernel)?;
        let axes = self.kernel.len();
        let distances = self.dilations.len() == axes && !self.dilations.contains(&0);
        if self.block == 0 || self.pads.len() != 2 * axes || !distances {
            return Err(InferError::new("expected a block of at least one tile, two pads and a dilation an axis"));
        }
        let (x, u) = (&ins[0].shape, &ins[1].shape);
        let alpha: usize = self.tile.iter().zip(&self.kernel).map(|(m, r)| m + r - 1).product();
        let fits = x.rank() == axes + 2 && u.rank() == 3 && u.0[0] == Dim::from(alpha) && u.0[1] == x.0[axes + 1];
        if !fits {
            return Err(InferError::new(format!(
                "expected [N,spatial…,C] with {axes} spatial axes and weights [{alpha},C,O], found {x} and {u}"
            )));
        }
        let o = &u.0[2];
        if let Some(b) = ins.get(2)
            && b.shape != Shape(vec![o.clone()])
        {
            return Err(InferError::new(format!("expected a bias of [{o}], found {}", b.shape)));
        }
        let mut dims = vec![x.0[0].clone()];
        for i in 0..axes {
            let padded = x.0[i + 1].add(&Dim::from(self.pads[i] + self.pads[i + axes]));
            let y = padded.sub(&Dim::from(self.dilations[i].saturating_mul(self.kernel[i] - 1)));
            if y.as_const().is_some_and(|y| y < 1) {
                return Err(InferError::new(format!("spatial axis {i} of {x} is shorter than the window")));
            }
            dims.push(y);
        }
        dims.push(o.clone());
        Ok(vec![Fact::new(sum, Shape(dims))])
    }

    /// The definition, in `f64`: every tile on its own. Integers are exact in it, and reduced to their last bits after every step.
    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let facts: Vec<Fact> = ins.iter().map(Tensor::fact).collect();
        let out = self.infer(&facts).map_err(|e| e.message)?.remove(0);
        let y = out.dims().ok_or("the shape is not known")?;
        let axes = self.kernel.len();
        let filters = filters(&self.tile, &self.kernel, ins[0].dtype());
        let divide = Division::of(self, ins[0].dtype());
        let fill = self.fill.unwrap_or(0) as f64;
        let (x, u) = (ins[0].to_f64(), ins[1].to_f64());
        let (xd, c, o) = (ins[0].shape(), ins[1].shape()[1], ins[1].shape()[2]);
        let bias = ins.get(2).map(Tensor::to_f64);
        let line = |i: usize| Line::new(y[i + 1], self.tile[i], self.kernel[i], self.dilations[i]);
        let lines: Vec<Line> = (0..axes).map(line).collect();
        let tiles: Vec<usize> = lines.iter().map(|l| l.count).collect();
        let alphas: Vec<usize> = filters.iter().map(CookToom::alpha).collect();
        let mut values = vec![0.0; y.iter().product()];
        for n in 0..y[0] {
            for_each_index(&tiles, |t| {
                let mut d = Vec::with_capacity(alphas.iter().product::<usize>() * c);
                for_each_index(&alphas, |k| {
                    let mut at = n;
                    let inside = (0..axes).all(|i| {
                        let p = lines[i].at(t[i], k[i]).checked_sub(self.pads[i]).filter(|p| *p < xd[i + 1]);
                        at = at * xd[i + 1] + p.unwrap_or(0);
                        p.is_some()
                    });
                    (0..c).for_each(|ci| d.push(if inside { x[at * c + ci] } else { fill }));
                });
                let mut dims = [&alphas[..], &[c]].concat();
                for (i, f) in filters.iter().enumerate() {
                    d = cook_toom::apply(&f.input, i, &d, &mut dims);
                }
                if divide.is_some() {
                    d.iter_mut().for_each(|d| *d = f64::from(*d as i64 as i16));
                }
                let mut m = vec![0.0; alphas.iter().product::<usize>() * o];
                for (p, row) in m.chunks_mut(o.max(1)).enumerate() {
                    for ci in 0..c {
                        let weights = &u[(p * c + ci) * o..][..o];
                        row.iter_mut().zip(weights).for_each(|(m, w)| *m += d[p * c + ci] * w);
                    }
                }
                if divide.is_some() {
                    m.iter_mut().for_each(|m| *m = f64::from(*m as i64 as i32));
                }
                let mut dims = [&alphas[..], &[o]].concat();
                for (i, f) in filters.iter().enumerate() {
                    m = cook_toom::apply(&f.output, i, &m, &mut dims);
                }
                let mut element = 0;
                for_each_index(&self.tile, |k| {
                    let place = (0..axes).try_fold(n, |at, i| {
                        let p = lines[i].at(t[i], k[i]);
                        (p < y[i + 1]).then_some(at * y[i + 1] + p)
                    });
                    if let Some(at) = place {
                        for oi in 0..o {
                            let v = m[element * o + oi];
                            let v = divide.as_ref().map_or(v, |d| d.value(v as i64 as i32).into());
                            values[at * o + oi] = v + bias.as_ref().map_or(0.0, |b| b[oi]);
                        }
                    }
                    element += 1;
                });
            });
        }
        if divide.is_some() {
            let values: Vec<i32> = values.into_iter().map(|v| v as i64 as i32).collect();
            return Ok(vec![Tensor::new(&y, &values)]);
        }
        Ok(vec![Tensor::from_f64(out.dtype, &y, &values)])
    }

    fn halo(&self, ins: &[Fact]) -> Option<Padding> {
        let y = self.infer(ins).ok()?[0].dims()?;
        let axes = self.kernel.len();
        let mut widths = vec![[0; 2]; axes + 2];
        for (i, w) in widths[1..=axes].iter_mut().enumerate() {
            let read = Line::new(y[i + 1], self.tile[i], self.kernel[i], self.dilations[i]).read();
            *w = [self.pads[i], read.saturating_sub(self.pads[i] + ins[0].shape.0[i + 1].as_usize()?)];
        }
        widths.iter().any(|w| *w != [0; 2]).then_some(Padding { widths, fill: self.fill.unwrap_or(0) })
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        if cx.out_dims(0).contains(&0) {
            return Ok(());
        }
        let g = Geometry::new(self, cx);
        let [_, factors, sum] = dtypes(cx.in_dtype(0));
        let places = g.places();
        let v = cx.scratch("v", factors, places * g.strides(g.c, factors).1);
        let m = cx.scratch("m", sum, places * g.strides(g.o, sum).1);
        let y = (!g.whole_tiles()).then(|| cx.scratch("y", sum, g.lines[0].tile * g.lines[1].tile * g.o));
        let source = &Source::new(self, cx);
        let (full, rest) = (g.tiles() / g.block, g.tiles() % g.block);
        if full > 0 {
            cx.any_loop("block", Expr::int(0), full.into(), true, |cx, b| {
                g.one_block(cx, source, v, m, y, b * g.block, g.block);
            });
        }
        if rest > 0 {
            g.one_block(cx, source, v, m, y, Expr::from(full * g.block), rest);
        }
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::SUM
    }

    fn samples() -> Vec<Sample> {
        let of = |kernel: &[usize], tile: &[usize], pads: &[usize], block| WinogradConv {
            kernel: kernel.to_vec(),
            dilations: vec![1; kernel.len()],
            tile: tile.to_vec(),
            pads: pads.to_vec(),
            fill: None,
            block,
        };
        let filled = |op: WinogradConv, fill| WinogradConv { fill: Some(fill), ..op };
        let (b, s, w, i) = (DType::U8, DType::I8, DType::I16, DType::I32);
        // Small weights, and such that what is between the steps leaves their bits.
        let (bytes, wide) = ([(0.0, 256.0), (-300.0, 300.0)], [(-128.0, 128.0), (-32768.0, 32768.0), (-1e6, 1e6)]);
        let f = DType::F32;
        let apart = |op: WinogradConv, dilations: &[usize]| WinogradConv { dilations: dilations.to_vec(), ..op };
        // Weights that are not those of any window give results far larger than their differences: small ones keep both near.
        let small = |s: Sample| s.with_range(&[(-0.5, 0.5), (-0.02, 0.02)]);
        let integers = [
            Sample::new(filled(of(&[3, 3], &[4, 4], &[1; 4], 4), 117), &[(b, &[1, 9, 10, 8]), (w, &[36, 8, 17])])
                .with_range(&bytes),
            Sample::new(filled(of(&[3, 3], &[4, 4], &[1; 4], 6), -9), &[(s, &[2, 8, 8, 6]), (w, &[36, 6, 24]), (i, &[24])])
                .with_range(&wide),
            Sample::new(of(&[3, 3], &[2, 2], &[0, 1, 0, 1], 9), &[(b, &[1, 7, 8, 5]), (w, &[16, 5, 16])])
                .with_range(&bytes),
            Sample::new(apart(of(&[1, 3], &[1, 2], &[0; 4], 5), &[1, 2]), &[(s, &[1, 3, 11, 4]), (w, &[4, 4, 8]), (i, &[8])])
                .with_range(&wide),
            Sample::new(of(&[2], &[4], &[1, 0], 2), &[(b, &[2, 13, 34]), (w, &[5, 34, 9])]).with_range(&bytes),
        ];
        let floats = vec![
            Sample::new(of(&[3, 3], &[4, 4], &[1; 4], 3), &[(f, &[1, 9, 10, 8]), (f, &[36, 8, 17]), (f, &[17])]),
            Sample::new(of(&[3, 3], &[4, 4], &[1; 4], 4), &[(f, &[2, 8, 8, 16]), (f, &[36, 16, 24]), (f, &[24])]),
            Sample::new(of(&[3, 3], &[2, 2], &[0; 4], 100), &[(f, &[1, 6, 8, 5]), (f, &[16, 5, 9])]),
            Sample::new(of(&[5, 5], &[2, 2], &[2; 4], 2), &[(f, &[1, 5, 7, 3]), (f, &[36, 3, 8])]),
            Sample::new(of(&[1, 3], &[1, 4], &[0, 1, 0, 1], 5), &[(f, &[1, 3, 11, 4]), (f, &[6, 4, 8])]),
            Sample::new(of(&[3], &[4], &[1, 0], 2), &[(DType::F64, &[2, 13, 3]), (DType::F64, &[6, 3, 4])]),
            Sample::new(apart(of(&[3, 3], &[2, 2], &[0; 4], 7), &[2, 3]), &[(f, &[1, 12, 12, 5]), (f, &[16, 5, 9])]),
            Sample::new(apart(of(&[3, 3], &[4, 2], &[6; 4], 5), &[6, 6]), &[(f, &[2, 7, 11, 4]), (f, &[24, 4, 8]), (f, &[8])]),
            Sample::new(apart(of(&[3], &[4], &[8, 0], 6), &[4]), &[(f, &[1, 29, 8]), (f, &[6, 8, 16])]),
        ];
        floats.into_iter().map(small).chain(integers).collect()
    }
}

impl WinogradConv {
    /// Tiles of `tile` results that are `step` apart, along an axis of `out` results.
    pub fn tiles(out: usize, tile: usize, step: usize) -> usize {
        Line::new(out, tile, 1, step).count
    }
}

/// The dtypes of activations of `dtype`: their own, that of what is multiplied, and that of sums.
fn dtypes(dtype: DType) -> [DType; 3] {
    if dtype.is_int() { [dtype, DType::I16, DType::I32] } else { [dtype; 3] }
}

/// Exact division of multiples in 32 bits.
#[derive(Clone, Copy)]
struct Division {
    /// Of the odd part of the divisor, modulo 2³².
    inverse: i32,
    /// The even part is a power of two.
    shift: u32,
}

impl Division {
    /// That which ends filtering of integers; `None` for floats.
    fn of(op: &WinogradConv, dtype: DType) -> Option<Division> {
        let by: i64 = op.tile.iter().zip(&op.kernel).map(|(m, r)| Whole::new(*m, *r).factor).product();
        let shift = by.trailing_zeros();
        let odd = (by >> shift) as i32;
        // Newton's iteration doubles the bits that are right; every odd number is its own inverse in the last three.
        let inverse = (0..4).fold(odd, |i, _| i.wrapping_mul(2i32.wrapping_sub(odd.wrapping_mul(i))));
        dtype.is_int().then_some(Division { inverse, shift })
    }

    fn value(self, v: i32) -> i32 {
        v.wrapping_mul(self.inverse) >> self.shift
    }

    fn emit(self, v: Expr) -> Expr {
        let v = if self.inverse == 1 { v } else { v * Expr::Const(Scalar::of_int(DType::I32, self.inverse.into())) };
        if self.shift == 0 { v } else { v.binary(BinOp::Shr, Expr::constant(DType::I32, self.shift.into())) }
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// The tiles along an axis.
///
/// Their numbers count the first elements of `step` tiles that are woven into each other, then those of the next `step`: tiles with
/// neighbouring numbers lie side by side.
#[derive(Clone, Copy)]
struct Line {
    /// Results along the axis; at least one.
    out: usize,
    /// Results of a tile.
    tile: usize,
    /// Elements of a tile that is read.
    alpha: usize,
    /// The distance between a tile's elements.
    step: usize,
    /// How many tiles there are: all of them begin within the results.
    count: usize,
}

impl Line {
    fn new(out: usize, tile: usize, kernel: usize, step: usize) -> Line {
        let woven = tile.saturating_mul(step);
        let before = out.div_ceil(woven).saturating_sub(1);
        let count = before * step + step.min(out - before * woven);
        Line { out, tile, alpha: tile + kernel - 1, step, count }
    }

    /// Element `k` of tile number `t`, counted from the first element that is read, or result `k`, counted from the first result.
    fn at(&self, t: usize, k: usize) -> usize {
        t + t / self.step * self.step * (self.tile - 1) + k * self.step
    }

    /// Where tile number `t` begins.
    fn first(&self, t: Expr) -> Expr {
        match (self.step, self.count > self.step) {
            (1, _) => t * self.tile,
            (_, false) => t,
            (step, true) => t.clone() + t / step * (step * (self.tile - 1)),
        }
    }

    /// The extent of what is read.
    fn read(&self) -> usize {
        self.count.checked_sub(1).map_or(0, |last| self.at(last, self.alpha - 1) + 1)
    }

    /// Whether no tile reaches beyond the results.
    fn whole(&self) -> bool {
        self.out.is_multiple_of(self.tile * self.step)
    }
}

/// Where the activations are read.
enum Source {
    /// In a buffer with zeros around them: that, its extents, and the place in it that the first tile begins at.
    Padded(Buf, Vec<usize>, [usize; 2]),
    /// Where they are: no tile reaches beyond them.
    Plain,
}

impl Source {
    fn new(op: &WinogradConv, cx: &mut LowerCx<'_>) -> Source {
        let Some(wanted) = op.halo(&cx.in_facts()) else { return Source::Plain };
        let (axes, spatial) = (op.kernel.len(), &wanted.widths[1..=op.kernel.len()]);
        let (buf, dims, first) = match cx.halo(0) {
            Some(halo) if halo.covers(&wanted) => {
                let first: Vec<usize> = (0..axes).map(|i| halo.before[i + 1] - op.pads[i]).collect();
                (halo.buf, halo.dims.clone(), first)
            }
            _ => {
                let pads: Vec<usize> = (0..2).flat_map(|side| spatial.iter().map(move |w| w[side])).collect();
                let (buf, dims) = pad_input_with(cx, Layout::ChannelsLast, &pads, wanted.fill);
                (buf, dims, vec![0; axes])
            }
        };
        let first = if let [a, b] = first[..] { [a, b] } else { [0, first[0]] };
        Source::Padded(buf, dims, first)
    }

    /// The place of image `n` at a row and a column, counted from where the first tile begins, and how far it is to the next ones, all
    /// in elements of `c` channels.
    fn place(&self, cx: &LowerCx<'_>, [n, row, column]: [Expr; 3]) -> (Expr, [usize; 2]) {
        let (dims, [top, left]) = match self {
            Source::Padded(_, dims, first) => (dims.clone(), *first),
            Source::Plain => (cx.in_dims(0), [0; 2]),
        };
        let (columns, c) = (dims[dims.len() - 2], dims[dims.len() - 1]);
        let rows = if dims.len() == 4 { dims[1] } else { 1 };
        (flatten(&[n, row + top, column + left], &[dims[0], rows, columns]) * c, [columns * c, c])
    }

    fn load(&self, cx: &LowerCx<'_>, at: Expr) -> Expr {
        match self {
            Source::Padded(buf, ..) => Expr::load(*buf, at),
            Source::Plain => cx.load_flat(0, at),
        }
    }
}

/// Extents of the computation, as if there were two spatial axes.
struct Geometry {
    filters: Vec<CookToom>,
    divide: Option<Division>,
    /// Images.
    n: usize,
    /// The tiles along rows and columns.
    lines: [Line; 2],
    c: usize,
    o: usize,
    block: usize,
}

impl Geometry {
    fn new(op: &WinogradConv, cx: &LowerCx<'_>) -> Geometry {
        let (kernel, tile) = two_axes(&op.kernel, &op.tile);
        let yd = cx.out_dims(0);
        let (out, step) = two_axes(&yd[1..yd.len() - 1], &op.dilations);
        let lines = [0, 1].map(|i| Line::new(out[i], tile[i], kernel[i], step[i]));
        let dtype = cx.in_dtype(0);
        let (filters, divide) = (filters(&tile, &kernel, dtype), Division::of(op, dtype));
        let (n, c, o) = (yd[0], cx.in_dims(1)[1], cx.in_dims(1)[2]);
        let block = op.block.min(n * lines[0].count * lines[1].count);
        Geometry { filters, divide, n, lines, c, o, block }
    }

    /// Tiles of all images.
    fn tiles(&self) -> usize {
        self.n * self.lines[0].count * self.lines[1].count
    }

    /// Where the rows of what lies between the steps begin, `n` elements of `dtype` each: from tile to tile, and from place to place. Both are an
    /// odd number of cache lines where they would be an even one: extents are often powers of two, and then all places of a tile would
    /// fall into the same few sets of a cache.
    fn strides(&self, n: usize, dtype: DType) -> (usize, usize) {
        let line = LINE / dtype.size();
        let odd = |n: usize| if n.is_multiple_of(2 * line) { n + line } else { n };
        (odd(n), odd(self.block * odd(n)))
    }

    /// Elements of a transformed tile.
    fn places(&self) -> usize {
        self.filters[0].alpha() * self.filters[1].alpha()
    }

    /// Whether no tile reaches beyond the result.
    fn whole_tiles(&self) -> bool {
        self.lines.iter().all(Line::whole)
    }

    /// All steps for `count` tiles from number `first` on.
    #[expect(clippy::too_many_arguments, reason = "the buffers between the steps")]
    fn one_block(
        &self,
        cx: &mut LowerCx<'_>,
        source: &Source,
        v: Buf,
        m: Buf,
        y: Option<Buf>,
        first: Expr,
        count: usize,
    ) {
        cx.parfor("t", count, |cx, t| self.transform_input(cx, source, v, first.clone() + t.clone(), t));
        self.multiply(cx, v, m, count);
        cx.parfor("t", count, |cx, t| self.transform_output(cx, m, y, first + t.clone(), t));
    }

    /// Image of tile number `tile`, and the row and column it begins at, each a variable.
    fn place(&self, cx: &mut LowerCx<'_>, tile: Expr) -> [Expr; 3] {
        let [rows, columns] = self.lines.map(|l| l.count);
        let tile = cx.k.bind("tile", tile);
        let image = if self.n == 1 { Expr::int(0) } else { cx.k.bind("image", tile.clone() / (rows * columns)) };
        let inside = if self.n == 1 { tile } else { cx.k.bind("inside", tile % (rows * columns)) };
        let row = cx.k.bind("row", inside.clone() / columns);
        let column = cx.k.bind("column", inside % columns);
        [image, cx.k.bind("top", self.lines[0].first(row)), cx.k.bind("left", self.lines[1].first(column))]
    }

    /// `v[p, t, c] = (Bᵀ d B)[p]`
    fn transform_input(&self, cx: &mut LowerCx<'_>, source: &Source, v: Buf, tile: Expr, t: Expr) {
        let [from, dtype, _] = dtypes(cx.in_dtype(0));
        let at = self.place(cx, tile);
        let (corner, [by_row, by_column]) = source.place(cx, at);
        let corner = cx.k.bind("corner", corner);
        let by = [by_row * self.lines[0].step, by_column * self.lines[1].step];
        let [rows, columns] = [self.filters[0].alpha(), self.filters[1].alpha()];
        let (line, place) = self.strides(self.c, dtype);
        cx.parfor("c", self.c, |cx, c| {
            let mut transformed = vec![];
            for x in 0..columns {
                let mut d = vec![];
                for y in 0..rows {
                    let e = source.load(cx, corner.clone() + (y * by[0] + x * by[1]) + c.clone());
                    d.push(cx.k.bind("d", as_dtype(e, from, dtype)));
                }
                transformed.push(cook_toom::emit(cx, dtype, &self.filters[0].input, &d));
            }
            for y in 0..rows {
                let d: Vec<Expr> = transformed.iter().map(|column| column[y].clone()).collect();
                for (x, e) in cook_toom::emit(cx, dtype, &self.filters[1].input, &d).into_iter().enumerate() {
                    cx.k.store(v, t.clone() * line + (y * columns + x) * place + c.clone(), e);
                }
            }
        });
    }

    /// `m[p, t, o] = Σ_c v[p, t, c] · u[p, c, o]`
    fn multiply(&self, cx: &mut LowerCx<'_>, v: Buf, m: Buf, count: usize) {
        let [_, dtype, sum] = dtypes(cx.in_dtype(0));
        let (dp, p) = cx.k.contract_dim("p", self.places());
        let (dt, t) = cx.k.contract_dim("t", count);
        let (d_o, o) = cx.k.contract_dim("o", self.o);
        let (dc, c) = cx.k.contract_dim("k", self.c);
        let row = |n: usize, dtype: DType| {
            let (row, place) = self.strides(n, dtype);
            p.clone() * place + t.clone() * row
        };
        let (from, to) = (row(self.c, dtype), row(self.o, sum));
        let a = as_dtype(Expr::load(v, from + c.clone()), dtype, sum);
        let b = as_dtype(cx.load(1, &[p.clone(), c, o.clone()]), dtype, sum);
        let acc = cx.k.fresh("acc", Type::scalar(sum));
        cx.k.contract(Contract {
            dims: vec![dp, dt, d_o],
            reduce: vec![dc],
            acc,
            init: Expr::constant(sum, 0.0),
            a,
            b,
            out: m,
            out_index: to + o,
            value: Expr::Var(acc),
        });
    }

    /// `y = Aᵀ m A + bias`, stored where it lies in the result.
    fn transform_output(&self, cx: &mut LowerCx<'_>, m: Buf, y: Option<Buf>, tile: Expr, t: Expr) {
        let [_, _, dtype] = dtypes(cx.in_dtype(0));
        let [image, top, left] = self.place(cx, tile);
        let [rows, columns] = [self.filters[0].alpha(), self.filters[1].alpha()];
        let [lines, pixels] = self.lines;
        let dims = [self.n, lines.out, pixels.out, self.o];
        let (line, place) = self.strides(self.o, dtype);
        cx.parfor("o", self.o, |cx, o| {
            let mut transformed = vec![];
            for x in 0..columns {
                let mut d = vec![];
                for y in 0..rows {
                    let at = t.clone() * line + (y * columns + x) * place + o.clone();
                    d.push(cx.k.bind("d", Expr::load(m, at)));
                }
                transformed.push(cook_toom::emit(cx, dtype, &self.filters[0].output, &d));
            }
            for i in 0..lines.tile {
                let d: Vec<Expr> = transformed.iter().map(|column| column[i].clone()).collect();
                for (j, e) in cook_toom::emit(cx, dtype, &self.filters[1].output, &d).into_iter().enumerate() {
                    let e = self.divide.map_or(e.clone(), |d| d.emit(e));
                    match y {
                        Some(y) => cx.k.store(y, o.clone() + (i * pixels.tile + j) * self.o, e),
                        None => {
                            let (row, column) = (top.clone() + i * lines.step, left.clone() + j * pixels.step);
                            self.store(cx, &flatten(&[image.clone(), row, column, o.clone()], &dims), &o, e);
                        }
                    }
                }
            }
        });
        let Some(y) = y else { return };
        // Tiles at the end are cut off.
        let count = |first: &Expr, line: Line| {
            ((Expr::from(line.out - 1 + line.step) - first.clone()) / line.step).binary(BinOp::Min, line.tile.into())
        };
        // Nothing but the second minimum says that they are results.
        let place = |cx: &mut LowerCx<'_>, name: &str, first: &Expr, i: Expr, line: Line| {
            let at = first.clone() + i * line.step;
            cx.k.bind(name, at.binary(BinOp::Min, (line.out - 1).into()))
        };
        cx.any_loop("i", Expr::int(0), count(&top, lines), true, |cx, i| {
            let row = place(cx, "y", &top, i.clone(), lines);
            cx.any_loop("j", Expr::int(0), count(&left, pixels), true, |cx, j| {
                let column = place(cx, "x", &left, j.clone(), pixels);
                cx.parfor("o", self.o, |cx, o| {
                    let e = Expr::load(y, (i * pixels.tile + j) * self.o + o.clone());
                    self.store(cx, &flatten(&[image, row, column, o.clone()], &dims), &o, e);
                });
            });
        });
    }

    fn store(&self, cx: &mut LowerCx<'_>, at: &Expr, o: &Expr, value: Expr) {
        let value = if cx.in_count() > 2 { value + cx.load(2, std::slice::from_ref(o)) } else { value };
        cx.store_flat(0, at.clone(), value);
    }
}

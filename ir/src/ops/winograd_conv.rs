//! Convolution by minimal filtering (Winograd): fewer multiplications for a window that moves by one element.
//!
//! Tiles of `α = tile + kernel - 1` elements an axis overlap by `kernel - 1`. Each is transformed (`v = Bᵀ d B`), multiplied with the
//! transformed weights and summed over channels, one matrix product for each of the `Π α` places, and transformed back
//! (`y = Aᵀ m A`); see [`super::cook_toom`]. `F(4×4, 3×3)` multiplies 2.25 times a result instead of 9; its rounding errors are
//! about ten times those of the direct sum.
//!
//! The kernel takes `block` tiles at a time, so that what is between the three steps stays in the cache.

use super::conv::{Layout, pad_input};
use super::cook_toom::{self, CookToom};
use super::util::for_each_index;
use super::winograd_weight::{check_tile, two_axes};
use crate::lower::flatten;
use crate::op::{expect_dtype, expect_operands, expect_same_dtype};
use crate::ops::*;
use tenon_base::Shape;
use tenon_kernel::{Buf, Contract, Type};

crate::attributes! {
    /// Operands are the activations `[N, spatial…, C]`, the weights as `winograd_weight` makes them, and an optional bias `[O]`.
    pub struct WinogradConv {
        /// Extent of the window, per spatial axis (one or two).
        pub kernel: Vec<usize>,
        /// Outputs of a tile, per spatial axis.
        pub tile: Vec<usize>,
        /// Padding with zeros before, then after, every spatial axis.
        pub pads: Vec<usize>,
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
        expect_dtype(ins, 0, |d| matches!(d, DType::F32 | DType::F64), "f32 or f64")?;
        (1..ins.len()).try_for_each(|i| expect_same_dtype(ins, 0, i))?;
        check_tile(&self.tile, &self.kernel)?;
        let axes = self.kernel.len();
        if self.block == 0 || self.pads.len() != 2 * axes {
            return Err(InferError::new("expected a block of at least one tile and two pads an axis"));
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
            let y = padded.sub(&Dim::from(self.kernel[i] - 1));
            if y.as_const().is_some_and(|y| y < 1) {
                return Err(InferError::new(format!("spatial axis {i} of {x} is shorter than the window")));
            }
            dims.push(y);
        }
        dims.push(o.clone());
        Ok(vec![Fact::new(ins[0].dtype, Shape(dims))])
    }

    /// The definition, in `f64`: every tile on its own.
    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let facts: Vec<Fact> = ins.iter().map(Tensor::fact).collect();
        let y = self.infer(&facts).map_err(|e| e.message)?[0].dims().ok_or("the shape is not known")?;
        let axes = self.kernel.len();
        let filters: Vec<CookToom> = self.tile.iter().zip(&self.kernel).map(|(m, r)| CookToom::new(*m, *r)).collect();
        let (x, u) = (ins[0].to_f64(), ins[1].to_f64());
        let (xd, c, o) = (ins[0].shape(), ins[1].shape()[1], ins[1].shape()[2]);
        let bias = ins.get(2).map(Tensor::to_f64);
        let tiles: Vec<usize> = (0..axes).map(|i| y[i + 1].div_ceil(self.tile[i])).collect();
        let alphas: Vec<usize> = filters.iter().map(CookToom::alpha).collect();
        let mut out = vec![0.0; y.iter().product()];
        for n in 0..y[0] {
            for_each_index(&tiles, |t| {
                let mut d = Vec::with_capacity(alphas.iter().product::<usize>() * c);
                for_each_index(&alphas, |k| {
                    let mut at = n;
                    let inside = (0..axes).all(|i| {
                        let p = (t[i] * self.tile[i] + k[i]).checked_sub(self.pads[i]).filter(|p| *p < xd[i + 1]);
                        at = at * xd[i + 1] + p.unwrap_or(0);
                        p.is_some()
                    });
                    (0..c).for_each(|ci| d.push(if inside { x[at * c + ci] } else { 0.0 }));
                });
                let mut dims = [&alphas[..], &[c]].concat();
                for (i, f) in filters.iter().enumerate() {
                    d = cook_toom::apply(&f.input, i, &d, &mut dims);
                }
                let mut m = vec![0.0; alphas.iter().product::<usize>() * o];
                for (p, row) in m.chunks_mut(o.max(1)).enumerate() {
                    for ci in 0..c {
                        let weights = &u[(p * c + ci) * o..][..o];
                        row.iter_mut().zip(weights).for_each(|(m, w)| *m += d[p * c + ci] * w);
                    }
                }
                let mut dims = [&alphas[..], &[o]].concat();
                for (i, f) in filters.iter().enumerate() {
                    m = cook_toom::apply(&f.output, i, &m, &mut dims);
                }
                let mut element = 0;
                for_each_index(&self.tile, |k| {
                    let place = (0..axes).try_fold(n, |at, i| {
                        let p = t[i] * self.tile[i] + k[i];
                        (p < y[i + 1]).then_some(at * y[i + 1] + p)
                    });
                    if let Some(at) = place {
                        for oi in 0..o {
                            out[at * o + oi] = m[element * o + oi] + bias.as_ref().map_or(0.0, |b| b[oi]);
                        }
                    }
                    element += 1;
                });
            });
        }
        Ok(vec![Tensor::from_f64(ins[0].dtype(), &y, &out)])
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        if cx.out_dims(0).contains(&0) {
            return Ok(());
        }
        let g = Geometry::new(self, cx);
        let dtype = cx.in_dtype(0);
        let places = g.places();
        let v = cx.scratch("v", dtype, places * g.strides(g.c).1);
        let m = cx.scratch("m", dtype, places * g.strides(g.o).1);
        let y = (!g.whole_tiles()).then(|| cx.scratch("y", dtype, g.tile[0] * g.tile[1] * g.o));
        let source = g.pad(self, cx);
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
            tile: tile.to_vec(),
            pads: pads.to_vec(),
            block,
        };
        let f = DType::F32;
        // Weights that are not those of any window give results far larger than their differences: small ones keep both near.
        let small = |s: Sample| s.with_range(&[(-0.5, 0.5), (-0.02, 0.02)]);
        vec![
            Sample::new(of(&[3, 3], &[4, 4], &[1; 4], 3), &[(f, &[1, 9, 10, 8]), (f, &[36, 8, 17]), (f, &[17])]),
            Sample::new(of(&[3, 3], &[4, 4], &[1; 4], 4), &[(f, &[2, 8, 8, 16]), (f, &[36, 16, 24]), (f, &[24])]),
            Sample::new(of(&[3, 3], &[2, 2], &[0; 4], 100), &[(f, &[1, 6, 8, 5]), (f, &[16, 5, 9])]),
            Sample::new(of(&[5, 5], &[2, 2], &[2; 4], 2), &[(f, &[1, 5, 7, 3]), (f, &[36, 3, 8])]),
            Sample::new(of(&[1, 3], &[1, 4], &[0, 1, 0, 1], 5), &[(f, &[1, 3, 11, 4]), (f, &[6, 4, 8])]),
            Sample::new(of(&[3], &[4], &[1, 0], 2), &[(DType::F64, &[2, 13, 3]), (DType::F64, &[6, 3, 4])]),
        ]
        .into_iter()
        .map(small)
        .collect()
    }
}

/// Elements of a cache line.
const LINE: usize = 16;

/// Extents of the computation, as if there were two spatial axes.
struct Geometry {
    tile: [usize; 2],
    filters: [CookToom; 2],
    /// Images.
    n: usize,
    /// Extents of the result.
    out: [usize; 2],
    /// Extents of what is read, padded to whole tiles.
    padded: [usize; 2],
    /// Tiles of an image, per axis.
    counts: [usize; 2],
    c: usize,
    o: usize,
    block: usize,
}

impl Geometry {
    fn new(op: &WinogradConv, cx: &LowerCx<'_>) -> Geometry {
        let (kernel, tile) = two_axes(&op.kernel, &op.tile);
        let yd = cx.out_dims(0);
        let (out, _) = two_axes(&yd[1..yd.len() - 1], &op.tile);
        let counts = [out[0].div_ceil(tile[0]), out[1].div_ceil(tile[1])];
        let padded = [counts[0] * tile[0] + kernel[0] - 1, counts[1] * tile[1] + kernel[1] - 1];
        let filters = [CookToom::new(tile[0], kernel[0]), CookToom::new(tile[1], kernel[1])];
        let (n, c, o) = (yd[0], cx.in_dims(1)[1], cx.in_dims(1)[2]);
        let block = op.block.min(n * counts[0] * counts[1]);
        Geometry { tile, filters, n, out, padded, counts, c, o, block }
    }

    /// Tiles of all images.
    fn tiles(&self) -> usize {
        self.n * self.counts[0] * self.counts[1]
    }

    /// Where the rows of what lies between the steps begin, `n` elements each: from tile to tile, and from place to place. Both are an
    /// odd number of cache lines where they would be an even one: extents are often powers of two, and then all places of a tile would
    /// fall into the same few sets of a cache.
    fn strides(&self, n: usize) -> (usize, usize) {
        let odd = |n: usize| if n.is_multiple_of(2 * LINE) { n + LINE } else { n };
        (odd(n), odd(self.block * odd(n)))
    }

    /// Elements of a transformed tile.
    fn places(&self) -> usize {
        self.filters[0].alpha() * self.filters[1].alpha()
    }

    /// Whether no tile reaches beyond the result.
    fn whole_tiles(&self) -> bool {
        (0..2).all(|i| self.out[i].is_multiple_of(self.tile[i]))
    }

    /// The activations with zeros around them, up to whole tiles, where that changes anything.
    fn pad(&self, op: &WinogradConv, cx: &mut LowerCx<'_>) -> Option<Buf> {
        let axes = op.kernel.len();
        let xd = cx.in_dims(0);
        let after = |i: usize| self.padded[i + 2 - axes] - xd[i + 1] - op.pads[i];
        let pads: Vec<usize> = op.pads[..axes].iter().copied().chain((0..axes).map(after)).collect();
        pads.iter().any(|p| *p > 0).then(|| pad_input(cx, Layout::ChannelsLast, &pads).0)
    }

    /// All steps for `count` tiles from number `first` on.
    #[expect(clippy::too_many_arguments, reason = "the buffers between the steps")]
    fn one_block(
        &self,
        cx: &mut LowerCx<'_>,
        source: Option<Buf>,
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

    /// Image, row and column of tile number `tile`, each a variable.
    fn place(&self, cx: &mut LowerCx<'_>, tile: Expr) -> [Expr; 3] {
        let [rows, columns] = self.counts;
        let tile = cx.k.bind("tile", tile);
        let image = if self.n == 1 { Expr::int(0) } else { cx.k.bind("image", tile.clone() / (rows * columns)) };
        let inside = if self.n == 1 { tile } else { cx.k.bind("inside", tile % (rows * columns)) };
        let row = cx.k.bind("row", inside.clone() / columns);
        let column = cx.k.bind("column", inside % columns);
        [image, row, column]
    }

    /// `v[p, t, c] = (Bᵀ d B)[p]`
    fn transform_input(&self, cx: &mut LowerCx<'_>, source: Option<Buf>, v: Buf, tile: Expr, t: Expr) {
        let dtype = cx.in_dtype(0);
        let [image, row, column] = self.place(cx, tile);
        let at = [image, row * self.tile[0], column * self.tile[1]];
        let corner = flatten(&at, &[self.n, self.padded[0], self.padded[1]]) * self.c;
        let corner = cx.k.bind("corner", corner);
        let [rows, columns] = [self.filters[0].alpha(), self.filters[1].alpha()];
        let (line, place) = self.strides(self.c);
        cx.parfor("c", self.c, |cx, c| {
            let mut transformed = vec![];
            for x in 0..columns {
                let mut d = vec![];
                for y in 0..rows {
                    let at = corner.clone() + (y * self.padded[1] + x) * self.c + c.clone();
                    let e = match source {
                        Some(b) => Expr::load(b, at),
                        None => cx.load_flat(0, at),
                    };
                    d.push(cx.k.bind("d", e));
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
        let dtype = cx.in_dtype(0);
        let (dp, p) = cx.k.contract_dim("p", self.places());
        let (dt, t) = cx.k.contract_dim("t", count);
        let (d_o, o) = cx.k.contract_dim("o", self.o);
        let (dc, c) = cx.k.contract_dim("k", self.c);
        let row = |n: usize| {
            let (row, place) = self.strides(n);
            p.clone() * place + t.clone() * row
        };
        let (from, to) = (row(self.c), row(self.o));
        let a = Expr::load(v, from + c.clone());
        let b = cx.load(1, &[p.clone(), c, o.clone()]);
        let acc = cx.k.fresh("acc", Type::scalar(dtype));
        cx.k.contract(Contract {
            dims: vec![dp, dt, d_o],
            reduce: vec![dc],
            acc,
            init: Expr::constant(dtype, 0.0),
            a,
            b,
            out: m,
            out_index: to + o,
            value: Expr::Var(acc),
        });
    }

    /// `y = Aᵀ m A + bias`, stored where it lies in the result.
    fn transform_output(&self, cx: &mut LowerCx<'_>, m: Buf, y: Option<Buf>, tile: Expr, t: Expr) {
        let dtype = cx.in_dtype(0);
        let [image, row, column] = self.place(cx, tile);
        let [rows, columns] = [self.filters[0].alpha(), self.filters[1].alpha()];
        let [top, left] = [cx.k.bind("top", row * self.tile[0]), cx.k.bind("left", column * self.tile[1])];
        let dims = [self.n, self.out[0], self.out[1], self.o];
        let (line, place) = self.strides(self.o);
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
            for i in 0..self.tile[0] {
                let d: Vec<Expr> = transformed.iter().map(|column| column[i].clone()).collect();
                for (j, e) in cook_toom::emit(cx, dtype, &self.filters[1].output, &d).into_iter().enumerate() {
                    match y {
                        Some(y) => cx.k.store(y, o.clone() + (i * self.tile[1] + j) * self.o, e),
                        None => {
                            let at = [image.clone(), top.clone() + i, left.clone() + j, o.clone()];
                            self.store(cx, &flatten(&at, &dims), &o, e);
                        }
                    }
                }
            }
        });
        let Some(y) = y else { return };
        // Tiles at the end are cut off. The place in the tile is written as a remainder, which says how large it can be.
        let end = |first: &Expr, axis: usize| {
            (first.clone() + self.tile[axis]).binary(tenon_kernel::BinOp::Min, self.out[axis].into())
        };
        cx.any_loop("y", top.clone(), end(&top, 0), true, |cx, yi| {
            cx.any_loop("x", left.clone(), end(&left, 1), true, |cx, xi| {
                cx.parfor("o", self.o, |cx, o| {
                    let inside = yi.clone() % self.tile[0] * self.tile[1] + xi.clone() % self.tile[1];
                    let e = Expr::load(y, inside * self.o + o.clone());
                    self.store(cx, &flatten(&[image, yi, xi, o.clone()], &dims), &o, e);
                });
            });
        });
    }

    fn store(&self, cx: &mut LowerCx<'_>, at: &Expr, o: &Expr, value: Expr) {
        let value = if cx.in_count() > 2 { value + cx.load(2, std::slice::from_ref(o)) } else { value };
        cx.store_flat(0, at.clone(), value);
    }
}

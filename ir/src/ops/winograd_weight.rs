//! Weights of a convolution, transformed for minimal filtering: the operand of [`super::winograd_conv`].
//!
//! `u[p, c, o] = (G g G'ᵀ)[p]` with `g = w[o, c]`; see [`super::cook_toom`]. Made from constants, it is folded when compiling.
//! Integers of 8 and 16 bits become integers of 16 bits, by matrices of integers; [`WinogradWeight::fits`] says whether they hold them.

use super::cook_toom::{self, CookToom, Whole};
use super::conv::as_dtype;
use crate::lower::flatten;
use crate::op::{expect_dtype, expect_operands};
use crate::ops::*;
use rayon::prelude::*;
use tenon_base::{AlignedBuf, Memory, Shape};

crate::attributes! {
    /// The operand is `[O, C, kernel…]`; the result `[Π α, C, O]` with `α = tile + kernel - 1` an axis.
    pub struct WinogradWeight {
        /// Outputs of a tile, per spatial axis.
        pub tile: Vec<usize>,
    }
}

/// What is wrong with the extents of a tile and of a kernel, if anything.
pub(super) fn check_tile(tile: &[usize], kernel: &[usize]) -> Result<(), InferError> {
    let fits = |(&m, &r): (&usize, &usize)| m > 0 && r > 0 && m.saturating_add(r) <= cook_toom::MAX_ALPHA + 1;
    if tile.len() == kernel.len() && (1..=2).contains(&tile.len()) && tile.iter().zip(kernel).all(fits) {
        return Ok(());
    }
    Err(InferError::new(format!(
        "expected one or two spatial axes with tile + kernel of at most {}, found tiles {tile:?} of kernels {kernel:?}",
        cook_toom::MAX_ALPHA + 1
    )))
}

/// Sums that are made at once: what they are made of stays in the second cache.
const BLOCK: usize = 2048;

/// For every place of a transformed tile, in order, the taps that it is made of and their factors.
fn sums(axes: &[CookToom]) -> Vec<Vec<(usize, f64)>> {
    let mut all = vec![vec![(0, 1.0)]];
    for axis in axes {
        let along = |place: &Vec<(usize, f64)>, row: &Vec<f64>| -> Vec<(usize, f64)> {
            let taps = || row.iter().enumerate().filter(|(_, factor)| **factor != 0.0);
            place.iter().flat_map(|&(t, f)| taps().map(move |(k, factor)| (t * row.len() + k, f * factor))).collect()
        };
        all = all.iter().flat_map(|place| axis.weight.iter().map(|row| along(place, row)).collect::<Vec<_>>()).collect();
    }
    all
}

/// The dtype of transformed weights of `dtype`.
fn transformed(dtype: DType) -> DType {
    if dtype.is_int() { DType::I16 } else { dtype }
}

/// The filters along all axes: for integers those of integers.
pub(super) fn filters(tile: &[usize], kernel: &[usize], dtype: DType) -> Vec<CookToom> {
    let of = |(&m, &r): (&usize, &usize)| if dtype.is_int() { Whole::new(m, r).filter } else { CookToom::new(m, r) };
    tile.iter().zip(kernel).map(of).collect()
}

impl WinogradWeight {
    /// Whether `w`, of bytes, and all that is computed of it and of data within `x` is exact in integers: the transformed weights and
    /// data fit 16 bits; and the sums, of which multiples are known modulo 2³², have enough leading bits alike.
    pub fn fits(&self, w: &Tensor, x: (i128, i128)) -> bool {
        let kernel = &w.shape()[2..];
        let axes = filters(&self.tile, kernel, w.dtype());
        let x = (x.0 as f64, x.1 as f64);
        if cook_toom::largest_input(&axes, x) > f64::from(i16::MAX) {
            return false;
        }
        let taps: usize = kernel.iter().product();
        let values: Vec<f64> = w.to_f64();
        let largest = values.iter().fold(0.0, |l: f64, w| l.max(w.abs()));
        let widest = sums(&axes).iter().map(|s| s.iter().map(|(_, f)| f.abs()).sum::<f64>()).fold(0.0, f64::max);
        if largest * widest > f64::from(i16::MAX) {
            return false;
        }
        let factor: i64 = self.tile.iter().zip(kernel).map(|(&m, &r)| Whole::new(m, r).factor).product();
        // Bits that the division shifts out.
        let limit = f64::from(1u32 << (31 - factor.trailing_zeros()));
        let channel = (w.shape()[1] * taps).max(1);
        values.chunks(channel).all(|w| {
            let end = |(a, b): (f64, f64)| w.iter().map(|w| w * if *w > 0.0 { a } else { b }).sum::<f64>();
            end((x.1, x.0)) < limit && end(x) >= -limit
        })
    }
}

/// Element `i` of a tensor of `f32` or `f64`.
fn element(t: &Tensor, i: usize) -> f64 {
    let bytes = t.bytes();
    match t.dtype() {
        DType::F32 => bytes[4 * i..][..4].try_into().map_or(0.0, |b| f32::from_le_bytes(b).into()),
        _ => t.get(i).as_f64(),
    }
}

impl Operator for WinogradWeight {
    fn names() -> Vec<&'static str> {
        vec!["winograd_weight"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![]
    }

    fn name(&self) -> &'static str {
        "winograd_weight"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        WinogradWeight::from_attrs(attrs)
    }

    fn import(_: &OnnxNode<'_>, _: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        Err(ImportError::new("the operator is not ONNX's"))
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        let known = |d| matches!(d, DType::F32 | DType::F64 | DType::I8 | DType::U8 | DType::I16);
        expect_dtype(ins, 0, known, "f32, f64 or an integer of 8 or 16 bits")?;
        let w = ins[0].shape.to_usize().filter(|w| w.len() > 2);
        let w = w.ok_or_else(|| InferError::new(format!("expected [O,C,kernel…], found {}", ins[0].shape)))?;
        check_tile(&self.tile, &w[2..])?;
        let alpha: usize = self.tile.iter().zip(&w[2..]).map(|(m, r)| m + r - 1).product();
        Ok(vec![Fact::new(transformed(ins[0].dtype), Shape::of(&[alpha, w[1], w[0]]))])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let (w, dtype) = (&ins[0], transformed(ins[0].dtype()));
        let size = dtype.size();
        let (o, c, kernel) = (w.shape()[0], w.shape()[1], &w.shape()[2..]);
        let taps: usize = kernel.iter().product();
        let sums = sums(&filters(&self.tile, kernel, dtype));
        let mut all = AlignedBuf::new(sums.len() * c * o * size);
        let shape = [sums.len(), c, o];
        let done = |all: AlignedBuf| Memory::from(all).tensor(dtype, &shape, 0).map_err(|e| e.to_string());
        if all.as_slice().is_empty() {
            return Ok(vec![done(all)?]);
        }
        // The results are several times as large as the weights, and these are most of a model: so they are written once, where
        // they belong, by blocks of input channels that stay in the cache.
        let block = (BLOCK / o).clamp(1, c);
        let mut parts: Vec<Vec<&mut [u8]>> = (0..c.div_ceil(block)).map(|_| vec![]).collect();
        for place in all.as_mut_slice().chunks_mut(c * o * size) {
            parts.iter_mut().zip(place.chunks_mut(block * o * size)).for_each(|(part, bytes)| part.push(bytes));
        }
        parts.into_par_iter().enumerate().for_each(|(b, places)| {
            let first = b * block;
            let channels = block.min(c - first);
            let n = channels * o;
            let mut x = vec![0.0; taps * n];
            for oi in 0..o {
                for ci in 0..channels {
                    for t in 0..taps {
                        x[t * n + ci * o + oi] = element(w, (oi * c + first + ci) * taps + t);
                    }
                }
            }
            let mut sum = vec![0.0; n];
            for (terms, place) in sums.iter().zip(places) {
                sum.fill(0.0);
                for (t, factor) in terms {
                    sum.iter_mut().zip(&x[t * n..]).for_each(|(s, x)| *s += factor * x);
                }
                match dtype {
                    DType::F32 => place.chunks_exact_mut(4).zip(&sum).for_each(|(to, s)| {
                        to.copy_from_slice(&(*s as f32).to_le_bytes());
                    }),
                    DType::I16 => place.chunks_exact_mut(2).zip(&sum).for_each(|(to, s)| {
                        to.copy_from_slice(&(*s as i64 as i16).to_le_bytes());
                    }),
                    _ => place.chunks_exact_mut(8).zip(&sum).for_each(|(to, s)| to.copy_from_slice(&s.to_le_bytes())),
                }
            }
        });
        Ok(vec![done(all)?])
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let (wd, from, dtype) = (cx.in_dims(0), cx.in_dtype(0), cx.out_dtype(0));
        let (o, c, kernel) = (wd[0], wd[1], wd[2..].to_vec());
        let (kernel, tile) = two_axes(&kernel, &self.tile);
        let axes = filters(&tile, &kernel, dtype);
        let taps = kernel[0] * kernel[1];
        cx.parfor("c", c, |cx, ci| {
            cx.parfor("o", o, |cx, oi| {
                let mut columns = vec![];
                for x in 0..kernel[1] {
                    let tap = |y: usize| (oi.clone() * c + ci.clone()) * taps + (y * kernel[1] + x);
                    let column: Vec<Expr> = (0..kernel[0]).map(|y| as_dtype(cx.load_flat(0, tap(y)), from, dtype)).collect();
                    let column: Vec<Expr> = column.into_iter().map(|e| cx.k.bind("w", e)).collect();
                    columns.push(cook_toom::emit(cx, dtype, &axes[0].weight, &column));
                }
                for y in 0..axes[0].alpha() {
                    let row: Vec<Expr> = columns.iter().map(|c| c[y].clone()).collect();
                    for (x, u) in cook_toom::emit(cx, dtype, &axes[1].weight, &row).into_iter().enumerate() {
                        let p = y * axes[1].alpha() + x;
                        let at = flatten(&[p.into(), ci.clone(), oi.clone()], &cx.out_dims(0));
                        cx.store_flat(0, at, u);
                    }
                }
            });
        });
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::ROUNDING
    }

    fn samples() -> Vec<Sample> {
        let f = DType::F32;
        let of = |tile: &[usize]| WinogradWeight { tile: tile.to_vec() };
        vec![
            Sample::new(of(&[4, 4]), &[(f, &[10, 3, 3, 3])]),
            Sample::new(of(&[2, 2]), &[(f, &[4, 5, 3, 3])]),
            Sample::new(of(&[1, 2]), &[(f, &[8, 2, 1, 5])]),
            Sample::new(of(&[4]), &[(DType::F64, &[3, 2, 3])]),
            Sample::new(of(&[4, 4]), &[(DType::I8, &[10, 3, 3, 3])]).with_range(&[(-128.0, 128.0)]),
            Sample::new(of(&[2, 2]), &[(DType::I16, &[4, 5, 3, 3])]).with_range(&[(-255.0, 256.0)]),
            Sample::new(of(&[2, 1]), &[(DType::U8, &[5, 4, 3, 1])]).with_range(&[(0.0, 256.0)]),
        ]
    }
}

/// Extents of a kernel and of a tile as those of two axes, the first of extent 1 where there is one only.
pub(super) fn two_axes(kernel: &[usize], tile: &[usize]) -> ([usize; 2], [usize; 2]) {
    let pair = |v: &[usize]| if let [a, b] = v { [*a, *b] } else { [1, v[0]] };
    (pair(kernel), pair(tile))
}

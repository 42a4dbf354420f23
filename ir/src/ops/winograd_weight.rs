//! Weights of a convolution, transformed for minimal filtering: the operand of [`super::winograd_conv`].
//!
//! `u[p, c, o] = (G g G'ᵀ)[p]` with `g = w[o, c]`; see [`super::cook_toom`]. Made from constants, it is folded when compiling.

use super::cook_toom::{self, CookToom};
use crate::lower::flatten;
use crate::op::{expect_dtype, expect_operands};
use crate::ops::*;
use rayon::prelude::*;
use tenon_base::Shape;

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
        expect_dtype(ins, 0, |d| matches!(d, DType::F32 | DType::F64), "f32 or f64")?;
        let w = ins[0].shape.to_usize().filter(|w| w.len() > 2);
        let w = w.ok_or_else(|| InferError::new(format!("expected [O,C,kernel…], found {}", ins[0].shape)))?;
        check_tile(&self.tile, &w[2..])?;
        let alpha: usize = self.tile.iter().zip(&w[2..]).map(|(m, r)| m + r - 1).product();
        Ok(vec![Fact::new(ins[0].dtype, Shape::of(&[alpha, w[1], w[0]]))])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let (o, c, dtype) = (ins[0].shape()[0], ins[0].shape()[1], ins[0].dtype());
        let kernel = &ins[0].shape()[2..];
        let taps: usize = kernel.iter().product();
        let axes: Vec<CookToom> = self.tile.iter().zip(kernel).map(|(&m, &k)| CookToom::new(m, k)).collect();
        let alpha: usize = axes.iter().map(CookToom::alpha).product();
        let w = ins[0].to_f64();
        // For each input channel [O, kernel…] → [kernel…, O], so that a transform adds long rows.
        let channel = |ci: usize| {
            let mut data = vec![0.0; taps * o];
            for oi in 0..o {
                for t in 0..taps {
                    data[t * o + oi] = w[(oi * c + ci) * taps + t];
                }
            }
            let mut dims = kernel.to_vec();
            dims.push(o);
            for (axis, t) in axes.iter().enumerate() {
                data = cook_toom::apply(&t.weight, axis, &data, &mut dims);
            }
            Tensor::from_f64(dtype, &[alpha, o], &data)
        };
        let channels: Vec<Tensor> = (0..c).into_par_iter().map(channel).collect();
        let row = o * dtype.size();
        let mut all = Vec::with_capacity(alpha * c * row);
        for a in 0..alpha {
            channels.iter().for_each(|t| all.extend_from_slice(&t.bytes()[a * row..(a + 1) * row]));
        }
        Tensor::from_bytes(dtype, &[alpha, c, o], all.into()).map(|t| vec![t]).map_err(|e| e.to_string())
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let (wd, dtype) = (cx.in_dims(0), cx.in_dtype(0));
        let (o, c, kernel) = (wd[0], wd[1], wd[2..].to_vec());
        let (kernel, tile) = two_axes(&kernel, &self.tile);
        let axes = [CookToom::new(tile[0], kernel[0]), CookToom::new(tile[1], kernel[1])];
        let taps = kernel[0] * kernel[1];
        cx.parfor("c", c, |cx, ci| {
            cx.parfor("o", o, |cx, oi| {
                let mut columns = vec![];
                for x in 0..kernel[1] {
                    let tap = |y: usize| (oi.clone() * c + ci.clone()) * taps + (y * kernel[1] + x);
                    let column: Vec<Expr> = (0..kernel[0]).map(|y| cx.load_flat(0, tap(y))).collect();
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
        ]
    }
}

/// Extents of a kernel and of a tile as those of two axes, the first of extent 1 where there is one only.
pub(super) fn two_axes(kernel: &[usize], tile: &[usize]) -> ([usize; 2], [usize; 2]) {
    let pair = |v: &[usize]| if let [a, b] = v { [*a, *b] } else { [1, v[0]] };
    (pair(kernel), pair(tile))
}

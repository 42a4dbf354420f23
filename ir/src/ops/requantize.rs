//! From integers of one or several scales to quantised integers of another: what ends every integer kernel.
//!
//! `y = clamp(round(clamp(Σ_i (x_i - zeros_i) · m_i)) + zero)`, where `m_i` is the scale of `x_i` over the scale of `y`. One operand
//! is what follows a convolution or matrix product (`m` is one factor a channel); two are a quantised addition.
//!
//! The same bits on every machine: the difference is an `i32`, its conversion, the products and the sum (from the left)
//! are each rounded once to `f32`, and the rounding to an integer takes ties to even. This is also what ONNX Runtime
//! computes, with the factor `m` rounded once.

use super::util::map_broadcast;
use crate::op::{expect_dtype, expect_operands};
use crate::ops::*;
use tenon_base::{Scalar, Shape};

crate::attributes! {
    /// Operands: `x_0, m_0, x_1, m_1, …`, integers and `f32` factors, which broadcast.
    pub struct Requantize {
        /// What is subtracted from each `x`.
        pub zeros: Vec<i64>,
        /// What is added to the rounded sum.
        pub zero: i64,
        /// The smallest result; above the least of `to` where a rectifier was absorbed.
        pub min: i64,
        /// The largest result.
        pub max: i64,
        /// `u8`, `i8`, `u16` or `i16`.
        pub to: DType,
    }
}

/// `1.5 · 2²³`: in the sum with a number below `2²²` in magnitude the last bit is worth 1, so that the sum is the number
/// rounded to even, and the difference of its bits from those of the constant is the integer.
pub(super) const MAGIC: f32 = 12_582_912.0;

impl Requantize {
    /// With the full range of `to`.
    pub fn new(zeros: Vec<i64>, zero: i64, to: DType) -> Requantize {
        let (lo, hi) = to.int_range().unwrap_or((0, 0));
        Requantize { zeros, zero, min: lo as i64, max: hi as i64, to }
    }

    /// With results within `lo..=hi` as well.
    #[must_use]
    pub fn within(mut self, lo: i64, hi: i64) -> Requantize {
        self.max = self.max.min(hi).max(self.min);
        self.min = self.min.max(lo).min(self.max);
        self
    }
}

impl Operator for Requantize {
    fn names() -> Vec<&'static str> {
        vec!["requantize"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![]
    }

    fn name(&self) -> &'static str {
        "requantize"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Requantize::from_attrs(attrs)
    }

    fn import(_: &OnnxNode<'_>, _: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        Err(ImportError::new("ONNX has no such operator"))
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        let n = self.zeros.len();
        if n == 0 {
            return Err(InferError::new("expected a zero point for every operand, found none"));
        }
        expect_operands(ins, 2 * n..=2 * n)?;
        let Some((lo, hi)) = self.to.int_range().filter(|_| super::quantize::is_narrow(self.to)) else {
            return Err(InferError::new(format!("expected a result of u8, i8, u16 or i16, found {}", self.to)));
        };
        let inside = |v: i64| (lo..=hi).contains(&i128::from(v));
        if !inside(self.zero) || !inside(self.min) || !inside(self.max) || self.min > self.max {
            return Err(InferError::new(format!(
                "zero {} and bounds {}..={} do not fit {}",
                self.zero, self.min, self.max, self.to
            )));
        }
        let mut shape = Shape(vec![]);
        for i in 0..n {
            expect_dtype(ins, 2 * i, |d| d.is_int() && d.size() <= 4 && d != DType::U32, "i32 or a narrower integer")?;
            expect_dtype(ins, 2 * i + 1, |d| d == DType::F32, "f32")?;
            if i32::try_from(self.zeros[i]).is_err() {
                return Err(InferError::new(format!("zero point {} does not fit i32", self.zeros[i])));
            }
            for f in &ins[2 * i..2 * i + 2] {
                shape = shape.broadcast(&f.shape).map_err(|(a, b)| {
                    InferError::new(format!("the operands' shapes do not broadcast: {a} against {b} in {shape} and {}", f.shape))
                })?;
            }
        }
        Ok(vec![Fact::new(self.to, shape)])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let facts: Vec<Fact> = ins.iter().map(Tensor::fact).collect();
        let out = self.infer(&facts).map_err(|e| e.message)?.remove(0);
        // Terms one after the other: each is a rounded `f32`, and so is each sum.
        let mut sum: Option<Tensor> = None;
        for (pair, zero) in ins.chunks_exact(2).zip(&self.zeros) {
            let fact = Fact::new(DType::F32, out.shape.clone());
            // Both as `f64`, which holds an `i32`.
            let term = |x: f64, m: f64| (x as i32).wrapping_sub(*zero as i32) as f32 * m as f32;
            sum = Some(match &sum {
                None => map_broadcast(&fact, [&pair[0], &pair[1]], |[x, m]| f64::from(term(x, m)))?,
                Some(s) => map_broadcast(&fact, [s, &pair[0], &pair[1]], |[s, x, m]| f64::from(s as f32 + term(x, m)))?,
            });
        }
        let sum = sum.ok_or("there are no operands")?;
        let t = map_broadcast(&out, [&sum], |[sum]: [f64; 1]| {
            let rounded = if sum.is_nan() { f64::NEG_INFINITY } else { (sum as f32).round_ties_even().into() };
            let y = (rounded + self.zero as f64).clamp(self.min as f64, self.max as f64);
            y as i128
        })?;
        Ok(vec![t])
    }

    fn class(&self) -> OpClass {
        OpClass::Pointwise
    }

    fn scalar(&self, ins: &[DType], out: DType, args: &[Expr]) -> Option<Expr> {
        let int = |v: i64| Expr::Const(Scalar::of_int(DType::I32, i128::from(v)));
        let term = |i: usize| {
            let x = if ins[2 * i] == DType::I32 { args[2 * i].clone() } else { args[2 * i].clone().cast(DType::I32) };
            let x = if self.zeros[i] == 0 { x } else { x - int(self.zeros[i]) };
            x.cast(DType::F32) * args[2 * i + 1].clone()
        };
        let sum = (1..self.zeros.len()).fold(term(0), |s, i| s + term(i));
        // Bounds are integers, so they may as well be applied before the rounding; NaN becomes the lower one.
        let bound = |v: i64| Expr::constant(DType::F32, (v - self.zero) as f64);
        let sum = sum.max(bound(self.min)).min(bound(self.max));
        let bits = (sum + Expr::constant(DType::F32, f64::from(MAGIC))).bitcast(DType::I32);
        // The lower half of the constant's bits is 0, and the conversion keeps no more.
        let y = if self.zero == 0 { bits } else { bits + int(self.zero) };
        Some(y.cast(out))
    }

    fn samples() -> Vec<Sample> {
        let (f, q) = (DType::F32, Requantize::new);
        let acc = [(-40_000.0, 40_000.0), (0.001, 0.006)];
        let two = [(0.0, 256.0), (0.2, 1.4), (-128.0, 128.0), (0.2, 1.4)];
        vec![
            Sample::new(q(vec![0], 3, DType::U8), &[(DType::I32, &[2, 5, 7]), (f, &[7])]).with_range(&acc),
            Sample::new(q(vec![0], -11, DType::I8).within(-11, 90), &[(DType::I32, &[1, 9, 4, 4]), (f, &[9, 1, 1])])
                .with_range(&acc),
            Sample::new(q(vec![128, 0], 120, DType::U8), &[(DType::U8, &[3, 19]), (f, &[]), (DType::I8, &[3, 19]), (f, &[])])
                .with_range(&two),
            Sample::new(q(vec![7], 0, DType::I16), &[(DType::U8, &[33]), (f, &[1])]).with_range(&[(0.0, 256.0), (50.0, 200.0)]),
            Sample::new(q(vec![0], 40_000, DType::U16), &[(DType::I32, &[33]), (f, &[])]).with_range(&[(-9e8, 9e8), (1e-4, 2e-4)]),
            // Every result a tie.
            Sample::new(q(vec![0], 0, DType::I8), &[(DType::I8, &[65]), (f, &[])]).with_range(&[(-64.0, 64.0), (0.5, 0.5)]),
        ]
    }
}

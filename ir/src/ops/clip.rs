//! Clip: `min(max(x, lo), hi)`. ONNX: [Clip](https://onnx.ai/onnx/operators/onnx__Clip.html) (1, 6, 11, 12, 13).
//!
//! Bounds known at compile time are attributes; others become `max` and `min`.

use super::binary::Binary;
use super::util::map_broadcast;
use crate::op::{expect_dtype, expect_operands};
use crate::ops::*;
use tenon_base::{Real, Scalar};

crate::attributes! {
    /// Keeps elements within `min..=max`; where the bounds cross, `max` wins. NaN stays NaN.
    pub struct Clip {
        /// The lower bound, if there is one.
        pub min: Option<Real>,
        /// The upper bound, if there is one.
        pub max: Option<Real>,
    }
}

/// The nearer bound for what is outside of them; NaN is nowhere outside.
fn within<T: Copy + PartialOrd>(lo: Option<T>, hi: Option<T>) -> impl Fn([T; 1]) -> T {
    move |[v]| {
        let v = lo.filter(|lo| v < *lo).unwrap_or(v);
        hi.filter(|hi| v > *hi).unwrap_or(v)
    }
}

impl Operator for Clip {
    fn names() -> Vec<&'static str> {
        vec!["clip"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "Clip", versions: &[1, 6, 11, 12, 13] }]
    }

    fn name(&self) -> &'static str {
        "clip"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Clip::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let mut x = node.input(0)?;
        if node.opset < 11 {
            let real = |name: &str| -> Result<Option<Real>, ImportError> {
                Ok(node.opt_float(name)?.filter(|v| v.abs() < f32::MAX).map(|v| Real(f64::from(v))))
            };
            let op = Clip { min: real("min")?, max: real("max")? };
            return if op == (Clip { min: None, max: None }) { Ok(vec![x]) } else { Ok(vec![cx.op(op, &[x])?]) };
        }
        let mut known = [None, None];
        for (i, name) in [(1, "max"), (2, "min")] {
            let Some(bound) = node.opt_input(i) else { continue };
            // Integers beyond 2^53 do not fit a real attribute.
            let exact = |s: Scalar| s.as_f64() as i128 == s.as_int() || s.dtype().is_float();
            match cx.known(bound).filter(|t| t.len() == 1).map(|t| t.get(0)) {
                Some(s) if exact(s) && s.dtype() == cx.dtype(x) => known[i - 1] = Some(Real(s.as_f64())),
                _ => {
                    let f = Binary::named(name).ok_or_else(|| ImportError::new(format!("no {name}")))?;
                    x = cx.op(f, &[x, bound])?;
                }
            }
        }
        if known == [None, None] {
            return Ok(vec![x]);
        }
        Ok(vec![cx.op(Clip { min: known[0], max: known[1] }, &[x])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        expect_dtype(ins, 0, |d| d != DType::Bool, "a number dtype")?;
        Ok(vec![ins[0].clone()])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let out = ins[0].fact();
        let bound = |b: Option<Real>| b.map(|b| Scalar::of_f64(out.dtype, b.0));
        let (lo, hi) = (bound(self.min), bound(self.max));
        let t = match out.dtype.is_float() {
            true => map_broadcast(&out, [&ins[0]], within(lo.map(Scalar::as_f64), hi.map(Scalar::as_f64)))?,
            false => map_broadcast(&out, [&ins[0]], within(lo.map(Scalar::as_int), hi.map(Scalar::as_int)))?,
        };
        Ok(vec![t])
    }

    fn class(&self) -> OpClass {
        OpClass::Pointwise
    }

    fn scalar(&self, ins: &[DType], _: DType, args: &[Expr]) -> Option<Expr> {
        // The constant goes first, so that NaN in `x` stays.
        let c = |b: Real| Expr::constant(ins[0], b.0);
        let x = self.min.map_or(args[0].clone(), |b| c(b).max(args[0].clone()));
        Some(self.max.map_or(x.clone(), |b| c(b).min(x)))
    }

    fn samples() -> Vec<Sample> {
        let clip = |min: Option<f64>, max: Option<f64>| Clip { min: min.map(Real), max: max.map(Real) };
        vec![
            Sample::new(clip(Some(0.0), Some(6.0)), &[(DType::F32, &[3, 37])]).with_range(&[(-9.0, 9.0)]),
            Sample::new(clip(None, Some(1.0)), &[(DType::F16, &[19])]),
            Sample::new(clip(Some(-1.0), None), &[(DType::F64, &[7])]),
            Sample::new(clip(Some(2.0), Some(5.0)), &[(DType::U8, &[3, 7])]),
            Sample::new(clip(Some(2.0), Some(1.0)), &[(DType::I64, &[9])]),
        ]
    }
}

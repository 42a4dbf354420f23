//! Cast: converts elements. ONNX: [Cast](https://onnx.ai/onnx/operators/onnx__Cast.html) and CastLike.
//!
//! To an 8-bit float it rounds to nearest, ties to even, and saturates unless it is told not to; integers of less than a byte wrap.
//! Float to integer truncates towards 0 and saturates, NaN becomes 0; integer to a narrower integer wraps; to `bool`: `x != 0`.

use super::util::map_broadcast;
use crate::op::expect_operands;
use crate::ops::*;
use tenon_base::Scalar;
use tenon_base::narrow::SmallFloat;
use tenon_kernel::CmpOp;

crate::attributes! {
    /// Conversion to `to`.
    pub struct Cast {
        /// The result's dtype.
        pub to: DType,
        /// `false`, for 8-bit floats: what is beyond their range becomes infinite or NaN, instead of their largest number.
        pub saturate: Option<bool>,
    }
}

impl Cast {
    /// Conversion to `to`.
    pub fn to(to: DType) -> Cast {
        Cast { to, saturate: None }
    }

    /// What is beyond the range of an 8-bit float, as `saturate` says; all else as it is.
    fn limited(&self, v: f64) -> f64 {
        let Some(f) = SmallFloat::of(self.to).filter(|f| f.has_nan()) else { return v };
        let (limit, reached) = f.limit;
        let beyond = v.abs() > limit || (reached && v.abs() == limit);
        match self.saturate {
            Some(false) if beyond => f64::INFINITY.copysign(v),
            Some(false) => v,
            _ if v.is_nan() => v,
            _ => v.clamp(-f.max, f.max),
        }
    }
}

impl Operator for Cast {
    fn names() -> Vec<&'static str> {
        vec!["cast"]
    }

    fn onnx() -> Vec<OnnxName> {
        let on = |name, versions| OnnxName { domain: "", name, versions };
        vec![on("Cast", &[1, 6, 9, 13, 19, 21, 23, 24]), on("CastLike", &[15, 19, 21, 23, 24])]
    }

    fn name(&self) -> &'static str {
        "cast"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Cast::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let x = node.input(0)?;
        let to = match node.op_type() {
            "CastLike" => cx.dtype(node.input(1)?),
            _ => match node.attr("to") {
                // Before opset 6 it was a name.
                Some(crate::OnnxAttr::Str(name)) => named(name)?,
                _ => crate::import::dtype_of_code(node.int("to", 0)?)?,
            },
        };
        if cx.dtype(x) == to {
            return Ok(vec![x]);
        }
        let saturate = (SmallFloat::of(to).is_some_and(SmallFloat::has_nan) && node.int("saturate", 1)? == 0).then_some(false);
        if to == DType::F8E8M0 && (node.str("round_mode", "up")? != "up" || node.int("saturate", 1)? == 0) {
            return Err(ImportError::new("round_mode: only up, with saturation, is supported for f8e8m0"));
        }
        Ok(vec![cx.op(Cast { to, saturate }, &[x])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        Ok(vec![Fact::new(self.to, ins[0].shape.clone())])
    }

    fn infer_dims(&self, ins: &[Option<Vec<Dim>>], _: &[Fact]) -> Option<Vec<Dim>> {
        self.to.is_int().then(|| ins[0].clone())?
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let out = Fact::of(self.to, ins[0].shape());
        let x = [&ins[0]];
        let (from, to) = (ins[0].dtype(), self.to);
        // Of a conversion between floats and between integers nothing is left but what every result goes through.
        let t = match (from.is_float(), to.int_range()) {
            (true, None) if SmallFloat::of(to).is_none() => map_broadcast(&out, x, |[v]: [f64; 1]| v)?,
            (true, None) => map_broadcast(&out, x, |[v]| self.limited(v))?,
            (true, Some(_)) if to == DType::Bool => map_broadcast(&out, x, |[v]: [f64; 1]| i64::from(v != 0.0))?,
            (true, Some((lo, hi))) => {
                // Less than a byte saturates as a byte and wraps from there.
                let (lo, hi) = if to.is_stored() { (-128, 127) } else { (lo, hi) };
                match (i64::try_from(lo), i64::try_from(hi)) {
                    // As conversions saturate, and NaN becomes 0.
                    (Ok(lo), Ok(hi)) => map_broadcast(&out, x, |[v]: [f64; 1]| (v as i64).clamp(lo, hi))?,
                    _ => map_broadcast(&out, x, |[v]: [f64; 1]| (v as i128).clamp(lo, hi))?,
                }
            }
            (false, Some(_)) => map_broadcast(&out, x, |[v]: [i64; 1]| v)?,
            // Integers up to 64 bits round once, directly to the float type.
            (false, None) if from == DType::U64 && to == DType::F32 => {
                map_broadcast(&out, x, |[v]: [i128; 1]| f64::from(v as f32))?
            }
            (false, None) if from == DType::U64 => map_broadcast(&out, x, |[v]: [i128; 1]| v as f64)?,
            (false, None) if to == DType::F32 => map_broadcast(&out, x, |[v]: [i64; 1]| f64::from(v as f32))?,
            (false, None) => map_broadcast(&out, x, |[v]: [i64; 1]| v as f64)?,
        };
        Ok(vec![t])
    }

    fn class(&self) -> OpClass {
        OpClass::Pointwise
    }

    fn scalar(&self, ins: &[DType], out: DType, args: &[Expr]) -> Option<Expr> {
        // An `f16` operand arrives as `f32` and an `f16` result leaves as one: nothing to do between them.
        let x = if ins[0] == out { args[0].clone() } else { args[0].clone().cast(out) };
        let Some(f) = SmallFloat::of(self.to).filter(|f| f.has_nan()) else { return Some(x) };
        let c = |v| Expr::constant(out, v);
        if self.saturate != Some(false) {
            // NaN passes: it is the second operand of both.
            return Some(c(f.max).min(c(-f.max).max(x)));
        }
        let (limit, reached) = f.limit;
        let beyond = |a: Expr| a.compare(if reached { CmpOp::Ge } else { CmpOp::Gt }, c(limit));
        let low = beyond(-x.clone()).select(c(f64::NEG_INFINITY), x.clone());
        Some(beyond(x).select(c(f64::INFINITY), low))
    }

    fn samples() -> Vec<Sample> {
        let mut all = vec![];
        for from in DType::ALL {
            for to in DType::ALL {
                all.push(Sample::new(Cast::to(to), &[(from, &[3, 5])]).with_range(&[(-300.0, 300.0)]));
            }
        }
        for to in DType::STORED {
            for from in [DType::F32, DType::F16, DType::I32, DType::U8] {
                all.push(Sample::new(Cast::to(to), &[(from, &[3, 37])]).with_range(&[(-700.0, 700.0)]));
                all.push(Sample::new(Cast::to(from), &[(to, &[3, 37])]).with_range(&[(-20.0, 20.0)]));
            }
            all.push(Sample::new(Cast::to(to), &[(DType::F32, &[111])]).with_range(&[(-0.1, 0.1)]));
            let open = Cast { to, saturate: Some(false) };
            all.push(Sample::new(open, &[(DType::F32, &[111])]).with_range(&[(-1e5, 1e5)]));
        }
        all.push(Sample::new(Cast::to(DType::F8E5M2), &[(DType::BF16, &[37])]).with_range(&[(-9.0, 9.0)]));
        all
    }
}

/// The dtype that ONNX's `TensorProto.DataType` calls `name`.
fn named(name: &str) -> Result<DType, ImportError> {
    Ok(match name {
        "FLOAT" => DType::F32,
        "DOUBLE" => DType::F64,
        "FLOAT16" => DType::F16,
        "BOOL" => DType::Bool,
        "INT8" => DType::I8,
        "INT16" => DType::I16,
        "INT32" => DType::I32,
        "INT64" => DType::I64,
        "UINT8" => DType::U8,
        "UINT16" => DType::U16,
        "UINT32" => DType::U32,
        "UINT64" => DType::U64,
        other => return Err(ImportError::new(format!("to: elements of type {other} are not supported"))),
    })
}

/// One element converted.
pub(crate) fn convert(x: Scalar, to: DType) -> Scalar {
    match (x, to.int_range()) {
        (_, _) if to == DType::Bool => Scalar::Int(to, i128::from(x.as_f64() != 0.0)),
        (Scalar::Float(_, v), Some((lo, hi))) => {
            // Less than a byte saturates as a byte and wraps from there.
            let (lo, hi) = if to.is_stored() { (-128, 127) } else { (lo, hi) };
            Scalar::of_int(to, if v.is_nan() { 0 } else { (v as i128).clamp(lo, hi) })
        }
        // Integers up to 64 bits round once, directly to the float type.
        (Scalar::Int(_, v), None) if to == DType::F32 => Scalar::Float(to, f64::from(v as f32)),
        (Scalar::Int(_, v), _) => Scalar::of_int(to, v),
        (Scalar::Float(_, v), None) => Scalar::of_f64(to, v),
    }
}

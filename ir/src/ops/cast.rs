//! Cast: converts elements. ONNX: [Cast](https://onnx.ai/onnx/operators/onnx__Cast.html) and CastLike.
//!
//! Float to integer truncates towards 0 and saturates, NaN becomes 0; integer to a narrower integer wraps; to `bool`: `x != 0`.

use super::util::map_broadcast;
use crate::op::expect_operands;
use crate::ops::*;
use tenon_base::Scalar;

crate::attributes! {
    /// Conversion to `to`.
    pub struct Cast {
        /// The result's dtype.
        pub to: DType,
    }
}

impl Cast {
    /// Conversion to `to`.
    pub fn to(to: DType) -> Cast {
        Cast { to }
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
            _ => crate::import::dtype_of_code(node.int("to", 0)?)?,
        };
        if cx.dtype(x) == to {
            return Ok(vec![x]);
        }
        Ok(vec![cx.op(Cast { to }, &[x])?])
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
        Ok(vec![map_broadcast(&out, ins, |x| convert(x[0], self.to))?])
    }

    fn class(&self) -> OpClass {
        OpClass::Pointwise
    }

    fn scalar(&self, ins: &[DType], out: DType, args: &[Expr]) -> Option<Expr> {
        // An `f16` operand arrives as `f32` and an `f16` result leaves as one: nothing to do between them.
        Some(if ins[0] == out { args[0].clone() } else { args[0].clone().cast(out) })
    }

    fn samples() -> Vec<Sample> {
        let mut all = vec![];
        for from in DType::ALL {
            for to in DType::ALL {
                all.push(Sample::new(Cast { to }, &[(from, &[3, 5])]).with_range(&[(-300.0, 300.0)]));
            }
        }
        all
    }
}

/// One element converted.
pub(crate) fn convert(x: Scalar, to: DType) -> Scalar {
    match (x, to.int_range()) {
        (_, _) if to == DType::Bool => Scalar::Int(to, i128::from(x.as_f64() != 0.0)),
        (Scalar::Float(_, v), Some((lo, hi))) => {
            Scalar::Int(to, if v.is_nan() { 0 } else { (v as i128).clamp(lo, hi) })
        }
        // Integers up to 64 bits round once, directly to the float type.
        (Scalar::Int(_, v), None) if to == DType::F32 => Scalar::Float(to, f64::from(v as f32)),
        (Scalar::Int(_, v), _) => Scalar::of_int(to, v),
        (Scalar::Float(_, v), None) => Scalar::of_f64(to, v),
    }
}

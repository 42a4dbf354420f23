//! GELU: `x · Φ(x)`, exactly through erf or by its tanh approximation; a pointwise family with one attribute.
//!
//! ONNX: [Gelu](https://onnx.ai/onnx/operators/onnx__Gelu.html) (20); com.microsoft Gelu, FastGelu (with its optional bias) and QuickGelu.

use super::binary::Binary;
use super::util::map_broadcast;
use crate::op::{expect_dtype, expect_operands};
use crate::ops::*;
use tenon_base::Real;
use tenon_kernel::MathFn;

crate::attr_enum! {
    /// Which form.
    pub enum Form {
        /// `x/2 · (1 + erf(x/√2))`
        Erf = "erf",
        /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715·x³)))`
        Tanh = "tanh",
        /// `x · sigmoid(alpha·x)`
        Quick = "quick",
    }
}

crate::attributes! {
    /// GELU.
    pub struct Gelu {
        /// Which form.
        pub form: Form,
        /// For [`Form::Quick`].
        pub alpha: Real,
    }
}

/// √(2/π)
const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
const CUBIC: f64 = 0.044_715;

impl Operator for Gelu {
    fn names() -> Vec<&'static str> {
        vec!["gelu"]
    }

    fn onnx() -> Vec<OnnxName> {
        let on = |domain, name, versions| OnnxName { domain, name, versions };
        vec![
            on("", "Gelu", &[20]),
            on("com.microsoft", "Gelu", &[1]),
            on("com.microsoft", "FastGelu", &[1]),
            on("com.microsoft", "QuickGelu", &[1]),
        ]
    }

    fn name(&self) -> &'static str {
        "gelu"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Gelu::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let mut x = node.input(0)?;
        let form = match (node.op_type(), node.str("approximate", "none")?) {
            ("FastGelu", _) | ("Gelu", "tanh") => Form::Tanh,
            ("QuickGelu", _) => Form::Quick,
            ("Gelu", "none") => Form::Erf,
            (_, other) => return Err(ImportError::new(format!("approximate: expected none or tanh, found {other:?}"))),
        };
        if let (Form::Tanh, Some(bias)) = (form, node.opt_input(1)) {
            x = cx.op(Binary::named("add").ok_or_else(|| ImportError::new("no add"))?, &[x, bias])?;
        }
        let alpha = if form == Form::Quick { node.float("alpha", 1.702)? } else { 0.0 };
        Ok(vec![cx.op(Gelu { form, alpha: Real(f64::from(alpha)) }, &[x])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        expect_dtype(ins, 0, DType::is_float, "a float dtype")?;
        Ok(vec![ins[0].clone()])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let out = ins[0].fact();
        let f = |x: f64| match self.form {
            Form::Erf => 0.5 * x * (1.0 + tenon_kernel::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            Form::Tanh => 0.5 * x * (1.0 + (SQRT_2_OVER_PI * (x + CUBIC * x * x * x)).tanh()),
            Form::Quick => x / (1.0 + (-self.alpha.0 * x).exp()),
        };
        Ok(vec![map_broadcast(&out, [&ins[0]], |[x]| f(x))?])
    }

    fn class(&self) -> OpClass {
        OpClass::Pointwise
    }

    fn scalar(&self, ins: &[DType], _: DType, args: &[Expr]) -> Option<Expr> {
        let c = |v| Expr::constant(ins[0], v);
        let x = args[0].clone();
        Some(match self.form {
            Form::Erf => {
                let e = (x.clone() * c(std::f64::consts::FRAC_1_SQRT_2)).math(MathFn::Erf);
                c(0.5) * x * (c(1.0) + e)
            }
            Form::Tanh => {
                let inner = c(SQRT_2_OVER_PI) * x.clone() * (c(1.0) + c(CUBIC) * x.clone() * x.clone());
                c(0.5) * x * (c(1.0) + inner.math(MathFn::Tanh))
            }
            Form::Quick => x.clone() / (c(1.0) + (c(-self.alpha.0) * x).math(MathFn::Exp)),
        })
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance { absolute: 2e-6, relative: 4e-6 }
    }

    fn samples() -> Vec<Sample> {
        let g = |form| Gelu { form, alpha: Real(1.702) };
        let r = [(-7.0, 7.0)];
        vec![
            Sample::new(g(Form::Erf), &[(DType::F32, &[3, 37])]).with_range(&r),
            Sample::new(g(Form::Tanh), &[(DType::F32, &[3, 37])]).with_range(&r),
            Sample::new(g(Form::Quick), &[(DType::F64, &[19])]).with_range(&r),
            Sample::new(g(Form::Erf), &[(DType::F16, &[2, 9])]).with_range(&r),
        ]
    }
}

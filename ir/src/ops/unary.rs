//! Functions of one element, without attributes: one row each in the table.
//!
//! ONNX: Abs, Acos, Acosh, Asin, Asinh, Atan, Atanh, Ceil, Cos, Cosh, Erf, Exp, Floor, HardSwish, Log, Mish, Neg, Not, Reciprocal,
//! Relu, Round, Sigmoid, Sign, Sin, Sinh, Softplus, Softsign, Sqrt, Tan, Tanh, BitwiseNot, IsNaN.

use super::family::{self, Takes, rows};
use super::util::map_broadcast;
use crate::op::expect_operands;
use crate::ops::*;
use tenon_kernel::{CmpOp, MathFn, UnOp};

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unary(&'static Row);

type Row = family::Row<fn(f64) -> f64, fn(i128) -> i128, fn(Expr, DType) -> Expr>;

fn c(d: DType, v: f64) -> Expr {
    Expr::constant(d, v)
}

/// eˣ−based, written so that nothing overflows to NaN: `1 / (1 + e^-x)`.
fn sigmoid(x: Expr, d: DType) -> Expr {
    c(d, 1.0) / (c(d, 1.0) + (-x).math(MathFn::Exp))
}

/// `max(x, 0) + log(1 + e^-|x|)`
fn softplus(x: Expr, d: DType) -> Expr {
    let tail = (c(d, 1.0) + (-x.clone().unary(UnOp::Abs)).math(MathFn::Exp)).math(MathFn::Log);
    c(d, 0.0).max(x) + tail
}

fn softplus64(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sign(x: Expr, d: DType) -> Expr {
    let zero = c(d, 0.0);
    let below = if d.is_unsigned_int() { zero.clone() } else { c(d, -1.0) };
    let up = x.clone().compare(CmpOp::Gt, zero.clone());
    let down = x.clone().compare(CmpOp::Lt, zero);
    // Neither: 0, or NaN for NaN.
    up.select(c(d, 1.0), down.select(below, x))
}

rows! {
    "abs" "Abs" Number; f64::abs; i128::abs; |x, _| x.unary(UnOp::Abs); EXACT
    "acos" "Acos" Float; f64::acos; |x| x; |x, _| x.math(MathFn::Acos); MATH
    "acosh" "Acosh" Float; f64::acosh; |x| x; |x, _| x.math(MathFn::Acosh); MATH
    "asin" "Asin" Float; f64::asin; |x| x; |x, _| x.math(MathFn::Asin); MATH
    "asinh" "Asinh" Float; f64::asinh; |x| x; |x, _| x.math(MathFn::Asinh); MATH
    "atan" "Atan" Float; f64::atan; |x| x; |x, _| x.math(MathFn::Atan); MATH
    "atanh" "Atanh" Float; f64::atanh; |x| x; |x, _| x.math(MathFn::Atanh); MATH
    "bitwise_not" "BitwiseNot" Int; |x| x; |x| !x; |x, _| x.unary(UnOp::Not); EXACT
    "ceil" "Ceil" Float; f64::ceil; |x| x; |x, _| x.unary(UnOp::Ceil); EXACT
    "cos" "Cos" Float; f64::cos; |x| x; |x, _| x.math(MathFn::Cos); MATH
    "cosh" "Cosh" Float; f64::cosh; |x| x; |x, _| x.math(MathFn::Cosh); MATH
    "erf" "Erf" Float; tenon_kernel::erf; |x| x; |x, _| x.math(MathFn::Erf); MATH
    "exp" "Exp" Float; f64::exp; |x| x; |x, _| x.math(MathFn::Exp); MATH
    "floor" "Floor" Float; f64::floor; |x| x; |x, _| x.unary(UnOp::Floor); EXACT
    "hard_swish" "HardSwish" Float; |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0); |x| x; |x, d| {
        let h = x.clone() * c(d, 1.0 / 6.0) + c(d, 0.5);
        x * c(d, 0.0).max(c(d, 1.0).min(h))
    }; ROUNDING
    "is_nan" "IsNaN" Float test true; |x| f64::from(u8::from(x.is_nan())); |x| x; |x, _| x.clone().compare(CmpOp::Ne, x); EXACT
    "log" "Log" Float; f64::ln; |x| x; |x, _| x.math(MathFn::Log); MATH
    "mish" "Mish" Float; |x| x * softplus64(x).tanh(); |x| x; |x, d| x.clone() * softplus(x, d).math(MathFn::Tanh); MATH
    "neg" "Neg" Number; |x| -x; |x| -x; |x, _| -x; EXACT
    "not" "Not" Bool; |x| x; |x| 1 - x; |x, _| x.unary(UnOp::Not); EXACT
    "reciprocal" "Reciprocal" Float; |x| 1.0 / x; |x| x; |x, d| c(d, 1.0) / x; ROUNDING
    "relu" "Relu" Number; |x| if x < 0.0 { 0.0 } else { x }; |x| x.max(0); |x, d| c(d, 0.0).max(x); EXACT
    "round" "Round" Float; f64::round_ties_even; |x| x; |x, _| x.unary(UnOp::Nearest); EXACT
    "sigmoid" "Sigmoid" Float; |x| 1.0 / (1.0 + (-x).exp()); |x| x; sigmoid; MATH
    "sign" "Sign" Number; |x| if x > 0.0 { 1.0 } else if x < 0.0 { -1.0 } else { x }; i128::signum; sign; EXACT
    "sin" "Sin" Float; f64::sin; |x| x; |x, _| x.math(MathFn::Sin); MATH
    "sinh" "Sinh" Float; f64::sinh; |x| x; |x, _| x.math(MathFn::Sinh); MATH
    "softplus" "Softplus" Float; softplus64; |x| x; softplus; MATH
    "softsign" "Softsign" Float; |x| x / (1.0 + x.abs()); |x| x; |x, d| x.clone() / (c(d, 1.0) + x.unary(UnOp::Abs)); ROUNDING
    "sqrt" "Sqrt" Float; f64::sqrt; |x| x; |x, _| x.unary(UnOp::Sqrt); ROUNDING
    "tan" "Tan" Float; f64::tan; |x| x; |x, _| x.math(MathFn::Tan); MATH
    "tanh" "Tanh" Float; f64::tanh; |x| x; |x, _| x.math(MathFn::Tanh); MATH
}

impl Unary {
    /// The function called `name` in graph text.
    pub fn named(name: &str) -> Option<Unary> {
        ROWS.iter().find(|r| r.name == name).map(Unary)
    }
}

impl Operator for Unary {
    fn names() -> Vec<&'static str> {
        ROWS.iter().map(|r| r.name).collect()
    }

    fn onnx() -> Vec<OnnxName> {
        ROWS.iter().map(|r| OnnxName { domain: "", name: r.onnx, versions: &[1] }).collect()
    }

    fn name(&self) -> &'static str {
        self.0.name
    }

    fn attrs(&self) -> Attrs {
        Attrs::default()
    }

    fn parse(name: &str, attrs: Attrs) -> Result<Self, String> {
        attrs.finish()?;
        Unary::named(name).ok_or_else(|| format!("unknown function `{name}`"))
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let row = ROWS.iter().find(|r| r.onnx == node.op_type());
        let row = row.ok_or_else(|| ImportError::new("the operator is not supported"))?;
        Ok(vec![cx.op(Unary(row), &[node.input(0)?])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        self.0.takes.check(ins)?;
        Ok(vec![Fact::new(self.0.result(ins[0].dtype), ins[0].shape.clone())])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let out = Fact::of(self.0.result(ins[0].dtype()), ins[0].shape());
        let t = match ins[0].dtype().is_float() {
            true => map_broadcast(&out, [&ins[0]], |[x]| (self.0.float)(x))?,
            false => map_broadcast(&out, [&ins[0]], |[x]| (self.0.int)(x))?,
        };
        Ok(vec![t])
    }

    fn class(&self) -> OpClass {
        OpClass::Pointwise
    }

    fn scalar(&self, ins: &[DType], _: DType, args: &[Expr]) -> Option<Expr> {
        Some((self.0.expr)(args[0].clone(), ins[0]))
    }

    fn tolerance(&self) -> Tolerance {
        self.0.tolerance
    }

    fn samples() -> Vec<Sample> {
        let mut all = vec![];
        for row in ROWS {
            let range = match row.name {
                "acos" | "asin" | "atanh" => (-0.999, 0.999),
                "acosh" => (1.0, 9.0),
                "log" | "sqrt" => (0.001, 100.0),
                _ => (-6.0, 6.0),
            };
            let dtypes: &[DType] = match row.takes {
                Takes::Float => &[DType::F32, DType::F64, DType::F16],
                Takes::Number => &[DType::F32, DType::I32, DType::I8, DType::F64],
                Takes::Int => &[DType::I32, DType::U8],
                Takes::Bool | Takes::Any => &[DType::Bool],
            };
            for &d in dtypes {
                all.push(Sample::new(Unary(row), &[(d, &[3, 37])]).with_range(&[range]));
            }
        }
        all
    }
}

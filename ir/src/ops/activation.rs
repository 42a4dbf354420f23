//! Functions of one element with parameters: one row each in the table; the parameters are `alpha` and `beta`.
//!
//! ONNX: Elu, Celu, Selu, LeakyRelu, ThresholdedRelu, HardSigmoid, Shrink, Swish.

use super::util::map_broadcast;
use crate::op::{expect_dtype, expect_operands};
use crate::ops::*;
use tenon_base::Real;
use tenon_kernel::{CmpOp, MathFn};

/// Which function, and its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Activation {
    row: usize,
    alpha: Real,
    beta: Real,
}

#[derive(Debug)]
struct Row {
    name: &'static str,
    onnx: &'static str,
    versions: &'static [i64],
    /// ONNX's names and defaults of `alpha` and `beta`, which are singles there whatever the dtype.
    params: [(&'static str, f64); 2],
    float: fn(f64, f64, f64) -> f64,
    /// Of the element, its dtype, alpha and beta.
    expr: fn(Expr, DType, f64, f64) -> Expr,
    tolerance: Tolerance,
}

fn c(d: DType, v: f64) -> Expr {
    Expr::constant(d, v)
}

fn positive(x: &Expr, d: DType) -> Expr {
    x.clone().compare(CmpOp::Gt, c(d, 0.0))
}

/// `e^min(x, 0) - 1`: the other branch of a select must not overflow.
fn exp_below(x: &Expr, d: DType, scale: f64) -> Expr {
    (x.clone() * c(d, scale)).min(c(d, 0.0)).math(MathFn::Exp) - c(d, 1.0)
}

const NONE: (&str, f64) = ("", 0.0);

static ROWS: &[Row] = &[
    Row {
        name: "celu",
        onnx: "Celu",
        versions: &[12],
        params: [("alpha", 1.0), NONE],
        float: |x, a, _| x.max(0.0) + (a * ((x / a).exp() - 1.0)).min(0.0),
        expr: |x, d, a, _| positive(&x, d).select(x.clone(), c(d, a) * exp_below(&x, d, 1.0 / a)),
        tolerance: Tolerance::MATH,
    },
    Row {
        name: "elu",
        onnx: "Elu",
        versions: &[1, 6, 22],
        params: [("alpha", 1.0), NONE],
        float: |x, a, _| if x < 0.0 { a * (x.exp() - 1.0) } else { x },
        expr: |x, d, a, _| positive(&x, d).select(x.clone(), c(d, a) * exp_below(&x, d, 1.0)),
        tolerance: Tolerance::MATH,
    },
    Row {
        name: "hard_sigmoid",
        onnx: "HardSigmoid",
        versions: &[1, 6, 22],
        params: [("alpha", 0.200_000_002_980_232_24), ("beta", 0.5)],
        float: |x, a, b| (a * x + b).clamp(0.0, 1.0),
        expr: |x, d, a, b| c(d, 0.0).max(c(d, 1.0).min(x * c(d, a) + c(d, b))),
        tolerance: Tolerance::ROUNDING,
    },
    Row {
        name: "leaky_relu",
        onnx: "LeakyRelu",
        versions: &[1, 6, 16],
        params: [("alpha", 0.009_999_999_776_482_582), NONE],
        float: |x, a, _| if x < 0.0 { a * x } else { x },
        expr: |x, d, a, _| x.clone().compare(CmpOp::Lt, c(d, 0.0)).select(x.clone() * c(d, a), x),
        tolerance: Tolerance::ROUNDING,
    },
    Row {
        name: "selu",
        onnx: "Selu",
        versions: &[1, 6, 22],
        params: [("alpha", 1.673_263_192_176_818_8), ("gamma", 1.050_701_022_148_132_3)],
        float: |x, a, g| if x > 0.0 { g * x } else { g * (a * x.exp() - a) },
        expr: |x, d, a, g| c(d, g) * positive(&x, d).select(x.clone(), c(d, a) * exp_below(&x, d, 1.0)),
        tolerance: Tolerance::MATH,
    },
    Row {
        name: "shrink",
        onnx: "Shrink",
        versions: &[9],
        params: [("lambd", 0.5), ("bias", 0.0)],
        float: |x, l, b| if x < -l { x + b } else if x > l { x - b } else { 0.0 },
        expr: |x, d, l, b| {
            let below = x.clone().compare(CmpOp::Lt, c(d, -l));
            let above = x.clone().compare(CmpOp::Gt, c(d, l));
            below.select(x.clone() + c(d, b), above.select(x - c(d, b), c(d, 0.0)))
        },
        tolerance: Tolerance::ROUNDING,
    },
    Row {
        name: "swish",
        onnx: "Swish",
        versions: &[24],
        params: [("alpha", 1.0), NONE],
        float: |x, a, _| x / (1.0 + (-a * x).exp()),
        expr: |x, d, a, _| x.clone() / (c(d, 1.0) + (x * c(d, -a)).math(MathFn::Exp)),
        tolerance: Tolerance::MATH,
    },
    Row {
        name: "thresholded_relu",
        onnx: "ThresholdedRelu",
        versions: &[10, 22],
        params: [("alpha", 1.0), NONE],
        float: |x, a, _| if x > a { x } else { 0.0 },
        expr: |x, d, a, _| x.clone().compare(CmpOp::Gt, c(d, a)).select(x, c(d, 0.0)),
        tolerance: Tolerance::EXACT,
    },
];

impl Activation {
    /// The function that ONNX calls `onnx`, with its parameters or their defaults.
    pub(crate) fn of(onnx: &str, alpha: Option<f64>, beta: Option<f64>) -> Option<Activation> {
        let row = ROWS.iter().position(|r| r.onnx == onnx)?;
        let [a, b] = ROWS[row].params;
        Some(Activation { row, alpha: Real(alpha.unwrap_or(a.1)), beta: Real(beta.unwrap_or(b.1)) })
    }

    fn row(&self) -> &'static Row {
        &ROWS[self.row]
    }
}

impl Operator for Activation {
    fn names() -> Vec<&'static str> {
        ROWS.iter().map(|r| r.name).collect()
    }

    fn onnx() -> Vec<OnnxName> {
        ROWS.iter().map(|r| OnnxName { domain: "", name: r.onnx, versions: r.versions }).collect()
    }

    fn name(&self) -> &'static str {
        self.row().name
    }

    fn attrs(&self) -> Attrs {
        let mut all = Attrs::default();
        for ((name, _), v) in self.row().params.iter().zip([self.alpha, self.beta]) {
            if !name.is_empty() {
                all.0.insert((*name).to_string(), crate::Attr::Real(v));
            }
        }
        all
    }

    fn parse(name: &str, mut attrs: Attrs) -> Result<Self, String> {
        let row = ROWS.iter().position(|r| r.name == name).ok_or_else(|| format!("unknown function `{name}`"))?;
        let mut take = |p: &str| if p.is_empty() { Ok(Real(0.0)) } else { attrs.take::<Real>(p) };
        let [(a, _), (b, _)] = ROWS[row].params;
        let out = Activation { row, alpha: take(a)?, beta: take(b)? };
        attrs.finish()?;
        Ok(out)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let row = ROWS.iter().position(|r| r.onnx == node.op_type());
        let row = row.ok_or_else(|| ImportError::new("the operator is not supported"))?;
        let read = |(name, default): (&str, f64)| -> Result<Real, ImportError> {
            Ok(Real(node.opt_float(name)?.map_or(default, f64::from)))
        };
        let [mut a, mut b] = ROWS[row].params;
        if node.op_type() == "Selu" && node.opset < 6 {
            (a.1, b.1) = (f64::from(1.6732_f32), f64::from(1.0507_f32));
        }
        let op = Activation { row, alpha: read(a)?, beta: read(b)? };
        Ok(vec![cx.op(op, &[node.input(0)?])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        // Shrink takes any number; the others floats.
        let integers = self.row().name == "shrink";
        expect_dtype(ins, 0, |d| d.is_float() || (integers && d.is_int()), "a float dtype")?;
        Ok(vec![ins[0].clone()])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let out = ins[0].fact();
        let f = self.row().float;
        Ok(vec![map_broadcast(&out, [&ins[0]], |[x]| f(x, self.alpha.0, self.beta.0))?])
    }

    fn class(&self) -> OpClass {
        OpClass::Pointwise
    }

    fn scalar(&self, ins: &[DType], _: DType, args: &[Expr]) -> Option<Expr> {
        let f = self.row().expr;
        if ins[0].is_int() {
            // Parameters need not be integers.
            let y = f(args[0].clone().cast(DType::F64), DType::F64, self.alpha.0, self.beta.0);
            return Some(y.cast(ins[0]));
        }
        Some(f(args[0].clone(), ins[0], self.alpha.0, self.beta.0))
    }

    fn tolerance(&self) -> Tolerance {
        self.row().tolerance
    }

    fn samples() -> Vec<Sample> {
        let mut all = vec![];
        for (row, r) in ROWS.iter().enumerate() {
            let op = Activation { row, alpha: Real(r.params[0].1), beta: Real(r.params[1].1) };
            for d in [DType::F32, DType::F64, DType::F16] {
                all.push(Sample::new(op, &[(d, &[3, 37])]).with_range(&[(-6.0, 6.0)]));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::ROWS;

    #[test]
    fn defaults_are_singles() {
        for (name, v) in ROWS.iter().flat_map(|r| r.params) {
            assert_eq!(f64::from(v as f32), v, "{name}: a model that states its default would differ in f64");
        }
    }
}

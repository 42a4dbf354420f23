//! IsInf: whether an element is infinite, of either sign or of one. ONNX: [IsInf](https://onnx.ai/onnx/operators/onnx__IsInf.html) (10, 20).

use super::util::map_broadcast;
use crate::op::{expect_dtype, expect_operands};
use crate::ops::*;
use tenon_kernel::{BinOp, CmpOp};

crate::attributes! {
    /// The test.
    pub struct IsInf {
        /// -∞ counts.
        pub negative: bool,
        /// +∞ counts.
        pub positive: bool,
    }
}

impl Operator for IsInf {
    fn names() -> Vec<&'static str> {
        vec!["is_inf"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "IsInf", versions: &[10, 20] }]
    }

    fn name(&self) -> &'static str {
        "is_inf"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        IsInf::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let op = IsInf {
            negative: node.int("detect_negative", 1)? != 0,
            positive: node.int("detect_positive", 1)? != 0,
        };
        Ok(vec![cx.op(op, &[node.input(0)?])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        expect_dtype(ins, 0, DType::is_float, "a float dtype")?;
        Ok(vec![Fact::new(DType::Bool, ins[0].shape.clone())])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let out = Fact::of(DType::Bool, ins[0].shape());
        let test = |x: f64| (self.negative && x == f64::NEG_INFINITY) || (self.positive && x == f64::INFINITY);
        Ok(vec![map_broadcast(&out, [&ins[0]], |[x]| i128::from(test(x)))?])
    }

    fn class(&self) -> OpClass {
        OpClass::Pointwise
    }

    fn scalar(&self, ins: &[DType], _: DType, args: &[Expr]) -> Option<Expr> {
        let is = |v: f64| args[0].clone().compare(CmpOp::Eq, Expr::constant(ins[0], v));
        Some(match (self.negative, self.positive) {
            (true, true) => is(f64::NEG_INFINITY).binary(BinOp::Or, is(f64::INFINITY)),
            (true, false) => is(f64::NEG_INFINITY),
            (false, true) => is(f64::INFINITY),
            (false, false) => Expr::constant(DType::Bool, 0.0),
        })
    }

    fn samples() -> Vec<Sample> {
        let t = |negative, positive| IsInf { negative, positive };
        // Halves of this size round to infinity.
        let r = [(-1e5, 1e5)];
        vec![
            Sample::new(t(true, true), &[(DType::F16, &[3, 37])]).with_range(&r),
            Sample::new(t(true, false), &[(DType::F16, &[19])]).with_range(&r),
            Sample::new(t(false, true), &[(DType::F16, &[19])]).with_range(&r),
            Sample::new(t(false, false), &[(DType::F32, &[19])]),
            Sample::new(t(true, true), &[(DType::F64, &[0, 3])]),
        ]
    }
}

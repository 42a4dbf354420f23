//! BitCast: the same bits as another dtype of the same size. ONNX: [BitCast](https://onnx.ai/onnx/operators/onnx__BitCast.html) (26).

use crate::import::dtype_of_code;
use crate::op::expect_operands;
use crate::ops::*;

crate::attributes! {
    /// Reinterpretation as `to`.
    pub struct BitCast {
        /// The result's dtype; as many bytes as the operand's.
        pub to: DType,
    }
}

impl Operator for BitCast {
    fn names() -> Vec<&'static str> {
        vec!["bitcast"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "BitCast", versions: &[26] }]
    }

    fn name(&self) -> &'static str {
        "bitcast"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        BitCast::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let x = node.input(0)?;
        let to = dtype_of_code(node.int("to", 0)?)?;
        if cx.dtype(x) == to {
            return Ok(vec![x]);
        }
        // The byte of a `bool` is 0 or 1: its value.
        if cx.dtype(x) == DType::Bool && to.size() == 1 && !to.is_stored() {
            return Ok(vec![super::util::cast(cx, x, to)?]);
        }
        Ok(vec![cx.op(BitCast { to }, &[x])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        let from = ins[0].dtype;
        // A `bool` has two values, not 256; half floats are computed as `f32`, which would change their bits.
        let plain = |d: DType| d != DType::Bool && d != DType::F16 && !d.is_stored();
        if from.size() != self.to.size() || !plain(from) || !plain(self.to) {
            return Err(InferError::new(format!("cannot reinterpret {from} as {}", self.to)));
        }
        Ok(vec![Fact::new(self.to, ins[0].shape.clone())])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let t = Tensor::from_bytes(self.to, ins[0].shape(), ins[0].bytes().clone());
        Ok(vec![t.map_err(|e| e.to_string())?])
    }

    fn class(&self) -> OpClass {
        OpClass::Pointwise
    }

    fn scalar(&self, _: &[DType], out: DType, args: &[Expr]) -> Option<Expr> {
        Some(args[0].clone().bitcast(out))
    }

    fn samples() -> Vec<Sample> {
        let to = |to| BitCast { to };
        vec![
            Sample::new(to(DType::I32), &[(DType::F32, &[3, 7])]),
            Sample::new(to(DType::F64), &[(DType::U64, &[5])]),
            Sample::new(to(DType::U8), &[(DType::I8, &[2, 9])]).with_range(&[(-100.0, 100.0)]),
        ]
    }
}

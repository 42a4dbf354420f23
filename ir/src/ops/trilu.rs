//! Trilu: keeps the upper or lower triangle of the last two axes, zero elsewhere.
//!
//! ONNX: [Trilu](https://onnx.ai/onnx/operators/onnx__Trilu.html) (14). Kept are elements with `column - row ≥ k` (upper) or `≤ k` (lower).

use super::util::gather_elements;
use crate::op::expect_operands;
use crate::ops::*;
use tenon_kernel::CmpOp;

crate::attributes! {
    /// A triangle of matrices.
    pub struct Trilu {
        /// Keep what is on and right of diagonal `k`; else what is on and left of it.
        pub upper: bool,
        /// Which diagonal: 0 is the main one, positive ones are right of it.
        pub k: i64,
    }
}

impl Operator for Trilu {
    fn names() -> Vec<&'static str> {
        vec!["trilu"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "Trilu", versions: &[14] }]
    }

    fn name(&self) -> &'static str {
        "trilu"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Trilu::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let x = node.input(0)?;
        let k = match node.opt_input(1) {
            None => 0,
            Some(v) => cx.constant_ints(v, "k")?.first().copied().unwrap_or(0),
        };
        // Beyond the matrix all diagonals are alike; this keeps the arithmetic on indices small.
        let k = k.clamp(-(1 << 40), 1 << 40);
        Ok(vec![cx.op(Trilu { upper: node.int("upper", 1)? != 0, k }, &[x])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        if ins[0].shape.rank() < 2 {
            return Err(InferError::new(format!("expected an operand of rank 2 or more, found {}", ins[0].shape)));
        }
        Ok(vec![ins[0].clone()])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let dims = ins[0].shape();
        let r = dims.len();
        let s = crate::lower::strides(dims);
        let keep = |i: &[usize]| {
            let diagonal = i[r - 1] as i64 - i[r - 2] as i64;
            if self.upper { diagonal >= self.k } else { diagonal <= self.k }
        };
        let from = |i: &[usize]| keep(i).then(|| i.iter().zip(&s).map(|(i, s)| i * s).sum());
        Ok(vec![gather_elements(&ins[0], dims, None, from)])
    }

    fn class(&self) -> OpClass {
        OpClass::Move
    }

    fn source(&self, _: &[Fact], _: &Fact, index: &[Expr]) -> Option<Source> {
        let r = index.len();
        let diagonal = index[r - 1].clone() - index[r - 2].clone();
        let op = if self.upper { CmpOp::Ge } else { CmpOp::Le };
        Some(Source { index: index.to_vec(), inside: Some(diagonal.compare(op, Expr::int(self.k))), fill: 0.0 })
    }

    fn samples() -> Vec<Sample> {
        let t = |upper, k| Trilu { upper, k };
        vec![
            Sample::new(t(true, 0), &[(DType::F32, &[2, 4, 5])]),
            Sample::new(t(false, -1), &[(DType::I64, &[5, 3])]),
            Sample::new(t(true, 7), &[(DType::Bool, &[3, 3])]),
        ]
    }
}

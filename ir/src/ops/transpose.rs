//! Transpose: permutes axes. ONNX: [Transpose](https://onnx.ai/onnx/operators/onnx__Transpose.html) (1, 13, 21, 23).
//!
//! `out[i_0, …] = in[j]` with `j[perm[a]] = i_a`.

use super::util::{strided_elements, strides};
use crate::op::expect_operands;
use crate::ops::*;
use tenon_base::Shape;

crate::attributes! {
    /// Axis `a` of the result is axis `perm[a]` of the operand.
    pub struct Transpose {
        /// A permutation of `0..rank`.
        pub perm: Vec<usize>,
    }
}

impl Operator for Transpose {
    fn names() -> Vec<&'static str> {
        vec!["transpose"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "Transpose", versions: &[1, 13, 21, 23] }]
    }

    fn name(&self) -> &'static str {
        "transpose"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Transpose::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let x = node.input(0)?;
        let rank = cx.rank(x);
        let perm = match node.opt_ints("perm")? {
            None => (0..rank).rev().collect(),
            Some(p) => p
                .iter()
                .map(|&a| usize::try_from(a))
                .collect::<Result<Vec<usize>, _>>()
                .map_err(|_| ImportError::new(format!("expected a permutation of the axes, found {p:?}")))?,
        };
        Ok(vec![cx.op(Transpose { perm }, &[x])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        let shape = &ins[0].shape;
        let mut sorted = self.perm.clone();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..shape.rank()) {
            return Err(InferError::new(format!(
                "expected a permutation of the {} axes of {shape}, found {:?}",
                shape.rank(),
                self.perm
            )));
        }
        let to = self.perm.iter().map(|&a| shape.0[a].clone()).collect();
        Ok(vec![Fact::new(ins[0].dtype, Shape(to))])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let s = strides(ins[0].shape());
        let out: Vec<usize> = self.perm.iter().map(|&a| ins[0].shape()[a]).collect();
        let along: Vec<i64> = self.perm.iter().map(|&a| s[a] as i64).collect();
        Ok(vec![strided_elements(&ins[0], &out, 0, &along)?])
    }

    fn class(&self) -> OpClass {
        OpClass::Move
    }

    fn source(&self, _: &[Fact], _: &Fact, index: &[Expr]) -> Option<Source> {
        let mut at = vec![Expr::int(0); index.len()];
        for (i, &a) in index.iter().zip(&self.perm) {
            at[a] = i.clone();
        }
        Some(Source::at(at))
    }

    fn samples() -> Vec<Sample> {
        let t = |p: &[usize]| Transpose { perm: p.to_vec() };
        vec![
            Sample::new(t(&[1, 0]), &[(DType::F32, &[3, 5])]),
            Sample::new(t(&[0, 2, 3, 1]), &[(DType::F32, &[2, 3, 4, 5])]),
            Sample::new(t(&[2, 0, 1]), &[(DType::U8, &[3, 1, 7])]),
            Sample::new(t(&[]), &[(DType::I64, &[])]),
            // Squares of words in registers of any size, with and without what is left beside them.
            Sample::new(t(&[1, 0]), &[(DType::F32, &[16, 32])]),
            Sample::new(t(&[1, 0]), &[(DType::F32, &[37, 19])]),
            Sample::new(t(&[0, 2, 1]), &[(DType::I32, &[2, 33, 9])]),
            Sample::new(t(&[0, 3, 1, 2]), &[(DType::F32, &[2, 3, 17, 24])]),
            Sample::new(t(&[2, 1, 0]), &[(DType::F32, &[7, 2, 4])]),
        ]
    }
}

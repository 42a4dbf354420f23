//! Where: `condition ? x : y` with broadcasting. ONNX: [Where](https://onnx.ai/onnx/operators/onnx__Where.html) (9, 16).

use super::util::{for_each_row, push_elements};
use crate::op::{expect_dtype, expect_operands, expect_same_dtype};
use crate::ops::*;

crate::attributes! {
    /// Chooses element by element.
    pub struct Where {}
}

impl Operator for Where {
    fn names() -> Vec<&'static str> {
        vec!["where"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "Where", versions: &[9, 16] }]
    }

    fn name(&self) -> &'static str {
        "where"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Where::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        Ok(vec![cx.op(Where {}, &[node.input(0)?, node.input(1)?, node.input(2)?])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 3..=3)?;
        expect_dtype(ins, 0, |d| d == DType::Bool, "bool")?;
        expect_same_dtype(ins, 1, 2)?;
        let fail = |(a, b)| {
            let shapes = ins.iter().map(|f| f.shape.to_string()).collect::<Vec<_>>().join(", ");
            InferError::new(format!("{shapes} do not broadcast: {a} against {b}"))
        };
        let shape = ins[0].shape.broadcast(&ins[1].shape).map_err(fail)?;
        let shape = shape.broadcast(&ins[2].shape).map_err(fail)?;
        Ok(vec![Fact::new(ins[1].dtype, shape)])
    }

    fn infer_dims(&self, ins: &[Option<Vec<Dim>>], facts: &[Fact]) -> Option<Vec<Dim>> {
        let (c, a, b) = (ins[0].as_ref()?, ins[1].as_ref()?, ins[2].as_ref()?);
        let n = c.len().max(a.len()).max(b.len());
        if !facts[1].dtype.is_int() || [c, a, b].iter().any(|v| v.len() != n && v.len() != 1) {
            return None;
        }
        let pick = |i: usize| Some(if c[i % c.len()].as_const()? != 0 { &a[i % a.len()] } else { &b[i % b.len()] }.clone());
        (0..n).map(pick).collect()
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let facts: Vec<Fact> = ins.iter().map(Tensor::fact).collect();
        let out = self.infer(&facts).map_err(|e| e.message)?.remove(0);
        let dims = out.dims().ok_or("the shape is not known")?;
        let size = out.dtype.size();
        let mut data = Vec::with_capacity(dims.iter().product::<usize>() * size);
        for_each_row(&dims, &[ins[0].shape(), ins[1].shape(), ins[2].shape()], |len, [(c, k), (a, i), (b, j)]| {
            for e in 0..len {
                let (from, at) = match ins[0].bytes()[c + e * k] {
                    0 => (&ins[2], b + e * j),
                    _ => (&ins[1], a + e * i),
                };
                push_elements(&mut data, from.bytes(), size, [at]);
            }
        });
        Ok(vec![Tensor::from_bytes(out.dtype, &dims, data.into()).map_err(|e| e.to_string())?])
    }

    fn class(&self) -> OpClass {
        OpClass::Pointwise
    }

    fn scalar(&self, _: &[DType], _: DType, args: &[Expr]) -> Option<Expr> {
        Some(args[0].clone().select(args[1].clone(), args[2].clone()))
    }

    fn samples() -> Vec<Sample> {
        let b = DType::Bool;
        vec![
            Sample::new(Where {}, &[(b, &[4, 19]), (DType::F32, &[4, 19]), (DType::F32, &[4, 19])]),
            Sample::new(Where {}, &[(b, &[2, 1, 5]), (DType::I64, &[]), (DType::I64, &[3, 1])]),
            Sample::new(Where {}, &[(b, &[7]), (DType::F16, &[7]), (DType::F16, &[1])]),
            Sample::new(Where {}, &[(b, &[7]), (b, &[7]), (b, &[1])]),
            Sample::new(Where {}, &[(b, &[3, 7]), (DType::U8, &[7]), (DType::U8, &[3, 1])]),
        ]
    }
}

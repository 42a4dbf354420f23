//! Where a tensor is not zero: a list of indices as long as the tensor has elements that are not, within a result that has
//! room for all; and how many there are.
//!
//! ONNX: [NonZero](https://onnx.ai/onnx/operators/onnx__NonZero.html), imported with Compress.

use super::util::{Counted, for_each_index, loop_over};
use crate::lower::{unflatten, widen};
use crate::op::expect_operands;
use crate::ops::*;
use tenon_base::Shape;
use tenon_kernel::{CmpOp, Stmt, Type};

crate::attributes! {
    /// See the module.
    pub struct NonZero {}
}

/// A scalar is a vector of one element.
fn vector(dims: &[usize]) -> Vec<usize> {
    if dims.is_empty() { vec![1] } else { dims.to_vec() }
}

impl Operator for NonZero {
    fn names() -> Vec<&'static str> {
        vec!["nonzero"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![]
    }

    fn name(&self) -> &'static str {
        "nonzero"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        NonZero::from_attrs(attrs)
    }

    fn import(_: &OnnxNode<'_>, _: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        Err(ImportError::new("imported with Compress"))
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        let rank = ins[0].shape.rank().max(1);
        let indices = Shape(vec![Dim::from(rank), ins[0].shape.numel()]);
        Ok(vec![Fact::new(DType::I64, indices), Fact::of(DType::I64, &[])])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let dims = vector(ins[0].shape());
        let n = ins[0].len();
        let mut all = vec![0i64; dims.len() * n];
        let (mut count, mut values) = (0, ins[0].scalars());
        for_each_index(&dims, |index| {
            if values.next().is_some_and(|v| v.as_f64() != 0.0) {
                index.iter().enumerate().for_each(|(a, i)| all[a * n + count] = *i as i64);
                count += 1;
            }
        });
        Ok(vec![Tensor::new(&[dims.len(), n], &all), Tensor::scalar(count as i64)])
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let dims = vector(&cx.in_dims(0));
        let n: usize = dims.iter().product();
        let counted = Counted::begin(cx, &[0]);
        let i = cx.k.fresh("i", Type::INDEX);
        let x = widen(cx.load_flat(0, Expr::Var(i)), cx.in_dtype(0));
        let hit = match cx.in_dtype(0) {
            DType::Bool => x,
            d => x.compare(CmpOp::Ne, Expr::constant(crate::lower::wide(d), 0.0)),
        };
        let mut then = vec![];
        for (a, index) in unflatten(&Expr::Var(i), &dims).into_iter().enumerate() {
            then.push(counted.store(cx, 0, counted.slot(n) + (a * n) as i64, index));
        }
        then.push(counted.next());
        cx.k.push(loop_over(i, n, false, vec![Stmt::If { cond: hit, then, otherwise: vec![] }]));
        counted.end(cx, 1);
        Ok(())
    }

    fn samples() -> Vec<Sample> {
        vec![
            Sample::new(NonZero {}, &[(DType::Bool, &[3, 5])]),
            Sample::new(NonZero {}, &[(DType::I32, &[2, 3, 4])]).with_range(&[(-1.0, 2.0)]),
            Sample::new(NonZero {}, &[(DType::F32, &[])]),
            Sample::new(NonZero {}, &[(DType::F16, &[7])]),
            Sample::new(NonZero {}, &[(DType::F32, &[0, 2])]),
        ]
    }
}

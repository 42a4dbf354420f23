//! The slices along an axis for which a condition holds, in front, then slices of zeros; and how many there are.
//!
//! ONNX: [Compress](https://onnx.ai/onnx/operators/onnx__Compress.html) with a condition that is computed.

use super::util::{Counted, loop_over};
use crate::op::expect_operands;
use crate::ops::*;
use tenon_base::Scalar;
use tenon_kernel::{Stmt, Type};

crate::attributes! {
    /// See the module.
    pub struct Choose {
        /// Which axis.
        pub axis: usize,
    }
}

impl Choose {
    /// Slices in front of the axis, along it in the operand and in the result, elements behind it.
    fn extents(&self, x: &[usize], y: &[usize]) -> [usize; 4] {
        [x[..self.axis].iter().product(), x[self.axis], y[self.axis], x[self.axis + 1..].iter().product()]
    }
}

impl Operator for Choose {
    fn names() -> Vec<&'static str> {
        vec!["compress"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![]
    }

    fn name(&self) -> &'static str {
        "compress"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Choose::from_attrs(attrs)
    }

    fn import(_: &OnnxNode<'_>, _: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        Err(ImportError::new("imported with Compress"))
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 2..=2)?;
        if self.axis >= ins[0].shape.rank() {
            return Err(InferError::new(format!("axis {} is out of range for {}", self.axis, ins[0])));
        }
        if ins[1].dtype != DType::Bool || ins[1].shape.rank() != 1 {
            return Err(InferError::new(format!("the condition: expected a vector of bool, found {}", ins[1])));
        }
        let mut out = ins[0].clone();
        let (n, m) = (&ins[0].shape.0[self.axis], &ins[1].shape.0[0]);
        if let (Some(n), Some(m)) = (n.as_const(), m.as_const()) {
            if m > n {
                return Err(InferError::new(format!("the condition has {m} elements, axis {} has {n}", self.axis)));
            }
            out.shape.0[self.axis] = Dim::Const(m);
        }
        Ok(vec![out, Fact::of(DType::I64, &[])])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let mut dims = ins[0].shape().to_vec();
        dims[self.axis] = ins[1].len();
        let [outer, n, m, inner] = self.extents(ins[0].shape(), &dims);
        let chosen: Vec<usize> = (0..ins[1].len()).filter(|i| ins[1].get(*i).as_int() != 0).collect();
        let zero = Scalar::of_int(ins[0].dtype(), 0);
        let mut all = vec![];
        for o in 0..outer {
            for k in 0..m {
                let from = chosen.get(k);
                all.extend((0..inner).map(|j| from.map_or(zero, |i| ins[0].get((o * n + i) * inner + j))));
            }
        }
        Ok(vec![Tensor::from_scalars(ins[0].dtype(), &dims, all), Tensor::scalar(chosen.len() as i64)])
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let [outer, n, m, inner] = self.extents(&cx.in_dims(0), &cx.out_dims(0));
        let counted = Counted::begin(cx, &[0]);
        let [i, o, j] = ["i", "o", "j"].map(|name| cx.k.fresh(name, Type::INDEX));
        let hit = cx.load_flat(1, Expr::Var(i));
        let x = cx.load_flat(0, (Expr::Var(o) * n + Expr::Var(i)) * inner + Expr::Var(j));
        let at = (Expr::Var(o) * m + counted.slot(m)) * inner + Expr::Var(j);
        let copy = counted.store(cx, 0, at, x);
        let copy = loop_over(o, outer, false, vec![loop_over(j, inner, false, vec![copy])]);
        let then = vec![copy, counted.next()];
        cx.k.push(loop_over(i, m, false, vec![Stmt::If { cond: hit, then, otherwise: vec![] }]));
        counted.end(cx, 1);
        Ok(())
    }

    fn samples() -> Vec<Sample> {
        let c = |axis| Choose { axis };
        vec![
            Sample::new(c(1), &[(DType::F32, &[2, 5, 3]), (DType::Bool, &[4])]),
            Sample::new(c(0), &[(DType::I64, &[7]), (DType::Bool, &[7])]),
            Sample::new(c(0), &[(DType::F16, &[3, 4]), (DType::Bool, &[0])]),
        ]
    }
}

//! Cumulate: running sums and products along one axis.
//!
//! ONNX: [CumSum](https://onnx.ai/onnx/operators/onnx__CumSum.html) (11, 14) and
//! [CumProd](https://onnx.ai/onnx/operators/onnx__CumProd.html) (26). `y[i] = x[0] ⊕ … ⊕ x[i]`; `exclusive` leaves out `x[i]`, `reverse` begins
//! at the end.

use super::util::{loop_over, strides};
use crate::lower::{flatten, wide};
use crate::op::{expect_dtype, expect_operands, resolve_axis};
use crate::ops::*;
use tenon_base::Scalar;
use tenon_kernel::{Stmt, Type, Var};

crate::attributes! {
    /// Running sums along `axis`.
    pub struct Cumulate {
        /// Which axis.
        pub axis: usize,
        /// Products instead of sums.
        pub product: bool,
        /// Without the element itself.
        pub exclusive: bool,
        /// From the last element to the first.
        pub reverse: bool,
    }
}

impl Operator for Cumulate {
    fn names() -> Vec<&'static str> {
        vec!["cumulate"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![
            OnnxName { domain: "", name: "CumSum", versions: &[11, 14] },
            OnnxName { domain: "", name: "CumProd", versions: &[26] },
        ]
    }

    fn name(&self) -> &'static str {
        "cumulate"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Cumulate::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let x = node.input(0)?;
        let axis = cx.constant_ints(node.input(1)?, "axis")?;
        let &[axis] = &axis[..] else {
            return Err(ImportError::new(format!("axis: expected one number, found {}", axis.len())));
        };
        let op = Cumulate {
            axis: resolve_axis(axis, cx.rank(x))?,
            product: node.op_type() == "CumProd",
            exclusive: node.int("exclusive", 0)? != 0,
            reverse: node.int("reverse", 0)? != 0,
        };
        Ok(vec![cx.op(op, &[x])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        expect_dtype(ins, 0, |d| d != DType::Bool, "a number dtype")?;
        resolve_axis(self.axis as i64, ins[0].shape.rank())?;
        Ok(vec![ins[0].clone()])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let (dims, dtype) = (ins[0].shape(), ins[0].dtype());
        let (n, s) = (dims[self.axis], strides(dims)[self.axis]);
        let x: Vec<Scalar> = ins[0].scalars().collect();
        let mut y = x.clone();
        for start in (0..x.len()).filter(|i| n > 0 && i / s % n == 0) {
            let identity = if self.product { 1 } else { 0 };
            let (mut float, mut int) = (f64::from(identity), i128::from(identity));
            for k in 0..n {
                let at = start + s * if self.reverse { n - 1 - k } else { k };
                let before = (float, int);
                if self.product {
                    float *= x[at].as_f64();
                    int = Scalar::of_int(dtype, int.wrapping_mul(x[at].as_int())).as_int();
                } else {
                    float += x[at].as_f64();
                    int = int.wrapping_add(x[at].as_int());
                }
                let (float, int) = if self.exclusive { before } else { (float, int) };
                y[at] = if dtype.is_float() { Scalar::of_f64(dtype, float) } else { Scalar::of_int(dtype, int) };
            }
        }
        Ok(vec![Tensor::from_scalars(dtype, dims, y)])
    }

    fn permuted(&self, perm: &[usize], _: &[Fact]) -> Option<Op> {
        Some(Op::Cumulate(Cumulate { axis: perm[self.axis], ..self.clone() }))
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let dims = cx.in_dims(0);
        let d = wide(cx.in_dtype(0));
        let vars: Vec<Var> = (0..dims.len()).map(|i| cx.k.fresh(&format!("i{i}"), Type::INDEX)).collect();
        let mut index: Vec<Expr> = vars.iter().map(|v| Expr::Var(*v)).collect();
        if self.reverse {
            index[self.axis] = Expr::int(dims[self.axis] as i64 - 1) - index[self.axis].clone();
        }
        let acc = cx.k.fresh("acc", Type::scalar(d));
        let (x, sum) = (cx.load_wide(0, &index), Expr::Var(acc));
        let next = if self.product { sum * x } else { sum + x };
        let next = Stmt::Set { var: acc, value: next };
        let (buf, at, value) = cx.write(0, flatten(&index, &dims), Expr::Var(acc));
        let store = Stmt::Store { buf, index: at, value };
        let inner = if self.exclusive { vec![store, next] } else { vec![next, store] };
        let identity = Expr::constant(d, if self.product { 1.0 } else { 0.0 });
        let mut body = vec![
            Stmt::Declare { var: acc, value: identity },
            loop_over(vars[self.axis], dims[self.axis], false, inner),
        ];
        for a in (0..dims.len()).rev().filter(|a| *a != self.axis) {
            body = vec![loop_over(vars[a], dims[a], true, body)];
        }
        body.into_iter().for_each(|s| cx.k.push(s));
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::SUM
    }

    fn samples() -> Vec<Sample> {
        let c = |axis, product, exclusive, reverse| Cumulate { axis, product, exclusive, reverse };
        vec![
            Sample::new(c(0, false, false, false), &[(DType::F32, &[37])]),
            Sample::new(c(1, false, true, false), &[(DType::F64, &[2, 5, 3])]),
            Sample::new(c(1, false, false, true), &[(DType::I32, &[4, 9])]),
            Sample::new(c(0, false, true, true), &[(DType::U8, &[5, 3])]).with_range(&[(0.0, 200.0)]),
            Sample::new(c(1, true, false, false), &[(DType::F32, &[3, 6])]),
            Sample::new(c(0, true, true, true), &[(DType::I16, &[9, 2])]),
            Sample::new(c(1, false, false, false), &[(DType::F16, &[2, 4])]),
            Sample::new(c(1, false, false, false), &[(DType::F32, &[2, 0])]),
        ]
    }
}

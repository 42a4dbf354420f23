//! ReverseSequence: the first elements of every batch element in reverse, the rest as they are.
//!
//! ONNX: [ReverseSequence](https://onnx.ai/onnx/operators/onnx__ReverseSequence.html) (10).
//! `out[t, b, …] = x[t < len[b] ? len[b] - 1 - t : t, b, …]`. Lengths that ONNX forbids are clamped to the extent.

use super::util::{for_each_index, loop_over};
use crate::lower::{flatten, strides};
use crate::op::{expect_dtype, expect_operands, resolve_axis};
use crate::ops::*;
use tenon_base::Shape;
use tenon_kernel::{CmpOp, Stmt, Type};

crate::attributes! {
    /// Operands: data and lengths (`i64`), one a batch element.
    pub struct ReverseSequence {
        /// The axis of batch elements.
        pub batch_axis: usize,
        /// The axis that is reversed.
        pub time_axis: usize,
    }
}

impl Operator for ReverseSequence {
    fn names() -> Vec<&'static str> {
        vec!["reverse_sequence"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "ReverseSequence", versions: &[10] }]
    }

    fn name(&self) -> &'static str {
        "reverse_sequence"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        ReverseSequence::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let x = node.input(0)?;
        let rank = cx.rank(x);
        let op = ReverseSequence {
            batch_axis: resolve_axis(node.int("batch_axis", 1)?, rank)?,
            time_axis: resolve_axis(node.int("time_axis", 0)?, rank)?,
        };
        Ok(vec![cx.op(op, &[x, node.input(1)?])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 2..=2)?;
        expect_dtype(ins, 1, |d| d == DType::I64, "i64")?;
        let x = &ins[0].shape;
        resolve_axis(self.batch_axis as i64, x.rank())?;
        resolve_axis(self.time_axis as i64, x.rank())?;
        if self.batch_axis == self.time_axis {
            return Err(InferError::new(format!("expected two axes, found {} twice", self.time_axis)));
        }
        let expected = Shape(vec![x.0[self.batch_axis].clone()]);
        if ins[1].shape != expected {
            return Err(InferError::new(format!("expected lengths of {expected}, found {}", ins[1].shape)));
        }
        Ok(vec![ins[0].clone()])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let dims = ins[0].shape();
        let (s, size) = (strides(dims), ins[0].dtype().size());
        let n = dims[self.time_axis];
        let lengths: Vec<usize> = ins[1].to_i64().into_iter().map(|l| l.clamp(0, n as i64) as usize).collect();
        let mut data = Vec::with_capacity(ins[0].len() * size);
        for_each_index(dims, |i| {
            let (t, len) = (i[self.time_axis], lengths[i[self.batch_axis]]);
            let from = if t < len { len - 1 - t } else { t };
            let at: usize = i.iter().zip(&s).map(|(i, s)| i * s).sum();
            let at = at - t * s[self.time_axis] + from * s[self.time_axis];
            data.extend_from_slice(&ins[0].bytes()[at * size..(at + 1) * size]);
        });
        Ok(vec![Tensor::from_bytes(ins[0].dtype(), dims, data.into()).map_err(|e| e.to_string())?])
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let dims = cx.in_dims(0);
        if dims.contains(&0) {
            return Ok(());
        }
        let last = dims[self.time_axis] as i64 - 1;
        let vars: Vec<_> = (0..dims.len()).map(|a| cx.k.fresh(&format!("i{a}"), Type::INDEX)).collect();
        let index: Vec<Expr> = vars.iter().map(|v| Expr::Var(*v)).collect();
        let (len, from) = (cx.k.fresh("len", Type::INDEX), cx.k.fresh("from", Type::INDEX));
        let t = index[self.time_axis].clone();
        let length = cx.load_flat(1, index[self.batch_axis].clone()).clamp(0, last + 1);
        let reversed = t.clone().compare(CmpOp::Lt, Expr::Var(len));
        let reversed = reversed.select(Expr::Var(len) - 1i64 - t.clone(), t).clamp(0, last);
        let mut at = index.clone();
        at[self.time_axis] = Expr::Var(from);
        let (buf, flat, value) = cx.write(0, flatten(&index, &dims), cx.load(0, &at));
        let mut body = vec![
            Stmt::Let { var: len, value: length },
            Stmt::Let { var: from, value: reversed },
            Stmt::Store { buf, index: flat, value },
        ];
        for (&var, &n) in vars.iter().zip(&dims).rev() {
            body = vec![loop_over(var, n, true, body)];
        }
        body.into_iter().for_each(|s| cx.k.push(s));
        Ok(())
    }

    fn samples() -> Vec<Sample> {
        let r = |batch_axis, time_axis| ReverseSequence { batch_axis, time_axis };
        let f = DType::F32;
        vec![
            Sample::new(r(1, 0), &[(f, &[8, 5]), (DType::I64, &[5])]),
            Sample::new(r(0, 1), &[(DType::F16, &[4, 7, 3]), (DType::I64, &[4])]),
            Sample::new(r(0, 2), &[(DType::I32, &[2, 3, 9]), (DType::I64, &[2])]),
            Sample::new(r(1, 0), &[(f, &[3, 0]), (DType::I64, &[0])]),
        ]
    }
}

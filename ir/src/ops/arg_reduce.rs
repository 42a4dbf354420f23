//! ArgMax and ArgMin: the position of the largest or smallest element along an axis.
//!
//! ONNX: [ArgMax](https://onnx.ai/onnx/operators/onnx__ArgMax.html), [ArgMin](https://onnx.ai/onnx/operators/onnx__ArgMin.html) (1, 11, 12, 13).

use super::reshape::Reshape;
use super::util::{for_each_index, loop_over};
use crate::lower::flatten;
use crate::op::{expect_dtype, expect_operands, resolve_axis};
use crate::ops::*;
use tenon_base::Shape;
use tenon_kernel::{CmpOp, Stmt, Type};

crate::attributes! {
    /// Positions (`i64`) along `axis`, whose extent becomes 1.
    pub struct ArgReduce {
        /// Which axis.
        pub axis: usize,
        /// The largest; else the smallest.
        pub max: bool,
        /// Of equal elements the last; else the first.
        pub last: bool,
    }
}

impl Operator for ArgReduce {
    fn names() -> Vec<&'static str> {
        vec!["arg_reduce"]
    }

    fn onnx() -> Vec<OnnxName> {
        ["ArgMax", "ArgMin"].map(|name| OnnxName { domain: "", name, versions: &[1, 11, 12, 13] }).to_vec()
    }

    fn name(&self) -> &'static str {
        "arg_reduce"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        ArgReduce::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let x = node.input(0)?;
        let shape = cx.shape(x).clone();
        let axis = resolve_axis(node.int("axis", 0)?, shape.rank())?;
        let last = node.int("select_last_index", 0)? != 0;
        let y = cx.op(ArgReduce { axis, max: node.op_type() == "ArgMax", last }, &[x])?;
        if node.int("keepdims", 1)? != 0 {
            return Ok(vec![y]);
        }
        let mut to = shape;
        to.0.remove(axis);
        Ok(vec![cx.op(Reshape { to }, &[y])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        expect_dtype(ins, 0, |d| d != DType::Bool, "a number dtype")?;
        let mut to: Shape = ins[0].shape.clone();
        resolve_axis(self.axis as i64, to.rank())?;
        if to.0[self.axis] == Dim::Const(0) {
            return Err(InferError::new(format!("axis {} of {to} has no elements to choose from", self.axis)));
        }
        to.0[self.axis] = Dim::Const(1);
        Ok(vec![Fact::new(DType::I64, to)])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let dims = ins[0].shape();
        let s = crate::lower::strides(dims);
        let mut to = dims.to_vec();
        to[self.axis] = 1;
        let float = ins[0].dtype().is_float();
        let mut out = vec![];
        for_each_index(&to, |i| {
            let base: usize = i.iter().zip(&s).map(|(i, s)| i * s).sum();
            let mut best = 0;
            for k in 1..dims[self.axis] {
                let (a, b) = (ins[0].get(base + k * s[self.axis]), ins[0].get(base + best * s[self.axis]));
                let order = if float { a.as_f64().partial_cmp(&b.as_f64()) } else { Some(a.as_int().cmp(&b.as_int())) };
                let wanted = if self.max { std::cmp::Ordering::Greater } else { std::cmp::Ordering::Less };
                if order == Some(wanted) || (self.last && order == Some(std::cmp::Ordering::Equal)) {
                    best = k;
                }
            }
            out.push(best as i64);
        });
        Ok(vec![Tensor::new(&to, &out)])
    }

    fn permuted(&self, perm: &[usize], _: &[Fact]) -> Option<Op> {
        Some(Op::ArgReduce(ArgReduce { axis: perm[self.axis], ..self.clone() }))
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let dims = cx.in_dims(0);
        let vars: Vec<_> = dims.iter().map(|_| cx.k.fresh("i", Type::INDEX)).collect();
        let index: Vec<Expr> = vars.iter().map(|v| Expr::Var(*v)).collect();
        let x = cx.load_wide(0, &index);
        let mut first = index.clone();
        first[self.axis] = Expr::int(0);
        let x0 = cx.load_wide(0, &first);
        let compare = match (self.max, self.last) {
            (true, false) => CmpOp::Gt,
            (true, true) => CmpOp::Ge,
            (false, false) => CmpOp::Lt,
            (false, true) => CmpOp::Le,
        };
        let k = vars[self.axis];
        let mut best = None;
        let n = dims[self.axis];
        let mut body = cx.k.block(|b| {
            let value = b.declare("best", x0);
            let at = b.declare("at", Expr::int(0));
            let inner = b.block(|b| {
                let here = b.bind("here", x);
                let better = b.bind("better", here.clone().compare(compare, Expr::Var(value)));
                b.set(value, better.clone().select(here, Expr::Var(value)));
                b.set(at, better.select(Expr::Var(k), Expr::Var(at)));
            });
            b.push(Stmt::For { var: k, lo: Expr::int(1), hi: n.into(), step: 1, parallel: false, body: inner });
            best = Some(Expr::Var(at));
        });
        let best = best.ok_or_else(|| LowerError("no result".into()))?;
        let (buf, index, value) = cx.write(0, flatten(&first, &cx.out_dims(0)), best);
        body.push(Stmt::Store { buf, index, value });
        for (a, (&var, &n)) in vars.iter().zip(&dims).enumerate().rev() {
            if a != self.axis {
                body = vec![loop_over(var, n, true, body)];
            }
        }
        body.into_iter().for_each(|s| cx.k.push(s));
        Ok(())
    }

    fn samples() -> Vec<Sample> {
        let a = |axis, max, last| ArgReduce { axis, max, last };
        vec![
            Sample::new(a(1, true, false), &[(DType::F32, &[3, 37])]),
            Sample::new(a(0, false, true), &[(DType::I32, &[8, 5])]),
            Sample::new(a(1, true, true), &[(DType::U8, &[2, 6, 4])]),
            Sample::new(a(0, false, false), &[(DType::F64, &[1])]),
        ]
    }
}

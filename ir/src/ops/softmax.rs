//! Softmax and LogSoftmax along one axis: `y = e^(x - max) / Σ e^(x - max)`; `log_softmax` is its logarithm.
//!
//! ONNX: [Softmax](https://onnx.ai/onnx/operators/onnx__Softmax.html),
//! [LogSoftmax](https://onnx.ai/onnx/operators/onnx__LogSoftmax.html) (1, 11, 13). Before opset 13 the axes from `axis` on were one.

use super::reshape::Reshape;
use crate::lower::wide;
use crate::op::{expect_dtype, expect_operands, resolve_axis};
use crate::ops::*;
use tenon_base::Shape;
use tenon_kernel::MathFn;

crate::attributes! {
    /// Softmax over `axis`.
    pub struct Softmax {
        /// Which axis sums to 1.
        pub axis: usize,
        /// The logarithm of it.
        pub log: bool,
    }
}

impl Operator for Softmax {
    fn names() -> Vec<&'static str> {
        vec!["softmax"]
    }

    fn onnx() -> Vec<OnnxName> {
        ["Softmax", "LogSoftmax"].map(|name| OnnxName { domain: "", name, versions: &[1, 11, 13] }).to_vec()
    }

    fn name(&self) -> &'static str {
        "softmax"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Softmax::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let x = node.input(0)?;
        let log = node.op_type() == "LogSoftmax";
        let shape = cx.shape(x).clone();
        if node.opset >= 13 {
            let axis = resolve_axis(node.int("axis", -1)?, shape.rank())?;
            return Ok(vec![cx.op(Softmax { axis, log }, &[x])?]);
        }
        let axis = resolve_axis(node.int("axis", 1)?, shape.rank().max(1))?;
        if axis + 1 == shape.rank() {
            return Ok(vec![cx.op(Softmax { axis, log }, &[x])?]);
        }
        let (a, b) = shape.0.split_at(axis);
        let to = Shape(vec![Shape(a.to_vec()).numel(), Shape(b.to_vec()).numel()]);
        let flat = cx.op(Reshape { to }, &[x])?;
        let y = cx.op(Softmax { axis: 1, log }, &[flat])?;
        Ok(vec![cx.op(Reshape { to: shape }, &[y])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        expect_dtype(ins, 0, DType::is_float, "a float dtype")?;
        resolve_axis(self.axis as i64, ins[0].shape.rank())?;
        Ok(vec![ins[0].clone()])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let x = ins[0].to_f64();
        let dims = ins[0].shape();
        let n = dims[self.axis];
        let inner: usize = dims[self.axis + 1..].iter().product();
        let mut y = vec![0.0; x.len()];
        for start in (0..x.len()).filter(|i| (i / inner).is_multiple_of(n)) {
            let at = |k: usize| start + k * inner;
            let max = (0..n).map(|k| x[at(k)]).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = (0..n).map(|k| (x[at(k)] - max).exp()).sum();
            for k in 0..n {
                let d = x[at(k)] - max;
                y[at(k)] = if self.log { d - sum.ln() } else { d.exp() / sum };
            }
        }
        Ok(vec![Tensor::from_f64(ins[0].dtype(), dims, &y)])
    }

    fn permuted(&self, perm: &[usize], _: &[Fact]) -> Option<Op> {
        Some(Op::Softmax(Softmax { axis: perm[self.axis], log: self.log }))
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let dims = cx.in_dims(0);
        let d = wide(cx.in_dtype(0));
        let (n, axis, log) = (dims[self.axis], self.axis, self.log);
        let vars: Vec<_> = (0..dims.len()).map(|i| cx.k.fresh(&format!("i{i}"), tenon_kernel::Type::INDEX)).collect();
        let row: Vec<Expr> = vars.iter().map(|v| Expr::Var(*v)).collect();
        let at = |k: Expr| {
            let mut i = row.clone();
            i[axis] = k;
            i
        };
        let kv = cx.k.fresh("k", tenon_kernel::Type::INDEX);
        let x = cx.load_wide(0, &at(Expr::Var(kv)));
        let (out, out_index, stored) = {
            let v = cx.k.fresh("v", tenon_kernel::Type::scalar(d));
            let (b, i, value) = cx.write(0, crate::lower::flatten(&at(Expr::Var(kv)), &dims), Expr::Var(v));
            (b, i, (v, value))
        };
        let over = |parallel, body| tenon_kernel::Stmt::For {
            var: kv,
            lo: Expr::int(0),
            hi: n.into(),
            step: 1,
            parallel,
            body,
        };
        let loop_over = |body| over(false, body);
        // The exponentials of a row (or of neighbouring ones, whose elements lie between its own) are computed once.
        let inner: usize = dims[axis + 1..].iter().product();
        let exps = (!log).then(|| cx.scratch("exps", d, (n * inner).max(1)));
        let place = Expr::Var(kv) * inner + crate::lower::flatten(&row[axis + 1..], &dims[axis + 1..]);
        let mut body = cx.k.block(|kb| {
            let max = kb.declare("max", Expr::constant(d, f64::NEG_INFINITY));
            let inner = kb.block(|kb| kb.set(max, Expr::Var(max).max(x.clone())));
            kb.push(loop_over(inner));
            let sum = kb.declare("sum", Expr::constant(d, 0.0));
            let e = (x.clone() - Expr::Var(max)).math(MathFn::Exp);
            let e = match exps {
                Some(buf) => {
                    let inner = kb.block(|kb| kb.store(buf, place.clone(), e));
                    kb.push(over(true, inner));
                    Expr::load(buf, place)
                }
                None => e,
            };
            let inner = kb.block(|kb| kb.set(sum, Expr::Var(sum) + e.clone()));
            kb.push(loop_over(inner));
            let scale = if log {
                kb.bind("log_sum", Expr::Var(sum).math(MathFn::Log))
            } else {
                kb.bind("scale", Expr::constant(d, 1.0) / Expr::Var(sum))
            };
            let y = if log { x.clone() - Expr::Var(max) - scale } else { e * scale };
            let inner = kb.block(|kb| {
                let (v, value) = stored;
                kb.push(tenon_kernel::Stmt::Let { var: v, value: y });
                kb.store(out, out_index, value);
            });
            kb.push(loop_over(inner));
        });
        for (a, (&var, &n)) in vars.iter().zip(&dims).enumerate().rev() {
            if a != axis {
                body = vec![tenon_kernel::Stmt::For {
                    var,
                    lo: Expr::int(0),
                    hi: n.into(),
                    step: 1,
                    parallel: true,
                    body,
                }];
            }
        }
        body.into_iter().for_each(|s| cx.k.push(s));
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance { absolute: 1e-6, relative: 1e-5 }
    }

    fn samples() -> Vec<Sample> {
        let s = |axis, log| Softmax { axis, log };
        vec![
            Sample::new(s(1, false), &[(DType::F32, &[3, 37])]).with_range(&[(-30.0, 30.0)]),
            Sample::new(s(1, true), &[(DType::F32, &[2, 5, 7])]),
            Sample::new(s(0, false), &[(DType::F64, &[4, 3])]),
            Sample::new(s(1, false), &[(DType::F16, &[2, 9])]),
            Sample::new(s(1, false), &[(DType::F32, &[3, 0])]),
        ]
    }
}

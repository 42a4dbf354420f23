//! Determinants of square matrices, by elimination with the largest pivot of each column.
//!
//! ONNX: [Det](https://onnx.ai/onnx/operators/onnx__Det.html) (11, 22).

use super::util::loop_over;
use crate::lower::{wide, widen};
use crate::op::{expect_dtype, expect_operands};
use crate::ops::*;
use tenon_base::Shape;
use tenon_kernel::{CmpOp, Type, UnOp};

crate::attributes! {
    /// `[…, n, n]` to `[…]`.
    pub struct Det {}
}

impl Operator for Det {
    fn names() -> Vec<&'static str> {
        vec!["det"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "Det", versions: &[11, 22] }]
    }

    fn name(&self) -> &'static str {
        "det"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Det::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        Ok(vec![cx.op(Det {}, &[node.input(0)?])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        expect_dtype(ins, 0, DType::is_float, "a float dtype")?;
        match &ins[0].shape.0[..] {
            [batch @ .., m, n] if m == n => Ok(vec![Fact::new(ins[0].dtype, Shape(batch.to_vec()))]),
            _ => Err(InferError::new(format!("expected square matrices, found {}", ins[0].shape))),
        }
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let dims = ins[0].shape();
        let n = dims[dims.len() - 1];
        let batch = &dims[..dims.len() - 2];
        let all = ins[0].to_f64();
        let count: usize = batch.iter().product();
        let mut out = vec![];
        for b in 0..count {
            let mut m = all[b * n * n..(b + 1) * n * n].to_vec();
            let mut det = 1.0;
            for c in 0..n {
                // The first of equal pivots, as the kernel takes it.
                let mut pivot = c;
                for r in c + 1..n {
                    if m[r * n + c].abs() > m[pivot * n + c].abs() {
                        pivot = r;
                    }
                }
                if pivot != c {
                    (0..n).for_each(|j| m.swap(c * n + j, pivot * n + j));
                    det = -det;
                }
                det *= m[c * n + c];
                if m[c * n + c] == 0.0 {
                    break;
                }
                for r in c + 1..n {
                    let f = m[r * n + c] / m[c * n + c];
                    (c..n).for_each(|j| m[r * n + j] -= f * m[c * n + j]);
                }
            }
            out.push(det);
        }
        Ok(vec![Tensor::from_f64(ins[0].dtype(), batch, &out)])
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let dims = cx.in_dims(0);
        let n = dims[dims.len() - 1];
        let count: usize = dims[..dims.len() - 2].iter().product();
        if count == 0 {
            return Ok(());
        }
        let d = wide(cx.in_dtype(0));
        let size = n * n;
        let m = cx.scratch("m", d, count * size);
        let [b, e] = ["b", "e"].map(|v| cx.k.fresh(v, Type::INDEX));
        let x = widen(cx.load_flat(0, Expr::Var(b) * size + Expr::Var(e)), cx.in_dtype(0));
        let base = Expr::Var(b) * size;
        let at = |r: Expr, c: Expr| base.clone() + r * n + c;
        let mut det = None;
        let mut body = cx.k.block(|k| {
            let copy = k.block(|k| k.store(m, base.clone() + Expr::Var(e), x));
            k.push(loop_over(e, size, false, copy));
            let result = k.declare("det", Expr::constant(d, 1.0));
            k.for_range("c", 0i64, n, |k, c| {
                let pivot = k.declare("pivot", c.clone());
                let best = k.declare("best", Expr::load(m, at(c.clone(), c.clone())).unary(UnOp::Abs));
                k.for_range("r", c.clone() + 1i64, n, |k, r| {
                    let v = k.bind("v", Expr::load(m, at(r.clone(), c.clone())).unary(UnOp::Abs));
                    let more = k.bind("more", v.clone().compare(CmpOp::Gt, Expr::Var(best)));
                    k.set(pivot, more.clone().select(r, Expr::Var(pivot)));
                    k.set(best, more.select(v, Expr::Var(best)));
                });
                let row = k.bind("row", Expr::Var(pivot).clamp(0, (n as i64 - 1).max(0)));
                k.for_range("j", 0i64, n, |k, j| {
                    let a = k.bind("a", Expr::load(m, at(c.clone(), j.clone())));
                    let p = k.bind("p", Expr::load(m, at(row.clone(), j.clone())));
                    k.store(m, at(row.clone(), j.clone()), a);
                    k.store(m, at(c.clone(), j), p);
                });
                let swapped = row.compare(CmpOp::Ne, c.clone());
                let held = k.bind("held", Expr::load(m, at(c.clone(), c.clone())));
                let signed = swapped.select(-held.clone(), held.clone());
                k.set(result, Expr::Var(result) * signed);
                // A column of zeros: nothing is left to eliminate, the product is 0.
                let singular = held.clone().compare(CmpOp::Eq, Expr::constant(d, 0.0));
                let divisor = k.bind("divisor", singular.select(Expr::constant(d, 1.0), held));
                k.for_range("r", c.clone() + 1i64, n, |k, r| {
                    let f = k.bind("f", Expr::load(m, at(r.clone(), c.clone())) / divisor.clone());
                    k.for_range("j", c.clone(), n, |k, j| {
                        let less = f.clone() * Expr::load(m, at(c.clone(), j.clone()));
                        k.store(m, at(r.clone(), j.clone()), Expr::load(m, at(r.clone(), j)) - less);
                    });
                });
            });
            det = Some(Expr::Var(result));
        });
        let det = det.unwrap_or_else(|| Expr::constant(d, 1.0));
        let (buf, index, value) = cx.write(0, Expr::Var(b), det);
        body.push(tenon_kernel::Stmt::Store { buf, index, value });
        cx.k.push(loop_over(b, count, true, body));
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance { absolute: 1e-4, relative: 1e-4 }
    }

    fn samples() -> Vec<Sample> {
        let case = |d, dims: &[usize]| Sample::new(Det {}, &[(d, dims)]);
        vec![
            case(DType::F32, &[3, 4, 4]),
            case(DType::F64, &[7, 7]),
            case(DType::F32, &[2, 1, 1]),
            case(DType::F32, &[2, 0, 0]),
            case(DType::F32, &[0, 2, 2]),
        ]
    }
}

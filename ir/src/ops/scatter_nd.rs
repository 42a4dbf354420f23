//! ScatterND: a copy of the data with slices chosen by tuples of indices replaced, or combined with updates.
//!
//! ONNX: [ScatterND](https://onnx.ai/onnx/operators/onnx__ScatterND.html) (11, 13, 16, 18).
//! `out[indices[i…, :]…, j…] = updates[i…, j…]`; updates apply in row-major order. Negative indices count from the end; others out of
//! range are clamped.

use super::gather_nd::{Tuples, tuple_width};
use super::scatter_elements::{Reduction, Target};
use super::util::loop_over;
use crate::op::expect_operands;
use crate::ops::*;
use tenon_base::{Scalar, Shape};
use tenon_kernel::Type;

crate::attributes! {
    /// Operands: data, indices (`i32` or `i64`), whose last axis holds the tuples, and updates.
    pub struct ScatterNd {
        /// What an update does.
        pub reduction: Reduction,
    }
}

impl Operator for ScatterNd {
    fn names() -> Vec<&'static str> {
        vec!["scatter_nd"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "ScatterND", versions: &[11, 13, 16, 18] }]
    }

    fn name(&self) -> &'static str {
        "scatter_nd"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        ScatterNd::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let op = ScatterNd { reduction: Reduction::import(node)? };
        Ok(vec![cx.op(op, &[node.input(0)?, node.input(1)?, node.input(2)?])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 3..=3)?;
        let width = tuple_width(ins, 0)?;
        self.reduction.check(ins)?;
        let (x, i) = (&ins[0].shape.0, &ins[1].shape.0);
        let mut updates = i[..i.len() - 1].to_vec();
        updates.extend_from_slice(&x[width..]);
        let differ = |a: &Dim, b: &Dim| a.as_const().zip(b.as_const()).is_some_and(|(a, b)| a != b);
        let found = &ins[2].shape;
        if found.rank() != updates.len() || updates.iter().zip(&found.0).any(|(a, b)| differ(a, b)) {
            return Err(InferError::new(format!("expected updates of {}, found {found}", Shape(updates))));
        }
        Ok(vec![ins[0].clone()])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let t = Tuples::new(ins[0].shape(), ins[1].shape(), 0);
        let (width, indices) = (t.extents.len(), ins[1].to_i64());
        let mut all: Vec<Scalar> = ins[0].scalars().collect();
        for n in 0..if all.is_empty() { 0 } else { t.count } {
            let at = t.at(0, &indices[n * width..(n + 1) * width]);
            for i in 0..t.inner {
                all[at + i] = self.reduction.scalar(all[at + i], ins[2].get(n * t.inner + i));
            }
        }
        let d = ins[0].dtype();
        let all = all.into_iter().map(|v| if v.dtype() == d { v } else { Scalar::of_f64(d, v.as_f64()) });
        Ok(vec![Tensor::from_scalars(d, ins[0].shape(), all)])
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let dims = cx.in_dims(0);
        let t = Tuples::new(&dims, &cx.in_dims(1), 0);
        let target = Target::begin(cx, self.reduction);
        let [c, i] = ["tuple", "inner"].map(|v| cx.k.fresh(v, Type::INDEX));
        let (mut body, first) = t.lower(cx, Expr::int(0), &Expr::Var(c));
        let update = cx.load_flat(2, Expr::Var(c) * t.inner + Expr::Var(i));
        let update = target.update(cx, first + Expr::Var(i), update);
        body.push(loop_over(i, t.inner, true, vec![update]));
        // Several tuples may be one: they stay in order.
        cx.k.push(loop_over(c, t.count, false, body));
        target.end(cx);
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        self.reduction.tolerance()
    }

    fn samples() -> Vec<Sample> {
        let s = |reduction| ScatterNd { reduction };
        let r = [(-1.0, 1.0), (-4.0, 4.0)];
        let case = |op, d, dims: &[usize], i: &[usize], u: &[usize]| {
            Sample::new(op, &[(d, dims), (DType::I64, i), (d, u)]).with_range(&r)
        };
        let f = DType::F32;
        vec![
            case(s(Reduction::None), f, &[4, 5, 3], &[7, 2], &[7, 3]),
            case(s(Reduction::Add), f, &[4, 3], &[9, 1], &[9, 3]),
            case(s(Reduction::Mul), DType::F16, &[4, 4], &[2, 3, 2], &[2, 3]),
            case(s(Reduction::Max), DType::I64, &[4], &[6, 1], &[6]),
            case(s(Reduction::Min), DType::U8, &[4], &[6, 1], &[6]),
            case(s(Reduction::None), DType::Bool, &[4, 2], &[0, 1], &[0, 2]),
        ]
    }
}

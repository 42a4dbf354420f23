//! GatherElements: one element for every index, along an axis.
//!
//! ONNX: [GatherElements](https://onnx.ai/onnx/operators/onnx__GatherElements.html) (11, 13).
//! `out[i, j, k] = data[i, indices[i, j, k], k]` for axis 1. Negative indices count from the end; others out of range are clamped.

use super::util::{for_each_index, push_elements, wrap, wrap_expr};
use crate::lower::{flatten, strides};
use crate::op::{expect_dtype, expect_operands, resolve_axis};
use crate::ops::*;

crate::attributes! {
    /// Chooses along `axis`. Operands: data and indices (`i32` or `i64`) of one rank.
    pub struct GatherElements {
        /// Of the data.
        pub axis: usize,
    }
}

impl Operator for GatherElements {
    fn names() -> Vec<&'static str> {
        vec!["gather_elements"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "GatherElements", versions: &[11, 13] }]
    }

    fn name(&self) -> &'static str {
        "gather_elements"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        GatherElements::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let x = node.input(0)?;
        let axis = resolve_axis(node.int("axis", 0)?, cx.rank(x))?;
        Ok(vec![cx.op(GatherElements { axis }, &[x, node.input(1)?])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 2..=2)?;
        check_elements(ins, self.axis)?;
        if ins[0].shape.0[self.axis] == Dim::Const(0) && ins[1].shape.numel() != Dim::Const(0) {
            return Err(InferError::new(format!("axis {} of {} has nothing to choose from", self.axis, ins[0].shape)));
        }
        Ok(vec![Fact::new(ins[0].dtype, ins[1].shape.clone())])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let (dims, to) = (ins[0].shape(), ins[1].shape());
        let s = strides(dims);
        let indices = ins[1].to_i64();
        let size = ins[0].dtype().size();
        let mut data = Vec::with_capacity(indices.len() * size);
        // Row by row of the last axis, along which only one of index and place goes on.
        let (outer, row) = (&to[..to.len() - 1], to[to.len() - 1]);
        let step = usize::from(self.axis + 1 != to.len());
        let mut rows = indices.chunks_exact(row.max(1));
        for_each_index(outer, |i| {
            let along = |a: usize| if a == self.axis { 0 } else { i[a] * s[a] };
            let first: usize = (0..i.len()).map(along).sum();
            let chosen = rows.next().unwrap_or_default().iter().enumerate();
            let place = |(j, c): (usize, &i64)| first + j * step + wrap(*c, dims[self.axis]) * s[self.axis];
            push_elements(&mut data, ins[0].bytes(), size, chosen.map(place));
        });
        Ok(vec![Tensor::from_bytes(ins[0].dtype(), to, data.into()).map_err(|e| e.to_string())?])
    }

    fn permuted(&self, perm: &[usize], _: &[Fact]) -> Option<Op> {
        Some(Op::GatherElements(GatherElements { axis: perm[self.axis] }))
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let (dims, to) = (cx.in_dims(0), cx.in_dims(1));
        if to.contains(&0) {
            return Ok(());
        }
        let vars: Vec<_> = (0..to.len()).map(|a| cx.k.fresh(&format!("i{a}"), tenon_kernel::Type::INDEX)).collect();
        let index: Vec<Expr> = vars.iter().map(|v| Expr::Var(*v)).collect();
        let at = cx.k.fresh("at", tenon_kernel::Type::INDEX);
        let chosen = wrap_expr(cx.load(1, &index).cast(DType::I64), dims[self.axis]);
        let mut from = index.clone();
        from[self.axis] = Expr::Var(at);
        let (buf, flat, value) = cx.write(0, flatten(&index, &to), cx.load(0, &from));
        let mut body = vec![
            tenon_kernel::Stmt::Let { var: at, value: chosen },
            tenon_kernel::Stmt::Store { buf, index: flat, value },
        ];
        for (&var, &n) in vars.iter().zip(&to).rev() {
            body = vec![super::util::loop_over(var, n, true, body)];
        }
        body.into_iter().for_each(|s| cx.k.push(s));
        Ok(())
    }

    fn samples() -> Vec<Sample> {
        let g = |axis| GatherElements { axis };
        let f = DType::F32;
        let r = [(-1.0, 1.0), (-8.0, 8.0)];
        vec![
            Sample::new(g(0), &[(f, &[8, 5]), (DType::I64, &[3, 4])]).with_range(&r),
            Sample::new(g(1), &[(DType::F16, &[2, 8, 3]), (DType::I32, &[2, 11, 3])]).with_range(&r),
            Sample::new(g(0), &[(DType::I64, &[8]), (DType::I64, &[5])]),
            Sample::new(g(1), &[(DType::Bool, &[2, 8]), (DType::I64, &[0, 3])]),
        ]
    }
}

/// Data (operand 0) and indices (operand 1) of GatherElements and ScatterElements fit each other.
pub(super) fn check_elements(ins: &[Fact], axis: usize) -> Result<(), InferError> {
    expect_dtype(ins, 1, |d| matches!(d, DType::I32 | DType::I64), "i32 or i64")?;
    let (x, i) = (&ins[0].shape, &ins[1].shape);
    resolve_axis(axis as i64, x.rank())?;
    let fits = |a: usize| match (x.0[a].as_const(), i.0[a].as_const()) {
        (Some(x), Some(i)) => a == axis || i <= x,
        _ => true,
    };
    if i.rank() != x.rank() || !(0..x.rank()).all(fits) {
        return Err(InferError::new(format!("expected indices within {x} but for axis {axis}, found {i}")));
    }
    Ok(())
}

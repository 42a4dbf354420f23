//! GatherND: slices chosen by tuples of indices.
//!
//! ONNX: [GatherND](https://onnx.ai/onnx/operators/onnx__GatherND.html) (11, 12, 13).
//! `out[b…, i…, j…] = data[b…, indices[b…, i…, :]…, j…]`. Negative indices count from the end; others out of range are clamped.

use super::util::{for_each_index, loop_over, wrap, wrap_expr};
use crate::op::{expect_dtype, expect_operands};
use crate::ops::*;
use tenon_base::Shape;
use tenon_kernel::{Stmt, Type};

crate::attributes! {
    /// Operands: data and indices (`i32` or `i64`), whose last axis holds the tuples.
    pub struct GatherNd {
        /// Leading axes that data and indices share.
        pub batch: usize,
    }
}

/// How tuples of indices address a tensor: shared with ScatterND.
pub(super) struct Tuples {
    /// Tuples in one batch element.
    pub count: usize,
    /// Batch elements.
    pub batches: usize,
    /// Extents that a tuple's entries index.
    pub extents: Vec<usize>,
    /// Elements in a slice.
    pub inner: usize,
}

impl Tuples {
    /// Of data of extents `dims` and indices of extents `indices`.
    pub(super) fn new(dims: &[usize], indices: &[usize], batch: usize) -> Tuples {
        let (&width, lead) = indices.split_last().unwrap_or((&0, &[]));
        Tuples {
            count: lead[batch..].iter().product(),
            batches: dims[..batch].iter().product(),
            extents: dims[batch..batch + width].to_vec(),
            inner: dims[batch + width..].iter().product(),
        }
    }

    /// The first element of the slice that `tuple` of batch element `b` addresses.
    pub(super) fn at(&self, b: usize, tuple: &[i64]) -> usize {
        tuple.iter().zip(&self.extents).fold(b, |at, (&i, &n)| at * n + wrap(i, n)) * self.inner
    }

    /// `let`s of the entries of tuple `t` (of all batches) and the first element of its slice, for batch element `b`.
    pub(super) fn lower(&self, cx: &mut LowerCx<'_>, b: Expr, t: &Expr) -> (Vec<Stmt>, Expr) {
        let width = self.extents.len();
        let mut lets = vec![];
        let mut at = b;
        for (e, &n) in self.extents.iter().enumerate() {
            let var = cx.k.fresh(&format!("at{e}"), Type::INDEX);
            let raw = cx.load_flat(1, t.clone() * width + e).cast(DType::I64);
            lets.push(Stmt::Let { var, value: wrap_expr(raw, n) });
            at = at * n + Expr::Var(var);
        }
        (lets, at * self.inner)
    }
}

/// The extent of the indices' last axis, which must be known and within the data's rank.
pub(super) fn tuple_width(ins: &[Fact], batch: usize) -> Result<usize, InferError> {
    expect_dtype(ins, 1, |d| matches!(d, DType::I32 | DType::I64), "i32 or i64")?;
    let (x, i) = (&ins[0].shape, &ins[1].shape);
    let width = i.0.last().and_then(Dim::as_usize);
    let width = width.filter(|w| batch < i.rank() && batch.checked_add(*w).is_some_and(|n| n <= x.rank()));
    let width = width.ok_or_else(|| {
        InferError::new(format!("expected indices whose last extent is at most {}, found {i}", x.rank().saturating_sub(batch)))
    })?;
    if x.0[batch..batch + width].contains(&Dim::Const(0)) && i.numel() != Dim::Const(0) {
        return Err(InferError::new(format!("{x} has nothing to choose from")));
    }
    Ok(width)
}

impl Operator for GatherNd {
    fn names() -> Vec<&'static str> {
        vec!["gather_nd"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "GatherND", versions: &[11, 12, 13] }]
    }

    fn name(&self) -> &'static str {
        "gather_nd"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        GatherNd::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let batch = node.int("batch_dims", 0)?;
        let batch = usize::try_from(batch)
            .map_err(|_| ImportError::new(format!("batch_dims: expected a count, found {batch}")))?;
        Ok(vec![cx.op(GatherNd { batch }, &[node.input(0)?, node.input(1)?])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 2..=2)?;
        let width = tuple_width(ins, self.batch)?;
        let (x, i) = (&ins[0].shape.0, &ins[1].shape.0);
        for (a, b) in x[..self.batch].iter().zip(&i[..self.batch]) {
            if let (Some(a), Some(b)) = (a.as_const(), b.as_const())
                && a != b
            {
                return Err(InferError::new(format!(
                    "the first {} extents of {} and {} differ: {a} against {b}",
                    self.batch, ins[0].shape, ins[1].shape
                )));
            }
        }
        let mut to = i[..i.len() - 1].to_vec();
        to.extend_from_slice(&x[self.batch + width..]);
        Ok(vec![Fact::new(ins[0].dtype, Shape(to))])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let facts: Vec<Fact> = ins.iter().map(Tensor::fact).collect();
        let to = self.infer(&facts).map_err(|e| e.message)?[0].dims().ok_or("the shape is not known")?;
        let t = Tuples::new(ins[0].shape(), ins[1].shape(), self.batch);
        let width = t.extents.len();
        let indices = ins[1].to_i64();
        let size = ins[0].dtype().size();
        let mut data = Vec::with_capacity(to.iter().product::<usize>() * size);
        for_each_index(&[t.batches, t.count], |i| {
            let n = i[0] * t.count + i[1];
            let at = t.at(i[0], &indices[n * width..(n + 1) * width]);
            data.extend_from_slice(&ins[0].bytes()[at * size..(at + t.inner) * size]);
        });
        Ok(vec![Tensor::from_bytes(ins[0].dtype(), &to, data.into()).map_err(|e| e.to_string())?])
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let t = Tuples::new(&cx.in_dims(0), &cx.in_dims(1), self.batch);
        if cx.out_dims(0).contains(&0) {
            return Ok(());
        }
        let [b, c, i] = ["batch", "tuple", "inner"].map(|v| cx.k.fresh(v, Type::INDEX));
        let n = Expr::Var(b) * t.count + Expr::Var(c);
        let (mut body, first) = t.lower(cx, Expr::Var(b), &n);
        let value = cx.load_flat(0, first + Expr::Var(i));
        let (buf, index, value) = cx.write(0, n * t.inner + Expr::Var(i), value);
        body.push(loop_over(i, t.inner, true, vec![Stmt::Store { buf, index, value }]));
        cx.k.push(loop_over(b, t.batches, true, vec![loop_over(c, t.count, true, body)]));
        Ok(())
    }

    fn samples() -> Vec<Sample> {
        let g = |batch| GatherNd { batch };
        let r = [(-1.0, 1.0), (-4.0, 4.0)];
        let f = DType::F32;
        vec![
            Sample::new(g(0), &[(f, &[4, 5, 3]), (DType::I64, &[7, 2])]).with_range(&r),
            Sample::new(g(1), &[(f, &[2, 4, 3]), (DType::I64, &[2, 5, 1])]).with_range(&r),
            Sample::new(g(0), &[(DType::I64, &[4, 5]), (DType::I32, &[2])]).with_range(&r),
            Sample::new(g(2), &[(DType::F16, &[2, 3, 4]), (DType::I64, &[2, 3, 1])]).with_range(&r),
            Sample::new(g(0), &[(DType::U8, &[4]), (DType::I64, &[0, 1])]),
        ]
    }
}

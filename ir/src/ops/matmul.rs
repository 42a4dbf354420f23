//! MatMul: batched matrix product, `y[…, m, n] = Σ_k a[…, m, k] · b[…, k, n]`.
//!
//! ONNX: [MatMul](https://onnx.ai/onnx/operators/onnx__MatMul.html) (1, 9, 13) and
//! [Gemm](https://onnx.ai/onnx/operators/onnx__Gemm.html) (1, 6, 7, 9, 11, 13), whose scaling and addend become operators of their own
//! that fuse back as an epilogue.

use super::util::{broadcast_offset, for_each_index};
use super::conv::{as_dtype, product_dtype};
use super::{binary::Binary, reshape::Reshape};
use crate::lower::{broadcast_index, flatten, wide};
use crate::op::expect_operands;
use crate::ops::*;
use rayon::prelude::*;
use tenon_base::{Scalar, Shape};
use tenon_kernel::{Contract, Type};

crate::attributes! {
    /// Product of matrices in the last two axes; the axes before broadcast. Operands have one dtype, or the right one holds
    /// bytes beside `f32`.
    pub struct MatMul {
        /// The left operand is stored `[…, k, m]`.
        pub trans_a: bool,
        /// The right operand is stored `[…, n, k]`.
        pub trans_b: bool,
    }
}

/// Each of the matrices of `rows` by `columns` in `x` transposed.
fn transposed(x: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(x.len());
    for x in x.chunks_exact((rows * columns).max(1)) {
        (0..columns).for_each(|c| out.extend(x[c..].iter().step_by(columns)));
    }
    out
}

/// `row += Σ x(k) · b[k]`, `k` ascending, where the rows of `b` are as long as `row`; several of them at once, because sums that are
/// written and read again after each take most of the time.
fn add_rows(row: &mut [f64], x: impl Fn(usize) -> f64, b: &[f64]) {
    let n = row.len();
    let mut k = 0;
    let mut rows = b.chunks_exact((4 * n).max(1));
    for four in &mut rows {
        let (b, d) = four.split_at(2 * n);
        let ((a, b), (c, d)) = (b.split_at(n), d.split_at(n));
        let [xa, xb, xc, xd] = std::array::from_fn(|i| x(k + i));
        for ((((r, a), b), c), d) in row.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *r = *r + xa * a + xb * b + xc * c + xd * d;
        }
        k += 4;
    }
    for (i, b) in rows.remainder().chunks_exact(n.max(1)).enumerate() {
        let x = x(k + i);
        row.iter_mut().zip(b).for_each(|(r, b)| *r += x * b);
    }
}

/// Extents of a product.
struct Extents {
    batch: Vec<usize>,
    m: usize,
    n: usize,
    k: usize,
}

impl MatMul {
    fn extents(&self, a: &[usize], b: &[usize], y: &[usize]) -> Extents {
        let r = y.len();
        let k = if self.trans_a { a[a.len() - 2] } else { a[a.len() - 1] };
        debug_assert!(k == b[b.len() - if self.trans_b { 1 } else { 2 }]);
        Extents { batch: y[..r - 2].to_vec(), m: y[r - 2], n: y[r - 1], k }
    }
}

impl Operator for MatMul {
    fn names() -> Vec<&'static str> {
        vec!["matmul"]
    }

    fn onnx() -> Vec<OnnxName> {
        let on = |name, versions| OnnxName { domain: "", name, versions };
        vec![on("MatMul", &[1, 9, 13]), on("Gemm", &[1, 6, 7, 9, 11, 13])]
    }

    fn name(&self) -> &'static str {
        "matmul"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        MatMul::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        if node.op_type() == "Gemm" { import_gemm(node, cx) } else { Ok(vec![product(cx, node.input(0)?, node.input(1)?)?]) }
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 2..=2)?;
        // Integers of 8 or 16 bits are summed in `i32`; bytes beside floats are weights, converted as they are read.
        let result = match (ins[0].dtype, ins[1].dtype) {
            (DType::F32, DType::U8 | DType::I8) => DType::F32,
            _ => product_dtype(ins, |d| d != DType::Bool && !d.is_stored(), "a number dtype")?,
        };
        let (a, b) = (&ins[0].shape, &ins[1].shape);
        if a.rank() < 2 || b.rank() < 2 {
            return Err(InferError::new(format!("expected operands of rank 2 or more, found {a} and {b}")));
        }
        let split = |s: &Shape, trans: bool| {
            let (batch, m) = s.0.split_at(s.rank() - 2);
            let (r, c) = (m[0].clone(), m[1].clone());
            (Shape(batch.to_vec()), if trans { (c, r) } else { (r, c) })
        };
        let ((batch_a, (m, ka)), (batch_b, (kb, n))) = (split(a, self.trans_a), split(b, self.trans_b));
        if let (Some(x), Some(y)) = (ka.as_const(), kb.as_const())
            && x != y
        {
            return Err(InferError::new(format!("expected equal inner extents, found {x} and {y} in {a} × {b}")));
        }
        let batch = batch_a
            .broadcast(&batch_b)
            .map_err(|(x, y)| InferError::new(format!("the batch axes of {a} and {b} do not broadcast: {x} against {y}")))?;
        let mut shape = batch;
        shape.0.extend([m, n]);
        Ok(vec![Fact::new(result, shape)])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let facts: Vec<Fact> = ins.iter().map(Tensor::fact).collect();
        let out = self.infer(&facts).map_err(|e| e.message)?.remove(0);
        let y = out.dims().ok_or("the shape is not known")?;
        let e = self.extents(ins[0].shape(), ins[1].shape(), &y);
        let (sa, sb) = (ins[0].shape(), ins[1].shape());
        let (batch_a, batch_b) = (&sa[..sa.len() - 2], &sb[..sb.len() - 2]);
        let (am, ak) = if self.trans_a { (1, e.m) } else { (e.k, 1) };
        let mut offsets = vec![];
        for_each_index(&e.batch, |i| {
            offsets.push((broadcast_offset(i, batch_a) * e.m * e.k, broadcast_offset(i, batch_b) * e.k * e.n));
        });
        if out.dtype.is_float() {
            let (a, b) = (ins[0].to_f64(), ins[1].to_f64());
            let b = if self.trans_b { transposed(&b, e.n, e.k) } else { b };
            let mut v = vec![0f64; y.iter().product()];
            for (out, (oa, ob)) in v.chunks_exact_mut((e.m * e.n).max(1)).zip(offsets) {
                let b = &b[ob..][..e.k * e.n];
                out.par_chunks_mut(e.n.max(1))
                    .enumerate()
                    .for_each(|(m, row)| add_rows(row, |k| a[oa + m * am + k * ak], b));
            }
            return Ok(vec![Tensor::from_f64(out.dtype, &y, &v)]);
        }
        let (a, b): (Vec<i128>, Vec<i128>) = (ins[0].to_wide(), ins[1].to_wide());
        let (bk, bn) = if self.trans_b { (1, e.k) } else { (e.n, 1) };
        let mut v: Vec<i128> = Vec::with_capacity(y.iter().product());
        for (oa, ob) in offsets {
            for m in 0..e.m {
                for n in 0..e.n {
                    let sum = (0..e.k).fold(0i128, |s, k| {
                        s.wrapping_add(a[oa + m * am + k * ak].wrapping_mul(b[ob + k * bk + n * bn]))
                    });
                    v.push(sum);
                }
            }
        }
        Ok(vec![Tensor::of_wide(out.dtype, &y, &v)])
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let (da, db, dy) = (cx.in_dims(0), cx.in_dims(1), cx.out_dims(0));
        let e = self.extents(&da, &db, &dy);
        if dy.contains(&0) {
            return Ok(());
        }
        let mut dims = vec![];
        let mut index = vec![];
        for (i, &n) in dy.iter().enumerate() {
            let (d, v) = cx.k.contract_dim(&format!("i{i}"), n);
            dims.push(d);
            index.push(v);
        }
        let (dk, k) = cx.k.contract_dim("k", e.k.max(1));
        let (batch, mn) = index.split_at(e.batch.len());
        let operand = |d: &[usize], trans: bool, r: &Expr, c: &Expr| {
            let mut at = broadcast_index(batch, &e.batch, &d[..d.len() - 2]);
            at.extend(if trans { [c.clone(), r.clone()] } else { [r.clone(), c.clone()] });
            at
        };
        let a = operand(&da, self.trans_a, &mn[0], &k);
        let b = operand(&db, self.trans_b, &k, &mn[1]);
        let dtype = wide(cx.out_dtype(0));
        let acc = cx.k.fresh("acc", Type::scalar(dtype));
        let (out, out_index, value) = cx.write(0, flatten(&index, &dy), Expr::Var(acc));
        let init = Expr::constant(dtype, 0.0);
        if e.k == 0 {
            // An empty sum is 0; the epilogue still runs.
            let value = value.substitute(acc, &init);
            cx.k.parfor_nest(&dy, |kb, i| {
                let at = |x: Expr| dims.iter().zip(i).fold(x, |x, (d, v)| x.substitute(d.var, v));
                kb.store(out, at(out_index), at(value));
            });
            return Ok(());
        }
        let (a, b) = (cx.load(0, &a), cx.load(1, &b));
        let (a, b) = (as_dtype(a, cx.in_dtype(0), dtype), as_dtype(b, cx.in_dtype(1), dtype));
        cx.k.contract(Contract { dims, reduce: vec![dk], acc, init, a, b, out, out_index, value });
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::SUM
    }

    fn samples() -> Vec<Sample> {
        let mm = |trans_a, trans_b| MatMul { trans_a, trans_b };
        vec![
            Sample::new(mm(false, false), &[(DType::F32, &[7, 33]), (DType::F32, &[33, 18])]),
            Sample::new(mm(true, false), &[(DType::F32, &[5, 3]), (DType::F32, &[5, 16])]),
            Sample::new(mm(false, true), &[(DType::F32, &[1, 40]), (DType::F32, &[10, 40])]),
            Sample::new(mm(false, true), &[(DType::F32, &[2, 3, 9, 8]), (DType::F32, &[2, 3, 9, 8])]),
            Sample::new(mm(false, false), &[(DType::F32, &[2, 1, 4, 6]), (DType::F32, &[3, 6, 5])]),
            Sample::new(mm(true, true), &[(DType::F64, &[6, 4]), (DType::F64, &[1, 6])]),
            Sample::new(mm(false, false), &[(DType::I32, &[4, 5]), (DType::I32, &[5, 6])]),
            Sample::new(mm(false, false), &[(DType::F16, &[4, 5]), (DType::F16, &[5, 6])]),
            Sample::new(mm(false, false), &[(DType::U8, &[7, 33]), (DType::I8, &[33, 18])])
                .with_range(&[(0.0, 256.0), (-128.0, 128.0)]),
            Sample::new(mm(false, true), &[(DType::I8, &[2, 5, 16]), (DType::I8, &[2, 9, 16])])
                .with_range(&[(-128.0, 128.0), (-128.0, 128.0)]),
            Sample::new(mm(false, false), &[(DType::I16, &[3, 6]), (DType::I16, &[6, 10])])
                .with_range(&[(-255.0, 256.0), (-255.0, 256.0)]),
            Sample::new(mm(false, false), &[(DType::F32, &[9, 33]), (DType::I8, &[33, 18])])
                .with_range(&[(-1.0, 1.0), (-128.0, 128.0)]),
            Sample::new(mm(false, true), &[(DType::F32, &[2, 1, 40]), (DType::U8, &[11, 40])])
                .with_range(&[(-1.0, 1.0), (0.0, 256.0)]),
            Sample::new(mm(false, false), &[(DType::F32, &[4, 0]), (DType::F32, &[0, 6])]),
        ]
    }
}

/// Vectors become matrices of one row or column, and their axis goes again afterwards.
pub(super) fn product(cx: &mut Importer<'_>, mut a: ValueId, mut b: ValueId) -> Result<ValueId, ImportError> {
    let (vector_a, vector_b) = (cx.rank(a) == 1, cx.rank(b) == 1);
    if vector_a {
        let to = Shape(vec![Dim::Const(1), cx.shape(a).0[0].clone()]);
        a = cx.op(Reshape { to }, &[a])?;
    }
    if vector_b {
        let to = Shape(vec![cx.shape(b).0[0].clone(), Dim::Const(1)]);
        b = cx.op(Reshape { to }, &[b])?;
    }
    let y = cx.op(MatMul { trans_a: false, trans_b: false }, &[a, b])?;
    if !vector_a && !vector_b {
        return Ok(y);
    }
    let mut to = cx.shape(y).clone();
    let r = to.rank();
    if vector_b {
        to.0.remove(r - 1);
    }
    if vector_a {
        to.0.remove(r - 2);
    }
    cx.op(Reshape { to }, &[y])
}

/// `alpha · A' · B' + beta · C`
pub(super) fn import_gemm(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let (a, b) = (node.input(0)?, node.input(1)?);
    let op = MatMul { trans_a: node.int("transA", 0)? != 0, trans_b: node.int("transB", 0)? != 0 };
    for (v, what) in [(a, "A"), (b, "B")] {
        if cx.rank(v) != 2 {
            return Err(ImportError::new(format!("{what}: expected a matrix, found {}", cx.fact(v))));
        }
    }
    let mut y = cx.op(op, &[a, b])?;
    let scaled = |cx: &mut Importer<'_>, v: ValueId, by: f32| -> Result<ValueId, ImportError> {
        if by == 1.0 {
            return Ok(v);
        }
        let s = cx.weight(Tensor::full(&[], Scalar::of_f64(cx.dtype(v), f64::from(by))));
        cx.op(Binary::named("mul").ok_or_else(|| ImportError::new("no mul"))?, &[v, s])
    };
    y = scaled(cx, y, node.float("alpha", 1.0)?)?;
    let beta = node.float("beta", 1.0)?;
    if let Some(c) = node.opt_input(2).filter(|_| beta != 0.0) {
        let c = scaled(cx, c, beta)?;
        let fact = cx.fact(y).clone();
        y = cx.op(Binary::named("add").ok_or_else(|| ImportError::new("no add"))?, &[y, c])?;
        if *cx.fact(y) != fact {
            return Err(ImportError::new(format!("C: expected a shape that broadcasts to {fact}, found {}", cx.fact(c))));
        }
    }
    Ok(vec![y])
}

//! Reductions over axes: one row each in the table.
//!
//! ONNX: ReduceSum, ReduceMean, ReduceMax, ReduceMin, ReduceProd, ReduceL1, ReduceL2, ReduceLogSum, ReduceLogSumExp, ReduceSumSquare, and the
//! global poolings GlobalAveragePool and GlobalMaxPool, which reduce the spatial axes.

use super::cast::Cast;
use super::reshape::Reshape;
use super::util::for_each_index;
use crate::lower::wide;
use crate::op::{expect_dtype, expect_operands, resolve_axis};
use crate::ops::*;
use tenon_base::{Scalar, Shape};
use tenon_kernel::{BinOp, MathFn, Stmt, Type, UnOp};

crate::attr_enum! {
    /// Which reduction.
    pub enum Kind {
        /// Sum.
        Sum = "sum",
        /// Sum divided by the count; integers truncate.
        Mean = "mean",
        /// Largest; NaN if any is.
        Max = "max",
        /// Smallest; NaN if any is.
        Min = "min",
        /// Product.
        Prod = "prod",
        /// Sum of magnitudes.
        L1 = "l1",
        /// Root of the sum of squares.
        L2 = "l2",
        /// Logarithm of the sum.
        LogSum = "log_sum",
        /// Logarithm of the sum of exponentials, from the largest element on.
        LogSumExp = "log_sum_exp",
        /// Sum of squares.
        SumSquare = "sum_square",
    }
}

crate::attributes! {
    /// Folds the axes `axes`; their extent becomes 1.
    pub struct Reduce {
        /// Which reduction.
        pub kind: Kind,
        /// In ascending order.
        pub axes: Vec<usize>,
    }
}

const ONNX: [(&str, Kind); 12] = [
    ("ReduceSum", Kind::Sum),
    ("ReduceMean", Kind::Mean),
    ("ReduceMax", Kind::Max),
    ("ReduceMin", Kind::Min),
    ("ReduceProd", Kind::Prod),
    ("ReduceL1", Kind::L1),
    ("ReduceL2", Kind::L2),
    ("ReduceLogSum", Kind::LogSum),
    ("ReduceLogSumExp", Kind::LogSumExp),
    ("ReduceSumSquare", Kind::SumSquare),
    ("GlobalAveragePool", Kind::Mean),
    ("GlobalMaxPool", Kind::Max),
];

impl Reduce {
    fn kept(&self, dims: &[usize]) -> Vec<usize> {
        dims.iter().enumerate().map(|(a, &d)| if self.axes.contains(&a) { 1 } else { d }).collect()
    }

    /// Sums of integers, for which the order is all one: elements are added as they lie in memory. Sums of millions of weights are computed so
    /// when compiling.
    ///
    /// They wrap around as `dtype` does.
    pub(super) fn integer_sums(&self, x: &Tensor, dtype: DType) -> Tensor {
        let (dims, size) = (x.shape(), x.dtype().size());
        let to = self.kept(dims);
        let mut sums = vec![0i64; to.iter().product()];
        let steps = crate::lower::strides(&to);
        let Some((&row, outer)) = dims.split_last() else { return Tensor::of_wide(dtype, &[], &x.to_wide::<i64>()) };
        let step = if to[outer.len()] == row { 1 } else { 0 };
        let (mut values, mut at) = (vec![0i64; row], 0);
        for_each_index(if row == 0 { &[0] } else { outer }, |i| {
            tenon_base::wide::read(x.dtype(), &x.bytes()[at * size..][..row * size], &mut values);
            at += row;
            let first: usize = i.iter().zip(&steps).zip(&to).map(|((i, s), d)| if *d == 1 { 0 } else { i * s }).sum();
            match step {
                0 => sums[first] = values.iter().fold(sums[first], |sum, v| sum.wrapping_add(*v)),
                _ => sums[first..].iter_mut().zip(&values).for_each(|(sum, v)| *sum = sum.wrapping_add(*v)),
            }
        });
        Tensor::of_wide(dtype, &to, &sums)
    }

    /// The value of an empty reduction and the start of every other.
    fn identity(&self, dtype: DType) -> Scalar {
        let extreme = |low: bool| match dtype.int_range() {
            Some((lo, hi)) => Scalar::Int(dtype, if low { lo } else { hi }),
            None => Scalar::of_f64(dtype, if low { f64::NEG_INFINITY } else { f64::INFINITY }),
        };
        match self.kind {
            Kind::Max => extreme(true),
            Kind::Min => extreme(false),
            Kind::Prod => Scalar::of_f64(dtype, 1.0),
            _ => Scalar::of_f64(dtype, 0.0),
        }
    }
}

impl Operator for Reduce {
    fn names() -> Vec<&'static str> {
        vec!["reduce"]
    }

    fn onnx() -> Vec<OnnxName> {
        ONNX.iter().map(|(name, _)| OnnxName { domain: "", name, versions: &[1, 11, 13, 18, 20] }).collect()
    }

    fn name(&self) -> &'static str {
        "reduce"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Reduce::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let x = node.input(0)?;
        let shape = cx.shape(x).clone();
        let kind = ONNX.iter().find(|(n, _)| *n == node.op_type()).map(|(_, k)| *k);
        let kind = kind.ok_or_else(|| ImportError::new("the operator is not supported"))?;
        if node.op_type().starts_with("Global") {
            if shape.rank() < 2 {
                return Err(ImportError::new(format!("expected an operand [N,C,spatial…], found {shape}")));
            }
            return Ok(vec![reduce(cx, x, kind, (2..shape.rank()).collect())?]);
        }
        let axes = match (node.opt_ints("axes")?, node.opt_input(1)) {
            (Some(a), _) => a,
            (None, Some(v)) => cx.constant_ints(v, "axes")?,
            (None, None) => vec![],
        };
        if axes.is_empty() && node.int("noop_with_empty_axes", 0)? != 0 {
            // Nothing is folded, yet what the reduction does to one element is done.
            return Ok(vec![reduce(cx, x, kind, vec![])?]);
        }
        let mut axes: Vec<usize> = axes.iter().map(|&a| resolve_axis(a, shape.rank())).collect::<Result<_, _>>()?;
        axes.sort_unstable();
        axes.dedup();
        if axes.is_empty() {
            axes = (0..shape.rank()).collect();
        }
        let y = reduce(cx, x, kind, axes.clone())?;
        if node.int("keepdims", 1)? != 0 {
            return Ok(vec![y]);
        }
        let to = shape.0.iter().enumerate().filter(|(a, _)| !axes.contains(a)).map(|(_, d)| d.clone()).collect();
        let y = cx.op(Reshape { to: Shape(to) }, &[y])?;
        if let (Kind::Prod, Some(d), None) = (kind, cx.known_dims(x), cx.known_dims(y)) {
            let product = d.iter().fold(Dim::Const(1), |p, d| p.mul(d));
            cx.set_known_dims(y, vec![product]);
        }
        Ok(vec![y])
    }

    /// Of a shape: its product, the least of several extents.
    fn infer_dims(&self, ins: &[Option<Vec<Dim>>], facts: &[Fact]) -> Option<Vec<Dim>> {
        let dims = ins.first()?.as_ref().filter(|_| facts[0].dtype.is_int() && self.axes == [0])?;
        let all = dims.iter().skip(1);
        let first = dims.first()?.clone();
        Some(vec![match self.kind {
            Kind::Sum => all.fold(first, |a, b| a.add(b)),
            Kind::Prod => all.fold(first, |a, b| a.mul(b)),
            Kind::Min => all.fold(first, |a, b| a.smaller(b)),
            Kind::Max => all.fold(first, |a, b| a.larger(b)),
            _ => return None,
        }])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        let float_only = matches!(self.kind, Kind::L2 | Kind::LogSum | Kind::LogSumExp);
        let what = if float_only { "a float dtype" } else { "a number dtype" };
        expect_dtype(ins, 0, |d| d.is_float() || (!float_only && d != DType::Bool), what)?;
        let x = &ins[0].shape;
        let ascending = self.axes.is_sorted_by(|a, b| a < b) && self.axes.last().is_none_or(|&a| a < x.rank());
        if !ascending {
            return Err(InferError::new(format!("expected ascending axes of {x}, found {:?}", self.axes)));
        }
        let mut to = x.clone();
        self.axes.iter().for_each(|&a| to.0[a] = Dim::Const(1));
        Ok(vec![Fact::new(ins[0].dtype, to)])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let x = &ins[0];
        let (dims, dtype) = (x.shape(), x.dtype());
        let to = self.kept(dims);
        if self.kind == Kind::Sum && !dtype.is_float() {
            return Ok(vec![self.integer_sums(x, dtype)]);
        }
        let s = crate::lower::strides(dims);
        let folded: Vec<usize> = self.axes.iter().map(|&a| dims[a]).collect();
        let mut inner = vec![];
        for_each_index(&folded, |i| inner.push(i.iter().zip(&self.axes).map(|(i, &a)| i * s[a]).sum::<usize>()));
        let base = |i: &[usize]| i.iter().zip(&s).map(|(i, s)| i * s).sum::<usize>();
        if dtype.is_float() {
            let (mut values, mut out) = (Vec::with_capacity(inner.len()), vec![]);
            if inner.len() > 1 && inner.iter().copied().eq(0..inner.len()) {
                // Whole rows, as they lie in memory.
                values.resize(inner.len(), 0f64);
                for_each_index(&to, |i| {
                    let row = &x.bytes()[base(i) * dtype.size()..][..inner.len() * dtype.size()];
                    tenon_base::wide::read(dtype, row, &mut values);
                    out.push(self.fold_floats(dtype, &values));
                });
                return Ok(vec![Tensor::of_wide(dtype, &to, &out)]);
            }
            let x: Vec<f64> = x.to_wide();
            for_each_index(&to, |i| {
                // Where nothing is folded there may be no element at all.
                let first = base(i);
                values.clear();
                values.extend(inner.iter().map(|o| x[first + o]));
                out.push(self.fold_floats(dtype, &values));
            });
            return Ok(vec![Tensor::of_wide(dtype, &to, &out)]);
        }
        let x: Vec<i128> = x.to_wide();
        let mut out = vec![];
        for_each_index(&to, |i| out.push(self.fold_ints(dtype, inner.iter().map(|o| x[base(i) + o]))));
        Ok(vec![Tensor::from_scalars(dtype, &to, out)])
    }

    fn permuted(&self, perm: &[usize], _: &[Fact]) -> Option<Op> {
        let mut axes: Vec<usize> = self.axes.iter().map(|&a| perm[a]).collect();
        axes.sort_unstable();
        Some(Op::Reduce(Reduce { kind: self.kind, axes }))
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let dims = cx.in_dims(0);
        let d = wide(cx.in_dtype(0));
        let vars: Vec<_> = dims.iter().map(|_| cx.k.fresh("i", Type::INDEX)).collect();
        let index: Vec<Expr> = vars.iter().map(|v| Expr::Var(*v)).collect();
        let x = cx.load_wide(0, &index);
        let count: usize = self.axes.iter().map(|&a| dims[a]).product();
        let kept: Vec<usize> = (0..dims.len()).filter(|a| !self.axes.contains(a)).collect();
        let at: Vec<Expr> =
            (0..dims.len()).map(|a| if self.axes.contains(&a) { Expr::int(0) } else { index[a].clone() }).collect();
        let fold = |inner: Vec<Stmt>, axes: &[usize], parallel: bool| {
            axes.iter().rev().fold(inner, |body, &a| {
                vec![Stmt::For { var: vars[a], lo: Expr::int(0), hi: dims[a].into(), step: 1, parallel, body }]
            })
        };
        let this = self.clone();
        let mut value = Expr::constant(d, 0.0);
        let mut body = cx.k.block(|k| {
            let pass = |k: &mut tenon_kernel::KernelBuilder, name: &str, from: Scalar, op: BinOp, term: Expr| {
                let acc = k.declare(name, Expr::Const(from));
                let inner = k.block(|k| k.set(acc, accumulate(op, Expr::Var(acc), term, d)));
                fold(inner, &this.axes, false).into_iter().for_each(|s| k.push(s));
                Expr::Var(acc)
            };
            let zero = Scalar::of_f64(d, 0.0);
            let square = || x.clone() * x.clone();
            value = match this.kind {
                Kind::Max => pass(k, "acc", this.identity(d), BinOp::Max, x.clone()),
                Kind::Min => pass(k, "acc", this.identity(d), BinOp::Min, x.clone()),
                Kind::Prod => pass(k, "acc", this.identity(d), BinOp::Mul, x.clone()),
                Kind::Sum => pass(k, "acc", zero, BinOp::Add, x.clone()),
                Kind::Mean => pass(k, "acc", zero, BinOp::Add, x.clone()) / Expr::constant(d, count as f64),
                Kind::L1 if d.is_unsigned_int() => pass(k, "acc", zero, BinOp::Add, x.clone()),
                Kind::L1 => pass(k, "acc", zero, BinOp::Add, x.clone().unary(UnOp::Abs)),
                Kind::L2 => pass(k, "acc", zero, BinOp::Add, square()).unary(UnOp::Sqrt),
                Kind::LogSum => pass(k, "acc", zero, BinOp::Add, x.clone()).math(MathFn::Log),
                Kind::SumSquare => pass(k, "acc", zero, BinOp::Add, square()),
                Kind::LogSumExp => {
                    let low = Scalar::of_f64(d, f64::NEG_INFINITY);
                    let max = pass(k, "max", low, BinOp::Max, x.clone());
                    // Where the largest element is infinite its distance to itself would be NaN.
                    let finite = max.clone().unary(UnOp::Abs).compare(
                        tenon_kernel::CmpOp::Lt,
                        Expr::constant(d, f64::INFINITY),
                    );
                    let from = k.bind("from", finite.select(max, Expr::constant(d, 0.0)));
                    let term = (x.clone() - from.clone()).math(MathFn::Exp);
                    pass(k, "acc", zero, BinOp::Add, term).math(MathFn::Log) + from
                }
            };
        });
        let to = cx.out_dims(0);
        let (buf, index, stored) = cx.write(0, crate::lower::flatten(&at, &to), value);
        body.push(Stmt::Store { buf, index, value: stored });
        fold(body, &kept, true).into_iter().for_each(|s| cx.k.push(s));
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        match self.kind {
            Kind::Max | Kind::Min => Tolerance::EXACT,
            _ => Tolerance::SUM,
        }
    }

    fn samples() -> Vec<Sample> {
        let r = |kind, axes: &[usize]| Reduce { kind, axes: axes.to_vec() };
        let mut all = vec![
            Sample::new(r(Kind::Sum, &[0, 2]), &[(DType::I32, &[3, 4, 5])]),
            Sample::new(r(Kind::Max, &[1]), &[(DType::I8, &[3, 9])]),
            Sample::new(r(Kind::Mean, &[1]), &[(DType::I64, &[3, 4])]),
            Sample::new(r(Kind::Sum, &[1]), &[(DType::F32, &[3, 0])]),
            Sample::new(r(Kind::Max, &[1]), &[(DType::F32, &[2, 0, 4])]),
            Sample::new(r(Kind::Sum, &[1]), &[(DType::I32, &[2, 0, 4])]),
            Sample::new(r(Kind::Mean, &[1, 2]), &[(DType::F32, &[2, 7, 7, 20])]),
            Sample::new(r(Kind::Sum, &[1]), &[(DType::F16, &[3, 9])]),
        ];
        for (_, kind) in &ONNX[..10] {
            let range = if *kind == Kind::LogSum { (0.1, 3.0) } else { (-2.0, 2.0) };
            for (d, dims, axes) in [(DType::F32, &[4, 37][..], &[1][..]), (DType::F64, &[3, 4, 5], &[0, 1]), (DType::F32, &[6, 5], &[])] {
                let range = if axes.is_empty() { (0.1, 2.0) } else { range };
                all.push(Sample::new(r(*kind, axes), &[(d, dims)]).with_range(&[range]));
            }
        }
        all
    }
}

impl Reduce {
    /// The result for floats, before it is rounded.
    fn fold_floats(&self, dtype: DType, v: &[f64]) -> f64 {
        let sum = |f: fn(f64) -> f64| v.iter().map(|x| f(*x)).sum::<f64>();
        let nan_or = |pick: fn(f64, f64) -> f64| {
            let start = self.identity(dtype).as_f64();
            if v.iter().any(|x| x.is_nan()) { f64::NAN } else { v.iter().copied().fold(start, pick) }
        };
        match self.kind {
            Kind::Sum => sum(|x| x),
            Kind::Mean => sum(|x| x) / v.len() as f64,
            Kind::Max => nan_or(f64::max),
            Kind::Min => nan_or(f64::min),
            Kind::Prod => v.iter().product(),
            Kind::L1 => sum(f64::abs),
            Kind::L2 => sum(|x| x * x).sqrt(),
            Kind::LogSum => sum(|x| x).ln(),
            Kind::LogSumExp => {
                let max = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let from = if max.is_finite() { max } else { 0.0 };
                v.iter().map(|x| (x - from).exp()).sum::<f64>().ln() + from
            }
            Kind::SumSquare => sum(|x| x * x),
        }
    }

    /// The same for integers.
    fn fold_ints(&self, dtype: DType, values: impl Iterator<Item = i128>) -> Scalar {
        let v: Vec<i128> = values.collect();
        let start = self.identity(dtype).as_int();
        // Sums wrap to the dtype at the end, products at every step.
        let y = match self.kind {
            Kind::Max => v.iter().copied().fold(start, i128::max),
            Kind::Min => v.iter().copied().fold(start, i128::min),
            Kind::Prod => v.iter().fold(1, |p, x| Scalar::of_int(dtype, p * x).as_int()),
            Kind::L1 => v.iter().map(|x| x.abs()).sum(),
            Kind::SumSquare => v.iter().fold(0i128, |s, x| s.wrapping_add(x * x)),
            Kind::Mean if v.is_empty() => 0,
            Kind::Mean => Scalar::of_int(dtype, v.iter().sum()).as_int() / v.len() as i128,
            _ => v.iter().sum(),
        };
        Scalar::of_int(dtype, y)
    }
}

/// `acc ⊕ term`; the largest and smallest let NaN through.
fn accumulate(op: BinOp, acc: Expr, term: Expr, d: DType) -> Expr {
    match op {
        BinOp::Max | BinOp::Min if d.is_float() => {
            // Both give the second operand when either is NaN: a NaN accumulator must be the second one, too.
            let best = acc.clone().binary(op, term);
            acc.clone().compare(tenon_kernel::CmpOp::Ne, acc.clone()).select(acc, best)
        }
        op => acc.binary(op, term),
    }
}

/// The reduction in the graph; `bool` is reduced as `u8`.
fn reduce(cx: &mut Importer<'_>, x: ValueId, kind: Kind, axes: Vec<usize>) -> Result<ValueId, ImportError> {
    let dtype = cx.dtype(x);
    if dtype == DType::Bool && matches!(kind, Kind::Max | Kind::Min) {
        let x = cx.op(Cast::to(DType::U8), &[x])?;
        let y = cx.op(Reduce { kind, axes }, &[x])?;
        return cx.op(Cast::to(DType::Bool), &[y]);
    }
    let float_only = matches!(kind, Kind::L2 | Kind::LogSum | Kind::LogSumExp);
    if float_only && dtype.is_int() {
        let x = cx.op(Cast::to(DType::F64), &[x])?;
        let y = cx.op(Reduce { kind, axes }, &[x])?;
        return cx.op(Cast::to(dtype), &[y]);
    }
    cx.op(Reduce { kind, axes }, &[x])
}

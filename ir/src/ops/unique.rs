//! The different elements of a tensor, or slices along an axis, in front, then zeros; and how many there are.
//!
//! ONNX: [Unique](https://onnx.ai/onnx/operators/onnx__Unique.html), all versions. Results: the slices, ascending (`sorted`) or in
//! the order in which they first occur; where each occurs first; for every slice of the operand which of them it is; how
//! often each occurs; and their number. NaNs are equal to each other and above all else.

use super::util::{Counted, loop_over};
use crate::lower::{wide, widen};
use crate::op::{expect_operands, resolve_axis};
use crate::ops::*;
use std::cmp::Ordering;
use tenon_base::{Scalar, Shape};
use tenon_kernel::{BinOp, CmpOp, Stmt, Type, Var};

crate::attributes! {
    /// See the module.
    pub struct Unique {
        /// Slices along this axis; else elements.
        pub axis: Option<usize>,
        /// Ascending, else in order of occurrence.
        pub sorted: bool,
    }
}

impl Unique {
    /// Slices in front of the axis, along it, elements behind it.
    fn extents(&self, dims: &[usize]) -> [usize; 3] {
        match self.axis {
            None => [1, dims.iter().product(), 1],
            Some(a) => [dims[..a].iter().product(), dims[a], dims[a + 1..].iter().product()],
        }
    }
}

/// Whether `a` is below `b`.
fn below(a: &Expr, b: &Expr, dtype: DType) -> Expr {
    let less = a.clone().compare(CmpOp::Lt, b.clone());
    if !dtype.is_float() {
        return less;
    }
    let nan = b.clone().compare(CmpOp::Ne, b.clone());
    less.binary(BinOp::Or, nan.binary(BinOp::And, a.clone().compare(CmpOp::Eq, a.clone())))
}

fn order(a: Scalar, b: Scalar) -> Ordering {
    match (a, b) {
        (Scalar::Int(_, a), Scalar::Int(_, b)) => a.cmp(&b),
        (a, b) => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or_else(|| a.as_f64().is_nan().cmp(&b.as_f64().is_nan())),
    }
}

impl Operator for Unique {
    fn names() -> Vec<&'static str> {
        vec!["unique"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "Unique", versions: &[11] }]
    }

    fn name(&self) -> &'static str {
        "unique"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Unique::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let x = node.input(0)?;
        let axis = node.opt_int("axis")?.map(|a| resolve_axis(a, cx.rank(x))).transpose()?;
        let sorted = node.int("sorted", 1)? != 0;
        let mut made = cx.ops(Unique { axis, sorted }, &[x])?;
        let count = made[4];
        made.truncate(4);
        for (i, axis) in [(0, axis.unwrap_or(0)), (1, 0), (3, 0)] {
            made[i] = cx.sized(made[i], axis, count)?;
        }
        Ok(made)
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        let (n, values) = match self.axis {
            None => (ins[0].shape.numel(), Shape(vec![ins[0].shape.numel()])),
            Some(a) if a < ins[0].shape.rank() => (ins[0].shape.0[a].clone(), ins[0].shape.clone()),
            Some(a) => return Err(InferError::new(format!("axis {a} is out of range for {}", ins[0]))),
        };
        let list = Fact::new(DType::I64, Shape(vec![n]));
        let values = Fact::new(ins[0].dtype, values);
        Ok(vec![values, list.clone(), list.clone(), list, Fact::of(DType::I64, &[])])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let x = &ins[0];
        let [outer, n, inner] = self.extents(x.shape());
        let slice = |i: usize| -> Vec<Scalar> {
            (0..outer * inner).map(|s| x.get((s / inner * n + i) * inner + s % inner)).collect()
        };
        let compare = |a: &[Scalar], b: &[Scalar]| {
            a.iter().zip(b).map(|(a, b)| order(*a, *b)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
        };
        // Slice, first place, number.
        let mut found: Vec<(Vec<Scalar>, usize, i64)> = vec![];
        for i in 0..n {
            let s = slice(i);
            match found.iter_mut().find(|f| compare(&f.0, &s).is_eq()) {
                Some(f) => f.2 += 1,
                None => found.push((s, i, 1)),
            }
        }
        if self.sorted {
            found.sort_by(|a, b| compare(&a.0, &b.0));
        }
        let inverse: Vec<i64> = (0..n)
            .map(|i| found.iter().position(|f| compare(&f.0, &slice(i)).is_eq()).unwrap_or(0) as i64)
            .collect();
        let mut values = vec![Scalar::of_int(x.dtype(), 0); outer * n * inner];
        for (r, f) in found.iter().enumerate() {
            f.0.iter().enumerate().for_each(|(s, v)| values[(s / inner * n + r) * inner + s % inner] = *v);
        }
        let padded = |mut list: Vec<i64>| {
            list.resize(n, 0);
            Tensor::new(&[n], &list)
        };
        let dims = if self.axis.is_some() { x.shape().to_vec() } else { vec![n] };
        Ok(vec![
            Tensor::from_scalars(x.dtype(), &dims, values),
            padded(found.iter().map(|f| f.1 as i64).collect()),
            Tensor::new(&[n], &inverse),
            padded(found.iter().map(|f| f.2).collect()),
            Tensor::scalar(found.len() as i64),
        ])
    }

    /// By comparing all pairs: a slice goes where as many different ones lie before it.
    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let [outer, n, inner] = self.extents(&cx.in_dims(0));
        let dtype = wide(cx.in_dtype(0));
        let counted = Counted::begin(cx, &[0, 1, 3]);
        // The first place of each slice's value, its rank, and how often each rank occurs.
        let [first, rank, tally] = ["first", "rank", "tally"].map(|name| cx.scratch(name, DType::I64, n));
        let [i, j, o, q] = ["i", "j", "o", "q"].map(|name| cx.k.fresh(name, Type::INDEX));
        let [way, f, r] = ["way", "f", "r"].map(|name| cx.k.fresh(name, Type::INDEX));
        let element = |cx: &LowerCx<'_>, v: Var| {
            cx.load_flat(0, (Expr::Var(o) * n + Expr::Var(v)) * inner + Expr::Var(q))
        };
        let equal = |a: Expr, b: Expr| a.compare(CmpOp::Eq, b);
        let when = |cond: Expr, then: Vec<Stmt>| Stmt::If { cond, then, otherwise: vec![] };
        let set = |var: Var, value: Expr| Stmt::Set { var, value };
        // `way`: slice j below (-1), equal to (0) or above (1) slice i.
        let (a, b) = (widen(element(cx, j), cx.in_dtype(0)), widen(element(cx, i), cx.in_dtype(0)));
        // Bools compare as numbers.
        let (a, b, dtype) =
            if dtype == DType::Bool { (a.cast(DType::U8), b.cast(DType::U8), DType::U8) } else { (a, b, dtype) };
        let decide = vec![Stmt::If {
            cond: below(&a, &b, dtype),
            then: vec![set(way, Expr::int(-1))],
            otherwise: vec![when(below(&b, &a, dtype), vec![set(way, Expr::int(1))])],
        }];
        let decide = when(equal(Expr::Var(way), Expr::int(0)), decide);
        let compare = [
            Stmt::Declare { var: way, value: Expr::int(0) },
            loop_over(o, outer, false, vec![loop_over(q, inner, false, vec![decide])]),
        ];
        let mut body = compare.to_vec();
        body.push(when(equal(Expr::Var(way), Expr::int(0)), vec![set(f, Expr::Var(j))]));
        let search = vec![when(equal(Expr::Var(f), Expr::Var(i)), body)];
        let search = Stmt::For {
            var: j,
            lo: Expr::int(0),
            hi: Expr::Var(i),
            step: 1,
            parallel: false,
            body: search,
        };
        let body = vec![
            Stmt::Declare { var: f, value: Expr::Var(i) },
            search,
            Stmt::Store { buf: first, index: Expr::Var(i), value: Expr::Var(f) },
            Stmt::Store { buf: tally, index: Expr::Var(i), value: Expr::int(0) },
            Stmt::Store { buf: rank, index: Expr::Var(i), value: Expr::int(0) },
        ];
        cx.k.push(loop_over(i, n, false, body));

        let is_first = |v: Var| equal(Expr::load(first, Expr::Var(v)), Expr::Var(v));
        let more = vec![set(r, Expr::Var(r) + 1i64)];
        let before = if self.sorted {
            let mut body = compare.to_vec();
            body.push(when(Expr::Var(way).compare(CmpOp::Lt, Expr::int(0)), more));
            body
        } else {
            vec![when(Expr::Var(j).compare(CmpOp::Lt, Expr::Var(i)), more)]
        };
        let body = vec![
            Stmt::Declare { var: r, value: Expr::int(0) },
            loop_over(j, n, false, vec![when(is_first(j), before)]),
            Stmt::Store { buf: rank, index: Expr::Var(i), value: Expr::Var(r) },
            counted.next(),
        ];
        cx.k.push(loop_over(i, n, false, vec![when(is_first(i), body)]));

        let last = n.max(1) as i64 - 1;
        let place = Expr::load(rank, Expr::load(first, Expr::Var(i)).clamp(0, last)).clamp(0, last);
        let x = element(cx, i);
        let put = counted.store(cx, 0, (Expr::Var(o) * n + Expr::Var(r)) * inner + Expr::Var(q), x);
        let put = loop_over(o, outer, false, vec![loop_over(q, inner, false, vec![put])]);
        let body = vec![
            Stmt::Let { var: r, value: place },
            counted.store(cx, 2, Expr::Var(i), Expr::Var(r)),
            Stmt::Store { buf: tally, index: Expr::Var(r), value: Expr::load(tally, Expr::Var(r)) + 1i64 },
            when(is_first(i), vec![counted.store(cx, 1, Expr::Var(r), Expr::Var(i)), put]),
        ];
        cx.k.push(loop_over(i, n, false, body));
        let body = vec![counted.store(cx, 3, Expr::Var(i), Expr::load(tally, Expr::Var(i)))];
        cx.k.push(loop_over(i, n, false, body));
        counted.end(cx, 4);
        Ok(())
    }

    fn samples() -> Vec<Sample> {
        let u = |axis, sorted| Unique { axis, sorted };
        vec![
            Sample::new(u(None, true), &[(DType::I64, &[11])]),
            Sample::new(u(None, false), &[(DType::I32, &[3, 4])]).with_range(&[(0.0, 4.0)]),
            Sample::new(u(Some(0), true), &[(DType::Bool, &[7, 2])]),
            Sample::new(u(Some(1), true), &[(DType::U8, &[2, 6, 2])]).with_range(&[(0.0, 2.0)]),
            Sample::new(u(None, true), &[(DType::F16, &[5])]),
            Sample::new(u(Some(0), false), &[(DType::F32, &[0, 2])]),
        ]
    }
}

//! TopK: the `k` largest or smallest elements along an axis, in order, and their positions. Of equal elements the first
//! comes first; NaN comes last.
//!
//! ONNX: [TopK](https://onnx.ai/onnx/operators/onnx__TopK.html) (1, 10, 11, 24). The result is in order also where `sorted=0` allows any.

use super::slice::Slice;
use super::util::{for_each_index, loop_over};
use crate::lower::wide;
use crate::op::{expect_dtype, expect_operands, resolve_axis};
use crate::ops::*;
use std::cmp::Ordering;
use tenon_base::Scalar;
use tenon_kernel::{BinOp, Buf, CmpOp, KernelBuilder, Type, Var};

crate::attributes! {
    /// Results: values, and positions as `i64`.
    pub struct TopK {
        /// Along which axis.
        pub axis: usize,
        /// How many.
        pub k: usize,
        /// The largest, not the smallest.
        pub largest: bool,
    }
}

/// Up to so many, elements are inserted one by one into a short list; beyond, lists are sorted.
const SHORT: usize = 16;

impl TopK {
    /// Whether `a` goes before `b`, of dtype `d`: a total order, with NaN behind everything.
    fn better(&self, a: Expr, b: Expr, d: DType) -> Expr {
        let wins = a.clone().compare(if self.largest { CmpOp::Gt } else { CmpOp::Lt }, b.clone());
        if !d.is_float() {
            return wins;
        }
        let number = a.clone().compare(CmpOp::Eq, a);
        wins.binary(BinOp::Or, number.binary(BinOp::And, b.clone().compare(CmpOp::Ne, b)))
    }

    /// The same for the reference.
    fn order(&self, a: Scalar, b: Scalar) -> Ordering {
        match (a, b) {
            (Scalar::Int(_, a), Scalar::Int(_, b)) if self.largest => b.cmp(&a),
            (Scalar::Int(_, a), Scalar::Int(_, b)) => a.cmp(&b),
            (a, b) => {
                let (a, b) = (a.as_f64(), b.as_f64());
                let numbers = if self.largest { b.partial_cmp(&a) } else { a.partial_cmp(&b) };
                numbers.unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
            }
        }
    }
}

impl Operator for TopK {
    fn names() -> Vec<&'static str> {
        vec!["top_k"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "TopK", versions: &[1, 10, 11, 24] }]
    }

    fn name(&self) -> &'static str {
        "top_k"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        TopK::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let x = node.input(0)?;
        let k = match (node.opt_int("k")?, node.opt_input(1)) {
            (Some(k), _) if node.opset < 10 => vec![Dim::Const(k)],
            (_, Some(v)) => cx.constant_dims(v, "K")?,
            _ => return Err(ImportError::new("`K` is missing")),
        };
        let [count] = &k[..] else {
            return Err(ImportError::new(format!("K: expected one number, found {}", k.len())));
        };
        // Of as many as data count, room for the most.
        let k = cx.at_most(count).ok_or_else(|| ImportError::new(format!("K: {count} must be known")).with_pins(count))?;
        let k = usize::try_from(k).map_err(|_| ImportError::new(format!("K: expected a count, found {k}")))?;
        let axis = resolve_axis(node.int("axis", -1)?, cx.rank(x))?;
        let made = cx.ops(TopK { axis, k, largest: node.int("largest", 1)? != 0 }, &[x])?;
        if count.as_const().is_some() {
            return Ok(made);
        }
        let part = |v: ValueId| {
            let mut to = cx.shape(v).clone();
            to.0[axis] = count.clone();
            cx.op(Slice { starts: vec![0; to.rank()], steps: vec![1; to.rank()], to }, &[v])
        };
        made.into_iter().map(part).collect()
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        expect_dtype(ins, 0, |d| d != DType::Bool, "a number dtype")?;
        let mut to = ins[0].shape.clone();
        resolve_axis(self.axis as i64, to.rank())?;
        if to.0[self.axis].as_usize().is_some_and(|n| n < self.k) {
            return Err(InferError::new(format!("axis {} of {to} has no {} elements", self.axis, self.k)));
        }
        to.0[self.axis] = Dim::from(self.k);
        Ok(vec![Fact::new(ins[0].dtype, to.clone()), Fact::new(DType::I64, to)])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let dims = ins[0].shape();
        let s = crate::lower::strides(dims);
        let mut to = dims.to_vec();
        to[self.axis] = self.k;
        let so = crate::lower::strides(&to);
        let n: usize = to.iter().product();
        let mut rows = dims.to_vec();
        rows[self.axis] = 1;
        let (mut values, mut positions) = (vec![Scalar::of_f64(ins[0].dtype(), 0.0); n], vec![0i64; n]);
        for_each_index(&rows, |i| {
            let from: usize = i.iter().zip(&s).map(|(i, s)| i * s).sum();
            let into: usize = i.iter().zip(&so).map(|(i, s)| i * s).sum();
            let mut row: Vec<(usize, Scalar)> =
                (0..dims[self.axis]).map(|p| (p, ins[0].get(from + p * s[self.axis]))).collect();
            row.sort_by(|(_, a), (_, b)| self.order(*a, *b));
            for (p, (at, v)) in row.into_iter().take(self.k).enumerate() {
                values[into + p * so[self.axis]] = v;
                positions[into + p * so[self.axis]] = at as i64;
            }
        });
        Ok(vec![Tensor::from_scalars(ins[0].dtype(), &to, values), Tensor::new(&to, &positions)])
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let dims = cx.in_dims(0);
        let n = dims[self.axis];
        let outer: usize = dims[..self.axis].iter().product();
        let inner: usize = dims[self.axis + 1..].iter().product();
        if self.k == 0 || outer * inner == 0 {
            return Ok(());
        }
        let dtype = wide(cx.in_dtype(0));
        let [o, i, j] = ["outer", "inner", "j"].map(|v| cx.k.fresh(v, Type::INDEX));
        let index = |count: usize| (Expr::Var(o) * count + Expr::Var(j)) * inner + Expr::Var(i);
        let x = crate::lower::widen(cx.load_flat(0, index(n)), cx.in_dtype(0));
        let row = Expr::Var(o) * inner + Expr::Var(i);
        // Of rows that are longer, what may be among the best is collected before it is sorted.
        let kept = if self.k <= SHORT { self.k } else { n.min(2 * self.k) };
        let list = List {
            dtype,
            key: cx.scratch("key", dtype, outer * inner * kept),
            place: cx.scratch("place", DType::I64, outer * inner * kept),
            first: row.clone() * kept,
            len: kept,
        };
        let mut body = if self.k <= SHORT {
            cx.k.block(|kb| self.insert(kb, &list, j, n, &x))
        } else {
            let other = List {
                key: cx.scratch("merged_key", dtype, outer * inner * kept),
                place: cx.scratch("merged_place", DType::I64, outer * inner * kept),
                ..list.clone()
            };
            cx.k.block(|kb| self.collect(kb, [&list, &other], j, n, &x))
        };
        let mut stores = vec![];
        for (port, value) in [(0, list.key_at(Expr::Var(j))), (1, list.place_at(Expr::Var(j)))] {
            let (buf, at, value) = cx.write(port, index(self.k), value);
            stores.push(tenon_kernel::Stmt::Store { buf, index: at, value });
        }
        body.push(loop_over(j, self.k, false, stores));
        cx.k.push(loop_over(o, outer, true, vec![loop_over(i, inner, true, body)]));
        Ok(())
    }

    fn samples() -> Vec<Sample> {
        let t = |axis, k, largest| TopK { axis, k, largest };
        let f = DType::F32;
        vec![
            Sample::new(t(1, 3, true), &[(f, &[3, 37])]),
            Sample::new(t(0, 2, false), &[(f, &[9, 4])]),
            Sample::new(t(1, 5, true), &[(DType::I32, &[2, 11, 3])]).with_range(&[(-3.0, 3.0)]),
            Sample::new(t(1, 29, true), &[(DType::F16, &[2, 29])]),
            Sample::new(t(0, 17, false), &[(DType::I64, &[50])]).with_range(&[(-9.0, 9.0)]),
            Sample::new(t(1, 20, true), &[(f, &[2, 300, 2])]),
            Sample::new(t(0, 18, true), &[(DType::I16, &[500])]).with_range(&[(-40.0, 40.0)]),
            Sample::new(t(0, 1, true), &[(DType::U8, &[1])]),
            Sample::new(t(1, 0, true), &[(f, &[2, 3])]),
        ]
    }
}

/// Elements of one row with their positions.
#[derive(Clone)]
struct List {
    dtype: DType,
    key: Buf,
    place: Buf,
    /// Where the row begins.
    first: Expr,
    len: usize,
}

impl List {
    /// The position of entry `i`, which is kept within the row.
    fn at(&self, i: Expr) -> Expr {
        self.first.clone() + i.clamp(0, self.len as i64 - 1)
    }

    fn key_at(&self, i: Expr) -> Expr {
        Expr::load(self.key, self.at(i))
    }

    fn place_at(&self, i: Expr) -> Expr {
        Expr::load(self.place, self.at(i))
    }

    fn store(&self, k: &mut KernelBuilder, i: Expr, key: Expr, place: Expr) {
        k.store(self.key, self.at(i.clone()), key);
        k.store(self.place, self.at(i), place);
    }
}

impl TopK {
    /// Keeps the best of `x` (which depends on `j`) in order.
    fn insert(&self, k: &mut KernelBuilder, list: &List, j: Var, n: usize, x: &Expr) {
        let held = k.declare("held", Expr::int(0));
        let step = k.block(|k| {
            let x = k.bind("x", x.clone());
            // Where it goes: past the end if it is not among the best.
            let at = k.declare("at", list.len.into());
            let room = Expr::Var(held).compare(CmpOp::Lt, list.len.into());
            k.if_else(
                room,
                |k| {
                    k.set(at, Expr::Var(held));
                    k.set(held, Expr::Var(held) + 1i64);
                },
                |k| {
                    let last = list.key_at(Expr::from(list.len - 1));
                    k.if_else(self.better(x.clone(), last, list.dtype), |k| k.set(at, Expr::from(list.len - 1)), |_| {});
                },
            );
            let enters = Expr::Var(at).compare(CmpOp::Lt, list.len.into());
            k.if_else(
                enters,
                |k| {
                    let positive = |v| Expr::Var(v).compare(CmpOp::Gt, Expr::int(0));
                    let moving = k.declare("moving", positive(at));
                    k.while_loop(Expr::Var(moving), |k| {
                        let before = Expr::Var(at) - 1i64;
                        let key = k.bind("before", list.key_at(before.clone()));
                        k.if_else(
                            self.better(x.clone(), key.clone(), list.dtype),
                            |k| {
                                list.store(k, Expr::Var(at), key.clone(), list.place_at(before.clone()));
                                k.set(at, before.clone());
                                k.set(moving, positive(at));
                            },
                            |k| k.set(moving, Expr::constant(DType::Bool, 0.0)),
                        );
                    });
                    list.store(k, Expr::Var(at), x.clone(), Expr::Var(j));
                },
                |_| {},
            );
        });
        k.push(loop_over(j, n, false, step));
    }

    /// Collects the elements of `x` (which depends on `j`) that are better than the worst of the best so far, and sorts the list and cuts it
    /// to the best whenever it is full. So of a long row most elements cost no more than a comparison, in whatever order they come.
    fn collect(&self, k: &mut KernelBuilder, [list, merged]: [&List; 2], j: Var, n: usize, x: &Expr) {
        if list.len == n {
            let all = k.block(|k| list.store(k, Expr::Var(j), x.clone(), Expr::Var(j)));
            k.push(loop_over(j, n, false, all));
            return self.sort(k, list, merged, n.into());
        }
        let held = k.declare("held", Expr::int(0));
        let cut = k.declare("cut", Expr::constant(DType::Bool, 0.0));
        let worst = k.declare("worst", Expr::constant(list.dtype, 0.0));
        let step = k.block(|k| {
            let x = k.bind("x", x.clone());
            let enters = self.better(x.clone(), Expr::Var(worst), list.dtype);
            let enters = enters.binary(BinOp::Or, Expr::Var(cut).compare(CmpOp::Eq, Expr::constant(DType::Bool, 0.0)));
            k.if_else(
                enters,
                |k| {
                    list.store(k, Expr::Var(held), x.clone(), Expr::Var(j));
                    k.set(held, Expr::Var(held) + 1i64);
                    let full = Expr::Var(held).compare(CmpOp::Ge, list.len.into());
                    k.if_else(
                        full,
                        |k| {
                            self.sort(k, list, merged, list.len.into());
                            k.set(held, self.k.into());
                            k.set(cut, Expr::constant(DType::Bool, 1.0));
                            k.set(worst, list.key_at(Expr::from(self.k - 1)));
                        },
                        |_| {},
                    );
                },
                |_| {},
            );
        });
        k.push(loop_over(j, n, false, step));
        self.sort(k, list, merged, Expr::Var(held));
    }

    /// Sorts the first `n` elements of a list by merging runs of 1, 2, 4, … of them.
    fn sort(&self, k: &mut KernelBuilder, list: &List, merged: &List, n: Expr) {
        let below_n = |v: Var| Expr::Var(v).compare(CmpOp::Lt, n.clone());
        let width = k.declare("width", Expr::int(1));
        k.while_loop(below_n(width), |k| {
            let lo = k.declare("lo", Expr::int(0));
            k.while_loop(below_n(lo), |k| {
                let mid = k.bind("mid", (Expr::Var(lo) + Expr::Var(width)).min(n.clone()));
                let hi = k.bind("hi", (mid.clone() + Expr::Var(width)).min(n.clone()));
                let a = k.declare("a", Expr::Var(lo));
                let b = k.declare("b", mid.clone());
                k.for_range("p", Expr::Var(lo), hi.clone(), |k, p| {
                    let ka = k.bind("ka", list.key_at(Expr::Var(a)));
                    let kb = k.bind("kb", list.key_at(Expr::Var(b)));
                    let ended = Expr::Var(a).compare(CmpOp::Ge, mid.clone());
                    let second = ended.binary(BinOp::Or, self.better(kb.clone(), ka.clone(), list.dtype));
                    let second = second.binary(BinOp::And, Expr::Var(b).compare(CmpOp::Lt, hi.clone()));
                    let second = k.bind("second", second);
                    let pick = |x: Expr, y: Expr| second.clone().select(x, y);
                    let place = pick(list.place_at(Expr::Var(b)), list.place_at(Expr::Var(a)));
                    merged.store(k, p, pick(kb, ka), place);
                    k.set(a, pick(Expr::Var(a), Expr::Var(a) + 1i64));
                    k.set(b, pick(Expr::Var(b) + 1i64, Expr::Var(b)));
                });
                k.set(lo, hi);
            });
            k.for_range("q", Expr::int(0), n.clone(), |k, q| {
                list.store(k, q.clone(), merged.key_at(q.clone()), merged.place_at(q));
            });
            k.set(width, Expr::Var(width) * 2i64);
        });
    }
}

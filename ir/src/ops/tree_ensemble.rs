//! Tree ensemble: for every row of `x`, each tree leads from its root to a leaf, and the leaves' weights are taken together.
//!
//! The trees are data, not code: tables that one loop walks. Nodes are numbered so that both children come after their parent,
//! the one taken where the test fails right after it. At node `i` the walk goes on to `i + jump[i]` where `x[row, feature[i]] ≤ value[i]`,
//! else to `i + 1`, until the feature is negative: a leaf. Whatever the tables hold, the walk stays inside them and ends.
//!
//! ONNX: what [TreeEnsemble](https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html), TreeEnsembleRegressor and
//! TreeEnsembleClassifier become; see `trees.rs`.

use super::util::loop_over;
use crate::op::{expect_dtype, expect_operands, expect_same_dtype};
use crate::ops::*;
use tenon_base::{Scalar, Shape};
use tenon_kernel::{BinOp, CmpOp, KernelBuilder, Type};

crate::attr_enum! {
    /// How the leaves of all trees are taken together, for each target.
    pub enum Aggregate {
        /// Their sum.
        Sum = "sum",
        /// The least.
        Min = "min",
        /// The largest.
        Max = "max",
    }
}

crate::attributes! {
    /// Operands: x `[rows, features]`; nodes `i32[n, 2]`: feature (negative: a leaf) and jump; values `[n]`: what is compared with; roots
    /// `i32[trees]`; with `dense` the leaves' weights `[leaves, targets]`; with `tests` one byte a node. Result: `[rows, targets]`.
    ///
    /// A leaf's jump is its target and its value the weight; with `dense` its jump is the row of weights.
    pub struct TreeEnsemble {
        /// The number of targets.
        pub targets: usize,
        /// How leaves are taken together; targets that no leaf speaks of are 0.
        pub aggregate: Aggregate,
        /// Leaves have a weight for every target.
        pub dense: bool,
        /// NaN jumps too.
        pub nan_jumps: bool,
        /// The last operand says for each node: bit 0, it jumps where the feature is equal to the value; bit 1, NaN jumps.
        pub tests: bool,
    }
}

/// A walk's tables for the reference.
struct Tables<'a> {
    nodes: &'a [i64],
    values: &'a [f64],
    tests: Option<&'a [i64]>,
    nan_jumps: bool,
}

impl Tables<'_> {
    fn len(&self) -> usize {
        self.values.len()
    }

    /// The leaf that `row` comes to.
    fn leaf(&self, root: i64, row: &[f64]) -> usize {
        let last = self.len() - 1;
        let mut at = root.clamp(0, last as i64) as usize;
        loop {
            let feature = self.nodes[2 * at];
            if feature < 0 || at == last {
                return at;
            }
            let (x, v) = (row[(feature as usize).min(row.len() - 1)], self.values[at]);
            let jumps = match self.tests {
                Some(t) => {
                    let holds = if t[at] & 1 != 0 { x == v } else { x <= v };
                    holds || (x.is_nan() && t[at] & 2 != 0)
                }
                None if self.nan_jumps => x.is_nan() || v.is_nan() || x <= v,
                None => x <= v,
            };
            let jump = if jumps { self.nodes[2 * at + 1].max(1) as usize } else { 1 };
            at = (at + jump).min(last);
        }
    }
}

impl TreeEnsemble {
    fn tests_operand(&self) -> Option<usize> {
        self.tests.then_some(4 + usize::from(self.dense))
    }

    /// What nothing has been taken into yet.
    fn nothing(&self) -> f64 {
        match self.aggregate {
            Aggregate::Sum => 0.0,
            Aggregate::Min => f64::INFINITY,
            Aggregate::Max => f64::NEG_INFINITY,
        }
    }

    fn take(&self, acc: f64, w: f64) -> f64 {
        match self.aggregate {
            Aggregate::Sum => acc + w,
            Aggregate::Min => acc.min(w),
            Aggregate::Max => acc.max(w),
        }
    }

    fn take_expr(&self, acc: Expr, w: Expr) -> Expr {
        match self.aggregate {
            Aggregate::Sum => acc + w,
            Aggregate::Min => w.min(acc),
            Aggregate::Max => w.max(acc),
        }
    }

    /// The aggregate as a result: 0 where nothing was taken in.
    fn finish_expr(&self, acc: Expr, dtype: DType) -> Expr {
        let acc = match self.aggregate {
            Aggregate::Sum => acc,
            _ => {
                let none = Expr::constant(DType::F64, self.nothing());
                acc.clone().compare(CmpOp::Eq, none).select(Expr::constant(DType::F64, 0.0), acc)
            }
        };
        if dtype == DType::F64 { acc } else { acc.cast(dtype) }
    }

    /// Writes the walks from `roots` for row `row`, all at once: a step waits for memory, and those of other trees need not. Who is at
    /// a leaf stays there. Gives the leaves.
    fn walks(&self, cx: &LowerCx<'_>, k: &mut KernelBuilder, roots: &[Expr], row: &Expr) -> Vec<Expr> {
        let (n, features) = (cx.in_dims(2)[0] as i64, cx.in_dims(0)[1]);
        let (unsigned, int) = (|e: Expr| e.cast(DType::U32), |v: i64| Expr::Const(Scalar::of_int(DType::I32, v.into())));
        // Unsigned, what is negative is too large.
        let below = |e: Expr, n: i64| Expr::Const(Scalar::of_int(DType::U32, i128::from(n) - 1)).min(e);
        let nodes: Vec<_> = roots.iter().map(|r| k.declare("node", unsigned(r.clone().max(int(0))))).collect();
        let inner = k.declare("inner", Expr::constant(DType::Bool, 1.0));
        let steps = k.declare("steps", Expr::int(0));
        k.while_loop(Expr::Var(inner), |k| {
            // Negative where every walk is at a leaf.
            let mut all: Option<Expr> = None;
            for node in &nodes {
                let here = k.bind("here", below(Expr::Var(*node), n));
                let at = k.bind("at", here.clone().cast(DType::I64));
                let feature = k.bind("feature", cx.load_flat(1, at.clone() * 2i64));
                let column = below(unsigned(feature.clone()), features as i64).cast(DType::I64);
                let x = k.bind("x", cx.load_flat(0, row.clone() * features + column));
                let v = k.bind("v", cx.load_flat(2, at.clone()));
                let jump = cx.load_flat(1, at.clone() * 2i64 + 1i64).max(int(1));
                let goes = feature.clone().compare(CmpOp::Ge, int(0));
                let jump = goes.clone().select(jump, int(0));
                let next = goes.select(int(1), int(0));
                let step = match self.tests_operand() {
                    Some(t) => {
                        let bits = k.bind("bits", cx.load_flat(t, at));
                        let set = |mask: f64| {
                            let bit = bits.clone().binary(BinOp::And, Expr::constant(DType::U8, mask));
                            bit.compare(CmpOp::Ne, Expr::constant(DType::U8, 0.0))
                        };
                        let equal = x.clone().compare(CmpOp::Eq, v.clone());
                        let holds = set(1.0).select(equal, x.clone().compare(CmpOp::Le, v));
                        let nan = x.clone().compare(CmpOp::Ne, x).binary(BinOp::And, set(2.0));
                        holds.binary(BinOp::Or, nan).select(jump, next)
                    }
                    None if self.nan_jumps => x.compare(CmpOp::Gt, v).select(next, jump),
                    None => x.compare(CmpOp::Le, v).select(jump, next),
                };
                k.set(*node, here + unsigned(step));
                all = Some(match all {
                    Some(so_far) => so_far.binary(BinOp::And, feature),
                    None => feature,
                });
            }
            // Whoever goes on is at least one node further: it ends.
            k.set(steps, Expr::Var(steps) + 1i64);
            let more = all.unwrap_or_else(|| int(-1)).compare(CmpOp::Ge, int(0));
            k.set(inner, more.binary(BinOp::And, Expr::Var(steps).compare(CmpOp::Lt, Expr::int(n))));
        });
        nodes.into_iter().map(|node| k.bind("found", below(Expr::Var(node), n).cast(DType::I64))).collect()
    }

    /// Statements that take all trees into an accumulator: `WALKS` at once, then the rest; `take` what a leaf adds.
    fn trees(
        &self,
        cx: &LowerCx<'_>,
        k: &mut KernelBuilder,
        row: &Expr,
        take: &mut dyn FnMut(&mut KernelBuilder, Expr),
    ) {
        let trees = cx.in_dims(3)[0];
        let mut group = |k: &mut KernelBuilder, first: Expr, count: usize| {
            let roots: Vec<Expr> = (0..count).map(|i| cx.load_flat(3, first.clone() + i)).collect();
            for leaf in self.walks(cx, k, &roots, row) {
                take(k, leaf);
            }
        };
        let whole = trees / WALKS;
        if whole > 0 {
            k.for_range("tree", 0i64, whole, |k, t| group(k, t * WALKS, WALKS));
        }
        if !trees.is_multiple_of(WALKS) {
            group(k, Expr::from(whole * WALKS), trees % WALKS);
        }
    }
}

/// How many trees are walked at once: enough to hide what a load takes, few enough for the registers and for the shallow ones not to
/// wait too long.
const WALKS: usize = 4;

impl Operator for TreeEnsemble {
    fn names() -> Vec<&'static str> {
        vec!["tree_ensemble"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![]
    }

    fn name(&self) -> &'static str {
        "tree_ensemble"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        TreeEnsemble::from_attrs(attrs)
    }

    fn import(_: &OnnxNode<'_>, _: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        Err(ImportError::new("the operator is not supported"))
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        let count = 4 + usize::from(self.dense) + usize::from(self.tests);
        expect_operands(ins, count..=count)?;
        expect_dtype(ins, 0, |d| matches!(d, DType::F32 | DType::F64), "f32 or f64")?;
        expect_dtype(ins, 1, |d| d == DType::I32, "i32")?;
        expect_same_dtype(ins, 0, 2)?;
        expect_dtype(ins, 3, |d| d == DType::I32, "i32")?;
        if self.dense {
            expect_same_dtype(ins, 0, 4)?;
        }
        if let Some(t) = self.tests_operand() {
            expect_dtype(ins, t, |d| d == DType::U8, "u8")?;
        }
        let [rows, features] = &ins[0].shape.0[..] else {
            return Err(InferError::new(format!("expected x of rank 2, found {}", ins[0].shape)));
        };
        if features.as_const().is_some_and(|f| f < 1) || self.targets == 0 {
            return Err(InferError::new("expected at least one feature and one target"));
        }
        let known = |i: usize| {
            let wrong = || InferError::new(format!("operand {i}: the shape must be known, found {}", ins[i].shape));
            ins[i].dims().ok_or_else(wrong)
        };
        let n = known(2)?;
        let n = *n.first().filter(|c| n.len() == 1 && **c > 0 && **c < 1 << 30).ok_or_else(|| {
            InferError::new(format!("operand 2: expected at least one node, found {}", ins[2].shape))
        })?;
        let table = |i: usize, dims: &[usize]| match known(i)? {
            d if d == dims => Ok(()),
            d => Err(InferError::new(format!("operand {i}: expected the shape {dims:?}, found {d:?}"))),
        };
        table(1, &[n, 2])?;
        table(3, &[known(3)?.first().copied().unwrap_or(0)])?;
        if self.dense {
            let leaves = known(4)?.first().copied().filter(|l| *l > 0);
            table(4, &[leaves.ok_or_else(|| InferError::new("operand 4: expected at least one leaf"))?, self.targets])?;
        }
        if let Some(t) = self.tests_operand() {
            table(t, &[n])?;
        }
        Ok(vec![Fact::new(ins[0].dtype, Shape(vec![rows.clone(), Dim::from(self.targets)]))])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let (rows, features) = (ins[0].shape()[0], ins[0].shape()[1]);
        let (x, values) = (ins[0].to_f64(), ins[2].to_f64());
        let (nodes, roots) = (ins[1].to_i64(), ins[3].to_i64());
        let tests = self.tests_operand().map(|t| ins[t].to_i64());
        let weights = if self.dense { ins[4].to_f64() } else { vec![] };
        let tables = Tables { nodes: &nodes, values: &values, tests: tests.as_deref(), nan_jumps: self.nan_jumps };
        let mut out = Vec::with_capacity(rows * self.targets);
        for r in 0..rows {
            let row = &x[r * features..(r + 1) * features];
            let mut acc = vec![self.nothing(); self.targets];
            for &root in &roots {
                let leaf = tables.leaf(root, row);
                let jump = nodes[2 * leaf + 1].max(0) as usize;
                if self.dense {
                    let first = jump.min(ins[4].shape()[0] - 1) * self.targets;
                    for (t, a) in acc.iter_mut().enumerate() {
                        *a = self.take(*a, weights[first + t]);
                    }
                } else {
                    let t = jump.min(self.targets - 1);
                    acc[t] = self.take(acc[t], values[leaf]);
                }
            }
            out.extend(acc.into_iter().map(|a| if self.aggregate != Aggregate::Sum && a == self.nothing() { 0.0 } else { a }));
        }
        Ok(vec![Tensor::from_f64(ins[0].dtype(), &[rows, self.targets], &out)])
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let rows = cx.in_dims(0)[0];
        let dtype = cx.in_dtype(0);
        if rows == 0 {
            return Ok(());
        }
        let [row, target] = ["row", "target"].map(|v| cx.k.fresh(v, Type::INDEX));
        let r = Expr::Var(row);
        let nothing = || Expr::constant(DType::F64, self.nothing());
        let wide = |e: Expr| if dtype == DType::F64 { e } else { e.cast(DType::F64) };
        let mut k = std::mem::replace(&mut cx.k, KernelBuilder::new("taken"));
        let shown: &LowerCx<'_> = cx;
        let jump = |leaf: &Expr| shown.load_flat(1, leaf.clone() * 2i64 + 1i64).cast(DType::I64);
        let mut sums = None;
        let body = if self.targets == 1 {
            k.block(|k| {
                let acc = k.declare("acc", nothing());
                self.trees(shown, k, &r, &mut |k, leaf| {
                    let w = if self.dense {
                        let leaves = shown.in_dims(4)[0] as i64;
                        shown.load_flat(4, jump(&leaf).clamp(0, leaves - 1))
                    } else {
                        shown.load_flat(2, leaf)
                    };
                    k.set(acc, self.take_expr(Expr::Var(acc), wide(w)));
                });
                sums = Some(Expr::Var(acc));
            })
        } else {
            let buf = k.buffer("acc", DType::F64, rows * self.targets, tenon_kernel::Access::Scratch);
            let at = |t: Expr| r.clone() * self.targets + t;
            k.block(|k| {
                let clear = k.block(|k| k.store(buf, at(Expr::Var(target)), nothing()));
                k.push(loop_over(target, self.targets, false, clear));
                self.trees(shown, k, &r, &mut |k, leaf| {
                    if self.dense {
                        let leaves = shown.in_dims(4)[0] as i64;
                        let first = k.bind("first", jump(&leaf).clamp(0, leaves - 1) * self.targets);
                        k.for_range("t", 0i64, self.targets, |k, t| {
                            let w = wide(shown.load_flat(4, first.clone() + t.clone()));
                            k.store(buf, at(t.clone()), self.take_expr(Expr::load(buf, at(t)), w));
                        });
                    } else {
                        let t = k.bind("t", jump(&leaf).clamp(0, self.targets as i64 - 1));
                        let w = wide(shown.load_flat(2, leaf));
                        k.store(buf, at(t.clone()), self.take_expr(Expr::load(buf, at(t)), w));
                    }
                });
                sums = Some(Expr::load(buf, at(Expr::Var(target))));
            })
        };
        cx.k = k;
        let mut body = body;
        let sum = sums.unwrap_or_else(nothing);
        let (buf, index, value) = cx.write(0, r * self.targets + Expr::Var(target), self.finish_expr(sum, dtype));
        let store = tenon_kernel::Stmt::Store { buf, index, value };
        body.push(loop_over(target, self.targets, false, vec![store]));
        cx.k.push(loop_over(row, rows, true, body));
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::ROUNDING
    }

    fn samples() -> Vec<Sample> {
        let op = |targets, aggregate, dense, nan_jumps, tests| TreeEnsemble { targets, aggregate, dense, nan_jumps, tests };
        let (f, d, i) = (DType::F32, DType::F64, DType::I32);
        let sum = Aggregate::Sum;
        // Features -2..4, jumps alike; the tables need not be trees.
        let range = [(-2.0, 2.0), (-2.0, 5.0), (-2.0, 2.0), (0.0, 40.0)];
        let case = |op, ins: &[(DType, &[usize])]| Sample::new(op, ins).with_range(&range);
        vec![
            case(op(1, sum, false, false, false), &[(f, &[7, 5]), (i, &[41, 2]), (f, &[41]), (i, &[9])]),
            case(op(3, sum, false, true, false), &[(d, &[4, 3]), (i, &[33, 2]), (d, &[33]), (i, &[6])]),
            case(op(3, sum, true, false, false), &[(f, &[4, 3]), (i, &[33, 2]), (f, &[33]), (i, &[6]), (f, &[4, 3])]),
            case(
                op(2, Aggregate::Max, true, false, true),
                &[(f, &[4, 3]), (i, &[33, 2]), (f, &[33]), (i, &[6]), (f, &[4, 2]), (DType::U8, &[33])],
            ),
            case(
                op(1, Aggregate::Min, false, false, true),
                &[(d, &[3, 3]), (i, &[17, 2]), (d, &[17]), (i, &[5]), (DType::U8, &[17])],
            ),
            case(op(2, Aggregate::Min, false, false, false), &[(f, &[2, 1]), (i, &[1, 2]), (f, &[1]), (i, &[0])]),
            case(op(1, sum, true, false, false), &[(f, &[0, 1]), (i, &[1, 2]), (f, &[1]), (i, &[2]), (f, &[1, 1])]),
        ]
    }
}

/// `v` as the largest number of `dtype` (`f32` or `f64`) that is not above it: what `x ≤ v` means for `x` of `dtype`.
pub(super) fn at_most(dtype: DType, v: f64) -> f64 {
    if dtype != DType::F32 {
        return v;
    }
    let near = v as f32;
    f64::from(if f64::from(near) > v { near.next_down() } else { near })
}

/// The largest number of `dtype` below `v`: what `x < v` means as `x ≤ …`.
pub(super) fn below(dtype: DType, v: f64) -> f64 {
    match dtype {
        DType::F32 => {
            let near = at_most(dtype, v);
            if near < v { near } else { f64::from((near as f32).next_down()) }
        }
        _ => v.next_down(),
    }
}

/// `v` where `dtype` has it, else NaN, which nothing is equal to.
pub(super) fn exactly(dtype: DType, v: f64) -> f64 {
    if Scalar::of_f64(dtype, v).as_f64() == v { v } else { f64::NAN }
}

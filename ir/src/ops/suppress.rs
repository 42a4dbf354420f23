//! The boxes of each class that overlap no better one too much, as rows `[batch, class, box]` in front, then rows of zeros;
//! and how many there are.
//!
//! ONNX: [NonMaxSuppression](https://onnx.ai/onnx/operators/onnx__NonMaxSuppression.html) (10, 11). Operands: boxes
//! `f32[b,n,4]`, scores `f32[b,c,n]`, how many of a class at most, the overlap (intersection over union) above which the box
//! of lower score goes, and the score above which a box counts.

use super::util::{Counted, loop_over};
use crate::op::expect_operands;
use crate::ops::*;
use tenon_base::Shape;
use tenon_kernel::{BinOp, Buf, CmpOp, KernelBuilder, Stmt, Type, Var};

crate::attributes! {
    /// See the module.
    pub struct Suppress {
        /// Boxes of a class that the result has room for.
        pub most: usize,
        /// Boxes are `[x, y, width, height]` of the centre, else two opposite corners `[y, x, y, x]`.
        pub center: bool,
    }
}

/// `[low, high]` along both axes.
fn sides(b: [f32; 4], center: bool) -> [[f32; 2]; 2] {
    if center {
        let half = [b[2] / 2.0, b[3] / 2.0];
        return [[b[0] - half[0], b[0] + half[0]], [b[1] - half[1], b[1] + half[1]]];
    }
    [[b[0].min(b[2]), b[0].max(b[2])], [b[1].min(b[3]), b[1].max(b[3])]]
}

fn overlap(a: [f32; 4], b: [f32; 4], center: bool) -> f32 {
    let (a, b) = (sides(a, center), sides(b, center));
    let along = |k: usize| (a[k][1].min(b[k][1]) - a[k][0].max(b[k][0])).max(0.0);
    let area = |s: [[f32; 2]; 2]| (s[0][1] - s[0][0]) * (s[1][1] - s[1][0]);
    let common = along(0) * along(1);
    let all = area(a) + area(b) - common;
    if all > 0.0 { common / all } else { 0.0 }
}

impl Suppress {
    /// The same as expressions.
    fn sides(&self, b: &[Expr; 4]) -> [[Expr; 2]; 2] {
        let [p, q, r, s] = b.clone();
        if self.center {
            let half = |e: Expr| e * Expr::constant(DType::F32, 0.5);
            let (w, h) = (half(r), half(s));
            return [[p.clone() - w.clone(), p + w], [q.clone() - h.clone(), q + h]];
        }
        [[p.clone().min(r.clone()), p.max(r)], [q.clone().min(s.clone()), q.max(s)]]
    }

    fn overlap(&self, a: &[Expr; 4], b: &[Expr; 4]) -> Expr {
        let zero = || Expr::constant(DType::F32, 0.0);
        let (s, t) = (self.sides(a), self.sides(b));
        let along = |k: usize| {
            let low = s[k][0].clone().max(t[k][0].clone());
            (s[k][1].clone().min(t[k][1].clone()) - low).max(zero())
        };
        let area = |s: &[[Expr; 2]; 2]| (s[0][1].clone() - s[0][0].clone()) * (s[1][1].clone() - s[1][0].clone());
        let common = along(0) * along(1);
        let all = area(&s) + area(&t) - common.clone();
        all.clone().compare(CmpOp::Gt, zero()).select(common.binary(BinOp::Div, all), zero())
    }
}

/// Boxes by their scores, the best first: no entry `i` is behind `2i + 1` and `2i + 2`. So the few best of many cost about a look at each box.
struct Heap {
    key: Buf,
    place: Buf,
    len: usize,
}

impl Heap {
    fn at(&self, i: Expr) -> Expr {
        i.clamp(0, self.len as i64 - 1)
    }

    fn place_at(&self, i: Expr) -> Expr {
        Expr::load(self.place, self.at(i))
    }

    fn store(&self, k: &mut KernelBuilder, i: Expr, key: Expr, place: Expr) {
        k.store(self.key, self.at(i.clone()), key);
        k.store(self.place, self.at(i), place);
    }

    /// Whether `a`, a score and a position, comes before `b`.
    fn before(a: [Expr; 2], b: [Expr; 2]) -> Expr {
        let ([x, i], [y, j]) = (a, b);
        let first = x.clone().compare(CmpOp::Eq, y.clone()).binary(BinOp::And, i.compare(CmpOp::Lt, j));
        x.compare(CmpOp::Gt, y).binary(BinOp::Or, first)
    }

    fn bind(&self, k: &mut KernelBuilder, i: Expr) -> [Expr; 2] {
        [k.bind("key", Expr::load(self.key, self.at(i.clone()))), k.bind("place", self.place_at(i))]
    }

    /// Puts the entry at `from` where it belongs among the first `held`, of which all behind it are in order.
    fn sink(&self, k: &mut KernelBuilder, from: Expr, held: &Expr) {
        let hole = k.declare("hole", from.clone());
        let moved = self.bind(k, from);
        let child = k.declare("child", Expr::Var(hole) * 2i64 + 1i64);
        k.while_loop(Expr::Var(child).compare(CmpOp::Lt, held.clone()), |k| {
            let left = self.bind(k, Expr::Var(child));
            let right = self.bind(k, Expr::Var(child) + 1i64);
            let there = (Expr::Var(child) + 1i64).compare(CmpOp::Lt, held.clone());
            let second = k.bind("second", there.binary(BinOp::And, Heap::before(right.clone(), left.clone())));
            let pick = |r: &Expr, l: &Expr| second.clone().select(r.clone(), l.clone());
            let best = [k.bind("best", pick(&right[0], &left[0])), k.bind("best", pick(&right[1], &left[1]))];
            let chosen = k.bind("chosen", pick(&(Expr::Var(child) + 1i64), &Expr::Var(child)));
            k.if_else(
                Heap::before(best.clone(), moved.clone()),
                |k| {
                    let [key, place] = best;
                    self.store(k, Expr::Var(hole), key, place);
                    k.set(hole, chosen.clone());
                    k.set(child, chosen * 2i64 + 1i64);
                },
                // Nothing is behind the end.
                |k| k.set(child, held.clone()),
            );
        });
        let [key, place] = moved;
        self.store(k, Expr::Var(hole), key, place);
    }

    /// Makes a heap of the first `held` entries.
    fn order(&self, k: &mut KernelBuilder, held: Expr) {
        let next = k.declare("next", held.clone() - 1i64);
        k.while_loop(Expr::Var(next).compare(CmpOp::Ge, Expr::int(0)), |k| {
            self.sink(k, Expr::Var(next), &held);
            k.set(next, Expr::Var(next) - 1i64);
        });
    }

    /// Takes the first entry away; `held` is how many there are.
    fn take(&self, k: &mut KernelBuilder, held: Var) {
        k.set(held, Expr::Var(held) - 1i64);
        let [key, place] = self.bind(k, Expr::Var(held));
        self.store(k, Expr::int(0), key, place);
        self.sink(k, Expr::int(0), &Expr::Var(held));
    }
}

impl Operator for Suppress {
    fn names() -> Vec<&'static str> {
        vec!["non_max_suppression"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "NonMaxSuppression", versions: &[10, 11] }]
    }

    fn name(&self) -> &'static str {
        "non_max_suppression"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Suppress::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let (boxes, scores) = (node.input(0)?, node.input(1)?);
        let center = node.int("center_point_box", 0)? != 0;
        let n = cx.shape(scores).0.last().and_then(|d| cx.at_most(d));
        let n = n.ok_or_else(|| ImportError::new("the number of boxes must be known").with_help("pin it with --dim"))?;
        let scalar = |cx: &mut Importer<'_>, i: usize, default: Tensor| match node.opt_input(i) {
            Some(v) => super::util::reshape(cx, v, Shape(vec![])),
            None => Ok(cx.weight(default)),
        };
        let limit = scalar(cx, 2, Tensor::scalar(0i64))?;
        let iou = scalar(cx, 3, Tensor::scalar(0f32))?;
        let score = scalar(cx, 4, Tensor::scalar(f32::NEG_INFINITY))?;
        let most = cx.known(limit).map_or(n, |t| (t.get(0).as_int().clamp(0, i128::from(n))) as i64) as usize;
        let made = cx.ops(Suppress { most, center }, &[boxes, scores, limit, iou, score])?;
        Ok(vec![cx.sized(made[0], 0, made[1])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 5..=5)?;
        let expected = [DType::F32, DType::F32, DType::I64, DType::F32, DType::F32];
        for (i, (f, rank)) in ins.iter().zip([3, 3, 0, 0, 0]).enumerate() {
            if f.dtype != expected[i] || f.shape.rank() != rank {
                return Err(InferError::new(format!(
                    "operand {i}: expected {} of rank {rank}, found {f}",
                    expected[i]
                )));
            }
        }
        let (b, s) = (&ins[0].shape.0, &ins[1].shape.0);
        if b[0] != s[0] || b[1] != s[2] || b[2] != Dim::Const(4) {
            return Err(InferError::new(format!("boxes {} do not go with scores {}", ins[0], ins[1])));
        }
        let rows = s[0].mul(&s[1]).mul(&Dim::from(self.most));
        Ok(vec![Fact::new(DType::I64, Shape(vec![rows, Dim::Const(3)])), Fact::of(DType::I64, &[])])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let (boxes, scores): (Vec<f32>, Vec<f32>) = (ins[0].to_vec(), ins[1].to_vec());
        let (classes, n) = (ins[1].shape()[1], ins[1].shape()[2]);
        let limit = ins[2].get(0).as_int();
        let (iou, least) = (ins[3].get(0).as_f64() as f32, ins[4].get(0).as_f64() as f32);
        let mut rows: Vec<i64> = vec![];
        for b in 0..ins[1].shape()[0] {
            let at = |i: usize| -> [f32; 4] { std::array::from_fn(|k| boxes[(b * n + i) * 4 + k]) };
            for c in 0..classes {
                let score = |i: usize| scores[(b * classes + c) * n + i];
                let mut alive: Vec<bool> = (0..n).map(|i| score(i) > least).collect();
                for _ in (0..self.most).take_while(|k| (*k as i128) < limit) {
                    let mut best: Option<usize> = None;
                    for i in (0..n).filter(|i| alive[*i]) {
                        if best.is_none_or(|p| score(i) > score(p)) {
                            best = Some(i);
                        }
                    }
                    let Some(p) = best else { break };
                    rows.extend([b as i64, c as i64, p as i64]);
                    for (i, alive) in alive.iter_mut().enumerate() {
                        *alive &= i != p && overlap(at(p), at(i), self.center) <= iou;
                    }
                }
            }
        }
        let room = ins[1].shape()[0] * classes * self.most;
        let count = rows.len() / 3;
        rows.resize(room * 3, 0);
        Ok(vec![Tensor::new(&[room, 3], &rows), Tensor::scalar(count as i64)])
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let dims = cx.in_dims(1);
        let (batch, classes, n) = (dims[0], dims[1], dims[2]);
        if n == 0 || self.most == 0 {
            let none = Counted::begin(cx, &[0]);
            none.end(cx, 1);
            return Ok(());
        }
        let room = batch * classes * self.most;
        let counted = Counted::begin(cx, &[0]);
        let heap = Heap { key: cx.scratch("key", DType::F32, n), place: cx.scratch("place", DType::I64, n), len: n };
        let picks = cx.scratch("picks", DType::I64, self.most);
        let [b, c, i, p] = ["b", "c", "i", "p"].map(|name| cx.k.fresh(name, Type::INDEX));
        let (limit, iou) = (cx.load_flat(2, Expr::int(0)), cx.load_flat(3, Expr::int(0)));
        let least = cx.load_flat(4, Expr::int(0));
        let score = cx.load_flat(1, (Expr::Var(b) * classes + Expr::Var(c)) * n + Expr::Var(i));
        let corners = |cx: &LowerCx<'_>, v: Var| -> [Expr; 4] {
            std::array::from_fn(|e| cx.load_flat(0, (Expr::Var(b) * n + Expr::Var(v)) * 4usize + e as i64))
        };
        let other = cx.k.fresh("other", Type::INDEX);
        let overlap = self.overlap(&corners(cx, p), &corners(cx, other));
        let slot = counted.slot(room) * 3usize;
        let rows = [b, c, p].map(Expr::Var).into_iter().enumerate();
        let mut emit: Vec<Stmt> = rows.map(|(e, v)| counted.store(cx, 0, slot.clone() + e as i64, v)).collect();
        emit.push(counted.next());
        let yes = |is: bool| Expr::constant(DType::Bool, f64::from(u8::from(is)));
        let body = cx.k.block(|k| {
            let held = k.declare("held", Expr::int(0));
            let counts = k.block(|k| {
                let score = k.bind("score", score);
                k.if_else(
                    score.clone().compare(CmpOp::Gt, least),
                    |k| {
                        heap.store(k, Expr::Var(held), score, Expr::Var(i));
                        k.set(held, Expr::Var(held) + 1i64);
                    },
                    |_| {},
                );
            });
            k.push(loop_over(i, n, false, counts));
            heap.order(k, Expr::Var(held));
            let picked = k.declare("picked", Expr::int(0));
            let most = k.bind("most", limit.clamp(0, self.most as i64));
            let more = || Expr::Var(picked).compare(CmpOp::Lt, most.clone());
            let any = || Expr::Var(held).compare(CmpOp::Gt, Expr::int(0));
            k.while_loop(more().binary(BinOp::And, any()), |k| {
                k.push(Stmt::Let { var: p, value: heap.place_at(Expr::int(0)).clamp(0, n as i64 - 1) });
                heap.take(k, held);
                // Against the better ones, until one is too near.
                let stays = k.declare("stays", yes(true));
                let q = k.declare("q", Expr::int(0));
                let rest = Expr::Var(q).compare(CmpOp::Lt, Expr::Var(picked)).binary(BinOp::And, Expr::Var(stays));
                k.while_loop(rest, |k| {
                    let at = Expr::Var(q).clamp(0, self.most as i64 - 1);
                    k.push(Stmt::Let { var: other, value: Expr::load(picks, at).clamp(0, n as i64 - 1) });
                    // Not "above": what is not comparable goes, too.
                    k.set(stays, overlap.compare(CmpOp::Le, iou));
                    k.set(q, Expr::Var(q) + 1i64);
                });
                k.if_else(
                    Expr::Var(stays),
                    |k| {
                        k.store(picks, Expr::Var(picked).clamp(0, self.most as i64 - 1), Expr::Var(p));
                        k.set(picked, Expr::Var(picked) + 1i64);
                        emit.into_iter().for_each(|s| k.push(s));
                    },
                    |_| {},
                );
            });
        });
        cx.k.push(loop_over(b, batch, false, vec![loop_over(c, classes, false, body)]));
        counted.end(cx, 1);
        Ok(())
    }

    fn samples() -> Vec<Sample> {
        let f = DType::F32;
        let sample = |op: Suppress, b: usize, c: usize, n: usize| {
            let none: &[usize] = &[];
            Sample::new(op, &[(f, &[b, n, 4]), (f, &[b, c, n]), (DType::I64, none), (f, none), (f, none)]).with_range(&[
                (0.0, 1.0),
                (0.0, 1.0),
                (0.0, 4.0),
                (0.1, 0.6),
                (0.0, 0.5),
            ])
        };
        vec![
            sample(Suppress { most: 5, center: false }, 2, 3, 9),
            sample(Suppress { most: 3, center: true }, 1, 2, 7),
            sample(Suppress { most: 0, center: false }, 1, 1, 4),
            sample(Suppress { most: 40, center: false }, 1, 2, 60),
        ]
    }
}

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
use tenon_kernel::{BinOp, CmpOp, Stmt, Type, Var};

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
        let room = batch * classes * self.most;
        let counted = Counted::begin(cx, &[0]);
        let alive = cx.scratch("alive", DType::Bool, n);
        let [b, c, k, i, p, best] = ["b", "c", "k", "i", "p", "best"].map(|name| cx.k.fresh(name, Type::INDEX));
        let top = cx.k.fresh("top", Type::scalar(DType::F32));
        let f32c = |v: f64| Expr::constant(DType::F32, v);
        let (limit, iou) = (cx.load_flat(2, Expr::int(0)), cx.load_flat(3, Expr::int(0)));
        let least = cx.load_flat(4, Expr::int(0));
        let score = cx.load_flat(1, (Expr::Var(b) * classes + Expr::Var(c)) * n + Expr::Var(i));
        let corners = |cx: &LowerCx<'_>, v: Var| -> [Expr; 4] {
            std::array::from_fn(|e| cx.load_flat(0, (Expr::Var(b) * n + Expr::Var(v)) * 4usize + e as i64))
        };
        let when = |cond: Expr, then: Vec<Stmt>| Stmt::If { cond, then, otherwise: vec![] };
        let set = |var: Var, value: Expr| Stmt::Set { var, value };
        let store = |value: Expr| Stmt::Store { buf: alive, index: Expr::Var(i), value };
        let is_alive = Expr::load(alive, Expr::Var(i));

        let (s, t) = (self.sides(&corners(cx, p)), self.sides(&corners(cx, i)));
        let along = |k: usize| {
            let low = s[k][0].clone().max(t[k][0].clone());
            (s[k][1].clone().min(t[k][1].clone()) - low).max(f32c(0.0))
        };
        let area = |s: &[[Expr; 2]; 2]| (s[0][1].clone() - s[0][0].clone()) * (s[1][1].clone() - s[1][0].clone());
        let common = along(0) * along(1);
        let all = area(&s) + area(&t) - common.clone();
        let some = all.clone().compare(CmpOp::Gt, f32c(0.0));
        let part = some.select(common.binary(BinOp::Div, all), f32c(0.0));
        let goes = part.compare(CmpOp::Le, iou);
        // Not "above": what is not comparable goes, too.
        let keep = goes.binary(BinOp::And, Expr::Var(i).compare(CmpOp::Ne, Expr::Var(p)));
        let thin = loop_over(i, n, false, vec![when(is_alive.clone(), vec![store(keep)])]);

        let slot = counted.slot(room) * 3usize;
        let last = n.max(1) as i64 - 1;
        let mut chosen = vec![Stmt::Let { var: p, value: Expr::Var(best).clamp(0, last) }];
        for (e, v) in [b, c, p].into_iter().enumerate() {
            chosen.push(counted.store(cx, 0, slot.clone() + e as i64, Expr::Var(v)));
        }
        chosen.extend([counted.next(), thin]);
        let better = Expr::Var(best).compare(CmpOp::Lt, Expr::int(0));
        let better = better.binary(BinOp::Or, score.clone().compare(CmpOp::Gt, Expr::Var(top)));
        let take = when(better, vec![set(best, Expr::Var(i)), set(top, score.clone())]);
        let round = vec![
            Stmt::Declare { var: best, value: Expr::int(-1) },
            Stmt::Declare { var: top, value: f32c(0.0) },
            loop_over(i, n, false, vec![when(is_alive, vec![take])]),
            when(Expr::Var(best).compare(CmpOp::Ge, Expr::int(0)), chosen),
        ];
        let round = when(Expr::Var(k).compare(CmpOp::Lt, limit), round);
        let body = vec![
            loop_over(i, n, false, vec![store(score.compare(CmpOp::Gt, least))]),
            loop_over(k, self.most, false, vec![round]),
        ];
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
        ]
    }
}

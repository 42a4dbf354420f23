//! The product of a recurrent layer whose weights are integers: the state is quantised anew before each step.
//!
//! All elements of the state share a scale and a zero point, as in DynamicQuantizeLinear: with `lo` and `hi` the ends of its range, 0
//! included, `s = (hi - lo) / 255`, `z = round(-lo / s)` and `q = round(h / s) + z`, in `f32`. Then
//! `h·Rᵀ ≈ s · scale[j] · (Σ_k q[k]·R[j, k] - z · Σ_k R[j, k])`, the sums in integers.

use super::quantize::Quantize;
use super::util::loop_over;
use crate::lower::LowerCx;
use crate::op::Operator;
use tenon_base::{DType, Scalar};
use tenon_kernel::{Buf, CmpOp, Contract, Expr, Stmt, Type, UnOp};

/// The operands that describe the weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operands {
    /// The weights `[G·H, H]`, integers.
    pub(super) weights: usize,
    /// What a step of each row of them is worth `[G·H]`.
    pub(super) scales: usize,
    /// The sum of each row `[G·H]`.
    pub(super) sums: usize,
}

/// A quantised state, for the reference.
#[derive(Clone, Debug)]
pub(super) struct State {
    scale: f32,
    zero: i64,
    elements: Vec<i64>,
}

impl State {
    /// `h` as a step of the layer sees it.
    pub(super) fn of(h: &[f64]) -> State {
        let (lo, hi) = h.iter().fold((0f32, 0f32), |(lo, hi), v| (lo.min(*v as f32), hi.max(*v as f32)));
        let scale = if hi == lo { 1.0 } else { (hi - lo) / 255.0 };
        let zero = i64::from((-lo / scale).clamp(0.0, 255.0).round_ties_even() as u8);
        let q = |v: &f64| ((*v as f32 / scale).round_ties_even() as i64).saturating_add(zero).clamp(0, 255);
        State { scale, zero, elements: h.iter().map(q).collect() }
    }

    /// The product of the elements from `first` on with a row of weights of this scale and sum.
    pub(super) fn product(&self, first: usize, row: &[f64], scale: f64, sum: f64) -> f64 {
        let all: i64 = self.elements[first..].iter().zip(row).map(|(q, r)| q * *r as i64).sum();
        f64::from((all - self.zero * sum as i64) as f32 * (self.scale * scale as f32))
    }
}

/// `product[n, j] = Σ_k state[n, k] · R[j, k]` for the `n` rows of `h` elements of the state and `width` rows of weights.
pub(super) fn product(
    cx: &mut LowerCx<'_>,
    ops: Operands,
    (state, product): (Buf, Buf),
    [n, h, width]: [usize; 3],
) -> Vec<Stmt> {
    let f = DType::F32;
    let bytes = cx.scratch("quantised", DType::U8, n * h);
    let number = |v: f64| Expr::constant(f, v);
    let (lo, hi) = (cx.k.fresh("lo", Type::scalar(f)), cx.k.fresh("hi", Type::scalar(f)));
    let mut out = vec![];
    for (end, least) in [(lo, true), (hi, false)] {
        let e = cx.k.fresh("e", Type::INDEX);
        let (acc, x) = (Expr::Var(end), Expr::load(state, Expr::Var(e)));
        let value = if least { acc.min(x) } else { acc.max(x) };
        out.push(Stmt::Declare { var: end, value: number(0.0) });
        out.push(loop_over(e, n * h, false, vec![Stmt::Set { var: end, value }]));
    }
    let e = cx.k.fresh("e", Type::INDEX);
    let [mut scale, mut zero] = [Expr::int(0), Expr::int(0)];
    let quantised = cx.k.block(|k| {
        let (lo, hi) = (Expr::Var(lo), Expr::Var(hi));
        // Zeros only: any scale will do, but not 0.
        let flat = hi.clone().compare(CmpOp::Eq, lo.clone());
        scale = k.bind("scale", flat.select(number(1.0), (hi - lo.clone()) / number(255.0)));
        let z = (-lo / scale.clone()).max(number(0.0)).min(number(255.0)).unary(UnOp::Nearest);
        zero = k.bind("zero", z.cast(DType::I32));
        let x = Expr::load(state, Expr::Var(e));
        let (op, z) = (Quantize { to: DType::U8 }, zero.clone().cast(DType::U8));
        let value = op.scalar(&[f, f, DType::U8], DType::U8, &[x, scale.clone(), z]).unwrap_or_else(|| number(0.0));
        let store = Stmt::Store { buf: bytes, index: Expr::Var(e), value };
        k.push(loop_over(e, n * h, true, vec![store]));
    });
    out.extend(quantised);
    let (di, i) = cx.k.contract_dim("pn", n);
    let (dj, j) = cx.k.contract_dim("pj", width);
    let (dk, k) = cx.k.contract_dim("pk", h);
    let acc = cx.k.fresh("acc", Type::scalar(DType::I32));
    let step = scale * cx.load_flat(ops.scales, j.clone());
    out.push(Stmt::Contract(Box::new(Contract {
        dims: vec![di, dj],
        reduce: vec![dk],
        acc,
        init: Expr::Const(Scalar::of_int(DType::I32, 0)) - zero * cx.load_flat(ops.sums, j.clone()),
        a: Expr::load(bytes, i.clone() * h + k.clone()).cast(DType::I32),
        b: cx.load_flat(ops.weights, j.clone() * h + k).cast(DType::I32),
        out: product,
        out_index: i * width + j,
        value: Expr::Var(acc).cast(f) * step,
    })));
    out
}

//! Quantise and dequantise: what commutes with them. Pairs that cancel are the integer pass's work (`crate::quantize`).

use super::{Rule, Why, ensure, rule};
use crate::egraph::matching::{Cx, Match};
use egg::Id;
use tenon_ir::ops::quantize::Quantize;

/// The rules of this file.
pub(super) const RULES: &[Rule] = &[
    rule!("dequantize-view", exact, "dequantize@q(reshape@v(x), #s, ..z)" => with under_view, "dequantize(view(x)) → view(dequantize(x))"),
    rule!("quantize-relu", exact, "quantize@q(relu(x), #s, ..z)" => with quantize_relu,
        "quantize(relu(x)) → quantize(x), where the zero point is the smallest integer"),
    rule!("quantize-clip", exact, "quantize@q(clip@k(x), #s, ..z)" => with quantize_clip,
        "quantize(clip(x)) → quantize(x), where the integers end within the bounds"),
];

/// The zero point of a match, a number.
fn zero(cx: &Cx<'_>, m: &Match) -> Result<f64, Why> {
    match m.list("z") {
        [] => Ok(0.0),
        [z] => cx.number(*z),
        _ => Err("more than one zero point".into()),
    }
}

fn under_view(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let q = m.op("q").map(|q| cx.op(q).clone()).ok_or("no operator")?;
    let v = m.op("v").map(|v| cx.op(v).clone()).ok_or("no view")?;
    zero(cx, m)?;
    let one = |cx: &mut Cx<'_>, v: Id| {
        ensure!(cx.len(v)? == 1, "one scale an element");
        cx.reshape(v, &[])
    };
    let mut args = vec![m.value("x"), one(cx, m.value("s"))?];
    for z in m.list("z").to_vec() {
        args.push(one(cx, z)?);
    }
    let y = cx.add(q, &args)?;
    cx.add(v, &[y])
}

/// Whether `quantize` saturates for every number beyond the bounds.
fn saturates(cx: &Cx<'_>, m: &Match, q: &Quantize, lo: f64, hi: f64) -> Result<(), Why> {
    let (s, z) = (cx.number(m.value("s"))?, zero(cx, m)?);
    ensure!(s > 0.0 && cx.fact(m.value("x"))?.shape == cx.fact(m.root)?.shape, "not one positive scale");
    let (first, last) = q.to.int_range().ok_or("not integers")?;
    let at = |v: f64| (v / s).round_ties_even() + z;
    ensure!(at(lo) <= first as f64, "numbers below {lo} are told apart");
    ensure!(at(hi) >= last as f64, "numbers above {hi} are told apart");
    Ok(())
}

fn requantized(cx: &mut Cx<'_>, m: &Match, q: Quantize) -> Result<Id, Why> {
    let mut args = vec![m.value("x"), m.value("s")];
    args.extend(m.list("z"));
    cx.add(q, &args)
}

fn quantize_relu(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let q = super::bound!(cx, m, "q", Quantize)?;
    saturates(cx, m, &q, 0.0, f64::INFINITY)?;
    requantized(cx, m, q)
}

fn quantize_clip(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (q, k) = (super::bound!(cx, m, "q", Quantize)?, super::bound!(cx, m, "k", Clip)?);
    let (lo, hi) = (k.min.map_or(f64::NEG_INFINITY, |r| r.0), k.max.map_or(f64::INFINITY, |r| r.0));
    saturates(cx, m, &q, lo, hi)?;
    requantized(cx, m, q)
}

//! Normalisations and softmax that exporters take apart.
//!
//! They compose: a root-mean-square norm of a centred value is a layer norm, a softmax of a shifted value is a softmax, so
//! each step is one short rule and all of an exporter's variants meet in the middle.

use super::{Rule, Why, ensure, rule};
use crate::egraph::matching::{Cx, Match};
use egg::Id;
use tenon_base::Real;
use tenon_ir::Op;
use tenon_ir::ops::layer_norm::LayerNorm;
use tenon_ir::ops::reduce::Reduce;
use tenon_ir::ops::softmax::Softmax;

/// The rules of this file.
pub(super) const RULES: &[Rule] = &[
    rule!("rms-norm", reassociating, "div(x, sqrt(add(reduce[mean]@r(mul(x, x)), #e)))" => with rms_norm,
        "x / √(mean x² + ε) → layer_norm without mean"),
    rule!("rms-norm-sum", reassociating, "div(x, sqrt(add(reduce[sum_square]@r(x), #e)))" => with rms_norm_sum,
        "x / √(Σx² + ε) → layer_norm without mean · 1/√n"),
    rule!("l2-normalize", reassociating, "div(x, reduce[l2]@r(x))" => with l2_normalize,
        "x / ‖x‖ → layer_norm without mean · 1/√n"),
    rule!("layer-norm", reassociating, "layer_norm@n(sub(x, reduce[mean]@r(x)))" => with layer_norm,
        "layer_norm without mean of x - mean x → layer_norm"),
    rule!("layer-norm-moved", reassociating, "layer_norm@n(transpose@t(sub(x, reduce[mean]@r(x))))" => with layer_norm_moved,
        "the same over axes that are not last, between two transposes"),
    rule!("norm-scale", reassociating, "mul(layer_norm@n(x), $s)" => with norm_scale, "layer_norm(x) · s → layer_norm(x, s)"),
    rule!("norm-scale-again", reassociating, "mul(layer_norm@n(x, $w), $s)" => with norm_scale,
        "layer_norm(x, w) · s → layer_norm(x, w · s)"),
    rule!("norm-bias", reassociating, "add(layer_norm@n(x, $w), $b)" => with norm_bias, "layer_norm(x, w) + b → layer_norm(x, w, b)"),
    rule!("softmax", reassociating, "div(exp(x), reduce[sum]@r(exp(x)))" => with |cx, m| softmax(cx, m, false),
        "e^x / Σe^x → softmax"),
    rule!("softmax-shift", reassociating, "softmax@s(sub(x, y))" => with softmax_shift,
        "softmax(x - y) with one y a row → softmax(x)"),
    rule!("log-softmax-sum", reassociating, "sub(x, reduce[log_sum_exp]@r(x))" => with |cx, m| softmax(cx, m, true),
        "x - log Σe^x → log_softmax"),
    rule!("exp-log-softmax", reassociating, "exp(softmax@s(x))" => with exp_log_softmax, "e^log_softmax(x) → softmax(x)"),
];

/// `x` normalised over `axes`, which are moved to the end if they are not there.
fn normalized(cx: &mut Cx<'_>, x: Id, axes: &[usize], epsilon: f64) -> Result<Id, Why> {
    let rank = cx.dims(x)?.len();
    ensure!(!axes.is_empty() && epsilon >= 0.0 && epsilon.is_finite(), "no axes, or a negative ε");
    ensure!(cx.dtype(x)?.is_float(), "integers");
    let op = LayerNorm { axis: rank - axes.len(), epsilon: Real(epsilon), rms: true, stats: false };
    let perm: Vec<usize> = (0..rank).filter(|a| !axes.contains(a)).chain(axes.iter().copied()).collect();
    let moved = cx.transpose(x, &perm)?;
    let y = cx.add(op, &[moved])?;
    let mut back = vec![0; rank];
    perm.iter().enumerate().for_each(|(i, &a)| back[a] = i);
    cx.transpose(y, &back)
}

fn reduced(cx: &Cx<'_>, m: &Match) -> Result<(Vec<usize>, f64), Why> {
    let r = super::bound!(cx, m, "r", Reduce)?;
    let dims = cx.dims(m.value("x"))?;
    let n: usize = r.axes.iter().map(|&a| dims[a]).product();
    ensure!(n > 0, "nothing to normalise");
    Ok((r.axes, n as f64))
}

fn rms_norm(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (axes, _) = reduced(cx, m)?;
    ensure!(cx.len(m.value("e"))? == 1, "not one ε");
    let e = cx.number(m.value("e"))?;
    normalized(cx, m.value("x"), &axes, e)
}

fn rms_norm_sum(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (axes, n) = reduced(cx, m)?;
    ensure!(cx.len(m.value("e"))? == 1, "not one ε");
    let e = cx.number(m.value("e"))?;
    let y = normalized(cx, m.value("x"), &axes, e / n)?;
    let s = cx.scalar(cx.dtype(y)?, 1.0 / n.sqrt());
    cx.named("mul", &[y, s])
}

fn l2_normalize(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (axes, n) = reduced(cx, m)?;
    let y = normalized(cx, m.value("x"), &axes, 0.0)?;
    let s = cx.scalar(cx.dtype(y)?, 1.0 / n.sqrt());
    cx.named("mul", &[y, s])
}

fn centred(n: LayerNorm, r: &Reduce, axes: Vec<usize>) -> Result<LayerNorm, Why> {
    ensure!(n.rms && !n.stats, "a mean is taken already");
    ensure!(r.axes == axes, "the mean is over other axes");
    Ok(LayerNorm { rms: false, ..n })
}

fn layer_norm(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (n, r) = (super::bound!(cx, m, "n", LayerNorm)?, super::bound!(cx, m, "r", Reduce)?);
    let axes = (n.axis..cx.dims(m.value("x"))?.len()).collect();
    cx.add(centred(n, &r, axes)?, &[m.value("x")])
}

fn layer_norm_moved(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (n, r) = (super::bound!(cx, m, "n", LayerNorm)?, super::bound!(cx, m, "r", Reduce)?);
    let t = super::bound!(cx, m, "t", Transpose)?;
    let mut axes = t.perm[n.axis..].to_vec();
    axes.sort_unstable();
    let op = centred(n, &r, axes)?;
    let x = cx.transpose(m.value("x"), &t.perm)?;
    cx.add(op, &[x])
}

/// A constant as one that varies along the normalised axes only.
fn along_rows(cx: &mut Cx<'_>, n: &LayerNorm, x: Id, c: Id) -> Result<Id, Why> {
    let (dims, c_dims) = (cx.dims(x)?, cx.dims(c)?);
    ensure!(c_dims.len() <= dims.len(), "the constant has more axes");
    let inner = dims.len() - n.axis;
    let (outer, rows) = c_dims.split_at(c_dims.len().saturating_sub(inner));
    ensure!(outer.iter().all(|&d| d == 1), "the constant varies from row to row");
    ensure!(
        rows.iter().rev().zip(dims.iter().rev()).all(|(&c, &d)| c == 1 || c == d),
        "the constant makes the result larger"
    );
    let rows = rows.to_vec();
    cx.reshape(c, &rows)
}

fn norm_scale(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let n = super::bound!(cx, m, "n", LayerNorm)?;
    ensure!(!n.stats, "the statistics are used");
    let x = m.value("x");
    let mut s = along_rows(cx, &n, x, m.value("s"))?;
    if m.value("w") != m.root {
        s = cx.named("mul", &[m.value("w"), s])?;
    }
    cx.add(n, &[x, s])
}

fn norm_bias(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let n = super::bound!(cx, m, "n", LayerNorm)?;
    ensure!(!n.stats, "the statistics are used");
    let x = m.value("x");
    let b = along_rows(cx, &n, x, m.value("b"))?;
    cx.add(n, &[x, m.value("w"), b])
}

fn softmax(cx: &mut Cx<'_>, m: &Match, log: bool) -> Result<Id, Why> {
    let r = super::bound!(cx, m, "r", Reduce)?;
    ensure!(r.axes.len() == 1, "more than one axis");
    ensure!(cx.fact(m.value("x"))? == cx.fact(m.root)?, "other shapes");
    cx.add(Softmax { axis: r.axes[0], log }, &[m.value("x")])
}

fn softmax_shift(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let s = super::bound!(cx, m, "s", Softmax)?;
    let (x, y) = (m.value("x"), m.value("y"));
    let (dims, y_dims) = (cx.dims(x)?, cx.dims(y)?);
    ensure!(cx.fact(x)? == cx.fact(m.root)?, "the shift makes the result larger");
    let from_end = dims.len() - s.axis;
    let extent = y_dims.len().checked_sub(from_end).map_or(1, |i| y_dims[i]);
    ensure!(extent == 1, "the shift varies within a row");
    cx.add(s, &[x])
}

fn exp_log_softmax(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let s = super::bound!(cx, m, "s", Softmax)?;
    ensure!(s.log, "not a logarithm");
    cx.add(Op::Softmax(Softmax { log: false, ..s }), &[m.value("x")])
}

//! Constants around convolutions go into weights and biases, also where the plain result has other uses.

use super::{Rule, Why, ensure, rule};
use crate::egraph::matching::{Cx, Match};
use egg::Id;
use tenon_base::{Real, Scalar, Tensor};
use tenon_ir::Op;
use tenon_ir::ops::conv::{Conv, zero_bias};
use tenon_ir::ops::matmul::MatMul;
use tenon_ir::ops::pad::{Mode, Pad};
use tenon_ir::ops::reduce::{Kind, Reduce};

/// The rules of this file.
pub(super) const RULES: &[Rule] = &[
    rule!("conv-scaled", reassociating, "mul(conv@k(x, $w, ..b), $s)" => with scaled,
        "conv(x, w, b) · s, s per channel → conv(x, w · s, b · s)"),
    rule!("conv-shifted", reassociating, "add(conv@k(x, $w, ..b), $s)" => with shifted,
        "conv(x, w, b) + s, s per channel → conv(x, w, b + s)"),
    rule!("conv-of-scaled", reassociating, "conv@k(mul(x, $s), $w, ..b)" => with of_scaled,
        "conv(x · s), s per channel → conv with scaled weights: batch normalisation before a convolution"),
    rule!("conv-of-shifted", reassociating, "conv@k(add(x, $s), $w, ..b)" => with of_shifted,
        "conv(x + s) without padding, s per channel → another bias"),
    rule!("conv-transpose-scaled", reassociating, "mul(conv_transpose@k(x, $w, ..b), $s)" => with transposed_scaled,
        "conv_transpose(x, w, b) · s, s per channel → conv_transpose(x, w · s, b · s)"),
    rule!("conv-transpose-shifted", reassociating, "add(conv_transpose@k(x, $w, ..b), $s)" => with transposed_shifted,
        "conv_transpose(x, w, b) + s, s per channel → conv_transpose(x, w, b + s)"),
    rule!("conv-conv-points", reassociating, "conv@k(conv@l(x, $u, ..c), $w, ..b)" => with points_of_points,
        "1×1 conv of 1×1 conv → one, where that is less work"),
    rule!("conv-parallel", reassociating, "add(conv@k(x, $u, ..b), conv@l(x, $w, ..c))" => with parallel,
        "the sum of two convolutions of one value → one: RepVGG's branches"),
];

fn plain(cx: &Cx<'_>, m: &Match, list: &str) -> Result<Option<Id>, Why> {
    match m.list(list) {
        [] => Ok(None),
        [b] if cx.is_constant(*b) => Ok(Some(*b)),
        _ => Err("a bias that is not constant".into()),
    }
}

/// Constant `c` as `[n]`, if against a value of extents `dims` it varies along `axis` alone.
fn per_channel(cx: &mut Cx<'_>, c: Id, dims: &[usize], axis: usize) -> Result<Id, Why> {
    let (have, n) = (cx.dims(c)?, dims[axis]);
    ensure!(have.len() <= dims.len(), "the constant has more axes");
    let skip = dims.len() - have.len();
    ensure!(
        have.iter().enumerate().all(|(i, &d)| d == 1 || (i + skip == axis && d == n)),
        "the constant is not one a channel"
    );
    let one = have.iter().product::<usize>() == 1 && n != 1;
    let flat = cx.reshape(c, &[if one { 1 } else { n }])?;
    if !one {
        return Ok(flat);
    }
    let ones = Tensor::full(&[n], Scalar::of_f64(cx.dtype(c)?, 1.0));
    let ones = cx.weight(ones);
    cx.named("mul", &[ones, flat])
}

/// A convolution of floats with a constant `s` per channel of its result.
fn with_constant(cx: &mut Cx<'_>, m: &Match) -> Result<(Conv, Id), Why> {
    let k = super::bound!(cx, m, "k", Conv)?;
    ensure!(cx.dtype(m.root)?.is_float(), "integers");
    let dims = cx.dims(m.root)?;
    ensure!(
        m.inner.get(1).is_some_and(|c| cx.dims(*c).as_ref() == Ok(&dims)),
        "the constant makes the result larger"
    );
    let s = per_channel(cx, m.value("s"), &dims, k.layout.channel_axis(dims.len()))?;
    Ok((k, s))
}

/// `[n]` as `[n, 1, …]` or with the axis elsewhere.
fn on_axis(cx: &mut Cx<'_>, v: Id, rank: usize, axis: usize) -> Result<Id, Why> {
    let mut to = vec![1; rank];
    to[axis] = cx.len(v)?;
    cx.reshape(v, &to)
}

fn scaled(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (k, s) = with_constant(cx, m)?;
    let rank = k.kernel.len() + 2;
    let wide = on_axis(cx, s, rank, 0)?;
    let mut args = vec![m.value("x"), cx.named("mul", &[m.value("w"), wide])?];
    if let Some(b) = plain(cx, m, "b")? {
        args.push(cx.named("mul", &[b, s])?);
    }
    cx.add(k, &args)
}

fn shifted(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (k, s) = with_constant(cx, m)?;
    let b = match plain(cx, m, "b")? {
        Some(b) => cx.named("add", &[b, s])?,
        None => s,
    };
    cx.add(k, &[m.value("x"), m.value("w"), b])
}

/// The constant on the operand, `[C]`, and as `[C/G, 1, …]` a group of the weights would see it (one group only).
fn operand_constant(cx: &mut Cx<'_>, m: &Match, k: &Conv) -> Result<Id, Why> {
    let x = m.value("x");
    let dims = cx.dims(x)?;
    ensure!(
        m.inner.get(1).is_some_and(|c| cx.dims(*c).as_ref() == Ok(&dims)),
        "the constant makes the operand larger"
    );
    ensure!(!cx.is_constant(x), "all constant");
    ensure!(cx.dtype(m.root)?.is_float(), "integers");
    per_channel(cx, m.value("s"), &dims, k.layout.channel_axis(dims.len()))
}

fn of_scaled(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let k = super::bound!(cx, m, "k", Conv)?;
    let s = operand_constant(cx, m, &k)?;
    let w = m.value("w");
    let dims = cx.dims(w)?;
    let rank = dims.len();
    // Weights [O, C/G, …]: with several groups, output o reads the channels of its own.
    let w = if k.group == 1 {
        let s = on_axis(cx, s, rank, 1)?;
        cx.named("mul", &[w, s])?
    } else {
        let (g, per) = (k.group, dims[0] / k.group);
        let mut grouped = vec![g, per];
        grouped.extend_from_slice(&dims[1..]);
        let w = cx.reshape(w, &grouped)?;
        let mut to = vec![1; rank + 1];
        (to[0], to[2]) = (g, dims[1]);
        let s = cx.reshape(s, &to)?;
        let w = cx.named("mul", &[w, s])?;
        cx.reshape(w, &dims)?
    };
    let mut args = vec![m.value("x"), w];
    args.extend(m.list("b"));
    cx.add(k, &args)
}

fn of_shifted(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let k = super::bound!(cx, m, "k", Conv)?;
    ensure!(k.pads.iter().all(|&p| p == 0), "padding would be shifted too");
    ensure!(k.group == 1, "more than one group");
    let s = operand_constant(cx, m, &k)?;
    let w = m.value("w");
    let dims = cx.dims(w)?;
    let s = on_axis(cx, s, dims.len(), 1)?;
    let ws = cx.named("mul", &[w, s])?;
    let sum = cx.add(Reduce { kind: Kind::Sum, axes: (1..dims.len()).collect() }, &[ws])?;
    let mut bias = cx.reshape(sum, &[dims[0]])?;
    if let Some(b) = plain(cx, m, "b")? {
        bias = cx.named("add", &[b, bias])?;
    }
    cx.add(k, &[m.value("x"), w, bias])
}

/// A transposed convolution with a constant per channel of its result, which stands on axis 1, or last.
fn transposed_constant(cx: &mut Cx<'_>, m: &Match) -> Result<(Op, usize, Id), Why> {
    let k = super::bound!(cx, m, "k", ConvTranspose)?;
    ensure!(cx.dtype(m.root)?.is_float(), "integers");
    let dims = cx.dims(m.root)?;
    ensure!(
        m.inner.get(1).is_some_and(|c| cx.dims(*c).as_ref() == Ok(&dims)),
        "the constant makes the result larger"
    );
    let s = per_channel(cx, m.value("s"), &dims, k.layout.channel_axis(dims.len()))?;
    let group = k.group;
    Ok((Op::ConvTranspose(k), group, s))
}

fn transposed_scaled(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (k, group, s) = transposed_constant(cx, m)?;
    let w = m.value("w");
    let dims = cx.dims(w)?;
    // Weights [C, O/G, …]: the channels of a group are rows in a row.
    let mut grouped = vec![group, dims[0] / group];
    grouped.extend_from_slice(&dims[1..]);
    let mut to = vec![1; dims.len() + 1];
    (to[0], to[2]) = (group, dims[1]);
    let wide = cx.reshape(s, &to)?;
    let v = cx.reshape(w, &grouped)?;
    let v = cx.named("mul", &[v, wide])?;
    let v = cx.reshape(v, &dims)?;
    let mut args = vec![m.value("x"), v];
    if let Some(b) = plain(cx, m, "b")? {
        args.push(cx.named("mul", &[b, s])?);
    }
    cx.add(k, &args)
}

fn transposed_shifted(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (k, _, s) = transposed_constant(cx, m)?;
    let b = match plain(cx, m, "b")? {
        Some(b) => cx.named("add", &[b, s])?,
        None => s,
    };
    cx.add(k, &[m.value("x"), m.value("w"), b])
}

fn is_points(k: &Conv) -> bool {
    let ones = |v: &[usize]| v.iter().all(|&n| n == 1);
    ones(&k.kernel) && ones(&k.strides) && k.group == 1 && k.pads.iter().all(|&p| p == 0)
}

fn points_of_points(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (k, l) = (super::bound!(cx, m, "k", Conv)?, super::bound!(cx, m, "l", Conv)?);
    ensure!(is_points(&k) && is_points(&l) && k.layout == l.layout, "not two 1×1 convolutions");
    ensure!(cx.dtype(m.root)?.is_float() && !cx.is_constant(m.value("x")), "integers, or all constant");
    let (u, w) = (m.value("u"), m.value("w"));
    let (ud, wd) = (cx.dims(u)?, cx.dims(w)?);
    let (inner, mid, outer) = (ud[1], ud[0], wd[0]);
    ensure!(outer * inner <= inner * mid + mid * outer, "one convolution would be more work than two");
    let (um, wm) = (cx.reshape(u, &[mid, inner])?, cx.reshape(w, &[outer, mid])?);
    let product = cx.add(MatMul { trans_a: false, trans_b: false }, &[wm, um])?;
    let mut to = vec![1; wd.len()];
    (to[0], to[1]) = (outer, inner);
    let product = cx.reshape(product, &to)?;
    let mut bias = plain(cx, m, "b")?;
    if let Some(c) = plain(cx, m, "c")? {
        let c = cx.reshape(c, &[mid, 1])?;
        let wc = cx.add(MatMul { trans_a: false, trans_b: false }, &[wm, c])?;
        let wc = cx.reshape(wc, &[outer])?;
        bias = Some(match bias {
            Some(b) => cx.named("add", &[b, wc])?,
            None => wc,
        });
    }
    let mut args = vec![m.value("x"), product];
    args.extend(bias);
    cx.add(k, &args)
}

fn parallel(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (k, l) = (super::bound!(cx, m, "k", Conv)?, super::bound!(cx, m, "l", Conv)?);
    let (u, w) = (m.value("u"), m.value("w"));
    ensure!(u < w || k != l, "the other way round is the same");
    ensure!(k.group == l.group && k.strides == l.strides && k.layout == l.layout, "strides or groups differ");
    ensure!(cx.dtype(m.root)?.is_float(), "integers");
    let (ud, wd) = (cx.dims(u)?, cx.dims(w)?);
    ensure!(ud[..2] == wd[..2], "channels differ");
    let n = k.kernel.len();
    let (mut before, mut after) = (vec![0i64; n + 2], vec![0i64; n + 2]);
    // The smaller window is padded with zeros to the larger, where both are centred alike.
    for i in 0..n {
        let (pk, pl) = (k.pads[i] as i64, l.pads[i] as i64);
        let (ek, el) = (k.pads[i + n] as i64, l.pads[i + n] as i64);
        let d = (k.dilations[i], l.dilations[i]);
        ensure!(d.0 == d.1 && (d.0 == 1 || k.kernel[i] == l.kernel[i]), "dilations differ");
        before[i + 2] = pk - pl;
        after[i + 2] = ek - el;
        ensure!(before[i + 2] >= 0 && after[i + 2] >= 0, "the second window is the larger");
        ensure!(
            l.kernel[i] as i64 + before[i + 2] + after[i + 2] == k.kernel[i] as i64,
            "the windows are not centred alike"
        );
    }
    let w = if before.iter().chain(&after).all(|&p| p == 0) {
        w
    } else {
        cx.add(Pad { mode: Mode::Constant, pads: [before, after].concat(), value: Real(0.0) }, &[w])?
    };
    let sum = cx.named("add", &[u, w])?;
    let bias = match (plain(cx, m, "b")?, plain(cx, m, "c")?) {
        (None, None) => None,
        (Some(b), None) | (None, Some(b)) => Some(b),
        (Some(b), Some(c)) => Some(cx.named("add", &[b, c])?),
    };
    let bias = match bias {
        Some(b) => b,
        None => cx.weight(zero_bias(cx.dtype(m.root)?, ud[0])),
    };
    cx.add(k, &[m.value("x"), sum, bias])
}

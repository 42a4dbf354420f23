//! Reductions: composite ones, and reductions of reductions.

use super::{Rule, Why, ensure, rule};
use crate::egraph::matching::{Cx, Match};
use egg::Id;
use tenon_ir::ops::reduce::{Kind, Reduce};

/// The rules of this file.
pub(super) const RULES: &[Rule] = &[
    rule!("sum-square", reassociating, "reduce[sum]@r(mul(x, x))" => with |cx, m| of_kind(cx, m, Kind::SumSquare), "Σ x·x → sum of squares"),
    rule!("l2", reassociating, "sqrt(reduce[sum_square]@r(x))" => with |cx, m| of_kind(cx, m, Kind::L2), "√Σx² → l2 norm"),
    rule!("l1", exact, "reduce[sum]@r(abs(x))" => with |cx, m| of_kind(cx, m, Kind::L1), "Σ|x| → l1 norm"),
    rule!("log-sum", reassociating, "log(reduce[sum]@r(x))" => with |cx, m| of_kind(cx, m, Kind::LogSum), "log Σx → log-sum"),
    rule!("log-sum-exp", reassociating, "log(reduce[sum]@r(exp(x)))" => with |cx, m| of_kind(cx, m, Kind::LogSumExp), "log Σe^x → log-sum-exp"),
    rule!("sum-to-mean", reassociating, "mul(reduce[sum]@r(x), #c)" => with sum_to_mean, "Σx · (1/n) → mean"),
    rule!("reduce-reduce", reassociating, "reduce@a(reduce@b(x))" => with reduce_reduce,
        "a reduction of a reduction of the same kind → one over both axes"),
    rule!("mean-of-points", reassociating, "reduce[mean]@r(conv@k(x, $w, ..b))" => with mean_of_points,
        "mean over places of a 1×1 convolution → 1×1 convolution of the mean"),
    rule!("reduce-one", exact, "reduce@r(x)" => with reduce_one, "sum, mean, max, min, product over axes of extent 1 → x"),
    rule!("pool-everything", reassociating, "pool[average]@p(x)" => with pool_everything, "average pooling of the whole plane → mean"),
    rule!("pool-everything-max", reassociating, "pool[max]@p(x)" => with pool_everything, "max pooling of the whole plane → max; they differ on NaN"),
];

fn of_kind(cx: &mut Cx<'_>, m: &Match, kind: Kind) -> Result<Id, Why> {
    let r = super::bound!(cx, m, "r", Reduce)?;
    ensure!(cx.dtype(m.root)?.is_float(), "integers");
    cx.add(Reduce { kind, axes: r.axes }, &[m.value("x")])
}

fn count(cx: &Cx<'_>, x: Id, axes: &[usize]) -> Result<usize, Why> {
    let dims = cx.dims(x)?;
    Ok(axes.iter().map(|&a| dims[a]).product())
}

fn sum_to_mean(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let r = super::bound!(cx, m, "r", Reduce)?;
    ensure!(cx.dtype(m.root)?.is_float(), "integers truncate");
    let (n, c) = (count(cx, m.value("x"), &r.axes)?, cx.number(m.value("c"))?);
    ensure!(n > 0 && (c * n as f64 - 1.0).abs() < 1e-6, "{c} is not 1/{n}");
    cx.add(Reduce { kind: Kind::Mean, axes: r.axes }, &[m.value("x")])
}

fn reduce_reduce(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (a, b) = (super::bound!(cx, m, "a", Reduce)?, super::bound!(cx, m, "b", Reduce)?);
    let joins = matches!(a.kind, Kind::Sum | Kind::Mean | Kind::Max | Kind::Min | Kind::Prod | Kind::L1 | Kind::L2);
    ensure!(a.kind == b.kind && joins, "{} of {}", a.kind.as_str(), b.kind.as_str());
    ensure!(cx.dtype(m.root)?.is_float() || matches!(a.kind, Kind::Max | Kind::Min), "integers wrap and truncate");
    let mut axes = [a.axes, b.axes].concat();
    axes.sort_unstable();
    axes.dedup();
    cx.add(Reduce { kind: a.kind, axes }, &[m.value("x")])
}

fn mean_of_points(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (r, k) = (super::bound!(cx, m, "r", Reduce)?, super::bound!(cx, m, "k", Conv)?);
    let ones = |v: &[usize]| v.iter().all(|&n| n == 1);
    ensure!(ones(&k.kernel) && ones(&k.strides) && k.pads.iter().all(|&p| p == 0), "not a 1×1 convolution");
    ensure!(cx.dtype(m.root)?.is_float() && !cx.is_constant(m.value("x")), "integers, or all constant");
    let places: Vec<usize> = (0..k.kernel.len()).map(|i| k.layout.spatial_axis(i)).collect();
    ensure!(r.axes.iter().all(|a| places.contains(a)), "a mean over channels");
    let mean = cx.add(r, &[m.value("x")])?;
    let mut args = vec![mean, m.value("w")];
    args.extend(m.list("b"));
    cx.add(k, &args)
}

fn reduce_one(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let r = super::bound!(cx, m, "r", Reduce)?;
    let plain = matches!(r.kind, Kind::Sum | Kind::Mean | Kind::Max | Kind::Min | Kind::Prod);
    ensure!(plain && count(cx, m.value("x"), &r.axes)? == 1, "more than one element is reduced");
    Ok(m.value("x"))
}

fn pool_everything(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    use tenon_ir::ops::pool::PoolKind;
    let p = super::bound!(cx, m, "p", Pool)?;
    let x = m.value("x");
    let dims = cx.dims(x)?;
    let spatial: Vec<usize> = (0..p.kernel.len()).map(|i| p.layout.spatial_axis(i)).collect();
    let all = spatial.iter().zip(&p.kernel).all(|(&a, &k)| dims[a] == k);
    let plain = p.indices.is_none() && p.pads.iter().all(|&v| v == 0) && p.dilations.iter().all(|&d| d == 1);
    ensure!(all && plain, "the window is not the whole plane");
    ensure!(cx.len(m.root)? == cx.len(x)? / p.kernel.iter().product::<usize>().max(1), "more than one window");
    let kind = match p.kind {
        PoolKind::Average => Kind::Mean,
        PoolKind::Max => Kind::Max,
        PoolKind::Lp => return Err("a norm".into()),
    };
    cx.add(Reduce { kind, axes: spatial }, &[x])
}

//! Other ways to compute the same: which is best is the target's to say, through the cost of each operator.
//!
//! An algorithm is an operator of its own (or a composition), so a rule here adds one more node to the class and the
//! extraction weighs it. Its price is in `egraph::cost`, one arm an operator.

use super::{Rule, Why, ensure, rule};
use crate::egraph::matching::{Cx, Match};
use egg::Id;
use tenon_ir::ops::conv::Layout;
use tenon_ir::ops::matmul::MatMul;

/// The rules of this file.
pub(super) const RULES: &[Rule] =
    &[rule!("conv-as-product", reassociating, "conv@k(x, w, ..b)" => with conv_as_product,
        "1×1 convolution, channels last → matrix product of the pixels")];

fn product(cx: &mut Cx<'_>, m: &Match, rows: usize, inner: usize) -> Result<Id, Why> {
    let dims = cx.dims(m.root)?;
    let (x, w) = (m.value("x"), m.value("w"));
    let outer = cx.dims(w)?[0];
    let x = cx.reshape(x, &[rows, inner])?;
    let w = cx.reshape(w, &[outer, inner])?;
    let mut y = cx.add(MatMul { trans_a: false, trans_b: true }, &[x, w])?;
    if let [b] = m.list("b") {
        y = cx.named("add", &[y, *b])?;
    }
    cx.reshape(y, &dims)
}

fn conv_as_product(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let k = super::bound!(cx, m, "k", Conv)?;
    let ones = |v: &[usize]| v.iter().all(|&n| n == 1);
    ensure!(ones(&k.kernel) && ones(&k.strides) && k.group == 1 && k.pads.iter().all(|&p| p == 0), "not 1×1");
    ensure!(k.layout == Layout::ChannelsLast, "channels are not last");
    ensure!(cx.dtype(m.root)?.is_float(), "integers");
    let dims = cx.dims(m.value("x"))?;
    let inner = dims.last().copied().unwrap_or(1);
    ensure!(inner > 0, "no channels");
    product(cx, m, dims.iter().product::<usize>() / inner, inner)
}

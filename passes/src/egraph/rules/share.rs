//! Operators that share an operand become one, whose result is sliced: queries, keys and values; gate and up projections;
//! the 1×1 convolutions of an inception block.
//!
//! Siblings are found through the users of the shared operand, not by a pattern with two roots, which would be quadratic.

use super::{Rule, Why, ensure, rule};
use crate::egraph::matching::{Cx, Match};
use egg::Id;
use tenon_base::Shape;
use tenon_ir::Op;
use tenon_ir::ops::concat::Concat;
use tenon_ir::ops::conv::{Conv, zero_bias};
use tenon_ir::ops::slice::Slice;

/// The rules of this file.
pub(super) const RULES: &[Rule] = &[
    rule!("products-share", reassociating, "matmul@m(x, $w)" => with products_share,
        "x × u, x × v → slices of x × [u v]"),
    rule!("convs-share", reassociating, "conv@k(x, $w, ..b)" => with convs_share,
        "conv(x, u), conv(x, v) with one window → slices of conv(x, [u v])"),
];

/// Siblings that become one at most.
const MOST: usize = 8;

/// Whether a constant is a concatenation: made by these very rules.
fn joined(cx: &Cx<'_>, w: Id) -> bool {
    cx.nodes(w).any(|(op, _)| matches!(op, Op::Concat(_)))
}

/// The classes of products like `op` on `x`, each with its other operands, in the order they were made.
fn siblings(cx: &Cx<'_>, x: Id, is: impl Fn(&Op, &[Id]) -> bool) -> Vec<(Id, Vec<Id>)> {
    let mut all: Vec<(Id, Vec<Id>)> = vec![];
    for (op, args, class) in cx.users(x) {
        let known = all.iter().any(|(c, _)| *c == class);
        if !known && args[0] == x && args[1..].iter().all(|a| cx.is_constant(*a)) && is(&op, &args) {
            all.push((class, args[1..].to_vec()));
        }
    }
    all
}

/// The slice of `whole` on `axis` that begins at `start` and has the shape of `like`.
fn part(cx: &mut Cx<'_>, whole: Id, axis: usize, start: usize, like: Id) -> Result<Id, Why> {
    let to = cx.dims(like)?;
    let mut starts = vec![0; to.len()];
    starts[axis] = start as i64;
    cx.add(Slice { starts, steps: vec![1; to.len()], to: Shape::of(&to) }, &[whole])
}

fn products_share(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let op = super::bound!(cx, m, "m", MatMul)?;
    let (x, root) = (m.value("x"), m.root);
    ensure!(!cx.is_constant(x) && cx.dims(m.value("w"))?.len() == 2, "the weights are no matrix");
    let axis = usize::from(!op.trans_b);
    let all = siblings(cx, x, |o, args| {
        *o == Op::MatMul(op.clone()) && cx.dims(args[1]).is_ok_and(|d| d.len() == 2) && !joined(cx, args[1])
    });
    ensure!(all.len() > 1, "nothing else is multiplied by weights here");
    ensure!(all.len() <= MOST, "more than {MOST} products");
    let weights: Vec<Id> = all.iter().map(|(_, w)| w[0]).collect();
    let extents: Vec<usize> =
        weights.iter().map(|w| Ok(cx.dims(*w)?[1 - usize::from(op.trans_b)])).collect::<Result<_, Why>>()?;
    let at = all.iter().position(|(c, _)| *c == root).ok_or("its weights are joined already")?;
    let w = cx.add(Concat { axis }, &weights)?;
    let y = cx.add(op, &[x, w])?;
    let last = cx.dims(root)?.len() - 1;
    part(cx, y, last, extents[..at].iter().sum(), root)
}

fn convs_share(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let op: Conv = super::bound!(cx, m, "k", Conv)?;
    let (x, root) = (m.value("x"), m.root);
    ensure!(op.group == 1 && !cx.is_constant(x), "several groups, or all constant");
    let all = siblings(cx, x, |o, args| *o == Op::Conv(op.clone()) && !joined(cx, args[1]));
    ensure!(all.len() > 1, "no other convolution like it");
    ensure!(all.len() <= MOST, "more than {MOST} convolutions");
    let at = all.iter().position(|(c, _)| *c == root).ok_or("its weights are joined already")?;
    let dtype = cx.dtype(root)?;
    let (mut weights, mut biases, mut extents) = (vec![], vec![], vec![]);
    for (_, args) in &all {
        let o = cx.dims(args[0])?[0];
        weights.push(args[0]);
        biases.push(args.get(1).copied().unwrap_or_else(|| cx.weight(zero_bias(dtype, o))));
        extents.push(o);
    }
    let w = cx.add(Concat { axis: 0 }, &weights)?;
    let b = cx.add(Concat { axis: 0 }, &biases)?;
    let axis = op.layout.channel_axis(cx.dims(root)?.len());
    let y = cx.add(op, &[x, w, b])?;
    part(cx, y, axis, extents[..at].iter().sum(), root)
}

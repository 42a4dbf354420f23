//! Slices, concatenations, paddings, expansions: what moves elements and computes nothing.

use super::{Rule, Why, ensure, rule};
use crate::egraph::matching::{Cx, Match};
use egg::Id;
use tenon_base::Shape;
use tenon_ir::ops::slice::Slice;
use tenon_ir::ops::transpose::Transpose;
use tenon_ir::{Op, OpClass, Operator};

/// The rules of this file.
pub(super) const RULES: &[Rule] = &[
    rule!("view-view", exact, "reshape@a(reshape@b(x))" => with view_view, "view of a view → one view, or none"),
    rule!("transposes", exact, "transpose@a(transpose@b(x))" => with transposes, "T(T(x)) → one transpose, or none"),
    rule!("transpose-ones", exact, "transpose@a(x)" => with transpose_ones, "transpose that moves axes of extent 1 alone → view"),
    rule!("transpose-of-view", exact, "transpose@a(reshape@b(x))" => with transpose_of_view,
        "T(view(x)) → view(T'(x)), where the view adds or drops axes of extent 1"),
    rule!("slice-slice", exact, "slice@a(slice@b(x))" => with slice_slice, "slice of a slice → one slice"),
    rule!("slice-whole", exact, "slice@a(x)" => with slice_whole, "slice of everything → x"),
    rule!("slice-of-concat", exact, "slice@a(concat@c(..xs))" => with slice_of_concat,
        "slice of a concatenation, within one part → slice of the part"),
    rule!("concat-one", exact, "concat@c(x)" => "x", "concatenation of one → itself"),
    rule!("concat-concat", exact, "concat@c(..xs)" => with concat_concat, "concatenation of concatenations → one"),
    rule!("slice-of-unary", exact, "slice@a(_@f(x))" => with slice_of_unary, "slice(f(x)) → f(slice(x)): less to compute"),
    rule!("slice-of-product", exact, "slice@a(matmul@m(x, y))" => with slice_of_product,
        "some rows of a product → product of some rows: the last token's logits"),
    rule!("gather-one", exact, "gather@g(x, $i)" => with gather_one, "gather with one constant index → slice"),
    rule!("gather-range", exact, "gather@g(x, $i)" => with gather_range, "gather with constant indices at one distance → slice"),
    rule!("expand-into-operand", exact, "_@f(..xs)" => with expand_into_operand,
        "f(x, expand(y)) → f(x, y), where the operator broadcasts itself"),
];

fn view_view(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let to = cx.dims(m.root)?;
    cx.reshape(m.value("x"), &to)
}

fn transposes(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (a, b) = (super::bound!(cx, m, "a", Transpose)?, super::bound!(cx, m, "b", Transpose)?);
    let perm: Vec<usize> = a.perm.iter().map(|&i| b.perm[i]).collect();
    cx.transpose(m.value("x"), &perm)
}

fn transpose_ones(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let a = super::bound!(cx, m, "a", Transpose)?;
    let dims = cx.dims(m.value("x"))?;
    let moved: Vec<usize> = a.perm.iter().copied().filter(|&i| dims[i] != 1).collect();
    ensure!(moved.is_sorted(), "elements move");
    let to = cx.dims(m.root)?;
    cx.reshape(m.value("x"), &to)
}

fn transpose_of_view(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (a, _) = (super::bound!(cx, m, "a", Transpose)?, super::bound!(cx, m, "b", Reshape)?);
    let x = m.value("x");
    let from = cx.dims(x)?;
    let viewed: Vec<usize> = {
        let mut dims = vec![0; a.perm.len()];
        let to = cx.dims(m.root)?;
        a.perm.iter().zip(&to).for_each(|(&p, &d)| dims[p] = d);
        dims
    };
    let real = |d: &[usize]| d.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>();
    ensure!(real(&from) == real(&viewed), "the view splits or joins axes");
    // Positions of the axes that are not 1: the k-th of the view is the k-th of x.
    let axes_x: Vec<usize> = (0..from.len()).filter(|&i| from[i] != 1).collect();
    let axes_v: Vec<usize> = (0..viewed.len()).filter(|&i| viewed[i] != 1).collect();
    let order = a.perm.iter().filter_map(|p| axes_v.iter().position(|v| v == p)).map(|k| axes_x[k]);
    let ones = (0..from.len()).filter(|&i| from[i] == 1);
    let perm: Vec<usize> = ones.chain(order).collect();
    let moved = cx.add(Transpose { perm }, &[x])?;
    let to = cx.dims(m.root)?;
    cx.reshape(moved, &to)
}

fn slice_slice(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (a, b) = (super::bound!(cx, m, "a", Slice)?, super::bound!(cx, m, "b", Slice)?);
    let starts = (0..a.starts.len()).map(|i| b.starts[i] + a.starts[i] * b.steps[i]).collect();
    let steps = (0..a.steps.len()).map(|i| a.steps[i] * b.steps[i]).collect();
    cx.add(Slice { starts, steps, to: a.to }, &[m.value("x")])
}

fn slice_whole(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let a = super::bound!(cx, m, "a", Slice)?;
    let dims = cx.dims(m.value("x"))?;
    let whole = cx.dims(m.root)? == dims && a.steps.iter().zip(&dims).all(|(&s, &d)| s == 1 || d <= 1);
    ensure!(whole, "some elements are left out");
    Ok(m.value("x"))
}

fn extents(cx: &Cx<'_>, all: &[Id], axis: usize) -> Result<Vec<usize>, Why> {
    all.iter().map(|x| Ok(cx.dims(*x)?[axis])).collect()
}

fn slice_of_concat(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (a, c) = (super::bound!(cx, m, "a", Slice)?, super::bound!(cx, m, "c", Concat)?);
    let n = cx.dims(m.root)?[c.axis] as i64;
    ensure!(n > 0, "nothing is taken");
    let (first, last) = (a.starts[c.axis], a.starts[c.axis] + (n - 1) * a.steps[c.axis]);
    let mut before = 0;
    for (x, extent) in m.list("xs").iter().zip(extents(cx, m.list("xs"), c.axis)?) {
        let end = before + extent as i64;
        if first.min(last) >= before && first.max(last) < end {
            let mut starts = a.starts.clone();
            starts[c.axis] -= before;
            let whole = Slice { starts, ..a };
            return cx.add(whole, &[*x]);
        }
        before = end;
    }
    Err("it spans several parts".into())
}

fn concat_concat(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let c = super::bound!(cx, m, "c", Concat)?;
    let mut all = vec![];
    let mut any = false;
    for x in m.list("xs") {
        let inner = cx.nodes(*x).find_map(|(op, args)| match op {
            Op::Concat(d) if d.axis == c.axis => Some(args.to_vec()),
            _ => None,
        });
        any |= inner.is_some();
        all.extend(inner.unwrap_or_else(|| vec![*x]));
    }
    ensure!(any, "no part is a concatenation");
    ensure!(all.len() <= 64, "too many parts");
    cx.add(c, &all)
}

fn slice_of_unary(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let a = super::bound!(cx, m, "a", Slice)?;
    let f = m.op("f").map(|f| cx.op(f).clone()).ok_or("no operator")?;
    ensure!(f.class() == OpClass::Pointwise, "not pointwise");
    ensure!(!cx.is_constant(m.value("x")), "all constant");
    let sliced = cx.add(a, &[m.value("x")])?;
    cx.add(f, &[sliced])
}

fn slice_of_product(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (a, op) = (super::bound!(cx, m, "a", Slice)?, super::bound!(cx, m, "m", MatMul)?);
    let (x, y) = (m.value("x"), m.value("y"));
    let (from, to) = (cx.dims(x)?, cx.dims(m.root)?);
    let r = from.len();
    ensure!(r == to.len(), "batch axes are added");
    let product = cx.dims(m.inner[1])?;
    ensure!(to[..r - 2] == product[..r - 2] && from[..r - 2] == product[..r - 2], "batches are taken");
    ensure!((0..r - 2).all(|i| a.steps[i] == 1 || to[i] <= 1), "batches change places");
    ensure!(to[r - 1] == product[r - 1] && a.steps[r - 1] == 1, "columns are taken");
    let row = if op.trans_a { r - 1 } else { r - 2 };
    let mut s = Slice { starts: vec![0; r], steps: vec![1; r], to: Shape::of(&from) };
    (s.starts[row], s.steps[row]) = (a.starts[r - 2], a.steps[r - 2]);
    let mut kept = from;
    kept[row] = to[r - 2];
    s.to = Shape::of(&kept);
    let rows = cx.add(s, &[x])?;
    cx.add(op, &[rows, y])
}

/// The constant indices, none negative, and the axis.
fn indices(cx: &Cx<'_>, m: &Match) -> Result<(usize, Vec<i64>), Why> {
    let g = super::bound!(cx, m, "g", Gather)?;
    let n = cx.dims(m.value("x"))?[g.axis] as i64;
    let t = cx.data(m.value("i")).ok_or("large indices")?;
    let all: Vec<i64> = t.to_i64().into_iter().map(|i| if i < 0 { i + n } else { i }.clamp(0, n - 1)).collect();
    ensure!(n > 0 && !all.is_empty(), "nothing is taken");
    Ok((g.axis, all))
}

fn gather_one(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (axis, all) = indices(cx, m)?;
    ensure!(all.len() == 1, "several indices");
    taken(cx, m, axis, all[0], 1, 1)
}

fn gather_range(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (axis, all) = indices(cx, m)?;
    ensure!(all.len() > 1, "one index");
    let step = all[1] - all[0];
    ensure!(step != 0 && all.windows(2).all(|w| w[1] - w[0] == step), "the indices are not at one distance");
    taken(cx, m, axis, all[0], step, all.len())
}

/// A slice of `x` along `axis`, under the shape of the match's root.
fn taken(cx: &mut Cx<'_>, m: &Match, axis: usize, start: i64, step: i64, n: usize) -> Result<Id, Why> {
    let x = m.value("x");
    ensure!(!cx.is_constant(x), "all constant");
    let mut dims = cx.dims(x)?;
    dims[axis] = n;
    let mut s = Slice { starts: vec![0; dims.len()], steps: vec![1; dims.len()], to: Shape::of(&dims) };
    (s.starts[axis], s.steps[axis]) = (start, step);
    let part = cx.add(s, &[x])?;
    let to = cx.dims(m.root)?;
    cx.reshape(part, &to)
}

fn expand_into_operand(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let f = m.op("f").map(|f| cx.op(f).clone()).ok_or("no operator")?;
    let xs = m.list("xs").to_vec();
    ensure!(f.class() == OpClass::Pointwise && xs.len() > 1, "it does not broadcast");
    let mut args = xs.clone();
    for a in &mut args {
        let inner = cx.nodes(*a).find_map(|(op, args)| matches!(op, Op::Expand(_)).then(|| args[0]));
        *a = inner.unwrap_or(*a);
    }
    ensure!(args != xs, "no operand is expanded");
    let want = cx.fact(m.root)?.clone();
    let all: Vec<_> = args.iter().map(|a| cx.fact(*a).cloned()).collect::<Result<_, _>>()?;
    ensure!(f.infer(&all).is_ok_and(|f| f.len() == 1 && f[0] == want), "the expansion makes the shape");
    cx.add(f, &args)
}

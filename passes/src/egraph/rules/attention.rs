//! Matrix products, and what stands around them in attention: scales go into weights, transposes into flags.

use super::{Rule, Why, ensure, rule};
use crate::egraph::matching::{Cx, Match};
use egg::Id;
use tenon_ir::ops::matmul::MatMul;

/// The rules of this file.
pub(super) const RULES: &[Rule] = &[
    rule!("scale-into-weights", reassociating, "mul(matmul@m(x, $w), #c)" => with |cx, m| scale_side(cx, m, "w"),
        "(x × w) · c → x × (w · c)"),
    rule!("scale-into-left", reassociating, "mul(matmul@m(x, w), #c)" => with |cx, m| scale_side(cx, m, "x"),
        "(a × b) · c → (a · c) × b"),
    rule!("scale-into-right", reassociating, "mul(matmul@m(x, w), #c)" => with |cx, m| scale_side(cx, m, "w"),
        "(a × b) · c → a × (b · c)"),
    rule!("scale-under-transpose", exact, "mul(transpose@t(x), #c)" => with under_move, "T(x) · c → T(x · c)"),
    rule!("scale-under-view", exact, "mul(reshape@t(x), #c)" => with under_move, "view(x) · c → view(x · c)"),
    rule!("scales-of-factors", reassociating, "matmul@m(mul(x, #a), mul(y, #b))" => with scales_of_factors,
        "(a·x) × (b·y) → (a·b)·x × y: what ONNX's Attention does with √scale"),
    rule!("transpose-into-left", exact, "matmul@m(transpose@t(x), y)" => with |cx, m| transpose_side(cx, m, true),
        "T(x) × y → product with the left operand stored transposed"),
    rule!("transpose-into-right", exact, "matmul@m(x, transpose@t(y))" => with |cx, m| transpose_side(cx, m, false),
        "x × T(y) → product with the right operand stored transposed"),
    rule!("product-of-products", reassociating, "matmul@a(matmul@b(x, $u), $v)" => with product_of_products,
        "(x × u) × v → x × (u × v), where that is less work"),
    rule!("products-summed", reassociating, "add(matmul@m(x, $u), matmul@m(x, $v))" => "m(x, add(u, v))", if alike,
        "x × u + x × v → x × (u + v)"),
];

fn alike(cx: &Cx<'_>, m: &Match) -> Result<(), Why> {
    ensure!(cx.fact(m.value("u"))? == cx.fact(m.value("v"))?, "weights of two shapes");
    ensure!(cx.dtype(m.root)?.is_float() && cx.dtype(m.value("u"))?.is_float(), "integers");
    Ok(())
}

/// One number, of a product of floats.
fn one_number(cx: &Cx<'_>, m: &Match) -> Result<(), Why> {
    ensure!(cx.len(m.value("c"))? == 1, "not one number");
    ensure!(cx.dtype(m.root)?.is_float(), "integers wrap");
    Ok(())
}

fn scale_side(cx: &mut Cx<'_>, m: &Match, side: &str) -> Result<Id, Why> {
    one_number(cx, m)?;
    // A number of many axes gives the product as many.
    ensure!(cx.dims(m.root)? == cx.dims(m.inner[1])?, "other extents than the product");
    let op = super::bound!(cx, m, "m", MatMul)?;
    let scaled = m.value(side);
    let c = cx.number(m.value("c"))?;
    let c = cx.scalar(cx.dtype(m.root)?, c);
    let scaled = cx.named("mul", &[scaled, c])?;
    let args = if side == "x" { [scaled, m.value("w")] } else { [m.value("x"), scaled] };
    cx.add(op, &args)
}

fn under_move(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    ensure!(cx.len(m.value("c"))? == 1, "not one number");
    let t = m.op("t").map(|t| cx.op(t).clone()).ok_or("no operator")?;
    ensure!(!cx.is_constant(m.value("x")), "all constant");
    // A number of many axes gives the product as many.
    ensure!(cx.dims(m.root)? == cx.dims(m.inner[1])?, "other extents than what is moved");
    let c = cx.number(m.value("c"))?;
    let dtype = cx.dtype(m.root)?;
    // Integers beyond 2^53 do not survive a number in f64.
    ensure!(dtype.is_float(), "integers");
    let c = cx.scalar(dtype, c);
    let x = cx.named("mul", &[m.value("x"), c])?;
    cx.add(t, &[x])
}

fn scales_of_factors(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let op = super::bound!(cx, m, "m", MatMul)?;
    let dtype = cx.dtype(m.root)?;
    ensure!(dtype.is_float(), "integers wrap");
    let (a, b) = (m.value("a"), m.value("b"));
    ensure!(cx.len(a)? == 1 && cx.len(b)? == 1, "not one number");
    let ab = cx.number(a)? * cx.number(b)?;
    let ab = cx.scalar(dtype, ab);
    let x = cx.named("mul", &[m.value("x"), ab])?;
    cx.add(op, &[x, m.value("y")])
}

fn transpose_side(cx: &mut Cx<'_>, m: &Match, left: bool) -> Result<Id, Why> {
    let op = super::bound!(cx, m, "m", MatMul)?;
    let t = super::bound!(cx, m, "t", Transpose)?;
    let r = t.perm.len();
    let swaps = r >= 2 && t.perm[..r - 2].iter().copied().eq(0..r - 2) && t.perm[r - 2] == r - 1;
    ensure!(swaps, "more than the matrices' axes move");
    let flipped = if left { MatMul { trans_a: !op.trans_a, ..op } } else { MatMul { trans_b: !op.trans_b, ..op } };
    cx.add(flipped, &[m.value("x"), m.value("y")])
}

fn product_of_products(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (a, b) = (super::bound!(cx, m, "a", MatMul)?, super::bound!(cx, m, "b", MatMul)?);
    let (u, v) = (m.value("u"), m.value("v"));
    let (ud, vd) = (cx.dims(u)?, cx.dims(v)?);
    ensure!(ud.len() == 2 && vd.len() == 2 && !a.trans_a, "not two matrices");
    ensure!(cx.dtype(m.root)?.is_float(), "integers");
    ensure!(!cx.is_constant(m.value("x")), "all constant");
    let (k, n) = if b.trans_b { (ud[1], ud[0]) } else { (ud[0], ud[1]) };
    let p = if a.trans_b { vd[0] } else { vd[1] };
    ensure!(k * p <= k * n + n * p, "{k}×{n}×{p}: one product would be more work than two");
    let uv = cx.add(MatMul { trans_a: b.trans_b, trans_b: a.trans_b }, &[u, v])?;
    cx.add(MatMul { trans_a: b.trans_a, trans_b: false }, &[m.value("x"), uv])
}

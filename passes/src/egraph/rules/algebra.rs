//! Arithmetic with constants, and functions of functions.

use super::{Rule, Why, ensure, rule};
use crate::egraph::matching::{Cx, Match};
use egg::Id;
use tenon_base::{DType, Real, Scalar};
use tenon_ir::ops::cast::Cast;
use tenon_ir::ops::clip::Clip;

/// The rules of this file.
pub(super) const RULES: &[Rule] = &[
    rule!("sub-constant", exact, "sub(x, $c)" => with sub_constant, "x - c → x + (-c)"),
    rule!("div-constant", reassociating, "div(x, $c)" => with div_constant, "x / c → x · (1/c)"),
    rule!("one-over", exact, "div(1, x)" => "reciprocal(x)", if same_shape, "1 / x → reciprocal(x)"),
    rule!("times-reciprocal", reassociating, "mul(x, reciprocal(y))" => "div(x, y)", "x · (1/y) → x / y"),
    rule!("pow-two", reassociating, "pow(x, 2)" => "mul(x, x)", if float_same_shape, "x^2 → x · x"),
    rule!("pow-three", reassociating, "pow(x, 3)" => "mul(mul(x, x), x)", if float_same_shape, "x^3 → x · x · x"),
    rule!("pow-half", reassociating, "pow(x, 0.5)" => "sqrt(x)", if float_same_shape, "x^0.5 → √x"),
    rule!("pow-minus-half", reassociating, "pow(x, -0.5)" => "reciprocal(sqrt(x))", if float_same_shape, "x^-0.5 → 1/√x"),
    rule!("add-neg", exact, "add(x, neg(y))" => "sub(x, y)", "x + (-y) → x - y"),
    rule!("relu-after-nonnegative", exact, "relu(_@f(..xs))" => with relu_after_nonnegative,
        "relu of what is never negative → that itself"),
    rule!("clip-clip", exact, "clip@a(clip@b(x))" => with clip_clip, "two clips → one, where the bounds do not cross"),
    rule!("clip-relu", exact, "clip@a(relu(x))" => with clip_relu, "clip of a relu → a clip from 0"),
    rule!("min-max-clip", exact, "min(max(x, #a), #b)" => with clip_of, "min(max(x, a), b) → clip(x), a ≤ b"),
    rule!("max-min-clip", exact, "max(min(x, #b), #a)" => with clip_of, "max(min(x, b), a) → clip(x), a ≤ b"),
    rule!("cast-cast", exact, "cast@a(cast@b(x))" => with cast_cast,
        "a cast through a dtype that holds every value → one cast, or none"),
    rule!("where-same", exact, "where(c, x, x)" => "x", if same_shape, "either way x → x"),
    rule!("where-not", exact, "where(not(c), x, y)" => "where(c, y, x)", "where not c → the other way round"),
    rule!("scale-lifted", reassociating, "mul(mul(x, #c), y)" => with scale_lifted, "(x · c) · y → (x · y) · c"),
    rule!("add-constants", reassociating, "add(add(x, $a), $b)" => with |cx, m| merge_constants(cx, m, "add"),
        "(x + a) + b → x + (a + b), also where x + a is used elsewhere"),
    rule!("mul-constants", reassociating, "mul(mul(x, $a), $b)" => with |cx, m| merge_constants(cx, m, "mul"),
        "(x · a) · b → x · (a · b), also where x · a is used elsewhere"),
    rule!("scale-of-sum", reassociating, "mul(add(x, $a), #c)" => with scale_of_sum, "(x + a) · c → x · c + a · c"),
    rule!("factor-common", reassociating, "add(mul(x, #c), mul(y, #c))" => "mul(add(x, y), c)", if operands_alike,
        "x · c + y · c → (x + y) · c"),
];

/// `x` has the shape of the whole.
fn same_shape(cx: &Cx<'_>, m: &Match) -> Result<(), Why> {
    ensure!(cx.fact(m.value("x"))? == cx.fact(m.root)?, "the constant makes the result larger");
    Ok(())
}

fn float_same_shape(cx: &Cx<'_>, m: &Match) -> Result<(), Why> {
    ensure!(cx.dtype(m.root)?.is_float(), "integers wrap and truncate");
    same_shape(cx, m)
}

fn operands_alike(cx: &Cx<'_>, m: &Match) -> Result<(), Why> {
    ensure!(cx.fact(m.value("x"))? == cx.fact(m.value("y"))?, "operands of two shapes");
    ensure!(cx.dtype(m.root)?.is_float(), "integers may wrap");
    Ok(())
}

/// A variable part and a constant one: two constants are folded anyway.
fn varies(cx: &Cx<'_>, m: &Match) -> Result<(), Why> {
    ensure!(!cx.is_constant(m.value("x")), "all constant");
    ensure!(cx.dtype(m.root)?.is_float(), "integers wrap and truncate");
    Ok(())
}

fn sub_constant(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    varies(cx, m)?;
    let c = cx.named("neg", &[m.value("c")])?;
    cx.named("add", &[m.value("x"), c])
}

fn div_constant(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    varies(cx, m)?;
    // A divisor of 0, or one whose reciprocal is none, keeps its division.
    let data = cx.data(m.value("c")).ok_or("a large constant")?;
    let dtype = data.dtype();
    let fine = |v: f64| v != 0.0 && Scalar::of_f64(dtype, 1.0 / v).as_f64().is_normal();
    ensure!(data.to_f64().into_iter().all(fine), "a divisor without a reciprocal");
    let c = cx.named("reciprocal", &[m.value("c")])?;
    cx.named("mul", &[m.value("x"), c])
}

fn relu_after_nonnegative(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let relu_of = m.inner.get(1).copied().unwrap_or(m.root);
    let f = m.op("f").ok_or("no operator")?;
    let name = tenon_ir::Operator::name(cx.op(f));
    let never = matches!(name, "sigmoid" | "exp" | "abs" | "softplus" | "sqrt" | "hard_sigmoid" | "softmax" | "relu");
    // The logarithm of a part is at most 0, and the least integer has no absolute value.
    let never = never && !matches!(cx.op(f), tenon_ir::Op::Softmax(s) if s.log) && cx.dtype(m.root)?.is_float();
    ensure!(never, "{name} may be negative");
    Ok(relu_of)
}

fn bounds(c: &Clip) -> (f64, f64) {
    (c.min.map_or(f64::NEG_INFINITY, |r| r.0), c.max.map_or(f64::INFINITY, |r| r.0))
}

/// `clip` between bounds that may be infinite.
pub(super) fn clip(lo: f64, hi: f64) -> Clip {
    Clip { min: lo.is_finite().then_some(Real(lo)), max: hi.is_finite().then_some(Real(hi)) }
}

fn joined(cx: &mut Cx<'_>, x: Id, a: (f64, f64), b: (f64, f64)) -> Result<Id, Why> {
    ensure!(a.0 <= a.1 && b.0 <= b.1, "crossed bounds");
    let (lo, hi) = (a.0.max(b.0), a.1.min(b.1));
    ensure!(lo <= hi, "the bounds do not overlap");
    cx.add(clip(lo, hi), &[x])
}

fn clip_clip(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (a, b) = (super::bound!(cx, m, "a", Clip)?, super::bound!(cx, m, "b", Clip)?);
    joined(cx, m.value("x"), bounds(&a), bounds(&b))
}

fn clip_relu(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let a = super::bound!(cx, m, "a", Clip)?;
    joined(cx, m.value("x"), (0.0, f64::INFINITY), bounds(&a))
}

fn clip_of(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (a, b) = (cx.number(m.value("a"))?, cx.number(m.value("b"))?);
    ensure!(cx.fact(m.value("x"))? == cx.fact(m.root)?, "the bounds make the result larger");
    ensure!(a.abs() <= 9e15 && b.abs() <= 9e15, "bounds that no attribute holds exactly");
    joined(cx, m.value("x"), (a, b), (f64::NEG_INFINITY, f64::INFINITY))
}

/// Whether every value of `a` is one of `b`.
fn holds(b: DType, a: DType) -> bool {
    match (a.int_range(), b.int_range()) {
        _ if a == b => true,
        (Some((lo, hi)), Some((l, h))) => l <= lo && hi <= h,
        (Some((lo, hi)), None) if b.is_float() => {
            let most = match b {
                DType::F64 => 1i128 << 53,
                DType::F32 => 1 << 24,
                DType::F16 => 1 << 11,
                _ => return false,
            };
            -most <= lo && hi <= most
        }
        (None, None) => {
            let plain = |d: DType| matches!(d, DType::F16 | DType::F32 | DType::F64);
            plain(a) && plain(b) && a.size() <= b.size()
        }
        _ => false,
    }
}

fn cast_cast(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (a, b) = (super::bound!(cx, m, "a", Cast)?, super::bound!(cx, m, "b", Cast)?);
    let x = m.value("x");
    let from = cx.dtype(x)?;
    ensure!(from != DType::Bool && b.to != DType::Bool, "a cast to bool is a test");
    ensure!(holds(b.to, from), "{} does not hold every {from}", b.to);
    ensure!(a.saturate.is_none() && b.saturate.is_none(), "a cast that does not saturate");
    if a.to == from { Ok(x) } else { cx.add(Cast::to(a.to), &[x]) }
}

fn scale_lifted(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (x, c, y) = (m.value("x"), m.value("c"), m.value("y"));
    varies(cx, m)?;
    ensure!(!cx.is_constant(y), "the other factor is constant");
    ensure!(cx.len(c)? == 1, "not one number");
    let xy = cx.named("mul", &[x, y])?;
    let rank = cx.dims(m.root)?.len();
    ensure!(cx.dims(c)?.len() <= rank, "the constant has more axes");
    cx.named("mul", &[xy, c])
}

fn merge_constants(cx: &mut Cx<'_>, m: &Match, name: &str) -> Result<Id, Why> {
    let (x, a, b) = (m.value("x"), m.value("a"), m.value("b"));
    varies(cx, m)?;
    let ab = cx.named(name, &[a, b])?;
    ensure!(cx.len(ab)? <= cx.len(x)?, "the constant would be larger than the value");
    cx.named(name, &[x, ab])
}

fn scale_of_sum(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let (x, a, c) = (m.value("x"), m.value("a"), m.value("c"));
    varies(cx, m)?;
    ensure!(cx.len(c)? == 1, "not one number");
    let (xc, ac) = (cx.named("mul", &[x, c])?, cx.named("mul", &[a, c])?);
    cx.named("add", &[xc, ac])
}

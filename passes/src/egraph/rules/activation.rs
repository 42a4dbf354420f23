//! Activations that exporters take apart.

use super::{Rule, Why, ensure, rule};
use crate::egraph::matching::{Cx, Match};
use egg::Id;
use tenon_base::Real;
use tenon_ir::{Attr, Attrs, Op};

/// The rules of this file.
pub(super) const RULES: &[Rule] = &[
    rule!("sigmoid", reassociating, "reciprocal(add(exp(x), 1))" => with sigmoid, "1 / (1 + e^x) → sigmoid(-x)"),
    rule!("silu", reassociating, "mul(x, sigmoid(x))" => "swish{alpha=1.0}(x)", "x · sigmoid(x) → silu"),
    rule!("swish", reassociating, "mul(x, sigmoid(mul(x, #a)))" => with swish, "x · sigmoid(a·x) → swish, also QuickGELU"),
    rule!("hard-sigmoid-scaled", reassociating, "mul(clip@k(add(x, #b)), #c)" => with hard_sigmoid_outer,
        "clip(x + b, 0, h) · c → hard_sigmoid where h · c = 1"),
    rule!("hard-sigmoid-inner", reassociating, "clip@k(add(mul(x, #a), #b))" => with hard_sigmoid_inner,
        "clip(a·x + b, 0, 1) → hard_sigmoid"),
    rule!("hard-swish", reassociating, "mul(x, hard_sigmoid@h(x))" => with hard_swish, "x · hard_sigmoid(x) → hard_swish"),
    rule!("hard-swish-scaled", reassociating, "mul(mul(x, clip@k(add(x, #b))), #c)" => with hard_swish_outer,
        "(x · clip(x + 3, 0, 6)) / 6 → hard_swish"),
    rule!("gelu-half-last", reassociating, "mul(mul(x, add(erf(mul(x, 0.7071067811865476)), 1)), 0.5)" => "gelu{form=erf,alpha=0.0}(x)", if same,
        "x · (1 + erf(x/√2)) · ½ → gelu"),
    rule!("gelu-tanh-half-first", reassociating,
        "mul(mul(x, 0.5), add(tanh(mul(add(x, mul(mul(mul(x, x), x), 0.044715)), 0.7978845608028654)), 1))" => "gelu{form=tanh,alpha=0.0}(x)", if same,
        "(½·x) · (1 + tanh(√(2/π) · (x + 0.044715·x³))) → gelu, tanh form"),
    rule!("gelu-tanh-half-last", reassociating,
        "mul(mul(x, add(tanh(mul(add(x, mul(mul(mul(x, x), x), 0.044715)), 0.7978845608028654)), 1)), 0.5)" => "gelu{form=tanh,alpha=0.0}(x)", if same,
        "x · (1 + tanh(√(2/π) · (x + 0.044715·x³))) · ½ → gelu, tanh form"),
    rule!("gelu-tanh-factored", reassociating,
        "mul(mul(x, 0.5), add(tanh(mul(mul(x, 0.7978845608028654), add(mul(mul(x, x), 0.044715), 1))), 1))" => "gelu{form=tanh,alpha=0.0}(x)", if same,
        "the tanh form of gelu with x · (1 + 0.044715·x²)"),
    rule!("gelu-fast", approximating, "gelu[erf](x)" => "gelu{form=tanh,alpha=0.0}(x)",
        "gelu → its tanh form, within 4.8e-4"),
    rule!("softplus", reassociating, "log(add(exp(x), 1))" => "softplus(x)", if same, "log(1 + e^x) → softplus(x)"),
    rule!("mish", reassociating, "mul(x, tanh(softplus(x)))" => "mish(x)", "x · tanh(softplus(x)) → mish(x)"),
    rule!("softsign", reassociating, "div(x, add(abs(x), 1))" => "softsign(x)", if same, "x / (1 + |x|) → softsign(x)"),
    rule!("relu-max", reassociating, "max(x, 0)" => "relu(x)", if same, "max(x, 0) → relu(x)"),
    rule!("relu-max-left", reassociating, "max(0, x)" => "relu(x)", if same, "max(0, x) → relu(x)"),
    rule!("leaky-where-less", reassociating, "where(less(x, 0), mul(x, #a), x)" => with leaky,
        "a·x where x < 0, else x → leaky_relu: ONNX's own function"),
    rule!("prelu-parts-sum", reassociating, "add(relu(x), mul(neg(relu(neg(x))), $a))" => "prelu(x, a)", if parameter,
        "relu(x) + a · (-relu(-x)) → prelu"),
    rule!("prelu-scaled-negative", reassociating, "add(relu(x), mul(relu(neg(x)), $a))" => with prelu_negative,
        "relu(x) + a · relu(-x) → prelu with -a"),
    rule!("prelu-abs", reassociating, "add(relu(x), mul(sub(x, abs(x)), $a))" => with prelu_abs,
        "relu(x) + a · (x - |x|) → prelu with 2a"),
    rule!("prelu-where", reassociating, "where(less(x, 0), mul(x, a), x)" => "prelu(x, a)", if parameter,
        "a·x where x < 0, else x → prelu: ONNX's own function"),
    rule!("elu-where", reassociating, "where(less(x, 0), sub(exp(x), 1), x)" => "elu{alpha=1.0}(x)", if same,
        "e^x - 1 where x < 0, else x → elu: ONNX's own function"),
    rule!("elu-where-less", reassociating, "where(less(x, 0), mul(sub(exp(x), 1), #a), x)" => with elu,
        "a · (e^x - 1) where x < 0, else x → elu: ONNX's own function"),
];

/// `x` has the shape of the whole: the numbers have no axes that it lacks.
fn same(cx: &Cx<'_>, m: &Match) -> Result<(), Why> {
    ensure!(cx.fact(m.value("x"))? == cx.fact(m.root)?, "a constant makes the result larger");
    ensure!(cx.dtype(m.root)?.is_float(), "integers");
    Ok(())
}

fn parameter(cx: &Cx<'_>, m: &Match) -> Result<(), Why> {
    same(cx, m)?;
    ensure!(!cx.is_constant(m.value("x")), "all constant");
    Ok(())
}

fn activation(name: &str, attrs: &[(&str, f64)]) -> Result<Op, Why> {
    use tenon_ir::Operator;
    let all = attrs.iter().map(|(k, v)| ((*k).to_string(), Attr::Real(Real(*v)))).collect();
    Op::parse(name, Attrs(all)).map_err(Why)
}

fn sigmoid(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    same(cx, m)?;
    let x = m.value("x");
    let negated = cx.nodes(x).find_map(|(op, args)| (tenon_ir::Operator::name(op) == "neg").then(|| args[0]));
    let x = match negated {
        Some(y) => y,
        None => cx.named("neg", &[x])?,
    };
    cx.named("sigmoid", &[x])
}

fn swish(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    same(cx, m)?;
    let a = cx.number(m.value("a"))?;
    cx.add(activation("swish", &[("alpha", a)])?, &[m.value("x")])
}

/// The clip bound as `k` goes from 0 up to `high`.
fn from_zero(cx: &Cx<'_>, m: &Match) -> Result<f64, Why> {
    let k = super::bound!(cx, m, "k", Clip)?;
    ensure!(k.min == Some(Real(0.0)), "the clip does not begin at 0");
    k.max.map(|r| r.0).ok_or_else(|| Why::new("the clip has no upper bound"))
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 5e-7 * b.abs()
}

/// `clip(x + b, 0, h) · c` with `h · c = 1`.
fn hard_sigmoid_outer(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    same(cx, m)?;
    let (h, c) = (from_zero(cx, m)?, cx.number(m.value("c"))?);
    ensure!(near(h * c, 1.0), "clip to {h} times {c} does not end at 1");
    let b = cx.number(m.value("b"))?;
    cx.add(activation("hard_sigmoid", &[("alpha", 1.0 / h), ("beta", b / h)])?, &[m.value("x")])
}

fn hard_sigmoid_inner(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    same(cx, m)?;
    ensure!(from_zero(cx, m)? == 1.0, "the clip does not end at 1");
    let (a, b) = (cx.number(m.value("a"))?, cx.number(m.value("b"))?);
    cx.add(activation("hard_sigmoid", &[("alpha", a), ("beta", b)])?, &[m.value("x")])
}

fn hard_swish(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    same(cx, m)?;
    let h = super::bound!(cx, m, "h", Activation)?;
    let param = |name: &str| match tenon_ir::Operator::attrs(&h).0.get(name) {
        Some(Attr::Real(r)) => r.0,
        _ => f64::NAN,
    };
    ensure!(near(param("alpha"), 1.0 / 6.0) && near(param("beta"), 0.5), "not the slope and offset of hard_swish");
    cx.named("hard_swish", &[m.value("x")])
}

/// `(x · clip(x + 3, 0, 6)) · c` with `c = 1/6`.
fn hard_swish_outer(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    same(cx, m)?;
    let (h, b, c) = (from_zero(cx, m)?, cx.number(m.value("b"))?, cx.number(m.value("c"))?);
    ensure!(h == 6.0 && b == 3.0 && near(c, 1.0 / 6.0), "not the numbers of hard_swish");
    cx.named("hard_swish", &[m.value("x")])
}

fn leaky(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    same(cx, m)?;
    let a = cx.number(m.value("a"))?;
    cx.add(activation("leaky_relu", &[("alpha", a)])?, &[m.value("x")])
}

fn prelu_negative(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    parameter(cx, m)?;
    let a = cx.named("neg", &[m.value("a")])?;
    cx.named("prelu", &[m.value("x"), a])
}

fn prelu_abs(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    parameter(cx, m)?;
    let two = cx.scalar(cx.dtype(m.root)?, 2.0);
    let a = cx.named("mul", &[m.value("a"), two])?;
    cx.named("prelu", &[m.value("x"), a])
}

fn elu(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    same(cx, m)?;
    let a = cx.number(m.value("a"))?;
    cx.add(activation("elu", &[("alpha", a)])?, &[m.value("x")])
}

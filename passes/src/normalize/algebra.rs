//! Arithmetic with constants.

use super::{Class, Rewrite, Rule};
use tenon_base::{Scalar, Tensor};
use tenon_ir::ops::binary::Binary;
use tenon_ir::ops::cast::Cast;
use tenon_ir::{NodeId, Op, Operator, ValueId};

/// The rules of this file.
pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "cast-noop",
        class: Class::Exact,
        doc: "cast to the operand's own dtype → the operand",
        apply: cast_noop,
    },
    Rule {
        name: "neutral-operand",
        class: Class::Exact,
        doc: "x·1, x/1 → x; x-0 → x (x+0 would change -0); integers also x+0 → x",
        apply: neutral_operand,
    },
    Rule {
        name: "constant-right",
        class: Class::Exact,
        doc: "the constant operand of add and mul goes to the right",
        apply: constant_right,
    },
    Rule {
        name: "merge-constants",
        class: Class::Reassociating,
        doc: "(x + c) + d → x + (c + d); (x · c) · d → x · (c · d)",
        apply: merge_constants,
    },
    Rule {
        name: "distribute-constant",
        class: Class::Reassociating,
        doc: "(x + c) · d → x · d + c · d, which lets convolutions absorb both",
        apply: distribute_constant,
    },
];

/// The binary function's name, for floats and integers alike.
pub(super) fn as_binary(op: &Op) -> Option<&'static str> {
    if let Op::Binary(b) = op { Some(b.name()) } else { None }
}

pub(super) fn named(name: &str) -> Option<Binary> {
    Binary::named(name)
}

/// Whether all elements of a constant are equal, and that value is one that `is` accepts. The first element is asked first: most
/// constants are told by it, and large ones are looked at again in every round.
fn uniform(t: &Tensor, is: impl Fn(Scalar) -> bool) -> bool {
    let (bytes, size) = (t.bytes(), t.dtype().size());
    !t.is_empty() && is(t.get(0)) && bytes[size..] == bytes[..bytes.len() - size]
}

fn cast_noop(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    let (to, ins) = cx.operands_if(v, |op| if let Op::Cast(Cast { to, .. }) = op { Some(*to) } else { None })?;
    (cx.graph.fact(ins[0]).dtype == to).then_some(ins[0])
}

fn neutral_operand(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    let (name, ins) = cx.operands_if(v, as_binary)?;
    for (x, k, commutes) in [(ins[0], ins[1], true), (ins[1], ins[0], false)] {
        let neutral_value = |c: Scalar| match (name, c.as_f64()) {
            ("mul", value) => value == 1.0,
            ("div", value) => commutes && value == 1.0,
            ("sub", value) => commutes && value == 0.0 && value.is_sign_positive(),
            ("add", value) => value == 0.0 && c.dtype().is_int(),
            _ => false,
        };
        let neutral = cx.graph.weight(k).is_some_and(|t| uniform(t, neutral_value));
        if neutral && cx.graph.fact(x) == cx.graph.fact(v) {
            return Some(x);
        }
    }
    None
}

fn constant_right(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let (name, ins) = cx.operands_if(ValueId { node: id, port: 0 }, as_binary)?;
    let swap =
        matches!(name, "add" | "mul") && cx.graph.weight(ins[0]).is_some() && cx.graph.weight(ins[1]).is_none();
    if swap { cx.op(named(name)?, &[ins[1], ins[0]]) } else { None }
}

/// `f(f(x, c), d)` with constants `c` and `d`, where the inner result has no other use.
fn merge_constants(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    let (name, outer) = cx.operands_if(v, as_binary)?;
    let (inner_name, inner) = cx.operands_if(outer[0], as_binary)?;
    let constants = cx.graph.weight(outer[1]).is_some() && cx.graph.weight(inner[1]).is_some();
    if !matches!(name, "add" | "mul") || name != inner_name || !constants || !cx.single_use(outer[0]) {
        return None;
    }
    // The merged constant must not be larger than the value it is applied to.
    let merged = cx.op(named(name)?, &[inner[1], outer[1]])?;
    let fits = cx.graph.fact(merged).shape.numel().as_const() <= cx.graph.fact(inner[0]).shape.numel().as_const();
    if !fits || cx.graph.fact(inner[0]).shape.rank() != cx.graph.fact(v).shape.rank() {
        return None;
    }
    cx.op(named(name)?, &[inner[0], merged])
}

fn distribute_constant(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    let (name, outer) = cx.operands_if(v, as_binary)?;
    let (inner_name, inner) = cx.operands_if(outer[0], as_binary)?;
    let constants = cx.graph.weight(outer[1]).is_some() && cx.graph.weight(inner[1]).is_some();
    if name != "mul" || inner_name != "add" || !constants || !cx.single_use(outer[0]) {
        return None;
    }
    // Only worth it where the product can go on into a convolution or a matrix product.
    let absorbs = matches!(cx.graph.op(inner[0].node)?, Op::Conv(_) | Op::MatMul(_)) && cx.single_use(inner[0]);
    if !absorbs || !cx.graph.fact(v).dtype.is_float() {
        return None;
    }
    let product = cx.op(named("mul")?, &[inner[0], outer[1]])?;
    let constant = cx.op(named("mul")?, &[inner[1], outer[1]])?;
    cx.op(named("add")?, &[product, constant])
}

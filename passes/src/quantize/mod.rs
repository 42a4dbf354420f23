//! Integer operators in place of regions that dequantise, compute in floats and quantise.
//!
//! Models come as `QLinear…` operators or as quantise-dequantise pairs around float operators; the importer makes the second of
//! the first. Here both end in the same few operators: convolutions and products of bytes summed in `i32`, moves of
//! bytes, tables, and [`Requantize`](tenon_ir::ops::requantize::Requantize), pointwise, which fuses into what produces its operand.
//! The rules are local and run to a fixpoint:
//!
//! - [`product`]: `conv(DQ x, DQ w, b) → DQ(conv of bytes)`, zero points folded into the bias; the same for matrix products;
//! - [`pointwise`]: `Q(clip(DQ x)) → requantize`, sums of two, products, means of all and of windows;
//! - [`moves`]: `f(DQ x) → DQ(f x)` for what only moves elements or picks the largest, and `Q(f x) → f(Q x)`;
//! - [`table`]: `Q(f(DQ x)) →` 256 entries, for any other function of one element;
//! - [`weights`]: constant bytes that floats are multiplied by stay bytes.
//!
//! What is left is folded (constants) or computed in floats. A result differs from the region's by one step at most,
//! where a value lies within the rounding of `f32` of a tie.

mod moves;
mod nibbles;
mod params;
mod pointwise;
mod product;
pub mod recipe;
mod table;
pub mod weights;

use crate::PassError;
use crate::normalize::{Class, Rewrite};
use crate::pipeline::Math;
use std::collections::BTreeSet;
use tenon_ir::{Graph, NodeId, Op, Operator, ValueId};

/// A rule: looks at one node; gives the value that replaces its result.
pub(crate) type Rule = fn(&mut Rewrite<'_>, NodeId) -> Option<ValueId>;

/// All rules, in the order tried.
pub(crate) const RULES: &[(&str, Rule)] = &[
    ("integer-conv", product::conv),
    ("integer-matmul", product::matmul),
    ("integer-bias", product::bias),
    ("scale-of-scale", product::scale),
    ("pooled-mean", pointwise::pooled_mean),
    ("integer-average", pointwise::average),
    ("integer-mean", pointwise::mean),
    ("integer-mul", pointwise::multiply),
    ("requantize", pointwise::requantize),
    ("requantize-sum", pointwise::sum),
    ("requantize-concat", moves::concat),
    ("dequantize-down", moves::down),
    ("quantize-up", moves::up),
    ("lookup", table::lookup),
];

/// Constant weights that stay integers beside floats: each rule once over the graph, after all others.
const KEPT: &[(&str, Rule)] = &[("nibble-weights", nibbles::product), ("stored-weights", weights::matmul)];

/// Rounds after which the rules are taken to loop: a bug, reported as such.
const MAX_ROUNDS: usize = 200;

/// Applies the rules until none applies, then folds what is left of quantised constants; gives how often one did.
/// Weights beside floats stay bytes where `math` allows other orders of products.
pub fn integers(graph: &mut Graph, math: Math) -> Result<usize, PassError> {
    integers_watched(graph, math, &mut |_, _| {})
}

/// The same, telling `watch` the rule and the place each time.
pub fn integers_watched(
    graph: &mut Graph,
    math: Math,
    watch: &mut dyn FnMut(&'static str, &tenon_base::Loc),
) -> Result<usize, PassError> {
    let internal = |message: String| PassError::Internal { pass: "integers".into(), message };
    let quantised = |g: &Graph| g.nodes().any(|n| matches!(g.op(n), Some(Op::Dequantize(_) | Op::Quantize(_))));
    if !quantised(graph) {
        return Ok(0);
    }
    let mut fired = 0;
    for _ in 0..MAX_ROUNDS {
        let mut changed = false;
        for id in graph.topological().map_err(|e| internal(e.to_string()))? {
            if graph.op(id).is_none() {
                continue;
            }
            let old = ValueId { node: id, port: 0 };
            for &(name, rule) in RULES {
                let loc = graph.node(id).loc.clone();
                let Some(new) = rule(&mut Rewrite::new(graph, loc.clone()), id) else { continue };
                if new == old {
                    return Err(internal(format!("rule `{name}` replaces {loc} by itself")));
                }
                graph.replace(old, new).map_err(|e| internal(format!("rule `{name}` at {loc}: {e}")))?;
                watch(name, &loc);
                changed = true;
                fired += 1;
                break;
            }
        }
        graph.remove_dead();
        crate::fold::fold(graph)?;
        if !changed {
            if Class::Reassociating.allowed(math) {
                for &(name, rule) in KEPT {
                    fired += once(graph, name, rule, watch)?;
                }
            }
            fold_constants(graph)?;
            return Ok(fired);
        }
    }
    Err(internal(format!("the rules did not end within {MAX_ROUNDS} rounds")))
}

/// Applies `rule` at every node that there is now; gives how often it fired.
fn once(
    graph: &mut Graph,
    name: &'static str,
    rule: Rule,
    watch: &mut dyn FnMut(&'static str, &tenon_base::Loc),
) -> Result<usize, PassError> {
    let fail = |message: String| PassError::Internal { pass: "integers".into(), message };
    let mut fired = 0;
    for id in graph.topological().map_err(|e| fail(e.to_string()))? {
        let loc = graph.node(id).loc.clone();
        let Some(new) = rule(&mut Rewrite::new(graph, loc.clone()), id) else { continue };
        graph.replace(ValueId { node: id, port: 0 }, new).map_err(|e| fail(e.to_string()))?;
        watch(name, &loc);
        fired += 1;
    }
    graph.remove_dead();
    Ok(fired)
}

/// Dequantises the constants that no integer operator took.
fn fold_constants(graph: &mut Graph) -> Result<(), PassError> {
    let internal = |message: String| PassError::Internal { pass: "integers".into(), message };
    let mut folded = BTreeSet::new();
    for id in graph.topological().map_err(|e| internal(e.to_string()))? {
        let Some(Op::Dequantize(op)) = graph.op(id).cloned() else { continue };
        let operands = graph.operands(id);
        let Some(ins) = operands.iter().map(|v| graph.weight(*v).cloned()).collect::<Option<Vec<_>>>() else {
            continue;
        };
        let Ok(outs) = op.eval(&ins) else { continue };
        let loc = graph.node(id).loc.clone();
        for t in outs {
            let new = graph.add_weight("", t);
            graph.set_loc(new.node, loc.clone());
            graph.replace(ValueId { node: id, port: 0 }, new).map_err(|e| internal(e.to_string()))?;
        }
        folded.insert(id);
    }
    if !folded.is_empty() {
        crate::fold::fold(graph)?;
    }
    Ok(())
}

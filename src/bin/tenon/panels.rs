//! Graphs as pictures: the model as it was read, and its kernels.

use std::collections::BTreeMap;
use tenon::drawing::{Item, Panel};
use tenon::ir::{Graph, NodeId, NodeKind, OpClass, Operator, ValueId};
use tenon::passes::group::{Group, root};
use tenon::passes::pipeline::State;

/// Operators of a graph.
pub(crate) fn operators(g: &Graph) -> usize {
    g.nodes().filter(|n| g.op(*n).is_some()).count()
}

/// The colour of an operator.
fn kind(g: &Graph, n: NodeId) -> &'static str {
    let Some(op) = g.op(n) else { return "io" };
    match (op.name(), op.class()) {
        ("conv" | "conv_transpose", _) => "conv",
        ("matmul", _) => "matmul",
        ("softmax" | "layer_norm" | "reduce" | "pool", _) => "reduce",
        (_, OpClass::Pointwise) => "map",
        (_, OpClass::Move | OpClass::View) => "move",
        _ => "other",
    }
}

/// The model as imported, an operator a box.
pub(crate) fn model_panel(g: &Graph) -> Panel {
    let mut at: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut items = vec![];
    // What is computed of constants alone is constant.
    let mut hidden = 0;
    for id in g.topological().unwrap_or_default() {
        let node = g.node(id);
        let title = match &node.kind {
            NodeKind::Input(name) => name.clone(),
            NodeKind::Weight(..) => continue,
            NodeKind::Op(op) => op.name().to_string(),
        };
        let needs: Vec<usize> = g.operands(id).iter().filter_map(|v| at.get(&v.node).copied()).collect();
        if needs.is_empty() && g.op(id).is_some() {
            hidden += 1;
            continue;
        }
        let result = node.facts.first().map_or(String::new(), ToString::to_string);
        at.insert(id, items.len());
        items.push(Item { lines: vec![title], hint: format!("{} {result}", node.loc), kind: kind(g, id), needs });
    }
    let constant = if hidden > 0 { format!(" ({hidden} constant)") } else { String::new() };
    Panel { title: format!("imported: {} operators{constant}", operators(g)), items }
}

/// The kernels, each a box of its operators.
pub(crate) fn kernel_panel(state: &State) -> Panel {
    let g = &state.graph;
    let mut at: BTreeMap<ValueId, usize> = BTreeMap::new();
    let mut items = vec![];
    for &id in g.inputs() {
        if let NodeKind::Input(name) = &g.node(id).kind {
            at.insert(ValueId { node: id, port: 0 }, items.len());
            items.push(Item { lines: vec![name.clone()], hint: String::new(), kind: "io", needs: vec![] });
        }
    }
    for (i, group) in state.groups.iter().enumerate() {
        let Group { anchor, .. } = group;
        let name = |n: &NodeId| g.op(*n).map_or("?", |o| o.name()).to_string();
        let mut lines: Vec<String> = vec![name(anchor)];
        lines.extend(group.epilogue.iter().map(|n| format!("+ {}", name(n))));
        lines.extend(group.inlined.iter().map(|n| format!("⤷ {}", name(n))));
        let mut needs: Vec<usize> = vec![];
        for n in group.nodes() {
            for v in g.operands(n) {
                needs.extend(at.get(&root(g, v)).copied());
            }
        }
        needs.sort_unstable();
        needs.dedup();
        let hint = state.decisions.kernels.get(i).map_or(String::new(), |k| {
            format!("kernel {i}: {:.1} kcycles, {}\nfrom {}", k.cycles / 1e3, k.result, k.from.join(", "))
        });
        for port in 0..g.node(group.last()).facts.len() {
            at.insert(ValueId { node: group.last(), port: port as u16 }, items.len());
        }
        items.push(Item { lines, hint, kind: kind(g, *anchor), needs });
    }
    Panel { title: format!("optimised: {} kernels", state.groups.len()), items }
}

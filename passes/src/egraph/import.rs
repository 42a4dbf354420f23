//! Graph → e-graph.

use super::node::{Egraph, Head, Node, Tables, add, add_data};
use crate::PassError;
use egg::Id;
use std::collections::BTreeMap;
use tenon_base::Fact;
use tenon_ir::{Graph, NodeKind, ValueId};

/// An e-graph and the classes of the model's outputs.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The e-graph, rebuilt.
    pub eg: Egraph,
    /// The classes of the outputs, in the model's order.
    pub roots: Vec<Id>,
}

/// The e-graph of `graph`: one class a value. Equal operators on equal operands are one node, which is common
/// subexpression elimination for nothing.
pub fn import(graph: &Graph) -> Result<Imported, PassError> {
    let internal = |message: String| PassError::Internal { pass: "egraph".into(), message };
    let inputs: Vec<Fact> =
        graph.inputs().iter().map(|&node| graph.fact(ValueId { node, port: 0 }).clone()).collect();
    let mut eg = Egraph::new(Tables::new(inputs));
    let mut values: BTreeMap<ValueId, Id> = BTreeMap::new();
    for (i, &node) in graph.inputs().iter().enumerate() {
        values.insert(ValueId { node, port: 0 }, eg.add(Node::new(Head::Input(i as u32), &[])));
    }
    for id in graph.topological().map_err(|e| internal(e.to_string()))? {
        let node = graph.node(id);
        let v = ValueId { node: id, port: 0 };
        match &node.kind {
            NodeKind::Input(_) => {}
            NodeKind::Weight(name, t) => {
                values.insert(v, add_data(&mut eg, name, t.clone()));
            }
            NodeKind::Op(op) => {
                eg.analysis.current.places = eg.analysis.place(&node.loc);
                let args: Vec<Id> = graph.operands(id).iter().map(|v| values[v]).collect();
                let class = add(&mut eg, op.clone(), &args).map_err(internal)?;
                if let [_] = node.facts[..] {
                    values.insert(v, class);
                    continue;
                }
                for port in 0..node.facts.len() as u16 {
                    let one = eg.add(Node::new(Head::Port(port), &[class]));
                    values.insert(ValueId { node: id, port }, one);
                }
            }
        }
    }
    eg.analysis.current.places = eg.analysis.place(&tenon_base::Loc::none());
    eg.rebuild();
    let roots = graph.outputs().iter().map(|(_, v)| eg.find(values[v])).collect();
    Ok(Imported { eg, roots })
}

//! The text form of graphs (`.tir`): `parse(print(g))` is `g`, up to the numbering of values, for every verified `g`.
//!
//! ```text
//! graph conv_relu(%x: f32[1,3,224,224]) -> ("y": %2) {
//!   %0 = weight "conv.w" : f32[64,3,7,7] = hex"…"
//!   %1 = conv(%x, %0) {pads=[3,3,3,3], strides=[2,2]} : f32[1,64,112,112]  @ "Conv_0"
//!   %2 = relu(%1) : f32[1,64,112,112]  @ "Relu_1"
//! }
//! ```
//!
//! - One node a line, operands before their users. Inputs stand in the head by name, outputs with the name the model
//!   gave them; all other values are numbered in the order of the lines. Read back, any name will do: `%k`, `%"a/b"`.
//! - Data of a weight follows its type: `[1.0, -2.5]`, or little-endian `hex"…"` beyond 16 elements. `<elided>` stands
//!   for data left out of a print for reading ([`PrintOptions`]); such text does not read back.
//! - Attributes are written as [`crate::Attr`] prints them: `true`, `7`, `0.5`, `f32`, `"linear"`, `[1,2]`, `<[2,batch]>`.
//! - The body of a loop is an attribute too, a graph in its own words: `body=graph body(%i: i64[]) -> (…) { … }`.
//! - A node may list several results, `%3, %4 = split(%x) {axis=0} : f32[1], f32[2]`. Types of operators may be left out
//!   when writing by hand; they are inferred. Where they are given they must be what is inferred.
//! - `("y": %4 sized "y_dims", "y_dims": %5)`: the extents of `y` are known only at run time, `y_dims` tells them.
//! - The model's location of a node trails it: `@ "Conv_0"`. `//` begins a comment.

mod parse;
mod print;

pub use print::{PrintOptions, print};
pub use tenon_base::text::ParseError;

use crate::{Graph, Node, NodeId, ValueId};
use std::collections::BTreeMap;

impl Graph {
    /// Reads a graph; the inverse of `Display`. What it gives passes [`crate::verify`](crate::verify::verify) except
    /// for names used twice. Text from anywhere may be given: it is never trusted.
    pub fn parse(text: &str) -> Result<Graph, ParseError> {
        parse::graph(text)
    }

    /// Whether both graphs have the same name, inputs, outputs and nodes, connected alike. Ids may differ: nodes are
    /// compared in topological order, ties taken in order of insertion.
    pub fn same_as(&self, other: &Graph) -> bool {
        match (Canonical::of(self), Canonical::of(other)) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        }
    }
}

/// A graph without its ids.
#[derive(PartialEq)]
struct Canonical<'g> {
    name: &'g str,
    inputs: Vec<&'g Node>,
    nodes: Vec<(&'g Node, Vec<(usize, u16)>)>,
    outputs: Vec<(&'g str, (usize, u16))>,
    sized: &'g BTreeMap<usize, usize>,
}

impl<'g> Canonical<'g> {
    /// `None` for a graph with a cycle, or with an operand or output that does not exist.
    fn of(graph: &'g Graph) -> Option<Canonical<'g>> {
        let order = lines(graph)?;
        let position: BTreeMap<NodeId, usize> =
            graph.inputs().iter().chain(&order).enumerate().map(|(i, &n)| (n, i)).collect();
        let value = |v: &ValueId| Some((*position.get(&v.node)?, v.port));
        let node = |id: &NodeId| {
            let operands = graph.operands(*id).iter().map(value).collect::<Option<_>>()?;
            Some((graph.node(*id), operands))
        };
        Some(Canonical {
            name: &graph.name,
            inputs: graph.inputs().iter().map(|&id| graph.node(id)).collect(),
            nodes: order.iter().map(node).collect::<Option<_>>()?,
            sized: graph.sized(),
            outputs: graph.outputs().iter().map(|(n, v)| Some((n.as_str(), value(v)?))).collect::<Option<_>>()?,
        })
    }
}

/// The nodes that have a line, in their order: all but the inputs. `None` if there is a cycle.
fn lines(graph: &Graph) -> Option<Vec<NodeId>> {
    let mut order = graph.topological().ok()?;
    order.retain(|id| !graph.inputs().contains(id));
    Some(order)
}

//! Printing graphs. Prints anything, verified or not.

use super::lines;
use crate::{Attr, Graph, NodeId, NodeKind, Operator, ValueId};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use tenon_base::Loc;
use tenon_base::text::{name, quoted, word, write_data};

/// What to print.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrintOptions {
    /// Data of weights of more elements is left out: `<elided>`. Such text is for reading only.
    pub longest_data: Option<usize>,
    /// Comments below the lines of nodes, in order.
    pub notes: BTreeMap<NodeId, Vec<String>>,
}

impl PrintOptions {
    /// For people: data of more than 16 elements is left out.
    pub fn for_reading() -> PrintOptions {
        PrintOptions { longest_data: Some(16), ..PrintOptions::default() }
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self, &PrintOptions::default()))
    }
}

/// The text of `graph`.
pub fn print(graph: &Graph, options: &PrintOptions) -> String {
    // Of a graph with a cycle, the order of ids is the best there is.
    let order = lines(graph).unwrap_or_else(|| graph.nodes().filter(|id| !graph.inputs().contains(id)).collect());
    let mut p = Printer { graph, options, names: BTreeMap::new(), out: String::new() };
    p.number(&order);
    p.head();
    for id in graph.inputs() {
        p.notes(*id);
    }
    for id in order {
        p.line(id);
        p.notes(id);
    }
    p.out.push_str("}\n");
    p.out
}

struct Printer<'g> {
    graph: &'g Graph,
    options: &'g PrintOptions,
    /// The name of every value, `%` included.
    names: BTreeMap<ValueId, String>,
    out: String,
}

impl Printer<'_> {
    fn number(&mut self, order: &[NodeId]) {
        for &node in self.graph.inputs() {
            let mut text = String::new();
            match &self.graph.node(node).kind {
                NodeKind::Input(n) => name(&mut text, n),
                _ => text.push_str("%<not an input>"),
            }
            self.names.insert(ValueId { node, port: 0 }, text);
        }
        let mut next = 0;
        for &node in order {
            for port in 0..self.graph.node(node).facts.len() as u16 {
                self.names.insert(ValueId { node, port }, format!("%{next}"));
                next += 1;
            }
        }
    }

    fn value(&mut self, v: ValueId) {
        self.out.push_str(self.names.get(&v).map_or("%<no such value>", String::as_str));
    }

    fn comma(&mut self, i: usize) {
        if i > 0 {
            self.out.push_str(", ");
        }
    }

    fn head(&mut self) {
        self.out.push_str("graph ");
        word(&mut self.out, &self.graph.name);
        self.out.push('(');
        for (i, &node) in self.graph.inputs().iter().enumerate() {
            self.comma(i);
            self.value(ValueId { node, port: 0 });
            let node = self.graph.node(node);
            for fact in &node.facts {
                let _ = write!(self.out, ": {fact}");
            }
            self.loc(" ", &node.loc);
        }
        self.out.push_str(") -> (");
        for (i, (label, v)) in self.graph.outputs().iter().enumerate() {
            self.comma(i);
            quoted(&mut self.out, label);
            self.out.push_str(": ");
            self.value(*v);
            if let Some((name, _)) = self.graph.sized().get(&i).and_then(|k| self.graph.outputs().get(*k)) {
                self.out.push_str(" sized ");
                quoted(&mut self.out, name);
            }
        }
        self.out.push_str(") {\n");
    }

    fn line(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        self.out.push_str("  ");
        for port in 0..node.facts.len() {
            self.comma(port);
            self.value(ValueId { node: id, port: port as u16 });
        }
        self.out.push_str(" = ");
        match &node.kind {
            NodeKind::Weight(label, _) => {
                self.out.push_str("weight");
                if !label.is_empty() {
                    self.out.push(' ');
                    quoted(&mut self.out, label);
                }
            }
            NodeKind::Op(op) => {
                self.out.push_str(op.name());
                self.out.push('(');
                for (i, v) in self.graph.operands(id).into_iter().enumerate() {
                    self.comma(i);
                    self.value(v);
                }
                self.out.push(')');
                let attrs = op.attrs();
                for (i, (key, attr)) in attrs.0.iter().enumerate() {
                    let _ = write!(self.out, "{}{key}=", if i > 0 { ", " } else { " {" });
                    match attr {
                        Attr::Graph(body) => self.nested(body.graph()),
                        attr => {
                            let _ = write!(self.out, "{attr}");
                        }
                    }
                }
                if !attrs.0.is_empty() {
                    self.out.push('}');
                }
            }
            // Not listed among the inputs: ill formed.
            NodeKind::Input(label) => {
                self.out.push_str("input ");
                quoted(&mut self.out, label);
            }
        }
        for (i, fact) in node.facts.iter().enumerate() {
            let _ = write!(self.out, "{}{fact}", if i > 0 { ", " } else { " : " });
        }
        if let NodeKind::Weight(_, tensor) = &node.kind {
            self.out.push_str(" = ");
            if self.options.longest_data.is_some_and(|n| tensor.len() > n) {
                self.out.push_str("<elided>");
            } else {
                write_data(&mut self.out, tensor);
            }
        }
        self.loc("  ", &node.loc);
        self.out.push('\n');
    }

    /// A graph inside an attribute, its lines further in.
    fn nested(&mut self, graph: &Graph) {
        let options = PrintOptions { notes: BTreeMap::new(), ..self.options.clone() };
        for (i, line) in print(graph, &options).lines().enumerate() {
            self.out.push_str(if i > 0 { "\n    " } else { "" });
            self.out.push_str(line);
        }
    }

    fn loc(&mut self, space: &str, loc: &Loc) {
        if let Some(n) = loc.name() {
            self.out.push_str(space);
            self.out.push_str("@ ");
            quoted(&mut self.out, n);
        }
    }

    fn notes(&mut self, id: NodeId) {
        for note in self.options.notes.get(&id).into_iter().flatten() {
            for line in note.lines() {
                let _ = writeln!(self.out, "  // {line}");
            }
        }
    }
}

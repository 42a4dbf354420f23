//! A graph inside an operator: the body of a loop.

use crate::Graph;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A graph inside an operator. Two are equal when their graphs are, but for the numbers of nodes.
#[derive(Clone, Debug)]
pub struct Region(Arc<Graph>);

impl Region {
    /// Wraps `graph`.
    pub fn new(graph: Graph) -> Region {
        Region(Arc::new(graph))
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.0
    }

    /// The graph, to change it.
    pub fn into_graph(self) -> Graph {
        Arc::unwrap_or_clone(self.0)
    }
}

impl PartialEq for Region {
    fn eq(&self, other: &Region) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.same_as(&other.0)
    }
}

impl Eq for Region {}

impl Hash for Region {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // A summary: weights may be large.
        self.0.name.hash(state);
        (self.0.len(), self.0.inputs().len(), self.0.outputs().len()).hash(state);
        self.0.outputs().iter().for_each(|(name, v)| (name, self.0.contains(*v)).hash(state));
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

//! Always-good rewrites: destructive, directional, confluent, run to a fixpoint.
//!
//! Rewrites with a trade-off do not belong here but in the e-graph. How to write one: it never makes code worse, looks at
//! a bounded part of the graph, matches from the *last* node of its pattern, and replaces that node's result.

use crate::PassError;
use crate::pipeline::Math;
use std::collections::BTreeSet;
use tenon_base::Loc;
use tenon_ir::{Graph, NodeId, Op, ValueId};

mod algebra;
mod conv;
mod views;

pub use crate::rule::Class;

/// A rewrite, as data.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Unique.
    pub name: &'static str,
    /// What it does to the bits.
    pub class: Class,
    /// `before → after`, in words.
    pub doc: &'static str,
    /// Looks at one node; gives the value that replaces its (first) result.
    pub apply: fn(&mut Rewrite<'_>, NodeId) -> Option<ValueId>,
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:?}): {}", self.name, self.class, self.doc)
    }
}

/// The rules by file, in the order tried.
pub fn themes() -> [(&'static str, &'static [Rule]); 3] {
    [("view", views::RULES), ("algebra", algebra::RULES), ("conv", conv::RULES)]
}

/// All rules, in the order tried.
pub fn rules() -> Vec<Rule> {
    themes().iter().flat_map(|(_, r)| r.iter().copied()).collect()
}

/// What a rule may do: look at the graph and add to it.
#[derive(Debug)]
pub struct Rewrite<'g> {
    /// The graph.
    pub graph: &'g mut Graph,
    loc: Loc,
}

impl<'g> Rewrite<'g> {
    /// On `graph`; what is added is located at `loc`.
    pub(crate) fn new(graph: &'g mut Graph, loc: Loc) -> Rewrite<'g> {
        Rewrite { graph, loc }
    }
}

impl Rewrite<'_> {
    /// Adds an operator with one result; `None` if it cannot take its operands (then the rule does not apply).
    pub fn op(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> Option<ValueId> {
        let loc = self.loc.clone();
        self.graph.add_op(op, operands, loc).ok().map(|v| v[0])
    }

    /// The operands of `node` if it is the operator that `is` recognises.
    pub fn operands_if<T>(&self, v: ValueId, is: impl Fn(&Op) -> Option<T>) -> Option<(T, Vec<ValueId>)> {
        let found = is(self.graph.op(v.node)?)?;
        Some((found, self.graph.operands(v.node)))
    }

    /// Whether nothing but one operator uses `v`.
    pub fn single_use(&self, v: ValueId) -> bool {
        self.graph.use_count(v) == 1
    }
}

/// Rounds after which the rules are taken to loop: a bug, reported as such.
const MAX_ROUNDS: usize = 200;

/// Applies all rules that `math` allows until none applies; gives how often one did.
pub fn normalize(graph: &mut Graph, math: Math) -> Result<usize, PassError> {
    normalize_watched(graph, math, &mut |_, _| {})
}

/// The same, telling `watch` the rule and the place each time.
pub fn normalize_watched(
    graph: &mut Graph,
    math: Math,
    watch: &mut dyn FnMut(&Rule, &Loc),
) -> Result<usize, PassError> {
    let internal = |message: String| PassError::Internal { pass: "normalize".into(), message };
    let allowed: Vec<Rule> = rules().into_iter().filter(|r| r.class.allowed(math)).collect();
    let mut fired = 0;
    for _ in 0..MAX_ROUNDS {
        let mut changed = BTreeSet::new();
        for id in graph.topological().map_err(|e| internal(e.to_string()))? {
            if graph.op(id).is_none() {
                continue;
            }
            let old = ValueId { node: id, port: 0 };
            let loc = graph.node(id).loc.clone();
            let mut cx = Rewrite { graph, loc: loc.clone() };
            for rule in &allowed {
                let Some(new) = (rule.apply)(&mut cx, id) else { continue };
                if new == old {
                    return Err(internal(format!("rule `{}` replaces {loc} by itself", rule.name)));
                }
                graph.replace(old, new).map_err(|e| internal(format!("rule `{}` at {loc}: {e}", rule.name)))?;
                watch(rule, &loc);
                changed.insert(id);
                fired += 1;
                break;
            }
        }
        crate::fold::fold(graph)?;
        if changed.is_empty() {
            return Ok(fired);
        }
    }
    Err(internal(format!("the rules did not end within {MAX_ROUNDS} rounds")))
}

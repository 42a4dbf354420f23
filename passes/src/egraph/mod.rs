//! The optimiser: an e-graph holds every form of the model that the rules know of; the kernels that cost least are chosen.
//!
//! ```text
//! graph ─ import ─► e-graph ─ saturate ─► space ─ cover ─► problem ─ extract ─► emit ─► graph + groups
//! ```
//!
//! - [`import`]: one class a value; equal operators on equal operands are one node.
//! - [`saturate`]: rules ([`rules`]) add other forms of values; nothing is lost, so their order does not matter.
//! - [`cover`]: for every class the ways to compute it in one kernel; fusion is part of the choice, not a pass after it.
//! - [`extract`]: the choice with the least sum of prices ([`cost`]), each kernel counted once.
//! - [`emit`]: back to a graph, and the partition into kernels that `crate::lower` writes.
//!
//! Only this crate knows egg, and only as a data structure: union-find, congruence, hash-consing.

pub mod check;
pub mod constants;
pub mod cost;
pub mod cover;
pub mod decisions;
pub mod emit;
pub mod extract;
pub mod import;
pub mod matching;
pub mod node;
pub mod rules;
pub mod saturate;
pub mod space;

use crate::PassError;
use crate::group::Group;
use crate::pipeline::{Settings, State};
use cost::Cost;
use cover::Cover;
use decisions::Decisions;
use saturate::Limits;
use space::Space;
use tenon_ir::{Graph, Op};

/// What the optimiser gives.
#[derive(Clone, Debug)]
pub struct Optimized {
    /// The graph as chosen.
    pub graph: Graph,
    /// Its kernels, in an order in which they can run.
    pub groups: Vec<Group>,
    /// What was decided, and why.
    pub decisions: Decisions,
}

/// Optimises the graph of `state`, whose loops' bodies are optimised already. Gives how often rules applied, at least 1: the nodes
/// are new ones.
pub fn run(state: &mut State, settings: &Settings) -> Result<usize, PassError> {
    let o = optimize(&state.graph, settings)?;
    // Bodies are kept by the loops' nodes, which have other names now; equal loops have equal bodies.
    let old: Vec<(Op, State)> = std::mem::take(&mut state.regions)
        .into_iter()
        .filter_map(|(id, body)| Some((state.graph.op(id)?.clone(), body)))
        .collect();
    for id in o.graph.nodes() {
        if let Some(op @ Op::Repeat(_)) = o.graph.op(id)
            && let Some((_, body)) = old.iter().find(|(known, _)| known == op)
        {
            state.regions.insert(id, body.clone());
        }
    }
    (state.graph, state.groups, state.decisions) = (o.graph, o.groups, o.decisions);
    Ok(state.decisions.fired.iter().map(|f| f.at.len()).sum::<usize>().max(1))
}

/// Optimises `graph` for the target and the mathematics of `settings`.
pub fn optimize(graph: &Graph, settings: &Settings) -> Result<Optimized, PassError> {
    // egg takes the time of what it does, for reports that nobody reads, by a clock that first measures itself for up to a fifth of
    // a second, the longer the busier the machine is. A clock that stands still needs none of that.
    let (stopped, _) = quanta::Clock::mock();
    quanta::with_clock(&stopped, || optimize_by_rules(graph, settings))
}

fn optimize_by_rules(graph: &Graph, settings: &Settings) -> Result<Optimized, PassError> {
    let internal = |message: String| PassError::Internal { pass: "egraph".into(), message };
    let imported = import::import(graph)?;
    let mut eg = imported.eg;
    let ready = rules::ready(settings.math).map_err(|e| internal(e.to_string()))?;
    let before = eg.total_size();
    let saturation = saturate::saturate(&mut eg, ready, &Limits::for_graph(before)).map_err(internal)?;
    let space = Space::new(&eg, &imported.roots);
    let cover = Cover::new(&space, Cost::new(&settings.target).rounding_factors(settings.rounds_factors()));
    let mut problem = cover.problem();
    problem.prune();
    let (solution, price) =
        extract::extract(&problem).ok_or_else(|| internal("an output cannot be made".to_string()))?;
    let choice = |c: u32| {
        let tag = problem.classes[c as usize][solution[c as usize]? as usize].tag;
        Some((tag, cover.cuts[c as usize][tag as usize].clone()))
    };
    let emitted = emit::emit(&space, &choice, graph, &imported.roots).map_err(internal)?;
    let decisions = Decisions::new(&decisions::Run {
        rules: ready,
        saturation: &saturation,
        space: &space,
        cover: &cover,
        problem: &problem,
        solution: &solution,
        price,
        nodes: [before, eg.total_size()],
        emitted: &emitted,
    });
    Ok(Optimized { graph: emitted.graph, groups: emitted.groups, decisions })
}

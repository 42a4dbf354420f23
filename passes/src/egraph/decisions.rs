//! What the optimiser decided, and why: what `tenon explain` shows.

use super::cover::{At, Cover};
use super::emit::{Chosen, Emitted};
use super::extract::{Alternatives, Problem, Solution};
use super::rules::Ready;
use super::saturate::Saturation;
use super::space::{Part, Space};
use crate::rule::Class;
use std::collections::BTreeMap;
use tenon_ir::Operator;

/// A rule and where it applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired {
    /// The rule.
    pub rule: &'static str,
    /// Its file.
    pub theme: &'static str,
    /// What it does to the bits.
    pub class: Class,
    /// What it does, in words.
    pub doc: &'static str,
    /// The ONNX nodes of each place.
    pub at: Vec<Vec<String>>,
    /// Kernels of the result that have a node made by it.
    pub used: usize,
}

/// A rule whose pattern matched somewhere, but that did not apply there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// The rule.
    pub rule: &'static str,
    /// Why not, most frequent first: the reason, how often, and the ONNX nodes of the first place.
    pub why: Vec<(String, usize, Vec<String>)>,
}

/// Another way to make a kernel's result, and what it would have cost more.
#[derive(Clone, Debug, PartialEq)]
pub struct Alternative {
    /// Its operators.
    pub ops: Vec<&'static str>,
    /// Rules it needs that the choice does not.
    pub rules: Vec<&'static str>,
    /// Cycles more, all else as it is.
    pub loses: f64,
}

/// A kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelChoice {
    /// Its operators: the anchor first, then the epilogue, then what is inlined.
    pub ops: Vec<&'static str>,
    /// The ONNX nodes it came from.
    pub from: Vec<String>,
    /// Rules that made its nodes.
    pub rules: Vec<&'static str>,
    /// Its price in cycles.
    pub cycles: f64,
    /// The best of the alternatives that lost.
    pub runner_up: Option<Alternative>,
    /// Its result, as `f32[1,64]`.
    pub result: String,
}

/// All decisions of one compile.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decisions {
    /// Rules that applied, in the order tried.
    pub fired: Vec<Fired>,
    /// Near misses.
    pub missed: Vec<Missed>,
    /// Kernels, in the order they run.
    pub kernels: Vec<KernelChoice>,
    /// The sum of their prices, in cycles.
    pub cycles: f64,
    /// Nodes of the e-graph before and after saturation.
    pub nodes: [usize; 2],
    /// Rounds of saturation.
    pub rounds: usize,
    /// Limits that were hit.
    pub limits: Vec<String>,
}

/// What decisions are read from.
pub(super) struct Run<'r, 's, 'e> {
    pub(super) rules: &'r [Ready],
    pub(super) saturation: &'r Saturation,
    pub(super) space: &'r Space<'e>,
    pub(super) cover: &'r Cover<'s, 'e>,
    pub(super) problem: &'r Problem,
    pub(super) solution: &'r Solution,
    pub(super) price: f64,
    pub(super) nodes: [usize; 2],
    pub(super) emitted: &'r Emitted,
}

/// Places of near misses that are kept for each reason.
const PLACES: usize = 8;

impl Decisions {
    pub(super) fn new(run: &Run<'_, '_, '_>) -> Decisions {
        let mut others = Alternatives::to(run.problem, run.solution);
        let kernels: Vec<KernelChoice> = (0..run.emitted.chosen.len()).map(|i| run.kernel(i, &mut others)).collect();
        let names = |p| run.space.eg.analysis.names(p).into_iter().map(str::to_string).collect::<Vec<_>>();
        let (mut fired, mut missed) = (vec![], vec![]);
        for (rule, tally) in run.rules.iter().zip(&run.saturation.rules) {
            if !tally.fired.is_empty() {
                let used = kernels.iter().filter(|k| k.rules.contains(&rule.rule.name)).count();
                fired.push(Fired {
                    rule: rule.rule.name,
                    theme: rule.rule.theme,
                    class: rule.rule.class,
                    doc: rule.rule.doc,
                    at: tally.fired.iter().map(|n| names(n.places)).collect(),
                    used,
                });
            }
            let mut why: BTreeMap<&str, (usize, Vec<String>)> = BTreeMap::new();
            for note in &tally.missed {
                let Some(w) = &note.why else { continue };
                let entry = why.entry(&w.0).or_insert_with(|| (0, names(note.places)));
                entry.0 += 1;
            }
            if !why.is_empty() {
                let mut why: Vec<_> = why.into_iter().map(|(w, (n, at))| (w.to_string(), n, at)).collect();
                why.sort_by_key(|(w, n, _)| (std::cmp::Reverse(*n), w.clone()));
                why.truncate(PLACES);
                missed.push(Missed { rule: rule.rule.name, why });
            }
        }
        Decisions {
            fired,
            missed,
            kernels,
            cycles: run.price,
            nodes: run.nodes,
            rounds: run.saturation.rounds,
            limits: run.saturation.limits.clone(),
        }
    }
}

impl Run<'_, '_, '_> {
    fn ops(&self, nodes: &[At]) -> Vec<&'static str> {
        nodes
            .iter()
            .filter(|at| self.space.item(**at).part != Part::View)
            .filter_map(|at| self.space.op(*at).map(|o| o.name()))
            .collect()
    }

    fn rules_of(&self, nodes: &[At]) -> Vec<&'static str> {
        let mut ids: Vec<u32> = nodes.iter().filter_map(|at| self.space.item(*at).origin.rule).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.iter().filter_map(|i| self.rules.get(*i as usize)).map(|r| r.rule.name).collect()
    }

    fn kernel(&self, i: usize, others: &mut Alternatives<'_>) -> KernelChoice {
        let Chosen { class, cut, tag } = &self.emitted.chosen[i];
        let t = &self.space.eg.analysis;
        let graph = &self.emitted.graph;
        let ops: Vec<&'static str> =
            self.emitted.groups[i].nodes().filter_map(|n| graph.op(n)).map(|o| o.name()).collect();
        let mut places: Vec<_> = cut.nodes.iter().map(|at| self.space.item(*at).origin.places).collect();
        places.sort_by_key(|p| t.first(*p));
        let mut from: Vec<String> = vec![];
        for name in places.into_iter().flat_map(|p| t.names(p)) {
            if !from.iter().any(|f| f == name) {
                from.push(name.to_string());
            }
        }
        let rules = self.rules_of(&cut.nodes);
        let runner_up = self.runner_up(*class, *tag, &rules, others);
        let facts = &self.space.classes[*class as usize].facts;
        let result = facts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        KernelChoice { ops, from, cycles: cut.cost, runner_up, rules, result }
    }

    fn runner_up(&self, class: u32, tag: u32, rules: &[&str], others: &mut Alternatives<'_>) -> Option<Alternative> {
        let choices = &self.problem.classes[class as usize];
        let lost = choices.iter().enumerate().filter(|(_, c)| c.tag != tag);
        let priced = lost.filter_map(|(i, c)| Some((others.difference(class, i as u32)?, c)));
        let (loses, choice) = priced.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.tag.cmp(&b.1.tag)))?;
        let cut = &self.cover.cuts[class as usize][choice.tag as usize];
        let needs = self.rules_of(&cut.nodes).into_iter().filter(|r| !rules.contains(r)).collect();
        Some(Alternative { ops: self.ops(&cut.nodes), rules: needs, loses })
    }
}

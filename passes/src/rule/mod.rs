//! What all rewrites have in common, whichever stage applies them: a name, a class, a theme, and what they do as text.
//!
//! Each rule lives in exactly one stage. The *normaliser* (`crate::normalize`) applies what is always good, destructively;
//! the *e-graph* (`crate::egraph`) what has a trade-off, or what another order of rules could hide. `docs/RULES.md` is
//! printed from [`table`], and a test holds it to that.

pub mod pattern;

use crate::pipeline::Math;
use std::fmt;

/// What a rewrite does to the bits of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Keeps every bit.
    Exact,
    /// Another order of sums or products, or other roundings of the same formula.
    Reassociating,
    /// Another formula, within a stated bound.
    Approximating,
    /// Fewer bits.
    Lossy,
}

impl Class {
    /// As in tables.
    pub fn name(self) -> &'static str {
        match self {
            Class::Exact => "exact",
            Class::Reassociating => "reassociating",
            Class::Approximating => "approximating",
            Class::Lossy => "lossy",
        }
    }

    /// Whether `--math` allows it. Lossy rewrites need a recipe besides and are never chosen by `--math` alone.
    pub fn allowed(self, math: Math) -> bool {
        match self {
            Class::Exact => true,
            Class::Reassociating => math >= Math::Default,
            Class::Approximating => math >= Math::Fast,
            Class::Lossy => false,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who applies a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The destructive rewriter of `crate::normalize`.
    Normalizer,
    /// The e-graph.
    Egraph,
}

/// A rule as a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Unique among all rules.
    pub name: &'static str,
    /// Which file it is in: `algebra`, `conv`, …
    pub theme: &'static str,
    /// Who applies it.
    pub stage: Stage,
    /// What it does to the bits.
    pub class: Class,
    /// `before → after`.
    pub doc: &'static str,
}

/// Every rule, by stage, then in the order tried.
pub fn table() -> Vec<Info> {
    let mut all: Vec<Info> = crate::normalize::themes()
        .iter()
        .flat_map(|(theme, rules)| {
            rules.iter().map(|r| Info { name: r.name, theme, stage: Stage::Normalizer, class: r.class, doc: r.doc })
        })
        .collect();
    all.extend(crate::egraph::rules::all().into_iter().map(|r| Info {
        name: r.name,
        theme: r.theme,
        stage: Stage::Egraph,
        class: r.class,
        doc: r.doc,
    }));
    all
}

/// Models that nobody wrote to try a rule with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A model of the zoo.
    Zoo,
    /// One of ONNX's operator cases; most are the bodies of the standard's own functions.
    Onnx,
    /// A small model of a real architecture with drawn weights, as its exporter wrote it, in `snapshot-tests/models`.
    Kept,
}

/// Where a rule of the e-graph applies, and how often at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The rule.
    pub rule: &'static str,
    /// What kind of model it is.
    pub origin: Origin,
    /// The model's name.
    pub model: &'static str,
    /// Places of the model at which the rule applies.
    pub times: usize,
}

/// Where each rule of the e-graph was seen, in their order: a rule that is seen nowhere is dead weight. Tests look whether it is
/// so (`passes/tests/zoo.rs`). `None` if the list does not read.
pub fn seen() -> Option<Vec<Seen>> {
    let read = |line: &'static str| {
        let [rule, origin, model, times] = line.split(" | ").collect::<Vec<_>>()[..] else { return None };
        let origin = match origin {
            "zoo" => Origin::Zoo,
            "onnx" => Origin::Onnx,
            "model" => Origin::Kept,
            _ => return None,
        };
        Some(Seen { rule, origin, model, times: times.parse().ok()? })
    };
    include_str!("seen.txt").lines().map(read).collect()
}

/// The table as a page of the documentation.
pub fn markdown() -> String {
    use std::fmt::Write;
    let all = table();
    let seen = seen().unwrap_or_default();
    let place = |rule: &str| match seen.iter().find(|s| s.rule == rule) {
        Some(Seen { origin: Origin::Zoo, model, times, .. }) => format!("{model}, {times}"),
        Some(Seen { origin: Origin::Onnx, model, times, .. }) => format!("ONNX's `{model}`, {times}"),
        Some(Seen { origin: Origin::Kept, model, times, .. }) => format!("kept `{model}`, {times}"),
        None => String::new(),
    };
    let mut out = String::from(
        "# Rewrite rules\n\nPrinted by `tenon rules --markdown` from the rules' own data; a test holds this page to it.\n\n\
         Classes: *exact* keeps every bit; *reassociating* takes sums, products or roundings of one formula in another order \
         (`--math default`); *approximating* takes another formula within a stated bound (`--math fast`). The normaliser applies \
         what is always good; the e-graph what has a trade-off. *Seen in* names a model in which a rule of the e-graph applies, and in \
         how many places: one of the zoo, else one of ONNX's operator cases (most are bodies of the standard's functions), else (*kept*) \
         a small model of a real architecture in `snapshot-tests/models`. Tests assert these numbers.\n",
    );
    for stage in [Stage::Normalizer, Stage::Egraph] {
        let rules: Vec<&Info> = all.iter().filter(|r| r.stage == stage).collect();
        let name = if stage == Stage::Normalizer { "Normaliser" } else { "E-graph" };
        let (head, rule) = if stage == Stage::Egraph { (" Seen in |", "---|") } else { ("", "") };
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "\n## {name}: {} rules\n\n| Rule | Theme | Class | What it does |{head}\n|---|---|---|---|{rule}\n",
            rules.len()
        );
        for r in rules {
            let _ = write!(out, "| `{}` | {} | {} | {} |", r.name, r.theme, r.class, r.doc.replace('|', "\\|"));
            let _ = if stage == Stage::Egraph { writeln!(out, " {} |", place(r.name)) } else { writeln!(out) };
        }
    }
    out
}

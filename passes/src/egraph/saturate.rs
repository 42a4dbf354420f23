//! Saturation: applies rules until nothing new is found, or a limit is hit.
//!
//! Limits are checked inside the loop that applies matches, not after a batch: a rule that explodes is stopped where it does,
//! and what was stopped is reported.

use super::matching::{Cx, Match, matches};
use super::node::{Egraph, Head, Origin, fact};
use super::rules::{Ready, Why};
use egg::{Id, Language};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What a saturation may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rounds.
    pub rounds: usize,
    /// Nodes, beyond those imported.
    pub nodes: usize,
    /// Nodes of one class.
    pub class: usize,
    /// Applications of one rule in one round.
    pub rule: usize,
    /// Matches of one rule at one class.
    pub matches: usize,
}

impl Limits {
    /// For a graph of `nodes`: generous for what rules that end need, small beside what compiling costs.
    pub fn for_graph(nodes: usize) -> Limits {
        Limits { rounds: 15, nodes: 2000 + 6 * nodes, class: 48, rule: 1000 + 2 * nodes, matches: 16 }
    }
}

/// What happened to one rule at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The ONNX nodes.
    pub places: super::node::Places,
    /// Why it did not apply; nothing when it did.
    pub why: Option<Why>,
}

/// What one rule did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Places where it told something new.
    pub fired: Vec<Note>,
    /// Places where its pattern matched and it did not apply.
    pub missed: Vec<Note>,
}

/// What a saturation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saturation {
    /// By the rule's position.
    pub rules: Vec<Tally>,
    /// Rounds.
    pub rounds: usize,
    /// Limits that were hit, in words.
    pub limits: Vec<String>,
}

/// Applies `rules` to `eg`.
///
/// # Errors
/// A rule made two values equal that have different types: a bug of the rule.
pub fn saturate(eg: &mut Egraph, rules: &[Ready], limits: &Limits) -> Result<Saturation, String> {
    let mut out = Saturation { rules: vec![Tally::default(); rules.len()], ..Saturation::default() };
    let most = eg.total_size() + limits.nodes;
    let names: Vec<Rc<_>> = rules.iter().map(|r| Rc::new(r.pattern.names.clone())).collect();
    let mut done: BTreeSet<(usize, Vec<Id>)> = BTreeSet::new();
    // How often the e-graph changed, and up to where each rule has seen that.
    let mut changes = 0usize;
    let mut seen: Vec<Option<usize>> = vec![None; rules.len()];
    loop {
        if out.rounds == limits.rounds {
            out.hit(format!("{} rounds", limits.rounds));
            return Ok(out);
        }
        out.rounds += 1;
        let mut changed = false;
        for (r, rule) in rules.iter().enumerate() {
            // It would find what it found, all of which is done.
            if seen[r] == Some(changes) {
                continue;
            }
            let (before, mut all) = (changes, true);
            let found = search(eg, rule, &names[r], limits);
            let mut applied = 0;
            let (nodes, mut told) = (eg.nodes().len(), false);
            for m in found {
                if eg.total_size() >= most {
                    out.hit(format!("{most} nodes, at rule `{}`", rule.rule.name));
                    eg.rebuild();
                    return Ok(out);
                }
                if applied == limits.rule {
                    out.hit(format!("{} applications of rule `{}` in a round", limits.rule, rule.rule.name));
                    all = false;
                    break;
                }
                let m = m.canonical(eg);
                if !done.insert((r, m.key())) {
                    continue;
                }
                if eg[m.root].len() >= limits.class {
                    out.hit(format!("{} nodes of one value, at rule `{}`", limits.class, rule.rule.name));
                    continue;
                }
                applied += 1;
                told |= apply(eg, rule, &m, &mut out.rules[r])?;
            }
            changed |= told;
            // Rules of a round see what those before them made. A rebuild walks through all classes, so most rules go without.
            if told || eg.nodes().len() > nodes {
                eg.rebuild();
                changes += 1;
            }
            seen[r] = all.then_some(before);
        }
        if !changed {
            return Ok(out);
        }
    }
}

impl Saturation {
    fn hit(&mut self, what: String) {
        if !self.limits.contains(&what) {
            self.limits.push(what);
        }
    }
}

/// Matches at all classes that have the pattern's root, lowest first.
fn search(eg: &Egraph, rule: &Ready, names: &Rc<crate::rule::pattern::Names>, limits: &Limits) -> Vec<Match> {
    let mut classes: Vec<Id> = match rule.pattern.root_name() {
        Some(name) => eg.classes_for_op(&name).map_or(vec![], |c| c.collect()),
        None => eg.classes().map(|c| c.id).collect(),
    };
    classes.sort_unstable();
    let mut all = vec![];
    for c in classes {
        // What is constant is folded, not rewritten.
        if eg[c].data.constant.is_none() {
            all.extend(matches(eg, &rule.pattern, names, c, limits.matches));
        }
    }
    all
}

/// Applies a rule to a match; gives whether that told something new.
fn apply(eg: &mut Egraph, rule: &Ready, m: &Match, tally: &mut Tally) -> Result<bool, String> {
    let places: Vec<_> = m.inner.iter().map(|c| eg[*c].data.places).collect();
    let places = eg.analysis.union_places(places);
    let before = eg.analysis.current;
    eg.analysis.current = Origin { rule: Some(rule.id), places };
    let mut cx = Cx { eg };
    let made =
        rule.rule.when.map_or(Ok(()), |when| when(&cx, m)).and_then(|()| match (rule.rule.build, &rule.result) {
            (super::rules::Build::With(f), _) => f(&mut cx, m),
            (_, Some(text)) => cx.instantiate(text, m),
            _ => Err(Why::new("nothing to make")),
        });
    cx.eg.analysis.current = before;
    let new = match made {
        Ok(new) => new,
        Err(why) => {
            // One operator alone is no near miss: every convolution would be one of some rule.
            if m.inner.len() > 1 {
                tally.missed.push(Note { places, why: Some(why) });
            }
            return Ok(false);
        }
    };
    let (root, new) = (eg.find(m.root), eg.find(new));
    if root == new {
        return Ok(false);
    }
    if fact(eg, root) != fact(eg, new) {
        let show = |id| fact(eg, id).map_or("no value".to_string(), ToString::to_string);
        return Err(format!("rule `{}` makes a {} of a {}", rule.rule.name, show(new), show(root)));
    }
    if only_constants_differ(eg, root, new) {
        tally.missed.push(Note { places, why: Some(Why::new("known already, but for its constants")) });
        return Ok(false);
    }
    eg.union(root, new);
    tally.fired.push(Note { places, why: None });
    Ok(true)
}

/// Whether class `root` has all that `new` has, up to constants. Without this guard rules that fold constants in different
/// orders keep making operators that differ in nothing else.
fn only_constants_differ(eg: &Egraph, root: Id, new: Id) -> bool {
    let varying = |args: &[Id]| -> Vec<Option<Id>> {
        args.iter().map(|a| eg[eg.find(*a)].data.constant.is_none().then(|| eg.find(*a))).collect()
    };
    let heavy = |name: &str| matches!(name, "conv" | "matmul" | "conv_transpose" | "layer_norm");
    eg[new].nodes.iter().all(|n| match n.head {
        Head::Op(name, op) if heavy(name) => eg[root].nodes.iter().any(|o| match o.head {
            Head::Op(_, other) => {
                op == other
                    && n.children().len() == o.children().len()
                    && varying(n.children()) == varying(o.children())
            }
            _ => false,
        }),
        _ => false,
    })
}

/// How often each rule fired, by name.
pub fn counts(s: &Saturation, rules: &[Ready]) -> BTreeMap<&'static str, usize> {
    let fired = s.rules.iter().zip(rules).filter(|(t, _)| !t.fired.is_empty());
    fired.map(|(t, r)| (r.rule.name, t.fired.len())).collect()
}

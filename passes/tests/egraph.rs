//! The rules of the e-graph: each fires on its case, is true there on drawn tensors in all combinations with the others, and
//! leaves its near miss alone; what the optimiser makes of the cases computes the same.

mod support;

use std::collections::BTreeSet;
use support::{cases, inputs, variants};
use tenon_ir::{Graph, Operator};
use tenon_passes::egraph::rules::{Rule, all, read};
use tenon_passes::egraph::saturate::{Limits, counts, saturate};
use tenon_passes::egraph::{check::class_wise, import::import, node::Egraph};
use tenon_passes::pipeline::{Math, Phase, Settings};
use tenon_passes::rule::{Class, seen};
use tenon_target::Target;

/// Saturates `graph` with `rules`; gives the e-graph and the rules that fired.
fn saturated(graph: &Graph, rules: &[Rule]) -> (Egraph, BTreeSet<&'static str>) {
    let mut eg = import(graph).expect("imports").eg;
    let ready = read(rules).expect("patterns");
    let limits = Limits::for_graph(eg.total_size());
    let s = saturate(&mut eg, &ready, &limits).expect("types agree");
    assert_eq!(s.limits, [""; 0], "{graph}");
    (eg, counts(&s, &ready).into_keys().collect())
}

fn up_to(class: Class) -> Vec<Rule> {
    all().into_iter().filter(|r| r.class <= class).collect()
}

/// Within a class: single precision, reassociated a few times.
fn tolerance(class: Class) -> f64 {
    match class {
        Class::Exact => 0.0,
        Class::Reassociating => 2e-5,
        Class::Approximating | Class::Lossy => 2e-3,
    }
}

#[test]
fn every_rule_has_a_case_and_every_case_a_rule() {
    let all: BTreeSet<String> = all().iter().map(|r| r.name.to_string()).collect();
    let covered: BTreeSet<String> = cases().into_iter().map(|c| c.rule).collect();
    assert_eq!(covered, all);
}

#[test]
fn names_are_unique() {
    let mut names: Vec<&str> = tenon_passes::rule::table().iter().map(|r| r.name).collect();
    names.sort_unstable();
    let n = names.len();
    names.dedup();
    assert_eq!(names.len(), n);
}

#[test]
fn every_rule_fires_on_its_case_and_is_true_with_all_others() {
    let mut failures = vec![];
    let (mut nodes, mut classes) = (0, 0);
    for case in cases() {
        let rule = all().into_iter().find(|r| r.name == case.rule).expect("a rule");
        let class = rule.class.max(Class::Reassociating);
        let (eg, fired) = saturated(&case.fires, &up_to(class));
        if !fired.contains(rule.name) {
            failures.push(format!("`{}` did not fire; these did: {fired:?}", rule.name));
        }
        match class_wise(&eg, &inputs(&case.fires), tolerance(class)) {
            Ok(c) => (nodes, classes) = (nodes + c.nodes, classes + c.classes),
            Err(e) => failures.push(format!("`{}` is not true: {e}\n  {fired:?}", rule.name)),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(nodes > 800 && classes > 180, "{nodes} nodes in {classes} classes were compared");
}

#[test]
fn exact_rules_keep_every_bit() {
    for case in cases() {
        let rule = all().into_iter().find(|r| r.name == case.rule).expect("a rule");
        if rule.class == Class::Exact {
            let (eg, _) = saturated(&case.fires, &up_to(Class::Exact));
            if let Err(e) = class_wise(&eg, &inputs(&case.fires), 0.0) {
                panic!("`{}`: {e}", rule.name);
            }
        }
    }
}

#[test]
fn no_rule_fires_on_its_near_miss() {
    let mut failures = vec![];
    for case in cases() {
        let rule = all().into_iter().find(|r| r.name == case.rule).expect("a rule");
        let class = rule.class.max(Class::Reassociating);
        let (eg, fired) = saturated(&case.near_miss, &up_to(class));
        if fired.contains(rule.name) {
            failures.push(format!("`{}` fired on its near miss", rule.name));
        }
        if let Err(e) = class_wise(&eg, &inputs(&case.near_miss), tolerance(class)) {
            failures.push(format!("near miss of `{}`: {e}", rule.name));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Rules compose: each way of writing becomes the operator it means, and few kernels.
#[test]
fn what_exporters_take_apart_is_recognised() {
    let target = Target::parse("x86-64-v3").expect("a target");
    let settings = Settings::new(target, Math::Default, "case");
    let mut failures = vec![];
    for (name, op, kernels, graph) in variants() {
        let ins = inputs(&graph);
        let expected = tenon_ir::eval::run(&graph, &ins).expect("runs");
        let state = tenon_passes::run(graph, &settings, Phase::Planned, &mut |_, _, _| {}).expect("compiles");
        let ops: Vec<&str> = state.graph.nodes().filter_map(|n| state.graph.op(n)).map(|o| o.name()).collect();
        if !ops.contains(&op.as_str()) || state.groups.len() > kernels {
            failures.push(format!("{name}: {} kernels of {ops:?}", state.groups.len()));
        }
        let found = tenon_kernel::run_program(&state.program, &ins).expect("runs");
        for (a, b) in found[0].to_f64().iter().zip(expected[0].to_f64()) {
            assert!((a - b).abs() <= 2e-5 * (1.0 + b.abs()), "{name}: {a} against {b}");
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A rule that applies nowhere but in its own case is dead weight. What real models have is looked at in `zoo.rs`.
#[test]
fn every_rule_is_seen_in_a_real_model() {
    let seen = seen().expect("passes/src/rule/seen.txt reads");
    let names: Vec<&str> = seen.iter().map(|s| s.rule).collect();
    let rules: Vec<&str> = all().iter().map(|r| r.name).collect();
    assert_eq!(names, rules, "one line a rule, in their order");
    let never: Vec<&str> = seen.iter().filter(|s| s.times == 0).map(|s| s.rule).collect();
    assert!(never.is_empty(), "{never:?}");
}

#[test]
fn strict_mathematics_has_exact_rules_only() {
    for r in all() {
        assert_eq!(r.class.allowed(Math::Strict), r.class == Class::Exact, "{}", r.name);
    }
}

#[test]
fn what_is_chosen_computes_the_same() {
    for math in [Math::Strict, Math::Default] {
        let target = Target::parse("x86-64-v3").expect("a target");
        let settings = Settings::new(target, math, "case");
        let mut failures = vec![];
        for case in cases() {
            for graph in [&case.fires, &case.near_miss] {
                let ins = inputs(graph);
                let expected = tenon_ir::eval::run(graph, &ins).expect("runs");
                let state = match tenon_passes::run(graph.clone(), &settings, Phase::Planned, &mut |_, _, _| {}) {
                    Ok(s) => s,
                    Err(e) => {
                        failures.push(format!("`{}`: {e}", case.rule));
                        continue;
                    }
                };
                for (what, found) in [
                    ("graph", tenon_ir::eval::run(&state.graph, &ins).expect("runs")),
                    ("program", tenon_kernel::run_program(&state.program, &ins).expect("runs")),
                ] {
                    for (a, b) in found[0].to_f64().iter().zip(expected[0].to_f64()) {
                        let close = *a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 2e-5 * (1.0 + b.abs());
                        // Roundings of quantised values may fall on either side.
                        let step = graph.fact(graph.outputs()[0].1).dtype.is_int() && (a - b).abs() <= 1.0;
                        if !close && !step {
                            failures.push(format!("`{}`, {what}: {a} against {b}", case.rule));
                            break;
                        }
                    }
                }
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}

#[test]
fn the_page_of_rules_is_current() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/RULES.md");
    if std::env::var_os("TENON_BLESS").is_some_and(|v| v == "1") {
        std::fs::write(&file, tenon_passes::rule::markdown()).expect("the page can be written");
    }
    let found = std::fs::read_to_string(file).unwrap_or_default();
    let hint = "run `tenon rules --markdown > docs/RULES.md`, or this test with TENON_BLESS=1";
    assert!(found.trim_end() == tenon_passes::rule::markdown().trim_end(), "docs/RULES.md is not current: {hint}");
}

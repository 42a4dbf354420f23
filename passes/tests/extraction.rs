//! Extraction on problems of real models: `passes/tests/extraction/<model>.txt`, with the best that is known of each.
//!
//! ```text
//! best 12345
//! roots 17
//! 0: 300 1 2; 800 3
//! ```
//!
//! A line is a class with its choices: the price and the classes needed. The problems were recorded by this test (`TENON_ZOO` names the
//! models, `TENON_BLESS=1`), prices rounded up to whole cycles, which leaves the head line to be filled in: the cheapest acyclic choice
//! that is known. HiGHS 1.16 looked for it as an integer program, for 12 seconds a model with the classes in the order of a greedy choice and for
//! 15 with circles forbidden in pairs. On mobilenet_v2 it finds this extraction's price and proves it the least of that order; on
//! the others what it finds is dearer by 0.03 to 0.5 percent.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use tenon_frontend::{ImportOptions, import_file};
use tenon_passes::egraph::cost::Cost;
use tenon_passes::egraph::cover::Cover;
use tenon_passes::egraph::extract::{Choice, Problem, extract};
use tenon_passes::egraph::import::import;
use tenon_passes::egraph::rules::{Rule, all, read};
use tenon_passes::egraph::saturate::{Limits, saturate};
use tenon_passes::egraph::space::Space;
use tenon_passes::pipeline::{Math, Phase, Settings};
use tenon_target::Target;

const MODELS: &[&str] =
    &["mobilenet_v2", "mobilenet_v3_small", "resnet50", "shufflenet_v2_x1_0", "vit_tiny", "efficientnet_b0"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/extraction")
}

/// A recorded problem with the best price known.
fn parse(text: &str) -> Option<(Problem, f64)> {
    let mut lines = text.lines();
    let best = lines.next()?.strip_prefix("best ")?.parse().ok()?;
    let numbers = |t: &str| t.split_whitespace().map(|n| n.parse::<u32>().ok()).collect::<Option<Vec<u32>>>();
    let roots = numbers(lines.next()?.strip_prefix("roots ")?)?;
    let mut p = Problem { classes: vec![], roots };
    for line in lines {
        let (class, choices) = line.split_once(':')?;
        if class.parse() != Ok(p.classes.len()) {
            return None;
        }
        let mut all = vec![];
        for text in choices.split(';').filter(|c| !c.trim().is_empty()) {
            let mut numbers = numbers(text)?;
            let needs = numbers.split_off(1);
            all.push(Choice { cost: numbers[0].into(), needs, tag: all.len() as u32 });
        }
        p.classes.push(all);
    }
    Some((p, best))
}

/// The extraction problem of a model.
fn problem(model: &Path) -> Problem {
    let target = Target::parse("x86-64-v3").expect("a target");
    let settings = Settings::new(target, Math::Default, "model");
    let graph = import_file(model, &ImportOptions::default()).expect("imports").graph;
    let state = tenon_passes::run(graph, &settings, Phase::Optimized, &mut |_, _, _| {}).expect("compiles");
    let imported = import(&state.graph).expect("imports");
    let mut eg = imported.eg;
    let rules: Vec<Rule> = all().into_iter().filter(|r| r.class.allowed(settings.math)).collect();
    let ready = read(&rules).expect("patterns");
    let limits = Limits::for_graph(eg.total_size());
    saturate(&mut eg, &ready, &limits).expect("types agree");
    let space = Space::new(&eg, &imported.roots);
    let mut p = Cover::new(&space, Cost::new(&settings.target)).problem();
    p.classes.iter_mut().flatten().for_each(|c| c.cost = c.cost.ceil());
    p.prune();
    p
}

fn print(p: &Problem) -> String {
    let list = |n: &[u32]| n.iter().map(|k| format!(" {k}")).collect::<String>();
    let mut out = format!("best 0\nroots{}\n", list(&p.roots));
    for (i, class) in p.classes.iter().enumerate() {
        let choices: Vec<String> = class.iter().map(|c| format!(" {}{}", c.cost, list(&c.needs))).collect();
        let _ = writeln!(out, "{i}:{}", choices.join(";"));
    }
    out
}

#[test]
fn extraction_is_within_a_percent_of_the_best_known() {
    if let (Some(zoo), Some("1")) = (std::env::var_os("TENON_ZOO"), std::env::var("TENON_BLESS").ok().as_deref()) {
        for name in MODELS {
            let text = print(&problem(&Path::new(&zoo).join(name).join("model.onnx")));
            std::fs::write(folder().join(format!("{name}.txt")), text).expect("can be written");
        }
        return;
    }
    let mut failures = vec![];
    for name in MODELS {
        let text = std::fs::read_to_string(folder().join(format!("{name}.txt"))).expect("a recorded problem");
        let (p, best) = parse(&text).unwrap_or_else(|| panic!("{name} does not read"));
        let (solution, cost) = extract(&p).expect("a choice");
        assert_eq!(p.cost(&solution), Some(cost), "{name}");
        println!("{name}: {} classes, {cost} against {best}", p.classes.len());
        if cost > 1.01 * best || best == 0.0 {
            failures.push(format!("{name}: {cost} against {best}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

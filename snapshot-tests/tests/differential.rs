//! Random graphs on every engine in this process: what the passes, the schedule and the code generator make of a graph
//! computes what the operators' references compute.

use std::fmt::Write;
use tenon::engine::{Engine, Session};
use tenon::{Compiler, Effort, Options};
use tenon_snapshot_tests::data::compare;
use tenon_snapshot_tests::random_graph::random_graph;

/// `TENON_SEEDS=100..200` runs others than the first few.
fn seeds() -> std::ops::Range<u64> {
    let given = std::env::var("TENON_SEEDS").ok();
    let range =
        given.as_deref().and_then(|s| s.split_once("..")).and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    range.map_or(0..48, |(a, b)| a..b)
}

fn check(seed: u64) -> Result<(), String> {
    let case = random_graph(seed);
    let compiled = |effort: Effort| {
        let options = Options::host().map_err(|e| e.to_string())?.effort(effort);
        Compiler::new(options).compile_graph(case.graph.clone()).map_err(|e| format!("compile: {e}"))
    };
    let (full, quick) = (compiled(Effort::Full)?, compiled(Effort::Quick)?);
    for (engine, of, compiled) in
        [(Engine::Kernel, "full", &full), (Engine::Jit, "full", &full), (Engine::Jit, "quick", &quick)]
    {
        let found = Session::new(engine, compiled).and_then(|s| s.run(&case.inputs));
        let found = found.map_err(|e| format!("{engine}, {of} effort: {e}"))?;
        for ((name, _), (x, y)) in case.graph.outputs().iter().zip(found.iter().zip(&case.expected)) {
            let c = compare(x, y, case.tolerance, case.scale);
            if !c.ok() {
                let text = tenon_ir::text::print(&case.graph, &tenon_ir::text::PrintOptions::for_reading());
                return Err(format!("{engine}, {of} effort, output {name} ({}): {c}\n{text}", y.fact()));
            }
        }
    }
    Ok(())
}

#[test]
fn engines_agree_on_random_graphs() {
    let mut failures = String::new();
    for seed in seeds() {
        if let Err(e) = check(seed) {
            let _ = writeln!(failures, "seed {seed}: {e}");
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

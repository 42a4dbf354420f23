//! What the optimiser makes of real models, where there is a folder of them: `TENON_ZOO`.
//!
//! Each model compiles within the limits; for some the number of kernels has a bound: the number of nodes that ONNX Runtime's own
//! optimiser leaves, or less. Each rule applies where `passes/src/rule/seen.txt` says that it does; for those that are seen in
//! ONNX's operator cases these have to be in a folder, too: `TENON_ONNX_CASES`. Small models are always at hand, in
//! `snapshot-tests/models`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tenon_base::Tensor;
use tenon_frontend::{ImportOptions, import_file, inspect_file, read_tensor_file};
use tenon_ir::NodeKind;
use tenon_passes::bounded;
use tenon_passes::egraph::decisions::Decisions;
use tenon_passes::egraph::rules::all;
use tenon_passes::pipeline::{Math, Phase, Settings};
use tenon_passes::rule::{Class, Origin, Seen, seen};
use tenon_target::Target;

/// Kernels at most.
const BOUNDS: &[(&str, usize)] =
    &[("resnet50", 58), ("mobilenet_v2", 56), ("efficientnet_b0", 115), ("efficientnet_lite0", 56), ("vit_tiny", 85)];

/// What is wrong with what `seen` says of `model`.
fn unseen(seen: &[Seen], origin: Origin, model: &str, d: &Decisions) -> Vec<String> {
    let times = |rule: &str| d.fired.iter().find(|f| f.rule == rule).map_or(0, |f| f.at.len());
    let here = seen.iter().filter(|s| s.origin == origin && s.model == model);
    let wrong = here.filter(|s| times(s.rule) < s.times.max(1));
    wrong.map(|s| format!("{model}: `{}` fired {} times, expected {}", s.rule, times(s.rule), s.times)).collect()
}

fn zoo() -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/zoo");
    let folder = std::env::var_os("TENON_ZOO").map_or_else(beside, PathBuf::from);
    folder.is_dir().then_some(folder)
}

fn options(model: &Path) -> ImportOptions {
    let info = inspect_file(model).expect("a real model can be read");
    let folder = model.with_file_name("test_data_set_0");
    let read = |i: usize| read_tensor_file(&folder.join(format!("input_{i}.pb"))).ok();
    let data = info.inputs.iter().enumerate().filter_map(|(i, (name, _))| Some((name.clone(), read(i)?))).collect();
    ImportOptions { data, ..ImportOptions::default() }
}

/// Where `f` differs from `e` by more than single precision and quantisation explain.
fn differs(e: &Tensor, f: &Tensor) -> Option<String> {
    let (e, f) = (e.to_f64(), f.to_f64());
    let scale = e.iter().filter(|v| v.is_finite()).fold(1e-3f64, |m, v| m.max(v.abs()));
    let bad =
        e.iter().zip(&f).position(|(a, b)| !(a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 2e-2 * scale));
    bad.map(|i| format!("element {i}: {} against {}", f[i], e[i]))
}

#[test]
fn real_models_become_few_kernels() {
    let Some(zoo) = zoo() else {
        eprintln!("no zoo folder: set TENON_ZOO to test with real models");
        return;
    };
    let target = Target::parse("x86-64-v3").expect("a target");
    let settings = Settings::new(target, Math::Default, "model");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(zoo).expect("a folder").flatten().map(|e| e.path()).collect();
    folders.sort();
    let (mut failures, mut met) = (vec![], vec![]);
    let seen = seen().expect("the list reads");
    for model in folders.into_iter().map(|f| f.join("model.onnx")).filter(|m| m.is_file()) {
        let name = model.parent().and_then(|p| p.file_name()).expect("a folder").to_string_lossy().into_owned();
        let options = options(&model);
        let Ok(imported) = import_file(&model, &options) else { continue };
        let original = imported.graph.clone();
        let mut took = (std::time::Instant::now(), std::time::Duration::ZERO);
        let state = tenon_passes::run(imported.graph, &settings, Phase::Planned, &mut |pass, _, _| {
            if pass.name == "egraph" {
                took.1 = took.0.elapsed();
            }
            took.0 = std::time::Instant::now();
        });
        let state = match state {
            Ok(s) => s,
            Err(e) => {
                failures.push(format!("{name}: {e}"));
                continue;
            }
        };
        let d = &state.decisions;
        let fired: Vec<String> = d.fired.iter().map(|f| format!("{} {}", f.rule, f.at.len())).collect();
        println!(
            "{name}: {} kernels, {:.0} kcycles, {:?} nodes in {} rounds, {:?}; {}",
            d.kernels.len(),
            d.cycles / 1e3,
            d.nodes,
            d.rounds,
            took.1,
            fired.join(", ")
        );
        if !d.limits.is_empty() {
            failures.push(format!("{name}: limits were hit: {:?}", d.limits));
        }
        // Small models run, too, in the interpreters.
        if d.cycles < 1e6 {
            let inputs: Option<Vec<Tensor>> = original
                .inputs()
                .iter()
                .map(|&n| match &original.node(n).kind {
                    NodeKind::Input(name) => options.data.get(name).cloned(),
                    _ => None,
                })
                .collect();
            if let Some(inputs) = inputs {
                let expected = tenon_ir::eval::run(&original, &inputs).expect("runs");
                let found = tenon_kernel::run_program(&state.program, &inputs).expect("runs");
                if let Some(why) = expected.iter().zip(&found).find_map(|(e, f)| differs(e, f)) {
                    failures.push(format!("{name}: {why}"));
                }
            }
        }
        for (_, most) in BOUNDS.iter().filter(|(n, _)| *n == name) {
            if d.kernels.len() > *most {
                failures.push(format!("{name}: {} kernels, expected at most {most}", d.kernels.len()));
            }
        }
        failures.extend(unseen(&seen, Origin::Zoo, &name, d));
        met.push(name);
    }
    // The folder that lies beside the project lacks the models that have to be made first.
    let whole = std::env::var_os("TENON_ZOO").is_some();
    for s in seen.iter().filter(|s| s.origin == Origin::Zoo && !met.iter().any(|m| m == s.model)) {
        let missing = format!("`{}` is seen in {}, which is not here", s.rule, s.model);
        if whole { failures.push(missing) } else { println!("{missing}") }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn rules_apply_in_the_standards_functions() {
    let Some(folder) = std::env::var_os("TENON_ONNX_CASES").map(PathBuf::from) else {
        eprintln!("no operator cases: set TENON_ONNX_CASES to test with them");
        return;
    };
    let target = Target::parse("x86-64-v3").expect("a target");
    let settings = Settings::new(target, Math::Default, "model");
    let seen = seen().expect("the list reads");
    let mut failures = vec![];
    let mut done = vec![];
    for s in seen.iter().filter(|s| s.origin == Origin::Onnx) {
        if done.contains(&s.model) {
            continue;
        }
        done.push(s.model);
        let Some(model) = [folder.join("node"), folder.clone()]
            .into_iter()
            .map(|f| f.join(s.model).join("model.onnx"))
            .find(|f| f.is_file())
        else {
            failures.push(format!("`{}`: there is no {}", s.rule, s.model));
            continue;
        };
        let mut graph = import_file(&model, &ImportOptions::default()).expect("imports").graph;
        if bounded::has_counts(&graph) {
            graph = bounded::bound(&graph, &BTreeMap::new()).expect("is bounded").0;
        }
        let state = tenon_passes::run(graph, &settings, Phase::Grouped, &mut |_, _, _| {}).expect("compiles");
        failures.extend(unseen(&seen, Origin::Onnx, s.model, &state.decisions));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn rules_apply_in_the_models_that_are_kept() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../snapshot-tests/models");
    let mut models: Vec<PathBuf> = std::fs::read_dir(folder).expect("a folder").flatten().map(|e| e.path()).collect();
    models.retain(|f| f.join("model.onnx").is_file());
    models.sort();
    let seen = seen().expect("the list reads");
    let target = Target::parse("x86-64-v3").expect("a target");
    let approximates = |s: &Seen| all().iter().any(|r| r.name == s.rule && r.class == Class::Approximating);
    let (mut failures, mut met) = (vec![], vec![]);
    for model in models.iter().map(|f| f.join("model.onnx")) {
        let name = model.parent().and_then(|p| p.file_name()).expect("a folder").to_string_lossy().into_owned();
        let graph = import_file(&model, &options(&model)).expect("imports").graph;
        let (fast, default): (Vec<Seen>, Vec<Seen>) =
            seen.iter().filter(|s| s.origin == Origin::Kept && s.model == name).partition(|s| approximates(s));
        if fast.is_empty() && default.is_empty() {
            failures.push(format!("{name}: no rule is seen in it, so it need not be kept"));
        }
        for (math, here) in [(Math::Fast, fast), (Math::Default, default)] {
            if here.is_empty() {
                continue;
            }
            let settings = Settings::new(target.clone(), math, "model");
            let state =
                tenon_passes::run(graph.clone(), &settings, Phase::Grouped, &mut |_, _, _| {}).expect("compiles");
            let fired: Vec<String> =
                state.decisions.fired.iter().map(|f| format!("{} {}", f.rule, f.at.len())).collect();
            println!("{name}: {}", fired.join(", "));
            failures.extend(unseen(&here, Origin::Kept, &name, &state.decisions));
        }
        met.push(name);
    }
    for s in seen.iter().filter(|s| s.origin == Origin::Kept && !met.iter().any(|m| m == s.model)) {
        failures.push(format!("`{}` is seen in {}, which is not there", s.rule, s.model));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

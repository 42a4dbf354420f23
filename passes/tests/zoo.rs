//! What the optimiser makes of real models, where there is a folder of them: `TENON_ZOO`.
//!
//! Each model compiles within the limits; for some the number of kernels has a bound: the number of nodes that ONNX Runtime's own
//! optimiser leaves, or less.

use std::path::{Path, PathBuf};
use tenon_frontend::{ImportOptions, import_file, inspect_file, read_tensor_file};
use tenon_passes::pipeline::{Math, Phase, Settings};
use tenon_target::Target;

/// Kernels at most, and rules that must have fired.
const BOUNDS: &[(&str, usize, &[&str])] = &[
    ("resnet50", 58, &[]),
    ("mobilenet_v2", 56, &[]),
    ("efficientnet_b0", 120, &["silu"]),
    ("efficientnet_lite0", 56, &["pad-conv"]),
    ("vit_tiny", 85, &["gelu-half-last", "scale-into-left"]),
];

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

#[test]
fn real_models_become_few_kernels() {
    let Some(zoo) = zoo() else {
        eprintln!("no zoo folder: set TENON_ZOO to test with real models");
        return;
    };
    let target = Target::parse("x86-64-v3").expect("a target");
    let settings = Settings { target, math: Math::Default, name: "model".into(), states: vec![] };
    let mut folders: Vec<PathBuf> = std::fs::read_dir(zoo).expect("a folder").flatten().map(|e| e.path()).collect();
    folders.sort();
    let mut failures = vec![];
    for model in folders.into_iter().map(|f| f.join("model.onnx")).filter(|m| m.is_file()) {
        let name = model.parent().and_then(|p| p.file_name()).expect("a folder").to_string_lossy().into_owned();
        let Ok(imported) = import_file(&model, &options(&model)) else { continue };
        let mut took = (std::time::Instant::now(), std::time::Duration::ZERO);
        let state = tenon_passes::run(imported.graph, &settings, Phase::Grouped, &mut |pass, _, _| {
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
        for (_, most, rules) in BOUNDS.iter().filter(|(n, ..)| *n == name) {
            if d.kernels.len() > *most {
                failures.push(format!("{name}: {} kernels, expected at most {most}", d.kernels.len()));
            }
            for r in rules.iter().filter(|r| !d.fired.iter().any(|f| f.rule == **r)) {
                failures.push(format!("{name}: `{r}` did not fire"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

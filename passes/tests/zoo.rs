//! What the optimiser makes of real models, where there is a folder of them: `TENON_ZOO`.
//!
//! Each model compiles within the limits; for some the number of kernels has a bound: the number of nodes that ONNX Runtime's own
//! optimiser leaves, or less.

use std::path::{Path, PathBuf};
use tenon_base::Tensor;
use tenon_frontend::{ImportOptions, import_file, inspect_file, read_tensor_file};
use tenon_ir::NodeKind;
use tenon_passes::pipeline::{Math, Phase, Settings};
use tenon_target::Target;

/// Kernels at most, and rules that must have fired.
const BOUNDS: &[(&str, usize, &[&str])] = &[
    ("resnet50", 58, &[]),
    ("mobilenet_v2", 56, &[]),
    ("efficientnet_b0", 120, &["silu"]),
    ("efficientnet_lite0", 56, &[]),
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
    let settings = Settings { target, math: Math::Default, threads: 1, name: "model".into(), states: vec![] };
    let mut folders: Vec<PathBuf> = std::fs::read_dir(zoo).expect("a folder").flatten().map(|e| e.path()).collect();
    folders.sort();
    let mut failures = vec![];
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

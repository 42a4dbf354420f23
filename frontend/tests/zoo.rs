//! Imports the models of a zoo folder, where there is one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tenon_base::Tensor;
use tenon_frontend::{ImportOptions, ModelInfo, import_file, inspect_file, read_tensor_file};

/// `TENON_ZOO`, or `../shared/zoo` beside the repository.
fn zoo() -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/zoo");
    let folder = std::env::var_os("TENON_ZOO").map_or_else(beside, PathBuf::from);
    folder.is_dir().then_some(folder)
}

/// The inputs of the first recorded run.
fn data(model: &Path, info: &ModelInfo) -> BTreeMap<String, Tensor> {
    let folder = model.with_file_name("test_data_set_0");
    let read = |i: usize| read_tensor_file(&folder.join(format!("input_{i}.pb"))).ok();
    let named = info.inputs.iter().enumerate().filter_map(|(i, (name, _))| Some((name.clone(), read(i)?)));
    named.collect()
}

/// Every model either imports or is refused with problems that name a node or value; both are printed.
#[test]
fn zoo_models_import_or_say_why_not() {
    let Some(zoo) = zoo() else {
        eprintln!("no zoo folder: set TENON_ZOO to test with real models");
        return;
    };
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(zoo).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    folders.sort();
    for model in folders.into_iter().map(|f| f.join("model.onnx")).filter(|m| m.is_file()) {
        let name = model.parent().and_then(|p| p.file_name()).expect("a folder").to_string_lossy().into_owned();
        let info = inspect_file(&model).expect("a real model can be read");
        assert!(info.node_count > 0 && !info.outputs.is_empty(), "{name}: {info:?}");
        let data = data(&model, &info);
        let given = !data.is_empty();
        for options in [ImportOptions::default(), ImportOptions { data, ..ImportOptions::default() }] {
            let start = std::time::Instant::now();
            match import_file(&model, &options) {
                Ok(done) => {
                    println!("{name}: {} nodes, {:?}", done.graph.len(), start.elapsed());
                    println!("{}{:?}", done.warnings, done.set_from_data);
                    assert_eq!(done.graph.outputs().len(), info.outputs.len());
                    if given && !options.data.is_empty() {
                        // With every input given nothing is left to pin.
                        for id in done.graph.inputs() {
                            let node = done.graph.node(*id);
                            assert!(node.facts[0].dims().is_some(), "{name}: {}", node.facts[0]);
                        }
                    }
                }
                Err(problems) => {
                    println!("{name}: refused, {:?}\n{problems}", start.elapsed());
                    assert!(problems.has_errors());
                    for p in &problems.0 {
                        assert!(p.loc.name().is_some() || !p.op.is_empty(), "{name}: {p}");
                    }
                }
            }
        }
    }
}

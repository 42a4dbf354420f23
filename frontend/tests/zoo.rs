//! Imports the models of a zoo folder, where there is one.

use std::path::PathBuf;
use tenon_frontend::{ImportOptions, import_file, inspect_file};

/// `TENON_ZOO`, or `../shared/zoo` beside the repository.
fn zoo() -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/zoo");
    let folder = std::env::var_os("TENON_ZOO").map_or_else(beside, PathBuf::from);
    folder.is_dir().then_some(folder)
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
        let start = std::time::Instant::now();
        let info = inspect_file(&model).expect("a real model can be read");
        assert!(info.node_count > 0 && !info.outputs.is_empty(), "{name}: {info:?}");
        match import_file(&model, &ImportOptions::default()) {
            Ok(done) => {
                println!("{name}: {} nodes, {:?}", done.graph.len(), start.elapsed());
                println!("{}", done.warnings);
                assert_eq!(done.graph.outputs().len(), info.outputs.len());
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

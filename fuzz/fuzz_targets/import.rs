//! Bytes of a model file: a graph or an error, and what is imported goes through the graph passes.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tenon::frontend::{ImportOptions, import_bytes, inspect_bytes, read_tensor_bytes};
use tenon::{Compiler, Error, Options, Phase, Target};

/// Values that the passes are let loose on; what is larger says nothing more about the importer.
const SMALL: i64 = 1 << 16;

fuzz_target!(|data: &[u8]| {
    let data = Bytes::copy_from_slice(data);
    let _ = inspect_bytes(&data);
    let _ = read_tensor_bytes("fuzz", &data);
    let Ok(done) = import_bytes(&data, None, &ImportOptions::default()) else { return };
    let graph = done.graph;
    let small = graph.nodes().all(|n| {
        let known = |f: &tenon::Fact| f.shape.numel().as_const().is_some_and(|n| n <= SMALL);
        graph.node(n).facts.iter().all(known)
    });
    if small && graph.len() < 200 {
        let compiler = Compiler::new(Options::new(Target::parse("x86_64-linux").expect("a target")));
        if let Err(Error::Internal(message)) = compiler.run_to(graph, Phase::Planned) {
            panic!("{message}");
        }
    }
});

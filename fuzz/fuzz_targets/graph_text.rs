//! Text of a graph: what reads and verifies, prints and reads back as the same graph.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenon::ir::{Graph, verify};

fuzz_target!(|text: &str| {
    let Ok(graph) = Graph::parse(text) else { return };
    if verify(&graph).is_ok() {
        let printed = graph.to_string();
        let back = Graph::parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
        assert!(back.same_as(&graph), "{printed}");
    }
});

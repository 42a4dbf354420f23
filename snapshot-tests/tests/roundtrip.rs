//! Random graphs: their text reads back, they verify, the reference interpreter runs them; damaged text is an error,
//! never a panic.

use proptest::prelude::*;
use tenon_ir::verify::report;
use tenon_ir::{Graph, verify};
use tenon_snapshot_tests::data::Rng;
use tenon_snapshot_tests::random_graph::random_graph;

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn text_reads_back(seed in any::<u64>()) {
        let case = random_graph(seed);
        if let Err(e) = verify(&case.graph) {
            panic!("{}", report(&case.graph, &e));
        }
        let text = case.graph.to_string();
        let back = Graph::parse(&text).unwrap_or_else(|e| panic!("{e}"));
        prop_assert!(back.same_as(&case.graph), "{text}\nreads back as\n{back}");
        prop_assert_eq!(back.to_string(), text);
        let outputs = tenon_ir::eval::run(&back, &case.inputs).unwrap_or_else(|e| panic!("{e}\n{back}"));
        prop_assert_eq!(outputs, case.expected);
    }

    #[test]
    fn the_same_seed_gives_the_same_graph(seed in any::<u64>()) {
        let (a, b) = (random_graph(seed), random_graph(seed));
        prop_assert_eq!(a.graph.to_string(), b.graph.to_string());
        prop_assert_eq!(a.inputs, b.inputs);
    }

    #[test]
    fn damaged_text_is_an_error_or_another_graph(seed in any::<u64>()) {
        let text = random_graph(seed % 64).graph.to_string();
        let mut rng = Rng::new(seed);
        let mut bytes = text.into_bytes();
        const SPLICE: &[u8] = b"%\"()[]{},:=<>@-+*0123456789abn\n ";
        for _ in 0..1 + rng.below(4) {
            let at = rng.below(bytes.len());
            match rng.below(3) {
                0 => { bytes.remove(at); }
                1 => bytes.insert(at, SPLICE[rng.below(SPLICE.len())]),
                _ => bytes[at] = SPLICE[rng.below(SPLICE.len())],
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        // Whatever is still a graph is a good one.
        if let Ok(g) = Graph::parse(&text) && let Err(e) = verify(&g) {
            let names = e.iter().all(|e| e.message.contains("name"));
            prop_assert!(names, "{}", report(&g, &e));
        }
    }
}

/// The generator itself: graphs of all sizes, and most operators, not only inputs beside each other.
#[test]
fn graphs_are_varied() {
    let (mut operators, mut chained, mut names) = (0, 0, std::collections::BTreeSet::new());
    for seed in 0..64 {
        let g = random_graph(seed).graph;
        for id in g.nodes() {
            let Some(op) = g.op(id) else { continue };
            operators += 1;
            names.insert(tenon_ir::Operator::name(op));
            chained += usize::from(g.operands(id).iter().any(|v| g.op(v.node).is_some()));
        }
    }
    assert!(operators > 64 * 10, "only {operators} operators");
    assert!(chained * 2 > operators, "only {chained} of {operators} operators use others' results");
    assert!(names.len() > 60, "only {} different operators", names.len());
}

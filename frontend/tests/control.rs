//! Branches, loops, sequences and optionals: what they become, and what they compute.

mod support;

use support::*;
use tenon_base::Tensor;
use tenon_frontend::{Given, ImportOptions, Imported};

fn imported(m: &ModelProto) -> Imported {
    import(m, &ImportOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn ops(done: &Imported) -> Vec<String> {
    use tenon_ir::Operator as _;
    let order = done.graph.topological().expect("no cycle");
    order.into_iter().filter_map(|n| done.graph.op(n).map(|op| op.name().to_string())).collect()
}

/// Verified, then run by the reference interpreter.
fn run(done: &Imported, inputs: &[Tensor]) -> Vec<Vec<f64>> {
    tenon_ir::verify(&done.graph).unwrap_or_else(|e| panic!("{}", tenon_ir::verify::report(&done.graph, &e)));
    let text = done.graph.to_string();
    assert!(tenon_ir::Graph::parse(&text).is_ok_and(|g| g.same_as(&done.graph)), "{text}");
    let found = tenon_ir::eval::run(&done.graph, inputs).unwrap_or_else(|e| panic!("{e}\n{text}"));
    found.iter().map(Tensor::to_f64).collect()
}

fn subgraph(inputs: &[(&str, i32, &[&str])], nodes: Vec<NodeProto>, outputs: &[(&str, i32, &[&str])]) -> GraphProto {
    let list = |all: &[(&str, i32, &[&str])]| all.iter().map(|(n, t, d)| value(n, *t, d)).collect();
    GraphProto {
        name: "body".into(),
        node: nodes,
        input: list(inputs),
        output: list(outputs),
        ..GraphProto::default()
    }
}

/// Another graph around `nodes`: its inputs and outputs, all declared.
fn with_io(nodes: Vec<NodeProto>, inputs: &[(&str, i32, &[&str])], outputs: &[(&str, i32, &[&str])]) -> ModelProto {
    let g = subgraph(inputs, vec![], outputs);
    edit(model(nodes), |m| (m.input, m.output) = (g.input, g.output))
}

fn x() -> Tensor {
    Tensor::new(&[2, 3], &[0f32, 1.0, 2.0, 3.0, 4.0, 5.0])
}

#[test]
fn a_condition_that_is_not_known_chooses_at_run_time() {
    let then = subgraph(&[], vec![node("Neg", &["x"], &["t"])], &[("t", F32, &["2", "3"])]);
    let otherwise = subgraph(&[], vec![node("Abs", &["x"], &["e"])], &[("e", F32, &["2", "3"])]);
    let n = with(node("If", &["c"], &["y"]), "then_branch", graph_attr(then));
    let n = with(n, "else_branch", graph_attr(otherwise));
    // A condition of one element may have any rank.
    for rank in [&[][..], &["1"]] {
        let m = with_io(vec![n.clone()], &[("x", F32, &["2", "3"]), ("c", BOOL, rank)], &[("y", F32, &["2", "3"])]);
        let done = imported(&m);
        assert!(ops(&done).contains(&"if".to_string()), "{}", done.graph);
        let c = |v: bool| if rank.is_empty() { Tensor::scalar(v) } else { Tensor::new(&[1], &[v]) };
        assert_eq!(run(&done, &[x(), c(true)])[0][4], -4.0);
        assert_eq!(run(&done, &[x(), c(false)])[0][4], 4.0);
        // Known, it is no operator any more.
        let mut options = ImportOptions::default();
        options.set.insert("c".into(), c(true));
        assert_eq!(ops(&import(&m, &options).expect("it imports")), ["neg"]);
    }
}

#[test]
fn a_branch_that_no_run_can_take_is_left_out_where_the_value_that_leads_there_can_be_refused() {
    let then = subgraph(&[], vec![node("Neg", &["x"], &["t"])], &[("t", F32, &["2", "3"])]);
    let otherwise = subgraph(&[], vec![node("MatMul", &["x", "x"], &["e"])], &[("e", F32, &["2", "3"])]);
    let n = with(node("If", &["c"], &["y"]), "then_branch", graph_attr(then));
    let n = with(n, "else_branch", graph_attr(otherwise));
    let nodes = vec![node("Equal", &["rate", "k"], &["c"]), n];
    let m = with_io(nodes, &[("x", F32, &["2", "3"]), ("rate", I64, &[])], &[("y", F32, &["2", "3"])]);
    let m = edit(m, |g| g.initializer = vec![integers("k", &[], &[16])]);
    let done = imported(&m);
    assert_eq!(done.required.get("rate"), Some(&16));
    assert!(done.warnings.to_string().contains("runs must have 16 in input `rate`"), "{}", done.warnings);
    assert_eq!(run(&done, &[x(), Tensor::scalar(16i64)])[0][4], -4.0);
    // Data that lead into the branch get its problem.
    let mut options = ImportOptions::default();
    options.data.insert("rate".into(), Tensor::scalar(8i64));
    let e = import(&m, &options).expect_err("the branch is wrong").to_string();
    assert!(e.contains("MatMul"), "{e}");
}

/// `v = v + x[i]` over the rows of `x` seen from outside, every `v` a row of the second result.
fn summing(trip: &str, cond: &str) -> NodeProto {
    let body = subgraph(
        &[("i", I64, &[]), ("go", BOOL, &[]), ("v", F32, &["3"])],
        vec![
            node("Gather", &["x", "i"], &["row"]),
            node("Add", &["v", "row"], &["w"]),
            node("Identity", &["go"], &["more"]),
            node("Identity", &["w"], &["kept"]),
        ],
        &[("more", BOOL, &[]), ("w", F32, &["3"]), ("kept", F32, &["3"])],
    );
    with(node("Loop", &[trip, cond, "v0"], &["y", "all"]), "body", graph_attr(body))
}

#[test]
fn a_loop_that_never_runs_gives_what_it_is_given() {
    // Its body could not be: there is nothing to choose from.
    let body = subgraph(
        &[("i", I64, &[]), ("go", BOOL, &[]), ("v", F32, &["0"])],
        vec![
            node("Gather", &["v", "i"], &["e"]),
            node("Add", &["v", "e"], &["w"]),
            node("Identity", &["go"], &["more"]),
        ],
        &[("more", BOOL, &[]), ("w", F32, &["0"])],
    );
    let n = with(node("Loop", &["n", "", "v0"], &["y"]), "body", graph_attr(body));
    let m = |n_: i64| {
        let m = with_io(vec![n.clone()], &[("v0", F32, &["0"])], &[("y", F32, &["0"])]);
        edit(m, |g| g.initializer = vec![integers("n", &[], &[n_])])
    };
    assert!(ops(&imported(&m(0))).is_empty());
    assert!(import(&m(1), &ImportOptions::default()).is_err());
}

#[test]
fn loops_are_loops_unless_they_are_small() {
    let io: [(&str, i32, &[&str]); 2] = [("x", F32, &["2", "3"]), ("v0", F32, &["3"])];
    let outs: [(&str, i32, &[&str]); 2] = [("y", F32, &["3"]), ("all", F32, &["2", "3"])];
    let m = edit(with_io(vec![summing("two", "")], &io, &outs), |g| g.initializer = vec![integers("two", &[], &[2])]);
    let small = imported(&m);
    assert!(!ops(&small).contains(&"loop".to_string()), "{}", small.graph);
    let v0 = Tensor::new(&[3], &[10f32, 20.0, 30.0]);
    let expected = vec![vec![13.0, 25.0, 37.0], vec![10.0, 21.0, 32.0, 13.0, 25.0, 37.0]];
    assert_eq!(run(&small, &[x(), v0.clone()]), expected);

    // 100 iterations: rows beyond the last are the last, as Gather's index is clamped only in compiled code; so a
    // longer table.
    let m = edit(m, |g| {
        g.initializer = vec![integers("two", &[], &[100])];
        g.input[0] = value("x", F32, &["100", "3"]);
        g.output[1] = value("all", F32, &["100", "3"]);
    });
    let large = imported(&m);
    assert!(ops(&large).contains(&"loop".to_string()), "{}", large.graph);
    let table = Tensor::new(&[100, 3], &[1f32; 300]);
    let found = run(&large, &[table, v0.clone()]);
    assert_eq!(
        (&found[0][..], &found[1][297..], found[1][3]),
        (&[110.0, 120.0, 130.0][..], &[110.0, 120.0, 130.0][..], 12.0)
    );

    // A trip count from the caller: no scan outputs.
    let body_only = edit(with_io(vec![summing("n", "c")], &io, &outs[..1]), |g| {
        g.input.extend([value("n", I64, &[]), value("c", BOOL, &[])]);
        g.node[0].output.truncate(1);
        let body = g.node[0].attribute[0].g.as_mut().expect("a body");
        body.output.truncate(2);
    });
    let open = imported(&body_only);
    let go = |n: i64, c: bool| run(&open, &[x(), v0.clone(), Tensor::scalar(n), Tensor::scalar(c)])[0][0];
    assert_eq!((go(0, true), go(1, true), go(2, true), go(2, false)), (10.0, 10.0, 13.0, 10.0));

    let e = problems(&edit(with_io(vec![summing("n", "")], &io, &outs), |g| g.input.push(value("n", I64, &[]))));
    assert!(e.contains("the loop has scan outputs, so `M` must be known at compile time"), "{e}");
    assert!(e.contains("--set n=VALUE"), "{e}");
}

#[test]
fn scans_go_along_any_axis_and_backwards() {
    let body = subgraph(
        &[("s", F32, &["2"]), ("c", F32, &["2"])],
        vec![node("Add", &["s", "c"], &["t"]), node("Identity", &["t"], &["o"])],
        &[("t", F32, &["2"]), ("o", F32, &["2"])],
    );
    let scan = with(node("Scan", &["s0", "x"], &["last", "y"]), "body", graph_attr(body));
    let scan = with(scan, "num_scan_inputs", int(1));
    let scan = with(with(scan, "scan_input_axes", ints(&[1])), "scan_output_axes", ints(&[-1]));
    let columns: [(&str, i32, &[&str]); 2] = [("x", F32, &["2", "3"]), ("s0", F32, &["2"])];
    let outs: [(&str, i32, &[&str]); 2] = [("last", F32, &["2"]), ("y", F32, &["2", "3"])];
    let s0 = Tensor::new(&[2], &[0f32, 100.0]);
    for (reverse, sums) in [(0, [0.0, 1.0, 3.0, 103.0, 107.0, 112.0]), (1, [3.0, 3.0, 2.0, 112.0, 109.0, 105.0])] {
        let n = with(scan.clone(), "scan_input_directions", ints(&[reverse]));
        let n = with(n, "scan_output_directions", ints(&[reverse]));
        let m = with_io(vec![n], &columns, &outs);
        assert_eq!(run(&imported(&m), &[x(), s0.clone()]), [vec![3.0, 112.0], sums.to_vec()], "{reverse}");
        // Long enough for a loop.
        let long = edit(m, |g| {
            g.input[0] = value("x", F32, &["2", "100"]);
            g.output[1] = value("y", F32, &["2", "100"]);
        });
        let done = imported(&long);
        assert!(ops(&done).contains(&"loop".to_string()), "{}", done.graph);
        let found = run(&done, &[Tensor::new(&[2, 100], &[1f32; 200]), s0.clone()]);
        let edges = (found[1][0], found[1][99], found[1][100]);
        assert_eq!(edges, if reverse == 0 { (1.0, 100.0, 101.0) } else { (100.0, 1.0, 200.0) });
    }
}

#[test]
fn a_value_that_grows_needs_a_known_number_of_iterations() {
    let body = subgraph(
        &[("i", I64, &[]), ("go", BOOL, &[]), ("v", F32, &["k"])],
        vec![with(node("Concat", &["v", "v"], &["w"]), "axis", int(0)), node("Identity", &["go"], &["more"])],
        &[("more", BOOL, &[]), ("w", F32, &["m"])],
    );
    let n = with(node("Loop", &["n", "", "v0"], &["y"]), "body", graph_attr(body));
    let m = with_io(vec![n], &[("v0", F32, &["3"])], &[("y", F32, &["48"])]);
    let known = edit(m.clone(), |g| g.initializer = vec![integers("n", &[], &[4])]);
    assert_eq!(run(&imported(&known), &[Tensor::new(&[3], &[1f32, 2.0, 3.0])])[0].len(), 48);
    let open = edit(m, |g| g.input.push(value("n", I64, &[])));
    let e = problems(&open);
    assert!(e.contains("carried variable 0 after an iteration: expected f32[3], found f32[6]"), "{e}");
    assert!(e.contains("--set n=VALUE"), "{e}");
}

#[test]
fn sequences_are_lists_of_values() {
    let m = with_io(
        vec![
            with(node("SplitToSequence", &["x"], &["rows"]), "keepdims", int(0)),
            node("SequenceAt", &["rows", "last"], &["b"]),
            node("Neg", &["b"], &["nb"]),
            node("SequenceInsert", &["rows", "nb", "zero"], &["three"]),
            node("SequenceErase", &["three", "one"], &["two"]),
            node("SequenceLength", &["two"], &["n"]),
            with(with(node("ConcatFromSequence", &["two"], &["y"]), "axis", int(0)), "new_axis", int(1)),
            node("Optional", &["y"], &["some"]),
            node("OptionalHasElement", &["some"], &["has"]),
            node("Optional", &[], &["none"]),
            node("OptionalHasElement", &["none"], &["hasnt"]),
            node("SequenceAt", &["rows", "k"], &["any"]),
        ],
        &[("x", F32, &["2", "3"]), ("k", I64, &[])],
        &[("y", F32, &["2", "3"]), ("n", I64, &[]), ("has", BOOL, &[]), ("hasnt", BOOL, &[]), ("any", F32, &["3"])],
    );
    let m = edit(m, |g| {
        g.initializer = vec![integers("last", &[], &[-1]), integers("zero", &[], &[0]), integers("one", &[], &[1])];
    });
    // -b, a, b without its second element.
    let expected = [vec![-3.0, -4.0, -5.0, 3.0, 4.0, 5.0], vec![2.0], vec![1.0], vec![0.0], vec![0.0, 1.0, 2.0]];
    assert_eq!(run(&imported(&m), &[x(), Tensor::scalar(0i64)]), expected);
}

#[test]
fn inputs_and_outputs_may_be_sequences() {
    let map = subgraph(&[("e", F32, &["2"])], vec![node("Neg", &["e"], &["f"])], &[("f", F32, &["2"])]);
    let m = edit(model(vec![with(node("SequenceMap", &["s"], &["y"]), "body", graph_attr(map))]), |g| {
        g.input = vec![typed("s", sequence())];
        g.output = vec![typed("y", sequence())];
    });
    assert!(problems(&m).contains("found a value of type sequence of f32 tensors"), "{}", problems(&m));
    let fact = Tensor::new(&[2], &[0f32; 2]).fact();
    let given = [("s".to_string(), Given::Sequence(vec![fact.clone(), fact]))].into_iter().collect();
    let done = import(&m, &ImportOptions { given, ..ImportOptions::default() }).unwrap_or_else(|e| panic!("{e}"));
    let names: Vec<&str> = done.graph.outputs().iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["y.0", "y.1"]);
    let t = |a: f32| Tensor::new(&[2], &[a, a + 1.0]);
    assert_eq!(run(&done, &[t(1.0), t(5.0)]), [[-1.0, -2.0], [-5.0, -6.0]]);
}

#[test]
fn extents_that_depend_on_data() {
    // Rows of x that a condition chooses, doubled; and the indices of what is not zero, turned.
    let m = with_io(
        vec![
            with(node("Compress", &["x", "c"], &["rows"]), "axis", int(0)),
            node("Add", &["rows", "rows"], &["y"]),
            node("NonZero", &["x"], &["nz"]),
            with(node("Transpose", &["nz"], &["z"]), "perm", ints(&[1, 0])),
        ],
        &[("x", F32, &["2", "3"]), ("c", BOOL, &["2"])],
        &[("y", F32, &["k", "3"]), ("z", I64, &["n", "2"])],
    );
    let done = imported(&m);
    let shapes: Vec<String> = done.graph.outputs().iter().map(|(_, v)| done.graph.fact(*v).to_string()).collect();
    assert_eq!(shapes, ["f32[\"make_rows#\",3]", "i64[\"make_nz#\",2]"]);
    let found = run(&done, &[x(), Tensor::new(&[2], &[false, true])]);
    assert_eq!(found, [vec![6.0, 8.0, 10.0], vec![0.0, 1.0, 0.0, 2.0, 1.0, 0.0, 1.0, 1.0, 1.0, 2.0]]);
}

/// One result of a model over `x: f32[6]`, whose nodes end in `y`.
fn shape_of(nodes: Vec<NodeProto>, constants: &[(&str, &[i64])]) -> String {
    let m = with_io(nodes, &[("x", F32, &["6"]), ("z", F32, &["6"])], &[("y", F32, &["k"])]);
    let m = edit(m, |g| {
        g.initializer = constants.iter().map(|(n, v)| integers(n, &[v.len() as i64], v)).collect();
    });
    let done = imported(&m);
    done.graph.fact(done.graph.outputs()[0].1).shape.to_string()
}

#[test]
fn what_is_computed_of_counts_of_data_is_known_as_far_as_they_are() {
    let chosen = || {
        vec![
            with(node("Cast", &["x"], &["c"]), "to", int(i64::from(BOOL))),
            node("Compress", &["x", "c"], &["a"]),
            node("Compress", &["z", "c"], &["b"]),
        ]
    };
    // The same choice twice: as many.
    let with_rest = |rest: Vec<NodeProto>| chosen().into_iter().chain(rest).collect::<Vec<_>>();
    let sum = with_rest(vec![node("Add", &["a", "b"], &["y"])]);
    assert_eq!(shape_of(sum, &[]), "[\"make_a#\"]");
    // One behind the other, and a part of what may be too few.
    let joined = with_rest(vec![with(node("Concat", &["a", "x"], &["y"]), "axis", int(0))]);
    assert_eq!(shape_of(joined, &[]), "[\"make_a#\"+6]");
    let part = with_rest(vec![node("Slice", &["a", "two", "four"], &["y"])]);
    assert_eq!(shape_of(part, &[("two", &[2]), ("four", &[4])]), "[max(min(4, \"make_a#\")-2, 0)]");
    // The largest of as many as there are, at most 4.
    let best = with_rest(vec![
        node("Shape", &["a"], &["s"]),
        with(node("Concat", &["s", "four"], &["both"]), "axis", int(0)),
        with(node("ReduceMin", &["both"], &["k"]), "keepdims", int(1)),
        node("TopK", &["a", "k"], &["y", "at"]),
    ]);
    assert_eq!(shape_of(best, &[("four", &[4])]), "[min(\"make_a#\", 4)]");
}

#[test]
fn counts_that_may_differ_do_not_meet() {
    let io: [(&str, i32, &[&str]); 2] = [("x", F32, &["6"]), ("c", BOOL, &["6"])];
    let nodes = vec![
        with(node("Cast", &["x"], &["d"]), "to", int(i64::from(BOOL))),
        node("Compress", &["x", "c"], &["a"]),
        node("Compress", &["x", "d"], &["b"]),
        node("Add", &["a", "b"], &["y"]),
    ];
    let e = problems(&with_io(nodes, &io, &[("y", F32, &["k"])]));
    assert!(e.contains("make_y") && e.contains("make_a#") && e.contains("make_b#"), "{e}");
}

#[test]
fn branches_may_differ_in_how_much_they_give() {
    let then = subgraph(&[], vec![node("Compress", &["x", "c"], &["t"])], &[("t", F32, &["k"])]);
    let otherwise = subgraph(&[], vec![node("Identity", &["none"], &["e"])], &[("e", F32, &["0"])]);
    let n = with(node("If", &["go"], &["y"]), "then_branch", graph_attr(then));
    let n = with(n, "else_branch", graph_attr(otherwise));
    let m = with_io(
        vec![n],
        &[("x", F32, &["3"]), ("c", BOOL, &["3"]), ("go", BOOL, &[]), ("none", F32, &["0"])],
        &[("y", F32, &["k"])],
    );
    let done = imported(&m);
    assert_eq!(done.graph.fact(done.graph.outputs()[0].1).shape.to_string(), "[\"make_y#\"]");
}

#[test]
fn a_loop_that_ends_by_a_condition_tells_its_rows() {
    let body = subgraph(
        &[("i", I64, &[]), ("go", BOOL, &[]), ("v", F32, &[])],
        vec![
            node("Add", &["v", "v"], &["w"]),
            node("Less", &["w", "limit"], &["more"]),
            node("Identity", &["w"], &["kept"]),
        ],
        &[("more", BOOL, &[]), ("w", F32, &[]), ("kept", F32, &[])],
    );
    let n = with(node("Loop", &["n", "", "one"], &["last", "all"]), "body", graph_attr(body));
    let m = with_io(vec![n], &[("one", F32, &[]), ("limit", F32, &[])], &[("last", F32, &[]), ("all", F32, &["k"])]);
    let done = imported(&edit(m, |g| g.initializer = vec![integers("n", &[], &[6])]));
    let found = run(&done, &[Tensor::scalar(1f32), Tensor::scalar(7f32)]);
    assert_eq!(found, [vec![8.0], vec![2.0, 4.0, 8.0]]);
}

/// `while at < 5: at += 2`, as recurrent layers are written, around a row of `x`.
fn counting(first: &str) -> ModelProto {
    let body = subgraph(
        &[("i", I64, &[]), ("go", BOOL, &[]), ("at", I64, &[]), ("v", F32, &["2"])],
        vec![
            node("Gather", &["x", "at"], &["row"]),
            node("Add", &["v", "row"], &["w"]),
            node("Add", &["at", "two"], &["then"]),
            node("Less", &["then", "end"], &["more"]),
            node("Identity", &["w"], &["kept"]),
        ],
        &[("more", BOOL, &[]), ("then", I64, &[]), ("w", F32, &["2"]), ("kept", F32, &["2"])],
    );
    let n = with(node("Loop", &["", "", first, "start"], &["", "", "all"]), "body", graph_attr(body));
    let io: [(&str, i32, &[&str]); 3] = [("x", F32, &["6", "2"]), ("start", F32, &["2"]), ("given", I64, &[])];
    let constants = vec![integers("begin", &[], &[1]), integers("two", &[], &[2]), integers("end", &[], &[5])];
    edit(with_io(vec![n], &io, &[("all", F32, &["k", "2"])]), |g| g.initializer = constants)
}

#[test]
fn a_condition_that_counts_says_how_often() {
    let done = imported(&counting("begin"));
    assert_eq!(done.graph.fact(done.graph.outputs()[0].1).shape.to_string(), "[2,2]");
    let rows = Tensor::new(&[6, 2], &[0f32, 0.0, 1.0, 10.0, 2.0, 20.0, 3.0, 30.0, 4.0, 40.0, 5.0, 50.0]);
    let start = Tensor::new(&[2], &[0f32, 0.0]);
    assert_eq!(run(&done, &[rows, start, Tensor::scalar(0i64)]), [vec![1.0, 10.0, 4.0, 40.0]]);
    // From where on an input tells: data decide.
    let e = problems(&counting("given"));
    assert!(e.contains("scan outputs"), "{e}");
}

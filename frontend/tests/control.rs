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
            node("Shape", &["z"], &["s"]),
        ],
        &[("x", F32, &["2", "3"]), ("c", BOOL, &["2"])],
        &[("y", F32, &["k", "3"]), ("z", I64, &["n", "2"]), ("s", I64, &["2"])],
    );
    let done = imported(&m);
    let names: Vec<&str> = done.graph.outputs().iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["y", "z", "s", "y_dims", "z_dims"]);
    assert_eq!(done.graph.sized().iter().map(|(a, b)| (*a, *b)).collect::<Vec<_>>(), [(0, 3), (1, 4)]);
    let found = run(&done, &[x(), Tensor::new(&[2], &[false, true])]);
    assert_eq!(
        (&found[0][..3], &found[3], &found[4], &found[2]),
        (&[6.0, 8.0, 10.0][..], &vec![1.0, 3.0], &vec![5.0, 2.0], &vec![5.0, 2.0])
    );
    // A sum over such an axis would need to know where it ends.
    let sum = edit(m, |g| {
        g.node[1] = with(with(node("ReduceSum", &["rows", "axes"], &["y"]), "keepdims", int(0)), "noop", int(0));
        g.node[1].attribute.truncate(1);
        g.initializer = vec![integers("axes", &[1], &[0])];
        g.output[0] = value("y", F32, &["3"]);
    });
    let e = problems(&sum);
    assert!(e.contains("axis 0 of operand 0, f32[2,3], has an extent that is known only at run time"), "{e}");
    assert!(e.contains("make_y"), "{e}");
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
    assert_eq!(found, [vec![8.0], vec![2.0, 4.0, 8.0, 0.0, 0.0, 0.0], vec![3.0]]);
}

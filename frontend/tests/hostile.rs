//! Damaged and hostile models: a graph or an error, soon, and never a panic.

mod support;

use bytes::Bytes;
use proptest::prelude::*;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use support::*;
use tenon_frontend::{ImportOptions, import_bytes, inspect_bytes, read_tensor_bytes};

/// Far more than any of these takes, far less than a hang.
const SOON: Duration = Duration::from_secs(20);

/// Small models of many kinds: convolution, shapes computed in the model, branches, functions, every data field.
static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut all: Vec<Vec<u8>> = [convolution(), shapes(), control()].iter().map(|m| encode(m).to_vec()).collect();
    // The smaller models of a zoo, where there is one.
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/zoo");
    let folder = std::env::var_os("TENON_ZOO").map_or(beside, PathBuf::from);
    for name in [
        "digits_cnn",
        "digits_mlp_qdq",
        "sk_logreg_digits",
        "node/test_reduce_sum_square_do_not_keepdims_example_expanded",
    ] {
        if let Ok(data) = std::fs::read(folder.join(name).join("model.onnx"))
            && data.len() < 1 << 18
        {
            all.push(data);
        }
    }
    all
});

fn convolution() -> ModelProto {
    let conv = with(node("Conv", &["x", "w", "b"], &["c"]), "pads", ints(&[1, 1, 1, 1]));
    let conv = with(with(conv, "strides", ints(&[2, 1])), "group", int(2));
    let pool = with(node("MaxPool", &["c"], &["p"]), "kernel_shape", ints(&[2, 2]));
    let nodes = vec![
        conv,
        with(pool, "ceil_mode", int(1)),
        node("Relu", &["p"], &["r"]),
        with(node("Flatten", &["r"], &["f"]), "axis", int(1)),
        with(node("Gemm", &["f", "m", "k"], &["g"]), "transB", int(1)),
        with(node("Softmax", &["g"], &["y"]), "axis", int(-1)),
    ];
    edit(model(nodes), |g| {
        g.input = vec![value("x", F32, &["n", "2", "6", "5"])];
        g.output = vec![value("y", F32, &["n", "3"])];
        g.initializer =
            vec![weights("w", &[4, 1, 3, 3]), weights("b", &[4]), weights("m", &[3, 32]), weights("k", &[3])];
    })
}

fn shapes() -> ModelProto {
    let nodes = vec![
        node("Shape", &["x"], &["s"]),
        with(node("Gather", &["s", "one"], &["d"]), "axis", int(0)),
        node("Unsqueeze", &["d", "zeros"], &["d1"]),
        with(node("Concat", &["d1", "minus"], &["to"]), "axis", int(0)),
        node("Reshape", &["x", "to"], &["r"]),
        with(node("Transpose", &["r"], &["t"]), "perm", ints(&[1, 0])),
        node("Slice", &["t", "zeros", "one1", "zeros", "one1"], &["u"]),
        node("Expand", &["u", "wide"], &["e"]),
        with(node("ConstantOfShape", &["wide"], &["f"]), "value", tensor_attr(integers("", &[1], &[3]))),
        node("Cast", &["f"], &["h"]),
        with(node("ReduceSum", &["e", "zeros"], &["q"]), "keepdims", int(1)),
        node("Tile", &["q", "wide"], &["v"]),
        node("Pad", &["v", "pads"], &["y"]),
    ];
    let mut m = edit(model(nodes), |g| {
        g.input = vec![value("x", F32, &["a", "b", "4"])];
        g.output = vec![value("y", F32, &["", ""])];
        g.initializer = vec![
            integers("one", &[], &[1]),
            integers("one1", &[1], &[1]),
            integers("zeros", &[1], &[0]),
            integers("minus", &[1], &[-1]),
            integers("wide", &[2], &[2, 1]),
            integers("pads", &[4], &[0, 1, 0, 1]),
        ];
    });
    if let Some(g) = &mut m.graph {
        g.node[9].attribute.push(AttributeProto { name: "to".into(), ..int(1) });
    }
    m
}

fn control() -> ModelProto {
    let branch = |op: &str| GraphProto {
        node: vec![node(op, &["x", "w"], &["r"])],
        output: vec![value("r", F32, &[])],
        ..GraphProto::default()
    };
    let n = with(node("If", &["c"], &["i"]), "then_branch", graph_attr(branch("Add")));
    let n = with(n, "else_branch", graph_attr(branch("Mul")));
    let f = FunctionProto {
        name: "F".into(),
        domain: "local".into(),
        input: vec!["a".into()],
        output: vec!["r".into()],
        attribute: vec!["dim".into()],
        node: vec![with(node("Softmax", &["a"], &["r"]), "axis", reference("dim"))],
        opset_import: vec![opset("", 17)],
        ..FunctionProto::default()
    };
    let call = NodeProto { domain: "local".into(), ..with(node("F", &["i"], &["y"]), "dim", int(1)) };
    let m = edit(model(vec![n, call]), |g| g.initializer = vec![boolean("c", true), weights("w", &[3])]);
    ModelProto { functions: vec![f], ..m }
}

/// One edit of a file; positions are fractions of its length, so that they shrink well.
#[derive(Clone, Debug)]
enum Edit {
    Flip(f64, u8),
    Set(f64, u8),
    Truncate(f64),
    Remove(f64, usize),
    Repeat(f64, usize, usize),
    Insert(f64, Vec<u8>),
    Move(f64, f64, usize),
}

fn edits() -> impl Strategy<Value = Edit> {
    let at = || 0.0..1.0f64;
    prop_oneof![
        4 => (at(), 0u8..8).prop_map(|(p, bit)| Edit::Flip(p, bit)),
        4 => (at(), any::<u8>()).prop_map(|(p, b)| Edit::Set(p, b)),
        1 => at().prop_map(Edit::Truncate),
        2 => (at(), 1usize..40).prop_map(|(p, n)| Edit::Remove(p, n)),
        2 => (at(), 1usize..200, 1usize..50).prop_map(|(p, n, k)| Edit::Repeat(p, n, k)),
        2 => (at(), prop::collection::vec(any::<u8>(), 1..12)).prop_map(|(p, v)| Edit::Insert(p, v)),
        1 => (at(), at(), 1usize..100).prop_map(|(a, b, n)| Edit::Move(a, b, n)),
    ]
}

fn apply(data: &mut Vec<u8>, e: &Edit) {
    let len = data.len();
    let place = |p: f64| ((p * len as f64) as usize).min(len);
    let span = |p: f64, n: usize| place(p)..(place(p) + n).min(len);
    match e {
        Edit::Flip(p, bit) => data[span(*p, 1)].iter_mut().for_each(|b| *b ^= 1 << bit),
        Edit::Set(p, v) => data[span(*p, 1)].iter_mut().for_each(|b| *b = *v),
        Edit::Truncate(p) => data.truncate(place(*p)),
        Edit::Remove(p, n) => drop(data.drain(span(*p, *n))),
        Edit::Repeat(p, n, k) => {
            let copy = data[span(*p, *n)].repeat(*k);
            data.splice(place(*p)..place(*p), copy);
        }
        Edit::Insert(p, v) => drop(data.splice(place(*p)..place(*p), v.iter().copied())),
        Edit::Move(a, b, n) => {
            let copy = data[span(*a, *n)].to_vec();
            data.splice(span(*b, *n), copy);
        }
    }
}

/// Whatever the bytes: an answer, soon. Options are drawn too, so that pinned extents meet damaged models.
fn try_all(data: Vec<u8>, batch: i64) {
    let start = Instant::now();
    let data = Bytes::from(data);
    let _ = inspect_bytes(&data);
    let _ = read_tensor_bytes("t", &data);
    for options in [ImportOptions::default(), dims(&[("n", batch), ("a", batch)])] {
        match import_bytes(&data, None, &options) {
            Ok(done) => {
                assert!(!done.warnings.has_errors());
                assert!(done.graph.topological().is_ok());
            }
            Err(problems) => {
                assert!(problems.has_errors(), "refused without an error");
                assert!(problems.to_string().len() < 1 << 20, "the message is too long");
            }
        }
    }
    assert!(start.elapsed() < SOON, "took {:?}", start.elapsed());
}

#[test]
fn the_seeds_import() {
    for m in [convolution(), shapes(), control()] {
        if let Err(e) = import(&m, &ImportOptions::default()) {
            panic!("{e}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn mutated_models_give_a_graph_or_an_error(
        seed in any::<prop::sample::Index>(),
        changes in prop::collection::vec(edits(), 1..6),
        batch in prop_oneof![Just(1i64), Just(0), Just(i64::MAX), Just(1 << 31), 0..100i64],
    ) {
        let mut data = seed.get(&SEEDS).clone();
        for e in &changes {
            apply(&mut data, e);
        }
        try_all(data, batch);
    }

    #[test]
    fn random_bytes_give_an_error(data in prop::collection::vec(any::<u8>(), 0..300)) {
        try_all(data, 1);
    }
}

/// Numbers where operators read them: every integer of the seeds, replaced by ones that overflow, are negative or huge.
#[test]
fn absurd_numbers_in_attributes_and_shapes() {
    const ABSURD: [i64; 12] = [0, -1, -2, 1, 7, 65, 1 << 31, -(1 << 31), 1 << 40, 1 << 62, i64::MAX, i64::MIN];
    for m in [convolution(), shapes()] {
        let g = m.graph.as_ref().expect("a graph");
        let edits = |f: &mut dyn FnMut(ModelProto)| {
            for v in ABSURD {
                for (i, n) in g.node.iter().enumerate() {
                    for (j, a) in n.attribute.iter().enumerate() {
                        for k in 0..a.ints.len().max(1) {
                            f(edit(m.clone(), |g| {
                                let a = &mut g.node[i].attribute[j];
                                match a.ints.get_mut(k) {
                                    Some(x) => *x = v,
                                    None => a.i = Some(v),
                                }
                            }));
                        }
                    }
                }
                for (i, t) in g.initializer.iter().enumerate() {
                    (0..t.int64_data.len()).for_each(|k| f(edit(m.clone(), |g| g.initializer[i].int64_data[k] = v)));
                    (0..t.dims.len()).for_each(|k| f(edit(m.clone(), |g| g.initializer[i].dims[k] = v)));
                }
                for k in 0..3 {
                    let dim = v.to_string();
                    let mut extents = vec!["2"; 3];
                    extents[k] = &dim;
                    f(edit(m.clone(), |g| g.input = vec![value("x", F32, &extents)]));
                    let four = [extents[0], extents[1], extents[2], "5"];
                    f(edit(m.clone(), |g| g.input = vec![value("x", F32, &four)]));
                }
            }
        };
        edits(&mut |m| try_all(encode(&m).to_vec(), 1));
    }
}

/// Graphs that are small as files but grow: each must be stopped by a bound.
#[test]
fn growth_is_bounded() {
    let doubling = |op: &str, count: usize| {
        let name = |i: usize| if i == 0 { "x".to_string() } else { format!("v{i}") };
        let mut nodes: Vec<NodeProto> =
            (0..count).map(|i| with(node(op, &[&name(i), &name(i)], &[&name(i + 1)]), "axis", int(0))).collect();
        nodes.push(node("Relu", &[&name(count)], &["y"]));
        nodes
    };
    // 2^80 elements.
    let text = problems(&edit(model(doubling("Concat", 80)), |g| g.output = vec![value("y", F32, &["", "3"])]));
    assert!(text.contains("more than 2^40 bytes"), "{text}");
    // The same with a symbolic extent: 2^80 n.
    let symbolic = edit(model(doubling("Concat", 80)), |g| {
        g.input = vec![value("x", F32, &["n", "3"])];
        g.output = vec![value("y", F32, &["", "3"])];
    });
    try_all(encode(&symbolic).to_vec(), 1);
    // Constants of 2^62 elements and more.
    for shape in [vec![1i64 << 62], vec![1 << 31, 1 << 31], vec![i64::MAX, i64::MAX], vec![1 << 20, 1 << 18]] {
        let nodes = vec![node("ConstantOfShape", &["s"], &["c"]), node("Add", &["c", "x"], &["y"])];
        let m = edit(model(nodes), |g| g.initializer = vec![integers("s", &[shape.len() as i64], &shape)]);
        try_all(encode(&m).to_vec(), 1);
    }
    // A range of 2^62 elements.
    let m = edit(model(vec![node("Range", &["a", "b", "c"], &["y"])]), |g| {
        g.initializer = vec![integers("a", &[], &[0]), integers("b", &[], &[1 << 62]), integers("c", &[], &[1])];
    });
    try_all(encode(&m).to_vec(), 1);
    // Constants that are folded again and again: what goes beyond the budget stays in the graph.
    let mut nodes = vec![node("ConstantOfShape", &["s"], &["v1"])];
    nodes.extend((1..6000).map(|i| node("Neg", &[&format!("v{i}")], &[&format!("v{}", i + 1)])));
    nodes.push(node("Add", &["v6000", "x"], &["y"]));
    let chain = edit(model(nodes), |g| {
        g.initializer = vec![integers("s", &[2], &[20_000, 3])];
        g.input = vec![value("x", F32, &["1", "3"])];
        g.output = vec![value("y", F32, &["20000", "3"])];
    });
    let start = Instant::now();
    match import(&chain, &ImportOptions::default()) {
        Ok(done) => assert!((5000..6005).contains(&done.graph.len()), "{}", done.graph.len()),
        Err(e) => panic!("{e}"),
    }
    assert!(start.elapsed() < SOON * 3, "took {:?}", start.elapsed());
    // One product that would take hours; and a shape that is computed from it.
    let big = edit(
        model(vec![
            with(node("Conv", &["k", "k"], &["c"]), "pads", ints(&[127, 127, 127, 127])),
            node("ReduceSum", &["c"], &["r"]),
            node("Add", &["r", "x"], &["y"]),
            node("Cast", &["r"], &["i"]),
            node("Reshape", &["i", "one"], &["j"]),
            node("ConstantOfShape", &["j"], &["z"]),
        ]),
        |g| {
            g.node[3].attribute.push(AttributeProto { name: "to".into(), ..int(7) });
            g.initializer = vec![weights("k", &[1, 1, 128, 128]), integers("one", &[1], &[1])];
            g.input = vec![value("x", F32, &["1", "3"])];
        },
    );
    let start = Instant::now();
    let text = problems(&big);
    assert!(text.contains("takes longer than the constants of a model may take"), "{text}");
    assert!(start.elapsed() < SOON * 3, "took {:?}", start.elapsed());
    // Extents whose expressions grow.
    let mut nodes: Vec<NodeProto> = vec![];
    for i in 0..60 {
        let (from, to) = (if i == 0 { "x".to_string() } else { format!("p{i}") }, format!("p{}", i + 1));
        let pool = with(node("MaxPool", &[&from], &[&to]), "kernel_shape", ints(&[3, 2]));
        nodes.push(with(pool, "strides", ints(&[2, 3])));
    }
    nodes.push(node("Relu", &["p60"], &["y"]));
    let m = edit(model(nodes), |g| {
        g.input = vec![value("x", F32, &["n", "c", "h", "w"])];
        g.output = vec![value("y", F32, &["", "", "", ""])];
    });
    try_all(encode(&m).to_vec(), 1);
}

/// Subgraphs in subgraphs in subgraphs.
#[test]
fn deep_nesting_is_an_error() {
    for depth in [5, 20, 30, 40, 2000] {
        let leaf = GraphProto {
            node: vec![node("Relu", &["x"], &["r"])],
            output: vec![value("r", F32, &[])],
            ..GraphProto::default()
        };
        let nested = (0..depth).fold(leaf, |g, _| {
            let n = with(node("If", &["c"], &["r"]), "then_branch", graph_attr(g));
            GraphProto { node: vec![n], output: vec![value("r", F32, &[])], ..GraphProto::default() }
        });
        let m = edit(model(vec![]), |g| {
            g.node = nested.node;
            g.initializer = vec![boolean("c", true)];
            g.output = vec![value("r", F32, &["2", "3"])];
        });
        // Encoding and dropping recurse once a level: give them the stack; the import gets the usual one.
        let data = std::thread::Builder::new().stack_size(256 << 20).spawn(move || {
            let data = encode(&m);
            std::mem::forget(m);
            data
        });
        let data = data.expect("a thread").join().expect("encoded");
        let result = import_bytes(&data, None, &ImportOptions::default());
        match (depth <= 30, result) {
            (true, Ok(done)) => assert_eq!(done.graph.outputs().len(), 1),
            (true, Err(e)) => panic!("{depth}: {e}"),
            (false, Ok(_)) => panic!("{depth} levels were accepted"),
            (false, Err(e)) => assert!(e.to_string().contains("nested more than 100 deep"), "{e}"),
        }
    }
}

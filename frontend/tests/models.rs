//! Good models: what they become.

mod support;

use support::*;
use tenon_base::Tensor;
use tenon_frontend::{ImportOptions, Imported, import_file, inspect_bytes, read_tensor_file};
use tenon_ir::NodeKind;

fn imported(m: &ModelProto) -> Imported {
    import(m, &ImportOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn output_fact(done: &Imported) -> String {
    done.graph.fact(done.graph.outputs()[0].1).to_string()
}

/// Names of the operators, in order.
fn ops(done: &Imported) -> Vec<String> {
    use tenon_ir::Operator as _;
    let order = done.graph.topological().expect("no cycle");
    order.into_iter().filter_map(|n| done.graph.op(n).map(|op| op.name().to_string())).collect()
}

#[test]
fn unnamed_extents_can_be_pinned_by_input_and_axis() {
    let m = edit(model(vec![node("Relu", &["x"], &["y"])]), |g| {
        g.input = vec![value("x", F32, &["batch", "", "2*k", "x_1"])];
        g.output = vec![value("y", F32, &["", "", "", ""])];
    });
    assert_eq!(output_fact(&imported(&m)), "f32[batch,x_1_,2*k,x_1]");
    let pinned = import(&m, &dims(&[("x_1_", 7), ("k", 3)])).expect("both names exist");
    assert_eq!(output_fact(&pinned), "f32[batch,7,6,x_1]");
    let names: Vec<String> =
        inspect_bytes(&encode(&m)).expect("a model").inputs[0].1.iter().map(|f| f.to_string()).collect();
    assert_eq!(names, ["f32[batch,x_1_,2*k,x_1]"]);
}

#[test]
fn files_older_than_operator_sets_are_of_the_first() {
    let old =
        |ir_version| ModelProto { ir_version, opset_import: vec![], ..model(vec![node("Relu", &["x"], &["y"])]) };
    assert_eq!(output_fact(&imported(&old(1))), "f32[2,3]");
    assert_eq!(ops(&imported(&old(2))), ["relu"]);
    assert!(problems(&old(3)).contains("does not say which opset"));
}

#[test]
fn sparse_initializers_become_dense() {
    let dense = |indices: TensorProto| {
        let sparse = SparseTensorProto { values: Some(weights("w", &[2])), indices: Some(indices), dims: vec![2, 3] };
        let m = edit(model(vec![node("Add", &["x", "w"], &["y"])]), |g| g.sparse_initializer = vec![sparse]);
        let done = imported(&m);
        let value = done.graph.nodes().find_map(|n| match &done.graph.node(n).kind {
            NodeKind::Weight(name, t) if name == "w" => Some(t.to_f64()),
            _ => None,
        });
        value.expect("a constant of the initializer's name")
    };
    let [a, b] = Tensor::from_bytes(tenon_base::DType::F32, &[2], weights("w", &[2]).raw_data.expect("raw"))
        .expect("two")
        .to_f64()[..]
    else {
        panic!("two values")
    };
    assert_eq!(dense(integers("i", &[2], &[1, 5])), [0.0, a, 0.0, 0.0, 0.0, b]);
    assert_eq!(dense(integers("i", &[2, 2], &[0, 2, 1, 0])), [0.0, 0.0, a, b, 0.0, 0.0]);
}

#[test]
fn an_initializer_that_is_also_an_input_is_constant_unless_it_is_set() {
    let m = edit(model(vec![node("Add", &["x", "w"], &["y"])]), |g| {
        g.input.push(value("w", F32, &["3"]));
        g.initializer = vec![weights("w", &[3])];
    });
    let done = imported(&m);
    assert_eq!(done.graph.inputs().len(), 1);
    let mut options = ImportOptions::default();
    options.set.insert("w".into(), Tensor::new(&[3], &[5.0f32, 6.0, 7.0]));
    let set = import(&m, &options).expect("an input");
    let value = set.graph.nodes().find_map(|n| match &set.graph.node(n).kind {
        NodeKind::Weight(_, t) => Some(t.to_f64()),
        _ => None,
    });
    assert_eq!(value, Some(vec![5.0, 6.0, 7.0]));
}

#[test]
fn a_set_input_pins_the_extents_it_shares() {
    let m = edit(model(vec![node("Relu", &["x"], &["y"])]), |g| {
        g.input = vec![value("x", F32, &["n", "3"]), value("i", I64, &["n"])];
    });
    let mut options = ImportOptions::default();
    options.set.insert("i".into(), Tensor::new(&[2], &[0i64, 1]));
    assert_eq!(output_fact(&import(&m, &options).expect("consistent")), "f32[2,3]");
}

#[test]
fn data_pins_extents_and_only_the_values_that_are_needed() {
    let m = edit(model(vec![node("Reshape", &["x", "shape"], &["y"])]), |g| {
        g.input = vec![value("x", F32, &["n", "3"]), value("shape", I64, &["2"])];
        g.output = vec![value("y", F32, &["", ""])];
    });
    let refused = import(&m, &ImportOptions::default()).expect_err("the shape is not known");
    assert!(refused.contains("try: pin what it is computed from: --set shape=VALUE"), "{refused}");
    let mut options = ImportOptions::default();
    options.data.insert("x".into(), Tensor::new(&[2, 3], &[0.0f32; 6]));
    options.data.insert("shape".into(), Tensor::new(&[2], &[6i64, 1]));
    let done = import(&m, &options).expect("the data tell the shape");
    assert_eq!((output_fact(&done), done.set_from_data.as_slice()), ("f32[6,1]".into(), &["shape".to_string()][..]));
    assert_eq!(done.graph.inputs().len(), 1);
}

#[test]
fn shapes_are_inferred_through_chains_of_shape_arithmetic() {
    // y = reshape(x, [shape(x)[0], -1]), computed as exporters do.
    let nodes = vec![
        node("Shape", &["x"], &["s"]),
        node("Gather", &["s", "zero"], &["n"]),
        with(node("Unsqueeze", &["n", "axes"], &["n1"]), "unused", int(0)),
        with(node("Concat", &["n1", "rest"], &["to"]), "axis", int(0)),
        node("Reshape", &["x", "to"], &["y"]),
    ];
    let m = edit(model(nodes), |g| {
        g.input = vec![value("x", F32, &["batch", "3", "4"])];
        g.output = vec![value("y", F32, &["batch", "12"])];
        g.initializer =
            vec![integers("zero", &[], &[0]), integers("axes", &[1], &[0]), integers("rest", &[1], &[-1])];
    });
    let done = imported(&m);
    assert_eq!(output_fact(&done), "f32[batch,12]");
    assert_eq!(ops(&done), ["reshape"]);
}

#[test]
fn a_branch_is_inlined_when_its_condition_is_known() {
    let branch = |op: &str| GraphProto {
        // Uses the outer `x` and a weight of its own.
        node: vec![node(op, &["x", "w"], &["r"])],
        initializer: vec![weights("w", &[3])],
        output: vec![value("r", F32, &[])],
        ..GraphProto::default()
    };
    let of = |condition: bool| {
        let n = with(node("If", &["c"], &["y"]), "then_branch", graph_attr(branch("Add")));
        let n = with(n, "else_branch", graph_attr(branch("Sub")));
        ops(&imported(&edit(model(vec![n]), |g| g.initializer = vec![boolean("c", condition)])))
    };
    assert_eq!((of(true), of(false)), (vec!["add".to_string()], vec!["sub".to_string()]));
}

#[test]
fn functions_are_inlined_with_their_attributes() {
    let f = FunctionProto {
        name: "F".into(),
        domain: "local".into(),
        input: vec!["a".into(), "b".into()],
        output: vec!["r".into()],
        attribute: vec!["dim".into()],
        attribute_proto: vec![AttributeProto { name: "other".into(), ..int(0) }],
        node: vec![
            with(node("Softmax", &["a"], &["s"]), "axis", reference("dim")),
            with(node("Softmax", &["s"], &["t"]), "axis", reference("other")),
            // `b` is left out by the caller: Clip has no lower bound then.
            node("Clip", &["t", "b"], &["r"]),
        ],
        opset_import: vec![opset("", 17)],
        ..FunctionProto::default()
    };
    let call = NodeProto { domain: "local".into(), ..with(node("F", &["x"], &["y"]), "dim", int(1)) };
    let done = imported(&ModelProto { functions: vec![f], ..model(vec![call]) });
    let names: Vec<String> = done.graph.nodes().map(|n| done.graph.node(n).loc.to_string()).collect();
    assert!(names.contains(&"make_y/make_s".to_string()), "{names:?}");
    assert_eq!(ops(&done).iter().filter(|o| *o == "softmax").count(), 2);
}

#[test]
fn nodes_get_names_that_are_unique() {
    let bare = |i: &str, o: &str| NodeProto { name: String::new(), ..node("Relu", &[i], &[o]) };
    let named = |i: &str, o: &str| NodeProto { name: "Relu_0".into(), ..node("Neg", &[i], &[o]) };
    let done = imported(&model(vec![bare("x", "a"), named("a", "b"), named("b", "y")]));
    let order = done.graph.topological().expect("no cycle");
    let names: Vec<String> = order.iter().filter_map(|n| done.graph.node(*n).loc.name().map(String::from)).collect();
    assert_eq!(names, ["Relu_0", "Relu_0_1", "Relu_0_2"]);
}

#[test]
fn outputs_may_be_inputs_or_initializers() {
    let m = edit(model(vec![]), |g| {
        g.initializer = vec![weights("w", &[2, 2])];
        g.output = vec![value("x", F32, &["2", "3"]), value("w", F32, &["2", "2"])];
    });
    let done = imported(&m);
    let facts: Vec<String> = done.graph.outputs().iter().map(|(_, v)| done.graph.fact(*v).to_string()).collect();
    assert_eq!(facts, ["f32[2,3]", "f32[2,2]"]);
}

#[test]
fn typed_data_of_every_element_type() {
    let data = |data_type: i32| TensorProto {
        data_type,
        dims: vec![2],
        float_data: if data_type == 1 { vec![1.0, 2.0] } else { vec![] },
        double_data: if data_type == 11 { vec![1.0, 2.0] } else { vec![] },
        int64_data: if data_type == 7 { vec![1, 2] } else { vec![] },
        uint64_data: if matches!(data_type, 12 | 13) { vec![1, 2] } else { vec![] },
        int32_data: match data_type {
            10 => vec![0x3c00, 0x4000],
            2..=6 | 9 => vec![1, 2],
            _ => vec![],
        },
        ..TensorProto::default()
    };
    for data_type in [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13] {
        let t = tenon_frontend::read_tensor_bytes("t", &prost::Message::encode_to_vec(&data(data_type)).into());
        let t = t.unwrap_or_else(|e| panic!("{data_type}: {e}"));
        let expected = if data_type == 9 { [1.0, 1.0] } else { [1.0, 2.0] };
        assert_eq!(t.to_f64(), expected, "{data_type}");
    }
}

#[test]
fn external_data_stay_inside_the_models_folder() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = root.path().join("model");
    std::fs::create_dir_all(folder.join("data")).expect("a folder");
    let bytes: Vec<u8> = [9.0f32, 1.0, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(folder.join("data/w.bin"), &bytes).expect("written");
    std::fs::write(root.path().join("secret.bin"), &bytes).expect("written");
    let text = |location: &str, offset: &str| {
        let entry = |k: &str, v: &str| StringStringEntry { key: k.into(), value: v.into() };
        let external_data = vec![entry("location", location), entry("offset", offset), entry("length", "12")];
        let w = TensorProto { raw_data: None, data_location: 1, external_data, ..weights("w", &[3]) };
        let m = edit(model(vec![node("Add", &["x", "w"], &["y"])]), |g| g.initializer = vec![w]);
        let path = folder.join("model.onnx");
        std::fs::write(&path, encode(&m)).expect("written");
        match import_file(&path, &ImportOptions::default()) {
            Err(e) => e.to_string(),
            Ok(done) => {
                let weight = done.graph.nodes().find_map(|n| match &done.graph.node(n).kind {
                    NodeKind::Weight(_, t) => Some(t.to_f64()),
                    _ => None,
                });
                format!("{weight:?}")
            }
        }
    };
    assert_eq!(text("data/w.bin", "4"), "Some([1.0, 2.0, 3.0])");
    assert_eq!(text("./data/w.bin", "0"), "Some([9.0, 1.0, 2.0])");
    assert_eq!(
        text("data/w.bin", "8"),
        "error[w]: initializer: expected 12 bytes at 8 of `data/w.bin`, but that file has 16 bytes\n  \
         try: the data file may be cut short; fetch or export it again"
    );
    let outside = |location: &str| {
        let found = text(location, "0");
        let expected =
            format!("error[w]: initializer: its data are in `{location}`, which is outside the model's folder");
        assert!(found.starts_with(&expected), "{found}");
    };
    outside("../secret.bin");
    outside("data/../../secret.bin");
    outside(&root.path().join("secret.bin").display().to_string());
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(root.path().join("secret.bin"), folder.join("link.bin")).expect("a link");
        outside("link.bin");
        std::os::unix::fs::symlink(folder.join("data/w.bin"), folder.join("inner.bin")).expect("a link");
        assert_eq!(text("inner.bin", "4"), "Some([1.0, 2.0, 3.0])");
    }
    assert!(text("data", "0").contains("which is not a readable regular file"));
    assert!(text("missing.bin", "0").contains("which cannot be read"));
}

#[test]
fn unreadable_files() {
    let root = tempfile::tempdir().expect("a folder");
    let text = |name: &str| {
        let path = root.path().join(name);
        let shown = path.display().to_string();
        let models = import_file(&path, &ImportOptions::default()).expect_err("not a model").to_string();
        let tensors = read_tensor_file(&path).expect_err("not a tensor").to_string();
        (models.replace(&shown, "FILE"), tensors.replace(&shown, "FILE"))
    };
    let (models, tensors) = text("missing");
    assert!(models.starts_with("error: cannot read `FILE`: "), "{models}");
    assert!(tensors.starts_with("error[FILE]: cannot read `FILE`: "), "{tensors}");
    assert_eq!(text("").0.replace("//", "/"), "error: cannot read `FILE`: it is a folder");
    // A sequence of one tensor.
    std::fs::write(root.path().join("s.pb"), [0x0a, 3, b's', b'e', b'q', 0x10, 1, 0x1a, 2, 0x10, 1])
        .expect("written");
    assert_eq!(
        text("s.pb").1,
        "error[FILE]: not a tensor: the file holds a sequence, an optional or a tensor without data\n  \
         try: only tensors can be read; sequences and optionals are not supported"
    );
}

/// What a model without inputs but `x` makes of [[0, 1, 2], [3, 4, 5]].
fn first_result(m: &ModelProto) -> Vec<f64> {
    let x = Tensor::new(&[2, 3], &[0f32, 1.0, 2.0, 3.0, 4.0, 5.0]);
    tenon_ir::eval::run(&imported(m).graph, &[x]).unwrap_or_else(|e| panic!("{e}"))[0].to_f64()
}

#[test]
fn a_range_of_the_other_domain_needs_no_step() {
    let range = |inputs: &[&str]| NodeProto { domain: "com.microsoft".into(), ..node("Range", inputs, &["y"]) };
    let with_step = |inputs: &[&str]| {
        let mut m = edit(model(vec![range(inputs)]), |g| {
            g.initializer = vec![integers("a", &[], &[2]), integers("b", &[], &[7]), integers("c", &[], &[3])];
            g.output = vec![value("y", I64, &["n"])];
        });
        m.opset_import.push(opset("com.microsoft", 1));
        first_result(&m)
    };
    assert_eq!(with_step(&["a", "b"]), [2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(with_step(&["a", "b", "c"]), [2.0, 5.0]);
}

#[test]
fn neighbours_by_half_pixels_are_not_shifted_back() {
    let text = |s: &str| AttributeProto { s: Some(s.as_bytes().to_vec().into()), ..kind(AttributeKind::String) };
    let n = with(node("Resize", &["x", "", "", "to"], &["y"]), "nearest_mode", text("floor"));
    let n = with(n, "coordinate_transformation_mode", text("tf_half_pixel_for_nn"));
    let m = edit(model(vec![n]), |g| {
        g.initializer = vec![integers("to", &[2], &[2, 5])];
        g.output = vec![value("y", F32, &["2", "5"])];
    });
    // (i + 1/2) · 3/5
    assert_eq!(first_result(&m), [0.0, 0.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 5.0, 5.0]);
}

#[test]
fn long_transforms_go_in_two_steps() {
    let dft = |points: &str, parts: usize, inverse: i64, onesided: i64, columns: usize| {
        let n = with(with(node("DFT", &["x"], &["y"]), "inverse", int(inverse)), "onesided", int(onesided));
        let m = edit(model(vec![n]), |g| {
            g.input = vec![value("x", F32, &["2", points, &parts.to_string()])];
            g.output = vec![value("y", F32, &["2", &columns.to_string(), "2"])];
        });
        let n: usize = points.parse().expect("a number");
        let draw = |i: usize| ((i * 37 + 11) % 29) as f32 / 29.0 - 0.4;
        let x: Vec<f32> = (0..2 * n * parts).map(draw).collect();
        let done = imported(&m);
        let tensor = Tensor::new(&[2, n, parts], &x);
        let y = tenon_ir::eval::run(&done.graph, &[tensor]).unwrap_or_else(|e| panic!("{e}"))[0].to_f64();
        for (i, y) in y.chunks_exact(2).enumerate() {
            let (row, k) = (i / columns, i % columns);
            let (mut re, mut im) = (0.0, 0.0);
            for j in 0..n {
                let at = |p: usize| f64::from(x[(row * n + j) * parts + p]);
                let (a, b) = (at(0), if parts == 2 { at(1) } else { 0.0 });
                let turn = std::f64::consts::TAU * ((j * k) % n) as f64 / n as f64;
                let (c, s) = (turn.cos(), if inverse == 1 { turn.sin() } else { -turn.sin() });
                (re, im) = (re + a * c - b * s, im + a * s + b * c);
            }
            let scale = if inverse == 1 { 1.0 / n as f64 } else { 1.0 };
            assert!((re * scale - y[0]).abs() + (im * scale - y[1]).abs() < 1e-4, "{points} {parts} {inverse}: {i}");
        }
        ops(&done).iter().filter(|op| *op == "matmul").count()
    };
    assert_eq!(dft("96", 1, 0, 1, 49), 1, "as many products as one matrix");
    assert_eq!(dft("256", 1, 0, 1, 129), 2);
    assert_eq!(dft("288", 2, 0, 0, 288), 2);
    assert_eq!(dft("400", 2, 1, 0, 400), 2);
    assert_eq!(dft("257", 1, 0, 0, 257), 1, "a prime");
}

#[test]
fn functions_of_recurrent_layers_take_their_parameters_in_order() {
    let text = |names: &[&str]| AttributeProto {
        strings: names.iter().map(|s| s.as_bytes().to_vec().into()).collect(),
        ..kind(AttributeKind::Strings)
    };
    let floats = |v: &[f32]| AttributeProto { floats: v.to_vec(), ..kind(AttributeKind::Floats) };
    let run = |alpha: &[f32], beta: &[f32]| {
        let n = with(node("RNN", &["x3", "w", "r"], &["y"]), "activations", text(&["LeakyRelu", "Affine"]));
        let n = with(with(n, "activation_alpha", floats(alpha)), "activation_beta", floats(beta));
        let direction = AttributeProto { s: Some(b"bidirectional".to_vec().into()), ..kind(AttributeKind::String) };
        let m = edit(model(vec![node("Reshape", &["x", "to"], &["x3"]), with(n, "direction", direction)]), |g| {
            g.initializer =
                vec![integers("to", &[3], &[1, 2, 3]), weights("w", &[2, 1, 3]), weights("r", &[2, 1, 1])];
            g.output = vec![value("y", F32, &["1", "2", "2", "1"])];
        });
        first_result(&m)
    };
    // The products are -1.75 and -8.5 forwards, and 0.5 for both elements backwards.
    assert_eq!(run(&[0.5, 2.0], &[1.0]), [-0.875, -4.25, 2.0, 2.0]);
    let defaults = run(&[], &[]);
    assert!((defaults[0] + 0.0175).abs() < 1e-6 && defaults[2] == 0.5, "{defaults:?}");
}

//! What a user is told of each kind of bad model: the whole text.

mod support;

use support::*;
use tenon_base::Tensor;
use tenon_frontend::ImportOptions;

/// Compares each case's text; all that differ are shown.
fn check(cases: &[(&str, String, &str)]) {
    let mut wrong = String::new();
    for (name, found, expected) in cases {
        if found != expected {
            wrong += &format!("--- {name}: found\n{found}\n--- expected\n{expected}\n--- end\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

fn relu() -> NodeProto {
    node("Relu", &["x"], &["y"])
}

fn inputs(list: Vec<ValueInfoProto>) -> ModelProto {
    edit(model(vec![relu()]), |g| g.input = list)
}

fn initializer(t: TensorProto) -> ModelProto {
    edit(model(vec![node("Add", &["x", "w"], &["y"])]), |g| g.initializer = vec![t])
}

#[test]
fn files_that_are_no_models() {
    let text = |data: &'static [u8]| match tenon_frontend::import_bytes(&data.into(), None, &ImportOptions::default())
    {
        Ok(_) => "imported".to_string(),
        Err(e) => e.to_string(),
    };
    check(&[
        ("empty", text(b""), "error: the file is empty"),
        (
            "lfs",
            text(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n"),
            "error: the file is not an ONNX model\n\
             \x20 try: this is a Git LFS pointer: fetch the model with `git lfs pull`",
        ),
        (
            "zip",
            text(b"PK\x03\x04abcdef"),
            "error: the file is not an ONNX model\n\
             \x20 try: this is a zip archive, perhaps a PyTorch checkpoint: export it with torch.onnx.export",
        ),
        (
            "tflite",
            text(b"\x1c\0\0\0TFL3\0\0"),
            "error: the file is not an ONNX model\n\
             \x20 try: this is a TensorFlow Lite model: convert it with tf2onnx",
        ),
        (
            "ort",
            text(b"\x1c\0\0\0ORTM\0\0"),
            "error: the file is not an ONNX model\n\
             \x20 try: this is an ONNX Runtime .ort model: use the .onnx file it was made from",
        ),
        (
            "hdf5",
            text(b"\x89HDF\r\n"),
            "error: the file is not an ONNX model\n\
             \x20 try: this is an HDF5 file, perhaps a Keras model: convert it with tf2onnx",
        ),
        (
            "html",
            text(b"<!DOCTYPE html>"),
            "error: the file is not an ONNX model\n\
             \x20 try: this is a web page: the download went wrong",
        ),
        (
            "text",
            text(b"hello"),
            "error: the file is not valid protobuf: at byte 2, wire type 4 is not expected\n\
             \x20 try: it may be cut short or damaged; fetch or export it again",
        ),
        (
            "cut short",
            text(&[8, 7, 0x3a, 9, 0x0a, 0]),
            "error: the file is not valid protobuf: at byte 2, a field needs 9 bytes, 2 are left\n\
             \x20 try: it may be cut short or damaged; fetch or export it again",
        ),
        (
            "no graph, no opsets",
            text(&[8, 7]),
            "error: the file is not an ONNX model: it has neither a graph nor operator sets",
        ),
        (
            "bad text",
            text(&[8, 7, 0x3a, 3, 0x12, 1, 0xff]),
            "error: the file is not a valid ONNX model: failed to decode Protobuf message: GraphProto.name: ModelProto.graph: invalid string value: data is not UTF-8 encoded",
        ),
        (
            "wrong kind",
            text(&[0x0a, 1, 0x20]),
            "error: the file is not a valid ONNX model: failed to decode Protobuf message: ModelProto.ir_version: invalid wire type: LengthDelimited (expected Varint)",
        ),
    ]);
}

#[test]
fn headers() {
    let header = |ir: i64, opsets: Vec<OperatorSetId>| {
        problems(&ModelProto { ir_version: ir, opset_import: opsets, ..model(vec![relu()]) })
    };
    check(&[
        (
            "old IR",
            header(0, vec![opset("", 17)]),
            "error: the file has IR version 0; 1 to 14 are supported\n\
             \x20 try: convert it with onnx.version_converter, or export it again",
        ),
        (
            "new IR",
            header(99, vec![opset("", 17)]),
            "warning: the file has IR version 99; the newest known one is 14",
        ),
        (
            "new opset",
            header(8, vec![opset("", 99)]),
            "warning: the model uses opset 99; the newest known one is 28\n\
             \x20 try: operators that changed since are read as they were: check the results",
        ),
        (
            "no opset",
            header(8, vec![opset("other", 1)]),
            "error: the model does not say which opset of ai.onnx it uses\n\
             \x20 try: set `opset_import`, e.g. with onnx.helper.make_model",
        ),
        (
            "two opsets",
            header(8, vec![opset("", 17), opset("ai.onnx", 18)]),
            "error: domain `ai.onnx` is imported in two versions, 17 and 18",
        ),
        (
            "negative opset",
            header(8, vec![opset("", -1)]),
            "error: domain `ai.onnx` is imported in version -1: expected 1 or more",
        ),
        ("no graph", problems(&ModelProto { graph: None, ..model(vec![]) }), "error: the model has no graph"),
        ("no outputs", problems(&edit(model(vec![relu()]), |g| g.output.clear())), "error: the graph has no outputs"),
    ]);
}

#[test]
fn operators() {
    let unnamed = |op: &str, i: &str, o: &str| NodeProto { name: String::new(), ..node(op, &[i], &[o]) };
    let many = |n: usize| (0..n).map(|i| unnamed("Frob", "x", &format!("f{i}"))).collect::<Vec<_>>();
    let foreign = NodeProto { domain: "com.acme".into(), ..node("Blur", &["x"], &["b"]) };
    let mixed = vec![
        foreign,
        unnamed("Frob", "b", "c"),
        node("Relu", &["c", "nothing"], &["d"]),
        node("Relu", &["c"], &["y"]),
    ];
    let hard = |g| {
        with(
            with(node("If", &["c"], &["y"]), "then_branch", graph_attr(g)),
            "else_branch",
            graph_attr(branch("Frob")),
        )
    };
    check(&[
        (
            "unknown, six times",
            problems(&model([many(6), vec![relu()]].concat())),
            "error[Frob@17]: the operator is not supported; 6 nodes: `Frob_0`, `Frob_1`, `Frob_2`, `Frob_3` and 2 more\n\
             \x20 try: see docs/OPERATORS.md for the supported operators; export the model without this one",
        ),
        (
            "unknown, then what depends on it",
            problems(&model(mixed)),
            "error[Frob@17]: the operator is not supported; 1 node: `Frob_1`\n\
             error[com.acme.Blur@1]: the operator is not supported; 1 node: `make_b`\n\
             \x20 try: see docs/OPERATORS.md for the supported operators; export the model without this one\n\
             error[Relu@17 \"make_d\"]: operand 1 is `nothing`, which no node, input or initializer gives",
        ),
        (
            "no operator",
            problems(&model(vec![node("", &["x"], &["y"])])),
            "error[@17]: the node has no operator; 1 node: `make_y`\n\
             \x20 try: see docs/OPERATORS.md for the supported operators; export the model without this one",
        ),
        (
            "not yet",
            problems(&model(vec![node("Gelu", &["x"], &["y"])])),
            "error[Gelu@17]: the operator exists only from opset 20 on; 1 node: `make_y`\n\
             \x20 try: convert the model to a newer opset with onnx.version_converter",
        ),
        (
            "loop",
            problems(&model(vec![with(node("Loop", &["x"], &["y"]), "body", graph_attr(branch("Frob")))])),
            "error[Frob@17]: the operator is not supported; 1 node: `make_y/make_r`\n\
             \x20 try: see docs/OPERATORS.md for the supported operators; export the model without this one\n\
             error[Loop@17 \"make_y\"]: a body that carries 0 values has 2 inputs and 1 outputs or more, found 0 and 1",
        ),
        (
            "data-dependent if",
            problems(&with_condition(model(vec![hard(branch("Abs"))]))),
            "error[Frob@17]: the operator is not supported; 1 node: `make_y/make_r_1`\n\
             \x20 try: see docs/OPERATORS.md for the supported operators; export the model without this one\n\
             error[If@17 \"make_y\"]: not both branches can be compiled, and `cond` must be known at compile time, but it is computed from the inputs\n\
             \x20 try: pin what it is computed from: --set c=VALUE",
        ),
        (
            "too few operands",
            problems(&model(vec![node("Add", &["x"], &["y"])])),
            "error[Add@17 \"make_y\"]: operand 1 is missing",
        ),
        (
            "attribute kind",
            problems(&model(vec![with(node("Softmax", &["x"], &["y"]), "axis", ints(&[1]))])),
            "error[Softmax@17 \"make_y\"]: attribute `axis`: expected an integer, found a list of integers",
        ),
        (
            "attribute kind not read",
            problems(&model(vec![with(node("Softmax", &["x"], &["y"]), "axis", kind(AttributeKind::TypeProto))])),
            "error[Softmax@17 \"make_y\"]: attribute `axis`: expected an integer, found TYPE_PROTO",
        ),
        (
            "attribute without kind",
            problems(&model(vec![with(relu(), "a", kind(AttributeKind::Undefined))])),
            "error[Relu@17 \"make_y\"]: attribute `a` has kind 0, which is not known",
        ),
        (
            "attribute without value",
            problems(&model(vec![with(relu(), "a", kind(AttributeKind::Tensor))])),
            "error[Relu@17 \"make_y\"]: attribute `a` has no value",
        ),
        (
            "attribute twice",
            problems(&model(vec![with(with(relu(), "a", int(1)), "a", int(2))])),
            "error[Relu@17 \"make_y\"]: attribute `a` is given twice",
        ),
        (
            "reference outside a function",
            problems(&model(vec![with(relu(), "a", reference("b"))])),
            "error[Relu@17 \"make_y\"]: attribute `a` refers to the function attribute `b`, but the node is not in a function",
        ),
        (
            "string tensor in an attribute",
            problems(&model(vec![with(
                node("Constant", &[], &["y"]),
                "value",
                tensor_attr(TensorProto { data_type: 8, ..weights("", &[1]) }),
            )])),
            "error[Constant@17 \"make_y\"]: attribute `value`: elements of type string are not supported",
        ),
        (
            "more outputs than there are",
            problems(&model(vec![node("Relu", &["x"], &["y", "z"])])),
            "error[Relu@17 \"make_y\"]: output 1 (`z`) of this operator is not supported: it has 1 here",
        ),
    ]);
}

fn with_condition(m: ModelProto) -> ModelProto {
    edit(m, |g| g.input.push(value("c", BOOL, &[])))
}

/// `op` of the outer `x`.
fn branch(op: &str) -> GraphProto {
    GraphProto { node: vec![node(op, &["x"], &["r"])], output: vec![value("r", F32, &[])], ..GraphProto::default() }
}

#[test]
fn names_and_order() {
    check(&[
        (
            "undefined",
            problems(&model(vec![node("Relu", &["ghost"], &["y"])])),
            "error[Relu@17 \"make_y\"]: operand 0 is `ghost`, which no node, input or initializer gives",
        ),
        (
            "undefined output",
            problems(&model(vec![node("Relu", &["x"], &["z"])])),
            "error[y]: no node, input or initializer gives this output",
        ),
        (
            "taken",
            problems(&model(vec![relu(), node("Abs", &["x"], &["y"])])),
            "error[Abs@17 \"make_y_1\"]: output 0 is `y`, a name that is already taken\n\
             \x20 try: every value of a graph needs a name of its own",
        ),
        (
            "taken by an input",
            problems(&model(vec![node("Abs", &["x"], &["x"]), relu()])),
            "error[make_x]: the graph has a cycle: `make_x` → `make_x`",
        ),
        (
            "cycle",
            problems(&model(vec![
                node("Abs", &["b"], &["a"]),
                node("Neg", &["a"], &["b"]),
                node("Frob", &["b"], &["y"]),
            ])),
            "error[Frob@17]: the operator is not supported; 1 node: `make_y`\n\
             \x20 try: see docs/OPERATORS.md for the supported operators; export the model without this one\n\
             error[make_b]: the graph has a cycle: `make_b` → `make_a` → `make_b`",
        ),
        (
            "own cycle",
            problems(&model(vec![node("Abs", &["y"], &["y"])])),
            "error[make_y]: the graph has a cycle: `make_y` → `make_y`",
        ),
        (
            "unsorted",
            problems(&model(vec![node("Abs", &["a"], &["y"]), node("Neg", &["x"], &["a"])])),
            "warning[make_y]: uses `a` before it is made: the nodes were sorted",
        ),
        (
            "two inputs",
            problems(&inputs(vec![value("x", F32, &["2", "3"]), value("x", F32, &["2", "3"])])),
            "error[x]: two inputs have this name",
        ),
        (
            "nameless input",
            problems(&inputs(vec![value("x", F32, &["2", "3"]), value("", F32, &["2"])])),
            "error: an input has no name",
        ),
        (
            "two outputs",
            problems(&edit(model(vec![relu()]), |g| g.output.push(value("y", F32, &["2", "3"])))),
            "error[y]: two outputs have this name",
        ),
        (
            "nameless output",
            problems(&edit(model(vec![relu()]), |g| g.output.push(value("", F32, &["2", "3"])))),
            "error: an output has no name",
        ),
        (
            "two initializers",
            problems(&edit(initializer(weights("w", &[3])), |g| g.initializer.push(weights("w", &[3])))),
            "error[w]: two initializers have this name",
        ),
    ]);
}

#[test]
fn declared_types() {
    let map = TypeValue::Map(Box::new(MapType { key_type: I64, value_type: Some(Box::new(tensor_type(F32))) }));
    let optional = TypeValue::Optional(Box::new(ElementType { elem_type: Some(Box::new(tensor_type(8))) }));
    let output = |v| problems(&edit(model(vec![relu()]), |g| g.output = vec![v]));
    check(&[
        (
            "sequence",
            problems(&inputs(vec![typed("x", sequence())])),
            "error[x]: expected a tensor, found a value of type sequence of f32 tensors, which is not supported\n\
             \x20 try: export the model with plain tensors as inputs and outputs",
        ),
        (
            "map",
            problems(&inputs(vec![typed("x", map)])),
            "error[x]: expected a tensor, found a value of type map from i64 to f32 tensor, which is not supported\n\
             \x20 try: export the model with plain tensors as inputs and outputs",
        ),
        (
            "optional",
            problems(&inputs(vec![typed("x", optional)])),
            "error[x]: expected a tensor, found a value of type optional string tensor, which is not supported\n\
             \x20 try: export the model with plain tensors as inputs and outputs",
        ),
        (
            "strings",
            problems(&inputs(vec![value("x", 8, &["2"])])),
            "error[x]: elements of type string are not supported",
        ),
        (
            "unknown element type",
            problems(&inputs(vec![value("x", 77, &["2"])])),
            "error[x]: 77 is not an ONNX element type",
        ),
        (
            "no type",
            problems(&inputs(vec![ValueInfoProto { name: "x".into(), ty: None }])),
            "error[x]: the input's element type and shape are not declared",
        ),
        (
            "no shape",
            problems(&inputs(vec![ValueInfoProto { name: "x".into(), ty: Some(tensor_type(F32)) }])),
            "error[x]: the input's shape is not declared, not even its rank\n\
             \x20 try: declare it when exporting (extents may be names), or pin the input's value with --set",
        ),
        (
            "negative extent",
            problems(&inputs(vec![value("x", F32, &["2", "-7"])])),
            "error[x]: expected a non-negative extent or a name at axis 1, found -7",
        ),
        (
            "too large",
            problems(&inputs(vec![value("x", F32, &["4611686018427387904", "4"])])),
            "error[x]: the value would be f32[4611686018427387904,4], more than 2^40 bytes",
        ),
        (
            "too many axes",
            problems(&inputs(vec![value("x", F32, &["1"; 70])])),
            "error[x]: its shape has 70 axes; at most 64 are supported",
        ),
        (
            "output of another shape",
            output(value("y", F32, &["2", "4"])),
            "warning[y]: this output is declared as f32[2,4], but it is f32[2,3]",
        ),
        (
            "output of another rank",
            output(value("y", F32, &["n"])),
            "warning[y]: this output is declared as f32[n], but it is f32[2,3]",
        ),
        (
            "output of another type",
            output(value("y", I64, &["2", "3"])),
            "error[y]: this output is declared as i64, but it is f32[2,3]",
        ),
        (
            "sequence output",
            output(typed("y", sequence())),
            "error[y]: expected a tensor, found a value of type sequence of f32 tensors, which is not supported\n\
             \x20 try: export the model with plain tensors as inputs and outputs",
        ),
    ]);
}

#[test]
fn tensors() {
    let w = || weights("w", &[3]);
    let external = |pairs: &[(&str, &str)]| {
        let entry = |(k, v): &(&str, &str)| StringStringEntry { key: k.to_string(), value: v.to_string() };
        let external_data = pairs.iter().map(entry).collect();
        problems(&initializer(TensorProto { raw_data: None, data_location: 1, external_data, ..w() }))
    };
    let typed = |data_type, int32_data: &[i32]| TensorProto {
        raw_data: None,
        data_type,
        int32_data: int32_data.to_vec(),
        ..w()
    };
    let sparse = |indices: TensorProto, dims: &[i64]| {
        let sparse = SparseTensorProto { values: Some(w()), indices: Some(indices), dims: dims.to_vec() };
        problems(&edit(initializer(w()), |g| {
            g.initializer.clear();
            g.sparse_initializer = vec![sparse];
        }))
    };
    check(&[
        (
            "too few bytes",
            problems(&initializer(TensorProto { dims: vec![4], ..w() })),
            "error[w]: initializer: expected 16 bytes of data for f32[4], found 12",
        ),
        (
            "negative",
            problems(&initializer(TensorProto { dims: vec![-3], ..w() })),
            "error[w]: initializer: its shape [-3] has the negative extent -3",
        ),
        (
            "huge",
            problems(&initializer(TensorProto { dims: vec![1 << 31, 1 << 31, 1 << 31], ..w() })),
            "error[w]: initializer: its shape [2147483648, 2147483648, 2147483648] asks for more than 2^40 bytes",
        ),
        (
            "many axes",
            problems(&initializer(TensorProto { dims: vec![1; 65], ..w() })),
            "error[w]: initializer: it has 65 axes; at most 64 are supported",
        ),
        (
            "no type",
            problems(&initializer(TensorProto { data_type: 0, ..w() })),
            "error[w]: initializer: its element type is not given",
        ),
        (
            "bfloat16",
            problems(&initializer(TensorProto { data_type: 16, ..w() })),
            "error[w]: initializer: expected 6 bytes of data for bf16[3], found 12",
        ),
        (
            "both",
            problems(&initializer(TensorProto { float_data: vec![1.0], ..w() })),
            "error[w]: initializer: it has both raw and typed data",
        ),
        (
            "wrong field",
            problems(&initializer(typed(F32, &[1, 2, 3]))),
            "error[w]: initializer: expected 3 elements in `float_data` for f32[3], found 0 (and 3 in fields of other types)",
        ),
        (
            "too few elements",
            problems(&initializer(typed(3, &[1, 2]))),
            "error[w]: initializer: expected 3 elements in `int32_data` for i8[3], found 2",
        ),
        (
            "out of range",
            problems(&initializer(typed(2, &[1, 2, 256]))),
            "error[w]: initializer: its element 256 does not fit u8",
        ),
        ("no location", external(&[]), "error[w]: initializer: its external data have no `location`"),
        (
            "no folder",
            external(&[("location", "w.bin")]),
            "error[w]: initializer: its data are in the file `w.bin`, but the model was not read from a folder\n\
             \x20 try: import the model from its file, with the data file beside it",
        ),
        (
            "bad offset",
            external(&[("location", "w.bin"), ("offset", "-4")]),
            "error[w]: initializer: its external data's `offset` is `-4`: expected a non-negative number",
        ),
        (
            "bad length",
            external(&[("location", "w.bin"), ("length", "13")]),
            "error[w]: initializer: expected 12 bytes of external data, found `length` 13",
        ),
        (
            "unknown location",
            problems(&initializer(TensorProto { raw_data: None, data_location: 5, ..w() })),
            "error[w]: initializer: data location 5 is not known",
        ),
        (
            "sparse, indices of another count",
            sparse(integers("i", &[2], &[0, 4]), &[2, 3]),
            "error[w]: sparse initializer: expected indices of shape [3] or [3,2] for 3 values of f32[2, 3], found [2]",
        ),
        (
            "sparse, index outside",
            sparse(integers("i", &[3, 2], &[0, 0, 1, 2, 1, 3]), &[2, 3]),
            "error[w]: sparse initializer: its index [1, 3] is not in [2, 3]",
        ),
        (
            "sparse, negative index",
            sparse(integers("i", &[3], &[0, -1, 2]), &[2, 3]),
            "error[w]: sparse initializer: its index [-1] is not in [2, 3]",
        ),
        (
            "sparse, a dense form too large",
            sparse(integers("i", &[3], &[0, 1, 2]), &[1 << 20, 1 << 10]),
            "error: constants computed at import take more than 1073741824 bytes",
        ),
    ]);
}

#[test]
fn constants() {
    let constant =
        |name: &str, a: AttributeProto| problems(&model(vec![with(node("Constant", &[], &["y"]), name, a)]));
    check(&[
        (
            "no value",
            problems(&model(vec![node("Constant", &[], &["y"])])),
            "error[Constant@17 \"make_y\"]: expected exactly one attribute with a value, e.g. `value` or `value_int`",
        ),
        (
            "string",
            constant("value_string", AttributeProto { s: Some("a".into()), kind: 3, ..AttributeProto::default() }),
            "error[Constant@17 \"make_y\"]: string constants are not supported",
        ),
        (
            "sparse",
            constant("sparse_value", kind(AttributeKind::SparseTensor)),
            "error[Constant@17 \"make_y\"]: sparse constants are not supported",
        ),
        (
            "wrong kind",
            constant("value", int(1)),
            "error[Constant@17 \"make_y\"]: attribute `value` does not hold a constant",
        ),
    ]);
}

#[test]
fn pins() {
    let dynamic = || {
        edit(model(vec![relu()]), |g| {
            g.input = vec![value("x", F32, &["batch", ""]), value("n", I64, &["batch"])];
            g.output = vec![value("y", F32, &["batch", ""])];
        })
    };
    let text = |o: ImportOptions| import(&dynamic(), &o).map_or_else(|e| e, |d| d.warnings.to_string());
    let set = |name: &str, t: Tensor| {
        let mut o = dims(&[("batch", 2)]);
        o.set.insert(name.into(), t);
        text(o)
    };
    check(&[
        (
            "unknown",
            text(dims(&[("bach", 1)])),
            "error: the model has no dimension `bach`\n\
             \x20 try: the model's dimensions are: batch, x_1",
        ),
        ("negative", text(dims(&[("batch", -1)])), "error: dimension `batch` cannot be -1: expected 0 or more"),
        (
            "nothing to pin",
            import(&model(vec![relu()]), &dims(&[("n", 1)])).map_or_else(|e| e, |_| String::new()),
            "error: the model has no dimension `n`\n\
             \x20 try: the model has no dimensions that can be pinned",
        ),
        (
            "too large",
            text(dims(&[("batch", i64::MAX), ("x_1", i64::MAX)])),
            "error[x]: the value would be f32[9223372036854775807,9223372036854775807], more than 2^40 bytes\n\
             error[n]: the value would be i64[9223372036854775807], more than 2^40 bytes",
        ),
        (
            "unknown input",
            set("m", Tensor::scalar(1.0f32)),
            "error: the model has no input `m`\n\
             \x20 try: the model's inputs are: x, n",
        ),
        (
            "dtype",
            set("n", Tensor::new(&[2], &[1.0f32, 2.0])),
            "error[n]: expected i64[2] for this input, found a value of type f32[2]",
        ),
        (
            "extent",
            set("n", Tensor::new(&[3], &[1i64, 2, 3])),
            "error[n]: expected i64[2] for this input, found a value of type i64[3]",
        ),
        (
            "rank",
            set("n", Tensor::scalar(1i64)),
            "error[n]: expected i64[2] for this input, found a value of type i64[]",
        ),
    ]);
}

#[test]
fn functions() {
    let f = |name: &str, nodes: Vec<NodeProto>| FunctionProto {
        name: name.into(),
        domain: "local".into(),
        input: vec!["a".into()],
        output: vec!["r".into()],
        node: nodes,
        opset_import: vec![opset("", 17), opset("local", 1)],
        ..FunctionProto::default()
    };
    let call = |name: &str, i: &[&str], o: &str| NodeProto { domain: "local".into(), ..node(name, i, &[o]) };
    let of = |functions: Vec<FunctionProto>, nodes| problems(&ModelProto { functions, ..model(nodes) });
    let doubling: Vec<FunctionProto> = (0..40)
        .map(|i| {
            let callee = format!("F{}", i + 1);
            f(&format!("F{i}"), vec![call(&callee, &["a"], "b"), call(&callee, &["b"], "r")])
        })
        .chain([f("F40", vec![node("Relu", &["a"], &["r"])])])
        .collect();
    check(&[
        (
            "inside",
            of(vec![f("F", vec![node("Relu", &["b"], &["r"])])], vec![call("F", &["x"], "y")]),
            "error[Relu@17 \"make_y/make_r\"]: operand 0 is `b`, which no node, input or initializer gives",
        ),
        (
            "unknown inside",
            of(vec![f("F", vec![node("Frob", &["a"], &["r"])])], vec![call("F", &["x"], "y")]),
            "error[Frob@17]: the operator is not supported; 1 node: `make_y/make_r`\n\
             \x20 try: see docs/OPERATORS.md for the supported operators; export the model without this one",
        ),
        (
            "no output",
            of(vec![f("F", vec![node("Relu", &["a"], &["q"])])], vec![call("F", &["x"], "y")]),
            "error[local.F@1 \"make_y\"]: nothing in `F` gives its output `r`",
        ),
        (
            "too many operands",
            of(vec![f("F", vec![node("Relu", &["a"], &["r"])])], vec![call("F", &["x", "x"], "y")]),
            "error[local.F@1 \"make_y\"]: expected at most 1 operands, found 2",
        ),
        (
            "recursive",
            of(vec![f("F", vec![call("F", &["a"], "r")])], vec![call("F", &["x"], "y")]),
            "error[local.F@1 \"make_y/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make_r/make…\"]: functions, branches and loops are nested more than 48 deep\n\
             \x20 try: a function of the model may call itself, which ONNX does not allow",
        ),
        (
            "exponential",
            of(doubling, vec![call("F0", &["x"], "y")]),
            "error: the model has more than 262144 nodes after functions and branches are inlined",
        ),
        (
            "twice",
            of(vec![f("F", vec![node("Relu", &["a"], &["r"])]); 2], vec![call("F", &["x"], "y")]),
            "error[local.F]: the model defines this function twice",
        ),
    ]);
}

//! The text form of graphs, and the verifier: what they look like, and their errors.

use tenon_base::{DType, Fact, Loc, Tensor};
use tenon_ir::ops::{all_samples, unary::Unary};
use tenon_ir::text::{PrintOptions, print};
use tenon_ir::verify::report;
use tenon_ir::{Graph, ValueId, verify};

const CANONICAL: &str = r#"graph conv_relu(%x: f32[1,1,3,3], %"a/b:0": f32[batch,2*n+1] @ "in") -> ("y": %2, "same \"y\"": %2, "x": %x) {
  %0 = weight "conv.w" : f32[1,1,1,1] = [0.5]
  %1 = conv(%x, %0) {dilations=[1,1], group=1, kernel=[1,1], layout="nchw", pads=[0,0,0,0], strides=[1,1]} : f32[1,1,3,3]  @ "Conv_0"
  %2 = relu(%1) : f32[1,1,3,3]  @ "Relu\n1"
  %3 = weight : bool[2] = [true, false]
  %4 = weight "empty" : f32[0,3] = []
  %5 = weight "nan" : f16[2] = hex"007e003c"
  %6 = relu(%"a/b:0") : f32[batch,2*n+1]
}
"#;

#[test]
fn canonical_text_stays() {
    let g = Graph::parse(CANONICAL).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(g.to_string(), CANONICAL);
    verify(&g).unwrap_or_else(|e| panic!("{}", report(&g, &e)));
    assert!(g.same_as(&Graph::parse(CANONICAL).unwrap()));
    assert!(!g.same_as(&Graph::parse(&CANONICAL.replace("[0.5]", "[0.25]")).unwrap()));
    assert!(!g.same_as(&Graph::parse(&CANONICAL.replace("\"y\": %2", "\"y\": %1")).unwrap()));
}

#[test]
fn types_may_be_left_out_and_names_are_free() {
    let g = Graph::parse("graph g(%x: f32[2]) -> (\"y\": %b) { // one line\n %a = relu(%x) %b = neg(%a) }").unwrap();
    assert_eq!(
        g.to_string(),
        "graph g(%x: f32[2]) -> (\"y\": %1) {\n  %0 = relu(%x) : f32[2]\n  %1 = neg(%0) : f32[2]\n}\n"
    );
}

#[test]
fn long_data_can_be_left_out() {
    let mut g = Graph::new("g");
    let w = g.add_weight("w", Tensor::new(&[17], &[0.5f32; 17]));
    g.add_output("w", w);
    assert!(Graph::parse(&g.to_string()).unwrap().same_as(&g));
    let text = print(&g, &PrintOptions::for_reading());
    assert!(text.contains("weight \"w\" : f32[17] = <elided>\n"), "{text}");
    assert_eq!(Graph::parse(&text).unwrap_err().message, "the data was left out when this was printed");
}

/// The second line of a graph, and the error at its column.
#[test]
fn errors_tell_where_and_why() {
    for (line, column, message) in [
        ("%1 = frob(%x)", 6, "unknown operator `frob`"),
        ("%1 = relu(%y)", 11, "there is no value %y above this line"),
        ("%1 = relu(%1)", 11, "there is no value %1 above this line"),
        ("%1 = relu(%x, %x)", 6, "relu: expected 1 operands, found 2"),
        ("%1 = relu(%x) : f32[3]", 15, "relu gives f32[2], found f32[3]"),
        ("%1, %2 = relu(%x)", 1, "relu has 1 result(s), but 2 are named"),
        ("%1 = relu(%x) {axis=1}", 6, "relu: unknown attribute `axis`"),
        ("%1 = softmax(%x) {axis=1, axis=1}", 27, "a second attribute `axis`"),
        ("%1 = relu(%x) %1 = relu(%x)", 15, "a second value %1"),
        ("%1 = weight : f32[n] = [1.0]", 15, "the shape of a weight is made of numbers, found f32[n]"),
        ("%1 = weight : f32[2] = [1.0]", 24, "expected 8 bytes of data, found 4"),
        ("%1 = weight : f32[99999999999,99999999999] = [1.0]", 46, "the tensor is larger than the address space"),
        ("%1 = weight : u8[1] = [300]", 24, "not a value of u8"),
        ("relu(%x)", 1, "expected a node like `%1 = relu(%0)` or `}`, found `relu`"),
    ] {
        let text = format!("graph g(%x: f32[2]) -> () {{\n{line}\n}}");
        let e = Graph::parse(&text).unwrap_err();
        assert_eq!((e.line, e.column, e.message.as_str()), (2, column, message), "{line}");
    }
    let e = Graph::parse("graph g() -> (\"y\": %7) {\n}").unwrap_err();
    assert_eq!(e.to_string(), "1:20: there is no value %7\n  | graph g() -> (\"y\": %7) {\n  |                    ^");
    assert!(Graph::parse("graph g(%x: f32[-1]) -> () {}").unwrap_err().message.contains("not negative"));
}

/// Every operator's samples read back, so every attribute of every operator does.
#[test]
fn every_sample_reads_back() {
    for (file, samples) in all_samples() {
        for (i, s) in samples.into_iter().enumerate() {
            let mut g = Graph::new(format!("{file}.{i}"));
            let ins: Vec<ValueId> =
                s.ins.iter().enumerate().map(|(k, f)| g.add_input(format!("x{k}"), f.clone())).collect();
            let outs = g.add_op(s.op, &ins, Loc::new("Node/0")).unwrap_or_else(|e| panic!("{file} {i}: {e}"));
            for (k, v) in outs.into_iter().enumerate() {
                g.add_output(format!("y{k}"), v);
            }
            let text = g.to_string();
            let back = Graph::parse(&text).unwrap_or_else(|e| panic!("{file} {i}: {e}"));
            assert!(back.same_as(&g), "{text}\n{back}");
            assert_eq!(back.to_string(), text);
            verify(&back).unwrap_or_else(|e| panic!("{}", report(&back, &e)));
        }
    }
}

#[test]
fn the_verifier_reports_inside_the_text() {
    let mut g = Graph::new("g");
    let x = g.add_input("x", Fact::of(DType::F32, &[2]));
    let y = g.add_input("x", Fact::of(DType::F32, &[3]));
    let relu = Unary::named("relu").unwrap();
    let a = g.add_op(relu, &[x], Loc::new("Relu_0")).unwrap()[0];
    let b = g.add_op(relu, &[a], Loc::none()).unwrap()[0];
    g.set_operand(a.node, 0, y);
    g.add_output("", b);
    let errors = verify(&g).unwrap_err();
    assert_eq!(
        report(&g, &errors),
        r#"graph g(%x: f32[2], %x: f32[3]) -> ("": %1) {
  // error: a second input named "x"
  %0 = relu(%x) : f32[2]  @ "Relu_0"
  // error: expected results f32[3], found f32[2]
  %1 = relu(%0) : f32[2]
}
// error: an output without a name
"#
    );
    assert_eq!(errors[0].to_string(), "relu \"Relu_0\": expected results f32[3], found f32[2]");

    g.set_operand(a.node, 0, b);
    let errors = verify(&g).unwrap_err();
    assert_eq!(errors[0].message, "the graph has a cycle through Relu_0");
    g.set_operand(a.node, 5, x);
    assert!(verify(&g).unwrap_err().iter().any(|e| e.message.contains("without a gap, found 0, 5")));
    g.set_operand(b.node, 0, ValueId { node: a.node, port: 9 });
    assert!(verify(&g).unwrap_err().iter().any(|e| e.message.contains("operand 0 is result 9")));
    assert!(!g.to_string().is_empty());
}

//! Whole graphs through the pipeline: every phase keeps the meaning.

use tenon_base::{DType, Fact, Loc, Tensor};
use tenon_ir::ops::binary::Binary;
use tenon_ir::ops::concat::Concat;
use tenon_ir::ops::conv::{Conv, Layout};
use tenon_ir::ops::matmul::MatMul;
use tenon_ir::ops::reshape::Reshape;
use tenon_ir::ops::softmax::Softmax;
use tenon_ir::ops::transpose::Transpose;
use tenon_ir::ops::unary::Unary;
use tenon_ir::{Graph, Op, ValueId};
use tenon_passes::pipeline::{Math, Phase, Settings};
use tenon_target::Target;

fn drawn(shape: &[usize], seed: usize) -> Tensor {
    let n: usize = shape.iter().product();
    let v: Vec<f32> = (0..n).map(|i| ((i * 37 + seed * 101) % 199) as f32 / 100.0 - 1.0).collect();
    Tensor::new(shape, &v)
}

fn unary(name: &str) -> Op {
    Unary::named(name).expect("a function").into()
}

fn binary(name: &str) -> Op {
    Binary::named(name).expect("a function").into()
}

struct Net(Graph);

impl Net {
    fn op(&mut self, op: impl Into<Op>, ins: &[ValueId]) -> ValueId {
        let loc = Loc::new(format!("n{}", self.0.len()));
        self.0.add_op(op, ins, loc).expect("well typed")[0]
    }

    fn weight(&mut self, shape: &[usize], seed: usize) -> ValueId {
        self.0.add_weight("", drawn(shape, seed))
    }

    fn conv(&mut self, x: ValueId, w: &[usize], pad: usize, stride: usize, group: usize) -> ValueId {
        let k = w.len() - 2;
        let op = Conv {
            kernel: w[2..].to_vec(),
            strides: vec![stride; k],
            dilations: vec![1; k],
            pads: vec![pad; 2 * k],
            group,
            layout: Layout::ChannelsFirst,
            fill: None,
        };
        let w = self.weight(w, 3);
        self.op(op, &[x, w])
    }
}

/// conv → scale and offset per channel → relu → depthwise → residual add, x·sigmoid(x) → flatten → dense → softmax.
fn network() -> Graph {
    let mut n = Net(Graph::new("net"));
    let x = n.0.add_input("x", Fact::of(DType::F32, &[1, 3, 9, 9]));
    let c = n.conv(x, &[8, 3, 3, 3], 1, 2, 1);
    let (s, t) = (n.weight(&[1, 8, 1, 1], 5), n.weight(&[8, 1, 1], 6));
    let c = n.op(binary("mul"), &[c, s]);
    let c = n.op(binary("add"), &[c, t]);
    let r = n.op(unary("relu"), &[c]);
    let d = n.conv(r, &[8, 1, 3, 3], 1, 1, 8);
    let d = n.op(binary("add"), &[d, r]);
    let sig = n.op(unary("sigmoid"), &[d]);
    let d = n.op(binary("mul"), &[d, sig]);
    let f = n.op(Reshape { to: tenon_base::Shape::of(&[1, 200]) }, &[d]);
    let w = n.weight(&[200, 10], 9);
    let y = n.op(MatMul { trans_a: false, trans_b: false }, &[f, w]);
    let b = n.weight(&[10], 2);
    let y = n.op(binary("add"), &[y, b]);
    let y = n.op(Softmax { axis: 1, log: false }, &[y]);
    n.0.add_output("probs", y);
    n.0.add_output("also", f);
    n.0.add_output("same", x);
    n.0
}

fn moves() -> Graph {
    let mut n = Net(Graph::new("moves"));
    let x = n.0.add_input("x", Fact::of(DType::F32, &[2, 3, 4]));
    let t = n.op(Transpose { perm: vec![2, 0, 1] }, &[x]);
    let r = n.op(Reshape { to: tenon_base::Shape::of(&[8, 3]) }, &[t]);
    let e = n.op(unary("exp"), &[r]);
    let w = n.weight(&[3], 4);
    let y = n.op(binary("mul"), &[e, w]);
    let z = n.op(Transpose { perm: vec![1, 0] }, &[y]);
    n.0.add_output("z", z);
    n.0
}

/// Two convolutions of the input, 16 and `channels` channels wide, side by side: the parts of a concatenation.
fn branches(channels: usize, more: impl FnOnce(&mut Net, ValueId, ValueId, ValueId) -> Vec<ValueId>) -> Graph {
    let mut n = Net(Graph::new("branches"));
    let x = n.0.add_input("x", Fact::of(DType::F32, &[1, 16, 6, 5]));
    let a = n.conv(x, &[16, 16, 1, 1], 0, 1, 1);
    let a = n.op(unary("relu"), &[a]);
    let b = n.conv(x, &[channels, 8, 3, 3], 1, 1, 2);
    let b = n.op(unary("relu"), &[b]);
    let parts = more(&mut n, x, a, b);
    let c = n.op(Concat { axis: 1 }, &parts);
    let w: usize = n.0.fact(c).dims().expect("known")[1];
    let y = n.conv(c, &[8, w, 1, 1], 0, 1, 1);
    n.0.add_output("y", y);
    n.0
}

fn settings(target: &str) -> Settings {
    Settings::new(Target::parse(target).expect("a target"), Math::Default, "net")
}

fn close(a: &Tensor, b: &Tensor) {
    assert_eq!(a.fact(), b.fact());
    for (i, (x, y)) in a.to_f64().iter().zip(b.to_f64()).enumerate() {
        assert!((x - y).abs() <= 1e-5 + 1e-5 * y.abs(), "element {i}: {x} against {y}");
    }
}

#[test]
fn every_phase_keeps_the_meaning() {
    let parts: Vec<Graph> = vec![
        branches(32, |_, _, a, b| vec![a, b]),
        branches(18, |_, x, a, b| vec![b, x, a]),
        branches(16, |n, _, a, b| {
            let c = n.op(binary("add"), &[a, b]);
            let d = n.conv(c, &[16, 16, 1, 1], 0, 1, 1);
            vec![c, a, d, b, a]
        }),
    ];
    for graph in [network(), moves()].into_iter().chain(parts) {
        let inputs: Vec<Tensor> = graph
            .inputs()
            .iter()
            .map(|&n| drawn(&graph.fact(ValueId { node: n, port: 0 }).dims().expect("known"), 1))
            .collect();
        let expected = tenon_ir::eval::run(&graph, &inputs).expect("runs");
        for target in ["x86-64-v3", "x86_64-linux/x86-64-v1", "cortex-a76", "rv64gc"] {
            for phase in Phase::ALL {
                let state =
                    tenon_passes::run(graph.clone(), &settings(target), phase, &mut |_, _, _| {}).expect("compiles");
                let found = if phase < Phase::Lowered {
                    tenon_ir::eval::run(&state.graph, &inputs).expect("runs")
                } else {
                    tenon_kernel::run_program(&state.program, &inputs).expect("runs")
                };
                assert_eq!(found.len(), expected.len());
                found.iter().zip(&expected).for_each(|(a, b)| close(a, b));
            }
        }
    }
}

#[test]
fn scales_residuals_and_activations_are_fused() {
    let state =
        tenon_passes::run(network(), &settings("x86-64-v3"), Phase::Planned, &mut |_, _, _| {}).expect("compiles");
    let kernels: Vec<&str> =
        state.program.calls().into_iter().map(|c| state.program.kernels[c.kernel].name.as_str()).collect();
    // transpose in; two convolutions with everything after them; transpose back; dense, softmax; one copied output.
    assert!(kernels.len() <= 7, "{kernels:?}");
}

#[test]
fn parts_of_a_concatenation_are_written_where_they_are_to_be() {
    // Elements that the kernel of the concatenation copies of every position.
    let copied = |g: Graph| {
        let state = tenon_passes::run(g, &settings("zen3"), Phase::Lowered, &mut |_, _, _| {}).expect("lowers");
        let concats: Vec<&str> =
            state.program.calls().into_iter().map(|c| state.program.kernels[c.kernel].name.as_str()).collect();
        let copies = concats.iter().filter(|n| n.starts_with("concat")).count();
        let kernel = state.program.kernels.iter().find(|k| k.name.starts_with("concat"));
        assert_eq!(copies, usize::from(kernel.is_some()));
        kernel.map_or(0, |k| k.buffers.iter().filter(|b| b.access == tenon_kernel::Access::In).count())
    };
    assert_eq!(copied(branches(32, |_, _, a, b| vec![a, b])), 0);
    assert_eq!(copied(branches(18, |_, _, a, b| vec![b, a])), 0, "registers may lie anywhere");
    let input = branches(32, |n, _, a, b| {
        let z = n.0.add_input("z", Fact::of(DType::F32, &[1, 6, 5, 24]));
        let z = n.op(Transpose { perm: vec![0, 3, 1, 2] }, &[z]);
        vec![a, z, b]
    });
    assert_eq!(copied(input), 1, "nobody makes an input");
    assert_eq!(copied(branches(8, |_, _, a, b| vec![a, b])), 1, "less than a line");
    let output = branches(32, |n, _, a, b| {
        n.0.add_output("a", a);
        vec![a, b]
    });
    assert!(copied(output) > 0, "an output is whole");
    let padded = branches(32, |n, _, a, b| {
        let c = n.conv(a, &[16, 16, 3, 3], 1, 1, 1);
        vec![a, b, c]
    });
    assert_eq!(copied(padded), 1, "a convolution reads the border of `a`; `c` reads no part");
    let chained = branches(32, |n, _, a, b| {
        let c = n.conv(a, &[16, 16, 1, 1], 0, 1, 1);
        vec![a, b, c]
    });
    assert_eq!(copied(chained), 1, "what makes `c` reads `a`, and nothing reads where it writes");
}

#[test]
fn planes_of_an_image_are_padded_as_they_lie() {
    // Whether the rows of the operand, in `layout`, are copied whole into the padded buffer.
    let rows = |channels: usize, group: usize, layout: Layout, dtype: DType| {
        let mut n = Net(Graph::new("image"));
        let shape = match layout {
            Layout::ChannelsFirst => [1, channels, 9, 10],
            Layout::ChannelsLast => [1, 9, 10, channels],
        };
        let x = n.0.add_input("x", Fact::of(dtype, &shape));
        let w = Tensor::from_f64(dtype, &[8 * group, channels / group, 3, 3], &vec![0.5; 72 * channels]);
        let w = n.0.add_weight("", w);
        let op = Conv {
            kernel: vec![3; 2],
            strides: vec![1; 2],
            dilations: vec![1; 2],
            pads: vec![1; 4],
            group,
            layout,
            fill: None,
        };
        let y = n.op(op, &[x, w]);
        n.0.add_output("y", y);
        let state =
            tenon_passes::run(n.0, &settings("x86-64-v3"), Phase::Lowered, &mut |_, _, _| {}).expect("lowers");
        let text = state.print(Phase::Lowered, true);
        // Planes of 11 by 12.
        text.contains("store %padded[%p3 * 132 + %p1 * 12 + %p2 + 13] = load")
    };
    use Layout::{ChannelsFirst as First, ChannelsLast as Last};
    assert!(rows(3, 1, First, DType::F32));
    assert!(!rows(3, 1, Last, DType::F32), "they lie woven");
    assert!(!rows(8, 1, First, DType::F32), "a vector takes them as they are to be");
    assert!(!rows(3, 3, First, DType::F32), "channels do not mix: they are lanes");
    assert!(!rows(3, 1, First, DType::F16), "converted on the way");
}

#[test]
fn free_dimensions_are_reported_with_the_flag_that_pins_them() {
    let mut g = Graph::new("free");
    let shape = tenon_base::Shape(vec![tenon_base::Dim::sym("batch"), tenon_base::Dim::from(3usize)]);
    let x = g.add_input("x", Fact::new(DType::F32, shape));
    g.add_output("y", x);
    let e = tenon_passes::run(g, &settings("x86-64-v3"), Phase::Planned, &mut |_, _, _| {}).expect_err("free");
    assert_eq!(e.to_string(), "error: the dimensions batch are not known\n  try: pin them: --dim batch=…");
}

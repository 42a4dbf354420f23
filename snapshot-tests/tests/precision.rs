//! Factors rounded to `bf16`: where the target multiplies them, and within what rounding can move a sum by.

use tenon::engine::{Engine, Session};
use tenon::kernel::bf16::UNIT_ROUNDOFF;
use tenon::{Compiled, Compiler, Math, Options, Precision, Target, Tensor};
use tenon_base::{DType, Fact, Loc};
use tenon_ir::ops::conv::{Conv, Layout};
use tenon_ir::ops::matmul::MatMul;
use tenon_ir::ops::unary::Unary;
use tenon_ir::{Graph, Op};

/// A machine with dot products of bf16, and one with tiles.
const TARGETS: [&str; 2] = ["zen4", "sapphire-rapids"];

fn options(target: &str, precision: Precision) -> Options {
    let mut options = Options::new(Target::parse(target).expect("a target"));
    options.precision = precision;
    options
}

/// `op` of an input of `x` and a constant of `w`, whose elements `w` gives.
fn graph(op: impl Into<Op>, x: &[usize], w: &[usize]) -> Graph {
    let mut g = Graph::new("product");
    let input = g.add_input("x", Fact::of(DType::F32, x));
    let w = g.add_weight("w", weight(w));
    let y = g.add_op(op, &[input, w], Loc::new("product")).expect("well typed")[0];
    g.add_output("y", y);
    g
}

fn weight(dims: &[usize]) -> Tensor {
    let n: usize = dims.iter().product();
    let values: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 51.3).collect();
    Tensor::new(dims, &values)
}

fn conv(kernel: usize, pad: usize, group: usize) -> Conv {
    Conv {
        kernel: vec![kernel; 2],
        strides: vec![1; 2],
        dilations: vec![1; 2],
        pads: vec![pad; 4],
        group,
        layout: Layout::ChannelsLast,
        fill: None,
    }
}

/// A convolution of images that come as planes, padded by half a window.
fn planes(kernel: usize, stride: usize) -> Conv {
    Conv { strides: vec![stride; 2], layout: Layout::ChannelsFirst, ..conv(kernel, kernel / 2, 1) }
}

fn compiled(g: &Graph, target: &str, precision: Precision) -> Compiled {
    Compiler::new(options(target, precision)).compile_graph(g.clone()).expect("it compiles")
}

/// The results of the kernel interpreter.
fn run(c: &Compiled, inputs: &[Tensor]) -> Vec<f64> {
    Session::new(Engine::Kernel, c).expect("it is ready").run(inputs).expect("it runs")[0].to_f64()
}

/// The same graph of absolute values: what the sums of the products' sizes are.
fn sizes(g: &Graph, inputs: &[Tensor]) -> Vec<f64> {
    let absolute =
        |t: &Tensor| Tensor::from_f64(t.dtype(), t.shape(), &t.to_f64().iter().map(|v| v.abs()).collect::<Vec<_>>());
    let mut sizes = Graph::new("sizes");
    let x = sizes.add_input("x", inputs[0].fact());
    let (mut w, mut op) = (None, None);
    for n in g.nodes() {
        let v = tenon_ir::ValueId { node: n, port: 0 };
        w = w.or_else(|| g.weight(v).map(&absolute));
        op = op.or_else(|| g.op(n).cloned());
    }
    let w = sizes.add_weight("w", w.expect("a weight"));
    let y = sizes.add_op(op.expect("an operator"), &[x, w], Loc::new("sizes")).expect("well typed")[0];
    sizes.add_output("y", y);
    tenon_ir::eval::run(&sizes, &[absolute(&inputs[0])]).expect("it runs")[0].to_f64()
}

#[test]
fn errors_are_those_of_rounding_two_factors() {
    let mm = MatMul { trans_a: false, trans_b: false };
    // Whether zen4 rounds, which has dot products, and sapphire-rapids, which has tiles.
    for (g, rounds) in [
        (graph(mm.clone(), &[9, 64], &[64, 48]), [true, true]),
        (graph(mm.clone(), &[1, 300], &[300, 1000]), [true, false]),
        // A run of odd length; a last tile of part of a register; few columns, which are summed otherwise.
        (graph(mm.clone(), &[5, 33], &[33, 40]), [true, false]),
        (graph(mm, &[6, 80], &[80, 3]), [false, false]),
        (graph(conv(3, 1, 1), &[1, 9, 8, 24], &[36, 24, 3, 3]), [true, true]),
        (graph(conv(3, 1, 2), &[1, 7, 8, 32], &[64, 16, 3, 3]), [true, true]),
        // Large enough for minimal filtering, which is not taken then.
        (graph(conv(3, 1, 1), &[1, 28, 28, 64], &[64, 64, 3, 3]), [true, true]),
        // An image of three planes, whose windows are of odd width.
        (graph(planes(7, 2), &[1, 3, 41, 40], &[40, 3, 7, 7]), [true, true]),
        (graph(planes(3, 1), &[1, 3, 24, 26], &[16, 3, 3, 3]), [true, true]),
        // Both factors of a depthwise convolution differ between lanes.
        (graph(conv(3, 1, 32), &[1, 9, 9, 32], &[32, 1, 3, 3]), [false, false]),
    ] {
        for (target, rounds) in TARGETS.into_iter().zip(rounds) {
            check_errors(&g, target, rounds);
        }
    }
}

fn check_errors(g: &Graph, target: &str, rounds: bool) {
    let c = compiled(g, target, Precision::Bf16);
    assert_eq!(c.rounded_calls() > 0, rounds, "{g}");
    assert_eq!(c.rounded_calls(), c.report().bf16_calls);
    let inputs = c.example_inputs(5);
    let exact = tenon_ir::eval::run(g, &inputs).expect("it runs")[0].to_f64();
    let (found, sizes) = (run(&c, &inputs), sizes(g, &inputs));
    let bound = |size: f64| ((1.0 + UNIT_ROUNDOFF).powi(2) - 1.0 + 1e-5) * size;
    for ((f, e), s) in found.iter().zip(&exact).zip(&sizes) {
        assert!((f - e).abs() <= bound(*s), "{g}: {f}, expected {e} within {}", bound(*s));
    }
    if rounds {
        assert!(found.iter().zip(&exact).any(|(f, e)| (f - e).abs() > 1e-4 * e.abs()), "nothing was rounded: {g}");
        let bytes = |c: &Compiled| c.object().expect("it has code");
        assert_eq!(bytes(&c), bytes(&compiled(g, target, Precision::Bf16)), "two compiles differ: {g}");
    }
}

#[test]
fn what_is_no_number_stays_where_it_is() {
    // Runs of five: the element behind one is the first of the next row.
    let g = graph(MatMul { trans_a: false, trans_b: false }, &[4, 5], &[5, 64]);
    let c = compiled(&g, "zen4", Precision::Bf16);
    assert!(c.rounded_calls() > 0);
    for special in [f32::NAN, f32::INFINITY] {
        let mut x = vec![0.5f32; 20];
        x[10] = special;
        let y = run(&c, &[Tensor::new(&[4, 5], &x)]);
        assert!(y.iter().enumerate().all(|(i, v)| v.is_finite() == (i / 64 != 2)), "{special}");
    }
    // Rows of tiles, whose last step is a short one.
    let g = graph(MatMul { trans_a: false, trans_b: false }, &[40, 44], &[44, 24]);
    for target in TARGETS {
        let c = compiled(&g, target, Precision::Bf16);
        assert!(c.rounded_calls() > 0);
        for special in [f32::NAN, f32::INFINITY] {
            let mut x = vec![0.5f32; 40 * 44];
            x[30 * 44] = special;
            let y = run(&c, &[Tensor::new(&[40, 44], &x)]);
            assert!(y.iter().enumerate().all(|(i, v)| v.is_finite() == (i / 24 != 30)), "{target} {special}");
        }
    }
}

#[test]
fn what_all_readers_round_is_rounded_where_it_is_made() {
    let mm = MatMul { trans_a: false, trans_b: false };
    let relu = || Unary::named("relu").expect("a function");
    let shapes = [([40, 64], [64, 96]), ([40, 96], [96, 32])];
    let mut g = Graph::new("two");
    let mut at = g.add_input("x", Fact::of(DType::F32, &shapes[0].0));
    for (_, w) in &shapes {
        let w = g.add_weight("w", weight(w));
        at = g.add_op(mm.clone(), &[at, w], Loc::new("product")).expect("well typed")[0];
        at = g.add_op(relu(), &[at], Loc::new("relu")).expect("well typed")[0];
    }
    g.add_output("y", at);
    for target in TARGETS {
        let c = compiled(&g, target, Precision::Bf16);
        let halves = c.program.buffers.iter().filter(|b| b.len == 40 * 96);
        assert!(halves.clone().count() == 1 && halves.clone().all(|b| b.dtype == DType::U16), "{target}");
        // One after the other, the second rounds what the first gives.
        let x = c.example_inputs(3);
        let whole = run(&c, &x);
        let [first, second] = shapes.map(|(x, w)| compiled(&graph(mm.clone(), &x, &w), target, Precision::Bf16));
        let relu = |v: Vec<f64>| v.into_iter().map(|v| v.max(0.0) as f32).collect::<Vec<f32>>();
        let between = Tensor::new(&[40, 96], &relu(run(&first, &x)));
        assert_eq!(relu(run(&second, &[between])), relu(whole), "{target}");
    }
}

#[test]
fn rows_that_lie_apart_are_copied() {
    // Seven results a row: two rows of them are a block, or all that lie beside each other.
    let strided = Conv { strides: vec![2; 2], ..conv(3, 1, 1) };
    let g = graph(strided, &[1, 14, 14, 64], &[128, 64, 3, 3]);
    let c = compiled(&g, "sapphire-rapids", Precision::Bf16);
    let buffers = || c.program.kernels.iter().flat_map(|k| &k.buffers);
    assert!(buffers().any(|b| b.name.ends_with("_rows") && b.len == 49 * 9 * 64), "{}", c.program);
    check_errors(&g, "sapphire-rapids", true);
}

#[test]
fn what_is_no_number_stays_in_its_windows() {
    // Planes are interleaved, with zeros beside them.
    let g = graph(planes(7, 2), &[1, 3, 40, 40], &[32, 3, 7, 7]);
    let c = compiled(&g, "sapphire-rapids", Precision::Bf16);
    assert!(c.rounded_calls() > 0);
    for special in [f32::NAN, f32::INFINITY] {
        let mut x = vec![0.5f32; 3 * 40 * 40];
        x[1600 + 20 * 40 + 20] = special;
        let y = run(&c, &[Tensor::new(&[1, 3, 40, 40], &x)]);
        // Windows begin at 2·i - 3 and are 7 long.
        let inside = |i: usize| (2 * i).abs_diff(20) <= 3;
        assert!(
            y.iter().enumerate().all(|(i, v)| v.is_finite() != (inside(i / 20 % 20) && inside(i % 20))),
            "{special}"
        );
    }
}

/// `a = x · w`, `b = f(a, a · v)`, and `b · u`.
fn block(op: impl Into<Op>) -> Graph {
    let mm = MatMul { trans_a: false, trans_b: false };
    let mut g = Graph::new("block");
    let x = g.add_input("x", Fact::of(DType::F32, &[40, 64]));
    let product = |g: &mut Graph, x, w: &[usize]| {
        let w = g.add_weight("w", weight(w));
        g.add_op(mm.clone(), &[x, w], Loc::new("product")).expect("well typed")[0]
    };
    let a = product(&mut g, x, &[64, 96]);
    let more = product(&mut g, a, &[96, 96]);
    let b = g.add_op(op, &[a, more], Loc::new("both")).expect("well typed")[0];
    let y = product(&mut g, b, &[96, 32]);
    g.add_output("y", y);
    g
}

#[test]
fn what_is_added_to_a_sum_is_rounded_as_a_factor_is() {
    use tenon_ir::ops::binary::Binary;
    let [add, mul] = ["add", "mul"].map(|n| block(Binary::named(n).expect("a function")));
    for target in TARGETS {
        let dtypes = |g: &Graph| -> Vec<DType> {
            let c = compiled(g, target, Precision::Bf16);
            c.program.buffers.iter().filter(|b| b.len == 40 * 96).map(|b| b.dtype).collect()
        };
        assert!(dtypes(&add).iter().all(|d| *d == DType::U16), "{target}: {:?}", dtypes(&add));
        // A factor of another kind of product keeps its bits.
        assert!(dtypes(&mul).contains(&DType::F32), "{target}: {:?}", dtypes(&mul));
        let c = compiled(&add, target, Precision::Bf16);
        let x = c.example_inputs(3);
        let exact = tenon_ir::eval::run(&add, &x).expect("it runs")[0].to_f64();
        let most = exact.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        let allowed = 2.0 * UNIT_ROUNDOFF * 3f64.sqrt() * most;
        let error = run(&c, &x).iter().zip(&exact).map(|(f, e)| (f - e).abs()).fold(0.0, f64::max);
        assert!(error <= allowed / 2.0, "{target}: {error} of {most}");
    }
}

#[test]
fn it_is_a_permission() {
    let g = graph(MatMul { trans_a: false, trans_b: false }, &[9, 64], &[64, 48]);
    for target in ["x86-64-v3", "x86-64-v4", "icelake-server", "cortex-a76", "rv64gcv"] {
        let [a, b] = [Precision::Bf16, Precision::F32].map(|p| compiled(&g, target, p));
        assert_eq!(a.rounded_calls(), 0, "{target}");
        assert!(a.program == b.program, "{target}");
    }
    for target in ["zen4", "zen5", "cooperlake", "x86_64-linux/x86-64-v4+avx512bf16", "sapphire-rapids"] {
        assert_eq!(compiled(&g, target, Precision::F32).rounded_calls(), 0, "{target}");
        let [a, b] = [Precision::Bf16, Precision::F32].map(|p| compiled(&g, target, p).report().weight_bytes);
        assert_eq!(2 * a, b, "{target}: weights take half the room");
    }
}

#[test]
fn strict_mathematics_refuses_it() {
    let g = graph(MatMul { trans_a: false, trans_b: false }, &[9, 64], &[64, 48]);
    let mut options = options("zen4", Precision::Bf16);
    options.math = Math::Strict;
    let error = Compiler::new(options).compile_graph(g).expect_err("it is refused").to_string();
    assert!(error.contains("--math default") && error.contains("--precision f32"), "{error}");
}

//! Quick effort makes less code, which computes the same.

use tenon::engine::{Engine, Session};
use tenon::ir::ops::conv::{Conv, Layout};
use tenon::ir::ops::{matmul::MatMul, unary::Unary};
use tenon::ir::{Graph, Op};
use tenon::{Compiled, Compiler, DType, Effort, Fact, Loc, Options, Target, Tensor};

/// `op` of an input of `x` and a constant of `w`, with a sigmoid behind.
fn graph(op: impl Into<Op>, x: &[usize], w: &[usize]) -> Graph {
    let mut g = Graph::new("product");
    let input = g.add_input("x", Fact::of(DType::F32, x));
    let n: usize = w.iter().product();
    let values: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 513.0).collect();
    let w = g.add_weight("w", Tensor::new(w, &values));
    let y = g.add_op(op, &[input, w], Loc::new("product")).expect("well typed")[0];
    let z = g.add_op(Unary::named("sigmoid").expect("a function"), &[y], Loc::new("sigmoid")).expect("well typed")[0];
    g.add_output("z", z);
    g
}

fn conv(strides: usize, group: usize) -> Conv {
    let (kernel, strides, dilations, pads) = (vec![3; 2], vec![strides; 2], vec![1; 2], vec![1; 4]);
    Conv { kernel, strides, dilations, pads, group, layout: Layout::ChannelsLast, fill: None }
}

fn graphs() -> Vec<(&'static str, Graph)> {
    let product = MatMul { trans_a: false, trans_b: false };
    vec![
        ("filtered", graph(conv(1, 1), &[1, 12, 12, 32], &[32, 32, 3, 3])),
        ("direct", graph(conv(2, 1), &[1, 11, 11, 24], &[40, 24, 3, 3])),
        ("depthwise", graph(conv(1, 48), &[1, 10, 10, 48], &[48, 1, 3, 3])),
        ("product", graph(product, &[23, 70], &[70, 45])),
    ]
}

fn compiled(g: &Graph, target: &Target, effort: Effort) -> Compiled {
    Compiler::new(Options::new(target.clone()).effort(effort)).compile_graph(g.clone()).expect("it compiles")
}

/// The results of the kernel interpreter.
fn run(c: &Compiled) -> Vec<f64> {
    let inputs = c.example_inputs(3);
    Session::new(Engine::Kernel, c).expect("it is ready").run(&inputs).expect("it runs")[0].to_f64()
}

#[test]
fn quick_code_is_shorter_and_computes_the_same() {
    for target in ["x86-64-v2", "x86-64-v3", "sapphire-rapids", "aarch64-linux"] {
        let target = Target::parse(target).expect("a target");
        for (name, g) in graphs() {
            let (full, quick) = (compiled(&g, &target, Effort::Full), compiled(&g, &target, Effort::Quick));
            let worst = run(&full).iter().zip(run(&quick)).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-5, "{name} for {target}: results differ by {worst}");
            let length = |c: &Compiled| c.program.kernels.iter().map(|k| k.to_string().len()).sum::<usize>();
            let (full, quick) = (length(&full), length(&quick));
            assert!(
                quick * 3 < full * 2,
                "{name} for {target}: {quick} characters with quick effort, {full} with full"
            );
        }
    }
}

/// Nothing asks for quick code but who says so.
#[test]
fn effort_is_full_unless_said() {
    let target = Target::parse("x86-64-v3").expect("a target");
    let (_, g) = graphs().swap_remove(0);
    let said = compiled(&g, &target, Effort::Full);
    let default = Compiler::new(Options::new(target)).compile_graph(g).expect("it compiles");
    assert_eq!(default.program.kernels, said.program.kernels);
}

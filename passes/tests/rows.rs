//! Kernels that hand each other rows, a block of rows at a time: the same numbers in less memory.

use tenon_base::{DType, Fact, Loc, Tensor};
use tenon_ir::ops::binary::Binary;
use tenon_ir::ops::matmul::MatMul;
use tenon_ir::ops::softmax::Softmax;
use tenon_ir::ops::transpose::Transpose;
use tenon_ir::{Graph, Op, ValueId};
use tenon_passes::pipeline::{Math, Phase, Settings, State};
use tenon_target::Target;

/// An attention: extents, and what stands between its products.
#[derive(Clone, Copy, Debug)]
struct Attention {
    heads: usize,
    /// Heads of queries that share one of keys and values.
    group: usize,
    queries: usize,
    keys: usize,
    size: usize,
    mask: bool,
    /// Heads lie within rows, as a projection makes them.
    inside: bool,
    log: bool,
    dtype: DType,
}

const PLAIN: Attention = Attention {
    heads: 2,
    group: 1,
    queries: 37,
    keys: 40,
    size: 8,
    mask: false,
    inside: false,
    log: false,
    dtype: DType::F32,
};

impl Attention {
    fn graph(self) -> Graph {
        let mut g = Graph::new("attention");
        let op = |g: &mut Graph, op: Op, ins: &[ValueId], name: &str| {
            g.add_op(op, ins, Loc::new(name)).expect("well typed")[0]
        };
        let of = |dims: &[usize]| Fact::of(self.dtype, dims);
        let product = |trans_b| Op::from(MatMul { trans_a: false, trans_b });
        let binary = |name: &str| Op::from(Binary::named(name).expect("a function"));
        let (b, group, m, n, d) = (self.heads, self.group, self.queries, self.keys, self.size);
        let (q, k, v) = if self.inside {
            let mut head = |name: &str, rows: usize| {
                let x = g.add_input(name, of(&[rows, b, 1, d]));
                op(&mut g, Transpose { perm: vec![1, 2, 0, 3] }.into(), &[x], name)
            };
            (head("q", m), head("k", n), head("v", n))
        } else {
            let k = of(&[b, 1, n, d]);
            (g.add_input("q", of(&[b, group, m, d])), g.add_input("k", k.clone()), g.add_input("v", k))
        };
        let mut s = op(&mut g, product(true), &[q, k], "scores");
        let scale = g.add_weight("", Tensor::from_f64(self.dtype, &[], &[0.3]));
        s = op(&mut g, binary("mul"), &[s, scale], "scale");
        if self.mask {
            let mask = g.add_input("mask", of(&[m, n]));
            s = op(&mut g, binary("add"), &[s, mask], "masked");
        }
        let p = op(&mut g, Softmax { axis: 3, log: self.log }.into(), &[s], "weights");
        let y = op(&mut g, product(false), &[p, v], "values");
        let y = if self.inside { op(&mut g, Transpose { perm: vec![2, 0, 1, 3] }.into(), &[y], "rows") } else { y };
        g.add_output("y", y);
        g
    }
}

/// `graph` for `target`, whose second cache has `l2` bytes, to `phase`.
fn compiled(graph: &Graph, target: &str, l2: usize, math: Math, phase: Phase) -> State {
    let mut target = Target::parse(target).expect("a target");
    (target.caches.l1d, target.caches.l2) = (target.caches.l1d.min(l2), l2);
    tenon_passes::run(graph.clone(), &Settings::new(target, math, "m"), phase, &mut |_, _, _| {}).expect("compiles")
}

fn inputs(graph: &Graph) -> Vec<Tensor> {
    let facts = graph.inputs().iter().map(|&node| graph.fact(ValueId { node, port: 0 }));
    let drawn = |(i, f): (usize, &Fact)| {
        let dims = f.dims().expect("known");
        let n: usize = dims.iter().product();
        let v: Vec<f64> = (0..n).map(|k| ((k * 37 + i * 101) % 199) as f64 / 50.0 - 2.0).collect();
        Tensor::from_f64(f.dtype, &dims, &v)
    };
    facts.enumerate().map(drawn).collect()
}

/// A second cache in which all scores fit, and one in which a few rows do.
const LARGE: usize = 1 << 24;
const SMALL: usize = 6 << 10;

#[test]
fn blocks_of_rows_compute_the_same() {
    let cases = [
        PLAIN,
        Attention { mask: true, ..PLAIN },
        Attention { inside: true, queries: 83, keys: 31, ..PLAIN },
        Attention { group: 3, mask: true, ..PLAIN },
        Attention { queries: 64, keys: 33, size: 5, ..PLAIN },
        Attention { heads: 1, queries: 131, keys: 17, inside: true, mask: true, ..PLAIN },
        Attention { log: true, ..PLAIN },
        Attention { dtype: DType::F16, queries: 118, ..PLAIN },
        Attention { dtype: DType::F64, queries: 80, size: 4, ..PLAIN },
    ];
    for case in cases {
        let graph = case.graph();
        let ins = inputs(&graph);
        for target in ["x86_64-linux/x86-64-v1", "x86-64-v3", "x86-64-v4", "cortex-a76", "rv64gc"] {
            let maths: &[Math] = if target == "x86-64-v3" { &[Math::Strict, Math::Default] } else { &[Math::Strict] };
            for &math in maths {
                let whole = compiled(&graph, target, LARGE, math, Phase::Planned);
                let rows = compiled(&graph, target, SMALL, math, Phase::Planned);
                assert!(whole.blocked.is_empty(), "{case:?}: {:?}", whole.blocked);
                assert_eq!(rows.blocked.len(), 1, "{case:?} on {target}");
                let run = |s: &State| tenon_kernel::run_program(&s.program, &ins).expect("runs");
                let (expected, found) = (run(&whole), run(&rows));
                if math == Math::Strict {
                    assert_eq!(found[0].bytes(), expected[0].bytes(), "{case:?} on {target}");
                }
                // Sums of weights are at most 1, but logarithms are larger and cancel.
                let tolerance = match case.dtype {
                    DType::F16 => 2e-3,
                    _ if case.log => 1e-4,
                    _ => 1e-5,
                };
                for (x, y) in found[0].to_f64().iter().zip(expected[0].to_f64()) {
                    assert!((x - y).abs() <= tolerance * (1.0 + y.abs()), "{case:?} on {target}: {x} against {y}");
                }
            }
        }
    }
}

#[test]
fn scores_take_the_place_of_a_block() {
    let graph = Attention { heads: 4, queries: 512, keys: 512, size: 16, mask: true, ..PLAIN }.graph();
    let target = Target::parse("zen3").expect("a target");
    let settings = Settings::new(target.clone(), Math::Default, "m");
    let state = tenon_passes::run(graph, &settings, Phase::Planned, &mut |_, _, _| {}).expect("compiles");
    let [blocked] = &state.blocked[..] else { panic!("{:?}", state.blocked) };
    assert_eq!(blocked.nodes, "scores + scale + masked + weights + values");
    assert!(blocked.block <= target.caches.l2 / 2 && blocked.rows.0 >= 4, "{blocked:?}");
    // All scores would be 4 MiB, twice.
    assert!(state.program.arena_bytes < 1 << 20, "{}", state.program.arena_bytes);
    // Keys and values are packed before the loop over blocks: once a head.
    let text = tenon_kernel::text::print_program(&state.program, &Default::default());
    let (packed, blocks) = (text.find("_panels[%t"), text.find("parfor %block"));
    assert!(packed.is_some() && packed < blocks, "{text}");
}

#[test]
fn threads_share_the_rows_of_heads_that_they_cannot_share() {
    let graph = Attention { heads: 3, queries: 512, keys: 512, size: 32, ..PLAIN }.graph();
    let target = Target::parse("zen3").expect("a target");
    let settings = Settings { threads: 2, ..Settings::new(target, Math::Default, "m") };
    let state = tenon_passes::run(graph, &settings, Phase::Planned, &mut |_, _, _| {}).expect("compiles");
    let kernel = state.program.kernels.iter().find(|k| k.name.contains("softmax")).expect("a kernel of all");
    let text = kernel.to_string();
    // Both walk all heads, and each some blocks.
    assert!(kernel.parts.is_some() && text.contains("parfor %outer in 0..3"), "{text}");
    assert!(text.contains("parfor %block in %part"), "{text}");
}

#[test]
fn what_does_not_pay_or_is_needed_elsewhere_stays() {
    let stays =
        |graph: &Graph, l2: usize| compiled(graph, "x86-64-v3", l2, Math::Default, Phase::Lowered).blocked.is_empty();
    assert!(!stays(&PLAIN.graph(), SMALL));
    // Rows longer than the cache.
    assert!(stays(&PLAIN.graph(), 512));
    // One row a head: nothing is read again, but nothing is saved either.
    assert!(stays(&Attention { queries: 1, ..PLAIN }.graph(), SMALL));
    // The weights are a result, too.
    let mut g = PLAIN.graph();
    let weights = g.nodes().find(|n| g.op(*n).is_some_and(|o| matches!(o, Op::Softmax(_)))).expect("a softmax");
    g.add_output("p", ValueId { node: weights, port: 0 });
    assert!(stays(&g, SMALL));
    // A softmax along the queries: rows are not rows any more.
    let mut g = Graph::new("columns");
    let of = |dims: &[usize]| Fact::of(DType::F32, dims);
    let (q, k, v) =
        (g.add_input("q", of(&[2, 64, 8])), g.add_input("k", of(&[2, 8, 64])), g.add_input("v", of(&[2, 64, 8])));
    let product = || Op::from(MatMul { trans_a: false, trans_b: false });
    let s = g.add_op(product(), &[q, k], Loc::none()).expect("well typed")[0];
    let p = g.add_op(Op::from(Softmax { axis: 1, log: false }), &[s], Loc::none()).expect("well typed")[0];
    let y = g.add_op(product(), &[p, v], Loc::none()).expect("well typed")[0];
    g.add_output("y", y);
    assert!(stays(&g, SMALL));
}

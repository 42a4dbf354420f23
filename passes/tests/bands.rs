//! Convolutions that hand each other images, a band of rows at a time: the same numbers in less memory.

use tenon_base::{DType, Fact, Loc, Real, Tensor};
use tenon_ir::ops::binary::Binary;
use tenon_ir::ops::clip::Clip;
use tenon_ir::ops::conv::{Conv, Layout};
use tenon_ir::ops::pool::{Pool, PoolKind};
use tenon_ir::{Graph, Op, ValueId};
use tenon_passes::pipeline::{Math, Phase, Settings, State};
use tenon_target::Target;

/// An inverted residual block of an image of `height` by `width`: expansion, depthwise sum, projection.
#[derive(Clone, Copy, Debug)]
struct Block {
    height: usize,
    width: usize,
    channels: usize,
    expanded: usize,
    window: usize,
    stride: usize,
    dilation: usize,
    /// Padding above, left, below, right.
    pads: [usize; 4],
    /// The window of the first convolution.
    first: usize,
    residual: bool,
    dtype: DType,
}

const PLAIN: Block = Block {
    height: 120,
    width: 10,
    channels: 4,
    expanded: 16,
    window: 3,
    stride: 1,
    dilation: 1,
    pads: [1; 4],
    first: 1,
    residual: false,
    dtype: DType::F32,
};

impl Block {
    fn graph(self) -> Graph {
        let mut g = Graph::new("block");
        let x = g.add_input("x", Fact::of(self.dtype, &[1, self.channels, self.height, self.width]));
        let clipped = |g: &mut Graph, v: ValueId| {
            g.add_op(Op::from(Clip { min: Some(Real(0.25)), max: Some(Real(6.0)) }), &[v], Loc::new("clip"))
                .expect("well typed")[0]
        };
        let (c, e, edge) = (self.channels, self.expanded, self.first / 2);
        let v = self.conv(&mut g, x, [e, c, self.first, 1], 1, 1, [edge, 0, edge, 0]);
        let v = clipped(&mut g, v);
        let v = self.conv(&mut g, v, [e, 1, self.window, self.window], self.stride, self.dilation, self.pads);
        let v = clipped(&mut g, v);
        let mut v = self.conv(&mut g, v, [c, e, 1, 1], 1, 1, [0; 4]);
        if self.residual {
            let add = Op::from(Binary::named("add").expect("a function"));
            v = g.add_op(add, &[v, x], Loc::new("residual")).expect("well typed")[0];
        }
        g.add_output("y", v);
        g
    }

    fn conv(
        self,
        g: &mut Graph,
        x: ValueId,
        w: [usize; 4],
        stride: usize,
        dilation: usize,
        pads: [usize; 4],
    ) -> ValueId {
        let n = w.iter().product::<usize>();
        let drawn: Vec<f64> = (0..n).map(|i| ((i * 29 + w[0]) % 37) as f64 / 40.0 - 0.4).collect();
        let weight = g.add_weight("", Tensor::from_f64(self.dtype, &w, &drawn));
        let op = Conv {
            kernel: w[2..].to_vec(),
            strides: vec![stride; 2],
            dilations: vec![dilation; 2],
            pads: pads.to_vec(),
            group: if w[1] == 1 { w[0] } else { 1 },
            layout: Layout::ChannelsFirst,
            fill: None,
        };
        g.add_op(Op::from(op), &[x, weight], Loc::new("conv")).expect("well typed")[0]
    }
}

/// `graph` for `target`, whose second cache has `l2` bytes, to `phase`.
fn compiled(graph: &Graph, target: &str, l2: usize, math: Math, phase: Phase) -> State {
    let mut target = Target::parse(target).expect("a target");
    (target.caches.l1d, target.caches.l2, target.caches.l3) = (target.caches.l1d.min(l2), l2, l2);
    tenon_passes::run(graph.clone(), &Settings::new(target, math, "m"), phase, &mut |_, _, _| {}).expect("compiles")
}

fn input(b: Block) -> Tensor {
    let n = b.channels * b.height * b.width;
    let v: Vec<f64> = (0..n).map(|k| ((k * 37) % 199) as f64 / 50.0 - 2.0).collect();
    Tensor::from_f64(b.dtype, &[1, b.channels, b.height, b.width], &v)
}

/// A second cache that holds everything, and one that holds a few rows.
const LARGE: usize = 1 << 24;
const SMALL: usize = 48 << 10;

#[test]
fn bands_compute_the_same() {
    let cases = [
        PLAIN,
        Block { stride: 2, ..PLAIN },
        Block { residual: true, ..PLAIN },
        // Heights that no block divides, borders of several rows and of one side only, none at all.
        Block { height: 127, window: 5, pads: [2; 4], ..PLAIN },
        Block { height: 151, stride: 2, pads: [0, 0, 1, 1], ..PLAIN },
        Block { height: 131, stride: 2, pads: [1, 1, 0, 0], ..PLAIN },
        Block { height: 113, pads: [0; 4], ..PLAIN },
        Block { height: 140, dilation: 2, pads: [2; 4], ..PLAIN },
        Block { height: 160, stride: 3, pads: [1, 0, 1, 0], ..PLAIN },
        // The first stage has a window of its own.
        Block { height: 126, first: 3, ..PLAIN },
        Block { dtype: DType::F16, width: 30, ..PLAIN },
        Block { dtype: DType::F64, width: 5, ..PLAIN },
    ];
    for case in cases {
        let graph = case.graph();
        let x = [input(case)];
        for target in ["x86_64-linux/x86-64-v1", "x86-64-v3", "x86-64-v4", "cortex-a76", "rv64gcv"] {
            let maths: &[Math] = if target == "x86-64-v3" { &[Math::Strict, Math::Default] } else { &[Math::Strict] };
            for &math in maths {
                let whole = compiled(&graph, target, LARGE, math, Phase::Planned);
                let bands = compiled(&graph, target, SMALL, math, Phase::Planned);
                assert!(whole.blocked.is_empty(), "{case:?}: {:?}", whole.blocked);
                // Products of halves take narrow vectors longer than moving their factors.
                let kept = case.dtype == DType::F16 && ["x86_64-linux/x86-64-v1", "rv64gcv"].contains(&target);
                assert_eq!(bands.blocked.len(), usize::from(!kept), "{case:?} on {target}");
                assert!(kept || bands.program.arena_bytes < whole.program.arena_bytes, "{case:?} on {target}");
                let run = |s: &State| tenon_kernel::run_program(&s.program, &x).expect("runs");
                let (expected, found) = (run(&whole), run(&bands));
                if math == Math::Strict {
                    assert_eq!(found[0].bytes(), expected[0].bytes(), "{case:?} on {target}");
                }
                let tolerance = if case.dtype == DType::F16 { 2e-3 } else { 1e-5 };
                for (x, y) in found[0].to_f64().iter().zip(expected[0].to_f64()) {
                    assert!((x - y).abs() <= tolerance * (1.0 + y.abs()), "{case:?} on {target}: {x} against {y}");
                }
            }
        }
    }
}

/// A pooling behind the expansion of `b`, which has its window, stride, dilation and padding.
fn pooled(b: Block, kind: PoolKind, ceil: bool) -> Graph {
    let mut g = Graph::new("pooled");
    let x = g.add_input("x", Fact::of(b.dtype, &[1, b.channels, b.height, b.width]));
    let edge = b.first / 2;
    let v = b.conv(&mut g, x, [b.expanded, b.channels, b.first, 1], 1, 1, [edge, 0, edge, 0]);
    let pool = Pool {
        kind,
        kernel: vec![b.window; 2],
        strides: vec![b.stride; 2],
        dilations: vec![b.dilation; 2],
        pads: b.pads.to_vec(),
        ceil,
        count_pad: false,
        p: 2,
        indices: None,
        layout: Layout::ChannelsFirst,
    };
    let y = g.add_op(Op::from(pool), &[v], Loc::new("pool")).expect("well typed")[0];
    g.add_output("y", y);
    g
}

#[test]
fn poolings_of_bands_compute_the_same() {
    let whole = Block { pads: [0; 4], ..PLAIN };
    let cases = [
        whole,
        Block { stride: 2, ..whole },
        PLAIN,
        Block { stride: 2, ..PLAIN },
        // Heights that no block divides, borders of one side only, windows without overlap.
        Block { height: 127, window: 5, pads: [2; 4], ..PLAIN },
        Block { height: 151, stride: 2, pads: [0, 0, 1, 1], ..PLAIN },
        Block { height: 131, stride: 2, pads: [1, 1, 0, 0], ..PLAIN },
        Block { height: 160, window: 2, stride: 2, pads: [0; 4], ..PLAIN },
        Block { height: 140, stride: 3, ..PLAIN },
        Block { height: 140, dilation: 2, pads: [2; 4], ..PLAIN },
        Block { height: 126, first: 3, ..PLAIN },
        Block { dtype: DType::F64, width: 5, ..PLAIN },
    ];
    let mut count = 0;
    for case in cases {
        for (kind, ceil) in [(PoolKind::Max, false), (PoolKind::Max, true), (PoolKind::Average, false)] {
            let graph = pooled(case, kind, ceil);
            let x = [input(case)];
            for target in ["x86_64-linux/x86-64-v1", "x86-64-v3", "x86-64-v4", "cortex-a76"] {
                let whole = compiled(&graph, target, LARGE, Math::Strict, Phase::Planned);
                let bands = compiled(&graph, target, SMALL, Math::Strict, Phase::Planned);
                assert!(whole.blocked.is_empty(), "{case:?}: {:?}", whole.blocked);
                // Narrow vectors compare longer than the cache takes, and tall windows have many rows in common.
                count += bands.blocked.len();
                let run = |s: &State| tenon_kernel::run_program(&s.program, &x).expect("runs");
                assert_eq!(run(&whole)[0].bytes(), run(&bands)[0].bytes(), "{kind:?} {ceil} {case:?} on {target}");
            }
        }
    }
    assert!(count > 2 * 3 * cases.len(), "{count} bands");
}

#[test]
fn an_expansion_takes_the_place_of_a_band() {
    // The second block of a MobileNetV2: the expansion is 4.8 MiB.
    let block = Block { height: 112, width: 112, channels: 16, expanded: 96, stride: 2, ..PLAIN };
    let target = Target::parse("sapphire-rapids").expect("a target");
    let settings = Settings::new(target.clone(), Math::Default, "m");
    let state = tenon_passes::run(block.graph(), &settings, Phase::Planned, &mut |_, _, _| {}).expect("compiles");
    let [blocked] = &state.blocked[..] else { panic!("{:?}", state.blocked) };
    assert_eq!(blocked.nodes, "conv + clip");
    assert!(blocked.block < target.caches.l2 && blocked.whole > 4 << 20, "{blocked:?}");
    assert!(state.program.arena_bytes < 2 << 20, "{}", state.program.arena_bytes);
    // Threads share the bands.
    let settings = Settings { threads: 2, ..settings };
    let state = tenon_passes::run(block.graph(), &settings, Phase::Planned, &mut |_, _, _| {}).expect("compiles");
    assert!(state.program.kernels.iter().any(|k| k.name.starts_with("conv_conv") && k.parts.is_some()));
}

#[test]
fn what_does_not_pay_or_is_needed_elsewhere_stays() {
    let stays =
        |graph: &Graph, l2: usize| compiled(graph, "x86-64-v3", l2, Math::Default, Phase::Lowered).blocked.is_empty();
    assert!(!stays(&PLAIN.graph(), SMALL));
    // A cache that does not hold the rows of one window.
    assert!(stays(&PLAIN.graph(), 1 << 10));
    // The first convolution takes so long that computing some rows twice takes longer than moving them; the other two are joined.
    let joined =
        compiled(&Block { channels: 512, ..PLAIN }.graph(), "x86-64-v3", 64 << 10, Math::Default, Phase::Lowered);
    assert!(joined.program.kernels.iter().any(|k| k.name == "conv_0"), "{:?}", joined.blocked);
    // The expansion is a result, too.
    let mut g = PLAIN.graph();
    let clip = g.nodes().find(|n| g.op(*n).is_some_and(|o| matches!(o, Op::Clip(_)))).expect("a clip");
    g.add_output("expanded", ValueId { node: clip, port: 0 });
    let mut rest = compiled(&g, "x86-64-v3", SMALL, Math::Default, Phase::Lowered).blocked;
    assert!(rest.pop().is_none_or(|b| b.nodes == "conv + clip" && b.rows.1 == 120) && rest.is_empty());
}

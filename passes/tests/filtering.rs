//! Minimal filtering of bytes: the same integers as the direct sum, for extents and values at every edge, on machines that multiply
//! in any way; and what could not be exact is not filtered so.

use tenon_base::{DType, Fact, Loc, Scalar, Tensor};
use tenon_ir::ops::cast::Cast;
use tenon_ir::ops::conv::{Conv, Layout};
use tenon_ir::ops::requantize::Requantize;
use tenon_ir::ops::winograd_conv::WinogradConv;
use tenon_ir::ops::winograd_weight::WinogradWeight;
use tenon_ir::{Graph, Op, Operator, ValueId};
use tenon_kernel::run_program;
use tenon_passes::pipeline::{Math, Phase, Settings};
use tenon_target::Target;

/// Integers within `lo..=hi`; the ends come often.
fn drawn(dtype: DType, dims: &[usize], (lo, hi): (i128, i128), seed: u64) -> Tensor {
    let mut state = seed;
    let n: usize = dims.iter().product();
    // Knuth's MMIX generator.
    let v = (0..n).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let v = match state >> 61 {
            0 | 1 => lo,
            2 | 3 => hi,
            _ => lo + i128::from(state >> 33) % (hi - lo + 1),
        };
        Scalar::of_int(dtype, v)
    });
    Tensor::from_scalars(dtype, dims, v)
}

fn full(dtype: DType, dims: &[usize], v: i128) -> Tensor {
    Tensor::full(dims, Scalar::of_int(dtype, v))
}

fn conv(kernel: [usize; 2], dilations: [usize; 2], pads: [usize; 4], fill: i64) -> Conv {
    Conv {
        kernel: kernel.to_vec(),
        strides: vec![1; 2],
        dilations: dilations.to_vec(),
        pads: pads.to_vec(),
        group: 1,
        layout: Layout::ChannelsLast,
        fill: Some(fill),
    }
}

/// The sums of `op`, directly.
fn direct(op: &Conv, x: &Tensor, w: &Tensor, bias: &Tensor) -> Tensor {
    let (x, w) = if w.dtype() == DType::I16 { (widened(x), w.clone()) } else { (x.clone(), w.clone()) };
    op.eval(&[x, w, bias.clone()]).expect("evaluates").remove(0)
}

fn widened(x: &Tensor) -> Tensor {
    Cast::to(DType::I16).eval(std::slice::from_ref(x)).expect("evaluates").remove(0)
}

/// The sums of `op` by tiles of `tile`, `block` at a time.
fn filtered(op: &Conv, tile: &[usize], block: usize, x: &Tensor, w: &Tensor, bias: &Tensor) -> Tensor {
    let u = WinogradWeight { tile: tile.to_vec() }.eval(std::slice::from_ref(w)).expect("evaluates").remove(0);
    let Conv { kernel, dilations, pads, fill, .. } = op.clone();
    let op = WinogradConv { kernel, dilations, tile: tile.to_vec(), pads, fill, block };
    op.eval(&[x.clone(), u, bias.clone()]).expect("evaluates").remove(0)
}

fn range(d: DType) -> (i128, i128) {
    d.int_range().expect("integers")
}

fn assert_same(a: &Tensor, b: &Tensor, what: &str) {
    assert_eq!(a.fact(), b.fact(), "{what}");
    assert!(a.bytes() == b.bytes(), "{what}: {:?} against {:?}", a.to_i64(), b.to_i64());
}

#[test]
fn tiles_give_the_integers_of_the_direct_sum() {
    use DType::{I8, I16, U8};
    let cases = [
        // Sides that are whole tiles, that are not, and that are shorter than one; channels of every remainder.
        (conv([3, 3], [1, 1], [1; 4], 117), [1, 8, 12, 6], 5),
        (conv([3, 3], [1, 1], [0; 4], 0), [2, 7, 9, 3], 8),
        (conv([3, 3], [1, 1], [2, 0, 1, 3], 127), [1, 1, 3, 16], 17),
        (conv([3, 3], [2, 3], [2; 4], 5), [1, 9, 8, 4], 4),
        (conv([1, 3], [1, 1], [0, 1, 0, 1], 3), [1, 5, 10, 2], 9),
        (conv([2, 2], [1, 1], [0, 1, 1, 0], 90), [1, 6, 5, 4], 3),
    ];
    for (op, xd, o) in cases {
        let wd = [o, xd[3], op.kernel[0], op.kernel[1]];
        let bias = drawn(DType::I32, &[o], (-100_000, 100_000), 3);
        for (xt, wt) in [(U8, I8), (I8, I8), (U8, U8), (U8, I16)] {
            let (low, high) = (range(xt), if wt == I16 { (-255, 255) } else { range(wt) });
            let op = Conv { fill: op.fill.map(|f| f.min(low.1 as i64)), ..op.clone() };
            let xs = [drawn(xt, &xd, low, 7), full(xt, &xd, low.0), full(xt, &xd, low.1)];
            let ws = [drawn(wt, &wd, high, 8), full(wt, &wd, high.0), full(wt, &wd, high.1)];
            for (x, w) in xs.iter().flat_map(|x| ws.iter().map(move |w| (x, w))) {
                let expected = direct(&op, x, w, &bias);
                let mut exact = 0;
                for side in [2, 4] {
                    let tile: Vec<usize> = op.kernel.iter().map(|&k| if k == 1 { 1 } else { side }).collect();
                    if !(WinogradWeight { tile: tile.clone() }).fits(w, low) {
                        continue;
                    }
                    exact += 1;
                    let found = filtered(&op, &tile, 3, x, w, &bias);
                    assert_same(&found, &expected, &format!("{op:?} {tile:?} {xt} {wt}"));
                }
                // Only tiles of four, of weights of more than a byte, leave 16 bits.
                assert!(exact == 2 || wt != I8 && exact == 1, "{op:?} {xt} {wt}: {exact}");
            }
        }
    }
}

#[test]
fn what_32_bits_cannot_tell_is_not_filtered() {
    let fits = |tile: usize, channels: usize, weight: i128| {
        let w = full(DType::I8, &[1, channels, 3, 3], weight);
        WinogradWeight { tile: vec![tile; 2] }.fits(&w, (0, 255))
    };
    // 9 · 114 · 255 · 128 is less than 2²⁵, of which tiles of four leave the sign and 25 bits.
    assert!(fits(4, 114, -128) && !fits(4, 115, -128));
    assert!(fits(2, 1827, -128) && !fits(2, 1828, -128));
    let (x, bias) = (full(DType::U8, &[1, 4, 4, 115], 255), full(DType::I32, &[1], 0));
    let w = full(DType::I8, &[1, 115, 3, 3], -128);
    let op = conv([3, 3], [1, 1], [1; 4], 255);
    let by = |tile| filtered(&op, &[tile; 2], 1, &x, &w, &bias);
    let expected = direct(&op, &x, &w, &bias);
    assert_same(&by(2), &expected, "tiles of two");
    assert!(by(4).bytes() != expected.bytes(), "the limit is where it has to be");
}

/// A convolution of an input with constants, requantised; `wide` has its bytes in 16 bits.
fn graph(op: &Conv, xd: &[usize], x: DType, w: Tensor, wide: bool) -> Graph {
    let mut g = Graph::new("case");
    let o = w.shape()[0];
    let mut input = g.add_input("x", Fact::of(x, xd));
    let mut weights = w;
    if wide {
        input = g.add_op(Cast::to(DType::I16), &[input], Loc::new("wide")).expect("well typed")[0];
        weights = widened(&weights);
    }
    let ins = [input, g.add_weight("w", weights), g.add_weight("b", drawn(DType::I32, &[o], (-5000, 5000), 2))];
    let sum = g.add_op(op.clone(), &ins, Loc::new("sum")).expect("well typed")[0];
    let m = g.add_weight("m", Tensor::new(&[], &[0.0003f32]));
    let y = g.add_op(Requantize::new(vec![0], 100, DType::U8), &[sum, m], Loc::new("q")).expect("well typed")[0];
    g.add_output("y", y);
    g
}

/// The tile that `g` is filtered with for `target`, if any; its program gives what the graph says.
fn compiled(g: &Graph, target: &str, math: Math, input: &Tensor) -> Option<Vec<usize>> {
    let expected = tenon_ir::eval::run(g, std::slice::from_ref(input)).expect("runs");
    let settings = Settings::new(Target::parse(target).expect("a target"), math, "case");
    let state = tenon_passes::run(g.clone(), &settings, Phase::Planned, &mut |_, _, _| {}).expect("compiles");
    let found = run_program(&state.program, std::slice::from_ref(input)).expect("runs");
    assert_same(&found[0], &expected[0], target);
    let tile = |id| if let Some(Op::WinogradConv(w)) = state.graph.op(id) { Some(w.tile.clone()) } else { None };
    state.graph.nodes().find_map(tile)
}

#[test]
fn machines_without_dot_products_of_bytes_filter_whatever_may_be_rounded() {
    use DType::{I8, U8};
    let (op, xd) = (conv([3, 3], [1, 1], [1; 4], 117), [1, 13, 14, 24]);
    let w = drawn(I8, &[40, 24, 3, 3], range(I8), 5);
    for (x, wide) in [(U8, false), (I8, false), (U8, true)] {
        let g = graph(&op, &xd, x, w.clone(), wide);
        let input = drawn(x, &xd, range(x), 9);
        for (target, filters) in [
            ("x86-64-v2", true),
            ("x86-64-v3", true),
            ("x86-64-v4", true),
            ("armv8-a", true),
            ("x86_64-linux/x86-64-v3+avx-vnni", false),
            ("x86_64-linux/x86-64-v4+avx512vnni", false),
            ("aarch64-linux/armv8-a+dotprod", false),
        ] {
            for math in [Math::Strict, Math::Default] {
                let tile = compiled(&g, target, math, &input);
                assert_eq!(tile, filters.then(|| vec![4, 4]), "{target} {math:?} {x} {wide}");
            }
        }
    }
    let node = |g: &Graph| ValueId { node: g.inputs()[0], port: 0 };
    // All that is as large as it can be: tiles of four would not be exact, those of two are.
    let op = conv([3, 3], [1, 1], [1; 4], 255);
    for (w, x) in [(-128, 255), (127, 255), (-128, 0)] {
        let g = graph(&op, &[1, 8, 8, 120], U8, full(I8, &[16, 120, 3, 3], w), false);
        let fact = g.fact(node(&g)).clone();
        let input = full(U8, &fact.dims().expect("known"), x);
        assert_eq!(compiled(&g, "x86-64-v3", Math::Default, &input), Some(vec![2, 2]));
    }
}

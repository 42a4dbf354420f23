//! Regions that dequantise, compute and quantise: each rule fires on its case, what is left computes in integers and gives what
//! the region gives but for one step, and near misses stay as they are.

use std::collections::BTreeSet;
use tenon_base::{DType, Fact, Loc, Scalar, Shape, Tensor};
use tenon_ir::ops::binary::Binary;
use tenon_ir::ops::clip::Clip;
use tenon_ir::ops::concat::Concat;
use tenon_ir::ops::conv::{Conv, Layout};
use tenon_ir::ops::dequantize::Dequantize;
use tenon_ir::ops::matmul::MatMul;
use tenon_ir::ops::pool::{Pool, PoolKind};
use tenon_ir::ops::quantize::Quantize;
use tenon_ir::ops::reduce::{Kind, Reduce};
use tenon_ir::ops::transpose::Transpose;
use tenon_ir::ops::unary::Unary;
use tenon_ir::{Graph, Op, Operator, ValueId};
use tenon_passes::pipeline::Math;
use tenon_passes::quantize::{integers_watched, recipe, weights};

struct Net(Graph);

impl Net {
    fn new() -> Net {
        Net(Graph::new("case"))
    }

    fn op(&mut self, op: impl Into<Op>, ins: &[ValueId]) -> ValueId {
        self.0.add_op(op, ins, Loc::new(format!("n{}", self.0.len()))).expect("well typed")[0]
    }

    fn bin(&mut self, name: &str, a: ValueId, b: ValueId) -> ValueId {
        self.op(Binary::named(name).expect("a function"), &[a, b])
    }

    fn un(&mut self, name: &str, a: ValueId) -> ValueId {
        self.op(Unary::named(name).expect("a function"), &[a])
    }

    fn f32s(&mut self, dims: &[usize], v: &[f32]) -> ValueId {
        self.0.add_weight("", Tensor::new(dims, v))
    }

    /// Drawn integers of `dtype`.
    fn ints(&mut self, dtype: DType, dims: &[usize]) -> ValueId {
        let seed = self.0.len();
        self.0.add_weight("", drawn(dtype, dims, seed))
    }

    fn dq(&mut self, q: ValueId, scale: f32, zero: i64) -> ValueId {
        let dtype = self.0.fact(q).dtype;
        let s = self.f32s(&[], &[scale]);
        let z = self.0.add_weight("", Tensor::full(&[], Scalar::of_int(dtype, i128::from(zero))));
        self.op(Dequantize {}, &[q, s, z])
    }

    fn q(&mut self, x: ValueId, scale: f32, zero: i64, to: DType) -> ValueId {
        let s = self.f32s(&[], &[scale]);
        let z = self.0.add_weight("", Tensor::full(&[], Scalar::of_int(to, i128::from(zero))));
        self.op(Quantize { to }, &[x, s, z])
    }

    /// An input of bytes, as floats.
    fn input(&mut self, dtype: DType, dims: &[usize], scale: f32, zero: i64) -> ValueId {
        let x = self.0.add_input(format!("x{}", self.0.inputs().len()), Fact::of(dtype, dims));
        self.dq(x, scale, zero)
    }

    /// Weights of bytes with one scale a channel of axis 0.
    fn weights(&mut self, dtype: DType, dims: &[usize], zero: i64) -> ValueId {
        let w = self.ints(dtype, dims);
        let scales: Vec<f32> = (0..dims[0]).map(|i| 0.002 + 0.0007 * i as f32).collect();
        let mut shape = vec![1; dims.len()];
        shape[0] = dims[0];
        let s = self.f32s(&shape, &scales);
        let z = self.0.add_weight("", Tensor::full(&[], Scalar::of_int(dtype, i128::from(zero))));
        self.op(Dequantize {}, &[w, s, z])
    }
}

fn drawn(dtype: DType, dims: &[usize], seed: usize) -> Tensor {
    let n: usize = dims.iter().product();
    let (lo, hi) = dtype.int_range().expect("integers");
    let span = hi - lo + 1;
    // Knuth's MMIX generator.
    let mut state = seed as u64;
    let v = (0..n).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Scalar::of_int(dtype, lo + i128::from(state >> 33) % span)
    });
    Tensor::from_scalars(dtype, dims, v)
}

fn conv(dims: usize, group: usize, pads: usize, strides: usize, kernel: usize) -> Conv {
    Conv {
        kernel: vec![kernel; dims],
        strides: vec![strides; dims],
        dilations: vec![1; dims],
        pads: vec![pads; 2 * dims],
        group,
        layout: Layout::ChannelsFirst,
        fill: None,
    }
}

fn pool(kind: PoolKind, kernel: usize) -> Pool {
    Pool {
        kind,
        kernel: vec![kernel; 2],
        strides: vec![kernel; 2],
        dilations: vec![1; 2],
        pads: vec![0; 4],
        ceil: false,
        count_pad: false,
        p: 1,
        indices: None,
        layout: Layout::ChannelsFirst,
    }
}

/// Runs the pass; the rules that fired, and the graph after it. The results are compared with those before: integers may
/// differ by one step, floats by `step`.
fn check(net: Net, out: ValueId, step: f64) -> (BTreeSet<&'static str>, Graph) {
    let mut graph = net.0;
    graph.add_output("y", out);
    let inputs: Vec<Tensor> = graph
        .inputs()
        .iter()
        .enumerate()
        .map(|(i, &node)| {
            let fact = graph.fact(ValueId { node, port: 0 }).clone();
            drawn(fact.dtype, &fact.dims().expect("known"), i + 3)
        })
        .collect();
    let before = tenon_ir::eval::run(&graph, &inputs).expect("runs").remove(0);
    let mut fired = BTreeSet::new();
    integers_watched(&mut graph, Math::Default, &mut |rule, _| {
        fired.insert(rule);
    })
    .expect("ends");
    tenon_ir::verify::verify(&graph).expect("a graph");
    let after = tenon_ir::eval::run(&graph, &inputs).expect("runs").remove(0);
    assert_eq!(before.fact(), after.fact());
    let mut distinct = BTreeSet::new();
    for (a, b) in after.to_f64().iter().zip(before.to_f64()) {
        assert!((a - b).abs() <= step, "{fired:?}: {a} against {b}");
        distinct.insert(b.to_bits());
    }
    assert!(distinct.len() > 4, "the case saturates: only {} values", distinct.len());
    (fired, graph)
}

/// No operator but those at the borders has floats.
fn in_integers(graph: &Graph) {
    for n in graph.nodes() {
        let Some(op) = graph.op(n) else { continue };
        let float = graph.node(n).facts.iter().any(|f| f.dtype.is_float());
        assert!(!float || op.name() == "dequantize", "{} is left in floats", op.name());
    }
}

#[test]
fn convolutions_of_any_signs_groups_and_zero_points() {
    for (x, w, zx, zw, group) in [
        (DType::U8, DType::I8, 117, 0, 1),
        (DType::I8, DType::I8, -9, 0, 1),
        (DType::U8, DType::U8, 3, 128, 2),
        (DType::U8, DType::U8, 0, 152, 1),
        (DType::U8, DType::I8, 250, 5, 4),
    ] {
        let mut n = Net::new();
        let v = n.input(x, &[1, 4, 7, 6], 0.02, zx);
        let k = n.weights(w, &[8, 4 / group, 3, 3], zw);
        let bias: Vec<f32> = (0..8).map(|i| i as f32 - 3.5).collect();
        let b = n.f32s(&[8], &bias);
        let y = n.op(conv(2, group, 1, 2, 3), &[v, k, b]);
        let y = n.un("relu", y);
        let y = n.q(y, 0.1, 10, DType::U8);
        let (fired, g) = check(n, y, 1.0);
        assert!(fired.contains("integer-conv") && fired.contains("requantize"), "{fired:?}");
        in_integers(&g);
    }
}

#[test]
fn products_with_constants_and_of_activations() {
    for (trans_b, zero) in [(false, 100), (true, 0), (true, 7)] {
        let mut n = Net::new();
        let x = n.input(DType::U8, &[3, 20], 0.01, zero);
        let w = if trans_b {
            n.weights(DType::I8, &[9, 20], 0)
        } else {
            let w = n.ints(DType::I8, &[20, 9]);
            n.dq(w, 0.004, 0)
        };
        let y = n.op(MatMul { trans_a: false, trans_b }, &[x, w]);
        let c: Vec<f32> = (0..9).map(|i| 0.3 * i as f32 - 1.0).collect();
        let c = n.f32s(&[9], &c);
        let y = n.bin("add", y, c);
        let y = n.q(y, 0.2, 128, DType::U8);
        let (fired, g) = check(n, y, 1.0);
        assert!(fired.contains("integer-matmul") && fired.contains("integer-bias"), "{fired:?}");
        in_integers(&g);
    }
    let mut n = Net::new();
    let (a, b) = (n.input(DType::U8, &[2, 3, 8], 0.02, 120), n.input(DType::I8, &[2, 8, 5], 0.02, 3));
    let y = n.op(MatMul { trans_a: false, trans_b: false }, &[a, b]);
    let y = n.q(y, 0.1, 0, DType::I8);
    let (_, g) = check(n, y, 1.0);
    in_integers(&g);
}

#[test]
fn a_last_layer_without_quantiser_gives_floats_of_integer_sums() {
    let mut n = Net::new();
    let x = n.input(DType::U8, &[3, 20], 0.01, 33);
    let w = n.weights(DType::I8, &[9, 20], 0);
    let y = n.op(MatMul { trans_a: false, trans_b: true }, &[x, w]);
    let (fired, g) = check(n, y, 1e-5);
    assert!(fired.contains("integer-matmul"));
    in_integers(&g);
}

#[test]
fn a_bias_between_the_units_of_a_sum_stays_a_float() {
    for rows in [false, true] {
        let mut n = Net::new();
        // Units of the sum are large, as those of a bias of a quarter of one are seen in the result.
        let b: Vec<f32> = (0..9).map(|i| i as f32 * 0.25 - 1.1).collect();
        let y = if rows {
            let x = n.input(DType::U8, &[3, 20], 4.0, 33);
            let w = n.weights(DType::I8, &[9, 20], 0);
            let y = n.op(MatMul { trans_a: false, trans_b: true }, &[x, w]);
            let c = n.f32s(&[9], &b);
            n.bin("add", y, c)
        } else {
            let x = n.input(DType::U8, &[1, 4, 5, 5], 4.0, 33);
            let w = n.weights(DType::I8, &[9, 4, 3, 3], 0);
            let c = n.f32s(&[9], &b);
            n.op(conv(2, 1, 1, 1, 3), &[x, w, c])
        };
        let (fired, _) = check(n, y, 1e-3);
        assert!(fired.contains(if rows { "integer-matmul" } else { "integer-conv" }), "{fired:?}");
        assert!(!fired.contains("integer-bias"), "{fired:?}");
    }
}

#[test]
fn sums_products_means_and_joins() {
    let two =
        |n: &mut Net| (n.input(DType::U8, &[1, 6, 4, 4], 0.03, 90), n.input(DType::I8, &[1, 6, 4, 4], 0.05, -4));
    for name in ["add", "sub", "mul"] {
        let mut n = Net::new();
        let (a, b) = two(&mut n);
        let y = n.bin(name, a, b);
        let y = n.op(Clip { min: Some(tenon_base::Real(-3.0)), max: None }, &[y]);
        let y = n.q(y, 0.08, 60, DType::U8);
        let (_, g) = check(n, y, 1.0);
        in_integers(&g);
    }
    let mut n = Net::new();
    let (a, b) = two(&mut n);
    let y = n.op(Concat { axis: 1 }, &[a, b]);
    let y = n.q(y, 0.04, 80, DType::U8);
    let (fired, g) = check(n, y, 1.0);
    assert!(fired.contains("requantize-concat"));
    in_integers(&g);
    for pooled in [false, true] {
        let mut n = Net::new();
        let x = n.input(DType::U8, &[1, 40, 4, 4], 0.03, 90);
        let y = if pooled {
            n.op(pool(PoolKind::Average, 4), &[x])
        } else {
            n.op(Reduce { kind: Kind::Mean, axes: vec![2, 3] }, &[x])
        };
        let y = n.q(y, 0.01, 128, DType::U8);
        let (fired, g) = check(n, y, 1.0);
        assert!(fired.contains("integer-mean") && fired.contains("pooled-mean") == pooled);
        in_integers(&g);
    }
}

#[test]
fn averages_of_windows_are_sums_of_bytes() {
    for (dtype, zero, pads, count_pad, stride) in [
        (DType::U8, 90, [0; 4], false, 2),
        (DType::U8, 90, [1, 0, 1, 1], true, 2),
        (DType::I8, -7, [1, 1, 0, 1], false, 1),
        (DType::U8, 0, [1; 4], false, 3),
    ] {
        let mut n = Net::new();
        let x = n.input(dtype, &[1, 20, 7, 6], 0.03, zero);
        let op = Pool { pads: pads.to_vec(), count_pad, strides: vec![stride; 2], ..pool(PoolKind::Average, 3) };
        let y = n.op(op, &[x]);
        let y = n.q(y, 0.015, 128, DType::U8);
        let (fired, g) = check(n, y, 1.0);
        assert!(fired.contains("integer-average"), "{fired:?}");
        in_integers(&g);
    }
    // One that reaches beyond the padding has no form as a convolution, and what is not quantised stays exact.
    for (ceil, quantised) in [(true, true), (false, false)] {
        let mut n = Net::new();
        let x = n.input(DType::U8, &[1, 20, 8, 8], 0.03, 90);
        let y = n.op(Pool { ceil, strides: vec![2; 2], ..pool(PoolKind::Average, 3) }, &[x]);
        let y = if quantised { n.q(y, 0.015, 128, DType::U8) } else { y };
        let (fired, _) = check(n, y, if quantised { 1.0 } else { 1e-5 });
        assert!(!fired.contains("integer-average"), "{fired:?}");
    }
}

#[test]
fn moves_carry_integers_up_and_down() {
    let mut n = Net::new();
    let x = n.input(DType::U8, &[1, 4, 6, 6], 0.02, 100);
    let w = n.weights(DType::I8, &[5, 4, 1, 1], 0);
    let y = n.op(conv(2, 1, 0, 1, 1), &[x, w]);
    let y = n.op(pool(PoolKind::Max, 2), &[y]);
    let y = n.op(Transpose { perm: vec![0, 2, 3, 1] }, &[y]);
    let y = n.op(tenon_ir::ops::reshape::Reshape { to: Shape::of(&[9, 5]) }, &[y]);
    let y = n.q(y, 0.05, 128, DType::U8);
    let (fired, g) = check(n, y, 1.0);
    assert!(fired.contains("quantize-up"), "{fired:?}");
    in_integers(&g);
    let mut n = Net::new();
    let x = n.input(DType::U8, &[1, 4, 6, 6], 0.02, 100);
    let y = n.op(pool(PoolKind::Max, 2), &[x]);
    let (fired, _) = check(n, y, 1e-6);
    assert!(fired.contains("dequantize-down"));
}

#[test]
fn functions_of_one_value_become_tables() {
    let mut n = Net::new();
    let x = n.input(DType::I8, &[2, 300], 0.05, -8);
    let s = n.un("sigmoid", x);
    let y = n.bin("mul", x, s);
    let y = n.q(y, 0.03, 20, DType::U8);
    let (fired, g) = check(n, y, 0.0);
    assert!(fired.contains("lookup"), "{fired:?}");
    in_integers(&g);
}

#[test]
fn equal_parameters_cancel_and_others_are_one_step() {
    let mut n = Net::new();
    let x = n.input(DType::U8, &[300], 0.05, 8);
    let y = n.q(x, 0.05, 8, DType::U8);
    let (_, g) = check(n, y, 0.0);
    assert!(g.nodes().all(|n| g.op(n).is_none()));
}

#[test]
fn what_has_other_parameters_stays_in_floats() {
    // One scale a channel of the activations: the sum over channels has none.
    let mut n = Net::new();
    let q = n.0.add_input("x", Fact::of(DType::U8, &[3, 20]));
    let s: Vec<f32> = (0..20).map(|i| 0.01 + 0.001 * i as f32).collect();
    let s = n.f32s(&[1, 20], &s);
    let x = n.op(Dequantize {}, &[q, s]);
    let w = n.weights(DType::I8, &[9, 20], 0);
    let y = n.op(MatMul { trans_a: false, trans_b: true }, &[x, w]);
    let (fired, _) = check(n, y, 1e-5);
    assert!(!fired.contains("integer-matmul"));
    // The scale comes from an input.
    let mut n = Net::new();
    let q = n.0.add_input("x", Fact::of(DType::U8, &[3, 20]));
    let s = n.f32s(&[], &[0.0004]);
    let s = n.un("sqrt", s);
    let x = n.op(Dequantize {}, &[q, s]);
    let y = n.un("sigmoid", x);
    let y = n.un("sqrt", y);
    let (fired, _) = check(n, y, 1e-5);
    assert!(fired.is_empty() || fired.iter().all(|f| *f != "lookup"));
}

/// Weights of `numbers` different values in `[256, 70]`, dequantised with a scale for every `block` rows, and what multiplies them.
fn blocks(numbers: i64, block: usize, trans: bool) -> (Net, ValueId) {
    let (k, n) = (256, 70);
    let mut net = Net::new();
    let x = net.0.add_input("x", Fact::of(DType::I8, &[3, k]));
    let x = net.op(tenon_ir::ops::cast::Cast::to(DType::F32), &[x]);
    let thousandth = net.f32s(&[], &[0.001]);
    let x = net.bin("mul", x, thousandth);
    let dims = if trans { [n, k] } else { [k, n] };
    let q: Vec<u8> = (0..k * n).map(|i| ((i * 7919 + i / 13) as i64 % numbers) as u8).collect();
    let q = net.0.add_weight("", Tensor::new(&dims, &q));
    // [blocks, 1, n] or [n, blocks, 1], repeated by a move that stays one.
    let rows = k / block;
    let s: Vec<f32> = (0..rows * n).map(|i| 0.01 + 0.0001 * i as f32).collect();
    let (shape, wide) = if trans { ([n, rows, 1], [n, rows, block]) } else { ([rows, 1, n], [rows, block, n]) };
    let s = net.f32s(&shape, &s);
    let s = net.op(tenon_ir::ops::expand::Expand { to: Shape::of(&wide) }, &[s]);
    let s = net.op(tenon_ir::ops::reshape::Reshape { to: Shape::of(&dims) }, &[s]);
    let z = net.0.add_weight("", Tensor::full(&[], Scalar::of_int(DType::U8, 5)));
    let w = net.op(Dequantize {}, &[q, s, z]);
    let y = net.op(MatMul { trans_a: false, trans_b: trans }, &[x, w]);
    (net, y)
}

#[test]
fn weights_of_four_bits_stay_so() {
    for (trans, block) in [(false, 32), (true, 16), (false, 256)] {
        let (net, y) = blocks(16, block, trans);
        let (fired, graph) = check(net, y, 1e-5);
        assert!(fired.contains("nibble-weights"), "{fired:?}");
        let bytes: usize =
            graph.nodes().filter_map(|n| Some(graph.weight(ValueId { node: n, port: 0 })?.bytes().len())).sum();
        assert!(bytes <= 256 * 70 / 2 + 2 * 4 * 70 * 256 / block + 4, "{bytes} bytes of weights");
    }
    // More numbers than fit, and scales as large as what would be saved.
    for (numbers, block) in [(17, 32), (16, 4)] {
        let (net, y) = blocks(numbers, block, false);
        assert!(!check(net, y, 1e-5).0.contains("nibble-weights"));
    }
}

/// A small float network: convolution, rectifier, depthwise convolution, sum, mean, product.
fn float_net() -> Graph {
    let mut n = Net::new();
    let x = n.0.add_input("x", Fact::of(DType::F32, &[1, 3, 8, 8]));
    let weights = |n: &mut Net, dims: &[usize]| {
        let seed = n.0.len();
        let v: Vec<f32> = drawn(DType::I8, dims, seed).to_f64().iter().map(|v| *v as f32 / 300.0).collect();
        n.f32s(dims, &v)
    };
    let w = weights(&mut n, &[6, 3, 3, 3]);
    let a = n.op(conv(2, 1, 1, 1, 3), &[x, w]);
    let a = n.un("relu", a);
    let w = weights(&mut n, &[6, 1, 3, 3]);
    let b = n.op(conv(2, 6, 1, 1, 3), &[a, w]);
    let y = n.bin("add", a, b);
    let y = n.op(Reduce { kind: Kind::Mean, axes: vec![2, 3] }, &[y]);
    let y = n.op(tenon_ir::ops::reshape::Reshape { to: Shape::of(&[1, 6]) }, &[y]);
    let w = weights(&mut n, &[6, 4]);
    let y = n.op(MatMul { trans_a: false, trans_b: false }, &[y, w]);
    n.0.add_output("y", y);
    n.0
}

#[test]
fn a_recipe_makes_a_float_model_one_of_integers() {
    let float = float_net();
    let sites = recipe::sites(&float, &BTreeSet::new()).expect("sites");
    assert_eq!(sites.layers.len(), 3);
    assert_eq!(sites.values.len(), 5, "{:?}", sites.values);
    let data: Vec<f32> = (0..192).map(|i| ((i * 37) % 101) as f32 / 101.0).collect();
    let input = Tensor::new(&[1, 3, 8, 8], &data);
    let mut choice = recipe::Choice::default();
    for s in &sites.values {
        // The range that the value has on the input.
        let mut g = float.clone();
        g.add_output("v", s.value);
        let v = tenon_ir::eval::run(&g, std::slice::from_ref(&input)).expect("runs")[1].to_f64();
        let (lo, hi) = v.iter().fold((0f64, 0f64), |(a, b), v| (a.min(*v), b.max(*v)));
        choice.ranges.insert(s.name.clone(), recipe::Range { min: lo as f32, max: hi as f32 });
    }
    let mut g = float.clone();
    recipe::insert(&mut g, &choice).expect("fits");
    integers_watched(&mut g, Math::Default, &mut |_, _| {}).expect("ends");
    for n in g.nodes() {
        if let Some(Op::Conv(_) | Op::MatMul(_)) = g.op(n) {
            assert_eq!(g.node(n).facts[0].dtype, DType::I32);
        }
    }
    let run = |g: &Graph| tenon_ir::eval::run(g, std::slice::from_ref(&input)).expect("runs")[0].to_f64();
    for (a, b) in run(&g).iter().zip(run(&float)) {
        assert!((a - b).abs() < 0.02 * b.abs().max(0.5), "{a} against {b}");
    }
    // A range too few, and names that are not there.
    let mut less = choice.clone();
    less.ranges.remove(&sites.values[1].name);
    assert!(matches!(recipe::insert(&mut float.clone(), &less), Err(recipe::ChoiceError::NoRange { .. })));
    let mut more = choice.clone();
    more.float.insert("nobody".into());
    assert!(recipe::insert(&mut float.clone(), &more).unwrap_err().to_string().contains("no layer \"nobody\""));
}

/// `x · (cast(w) · s)` with one scale a column (or a row), and with `s` as its own `Dequantize`.
fn stored(n: &mut Net, columns: bool) -> (ValueId, ValueId) {
    let x = n.0.add_input("x0", Fact::of(DType::I8, &[3, 64]));
    let x = n.op(tenon_ir::ops::cast::Cast::to(DType::F32), &[x]);
    let w = n.ints(DType::I8, &[64, 96]);
    let w = n.op(tenon_ir::ops::cast::Cast::to(DType::F32), &[w]);
    let len = if columns { 96 } else { 64 };
    let scales: Vec<f32> = (0..len).map(|i| 0.002 + 0.0007 * i as f32).collect();
    let s = n.f32s(if columns { &[1, 96] } else { &[64, 1] }, &scales);
    let w = n.bin("mul", w, s);
    (n.op(MatMul { trans_a: false, trans_b: false }, &[x, w]), w)
}

#[test]
fn weights_beside_floats_stay_bytes() {
    let run = |columns: bool, math: Math| {
        let mut n = Net::new();
        let (y, _) = stored(&mut n, columns);
        let mut g = n.0;
        g.add_output("y", y);
        let input = drawn(DType::I8, &[3, 64], 7);
        let before = tenon_ir::eval::run(&g, std::slice::from_ref(&input)).expect("runs")[0].to_f64();
        assert_eq!(weights::recognise(&mut g).expect("runs"), 1);
        integers_watched(&mut g, math, &mut |_, _| {}).expect("ends");
        tenon_ir::verify::verify(&g).expect("a graph");
        let after = tenon_ir::eval::run(&g, std::slice::from_ref(&input)).expect("runs")[0].to_f64();
        for (a, b) in after.iter().zip(before) {
            assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} against {b}");
        }
        let product = g.nodes().find(|n| matches!(g.op(*n), Some(Op::MatMul(_)))).expect("a product");
        g.fact(g.operands(product)[1]).dtype
    };
    assert_eq!(run(true, Math::Default), DType::I8);
    // One scale a row belongs to the other factor; and another order of products changes bits.
    assert_eq!(run(false, Math::Default), DType::F32);
    assert_eq!(run(true, Math::Strict), DType::F32);
}

#[test]
fn rows_chosen_from_a_table_of_bytes_stay_bytes() {
    let mut n = Net::new();
    let table = n.weights(DType::I8, &[40, 6], 3);
    let at = n.0.add_input("x0", Fact::of(DType::I64, &[2, 3]));
    let y = n.op(tenon_ir::ops::gather::Gather { axis: 0 }, &[table, at]);
    let mut g = n.0;
    g.add_output("y", y);
    let input = Tensor::new::<i64>(&[2, 3], &[0, 39, 7, -1, 12, 5]);
    let before = tenon_ir::eval::run(&g, std::slice::from_ref(&input)).expect("runs");
    integers_watched(&mut g, Math::Strict, &mut |_, _| {}).expect("ends");
    assert_eq!(before, tenon_ir::eval::run(&g, std::slice::from_ref(&input)).expect("runs"));
    let chosen = g.nodes().find(|n| matches!(g.op(*n), Some(Op::Gather(_)))).expect("a choice");
    assert_eq!(g.node(chosen).facts[0].dtype, DType::I8);
}

//! Bounded dimensions: a graph for all sizes up to a bound computes for every size what the graph of that size computes, whatever lies
//! behind the ends of its inputs.

use std::collections::BTreeMap;
use tenon_base::{Scalar, Tensor};
use tenon_ir::{Graph, NodeKind, ValueId};
use tenon_passes::bounded::{BoundError, Bounded, bound};

const MOST: i64 = 6;

fn parsed(text: &str) -> Graph {
    Graph::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn at(graph: &Graph, n: i64) -> (Graph, Bounded) {
    bound(graph, &BTreeMap::from([("s".to_string(), n)])).unwrap_or_else(|e| panic!("{}: {e}", graph.name))
}

/// Drawn inputs of the graph for size `n`; the last is the size itself.
fn inputs(graph: &Graph, n: i64) -> Vec<Tensor> {
    let mut state = 0x9e37_79b9_u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f64 / f64::from(1 << 24)
    };
    let all = graph.inputs().iter().map(|id| {
        let fact = graph.fact(ValueId { node: *id, port: 0 });
        let dims = fact.dims().expect("known");
        if matches!(&graph.node(*id).kind, NodeKind::Input(name) if name == "s") {
            return Tensor::full(&[], Scalar::of_int(fact.dtype, n.into()));
        }
        let count: usize = dims.iter().product();
        let draw = (0..count).map(|_| match fact.dtype.int_range() {
            // Positions from either end, that every size has.
            Some(_) => Scalar::of_int(fact.dtype, if next() < 0.5 { -1 } else { 0 }),
            None => Scalar::of_f64(fact.dtype, next() * 4.0 - 2.0),
        });
        Tensor::from_scalars(fact.dtype, &dims, draw.collect::<Vec<_>>())
    });
    all.collect()
}

/// `t` in the corner of a tensor of `dims`, NaN or large numbers behind its ends.
fn dirty(t: &Tensor, dims: &[usize]) -> Tensor {
    let mark = Tensor::full(t.shape(), Scalar::of_f64(t.dtype(), 1.0)).widened(dims).expect("fits");
    let wide = t.widened(dims).expect("fits");
    let dirt = match t.dtype().int_range() {
        Some((_, high)) => Scalar::of_int(t.dtype(), high),
        None => Scalar::of_f64(t.dtype(), f64::NAN),
    };
    let all = wide.scalars().zip(mark.scalars()).map(|(v, m)| if m.as_f64() == 0.0 { dirt } else { v });
    Tensor::from_scalars(t.dtype(), dims, all.collect::<Vec<_>>())
}

/// The front corner of `t`.
fn cut(t: &Tensor, dims: &[usize]) -> Vec<f64> {
    let mark = Tensor::full(dims, Scalar::of_f64(t.dtype(), 1.0)).widened(t.shape()).expect("fits");
    t.scalars().zip(mark.scalars()).filter(|(_, m)| m.as_f64() != 0.0).map(|(v, _)| v.as_f64()).collect()
}

fn agrees(text: &str) {
    let graph = parsed(text);
    let (large, bounded) = at(&graph, MOST);
    tenon_ir::verify::verify(&large).unwrap_or_else(|e| panic!("{}: {e:?}", graph.name));
    let least = bounded.dims[0].least;
    assert!(least < MOST, "{}: one size only", graph.name);
    for n in least..=MOST {
        let (small, _) = at(&graph, n);
        let ins = inputs(&small, n);
        let expected = tenon_ir::eval::run(&small, &ins).unwrap_or_else(|e| panic!("{}: {e}", graph.name));
        let wide: Vec<Tensor> = large
            .inputs()
            .iter()
            .zip(&ins)
            .map(|(id, t)| dirty(t, &large.fact(ValueId { node: *id, port: 0 }).dims().expect("known")))
            .collect();
        let found = tenon_ir::eval::run(&large, &wide).unwrap_or_else(|e| panic!("{} at {n}: {e}", graph.name));
        for (k, y) in expected.iter().enumerate() {
            let x = cut(&found[k], y.shape());
            let close = |(a, b): (&f64, f64)| (a - b).abs() <= 1e-5 * b.abs().max(1.0) || (a.is_nan() && b.is_nan());
            assert!(x.iter().zip(y.to_f64()).all(close), "{} at {n}, output {k}: {x:?} for {y:?}", graph.name);
        }
    }
}

#[test]
fn every_size_gives_what_its_own_graph_gives() {
    for text in CASES {
        agrees(text);
    }
}

const CASES: &[&str] = &[
    "graph rows(%x: f32[s,4], %w: f32[4,3]) -> (\"y\": %1) {\n  %0 = matmul(%x, %w) {trans_a=false, trans_b=false}\n  %1 = relu(%0)\n}",
    "graph softmax_along(%x: f32[2,s]) -> (\"y\": %0, \"z\": %1) {\n  %0 = softmax(%x) {axis=1, log=false}\n  %1 = softmax(%x) {axis=1, log=true}\n}",
    "graph attention(%q: f32[1,2,s,4], %k: f32[1,2,s,4], %v: f32[1,2,s,4]) -> (\"y\": %2) {
  %0 = matmul(%q, %k) {trans_a=false, trans_b=true}
  %1 = softmax(%0) {axis=3, log=false}
  %2 = matmul(%1, %v) {trans_a=false, trans_b=false}
}",
    "graph sums(%x: f32[2,s,3]) -> (\"a\": %0, \"b\": %1, \"c\": %2, \"d\": %3, \"e\": %4, \"f\": %5) {
  %0 = reduce(%x) {axes=[1], kind=\"mean\"}
  %1 = reduce(%x) {axes=[1,2], kind=\"sum\"}
  %2 = reduce(%x) {axes=[1], kind=\"max\"}
  %3 = reduce(%x) {axes=[0,1], kind=\"prod\"}
  %4 = reduce(%x) {axes=[1], kind=\"log_sum_exp\"}
  %5 = arg_reduce(%x) {axis=1, last=false, max=true}
}",
    "graph border(%x: f32[1,2,s], %w: f32[3,2,3]) -> (\"y\": %0, \"z\": %1) {
  %0 = conv(%x, %w) {dilations=[1], group=1, kernel=[3], layout=\"nchw\", pads=[1,1], strides=[2]}
  %1 = conv(%x, %w) {dilations=[1], group=1, kernel=[3], layout=\"nchw\", pads=[0,0], strides=[1]}
}",
    "graph spread(%x: f32[1,2,s], %w: f32[2,3,3]) -> (\"y\": %0) {
  %0 = conv_transpose(%x, %w) {dilations=[1], group=1, kernel=[3], layout=\"nchw\", output_padding=[0], pads=[1,1], strides=[2]}
}",
    "graph joined(%x: f32[2,s], %y: f32[2,3]) -> (\"a\": %0, \"b\": %1, \"c\": %2) {
  %0 = concat(%x, %y) {axis=1}
  %1 = concat(%y, %x) {axis=1}
  %2 = concat(%x, %x, %y, %x) {axis=1}
}",
    "graph last(%x: f32[s,3], %i: i64[2]) -> (\"a\": %1, \"b\": %2) {
  %0 = weight : i64[1] = [-1]
  %1 = gather(%x, %0) {axis=0}
  %2 = gather(%x, %i) {axis=0}
}",
    "graph running(%x: f32[2,s]) -> (\"a\": %0, \"b\": %1) {
  %0 = cumulate(%x) {axis=1, exclusive=false, product=false, reverse=true}
  %1 = cumulate(%x) {axis=1, exclusive=true, product=true, reverse=false}
}",
    "graph behind(%x: f32[2,s]) -> (\"y\": %0) {\n  %0 = pad(%x) {mode=\"constant\", pads=[0,1,0,2], value=7.0}\n}",
    "graph shapes(%x: f32[1,s,4]) -> (\"n\": %0, \"y\": %2, \"z\": %3) {
  %0 = symbolic() {elements=<[1,s,2*s+3]>, to=<[3]>}
  %1 = reshape(%x) {to=<[s,2,2]>}
  %2 = transpose(%1) {perm=[1,0,2]}
  %3 = reshape(%x) {to=<[4*s]>}
}",
    "graph flat(%x: f32[2,s,3], %y: f32[2,s,s]) -> (\"a\": %0, \"b\": %2, \"c\": %3, \"d\": %4) {
  %0 = reshape(%x) {to=<[6*s]>}
  %1 = transpose(%x) {perm=[2,1,0]}
  %2 = reshape(%1) {to=<[2,3*s]>}
  %3 = reshape(%y) {to=<[2*s,s]>}
  %4 = reshape(%y) {to=<[2*s*s]>}
}",
    "graph means(%x: f32[1,2,s]) -> (\"a\": %0, \"b\": %1, \"c\": %2, \"d\": %3) {
  %0 = pool(%x) {ceil=false, count_pad=false, dilations=[1], kernel=[3], kind=\"average\", layout=\"nchw\", p=1, pads=[1,1], strides=[2]}
  %1 = pool(%x) {ceil=true, count_pad=false, dilations=[1], kernel=[3], kind=\"average\", layout=\"nchw\", p=1, pads=[1,1], strides=[2]}
  %2 = pool(%x) {ceil=true, count_pad=true, dilations=[1], kernel=[3], kind=\"average\", layout=\"nchw\", p=1, pads=[1,1], strides=[2]}
  %3 = pool(%x) {ceil=false, count_pad=true, dilations=[1], kernel=[3], kind=\"average\", layout=\"nchw\", p=1, pads=[1,1], strides=[2]}
}",
    "graph part(%x: f32[2,s]) -> (\"y\": %0) {\n  %0 = slice(%x) {starts=[0,1], steps=[1,2], to=<[2,div(s, 2)]>}\n}",
];

#[test]
fn what_is_not_supported_is_named() {
    let bounds = BTreeMap::from([("s".to_string(), MOST)]);
    let refused = |text: &str| bound(&parsed(text), &bounds).map(|_| ()).expect_err("must be refused");
    let e = refused(
        "graph g(%x: f32[2,s]) -> (\"y\": %0) {\n  %0 = layer_norm(%x) {axis=1, epsilon=0.00001, rms=true, stats=false} @ \"Norm_1\"\n}",
    );
    assert!(e.to_string().contains("layer_norm at Norm_1"), "{e}");
    let e = refused("graph g(%x: f32[2,t]) -> (\"y\": %0) {\n  %0 = relu(%x)\n}");
    assert!(matches!(e, BoundError::Free(_) | BoundError::Unknown(_)), "{e}");
}

#[test]
fn sizes_that_leave_a_value_empty_are_told() {
    let text = "graph g(%x: f32[1,1,s], %w: f32[1,1,3]) -> (\"y\": %0) {\n  %0 = conv(%x, %w) {dilations=[1], group=1, kernel=[3], \
                layout=\"nchw\", pads=[0,0], strides=[1]}\n}";
    let (_, bounded) = at(&parsed(text), MOST);
    assert_eq!((bounded.dims[0].least, bounded.dims[0].most), (3, MOST));
}

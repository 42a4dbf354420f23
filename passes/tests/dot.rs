//! Contractions of narrow integers, scheduled for machines with every kind of dot product: the interpreter finds the same sums
//! in the scheduled kernels as the reference in the graph, and the machine's form is used.

use tenon_base::{DType, Fact, Loc, Scalar, Tensor};
use tenon_ir::ops::conv::{Conv, Layout};
use tenon_ir::ops::lookup::Lookup;
use tenon_ir::ops::matmul::MatMul;
use tenon_ir::ops::requantize::Requantize;
use tenon_ir::{Graph, Op, ValueId};
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::{Expr, Program, Stmt, run_program};
use tenon_passes::pipeline::{Math, Phase, Settings};
use tenon_target::Target;

const TARGETS: [&str; 10] = [
    "x86-64-v2",
    "x86-64-v3",
    "x86_64-linux/x86-64-v3+avx-vnni",
    "x86_64-linux/x86-64-v4+avx512vnni",
    "sapphire-rapids",
    "armv8-a",
    "aarch64-linux/armv8-a+dotprod",
    "aarch64-linux/armv8-a+dotprod+i8mm",
    "rv64gc",
    "rv64gcv",
];

fn drawn(dtype: DType, dims: &[usize], seed: u64) -> Tensor {
    let (lo, hi) = dtype.int_range().expect("integers");
    let (lo, hi) = if dtype.size() > 1 { (-255, 255) } else { (lo, hi) };
    let mut state = seed;
    let n: usize = dims.iter().product();
    // Knuth's MMIX generator.
    let v = (0..n).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Scalar::of_int(dtype, lo + i128::from(state >> 33) % (hi - lo + 1))
    });
    Tensor::from_scalars(dtype, dims, v)
}

/// `op` of an input of `x` and constants of `w`, requantised.
fn graph(op: impl Into<Op>, x: (DType, &[usize]), w: (DType, &[usize]), bias: Option<usize>) -> Graph {
    let mut g = Graph::new("case");
    let input = g.add_input("x", Fact::of(x.0, x.1));
    let mut ins = vec![input, g.add_weight("w", drawn(w.0, w.1, 5))];
    if let Some(n) = bias {
        let b: Vec<i32> = (0..n as i32).map(|i| i * 91 - 400).collect();
        ins.push(g.add_weight("b", Tensor::new(&[n], &b)));
    }
    let sum = g.add_op(op, &ins, Loc::new("sum")).expect("well typed")[0];
    let m = g.add_weight("m", Tensor::new(&[], &[0.0007f32]));
    let y = g.add_op(Requantize::new(vec![0], 100, DType::U8), &[sum, m], Loc::new("q")).expect("well typed")[0];
    g.add_output("sum", sum);
    g.add_output("y", y);
    g
}

fn conv(kernel: usize, stride: usize, pad: usize, group: usize, fill: Option<i64>) -> Conv {
    Conv {
        kernel: vec![kernel; 2],
        strides: vec![stride; 2],
        dilations: vec![1; 2],
        pads: vec![pad; 4],
        group,
        layout: Layout::ChannelsLast,
        fill,
    }
}

/// Dot products and products of tiles in the program, by the dtypes multiplied.
fn dots(p: &Program) -> Vec<(DType, DType)> {
    let mut found = vec![];
    for k in &p.kernels {
        visit_stmts(&k.body, &mut |s| {
            if let Stmt::Tiles(t) = s {
                found.push((k.type_of(&t.x).elem, k.type_of(&t.w).elem));
            }
            s.exprs(&mut |e| {
                e.visit(&mut |e| {
                    if let Expr::Dot(b) = e {
                        found.push((k.type_of(&b[0]).elem, k.type_of(&b[1]).elem));
                    }
                });
            });
        });
    }
    found.sort();
    found.dedup();
    found
}

/// Checks `g` for every target; gives the dot products that each uses.
fn check(g: &Graph) -> Vec<Vec<(DType, DType)>> {
    let node = g.inputs()[0];
    let fact = g.fact(ValueId { node, port: 0 }).clone();
    let input = drawn(fact.dtype, &fact.dims().expect("known"), 9);
    let expected = tenon_ir::eval::run(g, std::slice::from_ref(&input)).expect("runs");
    let run = |name: &&str| {
        let target = Target::parse(name).expect("a target");
        let settings = Settings::new(target, Math::Default, "case");
        let state = tenon_passes::run(g.clone(), &settings, Phase::Planned, &mut |_, _, _| {}).expect("compiles");
        let found = run_program(&state.program, std::slice::from_ref(&input)).expect("runs");
        for (a, b) in found.iter().zip(&expected) {
            assert_eq!(a.fact(), b.fact());
            assert!(a.bytes() == b.bytes(), "{name}: {:?} against {:?}", a.to_i64(), b.to_i64());
        }
        dots(&state.program)
    };
    TARGETS.iter().map(run).collect()
}

#[test]
fn each_machine_multiplies_what_it_can() {
    use DType::{I8, I16, U8};
    let g = graph(conv(1, 1, 0, 1, None), (U8, &[1, 5, 5, 24]), (I8, &[20, 24, 1, 1]), Some(20));
    let pairs = vec![(I16, I16)];
    let expected = [
        pairs.clone(),
        pairs.clone(),
        vec![(U8, I8)],
        vec![(U8, I8)],
        vec![(U8, I8)],
        pairs.clone(),
        vec![(I8, I8)],
        vec![(U8, I8)],
        vec![],
        pairs.clone(),
    ];
    assert_eq!(check(&g), expected);
    let g = graph(conv(1, 1, 0, 1, None), (I8, &[1, 5, 5, 24]), (I8, &[20, 24, 1, 1]), Some(20));
    let expected = [
        pairs.clone(),
        pairs.clone(),
        vec![(U8, I8)],
        vec![(U8, I8)],
        // Tiles take bytes of any sign.
        vec![(I8, I8)],
        pairs.clone(),
        vec![(I8, I8)],
        vec![(I8, I8)],
        vec![],
        pairs,
    ];
    assert_eq!(check(&g), expected);
}

#[test]
fn windows_padding_strides_and_ragged_runs() {
    use DType::{I8, I16, U8};
    check(&graph(conv(3, 1, 1, 1, Some(117)), (U8, &[1, 6, 7, 8]), (I8, &[18, 8, 3, 3]), Some(18)));
    check(&graph(conv(3, 2, 1, 1, None), (U8, &[2, 9, 8, 3]), (I8, &[10, 3, 3, 3]), Some(10)));
    check(&graph(conv(3, 1, 0, 1, None), (I8, &[1, 5, 6, 5]), (I8, &[7, 5, 3, 3]), None));
    check(&graph(conv(2, 1, 0, 2, None), (U8, &[1, 5, 5, 12]), (I8, &[32, 6, 2, 2]), None));
    check(&graph(conv(3, 1, 1, 1, Some(3)), (U8, &[1, 5, 5, 4]), (U8, &[9, 4, 3, 3]), Some(9)));
    check(&graph(conv(1, 1, 0, 1, None), (I16, &[1, 4, 4, 7]), (I16, &[16, 7, 1, 1]), None));
}

#[test]
fn rows_of_every_number_are_split_into_tiles() {
    use DType::{I8, U8};
    // Rows of one loop, which come out even or not; two rows of an image at once; all rows of a small one; more columns than two tiles.
    for rows in [4, 15, 16, 17, 31, 32, 33, 70, 100] {
        check(&graph(MatMul { trans_a: false, trans_b: false }, (U8, &[rows, 20]), (I8, &[20, 9]), None));
    }
    check(&graph(conv(3, 1, 1, 1, Some(7)), (U8, &[1, 15, 13, 8]), (I8, &[40, 8, 3, 3]), Some(40)));
    check(&graph(conv(3, 1, 1, 1, Some(7)), (I8, &[1, 5, 18, 16]), (U8, &[33, 16, 3, 3]), None));
    check(&graph(conv(3, 2, 1, 1, Some(7)), (U8, &[1, 14, 14, 16]), (I8, &[16, 16, 3, 3]), None));
    check(&graph(conv(3, 1, 1, 2, Some(7)), (U8, &[1, 7, 7, 32]), (I8, &[48, 16, 3, 3]), Some(48)));
    check(&graph(conv(1, 1, 0, 1, None), (U8, &[1, 9, 9, 72]), (I8, &[70, 72, 1, 1]), Some(70)));
    // All rows of a smaller one, whose number is odd, so that two even tiles would reach beyond the last.
    for (height, width) in [(3, 5), (5, 3), (3, 6), (4, 4), (3, 9)] {
        check(&graph(conv(3, 1, 1, 1, Some(7)), (U8, &[1, height, width, 16]), (I8, &[32, 16, 3, 3]), Some(32)));
    }
}

/// What reads a table's results pads them, so they lie in the middle of a larger buffer.
#[test]
fn tables_fill_padded_images_without_a_division_an_element() {
    let mut g = Graph::new("case");
    let x = g.add_input("x", Fact::of(DType::U8, &[1, 7, 9, 16]));
    let table = g.add_weight("table", drawn(DType::U8, &[256], 3));
    let v = g.add_op(Lookup {}, &[x, table], Loc::new("table")).expect("well typed")[0];
    let w = g.add_weight("w", drawn(DType::I8, &[24, 16, 3, 3], 5));
    let y = g.add_op(conv(3, 1, 1, 1, Some(7)), &[v, w], Loc::new("sum")).expect("well typed")[0];
    g.add_output("y", y);
    check(&g);
    let settings = Settings::new(Target::parse("sapphire-rapids").expect("a target"), Math::Default, "case");
    let state = tenon_passes::run(g, &settings, Phase::Scheduled, &mut |_, _, _| {}).expect("compiles");
    let kernel = state.program.kernels.iter().find(|k| k.name.starts_with("lookup")).expect("a table").to_string();
    assert!(!kernel.contains(" / ") && !kernel.contains(" % "), "{kernel}");
}

#[test]
fn depthwise_sums_are_exact() {
    use DType::{I8, U8};
    let g = graph(conv(3, 1, 1, 40, Some(9)), (U8, &[1, 6, 6, 40]), (I8, &[40, 1, 3, 3]), Some(40));
    assert!(check(&g).iter().all(Vec::is_empty));
    check(&graph(conv(3, 2, 1, 21, None), (I8, &[1, 7, 7, 21]), (I8, &[21, 1, 3, 3]), Some(21)));
}

#[test]
fn matrix_products() {
    use DType::{I8, U8};
    let mm = |trans_b| MatMul { trans_a: false, trans_b };
    check(&graph(mm(true), (U8, &[1, 50]), (I8, &[10, 50]), None));
    check(&graph(mm(false), (I8, &[7, 33]), (I8, &[33, 40]), None));
    check(&graph(mm(false), (U8, &[2, 5, 16]), (I8, &[16, 9]), None));
}

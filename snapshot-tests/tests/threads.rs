//! Results are the same to the bit for any number of threads, on every sample of every operator and on random graphs. Everything
//! that can be divided is, however small: what the parts cost is set to nothing.

use std::fmt::Write;
use tenon::engine::{Engine, Session};
use tenon::ir::ops::conv::{Conv, Layout};
use tenon::ir::ops::{binary::Binary, matmul::MatMul, softmax::Softmax, unary::Unary};
use tenon::ir::{Graph, Op, Operator, ValueId, ops};
use tenon::jit::Model;
use tenon::passes::plan::plan;
use tenon::passes::threads::{Threads, divide};
use tenon::{Compiled, Compiler, DType, Fact, Loc, Options, Tensor};
use tenon_snapshot_tests::random_graph::random_graph;

/// Divides what can be; gives how many kernels have parts.
fn divided(compiled: &Compiled, count: usize) -> (Compiled, usize) {
    let mut c = compiled.clone();
    let parts = divide(&mut c.program, &Threads { count, fork_join: 0.0, target: &compiled.target });
    plan(&mut c.program);
    (c, parts)
}

/// Runs `graph` on one thread and on several, in the interpreter and if `jit` as machine code; the number of kernels in parts.
fn check(graph: Graph, inputs: Option<Vec<Tensor>>, jit: bool) -> Result<usize, String> {
    let compiler = Compiler::new(Options::host().map_err(|e| e.to_string())?);
    let one = compiler.compile_graph(graph).map_err(|e| e.to_string())?;
    let inputs = inputs.unwrap_or_else(|| one.example_inputs(5));
    let run = |engine: Engine, c: &Compiled| {
        let found = Session::new(engine, c).and_then(|s| s.run(&inputs)).map_err(|e| format!("{engine}: {e}"))?;
        Ok::<Vec<Vec<u8>>, String>(found.iter().map(|t| t.bytes().to_vec()).collect())
    };
    let expected = run(Engine::Kernel, &one)?;
    let mut in_parts = 0;
    // The interpreter runs the last part first, the pool all at once.
    let engines: [&[Engine]; 2] =
        if jit { [&[Engine::Jit], &[Engine::Kernel, Engine::Jit]] } else { [&[Engine::Kernel], &[]] };
    for (count, engines) in [2, 3].into_iter().zip(engines).filter(|(_, e)| !e.is_empty()) {
        let (several, parts) = divided(&one, count);
        if parts == 0 {
            continue;
        }
        in_parts += parts;
        for &engine in engines {
            if run(engine, &several)? != expected {
                return Err(format!("{engine} with {count} threads gives other bits"));
            }
        }
    }
    Ok(in_parts)
}

#[test]
fn every_operator_is_the_same_on_several_threads() {
    let (mut failures, mut total, mut in_parts) = (String::new(), 0, 0);
    for (file, samples) in ops::all_samples() {
        // Compiling takes longer than the rest together: the first sample of each operator is run as machine code.
        for (i, sample) in samples.iter().enumerate() {
            let mut g = Graph::new("sample");
            let ins: Vec<_> =
                sample.ins.iter().enumerate().map(|(i, f)| g.add_input(format!("x{i}"), f.clone())).collect();
            let outs = g.add_op(sample.op.clone(), &ins, Loc::new("op")).expect("a sample is well typed");
            for (i, v) in outs.into_iter().enumerate() {
                g.add_output(format!("y{i}"), v);
            }
            total += 1;
            match check(g, None, i == 0) {
                Ok(parts) => in_parts += usize::from(parts > 0),
                Err(e) => {
                    let _ = writeln!(failures, "{file}: {} {:?}: {e}", sample.op.name(), sample.op.attrs().0);
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
    assert!(in_parts * 2 > total, "only {in_parts} of {total} samples have kernels in parts");
}

#[test]
fn random_graphs_are_the_same_on_several_threads() {
    let mut in_parts = 0;
    for seed in 0..4 {
        let case = random_graph(seed);
        let parts = check(case.graph, Some(case.inputs), true).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        in_parts += usize::from(parts > 0);
    }
    assert!(in_parts > 1, "only {in_parts} graphs have kernels in parts");
}

/// A model with its pool is run by several threads at once; models come and go.
#[test]
fn models_share_and_drop_their_pools() {
    let case = random_graph(3);
    let one =
        Compiler::new(Options::host().expect("a known machine")).compile_graph(case.graph).expect("it compiles");
    let expected = one.jit().expect("it compiles").run(&case.inputs).expect("it runs");
    let (several, _) = divided(&one, 2);
    let models: Vec<Model> = (0..2).map(|_| several.jit().expect("it compiles")).collect();
    std::thread::scope(|s| {
        for t in 0..4 {
            let (model, inputs, expected) = (&models[t % 2], &case.inputs, &expected);
            s.spawn(move || {
                let mut runner = model.runner();
                for _ in 0..50 {
                    let found = runner.run(inputs).expect("it runs");
                    assert!(found.iter().zip(expected).all(|(x, y)| x.bytes() == y.bytes()));
                }
            });
        }
    });
    for _ in 0..20 {
        assert_eq!(several.jit().expect("it compiles").run(&case.inputs).expect("it runs").len(), expected.len());
    }
}

/// Attentions whose scores do not fit into caches, as those of a small machine are taken to be: computed in blocks of rows.
#[test]
fn blocks_of_rows_are_the_same_on_every_engine_and_for_any_number_of_threads() {
    for (heads, queries, keys, size) in [(3, 83, 40, 8), (2, 90, 64, 4), (1, 131, 37, 5)] {
        let mut g = Graph::new("attention");
        let of = |dims: &[usize]| Fact::of(DType::F32, dims);
        let (q, k) = (g.add_input("q", of(&[heads, queries, size])), g.add_input("k", of(&[heads, keys, size])));
        let (v, mask) = (g.add_input("v", of(&[heads, keys, size])), g.add_input("mask", of(&[queries, keys])));
        let mut op = |op: Op, ins: &[ValueId]| g.add_op(op, ins, Loc::none()).expect("well typed")[0];
        let s = op(MatMul { trans_a: false, trans_b: true }.into(), &[q, k]);
        let s = op(Binary::named("add").expect("a function").into(), &[s, mask]);
        let p = op(Softmax { axis: 2, log: false }.into(), &[s]);
        let y = op(MatMul { trans_a: false, trans_b: false }.into(), &[p, v]);
        g.add_output("y", y);
        let mut options = Options::host().expect("a known machine");
        (options.target.caches.l1d, options.target.caches.l2) = (4 << 10, 4 << 10);
        let one = Compiler::new(options).compile_graph(g).expect("it compiles");
        assert_eq!(one.calls().len(), 1, "{heads} heads");
        same_everywhere(&one, &format!("{heads} heads"));
    }
}

/// Convolutions whose images do not fit into caches, as those of a small machine are taken to be: computed in bands of rows.
#[test]
fn bands_of_rows_are_the_same_on_every_engine_and_for_any_number_of_threads() {
    for (height, width, stride, pads) in [(120, 10, 1, [1; 4]), (127, 13, 2, [1, 1, 0, 0]), (150, 9, 1, [0, 1, 2, 1])]
    {
        let mut g = Graph::new("block");
        let x = g.add_input("x", Fact::of(DType::F32, &[1, 5, height, width]));
        let mut conv = |x: ValueId, w: [usize; 4], stride: usize, pads: [usize; 4]| {
            let n = w.iter().product::<usize>();
            let drawn: Vec<f64> = (0..n).map(|i| ((i * 29 + w[0]) % 37) as f64 / 40.0 - 0.4).collect();
            let weight = g.add_weight("", Tensor::from_f64(DType::F32, &w, &drawn));
            let op = Conv {
                kernel: w[2..].to_vec(),
                strides: vec![stride; 2],
                dilations: vec![1; 2],
                pads: pads.to_vec(),
                group: if w[1] == 1 { w[0] } else { 1 },
                layout: Layout::ChannelsFirst,
                fill: None,
            };
            let y = g.add_op(op, &[x, weight], Loc::none()).expect("well typed")[0];
            g.add_op(Op::from(Unary::named("sigmoid").expect("a function")), &[y], Loc::none()).expect("well typed")
                [0]
        };
        let v = conv(x, [18, 5, 1, 1], 1, [0; 4]);
        let v = conv(v, [18, 1, 3, 3], stride, pads);
        let y = conv(v, [5, 18, 1, 1], 1, [0; 4]);
        g.add_output("y", y);
        let mut options = Options::host().expect("a known machine");
        let caches = &mut options.target.caches;
        (caches.l1d, caches.l2, caches.l3) = (48 << 10, 48 << 10, 48 << 10);
        let one = Compiler::new(options).compile_graph(g).expect("it compiles");
        assert!(one.program.kernels.iter().any(|k| k.name.starts_with("conv_conv")), "{height} rows");
        same_everywhere(&one, &format!("{height} rows"));
    }
}

/// Runs `one` on every engine, whole and in parts.
fn same_everywhere(one: &Compiled, what: &str) {
    let inputs = one.example_inputs(5);
    let run = |engine: Engine, c: &Compiled| {
        let found = Session::new(engine, c).and_then(|s| s.run(&inputs)).expect("it runs");
        found.iter().map(|t| t.bytes().to_vec()).collect::<Vec<_>>()
    };
    let expected = run(Engine::Kernel, one);
    for engine in [Engine::Jit, Engine::Object] {
        assert!(run(engine, one) == expected, "{engine}, {what}");
    }
    for count in [2, 3] {
        let (several, parts) = divided(one, count);
        assert!(parts > 0, "{what} are not divided");
        for engine in [Engine::Kernel, Engine::Jit] {
            assert!(run(engine, &several) == expected, "{engine} with {count} threads, {what}");
        }
    }
}

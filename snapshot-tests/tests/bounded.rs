//! Models with bounded dimensions on every engine: one compile for all sizes.

use std::collections::BTreeMap;
use tenon::engine::{Engine, Session};
use tenon::{Compiled, Compiler, DType, Fact, Options, Tensor};
use tenon_cranelift::{AlignedBuf, Jit};
use tenon_ir::{Graph, Tolerance};
use tenon_kernel::Program;
use tenon_snapshot_tests::data::{compare, draw};

const TEXT: &str = r#"
graph g(%x: f32[2,s,4], %w: f32[4,4]) -> ("y": %3, "mean": %4, "n": %5) {
  %0 = matmul(%x, %w) {trans_a=false, trans_b=false}
  %1 = matmul(%0, %x) {trans_a=false, trans_b=true}
  %2 = softmax(%1) {axis=2, log=false}
  %3 = matmul(%2, %x) {trans_a=false, trans_b=false}
  %4 = reduce(%3) {axes=[1], kind="mean"}
  %5 = symbolic() {elements=<[s]>, to=<[1]>}
}
"#;

fn compiled(options: Options) -> Compiled {
    Compiler::new(options).compile_graph(Graph::parse(TEXT).expect("it reads")).expect("it compiles")
}

fn data(n: usize) -> BTreeMap<String, Tensor> {
    let x = draw(&Fact::of(DType::F32, &[2, n, 4]), None, n as u64);
    BTreeMap::from([("x".to_string(), x), ("w".to_string(), draw(&Fact::of(DType::F32, &[4, 4]), None, 1))])
}

fn in_order(c: &Compiled, data: &BTreeMap<String, Tensor>) -> Vec<Tensor> {
    c.program.inputs.iter().map(|i| data[&i.name].clone()).collect()
}

#[test]
fn one_compile_runs_every_size_as_its_own_compile_does() {
    let host = Options::host().expect("this machine is known");
    let any = compiled(host.clone().bound("s", 9));
    assert_eq!(Program::parse(&any.program.to_string()).as_ref(), Ok(&any.program), "the bounds read back");
    for engine in [Engine::Reference, Engine::Kernel, Engine::Jit, Engine::Object] {
        let session = Session::new(engine, &any).expect("it starts");
        for n in [1, 2, 7, 9] {
            let given = data(n);
            let own = compiled(host.clone().bound("s", n as i64));
            let expected = Session::new(Engine::Reference, &own)
                .and_then(|s| s.run(&in_order(&own, &own.fill(&given)?)))
                .expect("it runs");
            let found = session.run(&in_order(&any, &any.fill(&given).expect("it fits"))).expect("it runs");
            assert_eq!(found[0].shape(), [2, n, 4], "{engine}");
            for (x, y) in found.iter().zip(&expected) {
                let c = compare(x, y, Tolerance::SUM, 1.0);
                assert!(c.ok(), "{engine}, size {n}: {c}");
            }
        }
    }
}

const RUNNING: &str = r#"
graph g(%x: f32[s,3], %h: f32[s,3]) -> ("y": %1, "hn": %0) {
  %0 = add(%x, %h)
  %1 = reduce(%0) {axes=[0,1], kind="sum"}
}
"#;

#[test]
fn states_are_kept_for_the_size_of_the_runs() {
    let options = Options::host().expect("this machine is known").bound("s", 5).state("h", "hn");
    let any =
        Compiler::new(options.clone()).compile_graph(Graph::parse(RUNNING).expect("it reads")).expect("it compiles");
    for engine in [Engine::Reference, Engine::Kernel, Engine::Jit, Engine::Object] {
        let session = Session::new(engine, &any).expect("it starts");
        for n in [2, 5, 1] {
            session.reset();
            for step in 1..4 {
                let x = Tensor::full(&[n, 3], tenon_base::Scalar::of_f64(DType::F32, 1.0));
                let filled = any.fill(&BTreeMap::from([("x".to_string(), x)])).expect("it fits");
                let found = session.run(&in_order(&any, &filled)).expect("it runs");
                assert_eq!(found[0].to_f64(), [(3 * n * step) as f64], "{engine}, size {n}, step {step}");
            }
        }
    }
    // Another shape every time is no state.
    let grown = RUNNING.replace("%h: f32[s,3]", "%h: f32[1,3]");
    let e = Compiler::new(options).compile_graph(Graph::parse(&grown).expect("it reads")).expect_err("another shape");
    assert!(e.to_string().contains("h is [1,3], hn is [s,3]"), "{e}");
}

#[test]
fn sizes_beyond_the_bound_are_refused() {
    let any = compiled(Options::host().expect("this machine is known").bound("s", 9));
    let e = any.fill(&data(10)).expect_err("too large").to_string();
    assert!(e.contains("dimension `s` is 10: expected 1 to 9"), "{e}");
    let mut filled = any.fill(&data(3)).expect("it fits");
    for size in [0, 10, -1, i64::MIN] {
        filled.insert("s".into(), Tensor::new(&[], &[size]));
        for engine in [Engine::Reference, Engine::Kernel, Engine::Jit] {
            let e = Session::new(engine, &any).and_then(|s| s.run(&in_order(&any, &filled)));
            assert!(e.expect_err("refused").to_string().contains("expected 1 to 9"));
        }
        // The entry point itself, which applications call.
        let jit = Jit::new(&any.program, &any.target).expect("it compiles");
        let aligned = |t: &Tensor| {
            let mut a = AlignedBuf::new(t.bytes().len());
            a.as_mut_slice().copy_from_slice(t.bytes());
            a
        };
        let ins: Vec<AlignedBuf> = in_order(&any, &filled).iter().map(aligned).collect();
        let ins: Vec<&[u8]> = ins.iter().map(AlignedBuf::as_slice).collect();
        let room = |dims: Vec<usize>| AlignedBuf::new(8 * dims.iter().product::<usize>());
        let mut outs: Vec<AlignedBuf> =
            any.program.outputs.iter().map(|o| room(o.fact.dims().expect("known"))).collect();
        let mut outs: Vec<&mut [u8]> = outs
            .iter_mut()
            .zip(&any.program.outputs)
            .map(|(a, o)| {
                let bytes = o.fact.dims().expect("known").iter().product::<usize>() * o.fact.dtype.size();
                &mut a.as_mut_slice()[..bytes]
            })
            .collect();
        let mut arena = AlignedBuf::new(any.program.arena_bytes);
        let status = jit.run(&ins, &mut outs, &mut arena).expect_err("refused");
        assert_eq!(format!("{status:?}"), "WrongLength");
    }
}

//! Branches and loops on every engine: each case is a graph, inputs, and what must come out.

use tenon::engine::{Engine, Session};
use tenon::ir::Graph;
use tenon::{Compiler, Options, Tensor};

/// Compiles `text` and runs it on each of `runs`, one after the other on every engine.
fn check(text: &str, states: &[(&str, &str)], runs: &[(Vec<Tensor>, Vec<Tensor>)]) {
    let graph = Graph::parse(text).unwrap_or_else(|e| panic!("{e}"));
    assert!(Graph::parse(&graph.to_string()).is_ok_and(|g| g.same_as(&graph)), "the text does not read back");
    let mut options = Options::host().expect("a known machine");
    for (i, o) in states {
        options = options.state(*i, *o);
    }
    let compiled = Compiler::new(options).compile_graph(graph).unwrap_or_else(|e| panic!("{e}"));
    let program = compiled.program.to_string();
    assert_eq!(tenon::kernel::Program::parse(&program).as_ref(), Ok(&compiled.program), "{program}");
    for engine in Engine::ALL {
        let session = Session::new(engine, &compiled).unwrap_or_else(|e| panic!("{engine}: {e}"));
        for (k, (inputs, expected)) in runs.iter().enumerate() {
            let found = session.run(inputs).unwrap_or_else(|e| panic!("{engine}: run {k}: {e}"));
            assert_eq!(&found, expected, "{engine}: run {k}\n{program}");
        }
    }
}

fn f(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::new(shape, values)
}

#[test]
fn only_one_side_of_a_branch_gives_its_values() {
    // Shared by both sides, used in one, nested, a side that is an input, a side that is a constant.
    let text = r#"
graph g(%x: f32[2], %a: bool[], %b: bool[]) -> ("y": %9, "z": %10, "x2": %0) {
  %0 = mul(%x, %x)
  %1 = neg(%0)
  %2 = add(%0, %x)
  %3 = abs(%1)
  %4 = weight : f32[2] = [7.0, 8.0]
  %5 = if(%b, %2, %4)
  %6 = add(%5, %1)
  %9, %10 = if(%a, %6, %x, %4, %3)
}"#;
    let x = f(&[2], &[0.0, 2.0]);
    let run = |a: bool, b: bool, y: [f32; 2], z: [f32; 2]| {
        let inputs = vec![x.clone(), Tensor::scalar(a), Tensor::scalar(b)];
        (inputs, vec![f(&[2], &y), f(&[2], &z), f(&[2], &[0.0, 4.0])])
    };
    check(
        text,
        &[],
        &[
            run(true, true, [0.0, 2.0], [0.0, 2.0]),
            run(true, false, [7.0, 4.0], [0.0, 2.0]),
            run(false, true, [7.0, 8.0], [0.0, 4.0]),
            run(false, false, [7.0, 8.0], [0.0, 4.0]),
        ],
    );
}

#[test]
fn a_loop_carries_and_stacks() {
    // Two variables that change places, a sum of rows of a table, and every state kept; ended by count or condition.
    let text = r#"
graph g(%n: i64[], %go: bool[], %table: f32[4,2], %limit: f32[]) -> ("a": %1, "b": %2, "sum": %3) {
  %0 = weight : f32[2] = [0.0, 0.0]
  %p = weight : f32[] = [1.0]
  %q = weight : f32[] = [2.0]
  %1, %2, %3 = loop(%n, %go, %p, %q, %0, %table, %limit) {body=graph body(%i: i64[], %a: f32[], %b: f32[], %s: f32[2], %t: f32[4,2], %l: f32[]) -> ("more": %4, "x": %b, "y": %a, "s": %1) {
      %0 = gather(%t, %i) {axis=0}
      %1 = add(%s, %0)
      %2 = weight : i64[] = [0]
      %3 = gather(%1, %2) {axis=0}
      %4 = less(%3, %l)
    }, carried=3, trips=<[]>}
}"#;
    let table = f(&[4, 2], &[1.0, 10.0, 2.0, 20.0, 3.0, 30.0, 4.0, 40.0]);
    let run = |n: i64, go: bool, limit: f32, a: f32, b: f32, sum: [f32; 2]| {
        let inputs = vec![Tensor::scalar(n), Tensor::scalar(go), table.clone(), Tensor::scalar(limit)];
        (inputs, vec![Tensor::scalar(a), Tensor::scalar(b), f(&[2], &sum)])
    };
    check(
        text,
        &[],
        &[
            run(3, true, 100.0, 2.0, 1.0, [6.0, 60.0]),
            run(2, true, 100.0, 1.0, 2.0, [3.0, 30.0]),
            run(4, true, 3.0, 1.0, 2.0, [3.0, 30.0]),
            run(4, false, 3.0, 1.0, 2.0, [0.0, 0.0]),
            run(-1, true, 3.0, 1.0, 2.0, [0.0, 0.0]),
        ],
    );
}

#[test]
fn rows_are_stacked_and_loops_nest_in_branches() {
    let text = r#"
graph g(%x: f32[3], %c: bool[]) -> ("y": %6, "rows": %4) {
  %0 = weight : i64[] = [3]
  %1 = weight : bool[] = [true]
  %2 = weight : f32[] = [1.0]
  %3, %4 = loop(%0, %1, %2, %x) {body=graph body(%i: i64[], %v: f32[], %x: f32[3]) -> ("more": %0, "v": %3, "row": %4) {
      %0 = weight : bool[] = [true]
      %1 = gather(%x, %i) {axis=0}
      %2 = greater(%1, %v)
      %5 = weight : f32[] = [10.0]
      %6 = mul(%1, %5)
      %3 = if(%2, %6, %v)
      %4 = mul(%x, %3)
    }, carried=1, trips=<[3]>}
  %5 = neg(%3)
  %6 = if(%c, %5, %3)
}"#;
    // 2 > 1, so v becomes 20; neither 3 nor 4 is above that.
    let rows = f(&[3, 3], &[40.0, 60.0, 80.0, 40.0, 60.0, 80.0, 40.0, 60.0, 80.0]);
    let x = f(&[3], &[2.0, 3.0, 4.0]);
    check(
        text,
        &[],
        &[
            (vec![x.clone(), Tensor::scalar(true)], vec![Tensor::scalar(-20f32), rows.clone()]),
            (vec![x, Tensor::scalar(false)], vec![Tensor::scalar(20f32), rows]),
        ],
    );
}

#[test]
fn states_are_kept_from_run_to_run() {
    // Two states that change places, and an output that shows one as it was.
    let text = r#"
graph g(%x: f32[2], %h: f32[2], %k: f32[2]) -> ("was": %1, "h2": %0, "k2": %2) {
  %0 = add(%x, %k)
  %1 = reshape(%h) {to=<[1,2]>}
  %2 = reshape(%h) {to=<[2]>}
}"#;
    let x = f(&[2], &[1.0, 2.0]);
    let run = |was: [f32; 2]| (vec![x.clone()], vec![f(&[1, 2], &was)]);
    // h, k = x + k, h
    let runs = [run([0.0, 0.0]), run([1.0, 2.0]), run([1.0, 2.0]), run([2.0, 4.0])];
    check(text, &[("h", "h2"), ("k", "k2")], &runs);
    let compile = |i: &str, o: &str| {
        let options = Options::host().expect("a known machine").state(i, o);
        let e = Compiler::new(options).compile_graph(Graph::parse(text).expect("a graph"));
        e.expect_err("no such pair").to_string()
    };
    assert!(compile("h", "was").contains("the input is f32[2], the output f32[1,2]"), "{}", compile("h", "was"));
    assert!(compile("z", "was").contains("the model has no input `z`"));
    assert!(compile("h", "z").contains("the model has no output `z`"));
}

/// Compiles and runs a program with `command`; gives what it prints.
fn built(command: &mut std::process::Command, program: &std::path::Path) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    let out = std::process::Command::new(program).output().expect("it runs");
    assert!(out.status.success(), "{program:?}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn applications_set_save_and_bring_back_the_state() {
    let graph = Graph::parse(r#"graph g(%x: f32[1], %h: f32[1]) -> ("y": %0, "h2": %0) { %0 = add(%x, %h) }"#);
    let options = Options::host().expect("a known machine").state("h", "h2").name("acc");
    let compiled = Compiler::new(options).compile_graph(graph.expect("a graph")).expect("it compiles");
    let folder = tempfile::tempdir().expect("a folder");
    compiled.artifact().expect("an artifact").write_to(folder.path()).expect("written");
    let path = |name: &str| folder.path().join(name);
    std::fs::write(
        path("main.c"),
        r#"#include <stdio.h>
#include "acc.h"
static _Alignas(64) unsigned char arena[ACC_ARENA_BYTES];
static unsigned char saved[ACC_STATE_BYTES];
static float run(float x) {
    float y = -1;
    acc_inputs in = { &x };
    acc_outputs out = { &y };
    return acc_run(&in, &out, arena, 0) == TENON_OK ? y : -2;
}
int main(void) {
    arena[ACC_STATE_H_OFFSET] = 77;
    acc_state_init(arena);
    printf("%g ", run(1));
    printf("%g ", run(2));
    acc_state_save(arena, saved);
    printf("%g ", run(4));
    acc_state_load(arena, saved);
    printf("%g ", run(5));
    acc_state_init(arena);
    printf("%g\n", run(6));
    return 0;
}
"#,
    )
    .expect("written");
    let cc = std::env::var_os("CC").filter(|c| !c.is_empty()).unwrap_or_else(|| "cc".into());
    let mut c = std::process::Command::new(cc);
    c.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-o"]).args(["c", "main.c", "acc.o"].map(path));
    assert_eq!(built(&mut c, &path("c")), "1 3 7 8 6\n");
    std::fs::write(
        path("main.rs"),
        r#"include!("acc.rs");
fn main() {
    let mut m = Acc::new();
    let run = |m: &mut Acc, x: f32| m.run(&[x]).unwrap()[0];
    let (a, b) = (run(&mut m, 1.0), run(&mut m, 2.0));
    let saved = m.snapshot();
    let c = run(&mut m, 4.0);
    m.restore(&saved);
    let d = run(&mut m, 5.0);
    m.reset();
    println!("{a} {b} {c} {d} {}", run(&mut m, 6.0));
}
"#,
    )
    .expect("written");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut rust = std::process::Command::new(rustc);
    let link = format!("link-arg={}", path("acc.o").display());
    rust.args(["--edition", "2024", "-C"]).arg(link).arg("-o").args(["r", "main.rs"].map(path));
    assert_eq!(built(&mut rust, &path("r")), "1 3 7 8 6\n");
}

#[test]
fn extents_that_depend_on_data_are_told() {
    let text = r#"
graph g(%x: f32[2,3]) -> ("where": %0 sized "where_dims", "where_dims": %4) {
  %0, %1 = nonzero(%x)
  %2 = weight : i64[1] = [2]
  %3 = reshape(%1) {to=<[1]>}
  %4 = concat(%2, %3) {axis=0}
}"#;
    let run = |x: [f32; 6], found: &[i64]| {
        let n = found.len() / 2;
        let dims = Tensor::new(&[2], &[2, n as i64]);
        (vec![f(&[2, 3], &x)], vec![Tensor::new(&[2, n], found), dims])
    };
    check(
        text,
        &[],
        &[
            run([0.0, 1.0, 0.0, 2.0, 0.0, -1.0], &[0, 1, 1, 1, 0, 2]),
            run([0.0; 6], &[]),
            run([1.0; 6], &[0, 0, 0, 1, 1, 1, 0, 1, 2, 0, 1, 2]),
        ],
    );
    let compiled = Compiler::new(Options::host().expect("a known machine"));
    let compiled = compiled.compile_graph(Graph::parse(text).expect("a graph")).expect("it compiles");
    assert_eq!(compiled.program.own_outputs(), [0]);
}

#[test]
fn what_data_count_is_computed_with() {
    // What is above 0: how much it is in all, what is best, where it goes, what is behind it. The order of elements is kept.
    let text = r#"
graph g(%x: f32[6], %t: f32[4]) -> ("sum": %6, "max": %7, "best": %9, "joined": %10, "spread": %12, "n": %13) {
  %0 = weight : f32[] = [0.0]
  %1 = less(%0, %x)
  %2, %3 = nonzero(%1)
  %4 = cut(%2, %3) {axis=1, to=<[1,n]>}
  %at = reshape(%4) {to=<[n]>}
  %5 = gather(%x, %at) {axis=0}
  %6 = reduce(%5) {axes=[0], kind="sum"}
  %7 = reduce(%5) {axes=[0], kind="max"}
  %8, %i = top_k(%5) {axis=0, k=2, largest=true}
  %9 = slice(%8) {starts=[0], steps=[1], to=<[min(n, 2)]>}
  %10 = concat(%5, %t) {axis=0}
  %11 = weight : f32[6] = [9.0, 9.0, 9.0, 9.0, 9.0, 9.0]
  %12 = scatter_elements(%11, %at, %5) {axis=0, reduction="add"}
  %13 = symbolic() {elements=<[n]>, to=<[]>}
}"#;
    let t = [-1.0, -2.0, -3.0, -4.0];
    let run = |x: [f32; 6], best: &[f32]| {
        let kept: Vec<f32> = x.iter().copied().filter(|v| *v > 0.0).collect();
        let count = |n: usize| Tensor::new(&[1], &[n as i64]);
        let spread: Vec<f32> = x.iter().map(|v| v.max(0.0) + 9.0).collect();
        let max = kept.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let joined: Vec<f32> = kept.iter().copied().chain(t).collect();
        let outputs = vec![
            f(&[1], &[kept.iter().sum::<f32>() + 0.0]),
            f(&[1], &[max]),
            f(&[best.len()], best),
            f(&[joined.len()], &joined),
            f(&[6], &spread),
            Tensor::scalar(kept.len() as i64),
            count(best.len()),
            count(joined.len()),
        ];
        (vec![f(&[6], &x), f(&[4], &t)], outputs)
    };
    check(
        text,
        &[],
        &[
            run([0.0, 1.0, -5.0, 2.0, 0.5, -1.0], &[2.0, 1.0]),
            run([0.0, 0.0, -5.0, 0.0, 0.5, -1.0], &[0.5]),
            run([0.0; 6], &[]),
            run([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[6.0, 5.0]),
        ],
    );
}

#[test]
fn boxes_that_data_choose_are_suppressed() {
    // Boxes 1, 2 and 4 count; 2 overlaps 1, whose score is higher.
    let text = r#"
graph g(%b: f32[5,4], %s: f32[5]) -> ("kept": %11) {
  %0 = weight : f32[] = [0.5]
  %1 = less(%0, %s)
  %2, %3 = nonzero(%1)
  %4 = cut(%2, %3) {axis=1, to=<[1,n]>}
  %5 = reshape(%4) {to=<[n]>}
  %6 = gather(%b, %5) {axis=0}
  %boxes = reshape(%6) {to=<[1,n,4]>}
  %7 = gather(%s, %5) {axis=0}
  %scores = reshape(%7) {to=<[1,1,n]>}
  %8 = weight : i64[] = [5]
  %none = weight : f32[] = [0.0]
  %9, %10 = non_max_suppression(%boxes, %scores, %8, %0, %none) {center=false, most=5}
  %11 = cut(%9, %10) {axis=0, to=<[m,3]>}
}"#;
    let boxes = [0., 0., 1., 1., 0., 0., 2., 2., 0., 0., 2., 1.9, 0., 0., 1., 1., 5., 5., 6., 6.];
    let run = |scores: [f32; 5], kept: &[i64]| {
        let rows: Vec<i64> = kept.iter().flat_map(|k| [0, 0, *k]).collect();
        let dims = Tensor::new(&[2], &[kept.len() as i64, 3]);
        (vec![f(&[5, 4], &boxes), f(&[5], &scores)], vec![Tensor::new(&[kept.len(), 3], &rows), dims])
    };
    check(
        text,
        &[],
        &[run([0.1, 0.9, 0.8, 0.2, 0.7], &[0, 2]), run([0.1; 5], &[]), run([0.6, 0.9, 0.8, 0.2, 0.7], &[1, 3, 0])],
    );
}

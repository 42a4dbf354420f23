//! Branches and loops of programs: text, interpreter, verifier, lifetimes.

use tenon_base::Tensor;
use tenon_kernel::{Program, Stage, run_program, verify_program};

/// `v += x` up to `n` times while `v < 10`, then doubled or negated; every `v` is kept.
const PROGRAM: &str = r#"program p {
  input "x": f32[]
  input "n": i64[]
  input "flip": bool[]
  output "y": f32[]
  output "all": f32[4]
  buffer %x: f32[1] = input 0
  buffer %n: i64[1] = input 1
  buffer %flip: bool[1] = input 2
  buffer %y: f32[1] = output 0
  buffer %all: f32[4] = output 1
  buffer %v: f32[1] = arena
  buffer %w: f32[1] = arena
  buffer %more: bool[1] = arena
  buffer %i: i64[1] = arena

  kernel begin(out %v: f32[1], out %more: bool[1], out %all: f32[4]) {
    store %v[0] = 0.0
    store %more[0] = true
    for %j in 0..4 {
      store %all[%j] = 0.0
    }
  }

  kernel body(in %x: f32[1], in %i: i64[1], inout %v: f32[1], out %more: bool[1], inout %all: f32[4]) {
    let %w = load %v[0] + load %x[0]
    store %v[0] = %w
    store %more[0] = %w < 10.0
    store %all[min(max(load %i[0], 0), 3)] = %w
  }

  kernel double(in %v: f32[1], out %y: f32[1]) {
    store %y[0] = load %v[0] * 2.0
  }

  kernel negate(in %v: f32[1], out %y: f32[1]) {
    store %y[0] = -load %v[0]
  }

  call begin(%v, %more, %all)
  loop %i to %n while %more {
    call body(%x, %i, %v, %more, %all)
  } @ "Loop_0"
  if %flip {
    call negate(%v, %y)
  } else {
    call double(%v, %y)
  } @ "If_1"
}
"#;

fn run(x: f32, n: i64, flip: bool) -> (f32, Vec<f32>) {
    let p = Program::parse(PROGRAM).unwrap_or_else(|e| panic!("{e}"));
    let out = run_program(&p, &[Tensor::scalar(x), Tensor::scalar(n), Tensor::scalar(flip)]).unwrap();
    (out[0].to_vec::<f32>()[0], out[1].to_vec::<f32>())
}

#[test]
fn steps_round_trip_and_run() {
    let p = Program::parse(PROGRAM).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(p.to_string(), PROGRAM);
    assert_eq!(verify_program(&p, Stage::Structured), Ok(()));
    assert_eq!(p.calls().len(), 4);
    assert_eq!(run(1.5, 3, false), (9.0, vec![1.5, 3.0, 4.5, 0.0]));
    assert_eq!(run(1.5, 3, true), (-4.5, vec![1.5, 3.0, 4.5, 0.0]));
    // The condition ends it before the trip count does.
    assert_eq!(run(6.0, 4, false), (24.0, vec![6.0, 12.0, 0.0, 0.0]));
    for n in [0, -7] {
        assert_eq!(run(6.0, n, false), (0.0, vec![0.0; 4]));
    }
}

#[test]
fn what_a_loop_uses_lives_as_long_as_it() {
    let p = Program::parse(PROGRAM).unwrap();
    let lives = p.timeline().lives(p.buffers.len());
    let life = |name: &str| lives[p.buffers.iter().position(|b| b.name == name).unwrap()];
    // Moments: begin, loop, body, end of the loop, if, negate, double.
    assert_eq!(life("v"), Some((0, 6)));
    assert_eq!(life("more"), Some((0, 3)));
    assert_eq!(life("i"), Some((1, 2)));
    let inner =
        Program::parse(&PROGRAM.replace("call body(%x, %i, %v, %more, %all)\n  }", "call double(%v, %y)\n  }"))
            .unwrap();
    let lives = inner.timeline().lives(inner.buffers.len());
    let y = inner.buffers.iter().position(|b| b.name == "y").unwrap();
    assert_eq!(lives[y], Some((1, 6)));
}

#[test]
fn the_verifier_follows_control() {
    for (from, to, message) in [
        ("loop %i to %n while %more {", "loop %i {", "loop at Loop_0: it has neither a trip count nor a condition"),
        ("if %flip {", "if %x {", "if at If_1: the condition is %x: f32[1], not one bool"),
        ("to %n while", "to %x while", "loop at Loop_0: the trip count is %x: f32[1], not one i64"),
        ("loop %i to", "loop %n to", "loop at Loop_0: it counts in %n, which is not one i64 in the arena"),
        ("    call double(%v, %y)\n", "", "output buffer %y is never written"),
        ("  call begin(%v, %more, %all)\n", "", "loop at Loop_0: the condition is %more, which nothing has written"),
        // What only the body writes is not there after the loop, which may run not once.
        ("call begin(%v, %more, %all)", "call begin(%w, %more, %all)", "reads %v, which nothing has written"),
        ("call double(%v, %y)", "call double(%v, %v)", "share memory"),
    ] {
        let p = Program::parse(&PROGRAM.replacen(from, to, 1)).unwrap_or_else(|e| panic!("{to}: {e}"));
        let found = verify_program(&p, Stage::Structured).err().unwrap_or_default();
        let text: String = found.iter().map(|e| e.to_string() + "\n").collect();
        assert!(text.contains(message), "{to}: {text}");
    }
    // The place of the carried variable is given to something that the body writes.
    let text = PROGRAM
        .replace("  buffer %x:", "  buffer %t: f32[1] = arena@0\n  buffer %x:")
        .replace("program p {\n", "program p {\n  arena 64\n")
        .replace("%v: f32[1] = arena", "%v: f32[1] = arena@0")
        .replace("call body(%x, %i, %v, %more, %all)", "call body(%x, %i, %v, %more, %all)\n    call double(%x, %t)");
    let found = verify_program(&Program::parse(&text).unwrap(), Stage::Structured).unwrap_err();
    assert!(found.iter().any(|e| e.to_string().contains("whose memory call 2 has written over")), "{found:?}");
}

#[test]
fn nesting_is_bounded() {
    let deep = format!("program p {{ {} }}", "if %c { ".repeat(100_000));
    assert!(Program::parse(&deep).is_err());
}

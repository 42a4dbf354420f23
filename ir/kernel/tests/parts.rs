//! Kernels in parts: text, what the verifier proves, in which order they run.

use tenon_base::DType;
use tenon_kernel::interp::Options;
use tenon_kernel::{Kernel, Memory, Stage, run_kernel, verify_kernel};

fn kernel(params: &str, count: usize, body: &str) -> Kernel {
    let text = format!("kernel k({params}) part %p of {count} {{ {body} }}");
    Kernel::parse(&text).unwrap_or_else(|e| panic!("{e}"))
}

const PARAMS: &str = "in %x: f32[64], scratch %t: f32[64], out %y: f32[64]";

fn errors(params: &str, count: usize, body: &str) -> Vec<String> {
    let k = kernel(params, count, body);
    assert_eq!(Kernel::parse(&k.to_string()).as_ref(), Ok(&k), "{k}");
    verify_kernel(&k, Stage::Scheduled).err().unwrap_or_default().into_iter().map(|e| e.message).collect()
}

#[test]
fn text_says_which_part_and_of_how_many() {
    let text = "kernel k(in %x: f32[64], out %y: f32[64]) inplace(%x, %y) part %p of 2 {
  parfor %i in %p * 32..%p * 32 + 32 {
    store %y[%i] = load %x[%i]
  }
}
";
    assert_eq!(Kernel::parse(text).map(|k| k.to_string()).as_deref(), Ok(text));
    // Where variables are listed, the part has its place among them.
    let listed = "kernel k(out %y: f32[2]) part %p of 2 {
  vars %i: i64, %p: i64
  for %i in 0..1 {
    store %y[%p] = 1.0
  }
}
";
    assert_eq!(Kernel::parse(listed).map(|k| k.to_string()).as_deref(), Ok(listed));
    for wrong in ["part %p {", "part of 2 {", "part %p of {", "part %p of -1 {"] {
        assert!(Kernel::parse(&format!("kernel k() {wrong} }}")).is_err(), "{wrong}");
    }
}

#[test]
fn disjoint_parts_are_accepted() {
    for body in [
        // Rows, columns, private copies.
        "parfor %i in %p * 32..%p * 32 + 32 { store %y[%i] = load %x[63 - %i] }",
        "parfor %i in 0..8 { parfor %j in %p * 4..%p * 4 + 4 { store %y[%i * 8 + %j] = 1.0 } }",
        "parfor %j in %p * 4..%p * 4 + 4 { for %i in 0..7 { store %y[%i * 8 + %j + 8] = 1.0 } }",
        "for %i in 0..32 { store %t[%p * 32 + %i] = 1.0 store %y[%p * 32 + %i] = load %t[%p * 32 + 31 - %i] }",
        // Different parts do different things.
        "if %p == 1 { for %i in 0..64 { store %y[%i] = 1.0 } }",
        "for %i in select(%p == 0, 0, 40)..select(%p == 0, 40, 64) { store %y[%i] = 1.0 }",
        // Tiles of an image: told apart by computing all indices.
        "for %t in %p * 8..%p * 8 + 8 { for %j in 0..4 { store %y[%t / 4 * 16 + %j * 4 + %t % 4] = 1.0 } }",
        "for %t in select(%p == 0, 0, 7)..select(%p == 0, 7, 16) {
           let %r = %t / 4 let %c = %t % 4
           for %j in 0..4 { store %y[%r * 16 + %j * 4 + %c] = 1.0 } }",
    ] {
        assert_eq!(errors(PARAMS, 2, body), [] as [&str; 0], "{body}");
    }
}

#[test]
fn parts_that_meet_are_refused() {
    for (body, buffer) in [
        ("for %i in 0..64 { store %y[%i] = 1.0 }", "%y"),
        ("for %i in %p * 31..%p * 31 + 32 { store %y[%i] = 1.0 }", "%y"),
        ("for %i in %p * 32..%p * 32 + 25 step 8 { store %y[%i] = splat8(1.0) }", ""),
        ("for %i in %p * 31..%p * 31 + 25 step 8 { store %y[%i] = splat8(1.0) }", "%y"),
        // One reads what the other writes.
        ("for %i in %p * 32..%p * 32 + 32 { store %t[%i] = 1.0 store %y[%i] = load %t[63 - %i] }", "%t"),
        ("for %t in %p * 7..%p * 7 + 9 { store %y[%t / 4 * 16 + %t % 4] = 1.0 }", "%y"),
        ("for %i in %p * 32..%p * 32 + 32 { store %y[%i % 8] = 1.0 }", "%y"),
        // What depends on data is not known.
        ("store %y[max(min(i64(load %x[%p]), 63), 0)] = 1.0", "%y"),
    ] {
        let found = errors(PARAMS, 2, body);
        if buffer.is_empty() {
            assert_eq!(found, [] as [&str; 0], "{body}");
        } else {
            assert!(found.iter().any(|e| e.contains("two parts") && e.contains(buffer)), "{body}: {found:?}");
        }
    }
    let out = errors(PARAMS, 2, "for %i in 0..33 { store %y[%p * 32 + %i] = 1.0 }");
    assert!(out.iter().any(|e| e.contains("part 1") && e.contains("%y")), "{out:?}");
    assert!(errors(PARAMS, 65, "").iter().any(|e| e.contains("65 parts")));
    assert!(errors(PARAMS, 0, "").iter().any(|e| e.contains("0 parts")));
    // Memory that may be shared counts as one.
    let shift = "for %i in %p * 32..%p * 32 + 32 { store %y[%i] = load %x[63 - %i] }";
    assert!(errors("in %x: f32[64], out %y: f32[64]", 2, shift).is_empty());
    let mut k = kernel("in %x: f32[64], out %y: f32[64]", 2, shift);
    k.in_place = vec![(tenon_kernel::Buf(0), tenon_kernel::Buf(1))];
    assert!(verify_kernel(&k, Stage::Scheduled).is_err());
}

#[test]
fn a_proof_by_computing_ends() {
    // Nothing is touched in all these iterations.
    let idle = "for %a in 0..4000000000000000 { for %b in %t / 4..%t / 5 { store %y[%b] = 1.0 } }";
    let body = format!("for %t in %p * 8..%p * 8 + 8 {{ store %y[%t / 4 * 16 + %t % 4] = 1.0 {idle} }}");
    let found = errors(PARAMS, 2, &body);
    assert!(found.iter().any(|e| e.contains("two parts")), "{found:?}");
}

#[test]
fn the_interpreter_runs_the_last_part_first() {
    let k = kernel(
        "inout %n: i64[3], out %y: i64[4]",
        4,
        "store %y[%p] = load %n[0] let %m = load %n[0] + 1 store %n[0] = %m",
    );
    let mut memory = [Memory::poisoned(DType::I64, 3), Memory::poisoned(DType::I64, 4)];
    memory[0].bytes.fill(0);
    run_kernel(&k, &mut memory, &Options::default()).expect("it runs");
    let y: Vec<i64> = memory[1].bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8"))).collect();
    assert_eq!(y, [3, 2, 1, 0], "such a kernel does not verify");
    assert!(verify_kernel(&k, Stage::Scheduled).is_err());
}

#[test]
fn a_part_is_a_kernel_with_its_own_bounds() {
    let k = kernel(
        "out %y: f32[64]",
        2,
        "parfor %i in select(%p == 0, 0, 40)..select(%p == 0, 40, 64) { store %y[%i] = 1.0 } if %p == 1 { store %y[0] = 1.0 }",
    );
    let text = k.part(0).to_string();
    assert!(text.contains("0..40") && !text.contains("%y[0]") && !text.contains("part"), "{text}");
    assert!(k.part(1).to_string().contains("40..64"));
}

//! Damaged text: the parsers of graphs, kernels and programs give a result or an error, never a panic, whatever becomes of the
//! corpus' files. `fuzz/` does the same for as long as one likes, guided by coverage.

use proptest::prelude::*;
use std::path::Path;
use std::sync::LazyLock;
use tenon_ir::{Graph, verify};
use tenon_kernel::text::{PrintOptions, print_program};
use tenon_kernel::verify::{Stage, verify_kernel, verify_program};
use tenon_kernel::{Kernel, Program};
use tenon_snapshot_tests::places::repository;

/// All files of the corpus that hold text of one of the languages.
static SEEDS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut all = vec![PROGRAM.to_string()];
    collect(&repository().join("snapshot-tests/corpus"), &mut all);
    all.sort();
    assert!(all.len() > 10, "the corpus was found");
    all
});

const PROGRAM: &str = r#"program p {
  fma
  arena 128
  input "x": f32[2,2]
  output "y": f32[4]
  buffer %x: f32[4] = input 0
  buffer %w: f32[4] = const [1.0, -2.5, inf, 1e-7]
  buffer %n: u8[17] = const hex"000102030405060708090a0b0c0d0e0fff"
  buffer %t: f32[4] = arena@64
  buffer %y: f32[4] = output 0

  kernel mul(in %x: f32[4], in %w: f32[4], out %y: f32[4]) inplace(%x, %y) {
    parfor %i in 0..4 step 4 {
      store %y[%i] = fma(load4 %x[%i], load4 %w[%i], splat4(0.5))
    }
  }

  call mul(%x, %w, %t) @ "Mul_0"
  call mul(%t, %w, %y)
}
"#;

fn collect(folder: &Path, out: &mut Vec<String>) {
    for e in std::fs::read_dir(folder).expect("the corpus can be read").flatten() {
        let path = e.path();
        if path.is_dir() {
            collect(&path, out);
        } else if path.extension().is_some_and(|e| e == "tir" || e == "tk") {
            out.extend(std::fs::read_to_string(path));
        }
    }
}

/// One edit of a text; places are fractions of its characters.
#[derive(Clone, Debug)]
enum Edit {
    Remove(f64, usize),
    Repeat(f64, usize, usize),
    Insert(f64, &'static str),
    Number(f64, &'static str),
    Copy(f64, f64, usize),
}

/// Tokens that mean something somewhere.
const TOKENS: [&str; 30] = [
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "=",
    "..",
    "-",
    "*",
    "%",
    "\"",
    "@",
    "<",
    "hex",
    "f32",
    "for",
    "if",
    "while",
    "load9",
    "splat65535",
    "weight",
    "const",
    "arena",
    "call",
    "\u{0}",
    "é",
    "//",
];

/// Numbers that are negative, huge or neither.
const NUMBERS: [&str; 8] =
    ["-1", "0", "65536", "4294967296", "9223372036854775807", "18446744073709551616", "1e400", "-0.0"];

fn edits() -> impl Strategy<Value = Edit> {
    let at = || 0.0..1.0f64;
    prop_oneof![
        (at(), 1usize..30).prop_map(|(p, n)| Edit::Remove(p, n)),
        (at(), 1usize..40, 2usize..200).prop_map(|(p, n, k)| Edit::Repeat(p, n, k)),
        (at(), prop::sample::select(&TOKENS[..])).prop_map(|(p, t)| Edit::Insert(p, t)),
        (at(), prop::sample::select(&NUMBERS[..])).prop_map(|(p, t)| Edit::Number(p, t)),
        (at(), at(), 1usize..60).prop_map(|(a, b, n)| Edit::Copy(a, b, n)),
    ]
}

fn apply(text: &mut Vec<char>, e: &Edit) {
    let len = text.len();
    let place = |p: f64| ((p * len as f64) as usize).min(len);
    let span = |p: f64, n: usize| place(p)..(place(p) + n).min(len);
    match e {
        Edit::Remove(p, n) => drop(text.drain(span(*p, *n))),
        Edit::Repeat(p, n, k) => {
            let copy = text[span(*p, *n)].repeat(*k);
            text.splice(place(*p)..place(*p), copy);
        }
        Edit::Insert(p, t) => drop(text.splice(place(*p)..place(*p), t.chars())),
        Edit::Number(p, t) => {
            // The next number from there on.
            if let Some(from) = (place(*p)..len).find(|i| text[*i].is_ascii_digit()) {
                let to = (from..len).find(|i| !text[*i].is_ascii_digit()).unwrap_or(len);
                text.splice(from..to, t.chars());
            }
        }
        Edit::Copy(a, b, n) => {
            let copy = text[span(*a, *n)].to_vec();
            text.splice(place(*b)..place(*b), copy);
        }
    }
}

/// Reads `text` as everything; what reads must print and read back, and verifiers must take it.
fn try_all(text: &str) {
    match Graph::parse(text) {
        Ok(g) if verify(&g).is_ok() => {
            let back = Graph::parse(&g.to_string());
            assert!(back.is_ok_and(|b| b.same_as(&g)), "{g}");
        }
        Ok(_) => {}
        Err(e) => assert!(e.to_string().len() < 10_000, "the message is too long"),
    }
    if let Ok(k) = Kernel::parse(text) {
        assert_eq!(Kernel::parse(&k.to_string()).as_ref(), Ok(&k));
        let _ = (verify_kernel(&k, Stage::Structured), verify_kernel(&k, Stage::Scheduled));
    }
    if let Ok(p) = Program::parse(text) {
        let printed = print_program(&p, &PrintOptions { longest_const: None });
        assert_eq!(Program::parse(&printed).as_ref(), Ok(&p));
        let _ = (verify_program(&p, Stage::Structured), verify_program(&p, Stage::Scheduled));
    }
}

#[test]
fn the_seeds_are_read() {
    assert!(Program::parse(PROGRAM).is_ok());
    SEEDS.iter().for_each(|s| try_all(s));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn mutated_text_gives_a_result_or_an_error(
        seed in any::<prop::sample::Index>(),
        changes in prop::collection::vec(edits(), 1..5),
    ) {
        let mut text: Vec<char> = seed.get(&SEEDS).chars().collect();
        for e in &changes {
            apply(&mut text, e);
        }
        try_all(&text.into_iter().collect::<String>());
    }
}

/// Nothing nests so deep that the stack overflows, and nothing is allocated because a number says so.
#[test]
fn depth_and_declared_sizes_are_harmless() {
    let n = 200_000;
    for text in [
        format!("kernel k(out %y: f32[1]) {{ store %y[0] = {}1.0", "(".repeat(n)),
        format!("kernel k(out %y: f32[1]) {{ store %y[0] = {}1.0", "-".repeat(n)),
        format!("kernel k(out %y: f32[1]) {{ store %y[0] = {}1.0", "exp(".repeat(n)),
        format!("kernel k(out %y: f32[1]) {{ store %y[0] = 1.0{} }}", " + 1.0".repeat(n)),
        format!("kernel k(out %y: f32[1]) {{ {}", "if true { ".repeat(n)),
        format!("kernel k(out %y: f32[1]) {{ {}", "while true { ".repeat(n)),
        format!("program p {{ {}", "kernel k(".repeat(n)),
        format!("program p {{ buffer %b: f32[{}] = const ({}) []", usize::MAX, "9,".repeat(n)),
        format!("program p {{ input \"x\": f32[{0},{0},{0}] buffer %x: f64[{0}] = input 0 }}", usize::MAX),
        format!("graph g(%x: f32[{}", "div(".repeat(n)),
        format!("graph g(%x: f32[{}", "1,".repeat(n)),
        format!("graph g(%x: f32[{0},{0},{0}]) -> (\"y\": %1) {{ %1 = relu(%x) }}", i64::MAX),
        format!("graph g() -> () {{ %1 = weight : f64[{0},{0}] = [] }}", i64::MAX),
        format!(
            "graph g(%x: f32[1,2,8], %w: f32[3,2,3]) -> (\"y\": %0) {{ %0 = conv(%x, %w) {{dilations=[{}], group=1, kernel=[3], \
             layout=\"nchw\", pads=[1,1], strides=[2]}} }}",
            i64::MAX
        ),
        format!("graph g() -> () {{ %1 = weight : u8[3] = hex\"{}", "0".repeat(n)),
    ] {
        try_all(&text);
    }
}

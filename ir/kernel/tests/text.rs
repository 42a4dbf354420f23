//! The text form: what it looks like, and errors.

use tenon_kernel::text::{MAX_DEPTH, PrintOptions, print_program};
use tenon_kernel::{Kernel, Program};

#[test]
fn canonical_text_stays() {
    for text in [
        "kernel k() {\n}\n",
        r#"kernel every(in %x: f32[64], in %"node/Conv_0:0": i32[8], scratch %t: f16[8], out %y: f32[64]) inplace(%x, %y) {
  parfor %i in 0..64 step 8 {
    let %v = load8 %x[%i]
    var %s = reduce_add(%v)
    %s = fma(%s, 1.5, -inf) * -2.0 - -(%s - nan)
    store %y[%i + 0] = select(%v > splat8(0.5), max(%v, splat8(%s)), -%v)
    if (%s < 1.0) & not(%s == nan_f32(0xffc00001)) | true {
      store %t[(%i - 2) * 3 % 8 - (%i - (%i - 1))] = f16(extract(%v, 7))
    } else {
      while %s >= 1e-7 {
        %s = exp(pow(%s, 2.0)) / bitcast_f32(load %"node/Conv_0:0"[3] << 2i32 ^ 1i32)
      }
    }
  }
  let %c.d = lanes(1u8, 255u8, u8(inf_f64))
  for %j in -9223372036854775808..i64(extract(%c.d, 0)) {
    var %h = 1.5f16
    %h = -(65504.0f16)
    let %m = (%j == 3) == (-(3) != %j)
  }
}
"#,
        r#"kernel matmul(in %a: i8[6], in %b: u8[6], in %bias: i32[2], out %y: f32[4]) {
  contract %m in 0..2, %n in 0..2 reduce %k in 0..3 {
    %acc: i32 = load %bias[%n]
    %acc += i32(load %a[%m * 3 + %k]) * i32(load %b[%k * 2 + %n])
    store %y[%m * 2 + %n] = max(0.0, f32(%acc))
  }
  contract reduce %k in 0..3 {
    %acc: i32 = 7i32
    %acc += i32(load %a[%k]) * i32(load %b[%k])
    store %y[0] = f32(%acc)
  }
}
"#,
        r#"kernel order(out %y: f32[4]) {
  vars %b: f32, %unused: f32x8, %a: i64
  for %a in 0..4 {
    let %b = 1.0
    store %y[%a] = %b
  }
}
"#,
    ] {
        let k = Kernel::parse(text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(k.to_string(), text);
    }
}

/// A program with every kind of line.
const PROGRAM: &str = r#"program digits {
  fma
  arena 4096
  input "image": f32[1,1,2,2]
  output "probs \"x\"": f32[1,4]
  buffer %image: f32[4] = input 0
  buffer %"w/0": f32[4] = const [1.0, -2.5, inf, 1e-7]
  buffer %m: f32[4] = const (2, 2) [1.0, -0.0, 0.0, 3.0]
  buffer %s: i64[1] = const () [-3]
  buffer %long: u8[17] = const hex"000102030405060708090a0b0c0d0e0fff"
  buffer %nan: f64[1] = const hex"010000000000f87f"
  buffer %mask: bool[2] = const [true, false]
  buffer %t: f32[4] = arena@128
  buffer %u: f32[4] = arena
  buffer %probs: f32[4] = output 0

  kernel copy(in %x: f32[4], out %y: f32[4]) {
    parfor %i in 0..4 {
      store %y[%i] = load %x[%i]
    }
  }

  kernel nothing() {
  }

  call copy(%image, %t) @ "Conv_0\u{0}\n"
  call copy(%t, %probs)
}
"#;

#[test]
fn programs_round_trip() {
    let p = Program::parse(PROGRAM).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(p.to_string(), PROGRAM);
    assert_eq!(p.calls()[0].loc.name(), Some("Conv_0\0\n"));
    assert_eq!(Program::parse("program x {\n}\n").unwrap(), Program { name: "x".into(), ..Program::default() });
}

#[test]
fn long_constants_can_be_left_out() {
    let p = Program::parse(PROGRAM).unwrap();
    let text = print_program(&p, &PrintOptions { longest_const: Some(4) });
    assert!(text.contains("buffer %long: u8[17] = const <17 values>\n"), "{text}");
    let e = Program::parse(&text).unwrap_err();
    assert_eq!((e.line, e.message.as_str()), (10, "the constant was left out when this was printed"));
}

/// `text` is the body of a kernel; `message` is at `column` of it.
#[test]
fn errors_tell_where_and_why() {
    for (body, column, message) in [
        ("store %y[%i] = 1.0", 10, "unknown variable %i"),
        ("store %z[0] = 1.0", 7, "the kernel has no buffer %z"),
        ("store %y[0) = 1.0", 11, "expected `]`, found `)`"),
        ("store %y[0] = 1.0f33", 15, "unknown suffix `f33`; a number may end in i32, u8, f64, …"),
        ("store %y[0] = 300u8", 15, "not a value of u8"),
        ("store %y[0] = -1u8", 16, "not a value of u8"),
        ("store %y[0] = 1e999", 15, "not a value of f32"),
        ("let %i = 9223372036854775808", 10, "not a value of i64"),
        ("let %i = 1 == 2 == 3", 17, "expected a statement, found `==`"),
        ("let %i = foo(1)", 10, "unknown function `foo`"),
        ("let %i = foo", 10, "expected an expression, found `foo`"),
        ("let %i = min(1)", 10, "`min` takes 2 operands, found 1"),
        ("let %i = exp(1.0, 2.0)", 10, "`exp` takes 1 operand(s), found 2"),
        ("let %i = lanes()", 10, "`lanes` takes 1 to 65535 operands, found 0"),
        ("let %i = 1 let %i = 2.0", 16, "%i is defined again with another type"),
        ("let %\"i = 1", 5, "a string does not end on its line"),
        ("let %\"\\q\" = 1", 5, "a string has an unknown escape; known are \\\" \\\\ \\n \\t \\u{…}"),
        ("let %i = nan_f32(0x1)", 18, "not the bits of a NaN of f32"),
        ("let %i = 1 $", 12, "unexpected character '$'"),
        ("for %i in 0..4 step 0 { }", 21, "a step is at least 1"),
        ("contract %i in 1..4 { }", 16, "the loops of a contraction begin at 0"),
        ("if true {", 10, "expected a statement, found the end of the text"),
        ("store %y[0] = load65536 %y[0]", 15, "expected an expression, found `load65536`"),
    ] {
        let text = format!("kernel k(out %y: f32[4]) {{\n{body}");
        let e = Kernel::parse(&text).unwrap_err();
        assert_eq!((e.line, e.column, e.message.as_str()), (2, column, message), "{body}");
    }
    let e = Kernel::parse("kernel k() {\n  let %a = ?\n}").unwrap_err();
    assert_eq!(e.to_string(), "2:12: unexpected character '?'\n  |   let %a = ?\n  |            ^");
}

#[test]
fn nesting_is_bounded() {
    let kernel = |e: &str| Kernel::parse(&format!("kernel k() {{ let %a = {e} }}"));
    for deep in [
        "(".repeat(1_000_000),
        "-".repeat(1_000_000),
        "abs(".repeat(1_000_000),
        "1 + (".repeat(1_000_000),
        format!("1{}", " + 1".repeat(1_000_000)),
        format!("1{}", "|1^1&1<<1+1*(1".repeat(100_000)),
    ] {
        let e = kernel(&deep).unwrap_err();
        assert!(e.message.contains("200"), "{}", e.message);
    }
    let blocks = format!("kernel k() {{ {}", "if true { ".repeat(1_000_000));
    assert!(Kernel::parse(&blocks).unwrap_err().message.contains("nested more than 200 deep"));
    // What is allowed round-trips: operands nested on the right, in parentheses, inside blocks.
    let n = MAX_DEPTH - 1;
    let right = format!("{}%a{}", "2 - (".repeat(n - 1), ")".repeat(n - 1));
    let text = format!("kernel k() {{ let %a = 1 {} let %b = {right} {} }}", "if true {".repeat(n), "}".repeat(n));
    let k = Kernel::parse(&text).unwrap_or_else(|e| panic!("{}", e.message));
    assert_eq!(Kernel::parse(&k.to_string()).unwrap(), k);
}

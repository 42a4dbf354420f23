//! What the verifier accepts and what it rejects, as text.

use tenon_kernel::verify::render;
use tenon_kernel::{Kernel, Program, Stage, verify_kernel, verify_program};

fn kernel(body: &str) -> Kernel {
    let params = "in %x: f32[64], in %n: i64[8], in %h: f16[4], in %m: bool[4], scratch %t: f32[8], out %y: f32[64]";
    let text = format!("kernel k({params}) {{\n{body}\n}}\n");
    Kernel::parse(&text).unwrap_or_else(|e| panic!("{e}"))
}

fn errors(body: &str, stage: Stage) -> Vec<String> {
    let k = kernel(body);
    assert_eq!(Kernel::parse(&k.to_string()).as_ref(), Ok(&k), "{k}");
    let found = verify_kernel(&k, stage).err().unwrap_or_default();
    found.into_iter().map(|e| e.message).collect()
}

#[test]
fn accepted() {
    for body in [
        "",
        // Ranges of loops, also with steps and from one loop to the next.
        "for %i in 0..64 { store %y[%i] = load %x[63 - %i] }",
        "for %i in 0..57 step 8 { store %y[%i] = load8 %x[%i] }",
        "for %i in 0..8 { for %j in 0..8 { store %y[%i * 8 + %j] = load %x[%j * 8 + %i] } }",
        "for %i in 0..64 step 8 { for %j in %i..%i + 8 { store %t[%j - %i] = load %x[%j] } }",
        "for %i in 0..60 step 8 { for %j in %i..min(%i + 8, 60) { store %t[%j - %i] = load %x[%j] } }",
        "for %i in 0..9 step 2 { for %j in %i * 7..(%i + 1) * 7 step 7 { store %y[%j] = load %x[%j + 7] } }",
        "for %i in 0..63 { for %j in max(%i, 3)..64 { store %y[%j - %i] = load %x[63 - %j + %i] } }",
        "for %i in 1..9 { for %j in %i * 2..3 { store %t[1 - %i] = 1.0 } }",
        "for %i in 0..100 { for %j in %i + 4..min(%i + 9, 12) { store %t[%i] = 1.0 } }",
        // Loops that never run.
        "for %i in 3..3 { store %y[1000] = 0.0 }",
        "if 3 < 2 { store %y[1000] = 0.0 }",
        "for %i in 0..4 { for %j in %i + 1..%i { store %y[1000] = 0.0 } }",
        // Sums cancel; lets are seen through.
        "for %i in 0..1000000 { let %k = %i * 3 store %y[%k + 5 - %i - 2 * %i] = 1.0 }",
        "for %i in 0..8 { let %k = min(%i, 5) let %q = %k + 2 store %t[%q] = 1.0 }",
        // Quotients, remainders, shifts, masks, conversions.
        "for %i in 0..512 { store %t[%i / 64] = 1.0 store %t[%i % 8] = 1.0 store %t[%i >> 6] = 1.0 }",
        "for %i in -9..9 { store %t[(%i % 4) + 3] = 1.0 store %t[%i & 7] = 1.0 store %y[(%i | 1) & 63] = 1.0 }",
        "for %i in 0..8 { store %y[%i << 3] = 1.0 store %t[abs(%i - 4)] = 1.0 store %t[-%i + 7] = 1.0 }",
        "store %t[max(min(load %n[0], 7), 0)] = 1.0",
        "store %t[select(load %n[0] > 3, 5, 6)] = 1.0",
        "store %t[i64(u8(load %n[0])) / 32] = 1.0",
        "store %t[i64(load %m[0])] = 1.0",
        "store %t[extract(lanes(3, 4, 7), 1)] = 1.0",
        "store %t[reduce_max(lanes(3, 7))] = 1.0",
        "store %t[i64(i32(load %n[0]) % 4i32) + 3] = 1.0",
        // Conditions.
        "let %k = load %n[0] if (%k >= 0) & (%k < 64) { store %y[%k] = 1.0 }",
        "let %k = load %n[0] if not((%k < 0) | (%k > 63)) { store %y[%k] = 1.0 }",
        "let %k = load %n[0] if %k < 0 { } else { if 64 > %k { store %y[%k] = 1.0 } }",
        "let %k = load %n[0] if %k == 7 { store %t[%k] = 1.0 }",
        "let %k = load %n[0] if (0 <= %k) & (%k < 99) { if %k * 3 <= 23 { store %t[%k] = 1.0 } }",
        "for %i in 0..10 { for %j in 0..10 {
            if (%i * 2 + %j >= 1) & (%i * 2 + %j < 9) { store %t[%i * 2 + %j - 1] = 1.0 } } }",
        "for %a in 0..5 { for %b in 0..3 { for %c in 0..5 { for %d in 0..3 {
            if ((%a + %b >= 1) & (%a + %b < 9)) & ((%c + %d >= 1) & (%c + %d < 9)) {
              store %y[(%a + %b - 1) * 8 + (%c + %d - 1)] = 1.0 } } } } }",
        // Variables that change.
        "var %k = 0 while %k < 8 { store %t[%k] = 1.0 %k = %k + 1 }",
        "var %k = 7 while %k >= 0 { store %t[%k] = 1.0 %k = %k - 2 }",
        "var %k = 3 for %i in 0..9 { %k = %i % 8 } store %t[%k] = 1.0",
        "var %k = 1 while %k < 64 { %k = %k * 2 } store %y[min(%k, 63)] = 1.0",
        "var %lo = 0 var %hi = 64 while %lo < %hi { let %mid = %lo + (%hi - %lo) / 2
            if (%mid >= 0) & (%mid < 64) { if load %x[%mid] < 0.5 { %lo = %mid + 1 } else { %hi = %mid } } else { %hi = %lo } }",
        "var %k = 0 for %i in 0..4 { if %k < 8 { store %t[%k] = 1.0 %k = %k + 1 } }",
        // The same variable in two blocks.
        "for %i in 0..4 { let %a = 1 } for %i in 0..8 { let %a = 2 store %t[%i] = 1.0 }",
        // Half precision is loaded, stored, selected and converted.
        "let %s = f32(select(load4 %m[0], load4 %h[0], splat4(1.0f16))) store %y[0] = select(%s == splat4(0.0), %s, -%s)",
    ] {
        assert_eq!(errors(body, Stage::Scheduled), [""; 0], "{body}");
    }
    let contract = "contract %m in 0..4, %n in 0..4 reduce %k in 0..16 {
        %acc: f32 = load %x[%n]
        %acc += load %x[%m * 16 + %k] * f32(load %n[%n])
        store %y[%m * 4 + %n] = exp(%acc) }";
    assert_eq!(errors(contract, Stage::Structured), [""; 0]);
}

#[test]
fn rejected() {
    let scheduled: &[(&str, &str)] = &[
        // Bounds.
        ("for %i in 0..65 { store %y[%i] = 1.0 }", "an access at 0..=64 of %y, which has 64"),
        ("for %i in 0..64 { let %a = load %x[%i - 1] }", "an access at -1..=62 of %x, which has 64"),
        ("for %i in 0..9 { for %j in %i..4 { } store %t[%i] = 1.0 }", "an access at 0..=8 of %t, which has 8"),
        ("for %i in 0..58 { let %a = load8 %x[%i] }", "an access to 8 elements at 0..=57 of %x, which has 64"),
        ("let %k = load %n[0] if %k < 64 { store %y[%k] = 1.0 }", "an access at ?..=63 of %y, which has 64"),
        (
            "let %k = load %n[0] if (0 <= %k) & (%k * 3 <= 23) { store %t[%k] = 1.0 }",
            "an access at 0..=? of %t, which has 8",
        ),
        (
            "if (load %n[0] >= 0) & (load %n[0] < 8) { store %t[load %n[0]] = 1.0 }",
            "an access at ?..=? of %t, which has 8",
        ),
        ("var %k = 0 if %k < 8 { %k = load %n[0] store %t[%k] = 1.0 }", "an access at ?..=? of %t, which has 8"),
        ("var %k = 0 while %k < 8 { %k = %k + 1 store %t[%k] = 1.0 }", "an access at 1..=8 of %t, which has 8"),
        (
            "var %k = max(min(load %n[0], 3), 0) let %a = %k + 5 %k = max(min(load %n[1], 3), 0) store %t[%a - %k] = 1.0",
            "an access at 2..=8 of %t, which has 8",
        ),
        (
            "let %k = load %n[0] if %k + 1 < 8 { if %k > -1 { store %t[%k + 9223372036854775807] = 1.0 } }",
            "an access at ?..=? of %t, which has 8",
        ),
        ("for %i in 0..4 { let %a = select(false, load %x[64], 0.0) }", "an access at 64..=64 of %x, which has 64"),
        ("while load %x[64] > 0.0 { }", "an access at 64..=64 of %x, which has 64"),
        ("let %a = load %x[load %n[8]]", "an access at ?..=? of %x, which has 64"),
        // Types.
        ("store %y[0] = 1.0f64", "%y holds f32, the value stored is f64"),
        ("store %x[0] = 1.0", "a store to %x, which is an `in` buffer"),
        ("store %y[0i32] = 1.0", "the index is i32, not i64"),
        ("let %a = load %x[1.0]", "the index of a load is f32, not i64"),
        ("let %a = 1 + 1i32", "the operands of add are i64 and i32"),
        ("let %a = load8 %x[0] + 1.0", "the operands of add are f32x8 and f32"),
        ("let %a = load %h[0] + 1.0f16", "add is not defined for f16"),
        ("let %a = -load %h[0]", "neg is not defined for f16"),
        ("let %a = load %h[0] < 1.0f16", "this comparison is not defined for f16"),
        ("let %a = true + false", "add is not defined for bool"),
        ("let %a = true < false", "this comparison is not defined for bool"),
        ("let %a = 1.0 & 2.0", "and is not defined for f32"),
        ("let %a = 1.0 % 2.0", "rem is not defined for f32"),
        ("let %a = sqrt(4)", "sqrt is not defined for i64"),
        ("let %a = not(1.0)", "not is not defined for f32"),
        ("let %a = fma(1, 2, 3)", "fma is not defined for i64"),
        ("let %a = select(true, 1, 2.0)", "the operands of select are i64 and f32"),
        ("let %a = select(1, 1, 2)", "select of i64 by a mask of i64"),
        ("let %a = select(true, splat4(1), splat4(2))", "select of i64x4 by a mask of bool"),
        ("let %a = bitcast_f64(1.0)", "bitcast to f64 is not defined for f32"),
        ("let %a = bitcast_u8(true)", "bitcast to u8 is not defined for bool"),
        ("let %a = splat3(splat2(1))", "splat of i64x2 to 3 lanes, which is no multiple"),
        (
            "let %a = dot(splat8(1u8), splat8(1i16), splat2(0i32))",
            "dot of u8x8 and i16x8, expected bytes, i16 or the bits of bf16 (u16)",
        ),
        (
            "let %a = dot(splat8(1u8), splat8(1i8), splat4(0i32))",
            "dot of u8x8 and i8x8 adds to i32 of their lanes / 4, found i32x4",
        ),
        (
            "let %a = dot(splat4(1i16), splat4(1i16), splat2(0))",
            "dot of i16x4 and i16x4 adds to i32 of their lanes / 2, found i64x2",
        ),
        (
            "let %a = dot(splat4(1u16), splat4(1u16), splat2(0i32))",
            "dot of u16x4 and u16x4 adds to f32 of their lanes / 2, found i32x2",
        ),
        ("let %a = to_bf16(splat4(1i32))", "to_bf16 is not defined for i32"),
        ("let %a = lanes(splat2(1))", "lanes of vectors"),
        ("let %a = extract(splat2(1), 2)", "lane 2 of i64x2"),
        ("let %a = reduce_add(splat3(1))", "reduce_add of 3 lanes, which is not a power of two"),
        ("let %a = reduce_sub(splat4(1))", "reduce_sub is not defined for i64"),
        ("let %a = reduce_add(splat4(true))", "reduce_add is not defined for bool"),
        ("let %a = exp(1.0)", "exp in a scheduled kernel"),
        ("if 1 { }", "the condition is i64, not bool"),
        ("while splat2(true) { }", "the condition is boolx2, not bool"),
        ("for %i in 0..1i32 { }", "the second bound is i32, not i64"),
        // Scopes.
        ("for %i in 0..4 { } let %a = %i", "%i is not in scope"),
        ("if true { let %a = 1 } else { let %b = %a }", "%a is not in scope"),
        ("let %a = 1 for %i in 0..4 { let %a = 2 }", "%a is defined while it is in scope"),
        ("let %a = 1 %a = 2", "%a is set, but is not a `var`"),
        ("for %i in 0..4 { %i = 2 }", "%i is set, but is not a `var`"),
        ("if true { var %a = 1 } %a = 2", "%a is set where it is not in scope"),
        ("var %a = 1 %a = 2.0", "%a is i64, its new value f32"),
        (
            "contract %i in 0..4 { %acc: f32 = 0.0 %acc += load %x[%i] * load %x[0] store %y[%i] = %acc }",
            "a contraction in a scheduled kernel",
        ),
    ];
    let structured: &[(&str, &str)] = &[
        ("let %a = exp(1)", "exp is not defined for i64"),
        (
            "contract %i in 0..4 { %acc: f32 = 0.0 %acc += load %x[%i] * load %x[0] store %y[0] = %acc }",
            "the result's index is not different at every point of the outer loops",
        ),
        (
            "contract %i in 0..4, %j in 0..4 { %acc: f32 = 0.0 %acc += load %x[%i] * load %x[0] store %y[%i * 3 + %j] = %acc }",
            "the result's index is not different at every point of the outer loops",
        ),
        (
            "contract %i in 0..4 { %acc: f32 = 0.0 %acc += load %x[%i / 2] * load %x[0] store %y[%i] = %acc }",
            "the left factor's index is not affine in the contraction's loops",
        ),
        (
            "contract %i in 0..4 { %acc: f32 = 0.0 %acc += load %x[%i] * 2.0 store %y[%i] = %acc }",
            "the right factor is not a load, or a cast of one",
        ),
        (
            "contract %i in 0..4 { %acc: f32 = 0.0 %acc += load %x[%i] * load %n[0] store %y[%i] = %acc }",
            "the right factor is i64, not f32",
        ),
        (
            "contract %i in 0..4 reduce %k in 0..4 { %acc: f32 = 0.0 %acc += load %x[%i] * load %x[0] store %y[%k] = %acc }",
            "%k is not in scope",
        ),
        (
            "contract %i in 0..0 { %acc: f32 = 0.0 %acc += load %x[%i] * load %x[0] store %y[%i] = %acc }",
            "%i has 0 iterations; a contraction's loops have at least 1",
        ),
        (
            "contract %i in 0..4 { %acc: f16 = 0.0f16 %acc += load %h[%i] * load %h[0] store %y[%i] = f32(%acc) }",
            "an accumulator cannot be f16",
        ),
        (
            "contract %i in 0..4 reduce %k in 0..17 { %acc: f32 = 0.0 %acc += load %x[%i * 16 + %k] * load %x[0] store %y[%i] = %acc }",
            "an access at 0..=64 of %x, which has 64",
        ),
    ];
    for (cases, stage) in [(scheduled, Stage::Scheduled), (structured, Stage::Structured)] {
        for (body, message) in cases {
            let found = errors(body, stage);
            assert!(found.iter().any(|m| m == message), "{body}\nexpected {message}\nfound {found:?}");
        }
    }
}

#[test]
fn errors_are_shown_in_the_text() {
    let k = kernel("for %i in 0..65 {\n store %y[%i] = 1.0 }");
    let shown = render(&k, &verify_kernel(&k, Stage::Scheduled).unwrap_err());
    let expected = "  for %i in 0..65 {\n    store %y[%i] = 1.0\n    \
                    ^ error: an access at 0..=64 of %y, which has 64\n  }\n}\n";
    assert_eq!(shown.split_once('\n').unwrap().1, expected);
}

/// A program of two buffers in the arena, a copy through them, and `extra` lines.
fn program(u: &str, calls: &str) -> Program {
    let text = format!(
        "program p {{
          arena 256
          input \"x\": f32[16]
          output \"y\": f32[4,4]
          buffer %x: f32[16] = input 0
          buffer %t: f32[16] = arena@0
          buffer %u: f32[16] = {u}
          buffer %y: f32[16] = output 0
          buffer %small: f32[1] = arena
          kernel copy(in %a: f32[16], out %b: f32[16]) inplace(%a, %b) {{
            for %i in 0..16 {{ store %b[%i] = load %a[%i] }}
          }}
          kernel add(in %a: f32[16], in %b: f32[16], out %c: f32[16], scratch %s: f32[16]) {{
            for %i in 0..16 {{ store %c[%i] = load %a[%i] + load %b[%i] }}
          }}
          {calls}
        }}"
    );
    Program::parse(&text).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn programs() {
    for (u, calls, expected) in [
        ("arena@64", "call copy(%x, %t) call copy(%t, %u) call copy(%u, %y)", None),
        ("arena@0", "call copy(%x, %t) call copy(%t, %u) call copy(%u, %y)", None),
        ("arena@64", "call copy(%x, %t) call copy(%t, %t) call add(%t, %t, %y, %u)", None),
        ("arena@8", "call copy(%x, %y)", Some("buffer %u: its offset 8 is not a multiple of 64")),
        ("arena@256", "call copy(%x, %y)", Some("buffer %u: its 64 bytes at 256 end past the arena's 256")),
        ("input 0", "call copy(%x, %y)", Some("input \"x\" has more than one buffer")),
        ("output 0", "call copy(%x, %y)", Some("output \"y\" has 2 buffers, not 1")),
        ("output 1", "call copy(%x, %y)", Some("buffer %u: there is no output 1")),
        ("const (2) [1.0, 2.0]", "call copy(%x, %y)", Some("buffer %u: f32[16] holds a constant f32[2]")),
        ("arena@64", "call copy(%x, %t)", Some("output buffer %y is never written")),
        (
            "arena@64",
            "call copy(%t, %y)",
            Some("call 0 of copy at <compiler>: %a reads %t, which nothing has written"),
        ),
        ("arena@64", "call copy(%x, %x)", Some("call 0 of copy at <compiler>: %b writes %x, which is read only")),
        (
            "arena@64",
            "call copy(%x, %small)",
            Some("call 0 of copy at <compiler>: %b is f32[16], its argument %small is f32[1]"),
        ),
        ("arena@64", "call copy(%x)", Some("call 0 of copy at <compiler>: expected 2 arguments, found 1")),
        (
            "arena@0",
            "call copy(%x, %t) call copy(%x, %u) call copy(%t, %y)",
            Some("call 2 of copy at <compiler>: %a reads %t, whose memory call 1 has written over"),
        ),
        (
            "arena@0",
            "call copy(%x, %t) call add(%t, %t, %y, %u)",
            Some("call 1 of add at <compiler>: %a and %s share memory (%t and %u), which the kernel does not allow"),
        ),
        (
            "arena@64",
            "call add(%x, %x, %t, %u) call copy(%u, %y)",
            Some("call 1 of copy at <compiler>: %a reads %u, which nothing has written"),
        ),
    ] {
        let p = program(u, calls);
        let found = verify_program(&p, Stage::Scheduled).err().unwrap_or_default();
        let found: Vec<_> = found.iter().map(|e| e.message.as_str()).collect();
        assert_eq!(found.first().copied(), expected, "{u}; {calls}: {found:?}");
        if expected.is_none() {
            assert_eq!(Program::parse(&p.to_string()), Ok(p));
        }
    }
}

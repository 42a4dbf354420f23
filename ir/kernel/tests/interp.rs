//! The kernel interpreter against hand-computed results.

use tenon_base::{DType, Tensor};
use tenon_kernel::interp::Options;
use tenon_kernel::verify::render;
use tenon_kernel::{
    Access, Contract, Expr, InterpError, Kernel, KernelBuilder, Memory, Program, Stage, Type, run_kernel,
    run_program, verify_kernel,
};

#[test]
fn a_contraction_multiplies_matrices() {
    let mut k = KernelBuilder::new("matmul");
    let a = k.buffer("a", DType::F32, 6, Access::In);
    let b = k.buffer("b", DType::F32, 6, Access::In);
    let y = k.buffer("y", DType::F32, 4, Access::Out);
    let acc = k.fresh("acc", Type::scalar(DType::F32));
    let ((dm, m), (dn, n), (dk, kk)) = (k.contract_dim("m", 2), k.contract_dim("n", 2), k.contract_dim("k", 3));
    k.contract(Contract {
        dims: vec![dm, dn],
        reduce: vec![dk],
        acc,
        init: Expr::constant(DType::F32, 0.5),
        a: Expr::load(a, m.clone() * 3 + kk.clone()),
        b: Expr::load(b, kk * 2 + n.clone()),
        out: y,
        out_index: m * 2 + n,
        value: Expr::Var(acc),
    });
    let kernel = k.finish();
    let t = Tensor::new(&[6], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let mut buffers = [Memory::of(&t), Memory::of(&t), Memory::poisoned(DType::F32, 4)];
    run_kernel(&kernel, &mut buffers, &Default::default()).unwrap();
    let y: Vec<f64> = buffers[2].scalars().map(|s| s.as_f64()).collect();
    assert_eq!(y, [22.5, 28.5, 49.5, 64.5]);
}

/// The value of `e`, as text.
fn value(dtype: &str, e: &str, fused: bool) -> String {
    let text = format!(
        "kernel k(in %x: f32[8], in %n: i32[4], in %m: bool[4], in %h: f16[4], out %y: {dtype}[1]) {{ store %y[0] = {e} }}"
    );
    let k = Kernel::parse(&text).unwrap_or_else(|e| panic!("{e}"));
    verify_kernel(&k, Stage::Structured).unwrap_or_else(|errors| panic!("{}", render(&k, &errors)));
    let mut buffers = [
        Memory::of(&Tensor::new(&[8], &[1f32, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, f32::NAN])),
        Memory::of(&Tensor::new(&[4], &[7i32, -7, i32::MIN, 0])),
        Memory { dtype: DType::Bool, bytes: vec![0, 1, 2, 255] },
        Memory::of(&Tensor::from_f64(DType::F16, &[4], &[1.5, -0.0, 65504.0, f64::INFINITY])),
        Memory::poisoned(k.buffers[4].dtype, 1),
    ];
    run_kernel(&k, &mut buffers, &Options { fused_multiply_add: fused, ..Options::default() }).unwrap();
    buffers[4].scalars().next().unwrap().to_string()
}

#[test]
fn expressions() {
    for (dtype, e, expected) in [
        // Integers wrap; division by zero gives 0.
        ("i8", "127i8 + 1i8", "-128"),
        ("i8", "-128i8 / -1i8", "-128"),
        ("i8", "-(-128i8)", "-128"),
        ("i8", "abs(-128i8)", "-128"),
        ("i32", "load %n[1] / 2i32", "-3"),
        ("i32", "load %n[1] % 2i32", "-1"),
        ("i32", "load %n[2] % -1i32", "0"),
        ("i32", "load %n[1] / load %n[3]", "0"),
        ("i32", "load %n[1] % load %n[3]", "0"),
        ("u8", "3u8 - 5u8", "254"),
        ("u8", "-(1u8)", "255"),
        ("u64", "18446744073709551615u64 * 18446744073709551615u64", "1"),
        ("u64", "18446744073709551615u64 / 2u64", "9223372036854775807"),
        ("i64", "-9223372036854775808 - 1", "9223372036854775807"),
        // Shifts use the low bits of the count.
        ("i8", "-128i8 >> 3i8", "-16"),
        ("u8", "128u8 >> 3u8", "16"),
        ("i32", "1i32 << 33i32", "2"),
        ("i32", "1i32 << -1i32", "-2147483648"),
        ("u8", "1u8 << 9u8", "2"),
        ("i16", "not(5i16) ^ 3i16 & 1i16 | 64i16", "-5"),
        ("u16", "not(5u16)", "65530"),
        // Comparisons of signed and unsigned numbers, of NaN.
        ("bool", "-1i8 < 1i8", "true"),
        ("bool", "255u8 < 1u8", "false"),
        ("bool", "nan == nan", "false"),
        ("bool", "nan != nan", "true"),
        ("bool", "not(nan >= 1.0) & (0.0 == -0.0)", "true"),
        // The second operand of min and max where there is no order.
        ("f32", "min(nan, 1.0)", "1.0"),
        ("f32", "min(1.0, nan)", "nan"),
        ("f32", "max(0.0, nan)", "nan"),
        ("f32", "max(nan, 0.0)", "0.0"),
        ("f32", "max(0.0, -0.0)", "-0.0"),
        ("f32", "min(0.0, -0.0)", "-0.0"),
        // Rounding.
        ("f32", "nearest(2.5)", "2.0"),
        ("f32", "nearest(-0.5)", "-0.0"),
        ("f32", "floor(-1.5) + ceil(-1.5) + trunc(-1.5)", "-4.0"),
        ("f32", "-(0.0)", "-0.0"),
        ("f32", "abs(-inf)", "inf"),
        ("f32", "sqrt(2.0)", "1.4142135"),
        ("f64", "sqrt(2.0f64)", "1.4142135623730951"),
        ("f32", "16777216.0 + 1.0", "16777216.0"),
        // Conversions truncate and saturate, NaN becomes 0.
        ("i8", "i8(-1.9)", "-1"),
        ("i8", "i8(300.0)", "127"),
        ("u8", "u8(-5.0)", "0"),
        ("i32", "i32(nan)", "0"),
        ("i64", "i64(inf)", "9223372036854775807"),
        ("u64", "u64(1e30f64)", "18446744073709551615"),
        ("i8", "i8(300)", "44"),
        ("u64", "u64(-1i8)", "18446744073709551615"),
        ("f32", "f32(16777217i32)", "16777216.0"),
        ("f32", "f32(18446744073709551615u64)", "1.8446744e19"),
        ("f32", "f32(1e-46f64)", "0.0"),
        ("bool", "bool(nan)", "true"),
        ("bool", "bool(-0.0)", "false"),
        ("i32", "i32(true)", "1"),
        // Memory holds any non-zero byte for true.
        ("i32", "i32(load %m[0]) + i32(load %m[2]) + i32(load %m[3])", "2"),
        // Half precision.
        ("f32", "f32(load %h[0]) + f32(load %h[3])", "inf"),
        ("f16", "f16(65519.0)", "65504.0"),
        ("f16", "f16(65520.0)", "inf"),
        ("f16", "f16(2049i32)", "2048.0"),
        ("f16", "select(load %m[1], load %h[2], 1.0f16)", "65504.0"),
        ("i32", "i32(load %h[2])", "65504"),
        ("bool", "bool(load %h[1])", "false"),
        ("u16", "bitcast_u16(load %h[1])", "32768"),
        // Bits.
        ("i32", "bitcast_i32(-1.0)", "-1082130432"),
        ("f32", "bitcast_f32(1065353216u32)", "1.0"),
        ("f64", "bitcast_f64(-4616189618054758400)", "-1.0"),
        ("i8", "bitcast_i8(255u8)", "-1"),
        // Vectors: lanes, halving order.
        ("f32", "reduce_add(load4 %x[0])", "15.0"),
        ("f32", "reduce_add(lanes(1e8, 1.0, -1e8, 1.0))", "2.0"),
        ("f32", "reduce_max(load8 %x[0])", "nan"),
        ("f32", "reduce_min(lanes(nan, 1.0))", "1.0"),
        ("i32", "reduce_mul(load2 %n[0])", "-49"),
        ("bool", "reduce_or(load4 %m[0]) & not(reduce_and(load4 %m[0]))", "true"),
        ("f32", "extract(select(load4 %m[0], load4 %x[0], splat4(0.5)), 0)", "0.5"),
        ("f32", "extract(load3 %x[2] * splat3(0.5), 2)", "8.0"),
        ("i64", "extract(lanes(1, 2, 3), 1)", "2"),
        // Mathematical functions are rounded once.
        ("f32", "exp(1.0)", "2.7182817"),
        ("f64", "exp(1.0f64)", "2.718281828459045"),
        ("f32", "erf(0.5)", "0.5204999"),
        ("f32", "pow(2.0, -3.0)", "0.125"),
        ("f32", "fmod(-7.5, 2.0)", "-1.5"),
        ("f32", "tanh(100.0)", "1.0"),
        ("f32", "log(0.0)", "-inf"),
        ("f32", "acosh(0.5)", "nan"),
    ] {
        assert_eq!(value(dtype, e, true), expected, "{e}");
    }
    // Once rounded, the low part of the square is left; twice rounded it is lost.
    let e = "fma(1.0001, 1.0001, -(1.0001 * 1.0001))";
    assert_eq!(value("f32", e, false), "0.0");
    assert_ne!(value("f32", e, true), "0.0");
}

/// Runs a kernel on `f32` zeros and gives the last buffer.
fn run(text: &str, options: &Options) -> Result<Vec<f64>, InterpError> {
    let k = Kernel::parse(text).unwrap_or_else(|e| panic!("{e}"));
    let mut buffers: Vec<Memory> =
        k.buffers.iter().map(|b| Memory { dtype: b.dtype, bytes: vec![0; b.len * b.dtype.size()] }).collect();
    run_kernel(&k, &mut buffers, options)?;
    Ok(buffers.last().map(|b| b.scalars().map(|s| s.as_f64()).collect()).unwrap_or_default())
}

#[test]
fn statements() {
    let run = |text: &str| run(text, &Options::default()).unwrap();
    // Bounds of a loop are evaluated once; the last step may pass the end.
    let text = "kernel k(out %y: f32[6]) {
        for %i in 0..6 { store %y[%i] = 0.0 }
        var %n = 4
        for %i in 0..%n step 3 { %n = 100 store %y[%i] = f32(%n) }
        for %i in 9223372036854775806..9223372036854775807 step 8 { store %y[5] = 7.0 }
        for %i in 3..-3 { store %y[1] = 9.0 }
        if %n == 4 { store %y[1] = 1.0 } else { store %y[1] = 2.0 }
    }";
    assert_eq!(run(text), [100.0, 2.0, 0.0, 100.0, 0.0, 7.0]);
    let text = "kernel k(out %y: i64[1]) {
        var %a = 0 var %b = 1
        while %b < 100 { let %c = %a + %b %a = %b %b = %c }
        store %y[0] = %b
    }";
    assert_eq!(run(text), [144.0]);
    // Vectors are stored lane after lane; what was never written is NaN.
    let text = "kernel k(out %y: f32[4]) { store %y[1] = lanes(1.0, 2.0) }";
    let y = run(text);
    assert!(y[0].is_nan() && y[1..3] == [1.0, 2.0] && y[3].is_nan(), "{y:?}");
    // Contractions of integers, with conversions, without a reduction, of no dims.
    let text = "kernel k(in %a: u8[2], in %b: i8[3], out %y: i32[6]) {
        contract %m in 0..2, %n in 0..3 { %acc: i32 = i32(%m * 10 + %n)
          %acc += i32(load %a[%m]) * i32(load %b[%n]) store %y[%m + %n * 2] = %acc }
    }";
    assert_eq!(run(text), [0.0, 10.0, 1.0, 11.0, 2.0, 12.0]);
    let text = "kernel k(in %a: f32[4], out %y: f32[1]) {
        contract reduce %i in 0..2, %j in 0..2 { %acc: f32 = 1.0
          %acc += load %a[3 - %i * 2 - %j] * load %a[%i + %j] store %y[0] = exp(%acc) }
    }";
    assert_eq!(run(text), [f64::from(1f64.exp() as f32)]);
}

#[test]
fn errors_name_the_culprit() {
    let message =
        |text: &str, max_steps| run(text, &Options { max_steps, ..Options::default() }).unwrap_err().to_string();
    for (body, expected) in [
        ("store %y[%n] = 1.0", "kernel k: access to 1 element(s) at index 4 of %y, which has 4"),
        ("store %y[-1] = 1.0", "kernel k: access to 1 element(s) at index -1 of %y, which has 4"),
        ("let %v = load2 %x[7]", "kernel k: access to 2 element(s) at index 7 of %x, which has 8"),
        ("while true { }", "kernel k: stopped after 100 loop iterations"),
        ("for %i in 0..101 { }", "kernel k: stopped after 100 loop iterations"),
        ("store %y[0] = 1", "kernel k: a store of i64 to a buffer of f32"),
        ("store %x[0] = 1.0", "kernel k: a store to %x, which is an input"),
        ("let %v = 1 + 1.0", "kernel k: the operands of Add differ in type"),
        ("let %v = exp(1)", "kernel k: Exp is not defined for i64"),
        ("let %v = 1.0f16 + 1.0f16", "kernel k: Add is not defined for f16"),
        (
            "contract %i in 0..4 reduce %j in 0..3 { %acc: f32 = 0.0
              %acc += load %x[%i] * load %x[%i * 2 + %j] store %y[%i] = %acc }",
            "kernel k: access to 1 element(s) at index 8 of %x, which has 8",
        ),
    ] {
        let text = format!("kernel k(in %x: f32[8], out %y: f32[4]) {{ let %n = 4 {body} }}");
        assert_eq!(message(&text, 100), expected);
    }
    let k = Kernel::parse("kernel k(in %x: f32[8]) { }").unwrap();
    let e = run_kernel(&k, &mut [Memory::poisoned(DType::F32, 7)], &Options::default()).unwrap_err();
    assert_eq!(e.to_string(), "kernel k: %x expects f32[8], found 28 bytes of f32");
}

#[test]
fn programs_run_in_their_arena() {
    let text = |t: &str, u: &str| {
        format!(
            "program p {{
              fma
              arena 128
              input \"x\": f32[2,2]
              output \"y\": f32[4]
              buffer %x: f32[4] = input 0
              buffer %c: f32[4] = const [1.0, 2.0, 3.0, 4.0]
              buffer %t: f32[4] = {t}
              buffer %u: f32[4] = {u}
              buffer %y: f32[4] = output 0
              kernel add(in %a: f32[4], in %b: f32[4], out %c: f32[4]) inplace(%a, %c) {{
                for %i in 0..4 {{ store %c[%i] = load %a[%i] + load %b[%i] }}
              }}
              call add(%x, %c, %t) @ \"first\"
              call add(%t, %c, %u)
              call add(%t, %u, %y)
            }}"
        )
    };
    let x = Tensor::new(&[2, 2], &[10f32, 20.0, 30.0, 40.0]);
    let run = |t: &str, u: &str| {
        let p = Program::parse(&text(t, u)).unwrap_or_else(|e| panic!("{e}"));
        run_program(&p, std::slice::from_ref(&x)).map(|y| y[0].to_vec::<f32>())
    };
    let expected = vec![23.0, 46.0, 69.0, 92.0];
    assert_eq!(run("arena", "arena"), Ok(expected.clone()));
    assert_eq!(run("arena@0", "arena@64"), Ok(expected.clone()));
    // A plan that lets %u overwrite %t gives other numbers, as it would in machine code.
    assert_ne!(run("arena@0", "arena@0"), Ok(expected));
    assert_eq!(
        run("arena@0", "arena@120").unwrap_err().to_string(),
        "buffer %u: f32[4] does not fit the 128 bytes behind it"
    );
    let p = Program::parse(&text("arena", "arena")).unwrap();
    assert_eq!(run_program(&p, &[]).unwrap_err().to_string(), "expected 1 inputs, found 0");
    assert_eq!(
        run_program(&p, &[Tensor::new(&[4], &[0f32; 4])]).unwrap_err().to_string(),
        "input \"x\": expected f32[2,2], found f32[4]"
    );
}

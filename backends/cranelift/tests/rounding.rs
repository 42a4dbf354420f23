//! Results below the least normal number, which a run flushes to zero where the program says so, and what is left of that for the caller.

mod support;

use std::ffi::c_void;
use support::{differences, program, run, runnable};
use tenon_abi::{Env, Work};
use tenon_base::{DType, Tensor};
use tenon_cranelift::Jit;
use tenon_kernel::{Kernel, run_program};

/// Pairs of factors whose product is near the least normal number, on both sides and on every side of the ties there, with a third operand.
fn operands(dtype: DType) -> [Vec<f64>; 3] {
    let (digits, least) = if dtype == DType::F32 { (24, -126) } else { (53, -1022) };
    let unit = 2f64.powi(1 - digits);
    let [mut a, mut b, mut c] = [const { vec![] }; 3];
    for i in -6i32..6 {
        for j in -6i32..6 {
            for sign in [1.0, -1.0] {
                for (e, addend) in [(0, 0.0), (1, 0.0), (-1, 0.0), (-12, 1.0), (2, -1.0), (-30, 1.5), (-digits, -0.5)]
                {
                    a.push(sign * (1.0 + f64::from(i) * unit) * 2f64.powi(least / 2));
                    b.push((1.0 + f64::from(j) * unit) * 2f64.powi(least / 2 + e));
                    c.push(addend * 2f64.powi(least));
                }
            }
        }
    }
    while a.len() % 16 != 0 {
        for v in [&mut a, &mut b, &mut c] {
            v.push(0.0);
        }
    }
    [a, b, c]
}

/// Every operation that flushes, in vectors of `lanes`.
fn kernel(dtype: DType, n: usize, lanes: u16) -> Kernel {
    let ops = ["%a * %b", "%c + %b * %b", "%c - %a * %b", "%a / recip", "fma(%a, %b, %c)"];
    let one = if dtype == DType::F32 { "1.0" } else { "1.0f64" };
    let one = if lanes == 1 { one.to_string() } else { format!("splat{lanes}({one})") };
    let outs: String = (0..ops.len()).map(|k| format!(", out %y{k}: {dtype}[{n}]")).collect();
    let load = |b: &str| if lanes == 1 { format!("load %{b}s[%i]") } else { format!("load{lanes} %{b}s[%i]") };
    let lets: String = ["a", "b", "c"].map(|v| format!("let %{v} = {}\n", load(v))).concat();
    let stores: String = ops
        .iter()
        .enumerate()
        .map(|(k, op)| format!("store %y{k}[%i] = {}\n", op.replace("recip", &format!("({one} / %b)"))))
        .collect();
    let text = format!(
        "kernel k(in %as: {dtype}[{n}], in %bs: {dtype}[{n}], in %cs: {dtype}[{n}]{outs}) {{
           parfor %i in 0..{n} step {lanes} {{ {lets} {stores} }}
         }}"
    );
    Kernel::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[test]
fn what_is_flushed_is_the_interpreters() {
    for target in runnable().into_iter().filter(tenon_target::Target::flushes_to_zero) {
        for dtype in [DType::F32, DType::F64] {
            let operands = operands(dtype);
            let n = operands[0].len();
            let inputs = operands.map(|v| Tensor::from_f64(dtype, &[n], &v));
            for (lanes, flush) in [(1, true), (8, true), (16, true), (8, false)] {
                let mut p = program(kernel(dtype, n, lanes), target.has_fma());
                p.flush_to_zero = flush;
                let expected = run_program(&p, &inputs).expect("it runs");
                let small = |v: f64| v != 0.0 && v.abs() < 2f64.powi(if dtype == DType::F32 { -126 } else { -1022 });
                let some = expected.iter().all(|t| t.to_f64().into_iter().any(small));
                let none = expected.iter().all(|t| !t.to_f64().into_iter().any(small));
                assert!(if flush { none } else { some }, "{target} {dtype}");
                let found = run(&Jit::new(&p, &target).expect("it compiles"), &p, &inputs);
                let wrong = differences(&expected, &found);
                assert!(wrong.is_empty(), "{target} {dtype} {lanes}: {:?}", &wrong[..wrong.len().min(5)]);
            }
        }
    }
}

#[test]
fn conversions_to_f32_flush() {
    let least = f64::from(f32::MIN_POSITIVE);
    let x: Vec<f64> =
        (-8..8).map(|i| -least * (1.0 + f64::from(i) * 2f64.powi(-27))).chain([1e-300, 1e-40, 1.0]).collect();
    let text = format!(
        "kernel k(in %x: f64[{0}], out %y: f32[{0}]) {{
        parfor %i in 0..{0} {{ store %y[%i] = f32(load %x[%i]) }}
    }}",
        x.len()
    );
    let x = Tensor::from_f64(DType::F64, &[x.len()], &x);
    for target in runnable().into_iter().filter(tenon_target::Target::flushes_to_zero) {
        let mut p = program(Kernel::parse(&text).unwrap_or_else(|e| panic!("{e}")), target.has_fma());
        p.flush_to_zero = true;
        let expected = run_program(&p, std::slice::from_ref(&x)).expect("it runs");
        let found = run(&Jit::new(&p, &target).expect("it compiles"), &p, std::slice::from_ref(&x));
        assert_eq!(differences(&expected, &found), vec![], "{target}");
    }
}

/// How this thread rounds.
#[cfg(target_arch = "x86_64")]
fn mode() -> u32 {
    let mut mode = 0u32;
    // SAFETY: it writes these four bytes.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut mode) };
    mode
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_caller_rounds_as_before() {
    /// Notes how the hook finds the machine, then runs the parts.
    unsafe extern "C" fn hook(context: *mut c_void, count: usize, work: Work, data: *mut c_void) {
        // SAFETY: the test passes two numbers.
        let seen = unsafe { &mut *context.cast::<[u32; 2]>() };
        seen[0] = mode();
        for k in 0..count {
            // SAFETY: each part is run once.
            unsafe { work(data, k) };
        }
        seen[1] = mode();
    }
    let text = "kernel k(in %x: f32[16], out %y: f32[16]) part %p of 2 {
        parfor %i in %p * 8..%p * 8 + 8 step 8 { store %y[%i] = load8 %x[%i] * splat8(0.5) }
    }";
    for target in runnable().into_iter().filter(tenon_target::Target::flushes_to_zero) {
        let mut p = program(Kernel::parse(text).unwrap_or_else(|e| panic!("{e}")), target.has_fma());
        p.flush_to_zero = true;
        let jit = Jit::new(&p, &target).expect("it compiles");
        let x = Tensor::from_f64(DType::F32, &[16], &[f64::from(f32::MIN_POSITIVE); 16]);
        let before = mode();
        let mut seen = [0u32; 2];
        for env in [Env::SERIAL, Env { parallel_for: Some(hook), context: (&raw mut seen).cast(), ..Env::SERIAL }] {
            let mut y = vec![0xee; 64];
            // SAFETY: the hook runs every part once before it returns.
            unsafe { jit.run_with(&[x.bytes()], &mut [&mut y], &mut jit.arena(), &env) }.expect("it runs");
            assert_eq!(y, vec![0; 64], "{target}: each part flushes");
            assert_eq!(mode(), before);
        }
        assert_eq!(seen, [before; 2], "the hook is the caller's code");
    }
}

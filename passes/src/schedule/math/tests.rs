//! Errors of every function over its whole range, in ulp, against `std` in `f64`.

use super::*;
use crate::schedule::Unit;
use tenon_base::Tensor;
use tenon_kernel::interp::Options;
use tenon_kernel::verify::{Stage, verify_kernel};
use tenon_kernel::{Access, KernelBuilder, Memory, run_kernel};
use tenon_target::Target;

/// `f` of each element, in vectors of `lanes`; expanded, or as the interpreter has it.
fn results(f: MathFn, args: &[Tensor], lanes: u16, expanded: bool, fused: bool) -> Vec<f64> {
    results_of(&|loads| Expr::Math(f, loads), args, lanes, expanded, fused, false)
}

/// The same for what `make` writes with the loaded elements.
fn results_of(
    make: &dyn Fn(Vec<Expr>) -> Expr,
    args: &[Tensor],
    lanes: u16,
    expanded: bool,
    fused: bool,
    flush: bool,
) -> Vec<f64> {
    let (n, dtype) = (args[0].len(), args[0].dtype());
    let mut k = KernelBuilder::new("k");
    let bufs: Vec<_> = (0..args.len()).map(|i| k.buffer(&format!("x{i}"), dtype, n, Access::In)).collect();
    let out = k.buffer("y", dtype, n, Access::Out);
    k.any_loop("i", Expr::int(0), (n - n % usize::from(lanes)).into(), i64::from(lanes), true, |k, i| {
        let load = |b: &tenon_kernel::Buf| Expr::Load { buf: *b, index: Box::new(i.clone()), lanes };
        let value = make(bufs.iter().map(load).collect());
        k.store(out, i.clone(), value);
    });
    let mut unit = Unit::new(k.finish(), vec![false; args.len() + 1]);
    if expanded {
        let target = Target::parse("x86_64-linux").expect("a target");
        run(&mut unit, &ScheduleCx::new(&target, flush));
        verify_kernel(&unit.kernel, Stage::Scheduled).expect("a scheduled kernel");
    }
    let mut memory: Vec<Memory> = args.iter().map(Memory::of).collect();
    memory.push(Memory::poisoned(dtype, n));
    let options = Options { fused_multiply_add: fused, ..Options::default() };
    run_kernel(&unit.kernel, &mut memory, &options).expect("it runs");
    memory[args.len()].scalars().map(|s| s.as_f64()).collect()
}

/// The distance of `found` to `expected` in units of the last place of `dtype` at `expected`.
fn ulps(dtype: DType, found: f64, expected: f64) -> f64 {
    if found == expected && (found != 0.0 || found.is_sign_negative() == expected.is_sign_negative())
        || (found.is_nan() && expected.is_nan())
    {
        return 0.0;
    }
    let size = expected.abs();
    let ulp = if dtype == DType::F32 {
        let s = (size as f32).clamp(f32::MIN_POSITIVE, f32::MAX);
        f64::from(f32::from_bits(s.to_bits() + 1).min(f32::MAX) - s).max(f64::from(s) * 2f64.powi(-24))
    } else {
        let s = size.clamp(f64::MIN_POSITIVE, f64::MAX);
        (f64::from_bits(s.to_bits() + 1).min(f64::MAX) - s).max(s * 2f64.powi(-53))
    };
    // A wrong zero, infinity or NaN counts as far away.
    let d = (found - expected).abs() / ulp;
    if d.is_nan() {
        f64::INFINITY
    } else if d == 0.0 {
        1e9
    } else {
        d
    }
}

/// Evenly spread in value and in exponent, both signs, with the special values.
fn samples(dtype: DType, lo: f64, hi: f64) -> Vec<f64> {
    let mut v = vec![0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1.0, -1.0, 0.5, -0.5, 2.0, 1e-40, -1e-40];
    let n = 6000;
    v.extend((0..n).map(|i| lo + (hi - lo) * f64::from(i) / f64::from(n)));
    let (least, most) = if dtype == DType::F32 { (-149, 128) } else { (-1074, 1023) };
    for e in least..most {
        for f in [1.0, 1.1, 1.37, 1.9999] {
            v.extend([f * 2f64.powi(e), -f * 2f64.powi(e)]);
        }
    }
    v
}

fn worst(f: MathFn, dtype: DType, x: &[f64], y: Option<&[f64]>) -> f64 {
    let mut args = vec![Tensor::from_f64(dtype, &[x.len()], x)];
    args.extend(y.map(|y| Tensor::from_f64(dtype, &[y.len()], y)));
    let mut expected = results(f, &args, 1, false, true);
    if f == MathFn::Atanh {
        // `std` loses digits for negative arguments.
        let positive: Vec<f64> = x.iter().map(|v| v.abs()).collect();
        let size = results(f, &[Tensor::from_f64(dtype, &[x.len()], &positive)], 1, false, true);
        expected = size.iter().zip(x).map(|(s, x)| s.copysign(*x)).collect();
    }
    let mut worst = (0.0, 0);
    for (lanes, fused) in [(1, true), (1, false), (8, true)] {
        let found = results(f, &args, lanes, true, fused);
        let n = x.len() - x.len() % usize::from(lanes);
        for i in 0..n {
            let d = ulps(dtype, found[i], expected[i]);
            if d > worst.0 {
                worst = (d, i);
            }
        }
    }
    let i = worst.1;
    println!(
        "{f:?} {dtype}: {:.2} ulp at {:e}{}",
        worst.0,
        args[0].get(i).as_f64(),
        args.get(1).map_or(String::new(), |a| format!(", {:e}", a.get(i).as_f64()))
    );
    worst.0
}

#[test]
fn functions_of_one_operand_are_within_their_bounds() {
    let mut bad = vec![];
    for (f, lo, hi, ulp32, ulp64) in [
        (MathFn::Exp, -110.0, 90.0, 1.5, 2.0),
        (MathFn::Log, 0.0, 4.0, 1.5, 2.0),
        (MathFn::Tanh, -10.0, 10.0, 4.0, 4.0),
        // The reference itself is exact to 1e-15 only.
        (MathFn::Erf, -5.0, 5.0, 5.0, 10.0),
        (MathFn::Atan, -5.0, 5.0, 3.0, 3.0),
        (MathFn::Sinh, -5.0, 5.0, 1.0, 4.0),
        (MathFn::Cosh, -5.0, 5.0, 1.0, 4.0),
        (MathFn::Asin, -1.0, 1.0, 1.0, 4.0),
        (MathFn::Acos, -1.0, 1.0, 1.0, 4.0),
        (MathFn::Asinh, -5.0, 5.0, 1.0, 6.0),
        // `std` takes the logarithm of a rounded number near 1.
        (MathFn::Acosh, 1.0, 5.0, 1.0, 8.0),
        (MathFn::Atanh, -1.0, 1.0, 1.0, 6.0),
    ] {
        for (dtype, bound) in [(DType::F32, ulp32), (DType::F64, ulp64)] {
            let d = worst(f, dtype, &samples(dtype, lo, hi), None);
            if d > bound {
                bad.push(format!("{f:?} {dtype}: {d}"));
            }
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn sums_with_an_exponential_are_within_their_bound() {
    let x = samples(DType::F32, -110.0, 110.0);
    let args = [Tensor::from_f64(DType::F32, &[x.len()], &x)];
    for (c, negated) in [(1.0, false), (1.0, true), (3.5, true)] {
        for (lanes, fused) in [(1u16, true), (1, false), (8, true)] {
            let make = |loads: Vec<Expr>| {
                let x = loads[0].clone();
                let x = if negated { x.unary(UnOp::Neg) } else { x };
                Expr::constant(DType::F32, c).splat(lanes) + x.math(MathFn::Exp)
            };
            let found = results_of(&make, &args, lanes, true, fused, false);
            for (x, found) in x.iter().zip(&found).take(x.len() - x.len() % usize::from(lanes)) {
                let x = f64::from(if negated { -*x as f32 } else { *x as f32 });
                let expected = c + x.exp();
                // The last normal power of 2 is as good as infinite.
                let infinite = expected > 1.7e38 && found.is_infinite();
                assert!(infinite || ulps(DType::F32, *found, expected) <= 2.5, "{c} + e^{x}: {found} {expected}");
            }
        }
    }
}

#[test]
fn an_exponential_of_normal_numbers_is_within_its_bound() {
    let x = samples(DType::F32, -110.0, 90.0);
    let args = [Tensor::from_f64(DType::F32, &[x.len()], &x)];
    let make = |loads: Vec<Expr>| Expr::Math(MathFn::Exp, loads);
    for (lanes, fused) in [(1u16, true), (1, false), (8, true)] {
        let found = results_of(&make, &args, lanes, true, fused, true);
        for (x, found) in x.iter().zip(&found).take(x.len() - x.len() % usize::from(lanes)) {
            let expected = f64::from((f64::from(*x as f32).exp()) as f32);
            let flushed = *found == 0.0 && expected < 2f64.powf(-125.0);
            assert!(flushed || ulps(DType::F32, *found, expected) <= 2.5, "e^{x}: {found} {expected}");
            assert!(*found == 0.0 || found.is_nan() || *found >= f64::from(f32::MIN_POSITIVE), "e^{x}: {found}");
        }
    }
}

#[test]
fn trigonometry_is_within_its_bounds_up_to_a_million() {
    let mut bad = vec![];
    for f in [MathFn::Sin, MathFn::Cos, MathFn::Tan] {
        for (dtype, bound) in [(DType::F32, 1.0), (DType::F64, 4.0)] {
            let mut x: Vec<f64> = samples(dtype, -1e6, 1e6);
            x.extend(samples(dtype, -10.0, 10.0));
            x.retain(|v| !v.is_finite() || v.abs() <= 1e6);
            let d = worst(f, dtype, &x, None);
            if d > bound {
                bad.push(format!("{f:?} {dtype}: {d}"));
            }
            // Beyond: a number within ±1.
            let large: Vec<f64> = (20..127).map(|e| 1.23 * 2f64.powi(e)).collect();
            let args = [Tensor::from_f64(dtype, &[large.len()], &large)];
            let found = results(f, &args, 1, true, true);
            assert!(f == MathFn::Tan || found.iter().all(|v| v.abs() <= 1.0), "{f:?}: {found:?}");
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

/// All pairs of a list that has every kind of number.
fn pairs(dtype: DType) -> (Vec<f64>, Vec<f64>) {
    let mut v = vec![0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
    for a in [1.0, 2.0, 3.0, 0.5, 0.999, 1.0001, 7.25, 1e-3, 1e4, 1e9, 16777217.0, 1e-30, 1e30, 4.5e15, 1e-42, 3.3] {
        v.extend([a, -a]);
    }
    if dtype == DType::F64 {
        v.extend([1e300, -1e300, 1e-310, 9007199254740993.0, 1.0 + f64::EPSILON]);
    }
    let x = v.iter().flat_map(|a| v.iter().map(move |_| *a)).collect();
    let y = v.iter().flat_map(|_| v.iter().copied()).collect();
    (x, y)
}

#[test]
fn powers_are_within_their_bounds() {
    for (dtype, bound) in [(DType::F32, 1.0), (DType::F64, 2.0)] {
        let (mut x, mut y) = pairs(dtype);
        for i in 0..3000 {
            x.push(0.01 + f64::from(i) * 0.01);
            y.push(f64::from(i % 200) * 0.7 - 70.0);
        }
        let d = worst(MathFn::Pow, dtype, &x, Some(&y));
        assert!(d <= bound, "{d}");
    }
}

#[test]
fn remainders_are_exact() {
    for dtype in [DType::F32, DType::F64] {
        let (x, y) = pairs(dtype);
        assert_eq!(worst(MathFn::Fmod, dtype, &x, Some(&y)), 0.0);
    }
}

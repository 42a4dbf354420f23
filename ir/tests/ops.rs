//! Every operator's samples: inference agrees with the reference, attributes survive their text, and the lowered kernel
//! verifies and computes what the reference computes.

use std::fmt::Write;
use tenon_base::{DType, Fact, Scalar, Tensor};
use tenon_ir::op::Sample;
use tenon_ir::{LowerCx, Op, OpClass, Operator, Tolerance, ops};
use tenon_kernel::verify::{Stage, render, verify_kernel};
use tenon_kernel::{Access, Memory, run_kernel};

/// Drawn data within `range`, from a linear congruential stream (Knuth's MMIX constants).
fn draw(fact: &Fact, range: Option<(f64, f64)>, seed: u64) -> Tensor {
    let dims = fact.dims().expect("samples have known extents");
    let (lo, hi) = range.unwrap_or(if fact.dtype.is_float() { (-2.0, 2.0) } else { (0.0, 8.0) });
    let mut state = seed;
    let n: usize = dims.iter().product();
    let values = (0..n).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = (state >> 11) as f64 / (1u64 << 53) as f64;
        match fact.dtype.int_range() {
            Some(_) if fact.dtype == DType::Bool => Scalar::of_int(DType::Bool, i128::from(state >> 63)),
            Some((min, max)) => Scalar::of_int(fact.dtype, ((lo + unit * (hi - lo)).floor() as i128).clamp(min, max)),
            None => Scalar::of_f64(fact.dtype, lo + unit * (hi - lo)),
        }
    });
    Tensor::from_scalars(fact.dtype, &dims, values)
}

/// The first element that differs by more than `t` allows, in words.
fn difference(found: &[f64], expected: &Tensor, t: Tolerance) -> Option<String> {
    // A half float is rounded once more than the reference, from a value that may itself differ.
    let half = if expected.dtype() == DType::F16 && t != Tolerance::EXACT { 2e-3 } else { 0.0 };
    let e = expected.to_f64();
    let scale = e.iter().filter(|v| v.is_finite()).fold(0f64, |m, v| m.max(v.abs()));
    found.iter().zip(&e).enumerate().find_map(|(i, (x, y))| {
        let same = x == y || (x.is_nan() && y.is_nan());
        let near = (x - y).abs() <= t.absolute * scale + (t.relative + half) * y.abs() + half * 1e-3;
        (!same && !near).then(|| format!("element {i} of {} is {x}, expected {y}", expected.fact()))
    })
}

fn check(sample: &Sample) -> Result<(), String> {
    let op = &sample.op;
    let again = Op::parse(op.name(), op.attrs())?;
    if again != *op {
        return Err(format!("attributes read back as {:?}", again.attrs().0));
    }
    let range = |i: usize| sample.range.get(i).copied();
    let ins: Vec<Tensor> = sample.ins.iter().enumerate().map(|(i, f)| draw(f, range(i), 77 + i as u64)).collect();
    let facts = op.infer(&sample.ins).map_err(|e| format!("infer: {e}"))?;
    let expected = op.eval(&ins).map_err(|e| format!("eval: {e}"))?;
    let made: Vec<Fact> = expected.iter().map(Tensor::fact).collect();
    if made != facts {
        return Err(format!("inferred {facts:?}, the reference made {made:?}"));
    }
    // Branches and loops are no kernels: the engines' tests run them.
    if op.class() == OpClass::Control {
        return Ok(());
    }
    let mut cx = LowerCx::alone(op, op.name(), &sample.ins, &facts).map_err(|e| format!("lower: {e}"))?;
    op.lower(&mut cx).map_err(|e| format!("lower: {e}"))?;
    let kernel = cx.finish();
    verify_kernel(&kernel, Stage::Structured).map_err(|e| format!("verifier:\n{}", render(&kernel, &e)))?;
    let mut tensors = ins.iter();
    let mut memory: Vec<Memory> = vec![];
    for b in &kernel.buffers {
        let data = if b.access == Access::In { tensors.next() } else { None };
        // Kernels see the bits of what is only stored.
        memory.push(data.map_or_else(|| Memory::poisoned(b.dtype, b.len), |t| Memory::of(&t.carried())));
    }
    run_kernel(&kernel, &mut memory, &Default::default()).map_err(|e| format!("kernel: {e}"))?;
    let results = kernel.buffers.iter().zip(&memory).filter(|(b, _)| b.access == Access::Out).map(|(_, m)| m);
    for (found, expected) in results.zip(&expected) {
        let dtype = expected.dtype();
        let value = |s: Scalar| if dtype.is_stored() { Scalar::from_le_bytes(dtype, &s.to_le_bytes()) } else { s };
        let found: Vec<f64> = found.scalars().map(|s| value(s).as_f64()).collect();
        if let Some(d) = difference(&found, expected, op.tolerance()) {
            return Err(format!("kernel against reference: {d}"));
        }
    }
    Ok(())
}

#[test]
fn every_sample_agrees() {
    let mut failures = String::new();
    for (file, samples) in ops::all_samples() {
        // Symbolic values have no data to test on.
        assert!(
            samples.len() >= 3 || file == "symbolic",
            "{file} has {} samples, expected at least 3",
            samples.len()
        );
        for s in samples {
            if let Err(e) = check(&s) {
                let ins: Vec<String> = s.ins.iter().map(ToString::to_string).collect();
                let _ = writeln!(failures, "{file}: {} {:?} on {}: {e}", s.op.name(), s.op.attrs().0, ins.join(", "));
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

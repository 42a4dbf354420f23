//! Every operator's samples on every engine: reference interpreter, structured kernel, scheduled kernel, JIT and linked
//! object. The first neighbouring pair that disagrees names the layer at fault.

use std::fmt::Write;
use tenon::engine::{Engine, Session};
use tenon::ir::{Graph, Operator, ops};
use tenon::{Compiler, DType, Fact, Loc, Options, Phase, Scalar, Target, Tensor};
use tenon_ir::op::{Sample, Tolerance};

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
fn difference(found: &Tensor, expected: &Tensor, t: Tolerance) -> Option<String> {
    if found.fact() != expected.fact() {
        return Some(format!("{} against {}", found.fact(), expected.fact()));
    }
    // A half float is rounded once more than the reference, from a value that may itself differ.
    let half = if found.dtype() == DType::F16 && t != Tolerance::EXACT { 2e-3 } else { 0.0 };
    let e = expected.to_f64();
    let scale = e.iter().filter(|v| v.is_finite()).fold(0f64, |m, v| m.max(v.abs()));
    found.to_f64().iter().zip(&e).enumerate().find_map(|(i, (x, y))| {
        let same = x == y || (x.is_nan() && y.is_nan());
        let near = (x - y).abs() <= t.absolute * scale + (t.relative + half) * y.abs() + half * 1e-3;
        (!same && !near).then(|| format!("element {i} is {x}, expected {y}"))
    })
}

fn graph_of(sample: &Sample) -> Graph {
    let mut g = Graph::new("sample");
    let ins: Vec<_> = sample.ins.iter().enumerate().map(|(i, f)| g.add_input(format!("x{i}"), f.clone())).collect();
    let outs = g.add_op(sample.op.clone(), &ins, Loc::new("op")).expect("a sample is well typed");
    for (i, v) in outs.into_iter().enumerate() {
        g.add_output(format!("y{i}"), v);
    }
    g
}

/// Runs one sample everywhere; says where it first goes wrong.
fn check(file: &str, sample: &Sample, target: &Target, link: bool) -> Option<String> {
    let graph = graph_of(sample);
    let range = |i: usize| sample.range.get(i).copied();
    let inputs: Vec<Tensor> = sample.ins.iter().enumerate().map(|(i, f)| draw(f, range(i), 77 + i as u64)).collect();
    let facts: Vec<String> = sample.ins.iter().map(ToString::to_string).collect();
    let label = format!("{file}: {} {:?} on {}", sample.op.name(), sample.op.attrs().0, facts.join(", "));
    let fail = |layer: &str, what: String| Some(format!("{label}: {layer}: {what}"));
    let tolerance = sample.op.tolerance();
    let compiler = Compiler::new(Options::new(target.clone()));
    let reference = match tenon::ir::eval::run(&graph, &inputs) {
        Ok(t) => t,
        Err(e) => return fail("reference", e.to_string()),
    };
    let structured = match compiler.run_to(graph.clone(), Phase::Lowered) {
        Ok(s) => s,
        Err(e) => return fail("lowering", e.to_string()),
    };
    let lowered = match tenon::kernel::run_program(&structured.program, &inputs) {
        Ok(t) => t,
        Err(e) => return fail("structured kernel", e.to_string()),
    };
    for (x, y) in lowered.iter().zip(&reference) {
        if let Some(d) = difference(x, y, tolerance) {
            return fail("lowering (structured kernel against reference)", d);
        }
    }
    let compiled = match compiler.compile_graph(graph) {
        Ok(c) => c,
        Err(e) => return fail("schedule", e.to_string()),
    };
    let mut before = reference;
    let engines: &[Engine] = if link { &Engine::ALL[1..] } else { &[Engine::Kernel, Engine::Jit] };
    for &engine in engines {
        let found = match Session::new(engine, &compiled).and_then(|s| s.run(&inputs)) {
            Ok(t) => t,
            Err(e) => return fail(engine.name(), e.to_string()),
        };
        // The scheduled kernel may sum in another order; machine code must then give the same bits.
        let allowed = if engine == Engine::Kernel { tolerance } else { Tolerance::EXACT };
        for (x, y) in found.iter().zip(&before) {
            if let Some(d) = difference(x, y, allowed) {
                return fail(&format!("{engine} (against the engine before it)"), d);
            }
        }
        before = found;
    }
    None
}

fn run(target: &Target, link: bool) {
    let mut failures = String::new();
    let (mut total, mut failed) = (0, 0);
    for (file, samples) in ops::all_samples() {
        // Linking takes longer than the rest together: the first sample of each operator is linked.
        for (i, sample) in samples.iter().enumerate() {
            total += 1;
            if let Some(f) = check(file, sample, target, link && i == 0) {
                failed += 1;
                let _ = writeln!(failures, "{f}");
            }
        }
    }
    assert!(failures.is_empty(), "{failed} of {total} samples disagree:\n{failures}");
}

#[test]
fn every_operator_agrees_on_every_engine() {
    run(&tenon::target::host().expect("a known machine"), true);
}

/// The oldest x86-64 has no fused multiply-add, no rounding instructions and few vector operations.
#[cfg(target_arch = "x86_64")]
#[test]
fn every_operator_agrees_on_the_oldest_target() {
    run(&Target::parse("x86_64-linux/x86-64-v1").expect("a preset"), false);
}

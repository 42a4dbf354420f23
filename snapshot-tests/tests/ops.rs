//! Every operator's samples: inference agrees with the reference, attributes survive their text, and the lowered kernel
//! verifies and computes what the reference computes.

use std::fmt::Write;
use tenon_base::{Fact, Scalar, Tensor};
use tenon_ir::op::Sample;
use tenon_ir::{LowerCx, Op, OpClass, Operator, ops};
use tenon_kernel::verify::{Stage, render, verify_kernel};
use tenon_kernel::{Access, Memory, run_kernel};
use tenon_snapshot_tests::data::{compare, draw};

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
        let found = Tensor::from_scalars(dtype, expected.shape(), found.scalars().map(value));
        let c = compare(&found, expected, op.tolerance(), 0.0);
        if !c.ok() {
            return Err(format!("kernel against reference: {c}"));
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

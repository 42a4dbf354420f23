//! Random scheduled kernels: machine code gives the interpreter's bits.

#[path = "../../../ir/kernel/tests/common/mod.rs"]
mod common;
mod support;

use common::{Stream, decisions, kernel, memories};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use support::program;
use tenon_base::Tensor;
use tenon_cranelift::{Jit, compile_object};
use tenon_kernel::interp::Options;
use tenon_kernel::{Access, Kernel, Memory, Stage, run_kernel, verify_kernel};
use tenon_target::Target;

fn config() -> ProptestConfig {
    ProptestConfig { cases: 600, rng_seed: RngSeed::Fixed(0), failure_persistence: None, ..ProptestConfig::default() }
}

/// Runs `k` on `memories` by machine code; memory that is not written is poisoned as in the interpreter.
fn run_jit(k: &Kernel, memories: &[Memory], target: &Target) -> Result<Vec<Vec<u8>>, String> {
    let mut p = program(k.clone(), target.has_fma());
    p.flush_to_zero = target.flushes_to_zero();
    let jit = Jit::new(&p, target).map_err(|e| e.to_string())?;
    let of = |a: Access| k.buffers.iter().zip(memories).filter(move |(b, _)| b.access == a).map(|(_, m)| m);
    let inputs: Vec<&[u8]> = of(Access::In).map(|m| m.bytes.as_slice()).collect();
    let mut outputs: Vec<Vec<u8>> = of(Access::Out).map(|m| Memory::poisoned(m.dtype, m.len()).bytes).collect();
    let mut slices: Vec<&mut [u8]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
    let mut arena = jit.arena();
    for pair in arena.as_mut_slice().chunks_exact_mut(2) {
        pair.copy_from_slice(&Memory::POISON);
    }
    jit.run(&inputs, &mut slices, &mut arena).map_err(|e| e.to_string())?;
    Ok(outputs)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn machine_code_gives_the_interpreters_bits(data in decisions(900), values in decisions(200), level in 0usize..4) {
        let k = kernel(Stream::new(data), true);
        prop_assume!(verify_kernel(&k, Stage::Scheduled).is_ok());
        let levels = support::runnable();
        let target = &levels[level % levels.len()];
        let mut expected = memories(&mut Stream::new(values));
        let inputs = expected.clone();
        let (fused_multiply_add, flush_to_zero) = (target.has_fma(), target.flushes_to_zero());
        let options = Options { fused_multiply_add, flush_to_zero, max_steps: 100_000 };
        prop_assume!(run_kernel(&k, &mut expected, &options).is_ok());
        let found = run_jit(&k, &inputs, target).map_err(|e| TestCaseError::fail(format!("{target}: {e}\n{k}")))?;
        let tensors = |all: Vec<(tenon_base::DType, Vec<u8>)>| -> Vec<Tensor> {
            all.into_iter().map(|(d, b)| Tensor::from_bytes(d, &[b.len() / d.size()], b.into()).unwrap()).collect()
        };
        let out = |k: &Kernel| k.buffers.iter().zip(&expected).filter(|(b, _)| b.access == Access::Out)
            .map(|(b, m)| (b.dtype, m.bytes.clone())).collect::<Vec<_>>();
        let expected = out(&k);
        let found = expected.iter().zip(found).map(|((d, _), b)| (*d, b)).collect();
        let wrong = support::differences(&tensors(expected), &tensors(found));
        prop_assert!(wrong.is_empty(), "{}: {:?}\n{}", target, wrong, k);
    }

    #[test]
    fn random_kernels_compile_everywhere(data in decisions(900), which in 0usize..7) {
        let k = kernel(Stream::new(data), true);
        prop_assume!(verify_kernel(&k, Stage::Scheduled).is_ok());
        let target = &support::foreign()[which];
        let p = program(k, target.has_fma());
        prop_assert!(compile_object(&p, target).is_ok(), "{}: {:?}", target, compile_object(&p, target).err());
    }
}

//! How a run rounds: subnormal results become zero where the program says so ([`Program::flush_to_zero`]), and the caller's way is given back.
//!
//! CLIF knows nothing of the register in question, so a function of two instructions exchanges it.

use cranelift_codegen::ir::{AbiParam, Signature, types};
use cranelift_codegen::isa::CallConv;
use tenon_kernel::Program;

/// `void exchange(uint32_t *old, const uint32_t *new)` in the convention of System V, on every system.
pub(crate) const EXCHANGE: [u8; 7] = [
    0x0f, 0xae, 0x1f, // stmxcsr [rdi]
    0x0f, 0xae, 0x16, // ldmxcsr [rsi]
    0xc3, // ret
];

/// To the nearest, no exception raised, subnormal results flushed (Intel, *Software Developer's Manual*, volume 1, 10.2.3).
pub(crate) const FLUSHING: u32 = 0x9f80;

/// The signature of [`EXCHANGE`].
pub(crate) fn exchange_signature() -> Signature {
    let mut sig = Signature::new(CallConv::SystemV);
    sig.params = vec![AbiParam::new(types::I64); 2];
    sig
}

/// Whether a run of `program` changes how the machine rounds.
pub(crate) fn changes(program: &Program) -> bool {
    program.flush_to_zero && !program.kernels.is_empty()
}

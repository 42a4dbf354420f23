//! What the backend relies on, checked once, while it already goes on: what is made of a program that fails is thrown away.

use crate::compile::Kernels;
use crate::error::BackendError;
use crate::isa::Isas;
use crate::options::Haste;
use rayon::prelude::*;
use tenon_kernel::{BufferKind, Program, Stage, VerifyError, verify_around, verify_kernel};
use tenon_target::Target;

/// Constant data that 32-bit displacements surely reach.
const MAX_WEIGHTS: usize = 3 << 29;

/// The machine code of `p`, once `p` is known to be what the backend relies on: the two go on at the same time.
///
/// # Errors
/// As [`program`], whatever became of the code; those of compiling.
pub(crate) fn compiled(
    p: &Program,
    target: &Target,
    isas: &Isas,
    separate_weights: bool,
    haste: Haste,
) -> Result<Kernels, BackendError> {
    let (kernels, checked) =
        rayon::join(|| Kernels::compile(p, target, isas, haste), || program(p, target, separate_weights));
    checked.and(kernels)
}

/// # Errors
/// The program does not verify as scheduled, is not planned, or is not for `target`.
fn program(p: &Program, target: &Target, separate_weights: bool) -> Result<(), BackendError> {
    let fail = |reason: String| Err(BackendError::Program(reason));
    let kernels: Vec<Vec<VerifyError>> =
        p.kernels.par_iter().with_max_len(1).filter_map(|k| verify_kernel(k, Stage::Scheduled).err()).collect();
    let errors = match kernels.is_empty() {
        true => verify_around(p).err().unwrap_or_default(),
        false => kernels.into_iter().flatten().collect(),
    };
    if !errors.is_empty() {
        let shown: Vec<String> = errors.iter().take(5).map(ToString::to_string).collect();
        let more = errors.len().saturating_sub(shown.len());
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        return fail(format!("{}{more}", shown.join("; ")));
    }
    if let Some(b) = p.buffers.iter().find(|b| b.kind == BufferKind::Arena(None)) {
        return fail(format!("buffer %{} has no place in the arena: run the plan first", b.name));
    }
    if p.fused_multiply_add && !target.has_fma() {
        return fail(format!(
            "it was scheduled for a machine with fused multiply-add, which {target} lacks: schedule it for this target"
        ));
    }
    if p.flush_to_zero && !target.flushes_to_zero() {
        return fail(format!(
            "it was scheduled for a machine that flushes subnormal results to zero, which {target} does not: schedule it for this target"
        ));
    }
    if p.weight_bytes() > MAX_WEIGHTS && !separate_weights {
        return fail(format!(
            "its constants take {} bytes; code reaches {MAX_WEIGHTS} of them: put them into a file of their own",
            p.weight_bytes()
        ));
    }
    Ok(())
}

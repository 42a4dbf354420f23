//! What the backend relies on, checked once: everything the entry point turns into addresses.

use crate::error::BackendError;
use tenon_kernel::{Access, BufferKind, Call, Program};
use tenon_target::Target;

/// # Errors
/// Names the call or buffer that does not fit.
pub(crate) fn program(p: &Program, target: &Target) -> Result<(), BackendError> {
    let fail = |reason: String| Err(BackendError::Program(reason));
    let identifier = |s: &str| {
        s.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if !identifier(&p.name) {
        return fail(format!("its name, `{}`, is not a C identifier", p.name));
    }
    if p.fused_multiply_add && !target.has_fma() {
        return fail(format!(
            "it was scheduled for a machine with fused multiply-add, which {target} lacks: schedule it for this target"
        ));
    }
    if p.weight_bytes() > 3 << 29 {
        return fail(format!(
            "its constants take {} bytes; code reaches {} bytes of them",
            p.weight_bytes(),
            3u64 << 29
        ));
    }
    for b in &p.buffers {
        let bad = |what: String| fail(format!("buffer %{}: {what}", b.name));
        let Some(bytes) = b.len.checked_mul(b.dtype.size()) else {
            return bad("it is larger than the address space".into());
        };
        match &b.kind {
            BufferKind::Input(k) if *k >= p.inputs.len() => return bad(format!("there is no input {k}")),
            BufferKind::Output(k) if *k >= p.outputs.len() => return bad(format!("there is no output {k}")),
            BufferKind::Const(t) if (t.dtype(), t.bytes().len()) != (b.dtype, bytes) => {
                return bad(format!("expected {bytes} bytes of {}, found {} of {}", b.dtype, t.bytes().len(), t.dtype()));
            }
            BufferKind::Arena(None) => return bad("it has no place in the arena: run the plan first".into()),
            BufferKind::Arena(Some(at)) => {
                let fits = at.checked_add(bytes).is_some_and(|end| end <= p.arena_bytes);
                if !fits || at % b.dtype.size() != 0 {
                    return bad(format!("{bytes} bytes at {at} do not fit the arena of {} bytes", p.arena_bytes));
                }
            }
            _ => {}
        }
    }
    p.calls.iter().enumerate().try_for_each(|(i, c)| call(p, c).or_else(|e| fail(format!("call {i}: {e}"))))
}

fn call(p: &Program, c: &Call) -> Result<(), String> {
    let kernel = p.kernels.get(c.kernel).ok_or_else(|| format!("there is no kernel {}", c.kernel))?;
    if c.args.len() != kernel.buffers.len() {
        return Err(format!("`{}` expects {} buffers, found {}", kernel.name, kernel.buffers.len(), c.args.len()));
    }
    for (id, param) in c.args.iter().zip(&kernel.buffers) {
        let arg = p.buffers.get(id.0 as usize).ok_or_else(|| format!("there is no buffer {}", id.0))?;
        if (arg.dtype, arg.len) != (param.dtype, param.len) {
            return Err(format!(
                "%{} of `{}` expects {}[{}], found %{}: {}[{}]",
                param.name, kernel.name, param.dtype, param.len, arg.name, arg.dtype, arg.len
            ));
        }
        if param.access != Access::In && matches!(arg.kind, BufferKind::Input(_) | BufferKind::Const(_)) {
            return Err(format!("`{}` writes %{}, which is read only", kernel.name, arg.name));
        }
    }
    Ok(())
}

//! Buffers, calls and memory of a program.

use crate::{Access, BufferId, BufferKind, Call, Io, Kernel, Program, ProgramBuffer};
use std::collections::BTreeSet;
use std::ops::Range;

/// All violations; the kernels themselves are verified.
pub(super) fn check(program: &Program) -> Vec<String> {
    let mut found = vec![];
    declarations(program, &mut found);
    // The calls are checked against declarations that hold.
    if found.is_empty() {
        calls(program, &mut found);
    }
    found
}

fn unique<'a>(names: impl Iterator<Item = &'a String>, what: &str, found: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for n in names {
        if !seen.insert(n) {
            found.push(format!("two {what} are named \"{n}\""));
        }
    }
}

/// The elements of an input or output; `None` where they are not known or too many.
fn elements(io: &Io) -> Option<usize> {
    let n = io.fact.dims()?.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
    n.checked_mul(io.fact.dtype.size()).and_then(|b| isize::try_from(b).ok()).map(|_| n)
}

fn declarations(p: &Program, found: &mut Vec<String>) {
    let mut chars = p.name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !first || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        found.push(format!("the program's name \"{}\" is not a C identifier", p.name));
    }
    unique(p.kernels.iter().map(|k| &k.name), "kernels", found);
    unique(p.buffers.iter().map(|b| &b.name), "buffers", found);
    unique(p.inputs.iter().map(|b| &b.name), "inputs", found);
    unique(p.outputs.iter().map(|b| &b.name), "outputs", found);
    for io in p.inputs.iter().chain(&p.outputs) {
        if elements(io).is_none() {
            found.push(format!("\"{}\" has no known size: {}", io.name, io.fact));
        }
    }
    for b in &p.buffers {
        if let Err(message) = buffer(p, b) {
            found.push(format!("buffer %{}: {message}", b.name));
        }
    }
    let count = |kind: BufferKind| p.buffers.iter().filter(|b| b.kind == kind).count();
    for (k, io) in p.inputs.iter().enumerate() {
        if count(BufferKind::Input(k)) > 1 {
            found.push(format!("input \"{}\" has more than one buffer", io.name));
        }
    }
    for (k, io) in p.outputs.iter().enumerate() {
        if count(BufferKind::Output(k)) != 1 {
            found.push(format!("output \"{}\" has {} buffers, not 1", io.name, count(BufferKind::Output(k))));
        }
    }
}

fn buffer(p: &Program, b: &ProgramBuffer) -> Result<(), String> {
    let bytes = b.len.checked_mul(b.dtype.size()).filter(|n| isize::try_from(*n).is_ok());
    let Some(bytes) = bytes else {
        return Err("larger than the address space".into());
    };
    match &b.kind {
        BufferKind::Input(k) | BufferKind::Output(k) => {
            let is_input = matches!(b.kind, BufferKind::Input(_));
            let (list, what) = if is_input { (&p.inputs, "input") } else { (&p.outputs, "output") };
            let io = list.get(*k).ok_or_else(|| format!("there is no {what} {k}"))?;
            if io.fact.dtype.carrier() != b.dtype || elements(io) != Some(b.len) {
                return Err(format!("{}[{}] is not the size of {what} \"{}\": {}", b.dtype, b.len, io.name, io.fact));
            }
        }
        BufferKind::Const(t) => {
            if t.dtype() != b.dtype || t.len() != b.len {
                return Err(format!("{}[{}] holds a constant {}", b.dtype, b.len, t.fact()));
            }
        }
        BufferKind::Arena(None) => {}
        BufferKind::Arena(Some(at)) => {
            if !at.is_multiple_of(Program::ALIGN) {
                return Err(format!("its offset {at} is not a multiple of {}", Program::ALIGN));
            }
            if at.checked_add(bytes).is_none_or(|end| end > p.arena_bytes) {
                return Err(format!("its {bytes} bytes at {at} end past the arena's {}", p.arena_bytes));
            }
        }
    }
    Ok(())
}

/// The arena bytes of a buffer, if it has any.
fn placed(b: &ProgramBuffer) -> Option<Range<usize>> {
    match b.kind {
        BufferKind::Arena(Some(at)) if b.len > 0 => Some(at..at + b.bytes()),
        _ => None,
    }
}

/// Whether two buffers share memory.
fn overlap(p: &Program, a: BufferId, b: BufferId) -> bool {
    match (placed(p.buffer(a)), placed(p.buffer(b))) {
        (Some(x), Some(y)) => x.start < y.end && y.start < x.end,
        _ => a == b && p.buffer(a).len > 0,
    }
}

/// What a buffer holds between calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contents {
    /// Nothing was written to it yet.
    Undefined,
    Valid,
    /// This call's result was written over it.
    Overwritten(usize),
}

fn calls(p: &Program, found: &mut Vec<String>) {
    let constant = |b: &ProgramBuffer| matches!(b.kind, BufferKind::Input(_) | BufferKind::Const(_));
    let mut contents: Vec<Contents> = p
        .buffers
        .iter()
        .map(|b| if constant(b) || b.len == 0 { Contents::Valid } else { Contents::Undefined })
        .collect();
    for (n, call) in p.calls.iter().enumerate() {
        let Some(kernel) = p.kernels.get(call.kernel) else {
            found.push(format!("call {n}: there is no kernel {}", call.kernel));
            continue;
        };
        let mut error = |message: String| {
            found.push(format!("call {n} of {} at {}: {message}", kernel.name, call.loc));
        };
        if let Err(message) = arguments(p, kernel, call) {
            error(message);
            continue;
        }
        let args = || call.args.iter().zip(&kernel.buffers);
        for (id, b) in args().filter(|(_, b)| b.access == Access::In) {
            let name = &p.buffer(*id).name;
            match contents[id.0 as usize] {
                Contents::Valid => {}
                Contents::Undefined => error(format!("%{} reads %{name}, which nothing has written", b.name)),
                Contents::Overwritten(by) => {
                    error(format!("%{} reads %{name}, whose memory call {by} has written over", b.name));
                }
            }
        }
        for (id, b) in args().filter(|(_, b)| b.access != Access::In) {
            if constant(p.buffer(*id)) {
                error(format!("%{} writes %{}, which is read only", b.name, p.buffer(*id).name));
            }
            for (other, c) in contents.iter_mut().enumerate() {
                if *c == Contents::Valid && overlap(p, *id, BufferId(other as u32)) {
                    *c = Contents::Overwritten(n);
                }
            }
        }
        // What a kernel leaves in scratch memory is undefined.
        for (id, _) in args().filter(|(_, b)| b.access == Access::Out) {
            contents[id.0 as usize] = Contents::Valid;
        }
    }
    for (b, c) in p.buffers.iter().zip(&contents) {
        if matches!(b.kind, BufferKind::Output(_)) && *c != Contents::Valid {
            found.push(format!("output buffer %{} is never written", b.name));
        }
    }
}

/// The arguments of `call` fit the parameters of `kernel` and do not overlap where they must not.
fn arguments(p: &Program, kernel: &Kernel, call: &Call) -> Result<(), String> {
    if call.args.len() != kernel.buffers.len() {
        return Err(format!("expected {} arguments, found {}", kernel.buffers.len(), call.args.len()));
    }
    for (id, b) in call.args.iter().zip(&kernel.buffers) {
        let Some(arg) = p.buffers.get(id.0 as usize) else {
            return Err(format!("there is no buffer {}", id.0));
        };
        if (arg.dtype, arg.len) != (b.dtype, b.len) {
            return Err(format!(
                "%{} is {}[{}], its argument %{} is {}[{}]",
                b.name, b.dtype, b.len, arg.name, arg.dtype, arg.len
            ));
        }
    }
    let params = &kernel.buffers;
    for (i, &a) in call.args.iter().enumerate() {
        for (j, &b) in call.args.iter().enumerate().skip(i + 1) {
            let both_read = params[i].access == Access::In && params[j].access == Access::In;
            if both_read || !overlap(p, a, b) {
                continue;
            }
            let pair = |x: usize, y: usize| {
                kernel.in_place.iter().any(|(input, output)| (input.0 as usize, output.0 as usize) == (x, y))
            };
            let start = |id: BufferId| placed(p.buffer(id)).map(|r| r.start);
            if !(pair(i, j) || pair(j, i)) || start(a) != start(b) {
                return Err(format!(
                    "%{} and %{} share memory (%{} and %{}), which the kernel does not allow",
                    params[i].name,
                    params[j].name,
                    p.buffer(a).name,
                    p.buffer(b).name
                ));
            }
        }
    }
    Ok(())
}

//! Buffers, steps and memory of a program.

use crate::text::MAX_DEPTH;
use crate::{Access, BufferId, BufferKind, Call, If, Io, Kernel, Loop, Program, ProgramBuffer, Step};
use std::collections::BTreeSet;
use std::ops::Range;
use tenon_base::DType;

/// All violations; the kernels themselves are verified.
pub(super) fn check(program: &Program) -> Vec<String> {
    let mut found = vec![];
    declarations(program, &mut found);
    // The calls are checked against declarations that hold.
    if found.is_empty() {
        steps(program, &mut found);
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
    unique(p.states.iter().map(|b| &b.name), "states", found);
    states(p, found);
    for (k, by) in &p.sized {
        let fits = p
            .outputs
            .get(*k)
            .zip(p.outputs.get(*by))
            .is_some_and(|(y, dims)| dims.fact == tenon_base::Fact::of(DType::I64, &[y.fact.shape.rank()]));
        if !fits {
            found.push(format!("output {k} is sized by output {by}, which is not a vector of its extents"));
        }
    }
    for (k, (least, most)) in &p.bounded {
        let scalar = p.inputs.get(*k).is_some_and(|i| i.fact == tenon_base::Fact::of(DType::I64, &[]));
        if !scalar || *least < 0 || least > most {
            found.push(format!(
                "input {k} is bounded by {least} and {most}, but is not one i64, or these are no bounds"
            ));
        }
    }
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

fn states(p: &Program, found: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (s, at) in p.states.iter().zip(p.state_offsets()) {
        let io = Io { name: s.name.clone(), fact: s.fact.clone() };
        let fits = p.buffers.get(s.buffer.0 as usize).is_some_and(|b| {
            let placed = match b.kind {
                BufferKind::Arena(None) => true,
                BufferKind::Arena(Some(offset)) => offset == at,
                _ => false,
            };
            placed && b.dtype == s.fact.dtype.carrier() && Some(b.len) == elements(&io)
        });
        if !fits || !seen.insert(s.buffer) {
            found.push(format!(
                "state \"{}\": its buffer is not a {} of its own at {at} of the arena",
                s.name, s.fact
            ));
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

/// Checks steps in the order of their text, knowing what every buffer holds.
struct Walk<'p, 'f> {
    p: &'p Program,
    found: &'f mut Vec<String>,
    contents: Vec<Contents>,
    /// Calls so far, for messages.
    calls: usize,
    /// Blocks around.
    depth: usize,
}

/// Inputs and constants.
fn read_only(b: &ProgramBuffer) -> bool {
    matches!(b.kind, BufferKind::Input(_) | BufferKind::Const(_))
}

fn steps(p: &Program, found: &mut Vec<String>) {
    let contents = p
        .buffers
        .iter()
        .enumerate()
        .map(|(i, b)| {
            let kept = p.states.iter().any(|s| s.buffer.0 as usize == i);
            if read_only(b) || b.len == 0 || kept { Contents::Valid } else { Contents::Undefined }
        })
        .collect();
    let mut w = Walk { p, found, contents, calls: 0, depth: 0 };
    w.block(&p.steps);
    let contents = w.contents;
    for s in &p.states {
        if contents[s.buffer.0 as usize] != Contents::Valid {
            found.push(format!("state \"{}\" is written over by something else", s.name));
        }
    }
    for (b, c) in p.buffers.iter().zip(&contents) {
        if matches!(b.kind, BufferKind::Output(_)) && *c != Contents::Valid {
            found.push(format!("output buffer %{} is never written", b.name));
        }
    }
}

impl Walk<'_, '_> {
    fn block(&mut self, steps: &[Step]) {
        if self.depth >= MAX_DEPTH {
            self.found.push(format!("steps nest more than {MAX_DEPTH} deep"));
            return;
        }
        self.depth += 1;
        for s in steps {
            match s {
                Step::Call(c) => self.call(c),
                Step::If(s) => self.branch(s),
                Step::Loop(s) => self.repeat(s),
            }
        }
        self.depth -= 1;
    }

    /// What both blocks leave is known after.
    fn branch(&mut self, s: &If) {
        self.control(s.cond, DType::Bool, "the condition", &format!("if at {}", s.loc));
        let before = self.contents.clone();
        self.block(&s.then);
        let then = std::mem::replace(&mut self.contents, before);
        self.block(&s.otherwise);
        self.join(&then);
    }

    /// The body begins with what is known before the first iteration as well as after any other.
    fn repeat(&mut self, s: &Loop) {
        let at = format!("loop at {}", s.loc);
        if s.trip.is_none() && s.cond.is_none() {
            self.found.push(format!("{at}: it has neither a trip count nor a condition"));
        }
        if let Some(trip) = s.trip {
            self.control(trip, DType::I64, "the trip count", &at);
        }
        let calls = self.calls;
        loop {
            let errors = self.found.len();
            if let Some(cond) = s.cond {
                self.control(cond, DType::Bool, "the condition", &at);
            }
            let before = self.contents.clone();
            if let Some(iter) = s.iter {
                self.counter(iter, &at);
            }
            self.calls = calls;
            self.block(&s.body);
            self.join(&before);
            // Knowledge only shrinks, so this ends.
            if self.contents == before {
                break;
            }
            self.found.truncate(errors);
        }
        // The condition is read once more in the end.
        if let Some(cond) = s.cond {
            self.control(cond, DType::Bool, "the condition", &at);
        }
    }

    /// A buffer that control reads.
    fn control(&mut self, id: BufferId, dtype: DType, what: &str, at: &str) {
        let Some(b) = self.p.buffers.get(id.0 as usize) else {
            self.found.push(format!("{at}: there is no buffer {}", id.0));
            return;
        };
        if (b.dtype, b.len) != (dtype, 1) {
            self.found.push(format!("{at}: {what} is %{}: {}[{}], not one {dtype}", b.name, b.dtype, b.len));
        } else if let Some(why) = self.missing(id) {
            self.found.push(format!("{at}: {what} is %{}, {why}", b.name));
        }
    }

    /// The buffer that a loop counts in.
    fn counter(&mut self, id: BufferId, at: &str) {
        match self.p.buffers.get(id.0 as usize) {
            Some(b) if (b.dtype, b.len) == (DType::I64, 1) && matches!(b.kind, BufferKind::Arena(_)) => {
                self.overwrite(id, self.calls);
                self.contents[id.0 as usize] = Contents::Valid;
            }
            Some(b) => self.found.push(format!("{at}: it counts in %{}, which is not one i64 in the arena", b.name)),
            None => self.found.push(format!("{at}: there is no buffer {}", id.0)),
        }
    }

    fn join(&mut self, other: &[Contents]) {
        for (c, o) in self.contents.iter_mut().zip(other) {
            if *c == Contents::Valid {
                *c = *o;
            }
        }
    }

    /// Why `id` has no contents to read.
    fn missing(&self, id: BufferId) -> Option<String> {
        match self.contents[id.0 as usize] {
            Contents::Valid => None,
            Contents::Undefined => Some("which nothing has written".into()),
            Contents::Overwritten(by) => Some(format!("whose memory call {by} has written over")),
        }
    }

    fn overwrite(&mut self, id: BufferId, by: usize) {
        for other in 0..self.contents.len() {
            if self.contents[other] == Contents::Valid && overlap(self.p, id, BufferId(other as u32)) {
                self.contents[other] = Contents::Overwritten(by);
            }
        }
    }

    fn call(&mut self, call: &Call) {
        let (p, n) = (self.p, self.calls);
        self.calls += 1;
        let Some(kernel) = p.kernels.get(call.kernel) else {
            self.found.push(format!("call {n}: there is no kernel {}", call.kernel));
            return;
        };
        let label = format!("call {n} of {} at {}", kernel.name, call.loc);
        if let Err(message) = arguments(p, kernel, call) {
            self.found.push(format!("{label}: {message}"));
            return;
        }
        let args = || call.args.iter().zip(&kernel.buffers);
        for (id, b) in args().filter(|(_, b)| matches!(b.access, Access::In | Access::InOut)) {
            if let Some(why) = self.missing(*id) {
                self.found.push(format!("{label}: %{} reads %{}, {why}", b.name, p.buffer(*id).name));
            }
        }
        for (id, b) in args().filter(|(_, b)| b.access != Access::In) {
            if read_only(p.buffer(*id)) {
                self.found.push(format!("{label}: %{} writes %{}, which is read only", b.name, p.buffer(*id).name));
            }
            self.overwrite(*id, n);
        }
        // What a kernel leaves in scratch memory is undefined.
        for (id, _) in args().filter(|(_, b)| matches!(b.access, Access::Out | Access::InOut)) {
            self.contents[id.0 as usize] = Contents::Valid;
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

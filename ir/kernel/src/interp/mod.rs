//! The kernel interpreter: structured and scheduled kernels and whole programs, one operation at a time.
//!
//! For scheduled kernels it gives the same bits as machine code. Contractions run in the order of their text, the
//! reduction innermost, in the accumulator's type; mathematical functions are computed in `f64` and rounded once.
//!
//! It expects what the verifier accepts, yet trusts nothing: every access is checked, and what has no meaning is an
//! [`InterpError`]. Memory that was never written holds [`Memory::POISON`], a NaN in every float type.

mod compile;
mod contract;
mod flush;
mod math;
mod run;
mod steps;
mod tiles;
mod value;

pub use math::erf;

use crate::{Access, BufferKind, Kernel, Program};
use run::{Machine, View};
use std::borrow::Cow;
use std::fmt;
use tenon_base::{DType, Scalar, Tensor};

/// How to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether `fma` rounds once: see [`Program::fused_multiply_add`].
    pub fused_multiply_add: bool,
    /// Whether subnormal results are zero: see [`Program::flush_to_zero`].
    pub flush_to_zero: bool,
    /// Loop iterations after which a kernel is taken to hang.
    pub max_steps: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { fused_multiply_add: true, flush_to_zero: false, max_steps: 1 << 40 }
    }
}

/// Why a kernel or program did not run to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterpError {
    /// An access outside a buffer.
    Bounds {
        /// In which kernel.
        kernel: String,
        /// To which of its buffers.
        buffer: String,
        /// The first element asked for.
        index: i64,
        /// How many elements.
        lanes: usize,
        /// Elements of the buffer.
        len: usize,
    },
    /// The kernel would not pass the verifier.
    Malformed {
        /// Which kernel.
        kernel: String,
        /// What is wrong with it.
        message: String,
    },
    /// Buffers, inputs or calls do not fit the declarations.
    Arguments(String),
    /// More loop iterations than [`Options::max_steps`].
    Steps {
        /// In which kernel.
        kernel: String,
        /// The limit.
        limit: u64,
    },
}

impl fmt::Display for InterpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InterpError::Bounds { kernel, buffer, index, lanes, len } => write!(
                f,
                "kernel {kernel}: access to {lanes} element(s) at index {index} of %{buffer}, which has {len}"
            ),
            InterpError::Malformed { kernel, message } => write!(f, "kernel {kernel}: {message}"),
            InterpError::Arguments(message) => f.write_str(message),
            InterpError::Steps { kernel, limit } => {
                write!(f, "kernel {kernel}: stopped after {limit} loop iterations")
            }
        }
    }
}

impl std::error::Error for InterpError {}

/// The memory of one buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Element type.
    pub dtype: DType,
    /// The elements, little-endian.
    pub bytes: Vec<u8>,
}

impl Memory {
    /// What memory holds before it is written: these two bytes repeated, a NaN in every float type.
    pub const POISON: [u8; 2] = [0xfa, 0xff];

    /// `len` elements that were never written.
    pub fn poisoned(dtype: DType, len: usize) -> Memory {
        let mut bytes = vec![0; len * dtype.size()];
        poison(&mut bytes);
        Memory { dtype, bytes }
    }

    /// The elements of `t`.
    pub fn of(t: &Tensor) -> Memory {
        Memory { dtype: t.dtype(), bytes: t.bytes().to_vec() }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All elements.
    pub fn scalars(&self) -> impl Iterator<Item = Scalar> + '_ {
        self.bytes.chunks_exact(self.dtype.size()).map(|b| Scalar::from_le_bytes(self.dtype, b))
    }
}

fn poison(bytes: &mut [u8]) {
    bytes.chunks_mut(2).for_each(|b| b.copy_from_slice(&Memory::POISON[..b.len()]));
}

/// Runs `kernel` on `buffers`, one for each parameter. `Out` and `Scratch` buffers are poisoned first.
pub fn run_kernel(kernel: &Kernel, buffers: &mut [Memory], options: &Options) -> Result<(), InterpError> {
    if buffers.len() != kernel.buffers.len() {
        return Err(InterpError::Arguments(format!(
            "kernel {}: expected {} buffers, found {}",
            kernel.name,
            kernel.buffers.len(),
            buffers.len()
        )));
    }
    for (m, b) in buffers.iter().zip(&kernel.buffers) {
        if (m.dtype, m.bytes.len()) != (b.dtype, b.len.saturating_mul(b.dtype.size())) {
            return Err(InterpError::Arguments(format!(
                "kernel {}: %{} expects {}[{}], found {} bytes of {}",
                kernel.name,
                b.name,
                b.dtype,
                b.len,
                m.bytes.len(),
                m.dtype
            )));
        }
    }
    let code = compile::compile(kernel, options)?;
    let mut views = Vec::with_capacity(buffers.len());
    let mut memories = Vec::with_capacity(buffers.len());
    for (i, (m, b)) in buffers.iter_mut().zip(&kernel.buffers).enumerate() {
        if matches!(b.access, Access::Out | Access::Scratch) {
            poison(&mut m.bytes);
        }
        views.push(View { memory: i, offset: 0, len: b.len, dtype: b.dtype });
        memories.push(Cow::Owned(std::mem::take(&mut m.bytes)));
    }
    let result = Machine::new(kernel, &code, &views, &mut memories, options).run();
    for (m, bytes) in buffers.iter_mut().zip(memories) {
        m.bytes = bytes.into_owned();
    }
    result
}

/// Runs `program` on `inputs`, its states as a first run finds them, and gives its outputs, in the model's order.
pub fn run_program(program: &Program, inputs: &[Tensor]) -> Result<Vec<Tensor>, InterpError> {
    run_program_on(program, inputs, &mut program.initial_states())
}

/// Runs `program` on `inputs` and `states`, which it changes, and gives its outputs, in the model's order.
///
/// Buffers with an arena offset share one arena as they will in the artifact; those without have memory of their own.
/// A call's `Out` and `Scratch` buffers are poisoned before it, unless they share memory with one it reads.
pub fn run_program_on(
    program: &Program,
    inputs: &[Tensor],
    states: &mut [Tensor],
) -> Result<Vec<Tensor>, InterpError> {
    let Program { fused_multiply_add, flush_to_zero, .. } = *program;
    let options = Options { fused_multiply_add, flush_to_zero, ..Options::default() };
    check_inputs(program, inputs)?;
    let (mut memories, views) = layout(program, inputs)?;
    let kept = state_views(program, &views, states)?;
    for (view, t) in kept.iter().zip(&*states) {
        memories[view.memory].to_mut()[view.range()].copy_from_slice(t.bytes());
    }
    let compiled = program.kernels.iter().map(|_| None).collect();
    let mut run = steps::Run { program, options, views: &views, memories: &mut memories, compiled, iterations: 0 };
    run.block(&program.steps)?;
    for (view, t) in kept.iter().zip(states) {
        let bytes = memories[view.memory][view.range()].to_vec();
        *t = Tensor::from_bytes(t.dtype(), t.shape(), bytes.into())
            .map_err(|e| InterpError::Arguments(e.to_string()))?;
    }
    outputs(program, &views, memories)
}

/// Where the states are; `states` must be what the program has.
fn state_views(program: &Program, views: &[View], states: &[Tensor]) -> Result<Vec<View>, InterpError> {
    if states.len() != program.states.len() {
        let (want, have) = (program.states.len(), states.len());
        return Err(InterpError::Arguments(format!("expected {want} states, found {have}")));
    }
    let view = |(s, t): (&crate::State, &Tensor)| match views.get(s.buffer.0 as usize) {
        Some(v) if t.fact() == s.fact && v.range().len() == t.bytes().len() => Ok(*v),
        _ => Err(InterpError::Arguments(format!("state \"{}\": expected {}, found {}", s.name, s.fact, t.fact()))),
    };
    program.states.iter().zip(states).map(view).collect()
}

/// Poisoned bytes for `len` elements; an error where there is no room for them.
fn allocate(dtype: DType, len: usize) -> Result<Vec<u8>, InterpError> {
    let mut bytes = Vec::new();
    match len.checked_mul(dtype.size()) {
        Some(n) if bytes.try_reserve_exact(n).is_ok() => {
            bytes.extend(Memory::POISON.iter().cycle().take(n));
            Ok(bytes)
        }
        _ => Err(InterpError::Arguments(format!("no memory for {len} elements of {dtype}"))),
    }
}

fn check_inputs(program: &Program, inputs: &[Tensor]) -> Result<(), InterpError> {
    if inputs.len() != program.inputs.len() {
        return Err(InterpError::Arguments(format!(
            "expected {} inputs, found {}",
            program.inputs.len(),
            inputs.len()
        )));
    }
    for (io, t) in program.inputs.iter().zip(inputs) {
        if io.fact != t.fact() {
            return Err(InterpError::Arguments(format!(
                "input \"{}\": expected {}, found {}",
                io.name,
                io.fact,
                t.fact()
            )));
        }
    }
    for (k, (least, most)) in &program.bounded {
        if let (Some(io), Some(t)) = (program.inputs.get(*k), inputs.get(*k))
            && !t.to_i64().iter().all(|n| least <= n && n <= most)
        {
            let message = format!("input \"{}\": expected {least} to {most}, found {:?}", io.name, t.to_i64());
            return Err(InterpError::Arguments(message));
        }
    }
    Ok(())
}

/// The memories of a program, and a view for each of its buffers.
type Layout<'a> = (Vec<Cow<'a, [u8]>>, Vec<View>);

/// The memories of a program, and for each of its buffers where in them it lives.
fn layout<'a>(program: &'a Program, inputs: &'a [Tensor]) -> Result<Layout<'a>, InterpError> {
    let bad = |name: &str, what: String| Err(InterpError::Arguments(format!("buffer %{name}: {what}")));
    // Memory 0 is the arena, then the inputs, then the outputs, then all other buffers.
    let mut memories: Vec<Cow<[u8]>> = vec![Cow::Owned(allocate(DType::U8, program.arena_bytes)?)];
    memories.extend(inputs.iter().map(|t| Cow::Borrowed(&t.bytes()[..])));
    for io in &program.outputs {
        let Some(dims) = io.fact.dims() else {
            return Err(InterpError::Arguments(format!("output \"{}\" has a symbolic shape: {}", io.name, io.fact)));
        };
        let len = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).unwrap_or(usize::MAX);
        memories.push(Cow::Owned(allocate(io.fact.dtype, len)?));
    }
    let mut views = Vec::with_capacity(program.buffers.len());
    for b in &program.buffers {
        let (memory, offset, dtype) = match &b.kind {
            BufferKind::Input(k) if *k < inputs.len() => (1 + k, 0, inputs[*k].dtype().carrier()),
            BufferKind::Output(k) if *k < program.outputs.len() => {
                (1 + inputs.len() + k, 0, program.outputs[*k].fact.dtype.carrier())
            }
            BufferKind::Input(k) | BufferKind::Output(k) => {
                return bad(&b.name, format!("there is no input or output {k}"));
            }
            BufferKind::Const(t) => {
                memories.push(Cow::Borrowed(&t.bytes()[..]));
                (memories.len() - 1, 0, t.dtype())
            }
            // The arena has no type of its own.
            BufferKind::Arena(Some(offset)) => (0, *offset, b.dtype),
            BufferKind::Arena(None) => {
                memories.push(Cow::Owned(allocate(b.dtype, b.len)?));
                (memories.len() - 1, 0, b.dtype)
            }
        };
        let end = b.len.checked_mul(b.dtype.size()).and_then(|n| n.checked_add(offset));
        let size = memories[memory].len();
        let fits = match b.kind {
            BufferKind::Arena(_) => end.is_some_and(|end| end <= size),
            _ => end == Some(size),
        };
        if dtype != b.dtype {
            return bad(&b.name, format!("declared {}, holds {dtype}", b.dtype));
        }
        if !fits {
            return bad(&b.name, format!("{}[{}] does not fit the {size} bytes behind it", b.dtype, b.len));
        }
        views.push(View { memory, offset, len: b.len, dtype: b.dtype });
    }
    Ok((memories, views))
}

/// The views of a call's arguments.
fn arguments(
    program: &Program,
    kernel: &Kernel,
    call: &crate::Call,
    views: &[View],
) -> Result<Vec<View>, InterpError> {
    let bad = |what: String| Err(InterpError::Arguments(format!("call of {} at {}: {what}", kernel.name, call.loc)));
    if call.args.len() != kernel.buffers.len() {
        return bad(format!("expected {} arguments, found {}", kernel.buffers.len(), call.args.len()));
    }
    let mut args = Vec::with_capacity(call.args.len());
    for (id, b) in call.args.iter().zip(&kernel.buffers) {
        let Some(&view) = views.get(id.0 as usize) else {
            return bad(format!("there is no buffer {}", id.0));
        };
        let decl = program.buffer(*id);
        if (view.dtype, view.len) != (b.dtype, b.len) {
            return bad(format!(
                "%{} expects {}[{}], found %{}: {}[{}]",
                b.name, b.dtype, b.len, decl.name, view.dtype, view.len
            ));
        }
        if b.access != Access::In && matches!(decl.kind, BufferKind::Input(_) | BufferKind::Const(_)) {
            return bad(format!("it writes %{}, which is read only", decl.name));
        }
        args.push(view);
    }
    Ok(args)
}

fn poison_outputs(kernel: &Kernel, args: &[View], memories: &mut [Cow<[u8]>]) {
    for (view, b) in args.iter().zip(&kernel.buffers) {
        let shared = kernel.in_place.iter().any(|(i, o)| {
            let (i, o) = (args.get(i.0 as usize), args.get(o.0 as usize));
            [i, o].into_iter().all(|v| v.is_some_and(|v| (v.memory, v.offset) == (view.memory, view.offset)))
        });
        if matches!(b.access, Access::Out | Access::Scratch) && !shared {
            poison(&mut memories[view.memory].to_mut()[view.range()]);
        }
    }
}

fn outputs(program: &Program, views: &[View], memories: Vec<Cow<[u8]>>) -> Result<Vec<Tensor>, InterpError> {
    let mut tensors: Vec<Option<Tensor>> = program.outputs.iter().map(|_| None).collect();
    for (b, view) in program.buffers.iter().zip(views) {
        if let BufferKind::Output(k) = b.kind {
            let io = &program.outputs[k];
            let dims = io.fact.dims().unwrap_or_default();
            let bytes = memories[view.memory].to_vec();
            let t = Tensor::from_bytes(io.fact.dtype, &dims, bytes.into())
                .map_err(|e| InterpError::Arguments(format!("output \"{}\": {e}", io.name)))?;
            tensors[k] = Some(t);
        }
    }
    tensors
        .into_iter()
        .zip(&program.outputs)
        .map(|(t, io)| t.ok_or_else(|| InterpError::Arguments(format!("output \"{}\" has no buffer", io.name))))
        .collect()
}

//! A whole compiled model before machine code: kernels, buffers, ordered steps, entry signature, constant data.

use crate::{Access, Buf, Kernel, Step};
use std::collections::{BTreeMap, BTreeSet};
use tenon_base::{DType, Fact, Loc, Tensor};

/// A buffer of the program: its position in [`Program::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// Where a program buffer lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BufferKind {
    /// The caller's `k`th input.
    Input(usize),
    /// The caller's `k`th output.
    Output(usize),
    /// Read-only data of the artifact; the tensor has `len` elements.
    Const(Tensor),
    /// In the arena; the byte offset is set by the plan.
    Arena(Option<usize>),
}

/// A buffer of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramBuffer {
    /// For reports and the text form; unique.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Elements.
    pub len: usize,
    /// Where it lives.
    pub kind: BufferKind,
}

impl ProgramBuffer {
    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.len * self.dtype.size()
    }
}

/// A kernel on buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Position in [`Program::kernels`].
    pub kernel: usize,
    /// One buffer a kernel parameter.
    pub args: Vec<BufferId>,
    /// The ONNX node(s) it computes.
    pub loc: Loc,
}

/// An input or output of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Io {
    /// As the model names it.
    pub name: String,
    /// Its type; all extents known.
    pub fact: Fact,
}

/// A value that is kept in the arena from one run to the next: what a run leaves there is what the next one finds.
///
/// States lie at the beginning of the arena, in order, each at a multiple of [`Program::ALIGN`]: so all of them together
/// are the first [`Program::state_bytes`] bytes, which a caller may set to zeros, save and bring back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// As the model names the input.
    pub name: String,
    /// Its type; all extents known.
    pub fact: Fact,
    /// Where it is: a buffer in the arena.
    pub buffer: BufferId,
}

/// A compiled model: the only input of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Program {
    /// The model's name: a C identifier.
    pub name: String,
    /// Inputs, in the model's order.
    pub inputs: Vec<Io>,
    /// Outputs, in the model's order.
    pub outputs: Vec<Io>,
    /// Outputs whose actual extents another output tells: positions of both.
    pub sized: BTreeMap<usize, usize>,
    /// Inputs that tell sizes of a run, by position: an `i64` each, from the first to the second number. The entry point checks.
    pub bounded: BTreeMap<usize, (i64, i64)>,
    /// What is kept from run to run.
    pub states: Vec<State>,
    /// All buffers.
    pub buffers: Vec<ProgramBuffer>,
    /// All kernels; no two are equal.
    pub kernels: Vec<Kernel>,
    /// What to run, in order.
    pub steps: Vec<Step>,
    /// Size of the arena; 0 before the plan.
    pub arena_bytes: usize,
    /// Whether `fma` rounds once (the target has the instruction).
    pub fused_multiply_add: bool,
    /// Whether sums, products, quotients and conversions to `f32` give zero of their sign where they would be subnormal. The operations of scheduled
    /// kernels do; operands that are subnormal count as what they are. Some machines need a hundred times as long for such numbers.
    pub flush_to_zero: bool,
}

impl Program {
    /// Alignment of the arena and of every buffer in it, and of constant data.
    pub const ALIGN: usize = 64;

    /// The declaration of `id`.
    pub fn buffer(&self, id: BufferId) -> &ProgramBuffer {
        &self.buffers[id.0 as usize]
    }

    /// Adds a buffer; the name is made unique.
    pub fn add_buffer(&mut self, name: &str, dtype: DType, len: usize, kind: BufferKind) -> BufferId {
        let id = BufferId(self.buffers.len() as u32);
        let name = if self.buffers.iter().any(|b| b.name == name) { format!("{name}.{}", id.0) } else { name.into() };
        self.buffers.push(ProgramBuffer { name, dtype, len, kind });
        id
    }

    /// Threads that a run can use: the most parts of a kernel.
    pub fn threads(&self) -> usize {
        self.kernels.iter().filter_map(|k| k.parts).map(|p| p.count).max().unwrap_or(1)
    }

    /// Bytes of constant data.
    pub fn weight_bytes(&self) -> usize {
        self.buffers.iter().filter(|b| matches!(b.kind, BufferKind::Const(_))).map(ProgramBuffer::bytes).sum()
    }

    /// The buffers of each kernel that are constants in every call.
    pub fn constants_of_kernels(&self) -> Vec<BTreeSet<Buf>> {
        let all = |k: &Kernel| (0..k.buffers.len() as u32).map(Buf).collect();
        let mut constants: Vec<BTreeSet<Buf>> = self.kernels.iter().map(all).collect();
        for call in self.calls() {
            let is_const = |b: &Buf| matches!(self.buffer(call.args[b.0 as usize]).kind, BufferKind::Const(_));
            constants[call.kernel].retain(is_const);
        }
        constants
    }

    /// `outputs` with the actual extents of those that have room for more than they hold.
    pub fn actual(&self, mut outputs: Vec<Tensor>) -> Vec<Tensor> {
        for (k, by) in &self.sized {
            if let (Some(y), Some(dims)) = (outputs.get(*k), outputs.get(*by)) {
                let extents: Vec<usize> = y
                    .shape()
                    .iter()
                    .zip(dims.to_i64())
                    .map(|(n, d)| usize::try_from(d).unwrap_or(0).min(*n))
                    .collect();
                let mut bytes = vec![];
                front(y, &extents, 0, 0, &mut bytes);
                if let Ok(t) = Tensor::from_bytes(y.dtype(), &extents, bytes.into()) {
                    outputs[*k] = t;
                }
            }
        }
        outputs
    }

    /// The outputs that the model itself has, by position: not those that only tell extents of others.
    pub fn own_outputs(&self) -> Vec<usize> {
        let tells = |k: &usize| self.sized.values().any(|by| by == k);
        (0..self.outputs.len()).filter(|k| !tells(k)).collect()
    }

    /// Where each state begins in the arena.
    pub fn state_offsets(&self) -> Vec<usize> {
        let mut next = 0;
        let begin = |s: &State| {
            let at = next;
            next += Program::room(&s.fact);
            at
        };
        self.states.iter().map(begin).collect()
    }

    /// Bytes at the beginning of the arena that are kept from run to run.
    pub fn state_bytes(&self) -> usize {
        self.states.iter().map(|s| Program::room(&s.fact)).sum()
    }

    fn room(f: &Fact) -> usize {
        let n = f.dims().unwrap_or_default().iter().try_fold(f.dtype.size(), |n, d| n.checked_mul(*d));
        n.and_then(|n| n.checked_next_multiple_of(Program::ALIGN)).unwrap_or(0)
    }

    /// What a first run finds: zeros.
    pub fn initial_states(&self) -> Vec<Tensor> {
        let zeros =
            |s: &State| Tensor::full(&s.fact.dims().unwrap_or_default(), tenon_base::Scalar::of_int(s.fact.dtype, 0));
        self.states.iter().map(zeros).collect()
    }

    /// Positions of `call`'s arguments that it writes.
    pub fn writes<'a>(&'a self, call: &'a Call) -> impl Iterator<Item = BufferId> + 'a {
        let kernel = &self.kernels[call.kernel];
        call.args.iter().zip(&kernel.buffers).filter(|(_, b)| b.access != Access::In).map(|(id, _)| *id)
    }
}

/// Appends the elements of `t` within `extents`, from axis `axis` on, where `at` is the position of the first.
fn front(t: &Tensor, extents: &[usize], axis: usize, at: usize, bytes: &mut Vec<u8>) {
    let size = t.dtype().size();
    if axis == extents.len() {
        bytes.extend_from_slice(&t.bytes()[at * size..(at + 1) * size]);
        return;
    }
    let stride: usize = t.shape()[axis + 1..].iter().product();
    for i in 0..extents[axis] {
        front(t, extents, axis + 1, at + i * stride, bytes);
    }
}

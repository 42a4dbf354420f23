//! A whole compiled model before machine code: kernels, buffers, ordered calls, entry signature, constant data.

use crate::{Access, Kernel};
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

/// One step: a kernel on buffers.
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

/// A compiled model: the only input of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Program {
    /// The model's name: a C identifier.
    pub name: String,
    /// Inputs, in the model's order.
    pub inputs: Vec<Io>,
    /// Outputs, in the model's order.
    pub outputs: Vec<Io>,
    /// All buffers.
    pub buffers: Vec<ProgramBuffer>,
    /// All kernels; no two are equal.
    pub kernels: Vec<Kernel>,
    /// What to run, in order.
    pub calls: Vec<Call>,
    /// Size of the arena; 0 before the plan.
    pub arena_bytes: usize,
    /// Whether `fma` rounds once (the target has the instruction).
    pub fused_multiply_add: bool,
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

    /// Bytes of constant data.
    pub fn weight_bytes(&self) -> usize {
        self.buffers.iter().filter(|b| matches!(b.kind, BufferKind::Const(_))).map(ProgramBuffer::bytes).sum()
    }

    /// Positions of `call`'s arguments that it writes.
    pub fn writes<'a>(&'a self, call: &'a Call) -> impl Iterator<Item = BufferId> + 'a {
        let kernel = &self.kernels[call.kernel];
        call.args.iter().zip(&kernel.buffers).filter(|(_, b)| b.access != Access::In).map(|(id, _)| *id)
    }
}

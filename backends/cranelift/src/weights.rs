//! Constant data as one object.

use tenon_kernel::{BufferKind, Program};

/// Where each constant buffer lies in the one block of constant data.
pub(crate) struct Layout {
    /// Bytes of the block.
    pub(crate) bytes: usize,
    /// Offset by program buffer; 0 for those that are not constant.
    pub(crate) offsets: Vec<usize>,
}

impl Layout {
    /// Buffers in order, each aligned to [`Program::ALIGN`].
    pub(crate) fn new(program: &Program) -> Layout {
        let mut bytes = 0usize;
        let offsets = program
            .buffers
            .iter()
            .map(|b| {
                if !matches!(b.kind, BufferKind::Const(_)) {
                    return 0;
                }
                let at = bytes.next_multiple_of(Program::ALIGN);
                bytes = at + b.bytes();
                at
            })
            .collect();
        Layout { bytes, offsets }
    }

    /// Writes the data into `to`, which is [`Layout::bytes`] long and all zeros.
    pub(crate) fn fill(&self, program: &Program, to: &mut [u8]) {
        for (b, at) in program.buffers.iter().zip(&self.offsets) {
            if let BufferKind::Const(t) = &b.kind {
                to[*at..at + t.bytes().len()].copy_from_slice(t.bytes());
            }
        }
    }
}

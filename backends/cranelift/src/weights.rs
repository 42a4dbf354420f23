//! Constant data as one block.

use bytes::Bytes;
use rayon::prelude::*;
use tenon_base::Tensor;
use tenon_kernel::{BufferKind, Program};

/// Where each constant buffer lies in the one block of constant data.
pub(crate) struct Layout {
    /// Bytes of the block.
    pub(crate) bytes: usize,
    /// Offset by program buffer; 0 for those that are not constant.
    pub(crate) offsets: Vec<usize>,
    /// Those that stay where they are in this process, by program buffer.
    resident: Vec<Option<Bytes>>,
}

/// What a file of constant data begins with: magic, size of the data, their checksum; zeros up to [`Program::ALIGN`].
pub(crate) type Header = [u64; 3];

/// `TENONWTS`, as a little-endian number.
const MAGIC: u64 = u64::from_le_bytes(*b"TENONWTS");

impl Layout {
    /// Buffers in order, each aligned to [`Program::ALIGN`].
    pub(crate) fn new(program: &Program) -> Layout {
        Layout::of(program, |_| None)
    }

    /// The same without what lies in memory of this process already: see [`Layout::beside`].
    pub(crate) fn for_this_process(program: &Program) -> Layout {
        // A line at least, which offsets can count from.
        let layout = Layout::of(program, |t| t.resident().cloned());
        let least = if layout.resident.iter().any(Option::is_some) { Program::ALIGN } else { 0 };
        Layout { bytes: layout.bytes.max(least), ..layout }
    }

    fn of(program: &Program, resident: impl Fn(&Tensor) -> Option<Bytes>) -> Layout {
        let mut layout = Layout { bytes: 0, offsets: vec![], resident: vec![] };
        for b in &program.buffers {
            let stays = if let BufferKind::Const(t) = &b.kind { resident(t) } else { None };
            let mut at = 0;
            if matches!(b.kind, BufferKind::Const(_)) && stays.is_none() {
                at = layout.bytes.next_multiple_of(Program::ALIGN);
                layout.bytes = at + b.bytes();
            }
            layout.offsets.push(at);
            layout.resident.push(stays);
        }
        layout
    }

    /// Gives what stays where it is its distance from the block, which lies at address `block`; and what has to live as long as code that
    /// uses it.
    pub(crate) fn beside(&mut self, block: usize) -> Vec<Bytes> {
        for (at, b) in self.offsets.iter_mut().zip(&self.resident) {
            if let Some(b) = b {
                *at = b.as_ptr().addr().wrapping_sub(block);
            }
        }
        self.resident.iter().flatten().cloned().collect()
    }

    /// The layout of a file: the same behind a header.
    pub(crate) fn behind_header(mut self, program: &Program) -> Layout {
        for (at, b) in self.offsets.iter_mut().zip(&program.buffers) {
            if matches!(b.kind, BufferKind::Const(_)) {
                *at += Program::ALIGN;
            }
        }
        self.bytes += Program::ALIGN;
        self
    }

    /// Writes the data into `to`, which is [`Layout::bytes`] long and all zeros.
    pub(crate) fn fill(&self, program: &Program, to: &mut [u8]) {
        // Offsets ascend, so every constant has a part of its own.
        let (mut rest, mut begin) = (to, 0);
        let mut parts: Vec<(&mut [u8], &[u8])> = vec![];
        for ((b, at), resident) in program.buffers.iter().zip(&self.offsets).zip(&self.resident) {
            if let (BufferKind::Const(t), None) = (&b.kind, resident) {
                let (part, behind) = rest[at - begin..].split_at_mut(t.bytes().len());
                (rest, begin) = (behind, at + t.bytes().len());
                parts.push((part, t.bytes()));
            }
        }
        parts.into_par_iter().for_each(|(to, from)| to.copy_from_slice(from));
    }

    /// The data.
    pub(crate) fn block(&self, program: &Program) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes];
        self.fill(program, &mut bytes);
        bytes
    }

    /// The file, for a layout [`Layout::behind_header`], and its header.
    pub(crate) fn file(&self, program: &Program) -> (Vec<u8>, Header) {
        let mut bytes = self.block(program);
        let data = &bytes[Program::ALIGN..];
        let header = [MAGIC, data.len() as u64, checksum(data)];
        for (to, word) in bytes.chunks_exact_mut(8).zip(header) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        (bytes, header)
    }
}

/// FNV-1a of 64 bits: tells files of different models apart, not forgeries.
fn checksum(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_fnv() {
        // The test vectors of the authors.
        assert_eq!(checksum(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(checksum(b"foobar"), 0x8594_4171_f739_67e8);
    }
}

//! Memory for weights, arenas, inputs and outputs.

use crate::{DType, Tensor, TensorError};
use bytes::Bytes;
use memmap2::MmapMut;

/// What an [`AlignedBuf`] begins at a multiple of.
const LINE: usize = 64;
/// Bytes from which on memory comes from the system in pages as large as it has. Touching small pages one by one for the first time takes
/// longer than writing what goes into them, and each run then has their addresses to look up.
const LARGE: usize = 4 << 20;

/// Bytes aligned to 64.
#[derive(Debug)]
pub struct AlignedBuf {
    room: Room,
    at: usize,
    len: usize,
}

/// Where the bytes are, with room to align them in. Either comes from the system as zeros, untouched until it is used.
#[derive(Debug)]
enum Room {
    Small(Vec<u8>),
    Large(MmapMut),
}

impl AlignedBuf {
    /// `len` zero bytes.
    pub fn new(len: usize) -> AlignedBuf {
        match large(len) {
            Some(map) => AlignedBuf { room: Room::Large(map), at: 0, len },
            None => {
                let room = vec![0; len + LINE - 1];
                let at = room.as_ptr().align_offset(LINE);
                AlignedBuf { room: Room::Small(room), at, len }
            }
        }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        let room: &[u8] = match &self.room {
            Room::Small(v) => v,
            Room::Large(m) => m,
        };
        &room[self.at..self.at + self.len]
    }

    /// The bytes.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let room: &mut [u8] = match &mut self.room {
            Room::Small(v) => v,
            Room::Large(m) => m,
        };
        &mut room[self.at..self.at + self.len]
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

/// An [`AlignedBuf`] that is not written to any more, and that tensors may lie in. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Memory(Bytes);

impl From<AlignedBuf> for Memory {
    fn from(buf: AlignedBuf) -> Memory {
        Memory(Bytes::from_owner(buf))
    }
}

impl Memory {
    /// What each part of one memory begins at a multiple of.
    pub const ALIGN: usize = LINE;

    /// The tensor whose bytes begin at `at`.
    ///
    /// # Errors
    /// It does not end within the memory.
    pub fn tensor(&self, dtype: DType, shape: &[usize], at: usize) -> Result<Tensor, TensorError> {
        let len = shape.iter().try_fold(dtype.size(), |n, d| n.checked_mul(*d)).ok_or(TensorError::Overflow)?;
        match at.checked_add(len).filter(|end| *end <= self.0.len()) {
            Some(end) => Ok(Tensor::in_memory(dtype, shape, self.0.slice(at..end))),
            None => Err(TensorError::Length { expected: len, found: self.0.len().saturating_sub(at) }),
        }
    }
}

/// Pages for `len` bytes; `None` where that is few, or the system has none to give.
fn large(len: usize) -> Option<MmapMut> {
    if len < LARGE {
        return None;
    }
    let map = MmapMut::map_anon(len).ok()?;
    // Only advice: without it the pages are small ones.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Some(map)
}

impl Default for AlignedBuf {
    fn default() -> AlignedBuf {
        AlignedBuf::new(0)
    }
}

/// The copy has its own place to begin at.
impl Clone for AlignedBuf {
    fn clone(&self) -> AlignedBuf {
        let mut copy = AlignedBuf::new(self.len);
        copy.as_mut_slice().copy_from_slice(self.as_slice());
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_any_size_is_aligned_zeros() {
        for len in [0, 1, 63, 64, 4096, LARGE - 1, LARGE, LARGE + 1] {
            let mut b = AlignedBuf::new(len);
            assert_eq!((b.as_slice().len(), b.as_slice().as_ptr().addr() % LINE), (len, 0));
            assert!(b.as_slice().iter().all(|v| *v == 0), "{len}");
            if let Some(last) = b.as_mut_slice().last_mut() {
                *last = 7;
            }
            let copy = b.clone();
            assert_eq!((copy.as_slice(), copy.as_slice().as_ptr().addr() % LINE), (b.as_slice(), 0));
        }
    }
}

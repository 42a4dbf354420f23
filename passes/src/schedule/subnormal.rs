//! Subnormal constants become zero.
//!
//! A machine that takes a hundred cycles and more for a subnormal result takes as long for a subnormal factor, and flushing results does not help
//! there. Training that pulls weights towards zero leaves thousands of them. Where results below the least normal number are zero, so are they.

use rayon::prelude::*;
use std::collections::BTreeSet;
use tenon_base::{DType, Tensor};
use tenon_kernel::{BufferId, BufferKind, Program};

/// Bytes that are looked at together.
const CHUNK: usize = 1 << 12;

/// Replaces them in what the calls of `program` read of its first `n` buffers.
pub(super) fn flush(program: &mut Program, n: usize) {
    let used: BTreeSet<BufferId> = program.calls().into_iter().flat_map(|c| c.args.iter().copied()).collect();
    let is_used = |i: usize| used.contains(&BufferId(i as u32));
    program.buffers[..n].par_iter_mut().enumerate().filter(|(i, _)| is_used(*i)).for_each(|(_, b)| {
        if let BufferKind::Const(t) = &mut b.kind
            && let Some(flushed) = flushed(t)
        {
            *t = flushed;
        }
    });
}

/// Replaces them in elements of `dtype`.
pub(super) fn flush_in(dtype: DType, bytes: &mut [u8]) {
    if dtype != DType::F32 {
        return;
    }
    for chunk in bytes.chunks_mut(CHUNK).filter(|c| has_any(c)) {
        for word in chunk.chunks_exact_mut(4) {
            let w = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            if subnormal(w) {
                word.copy_from_slice(&(w & 1 << 31).to_le_bytes());
            }
        }
    }
}

/// `t` with zeros in their place, signs kept; `None` if there are none.
fn flushed(t: &Tensor) -> Option<Tensor> {
    if t.dtype() != DType::F32 || !t.bytes().chunks(CHUNK).any(has_any) {
        return None;
    }
    let mut bytes = t.bytes().to_vec();
    flush_in(t.dtype(), &mut bytes);
    Tensor::from_bytes(t.dtype(), t.shape(), bytes.into()).ok()
}

fn has_any(chunk: &[u8]) -> bool {
    // No way out before the end, so that this is done by vectors.
    let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    chunk.chunks_exact(4).fold(false, |any, b| any | subnormal(word(b)))
}

/// Whether these are the bits of one: no exponent, but a fraction.
fn subnormal(word: u32) -> bool {
    (word & 0x7fff_ffff).wrapping_sub(1) < 0x7f_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnormal_numbers_are_zero_and_others_what_they_were() {
        let values =
            [1.0, -0.0, 1e-40, -1e-40, f32::MIN_POSITIVE, -f32::MIN_POSITIVE, f32::INFINITY, f32::from_bits(1)];
        let t = flushed(&Tensor::new(&[8], &values)).expect("there are some");
        let bits: Vec<u32> = t.to_vec::<f32>().into_iter().map(f32::to_bits).collect();
        let want = [1.0, -0.0, 0.0, -0.0, f32::MIN_POSITIVE, -f32::MIN_POSITIVE, f32::INFINITY, 0.0_f32];
        assert_eq!(bits, want.map(f32::to_bits));
        assert!(flushed(&Tensor::new(&[2], &[0.0_f32, f32::NAN])).is_none());
        assert!(flushed(&Tensor::new(&[1], &[1_i32])).is_none(), "no floats");
    }
}

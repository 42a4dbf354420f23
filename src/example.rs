//! Drawn data, the same on every machine.

use tenon_base::{DType, Fact, Scalar, Tensor};

/// A tensor of `fact` (all extents known): floats in −1..1, integers in 0..8, bools; from a SplitMix64 stream.
pub(crate) fn draw(fact: &Fact, seed: u64) -> Tensor {
    let dims = fact.dims().unwrap_or_default();
    let n: usize = dims.iter().product();
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let value = |r: u64| match fact.dtype {
        DType::Bool => Scalar::of_int(fact.dtype, i128::from(r & 1)),
        d if d.is_int() => Scalar::of_int(d, i128::from(r >> 61)),
        d => Scalar::of_f64(d, (r >> 11) as f64 / (1u64 << 52) as f64 - 1.0),
    };
    Tensor::from_scalars(fact.dtype, &dims, (0..n).map(|_| value(next())))
}

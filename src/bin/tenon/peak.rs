//! What a core of this machine can do at most: independent fused multiply-adds on its widest vectors, measured.

use std::time::{Duration, Instant};

/// Best of several tries of this length each.
const TRY: Duration = Duration::from_millis(8);
const TRIES: usize = 6;

/// Independent accumulators: enough to fill two pipes of up to six cycles' latency.
const CHAINS: usize = 12;

/// Multiply-adds each chain does between looks at the clock.
const ROUNDS: usize = 4096;

/// GFLOP/s of one core in `f32` (a multiply-add counts as two).
pub(crate) fn measure() -> f64 {
    let kernel = widest();
    let mut best: f64 = 0.0;
    for _ in 0..TRIES {
        let start = Instant::now();
        let mut operations = 0u64;
        while start.elapsed() < TRY {
            operations += kernel();
        }
        best = best.max(operations as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
    best
}

/// A loop of multiply-adds; gives how many operations it did.
type Kernel = fn() -> u64;

#[cfg(target_arch = "x86_64")]
fn widest() -> Kernel {
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the feature is there.
        return || unsafe { x86::avx512() };
    }
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the features are there.
        return || unsafe { x86::avx2() };
    }
    portable
}

#[cfg(not(target_arch = "x86_64"))]
fn widest() -> Kernel {
    portable
}

/// For the compiler to vectorise as far as the baseline of the build goes.
fn portable() -> u64 {
    const LANES: usize = 4;
    let mut acc = [[1.0f32; LANES]; CHAINS];
    let (a, b) = (std::hint::black_box(0.999_9f32), std::hint::black_box(1e-4f32));
    for _ in 0..ROUNDS {
        for chain in &mut acc {
            // On aarch64 this is one instruction; on old x86 there is no fused form to measure.
            chain
                .iter_mut()
                .for_each(|v| *v = if cfg!(target_arch = "aarch64") { v.mul_add(a, b) } else { *v * a + b });
        }
    }
    std::hint::black_box(acc);
    (2 * LANES * CHAINS * ROUNDS) as u64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{CHAINS, ROUNDS};
    use std::arch::x86_64::*;
    use std::hint::black_box;

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512() -> u64 {
        let (a, b) = (_mm512_set1_ps(black_box(0.999_9)), _mm512_set1_ps(black_box(1e-4)));
        let mut acc = [_mm512_set1_ps(1.0); CHAINS];
        for _ in 0..ROUNDS {
            acc.iter_mut().for_each(|v| *v = _mm512_fmadd_ps(*v, a, b));
        }
        black_box(acc);
        (2 * 16 * CHAINS * ROUNDS) as u64
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2() -> u64 {
        let (a, b) = (_mm256_set1_ps(black_box(0.999_9)), _mm256_set1_ps(black_box(1e-4)));
        let mut acc = [_mm256_set1_ps(1.0); CHAINS];
        for _ in 0..ROUNDS {
            acc.iter_mut().for_each(|v| *v = _mm256_fmadd_ps(*v, a, b));
        }
        black_box(acc);
        (2 * 8 * CHAINS * ROUNDS) as u64
    }
}

//! What this machine allows a kernel: a roofline (Williams, Waterman and Patterson, *Roofline: an insightful visual performance model*, 2009).
//!
//! Three roofs, each measured here and now in one thread: multiply-adds, what the second cache gives, and what comes from beyond it. Constants
//! of a model are read once a run, so they come from wherever as many bytes as a run touches stay; everything else is taken to be in the second cache.
//! What a kernel reaches of the lowest of these is what better code could gain at most.

use crate::peak;
use std::hint::black_box;
use std::time::{Duration, Instant};
use tenon::profile::{CallProfile, Profile};

/// Best of several tries, each of which reads at least for this long.
const TRY: Duration = Duration::from_millis(10);
const TRIES: usize = 4;
/// Bytes that are read at most to find what comes from far away.
const MOST: usize = 256 << 20;

/// What holds a kernel back at best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Roof {
    /// Multiply-adds.
    Compute,
    /// Bytes of constants.
    Memory,
    /// Bytes that it reads and writes.
    Cache,
}

impl Roof {
    /// `compute`, `memory` or `cache`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Roof::Compute => "compute",
            Roof::Memory => "memory",
            Roof::Cache => "cache",
        }
    }
}

/// What one core does at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Roofs {
    /// GFLOP/s in `f32`.
    pub(crate) compute: f64,
    /// GB/s of as many bytes as a run of the model touches.
    pub(crate) memory: f64,
    /// GB/s of the second cache.
    pub(crate) cache: f64,
}

impl Roofs {
    /// For a model of which a run touches `touched` bytes, on a machine whose second cache has `l2` bytes.
    pub(crate) fn measure(touched: usize, l2: usize) -> Roofs {
        let near = l2 / 2;
        let cache = reading(near);
        let memory = if touched <= near { cache } else { reading(touched.min(MOST)).min(cache) };
        Roofs { compute: peak::measure(), memory, cache }
    }

    /// The shortest time that a call could take, and what sets it.
    pub(crate) fn limit(&self, c: &CallProfile) -> (Duration, Roof) {
        let giga = |n: f64, rate: f64| n / rate.max(1e-9) / 1e9;
        let near = (c.read + c.written).saturating_sub(c.constants);
        let all = [
            (giga(c.work.operations as f64, self.compute), Roof::Compute),
            (giga(c.constants as f64, self.memory), Roof::Memory),
            (giga(near as f64, self.cache), Roof::Cache),
        ];
        let (secs, roof) = all.into_iter().fold(all[0], |a, b| if b.0 > a.0 { b } else { a });
        (Duration::from_secs_f64(secs), roof)
    }
}

/// Bytes that a run of a measured model touches, about.
pub(crate) fn touched(profile: &Profile) -> usize {
    let constants: usize = profile.calls.iter().map(|c| c.constants).sum();
    let others = profile.calls.iter().map(|c| (c.read + c.written).saturating_sub(c.constants)).max();
    constants + others.unwrap_or(0)
}

/// GB/s of reading `bytes` again and again.
fn reading(bytes: usize) -> f64 {
    /// Runs that are read side by side.
    const RUNS: usize = 4;
    /// Numbers of a cache line.
    const LINE: usize = 8;
    let run = (bytes / RUNS / 8 / LINE).max(1) * LINE;
    let data = vec![1u64; run * RUNS];
    let mut best: f64 = 0.0;
    for _ in 0..TRIES {
        let (start, mut read) = (Instant::now(), 0usize);
        while start.elapsed() < TRY {
            let mut sum = [0u64; LINE];
            let data = black_box(&data);
            let runs: [&[u64]; RUNS] = std::array::from_fn(|r| &data[r * run..(r + 1) * run]);
            for at in (0..run).step_by(LINE) {
                for r in runs {
                    sum.iter_mut().zip(&r[at..at + LINE]).for_each(|(s, v)| *s = s.wrapping_add(*v));
                }
            }
            black_box(sum);
            read += 8 * data.len();
        }
        best = best.max(read as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
    best
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tenon_kernel::Work;

    /// A call of `us` microseconds.
    pub(crate) fn call(kernel: &str, us: u64, operations: u64, read: usize, constants: usize) -> CallProfile {
        let time = Duration::from_micros(us);
        CallProfile {
            call: 0,
            kernel: kernel.into(),
            nodes: "a < b".into(),
            median: time,
            min: time,
            start: Duration::ZERO,
            time,
            work: Work { operations, ..Work::default() },
            read,
            constants,
            written: 0,
        }
    }

    #[test]
    fn the_lowest_roof_sets_the_limit() {
        let roofs = Roofs { compute: 100.0, memory: 10.0, cache: 50.0 };
        let ms = Duration::from_millis;
        let call = |operations, read, constants| call("conv_0", 1000, operations, read, constants);
        assert_eq!(roofs.limit(&call(100_000_000, 0, 0)), (ms(1), Roof::Compute));
        assert_eq!(roofs.limit(&call(100_000_000, 20_000_000, 20_000_000)), (ms(2), Roof::Memory));
        assert_eq!(roofs.limit(&call(100_000_000, 150_000_000, 0)), (ms(3), Roof::Cache));
        assert_eq!(roofs.limit(&call(0, 0, 0)).0, Duration::ZERO);
    }

    #[test]
    fn reading_takes_time() {
        let rate = reading(1 << 16);
        assert!(rate > 0.01 && rate.is_finite(), "{rate}");
    }
}

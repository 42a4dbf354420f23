//! The shape of register tiles: how many rows and registers, by what fits and what it costs.
//!
//! Costs are in products of one vector, of which a core is taken to start two a cycle, with two loads beside them, each
//! done four cycles later. So a step of a tile takes as long as its products, its loads, or the eight products in
//! flight that an accumulator waits for, whichever is most.

use crate::effort::Price;
use tenon_target::{Arch, Target};

/// What limits a register tile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Vector registers.
    registers: usize,
    /// Accumulators at most.
    accumulators: usize,
    /// Steps of a panel of one register that stay in the first cache beside the rows.
    near: usize,
    /// Lines in a register.
    line: f64,
    /// The most operations of an unrolled loop body.
    pub(super) unrolled: usize,
    /// What an instruction costs to be made.
    instruction: f64,
    /// Instructions for one register of results, behind its sum.
    epilogue: usize,
}

/// The most operations of an unrolled loop body: four steps of a tile of seven rows by three registers, but not a window of nine taps for as many
/// rows as registers hold, whose loop over lines costs next to nothing, while its code would be three times as long.
const UNROLLED: usize = 124;

/// Products that start while a line comes from the second cache, as products go on: some 24 bytes a cycle. Tiles of few rows ask for more.
const LINE: f64 = 5.25;

/// Products in flight when both multipliers are busy.
const IN_FLIGHT: usize = 8;

/// How much longer than that a tile waits which has no more accumulators than products are in flight: none of them is ever a little late
/// without a multiplier being idle.
const WAIT: f64 = 1.04;

/// What a loop over tiles of one more size costs, once a run: its code comes from memory, some sixteen lines one after the other, as the
/// caches hold weights by then.
const COPY: f64 = 5000.0;
/// The part of the whole that this is at most, for what is short may be all of a small model, which stays in the caches.
const COPY_PART: f64 = 0.02;
/// What it costs wherever it runs: a loop that ends is a branch that was not foreseen.
const ENDS: f64 = 0.005;

/// Tiles of `count` times `mr` rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) mr: usize,
    pub(super) count: usize,
}

/// What tiles cover: a matrix of rows by registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    pub(super) m: usize,
    pub(super) registers: usize,
    /// Whether the last register is full. If not, its column is a loop of its own.
    pub(super) whole: bool,
    /// Times that it is computed by its kernel, and how often that is called in a run of the model.
    pub(super) times: usize,
    pub(super) runs: usize,
}

/// How a matrix of rows by registers is covered: columns of tiles `nv` registers wide, and what is left over.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cover {
    pub(super) nv: usize,
    /// Tiles of each column of `nv` registers.
    pub(super) full: Vec<Rows>,
    /// Tiles of the last column, if it has fewer registers.
    pub(super) rest: Vec<Rows>,
    /// In products.
    pub(super) cost: f64,
}

/// `m` rows in as few tiles of at most `most` as possible, as even as possible: two sizes that differ by one.
pub(super) fn split(m: usize, most: usize) -> Vec<Rows> {
    let tiles = m.div_ceil(most);
    let (mr, extra) = (m / tiles, m % tiles);
    let all = [Rows { mr: mr + 1, count: extra }, Rows { mr, count: tiles - extra }];
    all.into_iter().filter(|r| r.count > 0).collect()
}

impl Budget {
    /// Of `target`, for results that are `epilogue` operations on their sums, of which code costs `price` in as many runs of it.
    pub(super) fn of(target: &Target, price: Price, epilogue: usize) -> Budget {
        let registers = target.vector_registers();
        let accumulators = match target.arch {
            // Cranelift spills in tiles of more; wider vectors have a code generator of their own.
            Arch::X86_64 if target.vector_bytes <= 16 => 8,
            Arch::X86_64 => registers - 2,
            Arch::Aarch64 | Arch::Riscv64 => 16,
        };
        let near = target.caches.l1d * 2 / 3 / target.vector_bytes.max(1);
        let line = target.vector_bytes as f64 / target.caches.line.max(1) as f64;
        // Two products start in a cycle.
        let (unrolled, instruction) = (price.unrolled.min(UNROLLED), 2.0 * price.instruction);
        Budget { registers, accumulators, near, line, unrolled, instruction, epilogue }
    }

    /// Rows of a tile of `nv` registers at most: accumulators, what the rows share, and one scalar at a time.
    fn rows(&self, nv: usize) -> usize {
        let free = self.registers.saturating_sub(nv + 1).min(self.accumulators);
        (free / nv).max(1)
    }

    /// Independent sums that each accumulator of a tile of `products` is split into, where sums may be reordered.
    pub(super) fn chains(&self, products: usize) -> usize {
        let most = self.accumulators.min(self.unrolled) / products.max(1);
        (IN_FLIGHT / products.max(1)).clamp(1, 4).min(most).max(1)
    }

    /// A step of the sum of `k` steps in a tile of `mr` by `nv`.
    fn step(&self, mr: usize, nv: usize, k: usize, reassociate: bool) -> f64 {
        let products = mr * nv;
        let loads = mr + nv;
        let waiting = if reassociate { IN_FLIGHT.div_ceil(self.chains(products)) } else { IN_FLIGHT };
        let lines = if k.saturating_mul(nv) > self.near { LINE * self.line * nv as f64 } else { 0.0 };
        lines.max(products.max(loads) as f64).max(waiting as f64 * WAIT) + 0.1 * loads as f64
    }

    /// What the tiles `rows` of one column of `nv` registers cost, for sums of `k` terms.
    fn column(&self, rows: &[Rows], nv: usize, k: usize, reassociate: bool) -> f64 {
        let one = |r: &Rows| k as f64 * self.step(r.mr, nv, k, reassociate) + (12 + 3 * r.mr * nv) as f64;
        let sum: f64 = rows.iter().map(|r| r.count as f64 * one(r)).sum();
        sum * (1.0 + ENDS * (rows.len() as f64 - 1.0))
    }

    /// What the code of tiles costs, in products of one run: loops of `rows` by `nv` registers, of sums of `k` terms.
    fn code(&self, rows: &[Rows], nv: usize, k: usize, times: usize) -> f64 {
        let one = |r: &Rows| {
            let (products, loads) = (r.mr * nv, r.mr + nv);
            let steps = (self.unrolled / (products + loads)).clamp(1, k.max(1));
            steps * (products + loads) + products * (2 + self.epilogue)
        };
        rows.iter().map(one).sum::<usize>() as f64 * self.instruction / times.max(1) as f64
    }

    /// The cheapest tiles of one column of `nv` registers: `m` rows, `k` steps, `times` times.
    fn best_column(&self, area: Area, nv: usize, k: usize, reassociate: bool) -> Vec<Rows> {
        let Area { m, times, runs, .. } = area;
        let all = (1..=self.rows(nv).min(m)).rev().map(|mr| split(m, mr));
        let priced = all.map(|rows| {
            let cost = copied(self.column(&rows, nv, k, reassociate), rows.len(), times);
            let code = self.code(&rows, nv, k, times.saturating_mul(runs));
            (rows, cost + code)
        });
        cheapest(priced, |(_, cost)| *cost).map(|(rows, _)| rows).unwrap_or_default()
    }

    /// All covers of `area` for sums of `k` terms. With `alike`, the last column has the rows of the others. Of equals the first is best: the
    /// widest, which reads the rows' side less often.
    pub(super) fn covers(&self, area: Area, k: usize, alike: bool, reassociate: bool) -> Vec<Cover> {
        let Area { m, registers, times, runs, .. } = area;
        let runs = times.saturating_mul(runs);
        let mut all: Vec<Cover> = vec![];
        for nv in (1..=registers.min(self.accumulators)).rev() {
            let left = registers % nv;
            let own = if left > 0 { self.best_column(area, left, k, reassociate) } else { vec![] };
            for mr in (1..=self.rows(nv).min(m)).rev() {
                let full = split(m, mr);
                if all.last().is_some_and(|c| c.nv == nv && c.full == full) {
                    continue;
                }
                let mut cost = self.column(&full, nv, k, reassociate) * (registers / nv) as f64;
                let mut rest = vec![];
                if left > 0 {
                    rest = if alike { full.clone() } else { own.clone() };
                    cost = (cost + self.column(&rest, left, k, reassociate)) * (1.0 + ENDS);
                }
                let again = 1 + usize::from(area.parts(nv));
                let code = self.code(&full, nv, k, runs) * again as f64 + self.code(&rest, left, k, runs);
                let cost = copied(cost, full.len() * again + rest.len(), times) + code;
                all.push(Cover { nv, full, rest, cost });
            }
        }
        all
    }

    /// All covers where both factors are vectors: `taps` products in a line that share their operands between rows, whose
    /// places differ by `stride` where those of taps differ by one; `lines` of them.
    pub(super) fn windows(&self, area: Area, taps: usize, lines: usize, stride: usize) -> Vec<Cover> {
        let Area { m, registers, times, runs, .. } = area;
        let runs = times.saturating_mul(runs);
        let mut all: Vec<Cover> = vec![];
        for nv in 1..=registers.min(4) {
            let fits = (self.registers / nv).saturating_sub(taps.min(self.registers / nv / 2) + 1);
            let most = fits.min(self.accumulators / nv).min(8).min(m);
            for mr in 1..=most {
                let rows = split(m, mr);
                if all.last().is_some_and(|c| c.nv == nv && c.full == rows) {
                    continue;
                }
                let one = |r: &Rows| {
                    let products = r.mr * taps * nv;
                    let loads = nv * (taps + ((r.mr - 1) * stride + taps).min(r.mr * taps));
                    let line = products.max(loads).max(IN_FLIGHT * taps) as f64 + 0.1 * loads as f64;
                    r.count as f64 * (lines as f64 * line + (12 + 3 * r.mr * nv) as f64)
                };
                let columns = registers as f64 / nv as f64;
                let copies = rows.len() * (1 + usize::from(area.parts(nv) || !registers.is_multiple_of(nv)));
                let sum = rows.iter().map(one).sum::<f64>() * columns * (1.0 + 2.0 * ENDS * (rows.len() - 1) as f64);
                let code = |r: &Rows| {
                    let line = nv * (2 * r.mr * taps + taps);
                    (self.unrolled / line).clamp(1, lines.max(1)) * line + r.mr * nv * (2 + self.epilogue)
                };
                let code = rows.iter().map(code).sum::<usize>() * (copies / rows.len());
                let cost = copied(sum, copies, times) + code as f64 * self.instruction / runs.max(1) as f64;
                all.push(Cover { nv, rest: rows.clone(), full: rows, cost });
            }
        }
        all
    }
}

impl Area {
    /// Whether the last column of tiles of `nv` registers differs from others only in that its last register is not full.
    fn parts(&self, nv: usize) -> bool {
        !self.whole && self.registers > nv && self.registers.is_multiple_of(nv)
    }
}

/// `cost` of tiles that have `loops` loops of their own, which run `times` times.
fn copied(cost: f64, loops: usize, times: usize) -> f64 {
    cost + loops.saturating_sub(1) as f64 * (COPY / times.max(1) as f64).min(COPY_PART * cost)
}

/// The first of the cheapest.
fn cheapest<T>(all: impl Iterator<Item = T>, cost: impl Fn(&T) -> f64) -> Option<T> {
    all.reduce(|best, next| if cost(&next) < cost(&best) { next } else { best })
}

impl Cover {
    /// The cheapest of `all` that has tiles of `size` (rows and registers), if one does; else the cheapest. If there is none, one by
    /// one for `m` rows.
    pub(super) fn choose(all: &[Cover], size: Option<(usize, usize)>, m: usize) -> Cover {
        let best = |of: &mut dyn Iterator<Item = &Cover>| cheapest(of, |c| c.cost).cloned();
        let asked = size.and_then(|size| best(&mut all.iter().filter(|c| c.size() == size)));
        let found = asked.or_else(|| best(&mut all.iter()));
        found.unwrap_or_else(|| Cover { nv: 1, full: split(m, 1), rest: split(m, 1), cost: f64::INFINITY })
    }

    /// Rows and registers of the largest tiles.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.full.first().map_or(1, |r| r.mr), self.nv)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effort::Effort;

    fn budget(target: &str) -> Budget {
        Budget::of(&Target::parse(target).expect("a target"), Effort::Full.price(), 1)
    }

    #[test]
    fn rows_are_split_evenly() {
        let sizes = |m, most| split(m, most).into_iter().map(|r| (r.mr, r.count)).collect::<Vec<_>>();
        assert_eq!(sizes(49, 6), [(6, 4), (5, 5)]);
        assert_eq!(sizes(12, 6), [(6, 2)]);
        assert_eq!(sizes(7, 4), [(4, 1), (3, 1)]);
        assert_eq!(sizes(3, 6), [(3, 1)]);
    }

    #[test]
    fn a_second_size_of_tiles_has_to_pay() {
        let cover = |target: &str, m, registers, k, times| {
            let all = budget(target).covers(Area { m, registers, whole: true, runs: 1, times }, k, false, true);
            Cover::choose(&all, None, m)
        };
        // Sums are short, and the code comes once: not six rows by four registers and five, but fourteen by two.
        let short = cover("x86_64-linux/sapphire-rapids", 196, 4, 192, 1);
        assert_eq!((short.full, short.rest), (vec![Rows { mr: 14, count: 14 }], vec![]));
        for target in ["x86_64-linux/zen3", "x86_64-linux/sapphire-rapids"] {
            // A long product is not slower for its code.
            let long = cover(target, 196, 40, 4608, 1);
            let best = |all: Vec<Cover>| all.into_iter().map(|c| c.cost).fold(f64::INFINITY, f64::min);
            let area = Area { m: 196, registers: 40, whole: true, runs: 1, times: usize::MAX };
            let free = best(budget(target).covers(area, 4608, false, true));
            assert!(long.cost <= 1.001 * free, "{target}: {} {free}", long.cost);
        }
        // A last register that is not full is a loop of its own, unless the only column holds it.
        let part = Area { m: 8, registers: 4, whole: false, runs: 1, times: 1 };
        assert_eq!([1, 2, 3, 4].map(|nv| part.parts(nv)), [true, true, false, false]);
    }

    #[test]
    fn tiles_fit_the_registers_and_fill_the_multipliers() {
        for (target, most) in [("x86_64-linux/x86-64-v2", 8), ("x86_64-linux/x86-64-v3", 14), ("aarch64-linux", 16)] {
            let b = budget(target);
            for m in [1, 2, 3, 7, 49, 196, 3136] {
                for registers in [1, 2, 3, 5, 8, 12, 40] {
                    let all = b.covers(Area { m, registers, whole: true, runs: 1, times: 1 }, 64, false, true);
                    let c = Cover::choose(&all, None, m);
                    let asked = all.last().expect("there is one").size();
                    assert_eq!(Cover::choose(&all, Some(asked), m).size(), asked);
                    assert_eq!(Cover::choose(&all, Some((99, 1)), m), c);
                    let covered = |rows: &[Rows]| rows.iter().map(|r| r.mr * r.count).sum::<usize>();
                    assert_eq!(covered(&c.full), m);
                    assert!(c.full.iter().all(|r| r.mr * c.nv <= most), "{target} {m} {registers}: {c:?}");
                    if registers % c.nv > 0 {
                        assert_eq!(covered(&c.rest), m);
                    }
                }
            }
        }
    }
}

//! Which loops over tiles are inside which.
//!
//! A product reads its rows and its columns again and again; what is read more often should come from the nearer cache. Where both
//! factors are vectors (depthwise convolutions) every element is multiplied a few times only, so the time goes by what comes from the
//! second cache: see [`Lines`].

use super::plan::Factor;
use crate::tuning::Order;
use std::collections::BTreeSet;
use tenon_base::gcd;
use tenon_kernel::{ContractDim, Kernel, Var};
use tenon_target::Caches;

/// Lines of a set of the first cache at least, in most processors.
const WAYS: usize = 8;
/// What a byte costs that comes from beyond the second cache, where one from there costs 1.
const FAR: f64 = 3.0;
/// Bytes of the second cache above which the third is far away, at the other end of a mesh: rows come from there much faster than pieces.
const NEAR: usize = 1 << 20;
/// Bytes a cycle that come from the second cache.
const SECOND: f64 = 24.0;
/// Lines of a block whose tiles are computed below each other.
const LINES: usize = 8;
/// Products for one point of the loops between that are looked at one by one.
const MOST: usize = 1 << 14;

/// Lines of a block whose tiles are computed below each other, of `n` in all. Few lines read what is around them more often; many lie in more
/// pages than the first of the tables of pages has room for, and each column would look for them again.
pub(super) fn lines_of_block(n: usize) -> usize {
    if n <= LINES {
        return n;
    }
    let even = |l: &usize| n.is_multiple_of(*l);
    (LINES / 2 + 1..=LINES).rev().find(even).or_else(|| (LINES + 1..=2 * LINES).find(even)).unwrap_or(LINES)
}

/// The order of a product whose loops over rows read `columns` bytes again, and whose loops over columns read `rows` bytes and write
/// a part of each row of `written` bytes.
pub(super) fn of_product(rows: usize, columns: usize, written: usize, caches: &Caches) -> Order {
    if columns <= caches.l1d / 2 && rows.max(written) > caches.l2 / 2 {
        Order::ColumnsInside
    } else {
        Order::RowsInside
    }
}

/// A contraction both of whose factors are vectors.
pub(super) struct Lines<'a> {
    /// The loop that becomes lanes.
    pub(super) v: &'a ContractDim,
    /// The loop over rows.
    pub(super) m: &'a ContractDim,
    /// The loops summed over.
    pub(super) reduce: &'a [ContractDim],
    /// The innermost of the other loops, whose lines windows share.
    pub(super) lines: Option<ContractDim>,
    /// Rows of a tile.
    pub(super) rows: usize,
    /// Points of all other loops.
    pub(super) middle: usize,
    /// Tiles that are computed for every column.
    pub(super) tiles: usize,
    /// Elements along `v` of a tile, and of a register.
    pub(super) width: usize,
    pub(super) lanes: usize,
}

impl Lines<'_> {
    /// The order in which less comes from the second cache and from beyond it.
    ///
    /// With the columns inside, memory is read as it lies, but a row comes from the second cache as often as a window meets it, and so
    /// do the taps, if they are too many. With a column at a time, all windows that meet a row may find it in the first cache, if its
    /// places do not fall into the same few sets; but lines that a tile does not take whole are fetched again for the next column. With tiles
    /// below each other, one tile finds there what the one above it has read, and only what is beside a tile and around a block comes again.
    pub(super) fn order(&self, factors: [&Factor; 2], kernel: &Kernel, caches: &Caches) -> Order {
        let [a, b] = factors;
        let (x, taps) = if a.uses(self.m) { (a, b) } else { (b, a) };
        let decl = kernel.buffer(x.buf);
        let size = decl.dtype.size();
        let bytes = (decl.len * size) as f64;
        let far = if decl.len * size <= caches.l2 { 1.0 } else { FAR };
        let pieces = lines_of(self.width * size, self.v.extent * size, caches.line);
        let row = (self.v.extent * size) as f64;
        let window = self.places(x, self.m.extent, 1);
        let steps: usize = self.reduce.iter().filter(|d| taps.uses(d)).map(|d| d.extent).product();
        let taps = steps * self.v.extent * kernel.buffer(taps.buf).dtype.size();
        let taps = |times: usize| if taps <= caches.l1d / 2 { 0.0 } else { (taps * times) as f64 };

        let again = window.as_ref().map_or(f64::INFINITY, |w| (self.middle * w.len()) as f64 * row - bytes);
        let inside = far * bytes + again.max(0.0) + taps(self.tiles);
        // What is written takes about as much of the second cache as what is read.
        let scattered = caches.l2 > NEAR && 2 * decl.len * size > caches.l2;
        let fits = |places: &Option<BTreeSet<i64>>| places.as_ref().is_some_and(|p| fits(p, size, caches));
        let outside = if !scattered && fits(&window) { far * bytes * pieces } else { f64::INFINITY };

        let below = lines_of_block(self.lines.as_ref().map_or(1, |d| d.extent));
        let times = self.tiles.div_ceil(below);
        let below = match self.places(x, self.rows, below) {
            Some(block) if below > 1 && fits(&self.places(x, self.rows, 1)) => {
                let again = (times * block.len()) as f64 * row - bytes;
                far * bytes * pieces + again.max(0.0) * pieces + taps(times)
            }
            _ => f64::INFINITY,
        };
        // What comes while the products are computed costs next to nothing, and memory is better read and written as it lies.
        let products =
            self.middle * self.m.extent * self.v.extent * self.reduce.iter().map(|d| d.extent).product::<usize>();
        let meanwhile = products as f64 / (2 * self.lanes) as f64 * SECOND;
        if below < outside && inside - below > meanwhile / 2.0 {
            Order::LinesInside
        } else if outside < inside {
            Order::ColumnsOutside
        } else {
            Order::ColumnsInside
        }
    }

    /// Where the elements of one column are that `rows` rows of `lines` lines read; `None` if they are very many.
    fn places(&self, x: &Factor, rows: usize, lines: usize) -> Option<BTreeSet<i64>> {
        let along = [(self.m.var, rows)].into_iter().chain(self.lines.iter().map(|d| (d.var, lines)));
        places(x, self.reduce.iter().map(|d| (d.var, d.extent)).chain(along))
    }
}

/// Where the elements of `f` are that `loops` read, each a variable and its iterations; `None` if they are very many.
fn places(f: &Factor, loops: impl Iterator<Item = (Var, usize)>) -> Option<BTreeSet<i64>> {
    let mut all = BTreeSet::from([0]);
    for (var, extent) in loops {
        let by = f.index.coefficient(var);
        if by != 0 {
            if all.len().saturating_mul(extent) > MOST {
                return None;
            }
            all = all.iter().flat_map(|at| (0..extent as i64).map(move |i| at + i * by)).collect();
        }
    }
    Some(all)
}

/// How many lines pieces of `bytes` of rows of `row` bytes touch on average, for each line that they fill: a piece may be less than a
/// line, and where rows begin inside lines it lies across their borders.
fn lines_of(bytes: usize, row: usize, line: usize) -> f64 {
    let (bytes, line) = (bytes.max(1), line.max(1));
    let step = gcd(gcd(row, bytes), line);
    (bytes + line - step) as f64 / bytes as f64
}

/// Whether the lines of elements `places`, of `size` bytes each, fill no set of the first cache by more than a half: the other one is for
/// what is read and written beside them.
fn fits(places: &BTreeSet<i64>, size: usize, caches: &Caches) -> bool {
    let line = caches.line.max(1);
    // A power of two; caches of 48 KiB have more ways.
    let sets = 1 << (caches.l1d / (line * WAYS)).max(1).ilog2();
    let ways = (caches.l1d / (line * sets)).max(1);
    let lines: BTreeSet<i64> = places.iter().map(|at| (at * size as i64).div_euclid(line as i64)).collect();
    let mut full = vec![0; sets];
    lines.iter().all(|line| {
        let set = &mut full[line.rem_euclid(sets as i64) as usize];
        *set += 1;
        *set <= ways / 2
    })
}

/// Whether runs of `width` elements of `f`, one for each point of `reduce`, crowd so few sets of the first cache that the rows of tiles
/// that read them one after the other would not find them there: heads of an attention lie so, many powers of two apart.
pub(super) fn crowded(f: &Factor, reduce: &[ContractDim], width: usize, size: usize, caches: &Caches) -> bool {
    let Some(places) = places(f, reduce.iter().map(|d| (d.var, d.extent))) else { return true };
    // One run beside the other is what packing would make of them.
    let apart = places.iter().zip(places.iter().skip(1)).any(|(a, b)| b - a > width as i64);
    let line = (caches.line / size.max(1)).max(1);
    let lines = places.iter().flat_map(|at| (0..width).step_by(line).map(move |k| at + k as i64)).collect();
    apart && !fits(&lines, size, caches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(rows: i64, columns: i64, channels: i64) -> BTreeSet<i64> {
        (0..rows).flat_map(|r| (0..columns).map(move |c| (r * columns + c) * channels)).collect()
    }

    #[test]
    fn pieces_across_borders_touch_more_lines() {
        assert_eq!(lines_of(64, 384, 64), 1.0);
        assert_eq!(lines_of(32, 384, 64), 2.0);
        assert_eq!(lines_of(64, 96, 64), 1.5);
        assert_eq!(lines_of(64, 232, 64), 1.875);
    }

    #[test]
    fn places_far_apart_share_sets() {
        // Three rows of 16 places: an odd number of lines from place to place goes through all sets, 24 through eight of them.
        let caches = |l1d: usize| Caches { l1d: l1d << 10, l2: 512 << 10, l3: 0, line: 64 };
        assert!(fits(&places(3, 16, 400), 4, &caches(32)));
        assert!(!fits(&places(3, 16, 384), 4, &caches(32)));
        assert!(fits(&places(3, 16, 384), 4, &caches(64)));
        // Twelve ways of as many sets as with eight.
        assert!(fits(&places(3, 16, 384), 4, &caches(48)));
        assert!(!fits(&places(3, 24, 384), 4, &caches(48)));
        assert!(!fits(&places(3, 114, 96), 4, &caches(32)));
    }

    #[test]
    fn heads_crowd_sets_and_short_matrices_do_not() {
        let caches = Caches { l1d: 32 << 10, l2: 512 << 10, l3: 0, line: 64 };
        let k = ContractDim { var: tenon_kernel::Var(0), extent: 512 };
        let factor = |stride| Factor {
            buf: tenon_kernel::Buf(0),
            index: tenon_kernel::Affine::default().with(k.var, stride),
            casts: vec![],
            along: crate::schedule::contract::plan::Along::Vector,
        };
        let found = |stride, extent| crowded(&factor(stride), &[ContractDim { extent, ..k.clone() }], 24, 4, &caches);
        assert!(found(2304, 512));
        assert!(found(512, 64));
        // Rows of other lengths, and what is one run already.
        assert!(!found(197, 64));
        assert!(!found(24, 512));
    }
}

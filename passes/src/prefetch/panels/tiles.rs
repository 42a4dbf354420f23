//! What is fetched while tiles are multiplied: the statement ([`Tiles`]) holds the loops over a panel itself, and what it asks for
//! meanwhile ([`Fetch`]).
//!
//! Weights are a panel of one or two tiles of columns, read again for each block of rows. Where rows are read again for each tile of columns
//! instead, they are what is fetched, if the image is long; and so are the elements of long images that the sums of the next block are
//! added to and stored in.

use super::{LINE, Loop, MOST_TILES, Place, Prefetch, SHORTEST};
use tenon_base::DType;
use tenon_kernel::{Access, Affine, Buf, Expr, Fetch, Stmt, Tiles};

impl Prefetch<'_> {
    /// The panel, or else the rows, that `t` reads from their beginning to their end, and the loops around that do so again.
    pub(super) fn read_by(&self, t: &Tiles) -> Option<(Place, Vec<usize>)> {
        self.panel_of(t).or_else(|| self.rows_of(t))
    }

    /// Its panel.
    fn panel_of(&self, t: &Tiles) -> Option<(Place, Vec<usize>)> {
        let (buf, index) = Tiles::source(&t.w)?;
        let mut index = Affine::of(index).filter(|_| (self.constant)(buf))?;
        let group = Tiles::group_beside(self.dtype(&t.x)?, self.dtype(&t.w)?)?;
        let mut run = (t.groups * Tiles::LANES * group) as i64;
        for d in t.reduce.iter().rev() {
            if index.terms.remove(&d.var) != Some(run) {
                return None;
            }
            run = run.checked_mul(d.extent as i64)?;
        }
        if t.panels > 1 && run != t.beside as i64 {
            return None;
        }
        self.place(buf, index, run.checked_mul(t.panels as i64)?)
    }

    /// Its rows, if they lie beside each other.
    fn rows_of(&self, t: &Tiles) -> Option<(Place, Vec<usize>)> {
        let (buf, index) = Tiles::source(&t.x)?;
        let index = Affine::of(index)?;
        let run = t.groups * Tiles::group(self.dtype(&t.x)?)?;
        let dense = t.reduce.is_empty() && t.row == run && (t.blocks == 1 || t.below == t.rows * run);
        if !dense || !self.is_long(buf) {
            return None;
        }
        self.place(buf, index, (t.height() * run) as i64)
    }

    /// What lies at `index`, `length` elements, and the loops around that do not move it.
    fn place(&self, buf: Buf, index: Affine, length: i64) -> Option<(Place, Vec<usize>)> {
        let moves = |i: &usize| self.loops[*i].trips.is_none() || index.coefficient(self.loops[*i].var) != 0;
        let again: Vec<usize> = (0..self.loops.len()).rev().take_while(|i| !moves(i)).collect();
        let outside = self.loops.len() - again.len();
        let around = outside.checked_sub(1)?;
        // Read once, then all of it again: it is shorter than a cache, or else the loops would be in another order.
        let in_turns = again.is_empty() && !(0..outside).all(|i| moves(&i));
        let around = Some(self.loops[around].number);
        (!in_turns).then_some((Place { buf, index, length, around }, again))
    }

    fn dtype(&self, factor: &Expr) -> Option<DType> {
        Tiles::source(factor).map(|(buf, _)| self.kernel.buffer(buf).dtype)
    }

    /// Whether `buf`, which is made anew in every run, hardly stays in the second cache until it is read.
    fn is_long(&self, buf: Buf) -> bool {
        let decl = self.kernel.buffer(buf);
        (decl.len * decl.dtype.size()) as i64 >= self.largest / 2
    }

    /// What `t` fetches while it multiplies: of the next panel, or of the next rows.
    pub(super) fn fetch(&mut self, t: &Tiles) -> Option<Fetch> {
        let (place, again) = self.read_by(t)?;
        let size = self.kernel.buffer(place.buf).dtype.size() as i64;
        let (buf, length, base) = (place.buf, place.length, place.index.clone());
        let tiles = self.tiles_of(&again);
        let (all, done) = self.present(place, tiles)?;
        let bytes = length.saturating_mul(size);
        if all > MOST_TILES || bytes < SHORTEST || bytes > self.largest {
            return None;
        }
        // As many lines a step as leave the least to do for each tile.
        let split = |n: i64, by: i64| (n + by - 1) / by;
        let of_a_step = split(bytes / LINE, t.steps() as i64);
        let lines = split(of_a_step, all);
        let shares = split(of_a_step, lines);
        if done >= shares {
            return None;
        }
        let share = lines * t.steps() as i64 * LINE / size;
        let index = Affine { base: base.base + length, terms: base.terms };
        let index = match again.first() {
            None => Affine { base: index.base + done * share, terms: index.terms },
            Some(_) => index.with(self.start(&again, (done, tiles), shares, share), 1),
        };
        self.added += 1;
        Some(Fetch { first: Expr::load(buf, index.to_expr()), lines: lines as usize })
    }

    /// Prefetches for the innermost loop of `body`, which goes over the rows of a product of tiles: the places that the next tiles' rows are read
    /// from and stored to. Lines come one here and one there, and the machine does not see where it goes on.
    pub(super) fn rows_ahead(&mut self, body: &[Stmt]) -> Vec<Stmt> {
        let mut places: Vec<(Buf, Affine)> = vec![];
        let mut note = |buf: Buf, index: &Expr, lanes: u16| {
            let long = self.kernel.buffer(buf).access != Access::Scratch && self.is_long(buf);
            let Some(index) = Affine::of(index).filter(|_| long && !(self.constant)(buf)) else { return };
            let size = self.kernel.buffer(buf).dtype.size() as i64;
            let Some((_, around)) = self.loops.split_last() else { return };
            let by = |l: &Loop| index.coefficient(l.var).saturating_mul(l.step);
            let next = around.iter().rev().map(by).find(|by| by.saturating_mul(size) > 2 * LINE);
            let Some(next) = next else { return };
            let lines = (i64::from(lanes) * size + LINE - 1) / LINE;
            for first in (0..lines).map(|l| index.base + next + l * LINE / size) {
                let index = Affine { base: first, terms: index.terms.clone() };
                let same_line = |(b, i): &(Buf, Affine)| {
                    let apart = (index.base - i.base).saturating_mul(size).unsigned_abs();
                    *b == buf && i.terms == index.terms && apart < LINE as u64
                };
                if !places.iter().any(same_line) {
                    places.push((buf, index));
                }
            }
        };
        for s in body {
            s.exprs(&mut |e| {
                e.visit(&mut |e| {
                    if let Expr::Load { buf, index, lanes } = e {
                        note(*buf, index, *lanes);
                    }
                });
            });
            if let Stmt::Store { buf, index, value } = s {
                note(*buf, index, self.kernel.type_of(value).lanes);
            }
        }
        self.added += places.len();
        places.into_iter().map(|(buf, index)| Stmt::Prefetch { buf, index: index.to_expr() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{prefetched, run};
    use std::collections::{BTreeMap, BTreeSet};

    /// Tiles of weights of `k` groups for rows of an image, in these loops.
    fn product(k: usize, loops: &str) -> String {
        format!(
            "kernel k(in %w: u16[{}], in %x: u16[131072], out %y: f32[65536], scratch %sums: f32[1024]) {{ {loops}
               tiles %sums[0] = 2 * 16 rows, 2 * 16 columns, {k} groups {{
                 load %x[%m * {}], {}, {}
                 load %w[%t * {}], {}
               }}
               for %row in 0..32 {{ store %y[%m * 64 + %row * 64 + %t * 16] = load32 %sums[%row * 32] }}
             }} }} }}",
            4 * k * 32,
            2 * k,
            2 * k,
            32 * k,
            32 * k,
            32 * k
        )
    }

    /// Lines that are fetched of each buffer, in each iteration of the outermost loop.
    fn lines(text: &str) -> BTreeMap<(u32, i64), Vec<i64>> {
        let mut lines: BTreeMap<(u32, i64), Vec<i64>> = BTreeMap::new();
        let kernel = prefetched(text);
        run(&kernel.body, &mut BTreeMap::new(), &mut |t, buf, e| {
            let size = kernel.buffer(buf).dtype.size() as i64;
            lines.entry((buf.0, t)).or_default().push(e * size / 64);
        });
        lines
    }

    #[test]
    fn blocks_of_rows_share_the_next_panel() {
        for (k, rows) in [(64, 2), (64, 7), (40, 3), (256, 5)] {
            let text = product(k, &format!("parfor %t in 0..4 step 2 {{ parfor %m in 0..{} step 32 {{", 32 * rows));
            for ((buf, t), lines) in lines(&text).into_iter().filter(|((b, _), _)| *b == 0) {
                // A panel is two tiles of columns: k lines each.
                let (k, t) = (k as i64, t / 2);
                let all: BTreeSet<i64> = lines.iter().copied().collect();
                assert!(((t + 1) * 2 * k..(t + 2) * 2 * k).all(|l| all.contains(&l)), "{buf} {k} {rows}");
                assert!(lines.len() as i64 <= 2 * (2 * k + 32), "{k} {rows}: {} lines", lines.len());
            }
        }
    }

    #[test]
    fn rows_are_fetched_where_they_are_read_again() {
        let text = product(64, "parfor %m in 0..128 step 32 { parfor %t in 0..4 step 2 {");
        let found = lines(&text);
        // What all weights are read for again is in a cache; 32 rows of 256 bytes, and as many of the result.
        assert!(found.keys().all(|(b, _)| *b != 0), "{found:?}");
        for m in [0, 32, 64] {
            let rows: BTreeSet<i64> = found[&(1, m)].iter().copied().collect();
            assert_eq!(rows, ((m + 32) * 4..(m + 64) * 4).collect(), "rows of {m}");
            let stored: BTreeSet<i64> = found[&(2, m)].iter().copied().collect();
            assert!(stored.iter().all(|l| (m + 32..m + 64).contains(&(l / 4))) && stored.len() == 128, "{stored:?}");
        }
    }
}

//! Panels of weights come to the caches a panel ahead.
//!
//! A model's weights rarely stay in the caches from run to run. A tiled product reads a panel of them for one tile of rows after
//! the other: the first waits for memory, all others for arithmetic. Here the tiles also fetch the next panel, each its share, so that
//! memory and arithmetic are busy all the time:
//!
//! ```text
//! parfor %t in 0..21 {                 // panels
//!   parfor %m in 0..24 step 6 {        // tiles of rows: %m is not in the index below
//!     let %ahead = %m / 6 * 768
//!     for %k in 0..128 step 4 {        // reads the panel from its beginning to its end
//!       prefetch %w[%t * 3072 + %ahead + %k * 6 + 3072]
//!       … load8 %w[%t * 3072 + %k * 24] …
//! ```
//!
//! Where an iteration fetches several lines, its share is cut into as many runs, and one line of each comes at a time ([`streams`]).
//! Products of tiles are fetched for in the same way ([`tiles`]).
//!
//! What follows a panel in memory is the next one, and behind the last one nothing is read that was not there. Hardware prefetchers do not
//! do this: they stop at every page, and see a run of addresses again and again before it goes on.

mod tiles;

use super::nth;
use rayon::prelude::*;
use std::collections::BTreeSet;
use tenon_kernel::codegen::address::is_innermost;
use tenon_kernel::{Affine, BinOp, Buf, Expr, Kernel, Program, Stmt, Type, Var};
use tenon_target::Target;

/// Bytes of a cache line.
pub(super) const LINE: i64 = 64;
/// A panel shorter than a page is there before it could be asked for.
const SHORTEST: i64 = 4096;
/// Bytes from which on two places are no neighbours.
const APART: i64 = 1024;
/// Tiles of rows from which on waiting for the first is nothing.
const MOST_TILES: i64 = 64;

/// Adds prefetches to the kernels of `program`; gives how many kernels have some.
pub(super) fn run(program: &mut Program, target: &Target) -> usize {
    let constants = program.constants_of_kernels();
    let largest = (target.caches.l2 / 2) as i64;
    let run = |(kernel, constants): (&mut Kernel, BTreeSet<Buf>)| {
        let constant = |b: Buf| constants.contains(&b);
        let body = std::mem::take(&mut kernel.body);
        let mut pass =
            Prefetch { constant: &constant, largest, kernel, loops: vec![], seen: 0, panels: vec![], added: 0 };
        let body = pass.all(body);
        let changed = pass.added > 0;
        kernel.body = body;
        usize::from(changed)
    };
    program.kernels.par_iter_mut().zip(constants).map(run).sum()
}

/// A loop around the present statement.
struct Loop {
    /// Which loop of the kernel.
    number: usize,
    var: Var,
    lo: Expr,
    step: i64,
    /// Iterations, where that is known.
    trips: Option<i64>,
    /// Statements to put at the beginning of its body.
    first: Vec<Stmt>,
}

struct Prefetch<'a> {
    constant: &'a dyn Fn(Buf) -> bool,
    /// Bytes that are fetched ahead at most.
    largest: i64,
    kernel: &'a mut Kernel,
    /// Outermost first.
    loops: Vec<Loop>,
    /// Loops seen so far.
    seen: usize,
    /// Panels in the order in which they are first read. All are known before the first prefetch is written.
    panels: Vec<Panel>,
    added: usize,
}

/// Loads whose indices differ by constants.
struct Loads {
    buf: Buf,
    /// The index without its constant.
    terms: Affine,
    /// The constants, and where the elements end.
    pieces: Vec<(i64, i64)>,
}

/// Loads that together read one run of elements, a piece an iteration.
struct Run {
    buf: Buf,
    /// The first element.
    index: Affine,
    /// Elements an iteration.
    piece: i64,
}

/// A run that is read from its beginning to its end again and again.
struct Reads {
    /// Elements of the run.
    length: i64,
    /// Loops that go on through it, and those that begin anew: tiles.
    along: Vec<usize>,
    again: Vec<usize>,
    tiles: i64,
}

/// What tiles of rows read again and again. They may be of several sizes, each with loops of its own, one after the other.
#[derive(PartialEq)]
struct Place {
    buf: Buf,
    /// Its first element.
    index: Affine,
    length: i64,
    /// The loop around those over tiles.
    around: Option<usize>,
}

struct Panel {
    place: Place,
    /// All tiles, and how many of them were given their share.
    tiles: i64,
    done: i64,
    /// Lines an iteration at most that leave one for every iteration.
    lines: i64,
    /// How far the loops that go on through it move at a time.
    steps: BTreeSet<i64>,
}

impl Panel {
    /// Parts that tiles fetch one each: the more the better, down to a line an iteration.
    fn shares(&self) -> Option<i64> {
        (1..=self.tiles.min(self.lines)).rev().find(|n| self.steps.iter().all(|s| s % n == 0))
    }
}

impl Prefetch<'_> {
    /// All of a kernel's body.
    fn all(&mut self, body: Vec<Stmt>) -> Vec<Stmt> {
        self.survey(&body);
        self.seen = 0;
        self.block(body)
    }

    fn enter(&mut self, var: Var, [lo, hi]: [&Expr; 2], step: i64) {
        self.loops.push(Loop {
            number: self.seen,
            var,
            lo: lo.clone(),
            step,
            trips: trips(lo, hi, step),
            first: vec![],
        });
        self.seen += 1;
    }

    /// Finds the panels of `body`.
    fn survey(&mut self, body: &[Stmt]) {
        for s in body {
            match s {
                Stmt::For { var, lo, hi, step, body, .. } => {
                    self.enter(*var, [lo, hi], *step);
                    if is_innermost(body) {
                        for run in self.runs(body, *var, *step) {
                            self.note(&run);
                        }
                    } else {
                        self.survey(body);
                    }
                    self.loops.pop();
                }
                Stmt::If { then, otherwise, .. } => [then, otherwise].into_iter().for_each(|b| self.survey(b)),
                Stmt::While { body, .. } => self.survey(body),
                Stmt::Tiles(t) => {
                    if let Some((place, again)) = self.read_by(t) {
                        let tiles = self.tiles_of(&again);
                        self.add(place, tiles, 0, BTreeSet::new());
                    }
                }
                _ => {}
            }
        }
    }

    fn block(&mut self, body: Vec<Stmt>) -> Vec<Stmt> {
        let tiles = body.iter().any(|s| matches!(s, Stmt::Tiles(_)));
        body.into_iter().map(|s| self.statement(s, tiles)).collect()
    }

    /// `s` with what it fetches; it may go over rows of `tiles` beside it.
    fn statement(&mut self, s: Stmt, tiles: bool) -> Stmt {
        match s {
            Stmt::For { var, lo, hi, step, parallel, body } => {
                let innermost = is_innermost(&body);
                self.enter(var, [&lo, &hi], step);
                let mut body = if innermost { body } else { self.block(body) };
                if innermost {
                    let mut ahead: Vec<Stmt> =
                        self.runs(&body, var, step).iter().flat_map(|r| self.ahead(r)).collect();
                    if tiles {
                        ahead.extend(self.rows_ahead(&body));
                    }
                    ahead.append(&mut body);
                    body = ahead;
                }
                let mut first = self.loops.pop().map_or(vec![], |l| l.first);
                first.append(&mut body);
                Stmt::For { var, lo, hi, step, parallel, body: first }
            }
            Stmt::If { cond, then, otherwise } => {
                Stmt::If { cond, then: self.block(then), otherwise: self.block(otherwise) }
            }
            Stmt::While { cond, body } => Stmt::While { cond, body: self.block(body) },
            Stmt::Tiles(mut t) => {
                t.fetch = self.fetch(&t);
                Stmt::Tiles(t)
            }
            s => s,
        }
    }

    /// What `body`, that of an innermost loop over `var`, reads of constants in runs.
    fn runs(&self, body: &[Stmt], var: Var, step: i64) -> Vec<Run> {
        let mut found: Vec<Loads> = vec![];
        for s in body {
            s.exprs(&mut |e| {
                e.visit(&mut |e| {
                    let Expr::Load { buf, index, lanes } = e else { return };
                    let Some(index) = Affine::of(index).filter(|_| (self.constant)(*buf)) else { return };
                    let piece = (index.base, index.base.saturating_add(i64::from(*lanes)));
                    let terms = Affine { base: 0, ..index };
                    match found.iter_mut().find(|l| l.buf == *buf && l.terms == terms) {
                        Some(l) => l.pieces.push(piece),
                        None => found.push(Loads { buf: *buf, terms, pieces: vec![piece] }),
                    }
                });
            });
        }
        let mut out = vec![];
        for Loads { buf, terms: index, mut pieces } in found {
            let Some(piece) = index.coefficient(var).checked_mul(step).filter(|p| *p > 0) else { continue };
            pieces.sort_unstable();
            pieces.dedup();
            let (first, last) = (pieces[0].0, pieces[pieces.len() - 1].1);
            // The last columns of a product leave some of their panel's width unread, but hardly a line.
            let gap = |n: i64| (0..=LINE / self.kernel.buffer(buf).dtype.size() as i64).contains(&n);
            if pieces.windows(2).all(|w| gap(w[1].0 - w[0].1)) && gap(piece - (last - first)) {
                out.push(Run { buf, index: Affine { base: first, ..index }, piece });
            }
        }
        out
    }

    /// How the loops around read `run`, if they do so more than once.
    fn reads(&self, run: &Run) -> Option<(Place, Reads)> {
        // From the inside: loops that go on through memory, then loops that do not move.
        let mut length = run.piece;
        let (mut along, mut again) = (vec![], vec![]);
        for (i, l) in self.loops.iter().enumerate().rev() {
            let Some(trips) = l.trips else { break };
            let Some(by) = run.index.coefficient(l.var).checked_mul(l.step) else { break };
            match by {
                0 => again.push(i),
                _ if again.is_empty() && by == length && l.lo.as_int() == Some(0) => {
                    length = length.saturating_mul(trips);
                    along.push(i);
                }
                _ => break,
            }
        }
        let tiles = self.tiles_of(&again);
        let around = self.loops.len() - along.len() - again.len();
        let mut index = run.index.clone();
        for i in &along {
            index.terms.remove(&self.loops[*i].var);
        }
        let around = around.checked_sub(1).map(|i| self.loops[i].number);
        let place = Place { buf: run.buf, index, length, around };
        (!again.is_empty()).then_some((place, Reads { length, along, again, tiles }))
    }

    /// Iterations of loops.
    fn tiles_of(&self, again: &[usize]) -> i64 {
        again.iter().fold(1, |n, i| n.saturating_mul(self.loops[*i].trips.unwrap_or(1)))
    }

    /// Adds what reads `run` to what is known of its panel.
    fn note(&mut self, run: &Run) {
        let Some((place, reads)) = self.reads(run) else { return };
        let lines = run.piece * self.kernel.buffer(run.buf).dtype.size() as i64 / LINE;
        let steps = reads.along.iter().map(|i| run.index.coefficient(self.loops[*i].var)).collect();
        self.add(place, reads.tiles, lines, steps);
    }

    fn add(&mut self, place: Place, tiles: i64, lines: i64, steps: BTreeSet<i64>) {
        match self.panels.iter_mut().find(|p| p.place == place) {
            Some(p) => {
                p.tiles = p.tiles.saturating_add(tiles);
                p.lines = p.lines.min(lines);
                p.steps.extend(steps);
            }
            None => self.panels.push(Panel { place, tiles, done: 0, lines, steps }),
        }
    }

    /// All tiles that read the panel at `place`, and how many of them come before the present `tiles`.
    fn present(&mut self, place: Place, tiles: i64) -> Option<(i64, i64)> {
        let panel = self.panels.iter_mut().find(|p| p.place == place)?;
        panel.done += tiles;
        Some((panel.tiles, panel.done - tiles))
    }

    /// Prefetches for the innermost loop that reads `run`, if loops around it read the same again.
    fn ahead(&mut self, run: &Run) -> Vec<Stmt> {
        let size = self.kernel.buffer(run.buf).dtype.size() as i64;
        let Some((place, reads)) = self.reads(run) else { return vec![] };
        let Some(panel) = self.panels.iter_mut().find(|p| p.place == place) else { return vec![] };
        let (tiles, done) = (panel.tiles, panel.done);
        panel.done += reads.tiles;
        let bytes = reads.length.saturating_mul(size);
        if !(2..=MOST_TILES).contains(&tiles) || bytes < SHORTEST || bytes > self.largest {
            return vec![];
        }
        // Tiles behind the last share have nothing to do.
        let Some(shares) = panel.shares().filter(|n| done < *n) else { return vec![] };
        let lines = (run.piece / shares * size + LINE - 1) / LINE;
        let by: Vec<i64> = reads.along.iter().map(|i| run.index.coefficient(self.loops[*i].var) / shares).collect();
        let share = reads.length / shares;
        let streams = streams(lines, share, &by, size);
        let mut index = Affine { base: run.index.base + reads.length, terms: run.index.terms.clone() };
        for (i, by) in reads.along.iter().zip(&by) {
            let var = self.loops[*i].var;
            index = index.with(var, by / streams);
        }
        if shares > 1 {
            index = index.with(self.start(&reads.again, (done, reads.tiles), shares, share), 1);
        }
        self.added += 1;
        let at = |l: i64, stream: i64| {
            let base = index.base + stream * (share / streams) + l * (LINE / size);
            Stmt::Prefetch { buf: run.buf, index: Affine { base, terms: index.terms.clone() }.to_expr() }
        };
        (0..lines / streams).flat_map(|l| (0..streams).map(move |s| (l, s))).map(|(l, s)| at(l, s)).collect()
    }

    /// Where the share of the present tile begins, one of `share` elements each: a variable of the innermost of the loops over `tiles`, of
    /// which `done` came before.
    fn start(&mut self, again: &[usize], (done, tiles): (i64, i64), shares: i64, share: i64) -> Var {
        let of = |i: &usize| {
            let l = &self.loops[*i];
            nth(l.var, &l.lo, l.step)
        };
        let mut outside_in = again.iter().rev();
        let mut number = outside_in.next().map_or(Expr::int(0), of);
        for i in outside_in {
            number = number * self.loops[*i].trips.unwrap_or(1) + of(i);
        }
        if done > 0 {
            number = number + done;
        }
        // Those that come later fetch the last share once more, which costs nothing.
        if shares < done + tiles {
            number = number.binary(BinOp::Min, Expr::int(shares - 1));
        }
        let var = self.kernel.new_var("ahead", Type::INDEX);
        self.loops[again[0]].first.push(Stmt::Let { var, value: number * share });
        var
    }
}

/// How many runs a share of `share` elements of `size` bytes is cut into, which are fetched side by side: as many as an iteration fetches lines,
/// if loops that go on by elements `by` can go on by that part of them. Memory answers places that lie apart sooner than neighbours.
fn streams(lines: i64, share: i64, by: &[i64], size: i64) -> i64 {
    let whole = |n: &i64| {
        let apart = share / n * size >= APART;
        lines % n == 0 && apart && by.iter().chain([&share]).all(|b| b % n == 0)
    };
    (1..=lines).rev().find(whole).unwrap_or(1)
}

/// Iterations of a loop from `lo` to `hi`.
pub(super) fn trips(lo: &Expr, hi: &Expr, step: i64) -> Option<i64> {
    let (lo, hi) = (Affine::of(lo)?, Affine::of(hi)?);
    let n = hi.base.checked_sub(lo.base).filter(|n| lo.terms == hi.terms && *n > 0)?;
    Some((n + step - 1) / step)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tenon_kernel::Tiles;

    /// The elements that `kernel` fetches, in order.
    pub(in super::super) fn fetched(kernel: &Kernel) -> Vec<i64> {
        let mut all = vec![];
        run(&kernel.body, &mut BTreeMap::new(), &mut |_, _, e| all.push(e));
        all
    }

    /// Panels of `step · 24` by `k` elements for tiles of four rows, as a product has them.
    fn product(panels: usize, k: usize, rows: &str) -> String {
        let load = |j: usize| format!("load8 %w[%t * {0} + %k * 24 + {1}]", k * 24, j * 8);
        let reads: String = (0..6).map(|j| format!("%s = %s + {}\n", load(j))).collect();
        format!(
            "kernel k(in %w: f32[{}], out %y: f32[8192]) {{ parfor %t in 0..{panels} {{ parfor %m in {rows} {{
               var %s = splat8(0.0)
               for %k in 0..{k} step 2 {{ {reads} }}
               store %y[%m * 8] = %s
             }} }} }}",
            panels * k * 24
        )
    }

    pub(super) fn prefetched(text: &str) -> Kernel {
        let mut kernel = Kernel::parse(text).expect("it reads");
        let body = std::mem::take(&mut kernel.body);
        let constant = |b: Buf| b.0 == 0;
        let mut pass = Prefetch {
            constant: &constant,
            largest: 1 << 18,
            kernel: &mut kernel,
            loops: vec![],
            seen: 0,
            panels: vec![],
            added: 0,
        };
        let body = pass.all(body);
        kernel.body = body;
        tenon_kernel::verify_kernel(&kernel, tenon_kernel::Stage::Scheduled).expect("it verifies");
        kernel
    }

    /// Calls `f` with the value of the outermost loop, and the buffers and elements that are prefetched, in order.
    pub(super) fn run(body: &[Stmt], at: &mut BTreeMap<Var, i64>, f: &mut dyn FnMut(i64, Buf, i64)) {
        let value = |e: &Expr, at: &BTreeMap<Var, i64>| {
            let e = tenon_kernel::simplify_index(e.clone(), &|v| at.get(&v).map(|v| (*v, *v)));
            e.as_int().expect("all variables have values")
        };
        let outermost = |at: &BTreeMap<Var, i64>| *at.first_key_value().expect("inside a loop").1;
        for s in body {
            match s {
                Stmt::For { var, lo, hi, step, body, .. } => {
                    let (mut i, hi) = (value(lo, at), value(hi, at));
                    while i < hi {
                        at.insert(*var, i);
                        run(body, at, f);
                        i += step;
                    }
                    at.remove(var);
                }
                Stmt::Let { var, value: e } => {
                    at.insert(*var, value(e, at));
                }
                Stmt::Prefetch { buf, index } => f(outermost(at), *buf, value(index, at)),
                Stmt::Tiles(t) => {
                    if let Some(fetch) = &t.fetch {
                        let (buf, index) = Tiles::source(&fetch.first).expect("a load");
                        let first = value(index, at);
                        (0..(t.steps() * fetch.lines) as i64).for_each(|l| f(outermost(at), buf, first + l * 32));
                    }
                }
                _ => {}
            }
        }
    }

    #[test]
    fn every_line_of_the_next_panel_is_fetched_and_no_other() {
        for (k, rows, tiles) in
            [(64, "0..16 step 4", 4), (128, "4..46 step 6", 7), (50, "0..2", 2), (64, "0..63", 63)]
        {
            let kernel = prefetched(&product(5, k, rows));
            let mut lines: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
            let mut count = 0;
            run(&kernel.body, &mut BTreeMap::new(), &mut |t, _, e| {
                lines.entry(t).or_default().insert(e / 16);
                count += 1;
            });
            let panel = k as i64 * 24;
            for (t, lines) in lines {
                let want: BTreeSet<i64> = ((t + 1) * panel / 16..((t + 2) * panel + 15) / 16).collect();
                // Shares that are no whole lines may go one beyond.
                let beyond = |l: &i64| *l <= (t + 2) * panel / 16 + 1;
                assert!(lines.is_superset(&want) && lines.iter().all(beyond), "k {k}, rows {rows}, panel {t}");
            }
            let iterations = 5 * tiles * k / 2;
            assert!(count <= 3 * iterations, "{count} for {iterations} iterations of three lines each");
        }
    }

    #[test]
    fn tiles_of_two_sizes_share_the_work() {
        let (k, panel) = (64, 64 * 24);
        let reads = |step: usize| -> String {
            let load = |j: usize| format!("load8 %w[%t * {panel} + %k * 24 + {}]", j * 8);
            (0..3 * step).map(|j| format!("%s = %s + {}\n", load(j))).collect()
        };
        let tiles = |rows: &str, step: usize| {
            format!(
                "parfor %m in {rows} {{ var %s = splat8(0.0) for %k in 0..{k} step {step} {{ {} }} store %y[%m * 8] = %s }}",
                reads(step)
            )
        };
        let kernel = prefetched(&format!(
            "kernel k(in %w: f32[{}], out %y: f32[8192]) {{ parfor %t in 0..3 {{ {} {} }} }}",
            3 * panel,
            tiles("0..12 step 6", 2),
            tiles("12..17 step 5", 4)
        ));
        let mut lines: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        run(&kernel.body, &mut BTreeMap::new(), &mut |t, _, e| lines.entry(t).or_default().push(e / 16));
        for (t, mut lines) in lines {
            // Three tiles fetch a line of three in every iteration, or two of six in half as many.
            let want: Vec<i64> = ((t + 1) * panel / 16..(t + 2) * panel / 16).collect();
            lines.sort_unstable();
            assert_eq!(lines, want, "panel {t}");
        }
    }

    #[test]
    fn what_is_read_once_or_with_gaps_is_left_alone() {
        let has = |text: &str| {
            let mut any = false;
            tenon_kernel::stmt::visit_stmts(&prefetched(text).body, &mut |s| {
                any |= matches!(s, Stmt::Prefetch { .. })
            });
            any
        };
        assert!(has(&product(5, 64, "0..8 step 4")));
        assert!(!has(&product(5, 64, "0..4 step 4")), "one tile");
        assert!(!has(&product(5, 64, "0..512 step 4")), "so many tiles that the first does not count");
        assert!(!has(&product(5, 8, "0..8 step 4")), "less than a page");
        assert!(has(&product(5, 64, "0..8 step 4").replace("+ 40]", "+ 24]")), "eight columns are missing");
        let missing = product(5, 64, "0..8 step 4").replace("+ 24]", "+ 0]").replace("+ 32]", "+ 0]");
        assert!(!has(&missing.replace("+ 40]", "+ 0]")), "a row is missing");
        assert!(!has(&product(5, 64, "0..8 step 4").replace("load8 %w", "load8 %y")), "no constant");
    }
}

//! The loops of a contraction of narrow elements on a machine with registers for tiles.
//!
//! A block is two tiles below each other and two beside each other: 32 rows of `x`, along one of the loops that `w` does not know or along
//! two of them, by 32 lanes. Its sums go through memory ([`tenon_kernel::Tiles`]), a scratch buffer that stays in the first cache, from which
//! the epilogue takes them a row at a time. Rows are split evenly; where they do not come out even the last block begins earlier
//! and its first rows, which are there already, are not stored again.

use super::plan::Plan;
use crate::schedule::lanes::Lanes;
use crate::schedule::scope::{Block, for_loop};
use tenon_base::DType;
use tenon_kernel::{Access, Affine, Buf, Contract, ContractDim, Expr, Kernel, Stmt, Tiles, Type, Var};
use tenon_target::Caches;

/// Rows below which products in vectors are as fast: a tile takes as long for few rows as for many.
const MIN_ROWS: usize = 4;

/// The part of the first cache that sums of all rows may take.
const SUMS: usize = 2;

/// Cycles of the products of a block along a step, and of copying a line.
const STEP_CYCLES: usize = 64;
const LINE_CYCLES: usize = 4;

/// Whether blocks of rows are so few where those of `x` lie beside each other, at `dense`, that copying them pays: for `columns`, with sums of
/// `length` products of which `copied` elements lie in a row of the copy.
pub(super) fn dense_rows_pay(
    along: &ContractDim,
    middle: &[ContractDim],
    [x, dense]: [&Affine; 2],
    columns: usize,
    (length, copied): (usize, usize),
    caches: &Caches,
) -> bool {
    let [now, then] = [x, dense].map(|x| Rows::of(along, x, middle, caches.l1d / SUMS).passes());
    let other = middle.iter().filter(|d| x.coefficient(d.var) > 0).map(|d| d.extent).max().unwrap_or(1);
    let steps = columns.div_ceil(2 * Tiles::LANES) * length.div_ceil(2 * Tiles::STEP);
    let lines = along.extent * other * copied.div_ceil(2 * Tiles::STEP);
    let fewer = now.zip(then).map_or(0, |(now, then)| now.saturating_sub(then));
    fewer * steps * STEP_CYCLES > 2 * lines * LINE_CYCLES
}

/// Whether tiles pay for `rows` of `x`, runs of `length` in groups of `group`, and `columns`.
pub(super) fn pay(rows: usize, columns: usize, length: usize, group: usize) -> bool {
    rows >= MIN_ROWS && columns >= Tiles::LANES / 2 && length >= 4 * group
}

/// How the rows of a contraction are made blocks of.
#[derive(Clone, Debug)]
struct Rows {
    /// The loop whose iterations are the rows of a tile.
    along: ContractDim,
    /// Rows of one tile.
    rows: usize,
    /// Tiles below each other.
    blocks: usize,
    /// The other loop that rows come from.
    across: Across,
}

/// What a second loop is to the rows.
#[derive(Clone, Debug)]
enum Across {
    /// There is none.
    Nothing,
    /// The two tiles of a block are neighbours along it.
    Pairs(ContractDim),
    /// Its iterations follow each other as more rows, `pitch` rows apart: all blocks are computed before one sum is looked at, those
    /// of rows between the loops' points, too.
    Flat { other: ContractDim, pitch: usize },
}

impl Rows {
    /// For a factor that lies at `x`, where sums have so much `room`.
    fn of(along: &ContractDim, x: &Affine, middle: &[ContractDim], room: usize) -> Rows {
        let step = x.coefficient(along.var);
        let others = middle.iter().filter(|d| d.extent > 1 && x.coefficient(d.var) > 0);
        let other = others.max_by_key(|d| d.extent);
        // Blocks that a pass over all rows takes.
        let split = match (other, along.extent <= Tiles::STEP) {
            (Some(d), true) => d.extent.div_ceil(2),
            (d, _) => d.map_or(1, |d| d.extent) * along.extent.div_ceil(2 * Tiles::STEP),
        };
        let flat = other.and_then(|d| {
            let coefficient = x.coefficient(d.var);
            let pitch = usize::try_from(coefficient.checked_div(step)?).ok()?;
            let height = (d.extent - 1).checked_mul(pitch)? + along.extent;
            let fits = coefficient % step == 0 && pitch >= along.extent && height * 2 * Tiles::LANES * 4 <= room;
            (fits && height.div_ceil(2 * Tiles::STEP) < split).then(|| (d.clone(), pitch, height))
        });
        // Even tiles below each other for so many rows.
        let even = |height: usize| match height {
            0..=Tiles::STEP => (height, 1),
            n => (n.div_ceil(2 * n.div_ceil(2 * Tiles::STEP)), 2),
        };
        let ((rows, blocks), across) = match (flat, other) {
            (Some((other, pitch, height)), _) => {
                let (rows, blocks) = even(height);
                // An odd number of rows that one pass would take is a tile twice: behind the last row nothing may be read.
                let blocks = if rows * blocks > height { 1 } else { blocks };
                ((rows, blocks), Across::Flat { other, pitch })
            }
            (None, Some(d)) if along.extent <= Tiles::STEP => ((along.extent, 2), Across::Pairs(d.clone())),
            _ => (even(along.extent), Across::Nothing),
        };
        Rows { along: along.clone(), rows, blocks, across }
    }

    /// Rows in all, where all of them are computed at once; else those of a block.
    fn height(&self) -> usize {
        match &self.across {
            Across::Flat { other, pitch } => (other.extent - 1) * pitch + self.along.extent,
            _ => self.blocks * self.rows,
        }
    }

    /// Blocks that a pass over two loops of rows takes.
    fn passes(&self) -> Option<usize> {
        match &self.across {
            Across::Nothing => None,
            Across::Pairs(d) => Some(d.extent.div_ceil(2)),
            Across::Flat { .. } => Some(self.height().div_ceil(self.blocks * self.rows)),
        }
    }

    /// The loop that is none of the others around a block.
    fn other(&self) -> Option<&ContractDim> {
        match &self.across {
            Across::Nothing => None,
            Across::Pairs(d) | Across::Flat { other: d, .. } => Some(d),
        }
    }
}

/// Loops for `c`, tiled as `p` says.
pub(super) fn lower(c: &Contract, p: &Plan, along: &ContractDim, kernel: &mut Kernel, caches: &Caches) -> Vec<Stmt> {
    let rows = Rows::of(along, &p.x_index, &p.middle, caches.l1d / SUMS);
    let elem = kernel.var(c.acc).ty.elem;
    let columns = p.v.extent.next_multiple_of(Tiles::LANES).min(2 * Tiles::LANES);
    let sums = kernel.new_buffer("tile_sums", elem, rows.height() * columns, Access::Scratch);
    let bytes = |b: Buf| kernel.buffer(b).len * kernel.buffer(b).dtype.size();
    // What is in the inner loop is read again and again: weights that stay in the second cache, or else rows.
    let rows_first = bytes(p.w) <= caches.l2 / 2 && bytes(p.x) >= bytes(p.w);
    let mut g = Generator { c, p, rows, sums, kernel };
    let mut body = match rows_first {
        true => g.all_rows(&mut |g, at| g.all_columns(&mut |g, columns| g.block(columns, at))),
        false => g.all_columns(&mut |g, columns| g.all_rows(&mut |g, at| g.block(columns, at))),
    };
    if let Some(fill) = &p.fill {
        body.splice(0..0, fill.panels(p.w, &p.v, kernel));
    }
    for d in p.outer.iter().rev() {
        body = vec![for_loop(d.var, d.extent, 1, true, body)];
    }
    body
}

struct Generator<'a, 'k> {
    c: &'a Contract,
    p: &'a Plan,
    rows: Rows,
    sums: Buf,
    kernel: &'k mut Kernel,
}

/// Columns of a block: tiles of them, the first one's number, and how many columns exist.
struct Columns {
    panels: usize,
    first: Expr,
    valid: usize,
}

/// A block: its first iterations of both loops, and how many of them an earlier block has stored.
#[derive(Clone)]
struct At {
    along: Expr,
    across: Expr,
    done: (usize, usize),
}

impl Generator<'_, '_> {
    /// `body` for all columns, two tiles of them at a time.
    fn all_columns(&mut self, body: &mut dyn FnMut(&mut Self, &Columns) -> Vec<Stmt>) -> Vec<Stmt> {
        let pair = 2 * Tiles::LANES;
        let (full, rest) = (self.p.v.extent / pair * 2, self.p.v.extent % pair);
        let mut out = vec![];
        if full > 0 {
            let t = Block::new(self.kernel).index("t");
            let inner = body(self, &Columns { panels: 2, first: Expr::Var(t), valid: pair });
            out.push(for_loop(t, full, 2, true, inner));
        }
        if rest > 0 {
            out.extend(body(self, &Columns { panels: rest.div_ceil(Tiles::LANES), first: full.into(), valid: rest }));
        }
        out
    }

    /// `body` for all blocks of rows.
    fn all_rows(&mut self, body: &mut dyn FnMut(&mut Self, &At) -> Vec<Stmt>) -> Vec<Stmt> {
        let rows = self.rows.clone();
        let whole = At { along: Expr::int(0), across: Expr::int(0), done: (0, 0) };
        let mut out = match &rows.across {
            Across::Flat { .. } => body(self, &whole),
            Across::Nothing => {
                let by = (rows.rows * rows.blocks).min(rows.along.extent);
                self.blocks(&rows.along, by, &mut |g, along, done| {
                    body(g, &At { along, done: (done, 0), ..whole.clone() })
                })
            }
            Across::Pairs(d) => {
                self.blocks(d, 2, &mut |g, across, done| body(g, &At { across, done: (0, done), ..whole.clone() }))
            }
        };
        for d in self.p.middle.iter().rev().filter(|d| rows.other().is_none_or(|o| o.var != d.var)) {
            out = vec![for_loop(d.var, d.extent, 1, true, out)];
        }
        out
    }

    /// `body` for every block of `by` iterations of `d`: from which one on, and how many of them have been done before.
    fn blocks(
        &mut self,
        d: &ContractDim,
        by: usize,
        body: &mut dyn FnMut(&mut Self, Expr, usize) -> Vec<Stmt>,
    ) -> Vec<Stmt> {
        let (full, rest) = (d.extent / by * by, d.extent % by);
        let mut out = vec![];
        if full == by {
            out.extend(body(self, Expr::int(0), 0));
        } else {
            let inner = body(self, Expr::Var(d.var), 0);
            out.push(for_loop(d.var, full, by, true, inner));
        }
        if rest > 0 {
            out.extend(body(self, (d.extent - by).into(), by - rest));
        }
        out
    }

    /// `e` at row `along` and, where there are two loops, row `across`.
    fn at(&self, e: &Expr, along: &Expr, across: &Expr) -> Expr {
        let e = e.clone().substitute(self.rows.along.var, along);
        match self.rows.other() {
            Some(d) => e.substitute(d.var, across),
            None => e,
        }
    }

    /// The sums of one block, and what becomes of them.
    fn block(&mut self, columns: &Columns, at: &At) -> Vec<Stmt> {
        let rows = self.rows.clone();
        let Across::Flat { other, pitch } = &rows.across else {
            let mut out = vec![self.tiles(columns, at, Expr::int(0))];
            for block in 0..rows.blocks {
                out.extend(self.tile_stored(columns, at, block));
            }
            return out;
        };
        // All rows, as if they were those of one loop.
        let height = ContractDim { var: Block::new(self.kernel).index("m"), extent: rows.height() };
        let width = columns.panels * Tiles::LANES;
        let by = (rows.rows * rows.blocks).min(height.extent);
        let mut out = self.blocks(&height, by, &mut |g, along, _| {
            let first = along.clone() * width;
            vec![g.tiles(columns, &At { along, ..at.clone() }, first)]
        });
        let across = Block::new(self.kernel).index("across");
        let first = Expr::Var(across) * *pitch;
        let body = self.stored(columns, &first, (&Expr::int(0), &Expr::Var(across)), (0, rows.along.extent));
        out.push(for_loop(across, other.extent, 1, false, body));
        out
    }

    /// From one tile of a block to the one below, in rows of the first loop.
    fn apart(&self) -> usize {
        match &self.rows.across {
            Across::Pairs(_) => 0,
            Across::Flat { .. } => self.rows.rows,
            Across::Nothing => self.rows.along.extent.min(self.rows.blocks * self.rows.rows) - self.rows.rows,
        }
    }

    /// The sums of the block at `at`, from element `out_index` of the sums on.
    fn tiles(&mut self, columns: &Columns, at: &At, out_index: Expr) -> Stmt {
        let (p, rows) = (self.p, self.rows.clone());
        let stride = |var: Var| usize::try_from(p.x_index.coefficient(var)).unwrap_or(0);
        let below = match &rows.across {
            Across::Pairs(d) => stride(d.var),
            _ => self.apart() * stride(rows.along.var),
        };
        let x_index = self.at(&p.x_index.to_expr(), &at.along, &at.across).substitute(p.run, &Expr::int(0));
        let w_index = p.w_index.to_expr().substitute(p.run, &Expr::int(0)) + columns.first.clone() * p.w_tile;
        let tiles = Tiles {
            out: self.sums,
            out_index,
            blocks: rows.blocks,
            rows: rows.rows,
            panels: columns.panels,
            groups: p.groups,
            reduce: vec![],
            x: Expr::load(p.x, x_index),
            row: stride(rows.along.var),
            below: if rows.blocks == 1 { 0 } else { below },
            w: Expr::load(p.w, w_index),
            beside: usize::try_from(p.w_tile).unwrap_or(0),
            fetch: None,
        };
        Stmt::Tiles(Box::new(self.with_loops(tiles)))
    }

    /// What becomes of tile `block` of the block at `at`: all of it is stored but what an earlier block, or the tile above, has stored.
    fn tile_stored(&mut self, columns: &Columns, at: &At, block: usize) -> Vec<Stmt> {
        let (rows, apart) = (self.rows.rows, self.apart());
        let (along, across, from) = match &self.rows.across {
            Across::Pairs(_) if block < at.done.1 => return vec![],
            Across::Pairs(_) => (at.along.clone(), at.across.clone() + block, 0),
            _ => {
                let from = at.done.0.saturating_sub(block * apart).max(block * (rows - apart));
                (at.along.clone() + block * apart, Expr::int(0), from)
            }
        };
        if from >= rows {
            return vec![];
        }
        self.stored(columns, &(block * rows).into(), (&along, &across), (from, rows))
    }

    /// `t` with the loops summed over, whose variables are its own.
    fn with_loops(&mut self, mut t: Tiles) -> Tiles {
        for d in &self.p.reduce {
            let var = self.kernel.new_var("r", Type::INDEX);
            for e in [&mut t.x, &mut t.w] {
                *e = std::mem::replace(e, Expr::int(0)).substitute(d.var, &Expr::Var(var));
            }
            t.reduce.push(ContractDim { var, extent: d.extent });
        }
        t
    }

    /// Rows `from..to` behind row `sums` of the sums and row `first` of the contraction.
    fn stored(
        &mut self,
        columns: &Columns,
        sums: &Expr,
        (first, across): (&Expr, &Expr),
        (from, to): (usize, usize),
    ) -> Vec<Stmt> {
        let (c, p) = (self.c, self.p);
        let row = Block::new(self.kernel).index("row");
        let at = first.clone() + Expr::Var(row);
        let [init, value, index] = [&c.init, &c.value, &c.out_index].map(|e| self.at(e, &at, across));
        let mut block = Block::new(self.kernel);
        for j in 0..columns.valid.div_ceil(p.lanes) {
            let lanes = (columns.valid - j * p.lanes).min(p.lanes) as u16;
            let column = columns.first.clone() * Tiles::LANES + j * p.lanes;
            let lane = |vectors| Lanes { var: p.v.var, base: column.clone(), lanes, vectors };
            let from = (Expr::Var(row) + sums.clone()) * (columns.panels * Tiles::LANES) + j * p.lanes;
            let sum = Expr::Load { buf: self.sums, index: Box::new(from), lanes };
            let init = match lane(&[]).widen(&init) {
                Some(w) => w.vector(lanes),
                None => Expr::Lanes((0..lanes).map(|l| lane(&[]).at(&init, l)).collect()),
            };
            let zero = matches!(&c.init, Expr::Const(s) if s.as_f64() == 0.0);
            let acc = block.bind("acc", if zero { sum } else { sum + init });
            let Expr::Var(acc) = acc else { continue };
            let vectors = [(c.acc, acc)];
            let (lane, buf) = (lane(&vectors), c.out);
            let index = index.clone().substitute(p.v.var, &column);
            match lane.widen(&value) {
                Some(w) => block.stmts.push(Stmt::Store { buf, index, value: w.vector(lanes) }),
                None => {
                    for l in 0..lanes {
                        let index = index.clone() + usize::from(l);
                        block.stmts.push(Stmt::Store { buf, index, value: lane.at(&value, l) });
                    }
                }
            }
        }
        let body = block.stmts;
        vec![Stmt::For { var: row, lo: from.into(), hi: to.into(), step: 1, parallel: false, body }]
    }
}

/// The dtype in which tiles hold factors that lie in memory as `x` and `w`: bytes of any sign, or `bf16`.
pub(super) fn elements(x: DType, w: DType) -> Option<(DType, DType)> {
    match (x, w) {
        (DType::F32, _) => Some((DType::U16, DType::U16)),
        (DType::U8 | DType::I8, DType::U8 | DType::I8) => Some((x, w)),
        _ => None,
    }
}

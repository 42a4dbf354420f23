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
use tenon_kernel::{Access, Buf, Contract, ContractDim, Expr, Kernel, Stmt, Tiles, Type, Var};

/// Rows below which products in vectors are as fast: a tile takes as long for few rows as for many.
const MIN_ROWS: usize = 4;

/// Whether tiles pay for `rows` of `x`, runs of `length` in groups of `group`, and `columns`.
pub(super) fn pay(rows: usize, columns: usize, length: usize, group: usize) -> bool {
    rows >= MIN_ROWS && columns >= Tiles::LANES / 2 && length >= 4 * group
}

/// Columns of a block for `extent` of them.
pub(super) fn columns(extent: usize) -> usize {
    if extent <= Tiles::LANES { Tiles::LANES } else { 2 * Tiles::LANES }
}

/// How the rows of a contraction are made blocks of.
#[derive(Clone, Debug)]
struct Rows {
    /// The loop whose iterations are the rows of a tile.
    along: ContractDim,
    /// Rows of one tile.
    rows: usize,
    /// The loop of which the two tiles of a block are neighbours, if that is another.
    across: Option<ContractDim>,
    /// Tiles below each other.
    blocks: usize,
}

impl Rows {
    fn of(along: &ContractDim, p: &Plan) -> Rows {
        let whole = |across: Option<ContractDim>| Rows {
            along: along.clone(),
            rows: along.extent,
            blocks: 1 + usize::from(across.is_some()),
            across,
        };
        if along.extent <= Tiles::STEP {
            let other = p.middle.iter().filter(|d| d.extent > 1 && p.x_index.coefficient(d.var) > 0);
            return whole(other.max_by_key(|d| d.extent).cloned());
        }
        let blocks = along.extent.div_ceil(2 * Tiles::STEP);
        let rows = along.extent.div_ceil(2 * blocks);
        Rows { along: along.clone(), rows, across: None, blocks: 2 }
    }

    /// Iterations of a loop that one block covers, from one block to the next.
    fn per_block(&self) -> (usize, usize) {
        match self.across {
            Some(_) => (self.along.extent, 2),
            None => ((self.rows * self.blocks).min(self.along.extent), 1),
        }
    }
}

/// Loops for `c`, tiled as `p` says.
pub(super) fn lower(c: &Contract, p: &Plan, along: &ContractDim, kernel: &mut Kernel) -> Vec<Stmt> {
    let rows = Rows::of(along, p);
    let elem = kernel.var(c.acc).ty.elem;
    let columns = p.nv * p.lanes;
    let sums = kernel.new_buffer("tile_sums", elem, rows.blocks * rows.rows * columns, Access::Scratch);
    let mut g = Generator { c, p, rows, columns, sums, kernel };
    let mut body = g.panels();
    for d in p.outer.iter().rev() {
        body = vec![for_loop(d.var, d.extent, 1, true, body)];
    }
    body
}

struct Generator<'a, 'k> {
    c: &'a Contract,
    p: &'a Plan,
    rows: Rows,
    columns: usize,
    sums: Buf,
    kernel: &'k mut Kernel,
}

/// A block: its first iterations of both loops, and how many of them an earlier block has stored.
struct At {
    along: Expr,
    across: Expr,
    done: (usize, usize),
}

impl Generator<'_, '_> {
    /// All blocks, panel by panel of columns.
    fn panels(&mut self) -> Vec<Stmt> {
        let (full, rest) = (self.p.v.extent / self.columns, self.p.v.extent % self.columns);
        let mut out = vec![];
        if full > 0 {
            let t = Block::new(self.kernel).index("t");
            let body = self.middle(&Expr::Var(t), self.columns);
            out.push(for_loop(t, full, 1, true, body));
        }
        if rest > 0 {
            out.extend(self.middle(&full.into(), rest));
        }
        out
    }

    /// The blocks of one panel, of which `valid` columns exist.
    fn middle(&mut self, panel: &Expr, valid: usize) -> Vec<Stmt> {
        let (rows, (along, across)) = (self.rows.clone(), self.rows.per_block());
        let mut body = self.blocks(&rows.along, along, &mut |g, first, done| match &rows.across {
            None => g.block(panel, valid, &At { along: first, across: Expr::int(0), done: (done, 0) }),
            Some(d) => g.blocks(d, across, &mut |g, other, skip| {
                g.block(panel, valid, &At { along: first.clone(), across: other, done: (done, skip) })
            }),
        });
        let is_across = |d: &ContractDim| rows.across.as_ref().is_some_and(|a| a.var == d.var);
        for d in self.p.middle.iter().rev().filter(|d| !is_across(d)) {
            body = vec![for_loop(d.var, d.extent, 1, true, body)];
        }
        body
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
        match &self.rows.across {
            Some(d) => e.substitute(d.var, across),
            None => e,
        }
    }

    /// The sums of one block, and what becomes of them.
    fn block(&mut self, panel: &Expr, valid: usize, at: &At) -> Vec<Stmt> {
        let (p, rows) = (self.p, self.rows.clone());
        let stride = |var: Var| usize::try_from(p.x_index.coefficient(var)).unwrap_or(0);
        // From one tile to the one below.
        let apart = rows.along.extent.min(2 * rows.rows) - rows.rows;
        let below = match &rows.across {
            Some(d) => stride(d.var),
            None => apart * stride(rows.along.var),
        };
        let x_index = self.at(&p.x_index.to_expr(), &at.along, &at.across).substitute(p.run, &Expr::int(0));
        let w_index = p.w_index.to_expr().substitute(p.run, &Expr::int(0)) + panel.clone() * p.w_tile;
        let tiles = Tiles {
            out: self.sums,
            out_index: Expr::int(0),
            blocks: rows.blocks,
            rows: rows.rows,
            columns: self.columns,
            groups: p.groups,
            reduce: vec![],
            x: Expr::load(p.x, x_index),
            row: stride(rows.along.var),
            below: if rows.blocks == 1 { 0 } else { below },
            w: Expr::load(p.w, w_index),
        };
        let mut out = vec![Stmt::Tiles(Box::new(self.with_loops(tiles)))];
        for block in 0..rows.blocks {
            // What is stored of this tile: all but what an earlier block, or the tile above, has stored.
            let (first, across, from) = match rows.across {
                Some(_) if block < at.done.1 => continue,
                Some(_) => (at.along.clone(), at.across.clone() + block, at.done.0),
                None => {
                    let first = at.along.clone() + block * apart;
                    (first, Expr::int(0), at.done.0.saturating_sub(block * apart).max(block * (rows.rows - apart)))
                }
            };
            if from < rows.rows {
                out.extend(self.stored(panel, valid, block * rows.rows, (&first, &across), from));
            }
        }
        out
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

    /// Rows `from..` of a tile whose sums begin at row `sums` and that is row `first` of the contraction.
    fn stored(
        &mut self,
        panel: &Expr,
        valid: usize,
        sums: usize,
        (first, across): (&Expr, &Expr),
        from: usize,
    ) -> Vec<Stmt> {
        let (c, p, rows) = (self.c, self.p, self.rows.rows);
        let row = Block::new(self.kernel).index("row");
        let at = first.clone() + Expr::Var(row);
        let [init, value, index] = [&c.init, &c.value, &c.out_index].map(|e| self.at(e, &at, across));
        let mut block = Block::new(self.kernel);
        for j in 0..valid.div_ceil(p.lanes) {
            let lanes = (valid - j * p.lanes).min(p.lanes) as u16;
            let column = panel.clone() * self.columns + j * p.lanes;
            let lane = |vectors| Lanes { var: p.v.var, base: column.clone(), lanes, vectors };
            let from = (Expr::Var(row) + sums) * self.columns + j * p.lanes;
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
        vec![Stmt::For { var: row, lo: from.into(), hi: rows.into(), step: 1, parallel: false, body }]
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

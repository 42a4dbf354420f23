//! The loops around register tiles.

use super::order::lines_of_block;
use super::plan::{Along, Factor, Plan};
use super::shape::Rows;
use super::tile::{Part, Tile, tile};
use crate::schedule::pack::Layout;
use crate::schedule::scope::{Block, for_loop};
use crate::tuning::Order;
use tenon_kernel::{Access, Affine, Contract, ContractDim, Expr, Kernel, Stmt};

/// Loops for `c`, tiled as `p` says.
pub(super) fn lower(c: &Contract, mut p: Plan, kernel: &mut Kernel) -> Vec<Stmt> {
    let mut packing = vec![];
    for is_b in [false, true] {
        let mut f = if is_b { p.b.clone() } else { p.a.clone() };
        if f.along == Along::Pack {
            packing.append(&mut pack_inside(&mut f, &p, kernel));
            if is_b { p.b = f } else { p.a = f }
        }
    }
    p.divide(c, kernel);
    let mut body = packing;
    body.append(&mut tiles(c, &p, kernel));
    inside(&p.outer, body)
}

/// `body` in loops over `dims`, the first outermost.
fn inside(dims: &[ContractDim], mut body: Vec<Stmt>) -> Vec<Stmt> {
    for d in dims.iter().rev() {
        body = vec![for_loop(d.var, d.extent, 1, true, body)];
    }
    body
}

/// Statements that copy factor `f` into panels, for one point of the outer loops; `f` then reads those.
fn pack_inside(f: &mut Factor, p: &Plan, kernel: &mut Kernel) -> Vec<Stmt> {
    let used: Vec<_> = p.reduce.iter().filter(|d| f.uses(d)).cloned().collect();
    let width = p.lanes * p.cover.nv;
    let layout = Layout {
        base: 0,
        outer: vec![],
        extent: p.v.extent,
        lane_stride: 0,
        lanes: width,
        inner: used.iter().map(|d| (d.extent, 0)).collect(),
    };
    let decl = kernel.buffer(f.buf).clone();
    let buf = kernel.new_buffer(&format!("{}_panels", decl.name), decl.dtype, layout.len(), Access::Scratch);
    let (_, stride, inner) = layout.strides();
    let mut index = Affine::default();
    for (d, s) in used.iter().zip(inner) {
        index = index.with(d.var, s);
    }
    let mut b = Block::new(kernel);
    let (t, l) = (b.index("t"), b.index("l"));
    let element = |tile: Expr, lane: Expr| {
        let from = f.index.to_expr().substitute(p.v.var, &(tile.clone() * width + lane.clone()));
        Stmt::Store { buf, index: tile * stride + index.to_expr() + lane, value: Expr::load(f.buf, from) }
    };
    let loops = |body: Vec<Stmt>| inside(&used, body);
    // Runs are copied as such. Else lanes are outermost: the source is read as it lies where its unit stride is in the sum.
    let runs = f.index.coefficient(p.v.var) == 1;
    let over = |n: usize, s: Stmt| match runs {
        true => loops(vec![for_loop(l, n, 1, true, vec![s])]),
        false => vec![for_loop(l, n, 1, true, loops(vec![s]))],
    };
    let (full, rest) = (p.v.extent / width, p.v.extent % width);
    if full > 0 {
        let body = over(width, element(Expr::Var(t), Expr::Var(l)));
        b.stmts.push(for_loop(t, full, 1, true, body));
    }
    if rest > 0 {
        b.stmts.append(&mut over(rest, element(Expr::int(full as i64), Expr::Var(l))));
        let zero = Stmt::Store {
            buf,
            index: Expr::int(full as i64 * stride) + index.to_expr() + Expr::Var(l),
            value: Expr::constant(decl.dtype, 0.0),
        };
        let (lo, hi) = (rest.into(), width.into());
        b.stmts.push(Stmt::For { var: l, lo, hi, step: 1, parallel: true, body: loops(vec![zero]) });
    }
    f.buf = buf;
    f.index = index;
    f.along = Along::Panel { stride };
    b.stmts
}

/// All tiles, for one point of the outer loops.
fn tiles(c: &Contract, p: &Plan, kernel: &mut Kernel) -> Vec<Stmt> {
    let within = |body: Vec<Stmt>| inside(&p.middle, body);
    match p.order {
        Order::RowsInside if p.middle.is_empty() && p.m.is_some() => blocks_of_rows(c, p, kernel),
        Order::RowsInside if p.middle.first().is_some_and(|d| p.block(d.extent).is_some()) => {
            blocks_of_middle(c, p, kernel)
        }
        Order::RowsInside => columns(p, c, kernel, Columns::All, &mut |at, rows, kernel| {
            in_parts(p, kernel, &mut |part, kernel| {
                within(along_rows(p, rows, kernel, &mut |m0, mr, kernel| {
                    tile(c, p, &Tile { m0, mr, part, ..at.clone() }, kernel)
                }))
            })
        }),
        Order::ColumnsOutside => columns(p, c, kernel, Columns::All, &mut |at, rows, kernel| {
            within(along_rows(p, rows, kernel, &mut |m0, mr, kernel| {
                tile(c, p, &Tile { m0, mr, ..at.clone() }, kernel)
            }))
        }),
        Order::LinesInside => blocks_of_lines(c, p, kernel),
        Order::ColumnsInside => within(along_rows(p, &p.cover.full, kernel, &mut |m0, mr, kernel| {
            columns(p, c, kernel, Columns::All, &mut |at, _, kernel| {
                tile(c, p, &Tile { m0: m0.clone(), mr, ..at.clone() }, kernel)
            })
        })),
    }
}

/// What `all` makes of every part of the sum, one after the other; of the whole where it is not divided.
fn in_parts(p: &Plan, kernel: &mut Kernel, all: &mut dyn FnMut(Option<Part>, &mut Kernel) -> Vec<Stmt>) -> Vec<Stmt> {
    let Some(parts) = p.parts else { return all(None, kernel) };
    let last = parts.count as i64 - 1;
    let mut body = all(Some(Part::First), kernel);
    if last > 1 {
        let (lo, hi) = (Expr::int(1), Expr::int(last));
        let inner = all(Some(Part::Inner), kernel);
        body.push(Stmt::For { var: parts.var, lo, hi, step: 1, parallel: false, body: inner });
    }
    body.append(&mut all(Some(Part::Last(last)), kernel));
    body
}

/// Columns inside blocks of rows that stay in the second cache.
fn blocks_of_rows(c: &Contract, p: &Plan, kernel: &mut Kernel) -> Vec<Stmt> {
    let Some(m) = &p.m else { return vec![] };
    let one = |at: &Tile, part: Option<Part>, m0: Expr, mr: usize, kernel: &mut Kernel| {
        tile(c, p, &Tile { m0, mr, part, ..at.clone() }, kernel)
    };
    let tiles: usize = p.cover.full.iter().map(|r| r.count).sum();
    let Some(most) = p.block(tiles) else {
        return columns(p, c, kernel, Columns::All, &mut |at, rows, kernel| {
            in_parts(p, kernel, &mut |part, kernel| {
                along_rows(p, rows, kernel, &mut |m0, mr, kernel| one(at, part, m0, mr, kernel))
            })
        });
    };
    let mut out = vec![];
    let mut from = 0;
    for r in &p.cover.full {
        let even = (most / 2 + 1..=most.min(r.count)).rev().find(|b| r.count.is_multiple_of(*b));
        let by = even.unwrap_or(most.min(r.count));
        let block = |first: Expr, tiles: usize, kernel: &mut Kernel| {
            columns(p, c, kernel, Columns::Full, &mut |at, _, kernel| {
                in_parts(p, kernel, &mut |part, kernel| {
                    let body = one(at, part, Expr::Var(m.var), r.mr, kernel);
                    let (lo, hi) = (first.clone(), first.clone() + tiles * r.mr);
                    vec![Stmt::For { var: m.var, lo, hi, step: r.mr as i64, parallel: true, body }]
                })
            })
        };
        let (blocks, left) = (r.count / by, r.count % by);
        if blocks == 1 {
            out.append(&mut block(from.into(), by, kernel));
        } else {
            let b = Block::new(kernel).index("block");
            let body = block(Expr::Var(b) * (by * r.mr) + from, by, kernel);
            out.push(for_loop(b, blocks, 1, true, body));
        }
        from += blocks * by * r.mr;
        if left > 0 {
            out.append(&mut block(from.into(), left, kernel));
        }
        from += left * r.mr;
    }
    out.append(&mut columns(p, c, kernel, Columns::Rest, &mut |at, rows, kernel| {
        in_parts(p, kernel, &mut |part, kernel| {
            along_rows(p, rows, kernel, &mut |m0, mr, kernel| one(at, part, m0, mr, kernel))
        })
    }));
    out
}

/// What `block` makes of `extent` iterations from the first on, `by` at a time: it is told where they begin and how many they are.
fn in_blocks(
    extent: usize,
    by: usize,
    kernel: &mut Kernel,
    block: &mut dyn FnMut(Expr, usize, &mut Kernel) -> Vec<Stmt>,
) -> Vec<Stmt> {
    let (blocks, left) = (extent / by, extent % by);
    let mut out = if blocks == 1 {
        block(0.into(), by, kernel)
    } else {
        let b = Block::new(kernel).index("block");
        let body = block(Expr::Var(b) * by, by, kernel);
        vec![for_loop(b, blocks, 1, true, body)]
    };
    if left > 0 {
        out.append(&mut block((blocks * by).into(), left, kernel));
    }
    out
}

/// `body` for `n` iterations of the loop over `d` from `first` on.
fn run_of(d: &ContractDim, first: Expr, n: usize, body: Vec<Stmt>) -> Vec<Stmt> {
    let (lo, hi) = (first.clone(), first + n);
    vec![Stmt::For { var: d.var, lo, hi, step: 1, parallel: true, body }]
}

/// Columns inside blocks of the outermost of the loops between.
fn blocks_of_middle(c: &Contract, p: &Plan, kernel: &mut Kernel) -> Vec<Stmt> {
    let Some((d, inner)) = p.middle.split_first() else { return vec![] };
    let by = p.block(d.extent).unwrap_or(d.extent);
    in_blocks(d.extent, by, kernel, &mut |first, n, kernel| {
        columns(p, c, kernel, Columns::All, &mut |at, rows, kernel| {
            in_parts(p, kernel, &mut |part, kernel| {
                let body = along_rows(p, rows, kernel, &mut |m0, mr, kernel| {
                    tile(c, p, &Tile { m0, mr, part, ..at.clone() }, kernel)
                });
                run_of(d, first.clone(), n, inside(inner, body))
            })
        })
    })
}

/// Tiles below each other, one column after the other, in blocks of lines.
fn blocks_of_lines(c: &Contract, p: &Plan, kernel: &mut Kernel) -> Vec<Stmt> {
    let block = |line: Option<(&ContractDim, Expr, usize)>, kernel: &mut Kernel| {
        along_rows(p, &p.cover.full, kernel, &mut |m0, mr, kernel| {
            columns(p, c, kernel, Columns::All, &mut |at, _, kernel| {
                let body = tile(c, p, &Tile { m0: m0.clone(), mr, ..at.clone() }, kernel);
                match &line {
                    Some((d, first, n)) => run_of(d, first.clone(), *n, body),
                    None => body,
                }
            })
        })
    };
    let Some((d, outside)) = p.middle.split_last() else { return block(None, kernel) };
    let by = lines_of_block(d.extent);
    let body = in_blocks(d.extent, by, kernel, &mut |first, n, kernel| block(Some((d, first, n)), kernel));
    inside(outside, body)
}

/// Which columns of tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Columns {
    All,
    /// Those of the full width.
    Full,
    /// The last, which is narrower.
    Rest,
}

/// Writes what is done for one column of tiles: where it is, how its rows are tiled.
type Column<'a> = dyn FnMut(&Tile, &[Rows], &mut Kernel) -> Vec<Stmt> + 'a;

/// Columns of tiles along `v`.
fn columns(p: &Plan, c: &Contract, kernel: &mut Kernel, which: Columns, column: &mut Column<'_>) -> Vec<Stmt> {
    let width = p.cover.nv * p.lanes;
    let n = p.v.extent;
    let (full, rest) = (n / width, n % width);
    let paneled = p.paneled();
    let base = Tile {
        v0: Expr::int(0),
        panel: Expr::int(0),
        m0: Expr::int(0),
        part: None,
        mr: 1,
        nv: p.cover.nv,
        lanes: p.lanes,
        valid: width,
    };
    let mut out = vec![];
    if full > 0 && which != Columns::Rest {
        if paneled {
            let t = Block::new(kernel).index("t");
            let at = Tile { v0: Expr::Var(t) * width, panel: Expr::Var(t), ..base.clone() };
            out.push(for_loop(t, full, 1, true, column(&at, &p.cover.full, kernel)));
        } else {
            let at = Tile { v0: Expr::Var(p.v.var), ..base.clone() };
            out.push(for_loop(p.v.var, full * width, width, true, column(&at, &p.cover.full, kernel)));
        }
    }
    if rest == 0 || which == Columns::Full {
        return out;
    }
    let registers = rest.div_ceil(p.lanes);
    // A column of as many registers whose last is part full still has the rows of the others.
    let rows = if registers == p.cover.nv { &p.cover.full } else { &p.cover.rest };
    // What is read to compute an element is not to be overwritten with it before it is read again.
    let mut shared = kernel.in_place.iter().any(|(_, o)| *o == c.out);
    c.init.visit(&mut |e| shared |= matches!(e, Expr::Load { buf, .. } if *buf == c.out));
    if paneled || p.partial {
        // Panels are padded, so all lanes are computed; only those that exist are stored.
        let (v0, panel) = (Expr::from(full * width), Expr::from(full));
        let at = Tile { v0, panel, nv: registers, valid: rest, ..base };
        out.append(&mut column(&at, rows, kernel));
    } else if n >= registers * p.lanes && !shared {
        // The last whole registers, some elements of which are computed a second time.
        let valid = registers * p.lanes;
        let at = Tile { v0: (n - valid).into(), nv: registers, valid, ..base };
        out.append(&mut column(&at, rows, kernel));
    } else {
        let (vectors, scalars) = (rest / p.lanes, rest % p.lanes);
        if vectors > 0 {
            let valid = vectors * p.lanes;
            let at = Tile { v0: (full * width).into(), nv: vectors, valid, ..base.clone() };
            out.append(&mut column(&at, rows, kernel));
        }
        if scalars > 0 {
            let at = Tile { v0: (n - scalars).into(), nv: scalars, lanes: 1, valid: scalars, ..base };
            out.append(&mut column(&at, rows, kernel));
        }
    }
    out
}

/// All tiles along `m`.
fn along_rows(
    p: &Plan,
    rows: &[Rows],
    kernel: &mut Kernel,
    tile: &mut dyn FnMut(Expr, usize, &mut Kernel) -> Vec<Stmt>,
) -> Vec<Stmt> {
    let Some(m) = &p.m else { return tile(Expr::int(0), 1, kernel) };
    let mut body = vec![];
    let mut from = 0;
    for r in rows {
        let to = from + r.mr * r.count;
        if r.count == 1 {
            body.append(&mut tile(from.into(), r.mr, kernel));
        } else {
            let tiles = tile(Expr::Var(m.var), r.mr, kernel);
            let (lo, hi) = (from.into(), to.into());
            body.push(Stmt::For { var: m.var, lo, hi, step: r.mr as i64, parallel: true, body: tiles });
        }
        from = to;
    }
    body
}

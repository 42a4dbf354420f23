//! The loops around register tiles.

use super::plan::{Along, Factor, Plan};
use super::tile::{Tile, tile};
use crate::schedule::pack::Layout;
use crate::schedule::scope::{Block, for_loop};
use tenon_kernel::{Access, Affine, Contract, Expr, Kernel, Stmt};

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
    let parallel = packing.is_empty();
    let mut body = packing;
    body.append(&mut v_tiles(c, &p, kernel));
    for d in p.outer.iter().rev() {
        body = vec![for_loop(d.var, d.extent, 1, parallel, body)];
    }
    body
}

/// Statements that copy factor `f` into panels, for one point of the outer loops; `f` then reads those.
fn pack_inside(f: &mut Factor, p: &Plan, kernel: &mut Kernel) -> Vec<Stmt> {
    let used: Vec<_> = p.reduce.iter().filter(|d| f.uses(d)).cloned().collect();
    let width = p.lanes * p.nv;
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
    let loops = |mut body: Vec<Stmt>| {
        for d in used.iter().rev() {
            body = vec![for_loop(d.var, d.extent, 1, true, body)];
        }
        body
    };
    // Lanes outermost: the source is read as it lies where its unit stride is in the sum.
    let (full, rest) = (p.v.extent / width, p.v.extent % width);
    if full > 0 {
        let body = loops(vec![element(Expr::Var(t), Expr::Var(l))]);
        b.stmts.push(for_loop(t, full, 1, true, vec![for_loop(l, width, 1, true, body)]));
    }
    if rest > 0 {
        let body = loops(vec![element(Expr::int(full as i64), Expr::Var(l))]);
        b.stmts.push(for_loop(l, rest, 1, true, body));
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

/// All tiles along `v`, for one point of the outer loops.
fn v_tiles(c: &Contract, p: &Plan, kernel: &mut Kernel) -> Vec<Stmt> {
    let width = p.nv * p.lanes;
    let n = p.v.extent;
    let (full, rest) = (n / width, n % width);
    let paneled = [&p.a, &p.b].into_iter().any(|f| matches!(f.along, Along::Panel { .. }));
    let base = Tile {
        v0: Expr::int(0),
        panel: Expr::int(0),
        m0: Expr::int(0),
        mr: 1,
        nv: p.nv,
        lanes: p.lanes,
        valid: width,
    };
    let mut out = vec![];
    if full > 0 {
        if paneled {
            let t = Block::new(kernel).index("t");
            let at = Tile { v0: Expr::Var(t) * width, panel: Expr::Var(t), ..base.clone() };
            out.push(for_loop(t, full, 1, true, m_tiles(c, p, &at, kernel)));
        } else {
            let at = Tile { v0: Expr::Var(p.v.var), ..base.clone() };
            out.push(for_loop(p.v.var, full * width, width, true, m_tiles(c, p, &at, kernel)));
        }
    }
    if rest == 0 {
        return out;
    }
    let registers = rest.div_ceil(p.lanes);
    let shared = kernel.in_place.iter().any(|(_, o)| *o == c.out);
    if paneled {
        // Panels are padded, so all lanes are computed; only those that exist are stored.
        let (v0, panel) = (Expr::from(full * width), Expr::from(full));
        let at = Tile { v0, panel, nv: registers, valid: rest, ..base };
        out.append(&mut m_tiles(c, p, &at, kernel));
    } else if n >= registers * p.lanes && !shared {
        // The last whole registers, some elements of which are computed a second time.
        let valid = registers * p.lanes;
        let at = Tile { v0: (n - valid).into(), nv: registers, valid, ..base };
        out.append(&mut m_tiles(c, p, &at, kernel));
    } else {
        let (vectors, scalars) = (rest / p.lanes, rest % p.lanes);
        if vectors > 0 {
            let at = Tile { v0: (full * width).into(), nv: vectors, valid: vectors * p.lanes, ..base.clone() };
            out.append(&mut m_tiles(c, p, &at, kernel));
        }
        if scalars > 0 {
            let at = Tile { v0: (n - scalars).into(), nv: scalars, lanes: 1, valid: scalars, ..base };
            out.append(&mut m_tiles(c, p, &at, kernel));
        }
    }
    out
}

/// The loops between, and all tiles along `m`, for one place along `v`.
fn m_tiles(c: &Contract, p: &Plan, at: &Tile, kernel: &mut Kernel) -> Vec<Stmt> {
    let mut body = vec![];
    match &p.m {
        None => body = tile(c, p, at, kernel),
        Some(m) => {
            let full = m.extent / p.mr * p.mr;
            if full > 0 {
                let at = Tile { m0: Expr::Var(m.var), mr: p.mr, ..at.clone() };
                body.push(for_loop(m.var, full, p.mr, true, tile(c, p, &at, kernel)));
            }
            if full < m.extent {
                let at = Tile { m0: full.into(), mr: m.extent - full, ..at.clone() };
                body.append(&mut tile(c, p, &at, kernel));
            }
        }
    }
    for d in p.middle.iter().rev() {
        body = vec![for_loop(d.var, d.extent, 1, true, body)];
    }
    body
}

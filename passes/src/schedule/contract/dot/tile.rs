//! The loops of a contraction of narrow elements.

use super::plan::Plan;
use crate::schedule::lanes::Lanes;
use crate::schedule::scope::{Block, for_loop};
use tenon_base::{DType, Scalar};
use tenon_kernel::{Access, BinOp, Contract, Expr, Kernel, Stmt, Var};

/// Where a tile is and how large.
#[derive(Clone, Debug)]
struct Tile {
    v0: Expr,
    panel: Expr,
    m0: Expr,
    mr: usize,
    nv: usize,
    /// Lanes of each of the `nv` vectors: those of one register or of a few, which an epilogue narrows together.
    lanes: usize,
    valid: usize,
}

/// Lanes of the vectors of a tile of `valid` elements: as many registers at once as it is whole ones of, at most four; floats need no
/// narrowing in the end, and have registers of their own.
fn lanes_of(p: &Plan, valid: usize) -> usize {
    if p.is_float() {
        return p.lanes;
    }
    let whole = |by: &usize| p.lanes >= 8 && valid.is_multiple_of(p.lanes * by);
    p.lanes * [4, 2].into_iter().find(whole).unwrap_or(1)
}

/// Loops for `c`, tiled as `p` says.
pub(super) fn lower(c: &Contract, p: &Plan, kernel: &mut Kernel) -> Vec<Stmt> {
    let mut body = v_tiles(c, p, kernel);
    for d in p.outer.iter().rev() {
        body = vec![for_loop(d.var, d.extent, 1, true, body)];
    }
    body
}

/// All elements of `from` as `to`.
pub(super) fn copy(p: &Plan, from: tenon_kernel::Buf, to: DType, kernel: &mut Kernel) -> Stmt {
    let decl = kernel.buffer(from).clone();
    debug_assert_ne!(kernel.buffer(p.x).access, Access::In);
    let i = Block::new(kernel).index("i");
    let mut value = Expr::load(from, Expr::Var(i));
    if p.flip.is_some() {
        let sign = Expr::Const(Scalar::of_int(decl.dtype, -128));
        value = value.binary(BinOp::Xor, sign).bitcast(to);
    } else if p.is_float() {
        value = value.rounded_bf16();
    } else if decl.dtype != to {
        value = value.cast(to);
    }
    for_loop(i, decl.len, 1, true, vec![Stmt::Store { buf: p.x, index: Expr::Var(i), value }])
}

/// All tiles along `v`.
fn v_tiles(c: &Contract, p: &Plan, kernel: &mut Kernel) -> Vec<Stmt> {
    let width = p.nv * p.lanes;
    let (full, rest) = (p.v.extent / width, p.v.extent % width);
    let mut out = vec![];
    let at = |v0: Expr, panel: Expr, valid: usize| {
        let lanes = lanes_of(p, valid);
        Tile { v0, panel, m0: Expr::int(0), mr: 1, nv: valid.div_ceil(lanes), lanes, valid }
    };
    if full > 0 {
        let t = Block::new(kernel).index("t");
        let at = at(Expr::Var(t) * width, Expr::Var(t), width);
        out.push(for_loop(t, full, 1, true, m_tiles(c, p, &at, kernel)));
    }
    if rest > 0 {
        let at = at((full * width).into(), full.into(), rest);
        out.append(&mut m_tiles(c, p, &at, kernel));
    }
    out
}

/// The loops between, and all tiles along `m`.
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

fn tile(c: &Contract, p: &Plan, t: &Tile, kernel: &mut Kernel) -> Vec<Stmt> {
    let mut g = Generator { c, p, t, block: Block::new(kernel), acc: vec![] };
    g.accumulators();
    let loops = g.reduction();
    g.block.stmts.extend(loops);
    g.epilogue();
    g.block.stmts
}

struct Generator<'a, 'k> {
    c: &'a Contract,
    p: &'a Plan,
    t: &'a Tile,
    block: Block<'k>,
    /// Accumulators by row, then register.
    acc: Vec<Var>,
}

impl Generator<'_, '_> {
    /// `e` in row `i`.
    fn row(&self, e: &Expr, i: usize) -> Expr {
        match &self.p.m {
            Some(m) => e.clone().substitute(m.var, &(self.t.m0.clone() + i)),
            None => e.clone(),
        }
    }

    /// The first element of register `j`.
    fn v(&self, j: usize) -> Expr {
        self.t.v0.clone() + j * self.t.lanes
    }

    /// Elements of register `j` that exist.
    fn valid(&self, j: usize) -> usize {
        (self.t.valid - j * self.t.lanes).min(self.t.lanes)
    }

    /// Lanes of register `j`: machines that multiply pairs of `bf16` load and store vectors of any length.
    fn lanes(&self, j: usize) -> usize {
        if self.p.is_float() { self.valid(j) } else { self.t.lanes }
    }

    /// `e` in register `j`, as vectors where `vectors` says: all lanes at once, or if that is not possible each that exists.
    fn register(&self, e: &Expr, j: usize, vectors: &[(Var, Var)]) -> Result<Expr, Vec<Expr>> {
        let (valid, all) = (self.valid(j), self.lanes(j));
        let lanes = Lanes { var: self.p.v.var, base: self.v(j), lanes: all as u16, vectors };
        if valid == all
            && let Some(w) = lanes.widen(e)
        {
            return Ok(w.vector(all as u16));
        }
        Err((0..valid as u16).map(|l| lanes.at(e, l)).collect())
    }

    fn accumulators(&mut self) {
        let mut init = self.c.init.clone();
        if let Some((sums, by)) = self.p.flip {
            // One sum a column, for each point of the outer loops.
            let mut at = Expr::Var(self.p.v.var);
            let mut stride = self.p.v.extent;
            for d in self.p.outer.iter().rev() {
                at = Expr::Var(d.var) * stride + at;
                stride *= d.extent;
            }
            let by = Expr::Const(Scalar::of_int(DType::I32, i128::from(by)));
            init = init + Expr::load(sums, at) * by;
        }
        let by_row = self.p.m.as_ref().is_some_and(|m| init.uses(m.var));
        let mut shared: Vec<Expr> = vec![];
        for i in 0..self.t.mr {
            for j in 0..self.t.nv {
                let first = match shared.get(j) {
                    Some(e) => e.clone(),
                    None => {
                        let row = self.row(&init, i);
                        let e = match self.register(&row, j, &[]) {
                            Ok(e) => e,
                            Err(mut lanes) => {
                                let zero = Expr::constant(self.block.kernel.var(self.c.acc).ty.elem, 0.0);
                                lanes.resize(self.lanes(j), zero);
                                Expr::Lanes(lanes)
                            }
                        };
                        let plain = matches!(init, Expr::Const(_));
                        let e = if by_row || plain || self.t.mr == 1 { e } else { self.block.bind("init", e) };
                        if !by_row {
                            shared.push(e.clone());
                        }
                        e
                    }
                };
                let var = self.block.declare("acc", first);
                self.acc.push(var);
            }
        }
    }

    /// The group at `at` of the unrolled loop over the run; with `one`, it is a single element.
    fn step(&mut self, at: &Expr, one: bool) -> Vec<Stmt> {
        let mut out = vec![];
        let (p, width) = (self.p, self.t.lanes * self.p.group);
        // The width of each register, and whether all have the same.
        let widths: Vec<u16> = (0..self.t.nv).map(|j| (self.lanes(j) * p.group) as u16).collect();
        let here = |e: Expr| e.substitute(p.run, at);
        let mut w = vec![];
        for (j, &lanes) in widths.iter().enumerate() {
            let index = here(p.w_index.to_expr()) + self.t.panel.clone() * p.w_tile + j * width;
            let load = Expr::Load { buf: p.w, index: Box::new(index), lanes };
            let load =
                if self.block.kernel.buffer(p.w).dtype == p.elements.1 { load } else { load.cast(p.elements.1) };
            w.push(if self.t.mr > 1 { self.bind("w", load, &mut out) } else { load });
        }
        for i in 0..self.t.mr {
            let index = here(self.row(&p.x_index.to_expr(), i));
            let x = match one {
                true => Expr::Lanes(vec![Expr::load(p.x, index), Expr::constant(p.elements.0, 0.0)]),
                false => p.neighbours(index),
            };
            let repeated = |n: u16| Expr::Splat(n, Box::new(x.clone()));
            let first = repeated(widths[0]);
            let shared = widths.iter().filter(|n| **n == widths[0]).count() > 1;
            let first = if shared { self.bind("x", first, &mut out) } else { first };
            for (j, w) in w.iter().enumerate() {
                let var = self.acc[i * self.t.nv + j];
                let x = if widths[j] == widths[0] { first.clone() } else { repeated(widths[j]) };
                out.push(Stmt::Set { var, value: Expr::dot(x, w.clone(), Expr::Var(var)) });
            }
        }
        out
    }

    fn bind(&mut self, name: &str, value: Expr, out: &mut Vec<Stmt>) -> Expr {
        let var = self.block.kernel.new_var(name, self.block.kernel.type_of(&value));
        out.push(Stmt::Let { var, value });
        Expr::Var(var)
    }

    /// The loops summed over; the run is unrolled as far as the budget goes.
    fn reduction(&mut self) -> Vec<Stmt> {
        let nv = self.t.nv * self.t.lanes / self.p.lanes;
        let step = self.t.mr * nv + self.t.mr + nv;
        let (run, n) = (self.p.run, self.p.groups - usize::from(self.p.odd));
        let whole = n * step <= self.p.unrolled;
        let by = [4, 2].into_iter().find(|u| u * step <= self.p.unrolled && n >= 2 * u).unwrap_or(1);
        let mut out = vec![];
        if whole {
            for g in 0..n {
                out.append(&mut self.step(&g.into(), false));
            }
        } else {
            let main = n / by * by;
            let mut body = vec![];
            for u in 0..by {
                body.append(&mut self.step(&(Expr::Var(run) + u), false));
            }
            out.push(for_loop(run, main, by, false, body));
            for g in main..n {
                out.append(&mut self.step(&g.into(), false));
            }
        }
        if self.p.odd {
            out.append(&mut self.step(&n.into(), true));
        }
        for d in self.p.reduce.iter().rev() {
            out = vec![for_loop(d.var, d.extent, 1, false, out)];
        }
        out
    }

    /// Stores the results.
    fn epilogue(&mut self) {
        for i in 0..self.t.mr {
            for j in 0..self.t.nv {
                let acc = self.acc[i * self.t.nv + j];
                let value = self.row(&self.c.value, i);
                let index = self.row(&self.c.out_index, i).substitute(self.p.v.var, &self.v(j));
                let buf = self.c.out;
                match self.register(&value, j, &[(self.c.acc, acc)]) {
                    Ok(value) => self.block.stmts.push(Stmt::Store { buf, index, value }),
                    Err(lanes) => {
                        for (l, value) in lanes.into_iter().enumerate() {
                            self.block.stmts.push(Stmt::Store { buf, index: index.clone() + l, value });
                        }
                    }
                }
            }
        }
    }
}

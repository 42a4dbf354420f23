//! One register tile: accumulators, the loops summed over, and the epilogue.

use super::plan::{Along, Factor, Plan};
use super::scalar::multiply_add;
use crate::schedule::lanes::Lanes;
use crate::schedule::scope::{Block, for_loop};
use tenon_base::DType;
use tenon_kernel::{Contract, ContractDim, Expr, Kernel, Stmt, Var};

/// Where a tile is and how large.
#[derive(Clone, Debug)]
pub(super) struct Tile {
    /// The first element along the vector loop.
    pub(super) v0: Expr,
    /// The panel that holds it.
    pub(super) panel: Expr,
    /// The first row.
    pub(super) m0: Expr,
    /// Rows.
    pub(super) mr: usize,
    /// Registers along the vector loop.
    pub(super) nv: usize,
    /// Lanes of each, but for the last where it may be partial; 1 for the scalar rest.
    pub(super) lanes: usize,
    /// Elements along the vector loop that exist.
    pub(super) valid: usize,
    /// Which part of a sum in parts.
    pub(super) part: Option<Part>,
}

/// A part of a sum in [`super::plan::Parts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The first: sums go to the result's place as they are.
    First,
    /// Any between: sums come from the result's place and go there.
    Inner,
    /// The last, which it is.
    Last(i64),
}

/// The statements of a tile.
pub(super) fn tile(c: &Contract, p: &Plan, t: &Tile, kernel: &mut Kernel) -> Vec<Stmt> {
    let dtype = kernel.var(c.acc).ty.elem;
    let terms: usize = p.reduce.iter().map(|d| d.extent).product();
    let chains = if p.reassociate && !p.window { p.budget.chains(t.mr * t.nv) } else { 1 };
    let chains = if terms >= 4 * chains { chains } else { 1 };
    let mut g = Generator { c, p, t, dtype, block: Block::new(kernel), acc: vec![], chains, at: 0 };
    g.accumulators();
    let loops = g.reduction();
    g.block.stmts.extend(loops);
    g.join();
    g.epilogue();
    g.block.stmts
}

pub(super) struct Generator<'a, 'k> {
    c: &'a Contract,
    pub(super) p: &'a Plan,
    pub(super) t: &'a Tile,
    pub(super) dtype: DType,
    pub(super) block: Block<'k>,
    /// Accumulators by chain, then row, then register.
    acc: Vec<Var>,
    /// Independent sums of every accumulator.
    chains: usize,
    /// The chain that the next step adds to.
    at: usize,
}

impl Generator<'_, '_> {
    /// Lanes of accumulator `j`. Panels are padded: there all lanes are computed.
    pub(super) fn lanes(&self, j: usize) -> u16 {
        let partial = self.p.partial && !self.p.paneled();
        if partial { self.valid(j) as u16 } else { self.t.lanes as u16 }
    }

    /// Elements of register `j` that exist.
    fn valid(&self, j: usize) -> usize {
        (self.t.valid - j * self.t.lanes).min(self.t.lanes)
    }

    /// The accumulator that the present step adds to.
    pub(super) fn accumulator(&self, row: usize, j: usize) -> Var {
        self.acc[(self.at * self.t.mr + row) * self.t.nv + j]
    }

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

    /// `e`, an expression of the vector loop and of `scalar`, in `lanes` lanes of register `j` where `scalar` is `vector`:
    /// all at once, or if that is not possible as `Err` each lane that exists.
    fn register(&self, e: &Expr, j: usize, lanes: u16, vectors: &[(Var, Var)]) -> Result<Expr, Vec<Expr>> {
        let valid = self.valid(j);
        let at = Lanes { var: self.p.v.var, base: self.v(j), lanes, vectors };
        if lanes == 1 {
            let e = vectors.iter().fold(e.clone(), |e, (s, w)| e.substitute(*s, &Expr::Var(*w)));
            return Ok(e.substitute(self.p.v.var, &self.v(j)));
        }
        if valid >= lanes.into()
            && let Some(w) = at.widen(e)
        {
            return Ok(w.vector(lanes));
        }
        Err((0..valid as u16).map(|l| at.at(e, l)).collect())
    }

    /// The value of accumulator `j` of row `i` before the sum.
    fn initial(&self, i: usize, j: usize) -> Expr {
        let lanes = self.lanes(j);
        if matches!(self.t.part, Some(Part::Inner | Part::Last(_))) {
            return Expr::Load { buf: self.c.out, index: Box::new(self.place(i, j)), lanes };
        }
        if let Some(f) = &self.p.init {
            return self.load(f, i, j, &[]);
        }
        if self.bias_later() {
            return Expr::constant(self.dtype, 0.0).splat(lanes);
        }
        match self.register(&self.row(&self.c.init, i), j, lanes, &[]) {
            Ok(e) => e,
            Err(mut all) => {
                all.resize(lanes.into(), Expr::constant(self.dtype, 0.0));
                Expr::Lanes(all)
            }
        }
    }

    /// Whether the sums begin with 0 and their first value is added in the end: where it cannot be loaded in whole
    /// registers.
    fn bias_later(&self) -> bool {
        let whole = self.t.valid.is_multiple_of(self.t.lanes);
        let plain = matches!(self.c.init, Expr::Const(_)) || self.p.init.is_some();
        !whole && !plain && self.p.partial && self.p.paneled() && self.p.reassociate
    }

    /// Where the result of row `i` and register `j` goes.
    fn place(&self, i: usize, j: usize) -> Expr {
        self.row(&self.c.out_index, i).substitute(self.p.v.var, &self.v(j))
    }

    /// Declares the accumulators.
    fn accumulators(&mut self) {
        let by_row = matches!(self.t.part, Some(Part::Inner | Part::Last(_)))
            || self.p.m.as_ref().is_some_and(|m| self.c.init.uses(m.var));
        let mut shared: Vec<Expr> = vec![];
        for i in 0..self.t.mr {
            for j in 0..self.t.nv {
                let first = match shared.get(j) {
                    Some(e) => e.clone(),
                    None => {
                        let e = self.initial(i, j);
                        // Constants are cheap to make anew.
                        let plain = matches!(self.c.init, Expr::Const(_)) || self.bias_later();
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
        for i in 0..(self.chains - 1) * self.t.mr * self.t.nv {
            let zero = Expr::constant(self.dtype, 0.0).splat(self.lanes(i % self.t.nv));
            let var = self.block.declare("acc", zero);
            self.acc.push(var);
        }
    }

    /// Adds up the chains.
    fn join(&mut self) {
        let n = self.t.mr * self.t.nv;
        for i in n..self.acc.len() {
            let (var, other) = (self.acc[i % n], self.acc[i]);
            self.block.stmts.push(Stmt::Set { var, value: Expr::Var(var) + Expr::Var(other) });
        }
    }

    /// The load of factor `f` for row `i` and register `j`.
    pub(super) fn load(&self, f: &Factor, i: usize, j: usize, at: &[(Var, Expr)]) -> Expr {
        let index = self.row(&f.index.to_expr(), i);
        let (index, lanes) = match f.along {
            Along::Splat | Along::Pack => (index, 1),
            Along::Vector => (index.substitute(self.p.v.var, &self.v(j)), self.lanes(j)),
            Along::Panel { stride } => (index + self.t.panel.clone() * stride + j * self.t.lanes, self.lanes(j)),
        };
        let index = at.iter().fold(index, |e, (v, by)| e.substitute(*v, by));
        let index = match (self.p.parts, self.t.part) {
            (Some(parts), Some(Part::First)) => index.substitute(parts.var, &Expr::int(0)),
            (Some(parts), Some(Part::Last(k))) => index.substitute(parts.var, &Expr::int(k)),
            _ => index,
        };
        f.cast(Expr::Load { buf: f.buf, index: Box::new(index), lanes })
    }

    /// One step of the sum, at the values `at` of unrolled loops.
    fn step(&mut self, at: &[(Var, Expr)]) -> Vec<Stmt> {
        let mut out = vec![];
        let factors = [&self.p.a, &self.p.b];
        let by_row = factors.map(|f| self.p.m.as_ref().is_some_and(|m| f.uses(m)));
        let vector = factors.map(|f| f.along != Along::Splat);
        // Operands of the tile by factor and register; those that differ between rows are made row by row.
        let mut values: [Vec<Expr>; 2] = [vec![], vec![]];
        for row in 0..self.t.mr {
            for f in 0..2 {
                if row > 0 && !by_row[f] {
                    continue;
                }
                values[f].clear();
                for j in 0..self.t.nv {
                    if j > 0 && !vector[f] && self.lanes(j) == self.lanes(0) {
                        let first = values[f][0].clone();
                        values[f].push(first);
                        continue;
                    }
                    let loaded = self.load(factors[f], row, j, at);
                    let e = if vector[f] { loaded } else { loaded.splat(self.lanes(j)) };
                    let uses = if vector[f] { 1 } else { self.t.nv - j } * if by_row[f] { 1 } else { self.t.mr };
                    // What is used once is folded into the instruction that uses it.
                    let e = if uses > 1 { self.bind(e, &mut out) } else { e };
                    values[f].push(e);
                }
            }
            let [left, right] = &values;
            for (j, (a, b)) in left.iter().zip(right).enumerate() {
                let var = self.accumulator(row, j);
                let (a, b) = (a.clone(), b.clone());
                // The operand that is used for the last time comes first: its register takes the product.
                let ends = |f: usize| (by_row[f] || row + 1 == self.t.mr) && (vector[f] || j + 1 == self.t.nv);
                let (x, y) = if ends(1) && !ends(0) { (b, a) } else { (a, b) };
                out.push(Stmt::Set { var, value: multiply_add(self.dtype, x, y, Expr::Var(var)) });
            }
        }
        out
    }

    pub(super) fn bind(&mut self, value: Expr, out: &mut Vec<Stmt>) -> Expr {
        let var = self.block.kernel.new_var("f", self.block.kernel.type_of(&value));
        out.push(Stmt::Let { var, value });
        Expr::Var(var)
    }

    /// The loops summed over: the innermost unrolled as far as the budget goes, the next in part.
    fn reduction(&mut self) -> Vec<Stmt> {
        let step = match self.p.window {
            true => self.t.mr * self.t.nv,
            false => self.t.mr * self.t.nv + self.t.mr + self.t.nv,
        };
        let most = self.p.budget.unrolled;
        let mut whole = 1;
        let mut loops: Vec<ContractDim> = self.p.reduce.clone();
        let mut unrolled = vec![];
        while let Some(d) = loops.last()
            && (d.extent * whole * step <= most || self.p.window && unrolled.is_empty())
        {
            whole *= d.extent;
            unrolled.insert(0, d.clone());
            loops.pop();
        }
        let Some(d) = loops.pop() else { return self.body(&unrolled, &[]) };
        let fits = |u: &usize| u * whole * step <= most && d.extent >= 2 * u;
        // Without a rest if possible.
        let even = [4, 3, 5, 2].into_iter().find(|u| fits(u) && d.extent.is_multiple_of(*u));
        let longest = [4, 2].into_iter().find(fits).unwrap_or(1);
        let by = even.filter(|u| 2 * u > longest).unwrap_or(longest);
        let main = d.extent / by * by;
        // Steps beside each other, or of as many stretches of the sum.
        let (length, step, apart) = if self.streams(&d, by) { (main / by, 1, main / by) } else { (main, by, 1) };
        let places: Vec<Expr> = (0..by).map(|u| Expr::Var(d.var) + u * apart).collect();
        let at: Vec<(Var, Expr)> = places.into_iter().map(|e| (d.var, e)).collect();
        let body = self.body(&unrolled, &at);
        let mut out = vec![for_loop(d.var, length, step, false, body)];
        let rest: Vec<(Var, Expr)> = (main..d.extent).map(|k| (d.var, k.into())).collect();
        if !rest.is_empty() {
            out.append(&mut self.body(&unrolled, &rest));
        }
        for d in loops.iter().rev() {
            out = vec![for_loop(d.var, d.extent, 1, false, out)];
        }
        out
    }

    /// Whether a loop that is unrolled `by` times is better read at `by` places far apart than beside each other. One run of
    /// addresses is fetched no faster than its next page is known; several at a time keep the memory busy, which counts where a
    /// panel is not in a cache.
    fn streams(&self, d: &ContractDim, by: usize) -> bool {
        /// Bytes of a page: what a prefetcher sees of a run.
        const PAGE: usize = 4096;
        // What several tiles read comes from a cache for all but the first.
        let once = self.p.m.as_ref().is_none_or(|m| m.extent <= self.t.mr) && self.p.middle.is_empty();
        if !self.p.reassociate || self.p.window || by < 3 || !once || self.p.column_bytes <= self.p.l2 / 2 {
            return false;
        }
        let element = self.dtype.size();
        let stretch = |f: &Factor| f.index.coefficient(d.var).unsigned_abs() as usize * (d.extent / by) * element;
        let panels = [&self.p.a, &self.p.b].into_iter().filter(|f| matches!(f.along, Along::Panel { .. }));
        panels.map(stretch).max().is_some_and(|bytes| bytes >= PAGE / 2)
    }

    /// Steps for every point of `dims`, at each place of the loop around them.
    fn body(&mut self, dims: &[ContractDim], places: &[(Var, Expr)]) -> Vec<Stmt> {
        self.at = 0;
        let mut all: Vec<Vec<(Var, Expr)>> = match places {
            [] => vec![vec![]],
            places => places.iter().map(|p| vec![p.clone()]).collect(),
        };
        for d in dims {
            let points = |at: &Vec<(Var, Expr)>| {
                let at = at.clone();
                let one = move |k: usize| at.iter().cloned().chain([(d.var, k.into())]).collect::<Vec<_>>();
                (0..d.extent).map(one).collect::<Vec<_>>()
            };
            all = all.iter().flat_map(points).collect();
        }
        if self.p.window {
            let line = dims.last().map_or(1, |d| d.extent);
            return all.chunks(line).flat_map(|line| self.line(line)).collect();
        }
        let mut out = vec![];
        for at in all {
            out.append(&mut self.step(&at));
            self.at = (self.at + 1) % self.chains;
        }
        out
    }

    /// Stores the results.
    fn epilogue(&mut self) {
        let later = self.bias_later();
        for i in 0..self.t.mr {
            for j in 0..self.t.nv {
                let mut acc = self.acc[i * self.t.nv + j];
                let mut lanes = self.lanes(j);
                let valid = self.valid(j) as u16;
                if self.p.partial && valid < lanes {
                    // The lanes that exist.
                    let of = |l| Expr::Extract(Box::new(Expr::Var(acc)), l);
                    let part = if valid == 1 { of(0) } else { Expr::Lanes((0..valid).map(of).collect()) };
                    lanes = valid;
                    acc = self.variable("part", part);
                }
                if later && let Ok(first) = self.register(&self.row(&self.c.init, i), j, lanes, &[]) {
                    acc = self.variable("sum", Expr::Var(acc) + first);
                }
                let value = match self.t.part {
                    Some(Part::First | Part::Inner) => Expr::Var(self.c.acc),
                    _ => self.row(&self.c.value, i),
                };
                let index = self.place(i, j);
                let buf = self.c.out;
                match self.register(&value, j, lanes, &[(self.c.acc, acc)]) {
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

    fn variable(&mut self, name: &str, value: Expr) -> Var {
        let var = self.block.kernel.new_var(name, self.block.kernel.type_of(&value));
        self.block.stmts.push(Stmt::Let { var, value });
        var
    }
}

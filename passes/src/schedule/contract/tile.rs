//! One register tile: accumulators, the loops summed over, and the epilogue.

use super::plan::{Along, Factor, Plan};
use super::scalar::multiply_add;
use crate::schedule::lanes::Lanes;
use crate::schedule::scope::Block;
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
    /// Lanes of each; 1 for the scalar rest.
    pub(super) lanes: usize,
    /// Elements along the vector loop that exist.
    pub(super) valid: usize,
}

/// The most operations of an unrolled loop body.
const UNROLLED: usize = 128;

/// The statements of a tile.
pub(super) fn tile(c: &Contract, p: &Plan, t: &Tile, kernel: &mut Kernel) -> Vec<Stmt> {
    let dtype = kernel.var(c.acc).ty.elem;
    let mut g = Generator { c, p, t, dtype, block: Block::new(kernel), acc: vec![] };
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
    dtype: DType,
    block: Block<'k>,
    /// Accumulators by row, then register.
    acc: Vec<Var>,
}

impl Generator<'_, '_> {
    fn lanes(&self) -> u16 {
        self.t.lanes as u16
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

    /// `e`, an expression of the vector loop and of `scalar`, in register `j` where `scalar` is `vector`: all lanes at
    /// once, or if that is not possible as `Err` each lane that exists.
    fn register(&self, e: &Expr, j: usize, vectors: &[(Var, Var)]) -> Result<Expr, Vec<Expr>> {
        let valid = (self.t.valid - j * self.t.lanes).min(self.t.lanes);
        let lanes = Lanes { var: self.p.v.var, base: self.v(j), lanes: self.lanes(), vectors };
        if self.t.lanes > 1 && valid == self.t.lanes {
            if let Some(w) = lanes.widen(e) {
                return Ok(w.vector(self.lanes()));
            }
        } else if self.t.lanes == 1 {
            let e = vectors.iter().fold(e.clone(), |e, (s, w)| e.substitute(*s, &Expr::Var(*w)));
            return Ok(e.substitute(self.p.v.var, &self.v(j)));
        }
        Err((0..valid as u16).map(|l| lanes.at(e, l)).collect())
    }

    /// Declares the accumulators.
    fn accumulators(&mut self) {
        let by_row = self.p.m.as_ref().is_some_and(|m| self.c.init.uses(m.var));
        let mut shared: Vec<Expr> = vec![];
        for i in 0..self.t.mr {
            for j in 0..self.t.nv {
                let first = match shared.get(j) {
                    Some(e) => e.clone(),
                    None => {
                        let init = self.row(&self.c.init, i);
                        let e = match self.register(&init, j, &[]) {
                            Ok(e) => e,
                            Err(mut lanes) => {
                                lanes.resize(self.t.lanes, Expr::constant(self.dtype, 0.0));
                                Expr::Lanes(lanes)
                            }
                        };
                        // Constants are cheap to make anew.
                        let plain = matches!(self.c.init, Expr::Const(_));
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

    /// The load of factor `f` for row `i` and register `j`.
    fn load(&self, f: &Factor, i: usize, j: usize, at: &[(Var, Expr)]) -> Expr {
        let index = self.row(&f.index.to_expr(), i);
        let (index, lanes) = match f.along {
            Along::Splat | Along::Pack => (index, 1),
            Along::Vector => (index.substitute(self.p.v.var, &self.v(j)), self.lanes()),
            Along::Panel { stride } => {
                // Panels are read whole registers at a time, also by the scalar rest.
                (index + self.t.panel.clone() * stride + j * self.t.lanes, self.lanes())
            }
        };
        let index = at.iter().fold(index, |e, (v, by)| e.substitute(*v, by));
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
                    if j > 0 && !vector[f] {
                        let first = values[f][0].clone();
                        values[f].push(first);
                        continue;
                    }
                    let loaded = self.load(factors[f], row, j, at);
                    let e = if vector[f] { loaded } else { loaded.splat(self.lanes()) };
                    let uses = if vector[f] { 1 } else { self.t.nv } * if by_row[f] { 1 } else { self.t.mr };
                    // What is used once is folded into the instruction that uses it.
                    let e = if uses > 1 { self.bind(e, &mut out) } else { e };
                    values[f].push(e);
                }
            }
            let [left, right] = &values;
            for (j, (a, b)) in left.iter().zip(right).enumerate() {
                let var = self.acc[row * self.t.nv + j];
                let (a, b) = (a.clone(), b.clone());
                // The operand that is used for the last time comes first: its register takes the product.
                let ends = |f: usize| (by_row[f] || row + 1 == self.t.mr) && (vector[f] || j + 1 == self.t.nv);
                let (x, y) = if ends(1) && !ends(0) { (b, a) } else { (a, b) };
                out.push(Stmt::Set { var, value: multiply_add(self.dtype, x, y, Expr::Var(var)) });
            }
        }
        out
    }

    fn bind(&mut self, value: Expr, out: &mut Vec<Stmt>) -> Expr {
        let var = self.block.kernel.new_var("f", self.block.kernel.type_of(&value));
        out.push(Stmt::Let { var, value });
        Expr::Var(var)
    }

    /// The loops summed over: the innermost unrolled as far as the budget goes, the next in part.
    fn reduction(&mut self) -> Vec<Stmt> {
        let step = self.t.mr * self.t.nv + self.t.mr + self.t.nv;
        let mut whole = 1;
        let mut loops: Vec<ContractDim> = self.p.reduce.clone();
        let mut unrolled = vec![];
        while let Some(d) = loops.last()
            && d.extent * whole * step <= UNROLLED
        {
            whole *= d.extent;
            unrolled.insert(0, d.clone());
            loops.pop();
        }
        let Some(d) = loops.pop() else { return self.points(&unrolled, &mut vec![]) };
        let by = [4, 2].into_iter().find(|u| u * whole * step <= UNROLLED && d.extent >= 2 * u).unwrap_or(1);
        let main = d.extent / by * by;
        let mut body = vec![];
        for u in 0..by {
            body.append(&mut self.points(&unrolled, &mut vec![(d.var, Expr::Var(d.var) + u)]));
        }
        let mut out = vec![crate::schedule::scope::for_loop(d.var, main, by, false, body)];
        for k in main..d.extent {
            out.append(&mut self.points(&unrolled, &mut vec![(d.var, k.into())]));
        }
        for d in loops.iter().rev() {
            out = vec![crate::schedule::scope::for_loop(d.var, d.extent, 1, false, out)];
        }
        out
    }

    /// A step for every point of `dims`.
    fn points(&mut self, dims: &[ContractDim], at: &mut Vec<(Var, Expr)>) -> Vec<Stmt> {
        let Some((d, rest)) = dims.split_first() else { return self.step(at) };
        let mut out = vec![];
        for k in 0..d.extent {
            at.push((d.var, k.into()));
            out.append(&mut self.points(rest, at));
            at.pop();
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

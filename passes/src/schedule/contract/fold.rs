//! Contractions with few results beside each other: lanes along the sum.
//!
//! Where the result has no row of elements to fill a register with (a convolution to one channel, a filter along time), but both
//! factors lie in rows along a loop that is summed over, that loop becomes lanes: every result has a register of partial sums,
//! folded in the end. A few results at a time share what they multiply with.

use super::plan::{Along, Factor, others_of, pack_constant};
use super::scalar::multiply_add;
use super::shape::split;
use crate::schedule::lanes::{Cost, Lanes};
use crate::schedule::scope::{Block, for_loop};
use crate::schedule::{ScheduleCx, Unit};
use tenon_base::DType;
use tenon_kernel::{Affine, BinOp, Contract, ContractDim, Expr, Kernel, Stmt, Type, Var};

/// Results at a time.
const ROWS: usize = 8;

/// Operations on a result from which on the results are better brought together in one vector, even if they are stored one by one.
const WORTH: usize = 4;

/// The most products of an unrolled loop body.
const UNROLLED: usize = 64;

/// A contraction in lanes along its sum.
struct Fold {
    a: Factor,
    b: Factor,
    /// The loop that becomes lanes.
    u: ContractDim,
    /// The other loops summed over.
    reduce: Vec<ContractDim>,
    /// The loop whose results are computed together.
    m: Option<ContractDim>,
    lanes: usize,
    dtype: DType,
    /// Whether the code generator takes vectors that fill a part of a register only.
    partial: bool,
    /// The most products of an unrolled loop body.
    unrolled: usize,
}

/// Loops for `c`, if it is of this kind.
pub(super) fn lower(c: &Contract, unit: &mut Unit, cx: &ScheduleCx<'_>) -> Option<Vec<Stmt>> {
    let f = plan(c, unit, cx)?;
    let outer: Vec<ContractDim> =
        c.dims.iter().filter(|d| f.m.as_ref().is_none_or(|m| m.var != d.var)).cloned().collect();
    let kernel = &mut unit.kernel;
    let mut body = vec![];
    match &f.m {
        None => body.append(&mut f.rows(c, None, 1, kernel)),
        Some(m) => {
            let mut from = 0;
            for r in split(m.extent, ROWS.min(f.unrolled / 4)) {
                let to = from + r.mr * r.count;
                let one = f.rows(c, Some(&Expr::Var(m.var)), r.mr, kernel);
                let (lo, hi) = (from.into(), to.into());
                body.push(Stmt::For { var: m.var, lo, hi, step: r.mr as i64, parallel: true, body: one });
                from = to;
            }
        }
    }
    for d in outer.iter().rev() {
        body = vec![for_loop(d.var, d.extent, 1, true, body)];
    }
    Some(body)
}

/// Whether the rows of results of `c` fill less than half a register.
pub(super) fn is_narrow(c: &Contract, unit: &Unit, cx: &ScheduleCx<'_>) -> bool {
    let lanes = cx.target.lanes(unit.kernel.var(c.acc).ty.elem);
    let row = Affine::of(&c.out_index).and_then(|out| c.dims.iter().find(|d| out.coefficient(d.var) == 1));
    row.is_none_or(|v| 2 * v.extent < lanes)
}

fn plan(c: &Contract, unit: &mut Unit, cx: &ScheduleCx<'_>) -> Option<Fold> {
    let dtype = unit.kernel.var(c.acc).ty.elem;
    let lanes = cx.target.lanes(dtype);
    if !cx.reassociate || !dtype.is_float() || lanes < 4 {
        return None;
    }
    let (mut a, mut b) = (Factor::of(&c.a)?, Factor::of(&c.b)?);
    let constant = |f: &Factor, unit: &Unit| unit.constant.get(f.buf.0 as usize) == Some(&true);
    let fits = |f: &Factor, d: &ContractDim| match f.index.coefficient(d.var) {
        1 => true,
        0 => false,
        _ => constant(f, unit),
    };
    let both_constant = constant(&a, unit) && constant(&b, unit);
    let along = |d: &&ContractDim| d.extent >= lanes && fits(&a, d) && fits(&b, d);
    let u = c.reduce.iter().filter(along).max_by_key(|d| d.extent).filter(|_| !both_constant)?.clone();
    let mut reduce: Vec<ContractDim> = c.reduce.iter().filter(|d| d.var != u.var).cloned().collect();
    let others = others_of(c, &u);
    for f in [&mut a, &mut b] {
        if f.index.coefficient(u.var) != 1 {
            pack_constant(f, &u, &others, &reduce, u.extent, unit);
            f.index = std::mem::take(&mut f.index).with(u.var, 1);
        }
        f.along = Along::Vector;
    }
    // Loops that both factors walk as one with that of the lanes.
    let mut u = u;
    while let Some(i) = reduce.iter().position(|d| {
        let one = |f: &Factor| f.index.coefficient(d.var) == u.extent as i64;
        one(&a) && one(&b)
    }) {
        let d = reduce.remove(i);
        for f in [&mut a, &mut b] {
            f.index.terms.remove(&d.var);
        }
        u.extent *= d.extent;
    }
    let m = rows_of(c, [&a, &b]);
    let (partial, unrolled) = (cx.target.vector_bytes > 16, cx.price.unrolled.min(UNROLLED));
    Some(Fold { a, b, u, reduce, m, lanes, dtype, partial, unrolled })
}

/// Of the loops that share one factor, that whose results lie closest together of those with enough of them, so that lines of
/// the cache are read and written once; else the longest.
fn rows_of(c: &Contract, [a, b]: [&Factor; 2]) -> Option<ContractDim> {
    let out = Affine::of(&c.out_index)?;
    let distance = |d: &&ContractDim| out.coefficient(d.var).unsigned_abs();
    let all = c.dims.iter().filter(|d| a.uses(d) != b.uses(d));
    let nearest = all.clone().filter(|d| d.extent >= ROWS).min_by_key(distance);
    nearest.or_else(|| all.max_by_key(|d| d.extent)).cloned()
}

impl Fold {
    /// `mr` results, the first at `m0` of the loop over them.
    fn rows(&self, c: &Contract, m0: Option<&Expr>, mr: usize, kernel: &mut Kernel) -> Vec<Stmt> {
        let row = |e: Expr, i: usize| match (&self.m, m0) {
            (Some(m), Some(m0)) => e.substitute(m.var, &(m0.clone() + i)),
            _ => e,
        };
        let mut block = Block::new(kernel);
        let zero = Expr::constant(self.dtype, 0.0);
        let width = self.lanes as u16;
        let sums: Vec<Var> = (0..mr).map(|_| block.declare("acc", zero.clone().splat(width))).collect();
        let main = self.u.extent / self.lanes * self.lanes;
        let rest: Vec<Var> = match main < self.u.extent {
            true => (0..mr).map(|_| block.declare("rest", zero.clone())).collect(),
            false => vec![],
        };
        let by_row = [&self.a, &self.b].map(|f| self.m.as_ref().is_some_and(|m| f.uses(m)));
        // The products at `at` of the loop along the lanes, in `lanes` of them.
        let products = |at: Expr, lanes: u16, sums: &[Var], block: &mut Block<'_>| {
            let load = |f: &Factor, i: usize| {
                let index = row(f.index.to_expr(), i).substitute(self.u.var, &at);
                f.cast(Expr::Load { buf: f.buf, index: Box::new(index), lanes })
            };
            let shared: Vec<Option<Expr>> = [&self.a, &self.b]
                .into_iter()
                .zip(by_row)
                .map(|(f, by_row)| (!by_row && mr > 1).then(|| block.bind("f", load(f, 0))))
                .collect();
            for (i, &var) in sums.iter().enumerate() {
                let value = |k: usize, f: &Factor| shared[k].clone().unwrap_or_else(|| load(f, i));
                let (x, y) = (value(0, &self.a), value(1, &self.b));
                // What is loaded for one row only may be an operand in memory, which comes last.
                let (x, y) = if by_row[0] { (y, x) } else { (x, y) };
                let value = multiply_add(self.dtype, x, y, Expr::Var(var));
                block.stmts.push(Stmt::Set { var, value });
            }
        };
        let body = block.nested(|block| {
            if main / self.lanes * mr <= self.unrolled {
                for at in (0..main).step_by(self.lanes) {
                    products(at.into(), width, &sums, block);
                }
            } else {
                let var = block.index("k");
                let steps = block.nested(|block| products(Expr::Var(var), width, &sums, block));
                block.stmts.push(for_loop(var, main, self.lanes, false, steps));
            }
            if !rest.is_empty() {
                let var = block.index("k");
                let steps = block.nested(|block| products(Expr::Var(var), 1, &rest, block));
                let (lo, hi) = (main.into(), self.u.extent.into());
                block.stmts.push(Stmt::For { var, lo, hi, step: 1, parallel: false, body: steps });
            }
        });
        let body = self.reduce.iter().rev().fold(body, |body, d| vec![for_loop(d.var, d.extent, 1, false, body)]);
        block.stmts.extend(body);
        if let Some(m0) = m0
            && self.together(c, m0, &sums, &rest, &mut block).is_some()
        {
            return block.stmts;
        }
        for (i, &sum) in sums.iter().enumerate() {
            let mut total = row(c.init.clone(), i) + Expr::Reduce(BinOp::Add, Box::new(Expr::Var(sum)));
            if let Some(rest) = rest.get(i) {
                total = total + Expr::Var(*rest);
            }
            let total = block.bind("sum", total);
            let (index, value) = (row(c.out_index.clone(), i), row(c.value.clone(), i));
            let value = value.substitute(c.acc, &total);
            block.stmts.push(Stmt::Store { buf: c.out, index, value });
        }
        block.stmts
    }
    /// Stores the results, the first at `m0` of the loop over them, as one vector of them; `None` if that is not possible, or not worth it.
    fn together(&self, c: &Contract, m0: &Expr, sums: &[Var], rest: &[Var], block: &mut Block<'_>) -> Option<()> {
        let m = self.m.as_ref()?;
        let n = sums.len();
        if n < 4 || !(self.partial || n.is_multiple_of(self.lanes)) {
            return None;
        }
        let lanes = n as u16;
        let ty = Type::vector(self.dtype, lanes);
        let (vars, total) = (block.kernel.vars.len(), block.kernel.new_var("sums", ty));
        let vectors = [(c.acc, total)];
        let at = Lanes { var: m.var, base: m0.clone(), lanes, vectors: &vectors };
        let run = at.stride(&c.out_index) == Some(1);
        let mut cost = Cost::default();
        at.cost(&c.value, &mut cost);
        let wide =
            (run || cost.operations >= WORTH).then(|| Some((at.widen(&c.init)?, at.widen(&c.value)?))).flatten();
        let Some((first, value)) = wide else {
            block.kernel.vars.truncate(vars);
            return None;
        };
        let folded = |v: &Var| Expr::Reduce(BinOp::Add, Box::new(Expr::Var(*v)));
        let mut sum = first.vector(lanes) + Expr::Lanes(sums.iter().map(folded).collect());
        if !rest.is_empty() {
            sum = sum + Expr::Lanes(rest.iter().map(|v| Expr::Var(*v)).collect());
        }
        block.stmts.push(Stmt::Let { var: total, value: sum });
        let value = value.vector(lanes);
        if run {
            let index = at.at(&c.out_index, 0);
            block.stmts.push(Stmt::Store { buf: c.out, index, value });
            return Some(());
        }
        let values = block.bind("values", value);
        for l in 0..lanes {
            let one = Expr::Extract(Box::new(values.clone()), l);
            block.stmts.push(Stmt::Store { buf: c.out, index: at.at(&c.out_index, l), value: one });
        }
        Some(())
    }
}

//! Loops become vectors.
//!
//! A loop is vectorised where all it stores is consecutive: a `parfor` (any of a nest of them: their order is free), or
//! a sequential loop that only stores, or that only folds into accumulators where sums may be reordered. Loops inside
//! it stay loops, of vectors. What does not fill a vector is one shorter vector behind; sums go on in vectors of half as
//! many lanes and in the end in scalars.

use super::lanes::{Cost, Lanes};
use super::scope::trips;
use super::{ScheduleCx, Unit};
use crate::effort::Price;
use std::collections::BTreeMap;
use tenon_base::DType;
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::{Affine, BinOp, Buf, CmpOp, Expr, Kernel, MathFn, Stmt, Type, Var};
use tenon_target::Target;

/// Vectorises the loops of the kernel.
pub(super) fn run(unit: &mut Unit, cx: &ScheduleCx<'_>) {
    if cx.target.vector_bytes == 0 {
        return;
    }
    let body = std::mem::take(&mut unit.kernel.body);
    let mut v = Vectorizer {
        kernel: &mut unit.kernel,
        target: cx.target,
        reassociate: cx.reassociate,
        price: cx.price,
        times: unit.calls,
    };
    let body = v.block(body);
    unit.kernel.body = body;
}

struct Vectorizer<'k> {
    kernel: &'k mut Kernel,
    target: &'k Target,
    reassociate: bool,
    /// What code costs.
    price: Price,
    /// How often the statement that is looked at runs, loops of the nest it begins not counted.
    times: usize,
}

/// Instructions of an element that a lane loads on its own.
const GATHER: usize = 3;

/// The most bytes of one virtual vector, in registers: independent chains hide latencies.
const REGISTERS: usize = 4;

impl Vectorizer<'_> {
    fn block(&mut self, body: Vec<Stmt>) -> Vec<Stmt> {
        body.into_iter().flat_map(|s| self.statement(s)).collect()
    }

    fn statement(&mut self, s: Stmt) -> Vec<Stmt> {
        match s {
            Stmt::For { .. } => match self.nest(&s) {
                Some(done) => done,
                None => {
                    let Stmt::For { var, lo, hi, step, parallel, body } = s else { return vec![s] };
                    let around = self.times;
                    self.times = around.saturating_mul(trips(&lo, &hi, step));
                    let body = self.block(body);
                    self.times = around;
                    vec![Stmt::For { var, lo, hi, step, parallel, body }]
                }
            },
            Stmt::If { cond, then, otherwise } => {
                vec![Stmt::If { cond, then: self.block(then), otherwise: self.block(otherwise) }]
            }
            Stmt::While { cond, body } => vec![Stmt::While { cond, body: self.block(body) }],
            s => vec![s],
        }
    }

    /// A loop, or a nest of `parfor`s, with one of its loops vectorised and moved inside.
    fn nest(&mut self, s: &Stmt) -> Option<Vec<Stmt>> {
        let mut loops = vec![];
        let mut at = s;
        while let Stmt::For { var, lo, hi, step, parallel, body } = at {
            loops.push((*var, lo.clone(), hi.clone(), *step, *parallel));
            if loops.len() > 1 && !parallel {
                loops.pop();
                break;
            }
            match &body[..] {
                [next @ Stmt::For { .. }] if *parallel => at = next,
                _ => break,
            }
        }
        let body = loops.iter().skip(1).fold(s, |s, _| match s {
            Stmt::For { body, .. } => &body[0],
            s => s,
        });
        let Stmt::For { body, .. } = body else { return None };
        for i in (0..loops.len()).rev() {
            let (var, lo, hi, step, parallel) = loops[i].clone();
            let (Some(lo), Some(hi), 1) = (lo.as_int(), hi.as_int(), step) else { continue };
            // Bounds of the other loops must not need the one that moves.
            if loops.iter().any(|l| l.1.uses(var) || l.2.uses(var)) {
                continue;
            }
            let others = loops.iter().filter(|l| l.0 != var).map(|(_, lo, hi, step, _)| trips(lo, hi, *step));
            let times = others.fold(self.times, usize::saturating_mul);
            let Some(mut inner) = self.one_loop(Iterations { var, lo, hi, times, parallel, body }) else { continue };
            for (j, (var, lo, hi, step, parallel)) in loops.iter().cloned().enumerate().rev() {
                if j != i {
                    inner = vec![Stmt::For { var, lo, hi, step, parallel, body: inner }];
                }
            }
            return Some(inner);
        }
        None
    }

    /// All iterations of a loop in vectors and a rest.
    fn one_loop(&mut self, all: Iterations<'_>) -> Option<Vec<Stmt>> {
        let Iterations { lo, hi, parallel, body, .. } = all;
        let shape = Shape::of(self.kernel, body)?;
        if !parallel && !shape.stores.iter().all(|b| !shape.loads.contains(b)) {
            return None; // an iteration may read what an earlier one wrote
        }
        let folds = folds(body);
        let folds = if shape.carried.is_empty() { vec![] } else { folds.filter(|_| self.reassociate)? };
        let n = usize::try_from(hi.checked_sub(lo)?).ok()?;
        let halving = shape.halving || !folds.is_empty();
        let mut lanes = self.lanes(&shape, body, n, halving)?;
        loop {
            if let Some(done) = self.attempt(all, &folds, lanes, halving) {
                return Some(done);
            }
            // Long vectors of many gathers do not pay; a failure of another kind fails again at once.
            lanes = lanes.next_power_of_two() / 2;
            if lanes * shape.least_bytes < self.target.vector_bytes || lanes < 2 {
                return None;
            }
        }
    }

    /// Lanes of a virtual vector for a body of this shape and `n` iterations; a power of two where lanes are folded.
    fn lanes(&self, shape: &Shape, body: &[Stmt], n: usize, halving: bool) -> Option<usize> {
        let bytes = self.target.vector_bytes;
        let one = (bytes / shape.most_bytes).max(1);
        // The narrowest elements fill a register; if they are all of one size, a few registers.
        let most = REGISTERS.min(self.price.registers);
        let full = (bytes / shape.least_bytes).min(one * most);
        let mut lanes = full.max(
            one * if shape.size > 40 {
                1
            } else if shape.size > 12 || shape.nested && halving {
                most.min(2)
            } else if shape.nested {
                self.side_by_side(shape, n.div_ceil(one)).min(self.price.registers)
            } else {
                most
            },
        );
        // Where elements differ in width, what is alive at once is to fit the registers.
        if shape.most_bytes > shape.least_bytes {
            let live = live(self.kernel, body);
            while lanes > one && live * lanes > self.target.vector_registers() * one {
                lanes /= 2;
            }
        }
        if !halving {
            lanes = lanes.min(n);
        }
        while lanes > n {
            lanes /= 2;
        }
        (lanes >= 2 && lanes >= one.min(4)).then_some(lanes)
    }

    /// Of `registers` beside each other that loops inside walk through, how many at once: what lies in a row in memory is read as such as
    /// far as accumulators last, in even parts.
    fn side_by_side(&self, shape: &Shape, registers: usize) -> usize {
        let most = self.target.vector_registers() * 3 / 4 / shape.declared.max(1);
        registers.div_ceil(registers.div_ceil(most.max(2)))
    }

    /// The same, `lanes` at a time if that pays.
    fn attempt(&mut self, all: Iterations<'_>, folds: &[Fold], lanes: usize, halving: bool) -> Option<Vec<Stmt>> {
        let Iterations { var, lo, hi, times, parallel, body } = all;
        let vars = self.kernel.vars.len();
        let mut w = Widener {
            kernel: self.kernel,
            var,
            lanes: lanes as u16,
            vectors: vec![],
            cost: Cost::default(),
            stores: 0,
            pairs: self.target.vector_bytes > 16,
        };
        let mut before = vec![];
        let mut after = vec![];
        for f in folds {
            let v = w.vector_var(f.acc);
            let acc = Expr::Var(f.acc);
            let dtype = w.kernel.var(f.acc).ty.elem;
            let first = match f.op {
                BinOp::Add => Expr::constant(dtype, 0.0),
                BinOp::Mul => Expr::constant(dtype, 1.0),
                _ => acc.clone(),
            };
            before.push(Stmt::Declare { var: v, value: first.splat(lanes as u16) });
            let sum = Expr::Reduce(f.op, Box::new(Expr::Var(v)));
            let mut value = Expr::Binary(f.op, Box::new([acc.clone(), sum]));
            if f.nan {
                // NaN if a lane is, else 0.
                let zero = Expr::constant(dtype, 0.0).splat(lanes as u16);
                let found = is_nan(&Expr::Var(v)).select(Expr::Var(v), zero);
                let var = w.kernel.new_var("nan", Type::scalar(dtype));
                after.push(Stmt::Let { var, value: Expr::Reduce(BinOp::Add, Box::new(found)) });
                value = is_nan(&acc).select(acc, is_nan(&Expr::Var(var)).select(Expr::Var(var), value));
            }
            after.push(Stmt::Set { var: f.acc, value });
        }
        let wide = w.block(body);
        let mut pays = w.lanes_of(&[]).profitable(w.cost, w.stores + folds.len());
        // Elements from all over are written out, each with where it is.
        let turns = times.saturating_mul((hi - lo) as usize / lanes);
        let written = (w.cost.gathers * lanes * GATHER) as f64 * self.price.instruction;
        pays &= written <= (w.lanes_of(&[]).saved(w.cost, w.stores + folds.len()) * turns) as f64;
        let gathers = w.cost.gathers > 0;
        pays &= !(gathers && parallel && self.folds_rows(body));
        let Some(wide) = wide.filter(|_| pays) else {
            self.kernel.vars.truncate(vars);
            return None;
        };
        let n = hi - lo;
        let step = lanes as i64;
        let main = lo + n / step * step;
        let mut out = before;
        let lo = Expr::int(lo);
        out.push(Stmt::For { var, lo, hi: Expr::int(main), step, parallel, body: wide });
        out.append(&mut after);
        if main < hi {
            out.append(&mut self.rest(Iterations { lo: main, ..all }, folds, lanes, halving));
        }
        Some(out)
    }

    /// Whether a loop in `body` folds what lies in a row in memory, a register of it at least: better lanes than elements from all over.
    fn folds_rows(&self, body: &[Stmt]) -> bool {
        body.iter().any(|s| match s {
            Stmt::For { var, lo, hi, step: 1, body, .. } => {
                let trips = lo.as_int().zip(hi.as_int()).map_or(0, |(lo, hi)| hi.saturating_sub(lo));
                let long = usize::try_from(trips).is_ok_and(|n| n * 4 >= self.target.vector_bytes);
                self.reassociate && long && folds(body).is_some_and(|f| !f.is_empty()) && reads_rows(body, *var)
            }
            _ => false,
        })
    }

    /// The last iterations, fewer than `lanes`.
    fn rest(&mut self, last: Iterations<'_>, folds: &[Fold], lanes: usize, halving: bool) -> Vec<Stmt> {
        let Iterations { var, lo, hi, parallel, body, .. } = last;
        let n = (hi - lo) as usize;
        let next = if halving { lanes / 2 } else { n };
        if n > 1 && next > 1 {
            if next <= n
                && let Some(done) = self.attempt(last, folds, next, halving)
            {
                return done;
            }
            if halving {
                return self.rest(last, folds, next, halving);
            }
        }
        vec![Stmt::For { var, lo: Expr::int(lo), hi: Expr::int(hi), step: 1, parallel, body: body.to_vec() }]
    }
}

/// Iterations `lo..hi` of a loop.
#[derive(Clone, Copy)]
struct Iterations<'b> {
    var: Var,
    lo: i64,
    hi: i64,
    /// How often they run.
    times: usize,
    parallel: bool,
    body: &'b [Stmt],
}

/// What a loop body is made of.
struct Shape {
    stores: Vec<Buf>,
    loads: Vec<Buf>,
    /// Variables from outside that it sets.
    carried: Vec<Var>,
    /// Bytes of the widest and of the narrowest element that it computes with.
    most_bytes: usize,
    least_bytes: usize,
    /// Variables of its own that it sets: accumulators.
    declared: usize,
    /// Nodes of its expressions.
    size: usize,
    /// Whether there are loops in it.
    nested: bool,
    /// Whether its lanes will be folded, for which they must be a power of two.
    halving: bool,
}

impl Shape {
    /// `None` where something in it cannot become vectors.
    fn of(kernel: &Kernel, body: &[Stmt]) -> Option<Shape> {
        let mut s = Shape {
            stores: vec![],
            loads: vec![],
            carried: vec![],
            most_bytes: 1,
            least_bytes: 8,
            declared: 0,
            size: 0,
            nested: false,
            halving: false,
        };
        let mut own = vec![];
        let mut ok = true;
        tenon_kernel::stmt::visit_stmts(body, &mut |stmt| {
            match stmt {
                Stmt::Let { var, .. } => own.push(*var),
                Stmt::Declare { var, .. } => {
                    own.push(*var);
                    s.declared += 1;
                }
                Stmt::Set { var, .. } if !own.contains(var) => s.carried.push(*var),
                Stmt::Set { .. } => {}
                Stmt::Store { buf, value, .. } => {
                    s.stores.push(*buf);
                    ok &= kernel.type_of(value).lanes == 1;
                    s.element(kernel.buffer(*buf).dtype);
                }
                Stmt::For { parallel, .. } => {
                    s.nested = true;
                    ok &= !parallel;
                }
                Stmt::Prefetch { .. } | Stmt::If { .. } | Stmt::While { .. } | Stmt::Contract(_) | Stmt::Tiles(_) => {
                    ok = false
                }
            }
            let index = match stmt {
                Stmt::Store { index, .. } => Some(index),
                _ => None,
            };
            stmt.exprs(&mut |e| {
                if index.is_none_or(|i| !std::ptr::eq(i, e)) && !matches!(stmt, Stmt::For { .. }) {
                    s.expression(kernel, e);
                }
            });
        });
        ok.then_some(s)
    }

    fn element(&mut self, dtype: DType) {
        self.most_bytes = self.most_bytes.max(dtype.size());
        self.least_bytes = self.least_bytes.min(dtype.size());
    }

    /// Element types of a value; of what is inside an index, only the buffers.
    fn expression(&mut self, kernel: &Kernel, e: &Expr) {
        self.size += 1;
        if let Expr::Math(f, _) = e {
            self.size += 20;
            // Its loop ends when all lanes have.
            self.halving |= *f == MathFn::Fmod;
        }
        match e {
            Expr::Load { buf, index, .. } => {
                self.loads.push(*buf);
                self.element(kernel.buffer(*buf).dtype);
                index.visit(&mut |e| {
                    if let Expr::Load { buf, .. } = e {
                        self.loads.push(*buf);
                    }
                });
            }
            Expr::Cast(d, _) | Expr::Bitcast(d, _) if *d != DType::Bool => self.element(*d),
            _ => {}
        }
        if !matches!(e, Expr::Load { .. }) {
            e.for_each_child(&mut |c| self.expression(kernel, c));
        }
    }
}

/// The most values, but for indices, that are computed in `body` before a statement of it and used in or behind it.
fn live(kernel: &Kernel, body: &[Stmt]) -> usize {
    // The last statement that uses each variable: every use comes behind its definition.
    let mut last = BTreeMap::new();
    for (i, s) in body.iter().enumerate() {
        visit_stmts(std::slice::from_ref(s), &mut |s| {
            s.exprs(&mut |e| {
                e.visit(&mut |e| {
                    if let Expr::Var(v) = e {
                        last.insert(*v, i);
                    }
                });
            });
        });
    }
    let (mut ends, mut now, mut most) = (vec![0usize; body.len()], 0, 0);
    for (i, s) in body.iter().enumerate() {
        most = most.max(now);
        now -= ends[i];
        if let Stmt::Let { var, .. } = s
            && kernel.var(*var).ty != Type::INDEX
            && let Some(end) = last.get(var).filter(|end| **end > i)
        {
            ends[*end] += 1;
            now += 1;
        }
    }
    most
}

/// An accumulator of a loop: `acc = acc op …`.
struct Fold {
    acc: Var,
    op: BinOp,
    /// A smallest or largest that is NaN if any is: `acc = acc ≠ acc ? acc : acc op …`.
    nan: bool,
}

/// Whether a float is NaN.
fn is_nan(e: &Expr) -> Expr {
    e.clone().compare(CmpOp::Ne, e.clone())
}

/// `x` where `value` is `acc ≠ acc ? acc : x` and `x` the smaller or larger of two.
fn lets_nan_through<'e>(acc: &Expr, value: &'e Expr) -> Option<&'e Expr> {
    let Expr::Select(b) = value else { return None };
    let extreme = matches!(b[2], Expr::Binary(BinOp::Min | BinOp::Max, _));
    (extreme && b[0] == is_nan(acc) && b[1] == *acc).then_some(&b[2])
}

/// The folds of a loop whose body only computes and folds, each accumulator once; `None` for any other body.
fn folds(body: &[Stmt]) -> Option<Vec<Fold>> {
    let mut found: Vec<Fold> = vec![];
    for s in body {
        match s {
            Stmt::Let { .. } => {}
            Stmt::Set { var, value } => {
                let acc = Expr::Var(*var);
                let extreme = lets_nan_through(&acc, value);
                let op = match extreme.unwrap_or(value) {
                    Expr::Binary(op @ (BinOp::Add | BinOp::Mul | BinOp::Min | BinOp::Max), b) => {
                        let other = if b[0] == acc { &b[1] } else { &b[0] };
                        ((b[0] == acc || b[1] == acc) && !other.uses(*var)).then_some(*op)?
                    }
                    Expr::Fma(b) if b[2] == Expr::Var(*var) && !b[0].uses(*var) && !b[1].uses(*var) => BinOp::Add,
                    _ => return None,
                };
                found.push(Fold { acc: *var, op, nan: extreme.is_some() });
            }
            _ => return None,
        }
    }
    // An accumulator is used by its own fold only.
    for (i, f) in found.iter().enumerate() {
        let uses = body.iter().filter(|s| {
            let mut used = false;
            s.exprs(&mut |e| used |= e.uses(f.acc));
            used
        });
        if uses.count() > 1 || found.iter().skip(i + 1).any(|g| g.acc == f.acc) {
            return None;
        }
    }
    Some(found)
}

/// Whether all that `body` loads are rows along `var`, or the same element for all of its values.
fn reads_rows(body: &[Stmt], var: Var) -> bool {
    let mut all = true;
    for s in body {
        s.exprs(&mut |e| {
            e.visit(&mut |e| {
                if let Expr::Load { index, .. } = e {
                    all &= Affine::of(index).is_some_and(|i| matches!(i.coefficient(var), 0 | 1));
                }
            });
        });
    }
    all
}

/// Turns one body into vectors.
struct Widener<'k> {
    kernel: &'k mut Kernel,
    var: Var,
    lanes: u16,
    vectors: Vec<(Var, Var)>,
    cost: Cost,
    stores: usize,
    /// Whether the code generator weaves two vectors into one as such.
    pairs: bool,
}

impl Widener<'_> {
    fn lanes_of<'a>(&self, vectors: &'a [(Var, Var)]) -> Lanes<'a> {
        Lanes { var: self.var, base: Expr::Var(self.var), lanes: self.lanes, vectors }
    }

    /// The vector that holds scalar variable `v`.
    fn vector_var(&mut self, v: Var) -> Var {
        let info = self.kernel.var(v).clone();
        let w = self.kernel.new_var(&format!("{}_v", info.name), Type::vector(info.ty.elem, self.lanes));
        self.vectors.push((v, w));
        w
    }

    fn value(&mut self, e: &Expr) -> Option<Expr> {
        let l = self.lanes_of(&self.vectors);
        let mut cost = self.cost;
        l.cost(e, &mut cost);
        let wide = l.widen(e)?.vector(self.lanes);
        self.cost = cost;
        Some(wide)
    }

    fn block(&mut self, body: &[Stmt]) -> Option<Vec<Stmt>> {
        let mut out = vec![];
        let mut left = body;
        while let Some((s, rest)) = left.split_first() {
            if let Some(next) = rest.first().filter(|next| self.is_pair(s, next)) {
                out.append(&mut self.pair(s, next)?);
                left = &rest[1..];
            } else {
                out.push(self.statement(s)?);
                left = rest;
            }
        }
        Some(out)
    }

    /// Whether `s` and `next` store elements that alternate: what interleaves two rows.
    fn is_pair(&self, s: &Stmt, next: &Stmt) -> bool {
        let (Stmt::Store { buf, index, .. }, Stmt::Store { buf: other, index: behind, value }) = (s, next) else {
            return false;
        };
        let mut reads = self.kernel.in_place.iter().any(|(_, o)| o == buf);
        value.visit(&mut |e| reads |= matches!(e, Expr::Load { buf: b, .. } if b == buf));
        let l = self.lanes_of(&self.vectors);
        let apart = Affine::of(index)
            .zip(Affine::of(behind))
            .is_some_and(|(a, b)| a.terms == b.terms && a.base.checked_add(1) == Some(b.base));
        let word = self.kernel.buffer(*buf).dtype;
        let fits = word.size() == 4 && l.stride(index) == Some(2) && self.lanes > 1;
        self.pairs && buf == other && apart && fits && !reads
    }

    /// Both stores as one of twice as many lanes.
    fn pair(&mut self, s: &Stmt, next: &Stmt) -> Option<Vec<Stmt>> {
        let (Stmt::Store { buf, index, value: a }, Stmt::Store { value: b, .. }) = (s, next) else { return None };
        let mut out = vec![];
        let mut halves = vec![];
        for value in [a, b] {
            let value = self.value(value)?;
            let var = self.kernel.new_var("half", self.kernel.type_of(&value));
            out.push(Stmt::Let { var, value });
            halves.push(var);
        }
        let lane = |l: u16| halves.iter().map(move |v| Expr::Extract(Box::new(Expr::Var(*v)), l));
        let value = Expr::Lanes((0..self.lanes).flat_map(lane).collect());
        let index = self.lanes_of(&self.vectors).at(index, 0);
        self.stores += 2;
        out.push(Stmt::Store { buf: *buf, index, value });
        Some(out)
    }

    fn statement(&mut self, s: &Stmt) -> Option<Stmt> {
        match s {
            Stmt::Let { var, value } => {
                if !self.lanes_of(&self.vectors).differs(value) {
                    return Some(s.clone());
                }
                let value = self.value(value)?;
                Some(Stmt::Let { var: self.vector_var(*var), value })
            }
            // What is set later may differ then.
            Stmt::Declare { var, value } => {
                let value = self.value(value)?;
                Some(Stmt::Declare { var: self.vector_var(*var), value })
            }
            Stmt::Set { var, value } => {
                let value = self.value(value)?;
                let (_, var) = *self.vectors.iter().find(|(v, _)| v == var)?;
                Some(Stmt::Set { var, value })
            }
            Stmt::Store { buf, index, value } => {
                let l = self.lanes_of(&self.vectors);
                if l.stride(index) != Some(1) {
                    return None;
                }
                let index = l.at(index, 0);
                self.stores += 1;
                Some(Stmt::Store { buf: *buf, index, value: self.value(value)? })
            }
            Stmt::For { var, lo, hi, step, parallel, body } => {
                let l = self.lanes_of(&self.vectors);
                if l.differs(lo) || l.differs(hi) {
                    return None;
                }
                let body = self.block(body)?;
                Some(Stmt::For { var: *var, lo: lo.clone(), hi: hi.clone(), step: *step, parallel: *parallel, body })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenon_kernel::{Access, KernelBuilder};

    /// Whether the vectorised kernel that `f` builds has vector loads and stores at all.
    fn vectorised(f: impl FnOnce(&mut KernelBuilder, Buf, Buf), reassociate: bool) -> bool {
        vectorised_for("x86_64-linux", f, reassociate)
    }

    fn vectorised_for(target: &str, f: impl FnOnce(&mut KernelBuilder, Buf, Buf), reassociate: bool) -> bool {
        let mut k = KernelBuilder::new("k");
        let x = k.buffer("x", DType::F32, 2000, Access::In);
        let y = k.buffer("y", DType::F32, 2000, Access::Out);
        f(&mut k, x, y);
        let mut unit = Unit::new(k.finish(), vec![false; 2]);
        let target = Target::parse(target).expect("a target");
        run(&mut unit, &ScheduleCx::new(&target, reassociate));
        tenon_kernel::verify::verify_kernel(&unit.kernel, tenon_kernel::verify::Stage::Structured)
            .expect("well formed");
        let mut found = false;
        tenon_kernel::stmt::visit_stmts(&unit.kernel.body, &mut |s| {
            s.exprs(&mut |e| e.visit(&mut |e| found |= matches!(e, Expr::Load { lanes, .. } if *lanes > 1)));
        });
        found
    }

    fn sum(k: &mut KernelBuilder, x: Buf, y: Buf) {
        let acc = k.declare("acc", Expr::constant(DType::F32, 0.0));
        k.for_range("i", 0, 1000, |k, i| k.set(acc, Expr::Var(acc) + Expr::load(x, i)));
        k.parfor("j", 1000, |k, j| k.store(y, j, Expr::Var(acc)));
    }

    #[test]
    fn sums_only_where_their_order_is_free() {
        assert!(vectorised(sum, true));
        assert!(!vectorised(sum, false));
    }

    #[test]
    fn extremes_that_let_nan_through() {
        let extreme = |nan: bool| {
            move |k: &mut KernelBuilder, x: Buf, y: Buf| {
                let acc = k.declare("acc", Expr::constant(DType::F32, f64::INFINITY));
                k.for_range("i", 0, 1003, |k, i| {
                    let (so_far, x) = (Expr::Var(acc), Expr::load(x, i));
                    let test = if nan { is_nan(&so_far) } else { is_nan(&x) };
                    k.set(acc, test.select(so_far.clone(), so_far.min(x)));
                });
                k.parfor("j", 1000, |k, j| k.store(y, j, Expr::Var(acc)));
            }
        };
        assert!(vectorised(extreme(true), true));
        assert!(!vectorised(extreme(false), true));
        assert!(!vectorised(extreme(true), false));
    }

    #[test]
    fn any_loop_of_a_nest_whose_stores_are_consecutive() {
        let nest = |sy: [i64; 2], sx: [i64; 2]| {
            vectorised(
                |k, x, y| {
                    k.parfor_nest(&[20, 50], |k, i| {
                        let at = |s: [i64; 2]| i[0].clone() * s[0] + i[1].clone() * s[1];
                        k.store(y, at(sy), Expr::load(x, at(sx)));
                    });
                },
                false,
            )
        };
        assert!(nest([50, 1], [50, 1]));
        assert!(nest([1, 20], [1, 20])); // the outer loop moves inside
        assert!(!nest([50, 1], [1, 20])); // a transposition: every load would be a gather
        assert!(!nest([2, 40], [1, 20]));
    }

    #[test]
    fn rows_that_alternate_are_woven() {
        let weave = |apart: i64| {
            move |k: &mut KernelBuilder, x: Buf, y: Buf| {
                k.parfor("i", 500, |k, i| {
                    k.store(y, i.clone() * 2, Expr::load(x, i.clone()));
                    k.store(y, i.clone() * 2 + apart, Expr::load(x, i.clone() + 500));
                });
            }
        };
        assert!(vectorised_for("x86_64-linux/x86-64-v3", weave(1), false));
        assert!(!vectorised_for("x86_64-linux", weave(1), false));
        assert!(!vectorised_for("x86_64-linux/x86-64-v3", weave(3), false));
    }

    #[test]
    fn a_sequential_loop_that_reads_what_it_wrote_stays() {
        let scan = |k: &mut KernelBuilder, x: Buf, y: Buf| {
            k.for_range("i", 1, 1000, |k, i| {
                let v = Expr::load(x, i.clone()) + Expr::load(y, i.clone() - 1);
                k.store(y, i, v);
            });
        };
        assert!(!vectorised(scan, true));
        let copy = |k: &mut KernelBuilder, x: Buf, y: Buf| {
            k.for_range("i", 0, 1000, |k, i| k.store(y, i.clone(), Expr::load(x, i)));
        };
        assert!(vectorised(copy, false));
    }

    #[test]
    fn a_repeated_row_is_consecutive_beside_terms_that_are_not_affine() {
        let nearest = |k: &mut KernelBuilder, x: Buf, y: Buf| {
            k.parfor_nest(&[20, 50], |k, i| {
                let at = i[0].clone() / 2 * 50 + i[1].clone();
                k.store(y, i[0].clone() * 50 + i[1].clone(), Expr::load(x, at));
            });
        };
        assert!(vectorised(nearest, false));
    }
}

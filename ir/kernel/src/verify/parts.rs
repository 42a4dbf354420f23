//! Parts of a kernel touch different memory.
//!
//! Each part is looked at as a kernel of its own, in which the loops that it runs have constant bounds. What it touches of
//! a buffer is first told as intervals of elements: as they are, or modulo the stride of an outer loop (parts of the columns
//! of a matrix are intervals of a row). Where these overlap, and there are indices with quotients and remainders, every index
//! is computed, as long as there are not too many.

use super::bounds;
use crate::interval::{Interval, interval};
use crate::linear::Linear;
use crate::stmt::{set_in, visit_stmts};
use crate::{BinOp, Buf, CmpOp, Expr, Facts, Kernel, Stmt, Tiles, UnOp, Var};
use std::collections::{BTreeMap, BTreeSet};
use tenon_base::{DType, Scalar};

/// Accesses and iterations around them that are computed one by one at most, over all parts.
const MAX_STEPS: u64 = 1 << 21;
/// Strides that are tried.
const MAX_STRIDES: usize = 8;

type Found = Vec<(Option<usize>, String)>;

/// All accesses of any part that could be out of bounds, and buffers of which two parts could touch the same element.
pub(super) fn check(kernel: &Kernel) -> Found {
    let count = kernel.parts.map_or(1, |p| p.count);
    let parts: Vec<Kernel> = (0..count).map(|k| kernel.part(k)).collect();
    let mut found: Found = vec![];
    for (k, part) in parts.iter().enumerate() {
        let here = bounds::check(part);
        found.extend(here.into_iter().map(|(_, message)| (None, format!("part {k}: {message}"))));
        if !found.is_empty() {
            return found;
        }
    }
    let class = classes(kernel);
    let mut written: BTreeSet<usize> = BTreeSet::new();
    visit_stmts(&kernel.body, &mut |s| {
        written.extend(s.written().map(|buf| class[buf.0 as usize]));
    });
    if count < 2 || written.is_empty() {
        return found;
    }
    let mut touched: BTreeMap<usize, Vec<Touch>> = BTreeMap::new();
    for (k, part) in parts.iter().enumerate() {
        let mut w =
            Walker { kernel: part, facts: Facts::new(part), class: &class, written: &written, part: k, touched };
        w.block(&part.body);
        touched = w.touched;
    }
    let open: BTreeSet<usize> = touched.iter().filter(|(_, t)| !apart(t, count)).map(|(c, _)| *c).collect();
    let lost = open.iter().find(|c| touched[c].iter().all(|t| t.affine)).copied();
    let lost = lost.or_else(|| count_all(&parts, &class, &open).err());
    if let Some(class_at_fault) = lost {
        let names = kernel.buffers.iter().enumerate().filter(|(i, _)| class[*i] == class_at_fault);
        let names: Vec<String> = names.map(|(_, b)| format!("%{}", b.name)).collect();
        found.push((None, format!("two parts may touch the same element of {}", names.join(" or "))));
    }
    found
}

/// A number for each buffer; those with the same number may be the same memory.
fn classes(kernel: &Kernel) -> Vec<usize> {
    let mut class: Vec<usize> = (0..kernel.buffers.len()).collect();
    for (a, b) in &kernel.in_place {
        let (from, to) = (class[a.0 as usize], class[b.0 as usize]);
        class.iter_mut().filter(|c| **c == from).for_each(|c| *c = to);
    }
    class
}

/// What one access touches: `base + Σ term`, each term a multiple of its stride and within its interval, and `lanes` elements
/// from there on.
struct Touch {
    part: usize,
    write: bool,
    /// First elements.
    whole: Interval,
    base: i128,
    terms: Vec<(i128, Interval)>,
    lanes: i128,
    /// The sum is one modulo 2⁶⁴ only.
    wraps: bool,
    /// A sum of multiples of loop variables, for which intervals tell what there is to tell.
    affine: bool,
}

/// Walks through one part and notes what it touches of buffers that the kernel writes.
struct Walker<'k> {
    kernel: &'k Kernel,
    facts: Facts<'k>,
    class: &'k [usize],
    written: &'k BTreeSet<usize>,
    part: usize,
    touched: BTreeMap<usize, Vec<Touch>>,
}

impl Walker<'_> {
    fn block(&mut self, body: &[Stmt]) {
        let mark = self.facts.enter();
        body.iter().for_each(|s| self.stmt(s));
        self.facts.leave(mark);
    }

    fn change(&mut self, body: &[Stmt]) {
        set_in(body).into_iter().for_each(|v| self.facts.change(v));
    }

    /// A variable that may be anything from here on.
    fn forget(&mut self, v: Var) {
        if !self.kernel.var(v).ty.elem.is_float() {
            self.facts.confine(v, Interval::of_type(self.kernel.var(v).ty.elem));
            self.facts.change(v);
        }
    }

    fn stmt(&mut self, s: &Stmt) {
        let mut loads: Vec<(Buf, &Expr, usize)> = vec![];
        s.exprs(&mut |e| {
            e.visit(&mut |e| {
                if let Expr::Load { buf, index, lanes } = e {
                    loads.push((*buf, &**index, usize::from(*lanes)));
                }
            });
        });
        if let Stmt::While { body, .. } = s {
            self.change(body);
        }
        if let Stmt::Contract(c) = s {
            for d in c.dims.iter().chain(&c.reduce) {
                self.facts.iterate(d.var, &Expr::int(0), &Expr::from(d.extent), 1);
            }
        }
        if let Stmt::Tiles(t) = s {
            for d in &t.reduce {
                self.facts.iterate(d.var, &Expr::int(0), &Expr::from(d.extent), 1);
            }
            loads.extend(t.reads(self.kernel));
        }
        for (buf, index, lanes) in loads {
            self.touch(buf, index, lanes, false);
        }
        match s {
            Stmt::Let { var, value } => self.facts.bind(*var, value),
            Stmt::Declare { var, .. } | Stmt::Set { var, .. } => self.forget(*var),
            Stmt::Store { buf, index, value } => {
                self.touch(*buf, index, self.kernel.type_of(value).lanes.into(), true)
            }
            Stmt::Prefetch { .. } => {}
            Stmt::For { var, lo, hi, step, body, .. } => {
                let mark = self.facts.enter();
                if self.facts.iterate(*var, lo, hi, *step) {
                    self.change(body);
                    self.block(body);
                    self.change(body);
                }
                self.facts.leave(mark);
            }
            Stmt::If { cond, then, otherwise } => {
                for (outcome, body) in [(true, then), (false, otherwise)] {
                    let mark = self.facts.enter();
                    self.facts.assume(cond, outcome);
                    self.block(body);
                    self.facts.leave(mark);
                }
                self.change(then);
                self.change(otherwise);
            }
            Stmt::While { body, .. } => {
                self.block(body);
                self.change(body);
            }
            Stmt::Contract(c) => self.touch(c.out, &c.out_index, 1, true),
            Stmt::Tiles(t) => self.touch(t.out, &t.out_index, t.height().saturating_mul(t.columns()), true),
        }
    }

    fn touch(&mut self, buf: Buf, index: &Expr, lanes: usize, write: bool) {
        let class = self.class[buf.0 as usize];
        if !self.written.contains(&class) {
            return;
        }
        let sum = Linear::of(index, &|v| self.facts.inline(v));
        let term =
            |(atom, c): &(Expr, i128)| (c.abs(), interval(atom, &self.facts).meet(self.facts.known(atom)).scaled(*c));
        let terms: Vec<(i128, Interval)> = sum.terms.iter().map(term).collect();
        let range = terms.iter().fold(Interval::point(sum.base), |i, (_, by)| i.plus(*by));
        let touch = Touch {
            part: self.part,
            write,
            whole: self.facts.interval(index),
            base: sum.base,
            // A sum that could wrap is no sum of integers.
            terms: if range.within(Interval::of_type(DType::I64)) { terms } else { vec![] },
            lanes: lanes as i128,
            affine: sum.terms.iter().all(|(atom, _)| matches!(atom, Expr::Var(_))),
            wraps: !range.within(Interval::of_type(DType::I64)),
        };
        self.touched.entry(class).or_default().push(touch);
    }
}

/// Whether the parts touch different elements, as far as intervals tell.
fn apart(touches: &[Touch], parts: usize) -> bool {
    let mut strides: Vec<i128> = touches.iter().flat_map(|t| t.terms.iter().map(|(c, _)| *c)).collect();
    strides.sort_unstable_by_key(|c| std::cmp::Reverse(*c));
    strides.dedup();
    let modulo = strides.into_iter().take(MAX_STRIDES).map(Some);
    std::iter::once(None).chain(modulo).any(|m| intervals(touches, parts, m).is_some_and(disjoint))
}

/// The elements of each part, modulo `stride` if there is one; `None` where they do not fit below it.
fn intervals(touches: &[Touch], parts: usize, stride: Option<i128>) -> Option<Vec<Vec<(i128, i128)>>> {
    let mut of = vec![vec![]; parts];
    for t in touches {
        let (lo, hi) = match stride {
            None => (t.whole.lo, t.whole.hi + t.lanes),
            Some(_) if t.wraps => return None,
            Some(m) => {
                let rest = t.terms.iter().filter(|(c, _)| c % m != 0);
                let i = rest.fold(Interval::point(t.base), |i, (_, by)| i.plus(*by));
                let lo = i.lo.rem_euclid(m);
                let hi = lo + (i.hi - i.lo) + t.lanes;
                if hi > m {
                    return None;
                }
                (lo, hi)
            }
        };
        of[t.part].push((lo, hi));
    }
    Some(of)
}

/// Whether no interval of one part meets one of another.
fn disjoint(mut of: Vec<Vec<(i128, i128)>>) -> bool {
    let mut all: Vec<(i128, i128, usize)> = vec![];
    for (part, list) in of.iter_mut().enumerate() {
        list.sort_unstable();
        let mut merged: Vec<(i128, i128)> = vec![];
        for &(lo, hi) in list.iter() {
            match merged.last_mut() {
                Some(last) if lo <= last.1 => last.1 = last.1.max(hi),
                _ => merged.push((lo, hi)),
            }
        }
        all.extend(merged.into_iter().map(|(lo, hi)| (lo, hi, part)));
    }
    all.sort_unstable();
    all.windows(2).all(|w| w[0].1 <= w[1].0)
}

/// What of a part decides where it touches the buffers in question.
enum Node<'k> {
    Let(Var, &'k Expr),
    Forget(Var),
    For(Var, &'k Expr, &'k Expr, i64, Vec<Node<'k>>),
    /// What only runs under a condition, which may hold or not.
    Both(Vec<Node<'k>>),
    /// A class, an index, lanes, and whether it is written.
    Touch(usize, &'k Expr, usize, bool),
    /// Beyond computing.
    Unknown(usize),
}

/// Computes every index of the buffers in classes `open`.
///
/// # Errors
/// A class of which two parts touch one element, or may do so.
fn count_all(parts: &[Kernel], class: &[usize], open: &BTreeSet<usize>) -> Result<(), usize> {
    let any = open.first().copied().unwrap_or(0);
    let mut owner: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    let mut fuel = MAX_STEPS;
    for (k, part) in parts.iter().enumerate() {
        let nodes = reduced(part, &part.body, class, open);
        for (i, b) in part.buffers.iter().enumerate().filter(|(i, _)| open.contains(&class[*i])) {
            let len = owner.entry(class[i]).or_default();
            len.resize(len.len().max(b.len), 0);
        }
        let env = vec![None; part.vars.len()];
        let mut c = Counter { writes_only: false, env, owner, part: k as u8 + 1, fuel };
        let done = c.block(&nodes);
        (owner, fuel) = (c.owner, c.fuel);
        done.map_err(|c| c.unwrap_or(any))?;
    }
    Ok(())
}

fn reduced<'k>(kernel: &Kernel, body: &'k [Stmt], class: &[usize], open: &BTreeSet<usize>) -> Vec<Node<'k>> {
    let mut nodes = vec![];
    for s in body {
        s.exprs(&mut |e| {
            e.visit(&mut |e| {
                if let Expr::Load { buf, index, lanes } = e
                    && open.contains(&class[buf.0 as usize])
                {
                    nodes.push(Node::Touch(class[buf.0 as usize], index, usize::from(*lanes), false));
                }
            });
        });
        match s {
            Stmt::Let { var, value } => nodes.push(Node::Let(*var, value)),
            Stmt::Declare { var, .. } | Stmt::Set { var, .. } => nodes.push(Node::Forget(*var)),
            Stmt::Store { buf, index, value } if open.contains(&class[buf.0 as usize]) => {
                let lanes = kernel.type_of(value).lanes.into();
                nodes.push(Node::Touch(class[buf.0 as usize], index, lanes, true));
            }
            Stmt::Store { .. } | Stmt::Prefetch { .. } => {}
            Stmt::For { var, lo, hi, step, body, .. } => {
                let inner = reduced(kernel, body, class, open);
                if touches(&inner) {
                    nodes.push(Node::For(*var, lo, hi, *step, inner));
                }
            }
            Stmt::If { then, otherwise, .. } => {
                nodes.push(Node::Both(reduced(kernel, then, class, open)));
                nodes.push(Node::Both(reduced(kernel, otherwise, class, open)));
            }
            Stmt::While { body, .. } => {
                if touches(&reduced(kernel, body, class, open)) {
                    nodes.push(Node::Unknown(open.first().copied().unwrap_or(0)));
                }
            }
            Stmt::Contract(c) => nodes.push(Node::Unknown(class[c.out.0 as usize])),
            Stmt::Tiles(t) => nodes.extend(tile_touches(kernel, t, class, open)),
        }
    }
    nodes
}

/// What tiles touch of open classes: every run on its own, gaps between rows included.
fn tile_touches<'k>(kernel: &Kernel, t: &'k Tiles, class: &[usize], open: &BTreeSet<usize>) -> Vec<Node<'k>> {
    let is_open = |buf: Buf| open.contains(&class[buf.0 as usize]);
    let mut nodes: Vec<Node<'k>> = t
        .reads(kernel)
        .into_iter()
        .filter(|(buf, ..)| is_open(*buf))
        .map(|(buf, index, lanes)| Node::Touch(class[buf.0 as usize], index, lanes, false))
        .collect();
    if !nodes.is_empty() && !t.reduce.is_empty() {
        // Loops that are not statements.
        return vec![Node::Unknown(class[t.out.0 as usize])];
    }
    if is_open(t.out) {
        nodes.push(Node::Touch(class[t.out.0 as usize], &t.out_index, t.height().saturating_mul(t.columns()), true));
    }
    nodes
}

fn touches(nodes: &[Node<'_>]) -> bool {
    nodes.iter().any(|n| match n {
        Node::Touch(..) | Node::Unknown(_) => true,
        Node::For(.., inner) | Node::Both(inner) => touches(inner),
        Node::Let(..) | Node::Forget(_) => false,
    })
}

struct Counter {
    /// Only what is written for certain counts.
    writes_only: bool,
    env: Vec<Option<i64>>,
    /// For each element of a class, which part touches it; 0 for none.
    owner: BTreeMap<usize, Vec<u8>>,
    part: u8,
    fuel: u64,
}

impl Counter {
    fn block(&mut self, nodes: &[Node<'_>]) -> Result<(), Option<usize>> {
        for n in nodes {
            match n {
                Node::Let(v, e) => self.env[v.0 as usize] = self.value(e),
                Node::Forget(v) => self.env[v.0 as usize] = None,
                Node::For(v, lo, hi, step, body) => {
                    let (Some(mut i), Some(hi)) = (self.value(lo), self.value(hi)) else { return Err(None) };
                    while i < hi {
                        // Loops around a loop without iterations touch nothing, but take their time.
                        self.fuel = self.fuel.checked_sub(1).ok_or(None)?;
                        self.env[v.0 as usize] = Some(i);
                        self.block(body)?;
                        i = i.checked_add(*step).ok_or(None)?;
                    }
                }
                Node::Both(_) if self.writes_only => {}
                Node::Both(body) => self.block(body)?,
                Node::Touch(.., false) if self.writes_only => {}
                Node::Touch(class, index, lanes, _) => {
                    self.fuel = self.fuel.checked_sub(1).ok_or(Some(*class))?;
                    let at = self.value(index).and_then(|i| usize::try_from(i).ok()).ok_or(Some(*class))?;
                    let owner = self.owner.get_mut(class).and_then(|o| o.get_mut(at..at.checked_add(*lanes)?));
                    for o in owner.ok_or(Some(*class))? {
                        if *o != 0 && *o != self.part {
                            return Err(Some(*class));
                        }
                        *o = self.part;
                    }
                }
                Node::Unknown(class) => return Err(Some(*class)),
            }
        }
        Ok(())
    }

    /// The value of an integer expression of constants and known variables.
    fn value(&self, e: &Expr) -> Option<i64> {
        Some(match e {
            Expr::Const(Scalar::Int(DType::I64 | DType::Bool, v)) => i64::try_from(*v).ok()?,
            Expr::Var(v) => self.env[v.0 as usize]?,
            Expr::Unary(UnOp::Neg, x) => self.value(x)?.wrapping_neg(),
            Expr::Binary(op, xy) => {
                let (x, y) = (self.value(&xy[0])?, self.value(&xy[1])?);
                match op {
                    BinOp::Add => x.wrapping_add(y),
                    BinOp::Sub => x.wrapping_sub(y),
                    BinOp::Mul => x.wrapping_mul(y),
                    BinOp::Div => x.checked_div(y)?,
                    BinOp::Rem => x.checked_rem(y)?,
                    BinOp::Min => x.min(y),
                    BinOp::Max => x.max(y),
                    BinOp::And => x & y,
                    BinOp::Or => x | y,
                    _ => return None,
                }
            }
            Expr::Compare(op, xy) => {
                let (x, y) = (self.value(&xy[0])?, self.value(&xy[1])?);
                i64::from(match op {
                    CmpOp::Eq => x == y,
                    CmpOp::Ne => x != y,
                    CmpOp::Lt => x < y,
                    CmpOp::Le => x <= y,
                    CmpOp::Gt => x > y,
                    CmpOp::Ge => x >= y,
                })
            }
            Expr::Select(b) => self.value(if self.value(&b[0])? != 0 { &b[1] } else { &b[2] })?,
            _ => return None,
        })
    }
}

/// Whether `body`, statements of `kernel` that run one after the other, reads of buffer `buf` only what it has written before:
/// every element between the first and the last that a statement can read was written by the statements before it.
pub fn writes_before_reading(kernel: &Kernel, body: &[&Stmt], buf: Buf) -> bool {
    let class: Vec<usize> = (0..kernel.buffers.len()).collect();
    let of = BTreeSet::from([buf.0 as usize]);
    let mut owner = BTreeMap::from([(buf.0 as usize, vec![0u8; kernel.buffer(buf).len])]);
    let mut fuel = MAX_STEPS;
    for s in body {
        let (facts, touched) = (Facts::new(kernel), BTreeMap::new());
        let mut w = Walker { kernel, facts, class: &class, written: &of, part: 0, touched };
        w.block(std::slice::from_ref(*s));
        let reads = w.touched.into_values().flatten().filter(|t| !t.write);
        let here = &owner[&(buf.0 as usize)];
        for t in reads {
            let range = usize::try_from(t.whole.lo).ok().zip(usize::try_from(t.whole.hi + t.lanes).ok());
            if !range.and_then(|(lo, hi)| here.get(lo..hi)).is_some_and(|r| r.iter().all(|o| *o == 1)) {
                return false;
            }
        }
        let nodes = reduced(kernel, std::slice::from_ref(*s), &class, &of);
        let env = vec![None; kernel.vars.len()];
        let mut c = Counter { writes_only: true, env, owner, part: 1, fuel };
        let done = c.block(&nodes);
        (owner, fuel) = (c.owner, c.fuel);
        if done.is_err() {
            return false;
        }
    }
    true
}

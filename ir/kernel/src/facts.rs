//! What is known of a kernel's variables at one point of its body.

use crate::interval::{INFINITY, Interval, elem, interval};
use crate::linear::Linear;
use crate::{BinOp, Buf, CmpOp, Expr, Kernel, UnOp, Var};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use tenon_base::DType;

/// How many sub-expressions one question may visit before the answer is "unknown": hostile kernels nest comparisons.
const FUEL: u32 = 20_000;
/// How many loop variables one bound may be traced through.
const SUBSTITUTIONS: u32 = 4;

/// What is known of one variable.
#[derive(Clone, Debug)]
struct VarFacts {
    interval: Interval,
    /// When it was entered; later ones are defined by earlier ones.
    order: usize,
    /// It keeps its value while it is in scope.
    fixed: bool,
    /// A `let` of a sum of variables that never change: that sum.
    inline: Option<Linear>,
    /// A loop variable is at least each of these and at most each of those.
    at_least: Vec<Linear>,
    at_most: Vec<Linear>,
}

/// A sum (without constant) whose value a condition has confined.
#[derive(Clone, Debug)]
struct Fact {
    terms: Linear,
    interval: Interval,
    /// A variable in it has changed.
    stale: bool,
}

/// What is known of variables: loop ranges, `let`s, conditions that hold.
///
/// A walk over a kernel enters what it meets; leaving a block is [`Facts::leave`].
#[derive(Clone, Debug)]
pub struct Facts<'k> {
    kernel: Option<&'k Kernel>,
    vars: BTreeMap<Var, VarFacts>,
    facts: Vec<Fact>,
    /// How many variables were entered so far.
    entered: usize,
    fuel: Cell<u32>,
}

impl<'k> Facts<'k> {
    /// Nothing is known but the types of `kernel`'s variables and buffers.
    pub fn new(kernel: &'k Kernel) -> Facts<'k> {
        Facts { kernel: Some(kernel), vars: BTreeMap::new(), facts: vec![], entered: 0, fuel: Cell::new(FUEL) }
    }

    /// `i64` variables in their ranges, without a kernel around them.
    pub fn of_ranges(ranges: impl IntoIterator<Item = (Var, Interval)>) -> Facts<'static> {
        let mut facts =
            Facts { kernel: None, vars: BTreeMap::new(), facts: vec![], entered: 0, fuel: Cell::new(FUEL) };
        for (v, i) in ranges {
            facts.insert(v, i, true);
        }
        facts
    }

    fn insert(&mut self, v: Var, interval: Interval, fixed: bool) -> &mut VarFacts {
        let order = self.entered;
        self.entered += 1;
        let facts = VarFacts { interval, order, fixed, inline: None, at_least: vec![], at_most: vec![] };
        match self.vars.entry(v) {
            Entry::Occupied(mut e) => {
                e.insert(facts);
                e.into_mut()
            }
            Entry::Vacant(e) => e.insert(facts),
        }
    }

    /// Whether every atom of `l` keeps its value while the variables in it are in scope.
    fn is_fixed(&self, l: &Linear) -> bool {
        let mut fixed = true;
        for (atom, _) in &l.terms {
            atom.visit(&mut |e| {
                fixed &= match e {
                    Expr::Load { .. } => false,
                    Expr::Var(v) => self.vars.get(v).is_some_and(|f| f.fixed),
                    _ => true,
                }
            });
        }
        fixed
    }

    pub(crate) fn var_type(&self, v: Var) -> Option<DType> {
        match self.kernel {
            Some(k) => k.vars.get(v.0 as usize).map(|v| v.ty.elem),
            None => self.vars.contains_key(&v).then_some(DType::I64),
        }
    }

    pub(crate) fn buffer_type(&self, b: Buf) -> Option<DType> {
        self.kernel.and_then(|k| k.buffers.get(b.0 as usize)).map(|b| b.dtype)
    }

    /// One step of work; false when there was enough of it.
    pub(crate) fn spend(&self) -> bool {
        let fuel = self.fuel.get();
        self.fuel.set(fuel.saturating_sub(1));
        fuel > 0
    }

    /// The values of `e`.
    pub fn interval(&self, e: &Expr) -> Interval {
        self.fuel.set(FUEL);
        interval(e, self)
    }

    /// The values of `v` by its definition.
    pub(crate) fn var(&self, v: Var) -> Interval {
        match self.vars.get(&v) {
            Some(f) => f.interval,
            None => self.var_type(v).map_or(Interval::new(-INFINITY, INFINITY), Interval::of_type),
        }
    }

    /// The sum that `v` stands for.
    pub(crate) fn inline(&self, v: Var) -> Option<Linear> {
        self.vars.get(&v).and_then(|f| f.inline.clone())
    }

    /// What conditions say of `atom`.
    pub(crate) fn known(&self, atom: &Expr) -> Interval {
        let fits = |f: &&Fact| !f.stale && matches!(f.terms.terms.as_slice(), [(a, 1)] if a == atom);
        let all = Interval::new(-INFINITY, INFINITY);
        self.facts.iter().filter(fits).fold(all, |i, f| i.meet(f.interval))
    }

    /// The values of a sum of integers; `None` where nothing is known.
    pub(crate) fn sum_of(&self, l: &Linear) -> Option<Interval> {
        self.fuel.set(FUEL);
        Some(self.sum(l)).filter(|i| i.lo > -INFINITY && i.hi < INFINITY)
    }

    /// The values of a sum of integers.
    pub(crate) fn sum(&self, l: &Linear) -> Interval {
        let plain = self.plain_sum(l);
        if !l.terms.iter().any(|t| self.is_traced(t)) {
            return plain;
        }
        let lo = l.scaled(-1).map_or(plain.lo, |l| -self.upper(&l, -plain.lo, SUBSTITUTIONS));
        plain.meet(Interval::new(lo, self.upper(l, plain.hi, SUBSTITUTIONS)))
    }

    /// Whether a term is of the variable of a loop that has bounds in terms of others.
    fn is_traced(&self, (atom, _): &(Expr, i128)) -> bool {
        match atom {
            Expr::Var(v) => self.vars.get(v).is_some_and(|f| !f.at_least.is_empty() || !f.at_most.is_empty()),
            _ => false,
        }
    }

    /// Term by term, and with what conditions say of parts of the sum.
    fn plain_sum(&self, l: &Linear) -> Interval {
        let of = |l: &Linear| {
            l.terms.iter().fold(Interval::point(l.base), |sum, (atom, c)| {
                sum.plus(interval(atom, self).meet(self.known(atom)).scaled(*c))
            })
        };
        let best = of(l);
        let (mut rest, mut confined) = (l.clone(), Interval::point(0));
        for f in self.facts.iter().rev().filter(|f| !f.stale && f.terms.terms.len() > 1) {
            let (first, c) = &f.terms.terms[0];
            let factor = rest.coefficient(first) / c;
            if factor == 0 || f.terms.terms.iter().any(|(a, c)| rest.coefficient(a) != c.saturating_mul(factor)) {
                continue;
            }
            if let Some(r) = rest.clone().plus(&f.terms, -factor) {
                rest = r;
                confined = confined.plus(of(&f.terms).meet(f.interval).scaled(factor));
            }
        }
        if rest.terms.len() < l.terms.len() { best.meet(of(&rest).plus(confined)) } else { best }
    }

    /// An upper bound, tracing loop variables to the bounds of their loops; `plain` is one without that.
    fn upper(&self, l: &Linear, plain: i128, substitutions: u32) -> i128 {
        let mut best = plain;
        if substitutions == 0 || !self.spend() {
            return best;
        }
        let traced = l.terms.iter().filter_map(|(atom, c)| match atom {
            Expr::Var(v) => {
                let f = self.vars.get(v)?;
                let limits = if *c > 0 { &f.at_most } else { &f.at_least };
                (!limits.is_empty()).then_some((f.order, atom, limits))
            }
            _ => None,
        });
        // The innermost loop's variable first: its bounds are in terms of the outer ones.
        if let Some((_, atom, limits)) = traced.max_by_key(|(order, ..)| *order) {
            let mut rest = l.clone();
            let c = rest.take(atom);
            for limit in limits {
                if let Some(l) = rest.clone().plus(limit, c) {
                    best = best.min(self.upper(&l, self.plain_sum(&l).hi, substitutions - 1));
                }
            }
            // Or it is bounded best by a number, and another one by the loops around it: a window at an edge of an image.
            let range = interval(atom, self);
            let number = if c > 0 { range.hi } else { range.lo };
            if let Some(l) = number.checked_mul(c).and_then(|n| rest.plus(&Linear::constant(n), 1))
                && l.terms.iter().any(|t| self.is_traced(t))
            {
                best = best.min(self.upper(&l, plain, substitutions - 1));
            }
        }
        best
    }

    /// The sum that `e` is, if it cannot wrap.
    fn exact(&self, e: &Expr) -> Option<Linear> {
        let l = Linear::of(e, &|v| self.inline(v));
        self.sum(&l).within(Interval::of_type(DType::I64)).then_some(l)
    }

    /// The values of `x - y` before wrapping, if neither wraps itself.
    pub(crate) fn difference(&self, x: &Expr, y: &Expr) -> Option<Interval> {
        Some(self.sum(&self.exact(x)?.plus(&self.exact(y)?, -1)?))
    }

    /// Begins a block; the result is for [`Facts::leave`].
    pub fn enter(&self) -> usize {
        self.facts.len()
    }

    /// Ends a block: conditions met since `mark` no longer hold.
    pub fn leave(&mut self, mark: usize) {
        self.facts.truncate(mark);
    }

    /// `let v = value`
    pub fn bind(&mut self, v: Var, value: &Expr) {
        let interval = self.interval(value);
        let is_index = self.var_type(v) == Some(DType::I64);
        let inline = if is_index { self.exact(value).filter(|l| self.is_fixed(l)) } else { None };
        self.insert(v, interval, true).inline = inline;
    }

    /// `v` is within `interval`, whatever its value is at one time.
    pub fn confine(&mut self, v: Var, interval: Interval) {
        self.insert(v, interval, false);
    }

    /// `v` has just been given a value within `interval`; holds until it changes.
    pub fn give(&mut self, v: Var, interval: Interval) {
        self.change(v);
        self.facts.push(Fact { terms: Linear::atom(Expr::Var(v)), interval, stale: false });
    }

    /// `v` may have changed: forgets what conditions said of it.
    pub fn change(&mut self, v: Var) {
        for f in &mut self.facts {
            f.stale |= f.terms.terms.iter().any(|(a, _)| a.uses(v));
        }
    }

    /// `v` runs over `lo..hi` in steps, until [`Facts::leave`] of what was entered before. False if there is no
    /// iteration.
    pub fn iterate(&mut self, v: Var, lo: &Expr, hi: &Expr, step: i64) -> bool {
        let (l, h) = (self.interval(lo), self.interval(hi));
        if h.hi <= l.lo {
            return false;
        }
        // The last value is `lo` plus a whole number of steps.
        let last = |span: i128| (span - 1).div_euclid(i128::from(step)) * i128::from(step);
        let span = self.difference(hi, lo).map_or(h.hi - l.lo, |d| d.hi.min(h.hi - l.lo));
        if span <= 0 {
            return false;
        }
        let mut at_least = self.limits(lo, BinOp::Max);
        let mut at_most = self.limits(hi, BinOp::Min);
        at_most.iter_mut().for_each(|l| l.base -= 1);
        at_most.extend(self.exact(lo).and_then(|l| l.plus(&Linear::constant(last(span)), 1)));
        for limits in [&mut at_least, &mut at_most] {
            limits.retain(|l| self.is_fixed(l));
        }
        // In the body, each lower bound is at most each upper one.
        for (l, u) in at_least.iter().flat_map(|l| at_most.iter().map(move |u| (l, u))) {
            if let Some(difference) = l.clone().plus(u, -1) {
                self.learn(difference, Interval::new(-INFINITY, 0));
            }
        }
        for limits in [&mut at_least, &mut at_most] {
            limits.retain(|l| l.as_constant().is_none());
        }
        let interval = Interval::new(l.lo, (h.hi - 1).min(l.hi.saturating_add(last(span))));
        let facts = self.insert(v, interval, true);
        (facts.at_least, facts.at_most) = (at_least, at_most);
        true
    }

    /// The operands of nested `op`s in `e`, as sums: each is a bound of `e`.
    fn limits(&self, e: &Expr, op: BinOp) -> Vec<Linear> {
        let whole = self.exact(e);
        let inner = match &whole {
            Some(Linear { base: 0, terms }) if matches!(terms.as_slice(), [(_, 1)]) => &terms[0].0,
            _ => e,
        };
        match inner {
            Expr::Binary(o, b) if *o == op => b.iter().flat_map(|e| self.limits(e, op)).collect(),
            _ => whole.into_iter().collect(),
        }
    }

    /// The scalar condition `cond` came out as `outcome`.
    pub fn assume(&mut self, cond: &Expr, outcome: bool) {
        match cond {
            Expr::Unary(UnOp::Not, x) => self.assume(x, !outcome),
            Expr::Binary(BinOp::And, b) if outcome => b.iter().for_each(|e| self.assume(e, true)),
            Expr::Binary(BinOp::Or, b) if !outcome => b.iter().for_each(|e| self.assume(e, false)),
            Expr::Compare(op, b) => self.assume_compare(if outcome { *op } else { negated(*op) }, &b[0], &b[1]),
            _ => {}
        }
    }

    fn assume_compare(&mut self, op: CmpOp, x: &Expr, y: &Expr) {
        self.fuel.set(FUEL);
        let mut loads = false;
        [x, y].iter().for_each(|e| e.visit(&mut |e| loads |= matches!(e, Expr::Load { .. })));
        if loads || elem(x, self).or_else(|| elem(y, self)) != Some(DType::I64) {
            return; // what is loaded may be stored to before the next load
        }
        let (Some(a), Some(b)) = (self.exact(x), self.exact(y)) else {
            return;
        };
        let holds = match op {
            CmpOp::Eq => Interval::point(0),
            CmpOp::Ne => return,
            CmpOp::Lt => Interval::new(-INFINITY, -1),
            CmpOp::Le => Interval::new(-INFINITY, 0),
            CmpOp::Gt => Interval::new(1, INFINITY),
            CmpOp::Ge => Interval::new(0, INFINITY),
        };
        if let Some(difference) = a.plus(&b, -1) {
            self.learn(difference, holds);
        }
    }

    /// The sum `terms`, of integers, is within `holds`.
    fn learn(&mut self, mut terms: Linear, holds: Interval) {
        let mut holds = holds.plus(Interval::point(-terms.base));
        terms.base = 0;
        match terms.terms.first() {
            None => return,
            Some((_, c)) if *c < 0 => {
                terms.terms.iter_mut().for_each(|(_, c)| *c = -*c);
                holds = holds.scaled(-1);
            }
            _ => {}
        }
        if let [(_, c)] = terms.terms.as_mut_slice() {
            // c·x within an interval: x within the interval divided, rounded inwards.
            let down = |v: i128| if v >= INFINITY { v } else { v.div_euclid(*c) };
            holds = Interval::new(-down(-holds.lo), down(holds.hi));
            *c = 1;
        }
        let interval = self.plain_sum(&terms).meet(holds);
        self.facts.push(Fact { terms, interval, stale: false });
    }
}

fn negated(op: CmpOp) -> CmpOp {
    match op {
        CmpOp::Eq => CmpOp::Ne,
        CmpOp::Ne => CmpOp::Eq,
        CmpOp::Lt => CmpOp::Ge,
        CmpOp::Le => CmpOp::Gt,
        CmpOp::Gt => CmpOp::Le,
        CmpOp::Ge => CmpOp::Lt,
    }
}

//! Every load and store is within its buffer.

use crate::interval::Interval;
use crate::stmt::{set_in, visit_stmts};
use crate::{Buf, Contract, Expr, Facts, Kernel, Stmt, Tiles, Var};
use std::collections::{BTreeMap, BTreeSet};

/// Rounds after which a growing range of a variable is taken to have no end.
const PATIENCE: usize = 3;
/// Rounds after which all bets are off.
const MAX_ROUNDS: usize = 12;

/// All accesses that could be out of bounds.
pub(super) fn check(kernel: &Kernel) -> Vec<(Option<usize>, String)> {
    let mut c = Checker {
        kernel,
        facts: Facts::new(kernel),
        ranges: BTreeMap::new(),
        grown: false,
        round: 0,
        next: 0,
        found: vec![],
    };
    // The range of a `var` covers every value it is ever given, which may depend on its range: begin with none and
    // grow until nothing changes. Ranges that keep growing go to the end of their type.
    loop {
        (c.grown, c.next) = (false, 0);
        c.found.clear();
        c.facts = Facts::new(kernel);
        c.block(&kernel.body);
        c.round += 1;
        if !c.grown {
            return c.found;
        }
    }
}

struct Checker<'k> {
    kernel: &'k Kernel,
    facts: Facts<'k>,
    /// What each `var` is known to be given.
    ranges: BTreeMap<Var, Interval>,
    /// A range has grown in this round.
    grown: bool,
    round: usize,
    /// The next statement's number.
    next: usize,
    found: Vec<(Option<usize>, String)>,
}

impl Checker<'_> {
    /// Passes over `body` without looking at it.
    fn skip(&mut self, body: &[Stmt]) {
        visit_stmts(body, &mut |_| self.next += 1);
    }

    fn block(&mut self, body: &[Stmt]) {
        let mark = self.facts.enter();
        for s in body {
            let at = self.next;
            self.next += 1;
            self.stmt(s, at);
        }
        self.facts.leave(mark);
    }

    fn change(&mut self, vars: &BTreeSet<Var>) {
        vars.iter().for_each(|v| self.facts.change(*v));
    }

    /// A block that runs only where `cond` came out as `outcome`.
    fn guarded(&mut self, cond: &Expr, outcome: bool, body: &[Stmt]) {
        let never = Interval::point(i128::from(!outcome));
        if self.facts.interval(cond) == never {
            return self.skip(body);
        }
        let mark = self.facts.enter();
        self.facts.assume(cond, outcome);
        self.block(body);
        self.facts.leave(mark);
    }

    fn stmt(&mut self, s: &Stmt, at: usize) {
        s.exprs(&mut |e| {
            if !matches!(s, Stmt::Contract(_) | Stmt::Tiles(_) | Stmt::While { .. }) {
                self.loads(e, at);
            }
        });
        match s {
            Stmt::Let { var, value } => self.facts.bind(*var, value),
            Stmt::Declare { var, value } | Stmt::Set { var, value } => self.give(*var, value),
            Stmt::Store { buf, index, value } => {
                self.access(*buf, index, self.kernel.type_of(value).lanes.into(), at)
            }
            Stmt::Prefetch { .. } => {}
            Stmt::For { var, lo, hi, step, body, .. } => {
                let (set, mark) = (set_in(body), self.facts.enter());
                if self.facts.iterate(*var, lo, hi, *step) {
                    self.change(&set);
                    self.block(body);
                    self.change(&set);
                } else {
                    self.skip(body);
                }
                self.facts.leave(mark);
            }
            Stmt::If { cond, then, otherwise } => {
                self.guarded(cond, true, then);
                // A change in one branch is not seen in the other, but after both.
                self.guarded(cond, false, otherwise);
                let mut set = set_in(then);
                set.extend(set_in(otherwise));
                self.change(&set);
            }
            Stmt::While { cond, body } => {
                let set = set_in(body);
                self.change(&set);
                self.loads(cond, at);
                self.guarded(cond, true, body);
                self.change(&set);
                self.facts.assume(cond, false);
            }
            Stmt::Contract(c) => self.contract(c, at),
            Stmt::Tiles(t) => self.tiles(t, at),
        }
    }

    fn tiles(&mut self, t: &Tiles, at: usize) {
        self.access(t.out, &t.out_index, t.height().saturating_mul(t.columns()), at);
        let mark = self.facts.enter();
        for d in &t.reduce {
            self.facts.iterate(d.var, &Expr::int(0), &Expr::from(d.extent), 1);
        }
        for (buf, index, elements) in t.reads(self.kernel) {
            self.access(buf, index, elements, at);
        }
        self.facts.leave(mark);
    }

    /// `var` is given `value`.
    fn give(&mut self, var: Var, value: &Expr) {
        if self.kernel.var(var).ty.elem.is_float() {
            return;
        }
        let value = self.facts.interval(value);
        self.grow(var, value);
        self.facts.confine(var, self.ranges[&var]);
        self.facts.give(var, value);
    }

    /// The range of `var` covers `value`.
    fn grow(&mut self, var: Var, value: Interval) {
        let all = Interval::of_type(self.kernel.var(var).ty.elem);
        let Some(&old) = self.ranges.get(&var) else {
            // Nothing has relied on less: without a range it could be anything.
            self.ranges.insert(var, value);
            return;
        };
        if value.within(old) {
            return;
        }
        self.grown = true;
        let mut new = old.hull(value);
        if self.round >= PATIENCE {
            new.lo = if new.lo < old.lo { all.lo } else { new.lo };
            new.hi = if new.hi > old.hi { all.hi } else { new.hi };
        }
        self.ranges.insert(var, new);
        if self.round >= MAX_ROUNDS {
            for (v, range) in &mut self.ranges {
                *range = range.hull(Interval::of_type(self.kernel.var(*v).ty.elem));
            }
        }
    }

    fn contract(&mut self, c: &Contract, at: usize) {
        for d in &c.dims {
            self.facts.iterate(d.var, &Expr::int(0), &Expr::from(d.extent), 1);
        }
        self.loads(&c.init, at);
        self.loads(&c.value, at);
        self.access(c.out, &c.out_index, 1, at);
        for d in &c.reduce {
            self.facts.iterate(d.var, &Expr::int(0), &Expr::from(d.extent), 1);
        }
        self.loads(&c.a, at);
        self.loads(&c.b, at);
    }

    /// All loads in `e` are within bounds.
    fn loads(&mut self, e: &Expr, at: usize) {
        let mut accesses = vec![];
        e.visit(&mut |e| {
            if let Expr::Load { buf, index, lanes } = e {
                accesses.push((*buf, &**index, *lanes));
            }
        });
        for (buf, index, lanes) in accesses {
            self.access(buf, index, lanes.into(), at);
        }
    }

    fn access(&mut self, buf: Buf, index: &Expr, lanes: usize, at: usize) {
        let b = self.kernel.buffer(buf);
        let i = self.facts.interval(index);
        let last = i.hi.saturating_add(lanes as i128);
        if i.lo < 0 || last > b.len as i128 {
            let end = |v: i128, no: i128| if v == no { "?".to_string() } else { v.to_string() };
            let (lo, hi) = (end(i.lo, i64::MIN.into()), end(i.hi, i64::MAX.into()));
            let what = if lanes == 1 { "an access".to_string() } else { format!("an access to {lanes} elements") };
            let message = format!("{what} at {lo}..={hi} of %{}, which has {}", b.name, b.len);
            if !self.found.contains(&(Some(at), message.clone())) {
                self.found.push((Some(at), message));
            }
        }
    }
}

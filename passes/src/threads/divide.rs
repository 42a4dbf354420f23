//! Which part does what.

use super::Threads;
use crate::cycles;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::verify::writes_before_reading;
use tenon_kernel::{Access, Affine, Buf, CmpOp, Expr, Kernel, Stmt, Type, Var};

/// How deep below a loop that does not divide evenly another one is looked for.
const MAX_DEPTH: usize = 4;
/// How much better a cut of an inner loop must be than that of the outer one: it is done again for every outer iteration.
const INNER_GAIN: f64 = 0.98;
/// How much better a cut must be than leaving a unit in one piece.
const CUT_GAIN: f64 = 0.995;

/// Bytes a cycle of what another core has computed, and of constants, which come from a cache that all share.
const FROM_ANOTHER: f64 = 2.0;
const SHARED: f64 = 8.0;

/// Statements that stay together.
pub(super) type Unit<'k> = Vec<&'k Stmt>;

/// Who runs a unit.
pub(super) enum Choice<'k> {
    /// One part, all of it.
    Whole(Unit<'k>, usize),
    /// Each part some iterations of a loop: how many.
    Cut(&'k Stmt, Vec<i64>),
    /// Every part all of it: it fills scratch buffers of which each has its own, for what is cut behind it.
    Each(Unit<'k>),
    /// All parts the loop, and inside it each something else.
    Inside(&'k Stmt, Vec<&'k Stmt>, Vec<Choice<'k>>),
}

/// A run of units in parts.
pub(super) struct Plan<'k> {
    /// Who runs what.
    pub(super) choices: Vec<Choice<'k>>,
    /// Cycles of the part that takes longest.
    pub(super) cycles: f64,
    /// Scratch buffers that each part has its own copy of.
    pub(super) private: Vec<Buf>,
}

/// A block: definitions that all parts have, and units, in order.
type Block<'k> = (Vec<&'k Stmt>, Vec<Unit<'k>>);

/// Divides a kernel.
pub(super) struct Divider<'k> {
    pub(super) kernel: &'k Kernel,
    /// The number of the part.
    pub(super) part: Var,
    pub(super) count: usize,
    /// Definitions that any unit may use, and that are cheap or needed by several: every part has them.
    pub(super) prelude: Vec<&'k Stmt>,
    pub(super) units: Vec<Unit<'k>>,
    /// Buffers that the kernel writes.
    written: BTreeSet<Buf>,
    /// Buffers that are constants wherever the kernel is called.
    constants: &'k BTreeSet<Buf>,
    threads: &'k Threads<'k>,
    costs: RefCell<BTreeMap<*const Stmt, f64>>,
    /// The blocks of loops, by the loop.
    blocks: RefCell<BTreeMap<*const Stmt, Block<'k>>>,
    /// Whether statements read only what they have written themselves.
    before: RefCell<BTreeMap<(Vec<*const Stmt>, Buf), bool>>,
}

/// The buffers that `body` reads and writes.
pub(super) fn touched<'s>(body: impl IntoIterator<Item = &'s Stmt>) -> (BTreeSet<Buf>, BTreeSet<Buf>) {
    let (mut reads, mut writes) = (BTreeSet::new(), BTreeSet::new());
    for s in body {
        visit_stmts(std::slice::from_ref(s), &mut |s| {
            writes.extend(s.written());
            s.exprs(&mut |e| {
                loads(e, &mut |b| {
                    reads.insert(b);
                })
            });
        });
    }
    (reads, writes)
}

fn loads(e: &Expr, f: &mut dyn FnMut(Buf)) {
    e.visit(&mut |e| {
        if let Expr::Load { buf, .. } = e {
            f(*buf);
        }
    });
}

impl<'k> Divider<'k> {
    pub(super) fn new(
        kernel: &'k Kernel,
        part: Var,
        constants: &'k BTreeSet<Buf>,
        threads: &'k Threads<'k>,
    ) -> Divider<'k> {
        let written = touched(&kernel.body).1;
        let count = threads.count;
        let (costs, blocks, before) = (RefCell::default(), RefCell::default(), RefCell::default());
        let mut d = Divider {
            kernel,
            part,
            count,
            prelude: vec![],
            units: vec![],
            written,
            constants,
            threads,
            costs,
            blocks,
            before,
        };
        (d.prelude, d.units) = d.units_of(&kernel.body);
        d
    }

    /// Cycles of unit `u` in one piece.
    pub(super) fn cycles(&self, u: usize) -> f64 {
        self.units[u].iter().map(|s| self.cost(s)).sum()
    }

    fn cost(&self, s: &Stmt) -> f64 {
        let of = || cycles::of_block(self.kernel, std::slice::from_ref(s), self.threads.target);
        *self.costs.borrow_mut().entry(std::ptr::from_ref(s)).or_insert_with(of)
    }

    fn units_of(&self, body: &'k [Stmt]) -> Block<'k> {
        let mut in_loops = BTreeSet::new();
        for s in body.iter().filter(|s| matches!(s, Stmt::For { .. })) {
            in_loops.extend(used(s));
        }
        let (mut prelude, mut units): (Vec<&Stmt>, Vec<Unit<'_>>) = (vec![], vec![]);
        // Which unit defines a variable.
        let mut defined: BTreeMap<Var, usize> = BTreeMap::new();
        for s in body {
            let uses = used(s);
            let mut at = uses.iter().filter_map(|v| defined.get(v)).min().copied();
            if let (Stmt::Let { var, value }, None) = (s, at) {
                let mut fixed = true;
                loads(value, &mut |b| fixed &= !self.written.contains(&b));
                if fixed && (self.kernel.var(*var).ty == Type::INDEX || in_loops.contains(var)) {
                    prelude.push(s);
                    continue;
                }
            }
            match at {
                // Everything from the definition on becomes one unit.
                Some(first) => {
                    let later: Vec<&Stmt> = units.drain(first + 1..).flatten().collect();
                    units[first].extend(later);
                    defined.values_mut().for_each(|u| *u = (*u).min(first));
                    units[first].push(s);
                }
                None => {
                    at = Some(units.len());
                    units.push(vec![s]);
                }
            }
            if let (Stmt::Let { var, .. } | Stmt::Declare { var, .. }, Some(at)) = (s, at) {
                defined.insert(*var, at);
            }
        }
        (prelude, units)
    }

    /// `units` in parts; `None` where only one part would have something to do.
    pub(super) fn plan(&self, units: Range<usize>) -> Option<Plan<'k>> {
        let outside = self.units[..units.start].iter().chain(&self.units[units.end..]).flatten().copied();
        let (reads, writes) = touched(outside);
        let (_, here) = touched(self.units[units.clone()].iter().flatten().copied());
        let scratch = |b: &Buf| self.kernel.buffer(*b).access == Access::Scratch;
        // Those that nothing else uses could be private.
        let mut private: Vec<Buf> =
            here.iter().filter(|b| scratch(b) && !reads.contains(b) && !writes.contains(b)).copied().collect();
        let mut items: Vec<Unit<'k>> = self.units[units].to_vec();
        loop {
            let mut load = vec![0.0; self.count];
            let choices: Vec<Choice<'k>> =
                items.iter().map(|u| self.choose(u, &mut load, 1.0, 0, &private)).collect();
            // An item that reads what another one has left in a private buffer is joined with it.
            let joined = private.iter().find_map(|b| {
                let at = choices.iter().position(|c| !self.own(c, *b, false))?;
                Some((*b, at))
            });
            let Some((buf, at)) = joined else {
                let cycles = load.iter().copied().fold(0.0, f64::max);
                let several = load.iter().filter(|l| **l > 0.0).count() > 1;
                return several.then_some(Plan { choices, cycles, private });
            };
            let uses = |u: &Unit<'_>| {
                let (r, w) = touched(u.iter().copied());
                r.contains(&buf) || w.contains(&buf)
            };
            match items[..at].iter().rposition(uses) {
                Some(from) => {
                    let together: Unit<'k> = items.drain(from..=at).flatten().collect();
                    items.insert(from, together);
                }
                None => private.retain(|b| *b != buf),
            }
        }
    }

    /// Who runs `unit`; `load` is what the parts have to do so far, `times` how often this is run. Loops inside are divided only as
    /// far as `private` buffers allow.
    fn choose(&self, unit: &Unit<'k>, load: &mut Vec<f64>, times: f64, depth: usize, private: &[Buf]) -> Choice<'k> {
        let most = |load: &[f64]| load.iter().copied().fold(0.0, f64::max);
        let cycles = times * unit.iter().map(|s| self.cost(s)).sum::<f64>();
        let idle = (0..self.count).min_by(|a, b| load[*a].total_cmp(&load[*b])).unwrap_or(0);
        let mut best = load.clone();
        best[idle] += cycles;
        let mut choice = Choice::Whole(unit.clone(), idle);
        if let &[s @ Stmt::For { lo, hi, step, parallel, body, .. }] = &unit[..]
            && let (Some(l), Some(h)) = (lo.as_int(), hi.as_int())
            && l < h
            && *step > 0
        {
            let trips = (h - l - 1) / step + 1;
            if *parallel && trips > 1 {
                let (cut, shares) = self.shares(load, trips, cycles / trips as f64);
                if most(&cut) < most(&best) * CUT_GAIN {
                    (best, choice) = (cut, Choice::Cut(s, shares));
                }
            }
            if depth < MAX_DEPTH {
                let (prelude, units) = self.block_of(s, body);
                let (mut inner, times) = (load.clone(), times * trips as f64);
                let fills = self.fills(&units, private);
                let mut choices = vec![];
                for (i, u) in units.iter().enumerate() {
                    if fills.contains(&i) {
                        let cycles = times * u.iter().map(|s| self.cost(s)).sum::<f64>();
                        inner.iter_mut().for_each(|l| *l += cycles);
                        choices.push(Choice::Each(u.clone()));
                    } else {
                        choices.push(self.choose(u, &mut inner, times, depth + 1, private));
                    }
                }
                let inside = Choice::Inside(s, prelude, choices);
                // Of two cuts, that counts too which lets parts read what is near them.
                let [here, there] = match choice {
                    Choice::Cut(..) => [&choice, &inside].map(|c| self.fetching(c)),
                    _ => [0.0; 2],
                };
                let better = most(&inner) + there < (most(&best) + here) * INNER_GAIN;
                if better && private.iter().all(|b| self.own(&inside, *b, false)) {
                    (best, choice) = (inner, inside);
                }
            }
        }
        *load = best;
        choice
    }

    /// Cycles that a part takes to fetch what it reads of buffers beyond its share of them.
    fn fetching(&self, choice: &Choice<'k>) -> f64 {
        let mut all = BTreeSet::new();
        self.read_whole(choice, &mut all);
        let beyond = 1.0 - 1.0 / self.count as f64;
        let cycles = |b: &Buf| {
            let decl = self.kernel.buffer(*b);
            let rate = if self.constants.contains(b) { SHARED } else { FROM_ANOTHER };
            beyond * (decl.len * decl.dtype.size()) as f64 / rate
        };
        all.iter().filter(|b| self.kernel.buffer(**b).access != Access::Scratch).map(cycles).sum()
    }

    /// Adds the buffers of which every part reads more than its share: the loop that is cut does not go from their beginning to their end.
    fn read_whole(&self, choice: &Choice<'k>, all: &mut BTreeSet<Buf>) {
        match choice {
            Choice::Whole(..) => {}
            Choice::Each(unit) => all.append(&mut touched(unit.iter().copied()).0),
            Choice::Inside(_, _, choices) => choices.iter().for_each(|c| self.read_whole(c, all)),
            Choice::Cut(s, _) => {
                let Stmt::For { var, lo, hi, body, .. } = s else { return };
                let range = lo.as_int().zip(hi.as_int()).map_or(0, |(lo, hi)| hi.saturating_sub(lo));
                // Variables that the loop's moves: where they are part of an index nobody knows how far it goes.
                let mut moved = BTreeSet::new();
                visit_stmts(body, &mut |s| {
                    if let Stmt::Let { var: v, value } = s
                        && (value.uses(*var) || moved.iter().any(|m| value.uses(*m)))
                    {
                        moved.insert(*v);
                    }
                });
                let shared = |b: Buf, index: &Expr| {
                    let Some(index) = Affine::of(index) else { return true };
                    let goes = index.coefficient(*var).unsigned_abs().saturating_mul(range.unsigned_abs());
                    goes >= self.kernel.buffer(b).len as u64 / 2 || index.terms.keys().any(|v| moved.contains(v))
                };
                visit_stmts(body, &mut |s| {
                    s.exprs(&mut |e| {
                        e.visit(&mut |e| {
                            if let Expr::Load { buf, index, .. } = e
                                && !shared(*buf, index)
                            {
                                all.insert(*buf);
                            }
                        });
                    });
                });
            }
        }
    }

    /// The units of a block that copy operands into `private` buffers for other units of the block: panels that a loop behind them
    /// multiplies with.
    fn fills(&self, units: &[Unit<'k>], private: &[Buf]) -> BTreeSet<usize> {
        let uses: Vec<_> = units.iter().map(|u| touched(u.iter().copied())).collect();
        let copies = |(r, w): &(BTreeSet<Buf>, BTreeSet<Buf>)| {
            !w.is_empty() && w.iter().all(|b| private.contains(b)) && r.is_disjoint(&self.written)
        };
        let (some, others): (Vec<usize>, Vec<usize>) = (0..units.len()).partition(|i| copies(&uses[*i]));
        let shared = |i: &usize| {
            let w = &uses[*i].1;
            let behind = others.iter().any(|o| o > i && !uses[*o].0.is_disjoint(w));
            behind && others.iter().all(|o| uses[*o].1.is_disjoint(w) && (o > i || uses[*o].0.is_disjoint(w)))
        };
        some.into_iter().filter(shared).collect()
    }

    fn block_of(&self, s: &'k Stmt, body: &'k [Stmt]) -> Block<'k> {
        if let Some(b) = self.blocks.borrow().get(&std::ptr::from_ref(s)) {
            return b.clone();
        }
        let block = self.units_of(body);
        self.blocks.borrow_mut().insert(s, block.clone());
        block
    }

    /// What every part runs.
    pub(super) fn statements(&self, choice: &Choice<'k>) -> Vec<Stmt> {
        let one = match choice {
            Choice::Each(unit) => return unit.iter().map(|s| (*s).clone()).collect(),
            Choice::Whole(unit, k) => Stmt::If {
                cond: self.is_part(*k),
                then: unit.iter().map(|s| (*s).clone()).collect(),
                otherwise: vec![],
            },
            Choice::Cut(Stmt::For { var, lo, hi, step, parallel, body }, shares) => {
                let (l, h) = (lo.as_int().unwrap_or(0), hi.as_int().unwrap_or(0));
                let (lo, hi) = self.bounds(l, h, *step, shares);
                Stmt::For { var: *var, lo, hi, step: *step, parallel: *parallel, body: body.clone() }
            }
            Choice::Inside(Stmt::For { var, lo, hi, step, parallel, .. }, prelude, choices) => {
                let body = prelude
                    .iter()
                    .map(|s| (*s).clone())
                    .chain(choices.iter().flat_map(|c| self.statements(c)))
                    .collect();
                Stmt::For { var: *var, lo: lo.clone(), hi: hi.clone(), step: *step, parallel: *parallel, body }
            }
            // Only loops are chosen.
            Choice::Cut(s, _) | Choice::Inside(s, ..) => (*s).clone(),
        };
        vec![one]
    }

    fn is_part(&self, k: usize) -> Expr {
        Expr::Var(self.part).compare(CmpOp::Eq, Expr::from(k))
    }

    /// How many of `trips` iterations each part takes, and what it has to do then: the rest goes to those with the least.
    fn shares(&self, load: &[f64], trips: i64, each: f64) -> (Vec<f64>, Vec<i64>) {
        let n = self.count as i64;
        let mut shares = vec![trips / n; self.count];
        let mut order: Vec<usize> = (0..self.count).collect();
        order.sort_by(|a, b| load[*a].total_cmp(&load[*b]));
        order.into_iter().take((trips % n) as usize).for_each(|k| shares[k] += 1);
        (load.iter().zip(&shares).map(|(l, s)| l + *s as f64 * each).collect(), shares)
    }

    /// The bounds of a loop over `lo..hi` of which each part takes its share.
    fn bounds(&self, lo: i64, hi: i64, step: i64, shares: &[i64]) -> (Expr, Expr) {
        let mut ends = vec![lo];
        let mut at = lo;
        for s in shares {
            at += s * step;
            ends.push(at.min(hi));
        }
        (self.choice(&ends[..self.count]), self.choice(&ends[1..]))
    }

    /// The value that belongs to the part.
    fn choice(&self, values: &[i64]) -> Expr {
        let step = values.get(1).map_or(0, |v| v - values[0]);
        if values.windows(2).all(|w| w[1] - w[0] == step) {
            let first = Expr::int(values[0]);
            return match (step, values[0]) {
                (0, _) => first,
                (_, 0) => Expr::Var(self.part) * step,
                _ => Expr::Var(self.part) * step + first,
            };
        }
        let last = Expr::int(values[values.len() - 1]);
        (0..values.len() - 1).rev().fold(last, |e, k| self.is_part(k).select(Expr::int(values[k]), e))
    }

    /// Whether each part can have its own copy of `buf`, as far as `choice` goes: whatever one part runs of it reads only what it has
    /// written itself. Iterations of a `parfor` do, by its definition, if they write it at all; inside the loops that all parts
    /// run nothing else may read it.
    fn own(&self, choice: &Choice<'k>, buf: Buf, inside: bool) -> bool {
        match choice {
            Choice::Whole(unit, _) => {
                let reads = touched(unit.iter().copied()).0.contains(&buf);
                !reads || !inside && self.written_before(unit, buf)
            }
            Choice::Cut(Stmt::For { body, .. }, _) => first_is_store(body, buf) != Some(false),
            Choice::Cut(..) => false,
            Choice::Each(_) => true,
            Choice::Inside(_, _, choices) => {
                let filled = |c: &Choice<'k>| matches!(c, Choice::Each(unit) if touched(unit.iter().copied()).1.contains(&buf));
                choices.iter().any(filled) || choices.iter().all(|c| self.own(c, buf, true))
            }
        }
    }

    fn written_before(&self, unit: &Unit<'k>, buf: Buf) -> bool {
        let key = (unit.iter().map(|s| std::ptr::from_ref(*s)).collect(), buf);
        if let Some(known) = self.before.borrow().get(&key) {
            return *known;
        }
        let found = writes_before_reading(self.kernel, unit, buf);
        self.before.borrow_mut().insert(key, found);
        found
    }
}

/// Whether the first access to `buf`, in the order of the text, is a store; `None` where there is none.
fn first_is_store(body: &[Stmt], buf: Buf) -> Option<bool> {
    for s in body {
        let mut load = false;
        s.exprs(&mut |e| loads(e, &mut |b| load |= b == buf));
        if load {
            return Some(false);
        }
        let found = match s {
            s if s.written() == Some(buf) => Some(true),
            Stmt::For { body, .. } | Stmt::While { body, .. } => first_is_store(body, buf),
            Stmt::If { then, otherwise, .. } => {
                // Both count: a store on one side only is none.
                match (first_is_store(then, buf), first_is_store(otherwise, buf)) {
                    (None, None) => None,
                    (Some(true), Some(true)) => Some(true),
                    _ => Some(false),
                }
            }
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The variables that `s` reads or sets.
fn used(s: &Stmt) -> BTreeSet<Var> {
    let mut vars = BTreeSet::new();
    visit_stmts(std::slice::from_ref(s), &mut |s| {
        if let Stmt::Set { var, .. } = s {
            vars.insert(*var);
        }
        s.exprs(&mut |e| {
            e.visit(&mut |e| {
                if let Expr::Var(v) = e {
                    vars.insert(*v);
                }
            });
        });
    });
    vars
}

//! Kernels that hand each other rows run together, a block of rows at a time.
//!
//! Of an attention, `softmax(Q·Kᵀ)·V`, every row of the scores needs the whole row of keys, but no other row of scores. So instead of all
//! scores of all heads, which for long sequences lie far away in memory, a block of rows is computed, made into weights and
//! multiplied, while it is in the nearest caches; its place is then the next block's. Nothing here knows attention: a chain is a list of
//! calls, each of which makes a value that only the next one reads; that all of them walk the rows of these values by independent
//! loops follows from their indices ([`form`]). Every element is computed by the same operations as before. The kernel that comes out
//! ([`merge`]) is one like any other: it is scheduled, divided among threads and counted as such.
//!
//! What it costs is that operands that all rows need (keys, values) are read again for every block. Prices are those of
//! the optimiser: bytes by the cache that they come from.

mod form;
pub(crate) mod merge;

use crate::egraph::cost::Cost;
use crate::lower::{Distinct, share};
use form::{Form, Walk, accesses};
use merge::{Link, Member, Shape, merge};
use std::collections::{BTreeMap, BTreeSet};
use tenon_base::Loc;
use tenon_kernel::{Access, Buf, BufferId, BufferKind, Call, Kernel, Program, Step, Var};
use tenon_target::Target;

/// Rows of a block at least: a register tile has as many.
const LEAST: usize = 4;
/// The part of what is read again that is not hidden behind arithmetic.
const SEEN: f64 = 0.5;

/// Cycles that a chain must save at least.
const ALWAYS: f64 = 1000.0;

/// A chain of kernels that run together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The ONNX nodes.
    pub nodes: String,
    /// Rows of a block, at most, and of how many that lie together.
    pub rows: (usize, usize),
    /// Bytes of all that the kernels hand each other.
    pub whole: usize,
    /// Bytes of the blocks in their place.
    pub block: usize,
}

/// Joins the chains of `program`, which is structured, for which that pays on `target`.
pub fn run(program: &mut Program, target: &Target) -> Vec<Blocked> {
    let mut cx =
        Joiner { uses: uses(program), cost: Cost::new(target), target, seen: Distinct::default(), found: vec![] };
    let steps = std::mem::take(&mut program.steps);
    program.steps = cx.block(steps, program);
    if !cx.found.is_empty() {
        drop_unused(program);
    }
    cx.found
}

/// Removes kernels that nothing calls.
pub(crate) fn drop_unused(program: &mut Program) {
    let used: BTreeSet<usize> = program.calls().iter().map(|c| c.kernel).collect();
    let order: BTreeMap<usize, usize> = used.iter().enumerate().map(|(new, old)| (*old, new)).collect();
    let kernels = std::mem::take(&mut program.kernels);
    program.kernels = kernels.into_iter().enumerate().filter(|(i, _)| used.contains(i)).map(|(_, k)| k).collect();
    for call in program.calls_mut() {
        call.kernel = order[&call.kernel];
    }
}

/// The nodes that the calls `at` come from.
pub(crate) fn nodes(steps: &[Option<Step>], at: &[usize]) -> Loc {
    let mut names: Vec<&str> = vec![];
    for i in at {
        let Some(Step::Call(c)) = &steps[*i] else { continue };
        names.extend(c.loc.name().into_iter().flat_map(|n| n.split(" + ")).filter(|n| !n.is_empty()));
    }
    let mut seen = BTreeSet::new();
    names.retain(|n| seen.insert(*n));
    if names.is_empty() { Loc::none() } else { Loc::new(names.join(" + ")) }
}

/// How often the calls of `program` name each buffer.
pub(crate) fn uses(program: &Program) -> BTreeMap<BufferId, usize> {
    let mut uses = BTreeMap::new();
    for call in program.calls() {
        call.args.iter().for_each(|id| *uses.entry(*id).or_insert(0) += 1);
    }
    uses
}

/// What only step `from` of `steps`, a call of `kernel` with `args`, writes and only one later one reads, and which one that is. Nothing between
/// changes what `read` names.
pub(crate) fn handed(
    steps: &[Option<Step>],
    from: usize,
    kernel: &Kernel,
    args: &[BufferId],
    read: &BTreeSet<BufferId>,
    program: &Program,
    uses: &BTreeMap<BufferId, usize>,
) -> Option<(BufferId, usize)> {
    let mut written = kernel.buffers.iter().zip(args).filter(|(b, _)| writes(b.access));
    let (Some((decl, id)), None) = (written.next(), written.next()) else { return None };
    let temporary = program.buffer(*id).kind == BufferKind::Arena(None);
    let kept = program.states.iter().any(|s| s.buffer == *id);
    if decl.access != Access::Out || !temporary || kept || uses.get(id) != Some(&2) {
        return None;
    }
    for (i, s) in steps.iter().enumerate().skip(from + 1) {
        match s {
            None => {}
            Some(Step::Call(c)) if c.args.contains(id) => return Some((*id, i)),
            Some(Step::Call(c)) if program.writes(c).any(|w| read.contains(&w)) => return None,
            Some(Step::Call(_)) => {}
            Some(_) => return None,
        }
    }
    None
}

struct Joiner<'t> {
    /// How often calls name each buffer.
    uses: BTreeMap<BufferId, usize>,
    cost: Cost<'t>,
    target: &'t Target,
    /// Joined kernels.
    seen: Distinct,
    found: Vec<Blocked>,
}

/// Calls that follow each other, by their places in a list of steps, and what each hands to the next.
struct Chain<'p> {
    at: Vec<usize>,
    members: Vec<Member<'p>>,
    links: Vec<Link>,
    /// Rows of every link.
    rows: usize,
}

/// What takes the place of a chain.
struct Joined {
    at: Vec<usize>,
    kernel: Kernel,
    args: Vec<BufferId>,
    loc: Loc,
    /// Elements of the blocks.
    blocks: Vec<(BufferId, usize)>,
    note: Blocked,
}

impl Joiner<'_> {
    fn block(&mut self, steps: Vec<Step>, program: &mut Program) -> Vec<Step> {
        let mut steps: Vec<Option<Step>> = steps.into_iter().map(Some).collect();
        for s in steps.iter_mut().flatten() {
            match s {
                Step::Call(_) => {}
                Step::If(s) => {
                    s.then = self.block(std::mem::take(&mut s.then), program);
                    s.otherwise = self.block(std::mem::take(&mut s.otherwise), program);
                }
                Step::Loop(s) => s.body = self.block(std::mem::take(&mut s.body), program),
            }
        }
        for i in 0..steps.len() {
            let Some(joined) = self.join(&steps, i, program) else { continue };
            for (id, len) in joined.blocks {
                program.buffers[id.0 as usize].len = len;
            }
            let kernel = share(program, &mut self.seen, joined.kernel);
            let last = joined.at[joined.at.len() - 1];
            joined.at.iter().for_each(|i| steps[*i] = None);
            steps[last] = Some(Step::Call(Call { kernel, args: joined.args, loc: joined.loc }));
            self.found.push(joined.note);
        }
        steps.into_iter().flatten().collect()
    }

    /// The longest chain from step `first` on that pays, as one kernel.
    fn join(&self, steps: &[Option<Step>], first: usize, program: &Program) -> Option<Joined> {
        let mut chain = self.chain(steps, first, program)?;
        while chain.members.len() > 2 {
            if let Some(shape) = self.shape(&chain) {
                return Some(self.joined(&chain, &shape, steps));
            }
            chain.at.pop();
            chain.members.pop();
            chain.links.pop();
        }
        None
    }

    fn joined(&self, chain: &Chain<'_>, shape: &Shape, steps: &[Option<Step>]) -> Joined {
        let shared = chain.shared();
        let (kernel, args) = merge(&chain.members, &chain.links, &shared, shape);
        let loc = nodes(steps, &chain.at);
        let most = shape.most();
        let own: Vec<&Link> = chain.links.iter().filter(|l| !shared.contains_key(&l.buffer)).collect();
        let note = Blocked {
            nodes: loc.name().unwrap_or_default().to_string(),
            rows: (most, shape.rows),
            whole: chain.links.iter().map(|l| l.length * l.size * chain.rows).sum(),
            block: own.iter().map(|l| l.length * l.size * most).sum(),
        };
        let blocks = own.iter().map(|l| (l.buffer, l.length * most)).collect();
        Joined { at: chain.at.clone(), kernel, args, loc, blocks, note }
    }

    /// The calls from `first` on each of which reads what only the one before it makes, row by row.
    fn chain<'p>(&self, steps: &'p [Option<Step>], first: usize, program: &'p Program) -> Option<Chain<'p>> {
        let call = |i: usize| match steps.get(i)?.as_ref()? {
            Step::Call(c) => Some(c),
            _ => None,
        };
        let member = |c: &'p Call| {
            let kernel = &program.kernels[c.kernel];
            Some(Member { kernel, args: &c.args, form: Form::of(kernel)?, walk: BTreeMap::new() })
        };
        let mut chain = Chain { at: vec![first], members: vec![member(call(first)?)?], links: vec![], rows: 0 };
        while let Some((link, next)) = self.link(&chain, steps, program)
            && let Some(c) = call(next)
            && let Some(m) = member(c)
            && chain.add(m, link, program)
        {
            chain.at.push(next);
        }
        (!chain.links.is_empty()).then_some(chain)
    }

    /// What only the last call of `chain` writes and only one later one reads, which it is.
    fn link(&self, chain: &Chain<'_>, steps: &[Option<Step>], program: &Program) -> Option<(BufferId, usize)> {
        let (last, from) = (chain.members.last()?, *chain.at.last()?);
        let read: BTreeSet<BufferId> = chain.members.iter().flat_map(|m| m.args).copied().collect();
        handed(steps, from, last.kernel, last.args, &read, program, &self.uses)
    }

    /// How `chain` is walked, if that pays.
    fn shape(&self, chain: &Chain<'_>) -> Option<Shape> {
        // Products hand on rows in blocks of the second cache by themselves; it is what reads whole rows that keeps them apart.
        let inner = &chain.members[1..chain.members.len() - 1];
        if inner.iter().all(|m| m.form.contract) {
            return None;
        }
        let strides = chain.strides()?;
        let rows = usize::try_from(strides[1]).ok()?;
        let outer: Vec<(usize, i64)> =
            strides.windows(2).skip(1).map(|s| ((s[1] / s[0]) as usize, s[0])).rev().collect();
        let caches = &self.target.caches;
        let near = caches.l2.max(caches.l1d);
        let shared = chain.shared();
        let own = chain.links.iter().filter(|l| !shared.contains_key(&l.buffer));
        let row: usize = own.map(|l| l.length * l.size).sum();
        let most = (near / 4 / row.max(1)).max(LEAST.min(near / row.max(1))).min(rows);
        if most < LEAST.min(rows) || rows < 2 {
            return None;
        }
        let shape = Shape { outer, rows, blocks: blocks(rows, most) };
        let byte = |size: usize| self.cost.moving(size as f64) / (size as f64).max(1.0);
        let saved = |l: &Link| {
            let bytes = l.length * l.size * chain.rows;
            2.0 * bytes as f64 * (byte(bytes) - byte(near)).max(0.0)
        };
        let saved: f64 = chain.links.iter().map(saved).sum();
        let again = chain.again(&shape);
        let together: f64 = again.iter().map(|a| a.0).sum::<f64>() + (row * most) as f64;
        let again: f64 = again.iter().map(|(bytes, times)| bytes * times * byte(together as usize)).sum();
        (saved > SEEN * again + ALWAYS).then_some(shape)
    }
}

fn writes(a: Access) -> bool {
    matches!(a, Access::Out | Access::InOut)
}

/// `rows` in blocks of at most `most`: of one size if there is one that is not much smaller, else of two that differ by one.
pub(crate) fn blocks(rows: usize, most: usize) -> Vec<(usize, usize)> {
    if let Some(even) = (most / 2 + 1..=most).rev().find(|n| rows.is_multiple_of(*n)) {
        return vec![(rows / even, even)];
    }
    let n = rows.div_ceil(most);
    let (each, extra) = (rows / n, rows % n);
    [(extra, each + 1), (n - extra, each)].into_iter().filter(|(count, _)| *count > 0).collect()
}

impl<'p> Chain<'p> {
    /// Adds `m`, which reads `link`; false if it does not walk the same rows.
    fn add(&mut self, mut m: Member<'p>, link: BufferId, program: &Program) -> bool {
        let found = self.walks(&m, link, program);
        let Some((walk, rows, length, other)) = found else { return false };
        if let Some(last) = self.members.last_mut() {
            last.walk = walk;
        }
        m.walk = other;
        self.rows = rows;
        self.members.push(m);
        self.links.push(Link { buffer: link, length, size: program.buffer(link).dtype.size() });
        true
    }

    /// How the last member and `m` walk `link`: the last one's strides, rows, elements of a row, the strides of `m`.
    fn walks(&self, m: &Member<'p>, link: BufferId, program: &Program) -> Option<(Walk, usize, usize, Walk)> {
        let last = self.members.last()?;
        let at = |m: &Member<'_>| {
            let mut places = (0..m.args.len() as u32).map(Buf).filter(|b| m.args[b.0 as usize] == link);
            let buf = places.next().filter(|_| places.next().is_none())?;
            accesses(m.kernel, buf).filter(|a| !a.is_empty())
        };
        // What the chain writes in the end none of it reads.
        let results = m.args.iter().zip(&m.kernel.buffers).filter(|(_, b)| writes(b.access));
        if results.clone().any(|(id, _)| self.members.iter().any(|o| o.args.contains(id))) {
            return None;
        }
        let (written, read) = (at(last)?, at(m)?);
        let length = last.form.least_stride(&written)?.max(m.form.least_stride(&read)?);
        let elements = program.buffer(link).len;
        let rows = elements / usize::try_from(length).ok()?;
        if rows < 2 || rows * length as usize != elements || (self.rows > 0 && self.rows != rows) {
            return None;
        }
        let walk = last.form.walk(&written, rows, length)?;
        if !last.walk.is_empty() && last.walk != walk {
            return None;
        }
        Some((walk, rows, length as usize, m.form.walk(&read, rows, length)?))
    }

    /// The strides of all loops over rows, from 1 to the number of rows; each divides the next.
    fn strides(&self) -> Option<Vec<i64>> {
        let all: BTreeSet<i64> = self.members.iter().flat_map(|m| m.walk.values().copied()).collect();
        let mut all: Vec<i64> = all.into_iter().collect();
        all.push(self.rows as i64);
        all.windows(2).all(|s| s[1] % s[0] == 0).then_some(all)
    }

    /// Links that may lie in the place of another one: what reads a row for the last time before it writes it.
    fn shared(&self) -> BTreeMap<BufferId, BufferId> {
        let mut shared: BTreeMap<BufferId, BufferId> = BTreeMap::new();
        for (pair, m) in self.links.windows(2).zip(&self.members[1..]) {
            let (x, y) = (pair[0], pair[1]);
            let place = |id: BufferId| m.args.iter().position(|a| *a == id).map(|i| Buf(i as u32));
            let (Some(bx), Some(by)) = (place(x.buffer), place(y.buffer)) else { continue };
            let alike = x.length == y.length && m.kernel.buffer(bx).dtype == m.kernel.buffer(by).dtype;
            if alike && m.shares_rows(bx, by) {
                let home = shared.get(&x.buffer).copied().unwrap_or(x.buffer);
                shared.insert(y.buffer, home);
            }
        }
        shared
    }

    /// Operands that all rows of an iteration of the loops around need: their bytes in one such iteration, and how often more
    /// they are read than once each.
    fn again(&self, shape: &Shape) -> Vec<(f64, f64)> {
        let blocks: usize = shape.blocks.iter().map(|(count, _)| count).sum();
        let mut all = vec![];
        for m in &self.members {
            let ranges = m.form.inside();
            for (id, (i, b)) in m.args.iter().zip(m.kernel.buffers.iter().enumerate()) {
                if b.access != Access::In || self.links.iter().any(|l| l.buffer == *id) {
                    continue;
                }
                let at = accesses(m.kernel, Buf(i as u32));
                let uses = |v: &Var| at.as_ref().is_some_and(|a| a.iter().any(|a| a.coefficient(*v) != 0));
                // Rows of its own.
                if m.walk.iter().any(|(v, s)| *s == 1 && uses(v)) {
                    continue;
                }
                let inner = ranges.iter().filter(|(v, _)| !m.walk.contains_key(v) && uses(v));
                let one = inner.fold(1usize, |n, (_, e)| n.saturating_mul(*e)).min(b.len);
                let one = if at.is_none() { b.len } else { one };
                let (mut own, mut alike) = (1usize, 1usize);
                for (v, _) in m.walk.iter().filter(|(_, s)| **s != 1) {
                    let n = m.form.extent(*v).unwrap_or(1);
                    if uses(v) { own *= n } else { alike *= n }
                }
                all.push(((one * b.dtype.size()) as f64, (own * (blocks * alike - 1)) as f64));
            }
        }
        all
    }
}

impl Shape {
    /// Rows of the largest block.
    pub(super) fn most(&self) -> usize {
        self.blocks.iter().map(|(_, rows)| *rows).max().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::blocks;

    #[test]
    fn blocks_are_even_where_that_is_not_much_smaller() {
        assert_eq!(blocks(512, 64), [(8, 64)]);
        assert_eq!(blocks(512, 100), [(8, 64)]);
        assert_eq!(blocks(197, 32), [(1, 29), (6, 28)]);
        assert_eq!(blocks(5, 8), [(1, 5)]);
        for rows in 1..200 {
            for most in 1..=rows {
                let all = blocks(rows, most);
                assert_eq!(all.iter().map(|(n, r)| n * r).sum::<usize>(), rows);
                assert!(all.iter().all(|(n, r)| *n > 0 && *r <= most));
            }
        }
    }
}

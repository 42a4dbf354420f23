//! Convolutions that hand each other images run together, a band of rows at a time.
//!
//! What a pointwise convolution expands is read by a depthwise one and needed by nobody else; large images leave the second cache in between. So a
//! few rows of the last one's result are made at a time, and of the values between only the rows that these need ([`join`]): the band stays in the
//! cache, and the arena holds no more of them. Windows of neighbouring bands overlap, so some rows are computed twice, which is the price. Nothing
//! here knows convolutions: a stage is a kernel that ends with a contraction, or in the end of a chain with a nest of loops like a pooling's
//! ([`nest`]), and what it makes and reads row by row follows from its indices ([`stage`]). Every element is computed by the same operations as
//! before.
//!
//! Chains are of two or three stages. The rows that the second one reads may overlap and have a border; after that, rows follow one to one.

mod join;
mod nest;
mod stage;

use crate::egraph::cost::Cost;
use crate::lower::{Distinct, share};
use crate::rows::{Blocked, drop_unused, handed, nodes, uses};
use join::join;
use stage::{Hand, Stage};
use std::collections::{BTreeMap, BTreeSet};
use tenon_kernel::{BufferId, BufferKind, Call, Program, Step};
use tenon_target::Target;

/// Cycles that a chain must save at least, and as a part of its multiplications: less than that is within what prices are off.
const ALWAYS: f64 = 2000.0;
const LEAST: f64 = 0.03;
/// Rows that may be computed again, as a part of all.
const MOST_AGAIN: f64 = 0.2;
/// What computing a row again takes, as a multiple of what its products would at best.
const AGAIN: f64 = 1.5;
/// The part of the second cache that bands may take; what the stages read and write besides passes through the rest.
const PART: f64 = 0.6;

/// Joins the chains of `program`, which is structured, for which that pays on `target`.
pub fn run(program: &mut Program, target: &Target) -> Vec<Blocked> {
    let mut cx = Joiner { uses: uses(program), cost: Cost::new(target), target, found: vec![] };
    let (steps, mut seen) = (std::mem::take(&mut program.steps), Distinct::default());
    program.steps = cx.list(steps, program, &mut seen);
    if !cx.found.is_empty() {
        drop_unused(program);
    }
    cx.found
}

struct Joiner<'t> {
    /// How often calls name each buffer.
    uses: BTreeMap<BufferId, usize>,
    cost: Cost<'t>,
    target: &'t Target,
    found: Vec<Blocked>,
}

/// Calls that follow each other, by their places in a list of steps, and what each hands to the next.
struct Chain<'p> {
    at: Vec<usize>,
    stages: Vec<Stage<'p>>,
    hands: Vec<Hand>,
}

/// A chain worth joining.
struct Plan {
    at: Vec<usize>,
    blocks: Vec<(usize, usize)>,
    /// Cycles.
    saves: f64,
}

impl Joiner<'_> {
    fn list(&mut self, steps: Vec<Step>, program: &mut Program, seen: &mut Distinct) -> Vec<Step> {
        let mut steps: Vec<Option<Step>> = steps.into_iter().map(Some).collect();
        for s in steps.iter_mut().flatten() {
            match s {
                Step::Call(_) => {}
                Step::If(s) => {
                    s.then = self.list(std::mem::take(&mut s.then), program, seen);
                    s.otherwise = self.list(std::mem::take(&mut s.otherwise), program, seen);
                }
                Step::Loop(s) => s.body = self.list(std::mem::take(&mut s.body), program, seen),
            }
        }
        // Those that save most first; the first of two that save the same.
        let mut plans: Vec<Plan> = (0..steps.len()).flat_map(|i| self.plans(&steps, i, program)).collect();
        plans.sort_by(|a, b| b.saves.total_cmp(&a.saves));
        let mut taken = BTreeSet::new();
        for plan in plans {
            if plan.at.iter().any(|i| taken.contains(i)) {
                continue;
            }
            taken.extend(plan.at.iter().copied());
            self.join(&plan, &mut steps, program, seen);
        }
        steps.into_iter().flatten().collect()
    }

    /// Puts one call in the place of those of `plan`.
    fn join(&mut self, plan: &Plan, steps: &mut [Option<Step>], program: &mut Program, seen: &mut Distinct) {
        let Some(chain) = self.chain(steps, plan.at[0], plan.at.len(), program) else { return };
        let (kernel, args) = join(&chain.stages, &chain.hands, &plan.blocks);
        let most = plan.blocks.iter().map(|(_, rows)| *rows).max().unwrap_or(1);
        let bands: Vec<(BufferId, usize, usize)> =
            chain.hands.iter().map(|h| (h.buffer, (h.band(most as i64) * h.length) as usize, h.size)).collect();
        let loc = nodes(steps, &plan.at);
        let results = chain.hands.last().map_or(0, |h| h.results as usize);
        self.found.push(Blocked {
            nodes: loc.name().unwrap_or_default().to_string(),
            rows: (most, results),
            whole: chain.hands.iter().map(|h| program.buffer(h.buffer).bytes()).sum(),
            block: bands.iter().map(|(_, len, size)| len * size).sum(),
        });
        for (id, len, _) in bands {
            program.buffers[id.0 as usize].len = len;
        }
        let kernel = share(program, seen, kernel);
        let last = plan.at[plan.at.len() - 1];
        plan.at.iter().for_each(|i| steps[*i] = None);
        steps[last] = Some(Step::Call(Call { kernel, args, loc }));
    }

    /// The chains from step `first` on that pay.
    fn plans(&self, steps: &[Option<Step>], first: usize, program: &Program) -> Vec<Plan> {
        let chains = [2, 3].into_iter().map_while(|n| self.chain(steps, first, n, program));
        chains.filter_map(|c| self.plan(&c, program)).collect()
    }

    /// `stages` calls from step `first` on each of which reads what only the one before it makes, row by row.
    fn chain<'p>(
        &self,
        steps: &'p [Option<Step>],
        first: usize,
        stages: usize,
        program: &'p Program,
    ) -> Option<Chain<'p>> {
        let stage = |i: usize| match steps.get(i)?.as_ref()? {
            Step::Call(c) => Stage::of(&program.kernels[c.kernel], &c.args),
            _ => None,
        };
        let mut chain = Chain { at: vec![first], stages: vec![stage(first)?], hands: vec![] };
        while chain.stages.len() < stages {
            let (last, at) = (chain.stages.last()?, *chain.at.last()?);
            let read: BTreeSet<BufferId> = chain.stages.iter().flat_map(|s| s.args).copied().collect();
            let (id, next) = handed(steps, at, last.kernel, last.args, &read, program, &self.uses)?;
            let to = stage(next)?;
            // What the chain writes in the end none of it reads.
            let result = to.result();
            let hand = Hand::between(last, &to, id, program).filter(|_| !read.contains(&result))?;
            let fits = match chain.hands.last() {
                None => hand.around() == (0, 0) || !hand.bordered || last.border.is_some(),
                Some(before) => hand.is_plain() && hand.made == before.read && last.border.is_none(),
            };
            if !fits {
                return None;
            }
            chain.hands.push(hand);
            chain.stages.push(to);
            chain.at.push(next);
        }
        Some(chain)
    }

    /// The blocks of `chain`, if that pays.
    fn plan(&self, chain: &Chain<'_>, program: &Program) -> Option<Plan> {
        let (hand, first) = (chain.hands.first()?, chain.stages.first()?);
        let near = self.target.caches.l2.max(self.target.caches.l1d);
        let bands = |rows: i64| -> i64 { chain.hands.iter().map(|h| h.band(rows) * h.length * h.size as i64).sum() };
        let fits = |rows: &i64| bands(*rows) as f64 <= PART * near as f64 && hand.rows(*rows) <= hand.height;
        let most = (1..hand.results).take_while(fits).last()?;
        let blocks = blocks(hand.results as usize, most as usize);
        let rows: i64 = blocks.iter().map(|(n, rows)| *n as i64 * hand.rows(*rows as i64)).sum();
        let again = (rows - hand.height).max(0) as f64 / hand.height as f64;
        if again > MOST_AGAIN {
            return None;
        }
        let count: usize = blocks.iter().map(|(n, _)| n).sum();
        let mut saves = -AGAIN * again * self.computing(first);
        for (i, stage) in chain.stages.iter().enumerate() {
            let hands = [i.checked_sub(1).and_then(|i| chain.hands.get(i)), chain.hands.get(i)];
            let (apart, together) = self.moving(stage, hands.into_iter().flatten(), near, count, program);
            let computing = self.computing(stage);
            saves += computing.max(apart) - computing.max(together);
        }
        let all: f64 = chain.stages.iter().map(|s| self.computing(s)).sum();
        (saves > ALWAYS + LEAST * all).then(|| Plan { at: chain.at.clone(), blocks, saves })
    }
}

impl Joiner<'_> {
    /// Cycles in which `stage` multiplies, or loads what it compares.
    fn computing(&self, stage: &Stage<'_>) -> f64 {
        let (operations, dtype) = stage.operations();
        operations / (self.target.peak_ops_per_cycle(dtype) / 2.0)
    }

    /// Cycles in which `stage` waits for memory, in a kernel of its own and in one that hands on rows in `hands`, in `count` blocks.
    fn moving<'h>(
        &self,
        stage: &Stage<'_>,
        hands: impl Iterator<Item = &'h Hand>,
        near: usize,
        count: usize,
        program: &Program,
    ) -> (f64, f64) {
        let byte = |size: f64| self.cost.moving(size) / size.max(1.0);
        let (mut constant, mut others) = (0.0, 0.0);
        for id in stage.args {
            let b = program.buffer(*id);
            let sum = if matches!(b.kind, BufferKind::Const(_)) { &mut constant } else { &mut others };
            *sum += b.bytes() as f64;
        }
        // All that is moved between a value's making and its use decides where it is found then; weights are read once a block.
        let handed: f64 = hands.map(Hand::bytes).sum();
        let weights = constant * byte(constant);
        let apart = others * byte(others) + weights;
        let together =
            (others - handed).max(0.0) * byte(others) + handed * byte(near as f64) + weights * count as f64;
        (apart, together)
    }
}

/// `rows` in blocks of at most `most`: of one size if there is one that is not much smaller, and then as many that threads share them well; else
/// of two sizes that differ by one.
fn blocks(rows: usize, most: usize) -> Vec<(usize, usize)> {
    let even = (most / 2 + 1..=most).filter(|n| rows.is_multiple_of(*n));
    if let Some(each) = even.max_by_key(|n| ((rows / n).trailing_zeros().min(2), *n)) {
        return vec![(rows / each, each)];
    }
    crate::rows::blocks(rows, most)
}

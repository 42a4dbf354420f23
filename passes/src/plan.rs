//! The memory plan: offsets in the arena for every temporary.
//!
//! A kernel that may write over an operand it reads for the last time does so: the two share their place. Lifetimes are intervals of moments
//! ([`tenon_kernel::Timeline`]): what a loop uses from outside lives as long as the loop. Buffers are placed largest first at the lowest offset where nothing that lives at
//! the same time lies (best fit by size; after Pisarchyk & Lee, "Efficient Memory Management for Deep Neural Net Inference",
//! 2020, section 5.2). The lower bound is the largest sum of sizes alive at one call.

use std::collections::{BTreeMap, BTreeSet};
use tenon_kernel::{BufferId, BufferKind, Program, Timeline};

/// What the plan achieved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanReport {
    /// Temporaries placed.
    pub buffers: usize,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// No plan can be smaller.
    pub lower_bound: usize,
}

/// Temporaries in one place: their buffers, size in bytes (rounded up to the alignment), first and last moment.
#[derive(Clone, Debug)]
struct Life {
    ids: Vec<BufferId>,
    bytes: usize,
    first: usize,
    last: usize,
}

/// Gives every arena buffer its offset and sets the arena's size. Arena buffers that no call uses are dropped to size 0
/// at offset 0.
pub fn plan(program: &mut Program) -> PlanReport {
    let kept: BTreeSet<BufferId> = program.states.iter().map(|s| s.buffer).collect();
    let mut lives = lifetimes(program, &kept);
    let bound = lower_bound(&lives, program.timeline().moments.len());
    lives.sort_by_key(|l| (std::cmp::Reverse(l.bytes), l.first, l.ids[0]));
    // What is kept from run to run lies first, in order, and its place is nobody else's.
    let offsets: BTreeMap<BufferId, usize> =
        program.states.iter().map(|s| s.buffer).zip(program.state_offsets()).collect();
    let (fixed, lives): (Vec<Life>, Vec<Life>) = lives.into_iter().partition(|l| offsets.contains_key(&l.ids[0]));
    let mut placed: Vec<(usize, Life)> = fixed.into_iter().map(|l| (offsets[&l.ids[0]], l)).collect();
    let mut size = program.state_bytes();
    for life in &lives {
        let mut busy: Vec<(usize, usize)> = placed
            .iter()
            .filter(|(_, p)| p.first <= life.last && life.first <= p.last)
            .map(|(offset, p)| (*offset, *offset + p.bytes))
            .collect();
        busy.sort_unstable();
        // The smallest gap that fits; else the end.
        let mut best: Option<(usize, usize)> = None;
        let mut end = 0;
        for (from, to) in busy {
            if from > end && from - end >= life.bytes && best.is_none_or(|(_, gap)| from - end < gap) {
                best = Some((end, from - end));
            }
            end = end.max(to);
        }
        let offset = best.map_or(end, |(o, _)| o);
        size = size.max(offset + life.bytes);
        placed.push((offset, life.clone()));
    }
    for (offset, life) in &placed {
        for id in &life.ids {
            program.buffers[id.0 as usize].kind = BufferKind::Arena(Some(*offset));
        }
    }
    for b in &mut program.buffers {
        if b.kind == BufferKind::Arena(None) {
            (b.kind, b.len) = (BufferKind::Arena(Some(0)), 0);
        }
    }
    program.arena_bytes = size;
    PlanReport { buffers: placed.len(), arena_bytes: size, lower_bound: bound }
}

fn lifetimes(program: &Program, kept: &BTreeSet<BufferId>) -> Vec<Life> {
    let timeline = program.timeline();
    let mut lives: Vec<Option<Life>> = timeline
        .lives(program.buffers.len())
        .into_iter()
        .zip(program.buffers.iter().enumerate())
        .map(|(life, (i, b))| {
            let (first, last) = life.filter(|_| matches!(b.kind, BufferKind::Arena(_)))?;
            let bytes = b.bytes().next_multiple_of(Program::ALIGN);
            Some(Life { ids: vec![BufferId(i as u32)], bytes, first, last })
        })
        .collect();
    merge_in_place(program, &timeline, kept, &mut lives);
    for id in kept {
        let b = program.buffer(*id);
        let bytes = b.bytes().next_multiple_of(Program::ALIGN);
        lives[id.0 as usize] = Some(Life { ids: vec![*id], bytes, first: 0, last: timeline.moments.len() });
    }
    lives.into_iter().flatten().collect()
}

/// Joins the lives of an operand that ends and a result that begins at one call which may work in place.
fn merge_in_place(program: &Program, timeline: &Timeline<'_>, kept: &BTreeSet<BufferId>, lives: &mut [Option<Life>]) {
    // Where the life that a buffer belongs to is kept.
    let mut home: Vec<usize> = (0..lives.len()).collect();
    for (step, call) in timeline.moments.iter().enumerate().filter_map(|(i, m)| m.call.map(|c| (i, c))) {
        let kernel = &program.kernels[call.kernel];
        let mut written: Vec<BufferId> = vec![];
        for (x, y) in &kernel.in_place {
            let (x, y) = (call.args[x.0 as usize], call.args[y.0 as usize]);
            let (hx, hy) = (home[x.0 as usize], home[y.0 as usize]);
            let uses = call.args.iter().filter(|a| **a == x).count();
            let fits = match (&lives[hx], &lives[hy]) {
                (Some(a), Some(b)) => hx != hy && a.last == step && b.first == step && a.bytes == b.bytes,
                _ => false,
            };
            if !fits || uses != 1 || written.contains(&y) || kept.contains(&x) || kept.contains(&y) {
                continue;
            }
            let Some(ended) = lives[hy].take() else { continue };
            if let Some(life) = &mut lives[hx] {
                ended.ids.iter().for_each(|id| home[id.0 as usize] = hx);
                life.ids.extend(ended.ids);
                life.last = ended.last;
            }
            written.push(y);
        }
    }
}

fn lower_bound(lives: &[Life], moments: usize) -> usize {
    (0..moments)
        .map(|s| lives.iter().filter(|l| l.first <= s && s <= l.last).map(|l| l.bytes).sum())
        .max()
        .unwrap_or(0)
}

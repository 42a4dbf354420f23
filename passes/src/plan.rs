//! The memory plan: offsets in the arena for every temporary.
//!
//! A kernel that may write over an operand it reads for the last time does so: the two share their place. Lifetimes are intervals of moments
//! ([`tenon_kernel::Timeline`]): what a loop uses from outside lives as long as the loop. Buffers are placed largest first, each in the smallest
//! gap between those that live at the same time (after Pisarchyk & Lee, "Efficient Memory Management for Deep Neural Net Inference",
//! 2020, section 5.2), and in other orders where that needs more than the lower bound. The lower bound is the largest sum of sizes alive at one call.

use std::collections::{BTreeMap, BTreeSet};
use tenon_kernel::{BufferId, BufferKind, Program, Timeline};

/// Pairs of lives that are compared at most in the search for a better order, from each of the first orders.
const WORK: usize = 20_000_000;
/// Orders that are tried at most from each.
const MOST_TRIES: usize = 200;

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

impl Life {
    /// Whether there is a moment at which both live.
    fn meets(&self, other: &Life) -> bool {
        self.first <= other.last && other.first <= self.last
    }
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
    let (places, size) = search(&placed, &lives, program.state_bytes(), bound);
    placed.extend(places.into_iter().zip(lives));
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

/// Offsets of `lives`, largest first, and the size they need: the best of several orders. Largest first is mostly the best; where it is
/// not, what stuck out is placed earlier the next time ("squeaky wheel" optimization: Joslin and Clements, JAIR 10, 1999), until nothing does.
fn search(fixed: &[(usize, Life)], lives: &[Life], from: usize, bound: usize) -> (Vec<usize>, usize) {
    let n = lives.len();
    let tries = (WORK / (n * n).max(1)).clamp(1, MOST_TRIES);
    let span = |i: &usize| lives[*i].last - lives[*i].first;
    let mut longest: Vec<usize> = (0..n).collect();
    longest.sort_by_key(|i| std::cmp::Reverse(span(i)));
    let mut area: Vec<usize> = (0..n).collect();
    area.sort_by_key(|i| std::cmp::Reverse((span(i) + 1).saturating_mul(lives[*i].bytes)));
    let mut best: Option<(Vec<usize>, usize)> = None;
    // Who lives at the same time as each; where there is only one try for each order, finding that out takes as long as the tries.
    let meet = |i: usize| (0..n).filter(move |j| lives[i].meets(&lives[*j])).collect();
    let meeting: Option<Vec<Vec<usize>>> = (tries > 1).then(|| (0..n).map(meet).collect());
    for mut order in [(0..n).collect(), area, longest] {
        for _ in 0..tries {
            let (offsets, size) = place(fixed, lives, meeting.as_deref(), &order, from);
            let (out, inside): (Vec<usize>, Vec<usize>) =
                order.iter().partition(|i| offsets[**i] + lives[**i].bytes > bound);
            if best.as_ref().is_none_or(|(_, least)| size < *least) {
                best = Some((offsets, size));
            }
            if size <= bound || out.is_empty() {
                break;
            }
            // Half as far from the front as they were, so that small ones do not go before all large ones at once.
            let mut places = vec![0; n];
            order.iter().zip(0..).for_each(|(i, place)| places[*i] = place);
            let place_of = |i: &usize| places[*i];
            let mut ranked: Vec<(usize, usize)> = inside.iter().map(|i| (2 * place_of(i) + 1, *i)).collect();
            ranked.extend(out.iter().map(|i| (place_of(i) / 2 * 2, *i)));
            ranked.sort_unstable();
            let next: Vec<usize> = ranked.into_iter().map(|(_, i)| i).collect();
            if next == order {
                break;
            }
            order = next;
        }
    }
    best.unwrap_or_default()
}

/// Puts lives where the smallest gap is that they fit in, one after the other in `order`; the offset of each, and the end of all. `meeting`
/// says of each which others live at the same time, if that is known.
fn place(
    fixed: &[(usize, Life)],
    lives: &[Life],
    meeting: Option<&[Vec<usize>]>,
    order: &[usize],
    from: usize,
) -> (Vec<usize>, usize) {
    let mut offsets = vec![0; lives.len()];
    let mut placed = vec![false; lives.len()];
    let mut size = from;
    let mut busy: Vec<(usize, usize)> = vec![];
    for (n, i) in order.iter().enumerate() {
        let life = &lives[*i];
        busy.clear();
        busy.extend(fixed.iter().filter(|(_, p)| life.meets(p)).map(|(o, p)| (*o, *o + p.bytes)));
        let place = |j: &usize| (offsets[*j], offsets[*j] + lives[*j].bytes);
        match meeting {
            Some(meeting) => busy.extend(meeting[*i].iter().filter(|j| placed[**j]).map(place)),
            None => busy.extend(order[..n].iter().filter(|j| life.meets(&lives[**j])).map(place)),
        }
        busy.sort_unstable();
        // The smallest gap that fits; else the end.
        let mut best: Option<(usize, usize)> = None;
        let mut end = 0;
        for (from, to) in &busy {
            if *from > end && from - end >= life.bytes && best.is_none_or(|(_, gap)| from - end < gap) {
                best = Some((end, from - end));
            }
            end = end.max(*to);
        }
        offsets[*i] = best.map_or(end, |(o, _)| o);
        placed[*i] = true;
        size = size.max(offsets[*i] + life.bytes);
    }
    (offsets, size)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Lives that fill `memory` bytes at each of `moments` moments without a gap: a rectangle, cut in two again and again.
    fn filled(seed: u64, memory: usize, moments: usize, cuts: usize) -> Vec<Life> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        let mut pieces = vec![(0, memory / Program::ALIGN, 0, moments)];
        while pieces.len() < cuts {
            let at = draw(pieces.len());
            let (low, high, first, end) = pieces[at];
            let (tall, long) = (high - low, end - first);
            let cut = if draw(2) == 0 && tall > 1 {
                let c = low + 1 + draw(tall - 1);
                [(low, c, first, end), (c, high, first, end)]
            } else if long > 1 {
                let c = first + 1 + draw(long - 1);
                [(low, high, first, c), (low, high, c, end)]
            } else {
                continue;
            };
            pieces[at] = cut[0];
            pieces.push(cut[1]);
        }
        let life = |(i, (low, high, first, end)): (usize, (usize, usize, usize, usize))| Life {
            ids: vec![BufferId(i as u32)],
            bytes: (high - low) * Program::ALIGN,
            first,
            last: end - 1,
        };
        let mut lives: Vec<Life> = pieces.into_iter().enumerate().map(life).collect();
        lives.sort_by_key(|l| (std::cmp::Reverse(l.bytes), l.first, l.ids[0]));
        lives
    }

    #[test]
    fn lives_that_fit_without_a_gap_nearly_do() {
        let memory = 1 << 20;
        let (mut first, mut found) = (0, 0);
        for seed in 0..40 {
            let lives = filled(seed, memory, 60, 20 + seed as usize);
            assert_eq!(lower_bound(&lives, 60), memory);
            let by_size: Vec<usize> = (0..lives.len()).collect();
            let (_, largest_first) = place(&[], &lives, None, &by_size, 0);
            let (offsets, size) = search(&[], &lives, 0, memory);
            for (i, a) in lives.iter().enumerate() {
                assert!(offsets[i] + a.bytes <= size);
                for (j, b) in lives.iter().enumerate().skip(i + 1) {
                    let apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
                    assert!(apart || a.last < b.first || b.last < a.first, "{i} and {j} lie on each other");
                }
            }
            assert!(size <= largest_first);
            first += largest_first;
            found += size;
        }
        let over = |n: usize| n as f64 / (40 * memory) as f64 - 1.0;
        assert!(over(found) < 0.05 && over(first) > 2.0 * over(found), "{} after {}", over(found), over(first));
    }
}

//! DAG-aware extraction: one choice a class so that the sum over *distinct* chosen nodes is least.
//!
//! The exact problem is NP-hard and integer programming does not pay here. Two seeds (greedy on DAG costs; area flow: tree costs
//! with a child's cost shared among its users) are each polished by reference-counted local search: detach a class, try
//! every alternative at its true price, keep the best. Every accepted move lowers the true cost.
//!
//! Invariant: the choice is acyclic and reaches all roots. A random test compares with brute force.

use rayon::prelude::*;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;

/// One way to make a class.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Its own price.
    pub cost: f64,
    /// Classes that must be made first, ascending and distinct.
    pub needs: Vec<u32>,
    /// The caller's name for it.
    pub tag: u32,
}

/// What is to be extracted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Problem {
    /// Choices by class.
    pub classes: Vec<Vec<Choice>>,
    /// What must be made.
    pub roots: Vec<u32>,
}

/// The choices that need a class, and whose they are, by class.
type Users = [Vec<(u32, u32)>];

/// A choice by class; `None` where none is needed or possible.
pub type Solution = Vec<Option<u32>>;

/// Classes beyond which greedy on DAG costs, whose sets grow with the square, is left out.
const GREEDY_CLASSES: usize = 10_000;
/// Iterations of area flow.
const FLOWS: usize = 6;
/// How often the cost of one class may fall. Once is enough but where classes need each other; round a circle that sharing makes look
/// cheap, costs would fall for ever.
const DECREASES: u32 = 16;
/// Sweeps of local search, which nearly always ends by itself after three.
const SWEEPS: usize = 30;

impl Problem {
    /// Drops choices that need their own class, and those that another beats at no more needs and no higher price.
    pub fn prune(&mut self) {
        for (c, choices) in self.classes.iter_mut().enumerate() {
            choices.iter_mut().for_each(|n| {
                n.needs.sort_unstable();
                n.needs.dedup();
            });
            choices.retain(|n| n.needs.binary_search(&(c as u32)).is_err());
            let beats = |i: usize, j: usize, all: &[Choice]| {
                let (a, b) = (&all[i], &all[j]);
                let better = a.cost < b.cost || a.needs.len() < b.needs.len() || i < j;
                a.cost <= b.cost && better && a.needs.iter().all(|k| b.needs.binary_search(k).is_ok())
            };
            let mut keep = vec![true; choices.len()];
            for j in 0..choices.len() {
                keep[j] = !(0..choices.len()).any(|i| i != j && keep[i] && beats(i, j, choices));
            }
            let mut at = 0;
            choices.retain(|_| {
                at += 1;
                keep[at - 1]
            });
        }
    }

    /// The price of what `s` chooses for the roots; `None` if something has no choice or needs itself.
    pub fn cost(&self, s: &Solution) -> Option<f64> {
        let mut state = vec![0u8; self.classes.len()];
        let mut total = 0.0;
        let mut stack: Vec<(u32, bool)> = self.roots.iter().map(|r| (*r, false)).collect();
        while let Some((c, left)) = stack.pop() {
            let u = c as usize;
            if left {
                state[u] = 2;
                continue;
            }
            if state[u] == 2 {
                continue;
            }
            if state[u] == 1 {
                // On the path only if it was entered and not left: other copies on the stack are popped after that.
                continue;
            }
            state[u] = 1;
            let choice = &self.classes[u][s[u]? as usize];
            total += choice.cost;
            stack.push((c, true));
            for k in &choice.needs {
                match state[*k as usize] {
                    1 => return None,
                    0 => stack.push((*k, false)),
                    _ => {}
                }
            }
        }
        Some(total)
    }

    fn users(&self) -> Vec<Vec<(u32, u32)>> {
        let mut all = vec![vec![]; self.classes.len()];
        for (c, choices) in self.classes.iter().enumerate() {
            for (i, n) in choices.iter().enumerate() {
                for k in &n.needs {
                    all[*k as usize].push((c as u32, i as u32));
                }
            }
        }
        all
    }
}

/// The best choice found, and its price; `None` if some root cannot be made.
pub fn extract(p: &Problem) -> Option<(Solution, f64)> {
    let users = p.users();
    let order = needs_first(p);
    let (greedy, flows) = rayon::join(
        || (p.classes.len() <= GREEDY_CLASSES).then(|| greedy(p, &users, &order)),
        || area_flow(p, &users, &order),
    );
    let mut seeds: Vec<Solution> = vec![];
    for s in greedy.into_iter().filter(|s| p.cost(s).is_some()).chain(flows) {
        if !seeds.contains(&s) {
            seeds.push(s);
        }
    }
    let circles: Arc<[u32]> = circles(p).into();
    let polish = |s| Local::new(p, s, Arc::clone(&circles)).run(&users);
    let polished: Vec<(Solution, f64)> = seeds.into_par_iter().map(polish).collect();
    // The first of those that cost the same.
    polished.into_iter().reduce(|best, other| if other.1 < best.1 - 1e-9 { other } else { best })
}

/// All classes, each behind those that its choices need, as far as these do not need each other.
fn needs_first(p: &Problem) -> Vec<u32> {
    let mut order = vec![];
    let mut met = vec![false; p.classes.len()];
    for root in 0..p.classes.len() as u32 {
        let mut stack = vec![(root, false)];
        while let Some((c, left)) = stack.pop() {
            if left {
                order.push(c);
            } else if !std::mem::replace(&mut met[c as usize], true) {
                stack.push((c, true));
                let needs = p.classes[c as usize].iter().flat_map(|n| &n.needs);
                stack.extend(needs.filter(|k| !met[**k as usize]).map(|k| (*k, false)));
            }
        }
    }
    order
}

/// Where each class is in `order`.
fn places(order: &[u32]) -> Vec<u32> {
    let mut place = vec![0; order.len()];
    order.iter().zip(0..).for_each(|(c, i)| place[*c as usize] = i);
    place
}

/// Least tree costs, a child's cost divided by `share`; and the choices that have them. `order` is [`needs_first`]: where nothing goes
/// round in a circle, every class is looked at once.
fn tree(p: &Problem, users: &Users, order: &[u32], share: &[f64]) -> (Solution, Vec<f64>) {
    let n = p.classes.len();
    let place = places(order);
    let (mut best, mut choice) = (vec![f64::INFINITY; n], vec![None; n]);
    let mut queue: BinaryHeap<Reverse<u32>> = (0..n as u32).map(Reverse).collect();
    let mut queued = vec![true; n];
    let mut left = vec![DECREASES; n];
    while let Some(Reverse(i)) = queue.pop() {
        let u = order[i as usize] as usize;
        queued[u] = false;
        let mut found = (best[u], choice[u]);
        for (i, node) in p.classes[u].iter().enumerate() {
            let t = node.needs.iter().fold(node.cost, |t, k| t + best[*k as usize] / share[*k as usize]);
            if t < found.0 * (1.0 - 1e-12) || (t.is_finite() && found.1.is_none()) {
                found = (t, Some(i as u32));
            }
        }
        if found.0 < best[u] && left[u] > 0 {
            (best[u], choice[u]) = found;
            left[u] -= 1;
            for (user, _) in &users[u] {
                if !queued[*user as usize] {
                    queued[*user as usize] = true;
                    queue.push(Reverse(place[*user as usize]));
                }
            }
        }
    }
    (choice, best)
}

/// What a class costs with all it needs, each counted once.
struct Set {
    /// The classes, ascending, with the price of each.
    costs: Vec<(u32, f64)>,
    total: f64,
    choice: u32,
}

/// Sets that become one: a place for every class, as merging lists would take as long again for every one of them.
struct Union {
    /// A bit a class.
    present: Vec<u64>,
    costs: Vec<f64>,
}

impl Union {
    fn new(classes: usize) -> Union {
        Union { present: vec![0; classes.div_ceil(64)], costs: vec![0.0; classes] }
    }

    /// Adds a class, or gives it another price.
    fn insert(&mut self, class: u32, cost: f64) {
        self.present[class as usize / 64] |= 1 << (class % 64);
        self.costs[class as usize] = cost;
    }

    fn contains(&self, class: u32) -> bool {
        self.present[class as usize / 64] & 1 << (class % 64) != 0
    }

    /// Moves what was inserted to `all`, ascending.
    fn take(&mut self, all: &mut Vec<(u32, f64)>) {
        all.clear();
        for (word, first) in self.present.iter_mut().zip((0u32..).step_by(64)) {
            let mut bits = std::mem::take(word);
            while bits != 0 {
                let class = first + bits.trailing_zeros();
                all.push((class, self.costs[class as usize]));
                bits &= bits - 1;
            }
        }
    }
}

/// Each class by the choice that costs least with all it needs, each counted once. As in [`tree`], `order` is [`needs_first`]: a class is
/// looked at when those below it are as cheap as they get, so that few sets are made more than once.
fn greedy(p: &Problem, users: &Users, order: &[u32]) -> Solution {
    let mut sets: Vec<Option<Set>> = (0..p.classes.len()).map(|_| None).collect();
    let (mut union, mut costs) = (Union::new(p.classes.len()), vec![]);
    let place = places(order);
    // Choices by the places of their classes.
    let mut queue: BTreeSet<(u32, u32)> = BTreeSet::new();
    for (c, choices) in p.classes.iter().enumerate() {
        let ready = choices.iter().zip(0..).filter(|(n, _)| n.needs.is_empty());
        queue.extend(ready.map(|(_, i)| (place[c], i)));
    }
    while let Some((at, i)) = queue.pop_first() {
        let c = order[at as usize];
        let node = &p.classes[c as usize][i as usize];
        let Some(parts) = node.needs.iter().map(|k| sets[*k as usize].as_ref()).collect::<Option<Vec<&Set>>>() else {
            continue;
        };
        let before = sets[c as usize].as_ref().map_or(f64::INFINITY, |s| s.total);
        let least = parts.iter().map(|s| s.total).fold(0.0, f64::max);
        if node.cost + least >= before {
            continue;
        }
        for (k, cost) in parts.iter().flat_map(|part| &part.costs) {
            union.insert(*k, *cost);
        }
        let circle = union.contains(c);
        union.insert(c, node.cost);
        union.take(&mut costs);
        if circle {
            continue;
        }
        let total: f64 = costs.iter().map(|(_, cost)| cost).sum();
        if total < before - 1e-12 || before.is_infinite() {
            sets[c as usize] = Some(Set { costs: costs.clone(), total, choice: i });
            queue.extend(users[c as usize].iter().map(|(user, i)| (place[*user as usize], *i)));
        }
    }
    sets.into_iter().map(|s| s.map(|s| s.choice)).collect()
}

/// The choices of area flow, one after the other, that are acyclic.
fn area_flow(p: &Problem, users: &Users, order: &[u32]) -> Vec<Solution> {
    let mut share = vec![1.0f64; p.classes.len()];
    let mut found: Vec<Solution> = vec![];
    for _ in 0..FLOWS {
        let (s, _) = tree(p, users, order, &share);
        if p.cost(&s).is_none() {
            // Sharing made a cycle look cheap: believe less in it.
            share.iter_mut().for_each(|d| *d = d.sqrt());
            continue;
        }
        for (d, uses) in share.iter_mut().zip(uses(p, &s)) {
            *d = 0.5 * *d + 0.5 * f64::from(uses.max(1));
        }
        found.push(s);
    }
    found
}

/// How many of the classes that `s` needs for the roots, and how many roots, need each class.
fn uses(p: &Problem, s: &Solution) -> Vec<u32> {
    let mut uses = vec![0; p.classes.len()];
    let mut stack = p.roots.clone();
    while let Some(c) = stack.pop() {
        uses[c as usize] += 1;
        if uses[c as usize] == 1
            && let Some(i) = s[c as usize]
        {
            stack.extend(&p.classes[c as usize][i as usize].needs);
        }
    }
    uses
}

/// Numbers of classes: what a class needs, by whichever choice, has no higher one than itself, and the same only where both need each other.
/// (Tarjan's strongly connected components, as he finds them.)
fn circles(p: &Problem) -> Vec<u32> {
    const NONE: u32 = u32::MAX;
    let n = p.classes.len();
    // When each was met, the first of those that are not numbered yet that it leads to, and its number.
    let (mut met, mut first, mut number) = (vec![NONE; n], vec![NONE; n], vec![NONE; n]);
    let (mut time, mut numbers) = (0, 0);
    let mut open: Vec<u32> = vec![];
    for root in 0..n as u32 {
        let mut stack = vec![(root, false)];
        while let Some((c, left)) = stack.pop() {
            let u = c as usize;
            let needs = || p.classes[u].iter().flat_map(|choice| &choice.needs);
            if left {
                let lowest = needs().filter(|k| number[**k as usize] == NONE).map(|k| first[*k as usize]).min();
                first[u] = first[u].min(lowest.unwrap_or(NONE));
                if first[u] == met[u] {
                    while let Some(member) = open.pop() {
                        number[member as usize] = numbers;
                        if member == c {
                            break;
                        }
                    }
                    numbers += 1;
                }
            } else if met[u] == NONE {
                (met[u], first[u]) = (time, time);
                time += 1;
                open.push(c);
                stack.push((c, true));
                stack.extend(needs().filter(|k| met[**k as usize] == NONE).map(|k| (*k, false)));
            }
        }
    }
    number
}

/// Local search on true costs.
#[derive(Debug)]
struct Local<'p> {
    p: &'p Problem,
    choice: Solution,
    /// Chosen users of each class, roots included.
    uses: Vec<u32>,
    total: f64,
    seen: Vec<u32>,
    stamp: u32,
    /// What a walk has still to look at; empty between walks.
    stack: Vec<u32>,
    /// See [`circles`].
    circles: Arc<[u32]>,
    /// How often something was changed, and how often it had been when no better choice was found for each class.
    changes: u32,
    settled: Vec<u32>,
}

impl<'p> Local<'p> {
    /// `choice` is acyclic and reaches the roots.
    fn new(p: &'p Problem, choice: Solution, circles: Arc<[u32]>) -> Local<'p> {
        let n = p.classes.len();
        let (uses, seen, settled) = (vec![0; n], vec![0; n], vec![0; n]);
        let (total, stamp, stack, changes) = (0.0, 0, vec![], 1);
        let mut l = Local { p, choice, uses, total, seen, stamp, stack, circles, changes, settled };
        for r in &p.roots {
            l.total += l.take(*r);
        }
        l
    }

    fn chosen(&self, c: u32) -> Option<&'p Choice> {
        self.choice[c as usize].map(|i| &self.p.classes[c as usize][i as usize])
    }

    /// One more use of `c`; the price of what is new with it, infinite if it cannot be made.
    fn take(&mut self, c: u32) -> f64 {
        let mut price = 0.0;
        self.stack.push(c);
        while let Some(c) = self.stack.pop() {
            self.uses[c as usize] += 1;
            if self.uses[c as usize] == 1 {
                match self.chosen(c) {
                    Some(n) => {
                        price += n.cost;
                        self.stack.extend(&n.needs);
                    }
                    None => price = f64::INFINITY,
                }
            }
        }
        price
    }

    /// One use less of `c`; the price of what is needed no more.
    fn drop(&mut self, c: u32) -> f64 {
        let mut price = 0.0;
        self.stack.push(c);
        while let Some(c) = self.stack.pop() {
            self.uses[c as usize] -= 1;
            if self.uses[c as usize] == 0
                && let Some(n) = self.chosen(c)
            {
                price += n.cost;
                self.stack.extend(&n.needs);
            }
        }
        price
    }

    /// Whether `from` leads to `to` by the choices made.
    fn reaches(&mut self, from: &'p [u32], to: u32) -> bool {
        self.stamp += 1;
        // From lower numbers on no way leads back up.
        let (circles, least) = (Arc::clone(&self.circles), self.circles[to as usize]);
        let near = |needs: &'p [u32]| needs.iter().filter(|k| circles[**k as usize] >= least);
        self.stack.extend(near(from));
        while let Some(c) = self.stack.pop() {
            if std::mem::replace(&mut self.seen[c as usize], self.stamp) == self.stamp {
                continue;
            }
            match self.chosen(c).filter(|_| c != to) {
                Some(n) => self.stack.extend(near(&n.needs)),
                None => {
                    self.stack.clear();
                    return true;
                }
            }
        }
        false
    }

    /// What the price changes by when class `c`, made by `old`, is made by `new`. The change stays until [`Self::undo`].
    ///
    /// What is new is taken before what is old is dropped: what both need is walked by neither, so that a change costs what differs
    /// and not all that lies below.
    fn change(&mut self, old: &Choice, new: &Choice) -> f64 {
        let more = new.needs.iter().fold(new.cost, |t, k| t + self.take(*k));
        let less = old.needs.iter().fold(old.cost, |t, k| t + self.drop(*k));
        more - less
    }

    /// The uses as they were before `change(old, new)`.
    fn undo(&mut self, old: &Choice, new: &Choice) {
        old.needs.iter().for_each(|k| {
            self.take(*k);
        });
        new.needs.iter().for_each(|k| {
            self.drop(*k);
        });
    }

    fn sweep(&mut self, order: impl Iterator<Item = u32>) -> usize {
        let mut moves = 0;
        for c in order {
            let u = c as usize;
            let (Some(now), true) = (self.choice[u], self.uses[u] > 0 && self.p.classes[u].len() > 1) else {
                continue;
            };
            // It was looked at when all was as it is now.
            if self.settled[u] == self.changes {
                continue;
            }
            let p = self.p;
            let old = &p.classes[u][now as usize];
            let mut best = (0.0, now);
            for (i, n) in p.classes[u].iter().enumerate() {
                if i as u32 == now {
                    continue;
                }
                let price = self.change(old, n);
                self.undo(old, n);
                // The way below is long: it is looked at only where a choice would be taken.
                if price < best.0 - 1e-9 && !self.reaches(&n.needs, c) {
                    best = (price, i as u32);
                }
            }
            if best.1 == now {
                self.settled[u] = self.changes;
            } else {
                moves += 1;
                self.changes += 1;
                self.total += self.change(old, &p.classes[u][best.1 as usize]);
                self.choice[u] = Some(best.1);
            }
        }
        moves
    }

    /// Several classes at once to the choices that share a class nobody uses yet, where that pays for it: no single move
    /// does, since the first would pay alone. Gives whether something changed.
    fn share(&mut self, users: &Users) -> bool {
        let p = self.p;
        let mut changed = false;
        for (k, users) in users.iter().enumerate() {
            if self.uses[k] > 0 || self.choice[k].is_none() {
                continue;
            }
            // As if it were there: then every class to the best choice that needs it.
            let mut price = self.take(k as u32);
            let mut moved: Vec<(u32, u32)> = vec![];
            let can_be = price.is_finite();
            for users in users.chunk_by(|a, b| a.0 == b.0).filter(|_| can_be) {
                let c = users[0].0;
                let (Some(now), true) = (self.choice[c as usize], self.uses[c as usize] > 0) else { continue };
                let old = &p.classes[c as usize][now as usize];
                let mut best = (0.0, now);
                for &(_, i) in users.iter().filter(|(_, i)| *i != now) {
                    let new = &p.classes[c as usize][i as usize];
                    let change = self.change(old, new);
                    self.undo(old, new);
                    if change < best.0 - 1e-9 && !self.reaches(&new.needs, c) {
                        best = (change, i);
                    }
                }
                if best.1 != now {
                    price += self.change(old, &p.classes[c as usize][best.1 as usize]);
                    self.choice[c as usize] = Some(best.1);
                    moved.push((c, now));
                }
            }
            if price < -1e-9 {
                self.total += price;
                self.changes += 1;
                changed = true;
            } else {
                for &(c, before) in moved.iter().rev() {
                    if let Some(new) = self.chosen(c) {
                        self.undo(&p.classes[c as usize][before as usize], new);
                    }
                    self.choice[c as usize] = Some(before);
                }
            }
            self.drop(k as u32);
        }
        changed
    }

    fn run(mut self, users: &Users) -> (Solution, f64) {
        let n = self.p.classes.len() as u32;
        for _ in 0..SWEEPS {
            if self.sweep(0..n) + self.sweep((0..n).rev()) == 0 && !self.share(users) {
                break;
            }
        }
        // Sums of differences drift: count again.
        let cost = self.p.cost(&self.choice).unwrap_or(self.total);
        (self.choice, cost)
    }
}

/// What alternatives to a solution would cost.
#[derive(Debug)]
pub struct Alternatives<'p>(Local<'p>);

impl<'p> Alternatives<'p> {
    /// To solution `s`, which is acyclic and reaches the roots.
    pub fn to(p: &'p Problem, s: &Solution) -> Alternatives<'p> {
        Alternatives(Local::new(p, s.clone(), circles(p).into()))
    }

    /// The price if class `c` were made by `choice` and all else stayed, less the price now: what the alternative lost by. `None` if it
    /// would need itself, or the class is not used.
    pub fn difference(&mut self, c: u32, choice: u32) -> Option<f64> {
        let local = &mut self.0;
        let now = local.chosen(c)?;
        if local.uses[c as usize] == 0 {
            return None;
        }
        let new = &local.p.classes[c as usize][choice as usize];
        if local.reaches(&new.needs, c) {
            return None;
        }
        let price = local.change(now, new);
        local.undo(now, new);
        price.is_finite().then_some(price)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every acyclic choice.
    fn brute_force(p: &Problem) -> Option<f64> {
        let n = p.classes.len();
        let mut s: Solution = vec![None; n];
        let mut best = None;
        fn go(p: &Problem, s: &mut Solution, c: usize, best: &mut Option<f64>) {
            if c == p.classes.len() {
                if let Some(cost) = p.cost(s)
                    && best.is_none_or(|b| cost < b)
                {
                    *best = Some(cost);
                }
                return;
            }
            if p.classes[c].is_empty() {
                return go(p, s, c + 1, best);
            }
            for i in 0..p.classes[c].len() as u32 {
                s[c] = Some(i);
                go(p, s, c + 1, best);
            }
            s[c] = None;
        }
        go(p, &mut s, 0, &mut best);
        best
    }

    fn drawn(seed: u64) -> Problem {
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = |n: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x % n
        };
        let n = 4 + next(6) as usize;
        let mut p = Problem { classes: vec![vec![]; n], roots: vec![0] };
        for c in 0..n {
            for tag in 0..1 + next(3) {
                // Mostly acyclic, with some ways back, as transposes and their inverses make them.
                let mut needs: Vec<u32> = (0..next(3))
                    .map(|_| if next(5) == 0 { next(n as u64) } else { c as u64 + 1 + next(n as u64) })
                    .filter(|k| *k < n as u64)
                    .map(|k| k as u32)
                    .collect();
                needs.sort_unstable();
                needs.dedup();
                p.classes[c].push(Choice { cost: 1.0 + next(20) as f64, needs, tag: tag as u32 });
            }
        }
        if next(2) == 0 {
            p.roots.push(1);
        }
        p
    }

    #[test]
    fn extraction_is_within_a_percent_of_the_best_on_small_problems() {
        let (mut sum, mut least, mut missed) = (0.0, 0.0, 0);
        for seed in 0..400 {
            let mut p = drawn(seed);
            let expected = brute_force(&p);
            p.prune();
            assert_eq!(brute_force(&p), expected, "pruning keeps the best, seed {seed}");
            let found = extract(&p);
            if let Some((s, cost)) = &found {
                assert_eq!(p.cost(s), Some(*cost), "seed {seed}: the price is that of the choice");
            }
            let Some(best) = expected else {
                assert!(found.is_none());
                continue;
            };
            // A seed of tree costs can end in a cycle where the only way round is dear; that is rare, and never silent.
            let (_, cost) = found.unwrap_or_else(|| panic!("seed {seed}: nothing found"));
            assert!(cost >= best - 1e-9 && cost <= best * 1.3, "seed {seed}: {cost} against {best}");
            missed += usize::from(cost > best + 1e-9);
            sum += cost;
            least += best;
        }
        assert!(sum <= 1.01 * least, "{sum} against {least}");
        assert!(missed <= 40, "{missed} of 400 missed");
    }

    #[test]
    fn what_is_shared_is_paid_once() {
        let c = |cost, needs: &[u32]| Choice { cost, needs: needs.to_vec(), tag: 0 };
        // 0 needs 1 and 2, both of which can be made from 3 or alone.
        let p = Problem {
            classes: vec![
                vec![c(1.0, &[1, 2])],
                vec![c(7.0, &[]), c(1.0, &[3])],
                vec![c(7.0, &[]), c(1.0, &[3])],
                vec![c(9.0, &[])],
            ],
            roots: vec![0],
        };
        let (s, cost) = extract(&p).expect("found");
        assert_eq!((cost, s[1], s[2]), (12.0, Some(1), Some(1)));
        let mut other = Alternatives::to(&p, &s);
        assert_eq!([other.difference(1, 0), other.difference(1, 0)], [Some(6.0); 2], "asking changes nothing");
    }
}

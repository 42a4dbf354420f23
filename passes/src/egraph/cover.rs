//! Kernel cover: every way, within bounds, in which nodes can be computed in one loop nest.
//!
//! As in technology mapping with structural choices: bottom up, each class gets a few *cuts*, cones of nodes with the classes
//! they read. A cone has at most one anchor, which shapes the loops; what follows it must be elementwise on its result (the
//! epilogue), what stands before it is computed where it is read (the prologue), which each anchor allows or not
//! ([`Prologue`]). Cones may overlap: what two kernels need may be computed in both, and that costs what it costs.
//!
//! A class keeps its best cuts by what they save: the price of the cone, less what its members cost alone, counting only
//! members nobody else needs. Ranking by price alone evicts good fusions in favour of cones that compute much twice.
//!
//! Invariants, held by [`Cover::finish`], through which every cut goes: a cone is acyclic, its root is no leaf of it, and
//! `crate::lower` can write it.

use super::cost::{Cost, bytes};
use super::extract::{Choice, Problem};
use super::space::{Arg, Item, Part, Space};
use crate::halo::{PIECE, pieces};
use smallvec::{SmallVec, smallvec};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use tenon_base::Fact;
use tenon_ir::lower::{flatten, move_element, unflatten};
use tenon_ir::{Op, Operator};
use tenon_kernel::simplify::simplify_index;
use tenon_kernel::{Affine, Expr, Var};

/// Merged cuts that a class keeps.
const KEPT: usize = 8;
/// Cones that go on from operand to operand of a node.
const FRONT: usize = 6;
/// Merged cuts of an operand that are tried.
const TRIED: usize = 5;
/// Cuts of the same operators in the same classes' places that a class keeps: they differ in which of many equal values they read.
const ALIKE: usize = 2;
/// Nodes of a cone.
const NODES: usize = 24;
/// Classes a cone reads.
const LEAVES: usize = 12;
/// How often an inlined operator's expression may be written.
const TIMES: usize = 8;
/// Nodes of an epilogue's expression, shared parts counted each time they are written.
const EXPRESSION: usize = 64;

/// A node: class and position in it.
pub type At = (u32, u32);

/// A way to make a class in one kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Cut {
    /// The cone, ascending.
    pub nodes: Vec<At>,
    /// What it reads, ascending.
    pub leaves: Vec<u32>,
    /// The node that shapes the loops; `None` for cones without one, which are elementwise, and for views.
    pub anchor: Option<At>,
    /// Price of the kernel; 0 if there is nothing to do.
    pub cost: f64,
}

impl Cut {
    /// Whether the cone is no kernel at all.
    pub fn is_free(&self) -> bool {
        self.cost == 0.0
    }
}

/// What an anchor lets be computed where it reads an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prologue {
    /// Nothing: it reads the operand again and again.
    Nothing,
    /// Moves that leave its loads affine.
    Moves,
    /// Anything elementwise; each element is read so many times.
    Anything(usize),
}

fn prologue(op: &Op, operand: usize) -> Prologue {
    match (op, operand) {
        (Op::MatMul(_), _) | (Op::Conv(_), 0) => Prologue::Moves,
        (Op::Softmax(_) | Op::LayerNorm(_), 0) => Prologue::Anything(3),
        (Op::Reduce(r), 0) => {
            Prologue::Anything(if r.kind == tenon_ir::ops::reduce::Kind::LogSumExp { 2 } else { 1 })
        }
        (Op::Concat(_), _) => Prologue::Anything(1),
        _ => Prologue::Nothing,
    }
}

/// All cuts.
#[derive(Debug)]
pub struct Cover<'s, 'e> {
    /// What is covered.
    pub space: &'s Space<'e>,
    /// Prices.
    cost: Cost<'s>,
    /// By class: first one for each node alone, then merged ones.
    pub cuts: Vec<Vec<Cut>>,
    /// Cycles of each node.
    work: Vec<Vec<f64>>,
    /// Distance of each class from the inputs, by tree price: children lie below their users.
    rank: Vec<f64>,
    /// Classes that use each, as far as can be told before the choice; an output has itself.
    users: Vec<Vec<u32>>,
    /// What each node costs alone.
    alone: Vec<Vec<f64>>,
    /// Price of each class without any fusion: that of its longest chain.
    price: Vec<f64>,
    known: Known,
}

/// What was found out about chains of views and moves, by their nodes: many cones have the same.
#[derive(Debug, Default)]
pub(super) struct Known {
    stores: RefCell<BTreeMap<Vec<At>, bool>>,
    moves: RefCell<BTreeMap<Vec<At>, bool>>,
}

/// What `known` says of `chain`; if nothing, what `find` does.
fn recall(known: &RefCell<BTreeMap<Vec<At>, bool>>, chain: &[At], find: impl FnOnce() -> bool) -> bool {
    let before = known.borrow().get(chain).copied();
    before.unwrap_or_else(|| {
        let found = find();
        known.borrow_mut().insert(chain.to_vec(), found);
        found
    })
}

impl<'s, 'e> Cover<'s, 'e> {
    /// Covers `space` for the target of `cost`.
    pub fn new(space: &'s Space<'e>, cost: Cost<'s>) -> Cover<'s, 'e> {
        let n = space.classes.len();
        let (cuts, work, alone, known) = (vec![vec![]; n], vec![], Vec::with_capacity(n), Known::default());
        let mut c = Cover { space, cost, cuts, work, rank: vec![], users: vec![], alone, price: vec![], known };
        c.work = (0..n as u32).map(|class| c.class_work(class)).collect();
        for class in 0..n as u32 {
            let nodes = 0..space.classes[class as usize].items.len() as u32;
            let alone: Vec<Option<Cut>> = nodes.map(|i| c.finish(class, &[(class, i)])).collect();
            c.alone.push(alone.iter().map(|cut| cut.as_ref().map_or(0.0, |cut| cut.cost)).collect());
            c.cuts[class as usize] = alone.into_iter().flatten().collect();
        }
        c.rank = c.ranks();
        (c.users, c.price) = c.likely_users();
        let mut order: Vec<u32> = (0..n as u32).collect();
        order.sort_by(|a, b| c.rank[*a as usize].total_cmp(&c.rank[*b as usize]).then(a.cmp(b)));
        for class in order {
            let merged = c.merge(class);
            c.cuts[class as usize].extend(merged);
        }
        c
    }

    /// The extraction problem: one choice a cut, tagged with its position.
    pub fn problem(&self) -> Problem {
        let choice = |(i, c): (usize, &Cut)| Choice { cost: c.cost, needs: c.leaves.clone(), tag: i as u32 };
        Problem {
            classes: self.cuts.iter().map(|all| all.iter().enumerate().map(choice).collect()).collect(),
            roots: self.space.roots.clone(),
        }
    }

    fn class_work(&self, class: u32) -> Vec<f64> {
        let c = &self.space.classes[class as usize];
        let cycles = |item: u32| {
            let ins: Vec<Fact> =
                self.space.item((class, item)).args.iter().map(|a| self.space.arg_fact(*a)).collect();
            self.space.op((class, item)).map_or(0.0, |op| self.cost.operations(op, &ins, &c.facts))
        };
        (0..c.items.len() as u32).map(cycles).collect()
    }

    /// Least tree prices.
    fn ranks(&self) -> Vec<f64> {
        let n = self.cuts.len();
        let mut users = vec![vec![]; n];
        for (c, cuts) in self.cuts.iter().enumerate() {
            cuts.iter().flat_map(|k| &k.leaves).for_each(|l| users[*l as usize].push(c as u32));
        }
        let mut best = vec![f64::INFINITY; n];
        let mut queue: VecDeque<u32> = (0..n as u32).collect();
        let mut left = 200 * n + 1000;
        while let Some(c) = queue.pop_front() {
            left -= 1;
            if left == 0 {
                break;
            }
            // Depth, not price: sums over paths overflow what a float tells apart in deep graphs.
            let depth = |k: &Cut| k.leaves.iter().map(|l| best[*l as usize]).fold(0.0, f64::max) + 1.0;
            let t = self.cuts[c as usize].iter().map(depth).fold(f64::INFINITY, f64::min);
            if t < best[c as usize] {
                best[c as usize] = t;
                queue.extend(&users[c as usize]);
            }
        }
        best
    }

    /// Classes that use each, if every class is made in the cheapest way without any fusion: alternatives that nobody will choose, and what
    /// only those need, use nothing. The price of a way is that of its longest chain; sums would count what is shared again and again.
    fn likely_users(&self) -> (Vec<Vec<u32>>, Vec<f64>) {
        let n = self.cuts.len();
        let mut users: Vec<Vec<u32>> = vec![vec![]; n];
        let mut readers = vec![vec![]; n];
        for (c, cuts) in self.cuts.iter().enumerate() {
            cuts.iter().flat_map(|k| &k.leaves).for_each(|l| readers[*l as usize].push(c as u32));
        }
        let mut price = vec![f64::INFINITY; n];
        let chain = |k: &Cut, price: &[f64]| k.cost + k.leaves.iter().map(|l| price[*l as usize]).fold(0.0, f64::max);
        let mut queue: VecDeque<u32> = (0..n as u32).collect();
        let mut left = 200 * n + 1000;
        while let Some(c) = queue.pop_front().filter(|_| left > 0) {
            left -= 1;
            let p = self.cuts[c as usize].iter().map(|k| chain(k, &price)).fold(f64::INFINITY, f64::min);
            if p < price[c as usize] {
                price[c as usize] = p;
                queue.extend(&readers[c as usize]);
            }
        }
        let mut needed: Vec<u32> = self.space.roots.clone();
        let mut seen = vec![false; n];
        for r in &needed {
            seen[*r as usize] = true;
            users[*r as usize].push(*r);
        }
        while let Some(class) = needed.pop() {
            let cheapest =
                self.cuts[class as usize].iter().min_by(|a, b| chain(a, &price).total_cmp(&chain(b, &price)));
            for leaf in cheapest.map_or(&[][..], |k| &k.leaves) {
                users[*leaf as usize].push(class);
                if !std::mem::replace(&mut seen[*leaf as usize], true) {
                    needed.push(*leaf);
                }
            }
        }
        // What is not needed then may be after all.
        for c in 0..n as u32 {
            let cheapest = self.cuts[c as usize].iter().min_by(|a, b| a.cost.total_cmp(&b.cost));
            for leaf in cheapest.map_or(&[][..], |k| &k.leaves) {
                if !seen[*leaf as usize] {
                    users[*leaf as usize].push(c);
                }
            }
        }
        users.iter_mut().for_each(|users| {
            users.sort_unstable();
            users.dedup();
        });
        (users, price)
    }

    /// The best merged cuts of `class`.
    fn merge(&self, class: u32) -> Vec<Cut> {
        let mut merged: Vec<(f64, Cut)> = vec![];
        let mut seen: BTreeSet<Vec<At>> = BTreeSet::new();
        for i in 0..self.space.classes[class as usize].items.len() as u32 {
            let item = self.space.item((class, i));
            if matches!(item.part, Part::Free | Part::Control) {
                continue;
            }
            let stores = matches!(self.space.op((class, i)), Some(Op::Transpose(_)));
            // The node alone, and places in `merged`.
            let start = [(class, i)];
            let mut front: Vec<usize> = vec![];
            let mut met: SmallVec<[u32; 8]> = smallvec![];
            for (operand, a) in item.args.iter().enumerate() {
                let Arg::Class(leaf) = *a else { continue };
                if met.contains(&leaf) || self.rank[leaf as usize] >= self.rank[class as usize] {
                    continue;
                }
                met.push(leaf);
                if item.part == Part::Anchor
                    && self.space.op((class, i)).is_none_or(|op| prologue(op, operand) == Prologue::Nothing)
                {
                    continue;
                }
                let first = merged.len();
                let alone = self.space.classes[leaf as usize].items.len();
                for cut in self.cuts[leaf as usize].iter().take(alone + TRIED) {
                    let len = |c: u32| self.space.classes[c as usize].len;
                    let other = cut.anchor.is_some_and(|a| len(a.0) != len(class));
                    if cut.anchor.is_some() && (item.part == Part::Anchor || item.part == Part::Move && !stores)
                        || other
                    {
                        continue;
                    }
                    for before in std::iter::once(None).chain(front.iter().map(Some)) {
                        let nodes = before.map_or(&start[..], |at| &merged[*at].1.nodes);
                        let Some(union) = union(nodes, &cut.nodes).filter(|u| u.len() <= NODES) else { continue };
                        if seen.contains(&union[..]) {
                            continue;
                        }
                        let found = self.finish(class, &union);
                        seen.insert(union.into_vec());
                        let Some(found) = found else { continue };
                        merged.push((found.cost - self.saved(&found, class), found));
                    }
                }
                front.extend(first..merged.len());
                front.sort_by(|a, b| {
                    let (a, b) = (&merged[*a], &merged[*b]);
                    a.0.total_cmp(&b.0).then_with(|| a.1.nodes.cmp(&b.1.nodes))
                });
                front.truncate(FRONT - 1);
            }
        }
        // Of equals that whose operands are the cheapest.
        let operands = |c: &Cut| c.leaves.iter().map(|l| self.price[*l as usize]).fold(0.0, f64::max);
        let mut merged: Vec<(f64, f64, Cut)> = merged.into_iter().map(|(gain, c)| (gain, operands(&c), c)).collect();
        merged.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)).then_with(|| a.2.nodes.cmp(&b.2.nodes)));
        let mut kept: BTreeSet<Vec<u32>> = BTreeSet::new();
        let mut alike: BTreeMap<Vec<(u32, &str)>, usize> = BTreeMap::new();
        let mut best = vec![];
        for (_, _, cut) in merged {
            if kept.len() == KEPT {
                break;
            }
            let kind = cut.nodes.iter().map(|at| (at.0, self.space.op(*at).map_or("", Operator::name))).collect();
            let of_kind = alike.entry(kind).or_insert(0);
            // Of cuts with the same leaves the best will do.
            if *of_kind < ALIKE && kept.insert(cut.leaves.clone()) {
                *of_kind += 1;
                best.push(cut);
            }
        }
        best
    }

    /// What the members of a cone cost alone, as far as nobody outside needs them.
    fn saved(&self, cut: &Cut, root: u32) -> f64 {
        let mut own: SmallVec<[u32; NODES]> = smallvec![root];
        loop {
            let before = own.len();
            for (c, _) in &cut.nodes {
                let users = &self.users[*c as usize];
                if !own.contains(c) && !users.is_empty() && users.iter().all(|u| u != c && own.contains(u)) {
                    own.push(*c);
                }
            }
            if own.len() == before {
                break;
            }
        }
        let alone = |(c, i): &At| self.alone[*c as usize][*i as usize];
        cut.nodes.iter().filter(|(c, _)| own.contains(c)).map(alone).sum()
    }

    /// The cut of `root` that computes `nodes` (those of them that it needs), if it is one kernel that can be written.
    fn finish(&self, root: u32, nodes: &[At]) -> Option<Cut> {
        let cone = Cone::new(self.space, root, nodes)?;
        let shape = cone.shape(&self.known)?;
        let evaluations = cone.evaluations(&shape)?;
        if cone.order.iter().all(|at| matches!(self.space.item(*at).part, Part::Free | Part::View)) {
            return Some(Cut { nodes: cone.nodes(), leaves: cone.leaves, anchor: None, cost: 0.0 });
        }
        let mut compute = 0.0;
        for (at, n) in cone.order.iter().zip(&evaluations) {
            let len = self.space.classes[at.0 as usize].len.max(1) as f64;
            compute += self.work[at.0 as usize][at.1 as usize] * (n / len).max(1.0);
        }
        let written = self.space.classes[root as usize].bytes;
        let parts = cone.parts();
        let cost = if parts.bytes > 0.0 && parts.bytes >= written {
            // All of a concatenation is written into it by whoever makes its parts.
            f64::MIN_POSITIVE
        } else {
            let read = cone.read(&parts.classes).into_iter().chain([written - parts.bytes]);
            let moving: f64 = read.map(|bytes| self.cost.moving(bytes)).sum();
            self.cost.kernel(compute * (1.0 - parts.bytes / written.max(1.0)), moving)
        };
        Some(Cut { nodes: cone.nodes(), leaves: cone.leaves, anchor: shape.anchor, cost })
    }
}

/// Parts of a concatenation that are not copied.
#[derive(Default)]
struct Parts {
    classes: Vec<u32>,
    bytes: f64,
}

/// Both, ascending as they are; unless one class is made in two ways.
fn union(mut a: &[At], mut b: &[At]) -> Option<SmallVec<[At; NODES]>> {
    let mut all = smallvec![];
    while let (Some((x, behind)), Some((y, beyond))) = (a.split_first(), b.split_first()) {
        all.push(*x.min(y));
        if x.0 == y.0 && x.1 != y.1 {
            return None;
        }
        if x <= y {
            a = behind;
        }
        if y <= x {
            b = beyond;
        }
    }
    all.extend_from_slice(a);
    all.extend_from_slice(b);
    Some(all)
}

/// Something of each node of a cone, in its order.
type Each<T> = SmallVec<[T; NODES]>;

/// Nodes of one kernel, while they are looked at.
pub(super) struct Cone<'s, 'e> {
    space: &'s Space<'e>,
    /// Users before what they use; the root first.
    pub(super) order: Each<At>,
    /// Classes read, ascending.
    pub(super) leaves: Vec<u32>,
    /// The operands of all nodes, in order: where in the cone each is made, if it is.
    inside: SmallVec<[Option<u16>; 2 * NODES]>,
    /// Where the operands of each node begin.
    begins: Each<u32>,
}

/// The part that each node of a cone plays.
pub(super) struct Shape {
    /// The node that shapes the loops, if it is an operator of that kind.
    pub(super) anchor: Option<At>,
    /// For each node, in the cone's order: whether it depends on the anchor, or is it.
    pub(super) after: Each<bool>,
}

impl<'s, 'e> Cone<'s, 'e> {
    /// The nodes among `nodes`, ascending, that class `root` needs; `None` if they need each other in a circle.
    pub(super) fn new(space: &'s Space<'e>, root: u32, nodes: &[At]) -> Option<Cone<'s, 'e>> {
        let member = |c: u32| nodes.binary_search_by_key(&c, |n| n.0).ok();
        let mut leaves = vec![];
        // By member: whether it was left, once it is met.
        let mut state: Each<Option<bool>> = smallvec![None; nodes.len()];
        let mut order: Each<At> = smallvec![];
        let mut stack: SmallVec<[(usize, bool); 2 * NODES]> = smallvec![(member(root)?, false)];
        while let Some((m, left)) = stack.pop() {
            if left {
                state[m] = Some(true);
                order.push(nodes[m]);
                continue;
            }
            match state[m] {
                Some(true) => continue,
                Some(false) => return None,
                None => state[m] = Some(false),
            }
            stack.push((m, true));
            for a in &space.item(nodes[m]).args {
                let Arg::Class(c) = *a else { continue };
                match member(c) {
                    Some(m) => match state[m] {
                        Some(false) => return None,
                        Some(true) => {}
                        None => stack.push((m, false)),
                    },
                    None if leaves.contains(&c) => {}
                    None => leaves.push(c),
                }
            }
        }
        // One operator alone may read what it will.
        if leaves.len() > LEAVES && order.len() > 1 {
            return None;
        }
        leaves.sort_unstable();
        order.reverse();
        let mut places: Each<u16> = smallvec![0; nodes.len()];
        for (at, place) in order.iter().zip(0..) {
            places[member(at.0)?] = place;
        }
        let (mut inside, mut begins) = (smallvec![], smallvec![]);
        for at in &order {
            begins.push(inside.len() as u32);
            inside.extend(space.item(*at).args.iter().map(|a| match a {
                Arg::Class(c) => member(*c).map(|m| places[m]),
                Arg::Const(_) => None,
            }));
        }
        Some(Cone { space, order, leaves, inside, begins })
    }

    /// The nodes, ascending.
    fn nodes(&self) -> Vec<At> {
        let mut nodes = self.order.to_vec();
        nodes.sort_unstable();
        nodes
    }

    /// Where in the cone the operands of node `i` are made.
    fn operands(&self, i: usize) -> impl Iterator<Item = Option<usize>> + '_ {
        let end = self.begins.get(i + 1).map_or(self.inside.len(), |e| *e as usize);
        self.inside[self.begins[i] as usize..end].iter().map(|p| p.map(usize::from))
    }

    /// Which node is the anchor, and whether all others may stand where they do.
    pub(super) fn shape(&self, known: &Known) -> Option<Shape> {
        let part = |at: &At| self.space.item(*at).part;
        let mut anchors = self.order.iter().filter(|at| part(at) == Part::Anchor);
        let (anchor, more) = (anchors.next().copied(), anchors.next());
        let alone = |at: &At| matches!(part(at), Part::Free | Part::Control);
        if more.is_some() || self.order.len() > 1 && self.order.iter().any(alone) {
            return None;
        }
        let n = self.order.len();
        let mut after: Each<bool> = smallvec![false; n];
        let Some(a) = anchor else { return Some(Shape { anchor, after }) };
        let result = &self.space.classes[a.0 as usize];
        // What is used comes later in the order.
        for i in (0..n).rev() {
            after[i] = self.order[i] == a || self.operands(i).flatten().any(|p| after[p]);
        }
        for (at, _) in self.order.iter().zip(&after).filter(|(at, after)| **after && **at != a) {
            let fits = match part(at) {
                Part::View => true,
                Part::Pointwise => self.space.classes[at.0 as usize].len == result.len,
                Part::Move => matches!(self.space.op(*at), Some(Op::Transpose(_))),
                _ => false,
            };
            if !fits || result.facts.len() != 1 {
                return None;
            }
        }
        if !self.stores_affinely(a, &after, known) {
            return None;
        }
        let op = self.space.op(a)?;
        let at = self.order.iter().position(|at| *at == a)?;
        for (i, first) in self.operands(at).enumerate().filter_map(|(i, first)| Some((i, first?))) {
            let allowed = match prologue(op, i) {
                Prologue::Anything(_) => true,
                Prologue::Moves => self.moves_affinely(first, known),
                Prologue::Nothing => self.only_views(first),
            };
            if !allowed {
                return None;
            }
        }
        Some(Shape { anchor, after })
    }

    /// Whether results can be stored through the transposes behind anchor `a`: the place of an element stays affine in its index, the
    /// innermost elements stay neighbours, and nothing behind a transpose reads what is before it.
    fn stores_affinely(&self, a: At, after: &[bool], known: &Known) -> bool {
        let path: Each<usize> = (0..self.order.len()).rev().filter(|i| after[*i] && self.order[*i] != a).collect();
        if path.iter().all(|i| self.space.item(self.order[*i]).part != Part::Move) {
            return true;
        }
        let chain: Each<At> = std::iter::once(a).chain(path.iter().map(|i| self.order[*i])).collect();
        recall(&known.stores, &chain, || self.path_is_affine(a, &path))
    }

    /// The same for what is behind the anchor, users last.
    fn path_is_affine(&self, a: At, path: &[usize]) -> bool {
        let Some(dims) = self.space.classes[a.0 as usize].facts[0].dims() else { return false };
        let ranges: BTreeMap<Var, (i64, i64)> =
            dims.iter().enumerate().map(|(i, &d)| (Var(i as u32), (0, (d as i64 - 1).max(0)))).collect();
        let simplify = |e: Expr| simplify_index(e, &|v| ranges.get(&v).copied());
        let index: Vec<Expr> = (0..dims.len() as u32).map(|i| Expr::Var(Var(i))).collect();
        let mut flat = simplify(flatten(&index, &dims));
        // By class: behind how many transposes it is.
        let mut behind: BTreeMap<u32, usize> = BTreeMap::from([(a.0, 0)]);
        let mut transposes = 0;
        for i in path {
            let at = self.order[*i];
            let item = self.space.item(at);
            let read: Vec<usize> = item
                .args
                .iter()
                .filter_map(|arg| if let Arg::Class(c) = arg { behind.get(c).copied() } else { None })
                .collect();
            if read.iter().any(|r| *r != transposes) {
                return false;
            }
            if let Some(Op::Transpose(t)) = self.space.op(at) {
                let (Some(from), Some(to)) = (
                    item.args.first().and_then(|a| self.space.arg_fact(*a).dims()),
                    self.space.classes[at.0 as usize].facts[0].dims(),
                ) else {
                    return false;
                };
                let index = unflatten(&flat, &from);
                let moved: Vec<Expr> = t.perm.iter().map(|&a| index[a].clone()).collect();
                flat = simplify(flatten(&moved, &to));
                transposes += 1;
            }
            behind.insert(at.0, transposes);
        }
        let innermost = (0..dims.len()).rev().find(|&i| dims[i] != 1);
        match Affine::of(&flat) {
            Some(f) => innermost.is_none_or(|i| f.coefficient(Var(i as u32)) == 1),
            None => false,
        }
    }

    /// Whether from the node at `first` on there are views alone.
    fn only_views(&self, first: usize) -> bool {
        let mut at = Some(first);
        while let Some(i) = at {
            if self.space.item(self.order[i]).part != Part::View {
                return false;
            }
            at = self.operands(i).next().flatten();
        }
        true
    }

    /// Whether the node at `first` and what it uses are views and moves through which an element's index stays affine.
    fn moves_affinely(&self, first: usize, known: &Known) -> bool {
        let next = |i: &usize| self.operands(*i).next().flatten();
        let chain: Each<usize> = std::iter::successors(Some(first), next).collect();
        let parts = || chain.iter().map(|i| self.space.item(self.order[*i]).part);
        if parts().all(|p| p == Part::View) {
            return true;
        }
        if !parts().all(|p| matches!(p, Part::View | Part::Move)) {
            return false;
        }
        let nodes: Each<At> = chain.iter().map(|i| self.order[*i]).collect();
        recall(&known.moves, &nodes, || self.chain_is_affine(&nodes))
    }

    /// The same for `chain`, the last user first.
    fn chain_is_affine(&self, chain: &[At]) -> bool {
        let top = chain[0];
        let Some(dims) = self.space.classes[top.0 as usize].facts.first().and_then(Fact::dims) else { return false };
        let ranges: BTreeMap<Var, (i64, i64)> =
            dims.iter().enumerate().map(|(i, &d)| (Var(i as u32), (0, (d as i64 - 1).max(0)))).collect();
        let simplify = |e: Expr| simplify_index(e, &|v| ranges.get(&v).copied());
        let index: Vec<Expr> = (0..dims.len() as u32).map(|i| Expr::Var(Var(i))).collect();
        let mut flat = simplify(flatten(&index, &dims));
        for node in chain {
            let item = self.space.item(*node);
            let Some(&arg) = item.args.first() else { return false };
            if item.part == Part::Move {
                let (ins, out) = ([self.space.arg_fact(arg)], &self.space.classes[node.0 as usize].facts[0]);
                let (Some(op), Some(out_dims)) = (self.space.op(*node), out.dims()) else { return false };
                let from: Rc<RefCell<Option<Expr>>> = Rc::default();
                let load = |e: Expr| {
                    *from.borrow_mut() = Some(e);
                    Expr::constant(out.dtype, 0.0)
                };
                let element = move_element(op, &ins, out, &unflatten(&flat, &out_dims), &load);
                // A constant outside the operand, as of a padding, makes the load conditional.
                if !matches!(element, Some(Expr::Const(_))) {
                    return false;
                }
                let Some(e) = from.borrow_mut().take() else { return false };
                flat = simplify(e);
            }
        }
        Affine::of(&flat).is_some()
    }

    /// How often an element of each node is computed in all, in the cone's order; `None` if an expression grows too large.
    fn evaluations(&self, shape: &Shape) -> Option<Each<f64>> {
        let n = self.order.len();
        let len = |i: usize| self.space.classes[self.order[i].0 as usize].len;
        // How often each expression is written, and how often computed.
        let (mut times, mut count): (Each<usize>, Each<f64>) = (smallvec![0; n], smallvec![0.0; n]);
        (times[0], count[0]) = (1, len(0) as f64);
        for i in 0..n {
            let item = self.space.item(self.order[i]);
            let anchor = self.space.op(self.order[i]).filter(|_| shape.anchor == Some(self.order[i]));
            let mut met: SmallVec<[usize; 8]> = smallvec![];
            for (k, p) in self.operands(i).enumerate().filter_map(|(k, p)| Some((k, p?))) {
                let (written, reads) = match anchor {
                    Some(op) => {
                        let r = if let Prologue::Anything(r) = prologue(op, k) { r } else { 1 };
                        (r, r as f64 * len(p) as f64)
                    }
                    None => (item.written[k].max(1), count[i]),
                };
                times[p] = times[p].saturating_add(times[i].max(1).saturating_mul(written));
                if !met.contains(&p) {
                    count[p] += reads;
                    met.push(p);
                }
            }
        }
        let mut size: Each<usize> = smallvec![1; n];
        for i in (0..n).rev() {
            let item = self.space.item(self.order[i]);
            let computed = matches!(item.part, Part::Pointwise | Part::Move);
            if computed && !shape.after[i] && i > 0 && times[i] > TIMES {
                return None;
            }
            if shape.anchor == Some(self.order[i]) {
                continue;
            }
            size[i] = self.operands(i).zip(&item.written).fold(usize::from(computed), |s, (p, w)| {
                s.saturating_add(p.map_or(1, |p| size[p]).saturating_mul((*w).max(1)))
            });
            let most = if shape.after[i] { EXPRESSION } else { 4 * EXPRESSION };
            if size[i] > most && n > 1 {
                return None;
            }
        }
        Some(count)
    }

    /// What of a concatenation, if the cone is one with what it inlines, is likely to be written into it by whoever makes it: see
    /// [`crate::halo::parts`].
    fn parts(&self) -> Parts {
        let mut parts = Parts::default();
        let Some(&root) = self.order.first() else { return parts };
        let Some(Op::Concat(op)) = self.space.op(root) else { return parts };
        for a in &self.space.item(root).args {
            let Arg::Class(c) = *a else { continue };
            let class = &self.space.classes[c as usize];
            let made = |i: &Item| matches!(i.part, Part::Anchor | Part::Pointwise | Part::Move);
            let Some(dims) = class.facts.first().and_then(Fact::dims).filter(|d| !d.contains(&0)) else { continue };
            let piece = pieces(&dims, op.axis).1 * class.facts[0].dtype.carrier().size();
            let twice = parts.classes.contains(&c) || !self.leaves.contains(&c);
            if !twice && piece >= PIECE && class.items.iter().any(made) && !self.space.roots.contains(&c) {
                parts.bytes += bytes(&class.facts[0]);
                parts.classes.push(c);
            }
        }
        parts
    }

    /// Bytes read of each value but those of `parts`: every leaf and constant once, of slices what is taken.
    fn read(&self, parts: &[u32]) -> Each<f64> {
        let mut all = smallvec![];
        let mut seen: Each<Arg> = parts.iter().map(|c| Arg::Class(*c)).collect();
        for (i, at) in self.order.iter().enumerate() {
            let item = self.space.item(*at);
            let sliced = matches!(self.space.op(*at), Some(Op::Slice(_) | Op::Gather(_)));
            for (k, (a, inside)) in item.args.iter().zip(self.operands(i)).enumerate() {
                if inside.is_some() || seen.contains(a) {
                    continue;
                }
                seen.push(*a);
                let (whole, taken) = (item.read[k], self.space.classes[at.0 as usize].bytes);
                all.push(if sliced && k == 0 { whole.min(taken) } else { whole });
            }
        }
        all
    }
}

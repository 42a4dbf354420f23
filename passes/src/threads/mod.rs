//! Kernels in parts, for several threads.
//!
//! A scheduled kernel is divided along loops whose iterations are independent, so every element is computed by the same
//! operations in the same order as before, whatever the number of parts: results are the same to the bit. What does not go
//! together becomes kernels of its own, called one after the other:
//!
//! 1. The statements of the body fall into units that share no variables ([`divide`]).
//! 2. Every run of units can be a kernel in one piece, or in parts: each unit's loop is cut where the parts come out even, small
//!    units go to the part with the least to do. Scratch buffers that only one unit's iterations use are private to a part. What fills
//!    such a buffer for a loop behind it, inside a loop that does not divide evenly, every part does for itself. Of two loops that one unit could be
//!    cut along, it is that whose parts take less from each other's caches: rows of large images, columns of large matrices of weights.
//! 3. The cheapest sequence of runs is taken, by the cost model of [`crate::cycles`]; handing parts to threads and waiting for
//!    them has its price, so small kernels stay in one piece.
//! 4. The verifier proves that the parts of each kernel touch different memory. What it cannot prove is not done: the search
//!    goes on without it.

mod divide;
mod piece;

use crate::cycles::FORK_JOIN;
use divide::{Divider, Plan};
use piece::{Piece, Pieces};
use rayon::prelude::*;
use std::collections::BTreeSet;
use tenon_kernel::verify::{Stage, verify_kernel};
use tenon_kernel::{Buf, Call, Kernel, Program, Step};
use tenon_target::Target;

/// Cycles to call a kernel.
const CALL: f64 = 100.0;
/// Units that one kernel in parts is made of at most, and units of a kernel that is looked at.
const MAX_RUN: usize = 12;
const MAX_UNITS: usize = 64;
/// Sequences that are tried for a kernel.
const MAX_TRIES: usize = 48;

/// Runs of units, each by its first and the one behind its last.
type Runs = BTreeSet<(usize, usize)>;

/// What to divide for.
#[derive(Clone, Copy, Debug)]
pub struct Threads<'t> {
    /// Parts of a kernel.
    pub count: usize,
    /// What it costs to hand them out and to wait for them, in cycles: [`FORK_JOIN`] but in tests.
    pub fork_join: f64,
    /// The machine.
    pub target: &'t Target,
}

impl<'t> Threads<'t> {
    /// For `count` threads of `target`.
    pub fn new(count: usize, target: &'t Target) -> Threads<'t> {
        Threads { count: count.min(Kernel::MAX_PARTS), fork_join: FORK_JOIN, target }
    }
}

/// Divides the kernels of `program`, which is scheduled and has no arena yet; gives how many kernels are in parts.
pub fn divide(program: &mut Program, threads: &Threads<'_>) -> usize {
    if threads.count < 2 {
        return 0;
    }
    let constants = program.constants_of_kernels();
    let kernels = program.kernels.par_iter().zip(&constants);
    let done: Vec<Option<Pieces>> = kernels.map(|(k, constants)| divide_kernel(k, constants, threads)).collect();
    let mut names: BTreeSet<String> = program.kernels.iter().map(|k| k.name.clone()).collect();
    let old = std::mem::take(&mut program.kernels);
    // For each kernel, those that are called in its place, with the arguments they take.
    let mut instead: Vec<Vec<(usize, Vec<usize>)>> = vec![];
    for (kernel, pieces) in old.into_iter().zip(done) {
        let Some(pieces) = pieces else {
            instead.push(vec![(program.kernels.len(), (0..kernel.buffers.len()).collect())]);
            program.kernels.push(kernel);
            continue;
        };
        let mut of = vec![];
        for (i, mut piece) in pieces.into_iter().enumerate() {
            if i > 0 {
                let mut n = i;
                while !names.insert(format!("{}_then{n}", kernel.name)) {
                    n += 1;
                }
                piece.kernel.name = format!("{}_then{n}", kernel.name);
            }
            of.push((program.kernels.len(), piece.buffers));
            program.kernels.push(piece.kernel);
        }
        instead.push(of);
    }
    let steps = std::mem::take(&mut program.steps);
    program.steps = replaced(steps, &instead);
    // Private scratch buffers have become longer.
    let mut lengths = vec![];
    for call in program.calls() {
        let buffers = &program.kernels[call.kernel].buffers;
        lengths.extend(call.args.iter().zip(buffers).map(|(id, b)| (*id, b.len)));
    }
    for (id, len) in lengths {
        program.buffers[id.0 as usize].len = len;
    }
    program.kernels.iter().filter(|k| k.parts.is_some()).count()
}

/// `steps` with each call in its pieces.
fn replaced(steps: Vec<Step>, instead: &[Vec<(usize, Vec<usize>)>]) -> Vec<Step> {
    let mut out = vec![];
    for s in steps {
        match s {
            Step::Call(call) => {
                for (kernel, buffers) in &instead[call.kernel] {
                    let args = buffers.iter().map(|b| call.args[*b]).collect();
                    out.push(Step::Call(Call { kernel: *kernel, args, loc: call.loc.clone() }));
                }
            }
            Step::If(mut s) => {
                s.then = replaced(s.then, instead);
                s.otherwise = replaced(s.otherwise, instead);
                out.push(Step::If(s));
            }
            Step::Loop(mut s) => {
                s.body = replaced(s.body, instead);
                out.push(Step::Loop(s));
            }
        }
    }
    out
}

/// The kernels in whose sequence `kernel` is best computed; `None` if that is itself.
fn divide_kernel(kernel: &Kernel, constants: &BTreeSet<Buf>, threads: &Threads<'_>) -> Option<Pieces> {
    if kernel.parts.is_some() {
        return None;
    }
    let mut scratch = kernel.clone();
    let part = scratch.new_var("part", tenon_kernel::Type::INDEX);
    let kernel = &scratch;
    let divider = Divider::new(kernel, part, constants, threads);
    let n = divider.units.len();
    let whole: f64 = (0..n).map(|u| divider.cycles(u)).sum();
    if n == 0 || n > MAX_UNITS || whole * (1.0 - 1.0 / threads.count as f64) <= threads.fork_join {
        return None;
    }
    let plans: Vec<Vec<Option<Plan<'_>>>> =
        (0..n).map(|i| (i + 1..=n.min(i + MAX_RUN)).map(|j| divider.plan(i..j)).collect()).collect();
    let (mut refused, mut proven) = (Runs::new(), Runs::new());
    for _ in 0..MAX_TRIES {
        let runs = cheapest(n, &divider, &plans, &refused, threads.fork_join);
        if runs.iter().all(|r| !r.2) {
            return None;
        }
        let pieces: Vec<Piece<'_>> = runs
            .iter()
            .map(|&(i, j, in_parts)| match &plans[i].get(j - i - 1) {
                Some(Some(plan)) if in_parts => Piece::parts(&divider, plan),
                _ => Piece::whole(&divider, i..j),
            })
            .collect();
        let made = piece::kernels(&divider, pieces);
        let before = refused.len();
        for (p, &(i, j, in_parts)) in made.iter().zip(&runs) {
            if proven.contains(&(i, j)) || !in_parts {
                continue;
            }
            match verify_kernel(&p.kernel, Stage::Scheduled) {
                Ok(()) => proven.insert((i, j)),
                Err(_) => refused.insert((i, j)),
            };
        }
        if refused.len() == before {
            return Some(made);
        }
    }
    None
}

/// The runs of units `i..j`, and whether they are in parts, that cost least in sequence.
fn cheapest(
    n: usize,
    divider: &Divider<'_>,
    plans: &[Vec<Option<Plan<'_>>>],
    refused: &Runs,
    fork_join: f64,
) -> Vec<(usize, usize, bool)> {
    // For each prefix: its cost, and its last run.
    let mut best: Vec<(f64, usize, bool)> = vec![(0.0, 0, false)];
    for j in 1..=n {
        let mut here = (f64::INFINITY, 0, false);
        let mut serial = CALL;
        for i in (0..j).rev() {
            serial += divider.cycles(i);
            if best[i].0 + serial < here.0 {
                here = (best[i].0 + serial, i, false);
            }
            if let Some(Some(plan)) = plans[i].get(j - i - 1)
                && !refused.contains(&(i, j))
                && best[i].0 + CALL + fork_join + plan.cycles < here.0
            {
                here = (best[i].0 + CALL + fork_join + plan.cycles, i, true);
            }
        }
        best.push(here);
    }
    let mut runs = vec![];
    let mut j = n;
    while j > 0 {
        let (_, i, in_parts) = best[j];
        runs.push((i, j, in_parts));
        j = i;
    }
    runs.reverse();
    runs
}

#[cfg(test)]
mod tests;

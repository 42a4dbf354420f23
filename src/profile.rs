//! Where the time of a compiled model goes, call by call.

use crate::jit::{bytes_of, check_inputs};
use crate::{Compiled, Error};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tenon_base::Tensor;
use tenon_cranelift::{AlignedBuf, Jit};
use tenon_kernel::{BufferKind, Call, Program, Step, Work};

/// Times kept of each call at most.
const MOST_ROUNDS: usize = 20_000;
/// Times kept of all calls together at most.
const MOST_TIMES: usize = 8_000_000;

/// One step of a model, measured: a kernel call, or a branch or loop as a whole.
#[derive(Clone, Debug)]
pub struct CallProfile {
    /// Position in [`Program::steps`].
    pub call: usize,
    /// The kernel's name; `if` or `loop`.
    pub kernel: String,
    /// The ONNX nodes that it computes; empty where the compiler made the call itself.
    pub nodes: String,
    /// Median over all rounds.
    pub median: Duration,
    /// Fastest round.
    pub min: Duration,
    /// When it began in the fastest round, from the round's beginning.
    pub start: Duration,
    /// How long it took in that round.
    pub time: Duration,
    /// What it computes; what a loop repeats is counted once.
    pub work: Work,
    /// Bytes of the buffers that it reads: inputs, temporaries and constants, each once.
    pub read: usize,
    /// Of these, bytes of constants.
    pub constants: usize,
    /// Bytes of the buffers that it writes.
    pub written: usize,
}

/// A model, measured call by call.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Every call, in the order of execution.
    pub calls: Vec<CallProfile>,
    /// How often the model was run each way.
    pub rounds: usize,
    /// Median time of the entry point, measured in turn with the calls.
    pub run: Duration,
    /// Fastest run of the entry point.
    pub run_min: Duration,
}

impl Profile {
    /// Sum of the calls' medians: what of [`Profile::run`] is explained.
    pub fn sum(&self) -> Duration {
        self.calls.iter().map(|c| c.median).sum()
    }

    /// Runs `compiled` on `inputs` for about `limit`, whole and call by call in turn, after a tenth of that for warming up.
    /// Every call is timed by itself in the order of a run, so caches are as they are in one.
    ///
    /// # Errors
    /// If the target is not this machine or has features that it lacks, or the inputs do not fit.
    pub fn measure(compiled: &Compiled, inputs: &[Tensor], limit: Duration) -> Result<Profile, Error> {
        let program = &compiled.program;
        check_inputs(program, inputs)?;
        crate::engine::runs_here(&compiled.target)?;
        let jit = Jit::with_steps(program, &compiled.target)?;
        let pool = crate::jit::pool_for(program);
        let env = crate::jit::env_of(pool.as_ref());
        let aligned: Vec<AlignedBuf> = inputs
            .iter()
            .map(|t| {
                let mut b = AlignedBuf::new(t.bytes().len());
                b.as_mut_slice().copy_from_slice(t.bytes());
                b
            })
            .collect();
        let ins: Vec<&[u8]> = aligned.iter().map(AlignedBuf::as_slice).collect();
        let mut outputs: Vec<AlignedBuf> = program.outputs.iter().map(|o| AlignedBuf::new(bytes_of(o))).collect();
        let mut outs: Vec<&mut [u8]> = outputs.iter_mut().map(AlignedBuf::as_mut_slice).collect();
        let mut arena = jit.arena();
        let failed = |s| Error::Run(format!("the model returned {s:?}"));

        let n = program.steps.len();
        // One run of the entry point, and one of the calls with the begin and end of each.
        let mut measured = || -> Result<(Duration, Vec<(Duration, Duration)>), Error> {
            let start = Instant::now();
            // SAFETY: the environment is that of a pool, which lives as long as this function.
            unsafe { jit.run_with(&ins, &mut outs, &mut arena, &env) }.map_err(failed)?;
            let run = start.elapsed();
            let mut round = Vec::with_capacity(n);
            let start = Instant::now();
            let mut last = Duration::ZERO;
            let mut ended = |_| {
                round.push((last, start.elapsed()));
                // The clock itself belongs to no call.
                last = start.elapsed();
            };
            // SAFETY: as above.
            unsafe { jit.run_steps(&ins, &mut outs, &mut arena, &env, &mut ended) }.map_err(failed)?;
            Ok((run, round))
        };
        let warm = Instant::now();
        measured()?;
        while warm.elapsed() < limit / 10 {
            measured()?;
        }
        let rounds = MOST_ROUNDS.min(MOST_TIMES / n.max(1)).max(1);
        let mut times: Vec<Vec<Duration>> = vec![vec![]; n];
        let mut runs = vec![];
        let mut best: Vec<(Duration, Duration)> = vec![];
        let end = |round: &[(Duration, Duration)]| round.last().map_or(Duration::ZERO, |(_, to)| *to);
        let begin = Instant::now();
        while runs.is_empty() || (begin.elapsed() < limit && runs.len() < rounds) {
            let (run, round) = measured()?;
            runs.push(run);
            for (t, (from, to)) in times.iter_mut().zip(&round) {
                t.push(*to - *from);
            }
            if best.is_empty() || end(&round) < end(&best) {
                best = round;
            }
        }
        runs.sort_unstable();
        let mut work = compiled.work.iter().copied();
        let steps = program.steps.iter().map(|step| {
            let mut calls = vec![];
            calls_of(step, &mut calls);
            let mut sum = Work::default();
            work.by_ref().take(calls.len()).for_each(|w| sum += w);
            (step, calls, sum)
        });
        let calls = times
            .into_iter()
            .zip(steps)
            .enumerate()
            .map(|(i, (mut t, (step, calls, work)))| {
                t.sort_unstable();
                let (from, to) = best[i];
                let (read, constants, written) = traffic(program, &calls);
                let (kernel, loc) = match step {
                    Step::Call(c) => (program.kernels[c.kernel].name.as_str(), &c.loc),
                    Step::If(s) => ("if", &s.loc),
                    Step::Loop(s) => ("loop", &s.loc),
                };
                let nodes = loc.name().unwrap_or_default().to_string();
                let (kernel, median, min) = (kernel.to_string(), t[t.len() / 2], t[0]);
                let (start, time) = (from, to - from);
                CallProfile { call: i, kernel, nodes, median, min, start, time, work, read, constants, written }
            })
            .collect();
        Ok(Profile { calls, rounds: runs.len(), run: runs[runs.len() / 2], run_min: runs[0] })
    }
}

/// All calls in a step.
fn calls_of<'a>(step: &'a Step, all: &mut Vec<&'a Call>) {
    match step {
        Step::Call(c) => all.push(c),
        Step::If(s) => s.then.iter().chain(&s.otherwise).for_each(|s| calls_of(s, all)),
        Step::Loop(s) => s.body.iter().for_each(|s| calls_of(s, all)),
    }
}

/// Bytes of the buffers that `calls` read, of these constant ones, and bytes of those that they write; each once.
fn traffic(program: &Program, calls: &[&Call]) -> (usize, usize, usize) {
    let written: BTreeSet<_> = calls.iter().flat_map(|c| program.writes(c)).collect();
    let all: BTreeSet<_> = calls.iter().flat_map(|c| c.args.iter().copied()).collect();
    let (mut read, mut constants, mut out) = (0, 0, 0);
    for id in all {
        let b = program.buffer(id);
        if written.contains(&id) {
            out += b.bytes();
        } else {
            read += b.bytes();
            constants += if matches!(b.kind, BufferKind::Const(_)) { b.bytes() } else { 0 };
        }
    }
    (read, constants, out)
}

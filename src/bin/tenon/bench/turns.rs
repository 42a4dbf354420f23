//! Turns: some that are timed alternately, and what their times say of each other.

use super::{MOST_RUNS, ROUNDS, Times, merge, quantile, turn};
use crate::failure::Outcome;
use crate::output::{self, bytes, say, time};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tenon::jit::Runner;

/// What came of taking turns with one of the others.
pub(super) struct Turns {
    /// The times of the other.
    pub(super) times: Times,
    /// Our time as a part of theirs, of the fastest runs of each pair of turns, ascending.
    ratios: Vec<f64>,
}

/// What has come of turns so far.
#[derive(Default)]
struct Taken {
    times: Vec<Duration>,
    ratios: Vec<f64>,
}

impl Turns {
    /// Takes turns with others, whose turn of about a length is what `theirs` does with their number, for `limit` each; our
    /// times are added to `ours`. One that fails has no further turns.
    pub(super) fn take<E>(
        first: &mut Runner<'_>,
        others: usize,
        mut theirs: impl FnMut(usize, Duration) -> Result<Vec<Duration>, E>,
        limit: Duration,
        ours: &mut Vec<Duration>,
    ) -> Outcome<Vec<Result<Turns, E>>> {
        let mut all: Vec<Result<Taken, E>> =
            (0..others).map(|i| theirs(i, limit / 10).map(|_| Taken::default())).collect();
        let begin = Instant::now();
        let fastest = |t: &[Duration]| t.iter().min().map_or(0.0, Duration::as_secs_f64);
        for round in 0.. {
            let running = all.iter().filter(|a| a.is_ok()).count() as u32;
            if round > 0 && (begin.elapsed() >= (1 + running) * limit || ours.len() >= MOST_RUNS) {
                break;
            }
            let a = turn(first, limit / ROUNDS)?;
            for k in 0..others {
                // The order turns round, so that none is always next to ours.
                let i = if round % 2 == 0 { k } else { others - 1 - k };
                let Ok(taken) = &mut all[i] else { continue };
                match theirs(i, limit / ROUNDS) {
                    Ok(b) => {
                        taken.ratios.push(fastest(&a) / fastest(&b).max(1e-12));
                        taken.times.extend(b);
                    }
                    Err(e) => all[i] = Err(e),
                }
            }
            ours.extend(a);
        }
        Ok(all.into_iter().map(|a| a.map(|t| Turns::of(t.times, t.ratios))).collect())
    }

    /// Of at least one round.
    pub(super) fn of(times: Vec<Duration>, mut ratios: Vec<f64>) -> Turns {
        ratios.sort_unstable_by(f64::total_cmp);
        Turns { times: Times::of(times), ratios }
    }

    /// Our time as a part of theirs: the median.
    pub(super) fn ratio(&self) -> f64 {
        quantile(&self.ratios, 50)
    }

    /// Adds their times and the ratios to `all`.
    pub(super) fn add_to(&self, all: &mut Value, ours: &Times) {
        merge(all, self.times.to_json());
        merge(
            all,
            json!({
                "rounds": self.ratios.len(),
                "ratio": self.ratio(),
                "ratio_p25": quantile(&self.ratios, 25),
                "ratio_p75": quantile(&self.ratios, 75),
                "ratio_of_min": ours.min.as_secs_f64() / self.times.min.as_secs_f64().max(1e-12),
            }),
        );
    }

    /// Their times, in a line.
    pub(super) fn times(&self) -> String {
        let t = &self.times;
        format!("  min {}   median {}   p95 {}", time(t.min), time(t.median), time(t.p95))
    }

    /// How our time relates to theirs, as `0.8 of its time`.
    pub(super) fn told(&self) -> String {
        format!(
            "{:.3} of its time (middle half of {}: {:.3} to {:.3})",
            self.ratio(),
            output::count(self.ratios.len(), "round"),
            quantile(&self.ratios, 25),
            quantile(&self.ratios, 75)
        )
    }
}

/// Another model, timed in turn with the first: integers against floats in one run.
pub(super) struct Beside {
    pub(super) compiled: tenon::Report,
    pub(super) turns: Turns,
}

impl Beside {
    pub(super) fn to_json(&self, ours: &Times) -> Value {
        let mut all = json!({
            "model": self.compiled.model,
            "arena_bytes": self.compiled.arena_bytes,
            "weight_bytes": self.compiled.weight_bytes,
        });
        self.turns.add_to(&mut all, ours);
        all
    }

    pub(super) fn print(&self, ours: &tenon::Report) {
        let c = &self.compiled;
        say!("beside {}, {} runs, in turn", c.model, self.turns.times.runs);
        say!("{}", self.turns.times());
        say!("  weights {}, arena {}", bytes(c.weight_bytes), bytes(c.arena_bytes));
        let smaller = c.weight_bytes as f64 / ours.weight_bytes.max(1) as f64;
        say!("  {} takes {}; weights are {smaller:.2} times smaller", ours.model, self.turns.told());
    }
}

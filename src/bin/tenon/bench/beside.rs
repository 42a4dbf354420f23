//! Another model, timed in turn with the first: integers against floats in one run.

use super::{MOST_RUNS, ROUNDS, Times, merge, quantile, turn};
use crate::failure::Outcome;
use crate::output::{self, bytes, say, time};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tenon::jit::Runner;

/// Another model, timed in turn with the first.
pub(super) struct Beside {
    pub(super) compiled: tenon::Report,
    pub(super) times: Times,
    /// The first one's time as a part of this one's, of each pair of turns, ascending.
    pub(super) rounds: Vec<f64>,
}

impl Beside {
    pub(super) fn to_json(&self, ours: &Times) -> Value {
        let mut all = json!({ "model": self.compiled.model });
        merge(&mut all, self.times.to_json());
        merge(
            &mut all,
            json!({
                "arena_bytes": self.compiled.arena_bytes,
                "weight_bytes": self.compiled.weight_bytes,
                "rounds": self.rounds.len(),
                "ratio": quantile(&self.rounds, 50),
                "ratio_p25": quantile(&self.rounds, 25),
                "ratio_p75": quantile(&self.rounds, 75),
                "ratio_of_min": ours.min.as_secs_f64() / self.times.min.as_secs_f64().max(1e-12),
            }),
        );
        all
    }

    pub(super) fn print(&self, ours: &tenon::Report) {
        let (t, c) = (&self.times, &self.compiled);
        say!("beside {}, {} runs, in turn", c.model, t.runs);
        say!("  min {}   median {}   p95 {}", time(t.min), time(t.median), time(t.p95));
        say!("  weights {}, arena {}", bytes(c.weight_bytes), bytes(c.arena_bytes));
        let smaller = c.weight_bytes as f64 / ours.weight_bytes.max(1) as f64;
        say!(
            "  {} takes {:.3} of its time (middle half of {}: {:.3} to {:.3}); weights are {smaller:.2} times smaller",
            ours.model,
            quantile(&self.rounds, 50),
            output::count(self.rounds.len(), "round"),
            quantile(&self.rounds, 25),
            quantile(&self.rounds, 75)
        );
    }
}

/// Two models in turn, `limit` each: the times of the second, and the ratios of the fastest runs of each pair of turns, ascending.
pub(super) fn in_turn(
    first: &mut Runner<'_>,
    second: &mut Runner<'_>,
    limit: Duration,
    times: &mut Vec<Duration>,
) -> Outcome<(Vec<Duration>, Vec<f64>)> {
    turn(second, limit / 10)?;
    let (mut theirs, mut ratios) = (vec![], vec![]);
    let begin = Instant::now();
    let fastest = |t: &[Duration]| t.iter().min().map_or(0.0, Duration::as_secs_f64);
    while ratios.is_empty() || (begin.elapsed() < 2 * limit && times.len() < MOST_RUNS) {
        let (a, b) = (turn(first, limit / ROUNDS)?, turn(second, limit / ROUNDS)?);
        ratios.push(fastest(&a) / fastest(&b).max(1e-12));
        times.extend(a);
        theirs.extend(b);
    }
    ratios.sort_unstable_by(f64::total_cmp);
    Ok((theirs, ratios))
}

//! What the other engines make of a model: their turns, whether their results are ours, and who is the best of them.

use super::peers::{self, Peer, Python};
use super::trouble::Trouble;
use super::turns::Turns;
use super::worker::{Job, Worker};
use super::{Times, merge, turn};
use crate::case::Stated;
use crate::compare::{Tolerance, compare};
use crate::failure::Outcome;
use crate::output::{say, time};
use crate::tensors::Named;
use serde_json::{Value, json};
use std::time::Duration;
use tenon::Tensor;
use tenon::jit::{Model, Runner};

/// What takes turns with our model.
pub(super) enum Rival<'m> {
    /// Another engine.
    Process(Worker),
    /// Our own for one thread, and what it computes.
    Alone(Box<Runner<'m>>, Vec<Tensor>),
}

impl Rival<'_> {
    /// Starts another engine.
    pub(super) fn start(peer: Peer, pythons: &[Python], job: &Job<'_>) -> Result<Rival<'static>, Trouble> {
        let needs = peer.needs().ok_or_else(|| Trouble::Refused("it is none of the others".to_string()))?;
        let python = peers::find(peer, &needs, pythons)?;
        Worker::start(&python, &needs.script, job).map(Rival::Process)
    }

    /// Our own `model`, with the results of all its outputs that `own` names.
    pub(super) fn alone<'m>(model: &'m Model, inputs: &[Tensor], own: &[usize]) -> Outcome<Rival<'m>> {
        let mut runner = model.runner();
        let all = runner.run(inputs)?;
        Ok(Rival::Alone(Box::new(runner), own.iter().filter_map(|&k| all.get(k).cloned()).collect()))
    }

    /// A turn of about `length`, at least one run: the time of each.
    pub(super) fn turn(&mut self, length: Duration) -> Result<Vec<Duration>, Trouble> {
        match self {
            Rival::Process(w) => w.turn(length),
            Rival::Alone(runner, _) => Ok(turn(runner, length)?),
        }
    }

    /// What came of its turns; `found` are our outputs, for which `rounded` calls of kernels have rounded factors to bf16.
    pub(super) fn compared(
        &self,
        peer: Peer,
        turns: Turns,
        found: &[Named],
        stated: &Stated,
        rounded: usize,
    ) -> Compared {
        let (version, precision, loading, outputs) = match self {
            Rival::Process(w) => {
                let loading = Loading { load_seconds: w.load_seconds, first_seconds: w.first_seconds };
                (w.version.clone(), w.precision.clone(), Some(loading), &w.outputs)
            }
            Rival::Alone(_, outputs) => (env!("CARGO_PKG_VERSION").to_string(), String::new(), None, outputs),
        };
        let results = Results::of(peer, outputs, found, stated, rounded);
        Compared { version, precision, loading, turns, results }
    }
}

/// How another engine's results relate to ours.
#[derive(Debug, PartialEq)]
struct Results {
    /// Largest difference of the outputs, and that as a part of the largest magnitude of that output.
    max_abs: f64,
    of_scale: f64,
    /// What is wrong with the outputs, if anything is.
    disagreement: Option<String>,
}

impl Results {
    fn of(peer: Peer, theirs: &[Tensor], found: &[Named], stated: &Stated, rounded: usize) -> Results {
        let (mut max_abs, mut of_scale, mut disagreement) = (0f64, 0f64, None);
        if theirs.len() != found.len() {
            disagreement = Some(format!("it has {} outputs, Tenon {}", theirs.len(), found.len()));
        }
        for (i, (e, (name, f))) in theirs.iter().zip(found).enumerate() {
            // The folder's tolerances hold for its reference outputs; two engines may each use them up. Threads change nothing.
            let t = stated.of_output(i, e.dtype(), None, None).rounding(rounded);
            let t = Tolerance { absolute: 2.0 * t.absolute, of_scale: 2.0 * t.of_scale, relative: 2.0 * t.relative };
            let t =
                if peer == Peer::OneThread { Tolerance { absolute: 0.0, of_scale: 0.0, relative: 0.0 } } else { t };
            let c = compare(e, f, &t);
            let scale = e.to_f64().into_iter().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(v.abs()));
            max_abs = max_abs.max(c.max_abs);
            of_scale = of_scale.max(if scale > 0.0 { c.max_abs / scale } else { 0.0 });
            if !c.passes() {
                disagreement.get_or_insert_with(|| match &c.fact {
                    Some((theirs, ours)) => format!("output `{name}`: it gives {theirs}, Tenon {ours}"),
                    None => format!("output `{name}`: {}", c.explain()),
                });
            }
        }
        Results { max_abs, of_scale, disagreement }
    }
}

/// How long another engine took from the model's file on, the import of its packages not counted.
#[derive(Clone, Copy, Debug)]
struct Loading {
    /// Until the model was loaded.
    load_seconds: f64,
    /// Until there was a first result.
    first_seconds: f64,
}

/// What came of running beside another engine.
pub(super) struct Compared {
    version: String,
    precision: String,
    loading: Option<Loading>,
    turns: Turns,
    results: Results,
}

/// An engine that was asked for, and what came of it.
pub(super) struct Against {
    pub(super) peer: Peer,
    pub(super) outcome: Result<Compared, Trouble>,
}

impl Against {
    /// Why it cannot be compared with, or what is wrong with its results.
    pub(super) fn disagreement(&self) -> Option<String> {
        let what = self.outcome.as_ref().ok()?.results.disagreement.as_ref()?;
        Some(format!("{}: {what}", self.peer.name()))
    }

    /// Our time as a part of its own, if it ran and its results are ours.
    fn counts(&self) -> Option<f64> {
        self.outcome.as_ref().ok().filter(|c| c.results.disagreement.is_none()).map(|c| c.turns.ratio())
    }

    pub(super) fn to_json(&self, ours: &Times) -> Value {
        let c = match &self.outcome {
            Ok(c) => c,
            Err(e) => return json!({ "engine": self.peer.name(), "error": e.to_string() }),
        };
        let mut all = json!({ "engine": self.peer.name(), "version": c.version, "precision": c.precision });
        c.turns.add_to(&mut all, ours);
        merge(
            &mut all,
            json!({
                "load_seconds": c.loading.map(|l| l.load_seconds),
                "first_seconds": c.loading.map(|l| l.first_seconds),
                "max_abs": c.results.max_abs,
                "max_of_scale": c.results.of_scale,
                "agrees": c.results.disagreement.is_none(),
                "disagreement": c.results.disagreement,
            }),
        );
        all
    }

    pub(super) fn print(&self) {
        let c = match &self.outcome {
            Ok(c) => c,
            Err(e) => return say!("{} is not compared with: {e}", self.peer.name()),
        };
        let precision = if c.precision.is_empty() { String::new() } else { format!(" ({})", c.precision) };
        say!("{} {}{precision}, {} runs, in turn", self.peer.name(), c.version, c.turns.times.runs);
        say!("{}", c.turns.times());
        say!("  Tenon takes {}", c.turns.told());
        if let Some(l) = c.loading {
            let [load, first] = [l.load_seconds, l.first_seconds].map(|s| time(Duration::from_secs_f64(s.max(0.0))));
            say!("  loaded in {load}, first result after {first} (the import of its packages not counted)");
        }
        let (r, what) = match &c.results.disagreement {
            None => (&c.results, "agree"),
            Some(_) => (&c.results, "DISAGREE, so that this does not count"),
        };
        say!("  outputs {what}: they differ by at most {:.1e}, {:.1e} of the scale", r.max_abs, r.of_scale);
    }
}

/// The fastest of the engines whose results are ours, and our time as a part of its own.
pub(super) fn best(all: &[Against]) -> Option<(Peer, f64)> {
    let others = all.iter().filter(|a| a.peer != Peer::OneThread);
    others.filter_map(|a| Some((a.peer, a.counts()?))).max_by(|a, b| a.1.total_cmp(&b.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(shape: &[usize], values: &[f32]) -> Named {
        ("y".to_string(), Tensor::new(shape, values))
    }

    fn against(peer: Peer, ratio: f64, theirs: &[Tensor]) -> Against {
        let found = [named(&[2], &[1.0, 2.0])];
        let ms = Duration::from_millis;
        let turns = Turns::of(vec![ms(1)], vec![ratio]);
        let results = Results::of(peer, theirs, &found, &Stated::Nothing, 0);
        let (version, precision) = ("1".to_string(), "f32".to_string());
        Against { peer, outcome: Ok(Compared { version, precision, loading: None, turns, results }) }
    }

    #[test]
    fn the_best_is_the_fastest_whose_results_are_ours() {
        let right = [Tensor::new(&[2], &[1f32, 2.0])];
        let wrong = [Tensor::new(&[2], &[1f32, 2.5])];
        let empty = [Tensor::new(&[0], &[] as &[f32])];
        let mut all = vec![
            against(Peer::Onnxruntime, 0.5, &right),
            against(Peer::Openvino, 0.7, &right),
            against(Peer::Mnn, 0.9, &wrong),
            against(Peer::Litert, 0.8, &empty),
            against(Peer::OneThread, 0.95, &right),
        ];
        assert_eq!(best(&all), Some((Peer::Openvino, 0.7)));
        assert!(all[1].disagreement().is_none());
        assert!(all[2].disagreement().unwrap().starts_with("MNN: output `y`: 1 of 2 elements differ"));
        assert_eq!(all[3].disagreement().unwrap(), "LiteRT: output `y`: it gives f32[0], Tenon f32[2]");
        all[1].outcome = Err(Trouble::Refused("no such operator".to_string()));
        assert_eq!(best(&all), Some((Peer::Onnxruntime, 0.5)));
        let times = Times::of(vec![Duration::from_millis(1)]);
        assert_eq!(all[1].to_json(&times)["error"], "it cannot run this model: no such operator");
        assert_eq!(all[0].to_json(&times)["ratio"], 0.5);
        assert_eq!(best(&all[2..]), None);
    }

    #[test]
    fn a_missing_output_is_a_disagreement() {
        let none = against(Peer::Mnn, 0.5, &[]);
        assert_eq!(none.disagreement().unwrap(), "MNN: it has 0 outputs, Tenon 1");
    }
}

//! What became of a case.

use crate::case::Case;
use crate::output::time as spent;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::process::ExitStatus;
use std::time::Duration;
use tenon::engine::Engine;

/// What a worker tells, one line of JSON each, in this order; the last stage told is where a crash happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Event {
    /// What begins now.
    Stage(String),
    /// Inputs that were pinned to their values, because shapes depend on them.
    Pinned(Vec<String>),
    /// One engine on one data set.
    Ran(Ran),
    /// A value inside the model that differs, or the summary of all.
    Node(NodeResult),
    /// The case cannot be compiled: the model is not supported.
    Unsupported(String),
    /// Something else went wrong.
    Error(String),
    /// The worker reached its end.
    Done,
}

/// One engine on one data set.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ran {
    pub(super) engine: String,
    /// Number of the data set; none for drawn inputs.
    pub(super) set: Option<usize>,
    pub(super) pass: bool,
    /// Largest absolute difference of any output.
    pub(super) max_abs: f64,
    /// Largest part of a tolerance used up. JSON has no infinity: `None` where nothing is allowed and something differs.
    pub(super) part: Option<f64>,
    /// What differs, when something does.
    pub(super) problem: Option<String>,
}

/// A value inside the model, compared with the reference interpreter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct NodeResult {
    pub(super) engine: String,
    pub(super) node: String,
    pub(super) op: String,
    pub(super) r#type: String,
    pub(super) pass: bool,
    pub(super) max_abs: f64,
    pub(super) part: Option<f64>,
    pub(super) problem: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Pass,
    /// Results differ.
    Mismatch,
    /// The model is refused, with reasons.
    Unsupported,
    /// Anything else that was reported.
    Error,
    /// The worker died.
    Crash,
    /// The worker was stopped.
    Timeout,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Status::Pass => "pass",
            Status::Mismatch => "mismatch",
            Status::Unsupported => "unsupported",
            Status::Error => "error",
            Status::Crash => "crash",
            Status::Timeout => "timeout",
        }
    }
}

/// The result of one case.
#[derive(Clone, Debug)]
pub(super) struct CaseResult {
    pub(super) status: Status,
    name: String,
    path: String,
    pinned: Vec<String>,
    runs: Vec<Ran>,
    nodes: Vec<NodeResult>,
    /// Why it did not pass.
    message: Option<String>,
    time: Duration,
}

impl CaseResult {
    /// From what the worker said and how it ended (`None`: it was stopped).
    pub(super) fn new(
        case: &Case,
        events: Vec<Event>,
        status: Option<ExitStatus>,
        complaints: &str,
        time: Duration,
    ) -> CaseResult {
        let mut stage = "start".to_string();
        let (mut pinned, mut runs, mut nodes, mut told, mut done) = (vec![], vec![], vec![], None, false);
        for e in events {
            match e {
                Event::Stage(s) => stage = s,
                Event::Pinned(p) => pinned = p,
                Event::Ran(r) => runs.push(r),
                Event::Node(n) => nodes.push(n),
                Event::Unsupported(m) => told = Some((Status::Unsupported, m)),
                Event::Error(m) => told = Some((Status::Error, m)),
                Event::Done => done = true,
            }
        }
        let last =
            || complaints.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("no message").trim().to_string();
        let (status, message) = match (status, told) {
            (None, _) => (Status::Timeout, Some(format!("stopped after {} at: {stage}", spent(time)))),
            (Some(_), Some((status, message))) => (status, Some(message)),
            (Some(s), None) if !done => {
                (Status::Crash, Some(format!("{s} at: {stage}; {}", first_panic(complaints).unwrap_or_else(last))))
            }
            (Some(_), None) => match runs.iter().find(|r| !r.pass) {
                Some(r) => (Status::Mismatch, r.problem.as_ref().map(|p| format!("{}: {p}", r.engine))),
                None if runs.is_empty() => (Status::Error, Some("nothing was compared".to_string())),
                None => (Status::Pass, None),
            },
        };
        let path = case.folder.as_ref().unwrap_or(&case.model).display().to_string();
        CaseResult { status, name: case.name.clone(), path, pinned, runs, nodes, message, time }
    }

    /// Engines that ran, each with whether all its sets passed and its largest difference.
    fn engines(&self) -> Vec<(&'static str, bool, usize, f64)> {
        Engine::ALL
            .into_iter()
            .filter_map(|e| {
                let runs: Vec<&Ran> = self.runs.iter().filter(|r| r.engine == e.name()).collect();
                let worst = runs.iter().fold(0.0, |m: f64, r| m.max(r.max_abs));
                (!runs.is_empty()).then(|| (e.name(), runs.iter().all(|r| r.pass), runs.len(), worst))
            })
            .collect()
    }

    /// One line for people, and a few below it where something is to be told.
    pub(super) fn lines(&self, width: usize) -> Vec<String> {
        let engines: Vec<String> = self
            .engines()
            .iter()
            .map(|(name, pass, sets, worst)| {
                let sets = if *sets > 1 { format!("{sets}x ") } else { String::new() };
                format!("{name} {sets}{} {worst:.1e}", if *pass { "ok" } else { "DIFFERS" })
            })
            .collect();
        let mut line = format!("{:<11} {:<width$}  {}", self.status.name(), self.name, engines.join("  "));
        if !self.pinned.is_empty() {
            line += &format!("  (pinned: {})", self.pinned.join(", "));
        }
        line = format!("{}  {}", line.trim_end(), spent(self.time));
        let mut lines = vec![line];
        lines.extend(self.message.iter().flat_map(|m| m.lines().take(12)).map(|l| format!("            {l}")));
        for n in &self.nodes {
            let what = n.problem.clone().unwrap_or_else(|| format!("largest difference {:.1e}", n.max_abs));
            let mark = if n.pass { "ok     " } else { "DIFFERS" };
            lines.push(format!("            {} {mark} {} \"{}\" {}: {what}", n.engine, n.op, n.node, n.r#type));
        }
        lines
    }

    /// For `--json`.
    pub(super) fn to_json(&self) -> Value {
        let engines: Vec<Value> = self
            .engines()
            .iter()
            .map(|(name, pass, sets, worst)| json!({ "engine": name, "pass": pass, "sets": sets, "max_abs": worst }))
            .collect();
        json!({
            "name": self.name,
            "path": self.path,
            "status": self.status.name(),
            "message": self.message,
            "pinned_inputs": self.pinned,
            "engines": engines,
            "runs": self.runs,
            "nodes": self.nodes,
            "seconds": self.time.as_secs_f64(),
        })
    }
}

/// The line of a panic that says why, with the one that says where.
fn first_panic(complaints: &str) -> Option<String> {
    let mut lines = complaints.lines().skip_while(|l| !l.contains("panicked at"));
    let place = lines.next()?.trim();
    Some(format!("{place} {}", lines.next().unwrap_or_default().trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case() -> Case {
        Case { name: "c".into(), model: "c.onnx".into(), sets: vec![], folder: None }
    }

    fn ran(engine: &str, pass: bool) -> Event {
        let problem = (!pass).then(|| "output differs".to_string());
        Event::Ran(Ran { engine: engine.into(), set: Some(0), pass, max_abs: 0.5, part: Some(0.1), problem })
    }

    fn result(events: Vec<Event>, status: Option<ExitStatus>) -> CaseResult {
        CaseResult::new(&case(), events, status, "thread panicked at x.rs:1:\nboom\n", Duration::from_secs(1))
    }

    #[test]
    fn a_case_passes_only_when_something_was_compared_and_agreed() {
        let ok = Some(ExitStatus::default());
        assert_eq!(result(vec![ran("jit", true), Event::Done], ok).status, Status::Pass);
        assert_eq!(result(vec![ran("jit", true), ran("object", false), Event::Done], ok).status, Status::Mismatch);
        assert_eq!(result(vec![Event::Done], ok).status, Status::Error);
    }

    #[test]
    fn a_worker_that_stops_early_crashed_where_it_last_said() {
        let r = result(vec![Event::Stage("jit, set 0".into())], Some(ExitStatus::default()));
        assert_eq!(r.status, Status::Crash);
        assert!(r.message.unwrap().contains("jit, set 0; thread panicked at x.rs:1: boom"));
        assert_eq!(result(vec![], None).status, Status::Timeout);
    }

    #[test]
    fn events_survive_the_pipe() {
        for e in [Event::Done, Event::Stage("s".into()), Event::Pinned(vec!["p".into()]), ran("jit", true)] {
            let line = serde_json::to_string(&e).unwrap();
            assert!(serde_json::from_str::<Event>(&line).is_ok() && !line.contains('\n'));
        }
    }
}

//! `tenon bench`: how fast a compiled model runs on this machine, and how fast another engine runs it beside it.

mod against;
mod turns;

use crate::args::CompileArgs;
use crate::compare::{Tolerance, compare};
use crate::failure::{Failure, Outcome};
use crate::output::{self, bytes, say, time};
use crate::prepared::{Prepared, prepare};
use crate::{peak, progress};
use against::{Peer, Worker};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tenon::Tensor;
use tenon::jit::{Model, Runner};
use turns::{Beside, Turns};

/// Runs whose times are kept; longer benches of tiny models end here.
const MOST_RUNS: usize = 2_000_000;
/// Turns that each engine is given in the time to measure, unless one run takes longer.
const ROUNDS: u32 = 25;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Inputs come from the first data set of a case folder, else they are drawn. Time is that of the compiled entry point alone:
nothing is copied or allocated. GFLOP/s counts the multiply-adds of convolutions and matrix products twice, in the
median time; the peak is measured here and now, with the widest multiply-adds of one core.

With --threads, what a run spreads is what `tenon compile --threads` spreads; --against one-thread shows what that gains.

With --against, the other engine loads the same model in a process of its own and is given the same inputs and number of
threads. The two take turns, and a ratio is formed of each pair of turns (the fastest run of each); what is printed is the
median of these ratios and the range of their middle half. Outputs are compared; if they disagree, the exit code is 1.
ONNX Runtime is found as the Python package `onnxruntime` of --python, of VIRTUAL_ENV, of target/venv, .venv or venv, or of
the Python on the path.

Examples:
  tenon bench model.onnx --dim batch=1
  tenon bench zoo/mobilenet_v2 --seconds 5 --json
  tenon bench zoo/resnet50 --threads 2 --against one-thread
  tenon bench model.onnx --recipe model.recipe.toml --beside model.onnx    integers against floats
  tenon bench zoo/mobilenet_v2 --against onnxruntime --python target/venv/bin/python")]
pub(crate) struct Args {
    /// An .onnx file, or a folder with model.onnx.
    model: PathBuf,
    /// Seconds to measure, after warming up; with --against, seconds for each engine.
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// Also run the model on this engine, in turn, and compare speed and results.
    #[arg(long, value_enum, value_name = "ENGINE")]
    against: Option<Peer>,
    /// Also compile this model, without a recipe, and run it in turn on the same inputs: how much faster is the one?
    #[arg(long, value_name = "MODEL", conflicts_with = "against")]
    beside: Option<PathBuf>,
    /// The Python to use for --against.
    #[arg(long, value_name = "PATH", requires = "against")]
    python: Option<PathBuf>,
    /// Seed of drawn inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    compile: CompileArgs,
}

pub(crate) fn seconds(s: &str) -> Result<f64, String> {
    s.parse().ok().filter(|v| (0.0..=3600.0).contains(v)).ok_or("expected seconds, 0 to 3600".to_string())
}

/// Times of many runs.
struct Times {
    min: Duration,
    median: Duration,
    p95: Duration,
    runs: usize,
}

impl Times {
    /// Of at least one run.
    fn of(mut all: Vec<Duration>) -> Times {
        all.sort_unstable();
        Times { min: all[0], median: quantile(&all, 50), p95: quantile(&all, 95), runs: all.len() }
    }

    fn to_json(&self) -> Value {
        let ms = |t: Duration| t.as_secs_f64() * 1e3;
        json!({ "runs": self.runs, "min_ms": ms(self.min), "median_ms": ms(self.median), "p95_ms": ms(self.p95) })
    }
}

/// What came of running beside another engine.
struct Compared {
    peer: Peer,
    version: String,
    load_seconds: f64,
    turns: Turns,
    /// Largest difference of the outputs, and that as a part of the largest magnitude of that output.
    max_abs: f64,
    of_scale: f64,
    /// What is wrong with the outputs, if anything is.
    disagreement: Option<String>,
}

pub(crate) fn main(args: &Args, json: bool) -> Outcome {
    let p = prepare(&args.model, &args.compile, args.seed)?;
    let start = Instant::now();
    let model = p.compiled.jit()?;
    let compile_time = p.time + start.elapsed();
    let mut runner = model.runner();
    runner.set_inputs(&p.inputs)?;

    let spinner = progress::spinner("measuring".into());
    let alone = match args.against {
        Some(Peer::OneThread) => Some(one_thread(args)?),
        _ => None,
    };
    let mut rival = match (args.against, &alone) {
        (None, _) => None,
        (Some(_), Some(model)) => Some(Rival::alone(model, &p)?),
        (Some(peer), None) => {
            Some(Rival::Process(Worker::start(peer, args.python.as_deref(), &p, args.compile.threads)?))
        }
    };
    let peak = peak::measure();
    let limit = Duration::from_secs_f64(args.seconds);
    turn(&mut runner, limit / 10)?;
    let mut ours = vec![];
    let mut compared = None;
    let mut beside = None;
    if let (Some(rival), Some(peer)) = (&mut rival, args.against) {
        let turns = Turns::take(&mut runner, |length| rival.turn(length), limit, &mut ours)?;
        compared = Some(compare_outputs(peer, rival, turns, &p, &runner.outputs()?)?);
    } else if let Some(path) = &args.beside {
        let compile = CompileArgs { recipe: None, name: None, ..args.compile.clone() };
        let other = prepare(path, &compile, args.seed)?;
        let model = other.compiled.jit()?;
        let mut theirs = model.runner();
        theirs.set_inputs(&p.inputs)?;
        let turns = Turns::take(&mut runner, |length| turn(&mut theirs, length), limit, &mut ours)?;
        beside = Some(Beside { compiled: other.compiled.report(), turns });
    } else {
        ours = turn(&mut runner, limit)?;
    }
    spinner.finish_and_clear();
    drop(rival);

    let times = Times::of(ours);
    let report = p.compiled.report();
    let gflops = 2.0 * report.macs as f64 / times.median.as_secs_f64().max(1e-12) / 1e9;
    if json {
        let mut all = json!({
            "ok": compared.as_ref().is_none_or(|c| c.disagreement.is_none()),
            "model": report.model,
            "target": report.target,
            "threads": args.compile.threads,
        });
        merge(&mut all, times.to_json());
        merge(
            &mut all,
            json!({
                "macs": report.macs,
                "gflops": gflops,
                "peak_gflops": peak,
                "part_of_peak": gflops / peak,
                "compile_seconds": compile_time.as_secs_f64(),
                "arena_bytes": report.arena_bytes,
                "weight_bytes": report.weight_bytes,
            }),
        );
        if let Some(c) = &compared {
            merge(&mut all, json!({ "against": c.to_json(&times) }));
        }
        if let Some(b) = &beside {
            merge(&mut all, json!({ "beside": b.to_json(&times) }));
        }
        output::json(&all);
    } else {
        let threads = output::count(args.compile.threads.into(), "thread");
        say!("{} for {}, {threads}, {} runs", report.model, report.target, times.runs);
        say!("  min {}   median {}   p95 {}", time(times.min), time(times.median), time(times.p95));
        let part = 100.0 * gflops / peak;
        let macs = report.macs as f64 / 1e6;
        say!("  {macs:.1} M multiply-adds: {gflops:.1} GFLOP/s, {part:.0} % of this core's {peak:.0}");
        say!("  weights {}, arena {}", bytes(report.weight_bytes), bytes(report.arena_bytes));
        if let Some(c) = &compared {
            c.print();
        }
        if let Some(b) = &beside {
            b.print(&report);
        }
    }
    match compared.and_then(|c| c.disagreement) {
        Some(what) => Err(Failure::disagrees(format!("the results disagree: {what}")).told()),
        None => Ok(()),
    }
}

/// The model of `args`, compiled for one thread.
fn one_thread(args: &Args) -> Outcome<Model> {
    let compile = CompileArgs { threads: 1, ..args.compile.clone() };
    Ok(prepare(&args.model, &compile, args.seed)?.compiled.jit()?)
}

/// What takes turns with our model.
enum Rival<'m> {
    /// Another engine.
    Process(Worker),
    /// Our own for one thread, and what it computes.
    Alone(Runner<'m>, Vec<Tensor>),
}

impl Rival<'_> {
    fn alone<'m>(model: &'m Model, p: &Prepared) -> Outcome<Rival<'m>> {
        let mut runner = model.runner();
        let outputs = runner.run(&p.inputs)?;
        Ok(Rival::Alone(runner, outputs))
    }

    fn turn(&mut self, length: Duration) -> Outcome<Vec<Duration>> {
        match self {
            Rival::Process(w) => w.turn(length),
            Rival::Alone(runner, _) => turn(runner, length),
        }
    }
}

/// Runs for about `length`, at least once: the time of each run.
fn turn(runner: &mut Runner<'_>, length: Duration) -> Outcome<Vec<Duration>> {
    let mut times = vec![];
    let begin = Instant::now();
    loop {
        let start = Instant::now();
        runner.run_once()?;
        times.push(start.elapsed());
        if begin.elapsed() >= length || times.len() >= MOST_RUNS {
            return Ok(times);
        }
    }
}

fn compare_outputs(
    peer: Peer,
    rival: &Rival<'_>,
    turns: Turns,
    prepared: &Prepared,
    found: &[Tensor],
) -> Outcome<Compared> {
    let stated = prepared.case.tolerances()?;
    let (outputs, version, load_seconds) = match rival {
        Rival::Process(w) => (&w.outputs, w.version.clone(), w.load_seconds),
        Rival::Alone(_, outputs) => (outputs, env!("CARGO_PKG_VERSION").to_string(), 0.0),
    };
    let (mut max_abs, mut of_scale, mut disagreement) = (0f64, 0f64, None);
    let program = &prepared.compiled.program;
    // Another engine has no outputs that only tell the extents of others.
    let own = match rival {
        Rival::Process(_) => program.own_outputs(),
        Rival::Alone(..) => (0..program.outputs.len()).collect(),
    };
    if outputs.len() != own.len() {
        disagreement = Some(format!("{} outputs, expected {}", own.len(), outputs.len()));
    }
    for (i, (e, &k)) in outputs.iter().zip(&own).enumerate() {
        let f = &found[k];
        // The folder's tolerances hold for its reference outputs; two engines may each use them up. Threads change nothing.
        let t = stated.of_output(i, e.dtype(), None, None);
        let t = Tolerance { absolute: 2.0 * t.absolute, of_scale: 2.0 * t.of_scale, relative: 2.0 * t.relative };
        let t = if peer == Peer::OneThread { Tolerance { absolute: 0.0, of_scale: 0.0, relative: 0.0 } } else { t };
        let c = compare(e, f, &t);
        let scale = e.to_f64().into_iter().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(v.abs()));
        max_abs = max_abs.max(c.max_abs);
        of_scale = of_scale.max(if scale > 0.0 { c.max_abs / scale } else { 0.0 });
        if !c.passes() {
            let name = &program.outputs[k].name;
            disagreement.get_or_insert_with(|| format!("output `{name}`: {}", c.explain()));
        }
    }
    Ok(Compared { peer, version, load_seconds, turns, max_abs, of_scale, disagreement })
}

impl Compared {
    fn to_json(&self, ours: &Times) -> Value {
        let mut all = json!({ "engine": self.peer.name(), "version": self.version });
        self.turns.add_to(&mut all, ours);
        merge(
            &mut all,
            json!({
                "load_seconds": self.load_seconds,
                "max_abs": self.max_abs,
                "max_of_scale": self.of_scale,
                "agrees": self.disagreement.is_none(),
                "disagreement": self.disagreement,
            }),
        );
        all
    }

    fn print(&self) {
        say!("{} {}, {} runs, in turn", self.peer.name(), self.version, self.turns.times.runs);
        say!("{}", self.turns.times());
        say!("  Tenon takes {}", self.turns.ratio());
        let what = if self.disagreement.is_none() { "agree" } else { "DISAGREE" };
        say!("  outputs {what}: they differ by at most {:.1e}, {:.1e} of the scale", self.max_abs, self.of_scale);
    }
}

/// Adds the fields of `more` to `all`.
fn merge(all: &mut Value, more: Value) {
    if let (Value::Object(all), Value::Object(more)) = (all, more) {
        all.extend(more);
    }
}

/// The smallest that `percent` of all do not exceed; `sorted` is not empty.
fn quantile<T: Copy>(sorted: &[T], percent: usize) -> T {
    sorted[(sorted.len() * percent).div_ceil(100).clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_times() {
        let t: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile(&t, 50), Duration::from_millis(50));
        assert_eq!(quantile(&t, 95), Duration::from_millis(95));
        assert_eq!(quantile(&t[..1], 95), Duration::from_millis(1));
    }
}

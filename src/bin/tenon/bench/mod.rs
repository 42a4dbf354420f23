//! `tenon bench`: how fast a compiled model runs on this machine, and how fast another engine runs it beside it.

mod peers;
mod rivals;
mod trouble;
mod turns;
mod worker;

use crate::args::CompileArgs;
use crate::failure::{Failure, Outcome};
use crate::output::{self, bytes, say, time};
use crate::prepared::{Prepared, prepare};
use crate::tensors::Named;
use crate::{peak, progress};
use peers::{Peer, Python};
use rivals::{Against, Rival};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tenon::jit::{Model, Runner};
use trouble::Trouble;
use turns::{Beside, Turns};
use worker::Job;

/// Runs whose times are kept; longer benches of tiny models end here.
const MOST_RUNS: usize = 2_000_000;
/// Turns that each engine is given in the time to measure, unless one run takes longer.
const ROUNDS: u32 = 25;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Inputs come from the first data set of a case folder, else they are drawn. Time is that of the compiled entry point alone:
nothing is copied or allocated. GFLOP/s counts the multiply-adds of convolutions and matrix products twice, in the
median time; the peak is measured here and now, with the widest multiply-adds of one core.

The first result is what comes of reading, compiling and running the model once in this process, which compiles on all cores,
as `tenon run` does it: with --effort quick unless the command line says otherwise. What is measured behind that is compiled anew.
Other engines are given the same, their packages imported and the inputs read before.

With --threads, what a run spreads is what `tenon compile --threads` spreads; --against one-thread shows what that gains.

With --against, other engines load the same model, in a process each, and are given the same inputs and number of threads.
All take turns, and a ratio is formed of each pair of turns (the fastest run of each); what is printed is the median of these
ratios and the range of their middle half. Outputs are compared; if they disagree, the ratio does not count and the exit
code is 1. The best of the engines is the one that is fastest and agrees. One that cannot run the model is told of, and the
others are compared with; if none can, the exit code is 2.

All compute in f32, as the model says; OpenVINO is told so, as its own choice on some CPUs is 16 bits. With --precision bf16
it is told to use that, and the comparison allows for the rounding, as `tenon verify` does. The engines are the
Python packages onnxruntime, openvino, MNN with onnx, and ai-edge-litert with onnx2tf, of --python, of VIRTUAL_ENV, of
target/venv, .venv or venv, or of the Python on the path. As they get in each other's way, --python ENGINE=PATH names one for
each. MNN and LiteRT convert the model, with the shapes it is run with, each time; --litert-model names one that is converted.

Examples:
  tenon bench model.onnx --dim batch=1
  tenon bench zoo/mobilenet_v2 --seconds 5 --json
  tenon bench zoo/resnet50 --threads 2 --against one-thread
  tenon bench model.onnx --recipe model.recipe.toml --beside model.onnx    integers against floats
  tenon bench zoo/mobilenet_v2 --against onnxruntime --python target/venv/bin/python
  tenon bench zoo/resnet18 --against onnxruntime,openvino,mnn --python openvino=ov/bin/python --python mnn=mnn/bin/python")]
pub(crate) struct Args {
    /// An .onnx file, or a folder with model.onnx.
    model: PathBuf,
    /// Seconds to measure, after warming up; with --against, seconds for each engine.
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// Also run the model on these engines, in turn, and compare speed and results.
    #[arg(long, value_enum, value_name = "ENGINE,…", value_delimiter = ',')]
    against: Vec<Peer>,
    /// Also compile this model, without a recipe, and run it in turn on the same inputs: how much faster is the one?
    #[arg(long, value_name = "MODEL", conflicts_with = "against")]
    beside: Option<PathBuf>,
    /// The Python to use for --against, or the one for an engine.
    #[arg(long, value_name = "[ENGINE=]PATH", requires = "against", value_parser = peers::python)]
    python: Vec<Python>,
    /// The model as a .tflite, for --against litert.
    #[arg(long, value_name = "FILE", requires = "against")]
    litert_model: Option<PathBuf>,
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

pub(crate) fn main(args: &Args, json: bool) -> Outcome {
    let first_time = first_result(args)?;
    let p = prepare(&args.model, &args.compile, args.seed)?;
    let start = Instant::now();
    let model = p.compiled.jit()?;
    let compile_time = p.time + start.elapsed();
    let mut runner = model.runner();
    runner.set_inputs(&p.inputs)?;
    runner.run_once()?;

    let spinner = progress::spinner("measuring".into());
    let alone = args.against.contains(&Peer::OneThread).then(|| one_thread(args)).transpose()?;
    let mut rivals = start_rivals(args, &p, &runner, alone.as_ref())?;
    let peak = peak::measure();
    let limit = Duration::from_secs_f64(args.seconds);
    turn(&mut runner, limit / 10)?;
    let mut ours = vec![];
    let mut compared = vec![];
    let mut beside = None;
    if !rivals.is_empty() {
        compared = take_turns(&mut rivals, &p, &mut runner, limit, &mut ours)?;
    } else if let Some(path) = &args.beside {
        let compile = CompileArgs { recipe: None, name: None, ..args.compile.clone() };
        let other = prepare(path, &compile, args.seed)?;
        let model = other.compiled.jit()?;
        let mut theirs = model.runner();
        theirs.set_inputs(&p.inputs)?;
        let their_turn = |_, length| turn(&mut theirs, length);
        for turns in Turns::take(&mut runner, 1, their_turn, limit, &mut ours)? {
            beside = Some(Beside { compiled: other.compiled.report(), turns: turns? });
        }
    } else {
        ours = turn(&mut runner, limit)?;
    }
    spinner.finish_and_clear();
    drop(rivals);

    let times = Times::of(ours);
    let report = p.compiled.report();
    let gflops = 2.0 * report.macs as f64 / times.median.as_secs_f64().max(1e-12) / 1e9;
    if json {
        let mut all = json!({
            "ok": verdict(&compared).is_ok(),
            "model": report.model,
            "target": report.target,
            "threads": args.compile.threads,
            "bf16_calls": report.bf16_calls,
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
                "first_seconds": first_time.as_secs_f64(),
                "arena_bytes": report.arena_bytes,
                "weight_bytes": report.weight_bytes,
            }),
        );
        if !compared.is_empty() {
            let best = rivals::best(&compared).map(|(peer, ratio)| json!({ "engine": peer.name(), "ratio": ratio }));
            let each: Vec<Value> = compared.iter().map(|c| c.to_json(&times)).collect();
            merge(&mut all, json!({ "against": each, "best": best }));
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
        let effort = args.compile.for_the_first_result().effort();
        say!(
            "  compiled in {}; with {effort} effort there is a first result after {}",
            time(compile_time),
            time(first_time)
        );
        compared.iter().for_each(Against::print);
        if let (2.., Some((peer, ratio))) = (compared.len(), rivals::best(&compared)) {
            say!("the best of them is {}: Tenon takes {ratio:.3} of its time", peer.name());
        }
        if let Some(b) = &beside {
            b.print(&report);
        }
    }
    verdict(&compared)
}

/// How long it takes from the file to a result: with the effort that `tenon run` takes, and nothing compiled before.
fn first_result(args: &Args) -> Outcome<Duration> {
    let p = prepare(&args.model, &args.compile.for_the_first_result(), args.seed)?;
    let start = Instant::now();
    let model = p.compiled.jit()?;
    let mut runner = model.runner();
    runner.set_inputs(&p.inputs)?;
    runner.run_once()?;
    Ok(p.time + start.elapsed())
}

/// Whether all that could be compared with agree, and any could.
fn verdict(compared: &[Against]) -> Outcome {
    let wrong: Vec<String> = compared.iter().filter_map(Against::disagreement).collect();
    let trouble = |c: &Against| Some(format!("{}: {}", c.peer.name(), c.outcome.as_ref().err()?));
    let none: Vec<String> = compared.iter().filter_map(trouble).collect();
    if !wrong.is_empty() {
        Err(Failure::disagrees(format!("the results disagree: {}", wrong.join("; "))).told())
    } else if !compared.is_empty() && none.len() == compared.len() {
        Err(Failure::bad_input(format!("there is nothing to compare with: {}", none.join("; "))).told())
    } else {
        Ok(())
    }
}

/// The model of `args`, compiled for one thread.
fn one_thread(args: &Args) -> Outcome<Model> {
    let compile = CompileArgs { threads: 1, ..args.compile.clone() };
    Ok(prepare(&args.model, &compile, args.seed)?.compiled.jit()?)
}

/// What the model's own outputs are now, by name.
fn outputs(p: &Prepared, runner: &Runner<'_>) -> Outcome<Vec<Named>> {
    let all = runner.outputs()?;
    // Others have no outputs that only tell the extents of ours.
    let own = p.compiled.program.own_outputs();
    Ok(own.into_iter().map(|k| (p.compiled.program.outputs[k].name.clone(), all[k].clone())).collect())
}

/// Those that were asked for, each once, on the model and inputs of `p`, which `runner` has run.
fn start_rivals<'m>(
    args: &Args,
    p: &Prepared,
    runner: &Runner<'_>,
    alone: Option<&'m Model>,
) -> Outcome<Vec<(Peer, Result<Rival<'m>, Trouble>)>> {
    let inputs: Vec<Named> = p.given.iter().map(|(n, t)| (n.clone(), t.clone())).collect();
    let expected = outputs(p, runner)?;
    let mut all: Vec<(Peer, Result<Rival<'m>, Trouble>)> = vec![];
    for &peer in &args.against {
        if all.iter().any(|(other, _)| *other == peer) {
            continue;
        }
        let job = Job {
            model: &p.case.model,
            inputs: &inputs,
            expected: &expected,
            threads: args.compile.threads,
            precision: args.compile.precision,
            converted: args.litert_model.as_deref().filter(|_| peer == Peer::Litert),
        };
        let rival = match alone.filter(|_| peer == Peer::OneThread) {
            Some(model) => Rival::alone(model, &p.inputs, &p.compiled.program.own_outputs()).map_err(Trouble::Ours),
            None => Rival::start(peer, &args.python, &job),
        };
        all.push((peer, rival));
    }
    Ok(all)
}

/// Takes turns with all `rivals` that have started.
fn take_turns(
    rivals: &mut Vec<(Peer, Result<Rival<'_>, Trouble>)>,
    p: &Prepared,
    runner: &mut Runner<'_>,
    limit: Duration,
    ours: &mut Vec<Duration>,
) -> Outcome<Vec<Against>> {
    let mut started: Vec<&mut Rival<'_>> = rivals.iter_mut().filter_map(|(_, r)| r.as_mut().ok()).collect();
    let mut turns = Turns::take(runner, started.len(), |i, length| started[i].turn(length), limit, ours)?.into_iter();
    let found = outputs(p, runner)?;
    let stated = p.case.tolerances()?;
    let one = |(peer, rival): (Peer, Result<Rival<'_>, Trouble>)| {
        let outcome = rival.and_then(|rival| match turns.next() {
            Some(turns) => Ok(rival.compared(peer, turns?, &found, &stated, p.compiled.rounded_calls())),
            None => Err(Trouble::Unreadable("no turns".to_string())),
        });
        Against { peer, outcome }
    };
    Ok(rivals.drain(..).map(one).collect())
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

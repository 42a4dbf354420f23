//! `tenon verify`: compiled models against reference outputs, one process a case, so that a case that crashes or hangs
//! is a line of the result and not the end of the run.

mod job;
mod per_node;
mod result;
mod worker;

use crate::args::CompileArgs;
use crate::case::Case;
use crate::failure::{Failure, Outcome};
use crate::output::{self, count, say};
use crate::progress;
use result::{CaseResult, Status};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tenon::engine::Engine;

pub(crate) use worker::main as worker;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A case is a folder in ONNX's layout, model.onnx with test_data_set_<k>/{input_<i>.pb,output_<i>.pb}; a folder of such
folders; or a model alone, which is compared with the reference interpreter on drawn inputs. Dimensions are pinned from
the data; an input whose value decides a shape is pinned to its value in the data, and the line says so.

Results agree when |found - expected| <= atol + rtol*|expected| for every element. Tolerances are, in this order: --rtol
and --atol; suggested_atol (one an output) in the folder's about.json, and for networks of drawn weights (kind
arch-random) 2e-5 of the output's largest magnitude; rtol and atol in tolerance.json; else rtol 1e-3 and 2e-5 of the output's largest magnitude (f16: 1e-2 and 2e-3). Integers must be equal, up to atol.
With --precision bf16, where n kernel calls round factors, 2^-7*sqrt(n) of the output's largest magnitude is allowed at least: each of the two
factors of a product moves by at most 2^-8 of itself, and what products behind each other add is independent.

Examples:
  tenon verify zoo/mobilenet_v2 --engine jit,object
  tenon verify zoo -j 2 --json > result.json
  tenon verify model.onnx --dim batch=1 --engine kernel,jit
  tenon verify zoo/resnet18 --per-node
  tenon verify zoo/mobilenet_v2 --engine object --target aarch64-linux --bits   (linked by a cross compiler, run by qemu)")]
pub(crate) struct Args {
    /// Case folders, folders of them, or models.
    #[arg(required = true)]
    cases: Vec<PathBuf>,
    #[command(flatten)]
    check: CheckArgs,
    /// Seconds a case may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// Cases at a time.
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
}

/// What is compared, and how.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// Engines to compare: reference, kernel, jit, object.
    #[arg(long = "engine", value_name = "LIST", value_delimiter = ',', default_value = "jit")]
    pub(crate) engines: Vec<Engine>,
    /// Also compare every value inside the model with the reference interpreter, and list where they part.
    #[arg(long)]
    pub(crate) per_node: bool,
    /// Also compare what each engine makes of the first data set with the kernel interpreter, bit for bit: all engines of one
    /// target run the same program.
    #[arg(long)]
    pub(crate) bits: bool,
    /// Allowed part of the expected element.
    #[arg(long)]
    pub(crate) rtol: Option<f64>,
    /// Allowed absolute difference.
    #[arg(long)]
    pub(crate) atol: Option<f64>,
    /// Seed of drawn inputs, for models without data.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) compile: CompileArgs,
}

/// Arguments of the hidden subcommand that runs one case.
#[derive(Debug, clap::Args)]
pub(crate) struct WorkerArgs {
    pub(crate) case: PathBuf,
    #[command(flatten)]
    pub(crate) check: CheckArgs,
}

impl CheckArgs {
    /// As command line arguments, for the worker.
    fn to_arguments(&self) -> Vec<String> {
        let engines: Vec<&str> = self.engines.iter().map(|e| e.name()).collect();
        let mut all = vec![
            format!("--engine={}", engines.join(",")),
            format!("--seed={}", self.seed),
            format!("--target={}", self.compile.target),
            format!("--threads={}", self.compile.threads),
            format!("--math={}", format!("{:?}", self.compile.math).to_lowercase()),
            format!("--precision={}", format!("{:?}", self.compile.precision).to_lowercase()),
        ];
        all.extend(self.per_node.then(|| "--per-node".to_string()));
        all.extend(self.bits.then(|| "--bits".to_string()));
        all.extend(self.rtol.map(|v| format!("--rtol={v:e}")));
        all.extend(self.atol.map(|v| format!("--atol={v:e}")));
        all.extend(self.compile.name.iter().map(|v| format!("--name={v}")));
        all.extend(self.compile.dims.iter().map(|d| format!("--dim={d}")));
        all.extend(self.compile.set.iter().map(|(n, v)| format!("--set={n}={v}")));
        all
    }
}

pub(crate) fn main(args: &Args, json: bool) -> Outcome {
    for (flag, value) in [("--rtol", args.check.rtol), ("--atol", args.check.atol)] {
        if value.is_some_and(|v| v.is_nan() || v < 0.0) {
            return Err(Failure::bad_input(format!("{flag}: expected a number of at least 0")));
        }
    }
    args.check.compile.target()?;
    let mut cases = vec![];
    for path in &args.cases {
        expand(path, &mut cases)?;
    }
    let results = run_all(args, &cases, json)?;
    let passed = results.iter().filter(|r| r.status == Status::Pass).count();
    let failed = results.len() - passed;
    if json {
        let list: Vec<_> = results.iter().map(CaseResult::to_json).collect();
        output::json(&json!({ "ok": failed == 0, "passed": passed, "failed": failed, "cases": list }));
    } else {
        let kinds = [Status::Mismatch, Status::Unsupported, Status::Error, Status::Crash, Status::Timeout];
        let detail: Vec<String> = kinds
            .iter()
            .map(|k| (k, results.iter().filter(|r| r.status == *k).count()))
            .filter(|(_, n)| *n > 0)
            .map(|(k, n)| format!("{n} {}", k.name()))
            .collect();
        let detail = if detail.is_empty() { String::new() } else { format!(" ({})", detail.join(", ")) };
        say!("{passed} passed, {failed} failed{detail}");
    }
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::disagrees(format!("{} of {} failed", failed, count(results.len(), "case"))).told())
}

/// The case at `path`, or all cases directly below it.
fn expand(path: &Path, out: &mut Vec<Case>) -> Outcome {
    if path.is_dir() && !path.join("model.onnx").is_file() {
        let mut below: Vec<PathBuf> = std::fs::read_dir(path)
            .map_err(|e| Failure::bad_input(format!("cannot read {}: {e}", path.display())))?
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.join("model.onnx").is_file())
            .collect();
        below.sort();
        if !below.is_empty() {
            return below.iter().try_for_each(|p| Case::find(p).map(|c| out.push(c)));
        }
    }
    out.push(Case::find(path)?);
    Ok(())
}

/// Runs the cases on `jobs` threads; results are printed as they come and returned in the order of `cases`.
fn run_all(args: &Args, cases: &[Case], json: bool) -> Outcome<Vec<CaseResult>> {
    let bar = progress::bar(cases.len(), "verifying");
    let width = cases.iter().map(|c| c.name.chars().count()).max().unwrap_or(0).min(48);
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Option<CaseResult>>> = Mutex::new(vec![None; cases.len()]);
    let failure: Mutex<Option<Failure>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..usize::from(args.jobs).min(cases.len()) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(i) else { return };
                    match job::run(case, args) {
                        Ok(result) => {
                            let mut done = done.lock().unwrap_or_else(|e| e.into_inner());
                            if !json {
                                bar.suspend(|| result.lines(width).iter().for_each(|l| say!("{l}")));
                            }
                            done[i] = Some(result);
                            bar.inc(1);
                        }
                        Err(f) => {
                            *failure.lock().unwrap_or_else(|e| e.into_inner()) = Some(f);
                            next.store(cases.len(), Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    if let Some(f) = failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
        return Err(f);
    }
    Ok(done.into_inner().unwrap_or_else(|e| e.into_inner()).into_iter().flatten().collect())
}

//! `tenon bench`: how fast a compiled model runs on this machine.

use crate::args::CompileArgs;
use crate::case::{self, Case};
use crate::failure::Outcome;
use crate::output::{self, bytes, say, time};
use crate::{inputs, model, peak, progress};
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tenon::Compiler;

/// Runs whose times are kept; longer benches of tiny models end here.
const MOST_RUNS: usize = 2_000_000;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Inputs come from the first data set of a case folder, else they are drawn. Time is that of the compiled entry point alone:
nothing is copied or allocated. GFLOP/s counts the multiply-adds of convolutions and matrix products twice, in the
median time; the peak is measured here and now, with the widest multiply-adds of one core.

Examples:
  tenon bench model.onnx --dim batch=1
  tenon bench zoo/mobilenet_v2 --seconds 5 --json")]
pub(crate) struct Args {
    /// An .onnx file, or a folder with model.onnx.
    model: PathBuf,
    /// Seconds to measure, after warming up.
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// Threads to run on. Compiled code is single-threaded so far: only 1 is accepted.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1))]
    threads: u16,
    /// Seed of drawn inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    compile: CompileArgs,
}

fn seconds(s: &str) -> Result<f64, String> {
    s.parse().ok().filter(|v| (0.0..=3600.0).contains(v)).ok_or("expected seconds, 0 to 3600".to_string())
}

pub(crate) fn main(args: &Args, json: bool) -> Outcome {
    let case = Case::find(&args.model)?;
    let mut options = args.compile.options(&case.model)?;
    let declared = model::declared_inputs(&case.model)?;
    let data = match case.sets.first() {
        Some(set) => case::assign(&declared, case::read_set(set, "input")?)?,
        None => Default::default(),
    };
    options.data.clone_from(&data);
    let spinner = progress::spinner(format!("compiling {}", case.model.display()));
    let start = Instant::now();
    let compiled = Compiler::new(options).compile_file(&case.model)?;
    let model = compiled.jit()?;
    let compile_time = start.elapsed();
    spinner.finish_and_clear();
    let ins = match case.sets.is_empty() {
        true => compiled.example_inputs(args.seed),
        false => inputs::in_order(&compiled.program.inputs, &data)?,
    };
    let mut runner = model.runner();
    runner.set_inputs(&ins)?;

    let spinner = progress::spinner("measuring".into());
    let peak = peak::measure();
    let limit = Duration::from_secs_f64(args.seconds);
    let warm = Instant::now();
    while warm.elapsed() < limit / 10 {
        runner.run_once()?;
    }
    let mut times: Vec<Duration> = vec![];
    let begin = Instant::now();
    loop {
        let start = Instant::now();
        runner.run_once()?;
        times.push(start.elapsed());
        if begin.elapsed() >= limit || times.len() >= MOST_RUNS {
            break;
        }
    }
    spinner.finish_and_clear();

    times.sort_unstable();
    let (min, median, p95) = (times[0], quantile(&times, 50), quantile(&times, 95));
    let report = compiled.report();
    let gflops = 2.0 * report.macs as f64 / median.as_secs_f64().max(1e-12) / 1e9;
    if json {
        let ms = |t: Duration| t.as_secs_f64() * 1e3;
        output::json(&json!({
            "ok": true,
            "model": report.model,
            "target": report.target,
            "threads": args.threads,
            "runs": times.len(),
            "min_ms": ms(min),
            "median_ms": ms(median),
            "p95_ms": ms(p95),
            "macs": report.macs,
            "gflops": gflops,
            "peak_gflops": peak,
            "part_of_peak": gflops / peak,
            "compile_seconds": compile_time.as_secs_f64(),
            "arena_bytes": report.arena_bytes,
            "weight_bytes": report.weight_bytes,
        }));
        return Ok(());
    }
    say!("{} for {}, one thread, {} runs", report.model, report.target, times.len());
    say!("  min {}   median {}   p95 {}", time(min), time(median), time(p95));
    let part = 100.0 * gflops / peak;
    say!(
        "  {:.1} M multiply-adds: {gflops:.1} GFLOP/s, {part:.0} % of this core's {peak:.0}",
        report.macs as f64 / 1e6
    );
    say!("  weights {}, arena {}", bytes(report.weight_bytes), bytes(report.arena_bytes));
    Ok(())
}

/// The smallest time that `percent` of all runs do not exceed; `times` is sorted and not empty.
fn quantile(times: &[Duration], percent: usize) -> Duration {
    times[(times.len() * percent).div_ceil(100).clamp(1, times.len()) - 1]
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

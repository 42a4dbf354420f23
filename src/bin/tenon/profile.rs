//! `tenon profile`: where the time of a compiled model goes.

use crate::args::CompileArgs;
use crate::bench::seconds;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Table, say, time};
use crate::prepared::prepare;
use crate::roofs::{Roof, Roofs, touched};
use crate::{progress, roofline};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tenon::profile::{CallProfile, Profile};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every kernel call of the model is timed on its own, in the order of a run, in turn with whole runs; the median of all rounds
is shown. GFLOP/s counts two operations a multiply-add and one each other operation or function of floats, as the model
asks for them: padding and polynomials are not counted. Its part of the peak is that of one core's widest f32 multiply-adds,
measured here and now. GB/s counts every buffer that the call reads or writes once.

The roof is the shortest time that this machine could take for the call: its operations at the peak, its constants from wherever as
many bytes as a run touches stay (memory), or all else from the second cache, whichever is longest; the part of it that is reached
is shown. In integers or bf16, which multiply faster than f32, a call may exceed it. --svg draws it all.

Inputs come from the first data set of a case folder, else they are drawn.

Examples:
  tenon profile model.onnx --dim batch=1
  tenon profile zoo/mobilenet_v2 --by order
  tenon profile zoo/mobilenet_v2 --svg roofline.svg
  tenon profile zoo/resnet50 --trace trace.json     (open it in ui.perfetto.dev or chrome://tracing)
  tenon profile zoo/vit_tiny --json > profile.json")]
pub(crate) struct Args {
    /// An .onnx file, or a folder with model.onnx.
    model: PathBuf,
    /// Seconds to measure, after warming up.
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// Order of the table: `time` (slowest first), `order` (of execution), or `kind` (calls of one kind of kernel together).
    #[arg(long, value_enum, default_value = "time")]
    by: By,
    /// Rows of the table; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 30)]
    top: usize,
    /// Write the fastest round as a Chrome trace.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Draw the calls below the machine's roofs, and the time each takes.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Seed of drawn inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    compile: CompileArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum By {
    /// Slowest first.
    Time,
    /// As they run.
    Order,
    /// Calls of one kind of kernel together, slowest kind first.
    Kind,
}

/// A line of the table: one call, or all calls of a kind.
struct Row {
    label: String,
    calls: usize,
    time: Duration,
    operations: u64,
    bytes: usize,
    /// The shortest time that it could take, and what sets most of that.
    limit: Duration,
    roof: Roof,
    nodes: String,
}

pub(crate) fn main(args: &Args, json: bool) -> Outcome {
    let p = prepare(&args.model, &args.compile, args.seed)?;
    let spinner = progress::spinner("measuring".into());
    let profile = Profile::measure(&p.compiled, &p.inputs, Duration::from_secs_f64(args.seconds))?;
    let roofs = Roofs::measure(touched(&profile), p.compiled.target.caches.l2);
    let peak = roofs.compute;
    let limit: Duration = profile.calls.iter().map(|c| roofs.limit(c).0).sum();
    spinner.finish_and_clear();
    if let Some(path) = &args.trace {
        write_trace(path, &p.compiled.program.name, &profile)?;
    }
    if let Some(path) = &args.svg {
        let title = format!("{} for {}, one thread", p.compiled.program.name, p.compiled.target);
        tenon::write_file(path, roofline::svg(&title, &profile, &roofs).as_bytes())?;
    }
    let program = &p.compiled.program;
    if json {
        let calls: Vec<Value> =
            in_order(&profile, args.by).into_iter().map(|c| call_json(c, &profile, &roofs)).collect();
        output::json(&json!({
            "ok": true,
            "model": program.name,
            "target": p.compiled.target.name,
            "rounds": profile.rounds,
            "run_median_ms": ms(profile.run),
            "run_min_ms": ms(profile.run_min),
            "sum_of_medians_ms": ms(profile.sum()),
            "peak_gflops": peak,
            "memory_gb_per_second": roofs.memory,
            "cache_gb_per_second": roofs.cache,
            "limit_ms": ms(limit),
            "calls": calls,
        }));
        return Ok(());
    }
    say!("{} for {}, one thread, {} rounds", program.name, p.compiled.target, profile.rounds);
    say!(
        "  a run takes {} (median; fastest {}), its {} steps one by one {}",
        time(profile.run),
        time(profile.run_min),
        program.steps.len(),
        time(profile.sum())
    );
    say!(
        "  at {peak:.0} GFLOP/s, {:.1} GB/s of constants and {:.0} GB/s from the second cache it would take {}: {} of that is reached",
        roofs.memory,
        roofs.cache,
        time(limit),
        part(limit, profile.sum())
    );
    let rows = rows(&profile, args.by, &roofs);
    let shown = if args.top == 0 { rows.len() } else { args.top.min(rows.len()) };
    print(&rows[..shown], profile.sum(), peak);
    if shown < rows.len() {
        let rest: Duration = rows[shown..].iter().map(|r| r.time).sum();
        say!("  … {} more, {} together; --top 0 shows all", rows.len() - shown, time(rest));
    }
    if let Some(path) = &args.trace {
        say!("  trace written to {}", path.display());
    }
    if let Some(path) = &args.svg {
        say!("  picture written to {}", path.display());
    }
    Ok(())
}

fn print(rows: &[Row], sum: Duration, peak: f64) {
    let mut table =
        Table::new(&["time", "share", "GFLOP/s", "of peak", "GB/s", "of roof", "roof", "kernel", "ONNX nodes"]);
    for r in rows {
        let secs = r.time.as_secs_f64().max(1e-12);
        let share = 100.0 * secs / sum.as_secs_f64().max(1e-12);
        let gflops = r.operations as f64 / secs / 1e9;
        let label = if r.calls > 1 { format!("{} × {}", r.label, r.calls) } else { r.label.clone() };
        table.row(&[
            &time(r.time),
            &format!("{share:.1} %"),
            &format!("{gflops:.1}"),
            &format!("{:.0} %", 100.0 * gflops / peak),
            &format!("{:.1}", r.bytes as f64 / secs / 1e9),
            &part(r.limit, r.time),
            &r.roof.name(),
            &label,
            &if r.calls > 1 { String::new() } else { short(&r.nodes) },
        ]);
    }
    table.print();
}

/// The calls in the order asked for; of kinds, the calls of the slowest kind first.
fn in_order(profile: &Profile, by: By) -> Vec<&CallProfile> {
    let mut calls: Vec<&CallProfile> = profile.calls.iter().collect();
    let kinds = of_kinds(profile);
    match by {
        By::Order => {}
        By::Time => calls.sort_by_key(|c| std::cmp::Reverse(c.median)),
        By::Kind => calls.sort_by_key(|c| {
            let kind = kind(&c.kernel);
            (std::cmp::Reverse(kinds[kind]), kind, std::cmp::Reverse(c.median))
        }),
    }
    calls
}

/// Time spent in each kind of kernel.
fn of_kinds(profile: &Profile) -> BTreeMap<&str, Duration> {
    let mut all = BTreeMap::new();
    for c in &profile.calls {
        *all.entry(kind(&c.kernel)).or_default() += c.median;
    }
    all
}

/// What a kernel computes: its name without number and variant.
pub(crate) fn kind(kernel: &str) -> &str {
    kernel.split_once('_').map_or(kernel, |(_, rest)| {
        let number = rest.find(|c: char| c.is_ascii_digit());
        kernel[..kernel.len() - rest.len() + number.unwrap_or(rest.len())].trim_end_matches('_')
    })
}

fn rows(profile: &Profile, by: By, roofs: &Roofs) -> Vec<Row> {
    let mut rows: Vec<Row> = vec![];
    for c in in_order(profile, by) {
        let (limit, roof) = roofs.limit(c);
        let (label, bytes) = (if by == By::Kind { kind(&c.kernel) } else { &c.kernel }, c.read + c.written);
        match rows.last_mut() {
            Some(last) if by == By::Kind && last.label == label => {
                last.calls += 1;
                last.time += c.median;
                last.operations += c.work.operations;
                last.bytes += bytes;
                last.limit += limit;
            }
            _ => rows.push(Row {
                label: label.to_string(),
                calls: 1,
                time: c.median,
                operations: c.work.operations,
                bytes,
                limit,
                roof,
                nodes: c.nodes.clone(),
            }),
        }
    }
    rows
}

/// `84 %`: `limit` as a part of `time`.
pub(crate) fn part(limit: Duration, time: Duration) -> String {
    format!("{:.0} %", 100.0 * limit.as_secs_f64() / time.as_secs_f64().max(1e-12))
}

fn ms(t: Duration) -> f64 {
    t.as_secs_f64() * 1e3
}

fn call_json(c: &CallProfile, profile: &Profile, roofs: &Roofs) -> Value {
    let secs = c.median.as_secs_f64().max(1e-12);
    let gflops = c.work.operations as f64 / secs / 1e9;
    let (limit, roof) = roofs.limit(c);
    json!({
        "call": c.call,
        "kernel": c.kernel,
        "kind": kind(&c.kernel),
        "nodes": c.nodes,
        "median_ms": ms(c.median),
        "min_ms": ms(c.min),
        "share": c.median.as_secs_f64() / profile.sum().as_secs_f64().max(1e-12),
        "macs": c.work.macs,
        "operations": c.work.operations,
        "gflops": gflops,
        "part_of_peak": gflops / roofs.compute,
        "limit_ms": ms(limit),
        "roof": roof.name(),
        "bytes_read": c.read,
        "bytes_constant": c.constants,
        "bytes_written": c.written,
        "gb_per_second": (c.read + c.written) as f64 / secs / 1e9,
    })
}

/// Names of nodes, cut where a table would no longer fit a line.
fn short(nodes: &str) -> String {
    const KEPT: usize = 60;
    match nodes.char_indices().nth(KEPT) {
        None => nodes.to_string(),
        Some((end, _)) => format!("{}…", &nodes[..end]),
    }
}

/// The fastest round in the Trace Event Format (complete events, microseconds).
fn write_trace(path: &Path, model: &str, profile: &Profile) -> Outcome {
    let us = |t: Duration| t.as_secs_f64() * 1e6;
    let mut events = vec![json!({
        "name": "thread_name", "ph": "M", "pid": 1, "tid": 1, "args": { "name": model }
    })];
    events.extend(profile.calls.iter().map(|c| {
        json!({
            "name": c.kernel, "cat": kind(&c.kernel), "ph": "X", "pid": 1, "tid": 1, "ts": us(c.start), "dur": us(c.time),
            "args": {
                "call": c.call, "nodes": c.nodes, "macs": c.work.macs, "operations": c.work.operations,
                "bytes_read": c.read, "bytes_written": c.written, "median_us": us(c.median),
            },
        })
    }));
    let text = json!({ "displayTimeUnit": "ns", "traceEvents": events }).to_string();
    output::write_file(path, |f| f.write_all(text.as_bytes()))
        .map_err(|e| Failure::bad_input(format!("cannot write {}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_names_without_numbers() {
        assert_eq!(kind("conv_12"), "conv");
        assert_eq!(kind("conv_12_c1"), "conv");
        assert_eq!(kind("max_pool_3"), "max_pool");
        assert_eq!(kind("copy"), "copy");
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(short("a + b"), "a + b");
        assert_eq!(short(&"é".repeat(80)).chars().count(), 61);
    }
}

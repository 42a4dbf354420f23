//! `tenon targets`: the machines that code can be generated for.

use crate::failure::{Failure, Outcome};
use crate::output::{self, Table, bytes, say};
use serde_json::json;
use tenon::target::{Cpu, Feature, FeatureSet};
use tenon::{DType, Target};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A target is written TRIPLE[/CPU][+FEATURE][-FEATURE], or just a CPU, which means Linux on it.
Operations are multiplications and additions a cycle of one core, at best; a multiply-add is two.

Examples:
  tenon targets
  tenon targets host
  tenon targets aarch64-linux/cortex-a76+fp16
  tenon targets --json")]
pub(crate) struct Args {
    /// Describe only this one; `host` is this machine.
    target: Option<String>,
}

pub(crate) fn main(args: &Args, json: bool) -> Outcome {
    if let Some(name) = &args.target {
        let target = match name.as_str() {
            "host" => tenon::target::host().map_err(Failure::bad_input)?,
            name => Target::parse(name).map_err(|e| Failure::bad_input(e.to_string()))?,
        };
        if json {
            output::json(&describe(&target));
        } else {
            print_one(&target);
        }
        return Ok(());
    }
    let host = tenon::target::host();
    if json {
        let cpus: Vec<_> = tenon::target::list().iter().filter_map(|c| Some((c, of(c)?))).map(row).collect();
        let triples: Vec<_> = tenon::target::triples()
            .iter()
            .map(|(short, long)| {
                let format = Target::parse(short).map(|t| t.object_format()).ok();
                json!({ "name": short, "triple": long, "object_format": format })
            })
            .collect();
        output::json(&json!({ "host": host.ok().map(|h| describe(&h)), "cpus": cpus, "triples": triples }));
        return Ok(());
    }
    say!("CPUs");
    let mut table = Table::new(&["name", "vectors", "f32/cycle", "i8/cycle", "GHz", "L1d", "L2", "what"]);
    for cpu in tenon::target::list() {
        let Some(t) = of(cpu) else { continue };
        let vectors = match t.widest_vector_bytes() {
            0 => "none".to_string(),
            b => format!("{} bit", 8 * b),
        };
        table.row(&[
            &cpu.name,
            &vectors,
            &t.machine_ops_per_cycle(DType::F32),
            &t.machine_ops_per_cycle(DType::I8),
            &cpu.ghz,
            &bytes(cpu.caches.l1d).replace(".0", ""),
            &bytes(cpu.caches.l2).replace(".0", ""),
            &cpu.what,
        ]);
    }
    table.print();
    say!("\nTriples (full ones work too)");
    let mut table = Table::new(&["name", "stands for", "objects"]);
    for (short, long) in tenon::target::triples() {
        table.row(&[short, long, &Target::parse(short).map_or("", |t| t.object_format())]);
    }
    table.print();
    match host {
        Ok(h) => say!("\nThis machine: {h}"),
        Err(e) => say!("\nThis machine: {e}"),
    }
    Ok(())
}

/// The CPU as a whole target.
fn of(cpu: &Cpu) -> Option<Target> {
    Target::parse(cpu.name).ok()
}

fn row((cpu, t): (&Cpu, Target)) -> serde_json::Value {
    json!({
        "name": cpu.name,
        "arch": cpu.arch.name(),
        "what": cpu.what,
        "extends": cpu.base,
        "level": cpu.is_level(),
        "features": cpu.features().to_string(),
        "widest_vector_bytes": t.widest_vector_bytes(),
        "f32_operations_per_cycle": t.machine_ops_per_cycle(DType::F32),
        "i8_operations_per_cycle": t.machine_ops_per_cycle(DType::I8),
        "ghz": cpu.ghz,
        "caches": caches(&t),
        "cores": cpu.cores,
    })
}

fn caches(t: &Target) -> serde_json::Value {
    json!({ "l1d": t.caches.l1d, "l2": t.caches.l2, "l3": t.caches.l3, "line": t.caches.line })
}

fn describe(t: &Target) -> serde_json::Value {
    json!({
        "name": t.name,
        "cpu": t.cpu,
        "arch": t.arch.name(),
        "triple": t.triple.to_string(),
        "object_format": t.object_format(),
        "features": t.features.to_string(),
        "vector_bytes": t.vector_bytes,
        "widest_vector_bytes": t.widest_vector_bytes(),
        "fused_multiply_add": t.has_fma(),
        "dot_product": t.has_dot_product(),
        "caches": caches(t),
        "cores": t.cores,
        "ghz": t.ghz,
        "f32_operations_per_cycle": t.machine_ops_per_cycle(DType::F32),
        "i8_operations_per_cycle": t.machine_ops_per_cycle(DType::I8),
    })
}

fn print_one(t: &Target) {
    say!("{t}");
    let yes = |b: bool| if b { "yes" } else { "no" };
    let mut table = Table::default();
    table.row(&[&"triple", &t.triple]);
    table.row(&[&"objects", &t.object_format()]);
    let what = Cpu::named(t.cpu).map_or("", |c| c.what);
    table.row(&[&"cpu", &format!("{}: {what}", t.cpu)]);
    let chain: Vec<&str> =
        std::iter::successors(Cpu::named(t.cpu).and_then(|c| c.base), |b| Cpu::named(b)?.base).collect();
    if !chain.is_empty() {
        table.row(&[&"extends", &chain.join(", ")]);
    }
    let vectors = match (t.vector_bytes, t.widest_vector_bytes()) {
        (0, _) => "none: scalar code".to_string(),
        (used, most) if used == most => format!("{} bits", 8 * most),
        (used, most) => format!("{} bits at most; general code uses {}", 8 * most, 8 * used),
    };
    table.row(&[&"vectors", &vectors]);
    table.row(&[
        &"multiply-add",
        &format!("rounded once: {}; of bytes by dot products: {}", yes(t.has_fma()), yes(t.has_dot_product())),
    ]);
    let ops = |d| t.machine_ops_per_cycle(d);
    table.row(&[
        &"peak",
        &format!(
            "{} f32, {} i8 operations a cycle and core, at {} GHz: {:.1} GFLOP/s",
            ops(DType::F32),
            ops(DType::I8),
            t.ghz,
            ops(DType::F32) * t.ghz
        ),
    ]);
    let c = &t.caches;
    table.row(&[&"caches", &format!("L1d {}, L2 {}, L3 {}", bytes(c.l1d), bytes(c.l2), bytes(c.l3))]);
    table.row(&[&"cores", &t.cores]);
    table.print();
    say!("\n  Features");
    let mut table = Table::default();
    for f in t.features.iter() {
        table.row(&[&f, &f.info().what]);
    }
    table.print();
    let more = not_had(t);
    if !more.is_empty() {
        let names: Vec<&str> = more.iter().map(|f| f.info().name).collect();
        say!("\n  Not assumed; add with +NAME: {}", names.join(" "));
    }
}

/// Features of the architecture that the target does not assume.
fn not_had(t: &Target) -> Vec<Feature> {
    let all = Feature::ALL.iter().copied();
    all.filter(|f| f.info().arch == t.arch && !FeatureSet::has(t.features, *f)).collect()
}

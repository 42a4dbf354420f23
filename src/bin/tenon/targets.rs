//! `tenon targets`: the machines that code can be generated for.

use crate::failure::{Failure, Outcome};
use crate::output::{self, Table, bytes, say};
use serde_json::json;
use tenon::{DType, Target};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A target is written TRIPLE[/CPU][+FEATURE][-FEATURE], or just a CPU.

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
        let cpus: Vec<_> = tenon::target::list()
            .iter()
            .map(|c| {
                let features = c.features();
                json!({ "name": c.name, "arch": format!("{:?}", c.arch).to_lowercase(), "what": c.what,
                        "features": format!("{features}") })
            })
            .collect();
        let triples: Vec<_> =
            tenon::target::triples().iter().map(|(short, long)| json!({ "name": short, "triple": long })).collect();
        output::json(&json!({ "host": host.ok().map(|h| describe(&h)), "cpus": cpus, "triples": triples }));
        return Ok(());
    }
    say!("CPUs");
    let mut table = Table::new(&["name", "what"]);
    for cpu in tenon::target::list() {
        table.row(&[&cpu.name, &cpu.what]);
    }
    table.print();
    say!("\nTriples (full ones work too)");
    let mut table = Table::new(&["name", "stands for"]);
    for (short, long) in tenon::target::triples() {
        table.row(&[short, long]);
    }
    table.print();
    match host {
        Ok(h) => say!("\nThis machine: {h}"),
        Err(e) => say!("\nThis machine: {e}"),
    }
    Ok(())
}

fn describe(t: &Target) -> serde_json::Value {
    json!({
        "name": t.name,
        "cpu": t.cpu,
        "triple": t.triple.to_string(),
        "features": format!("{}", t.features),
        "vector_bytes": t.vector_bytes,
        "widest_vector_bytes": t.widest_vector_bytes(),
        "caches": { "l1d": t.caches.l1d, "l2": t.caches.l2, "l3": t.caches.l3, "line": t.caches.line },
        "cores": t.cores,
        "f32_operations_per_cycle": t.peak_ops_per_cycle(DType::F32),
    })
}

fn print_one(t: &Target) {
    say!("{t}");
    let mut table = Table::default();
    table.row(&[&"triple", &t.triple]);
    table.row(&[&"cpu", &t.cpu]);
    table.row(&[&"features", &t.features]);
    table.row(&[&"vectors", &format!("{} bytes used, {} at most", t.vector_bytes, t.widest_vector_bytes())]);
    let c = &t.caches;
    table.row(&[&"caches", &format!("L1d {}, L2 {}, L3 {}", bytes(c.l1d), bytes(c.l2), bytes(c.l3))]);
    table.row(&[&"cores", &t.cores]);
    table.print();
}

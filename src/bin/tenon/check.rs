//! `tenon check`: can this model be compiled?

use crate::args::{CompileArgs, model_file};
use crate::failure::{Code, Failure, Outcome, problems_json};
use crate::output::{self, Table, bytes, count, say};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;
use tenon::frontend::ModelInfo;
use tenon::ir::{Graph, ValueId};
use tenon::{Compiled, Compiler, Diagnostics, Error};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tenon check model.onnx
  tenon check model.onnx --dim batch=1
  tenon check model.onnx --json")]
pub(crate) struct Args {
    /// An .onnx file, or a folder with model.onnx.
    model: PathBuf,
    #[command(flatten)]
    compile: CompileArgs,
}

/// How far the model comes.
enum Verdict {
    /// It compiles.
    Compiles(Box<Compiled>),
    /// It imports; these dimensions must be pinned to compile it.
    Free(BTreeSet<String>, Diagnostics),
    /// It does not.
    Refused(Diagnostics),
}

pub(crate) fn main(args: &Args, json: bool) -> Outcome {
    let path = model_file(&args.model)?;
    let info = tenon::frontend::inspect_file(&path).map_err(Error::Model)?;
    let compiler = Compiler::new(args.compile.options(&path)?);
    let verdict = match compiler.import_file(&path) {
        Err(Error::Model(d)) => Verdict::Refused(d),
        Err(e) => return Err(e.into()),
        Ok(imported) => {
            let free = free_dims(&imported.graph);
            if free.is_empty() {
                match compiler.compile_file(&path) {
                    Ok(c) => Verdict::Compiles(Box::new(c)),
                    Err(Error::Model(d)) => Verdict::Refused(d),
                    Err(e) => return Err(e.into()),
                }
            } else {
                Verdict::Free(free, imported.warnings)
            }
        }
    };
    if json {
        print_json(&info, &verdict);
    } else {
        print(&info, &verdict);
    }
    match verdict {
        Verdict::Refused(problems) => {
            let errors = problems.0.iter().filter(|d| d.severity == tenon::Severity::Error).count();
            let message = format!("the model cannot be compiled: {}", count(errors, "problem"));
            Err(Failure { code: Code::BadInput, message, problems, told: true })
        }
        _ => Ok(()),
    }
}

/// Names of the dimensions of the inputs that are not known.
fn free_dims(graph: &Graph) -> BTreeSet<String> {
    let mut symbols = BTreeSet::new();
    for &node in graph.inputs() {
        graph.fact(ValueId { node, port: 0 }).shape.0.iter().for_each(|d| d.symbols(&mut symbols));
    }
    symbols.iter().map(ToString::to_string).collect()
}

fn pin_advice(free: &BTreeSet<String>) -> String {
    free.iter()
        .map(|d| if plain(d) { format!("--dim {d}=N") } else { format!("--dim '{d}=N'") })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Whether a shell takes the name as it is.
fn plain(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn print(info: &ModelInfo, verdict: &Verdict) {
    let opsets: Vec<String> = info
        .opsets
        .iter()
        .map(|(d, v)| if d.is_empty() { format!("opset {v}") } else { format!("{d} {v}") })
        .collect();
    let producer = if info.producer.is_empty() { String::new() } else { format!(", from {}", info.producer) };
    say!("{}: {}, {}{producer}", info.name, count(info.node_count, "node"), opsets.join(", "));
    for (name, fact) in &info.inputs {
        say!("  in   {name}: {}", fact.as_ref().map_or("unknown type".to_string(), ToString::to_string));
    }
    for (name, ty) in &info.outputs {
        say!("  out  {name}: {ty}");
    }
    say!("");
    let mut table = Table::new(&["operator", "count", "supported"]);
    let mut ops: Vec<_> = info.ops.iter().collect();
    ops.sort_by_key(|(_, u)| (u.supported, std::cmp::Reverse(u.count)));
    for (op, usage) in ops {
        table.row(&[op, &usage.count, &if usage.supported { "yes" } else { "NO" }]);
    }
    table.print();
    say!("");
    match verdict {
        Verdict::Compiles(c) => {
            c.warnings.0.iter().for_each(|w| say!("{w}"));
            let r = c.report();
            let (weights, arena) = (bytes(r.weight_bytes), bytes(r.arena_bytes));
            say!(
                "It compiles for {}: {}, weights {weights}, arena {arena}.",
                r.target,
                count(r.calls, "kernel call")
            );
        }
        Verdict::Free(free, warnings) => {
            warnings.0.iter().for_each(|w| say!("{w}"));
            let names: Vec<&str> = free.iter().map(String::as_str).collect();
            say!(
                "Every operator is supported. Native code is made for one shape, and these dimensions are free: {}.",
                names.join(", ")
            );
            say!("Pin them: {}", pin_advice(free));
        }
        Verdict::Refused(problems) => problems.0.iter().for_each(|d| say!("{d}")),
    }
}

fn print_json(info: &ModelInfo, verdict: &Verdict) {
    let ops: Vec<_> =
        info.ops.iter().map(|(op, u)| json!({ "op": op, "count": u.count, "supported": u.supported })).collect();
    let inputs: Vec<_> =
        info.inputs.iter().map(|(n, f)| json!({ "name": n, "type": f.as_ref().map(ToString::to_string) })).collect();
    let outputs: Vec<_> = info.outputs.iter().map(|(n, t)| json!({ "name": n, "type": t })).collect();
    let none = (BTreeSet::new(), Diagnostics::default());
    let (ok, free, problems, report) = match verdict {
        Verdict::Compiles(c) => (true, &none.0, &c.warnings, Some(c.report())),
        Verdict::Free(free, warnings) => (true, free, warnings, None),
        Verdict::Refused(problems) => (false, &none.0, problems, None),
    };
    output::json(&json!({
        "ok": ok,
        "compiles": report.is_some(),
        "model": info.name,
        "producer": info.producer,
        "opsets": info.opsets,
        "nodes": info.node_count,
        "inputs": inputs,
        "outputs": outputs,
        "operators": ops,
        "free_dims": free,
        "problems": problems_json(problems),
        "weight_bytes": report.as_ref().map(|r| r.weight_bytes),
        "arena_bytes": report.as_ref().map(|r| r.arena_bytes),
    }));
}

//! `tenon explain`: what the optimiser decided, and why.

use crate::args::{CompileArgs, model_file};
use crate::failure::Outcome;
use crate::output::{self, Table, count, say};
use crate::panels::{kernel_panel, model_panel, operators};
use serde_json::json;
use std::path::PathBuf;
use tenon::drawing::svg;
use tenon::passes::egraph::decisions::{Decisions, KernelChoice};
use tenon::passes::rows::Blocked;
use tenon::{Compiler, Phase};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prices are cycles of a model of the target: they compare alternatives, they do not predict.

Examples:
  tenon explain model.onnx
  tenon explain model.onnx --target cortex-a76 --top 30
  tenon explain model.onnx --svg model.svg         the graph before and after, kernels as boxes
  tenon explain model.onnx --json > decisions.json")]
pub(crate) struct Args {
    /// An .onnx file, or a folder with model.onnx.
    model: PathBuf,
    /// Kernels to show, dearest first.
    #[arg(long, default_value_t = 15, value_name = "N")]
    top: usize,
    /// Draw the graph before and after.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    compile: CompileArgs,
}

pub(crate) fn main(args: &Args, json: bool) -> Outcome {
    let path = model_file(&args.model)?;
    let options = args.compile.options(&path)?;
    let target = options.target.clone();
    let compiler = Compiler::new(options);
    let imported = compiler.import_file(&path)?;
    let before = imported.graph.clone();
    let state = compiler.run_to(imported.graph, Phase::Lowered)?;
    if let Some(file) = &args.svg {
        let picture = svg(&[model_panel(&before), kernel_panel(&state)]);
        tenon::write_file(file, picture.as_bytes())?;
    }
    if json {
        output::json(&to_json(&state.decisions, &state.blocked, &target.name));
        return Ok(());
    }
    let d = &state.decisions;
    say!(
        "{} → {} for {target}, {:.1} kcycles by its prices",
        count(operators(&before), "operator"),
        count(d.kernels.len(), "kernel"),
        d.cycles / 1e3
    );
    say!("e-graph: {} → {} nodes in {}", d.nodes[0], d.nodes[1], count(d.rounds, "round"));
    d.limits.iter().for_each(|l| say!("limit hit: {l}"));
    print_rules(d);
    print_kernels(d, args.top);
    print_blocked(&state.blocked);
    if let Some(file) = &args.svg {
        say!("\nwrote {}", file.display());
    }
    Ok(())
}

fn places(names: &[String]) -> String {
    match names {
        [] => "made by the compiler".to_string(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} +{}", rest.len()),
    }
}

fn print_rules(d: &Decisions) {
    if !d.fired.is_empty() {
        say!("\nRules that applied");
        let mut table = Table::new(&["rule", "class", "places", "kernels", "what it does", "first at"]);
        for f in &d.fired {
            let first = f.at.first().map_or(String::new(), |p| places(p));
            table.row(&[&f.rule, &f.class, &f.at.len(), &f.used, &f.doc, &first]);
        }
        table.print();
    }
    if !d.missed.is_empty() {
        say!("\nNear misses: the pattern was there, the rule did not apply");
        let mut table = Table::new(&["rule", "places", "why not", "first at"]);
        for m in &d.missed {
            for (why, n, at) in m.why.iter().take(2) {
                table.row(&[&m.rule, n, why, &places(at)]);
            }
        }
        table.print();
    }
}

fn print_kernels(d: &Decisions, top: usize) {
    let mut order: Vec<usize> = (0..d.kernels.len()).collect();
    order.sort_by(|a, b| d.kernels[*b].cycles.total_cmp(&d.kernels[*a].cycles).then(a.cmp(b)));
    let shown = top.min(order.len());
    say!(
        "\nKernels{}",
        if shown < order.len() { format!(" (the dearest {shown} of {})", order.len()) } else { String::new() }
    );
    for i in order.into_iter().take(shown) {
        let k = &d.kernels[i];
        let share = if d.cycles > 0.0 { 100.0 * k.cycles / d.cycles } else { 0.0 };
        say!("  {i:>4}  {:>10.1} kcycles {share:>5.1} %  {}  {}", k.cycles / 1e3, chain(&k.ops), k.result);
        if !k.from.is_empty() {
            say!("        from {}", k.from.join(", "));
        }
        if !k.rules.is_empty() {
            say!("        by   {}", k.rules.join(", "));
        }
        if let Some(text) = runner_up(k) {
            say!("        lost {text}");
        }
    }
}

fn print_blocked(all: &[Blocked]) {
    if !all.is_empty() {
        say!("\nKernels that run together, a block of rows at a time");
    }
    for b in all {
        let (whole, block) = (output::bytes(b.whole), output::bytes(b.block));
        say!("  {} of {} rows: {block} in place of {whole}", b.rows.0, b.rows.1);
        say!("        from {}", b.nodes.replace(" + ", ", "));
    }
}

/// `conv · add · relu`, repetitions counted.
fn chain(ops: &[&str]) -> String {
    let mut parts: Vec<(&str, usize)> = vec![];
    for op in ops {
        match parts.last_mut() {
            Some((last, n)) if last == op => *n += 1,
            _ => parts.push((op, 1)),
        }
    }
    parts
        .iter()
        .map(|(o, n)| if *n > 1 { format!("{o}×{n}") } else { (*o).to_string() })
        .collect::<Vec<_>>()
        .join(" · ")
}

fn runner_up(k: &KernelChoice) -> Option<String> {
    let a = k.runner_up.as_ref()?;
    let by = if a.rules.is_empty() { String::new() } else { format!(" by {}", a.rules.join(", ")) };
    let what = if a.ops.is_empty() { "a view".to_string() } else { chain(&a.ops) };
    Some(format!("{what}{by}, {:.1} kcycles dearer", a.loses / 1e3))
}

fn to_json(d: &Decisions, blocked: &[Blocked], target: &str) -> serde_json::Value {
    let kernels: Vec<_> = d
        .kernels
        .iter()
        .map(|k| {
            let lost = k.runner_up.as_ref().map(|a| json!({ "ops": a.ops, "rules": a.rules, "cycles_more": a.loses }));
            json!({ "ops": k.ops, "from": k.from, "rules": k.rules, "cycles": k.cycles, "result": k.result, "runner_up": lost })
        })
        .collect();
    let fired: Vec<_> = d
        .fired
        .iter()
        .map(|f| {
            json!({ "rule": f.rule, "theme": f.theme, "class": f.class.name(), "doc": f.doc, "at": f.at, "kernels": f.used })
        })
        .collect();
    let missed: Vec<_> = d
        .missed
        .iter()
        .map(|m| {
            let why: Vec<_> = m.why.iter().map(|(w, n, at)| json!({ "why": w, "places": n, "first": at })).collect();
            json!({ "rule": m.rule, "why": why })
        })
        .collect();
    let blocked: Vec<_> = blocked
        .iter()
        .map(|b| json!({ "from": b.nodes, "rows": b.rows.0, "of": b.rows.1, "bytes": b.block, "in_place_of": b.whole }))
        .collect();
    json!({
        "target": target, "cycles": d.cycles, "rounds": d.rounds, "limits": d.limits,
        "nodes": { "imported": d.nodes[0], "saturated": d.nodes[1] },
        "rules": fired, "near_misses": missed, "kernels": kernels, "blocks_of_rows": blocked,
    })
}

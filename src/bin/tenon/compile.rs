//! `tenon compile`: a model to files that an application links.

use crate::args::{CompileArgs, PrecisionArg, model_file};
use crate::budget::{self, BudgetArgs};
use crate::failure::{Outcome, problems_json};
use crate::output::{self, Table, bytes, say, time};
use crate::progress;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tenon::target::Feature;
use tenon::{ArtifactOptions, Compiler, Emit};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tenon compile model.onnx -o out
  tenon compile model.onnx -o out --target aarch64-linux/cortex-a76 --dim batch=1
  tenon compile model.onnx -o out --emit archive,header --name digits
  tenon compile model.onnx -o out --weights file --golden 3
  tenon compile model.onnx -o out --budget arena=64KiB,flash=1MiB,latency=8ms
  tenon compile model.onnx -o out --timings")]
pub(crate) struct Args {
    /// An .onnx file, or a folder with model.onnx.
    model: PathBuf,
    /// The folder to write to; it is made if it is missing.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// What to write.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "obj,archive,header,rust,report")]
    emit: Vec<EmitArg>,
    /// Where the constant data go: into the object, or to a file of their own, NAME.weights.bin, which the application maps.
    #[arg(long, value_enum, default_value = "inside")]
    weights: WeightsArg,
    /// Put this many known results into the object, and a function NAME_selftest that checks them.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=1000))]
    golden: u16,
    #[command(flatten)]
    budget: BudgetArgs,
    /// Print how long each step took.
    #[arg(long)]
    timings: bool,
    #[command(flatten)]
    compile: CompileArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum EmitArg {
    /// A relocatable object, NAME.o.
    Obj,
    /// A static archive, libNAME.a.
    Archive,
    /// A C header, NAME.h.
    Header,
    /// A Rust module, NAME.rs.
    Rust,
    /// Sizes, kernels and memory, NAME.report.json.
    Report,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum WeightsArg {
    /// In the object.
    Inside,
    /// In NAME.weights.bin.
    File,
}

impl EmitArg {
    fn kind(self) -> Emit {
        match self {
            EmitArg::Obj => Emit::Object,
            EmitArg::Archive => Emit::Archive,
            EmitArg::Header => Emit::Header,
            EmitArg::Rust => Emit::Rust,
            EmitArg::Report => Emit::Report,
        }
    }
}

pub(crate) fn main(args: &Args, json: bool) -> Outcome {
    let path = model_file(&args.model)?;
    let options = args.compile.options(&path)?;
    let budget = args.budget.budget()?;
    let spinner = progress::spinner(format!("compiling {}", path.display()));
    let start = Instant::now();
    let compiled = Compiler::new(options).compile_file(&path)?;
    let code = Instant::now();
    let separate_weights = args.weights == WeightsArg::File;
    let mut kinds: Vec<Emit> = args.emit.iter().map(|e| e.kind()).collect();
    kinds.extend(separate_weights.then_some(Emit::Weights));
    kinds.push(Emit::Recipe);
    let object = compiled.object_with(&ArtifactOptions { separate_weights, golden: args.golden.into() })?;
    let artifact = compiled.artifact_of(&object)?.only(&kinds);
    let code = code.elapsed();
    let lines = budget.check(&compiled, &object)?;
    if let Err(over) = budget::enforce(&compiled.program.name, &lines) {
        spinner.finish_and_clear();
        if json {
            output::json(&json!({ "ok": false, "exit_code": over.code as u8, "error": over.message, "problems": [],
                                  "budget": budget::lines_json(&lines) }));
        }
        return Err(over.told());
    }
    let written = artifact.write_to(&args.output)?;
    let total = start.elapsed();
    spinner.finish_and_clear();

    let report = compiled.report();
    let steps: Vec<(String, Duration)> = compiled
        .timings
        .iter()
        .map(|t| (t.name.clone(), t.time))
        .chain([("machine code".to_string(), code)])
        .collect();
    let files: Vec<_> = written.iter().zip(&artifact.files).map(|(p, f)| (p, f.bytes.len())).collect();
    if json {
        output::json(&json!({
            "ok": true,
            "model": report.model,
            "target": report.target,
            "files": files.iter().map(|(p, n)| json!({ "path": p, "bytes": n })).collect::<Vec<_>>(),
            "weight_bytes": report.weight_bytes,
            "arena_bytes": report.arena_bytes,
            "stack_bytes": object.stack_bytes,
            "budget": budget::lines_json(&lines),
            "macs": report.macs,
            "integer_macs": report.integer_macs,
            "bf16_calls": report.bf16_calls,
            "calls": report.calls,
            "seconds": total.as_secs_f64(),
            "timings": steps.iter().map(|(n, t)| json!({ "step": n, "seconds": t.as_secs_f64() })).collect::<Vec<_>>(),
            "warnings": problems_json(&compiled.warnings),
        }));
        return Ok(());
    }
    for w in &compiled.warnings.0 {
        eprintln!("{w}");
    }
    say!("{} for {}: {} kernel calls, compiled in {}", report.model, report.target, report.calls, time(total));
    for io in &report.inputs {
        say!("  in   {}: {}", io.name, io.r#type);
    }
    for io in &report.outputs {
        say!("  out  {}: {}", io.name, io.r#type);
    }
    let (weights, arena, stack) = (report.weight_bytes, report.arena_bytes, object.stack_bytes);
    say!("  weights {}, arena {}, stack {}", bytes(weights), bytes(arena), bytes(stack));
    let integers = report.layers.iter().filter(|l| l.integers).count();
    if integers > 0 {
        let part = 100.0 * report.integer_macs as f64 / report.macs.max(1) as f64;
        let all = report.layers.len();
        say!("  in integers: {integers} of {all} convolutions and matrix products, {part:.1} % of the multiply-adds");
    }
    match (report.bf16_calls, args.compile.precision) {
        (0, PrecisionArg::Bf16)
            if compiled.target.slow.has(Feature::Avx512bf16) && !compiled.target.multiplies_bf16() =>
        {
            say!(
                "  in bf16: none, multiply-adds of f32 are faster on {} than its dot products of bf16",
                report.target
            )
        }
        (0, PrecisionArg::Bf16) if !compiled.target.multiplies_bf16() => {
            say!(
                "  in bf16: none, {} has no products of it; sapphire-rapids, zen4, zen5 and cooperlake have",
                report.target
            )
        }
        (_, PrecisionArg::F32) => {}
        (n, PrecisionArg::Bf16) => say!("  in bf16: the factors of products of {n} kernel calls"),
    }
    for l in &lines {
        say!("  budget kept: {l}");
    }
    for (path, n) in &files {
        say!("  {:>10}  {}", bytes(*n), path.display());
    }
    if args.timings {
        say!("");
        let mut table = Table::new(&["step", "time"]);
        for (name, t) in &steps {
            table.row(&[name, &time(*t)]);
        }
        table.row(&[&"total", &time(total)]);
        table.print();
    }
    Ok(())
}

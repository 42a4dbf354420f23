//! `tenon opt`: the model in the compiler's own terms, at any phase.

use crate::args::{CompileArgs, model_file};
use crate::failure::Outcome;
use crate::output::{self, Table, count, say};
use serde_json::json;
use std::path::PathBuf;
use tenon::passes::pipeline::PIPELINE;
use tenon::{Compiler, Phase};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tenon opt model.onnx                       what each pass changed
  tenon opt model.onnx --to canonical --print
  tenon opt model.onnx --to planned --print --full > model.tk")]
pub(crate) struct Args {
    /// An .onnx file, or a folder with model.onnx.
    model: PathBuf,
    /// The last phase to run.
    #[arg(long, value_name = "PHASE", default_value = "planned", value_parser = phase)]
    to: Phase,
    /// Print the graph or program as it is then.
    #[arg(long)]
    print: bool,
    /// Print constants in full, so that the text can be read back.
    #[arg(long, requires = "print")]
    full: bool,
    #[command(flatten)]
    compile: CompileArgs,
}

fn phase(s: &str) -> Result<Phase, String> {
    Phase::parse(s).ok_or_else(|| format!("expected one of {}", Phase::ALL.map(Phase::name).join(", ")))
}

pub(crate) fn main(args: &Args, json: bool) -> Outcome {
    let path = model_file(&args.model)?;
    let mut options = args.compile.options(&path)?;
    options.name.get_or_insert("model".to_string());
    let compiler = Compiler::new(options);
    let imported = compiler.import_file(&path)?;
    let mut changes = vec![];
    let mut watch = |pass: &tenon::passes::pipeline::Pass, _: &tenon::passes::pipeline::State, changed: usize| {
        changes.push((pass.name, changed));
    };
    let state = compiler.watch_to(imported.graph, args.to, &mut watch)?;
    let text = args.print.then(|| state.print(args.to, !args.full));
    if json {
        let passes: Vec<_> = changes.iter().map(|(n, c)| json!({ "pass": n, "changed": c })).collect();
        output::json(&json!({ "phase": args.to.name(), "passes": passes, "text": text }));
    } else if let Some(text) = text {
        say!("{}", text.trim_end());
    } else {
        let mut table = Table::new(&["pass", "phase", "changed", "what it does"]);
        for pass in PIPELINE {
            if let Some((_, changed)) = changes.iter().find(|(n, _)| *n == pass.name) {
                table.row(&[&pass.name, &pass.phase, changed, &pass.doc]);
            }
        }
        table.print();
        say!("\n  {} after them", count(state.graph.len(), "node"));
    }
    Ok(())
}

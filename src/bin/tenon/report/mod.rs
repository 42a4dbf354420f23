//! `tenon report`: one page about a compiled model.

mod html;
mod memory;
mod page;

use crate::args::{CompileArgs, model_file};
use crate::budget::{self, BudgetArgs};
use crate::failure::{Failure, Outcome};
use crate::output::{self, bytes, say};
use crate::progress;
use serde_json::json;
use std::path::{Path, PathBuf};
use tenon::{ArtifactOptions, Compiler};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The page is one file without scripts that loads nothing from elsewhere: summary, budgets, the arena over time, kernels by
cost, what the flash holds, the model's inputs and outputs. Costs are estimates from the target's description; with
--measure the total is measured here. Limits are shown, not enforced: `tenon compile` does that.

Examples:
  tenon report model.onnx -o report.html
  tenon report model.onnx -o report.html --target aarch64-linux/cortex-a53 --budget arena=64KiB,latency=20ms")]
pub(crate) struct Args {
    /// An .onnx file, or a folder with model.onnx.
    model: PathBuf,
    /// The page.
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,
    #[command(flatten)]
    budget: BudgetArgs,
    #[command(flatten)]
    compile: CompileArgs,
}

pub(crate) fn main(args: &Args, json: bool) -> Outcome {
    let path = model_file(&args.model)?;
    let options = args.compile.options(&path)?;
    let limits = args.budget.budget()?;
    let spinner = progress::spinner(format!("compiling {}", path.display()));
    let compiled = Compiler::new(options).compile_file(&path)?;
    let object = compiled.object_with(&ArtifactOptions::default())?;
    let lines = limits.check(&compiled, &object)?;
    let page = page::Page::new(&compiled, &object, &lines).render();
    write(&args.output, page.as_bytes())?;
    spinner.finish_and_clear();
    if json {
        output::json(&json!({
            "ok": true, "page": args.output, "bytes": page.len(), "budget": budget::lines_json(&lines),
        }));
    } else {
        say!("{} for {}: {} ({})", compiled.program.name, compiled.target, args.output.display(), bytes(page.len()));
        lines.iter().for_each(|l| say!("  {} {l}", if l.kept() { "kept:" } else { "over:" }));
    }
    Ok(())
}

/// Under a temporary name first, so that a page is never half written.
fn write(path: &Path, contents: &[u8]) -> Outcome {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tenon::write_file(folder, path, contents).map_err(Failure::from)
}

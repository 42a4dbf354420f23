//! `tenon report`: one page about a compiled model.

mod html;
mod memory;
mod page;

use crate::args::CompileArgs;
use crate::budget::{self, BudgetArgs};
use crate::case::Case;
use crate::failure::{Failure, Outcome};
use crate::output::{self, bytes, say};
use crate::panels::{kernel_panel, model_panel};
use crate::{inputs, model, progress, quantize};
use serde_json::json;
use std::path::{Path, PathBuf};
use tenon::calibrate::{LayerError, layer_errors};
use tenon::dataset;
use tenon::drawing::svg;
use tenon::ir::{Graph, Op};
use tenon::{ArtifactOptions, Compiled, Compiler, Fact, Phase};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The page is one file without scripts that loads nothing from elsewhere: summary, budgets, the arena over time, kernels by
cost, the graph before and after, what computes in integers, what the flash holds, the model's inputs and outputs. Costs are estimates from the target's description; with
--measure the total is measured here. Limits are shown, not enforced: `tenon compile` does that.

Of a quantised model, errors of each layer are measured on the samples of --samples, or on the data sets of a case folder,
in both forms of the model on this machine.

Examples:
  tenon report model.onnx -o report.html
  tenon report model.onnx -o report.html --recipe model.recipe.toml --samples samples.npz
  tenon report model.onnx -o report.html --target aarch64-linux/cortex-a53 --budget arena=64KiB,latency=20ms")]
pub(crate) struct Args {
    /// An .onnx file, or a folder with model.onnx.
    model: PathBuf,
    /// The page.
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,
    /// Samples of what a quantised model is given, to measure the error of each layer: a .npz as for `tenon quantize`.
    #[arg(long, value_name = "NPZ")]
    samples: Option<PathBuf>,
    #[command(flatten)]
    budget: BudgetArgs,
    #[command(flatten)]
    compile: CompileArgs,
}

pub(crate) fn main(args: &Args, json: bool) -> Outcome {
    let case = Case::find(&args.model)?;
    let path = case.model.clone();
    let options = args.compile.options(&path)?;
    let limits = args.budget.budget()?;
    let spinner = progress::spinner(format!("compiling {}", path.display()));
    let compiler = Compiler::new(options);
    let compiled = compiler.compile_file(&path)?;
    let object = compiled.object_with(&ArtifactOptions::default())?;
    let lines = limits.check(&compiled, &object)?;
    let imported = compiler.import_file(&path)?.graph;
    let after = compiler.run_to(imported.clone(), Phase::Grouped)?;
    let graphs = svg(&[model_panel(&imported), kernel_panel(&after)]);
    let errors = errors(args, &case, &compiler, imported, &compiled)?;
    let page = page::Page::new(&compiled, &object, &lines).with(graphs, errors).render();
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

/// What integers cost each layer of a quantised model, if there is data to measure it on.
fn errors(
    args: &Args,
    case: &Case,
    compiler: &Compiler,
    graph: Graph,
    compiled: &Compiled,
) -> Outcome<Vec<LayerError>> {
    let quantised = compiled.recipe.is_some() || graph.nodes().any(|n| matches!(graph.op(n), Some(Op::Quantize(_))));
    let facts: Vec<(String, Fact)> =
        compiled.program.inputs.iter().map(|i| (i.name.clone(), i.fact.clone())).collect();
    let samples = match &args.samples {
        Some(path) => quantize::Samples::read(path, &facts, MOST_SAMPLES)?.iter().collect(),
        None if !quantised => vec![],
        None => {
            let declared = model::declared(&case.model)?;
            let set =
                |s: &PathBuf| inputs::in_order(&compiled.program.inputs, &dataset::inputs(&declared, s)?.tensors);
            case.sets.iter().take(MOST_SAMPLES).map(set).collect::<Outcome<_>>()?
        }
    };
    if !quantised || samples.is_empty() {
        return Ok(vec![]);
    }
    // Errors are those of the arithmetic, which is the same on every machine; so this one runs it.
    let mut options = compiler.options().clone();
    options.target = tenon::target::host().map_err(Failure::bad_input)?;
    Ok(layer_errors(&Compiler::new(options), graph, &samples)?)
}

/// Samples that errors are measured on at most.
const MOST_SAMPLES: usize = 16;

/// Under a temporary name first, so that a page is never half written.
fn write(path: &Path, contents: &[u8]) -> Outcome {
    tenon::write_file(path, contents).map_err(Failure::from)
}

//! `tenon tune`: measures how the loops of a model are best tiled on this machine.

use crate::args::CompileArgs;
use crate::bench::seconds;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Table, say, time};
use crate::prepared::prepare;
use crate::progress;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tenon::Recipe;
use tenon::tune::{Found, tune};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The compiler tiles every contraction by an estimate of what the target does in a cycle. This measures the alternatives it
considered, here and now, on a quiet machine for choice, and writes those that are at least 2 % faster into a recipe: a small
text to check in. Results stay within what reordered sums may differ by. A compile uses tiles that were measured for its own target
and no others.

Inputs come from the first data set of a case folder, else they are drawn.

Examples:
  tenon tune model.onnx -o model.recipe.toml
  tenon tune model.onnx --recipe model.recipe.toml -o model.recipe.toml    (adds to it)
  tenon compile model.onnx --recipe model.recipe.toml")]
pub(crate) struct Args {
    /// An .onnx file, or a folder with model.onnx.
    model: PathBuf,
    /// Where to write the recipe.
    #[arg(short, long, value_name = "TOML")]
    output: PathBuf,
    /// Seconds to measure; compiling comes on top.
    #[arg(long, value_name = "S", default_value_t = 20.0, value_parser = seconds)]
    seconds: f64,
    /// Seed of drawn inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    compile: CompileArgs,
}

pub(crate) fn main(args: &Args, json: bool) -> Outcome {
    let p = prepare(&args.model, &args.compile, args.seed)?;
    let recipe = match p.compiler.options().recipe.clone() {
        Some(r) => r,
        None => Recipe::new(tenon::recipe::hash_file(&p.case.model)?, Recipe::NO_RANGES, 0),
    };
    let bar = progress::bar(0, "measuring");
    let limit = Duration::from_secs_f64(args.seconds);
    let found = tune(&p.compiler, &p.compiled.graph, recipe, &p.inputs, limit, &mut |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let found = found?;
    let text = found.recipe.to_text().map_err(|e| Failure::internal(e.to_string()))?;
    tenon::write_file(&args.output, text.as_bytes())?;
    let name = format!("{} for {}", p.compiled.program.name, p.compiled.target);
    if json {
        output::json(&as_json(&args.output, &name, &found));
    } else {
        report(&args.output, &name, &found);
    }
    Ok(())
}

fn as_json(path: &Path, name: &str, found: &Found) -> serde_json::Value {
    let us = |d: Duration| d.as_secs_f64() * 1e6;
    json!({
        "ok": true,
        "recipe": path,
        "model": name,
        "contractions": found.shapes,
        "measured": found.measured.iter().map(|(shape, tile, t)| {
            json!({ "contraction": shape, "tile": tile.to_string(), "us": us(*t) })
        }).collect::<Vec<_>>(),
        "run_us": { "before": us(found.run.0), "after": us(found.run.1) },
        "better": found.better.iter().map(|b| json!({
            "contraction": b.shape,
            "kernels": b.kernels,
            "before": b.before.to_string(),
            "after": b.after.to_string(),
            "us": { "before": us(b.times.0), "after": us(b.times.1) },
        })).collect::<Vec<_>>(),
    })
}

fn report(path: &Path, name: &str, found: &Found) {
    say!("{name}: {} in {}", output::count(found.measured.len(), "tile"), output::count(found.shapes, "contraction"));
    if found.better.is_empty() {
        say!("  none is faster than what the compiler takes by itself (a run takes {})", time(found.run.0));
        say!("{}: no tiles", path.display());
        return;
    }
    let mut table = Table::new(&["contraction", "tile", "was", "time", "was", "gain", "kernel"]);
    for b in &found.better {
        let gain = 100.0 * (b.times.0.as_secs_f64() / b.times.1.as_secs_f64() - 1.0);
        let kernels: Vec<&str> = b.kernels.iter().map(String::as_str).collect();
        table.row(&[
            &b.shape,
            &b.after,
            &b.before,
            &time(b.times.1),
            &time(b.times.0),
            &format!("{gain:.0} %"),
            &kernels.join(" "),
        ]);
    }
    table.print();
    let ratio = found.run.0.as_secs_f64() / found.run.1.as_secs_f64();
    say!("  a run takes {}, {} before ({ratio:.2} times as fast)", time(found.run.1), time(found.run.0));
    say!("{}: {}", path.display(), output::count(found.better.len(), "tile"));
}

//! `tenon quantize`: finds how to compute a model in integers.

use crate::args::CompileArgs;
use crate::case::Case;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Table, say};
use crate::tensors::{Array, Arrays};
use crate::{inputs, progress};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tenon::calibrate::{Calibrated, Evaluated, Method, calibrate, evaluate};
use tenon::{Compiler, Fact, Tensor};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The samples are a .npz with one array for each input, named like it, whose first axis counts samples (a model with one
input takes the only array of its shape). Weights become signed bytes with one scale a channel, values unsigned bytes.
The recipe is a small text: check it in, and compile with `--recipe`.

Examples:
  tenon quantize model.onnx --calibrate samples.npz -o model.recipe.toml
  tenon compile model.onnx --recipe model.recipe.toml")]
pub(crate) struct Args {
    /// An .onnx file, or a folder with model.onnx.
    model: PathBuf,
    /// Samples of what the model is given.
    #[arg(long, value_name = "NPZ")]
    calibrate: PathBuf,
    /// Where to write the recipe.
    #[arg(short, long, value_name = "TOML")]
    output: PathBuf,
    /// How ranges are chosen.
    #[arg(long, value_enum, default_value = "mse")]
    method: MethodArg,
    /// Percent of all values that a range keeps, for `--method percentile`.
    #[arg(long, value_name = "P", default_value_t = 99.99, value_parser = percent)]
    percentile: f64,
    /// Look at this many samples at most.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// Other samples, to compare the classes found (the largest element of the first output) in floats and in integers.
    #[arg(long, value_name = "NPZ")]
    evaluate: Option<PathBuf>,
    /// The array of `--evaluate` with the right classes.
    #[arg(long, value_name = "ARRAY", requires = "evaluate")]
    labels: Option<String>,
    /// A layer that stays in floats; may be given several times.
    #[arg(long, value_name = "LAYER")]
    float: Vec<String>,
    #[command(flatten)]
    compile: CompileArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum MethodArg {
    /// All values seen.
    Minmax,
    /// Without the outermost.
    Percentile,
    /// With the least squared error.
    Mse,
}

fn percent(s: &str) -> Result<f64, String> {
    s.parse().ok().filter(|p| *p > 50.0 && *p <= 100.0).ok_or("expected a number above 50, up to 100".to_string())
}

pub(crate) fn main(args: &Args, json: bool) -> Outcome {
    let case = Case::find(&args.model)?;
    if args.compile.recipe.is_some() {
        return Err(Failure::bad_input("--recipe: `quantize` makes a recipe from the float model; it takes none"));
    }
    let options = args.compile.options(&case.model)?;
    let compiler = Compiler::new(options);
    let spinner = progress::spinner(format!("calibrating {}", case.model.display()));
    let imported = compiler.import_file(&case.model)?;
    let model = tenon::recipe::hash_file(&case.model)?;
    let inputs: Vec<(String, Fact)> = imported
        .graph
        .inputs()
        .iter()
        .filter_map(|id| match &imported.graph.node(*id).kind {
            tenon::ir::NodeKind::Input(name) => Some((name.clone(), imported.graph.node(*id).facts[0].clone())),
            _ => None,
        })
        .collect();
    let samples: Vec<_> = Samples::read(&args.calibrate, &inputs, args.samples as usize)?.iter().collect();
    let method = match args.method {
        MethodArg::Minmax => Method::MinMax,
        MethodArg::Percentile => Method::Percentile(args.percentile),
        MethodArg::Mse => Method::Mse,
    };
    let float: BTreeSet<String> = args.float.iter().cloned().collect();
    let graph = imported.graph.clone();
    // All that is read is read before anything is written.
    let held = match &args.evaluate {
        None => None,
        Some(path) => {
            let held = Samples::read(path, &inputs, usize::MAX)?;
            let labels =
                args.labels.as_ref().map(|name| inputs::labels(&format!("{}:{name}", path.display()), held.count));
            let labels = labels.transpose()?;
            Some((held, labels))
        }
    };
    let made = calibrate(&compiler, imported.graph, model, &samples, method, &float)?;
    let evaluated =
        held.map(|(held, l)| evaluate(&compiler, &graph, &made.recipe, held.iter(), l.as_deref())).transpose()?;
    let text = made.recipe.to_text().map_err(|e| Failure::internal(e.to_string()))?;
    tenon::write_file(&args.output, text.as_bytes())?;
    spinner.finish_and_clear();
    report(args, &made, evaluated, samples.len(), json);
    Ok(())
}

fn report(args: &Args, made: &Calibrated, evaluated: Option<Evaluated>, samples: usize, json: bool) {
    if json {
        output::json(&json!({
            "recipe": args.output,
            "method": made.recipe.method,
            "samples": samples,
            "values": made.recipe.values.len(),
            "layers": made.layers.iter().map(|l| json!({
                "name": l.measured.name, "op": l.measured.op,
                "min": l.range.map(|r| r.min), "max": l.range.map(|r| r.max),
                "rms": l.measured.rms, "error": l.measured.error, "sqnr_db": finite(l.measured.sqnr),
                "helps": l.helps.0, "why": l.helps.1,
            })).collect::<Vec<_>>(),
            "outputs": made.outputs.iter().map(|(n, db)| json!({ "name": n, "sqnr_db": finite(*db) })).collect::<Vec<_>>(),
            "evaluated": evaluated.map(|e| json!({
                "samples": e.samples, "agreement": e.agreement,
                "float_accuracy": e.accuracy.map(|a| a.0), "int8_accuracy": e.accuracy.map(|a| a.1),
            })),
        }));
        return;
    }
    let mut table = Table::new(&["layer", "op", "reads", "float rms", "int8 error", "dB", "faster", "why"]);
    for l in &made.layers {
        let range = l.range.map_or("-".to_string(), |r| format!("{:.3}..{:.3}", r.min, r.max));
        let faster = if l.helps.0 { "yes" } else { "no" };
        table.row(&[
            &l.measured.name,
            &l.measured.op,
            &range,
            &format!("{:.4}", l.measured.rms),
            &format!("{:.4}", l.measured.error),
            &format!("{:.1}", l.measured.sqnr),
            &faster,
            &l.helps.1,
        ]);
    }
    table.print();
    for (name, db) in &made.outputs {
        say!("  output {name}: {db:.1} dB");
    }
    if let Some(e) = evaluated {
        say!(
            "  {}: the same class as in floats for {:.2} %",
            output::count(e.samples, "held-out sample"),
            100.0 * e.agreement
        );
        if let Some((float, int)) = e.accuracy {
            let (float, int) = (100.0 * float, 100.0 * int);
            say!("  accuracy {float:.2} % in floats, {int:.2} % in integers ({:+.2} points)", int - float);
        }
    }
    say!(
        "{}: {} values, {} layers, from {}",
        args.output.display(),
        made.recipe.values.len(),
        made.recipe.layers.len(),
        output::count(samples, "sample")
    );
}

fn finite(v: f64) -> Option<f64> {
    v.is_finite().then_some(v)
}

/// Samples of what a model is given.
pub(crate) struct Samples {
    /// How many.
    count: usize,
    /// For each input, in the model's order: the extents of one sample, and all of them.
    inputs: Vec<(Vec<usize>, Tensor)>,
}

impl Samples {
    /// The first `most` samples in the file `path`. Whether its arrays fit is known from their headers: only what does, and is
    /// asked for, is read.
    pub(crate) fn read(path: &Path, inputs: &[(String, Fact)], most: usize) -> Outcome<Samples> {
        let bad = |m: String| Failure::bad_input(format!("{}: {m}", path.display()));
        let arrays = Arrays::open(path)?;
        let names =
            || arrays.list().iter().map(|a| format!("`{}` {}", a.name, a.fact)).collect::<Vec<_>>().join(", ");
        let shape = |a: &Array| a.fact.dims().unwrap_or_default();
        let mut chosen: Vec<(&Array, Vec<usize>, usize)> = vec![];
        for (name, fact) in inputs {
            let dims = fact.dims().ok_or_else(|| {
                bad(format!("the shape of input \"{name}\", {fact}, is not known; pin it with --dim"))
            })?;
            let fits = |a: &Array| a.fact.dtype == fact.dtype && split(&shape(a), &dims).is_some();
            let named = arrays.list().iter().find(|a| a.name == *name);
            let alone: Vec<_> = arrays.list().iter().filter(|a| fits(a)).collect();
            let found = match (named, &alone[..]) {
                (Some(a), _) => Some(a),
                (None, [one]) if inputs.len() == 1 => Some(*one),
                _ => None,
            };
            let Some(array) = found else {
                let held = if arrays.list().is_empty() { "none".into() } else { names() };
                return Err(bad(format!("no array for input \"{name}\", {fact}; the file has {held}")));
            };
            if array.fact.dtype != fact.dtype {
                return Err(arrays.misfit(array, &format_args!("{} for input \"{name}\"", fact.dtype)));
            }
            let Some(count) = split(&shape(array), &dims) else {
                let (first, rest) = (dims.first().copied().unwrap_or(1), dims.get(1..).unwrap_or_default());
                return Err(bad(format!(
                    "array `{}`: expected samples of {dims:?} for input \"{name}\" (shape [N, {dims:?}…], or [N·{first}, {rest:?}…]), found {:?}",
                    array.name,
                    shape(array)
                )));
            };
            chosen.push((array, dims, count));
        }
        let n = chosen.first().map_or(0, |c| c.2);
        if let Some((array, _, count)) = chosen.iter().find(|c| c.2 != n) {
            let first = &chosen[0].0.name;
            return Err(bad(format!("array `{}` has {count} samples, but `{first}` has {n}", array.name)));
        }
        if n == 0 {
            return Err(bad("there is no sample in it".into()));
        }
        let count = n.min(most);
        let read = |(array, dims, _): (&Array, Vec<usize>, usize)| {
            let rows = shape(array).first().map_or(1, |all| all / n * count);
            let t = arrays.read(array, Some(rows))?;
            let finite = |v: &f64| !v.is_finite();
            if let Some(v) =
                t.dtype().is_float().then(|| t.scalars().map(tenon::Scalar::as_f64).find(finite)).flatten()
            {
                let name = &array.name;
                return Err(bad(format!("array `{name}` has an element {v}; calibration needs finite samples")));
            }
            Ok((dims, t))
        };
        Ok(Samples { count, inputs: chosen.into_iter().map(read).collect::<Outcome<_>>()? })
    }

    /// Every sample as inputs in the model's order.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = Vec<Tensor>> + '_ {
        (0..self.count).map(|i| {
            let one = |(dims, t): &(Vec<usize>, Tensor)| {
                let size = dims.iter().product::<usize>() * t.dtype().size();
                Tensor::from_bytes(t.dtype(), dims, t.bytes().slice(i * size..(i + 1) * size)).ok()
            };
            self.inputs.iter().filter_map(one).collect()
        })
    }
}

/// How many samples of `dims` an array of `shape` has: `[N, dims…]`, or the first axis of `dims` times N.
fn split(shape: &[usize], dims: &[usize]) -> Option<usize> {
    if shape.len() == dims.len() + 1 && shape[1..] == *dims {
        return Some(shape[0]);
    }
    let first = *dims.first()?;
    (shape.len() == dims.len() && shape[1..] == dims[1..] && first > 0 && shape[0].is_multiple_of(first))
        .then(|| shape[0] / first)
}

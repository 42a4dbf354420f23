//! `tenon run`: compiles a model for this machine and runs it.

mod recognise;

use crate::args::CompileArgs;
use crate::case::Case;
use crate::failure::{Failure, Outcome};
use crate::output::{self, say, time};
use crate::tensors::Arrays;
use crate::{inputs, model, progress, tensors};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;
use tenon::dataset::{self, Inputs};
use tenon::engine::{Engine, Session};
use tenon::frontend::Given;
use tenon::{Compiled, Compiler, Tensor};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Inputs are .npy, .npz or .pb files. A folder may bring them: heldout.npz (arrays x and y: many samples and what they
are) or test_data_set_0 (ONNX's layout). With labels, every sample is run and the share recognised is printed.

Examples:
  tenon run examples/digits
  tenon run model.onnx --input image=cat.npy -o out.npz
  tenon run model.onnx --input data.npz --engine reference
  tenon run model.onnx --draw 1 --dim batch=1
  tenon run model.onnx --input x=heldout.npz:x --labels heldout.npz:y")]
pub(crate) struct Args {
    /// An .onnx file, or a folder with model.onnx.
    model: PathBuf,
    /// An input: NAME=FILE, NAME=FILE:ARRAY, or a file whose arrays are named as the inputs.
    #[arg(short, long = "input", value_name = "NAME=FILE")]
    inputs: Vec<String>,
    /// Draw the inputs that are not given, from this seed.
    #[arg(long, value_name = "SEED")]
    draw: Option<u64>,
    /// What each sample of the input is: FILE or FILE:ARRAY of whole numbers.
    #[arg(long, value_name = "FILE")]
    labels: Option<String>,
    /// With labels: draw this many samples in the terminal, if they are small images; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 8)]
    show_images: usize,
    /// How to run it.
    #[arg(long, default_value = "jit")]
    engine: Engine,
    /// Write the outputs to this .npy or .npz.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    compile: CompileArgs,
}

/// Where the inputs come from.
struct Data {
    tensors: BTreeMap<String, Tensor>,
    given: BTreeMap<String, Given>,
    labels: Option<Vec<i64>>,
}

pub(crate) fn main(args: &Args, json: bool) -> Outcome {
    let case = Case::find(&args.model)?;
    let data = find_data(args, &case)?;
    // Many samples are many runs.
    let compile = if data.labels.is_some() { args.compile.clone() } else { args.compile.for_the_first_result() };
    let mut options = compile.options(&case.model)?;
    // The data pin dimensions and the values of shape inputs; with labels the first axis is the samples, not the model's.
    if data.labels.is_none() {
        options.data.clone_from(&data.tensors);
    }
    options.given.extend(data.given.clone());
    let spinner = progress::spinner(format!("compiling {}", case.model.display()));
    let start = Instant::now();
    let compiled = Compiler::new(options).compile_file(&case.model)?;
    let session = Session::new(args.engine, &compiled)?;
    let compile_time = start.elapsed();
    spinner.finish_and_clear();
    for w in &compiled.warnings.0 {
        eprintln!("{w}");
    }
    if !json {
        say!("{} compiled to {} for {} in {}", case.name, what(args.engine), compiled.target, time(compile_time));
    }
    match &data.labels {
        Some(labels) => recognise::main(args, &compiled, &session, &data.tensors, labels, json),
        None => once(args, &compiled, &session, data.tensors, json),
    }
}

fn what(engine: Engine) -> &'static str {
    match engine {
        Engine::Reference => "a graph (reference interpreter)",
        Engine::Kernel => "kernels (kernel interpreter)",
        Engine::Jit => "native code",
        Engine::Object => "a native object, linked and loaded,",
    }
}

fn find_data(args: &Args, case: &Case) -> Outcome<Data> {
    let declared = model::declared(&case.model)?;
    let mut given = BTreeMap::new();
    let mut tensors = inputs::read(&args.inputs, &declared.inputs, args.labels.is_some())?;
    let mut given_labels = args.labels.clone();
    if let (true, true, Some(folder)) = (tensors.is_empty(), args.draw.is_none(), &case.folder) {
        let heldout = folder.join("heldout.npz");
        if let (true, [(name, fact)]) = (heldout.is_file(), &declared.inputs[..]) {
            let arrays = Arrays::open(&heldout)?;
            let x = inputs::fitting(&arrays, arrays.one(Some("x"))?, name, fact.as_ref(), true)?;
            tensors.insert(name.clone(), x);
            given_labels.get_or_insert(format!("{}:y", heldout.display()));
        } else if let Some(set) = case.sets.first() {
            Inputs { tensors, given } = dataset::inputs(&declared, set)?;
        }
    }
    let labels = match (given_labels, &tensors.values().collect::<Vec<_>>()[..]) {
        (None, _) => None,
        // One label a sample: so many there must be.
        (Some(spec), [samples]) => Some(inputs::labels(&spec, samples.shape().first().copied().unwrap_or(1))?),
        (Some(_), all) => {
            let n = all.len();
            return Err(Failure::bad_input(format!("labels need samples for one input; there are some for {n}")));
        }
    };
    Ok(Data { tensors, given, labels })
}

/// One run: prints (and writes) the outputs.
fn once(
    args: &Args,
    compiled: &Compiled,
    session: &Session<'_>,
    mut data: BTreeMap<String, Tensor>,
    json: bool,
) -> Outcome {
    if let Some(seed) = args.draw {
        for (io, drawn) in compiled.program.inputs.iter().zip(compiled.example_inputs(seed)) {
            data.entry(io.name.clone()).or_insert(drawn);
        }
    }
    let ins = inputs::in_order(&compiled.program.inputs, &compiled.fill(&data)?)?;
    let start = Instant::now();
    let outs = session.run(&ins)?;
    let run_time = start.elapsed();
    let named: Vec<_> = compiled.program.outputs.iter().map(|o| o.name.clone()).zip(outs).collect();
    if let Some(path) = &args.output {
        tensors::write(path, &named)?;
    }
    if json {
        let outputs: Vec<_> = named
            .iter()
            .map(|(n, t)| {
                let (values, all) = (t.len().min(MOST_IN_JSON), t.len() <= MOST_IN_JSON);
                let data: Vec<_> = t.scalars().take(values).map(number).collect();
                json!({ "name": n, "dtype": t.dtype().name(), "shape": t.shape(), "data": data, "complete": all })
            })
            .collect();
        output::json(&json!({ "ok": true, "seconds": run_time.as_secs_f64(), "outputs": outputs }));
        return Ok(());
    }
    say!("ran in {}", time(run_time));
    for (name, t) in &named {
        say!("  {name}: {}", t.fact());
        say!("    {}", summary(t));
    }
    if let Some(path) = &args.output {
        say!("written to {}", path.display());
    }
    Ok(())
}

/// Elements of an output that `--json` prints; `-o` writes all.
const MOST_IN_JSON: usize = 10_000;

fn number(s: tenon::Scalar) -> serde_json::Value {
    match s {
        tenon::Scalar::Int(_, v) => i64::try_from(v).map_or_else(|_| json!(v.to_string()), |v| json!(v)),
        // JSON has no infinities and no NaN.
        tenon::Scalar::Float(_, v) if !v.is_finite() => json!(v.to_string()),
        tenon::Scalar::Float(_, v) => json!(v),
    }
}

/// The elements if they are few, else the largest for a list of scores, else range and mean.
fn summary(t: &Tensor) -> String {
    if t.len() <= 10 {
        return t.scalars().map(|s| s.to_string()).collect::<Vec<_>>().join("  ");
    }
    let values = t.to_f64();
    if t.shape().iter().filter(|d| **d > 1).count() == 1 {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
        let top: Vec<String> = order[..5].iter().map(|i| format!("[{i}] {:.4}", values[*i])).collect();
        return format!("largest: {}", top.join("  "));
    }
    let (lo, hi) = values.iter().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    format!("from {lo:.4} to {hi:.4}, mean {mean:.4}")
}

//! What `bench`, `profile` and `tune` measure: a model compiled for this machine, with inputs.

use crate::args::CompileArgs;
use crate::case::Case;
use crate::failure::Outcome;
use crate::{inputs, model, progress};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tenon::dataset::{self, Inputs};
use tenon::{Compiled, Compiler, Tensor};

/// A compiled model with inputs for it.
pub(crate) struct Prepared {
    /// Where it came from.
    pub(crate) case: Case,
    /// What compiled it.
    pub(crate) compiler: Compiler,
    /// The model.
    pub(crate) compiled: Compiled,
    /// From the first data set beside the model, else drawn; in the model's order.
    pub(crate) inputs: Vec<Tensor>,
    /// All that the model as it is in the file is given, by name: also inputs that were pinned to a value.
    pub(crate) given: BTreeMap<String, Tensor>,
    /// How long reading and the passes took.
    pub(crate) time: Duration,
}

/// Compiles the model at `path`. Inputs come from the first data set of a case folder, else they are drawn from `seed`.
pub(crate) fn prepare(path: &Path, args: &CompileArgs, seed: u64) -> Outcome<Prepared> {
    let case = Case::find(path)?;
    let mut options = args.options(&case.model)?;
    let Inputs { tensors: data, given: parts } = match case.sets.first() {
        Some(set) => dataset::inputs(&model::declared(&case.model)?, set)?,
        None => Inputs::default(),
    };
    options.data.clone_from(&data);
    options.given.extend(parts);
    let mut given = data.clone();
    given.extend(options.set.clone());
    let spinner = progress::spinner(format!("compiling {}", case.model.display()));
    let start = Instant::now();
    let compiler = Compiler::new(options);
    let compiled = compiler.compile_file(&case.model)?;
    let time = start.elapsed();
    spinner.finish_and_clear();
    let inputs = match case.sets.is_empty() {
        true => compiled.example_inputs(seed),
        false => inputs::in_order(&compiled.program.inputs, &compiled.fill(&data)?)?,
    };
    given.extend(compiled.program.inputs.iter().map(|i| i.name.clone()).zip(inputs.iter().cloned()));
    Ok(Prepared { case, compiler, compiled, inputs, given, time })
}

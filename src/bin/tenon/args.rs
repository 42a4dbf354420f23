//! Arguments that several commands take.

use crate::failure::{Failure, Outcome};
use crate::model;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tenon::{Effort, Math, Options, Precision, Target, Tensor};

/// What is known of the inputs, and what to compile for.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CompileArgs {
    /// Pin a dimension, e.g. `--dim batch=1`, or bound it, `--dim 'seq<=512'`: one artifact then runs every size up to the bound,
    /// which an input of the dimension's name tells; or say that it always is another one, `--dim state_1=batch`. `tenon check`
    /// lists the free ones.
    #[arg(long = "dim", value_name = "NAME=N", value_parser = dim)]
    pub(crate) dims: Vec<DimArg>,
    /// Pin an input to a value, e.g. `--set sr=16000`, `--set shape=1,8` or `--set mask=mask.npy`; it is no input of the
    /// compiled model any more.
    #[arg(long = "set", value_name = "INPUT=VALUE", value_parser = assignment)]
    pub(crate) set: Vec<(String, String)>,
    /// Keep what a run gives as an output for the next run to find as an input, e.g. `--state h0=hn`; neither is an input or
    /// output of the compiled model any more.
    #[arg(long = "state", value_name = "INPUT=OUTPUT", value_parser = assignment)]
    pub(crate) states: Vec<(String, String)>,
    /// The machine: `host`, or one of `tenon targets`.
    #[arg(long, default_value = "host")]
    pub(crate) target: String,
    /// Which rewrites of floating-point arithmetic are allowed: none that changes a bit, other orders of sums, or
    /// approximations too.
    #[arg(long, value_enum, default_value = "default")]
    pub(crate) math: MathArg,
    /// What factors of f32 products (convolutions, matrix products) may be rounded to, and values that are only added to sums of them;
    /// sums stay f32. It is a permission: bf16 is used where the target has the instruction and gains by it (x86 with AVX512_BF16), and
    /// `tenon compile` says how often.
    #[arg(long, value_enum, default_value = "f32")]
    pub(crate) precision: PrecisionArg,
    /// What is to be short: a run of the compiled model, or all until its first result, compiling included [default: quick for `tenon run`
    /// of one sample and for what `tenon bench` calls the first result, full for everything else].
    #[arg(long, value_enum)]
    pub(crate) effort: Option<EffortArg>,
    /// Threads that a run may use: large kernels are divided for as many. Results do not depend on it.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) threads: u16,
    /// The model's name in symbols and files; by default from the file's name.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Compute in integers as this recipe of `tenon quantize` says.
    #[arg(long, value_name = "TOML")]
    pub(crate) recipe: Option<PathBuf>,
}

/// A dimension on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DimArg {
    /// Its name.
    pub(crate) name: String,
    /// Its size, or the largest one.
    pub(crate) n: i64,
    /// `n` is the largest size.
    pub(crate) bound: bool,
    /// The dimension that it always is; `n` says nothing then.
    pub(crate) same: Option<String>,
}

impl std::fmt::Display for DimArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.same {
            Some(other) => write!(f, "{}={other}", self.name),
            None => write!(f, "{}{}={}", self.name, if self.bound { "<" } else { "" }, self.n),
        }
    }
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum MathArg {
    /// Every bit is kept.
    Strict,
    /// Sums and products may be reordered; results below the least normal number (1.2e-38) may become 0.
    Default,
    /// Also approximations with a stated bound.
    Fast,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum EffortArg {
    /// The first result: code that one run does not earn back is not made.
    Quick,
    /// A run, however long compiling takes.
    Full,
}

impl From<EffortArg> for Effort {
    fn from(e: EffortArg) -> Effort {
        match e {
            EffortArg::Quick => Effort::Quick,
            EffortArg::Full => Effort::Full,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PrecisionArg {
    /// Factors stay as they are.
    F32,
    /// To nearest, by at most 2^-8 of each factor.
    Bf16,
}

impl CompileArgs {
    /// The same, for the first result unless the command line says otherwise.
    pub(crate) fn for_the_first_result(&self) -> CompileArgs {
        CompileArgs { effort: self.effort.or(Some(EffortArg::Quick)), ..self.clone() }
    }

    /// What goes into the code; full unless the command line says otherwise.
    pub(crate) fn effort(&self) -> Effort {
        self.effort.map_or(Effort::Full, Effort::from)
    }

    /// The compiler's options for the model in `path`.
    pub(crate) fn options(&self, path: &Path) -> Outcome<Options> {
        let mut options = self.machine_options()?;
        let sized = || self.dims.iter().filter(|d| d.same.is_none());
        let chosen = |bound: bool| sized().filter(move |d| d.bound == bound).map(|d| (d.name.clone(), d.n));
        options.same = self.dims.iter().filter_map(|d| Some((d.name.clone(), d.same.clone()?))).collect();
        options.dims = chosen(false).collect();
        options.bounds = chosen(true).collect();
        options.set = self.pinned_inputs(path)?;
        options.states.clone_from(&self.states);
        options.name = self.name.clone();
        options.threads = self.threads.into();
        options.recipe = self.recipe()?;
        Ok(options)
    }

    /// The part of the options that belongs to no model.
    pub(crate) fn machine_options(&self) -> Outcome<Options> {
        let mut options = Options::new(self.target()?);
        options.math = match self.math {
            MathArg::Strict => Math::Strict,
            MathArg::Default => Math::Default,
            MathArg::Fast => Math::Fast,
        };
        options.precision = match self.precision {
            PrecisionArg::F32 => Precision::F32,
            PrecisionArg::Bf16 => Precision::Bf16,
        };
        options.effort = self.effort();
        Ok(options)
    }

    /// The recipe.
    pub(crate) fn recipe(&self) -> Outcome<Option<tenon::Recipe>> {
        let read = |p: &PathBuf| tenon::Recipe::read(p).map_err(|e| Failure::bad_input(e.to_string()));
        self.recipe.as_ref().map(read).transpose()
    }

    /// The machine.
    pub(crate) fn target(&self) -> Outcome<Target> {
        match self.target.as_str() {
            "host" => tenon::target::host().map_err(Failure::bad_input),
            name => Target::parse(name).map_err(|e| Failure::bad_input(e.to_string())),
        }
    }

    /// `--set` with the dtypes and shapes that the model declares.
    fn pinned_inputs(&self, path: &Path) -> Outcome<BTreeMap<String, Tensor>> {
        if self.set.is_empty() {
            return Ok(BTreeMap::new());
        }
        let declared = model::declared(path)?.inputs;
        let one = |(name, text): &(String, String)| {
            let fact = declared.iter().find(|(n, _)| n == name).map(|(_, f)| f).ok_or_else(|| {
                let names: Vec<&str> = declared.iter().map(|(n, _)| n.as_str()).collect();
                Failure::bad_input(format!("--set {name}: the model has no such input; it has {}", names.join(", ")))
            })?;
            let unknown = || Failure::bad_input(format!("--set {name}: its type is not a tensor of known rank"));
            let tensor = crate::inputs::value(text, fact.as_ref().ok_or_else(unknown)?)
                .map_err(|e| Failure::bad_input(format!("--set {name}={text}: {e}")))?;
            Ok((name.clone(), tensor))
        };
        self.set.iter().map(one).collect()
    }
}

/// `NAME=N`, `NAME<=N` or `NAME=OTHER`.
fn dim(s: &str) -> Result<DimArg, String> {
    let (name, value) = assignment(s)?;
    if !name.ends_with('<') && value.starts_with(|c: char| c.is_alphabetic() || c == '_') {
        return Ok(DimArg { name, n: 0, bound: false, same: Some(value) });
    }
    let n = value.parse::<i64>().ok().filter(|n| *n >= 0).ok_or(format!("`{value}` is not a whole number"))?;
    match name.strip_suffix('<') {
        Some("") => Err("expected NAME<=N".to_string()),
        Some(name) => Ok(DimArg { name: name.to_string(), n, bound: true, same: None }),
        None => Ok(DimArg { name, n, bound: false, same: None }),
    }
}

/// `NAME=VALUE`; the value may contain more `=`.
pub(crate) fn assignment(s: &str) -> Result<(String, String), String> {
    match s.split_once('=') {
        Some((n, v)) if !n.is_empty() && !v.is_empty() => Ok((n.to_string(), v.to_string())),
        _ => Err("expected NAME=VALUE".to_string()),
    }
}

/// The model file meant by `path`: itself, or `model.onnx` in the folder.
pub(crate) fn model_file(path: &Path) -> Outcome<PathBuf> {
    Ok(crate::case::Case::find(path)?.model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_checked() {
        let batch = |bound| DimArg { name: "batch".into(), n: 4, bound, same: None };
        let equal = DimArg { name: "state_1".into(), n: 0, bound: false, same: Some("batch".into()) };
        assert_eq!(dim(&equal.to_string()), Ok(equal));
        assert_eq!(dim("batch=4"), Ok(batch(false)));
        assert_eq!(dim(&batch(true).to_string()), Ok(batch(true)));
        assert!(dim("<=4").is_err());
        assert_eq!(assignment("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(dim("batch=-1").is_err() && dim("batch").is_err() && assignment("=1").is_err());
    }
}

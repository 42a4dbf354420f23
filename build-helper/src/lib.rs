//! Compile ONNX models from `build.rs`.
//!
//! ```toml
//! [build-dependencies]
//! tenon-build = { … }
//!
//! [profile.dev.build-override]
//! opt-level = 3       # the compiler runs inside the build script
//! ```
//!
//! ```no_run
//! // build.rs
//! fn main() -> Result<(), tenon_build::Error> {
//!     tenon_build::Model::new("model.onnx").dim("batch", 1).name("digits").compile()
//! }
//! ```
//!
//! ```ignore
//! // main.rs
//! mod digits {
//!     include!(concat!(env!("OUT_DIR"), "/digits.rs"));
//! }
//! let mut model = digits::Digits::new();
//! let probabilities: [f32; 10] = model.run(&image)?;
//! ```
//!
//! The model becomes a static library, which Cargo links, and a Rust module with typed arrays. The code is for the target of
//! the build: its triple, with the CPU features that `-C target-feature` and `-C target-cpu` turn on.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use tenon::target::Feature;
use tenon::{Compiler, Emit, Math, Options, Target, Tensor};

/// Why a model could not be compiled. Cargo has been told already (`cargo::error=`), line by line.
#[derive(Debug)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// A model to compile.
#[derive(Clone, Debug)]
pub struct Model {
    path: PathBuf,
    name: Option<String>,
    target: Option<String>,
    dims: BTreeMap<String, i64>,
    set: BTreeMap<String, Tensor>,
    math: Math,
}

impl Model {
    /// The model in the file `path`, relative to the package.
    pub fn new(path: impl AsRef<Path>) -> Model {
        Model {
            path: path.as_ref().to_path_buf(),
            name: None,
            target: None,
            dims: BTreeMap::new(),
            set: BTreeMap::new(),
            math: Math::default(),
        }
    }

    /// Pins a dimension.
    #[must_use]
    pub fn dim(mut self, name: impl Into<String>, value: i64) -> Model {
        self.dims.insert(name.into(), value);
        self
    }

    /// Pins an input to a value; it is no input of the compiled model any more.
    #[must_use]
    pub fn set(mut self, input: impl Into<String>, value: Tensor) -> Model {
        self.set.insert(input.into(), value);
        self
    }

    /// Names the module and its symbols; by default after the file.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Model {
        self.name = Some(name.into());
        self
    }

    /// Compiles for this machine description (see `tenon targets`) instead of the build's target.
    #[must_use]
    pub fn target(mut self, target: impl Into<String>) -> Model {
        self.target = Some(target.into());
        self
    }

    /// Which rewrites of floating-point arithmetic are allowed.
    #[must_use]
    pub fn math(mut self, math: Math) -> Model {
        self.math = math;
        self
    }

    /// Compiles the model into `OUT_DIR` and tells Cargo to link it.
    ///
    /// # Errors
    /// All problems of the model. Cargo shows them as errors of the build script.
    pub fn compile(&self) -> Result<(), Error> {
        self.run().map_err(|message| {
            message.lines().for_each(|l| println!("cargo::error={l}"));
            Error(message)
        })
    }

    fn run(&self) -> Result<(), String> {
        // Whatever comes of it, Cargo must try again when the model changes.
        println!("cargo::rerun-if-changed={}", self.path.display());
        let out = PathBuf::from(variable("OUT_DIR")?);
        let target = match &self.target {
            Some(t) => Target::parse(t).map_err(|e| e.to_string())?,
            None => build_target(&variable("TARGET")?, &env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default())?,
        };
        let mut options = Options::new(target);
        options.dims.clone_from(&self.dims);
        options.set.clone_from(&self.set);
        options.math = self.math;
        options.name.clone_from(&self.name);
        let in_model = |e: tenon::Error| format!("{}: {e}", self.path.display());
        let compiled = Compiler::new(options).compile_file(&self.path).map_err(in_model)?;
        for w in &compiled.warnings.0 {
            w.to_string().lines().for_each(|l| println!("cargo::warning={l}"));
        }
        let artifact = compiled.artifact().map_err(in_model)?.only(&[Emit::Archive, Emit::Rust]);
        artifact.write_to(&out).map_err(|e| e.to_string())?;
        println!("cargo::rustc-link-search=native={}", out.display());
        println!("cargo::rustc-link-lib=static={}", compiled.program.name);
        Ok(())
    }
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("{name} is not set: Model::compile runs in a build script, under Cargo"))
}

/// The target of the build: `triple` with those of Cargo's `features` that Tenon knows. Features that Cargo does not
/// name are not assumed.
fn build_target(triple: &str, features: &str) -> Result<Target, String> {
    let base = Target::parse(triple).map_err(|e| e.to_string())?;
    let more: String = features
        .split(',')
        .filter_map(Feature::named)
        .filter(|f| f.info().arch == base.arch && !base.has(*f))
        .map(|f| format!("+{f}"))
        .collect();
    Target::parse(&format!("{triple}{more}")).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_that_of_the_build() {
        let t = build_target("x86_64-unknown-linux-gnu", "fxsr,sse,sse2,avx2,fma,neon").unwrap();
        assert!(t.has(Feature::Avx2) && t.has(Feature::Fma) && !t.has(Feature::Neon) && !t.has(Feature::Avx512f));
        assert!(!build_target("x86_64-unknown-linux-gnu", "fxsr,sse,sse2").unwrap().has(Feature::Avx2));
        assert!(build_target("thumbv7em-none-eabi", "").is_err());
    }
}

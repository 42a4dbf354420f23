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
//! The model is compiled only if it, its external data, the options or the compiler changed in content; otherwise the script
//! ends at once. Nothing is downloaded. Errors are lines of Cargo's own (`cargo::error=`); a budget that is not kept is one:
//!
//! ```no_run
//! # fn main() -> Result<(), tenon_build::Error> {
//! tenon_build::Model::new("model.onnx").budget("arena", "64 KiB").budget("flash", "1 MiB").compile()
//! # }
//! ```
//!
//! The model becomes a static library, which Cargo links, and a Rust module with typed arrays. The code is for the target of
//! the build: its triple, with the CPU features that `-C target-feature` and `-C target-cpu` turn on.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::hash::Hasher;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};
use tenon::target::Feature;
use tenon::{ArtifactOptions, Budget, Compiler, Emit, Math, Options, Precision, Recipe, Target, Tensor};

mod stamp;

/// How far the compiler in this build script is optimised.
const OPT_LEVEL: &str = env!("TENON_BUILD_OPT_LEVEL");

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
    bounds: BTreeMap<String, i64>,
    same: BTreeMap<String, String>,
    set: BTreeMap<String, Tensor>,
    math: Math,
    precision: Precision,
    threads: usize,
    recipe: Option<PathBuf>,
    limits: Vec<(String, String)>,
    artifact: ArtifactOptions,
}

impl Model {
    /// The model in the file `path`, relative to the package.
    pub fn new(path: impl AsRef<Path>) -> Model {
        Model {
            path: path.as_ref().to_path_buf(),
            name: None,
            target: None,
            dims: BTreeMap::new(),
            bounds: BTreeMap::new(),
            same: BTreeMap::new(),
            set: BTreeMap::new(),
            math: Math::default(),
            precision: Precision::default(),
            threads: 1,
            recipe: None,
            limits: vec![],
            artifact: ArtifactOptions::default(),
        }
    }

    /// Pins a dimension.
    #[must_use]
    pub fn dim(mut self, name: impl Into<String>, value: i64) -> Model {
        self.dims.insert(name.into(), value);
        self
    }

    /// Bounds a dimension: the module runs every size up to `most`, which an input of the dimension's name tells.
    #[must_use]
    pub fn bound(mut self, name: impl Into<String>, most: i64) -> Model {
        self.bounds.insert(name.into(), most);
        self
    }

    /// Says that dimension `name` is always `other`, where the model names each on its own.
    #[must_use]
    pub fn same_dim(mut self, name: impl Into<String>, other: impl Into<String>) -> Model {
        self.same.insert(name.into(), other.into());
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

    /// What factors of `f32` products may be rounded to, where the target has the instruction.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Model {
        self.precision = precision;
        self
    }

    /// Lets a run use `n` threads: the module then needs the crate `tenon-runtime`, and has `run_on`, which takes its `Pool`
    /// (feature `std`) or anything else that is `Parallel`.
    #[must_use]
    pub fn threads(mut self, n: usize) -> Model {
        self.threads = n;
        self
    }

    /// Computes in integers as the recipe in the file `path` says, which `tenon quantize` has made; relative to the package.
    #[must_use]
    pub fn recipe(mut self, path: impl AsRef<Path>) -> Model {
        self.recipe = Some(path.as_ref().to_path_buf());
        self
    }

    /// Fails the build if the model takes more: `arena`, `flash` and `stack` in bytes (`64 KiB`), `latency` in time (`8 ms`, an
    /// estimate), `max_error` as a part of the outputs' scale (`1e-3`).
    #[must_use]
    pub fn budget(mut self, name: impl Into<String>, limit: impl Into<String>) -> Model {
        self.limits.push((name.into(), limit.into()));
        self
    }

    /// Puts `n` known results into the library, and a function `selftest` that checks them into the module.
    #[must_use]
    pub fn golden(mut self, n: usize) -> Model {
        self.artifact.golden = n;
        self
    }

    /// Leaves the constant data out of the library. They are in the file that the environment variable `<NAME>_WEIGHTS` names
    /// when the package is compiled (`env!("DIGITS_WEIGHTS")`); the application maps it and gives it to `new`.
    #[must_use]
    pub fn separate_weights(mut self) -> Model {
        self.artifact.separate_weights = true;
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
        let mut budget = Budget::default();
        for (name, limit) in &self.limits {
            budget.set(name, limit).map_err(|e| format!("budget {name}: {e}"))?;
        }
        let in_model = |e: tenon::Error| format!("{}: {e}", self.path.display());
        let stamp = self.stamp(&target)?;
        // One stamp a model; its name in symbols is known only behind the compile.
        let mut file = stamp::Digest::default();
        file.text(&(&self.path, &self.name));
        let file = out.join(format!("tenon-{file}.stamp"));
        if let Some(done) = Done::read(&file, &stamp, &out) {
            done.tell(&out);
            return Ok(());
        }

        let start = Instant::now();
        let mut options = Options::new(target);
        options.dims.clone_from(&self.dims);
        options.bounds.clone_from(&self.bounds);
        options.same.clone_from(&self.same);
        options.set.clone_from(&self.set);
        options.math = self.math;
        options.precision = self.precision;
        options.threads = self.threads;
        options.recipe = self.recipe.as_deref().map(Recipe::read).transpose().map_err(|e| e.to_string())?;
        options.name.clone_from(&self.name);
        let compiled = Compiler::new(options).compile_file(&self.path).map_err(in_model)?;
        let object = compiled.object_with(&self.artifact).map_err(in_model)?;
        let lines = budget.check(&compiled, &object).map_err(in_model)?;
        let over: Vec<String> = lines.iter().filter(|l| !l.kept()).map(ToString::to_string).collect();
        if !over.is_empty() {
            return Err(format!("{} is over its budget\n{}", self.path.display(), over.join("\n")));
        }
        let kinds = [Emit::Archive, Emit::Rust, Emit::Weights];
        let artifact = compiled.artifact_of(&object).map_err(in_model)?.only(&kinds);
        artifact.write_to(&out).map_err(|e| e.to_string())?;
        explain(&self.path, start.elapsed());
        let warnings = compiled.warnings.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let done = Done {
            name: compiled.program.name,
            files: artifact.files.into_iter().map(|f| f.name).collect(),
            warnings: warnings.lines().map(ToString::to_string).collect(),
        };
        // Last: a stamp means that all is there.
        tenon::write_file(&file, done.write(&stamp).as_bytes()).map_err(|e| e.to_string())?;
        done.tell(&out);
        Ok(())
    }

    /// Everything that the result depends on.
    fn stamp(&self, target: &Target) -> Result<String, String> {
        let mut digest = stamp::Digest::default();
        digest.program();
        digest.text(&(self, &target.name));
        // What is printed of a tensor may be a part of it.
        self.set.values().for_each(|t| digest.write(t.bytes()));
        digest.file(&self.path);
        if let Some(recipe) = &self.recipe {
            println!("cargo::rerun-if-changed={}", recipe.display());
            digest.file(recipe);
        }
        // A model that cannot be read is reported by the compile.
        let info = tenon::frontend::inspect_file(&self.path).unwrap_or_default();
        let folder = self.path.parent().unwrap_or(Path::new(""));
        for name in &info.data_files {
            // Others are refused by the compile.
            if !Path::new(name).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
                continue;
            }
            let path = folder.join(name);
            println!("cargo::rerun-if-changed={}", path.display());
            digest.file(&path);
        }
        Ok(digest.to_string())
    }
}

/// What a compile left behind.
struct Done {
    name: String,
    files: Vec<String>,
    warnings: Vec<String>,
}

impl Done {
    /// What `file` says, if it is of `stamp` and all files are there.
    fn read(file: &Path, stamp: &str, out: &Path) -> Option<Done> {
        let text = std::fs::read_to_string(file).ok()?;
        let mut lines = text.lines();
        let (found, name) = (lines.next()?, lines.next()?);
        let files: Vec<String> = lines.next()?.split('\t').map(ToString::to_string).collect();
        let warnings = lines.map(ToString::to_string).collect();
        let complete = found == stamp && files.iter().all(|f| out.join(f).is_file());
        complete.then(|| Done { name: name.to_string(), files, warnings })
    }

    fn write(&self, stamp: &str) -> String {
        let head = [stamp.to_string(), self.name.clone(), self.files.join("\t")];
        head.into_iter().chain(self.warnings.iter().cloned()).map(|l| l + "\n").collect()
    }

    /// Tells Cargo.
    fn tell(&self, out: &Path) {
        self.warnings.iter().for_each(|l| println!("cargo::warning={l}"));
        println!("cargo::rustc-link-search=native={}", out.display());
        println!("cargo::rustc-link-lib=static={}", self.name);
        if let Some(weights) = self.files.iter().find(|f| f.ends_with(".weights.bin")) {
            println!("cargo::rustc-env={}_WEIGHTS={}", self.name.to_ascii_uppercase(), out.join(weights).display());
        }
    }
}

/// A compile that took long without optimisation is slow for a reason that is not the model's.
fn explain(model: &Path, took: Duration) {
    if OPT_LEVEL != "0" || took < Duration::from_secs(1) {
        return;
    }
    let profile = if env::var("PROFILE").is_ok_and(|p| p == "release") { "release" } else { "dev" };
    for line in advice(model, took, profile).lines() {
        println!("cargo::warning={line}");
    }
}

fn advice(model: &Path, took: Duration, profile: &str) -> String {
    format!(
        "{} took {:.1} s to compile: Cargo does not optimise build scripts, and the compiler runs in one. Add to Cargo.toml:\n\
         [profile.{profile}.build-override]\nopt-level = 3",
        model.display(),
        took.as_secs_f64()
    )
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
    fn what_was_done_reads_back_while_it_is_there() {
        let out = env::temp_dir().join(format!("tenon-build-test-{}", std::process::id()));
        std::fs::create_dir_all(&out).unwrap();
        let done = Done { name: "m".into(), files: vec!["libm.a".into()], warnings: vec!["slow".into()] };
        let file = out.join("stamp");
        std::fs::write(&file, done.write("abc")).unwrap();
        assert!(Done::read(&file, "abc", &out).is_none(), "the library is missing");
        std::fs::write(out.join("libm.a"), b"").unwrap();
        let found = Done::read(&file, "abc", &out).unwrap();
        assert_eq!((found.name, found.files, found.warnings), (done.name, done.files, done.warnings));
        assert!(Done::read(&file, "abd", &out).is_none());
        std::fs::write(&file, b"abc\nm").unwrap();
        assert!(Done::read(&file, "abc", &out).is_none(), "half a stamp is none");
        std::fs::remove_dir_all(&out).unwrap();
    }

    #[test]
    fn the_advice_names_the_profile() {
        let text = advice(Path::new("m.onnx"), Duration::from_millis(1500), "release");
        assert!(text.contains("1.5 s") && text.contains("[profile.release.build-override]\nopt-level = 3"));
    }

    #[test]
    fn the_target_is_that_of_the_build() {
        let t = build_target("x86_64-unknown-linux-gnu", "fxsr,sse,sse2,avx2,fma,neon").unwrap();
        assert!(t.has(Feature::Avx2) && t.has(Feature::Fma) && !t.has(Feature::Neon) && !t.has(Feature::Avx512f));
        assert!(!build_target("x86_64-unknown-linux-gnu", "fxsr,sse,sse2").unwrap().has(Feature::Avx2));
        assert!(build_target("thumbv7em-none-eabi", "").is_err());
    }
}

//! Tenon: a hardware-aware compiler from trained ONNX models to native code.
//!
//! ```no_run
//! use tenon::{Compiler, Options};
//! # fn main() -> Result<(), tenon::Error> {
//! let compiler = Compiler::new(Options::host()?);
//! let compiled = compiler.compile_file("model.onnx".as_ref())?;
//! compiled.artifact()?.write_to("out".as_ref())?;        // object, archive, C header, Rust module, report
//! let outputs = compiled.jit()?.run(&compiled.example_inputs(0))?;  // or run it here and now
//! # Ok(()) }
//! ```
//!
//! The same [`Compiler`] serves the command line (`tenon`), build scripts (`tenon-build`) and the JIT, so a model compiled
//! by any of them gives the same numbers.

mod artifact;
pub mod budget;
pub mod calibrate;
mod compiler;
pub use tenon_passes::cycles as cost;
pub mod dataset;
pub mod drawing;
pub mod engine;
mod error;
mod example;
pub mod jit;
pub mod profile;
pub mod recipe;
mod report;
mod text;
pub mod tune;

pub use artifact::{Artifact, ArtifactOptions, Emit, File, write_file};
pub use budget::Budget;
pub use compiler::{Compiled, Compiler, Options, PassTiming};
pub use error::Error;
pub use recipe::Recipe;
pub use report::Report;
pub use text::read_text;

pub use tenon_base::{DType, Diagnostic, Diagnostics, Dim, Fact, Loc, Scalar, Severity, Shape, Tensor};
pub use tenon_cranelift as backend;
pub use tenon_frontend as frontend;
pub use tenon_ir as ir;
pub use tenon_kernel as kernel;
pub use tenon_passes as passes;
pub use tenon_passes::effort::Effort;
pub use tenon_passes::pipeline::{Math, Phase, Precision};
pub use tenon_target as target;
pub use tenon_target::Target;

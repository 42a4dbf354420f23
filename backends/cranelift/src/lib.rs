//! Kernel IR to machine code: objects, static archives and a JIT, for every target; and what is written beside them.
//!
//! The only crate that names Cranelift. The input is a [`tenon_kernel::Program`] whose kernels are scheduled and whose
//! buffers are planned, and a [`tenon_target::Target`]; the output depends on nothing else and is the same bytes
//! every time.

pub mod artifact;
mod audit;
mod blob;
mod capability;
mod check;
mod compile;
mod error;
mod isa;
mod jit;
mod lower;
mod object;
mod options;
mod rounding;
mod selftest;
mod tiles;
mod weights;

pub use audit::{Audit, Section, Symbol, audit, undefined_symbols};
pub use compile::{FunctionSize, prepare};
pub use error::BackendError;
pub use jit::Jit;
pub use object::{Object, archive, compile_object, compile_object_with};
pub use options::{GOLDEN_TOLERANCE, Golden, Haste, ObjectOptions};
pub use tenon_base::AlignedBuf;

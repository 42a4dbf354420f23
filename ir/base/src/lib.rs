//! The shared vocabulary of Tenon: dtypes, symbolic dims, shapes, facts, tensors, locations, diagnostics.
//!
//! This crate knows nothing of ONNX, of graphs or of machines; everything else depends on it.
#![forbid(unsafe_code)]

mod aligned;
mod diagnostic;
mod dim;
mod dtype;
mod fact;
mod loc;
pub mod narrow;
mod tensor;
pub mod text;
pub mod wide;

pub use aligned::{AlignedBuf, Memory};
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use dim::Dim;
pub use dtype::{DType, Element, Real, Scalar};
pub use fact::{Fact, Shape};
pub use loc::Loc;
pub use tensor::{Tensor, TensorError};

/// The greatest common divisor; the other one where one is 0.
pub fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

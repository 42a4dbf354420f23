//! What can go wrong between a program and machine code.

use std::fmt;

/// Why no code was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendError {
    /// The target cannot be generated for.
    Target {
        /// Its name.
        target: String,
        /// What it lacks, and what to try.
        reason: String,
    },
    /// The program is not one this backend compiles (a bug of an earlier pass, or a limit).
    Program(String),
    /// Bytes that should be an object or archive are not.
    Object(String),
    /// The code generator failed on a kernel: a bug of Tenon or of Cranelift.
    Internal {
        /// The kernel, or the part of the artifact.
        kernel: String,
        /// What it said.
        message: String,
    },
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BackendError::Target { target, reason } => write!(f, "target {target}: {reason}"),
            BackendError::Program(reason) => write!(f, "the program cannot be compiled: {reason}"),
            BackendError::Object(reason) => f.write_str(reason),
            BackendError::Internal { kernel, message } => {
                write!(f, "kernel `{kernel}`: the code generator failed (this is a bug): {message}")
            }
        }
    }
}

impl std::error::Error for BackendError {}

/// Runs `f`, which calls code that panics on what it does not support, and makes a panic an error about `kernel`.
pub(crate) fn guarded<T>(kernel: &str, f: impl FnOnce() -> Result<T, BackendError>) -> Result<T, BackendError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_else(|| "it panicked".to_string());
        Err(BackendError::Internal { kernel: kernel.to_string(), message })
    })
}

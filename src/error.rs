//! What can go wrong in a compile or a run.

use std::fmt;
use std::path::PathBuf;
use tenon_base::Diagnostics;
use tenon_cranelift::BackendError;
use tenon_ir::eval::EvalError;
use tenon_kernel::InterpError;
use tenon_passes::PassError;

/// Any failure of the compiler or of an engine.
#[derive(Debug)]
pub enum Error {
    /// The model cannot be read or is not supported: every problem found.
    Model(Diagnostics),
    /// A pass broke an invariant: a bug of the compiler.
    Internal(String),
    /// The target is unknown, or this machine is none that Tenon knows.
    Target(String),
    /// Machine code could not be made.
    Backend(BackendError),
    /// A file could not be read or written.
    Io {
        /// What was being done, e.g. `write`.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The linker is missing or failed.
    Link(String),
    /// The inputs do not fit the model.
    Input(String),
    /// An engine failed.
    Run(String),
}

impl Error {
    /// Whether the user can do something about it; otherwise it is a bug of the compiler.
    pub fn is_users(&self) -> bool {
        match self {
            Error::Internal(_) => false,
            Error::Backend(e) => matches!(e, BackendError::Target { .. } | BackendError::Object(_)),
            _ => true,
        }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { action, path, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Model(d) => d.fmt(f),
            Error::Internal(m) | Error::Target(m) | Error::Link(m) | Error::Input(m) | Error::Run(m) => {
                f.write_str(m)
            }
            Error::Backend(e) => e.fmt(f),
            Error::Io { action, path, source } => write!(f, "cannot {action} {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<Diagnostics> for Error {
    fn from(d: Diagnostics) -> Error {
        Error::Model(d)
    }
}

impl From<PassError> for Error {
    fn from(e: PassError) -> Error {
        match e {
            PassError::Model(d) => Error::Model(d),
            internal => Error::Internal(internal.to_string()),
        }
    }
}

impl From<BackendError> for Error {
    fn from(e: BackendError) -> Error {
        Error::Backend(e)
    }
}

impl From<EvalError> for Error {
    fn from(e: EvalError) -> Error {
        match e {
            EvalError::Input(m) => Error::Input(m),
            e => Error::Run(format!("reference interpreter: {e}")),
        }
    }
}

impl From<InterpError> for Error {
    fn from(e: InterpError) -> Error {
        Error::Run(format!("kernel interpreter: {e}"))
    }
}

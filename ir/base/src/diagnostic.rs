//! Problems told in the user's terms: where, what was expected, what was found, what to try.

use crate::Loc;
use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; the compile goes on.
    Warning,
    /// The compile cannot succeed.
    Error,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The ONNX node (or input) at fault.
    pub loc: Loc,
    /// The operator at fault, as ONNX spells it, with domain and opset where known (`Conv@17`); empty when the problem is not one node's.
    pub op: String,
    /// What is wrong, with what was expected and what was found: lower case, no full stop.
    pub message: String,
    /// What to try, if something can be tried.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error that belongs to no node.
    pub fn error(message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            loc: Loc::none(),
            op: String::new(),
            message: message.into(),
            help: None,
        }
    }

    /// The same, at a node.
    #[must_use]
    pub fn at(mut self, loc: Loc, op: impl Into<String>) -> Diagnostic {
        self.loc = loc;
        self.op = op.into();
        self
    }

    /// The same, with advice.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })?;
        match (self.loc.name(), self.op.as_str()) {
            (None, "") => {}
            (None, op) => write!(f, "[{op}]")?,
            (Some(n), "") => write!(f, "[{n}]")?,
            (Some(n), op) => write!(f, "[{op} \"{n}\"]")?,
        }
        write!(f, ": {}", self.message)?;
        if let Some(h) = &self.help {
            write!(f, "\n  try: {h}")?;
        }
        Ok(())
    }
}

/// All problems of one model, in the order found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Adds one.
    pub fn push(&mut self, d: Diagnostic) {
        self.0.push(d);
    }

    /// Whether any of them is an error.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|d| d.severity == Severity::Error)
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(d: Diagnostic) -> Self {
        Diagnostics(vec![d])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{d}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}
impl std::error::Error for Diagnostic {}

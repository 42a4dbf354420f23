//! How a command ends when it does not end well.

use std::fmt;
use std::process::ExitCode;
use tenon::{Diagnostics, Error};

/// Documented in `tenon --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// A comparison failed: the compiled model does not agree.
    Disagrees = 1,
    /// The command, the model or a file is at fault.
    BadInput = 2,
    /// A bug of Tenon.
    Internal = 3,
    /// A budget is not kept.
    OverBudget = 4,
}

/// The part of `--help` that documents the exit codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  everything went well
  1  a comparison failed: `verify` found a disagreement, or a case that does not compile or crashed; the engines of
     `bench --against` disagree
  2  bad usage, or a model or file that cannot be used; the message says what to try
  3  an internal error of Tenon; please report it
  4  a budget is not kept; the message names the kernels and buffers to blame, largest first";

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// The model's problems, when these are the reason.
    pub(crate) problems: Diagnostics,
    /// The JSON output already tells of it.
    pub(crate) told: bool,
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// The user's to mend.
    pub(crate) fn bad_input(message: impl Into<String>) -> Failure {
        Failure { code: Code::BadInput, message: message.into(), problems: Diagnostics::default(), told: false }
    }

    /// A comparison that failed.
    pub(crate) fn disagrees(message: impl Into<String>) -> Failure {
        Failure { code: Code::Disagrees, message: message.into(), problems: Diagnostics::default(), told: false }
    }

    /// A budget that is not kept.
    pub(crate) fn over_budget(message: impl Into<String>) -> Failure {
        Failure { code: Code::OverBudget, message: message.into(), problems: Diagnostics::default(), told: false }
    }

    /// A bug.
    pub(crate) fn internal(message: impl Into<String>) -> Failure {
        Failure { code: Code::Internal, message: message.into(), problems: Diagnostics::default(), told: false }
    }

    /// The same, when the JSON output already tells of it.
    pub(crate) fn told(self) -> Failure {
        Failure { told: true, ..self }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code as u8)
    }

    /// For `--json`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "ok": false,
            "exit_code": self.code as u8,
            "error": self.message,
            "problems": problems_json(&self.problems),
        })
    }
}

/// Diagnostics for `--json`.
pub(crate) fn problems_json(problems: &Diagnostics) -> serde_json::Value {
    let one = |d: &tenon::Diagnostic| {
        serde_json::json!({
            "severity": match d.severity { tenon::Severity::Error => "error", tenon::Severity::Warning => "warning" },
            "node": d.loc.name(),
            "op": if d.op.is_empty() { None } else { Some(&d.op) },
            "message": d.message,
            "help": d.help,
        })
    };
    problems.0.iter().map(one).collect()
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        let code = if e.is_users() { Code::BadInput } else { Code::Internal };
        let message = e.to_string();
        let problems = match e {
            Error::Model(d) => d,
            _ => Diagnostics::default(),
        };
        Failure { code, message, problems, told: false }
    }
}

//! Why another engine cannot be compared with.

use crate::failure::Failure;
use std::fmt;
use std::time::Duration;

/// Why another engine cannot be compared with. It is told, and does not keep others from their turns.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// No Python has its packages.
    NotInstalled { modules: &'static str, packages: &'static str, tried: Vec<String> },
    /// Its process does not start.
    Start { python: String, why: std::io::Error },
    /// It says that it cannot run this model.
    Refused(String),
    /// Its process has ended; the last lines of what it said.
    Ended(String),
    /// It gave no answer in this time.
    Silent(Duration),
    /// Its answer is none.
    Unreadable(String),
    /// What is handed over in files could not be written or read, or our own model failed.
    Ours(Failure),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::NotInstalled { modules, packages, tried } => write!(
                f,
                "no Python with {modules} (tried {}): pip install {packages}, or name one that has them with --python PATH",
                tried.join(", ")
            ),
            Trouble::Start { python, why } => write!(f, "cannot run {python}: {why}"),
            Trouble::Refused(what) => write!(f, "it cannot run this model: {what}"),
            Trouble::Ended(said) if said.is_empty() => write!(f, "its process ended without an answer"),
            Trouble::Ended(said) => write!(f, "its process ended without an answer; it said: {said}"),
            Trouble::Silent(time) => write!(f, "no answer within {} s", time.as_secs()),
            Trouble::Unreadable(line) => write!(f, "its answer is none: {line}"),
            Trouble::Ours(e) => e.fmt(f),
        }
    }
}

impl From<Failure> for Trouble {
    fn from(e: Failure) -> Trouble {
        Trouble::Ours(e)
    }
}

impl From<Trouble> for Failure {
    fn from(e: Trouble) -> Failure {
        match e {
            Trouble::Ours(e) => e,
            e => Failure::bad_input(e.to_string()),
        }
    }
}

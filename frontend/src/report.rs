//! All problems of one model, collected while it is imported.

use crate::limits::MAX_PROBLEMS;
use std::collections::{BTreeMap, BTreeSet};
use tenon_base::{Diagnostic, Diagnostics, Loc, Severity};
use tenon_ir::ImportError;

/// Nodes of one operator that cannot be imported.
#[derive(Clone, Debug)]
struct Unsupported {
    reason: String,
    help: String,
    count: usize,
    /// The first few.
    nodes: Vec<String>,
}

/// Collects problems. A copy allows for an attempt whose problems may not count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// By operator.
    unsupported: BTreeMap<String, Unsupported>,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    /// Inputs whose values would help.
    pub(crate) needs: BTreeSet<String>,
    /// Beyond [`MAX_PROBLEMS`].
    dropped: usize,
}

/// Names told of an operator's nodes.
const NAMES: usize = 4;

impl Report {
    /// An error at a node (or value) `loc` of operator `op`; both may be empty.
    pub(crate) fn error(&mut self, loc: &str, op: &str, e: ImportError) {
        self.needs.extend(e.needs.iter().cloned());
        if self.errors.len() >= MAX_PROBLEMS {
            self.dropped += 1;
            return;
        }
        self.errors.push(diagnostic(Severity::Error, loc, op, e));
    }

    /// A warning.
    pub(crate) fn warning(&mut self, loc: &str, op: &str, e: ImportError) {
        if self.warnings.len() < MAX_PROBLEMS {
            self.warnings.push(diagnostic(Severity::Warning, loc, op, e));
        }
    }

    /// A node whose operator cannot be imported, whatever its operands.
    pub(crate) fn unsupported(&mut self, op: &str, node: &str, reason: String, help: &str) {
        if !self.unsupported.contains_key(op) && self.unsupported.len() >= MAX_PROBLEMS {
            self.dropped += 1;
            return;
        }
        let entry = self.unsupported.entry(op.to_string()).or_insert_with(|| Unsupported {
            reason,
            help: help.to_string(),
            count: 0,
            nodes: vec![],
        });
        entry.count += 1;
        if entry.nodes.len() < NAMES {
            entry.nodes.push(node.to_string());
        }
    }

    /// Whether there is an error so far.
    pub(crate) fn has_errors(&self) -> bool {
        !self.errors.is_empty() || !self.unsupported.is_empty()
    }

    /// The warnings if there are no errors, else everything: unsupported operators, other errors, warnings.
    pub(crate) fn finish(self) -> Result<Diagnostics, Diagnostics> {
        if !self.has_errors() {
            return Ok(Diagnostics(self.warnings));
        }
        let mut all = Diagnostics::default();
        // Advice that is the same for several operators in a row is given once, behind them.
        let helps: Vec<String> = self.unsupported.values().map(|u| u.help.clone()).collect();
        for (i, (op, u)) in self.unsupported.into_iter().enumerate() {
            let help = (helps.get(i + 1) != Some(&u.help)).then_some(u.help);
            let mut nodes = u.nodes.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
            if u.count > u.nodes.len() {
                nodes += &format!(" and {} more", u.count - u.nodes.len());
            }
            let plural = if u.count == 1 { "node" } else { "nodes" };
            let e =
                ImportError { message: format!("{}; {} {plural}: {nodes}", u.reason, u.count), help, needs: vec![] };
            all.push(diagnostic(Severity::Error, "", &op, e));
        }
        all.0.extend(self.errors);
        if self.dropped > 0 {
            all.push(Diagnostic::error(format!("{} more problems are not listed", self.dropped)));
        }
        all.0.extend(self.warnings);
        Err(all)
    }
}

fn diagnostic(severity: Severity, loc: &str, op: &str, e: ImportError) -> Diagnostic {
    let loc = if loc.is_empty() { Loc::none() } else { Loc::new(shortened(loc)) };
    Diagnostic { severity, loc, op: shortened(op), message: e.message, help: e.help }
}

/// Names come from the file: one of a megabyte would drown the message.
pub(crate) fn shortened(name: &str) -> String {
    const KEPT: usize = 200;
    match name.char_indices().nth(KEPT) {
        None => name.to_string(),
        Some((end, _)) => format!("{}…", &name[..end]),
    }
}

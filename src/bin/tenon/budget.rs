//! Budgets of `compile` and `report`: where they come from, and what is said of them.

use crate::args::assignment;
use crate::failure::{Failure, Outcome};
use serde_json::json;
use std::path::{Path, PathBuf};
use tenon::Budget;
use tenon::budget::Line;

/// The file that is read when none is named.
const FILE: &str = "tenon.toml";

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BudgetArgs {
    /// A limit: arena=64KiB, flash=1MiB, stack=4KiB, latency=8ms or max_error=1e-3; several are separated by commas.
    #[arg(long = "budget", value_name = "NAME=LIMIT", value_delimiter = ',', value_parser = assignment)]
    limits: Vec<(String, String)>,
    /// The file whose table [budget] holds limits; by default tenon.toml, if it is there.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Compare latency with a measurement, where the target is this machine, instead of an estimate.
    #[arg(long)]
    measure: bool,
}

impl BudgetArgs {
    /// The limits of the file, replaced by those of the command line.
    pub(crate) fn budget(&self) -> Outcome<Budget> {
        let path = self.config.as_deref().unwrap_or(Path::new(FILE));
        let mut budget = match tenon::read_text(path, 1 << 20) {
            Ok(text) => {
                Budget::from_toml(&text).map_err(|e| Failure::bad_input(format!("{}: {e}", path.display())))?
            }
            Err(e) if self.config.is_none() && e.kind() == std::io::ErrorKind::NotFound => Budget::default(),
            Err(e) => return Err(Failure::bad_input(format!("cannot read {}: {e}", path.display()))),
        };
        for (name, limit) in &self.limits {
            budget.set(name, limit).map_err(|e| Failure::bad_input(format!("--budget {name}={limit}: {e}")))?;
        }
        budget.measure |= self.measure;
        Ok(budget)
    }
}

/// For `--json`.
pub(crate) fn lines_json(lines: &[Line]) -> serde_json::Value {
    let one = |l: &Line| json!({ "name": l.name, "limit": l.limit, "found": l.found, "how": l.how, "kept": l.kept(), "blame": l.blame });
    lines.iter().map(one).collect()
}

/// Fails if a limit is not kept; names who is to blame, largest first.
pub(crate) fn enforce(model: &str, lines: &[Line]) -> Outcome {
    let over: Vec<String> = lines.iter().filter(|l| !l.kept()).map(|l| format!("  {l}")).collect();
    if over.is_empty() {
        return Ok(());
    }
    Err(Failure::over_budget(format!("{model} is over its budget; nothing was written\n{}", over.join("\n"))))
}

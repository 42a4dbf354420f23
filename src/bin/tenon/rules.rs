//! `tenon rules`: every rewrite the compiler knows.

use crate::failure::Outcome;
use crate::output::{self, Table, say};
use serde_json::json;
use tenon::passes::rule::{Stage, markdown, table};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tenon rules
  tenon rules --markdown > docs/RULES.md
  tenon rules --json")]
pub(crate) struct Args {
    /// As a page of the documentation.
    #[arg(long)]
    markdown: bool,
}

pub(crate) fn main(args: &Args, json: bool) -> Outcome {
    if args.markdown {
        say!("{}", markdown().trim_end());
        return Ok(());
    }
    let stage = |s: Stage| if s == Stage::Normalizer { "normalizer" } else { "egraph" };
    if json {
        let all: Vec<_> = table()
            .iter()
            .map(|r| {
                json!({ "name": r.name, "theme": r.theme, "stage": stage(r.stage), "class": r.class.name(), "doc": r.doc })
            })
            .collect();
        output::json(&json!({ "rules": all }));
        return Ok(());
    }
    let mut out = Table::new(&["rule", "theme", "stage", "class", "what it does"]);
    for r in table() {
        out.row(&[&r.name, &r.theme, &stage(r.stage), &r.class, &r.doc]);
    }
    out.print();
    Ok(())
}

//! The ledger of ONNX's operator cases: what each engine made of each case, as data; and `docs/OPERATORS.md`, which is
//! generated from it and from the list of operators.

use crate::places::repository;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;
use tenon_ir::ops::importers;

/// What an engine made of a case.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// All outputs are within the case's tolerance; the largest absolute error.
    Passed(f64),
    /// The model was refused with an error.
    Refused(String),
    /// An output is out of tolerance, or of another type.
    Wrong(String),
    /// The engine reported an error, or panicked.
    Failed(String),
    /// The process died or did not end in time.
    Crashed(String),
}

impl Status {
    /// The word in the ledger.
    pub fn word(&self) -> &'static str {
        match self {
            Status::Passed(_) => "passed",
            Status::Refused(_) => "refused",
            Status::Wrong(_) => "wrong",
            Status::Failed(_) => "failed",
            Status::Crashed(_) => "crashed",
        }
    }

    /// Why it did not pass.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Status::Passed(_) => None,
            Status::Refused(r) | Status::Wrong(r) | Status::Failed(r) | Status::Crashed(r) => Some(r),
        }
    }

    /// The ledger's form.
    pub fn to_json(&self) -> Value {
        match self {
            // Two digits: enough to read, and stable enough to compare by eye.
            Status::Passed(e) => json!({ "status": "passed", "max_error": format!("{e:.1e}") }),
            other => json!({ "status": other.word(), "reason": other.reason() }),
        }
    }

    /// From the ledger's form.
    pub fn from_json(v: &Value) -> Option<Status> {
        let reason = || v.get("reason").and_then(Value::as_str).unwrap_or("").to_string();
        Some(match v.get("status")?.as_str()? {
            "passed" => Status::Passed(v.get("max_error")?.as_str()?.parse().ok()?),
            "refused" => Status::Refused(reason()),
            "wrong" => Status::Wrong(reason()),
            "failed" => Status::Failed(reason()),
            "crashed" => Status::Crashed(reason()),
            _ => return None,
        })
    }
}

/// One case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// The ONNX operators of its model.
    pub operators: BTreeSet<String>,
    /// By engine.
    pub engines: BTreeMap<String, Status>,
}

/// All cases, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger(pub BTreeMap<String, Entry>);

/// Engines of the ledger, from the front of the compiler to its end.
pub const ENGINES: [&str; 3] = ["reference", "jit", "object"];

impl Ledger {
    /// Where it is kept.
    pub fn path() -> PathBuf {
        repository().join("snapshot-tests/ledger/onnx-node.json")
    }

    /// The one that is checked in.
    pub fn read() -> Result<Ledger, String> {
        let path = Ledger::path();
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let json: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let cases = json.as_object().ok_or("expected an object")?;
        let mut all = BTreeMap::new();
        for (name, v) in cases {
            let operators = v.get("operators").and_then(Value::as_array).ok_or("expected `operators`")?;
            let operators = operators.iter().filter_map(Value::as_str).map(str::to_string).collect();
            let mut engines = BTreeMap::new();
            for e in ENGINES {
                if let Some(s) = v.get(e) {
                    let status = Status::from_json(s).ok_or_else(|| format!("{name}: {e}: not a status"))?;
                    engines.insert(e.to_string(), status);
                }
            }
            all.insert(name.clone(), Entry { operators, engines });
        }
        Ok(Ledger(all))
    }

    /// One case a line, sorted, so that differences are readable.
    pub fn to_text(&self) -> String {
        let mut out = String::from("{\n");
        for (i, (name, entry)) in self.0.iter().enumerate() {
            let mut v = Map::new();
            v.insert("operators".into(), json!(entry.operators));
            for e in ENGINES {
                if let Some(s) = entry.engines.get(e) {
                    v.insert(e.into(), s.to_json());
                }
            }
            let comma = if i + 1 < self.0.len() { "," } else { "" };
            let _ = writeln!(out, "{}: {}{comma}", json!(name), Value::Object(v));
        }
        out.push_str("}\n");
        out
    }

    /// What differs in status between the checked-in ledger and a new run, in words.
    pub fn differences(&self, new: &Ledger) -> Vec<String> {
        let mut found = vec![];
        for name in self.0.keys().chain(new.0.keys()).collect::<BTreeSet<_>>() {
            let word =
                |l: &Ledger, e: &str| l.0.get(name).and_then(|c| c.engines.get(e)).map_or("absent", Status::word);
            for e in ENGINES {
                let (was, is) = (word(self, e), word(new, e));
                if was != is {
                    let why = new.0.get(name).and_then(|c| c.engines.get(e)).and_then(Status::reason).unwrap_or("");
                    found.push(format!("{name} on {e}: was {was}, is {is} {why}").trim_end().to_string());
                }
            }
        }
        found
    }

    fn passes(&self, engine: &str, of: impl Fn(&Entry) -> bool) -> (usize, usize) {
        let all = self.0.values().filter(|e| of(e));
        all.fold((0, 0), |(p, n), e| {
            (p + usize::from(matches!(e.engines.get(engine), Some(Status::Passed(_)))), n + 1)
        })
    }
}

/// `docs/OPERATORS.md`.
pub fn operators_md(ledger: &Ledger) -> String {
    let mut out = String::from(
        "# Operators\n\nGenerated from the list in `ir/src/ops/mod.rs` and from `snapshot-tests/ledger/onnx-node.json`; \
         `snapshot-tests/tests/onnx_cases.rs` fails\nwhen it is stale. To run ONNX's cases and write both anew:\n\n```\n\
         TENON_ONNX_CASES=<folder> TENON_BLESS=1 cargo test -p tenon-snapshot-tests --test onnx_cases\n```\n\n\
         A case passes on an engine when every output is within the tolerance that ONNX states for the case. *Reference* is \
         the reference\ninterpreter on the imported graph; *jit* and *object* are machine code in the process and linked by \
         the system's linker.\n\n## Cases\n\n| Engine | Passed | Of |\n|---|---|---|\n",
    );
    for e in ENGINES {
        let (passed, total) = ledger.passes(e, |_| true);
        let _ = writeln!(out, "| {e} | {passed} | {total} |");
    }
    out.push_str("\n## Operators that are imported\n\n");
    out.push_str(
        "Versions are those in which ONNX changed the operator; those without are resolved by the importer itself. Cases are those whose model has the operator.\n\n",
    );
    let _ =
        writeln!(out, "| ONNX operator | Versions | Cases | {} |\n|---|---|---|---|---|---|", ENGINES.join(" | "));
    let mut rows: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    for (n, _) in importers() {
        let name = if n.domain.is_empty() { n.name.to_string() } else { format!("{}.{}", n.domain, n.name) };
        rows.entry(name).or_default().extend(n.versions);
    }
    // Constants and control flow are resolved by the importer, before the list is asked.
    let seen: BTreeSet<&String> = ledger.0.values().flat_map(|c| &c.operators).collect();
    for name in &seen {
        if ledger.passes(ENGINES[0], |c| c.operators.contains(*name)).0 > 0 {
            rows.entry(name.to_string()).or_default();
        }
    }
    for (name, versions) in &rows {
        let versions: Vec<String> = versions.iter().map(i64::to_string).collect();
        let counts = ENGINES.map(|e| ledger.passes(e, |c| c.operators.contains(name)));
        let _ = write!(out, "| {name} | {} | {} |", versions.join(", "), counts[0].1);
        for (passed, _) in counts {
            let _ = write!(out, " {passed} |");
        }
        out.push('\n');
    }
    let absent: Vec<&str> = seen.iter().filter(|o| !rows.contains_key(**o)).map(|o| o.as_str()).collect();
    let _ = writeln!(
        out,
        "\n## Operators that are refused\n\n{}\n",
        if absent.is_empty() { "None of the cases'.".into() } else { absent.join(", ") }
    );
    out.push_str("## Cases that do not pass\n\nRefusals for an operator of the list above are left out.\n\n");
    let mut reasons: BTreeMap<(&str, &str, &str), Vec<&str>> = BTreeMap::new();
    for (name, entry) in &ledger.0 {
        if entry.operators.iter().any(|o| !rows.contains_key(o)) {
            continue;
        }
        // The first engine that does not pass is the one to look at.
        let first =
            ENGINES.iter().find_map(|e| entry.engines.get(*e).filter(|s| s.reason().is_some()).map(|s| (e, s)));
        if let Some((engine, s)) = first {
            reasons.entry((s.word(), engine, s.reason().unwrap_or(""))).or_default().push(name);
        }
    }
    out.push_str("| Status | Engine | Reason | Cases |\n|---|---|---|---|\n");
    for ((status, engine, reason), cases) in reasons {
        let reason = reason.replace('|', "\\|");
        let _ = writeln!(out, "| {status} | {engine} | {reason} | {} |", cases.join(", "));
    }
    out
}

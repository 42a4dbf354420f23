//! ONNX's operator cases on the engines, against the ledger.
//!
//! `TENON_ONNX_CASES` names the folder: `<case>/model.onnx`, `test_data_set_<k>/{input,output}_<i>.pb` and
//! `tolerance.json` with `rtol` and `atol`. Without it only the generated document is checked. Cases run in worker
//! processes (this executable again), so that one that crashes or hangs is an entry of the ledger like any other.
//! `TENON_BLESS=1` writes the ledger and `docs/OPERATORS.md`.

mod case;
mod worker;

use libtest_mimic::{Arguments, Failed, Trial};
use std::path::Path;
use std::process::ExitCode;
use tenon_snapshot_tests::ledger::{Ledger, operators_md};
use tenon_snapshot_tests::places::{bless, onnx_cases, repository};

fn main() -> ExitCode {
    if let Some(folder) = std::env::args_os().skip_while(|a| a != "--worker").nth(1) {
        worker::serve(Path::new(&folder));
        return ExitCode::SUCCESS;
    }
    let args = Arguments::from_args();
    let mut trials = vec![];
    if let Some(folder) = onnx_cases() {
        trials.push(Trial::test("cases_give_what_the_ledger_says", move || run_cases(&folder)));
    } else if !bless() {
        trials.push(Trial::test("the_document_is_that_of_the_ledger", || check_document(&Ledger::read()?)));
    } else {
        trials.push(Trial::test("the_document_is_that_of_the_ledger", || write_document(&Ledger::read()?)));
    }
    libtest_mimic::run(&args, trials).exit_code()
}

fn run_cases(folder: &Path) -> Result<(), Failed> {
    let new = worker::run_all(folder)?;
    if bless() {
        std::fs::write(Ledger::path(), new.to_text())?;
        return write_document(&new);
    }
    let old = Ledger::read()?;
    let found = old.differences(&new);
    if !found.is_empty() {
        return Err(format!("the ledger says otherwise (TENON_BLESS=1 rewrites it):\n{}", found.join("\n")).into());
    }
    check_document(&old)
}

fn write_document(ledger: &Ledger) -> Result<(), Failed> {
    Ok(std::fs::write(repository().join("docs/OPERATORS.md"), operators_md(ledger))?)
}

fn check_document(ledger: &Ledger) -> Result<(), Failed> {
    let found = std::fs::read_to_string(repository().join("docs/OPERATORS.md"))?;
    if found == operators_md(ledger) {
        return Ok(());
    }
    Err("docs/OPERATORS.md is stale: run this test with TENON_BLESS=1".into())
}

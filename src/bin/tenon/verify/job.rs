//! One case in a process of its own, under a time limit.

use super::Args;
use super::result::{CaseResult, Event};
use crate::case::Case;
use crate::failure::{Failure, Outcome};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What is kept of a worker's output; a worker that prints more is not one of ours.
const MOST_OUTPUT: u64 = 64 << 20;

/// Runs the case. Errors are of `verify` itself; whatever the worker does is a result.
pub(super) fn run(case: &Case, args: &Args) -> Outcome<CaseResult> {
    let start = Instant::now();
    let own = std::env::current_exe().map_err(|e| Failure::internal(format!("cannot find my own program: {e}")))?;
    let path = case.folder.as_ref().unwrap_or(&case.model);
    let mut child = Command::new(own)
        .arg("verify-worker")
        .args(args.check.to_arguments())
        .arg("--")
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| Failure::internal(format!("cannot start a worker: {e}")))?;
    // Both pipes are drained while the worker runs, so that it never waits for us.
    let drain = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = vec![];
            if let Some(p) = pipe {
                // An error here means the worker died; what it said before is kept.
                let _ = p.take(MOST_OUTPUT).read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = drain(child.stdout.take().map(|p| Box::new(p) as Box<dyn Read + Send>));
    let err = drain(child.stderr.take().map(|p| Box::new(p) as Box<dyn Read + Send>));
    let limit = Duration::from_secs(args.timeout);
    let mut pause = Duration::from_millis(1);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if start.elapsed() >= limit => {
                // It may have ended in this moment; then there is nothing to kill.
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            Ok(None) => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
            Err(e) => return Err(Failure::internal(format!("cannot wait for a worker: {e}"))),
        }
    };
    let said = out.join().unwrap_or_default();
    let complaints = err.join().unwrap_or_default();
    let events: Vec<Event> = said.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    Ok(CaseResult::new(case, events, status, &complaints, start.elapsed()))
}

//! Worker processes: they take `case engine` lines and answer with JSON lines; the parent restarts one that dies or does
//! not answer in time, and goes on behind the job that killed it.

use super::case;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;
use tenon_snapshot_tests::ledger::{ENGINES, Entry, Ledger, Status};

/// How long one case may take on one engine.
const LIMIT: Duration = Duration::from_secs(60);

/// The worker: answers until its input ends.
pub(crate) fn serve(folder: &Path) {
    // Panics are answers, not noise.
    std::panic::set_hook(Box::new(|_| {}));
    let mut out = std::io::stdout();
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let Some((name, engine)) = line.split_once(' ') else { continue };
        let path = folder.join(name);
        let status = catch_unwind(AssertUnwindSafe(|| case::run(&path, engine))).unwrap_or_else(|e| {
            let text =
                e.downcast_ref::<String>().cloned().or_else(|| e.downcast_ref::<&str>().map(ToString::to_string));
            Status::Failed(format!("panic: {}", text.unwrap_or_default()))
        });
        if writeln!(out, "{}", status.to_json()).and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

/// Runs every case of `folder` on every engine.
pub(crate) fn run_all(folder: &Path) -> Result<Ledger, String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|e| e.path().join("model.onnx").is_file())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    if names.is_empty() {
        return Err(format!("{}: no cases", folder.display()));
    }
    let all: BTreeMap<String, Entry> = names
        .iter()
        .map(|n| (n.clone(), Entry { operators: case::operators(&folder.join(n)), ..Entry::default() }))
        .collect();
    let jobs: VecDeque<(String, &str)> = names.into_iter().flat_map(|n| ENGINES.map(|e| (n.clone(), e))).collect();
    let (jobs, all) = (Mutex::new(jobs), Mutex::new(all));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|s| {
        let threads: Vec<_> = (0..workers).map(|_| s.spawn(|| drive(folder, &jobs, &all))).collect();
        threads.into_iter().try_for_each(|t| t.join().map_err(|_| "a driver panicked".to_string())?)
    })?;
    all.into_inner().map(Ledger).map_err(|e| e.to_string())
}

/// Feeds one worker at a time with jobs until none are left.
fn drive(
    folder: &Path,
    jobs: &Mutex<VecDeque<(String, &'static str)>>,
    all: &Mutex<BTreeMap<String, Entry>>,
) -> Result<(), String> {
    let mut worker: Option<Worker> = None;
    loop {
        let job = jobs.lock().map_err(|e| e.to_string())?.pop_front();
        let Some((name, engine)) = job else { return Ok(()) };
        let mut w = match worker.take() {
            Some(w) => w,
            None => Worker::start(folder)?,
        };
        let status = match w.ask(&format!("{name} {engine}\n")) {
            Ok(status) => {
                worker = Some(w);
                status
            }
            Err(why) => Status::Crashed(why),
        };
        let mut all = all.lock().map_err(|e| e.to_string())?;
        all.entry(name).or_default().engines.insert(engine.to_string(), status);
    }
}

struct Worker {
    child: Child,
    answers: Receiver<String>,
}

impl Worker {
    fn start(folder: &Path) -> Result<Worker, String> {
        let exe = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut child = Command::new(exe)
            .arg("--worker")
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("the worker does not start: {e}"))?;
        let out = child.stdout.take().ok_or("the worker has no output")?;
        let (send, answers) = channel();
        // Ends with the worker.
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Worker { child, answers })
    }

    /// The answer to one job, or why there is none; the worker is then gone.
    fn ask(&mut self, job: &str) -> Result<Status, String> {
        let input = self.child.stdin.as_mut().ok_or("the worker has no input")?;
        input.write_all(job.as_bytes()).and_then(|()| input.flush()).map_err(|_| "the worker died".to_string())?;
        match self.answers.recv_timeout(LIMIT) {
            Ok(line) => {
                let v: Value = serde_json::from_str(&line).unwrap_or(json!({}));
                Status::from_json(&v).ok_or_else(|| "the answer is not a status".to_string())
            }
            Err(RecvTimeoutError::Timeout) => Err(format!("no answer in {} s", LIMIT.as_secs())),
            Err(RecvTimeoutError::Disconnected) => match self.child.wait() {
                Ok(status) => Err(format!("the process died: {status}")),
                Err(e) => Err(e.to_string()),
            },
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

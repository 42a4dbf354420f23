//! Another engine on the same model, timed in turn with ours: a process of its own that runs when told to.

use crate::failure::{Failure, Outcome};
use crate::prepared::Prepared;
use crate::tensors;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;
use tenon::Tensor;

/// Whom to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peer {
    /// ONNX Runtime by its Python package.
    Onnxruntime,
    /// The same model, compiled for one thread.
    OneThread,
}

impl Peer {
    /// As people write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Onnxruntime => "ONNX Runtime",
            Peer::OneThread => "Tenon on one thread",
        }
    }
}

const SCRIPT: &str = include_str!("onnxruntime.py");

/// How long the worker may take to load the model, and over its turn's length for a turn.
const PATIENCE: Duration = Duration::from_secs(300);

/// Times kept of one turn at most.
const MOST_OF_TURN: usize = 200_000;

/// The peer's process, with the model loaded.
pub(crate) struct Worker {
    child: Child,
    /// `None` once it has been told to end.
    to: Option<ChildStdin>,
    from: Receiver<String>,
    peer: Peer,
    /// Its version.
    pub(crate) version: String,
    /// Seconds it took to load the model.
    pub(crate) load_seconds: f64,
    /// What it computed, in the model's order.
    pub(crate) outputs: Vec<Tensor>,
}

impl Worker {
    /// Starts `peer` by the Python `python` (or one that is found) on `prepared`'s model and inputs.
    pub(crate) fn start(peer: Peer, python: Option<&Path>, prepared: &Prepared, threads: u16) -> Outcome<Worker> {
        let python = find_python(python)?;
        let folder = tempfile::tempdir().map_err(|e| Failure::bad_input(format!("no temporary folder: {e}")))?;
        let (ins, outs) = (folder.path().join("inputs.npz"), folder.path().join("outputs.npz"));
        let given: Vec<_> = prepared.given.iter().map(|(n, t)| (n.clone(), t.clone())).collect();
        tensors::write(&ins, &given)?;
        let start = |e| Failure::bad_input(format!("cannot run {}: {e}", python.to_string_lossy()));
        let mut child = Command::new(&python)
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(start)?;
        let (to, out) = (child.stdin.take(), child.stdout.take());
        let (send, from) = channel();
        // Ends with the process; its lines are short and few.
        std::thread::spawn(move || {
            for line in out.into_iter().flat_map(|o| BufReader::new(o).lines()).map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let mut worker = Worker { child, to, from, peer, version: String::new(), load_seconds: 0.0, outputs: vec![] };
        let model = &prepared.case.model;
        let ready = worker
            .ask(json!({ "model": model, "inputs": ins, "outputs": outs, "threads": threads }), Duration::ZERO)?;
        worker.version = ready["version"].as_str().unwrap_or_default().to_string();
        worker.load_seconds = ready["load_seconds"].as_f64().unwrap_or(0.0);
        let count = ready["outputs"].as_array().map_or(0, Vec::len);
        worker.outputs =
            (0..count).map(|i| tensors::read_one(&outs, Some(&format!("o{i}")))).collect::<Outcome<_>>()?;
        Ok(worker)
    }

    /// A turn of about `length`, at least one run: the time of each.
    pub(crate) fn turn(&mut self, length: Duration) -> Outcome<Vec<Duration>> {
        let answer = self.ask(json!({ "seconds": length.as_secs_f64(), "most": MOST_OF_TURN }), length)?;
        let times = answer["ns"].as_array().map(Vec::as_slice).unwrap_or_default();
        let times: Vec<Duration> = times.iter().filter_map(Value::as_u64).map(Duration::from_nanos).collect();
        if times.is_empty() { Err(self.failed("it told no times")) } else { Ok(times) }
    }

    fn ask(&mut self, question: Value, length: Duration) -> Outcome<Value> {
        let sent = self.to.as_mut().map(|to| writeln!(to, "{question}").and_then(|()| to.flush()));
        if !matches!(sent, Some(Ok(()))) {
            return Err(self.failed("its process has ended"));
        }
        let line = match self.from.recv_timeout(PATIENCE + length) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                return Err(self.failed(&format!("no answer within {} s", (PATIENCE + length).as_secs())));
            }
            Err(RecvTimeoutError::Disconnected) => return Err(self.failed("its process has ended")),
        };
        let answer: Value = serde_json::from_str(&line).map_err(|_| self.failed(&format!("it said `{line}`")))?;
        match answer["error"].as_str() {
            Some(e) => Err(self.failed(e)),
            None => Ok(answer),
        }
    }

    fn failed(&self, what: &str) -> Failure {
        Failure::bad_input(format!("{} cannot run this model: {what}", self.peer.name()))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The end of its input ends it; if it hangs, it is killed. Errors mean that it has ended already.
        drop(self.to.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Python that has onnxruntime: the one named, else that of an active or usual virtual environment, else one on the path.
fn find_python(named: Option<&Path>) -> Outcome<OsString> {
    let has_it = |python: &OsString| {
        let quiet = Command::new(python)
            .args(["-c", "import numpy, onnxruntime"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        quiet.is_ok_and(|s| s.success())
    };
    if let Some(p) = named {
        let p = p.as_os_str().to_os_string();
        return match has_it(&p) {
            true => Ok(p),
            false => Err(Failure::bad_input(format!(
                "--python {}: it cannot be run, or cannot import numpy and onnxruntime",
                p.to_string_lossy()
            ))),
        };
    }
    let bin = if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" };
    let mut tried: Vec<OsString> = vec![];
    let environment = std::env::var_os("VIRTUAL_ENV").map(PathBuf::from);
    let usual = ["target/venv", ".venv", "venv"].map(PathBuf::from);
    tried.extend(environment.into_iter().chain(usual).map(|p| p.join(bin)).filter(|p| p.is_file()).map(Into::into));
    tried.extend(["python3", "python"].map(OsString::from));
    if let Some(found) = tried.iter().find(|p| has_it(p)) {
        return Ok(found.clone());
    }
    let list: Vec<String> = tried.iter().map(|p| p.to_string_lossy().into_owned()).collect();
    Err(Failure::bad_input(format!(
        "no Python with numpy and onnxruntime was found (tried {}): pip install onnxruntime, or name one with --python PATH",
        list.join(", ")
    )))
}

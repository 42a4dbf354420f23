//! Another engine on the same model: a process of its own that runs when told to. The protocol is told in `peers/base.py`.

use super::trouble::Trouble;
use crate::args::PrecisionArg;
use crate::tensors::{self, Named};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;
use tenon::{DType, Tensor};

/// How long the worker may take to load the model, and over its turn's length for a turn.
const PATIENCE: Duration = Duration::from_secs(300);

/// Times kept of one turn at most.
const MOST_OF_TURN: usize = 200_000;

/// How much is told of what a process said before it ended.
const LAST_WORDS: usize = 300;

/// What the engines are to run.
pub(super) struct Job<'a> {
    /// The model's file.
    pub(super) model: &'a Path,
    /// What it is given.
    pub(super) inputs: &'a [Named],
    /// The outputs it has, for their names, dtypes and shapes.
    pub(super) expected: &'a [Named],
    /// Threads it may use.
    pub(super) threads: u16,
    /// What it may round the factors of products to, as `--precision` has it.
    pub(super) precision: PrecisionArg,
    /// The model in the engine's own format, if somebody has converted it.
    pub(super) converted: Option<&'a Path>,
}

/// The engine's process, with the model loaded.
pub(crate) struct Worker {
    child: Child,
    /// `None` once it has been told to end.
    to: Option<ChildStdin>,
    from: Receiver<String>,
    /// What it says beside its answers.
    log: PathBuf,
    /// Its version.
    pub(crate) version: String,
    /// In what it computes.
    pub(crate) precision: String,
    /// Seconds it took to load the model, its packages not counted.
    pub(crate) load_seconds: f64,
    /// Seconds until its first run had ended, counted the same way.
    pub(crate) first_seconds: f64,
    /// What it computed, in the model's order.
    pub(crate) outputs: Vec<Tensor>,
    /// Where its files are while it lives.
    _folder: tempfile::TempDir,
}

impl Worker {
    /// Starts the program `script` by `python` on `job`.
    pub(super) fn start(python: &OsStr, script: &str, job: &Job<'_>) -> Result<Worker, Trouble> {
        let start = |why| Trouble::Start { python: python.to_string_lossy().into_owned(), why };
        let folder = tempfile::tempdir().map_err(start)?;
        let [ins, outs, log] = ["inputs.npz", "outputs.npz", "log"].map(|n| folder.path().join(n));
        tensors::write(&ins, job.inputs)?;
        let mut child = Command::new(python)
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).map_err(start)?)
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
        let (version, precision) = (String::new(), String::new());
        let at = folder.path().to_path_buf();
        let (load_seconds, first_seconds, outputs) = (0.0, 0.0, vec![]);
        let mut worker = Worker {
            child,
            to,
            from,
            log,
            version,
            precision,
            load_seconds,
            first_seconds,
            outputs,
            _folder: folder,
        };
        let expected: Vec<Value> = job
            .expected
            .iter()
            .map(|(name, t)| json!({ "name": name, "dtype": numpy_name(t.dtype()), "shape": t.shape() }))
            .collect();
        let question = json!({
            "model": job.model,
            "inputs": ins,
            "expected": expected,
            "outputs": outs,
            "threads": job.threads,
            "precision": format!("{:?}", job.precision).to_lowercase(),
            "folder": at,
            "converted": job.converted,
        });
        let ready = worker.ask(&question, Duration::ZERO)?;
        let text = |key: &str| ready[key].as_str().unwrap_or_default().to_string();
        worker.version = text("version");
        worker.precision = text("precision");
        let seconds = |key: &str| ready[key].as_f64().unwrap_or(0.0);
        (worker.load_seconds, worker.first_seconds) = (seconds("load_seconds"), seconds("first_seconds"));
        for i in 0..ready["outputs"].as_u64().unwrap_or(0) {
            worker.outputs.push(tensors::read_one(&outs, Some(&format!("o{i}")))?);
        }
        Ok(worker)
    }

    /// A turn of about `length`, at least one run: the time of each.
    pub(super) fn turn(&mut self, length: Duration) -> Result<Vec<Duration>, Trouble> {
        let answer = self.ask(&json!({ "seconds": length.as_secs_f64(), "most": MOST_OF_TURN }), length)?;
        let times = answer["ns"].as_array().map(Vec::as_slice).unwrap_or_default();
        let times: Vec<Duration> = times.iter().filter_map(Value::as_u64).map(Duration::from_nanos).collect();
        if times.is_empty() { Err(Trouble::Unreadable("no times".to_string())) } else { Ok(times) }
    }

    fn ask(&mut self, question: &Value, length: Duration) -> Result<Value, Trouble> {
        let sent = self.to.as_mut().map(|to| writeln!(to, "{question}").and_then(|()| to.flush()));
        let line = match (sent, self.from.recv_timeout(PATIENCE + length)) {
            // What it said before it ended may be an answer, whether or not it heard the question.
            (_, Ok(line)) => line,
            (Some(Ok(())), Err(RecvTimeoutError::Timeout)) => return Err(Trouble::Silent(PATIENCE + length)),
            (_, Err(_)) => return Err(Trouble::Ended(self.last_words())),
        };
        let answer: Value = serde_json::from_str(&line).map_err(|_| Trouble::Unreadable(line.clone()))?;
        match answer["error"].as_str() {
            Some(e) => Err(Trouble::Refused(e.to_string())),
            None if answer.is_object() => Ok(answer),
            None => Err(Trouble::Unreadable(line)),
        }
    }

    /// The end of what the process said.
    fn last_words(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let end = String::from_utf8_lossy(&log[log.len().saturating_sub(LAST_WORDS)..]).into_owned();
        end.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ")
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

/// What NumPy calls it; a dtype that it does not have by what holds it.
fn numpy_name(dtype: DType) -> &'static str {
    match dtype.carrier() {
        DType::F32 => "float32",
        DType::F64 => "float64",
        DType::F16 => "float16",
        DType::I8 => "int8",
        DType::I16 => "int16",
        DType::I32 => "int32",
        DType::I64 => "int64",
        DType::U16 => "uint16",
        DType::U32 => "uint32",
        DType::U64 => "uint64",
        DType::Bool => "bool",
        _ => "uint8",
    }
}

#[cfg(test)]
mod tests {
    use super::super::peers;
    use super::*;

    const FAKE: &str = include_str!("peers/fake.py");

    /// The fake engine, told by the model's name what to do. `None` if there is no Python here.
    fn fake(model: &str) -> Option<Result<Worker, Trouble>> {
        let Some(python) = peers::usual().into_iter().find(|p| peers::imports(p, "json")) else {
            eprintln!("there is no Python here: nothing is checked");
            return None;
        };
        let output = Tensor::new(&[1, 2], &[1f32, 2.0]);
        let input = ("x".to_string(), Tensor::new(&[3], &[1i64, 2, 3]));
        let job = Job {
            model: Path::new(model),
            inputs: &[input],
            expected: &[("y".to_string(), output)],
            threads: 3,
            precision: PrecisionArg::F32,
            converted: None,
        };
        Some(Worker::start(&python, &format!("{}\n\n{FAKE}", peers::BASE), &job))
    }

    fn said(model: &str) -> Option<String> {
        fake(model).map(|r| r.err().unwrap().to_string())
    }

    #[test]
    fn an_engine_says_what_it_computed_and_runs_in_turns() {
        let Some(worker) = fake("good") else { return };
        let mut worker = worker.unwrap();
        // Its version tells what it was asked; what it prints is no answer.
        assert_eq!(worker.version, "3 threads, x, y float32 [1, 2]");
        assert_eq!(worker.precision, "f32");
        assert_eq!(worker.outputs, [Tensor::new(&[1, 2], &[1f32, 2.0])]);
        // A run takes a millisecond.
        assert!(worker.load_seconds > 0.0 && worker.first_seconds >= worker.load_seconds + 1e-3);
        for _ in 0..2 {
            let times = worker.turn(Duration::from_millis(20)).unwrap();
            assert!(!times.is_empty() && times.iter().all(|t| *t >= Duration::from_millis(1)), "{times:?}");
        }
    }

    #[test]
    fn an_engine_that_refuses_or_dies_is_quoted() {
        let Some(refused) = said("refuses") else { return };
        assert_eq!(refused, "it cannot run this model: no such operator");
        assert_eq!(said("fails").unwrap(), "it cannot run this model: ValueError: of its own");
        let died = said("dies").unwrap();
        assert!(died.contains("ended without an answer") && died.contains("out of luck"), "{died}");
        let mut later = fake("dies later").unwrap().unwrap();
        assert!(matches!(later.turn(Duration::ZERO), Ok(t) if t.len() == 1));
        assert!(matches!(later.turn(Duration::ZERO), Err(Trouble::Ended(_))));
    }
}

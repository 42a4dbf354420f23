//! Budgets: what a compiled model may take, and who is to blame when it takes more.

use crate::{Compiled, Error, cost};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};
use tenon_cranelift::Object;
use tenon_kernel::{BufferKind, Call};

/// Limits; what is not set is not checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Budget {
    /// Bytes of working memory that the caller provides.
    pub arena: Option<usize>,
    /// Bytes of code and constant data.
    pub flash: Option<usize>,
    /// Bytes of the stack.
    pub stack: Option<usize>,
    /// Time of one run: measured where the target is this machine and [`Budget::measure`] says so, else estimated.
    pub latency: Option<Duration>,
    /// Largest difference from the reference interpreter, as part of the output's largest magnitude.
    pub max_error: Option<f64>,
    /// Measure the time instead of estimating it.
    pub measure: bool,
}

/// Names of the limits, as in `tenon.toml` and on the command line.
pub const NAMES: [&str; 5] = ["arena", "flash", "stack", "latency", "max_error"];

/// What one limit was compared with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// One of [`NAMES`].
    pub name: &'static str,
    /// Bytes, seconds, or a part.
    pub limit: f64,
    /// In the same unit.
    pub found: f64,
    /// How it was found: `planned`, `estimated`, `measured`, …
    pub how: &'static str,
    /// What it consists of, largest first.
    pub blame: Vec<Blame>,
}

/// A part of what was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Blame {
    /// A kernel, a buffer or an output.
    pub what: String,
    /// In the line's unit.
    pub amount: f64,
    /// The ONNX nodes behind it, where known.
    pub nodes: String,
}

impl Line {
    /// Whether the limit is kept.
    pub fn kept(&self) -> bool {
        self.found <= self.limit
    }

    /// An amount of this line for people: `12.5 KiB`, `3.20 ms`, `0.0012`.
    pub fn show(&self, amount: f64) -> String {
        match self.name {
            "latency" if amount < 1e-3 => format!("{:.1} us", amount * 1e6),
            "latency" if amount < 1.0 => format!("{:.2} ms", amount * 1e3),
            "latency" => format!("{amount:.2} s"),
            "max_error" => format!("{amount:.2e}"),
            _ if amount < 1024.0 => format!("{amount} B"),
            _ if amount < 1_048_576.0 => format!("{:.1} KiB", amount / 1024.0),
            _ => format!("{:.1} MiB", amount / 1_048_576.0),
        }
    }
}

/// `arena: 12.5 KiB planned, 8.0 KiB allowed`, and the largest parts.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (found, limit) = (self.show(self.found), self.show(self.limit));
        write!(f, "{}: {found} {}, {limit} allowed", self.name, self.how)?;
        if self.kept() {
            return Ok(());
        }
        const SHOWN: usize = 8;
        for b in self.blame.iter().take(SHOWN) {
            write!(f, "\n    {:>10}  {}", self.show(b.amount), b.what)?;
            if !b.nodes.is_empty() {
                write!(f, "  ({})", b.nodes)?;
            }
        }
        match self.blame.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n    … and {more} more"),
        }
    }
}

impl Budget {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        let Budget { arena, flash, stack, latency, max_error, measure: _ } = self;
        arena.or(*flash).or(*stack).is_none() && latency.is_none() && max_error.is_none()
    }

    /// Sets the limit called `name` to what `value` says: `64 KiB`, `8 ms`, `1e-3`.
    ///
    /// # Errors
    /// The name is none of [`NAMES`], or the value is no amount of its unit.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "arena" => self.arena = Some(bytes(value)?),
            "flash" => self.flash = Some(bytes(value)?),
            "stack" => self.stack = Some(bytes(value)?),
            "latency" => self.latency = Some(time(value)?),
            "max_error" => {
                let part = value.parse::<f64>().ok().filter(|v| *v >= 0.0 && v.is_finite());
                self.max_error = Some(part.ok_or_else(|| format!("`{value}` is not a number of at least 0"))?);
            }
            _ => return Err(format!("no budget is called `{name}`; there is {}", NAMES.join(", "))),
        }
        Ok(())
    }

    /// Reads the table `[budget]` of a `tenon.toml`: the limits, as text or as plain numbers (bytes, seconds, a part), and
    /// `measure = true`.
    ///
    /// # Errors
    /// The text is not TOML, or a key or value is not understood.
    pub fn from_toml(text: &str) -> Result<Budget, String> {
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| e.to_string())?;
        let mut budget = Budget::default();
        for (key, value) in &table {
            let ("budget", toml::Value::Table(limits)) = (key.as_str(), value) else {
                return Err(format!("`{key}` is not understood; there is the table [budget]"));
            };
            for (name, value) in limits {
                let result = match (name.as_str(), value) {
                    ("measure", toml::Value::Boolean(on)) => {
                        budget.measure = *on;
                        Ok(())
                    }
                    (_, toml::Value::String(s)) => budget.set(name, s),
                    (_, toml::Value::Integer(n)) => budget.set(name, &n.to_string()),
                    (_, toml::Value::Float(v)) => budget.set(name, &v.to_string()),
                    _ => Err(format!("`{value}` is not an amount")),
                };
                result.map_err(|e| format!("[budget] {name}: {e}"))?;
            }
        }
        Ok(budget)
    }

    /// Compares what `compiled` takes with the limits, in the order of [`NAMES`]. The error is that of drawn inputs.
    ///
    /// # Errors
    /// If the model cannot be run for a measurement or a comparison.
    pub fn check(&self, compiled: &Compiled, object: &Object) -> Result<Vec<Line>, Error> {
        let mut lines = vec![];
        if let Some(limit) = self.arena {
            let found = compiled.program.arena_bytes as f64;
            let blame = arena(compiled);
            lines.push(Line { name: "arena", limit: limit as f64, found, how: "planned", blame });
        }
        if let Some(limit) = self.flash {
            let blame = flash(compiled, object);
            let found = blame.iter().map(|b| b.amount).sum();
            lines.push(Line { name: "flash", limit: limit as f64, found, how: "of code and constants", blame });
        }
        if let Some(limit) = self.stack {
            let blame = stack(compiled, object);
            let found = object.stack_bytes as f64;
            lines.push(Line { name: "stack", limit: limit as f64, found, how: "at most", blame });
        }
        if let Some(limit) = self.latency {
            lines.push(latency(compiled, limit, self.measure)?);
        }
        if let Some(limit) = self.max_error {
            lines.push(error(compiled, limit)?);
        }
        Ok(lines)
    }
}

fn sorted(mut blame: Vec<Blame>) -> Vec<Blame> {
    blame.retain(|b| b.amount > 0.0);
    blame.sort_by(|a, b| b.amount.total_cmp(&a.amount).then_with(|| a.what.cmp(&b.what)));
    blame
}

/// What lives when most lives.
fn arena(c: &Compiled) -> Vec<Blame> {
    let memory = c.report().memory;
    let alive = |at: usize| memory.iter().filter(move |m| m.first <= at && at <= m.last);
    let sum = |at: usize| alive(at).map(|m| m.bytes).sum::<usize>();
    let last = memory.iter().map(|m| m.last).max().unwrap_or(0);
    let peak = (0..=last).max_by_key(|at| (sum(*at), std::cmp::Reverse(*at))).unwrap_or(0);
    let calls = c.calls();
    let blame = alive(peak).map(|m| {
        let writes = |call: &&&Call| c.program.writes(call).any(|id| c.program.buffer(id).name == m.name);
        let writer = calls.iter().find(writes);
        Blame {
            what: format!("buffer %{} at {}, alive during calls {} to {}", m.name, m.offset, m.first, m.last),
            amount: m.bytes as f64,
            nodes: writer.and_then(|call| call.loc.name()).unwrap_or_default().to_string(),
        }
    });
    sorted(blame.collect())
}

/// ONNX nodes by kernel symbol suffix: what each kernel of the program computes first.
fn nodes_of_kernels(c: &Compiled) -> Vec<String> {
    let mut nodes = vec![String::new(); c.program.kernels.len()];
    for call in c.calls() {
        if nodes[call.kernel].is_empty() {
            nodes[call.kernel] = call.loc.name().unwrap_or_default().to_string();
        }
    }
    nodes
}

fn flash(c: &Compiled, object: &Object) -> Vec<Blame> {
    let nodes = nodes_of_kernels(c);
    let mut all: Vec<Blame> = object
        .functions
        .iter()
        .enumerate()
        .map(|(i, f)| Blame {
            what: format!("code of {}", f.symbol),
            amount: f.bytes as f64,
            nodes: nodes.get(i).cloned().unwrap_or_default(),
        })
        .collect();
    let constants = c.program.buffers.iter().filter(|b| matches!(b.kind, BufferKind::Const(_)));
    all.extend(constants.map(|b| Blame {
        what: format!("constant %{}: {}[{}]", b.name, b.dtype, b.len),
        amount: b.bytes() as f64,
        nodes: String::new(),
    }));
    sorted(all)
}

fn stack(c: &Compiled, object: &Object) -> Vec<Blame> {
    let nodes = nodes_of_kernels(c);
    let frame = |(i, f): (usize, &tenon_cranelift::FunctionSize)| Blame {
        what: f.symbol.clone(),
        amount: f.stack as f64,
        nodes: nodes.get(i).cloned().unwrap_or_default(),
    };
    // What a self-test adds is not of a run.
    sorted(object.functions.iter().enumerate().take(nodes.len() + 1).map(frame).collect())
}

/// Seconds of each call, estimated.
fn estimated(c: &Compiled) -> Vec<f64> {
    let kernels = cost::of_kernels(&c.program, &c.target);
    c.calls().iter().map(|call| kernels[call.kernel].cycles / (c.target.ghz * 1e9)).collect()
}

fn latency(c: &Compiled, limit: Duration, measure: bool) -> Result<Line, Error> {
    let parts = estimated(c);
    let sum: f64 = parts.iter().sum();
    let (found, how) = match measure && crate::engine::runs_here(&c.target)? {
        true => (measured(c)?.as_secs_f64(), "measured (shares are estimated)"),
        false => (sum, "estimated"),
    };
    // Kernels of one name and place are one line.
    let mut by_kernel: BTreeMap<usize, (f64, usize)> = BTreeMap::new();
    for (call, t) in c.calls().iter().zip(&parts) {
        let entry = by_kernel.entry(call.kernel).or_default();
        entry.0 += t * found / sum.max(f64::MIN_POSITIVE);
        entry.1 += 1;
    }
    let nodes = nodes_of_kernels(c);
    let blame = by_kernel.into_iter().map(|(k, (amount, calls))| Blame {
        what: match calls {
            1 => c.program.kernels[k].name.clone(),
            n => format!("{} ({n} calls)", c.program.kernels[k].name),
        },
        amount,
        nodes: nodes[k].clone(),
    });
    Ok(Line { name: "latency", limit: limit.as_secs_f64(), found, how, blame: sorted(blame.collect()) })
}

/// The median of runs for about a second, after warming up.
fn measured(c: &Compiled) -> Result<Duration, Error> {
    const LONG: Duration = Duration::from_millis(800);
    let model = c.jit()?;
    let mut runner = model.runner();
    runner.set_inputs(&c.example_inputs(1))?;
    let begin = Instant::now();
    let mut times = vec![];
    while begin.elapsed() < LONG || times.len() < 3 {
        let start = Instant::now();
        runner.run_once()?;
        times.push(start.elapsed());
    }
    // The first runs find cold caches.
    let warm = times.len() / 5;
    let times = &mut times[warm..];
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// Drawn inputs that the error is the largest of.
const DRAWN: u64 = 3;

fn error(c: &Compiled, limit: f64) -> Result<Line, Error> {
    let here = crate::engine::runs_here(&c.target).unwrap_or(false);
    let jit = if here { Some(c.jit()?) } else { None };
    let mut worst = vec![0f64; c.program.outputs.len()];
    for seed in 1..=DRAWN {
        let inputs = c.example_inputs(seed);
        let expected = tenon_ir::eval::run(&c.graph, &inputs)?;
        let found = match &jit {
            Some(m) => m.run(&inputs)?,
            None => tenon_kernel::run_program(&c.program, &inputs)?,
        };
        for ((w, e), f) in worst.iter_mut().zip(&expected).zip(&found) {
            let (e, f) = (e.to_f64(), f.to_f64());
            let scale = e.iter().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(v.abs()));
            let off = |(a, b): (&f64, &f64)| if a == b || (a.is_nan() && b.is_nan()) { 0.0 } else { (a - b).abs() };
            let most =
                e.iter().zip(&f).map(off).fold(0.0, |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) });
            *w = w.max(if most == 0.0 { 0.0 } else { most / scale.max(f64::MIN_POSITIVE) });
        }
    }
    let blame = c.program.outputs.iter().zip(&worst).map(|(o, w)| Blame {
        what: format!("output \"{}\"", o.name),
        amount: *w,
        nodes: String::new(),
    });
    let found = worst.iter().fold(0.0, |m: f64, w| m.max(*w));
    Ok(Line { name: "max_error", limit, found, how: "of the output's scale", blame: sorted(blame.collect()) })
}

/// `4096`, `64 KiB`, `1.5 MB`.
fn bytes(text: &str) -> Result<usize, String> {
    let units =
        [("kib", 1024.0), ("mib", 1_048_576.0), ("gib", 1_073_741_824.0), ("kb", 1e3), ("mb", 1e6), ("gb", 1e9)];
    let all = units.into_iter().chain([("k", 1024.0), ("m", 1_048_576.0), ("b", 1.0), ("", 1.0)]);
    let n = amount(text, all).ok_or_else(|| format!("`{text}` is not a size: write 4096, 64 KiB or 1.5 MB"))?;
    Ok(n as usize)
}

/// `8 ms`, `0.008`.
fn time(text: &str) -> Result<Duration, String> {
    let units = [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("", 1.0)];
    let s = amount(text, units).ok_or_else(|| format!("`{text}` is not a time: write 8 ms, 250 us or 0.5 s"))?;
    Duration::try_from_secs_f64(s).map_err(|e| format!("`{text}`: {e}"))
}

fn amount<'a>(text: &str, units: impl IntoIterator<Item = (&'a str, f64)>) -> Option<f64> {
    let text = text.trim().to_lowercase();
    let (unit, factor) = units.into_iter().find(|(u, _)| text.ends_with(u))?;
    let n: f64 = text[..text.len() - unit.len()].trim().parse().ok()?;
    let n = n * factor;
    // Up to what a number of bytes can be exactly.
    (0.0..=9e15).contains(&n).then_some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units() {
        assert_eq!(bytes("64 KiB"), Ok(65536));
        assert_eq!(bytes("1.5MB"), Ok(1_500_000));
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(time("8 ms"), Ok(Duration::from_millis(8)));
        assert_eq!(time("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["", "-1", "x KiB", "1e300", "nan", "inf", "12 parsecs"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert!(time("-1 ms").is_err() && time("fast").unwrap_err().contains("8 ms"));
    }

    #[test]
    fn files_say_what_is_wrong_with_them() {
        let text = "[budget]\narena = \"64 KiB\"\nlatency = 0.5\nmax_error = 1e-3\nflash = 1000\nmeasure = true\n";
        let b = Budget::from_toml(text).unwrap();
        assert_eq!(
            (b.arena, b.flash, b.stack, b.max_error, b.measure),
            (Some(65536), Some(1000), None, Some(1e-3), true)
        );
        let e = |t: &str| Budget::from_toml(t).unwrap_err();
        assert!(e("[budget]\nram = 3").contains("there is arena, flash"), "{}", e("[budget]\nram = 3"));
        assert!(e("[budget]\narena = \"much\"").contains("arena: `much` is not a size"));
        assert!(e("[budgets]\narena = 1").contains("budgets"));
        assert!(e("[budget").contains("TOML") && e("budget = 3").contains("budget"));
        assert!(Budget::from_toml("").unwrap().is_empty());
    }
}

//! The page: its sections in order.

use super::html::{bar, escape, grouped, short, tile};
use super::memory::{self, COLOURS, Written};
use crate::output::{bytes, time};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;
use tenon::backend::Object;
use tenon::budget::Line;
use tenon::calibrate::LayerError;
use tenon::kernel::BufferKind;
use tenon::{Compiled, Report, cost};

const STYLE: &str = include_str!("style.css");
/// Rows of a table; the rest is one line.
const ROWS: usize = 40;

/// What the page is about.
pub(super) struct Page<'a> {
    compiled: &'a Compiled,
    object: &'a Object,
    lines: &'a [Line],
    report: Report,
    /// Kinds of kernels, those of the most estimated time first.
    kinds: Vec<(String, f64)>,
    /// Estimated seconds of each call.
    seconds: Vec<f64>,
    /// The graph before and after, drawn.
    graphs: String,
    /// What integers cost each layer, where that was measured.
    errors: Vec<LayerError>,
}

impl<'a> Page<'a> {
    pub(super) fn new(compiled: &'a Compiled, object: &'a Object, lines: &'a [Line]) -> Page<'a> {
        let costs = cost::of_kernels(&compiled.program, &compiled.target);
        let hertz = compiled.target.ghz * 1e9;
        let seconds: Vec<f64> = compiled.calls().iter().map(|c| costs[c.kernel].cycles / hertz).collect();
        let mut kinds: BTreeMap<String, f64> = BTreeMap::new();
        for (call, s) in compiled.calls().iter().zip(&seconds) {
            *kinds.entry(kind(&compiled.program.kernels[call.kernel].name)).or_default() += s;
        }
        let mut kinds: Vec<(String, f64)> = kinds.into_iter().collect();
        kinds.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let (graphs, errors) = (String::new(), vec![]);
        Page { compiled, object, lines, report: compiled.report(), kinds, seconds, graphs, errors }
    }

    /// With the graph before and after as a picture, and the errors of layers.
    pub(super) fn with(self, graphs: String, errors: Vec<LayerError>) -> Page<'a> {
        Page { graphs, errors, ..self }
    }

    /// The whole page.
    pub(super) fn render(&self) -> String {
        let mut o = String::new();
        // Writing to a `String` does not fail.
        let _ = self.write(&mut o);
        o
    }

    fn write(&self, o: &mut String) -> std::fmt::Result {
        let (r, c) = (&self.report, self.compiled);
        writeln!(
            o,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{} for {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>",
            escape(&r.model),
            escape(&r.target)
        )?;
        let producer = c.info.as_ref().map(|i| i.producer.as_str()).filter(|p| !p.is_empty());
        writeln!(
            o,
            "<header>\n<h1>{}</h1>\n<p class=\"sub\">compiled by tenon {} for <b>{}</b>{}</p>\n</header>",
            escape(&r.model),
            env!("CARGO_PKG_VERSION"),
            escape(&r.target),
            producer.map(|p| format!(" · exported by {}", escape(p))).unwrap_or_default()
        )?;
        self.summary(o)?;
        self.budget(o)?;
        self.memory(o)?;
        self.kernels(o)?;
        self.graphs(o)?;
        self.integers(o)?;
        self.flash(o)?;
        self.signature(o)?;
        writeln!(
            o,
            "<footer>Times are estimates from the target's description ({} GHz, {} f32 operations a cycle), for one \
             core, unless the page says that they were measured. The same model and options give the same page.</footer>\n\
             </main>\n</body>\n</html>",
            c.target.ghz,
            c.target.machine_ops_per_cycle(tenon::DType::F32)
        )
    }

    fn total(&self) -> f64 {
        self.seconds.iter().sum()
    }

    fn code_bytes(&self) -> usize {
        self.object.functions.iter().map(|f| f.bytes).sum()
    }

    fn summary(&self, o: &mut String) -> std::fmt::Result {
        let r = &self.report;
        writeln!(o, "<section class=\"tiles\">")?;
        let measured = self.lines.iter().find(|l| l.name == "latency" && l.how.starts_with("measured"));
        match measured {
            Some(l) => tile(o, "time of a run", &l.show(l.found), "measured, one core"),
            None => tile(o, "time of a run", &time(Duration::from_secs_f64(self.total())), "estimated, one core"),
        }
        tile(o, "arena", &bytes(r.arena_bytes), "from the caller");
        tile(o, "weights", &bytes(r.weight_bytes), "read-only data");
        tile(o, "code", &bytes(self.code_bytes()), &format!("{} functions", self.object.functions.len()));
        tile(o, "stack", &bytes(self.object.stack_bytes), "at most, in a run");
        let (value, unit) = if r.macs >= 1_000_000 { (r.macs as f64 / 1e6, "M") } else { (r.macs as f64 / 1e3, "k") };
        let note = match r.bf16_calls {
            0 => "of a run".to_string(),
            n => format!("of a run, factors rounded to bf16 in {n} kernel calls"),
        };
        tile(o, "multiply-adds", &format!("{value:.1} {unit}"), &note);
        let fused = r.nodes.saturating_sub(r.calls);
        let note = if fused > 0 { format!("for {} ONNX operators", r.nodes) } else { String::new() };
        tile(o, "kernel calls", &r.calls.to_string(), &note);
        writeln!(o, "</section>")
    }

    fn budget(&self, o: &mut String) -> std::fmt::Result {
        if self.lines.is_empty() {
            return Ok(());
        }
        writeln!(o, "<section>\n<h2>Budgets</h2>\n<table class=\"budget\">")?;
        for l in self.lines {
            let part = if l.limit > 0.0 { l.found / l.limit } else { f64::from(u8::from(l.found > 0.0)) * 2.0 };
            // The limit stands at four fifths of the bar, so that there is room to be over it.
            let class = if l.kept() { "ok" } else { "over" };
            let width = (80.0 * part).clamp(0.0, 100.0);
            writeln!(
                o,
                "<tr class=\"{class}\"><th>{}</th><td class=\"wide\"><span class=\"gauge\"><span style=\"width:{width:.2}%\"></span>\
                 <i></i></span></td><td class=\"n\">{}</td><td class=\"n\">of {}</td><td class=\"n\">{:.0} %</td><td>{}</td></tr>",
                l.name.replace('_', " "),
                l.show(l.found),
                l.show(l.limit),
                100.0 * part,
                escape(l.how)
            )?;
        }
        writeln!(o, "</table>")?;
        for l in self.lines.iter().filter(|l| !l.kept()) {
            writeln!(
                o,
                "<p class=\"blame\"><b>{}</b> is over its budget. Largest parts:</p>\n<table>",
                l.name.replace('_', " ")
            )?;
            let most = l.blame.first().map_or(1.0, |b| b.amount).max(f64::MIN_POSITIVE);
            for b in l.blame.iter().take(6) {
                let nodes = escape(&short(&b.nodes, 70));
                writeln!(
                    o,
                    "<tr><td class=\"n\">{}</td><td class=\"meter\">{}</td><td><code>{}</code></td><td class=\"dim\">{nodes}</td></tr>",
                    l.show(b.amount),
                    bar(b.amount / most, "over"),
                    escape(&short(&b.what, 70))
                )?;
            }
            writeln!(o, "</table>")?;
        }
        writeln!(o, "</section>")
    }

    fn colour(&self, kind: &str) -> usize {
        self.kinds.iter().position(|(k, _)| k == kind).filter(|i| *i < COLOURS).unwrap_or(COLOURS)
    }

    fn memory(&self, o: &mut String) -> std::fmt::Result {
        let r = &self.report;
        if r.memory.is_empty() {
            return Ok(());
        }
        let (bound, at) = memory::lower_bound(r);
        let over = 100.0 * (r.arena_bytes as f64 / bound.max(1) as f64 - 1.0);
        writeln!(
            o,
            "<section>\n<h2>The arena over time</h2>\n<p class=\"sub\">{} buffers share {}. Call {at} needs {} at once, so no plan \
             is smaller than that; this one is {over:.1} % above. A box is a buffer: its place, and the calls during which it \
             is used. The line shows the bytes alive.</p>",
            r.memory.len(),
            bytes(r.arena_bytes),
            bytes(bound)
        )?;
        let p = &self.compiled.program;
        let calls = self.compiled.calls();
        let written: Vec<Written> = r
            .memory
            .iter()
            .map(|m| {
                let writer = calls.iter().find(|c| p.writes(c).any(|id| p.buffer(id).name == m.name));
                let kernel = writer.map_or(String::new(), |c| p.kernels[c.kernel].name.clone());
                Written { colour: self.colour(&kind(&kernel)), kernel }
            })
            .collect();
        o.push_str(&memory::draw(r, &written));
        writeln!(o, "<p class=\"legend\">written by")?;
        let mut seen: Vec<usize> = written.iter().map(|w| w.colour).collect();
        seen.sort_unstable();
        seen.dedup();
        for i in seen {
            let name = if i < COLOURS { self.kinds[i].0.as_str() } else { "others" };
            writeln!(o, "<span><i class=\"c{i}\"></i>{}</span>", escape(name))?;
        }
        writeln!(o, "</p>\n</section>")
    }

    fn kernels(&self, o: &mut String) -> std::fmt::Result {
        let (c, total) = (self.compiled, self.total().max(f64::MIN_POSITIVE));
        writeln!(o, "<section>\n<h2>Kernels by cost</h2>\n<div class=\"stack\">")?;
        for (i, (name, s)) in self.kinds.iter().enumerate() {
            let share = 100.0 * s / total;
            let label = if share > 7.0 { escape(name) } else { String::new() };
            writeln!(
                o,
                "<span class=\"c{}\" style=\"width:{share:.2}%\" title=\"{}: {share:.1} %\">{label}</span>",
                i.min(COLOURS),
                escape(name)
            )?;
        }
        writeln!(
            o,
            "</div>\n<table>\n<tr><th class=\"n\">time</th><th class=\"n\">share</th><th></th><th>kernel</th>\
             <th class=\"n\">calls</th><th class=\"n\">code</th><th class=\"n\">stack</th><th>ONNX nodes</th></tr>"
        )?;
        let mut rows: BTreeMap<usize, (f64, usize, Vec<&str>)> = BTreeMap::new();
        for (call, s) in c.calls().into_iter().zip(&self.seconds) {
            let row = rows.entry(call.kernel).or_default();
            row.0 += s;
            row.1 += 1;
            row.2.extend(call.loc.name());
        }
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_by(|a, b| b.1.0.total_cmp(&a.1.0).then_with(|| a.0.cmp(&b.0)));
        // The longest bar fills its cell.
        let most = rows.first().map_or(1.0, |r| r.1.0).max(f64::MIN_POSITIVE);
        for (k, (s, calls, nodes)) in rows.iter().take(ROWS) {
            let name = &c.program.kernels[*k].name;
            let size = self.object.functions.get(*k);
            let all = nodes.join(", ");
            writeln!(
                o,
                "<tr><td class=\"n\">{}</td><td class=\"n\">{:.1} %</td><td class=\"meter\">{}</td><td><code>{}</code></td>\
                 <td class=\"n\">{calls}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"dim\" title=\"{}\">{}</td></tr>",
                time(Duration::from_secs_f64(*s)),
                100.0 * s / total,
                bar(s / most, &format!("c{}", self.colour(&kind(name)))),
                escape(name),
                bytes(size.map_or(0, |f| f.bytes)),
                bytes(size.map_or(0, |f| f.stack)),
                escape(&short(&all, 600)),
                escape(&short(&all, 60))
            )?;
        }
        writeln!(o, "</table>")?;
        if rows.len() > ROWS {
            let rest: f64 = rows[ROWS..].iter().map(|r| r.1.0).sum();
            writeln!(
                o,
                "<p class=\"sub\">and {} more with {:.1} % together</p>",
                rows.len() - ROWS,
                100.0 * rest / total
            )?;
        }
        writeln!(o, "</section>")
    }

    fn graphs(&self, o: &mut String) -> std::fmt::Result {
        writeln!(
            o,
            "<section>\n<h2>The graph before and after</h2>\n<p class=\"sub\">Left the operators of the model, right the kernels that \
             compute them: a box's first line shapes the loops, + is computed before the result is stored, ⤷ where it is read. \
             A pointer over a box shows where it came from.</p>\n<div class=\"graph\">\n{}</div>\n</section>",
            self.graphs
        )
    }

    fn integers(&self, o: &mut String) -> std::fmt::Result {
        let r = &self.report;
        let count = r.layers.iter().filter(|l| l.integers).count();
        if count == 0 && self.errors.is_empty() {
            return Ok(());
        }
        let part = 100.0 * r.integer_macs as f64 / r.macs.max(1) as f64;
        let measured = match self.errors.len() {
            0 => "Errors were not measured: --samples names data for that.",
            _ => {
                "Errors are root mean squares over samples: of each layer's result in floats, of what rounding to integers \
                 changes it by (with what comes from the layers before), and their ratio."
            }
        };
        writeln!(
            o,
            "<section>\n<h2>Quantisation</h2>\n<p class=\"sub\">{count} of {} convolutions and matrix products compute in \
             integers, {part:.1} % of the multiply-adds. {measured}</p>\n<table>\n<tr><th>layer</th><th>computes</th>\
             <th class=\"n\">multiply-adds</th><th class=\"n\">float rms</th><th class=\"n\">error</th><th class=\"n\">dB</th><th></th></tr>",
            r.layers.len()
        )?;
        for l in &r.layers {
            let product = format!("{} {} × {} in {}", l.op, l.operands[0], l.operands[1], l.sums);
            // A kernel may stand for several nodes.
            let error = self.errors.iter().find(|e| l.name.split(" + ").any(|n| n == e.name));
            let [rms, wrong, db, meter] = match error {
                None => ["", "", "", ""].map(String::from),
                Some(e) => [
                    format!("{:.4}", e.rms),
                    format!("{:.4}", e.error),
                    if e.sqnr.is_finite() { format!("{:.1}", e.sqnr) } else { "exact".into() },
                    // 60 dB fill the bar; below 20 a layer deserves a look.
                    bar(e.sqnr / 60.0, if e.sqnr < 20.0 { "over" } else { "c2" }),
                ],
            };
            writeln!(
                o,
                "<tr><td><code>{}</code></td><td class=\"{}\">{}</td><td class=\"n\">{}</td><td class=\"n\">{rms}</td><td class=\"n\">{wrong}</td>\
                 <td class=\"n\">{db}</td><td class=\"meter\">{meter}</td></tr>",
                escape(&short(&l.name, 60)),
                if l.integers { "" } else { "dim" },
                escape(&product),
                grouped(l.macs)
            )?;
        }
        writeln!(o, "</table>\n</section>")
    }

    fn flash(&self, o: &mut String) -> std::fmt::Result {
        let p = &self.compiled.program;
        let code = self.code_bytes();
        let all = code + self.object.weight_bytes;
        writeln!(
            o,
            "<section>\n<h2>What the flash holds</h2>\n<p class=\"sub\">{}: {} of code, {} of constants.</p>\n<table>\n\
             <tr><th class=\"n\">size</th><th class=\"n\">share</th><th></th><th>constant</th><th>type</th></tr>",
            bytes(all),
            bytes(code),
            bytes(self.object.weight_bytes)
        )?;
        let mut constants: Vec<_> = p.buffers.iter().filter(|b| matches!(b.kind, BufferKind::Const(_))).collect();
        constants.sort_by_key(|b| (std::cmp::Reverse(b.bytes()), b.name.clone()));
        const SHOWN: usize = 12;
        let most = constants.first().map_or(1, |b| b.bytes()).max(1) as f64;
        for b in constants.iter().take(SHOWN) {
            let part = b.bytes() as f64 / all.max(1) as f64;
            writeln!(
                o,
                "<tr><td class=\"n\">{}</td><td class=\"n\">{:.1} %</td><td class=\"meter\">{}</td><td><code>%{}</code></td>\
                 <td class=\"dim\">{}[{}]</td></tr>",
                bytes(b.bytes()),
                100.0 * part,
                bar(b.bytes() as f64 / most, "c0"),
                escape(&short(&b.name, 60)),
                b.dtype,
                grouped(b.len as u64)
            )?;
        }
        writeln!(o, "</table>")?;
        if constants.len() > SHOWN {
            let rest: usize = constants[SHOWN..].iter().map(|b| b.bytes()).sum();
            writeln!(o, "<p class=\"sub\">and {} more with {}</p>", constants.len() - SHOWN, bytes(rest))?;
        }
        writeln!(o, "</section>")
    }

    fn signature(&self, o: &mut String) -> std::fmt::Result {
        let r = &self.report;
        writeln!(
            o,
            "<section>\n<h2>Inputs and outputs</h2>\n<table>\n<tr><th></th><th>name</th><th>type</th><th class=\"n\">size</th></tr>"
        )?;
        for (what, list) in [("in", &r.inputs), ("out", &r.outputs)] {
            for io in list {
                writeln!(
                    o,
                    "<tr><td class=\"dim\">{what}</td><td><code>{}</code></td><td>{}</td><td class=\"n\">{}</td></tr>",
                    escape(&io.name),
                    escape(&io.r#type),
                    bytes(io.bytes)
                )?;
            }
        }
        writeln!(o, "</table>\n</section>")
    }
}

/// What a kernel computes: its name without the number behind.
fn kind(kernel: &str) -> String {
    let stem = kernel.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('_');
    if stem.is_empty() { kernel.to_string() } else { stem.to_string() }
}

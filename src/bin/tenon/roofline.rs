//! Kernel calls below the roofs of a machine, as a picture.
//!
//! Above, every call that computes is a dot by its operations a byte and its GFLOP/s, both in powers of ten, with the area of its share of the time.
//! Below, the slowest calls are bars as long as their time; the dark part is what the lowest roof asks for.

use crate::output::time;
use crate::profile::{kind, part};
use crate::roofs::Roofs;
use std::fmt::Write;
use std::time::Duration;
use tenon::drawing::{escaped, shortened};
use tenon::profile::{CallProfile, Profile};

const WIDTH: f64 = 980.0;
/// The plot: left, top, right, bottom.
const PLOT: (f64, f64, f64, f64) = (70.0, 50.0, 960.0, 470.0);
/// Bars: how many, the height of each, where they begin.
const BARS: usize = 24;
const BAR: f64 = 17.0;
const LABELS: f64 = 250.0;
/// Dots that have their name beside them.
const NAMED: usize = 6;
/// Fill and outline by kind, the kind that takes longest first.
const COLOURS: [(&str, &str); 7] = [
    ("#8fbbea", "#2f6db5"),
    ("#f3b98a", "#c06a1b"),
    ("#9ed8aa", "#2d8a47"),
    ("#b9b0ec", "#5b4bb7"),
    ("#e6a9c4", "#b03a6b"),
    ("#e5d98a", "#9a8420"),
    ("#cccccc", "#777777"),
];

/// A logarithmic axis: values from `lo` to `hi`, drawn from `from` to `to`.
struct Axis {
    lo: f64,
    hi: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// Whole decades around `values`.
    fn around(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Axis {
        let (lo, hi) = values.filter(|v| *v > 0.0).fold((f64::INFINITY, 0.0f64), |(a, b), v| (a.min(v), b.max(v)));
        let (lo, hi) = if lo <= hi { (lo, hi) } else { (1.0, 1.0) };
        let (lo, mut hi) = (lo.log10().floor(), hi.log10().ceil());
        if hi <= lo {
            hi = lo + 1.0;
        }
        Axis { lo, hi, from, to }
    }

    fn at(&self, v: f64) -> f64 {
        self.from + (v.log10() - self.lo) / (self.hi - self.lo) * (self.to - self.from)
    }

    /// The powers of ten on it.
    fn decades(&self) -> impl Iterator<Item = f64> + use<> {
        (self.lo as i32..=self.hi as i32).map(|d| 10f64.powi(d))
    }

    fn least(&self) -> f64 {
        10f64.powf(self.lo)
    }

    fn most(&self) -> f64 {
        10f64.powf(self.hi)
    }
}

/// Operations a byte, and GFLOP/s.
fn place(c: &CallProfile) -> Option<(f64, f64)> {
    let (operations, bytes) = (c.work.operations as f64, (c.read + c.written) as f64);
    (operations > 0.0 && bytes > 0.0)
        .then(|| (operations / bytes, operations / c.median.as_secs_f64().max(1e-12) / 1e9))
}

/// The picture.
pub(crate) fn svg(title: &str, profile: &Profile, roofs: &Roofs) -> String {
    let mut calls: Vec<&CallProfile> = profile.calls.iter().collect();
    calls.sort_by_key(|c| std::cmp::Reverse(c.median));
    let kinds = kinds(&calls);
    let bars = calls.len().min(BARS);
    let height = PLOT.3 + 92.0 + bars as f64 * BAR;
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
         font-family=\"ui-monospace, Menlo, Consolas, monospace\" font-size=\"11\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"
    );
    text(&mut out, PLOT.0, 24.0, "start", &format!("{title}: {} a run", time(profile.run)));
    plot(&mut out, &calls, &kinds, profile.sum(), roofs);
    below(&mut out, &calls[..bars], &kinds, roofs);
    out.push_str("</svg>\n");
    out
}

/// The kinds of kernels, that which takes longest first.
fn kinds<'c>(calls: &[&'c CallProfile]) -> Vec<&'c str> {
    let mut all: Vec<(&str, Duration)> = vec![];
    for c in calls {
        match all.iter_mut().find(|(k, _)| *k == kind(&c.kernel)) {
            Some((_, t)) => *t += c.median,
            None => all.push((kind(&c.kernel), c.median)),
        }
    }
    all.sort_by_key(|(_, t)| std::cmp::Reverse(*t));
    all.into_iter().map(|(k, _)| k).collect()
}

fn colour(kinds: &[&str], c: &CallProfile) -> (&'static str, &'static str) {
    let at = kinds.iter().position(|k| *k == kind(&c.kernel)).unwrap_or(COLOURS.len());
    COLOURS[at.min(COLOURS.len() - 1)]
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, s: &str) {
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escaped(s));
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), style: &str) {
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" {style}/>",
        from.0, from.1, to.0, to.1
    );
}

/// What a pointer over a call shows.
fn hint(c: &CallProfile, roofs: &Roofs) -> String {
    let (limit, roof) = roofs.limit(c);
    let part = part(limit, c.median);
    escaped(&format!("{}: {}, {part} of the roof ({})\n{}", c.kernel, time(c.median), roof.name(), c.nodes))
}

fn plot(out: &mut String, calls: &[&CallProfile], kinds: &[&str], sum: Duration, roofs: &Roofs) {
    let (left, top, right, bottom) = PLOT;
    let dots: Vec<(&CallProfile, (f64, f64))> = calls.iter().filter_map(|c| Some((*c, place(c)?))).collect();
    // Where the roofs meet is always in sight.
    let corners = [roofs.compute / roofs.memory, roofs.compute / roofs.cache];
    let x = Axis::around(dots.iter().map(|d| d.1.0).chain(corners), left, right);
    let y = Axis::around(dots.iter().map(|d| d.1.1).chain([roofs.compute]), bottom, top);
    for v in x.decades() {
        line(out, (x.at(v), top), (x.at(v), bottom), "stroke=\"#e8e8e8\"");
        text(out, x.at(v), bottom + 16.0, "middle", &format!("{v}"));
    }
    for v in y.decades() {
        line(out, (left, y.at(v)), (right, y.at(v)), "stroke=\"#e8e8e8\"");
        text(out, left - 6.0, y.at(v) + 4.0, "end", &format!("{v}"));
    }
    text(out, (left + right) / 2.0, bottom + 32.0, "middle", "operations a byte");
    text(out, left - 60.0, top - 8.0, "start", "GFLOP/s");
    line(out, (left, y.at(roofs.compute)), (right, y.at(roofs.compute)), "stroke=\"#222\" stroke-width=\"1.5\"");
    text(out, right, y.at(roofs.compute) - 5.0, "end", &format!("{:.0} GFLOP/s", roofs.compute));
    let slopes =
        [(roofs.cache, "second cache", "", "end"), (roofs.memory, "memory", "stroke-dasharray=\"5 3\"", "start")];
    for (rate, name, dash, anchor) in slopes {
        // From the lower left to where it meets the roof of multiply-adds.
        let (mut from, mut to) = (x.least(), (roofs.compute / rate).min(x.most()));
        from = from.max(y.least() / rate).min(to);
        to = to.max(from);
        let ends = [(x.at(from), y.at(from * rate)), (x.at(to), y.at(to * rate))];
        line(out, ends[0], ends[1], &format!("stroke=\"#222\" stroke-width=\"1.5\" {dash}"));
        // Each on its own side, so that roofs close to each other stay readable.
        let side = if anchor == "end" { -8.0 } else { 8.0 };
        let (mx, my) = ((ends[0].0 + ends[1].0) / 2.0, (ends[0].1 + ends[1].1) / 2.0);
        text(out, mx + side, my + 4.0, anchor, &format!("{rate:.0} GB/s {name}"));
    }
    for (c, (ops, rate)) in &dots {
        let share = c.median.as_secs_f64() / sum.as_secs_f64().max(1e-12);
        let (fill, stroke) = colour(kinds, c);
        let _ = writeln!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{:.1}\" fill=\"{fill}\" fill-opacity=\"0.7\" stroke=\"{stroke}\"><title>{}</title></circle>",
            x.at(*ops),
            y.at(*rate),
            (2.0 + 60.0 * share.sqrt()).min(40.0),
            hint(c, roofs)
        );
    }
    // The slowest first; what would lie on a name has none.
    let mut named: Vec<(f64, f64, f64)> = vec![];
    for (c, (ops, rate)) in &dots {
        let half = 3.4 * c.kernel.chars().count() as f64;
        let (cx, cy) = (x.at(*ops).min(right - half), y.at(*rate));
        let covers = |n: &(f64, f64, f64)| (n.0 - cx).abs() < n.2 + half && (n.1 - cy).abs() < 12.0;
        if named.len() < NAMED && !named.iter().any(covers) {
            named.push((cx, cy, half));
            text(out, cx, cy + 4.0, "middle", &c.kernel);
        }
    }
    let mut at = top + 14.0;
    for (k, (fill, stroke)) in kinds.iter().zip(COLOURS) {
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{fill}\" stroke=\"{stroke}\"/>",
            left + 10.0,
            at - 9.0
        );
        text(out, left + 26.0, at, "start", k);
        at += 15.0;
    }
}

fn below(out: &mut String, calls: &[&CallProfile], kinds: &[&str], roofs: &Roofs) {
    let top = PLOT.3 + 70.0;
    text(out, LABELS, top - 10.0, "start", "slowest calls: time, and in dark what the roof asks for");
    let longest = calls.first().map_or(1e-12, |c| c.median.as_secs_f64().max(1e-12));
    let scale = (WIDTH - LABELS - 180.0) / longest;
    for (i, c) in calls.iter().enumerate() {
        let y = top + i as f64 * BAR;
        let (limit, roof) = roofs.limit(c);
        let secs = c.median.as_secs_f64();
        let (fill, stroke) = colour(kinds, c);
        let _ = writeln!(out, "<g><title>{}</title>", hint(c, roofs));
        for (length, colour) in [(secs, fill), (limit.as_secs_f64().min(secs), stroke)] {
            let _ = writeln!(
                out,
                "<rect x=\"{LABELS}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
                (length * scale).max(0.5),
                BAR - 4.0
            );
        }
        text(out, LABELS - 8.0, y + 10.0, "end", &shortened(&c.kernel));
        text(
            out,
            LABELS + secs * scale + 6.0,
            y + 10.0,
            "start",
            &format!("{}, {} {}", time(c.median), part(limit, c.median), roof.name()),
        );
        out.push_str("</g>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roofs::tests::call;

    #[test]
    fn axes_are_whole_decades() {
        let a = Axis::around([0.0, 3.0, 250.0].into_iter(), 0.0, 300.0);
        assert_eq!((a.least(), a.most()), (1.0, 1000.0));
        assert_eq!([1.0, 10.0, 1000.0].map(|v| a.at(v).round()), [0.0, 100.0, 300.0]);
        let none = Axis::around(std::iter::empty(), 0.0, 1.0);
        assert!(none.at(1.0).is_finite());
    }

    #[test]
    fn every_call_is_drawn_and_names_are_escaped() {
        let calls = vec![
            call("conv_0", 100, 1 << 24, 1 << 16, 0),
            call("copy", 5, 0, 1 << 12, 0),
            call("relu_1", 0, 10, 10, 0),
        ];
        let run = Duration::from_micros(105);
        let profile = Profile { calls, rounds: 1, run, run_min: run };
        let drawn = svg("a & b", &profile, &Roofs { compute: 200.0, memory: 10.0, cache: 60.0 });
        assert!(drawn.contains("a &amp; b") && drawn.contains("a &lt; b"));
        assert_eq!(drawn.matches("<circle").count(), 2, "what computes nothing has no place");
        assert_eq!(drawn.matches("<g>").count(), 3);
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        assert!(
            svg("", &Profile { calls: vec![], ..profile }, &Roofs { compute: 1.0, memory: 1.0, cache: 1.0 })
                .ends_with("</svg>\n")
        );
    }
}

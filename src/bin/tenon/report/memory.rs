//! The arena over time, drawn: every buffer a box from the first call that uses it to the last.

use super::html::escape;
use crate::output::bytes;
use std::fmt::Write;
use tenon::Report;

/// The picture's size, in its own units.
const WIDTH: f64 = 1040.0;
const HEIGHT: f64 = 360.0;
/// Room for the labels of the axes.
const LEFT: f64 = 74.0;
const BOTTOM: f64 = 34.0;
const TOP: f64 = 12.0;

/// The kinds of buffers that have a colour of their own; the rest is grey.
pub(super) const COLOURS: usize = 7;

/// What the picture needs of each buffer beside the report: the kind of kernel that writes it, as a colour, and a name.
pub(super) struct Written {
    pub(super) colour: usize,
    pub(super) kernel: String,
}

/// The largest sum of sizes alive at one call, with that call: no plan can be smaller.
pub(super) fn lower_bound(r: &Report) -> (usize, usize) {
    let alive = |at: usize| r.memory.iter().filter(|m| m.first <= at && at <= m.last).map(|m| m.bytes).sum::<usize>();
    (0..r.calls.max(1)).map(|at| (alive(at), at)).max_by_key(|(n, at)| (*n, std::cmp::Reverse(*at))).unwrap_or((0, 0))
}

/// The picture; `written` has one entry a buffer of the report.
pub(super) fn draw(r: &Report, written: &[Written]) -> String {
    let mut o = String::new();
    // Writing to a `String` does not fail.
    let _ = write(&mut o, r, written);
    o
}

fn write(o: &mut String, r: &Report, written: &[Written]) -> std::fmt::Result {
    let calls = r.memory.iter().map(|m| m.last + 1).max().unwrap_or(1).max(r.calls).max(1);
    let (wide, high) = (WIDTH - LEFT - 8.0, HEIGHT - TOP - BOTTOM);
    let x = |call: usize| LEFT + wide * call as f64 / calls as f64;
    let y = |at: usize| TOP + high - high * at as f64 / r.arena_bytes.max(1) as f64;
    writeln!(o, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"The arena over time\">")?;
    for k in 0..=4 {
        let at = r.arena_bytes * k / 4;
        let height = y(at);
        writeln!(
            o,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{height:.1}\" y2=\"{height:.1}\"/>\
             <text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - 8.0,
            LEFT - 8.0,
            height + 4.0,
            bytes(at)
        )?;
    }
    for (m, w) in r.memory.iter().zip(written) {
        let (left, right) = (x(m.first), x(m.last + 1));
        let (top, bottom) = (y(m.offset + m.bytes), y(m.offset));
        let (width, height) = ((right - left - 0.6).max(0.6), (bottom - top - 0.6).max(0.6));
        write!(
            o,
            "<g><rect class=\"c{}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"1.5\"/>\
             <title>%{}: {} at {}, calls {} to {}, written by {}</title>",
            w.colour,
            escape(&m.name),
            bytes(m.bytes),
            m.offset,
            m.first,
            m.last,
            escape(&w.kernel)
        )?;
        // A letter takes some 6 units.
        if height > 13.0 && width > 6.2 * m.name.chars().count() as f64 + 10.0 {
            write!(
                o,
                "<text class=\"in\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                left + 5.0,
                top + height / 2.0 + 4.0,
                escape(&m.name)
            )?;
        }
        writeln!(o, "</g>")?;
    }
    // What is alive, whatever its place.
    let mut path = String::new();
    for call in 0..calls {
        let sum: usize = r.memory.iter().filter(|m| m.first <= call && call <= m.last).map(|m| m.bytes).sum();
        write!(
            path,
            "{}{:.1},{:.1} {:.1},{:.1} ",
            if call == 0 { "M" } else { "L" },
            x(call),
            y(sum),
            x(call + 1),
            y(sum)
        )?;
    }
    writeln!(o, "<path class=\"alive\" d=\"{}\"><title>bytes alive at each call</title></path>", path.trim_end())?;
    let step = nice(calls);
    for call in (0..=calls).step_by(step) {
        writeln!(
            o,
            "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{call}</text>",
            x(call),
            HEIGHT - BOTTOM + 18.0
        )?;
    }
    writeln!(
        o,
        "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">kernel call →</text></svg>",
        WIDTH - 8.0,
        HEIGHT - 2.0
    )
}

/// Steps of an axis of `n`, a dozen at most: 1, 2 or 5 times a power of ten.
fn nice(n: usize) -> usize {
    let mut step = 1;
    while n / step > 12 {
        step = match step.to_string().as_bytes()[0] {
            b'2' => step / 2 * 5,
            _ => step * 2,
        };
    }
    step
}

#[cfg(test)]
mod tests {
    #[test]
    fn axes_have_round_steps() {
        assert_eq!([5, 30, 64, 200, 1300].map(super::nice), [1, 5, 5, 20, 200]);
    }
}

//! Graphs as pictures: layered drawings in SVG, without any library.
//!
//! Nodes are boxes in layers by their longest way from the inputs; within a layer they stand near what they use. Good enough
//! for graphs that are mostly chains with branches, which models are.

use std::fmt::Write;

/// A box.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// Lines of text in it; the first is the title.
    pub lines: Vec<String>,
    /// What a pointer over it shows.
    pub hint: String,
    /// Its kind, which gives its colour: `conv`, `matmul`, `reduce`, `map`, `move`, `io` or anything else.
    pub kind: &'static str,
    /// Items it reads, by position.
    pub needs: Vec<usize>,
}

/// A graph with a heading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Panel {
    /// Above it.
    pub title: String,
    /// Its boxes, each after those it needs.
    pub items: Vec<Item>,
}

const CHAR: f64 = 6.6;
const LINE: f64 = 14.0;
const GAP: (f64, f64) = (16.0, 26.0);
const MARGIN: f64 = 24.0;
const HEADING: f64 = 44.0;
/// Characters of a line that are shown.
const WIDEST: usize = 34;

struct Placed {
    x: f64,
    y: f64,
    w: f64,
    h: f64,
}

/// Colours by kind: fill and outline.
fn colour(kind: &str) -> (&'static str, &'static str) {
    match kind {
        "conv" => ("#dbe9fb", "#2f6db5"),
        "matmul" => ("#e3e0fa", "#5b4bb7"),
        "reduce" => ("#fde8d4", "#c06a1b"),
        "map" => ("#def3e2", "#2d8a47"),
        "move" => ("#f6e1ea", "#b03a6b"),
        "io" => ("#eeeeee", "#777777"),
        _ => ("#fbf6d9", "#9a8420"),
    }
}

/// `s` as text of an SVG.
pub fn escaped(s: &str) -> String {
    s.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// `s`, cut to what stands in a box.
pub fn shortened(s: &str) -> String {
    if s.chars().count() <= WIDEST {
        return s.to_string();
    }
    s.chars().take(WIDEST - 1).chain(['…']).collect()
}

fn place(panel: &Panel) -> (Vec<Placed>, f64, f64) {
    let n = panel.items.len();
    let mut layer = vec![0usize; n];
    for i in 0..n {
        layer[i] = panel.items[i].needs.iter().filter(|k| **k < i).map(|&k| layer[k] + 1).max().unwrap_or(0);
    }
    let layers = layer.iter().max().map_or(0, |l| l + 1);
    let mut rows: Vec<Vec<usize>> = vec![vec![]; layers];
    (0..n).for_each(|i| rows[layer[i]].push(i));
    let size = |i: usize| {
        let widest = panel.items[i].lines.iter().map(|l| shortened(l).chars().count()).max().unwrap_or(1);
        (widest as f64 * CHAR + 16.0, panel.items[i].lines.len().max(1) as f64 * LINE + 10.0)
    };
    let mut centre = vec![0.0f64; n];
    let mut placed: Vec<Placed> = (0..n).map(|_| Placed { x: 0.0, y: 0.0, w: 0.0, h: 0.0 }).collect();
    let (mut y, mut width) = (HEADING, 0f64);
    for row in &mut rows {
        let wish = |i: usize| {
            let used: Vec<f64> = panel.items[i].needs.iter().filter(|k| **k < i).map(|&k| centre[k]).collect();
            if used.is_empty() { 0.0 } else { used.iter().sum::<f64>() / used.len() as f64 }
        };
        let mut order: Vec<(f64, usize)> = row.iter().map(|&i| (wish(i), i)).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let total: f64 = order.iter().map(|(_, i)| size(*i).0).sum::<f64>() + GAP.0 * (order.len() - 1) as f64;
        let middle = order.iter().map(|(w, _)| *w).sum::<f64>() / order.len() as f64;
        let mut x = middle - total / 2.0;
        let mut height = 0f64;
        for (_, i) in &order {
            let (w, h) = size(*i);
            placed[*i] = Placed { x, y, w, h };
            centre[*i] = x + w / 2.0;
            x += w + GAP.0;
            height = height.max(h);
        }
        y += height + GAP.1;
    }
    let left = placed.iter().map(|p| p.x).fold(f64::INFINITY, f64::min);
    for p in &mut placed {
        p.x += MARGIN - left;
        width = width.max(p.x + p.w);
    }
    (placed, width + MARGIN, y)
}

/// The panels side by side.
pub fn svg(panels: &[Panel]) -> String {
    let laid: Vec<_> = panels.iter().map(place).collect();
    // A letter of a title takes some 8.6 units.
    let wide = |panel: &Panel, w: f64| w.max(8.6 * panel.title.chars().count() as f64 + 2.0 * MARGIN);
    let widths: Vec<f64> = panels.iter().zip(&laid).map(|(p, l)| wide(p, l.1)).collect();
    let width: f64 = widths.iter().sum();
    let height = laid.iter().map(|l| l.2).fold(0.0, f64::max);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"ui-monospace, Menlo, Consolas, monospace\" font-size=\"11\">\n\
         <defs><marker id=\"a\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"6\" markerHeight=\"6\" orient=\"auto\">\
         <path d=\"M0,0L8,4L0,8z\" fill=\"#888\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"
    );
    let mut from = 0.0;
    for ((panel, (placed, ..)), w) in panels.iter().zip(&laid).zip(widths) {
        let _ = writeln!(out, "<g transform=\"translate({from:.0},0)\">");
        let _ = writeln!(
            out,
            "<text x=\"{MARGIN}\" y=\"24\" font-size=\"14\" font-weight=\"bold\" fill=\"#222\">{}</text>",
            escaped(&panel.title)
        );
        for (i, item) in panel.items.iter().enumerate() {
            for k in item.needs.iter().filter(|k| **k < i) {
                let (a, b) = (&placed[*k], &placed[i]);
                let (x1, y1, x2, y2) = (a.x + a.w / 2.0, a.y + a.h, b.x + b.w / 2.0, b.y);
                let bend = ((y2 - y1) / 2.0).max(8.0);
                let _ = writeln!(
                    out,
                    "<path d=\"M{x1:.1},{y1:.1}C{x1:.1},{:.1} {x2:.1},{:.1} {x2:.1},{y2:.1}\" fill=\"none\" stroke=\"#888\" \
                     marker-end=\"url(#a)\"/>",
                    y1 + bend,
                    y2 - bend
                );
            }
        }
        for (item, p) in panel.items.iter().zip(placed) {
            let (fill, line) = colour(item.kind);
            let _ = writeln!(
                out,
                "<g><title>{}</title><rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"5\" fill=\"{fill}\" \
                 stroke=\"{line}\"/>",
                escaped(&item.hint),
                p.x,
                p.y,
                p.w,
                p.h
            );
            for (l, text) in item.lines.iter().enumerate() {
                let weight = if l == 0 { " font-weight=\"bold\"" } else { "" };
                let _ = writeln!(
                    out,
                    "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#222\"{weight}>{}</text>",
                    p.x + 8.0,
                    p.y + 16.0 + l as f64 * LINE,
                    escaped(&shortened(text))
                );
            }
            let _ = writeln!(out, "</g>");
        }
        let _ = writeln!(out, "</g>");
        from += w;
    }
    out + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_do_not_overlap_and_text_is_escaped() {
        let item = |needs: &[usize]| Item {
            lines: vec!["a<b".into(), "more".into()],
            needs: needs.to_vec(),
            ..Item::default()
        };
        let panel = Panel { title: "t & u".into(), items: vec![item(&[]), item(&[0]), item(&[0]), item(&[1, 2])] };
        let (p, ..) = place(&panel);
        assert!(p[1].x + p[1].w <= p[2].x && p[0].y + p[0].h <= p[1].y && p[2].y + p[2].h <= p[3].y);
        let text = svg(&[panel]);
        assert!(text.contains("a&lt;b") && text.contains("t &amp; u") && !text.contains("a<b"));
    }
}

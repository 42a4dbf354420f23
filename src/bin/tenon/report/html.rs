//! Pieces of HTML and SVG.

use std::fmt::Write;

/// `text` with what HTML gives a meaning written otherwise.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// `12,345,678`
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `text` cut to `most` characters.
pub(super) fn short(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_string(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// A part of a whole as a bar, in percent of the cell.
pub(super) fn bar(part: f64, class: &str) -> String {
    let width = (100.0 * part).clamp(0.0, 100.0);
    format!("<span class=\"bar {class}\"><span style=\"width:{width:.2}%\"></span></span>")
}

/// A figure with its name.
pub(super) fn tile(out: &mut String, name: &str, value: &str, note: &str) {
    // Writing to a `String` does not fail.
    let _ = write!(
        out,
        "<div class=\"tile\"><div class=\"name\">{}</div><div class=\"value\">{}</div><div class=\"note\">{}</div></div>",
        escape(name),
        escape(value),
        escape(note)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_models_is_no_markup() {
        assert_eq!(escape("<a href=\"x\">&\u{7}"), "&lt;a href=&quot;x&quot;&gt;&amp; ");
        assert_eq!((grouped(1_234_567), grouped(12)), ("1,234,567".into(), "12".into()));
        assert_eq!(short("größer", 3), "grö…");
    }
}

//! What the text forms of both IRs share: tokens, errors with their place, quoting, constant data.

mod data;
mod dims;
mod lex;

pub use data::{literal, parse_data, write_data};
pub use dims::{parse_dim, parse_fact, parse_shape};
pub use lex::{Lexer, ParseError, Token};

use std::fmt::Write;

/// Writes `s` in quotes.
pub fn quoted(out: &mut String, s: &str) {
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Writes `s`, in quotes where it needs them.
pub fn word(out: &mut String, s: &str) {
    if is_plain(s) { out.push_str(s) } else { quoted(out, s) }
}

/// Writes `%s`.
pub fn name(out: &mut String, s: &str) {
    out.push('%');
    word(out, s);
}

/// Whether `name` needs no quotes. A dot is part of a name only before another character of it, so that `%i..8` is
/// a range.
pub fn is_plain(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.split('.').all(|part| !part.is_empty() && part.chars().all(word))
}

//! What commands print: lines, tables, numbers.

use std::fmt;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

/// Prints a line to standard output. A reader that has gone (`| head`) ends the program quietly.
macro_rules! say {
    ($($arg:tt)*) => { $crate::output::line(format_args!($($arg)*)) };
}
pub(crate) use say;

/// See [`say!`].
pub(crate) fn line(text: fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    if let Err(e) = writeln!(out, "{text}")
        && e.kind() == ErrorKind::BrokenPipe
    {
        std::process::exit(0);
    }
}

/// Prints a JSON document.
pub(crate) fn json(value: &serde_json::Value) {
    say!("{value:#}");
}

/// Writes a file by way of a temporary one beside it, so that nothing half-written is ever under its name. `fill` writes the
/// contents.
pub(crate) fn write_file<E: From<std::io::Error>>(
    path: &Path,
    fill: impl FnOnce(&mut std::fs::File) -> Result<(), E>,
) -> Result<(), E> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        // As readable as any other file: the default of temporary files is private.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut tmp = builder.prefix(".tenon-").tempfile_in(folder)?;
    fill(tmp.as_file_mut())?;
    tmp.as_file().sync_all()?;
    tmp.persist(path).map_err(|e| e.error)?;
    Ok(())
}

/// A table with aligned columns; cells that look like numbers are aligned right.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With a heading.
    pub(crate) fn new(heading: &[&str]) -> Table {
        Table { rows: vec![heading.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: &[&dyn fmt::Display]) {
        self.rows.push(cells.iter().map(ToString::to_string).collect());
    }

    /// The lines, without trailing blanks.
    pub(crate) fn lines(&self) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |r: &'_ Vec<String>, c: usize| r.get(c).cloned().unwrap_or_default();
        let width: Vec<usize> =
            (0..columns).map(|c| self.rows.iter().map(|r| cell(r, c).chars().count()).max().unwrap_or(0)).collect();
        let numeric: Vec<bool> = (0..columns)
            .map(|c| {
                self.rows.iter().skip(1).all(|r| cell(r, c).starts_with(|x: char| x.is_ascii_digit() || x == '-'))
            })
            .collect();
        let render = |r: &Vec<String>| {
            let cells = (0..columns).map(|c| {
                let text = cell(r, c);
                let pad = " ".repeat(width[c] - text.chars().count());
                if numeric[c] { pad + &text } else { text + &pad }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
        };
        self.rows.iter().map(render).collect()
    }

    /// Prints it, indented by two.
    pub(crate) fn print(&self) {
        for l in self.lines() {
            say!("  {l}");
        }
    }
}

/// `7.4 MiB`.
pub(crate) fn bytes(n: usize) -> String {
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{:.1} KiB", n as f64 / 1024.0),
        _ => format!("{:.1} MiB", n as f64 / 1_048_576.0),
    }
}

/// `3.2 us`, `18 ms`, `1.42 s`.
pub(crate) fn time(t: Duration) -> String {
    let s = t.as_secs_f64();
    match s {
        s if s < 1e-3 => format!("{:.1} us", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// `1 case`, `3 cases`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_numbers_go_right() {
        let mut t = Table::new(&["op", "count"]);
        t.row(&[&"Conv", &12]);
        t.row(&[&"Relu6", &3]);
        assert_eq!(t.lines(), ["op     count", "Conv      12", "Relu6      3"]);
    }

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(time(Duration::from_micros(1500)), "1.50 ms");
        assert_eq!(count(1, "case"), "1 case");
    }
}

//! The repository's own sources, for the tests that check its structure.

use crate::places::repository;
use std::fs;
use std::path::{Path, PathBuf};

/// A Rust file.
#[derive(Clone, Debug)]
pub struct Source {
    /// Relative to the repository's root, with `/`.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl Source {
    /// Lines of code with their numbers, from 1: without comments and without what follows `#[cfg(test)]` at the left
    /// margin.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().take_while(|l| *l != "#[cfg(test)]");
        lines
            .enumerate()
            .map(|(i, l)| (i + 1, l.split("//").next().unwrap_or("")))
            .filter(|(_, l)| !l.trim().is_empty())
    }
}

/// All Rust files below `folder` of the repository, sorted by path; build outputs are not among them.
///
/// # Panics
/// If the sources cannot be read.
pub fn rust_files(folder: &str) -> Vec<Source> {
    let root = repository();
    let mut paths = vec![];
    collect(&root.join(folder), &mut paths);
    paths.sort();
    let relative = |p: &Path| p.strip_prefix(&root).unwrap_or(p).to_string_lossy().replace('\\', "/");
    let read = |p: &PathBuf| fs::read_to_string(p).unwrap_or_else(|e| panic!("{}: {e}", p.display()));
    paths.iter().map(|p| Source { path: relative(p), text: read(p) }).collect()
}

fn collect(folder: &Path, out: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                collect(&path, out);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Whether `word` stands in `line` as a whole word.
pub fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(i, _)| {
        !line[..i].chars().next_back().is_some_and(part) && !line[i + word.len()..].chars().next().is_some_and(part)
    })
}

//! What a model was compiled from, so that it is compiled again only when something changed.
//!
//! Cargo runs a build script again whenever a file it watches has a new time stamp, and after every change of the script or
//! of the compiler. The stamp tells whether the contents changed: the model, its data files, the options and the build
//! script itself, which holds the compiler.

use std::fmt;
use std::hash::Hasher;
use std::io::Read;
use std::path::Path;

/// Bytes of a file that are looked at at once.
const PIECE: usize = 1 << 20;

/// FNV-1a of 128 bits over words of 64: fast without optimisation, which build scripts lack by default. It tells contents
/// apart; nobody gains by forging it.
#[derive(Clone, Debug)]
pub(crate) struct Digest(u128);

impl Default for Digest {
    fn default() -> Digest {
        Digest(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Digest {
    fn word(&mut self, w: u64) {
        self.0 = (self.0 ^ u128::from(w)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
}

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for w in words.by_ref() {
            self.word(u64::from_le_bytes(w.try_into().unwrap_or_default()));
        }
        let mut last = [0; 8];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        self.word(u64::from_le_bytes(last));
        // So that parts cannot run into one another.
        self.word(bytes.len() as u64);
    }

    fn finish(&self) -> u64 {
        (self.0 >> 64) as u64 ^ self.0 as u64
    }
}

impl Digest {
    /// Adds text.
    pub(crate) fn text(&mut self, text: &impl fmt::Debug) {
        self.write(format!("{text:?}").as_bytes());
    }

    /// Adds the contents of a file; a file that cannot be read counts as such.
    pub(crate) fn file(&mut self, path: &Path) {
        // Opening a pipe would wait for a writer.
        if !path.is_file() {
            return self.text(&"no file");
        }
        if let Err(e) = self.pieces(path) {
            self.text(&e.kind());
        }
    }

    /// Adds a file piece by piece: weights may be larger than memory.
    fn pieces(&mut self, path: &Path) -> std::io::Result<()> {
        let mut file = std::fs::File::open(path)?;
        let mut piece = Vec::with_capacity(PIECE);
        loop {
            piece.clear();
            let n = file.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
            self.write(&piece);
            if n < PIECE {
                return Ok(());
            }
        }
    }

    /// Adds the running program, by size and time of change: a build script is linked anew when what it consists of changes.
    pub(crate) fn program(&mut self) {
        let about = std::env::current_exe().and_then(std::fs::metadata);
        self.text(&about.map(|m| (m.len(), m.modified().ok())).ok());
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts_and_where_it_ends() {
        let of = |parts: &[&str]| {
            let mut d = Digest::default();
            parts.iter().for_each(|p| d.write(p.as_bytes()));
            d.to_string()
        };
        assert_eq!(of(&["model", "options"]), of(&["model", "options"]));
        assert_ne!(of(&["model", "options"]), of(&["modelo", "ptions"]));
        assert_ne!(of(&["a\0"]), of(&["a"]));
        assert_ne!(of(&["12345678"]), of(&["12345678", ""]));
    }
}

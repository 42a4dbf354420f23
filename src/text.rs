//! Texts that people write: recipes, budgets, what is said of a case.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// The text in the file `path`, which has `most` bytes at most: whatever the file is (one without an end, say), no more is read.
///
/// # Errors
/// The file cannot be read, is longer, or is not UTF-8.
pub fn read_text(path: &Path, most: usize) -> Result<String> {
    let mut text = String::new();
    File::open(path)?.take(most as u64 + 1).read_to_string(&mut text)?;
    if text.len() > most {
        return Err(Error::new(ErrorKind::InvalidData, format!("it is longer than {} KiB", most >> 10)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_may_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long.toml");
        std::fs::write(&path, "x".repeat(2048)).unwrap();
        assert_eq!(read_text(&path, 2048).unwrap().len(), 2048);
        assert!(read_text(&path, 2047).unwrap_err().to_string().contains("longer"));
        assert_eq!(read_text(&folder.path().join("none"), 1).unwrap_err().kind(), ErrorKind::NotFound);
        #[cfg(unix)]
        assert!(read_text("/dev/zero".as_ref(), 1 << 16).is_err());
    }
}

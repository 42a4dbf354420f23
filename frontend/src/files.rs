//! Files, mapped instead of read: the model itself, and external data beside it.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};
use tenon_ir::ImportError;

/// The content of a regular file, mapped.
pub(crate) fn map(path: &Path) -> Result<Bytes, ImportError> {
    let problem = |what: String| ImportError::new(format!("cannot read `{}`: {what}", path.display()));
    // Before opening: opening a pipe would wait for a writer.
    let meta = fs::metadata(path).map_err(|e| problem(e.to_string()))?;
    if meta.is_dir() {
        return Err(problem("it is a folder".to_string()));
    }
    if !meta.is_file() {
        return Err(problem("it is not a regular file".to_string()));
    }
    if meta.len() == 0 {
        return Ok(Bytes::new());
    }
    let file = File::open(path).map_err(|e| problem(e.to_string()))?;
    map_open(&file).map_err(|e| problem(e.to_string()))
}

#[allow(unsafe_code, reason = "the one place that maps files")]
fn map_open(file: &File) -> std::io::Result<Bytes> {
    // SAFETY: the mapping is private and read-only. As for every mapped file, another process that writes to it while the model is
    // compiled changes what is read (all uses are bounds-checked plain bytes, so this gives wrong weights at worst) and one
    // that truncates it stops this process by SIGBUS; compilers accept that of their inputs.
    let map = unsafe { memmap2::Mmap::map(file)? };
    Ok(Bytes::from_owner(map))
}

/// External data files of one model, each mapped once.
#[derive(Debug)]
pub(crate) struct DataFiles {
    /// The model's folder; `None` when the model came as bytes.
    folder: Option<PathBuf>,
    open: BTreeMap<String, Result<Bytes, ImportError>>,
}

impl DataFiles {
    /// Files below `folder`.
    pub(crate) fn new(folder: Option<&Path>) -> DataFiles {
        DataFiles { folder: folder.map(Path::to_path_buf), open: BTreeMap::new() }
    }

    /// The content of `location`, a path relative to the model's folder that stays inside it.
    pub(crate) fn get(&mut self, location: &str) -> Result<Bytes, ImportError> {
        if let Some(done) = self.open.get(location) {
            return done.clone();
        }
        let found = self.load(location);
        self.open.insert(location.to_string(), found.clone());
        found
    }

    fn load(&self, location: &str) -> Result<Bytes, ImportError> {
        let Some(folder) = &self.folder else {
            return Err(ImportError::new(format!(
                "its data are in the file `{location}`, but the model was not read from a folder"
            ))
            .with_help("import the model from its file, with the data file beside it"));
        };
        let outside = || {
            ImportError::new(format!("its data are in `{location}`, which is outside the model's folder"))
                .with_help("external data must lie in the model's folder or below, by a relative path")
        };
        let relative = Path::new(location);
        if location.is_empty() || location.contains('\0') {
            return Err(ImportError::new("its external data have no valid `location`"));
        }
        if !relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
            return Err(outside());
        }
        let missing = |e: std::io::Error| {
            ImportError::new(format!("its data are in `{location}`, which cannot be read: {e}"))
                .with_help("keep the data file beside the model, under the name it was exported with")
        };
        // Links are followed, then the result must still be below the folder.
        let root = folder.canonicalize().map_err(missing)?;
        let path = root.join(relative).canonicalize().map_err(missing)?;
        if !path.starts_with(&root) {
            return Err(outside());
        }
        map(&path).map_err(|_| {
            ImportError::new(format!("its data are in `{location}`, which is not a readable regular file"))
        })
    }
}

//! What a compile writes: object, archive, C header, Rust module, report.

use crate::{Compiled, Error};
use std::path::{Path, PathBuf};

/// A kind of output file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Emit {
    /// `<name>.o`
    Object,
    /// `lib<name>.a`
    Archive,
    /// `<name>.h`
    Header,
    /// `<name>.rs`
    Rust,
    /// `<name>.report.json`
    Report,
}

impl Emit {
    /// All kinds.
    pub const ALL: [Emit; 5] = [Emit::Object, Emit::Archive, Emit::Header, Emit::Rust, Emit::Report];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Emit::Object => "obj",
            Emit::Archive => "archive",
            Emit::Header => "header",
            Emit::Rust => "rust",
            Emit::Report => "report",
        }
    }
}

/// One output file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// What it is.
    pub kind: Emit,
    /// Its name, without a folder.
    pub name: String,
    /// Its contents.
    pub bytes: Vec<u8>,
}

/// All output files of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The files.
    pub files: Vec<File>,
}

impl Artifact {
    pub(crate) fn new(c: &Compiled) -> Result<Artifact, Error> {
        let name = &c.program.name;
        let object = tenon_cranelift::compile_object(&c.program, &c.target)?;
        let archive = tenon_cranelift::archive(&[(&format!("{name}.o"), &object.bytes)], &c.target)?;
        let header = tenon_cranelift::artifact::c_header(&c.program, &c.target);
        let module = tenon_cranelift::artifact::rust_module(&c.program, &c.target);
        let mut report = serde_json::to_string_pretty(&c.report()).map_err(|e| Error::Internal(e.to_string()))?;
        report.push('\n');
        let file = |kind, name: String, bytes| File { kind, name, bytes };
        Ok(Artifact {
            files: vec![
                file(Emit::Object, format!("{name}.o"), object.bytes),
                file(Emit::Archive, format!("lib{name}.a"), archive),
                file(Emit::Header, format!("{name}.h"), header.into_bytes()),
                file(Emit::Rust, format!("{name}.rs"), module.into_bytes()),
                file(Emit::Report, format!("{name}.report.json"), report.into_bytes()),
            ],
        })
    }

    /// Keeps only the files of `kinds`.
    #[must_use]
    pub fn only(mut self, kinds: &[Emit]) -> Artifact {
        self.files.retain(|f| kinds.contains(&f.kind));
        self
    }

    /// Writes all files to `folder`, which is made if it is missing. Every file is written under a temporary name first and
    /// renamed when all are complete: whatever fails, no file of an earlier compile is lost or half replaced.
    ///
    /// # Errors
    /// [`Error::Io`] with the file at fault.
    pub fn write_to(&self, folder: &Path) -> Result<Vec<PathBuf>, Error> {
        use std::io::Write;
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let mut ready = vec![];
        for f in &self.files {
            let path = folder.join(&f.name);
            let mut tmp = tempfile::Builder::new()
                .prefix(".tenon-")
                .tempfile_in(folder)
                .map_err(Error::io("create a file in", folder))?;
            tmp.write_all(&f.bytes).and_then(|()| tmp.as_file().sync_all()).map_err(Error::io("write", &path))?;
            set_permissions(&tmp).map_err(Error::io("write", &path))?;
            ready.push((tmp, path));
        }
        let mut written = vec![];
        for (tmp, path) in ready {
            tmp.persist(&path).map_err(|e| Error::io("write", &path)(e.error))?;
            written.push(path);
        }
        Ok(written)
    }
}

/// Temporary files are private; outputs are as readable as any other file.
#[cfg(unix)]
fn set_permissions(tmp: &tempfile::NamedTempFile) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    tmp.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn set_permissions(_: &tempfile::NamedTempFile) -> std::io::Result<()> {
    Ok(())
}

/// `name` as a C identifier: other characters become `_`.
pub(crate) fn c_identifier(name: &str) -> String {
    let mut out: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if out.is_empty() || out.starts_with(|c: char| c.is_ascii_digit()) {
        out.insert(0, '_');
    }
    if out.chars().all(|c| c == '_') { "model".to_string() } else { out }
}

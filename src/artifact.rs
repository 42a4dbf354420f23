//! What a compile writes: object, archive, C header, Rust module, weights, report.

use crate::{Compiled, Error, Report};
use std::path::{Path, PathBuf};
use tenon_cranelift::artifact::{Interface, c_header_of, rust_module_of};
use tenon_cranelift::{Golden, Object, ObjectOptions};

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
    /// `<name>.weights.bin`, where the constant data are separate.
    Weights,
    /// `<name>.recipe.toml`, where the model was compiled by one: what to check in, to get the same bytes again.
    Recipe,
}

impl Emit {
    /// All kinds.
    pub const ALL: [Emit; 7] =
        [Emit::Object, Emit::Archive, Emit::Header, Emit::Rust, Emit::Report, Emit::Weights, Emit::Recipe];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Emit::Object => "obj",
            Emit::Archive => "archive",
            Emit::Header => "header",
            Emit::Rust => "rust",
            Emit::Report => "report",
            Emit::Weights => "weights",
            Emit::Recipe => "recipe",
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

/// What an artifact holds beside code and texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArtifactOptions {
    /// Constant data go to a file of their own, `<name>.weights.bin`, which the application maps; `run` takes its address.
    pub separate_weights: bool,
    /// Known results in the object, with a function `<name>_selftest` that checks them.
    pub golden: usize,
}

/// All output files of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The files.
    pub files: Vec<File>,
}

impl Artifact {
    pub(crate) fn new(c: &Compiled, object: &Object) -> Result<Artifact, Error> {
        let name = &c.program.name;
        let archive = tenon_cranelift::archive(&[(&format!("{name}.o"), &object.bytes)], &c.target)?;
        let shapes = c.bounded.inputs.iter().filter(|(_, s)| s.0.iter().any(|d| d.as_const().is_none()));
        let shapes =
            shapes.chain(&c.bounded.outputs).map(|(name, shape)| (name.clone(), shape.to_string())).collect();
        let interface = Interface { shapes, ..Interface::of(object) };
        let header = c_header_of(&c.program, &c.target, &interface);
        let module = rust_module_of(&c.program, &c.target, &interface);
        let report = Report::with_object(c, object);
        let mut report = serde_json::to_string_pretty(&report).map_err(|e| Error::Internal(e.to_string()))?;
        report.push('\n');
        let file = |kind, name: String, bytes| File { kind, name, bytes };
        let mut files = vec![
            file(Emit::Object, format!("{name}.o"), object.bytes.clone()),
            file(Emit::Archive, format!("lib{name}.a"), archive),
            file(Emit::Header, format!("{name}.h"), header.into_bytes()),
            file(Emit::Rust, format!("{name}.rs"), module.into_bytes()),
            file(Emit::Report, format!("{name}.report.json"), report.into_bytes()),
        ];
        if let Some(bytes) = &object.weights_file {
            files.push(file(Emit::Weights, format!("{name}.weights.bin"), bytes.clone()));
        }
        if let Some(recipe) = &c.recipe {
            let text = recipe.to_text().map_err(|e| Error::Internal(e.to_string()))?;
            files.push(file(Emit::Recipe, format!("{name}.recipe.toml"), text.into_bytes()));
        }
        Ok(Artifact { files })
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
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let ready = self
            .files
            .iter()
            .map(|f| {
                let path = folder.join(&f.name);
                Ok((temporary(folder, &path, &f.bytes)?, path))
            })
            .collect::<Result<Vec<_>, Error>>()?;
        ready.into_iter().map(|(tmp, path)| rename(tmp, &path).map(|()| path)).collect()
    }
}

/// Writes `contents` to `path` under a temporary name beside it first: the file is the old one or the new one, never half of it.
///
/// # Errors
/// [`Error::Io`].
pub fn write_file(path: &Path, contents: &[u8]) -> Result<(), Error> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    rename(temporary(folder, path, contents)?, path)
}

/// A complete file beside where it will be.
fn temporary(folder: &Path, path: &Path, contents: &[u8]) -> Result<tempfile::NamedTempFile, Error> {
    use std::io::Write;
    let mut tmp = tempfile::Builder::new()
        .prefix(".tenon-")
        .tempfile_in(folder)
        .map_err(Error::io("create a file in", folder))?;
    tmp.write_all(contents).and_then(|()| tmp.as_file().sync_all()).map_err(Error::io("write", path))?;
    set_permissions(&tmp).map_err(Error::io("write", path))?;
    Ok(tmp)
}

fn rename(tmp: tempfile::NamedTempFile, path: &Path) -> Result<(), Error> {
    tmp.persist(path).map(|_| ()).map_err(|e| Error::io("write", path)(e.error))
}

/// Inputs drawn from the seeds 1 to `n`, with what the scheduled program makes of them: by the kernel interpreter, so that the
/// machine code that is checked by them has no part in them.
pub(crate) fn golden(c: &Compiled, n: usize) -> Result<Vec<Golden>, Error> {
    (1..=n as u64)
        .map(|seed| {
            let inputs = c.example_inputs(seed);
            let outputs = tenon_kernel::run_program(&c.program, &inputs)?;
            Ok(Golden { inputs, outputs })
        })
        .collect()
}

/// The object of `c`.
pub(crate) fn object(c: &Compiled, options: &ArtifactOptions) -> Result<Object, Error> {
    let golden = golden(c, options.golden)?;
    let options = ObjectOptions { separate_weights: options.separate_weights, golden };
    Ok(tenon_cranelift::compile_object_with(&c.program, &c.target, &options)?)
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

//! What is in an object or archive, read back from its bytes: the proof of what was written.

use crate::error::BackendError;
use ::object::read::archive::ArchiveFile;
use ::object::{File, Object as _, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};
use std::collections::BTreeMap;

/// One object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Its name in the archive; empty for a plain object.
    pub member: String,
    /// E.g. `elf64-littleaarch64`.
    pub format: String,
    /// Sections that take memory, with what kind of memory: `code`, `constant`, `data` or `zero`.
    pub sections: Vec<Section>,
    /// Symbols that others may use.
    pub exported: Vec<Symbol>,
    /// Functions and data of its own.
    pub local: Vec<Symbol>,
    /// Symbols that it needs from elsewhere, sorted.
    pub undefined: Vec<String>,
    /// Whether a linker would make the stack executable for it (ELF without `.note.GNU-stack`).
    pub executable_stack: bool,
    /// The text of `<model>_info` symbols.
    pub info: Vec<String>,
}

/// A section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// Kind of memory.
    pub kind: &'static str,
    /// Bytes.
    pub bytes: u64,
    /// Alignment.
    pub align: u64,
    /// Places that a linker fills in.
    pub relocations: usize,
}

/// A defined symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its name, without the underscore that Mach-O puts before.
    pub name: String,
    /// Whether it is code.
    pub code: bool,
    /// Bytes up to the next symbol of its section.
    pub bytes: u64,
}

impl Audit {
    /// Bytes of all sections of `kind`.
    pub fn bytes_of(&self, kind: &str) -> u64 {
        self.sections.iter().filter(|s| s.kind == kind).map(|s| s.bytes).sum()
    }
}

/// Reads an object or an archive of objects.
///
/// # Errors
/// `bytes` are neither.
pub fn audit(bytes: &[u8]) -> Result<Vec<Audit>, BackendError> {
    let fail = |e: ::object::Error| BackendError::Object(format!("neither an object nor an archive: {e}"));
    if !bytes.starts_with(b"!<arch>\n") {
        return Ok(vec![one(bytes, "")?]);
    }
    let archive = ArchiveFile::parse(bytes).map_err(fail)?;
    let mut all = vec![];
    for member in archive.members() {
        let member = member.map_err(fail)?;
        let name = String::from_utf8_lossy(member.name()).into_owned();
        all.push(one(member.data(bytes).map_err(fail)?, &name)?);
    }
    Ok(all)
}

/// The symbols that an object leaves to be defined elsewhere, sorted. Compare with [`tenon_abi::ALLOWED_UNDEFINED`].
///
/// # Errors
/// `bytes` is not an object.
pub fn undefined_symbols(bytes: &[u8]) -> Result<Vec<String>, BackendError> {
    Ok(one(bytes, "")?.undefined)
}

fn one(bytes: &[u8], member: &str) -> Result<Audit, BackendError> {
    let fail = |e: ::object::Error| BackendError::Object(format!("neither an object nor an archive: {e}"));
    let file = File::parse(bytes).map_err(fail)?;
    let mut a = Audit {
        member: member.to_string(),
        format: format!("{:?} {:?}", file.format(), file.architecture()).to_lowercase(),
        ..Audit::default()
    };
    let mut noted = false;
    for s in file.sections() {
        let name = s.name().map_err(fail)?.to_string();
        noted |= name == ".note.GNU-stack";
        let kind = match s.kind() {
            SectionKind::Text => "code",
            SectionKind::ReadOnlyData | SectionKind::ReadOnlyString | SectionKind::ReadOnlyDataWithRel => "constant",
            SectionKind::Data | SectionKind::Tls => "data",
            SectionKind::UninitializedData | SectionKind::Common | SectionKind::UninitializedTls => "zero",
            _ => continue,
        };
        if s.size() > 0 {
            a.sections.push(Section {
                name,
                kind,
                bytes: s.size(),
                align: s.align(),
                relocations: s.relocations().count(),
            });
        }
    }
    a.executable_stack = file.format() == ::object::BinaryFormat::Elf && !noted;
    symbols(&file, &mut a).map_err(fail)?;
    Ok(a)
}

fn symbols(file: &File<'_>, a: &mut Audit) -> ::object::Result<()> {
    // Addresses by section, to measure where the format records no sizes.
    let mut starts: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for s in file.symbols() {
        if let Some(section) = s.section_index() {
            starts.entry(section.0).or_default().push(s.address());
        }
    }
    starts.values_mut().for_each(|v| v.sort_unstable());
    let underscore = file.format() == ::object::BinaryFormat::MachO;
    for s in file.symbols() {
        let full = s.name()?;
        let name = if underscore { full.strip_prefix('_').unwrap_or(full) } else { full }.to_string();
        if name.is_empty() || matches!(s.kind(), SymbolKind::File | SymbolKind::Section) {
            continue;
        }
        if s.is_undefined() {
            a.undefined.push(name);
            continue;
        }
        let Some(index) = s.section_index() else { continue };
        let section = file.section_by_index(index)?;
        // COFF names sections by symbols, too.
        if section.name().is_ok_and(|n| n == full) {
            continue;
        }
        let end = section.address() + section.size();
        let next = starts.get(&index.0).and_then(|v| v.iter().copied().find(|x| *x > s.address())).unwrap_or(end);
        let bytes = if s.size() > 0 { s.size() } else { next.saturating_sub(s.address()) };
        if name.ends_with("_info")
            && s.is_global()
            && let Ok(data) = section.data()
            && let Some(text) = usize::try_from(s.address() - section.address()).ok().and_then(|at| data.get(at..))
        {
            let text = text.split(|b| *b == 0).next().unwrap_or_default();
            if text.starts_with(b"tenon ") {
                a.info.push(String::from_utf8_lossy(text).into_owned());
            }
        }
        let symbol = Symbol { name, code: section.kind() == SectionKind::Text, bytes };
        if s.is_global() { a.exported.push(symbol) } else { a.local.push(symbol) }
    }
    a.undefined.sort();
    a.exported.sort_by(|x, y| x.name.cmp(&y.name));
    Ok(())
}

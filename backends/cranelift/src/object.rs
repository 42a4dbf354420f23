//! Relocatable objects and static archives.

use crate::check;
use crate::compile::{self, FunctionSize, Kernels};
use crate::error::{BackendError, guarded};
use crate::isa::Isas;
use crate::weights::Layout;
use ::object::write::SectionId;
use ::object::{Object as _, ObjectSymbol, SectionFlags, SectionKind};
use ar_archive_writer::{ArchiveKind, DEFAULT_OBJECT_READER, NewArchiveMember, write_archive_to_stream};
use cranelift_module::{DataDescription, Linkage, Module, default_libcall_names};
use cranelift_object::{ObjectBuilder, ObjectModule};
use target_lexicon::{Architecture, BinaryFormat};
use tenon_kernel::Program;
use tenon_target::Target;

/// A relocatable object: ELF, Mach-O or COFF, as the target's system has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The file.
    pub bytes: Vec<u8>,
    /// Its functions; the entry point, `<model>_run`, last.
    pub functions: Vec<FunctionSize>,
    /// Bytes of constant data.
    pub weight_bytes: usize,
}

/// Compiles `program` for `target`. The object exports `<model>_run` and `<model>_info` and needs no other symbol.
///
/// # Errors
/// The program is not scheduled or planned, or the target cannot be generated for.
pub fn compile_object(program: &Program, target: &Target) -> Result<Object, BackendError> {
    check::program(program, target)?;
    let isas = Isas::new(target)?;
    let layout = Layout::new(program);
    if target.triple.binary_format == BinaryFormat::Coff
        && matches!(target.triple.architecture, Architecture::Aarch64(_))
        && layout.bytes > 0
    {
        return Err(BackendError::Target {
            target: target.name.clone(),
            reason: "objects for Windows on aarch64 cannot refer to constant data yet; aarch64-linux and \
                     x86_64-windows can"
                .into(),
        });
    }
    let kernels = Kernels::compile(program, target, &isas)?;
    guarded(&program.name, || emit(program, target, &isas, &kernels, &layout))
}

fn emit(
    program: &Program,
    target: &Target,
    isas: &Isas,
    kernels: &Kernels,
    layout: &Layout,
) -> Result<Object, BackendError> {
    let name = &program.name;
    let fail = |message: String| BackendError::Internal { kernel: name.clone(), message };
    let module_fail = |e: cranelift_module::ModuleError| fail(e.to_string());
    let builder = ObjectBuilder::new(isas.speed.clone(), name.as_bytes().to_vec(), default_libcall_names())
        .map_err(module_fail)?;
    let mut module = ObjectModule::new(builder);

    let weights = if layout.bytes == 0 {
        None
    } else {
        let id =
            module.declare_data(&format!("{name}_weights"), Linkage::Local, false, false).map_err(module_fail)?;
        let mut data = DataDescription::new();
        let mut bytes = vec![0; layout.bytes].into_boxed_slice();
        layout.fill(program, &mut bytes);
        data.define(bytes);
        data.set_align(Program::ALIGN as u64);
        module.define_data(id, &data).map_err(module_fail)?;
        Some(id)
    };
    let info = module.declare_data(&format!("{name}_info"), Linkage::Export, false, false).map_err(module_fail)?;
    let mut data = DataDescription::new();
    data.define(info_text(program, target).into_bytes().into_boxed_slice());
    data.set_align(8);
    module.define_data(info, &data).map_err(module_fail)?;

    let defined = compile::define(&mut module, program, kernels, weights, layout, isas)?;
    let mut product = module.finish();
    if target.is_elf() {
        // Without it linkers assume that the code needs an executable stack.
        let note: SectionId = product.object.add_section(vec![], b".note.GNU-stack".to_vec(), SectionKind::Other);
        product.object.section_mut(note).flags = SectionFlags::Elf { sh_flags: 0 };
    }
    let bytes = product.emit().map_err(|e| fail(e.to_string()))?;
    Ok(Object { bytes, functions: defined.sizes, weight_bytes: layout.bytes })
}

/// One line a C program can print: what made the artifact, for what, with which signature. Ends with a zero byte.
fn info_text(program: &Program, target: &Target) -> String {
    let list =
        |io: &[tenon_kernel::Io]| io.iter().map(|i| format!("{}: {}", i.name, i.fact)).collect::<Vec<_>>().join(", ");
    // A name from the model may hold a zero byte, which would end the string early.
    format!(
        "tenon {} abi {}; {}; {}({}) -> ({}); arena {}\0",
        env!("CARGO_PKG_VERSION"),
        tenon_abi::ABI_VERSION,
        target.name,
        program.name,
        list(&program.inputs).replace('\0', "?"),
        list(&program.outputs).replace('\0', "?"),
        program.arena_bytes,
    )
}

/// A static archive of `members`, (file name, object) pairs, with a symbol index; the same bytes every time.
///
/// # Errors
/// An object cannot be read.
pub fn archive(members: &[(&str, &[u8])], target: &Target) -> Result<Vec<u8>, BackendError> {
    let kind = match target.triple.binary_format {
        BinaryFormat::Macho => ArchiveKind::Darwin,
        BinaryFormat::Coff => ArchiveKind::Coff,
        _ => ArchiveKind::Gnu,
    };
    let members: Vec<NewArchiveMember<'_>> = members
        .iter()
        .map(|(name, bytes)| NewArchiveMember {
            buf: Box::new(*bytes),
            object_reader: &DEFAULT_OBJECT_READER,
            member_name: (*name).to_string(),
            mtime: 0,
            uid: 0,
            gid: 0,
            perms: 0o644,
        })
        .collect();
    let mut out = std::io::Cursor::new(vec![]);
    write_archive_to_stream(&mut out, &members, kind, false, None)
        .map_err(|e| BackendError::Internal { kernel: "archive".into(), message: e.to_string() })?;
    Ok(out.into_inner())
}

/// The symbols that an object leaves to be defined elsewhere, sorted. Compare with [`tenon_abi::ALLOWED_UNDEFINED`].
///
/// # Errors
/// `bytes` is not an object.
pub fn undefined_symbols(bytes: &[u8]) -> Result<Vec<String>, BackendError> {
    let fail = |e: ::object::Error| BackendError::Program(format!("not an object: {e}"));
    let file = ::object::File::parse(bytes).map_err(fail)?;
    let mut names = vec![];
    for s in file.symbols().filter(|s| s.is_undefined()) {
        let name = s.name().map_err(fail)?;
        if !name.is_empty() {
            names.push(name.to_string());
        }
    }
    names.sort();
    Ok(names)
}

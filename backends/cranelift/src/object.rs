//! Relocatable objects and static archives.

use crate::blob::Blob;
use crate::check;
use crate::compile::{self, Constants, Declared, FunctionSize, Kernels};
use crate::error::{BackendError, guarded};
use crate::isa::Isas;
use crate::options::{Haste, ObjectOptions};
use crate::selftest::Selftest;
use crate::weights::Layout;
use ::object::write::SectionId;
use ::object::{SectionFlags, SectionKind};
use ar_archive_writer::{ArchiveKind, DEFAULT_OBJECT_READER, NewArchiveMember, write_archive_to_stream};
use cranelift_module::{DataDescription, Linkage, Module, default_libcall_names};
use cranelift_object::{ObjectBuilder, ObjectModule};
use target_lexicon::BinaryFormat;
use tenon_kernel::Program;
use tenon_target::Target;

/// A relocatable object: ELF, Mach-O or COFF, as the target's system has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The file.
    pub bytes: Vec<u8>,
    /// Its functions: kernels, the entry point `<model>_run`, and behind it what the self-test needs.
    pub functions: Vec<FunctionSize>,
    /// Bytes of constant data, in the object or in the file.
    pub weight_bytes: usize,
    /// The file of constant data, where they are separate.
    pub weights_file: Option<Vec<u8>>,
    /// Bytes of the stack that a run takes at most.
    pub stack_bytes: usize,
    /// Bytes of the arena that `<model>_selftest` takes, where there is one.
    pub selftest_arena_bytes: Option<usize>,
}

/// Compiles `program` for `target`. The object exports `<model>_run` and `<model>_info` and needs no other symbol.
///
/// # Errors
/// The program is not scheduled or planned, or the target cannot be generated for.
pub fn compile_object(program: &Program, target: &Target) -> Result<Object, BackendError> {
    compile_object_with(program, target, &ObjectOptions::default())
}

/// The same, with `options`; `<model>_selftest` is exported too if there are known results.
///
/// # Errors
/// As [`compile_object`]; and the known results are not of this program.
pub fn compile_object_with(
    program: &Program,
    target: &Target,
    options: &ObjectOptions,
) -> Result<Object, BackendError> {
    if let Some(i) = options.golden.iter().position(|g| !g.fits(program)) {
        return Err(BackendError::Program(format!("known result {i} does not have the model's inputs and outputs")));
    }
    let isas = Isas::new(target)?;
    let kernels = check::compiled(program, target, &isas, options.separate_weights, Haste::None)?;
    guarded(&program.name, || emit(program, target, &isas, &kernels, options))
}

fn emit(
    program: &Program,
    target: &Target,
    isas: &Isas,
    kernels: &Kernels,
    options: &ObjectOptions,
) -> Result<Object, BackendError> {
    let name = &program.name;
    let fail = |message: String| BackendError::Internal { kernel: name.clone(), message };
    let module_fail = |e: cranelift_module::ModuleError| fail(e.to_string());
    let builder = ObjectBuilder::new(isas.speed.clone(), name.as_bytes().to_vec(), default_libcall_names())
        .map_err(module_fail)?;
    let mut module = ObjectModule::new(builder);

    let layout = Layout::new(program);
    let weight_bytes = layout.bytes;
    let separate = options.separate_weights && weight_bytes > 0;
    let layout = if separate { layout.behind_header(program) } else { layout };
    let file = separate.then(|| layout.file(program));
    let mut blob = None;
    let constants = |m: &mut ObjectModule| match &file {
        Some((_, header)) => Ok(Constants::Given(*header)),
        None if weight_bytes == 0 => Ok(Constants::Nowhere),
        None => {
            let here = Blob::declare(m, &format!("{name}_weights"), target)?;
            blob = Some(here);
            Ok(Constants::Here(here))
        }
    };
    let declared = Declared::new(&mut module, program, target, constants, isas)?;
    let entry = declared.entry(&mut module, program, &layout, isas)?;
    let defined = compile::define(&mut module, program, declared, kernels, &entry, isas)?;
    let mut functions = defined.sizes;
    let selftest = match options.golden.as_slice() {
        [] => None,
        golden => Some(Selftest { program, target, golden, run: defined.entry, separate }.define(&mut module, isas)?),
    };
    if let Some(made) = &selftest {
        functions.extend(made.functions.iter().cloned());
    }
    if let Some(blob) = blob {
        blob.define(&mut module, layout.block(program)).map_err(|e| module_fail(*e))?;
    }
    let info = module.declare_data(&format!("{name}_info"), Linkage::Export, false, false).map_err(module_fail)?;
    let mut data = DataDescription::new();
    data.define(info_text(program, target, defined.stack).into_bytes().into_boxed_slice());
    data.set_align(8);
    module.define_data(info, &data).map_err(module_fail)?;

    let mut product = module.finish();
    if target.is_elf() {
        // Without it linkers assume that the code needs an executable stack.
        let note: SectionId = product.object.add_section(vec![], b".note.GNU-stack".to_vec(), SectionKind::Other);
        product.object.section_mut(note).flags = SectionFlags::Elf { sh_flags: 0 };
    }
    let bytes = product.emit().map_err(|e| fail(e.to_string()))?;
    Ok(Object {
        bytes,
        functions,
        weight_bytes,
        weights_file: file.map(|(bytes, _)| bytes),
        stack_bytes: defined.stack,
        selftest_arena_bytes: selftest.map(|s| s.arena_bytes),
    })
}

/// One line a C program can print: what made the artifact, for what, with which signature. Ends with a zero byte.
fn info_text(program: &Program, target: &Target, stack: usize) -> String {
    let list =
        |io: &[tenon_kernel::Io]| io.iter().map(|i| format!("{}: {}", i.name, i.fact)).collect::<Vec<_>>().join(", ");
    // A name from the model may hold a zero byte, which would end the string early.
    format!(
        "tenon {} abi {}; {}; {}({}) -> ({}); arena {}; stack {stack}\0",
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

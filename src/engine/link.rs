//! The system's C compiler and an emulator, for objects of this and of other machines.

use crate::Error;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tenon_target::{Arch, Feature, Target};

/// An environment variable that is set and not empty.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|v| !v.is_empty())
}

/// The C compiler that links for `target`: `CC_<triple>` (as the `cc` crate reads it), else for this machine `CC` or `cc`,
/// else Debian's name of a cross compiler.
pub(super) fn compiler(target: &Target, native: bool) -> OsString {
    let triple = target.triple.to_string();
    variable(&format!("CC_{triple}"))
        .or_else(|| variable(&format!("CC_{}", triple.replace('-', "_"))))
        .or_else(|| if native { variable("CC") } else { None })
        .unwrap_or_else(|| if native { "cc".into() } else { format!("{}-linux-gnu-gcc", target.arch).into() })
}

/// The command that `TENON_EMULATOR_<arch>` names (words separated by blanks).
fn named_emulator(target: &Target) -> Option<Vec<OsString>> {
    let given = variable(&format!("TENON_EMULATOR_{}", target.arch))?;
    Some(given.to_string_lossy().split_whitespace().map(OsString::from).collect())
}

/// Whether an emulator is named for machines like `target`.
pub(super) fn has_emulator(target: &Target) -> bool {
    named_emulator(target).is_some()
}

/// The command that runs a program of `target` on this machine: the one that is named, else qemu's user emulation of a CPU
/// that has every feature of the target.
fn emulator(target: &Target) -> Vec<OsString> {
    if let Some(command) = named_emulator(target) {
        return command;
    }
    let mut command = vec![OsString::from(format!("qemu-{}", target.arch))];
    if target.arch == Arch::Riscv64 {
        let has = |f| target.has(f);
        let mut cpu = "rv64".to_string();
        if has(Feature::V) {
            let bits = 8 * target.widest_vector_bytes();
            cpu.push_str(&format!(",v=true,vlen={bits},vext_spec=v1.0"));
        }
        for f in
            [Feature::Zba, Feature::Zbb, Feature::Zbs, Feature::Zfa, Feature::Zicond, Feature::Zfh, Feature::Zvfh]
        {
            if has(f) {
                cpu.push_str(&format!(",{f}=true"));
            }
        }
        command.extend([OsString::from("-cpu"), cpu.into()]);
    } else {
        command.extend([OsString::from("-cpu"), "max".into()]);
    }
    command
}

/// Runs the C compiler with `args` in `folder`.
///
/// # Errors
/// [`Error::Link`] if there is none, or with what it says.
pub(super) fn link(cc: &OsString, target: &Target, folder: &Path, args: &[&str]) -> Result<(), Error> {
    let missing = |e: std::io::Error| {
        let (cc, triple) = (cc.display(), &target.triple);
        let package = if target.arch.name() == std::env::consts::ARCH {
            "set CC".to_string()
        } else {
            format!("install it (gcc-{}-linux-gnu on Debian) or set CC_{triple}", target.arch)
        };
        Error::Link(format!("cannot run the linker `{cc}`: {e}; {package}"))
    };
    let out = Command::new(cc).args(args).current_dir(folder).stdin(Stdio::null()).output().map_err(missing)?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    Err(Error::Link(format!("`{}` could not link the object ({}): {said}", cc.display(), out.status)))
}

/// Runs `program` of `target` by the emulator with `input` as its standard input.
///
/// # Errors
/// [`Error::Link`] if there is no emulator.
pub(super) fn emulate(target: &Target, program: &Path, input: Vec<u8>) -> Result<Output, Error> {
    use std::io::Write;
    let command = emulator(target);
    let name = command.first().map(|c| c.to_string_lossy().into_owned()).unwrap_or_default();
    let failed = |e: std::io::Error| {
        let variable = format!("TENON_EMULATOR_{}", target.arch);
        Error::Link(format!(
            "cannot run the emulator `{name}`: {e}; install it (qemu-user on Debian) or set {variable}"
        ))
    };
    let (first, rest) = command.split_first().ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
    let mut child = Command::new(first)
        .args(rest)
        .arg(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let pipe = child.stdin.take();
    // In a thread of its own: the program writes while it is still read to. If it dies first, its status tells.
    let writer = std::thread::spawn(move || pipe.map(|mut p| p.write_all(&input)));
    let out = child.wait_with_output().map_err(failed);
    let _ = writer.join();
    out
}

//! The object engine for another machine: a static program without a C library, run by an emulator.

use super::link;
use crate::{Compiled, Error};
use std::fmt::Write;
use std::path::PathBuf;
use tenon_base::Tensor;
use tenon_cranelift::AlignedBuf;
use tenon_kernel::{Io, Program};
use tenon_target::{OperatingSystem, Target};

/// A model's object, linked into a program that reads inputs from its standard input and writes outputs.
#[derive(Debug)]
pub(super) struct Emulated {
    target: Target,
    program: PathBuf,
    _folder: tempfile::TempDir,
}

/// What starts the program and talks to Linux, without a C library; the model's part follows.
const START: &str = include_str!("start.c");

impl Emulated {
    /// Compiles, links with the cross compiler, and looks for nothing else: the program is one static file.
    pub(super) fn new(c: &Compiled) -> Result<Emulated, Error> {
        if c.target.triple.operating_system != OperatingSystem::Linux {
            return Err(Error::Target(format!(
                "{}: no engine here runs its programs: objects of other machines run if they are for Linux; the object \
                 itself can be made with `tenon compile`",
                c.target
            )));
        }
        let folder = tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))?;
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).map_err(Error::io("write", path))
        };
        let header = tenon_cranelift::artifact::c_header(&c.program, &c.target);
        write("model.o", &c.object()?)?;
        write("model.h", header.as_bytes())?;
        write("main.c", main_c(&c.program).as_bytes())?;
        let cc = link::compiler(&c.target, false);
        let flags =
            ["-O1", "-ffreestanding", "-fno-builtin", "-fno-stack-protector", "-static", "-nostdlib", "-no-pie"];
        let flags: Vec<&str> = flags.into_iter().chain(["main.c", "model.o", "-o", "main"]).collect();
        link::link(&cc, &c.target, folder.path(), &flags)?;
        Ok(Emulated { target: c.target.clone(), program: folder.path().join("main"), _folder: folder })
    }

    /// Runs on `inputs`, which have been checked against `program`, and on `states`, which it changes.
    pub(super) fn run(
        &self,
        program: &Program,
        inputs: &[Tensor],
        states: &mut Vec<Tensor>,
    ) -> Result<Vec<Tensor>, Error> {
        let mut bytes = vec![0; program.state_bytes()];
        crate::jit::put_states(program, states, &mut bytes);
        inputs.iter().for_each(|t| bytes.extend_from_slice(t.bytes()));
        let out = link::emulate(&self.target, &self.program, bytes)?;
        let mut rest = out.stdout.as_slice();
        let sizes: Vec<usize> = program.outputs.iter().map(crate::jit::bytes_of).collect();
        if !out.status.success() || rest.len() != program.state_bytes() + sizes.iter().sum::<usize>() {
            let said = String::from_utf8_lossy(&out.stderr);
            let status = out.status;
            return Err(Error::Run(format!("the emulated program for {} failed ({status}): {said}", self.target)));
        }
        let (kept, tail) = rest.split_at(program.state_bytes());
        rest = tail;
        *states = crate::jit::get_states(program, kept)?;
        let outputs: Vec<AlignedBuf> = sizes
            .into_iter()
            .map(|n| {
                let (head, tail) = rest.split_at(n);
                rest = tail;
                super::object::holding(head)
            })
            .collect();
        crate::jit::to_tensors(program, &outputs)
    }
}

/// The program around the model: static memory for everything, inputs from 0, outputs to 1; its status is the model's.
fn main_c(p: &Program) -> String {
    let mut c = String::from(START);
    // Writing to a `String` does not fail.
    let _ = write_main(&mut c, p);
    c
}

fn write_main(c: &mut String, p: &Program) -> std::fmt::Result {
    let (name, upper) = (&p.name, p.name.to_ascii_uppercase());
    writeln!(
        c,
        "#include \"model.h\"\n\nstatic unsigned char arena[{upper}_ARENA_BYTES + 64] __attribute__((aligned(64)));"
    )?;
    let buffers = |c: &mut String, kind: &str, io: &[Io]| -> std::fmt::Result {
        for (i, io) in io.iter().enumerate() {
            let n = crate::jit::bytes_of(io).max(1);
            writeln!(c, "static unsigned char {kind}{i}[{n}] __attribute__((aligned(64)));")?;
        }
        let list: Vec<String> = (0..io.len()).map(|i| format!("{kind}{i}")).collect();
        let list = if list.is_empty() { "0".to_string() } else { list.join(", ") };
        writeln!(c, "static void *{kind}s[] = {{{list}}};")
    };
    buffers(c, "in", &p.inputs)?;
    buffers(c, "out", &p.outputs)?;
    // State is at the beginning of the arena: it comes before the inputs and leaves before the outputs.
    let state = p.state_bytes();
    writeln!(
        c,
        "\nint main(void) {{\n    int32_t status;\n    if (transfer(SYS_READ, 0, arena, {state}ul) != 0) return 100;"
    )?;
    for (i, io) in p.inputs.iter().enumerate() {
        writeln!(c, "    if (transfer(SYS_READ, 0, in{i}, {}ul) != 0) return 100;", crate::jit::bytes_of(io))?;
    }
    writeln!(
        c,
        "    status = {name}_run((const {name}_inputs *)ins, (const {name}_outputs *)outs, arena, 0);\n    \
         if (status != 0) return status;\n    if (transfer(SYS_WRITE, 1, arena, {state}ul) != 0) return 101;"
    )?;
    for (i, io) in p.outputs.iter().enumerate() {
        writeln!(c, "    if (transfer(SYS_WRITE, 1, out{i}, {}ul) != 0) return 101;", crate::jit::bytes_of(io))?;
    }
    writeln!(c, "    return 0;\n}}")
}

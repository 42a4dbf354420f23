//! Every operator on every dtype on other machines, by an emulator, against the interpreter here.
//!
//! Needs a cross compiler and qemu's user emulation (`gcc-aarch64-linux-gnu gcc-riscv64-linux-gnu qemu-user` on Debian);
//! says so and passes where they are not installed.

mod support;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use support::cases::{cases, kernel};
use support::{differences, program, values};
use tenon_base::{DType, Tensor};
use tenon_cranelift::{archive, compile_object};
use tenon_kernel::Program;
use tenon_kernel::interp::run_program;
use tenon_target::Target;

const LANES: [u16; 6] = [1, 3, 4, 8, 16, 32];

/// A program with its inputs and what its cases are called.
struct Case {
    program: Program,
    inputs: Vec<Tensor>,
    what: Vec<String>,
}

fn all_cases(target: &Target, keep: fn(DType, &str) -> bool) -> Vec<Case> {
    let mut out = vec![];
    for d in DType::ALL {
        for lanes in LANES {
            let blocks = (240 / usize::from(lanes)).max(4);
            let n = blocks * usize::from(lanes);
            let cases: Vec<_> = cases(d, lanes).into_iter().filter(|c| keep(d, &c.name)).collect();
            for group in cases.chunks(12) {
                let mut program = program(kernel(d, lanes, blocks, group), target.has_fma());
                program.name = format!("m{}", out.len());
                out.push(Case {
                    program,
                    inputs: vec![values(d, n, 1), values(d, n, 2), values(d, n, 3), values(DType::Bool, n, 4)],
                    what: group.iter().map(|c| format!("{d}x{lanes} {}", c.name)).collect(),
                });
            }
        }
    }
    out
}

/// A program that runs all models on the bytes of one file and writes all outputs to another.
fn driver(cases: &[Case]) -> String {
    let mut c = String::from(
        "#include <stdint.h>\n#include <stdio.h>\n#include <stdlib.h>\n\
         typedef int32_t run(const void *, const void *, void *, const void *);\n",
    );
    for (i, case) in cases.iter().enumerate() {
        let sizes = |t: &[tenon_kernel::Io]| -> String {
            t.iter()
                .map(|io| format!("{}, ", io.fact.dims().unwrap().iter().product::<usize>() * io.fact.dtype.size()))
                .collect()
        };
        writeln!(c, "run m{i}_run;").unwrap();
        writeln!(c, "static const unsigned in{i}[] = {{{}0}};", sizes(&case.program.inputs)).unwrap();
        writeln!(c, "static const unsigned out{i}[] = {{{}0}};", sizes(&case.program.outputs)).unwrap();
    }
    c.push_str("static const struct { run *f; const unsigned *in, *out; } all[] = {\n");
    for i in 0..cases.len() {
        writeln!(c, "{{m{i}_run, in{i}, out{i}}},").unwrap();
    }
    c.push_str(
        "};\nint main(int argc, char **argv) {
    FILE *in = fopen(argv[argc - 2], \"rb\"), *out = fopen(argv[argc - 1], \"wb\");
    for (unsigned k = 0; k < sizeof all / sizeof *all; k++) {
        void *ins[16], *outs[16];
        unsigned i, j;
        for (i = 0; all[k].in[i]; i++) {
            ins[i] = malloc(all[k].in[i]);
            if (fread(ins[i], 1, all[k].in[i], in) != all[k].in[i]) return 1;
        }
        for (j = 0; all[k].out[j]; j++) outs[j] = calloc(1, all[k].out[j]);
        if (all[k].f(ins, outs, NULL, NULL) != 0) return 2;
        for (j = 0; all[k].out[j]; j++) fwrite(outs[j], 1, all[k].out[j], out);
    }
    return fclose(out);
}
",
    );
    c
}

/// Whether `program` can be started.
fn installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success())
}

fn must(command: &mut Command) {
    let out = command.output().unwrap();
    assert!(
        out.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}

fn check(target: &str, cc: &str, emulator: &[&str], keep: fn(DType, &str) -> bool) {
    if !installed(cc) || !installed(emulator[0]) {
        println!("skipped: {cc} or {} is not installed", emulator[0]);
        return;
    }
    let target = Target::parse(target).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let cases = all_cases(&target, keep);
    let objects: Vec<(String, Vec<u8>)> = cases
        .iter()
        .map(|c| (format!("{}.o", c.program.name), compile_object(&c.program, &target).unwrap().bytes))
        .collect();
    let members: Vec<(&str, &[u8])> = objects.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    std::fs::write(path("libmodels.a"), archive(&members, &target).unwrap()).unwrap();
    std::fs::write(path("main.c"), driver(&cases)).unwrap();
    let bytes: Vec<u8> = cases.iter().flat_map(|c| &c.inputs).flat_map(|t| t.bytes().to_vec()).collect();
    std::fs::write(path("inputs.bin"), bytes).unwrap();
    must(Command::new(cc).current_dir(dir.path()).args(["-static", "main.c", "-L.", "-lmodels", "-o", "main"]));
    must(
        Command::new(emulator[0])
            .args(&emulator[1..])
            .arg(path("main"))
            .args([path("inputs.bin"), path("outputs.bin")]),
    );
    compare(&cases, &path("outputs.bin"), &target);
}

fn compare(cases: &[Case], outputs: &Path, target: &Target) {
    let found = std::fs::read(outputs).unwrap();
    let mut at = 0;
    let mut wrong = vec![];
    for case in cases {
        let expected = run_program(&case.program, &case.inputs).unwrap();
        let found: Vec<Tensor> = expected
            .iter()
            .map(|t| {
                let bytes = found[at..at + t.bytes().len()].to_vec();
                at += bytes.len();
                Tensor::from_bytes(t.dtype(), t.shape(), bytes.into()).unwrap()
            })
            .collect();
        let mut seen = vec![];
        for (k, i, e, f) in differences(&expected, &found) {
            if !seen.contains(&k) {
                seen.push(k);
                wrong.push(format!("{target} {}: element {i}: expected {e}, found {f}", case.what[k]));
            }
        }
    }
    assert_eq!(at, found.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(60)].join("\n"));
}

#[test]
fn aarch64() {
    check("aarch64-linux", "aarch64-linux-gnu-gcc", &["qemu-aarch64"], |_, _| true);
}

#[test]
fn riscv64_without_vectors() {
    check("riscv64-linux", "riscv64-linux-gnu-gcc", &["qemu-riscv64"], |_, _| true);
}

#[test]
fn riscv64_with_vectors() {
    // qemu before 8 stops at `vfcvt.rtz`, the conversion of float vectors to integers, with a failed assertion of its
    // own (`decode_save_opc`).
    let version = Command::new("qemu-riscv64").arg("--version").output().map(|o| o.stdout).unwrap_or_default();
    let old =
        ["version 5.", "version 6.", "version 7."].iter().any(|v| String::from_utf8_lossy(&version).contains(v));
    let works: fn(DType, &str) -> bool = |d, name| {
        let rounds = ["Cast", "Ceil", "Floor", "Trunc", "Nearest"].iter().any(|p| name.starts_with(p));
        !(d.is_float() && (rounds || name.ends_with("by a comparison")))
    };
    let all: fn(DType, &str) -> bool = |_, _| true;
    let keep = if old { works } else { all };
    for length in ["128", "512"] {
        let cpu = format!("rv64,v=true,vlen={length},vext_spec=v1.0");
        check("rv64gcv", "riscv64-linux-gnu-gcc", &["qemu-riscv64", "-cpu", &cpu], keep);
    }
}

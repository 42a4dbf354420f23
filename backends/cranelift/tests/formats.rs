//! Objects of every format: read back, linked where a linker is installed; separate weights and self-tests.

mod support;

use std::path::Path;
use std::process::Command;
use tenon_base::{DType, Tensor};
use tenon_cranelift::artifact::{Interface, c_header_of, rust_module_of};
use tenon_cranelift::{Golden, Object, ObjectOptions, audit, compile_object, compile_object_with};
use tenon_kernel::interp::run_program;
use tenon_kernel::{BufferKind, Kernel, Program};
use tenon_target::Target;

/// `y = x * w + b` with `w` and `b` constant, and `n` = the sum of `x` as an integer.
fn model(name: &str) -> Program {
    let text = "kernel affine(in %x: f32[10], in %w: f32[10], in %b: f32[10], out %y: f32[10], out %n: i32[1]) {
           var %sum = 0.0
           for %i in 0..10 {
             store %y[%i] = load %x[%i] * load %w[%i] + load %b[%i]
             %sum = %sum + load %x[%i]
           }
           store %n[0] = i32(%sum)
         }";
    let mut p = support::program(Kernel::parse(text).unwrap(), false);
    p.name = name.into();
    p.inputs.truncate(1);
    let w: Vec<f32> = (0..10).map(|i| i as f32 - 4.5).collect();
    p.buffers[1].kind = BufferKind::Const(Tensor::new(&[10], &w));
    p.buffers[2].kind = BufferKind::Const(Tensor::new(&[10], &[0.25f32; 10]));
    p
}

fn golden(p: &Program) -> Golden {
    let inputs = vec![Tensor::new(&[10], &[1f32, -2.0, 3.0, 0.5, 0.0, 7.0, 2.0, -1.0, 4.0, 5.0])];
    let outputs = run_program(p, &inputs).unwrap();
    Golden { inputs, outputs }
}

fn compile(p: &Program, target: &Target, separate_weights: bool) -> Object {
    compile_object_with(p, target, &ObjectOptions { separate_weights, golden: vec![golden(p)] }).unwrap()
}

#[test]
fn every_triple_has_objects_that_read_back() {
    let p = model("f");
    for (short, _) in tenon_target::triples() {
        let target = Target::parse(short).unwrap();
        for separate in [false, true] {
            let object = compile(&p, &target, separate);
            let all = audit(&object.bytes).unwrap();
            let [a] = all.as_slice() else { panic!("one object") };
            assert!(
                a.format.starts_with(&target.object_format().to_lowercase().replace('-', "")),
                "{short}: {}",
                a.format
            );
            assert!(a.format.ends_with(target.arch.name()), "{short}: {}", a.format);
            assert_eq!(a.undefined, tenon_abi::ALLOWED_UNDEFINED, "{short}");
            let exported: Vec<&str> = a.exported.iter().map(|s| s.name.as_str()).collect();
            assert_eq!(exported, ["f_info", "f_run", "f_selftest"], "{short}");
            assert!(!a.executable_stack && a.bytes_of("data") + a.bytes_of("zero") == 0, "{short}: {:?}", a.sections);
            assert!(a.info[0].contains(&format!("stack {}", object.stack_bytes)), "{short}: {:?}", a.info);
            assert!((32..1024).contains(&object.stack_bytes), "{short}: {}", object.stack_bytes);
            assert_eq!(object.weights_file.as_ref().map(Vec::len), separate.then_some(64 + 64 + 40), "{short}");
            let code: usize = object.functions.iter().map(|f| f.bytes).sum();
            assert!(a.bytes_of("code") as usize >= code, "{short}");
        }
    }
}

/// Runs a linker, if it is installed.
fn link(program: &str, folder: &Path, args: &[&str]) {
    match Command::new(program).current_dir(folder).args(args).output() {
        Err(_) => println!("skipped: {program} is not installed"),
        Ok(out) => {
            let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
            assert!(out.status.success(), "{program} {args:?}:\n{text}");
        }
    }
}

#[test]
fn objects_of_other_systems_link() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let p = model("f");
    for short in
        ["x86_64-macos", "aarch64-macos", "x86_64-windows", "aarch64-windows", "aarch64-linux", "riscv64-linux"]
    {
        let target = Target::parse(short).unwrap();
        std::fs::write(d.join(format!("{short}.o")), compile(&p, &target, false).bytes).unwrap();
    }
    for (short, arch) in [("x86_64-macos", "x86_64"), ("aarch64-macos", "arm64")] {
        let args = ["-arch", arch, "-platform_version", "macos", "11.0", "11.0", "-dylib", "-o", "f.dylib"];
        link("ld64.lld", d, &[&args[..], &[&format!("{short}.o")]].concat());
    }
    for (short, machine) in [("x86_64-windows", "x64"), ("aarch64-windows", "arm64")] {
        let machine = format!("/machine:{machine}");
        link(
            "lld-link",
            d,
            &[
                "/dll",
                "/noentry",
                "/export:f_run",
                "/export:f_selftest",
                &machine,
                "/out:f.dll",
                &format!("{short}.o"),
            ],
        );
    }
    for short in ["aarch64-linux", "riscv64-linux"] {
        link("ld.lld", d, &["-shared", "-z", "text", "--no-undefined", "-o", "f.so", &format!("{short}.o")]);
    }
}

const MAIN_C: &str = r#"
#include "f.h"
#include <stdio.h>
static _Alignas(64) unsigned char arena[F_SELFTEST_ARENA_BYTES];
static _Alignas(64) unsigned char weights[F_WEIGHTS_BYTES + 64];
int main(void) {
    FILE *file = fopen("f.weights.bin", "rb");
    if (!file || fread(weights, 1, F_WEIGHTS_BYTES, file) != F_WEIGHTS_BYTES) return 1;
    if (f_selftest(arena, weights) != TENON_OK) return 2;
    if (f_selftest(arena, NULL) != TENON_NULL_POINTER) return 3;
    if (f_selftest(arena + 1, weights) != TENON_MISALIGNED_ARENA) return 4;
    if (f_selftest(arena, weights + 32) != TENON_MISALIGNED_WEIGHTS) return 5;
    /* Other data of the same size are found by the self-test, another file by its header. */
    weights[66] ^= 0x40;
    if (f_selftest(arena, weights) != TENON_SELFTEST_FAILED) return 6;
    weights[66] ^= 0x40;
    weights[16] ^= 1;
    if (f_selftest(arena, weights) != TENON_WRONG_WEIGHTS) return 7;
    weights[16] ^= 1;
    float x[F_INPUT_X_LEN] = {1}, y[F_OUTPUT_Y_LEN];
    int32_t n[1];
    f_inputs in = {x};
    f_outputs out = {y, n};
    if (f_run(&in, &out, NULL, weights, NULL) != TENON_OK) return 8;
    return y[0] == -4.25f && n[0] == 1 && F_STACK_BYTES > 0 ? 0 : 9;
}
"#;

const MAIN_RS: &str = r#"
#[path = "f.rs"]
mod f;
#[repr(align(64))]
struct Aligned([u8; f::WEIGHTS_BYTES]);
fn main() {
    let mut w = Aligned([0; f::WEIGHTS_BYTES]);
    w.0.copy_from_slice(&std::fs::read("f.weights.bin").unwrap());
    let mut x = [0.0; 10];
    x[0] = 1.0;
    let out = f::F::new(&w.0).run(&x).unwrap();
    assert_eq!((out.y[0], out.n[0]), (-4.25, 1));
    assert_eq!(f::F::new(&w.0[..9]).run(&x), Err(f::Status::WrongLength));
    #[repr(align(64))]
    struct Arena([u8; f::SELFTEST_ARENA_BYTES]);
    let mut arena = Arena([0; f::SELFTEST_ARENA_BYTES]);
    f::selftest(&mut arena.0, &w.0).unwrap();
}
"#;

fn must(command: &mut Command) {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{command:?}: {}\n{text}", out.status);
}

#[cfg(unix)]
#[test]
fn separate_weights_and_self_tests_work_in_c_and_rust() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let (p, target) = (model("f"), tenon_target::host().unwrap());
    let object = compile(&p, &target, true);
    let interface = Interface::of(&object);
    let (header, module) = (c_header_of(&p, &target, &interface), rust_module_of(&p, &target, &interface));
    let files: [(&str, &[u8]); 6] = [
        ("f.o", &object.bytes),
        ("f.weights.bin", object.weights_file.as_ref().unwrap()),
        ("f.h", header.as_bytes()),
        ("f.rs", module.as_bytes()),
        ("main.c", MAIN_C.as_bytes()),
        ("main.rs", MAIN_RS.as_bytes()),
    ];
    for (name, bytes) in files {
        std::fs::write(d.join(name), bytes).unwrap();
    }
    let flags = ["-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror", "main.c", "f.o", "-o", "c"];
    must(Command::new("cc").current_dir(d).args(flags));
    must(Command::new(d.join("c")).current_dir(d));
    let rustc = option_env!("RUSTC").unwrap_or("rustc");
    let flags = ["--edition", "2024", "-Dwarnings", "main.rs", "-Clink-arg=f.o", "-o", "rs"];
    must(Command::new(rustc).current_dir(d).args(flags));
    must(Command::new(d.join("rs")).current_dir(d));
}

#[test]
fn results_of_another_model_are_refused() {
    let (p, target) = (model("f"), Target::parse("x86_64-linux").unwrap());
    let mut g = golden(&p);
    g.outputs[0] = Tensor::new(&[3], &[0f32; 3]);
    let options = ObjectOptions { separate_weights: false, golden: vec![g] };
    let e = compile_object_with(&p, &target, &options).unwrap_err().to_string();
    assert!(e.contains("known result 0"), "{e}");
    assert!(audit(b"not an object").is_err() && audit(b"!<arch>\nnonsense").is_err() && audit(b"").is_err());
}

#[test]
fn kinds_of_outputs_are_compared_by_their_own_rules() {
    // Doubles, halves, bytes and bools: the self-test is compiled for each type on each architecture.
    for d in DType::ALL {
        let text = format!(
            "kernel copy(in %x: {d}[5], out %y: {d}[5]) {{ parfor %i in 0..5 {{ store %y[%i] = load %x[%i] }} }}"
        );
        let mut p = support::program(Kernel::parse(&text).unwrap(), false);
        p.name = "k".into();
        let inputs = vec![support::values(d, 5, 3)];
        let outputs = run_program(&p, &inputs).unwrap();
        let options = ObjectOptions { separate_weights: false, golden: vec![Golden { inputs, outputs }] };
        for t in ["x86_64-linux", "aarch64-linux", "riscv64-linux", "aarch64-windows"] {
            let object = compile_object_with(&p, &Target::parse(t).unwrap(), &options).unwrap();
            assert!(object.selftest_arena_bytes.is_some_and(|n| n >= 5 * d.size() + 4));
        }
    }
    assert!(
        compile_object(&model("f"), &Target::parse("x86_64-linux").unwrap()).unwrap().selftest_arena_bytes.is_none()
    );
}

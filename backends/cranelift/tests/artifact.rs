//! Objects, headers, modules and archives, as a program that links them sees them.

mod support;

use ::object::{Object as _, ObjectSection, ObjectSymbol};
use std::path::Path;
use std::process::{Command, Output};
use tenon_base::{DType, Tensor};
use tenon_cranelift::artifact::{c_header, rust_module};
use tenon_cranelift::{Jit, archive, compile_object, undefined_symbols};
use tenon_kernel::interp::run_program;
use tenon_kernel::{BufferKind, Kernel, Program};
use tenon_target::Target;

/// `y = max(x * w + b, 0)` by way of the arena, with two constants, and `n` = the rounded sum as a second output.
fn model(name: &str) -> Program {
    let scale = Kernel::parse(
        "kernel scale(in %x: f32[10], in %w: f32[10], in %b: f32[10], out %t: f32[10]) {
           for %i in 0..8 step 8 {
             store %t[%i] = load8 %x[%i] * load8 %w[%i] + load8 %b[%i]
           }
           for %i in 8..10 {
             store %t[%i] = load %x[%i] * load %w[%i] + load %b[%i]
           }
         }",
    );
    let relu = Kernel::parse(
        "kernel relu(in %t: f32[10], out %y: f32[10], out %n: i32[1]) {
           var %sum = 0.0
           for %i in 0..10 {
             let %v = max(load %t[%i], 0.0)
             store %y[%i] = %v
             %sum = %sum + %v
           }
           store %n[0] = i32(%sum)
         }",
    );
    let (scale, relu) = (scale.unwrap(), relu.unwrap());
    let mut p = support::program(scale, false);
    p.name = name.into();
    p.inputs.truncate(1);
    p.outputs = vec![
        tenon_kernel::Io { name: "int".into(), fact: tenon_base::Fact::of(DType::F32, &[2, 5]) },
        tenon_kernel::Io { name: "n/sum".into(), fact: tenon_base::Fact::of(DType::I32, &[]) },
    ];
    p.inputs[0].name = "input.1".into();
    let w: Vec<f32> = (0..10).map(|i| i as f32 - 4.5).collect();
    p.buffers[1].kind = BufferKind::Const(Tensor::new(&[10], &w));
    p.buffers[2].kind = BufferKind::Const(Tensor::new(&[10], &[0.25f32; 10]));
    p.buffers[3].kind = BufferKind::Arena(Some(64));
    p.arena_bytes = 128;
    let y = p.add_buffer("y", DType::F32, 10, BufferKind::Output(0));
    let n = p.add_buffer("n", DType::I32, 1, BufferKind::Output(1));
    p.kernels.push(relu);
    p.push_call(tenon_kernel::Call {
        kernel: 1,
        args: vec![tenon_kernel::BufferId(3), y, n],
        loc: tenon_base::Loc::default(),
    });
    p
}

fn input() -> Tensor {
    Tensor::new(&[10], &[1f32, -2.0, 3.0, 0.5, 0.0, 7.0, 2.0, -1.0, 4.0, 5.0])
}

/// A run call by call does what a run does, and tells the end of every call, in order.
#[test]
fn steps_are_a_run_in_pieces() {
    let p = model("steps");
    let jit = Jit::with_steps(&p, &tenon_target::host().unwrap()).unwrap();
    let whole = support::run(&jit, &p, &[input()]);
    let given = input();
    let ins = [&given.bytes()[..]];
    let mut outs: Vec<Vec<u8>> = jit.output_bytes().into_iter().map(|n| vec![0xee; n]).collect();
    let mut slices: Vec<&mut [u8]> = outs.iter_mut().map(Vec::as_mut_slice).collect();
    let mut ended = vec![];
    let env = tenon_abi::Env::SERIAL;
    // SAFETY: there is no hook.
    unsafe { jit.run_steps(&ins, &mut slices, &mut jit.arena(), &env, &mut |i| ended.push(i)) }.unwrap();
    assert_eq!(ended, [0, 1]);
    assert!(whole.iter().zip(&outs).all(|(t, bytes)| t.bytes()[..] == bytes[..]));
    // SAFETY: as above.
    let nothing = unsafe { jit.run_steps(&[], &mut [], &mut jit.arena(), &env, &mut |_| panic!("nothing runs")) };
    assert!(nothing.is_err());
}

fn run(command: &mut Command) -> Output {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{command:?}:\n{text}");
    out
}

/// Runs a linker or compiler and asserts that it has nothing to say.
fn quiet(command: &mut Command) {
    let out = run(command);
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(text.is_empty(), "{command:?}:\n{text}");
}

fn expected_text(p: &Program) -> String {
    let out = run_program(p, &[input()]).unwrap();
    let y: Vec<String> =
        out[0].bytes().chunks(4).map(|b| format!("{:.4}", f32::from_le_bytes(b.try_into().unwrap()))).collect();
    let n = i32::from_le_bytes(out[1].bytes()[..].try_into().unwrap());
    format!("{} | {n}\n", y.join(" "))
}

#[test]
fn jit_equals_the_interpreter_whatever_the_alignment() {
    let p = model("m");
    let jit = Jit::new(&p, &tenon_target::host().unwrap()).unwrap();
    let x = input();
    let expected = run_program(&p, std::slice::from_ref(&x)).unwrap();
    let mut storage = [0u8; 64];
    for shift in 0..5 {
        let mut y = vec![0u8; 40 + shift];
        let mut n = [0u8; 4];
        storage[shift..shift + 40].copy_from_slice(x.bytes());
        let mut arena = jit.arena();
        jit.run(&[&storage[shift..shift + 40]], &mut [&mut y[shift..], &mut n], &mut arena).unwrap();
        assert_eq!((&y[shift..], &n[..]), (&expected[0].bytes()[..], &expected[1].bytes()[..]));
    }
    let e = jit.run(&[&storage[..39]], &mut [&mut [0; 40], &mut [0; 4]], &mut jit.arena());
    assert_eq!(e, Err(tenon_abi::Status::WrongLength));
    // Other threads may use it, and dropping it frees its memory.
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                let (mut y, mut n) = ([0; 40], [0; 4]);
                jit.run(&[x.bytes()], &mut [&mut y, &mut n], &mut jit.arena()).unwrap();
                assert_eq!(y[..], expected[0].bytes()[..]);
            });
        }
    });
}

#[test]
fn objects_are_the_same_bytes_every_time() {
    let p = model("same");
    for t in ["x86_64-linux", "aarch64-linux", "riscv64-linux", "aarch64-macos", "x86_64-windows"] {
        let t = Target::parse(t).unwrap();
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let four = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        let a = one.install(|| compile_object(&p, &t).unwrap());
        let b = four.install(|| compile_object(&p, &t).unwrap());
        assert_eq!(a, b);
        let name = [("m.o", &a.bytes[..])];
        assert_eq!(archive(&name, &t).unwrap(), archive(&name, &t).unwrap());
    }
}

#[test]
fn objects_export_two_symbols_and_need_none() {
    let p = model("sym");
    for t in ["x86_64-linux", "aarch64-linux", "riscv64-linux", "rv64gcv", "x86_64-linux/x86-64-v1", "aarch64-macos"]
    {
        let t = Target::parse(t).unwrap();
        let o = compile_object(&p, &t).unwrap();
        assert_eq!(undefined_symbols(&o.bytes).unwrap(), tenon_abi::ALLOWED_UNDEFINED);
        let file = ::object::File::parse(&*o.bytes).unwrap();
        let mut global: Vec<String> = file
            .symbols()
            .filter(|s| s.is_global() && s.is_definition())
            .map(|s| s.name().unwrap().trim_start_matches('_').to_string())
            .collect();
        global.sort();
        assert_eq!(global, ["sym_info", "sym_run"], "{t}");
        let functions: Vec<&str> = o.functions.iter().map(|f| f.symbol.as_str()).collect();
        assert_eq!(functions, ["sym_k0_scale", "sym_k1_relu", "sym_run"]);
        assert_eq!(o.weight_bytes, 64 + 40);
        assert!(file.sections().all(|s| !s.name().unwrap().contains("eh_frame")));
        if t.is_elf() {
            let note = file.section_by_name(".note.GNU-stack").expect("marks the stack as not executable");
            assert_eq!(note.size(), 0);
        }
    }
}

#[test]
fn what_is_not_for_the_target_is_an_error() {
    let mut p = model("e");
    p.fused_multiply_add = true;
    let e = compile_object(&p, &Target::parse("x86-64-v2").unwrap()).unwrap_err().to_string();
    assert!(e.contains("fused multiply-add"), "{e}");
    let e = Jit::new(&model("e"), &Target::parse("riscv64-linux").unwrap()).unwrap_err().to_string();
    assert!(e.contains("host"), "{e}");
    let mut p = model("e");
    p.buffers[3].kind = BufferKind::Arena(None);
    assert!(compile_object(&p, &Target::parse("x86-64-v2").unwrap()).is_err());
}

const MAIN_C: &str = r#"
#include "alpha.h"
#include "beta.h"
#include <stdio.h>
#include <stdlib.h>
static _Alignas(64) unsigned char arena[ALPHA_ARENA_BYTES + 64];
int main(void) {
    float x[ALPHA_INPUT_INPUT_1_LEN] = {1, -2, 3, 0.5f, 0, 7, 2, -1, 4, 5};
    float y[ALPHA_OUTPUT_INT__LEN];
    int32_t n[ALPHA_OUTPUT_N_SUM_LEN];
    alpha_inputs in = {x};
    alpha_outputs out = {y, n};
    beta_inputs in2 = {x};
    beta_outputs out2 = {y, n};
    if (beta_run(&in2, &out2, arena, NULL) != TENON_OK) return 1;
    if (alpha_run(&in, &out, arena, NULL) != TENON_OK) return 2;
    if (alpha_run(NULL, &out, arena, NULL) != TENON_NULL_POINTER) return 3;
    if (alpha_run(&in, NULL, arena, NULL) != TENON_NULL_POINTER) return 4;
    if (alpha_run(&in, &out, NULL, NULL) != TENON_NULL_POINTER) return 5;
    if (alpha_run(&in, &out, arena + 32, NULL) != TENON_MISALIGNED_ARENA) return 6;
    in.input_1 = NULL;
    if (alpha_run(&in, &out, arena, NULL) != TENON_NULL_POINTER) return 7;
    in.input_1 = (const float *)((const char *)x + 1);
    if (alpha_run(&in, &out, arena, NULL) != TENON_MISALIGNED_BUFFER) return 8;
    if (alpha_info[0] != 't') return 9;
    for (unsigned i = 0; i < ALPHA_OUTPUT_INT__LEN; i++) printf("%s%.4f", i ? " " : "", y[i]);
    printf(" | %d\n", (int)n[0]);
    return 0;
}
"#;

fn write_models(dir: &Path, target: &Target) -> Program {
    for name in ["alpha", "beta"] {
        let p = model(name);
        let o = compile_object(&p, target).unwrap();
        std::fs::write(dir.join(format!("{name}.o")), &o.bytes).unwrap();
        std::fs::write(dir.join(format!("{name}.h")), c_header(&p, target)).unwrap();
        std::fs::write(dir.join(format!("{name}.rs")), rust_module(&p, target)).unwrap();
        let a = archive(&[(&format!("{name}.o"), &o.bytes)], target).unwrap();
        std::fs::write(dir.join(format!("lib{name}.a")), a).unwrap();
    }
    model("alpha")
}

/// C programs on Linux and macOS only: that is where a `cc` is.
#[cfg(unix)]
#[test]
fn two_models_link_into_a_c_program() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let p = write_models(d, &tenon_target::host().unwrap());
    std::fs::write(d.join("main.c"), MAIN_C).unwrap();
    let flags = ["-Wall", "-Wextra", "-pedantic", "-Werror", "main.c"];
    let cc = |extra: &[&str], out: &str| {
        quiet(Command::new("cc").current_dir(d).args(flags).args(extra).args(["-o", out]));
        let found = run(&mut Command::new(d.join(out)));
        assert_eq!(String::from_utf8_lossy(&found.stdout), expected_text(&p), "{extra:?}");
    };
    cc(&["-std=c11", "alpha.o", "beta.o"], "plain");
    cc(&["-std=c11", "-L.", "-lalpha", "-lbeta"], "archive");
    if cfg!(target_os = "linux") {
        cc(&["-std=c11", "alpha.o", "beta.o", "-pie", "-Wl,--fatal-warnings", "-Wl,-z,text"], "pie");
        cc(&["-std=c11", "alpha.o", "beta.o", "-no-pie", "-Wl,--fatal-warnings"], "no-pie");
        let shared = ["-shared", "-Wl,--fatal-warnings", "-Wl,-z,text", "-Wl,--no-undefined", "-nostdlib", "alpha.o"];
        quiet(Command::new("cc").current_dir(d).args(shared).args(["-o", "libalpha.so"]));
        let bytes = std::fs::read(d.join("libalpha.so")).unwrap();
        assert_eq!(undefined_symbols(&bytes).unwrap(), [] as [&str; 0]);
    }
    // The header is C++ too, and stands alone.
    std::fs::write(d.join("alone.cc"), "#include \"alpha.h\"\n").unwrap();
    quiet(Command::new("cc").current_dir(d).args([
        "-x",
        "c++",
        "-Wall",
        "-Wextra",
        "-pedantic",
        "-Werror",
        "-fsyntax-only",
        "alone.cc",
    ]));
    quiet(Command::new("cc").current_dir(d).args([
        "-x",
        "c",
        "-std=c99",
        "-Wall",
        "-pedantic",
        "-Werror",
        "-fsyntax-only",
        "alone.cc",
    ]));
}

const MAIN_RS: &str = r#"
#[path = "alpha.rs"]
mod alpha;
#[path = "beta.rs"]
mod beta;
fn main() {
    let x = [1.0, -2.0, 3.0, 0.5, 0.0, 7.0, 2.0, -1.0, 4.0, 5.0];
    let mut a = Box::new(alpha::Alpha::new());
    let out = a.run(&x).unwrap();
    let (mut y, mut n) = ([0.0; 10], [0; 1]);
    beta::Beta::new().run_into(&x, &mut y, &mut n).unwrap();
    assert_eq!((out.int_, out.n_sum), (y, n));
    assert_eq!(alpha::run_in(&mut [0; 3], &x, &mut y, &mut n), Err(alpha::Status::WrongLength));
    let text: Vec<String> = out.int_.iter().map(|v| format!("{v:.4}")).collect();
    println!("{} | {}", text.join(" "), out.n_sum[0]);
}
"#;

#[cfg(unix)]
#[test]
fn two_models_link_into_a_rust_program() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let p = write_models(d, &tenon_target::host().unwrap());
    std::fs::write(d.join("main.rs"), MAIN_RS).unwrap();
    let rustc = option_env!("RUSTC").unwrap_or("rustc");
    for edition in ["2021", "2024"] {
        quiet(
            Command::new(rustc)
                .current_dir(d)
                .args(["--edition", edition, "-Dwarnings", "main.rs", "-L."])
                .args(["-lstatic=alpha", "-lstatic=beta"]),
        );
        assert_eq!(String::from_utf8_lossy(&run(&mut Command::new(d.join("main"))).stdout), expected_text(&p));
    }
    // The module needs no `std`.
    std::fs::write(d.join("bare.rs"), "#![no_std]\npub mod alpha;\n").unwrap();
    quiet(Command::new(rustc).current_dir(d).args([
        "--edition",
        "2024",
        "--crate-type",
        "lib",
        "--emit",
        "metadata",
        "bare.rs",
    ]));
}

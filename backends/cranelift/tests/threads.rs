//! Kernels in parts: the hook of the contract, in this process, in C and in Rust, and objects of every system.

use std::ffi::c_void;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use tenon_abi::{Env, Work};
use tenon_base::{DType, Tensor};
use tenon_cranelift::artifact::{c_header, rust_module};

use tenon_cranelift::{Jit, compile_object, undefined_symbols};
use tenon_kernel::{Kernel, Program, run_program};
use tenon_target::Target;

/// Two kernels in three parts, one with vectors and more buffers than there are registers for parameters.
fn program() -> Program {
    let kernels = [
        "kernel scale(in %x: f32[48], out %t: f32[48]) part %p of 3 {
           parfor %i in %p * 16..%p * 16 + 16 step 8 { store %t[%i] = load8 %x[%i] * splat8(2.0) }
         }",
        "kernel sums(in %t: f32[48], in %b: f32[48], in %c: f32[48], in %d: f32[48], in %e: f32[48], out %y: f32[48],
                     out %z: f32[6]) part %p of 3 {
           parfor %i in select(%p == 0, 0, select(%p == 1, 3, 4))..select(%p == 0, 3, select(%p == 1, 4, 6)) {
             var %s = splat8(0.0)
             %s = load8 %t[%i * 8] + load8 %b[%i * 8]
             %s = %s + load8 %c[%i * 8]
             %s = %s + load8 %d[%i * 8]
             %s = %s + load8 %e[%i * 8]
             store %y[%i * 8] = %s
             store %z[%i] = reduce_add(%s)
           }
         }",
    ];
    let mut p = Program { name: "trio".into(), ..Program::default() };
    let io =
        |name: &str, n: usize| tenon_kernel::Io { name: name.into(), fact: tenon_base::Fact::of(DType::F32, &[n]) };
    p.inputs = vec![io("x", 48)];
    p.outputs = vec![io("y", 48), io("z", 6)];
    p.kernels = kernels.iter().map(|k| Kernel::parse(k).expect("the kernel reads")).collect();
    use tenon_kernel::BufferKind::{Arena, Input, Output};
    let x = p.add_buffer("x", DType::F32, 48, Input(0));
    let t = p.add_buffer("t", DType::F32, 48, Arena(Some(0)));
    let y = p.add_buffer("y", DType::F32, 48, Output(0));
    let z = p.add_buffer("z", DType::F32, 6, Output(1));
    p.arena_bytes = 192;
    for (kernel, args) in [(0, vec![x, t]), (1, vec![t, x, x, t, x, y, z])] {
        p.push_call(tenon_kernel::Call { kernel, args, loc: tenon_base::Loc::default() });
    }
    p
}

fn input() -> Tensor {
    Tensor::from_f64(DType::F32, &[48], &(0..48).map(|i| f64::from(i) - 20.5).collect::<Vec<_>>())
}

/// What the interpreter computes, as the programs below print it.
fn expected(p: &Program) -> String {
    let out = run_program(p, &[input()]).expect("it runs");
    out.iter().flat_map(Tensor::to_f64).map(|v| format!("{v:.3}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn objects_of_every_system_need_no_symbol() {
    let mut p = program();
    for (short, _) in tenon_target::triples() {
        let target = Target::parse(short).expect("a triple");
        p.fused_multiply_add = false;
        let o = compile_object(&p, &target).unwrap_or_else(|e| panic!("{short}: {e}"));
        assert_eq!(undefined_symbols(&o.bytes).expect("it reads"), tenon_abi::ALLOWED_UNDEFINED, "{short}");
    }
}

/// Runs the parts in threads of their own, the last one first.
unsafe extern "C" fn in_threads(context: *mut c_void, count: usize, work: Work, data: *mut c_void) {
    // SAFETY: the tests pass a counter.
    let calls = unsafe { &*context.cast::<AtomicUsize>() };
    calls.fetch_add(count, Ordering::Relaxed);
    let data = data.expose_provenance();
    std::thread::scope(|s| {
        for k in (0..count).rev() {
            // SAFETY: each part is run once, and all have ended when the scope does.
            s.spawn(move || unsafe { work(std::ptr::with_exposed_provenance_mut(data), k) });
        }
    });
}

#[test]
fn the_hook_is_called_once_a_part_and_changes_nothing() {
    let host = tenon_target::host().expect("a known machine");
    let mut p = program();
    // On x86-64 both code generators.
    let general = Target::parse("x86-64-v2").ok().filter(|t| t.arch == host.arch);
    for target in general.into_iter().chain([host]) {
        p.fused_multiply_add = target.has_fma();
        let jit = Jit::new(&p, &target).expect("it compiles");
        let x = input();
        let mut serial = [vec![0u8; 192], vec![0u8; 24]];
        let [y, z] = &mut serial;
        jit.run(&[x.bytes()], &mut [y, z], &mut jit.arena()).expect("it runs");
        let expected: Vec<Vec<u8>> =
            run_program(&p, std::slice::from_ref(&x)).expect("it runs").iter().map(|t| t.bytes().to_vec()).collect();
        assert_eq!(serial.to_vec(), expected);

        let calls = AtomicUsize::new(0);
        let context = (&raw const calls).cast_mut().cast();
        let env = Env { parallel_for: Some(in_threads), context, ..Env::SERIAL };
        // An environment of a version before there were hooks: the rest is not read.
        let old = Env { size: 8, ..env };
        for (env, parts) in [(env, 6), (old, 6), (Env::SERIAL, 6)] {
            let mut out = [vec![0u8; 192], vec![0u8; 24]];
            let [y, z] = &mut out;
            // SAFETY: the hook runs every part once, in threads that end before it does.
            unsafe { jit.run_with(&[x.bytes()], &mut [y, z], &mut jit.arena(), &env) }.expect("it runs");
            assert_eq!(out.to_vec(), expected);
            assert_eq!(calls.load(Ordering::Relaxed), parts, "the first environment has the hook, no other");
        }
    }
}

const MAIN_C: &str = r#"
#include "trio.h"
#include <stdio.h>
static _Alignas(64) unsigned char arena[TRIO_ARENA_BYTES];
static void backwards(void *context, size_t count, void (*work)(void *data, size_t index), void *data) {
    while (count > 0) { count--; work(data, count); ++*(int *)context; }
}
int main(void) {
    float x[48], y[48], z[6];
    int calls = 0;
    trio_inputs in = {x};
    trio_outputs out = {y, z};
    tenon_env env = {sizeof env, backwards, &calls};
    for (int i = 0; i < 48; i++) x[i] = (float)i - 20.5f;
    if (TRIO_THREADS != 3) return 1;
    if (trio_run(&in, &out, arena, NULL) != TENON_OK || calls != 0) return 2;
    for (int i = 0; i < 48; i++) y[i] = 0;
    if (trio_run(&in, &out, arena, &env) != TENON_OK || calls != 6) return 3;
    for (int i = 0; i < 48; i++) printf("%.3f ", y[i]);
    for (int i = 0; i < 6; i++) printf("%.3f%s", z[i], i < 5 ? " " : "");
    return 0;
}
"#;

const MAIN_RS: &str = r#"
mod trio { include!("trio.rs"); }
fn main() {
    let x: [f32; 48] = std::array::from_fn(|i| i as f32 - 20.5);
    let pool = tenon_runtime::Pool::new(trio::THREADS);
    let mut model = Box::new(trio::Trio::new());
    let serial = model.run(&x).unwrap();
    for _ in 0..100 {
        assert_eq!(model.run_on(&pool, &x).unwrap(), serial);
    }
    assert_eq!(model.run_on(&tenon_runtime::Serial, &x).unwrap(), serial);
    let all: Vec<String> = serial.y.iter().chain(&serial.z).map(|v| format!("{v:.3}")).collect();
    print!("{}", all.join(" "));
}
"#;

fn quiet(command: &mut Command) -> String {
    let out = command.output().expect("it starts");
    let (o, e) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{command:?}:\n{o}{e}");
    o.into_owned()
}

fn write(dir: &Path, p: &Program, target: &Target) {
    let files = [("trio.h", c_header(p, target)), ("trio.rs", rust_module(p, target))];
    files.iter().for_each(|(n, text)| std::fs::write(dir.join(n), text).expect("it is written"));
    std::fs::write(dir.join("trio.o"), compile_object(p, target).expect("it compiles").bytes).expect("it is written");
    std::fs::write(dir.join("main.c"), MAIN_C).expect("it is written");
    std::fs::write(dir.join("main.rs"), MAIN_RS).expect("it is written");
}

#[cfg(unix)]
#[test]
fn a_c_program_runs_parts_as_it_likes() {
    let dir = tempfile::tempdir().expect("a folder");
    let target = tenon_target::host().expect("a known machine");
    let mut p = program();
    p.fused_multiply_add = target.has_fma();
    write(dir.path(), &p, &target);
    for extra in [&["-pie"][..], &["-no-pie"]] {
        let flags = ["-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror", "main.c", "trio.o", "-o", "main"];
        quiet(Command::new("cc").current_dir(dir.path()).args(flags).args(extra));
        assert_eq!(quiet(&mut Command::new(dir.path().join("main"))), expected(&p));
    }
}

#[cfg(unix)]
#[test]
fn a_rust_program_runs_parts_on_the_pool() {
    let dir = tempfile::tempdir().expect("a folder");
    let target = tenon_target::host().expect("a known machine");
    let mut p = program();
    p.fused_multiply_add = target.has_fma();
    write(dir.path(), &p, &target);
    let stub = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../runtime-stub");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let library = |name: &str, root: &str, extra: &[&str]| {
        let fixed = ["--edition", "2024", "--crate-type", "rlib", "-O", "-L", ".", "--crate-name", name];
        quiet(Command::new(&rustc).current_dir(dir.path()).args(fixed).args(extra).arg(stub.join(root)));
    };
    library("tenon_abi", "abi/src/lib.rs", &[]);
    library("tenon_runtime", "src/lib.rs", &["--cfg", "feature=\"std\"", "--extern", "tenon_abi=libtenon_abi.rlib"]);
    let flags =
        ["--edition", "2024", "-L", ".", "--extern", "tenon_runtime=libtenon_runtime.rlib", "-C", "link-arg=trio.o"];
    quiet(Command::new(&rustc).current_dir(dir.path()).args(flags).arg("main.rs"));
    assert_eq!(quiet(&mut Command::new(dir.path().join("main"))), expected(&p));
}

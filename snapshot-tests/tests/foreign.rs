//! Objects of other machines, linked by a cross compiler and run by an emulator: the same bits as the kernel interpreter's, and
//! for integers the same on every machine.
//!
//! Needs `gcc-aarch64-linux-gnu gcc-riscv64-linux-gnu qemu-user` (Debian's names); says so and passes where they are missing.

use std::process::Command;
use std::time::Duration;
use tenon::engine::{Engine, Session};
use tenon::profile::Profile;
use tenon::{Compiler, Math, Options, Target, Tensor};
use tenon_ir::Graph;
use tenon_snapshot_tests::places::repository;

fn graph(file: &str) -> Graph {
    let text = std::fs::read_to_string(repository().join("snapshot-tests/corpus").join(file)).expect("it is there");
    Graph::parse(&text).expect("it reads")
}

/// What `engine` makes of the graph in `file`.
fn outputs(file: &str, target: &Target, engine: Engine) -> Vec<Tensor> {
    let mut options = Options::new(target.clone());
    options.math = Math::Strict;
    let compiled = Compiler::new(options).compile_graph(graph(file)).expect("it compiles");
    let session = Session::new(engine, &compiled).unwrap_or_else(|e| panic!("{file} for {target}: {e}"));
    session.run(&compiled.example_inputs(7)).unwrap_or_else(|e| panic!("{file} for {target}: {e}"))
}

fn installed(target: &Target) -> bool {
    let there = |program: String| Command::new(&program).arg("--version").output().is_ok_and(|o| o.status.success());
    there(format!("{}-linux-gnu-gcc", target.arch)) && there(format!("qemu-{}", target.arch))
}

#[test]
fn objects_of_other_machines_give_the_same_bits() {
    let host = tenon::target::host().expect("this machine is known");
    for name in ["aarch64-linux", "aarch64-linux/armv8.6-a", "riscv64-linux", "riscv64-linux/rva22u64", "rv64gcv256"]
    {
        let target = Target::parse(name).expect("it is a target");
        if !installed(&target) {
            println!("skipped: no cross compiler or emulator for {target}");
            continue;
        }
        for file in ["codegen/matmul.tir", "codegen/relu.tir", "codegen/softmax.tir", "eval/integers.tir"] {
            // qemu before 8 stops at a conversion of float vectors, which the exponential needs.
            if file.contains("softmax") && target.vector_bytes > 0 && target.arch.name() == "riscv64" {
                continue;
            }
            let found = outputs(file, &target, Engine::Object);
            assert_eq!(found, outputs(file, &target, Engine::Kernel), "{file} for {target}");
            if file.contains("integers") {
                assert_eq!(found, outputs(file, &host, Engine::Jit), "{file} for {target} and here");
            }
        }
    }
}

#[test]
fn code_that_this_machine_cannot_run_is_refused() {
    let host = tenon::target::host().expect("this machine is known");
    let target = Target::parse("x86_64-linux/zen5").expect("it is a target");
    if host.arch != target.arch || target.missing_on(&host).is_empty() {
        return;
    }
    let compiled = Compiler::new(Options::new(target)).compile_graph(graph("codegen/relu.tir")).expect("it compiles");
    for engine in [Engine::Jit, Engine::Object] {
        let e = Session::new(engine, &compiled).expect_err("this machine lacks features");
        assert!(e.is_users() && e.to_string().contains("has no"), "{engine}: {e}");
    }
    let e =
        Profile::measure(&compiled, &compiled.example_inputs(1), Duration::ZERO).expect_err("nor does it profile");
    assert!(e.is_users() && e.to_string().contains("has no"), "{e}");
    let macos = Compiler::new(Options::new(Target::parse("aarch64-macos").expect("it is a target")));
    let compiled = macos.compile_graph(graph("codegen/relu.tir")).expect("it compiles");
    let e = Session::new(Engine::Object, &compiled).expect_err("nothing here runs it").to_string();
    assert!(e.contains("for Linux"), "{e}");
}

//! Code with AVX-512, which this machine may lack, gives the interpreter's bits on an emulated CPU.
//!
//! `TENON_EMULATOR_x86_64="python3 tools/emulate.py --cpu sapphire_rapids"` names one; without it this says so and passes.
#![cfg(target_arch = "x86_64")]

#[path = "../../../ir/kernel/tests/common/mod.rs"]
mod common;
mod support;

use common::{Stream, decisions};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use support::cases::{cases, kernel};
use support::{emulated, interpreted, levels, memories, unequal};
use tenon_base::DType;
use tenon_kernel::{Kernel, Memory, Stage, verify_kernel};
use tenon_target::{Feature, Target};
use tenon_wide::{Code, Unsupported, compile};

const LANES: [u16; 8] = [1, 3, 4, 7, 8, 16, 20, 32];

/// A kernel with its code, its inputs, and what is to come of them.
struct Case {
    name: String,
    kernel: Kernel,
    code: Code,
    inputs: Vec<Memory>,
    expected: Vec<Memory>,
}

/// Runs all of them in one program; says which elements are wrong.
fn check(cases: &[Case]) {
    let Some(emulator) = emulated::emulator() else {
        println!("skipped: TENON_EMULATOR_x86_64 names no emulator");
        return;
    };
    let programs: Vec<(&Code, &[Memory])> = cases.iter().map(|c| (&c.code, c.inputs.as_slice())).collect();
    let found = emulated::run(&emulator, &programs);
    let mut wrong = vec![];
    for (c, found) in cases.iter().zip(&found) {
        if let Some((buf, i, e, f)) = unequal(&c.kernel, &c.expected, found).first() {
            wrong.push(format!("{}: buffer {buf}, element {i}: expected {e}, found {f}", c.name));
        }
    }
    println!("{} kernels ran", cases.len());
    assert!(
        wrong.is_empty(),
        "{} of {} wrong:\n{}",
        wrong.len(),
        cases.len(),
        wrong[..wrong.len().min(60)].join("\n")
    );
}

/// The levels with AVX-512.
fn with_avx512() -> Vec<Target> {
    levels().into_iter().filter(|t| t.has(Feature::Avx512f)).collect()
}

#[test]
fn every_operator_gives_the_interpreters_bits() {
    if emulated::emulator().is_none() {
        return check(&[]);
    }
    for target in with_avx512() {
        let mut all = vec![];
        for d in DType::ALL {
            for lanes in LANES {
                let blocks = (100 / usize::from(lanes)).max(3);
                let mut cases = cases(d, lanes);
                cases.retain(|c| !c.bf16 || target.has_bf16_dot_product());
                for group in cases.chunks(3) {
                    let kernel = kernel(d, lanes, blocks, group);
                    let names: Vec<_> = group.iter().map(|c| c.name.as_str()).collect();
                    let name = format!("{target} {d}x{lanes} {names:?}");
                    let code = compile(&kernel, &target).unwrap_or_else(|e| panic!("{name}: {e}"));
                    let inputs = memories(&kernel, 1);
                    if let Some(expected) = interpreted(&kernel, &inputs) {
                        all.push(Case { name, kernel, code, inputs, expected });
                    }
                }
            }
        }
        check(&all);
    }
}

#[test]
fn random_kernels_give_the_interpreters_bits() {
    if emulated::emulator().is_none() {
        return check(&[]);
    }
    let mut runner = TestRunner::deterministic();
    let mut draw = |n| decisions(n).new_tree(&mut runner).expect("it draws").current();
    let drawn: Vec<_> = (0..1500).map(|_| (draw(900), draw(200))).collect();
    for target in with_avx512() {
        let mut all = vec![];
        for (i, (data, values)) in drawn.iter().enumerate() {
            let kernel = common::kernel(Stream::new(data.clone()), true);
            if verify_kernel(&kernel, Stage::Scheduled).is_err() {
                continue;
            }
            let name = format!("{target} {i}\n{kernel}");
            let code = match compile(&kernel, &target) {
                Ok(code) => code,
                Err(Unsupported::Size(_)) => continue,
                Err(e) => panic!("{name}: {e}"),
            };
            let inputs = common::memories(&mut Stream::new(values.clone()));
            if let Some(expected) = interpreted(&kernel, &inputs) {
                all.push(Case { name, kernel, code, inputs, expected });
            }
        }
        check(&all);
    }
}

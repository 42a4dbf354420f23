//! Text of a program: what reads, prints and reads back as the same program; the verifier takes what it gets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenon::kernel::Program;
use tenon::kernel::text::{PrintOptions, print_program};
use tenon::kernel::verify::{Stage, verify_program};

fuzz_target!(|text: &str| {
    let Ok(program) = Program::parse(text) else { return };
    let printed = print_program(&program, &PrintOptions { longest_const: None });
    assert_eq!(Program::parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}")), program);
    let _ = verify_program(&program, Stage::Structured);
    let _ = verify_program(&program, Stage::Scheduled);
});

//! Random scheduled kernels: the interpreter's bits, and code for every level.
#![cfg(target_arch = "x86_64")]

#[path = "../../../ir/kernel/tests/common/mod.rs"]
mod common;
mod support;

use common::{Stream, decisions, kernel, memories};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tenon_kernel::{Stage, verify_kernel};
use tenon_wide::compile;

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 1000,
        rng_seed: RngSeed::Fixed(0),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn code_gives_the_interpreters_bits(data in decisions(900), values in decisions(200)) {
        let k = kernel(Stream::new(data), true);
        prop_assume!(verify_kernel(&k, Stage::Scheduled).is_ok());
        for target in support::levels() {
            let code = compile(&k, &target);
            prop_assert!(code.is_ok(), "{target}: {code:?}\n{k}");
        }
        for target in support::runnable() {
            let code = compile(&k, &target).map_err(|e| TestCaseError::fail(format!("{target}: {e}")))?;
            let wrong = support::differences(&k, &code, &memories(&mut Stream::new(values.clone())));
            prop_assert!(wrong.is_empty(), "{target}: {wrong:?}\n{k}");
        }
    }
}

//! Text of a kernel: what reads, prints and reads back as the same kernel; the verifier and the simplifier take what they get.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenon::kernel::simplify::simplify_kernel;
use tenon::kernel::verify::{Stage, verify_kernel};
use tenon::kernel::{Kernel, work};

fuzz_target!(|text: &str| {
    let Ok(kernel) = Kernel::parse(text) else { return };
    let printed = kernel.to_string();
    assert_eq!(Kernel::parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}")), kernel);
    let _ = verify_kernel(&kernel, Stage::Scheduled);
    if verify_kernel(&kernel, Stage::Structured).is_ok() {
        let _ = work::work(&kernel);
        let simple = simplify_kernel(kernel);
        verify_kernel(&simple, Stage::Structured).unwrap_or_else(|e| panic!("{e:?}\n{simple}"));
    }
});

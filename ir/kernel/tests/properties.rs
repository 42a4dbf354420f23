//! What holds of every kernel.

mod common;

use common::{Stream, decisions, kernel, memories};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tenon_base::Loc;
use tenon_kernel::interp::Options;
use tenon_kernel::{
    BufferId, BufferKind, Call, InterpError, Kernel, Program, Stage, run_kernel, simplify_kernel, verify_kernel,
};

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 500,
        // Every run tries the same kernels; a search for more sets other seeds by hand.
        rng_seed: RngSeed::Fixed(0),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    /// Text reads back as what was printed, and prints as what was read.
    #[test]
    fn text_round_trips(data in decisions(600), scheduled: bool) {
        let k = kernel(Stream::new(data), scheduled);
        let text = k.to_string();
        let back = Kernel::parse(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        prop_assert_eq!(&back, &k);
        prop_assert_eq!(back.to_string(), text);
    }

    /// Nothing but bounds keeps a generated kernel from verifying, and what verifies runs without an access out of
    /// bounds.
    #[test]
    fn verified_kernels_stay_in_bounds(data in decisions(900), values in decisions(200), scheduled: bool) {
        let k = kernel(Stream::new(data), scheduled);
        let stage = if scheduled { Stage::Scheduled } else { Stage::Structured };
        let verified = verify_kernel(&k, stage);
        if let Err(errors) = &verified {
            for e in errors {
                prop_assert!(e.message.starts_with("an access"), "{}\n{}", e.message, k);
            }
        }
        let mut buffers = memories(&mut Stream::new(values));
        let options = Options { max_steps: 100_000, ..Options::default() };
        match run_kernel(&k, &mut buffers, &options) {
            Ok(()) | Err(InterpError::Steps { .. }) => {}
            Err(e @ InterpError::Bounds { .. }) => prop_assert!(verified.is_err(), "{e}\n{k}"),
            Err(e) => prop_assert!(false, "{e}\n{k}"),
        }
    }

    /// Simplified kernels verify and compute the same bits.
    #[test]
    fn simplification_keeps_results(data in decisions(900), values in decisions(200)) {
        let k = kernel(Stream::new(data), false);
        if verify_kernel(&k, Stage::Structured).is_ok() {
            let simple = simplify_kernel(k.clone());
            let verified = verify_kernel(&simple, Stage::Structured);
            prop_assert!(verified.is_ok(), "{verified:?}\n{k}\n{simple}");
            let options = Options { max_steps: 100_000, ..Options::default() };
            let mut expected = memories(&mut Stream::new(values));
            let mut found = expected.clone();
            let outcome = run_kernel(&k, &mut expected, &options);
            if outcome.is_ok() {
                prop_assert_eq!(run_kernel(&simple, &mut found, &options), Ok(()));
                prop_assert_eq!(found, expected, "{}\n{}", k, simple);
            }
        }
    }

    /// Programs round-trip as well, and any text at all is read or refused.
    #[test]
    fn mutated_text_never_panics(
        data in decisions(300),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..6u8, any::<prop::sample::Index>()), 1..8),
    ) {
        let mut k = kernel(Stream::new(data), false);
        k.name = "näme".into();
        let mut p = Program { name: "p".into(), ..Program::default() };
        let t = tenon_base::Tensor::new(&[3], &[1.5f32, -0.0, 1e30]);
        p.add_buffer("w", tenon_base::DType::F32, 3, BufferKind::Const(t));
        p.kernels.push(k);
        p.push_call(Call { kernel: 0, args: vec![BufferId(0)], loc: Loc::new("a\u{1}\"b") });
        let text = p.to_string();
        prop_assert_eq!(Program::parse(&text), Ok(p));
        let mut chars: Vec<char> = text.chars().collect();
        let alphabet: Vec<char> = "%\"(){}[]0123456789.-+*/<>=&|^ \nabefx_é\\u".chars().collect();
        for (at, what, other) in edits {
            if chars.is_empty() {
                break;
            }
            let i = at.index(chars.len());
            match what {
                0 => { chars.remove(i); }
                1 => chars.insert(i, alphabet[other.index(alphabet.len())]),
                2 => chars[i] = alphabet[other.index(alphabet.len())],
                3 => chars.truncate(i),
                4 => { let j = other.index(chars.len()); chars.swap(i, j); }
                _ => {
                    let j = other.index(chars.len());
                    let part: Vec<char> = chars[i.min(j)..i.max(j)].iter().take(40).copied().collect();
                    chars.splice(i..i, part);
                }
            }
        }
        let text: String = chars.into_iter().collect();
        match Program::parse(&text) {
            Ok(p) => {
                // What can be read can be verified and printed.
                let _ = tenon_kernel::verify_program(&p, Stage::Structured);
                let _ = p.to_string();
            }
            Err(e) => prop_assert!(!e.to_string().is_empty() && e.line >= 1 && e.column >= 1),
        }
    }
}

//! Every operator on every dtype at several lane counts: on this machine the same bits as the interpreter at every
//! level it has, on the other targets code without undefined symbols.

mod support;

use support::cases::{cases, kernel};
use support::{differences, foreign, program, run, runnable, values};
use tenon_base::DType;
use tenon_cranelift::{Jit, compile_object, undefined_symbols};
use tenon_kernel::interp::run_program;

const LANES: [u16; 8] = [1, 2, 3, 4, 7, 8, 16, 32];
#[test]
fn every_operator_gives_the_interpreters_bits() {
    let mut wrong = vec![];
    for target in runnable() {
        for d in DType::ALL {
            for lanes in LANES {
                let blocks = (600 / usize::from(lanes)).max(8);
                let n = blocks * usize::from(lanes);
                let cases = cases(d, lanes);
                let inputs = [values(d, n, 1), values(d, n, 2), values(d, n, 3), values(DType::Bool, n, 4)];
                // One kernel a few cases: a failure says which, and functions stay small.
                for group in cases.chunks(8) {
                    let p = program(kernel(d, lanes, blocks, group), target.has_fma());
                    let names = || group.iter().map(|c| c.name.as_str()).collect::<Vec<_>>();
                    let jit = match Jit::new(&p, &target) {
                        Ok(j) => j,
                        Err(e) => {
                            wrong.push(format!("{target} {d}x{lanes} {:?}: {e}", names()));
                            continue;
                        }
                    };
                    let expected = run_program(&p, &inputs).unwrap();
                    let mut seen = vec![];
                    for (k, i, e, f) in differences(&expected, &run(&jit, &p, &inputs)) {
                        if !seen.contains(&k) {
                            seen.push(k);
                            let at = |t: usize| {
                                tenon_base::Scalar::from_le_bytes(d, &inputs[t].bytes()[i * d.size()..][..d.size()])
                            };
                            wrong.push(format!(
                                "{target} {d}x{lanes} {}: element {i}: of {}, {}, {} expected {e}, found {f}",
                                group[k].name,
                                at(0),
                                at(1),
                                at(2)
                            ));
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(60)].join("\n"));
}

#[test]
fn every_operator_compiles_for_every_target_without_calls() {
    let mut wrong = vec![];
    let mut targets = foreign();
    targets.extend(
        ["x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4"].map(|t| tenon_target::Target::parse(t).unwrap()),
    );
    for target in targets {
        for d in DType::ALL {
            for lanes in [1, 3, 8, 32] {
                let cases = cases(d, lanes);
                for group in cases.chunks(8) {
                    let p = program(kernel(d, lanes, 4, group), target.has_fma());
                    match compile_object(&p, &target) {
                        Ok(o) => {
                            assert_eq!(undefined_symbols(&o.bytes).unwrap(), tenon_abi::ALLOWED_UNDEFINED, "{target}")
                        }
                        Err(e) => wrong.push(format!(
                            "{target} {d}x{lanes} {:?}: {e}",
                            group.iter().map(|c| c.name.as_str()).collect::<Vec<_>>()
                        )),
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
}

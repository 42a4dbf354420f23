//! Every operator on every dtype at several lane counts: the same bits as the interpreter on this machine, and code for
//! every level.
#![cfg(target_arch = "x86_64")]

mod support;

use support::cases::{cases, kernel};
use support::{differences, levels, memories, runnable};
use tenon_base::DType;
use tenon_wide::{Unsupported, compile};

const LANES: [u16; 10] = [1, 2, 3, 4, 5, 7, 8, 16, 20, 32];

#[test]
fn every_operator_gives_the_interpreters_bits() {
    let mut wrong = vec![];
    for target in runnable() {
        for d in DType::ALL {
            for lanes in LANES {
                let blocks = (300 / usize::from(lanes)).max(4);
                let mut cases = cases(d, lanes);
                cases.retain(|c| !c.bf16 || target.has_bf16_dot_product());
                for group in cases.chunks(3) {
                    let names = || group.iter().map(|c| c.name.as_str()).collect::<Vec<_>>();
                    let k = kernel(d, lanes, blocks, group);
                    let code = match compile(&k, &target) {
                        Ok(c) => c,
                        Err(e) => {
                            wrong.push(format!("{target} {d}x{lanes} {:?}: {e}", names()));
                            continue;
                        }
                    };
                    let inputs = memories(&k, 1);
                    let mut seen = vec![];
                    for (buf, i, e, f) in differences(&k, &code, &inputs) {
                        if !seen.contains(&buf) {
                            seen.push(buf);
                            let name = &group[buf - 4].name;
                            let at = |t: usize| {
                                tenon_base::Scalar::from_le_bytes(d, &inputs[t].bytes[i * d.size()..][..d.size()])
                            };
                            wrong.push(format!(
                                "{target} {d}x{lanes} {name}: element {i}: of {}, {}, {} expected {e}, found {f}",
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
fn every_operator_compiles_for_every_level() {
    let mut wrong = vec![];
    for target in levels() {
        for d in DType::ALL {
            for lanes in [1, 3, 20, 64] {
                let mut cases = cases(d, lanes);
                cases.retain(|c| !c.bf16 || target.has_bf16_dot_product());
                for group in cases.chunks(6) {
                    // Long vectors of wide elements may not fit; that is said as such.
                    if let Err(e) = compile(&kernel(d, lanes, 2, group), &target)
                        && !matches!(e, Unsupported::Size(_))
                    {
                        let names: Vec<_> = group.iter().map(|c| c.name.as_str()).collect();
                        wrong.push(format!("{target} {d}x{lanes} {names:?}: {e}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
}

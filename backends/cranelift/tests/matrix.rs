//! Every operator on every dtype at several lane counts: on this machine the same bits as the interpreter at every
//! level it has, on the other targets code without undefined symbols.

mod support;

use support::cases::{cases, kernel};
use support::{differences, foreign, program, run, runnable, values};
use tenon_base::DType;
use tenon_cranelift::{Jit, compile_object, undefined_symbols};
use tenon_kernel::Kernel;
use tenon_kernel::interp::run_program;

const LANES: [u16; 8] = [1, 2, 3, 4, 7, 8, 16, 32];
#[test]
fn every_operator_gives_the_interpreters_bits() {
    let mut wrong = vec![];
    let roundings = runnable().into_iter().flat_map(|t| [false, true].map(|flush| (t.clone(), flush)));
    for (target, flush) in roundings.filter(|(t, flush)| !flush || t.flushes_to_zero()) {
        for d in DType::ALL.into_iter().filter(|d| !flush || d.is_float()) {
            for lanes in LANES {
                let blocks = (600 / usize::from(lanes)).max(8);
                let n = blocks * usize::from(lanes);
                let cases = cases(d, lanes);
                let inputs = [values(d, n, 1), values(d, n, 2), values(d, n, 3), values(DType::Bool, n, 4)];
                // One kernel a few cases: a failure says which, and functions stay small.
                for group in cases.chunks(8) {
                    let mut p = program(kernel(d, lanes, blocks, group), target.has_fma());
                    p.flush_to_zero = flush;
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
fn products_of_tiles_give_the_interpreters_bits() {
    for target in runnable() {
        use DType::{F32, I8, I32, U8, U16};
        for (x, w, sums, group) in [(U8, I8, I32, 4), (I8, I8, I32, 4), (U16, U16, F32, 2)] {
            let run_of = 21 * group;
            let (of_x, of_w) = (7 * run_of, 2 * 16 * run_of);
            let text = format!(
                "kernel k(in %x: {x}[{of_x}], in %w: {w}[{of_w}], out %y: {sums}[192]) {{
                   tiles %y[0] = 2 * 3 rows, 2 * 16 columns, 10 groups reduce %r in 0..2 {{
                     load %x[%r * {}], {run_of}, {}
                     load %w[%r * {}], {}
                   }}
                 }}",
                10 * group,
                4 * run_of,
                16 * 10 * group,
                16 * run_of,
            );
            let k = Kernel::parse(&text).unwrap_or_else(|e| panic!("{e}"));
            let p = program(k, target.has_fma());
            let inputs = [values(x, of_x, 1), values(w, of_w, 2)];
            let jit = Jit::new(&p, &target).unwrap_or_else(|e| panic!("{target}: {e}"));
            let expected = run_program(&p, &inputs).unwrap();
            let wrong = differences(&expected, &run(&jit, &p, &inputs));
            assert!(wrong.is_empty(), "{target} {x} {w}: {:?}", &wrong[..wrong.len().min(5)]);
        }
    }
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

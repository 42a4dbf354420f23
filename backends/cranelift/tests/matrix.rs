//! Every operator on every dtype at several lane counts: on this machine the same bits as the interpreter at every
//! level it has, on the other targets code without undefined symbols.

mod support;

use support::{differences, foreign, program, run, runnable, values};
use tenon_base::DType;
use tenon_cranelift::{Jit, compile_object, undefined_symbols};
use tenon_kernel::interp::run_program;
use tenon_kernel::{Access, BinOp, CmpOp, Expr, Kernel, KernelBuilder, UnOp};

const LANES: [u16; 8] = [1, 2, 3, 4, 7, 8, 16, 32];
const UNARY: [UnOp; 8] =
    [UnOp::Neg, UnOp::Abs, UnOp::Sqrt, UnOp::Ceil, UnOp::Floor, UnOp::Trunc, UnOp::Nearest, UnOp::Not];
const BINARY: [BinOp; 12] = [
    BinOp::Add,
    BinOp::Sub,
    BinOp::Mul,
    BinOp::Div,
    BinOp::Rem,
    BinOp::Min,
    BinOp::Max,
    BinOp::And,
    BinOp::Or,
    BinOp::Xor,
    BinOp::Shl,
    BinOp::Shr,
];
const COMPARE: [CmpOp; 6] = [CmpOp::Eq, CmpOp::Ne, CmpOp::Lt, CmpOp::Le, CmpOp::Gt, CmpOp::Ge];

/// An expression of vectors `a`, `b`, `c` of the dtype and a mask `m`, with a name.
struct Case {
    name: String,
    expr: fn(Operands<'_>, usize) -> Expr,
    arg: usize,
}

#[derive(Clone, Copy)]
struct Operands<'a> {
    a: &'a Expr,
    b: &'a Expr,
    c: &'a Expr,
    m: &'a Expr,
    dtype: DType,
    lanes: u16,
}

fn cases(d: DType, lanes: u16) -> Vec<Case> {
    let mut out = vec![];
    let mut push =
        |name: String, arg: usize, expr: fn(Operands<'_>, usize) -> Expr| out.push(Case { name, expr, arg });
    let float = matches!(d, DType::F32 | DType::F64);
    for (i, op) in UNARY.iter().enumerate() {
        let ok = match op {
            UnOp::Neg | UnOp::Abs => float || d.is_int(),
            UnOp::Not => d.is_int() || d == DType::Bool,
            _ => float,
        };
        if ok {
            push(format!("{op:?}"), i, |o, i| o.a.clone().unary(UNARY[i]));
        }
    }
    let binary = |op: BinOp| match op {
        BinOp::Add | BinOp::Sub | BinOp::Mul | BinOp::Div | BinOp::Min | BinOp::Max => float || d.is_int(),
        BinOp::And | BinOp::Or | BinOp::Xor => d.is_int() || d == DType::Bool,
        BinOp::Rem | BinOp::Shl | BinOp::Shr => d.is_int(),
    };
    for (i, op) in BINARY.iter().enumerate().filter(|(_, op)| binary(**op)) {
        push(format!("{op:?}"), i, |o, i| o.a.clone().binary(BINARY[i], o.b.clone()));
        if matches!(op, BinOp::Shl | BinOp::Shr | BinOp::Div | BinOp::Rem) {
            push(format!("{op:?} by a splat"), i, |o, i| {
                o.a.clone().binary(BINARY[i], Expr::constant(o.dtype, 5.0).splat(o.lanes))
            });
        }
        let folds = matches!(op, BinOp::Add | BinOp::Mul | BinOp::Min | BinOp::Max | BinOp::And | BinOp::Or);
        if folds && lanes.is_power_of_two() {
            push(format!("Reduce {op:?}"), i, |o, i| Expr::Reduce(BINARY[i], Box::new(o.a.clone())).splat(o.lanes));
        }
    }
    for (i, op) in COMPARE.iter().enumerate() {
        if float || d.is_int() || (d == DType::Bool && i < 2) {
            push(format!("{op:?}"), i, |o, i| o.a.clone().compare(COMPARE[i], o.b.clone()));
            push(format!("Select {op:?}"), i, |o, i| {
                o.a.clone().compare(COMPARE[i], o.b.clone()).select(o.b.clone(), o.c.clone())
            });
        }
    }
    push("Select".into(), 0, |o, _| o.m.clone().select(o.a.clone(), o.b.clone()));
    for (i, to) in DType::ALL.iter().enumerate() {
        push(format!("Cast {to}"), i, |o, i| o.a.clone().cast(DType::ALL[i]));
        if to.size() == d.size() && *to != DType::Bool && d != DType::Bool {
            push(format!("Bitcast {to}"), i, |o, i| o.a.clone().bitcast(DType::ALL[i]));
        }
        // A mask made at one width, used at another.
        if *to != DType::F16 && (float || d.is_int()) {
            push(format!("Select {to} by a comparison"), i, |o, i| {
                let to = DType::ALL[i];
                o.a.clone().compare(CmpOp::Lt, o.b.clone()).select(o.a.clone().cast(to), o.b.clone().cast(to))
            });
        }
    }
    if float {
        push("Fma".into(), 0, |o, _| Expr::fma(o.a.clone(), o.b.clone(), o.c.clone()));
    }
    push("Splat of Extract".into(), 0, |o, _| Expr::Extract(Box::new(o.a.clone()), o.lanes - 1).splat(o.lanes));
    push("Lanes".into(), 0, |o, _| {
        Expr::Lanes((0..o.lanes).rev().map(|i| Expr::Extract(Box::new(o.a.clone()), i)).collect())
    });
    out
}

/// A kernel that evaluates `cases` on blocks of `lanes` elements, each case into a buffer of its own.
fn kernel(d: DType, lanes: u16, blocks: usize, cases: &[Case]) -> Kernel {
    let n = blocks * usize::from(lanes);
    let mut k = KernelBuilder::new("matrix");
    let [a, b, c] = ["a", "b", "c"].map(|x| k.buffer(x, d, n, Access::In));
    let m = k.buffer("m", DType::Bool, n, Access::In);
    k.parfor("i", blocks, |k, i| {
        let at = i * i64::from(lanes);
        let load = |buf| Expr::Load { buf, index: Box::new(at.clone()), lanes };
        let [a, b, c, m] = [a, b, c, m].map(load);
        let [a, b, c, m] = [k.bind("va", a), k.bind("vb", b), k.bind("vc", c), k.bind("vm", m)];
        for (j, case) in cases.iter().enumerate() {
            let e = (case.expr)(Operands { a: &a, b: &b, c: &c, m: &m, dtype: d, lanes }, case.arg);
            let elem = k.kernel().type_of(&e).elem;
            let y = k.buffer(&format!("y{j}"), elem, n, Access::Out);
            k.store(y, at.clone(), e);
        }
    });
    k.finish()
}

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

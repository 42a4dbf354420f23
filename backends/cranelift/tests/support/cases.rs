//! Every operator on every dtype, as kernels.

use tenon_base::DType;
use tenon_kernel::{Access, BinOp, CmpOp, Expr, Kernel, KernelBuilder, UnOp};

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
pub(crate) struct Case {
    pub(crate) name: String,
    expr: fn(Operands<'_>, usize) -> Expr,
    arg: usize,
    /// It computes with `bf16`, which not every code generator does for every machine.
    pub(crate) bf16: bool,
}

/// What a case is made of.
#[derive(Clone, Copy)]
pub(crate) struct Operands<'a> {
    a: &'a Expr,
    b: &'a Expr,
    c: &'a Expr,
    m: &'a Expr,
    dtype: DType,
    lanes: u16,
}

/// The cases that are defined for `d`.
pub(crate) fn cases(d: DType, lanes: u16) -> Vec<Case> {
    let mut out = vec![];
    let mut push = |name: String, arg: usize, expr: fn(Operands<'_>, usize) -> Expr| {
        let bf16 = name.contains("bf16");
        out.push(Case { name, expr, arg, bf16 });
    };
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
    if d == DType::F32 {
        push("to_bf16".into(), 0, |o, _| o.a.clone().rounded_bf16());
    }
    if d == DType::F32 && lanes.is_multiple_of(2) {
        push("Dot of rounded bf16".into(), 0, |o, _| {
            let sums = Expr::Lanes((0..o.lanes / 2).map(|i| Expr::Extract(Box::new(o.c.clone()), i)).collect());
            Expr::Splat(o.lanes, Box::new(Expr::dot(o.a.clone().rounded_bf16(), o.b.clone().rounded_bf16(), sums)))
        });
    }
    if d == DType::U16 && lanes.is_multiple_of(2) {
        push("Dot of bf16".into(), 0, |o, _| {
            let sum = Expr::constant(DType::F32, -7.0).splat(o.lanes / 2);
            Expr::Splat(o.lanes, Box::new(Expr::dot(o.a.clone(), o.b.clone(), sum)))
        });
    }
    let byte = matches!(d, DType::U8 | DType::I8);
    if byte || d == DType::I16 {
        // As many lanes of sums as there are groups of operands; the rest of the block is filled by repetition.
        for (i, other) in [DType::U8, DType::I8, DType::I16].into_iter().enumerate().filter(|(_, o)| dots(d, *o)) {
            if lanes.is_multiple_of(if byte { 4 } else { 2 }) {
                push(format!("Dot with {other}"), i, |o, i| {
                    let other = [DType::U8, DType::I8, DType::I16][i];
                    let sums = o.lanes / if o.dtype == DType::I16 { 2 } else { 4 };
                    let sum = Expr::constant(DType::I32, -7.0).splat(sums);
                    let dot = Expr::dot(o.a.clone(), o.b.clone().bitcast(other), sum);
                    Expr::Splat(o.lanes, Box::new(dot))
                });
            }
        }
    }
    for (i, parts) in [2u16, 4].into_iter().enumerate() {
        if lanes > parts && lanes.is_multiple_of(parts) {
            push(format!("Splat of a vector of {parts}"), i, |o, i| {
                let part = (0..[2u16, 4][i]).map(|l| Expr::Extract(Box::new(o.a.clone()), l)).collect();
                Expr::Splat(o.lanes, Box::new(Expr::Lanes(part)))
            });
        }
    }
    if lanes > 2 {
        push("The first lanes".into(), 0, |o, _| {
            let some = (0..o.lanes - o.lanes / 3).map(|i| Expr::Extract(Box::new(o.a.clone()), i));
            Expr::Lanes(some.collect())
        });
    }
    push("Lanes of two in turns".into(), 0, |o, _| {
        let lane = |l: u16| [o.a, o.b].map(|x| Expr::Extract(Box::new(x.clone()), l));
        Expr::Lanes((0..o.lanes).flat_map(lane).collect())
    });
    if lanes.is_multiple_of(4) {
        // What transposes words: halves within four lanes, pairs, and groups of four lanes of both.
        const ORDERS: [[u16; 4]; 5] = [[0, 4, 1, 5], [2, 6, 3, 7], [0, 1, 4, 5], [2, 3, 6, 7], [1, 4, 6, 3]];
        for i in 0..ORDERS.len() {
            push(format!("Lanes of two within four {i}"), i, |o, i| {
                let lane = |l: u16| {
                    let at = ORDERS[i][usize::from(l % 4)];
                    Expr::Extract(Box::new(if at < 4 { o.a } else { o.b }.clone()), l / 4 * 4 + at % 4)
                };
                Expr::Lanes((0..o.lanes).map(lane).collect())
            });
        }
        for i in 0..4 {
            push(format!("Lanes of two, four at a time {i}"), i, |o, i| {
                let groups = o.lanes / 4;
                let lane = |l: u16| {
                    let group = match i {
                        0 => 2 * (l / 4),
                        1 => 2 * (l / 4) + 1,
                        2 => 2 * groups - 1 - l / 4,
                        _ => (l / 4) * 3 % (2 * groups),
                    };
                    let from = if group < groups { o.a } else { o.b };
                    Expr::Extract(Box::new(from.clone()), group % groups * 4 + l % 4)
                };
                Expr::Lanes((0..o.lanes).map(lane).collect())
            });
        }
    }
    if float && lanes.is_power_of_two() && lanes > 1 {
        for (i, op) in [BinOp::Add, BinOp::Mul].iter().enumerate() {
            push(format!("Lanes of eight folds by {op:?}"), i, |o, i| {
                let op = [BinOp::Add, BinOp::Mul][i];
                let both = |x: &Expr, y: &Expr| x.clone().binary(BinOp::Sub, y.clone());
                let (x, y, z) = (both(o.a, o.b), both(o.b, o.c), both(o.c, o.a));
                let (a, b, c) = (o.a.clone(), o.b.clone(), o.c.clone());
                let all = [a.clone(), b, x, c, y, a, z.clone(), z];
                Expr::Lanes(all.into_iter().map(|v| Expr::Reduce(op, Box::new(v))).collect())
            });
        }
    }
    push("Splat of Extract".into(), 0, |o, _| Expr::Extract(Box::new(o.a.clone()), o.lanes - 1).splat(o.lanes));
    push("Lanes".into(), 0, |o, _| {
        Expr::Lanes((0..o.lanes).rev().map(|i| Expr::Extract(Box::new(o.a.clone()), i)).collect())
    });
    out
}

/// Whether `Dot` is defined for elements of `a` and `b`.
fn dots(a: DType, b: DType) -> bool {
    tenon_kernel::verify::dot_group(a, b).is_some()
}

/// A kernel that evaluates `cases` on blocks of `lanes` elements, each case into a buffer of its own.
pub(crate) fn kernel(d: DType, lanes: u16, blocks: usize, cases: &[Case]) -> Kernel {
    let n = blocks * usize::from(lanes);
    let mut k = KernelBuilder::new("matrix");
    let [a, b, c] = ["a", "b", "c"].map(|x| k.buffer(x, d, n, Access::In));
    let m = k.buffer("m", DType::Bool, n, Access::In);
    k.parfor("i", blocks, |k, i| {
        let at = i.clone() * i64::from(lanes);
        let load = |buf| Expr::Load { buf, index: Box::new(at.clone()), lanes };
        let [a, b, c, m] = [a, b, c, m].map(load);
        let [a, b, c, m] = [k.bind("va", a), k.bind("vb", b), k.bind("vc", c), k.bind("vm", m)];
        for (j, case) in cases.iter().enumerate() {
            let e = (case.expr)(Operands { a: &a, b: &b, c: &c, m: &m, dtype: d, lanes }, case.arg);
            let ty = k.kernel().type_of(&e);
            let y = k.buffer(&format!("y{j}"), ty.elem, blocks * usize::from(ty.lanes), Access::Out);
            k.store(y, i.clone() * i64::from(ty.lanes), e);
        }
    });
    k.finish()
}

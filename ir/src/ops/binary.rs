//! Functions of two elements with broadcasting, without attributes: one row each in the table. Comparisons give `bool`.
//!
//! ONNX: Add, Sub, Mul, Div, Pow, Mod (by its `fmod`), PRelu, And, Or, Xor, BitShift, BitwiseAnd/Or/Xor, Equal, Less, LessOrEqual, Greater,
//! GreaterOrEqual; and Max, Min, Sum, Mean, which take any number of operands and become chains.

use super::family::{self, Takes, rows};
use super::util::map_broadcast;
use crate::op::{expect_operands, expect_same_dtype};
use crate::ops::*;
use tenon_base::Scalar;
use tenon_kernel::{BinOp, CmpOp, MathFn};

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Binary(&'static Row);

type Row = family::Row<fn(f64, f64) -> f64, fn(i128, i128) -> i128, fn(Expr, Expr, DType) -> Expr>;

fn bin(op: BinOp) -> impl Fn(Expr, Expr) -> Expr {
    move |a, b| a.binary(op, b)
}

/// The larger or smaller, NaN if either is: the operation gives `b` where `b` is NaN, so only `a` needs a test.
fn extreme(op: BinOp, a: Expr, b: Expr, d: DType) -> Expr {
    let best = a.clone().binary(op, b);
    if d.is_float() { a.clone().compare(CmpOp::Ne, a.clone()).select(a, best) } else { best }
}

/// The remainder of the truncated quotient, moved to the divisor's sign as ONNX `Mod` without `fmod` has it.
fn floor_mod(a: Expr, b: Expr, d: DType) -> Expr {
    let zero = || Expr::constant(d, 0.0);
    let r = if d.is_float() { Expr::Math(MathFn::Fmod, vec![a, b.clone()]) } else { a.binary(BinOp::Rem, b.clone()) };
    if d.is_unsigned_int() {
        return r;
    }
    let negative = |e: &Expr| e.clone().compare(CmpOp::Lt, zero());
    let differ = negative(&r).binary(BinOp::Xor, negative(&b));
    let moved = differ.select(r.clone() + b.clone(), r.clone());
    // A remainder of 0 has the divisor's sign, too, which only floats can tell.
    let none = if d.is_float() { negative(&b).select(Expr::constant(d, -0.0), zero()) } else { zero() };
    r.compare(CmpOp::Eq, zero()).select(none, moved)
}

fn floor_mod_float(a: f64, b: f64) -> f64 {
    let r = a % b;
    match r {
        0.0 => 0f64.copysign(b),
        r if (r < 0.0) != (b < 0.0) => r + b,
        r => r,
    }
}

fn floor_mod_int(a: i128, b: i128) -> i128 {
    if b == 0 { 0 } else { ((a % b) + b) % b }
}

/// A shift by a count that is negative or not below the width leaves what extending the sign leaves.
fn shift(op: BinOp, a: Expr, b: Expr, d: DType) -> Expr {
    let bits = d.size() as f64 * 8.0;
    let mut inside = b.clone().compare(CmpOp::Lt, Expr::constant(d, bits));
    if d.is_signed_int() {
        inside = inside.binary(BinOp::And, b.clone().compare(CmpOp::Ge, Expr::constant(d, 0.0)));
    }
    let sign = op == BinOp::Shr && d.is_signed_int();
    let outside = if sign { a.clone().binary(op, Expr::constant(d, bits - 1.0)) } else { Expr::constant(d, 0.0) };
    inside.select(a.binary(op, b), outside)
}

fn shift_left(a: i128, b: i128) -> i128 {
    if (0..64).contains(&b) { ((a as u128) << b) as i128 } else { 0 }
}

fn shift_right(a: i128, b: i128) -> i128 {
    a >> if (0..64).contains(&b) { b } else { 127 }
}

/// `base^exponent` by squaring, wrapping; negative exponents give 0, ±1 as the rounded quotient would.
fn pow_int(base: i128, exponent: i128) -> i128 {
    if exponent < 0 {
        return match base {
            1 => 1,
            -1 => if exponent % 2 == 0 { 1 } else { -1 },
            _ => 0,
        };
    }
    let (mut b, mut e, mut r) = (base as u128, exponent as u128, 1u128);
    while e > 0 {
        if e & 1 == 1 {
            r = r.wrapping_mul(b);
        }
        b = b.wrapping_mul(b);
        e >>= 1;
    }
    r as i128
}

/// Integers: through `f64`, exact where the result is below 2⁵³.
fn pow(a: Expr, b: Expr, d: DType) -> Expr {
    if d.is_float() {
        return Expr::Math(MathFn::Pow, vec![a, b]);
    }
    let zero = || Expr::constant(d, 0.0);
    let infinite = Expr::Binary(
        BinOp::And,
        Box::new([a.clone().compare(CmpOp::Eq, zero()), b.clone().compare(CmpOp::Lt, zero())]),
    );
    // A negative power of 0 is 0, as every negative power of a base above 1.
    let power = Expr::Math(MathFn::Pow, vec![a.cast(DType::F64), b.cast(DType::F64)]).cast(d);
    infinite.select(zero(), power)
}

fn fmod(a: Expr, b: Expr, d: DType) -> Expr {
    if d.is_float() { Expr::Math(MathFn::Fmod, vec![a, b]) } else { a.binary(BinOp::Rem, b) }
}

fn max64(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

fn min64(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }
}

fn test(b: bool) -> f64 {
    f64::from(u8::from(b))
}

rows! {
    "add" "Add" Number; |a, b| a + b; |a, b| a.wrapping_add(b); |a, b, _| a + b; ROUNDING
    "and" "And" Bool; |a, _| a; |a, b| a & b; |a, b, _| bin(BinOp::And)(a, b); EXACT
    "bitwise_and" "BitwiseAnd" Int; |a, _| a; |a, b| a & b; |a, b, _| bin(BinOp::And)(a, b); EXACT
    "bitwise_or" "BitwiseOr" Int; |a, _| a; |a, b| a | b; |a, b, _| bin(BinOp::Or)(a, b); EXACT
    "bitwise_xor" "BitwiseXor" Int; |a, _| a; |a, b| a ^ b; |a, b, _| bin(BinOp::Xor)(a, b); EXACT
    "div" "Div" Number; |a, b| a / b; |a, b| if b == 0 { 0 } else { a / b }; |a, b, _| a / b; ROUNDING
    "equal" "Equal" Any test true; |a, b| test(a == b); |a, b| i128::from(a == b); |a, b, _| a.compare(CmpOp::Eq, b); EXACT
    "fmod" "" Number; |a, b| a % b; |a, b| if b == 0 { 0 } else { a % b }; fmod; ROUNDING
    "greater" "Greater" Number test true; |a, b| test(a > b); |a, b| i128::from(a > b); |a, b, _| a.compare(CmpOp::Gt, b); EXACT
    "greater_or_equal" "GreaterOrEqual" Number test true; |a, b| test(a >= b); |a, b| i128::from(a >= b); |a, b, _| a.compare(CmpOp::Ge, b); EXACT
    "less" "Less" Number test true; |a, b| test(a < b); |a, b| i128::from(a < b); |a, b, _| a.compare(CmpOp::Lt, b); EXACT
    "less_or_equal" "LessOrEqual" Number test true; |a, b| test(a <= b); |a, b| i128::from(a <= b); |a, b, _| a.compare(CmpOp::Le, b); EXACT
    "max" "Max" Number; max64; |a, b| a.max(b); |a, b, d| extreme(BinOp::Max, a, b, d); EXACT
    "min" "Min" Number; min64; |a, b| a.min(b); |a, b, d| extreme(BinOp::Min, a, b, d); EXACT
    "mod" "Mod" Number; floor_mod_float; floor_mod_int; floor_mod; ROUNDING
    "mul" "Mul" Number; |a, b| a * b; |a, b| a.wrapping_mul(b); |a, b, _| a * b; ROUNDING
    "or" "Or" Bool; |a, _| a; |a, b| a | b; |a, b, _| bin(BinOp::Or)(a, b); EXACT
    "pow" "Pow" Number; f64::powf; pow_int; pow; MATH
    "prelu" "PRelu" Number; |a, s| if a < 0.0 { a * s } else { a }; |a, s| if a < 0 { a * s } else { a };
        |a, s, d| a.clone().compare(CmpOp::Lt, Expr::constant(d, 0.0)).select(a.clone() * s, a); ROUNDING
    "shift_left" "" Int; |a, _| a; shift_left; |a, b, d| shift(BinOp::Shl, a, b, d); EXACT
    "shift_right" "" Int; |a, _| a; shift_right; |a, b, d| shift(BinOp::Shr, a, b, d); EXACT
    "sub" "Sub" Number; |a, b| a - b; |a, b| a.wrapping_sub(b); |a, b, _| a - b; ROUNDING
    "xor" "Xor" Bool; |a, _| a; |a, b| a ^ b; |a, b, _| bin(BinOp::Xor)(a, b); EXACT
}

impl Binary {
    /// The function called `name` in graph text.
    pub fn named(name: &str) -> Option<Binary> {
        ROWS.iter().find(|r| r.name == name).map(Binary)
    }
}

impl Operator for Binary {
    fn names() -> Vec<&'static str> {
        ROWS.iter().map(|r| r.name).collect()
    }

    fn onnx() -> Vec<OnnxName> {
        let on = |name| OnnxName { domain: "", name, versions: &[1, 7, 13] };
        let named = ROWS.iter().filter(|r| !r.onnx.is_empty()).map(|r| on(r.onnx));
        named.chain([on("Sum"), on("Mean"), on("BitShift")]).collect()
    }

    fn name(&self) -> &'static str {
        self.0.name
    }

    fn attrs(&self) -> Attrs {
        Attrs::default()
    }

    fn parse(name: &str, attrs: Attrs) -> Result<Self, String> {
        attrs.finish()?;
        Binary::named(name).ok_or_else(|| format!("unknown function `{name}`"))
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let named = |name: &str| Binary::named(name).ok_or_else(|| ImportError::new("the operator is not supported"));
        match node.op_type() {
            "Sum" => chain(named("add")?, node, cx),
            "Max" => chain(named("max")?, node, cx),
            "Min" => chain(named("min")?, node, cx),
            "Mean" => {
                let sum = chain(named("add")?, node, cx)?[0];
                let n = Scalar::of_f64(cx.dtype(sum), node.inputs.len() as f64);
                let n = cx.weight(Tensor::full(&[], n));
                Ok(vec![cx.op(named("div")?, &[sum, n])?])
            }
            "BitShift" => {
                let name = match node.str("direction", "")? {
                    "LEFT" => "shift_left",
                    "RIGHT" => "shift_right",
                    other => return Err(ImportError::new(format!("direction: expected LEFT or RIGHT, found {other:?}"))),
                };
                Ok(vec![cx.op(named(name)?, &[node.input(0)?, node.input(1)?])?])
            }
            "Mod" => {
                let (a, b) = (node.input(0)?, node.input(1)?);
                let name = if node.int("fmod", 0)? != 0 { "fmod" } else { "mod" };
                Ok(vec![cx.op(named(name)?, &[a, b])?])
            }
            "Pow" => {
                let (a, mut b) = (node.input(0)?, node.input(1)?);
                // ONNX lets the exponent have any dtype; the result has the base's.
                if cx.dtype(a) != cx.dtype(b) {
                    let wide = if cx.dtype(b).is_float() && cx.dtype(a).is_int() { Some(cx.dtype(b)) } else { None };
                    if let Some(w) = wide {
                        let base = cx.op(cast::Cast::to(w), &[a])?;
                        let y = cx.op(named("pow")?, &[base, b])?;
                        return Ok(vec![cx.op(cast::Cast::to(cx.dtype(a)), &[y])?]);
                    }
                    b = cx.op(cast::Cast::to(cx.dtype(a)), &[b])?;
                }
                Ok(vec![cx.op(named("pow")?, &[a, b])?])
            }
            onnx => {
                let row = ROWS.iter().find(|r| r.onnx == onnx);
                let row = row.ok_or_else(|| ImportError::new("the operator is not supported"))?;
                let (a, mut b) = (node.input(0)?, node.input(1)?);
                if node.opset < 7 && let Some(axis) = node.opt_int("axis")? {
                    b = align_axis(cx, a, b, axis)?;
                } else if node.opset < 7 && onnx == "PRelu" && cx.rank(b) == 1 && cx.rank(a) > 1 {
                    // One slope a channel.
                    b = align_axis(cx, a, b, 1)?;
                }
                Ok(vec![cx.op(Binary(row), &[a, b])?])
            }
        }
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 2..=2)?;
        expect_same_dtype(ins, 0, 1)?;
        self.0.takes.check(ins)?;
        let shape = ins[0].shape.broadcast(&ins[1].shape).map_err(|(a, b)| {
            InferError::new(format!("{} and {} do not broadcast: {a} against {b}", ins[0].shape, ins[1].shape))
        })?;
        Ok(vec![Fact::new(self.0.result(ins[0].dtype), shape)])
    }

    fn infer_dims(&self, ins: &[Option<Vec<Dim>>], facts: &[Fact]) -> Option<Vec<Dim>> {
        let (a, b) = (ins[0].as_ref()?, ins[1].as_ref()?);
        if !facts.iter().all(|f| f.dtype.is_int()) || (a.len() != b.len() && a.len() != 1 && b.len() != 1) {
            return None;
        }
        if let "equal" | "less" | "greater" = self.0.name {
            // 1 is true, where all sizes agree on it.
            let sure = |a: &Dim, b: &Dim| {
                let (above, below) = (a.sub(b).lower_bound(), b.sub(a).lower_bound());
                let (above, below) = (above.is_some_and(|l| l > 0), below.is_some_and(|l| l > 0));
                (above || below || a == b).then(|| match self.0.name {
                    "equal" => Dim::from(usize::from(a == b)),
                    "less" => Dim::from(usize::from(below)),
                    _ => Dim::from(usize::from(above)),
                })
            };
            let n = a.len().max(b.len());
            return (0..n).map(|i| sure(&a[i % a.len()], &b[i % b.len()])).collect();
        }
        let f = match self.0.name {
            "add" => Dim::add,
            "sub" => Dim::sub,
            "mul" => Dim::mul,
            // ONNX truncates; extents are not negative.
            "div" => Dim::div,
            "min" => Dim::smaller,
            "max" => Dim::larger,
            _ => return None,
        };
        let n = a.len().max(b.len());
        Some((0..n).map(|i| f(&a[i % a.len()], &b[i % b.len()])).collect())
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let facts: Vec<Fact> = ins.iter().map(Tensor::fact).collect();
        let out = self.infer(&facts).map_err(|e| e.message)?.remove(0);
        let both = [&ins[0], &ins[1]];
        let t = match ins[0].dtype().is_float() {
            true => map_broadcast(&out, both, |[a, b]| (self.0.float)(a, b))?,
            false => map_broadcast(&out, both, |[a, b]| (self.0.int)(a, b))?,
        };
        Ok(vec![t])
    }

    fn class(&self) -> OpClass {
        OpClass::Pointwise
    }

    fn scalar(&self, ins: &[DType], _: DType, args: &[Expr]) -> Option<Expr> {
        Some((self.0.expr)(args[0].clone(), args[1].clone(), ins[0]))
    }

    fn tolerance(&self) -> Tolerance {
        self.0.tolerance
    }

    fn samples() -> Vec<Sample> {
        let mut all = vec![];
        for row in ROWS {
            let dtypes: &[DType] = match row.takes {
                Takes::Float | Takes::Number => &[DType::F32, DType::I32, DType::F64, DType::F16],
                Takes::Int => &[DType::I64, DType::U8],
                Takes::Bool => &[DType::Bool],
                Takes::Any => &[DType::F32, DType::Bool, DType::I64],
            };
            // Powers of negative numbers are mostly NaN; shifts stay within the width.
            let ranges: &[(f64, f64)] = match row.name {
                "pow" => &[(0.1, 4.0), (-3.0, 3.0)],
                "shift_left" | "shift_right" => &[(-100.0, 100.0), (-9.0, 70.0)],
                "div" | "mod" | "fmod" => &[(-9.0, 9.0), (1.0, 5.0)],
                _ => &[],
            };
            for &d in dtypes {
                all.push(Sample::new(Binary(row), &[(d, &[4, 19]), (d, &[4, 19])]).with_range(ranges));
                all.push(Sample::new(Binary(row), &[(d, &[2, 1, 5]), (d, &[3, 1])]).with_range(ranges));
            }
        }
        all
    }
}

/// `f(f(a, b), c) …`; one operand is itself.
fn chain(f: Binary, node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let all = node.all_inputs()?;
    let (&first, rest) = all.split_first().ok_or_else(|| ImportError::new("expected at least one operand, found none"))?;
    let mut y = first;
    for &x in rest {
        y = cx.op(f, &[y, x])?;
    }
    Ok(vec![y])
}

/// Before opset 7, `broadcast=1, axis=k` aligned the second operand's axes with the first's from `k` on.
fn align_axis(cx: &mut Importer<'_>, a: ValueId, b: ValueId, axis: i64) -> Result<ValueId, ImportError> {
    let rank = cx.rank(a);
    let axis = crate::op::resolve_axis(axis, rank)?;
    let mut to = cx.shape(b).clone();
    while axis + to.rank() < rank {
        to.0.push(Dim::Const(1));
    }
    cx.op(reshape::Reshape { to }, &[b])
}

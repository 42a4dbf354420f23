//! Elements that are only stored, in kernels: from their bits to the type computed in, and back.
//!
//! A kernel's buffers hold the carrier of such a dtype. [`widen`] and [`narrow`] are written with shifts, reinterpretation and
//! multiplication by powers of two, which every target has and every width of vector; `tenon_base::narrow` is their reference.

use tenon_base::narrow::SmallFloat;
use tenon_base::{DType, Scalar};
use tenon_kernel::{BinOp, CmpOp, Expr, UnOp};

/// The type arithmetic is done in.
pub fn wide(dtype: DType) -> DType {
    match dtype {
        d if !d.is_stored() => d,
        d if d.is_float() => DType::F32,
        d => d.carrier(),
    }
}

fn bits(v: u32) -> Expr {
    Expr::Const(Scalar::Int(DType::U32, i128::from(v)))
}

fn float(v: f64) -> Expr {
    Expr::constant(DType::F32, v)
}

fn and(a: Expr, mask: u32) -> Expr {
    a.binary(BinOp::And, bits(mask))
}

fn shl(a: Expr, n: u32) -> Expr {
    if n == 0 { a } else { a.binary(BinOp::Shl, bits(n)) }
}

fn shr(a: Expr, n: u32) -> Expr {
    if n == 0 { a } else { a.binary(BinOp::Shr, bits(n)) }
}

fn is(a: Expr, v: u32) -> Expr {
    a.compare(CmpOp::Eq, bits(v))
}

/// 2ⁿ as `f32`, normal.
fn power(n: i32) -> Expr {
    float(2f64.powi(n))
}

/// The carrier `e` of `dtype` in the type computed in; `e` itself where they are one.
pub fn widen(e: Expr, dtype: DType) -> Expr {
    if !dtype.is_stored() || !dtype.is_float() {
        return e;
    }
    let code = e.cast(DType::U32);
    if dtype == DType::BF16 {
        return shl(code, 16).bitcast(DType::F32);
    }
    if dtype == DType::F8E8M0 {
        // The code is the exponent of an f32; the least one is the largest subnormal power of two, the last NaN.
        let normal = shl(code.clone(), 23).bitcast(DType::F32);
        let least = is(code.clone(), 0).select(float(2f64.powi(-127)), normal);
        return is(code, 0xff).select(float(f64::NAN), least);
    }
    let Some(f) = SmallFloat::of(dtype) else { return code };
    let sign = 1u32 << (f.bits - 1);
    let size = and(code.clone(), sign - 1);
    // Exponent and mantissa where an f32 has them; the product sets the bias right, of subnormals too.
    let value = shl(size.clone(), 23 - f.mantissa).bitcast(DType::F32) * power(127 - f.bias);
    let value = value.bitcast(DType::U32).binary(BinOp::Or, shl(and(code.clone(), sign), 32 - f.bits));
    let value = value.bitcast(DType::F32);
    let nan = float(f64::NAN);
    if !f.has_nan() {
        return value;
    }
    if !f.signed_zero {
        return is(code, u32::from(f.nan)).select(nan, value);
    }
    match f.infinity {
        None => is(size, u32::from(f.nan)).select(nan, value),
        Some(i) => {
            let i = u32::from(i);
            let negative = and(code, sign).compare(CmpOp::Ne, bits(0));
            let infinite = negative.select(float(f64::NEG_INFINITY), float(f64::INFINITY));
            let special = is(size.clone(), i).select(infinite, nan);
            size.compare(CmpOp::Ge, bits(i)).select(special, value)
        }
    }
}

/// The value `e`, of the type computed in, as the carrier of `dtype`.
pub fn narrow(e: Expr, dtype: DType) -> Expr {
    match dtype {
        DType::I4 | DType::I2 => {
            let n = || Expr::constant(DType::I8, 8.0 - dtype.bits() as f64);
            e.binary(BinOp::Shl, n()).binary(BinOp::Shr, n())
        }
        DType::U4 | DType::U2 => {
            e.binary(BinOp::And, Expr::constant(DType::I8, 2f64.powi(dtype.bits() as i32) - 1.0))
        }
        DType::BF16 => {
            let b = e.clone().bitcast(DType::U32);
            let odd = and(shr(b.clone(), 16), 1);
            let rounded = shr(b + bits(0x7fff) + odd, 16);
            let nan = e.clone().compare(CmpOp::Ne, e);
            nan.select(bits(0x7fc0), rounded).cast(DType::U16)
        }
        DType::F8E8M0 => {
            let b = e.bitcast(DType::U32);
            let exponent = and(shr(b.clone(), 23), 0xff);
            let inexact = and(b.clone(), 0x7f_ffff).compare(CmpOp::Ne, bits(0));
            // The least power of two has code 0, although it is a subnormal f32.
            let least = and(b, 0x7fff_ffff).compare(CmpOp::Ne, bits(0x40_0000));
            let inexact = inexact.binary(BinOp::And, least);
            let up = inexact.binary(BinOp::And, exponent.clone().compare(CmpOp::Lt, bits(0xfe)));
            (exponent + up.select(bits(1), bits(0))).cast(DType::U8)
        }
        _ => match SmallFloat::of(dtype) {
            Some(f) => small(e, f),
            None => e,
        },
    }
}

/// The code of `x`, an `f32`.
fn small(x: Expr, f: SmallFloat) -> Expr {
    let b = x.clone().bitcast(DType::U32);
    let sign = shl(shr(b.clone(), 31), f.bits - 1);
    let a = x.clone().unary(UnOp::Abs);
    // The distance of the format's numbers around x, a power of two made of x's exponent.
    let exponent = shr(and(b, 0x7fff_ffff), 23).max(bits((128 - f.bias) as u32));
    let quantum = shl(exponent - bits(f.mantissa), 23).bitcast(DType::F32);
    let steps = (a.clone() / quantum.clone()).unary(UnOp::Nearest);
    let rounded = (steps * quantum).min(float(f.max));
    // With the format's bias, as bits of an f32. Numbers below the least normal one have it added first and taken off in the end, so that the f32 is
    // normal as well: a machine may flush others to zero.
    let least = power(1 - f.bias);
    let below = rounded.clone().compare(CmpOp::Lt, least.clone());
    let raised = below.clone().select(rounded.clone() + least, rounded);
    let raised = shr((raised * power(f.bias - 127)).bitcast(DType::U32), 23 - f.mantissa);
    let size = raised - below.select(bits(1 << f.mantissa), bits(0));
    let code = if f.signed_zero {
        size.binary(BinOp::Or, sign.clone())
    } else {
        is(size.clone(), 0).select(bits(0), size.binary(BinOp::Or, sign.clone()))
    };
    let code = if f.has_nan() {
        let infinite = a.compare(CmpOp::Eq, float(f64::INFINITY));
        let special = match f.infinity {
            Some(i) => bits(u32::from(i)).binary(BinOp::Or, sign),
            None if f.signed_zero => bits(u32::from(f.nan)).binary(BinOp::Or, sign),
            None => bits(u32::from(f.nan)),
        };
        infinite.select(special, code)
    } else {
        code
    };
    let nan = x.clone().compare(CmpOp::Ne, x);
    nan.select(bits(u32::from(f.nan)), code).cast(DType::U8)
}

/// `s` as a constant of the carrier.
pub fn carried(s: Scalar) -> Scalar {
    let dtype = s.dtype();
    if dtype.is_stored() { Scalar::from_le_bytes(dtype.carrier(), &s.to_le_bytes()) } else { s }
}

//! The logarithm and the inverse hyperbolic functions.

use super::emit::Emit;
use super::exp::ln2_parts;
use std::f64::consts::LN_2;
use tenon_kernel::{BinOp, Expr, UnOp};

/// `(log((1+s)/(1-s)) / s - 2) / s²` in s² on ±0.1716, to 3e-9 of the logarithm.
const R32: [f64; 3] = [0.6666668506375033, 0.39988770673510876, 0.2958039828148471];

/// The same to 5e-18.
pub(super) const R64: [f64; 7] = [
    0.666666666666667,
    0.3999999999989924,
    0.2857142862609589,
    0.2222221111514416,
    0.18182890556695602,
    0.1533167403016786,
    0.1461703754879165,
];

/// `(k, f)` with `x = 2^k · (1 + f)` and `1 + f` in √½..√2, for a positive finite `x`.
pub(super) fn split(m: &mut Emit<'_, '_>, x: &Expr) -> (Expr, Expr) {
    let (bits, bias) = (m.fraction_bits(), m.bias());
    // Subnormal numbers are scaled up first.
    let (tiny, up) = if m.wide() { (f64::MIN_POSITIVE, 54.0) } else { (f64::from(f32::MIN_POSITIVE), 24.0) };
    let small = m.lt(x, tiny);
    let small = m.bind(small);
    let scaled = small.clone().select(x.clone() * m.c(f64::exp2(up)), x.clone());
    // √½ and 1 as bits; adding their difference carries into the exponent from √½ on.
    let (root, one) = if m.wide() { (0x3fe6_a09e_0000_0000, 0x3ff0 << 48) } else { (0x3f35_04f3, 0x3f80_0000) };
    let i = m.bind(scaled.bitcast(m.bits_type()) + m.int(one - root));
    // An integer below 2^fraction bits becomes a float by setting the exponent.
    let offset = (1u64 << bits) as f64;
    let offset_bits = if m.wide() { offset.to_bits() } else { u64::from((offset as f32).to_bits()) };
    let exponent = i.clone().binary(BinOp::Shr, m.int(u64::from(bits))).binary(BinOp::Or, m.int(offset_bits));
    let zero = small.select(m.c(offset + bias + up), m.c(offset + bias));
    let k = m.of_bits(exponent) - zero;
    let k = m.bind(k);
    let fraction = i.binary(BinOp::And, m.int((1 << bits) - 1)) + m.int(root);
    let f = m.of_bits(fraction) - m.c(1.0);
    (k, m.bind(f))
}

/// Natural logarithm.
pub(super) fn log(m: &mut Emit<'_, '_>, x: Expr) -> Expr {
    let (k, f) = split(m, &x);
    let s = f.clone() / (f.clone() + m.c(2.0));
    let s = m.bind(s);
    let z = m.bind(s.clone() * s.clone());
    let r = z.clone() * if m.wide() { m.poly(&z, &R64) } else { m.poly(&z, &R32) };
    let half = f.clone() * f.clone() * m.c(0.5);
    let half = m.bind(half);
    // log(1 + f) = f - (f²/2 - s (f²/2 + R)), the large terms added last.
    let (ln2_high, ln2_low) = ln2_parts(m);
    let low = Expr::fma(s, half.clone() + r, k.clone() * m.c(ln2_low));
    let value = k * m.c(ln2_high) - ((half - low) - f);
    let finite = m.lt(&x, f64::INFINITY).select(value, x.clone());
    let rest = m.eq(&x, 0.0).select(m.c(f64::NEG_INFINITY), m.c(f64::NAN));
    m.gt(&x, 0.0).select(finite, rest)
}

/// log(1 + u), accurate near 0.
fn log1p(m: &mut Emit<'_, '_>, u: &Expr) -> Expr {
    let w = m.bind(u.clone() + m.c(1.0));
    // What rounding `1 + u` lost.
    let lost = m.lt(u, 1.0).select(u.clone() - (w.clone() - m.c(1.0)), m.c(1.0) - (w.clone() - u.clone()));
    let log = log(m, w.clone());
    let log = m.bind(log);
    let normal = m.gt(&w, 0.0).binary(BinOp::And, m.lt(&w, f64::INFINITY));
    let exact = log.clone() + lost / w;
    normal.select(exact, log)
}

/// From here on, `x² ± 1` is `x²`.
const LARGE: f64 = (1u64 << 28) as f64;

/// Inverse hyperbolic sine.
pub(super) fn asinh(m: &mut Emit<'_, '_>, x: Expr) -> Expr {
    let a = m.abs(&x);
    let z = m.bind(a.clone() * a.clone());
    let u = a.clone() + z.clone() / (m.c(1.0) + (z + m.c(1.0)).unary(UnOp::Sqrt));
    let u = m.bind(u);
    let large = m.gt(&a, LARGE);
    // One logarithm serves both: of 1 + u, and of a itself.
    let near = log1p(m, &u);
    let far = log(m, a) + m.c(LN_2);
    let value = large.select(far, near);
    m.with_sign(value, &x)
}

/// Inverse hyperbolic cosine; NaN below 1.
pub(super) fn acosh(m: &mut Emit<'_, '_>, x: Expr) -> Expr {
    let t = m.bind(x.clone() - m.c(1.0));
    let u = t.clone() + (t.clone() * (t + m.c(2.0))).unary(UnOp::Sqrt);
    let u = m.bind(u);
    let near = log1p(m, &u);
    let far = log(m, x.clone()) + m.c(LN_2);
    let value = m.gt(&x, LARGE).select(far, near);
    m.lt(&x, 1.0).select(m.c(f64::NAN), value)
}

/// Inverse hyperbolic tangent; ±∞ at ±1, NaN beyond.
pub(super) fn atanh(m: &mut Emit<'_, '_>, x: Expr) -> Expr {
    let a = m.abs(&x);
    let u = a.clone() * m.c(2.0) / (m.c(1.0) - a);
    let u = m.bind(u);
    let value = log1p(m, &u) * m.c(0.5);
    m.with_sign(value, &x)
}

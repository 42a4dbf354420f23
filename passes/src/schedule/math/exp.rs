//! The exponential and the hyperbolic functions.

use super::emit::Emit;
use std::f64::consts::{LN_2, LOG2_E};
use tenon_kernel::{BinOp, Expr};

/// `(eʳ - 1 - r) / r²` on ±ln2/2, to 1e-8 of eʳ.
const P32: [f64; 5] = [0.5, 0.16666576305560638, 0.041666553762567636, 0.008363292753030603, 0.0013926325618133463];

/// The same to 2e-19.
const P64: [f64; 11] = [
    0.5,
    0.1666666666666667,
    0.04166666666666667,
    0.008333333333326025,
    0.001388888888888367,
    0.00019841269875205077,
    2.4801587325822283e-05,
    2.75572549134867e-06,
    2.7557273295539724e-07,
    2.5105419192016337e-08,
    2.091483135138041e-09,
];

/// ln 2 in two parts, the first short enough to be multiplied by any exponent without rounding.
pub(super) fn ln2_parts(m: &Emit<'_, '_>) -> (f64, f64) {
    let high = if m.wide() { 0.6931471805598903 } else { 355.0 / 512.0 };
    // In `f64` the difference itself is rounded, so the low part is written out.
    (high, if m.wide() { 5.497923018708371e-14 } else { LN_2 - high })
}

/// `q` and an integral `k` with `e^(x + low) = 2^k · (1 + q)`. `x` is within twice the range of exponents.
fn parts(m: &mut Emit<'_, '_>, x: &Expr, low: Option<Expr>) -> (Expr, Expr) {
    let magic = m.magic();
    let k = x.clone() * m.c(LOG2_E) + m.c(magic) - m.c(magic);
    let k = m.bind(k);
    let (ln2_high, ln2_low) = ln2_parts(m);
    let high = Expr::fma(k.clone(), m.c(-ln2_high), x.clone());
    let mut r = Expr::fma(k.clone(), m.c(-ln2_low), high);
    if let Some(low) = low {
        r = r + low;
    }
    let r = m.bind(r);
    let p = if m.wide() { m.poly(&r, &P64) } else { m.poly(&r, &P32) };
    let square = r.clone() * r.clone();
    let q = m.bind(Expr::fma(square, p, r));
    (q, k)
}

/// Arguments beyond which eˣ is ∞ or 0, a little generous.
fn range(m: &Emit<'_, '_>) -> (f64, f64) {
    if m.wide() { (-746.0, 711.0) } else { (-104.0, 89.5) }
}

/// eˣ
pub(super) fn exp(m: &mut Emit<'_, '_>, x: Expr) -> Expr {
    exp_sum(m, x, None)
}

/// `e^(x + low)` for a small `low`.
pub(super) fn exp_sum(m: &mut Emit<'_, '_>, x: Expr, low: Option<Expr>) -> Expr {
    let (lo, hi) = range(m);
    let x = m.clamp(&x, lo, hi);
    let (q, k) = parts(m, &x, low);
    let one = m.c(1.0);
    m.scale(q + one, &k)
}

/// `eʳ` on ±ln2/2, to 1e-7 of it: rounded to `f32` one after the other, each time fitted anew.
const E32: [f64; 6] =
    [1.0, 0.9999997019767761, 0.4999914765357971, 0.16667653620243073, 0.041898179799318314, 0.00828920491039753];

/// `c + eˣ`, or `c + e^-x` with `negated`, for a `c` beside which the smallest normal number is nothing, in `f32`. What is not a
/// normal number becomes 0 or ∞, so one power of 2 scales all others, and the sum is the last step of the polynomial.
pub(super) fn exp_plus(m: &mut Emit<'_, '_>, x: &Expr, negated: bool, c: f64) -> Expr {
    // Beyond these the exponents are those of 0 and of ∞.
    let (p, power) = factors(m, x, negated, 0.0, if negated { (-89.0, 88.0) } else { (-88.0, 89.0) });
    Expr::fma(p, power, m.c(c))
}

/// eˣ in `f32`, but 0 below 2⁻¹²⁵: one power of 2, of an exponent less by one so that the largest numbers have one, scales twice the polynomial.
pub(super) fn exp_normal(m: &mut Emit<'_, '_>, x: &Expr) -> Expr {
    let (p, power) = factors(m, x, false, 1.0, (-87.5, 89.5));
    p * power
}

/// `p` and a power of 2 whose product is eˣ, or e^-x with `negated`, for `x` within `range`: the exponents of 0 and of ∞ are those of the numbers. The
/// power is smaller by 2^`shift`, and the polynomial as much larger.
fn factors(m: &mut Emit<'_, '_>, x: &Expr, negated: bool, shift: f64, (lo, hi): (f64, f64)) -> (Expr, Expr) {
    let sign = if negated { -1.0 } else { 1.0 };
    let x = m.clamp(x, lo, hi);
    let magic = m.c(m.magic() + m.bias() - shift);
    let t = Expr::fma(x.clone(), m.c(sign * LOG2_E), magic.clone());
    let t = m.bind(t);
    let k = m.bind(t.clone() - magic);
    let (high, low) = ln2_parts(m);
    let r = Expr::fma(k.clone(), m.c(-sign * high), x);
    let r = Expr::fma(k, m.c(-sign * low), r);
    let r = m.bind(r);
    let coefficients: Vec<f64> =
        E32.iter().enumerate().map(|(i, v)| shift.exp2() * if i % 2 == 1 { sign * v } else { *v }).collect();
    let p = m.poly(&r, &coefficients);
    let bits = m.int(u64::from(m.fraction_bits()));
    let power = m.of_bits(m.to_bits(&t).binary(BinOp::Shl, bits));
    (p, power)
}

/// eˣ / 2, which is finite a little longer.
fn half_exp(m: &mut Emit<'_, '_>, x: &Expr) -> Expr {
    let (lo, hi) = range(m);
    let x = m.clamp(x, lo, hi);
    let (q, k) = parts(m, &x, None);
    let less = k - m.c(1.0);
    let less = m.bind(less);
    let one = m.c(1.0);
    let half = m.scale(q + one, &less);
    m.bind(half)
}

/// `(sinh x - x) / x³` in x² on 0..1, to 3e-19 of sinh.
const SINH: [f64; 7] = [
    0.16666666666666666,
    0.008333333333333299,
    0.00019841269841324198,
    2.7557319191381816e-06,
    2.5052117695907823e-08,
    1.6057679623801638e-10,
    7.746178593018827e-13,
];

/// Hyperbolic sine.
pub(super) fn sinh(m: &mut Emit<'_, '_>, x: Expr) -> Expr {
    let a = m.abs(&x);
    let h = half_exp(m, &a);
    let large = h.clone() - m.c(0.25) / h;
    let z = m.bind(a.clone() * a.clone());
    let cubic = a.clone() * z.clone();
    let small = Expr::fma(cubic, m.poly(&z, &SINH), a.clone());
    let value = m.lt(&a, 1.0).select(small, large);
    m.with_sign(value, &x)
}

/// Hyperbolic cosine.
pub(super) fn cosh(m: &mut Emit<'_, '_>, x: Expr) -> Expr {
    let a = m.abs(&x);
    let h = half_exp(m, &a);
    h.clone() + m.c(0.25) / h
}

/// `tanh x = x · P(x²) / Q(x²)` on ±9.02, to 2e-8.
const TANH_P: [f64; 5] =
    [0.999999979107037, 0.13379729595343703, 0.0034940479919708762, 2.0583686516932924e-05, 1.3319327390179027e-08];
const TANH_Q: [f64; 5] =
    [1.0, 0.46713044860282255, 0.025871125349626236, 0.0003283114119451615, 7.762130086536741e-07];

/// Hyperbolic tangent.
pub(super) fn tanh(m: &mut Emit<'_, '_>, x: Expr) -> Expr {
    if !m.wide() {
        // 1 - tanh 9.02 is below half an ulp of 1.
        let x = m.clamp(&x, -9.02, 9.02);
        let z = m.bind(x.clone() * x.clone());
        let p = x * m.poly(&z, &TANH_P);
        let y = p / m.poly(&z, &TANH_Q);
        return m.clamp(&y, -1.0, 1.0);
    }
    // t = e^2a - 1 = (q + (1 - 2^-k)) · 2^k
    let a = m.abs(&x);
    let twice = m.c(22.0).min(a) * m.c(2.0);
    let twice = m.bind(twice);
    let (q, k) = parts(m, &twice, None);
    let zero = m.c(0.0);
    let down = m.exp2(zero - k.clone());
    let t = (q + (m.c(1.0) - down)) * m.exp2(k);
    let t = m.bind(t);
    let y = t.clone() / (t + m.c(2.0));
    m.with_sign(y, &x)
}

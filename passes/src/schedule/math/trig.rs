//! Trigonometric functions and their inverses.
//!
//! Arguments are reduced by multiples of π/2 written in three parts of 33 bits, whose products with a multiple below 2²⁰ are
//! exact. So the bounds hold for |x| up to 10⁶; beyond, the absolute error grows as |x| · 2⁻⁵², and from 2⁵¹ on the results
//! are merely within ±1. (An exact reduction needs a table of the bits of 2/π.)

use super::emit::Emit;
use std::f64::consts::{FRAC_2_PI, FRAC_PI_2, FRAC_PI_4, PI};
use tenon_base::DType;
use tenon_kernel::{BinOp, CmpOp, Expr, UnOp};

/// π/2 in three parts.
const PIO2: [f64; 3] = [1.5707963267341256, 6.077100506303966e-11, 2.0222662487111665e-21];
/// What `f64`'s π/2 lacks.
const PIO2_LOW: f64 = 6.123233995736766e-17;

/// `(sin x - x) / x³` in x² on ±π/4, to 1.4e-8 and to 1.4e-17 of the sine.
const SIN32: [f64; 3] = [-0.16666664631541184, 0.008332742304978094, -0.00019586605280816265];
const SIN64: [f64; 6] = [
    -0.16666666666666666,
    0.008333333333330887,
    -0.0001984126983666588,
    2.755731605459391e-06,
    -2.5051121875169608e-08,
    1.5917412836707387e-10,
];

/// `(cos x - 1 + x²/2) / x⁴` in x² on ±π/4, to 1.1e-9 and to 7e-19 of the cosine.
const COS32: [f64; 3] = [0.041666664628671246, -0.0013888297058106123, 2.4546653768931683e-05];
const COS64: [f64; 6] = [
    0.041666666666666664,
    -0.0013888888888887359,
    2.48015872987077e-05,
    -2.755731724172776e-07,
    2.0876140031390975e-09,
    -1.138218421447753e-11,
];

/// Sine and cosine of the reduced argument, and the quadrant in the low bits of an integer.
fn reduced(m: &mut Emit<'_, '_>, x: &Expr, wanted: DType) -> (Expr, Expr, Expr) {
    let magic = m.magic();
    let t = m.bind(x.clone() * m.c(FRAC_2_PI) + m.c(magic));
    let k = m.bind(t.clone() - m.c(magic));
    let r = PIO2.iter().fold(x.clone(), |r, p| Expr::fma(k.clone(), m.c(-p), r));
    let r = m.bind(r);
    // Beyond the range of the reduction, still a number that has a sine.
    let r = m.clamp(&r, -0.79, 0.79);
    let z = m.bind(r.clone() * r.clone());
    let (s, c) = if wanted == DType::F64 {
        (m.poly(&z, &SIN64), m.poly(&z, &COS64))
    } else {
        (m.poly(&z, &SIN32), m.poly(&z, &COS32))
    };
    let sin = m.bind(Expr::fma(r.clone() * z.clone(), s, r));
    let near_one = m.c(1.0) - z.clone() * m.c(0.5);
    let cos = m.bind(Expr::fma(z.clone() * z, c, near_one));
    let quadrant = m.bind(m.to_bits(&t));
    (sin, cos, quadrant)
}

fn is_odd(m: &Emit<'_, '_>, quadrant: &Expr) -> Expr {
    quadrant.clone().binary(BinOp::And, m.int(1)).compare(CmpOp::Ne, m.int(0))
}

/// `value`, negated in quadrants 2 and 3.
fn by_quadrant(m: &Emit<'_, '_>, value: Expr, quadrant: Expr) -> Expr {
    let sign = quadrant.binary(BinOp::And, m.int(2)).binary(BinOp::Shl, m.int(62));
    m.of_bits(value.bitcast(m.bits_type()).binary(BinOp::Xor, sign))
}

/// Sine.
pub(super) fn sin(m: &mut Emit<'_, '_>, x: Expr, wanted: DType) -> Expr {
    let (sin, cos, q) = reduced(m, &x, wanted);
    let value = is_odd(m, &q).select(cos, sin);
    let value = by_quadrant(m, value, q);
    m.eq(&x, 0.0).select(x, value)
}

/// Cosine.
pub(super) fn cos(m: &mut Emit<'_, '_>, x: Expr, wanted: DType) -> Expr {
    let (sin, cos, q) = reduced(m, &x, wanted);
    let value = is_odd(m, &q).select(sin, cos);
    let next = q + m.int(1);
    by_quadrant(m, value, next)
}

/// Tangent.
pub(super) fn tan(m: &mut Emit<'_, '_>, x: Expr, wanted: DType) -> Expr {
    let (sin, cos, q) = reduced(m, &x, wanted);
    let odd = is_odd(m, &q);
    let odd = m.bind(odd);
    let above = odd.clone().select(-cos.clone(), sin.clone());
    let value = above / odd.select(sin, cos);
    m.eq(&x, 0.0).select(x, value)
}

/// `(asin x - x) / x³` in x² on ±½, to 4e-18 of the arc sine.
const ASIN: [f64; 13] = [
    0.16666666666666669,
    0.07499999999998433,
    0.04464285714635543,
    0.030381944138531247,
    0.02237217294214989,
    0.017352392720869973,
    0.013971212973552933,
    0.011479177415184906,
    0.01032281435018578,
    0.005457506718640358,
    0.01740087944269402,
    -0.014851887071247204,
    0.028757851367421566,
];

/// For a = |x|: whether it is above ½, and asin a, or there asin √((1 - a)/2), half the angle to 1.
fn asin_parts(m: &mut Emit<'_, '_>, a: &Expr) -> (Expr, Expr) {
    let big = m.gt(a, 0.5);
    let big = m.bind(big);
    let z = big.clone().select((m.c(1.0) - a.clone()) * m.c(0.5), a.clone() * a.clone());
    let z = m.bind(z);
    let s = big.clone().select(z.clone().unary(UnOp::Sqrt), a.clone());
    let s = m.bind(s);
    let value = Expr::fma(s.clone() * z.clone(), m.poly(&z, &ASIN), s);
    (big, m.bind(value))
}

/// Inverse sine; NaN outside ±1.
pub(super) fn asin(m: &mut Emit<'_, '_>, x: Expr) -> Expr {
    let a = m.abs(&x);
    let (big, r) = asin_parts(m, &a);
    let far = m.c(FRAC_PI_2) - (r.clone() * m.c(2.0) - m.c(PIO2_LOW));
    let value = big.select(far, r);
    m.with_sign(value, &x)
}

/// Inverse cosine; NaN outside ±1.
pub(super) fn acos(m: &mut Emit<'_, '_>, x: Expr) -> Expr {
    let a = m.abs(&x);
    let (big, r) = asin_parts(m, &a);
    let twice = m.bind(r.clone() * m.c(2.0));
    let back = m.c(PI) - (twice.clone() - m.c(2.0 * PIO2_LOW));
    let far = m.lt(&x, 0.0).select(back, twice);
    let near = m.c(FRAC_PI_2) - (m.with_sign(r, &x) - m.c(PIO2_LOW));
    big.select(far, near)
}

/// `(atan x - x) / x³` in x² on ±tan(π/8), to 3e-9 and to 5e-18 of the arc tangent.
const ATAN32: [f64; 5] =
    [-0.3333333176000804, 0.19999540216937534, -0.1426394635791234, 0.10743631627144574, -0.06451597258952992];
const ATAN64: [f64; 11] = [
    -0.3333333333333333,
    0.19999999999995513,
    -0.1428571428466518,
    0.11111111015146714,
    -0.0909090457366906,
    0.07692183087342026,
    -0.06664509989818045,
    0.058581362519061465,
    -0.05085383488842831,
    0.03922974453661223,
    -0.019174543572021332,
];

/// Inverse tangent.
pub(super) fn atan(m: &mut Emit<'_, '_>, x: Expr) -> Expr {
    let a = m.abs(&x);
    // atan a = π/2 - atan 1/a = π/4 + atan (a-1)/(a+1): always the arc of a number below tan(π/8).
    let (far, mid) = (m.gt(&a, 2.414213562373095), m.gt(&a, 0.41421356237309503));
    let (far, mid) = (m.bind(far), m.bind(mid));
    let above = far.clone().select(m.c(-1.0), mid.clone().select(a.clone() - m.c(1.0), a.clone()));
    let below = far.clone().select(a.clone(), mid.clone().select(a + m.c(1.0), m.c(1.0)));
    let t = m.bind(above / below);
    let z = m.bind(t.clone() * t.clone());
    let p = if m.wide() { m.poly(&z, &ATAN64) } else { m.poly(&z, &ATAN32) };
    let arc = Expr::fma(t.clone() * z, p, t);
    let by = |high: f64, low: f64| {
        let low = if m.wide() { low } else { high - f64::from(high as f32) };
        (m.c(high), m.c(low))
    };
    let (half, quarter, none) = (by(FRAC_PI_2, PIO2_LOW), by(FRAC_PI_4, PIO2_LOW / 2.0), m.c(0.0));
    let high = far.clone().select(half.0, mid.clone().select(quarter.0, none.clone()));
    let low = far.select(half.1, mid.select(quarter.1, none));
    let value = high + (arc + low);
    m.with_sign(value, &x)
}

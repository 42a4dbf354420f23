//! Powers.

use super::emit::Emit;
use super::exp::{exp, exp_sum, ln2_parts};
use super::log::{R64, log, split};
use tenon_base::DType;
use tenon_kernel::{BinOp, CmpOp, Expr, UnOp};

/// `(p, e)` with `p + e = a · b` exactly (Dekker's product: no fused multiply-add is relied upon).
fn product(m: &mut Emit<'_, '_>, a: &Expr, b: &Expr) -> (Expr, Expr) {
    let p = m.bind(a.clone() * b.clone());
    let ((ah, al), (bh, bl)) = (halves(m, a), halves(m, b));
    let e = ((ah.clone() * bh.clone() - p.clone()) + ah * bl.clone() + al.clone() * bh) + al * bl;
    let e = m.bind(e);
    (p, e)
}

/// The high 26 bits of `a`, and the rest.
fn halves(m: &mut Emit<'_, '_>, a: &Expr) -> (Expr, Expr) {
    let c = m.bind(a.clone() * m.c(134_217_729.0)); // 2²⁷ + 1
    let high = m.bind(c.clone() - (c - a.clone()));
    let low = m.bind(a.clone() - high.clone());
    (high, low)
}

/// `y · log a` in two parts, for a positive finite `a` and a finite `y`: to 2⁻⁶⁰.
fn precise_log(m: &mut Emit<'_, '_>, a: &Expr, y: &Expr) -> (Expr, Expr) {
    let (k, f) = split(m, a);
    let d = m.bind(f.clone() + m.c(2.0));
    let d_low = m.bind(f.clone() - (d.clone() - m.c(2.0)));
    let s = m.bind(f.clone() / d.clone());
    let (p, e) = product(m, &s, &d);
    let s_low = (((f - p) - e) - s.clone() * d_low) / d;
    let z = m.bind(s.clone() * s.clone());
    let r = s.clone() * z.clone() * m.poly(&z, &R64);
    let (ln2_high, ln2_low) = ln2_parts(m);
    let whole = m.bind(k.clone() * m.c(ln2_high));
    let twice = m.bind(s * m.c(2.0));
    // whole + twice, exactly: |whole| is 0 or the larger.
    let high = m.bind(whole.clone() + twice.clone());
    let lost = whole.clone() - high.clone() + twice;
    let low = lost + (s_low * m.c(2.0) + (r + k * m.c(ln2_low)));
    let low = m.bind(low);
    let sum = m.bind(high.clone() + low.clone());
    let rest = m.bind(high - sum.clone() + low);
    // Beyond 2¹⁰⁰ the power is 0, 1 or ∞, and Dekker's product would overflow.
    let y = m.clamp(y, -f64::exp2(100.0), f64::exp2(100.0));
    let (p, e) = product(m, &y, &sum);
    let e = m.bind(e + y * rest);
    let e = m.clamp(&e, -1e-3, 1e-3);
    (p, e)
}

/// xʸ with all of C's special cases. Computed in `f64`; `wanted` is the precision that is needed.
pub(super) fn pow(m: &mut Emit<'_, '_>, x: Expr, y: Expr, wanted: DType) -> Expr {
    let a = m.abs(&x);
    let y_size = m.abs(&y);
    let infinite = m.eq(&y_size, f64::INFINITY);
    let (value, special) = if wanted == DType::F64 {
        let (high, low) = precise_log(m, &a, &y);
        let edge = m.eq(&a, 0.0).binary(BinOp::Or, m.eq(&a, f64::INFINITY));
        (exp_sum(m, high, Some(low)), infinite.binary(BinOp::Or, edge))
    } else {
        let log = log(m, a.clone());
        let e = m.bind(y.clone() * log);
        (exp(m, e), infinite)
    };
    // Infinite exponents, bases 0 and ∞: 0, 1 or ∞.
    let same = m.gt(&a, 1.0).compare(CmpOp::Eq, m.gt(&y, 0.0));
    let limit = same.select(m.c(f64::INFINITY), m.c(0.0));
    let limit = m.eq(&a, 1.0).select(m.c(1.0), limit);
    let size = m.bind(special.select(limit, value));
    // The sign: that of x for odd y. A negative finite base has no other powers than integral ones.
    let integral = y.clone().unary(UnOp::Trunc).compare(CmpOp::Eq, y.clone());
    let integral = m.bind(integral);
    let half = m.bind(y.clone() * m.c(0.5));
    let odd = integral.clone().binary(BinOp::And, half.clone().unary(UnOp::Trunc).compare(CmpOp::Ne, half));
    let sign = m.to_bits(&x).binary(BinOp::And, m.int(m.sign_bit()));
    let signed = m.of_bits(m.to_bits(&size).binary(BinOp::Xor, odd.select(sign, m.int(0))));
    let no_root = m.lt(&x, 0.0).binary(BinOp::And, m.gt(&x, f64::NEG_INFINITY));
    let no_root = no_root.binary(BinOp::And, integral.unary(UnOp::Not));
    let any_nan = m.is_nan(&x).binary(BinOp::Or, m.is_nan(&y));
    let value = no_root.binary(BinOp::Or, any_nan).select(m.c(f64::NAN), signed);
    m.eq(&y, 0.0).binary(BinOp::Or, m.eq(&x, 1.0)).select(m.c(1.0), value)
}

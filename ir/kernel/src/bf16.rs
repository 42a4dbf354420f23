//! Arithmetic with factors of `bf16`, the upper half of an `f32`: exactly what x86's AVX512_BF16 does.
//!
//! A `bf16` has 8 significant bits, so rounding to it moves a number by at most 2⁻⁸ of itself ([`UNIT_ROUNDOFF`]). Kernels hold the bits as `u16`.
//! Semantics are those of `VCVTNEPS2BF16` and `VDPBF16PS` in Intel's *Software Developer's Manual*, volume 2, which do not read MXCSR:
//! to nearest, ties to even; subnormal operands count as zero, and subnormal results are flushed to zero (of their sign). Of a pair the
//! upper product is added first, then the lower one, each as one fused multiply-add. Which bits a NaN has is not part of it.

use crate::stmt::visit_stmts;
use crate::{Expr, Kernel, Stmt};
use tenon_base::DType;

/// How much of itself rounding to `bf16` moves a normal number at most.
pub const UNIT_ROUNDOFF: f64 = 1.0 / 256.0;

/// What has this exponent is zero or subnormal.
const EXPONENT: u32 = 0x7f80_0000;
/// The sign.
const SIGN: u32 = 0x8000_0000;

/// Sums below this (2⁻¹²⁶ - 2⁻¹⁵¹) are below the least normal number when they are rounded to 24 bits: they are flushed.
pub const TINY: f64 = f64::from_bits(0x380f_ffff_f000_0000);

/// The bits of `x` as `bf16`.
pub fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let half = |v: u32| (v >> 16) as u16;
    match bits & EXPONENT {
        0 => half(bits & SIGN),
        EXPONENT if x.is_nan() => half(bits) | 0x40,
        // Infinity stays: its lower half is zero.
        _ => half(bits + 0x7fff + (bits >> 16 & 1)),
    }
}

/// `x`, but zero where it is subnormal.
fn normal(x: f32) -> f64 {
    let bits = x.to_bits();
    f64::from(if bits & EXPONENT == 0 { f32::from_bits(bits & SIGN) } else { x })
}

/// `sum` as `f32`, but zero of its sign where that is subnormal.
pub(crate) fn flushed(sum: f64) -> f32 {
    if sum.abs() < TINY { 0f32.copysign(sum as f32) } else { sum as f32 }
}

/// `a · b + c` of the bits `a` and `b`, rounded once.
pub fn multiply_add(a: u16, b: u16, c: f32) -> f32 {
    let factor = |v: u16| normal(f32::from_bits(u32::from(v) << 16));
    // The product has 16 bits and the sum 24, so what the sum loses in f64 is too small to be on either side of a tie in f32.
    flushed(factor(a) * factor(b) + normal(c))
}

/// `c + a₁ · b₁ + a₀ · b₀`: the pairs are `[lower, upper]`.
pub fn dot(a: [u16; 2], b: [u16; 2], c: f32) -> f32 {
    multiply_add(a[0], b[0], multiply_add(a[1], b[1], c))
}

/// `c` and what one instruction on tiles adds to it: the sum of the products of the `lower` elements of each pair of neighbours and of the
/// upper ones, which are added up apart, one fused multiply-add each, and then each other (`TDPBF16PS`, the same volume).
pub fn step(pairs: impl Iterator<Item = ([u16; 2], [u16; 2])>, c: f32) -> f32 {
    let [lower, upper] = pairs
        .fold([0f32; 2], |[lower, upper], (a, b)| [multiply_add(a[0], b[0], lower), multiply_add(a[1], b[1], upper)]);
    flushed_sum(c, flushed_sum(lower, upper))
}

/// `a + b`, where subnormal operands and results are zero of their sign.
fn flushed_sum(a: f32, b: f32) -> f32 {
    flushed(normal(a) + normal(b))
}

/// Whether `kernel` multiplies factors of `bf16`.
pub fn multiplies(kernel: &Kernel) -> bool {
    let mut found = false;
    visit_stmts(&kernel.body, &mut |s| {
        if let Stmt::Tiles(t) = s {
            found |= kernel.type_of(&t.x).elem == DType::U16;
        }
        s.exprs(&mut |e| {
            e.visit(&mut |e| {
                if let Expr::Dot(b) = e {
                    found |= kernel.type_of(&b[0]).elem == DType::U16;
                }
            });
        });
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_nearest_even() {
        // One, the neighbours of the ties above it, and the ties.
        for (bits, expected) in [
            (0x3f80_0000u32, 0x3f80u16),
            (0x3f80_7fff, 0x3f80),
            (0x3f80_8000, 0x3f80),
            (0x3f80_8001, 0x3f81),
            (0x3f81_8000, 0x3f82),
            // The largest number becomes infinity, which stays; subnormal numbers keep their sign alone.
            (0x7f7f_ffff, 0x7f80),
            (0xff80_0000, 0xff80),
            (0x8070_0000, 0x8000),
            (0x007f_ffff, 0x0000),
            (0x7f80_0001, 0x7fc0),
        ] {
            assert_eq!(round(f32::from_bits(bits)), expected, "{bits:#x}");
        }
        let largest = (0..1u32 << 16).map(|i| f32::from_bits(0x3f80_0000 + (i << 8).min(0x7f_ffff)));
        for x in largest {
            let y = f32::from_bits(u32::from(round(x)) << 16);
            assert!(f64::from((y - x).abs()) <= UNIT_ROUNDOFF * f64::from(x), "{x}");
        }
    }

    #[test]
    fn the_upper_product_is_added_first() {
        let [one, big, less] = [1.0, 1e30, -1e30].map(round);
        assert_eq!(dot([one, big], [one, one], f32::from_bits(u32::from(less) << 16)), 1.0);
        assert_eq!(dot([big, one], [one, one], f32::from_bits(u32::from(less) << 16)), 0.0);
    }

    #[test]
    fn each_product_is_fused() {
        // 2¹²⁸ is no f32, but 2¹²⁸ - 2¹²⁷ is one.
        let p = |e: i32| round(2f32.powi(e));
        assert_eq!(multiply_add(p(64), p(64), -(2f32.powi(127))), 2f32.powi(127));
        // The product is subnormal, the sum is not: nothing is lost.
        assert_eq!(multiply_add(p(-70), p(-70), 2f32.powi(-120)), 2f32.powi(-120) + 2f32.powi(-140));
    }

    #[test]
    fn subnormal_numbers_are_zero() {
        let least = f32::MIN_POSITIVE;
        let zero = |x: f32, sign: bool| x == 0.0 && x.is_sign_negative() == sign;
        assert!(zero(multiply_add(round(1.0), 0x8001, -0.0), true), "a factor");
        assert!(zero(multiply_add(0x8000, round(1.0), -least / 2.0), true), "the sum before");
        let p = |e: i32| round(2f32.powi(e));
        assert!(zero(multiply_add(p(-63) | 0x8000, p(-64), 0.0), true), "a result");
        // Just below the least normal number: rounded to 24 bits it is that, or it is flushed.
        let sum = |x: f64| multiply_add(0, 0, 0.0) + if x.abs() < TINY { 0.0 } else { x as f32 };
        assert_eq!(sum(f64::from(least) - 2f64.powi(-152)), least);
        assert_eq!(sum(f64::from(least) - 2f64.powi(-150)), 0.0);
        assert_eq!(TINY, 2f64.powi(-126) - 2f64.powi(-151));
    }
}

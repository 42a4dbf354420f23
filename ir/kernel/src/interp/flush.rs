//! Arithmetic whose subnormal results are zero of their sign: see [`crate::Program::flush_to_zero`].
//!
//! A result counts as subnormal if it is one after rounding to the type's digits with exponents without end, as x86 has it (Intel's *Software
//! Developer's Manual*, volume 1, 11.5.2.5 and 4.9.1.5). So what is rounded up to the least normal number is flushed too where it would have been
//! smaller with all digits: those results are computed once more, larger by a power of two.

use super::value::{Lane, LaneFn, Lanewise};
use crate::BinOp;
use tenon_base::DType;

/// What the two types have in common.
trait Float: Lane + PartialOrd {
    /// The least normal number.
    const LEAST: Self;
    /// A power of two by which what is near [`Float::LEAST`] is multiplied without loss, and factors of it without overflow.
    const LARGER: Self;
    fn size(self) -> Self;
    fn zero(self) -> Self;
    fn times(self, by: Self) -> Self;
    fn fused(self, by: Self, plus: Self) -> Self;
}

macro_rules! float {
    ($($t:ident: $larger:expr;)*) => {$(
        impl Float for $t {
            const LEAST: $t = $t::MIN_POSITIVE;
            const LARGER: $t = $larger;
            fn size(self) -> $t {
                self.abs()
            }
            fn zero(self) -> $t {
                $t::copysign(0.0, self)
            }
            fn times(self, by: $t) -> $t {
                self * by
            }
            fn fused(self, by: $t, plus: $t) -> $t {
                self.mul_add(by, plus)
            }
        }
    )*};
}
float! {
    f32: f32::from_bits((127 + 64) << 23);
    f64: f64::from_bits((1023 + 512) << 52);
}

/// `result`, or zero of its sign where it is subnormal; `larger` is the same computed [`Float::LARGER`] times as large.
fn flushed<T: Float>(result: T, larger: impl FnOnce() -> T) -> T {
    let size = result.size();
    let subnormal = size < T::LEAST || size == T::LEAST && larger().size() < T::LEAST.times(T::LARGER);
    if subnormal { result.zero() } else { result }
}

/// The factors of a product in the order of their sizes. The smaller one of a product that is small is not large.
fn ordered<T: Float>(x: T, y: T) -> (T, T) {
    if x.size() < y.size() { (x, y) } else { (y, x) }
}

fn multiply<T: Float>(x: T, y: T) -> T {
    let (small, large) = ordered(x, y);
    flushed(x.times(y), || small.times(T::LARGER).times(large))
}

/// A sum near the least normal number has lost nothing by rounding.
fn exact<T: Float>(result: T) -> T {
    flushed(result, || result.times(T::LARGER))
}

macro_rules! lanes {
    ($t:ty, |$($x:ident @ $o:ident),*| $e:expr) => {
        |r, o| {
            for k in 0..o.n {
                $(let $x = <$t as Lane>::of(r[o.$o + k]);)*
                r[o.d + k] = Lane::bits($e);
            }
        }
    };
}

macro_rules! operations {
    ($($binary:ident, $fma:ident: $t:ty;)*) => {$(
        fn $binary(op: BinOp) -> Option<Lanewise> {
            Some(match op {
                BinOp::Add => lanes!($t, |x @ a, y @ b| exact(x + y)),
                BinOp::Sub => lanes!($t, |x @ a, y @ b| exact(x - y)),
                BinOp::Mul => lanes!($t, |x @ a, y @ b| multiply(x, y)),
                BinOp::Div => lanes!($t, |x @ a, y @ b| flushed(x / y, || x * <$t>::LARGER / y)),
                _ => return None,
            })
        }

        fn $fma(fused: bool) -> Lanewise {
            if !fused {
                return lanes!($t, |x @ a, y @ b, z @ c| exact(multiply(x, y) + z));
            }
            lanes!($t, |x @ a, y @ b, z @ c| flushed(x.mul_add(y, z), || {
                let (small, large) = ordered(x, y);
                (small * <$t>::LARGER).fused(large, z * <$t>::LARGER)
            }))
        }
    )*};
}
operations! {
    binary_f32, fma_f32: f32;
    binary_f64, fma_f64: f64;
}

/// `op` on `dtype`, where its results can be subnormal though no operand is.
pub(super) fn binary(op: BinOp, dtype: DType) -> Option<Lanewise> {
    match dtype {
        DType::F32 => binary_f32(op),
        DType::F64 => binary_f64(op),
        _ => None,
    }
}

/// `a * b + c`, rounded once if `fused`.
pub(super) fn fma(dtype: DType, fused: bool) -> Option<Lanewise> {
    match dtype {
        DType::F32 => Some(fma_f32(fused)),
        DType::F64 => Some(fma_f64(fused)),
        _ => None,
    }
}

/// The conversion `from` → `to`, where its results can be subnormal though no operand is. Those to `f16` are not: machines flush none of them.
pub(super) fn cast(from: DType, to: DType) -> Option<LaneFn> {
    (from == DType::F64 && to == DType::F32).then_some(|x| crate::bf16::flushed(f64::of(x)).bits())
}

//! Drawn data, and comparison of tensors.

use std::fmt;
use tenon_base::{DType, Fact, Scalar, Tensor};
use tenon_ir::Tolerance;

/// A small deterministic generator (SplitMix64): the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A stream that depends on `seed` alone.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `0..n`; 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.bits() % n as u64) as usize }
    }

    /// In `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A tensor of `fact` (all extents known) with elements in `range`; without one, `-2..2`, or `0..8` for integers.
///
/// # Panics
/// If an extent is symbolic.
pub fn draw(fact: &Fact, range: Option<(f64, f64)>, seed: u64) -> Tensor {
    let dims = fact.dims().expect("data is drawn for known extents");
    let (lo, hi) = range.unwrap_or(if fact.dtype.is_float() { (-2.0, 2.0) } else { (0.0, 8.0) });
    let mut rng = Rng::new(seed);
    let n: usize = dims.iter().product();
    let values = (0..n).map(|_| match fact.dtype.int_range() {
        Some(_) if fact.dtype == DType::Bool => Scalar::of_int(DType::Bool, i128::from(rng.bits() >> 63)),
        Some((min, max)) => {
            Scalar::of_int(fact.dtype, ((lo + rng.unit() * (hi - lo)).floor() as i128).clamp(min, max))
        }
        None => Scalar::of_f64(fact.dtype, lo + rng.unit() * (hi - lo)),
    });
    Tensor::from_scalars(fact.dtype, &dims, values)
}

/// How far two tensors are apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Largest absolute difference over elements where both are finite.
    pub max_absolute: f64,
    /// Largest difference relative to the expected element, where that is not 0.
    pub max_relative: f64,
    /// The first element out of tolerance: position, found, expected.
    pub mismatch: Option<(usize, f64, f64)>,
    /// Dtype or shape differ: found and expected.
    pub types: Option<(Fact, Fact)>,
}

impl Comparison {
    /// Whether everything is within tolerance.
    pub fn ok(&self) -> bool {
        self.mismatch.is_none() && self.types.is_none()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((found, expected)) = &self.types {
            return write!(f, "expected {expected}, found {found}");
        }
        if let Some((i, found, expected)) = self.mismatch {
            write!(f, "element {i}: expected {expected:?}, found {found:?}; ")?;
        }
        write!(f, "max error {:.2e} absolute, {:.2e} relative", self.max_absolute, self.max_relative)
    }
}

/// Compares by [`Tolerance`], whose absolute part scales with the largest finite magnitude expected (or `scale`, if that
/// is larger). Half floats are rounded once more than the reference, and get an allowance for that.
pub fn compare(found: &Tensor, expected: &Tensor, t: Tolerance, scale: f64) -> Comparison {
    let half = if expected.dtype() == DType::F16 && t != Tolerance::EXACT { 2e-3 } else { 0.0 };
    let largest = expected.to_f64().iter().filter(|v| v.is_finite()).fold(scale, |m, v| m.max(v.abs()));
    compare_by(found, expected, |y| t.absolute * largest + (t.relative + half) * y.abs() + half * 1e-3)
}

/// Compares by NumPy's rule, `|x - y| ≤ atol + rtol·|y|`: that of ONNX's own cases.
pub fn compare_numpy(found: &Tensor, expected: &Tensor, rtol: f64, atol: f64) -> Comparison {
    compare_by(found, expected, |y| atol + rtol * y.abs())
}

fn compare_by(found: &Tensor, expected: &Tensor, allowed: impl Fn(f64) -> f64) -> Comparison {
    let mut c = Comparison::default();
    if found.fact() != expected.fact() {
        c.types = Some((found.fact(), expected.fact()));
        return c;
    }
    for (i, (x, y)) in found.scalars().zip(expected.scalars()).enumerate() {
        let (fx, fy) = (x.as_f64(), y.as_f64());
        let (difference, same) = match (x, y) {
            // 64-bit integers do not fit an `f64`.
            (Scalar::Int(_, a), Scalar::Int(_, b)) => ((a - b).abs() as f64, a == b),
            _ => ((fx - fy).abs(), fx == fy || (fx.is_nan() && fy.is_nan())),
        };
        if same {
            continue;
        }
        if difference.is_finite() {
            c.max_absolute = c.max_absolute.max(difference);
            if fy != 0.0 {
                c.max_relative = c.max_relative.max(difference / fy.abs());
            }
        }
        // Written so that NaN and infinite differences are out of tolerance.
        let near = difference.is_finite() && difference <= allowed(fy);
        if !near && c.mismatch.is_none() {
            c.mismatch = Some((i, fx, fy));
        }
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparison_sees_what_it_must() {
        let t = |v: &[f32]| Tensor::new(&[v.len()], v);
        let c = |a: &[f32], b: &[f32]| compare_numpy(&t(a), &t(b), 1e-3, 1e-6);
        assert!(c(&[1.0, f32::NAN, f32::INFINITY], &[1.0005, f32::NAN, f32::INFINITY]).ok());
        assert_eq!(c(&[1.0, 2.0], &[1.0, 2.1]).mismatch.map(|m| m.0), Some(1));
        assert!(!c(&[f32::NAN], &[1.0]).ok() && !c(&[1.0], &[f32::NAN]).ok());
        assert!(!c(&[f32::INFINITY], &[1.0]).ok() && !c(&[1.0], &[f32::INFINITY]).ok());
        assert!(c(&[1.0], &[1.0, 2.0]).types.is_some());
        let wide = |v| Tensor::scalar::<i64>(v);
        assert!(!compare_numpy(&wide(1 << 62), &wide((1 << 62) + 1), 0.0, 0.0).ok());
        assert!(!compare(&t(&[1.0]), &t(&[1.0000001]), Tolerance::EXACT, 0.0).ok());
    }

    #[test]
    fn data_is_within_its_range() {
        let x = draw(&Fact::of(DType::F32, &[1000]), Some((-0.5, 3.0)), 1);
        assert!(x.to_f64().iter().all(|v| (-0.5..=3.0).contains(v)));
        let x = draw(&Fact::of(DType::U8, &[1000]), None, 2);
        assert!(x.to_i64().iter().all(|v| (0..8).contains(v)) && x.to_i64().contains(&7));
        assert_eq!(x, draw(&Fact::of(DType::U8, &[1000]), None, 2));
    }
}

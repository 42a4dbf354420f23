//! Do two tensors agree?

use tenon::{DType, Tensor};

/// `|found - expected| <= absolute + of_scale * scale + relative * |expected|`, where `scale` is the largest finite
/// magnitude expected in the tensor. For integers and `bool` only `absolute` counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tolerance {
    pub(crate) absolute: f64,
    pub(crate) of_scale: f64,
    pub(crate) relative: f64,
}

impl Tolerance {
    /// Used where nothing else is said: what reordered sums and polynomial transcendentals of `f32` may differ by.
    pub(crate) const DEFAULT: Tolerance = Tolerance { absolute: 1e-7, of_scale: 2e-5, relative: 1e-3 };

    /// The same for results of `dtype`: half precision has 13 bits less.
    pub(crate) fn default_for(dtype: DType) -> Tolerance {
        match dtype {
            DType::F16 => Tolerance { absolute: 1e-6, of_scale: 2e-3, relative: 1e-2 },
            // Two steps of its 8 bits.
            DType::BF16 => Tolerance { absolute: 1e-6, of_scale: 1.6e-2, relative: 2e-2 },
            _ => Tolerance::DEFAULT,
        }
    }

    /// The same where `n` kernels one behind the other round the factors of their products to `bf16`. Each of two factors moves by at most
    /// 2⁻⁸ of itself, so a sum of products by 2⁻⁷ of its size; what `n` of them add is independent, and grows with `√n`.
    pub(crate) fn rounding(self, n: usize) -> Tolerance {
        let of_scale = 2.0 * tenon::kernel::bf16::UNIT_ROUNDOFF * (n as f64).sqrt();
        Tolerance { of_scale: self.of_scale.max(of_scale), ..self }
    }

    fn limit(&self, dtype: DType, expected: f64, scale: f64) -> f64 {
        if dtype.is_float() {
            self.absolute + self.of_scale * scale + self.relative * expected.abs()
        } else {
            self.absolute
        }
    }
}

/// The result of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Comparison {
    /// Largest difference of finite elements.
    pub(crate) max_abs: f64,
    /// Largest difference as a part of what is allowed there; above 1 is a failure.
    pub(crate) worst: f64,
    /// Elements that differ by more than is allowed.
    pub(crate) wrong: usize,
    /// Elements.
    pub(crate) total: usize,
    /// The first wrong element: its position, expected, found.
    pub(crate) first: Option<(usize, f64, f64)>,
    /// Dtype or shape disagree: expected, found. Elements are not compared then.
    pub(crate) fact: Option<(String, String)>,
}

impl Comparison {
    /// Whether they agree.
    pub(crate) fn passes(&self) -> bool {
        self.wrong == 0 && self.fact.is_none()
    }

    /// What is wrong, in a line.
    pub(crate) fn explain(&self) -> String {
        match (&self.fact, &self.first) {
            (Some((expected, found)), _) => format!("expected {expected}, found {found}"),
            (None, Some((i, expected, found))) => {
                let (wrong, total) = (self.wrong, self.total);
                format!(
                    "{wrong} of {total} elements differ; the first, [{i}]: expected {expected:e}, found {found:e}"
                )
            }
            (None, None) => format!("largest difference {:.1e}", self.max_abs),
        }
    }
}

/// Compares `found` with `expected`.
pub(crate) fn compare(expected: &Tensor, found: &Tensor, tolerance: &Tolerance) -> Comparison {
    let total = expected.len();
    let mut c = Comparison { max_abs: 0.0, worst: 0.0, wrong: 0, total, first: None, fact: None };
    if expected.fact() != found.fact() {
        c.fact = Some((expected.fact().to_string(), found.fact().to_string()));
        return c;
    }
    if expected.bytes() == found.bytes() {
        return c;
    }
    let dtype = expected.dtype();
    if !dtype.is_float() {
        // Exact: `f64` would round 64-bit integers.
        for (i, (e, f)) in expected.scalars().zip(found.scalars()).enumerate() {
            let d = e.as_int().abs_diff(f.as_int()) as f64;
            c.note(i, e.as_f64(), f.as_f64(), d, tolerance.limit(dtype, 0.0, 0.0));
        }
        return c;
    }
    let (e, f) = (expected.to_f64(), found.to_f64());
    let scale = e.iter().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(v.abs()));
    for (i, (&e, &f)) in e.iter().zip(&f).enumerate() {
        let same = e == f || (e.is_nan() && f.is_nan());
        let d = match (same, e.is_finite() && f.is_finite()) {
            (true, _) => 0.0,
            (false, true) => (e - f).abs(),
            (false, false) => f64::INFINITY,
        };
        c.note(i, e, f, d, tolerance.limit(dtype, if e.is_finite() { e } else { 0.0 }, scale));
    }
    c
}

impl Comparison {
    fn note(&mut self, i: usize, expected: f64, found: f64, difference: f64, limit: f64) {
        if difference.is_finite() {
            self.max_abs = self.max_abs.max(difference);
        }
        let part = match (difference == 0.0, limit > 0.0) {
            (true, _) => 0.0,
            (false, true) => difference / limit,
            (false, false) => f64::INFINITY,
        };
        self.worst = self.worst.max(part);
        if difference > limit {
            self.wrong += 1;
            self.first.get_or_insert((i, expected, found));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABS: Tolerance = Tolerance { absolute: 0.1, of_scale: 0.0, relative: 0.0 };

    #[test]
    fn the_first_wrong_element_is_named() {
        let e = Tensor::new(&[3], &[1f32, 2.0, 3.0]);
        let f = Tensor::new(&[3], &[1.05f32, 2.5, 4.0]);
        let c = compare(&e, &f, &ABS);
        assert_eq!((c.wrong, c.first), (2, Some((1, 2.0, 2.5))));
        assert!(!c.passes() && c.worst > 9.9 && c.max_abs == 1.0);
    }

    #[test]
    fn nan_and_infinity_must_match() {
        let e = Tensor::new(&[4], &[f32::NAN, f32::INFINITY, 1.0, f32::INFINITY]);
        assert!(compare(&e, &e.clone(), &ABS).passes());
        let f = Tensor::new(&[4], &[f32::NAN, f32::NEG_INFINITY, f32::NAN, f32::INFINITY]);
        assert_eq!(compare(&e, &f, &ABS).wrong, 2);
    }

    #[test]
    fn scale_is_of_the_whole_tensor() {
        let t = Tolerance { absolute: 0.0, of_scale: 1e-3, relative: 0.0 };
        let e = Tensor::new(&[2], &[1000f32, 0.0]);
        let f = Tensor::new(&[2], &[1000f32, 0.9]);
        assert!(compare(&e, &f, &t).passes());
    }

    #[test]
    fn integers_are_exact_and_facts_count() {
        let e = Tensor::new(&[1], &[i64::MAX]);
        let f = Tensor::new(&[1], &[i64::MAX - 1]);
        assert!(!compare(&e, &f, &Tolerance::DEFAULT).passes());
        assert!(compare(&e, &f, &Tolerance { absolute: 1.0, ..ABS }).passes());
        let g = Tensor::new(&[1], &[1i32]);
        assert!(compare(&e, &g, &ABS).explain().contains("expected i64[1], found i32[1]"));
    }
}

//! Elements in the wide form that reference evaluation computes in, converted many at once: the dtype is looked at once for all.

use crate::{DType, Element, Scalar, Tensor};
use half::f16;

/// What elements are computed in: `f64` holds every float exactly, `i128` every integer and `bool`; `i64` does so modulo 2⁶⁴, which is all that
/// sums and conversions of integers need.
pub trait Wide: Copy + Default + Send + Sync + 'static {
    /// An element of a tensor in this form, as [`Scalar::as_f64`] or [`Scalar::as_int`] have it.
    fn of(x: Scalar) -> Self;
    /// As an element of `dtype`: rounded or wrapped, as [`Scalar::of_f64`] or [`Scalar::of_int`] do.
    fn to(self, dtype: DType) -> Scalar;
    /// The same as [`Wide::of`] for an element of a native type.
    fn of_native<T: Native>(x: T) -> Self;
    /// The same as [`Wide::to`] for an element of a native type.
    fn to_native<T: Native>(self) -> T;
}

impl Wide for f64 {
    #[inline]
    fn of(x: Scalar) -> f64 {
        x.as_f64()
    }
    #[inline]
    fn to(self, dtype: DType) -> Scalar {
        Scalar::of_f64(dtype, self)
    }
    #[inline]
    fn of_native<T: Native>(x: T) -> f64 {
        x.to_f64()
    }
    #[inline]
    fn to_native<T: Native>(self) -> T {
        T::of_f64(self)
    }
}

impl Wide for i128 {
    #[inline]
    fn of(x: Scalar) -> i128 {
        x.as_int()
    }
    #[inline]
    fn to(self, dtype: DType) -> Scalar {
        Scalar::of_int(dtype, self)
    }
    #[inline]
    fn of_native<T: Native>(x: T) -> i128 {
        x.to_i128()
    }
    #[inline]
    fn to_native<T: Native>(self) -> T {
        T::of_i128(self)
    }
}

impl Wide for i64 {
    #[inline]
    fn of(x: Scalar) -> i64 {
        x.as_int() as i64
    }
    #[inline]
    fn to(self, dtype: DType) -> Scalar {
        Scalar::of_int(dtype, self.into())
    }
    #[inline]
    fn of_native<T: Native>(x: T) -> i64 {
        x.to_i128() as i64
    }
    #[inline]
    fn to_native<T: Native>(self) -> T {
        T::of_i128(self.into())
    }
}

/// An element type that Rust computes with.
pub trait Native: Element {
    /// As [`Scalar::as_f64`].
    fn to_f64(self) -> f64;
    /// As [`Scalar::of_f64`].
    fn of_f64(v: f64) -> Self;
    /// As [`Scalar::as_int`].
    fn to_i128(self) -> i128;
    /// As [`Scalar::of_int`].
    fn of_i128(v: i128) -> Self;
}

macro_rules! native {
    (float $($t:ty, $narrow:expr;)*) => {$(
        impl Native for $t {
            #[inline]
            fn to_f64(self) -> f64 { self.into() }
            #[inline]
            fn of_f64(v: f64) -> Self { $narrow(v) }
            #[inline]
            fn to_i128(self) -> i128 { f64::from(self) as i128 }
            #[inline]
            fn of_i128(v: i128) -> Self { $narrow(v as f64) }
        }
    )*};
    (int $($t:ty)*) => {$(
        impl Native for $t {
            #[inline]
            fn to_f64(self) -> f64 { self as f64 }
            #[inline]
            fn of_f64(v: f64) -> Self {
                // The narrower conversion is the faster one; both saturate, and what is wider wraps.
                if v.abs() < 9e18 { v as i64 as $t } else { v as i128 as $t }
            }
            #[inline]
            fn to_i128(self) -> i128 { self.into() }
            #[inline]
            fn of_i128(v: i128) -> Self { v as $t }
        }
    )*};
}

native! { float f32, |v| v as f32; f64, |v| v; f16, f16::from_f64; }
native! { int i8 i16 i32 i64 u8 u16 u32 u64 }

impl Native for bool {
    #[inline]
    fn to_f64(self) -> f64 {
        f64::from(u8::from(self))
    }
    #[inline]
    fn of_f64(v: f64) -> bool {
        v != 0.0
    }
    #[inline]
    fn to_i128(self) -> i128 {
        self.into()
    }
    #[inline]
    fn of_i128(v: i128) -> bool {
        v != 0
    }
}

/// Runs `$body` with `$t` as the native type of a dtype, or `$other` where it has none.
macro_rules! with_native {
    ($dtype:expr, $t:ident => $body:expr, $other:expr) => {
        with_native!(@ $dtype, $t, $body, $other, F32 f32, F64 f64, F16 f16, I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64,
            Bool bool)
    };
    (@ $dtype:expr, $t:ident, $body:expr, $other:expr, $($d:ident $n:ty),*) => {
        match $dtype {
            $(DType::$d => { type $t = $n; $body })*
            _ => $other,
        }
    };
}

/// Fills `out` with elements of `dtype` from their bytes.
pub fn read<W: Wide>(dtype: DType, bytes: &[u8], out: &mut [W]) {
    // Natively the size is known to whoever compiles this: an element is one load.
    with_native!(
        dtype,
        T => out.iter_mut().zip(bytes.chunks_exact(size_of::<T>())).for_each(|(o, b)| *o = W::of_native(T::read_le(b))),
        out.iter_mut().zip(bytes.chunks_exact(dtype.size())).for_each(|(o, b)| *o = W::of(Scalar::from_le_bytes(dtype, b)))
    );
}

/// Appends `values` as elements of `dtype`.
pub fn write<W: Wide>(dtype: DType, values: &[W], out: &mut Vec<u8>) {
    let from = out.len();
    out.resize(from + values.len() * dtype.size(), 0);
    let out = &mut out[from..];
    with_native!(
        dtype,
        T => values.iter().zip(out.chunks_exact_mut(size_of::<T>())).for_each(|(v, b)| v.to_native::<T>().write_le(b)),
        values.iter().zip(out.chunks_exact_mut(dtype.size())).for_each(|(v, b)| v.to(dtype).write_le(b))
    );
}

impl Tensor {
    /// All elements in a wide form.
    pub fn to_wide<W: Wide>(&self) -> Vec<W> {
        let mut all = vec![W::default(); self.len()];
        read(self.dtype(), self.bytes(), &mut all);
        all
    }

    /// A tensor of `dtype` from elements in a wide form, rounded or wrapped.
    ///
    /// # Panics
    /// If the number of values is not the product of `shape`: a bug of the caller, never of a model.
    pub fn of_wide<W: Wide>(dtype: DType, shape: &[usize], values: &[W]) -> Tensor {
        let mut data = Vec::with_capacity(values.len() * dtype.size());
        write(dtype, values, &mut data);
        Tensor::from_bytes(dtype, shape, data.into()).expect("one value an element")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is converted many at once is what is converted one by one, for every dtype and every kind of value.
    #[test]
    fn all_dtypes_convert_as_their_scalars_do() {
        let floats =
            [0.0, -0.0, 1.5, -2.5, 127.6, -129.0, 255.9, 300.0, 65504.0, 1e5, -1e10, 3e9, 9.3e18, 2e19, 1e30, -1e40];
        let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e-8, 6e-8, 1e-45];
        let floats: Vec<f64> = floats.into_iter().chain(special).collect();
        let ints: Vec<i128> =
            (0..66).flat_map(|s| [1i128 << s, -(1i128 << s), (1i128 << s) - 1]).chain([0]).collect();
        for dtype in DType::ALL.into_iter().chain(DType::STORED) {
            let of_floats = Tensor::of_wide(dtype, &[floats.len()], &floats);
            let one_by_one: Vec<u8> = floats.iter().flat_map(|v| Scalar::of_f64(dtype, *v).to_le_bytes()).collect();
            assert_eq!(of_floats.bytes(), &one_by_one, "{dtype}");
            let of_ints = Tensor::of_wide(dtype, &[ints.len()], &ints);
            let one_by_one: Vec<u8> = ints.iter().flat_map(|v| Scalar::of_int(dtype, *v).to_le_bytes()).collect();
            assert_eq!(of_ints.bytes(), &one_by_one, "{dtype}");
            for t in [of_floats, of_ints] {
                let (f, i) = (t.to_wide::<f64>(), t.to_wide::<i128>());
                for (s, (f, i)) in t.scalars().zip(f.into_iter().zip(i)) {
                    assert_eq!((f.to_bits(), i), (s.as_f64().to_bits(), s.as_int()), "{dtype} {s}");
                }
                if !dtype.is_float() {
                    assert_eq!(Tensor::of_wide(dtype, t.shape(), &t.to_wide::<i64>()), t, "{dtype}");
                }
            }
        }
    }
}

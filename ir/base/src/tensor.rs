//! Dense tensors in row-major order.

use crate::{DType, Element, Fact, Scalar};
use bytes::Bytes;
use std::fmt;

/// A dense, row-major, immutable tensor. Elements are little-endian bytes, so a tensor may be a slice of a mapped
/// model file; cloning is cheap.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Bytes,
    /// Whether the bytes lie in a [`crate::Memory`].
    resident: bool,
}

/// Tensors are what they hold, wherever that lies.
impl PartialEq for Tensor {
    fn eq(&self, other: &Tensor) -> bool {
        (self.dtype, &self.shape, &self.data) == (other.dtype, &other.shape, &other.data)
    }
}
impl Eq for Tensor {}

/// Why bytes are not a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TensorError {
    /// The byte count does not fit dtype and shape.
    Length {
        /// Bytes the shape asks for.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// The product of the extents does not fit in memory.
    Overflow,
}

impl fmt::Display for TensorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TensorError::Length { expected, found } => {
                write!(f, "expected {expected} bytes of data, found {found}")
            }
            TensorError::Overflow => f.write_str("the tensor is larger than the address space"),
        }
    }
}

impl std::error::Error for TensorError {}

impl Tensor {
    /// A tensor over `data`, which must hold exactly the elements of `shape` as little-endian bytes.
    pub fn from_bytes(dtype: DType, shape: &[usize], data: Bytes) -> Result<Tensor, TensorError> {
        let expected = shape
            .iter()
            .try_fold(dtype.size(), |n, &d| n.checked_mul(d))
            .filter(|n| isize::try_from(*n).is_ok())
            .ok_or(TensorError::Overflow)?;
        if data.len() != expected {
            return Err(TensorError::Length { expected, found: data.len() });
        }
        Ok(Tensor { dtype, shape: shape.to_vec(), data, resident: false })
    }

    /// A tensor whose bytes, as many as it has, are part of a [`crate::Memory`].
    pub(crate) fn in_memory(dtype: DType, shape: &[usize], data: Bytes) -> Tensor {
        Tensor { dtype, shape: shape.to_vec(), data, resident: true }
    }

    /// A tensor of `values`.
    ///
    /// # Panics
    /// If the number of values is not the product of `shape`: a bug of the caller, never of a model.
    pub fn new<T: Element>(shape: &[usize], values: &[T]) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "shape {shape:?} and element count differ");
        let size = T::DTYPE.size();
        let mut data = vec![0; values.len() * size];
        for (v, b) in values.iter().zip(data.chunks_exact_mut(size)) {
            v.write_le(b);
        }
        Tensor { dtype: T::DTYPE, shape: shape.to_vec(), data: data.into(), resident: false }
    }

    /// A rank-0 tensor.
    pub fn scalar<T: Element>(value: T) -> Tensor {
        Tensor::new(&[], &[value])
    }

    /// `shape` filled with `value`.
    pub fn full(shape: &[usize], value: Scalar) -> Tensor {
        let n: usize = shape.iter().product();
        Tensor {
            dtype: value.dtype(),
            shape: shape.to_vec(),
            data: value.to_le_bytes().repeat(n).into(),
            resident: false,
        }
    }

    /// This tensor in the front corner of one of the extents `dims`, zeros behind its ends.
    ///
    /// # Errors
    /// Other ranks, or an extent that is larger than the one of `dims`.
    pub fn widened(&self, dims: &[usize]) -> Result<Tensor, String> {
        if dims.len() != self.shape.len() || self.shape.iter().zip(dims).any(|(a, b)| a > b) {
            return Err(format!("{} does not fit into {dims:?}", self.fact()));
        }
        let size = self.dtype.size();
        let mut data = vec![0; dims.iter().product::<usize>() * size];
        let row = self.shape.last().copied().unwrap_or(1);
        let rows = self.len().checked_div(row).unwrap_or(0);
        for r in 0..rows {
            // The row's place: its index along the outer axes, from the innermost on.
            let (mut rest, mut at, mut stride) = (r, 0, dims.last().copied().unwrap_or(1));
            for (n, room) in self.shape.iter().zip(dims).rev().skip(1) {
                at += rest % n * stride;
                rest /= n;
                stride *= room;
            }
            data[at * size..(at + row) * size].copy_from_slice(&self.data[r * row * size..(r + 1) * row * size]);
        }
        Ok(Tensor { dtype: self.dtype, shape: dims.to_vec(), data: data.into(), resident: false })
    }

    /// A tensor from scalars of one dtype.
    pub fn from_scalars(dtype: DType, shape: &[usize], values: impl IntoIterator<Item = Scalar>) -> Tensor {
        let size = dtype.size();
        let mut data = Vec::with_capacity(shape.iter().product::<usize>() * size);
        for v in values {
            debug_assert_eq!(v.dtype(), dtype);
            let from = data.len();
            data.resize(from + size, 0);
            v.write_le(&mut data[from..]);
        }
        assert_eq!(shape.iter().product::<usize>() * dtype.size(), data.len(), "shape and element count differ");
        Tensor { dtype, shape: shape.to_vec(), data: data.into(), resident: false }
    }

    /// `f64` values rounded (or truncated, saturating, for integers) to `dtype`.
    pub fn from_f64(dtype: DType, shape: &[usize], values: &[f64]) -> Tensor {
        Tensor::of_wide(dtype, shape, values)
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Little-endian bytes of all elements.
    pub fn bytes(&self) -> &Bytes {
        &self.data
    }

    /// Its bytes, if they lie in memory of this process that lives as long as they are held, aligned to [`crate::Memory::ALIGN`]: code may
    /// refer to them by their address. A file that is mapped may change.
    pub fn resident(&self) -> Option<&Bytes> {
        Some(&self.data).filter(|b| self.resident && b.as_ptr().addr().is_multiple_of(crate::Memory::ALIGN))
    }

    /// Its type.
    pub fn fact(&self) -> Fact {
        Fact::of(self.dtype, &self.shape)
    }

    /// The same elements in another shape of the same element count.
    ///
    /// # Panics
    /// If the counts differ.
    #[must_use]
    pub fn reshaped(&self, shape: &[usize]) -> Tensor {
        assert_eq!(self.len(), shape.iter().product::<usize>(), "reshape changes the element count");
        Tensor { shape: shape.to_vec(), ..self.clone() }
    }

    /// The same bytes under the dtype that kernels know: see [`DType::carrier`].
    #[must_use]
    pub fn carried(&self) -> Tensor {
        Tensor { dtype: self.dtype.carrier(), ..self.clone() }
    }

    /// All elements as `T`.
    ///
    /// # Panics
    /// If `T` is not the tensor's dtype.
    pub fn to_vec<T: Element>(&self) -> Vec<T> {
        assert_eq!(T::DTYPE, self.dtype, "a {} tensor read as {}", self.dtype, T::DTYPE);
        self.data.chunks_exact(self.dtype.size()).map(T::read_le).collect()
    }

    /// Element `i` of the row-major order.
    pub fn get(&self, i: usize) -> Scalar {
        let s = self.dtype.size();
        Scalar::from_le_bytes(self.dtype, &self.data[i * s..(i + 1) * s])
    }

    /// All elements as scalars.
    pub fn scalars(&self) -> impl Iterator<Item = Scalar> + '_ {
        self.data.chunks_exact(self.dtype.size()).map(|b| Scalar::from_le_bytes(self.dtype, b))
    }

    /// All elements as `f64`.
    pub fn to_f64(&self) -> Vec<f64> {
        self.to_wide()
    }

    /// All elements as `i64` (floats are truncated).
    pub fn to_i64(&self) -> Vec<i64> {
        match self.dtype {
            DType::I64 => self.to_vec(),
            DType::I32 => self.to_vec::<i32>().into_iter().map(i64::from).collect(),
            DType::I16 => self.to_vec::<i16>().into_iter().map(i64::from).collect(),
            DType::I8 => self.bytes().iter().map(|b| i64::from(*b as i8)).collect(),
            DType::U8 => self.bytes().iter().map(|b| i64::from(*b)).collect(),
            _ => self.scalars().map(|s| s.as_int() as i64).collect(),
        }
    }
}

/// Shows dtype, shape and at most the first eight elements.
impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {{", self.fact())?;
        for s in self.scalars().take(8) {
            write!(f, " {s}")?;
        }
        f.write_str(if self.len() > 8 { " … }" } else { " }" })
    }
}

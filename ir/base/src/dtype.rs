//! Element types and scalar constants.

use crate::narrow::{SmallFloat, of_bf16, of_e8m0, to_bf16, to_e8m0};
use half::f16;
use std::fmt;
use std::str::FromStr;

/// The type of one tensor element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision.
    F64,
    /// IEEE 754 half precision: stored as such, computed in `f32`.
    F16,
    /// Signed integers, two's complement, wrapping.
    I8,
    /// 16-bit signed.
    I16,
    /// 32-bit signed.
    I32,
    /// 64-bit signed.
    I64,
    /// Unsigned integers, wrapping.
    U8,
    /// 16-bit unsigned.
    U16,
    /// 32-bit unsigned.
    U32,
    /// 64-bit unsigned.
    U64,
    /// One byte, 0 or 1.
    Bool,
    /// The upper half of an `f32`. This and all that follow are only stored: see [`crate::narrow`].
    BF16,
    /// 8-bit float with 4 bits of exponent, without infinity.
    F8E4M3,
    /// The same without negative zero.
    F8E4M3Uz,
    /// 8-bit float with 5 bits of exponent.
    F8E5M2,
    /// The same without infinity and negative zero.
    F8E5M2Uz,
    /// A power of two.
    F8E8M0,
    /// 4-bit float, one a byte.
    F4E2M1,
    /// 4-bit signed, one a byte.
    I4,
    /// 4-bit unsigned, one a byte.
    U4,
    /// 2-bit signed, one a byte.
    I2,
    /// 2-bit unsigned, one a byte.
    U2,
}

impl DType {
    /// Every dtype that kernels know, in declaration order.
    pub const ALL: [DType; 12] = [
        DType::F32,
        DType::F64,
        DType::F16,
        DType::I8,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::U8,
        DType::U16,
        DType::U32,
        DType::U64,
        DType::Bool,
    ];

    /// The dtypes that are only stored, in declaration order.
    pub const STORED: [DType; 11] = [
        DType::BF16,
        DType::F8E4M3,
        DType::F8E4M3Uz,
        DType::F8E5M2,
        DType::F8E5M2Uz,
        DType::F8E8M0,
        DType::F4E2M1,
        DType::I4,
        DType::U4,
        DType::I2,
        DType::U2,
    ];

    /// The dtype that kernels see of it: its bits, for one that is only stored; else itself.
    pub const fn carrier(self) -> DType {
        match self {
            DType::BF16 => DType::U16,
            DType::F8E4M3 | DType::F8E4M3Uz | DType::F8E5M2 | DType::F8E5M2Uz | DType::F8E8M0 | DType::F4E2M1 => {
                DType::U8
            }
            DType::I4 | DType::U4 | DType::I2 | DType::U2 => DType::I8,
            d => d,
        }
    }

    /// Whether it is only stored.
    pub const fn is_stored(self) -> bool {
        matches!(
            self,
            DType::BF16
                | DType::F8E4M3
                | DType::F8E4M3Uz
                | DType::F8E5M2
                | DType::F8E5M2Uz
                | DType::F8E8M0
                | DType::F4E2M1
                | DType::I4
                | DType::U4
                | DType::I2
                | DType::U2
        )
    }

    /// Bits that an element has of its bytes.
    pub const fn bits(self) -> usize {
        match self {
            DType::F4E2M1 | DType::I4 | DType::U4 => 4,
            DType::I2 | DType::U2 => 2,
            d => d.size() * 8,
        }
    }

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::I8 | DType::U8 | DType::Bool => 1,
            DType::F8E4M3 | DType::F8E4M3Uz | DType::F8E5M2 | DType::F8E5M2Uz | DType::F8E8M0 => 1,
            DType::F4E2M1 | DType::I4 | DType::U4 | DType::I2 | DType::U2 => 1,
            DType::F16 | DType::BF16 | DType::I16 | DType::U16 => 2,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F64 | DType::I64 | DType::U64 => 8,
        }
    }

    /// The name in every text form: `f32`, `i64`, `bool`, …
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::F16 => "f16",
            DType::I8 => "i8",
            DType::I16 => "i16",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::U8 => "u8",
            DType::U16 => "u16",
            DType::U32 => "u32",
            DType::U64 => "u64",
            DType::Bool => "bool",
            DType::BF16 => "bf16",
            DType::F8E4M3 => "f8e4m3fn",
            DType::F8E4M3Uz => "f8e4m3fnuz",
            DType::F8E5M2 => "f8e5m2",
            DType::F8E5M2Uz => "f8e5m2fnuz",
            DType::F8E8M0 => "f8e8m0",
            DType::F4E2M1 => "f4e2m1",
            DType::I4 => "i4",
            DType::U4 => "u4",
            DType::I2 => "i2",
            DType::U2 => "u2",
        }
    }

    /// A floating-point number of any size.
    pub const fn is_float(self) -> bool {
        self.int_range().is_none()
    }

    /// A signed integer.
    pub const fn is_signed_int(self) -> bool {
        matches!(self, DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::I4 | DType::I2)
    }

    /// An unsigned integer (not `bool`).
    pub const fn is_unsigned_int(self) -> bool {
        matches!(self, DType::U8 | DType::U16 | DType::U32 | DType::U64 | DType::U4 | DType::U2)
    }

    /// An integer of either sign (not `bool`).
    pub const fn is_int(self) -> bool {
        self.is_signed_int() || self.is_unsigned_int()
    }

    /// The smallest and largest value of an integer type or `bool`; `None` for floats.
    pub const fn int_range(self) -> Option<(i128, i128)> {
        Some(match self {
            DType::Bool => (0, 1),
            DType::I8 => (i8::MIN as i128, i8::MAX as i128),
            DType::I16 => (i16::MIN as i128, i16::MAX as i128),
            DType::I32 => (i32::MIN as i128, i32::MAX as i128),
            DType::I64 => (i64::MIN as i128, i64::MAX as i128),
            DType::U8 => (0, u8::MAX as i128),
            DType::U16 => (0, u16::MAX as i128),
            DType::U32 => (0, u32::MAX as i128),
            DType::U64 => (0, u64::MAX as i128),
            DType::I4 => (-8, 7),
            DType::U4 => (0, 15),
            DType::I2 => (-2, 1),
            DType::U2 => (0, 3),
            _ => return None,
        })
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        DType::ALL
            .into_iter()
            .chain(DType::STORED)
            .find(|d| d.name() == s)
            .ok_or_else(|| format!("unknown dtype `{s}`"))
    }
}

/// A Rust type that a tensor can hold.
pub trait Element: Copy + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// Its dtype.
    const DTYPE: DType;
    /// Reads one element from exactly `DTYPE.size()` little-endian bytes.
    fn read_le(bytes: &[u8]) -> Self;
    /// Writes one element to exactly `DTYPE.size()` little-endian bytes.
    fn write_le(self, bytes: &mut [u8]);
    /// As a dtype-erased constant.
    fn to_scalar(self) -> Scalar;
}

macro_rules! element {
    ($($t:ty, $d:ident, $wide:ty, $v:ident);* $(;)?) => {$(
        impl Element for $t {
            const DTYPE: DType = DType::$d;
            #[inline]
            fn read_le(bytes: &[u8]) -> Self {
                let mut b = [0; size_of::<$t>()];
                b.copy_from_slice(bytes);
                <$t>::from_le_bytes(b)
            }
            #[inline]
            fn write_le(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
            #[inline]
            fn to_scalar(self) -> Scalar {
                Scalar::$v(DType::$d, <$wide>::from(self))
            }
        }
    )*};
}

element! {
    f32, F32, f64, Float;
    f64, F64, f64, Float;
    f16, F16, f64, Float;
    i8, I8, i128, Int;
    i16, I16, i128, Int;
    i32, I32, i128, Int;
    i64, I64, i128, Int;
    u8, U8, i128, Int;
    u16, U16, i128, Int;
    u32, U32, i128, Int;
    u64, U64, i128, Int;
}

impl Element for bool {
    const DTYPE: DType = DType::Bool;
    #[inline]
    fn read_le(bytes: &[u8]) -> Self {
        bytes[0] != 0
    }
    #[inline]
    fn write_le(self, bytes: &mut [u8]) {
        bytes[0] = u8::from(self);
    }
    #[inline]
    fn to_scalar(self) -> Scalar {
        Scalar::Int(DType::Bool, i128::from(self))
    }
}

/// One constant with its dtype: floats as the `f64` that holds them exactly, integers and `bool` as `i128`.
#[derive(Clone, Copy, Debug)]
pub enum Scalar {
    /// Any float.
    Float(DType, f64),
    /// Any integer, or `bool` as 0 and 1.
    Int(DType, i128),
}

/// Two scalars are equal when their dtype and bits are: `NaN` equals itself, `-0` differs from `0`.
impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Scalar::Float(d, x), Scalar::Float(e, y)) => d == e && x.to_bits() == y.to_bits(),
            (Scalar::Int(d, x), Scalar::Int(e, y)) => d == e && x == y,
            _ => false,
        }
    }
}
impl Eq for Scalar {}
impl std::hash::Hash for Scalar {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        match self {
            Scalar::Float(d, x) => (d, x.to_bits()).hash(state),
            Scalar::Int(d, x) => (d, x).hash(state),
        }
    }
}

impl Scalar {
    /// The value `v` rounded (floats) or wrapped (integers) to `dtype`; for `bool`, `v != 0`.
    pub fn of_f64(dtype: DType, v: f64) -> Scalar {
        match dtype {
            DType::F64 => Scalar::Float(dtype, v),
            DType::F32 => Scalar::Float(dtype, f64::from(v as f32)),
            DType::F16 => Scalar::Float(dtype, f64::from(f16::from_f64(v))),
            DType::BF16 => Scalar::Float(dtype, of_bf16(to_bf16(v))),
            DType::F8E8M0 => Scalar::Float(dtype, of_e8m0(to_e8m0(v))),
            d if d.is_float() => {
                // By way of `f32`, as kernels do.
                let stored = SmallFloat::of(d).map_or(0.0, |f| f.decode(f.encode(f64::from(v as f32))));
                Scalar::Float(d, stored)
            }
            DType::Bool => Scalar::Int(dtype, i128::from(v != 0.0)),
            _ => Scalar::of_int(dtype, v as i128),
        }
    }

    /// The integer `v` wrapped to `dtype` (or rounded, for floats).
    pub fn of_int(dtype: DType, v: i128) -> Scalar {
        match dtype {
            d if d.is_float() => Scalar::of_f64(dtype, v as f64),
            DType::Bool => Scalar::Int(dtype, i128::from(v != 0)),
            _ => {
                let bits = dtype.bits() as u32;
                let masked = v & ((1i128 << bits) - 1);
                let wrapped = if dtype.is_signed_int() && masked >> (bits - 1) != 0 {
                    masked - (1i128 << bits)
                } else {
                    masked
                };
                Scalar::Int(dtype, wrapped)
            }
        }
    }

    /// Its dtype.
    pub const fn dtype(self) -> DType {
        match self {
            Scalar::Float(d, _) | Scalar::Int(d, _) => d,
        }
    }

    /// As `f64` (exact for floats and for integers up to 2^53).
    pub fn as_f64(self) -> f64 {
        match self {
            Scalar::Float(_, v) => v,
            Scalar::Int(_, v) => v as f64,
        }
    }

    /// As an integer; floats are truncated and saturate.
    pub fn as_int(self) -> i128 {
        match self {
            Scalar::Float(_, v) => v as i128,
            Scalar::Int(_, v) => v,
        }
    }

    /// Little-endian bytes, `dtype().size()` of them.
    pub fn to_le_bytes(self) -> Vec<u8> {
        let mut bytes = vec![0; self.dtype().size()];
        self.write_le(&mut bytes);
        bytes
    }

    /// Writes its little-endian bytes to exactly `dtype().size()` bytes.
    pub fn write_le(self, bytes: &mut [u8]) {
        match self {
            Scalar::Float(DType::F32, v) => (v as f32).write_le(bytes),
            Scalar::Float(DType::F16, v) => f16::from_f64(v).write_le(bytes),
            Scalar::Float(DType::BF16, v) => to_bf16(v).write_le(bytes),
            Scalar::Float(DType::F8E8M0, v) => bytes[0] = to_e8m0(v),
            Scalar::Float(d, v) if d.is_stored() => bytes[0] = SmallFloat::of(d).map_or(0, |f| f.encode(v)),
            Scalar::Float(_, v) => v.write_le(bytes),
            Scalar::Int(d, v) => bytes.copy_from_slice(&v.to_le_bytes()[..d.size()]),
        }
    }

    /// Reads a scalar of `dtype` from its little-endian bytes.
    pub fn from_le_bytes(dtype: DType, b: &[u8]) -> Scalar {
        match dtype {
            DType::F32 => f32::read_le(b).to_scalar(),
            DType::F64 => f64::read_le(b).to_scalar(),
            DType::F16 => f16::read_le(b).to_scalar(),
            DType::I8 => i8::read_le(b).to_scalar(),
            DType::I16 => i16::read_le(b).to_scalar(),
            DType::I32 => i32::read_le(b).to_scalar(),
            DType::I64 => i64::read_le(b).to_scalar(),
            DType::U8 => u8::read_le(b).to_scalar(),
            DType::U16 => u16::read_le(b).to_scalar(),
            DType::U32 => u32::read_le(b).to_scalar(),
            DType::U64 => u64::read_le(b).to_scalar(),
            DType::Bool => bool::read_le(b).to_scalar(),
            DType::BF16 => Scalar::Float(dtype, of_bf16(u16::read_le(b))),
            DType::F8E8M0 => Scalar::Float(dtype, of_e8m0(b[0])),
            d => match SmallFloat::of(d) {
                Some(f) => Scalar::Float(d, f.decode(b[0])),
                // A byte that holds more than the dtype is wrapped.
                None => Scalar::of_int(d, i128::from(b[0] as i8)),
            },
        }
    }
}

/// Prints so that it parses back exactly: `1.5`, `inf`, `-inf`, `nan`, `-7`, `true`.
impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Int(DType::Bool, v) => write!(f, "{}", *v != 0),
            Scalar::Int(_, v) => write!(f, "{v}"),
            Scalar::Float(_, v) if v.is_nan() => f.write_str("nan"),
            Scalar::Float(_, v) if v.is_infinite() => f.write_str(if *v > 0.0 { "inf" } else { "-inf" }),
            // Rust prints the shortest digits that read back as the same value of the printed type.
            Scalar::Float(d, v) if *d != DType::F64 => write!(f, "{:?}", *v as f32),
            Scalar::Float(_, v) => write!(f, "{v:?}"),
        }
    }
}

/// A real attribute: an `f64` that compares and hashes by its bits, so that operators are `Eq` and `Hash`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Real(pub f64);

impl PartialEq for Real {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}
impl Eq for Real {}
impl std::hash::Hash for Real {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

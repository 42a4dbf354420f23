//! Lane arithmetic: one function for each operation and element type.
//!
//! A lane is held as `u64`: the value's bits, zero-extended. That makes bitcasts free and lets one register file
//! hold every type.

use super::math;
use crate::{BinOp, CmpOp, MathFn, UnOp};
use half::f16;
use tenon_base::{DType, Scalar};

/// Where an operation on registers reads and writes: lanes `d..d + n` from lanes `a..`, `b..` and `c..`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Operands {
    pub(super) d: usize,
    pub(super) a: usize,
    pub(super) b: usize,
    pub(super) c: usize,
    pub(super) n: usize,
}

/// An operation on all lanes.
pub(super) type Lanewise = fn(&mut [u64], Operands);

/// An operation on one lane.
pub(super) type LaneFn = fn(u64) -> u64;

/// A Rust type whose values live in lanes.
pub(super) trait Lane: Copy {
    /// From a lane; bits above the type's width are ignored.
    fn of(bits: u64) -> Self;
    /// As a lane.
    fn bits(self) -> u64;
}

macro_rules! lane {
    ($($t:ty: $bits:ident => $of:expr, $v:ident => $to:expr;)*) => {$(
        impl Lane for $t {
            fn of($bits: u64) -> $t {
                $of
            }
            fn bits(self) -> u64 {
                let $v = self;
                $to
            }
        }
    )*};
}
lane! {
    f32: b => f32::from_bits(b as u32), v => u64::from(v.to_bits());
    f64: b => f64::from_bits(b), v => v.to_bits();
    f16: b => f16::from_bits(b as u16), v => u64::from(v.to_bits());
    i8: b => b as i8, v => u64::from(v as u8);
    i16: b => b as i16, v => u64::from(v as u16);
    i32: b => b as i32, v => u64::from(v as u32);
    i64: b => b as i64, v => v as u64;
    u8: b => b as u8, v => u64::from(v);
    u16: b => b as u16, v => u64::from(v);
    u32: b => b as u32, v => u64::from(v);
    u64: b => b, v => v;
    bool: b => b != 0, v => u64::from(v);
}

/// The lane of a constant.
pub(super) fn of_scalar(s: Scalar) -> u64 {
    let mut bytes = [0; 8];
    let le = s.to_le_bytes();
    bytes[..le.len()].copy_from_slice(&le);
    u64::from_le_bytes(bytes)
}

macro_rules! map1 {
    ($t:ty, $x:ident => $e:expr) => {
        Some(|r, o| {
            for k in 0..o.n {
                let $x = <$t as Lane>::of(r[o.a + k]);
                r[o.d + k] = Lane::bits($e);
            }
        })
    };
}

macro_rules! map2 {
    ($t:ty, $x:ident, $y:ident => $e:expr) => {
        Some(|r, o| {
            for k in 0..o.n {
                let $x = <$t as Lane>::of(r[o.a + k]);
                let $y = <$t as Lane>::of(r[o.b + k]);
                r[o.d + k] = Lane::bits($e);
            }
        })
    };
}

macro_rules! map3 {
    ($t:ty, $x:ident, $y:ident, $z:ident => $e:expr) => {
        Some(|r, o| {
            for k in 0..o.n {
                let $x = <$t as Lane>::of(r[o.a + k]);
                let $y = <$t as Lane>::of(r[o.b + k]);
                let $z = <$t as Lane>::of(r[o.c + k]);
                r[o.d + k] = Lane::bits($e);
            }
        })
    };
}

/// Expands `$body` with `$t` as the Rust type of an integer dtype.
macro_rules! for_ints {
    ($dtype:expr, $t:ident => $body:expr, $other:expr) => {
        match $dtype {
            DType::I8 => {
                type $t = i8;
                $body
            }
            DType::I16 => {
                type $t = i16;
                $body
            }
            DType::I32 => {
                type $t = i32;
                $body
            }
            DType::I64 => {
                type $t = i64;
                $body
            }
            DType::U8 => {
                type $t = u8;
                $body
            }
            DType::U16 => {
                type $t = u16;
                $body
            }
            DType::U32 => {
                type $t = u32;
                $body
            }
            DType::U64 => {
                type $t = u64;
                $body
            }
            _ => $other,
        }
    };
}

macro_rules! for_floats {
    ($dtype:expr, $t:ident => $body:expr, $other:expr) => {
        match $dtype {
            DType::F32 => {
                type $t = f32;
                $body
            }
            DType::F64 => {
                type $t = f64;
                $body
            }
            _ => $other,
        }
    };
}

/// `op` on `dtype`, or `None` if there is no such operation.
pub(super) fn unary(op: UnOp, dtype: DType) -> Option<Lanewise> {
    if dtype == DType::Bool {
        return match op {
            UnOp::Not => map1!(bool, x => !x),
            _ => None,
        };
    }
    for_floats!(
        dtype,
        T => match op {
            UnOp::Neg => map1!(T, x => -x),
            UnOp::Abs => map1!(T, x => x.abs()),
            UnOp::Sqrt => map1!(T, x => x.sqrt()),
            UnOp::Ceil => map1!(T, x => x.ceil()),
            UnOp::Floor => map1!(T, x => x.floor()),
            UnOp::Trunc => map1!(T, x => x.trunc()),
            UnOp::Nearest => map1!(T, x => x.round_ties_even()),
            UnOp::Not => None,
        },
        for_ints!(
            dtype,
            T => match op {
                UnOp::Neg => map1!(T, x => x.wrapping_neg()),
                UnOp::Abs => map1!(T, x => x.wrapping_absolute()),
                UnOp::Not => map1!(T, x => !x),
                _ => None,
            },
            None
        )
    )
}

/// Absolute value of any integer; `MIN` is its own.
trait WrappingAbsolute {
    fn wrapping_absolute(self) -> Self;
}

macro_rules! wrapping_absolute {
    ($($t:ty: $x:ident => $e:expr;)*) => {$(
        impl WrappingAbsolute for $t {
            fn wrapping_absolute(self) -> $t {
                let $x = self;
                $e
            }
        }
    )*};
}
wrapping_absolute! {
    i8: x => x.wrapping_abs();
    i16: x => x.wrapping_abs();
    i32: x => x.wrapping_abs();
    i64: x => x.wrapping_abs();
    u8: x => x;
    u16: x => x;
    u32: x => x;
    u64: x => x;
}

/// `op` on `dtype`, or `None` if there is no such operation.
pub(super) fn binary(op: BinOp, dtype: DType) -> Option<Lanewise> {
    if dtype == DType::Bool {
        return match op {
            BinOp::And => map2!(bool, x, y => x & y),
            BinOp::Or => map2!(bool, x, y => x | y),
            BinOp::Xor => map2!(bool, x, y => x ^ y),
            _ => None,
        };
    }
    for_floats!(
        dtype,
        T => match op {
            BinOp::Add => map2!(T, x, y => x + y),
            BinOp::Sub => map2!(T, x, y => x - y),
            BinOp::Mul => map2!(T, x, y => x * y),
            BinOp::Div => map2!(T, x, y => x / y),
            BinOp::Min => map2!(T, x, y => if x < y { x } else { y }),
            BinOp::Max => map2!(T, x, y => if x > y { x } else { y }),
            _ => None,
        },
        for_ints!(
            dtype,
            T => match op {
                BinOp::Add => map2!(T, x, y => x.wrapping_add(y)),
                BinOp::Sub => map2!(T, x, y => x.wrapping_sub(y)),
                BinOp::Mul => map2!(T, x, y => x.wrapping_mul(y)),
                BinOp::Div => map2!(T, x, y => if y == 0 { 0 } else { x.wrapping_div(y) }),
                BinOp::Rem => map2!(T, x, y => if y == 0 { 0 } else { x.wrapping_rem(y) }),
                BinOp::Min => map2!(T, x, y => x.min(y)),
                BinOp::Max => map2!(T, x, y => x.max(y)),
                BinOp::And => map2!(T, x, y => x & y),
                BinOp::Or => map2!(T, x, y => x | y),
                BinOp::Xor => map2!(T, x, y => x ^ y),
                BinOp::Shl => map2!(T, x, y => x.wrapping_shl(y as u32)),
                BinOp::Shr => map2!(T, x, y => x.wrapping_shr(y as u32)),
            },
            None
        )
    )
}

macro_rules! comparisons {
    ($t:ty, $op:expr) => {
        match $op {
            CmpOp::Eq => map2!($t, x, y => x == y),
            CmpOp::Ne => map2!($t, x, y => x != y),
            CmpOp::Lt => map2!($t, x, y => x < y),
            CmpOp::Le => map2!($t, x, y => x <= y),
            CmpOp::Gt => map2!($t, x, y => x > y),
            CmpOp::Ge => map2!($t, x, y => x >= y),
        }
    };
}

/// `op` on `dtype`, or `None` if there is no such operation.
pub(super) fn compare(op: CmpOp, dtype: DType) -> Option<Lanewise> {
    match (dtype, op) {
        (DType::Bool, CmpOp::Eq) => map2!(bool, x, y => x == y),
        (DType::Bool, CmpOp::Ne) => map2!(bool, x, y => x != y),
        _ => for_floats!(
            dtype,
            T => comparisons!(T, op),
            for_ints!(dtype, T => comparisons!(T, op), None)
        ),
    }
}

/// `a ? b : c`
pub(super) fn select(r: &mut [u64], o: Operands) {
    for k in 0..o.n {
        r[o.d + k] = if r[o.a + k] != 0 { r[o.b + k] } else { r[o.c + k] };
    }
}

/// Lanes `a..a + c`, over and over.
pub(super) fn splat(r: &mut [u64], o: Operands) {
    for k in 0..o.n {
        r[o.d + k] = r[o.a + k % o.c];
    }
}

/// Dot products of `g` neighbouring lanes of `a` and `b`, added to the lanes of `c`.
pub(super) fn dot(a: DType, b: DType) -> Option<Lanewise> {
    fn dot<A: Lane + Into<i32>, B: Lane + Into<i32>, const G: usize>(r: &mut [u64], o: Operands) {
        for k in 0..o.n {
            let product = |j: usize| A::of(r[o.a + G * k + j]).into().wrapping_mul(B::of(r[o.b + G * k + j]).into());
            let sum = (0..G).fold(i32::of(r[o.c + k]), |s, j| s.wrapping_add(product(j)));
            r[o.d + k] = sum.bits();
        }
    }
    fn pairs(r: &mut [u64], o: Operands) {
        for k in 0..o.n {
            let pair = |at: usize| [r[at + 2 * k] as u16, r[at + 2 * k + 1] as u16];
            r[o.d + k] = crate::bf16::dot(pair(o.a), pair(o.b), f32::of(r[o.c + k])).bits();
        }
    }
    Some(match (a, b) {
        (DType::U16, DType::U16) => pairs,
        (DType::U8, DType::U8) => dot::<u8, u8, 4>,
        (DType::U8, DType::I8) => dot::<u8, i8, 4>,
        (DType::I8, DType::U8) => dot::<i8, u8, 4>,
        (DType::I8, DType::I8) => dot::<i8, i8, 4>,
        (DType::I16, DType::I16) => dot::<i16, i16, 2>,
        _ => return None,
    })
}

/// The same lanes.
pub(super) fn copy(r: &mut [u64], o: Operands) {
    r.copy_within(o.a..o.a + o.n, o.d);
}

/// `a * b + c`, rounded once if `fused`.
pub(super) fn fma(dtype: DType, fused: bool) -> Option<Lanewise> {
    for_floats!(
        dtype,
        T => if fused { map3!(T, x, y, z => x.mul_add(y, z)) } else { map3!(T, x, y, z => x * y + z) },
        None
    )
}

/// `a * b + c` for contractions: floats round twice, integers wrap.
pub(super) fn multiply_add(dtype: DType) -> Option<fn(u64, u64, u64) -> u64> {
    for_floats!(
        dtype,
        T => Some(|a, b, c| (T::of(a) * T::of(b) + T::of(c)).bits()),
        for_ints!(
            dtype,
            T => Some(|a, b, c| T::of(a).wrapping_mul(T::of(b)).wrapping_add(T::of(c)).bits()),
            None
        )
    )
}

/// `f` of one or two operands (`a`, `b`): computed in `f64` and rounded once.
pub(super) fn math(f: MathFn, dtype: DType) -> Option<Lanewise> {
    macro_rules! functions {
        ($($f:ident: $x:ident, $y:ident => $e:expr;)*) => {
            for_floats!(
                dtype,
                T => match f {$(
                    MathFn::$f => map2!(T, x, y => {
                        let ($x, $y) = (f64::from(x), f64::from(y));
                        $e as T
                    }),
                )*},
                None
            )
        };
    }
    functions! {
        Exp: x, _y => x.exp();
        Log: x, _y => x.ln();
        Sin: x, _y => x.sin();
        Cos: x, _y => x.cos();
        Tan: x, _y => x.tan();
        Asin: x, _y => x.asin();
        Acos: x, _y => x.acos();
        Atan: x, _y => x.atan();
        Sinh: x, _y => x.sinh();
        Cosh: x, _y => x.cosh();
        Tanh: x, _y => x.tanh();
        Asinh: x, _y => x.asinh();
        Acosh: x, _y => x.acosh();
        Atanh: x, _y => x.atanh();
        Erf: x, _y => math::erf(x);
        Pow: x, y => x.powf(y);
        Fmod: x, y => x % y;
    }
}

/// The conversion `from` → `to` of one lane.
pub(super) fn cast(from: DType, to: DType) -> LaneFn {
    macro_rules! casts {
        ($x:ident => $value:expr, $zero:expr) => {
            match to {
                DType::F32 => |$x| ($value as f32).bits(),
                DType::F64 => |$x| ($value as f64).bits(),
                DType::F16 => |$x| f16::from_f32($value as f32).bits(),
                DType::I8 => |$x| ($value as i8).bits(),
                DType::I16 => |$x| ($value as i16).bits(),
                DType::I32 => |$x| ($value as i32).bits(),
                DType::I64 => |$x| ($value as i64).bits(),
                DType::U8 => |$x| ($value as u8).bits(),
                DType::U16 => |$x| ($value as u16).bits(),
                DType::U32 => |$x| ($value as u32).bits(),
                DType::U64 => |$x| ($value as u64).bits(),
                DType::Bool => |$x| ($value != $zero).bits(),
                // Not in kernels: the verifier sees to it.
                _ => |$x| $x,
            }
        };
    }
    match from {
        DType::F16 => casts!(x => f16::of(x).to_f32(), 0.0),
        DType::Bool => casts!(x => u8::from(bool::of(x)), 0),
        _ => for_floats!(
            from,
            T => casts!(x => T::of(x), 0.0),
            for_ints!(from, T => casts!(x => T::of(x), 0), |x| x)
        ),
    }
}

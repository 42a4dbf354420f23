//! Element types that are only stored: floats of 16 bits and less, and integers of less than a byte.
//!
//! A tensor of them is bytes in memory like any other, one element in [`DType::size`] bytes; integers and floats of less than a
//! byte have one byte each. No machine computes with them: kernels load their [`DType::carrier`] and widen it. What is written
//! here is the reference, in `f64`, of what the widening and narrowing expressions of kernels do in `f32`.
//!
//! Formats: [OCP 8-bit floating point](https://www.opencompute.org/documents/ocp-8-bit-floating-point-specification-ofp8-revision-1-0-2023-12-01-pdf-1)
//! (`f8e4m3fn`, `f8e5m2`), [its microscaling formats](https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf)
//! (`f8e8m0`, `f4e2m1`), and the variants without infinities and negative zero (`…fnuz`).

use crate::DType;

/// A small binary float with a sign, an exponent and a mantissa.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SmallFloat {
    /// Bits of the mantissa.
    pub mantissa: u32,
    /// Bits altogether.
    pub bits: u32,
    /// The exponent's bias.
    pub bias: i32,
    /// The largest finite number.
    pub max: f64,
    /// Numbers whose size is above this (or is this, where the second is set) do not round to a finite one.
    pub limit: (f64, bool),
    /// The code of infinity.
    pub infinity: Option<u8>,
    /// The code of NaN, without a sign; where there is none, the code that NaN becomes.
    pub nan: u8,
    /// There is a negative zero; where not, its code is NaN.
    pub signed_zero: bool,
}

impl SmallFloat {
    /// The format of `dtype`, if it is one.
    pub const fn of(dtype: DType) -> Option<SmallFloat> {
        Some(match dtype {
            DType::F8E4M3 => SmallFloat {
                mantissa: 3,
                bits: 8,
                bias: 7,
                max: 448.0,
                limit: (464.0, false),
                infinity: None,
                nan: 0x7f,
                signed_zero: true,
            },
            DType::F8E5M2 => SmallFloat {
                mantissa: 2,
                bits: 8,
                bias: 15,
                max: 57344.0,
                limit: (61440.0, true),
                infinity: Some(0x7c),
                nan: 0x7e,
                signed_zero: true,
            },
            DType::F8E4M3Uz => SmallFloat {
                mantissa: 3,
                bits: 8,
                bias: 8,
                max: 240.0,
                limit: (248.0, true),
                infinity: None,
                nan: 0x80,
                signed_zero: false,
            },
            DType::F8E5M2Uz => SmallFloat {
                mantissa: 2,
                bits: 8,
                bias: 16,
                max: 57344.0,
                limit: (61440.0, true),
                infinity: None,
                nan: 0x80,
                signed_zero: false,
            },
            DType::F4E2M1 => SmallFloat {
                mantissa: 1,
                bits: 4,
                bias: 1,
                max: 6.0,
                limit: (f64::INFINITY, false),
                infinity: None,
                nan: 0x08,
                signed_zero: true,
            },
            _ => return None,
        })
    }

    fn sign_bit(self) -> u8 {
        1 << (self.bits - 1)
    }

    /// Whether codes of NaN exist; without, NaN is written as negative zero.
    pub const fn has_nan(self) -> bool {
        self.bits == 8
    }

    /// The nearest number, ties to even. Finite numbers beyond the largest become it; infinity stays where there is one, becomes
    /// NaN where there is not, and the largest number where there is no NaN either.
    pub fn encode(self, v: f64) -> u8 {
        let sign = if v.is_sign_negative() { self.sign_bit() } else { 0 };
        if v.is_nan() {
            return self.nan;
        }
        if v.is_infinite() && self.has_nan() {
            // The code of NaN without negative zero is the sign bit itself.
            return self.infinity.map_or(if self.signed_zero { self.nan | sign } else { self.nan }, |i| i | sign);
        }
        // Rounds to the largest number whatever it is.
        let a = v.abs().min(f64::MAX);
        let least = 1 - self.bias;
        let exponent = if a == 0.0 { least } else { (a.log2().floor() as i32).max(least) };
        // Near a power of two the logarithm may be off by one: the quantum is then too fine or too coarse by a factor of 2.
        let exponent = if a >= 2f64.powi(exponent + 1) { exponent + 1 } else { exponent };
        let exponent = if exponent > least && a < 2f64.powi(exponent) { exponent - 1 } else { exponent };
        let quantum = 2f64.powi(exponent - self.mantissa as i32);
        let rounded = ((a / quantum).round_ties_even() * quantum).min(self.max);
        let code = self.code_of(rounded);
        if code == 0 && !self.signed_zero { 0 } else { code | sign }
    }

    /// The code of a number that the format has.
    fn code_of(self, v: f64) -> u8 {
        (0..self.sign_bit()).find(|c| self.magnitude(*c) == v).unwrap_or(0)
    }

    fn magnitude(self, code: u8) -> f64 {
        let m = self.mantissa;
        let (e, f) = (i32::from(code >> m), f64::from(code & ((1 << m) - 1)) / f64::from(1u32 << m));
        if e == 0 { f * 2f64.powi(1 - self.bias) } else { (1.0 + f) * 2f64.powi(e - self.bias) }
    }

    /// The number that `code` stands for.
    pub fn decode(self, code: u8) -> f64 {
        let size = code & (self.sign_bit() - 1);
        let negative = code & self.sign_bit() != 0;
        let nan = if !self.has_nan() {
            false
        } else if !self.signed_zero {
            code == self.nan
        } else {
            self.infinity.map_or(size == self.nan, |i| size > i)
        };
        let v = match self.infinity {
            _ if nan => f64::NAN,
            Some(i) if size == i => f64::INFINITY,
            _ => self.magnitude(size),
        };
        if negative && !nan { -v } else { v }
    }
}

/// The bits of `v` as `bf16`, by way of `f32`; ties to even.
pub fn to_bf16(v: f64) -> u16 {
    let v = v as f32;
    if v.is_nan() {
        return 0x7fc0;
    }
    let bits = v.to_bits();
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// The number that the bits of a `bf16` stand for.
pub fn of_bf16(bits: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(bits) << 16))
}

/// The exponent that is `v` rounded up to a power of two, as `f8e8m0` has it: `code - 127`; the sign is lost, infinity is NaN.
pub fn to_e8m0(v: f64) -> u8 {
    let bits = (v as f32).to_bits();
    let exponent = (bits >> 23 & 0xff) as u8;
    // The least power of two has code 0, although it is a subnormal f32.
    let up = bits & 0x7f_ffff != 0 && exponent < 0xfe && bits & 0x7fff_ffff != 0x40_0000;
    exponent + u8::from(up)
}

/// The number of an `f8e8m0` code.
pub fn of_e8m0(code: u8) -> f64 {
    if code == 0xff { f64::NAN } else { 2f64.powi(i32::from(code) - 127) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scalar;

    const SMALL: [DType; 5] = [DType::F8E4M3, DType::F8E4M3Uz, DType::F8E5M2, DType::F8E5M2Uz, DType::F4E2M1];

    #[test]
    fn every_code_reads_back() {
        for d in SMALL {
            let f = SmallFloat::of(d).expect("a small float");
            for code in 0..=u8::MAX >> (8 - f.bits) {
                let v = f.decode(code);
                let again = f.decode(f.encode(v));
                assert!(
                    again.to_bits() == v.to_bits() || (v.is_nan() && again.is_nan()),
                    "{d} {code:#x}: {v} {again}"
                );
                let s = Scalar::from_le_bytes(d, &[code]);
                assert!(v.is_nan() || s.to_le_bytes() == [code], "{d} {code:#x}");
            }
        }
        for code in 0..=u8::MAX {
            assert!(code == 0xff || to_e8m0(of_e8m0(code)) == code, "{code:#x}");
        }
        for bits in 0..=u16::MAX {
            assert!(of_bf16(bits).is_nan() || to_bf16(of_bf16(bits)) == bits, "{bits:#x}");
        }
    }

    #[test]
    fn ranges_and_ties() {
        let e4 = SmallFloat::of(DType::F8E4M3).expect("a format");
        assert_eq!(e4.decode(e4.encode(1e9)), 448.0);
        assert!(e4.decode(e4.encode(f64::INFINITY)).is_nan());
        assert_eq!(e4.decode(e4.encode(-0.0)).to_bits(), (-0.0f64).to_bits());
        assert_eq!(e4.decode(e4.encode(1.0625)), 1.0);
        assert_eq!(e4.decode(e4.encode(1.1875)), 1.25);
        let uz = SmallFloat::of(DType::F8E4M3Uz).expect("a format");
        assert_eq!((uz.encode(-0.0), uz.encode(f64::NAN)), (0, 0x80));
        let f4 = SmallFloat::of(DType::F4E2M1).expect("a format");
        assert_eq!([0.25, 0.75, -8.0, f64::INFINITY].map(|v| f4.decode(f4.encode(v))), [0.0, 1.0, -6.0, 6.0]);
        assert_eq!(of_e8m0(to_e8m0(1.1)), 2.0);
    }
}

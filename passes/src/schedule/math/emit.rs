//! Building float arithmetic of one type and lane count.

use crate::schedule::scope::Block;
use tenon_base::{DType, Scalar};
use tenon_kernel::{BinOp, CmpOp, Expr, UnOp};

/// Emits arithmetic into a block. Operands that a function uses twice are variables or constants: see [`Emit::bind`].
pub(super) struct Emit<'b, 'k> {
    pub(super) block: &'b mut Block<'k>,
    /// `f32` or `f64`.
    pub(super) dtype: DType,
    pub(super) lanes: u16,
}

impl<'b, 'k> Emit<'b, 'k> {
    pub(super) fn new(block: &'b mut Block<'k>, dtype: DType, lanes: u16) -> Emit<'b, 'k> {
        Emit { block, dtype, lanes }
    }

    /// Whether the type is `f64`.
    pub(super) fn wide(&self) -> bool {
        self.dtype == DType::F64
    }

    /// Bits of the fraction.
    pub(super) fn fraction_bits(&self) -> u32 {
        if self.wide() { 52 } else { 23 }
    }

    /// The exponent's bias.
    pub(super) fn bias(&self) -> f64 {
        if self.wide() { 1023.0 } else { 127.0 }
    }

    /// The unsigned integers of the same size.
    pub(super) fn bits_type(&self) -> DType {
        if self.wide() { DType::U64 } else { DType::U32 }
    }

    /// The constant `v` in every lane.
    pub(super) fn c(&self, v: f64) -> Expr {
        Expr::constant(self.dtype, v).splat(self.lanes)
    }

    /// The integer constant `v`, of the size of a float.
    pub(super) fn int(&self, v: u64) -> Expr {
        Expr::Const(Scalar::of_int(self.bits_type(), i128::from(v))).splat(self.lanes)
    }

    /// A variable of value `e`.
    pub(super) fn bind(&mut self, e: Expr) -> Expr {
        self.block.bind("m", e)
    }

    /// The bits of a float.
    pub(super) fn to_bits(&self, e: &Expr) -> Expr {
        e.clone().bitcast(self.bits_type())
    }

    /// The float of these bits.
    pub(super) fn of_bits(&self, e: Expr) -> Expr {
        e.bitcast(self.dtype)
    }

    /// The bit of the sign.
    pub(super) fn sign_bit(&self) -> u64 {
        if self.wide() { 1 << 63 } else { 1 << 31 }
    }

    /// `Σ coefficients[i] · xⁱ`
    pub(super) fn poly(&self, x: &Expr, coefficients: &[f64]) -> Expr {
        let mut terms = coefficients.iter().rev().map(|v| self.c(*v));
        let first = terms.next().unwrap_or_else(|| self.c(0.0));
        terms.fold(first, |sum, c| Expr::fma(sum, x.clone(), c))
    }

    /// `|x|`
    pub(super) fn abs(&mut self, x: &Expr) -> Expr {
        self.bind(x.clone().unary(UnOp::Abs))
    }

    /// `lo ≤ x ≤ hi`; NaN stays.
    pub(super) fn clamp(&mut self, x: &Expr, lo: f64, hi: f64) -> Expr {
        let e = self.c(hi).min(self.c(lo).max(x.clone()));
        self.bind(e)
    }

    /// `magnitude`, which is not negative, with the sign of `sign`.
    pub(super) fn with_sign(&self, magnitude: Expr, sign: &Expr) -> Expr {
        let sign = self.to_bits(sign).binary(BinOp::And, self.int(self.sign_bit()));
        self.of_bits(magnitude.bitcast(self.bits_type()).binary(BinOp::Or, sign))
    }

    pub(super) fn lt(&self, a: &Expr, b: f64) -> Expr {
        a.clone().compare(CmpOp::Lt, self.c(b))
    }

    pub(super) fn gt(&self, a: &Expr, b: f64) -> Expr {
        a.clone().compare(CmpOp::Gt, self.c(b))
    }

    pub(super) fn eq(&self, a: &Expr, b: f64) -> Expr {
        a.clone().compare(CmpOp::Eq, self.c(b))
    }

    pub(super) fn is_nan(&self, a: &Expr) -> Expr {
        a.clone().compare(CmpOp::Ne, a.clone())
    }

    /// The constant that brings an integer to the low bits of a float by addition: 1.5 · 2^fraction bits.
    pub(super) fn magic(&self) -> f64 {
        1.5 * (1u64 << self.fraction_bits()) as f64
    }

    /// 2^k for an integral float `k` within the range of normal numbers.
    pub(super) fn exp2(&self, k: Expr) -> Expr {
        // The bias is added with the magic number; the shift drops all but the exponent.
        let bits = (k + self.c(self.magic() + self.bias())).bitcast(self.bits_type());
        self.of_bits(bits.binary(BinOp::Shl, self.int(u64::from(self.fraction_bits()))))
    }

    /// `x · 2^k` for an integral float `k` of up to twice the range of normal numbers, rounded once.
    pub(super) fn scale(&mut self, x: Expr, k: &Expr) -> Expr {
        let half = (k.clone() * self.c(0.5) + self.c(self.magic())) - self.c(self.magic());
        let half = self.bind(half);
        let rest = self.exp2(k.clone() - half.clone());
        x * self.exp2(half) * rest
    }
}

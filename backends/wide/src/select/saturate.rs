//! Floats within the bounds of bytes, rounded to bytes.
//!
//! Requantised sums come as `u8(bits(min(max(v, lo), hi) + 1.5 · 2²³) + zero)`, where the sum's low bits are the rounded integer.
//! The machine rounds as it converts, and its narrowings cut off at the ends of the range: so where `lo` is such an end, what is
//! left to do is the upper bound (a float beyond `i32` becomes its smallest), the conversion and the narrowing. NaN, which the
//! bounds turn into the lower one, becomes the smallest integer, too.

use super::Select;
use super::resize::Cut;
use super::value::{Row, Val};
use crate::lir::Arg;
use crate::table::V;
use tenon_base::{DType, Scalar};
use tenon_kernel::{BinOp, Expr, Type};

/// `1.5 · 2²³`
const MAGIC: f64 = 12_582_912.0;

/// What [`saturating`] finds: `min(max(value, …), high)`, rounded, plus `zero`.
pub(super) struct Saturating<'e> {
    value: &'e Expr,
    high: f64,
    zero: i16,
}

fn number(e: &Expr) -> Option<Scalar> {
    match e {
        Expr::Splat(_, e) => number(e),
        Expr::Const(s) => Some(*s),
        _ => None,
    }
}

/// The operands of `op` if the second one is a number.
fn with_number(e: &Expr, op: BinOp) -> Option<(&Expr, Scalar)> {
    match e {
        Expr::Binary(o, xy) if *o == op => Some((&xy[0], number(&xy[1])?)),
        _ => None,
    }
}

/// Whether the conversion of `e` to `to` is of this form.
pub(super) fn saturating(e: &Expr, to: DType) -> Option<Saturating<'_>> {
    let (lo, hi) = to.int_range().filter(|_| to.size() == 1)?;
    let (bits, zero) = match with_number(e, BinOp::Add) {
        Some((bits, zero)) => (bits, i16::try_from(zero.as_int()).ok()?),
        None => (e, 0),
    };
    let Expr::Bitcast(DType::I32, sum) = bits else { return None };
    let (bounded, magic) = with_number(sum, BinOp::Add)?;
    let (above, high) = with_number(bounded, BinOp::Min)?;
    let (value, low) = with_number(above, BinOp::Max)?;
    let float = |s: Scalar| matches!(s, Scalar::Float(DType::F32, _)).then(|| s.as_f64());
    let (magic, low, high) = (float(magic)?, float(low)?, float(high)?);
    let within = |v: f64| v >= (lo - i128::from(zero)) as f64 && v <= (hi - i128::from(zero)) as f64;
    let whole = magic == MAGIC && low == (lo - i128::from(zero)) as f64 && within(high) && zero.unsigned_abs() <= 255;
    whole.then_some(Saturating { value, high, zero })
}

impl Select<'_> {
    /// The bytes of `s` as `to`, in vectors.
    pub(super) fn saturate(&mut self, s: &Saturating<'_>, to: DType) -> Val {
        let v = self.expr(s.value);
        let w = self.width_of(&v);
        let high = self.repeated(&(s.high as f32).to_le_bytes(), w);
        // Of two operands one of which is NaN, the machine's minimum is the second.
        let high = self.in_reg(high, w, 4);
        let rows = self.map1(&v, &mut |s, r| {
            let r = s.in_reg(r, w, 4);
            let low = s.v(V::Minps, w, &[Arg::Use(high), Arg::Use(r)]);
            s.v1(V::Cvtps2dq, w, Row::Reg(low))
        });
        let cut = Cut::Saturate { signed: to.is_signed_int(), zero: s.zero };
        let rows = self.narrow_to_bytes(&rows, v.ty.lanes, cut);
        Val::vector(Type::vector(to, v.ty.lanes), rows)
    }
}

//! Rounded numbers that are floats again at once stay floats.
//!
//! A quantised value within a kernel is `u8(bits(clamp(v) + 1.5·2²³) + zero)`, and who dequantises it there computes with
//! `f32(i32(…) - zero)`: bytes are packed only to be taken apart. The sum with the constant is the rounded number beside it already, so the
//! float is `(clamp(v) + 1.5·2²³) - 1.5·2²³`, to the bit: all in it are integers far below 2²².

use super::{ScheduleCx, Unit};
use tenon_base::{DType, Scalar};
use tenon_kernel::{BinOp, Expr};

/// `1.5 · 2²³`: neighbours of it within `2²²` are integers apart.
const MAGIC: f64 = 12_582_912.0;

/// Rewrites every expression of the kernel.
pub(super) fn run(unit: &mut Unit, _cx: &ScheduleCx<'_>) {
    let body = std::mem::take(&mut unit.kernel.body);
    let again = |e: Expr| e.rewrite(&mut |e| as_float(&e).unwrap_or(e));
    unit.kernel.body = body.into_iter().map(|s| s.map_exprs(&mut |e| again(e))).collect();
}

/// What `f32` of a rounded number, perhaps less a constant, is without the detour.
fn as_float(e: &Expr) -> Option<Expr> {
    let Expr::Cast(DType::F32, x) = e else { return None };
    let (number, less) = match &**x {
        Expr::Binary(BinOp::Sub, ab) => (&ab[0], i64::from(i32::try_from(ab[1].as_int()?).ok()?)),
        x => (x, 0),
    };
    let narrow = match number {
        Expr::Cast(DType::I32, x) => x,
        x => x,
    };
    let Expr::Cast(to, bits) = narrow else { return None };
    let (lo, hi) = to.int_range().filter(|_| to.size() <= 2)?;
    let (sum, zero) = rounded(bits)?;
    let Expr::Binary(BinOp::Add, ab) = sum else { return None };
    let (least, most) = bounds(&ab[0])?;
    let inside = |v: f64| (lo..=hi).contains(&(v as i128 + i128::from(zero)));
    if !inside(least) || !inside(most) || less.unsigned_abs() > 1 << 20 {
        return None;
    }
    let number = sum.clone() - Expr::constant(DType::F32, MAGIC);
    let by = zero - less;
    Some(if by == 0 { number } else { number + Expr::constant(DType::F32, by as f64) })
}

/// The sum with the constant, and the zero point, of a rounded number's bits.
fn rounded(bits: &Expr) -> Option<(&Expr, i64)> {
    match bits {
        Expr::Binary(BinOp::Add, ab) => {
            let (sum, zero) = rounded(&ab[0])?;
            (zero == 0).then_some((sum, ab[1].as_int()?))
        }
        Expr::Bitcast(DType::I32, sum) => match &**sum {
            Expr::Binary(BinOp::Add, ab) if ab[1] == Expr::constant(DType::F32, MAGIC) => Some((&**sum, 0)),
            _ => None,
        },
        _ => None,
    }
}

/// The bounds of `min(max(v, least), most)`, where they are integers.
fn bounds(clamped: &Expr) -> Option<(f64, f64)> {
    let Expr::Binary(BinOp::Min, ab) = clamped else { return None };
    let Expr::Binary(BinOp::Max, inner) = &ab[0] else { return None };
    let number = |e: &Expr| match e {
        Expr::Const(Scalar::Float(DType::F32, v)) if v.fract() == 0.0 && v.abs() < 65_536.0 => Some(*v),
        _ => None,
    };
    let (least, most) = (number(&inner[1])?, number(&ab[1])?);
    (least <= most).then_some((least, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(text: &str) -> String {
        let kernel = tenon_kernel::Kernel::parse(text).expect("the kernel reads");
        let target = tenon_target::Target::parse("x86_64-linux").expect("a target");
        let mut unit = Unit::new(kernel, vec![false; 2]);
        run(&mut unit, &ScheduleCx::new(&target, true));
        unit.kernel.to_string()
    }

    fn text(bounds: [&str; 2], zero: &str) -> String {
        let [lo, hi] = bounds;
        format!(
            "kernel k(in %a: f32[8], out %y: f32[8]) {{
  vars %i: i64
  for %i in 0..8 {{
    store %y[%i] = f32(i32(u8(bitcast_i32(min(max(load %a[%i], {lo}), {hi}) + 12582912.0) + {zero})) - 106i32) * 2.0
  }}
}}
"
        )
    }

    #[test]
    fn what_is_in_range_stays_a_float() {
        let out = floats(&text(["-106.0", "149.0"], "106i32"));
        assert!(out.contains("(min(max(load %a[%i], -106.0), 149.0) + 12582912.0 - 12582912.0) * 2.0"), "{out}");
        let other = floats(&text(["-100.0", "149.0"], "100i32"));
        assert!(other.contains("+ 12582912.0 - 12582912.0 + -6.0"), "{other}");
    }

    #[test]
    fn what_wraps_or_is_not_clamped_to_integers_stays_bytes() {
        for (bounds, zero) in
            [(["-107.0", "149.0"], "106i32"), (["-106.0", "150.0"], "106i32"), (["-0.5", "149.0"], "106i32")]
        {
            let out = floats(&text(bounds, zero));
            assert!(out.contains("u8("), "{out}");
        }
    }
}

//! Sums of products of bytes in `f32`, where no partial sum leaves the integers that `f32` holds.

use super::super::super::{ScheduleCx, Unit};
use super::super::{halves, nest, plan};
use super::{Widened, factor};
use tenon_base::{DType, Scalar};
use tenon_kernel::{Contract, Expr, Stmt, Type, Var};

/// Integers up to this are exact in `f32`.
const EXACT: u64 = 1 << 24;

/// Integers below this are exact beside [`MAGIC`].
const UNITS: u64 = 1 << 22;

/// `1.5 · 2²³`: neighbours of it within `2²²` are integers apart.
const MAGIC: f32 = 12_582_912.0;

/// The largest magnitude of an element.
fn largest(d: DType) -> Option<u64> {
    match d {
        DType::U8 => Some(255),
        DType::I8 => Some(128),
        _ => None,
    }
}

/// The largest magnitude of what a sum begins with, if it is known.
fn largest_first(init: &Expr, unit: &Unit) -> Option<u64> {
    match init {
        Expr::Const(s) => u64::try_from(s.as_int().unsigned_abs()).ok(),
        Expr::Load { buf, .. } => unit.largest.get(buf.0 as usize).copied().flatten(),
        _ => None,
    }
}

/// `value` of the integer `sum`, where `float` holds the same number.
fn in_floats(value: Expr, sum: Var, float: Var) -> Expr {
    match value {
        Expr::Cast(DType::F32, e) if *e == Expr::Var(sum) => Expr::Var(float),
        Expr::Var(v) if v == sum => Expr::Var(float).cast(DType::I32),
        e => e.map_children(&mut |e| in_floats(e, sum, float)),
    }
}

/// Loops for `c` where both factors differ between lanes.
pub(super) fn lower(c: &Contract, unit: &mut Unit, cx: &ScheduleCx<'_>, widened: &mut Widened) -> Option<Vec<Stmt>> {
    let (a, b) = (factor(&c.a, unit)?, factor(&c.b, unit)?);
    let products = c.reduce.iter().map(|d| d.extent as u64).try_fold(1u64, u64::checked_mul)?;
    let bound = products.checked_mul(largest(a.2)?)?.checked_mul(largest(b.2)?)?;
    let out = tenon_kernel::Affine::of(&c.out_index)?;
    let v = c.dims.iter().find(|d| out.coefficient(d.var) == 1 && d.extent > 1)?.var;
    let varies = |f: &tenon_kernel::Affine| f.coefficient(v) != 0;
    if bound > EXACT || !varies(&a.1) || !varies(&b.1) {
        return None;
    }
    let acc = unit.kernel.new_var("acc", Type::scalar(DType::F32));
    let mut float = |e: &Expr, buf| {
        let Expr::Cast(_, load) = e else { return e.clone() };
        if widened.widen(buf, DType::F32, unit) { (**load).clone() } else { (**load).clone().cast(DType::F32) }
    };
    let (left, right) = (float(&c.a, a.0), float(&c.b, b.0));
    let bits = i128::from(MAGIC.to_bits() as i32);
    let (init, value) = if largest_first(&c.init, unit).is_some_and(|first| bound + first <= EXACT) {
        // The sum with its first value is an integer that a float holds, and often wanted as a float.
        (c.init.clone().cast(DType::F32), in_floats(c.value.clone(), c.acc, acc))
    } else if bound < UNITS {
        // Summed on top of a constant whose last bit is worth 1, the bits of the sum are the integer.
        let offset = Expr::Const(Scalar::of_int(DType::I32, bits));
        let sum = Expr::Var(acc).bitcast(DType::I32) - offset + c.init.clone();
        (Expr::constant(DType::F32, f64::from(MAGIC)), c.value.clone().substitute(c.acc, &sum))
    } else {
        let sum = Expr::Var(acc).cast(DType::I32) + c.init.clone();
        (Expr::constant(DType::F32, 0.0), c.value.clone().substitute(c.acc, &sum))
    };
    let floats = Contract { acc, init, a: left, b: right, value, ..c.clone() };
    let known = unit.packs.len();
    let Some(mut p) = plan::plan(&floats, &[], unit, cx) else {
        return Some(super::super::scalar::lower(floats, &mut unit.kernel));
    };
    // Constants are converted when they are packed, where they stay in the first cache: they take four times the room.
    halves::in_floats(&mut p, known, unit, |_, _, bytes| bytes <= cx.target.caches.l1d / 2);
    Some(nest::lower(&floats, p, &mut unit.kernel))
}

//! `auto_pad` of an axis whose extent only a run knows.
//!
//! Where windows step by more than one element, how much padding ONNX's `SAME_UPPER` and `SAME_LOWER` put before the first element depends on
//! the extent: with `out = ⌈x / stride⌉` windows, the padding is `total = max((out - 1)·stride + span - x, 0)`, half of it before. The
//! operand becomes one that has its padding already: element `i` is element `i - before` of `x`, by positions computed in a run.

use super::conv::Window;
use super::gather::Gather;
use super::pad::{Mode, Pad};
use super::util::{apply, positions};
use crate::ops::*;
use tenon_base::Real;

/// `x`, whose spatial axes begin at 2, with the padding of the spatial axes `late` in it; `fill` is what the padding holds.
pub(super) fn fitted(
    node: &OnnxNode<'_>,
    cx: &mut Importer<'_>,
    x: ValueId,
    w: &Window,
    late: &[usize],
    fill: f64,
) -> Result<ValueId, ImportError> {
    if late.is_empty() {
        return Ok(x);
    }
    let shape = cx.shape(x).clone();
    let rank = shape.rank();
    // Room for any padding on both sides.
    let mut pads = vec![0; 2 * rank];
    for &i in late {
        (pads[i + 2], pads[i + 2 + rank]) = (w.span(i) as i64, w.span(i) as i64);
    }
    let mut y = cx.op(Pad { mode: Mode::Constant, pads, value: Real(fill) }, &[x])?;
    for &i in late {
        let (stride, span) = (Dim::from(w.strides[i]), Dim::from(w.span(i)));
        let d = &shape.0[i + 2];
        let out = d.add(&stride).sub(&Dim::Const(1)).div(&stride);
        let length = out.sub(&Dim::Const(1)).mul(&stride).add(&span);
        let total = length.sub(d).larger(&Dim::Const(0));
        let half = total.div(&Dim::Const(2));
        let before = if node.str("auto_pad", "")? == "SAME_UPPER" { half } else { total.sub(&half) };
        let at = positions(cx, &length)?;
        let skip = cx.symbolic(vec![span.sub(&before)], &[]);
        let at = apply(cx, "add", &[at, skip])?;
        y = cx.op(Gather { axis: i + 2 }, &[y, at])?;
    }
    Ok(y)
}

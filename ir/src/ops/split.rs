//! Split: consecutive parts along an axis, each a slice. ONNX: [Split](https://onnx.ai/onnx/operators/onnx__Split.html) (1, 2, 11, 13, 18).

use super::slice::Slice;
use crate::op::resolve_axis;
use crate::ops::*;

pub(super) fn onnx() -> Vec<OnnxName> {
    vec![OnnxName { domain: "", name: "Split", versions: &[1, 2, 11, 13, 18] }]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    let shape = cx.shape(x).clone();
    let axis = resolve_axis(node.int("axis", 0)?, shape.rank())?;
    let n = shape.0[axis].as_const();
    let n = n.ok_or_else(|| {
        ImportError::new(format!("axis {axis}: the extent {} must be known", shape.0[axis]))
            .with_pins(&shape.0[axis])
    })?;
    let given = match (node.opt_ints("split")?, node.opt_input(1)) {
        (Some(s), _) => Some(s),
        (None, Some(v)) => Some(cx.constant_ints(v, "split")?),
        (None, None) => None,
    };
    let counts = match given {
        Some(s) => s,
        None => {
            let parts = node.int("num_outputs", node.output_count() as i64)?;
            if !(1..=1 << 20).contains(&parts) {
                return Err(ImportError::new(format!("num_outputs: expected a positive number, found {parts}")));
            }
            // Equal parts; the last is smaller when they do not divide.
            let part = (n + parts - 1) / parts;
            (0..parts).map(|i| part.min(n - i * part).max(0)).collect()
        }
    };
    if counts.iter().any(|c| *c < 0) || counts.iter().try_fold(0i64, |a, c| a.checked_add(*c)) != Some(n) {
        return Err(ImportError::new(format!("split: expected parts of {n} elements in all, found {counts:?}")));
    }
    let known = cx.known_dims(x).filter(|_| shape.rank() == 1);
    let mut parts = vec![];
    let mut start = 0;
    for c in counts {
        let mut op = Slice { starts: vec![0; shape.rank()], steps: vec![1; shape.rank()], to: shape.clone() };
        op.starts[axis] = if c == 0 { 0 } else { start };
        op.to.0[axis] = Dim::Const(c);
        let y = if c == n { x } else { cx.op(op, &[x])? };
        if let (Some(d), None) = (&known, cx.known_dims(y)) {
            cx.set_known_dims(y, d[start as usize..(start + c) as usize].to_vec());
        }
        parts.push(y);
        start += c;
    }
    Ok(parts)
}

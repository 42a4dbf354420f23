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
    let n = shape.0[axis].clone();
    let given = match (node.opt_ints("split")?, node.opt_input(1)) {
        (Some(s), _) => Some(s.into_iter().map(Dim::Const).collect()),
        (None, Some(v)) => Some(cx.constant_dims(v, "split")?),
        (None, None) => None,
    };
    let counts: Vec<Dim> = match given {
        Some(s) => s,
        None => {
            let parts = node.int("num_outputs", node.output_count() as i64)?;
            if !(1..=1 << 20).contains(&parts) {
                return Err(ImportError::new(format!("num_outputs: expected a positive number, found {parts}")));
            }
            let n = n.as_const().ok_or_else(|| ImportError::new(format!("axis {axis}: the extent {n} must be known")).with_pins(&n))?;
            // Equal parts; the last is smaller when they do not divide.
            let part = (n + parts - 1) / parts;
            (0..parts).map(|i| Dim::Const(part.min(n - i * part).max(0))).collect()
        }
    };
    let whole = counts.iter().fold(Dim::Const(0), |sum, c| sum.add(c));
    if counts.iter().any(|c| c.lower_bound().is_none_or(|c| c < 0)) || whole != n {
        let found: Vec<String> = counts.iter().map(ToString::to_string).collect();
        return Err(ImportError::new(format!("split: expected parts of {n} elements in all, found [{}]", found.join(", "))).with_pins(&n));
    }
    let known = cx.known_dims(x).filter(|_| shape.rank() == 1);
    let mut parts = vec![];
    let mut start = Some(0);
    for c in counts {
        let at = if c == Dim::Const(0) { Some(0) } else { start };
        let at = at.ok_or_else(|| ImportError::new("split: only the last part may be of an unknown extent").with_pins(&n))?;
        let y = if c == n {
            x
        } else {
            let mut op = Slice { starts: vec![0; shape.rank()], steps: vec![1; shape.rank()], to: shape.clone() };
            op.starts[axis] = at;
            op.to.0[axis] = c.clone();
            cx.op(op, &[x])?
        };
        if let (Some(d), Some(c), None) = (&known, c.as_usize(), cx.known_dims(y)) {
            cx.set_known_dims(y, d[at as usize..at as usize + c].to_vec());
        }
        parts.push(y);
        start = start.zip(c.as_const()).map(|(s, c)| s + c);
    }
    Ok(parts)
}

//! EyeLike: ones on a diagonal. ONNX: [EyeLike](https://onnx.ai/onnx/operators/onnx__EyeLike.html) (9, 22). The operand gives its shape only.

use crate::import::dtype_of_code;
use crate::ops::*;
use tenon_base::Scalar;

/// Elements at most: the result is a constant of the artifact.
const MAX_ELEMENTS: usize = 1 << 26;

pub(super) fn onnx() -> Vec<OnnxName> {
    vec![OnnxName { domain: "", name: "EyeLike", versions: &[9, 22] }]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let fact = cx.fact(node.input(0)?).clone();
    let dtype = match node.opt_int("dtype")? {
        Some(code) => dtype_of_code(code)?,
        None => fact.dtype,
    };
    let dims = fact.dims().ok_or_else(|| {
        ImportError::new(format!("the shape must be known, found {fact}")).with_help("pin its dimensions with --dim NAME=…")
    })?;
    let [rows, columns] = dims[..] else {
        return Err(ImportError::new(format!("expected a matrix, found {fact}")));
    };
    if rows.checked_mul(columns).is_none_or(|n| n > MAX_ELEMENTS) {
        return Err(ImportError::new(format!("{fact} is too large for a constant")));
    }
    let k = i128::from(node.int("k", 0)?);
    let on = |e: usize| (e % columns) as i128 - (e / columns) as i128 == k;
    let values = (0..rows * columns).map(|e| Scalar::of_f64(dtype, f64::from(u8::from(on(e)))));
    Ok(vec![cx.weight(Tensor::from_scalars(dtype, &dims, values))])
}

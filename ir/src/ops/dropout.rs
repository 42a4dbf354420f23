//! Dropout: at inference the operand itself, and a mask that keeps everything.
//!
//! ONNX: [Dropout](https://onnx.ai/onnx/operators/onnx__Dropout.html) (1, 6, 7, 10, 12, 13, 22).

use super::expand::Expand;
use super::util::number;
use crate::ops::*;

pub(super) fn onnx() -> Vec<OnnxName> {
    vec![OnnxName { domain: "", name: "Dropout", versions: &[1, 6, 7, 10, 12, 13, 22] }]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    if node.opset >= 12
        && let Some(training) = node.opt_input(2)
    {
        let on = cx.constant(training, "training_mode")?.to_f64().first().is_some_and(|v| *v != 0.0);
        let ratio = match node.opt_input(1) {
            Some(r) => cx.constant(r, "ratio")?.to_f64().first().copied().unwrap_or(0.5),
            None => 0.5,
        };
        if on && ratio != 0.0 {
            return Err(ImportError::new("training_mode: expected a model exported for inference, found random dropping")
                .with_help("export with training mode off (model.eval() in PyTorch)"));
        }
    }
    if node.output_count() < 2 {
        return Ok(vec![x]);
    }
    // The mask was of the data's dtype before opset 10.
    let dtype = if node.opset < 10 { cx.dtype(x) } else { DType::Bool };
    let one = number(cx, dtype, 1.0);
    let to = cx.shape(x).clone();
    let mask = if to.rank() == 0 { one } else { cx.op(Expand { to }, &[one])? };
    Ok(vec![x, mask])
}

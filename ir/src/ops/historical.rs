//! Operators that ONNX had as experiments until opset 9, and that ONNX Runtime still runs: models converted from Core ML, and the samples
//! of Windows ML, have them.
//!
//! [Affine, Crop, ImageScaler, ParametricSoftplus, ScaledTanh](https://github.com/onnx/onnx/blob/v1.4.1/docs/Operators.md#experimental-onnx-operators) (1).

use super::util::{apply, part, with_constant};
use crate::ops::*;
use tenon_base::Shape;

pub(super) fn onnx() -> Vec<OnnxName> {
    ["Affine", "Crop", "ImageScaler", "ParametricSoftplus", "ScaledTanh"]
        .map(|name| OnnxName { domain: "", name, versions: &[1] })
        .to_vec()
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    let float = |name: &str, default: f32| -> Result<f64, ImportError> { Ok(f64::from(node.float(name, default)?)) };
    Ok(vec![match node.op_type() {
        "Affine" => {
            let y = with_constant(cx, "mul", x, float("alpha", 1.0)?)?;
            with_constant(cx, "add", y, float("beta", 0.0)?)?
        }
        // alpha · ln(1 + exp(beta · x))
        "ParametricSoftplus" => {
            let y = with_constant(cx, "mul", x, float("beta", 1.0)?)?;
            let y = apply(cx, "softplus", &[y])?;
            with_constant(cx, "mul", y, float("alpha", 1.0)?)?
        }
        "ScaledTanh" => {
            let y = with_constant(cx, "mul", x, float("beta", 1.0)?)?;
            let y = apply(cx, "tanh", &[y])?;
            with_constant(cx, "mul", y, float("alpha", 1.0)?)?
        }
        "ImageScaler" => {
            let y = with_constant(cx, "mul", x, float("scale", 1.0)?)?;
            let bias = super::ml::floats(node, "bias")?;
            let channels = image(cx, x)?[1].clone();
            if channels.as_usize().is_some_and(|c| c != bias.len()) {
                return Err(ImportError::new(format!("bias: expected one number for each of {channels} channels, found {}", bias.len())));
            }
            let bias = cx.weight(Tensor::from_f64(cx.dtype(x), &[bias.len(), 1, 1], &bias));
            apply(cx, "add", &[y, bias])?
        }
        _ => crop(node, cx, x)?,
    }])
}

/// The extents of images `[N, C, H, W]`.
fn image(cx: &Importer<'_>, x: ValueId) -> Result<[Dim; 4], ImportError> {
    let shape = cx.shape(x);
    <[Dim; 4]>::try_from(shape.0.clone())
        .map_err(|_| ImportError::new(format!("expected images [N, C, H, W], found {}", Shape(shape.0.clone()))))
}

/// Images without `border` (left, top, right, bottom); with `scale` (height, width), so much of them from the left and upper border on.
fn crop(node: &OnnxNode<'_>, cx: &mut Importer<'_>, x: ValueId) -> Result<ValueId, ImportError> {
    let [_, _, height, width] = image(cx, x)?;
    let sizes = |name: &str, count: usize| -> Result<Option<Vec<usize>>, ImportError> {
        let Some(all) = node.opt_ints(name)? else { return Ok(None) };
        let sizes = all.iter().map(|v| usize::try_from(*v).ok()).collect::<Option<Vec<_>>>().filter(|s| s.len() == count);
        sizes.map(Some).ok_or_else(|| ImportError::new(format!("{name}: expected {count} numbers of at least 0, found {all:?}")))
    };
    let border = sizes("border", 4)?.ok_or_else(|| ImportError::new("`border` is missing"))?;
    let scale = sizes("scale", 2)?;
    let mut y = x;
    for (axis, extent, i) in [(2, height, 1), (3, width, 0)] {
        let extent = extent.as_usize().ok_or_else(|| ImportError::new(format!("the image's extents must be known, found {extent}")))?;
        let count = match &scale {
            Some(s) => Some(s[axis - 2]),
            None => border[i].checked_add(border[i + 2]).and_then(|b| extent.checked_sub(b)),
        };
        let count = count.filter(|c| c.checked_add(border[i]).is_some_and(|end| end <= extent));
        let count = count.ok_or_else(|| ImportError::new(format!("border: {border:?} does not fit an image of {}", cx.shape(x))))?;
        y = part(cx, y, axis, border[i], count)?;
    }
    Ok(y)
}

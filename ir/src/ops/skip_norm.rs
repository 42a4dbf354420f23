//! Normalisations of com.microsoft, with what is added before them.
//!
//! [SkipLayerNormalization, SkipSimplifiedLayerNormalization, SimplifiedLayerNormalization,
//! EmbedLayerNormalization](https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md). ONNX Runtime also writes
//! SimplifiedLayerNormalization into the domain ai.onnx.

use super::gather::Gather;
use super::layer_norm::{LayerNorm, normalised};
use super::reduce::{Kind, Reduce};
use super::util::{apply, cast, counted, number, reshape};
use crate::op::resolve_axis;
use crate::ops::*;
use tenon_base::{Real, Shape};

pub(super) fn onnx() -> Vec<OnnxName> {
    let on = |domain, name| OnnxName { domain, name, versions: &[1] };
    vec![
        on("com.microsoft", "SkipLayerNormalization"),
        on("com.microsoft", "SkipSimplifiedLayerNormalization"),
        on("com.microsoft", "SimplifiedLayerNormalization"),
        on("", "SimplifiedLayerNormalization"),
        on("com.microsoft", "EmbedLayerNormalization"),
    ]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let epsilon = |default: f32| -> Result<Real, ImportError> { Ok(Real(f64::from(node.float("epsilon", default)?))) };
    match node.op_type() {
        "EmbedLayerNormalization" => embed(node, cx, epsilon(1e-12)?),
        "SimplifiedLayerNormalization" => {
            let x = node.input(0)?;
            let axis = resolve_axis(node.int("axis", -1)?, cx.rank(x))?;
            let stats = node.wants_output(1);
            let op = LayerNorm { axis, epsilon: epsilon(1e-5)?, rms: true, stats };
            let stash = statistics(cx, x);
            let all = normalised(cx, op, &[x, node.input(1)?], stash)?;
            // Of the statistics only the inverse deviation is one of the operator's results.
            Ok(all.into_iter().enumerate().filter(|(i, _)| *i != 1).map(|(_, v)| v).collect())
        }
        name => {
            let rms = name == "SkipSimplifiedLayerNormalization";
            let stats = node.wants_output(1) || node.wants_output(2);
            let given = cx.dtype(node.input(0)?);
            // Statistics are those of the sum before it is rounded to half floats.
            let dtype = if stats { statistics(cx, node.input(0)?) } else { given };
            let wide = |cx: &mut Importer<'_>, v: ValueId| cast(cx, v, dtype);
            let (a, b) = (wide(cx, node.input(0)?)?, wide(cx, node.input(1)?)?);
            let mut sum = apply(cx, "add", &[a, b])?;
            // The simplified form has no beta.
            let (beta, bias) = if rms { (None, node.opt_input(3)) } else { (node.opt_input(3), node.opt_input(4)) };
            if let Some(b) = bias {
                let b = wide(cx, b)?;
                sum = apply(cx, "add", &[sum, b])?;
            }
            let axis = cx.rank(sum).checked_sub(1).ok_or_else(|| ImportError::new("expected an operand with axes"))?;
            let mut operands = vec![sum, wide(cx, node.input(2)?)?];
            if let Some(b) = beta {
                operands.push(wide(cx, b)?);
            }
            let mut all = cx.ops(LayerNorm { axis, epsilon: epsilon(1e-12)?, rms, stats }, &operands)?;
            all[0] = cast(cx, all[0], given)?;
            sum = cast(cx, sum, given)?;
            while all.len() < 3 {
                all.push(all[0]);
            }
            all.push(sum);
            Ok(all)
        }
    }
}

/// The dtype of statistics: `f32` of half floats, too.
fn statistics(cx: &Importer<'_>, x: ValueId) -> DType {
    if cx.dtype(x) == DType::F16 { DType::F32 } else { cx.dtype(x) }
}

/// Word, position and segment embeddings, summed and normalised.
fn embed(node: &OnnxNode<'_>, cx: &mut Importer<'_>, epsilon: Real) -> Result<Vec<ValueId>, ImportError> {
    let ids = node.input(0)?;
    let shape = cx.shape(ids).clone();
    if shape.rank() != 2 {
        return Err(ImportError::new(format!("expected ids [batch, positions], found {shape}")));
    }
    let rows = Gather { axis: 0 };
    let mut sum = cx.op(rows.clone(), &[node.input(2)?, ids])?;
    let positions = match node.opt_input(8) {
        Some(p) => p,
        None => {
            let n = shape.0[1].as_usize().ok_or_else(|| ImportError::new("the number of positions must be known"))?;
            counted(cx, 0, &[1, n])?
        }
    };
    let at = cx.op(rows.clone(), &[node.input(3)?, positions])?;
    sum = apply(cx, "add", &[sum, at])?;
    if let (Some(segments), Some(table)) = (node.opt_input(1), node.opt_input(4)) {
        let of = cx.op(rows, &[table, segments])?;
        sum = apply(cx, "add", &[sum, of])?;
    }
    let y = cx.op(LayerNorm { axis: 2, epsilon, rms: false, stats: false }, &[sum, node.input(5)?, node.input(6)?])?;
    // How many positions of each row the mask keeps.
    let kept = match node.opt_input(7) {
        Some(m) => {
            let m = cast(cx, m, DType::I32)?;
            let sum = cx.op(Reduce { kind: Kind::Sum, axes: vec![1] }, &[m])?;
            reshape(cx, sum, Shape(vec![shape.0[0].clone()]))?
        }
        None => {
            let zero = number(cx, DType::I32, 0.0);
            cx.op(super::expand::Expand { to: Shape(vec![shape.0[0].clone()]) }, &[zero])?
        }
    };
    Ok(vec![y, kept, sum])
}

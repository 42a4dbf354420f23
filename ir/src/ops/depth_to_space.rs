//! DepthToSpace and SpaceToDepth: blocks of channels become blocks of pixels, and back.
//!
//! ONNX: [DepthToSpace](https://onnx.ai/onnx/operators/onnx__DepthToSpace.html) (1, 11, 13),
//! [SpaceToDepth](https://onnx.ai/onnx/operators/onnx__SpaceToDepth.html) (1, 13, 28). Both are a transpose between two views.

use super::reshape::Reshape;
use super::transpose::Transpose;
use crate::ops::*;
use tenon_base::Shape;

pub(super) fn onnx() -> Vec<OnnxName> {
    let on = |name, versions| OnnxName { domain: "", name, versions };
    vec![on("DepthToSpace", &[1, 11, 13]), on("SpaceToDepth", &[1, 13, 28])]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    let s = cx.shape(x).0.clone();
    let [n, c, h, w] = &s[..] else {
        return Err(ImportError::new(format!("expected an operand [N,C,H,W], found {}", Shape(s))));
    };
    let b = match node.opt_int("blocksize")? {
        Some(b) if b > 0 => Dim::Const(b),
        other => return Err(ImportError::new(format!("blocksize: expected a positive integer, found {other:?}"))),
    };
    let block = b.mul(&b);
    let divides = |what: &str, a: &Dim, by: &Dim| match (a.as_const(), by.as_const()) {
        (Some(a), Some(by)) if a % by != 0 => {
            Err(ImportError::new(format!("{what} {a} is not a multiple of {by}")))
        }
        _ => Ok(()),
    };
    if node.op_type() == "SpaceToDepth" {
        divides("height", h, &b)?;
        divides("width", w, &b)?;
        let split = [n.clone(), c.clone(), h.div(&b), b.clone(), w.div(&b), b.clone()];
        let y = cx.op(Reshape { to: Shape(split.to_vec()) }, &[x])?;
        let perm = match node.str("mode", "DCR")? {
            "DCR" => vec![0, 3, 5, 1, 2, 4],
            "CRD" => vec![0, 1, 3, 5, 2, 4],
            other => return Err(ImportError::new(format!("mode: expected DCR or CRD, found {other:?}"))),
        };
        let y = cx.op(Transpose { perm }, &[y])?;
        let to = Shape(vec![n.clone(), c.mul(&block), h.div(&b), w.div(&b)]);
        return Ok(vec![cx.op(Reshape { to }, &[y])?]);
    }
    divides("the number of channels", c, &block)?;
    let deep = c.div(&block);
    let (split, perm) = match node.str("mode", "DCR")? {
        "DCR" => ([n.clone(), b.clone(), b.clone(), deep.clone(), h.clone(), w.clone()], vec![0, 3, 4, 1, 5, 2]),
        "CRD" => ([n.clone(), deep.clone(), b.clone(), b.clone(), h.clone(), w.clone()], vec![0, 1, 4, 2, 5, 3]),
        other => return Err(ImportError::new(format!("mode: expected DCR or CRD, found {other:?}"))),
    };
    let y = cx.op(Reshape { to: Shape(split.to_vec()) }, &[x])?;
    let y = cx.op(Transpose { perm }, &[y])?;
    Ok(vec![cx.op(Reshape { to: Shape(vec![n.clone(), deep, h.mul(&b), w.mul(&b)]) }, &[y])?])
}

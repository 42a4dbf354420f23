//! Expand and Tile: elements repeated along axes.
//!
//! ONNX: [Expand](https://onnx.ai/onnx/operators/onnx__Expand.html) (8, 13), by broadcasting;
//! [Tile](https://onnx.ai/onnx/operators/onnx__Tile.html) (1, 6, 13), the whole operand again and again: an expansion between two views.

use super::reshape::Reshape;
use super::util::{strided_elements, strides};
use crate::lower::broadcast_index;
use crate::op::expect_operands;
use crate::ops::*;
use tenon_base::Shape;

crate::attributes! {
    /// The operand broadcast to `to`.
    pub struct Expand {
        /// The result's shape; the operand's broadcasts to it.
        pub to: Shape,
    }
}

impl Operator for Expand {
    fn names() -> Vec<&'static str> {
        vec!["expand"]
    }

    fn onnx() -> Vec<OnnxName> {
        let on = |name, versions| OnnxName { domain: "", name, versions };
        vec![on("Expand", &[8, 13]), on("Tile", &[1, 6, 13])]
    }

    fn name(&self) -> &'static str {
        "expand"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Expand::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let x = node.input(0)?;
        if node.op_type() == "Tile" {
            return import_tile(node, cx, x);
        }
        let target = Shape(cx.constant_dims(node.input(1)?, "shape")?);
        let shape = cx.shape(x).clone();
        // Both sides broadcast: an extent of 1 in the target keeps the operand's.
        let to = shape.broadcast(&target).map_err(|(a, b)| {
            ImportError::new(format!("{shape} does not broadcast to {target}: {a} against {b}"))
        })?;
        if to == shape {
            return Ok(vec![x]);
        }
        Ok(vec![cx.op(Expand { to }, &[x])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        let x = &ins[0].shape;
        match x.broadcast(&self.to) {
            Ok(to) if to == self.to => Ok(vec![Fact::new(ins[0].dtype, to)]),
            _ => Err(InferError::new(format!("{x} does not broadcast to {}", self.to))),
        }
    }

    fn infer_dims(&self, ins: &[Option<Vec<Dim>>], _: &[Fact]) -> Option<Vec<Dim>> {
        let d = ins[0].as_ref()?;
        let n = self.to.numel().as_const().filter(|n| (0..=1024).contains(n) && self.to.rank() <= 1)?;
        (d.len() == 1).then(|| vec![d[0].clone(); n as usize])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let to = self.to.to_usize().ok_or("the shape is not known")?;
        let (dims, s) = (ins[0].shape(), strides(ins[0].shape()));
        let mut along = vec![0; to.len() - dims.len()];
        along.extend(dims.iter().zip(s).map(|(d, s)| if *d == 1 { 0 } else { s as i64 }));
        Ok(vec![strided_elements(&ins[0], &to, 0, &along)?])
    }

    fn class(&self) -> OpClass {
        OpClass::Move
    }

    fn source(&self, ins: &[Fact], out: &Fact, index: &[Expr]) -> Option<Source> {
        Some(Source::at(broadcast_index(index, &out.dims()?, &ins[0].dims()?)))
    }

    fn permuted(&self, perm: &[usize], ins: &[Fact]) -> Option<Op> {
        if ins[0].shape.rank() != self.to.rank() {
            return None;
        }
        let mut to = self.to.0.clone();
        for (a, &p) in perm.iter().enumerate() {
            to[p] = self.to.0[a].clone();
        }
        Some(Op::Expand(Expand { to: Shape(to) }))
    }

    fn samples() -> Vec<Sample> {
        let e = |to: &[usize]| Expand { to: Shape::of(to) };
        vec![
            Sample::new(e(&[2, 3, 5]), &[(DType::F32, &[3, 1])]),
            Sample::new(e(&[4]), &[(DType::I64, &[])]),
            Sample::new(e(&[3, 4]), &[(DType::U8, &[3, 4])]),
            Sample::new(e(&[0, 4]), &[(DType::F32, &[1, 4])]),
        ]
    }
}

/// `[d0, d1, …]` → `[1, d0, 1, d1, …]` → `[r0, d0, r1, d1, …]` → `[r0·d0, r1·d1, …]`
fn import_tile(node: &OnnxNode<'_>, cx: &mut Importer<'_>, x: ValueId) -> Result<Vec<ValueId>, ImportError> {
    let shape = cx.shape(x).clone();
    let repeats = cx.constant_dims(node.input(1)?, "repeats")?;
    if repeats.len() != shape.rank() || repeats.iter().any(|r| r.as_const().is_some_and(|r| r < 0)) {
        return Err(ImportError::new(format!(
            "repeats: expected {} non-negative counts, found {}",
            shape.rank(),
            Shape(repeats)
        )));
    }
    let mut ones = vec![];
    let mut wide = vec![];
    let mut to = vec![];
    for (d, r) in shape.0.iter().zip(&repeats) {
        ones.extend([Dim::Const(1), d.clone()]);
        wide.extend([r.clone(), d.clone()]);
        to.push(d.mul(r));
    }
    let y = cx.op(Reshape { to: Shape(ones) }, &[x])?;
    let y = cx.op(Expand { to: Shape(wide) }, &[y])?;
    Ok(vec![cx.op(Reshape { to: Shape(to) }, &[y])?])
}

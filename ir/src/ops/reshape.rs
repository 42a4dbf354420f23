//! Reshape: the same elements in row-major order under another shape.
//!
//! ONNX: [Reshape](https://onnx.ai/onnx/operators/onnx__Reshape.html) (1, 5, 13, 14, 19, 21, 23),
//! [Flatten](https://onnx.ai/onnx/operators/onnx__Flatten.html), [Squeeze](https://onnx.ai/onnx/operators/onnx__Squeeze.html),
//! [Unsqueeze](https://onnx.ai/onnx/operators/onnx__Unsqueeze.html), [Identity](https://onnx.ai/onnx/operators/onnx__Identity.html) and
//! inference-time [Dropout](https://onnx.ai/onnx/operators/onnx__Dropout.html) all become this view, which costs nothing.

use crate::op::{expect_operands, resolve_axis};
use crate::ops::*;
use tenon_base::Shape;

crate::attributes! {
    /// A view under the shape `to`.
    pub struct Reshape {
        /// The new shape; its element count is the operand's.
        pub to: Shape,
    }
}

impl Operator for Reshape {
    fn names() -> Vec<&'static str> {
        vec!["reshape"]
    }

    fn onnx() -> Vec<OnnxName> {
        let on = |name, versions| OnnxName { domain: "", name, versions };
        vec![
            on("Reshape", &[1, 5, 13, 14, 19, 21, 23]),
            on("Flatten", &[1, 9, 11, 13, 21, 23]),
            on("Squeeze", &[1, 11, 13, 21, 23]),
            on("Unsqueeze", &[1, 11, 13, 21, 23]),
            on("Identity", &[1, 13, 14, 16, 19, 21, 23]),
        ]
    }

    fn name(&self) -> &'static str {
        "reshape"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Reshape::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let x = node.input(0)?;
        let to = match node.op_type() {
            "Identity" => return Ok(vec![x]),
            "Reshape" => reshape_target(node, cx, x)?,
            "Flatten" => flatten_target(node, cx, x)?,
            "Squeeze" => squeeze_target(node, cx, x)?,
            _ => unsqueeze_target(node, cx, x)?,
        };
        Ok(vec![cx.op(Reshape { to }, &[x])?])
    }

    fn infer_dims(&self, ins: &[Option<Vec<Dim>>], _: &[Fact]) -> Option<Vec<Dim>> {
        ins.first()?.clone()
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        let (from, to) = (ins[0].shape.numel(), self.to.numel());
        if let (Some(a), Some(b)) = (from.as_const(), to.as_const())
            && a != b
        {
            return Err(InferError::new(format!(
                "cannot reshape {} ({a} elements) to {} ({b} elements)",
                ins[0].shape, self.to
            )));
        }
        Ok(vec![Fact::new(ins[0].dtype, self.to.clone())])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let to = self.to.to_usize().ok_or("the shape is not known")?;
        Ok(vec![ins[0].reshaped(&to)])
    }

    fn class(&self) -> OpClass {
        OpClass::View
    }

    fn samples() -> Vec<Sample> {
        let to = |d: &[usize]| Reshape { to: Shape::of(d) };
        vec![
            Sample::new(to(&[6, 4]), &[(DType::F32, &[2, 3, 4])]),
            Sample::new(to(&[]), &[(DType::I64, &[1, 1])]),
            Sample::new(to(&[0, 3]), &[(DType::F32, &[3, 0])]),
        ]
    }
}

/// 0 copies an extent (unless `allowzero`), −1 is what remains.
fn reshape_target(node: &OnnxNode<'_>, cx: &Importer<'_>, x: ValueId) -> Result<Shape, ImportError> {
    let target: Vec<Dim> = match node.opt_ints("shape")? {
        Some(s) if node.opset < 5 => s.into_iter().map(Dim::Const).collect(),
        _ => cx.constant_dims(node.input(1)?, "shape")?,
    };
    let from = cx.shape(x);
    let allow_zero = node.int("allowzero", 0)? != 0;
    let mut to = Vec::with_capacity(target.len());
    let mut rest = None;
    for (i, d) in target.iter().enumerate() {
        match d {
            Dim::Const(0) if !allow_zero => to.push(from.0.get(i).cloned().ok_or_else(|| {
                ImportError::new(format!("the shape copies extent {i} (0), but the operand {from} has rank {}", from.rank()))
            })?),
            Dim::Const(-1) if rest.replace(i).is_none() => to.push(Dim::Const(1)),
            Dim::Const(c) if *c < 0 => {
                return Err(ImportError::new(format!("expected extents, 0 or one -1, found {c} at {i}")));
            }
            d => to.push(d.clone()),
        }
    }
    if let Some(i) = rest {
        let known = Shape(to.clone()).numel();
        let total = from.numel();
        if let (Some(t), Some(k)) = (total.as_const(), known.as_const())
            && (k == 0 || t % k != 0)
        {
            return Err(ImportError::new(format!(
                "cannot reshape {from} ({t} elements) to {}: {t} is not a multiple of {k}",
                Shape(target.clone())
            )));
        }
        to[i] = total.div(&known);
    }
    Ok(Shape(to))
}

fn flatten_target(node: &OnnxNode<'_>, cx: &Importer<'_>, x: ValueId) -> Result<Shape, ImportError> {
    let shape = cx.shape(x);
    let (axis, rank) = (node.int("axis", 1)?, shape.rank());
    // `axis == rank` is allowed: everything goes to the left.
    let axis = if axis == rank as i64 { rank } else { resolve_axis(axis, rank)? };
    let (a, b) = shape.0.split_at(axis);
    Ok(Shape(vec![Shape(a.to_vec()).numel(), Shape(b.to_vec()).numel()]))
}

/// The `axes` attribute (before opset 13) or operand 1.
fn axes_of(node: &OnnxNode<'_>, cx: &Importer<'_>) -> Result<Option<Vec<i64>>, ImportError> {
    match (node.opt_ints("axes")?, node.opt_input(1)) {
        (Some(a), _) => Ok(Some(a)),
        (None, Some(v)) => cx.constant_ints(v, "axes").map(Some),
        (None, None) => Ok(None),
    }
}

fn squeeze_target(node: &OnnxNode<'_>, cx: &Importer<'_>, x: ValueId) -> Result<Shape, ImportError> {
    let shape = cx.shape(x).clone();
    let drop: Vec<usize> = match axes_of(node, cx)? {
        None => (0..shape.rank()).filter(|&i| shape.0[i] == Dim::Const(1)).collect(),
        Some(axes) => axes.iter().map(|&a| resolve_axis(a, shape.rank())).collect::<Result<_, _>>()?,
    };
    for &a in &drop {
        if shape.0[a].as_const().is_some_and(|d| d != 1) {
            return Err(ImportError::new(format!("expected extent 1 at axis {a} of {shape}, found {}", shape.0[a])));
        }
    }
    let keep = shape.0.iter().enumerate().filter(|(i, _)| !drop.contains(i));
    Ok(Shape(keep.map(|(_, d)| d.clone()).collect()))
}

fn unsqueeze_target(node: &OnnxNode<'_>, cx: &Importer<'_>, x: ValueId) -> Result<Shape, ImportError> {
    let axes = axes_of(node, cx)?.ok_or_else(|| ImportError::new("`axes` is missing"))?;
    let rank = cx.rank(x) + axes.len();
    let mut new: Vec<usize> = axes.iter().map(|&a| resolve_axis(a, rank)).collect::<Result<_, _>>()?;
    new.sort_unstable();
    new.dedup();
    if new.len() != axes.len() {
        return Err(ImportError::new(format!("axes {axes:?} name one axis twice")));
    }
    let mut dims = cx.shape(x).0.iter();
    let to = (0..rank).map(|i| if new.contains(&i) { Some(Dim::Const(1)) } else { dims.next().cloned() });
    to.collect::<Option<Vec<_>>>().map(Shape).ok_or_else(|| ImportError::new("axes do not fit the operand"))
}

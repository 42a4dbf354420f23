//! QuantizeLinear: `y = saturate(round(x / scale) + zero_point)`, ties to even.
//!
//! ONNX: [QuantizeLinear](https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html) (10, 13, 19, 21, 23, 24, 25). One scale for all elements, one a
//! channel, or one a block: scale and zero point are given the shape that broadcasts.

use super::expand::Expand;
use super::requantize::MAGIC;
use super::slice::Slice;
use super::util::{map_broadcast, reshape};
use crate::op::{expect_dtype, expect_operands, resolve_axis};
use crate::ops::*;
use tenon_base::{Scalar, Shape};
use tenon_kernel::UnOp;

crate::attributes! {
    /// Operands: data, scale and, unless it is 0, zero point of dtype `to`; they broadcast to the data's shape.
    pub struct Quantize {
        /// `u8`, `i8`, `u16` or `i16`.
        pub to: DType,
    }
}

/// Quantisation to a dtype that is only stored: small integers are rounded and kept in range, small floats are a conversion.
fn to_stored(node: &OnnxNode<'_>, cx: &mut Importer<'_>, to: DType, operands: &[ValueId]) -> Result<ValueId, ImportError> {
    use super::util::{apply, cast};
    let wide = crate::lower::wide(cx.dtype(operands[1]));
    let wide = if wide == DType::F64 { wide } else { DType::F32 };
    let (x, scale) = (cast(cx, operands[0], wide)?, cast(cx, operands[1], wide)?);
    let mut y = apply(cx, "div", &[x, scale])?;
    let range = to.int_range();
    if range.is_some() {
        y = apply(cx, "round", &[y])?;
    }
    if let Some(z) = operands.get(2) {
        let z = cast(cx, *z, wide)?;
        y = apply(cx, "add", &[y, z])?;
    }
    match range {
        Some((lo, hi)) => {
            let bound = |v: i128| Some(tenon_base::Real(v as f64));
            y = cx.op(super::clip::Clip { min: bound(lo), max: bound(hi) }, &[y])?;
            cast(cx, y, to)
        }
        None => {
            let saturate = (node.int("saturate", 1)? == 0).then_some(false);
            cx.op(super::cast::Cast { to, saturate }, &[y])
        }
    }
}

/// Dtypes of quantised elements that are narrow enough for `f32` to hold any sum of two.
pub(super) fn is_narrow(d: DType) -> bool {
    matches!(d, DType::U8 | DType::I8 | DType::U16 | DType::I16)
}

impl Operator for Quantize {
    fn names() -> Vec<&'static str> {
        vec!["quantize"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![
            OnnxName { domain: "", name: "QuantizeLinear", versions: &[10, 13, 19, 21, 23, 24, 25] },
            OnnxName { domain: "com.microsoft", name: "QuantizeLinear", versions: &[1] },
        ]
    }

    fn name(&self) -> &'static str {
        "quantize"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Quantize::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let (x, scale) = (node.input(0)?, node.input(1)?);
        let zero = node.opt_input(2);
        let to = match (zero, node.int("output_dtype", 0)?) {
            (Some(z), 0) => cx.dtype(z),
            (None, 0) => DType::U8,
            (zero, code) => {
                let to = crate::import::dtype_of_code(code)?;
                if let Some(z) = zero.filter(|z| cx.dtype(*z) != to) {
                    return Err(ImportError::new(format!("output_dtype is {to}, but the zero point has {}", cx.dtype(z))));
                }
                to
            }
        };
        let mut operands = vec![x, spread(node, cx, x, scale)?];
        if let Some(z) = zero {
            operands.push(spread(node, cx, x, z)?);
        }
        if to.is_stored() {
            return Ok(vec![to_stored(node, cx, to, &operands)?]);
        }
        Ok(vec![cx.op(Quantize { to }, &operands)?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 2..=3)?;
        expect_dtype(ins, 0, |d| d.is_float() || d == DType::I32, "a float dtype or i32")?;
        expect_dtype(ins, 1, DType::is_float, "a float dtype")?;
        if !is_narrow(self.to) {
            return Err(InferError::new(format!("expected a result of u8, i8, u16 or i16, found {}", self.to)));
        }
        if ins.len() > 2 {
            expect_dtype(ins, 2, |d| d == self.to, &format!("a zero point of {}", self.to))?;
        }
        Ok(vec![Fact::new(self.to, broadcasting(ins)?)])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let out = Fact::of(self.to, ins[0].shape());
        let (lo, hi) = self.to.int_range().ok_or("the result is not of integers")?;
        let double = computed_in(&[ins[0].dtype(), ins[1].dtype()]) == DType::F64;
        let value = |x: f64, s: f64, zero: f64| {
            // The quotient is rounded as a machine rounds it: a tie is a tie only then.
            let q = if double { x / s } else { f64::from(x as f32 / s as f32) }.round_ties_even();
            if q.is_nan() { lo } else { (q as i128).saturating_add(zero as i128).clamp(lo, hi) }
        };
        let t = match ins.get(2) {
            Some(zero) => map_broadcast(&out, [&ins[0], &ins[1], zero], |[x, s, z]| value(x, s, z))?,
            None => map_broadcast(&out, [&ins[0], &ins[1]], |[x, s]| value(x, s, 0.0))?,
        };
        Ok(vec![t])
    }

    fn class(&self) -> OpClass {
        OpClass::Pointwise
    }

    fn scalar(&self, ins: &[DType], out: DType, args: &[Expr]) -> Option<Expr> {
        let (lo, hi) = self.to.int_range()?;
        let d = computed_in(ins);
        let to = |i: usize| if ins[i] == d { args[i].clone() } else { args[i].clone().cast(d) };
        if d == DType::F32 {
            // Bounds are integers, so they may as well be applied before the rounding; NaN becomes the lower one.
            let zero = args.get(2).map(|z| z.clone().cast(DType::I32));
            let bound = |v: i128| match &zero {
                None => Expr::constant(d, v as f64),
                Some(z) => (Expr::Const(Scalar::of_int(DType::I32, v)) - z.clone()).cast(d),
            };
            let q = (to(0) / to(1)).max(bound(lo)).min(bound(hi));
            let bits = (q + Expr::constant(d, f64::from(MAGIC))).bitcast(DType::I32);
            return Some(zero.map_or(bits.clone(), |z| bits + z).cast(out));
        }
        let mut q = (to(0) / to(1)).unary(UnOp::Nearest);
        if args.len() > 2 {
            q = q + to(2);
        }
        let q = q.max(Expr::constant(d, lo as f64));
        Some(Expr::constant(d, hi as f64).min(q).cast(out))
    }

    fn samples() -> Vec<Sample> {
        let q = |to| Quantize { to };
        let (f, s) = (DType::F32, [(-30.0, 30.0), (0.05, 0.2), (100.0, 140.0)]);
        let signed = [(-30.0, 30.0), (0.05, 0.2), (-20.0, 20.0)];
        vec![
            Sample::new(q(DType::U8), &[(f, &[3, 37]), (f, &[]), (DType::U8, &[])]).with_range(&s),
            Sample::new(q(DType::I8), &[(f, &[2, 3, 5]), (f, &[3, 1]), (DType::I8, &[3, 1])]).with_range(&signed),
            Sample::new(q(DType::I16), &[(DType::F16, &[2, 7]), (DType::F16, &[])]).with_range(&signed),
            Sample::new(q(DType::U16), &[(DType::F64, &[9]), (DType::F64, &[1]), (DType::U16, &[1])]).with_range(&s),
            Sample::new(q(DType::I8), &[(DType::I32, &[9]), (f, &[9])]).with_range(&[(-300.0, 300.0), (0.5, 3.0)]),
            Sample::new(q(DType::U8), &[(f, &[0, 4]), (f, &[]), (DType::U8, &[])]).with_range(&s),
        ]
    }
}

/// The float dtype of the quotient.
fn computed_in(ins: &[DType]) -> DType {
    // `f32` does not hold every `i32`.
    if ins[..2].iter().any(|d| matches!(d, DType::F64 | DType::I32)) { DType::F64 } else { DType::F32 }
}

/// The shape of operand 0, to which the others must broadcast.
pub(super) fn broadcasting(ins: &[Fact]) -> Result<Shape, InferError> {
    let x = &ins[0].shape;
    for (i, f) in ins.iter().enumerate().skip(1) {
        match x.broadcast(&f.shape) {
            Ok(s) if s == *x => {}
            _ => return Err(InferError::new(format!("operand {i}: expected a shape that broadcasts to {x}, found {}", f.shape))),
        }
    }
    Ok(x.clone())
}

/// A scale or zero point `v` in a shape that broadcasts to that of `x`: attribute `axis` says which axis has one value a
/// channel, `block_size` how many elements of it share one.
pub(super) fn spread(
    node: &OnnxNode<'_>,
    cx: &mut Importer<'_>,
    x: ValueId,
    v: ValueId,
) -> Result<ValueId, ImportError> {
    let (shape, values) = (cx.shape(x).clone(), cx.shape(v).clone());
    if values.numel() == Dim::Const(1) {
        return reshape(cx, v, Shape(vec![]));
    }
    let rank = shape.rank();
    let axis = resolve_axis(node.int("axis", 1)?, rank)?;
    let extent = &shape.0[axis];
    let block = node.int("block_size", 0)?;
    if block == 0 {
        let channels = values.numel();
        if values.rank() != 1 || (extent.as_const().is_some() && channels != *extent) {
            return Err(ImportError::new(format!("expected {extent} scales for axis {axis} of {shape}, found {values}")));
        }
        let mut to = vec![Dim::Const(1); rank];
        to[axis] = channels;
        return reshape(cx, v, Shape(to));
    }
    let blocks = extent.as_const().filter(|_| block > 0).map(|n| (n - 1).div_euclid(block.max(1)) + 1);
    if values.rank() != rank || blocks.is_none_or(|b| values.0[axis] != Dim::Const(b)) {
        return Err(ImportError::new(format!(
            "expected one scale for every {block} elements along axis {axis} of {shape}, found {values}"
        )));
    }
    // [.., blocks, ..] → [.., blocks, 1, ..] → [.., blocks, block, ..] → [.., blocks·block, ..] → [.., extent, ..]
    let mut to = values.0.clone();
    to.insert(axis + 1, Dim::Const(1));
    let mut y = cx.op(super::reshape::Reshape { to: Shape(to.clone()) }, &[v])?;
    to[axis + 1] = Dim::Const(block);
    y = cx.op(Expand { to: Shape(to.clone()) }, &[y])?;
    let all = to[axis].mul(&to[axis + 1]);
    to.remove(axis + 1);
    to[axis] = all;
    y = reshape(cx, y, Shape(to.clone()))?;
    if to[axis] != *extent {
        to[axis] = extent.clone();
        y = cx.op(Slice { starts: vec![0; rank], steps: vec![1; rank], to: Shape(to) }, &[y])?;
    }
    Ok(y)
}

//! DequantizeLinear: `y = (x - zero_point) · scale`.
//!
//! ONNX: [DequantizeLinear](https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html) (10, 13, 19, 21, 23, 24, 25). One scale for all elements, one
//! a channel, or one a block, as for QuantizeLinear.

use super::quantize::{broadcasting, is_narrow, spread};
use super::util::{cast, map_broadcast};
use crate::lower::wide;
use crate::op::{expect_dtype, expect_operands};
use crate::ops::*;

crate::attributes! {
    /// Operands: quantised data (`u8`, `i8`, `u16`, `i16` or `i32`), scale and, unless it is 0, zero point of the data's
    /// dtype; they broadcast to the data's shape. The result has the scale's dtype.
    pub struct Dequantize {}
}

impl Operator for Dequantize {
    fn names() -> Vec<&'static str> {
        vec!["dequantize"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![
            OnnxName { domain: "", name: "DequantizeLinear", versions: &[10, 13, 19, 21, 23, 24, 25] },
            OnnxName { domain: "com.microsoft", name: "DequantizeLinear", versions: &[1] },
        ]
    }

    fn name(&self) -> &'static str {
        "dequantize"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Dequantize::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let mut x = node.input(0)?;
        let scale = node.input(1)?;
        let stored = cx.dtype(x);
        if stored.is_stored() {
            // Small integers are held by bytes; small floats are numbers like others.
            x = cast(cx, x, if stored.is_int() { DType::I8 } else { cx.dtype(scale) })?;
        }
        let mut operands = vec![x, spread(node, cx, x, scale)?];
        if let Some(z) = node.opt_input(2) {
            let all_zero = cx.known(z).is_some_and(|t| t.scalars().all(|z| z.as_int() == 0));
            if !all_zero {
                let z = cast(cx, z, cx.dtype(x))?;
                operands.push(spread(node, cx, x, z)?);
            }
        }
        let y = if cx.dtype(x).is_float() {
            let x = if let Some(z) = operands.get(2) { super::util::apply(cx, "sub", &[x, *z])? } else { x };
            super::util::apply(cx, "mul", &[x, operands[1]])?
        } else {
            cx.op(Dequantize {}, &operands)?
        };
        Ok(vec![match node.int("output_dtype", 0)? {
            0 => y,
            code => cast(cx, y, crate::import::dtype_of_code(code)?)?,
        }])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 2..=3)?;
        expect_dtype(ins, 0, |d| is_narrow(d) || d == DType::I32, "u8, i8, u16, i16 or i32")?;
        expect_dtype(ins, 1, DType::is_float, "a float dtype")?;
        if ins.len() > 2 {
            expect_dtype(ins, 2, |d| d == ins[0].dtype, &format!("a zero point of {}", ins[0].dtype))?;
        }
        Ok(vec![Fact::new(ins[1].dtype, broadcasting(ins)?)])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let out = Fact::of(ins[1].dtype(), ins[0].shape());
        // `f64` holds elements of up to 32 bits, and their differences.
        Ok(vec![match ins.get(2) {
            Some(zero) => map_broadcast(&out, [&ins[0], &ins[1], zero], |[x, s, z]: [f64; 3]| (x - z) * s)?,
            None => map_broadcast(&out, [&ins[0], &ins[1]], |[x, s]: [f64; 2]| x * s)?,
        }])
    }

    fn class(&self) -> OpClass {
        OpClass::Pointwise
    }

    fn scalar(&self, ins: &[DType], out: DType, args: &[Expr]) -> Option<Expr> {
        let d = wide(out);
        // The difference of two narrow integers fits `i32`.
        let exact = if is_narrow(ins[0]) { DType::I32 } else { DType::I64 };
        let mut x = args[0].clone();
        if let Some(zero) = args.get(2) {
            x = x.cast(exact) - zero.clone().cast(exact);
        }
        Some(x.cast(d) * args[1].clone())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::ROUNDING
    }

    fn samples() -> Vec<Sample> {
        let q = Dequantize {};
        let f = DType::F32;
        let r = [(-100.0, 200.0), (0.05, 0.2), (-20.0, 120.0)];
        vec![
            Sample::new(q.clone(), &[(DType::U8, &[3, 37]), (f, &[]), (DType::U8, &[])]).with_range(&r),
            Sample::new(q.clone(), &[(DType::I8, &[2, 3, 5]), (f, &[3, 1]), (DType::I8, &[3, 1])]).with_range(&r),
            Sample::new(q.clone(), &[(DType::I32, &[2, 7]), (f, &[7])]).with_range(&r),
            Sample::new(q.clone(), &[(DType::I32, &[5]), (f, &[]), (DType::I32, &[])]).with_range(&r),
            Sample::new(q.clone(), &[(DType::U16, &[5]), (DType::F16, &[1]), (DType::U16, &[1])]).with_range(&r),
            Sample::new(q, &[(DType::I16, &[5]), (DType::F64, &[1])]).with_range(&r),
        ]
    }
}

//! Where a value ends that has room for more: an axis gets an extent that data decide.
//!
//! Not an ONNX operator: importers of results whose extents depend on data (NonZero, Compress, NonMaxSuppression, …) make it. The extent is
//! a symbol of its own, so that whatever follows has exact shapes; the pass for bounded dimensions makes of it what a run counts.

use super::util::gather_elements;
use crate::op::{expect_operands, resolve_axis};
use crate::ops::*;
use tenon_base::Shape;

crate::attributes! {
    /// Operands: a value, and how many of its elements along the axis there are, an `i64` scalar.
    pub struct Cut {
        /// Which axis.
        pub axis: usize,
        /// The result's shape; the extent of the axis is a symbol of this node, or a number, which the count then is.
        pub to: Shape,
    }
}

impl Operator for Cut {
    fn names() -> Vec<&'static str> {
        vec!["cut"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![]
    }

    fn name(&self) -> &'static str {
        "cut"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Cut::from_attrs(attrs)
    }

    fn import(_: &OnnxNode<'_>, _: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        Err(ImportError::new("not an ONNX operator"))
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 2..=2)?;
        let x = &ins[0].shape;
        resolve_axis(self.axis as i64, x.rank())?;
        if ins[1].dtype != DType::I64 || ins[1].shape.rank() != 0 {
            return Err(InferError::new(format!("the count: expected a scalar of i64, found {}", ins[1])));
        }
        let same = |a: usize| a == self.axis || self.to.0.get(a) == x.0.get(a);
        let more = self.to.0[self.axis].as_const().zip(x.0[self.axis].as_const()).is_some_and(|(n, d)| n < 0 || n > d);
        if self.to.rank() != x.rank() || !(0..x.rank()).all(same) || more {
            return Err(InferError::new(format!("{x} cannot be cut along axis {} to {}", self.axis, self.to)));
        }
        Ok(vec![Fact::new(ins[0].dtype, self.to.clone())])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let (mut to, count) = (ins[0].shape().to_vec(), ins[1].get(0).as_int());
        let n = self.to.0[self.axis].as_usize().or(usize::try_from(count).ok()).filter(|n| *n <= to[self.axis]);
        to[self.axis] = n.ok_or_else(|| format!("{count} elements of {}", to[self.axis]))?;
        let s = crate::lower::strides(ins[0].shape());
        Ok(vec![gather_elements(&ins[0], &to, None, |i| Some(i.iter().zip(&s).map(|(i, s)| i * s).sum()))])
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let (dims, to) = (cx.in_dims(0), cx.out_dims(0));
        let inner: usize = to[self.axis + 1..].iter().product();
        let (row, whole) = (to[self.axis] * inner, dims[self.axis] * inner);
        let outer: usize = to[..self.axis].iter().product();
        cx.parfor("o", outer, |cx, o| {
            cx.parfor("i", row, |cx, i| {
                let x = cx.load_flat(0, o.clone() * whole + i.clone());
                cx.store_flat(0, o * row + i, x);
            });
        });
        Ok(())
    }

    fn samples() -> Vec<Sample> {
        let none: &[usize] = &[];
        let cut = |axis: usize, from: &[usize], to: &[usize]| {
            Sample::new(Cut { axis, to: Shape::of(to) }, &[(DType::F32, from), (DType::I64, none)])
        };
        vec![cut(0, &[5, 3], &[2, 3]), cut(1, &[2, 4], &[2, 4]), cut(0, &[3], &[0])]
    }
}

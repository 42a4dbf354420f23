//! Integers computed from dimensions that are not known yet: what ONNX Shape gives of a model with free dimensions. A pinned
//! compile has none.

use crate::op::expect_operands;
use crate::ops::*;
use tenon_base::Shape;

crate::attributes! {
    /// A constant `i64` tensor whose elements are symbolic.
    pub struct Symbolic {
        /// The elements, in row-major order.
        pub elements: Shape,
        /// The tensor's shape; all extents known.
        pub to: Shape,
    }
}

impl Operator for Symbolic {
    fn names() -> Vec<&'static str> {
        vec!["symbolic"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![]
    }

    fn name(&self) -> &'static str {
        "symbolic"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Symbolic::from_attrs(attrs)
    }

    fn import(_: &OnnxNode<'_>, _: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        Err(ImportError::new("not an ONNX operator"))
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 0..=0)?;
        if self.to.numel() != Dim::from(self.elements.rank()) {
            return Err(InferError::new(format!("{} elements do not make a {}", self.elements.rank(), self.to)));
        }
        Ok(vec![Fact::new(DType::I64, self.to.clone())])
    }

    fn eval(&self, _: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let v = self.elements.0.iter().map(Dim::as_const).collect::<Option<Vec<i64>>>();
        let v = v.ok_or_else(|| format!("the dimensions in {} are not known", self.elements))?;
        Ok(vec![Tensor::new(&self.to.to_usize().ok_or("the shape is not known")?, &v)])
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        for (i, d) in self.elements.0.iter().enumerate() {
            let v = d.as_const().ok_or_else(|| LowerError(format!("the dimension {d} is not known")))?;
            cx.store_flat(0, i.into(), Expr::int(v));
        }
        Ok(())
    }

    fn samples() -> Vec<Sample> {
        let symbolic = |v: &[usize], to: &[usize]| Symbolic { elements: Shape::of(v), to: Shape::of(to) };
        vec![
            Sample::new(symbolic(&[3, 224], &[2]), &[]),
            Sample::new(symbolic(&[7], &[]), &[]),
            Sample::new(symbolic(&[], &[0]), &[]),
        ]
    }
}

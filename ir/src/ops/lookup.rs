//! A function of one byte, as a table: `y[i] = table[x[i]]`.
//!
//! Made of any function between two quantised values: 256 operands, so 256 results, the same on every machine.

use super::util::push_elements;
use crate::lower::flatten;
use crate::op::{expect_dtype, expect_operands};
use crate::ops::*;
use tenon_base::Shape;

crate::attributes! {
    /// Operands: `u8` or `i8`, and the table, 256 elements in the order of the bytes as unsigned numbers.
    pub struct Lookup {}
}

impl Operator for Lookup {
    fn names() -> Vec<&'static str> {
        vec!["lookup"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![]
    }

    fn name(&self) -> &'static str {
        "lookup"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Lookup::from_attrs(attrs)
    }

    fn import(_: &OnnxNode<'_>, _: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        Err(ImportError::new("ONNX has no such operator"))
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 2..=2)?;
        expect_dtype(ins, 0, |d| matches!(d, DType::U8 | DType::I8), "u8 or i8")?;
        if ins[1].shape != Shape::of(&[256]) {
            return Err(InferError::new(format!("expected a table of [256], found {}", ins[1].shape)));
        }
        Ok(vec![Fact::new(ins[1].dtype, ins[0].shape.clone())])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let (dtype, n) = (ins[1].dtype(), ins[0].len());
        let mut data = Vec::with_capacity(n * dtype.size());
        push_elements(&mut data, ins[1].bytes(), dtype.size(), ins[0].bytes().iter().map(|b| usize::from(*b)));
        Ok(vec![Tensor::from_bytes(dtype, ins[0].shape(), data.into()).map_err(|e| e.to_string())?])
    }

    fn permuted(&self, perm: &[usize], ins: &[Fact]) -> Option<Op> {
        (ins[0].shape.rank() == perm.len()).then_some(Op::Lookup(Lookup {}))
    }

    fn permutes(&self, i: usize) -> bool {
        i == 0
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        // A loop an axis, so that a result that lies in a larger buffer takes no division to find its place.
        let dims = cx.out_dims(0);
        let vars = cx.nest("i", &dims);
        let index: Vec<Expr> = vars.iter().map(|v| Expr::Var(*v)).collect();
        let byte = cx.load(0, &index);
        let byte = if cx.in_dtype(0) == DType::I8 { byte.bitcast(DType::U8) } else { byte };
        let value = cx.load_flat(1, byte.cast(DType::I64));
        let (buf, index, value) = cx.write(0, flatten(&index, &dims), value);
        cx.push_nest(&vars, &dims, vec![tenon_kernel::Stmt::Store { buf, index, value }]);
        Ok(())
    }

    fn samples() -> Vec<Sample> {
        vec![
            Sample::new(Lookup {}, &[(DType::U8, &[3, 37]), (DType::U8, &[256])]).with_range(&[(0.0, 256.0), (0.0, 256.0)]),
            Sample::new(Lookup {}, &[(DType::I8, &[2, 3, 5]), (DType::I8, &[256])])
                .with_range(&[(-128.0, 128.0), (-128.0, 128.0)]),
            Sample::new(Lookup {}, &[(DType::U8, &[19]), (DType::F32, &[256])]).with_range(&[(0.0, 256.0)]),
        ]
    }
}

//! Gather: whole slices along one axis, chosen by an index tensor.
//!
//! ONNX: [Gather](https://onnx.ai/onnx/operators/onnx__Gather.html) (1, 11, 13).
//! `out[i…, j…, k…] = data[i…, indices[j…], k…]`; negative indices count from the end. Indices out of range, which ONNX
//! forbids, are clamped, so that nothing outside the operand is ever read.

use super::util::for_each_index;
use crate::op::{expect_dtype, expect_operands, resolve_axis};
use crate::ops::*;
use tenon_base::Shape;
use tenon_kernel::CmpOp;

crate::attributes! {
    /// Chooses along `axis`. Operands: data and indices (`i32` or `i64`).
    pub struct Gather {
        /// Of the data.
        pub axis: usize,
    }
}

impl Operator for Gather {
    fn names() -> Vec<&'static str> {
        vec!["gather"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "Gather", versions: &[1, 11, 13] }]
    }

    fn name(&self) -> &'static str {
        "gather"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Gather::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let (x, indices) = (node.input(0)?, node.input(1)?);
        let axis = resolve_axis(node.int("axis", 0)?, cx.rank(x))?;
        if let (Some(t), Some(n)) = (cx.known(indices), cx.shape(x).0[axis].as_const())
            && let Some(bad) = t.to_i64().into_iter().find(|i| *i < -n || *i >= n)
        {
            return Err(ImportError::new(format!("indices: {bad} is out of range for the {n} elements of axis {axis}")));
        }
        Ok(vec![cx.op(Gather { axis }, &[x, indices])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 2..=2)?;
        expect_dtype(ins, 1, |d| matches!(d, DType::I32 | DType::I64), "i32 or i64")?;
        let x = &ins[0].shape;
        resolve_axis(self.axis as i64, x.rank())?;
        if x.0[self.axis] == Dim::Const(0) && ins[1].shape.numel() != Dim::Const(0) {
            return Err(InferError::new(format!("axis {} of {x} has nothing to choose from", self.axis)));
        }
        let mut to = x.0[..self.axis].to_vec();
        to.extend(ins[1].shape.0.iter().cloned());
        to.extend(x.0[self.axis + 1..].iter().cloned());
        Ok(vec![Fact::new(ins[0].dtype, Shape(to))])
    }

    fn infer_dims(&self, ins: &[Option<Vec<Dim>>], facts: &[Fact]) -> Option<Vec<Dim>> {
        if facts[0].shape.rank() != 1 || !facts[0].dtype.is_int() || facts[1].shape.rank() > 1 {
            return None;
        }
        let (data, indices) = (ins[0].as_ref()?, ins[1].as_ref()?);
        let pick = |i: &Dim| {
            let i = i.as_const()?;
            let i = if i < 0 { i + data.len() as i64 } else { i };
            data.get(usize::try_from(i).ok()?).cloned()
        };
        indices.iter().map(pick).collect()
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let facts: Vec<Fact> = ins.iter().map(Tensor::fact).collect();
        let to = self.infer(&facts).map_err(|e| e.message)?[0].dims().ok_or("the shape is not known")?;
        let x = ins[0].shape();
        let (n, inner) = (x[self.axis] as i64, x[self.axis + 1..].iter().product::<usize>());
        let size = ins[0].dtype().size() * inner;
        let indices = ins[1].to_i64();
        let mut data = Vec::with_capacity(to.iter().product::<usize>() * ins[0].dtype().size());
        let mut block = 0;
        for_each_index(&x[..self.axis], |_| {
            for &i in &indices {
                let i = (if i < 0 { i + n } else { i }).clamp(0, (n - 1).max(0)) as usize;
                let at = (block * n as usize + i) * size;
                data.extend_from_slice(&ins[0].bytes()[at..at + size]);
            }
            block += 1;
        });
        Ok(vec![Tensor::from_bytes(ins[0].dtype(), &to, data.into()).map_err(|e| e.to_string())?])
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let (x, indices) = (cx.in_dims(0), cx.in_dims(1));
        let outer: usize = x[..self.axis].iter().product();
        let inner: usize = x[self.axis + 1..].iter().product();
        let (n, count) = (x[self.axis], indices.iter().product::<usize>());
        let vars = ["outer", "chosen", "inner"].map(|v| cx.k.fresh(v, tenon_kernel::Type::INDEX));
        let [o, j, i] = vars.map(Expr::Var);
        let raw = cx.load_flat(1, j.clone()).cast(DType::I64);
        let at = cx.k.fresh("at", tenon_kernel::Type::INDEX);
        let wrapped = raw.clone().compare(CmpOp::Lt, Expr::int(0)).select(raw.clone() + n, raw);
        let wrapped = wrapped.clamp(0, (n as i64 - 1).max(0));
        let value = cx.load_flat(0, (o.clone() * n + Expr::Var(at)) * inner + i.clone());
        let (buf, index, value) = cx.write(0, (o * count + j) * inner + i, value);
        let store = tenon_kernel::Stmt::Store { buf, index, value };
        let over = |var, hi: usize, body| tenon_kernel::Stmt::For {
            var,
            lo: Expr::int(0),
            hi: hi.into(),
            step: 1,
            parallel: true,
            body,
        };
        let row = vec![tenon_kernel::Stmt::Let { var: at, value: wrapped }, over(vars[2], inner, vec![store])];
        cx.k.push(over(vars[0], outer, vec![over(vars[1], count, row)]));
        Ok(())
    }

    fn samples() -> Vec<Sample> {
        let g = |axis| Gather { axis };
        let f = DType::F32;
        vec![
            Sample::new(g(0), &[(f, &[9, 5]), (DType::I64, &[2, 3])]),
            Sample::new(g(1), &[(f, &[2, 8, 3]), (DType::I32, &[4])]).with_range(&[(-1.0, 1.0), (-8.0, 8.0)]),
            Sample::new(g(1), &[(DType::I64, &[3, 8]), (DType::I64, &[])]),
            Sample::new(g(0), &[(DType::U8, &[8]), (DType::I64, &[0])]),
        ]
    }
}

//! Concat: tensors one after the other along an axis. ONNX: [Concat](https://onnx.ai/onnx/operators/onnx__Concat.html) (1, 4, 11, 13).

use crate::lower::flatten;
use crate::op::{expect_operands, expect_same_dtype, resolve_axis};
use crate::ops::*;

crate::attributes! {
    /// Joins along `axis`; all other extents are equal.
    pub struct Concat {
        /// Which axis.
        pub axis: usize,
    }
}

impl Operator for Concat {
    fn names() -> Vec<&'static str> {
        vec!["concat"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "Concat", versions: &[1, 4, 11, 13] }]
    }

    fn name(&self) -> &'static str {
        "concat"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Concat::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let all = node.all_inputs()?;
        let first = *all.first().ok_or_else(|| ImportError::new("expected at least one operand, found none"))?;
        let axis = resolve_axis(node.int("axis", 1)?, cx.rank(first))?;
        if all.len() == 1 {
            return Ok(vec![first]);
        }
        Ok(vec![cx.op(Concat { axis }, &all)?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=usize::MAX)?;
        let mut out = ins[0].clone();
        resolve_axis(self.axis as i64, out.shape.rank())?;
        for (i, f) in ins.iter().enumerate().skip(1) {
            expect_same_dtype(ins, 0, i)?;
            let differs = |a: usize| {
                let (x, y) = (out.shape.0[a].as_const(), f.shape.0[a].as_const());
                a != self.axis && x.is_some() && y.is_some() && x != y
            };
            if f.shape.rank() != out.shape.rank() || (0..f.shape.rank()).any(differs) {
                return Err(InferError::new(format!(
                    "operands 0 and {i} must agree on all axes but {}, found {} and {}",
                    self.axis, ins[0].shape, f.shape
                )));
            }
            out.shape.0[self.axis] = out.shape.0[self.axis].add(&f.shape.0[self.axis]);
        }
        Ok(vec![out])
    }

    fn infer_dims(&self, ins: &[Option<Vec<Dim>>], facts: &[Fact]) -> Option<Vec<Dim>> {
        let integers = facts.iter().all(|f| f.dtype.is_int() && f.shape.rank() == 1);
        integers.then(|| ins.iter().cloned().collect::<Option<Vec<_>>>().map(|v| v.concat()))?
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let facts: Vec<Fact> = ins.iter().map(Tensor::fact).collect();
        let to = self.infer(&facts).map_err(|e| e.message)?[0].dims().ok_or("the shape is not known")?;
        let outer: usize = to[..self.axis].iter().product();
        let mut data = Vec::with_capacity(to.iter().product::<usize>() * ins[0].dtype().size());
        for o in 0..outer {
            for t in ins {
                let block = t.bytes().len() / outer;
                data.extend_from_slice(&t.bytes()[o * block..(o + 1) * block]);
            }
        }
        Ok(vec![Tensor::from_bytes(ins[0].dtype(), &to, data.into()).map_err(|e| e.to_string())?])
    }

    fn permuted(&self, perm: &[usize], _: &[Fact]) -> Option<Op> {
        Some(Op::Concat(Concat { axis: perm[self.axis] }))
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let to = cx.out_dims(0);
        let all: Vec<Vec<usize>> = (0..cx.in_count()).map(|i| cx.in_dims(i)).collect();
        // Parts of one element each are interleaved: all of them in one loop, so that every line of the result is written once.
        let interleaves = self.axis + 1 == to.len() && all.iter().all(|d| d[self.axis] == 1);
        let together = if interleaves { all.len() } else { 1 };
        let mut before = 0;
        for (n, parts) in all.chunks(together).enumerate() {
            // Parts of a line or more may have been written by whoever made them.
            if !interleaves && cx.is_written(n) {
                before += parts[0][self.axis];
                continue;
            }
            let dims = &parts[0];
            let vars: Vec<_> = dims.iter().map(|_| cx.k.fresh("i", tenon_kernel::Type::INDEX)).collect();
            let from: Vec<Expr> = vars.iter().map(|v| Expr::Var(*v)).collect();
            let mut body = vec![];
            for (i, part) in parts.iter().enumerate() {
                let mut at = from.clone();
                at[self.axis] = at[self.axis].clone() + before;
                let (buf, index, value) = cx.write(0, flatten(&at, &to), cx.load(n * together + i, &from));
                body.push(tenon_kernel::Stmt::Store { buf, index, value });
                before += part[self.axis];
            }
            for (&var, &n) in vars.iter().zip(dims).rev() {
                body = vec![tenon_kernel::Stmt::For {
                    var,
                    lo: Expr::int(0),
                    hi: n.into(),
                    step: 1,
                    parallel: true,
                    body,
                }];
            }
            body.into_iter().for_each(|s| cx.k.push(s));
        }
        Ok(())
    }

    fn samples() -> Vec<Sample> {
        let c = |axis| Concat { axis };
        let f = DType::F32;
        vec![
            Sample::new(c(1), &[(f, &[2, 3, 4]), (f, &[2, 1, 4]), (f, &[2, 5, 4])]),
            Sample::new(c(0), &[(DType::I64, &[3]), (DType::I64, &[0]), (DType::I64, &[2])]),
            Sample::new(c(2), &[(DType::U8, &[2, 1, 17]), (DType::U8, &[2, 1, 16])]),
            Sample::new(c(0), &[(DType::F16, &[3, 2])]),
            Sample::new(c(2), &[(f, &[2, 9, 1]), (f, &[2, 9, 1]), (f, &[2, 9, 1])]),
        ]
    }
}

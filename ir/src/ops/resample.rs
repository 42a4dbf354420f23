//! Resample: along one axis, every element of the result is a weighted sum of consecutive elements of the operand.
//!
//! ONNX: what [Resize](https://onnx.ai/onnx/operators/onnx__Resize.html) becomes, one operator an axis, its filter computed at compile time.
//! `y[…, o, …] = Σ_t weights[o, t] · x[…, first[o] + t, …]`; without weights `y[…, o, …] = x[…, first[o], …]`.
//! A `first` that would leave the operand counts as the nearest that does not.

use super::util::strides;
use crate::lower::wide;
use crate::op::{expect_dtype, expect_operands, resolve_axis};
use crate::ops::*;
use tenon_kernel::{Stmt, Type, Var};

/// As many weights are held in variables; more are read in a loop.
const UNROLL: usize = 4;

crate::attributes! {
    /// Operands: x, `first: i64[out]`, and optionally `weights: [out, taps]` of the dtype that x is computed in.
    pub struct Resample {
        /// Which axis.
        pub axis: usize,
    }
}

impl Operator for Resample {
    fn names() -> Vec<&'static str> {
        vec!["resample"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![]
    }

    fn name(&self) -> &'static str {
        "resample"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Resample::from_attrs(attrs)
    }

    fn import(_: &OnnxNode<'_>, _: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        Err(ImportError::new("the operator is not supported"))
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 2..=3)?;
        let mut shape = ins[0].shape.clone();
        resolve_axis(self.axis as i64, shape.rank())?;
        expect_dtype(ins, 1, |d| d == DType::I64, "i64")?;
        if ins[1].shape.rank() != 1 {
            return Err(InferError::new(format!("operand 1: expected a list of positions, found {}", ins[1])));
        }
        let to = ins[1].shape.0[0].clone();
        let mut taps = Dim::Const(1);
        if let Some(w) = ins.get(2) {
            expect_dtype(ins, 0, DType::is_float, "a float dtype, as there are weights")?;
            if w.dtype != wide(ins[0].dtype) || w.shape.rank() != 2 || w.shape.0[0] != to {
                let d = wide(ins[0].dtype);
                return Err(InferError::new(format!("operand 2: expected {d}[{to},taps], found {w}")));
            }
            taps = w.shape.0[1].clone();
        }
        if let (Some(t), Some(x)) = (taps.as_const(), shape.0[self.axis].as_const())
            && (t < 1 || t > x)
            && to != Dim::Const(0)
        {
            return Err(InferError::new(format!("axis {}: {t} weights for {x} elements", self.axis)));
        }
        shape.0[self.axis] = to;
        Ok(vec![Fact::new(ins[0].dtype, shape)])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let dims = ins[0].shape();
        let first = ins[1].to_i64();
        let weights = ins.get(2).map(Tensor::to_f64);
        let taps = ins.get(2).map_or(1, |w| w.shape()[1]);
        let mut to = dims.to_vec();
        to[self.axis] = first.len();
        let s = strides(dims)[self.axis];
        let last = dims[self.axis] as i64 - taps as i64;
        let from = |i: &[usize]| -> usize {
            let o = first[i[self.axis]].clamp(0, last.max(0)) as usize;
            let at = |a: usize| if a == self.axis { o } else { i[a] };
            (0..i.len()).fold(0, |sum, a| sum * dims[a] + at(a))
        };
        let Some(weights) = weights else {
            return Ok(vec![super::util::gather_elements(&ins[0], &to, None, |i| Some(from(i)))]);
        };
        let x = ins[0].to_f64();
        let mut y = vec![];
        super::util::for_each_index(&to, |i| {
            let w = &weights[i[self.axis] * taps..][..taps];
            y.push(w.iter().enumerate().map(|(t, w)| w * x[from(i) + t * s]).sum());
        });
        Ok(vec![Tensor::from_f64(ins[0].dtype(), &to, &y)])
    }

    fn permuted(&self, perm: &[usize], _: &[Fact]) -> Option<Op> {
        Some(Op::Resample(Resample { axis: perm[self.axis] }))
    }

    fn permutes(&self, i: usize) -> bool {
        i == 0
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let (x_dims, y_dims) = (cx.in_dims(0), cx.out_dims(0));
        if y_dims.contains(&0) {
            return Ok(());
        }
        let (axis, rank) = (self.axis, y_dims.len());
        let weighted = cx.in_count() > 2;
        let taps = if weighted { cx.in_dims(2)[1] } else { 1 };
        let d = wide(cx.in_dtype(0));
        let vars: Vec<Var> = (0..rank).map(|i| cx.k.fresh(&format!("i{i}"), Type::INDEX)).collect();
        let index: Vec<Expr> = vars.iter().map(|v| Expr::Var(*v)).collect();
        let out = index[axis].clone();
        let position = cx.load_flat(1, out.clone()).clamp(0, (x_dims[axis] - taps) as i64);
        let weight = |t: Expr, cx: &LowerCx<'_>| cx.load(2, &[out.clone(), t]);
        let unrolled = weighted && taps <= UNROLL;
        let fixed: Vec<Expr> = (0..taps).filter(|_| unrolled).map(|t| weight(t.into(), cx)).collect();
        // The filter is read once for all elements that it makes.
        let mut first = Expr::int(0);
        let mut held = vec![];
        let filter = cx.k.block(|k| {
            first = k.bind("first", position);
            held = fixed.into_iter().enumerate().map(|(t, w)| k.bind(&format!("w{t}"), w)).collect();
        });
        let x = |t: Expr, cx: &LowerCx<'_>| {
            let mut at = index.clone();
            at[axis] = first.clone() + t;
            cx.load_wide(0, &at)
        };
        let t = cx.k.fresh("t", Type::INDEX);
        let acc = cx.k.fresh("acc", Type::scalar(d));
        let (value, sum) = if !weighted {
            // Elements move as they are, whatever their dtype.
            let mut at = index.clone();
            at[axis] = first.clone();
            (cx.load(0, &at), None)
        } else if unrolled {
            let terms = held.into_iter().enumerate().map(|(t, w)| w * x(t.into(), cx));
            (terms.reduce(|a, b| a + b).unwrap_or_else(|| Expr::constant(d, 0.0)), None)
        } else {
            let term = weight(Expr::Var(t), cx) * x(Expr::Var(t), cx);
            (Expr::Var(acc), Some(term))
        };
        let (buf, at, value) = cx.write(0, crate::lower::flatten(&index, &y_dims), value);
        let mut body = cx.k.block(|k| {
            if let Some(term) = sum {
                k.push(Stmt::Declare { var: acc, value: Expr::constant(d, 0.0) });
                let add = Stmt::Set { var: acc, value: Expr::Var(acc) + term };
                let (lo, hi) = (Expr::int(0), taps.into());
                k.push(Stmt::For { var: t, lo, hi, step: 1, parallel: false, body: vec![add] });
            }
            k.store(buf, at, value);
        });
        for a in (0..rank).rev() {
            if a == axis {
                let mut all = filter.clone();
                all.append(&mut body);
                body = all;
            }
            let (lo, hi) = (Expr::int(0), y_dims[a].into());
            body = vec![Stmt::For { var: vars[a], lo, hi, step: 1, parallel: true, body }];
        }
        body.into_iter().for_each(|s| cx.k.push(s));
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::SUM
    }

    fn samples() -> Vec<Sample> {
        let on = |axis| Resample { axis };
        let (f, i) = (DType::F32, DType::I64);
        let tables = [(-2.0, 2.0), (-1.0, 9.0)];
        vec![
            Sample::new(on(2), &[(f, &[1, 3, 6, 5]), (i, &[9]), (f, &[9, 2])]).with_range(&tables),
            Sample::new(on(3), &[(f, &[1, 3, 6, 7]), (i, &[3]), (f, &[3, 4])]).with_range(&tables),
            Sample::new(on(1), &[(f, &[2, 9, 4, 17]), (i, &[4]), (f, &[4, 7])]).with_range(&tables),
            Sample::new(on(0), &[(DType::F16, &[4, 3]), (i, &[6]), (f, &[6, 2])]).with_range(&tables),
            Sample::new(on(1), &[(DType::U8, &[2, 5, 3]), (i, &[7])]).with_range(&[(0.0, 255.0), (-1.0, 9.0)]),
            Sample::new(on(0), &[(DType::F64, &[8]), (i, &[3]), (DType::F64, &[3, 8])]).with_range(&tables),
        ]
    }
}

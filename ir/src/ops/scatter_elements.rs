//! ScatterElements: a copy of the data with one element replaced for every index, or combined with it.
//!
//! ONNX: [ScatterElements](https://onnx.ai/onnx/operators/onnx__ScatterElements.html) (11, 13, 16, 18) and
//! [Scatter](https://onnx.ai/onnx/operators/onnx__Scatter.html) (9, 11).
//! `out[i, indices[i, j, k], k] = updates[i, j, k]` for axis 1; updates apply in row-major order. Negative indices count from
//! the end; others out of range are clamped.

use super::gather_elements::check_elements;
use super::util::{for_each_index, loop_over, wrap, wrap_expr};
use crate::lower::{flatten, strides, wide};
use crate::op::{expect_dtype, expect_operands, expect_same_dtype, resolve_axis};
use crate::ops::*;
use tenon_base::Scalar;
use tenon_kernel::{Buf, Stmt, Type};

crate::attr_enum! {
    /// What an update does to the element.
    pub enum Reduction {
        /// Replaces it.
        None = "none",
        /// Adds to it.
        Add = "add",
        /// Multiplies it.
        Mul = "mul",
        /// The larger stays.
        Max = "max",
        /// The smaller stays.
        Min = "min",
    }
}

impl Reduction {
    /// The attribute `reduction` of a node.
    pub(super) fn import(node: &OnnxNode<'_>) -> Result<Reduction, ImportError> {
        Reduction::parse(node.str("reduction", "none")?).map_err(|e| ImportError::new(format!("reduction: {e}")))
    }

    /// The element after an update.
    pub(super) fn scalar(self, old: Scalar, update: Scalar) -> Scalar {
        match (old, update) {
            (_, u) if self == Reduction::None => u,
            (Scalar::Int(d, a), Scalar::Int(_, b)) => Scalar::of_int(d, match self {
                Reduction::Add => a.wrapping_add(b),
                Reduction::Mul => a.wrapping_mul(b),
                Reduction::Max => a.max(b),
                _ => a.min(b),
            }),
            (a, b) => {
                let (x, y) = (a.as_f64(), b.as_f64());
                let v = match self {
                    Reduction::Add => x + y,
                    Reduction::Mul => x * y,
                    Reduction::Max => if x > y { x } else { y },
                    _ => if x < y { x } else { y },
                };
                // Between updates as wide as the kernel is.
                Scalar::of_f64(wide(a.dtype()), v)
            }
        }
    }

    fn expr(self, old: Expr, update: Expr) -> Expr {
        match self {
            Reduction::None => update,
            Reduction::Add => old + update,
            Reduction::Mul => old * update,
            Reduction::Max => old.max(update),
            Reduction::Min => old.min(update),
        }
    }

    pub(super) fn check(self, ins: &[Fact]) -> Result<(), InferError> {
        expect_same_dtype(ins, 0, 2)?;
        if self == Reduction::None { Ok(()) } else { expect_dtype(ins, 0, |d| d != DType::Bool, "a number dtype") }
    }

    pub(super) fn tolerance(self) -> Tolerance {
        if matches!(self, Reduction::Add | Reduction::Mul) { Tolerance::SUM } else { Tolerance::EXACT }
    }
}

/// Where a scatter writes: at once to the result, or to a buffer that can be read again.
pub(super) struct Target {
    reduction: Reduction,
    dims: Vec<usize>,
    held: Option<Buf>,
}

impl Target {
    /// Copies operand 0.
    pub(super) fn begin(cx: &mut LowerCx<'_>, reduction: Reduction) -> Target {
        let dims = cx.in_dims(0);
        let n: usize = dims.iter().product();
        let dtype = wide(cx.in_dtype(0));
        // What a result's element becomes is not ours to read: another operator may have been fused onto it.
        let held = (reduction != Reduction::None).then(|| cx.scratch("held", dtype, n));
        let e = cx.k.fresh("e", Type::INDEX);
        let x = cx.load_flat(0, Expr::Var(e));
        let store = match held {
            Some(buf) => Stmt::Store { buf, index: Expr::Var(e), value: crate::lower::widen(x, cx.in_dtype(0)) },
            None => write(cx, Expr::Var(e), x),
        };
        cx.k.push(loop_over(e, n, true, vec![store]));
        Target { reduction, dims, held }
    }

    /// The update of the element at row-major index `flat` by `update`, which is of the operand's dtype.
    pub(super) fn update(&self, cx: &LowerCx<'_>, flat: Expr, update: Expr) -> Stmt {
        match self.held {
            None => write(cx, flat, update),
            Some(buf) => {
                let update = crate::lower::widen(update, cx.in_dtype(0));
                let value = self.reduction.expr(Expr::load(buf, flat.clone()), update);
                Stmt::Store { buf, index: flat, value }
            }
        }
    }

    /// Writes the result where that has not happened yet.
    pub(super) fn end(self, cx: &mut LowerCx<'_>) {
        let Some(buf) = self.held else { return };
        let e = cx.k.fresh("e", Type::INDEX);
        let store = write(cx, Expr::Var(e), Expr::load(buf, Expr::Var(e)));
        cx.k.push(loop_over(e, self.dims.iter().product(), true, vec![store]));
    }
}

fn write(cx: &LowerCx<'_>, flat: Expr, value: Expr) -> Stmt {
    let (buf, index, value) = cx.write(0, flat, value);
    Stmt::Store { buf, index, value }
}

crate::attributes! {
    /// Operands: data, indices (`i32` or `i64`) and updates of the indices' shape.
    pub struct ScatterElements {
        /// Of the data.
        pub axis: usize,
        /// What an update does.
        pub reduction: Reduction,
    }
}

impl Operator for ScatterElements {
    fn names() -> Vec<&'static str> {
        vec!["scatter_elements"]
    }

    fn onnx() -> Vec<OnnxName> {
        let on = |name, versions| OnnxName { domain: "", name, versions };
        vec![on("ScatterElements", &[11, 13, 16, 18]), on("Scatter", &[9, 11])]
    }

    fn name(&self) -> &'static str {
        "scatter_elements"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        ScatterElements::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let x = node.input(0)?;
        let axis = resolve_axis(node.int("axis", 0)?, cx.rank(x))?;
        let op = ScatterElements { axis, reduction: Reduction::import(node)? };
        Ok(vec![cx.op(op, &[x, node.input(1)?, node.input(2)?])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 3..=3)?;
        check_elements(ins, self.axis)?;
        self.reduction.check(ins)?;
        if ins[1].shape != ins[2].shape {
            return Err(InferError::new(format!(
                "expected updates of the indices' shape {}, found {}",
                ins[1].shape, ins[2].shape
            )));
        }
        if ins[0].shape.0[self.axis] == Dim::Const(0) && ins[1].shape.numel() != Dim::Const(0) {
            return Err(InferError::new(format!("axis {} of {} has nothing to update", self.axis, ins[0].shape)));
        }
        Ok(vec![ins[0].clone()])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let dims = ins[0].shape();
        let s = strides(dims);
        let mut all: Vec<Scalar> = ins[0].scalars().collect();
        let mut updates = ins[1].to_i64().into_iter().zip(ins[2].scalars());
        for_each_index(ins[1].shape(), |i| {
            let Some((chosen, update)) = updates.next() else { return };
            let along = |a: usize| if a == self.axis { 0 } else { i[a] * s[a] };
            let at: usize = (0..i.len()).map(along).sum();
            let at = at + wrap(chosen, dims[self.axis]) * s[self.axis];
            all[at] = self.reduction.scalar(all[at], update);
        });
        let d = ins[0].dtype();
        let all = all.into_iter().map(|v| if v.dtype() == d { v } else { Scalar::of_f64(d, v.as_f64()) });
        Ok(vec![Tensor::from_scalars(d, dims, all)])
    }

    fn permuted(&self, perm: &[usize], _: &[Fact]) -> Option<Op> {
        // The order of updates of one element would change.
        let any_order = matches!(self.reduction, Reduction::Max | Reduction::Min);
        any_order.then(|| Op::ScatterElements(ScatterElements { axis: perm[self.axis], ..self.clone() }))
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let (dims, shape) = (cx.in_dims(0), cx.in_dims(1));
        let target = Target::begin(cx, self.reduction);
        let vars: Vec<_> = (0..shape.len()).map(|a| cx.k.fresh(&format!("i{a}"), Type::INDEX)).collect();
        let index: Vec<Expr> = vars.iter().map(|v| Expr::Var(*v)).collect();
        let at = cx.k.fresh("at", Type::INDEX);
        let chosen = wrap_expr(cx.load(1, &index).cast(DType::I64), dims[self.axis]);
        let mut into = index.clone();
        into[self.axis] = Expr::Var(at);
        let update = target.update(cx, flatten(&into, &dims), cx.load(2, &index));
        let mut body = vec![Stmt::Let { var: at, value: chosen }, update];
        // Several updates may be of one element: they stay in order.
        for (&var, &n) in vars.iter().zip(&shape).rev() {
            body = vec![loop_over(var, n, false, body)];
        }
        body.into_iter().for_each(|s| cx.k.push(s));
        target.end(cx);
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        self.reduction.tolerance()
    }

    fn samples() -> Vec<Sample> {
        let s = |axis, reduction| ScatterElements { axis, reduction };
        let r = [(-1.0, 1.0), (-8.0, 8.0)];
        let f = DType::F32;
        let case = |op, d, dims: &[usize], i: &[usize]| {
            Sample::new(op, &[(d, dims), (DType::I64, i), (d, i)]).with_range(&r)
        };
        vec![
            case(s(0, Reduction::None), f, &[8, 5], &[3, 4]),
            case(s(1, Reduction::Add), f, &[2, 8, 3], &[2, 11, 3]),
            case(s(1, Reduction::Add), DType::F16, &[3, 8], &[2, 9]),
            case(s(0, Reduction::Mul), DType::F64, &[8], &[5]),
            case(s(0, Reduction::Max), DType::I32, &[8, 2], &[9, 2]),
            case(s(0, Reduction::Min), f, &[8, 2], &[9, 1]),
            case(s(0, Reduction::None), DType::Bool, &[8, 2], &[1, 2]),
            case(s(0, Reduction::None), f, &[8, 2], &[0, 2]),
        ]
    }
}

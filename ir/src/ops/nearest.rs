//! Nearest: along some axes, element `i` of the result is element `⌊(i·mul + add) / div⌋` of the operand.
//!
//! ONNX: what [Resize](https://onnx.ai/onnx/operators/onnx__Resize.html) and [Upsample](https://onnx.ai/onnx/operators/onnx__Upsample.html) of
//! mode `nearest` become where their choice of elements has this form, as it has for whole factors.

use super::util::{gather_elements, strides};
use crate::op::expect_operands;
use crate::ops::*;

crate::attributes! {
    /// One entry of every list an axis that changes.
    pub struct Nearest {
        /// Which axes, each once.
        pub axes: Vec<usize>,
        /// Their extents in the result.
        pub to: Vec<usize>,
        /// Factor.
        pub mul: Vec<usize>,
        /// Offset.
        pub add: Vec<usize>,
        /// Divisor.
        pub div: Vec<usize>,
    }
}

/// Beyond any extent; products of two still fit an index.
const LIMIT: usize = 1 << 31;

impl Nearest {
    fn position(&self, axis: usize) -> Option<usize> {
        self.axes.iter().position(|a| *a == axis)
    }

    fn to_dims(&self, dims: &[usize]) -> Vec<usize> {
        dims.iter().enumerate().map(|(a, &d)| self.position(a).map_or(d, |i| self.to[i])).collect()
    }
}

impl Operator for Nearest {
    fn names() -> Vec<&'static str> {
        vec!["nearest"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![]
    }

    fn name(&self) -> &'static str {
        "nearest"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Nearest::from_attrs(attrs)
    }

    fn import(_: &OnnxNode<'_>, _: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        Err(ImportError::new("the operator is not supported"))
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        let mut shape = ins[0].shape.clone();
        let n = self.axes.len();
        let lists = [&self.to, &self.mul, &self.add, &self.div];
        let small = lists.iter().all(|l| l.len() == n && l.iter().all(|v| *v < LIMIT));
        let once = (0..n).all(|i| self.axes[i] < shape.rank() && !self.axes[..i].contains(&self.axes[i]));
        if !small || !once || self.div.contains(&0) {
            return Err(InferError::new(format!("the lists do not fit each other and {shape}")));
        }
        for (i, &a) in self.axes.iter().enumerate() {
            let last = self.to[i].checked_sub(1).map(|last| (last * self.mul[i] + self.add[i]) / self.div[i]);
            if let (Some(last), Some(x)) = (last, shape.0[a].as_usize())
                && last >= x
            {
                return Err(InferError::new(format!("axis {a}: the last element is {last}, the operand has {x}")));
            }
            shape.0[a] = Dim::from(self.to[i]);
        }
        Ok(vec![Fact::new(ins[0].dtype, shape)])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let s = strides(ins[0].shape());
        let from = |index: &[usize]| {
            let at = |(a, &i): (usize, &usize)| {
                self.position(a).map_or(i, |k| (i * self.mul[k] + self.add[k]) / self.div[k]) * s[a]
            };
            Some(index.iter().enumerate().map(at).sum())
        };
        Ok(vec![gather_elements(&ins[0], &self.to_dims(ins[0].shape()), None, from)])
    }

    fn class(&self) -> OpClass {
        OpClass::Move
    }

    fn source(&self, _: &[Fact], _: &Fact, index: &[Expr]) -> Option<Source> {
        let at = |(a, i): (usize, &Expr)| match self.position(a) {
            Some(k) => (i.clone() * self.mul[k] + self.add[k]) / self.div[k],
            None => i.clone(),
        };
        Some(Source::at(index.iter().enumerate().map(at).collect()))
    }

    fn permuted(&self, perm: &[usize], _: &[Fact]) -> Option<Op> {
        let axes = self.axes.iter().map(|&a| perm[a]).collect();
        Some(Op::Nearest(Nearest { axes, ..self.clone() }))
    }

    fn samples() -> Vec<Sample> {
        let n = |axes: &[usize], to: &[usize], mul: &[usize], add: &[usize], div: &[usize]| Nearest {
            axes: axes.to_vec(),
            to: to.to_vec(),
            mul: mul.to_vec(),
            add: add.to_vec(),
            div: div.to_vec(),
        };
        vec![
            Sample::new(n(&[2, 3], &[6, 8], &[1, 1], &[0, 0], &[2, 2]), &[(DType::F32, &[1, 3, 3, 4])]),
            Sample::new(n(&[1, 0], &[3, 5], &[7, 4], &[1, 0], &[3, 5]), &[(DType::I64, &[4, 6])]),
            Sample::new(n(&[1], &[0], &[1], &[0], &[1]), &[(DType::U8, &[2, 3])]),
            Sample::new(n(&[], &[], &[], &[], &[]), &[(DType::F16, &[2, 3])]),
        ]
    }
}

/// The rule that gives exactly `table`, by which an axis of `x` elements becomes one of `table.len()`, if a simple one
/// does: factor, offset and divisor.
pub(super) fn rule(table: &[usize], x: usize) -> Option<(usize, usize, usize)> {
    let y = table.len();
    if x == 0 || y == 0 || x >= LIMIT / 2 || y >= LIMIT / 2 {
        return None;
    }
    // Positions `i·x/y` rounded down or up; `(i + ½)·x/y - ½` rounded to nearest, halves down or up.
    let candidates = [
        (x, 0, y),
        (x, y - 1, y),
        (2 * x, x - 1, 2 * y),
        (2 * x, x, 2 * y),
        (2 * x, y - 1, 2 * y),
        (2 * x, y, 2 * y),
    ];
    let fits = |&(m, a, d): &(usize, usize, usize)| table.iter().enumerate().all(|(i, &t)| (i * m + a) / d == t);
    let (m, a, d) = candidates.into_iter().find(fits)?;
    // ⌊(i·m + a) / d⌋ does not change when a loses its remainder by a common divisor of m and d.
    let mut g = (m, d);
    while g.1 != 0 {
        g = (g.1, g.0 % g.1);
    }
    Some((m / g.0, a / g.0, d / g.0))
}

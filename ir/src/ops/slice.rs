//! Slice: every `step`-th element from `start` to `end` along axes. ONNX: [Slice](https://onnx.ai/onnx/operators/onnx__Slice.html) (1, 10, 11, 13).

use super::util::{gather_elements, strided_elements};
use crate::op::{expect_operands, resolve_axis};
use crate::ops::*;
use tenon_base::Shape;

crate::attributes! {
    /// Element `i` of the result along axis `a` is element `starts[a] + i · steps[a]` of the operand.
    pub struct Slice {
        /// First element, per axis.
        pub starts: Vec<i64>,
        /// Distance, per axis; negative steps go backwards.
        pub steps: Vec<i64>,
        /// The result's shape.
        pub to: Shape,
    }
}

impl Operator for Slice {
    fn names() -> Vec<&'static str> {
        vec!["slice"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "Slice", versions: &[1, 10, 11, 13] }]
    }

    fn name(&self) -> &'static str {
        "slice"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Slice::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let x = node.input(0)?;
        let shape = cx.shape(x).clone();
        let read = |cx: &Importer<'_>, name: &str, i: usize| -> Result<Option<Vec<Dim>>, ImportError> {
            match (node.opt_ints(name)?, node.opt_input(i)) {
                (Some(v), _) if node.opset < 10 => Ok(Some(v.into_iter().map(Dim::Const).collect())),
                (_, Some(v)) => cx.constant_dims(v, name).map(Some),
                _ => Ok(None),
            }
        };
        let missing = |name: &str| ImportError::new(format!("`{name}` is missing"));
        let starts = read(cx, "starts", 1)?.ok_or_else(|| missing("starts"))?;
        let ends = read(cx, "ends", 2)?.ok_or_else(|| missing("ends"))?;
        let axes: Vec<usize> = match read(cx, "axes", 3)? {
            None => (0..starts.len()).collect(),
            Some(a) => a
                .iter()
                .map(|a| resolve_axis(a.as_const().unwrap_or(i64::MAX), shape.rank()))
                .collect::<Result<_, _>>()?,
        };
        let steps = read(cx, "steps", 4)?.unwrap_or_else(|| vec![Dim::Const(1); starts.len()]);
        if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
            return Err(ImportError::new(format!(
                "starts, ends, axes and steps: expected lists of one length, found {}, {}, {} and {}",
                starts.len(),
                ends.len(),
                axes.len(),
                steps.len()
            )));
        }
        let mut op = Slice { starts: vec![0; shape.rank()], steps: vec![1; shape.rank()], to: shape.clone() };
        for (i, &a) in axes.iter().enumerate() {
            if a >= shape.rank() {
                return Err(ImportError::new(format!("starts: {} values for {shape}", starts.len())));
            }
            let step = steps[i].as_const().filter(|s| *s != 0 && *s != i64::MIN);
            let step = step.ok_or_else(|| ImportError::new(format!("steps: expected non-zero numbers, found {}", steps[i])))?;
            let (start, mut count) = range(&starts[i], &ends[i], step, &shape.0[a])?;
            // A free extent has whatever the slice asks for; what data count may have less.
            if cx.is_counted(&count) && count.lower_bound().is_none_or(|least| least < 0) {
                count = count.larger(&Dim::Const(0));
            }
            op.starts[a] = start;
            op.steps[a] = step;
            op.to.0[a] = count;
        }
        let known = cx.known_dims(x);
        if op.to == shape && op.steps.iter().all(|&s| s == 1) {
            return Ok(vec![x]);
        }
        let (start, step) = (op.starts.first().copied(), op.steps.first().copied());
        let y = cx.op(op, &[x])?;
        // A part of a shape is known as far as the shape is.
        if let (Some(d), Some(s), Some(t), None, Some(n)) =
            (known, start, step, cx.known_dims(y), cx.shape(y).0.first().and_then(Dim::as_const))
        {
            let part = (0..n).map(|i| usize::try_from(s + i * t).ok().and_then(|i| d.get(i).cloned()));
            if let Some(part) = part.collect::<Option<Vec<_>>>() {
                cx.set_known_dims(y, part);
            }
        }
        Ok(vec![y])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        let x = &ins[0].shape;
        let r = x.rank();
        if self.starts.len() != r || self.steps.len() != r || self.to.rank() != r || self.steps.contains(&0) {
            return Err(InferError::new(format!("expected {r} starts and steps for {x}")));
        }
        for (a, d) in x.0.iter().enumerate() {
            let (Some(d), Some(n)) = (d.as_const(), self.to.0[a].as_const()) else { continue };
            let last = (n - 1).checked_mul(self.steps[a]).and_then(|l| l.checked_add(self.starts[a]));
            let inside = |i: i64| (0..d).contains(&i);
            if n < 0 || (n > 0 && !(inside(self.starts[a]) && last.is_some_and(inside))) {
                return Err(InferError::new(format!(
                    "axis {a}: {n} elements from {} by {} leave the {d} there are",
                    self.starts[a], self.steps[a]
                )));
            }
        }
        Ok(vec![Fact::new(ins[0].dtype, self.to.clone())])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let s = crate::lower::strides(ins[0].shape());
        let to = self.to.to_usize().ok_or("the shape is not known")?;
        if to.contains(&0) {
            return Ok(vec![gather_elements(&ins[0], &to, None, |_| None)]);
        }
        let first = self.starts.iter().zip(&s).map(|(start, s)| start * *s as i64).sum();
        // A step that is not taken may have any length.
        let along = |a: usize| if to[a] == 1 { 0 } else { self.steps[a] * s[a] as i64 };
        let along: Vec<i64> = (0..to.len()).map(along).collect();
        Ok(vec![strided_elements(&ins[0], &to, first, &along)?])
    }

    fn class(&self) -> OpClass {
        OpClass::Move
    }

    fn source(&self, _: &[Fact], _: &Fact, index: &[Expr]) -> Option<Source> {
        let at = index.iter().enumerate().map(|(a, i)| i.clone() * self.steps[a] + self.starts[a]);
        Some(Source::at(at.collect()))
    }

    fn permuted(&self, perm: &[usize], _: &[Fact]) -> Option<Op> {
        let mut op = self.clone();
        for (a, &p) in perm.iter().enumerate() {
            op.starts[p] = self.starts[a];
            op.steps[p] = self.steps[a];
            op.to.0[p] = self.to.0[a].clone();
        }
        Some(Op::Slice(op))
    }

    fn samples() -> Vec<Sample> {
        let s = |starts: &[i64], steps: &[i64], to: &[usize]| Slice {
            starts: starts.to_vec(),
            steps: steps.to_vec(),
            to: Shape::of(to),
        };
        vec![
            Sample::new(s(&[1, 0], &[1, 2], &[2, 3]), &[(DType::F32, &[3, 5])]),
            Sample::new(s(&[4], &[-2], &[3]), &[(DType::I64, &[5])]),
            Sample::new(s(&[0, 3, 0], &[1, 1, 1], &[2, 0, 4]), &[(DType::U8, &[2, 3, 4])]),
            Sample::new(s(&[0, 8], &[1, 1], &[7, 8]), &[(DType::F32, &[7, 32])]),
        ]
    }
}

/// The first element and the count along an axis of extent `d`: ONNX counts negative bounds from the end and clamps them.
fn range(start: &Dim, end: &Dim, step: i64, d: &Dim) -> Result<(i64, Dim), ImportError> {
    if let (Some(s), Some(e), Some(d)) = (start.as_const(), end.as_const(), d.as_const()) {
        let wrap = |v: i64| if v < 0 { v.saturating_add(d) } else { v };
        let (lo, hi) = if step > 0 { (0, d) } else { (-1, d - 1) };
        let s = wrap(s).clamp(0, hi.max(0));
        let e = wrap(e).clamp(lo, hi.max(lo));
        let span = if step > 0 { e - s } else { s - e };
        let count = if span <= 0 || d == 0 { 0 } else { (span - 1) / step.abs() + 1 };
        return Ok((if count == 0 { 0 } else { s }, Dim::Const(count)));
    }
    // A symbolic extent: from a known element of the front, to the end or to somewhere counted from an end.
    let (Some(s), 1) = (start.as_const().filter(|s| *s >= 0), step) else {
        return Err(ImportError::new(format!("cannot slice a free extent {d} from {start} to {end} by {step}"))
            .with_pins(d));
    };
    let stop = match end.as_const() {
        Some(e) if e >= i64::from(i32::MAX) => d.clone(),
        Some(e) if e < 0 => d.add(&Dim::Const(e)),
        _ => end.smaller(d),
    };
    Ok((s, stop.sub(&Dim::Const(s))))
}

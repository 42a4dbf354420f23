//! Reshapes of values whose extents a run decides.
//!
//! A reshape moves nothing in a graph of one size. Among values that lie as those of the largest size it does where an axis that varies
//! is not the outermost of those that become others: `[2, s]` as `[2·s]` has a gap behind the first row. There every element of the result
//! is fetched from where it lies, by positions that are computed from the sizes of the run.

use super::{BoundError, Cx};
use std::ops::Range;
use tenon_base::{Dim, Shape, Tensor};
use tenon_ir::ValueId;
use tenon_ir::ops::gather::Gather;
use tenon_ir::ops::reshape::Reshape;

/// Axes of the operand that become axes of the result, as few as possible.
struct Group {
    from: Range<usize>,
    to: Range<usize>,
}

impl Cx<'_> {
    pub(super) fn reshape(&mut self, to: &Shape, old: ValueId, x: ValueId) -> Result<Vec<ValueId>, BoundError> {
        let from = self.shape(old).clone();
        let to = Shape(to.0.iter().map(|d| self.simpler(d)).collect());
        let (from_dims, to_dims) = (self.extents(&from)?, self.extents(&to)?);
        let mut x = x;
        for g in self.groups(&from, &to) {
            if is_view(&from.0[g.from.clone()], &to.0[g.to.clone()]) {
                continue;
            }
            let outer: usize = to_dims[..g.to.start].iter().product();
            let inner: usize = from_dims[g.from.end..].iter().product();
            let length: usize = from_dims[g.from.clone()].iter().product();
            let rows = self.op(Reshape { to: Shape::of(&[outer, length, inner]) }, &[x])?;
            let at = self.places(&from.0[g.from.clone()], &to.0[g.to.clone()])?;
            x = self.op(Gather { axis: 1 }, &[rows, at])?;
        }
        Ok(vec![self.op(Reshape { to: Shape::of(&to_dims) }, &[x])?])
    }

    fn extents(&self, s: &Shape) -> Result<Vec<usize>, BoundError> {
        self.largest(s)?.to_usize().ok_or_else(|| BoundError::Internal("an extent is not known".into()))
    }

    fn groups(&self, from: &Shape, to: &Shape) -> Vec<Group> {
        let mut all = vec![];
        let (mut i, mut j) = (0, 0);
        while i < from.rank() || j < to.rank() {
            let (first, second) = (i, j);
            let (mut p, mut q) = (Dim::Const(1), Dim::Const(1));
            while (i == first && j == second) || p != q {
                let left = self.bounded(&p).as_const() <= self.bounded(&q).as_const();
                if i < from.rank() && (left || j == to.rank()) {
                    p = p.mul(&from.0[i]);
                    i += 1;
                } else if j < to.rank() {
                    q = q.mul(&to.0[j]);
                    j += 1;
                } else {
                    break;
                }
            }
            all.push(Group { from: first..i, to: second..j });
        }
        all
    }

    /// Where the elements of the axes `to` lie along the axes `from`, both as one axis of the largest size.
    fn places(&mut self, from: &[Dim], to: &[Dim]) -> Result<ValueId, BoundError> {
        let (from_dims, to_dims) = (self.extents(&Shape(from.to_vec()))?, self.extents(&Shape(to.to_vec()))?);
        let count: usize = to_dims.iter().product();
        // The number of each element in a run.
        let mut number = self.integer(0);
        for (a, &n) in to_dims.iter().enumerate() {
            let step: usize = to_dims[a + 1..].iter().product();
            let along: Vec<i64> = (0..count).map(|i| (i / step % n) as i64).collect();
            let along = self.weight(Tensor::new(&[count], &along));
            let stride = self.value(&product(&to[a + 1..]))?;
            let part = self.named("mul", &[along, stride])?;
            number = self.named("add", &[number, part])?;
        }
        let mut place = self.integer(0);
        for a in 0..from.len() {
            let step: usize = from_dims[a + 1..].iter().product();
            let stride = self.divisor(&product(&from[a + 1..]))?;
            let step = self.integer(step as i64);
            let along = self.named("div", &[number, stride])?;
            let (done, part) = (self.named("mul", &[along, stride])?, self.named("mul", &[along, step])?);
            number = self.named("sub", &[number, done])?;
            place = self.named("add", &[place, part])?;
        }
        // Beyond the end there is nothing to be right about.
        let last = self.integer((from_dims.iter().product::<usize>() as i64 - 1).max(0));
        self.named("min", &[place, last])
    }
}

fn product(dims: &[Dim]) -> Dim {
    dims.iter().fold(Dim::Const(1), |p, d| p.mul(d))
}

/// Whether the elements of both lie in the same places: only the outermost axis varies, or it is the same axis.
fn is_view(from: &[Dim], to: &[Dim]) -> bool {
    let outermost = |s: &[Dim]| {
        let mut s = s.iter().skip_while(|d| **d == Dim::Const(1));
        s.next();
        s.all(|d| d.as_const().is_some())
    };
    product(from) == product(to) && outermost(from) && outermost(to)
}

//! What each operator needs to know of where its operands end.

use super::{BoundError, Cx};
use std::collections::BTreeMap;
use tenon_base::{DType, Dim, Fact, Real, Scalar, Shape, Tensor};
use tenon_ir::op::InferError;
use tenon_ir::ops::concat::Concat;
use tenon_ir::ops::cut::Cut;
use tenon_ir::ops::gather::Gather;
use tenon_ir::ops::pad::{Mode, Pad};
use tenon_ir::ops::pool::{Pool, PoolKind};
use tenon_ir::ops::recurrent::Recurrent;
use tenon_ir::ops::reduce::{Kind, Reduce};
use tenon_ir::ops::repeat::Repeat;
use tenon_ir::ops::scatter_elements::ScatterElements;
use tenon_ir::ops::slice::Slice;
use tenon_ir::{Op, OpClass, Operator, Region, ValueId};

impl Cx<'_> {
    /// The results of `op`. `old` are its operands in the old graph, `ins` in the new one, `facts` its results' facts in the old one.
    pub(super) fn operator(
        &mut self,
        op: &Op,
        old: &[ValueId],
        mut ins: Vec<ValueId>,
        facts: &[Fact],
    ) -> Result<Vec<ValueId>, BoundError> {
        let any = old.iter().any(|v| self.varying(*v).next().is_some())
            || facts.iter().any(|f| f.shape.0.iter().any(|d| self.simpler(d).as_const().is_none()));
        match op {
            Op::Symbolic(s) => {
                let elements: Vec<Dim> = s.elements.0.iter().map(|d| self.simpler(d)).collect();
                let v = self.vector(&elements)?;
                return Ok(vec![self.op(tenon_ir::ops::reshape::Reshape { to: self.largest(&s.to)? }, &[v])?]);
            }
            Op::Cut(c) => return self.cut(c, ins),
            Op::Repeat(r) if super::has_counts(r.body.graph()) => {
                let (body, _) = super::bound(r.body.graph(), &BTreeMap::new())?;
                let op = Repeat { body: Region::new(body), ..r.clone() };
                return self.new.add_op(op, &ins, self.loc.clone()).map_err(|e| BoundError::Internal(e.to_string()));
            }
            _ if !any => {}
            _ if op.class() == OpClass::Pointwise => {}
            Op::Transpose(_) | Op::Expand(_) | Op::Trilu(_) | Op::Branch(_) => {}
            Op::Reshape(r) => return self.reshape(&r.to, old[0], ins[0]),
            Op::Slice(s) => {
                if self.varying(old[0]).any(|a| s.steps[a] < 0 || s.starts[a] < 0) {
                    return Err(self.refuse(op, "it counts from the end"));
                }
            }
            Op::Concat(c) => return self.concat(op, c.axis, old, &ins, facts),
            Op::Gather(g) if self.varies(old[0], g.axis) => {
                let n = self.dim(old[0], g.axis);
                ins[1] = self.counted_from_front(ins[1], std::slice::from_ref(&n))?;
            }
            Op::Gather(_) => {}
            Op::GatherElements(g) => {
                if self.varies(old[0], g.axis) {
                    let n = self.dim(old[0], g.axis);
                    ins[1] = self.counted_from_front(ins[1], std::slice::from_ref(&n))?;
                }
            }
            Op::GatherNd(g) => {
                let k = self.old.fact(old[1]).shape.0.last().and_then(Dim::as_usize);
                let k = k.ok_or_else(|| self.refuse(op, "its number of indices is not known"))?;
                let dims = self.shape(old[0]).0[g.batch..g.batch + k].to_vec();
                if dims.iter().any(|d| d.as_const().is_none()) {
                    ins[1] = self.counted_from_front(ins[1], &dims)?;
                }
            }
            Op::Reduce(r) => return self.reduce(r, old[0], ins[0]),
            Op::ArgReduce(r) => {
                let fill = if r.max { f64::NEG_INFINITY } else { f64::INFINITY };
                ins[0] = self.masked(ins[0], r.axis, &self.dim(old[0], r.axis), fill)?;
            }
            Op::Softmax(s) => ins[0] = self.masked(ins[0], s.axis, &self.dim(old[0], s.axis), f64::NEG_INFINITY)?,
            Op::LayerNorm(n) => {
                if self.varying(old[0]).any(|a| a >= n.axis)
                    || old[1..].iter().any(|v| self.varying(*v).next().is_some())
                {
                    return Err(self.refuse(op, "it is computed over the whole axis"));
                }
            }
            Op::MatMul(m) => {
                for (i, row) in [(0, m.trans_a), (1, !m.trans_b)] {
                    let rank = self.old.fact(old[i]).shape.rank();
                    let k = rank - if row { 2 } else { 1 };
                    ins[i] = self.masked(ins[i], k, &self.dim(old[i], k), 0.0)?;
                }
            }
            Op::Conv(c) => {
                self.only_data(op, old)?;
                let rank = self.old.fact(old[0]).shape.rank();
                for a in 2..rank {
                    // The last windows read the border behind the end; and an algorithm by tiles (Winograd) sums what cancels out.
                    if c.pads[a - 2 + c.kernel.len()] > 0 || c.kernel[a - 2] > 1 {
                        let fill = c.fill.map_or(0.0, |v| v as f64);
                        ins[0] = self.masked(ins[0], a, &self.dim(old[0], a), fill)?;
                    }
                }
            }
            Op::ConvTranspose(_) => {
                self.only_data(op, old)?;
                for a in 2..self.old.fact(old[0]).shape.rank() {
                    ins[0] = self.masked(ins[0], a, &self.dim(old[0], a), 0.0)?;
                }
            }
            Op::Pool(p) => {
                let spatial: Vec<usize> = self.varying(old[0]).filter(|a| *a >= 2).collect();
                let beyond = |a: &usize| p.ceil || p.pads[a - 2 + p.kernel.len()] > 0;
                let beyond: Vec<usize> = spatial.iter().copied().filter(beyond).collect();
                if p.indices.is_some() && !spatial.is_empty() {
                    return Err(self.refuse(op, "it gives positions"));
                }
                if p.kind == PoolKind::Average && !beyond.is_empty() && (p.ceil || !p.count_pad) {
                    return self.mean_pool(p, old[0], ins[0]);
                }
                let fill = if p.kind == PoolKind::Max { f64::NEG_INFINITY } else { 0.0 };
                for a in beyond {
                    ins[0] = self.masked(ins[0], a, &self.dim(old[0], a), fill)?;
                }
            }
            Op::Pad(p) => {
                let rank = self.old.fact(old[0]).shape.rank();
                let behind: Vec<usize> = self.varying(old[0]).filter(|a| p.pads[a + rank] > 0).collect();
                let constant = p.mode == Mode::Constant;
                if !constant && self.varying(old[0]).any(|a| p.pads[a + rank] != 0 || p.pads[a] > 0) {
                    return Err(self.refuse(op, "it repeats what is at the end"));
                }
                let op = self.substituted(op)?;
                let mut y = self.op(op, &ins)?;
                for a in behind {
                    let end = self.dim(old[0], a).add(&Dim::Const(p.pads[a]));
                    y = self.masked(y, a, &end, p.value.0)?;
                }
                return Ok(vec![y]);
            }
            Op::Cumulate(c) => {
                if c.reverse {
                    let fill = if c.product { 1.0 } else { 0.0 };
                    ins[0] = self.masked(ins[0], c.axis, &self.dim(old[0], c.axis), fill)?;
                }
            }
            Op::Recurrent(r) => {
                if (!r.lengths && self.varies(old[0], 0)) || (r.quantized && self.varies(old[0], 1)) {
                    return self.recurrent(r, old[0], ins);
                }
            }
            Op::Lookup(_) => self.only_data(op, old)?,
            // What is behind the end is chosen last.
            Op::TopK(t) => {
                let fill = if t.largest { f64::NEG_INFINITY } else { f64::INFINITY };
                ins[0] = self.masked(ins[0], t.axis, &self.dim(old[0], t.axis), fill)?;
            }
            Op::NonZero(_) => ins[0] = self.masked_everywhere(ins[0], old[0], 0.0)?,
            Op::Choose(_) => ins[1] = self.masked(ins[1], 0, &self.dim(old[1], 0), 0.0)?,
            // No score is above the least one there is.
            Op::Suppress(_) => ins[1] = self.masked_everywhere(ins[1], old[1], f64::NEG_INFINITY)?,
            Op::RoiAlign(_) => {
                if self.varying(old[0]).next().is_some() {
                    return Err(self.refuse(op, "it works along the axis"));
                }
                for i in [1, 2] {
                    ins[i] = self.masked(ins[i], 0, &self.dim(old[1], 0), 0.0)?;
                }
            }
            Op::ScatterElements(s) => return self.scatter_elements(s, old, ins, &facts[0]),
            Op::ScatterNd(_) => return self.scatter_nd(op, old, ins, &facts[0]),
            Op::Resample(r) => {
                self.only_data(op, old)?;
                if self.varies(old[0], r.axis) {
                    return Err(self.refuse(op, "it resamples the axis"));
                }
            }
            // One row of the result for one of the operands.
            Op::TreeEnsemble(_) | Op::PairCoupling(_) | Op::Nearest(_) | Op::GridSample(_) => {
                if old.iter().any(|v| self.varying(*v).any(|a| a > 0)) {
                    return Err(self.refuse(op, "it works along the axis"));
                }
            }
            _ => return Err(self.refuse(op, "its result may depend on where an axis ends")),
        }
        let op = self.substituted(op)?;
        let loc = self.loc.clone();
        let fault = |e: InferError| BoundError::Operands { loc: self.loc.clone(), message: e.to_string() };
        self.new.add_op(op, &ins, loc).map_err(fault)
    }

    fn dim(&self, v: ValueId, axis: usize) -> Dim {
        self.shape(v).0.get(axis).cloned().unwrap_or(Dim::Const(1))
    }

    /// The axes of `v` whose extents differ from run to run.
    fn varying(&self, v: ValueId) -> impl Iterator<Item = usize> + use<'_> {
        self.shape(v).0.iter().enumerate().filter(|(_, d)| d.as_const().is_none()).map(|(a, _)| a)
    }

    fn refuse(&self, op: &Op, why: &str) -> BoundError {
        BoundError::Operator { loc: self.loc.clone(), op: op.name().to_string(), why: why.to_string() }
    }

    /// Only the first operand may vary, and not along its channels.
    fn only_data(&self, op: &Op, old: &[ValueId]) -> Result<(), BoundError> {
        let windows = matches!(op, Op::Conv(_) | Op::ConvTranspose(_));
        if old[1..].iter().any(|v| self.varying(*v).next().is_some()) || (windows && self.varies(old[0], 1)) {
            return Err(self.refuse(op, "its weights or channels vary"));
        }
        Ok(())
    }

    /// An extent that data decide: its symbol is what the operand counts. The value has room for the largest.
    fn cut(&mut self, c: &Cut, ins: Vec<ValueId>) -> Result<Vec<ValueId>, BoundError> {
        self.values.entry(c.to.0[c.axis].clone()).or_insert(ins[1]);
        let to = self.largest(&c.to)?;
        if self.new.fact(ins[0]).shape == to {
            return Ok(vec![ins[0]]);
        }
        let rank = to.rank();
        Ok(vec![self.op(Slice { starts: vec![0; rank], steps: vec![1; rank], to }, &ins[..1])?])
    }

    /// `x` with `fill` behind every end of `old`.
    fn masked_everywhere(&mut self, mut x: ValueId, old: ValueId, fill: f64) -> Result<ValueId, BoundError> {
        for a in 0..self.old.fact(old).shape.rank() {
            x = self.masked(x, a, &self.dim(old, a), fill)?;
        }
        Ok(x)
    }

    /// What is behind the end of the indices is written to one more place of the axis, which nobody sees.
    fn scatter_elements(
        &mut self,
        s: &ScatterElements,
        old: &[ValueId],
        mut ins: Vec<ValueId>,
        fact: &Fact,
    ) -> Result<Vec<ValueId>, BoundError> {
        let n = self.dim(old[0], s.axis);
        ins[1] = self.counted_from_front(ins[1], std::slice::from_ref(&n))?;
        let room = self.largest(&fact.shape)?.0[s.axis].as_const().unwrap_or(0);
        ins[1] = self.masked_everywhere(ins[1], old[1], room as f64)?;
        let wide = self.one_more(ins[0], s.axis)?;
        let y = self.op(s.clone(), &[wide, ins[1], ins[2]])?;
        self.one_less(y, fact)
    }

    /// The same for tuples: of their first index.
    fn scatter_nd(
        &mut self,
        op: &Op,
        old: &[ValueId],
        mut ins: Vec<ValueId>,
        fact: &Fact,
    ) -> Result<Vec<ValueId>, BoundError> {
        let indices = self.old.fact(old[1]).shape.rank() - 1;
        let width = self.shape(old[1]).0[indices].as_usize();
        let width = width.ok_or_else(|| self.refuse(op, "its number of indices is not known"))?;
        let dims = self.shape(old[0]).0[..width].to_vec();
        let room = self.largest(&fact.shape)?.0[0].as_const().unwrap_or(0);
        ins[1] = self.counted_from_front(ins[1], &dims)?;
        ins[1] = self.masked_everywhere(ins[1], old[1], room as f64)?;
        let wide = self.one_more(ins[0], 0)?;
        let y = self.op(op.clone(), &[wide, ins[1], ins[2]])?;
        self.one_less(y, fact)
    }

    /// `x` with one more place along `axis`.
    fn one_more(&mut self, x: ValueId, axis: usize) -> Result<ValueId, BoundError> {
        let fact = self.new.fact(x).clone();
        let mut dims = fact.dims().ok_or_else(|| BoundError::Internal("an extent is not known".into()))?;
        dims[axis] = 1;
        let zero = self.weight(Tensor::full(&dims, Scalar::of_f64(fact.dtype, 0.0)));
        self.op(Concat { axis }, &[x, zero])
    }

    /// `x` as large as `fact` again.
    fn one_less(&mut self, x: ValueId, fact: &Fact) -> Result<Vec<ValueId>, BoundError> {
        let to = self.largest(&fact.shape)?;
        let rank = to.rank();
        Ok(vec![self.op(Slice { starts: vec![0; rank], steps: vec![1; rank], to }, &[x])?])
    }

    /// Parts whose ends vary follow each other without gaps: by positions that are computed in a run.
    fn concat(
        &mut self,
        op: &Op,
        axis: usize,
        old: &[ValueId],
        ins: &[ValueId],
        facts: &[Fact],
    ) -> Result<Vec<ValueId>, BoundError> {
        let y = self.op(op.clone(), ins)?;
        let parts: Vec<Dim> = old.iter().map(|v| self.dim(*v, axis)).collect();
        // Behind the last one nothing follows.
        if parts[..parts.len() - 1].iter().all(|d| d.as_const().is_some()) {
            return Ok(vec![y]);
        }
        let dims = self.largest(&facts[0].shape)?.to_usize().unwrap_or_default();
        let first = self.iota(dims[axis], 0, 1);
        let (mut at, mut end) = (first, Dim::Const(0));
        for part in &parts[..parts.len() - 1] {
            end = end.add(part);
            let gap = self.bounded(part).sub(part);
            if gap == Dim::Const(0) {
                continue;
            }
            let (limit, gap, zero) = (self.value(&end)?, self.value(&gap)?, self.integer(0));
            let inside = self.named("less", &[first, limit])?;
            let skip = self.op(tenon_ir::ops::where_::Where {}, &[inside, zero, gap])?;
            at = self.named("add", &[at, skip])?;
        }
        let last = self.integer(dims[axis] as i64 - 1);
        let at = self.named("min", &[at, last])?;
        Ok(vec![self.op(Gather { axis }, &[y, at])?])
    }

    /// Indices below 0 count from the end that an axis has in a run. `dims` are the extents that the last axis of `indices` is for, or
    /// one for all.
    fn counted_from_front(&mut self, indices: ValueId, dims: &[Dim]) -> Result<ValueId, BoundError> {
        let fact = self.new.fact(indices).clone();
        if self.new.weight(indices).is_some_and(|t| t.to_i64().iter().all(|i| *i >= 0)) {
            return Ok(indices);
        }
        let n = match dims {
            [one] => self.value(one)?,
            all => self.vector(all)?,
        };
        let n = self.cast(n, fact.dtype)?;
        let zero = self.integer(0);
        let zero = self.cast(zero, fact.dtype)?;
        let negative = self.named("less", &[indices, zero])?;
        let moved = self.named("add", &[indices, n])?;
        self.op(tenon_ir::ops::where_::Where {}, &[negative, moved, indices])
    }

    fn reduce(&mut self, r: &Reduce, old: ValueId, x: ValueId) -> Result<Vec<ValueId>, BoundError> {
        let ends: Vec<(usize, Dim)> =
            r.axes.iter().map(|a| (*a, self.dim(old, *a))).filter(|(_, d)| d.as_const().is_none()).collect();
        let fill = match r.kind {
            Kind::Max | Kind::LogSumExp => f64::NEG_INFINITY,
            Kind::Min => f64::INFINITY,
            Kind::Prod => 1.0,
            Kind::Sum | Kind::Mean | Kind::L1 | Kind::L2 | Kind::LogSum | Kind::SumSquare => 0.0,
        };
        let mut x = x;
        for (a, end) in &ends {
            x = self.masked(x, *a, end, fill)?;
        }
        if r.kind != Kind::Mean || ends.is_empty() {
            return Ok(vec![self.op(r.clone(), &[x])?]);
        }
        let dtype = self.new.fact(x).dtype;
        // Half floats cannot count far.
        let wide = if dtype == DType::F16 { DType::F32 } else { dtype };
        let x = self.cast(x, wide)?;
        let sum = self.op(Reduce { kind: Kind::Sum, axes: r.axes.clone() }, &[x])?;
        let count = r.axes.iter().fold(Dim::Const(1), |n, a| n.mul(&self.dim(old, *a)));
        // Integers cannot be divided by 0.
        let count = if wide.is_int() { self.divisor(&count)? } else { self.value(&count)? };
        let count = self.cast(count, wide)?;
        let mean = self.named("div", &[sum, count])?;
        Ok(vec![self.cast(mean, dtype)?])
    }

    /// Means of windows that reach beyond an end: the mean of what is inside over the part of the window that counts, both by windows
    /// of one size.
    fn mean_pool(&mut self, p: &Pool, old: ValueId, x: ValueId) -> Result<Vec<ValueId>, BoundError> {
        let fact = self.new.fact(x).clone();
        let (rank, n) = (fact.shape.rank(), p.kernel.len());
        let border = |a: usize| (p.pads[a - 2] as i64, p.pads[a - 2 + n] as i64);
        let mut pads = vec![0; 2 * rank];
        (2..rank).for_each(|a| (pads[a], pads[a + rank]) = border(a));
        let pad = Op::from(Pad { mode: Mode::Constant, pads, value: Real(0.0) });
        let mut dims = self.largest(&self.shape(old).clone())?.to_usize().unwrap_or_default();
        (dims[0], dims[1]) = (1, 1);
        let mut ones = self.weight(Tensor::full(&dims, Scalar::of_f64(fact.dtype, 1.0)));
        let mut x = x;
        for a in 2..rank {
            let end = self.dim(old, a);
            x = self.masked(x, a, &end, 0.0)?;
            ones = self.masked(ones, a, &end, 0.0)?;
        }
        x = self.op(pad.clone(), &[x])?;
        if p.count_pad {
            for (a, d) in dims.iter_mut().enumerate().skip(2) {
                *d += (border(a).0 + border(a).1) as usize;
            }
            ones = self.weight(Tensor::full(&dims, Scalar::of_f64(fact.dtype, 1.0)));
            for a in 2..rank {
                let end = self.dim(old, a).add(&Dim::Const(border(a).0 + border(a).1));
                ones = self.masked(ones, a, &end, 0.0)?;
            }
        } else {
            ones = self.op(pad, &[ones])?;
        }
        let mean = Pool { pads: vec![0; 2 * n], count_pad: true, ..p.clone() };
        let (x, part) = (self.op(mean.clone(), &[x])?, self.op(mean, &[ones])?);
        Ok(vec![self.named("div", &[x, part])?])
    }

    /// Sequences that all end where the run says. States that share a range have no elements behind the end of the batch.
    fn recurrent(&mut self, r: &Recurrent, x: ValueId, mut ins: Vec<ValueId>) -> Result<Vec<ValueId>, BoundError> {
        let batch = self.dim(x, 1);
        let mut length = match r.lengths.then(|| ins.pop()).flatten() {
            Some(given) => given,
            None => {
                let to = self.largest(&Shape(vec![batch.clone()]))?;
                let length = self.value(&self.dim(x, 0))?;
                let length = self.cast(length, DType::I32)?;
                self.op(tenon_ir::ops::expand::Expand { to }, &[length])?
            }
        };
        if r.quantized {
            length = self.masked(length, 0, &batch, 0.0)?;
            ins[2] = self.masked(ins[2], 0, &batch, 0.0)?;
        }
        ins.push(length);
        let loc = self.loc.clone();
        let op = Recurrent { lengths: true, ..r.clone() };
        self.new.add_op(op, &ins, loc).map_err(|e| BoundError::Internal(e.to_string()))
    }
}

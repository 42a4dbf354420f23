//! Loop and Scan: unrolled where that is small or the only way, else a loop of the graph.

use crate::attr::Passed;
use crate::body::{Body, Made, Session, Site, Slot};
use crate::control::{declared_rank, scalar, subgraph};
use crate::proto::{GraphProto, NodeProto};
use crate::trips::{Carried, iterations};
use tenon_base::{DType, Dim, Fact, Shape, Tensor};
use tenon_ir::ops::gather::Gather;
use tenon_ir::ops::reduce::{Kind, Reduce};
use tenon_ir::ops::repeat::Repeat;
use tenon_ir::ops::reshape::Reshape;
use tenon_ir::ops::slice::Slice;
use tenon_ir::ops::transpose::Transpose;
use tenon_ir::{ImportError, Region, ValueId};

/// A loop of up to this many nodes in all its iterations is unrolled: its parts then fuse with each other.
const SMALL: usize = 64;
/// A loop that cannot be one at run time is unrolled up to this many nodes.
const LARGE: usize = 1 << 14;

/// Rows of a scan result at most.
const MOST_ROWS: usize = 1 << 24;

/// A direction along an axis.
#[derive(Clone, Copy, Debug)]
struct Along {
    axis: usize,
    reverse: bool,
}

/// What is repeated, and how often.
struct Repeated<'p> {
    body: &'p GraphProto,
    /// Whether it is a Loop, whose body is given the iteration and a condition and says whether to go on; else a Scan.
    is_loop: bool,
    /// Iterations at most; `None` for no limit.
    trip: Option<ValueId>,
    /// Whether there is a first iteration; `None` for yes.
    cond: Option<ValueId>,
    carried: Vec<Slot<'p>>,
    /// What a scan reads a slice of in each iteration.
    scanned: Vec<(ValueId, Along)>,
    /// Where slices of results are put.
    stacked: Vec<Along>,
}

impl<'p> Session<'p> {
    pub(crate) fn import_loop(&mut self, site: Site<'_, 'p>) -> Made<'p> {
        let Site { node: n, attrs, operands, loc, body } = site;
        let g = subgraph(attrs, "body")?;
        let mut carried = operands.get(2..).unwrap_or(&[]).to_vec();
        carried.resize(n.input.len().saturating_sub(2), Slot::Absent);
        if g.input.len() != 2 + carried.len() || g.output.len() < 1 + carried.len() {
            self.scan_node(n, loc, body);
            return Err(ImportError::new(format!(
                "a body that carries {} values has {} inputs and {} outputs or more, found {} and {}",
                carried.len(),
                2 + carried.len(),
                1 + carried.len(),
                g.input.len(),
                g.output.len()
            )));
        }
        let trip = self.opt_scalar(operands.first(), DType::I64, "the trip count", loc)?;
        let cond = self.opt_scalar(operands.get(1), DType::Bool, "the condition", loc)?;
        let stacked = vec![Along { axis: 0, reverse: false }; g.output.len() - 1 - carried.len()];
        let all = Repeated { body: g, is_loop: true, trip, cond, carried, scanned: vec![], stacked };
        self.repeat(&all, loc, body)
    }

    pub(crate) fn import_scan(&mut self, site: Site<'_, 'p>) -> Made<'p> {
        let Site { node: n, attrs, operands, loc, body } = site;
        let g = subgraph(attrs, "body")?;
        let values = operands.iter().map(|s| match s {
            Slot::Value(v) => Ok(*v),
            _ => Err(ImportError::new("expected tensors as operands")),
        });
        if Self::opset(n, body) < 9 {
            // Every operand has a batch in front; the first, the lengths, is optional.
            if !matches!(operands.first(), None | Some(Slot::Absent)) {
                return Err(ImportError::new("sequence lengths are not supported")
                    .with_help("export the model with opset 9 or newer"));
            }
            let values = values.skip(1).collect::<Result<Vec<_>, _>>()?;
            return self.scan_batches(g, attrs, &values, loc, body);
        }
        let values = values.collect::<Result<Vec<_>, _>>()?;
        let (axes, outs) = (ints(attrs, "scan_input_axes"), ints(attrs, "scan_output_axes"));
        let (ways, out_ways) = (ints(attrs, "scan_input_directions"), ints(attrs, "scan_output_directions"));
        self.scan(g, attrs, &values, [&axes, &ways, &outs, &out_ways], loc, body)
    }

    /// Scan of opset 8: over axis 1 of each element of the batch.
    fn scan_batches(
        &mut self,
        g: &'p GraphProto,
        attrs: &Passed<'p>,
        values: &[ValueId],
        loc: &str,
        body: &Body<'p>,
    ) -> Made<'p> {
        let ways = ints(attrs, "directions");
        let batch = values.first().and_then(|v| self.top.graph.fact(*v).shape.0.first().cloned());
        let n = batch.as_ref().and_then(Dim::as_const).filter(|n| (1..=LARGE as i64).contains(n));
        let n = n.ok_or_else(|| ImportError::new("the batch of a Scan of opset 8 must be known and not empty"))?;
        let mut parts: Vec<Vec<ValueId>> = vec![vec![]; g.output.len()];
        for b in 0..n {
            let mut one = vec![];
            for &v in values {
                let at = self.weight(Tensor::scalar(b));
                if self.top.graph.fact(v).shape.0.first() != batch.as_ref() {
                    return Err(ImportError::new("the operands have batches of different sizes"));
                }
                one.push(self.op(loc, Gather { axis: 0 }, &[v, at])?);
            }
            let Some(made) = self.scan(g, attrs, &one, [&[], &ways, &[], &[]], loc, body)? else { return Ok(None) };
            for (all, s) in parts.iter_mut().zip(made) {
                let Slot::Value(v) = s else { return Err(ImportError::new("expected tensors as results")) };
                all.push(v);
            }
        }
        let stack =
            parts.into_iter().map(|p| self.stack(&p, Along { axis: 0, reverse: false }, loc).map(Slot::Value));
        stack.collect::<Result<_, _>>().map(Some)
    }

    /// `settings`: axes and directions of the scanned operands, then of the stacked results.
    fn scan(
        &mut self,
        g: &'p GraphProto,
        attrs: &Passed<'p>,
        values: &[ValueId],
        settings: [&[i64]; 4],
        loc: &str,
        body: &Body<'p>,
    ) -> Made<'p> {
        let count = attrs.get("num_scan_inputs").and_then(|a| a.i).and_then(|n| usize::try_from(n).ok());
        let count = count.filter(|n| (1..=values.len()).contains(n));
        let count =
            count.ok_or_else(|| ImportError::new("num_scan_inputs: expected a number of operands, 1 or more"))?;
        let states = values.len() - count;
        if g.input.len() != values.len() || g.output.len() < states {
            return Err(ImportError::new(format!(
                "a body for {} operands has as many inputs, found {}",
                values.len(),
                g.input.len()
            )));
        }
        let along = |i: usize, axes: &[i64], ways: &[i64], rank: usize| {
            let axis = tenon_ir::op::resolve_axis(axes.get(i).copied().unwrap_or(0), rank)?;
            Ok::<_, ImportError>(Along { axis, reverse: ways.get(i).copied().unwrap_or(0) != 0 })
        };
        let mut scanned = vec![];
        let mut length: Option<Dim> = None;
        for (i, &v) in values[states..].iter().enumerate() {
            let shape = self.top.graph.fact(v).shape.clone();
            let a = along(i, settings[0], settings[1], shape.rank())?;
            let n = shape.0[a.axis].clone();
            if length.as_ref().is_some_and(|l| *l != n) {
                return Err(ImportError::new(format!(
                    "the scanned operands differ in length: {n} and {}",
                    length.unwrap_or(n.clone())
                )));
            }
            length = Some(n);
            scanned.push((v, a));
        }
        // The rank of a result's slices is known after an iteration: until then only axis and direction are.
        let stacked = (0..g.output.len() - states).map(|i| {
            let axis = settings[2].get(i).copied().unwrap_or(0);
            let rank = declared_rank(&g.output[states + i]);
            match rank {
                Some(rank) => along(i, settings[2], settings[3], rank + 1),
                None if axis >= 0 => along(i, settings[2], settings[3], usize::MAX >> 1),
                None => Err(ImportError::new("the rank of a scan output must be declared for a negative axis")),
            }
        });
        let stacked = stacked.collect::<Result<_, _>>()?;
        let length = length.unwrap_or(Dim::Const(0));
        let trip = match length.as_const() {
            Some(n) => self.weight(Tensor::scalar(n)),
            None => self.importer(loc).symbolic(vec![length], &[]),
        };
        let carried = values[..states].iter().map(|v| Slot::Value(*v)).collect();
        let all = Repeated { body: g, is_loop: false, trip: Some(trip), cond: None, carried, scanned, stacked };
        self.repeat(&all, loc, body)
    }

    fn repeat(&mut self, r: &Repeated<'p>, loc: &str, body: &Body<'p>) -> Made<'p> {
        let inner = body.enter(loc)?;
        let graph = &self.top.graph;
        let known = |v: ValueId| graph.weight(v).map(|t| t.get(0).as_int());
        let begins = r.cond.map_or(Some(true), |c| known(c).map(|c| c != 0));
        let trips = match (r.trip.map(known), begins) {
            (_, Some(false)) => Some(0),
            (Some(Some(n)), Some(true)) => Some(n.max(0)),
            _ => None,
        };
        let trips = trips.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        // A loop that never runs gives what it is given, whatever its body would make of that.
        if trips == Some(0) && r.stacked.is_empty() {
            return Ok(Some(r.carried.clone()));
        }
        let nodes = count(r.body);
        let cost = trips.filter(|n| *n > 0).map(|n| n.saturating_mul(nodes.max(1)));
        let plain = r.carried.iter().all(|s| matches!(s, Slot::Value(_)));
        let mark = self.report.clone();
        if cost.is_some_and(|c| c <= if plain { SMALL } else { LARGE }) {
            match self.unroll(r, trips.unwrap_or(0), loc, &inner) {
                Ok(Unrolled::Done(made)) => return Ok(made),
                Ok(Unrolled::Dynamic(e)) if !plain => return Err(e),
                Err(e) => return Err(e),
                Ok(Unrolled::Dynamic(_)) => self.report = mark,
            }
        }
        if !plain {
            return Err(self.unknown_trips(r, loc, "carries a sequence or an optional, so it must be unrolled, and"));
        }
        let mark = self.report.clone();
        let made = self.looped(r, trips, loc, &inner);
        if matches!(made, Ok(Some(_))) || self.stopped {
            return made;
        }
        if let Some(n) = trips
            && cost.is_some_and(|c| c <= LARGE)
        {
            let tried = std::mem::replace(&mut self.report, mark);
            if let Ok(Unrolled::Done(Some(done))) = self.unroll(r, n, loc, &inner) {
                return Ok(Some(done));
            }
            self.report = tried;
        }
        // With a known number of iterations it could be unrolled.
        if trips.is_none() {
            let unknown = self.unknown_trips(r, loc, "cannot be one at run time, and");
            self.report.error(loc, "Loop", unknown);
        }
        made
    }

    /// Why the number of iterations is not known; `why` it must be.
    fn unknown_trips(&mut self, r: &Repeated<'p>, loc: &str, why: &str) -> ImportError {
        let cx = self.importer(loc);
        let known = r.trip.map(|v| cx.constant(v, "M").map(|_| ()));
        let cond = r.cond.map(|v| cx.constant(v, "cond").map(|_| ()));
        match [known, cond].into_iter().flatten().find_map(Result::err) {
            Some(e) => ImportError { message: format!("the loop {why} {}", e.message), ..e },
            None => ImportError::new(format!("the loop {why} the number of iterations is not known or too large")),
        }
    }

    /// The iterations one after the other.
    fn unroll(
        &mut self,
        r: &Repeated<'p>,
        trips: usize,
        loc: &str,
        inner: &Body<'p>,
    ) -> Result<Unrolled<'p>, ImportError> {
        let mut state = r.carried.clone();
        let mut rows: Vec<Vec<ValueId>> = vec![vec![]; r.stacked.len()];
        for k in 0..trips {
            let mut given = vec![];
            if r.is_loop {
                given.push(Slot::Value(self.number(k as i64, r.body)));
                given.push(Slot::Value(self.weight(Tensor::scalar(true))));
            }
            given.extend(state);
            for &(v, a) in &r.scanned {
                let at = if a.reverse { trips - 1 - k } else { k };
                let at = self.weight(Tensor::scalar(at as i64));
                given.push(Slot::Value(self.op(loc, Gather { axis: a.axis }, &[v, at])?));
            }
            let Some(made) = self.inline(r.body, given, "body", inner)? else { return Ok(Unrolled::Done(None)) };
            let mut made = made.into_iter();
            let mut more = true;
            if r.is_loop {
                let Some(Slot::Value(c)) = made.next() else {
                    return Err(ImportError::new("the condition that the body gives is no tensor"));
                };
                match self.importer(loc).constant(c, "the condition that the body gives") {
                    Ok(t) => more = !t.is_empty() && t.get(0).as_int() != 0,
                    Err(e) => return Ok(Unrolled::Dynamic(e)),
                }
            }
            state = made.by_ref().take(r.carried.len()).collect();
            for (all, s) in rows.iter_mut().zip(made) {
                let Slot::Value(v) = s else { return Err(ImportError::new("a scan output is no tensor")) };
                all.push(v);
            }
            if !more {
                break;
            }
        }
        for (rows, a) in rows.iter().zip(&r.stacked) {
            state.push(Slot::Value(self.stack(rows, *a, loc)?));
        }
        Ok(Unrolled::Done(Some(state)))
    }

    /// `rows` beside each other along a new axis.
    pub(crate) fn stack_front(&mut self, rows: &[ValueId], loc: &str) -> Result<ValueId, ImportError> {
        self.stack(rows, Along { axis: 0, reverse: false }, loc)
    }

    fn stack(&mut self, rows: &[ValueId], a: Along, loc: &str) -> Result<ValueId, ImportError> {
        let mut all = vec![];
        for &v in rows {
            let mut to = self.top.graph.fact(v).shape.clone();
            if a.axis > to.rank() {
                return Err(ImportError::new(format!("axis {} is out of range for rank {}", a.axis, to.rank() + 1)));
            }
            to.0.insert(a.axis, Dim::Const(1));
            all.push(self.op(loc, Reshape { to }, &[v])?);
        }
        if a.reverse {
            all.reverse();
        }
        if let [one] = all[..] {
            return Ok(one);
        }
        self.op(loc, tenon_ir::ops::concat::Concat { axis: a.axis }, &all)
    }

    /// The number of an iteration, in the rank that the body declares.
    fn number(&mut self, k: i64, body: &GraphProto) -> ValueId {
        let one = body.input.first().and_then(declared_rank) == Some(1);
        self.weight(if one { Tensor::new(&[1], &[k]) } else { Tensor::scalar(k) })
    }

    /// A loop of the graph.
    fn looped(&mut self, r: &Repeated<'p>, trips: Option<usize>, loc: &str, inner: &Body<'p>) -> Made<'p> {
        self.enter();
        let made = self.body_of(r, trips, loc, inner);
        let level = self.leave();
        let Some(ends) = made? else { return Ok(None) };
        let mut rows = Shape(vec![]);
        let (counted, trips) = (counts(r, trips, ends), if let Ends::After(n) = ends { Some(n) } else { None });
        let trip = match trips {
            Some(n) => Some(self.weight(Tensor::scalar(i64::try_from(n).unwrap_or(i64::MAX)))),
            None => r.trip,
        };
        if !r.stacked.is_empty() {
            let symbolic = trip.and_then(|v| Some(self.top.dims.get(&v)?.first()?.clone()));
            let graph = &self.top.graph;
            let bound = trip.and_then(|v| graph.weight(v)).map(|t| t.get(0).as_int().clamp(0, i128::from(i64::MAX)));
            match (bound.and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= MOST_ROWS), symbolic) {
                (Some(n), _) => rows = Shape::of(&[n]),
                (None, Some(n)) if !counted => rows = Shape(vec![n]),
                _ => return Err(self.unknown_trips(r, loc, "has scan outputs, so")),
            }
        }
        let trip = trip.unwrap_or_else(|| self.top.graph.add_weight("", Tensor::scalar(i64::MAX)));
        let cond = r.cond.unwrap_or_else(|| self.top.graph.add_weight("", Tensor::scalar(true)));
        let mut operands = vec![trip, cond];
        operands.extend(r.carried.iter().filter_map(|s| if let Slot::Value(v) = s { Some(*v) } else { None }));
        operands.extend(&level.captured);
        let op = Repeat { body: Region::new(level.graph), carried: r.carried.len(), trips: rows.clone() };
        let mut results = self.importer(loc).ops(op, &operands).map_err(|e| {
            e.with_help("a value that changes its shape from one iteration to the next needs a number of iterations known at compile time")
        })?;
        let count = if counted { results.pop() } else { None };
        for (v, a) in results[r.carried.len()..].iter_mut().zip(&r.stacked) {
            *v = self.placed(*v, *a, loc)?;
        }
        if let Some(ran) = count {
            // One for every iteration that ran.
            let sum = self.op(loc, Reduce { kind: Kind::Sum, axes: vec![0] }, &[ran])?;
            let sum = self.op(loc, Reshape { to: Shape(vec![]) }, &[sum])?;
            for v in &mut results[r.carried.len()..] {
                *v = self.importer(loc).sized(*v, 0, sum)?;
            }
        }
        Ok(Some(results.into_iter().map(Slot::Value).collect()))
    }

    /// Moves the rows of `v` from axis 0 to where they belong.
    fn placed(&mut self, mut v: ValueId, a: Along, loc: &str) -> Result<ValueId, ImportError> {
        let shape = self.top.graph.fact(v).shape.clone();
        let rank = shape.rank();
        if a.axis >= rank {
            return Err(ImportError::new(format!("axis {} is out of range for rank {rank}", a.axis)));
        }
        if a.reverse {
            let n = shape.0[0].as_const();
            let n = n.ok_or_else(|| ImportError::new(format!("the length {} must be known", shape.0[0])))?;
            let (mut starts, mut steps) = (vec![0; rank], vec![1; rank]);
            (starts[0], steps[0]) = ((n - 1).max(0), -1);
            v = self.op(loc, Slice { starts, steps, to: shape }, &[v])?;
        }
        if a.axis > 0 {
            let mut perm: Vec<usize> = (1..rank).collect();
            perm.insert(a.axis, 0);
            v = self.op(loc, Transpose { perm }, &[v])?;
        }
        Ok(v)
    }

    /// Imports the body into the current graph, which is its own; when it ends.
    fn body_of(
        &mut self,
        r: &Repeated<'p>,
        trips: Option<usize>,
        loc: &str,
        inner: &Body<'p>,
    ) -> Result<Option<Ends>, ImportError> {
        let number = Fact::of(DType::I64, &[]);
        let i = self.top.graph.add_input("i", number);
        let (mut carried, mut inputs) = (vec![], vec![]);
        for (k, s) in r.carried.iter().enumerate() {
            let Slot::Value(v) = s else { return Err(ImportError::new("a carried value is no tensor")) };
            let level = self.depth().saturating_sub(1);
            let fact = self.level_mut(level).graph.fact(*v).clone();
            inputs.push(self.top.graph.add_input(format!("v{k}"), fact));
            carried.extend(inputs.last().map(|v| Slot::Value(*v)));
        }
        let mut given = vec![];
        if r.is_loop {
            let one = r.body.input.first().and_then(declared_rank) == Some(1);
            let i = if one { self.op(loc, Reshape { to: Shape::of(&[1]) }, &[i])? } else { i };
            given.push(Slot::Value(i));
            given.push(Slot::Value(self.weight(Tensor::scalar(true))));
        }
        given.extend(carried);
        for &(v, a) in &r.scanned {
            let Slot::Value(x) = self.seen(Slot::Value(v), self.depth() - 1) else { return Ok(None) };
            let mut at = i;
            if a.reverse {
                let last = self.top.graph.fact(x).shape.0[a.axis].sub(&Dim::Const(1));
                let last = match last.as_const() {
                    Some(n) => self.weight(Tensor::scalar(n)),
                    None => self.importer(loc).symbolic(vec![last], &[]),
                };
                let sub = tenon_ir::ops::binary::Binary::named("sub");
                let sub = sub.ok_or_else(|| ImportError::new("there is no subtraction"))?;
                at = self.op(loc, sub, &[last, i])?;
            }
            given.push(Slot::Value(self.op(loc, Gather { axis: a.axis }, &[x, at])?));
        }
        let Some(made) = self.inline(r.body, given, "body", inner)? else { return Ok(None) };
        let mut values = vec![];
        for s in made {
            let Slot::Value(v) = s else { return Err(ImportError::new("an output of the body is no tensor")) };
            let shape = &self.top.graph.fact(v).shape;
            if shape.0.iter().any(|d| self.top.counts.decide(d)) {
                return Err(ImportError::new(format!("an output of the body has extents that data decide: {shape}")));
            }
            values.push(v);
        }
        let more = if r.is_loop {
            let v = values.remove(0);
            scalar(&mut self.importer(loc), v, DType::Bool, "the condition that the body gives")?
        } else {
            self.weight(Tensor::scalar(true))
        };
        let ends = match self.top.graph.weight(more) {
            Some(t) if t.get(0).as_int() != 0 => Ends::ByCount,
            _ => self.ends(r, i, &inputs, &values, more),
        };
        let more = if let Ends::After(_) = ends { self.weight(Tensor::scalar(true)) } else { more };
        let g = &mut self.top.graph;
        g.name = "body".into();
        g.add_output("more", more);
        for (k, v) in values.into_iter().enumerate() {
            g.add_output(format!("o{k}"), v);
        }
        if counts(r, trips, ends) {
            let one = g.add_weight("", Tensor::scalar(1i64));
            g.add_output("ran", one);
        }
        g.remove_dead();
        Ok(Some(ends))
    }

    /// When a loop ends whose body decides it: perhaps that does not depend on data.
    fn ends(&mut self, r: &Repeated<'p>, i: ValueId, inputs: &[ValueId], next: &[ValueId], more: ValueId) -> Ends {
        let around = self.depth() - 1;
        let known = |s: &mut Self, v: ValueId| s.level_mut(around).graph.weight(v).cloned();
        let begins = r.cond.is_none_or(|c| known(self, c).is_some_and(|t| t.get(0).as_int() != 0));
        let limit = r.trip.map(|v| known(self, v).map(|t| usize::try_from(t.get(0).as_int()).unwrap_or(0)));
        if !begins || limit == Some(None) {
            return Ends::ByData;
        }
        let mut carried = vec![];
        for ((s, &input), &next) in r.carried.iter().zip(inputs).zip(next) {
            let first = if let Slot::Value(v) = s { known(self, *v) } else { None };
            carried.push(Carried { input, first, next });
        }
        iterations(&mut self.top.graph, i, &carried, more, limit.flatten()).map_or(Ends::ByData, Ends::After)
    }
}

/// What ends a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// Its trip count.
    ByCount,
    /// Its body, after as many iterations.
    After(usize),
    /// Its body, by what it computes.
    ByData,
}

/// Whether a scan result counts the iterations: where there are scan results, and how many rows they have depends on data.
fn counts(r: &Repeated<'_>, trips: Option<usize>, ends: Ends) -> bool {
    let by_data = match ends {
        Ends::ByCount => trips.is_none() && r.cond.is_some(),
        Ends::After(_) => false,
        Ends::ByData => true,
    };
    by_data && !r.stacked.is_empty()
}

/// What became of an attempt to unroll.
enum Unrolled<'p> {
    /// The results; `None` if the body has a problem, which is reported.
    Done(Option<Vec<Slot<'p>>>),
    /// The body's condition is not known.
    Dynamic(ImportError),
}

fn ints(attrs: &Passed<'_>, name: &str) -> Vec<i64> {
    attrs.get(name).map(|a| a.ints.clone()).unwrap_or_default()
}

/// Nodes of a graph and of all inside it.
fn count(g: &GraphProto) -> usize {
    let inside = |n: &NodeProto| n.attribute.iter().filter_map(|a| a.g.as_deref()).map(count).sum::<usize>();
    g.node.iter().map(|n| 1 + inside(n)).sum()
}

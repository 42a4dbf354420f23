//! Groups → a program: buffers, calls, and the control around them.
//!
//! Groups run in order; those that only one side of an `if` needs run in that side ([`tenon_ir::gate`]). Both sides write their
//! results where the `if` has its own: directly where they make them, else by a copy. The body of a loop is a graph of its
//! own, whose inputs are buffers of the graph around it: the variables it carries have one buffer each, written before the
//! loop and at the end of every iteration.

use crate::PassError;
use crate::group::root;
use crate::halo::{Border, borders, parts};
use crate::lower::{Distinct, elements, external_reads, length, location, lower_group, share};
use crate::pipeline::State;
use rayon::prelude::*;
use std::collections::BTreeMap;
use tenon_base::{DType, Diagnostic, Fact, Loc, Scalar};
use tenon_ir::gate::{Gates, Path, operand_path};
use tenon_ir::ops::repeat::Repeat;
use tenon_ir::{Graph, NodeId, NodeKind, Op, ValueId};
use tenon_kernel::{
    Access, BufferId, BufferKind, Call, Expr, If, Io, Kernel, KernelBuilder, Loop, Program, State as Kept, Step,
    simplify::simplify_kernel,
};

/// Lowers `state` to a program called `name`. `kept` are pairs of an input and an output of the graph, of one type: what a run
/// gives as the output is what the next run finds as the input.
pub fn lower(state: &State, name: &str, kept: &[(String, String)]) -> Result<Program, PassError> {
    let graph = &state.graph;
    let program = Program { name: name.to_string(), ..Program::default() };
    let pairs = kept.iter().map(|(i, o)| pair(graph, i, o)).collect::<Result<Vec<_>, _>>()?;
    let is_kept = |k: usize| pairs.iter().any(|(_, o)| *o == k);
    let mut numbers = vec![];
    for k in 0..graph.outputs().len() {
        numbers.push((0..k).filter(|k| !is_kept(*k)).count());
    }
    let mut b =
        Builder { p: program, seen: Distinct::default(), outputs: vec![None; graph.outputs().len()], numbers };
    let mut scope = Scope::new(state);
    for &id in graph.inputs() {
        let NodeKind::Input(name) = &graph.node(id).kind else { continue };
        let v = ValueId { node: id, port: 0 };
        let fact = graph.fact(v).clone();
        if pairs.iter().any(|(i, _)| *i == v) {
            let buffer = b.p.add_buffer(name, fact.dtype.carrier(), elements(&fact), BufferKind::Arena(None));
            scope.buffers.insert(v, buffer);
            b.p.states.push(Kept { name: name.clone(), fact, buffer });
            continue;
        }
        let kind = BufferKind::Input(b.p.inputs.len());
        scope.buffers.insert(v, b.p.add_buffer(name, fact.dtype.carrier(), elements(&fact), kind));
        b.p.inputs.push(Io { name: name.clone(), fact });
    }
    for (k, (_, v)) in graph.outputs().iter().enumerate().filter(|(k, _)| !is_kept(*k)) {
        scope.homes.entry(root(graph, *v)).or_insert(Home::Output(k));
    }
    b.branch_homes(&mut scope);
    let mut steps = b.block(&mut scope)?;
    let place = |k: usize| (!is_kept(k)).then(|| b.numbers[k]);
    b.p.sized = graph.sized().iter().filter_map(|(k, by)| place(*k).zip(place(*by))).collect();
    b.finish_outputs(&mut scope, &mut steps, &is_kept);
    b.keep(&mut scope, &mut steps, &pairs);
    b.p.steps = steps;
    Ok(b.p)
}

/// The input and the position of the output called so, which must be of one type.
fn pair(graph: &Graph, input: &str, output: &str) -> Result<(ValueId, usize), PassError> {
    let fail = |message: String, help: String| {
        Err(PassError::Model(Diagnostic::error(format!("state {input}={output}: {message}")).with_help(help).into()))
    };
    let named = |id: &&NodeId| matches!(&graph.node(**id).kind, NodeKind::Input(n) if n == input);
    let Some(&node) = graph.inputs().iter().find(named) else {
        return fail(format!("the model has no input `{input}`"), "tenon check lists the inputs".into());
    };
    let Some(k) = graph.outputs().iter().position(|(n, _)| n == output) else {
        let names: Vec<&str> = graph.outputs().iter().map(|(n, _)| n.as_str()).collect();
        return fail(format!("the model has no output `{output}`"), format!("its outputs are: {}", names.join(", ")));
    };
    let v = ValueId { node, port: 0 };
    let (f, g) = (graph.fact(v), graph.fact(graph.outputs()[k].1));
    if f != g {
        return fail(format!("the input is {f}, the output {g}"), "a state has one type from run to run".into());
    }
    Ok((v, k))
}

/// Where a value is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// In an output of the model; its buffer is made when it is first written.
    Output(usize),
    Buffer(BufferId),
}

/// One graph: the model's, or the body of a loop.
struct Scope<'s> {
    state: &'s State,
    graph: &'s Graph,
    /// Where values are.
    buffers: BTreeMap<ValueId, BufferId>,
    homes: BTreeMap<ValueId, Home>,
    /// Values in the middle of larger buffers.
    borders: BTreeMap<ValueId, Border>,
    gates: Gates,
}

impl<'s> Scope<'s> {
    fn new(state: &'s State) -> Scope<'s> {
        let graph = &state.graph;
        let mut gates = Gates::default();
        graph.outputs().iter().for_each(|(_, v)| gates.used(root(graph, *v).node, &[]));
        for g in state.groups.iter().rev() {
            let path = gates.path(g.last());
            if matches!(graph.op(g.anchor), Some(Op::Branch(_))) {
                for (i, v) in graph.operands(g.anchor).into_iter().enumerate() {
                    gates.used(root(graph, v).node, &operand_path(graph, g.anchor, i, &path));
                }
            } else {
                external_reads(graph, g).into_iter().for_each(|v| gates.used(v.node, &path));
            }
        }
        let mut borders = borders(graph, &state.groups);
        parts(graph, &state.groups, &|a, b| gates.path(a) == gates.path(b), &mut borders);
        Scope { state, graph, buffers: BTreeMap::new(), homes: BTreeMap::new(), borders, gates }
    }

    /// The buffer that `v` goes to, if some of it has been written: `v` is a concatenation, or a part of one.
    fn begun(&self, v: ValueId) -> Option<BufferId> {
        let whole = self.borders.get(&v).and_then(|b| b.within).unwrap_or(v);
        self.buffers.get(&whole).copied()
    }
}

/// A kernel and what it reads.
type Lowered = Result<(Kernel, Vec<ValueId>), PassError>;

struct Builder {
    p: Program,
    /// The kernels so far.
    seen: Distinct,
    /// Buffers of the model's outputs, as far as they are made.
    outputs: Vec<Option<BufferId>>,
    /// Which output of the program each output of the graph is.
    numbers: Vec<usize>,
}

impl Builder {
    /// Gives the results of every `if` a home, and the values its sides make for them the same one.
    fn branch_homes(&mut self, scope: &mut Scope<'_>) {
        let graph = scope.graph;
        for g in scope.state.groups.iter().rev() {
            let id = g.anchor;
            if !matches!(graph.op(id), Some(Op::Branch(_))) {
                continue;
            }
            let (path, n) = (scope.gates.path(id), graph.node(id).facts.len());
            let operands = graph.operands(id);
            for port in 0..n {
                let v = ValueId { node: id, port: port as u16 };
                let home = match scope.homes.get(&v) {
                    Some(h) => *h,
                    None => Home::Buffer(self.temporary(graph.fact(v))),
                };
                scope.homes.insert(v, home);
                for i in [1 + port, 1 + n + port] {
                    let made = root(graph, operands[i]);
                    let here = scope.gates.path(made.node) == operand_path(graph, id, i, &path);
                    if graph.op(made.node).is_some() && here && !scope.homes.contains_key(&made) {
                        scope.homes.insert(made, home);
                    }
                }
            }
        }
    }

    fn temporary(&mut self, f: &Fact) -> BufferId {
        let label = format!("t{}", self.p.buffers.len());
        self.p.add_buffer(&label, f.dtype.carrier(), elements(f), BufferKind::Arena(None))
    }

    /// The buffer that `v` is written to by whoever makes it.
    fn result(&mut self, scope: &mut Scope<'_>, v: ValueId) -> BufferId {
        if let Some(id) = scope.begun(v) {
            scope.buffers.insert(v, id);
            return id;
        }
        if let Some(whole) = scope.borders.get(&v).and_then(|b| b.within) {
            let id = self.result(scope, whole);
            scope.buffers.insert(v, id);
            return id;
        }
        let fact = scope.graph.fact(v);
        let id = match scope.homes.get(&v) {
            None => {
                let label = format!("t{}", self.p.buffers.len());
                let n = length(scope.graph, &scope.borders, v);
                self.p.add_buffer(&label, fact.dtype.carrier(), n, BufferKind::Arena(None))
            }
            Some(Home::Buffer(id)) => *id,
            Some(Home::Output(k)) => match self.outputs[*k] {
                Some(id) => id,
                None => {
                    let name = &scope.graph.outputs()[*k].0;
                    let id = self.p.add_buffer(
                        name,
                        fact.dtype.carrier(),
                        elements(fact),
                        BufferKind::Output(self.numbers[*k]),
                    );
                    *self.outputs[*k].insert(id)
                }
            },
        };
        scope.buffers.insert(v, id);
        id
    }

    /// The buffer of `v`; constants get theirs when they are first read.
    fn buffer_of(&mut self, scope: &mut Scope<'_>, v: ValueId) -> BufferId {
        let v = root(scope.graph, v);
        if let Some(id) = scope.buffers.get(&v) {
            return *id;
        }
        let fact = scope.graph.fact(v);
        let (label, kind) = match &scope.graph.node(v.node).kind {
            NodeKind::Weight(name, t) if name.is_empty() => {
                (format!("w{}", self.p.buffers.len()), BufferKind::Const(t.carried()))
            }
            NodeKind::Weight(name, t) => (name.clone(), BufferKind::Const(t.carried())),
            // Groups come in an order in which they can run, so this is a value nobody makes: the verifier reports it.
            _ => (format!("t{}", self.p.buffers.len()), BufferKind::Arena(None)),
        };
        let id = self.p.add_buffer(&label, fact.dtype.carrier(), elements(fact), kind);
        scope.buffers.insert(v, id);
        id
    }

    /// The steps of a graph.
    fn block(&mut self, scope: &mut Scope<'_>) -> Result<Vec<Step>, PassError> {
        let (graph, state) = (scope.graph, scope.state);
        let mut pending: BTreeMap<Path, Vec<Step>> = BTreeMap::new();
        // Most kernels depend on nothing but their group: they are made first, all at once.
        let borders = &scope.borders;
        let made: Vec<Option<Lowered>> = state
            .groups
            .par_iter()
            .with_max_len(1)
            .map(|g| match graph.op(g.anchor) {
                Some(Op::Branch(_) | Op::Repeat(_)) => None,
                _ => Some(lower_group(graph, g, borders, false)),
            })
            .collect();
        for (g, made) in state.groups.iter().zip(made) {
            let path = scope.gates.path(g.last());
            let loc = location(graph, g);
            let steps = match graph.op(g.anchor) {
                Some(Op::Branch(_)) => vec![self.branch(scope, g.anchor, &path, &mut pending, loc)],
                Some(Op::Repeat(op)) => self.repeat(scope, g.anchor, op, loc)?,
                _ => {
                    let node = g.last();
                    let begun = scope.begun(ValueId { node, port: 0 }).is_some();
                    let (kernel, reads) = match made.filter(|_| !begun) {
                        Some(made) => made?,
                        None => lower_group(graph, g, &scope.borders, begun)?,
                    };
                    // All parts are where they are to be.
                    if begun && kernel.body.is_empty() {
                        continue;
                    }
                    let mut args: Vec<BufferId> = reads.iter().map(|v| self.buffer_of(scope, *v)).collect();
                    for port in 0..graph.node(node).facts.len() as u16 {
                        args.push(self.result(scope, ValueId { node, port }));
                    }
                    for b in kernel.buffers.iter().filter(|b| b.access == Access::Scratch) {
                        let label = format!("t{}", self.p.buffers.len());
                        args.push(self.p.add_buffer(&label, b.dtype, b.len, BufferKind::Arena(None)));
                    }
                    vec![self.call(kernel, args, loc)]
                }
            };
            pending.entry(path).or_default().extend(steps);
        }
        Ok(pending.remove(&Path::new()).unwrap_or_default())
    }

    fn call(&mut self, kernel: Kernel, args: Vec<BufferId>, loc: Loc) -> Step {
        let kernel = share(&mut self.p, &mut self.seen, kernel);
        Step::Call(Call { kernel, args, loc })
    }

    fn branch(
        &mut self,
        scope: &mut Scope<'_>,
        id: NodeId,
        path: &Path,
        pending: &mut BTreeMap<Path, Vec<Step>>,
        loc: Loc,
    ) -> Step {
        let operands = scope.graph.operands(id);
        let n = scope.graph.node(id).facts.len();
        let cond = self.buffer_of(scope, operands[0]);
        let results: Vec<BufferId> =
            (0..n as u16).map(|port| self.result(scope, ValueId { node: id, port })).collect();
        let mut side = |first: usize, taken: bool| {
            let mut here = path.clone();
            here.push((id, taken));
            let mut steps = pending.remove(&here).unwrap_or_default();
            for (v, to) in operands[first..first + n].iter().zip(&results) {
                let from = self.buffer_of(scope, *v);
                steps.extend(self.copy(from, *to, &loc));
            }
            steps
        };
        let (then, otherwise) = (side(1, true), side(1 + n, false));
        Step::If(If { cond, then, otherwise, loc })
    }

    /// Copies a buffer, unless it is the same or empty.
    fn copy(&mut self, from: BufferId, to: BufferId, loc: &Loc) -> Option<Step> {
        let (dtype, n) = (self.p.buffer(from).dtype, self.p.buffer(from).len);
        if from == to || n == 0 {
            return None;
        }
        let mut b = KernelBuilder::new("copy");
        let x = b.buffer("x", dtype, n, Access::In);
        let y = b.buffer("y", dtype, n, Access::Out);
        b.parfor("i", n, |b, i| b.store(y, i.clone(), Expr::load(x, i)));
        Some(self.call(b.finish(), vec![from, to], loc.clone()))
    }

    fn repeat(&mut self, scope: &mut Scope<'_>, id: NodeId, op: &Repeat, loc: Loc) -> Result<Vec<Step>, PassError> {
        let internal = |m: &str| PassError::Internal { pass: "lower".into(), message: format!("loop at {loc}: {m}") };
        let inner = scope.state.regions.get(&id).ok_or_else(|| internal("its body has not been grouped"))?;
        let body = &inner.graph;
        let operands = scope.graph.operands(id);
        let mut steps = vec![];

        // Before: first values, and rows of zeros, which a loop that ends early leaves.
        let results: Vec<BufferId> = (0..scope.graph.node(id).facts.len() as u16)
            .map(|port| self.result(scope, ValueId { node: id, port }))
            .collect();
        let (carried, stacked) = results.split_at(op.carried);
        for (v, to) in operands[2..].iter().zip(carried) {
            let from = self.buffer_of(scope, *v);
            steps.extend(self.copy(from, *to, &loc));
        }
        for to in stacked {
            steps.extend(self.zeros(*to, &loc));
        }
        let always = |g: &Graph, v: ValueId| g.weight(v).is_some_and(|t| t.get(0).as_int() != 0);
        let more = body.outputs()[0].1;
        let endless = scope.graph.weight(operands[0]).is_some_and(|t| t.get(0).as_int() == i128::from(i64::MAX));
        let cond = if always(body, more) && always(scope.graph, operands[1]) {
            None
        } else {
            let cond = self.temporary(&Fact::of(DType::Bool, &[]));
            let from = self.buffer_of(scope, operands[1]);
            steps.extend(self.copy(from, cond, &loc));
            Some(cond)
        };
        let trip = if endless && cond.is_some() { None } else { Some(self.buffer_of(scope, operands[0])) };

        // The body.
        let mut here = Scope::new(inner);
        let inputs: Vec<ValueId> = body.inputs().iter().map(|&node| ValueId { node, port: 0 }).collect();
        let counts = body.use_count(inputs[0]) > 0 || !stacked.is_empty();
        let iter = counts.then(|| self.temporary(&Fact::of(DType::I64, &[])));
        here.buffers.extend(iter.map(|id| (inputs[0], id)));
        here.buffers.extend(inputs[1..].iter().copied().zip(carried.iter().copied()));
        for (v, outer) in inputs[1 + op.carried..].iter().zip(&operands[2 + op.carried..]) {
            let id = self.buffer_of(scope, *outer);
            here.buffers.insert(*v, id);
        }
        self.branch_homes(&mut here);
        let mut repeated = self.block(&mut here)?;

        // After each iteration: rows first, while the carried variables hold what this iteration began with.
        let made: Vec<BufferId> = body.outputs()[1..].iter().map(|(_, v)| self.buffer_of(&mut here, *v)).collect();
        let (next, rows) = made.split_at(op.carried);
        for (from, to) in rows.iter().zip(stacked) {
            if let Some(iter) = iter {
                repeated.extend(self.row(*from, iter, *to, &loc));
            }
        }
        self.move_all(next, carried, &mut repeated, &loc);
        if let Some(to) = cond {
            let from = self.buffer_of(&mut here, more);
            repeated.extend(self.copy(from, to, &loc));
        }
        steps.push(Step::Loop(Loop { iter, trip, cond, body: repeated, loc }));
        Ok(steps)
    }

    /// Copies all of `from` to `to` at once: what takes the value of another one of `to` takes it through a third place.
    fn move_all(&mut self, from: &[BufferId], to: &[BufferId], steps: &mut Vec<Step>, loc: &Loc) {
        let mut moves = vec![];
        for (from, place) in from.iter().zip(to) {
            let mut from = *from;
            if from != *place && to.contains(&from) {
                let b = self.p.buffer(from);
                let through = self.temporary(&Fact::of(b.dtype, &[b.len]));
                steps.extend(self.copy(from, through, loc));
                from = through;
            }
            moves.push((from, *place));
        }
        for (from, place) in moves {
            steps.extend(self.copy(from, place, loc));
        }
    }

    /// Puts what the next run is to find in its place.
    fn keep(&mut self, scope: &mut Scope<'_>, steps: &mut Vec<Step>, pairs: &[(ValueId, usize)]) {
        let from: Vec<BufferId> =
            pairs.iter().map(|(_, k)| self.buffer_of(scope, scope.graph.outputs()[*k].1)).collect();
        let to: Vec<BufferId> = pairs.iter().map(|(v, _)| scope.buffers[v]).collect();
        self.move_all(&from, &to, steps, &Loc::new("state"));
    }

    fn zeros(&mut self, to: BufferId, loc: &Loc) -> Option<Step> {
        let (dtype, n) = (self.p.buffer(to).dtype, self.p.buffer(to).len);
        if n == 0 {
            return None;
        }
        let mut b = KernelBuilder::new("zeros");
        let y = b.buffer("y", dtype, n, Access::Out);
        b.parfor("i", n, |b, i| b.store(y, i, Expr::Const(Scalar::of_int(dtype, 0))));
        Some(self.call(b.finish(), vec![to], loc.clone()))
    }

    /// Writes row number `iter` of `to`.
    fn row(&mut self, from: BufferId, iter: BufferId, to: BufferId, loc: &Loc) -> Option<Step> {
        let (dtype, n, all) = (self.p.buffer(from).dtype, self.p.buffer(from).len, self.p.buffer(to).len);
        if n == 0 || all < n {
            return None;
        }
        let mut b = KernelBuilder::new("row");
        let x = b.buffer("x", dtype, n, Access::In);
        let i = b.buffer("i", DType::I64, 1, Access::In);
        let y = b.buffer("y", dtype, all, Access::InOut);
        let at = Expr::load(i, Expr::int(0)).clamp(0, (all / n) as i64 - 1);
        let at = b.bind("at", at * n);
        b.parfor("j", n, |b, j| b.store(y, at.clone() + j.clone(), Expr::load(x, j)));
        Some(self.call(simplify_kernel(b.finish()), vec![from, iter, to], loc.clone()))
    }

    /// Outputs that no kernel writes (inputs, weights, and second names of one value) are copied.
    fn finish_outputs(&mut self, scope: &mut Scope<'_>, steps: &mut Vec<Step>, is_kept: &dyn Fn(usize) -> bool) {
        for (k, (name, v)) in scope.graph.outputs().iter().enumerate().filter(|(k, _)| !is_kept(*k)) {
            let fact = scope.graph.fact(*v).clone();
            self.p.outputs.push(Io { name: name.clone(), fact: fact.clone() });
            if self.outputs[k].is_some() {
                continue;
            }
            let from = self.buffer_of(scope, *v);
            let to =
                self.p.add_buffer(name, fact.dtype.carrier(), elements(&fact), BufferKind::Output(self.numbers[k]));
            self.outputs[k] = Some(to);
            steps.extend(self.copy(from, to, &Loc::new(name)));
        }
    }
}

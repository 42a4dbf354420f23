//! Groups → structured kernels.
//!
//! Each group's anchor writes its kernel through a [`LowerCx`] whose readers compute inlined producers and whose writer
//! applies the epilogue. Views share buffers. Equal kernels are shared.

use crate::PassError;
use crate::group::{Group, root};
use crate::halo::Border;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use tenon_base::{Diagnostic, Fact, Loc};
use tenon_ir::lower::{Ranges, Reader, Writer, fill_border, flatten, move_element, pointwise_element, unflatten};
use tenon_ir::ops::transpose::Transpose;
use tenon_ir::{Graph, LowerCx, NodeId, Op, OpClass, Operator, ValueId};
use tenon_kernel::{
    Access, Buf, Expr, Kernel, KernelBuilder, Program, Stmt,
    simplify::{simplify_index, simplify_kernel},
};

/// The values that one kernel reads and writes, in parameter order.
#[derive(Default)]
struct Params {
    /// Declared before lowering, so that readers know their buffer.
    reads: Vec<(ValueId, Buf)>,
}

impl Params {
    fn of(&self, v: ValueId) -> Option<Buf> {
        self.reads.iter().find(|(r, _)| *r == v).map(|(_, b)| *b)
    }
}

/// Elements of a value whose shape is known.
pub(crate) fn elements(f: &Fact) -> usize {
    f.dims().map_or(0, |d| d.iter().product())
}

/// Elements of the buffer of `v`, with its border.
pub(crate) fn length(graph: &Graph, borders: &BTreeMap<ValueId, Border>, v: ValueId) -> usize {
    borders.get(&v).map_or_else(|| elements(graph.fact(v)), Border::len)
}

/// Where kernels of a list are that are like each other at first sight: parameters' lengths, and how many variables.
#[derive(Default)]
pub(crate) struct Distinct(BTreeMap<(Vec<usize>, usize), Vec<usize>>);

impl Distinct {
    /// The kernel of `all` that differs from `kernel` in no more than its name; without one, `kernel` is to become the next of `all`.
    pub(crate) fn find(&mut self, all: &[Kernel], kernel: &Kernel) -> Option<usize> {
        let alike = self.0.entry((kernel.buffers.iter().map(|b| b.len).collect(), kernel.vars.len())).or_default();
        let found = alike.iter().copied().find(|i| all[*i].equals_but_for_name(kernel));
        if found.is_none() {
            alike.push(all.len());
        }
        found
    }
}

/// Adds `kernel`, or finds one equal but for its name.
pub(crate) fn share(p: &mut Program, seen: &mut Distinct, mut kernel: Kernel) -> usize {
    if let Some(i) = seen.find(&p.kernels, &kernel) {
        return i;
    }
    let i = p.kernels.len();
    kernel.name = format!("{}_{i}", kernel.name);
    p.kernels.push(kernel);
    i
}

pub(crate) fn location(graph: &Graph, g: &Group) -> Loc {
    let names: Vec<&str> =
        std::iter::once(&g.anchor).chain(&g.epilogue).filter_map(|n| graph.node(*n).loc.name()).collect();
    if names.is_empty() { Loc::none() } else { Loc::new(names.join(" + ")) }
}

/// Every value from outside that the group reads, each once, in a fixed order.
pub(crate) fn external_reads(graph: &Graph, g: &Group) -> Vec<ValueId> {
    let inside: Vec<NodeId> = g.nodes().collect();
    let mut reads = vec![];
    for n in &inside {
        for operand in graph.operands(*n) {
            let v = root(graph, operand);
            if !inside.contains(&v.node) && !reads.contains(&v) {
                reads.push(v);
            }
        }
    }
    reads
}

/// The kernel of group `g` and what it reads. `begun` says that parts of its result's buffer were written before.
pub(crate) fn lower_group(
    graph: &Graph,
    g: &Group,
    borders: &BTreeMap<ValueId, Border>,
    begun: bool,
) -> Result<(Kernel, Vec<ValueId>), PassError> {
    let node = graph.node(g.anchor);
    let fail = |message: String| {
        let op = graph.op(g.anchor).map_or("", |o| o.name());
        PassError::Model(Diagnostic::error(message).at(node.loc.clone(), op).into())
    };
    let Some(op) = graph.op(g.anchor) else { return Err(fail("not an operator".into())) };
    let mut k = KernelBuilder::new(op.name());
    let last = g.last();
    let written = |v: &ValueId| borders.get(v).and_then(|b| b.within) == Some(ValueId { node: last, port: 0 });
    let mut reads = external_reads(graph, g);
    reads.retain(|v| !written(v));
    let mut params = Params::default();
    for (i, v) in reads.iter().enumerate() {
        let f = graph.fact(*v);
        let b = k.buffer(&format!("x{i}"), f.dtype.carrier(), length(graph, borders, *v), Access::In);
        params.reads.push((*v, b));
    }
    let mut outs = vec![];
    let mut around = vec![];
    let access = if begun { Access::InOut } else { Access::Out };
    for (i, f) in graph.node(last).facts.iter().enumerate() {
        let v = ValueId { node: last, port: i as u16 };
        let buf = k.buffer(&format!("y{i}"), f.dtype.carrier(), length(graph, borders, v), access);
        let border = borders.get(&v);
        if let Some(b) = border.filter(|b| b.within.is_none()) {
            let fill = Expr::constant(f.dtype.carrier(), b.fill as f64);
            around.append(&mut k.block(|k| fill_border(k, buf, &b.dims, &b.before, &b.inner, &fill)));
        }
        outs.push((buf, border));
    }
    let problem: Rc<RefCell<Option<String>>> = Rc::default();
    let ranges = Ranges::default();
    let (shared, known) = (problem.clone(), ranges.clone());
    let cx = Fuse { graph, group: g, params: &params, borders, ranges: known, problem: shared };
    let operands = graph.operands(g.anchor);
    let ins: Vec<Fact> = operands.iter().map(|v| graph.fact(*v).clone()).collect();
    let readers: Vec<Reader<'_>> = operands
        .iter()
        .map(|&v| {
            let cx = cx.clone();
            Box::new(move |flat: Expr| cx.read(v, flat)) as Reader<'_>
        })
        .collect();
    let writers: Vec<Writer<'_>> = outs
        .iter()
        .map(|&(buf, border)| {
            let cx = cx.clone();
            Box::new(move |flat: Expr, value: Expr| {
                let (flat, value) = cx.epilogue(flat, value);
                (buf, border.map_or(flat.clone(), |b| b.at(&flat)), value)
            }) as Writer<'_>
        })
        .collect();
    let mut lcx =
        LowerCx::new(op, &ins, &node.facts, readers, writers, ranges, k).map_err(|e| fail(e.to_string()))?;
    let halo = |v: &ValueId| {
        let root = root(graph, *v);
        // A view with other extents has no border along its own axes.
        let border = borders.get(&root).filter(|_| graph.fact(*v).shape == graph.fact(root).shape)?;
        border.halo(params.of(root)?)
    };
    lcx = lcx.with_halos(operands.iter().map(halo).collect());
    lcx = lcx.with_written(operands.iter().map(written).collect());
    op.lower(&mut lcx).map_err(|e| fail(e.to_string()))?;
    let kernel = lcx.finish();
    if let Some(message) = problem.borrow_mut().take() {
        return Err(fail(message));
    }
    let mut kernel = simplify_kernel(kernel);
    kernel.in_place = in_place(&kernel);
    // An operand in the same place has the same border.
    kernel.body.splice(0..0, around);
    Ok((kernel, reads))
}

/// Pairs (operand, result) of one size where every element of the operand is read only to compute the same element of
/// the result.
fn in_place(kernel: &Kernel) -> Vec<(Buf, Buf)> {
    let bufs = |access| (0..kernel.buffers.len() as u32).map(Buf).filter(move |b| kernel.buffer(*b).access == access);
    let mut pairs = vec![];
    for y in bufs(Access::Out) {
        for x in bufs(Access::In) {
            let (bx, by) = (kernel.buffer(x), kernel.buffer(y));
            if bx.len == by.len && bx.dtype.size() == by.dtype.size() && only_at_its_place(kernel, x, y) {
                pairs.push((x, y));
            }
        }
    }
    pairs
}

fn only_at_its_place(kernel: &Kernel, x: Buf, y: Buf) -> bool {
    let mut ok = true;
    let mut stores = 0;
    let mut check = |e: &Expr, place: Option<&Expr>| {
        e.visit(&mut |e| {
            if let Expr::Load { buf, index, .. } = e {
                ok &= *buf != y && (*buf != x || place == Some(&**index));
            }
        });
    };
    tenon_kernel::stmt::visit_stmts(&kernel.body, &mut |s| match s {
        Stmt::Store { buf, index, value } => {
            stores += usize::from(*buf == y);
            check(index, None);
            check(value, (*buf == y).then_some(index));
        }
        Stmt::Contract(c) => {
            stores += usize::from(c.out == y);
            [&c.init, &c.a, &c.b, &c.out_index].into_iter().for_each(|e| check(e, None));
            check(&c.value, (c.out == y).then_some(&c.out_index));
        }
        s => s.exprs(&mut |e| check(e, None)),
    });
    // A second store would see the first one's result; so would a loop around the store that does not move it, which
    // the index tells: every iteration of a `parfor` stores elsewhere, and operators store from nothing else.
    ok && stores == 1 && kernel.body.iter().all(stores_once)
}

/// Whether no sequential loop stands around a store.
fn stores_once(s: &Stmt) -> bool {
    match s {
        Stmt::For { parallel: true, body, .. } => body.iter().all(stores_once),
        Stmt::For { body, .. } | Stmt::While { body, .. } => {
            let mut any = false;
            tenon_kernel::stmt::visit_stmts(body, &mut |s| {
                any |= matches!(s, Stmt::Store { .. } | Stmt::Contract(_))
            });
            !any
        }
        _ => true,
    }
}

/// Computes fused elements.
#[derive(Clone)]
struct Fuse<'a> {
    graph: &'a Graph,
    group: &'a Group,
    params: &'a Params,
    borders: &'a BTreeMap<ValueId, Border>,
    /// What is known of loop variables.
    ranges: Ranges,
    /// The first thing that went wrong inside a reader or writer, which cannot fail themselves.
    problem: Rc<RefCell<Option<String>>>,
}

impl Fuse<'_> {
    /// The element of `v` at row-major index `flat`: from memory, or computed where it is inlined.
    fn read(&self, v: ValueId, flat: Expr) -> Expr {
        let v = root(self.graph, v);
        if let Some(buf) = self.params.of(v) {
            return Expr::load(buf, self.borders.get(&v).map_or(flat.clone(), |b| b.at(&flat)));
        }
        let dtype = self.graph.fact(v).dtype.carrier();
        let element = if self.group.inlined.contains(&v.node) { self.compute(v.node, &flat) } else { None };
        element.unwrap_or_else(|| {
            let op = self.graph.op(v.node).map_or("?", |o| o.name());
            self.problem.borrow_mut().get_or_insert_with(|| format!("{op} cannot be computed in place"));
            Expr::constant(dtype, 0.0)
        })
    }

    fn compute(&self, n: NodeId, flat: &Expr) -> Option<Expr> {
        let op = self.graph.op(n)?;
        let operands = self.graph.operands(n);
        let ins: Vec<Fact> = operands.iter().map(|v| self.graph.fact(*v).clone()).collect();
        let out = &self.graph.node(n).facts[0];
        // Each move uses the index once an axis: simplified at every step, it stays small however many there are.
        let flat = &simplify_index(flat.clone(), &|v| self.ranges.borrow().get(&v).copied());
        let index = unflatten(flat, &out.dims()?);
        match op.class() {
            OpClass::Pointwise => pointwise_element(op, &ins, out, &index, &|i, at| {
                let same = ins[i].shape == out.shape;
                self.read(operands[i], if same { flat.clone() } else { at })
            }),
            OpClass::Move => move_element(op, &ins, out, &index, &|at| self.read(operands[0], at)),
            _ => None,
        }
    }

    /// What is stored in place of the anchor's element `value` at `flat`, and where.
    fn epilogue(&self, mut flat: Expr, value: Expr) -> (Expr, Expr) {
        let mut known: BTreeMap<NodeId, Expr> = BTreeMap::from([(self.group.anchor, value.clone())]);
        let mut last = value;
        for &n in &self.group.epilogue {
            if let Some(Op::Transpose(t)) = self.graph.op(n) {
                // The element goes elsewhere; all that follows reads there.
                match self.transposed(&flat, t, n) {
                    Some(to) => flat = to,
                    None => self.fail(n),
                }
            } else {
                match self.epilogue_element(n, &flat, &known) {
                    Some(e) => last = e,
                    None => self.fail(n),
                }
            }
            known.insert(n, last.clone());
        }
        (flat, last)
    }

    /// The place in the result of transpose `n` of the element at `flat` of its operand.
    fn transposed(&self, flat: &Expr, t: &Transpose, n: NodeId) -> Option<Expr> {
        let from = self.graph.fact(self.graph.operands(n)[0]).dims()?;
        let to = self.graph.node(n).facts[0].dims()?;
        let index = unflatten(flat, &from);
        let moved: Vec<Expr> = t.perm.iter().map(|&a| index[a].clone()).collect();
        let flat = flatten(&moved, &to);
        Some(simplify_index(flat, &|v| self.ranges.borrow().get(&v).copied()))
    }

    fn fail(&self, n: NodeId) {
        let op = self.graph.op(n).map_or("?", |o| o.name());
        self.problem.borrow_mut().get_or_insert_with(|| format!("{op} cannot be fused"));
    }

    fn epilogue_element(&self, n: NodeId, flat: &Expr, known: &BTreeMap<NodeId, Expr>) -> Option<Expr> {
        let op = self.graph.op(n)?;
        let operands = self.graph.operands(n);
        let ins: Vec<Fact> = operands.iter().map(|v| self.graph.fact(*v).clone()).collect();
        let out = &self.graph.node(n).facts[0];
        let dims = out.dims()?;
        let index = unflatten(flat, &dims);
        debug_assert!(dims.is_empty() || flatten(&index, &dims) != Expr::int(-1));
        pointwise_element(op, &ins, out, &index, &|i, at| {
            let v = root(self.graph, operands[i]);
            if let Some(e) = known.get(&v.node) {
                return e.clone();
            }
            let same = ins[i].shape == out.shape;
            self.read(v, if same { flat.clone() } else { at })
        })
    }
}

//! Bounded dimensions: one compile for every size up to a bound.
//!
//! The importer leaves a bounded dimension a symbol, so every shape of the graph is exact: an expression of the sizes of a run. This
//! pass makes of it a graph of known shapes, in which every symbol has its bound. A value then has room for the largest, and
//! beyond the end that a run has along an axis lies anything: operators that take one element for one, or work along other
//! axes, need not know. Those that would look beyond the end — sums, softmax, products along the axis, borders of convolutions —
//! are told where it is: what they read is masked by the element that changes nothing (`operators.rs` has one arm an operator). The
//! sizes of a run are inputs of one `i64` each, named as the dimensions, and what a model computes of its shapes is computed of them.
//!
//! An extent that data decide (`cut`) is such a symbol, too: its bound is what its operand has room for, its size the count of the run.
//!
//! Inputs and outputs lie in memory as those of the largest size: element `[i, j]` is where it is in the array of the largest. An
//! output with such an axis is sized by another one, `<name>_dims`, as results are whose extents depend on data.

mod operators;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use tenon_base::{DType, Dim, Fact, Loc, Scalar, Shape, Tensor};
use tenon_ir::{Attr, Attrs, Graph, NodeId, NodeKind, Op, Operator, ValueId};

/// Why a graph cannot be compiled for bounded dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundError {
    /// No input has the dimension.
    Unknown(String),
    /// The bound is below 1.
    Bound(String, i64),
    /// An operator whose result depends on where an axis ends, in a way that is not supported.
    Operator {
        /// The node.
        loc: Loc,
        /// Its operator.
        op: String,
        /// What it does.
        why: String,
    },
    /// Operands that do not fit each other at the bounds: dimensions that are always equal have different bounds.
    Operands {
        /// The node.
        loc: Loc,
        /// What does not fit.
        message: String,
    },
    /// A shape that is not largest where the dimensions are.
    Shape {
        /// The node.
        loc: Loc,
        /// The shape.
        shape: Shape,
    },
    /// Dimensions that are neither pinned nor bounded.
    Free(Vec<String>),
    /// An input has the name of a dimension.
    Name(String),
    /// No size up to the bound gives every value an element.
    Empty(String),
    /// A bug.
    Internal(String),
}

impl fmt::Display for BoundError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BoundError::Unknown(n) => write!(f, "dimension `{n}` is bounded, but no input has it"),
            BoundError::Bound(n, b) => write!(f, "dimension `{n}` cannot be bounded by {b}: expected 1 or more"),
            BoundError::Operator { loc, op, why } => write!(
                f,
                "{op} at {loc}: {why}, which is not supported along a bounded dimension; pin it (`--dim NAME=N`) instead"
            ),
            BoundError::Operands { loc, message } => {
                write!(f, "{loc}: at the bounds, {message}; dimensions that are always equal need one bound")
            }
            BoundError::Shape { loc, shape } => write!(
                f,
                "{loc}: the shape {shape} does not grow with its dimensions, so no bound of them bounds it; pin them instead"
            ),
            BoundError::Free(names) => write!(
                f,
                "the dimensions {} are not known; pin them (`--dim NAME=N`) or bound them (`--dim 'NAME<=N'`), too",
                names.join(", ")
            ),
            BoundError::Name(n) => {
                write!(f, "dimension `{n}` is bounded, but an input has its name; rename the dimension")
            }
            BoundError::Empty(n) => {
                write!(f, "dimension `{n}`: some value has no element even at the bound; raise it")
            }
            BoundError::Internal(m) => write!(f, "internal error in pass `bounded` (please report it): {m}"),
        }
    }
}
impl std::error::Error for BoundError {}

/// A bounded dimension of a compiled graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Its name, and that of the input that tells its size.
    pub name: String,
    /// The smallest size for which every value has an element.
    pub least: i64,
    /// The largest.
    pub most: i64,
}

/// What was bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounded {
    /// The dimensions, in the order of their inputs, which follow the model's own.
    pub dims: Vec<Bound>,
    /// The shapes of the model's own inputs, by name.
    pub inputs: BTreeMap<String, Shape>,
    /// The shapes of the model's own outputs that differ from run to run, by name.
    pub outputs: BTreeMap<String, Shape>,
}

/// `graph` for all sizes of the dimensions `bounds` up to their bounds.
///
/// # Errors
/// What an operator cannot, or a dimension that no input has.
pub fn bound(graph: &Graph, bounds: &BTreeMap<String, i64>) -> Result<(Graph, Bounded), BoundError> {
    let mut cx = Cx {
        old: graph,
        new: Graph::new(graph.name.clone()),
        bounds: bounds.clone(),
        cuts: BTreeMap::new(),
        shapes: BTreeMap::new(),
        map: BTreeMap::new(),
        values: BTreeMap::new(),
        loc: Loc::none(),
    };
    let order = graph.topological().map_err(|e| BoundError::Internal(e.to_string()))?;
    cx.find_cuts(&order)?;
    for id in graph.nodes() {
        for (port, f) in graph.node(id).facts.iter().enumerate() {
            let shape = Shape(f.shape.0.iter().map(|d| cx.simpler(d)).collect());
            cx.shapes.insert(ValueId { node: id, port: port as u16 }, shape);
        }
    }
    let mut bounded = Bounded::default();
    let mut used = BTreeSet::new();
    for &id in graph.inputs() {
        let v = ValueId { node: id, port: 0 };
        let NodeKind::Input(name) = &graph.node(id).kind else { continue };
        let fact = graph.fact(v);
        fact.shape.0.iter().for_each(|d| d.symbols(&mut used));
        bounded.inputs.insert(name.clone(), fact.shape.clone());
        let new = cx.new.add_input(name.clone(), Fact::new(fact.dtype, cx.largest(&fact.shape)?));
        cx.map.insert(v, new);
    }
    for (name, &most) in bounds {
        if most < 1 {
            return Err(BoundError::Bound(name.clone(), most));
        }
        if !used.contains(name.as_str()) {
            return Err(BoundError::Unknown(name.clone()));
        }
        if bounded.inputs.contains_key(name) {
            return Err(BoundError::Name(name.clone()));
        }
        let v = cx.new.add_input(name.clone(), Fact::of(DType::I64, &[]));
        cx.values.insert(Dim::sym(name), v);
        bounded.dims.push(Bound { name: name.clone(), least: cx.least(name, most)?, most });
    }
    for id in cx.after_cuts(&order) {
        cx.node(id)?;
    }
    cx.outputs()?;
    for (name, v) in graph.outputs() {
        let shape = cx.shape(*v);
        // Of one that data decide about, only `<name>_dims` can tell.
        if shape.0.iter().any(|d| d.as_const().is_none()) && !shape.0.iter().any(|d| cx.is_counted(d)) {
            bounded.outputs.insert(name.clone(), shape.clone());
        }
    }
    cx.new.remove_dead();
    Ok((cx.new, bounded))
}

/// Whether `graph` has extents that data decide, and so has to be bounded whether or not it has bounded dimensions.
pub fn has_counts(graph: &Graph) -> bool {
    graph.nodes().any(|id| match graph.op(id) {
        Some(Op::Cut(_)) => true,
        Some(Op::Repeat(r)) => has_counts(r.body.graph()),
        _ => false,
    })
}

/// The two graphs.
struct Cx<'a> {
    old: &'a Graph,
    new: Graph,
    bounds: BTreeMap<String, i64>,
    /// The nodes that give symbols which data decide their meaning.
    cuts: BTreeMap<Arc<str>, NodeId>,
    /// Shapes of the old graph's values, simplified by what the bounds say.
    shapes: BTreeMap<ValueId, Shape>,
    /// Values of the old graph in the new one.
    map: BTreeMap<ValueId, ValueId>,
    /// What expressions of sizes are in a run: scalars of `i64`.
    values: BTreeMap<Dim, ValueId>,
    /// Of the node at work.
    loc: Loc,
}

impl Cx<'_> {
    /// The symbols of `cut` nodes, each bounded by what its operand has room for.
    fn find_cuts(&mut self, order: &[NodeId]) -> Result<(), BoundError> {
        for &id in order {
            let Some(Op::Cut(c)) = self.old.op(id) else { continue };
            let Some(Dim::Sym(name)) = c.to.0.get(c.axis) else { continue };
            let room = self.bounded(&self.old.fact(self.old.operands(id)[0]).shape.0[c.axis]);
            let mut free = BTreeSet::new();
            room.symbols(&mut free);
            let Some(most) = room.as_const() else {
                return Err(BoundError::Free(free.iter().map(ToString::to_string).collect()));
            };
            if self.bounds.get(&**name).is_some_and(|_| !self.cuts.contains_key(name)) {
                return Err(BoundError::Name(name.to_string()));
            }
            let bound = self.bounds.entry(name.to_string()).or_insert(most);
            *bound = most.max(*bound);
            self.cuts.entry(name.clone()).or_insert(id);
        }
        Ok(())
    }

    /// All nodes, each behind its operands and the counts that its shapes are made of.
    fn after_cuts(&self, order: &[NodeId]) -> Vec<NodeId> {
        let (mut done, mut all) = (BTreeSet::new(), vec![]);
        for &id in order {
            let mut work = vec![(id, false)];
            while let Some((id, ready)) = work.pop() {
                if ready {
                    all.push(id);
                } else if done.insert(id) {
                    work.push((id, true));
                    let mut symbols = BTreeSet::new();
                    let shapes = self.old.node(id).facts.iter().map(|f| &f.shape);
                    shapes.for_each(|s| s.0.iter().for_each(|d| d.symbols(&mut symbols)));
                    if let Some(Op::Symbolic(s)) = self.old.op(id) {
                        s.elements.0.iter().for_each(|d| d.symbols(&mut symbols));
                    }
                    let cuts = symbols.iter().filter_map(|s| self.cuts.get(s));
                    let first = self.old.operands(id).into_iter().map(|v| v.node).chain(cuts.copied());
                    work.extend(first.filter(|n| !done.contains(n)).map(|n| (n, false)));
                }
            }
        }
        all
    }

    /// Whether a count of data is in `d`, which may be 0.
    fn is_counted(&self, d: &Dim) -> bool {
        let mut symbols = BTreeSet::new();
        d.symbols(&mut symbols);
        symbols.iter().any(|s| self.cuts.contains_key(s))
    }

    fn bounded(&self, d: &Dim) -> Dim {
        d.substitute(&|n| self.bounds.get(n).copied())
    }

    /// `d` without the choices that the bounds make: `min(seq, 512)` is `seq` where that is at most 512.
    fn simpler(&self, d: &Dim) -> Dim {
        let ends = |d: &Dim| {
            let least = |n: &str| Some(i64::from(!self.cuts.contains_key(n)));
            let low = if grows(d) { d.substitute(&least).as_const() } else { None };
            (low, self.bounded(d).as_const())
        };
        let below = |a: &Dim, b: &Dim| a == b || ends(a).1.zip(ends(b).0).is_some_and(|(high, low)| high <= low);
        match d {
            Dim::Const(_) | Dim::Sym(_) => d.clone(),
            Dim::Sum(terms) => terms.iter().fold(Dim::Const(0), |sum, (atoms, by)| {
                let term = atoms.iter().fold(Dim::Const(*by), |p, a| p.mul(&self.simpler(a)));
                sum.add(&term)
            }),
            Dim::Div(p) => self.simpler(&p.0).div(&self.simpler(&p.1)),
            Dim::Min(p) | Dim::Max(p) => {
                let (a, b) = (self.simpler(&p.0), self.simpler(&p.1));
                match (below(&a, &b), below(&b, &a), d) {
                    (true, _, Dim::Min(_)) | (_, true, Dim::Max(_)) => a,
                    (true, _, _) | (_, true, _) => b,
                    (_, _, Dim::Min(_)) => a.smaller(&b),
                    _ => a.larger(&b),
                }
            }
        }
    }

    fn shape(&self, v: ValueId) -> &Shape {
        self.shapes.get(&v).unwrap_or(&self.old.fact(v).shape)
    }

    /// `shape` with every dimension at its bound.
    fn largest(&self, shape: &Shape) -> Result<Shape, BoundError> {
        let grows = shape.0.iter().map(|d| self.simpler(d)).all(|d| d.as_const().is_some() || grows(&d));
        let all = Shape(shape.0.iter().map(|d| self.bounded(d)).collect());
        let mut free = BTreeSet::new();
        all.0.iter().for_each(|d| d.symbols(&mut free));
        if !free.is_empty() {
            return Err(BoundError::Free(free.iter().map(ToString::to_string).collect()));
        }
        if !grows || all.to_usize().is_none() {
            return Err(BoundError::Shape { loc: self.loc.clone(), shape: shape.clone() });
        }
        Ok(all)
    }

    /// Whether the extent of axis `axis` of `v` differs from run to run.
    fn varies(&self, v: ValueId, axis: usize) -> bool {
        self.shape(v).0.get(axis).is_some_and(|d| d.as_const().is_none())
    }

    /// The smallest size of `name`, the other dimensions at their bounds, for which no value is empty.
    fn least(&self, name: &str, most: i64) -> Result<i64, BoundError> {
        let mut dims: BTreeSet<Dim> = BTreeSet::new();
        let symbol: Arc<str> = Arc::from(name);
        for d in self.shapes.values().flat_map(|s| &s.0) {
            let mut of = BTreeSet::new();
            d.symbols(&mut of);
            if of.contains(&symbol) {
                dims.insert(d.clone());
            }
        }
        let fits = |n: i64| {
            let at = |s: &str| if s == name { Some(n) } else { self.bounds.get(s).copied() };
            dims.iter().all(|d| d.substitute(&at).as_const().is_none_or(|c| c >= 1))
        };
        let (mut low, mut high) = (1, most);
        if !fits(most) {
            return Err(BoundError::Empty(name.to_string()));
        }
        while low < high {
            let middle = low + (high - low) / 2;
            if fits(middle) { high = middle } else { low = middle + 1 }
        }
        Ok(low)
    }

    fn weight(&mut self, t: Tensor) -> ValueId {
        self.new.add_weight("", t)
    }

    fn integer(&mut self, v: i64) -> ValueId {
        self.weight(Tensor::full(&[], Scalar::of_int(DType::I64, v.into())))
    }

    /// `op` over values of the new graph.
    fn op(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> Result<ValueId, BoundError> {
        let loc = self.loc.clone();
        let made = self.new.add_op(op, operands, loc).map_err(|e| BoundError::Internal(e.to_string()))?;
        Ok(made[0])
    }

    /// The operator without attributes that is called `name`.
    fn named(&mut self, name: &str, operands: &[ValueId]) -> Result<ValueId, BoundError> {
        let op = Op::parse(name, Attrs::default()).map_err(BoundError::Internal)?;
        self.op(op, operands)
    }

    fn cast(&mut self, v: ValueId, to: DType) -> Result<ValueId, BoundError> {
        if self.new.fact(v).dtype == to {
            Ok(v)
        } else {
            self.op(tenon_ir::ops::cast::Cast { to, saturate: None }, &[v])
        }
    }

    /// What `d` is in a run.
    fn value(&mut self, d: &Dim) -> Result<ValueId, BoundError> {
        if let Some(v) = self.values.get(d) {
            return Ok(*v);
        }
        let v = match d {
            Dim::Const(c) => self.integer(*c),
            Dim::Sym(name) => return Err(BoundError::Internal(format!("{name} is not bounded"))),
            Dim::Sum(terms) => {
                let mut sum: Option<ValueId> = None;
                for (atoms, by) in terms.iter() {
                    let mut term: Option<ValueId> = (*by != 1 || atoms.is_empty()).then(|| self.integer(*by));
                    for atom in atoms {
                        let a = self.value(atom)?;
                        term = Some(match term {
                            Some(t) => self.named("mul", &[t, a])?,
                            None => a,
                        });
                    }
                    let term = term.ok_or_else(|| BoundError::Internal("an empty term".into()))?;
                    sum = Some(match sum {
                        Some(s) => self.named("add", &[s, term])?,
                        None => term,
                    });
                }
                sum.ok_or_else(|| BoundError::Internal("an empty sum".into()))?
            }
            Dim::Div(p) => {
                let (a, b) = (self.value(&p.0)?, self.divisor(&p.1)?);
                self.named("div", &[a, b])?
            }
            Dim::Min(p) => self.pair("min", p)?,
            Dim::Max(p) => self.pair("max", p)?,
        };
        self.values.insert(d.clone(), v);
        Ok(v)
    }

    /// What `d` is in a run, where it divides: not 0, where nothing is there that anyone asks for.
    fn divisor(&mut self, d: &Dim) -> Result<ValueId, BoundError> {
        let v = self.value(d)?;
        if !self.is_counted(d) {
            return Ok(v);
        }
        let one = self.integer(1);
        self.named("max", &[v, one])
    }

    fn pair(&mut self, name: &str, p: &(Dim, Dim)) -> Result<ValueId, BoundError> {
        let (a, b) = (self.value(&p.0)?, self.value(&p.1)?);
        self.named(name, &[a, b])
    }

    /// `dims` as a vector.
    fn vector(&mut self, dims: &[Dim]) -> Result<ValueId, BoundError> {
        if dims.iter().all(|d| d.as_const().is_some()) {
            let v: Vec<i64> = dims.iter().filter_map(Dim::as_const).collect();
            return Ok(self.weight(Tensor::new(&[v.len()], &v)));
        }
        let mut all = vec![];
        for d in dims {
            let v = self.value(d)?;
            all.push(self.op(tenon_ir::ops::reshape::Reshape { to: Shape::of(&[1]) }, &[v])?);
        }
        self.op(tenon_ir::ops::concat::Concat { axis: 0 }, &all)
    }

    /// `[0, 1, …]` along `axis` of `rank` axes.
    fn iota(&mut self, n: usize, axis: usize, rank: usize) -> ValueId {
        let mut shape = vec![1; rank];
        shape[axis] = n;
        let all: Vec<i64> = (0..n as i64).collect();
        self.weight(Tensor::new(&shape, &all))
    }

    /// `v`, a value of the new graph, with `fill` from `end` on along `axis`.
    fn masked(&mut self, v: ValueId, axis: usize, end: &Dim, fill: f64) -> Result<ValueId, BoundError> {
        if end.as_const().is_some() {
            return Ok(v);
        }
        let fact = self.new.fact(v).clone();
        let dims = fact.dims().ok_or_else(|| BoundError::Internal("an extent is not known".into()))?;
        let end = self.value(end)?;
        let at = self.iota(dims[axis], axis, dims.len());
        let inside = self.named("less", &[at, end])?;
        let fill = match fact.dtype.int_range() {
            Some((low, high)) if fill.is_infinite() => {
                Scalar::of_int(fact.dtype, if fill < 0.0 { low } else { high })
            }
            _ => Scalar::of_f64(fact.dtype, fill),
        };
        let fill = self.weight(Tensor::full(&[], fill));
        self.op(tenon_ir::ops::where_::Where {}, &[inside, v, fill])
    }

    /// `op` with its shapes at the bounds.
    fn substituted(&self, op: &Op) -> Result<Op, BoundError> {
        let mut attrs = op.attrs();
        for a in attrs.0.values_mut() {
            if let Attr::Shape(s) = a {
                *s = self.largest(s)?;
            }
        }
        Op::parse(op.name(), attrs).map_err(BoundError::Internal)
    }

    fn node(&mut self, id: NodeId) -> Result<(), BoundError> {
        let node = self.old.node(id);
        self.loc = node.loc.clone();
        let results = match &node.kind {
            NodeKind::Input(_) => return Ok(()),
            NodeKind::Weight(name, t) => vec![self.new.add_weight(name.clone(), t.clone())],
            NodeKind::Op(op) => {
                let operands = self.old.operands(id);
                let mut ins = vec![];
                for v in &operands {
                    ins.push(*self.map.get(v).ok_or_else(|| BoundError::Internal("an operand is missing".into()))?);
                }
                self.operator(op, &operands, ins, &node.facts)?
            }
        };
        for (port, (v, fact)) in results.into_iter().zip(&node.facts).enumerate() {
            let expected = Fact::new(fact.dtype, self.largest(&fact.shape)?);
            if *self.new.fact(v) != expected {
                let found = self.new.fact(v);
                return Err(BoundError::Internal(format!("{}: a {fact} became a {found}", self.loc)));
            }
            self.map.insert(ValueId { node: id, port: port as u16 }, v);
        }
        Ok(())
    }

    fn outputs(&mut self) -> Result<(), BoundError> {
        let outputs = self.old.outputs().to_vec();
        let mut sizes = vec![];
        for (k, (name, v)) in outputs.iter().enumerate() {
            self.new.add_output(name.clone(), self.map[v]);
            let shape = self.shape(*v).clone();
            if shape.0.iter().any(|d| d.as_const().is_none()) {
                let mut label = format!("{name}_dims");
                while outputs.iter().any(|(n, _)| *n == label) {
                    label.push('_');
                }
                sizes.push((k, label, shape.0.clone()));
            }
        }
        for (k, by) in self.old.sized() {
            self.new.size_output(*k, *by);
            sizes.retain(|(j, ..)| j != k);
        }
        for (k, name, dims) in sizes {
            let by = self.vector(&dims)?;
            let position = self.new.outputs().len();
            self.new.add_output(name, by);
            self.new.size_output(k, position);
        }
        Ok(())
    }
}

/// Whether `d` is largest where its symbols are.
fn grows(d: &Dim) -> bool {
    match d {
        Dim::Const(c) => *c >= 0,
        Dim::Sym(_) => true,
        Dim::Sum(terms) => terms.iter().all(|(atoms, by)| atoms.is_empty() || (*by > 0 && atoms.iter().all(grows))),
        Dim::Div(p) => grows(&p.0) && p.1.as_const().is_some_and(|c| c > 0),
        Dim::Min(p) | Dim::Max(p) => grows(&p.0) && grows(&p.1),
    }
}

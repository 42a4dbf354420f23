//! The nodes of a graph, in order: names become values, nodes become operators.

use crate::attr::{self, Passed, domain, resolved};
use crate::control::built_in;
use crate::files::DataFiles;
use crate::import::{op_label, opsets};
use crate::info::{Known, Table};
use crate::level::Level;
use crate::limits::{MAX_DEPTH, MAX_FOLDED_BYTES, MAX_INLINED, MAX_NODES, check_dims, check_fact};
use crate::lists::value;
use crate::order::order;
use crate::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto,
};
use crate::report::{Report, shortened};
use crate::tensor::{dense_bytes, to_dense, to_tensor, typed_len};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use tenon_base::{Dim, Tensor};
use tenon_ir::ops::ImportFn;
use tenon_ir::{ImportError, OnnxNode, ValueId};

/// What the results of a node stand for; `None` when something has a problem that is already reported.
pub(crate) type Made<'p> = Result<Option<Vec<Slot<'p>>>, ImportError>;

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Slot<'p> {
    /// A value of the graph of the frame.
    Value(ValueId),
    /// A sequence: a position in [`Session::lists`].
    List(usize),
    /// An optional that is empty.
    Nothing,
    /// An initializer that nothing has used yet.
    Initializer(&'p TensorProto),
    /// A sparse initializer that nothing has used yet.
    Sparse(&'p SparseTensorProto),
    /// An operand of a function that its caller leaves out.
    Absent,
    /// Has a problem, or depends on something that has; already reported.
    Poisoned,
    /// Not defined.
    Missing,
}

/// The names of a graph, branch or function.
#[derive(Debug, Default)]
pub(crate) struct Frame<'p> {
    names: BTreeMap<&'p str, Slot<'p>>,
    /// How many graphs are around the one that its values are in.
    level: usize,
    /// Whether names that are not here are looked up in the frame below: so in branches, but not in functions.
    sees_outer: bool,
}

impl Frame<'_> {
    /// Without names.
    pub(crate) fn new(sees_outer: bool, level: usize) -> Self {
        Frame { names: BTreeMap::new(), level, sees_outer }
    }
}

/// Where nodes stand.
#[derive(Debug)]
pub(crate) struct Body<'p> {
    /// Versions by domain.
    pub(crate) opsets: Rc<BTreeMap<&'p str, i64>>,
    /// In functions: the attributes of the call.
    pub(crate) passed: Option<Rc<Passed<'p>>>,
    /// Put before the names of nodes: the caller's name.
    pub(crate) prefix: String,
    /// Functions and branches around it.
    pub(crate) depth: usize,
}

/// A node to import, with all that its import depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site<'a, 'p> {
    pub(crate) node: &'p NodeProto,
    /// Its attributes, those that refer to a function's call resolved.
    pub(crate) attrs: &'a Passed<'p>,
    pub(crate) operands: &'a [Slot<'p>],
    /// Its name, which no other node has.
    pub(crate) loc: &'a str,
    /// Where it stands.
    pub(crate) body: &'a Body<'p>,
}

impl<'p> Body<'p> {
    /// A subgraph of the node `loc` in this one; an error if that is nested too deeply.
    pub(crate) fn enter(&self, loc: &str) -> Result<Body<'p>, ImportError> {
        if self.depth >= MAX_DEPTH {
            return Err(ImportError::new(format!(
                "functions, branches and loops are nested more than {MAX_DEPTH} deep"
            ))
            .with_help("a function of the model may call itself, which ONNX does not allow"));
        }
        let (opsets, passed) = (self.opsets.clone(), self.passed.clone());
        Ok(Body { opsets, passed, prefix: format!("{loc}/"), depth: self.depth + 1 })
    }

    /// The main graph.
    pub(crate) fn main(model: &'p ModelProto) -> Body<'p> {
        Body { opsets: Rc::new(opsets(&model.opset_import)), passed: None, prefix: String::new(), depth: 0 }
    }
}

/// What an ONNX operator means.
#[derive(Debug)]
pub(crate) enum Meaning<'p> {
    /// Imported by an operator file.
    Import(ImportFn),
    /// `Constant`
    Constant,
    /// What [`built_in`] knows, but for `Constant`.
    Control,
    /// A function of the model.
    Function(&'p FunctionProto),
    /// Nothing: why, and what to try.
    Unsupported(String, &'static str),
}

/// The import of one model.
#[derive(Debug)]
pub(crate) struct Session<'p> {
    /// The graph that nodes are imported into.
    pub(crate) top: Level,
    /// The graphs around it, outermost first.
    pub(crate) outer: Vec<Level>,
    /// All sequences.
    pub(crate) lists: Vec<Vec<Slot<'p>>>,
    /// Inputs of one integer that must have this value: for another one the model cannot be computed.
    pub(crate) required: BTreeMap<String, i64>,
    /// What has gone wrong.
    pub(crate) report: Report,
    pub(crate) files: DataFiles,
    /// Innermost last.
    pub(crate) frames: Vec<Frame<'p>>,
    pub(crate) functions: BTreeMap<(&'p str, &'p str, &'p str), &'p FunctionProto>,
    table: &'static Table,
    /// Names given to nodes so far, with the next number for nodes of the same name.
    names: BTreeMap<String, usize>,
    visited: usize,
    /// Size of everything that is inlined, each time it is: see [`work`].
    inlined: usize,
    /// Functions whose operators were checked without importing them.
    pub(crate) scanned: BTreeSet<(&'p str, &'p str, &'p str)>,
    /// Bytes of constants computed or repeated.
    folded: usize,
    /// A bound was hit; nothing more is imported.
    pub(crate) stopped: bool,
}

impl<'p> Session<'p> {
    /// An empty graph. `folder` holds external data.
    pub(crate) fn new(model: &'p ModelProto, folder: Option<&Path>) -> Session<'p> {
        let mut session = Session {
            top: Level::default(),
            required: BTreeMap::new(),
            outer: vec![],
            lists: vec![],
            report: Report::default(),
            files: DataFiles::new(folder),
            frames: vec![Frame::new(false, 0)],
            functions: BTreeMap::new(),
            table: Table::all(),
            names: BTreeMap::new(),
            visited: 0,
            inlined: 0,
            scanned: BTreeSet::new(),
            folded: 0,
            stopped: false,
        };
        for f in &model.functions {
            let key = (domain(&f.domain), f.name.as_str(), f.overload.as_str());
            if session.functions.insert(key, f).is_some() {
                let e = ImportError::new("the model defines this function twice");
                session.report.error("", &op_label(key.0, key.1, None), e);
            }
        }
        session
    }

    /// Gives `name` a meaning in the innermost frame, unless it has one there: then tells so.
    pub(crate) fn define(&mut self, name: &'p str, slot: Slot<'p>) -> bool {
        let Some(frame) = self.frames.last_mut() else { return false };
        if frame.names.contains_key(name) {
            return false;
        }
        frame.names.insert(name, slot);
        true
    }

    /// Gives the initializers of `g` their names. They become constants of the graph when they are first used.
    pub(crate) fn define_initializers(&mut self, g: &'p GraphProto) {
        for t in &g.initializer {
            // An input that is pinned by the user wins over its default, the initializer.
            let pinned = g.input.iter().any(|v| v.name == t.name)
                && self.frames.last().is_some_and(|f| f.names.contains_key(t.name.as_str()));
            if !pinned && !self.define(&t.name, Slot::Initializer(t)) {
                self.report.error(&t.name, "", ImportError::new("two initializers have this name"));
            }
        }
        for s in &g.sparse_initializer {
            let Some(t) = &s.values else { continue };
            if !self.define(&t.name, Slot::Sparse(s)) {
                self.report.error(&t.name, "", ImportError::new("two initializers have this name"));
            }
        }
    }

    /// What `name` stands for in the current graph: a value, a sequence, `Nothing`, `Absent`, `Poisoned` or `Missing`.
    pub(crate) fn lookup(&mut self, name: &str) -> Slot<'p> {
        for at in (0..self.frames.len()).rev() {
            let Some((&key, &slot)) = self.frames[at].names.get_key_value(name) else {
                if self.frames[at].sees_outer {
                    continue;
                }
                return Slot::Missing;
            };
            let level = self.frames[at].level;
            let now = match slot {
                Slot::Initializer(t) => self.load(t, level),
                Slot::Sparse(s) => self.load_sparse(name, s, level),
                other => return self.seen(other, level),
            };
            self.frames[at].names.insert(key, now);
            return self.seen(now, level);
        }
        Slot::Missing
    }

    fn load(&mut self, t: &'p TensorProto, level: usize) -> Slot<'p> {
        match to_tensor(t, &mut self.files) {
            Ok(tensor) => {
                // The initializers of branches that are inlined again and again are decoded each time.
                self.charge(&tensor);
                Slot::Value(self.level_mut(level).graph.add_weight(t.name.clone(), tensor))
            }
            Err(e) => {
                self.report.error(&t.name, "", ImportError { message: format!("initializer: {}", e.message), ..e });
                Slot::Poisoned
            }
        }
    }

    /// The dense form, which may be much larger than what the file holds: it counts as computed.
    fn load_sparse(&mut self, name: &str, s: &'p SparseTensorProto, level: usize) -> Slot<'p> {
        let dense = dense_bytes(s).and_then(|bytes| {
            self.add_folded(bytes);
            if self.folded > MAX_FOLDED_BYTES { Ok(None) } else { to_dense(s, &mut self.files).map(Some) }
        });
        match dense {
            Ok(Some(tensor)) => Slot::Value(self.level_mut(level).graph.add_weight(name.to_string(), tensor)),
            Ok(None) => Slot::Poisoned,
            Err(e) => {
                self.report.error(
                    name,
                    "",
                    ImportError { message: format!("sparse initializer: {}", e.message), ..e },
                );
                Slot::Poisoned
            }
        }
    }

    /// Counts a constant that is not simply part of the file.
    fn charge(&mut self, t: &Tensor) {
        if self.frames.len() < 2 {
            return;
        }
        self.add_folded(t.bytes().len());
    }

    fn add_folded(&mut self, bytes: usize) {
        self.folded = self.folded.saturating_add(bytes);
        if self.folded > MAX_FOLDED_BYTES {
            self.stop(format!("constants computed at import take more than {MAX_FOLDED_BYTES} bytes"));
        }
    }

    /// Stops the import: a bound was hit.
    pub(crate) fn stop(&mut self, why: String) {
        if !self.stopped {
            self.stopped = true;
            self.report.error("", "", ImportError::new(why));
        }
    }

    /// Counts nodes; whether the import goes on.
    pub(crate) fn visit(&mut self, nodes: usize) -> bool {
        self.visited = self.visited.saturating_add(nodes);
        if self.visited > MAX_NODES {
            self.stop(format!("the model has more than {MAX_NODES} nodes after functions and branches are inlined"));
        }
        !self.stopped
    }

    /// Counts what is inlined.
    pub(crate) fn charge_inlined(&mut self, work: usize) {
        self.inlined = self.inlined.saturating_add(work);
        if self.inlined > MAX_INLINED {
            self.stop("the model grows too large when its functions and branches are inlined".to_string());
        }
    }

    /// Imports `nodes` into the innermost frame.
    pub(crate) fn import_nodes(&mut self, nodes: &'p [NodeProto], body: &Body<'p>) {
        if body.depth > 0 {
            self.charge_inlined(nodes.iter().map(work).sum());
        }
        if !self.visit(nodes.len()) {
            return;
        }
        let order = order(nodes);
        let name = |i: usize| given_name(&nodes[i], i);
        if !order.cycle.is_empty() {
            let path: Vec<String> = order.cycle.iter().take(8).map(|i| format!("`{}`", name(*i))).collect();
            let more = if order.cycle.len() > 8 { " → …" } else { "" };
            let e = ImportError::new(format!(
                "the graph has a cycle: {}{more} → `{}`",
                path.join(" → "),
                name(order.cycle[0])
            ));
            self.report.error(&format!("{}{}", body.prefix, name(order.cycle[0])), "", e);
        } else if let Some((i, value)) = &order.unsorted {
            let e = ImportError::new(format!("uses `{}` before it is made: the nodes were sorted", shortened(value)));
            self.report.warning(&format!("{}{}", body.prefix, name(*i)), "", e);
        }
        let mut stuck = vec![true; nodes.len()];
        for &i in &order.nodes {
            stuck[i] = false;
            self.import_node(&nodes[i], i, body);
            if self.stopped {
                return;
            }
        }
        // Nodes behind a cycle: only their operators are checked.
        for (i, n) in nodes.iter().enumerate().filter(|(i, _)| stuck[*i]) {
            let loc = self.unique_name(n, i, body);
            self.scan_node(n, &loc, body);
            self.poison(n);
        }
    }

    /// A name for the node that no other has.
    fn unique_name(&mut self, n: &NodeProto, index: usize, body: &Body<'_>) -> String {
        let base = shortened(&format!("{}{}", body.prefix, given_name(n, index)));
        let mut name = base.clone();
        while self.names.contains_key(&name) {
            let next = self.names.get_mut(&base).map_or(1, |k| {
                *k += 1;
                *k
            });
            name = format!("{base}_{next}");
        }
        self.names.insert(name.clone(), 0);
        name
    }

    /// Marks the outputs of a node that has a problem.
    fn poison(&mut self, n: &'p NodeProto) {
        for o in n.output.iter().filter(|o| !o.is_empty()) {
            self.define(o, Slot::Poisoned);
        }
    }

    /// The opset of the node's domain. Custom domains need not be versioned.
    pub(crate) fn opset(n: &NodeProto, body: &Body<'_>) -> i64 {
        body.opsets.get(domain(&n.domain)).copied().unwrap_or(1)
    }

    /// What the node's operator means.
    pub(crate) fn meaning(&self, n: &NodeProto, body: &Body<'_>) -> Meaning<'p> {
        let d = domain(&n.domain);
        let op = n.op_type.as_str();
        let known = self.table.get(d, op, Self::opset(n, body));
        if let Known::Yes(import) = known {
            return Meaning::Import(import);
        }
        if let Some(f) = self.functions.get(&(d, op, n.overload.as_str())) {
            return Meaning::Function(f);
        }
        let export = "see docs/OPERATORS.md for the supported operators; export the model without this one";
        match (d, op, known) {
            (_, _, Known::From(v)) => Meaning::Unsupported(
                format!("the operator exists only from opset {v} on"),
                "convert the model to a newer opset with onnx.version_converter",
            ),
            ("", "Constant", _) => Meaning::Constant,
            _ if built_in(d, op) => Meaning::Control,
            ("", "", _) => Meaning::Unsupported("the node has no operator".to_string(), export),
            _ => Meaning::Unsupported("the operator is not supported".to_string(), export),
        }
    }

    fn import_node(&mut self, n: &'p NodeProto, index: usize, body: &Body<'p>) {
        let loc = self.unique_name(n, index, body);
        let op = op_label(domain(&n.domain), &n.op_type, Some(Self::opset(n, body)));
        let meaning = self.meaning(n, body);
        if let Meaning::Unsupported(..) = meaning {
            self.scan_node(n, &loc, body);
            return self.poison(n);
        }
        let Some(operands) = self.operands(n, &loc, &op) else {
            self.scan_node(n, &loc, body);
            return self.poison(n);
        };
        let result = resolved(n, body.passed.as_deref()).and_then(|attrs| {
            let site = Site { node: n, attrs: &attrs, operands: &operands, loc: &loc, body };
            match meaning {
                Meaning::Constant => self.constant(n, &attrs, body),
                Meaning::Control => self.control(site),
                Meaning::Function(f) => self.inline_function(f, site),
                Meaning::Import(import) => self.import_with(import, site),
                Meaning::Unsupported(..) => Ok(None),
            }
        });
        match result {
            Ok(Some(values)) => self.bind(n, &values, &operands, &loc, &op),
            Ok(None) => self.poison(n),
            Err(mut e) => {
                // Inside a loop "computed from the inputs" may mean the number of the iteration, which nobody can pin.
                if self.depth() > 0 && e.help.as_ref().is_some_and(|h| h.starts_with("pin what")) {
                    e.needs.clear();
                    e.help = Some(
                        "inside a loop it must be the same in every iteration; a loop whose number of iterations \
                                   is known and small enough is unrolled"
                            .to_string(),
                    );
                }
                self.report.error(&loc, &op, e);
                self.poison(n);
            }
        }
    }

    /// The operands; `None` when one has a problem, which is then reported.
    fn operands(&mut self, n: &'p NodeProto, loc: &str, op: &str) -> Option<Vec<Slot<'p>>> {
        let mut all = vec![];
        let mut poisoned = false;
        for (i, name) in n.input.iter().enumerate() {
            let found = if name.is_empty() { Slot::Absent } else { self.lookup(name) };
            match found {
                Slot::Value(_) | Slot::List(_) | Slot::Nothing | Slot::Absent => all.push(found),
                Slot::Missing => {
                    let e = ImportError::new(format!(
                        "operand {i} is `{}`, which no node, input or initializer gives",
                        shortened(name)
                    ));
                    self.report.error(loc, op, e);
                    poisoned = true;
                }
                _ => poisoned = true,
            }
        }
        // Optional operands at the end may be left out or empty, which is the same.
        while matches!(all.last(), Some(Slot::Absent)) {
            all.pop();
        }
        (!poisoned).then_some(all)
    }

    fn import_with(&mut self, import: ImportFn, site: Site<'_, 'p>) -> Made<'p> {
        let Site { node: n, attrs, operands, loc, body } = site;
        // The one operator of tensors that also takes whatever there is.
        if let ("Identity", [s @ (Slot::List(_) | Slot::Nothing)]) = (n.op_type.as_str(), operands) {
            return Ok(Some(vec![*s]));
        }
        let values = operands.iter().enumerate().map(|(i, s)| match s {
            Slot::Absent => Ok(None),
            s => value(s).map(Some).map_err(|e| ImportError::new(format!("operand {i}: {}", e.message))),
        });
        let operands = values.collect::<Result<Vec<_>, _>>()?;
        let raw = attr::node(n, attrs, body.passed.as_deref(), &mut self.files)?;
        let view = OnnxNode::new(&raw, Self::opset(n, body), &operands);
        let made = import(&view, &mut self.importer(loc))?;
        Ok(Some(made.into_iter().map(Slot::Value).collect()))
    }

    /// Gives the outputs of a node their names.
    fn bind(&mut self, n: &'p NodeProto, values: &[Slot<'p>], operands: &[Slot<'p>], loc: &str, op: &str) {
        for (i, name) in n.output.iter().enumerate() {
            let Some(&made) = values.get(i) else {
                if !name.is_empty() {
                    let e = ImportError::new(format!(
                        "output {i} (`{}`) of this operator is not supported: it has {} here",
                        shortened(name),
                        values.len()
                    ));
                    self.report.error(loc, op, e);
                    self.define(name, Slot::Poisoned);
                }
                continue;
            };
            let Slot::Value(v) = made else {
                self.bind_one(n, i, made, loc, op);
                continue;
            };
            let slot = match self.check_value(v) {
                Ok(()) => Slot::Value(v),
                Err(message) => {
                    let e = ImportError::new(format!("output {i}: {message}"));
                    let symbolic = self.top.graph.fact(v).dims().is_none();
                    self.report.error(
                        loc,
                        op,
                        if symbolic { e.with_help("pin dimensions with --dim NAME=N") } else { e },
                    );
                    Slot::Poisoned
                }
            };
            if let Some(t) = self.top.graph.weight(v)
                && !operands.iter().any(|s| matches!(s, Slot::Value(o) if *o == v))
                && n.op_type != "Constant"
            {
                let bytes = t.bytes().len();
                self.add_folded(bytes);
            }
            self.bind_one(n, i, slot, loc, op);
        }
    }

    fn bind_one(&mut self, n: &'p NodeProto, i: usize, slot: Slot<'p>, loc: &str, op: &str) {
        let name = &n.output[i];
        if !name.is_empty() && !self.define(name, slot) {
            let e = ImportError::new(format!("output {i} is `{}`, a name that is already taken", shortened(name)));
            self.report.error(loc, op, e.with_help("every value of a graph needs a name of its own"));
        }
    }

    fn check_value(&self, v: ValueId) -> Result<(), String> {
        check_fact(self.top.graph.fact(v))?;
        self.top.dims.get(&v).map_or(Ok(()), |d| check_known(d))
    }

    /// The value of a `Constant` node.
    fn constant(&mut self, n: &'p NodeProto, attrs: &Passed<'p>, body: &Body<'p>) -> Made<'p> {
        let raw = attr::node(n, attrs, body.passed.as_deref(), &mut self.files)?;
        let tensor = constant_value(&raw.attrs)?;
        self.charge(&tensor);
        let name = n.output.first().cloned().unwrap_or_default();
        Ok(Some(vec![Slot::Value(self.top.graph.add_weight(name, tensor))]))
    }
}

/// Bounds symbolic elements of a shape; unlike extents they are not multiplied with each other.
fn check_known(dims: &[Dim]) -> Result<(), String> {
    dims.chunks(1).try_for_each(check_dims)
}

/// The size of a node: how long it takes to import it, apart from what its operator does.
fn work(n: &NodeProto) -> usize {
    let attribute = |a: &AttributeProto| {
        let tensor = a.t.as_deref().map_or(0, |t| t.dims.len() + typed_len(t));
        let graph = a.g.as_deref().map_or(0, |g| g.node.iter().map(work).sum::<usize>() + g.initializer.len());
        1 + a.ints.len() + a.floats.len() + a.strings.len() + tensor + graph
    };
    1 + n.input.len() + n.output.len() + n.attribute.iter().map(attribute).sum::<usize>()
}

fn given_name(n: &NodeProto, index: usize) -> String {
    if n.name.is_empty() { format!("{}_{index}", n.op_type) } else { n.name.clone() }
}

fn constant_value(attrs: &BTreeMap<String, tenon_ir::OnnxAttr>) -> Result<Tensor, ImportError> {
    use tenon_ir::OnnxAttr as A;
    let mut values = attrs.iter().filter(|(name, _)| name.starts_with("value") || *name == "sparse_value");
    let (Some((name, value)), None) = (values.next(), values.next()) else {
        return Err(ImportError::new("expected exactly one attribute with a value, e.g. `value` or `value_int`"));
    };
    match (name.as_str(), value) {
        ("value", A::Tensor(t)) => Ok(t.clone()),
        ("value_float", A::Float(v)) => Ok(Tensor::scalar(*v)),
        ("value_int", A::Int(v)) => Ok(Tensor::scalar(*v)),
        ("value_floats", A::Floats(v)) => Ok(Tensor::new(&[v.len()], v)),
        ("value_ints", A::Ints(v)) => Ok(Tensor::new(&[v.len()], v)),
        ("value_string" | "value_strings", _) => Err(ImportError::new("string constants are not supported")),
        ("sparse_value", _) => Err(ImportError::new("sparse constants are not supported")),
        _ => Err(ImportError::new(format!("attribute `{name}` does not hold a constant"))),
    }
}

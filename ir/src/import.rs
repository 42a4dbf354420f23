//! The view of ONNX that operators import from. `frontend` fills it from the file format.

use crate::effort::effort;
use crate::op::{InferError, Operator};
use crate::{Graph, NodeKind, Op, ValueId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use tenon_base::{DType, Dim, Fact, Loc, Shape, Tensor};

/// An attribute of an ONNX node.
#[derive(Clone, Debug, PartialEq)]
pub enum OnnxAttr {
    /// INT
    Int(i64),
    /// FLOAT
    Float(f32),
    /// STRING (bytes that need not be UTF-8 are replaced)
    Str(String),
    /// TENSOR
    Tensor(Tensor),
    /// GRAPH
    Graph(Box<OnnxGraph>),
    /// INTS
    Ints(Vec<i64>),
    /// FLOATS
    Floats(Vec<f32>),
    /// STRINGS
    Strs(Vec<String>),
    /// A kind that no operator here reads (SPARSE_TENSOR, TYPE_PROTO, …), by name.
    Other(&'static str),
}

impl OnnxAttr {
    /// What its kind is called in messages.
    pub fn kind(&self) -> &'static str {
        match self {
            OnnxAttr::Int(_) => "an integer",
            OnnxAttr::Float(_) => "a float",
            OnnxAttr::Str(_) => "a string",
            OnnxAttr::Tensor(_) => "a tensor",
            OnnxAttr::Graph(_) => "a graph",
            OnnxAttr::Ints(_) => "a list of integers",
            OnnxAttr::Floats(_) => "a list of floats",
            OnnxAttr::Strs(_) => "a list of strings",
            OnnxAttr::Other(kind) => kind,
        }
    }
}

/// An ONNX graph or subgraph, resolved from the file format but not yet imported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OnnxGraph {
    /// Its name.
    pub name: String,
    /// Nodes in the file's order.
    pub nodes: Vec<OnnxRawNode>,
    /// Declared inputs: name, dtype and shape where given.
    pub inputs: Vec<(String, Option<Fact>)>,
    /// Declared outputs.
    pub outputs: Vec<(String, Option<Fact>)>,
    /// Constant data.
    pub initializers: Vec<(String, Tensor)>,
}

/// A node as the file has it: values by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OnnxRawNode {
    /// May be empty.
    pub name: String,
    /// E.g. `Conv`.
    pub op_type: String,
    /// `""` is `ai.onnx`.
    pub domain: String,
    /// Operand names; empty for an optional one left out.
    pub inputs: Vec<String>,
    /// Result names; empty for one that is not wanted.
    pub outputs: Vec<String>,
    /// By name.
    pub attrs: BTreeMap<String, OnnxAttr>,
}

/// Why a node could not be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportError {
    /// Expected and found.
    pub message: String,
    /// What to try.
    pub help: Option<String>,
    /// Inputs of the model whose values, were they known, would help.
    pub needs: Vec<String>,
}

impl ImportError {
    /// An error without advice.
    pub fn new(message: impl Into<String>) -> ImportError {
        ImportError { message: message.into(), help: None, needs: vec![] }
    }

    /// The same, with advice.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> ImportError {
        self.help = Some(help.into());
        self
    }

    /// The same, with advice to pin what `extent` is made of: `--dim h=… --dim w=…`. An extent without a symbol, which only the
    /// data decide, cannot be pinned.
    #[must_use]
    pub fn with_pins(self, extent: &Dim) -> ImportError {
        let mut symbols = BTreeSet::new();
        extent.symbols(&mut symbols);
        // Names of counts end in a mark that few others have.
        symbols.retain(|s| !s.contains(COUNT));
        if symbols.is_empty() {
            return self;
        }
        let pins: Vec<String> = symbols.iter().map(|s| format!("--dim {s}=…")).collect();
        self.with_help(pins.join(" "))
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
impl std::error::Error for ImportError {}
impl From<InferError> for ImportError {
    fn from(e: InferError) -> ImportError {
        ImportError { message: e.message, help: e.help, needs: vec![] }
    }
}
impl From<String> for ImportError {
    fn from(message: String) -> ImportError {
        ImportError::new(message)
    }
}

/// A node with its operands resolved: what [`Operator::import`] reads.
#[derive(Clone, Copy, Debug)]
pub struct OnnxNode<'a> {
    raw: &'a OnnxRawNode,
    /// The opset of the node's domain.
    pub opset: i64,
    /// Operands; `None` for an optional one left out.
    pub inputs: &'a [Option<ValueId>],
}

impl<'a> OnnxNode<'a> {
    /// A view of `raw`.
    pub fn new(raw: &'a OnnxRawNode, opset: i64, inputs: &'a [Option<ValueId>]) -> OnnxNode<'a> {
        OnnxNode { raw, opset, inputs }
    }

    /// The same node as if it were called `op_type` of `ai.onnx`: for importing what another operator describes.
    pub fn renamed(&self, op_type: &str) -> OnnxRawNode {
        OnnxRawNode { op_type: op_type.to_string(), domain: String::new(), ..self.raw.clone() }
    }

    /// E.g. `Conv`.
    pub fn op_type(&self) -> &'a str {
        &self.raw.op_type
    }

    /// `""` is `ai.onnx`.
    pub fn domain(&self) -> &'a str {
        &self.raw.domain
    }

    /// The same node with other operands.
    #[must_use]
    pub fn with_inputs<'b>(&self, inputs: &'b [Option<ValueId>]) -> OnnxNode<'b>
    where
        'a: 'b,
    {
        OnnxNode { raw: self.raw, opset: self.opset, inputs }
    }

    /// How many results the node lists, wanted or not.
    pub fn output_count(&self) -> usize {
        self.raw.outputs.len()
    }

    /// Whether result `i` is wanted.
    pub fn wants_output(&self, i: usize) -> bool {
        self.raw.outputs.get(i).is_some_and(|n| !n.is_empty())
    }

    /// Operand `i`, which must be there.
    pub fn input(&self, i: usize) -> Result<ValueId, ImportError> {
        self.opt_input(i).ok_or_else(|| ImportError::new(format!("operand {i} is missing")))
    }

    /// Operand `i`, if it is there.
    pub fn opt_input(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }

    /// All operands, none of which may be left out.
    pub fn all_inputs(&self) -> Result<Vec<ValueId>, ImportError> {
        (0..self.inputs.len()).map(|i| self.input(i)).collect()
    }

    /// The attribute in generic form.
    pub fn attr(&self, name: &str) -> Option<&'a OnnxAttr> {
        self.raw.attrs.get(name)
    }

    fn wrong(&self, name: &str, expected: &str) -> ImportError {
        let found = self.raw.attrs.get(name).map_or("nothing", OnnxAttr::kind);
        ImportError::new(format!("attribute `{name}`: expected {expected}, found {found}"))
    }

    /// INT, if present.
    pub fn opt_int(&self, name: &str) -> Result<Option<i64>, ImportError> {
        match self.attr(name) {
            None => Ok(None),
            Some(OnnxAttr::Int(v)) => Ok(Some(*v)),
            Some(_) => Err(self.wrong(name, "an integer")),
        }
    }

    /// INT with a default.
    pub fn int(&self, name: &str, default: i64) -> Result<i64, ImportError> {
        Ok(self.opt_int(name)?.unwrap_or(default))
    }

    /// FLOAT, if present.
    pub fn opt_float(&self, name: &str) -> Result<Option<f32>, ImportError> {
        match self.attr(name) {
            None => Ok(None),
            Some(OnnxAttr::Float(v)) => Ok(Some(*v)),
            Some(_) => Err(self.wrong(name, "a float")),
        }
    }

    /// FLOAT with a default.
    pub fn float(&self, name: &str, default: f32) -> Result<f32, ImportError> {
        Ok(self.opt_float(name)?.unwrap_or(default))
    }

    /// INTS, if present.
    pub fn opt_ints(&self, name: &str) -> Result<Option<Vec<i64>>, ImportError> {
        match self.attr(name) {
            None => Ok(None),
            Some(OnnxAttr::Ints(v)) => Ok(Some(v.clone())),
            Some(_) => Err(self.wrong(name, "a list of integers")),
        }
    }

    /// STRING, if present.
    pub fn opt_str(&self, name: &str) -> Result<Option<&'a str>, ImportError> {
        match self.attr(name) {
            None => Ok(None),
            Some(OnnxAttr::Str(v)) => Ok(Some(v)),
            Some(_) => Err(self.wrong(name, "a string")),
        }
    }

    /// STRING with a default.
    pub fn str(&self, name: &str, default: &'a str) -> Result<&'a str, ImportError> {
        Ok(self.opt_str(name)?.unwrap_or(default))
    }

    /// TENSOR, if present.
    pub fn opt_tensor(&self, name: &str) -> Result<Option<&'a Tensor>, ImportError> {
        match self.attr(name) {
            None => Ok(None),
            Some(OnnxAttr::Tensor(v)) => Ok(Some(v)),
            Some(_) => Err(self.wrong(name, "a tensor")),
        }
    }
}

/// Builds the graph while nodes are imported. Operators on constants are evaluated at once when they are small, so
/// that shapes computed in the model are known to the operators that need them.
#[derive(Debug)]
pub struct Importer<'g> {
    graph: &'g mut Graph,
    /// Small integer values known only symbolically.
    dims: &'g mut BTreeMap<ValueId, Vec<Dim>>,
    /// Extents that data decide.
    counts: &'g mut Counts,
    loc: Loc,
}

/// Extents that data decide. Each is a symbol of its own, which a node `cut` gives its meaning.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// The largest that each can be, where that is known.
    most: BTreeMap<Arc<str>, Option<i64>>,
    /// The scalars of this graph that count, and their symbols.
    scalars: Vec<(ValueId, Arc<str>)>,
}

/// In the name of a count, behind that of the node that counts.
const COUNT: char = '#';

impl Counts {
    /// What a graph inside another one begins with.
    #[must_use]
    pub fn inside(&self) -> Counts {
        Counts { most: self.most.clone(), scalars: vec![] }
    }

    /// Whether data decide about `d`.
    pub fn decide(&self, d: &Dim) -> bool {
        let mut symbols = BTreeSet::new();
        d.symbols(&mut symbols);
        symbols.iter().any(|s| self.most.contains_key(s))
    }
}

/// Results up to this many elements are computed at import.
const EAGER_ELEMENTS: i64 = 1 << 16;

impl<'g> Importer<'g> {
    /// An importer for one node, named `loc`. `dims` and `counts` live as long as the import of the whole graph.
    pub fn new(
        graph: &'g mut Graph,
        dims: &'g mut BTreeMap<ValueId, Vec<Dim>>,
        counts: &'g mut Counts,
        loc: Loc,
    ) -> Importer<'g> {
        Importer { graph, dims, counts, loc }
    }

    /// The largest that `d` can be, where numbers and counts of data alone decide.
    pub fn at_most(&self, d: &Dim) -> Option<i64> {
        d.upper_bound(&|s| self.counts.most.get(s).copied().flatten())
    }

    /// Whether data decide about `d`: a count of them is in it, which may be 0.
    pub fn is_counted(&self, d: &Dim) -> bool {
        self.counts.decide(d)
    }

    /// Says that `v` has as many elements along `axis` as `count`, a scalar, tells. A constant count cuts the value instead.
    pub fn sized(&mut self, v: ValueId, axis: usize, count: ValueId) -> Result<ValueId, ImportError> {
        if let Some(n) = self.known(count).map(|t| t.get(0).as_int() as i64) {
            let mut to = self.shape(v).clone();
            if to.0[axis] == Dim::Const(n) {
                return Ok(v);
            }
            to.0[axis] = Dim::Const(n);
            let op = crate::ops::slice::Slice { starts: vec![0; to.rank()], steps: vec![1; to.rank()], to };
            return self.op(op, &[v]);
        }
        let mut to = self.shape(v).clone();
        let symbol = self.symbol(count, &to.0[axis].clone());
        to.0[axis] = Dim::Sym(symbol);
        self.op(crate::ops::cut::Cut { axis, to }, &[v, count])
    }

    /// The symbol of what `count` counts, of at most `room`. What is computed in the same way has the same: exporters repeat the
    /// choice for each value that it is applied to.
    fn symbol(&mut self, count: ValueId, room: &Dim) -> Arc<str> {
        /// Nodes that are compared at most.
        const NEAR: usize = 200;
        let known = self.counts.scalars.iter().find(|(v, _)| self.same(*v, count, &mut NEAR.clone()));
        if let Some((_, symbol)) = known {
            return symbol.clone();
        }
        let name = |k: usize| if k == 0 { format!("{}{COUNT}", self.loc) } else { format!("{}{COUNT}{k}", self.loc) };
        let free = (0..).map(|k| Arc::<str>::from(name(k))).find(|s| !self.counts.most.contains_key(s));
        let symbol = free.unwrap_or_else(|| Arc::from("#"));
        self.counts.most.insert(symbol.clone(), self.at_most(room));
        self.counts.scalars.push((count, symbol.clone()));
        symbol
    }

    /// Whether `a` and `b` are computed in the same way of the same, as far as the nearest nodes tell.
    fn same(&self, a: ValueId, b: ValueId, left: &mut usize) -> bool {
        if a == b {
            return true;
        }
        if a.port != b.port || *left == 0 {
            return false;
        }
        *left -= 1;
        let (x, y) = (self.graph.operands(a.node), self.graph.operands(b.node));
        match (&self.graph.node(a.node).kind, &self.graph.node(b.node).kind) {
            (NodeKind::Weight(_, s), NodeKind::Weight(_, t)) => s == t,
            // How many are chosen, of whatever it is.
            (NodeKind::Op(Op::Choose(_)), NodeKind::Op(Op::Choose(_))) if a.port == 1 => self.same(x[1], y[1], left),
            (NodeKind::Op(p), NodeKind::Op(q)) => {
                p == q && x.len() == y.len() && x.iter().zip(&y).all(|(a, b)| self.same(*a, *b, left))
            }
            _ => false,
        }
    }

    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        self.graph
    }

    /// The type of a value.
    pub fn fact(&self, v: ValueId) -> &Fact {
        self.graph.fact(v)
    }

    /// Element type of a value.
    pub fn dtype(&self, v: ValueId) -> DType {
        self.fact(v).dtype
    }

    /// The shape of a value.
    pub fn shape(&self, v: ValueId) -> &Shape {
        &self.fact(v).shape
    }

    /// The number of axes of a value.
    pub fn rank(&self, v: ValueId) -> usize {
        self.shape(v).rank()
    }

    /// Constant data.
    pub fn weight(&mut self, tensor: Tensor) -> ValueId {
        self.graph.add_weight("", tensor)
    }

    /// The data of `v`, if it is constant.
    pub fn known(&self, v: ValueId) -> Option<&Tensor> {
        self.graph.weight(v)
    }

    /// The data of `v`, which the operator needs at compile time; `what` names the operand.
    pub fn constant(&self, v: ValueId, what: &str) -> Result<&Tensor, ImportError> {
        self.known(v).ok_or_else(|| {
            let (symbols, needs) = self.sources(v);
            let mut pins = vec![];
            let symbols = symbols.into_iter().filter(|s| !self.counts.most.contains_key(s)).collect::<BTreeSet<_>>();
            if !symbols.is_empty() {
                pins.push(free_dims_help(&symbols));
            }
            pins.extend(needs.iter().map(|n| format!("--set {n}=VALUE")));
            let help = (!pins.is_empty()).then(|| format!("pin what it is computed from: {}", pins.join(" ")));
            // Constants all of them: only the budget can have kept it from being evaluated.
            let why = match pins.is_empty() && self.graph.effort_refused() {
                true => "evaluating it takes longer than the constants of a model may take",
                false => "it is computed from the inputs",
            };
            let message = format!("`{what}` must be known at compile time, but {why}");
            ImportError { message, help, needs }
        })
    }

    /// What `v` is computed from, of a very large computation only the nearest: free dimensions, and inputs that one may
    /// want to pin to a value.
    fn sources(&self, v: ValueId) -> (BTreeSet<Arc<str>>, Vec<String>) {
        const NEAREST: usize = 4000;
        let (mut symbols, mut needs) = (BTreeSet::new(), vec![]);
        let mut seen = BTreeSet::from([v.node]);
        let mut work = std::collections::VecDeque::from([v.node]);
        while let Some(n) = work.pop_front() {
            let node = self.graph.node(n);
            match &node.kind {
                NodeKind::Input(name) => {
                    let fact = &node.facts[0];
                    fact.shape.0.iter().for_each(|d| d.symbols(&mut symbols));
                    // A shape, an axis or a rate; the value of an image is nothing to pin.
                    if fact.dtype == DType::Bool || fact.dtype.is_int() || fact.shape.rank() <= 1 {
                        needs.push(name.clone());
                    }
                }
                NodeKind::Op(Op::Symbolic(op)) => {
                    op.elements.0.iter().for_each(|d| d.symbols(&mut symbols));
                    // A count is computed, too.
                    let counts = self.counts.scalars.iter().filter(|(_, s)| symbols.contains(s));
                    work.extend(counts.map(|(v, _)| v.node).filter(|o| seen.insert(*o)));
                }
                _ => {}
            }
            if seen.len() < NEAREST {
                let next = self.graph.operands(n).into_iter().map(|o| o.node);
                work.extend(next.filter(|o| seen.insert(*o)));
            }
        }
        (symbols, needs)
    }

    /// The elements of the integer operand `what` (rank 0 or 1), symbolic where the model's dimensions are.
    pub fn constant_dims(&self, v: ValueId, what: &str) -> Result<Vec<Dim>, ImportError> {
        if let Some(d) = self.known_dims(v) {
            return Ok(d);
        }
        self.constant(v, what).map(|t| t.to_i64().into_iter().map(Dim::Const).collect())
    }

    /// The elements of the integer operand `what`, all of them numbers.
    pub fn constant_ints(&self, v: ValueId, what: &str) -> Result<Vec<i64>, ImportError> {
        Ok(self.constant(v, what)?.to_i64())
    }

    /// The elements of a small integer value, if they are known at least symbolically.
    pub fn known_dims(&self, v: ValueId) -> Option<Vec<Dim>> {
        if let Some(d) = self.dims.get(&v) {
            return Some(d.clone());
        }
        let t = self.known(v)?;
        (t.dtype().is_int() && t.shape().len() <= 1 && t.len() <= 1024)
            .then(|| t.to_i64().into_iter().map(Dim::Const).collect())
    }

    /// A small integer value (i64) of `shape` whose elements are known only symbolically: an operator without operands that
    /// stands for them until the dimensions are pinned.
    pub fn symbolic(&mut self, dims: Vec<Dim>, shape: &[usize]) -> ValueId {
        let op = crate::ops::symbolic::Symbolic { elements: Shape(dims.clone()), to: Shape::of(shape) };
        match self.graph.add_op(op, &[], self.loc.clone()) {
            Ok(v) => {
                self.dims.insert(v[0], dims);
                v[0]
            }
            // The operator takes nothing that could be wrong; an unreadable constant is the honest rest.
            Err(_) => self.graph.add_weight("", Tensor::full(shape, tenon_base::Scalar::Int(DType::I64, 0))),
        }
    }

    /// Records the elements of a small integer value that is known only symbolically.
    pub fn set_known_dims(&mut self, v: ValueId, dims: Vec<Dim>) {
        self.dims.insert(v, dims);
    }

    /// Adds an operator with one result.
    pub fn op(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> Result<ValueId, ImportError> {
        Ok(self.ops(op, operands)?[0])
    }

    /// Adds an operator and gives all its results.
    pub fn ops(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> Result<Vec<ValueId>, ImportError> {
        let op = op.into();
        // Sums of products are of numbers that a kernel can load as they are, or convert in one step.
        let contracts = matches!(op, Op::MatMul(_) | Op::Conv(_) | Op::ConvTranspose(_) | Op::Recurrent(_));
        if contracts && let Some(d) = operands.iter().map(|v| self.dtype(*v)).find(|d| d.is_stored() && d.is_float())
        {
            let mut wide = vec![];
            for v in operands {
                let float = self.dtype(*v).is_float();
                wide.push(if float { self.op(crate::ops::cast::Cast::to(DType::F32), &[*v])? } else { *v });
            }
            let outs = self.ops(op, &wide)?;
            return outs.into_iter().map(|v| self.op(crate::ops::cast::Cast::to(d), &[v])).collect();
        }
        if let Some(tensors) = self.eager(&op, operands)? {
            return Ok(tensors.into_iter().map(|t| self.weight(t)).collect());
        }
        self.check_counts(&op, operands)?;
        let outs = self.graph.add_op(op.clone(), operands, self.loc.clone())?;
        if let [out] = outs[..] {
            let known: Vec<Option<Vec<Dim>>> = operands.iter().map(|v| self.known_dims(*v)).collect();
            let facts: Vec<Fact> = operands.iter().map(|v| self.fact(*v).clone()).collect();
            if let Some(dims) = op.infer_dims(&known, &facts) {
                let t = dims.iter().map(Dim::as_const).collect::<Option<Vec<i64>>>();
                let fact = self.fact(out).clone();
                match (t, fact.dims()) {
                    // Every element turned out to be a number: it is an ordinary constant.
                    (Some(v), Some(shape))
                        if fact.dtype == DType::I64 && shape.iter().product::<usize>() == v.len() =>
                    {
                        return Ok(vec![self.weight(Tensor::new(&shape, &v))]);
                    }
                    _ => self.set_known_dims(out, dims),
                }
            }
        }
        Ok(outs)
    }

    /// Refuses operands that meet element for element where data decide about each how many it has.
    fn check_counts(&self, op: &Op, operands: &[ValueId]) -> Result<(), ImportError> {
        if op.class() != crate::OpClass::Pointwise {
            return Ok(());
        }
        let shapes: Vec<&Shape> = operands.iter().map(|v| self.shape(*v)).collect();
        for behind in 1..=shapes.iter().map(|s| s.rank()).max().unwrap_or(0) {
            let along = shapes.iter().filter_map(|s| s.0.get(s.rank().checked_sub(behind)?));
            let mut along = along.filter(|d| **d != Dim::Const(1));
            let Some(first) = along.next() else { continue };
            if let Some(other) = along.find(|d| *d != first && (self.is_counted(d) || self.is_counted(first))) {
                let message = format!(
                    "{}: operands of {first} and of {other} elements meet; data decide whether these are equal",
                    op.name()
                );
                return Err(ImportError::new(message));
            }
        }
        Ok(())
    }

    fn eager(&mut self, op: &Op, operands: &[ValueId]) -> Result<Option<Vec<Tensor>>, ImportError> {
        // Quantised constants stay: integer operators are made of them. And a loop may take any time.
        if let Op::Dequantize(_) | Op::Repeat(_) = op {
            return Ok(None);
        }
        let Some(ins) = operands.iter().map(|v| self.known(*v).cloned()).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let facts: Vec<Fact> = ins.iter().map(Tensor::fact).collect();
        let outs = op.infer(&facts)?;
        // An empty tensor counts with its other extents, which must be known too.
        let small = |f: &Fact| {
            let extents = f.shape.0.iter().map(|d| d.as_const().map(|d| d.max(1)));
            let n = extents.collect::<Option<Vec<i64>>>();
            n.is_some_and(|n| n.iter().fold(1i64, |n, d| n.saturating_mul(*d)) <= EAGER_ELEMENTS)
        };
        if !outs.iter().all(small) || !facts.iter().all(small) {
            return Ok(None);
        }
        if !self.graph.spend_effort(effort(op, &facts, &outs)) {
            return Ok(None);
        }
        Ok(Some(op.eval(&ins)?))
    }
}

/// `--dim batch=… --dim seq=…`
pub fn free_dims_help(symbols: &BTreeSet<Arc<str>>) -> String {
    symbols.iter().map(|s| format!("--dim {s}=…")).collect::<Vec<_>>().join(" ")
}

/// The dtype of an ONNX `TensorProto.DataType` code.
pub fn dtype_of_code(code: i64) -> Result<DType, ImportError> {
    Ok(match code {
        1 => DType::F32,
        2 => DType::U8,
        3 => DType::I8,
        4 => DType::U16,
        5 => DType::I16,
        6 => DType::I32,
        7 => DType::I64,
        9 => DType::Bool,
        10 => DType::F16,
        11 => DType::F64,
        12 => DType::U32,
        13 => DType::U64,
        16 => DType::BF16,
        17 => DType::F8E4M3,
        18 => DType::F8E4M3Uz,
        19 => DType::F8E5M2,
        20 => DType::F8E5M2Uz,
        21 => DType::U4,
        22 => DType::I4,
        23 => DType::F4E2M1,
        24 => DType::F8E8M0,
        25 => DType::U2,
        26 => DType::I2,
        other => {
            let name = match other {
                8 => "string",
                14 => "complex64",
                15 => "complex128",
                _ => return Err(ImportError::new(format!("{other} is not an ONNX element type"))),
            };
            return Err(ImportError::new(format!("elements of type {name} are not supported")));
        }
    })
}

//! The language of the e-graph and what is known of a class.
//!
//! A node is an operator of the graph IR with its attributes, interned, and its operands' classes. Layout and dtype are
//! part of a value's type, so a value in another layout is another class, linked by an explicit transpose.
//!
//! Invariants, asserted where egg merges: all nodes of a class have one type. Who made a node, and from which ONNX
//! nodes, is recorded when it is made, under the stable id egg gives every node ([`Origin`]).

use super::constants::{ConstId, Constants};
use egg::{Analysis, DidMerge, EGraph, Id, Language};
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use tenon_base::{Fact, Loc, Tensor};
use tenon_ir::{Op, Operator};

/// An interned operator with its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(u32);

impl OpId {
    /// Its number.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// An interned type: the facts of all results of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(u32);

/// An interned set of locations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Places(u32);

/// What a node is, without its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Head {
    /// An operator: its name in text, and the operator.
    Op(&'static str, OpId),
    /// An input of the model, by position.
    Input(u32),
    /// Constant data.
    Const(ConstId),
    /// One result of an operator that has several.
    Port(u16),
}

/// A node: what it is, and the classes of its operands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// What it is.
    pub head: Head,
    /// Operands, in order.
    pub args: SmallVec<[Id; 4]>,
}

impl Node {
    /// An operator on `args`.
    pub fn new(head: Head, args: &[Id]) -> Node {
        Node { head, args: SmallVec::from_slice(args) }
    }
}

/// By which classes are indexed.
pub type Kind = &'static str;

/// The kind of inputs, constants and results of operators with several.
pub const OTHER: Kind = "";

impl Language for Node {
    type Discriminant = Kind;

    fn discriminant(&self) -> Kind {
        match self.head {
            Head::Op(name, _) => name,
            _ => OTHER,
        }
    }

    /// Equal attributes, always: there are no wildcards, so a lookup is a lookup.
    fn matches(&self, other: &Self) -> bool {
        self.head == other.head && self.args.len() == other.args.len()
    }

    fn children(&self) -> &[Id] {
        &self.args
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.args
    }
}

/// What is known of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Type of its values.
    pub ty: TypeId,
    /// Its value, if that is constant.
    pub constant: Option<ConstId>,
    /// The ONNX nodes it stands for.
    pub places: Places,
}

/// Who made a node: the rule (`None`: the importer) and the ONNX nodes it was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Position among the rules.
    pub rule: Option<u32>,
    /// ONNX nodes.
    pub places: Places,
}

/// An operator and the types of its operands.
type Application = (OpId, SmallVec<[TypeId; 4]>);

/// Interned things and the rules' bookkeeping: what egg calls the analysis.
#[derive(Clone, Debug)]
pub struct Tables {
    ops: Vec<Op>,
    op_ids: BTreeMap<u64, Vec<OpId>>,
    types: Vec<Vec<Fact>>,
    type_ids: BTreeMap<u64, Vec<TypeId>>,
    /// Every name of a place, in the order of the graph.
    locs: Vec<Loc>,
    sets: Vec<Vec<u32>>,
    set_ids: BTreeMap<Vec<u32>, Places>,
    /// What `infer` says of an operator on operands of these types.
    inferred: BTreeMap<Application, Result<TypeId, String>>,
    /// Facts of inputs.
    inputs: Vec<Fact>,
    /// Constants.
    pub constants: Constants,
    /// Who makes nodes at present.
    pub current: Origin,
    origins: Vec<Origin>,
}

/// The e-graph of the optimiser.
pub type Egraph = EGraph<Node, Tables>;

fn hash(of: impl Hash) -> u64 {
    let mut h = DefaultHasher::new();
    of.hash(&mut h);
    h.finish()
}

impl Tables {
    /// Tables of a graph with `inputs`.
    pub fn new(inputs: Vec<Fact>) -> Tables {
        let nowhere = Places(0);
        Tables {
            ops: vec![],
            op_ids: BTreeMap::new(),
            types: vec![],
            type_ids: BTreeMap::new(),
            locs: vec![],
            sets: vec![vec![]],
            set_ids: BTreeMap::from([(vec![], nowhere)]),
            inferred: BTreeMap::new(),
            inputs,
            constants: Constants::default(),
            current: Origin { rule: None, places: nowhere },
            origins: vec![],
        }
    }

    /// The handle of `op`.
    pub fn intern(&mut self, op: Op) -> OpId {
        let key = hash(&op);
        let known = self.op_ids.entry(key).or_default();
        if let Some(id) = known.iter().find(|id| self.ops[id.0 as usize] == op) {
            return *id;
        }
        let id = OpId(self.ops.len() as u32);
        known.push(id);
        self.ops.push(op);
        id
    }

    /// The operator of a handle.
    pub fn op(&self, id: OpId) -> &Op {
        &self.ops[id.0 as usize]
    }

    fn intern_type(&mut self, facts: Vec<Fact>) -> TypeId {
        let known = self.type_ids.entry(hash(&facts)).or_default();
        if let Some(id) = known.iter().find(|id| self.types[id.0 as usize] == facts) {
            return *id;
        }
        let id = TypeId(self.types.len() as u32);
        known.push(id);
        self.types.push(facts);
        id
    }

    /// The facts of a type, one a result.
    pub fn facts(&self, id: TypeId) -> &[Fact] {
        &self.types[id.0 as usize]
    }

    /// The type of `op` on operands of types `args`.
    ///
    /// # Errors
    /// What is wrong with the operands.
    pub fn infer(&mut self, op: OpId, args: &[TypeId]) -> Result<TypeId, String> {
        let key = (op, SmallVec::from_slice(args));
        if let Some(known) = self.inferred.get(&key) {
            return known.clone();
        }
        // An operand is one value: results of operators with several are taken by `Head::Port`.
        let ins: Option<Vec<Fact>> =
            args.iter().map(|t| if let [f] = self.facts(*t) { Some(f.clone()) } else { None }).collect();
        let found = match ins {
            None => Err("an operand is not one value".to_string()),
            Some(ins) => self.op(op).infer(&ins).map_err(|e| e.message).map(|f| self.intern_type(f)),
        };
        self.inferred.insert(key, found.clone());
        found
    }

    /// A new place of the model.
    pub fn place(&mut self, loc: &Loc) -> Places {
        if loc.name().is_none() {
            return Places(0);
        }
        // Places come in the order of the graph, mostly one a node: a linear search would be quadratic.
        let i = match self.locs.iter().rposition(|l| l == loc) {
            Some(i) if self.locs.len() - i < 64 => i,
            _ => {
                self.locs.push(loc.clone());
                self.locs.len() - 1
            }
        };
        self.intern_places(vec![i as u32])
    }

    fn intern_places(&mut self, mut set: Vec<u32>) -> Places {
        set.sort_unstable();
        set.dedup();
        if let Some(p) = self.set_ids.get(&set) {
            return *p;
        }
        let p = Places(self.sets.len() as u32);
        self.sets.push(set.clone());
        self.set_ids.insert(set, p);
        p
    }

    /// All places of `all`.
    pub fn union_places(&mut self, all: impl IntoIterator<Item = Places>) -> Places {
        let set = all.into_iter().flat_map(|p| self.sets[p.0 as usize].clone()).collect();
        self.intern_places(set)
    }

    /// The names of places, in the order of the model.
    pub fn names(&self, p: Places) -> Vec<&str> {
        self.sets[p.0 as usize].iter().filter_map(|i| self.locs[*i as usize].name()).collect()
    }

    /// The places as one location.
    pub fn loc(&self, p: Places) -> Loc {
        match &self.sets[p.0 as usize][..] {
            [] => Loc::none(),
            [one] => self.locs[*one as usize].clone(),
            _ => Loc::new(self.names(p).join(" + ")),
        }
    }

    /// The first of the places, in the order of the model; places nowhere come last.
    pub fn first(&self, p: Places) -> u32 {
        self.sets[p.0 as usize].first().copied().unwrap_or(u32::MAX)
    }

    /// The last of the places.
    pub fn last(&self, p: Places) -> u32 {
        self.sets[p.0 as usize].last().copied().unwrap_or(u32::MAX)
    }

    /// Who made the node with egg's id `id`.
    pub fn origin(&self, id: Id) -> Origin {
        self.origins.get(usize::from(id)).copied().unwrap_or(Origin { rule: None, places: Places(0) })
    }

    fn type_of(&mut self, node: &Node, args: &[Facts]) -> TypeId {
        match node.head {
            Head::Op(_, op) => {
                let types: SmallVec<[TypeId; 4]> = args.iter().map(|f| f.ty).collect();
                match self.infer(op, &types) {
                    Ok(t) => t,
                    // Nodes are made by `add` alone, which has asked.
                    Err(_) => self.intern_type(vec![]),
                }
            }
            Head::Input(i) => {
                let f = self.inputs[i as usize].clone();
                self.intern_type(vec![f])
            }
            Head::Const(c) => {
                let f = self.constants.fact(c);
                self.intern_type(vec![f])
            }
            Head::Port(p) => {
                let f = args.first().and_then(|f| self.facts(f.ty).get(usize::from(p)).cloned());
                self.intern_type(f.into_iter().collect())
            }
        }
    }

    fn constant_of(&mut self, node: &Node, ty: TypeId, args: &[Facts]) -> Option<ConstId> {
        match node.head {
            Head::Const(c) => Some(c),
            Head::Input(_) | Head::Port(_) => None,
            Head::Op(_, op) => {
                let ids: Option<Vec<ConstId>> = args.iter().map(|f| f.constant).collect();
                let (op, ids) = (self.op(op).clone(), ids.filter(|i| !i.is_empty())?);
                let [fact] = self.facts(ty) else { return None };
                let fact = fact.clone();
                self.constants.apply(&op, &ids, 0, &fact)
            }
        }
    }
}

impl Analysis<Node> for Tables {
    type Data = Facts;

    fn make(eg: &mut Egraph, node: &Node, id: Id) -> Facts {
        let args: Vec<Facts> = node.args.iter().map(|a| eg[*a].data.clone()).collect();
        let t = &mut eg.analysis;
        let ty = t.type_of(node, &args);
        let constant = t.constant_of(node, ty, &args);
        if usize::from(id) == t.origins.len() {
            let now = t.current;
            t.origins.push(now);
        }
        Facts { ty, constant, places: t.current.places }
    }

    /// Nodes that were made keep what they were made from.
    fn remake(eg: &mut Egraph, node: &Node, id: Id) -> Facts {
        let (now, places) = (eg.analysis.current, eg[id].data.places);
        eg.analysis.current.places = places;
        let facts = Self::make(eg, node, id);
        eg.analysis.current = now;
        facts
    }

    fn merge(&mut self, a: &mut Facts, b: Facts) -> DidMerge {
        // The cheapest soundness check there is.
        assert_eq!(self.facts(a.ty), self.facts(b.ty), "values of different types were made equal");
        let constant = match (a.constant, b.constant) {
            (Some(x), Some(y)) => Some(prefer(&self.constants, x, y)),
            (x, y) => x.or(y),
        };
        // The original's places say more than those of what rules made of it and its neighbours.
        let fewer = |p: Places| (self.sets[p.0 as usize].is_empty(), self.sets[p.0 as usize].len(), p);
        let places = a.places.min_by(b.places, fewer);
        let merged = Facts { ty: a.ty, constant, places };
        // Places and types say nothing that parents depend on.
        let did = DidMerge(merged.constant != a.constant, merged.constant != b.constant);
        *a = merged;
        did
    }

    fn modify(eg: &mut Egraph, id: Id) {
        let Some(c) = eg[id].data.constant else { return };
        if eg.analysis.constants.is_lazy(c) || eg[id].nodes.iter().any(|n| n.head == Head::Const(c)) {
            return;
        }
        let new = eg.add(Node::new(Head::Const(c), &[]));
        eg.union(id, new);
    }
}

/// Data is better than an expression; else the older.
fn prefer(c: &Constants, x: ConstId, y: ConstId) -> ConstId {
    match (c.is_lazy(x), c.is_lazy(y)) {
        (true, false) => y,
        (false, true) => x,
        _ => x.min(y),
    }
}

trait MinBy: Sized {
    fn min_by<K: Ord>(self, other: Self, key: impl Fn(Self) -> K) -> Self
    where
        Self: Copy,
    {
        if key(other) < key(self) { other } else { self }
    }
}
impl MinBy for Places {}

/// Reads the one fact of a class.
pub fn fact(eg: &Egraph, id: Id) -> Option<&Fact> {
    match eg.analysis.facts(eg[eg.find(id)].data.ty) {
        [f] => Some(f),
        _ => None,
    }
}

/// The number that a constant class is all over.
pub fn uniform(eg: &Egraph, id: Id) -> Option<f64> {
    eg.analysis.constants.uniform(eg[eg.find(id)].data.constant?)
}

/// Adds an operator; its type is asked for first, so that no ill-typed node gets in.
///
/// # Errors
/// What is wrong with the operands.
pub fn add(eg: &mut Egraph, op: Op, args: &[Id]) -> Result<Id, String> {
    let name = op.name();
    let op = eg.analysis.intern(op);
    let types: SmallVec<[TypeId; 4]> = args.iter().map(|a| eg[eg.find(*a)].data.ty).collect();
    eg.analysis.infer(op, &types)?;
    Ok(eg.add(Node::new(Head::Op(name, op), args)))
}

/// Adds constant data.
pub fn add_data(eg: &mut Egraph, name: &str, tensor: Tensor) -> Id {
    let c = eg.analysis.constants.data(name, tensor);
    eg.add(Node::new(Head::Const(c), &[]))
}

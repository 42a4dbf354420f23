//! Quantising a float model: where ranges are needed, and quantise-dequantise pairs by given ranges.
//!
//! Everything here works on the canonical graph, which is the same for the same model. Values and layers go by the names of the
//! nodes that make them.

use super::moves::moves;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use tenon_base::{DType, Loc, Scalar, Tensor};
use tenon_ir::ops::binary::Binary;
use tenon_ir::ops::dequantize::Dequantize;
use tenon_ir::ops::pool::PoolKind;
use tenon_ir::ops::quantize::Quantize;
use tenon_ir::ops::reduce::Kind;
use tenon_ir::{Graph, InferError, NodeId, NodeKind, Op, OpClass, Operator, ValueId};

/// A value whose range is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Unique in the graph.
    pub name: String,
    /// The value.
    pub value: ValueId,
}

/// A convolution or matrix product with constant weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Unique in the graph.
    pub name: String,
    /// The node.
    pub node: NodeId,
    /// The name of the value it reads, if that is to be quantised.
    pub input: Option<String>,
}

/// What can be quantised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sites {
    /// Values, in the order they are computed.
    pub values: Vec<Site>,
    /// Layers, in the order they are computed.
    pub layers: Vec<Layer>,
}

/// The values from `min` to `max` are kept apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// At most 0 is used.
    pub min: f32,
    /// At least 0 is used.
    pub max: f32,
}

impl Range {
    /// Scale and zero point of `u8`; 0 is exact.
    pub fn params(self) -> (f32, u8) {
        let (lo, hi) = (self.min.min(0.0), self.max.max(0.0));
        let scale = ((f64::from(hi) - f64::from(lo)) / 255.0) as f32;
        if !(scale.is_normal()) {
            return (1.0, 0);
        }
        let zero = (-f64::from(lo) / f64::from(scale)).round_ties_even().clamp(0.0, 255.0);
        (scale, zero as u8)
    }
}

/// How to quantise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// By name of the value.
    pub ranges: BTreeMap<String, Range>,
    /// Layers that stay in floats.
    pub float: BTreeSet<String>,
    /// Layers that are said to be in integers, as all are that do not stay in floats.
    pub integers: BTreeSet<String>,
    /// By name of the layer: what is added to the bias, in units of the sum of products, one for each output channel.
    pub corrections: BTreeMap<String, Vec<i32>>,
}

/// Why a choice does not fit a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChoiceError {
    /// A value that a quantised layer reads has no range.
    NoRange {
        /// The value.
        value: String,
        /// Who reads it.
        layer: String,
    },
    /// There is no such value or layer.
    Unknown {
        /// `value` or `layer`.
        what: &'static str,
        /// Its name.
        name: String,
        /// Names there are, nearest first.
        near: Vec<String>,
    },
    /// A correction has another length than the layer has channels.
    Correction {
        /// The layer.
        layer: String,
        /// Its channels.
        expected: usize,
        /// What the choice has.
        found: usize,
    },
    /// A bug.
    Graph(String),
}

impl fmt::Display for ChoiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChoiceError::NoRange { value, layer } => write!(
                f,
                "no range for value \"{value}\", which layer \"{layer}\" reads; add one, or set the layer's precision to \"float\""
            ),
            ChoiceError::Unknown { what, name, near } => {
                write!(f, "the model has no {what} \"{name}\"")?;
                if !near.is_empty() {
                    write!(f, "; it has {}", near.iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", "))?;
                }
                Ok(())
            }
            ChoiceError::Correction { layer, expected, found } => {
                write!(f, "layer \"{layer}\": expected a correction for each of {expected} channels, found {found}")
            }
            ChoiceError::Graph(m) => f.write_str(m),
        }
    }
}
impl std::error::Error for ChoiceError {}

impl From<InferError> for ChoiceError {
    fn from(e: InferError) -> ChoiceError {
        ChoiceError::Graph(e.message)
    }
}

/// Whether integers go through `op` on their way: the order of values is kept.
fn transparent(op: &Op) -> bool {
    moves(op) || matches!(op.name(), "relu" | "clip")
}

/// Operand and output channels of a layer: weights are constant and `f32`.
fn layer_channels(graph: &Graph, id: NodeId) -> Option<usize> {
    let ins = graph.operands(id);
    let axis = match graph.op(id)? {
        Op::Conv(_) => 0,
        Op::MatMul(m) if graph.fact(ins[1]).shape.rank() == 2 => usize::from(!m.trans_b),
        _ => return None,
    };
    let w = graph.weight(ins[1])?;
    let float = w.dtype() == DType::F32 && graph.fact(ins[0]).dtype == DType::F32 && graph.weight(ins[0]).is_none();
    float.then(|| w.shape()[axis])
}

/// Operators that join or average quantised values.
fn joins(graph: &Graph, id: NodeId) -> bool {
    let ins = graph.operands(id);
    let Some(op) = graph.op(id) else { return false };
    let activations = ins.iter().all(|v| graph.weight(*v).is_none() && graph.fact(*v).dtype == DType::F32);
    let kind = match op {
        Op::Concat(_) => true,
        Op::Reduce(r) => r.kind == Kind::Mean,
        Op::Pool(p) => p.kind == PoolKind::Average,
        op => op.class() == OpClass::Pointwise && ins.len() == 2 && matches!(op.name(), "add" | "sub" | "mul"),
    };
    kind && activations
}

/// The value whose elements `v` has, before all moves.
fn unmoved(graph: &Graph, mut v: ValueId) -> ValueId {
    while graph.op(v.node).is_some_and(moves) {
        v = graph.operands(v.node)[0];
    }
    v
}

fn names(graph: &Graph, order: &[NodeId]) -> BTreeMap<NodeId, String> {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    let mut all = BTreeMap::new();
    for &id in order {
        let node = graph.node(id);
        let base = match &node.kind {
            NodeKind::Input(name) => name.clone(),
            NodeKind::Op(op) => node.loc.name().map_or_else(|| op.name().to_string(), str::to_string),
            _ => continue,
        };
        let n = count.entry(base.clone()).or_insert(0);
        *n += 1;
        all.insert(id, if *n == 1 { base } else { format!("{base}#{n}") });
    }
    all
}

/// What can be quantised in the canonical `graph`, leaving the layers that `float` names.
pub fn sites(graph: &Graph, float: &BTreeSet<String>) -> Result<Sites, ChoiceError> {
    let order = graph.topological().map_err(|e| ChoiceError::Graph(e.to_string()))?;
    let names = names(graph, &order);
    let name = |id: NodeId| names.get(&id).cloned().unwrap_or_default();
    let value_name = |v: ValueId| match v.port {
        0 => name(v.node),
        port => format!("{}:{port}", name(v.node)),
    };
    let mut quantised: BTreeSet<NodeId> = BTreeSet::new();
    let mut wanted: BTreeSet<NodeId> = BTreeSet::new();
    for &id in order.iter().rev() {
        let Some(op) = graph.op(id) else { continue };
        let users = graph.users(ValueId { node: id, port: 0 });
        if users.iter().any(|(u, _)| quantised.contains(u) || wanted.contains(u)) {
            if transparent(op) {
                wanted.insert(id);
            } else if joins(graph, id) {
                quantised.insert(id);
            }
        }
        if layer_channels(graph, id).is_some() && !float.contains(&name(id)) {
            quantised.insert(id);
        }
    }
    let mut values: Vec<Site> = vec![];
    let mut seen = BTreeSet::new();
    let mut sites = Sites::default();
    for &id in &order {
        let is_layer = layer_channels(graph, id).is_some();
        let mut input = None;
        if quantised.contains(&id) {
            let operands = graph.operands(id);
            for v in if is_layer { &operands[..1] } else { &operands[..] } {
                let v = unmoved(graph, *v);
                if graph.weight(v).is_some() {
                    continue;
                }
                input.get_or_insert(value_name(v));
                if seen.insert(v) {
                    values.push(Site { name: value_name(v), value: v });
                }
            }
        }
        if is_layer {
            sites.layers.push(Layer { name: name(id), node: id, input });
        }
    }
    let position: BTreeMap<NodeId, usize> = order.iter().enumerate().map(|(i, n)| (*n, i)).collect();
    values.sort_by_key(|s| position.get(&s.value.node).copied());
    sites.values = values;
    Ok(sites)
}

/// The weights of a layer as bytes: data, and the scale of each output channel.
pub fn quantised_weights(graph: &Graph, node: NodeId) -> Option<(Tensor, Vec<f32>, usize)> {
    let channels = layer_channels(graph, node)?;
    let ins = graph.operands(node);
    let w = graph.weight(ins[1])?;
    let axis = match graph.op(node)? {
        Op::MatMul(m) if !m.trans_b => 1,
        _ => 0,
    };
    let inner: usize = w.shape()[axis + 1..].iter().product();
    let data = w.to_f64();
    let channel = |i: usize| i / inner.max(1) % channels.max(1);
    let mut largest = vec![0f64; channels];
    for (i, v) in data.iter().enumerate() {
        let m = &mut largest[channel(i)];
        *m = m.max(v.abs());
    }
    let scale: Vec<f32> = largest.iter().map(|m| if *m > 0.0 { (m / 127.0) as f32 } else { 1.0 }).collect();
    let q = data.iter().enumerate().map(|(i, v)| {
        let q = (v / f64::from(scale[channel(i)])).round_ties_even().clamp(-127.0, 127.0);
        Scalar::of_int(DType::I8, q as i128)
    });
    Some((Tensor::from_scalars(DType::I8, w.shape(), q), scale, axis))
}

/// Quantises `graph`, which is canonical, as `choice` says; gives the values that stand for the sites', by name.
pub fn insert(graph: &mut Graph, choice: &Choice) -> Result<Vec<(String, ValueId)>, ChoiceError> {
    let all = sites(graph, &BTreeSet::new())?;
    let unknown = |what, name: &String, have: Vec<&String>| ChoiceError::Unknown {
        what,
        name: name.clone(),
        near: have.into_iter().take(3).cloned().collect(),
    };
    let layer_names: Vec<&String> = all.layers.iter().map(|l| &l.name).collect();
    for name in choice.float.iter().chain(&choice.integers).chain(choice.corrections.keys()) {
        if !layer_names.contains(&name) {
            return Err(unknown("layer", name, layer_names));
        }
    }
    let value_names: Vec<&String> = all.values.iter().map(|s| &s.name).collect();
    for name in choice.ranges.keys() {
        if !value_names.contains(&name) {
            return Err(unknown("value", name, value_names));
        }
    }
    let sites = sites(graph, &choice.float)?;
    let mut made = vec![];
    for site in &sites.values {
        let Some(range) = choice.ranges.get(&site.name) else {
            let reader = sites.layers.iter().find(|l| l.input.as_ref() == Some(&site.name));
            let layer = reader.map_or_else(|| "an addition".to_string(), |l| l.name.clone());
            return Err(ChoiceError::NoRange { value: site.name.clone(), layer });
        };
        let (scale, zero) = range.params();
        let loc = graph.node(site.value.node).loc.clone();
        let users = graph.users(site.value);
        let scale = graph.add_weight("", Tensor::new(&[], &[scale]));
        let zero = graph.add_weight("", Tensor::new(&[], &[zero]));
        let q = graph.add_op(Quantize { to: DType::U8 }, &[site.value, scale, zero], loc.clone())?[0];
        let x = graph.add_op(Dequantize {}, &[q, scale, zero], loc)?[0];
        for (user, operand) in users {
            graph.set_operand(user, operand, x);
        }
        made.push((site.name.clone(), x));
    }
    for layer in sites.layers.iter().filter(|l| l.input.is_some()) {
        let input = layer.input.as_ref().and_then(|n| choice.ranges.get(n));
        let x_scale = input.map_or(1.0, |r| r.params().0);
        quantise_layer(graph, layer, x_scale, choice.corrections.get(&layer.name))?;
    }
    Ok(made)
}

/// Replaces the weights of a layer by bytes, and corrects its bias.
fn quantise_layer(
    graph: &mut Graph,
    layer: &Layer,
    x_scale: f32,
    correction: Option<&Vec<i32>>,
) -> Result<(), ChoiceError> {
    let Some((w, scale, axis)) = quantised_weights(graph, layer.node) else { return Ok(()) };
    let loc: Loc = graph.node(layer.node).loc.clone();
    let rank = w.shape().len();
    let mut shape = vec![1; rank];
    shape[axis] = scale.len();
    let q = graph.add_weight(layer.name.clone(), w);
    let s = graph.add_weight("", Tensor::new(&shape, &scale));
    let x = graph.add_op(Dequantize {}, &[q, s], loc.clone())?[0];
    graph.set_operand(layer.node, 1, x);
    let Some(units) = correction else { return Ok(()) };
    if units.len() != scale.len() {
        return Err(ChoiceError::Correction { layer: layer.name.clone(), expected: scale.len(), found: units.len() });
    }
    if units.iter().all(|u| *u == 0) {
        return Ok(());
    }
    let added: Vec<f32> = units.iter().zip(&scale).map(|(u, s)| *u as f32 * (x_scale * s)).collect();
    let ins = graph.operands(layer.node);
    match (graph.op(layer.node), ins.get(2).and_then(|b| graph.weight(*b))) {
        (Some(Op::Conv(_)), Some(bias)) => {
            let sum: Vec<f64> = bias.to_f64().iter().zip(&added).map(|(b, a)| b + f64::from(*a)).collect();
            let bias = Tensor::from_f64(DType::F32, bias.shape(), &sum);
            let b = graph.add_weight("", bias);
            graph.set_operand(layer.node, 2, b);
        }
        (Some(op), None) => {
            let old = ValueId { node: layer.node, port: 0 };
            let rank = graph.fact(old).shape.rank();
            let channel = match op {
                Op::Conv(c) => c.layout.channel_axis(rank),
                _ => rank - 1,
            };
            let mut shape = vec![1; rank];
            shape[channel] = added.len();
            let c = graph.add_weight("", Tensor::new(&shape, &added));
            let add = Binary::named("add").ok_or_else(|| ChoiceError::Graph("no add".into()))?;
            let y = graph.add_op(add, &[old, c], loc)?[0];
            graph.replace(old, y).map_err(|e| ChoiceError::Graph(e.to_string()))?;
            graph.set_operand(y.node, 0, old);
        }
        // A bias that is computed is left alone.
        _ => {}
    }
    Ok(())
}

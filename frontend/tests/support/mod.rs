//! Small models, built as messages and encoded.
#![allow(dead_code, unused_imports, reason = "each test uses some of it")]

#[path = "../../src/proto.rs"]
mod proto;

use bytes::Bytes;
use prost::Message as _;
pub(crate) use proto::{
    AttributeKind, AttributeProto, Dimension, DimensionValue, ElementType, FunctionProto, GraphProto, MapType,
    ModelProto, NodeProto, OperatorSetId, SparseTensorProto, StringStringEntry, TensorProto, TensorShapeProto,
    TensorType, TypeProto, TypeValue, ValueInfoProto,
};
use std::collections::BTreeMap;
use tenon_frontend::{ImportOptions, Imported, import_bytes};

/// Element types.
pub(crate) const F32: i32 = 1;
/// Element types.
pub(crate) const I64: i32 = 7;
/// Element types.
pub(crate) const BOOL: i32 = 9;

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|s| s.to_string()).collect()
}

/// A node without attributes, named after its first output.
pub(crate) fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let name = format!("make_{}", outputs.first().unwrap_or(&""));
    NodeProto { name, op_type: op.into(), input: owned(inputs), output: owned(outputs), ..NodeProto::default() }
}

/// The same with an attribute.
pub(crate) fn with(mut n: NodeProto, name: &str, a: AttributeProto) -> NodeProto {
    n.attribute.push(AttributeProto { name: name.into(), ..a });
    n
}

/// An INT.
pub(crate) fn int(v: i64) -> AttributeProto {
    AttributeProto { i: Some(v), kind: AttributeKind::Int as i32, ..AttributeProto::default() }
}

/// An INTS.
pub(crate) fn ints(v: &[i64]) -> AttributeProto {
    AttributeProto { ints: v.to_vec(), kind: AttributeKind::Ints as i32, ..AttributeProto::default() }
}

/// A GRAPH.
pub(crate) fn graph_attr(g: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(Box::new(g)), kind: AttributeKind::Graph as i32, ..AttributeProto::default() }
}

/// A TENSOR.
pub(crate) fn tensor_attr(t: TensorProto) -> AttributeProto {
    AttributeProto { t: Some(Box::new(t)), kind: AttributeKind::Tensor as i32, ..AttributeProto::default() }
}

/// A value of another kind, without its value.
pub(crate) fn kind(k: AttributeKind) -> AttributeProto {
    AttributeProto { kind: k as i32, ..AttributeProto::default() }
}

/// A reference to an attribute of the function.
pub(crate) fn reference(name: &str) -> AttributeProto {
    AttributeProto { ref_attr_name: name.into(), kind: AttributeKind::Int as i32, ..AttributeProto::default() }
}

/// A declared tensor; extents are numbers, names, or `""`.
pub(crate) fn value(name: &str, elem_type: i32, dims: &[&str]) -> ValueInfoProto {
    let dim = |d: &&str| {
        let value = match d.parse() {
            Ok(n) => Some(DimensionValue::Value(n)),
            Err(_) if d.is_empty() => None,
            Err(_) => Some(DimensionValue::Param(d.to_string())),
        };
        Dimension { value }
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    typed(name, TypeValue::Tensor(TensorType { elem_type, shape }))
}

/// A declared value of any type.
pub(crate) fn typed(name: &str, value: TypeValue) -> ValueInfoProto {
    ValueInfoProto { name: name.into(), ty: Some(TypeProto { value: Some(value) }) }
}

/// A sequence of f32 tensors.
pub(crate) fn sequence() -> TypeValue {
    TypeValue::Sequence(Box::new(ElementType { elem_type: Some(Box::new(tensor_type(F32))) }))
}

/// A tensor of unknown rank.
pub(crate) fn tensor_type(elem_type: i32) -> TypeProto {
    TypeProto { value: Some(TypeValue::Tensor(TensorType { elem_type, shape: None })) }
}

/// An f32 initializer with raw data.
pub(crate) fn weights(name: &str, dims: &[i64]) -> TensorProto {
    let n = dims.iter().product::<i64>();
    let raw: Vec<u8> = (0..n).flat_map(|i| (i as f32 * 0.25 - 1.0).to_le_bytes()).collect();
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: F32,
        raw_data: Some(raw.into()),
        ..TensorProto::default()
    }
}

/// An i64 initializer with typed data.
pub(crate) fn integers(name: &str, dims: &[i64], v: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: I64,
        int64_data: v.to_vec(),
        ..TensorProto::default()
    }
}

/// A bool scalar.
pub(crate) fn boolean(name: &str, v: bool) -> TensorProto {
    let raw = Bytes::copy_from_slice(&[u8::from(v)]);
    TensorProto { name: name.into(), data_type: BOOL, raw_data: Some(raw), ..TensorProto::default() }
}

/// `x: f32[2,3]` → `nodes` → `y: f32[2,3]`, opset 17.
pub(crate) fn model(nodes: Vec<NodeProto>) -> ModelProto {
    let graph = GraphProto {
        name: "g".into(),
        node: nodes,
        input: vec![value("x", F32, &["2", "3"])],
        output: vec![value("y", F32, &["2", "3"])],
        ..GraphProto::default()
    };
    ModelProto {
        ir_version: 8,
        producer_name: "test".into(),
        opset_import: vec![opset("", 17)],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// A domain's version.
pub(crate) fn opset(domain: &str, version: i64) -> OperatorSetId {
    OperatorSetId { domain: domain.into(), version }
}

/// Changes the graph of a model.
pub(crate) fn edit(mut m: ModelProto, f: impl FnOnce(&mut GraphProto)) -> ModelProto {
    f(m.graph.get_or_insert_default());
    m
}

/// The file.
pub(crate) fn encode(m: &ModelProto) -> Bytes {
    m.encode_to_vec().into()
}

/// Imports with options.
pub(crate) fn import(m: &ModelProto, options: &ImportOptions) -> Result<Imported, String> {
    import_bytes(&encode(m), None, options).map_err(|d| d.to_string())
}

/// All problems of a model, as text; for a model without errors its warnings.
pub(crate) fn problems(m: &ModelProto) -> String {
    match import(m, &ImportOptions::default()) {
        Ok(done) => done.warnings.to_string(),
        Err(text) => text,
    }
}

/// Pins of extents.
pub(crate) fn dims(pins: &[(&str, i64)]) -> ImportOptions {
    let dims: BTreeMap<String, i64> = pins.iter().map(|(n, v)| (n.to_string(), *v)).collect();
    ImportOptions { dims, ..ImportOptions::default() }
}

//! Attributes and subgraphs, from the file format to the neutral view that operators read.

use crate::files::DataFiles;
use crate::proto::{AttributeKind, AttributeProto, GraphProto, NodeProto};
use crate::tensor::to_tensor;
use crate::types::declared;
use bytes::Bytes;
use std::collections::BTreeMap;
use tenon_base::{Dim, Fact, Shape};
use tenon_ir::import::OnnxRawNode;
use tenon_ir::{ImportError, OnnxAttr, OnnxGraph};

/// Attributes that the caller of a function passes: what `ref_attr_name` refers to.
pub(crate) type Passed<'p> = BTreeMap<&'p str, &'p AttributeProto>;

/// `""` and `ai.onnx` are one domain.
pub(crate) fn domain(d: &str) -> &str {
    if d == "ai.onnx" { "" } else { d }
}

/// The attributes of `node` by name, references to the attributes of the enclosing function resolved. `None` for `passed`
/// outside functions.
pub(crate) fn resolved<'p>(node: &'p NodeProto, passed: Option<&Passed<'p>>) -> Result<Passed<'p>, ImportError> {
    let mut all = BTreeMap::new();
    for a in &node.attribute {
        let value = match (a.ref_attr_name.as_str(), passed) {
            ("", _) => Some(a),
            (_, Some(passed)) => passed.get(a.ref_attr_name.as_str()).copied(),
            (name, None) => {
                return Err(ImportError::new(format!(
                    "attribute `{}` refers to the function attribute `{name}`, but the node is not in a function",
                    a.name
                )));
            }
        };
        // A function attribute that the caller does not give: the attribute is not there.
        let Some(value) = value else { continue };
        if all.insert(a.name.as_str(), value).is_some() {
            return Err(ImportError::new(format!("attribute `{}` is given twice", a.name)));
        }
    }
    Ok(all)
}

/// The kind of an attribute's value; files of IR version 1 do not say it.
fn kind(a: &AttributeProto) -> AttributeKind {
    use AttributeKind as K;
    match K::try_from(a.kind).unwrap_or(K::Undefined) {
        K::Undefined if a.f.is_some() => K::Float,
        K::Undefined if a.i.is_some() => K::Int,
        K::Undefined if a.s.is_some() => K::String,
        K::Undefined if a.t.is_some() => K::Tensor,
        K::Undefined if a.g.is_some() => K::Graph,
        K::Undefined if !a.floats.is_empty() => K::Floats,
        K::Undefined if !a.ints.is_empty() => K::Ints,
        K::Undefined if !a.strings.is_empty() => K::Strings,
        known => known,
    }
}

fn text(b: &Bytes) -> String {
    String::from_utf8_lossy(b).into_owned()
}

/// The value of an attribute.
pub(crate) fn value(
    a: &AttributeProto,
    passed: Option<&Passed<'_>>,
    files: &mut DataFiles,
) -> Result<OnnxAttr, ImportError> {
    use AttributeKind as K;
    Ok(match kind(a) {
        // Writers may leave out a value that is 0 or empty.
        K::Float => OnnxAttr::Float(a.f.unwrap_or(0.0)),
        K::Int => OnnxAttr::Int(a.i.unwrap_or(0)),
        K::String => OnnxAttr::Str(a.s.as_ref().map(text).unwrap_or_default()),
        K::Tensor => {
            let t = a.t.as_ref().ok_or_else(|| ImportError::new(format!("attribute `{}` has no value", a.name)))?;
            OnnxAttr::Tensor(to_tensor(t, files).map_err(|e| inside(&format!("attribute `{}`", a.name), e))?)
        }
        K::Graph => {
            let g = a.g.as_ref().ok_or_else(|| ImportError::new(format!("attribute `{}` has no value", a.name)))?;
            OnnxAttr::Graph(Box::new(
                subgraph(g, passed, files).map_err(|e| inside(&format!("subgraph `{}`", a.name), e))?,
            ))
        }
        K::Floats => OnnxAttr::Floats(a.floats.clone()),
        K::Ints => OnnxAttr::Ints(a.ints.clone()),
        K::Strings => OnnxAttr::Strs(a.strings.iter().map(text).collect()),
        K::Tensors => OnnxAttr::Other("TENSORS"),
        K::Graphs => OnnxAttr::Other("GRAPHS"),
        K::SparseTensor => OnnxAttr::Other("SPARSE_TENSOR"),
        K::SparseTensors => OnnxAttr::Other("SPARSE_TENSORS"),
        K::TypeProto => OnnxAttr::Other("TYPE_PROTO"),
        K::TypeProtos => OnnxAttr::Other("TYPE_PROTOS"),
        K::Undefined => {
            return Err(ImportError::new(format!("attribute `{}` has kind {}, which is not known", a.name, a.kind)));
        }
    })
}

fn inside(what: &str, e: ImportError) -> ImportError {
    ImportError { message: format!("{what}: {}", e.message), ..e }
}

/// The neutral view of a node.
pub(crate) fn node(
    n: &NodeProto,
    attrs: &Passed<'_>,
    passed: Option<&Passed<'_>>,
    files: &mut DataFiles,
) -> Result<OnnxRawNode, ImportError> {
    let values = attrs.iter().map(|(name, a)| Ok(((*name).to_string(), value(a, passed, files)?)));
    Ok(OnnxRawNode {
        name: n.name.clone(),
        op_type: n.op_type.clone(),
        domain: domain(&n.domain).to_string(),
        inputs: n.input.clone(),
        outputs: n.output.clone(),
        attrs: values.collect::<Result<_, ImportError>>()?,
    })
}

/// The neutral view of a subgraph.
fn subgraph(g: &GraphProto, passed: Option<&Passed<'_>>, files: &mut DataFiles) -> Result<OnnxGraph, ImportError> {
    let mut out = OnnxGraph { name: g.name.clone(), ..OnnxGraph::default() };
    for n in &g.node {
        let attrs = resolved(n, passed)?;
        out.nodes.push(node(n, &attrs, passed, files).map_err(|e| inside(&format!("node `{}`", n.name), e))?);
    }
    let fact = |v: &crate::proto::ValueInfoProto| -> Result<(String, Option<Fact>), ImportError> {
        let d = declared(v).map_err(|e| inside(&format!("value `{}`", v.name), e))?;
        // An extent without a name is distinct from all others.
        let dim = |axis: usize, d: Option<Dim>| d.unwrap_or_else(|| Dim::sym(format!("{}_{axis}", v.name)));
        let dims = |d: Vec<Option<Dim>>| Shape(d.into_iter().enumerate().map(|(i, d)| dim(i, d)).collect());
        Ok((v.name.clone(), d.and_then(|d| Some(Fact::new(d.dtype, dims(d.dims?))))))
    };
    out.inputs = g.input.iter().map(fact).collect::<Result<_, _>>()?;
    out.outputs = g.output.iter().map(fact).collect::<Result<_, _>>()?;
    for t in &g.initializer {
        let tensor = to_tensor(t, files).map_err(|e| inside(&format!("initializer `{}`", t.name), e))?;
        out.initializers.push((t.name.clone(), tensor));
    }
    Ok(out)
}

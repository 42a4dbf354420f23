//! What a model file says of itself, without importing it; and which operators can be imported.

use crate::attr::domain;
use crate::control::built_in;
use crate::import::{Source, decode, op_label, opsets};
use crate::proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use crate::types::{declared, input_fact, names, type_name};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;
use tenon_base::{Diagnostics, Fact};
use tenon_ir::OnnxName;
use tenon_ir::ops::{ImportFn, importers};

/// Facts about a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelInfo {
    /// The model's graph name.
    pub name: String,
    /// Who wrote it, with the version: `pytorch 2.7.0`.
    pub producer: String,
    /// The version of the file format.
    pub ir_version: i64,
    /// The version of each operator domain (`ai.onnx` is `""`).
    pub opsets: BTreeMap<String, i64>,
    /// Metadata that the producer wrote.
    pub metadata: BTreeMap<String, String>,
    /// Nodes, those of subgraphs and functions included.
    pub node_count: usize,
    /// Initializers of the main graph.
    pub initializer_count: usize,
    /// Inputs that a run must be given (not initializers): name, and type where it is a tensor of known rank. Extents without a
    /// name have the names by which they can be pinned.
    pub inputs: Vec<(String, Option<Fact>)>,
    /// Outputs: name and declared type, e.g. `f32 tensor`.
    pub outputs: Vec<(String, String)>,
    /// Files of external data, relative to the model's folder, sorted.
    pub data_files: Vec<String>,
    /// Declared types of inputs and outputs in words: `f32 tensor`, `sequence of i64 tensors`, `optional f32 tensor`.
    pub types: BTreeMap<String, String>,
    /// Every operator of the model with its domain (`Conv`, `com.microsoft.Gelu`).
    pub ops: BTreeMap<String, OpUse>,
}

/// How a model uses an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpUse {
    /// Nodes.
    pub count: usize,
    /// Whether it can be imported, as far as the operator alone tells.
    pub supported: bool,
}

/// Reads what a model file says of itself.
///
/// # Errors
/// When the file cannot be read or is not an ONNX model.
pub fn inspect_file(path: &Path) -> Result<ModelInfo, Diagnostics> {
    let data = crate::files::map(path).map_err(|e| crate::import::general(e).into_diagnostics())?;
    inspect_bytes(&data)
}

/// The same, from bytes.
///
/// # Errors
/// When the bytes are not an ONNX model.
pub fn inspect_bytes(data: &Bytes) -> Result<ModelInfo, Diagnostics> {
    let model = decode(data).map_err(|e| crate::import::general(e).into_diagnostics())?;
    Ok(info(&model))
}

/// The importers, by domain and name.
#[derive(Debug)]
pub(crate) struct Table(BTreeMap<(&'static str, &'static str), (OnnxName, ImportFn)>);

/// What the table says of an operator.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Known {
    /// Import it so.
    Yes(ImportFn),
    /// It exists only from this opset on.
    From(i64),
    /// Not an operator of the table.
    No,
}

impl Table {
    /// The table of all operators, made once in a process.
    pub(crate) fn all() -> &'static Table {
        static ALL: LazyLock<Table> = LazyLock::new(|| {
            let mut all = BTreeMap::new();
            for (name, import) in importers() {
                all.entry((name.domain, name.name)).or_insert((name, import));
            }
            Table(all)
        });
        &ALL
    }

    /// The importer of an operator at `opset`.
    pub(crate) fn get(&self, domain: &str, op: &str, opset: i64) -> Known {
        match self.0.get(&(domain, op)) {
            None => Known::No,
            Some((name, import)) => match name.versions.iter().min() {
                Some(first) if *first > opset => Known::From(*first),
                _ => Known::Yes(*import),
            },
        }
    }
}

/// What can be said of `model` without importing it.
pub(crate) fn info(model: &ModelProto) -> ModelInfo {
    let mut out = ModelInfo {
        producer: format!("{} {}", model.producer_name, model.producer_version).trim().to_string(),
        ir_version: model.ir_version,
        opsets: opsets(&model.opset_import).into_iter().map(|(d, v)| (d.to_string(), v)).collect(),
        metadata: model.metadata_props.iter().map(|e| (e.key.clone(), e.value.clone())).collect(),
        ..ModelInfo::default()
    };
    let table = Table::all();
    let local: BTreeSet<(&str, &str)> =
        model.functions.iter().map(|f| (domain(&f.domain), f.name.as_str())).collect();
    let mut count = |n: &NodeProto, opsets: &BTreeMap<&str, i64>| {
        let d = domain(&n.domain);
        let opset = opsets.get(d).copied().unwrap_or(1);
        let supported = built_in(d, &n.op_type)
            || matches!(table.get(d, &n.op_type, opset), Known::Yes(_))
            || local.contains(&(d, n.op_type.as_str()));
        out.node_count += 1;
        let entry = out.ops.entry(op_label(d, &n.op_type, None)).or_insert(OpUse { count: 0, supported });
        entry.count += 1;
        entry.supported &= supported;
    };
    let versions = opsets(&model.opset_import);
    if let Some(g) = &model.graph {
        visit(&g.node, &mut |n| count(n, &versions));
    }
    for f in &model.functions {
        let versions = opsets(&f.opset_import);
        visit(&f.node, &mut |n| count(n, &versions));
    }
    let mut files = BTreeSet::new();
    if let Some(g) = &model.graph {
        data_files(g, &mut files);
    }
    model.functions.iter().for_each(|f| data_files_of_nodes(&f.node, &mut files));
    out.data_files = files.into_iter().collect();
    if let Some(g) = &model.graph {
        out.name.clone_from(&g.name);
        out.initializer_count = g.initializer.len();
        out.inputs = run_inputs(g).into_iter().map(|s| (s.value.name.clone(), s.fact)).collect();
        let ty = |v: &ValueInfoProto| v.ty.as_ref().map_or_else(|| "unknown type".to_string(), type_name);
        out.outputs = g.output.iter().map(|v| (v.name.clone(), ty(v))).collect();
        out.types = g.input.iter().chain(&g.output).map(|v| (v.name.clone(), ty(v))).collect();
    }
    out
}

/// Names the files that hold tensors of `g`.
fn data_files(g: &GraphProto, files: &mut BTreeSet<String>) {
    g.initializer.iter().for_each(|t| data_file(t, files));
    data_files_of_nodes(&g.node, files);
}

fn data_files_of_nodes(nodes: &[NodeProto], files: &mut BTreeSet<String>) {
    for a in nodes.iter().flat_map(|n| &n.attribute) {
        a.t.iter().for_each(|t| data_file(t, files));
        a.g.iter().for_each(|g| data_files(g, files));
    }
}

fn data_file(t: &TensorProto, files: &mut BTreeSet<String>) {
    if t.data_location == 1 {
        files.extend(t.external_data.iter().filter(|e| e.key == "location").map(|e| e.value.clone()));
    }
}

fn visit(nodes: &[NodeProto], f: &mut impl FnMut(&NodeProto)) {
    for n in nodes {
        f(n);
        for g in n.attribute.iter().filter_map(|a| a.g.as_deref()) {
            visit(&g.node, f);
        }
    }
}

/// Inputs of `g` that are not initializers, with the types by which they can be pinned.
pub(crate) fn run_inputs(g: &GraphProto) -> Vec<Source<'_>> {
    let constant: BTreeSet<&str> = g.initializer.iter().map(|t| t.name.as_str()).collect();
    let given = g.input.iter().filter(|v| !constant.contains(v.name.as_str()));
    let all: Vec<_> = given.map(|v| (v, declared(v))).collect();
    let mut taken = BTreeSet::new();
    for d in all.iter().filter_map(|(_, d)| d.as_ref().ok()?.as_ref()?.dims.as_ref()) {
        d.iter().flatten().for_each(|d| names(std::slice::from_ref(d), &mut taken));
    }
    all.into_iter()
        .map(|(value, d)| match d {
            Ok(d) => {
                let fact = d.as_ref().and_then(|d| input_fact(&value.name, d, &mut taken));
                Source { value, fact, declared: Ok(d) }
            }
            Err(e) => Source { value, fact: None, declared: Err(e) },
        })
        .collect()
}

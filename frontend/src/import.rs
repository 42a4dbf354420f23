//! From a file to a graph: the model's header, its inputs and its outputs. Its nodes are in `body.rs`.

use crate::attr::domain;
use crate::body::{Body, Session, Slot};
use crate::files;
use crate::info::{ModelInfo, info, run_inputs};
use crate::limits::check_fact;
use crate::proto::{GraphProto, ModelProto, OperatorSetId, ValueInfoProto};
use crate::report::Report;
use crate::types::{Declared, Pins, declared, names};
use crate::wire;
use bytes::Bytes;
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tenon_base::{Diagnostics, Dim, Fact, Shape, Tensor};
use tenon_ir::{Graph, ImportError};

/// Versions of the file format that are known.
const IR_VERSIONS: std::ops::RangeInclusive<i64> = 1..=14;
/// The newest version of `ai.onnx` that is known.
const NEWEST_OPSET: i64 = 28;

/// What an input that is a sequence or an optional will be given.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    /// Tensors of these types: they become inputs named `<name>.0`, `<name>.1`, ….
    Sequence(Vec<Fact>),
    /// A tensor of this type: an input of the same name.
    Tensor(Fact),
    /// Nothing.
    Nothing,
}

/// What a user fixes at import.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportOptions {
    /// Extents by name (`--dim batch=1`).
    pub dims: BTreeMap<String, i64>,
    /// Extents that are always another one (`--dim state_1=batch`), by name: a model need not say so.
    pub same: BTreeMap<String, String>,
    /// Inputs with a constant value (`--set sr=16000`): they are no inputs of the graph any more.
    pub set: BTreeMap<String, Tensor>,
    /// Values of inputs that a run will be given: they pin the extents that nothing else pins, and where the model cannot be
    /// compiled without knowing an input's value (one that gives a shape, say) that input is set to it.
    pub data: BTreeMap<String, Tensor>,
    /// Inputs that are sequences or optionals: what they will be given. Sequences that are outputs become outputs named
    /// `<name>.0`, `<name>.1`, ….
    pub given: BTreeMap<String, Given>,
    /// Extents that stay free whatever the data have.
    pub free: BTreeSet<String>,
}

/// An imported model.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The graph, every shape inferred. Extents that were not pinned are symbolic.
    pub graph: Graph,
    /// What a user may want to know although the import succeeded.
    pub warnings: Diagnostics,
    /// What the file says of itself.
    pub info: ModelInfo,
    /// Inputs of one `i64` that must have this value in every run, by name: for other values the model takes a branch that cannot
    /// be computed for its shapes.
    pub required: BTreeMap<String, i64>,
    /// Inputs that had to be set from [`ImportOptions::data`].
    pub set_from_data: Vec<String>,
}

/// Imports the model in the file `path`; its external data lie in the same folder or below.
///
/// # Errors
/// All problems of the model: unsupported operators first, each once with its nodes; then the others in the order of the
/// file. Nodes that only depend on a node with a problem are not reported.
pub fn import_file(path: &Path, options: &ImportOptions) -> Result<Imported, Diagnostics> {
    let data = files::map(path).map_err(|e| general(e).into_diagnostics())?;
    // The parent of a bare file name is the empty path, which is the current folder.
    let folder = path.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
    let mut done = import_bytes(&data, folder, options)?;
    if done.graph.name.is_empty()
        && let Some(stem) = path.file_stem()
    {
        done.graph.name = stem.to_string_lossy().into_owned();
    }
    Ok(done)
}

/// Imports the model in `data`; external data are looked up in `folder`, if there is one. Weights stay slices of `data`.
///
/// # Errors
/// As [`import_file`].
pub fn import_bytes(data: &Bytes, folder: Option<&Path>, options: &ImportOptions) -> Result<Imported, Diagnostics> {
    let model = decode(data).map_err(|e| general(e).into_diagnostics())?;
    let mut options = options.clone();
    let mut set_from_data = vec![];
    loop {
        match import_model(&model, folder, &options) {
            Ok(mut done) => {
                // Data of another value need the other branch; why it cannot be is what there is to tell.
                let other = |(n, v): (&String, &i64)| {
                    options.data.get(n).is_some_and(|t| t.to_i64() != [*v]).then(|| n.clone())
                };
                if let Some(name) = done.required.iter().find_map(other)
                    && let Some(value) = options.data.remove(&name)
                {
                    options.set.insert(name.clone(), value);
                    set_from_data.push(name);
                    continue;
                }
                done.set_from_data = set_from_data;
                return Ok(done);
            }
            Err((problems, needs)) => {
                // Ends: every round takes something out of the data.
                let known = set_from_data.len();
                for name in needs {
                    if let Some(value) = options.data.remove(&name) {
                        options.set.insert(name.clone(), value);
                        set_from_data.push(name);
                    }
                }
                if set_from_data.len() == known {
                    return Err(problems);
                }
            }
        }
    }
}

/// One attempt; with the problems come the inputs whose values would help.
fn import_model(
    model: &ModelProto,
    folder: Option<&Path>,
    options: &ImportOptions,
) -> Result<Imported, (Diagnostics, BTreeSet<String>)> {
    let mut session = Session::new(model, folder);
    check_header(model, &mut session.report);
    if let Some(graph) = &model.graph {
        session.top.graph.name.clone_from(&graph.name);
        let pins = inputs(&mut session, graph, options);
        session.define_initializers(graph);
        session.import_nodes(&graph.node, &Body::main(model));
        outputs(&mut session, graph, &pins);
    } else {
        session.report.error("", "", ImportError::new("the model has no graph"));
    }
    let needs = std::mem::take(&mut session.report.needs);
    let warnings = session.report.finish().map_err(|problems| (problems, needs))?;
    let (graph, required) = (session.top.graph, session.required);
    let mut out = Imported { graph, warnings, info: info(model), required, set_from_data: vec![] };
    // Constants that served only to compute shapes.
    out.graph.remove_dead();
    Ok(out)
}

/// A problem of the whole file.
pub(crate) struct General(ImportError);

pub(crate) fn general(e: ImportError) -> General {
    General(e)
}

impl General {
    pub(crate) fn into_diagnostics(self) -> Diagnostics {
        let mut report = Report::default();
        report.error("", "", self.0);
        report.finish().err().unwrap_or_default()
    }
}

/// Decodes a model; its raw data are slices of `data`.
pub(crate) fn decode(data: &Bytes) -> Result<ModelProto, ImportError> {
    let hint = recognise(data);
    let not_onnx = |message: String| ImportError { help: hint.map(str::to_string), ..ImportError::new(message) };
    if data.is_empty() {
        return Err(ImportError::new("the file is empty"));
    }
    if hint.is_some() {
        return Err(not_onnx("the file is not an ONNX model".to_string()));
    }
    wire::check(data, wire::Message::Model)?;
    let mut model = ModelProto::decode(data.clone())
        .map_err(|e| ImportError::new(format!("the file is not a valid ONNX model: {e}")))?;
    if model.graph.is_none() && model.opset_import.is_empty() {
        return Err(not_onnx("the file is not an ONNX model: it has neither a graph nor operator sets".to_string()));
    }
    // Operator sets came with IR version 3: older files have the first.
    if (1..3).contains(&model.ir_version) && model.opset_import.iter().all(|o| !domain(&o.domain).is_empty()) {
        model.opset_import.push(OperatorSetId { domain: String::new(), version: 1 });
    }
    Ok(model)
}

/// Files that are commonly mistaken for ONNX models, and what to do about them.
fn recognise(data: &[u8]) -> Option<&'static str> {
    let starts = |p: &[u8]| data.starts_with(p);
    if starts(b"version https://git-lfs") {
        Some("this is a Git LFS pointer: fetch the model with `git lfs pull`")
    } else if starts(b"PK\x03\x04") {
        Some("this is a zip archive, perhaps a PyTorch checkpoint: export it with torch.onnx.export")
    } else if data.get(4..8) == Some(b"TFL3".as_slice()) {
        Some("this is a TensorFlow Lite model: convert it with tf2onnx")
    } else if data.get(4..8) == Some(b"ORTM".as_slice()) {
        Some("this is an ONNX Runtime .ort model: use the .onnx file it was made from")
    } else if starts(b"\x89HDF") {
        Some("this is an HDF5 file, perhaps a Keras model: convert it with tf2onnx")
    } else if starts(b"<!") || starts(b"<html") {
        Some("this is a web page: the download went wrong")
    } else {
        None
    }
}

/// `Conv`, `com.microsoft.Gelu`, and with the opset `Conv@17`.
pub(crate) fn op_label(domain: &str, op: &str, opset: Option<i64>) -> String {
    let dot = if domain.is_empty() { "" } else { "." };
    match opset {
        Some(v) => format!("{domain}{dot}{op}@{v}"),
        None => format!("{domain}{dot}{op}"),
    }
}

/// The versions by domain. Of a domain that is listed twice the first counts, and a version below 1 counts as 1;
/// [`check_header`] reports both.
pub(crate) fn opsets(list: &[OperatorSetId]) -> BTreeMap<&str, i64> {
    let mut all = BTreeMap::new();
    for o in list {
        all.entry(domain(&o.domain)).or_insert(o.version.max(1));
    }
    all
}

fn check_header(model: &ModelProto, report: &mut Report) {
    let v = model.ir_version;
    let (oldest, newest) = (IR_VERSIONS.start(), IR_VERSIONS.end());
    if v < *oldest {
        let e = ImportError::new(format!("the file has IR version {v}; {oldest} to {newest} are supported"));
        report.error("", "", e.with_help("convert it with onnx.version_converter, or export it again"));
    } else if v > *newest {
        let e = ImportError::new(format!("the file has IR version {v}; the newest known one is {newest}"));
        report.warning("", "", e);
    }
    let all = opsets(&model.opset_import);
    for o in &model.opset_import {
        let (d, v) = (domain(&o.domain), o.version);
        let shown = if d.is_empty() { "ai.onnx" } else { d };
        if v < 1 {
            let e = ImportError::new(format!("domain `{shown}` is imported in version {v}: expected 1 or more"));
            report.error("", "", e);
        } else if let Some(first) = all.get(d)
            && *first != v
        {
            let e = ImportError::new(format!("domain `{shown}` is imported in two versions, {first} and {v}"));
            report.error("", "", e);
        }
    }
    match all.get("") {
        Some(v) if *v > NEWEST_OPSET => {
            let newest = NEWEST_OPSET;
            let e = ImportError::new(format!("the model uses opset {v}; the newest known one is {newest}"));
            report.warning(
                "",
                "",
                e.with_help("operators that changed since are read as they were: check the results"),
            );
        }
        Some(_) => {}
        None => {
            let used = model.graph.iter().flat_map(|g| &g.node).any(|n| domain(&n.domain).is_empty());
            if used {
                let e = ImportError::new("the model does not say which opset of ai.onnx it uses");
                report.error("", "", e.with_help("set `opset_import`, e.g. with onnx.helper.make_model"));
            }
        }
    }
}

/// An input that a run is given.
#[derive(Debug)]
pub(crate) struct Source<'p> {
    /// Its declaration.
    pub(crate) value: &'p ValueInfoProto,
    /// Its type, when the rank is known.
    pub(crate) fact: Option<Fact>,
    /// The declaration as read.
    pub(crate) declared: Result<Option<Declared>, ImportError>,
}

/// Adds the inputs; gives all pinned extents.
fn inputs<'p>(session: &mut Session<'p>, g: &'p GraphProto, options: &ImportOptions) -> Pins {
    let mut sources = run_inputs(g);
    let mut symbols = BTreeSet::new();
    sources.iter().filter_map(|s| s.fact.as_ref()).for_each(|f| names(&f.shape.0, &mut symbols));
    for name in options.same.iter().flat_map(|(a, b)| [a, b]) {
        if !symbols.contains(name) {
            session.report.error("", "", unknown("dimension", name, symbols.iter().map(String::as_str)));
        }
    }
    for d in sources.iter_mut().filter_map(|s| s.fact.as_mut()).flat_map(|f| &mut f.shape.0) {
        *d = d.renamed(&|n| options.same.get(n).cloned());
    }
    let mut pins = Pins(BTreeMap::new(), options.free.clone());
    for (name, &n) in &options.dims {
        if !symbols.contains(name) {
            session.report.error("", "", unknown("dimension", name, symbols.iter().map(String::as_str)));
        } else if n < 0 {
            let e = ImportError::new(format!("dimension `{name}` cannot be {n}: expected 0 or more"));
            session.report.error("", "", e);
        } else {
            pins.0.insert(name.clone(), n);
        }
    }
    for name in options.set.keys() {
        if !g.input.iter().any(|v| v.name == *name) {
            let all = g.input.iter().map(|v| v.name.as_str());
            session.report.error("", "", unknown("input", name, all));
        }
    }
    // Values first: they pin extents that other inputs share.
    for v in &g.input {
        if let Some(t) = options.set.get(&v.name) {
            let fact = sources.iter().find(|s| s.value.name == v.name).and_then(|s| s.fact.clone());
            check_set(session, v, fact.as_ref(), t, &mut pins);
        }
    }
    for s in &sources {
        if let (Some(t), Some(fact)) = (options.data.get(&s.value.name), &s.fact) {
            check_set(session, s.value, Some(fact), t, &mut pins);
        }
    }
    let mut seen = BTreeSet::new();
    for v in &g.input {
        if v.name.is_empty() {
            session.report.error("", "", ImportError::new("an input has no name"));
        } else if !seen.insert(v.name.as_str()) {
            session.report.error(&v.name, "", ImportError::new("two inputs have this name"));
        } else if let Some(t) = options.set.get(&v.name) {
            let id = session.top.graph.add_weight(v.name.clone(), t.clone());
            session.define(&v.name, Slot::Value(id));
        } else if let Some(given) = options.given.get(&v.name) {
            add_given(session, &v.name, given);
        } else if let Some(s) = sources.iter().find(|s| std::ptr::eq(s.value, v)) {
            add_input(session, s, &pins);
        }
    }
    pins
}

fn add_given<'p>(session: &mut Session<'p>, name: &'p str, given: &Given) {
    let mut add = |label: String, fact: &Fact| match check_fact(fact) {
        Ok(()) => Slot::Value(session.top.graph.add_input(label, fact.clone())),
        Err(message) => {
            session.report.error(name, "", ImportError::new(message));
            Slot::Poisoned
        }
    };
    let slot = match given {
        Given::Nothing => Slot::Nothing,
        Given::Tensor(fact) => add(name.to_string(), fact),
        Given::Sequence(facts) => {
            let items = facts.iter().enumerate().map(|(k, f)| add(format!("{name}.{k}"), f)).collect();
            session.list(items)
        }
    };
    session.define(name, slot);
}

fn unknown<'a>(what: &str, name: &str, all: impl Iterator<Item = &'a str>) -> ImportError {
    let list: Vec<&str> = all.collect();
    let help = if list.is_empty() {
        format!("the model has no {what}s that can be pinned")
    } else {
        format!("the model's {what}s are: {}", list.join(", "))
    };
    ImportError::new(format!("the model has no {what} `{name}`")).with_help(help)
}

fn check_set(session: &mut Session<'_>, v: &ValueInfoProto, fact: Option<&Fact>, t: &Tensor, pins: &mut Pins) {
    let mismatch = |expected: String| {
        ImportError::new(format!("expected {expected} for this input, found a value of type {}", t.fact()))
    };
    let Some(fact) = fact else {
        // An initializer that is also an input, or one without a declared shape: only the element type is known.
        if let Ok(Some(d)) = declared(v)
            && d.dtype != t.dtype()
        {
            session.report.error(&v.name, "", mismatch(format!("a {} tensor", d.dtype)));
        }
        return;
    };
    let pinned = Fact::new(fact.dtype, Shape(fact.shape.0.iter().map(|d| pins.apply(d)).collect()));
    let fits = fact.dtype == t.dtype() && fact.shape.rank() == t.shape().len() && pins.bind(fact, t.shape()).is_ok();
    if !fits {
        session.report.error(&v.name, "", mismatch(pinned.to_string()));
    }
}

fn add_input<'p>(session: &mut Session<'p>, s: &Source<'p>, pins: &Pins) {
    let name = &s.value.name;
    let problem = match (&s.declared, &s.fact) {
        (Err(e), _) => e.clone(),
        (Ok(_), Some(fact)) => {
            let fact = Fact::new(fact.dtype, Shape(fact.shape.0.iter().map(|d| pins.apply(d)).collect()));
            match check_fact(&fact) {
                Ok(()) => {
                    let id = session.top.graph.add_input(name.clone(), fact);
                    session.define(name, Slot::Value(id));
                    return;
                }
                Err(message) => ImportError::new(message),
            }
        }
        (Ok(None), None) => ImportError::new("the input's element type and shape are not declared"),
        (Ok(Some(_)), None) => ImportError::new("the input's shape is not declared, not even its rank")
            .with_help("declare it when exporting (extents may be names), or pin the input's value with --set"),
    };
    session.report.error(name, "", problem);
    session.define(name, Slot::Poisoned);
}

/// Declares the outputs and compares their types with what the model says.
fn outputs<'p>(session: &mut Session<'p>, g: &'p GraphProto, pins: &Pins) {
    if g.output.is_empty() {
        session.report.error("", "", ImportError::new("the graph has no outputs"));
    }
    let mut seen = BTreeSet::new();
    for v in &g.output {
        if v.name.is_empty() || !seen.insert(v.name.as_str()) {
            let what = if v.name.is_empty() { "an output has no name" } else { "two outputs have this name" };
            session.report.error(&v.name, "", ImportError::new(what));
            continue;
        }
        match session.lookup(&v.name) {
            Slot::Value(id) => {
                let found = session.top.graph.fact(id).clone();
                session.top.graph.add_output(v.name.clone(), id);
                compare(&mut session.report, g, v, &found, pins);
            }
            Slot::List(i) => {
                for (k, item) in session.lists[i].clone().into_iter().enumerate() {
                    if let Slot::Value(id) = item {
                        session.top.graph.add_output(format!("{}.{k}", v.name), id);
                    }
                }
            }
            Slot::Missing if !session.stopped => {
                let e = ImportError::new("no node, input or initializer gives this output");
                session.report.error(&v.name, "", e);
            }
            _ => {}
        }
    }
}

/// What an output of classifiers is here, whose declared type is none of a tensor's.
fn stands_for(g: &GraphProto, v: &ValueInfoProto) -> Option<&'static str> {
    let n = g.node.iter().find(|n| n.output.contains(&v.name))?;
    match n.op_type.as_str() {
        "ZipMap" => Some(
            "this output would be a list of dictionaries; its scores stay one row each, in the order of the class labels",
        ),
        "TreeEnsembleClassifier" | "LinearClassifier" | "SVMClassifier" if n.output.first() == Some(&v.name) => {
            Some("this output would be texts; it is the position of each label in `classlabels_strings`")
        }
        _ => None,
    }
}

/// A wrong element type is an error; a wrong shape is common (shapes outlive edits of a model) and only told.
fn compare(report: &mut Report, g: &GraphProto, v: &ValueInfoProto, found: &Fact, pins: &Pins) {
    let d = match declared(v) {
        Ok(Some(d)) => d,
        Ok(None) => return,
        Err(e) => {
            return match stands_for(g, v) {
                Some(told) => report.warning(&v.name, "", ImportError::new(format!("{told}: it is {found}"))),
                None => report.error(&v.name, "", e),
            };
        }
    };
    if d.dtype != found.dtype {
        let e = ImportError::new(format!("this output is declared as {}, but it is {found}", d.dtype));
        return report.error(&v.name, "", e);
    }
    let Some(dims) = d.dims else { return };
    let pinned: Vec<Option<Dim>> = dims.into_iter().map(|d| d.map(|d| pins.apply(&d))).collect();
    let differs = |(a, b): (&Option<Dim>, &Dim)| matches!((a.as_ref().and_then(Dim::as_const), b.as_const()), (Some(a), Some(b)) if a != b);
    if pinned.len() != found.shape.rank() || pinned.iter().zip(&found.shape.0).any(differs) {
        let text: Vec<String> =
            pinned.iter().map(|d| d.as_ref().map_or_else(|| "?".to_string(), Dim::to_string)).collect();
        let declared = format!("{}[{}]", d.dtype, text.join(","));
        let e = ImportError::new(format!("this output is declared as {declared}, but it is {found}"));
        report.warning(&v.name, "", e);
    }
}

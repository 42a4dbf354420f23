//! The report of a compile: sizes, kernels and memory, with stable field names.

use crate::Compiled;
use serde::Serialize;
use std::collections::BTreeMap;
use tenon_cranelift::Object;
use tenon_ir::{Graph, Op, Operator, ValueId};
use tenon_kernel::{BufferKind, Program};

/// What a compile made. Sizes are in bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this layout: fields are only ever added.
    pub schema: u32,
    /// The model's name in symbols and files.
    pub model: String,
    /// The target, as written on the command line.
    pub target: String,
    /// Inputs: name and type.
    pub inputs: Vec<IoReport>,
    /// Outputs: name and type.
    pub outputs: Vec<IoReport>,
    /// Operators in the graph as imported.
    pub nodes: usize,
    /// Kernel calls a run makes.
    pub calls: usize,
    /// Different kernels.
    pub kernels: usize,
    /// Constant data.
    pub weight_bytes: usize,
    /// Threads that a run can use, where the caller has them.
    pub threads: usize,
    /// Memory the caller provides.
    pub arena_bytes: usize,
    /// Multiply-adds of all contractions in a run.
    pub macs: u64,
    /// Those of them that multiply integers and add up integers.
    pub integer_macs: u64,
    /// Kernel calls that multiply factors rounded to `bf16`.
    pub bf16_calls: usize,
    /// Convolutions and matrix products, in the order they run, and whether they compute in integers.
    pub layers: Vec<LayerReport>,
    /// Kernel calls by what they compute, most first.
    pub calls_by_kernel: BTreeMap<String, usize>,
    /// Where every temporary lies in the arena.
    pub memory: Vec<MemoryReport>,
    /// What the object holds, where one was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectReport>,
}

/// What an object holds.
#[derive(Clone, Debug, Serialize)]
pub struct ObjectReport {
    /// Machine code.
    pub code_bytes: usize,
    /// Code and constant data: what a program with the model takes in flash or in its file.
    pub flash_bytes: usize,
    /// The stack that a run takes at most.
    pub stack_bytes: usize,
    /// The arena that the self-test takes, where there is one.
    pub selftest_arena_bytes: Option<usize>,
    /// Its functions.
    pub functions: Vec<FunctionReport>,
}

/// A function of an object.
#[derive(Clone, Debug, Serialize)]
pub struct FunctionReport {
    /// Its symbol.
    pub symbol: String,
    /// Its code.
    pub bytes: usize,
    /// The stack that it takes for itself.
    pub stack: usize,
}

/// An input or output.
#[derive(Clone, Debug, Serialize)]
pub struct IoReport {
    /// As the model names it.
    pub name: String,
    /// E.g. `f32[1,3,224,224]`.
    pub r#type: String,
    /// Its size.
    pub bytes: usize,
}

/// A convolution or matrix product of a run.
#[derive(Clone, Debug, Serialize)]
pub struct LayerReport {
    /// The ONNX nodes it came from.
    pub name: String,
    /// `conv`, `matmul` and the like.
    pub op: String,
    /// What is multiplied, as `u8` and `i8`.
    pub operands: [String; 2],
    /// What sums are added up in.
    pub sums: String,
    /// Whether all of these are integers.
    pub integers: bool,
    /// Multiply-adds of one run; for the body of a loop, of one iteration.
    pub macs: u64,
}

/// A temporary in the arena.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryReport {
    /// Its name in the program.
    pub name: String,
    /// First byte.
    pub offset: usize,
    /// Its size.
    pub bytes: usize,
    /// First call that uses it.
    pub first: usize,
    /// Last call that uses it.
    pub last: usize,
}

impl Report {
    pub(crate) fn with_object(c: &Compiled, object: &Object) -> Report {
        let functions: Vec<FunctionReport> = object
            .functions
            .iter()
            .map(|f| FunctionReport { symbol: f.symbol.clone(), bytes: f.bytes, stack: f.stack })
            .collect();
        let code_bytes = functions.iter().map(|f| f.bytes).sum();
        let object = ObjectReport {
            code_bytes,
            flash_bytes: code_bytes + object.weight_bytes,
            stack_bytes: object.stack_bytes,
            selftest_arena_bytes: object.selftest_arena_bytes,
            functions,
        };
        Report { object: Some(object), ..Report::new(c) }
    }

    pub(crate) fn new(c: &Compiled) -> Report {
        let p = &c.program;
        let io = |v: &[tenon_kernel::Io]| {
            v.iter()
                .map(|i| IoReport {
                    name: i.name.clone(),
                    r#type: i.fact.to_string(),
                    bytes: i.fact.dims().map_or(0, |d| d.iter().product::<usize>()) * i.fact.dtype.size(),
                })
                .collect()
        };
        let mut calls_by_kernel = BTreeMap::new();
        for call in p.calls() {
            let name = &p.kernels[call.kernel].name;
            let stem = name.rsplit_once('_').map_or(name.as_str(), |(s, _)| s);
            *calls_by_kernel.entry(stem.to_string()).or_insert(0) += 1;
        }
        let layers = layers(&c.optimized);
        Report {
            schema: 1,
            model: p.name.clone(),
            target: c.target.name.clone(),
            inputs: io(&p.inputs),
            outputs: io(&p.outputs),
            nodes: c.graph.nodes().filter(|n| c.graph.op(*n).is_some()).count(),
            calls: p.calls().len(),
            kernels: p.kernels.len(),
            weight_bytes: p.weight_bytes(),
            threads: p.threads(),
            arena_bytes: p.arena_bytes,
            macs: layers.iter().map(|l| l.macs).sum(),
            integer_macs: layers.iter().filter(|l| l.integers).map(|l| l.macs).sum(),
            bf16_calls: c.rounded_calls(),
            layers,
            calls_by_kernel,
            memory: memory(p),
            object: None,
        }
    }
}

fn memory(p: &Program) -> Vec<MemoryReport> {
    let mut all = vec![];
    let lives = p.timeline().lives(p.buffers.len());
    for (i, b) in p.buffers.iter().enumerate() {
        let BufferKind::Arena(Some(offset)) = b.kind else { continue };
        let Some((first, last)) = lives[i] else { continue };
        all.push(MemoryReport { name: b.name.clone(), offset, bytes: b.bytes(), first, last });
    }
    all
}

/// Convolutions and matrix products of the graph, with their multiply-adds: for a convolution, output elements × weights of
/// one output channel.
fn layers(g: &Graph) -> Vec<LayerReport> {
    // What is only known at run time counts nothing.
    let dims = |v: ValueId| g.fact(v).dims().unwrap_or_default();
    let len = |v: ValueId| g.fact(v).dims().map_or(0, |d| d.iter().product::<usize>()) as u64;
    let mut all = vec![];
    for n in g.topological().unwrap_or_default() {
        let ins = g.operands(n);
        let out = ValueId { node: n, port: 0 };
        let Some(op) = g.op(n) else { continue };
        let macs = match op {
            Op::Conv(_) => {
                let w = dims(ins[1]);
                len(out) * w.iter().skip(1).product::<usize>() as u64
            }
            // By what it stands for, so that the count does not depend on the algorithm.
            Op::WinogradConv(w) => {
                let c = dims(ins[1]).get(1).copied().unwrap_or(0);
                len(out) * (c * w.kernel.iter().product::<usize>()) as u64
            }
            Op::ConvTranspose(_) => {
                let w = dims(ins[1]);
                len(ins[0]) * w.iter().skip(1).product::<usize>() as u64
            }
            Op::MatMul(m) => {
                let k = dims(ins[0]).into_iter().rev().nth(usize::from(m.trans_a));
                len(out) * k.unwrap_or(0) as u64
            }
            Op::Repeat(r) => {
                all.extend(layers(r.body.graph()));
                continue;
            }
            _ => continue,
        };
        let dtypes = [g.fact(ins[0]).dtype, g.fact(ins[1]).dtype];
        let sums = g.fact(out).dtype;
        all.push(LayerReport {
            name: g.node(n).loc.name().unwrap_or_default().to_string(),
            op: op.name().to_string(),
            operands: dtypes.map(|d| d.to_string()),
            sums: sums.to_string(),
            integers: sums.is_int() && dtypes.iter().all(|d| d.is_int()),
            macs,
        });
    }
    all
}

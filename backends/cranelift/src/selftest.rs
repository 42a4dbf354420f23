//! `<model>_selftest`: the model on known inputs, in the object itself.

use crate::blob::Blob;
use crate::capability::Machine;
use crate::compile::{FunctionSize, generate};
use crate::error::BackendError;
use crate::isa::Isas;
use crate::lower::{self, selftest as code};
use crate::options::{GOLDEN_TOLERANCE, Golden};
use cranelift_codegen::ir::{Function, UserFuncName};
use cranelift_module::{FuncId, Linkage, Module};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use tenon_base::{DType, Tensor};
use tenon_kernel::{Io, Kernel, Program};
use tenon_target::Target;

/// What a self-test is made of.
pub(crate) struct Selftest<'a> {
    pub(crate) program: &'a Program,
    pub(crate) target: &'a Target,
    pub(crate) golden: &'a [Golden],
    /// The entry point.
    pub(crate) run: FuncId,
    /// Whether the constant data are a parameter.
    pub(crate) separate: bool,
}

/// A self-test in a module.
pub(crate) struct Made {
    /// What was added: comparisons, then the function itself.
    pub(crate) functions: Vec<FunctionSize>,
    /// The arena it takes.
    pub(crate) arena_bytes: usize,
}

/// Data under construction: blocks at aligned offsets.
#[derive(Default)]
struct Data(Vec<u8>);

impl Data {
    fn add(&mut self, bytes: &[u8]) -> usize {
        let at = self.0.len().next_multiple_of(Program::ALIGN);
        self.0.resize(at, 0);
        self.0.extend_from_slice(bytes);
        at
    }
}

impl Selftest<'_> {
    /// Adds the golden data, one comparison a type and length of output, and the exported function.
    pub(crate) fn define<M: Module>(&self, module: &mut M, isas: &Isas) -> Result<Made, BackendError> {
        let name = &self.program.name;
        let fail = |e: cranelift_module::ModuleError| BackendError::Internal {
            kernel: format!("{name}_selftest"),
            message: e.to_string(),
        };
        let mut data = Data::default();
        let vectors = self.golden.iter().map(|g| vector(g, &mut data)).collect();
        let golden = Blob::declare(module, &format!("{name}_golden"), self.target).map_err(|e| fail(*e))?;

        let mut functions = vec![];
        let machine = Machine::new(self.target, self.program.fused_multiply_add);
        let mut add = |module: &mut M, kernel: &Kernel| -> Result<FuncId, BackendError> {
            let isa = &**isas.get(lower::optimisation(kernel, &machine));
            let symbol = format!("{name}_{}", kernel.name);
            let sig = lower::kernel_signature(isa, kernel.buffers.len());
            let id = module.declare_function(&symbol, Linkage::Local, &sig).map_err(fail)?;
            let made = generate(&symbol, lower::kernel(kernel, id.as_u32(), machine, isa), id, isa)?;
            functions.push(made.define(module, id, symbol).map_err(|e| fail(*e))?);
            Ok(id)
        };
        let reset = match self.program.state_bytes() {
            0 => None,
            n => Some(add(module, &code::reset(n))?),
        };
        let mut compare: BTreeMap<(DType, usize), FuncId> = BTreeMap::new();
        let of = |o: &Io| (o.fact.dtype, o.fact.dims().unwrap_or_default().iter().product());
        let outputs: Vec<(DType, usize)> = self.program.outputs.iter().map(of).collect();
        for &(dtype, len) in &outputs {
            if let Entry::Vacant(place) = compare.entry((dtype, len)) {
                place.insert(add(module, &code::compare(dtype, len))?);
            }
        }

        // Behind the model's own arena: the outputs, and the count of wrong elements.
        let mut end = self.program.arena_bytes;
        let mut place = |bytes: usize| {
            let at = end.next_multiple_of(Program::ALIGN);
            end = at + bytes;
            at
        };
        let places = outputs.iter().map(|(d, n)| place(d.size() * n)).collect();
        let wrong = place(DType::I32.size());

        let symbol = format!("{name}_selftest");
        let isa = &*isas.as_written;
        let sig = code::signature(isa, self.separate);
        let id = module.declare_function(&symbol, Linkage::Export, &sig).map_err(fail)?;
        let mut func = Function::with_name_signature(UserFuncName::user(0, id.as_u32()), sig);
        let plan = code::Plan {
            run: module.declare_func_in_func(self.run, &mut func),
            golden: golden.in_function(module, &mut func),
            compare: outputs.iter().map(|o| module.declare_func_in_func(compare[o], &mut func)).collect(),
            reset: reset.map(|id| module.declare_func_in_func(id, &mut func)),
            outputs: places,
            wrong,
            vectors,
            separate_weights: self.separate,
        };
        code::build(&plan, &mut func, isa);
        let made = generate(&symbol, func, id, isa)?;
        functions.push(made.define(module, id, symbol).map_err(|e| fail(*e))?);
        golden.define(module, data.0).map_err(|e| fail(*e))?;
        Ok(Made { functions, arena_bytes: end.next_multiple_of(Program::ALIGN) })
    }
}

fn vector(g: &Golden, data: &mut Data) -> code::Vector {
    code::Vector {
        inputs: g.inputs.iter().map(|t| data.add(t.bytes())).collect(),
        outputs: g.outputs.iter().map(|t| data.add(t.bytes())).collect(),
        tolerances: g.outputs.iter().map(|t| data.add(&tolerance(t).to_le_bytes())).collect(),
    }
}

fn tolerance(t: &Tensor) -> f64 {
    if !t.dtype().is_float() {
        return 0.0;
    }
    let largest = t.to_f64().into_iter().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(v.abs()));
    // A half float has 11 bits: one step of it, where that is more.
    let part = if t.dtype() == DType::F16 { GOLDEN_TOLERANCE.max(1.0 / 1024.0) } else { GOLDEN_TOLERANCE };
    part * largest
}

//! From a program to functions in a Cranelift module, object or JIT alike.

use crate::blob::{Blob, Placed};
use crate::capability::Machine;
use crate::error::{BackendError, guarded};
use crate::isa::Isas;
use crate::lower::entry::Weights;
use crate::lower::{self, entry};
use crate::weights::{Header, Layout};
use crate::{rounding, tiles};
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{AbiParam, Function, Signature, UserFuncName, types};
use cranelift_codegen::isa::TargetIsa;
use cranelift_codegen::{CodegenError, Context};
use cranelift_module::{FuncId, Linkage, Module, ModuleReloc, ModuleRelocTarget};
use rayon::prelude::*;
use std::cmp::Reverse;
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::tiles::{as_loops, multiplies_tiles};
use tenon_kernel::{Kernel, Program};
use tenon_target::Target;

/// The machine code of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionSize {
    /// Its symbol.
    pub symbol: String,
    /// Bytes of code.
    pub bytes: usize,
    /// Bytes of the stack that it takes for itself, its return address included.
    pub stack: usize,
}

/// One function, not yet in a module.
pub(crate) struct Code {
    bytes: Vec<u8>,
    align: u64,
    relocs: Vec<ModuleReloc>,
    /// See [`FunctionSize::stack`].
    stack: usize,
}

impl Code {
    /// Puts `first`, which is whole lines of code, before it.
    fn stand_behind(&mut self, first: &[u8]) {
        self.bytes.splice(0..0, first.iter().copied());
        self.relocs.iter_mut().for_each(|r| r.offset += first.len() as u32);
    }

    /// Puts it into `module` as function `id`, and gives its size.
    pub(crate) fn define<M: Module>(&self, module: &mut M, id: FuncId, symbol: String) -> Placed<FunctionSize> {
        module.define_function_bytes(id, self.align, &self.bytes, &self.relocs)?;
        Ok(FunctionSize { symbol, bytes: self.bytes.len(), stack: self.stack })
    }
}

/// Makes what compiling for `target` needs once in a process.
pub fn prepare(target: &Target) {
    if tenon_wide::supports(target) {
        tenon_wide::prepare();
    }
}

/// All kernels of a program as machine code.
pub(crate) struct Kernels {
    codes: Vec<Code>,
    /// Some use tile registers.
    tiles: bool,
}

impl Kernels {
    /// Compiles the kernels in parallel.
    pub(crate) fn compile(program: &Program, target: &Target, isas: &Isas) -> Result<Kernels, BackendError> {
        let machine = Machine::new(target, program.fused_multiply_add);
        let one = |i: usize| {
            let k = &program.kernels[i];
            guarded(&k.name, || {
                if let Some(code) = wide(k, program, target) {
                    return Ok(code);
                }
                // Whoever ships it would rather have slow code than none.
                let loops = multiplies_tiles(k).then(|| as_loops(k.clone()));
                let k = loops.as_ref().unwrap_or(k);
                let isa = isas.get(lower::optimisation(k, &machine));
                let func = lower::kernel(k, i as u32, machine, &**isa);
                generate(&k.name, func, FuncId::from_u32(i as u32), &**isa)
            })
        };
        // The largest first: if one began last, all but its thread would wait for it.
        let mut order: Vec<usize> = (0..program.kernels.len()).collect();
        order.sort_by_cached_key(|i| Reverse(statements(&program.kernels[*i])));
        let mut codes = order
            .into_par_iter()
            .with_max_len(1)
            .map(|i| Ok((i, one(i)?)))
            .collect::<Result<Vec<(usize, Code)>, BackendError>>()?;
        codes.sort_unstable_by_key(|(i, _)| *i);
        let codes = codes.into_iter().map(|(_, code)| code).collect();
        Ok(Kernels { codes, tiles: tiles::uses(program, target) })
    }

    /// Bytes of code.
    pub(crate) fn bytes(&self) -> usize {
        self.codes.iter().map(|c| c.bytes.len().next_multiple_of(c.align as usize)).sum()
    }
}

/// How many statements there are in `k`.
fn statements(k: &Kernel) -> usize {
    let mut n = 0;
    visit_stmts(&k.body, &mut |_| n += 1);
    n
}

/// The code of `k` with the target's wide vectors; `None` if it has none, or not for this kernel.
fn wide(k: &Kernel, program: &Program, target: &Target) -> Option<Code> {
    if !program.fused_multiply_add || !tenon_wide::supports(target) || !tenon_wide::has_vectors(k) {
        return None;
    }
    let code = tenon_wide::compile(k, target);
    debug_assert!(!matches!(code, Err(tenon_wide::Unsupported::Encoding(_))), "kernel {}: {code:?}", k.name);
    let code = code.ok()?;
    Some(Code { bytes: code.bytes, align: code.align as u64, relocs: vec![], stack: code.stack })
}

/// A program's functions in a module.
pub(crate) struct Defined {
    pub(crate) entry: FuncId,
    pub(crate) sizes: Vec<FunctionSize>,
    /// Bytes of the stack that a run takes at most, beside what the caller's hook takes: kernels call nothing.
    pub(crate) stack: usize,
    /// The kernels, in the program's order.
    kernels: Vec<FuncId>,
    /// What the caller's hook is given of each kernel in parts.
    works: Vec<Option<FuncId>>,
    /// What changes how the machine rounds.
    exchange: Option<FuncId>,
    /// Where the constant data are.
    constants: Constants,
}

/// Where all constant data of a program are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Constants {
    /// There are none.
    Nowhere,
    /// In a module.
    Here(Blob),
    /// In a file with this header, where the caller says.
    Given(Header),
}

/// Puts the kernels and the entry point into `module`, which must be empty of functions. `constants` tells where the constant
/// data are, once the kernels are declared.
pub(crate) fn define<M: Module>(
    module: &mut M,
    program: &Program,
    kernels: &Kernels,
    constants: impl FnOnce(&mut M) -> Placed<Constants>,
    layout: &Layout,
    isas: &Isas,
) -> Result<Defined, BackendError> {
    let name = &program.name;
    let fail =
        |e: cranelift_module::ModuleError| BackendError::Internal { kernel: name.clone(), message: e.to_string() };
    let isa: &dyn TargetIsa = &*isas.as_written;
    let mut sizes = vec![];
    let mut ids = vec![];
    for (i, (k, code)) in program.kernels.iter().zip(&kernels.codes).enumerate() {
        let symbol = format!("{name}_k{i}_{}", symbol_part(&k.name));
        let sig = lower::parallel::signature_of(k, isa);
        let id = module.declare_function(&symbol, Linkage::Local, &sig).map_err(fail)?;
        debug_assert_eq!(id.as_u32(), i as u32, "relocations within a function name it by this number");
        sizes.push(code.define(module, id, symbol).map_err(|e| fail(*e))?);
        ids.push(id);
    }

    let deepest = sizes.iter().map(|f| f.stack).max().unwrap_or(0);
    // A function of a few instructions that touch no more of the stack than the way back.
    let mut leaf = |module: &mut M, symbol: String, sig: &Signature, bytes: &[u8]| {
        let id = module.declare_function(&symbol, Linkage::Local, sig).map_err(fail)?;
        let code = Code { bytes: bytes.to_vec(), align: 32, relocs: vec![], stack: 8 };
        sizes.push(code.define(module, id, symbol).map_err(|e| fail(*e))?);
        Ok(id)
    };
    let ask_for_tiles = match kernels.tiles {
        true => {
            let mut sig = module.make_signature();
            sig.returns.push(AbiParam::new(types::I64));
            Some(leaf(module, format!("{name}_tiles"), &sig, &tiles::ASK)?)
        }
        false => None,
    };
    let exchange = match rounding::changes(program) {
        true => Some(leaf(module, format!("{name}_rounding"), &rounding::exchange_signature(), &rounding::EXCHANGE)?),
        false => None,
    };

    let mut works = vec![None; ids.len()];
    let mut between = 0;
    for (i, k) in program.kernels.iter().enumerate().filter(|(_, k)| k.parts.is_some()) {
        let symbol = format!("{name}_k{i}_work");
        let sig = lower::parallel::work_signature(isa);
        let behind = lower::parallel::addresses_by_call(isa);
        let declared = if behind { lower::parallel::address_signature(isa) } else { sig.clone() };
        let id = module.declare_function(&symbol, Linkage::Local, &declared).map_err(fail)?;
        let mut func = Function::with_name_signature(UserFuncName::user(0, id.as_u32()), sig);
        let kernel = module.declare_func_in_func(ids[i], &mut func);
        let exchange = exchange.map(|id| module.declare_func_in_func(id, &mut func));
        lower::parallel::build_work(k, kernel, exchange, &mut func, isa);
        let mut code = generate(&symbol, func, id, isa)?;
        if behind {
            code.stand_behind(&crate::blob::ADDRESS_BEHIND);
        }
        between = between.max(code.stack);
        sizes.push(code.define(module, id, symbol).map_err(|e| fail(*e))?);
        works[i] = Some(id);
    }
    let constants = constants(module).map_err(|e| fail(*e))?;
    let symbol = format!("{name}_run");
    let sig = entry::signature(isa, matches!(constants, Constants::Given(_)));
    let run = module.declare_function(&symbol, Linkage::Export, &sig).map_err(fail)?;
    let mut func = Function::with_name_signature(UserFuncName::user(0, run.as_u32()), sig);
    let links = entry::Links {
        kernels: ids.iter().map(|id| module.declare_func_in_func(*id, &mut func)).collect(),
        works: works.iter().map(|id| id.map(|id| module.declare_func_in_func(id, &mut func))).collect(),
        weights: weights_in(constants, module, &mut func),
        offsets: &layout.offsets,
        ask_for_tiles: ask_for_tiles.map(|id| module.declare_func_in_func(id, &mut func)),
        exchange: exchange.map(|id| module.declare_func_in_func(id, &mut func)),
    };
    entry::build(program, &mut func, &links, isa);
    let code = generate(&symbol, func, run, isa)?;
    sizes.push(code.define(module, run, symbol).map_err(|e| fail(*e))?);
    Ok(Defined { entry: run, sizes, stack: code.stack + between + deepest, kernels: ids, works, exchange, constants })
}

/// Adds one function for each step of `program`, with the entry point's signature, to the module where `defined` lies.
pub(crate) fn define_steps<M: Module>(
    module: &mut M,
    program: &Program,
    defined: &Defined,
    layout: &Layout,
    isas: &Isas,
) -> Result<Vec<FuncId>, BackendError> {
    let name = &program.name;
    let fail =
        |e: cranelift_module::ModuleError| BackendError::Internal { kernel: name.clone(), message: e.to_string() };
    let isa: &dyn TargetIsa = &*isas.as_written;
    let mut ids = vec![];
    for (i, step) in program.steps.iter().enumerate() {
        let symbol = format!("{name}_step{i}");
        let sig = entry::signature(isa, matches!(defined.constants, Constants::Given(_)));
        let id = module.declare_function(&symbol, Linkage::Local, &sig).map_err(fail)?;
        let mut func = Function::with_name_signature(UserFuncName::user(0, id.as_u32()), sig);
        let links = entry::Links {
            kernels: defined.kernels.iter().map(|id| module.declare_func_in_func(*id, &mut func)).collect(),
            works: defined.works.iter().map(|id| id.map(|id| module.declare_func_in_func(id, &mut func))).collect(),
            weights: weights_in(defined.constants, module, &mut func),
            offsets: &layout.offsets,
            // Asked for by the entry point, which the caller has run.
            ask_for_tiles: None,
            exchange: defined.exchange.map(|id| module.declare_func_in_func(id, &mut func)),
        };
        entry::build_step(program, step, &mut func, &links, isa);
        generate(&symbol, func, id, isa)?.define(module, id, symbol).map_err(|e| fail(*e))?;
        ids.push(id);
    }
    Ok(ids)
}

/// What the code of `func` refers to the constant data by.
fn weights_in<M: Module>(constants: Constants, module: &mut M, func: &mut Function) -> Weights {
    match constants {
        Constants::Nowhere => Weights::Nowhere,
        Constants::Here(blob) => Weights::Here(blob.in_function(module, func)),
        Constants::Given(header) => Weights::Given(header),
    }
}

/// Compiles one function.
pub(crate) fn generate(name: &str, func: Function, id: FuncId, isa: &dyn TargetIsa) -> Result<Code, BackendError> {
    let fail = |message: String| BackendError::Internal { kernel: name.to_string(), message };
    let mut cx = Context::for_function(func);
    cx.compile(isa, &mut ControlPlane::default()).map_err(|e| {
        fail(match e.inner {
            CodegenError::Verifier(v) => v.to_string(),
            other => other.to_string(),
        })
    })?;
    let compiled = cx.compiled_code().ok_or_else(|| fail("it gave no code".to_string()))?;
    let (bytes, align) = (compiled.code_buffer().to_vec(), u64::from(compiled.buffer.alignment));
    let relocs: Vec<ModuleReloc> =
        compiled.buffer.relocs().iter().map(|r| ModuleReloc::from_mach_reloc(r, &cx.func, id)).collect();
    // An artifact links nothing: an operation that Cranelift makes a call of must be lowered differently.
    if let Some(call) = relocs.iter().find(|r| matches!(r.name, ModuleRelocTarget::LibCall(_))) {
        return Err(fail(format!("it calls the library function {}", call.name)));
    }
    // Below the frame pointer lies the frame, at it the caller's frame pointer and the return address.
    let stack = compiled.buffer.frame_layout().map_or(0, |f| f.frame_to_fp_offset as usize) + 16;
    Ok(Code { bytes, align: align.max(32), relocs, stack })
}

/// `name` with only what a symbol may hold.
pub(crate) fn symbol_part(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

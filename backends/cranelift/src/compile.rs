//! From a program to functions in a Cranelift module, object or JIT alike.

use crate::blob::{Blob, Placed};
use crate::capability::Machine;
use crate::error::{BackendError, guarded};
use crate::isa::{Isas, Opt};
use crate::lower::entry::Weights;
use crate::lower::{self, entry};
use crate::options::Haste;
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
    /// How many bytes it has.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

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

/// A kernel with vectors, and one without.
const SAMPLES: [&str; 2] = [
    "kernel vectors(in %x: f32[8], out %y: f32[8]) { vars %i: i64 parfor %i in 0..8 step 4 { store %y[%i] = load4 %x[%i] * splat4(2.0) } }",
    "kernel scalars(in %x: f32[8], out %y: f32[8]) { vars %i: i64 parfor %i in 0..8 { store %y[%i] = load %x[%i] } }",
];

/// Makes what compiling for `target` needs once in a process. Beside tables that is the code of the compiler itself, which the system gives a
/// process page by page when it is first used.
pub fn prepare(target: &Target) {
    if tenon_wide::supports(target) {
        tenon_wide::prepare();
    }
    let Ok(isas) = Isas::new(target) else { return };
    for kernel in SAMPLES.iter().filter_map(|text| Kernel::parse(text).ok()) {
        let program = Program { kernels: vec![kernel], fused_multiply_add: target.has_fma(), ..Program::default() };
        // Nobody needs the code.
        let _ = Kernels::compile(&program, target, &isas, Haste::None);
    }
}

/// All kernels of a program as machine code.
pub(crate) struct Kernels {
    codes: Vec<Code>,
}

impl Kernels {
    /// Compiles the kernels in parallel.
    pub(crate) fn compile(
        program: &Program,
        target: &Target,
        isas: &Isas,
        haste: Haste,
    ) -> Result<Kernels, BackendError> {
        let machine = Machine::new(target, program.fused_multiply_add);
        let one = |i: usize| {
            let k = &program.kernels[i];
            guarded(&k.name, || {
                if let Some(code) = wide(k, program, target, haste) {
                    return Ok(code);
                }
                // Whoever ships it would rather have slow code than none.
                let loops = multiplies_tiles(k).then(|| as_loops(k.clone()));
                let k = loops.as_ref().unwrap_or(k);
                let isa = isas.get(match haste {
                    Haste::None => lower::optimisation(k, &machine),
                    Haste::Most => Opt::AsWritten,
                });
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
        Ok(Kernels { codes: codes.into_iter().map(|(_, code)| code).collect() })
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
fn wide(k: &Kernel, program: &Program, target: &Target, haste: Haste) -> Option<Code> {
    if !program.fused_multiply_add || !tenon_wide::supports(target) {
        return None;
    }
    // Without vectors it gains nothing but the time that the general generator takes for its optimisations.
    if haste == Haste::None && !tenon_wide::has_vectors(k) {
        return None;
    }
    let code = tenon_wide::compile(k, target);
    debug_assert!(!matches!(code, Err(tenon_wide::Unsupported::Encoding(_))), "kernel {}: {code:?}", k.name);
    let code = code.ok()?;
    Some(Code { bytes: code.bytes, align: code.align as u64, relocs: vec![], stack: code.stack })
}

/// A program's functions in a module, before there is code of them. What they are called by depends on the program alone: code that calls one
/// can be made while the others are, and beside another module where the same is declared.
pub(crate) struct Declared {
    /// The kernels, in the program's order.
    kernels: Vec<(FuncId, String)>,
    /// What asks the system for tile registers, where kernels use them.
    ask_for_tiles: Option<(FuncId, String)>,
    /// What changes how the machine rounds, where kernels round in another way than the caller.
    exchange: Option<(FuncId, String)>,
    /// What the caller's hook is given of each kernel in parts.
    works: Vec<Option<(FuncId, String)>>,
    /// Where the constant data are.
    constants: Constants,
    entry: (FuncId, String),
}

/// A program's functions in a module.
pub(crate) struct Defined {
    pub(crate) entry: FuncId,
    pub(crate) sizes: Vec<FunctionSize>,
    /// Bytes of the stack that a run takes at most, beside what the caller's hook takes: kernels call nothing.
    pub(crate) stack: usize,
    declared: Declared,
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

impl Declared {
    /// Declares the kernels and the entry point in `module`, which must be empty of functions. `constants` tells where the constant
    /// data are, once the kernels are declared.
    pub(crate) fn new<M: Module>(
        module: &mut M,
        program: &Program,
        target: &Target,
        constants: impl FnOnce(&mut M) -> Placed<Constants>,
        isas: &Isas,
    ) -> Result<Declared, BackendError> {
        let name = &program.name;
        let isa: &dyn TargetIsa = &*isas.as_written;
        let local = |module: &mut M, symbol: String, sig: &Signature| {
            let id = module.declare_function(&symbol, Linkage::Local, sig).map_err(|e| failed(program, &e))?;
            Ok((id, symbol))
        };
        let kernel = |(i, k): (usize, &Kernel)| {
            let symbol = format!("{name}_k{i}_{}", symbol_part(&k.name));
            let declared = local(module, symbol, &lower::parallel::signature_of(k, isa))?;
            debug_assert_eq!(declared.0.as_u32(), i as u32, "relocations within a function name it by this number");
            Ok(declared)
        };
        let kernels = program.kernels.iter().enumerate().map(kernel).collect::<Result<Vec<_>, BackendError>>()?;
        let mut sig = module.make_signature();
        sig.returns.push(AbiParam::new(types::I64));
        let tiles = tiles::uses(program, target);
        let ask_for_tiles = tiles.then(|| local(module, format!("{name}_tiles"), &sig)).transpose()?;
        let sig = rounding::exchange_signature();
        let changes = rounding::changes(program);
        let exchange = changes.then(|| local(module, format!("{name}_rounding"), &sig)).transpose()?;
        let behind = lower::parallel::addresses_by_call(isa);
        let sig = if behind { lower::parallel::address_signature(isa) } else { lower::parallel::work_signature(isa) };
        let work =
            |(i, k): (usize, &Kernel)| k.parts.map(|_| local(module, format!("{name}_k{i}_work"), &sig)).transpose();
        let works = program.kernels.iter().enumerate().map(work).collect::<Result<Vec<_>, BackendError>>()?;
        let constants = constants(module).map_err(|e| failed(program, &e))?;
        let symbol = format!("{name}_run");
        let sig = entry::signature(isa, matches!(constants, Constants::Given(_)));
        let id = module.declare_function(&symbol, Linkage::Export, &sig).map_err(|e| failed(program, &e))?;
        Ok(Declared { kernels, ask_for_tiles, exchange, works, constants, entry: (id, symbol) })
    }

    /// What the entry point or a step refers to, known in `func`.
    fn links<'l, M: Module>(&self, module: &mut M, func: &mut Function, layout: &'l Layout) -> entry::Links<'l> {
        let mut known = |id: FuncId| module.declare_func_in_func(id, func);
        entry::Links {
            kernels: self.kernels.iter().map(|(id, _)| known(*id)).collect(),
            works: self.works.iter().map(|w| w.as_ref().map(|(id, _)| known(*id))).collect(),
            offsets: &layout.offsets,
            ask_for_tiles: self.ask_for_tiles.as_ref().map(|(id, _)| known(*id)),
            exchange: self.exchange.as_ref().map(|(id, _)| known(*id)),
            weights: match self.constants {
                Constants::Nowhere => Weights::Nowhere,
                Constants::Here(blob) => Weights::Here(blob.in_function(module, func)),
                Constants::Given(header) => Weights::Given(header),
            },
        }
    }

    /// A function without code yet that takes what the entry point takes.
    fn function(&self, id: FuncId, isa: &dyn TargetIsa) -> Function {
        let sig = entry::signature(isa, matches!(self.constants, Constants::Given(_)));
        Function::with_name_signature(UserFuncName::user(0, id.as_u32()), sig)
    }

    /// The code of the entry point.
    pub(crate) fn entry<M: Module>(
        &self,
        module: &mut M,
        program: &Program,
        layout: &Layout,
        isas: &Isas,
    ) -> Result<Code, BackendError> {
        let isa: &dyn TargetIsa = &*isas.as_written;
        let (id, symbol) = &self.entry;
        let mut func = self.function(*id, isa);
        let links = self.links(module, &mut func, layout);
        entry::build(program, &mut func, &links, isa);
        generate(symbol, func, *id, isa)
    }
}

/// What became of a program whose functions a module does not take.
fn failed(program: &Program, e: &cranelift_module::ModuleError) -> BackendError {
    BackendError::Internal { kernel: program.name.clone(), message: e.to_string() }
}

/// Puts the kernels and the entry point into `module`, where they are declared.
pub(crate) fn define<M: Module>(
    module: &mut M,
    program: &Program,
    declared: Declared,
    kernels: &Kernels,
    entry: &Code,
    isas: &Isas,
) -> Result<Defined, BackendError> {
    let isa: &dyn TargetIsa = &*isas.as_written;
    let mut sizes = vec![];
    let mut put = |module: &mut M, code: &Code, (id, symbol): &(FuncId, String)| {
        sizes.push(code.define(module, *id, symbol.clone()).map_err(|e| failed(program, &e))?);
        Ok(())
    };
    for (declared, code) in declared.kernels.iter().zip(&kernels.codes) {
        put(module, code, declared)?;
    }
    let deepest = kernels.codes.iter().map(|c| c.stack).max().unwrap_or(0);
    // Functions of a few instructions that touch no more of the stack than the way back.
    let leaf = |bytes: &[u8]| Code { bytes: bytes.to_vec(), align: 32, relocs: vec![], stack: 8 };
    if let Some(ask) = &declared.ask_for_tiles {
        put(module, &leaf(&tiles::ASK), ask)?;
    }
    if let Some(exchange) = &declared.exchange {
        put(module, &leaf(&rounding::EXCHANGE), exchange)?;
    }
    let mut between = 0;
    for (i, (k, work)) in program.kernels.iter().zip(&declared.works).enumerate() {
        let Some(work) = work else { continue };
        let sig = lower::parallel::work_signature(isa);
        let mut func = Function::with_name_signature(UserFuncName::user(0, work.0.as_u32()), sig);
        let kernel = module.declare_func_in_func(declared.kernels[i].0, &mut func);
        let exchange = declared.exchange.as_ref().map(|(id, _)| module.declare_func_in_func(*id, &mut func));
        lower::parallel::build_work(k, kernel, exchange, &mut func, isa);
        let mut code = generate(&work.1, func, work.0, isa)?;
        if lower::parallel::addresses_by_call(isa) {
            code.stand_behind(&crate::blob::ADDRESS_BEHIND);
        }
        between = between.max(code.stack);
        put(module, &code, work)?;
    }
    put(module, entry, &declared.entry)?;
    Ok(Defined { entry: declared.entry.0, sizes, stack: entry.stack + between + deepest, declared })
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
    let isa: &dyn TargetIsa = &*isas.as_written;
    let mut ids = vec![];
    for (i, step) in program.steps.iter().enumerate() {
        let symbol = format!("{name}_step{i}");
        let sig = entry::signature(isa, matches!(defined.declared.constants, Constants::Given(_)));
        let id = module.declare_function(&symbol, Linkage::Local, &sig).map_err(|e| failed(program, &e))?;
        let mut func = defined.declared.function(id, isa);
        // Tiles are asked for by the entry point, which the caller has run.
        let links = entry::Links { ask_for_tiles: None, ..defined.declared.links(module, &mut func, layout) };
        entry::build_step(program, step, &mut func, &links, isa);
        generate(&symbol, func, id, isa)?.define(module, id, symbol).map_err(|e| failed(program, &e))?;
        ids.push(id);
    }
    Ok(ids)
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

#[cfg(test)]
mod tests {
    use super::*;
    use tenon_kernel::{Stage, verify_kernel};

    #[test]
    fn samples_are_kernels() {
        for text in SAMPLES {
            let kernel = Kernel::parse(text).expect("it reads");
            assert_eq!(verify_kernel(&kernel, Stage::Scheduled), Ok(()));
        }
    }
}

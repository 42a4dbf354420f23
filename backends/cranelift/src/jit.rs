//! Programs compiled into this process.

use crate::blob::Blob;
use crate::check;
use crate::compile::{self, Code, Constants, Declared, FunctionSize, Kernels};
use crate::error::{BackendError, guarded};
use crate::isa::Isas;
use crate::options::Haste;
use crate::weights::Layout;
use bytes::Bytes;
use cranelift_jit::{ArenaMemoryProvider, JITBuilder, JITModule};
use cranelift_module::{Linkage, Module, default_libcall_names};
use std::ffi::c_void;
use std::ptr::null;
use std::sync::{Mutex, PoisonError};
use tenon_abi::{Env, Status};
use tenon_base::AlignedBuf;
use tenon_kernel::Program;
use tenon_target::Target;

/// The entry point: [`tenon_abi`] describes it.
type Run = unsafe extern "C" fn(*const *const u8, *const *mut u8, *mut u8, *const c_void) -> i32;

/// A program compiled into this process, ready to run. Threads may run it at once, each with its own arena.
pub struct Jit {
    /// Owns the code; taken when dropped. Never used between.
    module: Mutex<Option<JITModule>>,
    /// What the code refers to.
    _weights: Weights,
    run: Run,
    /// One function a step, where they were asked for.
    steps: Vec<Run>,
    inputs: Vec<Shape>,
    outputs: Vec<Shape>,
    arena_bytes: usize,
    functions: Vec<FunctionSize>,
}

/// Constant data: a block of what was copied, and what lay in memory already.
struct Weights {
    block: AlignedBuf,
    _resident: Vec<Bytes>,
}

/// Arguments of [`Run`].
struct Pointers {
    inputs: *const *const u8,
    outputs: *const *mut u8,
    arena: *mut u8,
}

/// What a buffer of the caller must be.
#[derive(Clone, Copy, Debug)]
struct Shape {
    bytes: usize,
    align: usize,
}

impl std::fmt::Debug for Jit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jit").field("functions", &self.functions).finish_non_exhaustive()
    }
}

impl Jit {
    /// Compiles `program` for `target`, which must be a description of this machine.
    ///
    /// # Errors
    /// As [`crate::compile_object`]; and the target is another architecture or system.
    pub fn new(program: &Program, target: &Target) -> Result<Jit, BackendError> {
        Jit::compile(program, target, Haste::None, false)
    }

    /// The same, with code that is made in `haste`.
    ///
    /// # Errors
    /// As [`Jit::new`].
    pub fn in_haste(program: &Program, target: &Target, haste: Haste) -> Result<Jit, BackendError> {
        Jit::compile(program, target, haste, false)
    }

    /// The same as [`Jit::new`], and every step of the program can be run on its own: see [`Jit::run_steps`].
    ///
    /// # Errors
    /// As [`Jit::new`].
    pub fn with_steps(program: &Program, target: &Target) -> Result<Jit, BackendError> {
        Jit::compile(program, target, Haste::None, true)
    }

    fn compile(program: &Program, target: &Target, haste: Haste, steps: bool) -> Result<Jit, BackendError> {
        let (arch, os) = (std::env::consts::ARCH, std::env::consts::OS);
        let same_system = match os {
            "linux" => target.is_elf(),
            "macos" => target.is_apple(),
            _ => target.triple.operating_system.to_string() == os,
        };
        if target.arch.name() != arch || !same_system {
            return Err(BackendError::Target {
                target: target.name.clone(),
                reason: format!("its code does not run in this process, which is {arch}-{os}; use the host target"),
            });
        }
        let isas = Isas::new(target)?;
        let mut layout = Layout::for_this_process(program);
        let mut block = AlignedBuf::new(layout.bytes);
        let resident = layout.beside(block.as_slice().as_ptr().addr());
        let (kernels, (entry, ())) = rayon::join(
            || check::compiled(program, target, &isas, false, haste),
            || {
                rayon::join(
                    || guarded(&program.name, || entry_point(program, target, &isas, &layout)),
                    || layout.fill(program, block.as_mut_slice()),
                )
            },
        );
        let code = (kernels?, entry?);
        let weights = Weights { block, _resident: resident };
        guarded(&program.name, || link(program, target, isas, &code, &layout, weights, steps))
    }

    /// Runs the model: one slice an input and an output, in the model's order, of exactly its bytes.
    ///
    /// # Errors
    /// [`Status::WrongLength`] if a slice or their number does not fit; what the entry point returns.
    pub fn run(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]], arena: &mut AlignedBuf) -> Result<(), Status> {
        // SAFETY: the pointers are those that `with_pointers` vouches for; there is no environment.
        self.with_pointers(inputs, outputs, arena, |p| unsafe { (self.run)(p.inputs, p.outputs, p.arena, null()) })
    }

    /// Runs the model as [`Jit::run`] does, its kernels in parts by the hook of `env`.
    ///
    /// # Errors
    /// As [`Jit::run`].
    ///
    /// # Safety
    /// The hook does what [`tenon_abi::ParallelFor`] says, and may be called with the context.
    pub unsafe fn run_with(
        &self,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        arena: &mut AlignedBuf,
        env: &Env,
    ) -> Result<(), Status> {
        let env = std::ptr::from_ref(env).cast();
        // SAFETY: the pointers are those that `with_pointers` vouches for, the environment is the caller's.
        self.with_pointers(inputs, outputs, arena, |p| unsafe { (self.run)(p.inputs, p.outputs, p.arena, env) })
    }

    /// Runs the model as [`Jit::run_with`] does, but step by step: `ended(i)` is told when step `i` of the program has ended. Of
    /// a program that was compiled without steps nothing is run.
    ///
    /// # Errors
    /// As [`Jit::run`].
    ///
    /// # Safety
    /// As for [`Jit::run_with`].
    pub unsafe fn run_steps(
        &self,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        arena: &mut AlignedBuf,
        env: &Env,
        ended: &mut dyn FnMut(usize),
    ) -> Result<(), Status> {
        let env = std::ptr::from_ref(env).cast();
        self.with_pointers(inputs, outputs, arena, |p| {
            for (i, step) in self.steps.iter().enumerate() {
                // SAFETY: as for `run`; the steps in order do what the entry point does behind its checks, which look at what
                // `with_pointers` makes sure of.
                let code = unsafe { step(p.inputs, p.outputs, p.arena, env) };
                if code != Status::Ok as i32 {
                    return code;
                }
                ended(i);
            }
            Status::Ok as i32
        })
    }

    /// Calls `f` with pointers that the program's code may be given.
    fn with_pointers(
        &self,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        arena: &mut AlignedBuf,
        f: impl FnOnce(Pointers) -> i32,
    ) -> Result<(), Status> {
        let fits = inputs.len() == self.inputs.len()
            && outputs.len() == self.outputs.len()
            && inputs.iter().zip(&self.inputs).all(|(b, s)| b.len() == s.bytes)
            && outputs.iter().zip(&self.outputs).all(|(b, s)| b.len() == s.bytes)
            && arena.as_slice().len() >= self.arena_bytes;
        if !fits {
            return Err(Status::WrongLength);
        }
        // Byte slices have any address, elements have aligned ones: what is not aligned goes through a copy.
        let copies: Vec<AlignedOr> =
            inputs.iter().zip(&self.inputs).map(|(b, s)| AlignedOr::of(b, s.align)).collect();
        let ins: Vec<*const u8> = inputs
            .iter()
            .zip(&copies)
            .map(|(b, c)| c.0.as_ref().map_or(b.as_ptr(), |c| c.as_slice().as_ptr()))
            .collect();
        let mut results: Vec<AlignedOr> =
            outputs.iter().zip(&self.outputs).map(|(b, s)| AlignedOr::of(b, s.align)).collect();
        let outs: Vec<*mut u8> = outputs
            .iter_mut()
            .zip(&mut results)
            .map(|(b, c)| c.0.as_mut().map_or(b.as_mut_ptr(), |c| c.as_mut_slice().as_mut_ptr()))
            .collect();
        // The code reads and writes within the buffers of the program, which the verifier proved for kernels and
        // `check` for their arguments; every buffer has its length, checked above, and its alignment. Outputs and the
        // arena are borrowed mutably, so nothing else touches them meanwhile.
        let code =
            f(Pointers { inputs: ins.as_ptr(), outputs: outs.as_ptr(), arena: arena.as_mut_slice().as_mut_ptr() });
        for (b, c) in outputs.iter_mut().zip(&results) {
            if let Some(c) = &c.0 {
                b.copy_from_slice(c.as_slice());
            }
        }
        match Status::from_code(code) {
            Some(Status::Ok) => Ok(()),
            other => Err(other.unwrap_or(Status::NullPointer)),
        }
    }

    /// An arena of the right size.
    pub fn arena(&self) -> AlignedBuf {
        AlignedBuf::new(self.arena_bytes)
    }

    /// Bytes of each input, in the model's order.
    pub fn input_bytes(&self) -> Vec<usize> {
        self.inputs.iter().map(|s| s.bytes).collect()
    }

    /// Bytes of each output, in the model's order.
    pub fn output_bytes(&self) -> Vec<usize> {
        self.outputs.iter().map(|s| s.bytes).collect()
    }

    /// Sizes of the functions; the entry point last.
    pub fn functions(&self) -> &[FunctionSize] {
        &self.functions
    }
}

impl Drop for Jit {
    fn drop(&mut self) {
        let module = self.module.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(m) = module {
            // SAFETY: the only pointers into the code are `run` and `steps`, which are not called after this.
            unsafe { m.free_memory() };
        }
    }
}

/// A copy with the right alignment; `None` where the original has it.
#[derive(Clone, Debug)]
struct AlignedOr(Option<AlignedBuf>);

impl AlignedOr {
    fn of(bytes: &[u8], align: usize) -> AlignedOr {
        if bytes.as_ptr().addr().is_multiple_of(align) {
            return AlignedOr(None);
        }
        let mut copy = AlignedBuf::new(bytes.len());
        copy.as_mut_slice().copy_from_slice(bytes);
        AlignedOr(Some(copy))
    }
}

/// The code of the entry point. What it calls has no code yet, so that is declared in a module that gets none; the one that gets the code
/// has to know how much there is.
fn entry_point(program: &Program, target: &Target, isas: &Isas, layout: &Layout) -> Result<Code, BackendError> {
    let mut module = JITModule::new(JITBuilder::with_isa(isas.as_written.clone(), default_libcall_names()));
    declare(&mut module, program, target, isas, layout)?.entry(&mut module, program, layout, isas)
}

/// Declares the functions of `program` and its constant data, which lie beside the code.
fn declare(
    module: &mut JITModule,
    program: &Program,
    target: &Target,
    isas: &Isas,
    layout: &Layout,
) -> Result<Declared, BackendError> {
    let constants = |m: &mut JITModule| match layout.bytes {
        0 => Ok(Constants::Nowhere),
        _ => Ok(Constants::Here(Blob::Data(m.declare_data(
            &weights_symbol(program),
            Linkage::Import,
            false,
            false,
        )?))),
    };
    Declared::new(module, program, target, constants, isas)
}

fn weights_symbol(program: &Program) -> String {
    format!("{}_weights", program.name)
}

fn link(
    program: &Program,
    target: &Target,
    isas: Isas,
    (kernels, entry): &(Kernels, Code),
    layout: &Layout,
    weights: Weights,
    steps: bool,
) -> Result<Jit, BackendError> {
    let fail = |message: String| BackendError::Internal { kernel: program.name.clone(), message };
    let mut builder = JITBuilder::with_isa(isas.as_written.clone(), default_libcall_names());
    // One reservation for all code: calls between functions reach. Steps have the entry point's calls in functions of their own.
    let entries = if steps {
        2 * entry.bytes() + (512 + 16 * (program.inputs.len() + program.outputs.len())) * program.steps.len()
    } else {
        entry.bytes()
    };
    let works: usize = program.kernels.iter().filter(|k| k.parts.is_some()).map(|k| 128 + 32 * k.buffers.len()).sum();
    let reserve = works + kernels.bytes() + 64 * program.kernels.len() + entries + (1 << 16);
    let memory = ArenaMemoryProvider::new_with_size(reserve).map_err(|e| fail(format!("no memory for code: {e}")))?;
    builder.memory_provider(Box::new(memory));
    // The code finds the data by its address, so it is not copied again.
    builder.symbol(weights_symbol(program), weights.block.as_slice().as_ptr());
    let mut module = JITModule::new(builder);
    let declared = declare(&mut module, program, target, &isas, layout)?;
    let defined = compile::define(&mut module, program, declared, kernels, entry, &isas)?;
    let steps = match steps {
        true => compile::define_steps(&mut module, program, &defined, layout, &isas)?,
        false => vec![],
    };
    module.finalize_definitions().map_err(|e| fail(e.to_string()))?;
    // SAFETY: `define` and `define_steps` gave these functions the signature of `Run` in the platform's C calling
    // convention. The code lives until `module` is dropped.
    let function = |id| unsafe { std::mem::transmute::<*const u8, Run>(module.get_finalized_function(id)) };
    let run = function(defined.entry);
    let steps = steps.into_iter().map(function).collect();
    let shapes = |io: &[tenon_kernel::Io], out: bool| -> Vec<Shape> {
        io.iter()
            .enumerate()
            .map(|(k, io)| {
                let here = program.buffers.iter().find(|b| match b.kind {
                    tenon_kernel::BufferKind::Input(i) => !out && i == k,
                    tenon_kernel::BufferKind::Output(i) => out && i == k,
                    _ => false,
                });
                let size = io.fact.dtype.size();
                // An input that no kernel reads has no buffer.
                let elements = || io.fact.dims().unwrap_or_default().iter().product::<usize>();
                Shape { bytes: here.map_or_else(|| elements() * size, |b| b.bytes()), align: size }
            })
            .collect()
    };
    Ok(Jit {
        run,
        steps,
        inputs: shapes(&program.inputs, false),
        outputs: shapes(&program.outputs, true),
        arena_bytes: program.arena_bytes,
        functions: defined.sizes,
        module: Mutex::new(Some(module)),
        _weights: weights,
    })
}

//! Scheduled kernel IR to AVX2 and AVX-512 machine code.
//!
//! The general code generator knows vectors of 128 bits only. This one compiles whole kernels, vectors of any lane count
//! included, for x86-64 with AVX2, FMA and BMI2 or with AVX-512 F, VL, BW and DQ:
//!
//! ```text
//! kernel ──select──► instructions over virtual registers ──near, hoist, alloc──► registers ──emit──► bytes
//! ```
//!
//! One generator for everything: a contraction's register tile, a depthwise convolution, a softmax, a transposition are
//! kernels like any other, so whatever the schedule fuses has whole registers. The bytes are position independent, hold
//! their own constants and call nothing.
//!
//! A kernel that it does not take is [`Unsupported`]; the caller compiles it with the general generator.
#![forbid(unsafe_code)]

mod alloc;
mod emit;
mod hoist;
mod isa;
mod lir;
mod near;
mod select;
mod table;

use isa::Isa;
use std::fmt;
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::tiles::multiplies_tiles;
use tenon_kernel::{Expr, Kernel};
use tenon_target::Target;

/// The machine code of one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// Code, then constants. Called with one pointer a buffer, and for a kernel in parts the part, by the System V
    /// convention, on every system.
    pub bytes: Vec<u8>,
    /// The address that it is put at must be a multiple of this.
    pub align: usize,
    /// Bytes of the stack that it takes at most, its return address included.
    pub stack: usize,
}

/// Why a kernel was not compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// The target has no vectors beyond 128 bits.
    Target,
    /// An operation that there is no code for.
    Operation(String),
    /// More than the generator takes: instructions, or bytes of spilled values.
    Size(usize),
    /// The register allocator gave up.
    Registers(String),
    /// An instruction that the encoder refused: a fault of selection.
    Encoding(String),
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unsupported::Target => write!(f, "the target has no vectors wider than 128 bits"),
            Unsupported::Operation(what) => write!(f, "no wide code for {what}"),
            Unsupported::Size(n) => write!(f, "{n} is more than one function may have"),
            Unsupported::Registers(e) => write!(f, "register allocation: {e}"),
            Unsupported::Encoding(e) => write!(f, "encoding: {e}"),
        }
    }
}
impl std::error::Error for Unsupported {}

/// Whether kernels for `target` can be compiled here.
pub fn supports(target: &Target) -> bool {
    Isa::of(target).is_some()
}

/// Makes the tables that [`compile`] works with, once in a process: some milliseconds, which may pass while there is nothing to compile yet.
pub fn prepare() {
    emit::prepare();
}

/// Whether `kernel` has vectors or tiles. One without gains nothing here, while the general generator removes common and invariant code
/// everywhere.
pub fn has_vectors(kernel: &Kernel) -> bool {
    // Every vector is made of one of these.
    let is_vector = |e: &Expr| match e {
        Expr::Load { lanes, .. } | Expr::Splat(lanes, _) => *lanes > 1,
        Expr::Lanes(v) => v.len() > 1,
        _ => false,
    };
    let mut found = kernel.vars.iter().any(|v| v.ty.lanes > 1) || multiplies_tiles(kernel);
    visit_stmts(&kernel.body, &mut |s| {
        if !found {
            s.exprs(&mut |e| e.visit(&mut |e| found |= is_vector(e)));
        }
    });
    found
}

/// The most instructions of one function: the general generator is faster on what is longer.
const MAX_INSTRUCTIONS: usize = 60_000;
/// The most bytes of spilled values: less than a guard page, since the stack is not probed.
const MAX_FRAME: usize = 3840;

/// Compiles `kernel`, which the verifier accepts as scheduled.
///
/// # Errors
/// Says what the kernel needs that there is no code for.
pub fn compile(kernel: &Kernel, target: &Target) -> Result<Code, Unsupported> {
    let isa = Isa::of(target).ok_or(Unsupported::Target)?;
    let mut func = select::select(kernel, isa)?;
    near::near(&mut func, &isa);
    hoist::hoist(&mut func, &isa);
    if func.len() > MAX_INSTRUCTIONS {
        return Err(Unsupported::Size(func.len()));
    }
    let view = alloc::View::new(&func, &isa);
    let out = alloc::allocate(&view, &isa)?;
    if out.num_spillslots * 8 > MAX_FRAME {
        return Err(Unsupported::Size(out.num_spillslots * 8));
    }
    let (bytes, stack) = emit::emit(&func, &view, &out, &isa)?;
    Ok(Code { bytes, align: 64, stack })
}

//! Kernel IR: a small, closed, imperative loop language over flat buffers.
//!
//! One syntax, two specifications. *Structured* kernel IR is what an operator's `lower` emits: scalar loops,
//! `contract`, mathematical functions. *Scheduled* kernel IR is what the schedule passes leave: no `contract`, no
//! mathematical functions, virtual vectors of any width. A backend sees only the second, inside a [`Program`].
//!
//! ```text
//! kernel relu(in %x: f32[64], out %y: f32[64]) {
//!   parfor %i in 0..64 step 8 {
//!     store %y[%i] = max(splat8(0.0), load8 %x[%i])
//!   }
//! }
//! ```
//!
//! [`verify`] states and checks what both must be, [`text`] prints and reads them, [`interp`] runs them (for scheduled
//! kernels with the bits of machine code), [`simplify`] brings index arithmetic into canonical form, [`work`] counts what they compute,
//! [`codegen`] holds what code generators share.
//!
//! This crate knows nothing of operators, graphs or machines.
#![forbid(unsafe_code)]

pub mod affine;
pub mod bf16;
pub mod build;
pub mod codegen;
pub mod expr;
mod facts;
pub mod interp;
pub mod interval;
mod linear;
pub mod program;
pub mod simplify;
pub mod step;
pub mod stmt;
pub mod text;
pub mod tiles;
pub mod verify;
pub mod work;

pub use affine::Affine;
pub use build::KernelBuilder;
pub use expr::{BinOp, Buf, CmpOp, Expr, MathFn, Type, UnOp, Var};
pub use facts::Facts;
pub use interp::erf;
pub use interp::{InterpError, Memory, run_kernel, run_program, run_program_on};
pub use interval::Interval;
pub use program::{BufferId, BufferKind, Call, Io, Program, ProgramBuffer, State};
pub use simplify::{simplify_index, simplify_kernel};
pub use step::{If, Loop, Moment, Step, Timeline};
pub use stmt::{Access, Buffer, Contract, ContractDim, Kernel, Parts, Stmt, VarInfo};
pub use text::ParseError;
pub use tiles::{Fetch, Tiles};
pub use verify::{Stage, VerifyError, verify_around, verify_kernel, verify_program};
pub use work::Work;

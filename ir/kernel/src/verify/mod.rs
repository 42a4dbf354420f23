//! The verifier: what every kernel and program must be before another part of the compiler relies on it.
//!
//! # Kernels
//!
//! - Names of buffers, and of variables, are unique; buffers fit the address space; a vector has at least one lane.
//! - Constants are values of their dtype.
//! - Every expression has a type: operands agree in element type and lanes; arithmetic, comparisons and `fma` are not
//!   of `f16` (which is converted to `f32` first) and, but for `and`, `or`, `xor`, `not`, `==` and `!=`, not of `bool`;
//!   `dot` adds runs of 4 bytes or 2 `i16` of two vectors to the lanes of a third, of `i32`, or of 2 `u16`, which are bits of `bf16`, to lanes of `f32`; `splat` repeats a divisor of
//!   its lanes; indices, loop bounds and conditions are scalars; `reduce_…` folds a power of two of lanes with `add`, `mul`, `min`,
//!   `max`, `and` or `or`.
//! - A variable is defined before it is used, is used in its block only, and is not defined again while it is in scope;
//!   in another block it may be, with the same type. Only a `var` is set.
//! - No store goes to an `in` buffer. Buffers that may share memory are an `in` and an `out` of one size.
//! - A contraction's accumulator is a number, not `f16`; its factors are loads, or casts of loads, of its type; all
//!   three indices are affine in its own loops, and the result's is different at every point.
//! - Expressions and blocks nest at most [`crate::text::MAX_DEPTH`] deep.
//! - *Scheduled* kernels have no contraction and no mathematical function.
//! - **Every load and store is within its buffer**, shown by interval analysis (see [`crate::Facts`]): from the ranges
//!   of loops, `let`s, the values a `var` is ever given, and conditions around. What never runs is not looked at.
//!
//! - **Parts** (`part %p of n`) touch different memory: whatever element one part writes, no other part reads or writes. What a
//!   part touches of a buffer is told by intervals, as they are or modulo a stride, or by walking through its indices.
//!
//! Not verified, but relied upon: that iterations of a `parfor` are independent, that a kernel writes all of its `out`
//! buffers, and that it reads element `i` before it writes element `i` of a buffer that may be shared. The interpreter
//! poisons memory that has not been written, which shows the second.
//!
//! # Programs
//!
//! - All kernels verify; names of kernels, of buffers, of inputs and of outputs are unique; the program's name is a C
//!   identifier; the shapes of inputs and outputs are known.
//! - Every output has exactly one buffer and every input at most one, of its dtype and size; constants have the dtype
//!   and size of their buffers; arena offsets are multiples of [`Program::ALIGN`] and end within the arena.
//! - A call's arguments fit the kernel's parameters and do not overlap, but for inputs with inputs, and an input with an
//!   output where the kernel allows it and both begin at the same place.
//! - A call reads inputs, constants and what earlier calls have written and nothing has overwritten; it does not write
//!   inputs or constants. When the last step ends, all outputs are written.
//! - States have a buffer of their own each, one after the other at the beginning of the arena; they hold something when
//!   the first step begins and when the last one ends.
//! - Conditions are one `bool`, trip counts one `i64`, both written before they are read. After an `if` only what both
//!   blocks have written counts as written, after a loop only what was written before it; what an iteration reads was
//!   written before the loop or earlier in the same iteration.

mod bounds;
mod expr;
mod parts;
mod program;
mod types;

pub use expr::{dot_group, dot_sum};
pub use parts::writes_before_reading;

use crate::text::print_kernel;
use crate::{Kernel, Program};
use std::fmt;

/// Which specification a kernel is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// What an operator's lowering emits.
    Structured,
    /// What a backend takes.
    Scheduled,
}

/// One violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    /// The kernel at fault; `None` where the program is.
    pub kernel: Option<String>,
    /// Which of its statements, in the order in which they are printed; `None` for its declarations.
    pub stmt: Option<usize>,
    /// What is wrong: lower case, no full stop.
    pub message: String,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(k) = &self.kernel {
            write!(f, "kernel {k}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for VerifyError {}

/// Verifies one kernel.
pub fn verify_kernel(kernel: &Kernel, stage: Stage) -> Result<(), Vec<VerifyError>> {
    let mut found = types::check(kernel, stage);
    // The analysis of bounds relies on types.
    if found.is_empty() {
        found = match kernel.parts {
            None => bounds::check(kernel),
            Some(_) => parts::check(kernel),
        };
    }
    if found.is_empty() {
        return Ok(());
    }
    let error = |(stmt, message)| VerifyError { kernel: Some(kernel.name.clone()), stmt, message };
    Err(found.into_iter().map(error).collect())
}

/// Verifies a program and its kernels.
pub fn verify_program(program: &Program, stage: Stage) -> Result<(), Vec<VerifyError>> {
    let mut errors: Vec<VerifyError> =
        program.kernels.iter().filter_map(|k| verify_kernel(k, stage).err()).flatten().collect();
    if errors.is_empty() {
        errors = verify_around(program).err().unwrap_or_default();
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Verifies a program whose kernels are known to verify, each by itself: all that is around them.
pub fn verify_around(program: &Program) -> Result<(), Vec<VerifyError>> {
    let error = |message| VerifyError { kernel: None, stmt: None, message };
    let errors: Vec<VerifyError> = program::check(program).into_iter().map(error).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// The text of `kernel` with each of `errors` below the line that it is about.
pub fn render(kernel: &Kernel, errors: &[VerifyError]) -> String {
    let (text, lines) = print_kernel(kernel);
    let mut out = String::new();
    for (i, line) in text.lines().enumerate() {
        out.push_str(line);
        out.push('\n');
        let indent = line.len() - line.trim_start().len();
        for e in errors.iter().filter(|e| e.kernel.as_deref().is_none_or(|k| k == kernel.name)) {
            let at = e.stmt.map_or(0, |s| lines.get(s).copied().unwrap_or(0));
            if at == i {
                out.push_str(&" ".repeat(indent));
                out.push_str("^ error: ");
                out.push_str(&e.message);
                out.push('\n');
            }
        }
    }
    out
}

//! The text form of kernels and programs: `parse(print(x)) == x` for every verified `x`.
//!
//! ```text
//! kernel soften(in %x: f32[64], out %y: f32[64], scratch %t: f32[8]) inplace(%x, %y) {
//!   parfor %i in 0..64 step 8 {
//!     let %v = load8 %x[%i]
//!     store %y[%i] = select(%v > splat8(0.0), %v, %v * splat8(0.01))
//!   }
//! }
//! ```
//!
//! - Variables and buffers are `%name`, or `%"any name"` with the escapes `\"`, `\\`, `\n`, `\t` and `\u{…}`.
//! - Constants: `3` is `i64` and `3i32`, `3u8`, … the other integers; `1.5` is `f32`, `1.5f64` and `1.5f16` the other
//!   floats; `inf`, `nan`, `inf_f64`, `nan_f16`, …; a NaN with other bits is `nan_f32(0xffc00001)`; `true`, `false`.
//! - Operators bind as in Rust: `* / %`, then `+ -`, `<< >>`, `&`, `^`, `|`, comparisons. All others are functions:
//!   `min(a, b)`, `not(m)`, `select(m, a, b)`, `fma(a, b, c)`, `f32(e)` (a cast), `bitcast_i32(e)`, `splat8(e)`,
//!   `lanes(a, b)`, `extract(e, 3)`, `reduce_add(e)`, `exp(e)`.
//! - `load8 %x[%i]` loads eight lanes, `load %x[%i]` one. `prefetch %x[%i]` is a hint, and no access.
//! - Local variables take the order of their definitions; where that is not the order of [`crate::Kernel::vars`], the
//!   body begins with the list: `vars %b: f32x8, %a: i64`.
//! - A kernel in parts says so before its body, `part %p of 2 {`: `%p` is the part that runs.
//! - `//` begins a comment.

mod parse;
mod parse_expr;
mod parse_program;
mod print;
mod print_expr;

pub(crate) use print::print_kernel;
pub use print::{PrintOptions, print_program};
pub use tenon_base::text::ParseError;

/// How deep expressions, and blocks, may nest.
pub const MAX_DEPTH: usize = 200;

/// How deep the parser recurses: for each operation at most twice (an operand on the right, in parentheses), and
/// once for each block.
const MAX_RECURSION: usize = 3 * MAX_DEPTH;

use crate::{BinOp, CmpOp, MathFn, UnOp};

/// Names of binary operations as functions, and in `reduce_…`.
const BINARY: [(BinOp, &str); 12] = [
    (BinOp::Add, "add"),
    (BinOp::Sub, "sub"),
    (BinOp::Mul, "mul"),
    (BinOp::Div, "div"),
    (BinOp::Rem, "rem"),
    (BinOp::Min, "min"),
    (BinOp::Max, "max"),
    (BinOp::And, "and"),
    (BinOp::Or, "or"),
    (BinOp::Xor, "xor"),
    (BinOp::Shl, "shl"),
    (BinOp::Shr, "shr"),
];

/// Names of unary operations other than `-`.
const UNARY: [(UnOp, &str); 7] = [
    (UnOp::Abs, "abs"),
    (UnOp::Sqrt, "sqrt"),
    (UnOp::Ceil, "ceil"),
    (UnOp::Floor, "floor"),
    (UnOp::Trunc, "trunc"),
    (UnOp::Nearest, "nearest"),
    (UnOp::Not, "not"),
];

/// Names of mathematical functions.
const MATH: [(MathFn, &str); 17] = [
    (MathFn::Exp, "exp"),
    (MathFn::Log, "log"),
    (MathFn::Sin, "sin"),
    (MathFn::Cos, "cos"),
    (MathFn::Tan, "tan"),
    (MathFn::Asin, "asin"),
    (MathFn::Acos, "acos"),
    (MathFn::Atan, "atan"),
    (MathFn::Sinh, "sinh"),
    (MathFn::Cosh, "cosh"),
    (MathFn::Tanh, "tanh"),
    (MathFn::Asinh, "asinh"),
    (MathFn::Acosh, "acosh"),
    (MathFn::Atanh, "atanh"),
    (MathFn::Erf, "erf"),
    (MathFn::Pow, "pow"),
    (MathFn::Fmod, "fmod"),
];

/// An infix operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Infix {
    Binary(BinOp),
    Compare(CmpOp),
}

/// Infix operators with how tightly they bind: 0 the loosest (and not associative), the others from left to right.
const INFIX: [(Infix, &str, u8); 16] = [
    (Infix::Compare(CmpOp::Eq), "==", 0),
    (Infix::Compare(CmpOp::Ne), "!=", 0),
    (Infix::Compare(CmpOp::Le), "<=", 0),
    (Infix::Compare(CmpOp::Ge), ">=", 0),
    (Infix::Compare(CmpOp::Lt), "<", 0),
    (Infix::Compare(CmpOp::Gt), ">", 0),
    (Infix::Binary(BinOp::Or), "|", 1),
    (Infix::Binary(BinOp::Xor), "^", 2),
    (Infix::Binary(BinOp::And), "&", 3),
    (Infix::Binary(BinOp::Shl), "<<", 4),
    (Infix::Binary(BinOp::Shr), ">>", 4),
    (Infix::Binary(BinOp::Add), "+", 5),
    (Infix::Binary(BinOp::Sub), "-", 5),
    (Infix::Binary(BinOp::Mul), "*", 6),
    (Infix::Binary(BinOp::Div), "/", 6),
    (Infix::Binary(BinOp::Rem), "%", 6),
];

/// Binds tighter than every infix operator: unary minus.
const PREFIX: u8 = 7;
/// Needs no parentheses anywhere.
const PRIMARY: u8 = 8;

/// The name of a table's entry.
fn name_of<T: PartialEq>(table: &[(T, &'static str)], of: T) -> &'static str {
    table.iter().find(|(t, _)| *t == of).map_or("?", |(_, n)| n)
}

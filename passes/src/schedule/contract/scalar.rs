//! The form that every contraction has: one accumulator, loops in the order of the text.

use crate::schedule::scope::for_loop;
use tenon_base::DType;
use tenon_kernel::{Contract, Expr, Kernel, Stmt};

/// `a · b + acc` as the dtype has it.
pub(super) fn multiply_add(dtype: DType, a: Expr, b: Expr, acc: Expr) -> Expr {
    if dtype.is_float() { Expr::fma(a, b, acc) } else { acc + a * b }
}

/// Loops for `c`.
pub(super) fn lower(c: Contract, kernel: &mut Kernel) -> Vec<Stmt> {
    let Contract { dims, reduce, acc, init, a, b, out, out_index, value } = c;
    let dtype = kernel.var(acc).ty.elem;
    let mut body = vec![Stmt::Set { var: acc, value: multiply_add(dtype, a, b, Expr::Var(acc)) }];
    for d in reduce.iter().rev() {
        body = vec![for_loop(d.var, d.extent, 1, false, body)];
    }
    body.insert(0, Stmt::Declare { var: acc, value: init });
    body.push(Stmt::Store { buf: out, index: out_index, value });
    for d in dims.iter().rev() {
        body = vec![for_loop(d.var, d.extent, 1, true, body)];
    }
    body
}

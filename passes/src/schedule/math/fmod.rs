//! The remainder of truncated division.

use super::emit::Emit;
use tenon_kernel::{BinOp, CmpOp, Expr, Stmt};

/// Whether any lane of `mask` is true.
fn any(m: &Emit<'_, '_>, mask: Expr) -> Expr {
    if m.lanes == 1 { mask } else { Expr::Reduce(BinOp::Or, Box::new(mask)) }
}

/// `x - n·y` with the integral `n` nearest to 0 that leaves a remainder below |y|; the sign of `x`. NaN for an infinite `x` or a
/// zero `y`. Exact: the divisor is doubled up to the dividend and subtracted on the way back, as in long division, so
/// the time grows as the logarithm of the quotient.
pub(super) fn fmod(m: &mut Emit<'_, '_>, x: Expr, y: Expr) -> Expr {
    let (a, b) = (m.abs(&x), m.abs(&y));
    let valid = m.lt(&a, f64::INFINITY).binary(BinOp::And, m.gt(&b, 0.0));
    let valid = m.bind(valid);
    let divides = m.bind(valid.clone().binary(BinOp::And, m.lt(&b, f64::INFINITY)));
    let d = m.bind(divides.clone().select(b, m.c(1.0)));
    let (d0, r0) = (d.clone(), divides.clone().select(a.clone(), m.c(0.0)));
    let t = m.block.declare("t", d0);
    let r = m.block.declare("r", r0);
    let (vt, vr) = (Expr::Var(t), Expr::Var(r));
    // 2t ≤ r, written so that nothing overflows.
    let below = vt.clone().compare(CmpOp::Le, vr.clone() - vt.clone());
    let two = m.c(2.0);
    let doubled = below.clone().select(vt.clone() * two, vt.clone());
    let cond = any(m, below);
    m.block.stmts.push(Stmt::While { cond, body: vec![Stmt::Set { var: t, value: doubled }] });
    let active = vt.clone().compare(CmpOp::Ge, d);
    let take = active.clone().binary(BinOp::And, vr.clone().compare(CmpOp::Ge, vt.clone()));
    let body = vec![
        Stmt::Set { var: r, value: take.select(vr.clone() - vt.clone(), vr.clone()) },
        Stmt::Set { var: t, value: vt * m.c(0.5) },
    ];
    let cond = any(m, active);
    m.block.stmts.push(Stmt::While { cond, body });
    let size = divides.select(vr, a);
    let size = valid.select(size, m.c(f64::NAN));
    m.with_sign(size, &x)
}

//! Mathematical functions become polynomials of the operations that machines have.
//!
//! Bounds that the tests hold them to, in units of the last place (ulp) of the result's type:
//!
//! | function | f32 | f64 | method |
//! |---|---|---|---|
//! | exp | 1.5 | 2 | powers of 2 and a polynomial on ±ln2/2 |
//! | log | 1.5 | 2 | exponent and `log((1+s)/(1-s))` |
//! | tanh | 4 | 4 | f32: rational; f64: e²ˣ - 1 |
//! | erf | 5 | 10 | f32: rational; f64: polynomial, complement beyond 1 |
//! | atan | 3 | 3 | polynomial on ±tan(π/8) |
//! | sin, cos, tan | 1 | 4 | three-part reduction by π/2; see [`trig`] beyond 10⁶ |
//! | asin, acos, sinh, cosh | 1 | 4 | polynomials |
//! | asinh, acosh, atanh | 1 | 8 | by way of log(1 + x) |
//! | pow | 1 | 2 | logarithm in two parts |
//! | fmod | exact | exact | subtraction of shifted divisors |
//!
//! `f32` functions that are not the bread of neural networks are computed in `f64` and rounded. All coefficients are
//! Chebyshev interpolants (the rational ones: weighted least squares, reweighted towards the smallest maximum), computed in
//! 50 digits for this file's intervals.

mod emit;
mod erf;
mod exp;
mod fmod;
mod log;
mod pow;
mod trig;

use super::scope::{Block, rewrite_stmts};
use super::{ScheduleCx, Unit};
use emit::Emit;
use tenon_base::DType;
use tenon_kernel::{Expr, Kernel, MathFn, Stmt};

/// Replaces every mathematical function in the kernel, scalar or vector.
pub(super) fn run(unit: &mut Unit, _cx: &ScheduleCx<'_>) {
    let body = std::mem::take(&mut unit.kernel.body);
    let kernel = &mut unit.kernel;
    unit.kernel.body = rewrite_stmts(body, &mut |s| statement(s, kernel));
}

fn has_math(e: &Expr) -> bool {
    let mut found = false;
    e.visit(&mut |e| found |= matches!(e, Expr::Math(..)));
    found
}

/// One statement whose inner statements are done.
fn statement(s: Stmt, kernel: &mut Kernel) -> Vec<Stmt> {
    let mut found = false;
    s.exprs(&mut |e| found |= has_math(e));
    if !found {
        return vec![s];
    }
    let mut b = Block::new(kernel);
    let mut done = Done::new();
    match s {
        Stmt::Let { var, value } => {
            let value = expand(value, &mut b, &mut done);
            b.stmts.push(Stmt::Let { var, value });
        }
        Stmt::Declare { var, value } => {
            let value = expand(value, &mut b, &mut done);
            b.stmts.push(Stmt::Declare { var, value });
        }
        Stmt::Set { var, value } => {
            let value = expand(value, &mut b, &mut done);
            b.stmts.push(Stmt::Set { var, value });
        }
        Stmt::Store { buf, index, value } => {
            let index = expand(index, &mut b, &mut done);
            let value = expand(value, &mut b, &mut done);
            b.stmts.push(Stmt::Store { buf, index, value });
        }
        Stmt::For { var, lo, hi, step, parallel, body } => {
            let (lo, hi) = (expand(lo, &mut b, &mut done), expand(hi, &mut b, &mut done));
            b.stmts.push(Stmt::For { var, lo, hi, step, parallel, body });
        }
        Stmt::If { cond, then, otherwise } => {
            let cond = expand(cond, &mut b, &mut done);
            b.stmts.push(Stmt::If { cond, then, otherwise });
        }
        Stmt::While { cond, body } => {
            // The condition is computed before the loop and again at the end of its body.
            let first = expand(cond.clone(), &mut b, &mut done);
            let again = b.declare("again", first);
            let mut next = b.nested(|b| {
                let value = expand(cond, b, &mut Done::new());
                b.stmts.push(Stmt::Set { var: again, value });
            });
            let mut body = body;
            body.append(&mut next);
            b.stmts.push(Stmt::While { cond: Expr::Var(again), body });
        }
        // Lowered before.
        Stmt::Contract(c) => b.stmts.push(Stmt::Contract(c)),
    }
    b.stmts
}

/// Functions already expanded for this statement: what was asked and the variable that holds it.
type Done = Vec<((MathFn, Vec<Expr>), Expr)>;

/// `e` without functions; what they need goes to `b` first.
fn expand(e: Expr, b: &mut Block<'_>, done: &mut Done) -> Expr {
    e.rewrite(&mut |e| {
        let Expr::Math(f, args) = e else { return e };
        let key = (f, args);
        if let Some((_, value)) = done.iter().find(|(k, _)| *k == key) {
            return value.clone();
        }
        let value = function(f, key.1.clone(), b);
        let value = b.bind("f", value);
        done.push((key, value.clone()));
        value
    })
}

/// `f(args)`, the operands bound to variables first.
fn function(f: MathFn, args: Vec<Expr>, b: &mut Block<'_>) -> Expr {
    let ty = b.kernel.type_of(&args[0]);
    let mut args: Vec<Expr> = args.into_iter().map(|a| b.bind("x", a)).collect();
    let native = ty.elem == DType::F64
        || matches!(f, MathFn::Exp | MathFn::Log | MathFn::Tanh | MathFn::Erf | MathFn::Atan | MathFn::Fmod);
    let mut m = Emit::new(b, if native { ty.elem } else { DType::F64 }, ty.lanes);
    if native {
        return evaluate(f, &mut m, args, ty.elem);
    }
    for a in &mut args {
        *a = m.bind(std::mem::replace(a, Expr::int(0)).cast(DType::F64));
    }
    evaluate(f, &mut m, args, ty.elem).cast(ty.elem)
}

/// `f` in `m`'s type; `wanted` is the precision that is needed.
fn evaluate(f: MathFn, m: &mut Emit<'_, '_>, mut args: Vec<Expr>, wanted: DType) -> Expr {
    let y = if f.arity() == 2 { args.pop() } else { None };
    let x = args.swap_remove(0);
    match (f, y) {
        (MathFn::Pow, Some(y)) => pow::pow(m, x, y, wanted),
        (MathFn::Fmod, Some(y)) => fmod::fmod(m, x, y),
        (MathFn::Log, _) => log::log(m, x),
        (MathFn::Sin, _) => trig::sin(m, x, wanted),
        (MathFn::Cos, _) => trig::cos(m, x, wanted),
        (MathFn::Tan, _) => trig::tan(m, x, wanted),
        (MathFn::Asin, _) => trig::asin(m, x),
        (MathFn::Acos, _) => trig::acos(m, x),
        (MathFn::Atan, _) => trig::atan(m, x),
        (MathFn::Sinh, _) => exp::sinh(m, x),
        (MathFn::Cosh, _) => exp::cosh(m, x),
        (MathFn::Tanh, _) => exp::tanh(m, x),
        (MathFn::Asinh, _) => log::asinh(m, x),
        (MathFn::Acosh, _) => log::acosh(m, x),
        (MathFn::Atanh, _) => log::atanh(m, x),
        (MathFn::Erf, _) => erf::erf(m, x),
        _ => exp::exp(m, x),
    }
}

#[cfg(test)]
mod tests;

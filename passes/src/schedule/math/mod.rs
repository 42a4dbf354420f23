//! Mathematical functions become polynomials of the operations that machines have.
//!
//! Bounds that the tests hold them to, in units of the last place (ulp) of the result's type:
//!
//! | function | f32 | f64 | method |
//! |---|---|---|---|
//! | exp | 1.5 | 2 | powers of 2 and a polynomial on ±ln2/2 |
//! | exp where a machine is slow with subnormal numbers, and may flush them | 2.5 | – | the same with one power of 2; 0 below 2⁻¹²⁵ |
//! | c + exp | 2.5 | – | the same, flushed to 0 or ∞ beyond normal numbers |
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
use tenon_kernel::{BinOp, Expr, Kernel, MathFn, Stmt, UnOp};

/// Replaces every mathematical function in the kernel, scalar or vector.
pub(super) fn run(unit: &mut Unit, cx: &ScheduleCx<'_>) {
    let flush = cx.flushes();
    let body = std::mem::take(&mut unit.kernel.body);
    let kernel = &mut unit.kernel;
    unit.kernel.body = rewrite_stmts(body, &mut |s| statement(s, kernel, flush));
}

fn has_math(e: &Expr) -> bool {
    let mut found = false;
    e.visit(&mut |e| found |= matches!(e, Expr::Math(..)));
    found
}

/// One statement whose inner statements are done; with `flush`, what is subnormal may be zero.
fn statement(s: Stmt, kernel: &mut Kernel, flush: bool) -> Vec<Stmt> {
    let mut found = false;
    s.exprs(&mut |e| found |= has_math(e));
    if !found {
        return vec![s];
    }
    let mut b = Block::new(kernel);
    let mut done = Done { known: vec![], flush };
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
        Stmt::Prefetch { buf, index } => {
            let index = expand(index, &mut b, &mut done);
            b.stmts.push(Stmt::Prefetch { buf, index });
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
                let value = expand(cond, b, &mut Done { known: vec![], flush });
                b.stmts.push(Stmt::Set { var: again, value });
            });
            let mut body = body;
            body.append(&mut next);
            b.stmts.push(Stmt::While { cond: Expr::Var(again), body });
        }
        // Lowered before, or made of indices and loads alone.
        s @ (Stmt::Contract(_) | Stmt::Tiles(_)) => b.stmts.push(s),
    }
    b.stmts
}

/// How the functions of a statement are expanded.
struct Done {
    /// Those that were: what was asked and the variable that holds it.
    known: Vec<(Expr, Expr)>,
    flush: bool,
}

/// `e` without functions; what they need goes to `b` first.
fn expand(e: Expr, b: &mut Block<'_>, done: &mut Done) -> Expr {
    // Sums with an exponential first: they are cheaper than the two apart.
    let e = e.rewrite(&mut |e| {
        let Some((c, x, negated)) = sum_with_exp(&e, b.kernel) else { return e };
        once(e, b, done, &mut |b, done| {
            let x = expand(x.clone(), b, done);
            let (ty, x) = (b.kernel.type_of(&x), b.bind("x", x));
            exp::exp_plus(&mut Emit::new(b, ty.elem, ty.lanes), &x, negated, c)
        })
    });
    e.rewrite(&mut |e| {
        let Expr::Math(f, args) = &e else { return e };
        let (f, args) = (*f, args.clone());
        once(e, b, done, &mut |b, done| function(f, args.clone(), b, done.flush))
    })
}

/// The variable that holds `e`, which `make` computes if it is not known.
fn once(
    e: Expr,
    b: &mut Block<'_>,
    done: &mut Done,
    make: &mut dyn FnMut(&mut Block<'_>, &mut Done) -> Expr,
) -> Expr {
    if let Some((_, value)) = done.known.iter().find(|(k, _)| *k == e) {
        return value.clone();
    }
    let value = make(b, done);
    let value = b.bind("f", value);
    done.known.push((e, value.clone()));
    value
}

/// `c + eˣ` as the constant, `x`, and whether it is to be negated: in `f32`, for a constant far above the smallest numbers.
fn sum_with_exp(e: &Expr, kernel: &Kernel) -> Option<(f64, Expr, bool)> {
    /// Beside this, numbers that are not normal vanish.
    const LEAST: f64 = 1e-20;
    let Expr::Binary(BinOp::Add, sides) = e else { return None };
    if kernel.type_of(e).elem != DType::F32 {
        return None;
    }
    let (c, exp) = match (constant(&sides[0]), constant(&sides[1])) {
        (Some(c), None) => (c, &sides[1]),
        (None, Some(c)) => (c, &sides[0]),
        _ => return None,
    };
    let Expr::Math(MathFn::Exp, args) = exp else { return None };
    let (x, negated) = match args.first()? {
        Expr::Unary(UnOp::Neg, x) => ((**x).clone(), true),
        Expr::Binary(BinOp::Mul, f) if constant(&f[0]) == Some(-1.0) => (f[1].clone(), true),
        Expr::Binary(BinOp::Mul, f) if constant(&f[1]) == Some(-1.0) => (f[0].clone(), true),
        x => (x.clone(), false),
    };
    (c >= LEAST).then_some((c, x, negated))
}

/// The value of a constant, in every lane or in one.
fn constant(e: &Expr) -> Option<f64> {
    match e {
        Expr::Const(c) => Some(c.as_f64()),
        Expr::Splat(_, e) => constant(e),
        _ => None,
    }
}

/// `f(args)`, the operands bound to variables first.
fn function(f: MathFn, args: Vec<Expr>, b: &mut Block<'_>, flush: bool) -> Expr {
    let ty = b.kernel.type_of(&args[0]);
    let mut args: Vec<Expr> = args.into_iter().map(|a| b.bind("x", a)).collect();
    let native = ty.elem == DType::F64
        || matches!(f, MathFn::Exp | MathFn::Log | MathFn::Tanh | MathFn::Erf | MathFn::Atan | MathFn::Fmod);
    let mut m = Emit::new(b, if native { ty.elem } else { DType::F64 }, ty.lanes);
    if flush && f == MathFn::Exp && ty.elem == DType::F32 {
        return exp::exp_normal(&mut m, &args[0]);
    }
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

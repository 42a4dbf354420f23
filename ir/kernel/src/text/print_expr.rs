//! Printing names, types, constants and expressions.

use super::{BINARY, INFIX, Infix, MATH, PREFIX, PRIMARY, UNARY, name_of};
use crate::{BinOp, Buf, Expr, Kernel, Type, UnOp, Var};
use half::f16;
use std::fmt::Write;
use tenon_base::text::name;
use tenon_base::{DType, Scalar};

/// Writes `f32` or `f32x8`.
pub(super) fn ty(out: &mut String, t: Type) {
    out.push_str(t.elem.name());
    if t.lanes != 1 {
        let _ = write!(out, "x{}", t.lanes);
    }
}

/// Writes a constant with what tells its dtype.
pub(super) fn scalar(out: &mut String, s: Scalar) {
    let _ = match s {
        Scalar::Int(DType::I64 | DType::Bool, _) => write!(out, "{s}"),
        Scalar::Int(d, _) => write!(out, "{s}{d}"),
        Scalar::Float(d, v) if v.is_nan() && v.to_bits() != f64::NAN.to_bits() => {
            let bits = match d {
                DType::F16 => u64::from(f16::from_f64(v).to_bits()),
                DType::F32 => u64::from((v as f32).to_bits()),
                _ => v.to_bits(),
            };
            write!(out, "nan_{d}({bits:#x})")
        }
        Scalar::Float(DType::F32, _) => write!(out, "{s}"),
        Scalar::Float(d, v) if !v.is_finite() => write!(out, "{s}_{d}"),
        Scalar::Float(d, _) => write!(out, "{s}{d}"),
    };
}

/// Prints the expressions of one kernel. Prints anything, verified or not.
pub(super) struct ExprPrinter<'k> {
    pub(super) kernel: &'k Kernel,
}

impl ExprPrinter<'_> {
    pub(super) fn var(&self, out: &mut String, v: Var) {
        match self.kernel.vars.get(v.0 as usize) {
            Some(info) => name(out, &info.name),
            None => {
                let _ = write!(out, "%<no variable {}>", v.0);
            }
        }
    }

    pub(super) fn buf(&self, out: &mut String, b: Buf) {
        match self.kernel.buffers.get(b.0 as usize) {
            Some(decl) => name(out, &decl.name),
            None => {
                let _ = write!(out, "%<no buffer {}>", b.0);
            }
        }
    }

    /// Writes `e`, in parentheses if it binds looser than `min`.
    pub(super) fn expr(&self, out: &mut String, e: &Expr, min: u8) {
        let infix = match e {
            Expr::Binary(op, b) => Some((Infix::Binary(*op), b)),
            Expr::Compare(op, b) => Some((Infix::Compare(*op), b)),
            _ => None,
        };
        let operator = infix.and_then(|(op, b)| INFIX.iter().find(|(o, ..)| *o == op).map(|(_, s, p)| (s, *p, b)));
        let binds = match (e, operator) {
            (_, Some((_, p, _))) => p,
            (Expr::Unary(UnOp::Neg, _), _) => PREFIX,
            _ => PRIMARY,
        };
        if binds < min {
            out.push('(');
        }
        match operator {
            Some((symbol, p, b)) => {
                // Comparisons do not associate; the others do from the left.
                self.expr(out, &b[0], if p == 0 { 1 } else { p });
                let _ = write!(out, " {symbol} ");
                self.expr(out, &b[1], p + 1);
            }
            None => self.unit(out, e),
        }
        if binds < min {
            out.push(')');
        }
    }

    fn unit(&self, out: &mut String, e: &Expr) {
        match e {
            Expr::Const(s) => scalar(out, *s),
            Expr::Var(v) => self.var(out, *v),
            Expr::Load { buf, index, lanes } => {
                out.push_str("load");
                if *lanes != 1 {
                    let _ = write!(out, "{lanes}");
                }
                out.push(' ');
                self.buf(out, *buf);
                out.push('[');
                self.expr(out, index, 0);
                out.push(']');
            }
            Expr::Unary(UnOp::Neg, x) => {
                out.push('-');
                // `-5` is a constant, `-(5)` the negation of one.
                let min = if matches!(**x, Expr::Const(_)) { PRIMARY + 1 } else { PRIMARY };
                self.expr(out, x, min);
            }
            Expr::Unary(op, x) => self.call(out, name_of(&UNARY, *op), &[x]),
            // Only those without a symbol come here.
            Expr::Binary(op, b) => self.call(out, name_of(&BINARY, *op), &[&b[0], &b[1]]),
            Expr::Compare(_, b) => self.call(out, "compare", &[&b[0], &b[1]]),
            Expr::Select(b) => self.call(out, "select", &[&b[0], &b[1], &b[2]]),
            Expr::Fma(b) => self.call(out, "fma", &[&b[0], &b[1], &b[2]]),
            Expr::Dot(b) => self.call(out, "dot", &[&b[0], &b[1], &b[2]]),
            Expr::ToBf16(x) => self.call(out, "to_bf16", &[x]),
            Expr::Cast(d, x) => self.call(out, d.name(), &[x]),
            Expr::Bitcast(d, x) => self.call(out, &format!("bitcast_{d}"), &[x]),
            Expr::Splat(n, x) => self.call(out, &format!("splat{n}"), &[x]),
            Expr::Lanes(xs) => self.call(out, "lanes", &xs.iter().collect::<Vec<_>>()),
            Expr::Extract(x, lane) => {
                out.push_str("extract(");
                self.expr(out, x, 0);
                let _ = write!(out, ", {lane})");
            }
            Expr::Reduce(op, x) => self.call(out, &format!("reduce_{}", name_of::<BinOp>(&BINARY, *op)), &[x]),
            Expr::Math(f, xs) => self.call(out, name_of(&MATH, *f), &xs.iter().collect::<Vec<_>>()),
        }
    }

    fn call(&self, out: &mut String, f: &str, args: &[&Expr]) {
        out.push_str(f);
        out.push('(');
        for (i, a) in args.iter().enumerate() {
            if i > 0 {
                out.push_str(", ");
            }
            self.expr(out, a, 0);
        }
        out.push(')');
    }
}

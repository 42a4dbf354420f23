//! Types of expressions.

use super::Stage;
use super::types::{Checker, State, show};
use crate::text::MAX_DEPTH;
use crate::{BinOp, CmpOp, Expr, Type, UnOp};
use std::fmt::{Debug, Display, from_fn};
use tenon_base::{DType, Scalar};

/// Whether a Rust value of the constant's dtype has exactly its value.
fn is_representable(s: Scalar) -> bool {
    match s {
        Scalar::Int(d, v) => d.int_range().is_some_and(|(lo, hi)| (lo..=hi).contains(&v)),
        Scalar::Float(d, _) => d.is_float() && Scalar::from_le_bytes(d, &s.to_le_bytes()) == s,
    }
}

/// An operation by its name, which is made where a message needs it.
fn lower(op: &impl Debug) -> impl Display {
    from_fn(move |f| f.write_str(&format!("{op:?}").to_lowercase()))
}

impl Checker<'_> {
    /// The type of `e`, which nests at most `depth` deep.
    pub(super) fn typed(&self, e: &Expr, depth: usize) -> Result<Type, String> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(format!("an expression nests more than {MAX_DEPTH} deep"));
        };
        let of = |e: &Expr| self.typed(e, depth);
        let same = |es: &[Expr], what: &dyn Display| -> Result<Type, String> {
            let first = of(es.first().ok_or_else(|| format!("{what} has no operands"))?)?;
            for e in &es[1..] {
                let t = of(e)?;
                if t != first {
                    return Err(format!("the operands of {what} are {} and {}", show(first), show(t)));
                }
            }
            Ok(first)
        };
        let number = |t: Type| !matches!(t.elem, DType::F16 | DType::Bool);
        let require = |ok: bool, t: Type, what: &dyn Display| {
            if ok { Ok(t) } else { Err(format!("{what} is not defined for {}", t.elem)) }
        };
        match e {
            Expr::Const(s) if is_representable(*s) && !s.dtype().is_stored() => Ok(Type::scalar(s.dtype())),
            Expr::Cast(d, _) | Expr::Bitcast(d, _) if d.is_stored() => {
                Err(format!("there are no values of {d} in kernels"))
            }
            Expr::Const(s) => Err(format!("{s} is not a value of {}", s.dtype())),
            Expr::Var(v) => match self.scope.get(v.0 as usize) {
                Some(State::Fixed | State::Mutable) => Ok(self.kernel.var(*v).ty),
                _ => Err(format!("{} is not in scope", self.var_name(*v))),
            },
            Expr::Load { buf, index, lanes } => {
                let t = of(index)?;
                if t != Type::INDEX {
                    return Err(format!("the index of a load is {}, not i64", show(t)));
                }
                match self.kernel.buffers.get(buf.0 as usize) {
                    Some(_) if *lanes == 0 => Err("a load of no lanes".into()),
                    Some(b) => Ok(Type::vector(b.dtype, *lanes)),
                    None => Err(format!("there is no buffer {}", buf.0)),
                }
            }
            Expr::Unary(op, x) => {
                let t = of(x)?;
                let ok = match op {
                    UnOp::Neg | UnOp::Abs => number(t),
                    UnOp::Sqrt | UnOp::Ceil | UnOp::Floor | UnOp::Trunc | UnOp::Nearest => {
                        number(t) && t.elem.is_float()
                    }
                    UnOp::Not => !t.elem.is_float(),
                };
                require(ok, t, &lower(op))
            }
            Expr::Binary(op, b) => {
                let t = same(&b[..], &lower(op))?;
                require(binary(*op, t.elem), t, &lower(op))
            }
            Expr::Compare(op, b) => {
                let t = same(&b[..], &"a comparison")?;
                let mask = t.elem == DType::Bool && matches!(op, CmpOp::Eq | CmpOp::Ne);
                require(number(t) || mask, t, &"this comparison")?;
                Ok(Type::vector(DType::Bool, t.lanes))
            }
            Expr::Select(b) => {
                let (mask, t) = (of(&b[0])?, same(&b[1..], &"select")?);
                if mask != Type::vector(DType::Bool, t.lanes) {
                    return Err(format!("select of {} by a mask of {}", show(t), show(mask)));
                }
                Ok(t)
            }
            Expr::Fma(b) => {
                let t = same(&b[..], &"fma")?;
                require(number(t) && t.elem.is_float(), t, &"fma")
            }
            Expr::Dot(b) => {
                let (x, y, sum) = (of(&b[0])?, of(&b[1])?, of(&b[2])?);
                let group = dot_group(x.elem, y.elem).ok_or_else(|| {
                    format!("dot of {} and {}, expected bytes, i16 or the bits of bf16 (u16)", show(x), show(y))
                })?;
                let lanes = sum.lanes.checked_mul(group);
                if sum.elem != dot_sum(x.elem) || x.lanes != y.lanes || lanes != Some(x.lanes) {
                    return Err(format!(
                        "dot of {} and {} adds to {} of their lanes / {group}, found {}",
                        show(x),
                        show(y),
                        dot_sum(x.elem),
                        show(sum)
                    ));
                }
                Ok(sum)
            }
            Expr::ToBf16(x) => {
                let t = of(x)?;
                require(t.elem == DType::F32, t, &"to_bf16")?;
                Ok(Type::vector(DType::U16, t.lanes))
            }
            Expr::Cast(d, x) => Ok(Type::vector(*d, of(x)?.lanes)),
            Expr::Bitcast(d, x) => {
                let t = of(x)?;
                let ok = d.size() == t.elem.size() && *d != DType::Bool && t.elem != DType::Bool;
                require(ok, t, &format_args!("bitcast to {d}"))?;
                Ok(Type::vector(*d, t.lanes))
            }
            Expr::Splat(n, x) => match of(x)? {
                _ if *n == 0 => Err("splat to no lanes".into()),
                t if n.is_multiple_of(t.lanes) => Ok(Type::vector(t.elem, *n)),
                t => Err(format!("splat of {} to {n} lanes, which is no multiple", show(t))),
            },
            Expr::Lanes(v) => {
                let t = same(v, &"lanes")?;
                match u16::try_from(v.len()) {
                    Ok(n) if t.lanes == 1 => Ok(Type::vector(t.elem, n)),
                    Ok(_) => Err("lanes of vectors".into()),
                    Err(_) => Err(format!("{} lanes are too many", v.len())),
                }
            }
            Expr::Extract(x, lane) => match of(x)? {
                t if *lane < t.lanes => Ok(Type::scalar(t.elem)),
                t => Err(format!("lane {lane} of {}", show(t))),
            },
            Expr::Reduce(op, x) => {
                let t = of(x)?;
                let folds = matches!(op, BinOp::Add | BinOp::Mul | BinOp::Min | BinOp::Max | BinOp::And | BinOp::Or);
                require(folds && binary(*op, t.elem), t, &format_args!("reduce_{}", lower(op)))?;
                if !t.lanes.is_power_of_two() {
                    return Err(format!("reduce_{} of {} lanes, which is not a power of two", lower(op), t.lanes));
                }
                Ok(Type::scalar(t.elem))
            }
            Expr::Math(f, v) => {
                if self.stage == Stage::Scheduled {
                    return Err(format!("{} in a scheduled kernel", lower(f)));
                }
                if v.len() != f.arity() {
                    return Err(format!("{} takes {} operand(s), found {}", lower(f), f.arity(), v.len()));
                }
                let t = same(v, &lower(f))?;
                require(number(t) && t.elem.is_float(), t, &lower(f))
            }
        }
    }
}

/// How many neighbouring elements of `a` and `b` a lane of [`Expr::Dot`] adds up; `None` where it is not defined.
pub fn dot_group(a: DType, b: DType) -> Option<u16> {
    let byte = |d| matches!(d, DType::U8 | DType::I8);
    match (a, b) {
        (DType::I16, DType::I16) | (DType::U16, DType::U16) => Some(2),
        (a, b) if byte(a) && byte(b) => Some(4),
        _ => None,
    }
}

/// What a dot product of elements `a` is added up in: `u16` are the bits of `bf16`.
pub fn dot_sum(a: DType) -> DType {
    if a == DType::U16 { DType::F32 } else { DType::I32 }
}

/// Whether `op` is defined for `d`.
fn binary(op: BinOp, d: DType) -> bool {
    match op {
        BinOp::Add | BinOp::Sub | BinOp::Mul | BinOp::Div | BinOp::Min | BinOp::Max => {
            !matches!(d, DType::F16 | DType::Bool)
        }
        BinOp::And | BinOp::Or | BinOp::Xor => !d.is_float(),
        BinOp::Rem | BinOp::Shl | BinOp::Shr => d.is_int(),
    }
}

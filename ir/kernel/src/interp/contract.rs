//! Contractions, compiled.

use super::InterpError;
use super::compile::{Compiler, Node, Span};
use super::value::{self, LaneFn};
use crate::{Affine, Buf, Contract, Expr, Type, Var};
use tenon_base::DType;

/// A compiled [`Contract`].
#[derive(Debug)]
pub(super) struct ContractNode {
    /// Registers and extents of the output loops.
    pub(super) dims: Vec<(usize, i64)>,
    /// The same of the reduction loops.
    pub(super) reduce: Vec<(usize, i64)>,
    pub(super) acc: usize,
    pub(super) acc_dtype: DType,
    pub(super) init: (Span, usize),
    pub(super) a: Factor,
    pub(super) b: Factor,
    pub(super) multiply_add: fn(u64, u64, u64) -> u64,
    pub(super) store: Node,
}

/// A factor of a contraction: a load at an affine index, converted to the accumulator's type.
#[derive(Debug)]
pub(super) struct Factor {
    pub(super) buf: Buf,
    pub(super) base: i64,
    /// Registers and coefficients of all variables but the innermost reduction's.
    pub(super) terms: Vec<(usize, i64)>,
    /// The coefficient of the innermost reduction's variable.
    pub(super) stride: i64,
    pub(super) cast: Option<LaneFn>,
}

impl Compiler<'_> {
    pub(super) fn contract(&mut self, c: &Contract) -> Result<ContractNode, InterpError> {
        let (acc, acc_ty) = self.var(c.acc)?;
        let dims = self.dims(&c.dims)?;
        let reduce = self.dims(&c.reduce)?;
        let init = self.span(|k| k.scalar(&c.init, acc_ty.elem, "the initial value of a contraction"))?;
        let inner = c.reduce.last().map(|d| d.var);
        let (a, b) = (self.factor(&c.a, inner, acc_ty.elem)?, self.factor(&c.b, inner, acc_ty.elem)?);
        let store = self.store(c.out, &c.out_index, &c.value)?;
        let Some(multiply_add) = value::multiply_add(acc_ty.elem) else {
            return self.malformed(format!("a contraction in {}", acc_ty.elem));
        };
        Ok(ContractNode { dims, reduce, acc, acc_dtype: acc_ty.elem, init, a, b, multiply_add, store })
    }

    pub(super) fn dims(&self, dims: &[crate::ContractDim]) -> Result<Vec<(usize, i64)>, InterpError> {
        dims.iter()
            .map(|d| {
                let extent = i64::try_from(d.extent).ok().filter(|n| *n > 0);
                match (self.var(d.var)?, extent) {
                    ((reg, Type::INDEX), Some(n)) => Ok((reg, n)),
                    _ => self.malformed("a loop of a contraction is empty, too long or not i64"),
                }
            })
            .collect()
    }

    fn factor(&self, e: &Expr, inner: Option<Var>, acc: DType) -> Result<Factor, InterpError> {
        let (load, converted) = match e {
            Expr::Cast(to, e) if *to == acc => (&**e, true),
            e => (e, false),
        };
        let Expr::Load { buf, index, lanes: 1 } = load else {
            return self.malformed("a factor of a contraction is not a load, or a cast of one");
        };
        let (elem, _) = self.buffer(*buf)?;
        if !converted && elem != acc {
            return self.malformed(format!("a factor of type {elem} in a contraction of {acc}"));
        }
        let Some(mut affine) = Affine::of(index) else {
            return self.malformed("the index of a factor of a contraction is not affine");
        };
        let stride = inner.and_then(|v| affine.terms.remove(&v)).unwrap_or(0);
        let terms =
            affine.terms.iter().map(|(v, c)| Ok((self.var(*v)?.0, *c))).collect::<Result<Vec<_>, InterpError>>()?;
        let cast = (elem != acc).then(|| value::cast(elem, acc));
        Ok(Factor { buf: *buf, base: affine.base, terms, stride, cast })
    }
}

//! Contractions of narrow integers with sums in `i32`, and of `f32` whose factors may be rounded to `bf16`.
//!
//! Where one factor is the same for all lanes, neighbouring elements along the sum are multiplied and added by one
//! instruction: [`Expr::Dot`](tenon_kernel::Expr::Dot) of four bytes or of two `i16`, whichever the machine has ([`plan`]). The constant
//! factor is packed in groups, padded with zeros, so what is read of the other beyond a run adds nothing. Bytes that a
//! machine multiplies as `i16` are widened once, where they are copied or padded, not in the inner loop.
//!
//! With `--precision bf16` sums of products of `f32` take the same way on machines that add pairs of products of `bf16` to an `f32`: the
//! constant is rounded when it is packed, the other factor in a copy, once and not for each use. What is read in pairs ends with
//! the run, as zero times infinity is no zero.
//!
//! Machines that multiply whole tiles of bytes or of `bf16` do so where there are several rows ([`tiles`]).
//!
//! On such machines products of two computed values are rounded, too ([`computed`]).
//!
//! There, the planes of an image are interleaved first if a run of one is too short or odd ([`planes`]).
//!
//! Where both factors differ between lanes (depthwise convolutions), the sum is computed in `f32`: integers up to 2²⁴ are exact
//! there, and every machine multiplies and adds floats at full speed ([`exact`]).

mod computed;
mod exact;
mod plan;
mod planes;
mod tile;
mod tiles;

use super::super::{ScheduleCx, Unit};
use std::collections::{BTreeMap, BTreeSet};
use tenon_base::DType;
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::{Access, Affine, Buf, Contract, Expr, Stmt};

/// Scratch buffers that are to hold other elements than they were declared with.
pub(super) struct Widened {
    /// How often each buffer is read, by the text.
    loads: BTreeMap<Buf, usize>,
    /// Those that contractions write, which may leave sums there for a while.
    sums: BTreeSet<Buf>,
    to: BTreeMap<Buf, DType>,
}

impl Widened {
    /// For a kernel of `body`.
    pub(super) fn of(body: &[Stmt]) -> Widened {
        let (mut loads, mut sums) = (BTreeMap::new(), BTreeSet::new());
        visit_stmts(body, &mut |s| {
            if let Stmt::Contract(c) = s {
                sums.insert(c.out);
            }
            s.exprs(&mut |e| {
                e.visit(&mut |e| {
                    if let Expr::Load { buf, .. } = e {
                        *loads.entry(*buf).or_insert(0) += 1;
                    }
                });
            });
        });
        Widened { loads, sums, to: BTreeMap::new() }
    }

    /// Makes `buf`, which one contraction alone reads, hold `dtype`; whether that is possible.
    pub(super) fn widen(&mut self, buf: Buf, dtype: DType, unit: &mut Unit) -> bool {
        let decl = &mut unit.kernel.buffers[buf.0 as usize];
        if decl.access != Access::Scratch || self.loads.get(&buf) != Some(&1) || self.to.contains_key(&buf) {
            return false;
        }
        if decl.dtype != dtype {
            self.to.insert(buf, dtype);
            decl.dtype = dtype;
        }
        true
    }
}

/// Loops for `c`, if it is a contraction of narrow integers that profits; buffers whose elements are to be widened are added to
/// `widened`.
pub(super) fn lower(c: &Contract, unit: &mut Unit, cx: &ScheduleCx<'_>, widened: &mut Widened) -> Option<Vec<Stmt>> {
    if unit.kernel.var(c.acc).ty.elem != DType::I32 || cx.target.lanes(DType::I32) < 2 {
        return None;
    }
    let factors = (factor(&c.a, unit)?, factor(&c.b, unit)?);
    if let Some(p) = plan::plan(c, factors, unit, cx, widened) {
        return Some(p.lower(c, &mut unit.kernel, cx.target));
    }
    exact::lower(c, unit, cx, widened)
}

/// Loops for `c`, if it is a contraction of `f32` whose factors may be rounded to `bf16`, which profits.
pub(super) fn lower_rounded(
    c: &Contract,
    unit: &mut Unit,
    cx: &ScheduleCx<'_>,
    widened: &mut Widened,
) -> Option<Vec<Stmt>> {
    if !cx.bf16 || unit.kernel.var(c.acc).ty.elem != DType::F32 {
        return None;
    }
    let float = |e: &Expr| {
        let Expr::Load { buf, index, lanes: 1 } = e else { return None };
        let dtype = unit.kernel.buffer(*buf).dtype;
        (dtype == DType::F32).then_some((*buf, Affine::of(index)?, dtype))
    };
    let factors = (float(&c.a)?, float(&c.b)?);
    let p = match plan::plan(c, factors.clone(), unit, cx, widened) {
        Some(p) => p,
        None => computed::plan(c, factors, unit, cx, widened)?,
    };
    Some(p.lower(c, &mut unit.kernel, cx.target))
}

/// Makes the stores to `widened` buffers convert.
pub(super) fn widen_stores(body: Vec<Stmt>, widened: &Widened) -> Vec<Stmt> {
    if widened.to.is_empty() {
        return body;
    }
    crate::schedule::scope::rewrite_stmts(body, &mut |s| match s {
        Stmt::Store { buf, index, value } => {
            let value = match widened.to.get(&buf) {
                Some(DType::U16) => value.rounded_bf16(),
                Some(d) => value.cast(*d),
                None => value,
            };
            vec![Stmt::Store { buf, index, value }]
        }
        s => vec![s],
    })
}

/// The buffer, index and dtype of a factor that is a load.
type Source = (Buf, Affine, DType);

/// That of a load of narrow integers.
fn factor(e: &Expr, unit: &Unit) -> Option<Source> {
    let Expr::Cast(DType::I32, e) = e else { return None };
    let Expr::Load { buf, index, lanes: 1 } = &**e else { return None };
    let dtype = unit.kernel.buffer(*buf).dtype;
    let narrow = matches!(dtype, DType::I8 | DType::U8 | DType::I16);
    narrow.then_some((*buf, Affine::of(index)?, dtype))
}

//! What a contraction is made of, and how it is tiled.
//!
//! The loop over the output whose elements are consecutive becomes lanes: `v`. Each factor is, along `v`, one scalar for
//! all lanes, consecutive elements, or else packed so that it is: constants when compiling, other data in a scratch
//! buffer inside the kernel. A second output loop, `m`, that shares what is loaded along `v`, is unrolled beside it.

use crate::schedule::Unit;
use crate::schedule::pack::Layout;
use tenon_base::DType;
use tenon_kernel::{Access, Affine, Buf, Contract, ContractDim, Expr};
use tenon_target::Target;

/// A factor: a load under casts.
#[derive(Clone, Debug)]
pub(super) struct Factor {
    pub(super) buf: Buf,
    pub(super) index: Affine,
    /// Conversions, innermost first.
    pub(super) casts: Vec<DType>,
    pub(super) along: Along,
}

/// A factor along the vector loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Along {
    /// The same element in every lane.
    Splat,
    /// Consecutive elements.
    Vector,
    /// Panels of `lanes` elements: see [`Layout`]; the index is that of the first panel.
    Panel {
        /// From panel to panel.
        stride: i64,
    },
    /// Packed into panels inside the kernel first.
    Pack,
}

impl Factor {
    fn of(e: &Expr) -> Option<Factor> {
        match e {
            Expr::Cast(d, e) => {
                let mut f = Factor::of(e)?;
                f.casts.push(*d);
                Some(f)
            }
            Expr::Load { buf, index, lanes: 1 } => {
                Some(Factor { buf: *buf, index: Affine::of(index)?, casts: vec![], along: Along::Splat })
            }
            _ => None,
        }
    }

    /// Under its casts.
    pub(super) fn cast(&self, e: Expr) -> Expr {
        self.casts.iter().fold(e, |e, d| e.cast(*d))
    }

    pub(super) fn uses(&self, d: &ContractDim) -> bool {
        self.index.coefficient(d.var) != 0
    }
}

/// A tiled contraction.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) a: Factor,
    pub(super) b: Factor,
    /// The loop that becomes lanes.
    pub(super) v: ContractDim,
    /// The loop that is unrolled, if any.
    pub(super) m: Option<ContractDim>,
    /// Loops that a vector factor depends on, outside all others.
    pub(super) outer: Vec<ContractDim>,
    /// Loops between those over `v` and over `m`.
    pub(super) middle: Vec<ContractDim>,
    pub(super) reduce: Vec<ContractDim>,
    /// Lanes of a register.
    pub(super) lanes: usize,
    /// Registers along `v`.
    pub(super) nv: usize,
    /// Rows along `m`.
    pub(super) mr: usize,
}

/// Multiplications for which a pass over a factor to pack it is worth while.
const REUSE: usize = 4;

/// How to tile `c`; `None` if it is to stay scalar. Constants are packed on the way: new parameters of the unit.
pub(super) fn plan(c: &Contract, unit: &mut Unit, target: &Target) -> Option<Plan> {
    let dtype = unit.kernel.var(c.acc).ty.elem;
    if !matches!(dtype, DType::F32 | DType::F64 | DType::I32) {
        return None;
    }
    // Without vectors a register is one element, and the tile still saves loads.
    let lanes = target.lanes(dtype);
    let (mut a, mut b) = (Factor::of(&c.a)?, Factor::of(&c.b)?);
    let out = Affine::of(&c.out_index)?;
    let v = c.dims.iter().find(|d| out.coefficient(d.var) == 1)?.clone();
    if v.extent < 2 || c.reduce.is_empty() {
        return None;
    }
    let others: Vec<ContractDim> = c.dims.iter().filter(|d| d.var != v.var).cloned().collect();
    let work = |f: &Factor| others.iter().filter(|d| !f.uses(d)).map(|d| d.extent).product::<usize>();
    let (reuse_a, reuse_b) = (work(&a), work(&b));
    for (f, reuse) in [(&mut a, reuse_a), (&mut b, reuse_b)] {
        f.along = match f.index.coefficient(v.var) {
            0 => Along::Splat,
            1 => Along::Vector,
            _ if unit.constant.get(f.buf.0 as usize) == Some(&true) => Along::Pack,
            _ if reuse >= REUSE => Along::Pack,
            _ => return None,
        };
    }
    if a.along == Along::Splat && b.along == Along::Splat {
        return None;
    }
    // The loop that is unrolled beside `v` shares the vectors of one factor.
    let shares = |d: &&ContractDim| {
        [&a, &b].into_iter().any(|f| f.along != Along::Splat && !f.uses(d)) && [&a, &b].into_iter().any(|f| f.uses(d))
    };
    let m = others.iter().filter(shares).max_by_key(|d| d.extent).cloned();
    let both = a.along != Along::Splat && b.along != Along::Splat;
    let mut reduce = c.reduce.clone();
    if !both {
        // The scalars of the other factor are read one after the other.
        let splat = if a.along == Along::Splat { &a } else { &b };
        reduce.sort_by_key(|d| std::cmp::Reverse(splat.index.coefficient(d.var).unsigned_abs()));
    }
    let (nv, mr) = shape(target, lanes, v.extent, m.as_ref().map_or(1, |d| d.extent), both);
    for f in [&mut a, &mut b] {
        let constant = unit.constant.get(f.buf.0 as usize) == Some(&true);
        if f.along == Along::Pack && both && !constant {
            return None;
        }
        if constant && f.along != Along::Splat {
            // Beside another vector factor, one long panel is as good as consecutive elements.
            let width = if both { v.extent } else { nv * lanes };
            if !both || f.along == Along::Pack {
                pack_constant(f, &v, &others, &reduce, width, unit);
                if both {
                    f.along = Along::Vector;
                    f.index = f.index.clone().with(v.var, 1);
                }
            }
        }
    }
    let is_vector = |f: &Factor| f.along != Along::Splat;
    let depends = |d: &ContractDim| !both && [&a, &b].into_iter().any(|f| is_vector(f) && f.uses(d));
    let rest = others.into_iter().filter(|d| m.as_ref().is_none_or(|m| m.var != d.var));
    let (outer, middle) = rest.partition(depends);
    let mut plan = Plan { a, b, v, m, outer, middle, reduce, lanes, nv, mr };
    while plan.merge_reduce() {}
    Some(plan)
}

impl Plan {
    /// Makes one of two neighbouring loops summed over that both factors walk as one.
    fn merge_reduce(&mut self) -> bool {
        // What is packed inside the kernel has its own loops over these.
        if self.a.along == Along::Pack || self.b.along == Along::Pack {
            return false;
        }
        for i in 1..self.reduce.len() {
            let (outer, inner) = (self.reduce[i - 1].clone(), self.reduce[i].clone());
            let one = |f: &Factor| {
                f.index.coefficient(inner.var).checked_mul(inner.extent as i64)
                    == Some(f.index.coefficient(outer.var))
            };
            let Some(extent) = inner.extent.checked_mul(outer.extent).filter(|_| one(&self.a) && one(&self.b)) else {
                continue;
            };
            for f in [&mut self.a, &mut self.b] {
                f.index.terms.remove(&outer.var);
            }
            self.reduce[i].extent = extent;
            self.reduce.remove(i - 1);
            return true;
        }
        false
    }
}

/// Registers along `v` and rows along `m`, of accumulators that stay in registers with what is multiplied.
fn shape(target: &Target, lanes: usize, v: usize, m: usize, both: bool) -> (usize, usize) {
    let accumulators = if target.vector_registers() >= 32 { 16 } else { 8 };
    let vectors = v.div_ceil(lanes);
    // Two factors of vectors: each product loads one anew.
    let most_nv = if m == 1 { accumulators } else { 2 };
    let nv = most_nv.min(vectors).max(1);
    let most_mr = if both { 4 } else { accumulators / nv };
    let tiles = m.div_ceil(most_mr.min(8));
    (nv, m.div_ceil(tiles))
}

/// Replaces constant factor `f` by a parameter in panels of `width`.
fn pack_constant(
    f: &mut Factor,
    v: &ContractDim,
    others: &[ContractDim],
    reduce: &[ContractDim],
    width: usize,
    unit: &mut Unit,
) {
    let used = |dims: &[ContractDim]| -> Vec<ContractDim> {
        dims.iter().filter(|d| f.index.coefficient(d.var) != 0).cloned().collect()
    };
    let (outer, inner) = (used(others), used(reduce));
    let strides = |dims: &[ContractDim]| dims.iter().map(|d| (d.extent, f.index.coefficient(d.var))).collect();
    let layout = Layout {
        base: f.index.base,
        outer: strides(&outer),
        extent: v.extent,
        lane_stride: f.index.coefficient(v.var),
        lanes: width,
        inner: strides(&inner),
    };
    let decl = unit.kernel.buffer(f.buf).clone();
    let (outer_strides, stride, inner_strides) = layout.strides();
    let source = f.buf;
    let known = unit.packs.iter().find(|p| p.source == source && p.layout == layout);
    f.buf = match known {
        Some(p) => p.packed,
        None => {
            let packed =
                unit.kernel.new_buffer(&format!("{}_packed", decl.name), decl.dtype, layout.len(), Access::In);
            unit.packs.push(crate::schedule::pack::Pack { source, packed, layout });
            packed
        }
    };
    let mut index = Affine::default();
    for (d, s) in outer.iter().zip(outer_strides).chain(inner.iter().zip(inner_strides)) {
        index = index.with(d.var, s);
    }
    f.index = index;
    f.along = Along::Panel { stride };
}

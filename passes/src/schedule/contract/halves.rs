//! Contractions of `f16`, which are computed in `f32`: factors are converted before the loops, not inside them.
//!
//! A factor that is the same for all lanes takes two more instructions where it is converted as it is loaded; so it is copied first, if
//! each element is loaded a few times, or written as `f32` from the beginning where this kernel writes it. Constants are converted
//! when they are packed, if several rows of tiles read them: they take twice the room, but then nothing is left to do.

use super::super::{ScheduleCx, Unit};
use super::dot::Widened;
use super::plan::{Along, Factor, Plan, others_of};
use crate::schedule::pack::Arrangement;
use crate::schedule::scope::{Block, for_loop};
use tenon_base::DType;
use tenon_kernel::{Access, Affine, Contract, Expr, Stmt};

/// Loads of every element from which on a copy pays.
const REUSE: usize = 3;

/// Constants grow to this many times the second cache at most.
const MOST: usize = 8;

/// Makes the factors of `c` that are `f16` and the same in all lanes `f32`; gives what is to be done before.
pub(super) fn widen(c: &mut Contract, unit: &mut Unit, cx: &ScheduleCx<'_>, widened: &mut Widened) -> Vec<Stmt> {
    let mut before = vec![];
    let Some(out) = Affine::of(&c.out_index) else { return before };
    let Some(v) = c.dims.iter().find(|d| out.coefficient(d.var) == 1).cloned() else { return before };
    let lanes = cx.target.lanes(DType::F32);
    if unit.kernel.var(c.acc).ty.elem != DType::F32 || lanes < 2 || v.extent < 2 {
        return before;
    }
    let steps: usize = others_of(c, &v).iter().chain(&c.reduce).map(|d| d.extent).fold(1, usize::saturating_mul);
    // Tiles are a few registers wide.
    let loads = steps.saturating_mul(v.extent.div_ceil(2 * lanes));
    for e in [&mut c.a, &mut c.b] {
        let Some(f) = Factor::of(e) else { continue };
        let decl = unit.kernel.buffer(f.buf).clone();
        let half = decl.dtype == DType::F16 && f.casts == [DType::F32];
        let constant = unit.constant.get(f.buf.0 as usize) == Some(&true);
        if !half || constant || f.index.coefficient(v.var) != 0 {
            continue;
        }
        let Expr::Cast(_, load) = &*e else { continue };
        if widened.widen(f.buf, DType::F32, unit) {
            *e = (**load).clone();
        } else if loads >= REUSE * decl.len {
            let copy = unit.kernel.new_buffer(&format!("{}_f32", decl.name), DType::F32, decl.len, Access::Scratch);
            let i = Block::new(&mut unit.kernel).index("i");
            let value = Expr::load(f.buf, Expr::Var(i)).cast(DType::F32);
            let store = Stmt::Store { buf: copy, index: Expr::Var(i), value };
            before.push(for_loop(i, decl.len, 1, true, vec![store]));
            *e = Expr::load(copy, f.index.to_expr());
        }
    }
    before
}

/// Converts the constants of `p` that it asked for after the first `known`, if they are `f16` and that pays.
pub(super) fn constants(p: &mut Plan, known: usize, unit: &mut Unit, cx: &ScheduleCx<'_>) {
    let rows: usize = p.middle.iter().chain(&p.m).map(|d| d.extent).product();
    if rows <= p.cover.full[0].mr {
        return;
    }
    let most = MOST * cx.target.caches.l2;
    let half = |unit: &Unit, f: &Factor| unit.kernel.buffer(f.buf).dtype == DType::F16 && f.casts == [DType::F32];
    in_floats(p, known, unit, |unit, f, len| half(unit, f) && matches!(f.along, Along::Panel { .. }) && len <= most);
}

/// Makes `f32` of the constants of `p` that it asked for after the first `known`, where `pays`, which is told the factor and the bytes.
pub(super) fn in_floats(p: &mut Plan, known: usize, unit: &mut Unit, pays: impl Fn(&Unit, &Factor, usize) -> bool) {
    for at in known..unit.packs.len() {
        let packed = unit.packs[at].packed;
        let bytes = unit.kernel.buffers[packed.0 as usize].len * DType::F32.size();
        for f in [&mut p.a, &mut p.b].into_iter().filter(|f| f.buf == packed) {
            if !pays(unit, f, bytes) {
                continue;
            }
            if let Arrangement::Panels(layout) = unit.packs[at].layout.clone() {
                unit.packs[at].layout = Arrangement::Floats(layout);
                unit.kernel.buffers[packed.0 as usize].dtype = DType::F32;
                f.casts.clear();
            }
        }
    }
}

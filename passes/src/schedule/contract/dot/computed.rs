//! Products in tiles of two factors that are both computed, as in attention.
//!
//! What lies in the lanes is rounded to `bf16` and packed in pairs by this kernel, for one point of the outer loops at a time, in words of 32
//! bits: where lanes are neighbours in memory a pair is two vectors, one of them shifted. Runs of odd length get rows with room for one more
//! element, which is zero: what follows a row in memory need not be a number.

use super::super::super::{ScheduleCx, Unit};
use super::plan::{Plan, roles, rounded};
use super::{Source, Widened, tiles};
use crate::schedule::scope::{Block, for_loop};
use tenon_base::{DType, Scalar};
use tenon_kernel::{Access, Affine, BinOp, Buf, Contract, ContractDim, Expr, Kernel, Stmt, Tiles, Type, Var};

/// Rows below which packing takes longer than what it saves.
const MIN_ROWS: usize = 48;

/// The factor in the lanes, which the kernel packs.
#[derive(Clone, Debug)]
pub(super) struct Fill {
    from: Buf,
    index: Affine,
    /// The loop summed over.
    run: ContractDim,
}

/// The factor in the rows, copied to rows of even length that lie beside each other.
#[derive(Clone, Debug)]
pub(super) struct EvenRows {
    pub(super) from: Buf,
    pub(super) index: Affine,
    /// The loops over rows, outermost first, and along them.
    pub(super) dims: Vec<ContractDim>,
    pub(super) run: ContractDim,
}

/// The plan for `c`; `None` if it does not have this form, or does not pay.
pub(super) fn plan(
    c: &Contract,
    factors: (Source, Source),
    unit: &mut Unit,
    cx: &ScheduleCx<'_>,
    widened: &mut Widened,
) -> Option<Plan> {
    let target = cx.target;
    let (v, (x, x_index, _), (w, w_index, _)) = roles(c, factors)?;
    let [run] = &c.reduce[..] else { return None };
    let constant = |b: Buf| unit.constant.get(b.0 as usize) == Some(&true);
    let runs = x_index.coefficient(run.var) == 1;
    if !target.has_tiles(DType::BF16) || !runs || constant(x) || constant(w) {
        return None;
    }
    let others = c.dims.iter().filter(|d| d.var != v.var);
    let (outer, rows): (Vec<_>, Vec<_>) = others.cloned().partition(|d| w_index.coefficient(d.var) != 0);
    let m = rows.iter().filter(|d| x_index.coefficient(d.var) > 0).max_by_key(|d| d.extent)?.clone();
    if m.extent < MIN_ROWS || !tiles::pay(m.extent, v.extent, run.extent, 2) {
        return None;
    }
    let middle = rows.into_iter().filter(|d| d.var != m.var).collect();
    // Rows of `x`: as they lie, if that wastes nothing, or in a copy of their own.
    let of_x: Vec<ContractDim> = c.dims.iter().filter(|d| x_index.coefficient(d.var) != 0).cloned().collect();
    let points = of_x.iter().map(|d| d.extent).product::<usize>();
    let len = unit.kernel.buffer(x).len;
    let whole = run.extent.is_multiple_of(2) && len <= 4 * points * run.extent;
    if !whole && points * run.extent > 2 * len {
        return None;
    }
    let groups = run.extent.div_ceil(2);
    let g = unit.kernel.new_var("g", Type::INDEX);
    let name = unit.kernel.buffer(w).name.clone();
    let panel = groups * Tiles::LANES;
    let pairs = v.extent.div_ceil(Tiles::LANES) * panel;
    let pairs = unit.kernel.new_buffer(&format!("{name}_pairs"), DType::U32, pairs, Access::Scratch);
    let fill = Fill { from: w, index: w_index, run: run.clone() };
    let (mut copy, mut even_rows) = (None, None);
    let (x, x_index) = if whole {
        let (x, flat) = rounded(unit, x, widened);
        copy = flat;
        (x, x_index.with(run.var, 0).with(g, 2))
    } else {
        let name = format!("{}_bf16", unit.kernel.buffer(x).name);
        let own = unit.kernel.new_buffer(&name, DType::U16, points * 2 * groups, Access::Scratch);
        even_rows = Some(EvenRows { from: x, index: x_index, dims: of_x.clone(), run: run.clone() });
        (own, rows_of(&of_x, 2 * groups).with(g, 2))
    };
    Some(Plan {
        x,
        x_index,
        copy,
        flip: None,
        w: pairs,
        w_index: Affine::default().with(g, Tiles::LANES as i64),
        w_tile: panel as i64,
        elements: (DType::U16, DType::U32),
        group: 2,
        groups,
        odd: false,
        v,
        m: Some(m.clone()),
        outer,
        middle,
        reduce: vec![],
        run: g,
        lanes: target.lanes(DType::F32),
        nv: 1,
        mr: 1,
        unrolled: usize::MAX,
        tiled: Some(m),
        fill: Some(fill),
        even_rows,
        planes: None,
    })
}

/// The first element of a row of `len` elements, one for each point of `dims`.
pub(super) fn rows_of(dims: &[ContractDim], len: usize) -> Affine {
    let (index, _) = dims
        .iter()
        .rev()
        .fold((Affine::default(), len), |(index, stride), d| (index.with(d.var, stride as i64), stride * d.extent));
    index
}

impl EvenRows {
    /// Copies all rows to `to`, rounded.
    pub(super) fn copy(&self, to: Buf, kernel: &mut Kernel) -> Stmt {
        let len = self.run.extent.next_multiple_of(2);
        let row = rows_of(&self.dims, len).to_expr();
        let k = Block::new(kernel).index("k");
        let from = self.index.to_expr().substitute(self.run.var, &Expr::Var(k));
        let value = Expr::load(self.from, from).rounded_bf16();
        let store = Stmt::Store { buf: to, index: row.clone() + Expr::Var(k), value };
        let mut body = vec![for_loop(k, self.run.extent, 1, true, vec![store])];
        if len > self.run.extent {
            let value = Expr::constant(DType::U16, 0.0);
            body.push(Stmt::Store { buf: to, index: row + self.run.extent, value });
        }
        for d in self.dims.iter().rev() {
            body = vec![for_loop(d.var, d.extent, 1, true, body)];
        }
        body.swap_remove(0)
    }
}

impl Fill {
    /// Fills panels of the lanes of `v` in `to`, for one point of the outer loops.
    pub(super) fn panels(&self, to: Buf, v: &ContractDim, kernel: &mut Kernel) -> Vec<Stmt> {
        let lanes = Tiles::LANES;
        let (full, rest) = (v.extent / lanes, v.extent % lanes);
        let t = Block::new(kernel).index("t");
        let mut out = vec![];
        if full > 0 {
            let body = self.panel(to, v.var, &Expr::Var(t), lanes, kernel);
            out.push(for_loop(t, full, 1, true, body));
        }
        // Lanes beyond the last are sums that nobody reads.
        if rest > 0 {
            out.extend(self.panel(to, v.var, &full.into(), rest, kernel));
        }
        out
    }

    fn panel(&self, to: Buf, v: Var, t: &Expr, lanes: usize, kernel: &mut Kernel) -> Vec<Stmt> {
        let (pairs, odd) = (self.run.extent / 2, self.run.extent % 2);
        let mut b = Block::new(kernel);
        let (g, l) = (b.index("g"), b.index("l"));
        let half = |k: Expr| {
            let lane = t.clone() * Tiles::LANES + Expr::Var(l);
            let at = self.index.to_expr().substitute(v, &lane).substitute(self.run.var, &k);
            Expr::load(self.from, at).rounded_bf16().cast(DType::U32)
        };
        let store = |g: Expr, value: Expr| {
            let panel = t.clone() * ((pairs + odd) * Tiles::LANES);
            Stmt::Store { buf: to, index: panel + g * Tiles::LANES + Expr::Var(l), value }
        };
        let shift = Expr::Const(Scalar::of_int(DType::U32, 16));
        let high = half(Expr::Var(g) * 2 + 1).binary(BinOp::Shl, shift);
        let pair = store(Expr::Var(g), half(Expr::Var(g) * 2).binary(BinOp::Or, high));
        let last = (odd > 0).then(|| store(pairs.into(), half((2 * pairs).into())));
        // Lanes are vectors where they are neighbours; else rows are read as they lie.
        if self.index.coefficient(v) == 1 {
            let mut out = vec![for_loop(g, pairs, 1, true, vec![for_loop(l, lanes, 1, true, vec![pair])])];
            out.extend(last.map(|s| for_loop(l, lanes, 1, true, vec![s])));
            out
        } else {
            let mut body = vec![for_loop(g, pairs, 1, true, vec![pair])];
            body.extend(last);
            vec![for_loop(l, lanes, 1, true, body)]
        }
    }
}

//! What a contraction is made of, and how it is tiled.
//!
//! The loop over the output whose elements are consecutive becomes lanes: `v`. Each factor is, along `v`, one scalar for
//! all lanes, consecutive elements, or else packed so that it is: constants when compiling, other data in a scratch
//! buffer inside the kernel. A second output loop, `m`, that shares what is loaded along `v`, is unrolled beside it.

use super::order::{Lines, crowded, of_product};
use super::shape::{Area, Budget, Cover};
use crate::schedule::pack::{Arrangement, Layout};
use crate::schedule::{ScheduleCx, Unit};
use crate::tuning::{Considered, Order, Tile};
use tenon_base::DType;
use tenon_kernel::{Access, Affine, Buf, Contract, ContractDim, Expr, Kernel, Type, Var};

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
    pub(super) fn of(e: &Expr) -> Option<Factor> {
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
    /// Loops over tiles that are neither along `v` nor along `m`.
    pub(super) middle: Vec<ContractDim>,
    pub(super) reduce: Vec<ContractDim>,
    /// Lanes of a register.
    pub(super) lanes: usize,
    /// Registers and rows of the tiles.
    pub(super) cover: Cover,
    /// Which loops over tiles are inside which.
    pub(super) order: Order,
    /// Both factors are vectors, and rows share one of them and a few taps: see [`super::window`].
    pub(super) window: bool,
    /// The sums' first values, padded where registers would read beyond them.
    pub(super) init: Option<Factor>,
    /// What tiles may use.
    pub(super) budget: Budget,
    /// Whether the code generator takes vectors that fill a part of a register only, in memory too.
    pub(super) partial: bool,
    /// Whether sums may be reordered.
    pub(super) reassociate: bool,
    /// Bytes of the second cache.
    pub(super) l2: usize,
    /// Bytes of what all rows read, and of what all columns read, in one product of several.
    pub(super) row_bytes: usize,
    pub(super) column_bytes: usize,
    /// The sum in parts, where what a column of tiles reads would not stay in the second cache.
    pub(super) parts: Option<Parts>,
}

/// Parts of a sum: the loop over them, and how many there are. Between parts the sums are in the result's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) var: Var,
    pub(super) count: usize,
}

/// Taps of a line at most, so that they and what they are multiplied with stay in registers.
const MAX_TAPS: usize = 16;

/// How much dearer than the cheapest a tile may be by estimate to be worth a measurement, and how many are.
const WORTH: f64 = 1.4;
const MOST_OTHERS: usize = 11;

/// Bytes of a column's panel from which on its sum is divided, however large the second cache is: the next panel is on its way there, too.
const LONGEST: usize = 256 << 10;

/// Instructions of a mathematical function, about.
const MATH: usize = 20;

/// Multiplications for which a pass over a factor to pack it is worth while.
const REUSE: usize = 4;
/// The same where the factor could be multiplied as it lies.
const REUSE_OF_RUNS: usize = 16;

/// How to tile `c`; `None` if it is to stay scalar. Constants are packed on the way: new parameters of the unit. `around` are the loops that it
/// stands in, with their iterations.
pub(super) fn plan(c: &Contract, around: &[(Var, usize)], unit: &mut Unit, cx: &ScheduleCx<'_>) -> Option<Plan> {
    let dtype = unit.kernel.var(c.acc).ty.elem;
    if !matches!(dtype, DType::F32 | DType::F64 | DType::I32) {
        return None;
    }
    // Without vectors a register is one element, and the tile still saves loads.
    let lanes = cx.target.lanes(dtype);
    let (mut a, mut b) = (Factor::of(&c.a)?, Factor::of(&c.b)?);
    let out = Affine::of(&c.out_index)?;
    let v = c.dims.iter().find(|d| out.coefficient(d.var) == 1)?.clone();
    if v.extent < 2 || c.reduce.is_empty() {
        return None;
    }
    let others = others_of(c, &v);
    let work = |f: &Factor| {
        let inside = others.iter().filter(|d| !f.uses(d)).map(|d| d.extent).product::<usize>();
        // What is packed of an operand serves all iterations that read the same.
        let operand = unit.kernel.buffer(f.buf).access == Access::In;
        let outside = around.iter().filter(|(v, _)| operand && f.index.coefficient(*v) == 0).map(|(_, n)| *n);
        outside.fold(inside, usize::saturating_mul)
    };
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
    let both = a.along != Along::Splat && b.along != Along::Splat;
    let mut reduce = c.reduce.clone();
    if !both {
        // The scalars of the other factor are read one after the other.
        let splat = if a.along == Along::Splat { &a } else { &b };
        reduce.sort_by_key(|d| std::cmp::Reverse(splat.index.coefficient(d.var).unsigned_abs()));
    }
    // A stride may pass over most of a buffer; and of a product for each of several matrices, one is done at a time.
    let bytes = |f: &Factor| {
        let buffer = unit.kernel.buffer(f.buf);
        let one = |d: &&ContractDim| f.uses(d) && !(a.uses(d) && b.uses(d));
        let used = c.dims.iter().filter(one).chain(c.reduce.iter().filter(|d| f.uses(d))).map(|d| d.extent);
        buffer.len.min(used.fold(1, usize::saturating_mul)) * buffer.dtype.size()
    };
    // What loops over rows and what loops over columns would read again.
    let (rows, columns) = if a.along == Along::Splat { (bytes(&a), bytes(&b)) } else { (bytes(&b), bytes(&a)) };
    let shape = shape_of(c, dtype, &v, both);
    // An order that this kind of contraction has.
    let asked = cx.tuning.tiles.get(&shape).copied().filter(|t| orders(both).contains(&t.order));
    let written = c.dims.iter().map(|d| d.extent).product::<usize>() * dtype.size();
    let mut order = if both { Order::ColumnsInside } else { of_product(rows, columns, written, &cx.target.caches) };
    order = asked.map_or(order, |t| t.order);
    let points = others.iter().map(|d| d.extent).product();
    let budget = Budget::of(cx.target, cx.price, nodes(&c.value));
    let times = around.iter().map(|(_, n)| *n).fold(unit.calls, usize::saturating_mul);
    let shaper = Shaper { budget, times, lanes, v: &v, reduce: &reduce, points, both, order, asked, cx };
    let (m, cover) = shaper.rows(&others, [&a, &b]);
    if let (true, Some(m), None) = (both, &m, asked) {
        let between = || others.iter().filter(|d| d.var != m.var);
        let middle: usize = between().map(|d| d.extent).product();
        let tiles = middle * cover.full.iter().map(|r| r.count).sum::<usize>();
        let (below, rows) = (between().next_back().cloned(), cover.size().0);
        let width = cover.nv * lanes;
        let lines = Lines { v: &v, m, reduce: &reduce, lines: below, rows, middle, tiles, width, lanes };
        order = lines.order([&a, &b], &unit.kernel, &cx.target.caches);
    }
    let taken = cover.size();
    let taken = Tile { rows: taken.0, registers: taken.1, order };
    let other_tiles = shaper.others(&m, [&a, &b], taken);
    for (f, reuse) in [(&mut a, reuse_a), (&mut b, reuse_b)] {
        let constant = unit.constant.get(f.buf.0 as usize) == Some(&true);
        if f.along == Along::Pack && both && !constant {
            return None;
        }
        let size = unit.kernel.buffer(f.buf).dtype.size();
        if f.along == Along::Vector
            && !(both || constant)
            && reuse >= REUSE_OF_RUNS
            && crowded(f, &reduce, cover.nv * lanes, size, &cx.target.caches)
        {
            f.along = Along::Pack;
        }
        if constant && f.along != Along::Splat {
            // Beside another vector factor, which is not padded, panels have to be whole; else one long panel is as good as consecutive
            // elements. The taps of a window lie together then, not in as many pages and in the sets of the cache that its places are in.
            let long = both && !v.extent.is_multiple_of(cover.nv * lanes);
            let width = if long { v.extent } else { cover.nv * lanes };
            if !both || f.along == Along::Pack {
                pack_constant(f, &v, &others, &reduce, width, unit);
                if long {
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
    let window = both && m.is_some() && reduce.last().is_some_and(|d| d.extent <= MAX_TAPS);
    let partial = cx.target.vector_bytes > 16;
    let padded = !both && partial && !v.extent.is_multiple_of(lanes);
    let init = if padded { padded_init(c, &v, &others_of(c, &v), cover.nv * lanes, unit) } else { None };
    let (budget, partial, reassociate) = (shaper.budget, partial, cx.reassociate);
    let mut plan = Plan {
        a,
        b,
        v: v.clone(),
        m,
        outer,
        middle,
        reduce: reduce.clone(),
        lanes,
        cover,
        order,
        window,
        init,
        budget,
        partial,
        reassociate,
        l2: cx.target.caches.l2,
        row_bytes: rows,
        column_bytes: columns,
        parts: None,
    };
    while plan.merge_reduce() {}
    let kernel = unit.kernel.name.clone();
    unit.considered.push(Considered { kernel, shape, taken, others: other_tiles });
    Some(plan)
}

/// The orders that tiles of a contraction may have of which `both` factors are vectors, or one.
fn orders(both: bool) -> &'static [Order] {
    match both {
        true => &[Order::ColumnsInside, Order::ColumnsOutside, Order::LinesInside],
        false => &[Order::RowsInside, Order::ColumnsInside],
    }
}

/// Operations of `e`.
fn nodes(e: &Expr) -> usize {
    let mut n = 0;
    e.visit(&mut |e| n += if matches!(e, Expr::Math(..)) { MATH } else { 1 });
    n
}

/// The text of `c` that tiles are known by: see [`Considered::shape`].
fn shape_of(c: &Contract, dtype: DType, v: &ContractDim, both: bool) -> String {
    let extents = |dims: &[ContractDim]| dims.iter().map(|d| d.extent.to_string()).collect::<Vec<_>>().join(".");
    let rows = others_of(c, v);
    let rows = if rows.is_empty() { "1".to_string() } else { extents(&rows) };
    let lines = if both { " lines" } else { "" };
    format!("{dtype} {rows}x{}x{}{lines}", v.extent, extents(&c.reduce))
}

/// The output loops of `c` but `v`.
pub(super) fn others_of(c: &Contract, v: &ContractDim) -> Vec<ContractDim> {
    c.dims.iter().filter(|d| d.var != v.var).cloned().collect()
}

/// A constant that the sums begin with, in panels: whole registers of it can be loaded.
fn padded_init(
    c: &Contract,
    v: &ContractDim,
    others: &[ContractDim],
    width: usize,
    unit: &mut Unit,
) -> Option<Factor> {
    let mut f = Factor::of(&c.init)?;
    let constant = unit.constant.get(f.buf.0 as usize) == Some(&true);
    (constant && f.index.coefficient(v.var) == 1).then(|| {
        pack_constant(&mut f, v, others, &[], width, unit);
        f
    })
}

/// Whether another tile was asked for; the cost; how far apart rows are.
type Price = (bool, f64, u64);

/// Chooses the loop that is unrolled beside the vector loop, and the tiles.
struct Shaper<'a> {
    budget: Budget,
    lanes: usize,
    v: &'a ContractDim,
    reduce: &'a [ContractDim],
    /// Points of all other loops of the result.
    points: usize,
    /// How often the contraction is computed in a run of the model.
    times: usize,
    both: bool,
    order: Order,
    /// The tile that was measured to be best, if any was.
    asked: Option<Tile>,
    cx: &'a ScheduleCx<'a>,
}

impl Shaper<'_> {
    /// Of the loops that share the vectors of one factor, the one with the cheapest tiles, or with those that are asked for.
    fn rows(&self, others: &[ContractDim], factors: [&Factor; 2]) -> (Option<ContractDim>, Cover) {
        let shares = |d: &&ContractDim| {
            factors.iter().any(|f| f.along != Along::Splat && !f.uses(d)) && factors.iter().any(|f| f.uses(d))
        };
        let mut best: Option<(Price, ContractDim, Cover)> = None;
        for d in others.iter().filter(shares) {
            let cover = self.cover(d.extent, Some(d), factors);
            let cost = cover.cost * (self.points / d.extent) as f64;
            let distance = factors.iter().map(|f| f.index.coefficient(d.var).unsigned_abs()).max().unwrap_or(0);
            let other = self.asked.is_some_and(|t| (t.rows, t.registers) != cover.size());
            let price = (other, cost, distance);
            if best.as_ref().is_none_or(|b| self.is_better(price, b.0)) {
                best = Some((price, d.clone(), cover));
            }
        }
        match best {
            Some((_, d, cover)) => (Some(d), cover),
            None => (None, self.cover(1, None, factors)),
        }
    }

    /// Whether `a` is to be preferred: of those that cost about the same, that whose rows lie closest together, so that lines of memory are
    /// read and written at once.
    fn is_better(&self, a: Price, b: Price) -> bool {
        // Windows share what they load along one loop or the other; how that is ordered in memory is decided later.
        let about = if self.both { 1e-9 } else { 0.02 };
        if a.0 != b.0 {
            return b.0;
        }
        let same = (a.1 - b.1).abs() <= about * b.1;
        if same { a.2 < b.2 } else { a.1 < b.1 }
    }

    fn cover(&self, m: usize, d: Option<&ContractDim>, factors: [&Factor; 2]) -> Cover {
        Cover::choose(&self.covers(m, d, factors), self.asked.map(|t| (t.rows, t.registers)), m)
    }

    /// Tiles that are worth a measurement beside `taken`: the cheapest by estimate, in the orders that there are.
    fn others(&self, m: &Option<ContractDim>, factors: [&Factor; 2], taken: Tile) -> Vec<Tile> {
        let mut all = self.covers(m.as_ref().map_or(1, |m| m.extent), m.as_ref(), factors);
        all.sort_by(|a, b| a.cost.total_cmp(&b.cost));
        let least = all.first().map_or(0.0, |c| c.cost);
        let orders = orders(self.both);
        let near = all.iter().filter(|c| c.cost <= WORTH * least).map(Cover::size);
        let tiles =
            near.flat_map(|(rows, registers)| orders.iter().map(move |&order| Tile { rows, registers, order }));
        tiles.filter(|t| *t != taken).take(MOST_OTHERS).collect()
    }

    fn covers(&self, m: usize, d: Option<&ContractDim>, factors: [&Factor; 2]) -> Vec<Cover> {
        let area = Area {
            m,
            registers: self.v.extent.div_ceil(self.lanes),
            whole: self.v.extent.is_multiple_of(self.lanes),
            times: self.points / m.max(1),
            runs: self.times,
        };
        let steps: usize = self.reduce.iter().map(|d| d.extent).product();
        if !self.both {
            return self.budget.covers(area, steps, self.order == Order::ColumnsInside, self.cx.reassociate);
        }
        let Some(tap) = self.reduce.last().filter(|t| d.is_some() && t.extent <= MAX_TAPS) else {
            return self.budget.covers(area, steps, true, self.cx.reassociate);
        };
        let step =
            d.map_or(0, |d| factors.iter().map(|f| f.index.coefficient(d.var).unsigned_abs()).max().unwrap_or(0));
        let by = factors.iter().map(|f| f.index.coefficient(tap.var).unsigned_abs()).max().unwrap_or(0);
        // Rows whose places no tap shares are as good as far apart.
        let apart = if by > 0 && step.is_multiple_of(by) { (step / by) as usize } else { tap.extent };
        self.budget.windows(area, tap.extent, steps / tap.extent, apart)
    }
}

impl Plan {
    /// Whether a factor is read from panels, which are padded to whole tiles.
    pub(super) fn paneled(&self) -> bool {
        [&self.a, &self.b].into_iter().any(|f| matches!(f.along, Along::Panel { .. }))
    }

    /// Divides the sum so that the part of a column that its tiles read again and again stays in the second cache.
    pub(super) fn divide(&mut self, c: &Contract, kernel: &mut Kernel) {
        let dtype = kernel.var(c.acc).ty.elem;
        let rows: usize = self.middle.iter().chain(&self.m).map(|d| d.extent).product();
        let again = self.order == Order::RowsInside && self.paneled() && rows > 2 * self.cover.full[0].mr;
        let fits = kernel.buffer(c.out).dtype == dtype && self.v.extent.is_multiple_of(self.lanes);
        let step = self.cover.nv * self.lanes * dtype.size();
        let steps: usize = self.reduce.iter().map(|d| d.extent).product();
        if !again || !fits || steps * step <= (self.l2 / 2).min(LONGEST) {
            return;
        }
        let most = self.l2 / 6 / step;
        // Parts of the outermost loop are one run each, which the tiles before can fetch.
        let largest = self.reduce.iter().max_by_key(|d| d.extent);
        let found = self.reduce.first().into_iter().chain(largest).find_map(|d| {
            let others = steps / d.extent;
            let part = (1..=most / others).rev().find(|n| d.extent.is_multiple_of(*n))?;
            (part * others * 3 >= most && part < d.extent).then(|| (d.clone(), part))
        });
        let Some((d, part)) = found else { return };
        let var = kernel.new_var("part", Type::INDEX);
        for f in [&mut self.a, &mut self.b] {
            let by = f.index.coefficient(d.var) * part as i64;
            f.index = std::mem::take(&mut f.index).with(var, by);
        }
        self.reduce.iter_mut().filter(|r| r.var == d.var).for_each(|r| r.extent = part);
        self.parts = Some(Parts { var, count: d.extent / part });
        // The result's place holds sums while operands are still to be read.
        kernel.in_place.retain(|(_, o)| *o != c.out);
    }

    /// Of `n` steps along the rows, how many make a block that every column then reads from the second cache; `None` where all
    /// rows fit, or blocks do not pay.
    pub(super) fn block(&self, n: usize) -> Option<usize> {
        let columns = self.v.extent / (self.cover.nv * self.lanes);
        if self.row_bytes <= self.l2 / 2 || columns < 2 {
            return None;
        }
        let most = (n * (self.l2 / 3) / self.row_bytes).max(1);
        // Blocks of one size where that does not make them much smaller.
        let by = (most / 2 + 1..=most).rev().find(|b| n.is_multiple_of(*b)).unwrap_or(most);
        // Columns are then read again for every block. Mostly they are weights, which come from further away than rows.
        let (again, saved) = ((n.div_ceil(by) - 1) * self.column_bytes, (columns - 1) * self.row_bytes);
        Some(by).filter(|b| *b < n && 3 * again < saved)
    }

    /// Makes one of two neighbouring loops summed over that both factors walk as one.
    fn merge_reduce(&mut self) -> bool {
        // What is packed inside the kernel has its own loops over these; a line of taps stays one.
        if self.window || self.a.along == Along::Pack || self.b.along == Along::Pack {
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

/// Replaces constant factor `f` by a parameter in panels of `width`.
pub(super) fn pack_constant(
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
    let (len, layout) = (layout.len(), Arrangement::Panels(layout));
    let known = unit.packs.iter().find(|p| p.source == source && p.layout == layout);
    f.buf = match known {
        Some(p) => p.packed,
        None => {
            let packed = unit.kernel.new_buffer(&format!("{}_packed", decl.name), decl.dtype, len, Access::In);
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

//! How a contraction of narrow elements is tiled.

use super::super::super::{ScheduleCx, Unit};
use super::computed::{EvenRows, Fill, rows_of};
use super::planes::Planes;
use super::{Source, Widened, tile, tiles};
use crate::schedule::pack::{Arrangement, Groups, Pack};
use tenon_base::DType;
use tenon_kernel::{Access, Affine, Buf, Contract, ContractDim, Expr, Kernel, Stmt, Type, Var};
use tenon_target::{Arch, Feature, Target};

/// A tiled contraction: one factor is `x`, the same for all lanes, the other `w`, packed.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Where `x` is read.
    pub(super) x: Buf,
    /// Its index; the dims of the run are replaced by `run`.
    pub(super) x_index: Affine,
    /// If `x` is to be copied first: from where, and as what.
    pub(super) copy: Option<(Buf, DType)>,
    /// The sign bit of the bytes of `x` is flipped, and these sums of columns times this make up for it.
    pub(super) flip: Option<(Buf, i64)>,
    /// The packed constant.
    pub(super) w: Buf,
    /// Its index but for the tile along `v` and the group.
    pub(super) w_index: Affine,
    /// From tile to tile along `v`.
    pub(super) w_tile: i64,
    /// The dtype both have in the product.
    pub(super) elements: (DType, DType),
    /// Neighbours that one lane adds up.
    pub(super) group: usize,
    /// Groups of a run.
    pub(super) groups: usize,
    /// The last group is one element, beyond which nothing may be read: what is there need not be a number.
    pub(super) odd: bool,
    /// The loop that becomes lanes.
    pub(super) v: ContractDim,
    /// The loop that is unrolled, if any.
    pub(super) m: Option<ContractDim>,
    /// Loops around the tiles along `v`: `w` depends on them.
    pub(super) outer: Vec<ContractDim>,
    /// Loops inside them.
    pub(super) middle: Vec<ContractDim>,
    /// Loops summed over around the run.
    pub(super) reduce: Vec<ContractDim>,
    /// The loop over the groups of a run.
    pub(super) run: Var,
    /// Lanes of a register.
    pub(super) lanes: usize,
    /// Registers along `v`.
    pub(super) nv: usize,
    /// Rows along `m`.
    pub(super) mr: usize,
    /// The most operations of an unrolled loop body.
    pub(super) unrolled: usize,
    /// Products are those of tiles, whose rows are iterations of this loop.
    pub(super) tiled: Option<ContractDim>,
    /// `w` is packed by this kernel, of this.
    pub(super) fill: Option<Fill>,
    /// `x` is a copy of this.
    pub(super) even_rows: Option<EvenRows>,
    /// `x` holds these.
    pub(super) planes: Option<Planes>,
}

/// A run of neighbours of `x`.
struct Run {
    /// The dims along it, outermost first, and the other dims that are summed over.
    dims: Vec<ContractDim>,
    rest: Vec<ContractDim>,
    /// Elements that the innermost dim takes, zeros behind the last included.
    width: usize,
}

impl Run {
    /// The innermost run along which `x` is consecutive, where an iteration of the dim before the last moves by `width` elements if that is given.
    fn of(reduce: &[ContractDim], x: &Affine, width: Option<usize>) -> Option<Run> {
        let mut run = Run { dims: vec![], rest: reduce.to_vec(), width: 0 };
        while let Some(i) =
            run.rest.iter().position(|d| u64::try_from(x.coefficient(d.var)) == Ok(run.length().max(1) as u64))
        {
            let d = run.rest.remove(i);
            if run.dims.is_empty() {
                run.width = width.unwrap_or(d.extent);
            }
            run.dims.insert(0, d);
        }
        (!run.dims.is_empty()).then_some(run)
    }

    /// Elements, with zeros.
    fn length(&self) -> usize {
        self.dims.iter().rev().skip(1).fold(self.width, |n, d| n.saturating_mul(d.extent))
    }
}

/// What the machine multiplies: the dtypes of `x` and `w` in the product, the group, and whether the sign of `x` is flipped.
fn product(target: &Target, x: DType, w: DType) -> (DType, DType, usize, bool) {
    let pairs = (DType::I16, DType::I16, 2, false);
    if x == DType::F32 {
        return (DType::U16, DType::U16, 2, false);
    }
    if w != DType::I8 || x == DType::I16 {
        return pairs;
    }
    let has = |f| target.has(f);
    match target.arch {
        // Unsigned by signed.
        Arch::X86_64 if has(Feature::AvxVnni) || has(Feature::Avx512vnni) && has(Feature::Avx512vl) => {
            (DType::U8, w, 4, x == DType::I8)
        }
        // Signed by signed; mixed with `i8mm`.
        Arch::Aarch64 if has(Feature::I8mm) => (x, w, 4, false),
        Arch::Aarch64 if has(Feature::Dotprod) => (DType::I8, w, 4, x == DType::U8),
        _ => pairs,
    }
}

/// The loop that becomes lanes, the factor that is the same in all of them, and the one that differs; `None` where both do or neither does.
pub(super) fn roles(c: &Contract, (a, b): (Source, Source)) -> Option<(ContractDim, Source, Source)> {
    let out = Affine::of(&c.out_index)?;
    let v = c.dims.iter().find(|d| out.coefficient(d.var) == 1 && d.extent > 1)?.clone();
    let (x, w) = if a.1.coefficient(v.var) != 0 { (b, a) } else { (a, b) };
    (x.1.coefficient(v.var) == 0 && w.1.coefficient(v.var) != 0).then_some((v, x, w))
}

/// The plan for `c`; `None` if it does not have this form. Adds parameters and scratch buffers to the unit.
pub(super) fn plan(
    c: &Contract,
    factors: (Source, Source),
    unit: &mut Unit,
    cx: &ScheduleCx<'_>,
    widened: &mut Widened,
) -> Option<Plan> {
    let target = cx.target;
    let (v, (x, mut x_index, x_dtype), (w, w_index, w_dtype)) = roles(c, factors)?;
    if unit.constant.get(w.0 as usize) != Some(&true) {
        return None;
    }
    let mut run = Run::of(&c.reduce, &x_index, None)?;
    let others: Vec<ContractDim> = c.dims.iter().filter(|d| d.var != v.var).cloned().collect();
    let uses = |i: &Affine, d: &ContractDim| i.coefficient(d.var) != 0;
    let m = others.iter().filter(|d| uses(&x_index, d) && !uses(&w_index, d)).max_by_key(|d| d.extent).cloned();
    let rest = others.iter().filter(|d| m.as_ref().is_none_or(|m| m.var != d.var)).cloned();
    let (outer, middle): (Vec<_>, Vec<_>) = rest.partition(|d| uses(&w_index, d));
    let float = x_dtype == DType::F32;
    let tiles_along = |x: &Affine, run: &Run| {
        m.clone().filter(|m| can_tile(m, x, (x_dtype, w_dtype), v.extent, run.length(), target))
    };
    let mut tiled = tiles_along(&x_index, &run);
    let mut planes = None;
    if float && tiled.is_none() && !unit.constant.get(x.0 as usize).is_some_and(|c| *c) {
        let interleaved =
            Planes::of(c, x, &x_index).and_then(|p| Some((Run::of(&c.reduce, &p.index, Some(p.width))?, p)));
        if let Some((longer, p)) = interleaved
            && let Some(m) = tiles_along(&p.index, &longer)
        {
            (run, tiled, x_index) = (longer, Some(m), p.index.clone());
            planes = Some(p);
        }
    }
    let (length, reduce) = (run.length(), run.rest);
    if float && tiled.is_none() && !pairs(m.is_none(), 4 * unit.kernel.buffer(w).len, target) {
        return None;
    }
    let (x_as, w_as, group, flip) = match tiles::elements(x_dtype, w_dtype).filter(|_| tiled.is_some()) {
        Some((x, w)) => (x, w, if float { 2 } else { 4 }, false),
        None => product(target, x_dtype, w_dtype),
    };
    let groups = length.div_ceil(group);
    if float && !pays(c, &v, length, unit.kernel.buffer(x).len, target) {
        return None;
    }
    let lanes = target.lanes(DType::I32);
    let rows = m.as_ref().map_or(1, |m| m.extent);
    let (nv, mr) = match (&tiled, float) {
        (Some(_), _) => (1, 1),
        (None, true) => shape_of_pairs(lanes, v.extent, rows),
        (None, false) => shape(target, lanes, v.extent, rows, group),
    };
    let unrolled = cx.price.unrolled.min(UNROLLED);
    let mr = mr.min(rows_within(unrolled, nv));
    // The packed constant.
    let width = nv * lanes;
    let strides = |dims: &[ContractDim]| dims.iter().map(|d| (d.extent, w_index.coefficient(d.var))).collect();
    let layout = Groups {
        base: w_index.base,
        outer: strides(&outer),
        v: (v.extent, w_index.coefficient(v.var)),
        width,
        reduce: strides(&reduce),
        run: strides(&run.dims),
        run_width: run.width,
        group,
    };
    let (outer_strides, w_tile, reduce_strides) = layout.strides();
    let packed = match float {
        true => packed(unit, w, w_as, layout.len(), Arrangement::Bf16(layout.clone())),
        false => packed(unit, w, w_dtype, layout.len(), Arrangement::Groups(layout.clone())),
    };
    let at = outer.iter().zip(outer_strides).chain(reduce.iter().zip(reduce_strides));
    let run_var = unit.kernel.new_var("g", Type::INDEX);
    let packed_index = at.fold(Affine::default(), |i, (d, s)| i.with(d.var, s)).with(run_var, (width * group) as i64);
    let mut x_run = run.dims.iter().fold(x_index.clone(), |i, d| i.with(d.var, 0)).with(run_var, group as i64);
    let sums = flip.then(|| {
        let n = outer.iter().map(|d| d.extent).product::<usize>() * v.extent;
        let name = unit.kernel.buffer(w).name.clone();
        let buf = unit.kernel.new_buffer(&format!("{name}_sums"), DType::I32, n, Access::In);
        unit.packs.push(Pack { source: w, packed: buf, layout: Arrangement::Sums(layout) });
        // Flipping the sign bit of an unsigned byte takes 128 away, of a signed one adds 128.
        (buf, if x_dtype == DType::U8 { 128 } else { -128 })
    });
    let ragged = !length.is_multiple_of(group);
    let mut even_rows = None;
    if let Some(along) = tiled.as_ref().filter(|_| float && planes.is_none())
        && let Some(dims) = rows_apart(along, &middle, &outer, &reduce, &x_run)
    {
        let dense = rows_of(&dims, length).with(run_var, group as i64);
        let of = |of: &dyn Fn(&ContractDim) -> bool| {
            reduce.iter().filter(|d| of(d)).fold(length, |n, d| n.saturating_mul(d.extent))
        };
        let lengths = (of(&|_| true), of(&|d| uses(&x_run, d)));
        if tiles::dense_rows_pay(along, &middle, [&x_run, &dense], v.extent, lengths, &target.caches) {
            let run = ContractDim { var: unit.kernel.new_var("k", Type::INDEX), extent: length };
            let index = x_run.with(run_var, 0).with(run.var, 1);
            even_rows = Some(EvenRows { from: x, index, dims, run });
            x_run = dense;
        }
    }
    let (x, copy) = match (&planes, float) {
        (Some(p), _) => (p.buffer(unit), None),
        _ if even_rows.is_some() => {
            let name = format!("{}_rows", unit.kernel.buffer(x).name);
            let len = even_rows.iter().flat_map(|r| &r.dims).fold(length, |n, d| n * d.extent);
            (unit.kernel.new_buffer(&name, DType::U16, len, Access::Scratch), None)
        }
        (None, true) => rounded(unit, x, widened),
        (None, false) => source(unit, x, (x_dtype, x_as), (flip, ragged), group, widened),
    };
    Some(Plan {
        x,
        x_index: x_run,
        copy,
        flip: sums,
        w: packed,
        w_index: packed_index,
        w_tile,
        elements: (x_as, w_as),
        group,
        groups,
        odd: float && ragged,
        v,
        m,
        outer,
        middle,
        reduce,
        run: run_var,
        lanes,
        nv,
        mr,
        unrolled,
        tiled,
        fill: None,
        even_rows,
        planes,
    })
}

/// The loops that have rows of `x` of their own, outermost first; `None` if one of those around the tiles has.
fn rows_apart(
    along: &ContractDim,
    middle: &[ContractDim],
    outer: &[ContractDim],
    reduce: &[ContractDim],
    x: &Affine,
) -> Option<Vec<ContractDim>> {
    let uses = |d: &&ContractDim| x.coefficient(d.var) != 0;
    let dims = middle.iter().filter(uses).chain([along]).chain(reduce.iter().filter(uses));
    (!outer.iter().any(|d| uses(&d))).then(|| dims.cloned().collect())
}

/// Whether tiles multiply factors that lie in memory as `dtypes`, and pay.
fn can_tile(
    m: &ContractDim,
    x: &Affine,
    (x_dtype, w_dtype): (DType, DType),
    columns: usize,
    length: usize,
    target: &Target,
) -> bool {
    let Some((of_x, _)) = tiles::elements(x_dtype, w_dtype) else { return false };
    let factors = if of_x == DType::U16 { DType::BF16 } else { of_x };
    let group = if of_x == DType::U16 { 2 } else { 4 };
    // What is read beyond a run of floats need not be a number.
    let whole = of_x != DType::U16 || length.is_multiple_of(group);
    target.has_tiles(factors) && whole && x.coefficient(m.var) >= 0 && tiles::pay(m.extent, columns, length, group)
}

/// Whether pairs of `bf16` are multiplied where tiles are not: where that is faster than in `f32`, and for one row, where `bytes` of weights are
/// waited for, wherever it can be done. Beside tiles there is no other use of them.
fn pairs(one_row: bool, bytes: usize, target: &Target) -> bool {
    let can = target.vector_bytes == 64 && target.has(Feature::Avx512bf16);
    let waits = one_row && bytes > target.caches.l2;
    can && (waits || target.has_bf16_dot_product() && !target.has_tiles(DType::BF16))
}

/// Whether pairs of `bf16` are worth while: `c` has the tiled loop `v` and runs of `length`, and reads of `len` elements, which are rounded
/// in a copy.
fn pays(c: &Contract, v: &ContractDim, length: usize, len: usize, target: &Target) -> bool {
    let products = c.dims.iter().chain(&c.reduce).map(|d| d.extent).fold(1, usize::saturating_mul);
    // A copy loads, rounds and stores; each register of pairs saves one multiplication. Odd runs waste the end of a pair.
    let copied = products >= 8 * len;
    copied && 4 * length >= 3 * length.next_multiple_of(2) && 2 * v.extent >= target.lanes(DType::F32)
}

/// Where `x` is read as `bf16`: in its scratch buffer, if this kernel alone writes it, else in a copy.
pub(super) fn rounded(unit: &mut Unit, x: Buf, widened: &mut Widened) -> (Buf, Option<(Buf, DType)>) {
    if !widened.sums.contains(&x) && widened.widen(x, DType::U16, unit) {
        return (x, None);
    }
    let decl = unit.kernel.buffer(x).clone();
    let copy = unit.kernel.new_buffer(&format!("{}_bf16", decl.name), DType::U16, decl.len, Access::Scratch);
    unit.roundings.push((copy, x));
    (copy, Some((x, DType::U16)))
}

/// The parameter that is constant `w` in another order.
fn packed(unit: &mut Unit, w: Buf, dtype: DType, len: usize, layout: Arrangement) -> Buf {
    if let Some(p) = unit.packs.iter().find(|p| p.source == w && p.layout == layout) {
        return p.packed;
    }
    let name = format!("{}_packed", unit.kernel.buffer(w).name);
    let packed = unit.kernel.new_buffer(&name, dtype, len, Access::In);
    unit.packs.push(Pack { source: w, packed, layout });
    packed
}

/// Where `x` is read as `to`: in place, in its scratch buffer (whose elements are widened), or in a copy.
fn source(
    unit: &mut Unit,
    x: Buf,
    (from, to): (DType, DType),
    (flip, ragged): (bool, bool),
    group: usize,
    widened: &mut Widened,
) -> (Buf, Option<(Buf, DType)>) {
    if from == to && !flip && !ragged {
        return (x, None);
    }
    // Written by this kernel alone, it may as well be written as what is wanted, with room for the last group.
    let keeps = from == to || to == DType::I16;
    if !flip && keeps && widened.widen(x, to, unit) {
        unit.kernel.buffers[x.0 as usize].len += group;
        return (x, None);
    }
    let decl = unit.kernel.buffer(x).clone();
    let name = format!("{}_{to}", decl.name);
    let copy = unit.kernel.new_buffer(&name, to, decl.len + group, Access::Scratch);
    (copy, Some((x, to)))
}

/// Rows that are many tiles.
const MANY_ROWS: usize = 32;

/// The most operations of an unrolled loop body.
const UNROLLED: usize = 128;

/// Rows of a tile of `nv` registers of which one step is at most `unrolled` operations: products, and what they load.
fn rows_within(unrolled: usize, nv: usize) -> usize {
    (unrolled.saturating_sub(nv) / (nv + 1)).max(1)
}

/// Registers along `v` and rows along `m`, for products of `group` neighbours.
fn shape(target: &Target, lanes: usize, v: usize, m: usize, group: usize) -> (usize, usize) {
    // One register holds the products, one the repeated group, the rest are accumulators and constants. Where pairs take all sixteen registers
    // some accumulators move to memory and back, which costs more than one row less, unless rows are few.
    let accumulators = match target.vector_registers() {
        16 if target.vector_bytes == 16 => 8,
        16 if group == 2 && m > MANY_ROWS => 10,
        16 => 12,
        _ => 16,
    };
    let vectors = v.div_ceil(lanes);
    let most_nv = if m == 1 { 8 } else { 2 };
    let nv = most_nv.min(vectors).max(1);
    let most_mr = (accumulators / nv).clamp(1, 8);
    let tiles = m.div_ceil(most_mr);
    (nv, m.div_ceil(tiles))
}

/// The same for pairs of `bf16`, which machines with 32 registers have: 24 are accumulators, in tiles of even width.
fn shape_of_pairs(lanes: usize, v: usize, m: usize) -> (usize, usize) {
    let vectors = v.div_ceil(lanes);
    let most_nv = if m == 1 { 8 } else { 4 };
    let nv = vectors.div_ceil(vectors.div_ceil(most_nv));
    let most_mr = (24 / nv).clamp(1, 8);
    (nv, m.div_ceil(m.div_ceil(most_mr)))
}

impl Plan {
    /// Loops for `c`.
    pub(super) fn lower(&self, c: &Contract, kernel: &mut Kernel, target: &Target) -> Vec<Stmt> {
        let mut body = match &self.tiled {
            Some(along) => tiles::lower(c, self, along, kernel, &target.caches),
            None => tile::lower(c, self, kernel),
        };
        if let Some((from, to)) = self.copy {
            body.insert(0, tile::copy(self, from, to, kernel));
        }
        if let Some(rows) = &self.even_rows {
            body.insert(0, rows.copy(self.x, kernel));
        }
        if let Some(planes) = &self.planes {
            body.insert(0, planes.copy(self.x, kernel));
        }
        body
    }

    /// Whether pairs of `bf16` are multiplied and added to `f32`.
    pub(super) fn is_float(&self) -> bool {
        self.elements.0 == DType::U16
    }

    /// The value of `x` at the group, `group` neighbours.
    pub(super) fn neighbours(&self, index: Expr) -> Expr {
        Expr::Load { buf: self.x, index: Box::new(index), lanes: self.group as u16 }
    }
}

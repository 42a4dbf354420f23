//! What several operators share: reference evaluation, composition at import, loops.

use super::{
    binary::Binary, cast::Cast, cumulate::Cumulate, expand::Expand, reshape::Reshape, slice::Slice, unary::Unary,
};
use crate::import::{ImportError, Importer};
use crate::lower::LowerCx;
use crate::{Op, ValueId};
use tenon_base::wide::{self, Wide};
use tenon_base::{DType, Dim, Fact, Scalar, Shape, Tensor};
use tenon_kernel::{CmpOp, Expr, Stmt, Type, Var};

/// Row-major strides of `dims`, in elements.
pub(crate) fn strides(dims: &[usize]) -> Vec<usize> {
    crate::lower::strides(dims)
}

/// Calls `f` with every index of `dims`, in row-major order.
pub(crate) fn for_each_index(dims: &[usize], mut f: impl FnMut(&[usize])) {
    if dims.contains(&0) {
        return;
    }
    let mut index = vec![0; dims.len()];
    loop {
        f(&index);
        let mut axis = dims.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            index[axis] += 1;
            if index[axis] < dims[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
}

/// The row-major position of `index` in an operand of extents `dims` that broadcasts to the shape `index` runs over.
pub(crate) fn broadcast_offset(index: &[usize], dims: &[usize]) -> usize {
    let skip = index.len() - dims.len();
    dims.iter().zip(&index[skip..]).fold(0, |o, (&d, &i)| o * d + if d == 1 { 0 } else { i })
}

/// Calls `f` for every row of the broadcast shape `out`, in order: with its length and, for each of `operands`, which broadcast to
/// `out`, the row-major position at which it begins and the step from element to element, 0 or 1. Rows are as long as can be: axes
/// along which every operand goes on as before are one.
pub(crate) fn for_each_row<const N: usize>(
    out: &[usize],
    operands: &[&[usize]; N],
    mut f: impl FnMut(usize, [(usize, usize); N]),
) {
    if out.contains(&0) {
        return;
    }
    // Extents of the joined axes, and whether each operand has them.
    let mut axes: Vec<(usize, [bool; N])> = vec![];
    for (axis, &extent) in out.iter().enumerate().filter(|(_, e)| **e != 1) {
        let has = operands.map(|dims| (dims.len() + axis).checked_sub(out.len()).is_some_and(|at| dims[at] != 1));
        match axes.last_mut() {
            Some((joined, same)) if *same == has => *joined *= extent,
            _ => axes.push((extent, has)),
        }
    }
    let (len, steps) = axes.pop().unwrap_or((1, [false; N]));
    let outer: Vec<usize> = axes.iter().map(|(extent, _)| *extent).collect();
    for_each_index(&outer, |index| {
        let operand = |k: usize| {
            let along = axes.iter().zip(index).filter(|((_, has), _)| has[k]);
            let row = along.fold(0, |at, ((extent, _), i)| at * extent + i);
            if steps[k] { (row * len, 1) } else { (row, 0) }
        };
        f(len, std::array::from_fn(operand));
    });
}

/// Elements that are converted at once.
const BLOCK: usize = 256;

/// Applies `f` to broadcast operands, element by element, in the wide form `A`; its results are rounded or wrapped to the dtype of
/// `out`. Millions of weights are scaled and converted this way when compiling.
pub(crate) fn map_broadcast<const N: usize, A: Wide, B: Wide>(
    out: &Fact,
    ins: [&Tensor; N],
    f: impl Fn([A; N]) -> B,
) -> Result<Tensor, String> {
    let dims = out.dims().ok_or("the shape is not known")?;
    let mut data = Vec::with_capacity(dims.iter().product::<usize>() * out.dtype.size());
    let (mut args, mut results) = ([[A::default(); BLOCK]; N], [B::default(); BLOCK]);
    for_each_row(&dims, &ins.map(Tensor::shape), |len, starts| {
        for from in (0..len).step_by(BLOCK) {
            let count = BLOCK.min(len - from);
            for ((arg, t), (first, step)) in args.iter_mut().zip(ins).zip(starts) {
                let size = t.dtype().size();
                match step {
                    // One element for the whole row.
                    0 if from > 0 => {}
                    0 => {
                        wide::read(t.dtype(), &t.bytes()[first * size..][..size], &mut arg[..1]);
                        let one = arg[0];
                        arg.fill(one);
                    }
                    _ => {
                        wide::read(t.dtype(), &t.bytes()[(first + from) * size..][..count * size], &mut arg[..count])
                    }
                }
            }
            for (i, r) in results[..count].iter_mut().enumerate() {
                *r = f(std::array::from_fn(|k| args[k][i]));
            }
            wide::write(out.dtype, &results[..count], &mut data);
        }
    });
    Tensor::from_bytes(out.dtype, &dims, data.into()).map_err(|e| e.to_string())
}

/// Moves elements: element `e` of the result is element `from(index of e)` of `t`, or `fill`.
pub(crate) fn gather_elements(
    t: &Tensor,
    out: &[usize],
    fill: Option<Scalar>,
    from: impl Fn(&[usize]) -> Option<usize>,
) -> Tensor {
    let size = t.dtype().size();
    let fill = fill.map_or_else(|| vec![0; size], Scalar::to_le_bytes);
    let mut data = Vec::with_capacity(out.iter().product::<usize>() * size);
    for_each_index(out, |i| match from(i) {
        Some(at) => push_elements(&mut data, t.bytes(), size, [at]),
        None => data.extend_from_slice(&fill),
    });
    Tensor::from_bytes(t.dtype(), out, data.into()).expect("one element an index")
}

/// Moves elements: that of index `i` in the result is element `first + Σ iₐ · stridesₐ` of `t`.
///
/// # Errors
/// That is outside of `t` for some index.
pub(crate) fn strided_elements(t: &Tensor, out: &[usize], first: i64, strides: &[i64]) -> Result<Tensor, String> {
    let size = t.dtype().size();
    let (row, step) = (out.last().copied().unwrap_or(1), strides.last().copied().unwrap_or(0));
    let outer = &out[..out.len().saturating_sub(1)];
    // Where the first and the last of all are.
    let (mut ends, empty) = ([i128::from(first); 2], out.contains(&0));
    for (extent, stride) in out.iter().zip(strides) {
        let far = (extent.saturating_sub(1) as i128).saturating_mul((*stride).into());
        let end = &mut ends[usize::from(far > 0)];
        *end = end.saturating_add(far);
    }
    if !empty && !ends.iter().all(|e| usize::try_from(*e).is_ok_and(|e| e < t.len())) {
        return Err(format!("the places {first} + i·{strides:?} of {out:?} are not all in {}", t.fact()));
    }
    let place = |i: &[usize]| i.iter().zip(strides).fold(first, |at, (i, s)| at + *i as i64 * s);
    // Neighbours that come to lie apart, while others come together: a transposition.
    let across = outer.iter().zip(strides).position(|(extent, stride)| *stride == 1 && *extent > 1);
    let mut data = vec![];
    match across {
        Some(across) if step != 1 && row > 1 && !empty => {
            data.resize(out.iter().product::<usize>() * size, 0);
            let (mut rest, along) = (outer.to_vec(), crate::lower::strides(out));
            let columns = std::mem::replace(&mut rest[across], 1);
            for_each_index(&rest, |i| {
                let to: usize = i.iter().zip(&along).map(|(i, s)| i * s).sum();
                let (rows, columns) = ((row, step), (columns, along[across]));
                match size {
                    1 => transpose::<1>(t.bytes(), place(i), &mut data, to, rows, columns),
                    2 => transpose::<2>(t.bytes(), place(i), &mut data, to, rows, columns),
                    4 => transpose::<4>(t.bytes(), place(i), &mut data, to, rows, columns),
                    _ => transpose::<8>(t.bytes(), place(i), &mut data, to, rows, columns),
                }
            });
        }
        _ => {
            data.reserve_exact(out.iter().product::<usize>() * size);
            for_each_index(if empty { &[0] } else { outer }, |i| {
                let at = place(i);
                if step == 1 {
                    data.extend_from_slice(&t.bytes()[at as usize * size..][..row * size]);
                } else {
                    push_elements(&mut data, t.bytes(), size, (0..row as i64).map(|j| (at + j * step) as usize));
                }
            });
        }
    }
    Tensor::from_bytes(t.dtype(), out, data.into()).map_err(|e| e.to_string())
}

/// Elements of a square of [`transpose`]: as many as a line of memory holds.
const SQUARE: usize = 16;

/// Moves neighbours from `at` on, as many as `columns` says, to places as far apart as it says; as many runs of them as `rows` says, which lie as
/// far apart as that says, to neighbours from `to` on. In squares, so that lines of memory are read and written once.
fn transpose<const S: usize>(
    from: &[u8],
    at: i64,
    data: &mut [u8],
    to: usize,
    rows: (usize, i64),
    columns: (usize, usize),
) {
    let (from, data) = (from.as_chunks::<S>().0, data.as_chunks_mut::<S>().0);
    for first_row in (0..rows.0).step_by(SQUARE) {
        let last_row = rows.0.min(first_row + SQUARE);
        for first in (0..columns.0).step_by(SQUARE) {
            let last = columns.0.min(first + SQUARE);
            for row in first_row..last_row {
                let run = &from[(at + row as i64 * rows.1) as usize..];
                for column in first..last {
                    data[to + column * columns.1 + row] = run[column];
                }
            }
        }
    }
}

/// Appends the elements at the places `at` of `from`, each of `size` bytes.
pub(crate) fn push_elements(data: &mut Vec<u8>, from: &[u8], size: usize, at: impl IntoIterator<Item = usize>) {
    fn push<const S: usize>(data: &mut Vec<u8>, from: &[u8], at: impl Iterator<Item = usize>) {
        let (elements, _) = from.as_chunks::<S>();
        at.for_each(|i| data.extend_from_slice(&elements[i]));
    }
    let at = at.into_iter();
    match size {
        1 => push::<1>(data, from, at),
        2 => push::<2>(data, from, at),
        4 => push::<4>(data, from, at),
        8 => push::<8>(data, from, at),
        _ => at.for_each(|i| data.extend_from_slice(&from[i * size..][..size])),
    }
}

/// Adds the function called `name` in graph text (see `unary.rs` and `binary.rs`) of one or two operands.
pub(crate) fn apply(cx: &mut Importer<'_>, name: &str, operands: &[ValueId]) -> Result<ValueId, ImportError> {
    let op = match operands.len() {
        1 => Unary::named(name).map(Op::from),
        _ => Binary::named(name).map(Op::from),
    };
    cx.op(op.ok_or_else(|| ImportError::new(format!("there is no function {name} of {}", operands.len())))?, operands)
}

/// The constant `v` of `dtype`, of rank 0.
pub(crate) fn number(cx: &mut Importer<'_>, dtype: DType, v: f64) -> ValueId {
    cx.weight(Tensor::full(&[], Scalar::of_f64(dtype, v)))
}

/// The numbers `0, 1, …`, as many as `length` says in a run: `i64[length]`.
pub(crate) fn positions(cx: &mut Importer<'_>, length: &Dim) -> Result<ValueId, ImportError> {
    let one = number(cx, DType::I64, 1.0);
    let ones = cx.op(Expand { to: Shape(vec![length.clone()]) }, &[one])?;
    cx.op(Cumulate { axis: 0, product: false, exclusive: true, reverse: false }, &[ones])
}

/// `v` converted to `dtype`; itself where it is of it.
pub(crate) fn cast(cx: &mut Importer<'_>, v: ValueId, dtype: DType) -> Result<ValueId, ImportError> {
    if cx.dtype(v) == dtype { Ok(v) } else { cx.op(Cast::to(dtype), &[v]) }
}

/// `v` under another shape; itself where it has it.
pub(crate) fn reshape(cx: &mut Importer<'_>, v: ValueId, to: Shape) -> Result<ValueId, ImportError> {
    if *cx.shape(v) == to { Ok(v) } else { cx.op(Reshape { to }, &[v]) }
}

/// Tables made at import have at most this many elements.
pub(crate) const LARGEST_TABLE: usize = 1 << 25;

/// Fails where a table of these extents, `what`, would be too large to be made at import; else the number of its elements.
pub(crate) fn table_size(dims: &[usize], what: &str) -> Result<usize, ImportError> {
    let n = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n <= LARGEST_TABLE);
    n.ok_or_else(|| ImportError::new(format!("{what}: a table of {dims:?} has more than {LARGEST_TABLE} elements")))
}

/// The constant `from, from + 1, …` of `dims`, which has one extent that is not 1.
pub(crate) fn counted(cx: &mut Importer<'_>, from: i64, dims: &[usize]) -> Result<ValueId, ImportError> {
    let n = table_size(dims, "positions")? as i64;
    Ok(cx.weight(Tensor::new(dims, &(from..from.saturating_add(n)).collect::<Vec<i64>>())))
}

/// `count` elements of axis `axis` from `from` on; itself where that is all.
pub(crate) fn part(
    cx: &mut Importer<'_>,
    v: ValueId,
    axis: usize,
    from: usize,
    count: usize,
) -> Result<ValueId, ImportError> {
    if from == 0 && cx.shape(v).0.get(axis) == Some(&Dim::from(count)) {
        return Ok(v);
    }
    strided(cx, v, axis, from, 1, count)
}

/// `count` elements of axis `axis`, every `step`th from `from` on.
pub(crate) fn strided(
    cx: &mut Importer<'_>,
    v: ValueId,
    axis: usize,
    from: usize,
    step: usize,
    count: usize,
) -> Result<ValueId, ImportError> {
    let mut to = cx.shape(v).clone();
    let (mut starts, mut steps) = (vec![0; to.rank()], vec![1; to.rank()]);
    let extent = to.0.get_mut(axis).ok_or_else(|| ImportError::new(format!("expected an axis {axis} of a value")))?;
    *extent = Dim::from(count);
    (starts[axis], steps[axis]) = (from as i64, step as i64);
    cx.op(Slice { starts, steps, to }, &[v])
}

/// The loop `for var in 0..n { body }`.
pub(crate) fn loop_over(var: Var, n: usize, parallel: bool, body: Vec<Stmt>) -> Stmt {
    Stmt::For { var, lo: Expr::int(0), hi: n.into(), step: 1, parallel, body }
}

/// An index from data, as `i64`: negative ones count from the end, and what is still outside `0..n` is clamped, so that
/// nothing outside a buffer is ever touched.
pub(crate) fn wrap_expr(raw: Expr, n: usize) -> Expr {
    let negative = raw.clone().compare(CmpOp::Lt, Expr::int(0));
    negative.select(raw.clone() + n, raw).clamp(0, (n as i64 - 1).max(0))
}

/// What [`wrap_expr`] computes; `n` is at least 1.
pub(crate) fn wrap(i: i64, n: usize) -> usize {
    let n = n as i64;
    (if i < 0 { i.saturating_add(n) } else { i }).clamp(0, n - 1) as usize
}

/// Adds `name(x, c)`, `c` a constant of the dtype of `x`.
pub(crate) fn with_constant(cx: &mut Importer<'_>, name: &str, x: ValueId, c: f64) -> Result<ValueId, ImportError> {
    let c = number(cx, cx.dtype(x), c);
    apply(cx, name, &[x, c])
}

/// A kernel that finds any number of things: a counter, and results that are zeros behind what is found.
#[derive(Clone, Copy)]
pub(crate) struct Counted {
    count: Var,
}

impl Counted {
    /// Fills the results `ports` with zeros and begins to count.
    pub(crate) fn begin(cx: &mut LowerCx<'_>, ports: &[usize]) -> Counted {
        for &port in ports {
            let (dtype, n) = (cx.out_dtype(port), cx.out_dims(port).iter().product());
            let i = cx.k.fresh("z", Type::INDEX);
            let (buf, index, value) = cx.write(port, Expr::Var(i), Expr::Const(Scalar::of_int(dtype.carrier(), 0)));
            cx.k.push(loop_over(i, n, true, vec![Stmt::Store { buf, index, value }]));
        }
        Counted { count: cx.k.declare("count", Expr::int(0)) }
    }

    /// Where the next thing goes in a result with room for `n`.
    pub(crate) fn slot(self, n: usize) -> Expr {
        Expr::Var(self.count).clamp(0, n.max(1) as i64 - 1)
    }

    /// A store to a result.
    pub(crate) fn store(self, cx: &LowerCx<'_>, port: usize, at: Expr, value: Expr) -> Stmt {
        let (buf, index, value) = cx.write(port, at, value);
        Stmt::Store { buf, index, value }
    }

    /// One more.
    pub(crate) fn next(self) -> Stmt {
        Stmt::Set { var: self.count, value: Expr::Var(self.count) + 1i64 }
    }

    /// Stores the count.
    pub(crate) fn end(self, cx: &mut LowerCx<'_>, port: usize) {
        let (buf, index, value) = cx.write(port, Expr::int(0), Expr::Var(self.count));
        cx.k.store(buf, index, value);
    }
}

//! Products of tiles: what machines with two-dimensional registers do in one instruction.

use crate::stmt::visit_stmts;
use crate::{BinOp, Buf, CmpOp, ContractDim, Expr, Kernel, KernelBuilder, Stmt, UnOp, Var};
use tenon_base::{DType, Scalar};

/// Sums of products, a block of rows by a block of columns at once: `out[r, c] = Σ x[r, k] · w[k, c]`.
///
/// What machines with tile registers do (x86's AMX): sums stay in tiles while the loops of `reduce` and the groups run, then all of them are
/// written. Of every row of `x`, `groups · group` elements are read from that of the load on; row `i` begins
/// `i / rows · below + i % rows · row` elements behind it. Element `g · group + t` of a row is multiplied with element
/// `c / 16 · beside + (g · 16 + c % 16) · group + t` behind the load of `w`. Row `i` of the result is all columns, elements from
/// `out_index + i · columns` on.
///
/// Elements are bytes of any sign with sums in `i32`, which wrap (`group` is 4), or the bits of `bf16` with sums in `f32` (`group` is 2),
/// rounded as [`crate::bf16::step`] says, [`Tiles::STEP`] groups at a time. A group of `w` may be one element of 32 bits, the first
/// neighbour in its lower half.
///
/// ```text
/// tiles %sums[0] = 2 * 14 rows, 2 * 16 columns, 96 groups reduce %kh in 0..3 {
///   load %x[%oh * 3712 + %kh * 3712], 64, 3712
///   load %w[%kh * 3072], 9216
/// }
/// ```
///
/// Behind the last number may follow `fetch load %w[%ahead], 4`: lines that are asked for meanwhile ([`Fetch`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tiles {
    /// Where the sums go: a buffer of `i32` or `f32`.
    pub out: Buf,
    /// The first of them.
    pub out_index: Expr,
    /// Tiles below each other: 1 or 2.
    pub blocks: usize,
    /// Rows of each, at most [`Tiles::STEP`].
    pub rows: usize,
    /// Tiles of [`Tiles::LANES`] columns beside each other: 1 or 2.
    pub panels: usize,
    /// Groups of neighbours along a row of `x` in one run.
    pub groups: usize,
    /// Loops summed over around a run, outermost first; may be empty.
    pub reduce: Vec<ContractDim>,
    /// A load of the first element of `x`.
    pub x: Expr,
    /// Elements from row to row.
    pub row: usize,
    /// Elements from the first row of one tile to that of the next.
    pub below: usize,
    /// A load of the first element of `w`.
    pub w: Expr,
    /// Elements of `w` from one tile of columns to the next.
    pub beside: usize,
    /// What is to come to a cache meanwhile.
    pub fetch: Option<Fetch>,
}

/// Lines of memory that a product of tiles asks for while it multiplies. Changes no value, and no index is out of bounds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fetch {
    /// A load of the first element.
    pub first: Expr,
    /// Lines of 64 bytes for every step of [`Tiles::STEP`] groups: one of each of as many runs, which lie behind each other.
    pub lines: usize,
}

impl Tiles {
    /// Columns of one tile of sums.
    pub const LANES: usize = 16;
    /// The most rows of a tile, and the most groups that one instruction adds up.
    pub const STEP: usize = 16;

    /// Steps of all loops summed over, a last one of fewer groups included.
    pub fn steps(&self) -> usize {
        self.reduce.iter().fold(self.groups.div_ceil(Tiles::STEP), |n, d| n.saturating_mul(d.extent))
    }

    /// Rows of the result.
    pub fn height(&self) -> usize {
        self.blocks * self.rows
    }

    /// Columns of the result.
    pub fn columns(&self) -> usize {
        self.panels * Tiles::LANES
    }

    /// Elements from the first row of `x` to row `i`.
    pub fn row_offset(&self, i: usize) -> usize {
        let (block, row) = (i / self.rows.max(1), i % self.rows.max(1));
        block.saturating_mul(self.below).saturating_add(row.saturating_mul(self.row))
    }

    /// What one run reads, of `x` and of `w`: the buffer, the first element and how many from there on, gaps between rows included.
    pub fn reads<'t>(&'t self, kernel: &Kernel) -> Vec<(Buf, &'t Expr, usize)> {
        let (Some((x, x_index)), Some((w, w_index))) = (Tiles::source(&self.x), Tiles::source(&self.w)) else {
            return vec![];
        };
        let run = self.groups.saturating_mul(Tiles::group(kernel.buffer(x).dtype).unwrap_or(1));
        let last = self.row_offset(self.height().saturating_sub(1));
        let panels = self.panels.saturating_sub(1).saturating_mul(self.beside);
        let group = Tiles::group_beside(kernel.buffer(x).dtype, kernel.buffer(w).dtype).unwrap_or(1);
        let of_w = panels.saturating_add(self.groups.saturating_mul(group * Tiles::LANES));
        vec![(x, x_index, last.saturating_add(run)), (w, w_index, of_w)]
    }

    /// Neighbours that are multiplied and added up at once, of a type of elements; `None` for one that tiles do not hold.
    pub const fn group(elements: DType) -> Option<usize> {
        match elements {
            DType::U8 | DType::I8 => Some(4),
            DType::U16 => Some(2),
            _ => None,
        }
    }

    /// Elements of `w` that are a group; `None` for a type that tiles do not hold beside `x`.
    pub const fn group_beside(x: DType, w: DType) -> Option<usize> {
        match (Tiles::group(x), Tiles::group(w)) {
            (Some(a), Some(b)) if a == b => Some(a),
            (Some(2), None) if matches!(w, DType::U32) => Some(1),
            _ => None,
        }
    }

    /// The buffer and index of a factor; `None` if it is no load, which the verifier refuses.
    pub fn source(factor: &Expr) -> Option<(Buf, &Expr)> {
        match factor {
            Expr::Load { buf, index, lanes: 1 } => Some((*buf, index)),
            _ => None,
        }
    }
}

/// Whether `kernel` has products of tiles.
pub fn multiplies_tiles(kernel: &Kernel) -> bool {
    let mut found = false;
    visit_stmts(&kernel.body, &mut |s| found |= matches!(s, Stmt::Tiles(_)));
    found
}

/// The same kernel with loops in place of products of tiles, to the bit: for code generators without the instructions.
#[must_use]
pub fn as_loops(mut kernel: Kernel) -> Kernel {
    let body = std::mem::take(&mut kernel.body);
    let mut builder = KernelBuilder::over(kernel);
    replace(body, &mut builder);
    builder.finish()
}

/// Appends `body` to the open block of `k`.
fn replace(body: Vec<Stmt>, k: &mut KernelBuilder) {
    for s in body {
        let inside = |body: Vec<Stmt>, k: &mut KernelBuilder| k.block(|k| replace(body, k));
        let s = match s {
            Stmt::Tiles(t) => {
                loops(*t, k);
                continue;
            }
            Stmt::For { var, lo, hi, step, parallel, body } => {
                Stmt::For { var, lo, hi, step, parallel, body: inside(body, k) }
            }
            Stmt::While { cond, body } => Stmt::While { cond, body: inside(body, k) },
            Stmt::If { cond, then, otherwise } => {
                let then = inside(then, k);
                Stmt::If { cond, then, otherwise: inside(otherwise, k) }
            }
            s => s,
        };
        k.push(s);
    }
}

/// One sum after the other.
fn loops(t: Tiles, k: &mut KernelBuilder) {
    let x = k.kernel().type_of(&t.x).elem;
    let float = x == DType::U16;
    let zero = Expr::constant(if float { DType::F32 } else { DType::I32 }, 0.0);
    k.for_range("block", 0, t.blocks, |k, block| {
        k.for_range("row", 0, t.rows, |k, row| {
            k.for_range("column", 0, t.columns(), |k, column| {
                let sum = k.declare("sum", zero.clone());
                // The loops summed over keep their variables, which are in scope of nothing else.
                let row_at = block.clone() * t.below + row.clone() * t.row;
                let mut inner = k.block(|k| {
                    if float { steps(&t, sum, &row_at, &column, k) } else { products(&t, sum, &row_at, &column, k) }
                });
                for d in t.reduce.iter().rev() {
                    inner = vec![Stmt::For {
                        var: d.var,
                        lo: Expr::int(0),
                        hi: d.extent.into(),
                        step: 1,
                        parallel: false,
                        body: inner,
                    }];
                }
                inner.into_iter().for_each(|s| k.push(s));
                let at = t.out_index.clone() + (block.clone() * t.rows + row.clone()) * t.columns() + column;
                k.store(t.out, at, Expr::Var(sum));
            });
        });
    });
}

/// `factor` at element `by` behind its first.
fn at(factor: &Expr, by: Expr) -> Expr {
    match factor {
        Expr::Load { buf, index, .. } => Expr::load(*buf, (**index).clone() + by),
        other => other.clone(),
    }
}

/// The first element of group `g` in a column of `w`, behind its load.
fn w_at(t: &Tiles, g: &Expr, column: &Expr, group: usize) -> Expr {
    let inside = (g.clone() * Tiles::LANES + column.clone() % Tiles::LANES) * group;
    column.clone() / Tiles::LANES * t.beside + inside
}

/// A run of bytes.
fn products(t: &Tiles, sum: Var, row: &Expr, column: &Expr, k: &mut KernelBuilder) {
    k.for_range("g", 0, t.groups, |k, g| {
        for i in 0..4 {
            let x = at(&t.x, row.clone() + g.clone() * 4 + i).cast(DType::I32);
            let w = at(&t.w, w_at(t, &g, column, 4) + i).cast(DType::I32);
            k.set(sum, Expr::Var(sum) + x * w);
        }
    });
}

/// A run of `bf16`: see [`crate::bf16::step`].
fn steps(t: &Tiles, sum: Var, row: &Expr, column: &Expr, k: &mut KernelBuilder) {
    let zero = Expr::constant(DType::F32, 0.0);
    let packed = k.kernel().type_of(&t.w).elem == DType::U32;
    k.any_loop("first", Expr::int(0), t.groups.into(), Tiles::STEP as i64, false, |k, first| {
        let halves = [0, 1].map(|_| k.declare("half", zero.clone()));
        let end = k.bind("end", (first.clone() + Tiles::STEP).min(t.groups.into()));
        k.for_range("g", first, end, |k, g| {
            for (i, half) in halves.into_iter().enumerate() {
                let x = at(&t.x, row.clone() + g.clone() * 2 + i);
                let w = match packed {
                    true => {
                        let pair = at(&t.w, w_at(t, &g, column, 1));
                        let by = Expr::Const(Scalar::of_int(DType::U32, 16 * i as i128));
                        pair.binary(BinOp::Shr, by).cast(DType::U16)
                    }
                    false => at(&t.w, w_at(t, &g, column, 2) + i),
                };
                // The other product of the pair is -0, which changes no sum.
                let bits = |v: i128| Expr::Const(Scalar::of_int(DType::U16, v));
                let (x, w) = (Expr::Lanes(vec![x, bits(0)]), Expr::Lanes(vec![w, bits(0x8000)]));
                k.set(half, Expr::dot(x, w, Expr::Var(half)));
            }
        });
        let products = flushed(Expr::Var(halves[0]) + Expr::Var(halves[1]), k);
        let more = flushed(Expr::Var(sum) + products, k);
        k.set(sum, more);
    });
}

/// `e`, but zero of its sign where it is subnormal.
fn flushed(e: Expr, k: &mut KernelBuilder) -> Expr {
    let e = k.bind("exact", e);
    let sign = Expr::Const(Scalar::of_int(DType::U32, 1 << 31));
    let zero = e.clone().bitcast(DType::U32).binary(BinOp::And, sign).bitcast(DType::F32);
    let least = Expr::constant(DType::F32, f64::from(f32::MIN_POSITIVE));
    let small = e.clone().unary(UnOp::Abs).compare(CmpOp::Lt, least);
    small.select(zero, e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interp::Options;
    use crate::{Access, Memory, Stage, run_kernel, verify_kernel};

    /// Tiles of `x` and `w` with a tail of groups and a loop around.
    fn kernel(x: DType, w: DType) -> Kernel {
        let group = Tiles::group(x).unwrap();
        let sums = if group == 2 { DType::F32 } else { DType::I32 };
        let run = 19 * group;
        let text = format!(
            "kernel k(in %x: {x}[{}], in %w: {w}[{}], out %y: {sums}[192]) {{
               tiles %y[0] = 2 * 3 rows, 2 * 16 columns, 19 groups reduce %r in 0..2 {{
                 load %x[%r * {run}], {run}, {}
                 load %w[%r * {}], {} fetch load %w[{run} * 3], 5
               }}
             }}",
            run * 8,
            run * 64,
            run * 4,
            run * 32,
            run * 16
        );
        let kernel = Kernel::parse(&text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(Kernel::parse(&kernel.to_string()).as_ref(), Ok(&kernel), "it reads back");
        assert_eq!(verify_kernel(&kernel, Stage::Scheduled), Ok(()), "{kernel}");
        kernel
    }

    fn run(kernel: &Kernel, bytes: impl Fn(usize) -> u8) -> Vec<u8> {
        let mut memories: Vec<Memory> = kernel
            .buffers
            .iter()
            .map(|b| match b.access {
                Access::In => Memory { dtype: b.dtype, bytes: (0..b.len * b.dtype.size()).map(&bytes).collect() },
                _ => Memory::poisoned(b.dtype, b.len),
            })
            .collect();
        let options = Options { fused_multiply_add: true, ..Options::default() };
        run_kernel(kernel, &mut memories, &options).unwrap_or_else(|e| panic!("{e}"));
        memories.swap_remove(2).bytes
    }

    #[test]
    fn loops_give_the_same_bits() {
        for (x, w) in
            [(DType::U8, DType::I8), (DType::I8, DType::U8), (DType::U8, DType::U8), (DType::U16, DType::U16)]
        {
            let tiles = kernel(x, w);
            let loops = as_loops(tiles.clone());
            assert!(multiplies_tiles(&tiles) && !multiplies_tiles(&loops));
            assert_eq!(verify_kernel(&loops, Stage::Scheduled), Ok(()), "{loops}");
            // Numbers of any size, tiny products among them; no infinities, for bits of NaN are nobody's.
            let bytes = |i: usize| {
                let drawn = (i as u32).wrapping_mul(0x9e37_79b9).rotate_left(11).wrapping_mul(0x85eb_ca6b) >> 24;
                let high = if i.is_multiple_of(5) { 0x1f } else { 0x40 };
                if x == DType::U16 && i % 2 == 1 { drawn as u8 & 0x83 | high } else { drawn as u8 }
            };
            assert_eq!(run(&tiles, bytes), run(&loops, bytes), "{x} {w}");
        }
    }

    #[test]
    fn a_pair_may_be_one_element() {
        let halves = kernel(DType::U16, DType::U16);
        let text = halves.to_string().replace("%w: u16[2432]", "%w: u32[1216]");
        let pairs =
            Kernel::parse(&text.replace("%r * 1216], 608", "%r * 608], 304")).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(verify_kernel(&pairs, Stage::Scheduled), Ok(()), "{pairs}");
        let bytes = |i: usize| if i % 2 == 1 { 0x3f } else { (i * 37 % 251) as u8 };
        assert_eq!(run(&pairs, bytes), run(&halves, bytes));
        assert_eq!(run(&as_loops(pairs), bytes), run(&halves, bytes));
    }

    #[test]
    fn sums_are_those_of_the_products() {
        let sums = run(&kernel(DType::I8, DType::U8), |i| if i % 3 == 0 { 255 } else { 1 });
        let x = |row: usize, k: usize| {
            if (row % 3 + row / 3 * 4).wrapping_mul(76).wrapping_add(k).is_multiple_of(3) { -1 } else { 1 }
        };
        let w = |k: usize, c: usize| {
            let (r, k) = (k / 76, k % 76);
            let at = r * 2432 + c / 16 * 1216 + (k / 4 * 16 + c % 16) * 4 + k % 4;
            if at.is_multiple_of(3) { 255 } else { 1 }
        };
        for (i, sum) in sums.chunks_exact(4).enumerate() {
            let (row, column) = (i / 32, i % 32);
            let expected: i32 = (0..152).map(|k| x(row, k) * w(k, column)).sum();
            assert_eq!(i32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]]), expected, "{row} {column}");
        }
    }

    #[test]
    fn tiles_beyond_a_buffer_and_wrong_sizes_are_refused() {
        let good = kernel(DType::U8, DType::I8).to_string();
        for (from, to, message) in [
            ("19 groups", "20 groups", "%x, which has"),
            ("2 * 3 rows", "3 * 3 rows", "tiles below each other"),
            ("2 * 3 rows", "1 * 17 rows", "17 rows"),
            ("2 * 16 columns", "3 * 16 columns", "tiles beside each other"),
            ("%y[0]", "%y[1]", "%y, which has"),
            ("%w: i8", "%w: u16", "tiles of u8 and u16"),
            ("out %y: i32", "out %y: f32", "%y holds f32"),
        ] {
            let text = good.replace(from, to);
            assert_ne!(text, good, "{from}");
            let k = Kernel::parse(&text).unwrap_or_else(|e| panic!("{e}"));
            let errors = verify_kernel(&k, Stage::Scheduled).expect_err(to);
            assert!(errors.iter().any(|e| e.message.contains(message)), "{to}: {errors:?}");
        }
    }
}

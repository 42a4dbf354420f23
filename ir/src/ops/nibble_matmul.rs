//! NibbleMatMul: a product with constant weights of 4 bits, which stay so: two of them a byte, one scale for every few of a column.
//!
//! `y[m, n] = Σ_b s[b, n] · Σ_{k in b} a[m, k] · (q[k, n] - z[b, n])`, where `b` are blocks of rows of the weights, `q` numbers in
//! -8..8, and `z` is 0 unless it is given. Made of com.microsoft's
//! [MatMulNBits](https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits). A product with
//! one row takes as long as its weights take to be read: so they are read as they lie, an eighth of what floats are. For several rows
//! a tile of columns becomes floats first, and then is a factor like any other.
//!
//! Columns lie in tiles of [`WIDTH`], the last one as wide as what is left. In a tile, rows of weights follow each other in pairs,
//! the even one in the low halves of the bytes; scales and zero points lie in tiles, too, a row of them a block.

use super::util::loop_over;
use crate::lower::{widen, wide};
use crate::op::{expect_dtype, expect_operands};
use crate::ops::*;
use tenon_base::Shape;
use tenon_kernel::{BinOp, Buf, Contract, Stmt, Type};

/// Columns of a tile: a few registers on every machine.
pub(super) const WIDTH: usize = 32;

/// Rows of weights that are looked at in one iteration; a block is one or more of these.
const STEP: usize = 32;

/// Independent sums: as many products are begun before the first is done.
const CHAINS: usize = 8;

crate::attributes! {
    /// Operands: `a` (`[…, K]`, `f32` or `f16`), weights `i8[K/2·N]`, scales `f32[K/block·N]` and, unless they are all 0, zero points
    /// like the scales.
    pub struct NibbleMatMul {
        /// Columns of the weights, `N`.
        pub columns: usize,
        /// Rows that share a scale; even, and a divisor of `K`.
        pub block: usize,
    }
}

/// Weights as an operator takes them.
#[derive(Clone, Debug)]
pub struct Nibbles {
    /// Two weights a byte.
    pub weights: Tensor,
    /// One a block and column.
    pub scales: Tensor,
    /// Where one is not 0.
    pub zeros: Option<Tensor>,
}

/// Columns by tiles: the first of each, and how many it has.
fn tiles(columns: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..columns).step_by(WIDTH).map(move |first| (first, WIDTH.min(columns - first)))
}

/// Arranges weights `q(k, n)` in -8..8 of `rows` (even) by `columns`, and scales and zero points by `(block, n)`.
pub fn nibbles(
    [rows, columns, blocks]: [usize; 3],
    q: impl Fn(usize, usize) -> i8,
    scale: impl Fn(usize, usize) -> f32,
    zero: impl Fn(usize, usize) -> f32,
) -> Nibbles {
    let mut weights = Vec::with_capacity(rows / 2 * columns);
    let (mut scales, mut zeros) = (vec![], vec![]);
    for (first, width) in tiles(columns) {
        let all = first..first + width;
        for pair in 0..rows / 2 {
            weights.extend(all.clone().map(|n| q(2 * pair, n) & 0xf | q(2 * pair + 1, n) << 4));
        }
        for b in 0..blocks {
            scales.extend(all.clone().map(|n| scale(b, n)));
            zeros.extend(all.clone().map(|n| zero(b, n)));
        }
    }
    let zeros = zeros.iter().any(|z| *z != 0.0).then(|| Tensor::new(&[zeros.len()], &zeros));
    Nibbles { weights: Tensor::new(&[weights.len()], &weights), scales: Tensor::new(&[scales.len()], &scales), zeros }
}

impl Operator for NibbleMatMul {
    fn names() -> Vec<&'static str> {
        vec!["nibble_matmul"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![]
    }

    fn name(&self) -> &'static str {
        "nibble_matmul"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        NibbleMatMul::from_attrs(attrs)
    }

    fn import(_: &OnnxNode<'_>, _: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        Err(ImportError::new("the operator is not ONNX's"))
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 3..=4)?;
        expect_dtype(ins, 0, |d| matches!(d, DType::F32 | DType::F16), "f32 or f16")?;
        expect_dtype(ins, 1, |d| d == DType::I8, "i8")?;
        (2..ins.len()).try_for_each(|i| expect_dtype(ins, i, |d| d == DType::F32, "f32"))?;
        let rows = ins[0].shape.0.last().and_then(Dim::as_usize).filter(|k| *k > 0);
        let rows = rows.ok_or_else(|| InferError::new(format!("expected a known last axis, found {}", ins[0].shape)))?;
        if self.block == 0 || !self.block.is_multiple_of(2) || !rows.is_multiple_of(self.block) || self.columns == 0 {
            let (n, block) = (self.columns, self.block);
            return Err(InferError::new(format!("expected columns, and {rows} rows in even blocks; found {n} and {block}")));
        }
        let sizes = [(1, rows / 2), (2, rows / self.block), (3, rows / self.block)];
        for (i, n) in sizes.into_iter().take(ins.len() - 1) {
            let expected = n.checked_mul(self.columns).map(|n| Shape::of(&[n]));
            if expected.as_ref() != Some(&ins[i].shape) {
                return Err(InferError::new(format!("operand {i}: expected {n}·{} elements, found {}", self.columns, ins[i].shape)));
            }
        }
        let mut to = ins[0].shape.clone();
        if let Some(last) = to.0.last_mut() {
            *last = Dim::from(self.columns);
        }
        Ok(vec![Fact::new(ins[0].dtype, to)])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let (a, q, s) = (ins[0].to_f64(), ins[1].to_vec::<i8>(), ins[2].to_f64());
        let z = ins.get(3).map(Tensor::to_f64);
        let mut to = ins[0].shape().to_vec();
        let k = to.pop().ok_or("expected at least one axis")?;
        to.push(self.columns);
        let mut y = vec![];
        for row in a.chunks_exact(k) {
            for (first, width) in tiles(self.columns) {
                for n in 0..width {
                    let term = |(i, x): (usize, &f64)| {
                        let byte = q[first * (k / 2) + i / 2 * width + n];
                        let weight = if i % 2 == 0 { byte << 4 >> 4 } else { byte >> 4 };
                        let at = first * (k / self.block) + i / self.block * width + n;
                        x * (f64::from(weight) - z.as_ref().map_or(0.0, |z| z[at])) * s[at]
                    };
                    y.push(row.iter().enumerate().map(term).sum());
                }
            }
        }
        Ok(vec![Tensor::from_f64(ins[0].dtype(), &to, &y)])
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let dims = cx.in_dims(0);
        let k = dims.last().copied().unwrap_or(0);
        let rows = dims.iter().product::<usize>() / k.max(1);
        if rows == 0 {
            return Ok(());
        }
        let step = (2..=STEP.min(self.block)).rev().find(|s| s % 2 == 0 && self.block.is_multiple_of(*s)).unwrap_or(2);
        let mut p = Product { rows, k, step, block: self.block, columns: self.columns, a: None, sums: None };
        if wide(cx.in_dtype(0)) != cx.in_dtype(0) {
            p.a = Some(p.floats(cx));
        }
        if rows == 1 && cx.in_count() > 3 {
            p.sums = Some(p.sums(cx));
        }
        let (full, rest) = (self.columns / WIDTH, self.columns % WIDTH);
        if full > 0 {
            let t = cx.k.fresh("t", Type::INDEX);
            let body = p.tile(cx, &(Expr::Var(t) * WIDTH), WIDTH);
            cx.k.push(loop_over(t, full, true, body));
        }
        if rest > 0 {
            p.tile(cx, &Expr::int((full * WIDTH) as i64), rest).into_iter().for_each(|s| cx.k.push(s));
        }
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::SUM
    }

    fn samples() -> Vec<Sample> {
        let of = |dtype: DType, a: &[usize], columns: usize, block: usize, zeros: bool| {
            let k = a[a.len() - 1];
            let (w, s) = ([k / 2 * columns], [k / block * columns]);
            let all = [(dtype, a), (DType::I8, &w[..]), (DType::F32, &s[..]), (DType::F32, &s[..])];
            let range = [(-1.0, 1.0), (-128.0, 128.0), (0.01, 0.1), (-8.0, 8.0)];
            Sample::new(NibbleMatMul { columns, block }, &all[..if zeros { 4 } else { 3 }]).with_range(&range)
        };
        let f = DType::F32;
        vec![
            of(f, &[64], 64, 32, false),
            of(f, &[1, 128], 37, 64, true),
            of(f, &[5, 48], 70, 16, true),
            of(f, &[2, 3, 20], 9, 10, false),
            of(DType::F16, &[3, 64], 33, 32, true),
            of(DType::F16, &[1, 12], 5, 6, true),
            of(f, &[0, 32], 8, 32, false),
        ]
    }
}

/// What the kernel is made of.
struct Product {
    rows: usize,
    k: usize,
    /// Rows of weights multiplied at once.
    step: usize,
    block: usize,
    columns: usize,
    /// The operand in floats, where it is of halves.
    a: Option<Buf>,
    /// Sums of its elements by steps, where zero points are subtracted from sums.
    sums: Option<Buf>,
}

impl Product {
    /// Element `at` of the operand.
    fn a(&self, cx: &LowerCx<'_>, at: Expr) -> Expr {
        match self.a {
            Some(buf) => Expr::load(buf, at),
            None => cx.load_flat(0, at),
        }
    }

    /// A copy of the operand in floats.
    fn floats(&self, cx: &mut LowerCx<'_>) -> Buf {
        let n = self.rows * self.k;
        let (buf, i) = (cx.scratch("a", DType::F32, n), cx.k.fresh("i", Type::INDEX));
        let value = widen(cx.load_flat(0, Expr::Var(i)), cx.in_dtype(0));
        cx.k.push(loop_over(i, n, true, vec![Stmt::Store { buf, index: Expr::Var(i), value }]));
        buf
    }

    /// Sums of the elements of every step of the only row.
    fn sums(&self, cx: &mut LowerCx<'_>) -> Buf {
        let n = self.k / self.step;
        let (buf, i) = (cx.scratch("sums", DType::F32, n), cx.k.fresh("i", Type::INDEX));
        let element = |j: usize| self.a(cx, Expr::Var(i) * self.step + j);
        let value = (1..self.step).fold(element(0), |sum, j| sum + element(j));
        cx.k.push(loop_over(i, n, true, vec![Stmt::Store { buf, index: Expr::Var(i), value }]));
        buf
    }

    /// Statements for the tile of `width` columns that begins at column `first`.
    fn tile(&self, cx: &mut LowerCx<'_>, first: &Expr, width: usize) -> Vec<Stmt> {
        let acc = cx.scratch("acc", DType::F32, self.rows * width);
        let steps = self.block / self.step;
        let [m, n, b, s] = ["m", "n", "b", "s"].map(|v| cx.k.fresh(v, Type::INDEX));
        let (block, column) = (Expr::Var(b), Expr::Var(n));
        let step = block.clone() * steps + Expr::Var(s);
        let scale_at = first.clone() * (self.k / self.block) + block * width + column.clone();
        let at = Place {
            weights: first.clone() * (self.k / 2) + step.clone() * (self.step / 2 * width) + column.clone(),
            scale: cx.load_flat(2, scale_at.clone()),
            zero: (cx.in_count() > 3).then(|| cx.load_flat(3, scale_at)),
            step,
            width,
            column: n,
        };
        let over_steps = |body: Vec<Stmt>, parallel: bool| {
            loop_over(b, self.k / self.block, parallel, vec![loop_over(s, steps, parallel, body)])
        };
        let mut all = if self.rows == 1 {
            let begin = Stmt::Store { buf: acc, index: column.clone(), value: Expr::constant(DType::F32, 0.0) };
            let body = self.one_row(cx, acc, &at);
            vec![loop_over(n, width, true, vec![begin]), over_steps(body, false)]
        } else {
            let floats = cx.scratch("weights", DType::F32, self.k * width);
            let body = self.unpack(cx, floats, &at);
            vec![over_steps(body, true), self.product(cx, floats, acc, width)]
        };
        let sum = Expr::load(acc, Expr::Var(m) * width + column.clone());
        let (buf, index, value) = cx.write(0, Expr::Var(m) * self.columns + first.clone() + column, sum);
        let end = loop_over(n, width, true, vec![Stmt::Store { buf, index, value }]);
        all.push(loop_over(m, self.rows, true, vec![end]));
        all
    }

    /// The even and the odd weight in a byte, as floats.
    fn weights(cx: &mut LowerCx<'_>, byte: Expr, body: &mut Vec<Stmt>) -> [Expr; 2] {
        let x = cx.k.fresh("x", Type::scalar(DType::I32));
        body.push(Stmt::Let { var: x, value: byte.cast(DType::I32) });
        let bits = |n: i64| Expr::constant(DType::I32, n as f64);
        let low = Expr::Var(x).binary(BinOp::Shl, bits(28)).binary(BinOp::Shr, bits(28));
        let high = Expr::Var(x).binary(BinOp::Shr, bits(4));
        [low, high].map(|e| e.cast(DType::F32))
    }

    /// One step of a product with one row: weights go from memory to registers to the sums.
    fn one_row(&self, cx: &mut LowerCx<'_>, acc: Buf, at: &Place) -> Vec<Stmt> {
        let mut body = vec![];
        let mut sums: Vec<Option<Expr>> = vec![None; CHAINS];
        for pair in 0..self.step / 2 {
            let byte = cx.load_flat(1, at.weights.clone() + pair * at.width);
            for (odd, w) in Product::weights(cx, byte, &mut body).into_iter().enumerate() {
                let i = 2 * pair + odd;
                let a = self.a(cx, at.step.clone() * self.step + i);
                let sum = &mut sums[i % CHAINS];
                let value = match sum.take() {
                    None => a * w,
                    Some(s) => Expr::fma(a, w, s),
                };
                let var = cx.k.fresh("p", Type::scalar(DType::F32));
                body.push(Stmt::Let { var, value });
                *sum = Some(Expr::Var(var));
            }
        }
        let all = sums.into_iter().flatten().reduce(|a, b| a + b).unwrap_or(Expr::constant(DType::F32, 0.0));
        let all = match (&at.zero, self.sums) {
            (Some(z), Some(sums)) => all - z.clone() * Expr::load(sums, at.step.clone()),
            _ => all,
        };
        let place = Expr::Var(at.column);
        let value = Expr::fma(at.scale.clone(), all, Expr::load(acc, place.clone()));
        body.push(Stmt::Store { buf: acc, index: place, value });
        vec![loop_over(at.column, at.width, true, body)]
    }

    /// One step of making floats of the weights of a tile, for a product with several rows.
    fn unpack(&self, cx: &mut LowerCx<'_>, floats: Buf, at: &Place) -> Vec<Stmt> {
        let mut body = vec![];
        for pair in 0..self.step / 2 {
            let byte = cx.load_flat(1, at.weights.clone() + pair * at.width);
            for (odd, w) in Product::weights(cx, byte, &mut body).into_iter().enumerate() {
                let value = at.zero.iter().fold(w, |w, z| w - z.clone()) * at.scale.clone();
                let row = at.step.clone() * self.step + (2 * pair + odd);
                body.push(Stmt::Store { buf: floats, index: row * at.width + Expr::Var(at.column), value });
            }
        }
        vec![loop_over(at.column, at.width, true, body)]
    }

    /// The product of several rows with the floats of a tile, which are in the second cache.
    fn product(&self, cx: &mut LowerCx<'_>, floats: Buf, out: Buf, width: usize) -> Stmt {
        let ((dm, m), (dn, n)) = (cx.k.contract_dim("i", self.rows), cx.k.contract_dim("j", width));
        let (dk, k) = cx.k.contract_dim("k", self.k);
        let acc = cx.k.fresh("sum", Type::scalar(DType::F32));
        Stmt::Contract(Box::new(Contract {
            dims: vec![dm, dn],
            reduce: vec![dk],
            acc,
            init: Expr::constant(DType::F32, 0.0),
            a: self.a(cx, m.clone() * self.k + k.clone()),
            b: Expr::load(floats, k * width + n.clone()),
            out,
            out_index: m * width + n,
            value: Expr::Var(acc),
        }))
    }
}

/// Where a step of the product is.
struct Place {
    /// Index of the byte of its first two weights.
    weights: Expr,
    scale: Expr,
    zero: Option<Expr>,
    /// Its number.
    step: Expr,
    width: usize,
    /// The column in the tile.
    column: tenon_kernel::Var,
}

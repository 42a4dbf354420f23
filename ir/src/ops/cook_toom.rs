//! Transforms of minimal filtering: `y = Aᵀ[(G g) ⊙ (Bᵀ d)]` computes `m` outputs of a filter of `r` taps with
//! `α = m + r - 1` products instead of `m · r`.
//!
//! The matrices come from the Toom-Cook construction at a few points and ∞. With three finite points, which `F(2,3)` takes, these are 0 and
//! ±1; all more are 0, ±3/4 and ±3/2, whose powers lie around 1. With 0, ±1 and ±2, as A. Lavin and S. Gray have them for `F(4,3)` (*Fast Algorithms
//! for Convolutional Neural Networks*, 2016), rounding errors of two axes are twice as large, and the largest three times. All entries of `Bᵀ` are
//! fractions of few bits, exact in `f32`; most of what is divided goes into `G`, which is applied to constants when compiling. For operands that
//! are integers the points are whole, too, `G` is multiplied until it is ([`Whole`]), and the outputs are multiples that are divided
//! without a remainder.

use crate::lower::LowerCx;
use tenon_base::DType;
use tenon_kernel::{BinOp, Expr, UnOp};

/// A matrix by rows.
pub(super) type Matrix = Vec<Vec<f64>>;

/// The finite points of filters in integers, in the order in which they are taken; for floats the first [`FEW`].
const WHOLE_POINTS: [f64; 5] = [0.0, 1.0, -1.0, 2.0, -2.0];

/// Those of filters of floats that take more than [`FEW`].
const POINTS: [f64; 5] = [0.0, 0.75, -0.75, 1.5, -1.5];

/// As many points as have no better ones than 0 and ±1: factors of one are no multiplication.
const FEW: usize = 3;

/// The most products along one axis that there are points for.
pub(super) const MAX_ALPHA: usize = POINTS.len() + 1;

/// The three matrices of `F(m, r)`.
#[derive(Clone, Debug)]
pub(super) struct CookToom {
    /// `Aᵀ`, `m × α`: products to outputs.
    pub(super) output: Matrix,
    /// `Bᵀ`, `α × α`: data to factors.
    pub(super) input: Matrix,
    /// `G`, `α × r`: taps to factors.
    pub(super) weight: Matrix,
}

impl CookToom {
    /// `F(m, r)`; both at least 1 and `m + r - 1` at most [`MAX_ALPHA`]. `F(1, 1)` is the identity.
    pub(super) fn new(m: usize, r: usize) -> CookToom {
        let count = m + r - 2;
        if count <= FEW {
            return CookToom::at(&WHOLE_POINTS[..count], m, r);
        }
        let mut filter = CookToom::at(&POINTS[..count], m, r);
        // The columns of `Aᵀ` are divided by powers of their points, another one for each pair, so that a row of odd powers and one of
        // even ones have a factor of one, which is no multiplication; the weights are multiplied by them.
        for (j, p) in POINTS[..count].iter().enumerate().filter(|(_, p)| **p != 0.0) {
            let by = p.abs().powi(j.div_ceil(2) as i32);
            filter.output.iter_mut().for_each(|row| row[j] /= by);
            filter.weight[j].iter_mut().for_each(|w| *w *= by);
        }
        filter
    }

    /// `F(m, r)` from its `m + r - 2` finite points.
    fn at(points: &[f64], m: usize, r: usize) -> CookToom {
        let alpha = points.len() + 1;
        let power = |p: f64, e: usize| p.powi(e as i32);
        let others = |j: usize| points.iter().enumerate().filter(move |(l, _)| *l != j).map(|(_, p)| *p);
        let mut output = vec![vec![0.0; alpha]; m];
        let mut weight = vec![vec![0.0; r]; alpha];
        let mut input = vec![vec![0.0; alpha]; alpha];
        for (j, &p) in points.iter().enumerate() {
            let scale: f64 = others(j).map(|q| p - q).product();
            output.iter_mut().enumerate().for_each(|(i, row)| row[j] = power(p, i));
            weight[j].iter_mut().enumerate().for_each(|(k, w)| *w = power(p, k) / scale);
            polynomial(others(j), &mut input[j]);
        }
        output[m - 1][alpha - 1] = 1.0;
        weight[alpha - 1][r - 1] = 1.0;
        polynomial(points.iter().copied(), &mut input[alpha - 1]);
        CookToom { output, input, weight }
    }

    /// Products along the axis.
    pub(super) fn alpha(&self) -> usize {
        self.input.len()
    }
}

/// `F(m, r)` in integers: what comes out is `factor` times the outputs.
#[derive(Clone, Debug)]
pub(super) struct Whole {
    /// The matrices; every element is an integer.
    pub(super) filter: CookToom,
    /// At least 1.
    pub(super) factor: i64,
}

/// The largest sum of magnitudes of a row of `G`, where there is a choice: weights of a byte that are transformed along two axes fit
/// 16 bits.
const WIDEST: f64 = 15.0;

impl Whole {
    /// `F(m, r)`, with the extents that [`CookToom::new`] takes. Each row of `G` is multiplied by as large a divisor of the factor as its
    /// width allows, and the column of `Aᵀ` that meets it by what is left.
    pub(super) fn new(m: usize, r: usize) -> Whole {
        let mut filter = CookToom::at(&WHOLE_POINTS[..m + r - 2], m, r);
        let whole = |x: f64| (x - x.round()).abs() < 1e-9;
        // The denominators of a row divide the product of the distances of its point from all others.
        let least = |row: &Vec<f64>| (1..=24i64).find(|d| row.iter().all(|w| whole(w * *d as f64))).unwrap_or(24);
        let by_row: Vec<i64> = filter.weight.iter().map(least).collect();
        let factor = by_row.iter().fold(1, |l, d| l / gcd(l, *d) * d);
        for (j, (row, least)) in filter.weight.iter_mut().zip(by_row).enumerate() {
            let width: f64 = row.iter().map(|w| w.abs()).sum();
            let divides = |d: &i64| factor % d == 0 && d % least == 0 && width * *d as f64 <= WIDEST;
            let by = (1..=factor).rev().find(divides).unwrap_or(least);
            row.iter_mut().for_each(|w| *w = (*w * by as f64).round());
            filter.output.iter_mut().for_each(|row| row[j] *= (factor / by) as f64);
        }
        Whole { filter, factor }
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The largest magnitude of what the input transforms along all `axes` make of data within `lo..=hi`.
pub(super) fn largest_input(axes: &[CookToom], (lo, hi): (f64, f64)) -> f64 {
    // The largest and the least sum of each place, from the sums of its positive and its negative factors.
    let mut places = vec![(1.0, 0.0)];
    for axis in axes {
        let parts = axis.input.iter().map(|row| {
            let of = |sign: f64| row.iter().map(|c| (c * sign).max(0.0)).sum::<f64>();
            (of(1.0), of(-1.0))
        });
        let along =
            |(p, n): &(f64, f64)| parts.clone().map(|(a, b)| (p * a + n * b, p * b + n * a)).collect::<Vec<_>>();
        places = places.iter().flat_map(along).collect();
    }
    let ends = |(p, n): &(f64, f64)| (p * hi - n * lo).abs().max((p * lo - n * hi).abs());
    places.iter().map(ends).fold(0.0, f64::max)
}

/// The coefficients of `Π (x - root)`, lowest first; `out` is long enough and zero.
fn polynomial(roots: impl Iterator<Item = f64>, out: &mut [f64]) {
    out[0] = 1.0;
    for root in roots {
        for k in (0..out.len()).rev() {
            let below = if k == 0 { 0.0 } else { out[k - 1] };
            out[k] = below - root * out[k];
        }
    }
}

/// `matrix · x` for every vector `x` along `axis` of `data`, of extents `dims`, which change with it.
pub(super) fn apply(matrix: &Matrix, axis: usize, data: &[f64], dims: &mut [usize]) -> Vec<f64> {
    let (from, to) = (dims[axis], matrix.len());
    let inner: usize = dims[axis + 1..].iter().product();
    let outer: usize = dims[..axis].iter().product();
    let mut out = vec![0.0; outer * to * inner];
    for o in 0..outer {
        for (i, row) in matrix.iter().enumerate() {
            let target = &mut out[(o * to + i) * inner..][..inner];
            for (k, &c) in row.iter().enumerate().filter(|(_, c)| **c != 0.0) {
                let source = &data[(o * from + k) * inner..][..inner];
                target.iter_mut().zip(source).for_each(|(t, s)| *t += c * s);
            }
        }
    }
    dims[axis] = to;
    out
}

/// Statements for `matrix · x`, where `x` are variables or constants; the results are variables.
///
/// The points come in pairs `±p`, so two rows, or two columns, of a transform differ in some signs only: what they share is
/// computed once.
pub(super) fn emit(cx: &mut LowerCx<'_>, dtype: DType, matrix: &Matrix, x: &[Expr]) -> Vec<Expr> {
    let (matrix, x) = share_columns(cx, matrix, x);
    let mut out: Vec<Option<Expr>> = vec![None; matrix.len()];
    for i in 0..matrix.len() {
        if out[i].is_some() {
            continue;
        }
        let partner = (i + 1..matrix.len()).find(|&j| out[j].is_none() && signs(&matrix[i], &matrix[j]).is_some());
        let Some((j, same)) = partner.and_then(|j| Some((j, signs(&matrix[i], &matrix[j])?))) else {
            let sum = sum(dtype, &matrix[i], &x, |_| true);
            out[i] = Some(cx.k.bind("s", sum));
            continue;
        };
        // Multiplying the whole of one part as it is added is no more than adding it.
        let first = (0..x.len()).rev().find(|k| !same[*k] && matrix[i][*k] != 0.0).map_or(1.0, |k| matrix[i][k]);
        let factor = if dtype.is_float() && first.abs() != 1.0 { first } else { 1.0 };
        let odd: Vec<f64> = matrix[i].iter().map(|c| c / factor).collect();
        let even = sum(dtype, &matrix[i], &x, |k| same[k]);
        let odd = sum(dtype, &odd, &x, |k| !same[k]);
        let (even, odd) = (cx.k.bind("e", even), cx.k.bind("o", odd));
        let scaled = |by: f64| match by {
            1.0 => even.clone() + odd.clone(),
            -1.0 => even.clone() - odd.clone(),
            by => Expr::fma(odd.clone(), Expr::constant(dtype, by), even.clone()),
        };
        out[i] = Some(cx.k.bind("s", scaled(factor)));
        out[j] = Some(cx.k.bind("s", scaled(-factor)));
    }
    out.into_iter().flatten().collect()
}

/// Where `a` and `b` have equal entries, if all others are each other's negatives and there are some of both kinds.
fn signs(a: &[f64], b: &[f64]) -> Option<Vec<bool>> {
    let same: Vec<bool> = a.iter().zip(b).map(|(x, y)| x == y).collect();
    let pairs = || a.iter().zip(b).zip(&same);
    let negated = pairs().filter(|((x, _), s)| !**s && **x != 0.0).count();
    let equal = pairs().filter(|((x, _), s)| **s && **x != 0.0).count();
    let all = pairs().all(|((x, y), s)| *s || *x == -*y);
    (all && negated > 0 && equal > 0).then_some(same)
}

/// Replaces two operands whose columns differ in some signs only by their sum and difference.
fn share_columns(cx: &mut LowerCx<'_>, matrix: &Matrix, x: &[Expr]) -> (Matrix, Vec<Expr>) {
    let mut matrix = matrix.clone();
    let mut x = x.to_vec();
    // Square transforms share along their rows.
    if matrix.len() >= x.len() {
        return (matrix, x);
    }
    for a in 0..x.len() {
        let column = |m: &Matrix, k: usize| m.iter().map(|row| row[k]).collect::<Vec<f64>>();
        let partner = (a + 1..x.len()).find(|&b| signs(&column(&matrix, a), &column(&matrix, b)).is_some());
        let Some((b, same)) = partner.and_then(|b| Some((b, signs(&column(&matrix, a), &column(&matrix, b))?)))
        else {
            continue;
        };
        let (p, q) = (x[a].clone(), x[b].clone());
        x[a] = cx.k.bind("p", p.clone() + q.clone());
        x[b] = cx.k.bind("m", p - q);
        for (row, same) in matrix.iter_mut().zip(same) {
            // c·(p + q) where both columns say c, c·(p - q) where the second says -c.
            if same {
                row[b] = 0.0;
            } else {
                row[b] = row[a];
                row[a] = 0.0;
            }
        }
    }
    (matrix, x)
}

/// `Σ row[k] · x[k]` over the `k` that `take` accepts.
fn sum(dtype: DType, row: &[f64], x: &[Expr], take: impl Fn(usize) -> bool) -> Expr {
    let mut terms: Vec<(f64, Expr)> = row
        .iter()
        .zip(x)
        .enumerate()
        .filter(|(k, (c, _))| take(*k) && **c != 0.0)
        .map(|(_, (c, x))| (*c, x.clone()))
        .collect();
    // A term without a factor starts the sum, so that all others are multiply-adds.
    let first = terms.iter().position(|(c, _)| *c == 1.0).unwrap_or(0);
    if terms.is_empty() {
        return Expr::constant(dtype, 0.0);
    }
    let (c, start) = terms.remove(first);
    let constant = |c: f64| Expr::constant(dtype, c);
    let start = match c {
        1.0 => start,
        -1.0 => start.unary(UnOp::Neg),
        c => times(dtype, start, c),
    };
    terms.into_iter().fold(start, |sum, (c, x)| match c {
        1.0 => sum + x,
        -1.0 => sum - x,
        c if dtype.is_float() => Expr::fma(x, constant(c), sum),
        c if c < 0.0 => sum - times(dtype, x, -c),
        c => sum + times(dtype, x, c),
    })
}

/// `x · c`, a shift where `c` is an integer's power of two.
fn times(dtype: DType, x: Expr, c: f64) -> Expr {
    let power = (1..16).find(|n| f64::from(1 << n) == c).filter(|_| dtype.is_int());
    match power {
        Some(n) => x.binary(BinOp::Shl, Expr::constant(dtype, f64::from(n))),
        None => x * Expr::constant(dtype, c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_whole(m: usize, r: usize) -> CookToom {
        CookToom::at(&WHOLE_POINTS[..m + r - 2], m, r)
    }

    #[test]
    fn f_4_3_at_whole_points_is_the_published_one() {
        let t = at_whole(4, 3);
        assert_eq!(t.input[0], [4.0, 0.0, -5.0, 0.0, 1.0, 0.0]);
        assert_eq!(t.input[3], [0.0, -2.0, -1.0, 2.0, 1.0, 0.0]);
        assert_eq!(t.input[5], [0.0, 4.0, 0.0, -5.0, 0.0, 1.0]);
        assert_eq!(t.weight[0], [0.25, 0.0, 0.0]);
        assert_eq!(t.weight[1], [-1.0 / 6.0; 3]);
        assert_eq!(t.weight[3], [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0]);
        assert_eq!(t.output[3], [0.0, 1.0, -1.0, 8.0, -8.0, 1.0]);
    }

    #[test]
    fn in_integers_the_factors_are_small_and_the_outputs_multiples() {
        let t = Whole::new(2, 3);
        assert_eq!((t.factor, &t.filter.output), (2, &CookToom::new(2, 3).output));
        let t = Whole::new(4, 3);
        assert_eq!(t.factor, 24);
        assert_eq!(t.filter.weight[1], [-4.0; 3]);
        assert_eq!(t.filter.weight[3], [1.0, 2.0, 4.0]);
        assert_eq!(t.filter.weight[5], [0.0, 0.0, 12.0]);
        assert_eq!(t.filter.output[3], [0.0, 1.0, -1.0, 8.0, -8.0, 2.0]);
        for (m, r) in [(1, 1), (2, 3), (4, 3), (2, 5), (4, 2), (3, 3), (5, 2)] {
            let (t, plain) = (Whole::new(m, r), at_whole(m, r));
            let entries = |m: &Matrix| m.iter().flatten().copied().collect::<Vec<_>>();
            assert!(entries(&t.filter.weight).iter().all(|w| w.fract() == 0.0), "F({m},{r})");
            for k in 0..plain.alpha() {
                for (a, b) in t.filter.output.iter().zip(&plain.output) {
                    let pair = |w: &Matrix, o: f64| w[k].iter().map(|w| w * o).collect::<Vec<_>>();
                    let (a, b) = (pair(&t.filter.weight, a[k]), pair(&plain.weight, b[k] * t.factor as f64));
                    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-9), "F({m},{r})");
                }
            }
        }
        let two = |m| vec![at_whole(m, 3); 2];
        assert_eq!(largest_input(&two(2), (0.0, 255.0)), 1020.0);
        assert_eq!(largest_input(&two(4), (0.0, 255.0)), 68.0 * 255.0);
        assert_eq!(largest_input(&two(4), (-128.0, 127.0)), 68.0 * 128.0 + 32.0 * 127.0);
    }

    #[test]
    fn few_points_need_no_products_and_more_of_them_few() {
        for (m, r) in [(1, 1), (2, 3), (4, 3), (2, 5), (4, 2), (3, 3), (5, 2)] {
            let t = CookToom::new(m, r);
            let entries = || t.input.iter().chain(&t.output).flatten().copied();
            let free = entries().all(|x| x.abs() <= 1.0 && x.fract() == 0.0);
            assert_eq!(free, m + r - 2 <= FEW, "F({m},{r})");
            assert!(t.input.iter().flatten().all(|x| f64::from(*x as f32) == *x), "F({m},{r})");
        }
        let t = CookToom::new(4, 3);
        assert_eq!((t.output[1][1], t.output[1][2], t.output[2][3], t.output[2][4]), (1.0, -1.0, 1.0, 1.0));
    }

    /// Sums of many channels filtered in `f32` along two axes, each product once: within a few units of the last place of the largest.
    #[test]
    fn rounding_errors_stay_small() {
        let round = |v: Vec<f64>| v.into_iter().map(|x| f64::from(x as f32)).collect::<Vec<f64>>();
        let both = |matrix: &Matrix, x: &[f64], n: usize| {
            let mut dims = [n, n];
            let rows = round(apply(matrix, 0, x, &mut dims));
            round(apply(matrix, 1, &rows, &mut dims))
        };
        let error = |t: &CookToom, m: usize, r: usize| {
            let (n, mut seed, mut worst) = (t.alpha(), 1u32, 0.0f64);
            let mut draw = || {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f64::from(seed >> 8) / f64::from(1 << 23) - 1.0
            };
            for _ in 0..50 {
                let (mut sums, mut exact) = (vec![0.0; n * n], vec![0.0; m * m]);
                for _ in 0..16 {
                    let (d, g) =
                        (round((0..n * n).map(|_| draw()).collect()), round((0..r * r).map(|_| draw()).collect()));
                    let (u, v) = (both(&t.weight, &g, r), both(&t.input, &d, n));
                    sums = round(sums.iter().zip(u.iter().zip(&v)).map(|(s, (a, b))| s + a * b).collect());
                    for (i, y) in exact.iter_mut().enumerate() {
                        let taps = (0..r * r).map(|k| d[(i / m + k / r) * n + i % m + k % r] * g[k]);
                        *y += taps.sum::<f64>();
                    }
                }
                let found = both(&t.output, &sums, n);
                worst = found.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(worst, f64::max);
            }
            worst
        };
        for (m, r) in [(4, 3), (2, 5)] {
            let (found, whole) = (error(&CookToom::new(m, r), m, r), error(&at_whole(m, r), m, r));
            assert!(found < 0.6 * whole, "F({m},{r}): {found:e}, at whole points {whole:e}");
        }
    }

    #[test]
    fn every_filter_is_correlation() {
        for (m, r) in [(1, 1), (2, 3), (4, 3), (2, 5), (3, 4), (5, 2), (3, 3), (6, 1)] {
            let t = CookToom::new(m, r);
            let d: Vec<f64> = (0..t.alpha()).map(|i| (i * i) as f64 - 3.5).collect();
            let g: Vec<f64> = (0..r).map(|i| 1.25 - i as f64 * 0.75).collect();
            let along = |matrix: &Matrix, x: &[f64]| apply(matrix, 0, x, &mut [x.len()]);
            let (u, v) = (along(&t.weight, &g), along(&t.input, &d));
            let products: Vec<f64> = u.iter().zip(&v).map(|(a, b)| a * b).collect();
            for (i, y) in along(&t.output, &products).into_iter().enumerate() {
                let expected: f64 = (0..r).map(|k| d[i + k] * g[k]).sum();
                assert!((y - expected).abs() < 1e-12 * 100.0, "F({m},{r})[{i}]: {y} for {expected}");
            }
        }
    }
}

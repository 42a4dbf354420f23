//! Transpositions in registers.
//!
//! A nest of independent loops that stores along one of them and loads along another would load every lane on its own. Instead a square of words is
//! loaded row by row, transposed by instructions that interleave words of two registers (log₂ n rounds; the network is that of Intel's *64 and IA-32
//! Architectures Optimization Reference Manual*, "Transpose"), and stored row by row. Of the last squares a part is stored.

use super::lanes::Lanes;
use super::scope::{Block, for_loop, trips};
use super::{ScheduleCx, Unit};
use crate::effort::Price;
use std::collections::BTreeMap;
use tenon_kernel::{Affine, Buf, Expr, Kernel, Stmt, Type, Var};
use tenon_target::Target;

/// Transposes in every loop nest that can be.
pub(super) fn run(unit: &mut Unit, cx: &ScheduleCx<'_>) {
    if !cx.target.shuffles_words() {
        return;
    }
    let body = std::mem::take(&mut unit.kernel.body);
    let calls = unit.calls;
    unit.kernel.body = block(body, &mut unit.kernel, calls, cx);
}

/// `body`, which runs so many `times`.
fn block(body: Vec<Stmt>, kernel: &mut Kernel, times: usize, cx: &ScheduleCx<'_>) -> Vec<Stmt> {
    let each = |s: Stmt| match Nest::of(&s, kernel, cx.target).filter(|nest| nest.pays(times, &cx.price)) {
        Some(nest) => nest.transposed(kernel),
        None => vec![match s {
            Stmt::For { var, lo, hi, step, parallel, body } => {
                let times = times.saturating_mul(trips(&lo, &hi, step));
                Stmt::For { var, lo, hi, step, parallel, body: block(body, kernel, times, cx) }
            }
            Stmt::If { cond, then, otherwise } => Stmt::If {
                cond,
                then: block(then, kernel, times, cx),
                otherwise: block(otherwise, kernel, times, cx),
            },
            Stmt::While { cond, body } => Stmt::While { cond, body: block(body, kernel, times, cx) },
            s => s,
        }],
    };
    body.into_iter().flat_map(each).collect()
}

/// `parfor`s around one store, of which two span squares.
struct Nest {
    /// All loops: variable, first value, iterations.
    loops: Vec<(Var, i64, i64)>,
    /// The loop along which it stores, and the one along which it loads.
    stored: Var,
    loaded: Var,
    /// Words of a row of a square.
    size: i64,
    buf: Buf,
    index: Expr,
    value: Expr,
}

impl Nest {
    fn of(s: &Stmt, kernel: &Kernel, target: &Target) -> Option<Nest> {
        let (mut loops, mut at) = (vec![], s);
        while let Stmt::For { var, lo, hi, step: 1, parallel: true, body } = at {
            let (lo, hi) = (lo.as_int()?, hi.as_int()?);
            loops.push((*var, lo, hi.checked_sub(lo)?));
            let [inner] = &body[..] else { return None };
            at = inner;
        }
        let Stmt::Store { buf, index, value } = at else { return None };
        let written = Affine::of(index)?;
        let along = |a: &Affine| loops.iter().find(|l| a.coefficient(l.0) == 1 && l.2 > 1).map(|l| l.0);
        let stored = along(&written)?;
        let (mut loads, mut fits) = (vec![], true);
        value.visit(&mut |e| match e {
            Expr::Load { buf, index, lanes } => match Affine::of(index) {
                Some(a) if *lanes == 1 => loads.push((*buf, a)),
                _ => fits = false,
            },
            Expr::Dot(_) | Expr::Lanes(_) | Expr::Splat(..) | Expr::Extract(..) | Expr::Reduce(..) => fits = false,
            _ => {}
        });
        let across = |a: &Affine| across(a, stored);
        let loaded = along(&loads.iter().find(|(_, a)| across(a))?.1)?;
        for (b, a) in &loads {
            let word = kernel.buffer(*b).dtype.size() == 4;
            fits &= !across(a) || word && a.coefficient(loaded) == 1;
            // A square is loaded before any of it is stored, and others in another order than before.
            fits &= b != buf && !kernel.in_place.iter().any(|(i, o)| i == b && o == buf);
        }
        let extent = |v: Var| loops.iter().find(|l| l.0 == v).map_or(0, |l| l.2);
        let most = extent(stored).min(extent(loaded)).min((target.vector_bytes / 4) as i64);
        let size = [16, 8, 4].into_iter().find(|n| *n <= most)?;
        let (index, value) = (index.clone(), value.clone());
        (fits && loaded != stored && written.coefficient(loaded) != 0).then_some(Nest {
            loops,
            stored,
            loaded,
            size,
            buf: *buf,
            index,
            value,
        })
    }

    /// Whether the code of all squares costs less than what they save in so many `times`.
    fn pays(&self, times: usize, price: &Price) -> bool {
        // Cycles that a word takes longer on its own.
        const SAVED: f64 = 1.5;
        // A row is loaded, goes through each round of the network, and is stored.
        let square = self.size * (2 + i64::from(self.size.ilog2()));
        let squares = self.squares(self.loaded).len() * self.squares(self.stored).len();
        let words = self.loops.iter().fold(times as f64, |n, l| n * l.2 as f64);
        (square as usize * squares) as f64 * price.instruction <= SAVED * words
    }

    /// The squares along loop `v`: whole ones, and what is left.
    fn squares(&self, v: Var) -> Vec<Squares> {
        let (n, (first, extent)) = (self.size, self.loops.iter().find(|l| l.0 == v).map_or((0, 0), |l| (l.1, l.2)));
        let mut all = vec![Squares { first, count: extent / n, skip: 0, take: n }];
        if extent % n != 0 {
            let left = extent % n;
            all.push(match v == self.loaded {
                // Rows are loaded whole, from elements of the square before on.
                true => Squares { first: first + extent - n, count: 1, skip: n - left, take: left },
                false => Squares { first: first + extent - left, count: 1, skip: 0, take: left },
            });
        }
        all
    }

    fn transposed(&self, kernel: &mut Kernel) -> Vec<Stmt> {
        let mut b = Block::new(kernel);
        let mut body = vec![];
        for loaded in self.squares(self.loaded) {
            let from = b.index("from");
            let inner = b.nested(|b| {
                for stored in self.squares(self.stored) {
                    let to = b.index("to");
                    let inner = b.nested(|b| self.square((from, loaded), (to, stored), b));
                    b.stmts.push(for_loop(to, stored.count as usize, 1, true, inner));
                }
            });
            body.push(for_loop(from, loaded.count as usize, 1, true, inner));
        }
        let others = self.loops.iter().rev().filter(|l| l.0 != self.stored && l.0 != self.loaded);
        for (var, lo, extent) in others {
            let (lo, hi) = (Expr::int(*lo), Expr::int(lo + extent));
            body = vec![Stmt::For { var: *var, lo, hi, step: 1, parallel: true, body }];
        }
        body
    }

    /// One square of each, by its loop.
    fn square(&self, (from, loaded): (Var, Squares), (to, stored): (Var, Squares), b: &mut Block<'_>) {
        let n = self.size as u16;
        let [from, to] = [(from, loaded), (to, stored)].map(|(v, s)| Expr::Var(v) * self.size + s.first);
        let place = |e: &Expr, loaded: &Expr, stored: &Expr| {
            e.clone().substitute(self.loaded, loaded).substitute(self.stored, stored)
        };
        // For each load across: a scalar in its place, and the rows of the transposed square.
        let mut known: Vec<(Expr, Var, Vec<Var>)> = vec![];
        let value = self.value.clone().rewrite(&mut |e| {
            let Expr::Load { buf, index, .. } = &e else { return e };
            if !Affine::of(index).is_some_and(|a| across(&a, self.stored)) {
                return e;
            }
            if let Some((_, var, _)) = known.iter().find(|(k, ..)| *k == e) {
                return Expr::Var(*var);
            }
            let elem = b.kernel.buffer(*buf).dtype;
            let mut rows: Vec<Expr> = (0..stored.take)
                .map(|i| {
                    let index = Box::new(place(index, &from, &(to.clone() + i)));
                    b.bind("row", Expr::Load { buf: *buf, index, lanes: n })
                })
                .collect();
            // What stands for rows that are not there is not stored.
            rows.resize(usize::from(n), rows[0].clone());
            let columns = transpose(&rows, n, b);
            let scalar = b.kernel.new_var("word", Type::scalar(elem));
            known.push((e.clone(), scalar, columns));
            Expr::Var(scalar)
        });
        let take = stored.take as u16;
        for i in loaded.skip..loaded.skip + loaded.take {
            let column = |c: &Vec<Var>, b: &mut Block<'_>| match c[i as usize] {
                v if take == n => v,
                v => {
                    let some = Expr::Lanes((0..take).map(|l| Expr::Extract(Box::new(Expr::Var(v)), l)).collect());
                    let ty = b.kernel.type_of(&some);
                    let var = b.kernel.new_var("some", ty);
                    b.stmts.push(Stmt::Let { var, value: some });
                    var
                }
            };
            let vectors: Vec<(Var, Var)> = known.iter().map(|(_, s, c)| (*s, column(c, b))).collect();
            let row = from.clone() + i;
            let lanes = Lanes { var: self.stored, base: to.clone(), lanes: take, vectors: &vectors };
            let value = value.clone().substitute(self.loaded, &row);
            let Some(value) = lanes.widen(&value) else { continue };
            let index = place(&self.index, &row, &to);
            b.stmts.push(Stmt::Store { buf: self.buf, index, value: value.vector(take) });
        }
    }
}

/// Whether loads at `a` that follow each other along `stored` are neither of neighbours nor of one element.
fn across(a: &Affine, stored: Var) -> bool {
    !matches!(a.coefficient(stored), 0 | 1)
}

/// Squares that follow each other.
#[derive(Clone, Copy, Debug)]
struct Squares {
    /// Where the first one begins, and how many there are.
    first: i64,
    count: i64,
    /// Of each the rows or columns that are needed.
    skip: i64,
    take: i64,
}

/// The columns of the square whose rows are `rows`, all variables.
fn transpose(rows: &[Expr], n: u16, b: &mut Block<'_>) -> Vec<Var> {
    // Within four lanes: words of two rows, then pairs of words of two pairs of rows.
    let mut groups: Vec<[Expr; 4]> = vec![];
    for r in rows.chunks(4) {
        let mut two = |x: &Expr, y: &Expr, order: [u16; 4]| b.bind("m", picked(x, y, n, &|l| within(l, n, order)));
        let (low, high) = ([0, 4, 1, 5], [2, 6, 3, 7]);
        let m = [two(&r[0], &r[1], low), two(&r[0], &r[1], high), two(&r[2], &r[3], low), two(&r[2], &r[3], high)];
        let (low, high) = ([0, 1, 4, 5], [2, 3, 6, 7]);
        groups.push([
            two(&m[0], &m[2], low),
            two(&m[0], &m[2], high),
            two(&m[1], &m[3], low),
            two(&m[1], &m[3], high),
        ]);
    }
    // Then four lanes at a time: lanes `4j..` of every group become a column.
    let mut columns: BTreeMap<usize, Expr> = BTreeMap::new();
    for k in 0..4 {
        let parts: Vec<Expr> = groups.iter().map(|g| g[k].clone()).collect();
        for (j, column) in blocks(parts, n, b).into_iter().enumerate() {
            columns.insert(4 * j + k, column);
        }
    }
    columns.into_values().filter_map(|e| if let Expr::Var(v) = e { Some(v) } else { None }).collect()
}

/// The square of groups of four lanes, transposed.
fn blocks(parts: Vec<Expr>, n: u16, b: &mut Block<'_>) -> Vec<Expr> {
    let mut two =
        |x: &Expr, y: &Expr, of: &dyn Fn(u16) -> u16| b.bind("m", picked(x, y, n, &|l| of(l / 4) * 4 + l % 4));
    match &parts[..] {
        [x, y] => vec![two(x, y, &|g| 2 * g), two(x, y, &|g| 2 * g + 1)],
        [w, x, y, z] => {
            // Even groups of both, and odd ones, twice.
            let (even, odd) = (|g: u16| 2 * g, |g: u16| 2 * g + 1);
            let m = [two(w, x, &even), two(y, z, &even), two(w, x, &odd), two(y, z, &odd)];
            let [first, third] = [two(&m[0], &m[1], &even), two(&m[0], &m[1], &odd)];
            let [second, fourth] = [two(&m[2], &m[3], &even), two(&m[2], &m[3], &odd)];
            vec![first, second, third, fourth]
        }
        _ => parts,
    }
}

/// The lane that lane `l` is of two vectors one after the other, in this order within each four lanes: the first's 0 to 3, the second's 4 to 7.
fn within(l: u16, n: u16, order: [u16; 4]) -> u16 {
    let at = order[usize::from(l % 4)];
    (at / 4) * n + l / 4 * 4 + at % 4
}

/// Lanes of `x` and `y`, one after the other; lane `l` is lane `of(l)` of them.
fn picked(x: &Expr, y: &Expr, n: u16, of: &dyn Fn(u16) -> u16) -> Expr {
    let lane = |l: u16| {
        let at = of(l);
        Expr::Extract(Box::new(if at < n { x } else { y }.clone()), at % n)
    };
    Expr::Lanes((0..n).map(lane).collect())
}

//! Sums where both factors are vectors: depthwise convolutions.
//!
//! A line of taps beside each other and a tile of rows need each place once, wherever several rows see it; so places are
//! loaded in their order and multiplied for every row that wants them, while the other factor's line stays in
//! registers. Loads are then fewer than products, which at two loads a cycle they must be.

use super::plan::{Along, Factor};
use super::scalar::multiply_add;
use super::tile::Generator;
use std::collections::BTreeMap;
use tenon_kernel::{Expr, Stmt, Var};

impl Generator<'_, '_> {
    /// The steps of one line: `points` are its taps, which differ in their last value, a constant.
    pub(super) fn line(&mut self, points: &[Vec<(Var, Expr)>]) -> Vec<Stmt> {
        let mut out = vec![];
        let Some(m) = self.p.m.clone() else { return out };
        // `x` moves with the rows, `w` is the same for all of them.
        let (x, w) = if self.p.a.uses(&m) { (&self.p.a, &self.p.b) } else { (&self.p.b, &self.p.a) };
        let by_row = x.index.coefficient(m.var);
        // Rows and taps by their place.
        let mut places: BTreeMap<i64, Vec<(usize, usize)>> = BTreeMap::new();
        for row in 0..self.t.mr {
            for (tap, point) in points.iter().enumerate() {
                let inside = point.last().map_or(0, |(v, at)| x.index.coefficient(*v) * at.as_int().unwrap_or(0));
                places.entry(row as i64 * by_row + inside).or_default().push((row, tap));
            }
        }
        for j in 0..self.t.nv {
            let load = |g: &Self, f: &Factor, row: usize, tap: usize| g.load(f, row, j, &points[tap]);
            let taps: Vec<Expr> = (0..points.len())
                .map(|tap| {
                    let e = load(self, w, 0, tap);
                    if self.t.mr > 1 { self.bind(e, &mut out) } else { e }
                })
                .collect();
            for users in places.values() {
                let (row, tap) = users[0];
                let e = load(self, x, row, tap);
                let place = if users.len() > 1 { self.bind(e, &mut out) } else { e };
                for &(row, tap) in users {
                    let var = self.accumulator(row, j);
                    let value = multiply_add(self.dtype, taps[tap].clone(), place.clone(), Expr::Var(var));
                    out.push(Stmt::Set { var, value });
                }
            }
        }
        debug_assert!(x.along != Along::Splat && w.along != Along::Splat);
        out
    }
}

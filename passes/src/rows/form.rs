//! How a kernel walks the rows of a value that it shares with another one.
//!
//! A value of `rows` rows of `length` elements lies row after row. A kernel walks it by rows if some of its independent loops number the
//! rows, each once, and whatever else its index holds stays inside the row. What these loops are called, whether two of them have become
//! one, and which axes of tensors they once were does not matter: only their strides, in rows, do.

use std::collections::BTreeMap;
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::{Affine, Buf, Expr, Kernel, Stmt, Var};

/// The loops around all that a kernel does, whose iterations are independent: those of its one contraction, or `parfor` in `parfor`.
#[derive(Clone, Debug)]
pub(super) struct Form {
    /// Outermost first; without those of one iteration.
    pub(super) loops: Vec<(Var, usize)>,
    /// Loops of one iteration.
    pub(super) ones: Vec<Var>,
    /// Whether it is a contraction.
    pub(super) contract: bool,
    /// All loops of known bounds, these and those inside: the first and the last value of each.
    ranges: BTreeMap<Var, (i64, i64)>,
}

/// The stride of each loop that numbers rows, in rows.
pub(super) type Walk = BTreeMap<Var, i64>;

impl Form {
    /// Of `k`, which is structured; `None` for a kernel of several loop nests.
    pub(super) fn of(k: &Kernel) -> Option<Form> {
        let mut all: Vec<(Var, usize)> = vec![];
        let contract = match &k.body[..] {
            [Stmt::Contract(c)] => {
                all.extend(c.dims.iter().map(|d| (d.var, d.extent)));
                true
            }
            [_] => {
                let mut body = &k.body[..];
                while let [Stmt::For { var, lo, hi, step: 1, parallel: true, body: inner }] = body
                    && let (Some(0), Some(n)) = (lo.as_int(), hi.as_int())
                {
                    all.push((*var, usize::try_from(n).ok()?));
                    body = inner;
                }
                false
            }
            _ => return None,
        };
        let mut ranges: BTreeMap<Var, (i64, i64)> = BTreeMap::new();
        let mut range = |var: Var, first: i64, last: i64| {
            let r = ranges.entry(var).or_insert((first, last));
            *r = (r.0.min(first), r.1.max(last));
        };
        let mut known = true;
        visit_stmts(&k.body, &mut |s| match s {
            Stmt::For { var, lo, hi, .. } => match (lo.as_int(), hi.as_int()) {
                (Some(lo), Some(hi)) if lo < hi => range(*var, lo, hi - 1),
                _ => known = false,
            },
            Stmt::Contract(c) => {
                c.dims.iter().chain(&c.reduce).for_each(|d| range(d.var, 0, d.extent as i64 - 1));
            }
            _ => {}
        });
        let (ones, loops): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, n)| *n == 1);
        let ones = ones.into_iter().map(|(v, _)| v).collect();
        (known && loops.iter().all(|(_, n)| *n > 1)).then_some(Form { loops, ones, contract, ranges })
    }

    /// Iterations of an independent loop.
    pub(super) fn extent(&self, v: Var) -> Option<usize> {
        self.loops.iter().find(|(l, _)| *l == v).map(|(_, n)| *n)
    }

    /// How many values each loop variable has, of loops of known bounds.
    pub(super) fn inside(&self) -> BTreeMap<Var, usize> {
        self.ranges.iter().map(|(v, (first, last))| (*v, (last - first + 1) as usize)).collect()
    }

    /// The least stride, in elements, of the loops by which the accesses `at` differ.
    pub(super) fn least_stride(&self, at: &[Affine]) -> Option<i64> {
        let strides = at.iter().flat_map(|a| self.loops.iter().map(|(v, _)| a.coefficient(*v)));
        strides.filter(|c| *c > 0).min()
    }

    /// How the accesses `at` walk a value of `rows` rows of `length` elements.
    pub(super) fn walk(&self, at: &[Affine], rows: usize, length: i64) -> Option<Walk> {
        let mut found: Option<Walk> = None;
        for a in at {
            let (mut walk, mut least, mut most) = (Walk::new(), a.base, a.base);
            for (v, c) in &a.terms {
                if *c >= length && self.extent(*v).is_some() {
                    walk.insert(*v, (c % length == 0).then_some(c / length)?);
                } else if !self.ones.contains(v) {
                    let (first, last) = self.ranges.get(v)?;
                    let ends = [c.checked_mul(*first)?, c.checked_mul(*last)?];
                    least = least.checked_add(ends[0].min(ends[1]))?;
                    most = most.checked_add(ends[0].max(ends[1]))?;
                }
            }
            if least < 0 || most >= length || found.as_ref().is_some_and(|f| *f != walk) {
                return None;
            }
            found = Some(walk);
        }
        // Every row once.
        let walk = found?;
        let mut order: Vec<(i64, Var)> = walk.iter().map(|(v, s)| (*s, *v)).collect();
        order.sort_unstable();
        let mut next = 1i64;
        for (stride, v) in order {
            if stride != next {
                return None;
            }
            next = next.checked_mul(self.extent(v)? as i64)?;
        }
        // In a nest, the rows are outside of all else.
        let outside = self.contract || self.loops.iter().take(walk.len()).all(|(v, _)| walk.contains_key(v));
        (next == rows as i64 && outside).then_some(walk)
    }
}

/// The indices of all loads and stores of `buf`; `None` if one of them is not affine.
pub(super) fn accesses(k: &Kernel, buf: Buf) -> Option<Vec<Affine>> {
    let mut all: Vec<Option<Affine>> = vec![];
    visit_stmts(&k.body, &mut |s| {
        match s {
            Stmt::Store { buf: b, index, .. } if *b == buf => all.push(Affine::of(index)),
            Stmt::Contract(c) if c.out == buf => all.push(Affine::of(&c.out_index)),
            _ => {}
        }
        s.exprs(&mut |e| {
            e.visit(&mut |e| {
                if let Expr::Load { buf: b, index, .. } = e
                    && *b == buf
                {
                    all.push(Affine::of(index));
                }
            });
        });
    });
    all.into_iter().collect()
}

//! Loops over the rows of a result that read another's rows: poolings.

use super::stage::{Reads, loads_of};
use std::collections::BTreeMap;
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::{Affine, BinOp, Buf, Expr, Facts, Interval, Stmt, Var};

/// A nest of independent loops that fills a result; the outermost of more than one iteration goes over its rows.
#[derive(Clone, Debug)]
pub(super) struct Nest<'k> {
    pub(super) out: Buf,
    /// Loops of one iteration around it.
    pub(super) ones: Vec<Var>,
    /// The loop over rows, and its iterations.
    pub(super) row: Var,
    pub(super) rows: i64,
    /// What is done for a row.
    pub(super) body: &'k [Stmt],
}

/// What the variable of a loop may be, limits aside: from an index to before another one.
#[derive(Clone, Debug)]
struct Span {
    from: Affine,
    to: Affine,
}

/// What is known of the variables around a load.
#[derive(Clone, Debug)]
struct Known {
    /// Limits included.
    facts: Facts<'static>,
    /// Loops.
    spans: BTreeMap<Var, Span>,
    /// What others were defined as, in terms of loops.
    values: BTreeMap<Var, Expr>,
}

impl<'k> Nest<'k> {
    /// `None` if `s` is no such nest, or writes more than one buffer or any other way than row by row.
    pub(super) fn of(s: &'k Stmt) -> Option<Nest<'k>> {
        let (mut s, mut ones) = (s, vec![]);
        let (row, rows, body) = loop {
            let Stmt::For { var, lo, hi, step: 1, parallel: true, body } = s else { return None };
            match (lo.as_int(), hi.as_int()) {
                (Some(0), Some(1)) => {
                    ones.push(*var);
                    let [inner] = &body[..] else { return None };
                    s = inner;
                }
                (Some(0), Some(n)) => break (*var, n, &body[..]),
                _ => return None,
            }
        };
        let (mut out, mut plain) = (None, true);
        visit_stmts(body, &mut |s| {
            plain &= !matches!(s, Stmt::Contract(_) | Stmt::Tiles(_) | Stmt::While { .. } | Stmt::If { .. });
            if let Some(buf) = s.written() {
                plain &= *out.get_or_insert(buf) == buf;
            }
        });
        let out = out.filter(|_| plain)?;
        (loads_of(body, out) == 0).then_some(Nest { out, ones, row, rows, body })
    }

    /// The rows of `length` elements that its one load of `buf` reads. Bounds of loops that keep a window within what it reads are passed over: the
    /// rows are those of the whole window.
    pub(super) fn reads(&self, buf: Buf, length: i64) -> Option<Reads> {
        let mut known = self.around();
        let index = known.find(self.body, buf)?;
        // Whole rows on one side, places in a row on the other.
        let mut across = Affine { base: index.base.div_euclid(length), ..Affine::default() };
        let mut along = Affine { base: index.base.rem_euclid(length), ..Affine::default() };
        for (v, c) in index.terms {
            match c {
                c if c > 0 && c < length => along.terms.insert(v, c),
                c if c > 0 && c % length == 0 => across.terms.insert(v, c / length),
                _ => return None,
            };
        }
        let places = known.facts.interval(&along.to_expr());
        if places.lo < 0 || places.hi >= length.into() {
            return None;
        }
        let (least, most) = (known.bound(&across, self.row, false)?, known.bound(&across, self.row, true)?);
        let step = least.coefficient(self.row);
        let straight = step > 0 && step == most.coefficient(self.row) && most.base >= least.base;
        let window = most.base - least.base + 1;
        straight.then_some(Reads { row: self.row, results: self.rows, first: least.base, step, window })
    }

    /// Elements that it loads, windows taken as whole.
    pub(super) fn loads(&self) -> f64 {
        self.rows as f64 * self.around().loads(self.body)
    }

    fn around(&self) -> Known {
        let loops = || self.ones.iter().map(|v| (*v, 1)).chain([(self.row, self.rows)]);
        let spans = loops().map(|(v, n)| (v, Span { from: constant(0), to: constant(n) })).collect();
        let facts = Facts::of_ranges(loops().map(|(v, n)| (v, Interval::new(0, i128::from(n) - 1))));
        Known { facts, spans, values: BTreeMap::new() }
    }
}

impl Known {
    /// The affine index of the load from `buf` in `body`; then the variables around it are known.
    fn find(&mut self, body: &[Stmt], buf: Buf) -> Option<Affine> {
        for s in body {
            self.enter(s);
            let mut found = None;
            s.exprs(&mut |e| {
                e.visit(&mut |e| {
                    if let Expr::Load { buf: b, index, lanes: 1 } = e
                        && *b == buf
                    {
                        found = Affine::of(&self.resolved(index));
                    }
                });
            });
            if let (None, Stmt::For { body, .. }) = (&found, s) {
                found = self.find(body, buf);
            }
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Learns what `s` says of variables.
    fn enter(&mut self, s: &Stmt) {
        match s {
            Stmt::Let { var, value } => {
                let value = self.resolved(value);
                self.values.insert(*var, value);
            }
            Stmt::For { var, lo, hi, step: 1, .. } => {
                let (lo, hi) = (self.resolved(lo), self.resolved(hi));
                self.facts.iterate(*var, &lo, &hi, 1);
                if let (Some(from), Some(to)) = (unlimited(&lo, BinOp::Max), unlimited(&hi, BinOp::Min)) {
                    self.spans.insert(*var, Span { from, to });
                }
            }
            _ => {}
        }
    }

    /// `e` in terms of loops.
    fn resolved(&self, e: &Expr) -> Expr {
        self.values.iter().fold(e.clone(), |e, (v, by)| e.substitute(*v, by))
    }

    /// The least or the largest value of `a` in terms of `row`, limits of loops passed over.
    fn bound(&self, a: &Affine, row: Var, largest: bool) -> Option<Affine> {
        let mut a = a.clone();
        // What a loop spans is told by those around it.
        for _ in 0..=self.spans.len() {
            let Some((v, c)) = a.terms.iter().map(|(v, c)| (*v, *c)).find(|(v, _)| *v != row) else { return Some(a) };
            let span = self.spans.get(&v)?;
            a.terms.remove(&v);
            let end = plus(&span.to, 1, &constant(-1))?;
            a = plus(&a, c, if largest == (c > 0) { &end } else { &span.from })?;
        }
        None
    }

    fn loads(&mut self, body: &[Stmt]) -> f64 {
        let mut sum = 0.0;
        for s in body {
            self.enter(s);
            if let Stmt::For { var, body, .. } = s {
                let trips = self.spans.get(var).and_then(|s| plus(&s.to, -1, &s.from));
                let trips = trips.filter(|t| t.terms.is_empty()).map_or(1, |t| t.base.max(1));
                sum += trips as f64 * self.loads(body);
            } else {
                s.exprs(&mut |e| e.visit(&mut |e| sum += f64::from(u8::from(matches!(e, Expr::Load { .. })))));
            }
        }
        sum
    }
}

/// A bound without the limit that `op` sets to it.
fn unlimited(e: &Expr, op: BinOp) -> Option<Affine> {
    match e {
        Expr::Binary(o, ab) if *o == op => match (ab[0].as_int(), ab[1].as_int()) {
            (None, Some(_)) => Affine::of(&ab[0]),
            (Some(_), None) => Affine::of(&ab[1]),
            _ => None,
        },
        e => Affine::of(e),
    }
}

fn constant(base: i64) -> Affine {
    Affine { base, ..Affine::default() }
}

/// `a + c · b`
fn plus(a: &Affine, c: i64, b: &Affine) -> Option<Affine> {
    Affine::of(&(a.to_expr() + b.to_expr() * c))
}

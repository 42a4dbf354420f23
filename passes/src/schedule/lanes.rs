//! From scalar expressions to vectors: iterations of one loop become lanes.

use tenon_kernel::{BinOp, Expr, MathFn, Var};

/// How one loop variable becomes lanes.
pub(super) struct Lanes<'a> {
    /// The loop variable.
    pub(super) var: Var,
    /// Its value in lane 0; lane `l` has this plus `l`.
    pub(super) base: Expr,
    /// How many.
    pub(super) lanes: u16,
    /// Scalar variables that differ between lanes, and the vectors that hold them.
    pub(super) vectors: &'a [(Var, Var)],
}

/// What an expression became.
pub(super) enum Wide {
    /// The same in every lane: still a scalar.
    Uniform(Expr),
    /// A vector.
    Vector(Expr),
}

impl Wide {
    /// As a vector of `lanes`.
    pub(super) fn vector(self, lanes: u16) -> Expr {
        match self {
            Wide::Uniform(e) => e.splat(lanes),
            Wide::Vector(e) => e,
        }
    }
}

impl Lanes<'_> {
    fn vector_of(&self, v: Var) -> Option<Var> {
        self.vectors.iter().find(|(s, _)| *s == v).map(|(_, w)| *w)
    }

    /// Whether `e` may differ between lanes.
    pub(super) fn differs(&self, e: &Expr) -> bool {
        let mut found = false;
        e.visit(&mut |e| {
            if let Expr::Var(v) = e {
                found |= *v == self.var || self.vector_of(*v).is_some();
            }
        });
        found
    }

    /// `e` in lane `lane`, a scalar.
    pub(super) fn at(&self, e: &Expr, lane: u16) -> Expr {
        let index = self.base.clone() + i64::from(lane);
        e.clone().substitute_all(&mut |v| match self.vector_of(v) {
            _ if v == self.var => Some(index.clone()),
            w => w.map(|w| Expr::Extract(Box::new(Expr::Var(w)), lane)),
        })
    }

    /// The stride of `index` from lane to lane, if it is constant; its other terms may be anything.
    pub(super) fn stride(&self, index: &Expr) -> Option<i64> {
        match index {
            Expr::Var(v) if *v == self.var => Some(1),
            e if !self.differs(e) => Some(0),
            Expr::Binary(BinOp::Add, b) => self.stride(&b[0])?.checked_add(self.stride(&b[1])?),
            Expr::Binary(BinOp::Sub, b) => self.stride(&b[0])?.checked_sub(self.stride(&b[1])?),
            Expr::Binary(BinOp::Mul, b) => match (b[0].as_int(), b[1].as_int()) {
                (Some(by), _) => self.stride(&b[1])?.checked_mul(by),
                (_, Some(by)) => self.stride(&b[0])?.checked_mul(by),
                _ => None,
            },
            _ => None,
        }
    }

    /// `e` in all lanes; `None` if it already works on vectors, or cannot with so many lanes.
    pub(super) fn widen(&self, e: &Expr) -> Option<Wide> {
        if !self.differs(e) {
            return Some(Wide::Uniform(e.clone()));
        }
        let all = |f: &dyn Fn(u16) -> Expr| Expr::Lanes((0..self.lanes).map(f).collect());
        Some(Wide::Vector(match e {
            Expr::Var(v) => match self.vector_of(*v) {
                Some(w) => Expr::Var(w),
                None => all(&|l| self.base.clone() + i64::from(l)),
            },
            Expr::Load { buf, index, lanes: 1 } => match self.stride(index) {
                Some(1) => Expr::Load { buf: *buf, index: Box::new(self.at(index, 0)), lanes: self.lanes },
                _ => all(&|l| Expr::load(*buf, self.at(index, l))),
            },
            Expr::Load { .. }
            | Expr::Splat(..)
            | Expr::Lanes(_)
            | Expr::Extract(..)
            | Expr::Reduce(..)
            | Expr::Dot(_) => {
                return None;
            }
            // Its loop ends when all lanes have, which a fold of the lanes tells: only a power of two of them can be folded.
            Expr::Math(MathFn::Fmod, _) if !self.lanes.is_power_of_two() => return None,
            e => {
                let mut ok = true;
                let wide = e.clone().map_children(&mut |c| match self.widen(&c) {
                    Some(w) => w.vector(self.lanes),
                    None => {
                        ok = false;
                        c
                    }
                });
                if !ok {
                    return None;
                }
                wide
            }
        }))
    }
}

/// Rough costs of an expression in a loop: operations, and loads by how they become vectors.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub(super) operations: usize,
    pub(super) unit_loads: usize,
    pub(super) gathers: usize,
}

impl Lanes<'_> {
    /// Adds the cost of `e` to `cost`.
    pub(super) fn cost(&self, e: &Expr, cost: &mut Cost) {
        if !self.differs(e) {
            return;
        }
        match e {
            Expr::Load { index, .. } if self.stride(index) == Some(1) => cost.unit_loads += 1,
            Expr::Load { .. } => cost.gathers += 1,
            e => {
                cost.operations += match e {
                    Expr::Math(..) => 20,
                    Expr::Var(v) if *v == self.var => self.lanes.into(),
                    Expr::Var(_) => 0,
                    _ => 1,
                };
                e.for_each_child(&mut |c| self.cost(c, cost));
            }
        }
    }

    /// Whether `lanes` iterations at once are likely faster than one by one.
    pub(super) fn profitable(&self, cost: Cost, stores: usize) -> bool {
        let (scalar, vector) = self.costs(cost, stores);
        // A virtual vector is a few registers; those are cheap.
        vector * 10 < scalar * 8
    }

    /// About how many operations fewer it is than one by one.
    pub(super) fn saved(&self, cost: Cost, stores: usize) -> usize {
        let (scalar, vector) = self.costs(cost, stores);
        scalar.saturating_sub(vector)
    }

    /// Operations of `lanes` iterations one by one, and at once.
    fn costs(&self, cost: Cost, stores: usize) -> (usize, usize) {
        let lanes = usize::from(self.lanes);
        let scalar = lanes * (cost.operations + cost.unit_loads + cost.gathers + stores);
        (scalar, cost.operations + cost.unit_loads + 2 * lanes * cost.gathers + stores)
    }
}

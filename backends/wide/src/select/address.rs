//! Addresses.
//!
//! An index is split into a constant, which becomes the displacement, and terms `coefficient · atom`; an atom is a
//! variable, or a subexpression that is not affine. Accesses that differ by a constant only share one address. Before
//! a loop, the terms that do not change in it are summed once for each such address. In an innermost loop the loop's own
//! term is the index register where the machine can scale by its coefficient, else the sum becomes a pointer that
//! advances by a constant.

use super::Select;
use super::value::Row;
use crate::lir::{Alu, Arg, Base, Mem, Op, Shift};
use regalloc2::VReg;
use std::collections::{BTreeMap, HashMap};
use tenon_base::{DType, Scalar};
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::{BinOp, Buf, Expr, Kernel, Stmt, Type, Var};

/// What an index is linear in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Atom {
    /// A variable.
    Var(Var),
    /// An expression: its position in [`Addresses::exprs`].
    Expr(u32),
}

/// `coefficient · atom`, one for each atom; coefficients are in elements and never 0.
pub(super) type Terms = BTreeMap<Atom, i64>;

/// A linear form; arithmetic wraps, as that of `i64` in the kernel does.
#[derive(Clone, Debug, Default)]
struct Linear {
    base: i64,
    terms: Terms,
}

impl Linear {
    fn add(mut self, other: &Linear, factor: i64) -> Linear {
        self.base = self.base.wrapping_add(other.base.wrapping_mul(factor));
        for (a, c) in &other.terms {
            let e = self.terms.entry(*a).or_insert(0);
            *e = e.wrapping_add(c.wrapping_mul(factor));
        }
        self.terms.retain(|_, c| *c != 0);
        self
    }
}

/// An address that was computed: that of element `terms` of `buf`.
#[derive(Clone, Debug)]
struct Known {
    buf: Buf,
    terms: Terms,
    value: VReg,
}

/// A pointer that advances with a loop.
pub(super) struct LoopPointer {
    pub(super) buf: Buf,
    pub(super) terms: Terms,
    /// Its value in the first iteration.
    pub(super) first: VReg,
    /// Bytes an iteration.
    pub(super) step: i64,
}

/// Pointers of one loop that fit the general registers.
const MAX_POINTERS: usize = 7;

/// What is known of addresses at the present point.
pub(super) struct Addresses {
    exprs: Vec<Expr>,
    numbers: HashMap<Expr, u32>,
    /// Variables whose present value is linear in others, or constant.
    lets: BTreeMap<Var, Linear>,
    /// Variables that `set` may change.
    mutable: Vec<bool>,
    /// By block, innermost last.
    scopes: Vec<Scope>,
}

#[derive(Default)]
struct Scope {
    known: Vec<Known>,
    values: Vec<(Atom, VReg)>,
}

impl Addresses {
    pub(super) fn new(kernel: &Kernel) -> Addresses {
        let mut a = Addresses {
            exprs: vec![],
            numbers: HashMap::new(),
            lets: BTreeMap::new(),
            mutable: vec![false; kernel.vars.len()],
            scopes: vec![],
        };
        visit_stmts(&kernel.body, &mut |s| {
            if let Stmt::Declare { var, .. } = s {
                a.mutable[var.0 as usize] = true;
            }
        });
        a
    }

    /// `var` has the value of `e` from here on, if that is linear in variables that do not change.
    pub(super) fn define(&mut self, var: Var, e: &Expr, kernel: &Kernel) {
        self.lets.remove(&var);
        // A value that is not linear is better computed once, where the `let` stands.
        let arithmetic =
            matches!(e, Expr::Binary(BinOp::Add | BinOp::Sub | BinOp::Mul, _) | Expr::Var(_) | Expr::Const(_));
        if !arithmetic || kernel.var(var).ty != Type::INDEX {
            return;
        }
        let linear = self.linear(e);
        if linear.terms.keys().all(|t| matches!(t, Atom::Var(v) if !self.mutable[v.0 as usize])) {
            self.lets.insert(var, linear);
        }
    }

    /// `var` is defined anew, as a loop's variable.
    pub(super) fn define_opaque(&mut self, var: Var) {
        self.lets.remove(&var);
    }

    /// `var` has the value `v` from here on.
    pub(super) fn define_constant(&mut self, var: Var, v: i64) {
        self.lets.insert(var, Linear { base: v, terms: Terms::new() });
    }

    pub(super) fn enter(&mut self) {
        self.scopes.push(Scope::default());
    }

    pub(super) fn leave(&mut self) {
        self.scopes.pop();
    }

    /// `value` is the address of element `terms` of `buf`, in the present scope.
    pub(super) fn remember(&mut self, buf: Buf, terms: Terms, value: VReg) {
        if let Some(s) = self.scopes.last_mut() {
            s.known.push(Known { buf, terms, value });
        }
    }

    fn linear(&mut self, e: &Expr) -> Linear {
        let of = |a: Atom| Linear { base: 0, terms: Terms::from([(a, 1)]) };
        match e {
            Expr::Const(Scalar::Int(DType::I64, v)) => Linear { base: *v as i64, terms: Terms::new() },
            Expr::Var(v) => match self.lets.get(v) {
                Some(l) => l.clone(),
                None => of(Atom::Var(*v)),
            },
            Expr::Binary(BinOp::Add, xy) => self.linear(&xy[0]).add(&self.linear(&xy[1]), 1),
            Expr::Binary(BinOp::Sub, xy) => self.linear(&xy[0]).add(&self.linear(&xy[1]), -1),
            Expr::Binary(BinOp::Mul, xy) => {
                let (x, y) = (self.linear(&xy[0]), self.linear(&xy[1]));
                match (x.terms.is_empty(), y.terms.is_empty()) {
                    (true, _) => Linear::default().add(&y, x.base),
                    (_, true) => Linear::default().add(&x, y.base),
                    _ => of(self.number(e)),
                }
            }
            _ => of(self.number(e)),
        }
    }

    fn number(&mut self, e: &Expr) -> Atom {
        let next = self.exprs.len() as u32;
        let n = *self.numbers.entry(e.clone()).or_insert(next);
        if n == next {
            self.exprs.push(e.clone());
        }
        Atom::Expr(n)
    }

    /// Whether the atom has one value wherever it is in scope.
    fn is_stable(&self, a: Atom) -> bool {
        match a {
            Atom::Var(v) => !self.mutable[v.0 as usize],
            Atom::Expr(n) => {
                let mut stable = true;
                self.exprs[n as usize].visit(&mut |e| match e {
                    Expr::Load { .. } => stable = false,
                    Expr::Var(v) => stable &= !self.mutable[v.0 as usize],
                    _ => {}
                });
                stable
            }
        }
    }

    /// The nearest known address of `buf` whose terms are all among `terms`.
    fn nearest(&self, buf: Buf, terms: &Terms) -> Option<&Known> {
        let mut best: Option<&Known> = None;
        for k in self.scopes.iter().rev().flat_map(|s| &s.known).filter(|k| k.buf == buf) {
            let part = k.terms.iter().all(|(a, c)| terms.get(a) == Some(c));
            if part && best.is_none_or(|b| k.terms.len() > b.terms.len()) {
                best = Some(k);
            }
        }
        best
    }
}

/// Whether an index register may be scaled by `bytes`.
fn scales(bytes: i64) -> bool {
    matches!(bytes, 1 | 2 | 4 | 8)
}

impl Select<'_> {
    /// The value of `e` if it is a constant, by way of variables or not.
    pub(super) fn constant_index(&mut self, e: &Expr) -> Option<i64> {
        let l = self.addresses.linear(e);
        l.terms.is_empty().then_some(l.base)
    }

    /// Element `index` of `buf` in memory.
    pub(super) fn address(&mut self, buf: Buf, index: &Expr) -> Mem {
        let linear = self.addresses.linear(index);
        let size = self.kernel.buffer(buf).dtype.size() as i64;
        let (mut base, scaled) = self.element(buf, &linear.terms);
        let bytes = linear.base.wrapping_mul(size);
        // Far from the ends of `i32`: the pieces of a wide access add to it.
        let disp = match i32::try_from(bytes) {
            Ok(b) if b.unsigned_abs() < 1 << 30 => b,
            _ => {
                let far = self.imm(bytes);
                base = self.alu(Alu::Add, 8, base, far);
                0
            }
        };
        Mem { base: Base::Reg(base), index: scaled, disp, broadcast: false }
    }

    /// The address of element `terms` of `buf`: a base and perhaps a scaled index.
    fn element(&mut self, buf: Buf, terms: &Terms) -> (VReg, Option<(VReg, u8)>) {
        let size = self.kernel.buffer(buf).dtype.size() as i64;
        let stable: Terms =
            terms.iter().filter(|(a, _)| self.addresses.is_stable(**a)).map(|(a, c)| (*a, *c)).collect();
        let rest: Vec<(Atom, i64)> =
            terms.iter().filter(|(a, _)| !stable.contains_key(a)).map(|(a, c)| (*a, *c)).collect();
        if rest.is_empty() {
            // All but one term known: that one may be the index.
            let known = self.addresses.nearest(buf, &stable).map(|k| (k.value, k.terms.clone()));
            let (base, done) = known.unwrap_or((self.buffers[buf.0 as usize], Terms::new()));
            let missing: Vec<(Atom, i64)> =
                stable.iter().filter(|(a, _)| !done.contains_key(a)).map(|(a, c)| (*a, *c)).collect();
            if let [(a @ Atom::Var(_), c)] = missing[..]
                && scales(c.wrapping_mul(size))
            {
                let v = self.atom(a);
                return (base, Some((v, (c * size) as u8)));
            }
            return (self.stable_element(buf, &stable), None);
        }
        let mut addr = self.stable_element(buf, &stable);
        for (i, (a, c)) in rest.iter().enumerate() {
            let bytes = c.wrapping_mul(size);
            if i + 1 == rest.len() && scales(bytes) {
                let v = self.atom(*a);
                return (addr, Some((v, bytes as u8)));
            }
            addr = self.advance(addr, *a, *c, buf);
        }
        (addr, None)
    }

    /// The address for terms that do not change: known, or computed from the nearest that is.
    fn stable_element(&mut self, buf: Buf, terms: &Terms) -> VReg {
        let known = self.addresses.nearest(buf, terms).map(|k| (k.value, k.terms.clone()));
        let (mut addr, done) = known.unwrap_or((self.buffers[buf.0 as usize], Terms::new()));
        if done.len() == terms.len() {
            return addr;
        }
        for (a, c) in terms.iter().filter(|(a, _)| !done.contains_key(a)) {
            addr = self.advance(addr, *a, *c, buf);
        }
        self.addresses.remember(buf, terms.clone(), addr);
        addr
    }

    /// `addr` plus `coefficient · atom` elements of `buf`.
    fn advance(&mut self, addr: VReg, atom: Atom, coefficient: i64, buf: Buf) -> VReg {
        let v = self.atom(atom);
        let bytes = coefficient.wrapping_mul(self.kernel.buffer(buf).dtype.size() as i64);
        if scales(bytes) {
            let d = self.gen_reg();
            let m = Mem { base: Base::Reg(addr), index: Some((v, bytes as u8)), disp: 0, broadcast: false };
            self.push(Op::Lea, [Arg::Def(d), Arg::Mem(m)]);
            return d;
        }
        let offset = self.scale(v, bytes);
        self.alu(Alu::Add, 8, offset, addr)
    }

    /// `v · by`
    fn scale(&mut self, v: VReg, by: i64) -> VReg {
        if by > 0 && by.count_ones() == 1 {
            self.shift_imm(Shift::Shl, 8, v, by.trailing_zeros())
        } else {
            self.alu_imm(Alu::Imul, 8, v, by)
        }
    }

    fn atom(&mut self, atom: Atom) -> VReg {
        let n = match atom {
            Atom::Var(v) => return self.index_expr(&Expr::Var(v)),
            Atom::Expr(n) => n,
        };
        let known = self.addresses.scopes.iter().rev().flat_map(|s| &s.values).find(|(a, _)| *a == atom);
        if let Some((_, v)) = known {
            return *v;
        }
        let e = self.addresses.exprs[n as usize].clone();
        let v = self.index_expr(&e);
        if self.addresses.is_stable(atom)
            && let Some(s) = self.addresses.scopes.last_mut()
        {
            s.values.push((atom, v));
        }
        v
    }

    /// An `i64` in a register.
    pub(super) fn index_expr(&mut self, e: &Expr) -> VReg {
        let v = self.expr(e);
        self.in_general(v.rows[0], 8, true)
    }

    /// Whether the atom can be computed here and does not change.
    fn is_available(&self, atom: Atom) -> bool {
        if !self.addresses.is_stable(atom) {
            return false;
        }
        match atom {
            Atom::Var(v) => self.vars[v.0 as usize].is_some(),
            Atom::Expr(n) => {
                let mut all = true;
                self.addresses.exprs[n as usize].visit(&mut |e| {
                    if let Expr::Var(v) = e {
                        all &= self.vars[v.0 as usize].is_some();
                    }
                });
                all
            }
        }
    }

    /// Computes, before the loop over `var`, what the addresses in `body` have in common with all iterations; in an
    /// innermost loop gives the pointers that advance with it.
    pub(super) fn loop_pointers(&mut self, var: Var, lo: Row, step: i64, body: &[Stmt]) -> Vec<LoopPointer> {
        let mut innermost = true;
        visit_stmts(body, &mut |s| innermost &= !matches!(s, Stmt::For { .. } | Stmt::While { .. }));
        let mut pointers: Vec<LoopPointer> = vec![];
        for (buf, terms) in self.accesses(body) {
            let here: Terms = terms.iter().filter(|(a, _)| self.is_available(**a)).map(|(a, c)| (*a, *c)).collect();
            let base = self.stable_element(buf, &here);
            let Some(&c) = terms.get(&Atom::Var(var)) else { continue };
            let bytes = c.wrapping_mul(self.kernel.buffer(buf).dtype.size() as i64);
            if !innermost || scales(bytes) || pointers.len() >= MAX_POINTERS {
                continue;
            }
            let mut with_var = here;
            with_var.insert(Atom::Var(var), c);
            if pointers.iter().any(|p| p.buf == buf && p.terms == with_var) {
                continue;
            }
            let first = match lo {
                Row::Imm(0) => base,
                Row::Imm(lo) => self.alu_imm(Alu::Add, 8, base, lo.wrapping_mul(bytes)),
                lo => {
                    let lo = self.in_general(lo, 8, true);
                    let at = self.scale(lo, bytes);
                    self.alu(Alu::Add, 8, at, base)
                }
            };
            pointers.push(LoopPointer { buf, terms: with_var, first, step: bytes.wrapping_mul(step) });
        }
        pointers
    }

    /// The distinct addresses, but for constants, that `body` accesses.
    fn accesses(&mut self, body: &[Stmt]) -> Vec<(Buf, Terms)> {
        let outside = self.addresses.lets.clone();
        let mut out = vec![];
        let kernel = self.kernel;
        // In text order, so that each access sees the `let`s before it; the same variable may be defined again later.
        visit_stmts(body, &mut |s| {
            let mut access = |buf: Buf, index: &Expr| {
                let access = (buf, self.addresses.linear(index).terms);
                if !out.contains(&access) {
                    out.push(access);
                }
            };
            s.exprs(&mut |e| {
                e.visit(&mut |e| {
                    if let Expr::Load { buf, index, .. } = e {
                        access(*buf, index);
                    }
                });
            });
            match s {
                Stmt::Store { buf, index, .. } => access(*buf, index),
                Stmt::Let { var, value } => self.addresses.define(*var, value, kernel),
                Stmt::For { var, .. } => self.addresses.define_opaque(*var),
                _ => {}
            }
        });
        self.addresses.lets = outside;
        out
    }
}

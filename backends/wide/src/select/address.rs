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
use tenon_kernel::codegen::address::{Atom, LoopPointer, Terms, is_innermost};
use tenon_kernel::{Buf, Expr, Stmt, Var};

/// Pointers of one loop that fit the general registers.
const MAX_POINTERS: usize = 7;

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
        if let Some(v) = self.addresses.value_of(atom) {
            return v;
        }
        let e = self.addresses.expr(n).clone();
        let v = self.index_expr(&e);
        self.addresses.remember_value(atom, v);
        v
    }

    /// An `i64` in a register.
    pub(super) fn index_expr(&mut self, e: &Expr) -> VReg {
        let v = self.expr(e);
        self.in_general(v.rows[0], 8, true)
    }

    /// Computes, before the loop over `var`, what the addresses in `body` have in common with all iterations; in an
    /// innermost loop gives the pointers that advance with it.
    pub(super) fn loop_pointers(&mut self, var: Var, lo: Row, step: i64, body: &[Stmt]) -> Vec<LoopPointer<VReg>> {
        let innermost = is_innermost(body);
        let mut pointers: Vec<LoopPointer<VReg>> = vec![];
        for (buf, terms) in self.addresses.accesses(body, self.kernel) {
            let defined = |v: Var| self.vars[v.0 as usize].is_some();
            let available = |a: Atom| self.addresses.is_available(a, &defined);
            let here: Terms = terms.iter().filter(|(a, _)| available(**a)).map(|(a, c)| (*a, *c)).collect();
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
}

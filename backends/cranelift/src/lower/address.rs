//! Addresses.
//!
//! An index is split into a constant, which becomes the displacement of the load, and terms `coefficient · atom`; an
//! atom is a variable, or a subexpression that is not affine. Accesses that differ by a constant only share one
//! address. Before a loop, the terms that do not change in it are summed once for each such address; in an innermost
//! loop the sum becomes a pointer that advances by a constant.

use super::Lower;
use cranelift_codegen::ir::{InstBuilder, Value, types};
use tenon_kernel::codegen::address::{Atom, LoopPointer, Terms, is_innermost};
use tenon_kernel::{BinOp, Buf, Expr, Stmt, Var};

impl Lower<'_> {
    /// The value of `e` if it is a constant, by way of variables or not.
    pub(super) fn constant_index(&mut self, e: &Expr) -> Option<i64> {
        let l = self.addresses.linear(e);
        l.terms.is_empty().then_some(l.base)
    }

    /// The address of element `index` of `buf`, and a displacement to add.
    pub(super) fn address(&mut self, buf: Buf, index: &Expr) -> (Value, i32) {
        let linear = self.addresses.linear(index);
        let addr = self.element(buf, &linear.terms);
        let bytes = linear.base.wrapping_mul(self.kernel.buffer(buf).dtype.size() as i64);
        // Far from the ends of `i32`: the pieces of a wide access add to it.
        match i32::try_from(bytes) {
            Ok(b) if b.unsigned_abs() < 1 << 30 => (addr, b),
            _ => {
                let far = self.iconst(types::I64, bytes);
                (self.ins().iadd(addr, far), 0)
            }
        }
    }

    /// The address of element `terms` of `buf`.
    fn element(&mut self, buf: Buf, terms: &Terms) -> Value {
        let stable: Terms =
            terms.iter().filter(|(a, _)| self.addresses.is_stable(**a)).map(|(a, c)| (*a, *c)).collect();
        let mut addr = self.stable_element(buf, &stable);
        for (a, c) in terms.iter().filter(|(a, _)| !stable.contains_key(a)) {
            addr = self.advance(addr, *a, *c, buf);
        }
        addr
    }

    /// The same for terms that do not change: known, or computed from the nearest that is.
    fn stable_element(&mut self, buf: Buf, terms: &Terms) -> Value {
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
    fn advance(&mut self, addr: Value, atom: Atom, coefficient: i64, buf: Buf) -> Value {
        let v = self.atom(atom);
        let bytes = coefficient.wrapping_mul(self.kernel.buffer(buf).dtype.size() as i64);
        let offset = self.scale(v, bytes);
        self.ins().iadd(addr, offset)
    }

    /// `v · by`
    fn scale(&mut self, v: Value, by: i64) -> Value {
        if by == 1 {
            v
        } else if by > 0 && by.count_ones() == 1 {
            self.shift(BinOp::Shl, false, v, by.trailing_zeros())
        } else {
            let by = self.iconst(types::I64, by);
            self.ins().imul(v, by)
        }
    }

    fn atom(&mut self, atom: Atom) -> Value {
        let n = match atom {
            Atom::Var(v) => return self.scalar_expr(&Expr::Var(v)),
            Atom::Expr(n) => n,
        };
        if let Some(v) = self.addresses.value_of(atom) {
            return v;
        }
        let e = self.addresses.expr(n).clone();
        let v = self.scalar_expr(&e);
        self.addresses.remember_value(atom, v);
        v
    }

    /// Computes, before the loop over `var`, what the addresses in `body` have in common with all iterations; in an
    /// innermost loop gives the pointers that advance with it.
    pub(super) fn loop_pointers(
        &mut self,
        var: Var,
        lo: Option<i64>,
        lo_value: Value,
        step: i64,
        body: &[Stmt],
    ) -> Vec<LoopPointer<Value>> {
        let innermost = is_innermost(body);
        let mut pointers: Vec<LoopPointer<Value>> = vec![];
        for (buf, terms) in self.addresses.accesses(body, self.kernel) {
            let defined = |v: Var| self.vars[v.0 as usize].is_some();
            let available = |a: Atom| self.addresses.is_available(a, &defined);
            let here: Terms = terms.iter().filter(|(a, _)| available(**a)).map(|(a, c)| (*a, *c)).collect();
            let base = self.stable_element(buf, &here);
            let Some(&c) = terms.get(&Atom::Var(var)) else { continue };
            if !innermost || pointers.len() >= self.machine.max_pointers {
                continue;
            }
            let mut with_var = here;
            with_var.insert(Atom::Var(var), c);
            if pointers.iter().any(|p| p.buf == buf && p.terms == with_var) {
                continue;
            }
            let bytes = c.wrapping_mul(self.kernel.buffer(buf).dtype.size() as i64);
            let first = match lo {
                Some(0) => base,
                Some(lo) => {
                    let at = self.iconst(types::I64, lo.wrapping_mul(bytes));
                    self.ins().iadd(base, at)
                }
                None => {
                    let at = self.scale(lo_value, bytes);
                    self.ins().iadd(base, at)
                }
            };
            pointers.push(LoopPointer { buf, terms: with_var, first, step: bytes.wrapping_mul(step) });
        }
        pointers
    }
}

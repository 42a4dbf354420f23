//! Statements.

use super::Select;
use super::value::{Binding, Row, Rows, Val, in_vector};
use crate::lir::{Alu, Arg, Cond, GENERAL, Op, VECTOR};
use regalloc2::{Block, VReg};
use smallvec::smallvec;
use tenon_base::DType;
use tenon_kernel::codegen::address::is_innermost;
use tenon_kernel::stmt::set_in;
use tenon_kernel::{CmpOp, Expr, Stmt, Var};

impl Select<'_> {
    /// The statements of a block, whose variables end with it.
    pub(super) fn block(&mut self, body: &[Stmt]) {
        let mut defined = vec![];
        self.addresses.enter();
        for s in body {
            if self.missing.is_some() {
                break;
            }
            self.stmt(s, &mut defined);
        }
        self.addresses.leave();
        for v in defined {
            self.vars[v.0 as usize] = None;
        }
    }

    fn stmt(&mut self, s: &Stmt, defined: &mut Vec<Var>) {
        match s {
            Stmt::Let { var, value } => {
                let val = self.expr(value);
                let val = self.settled(val);
                self.bind(*var, val);
                self.count_uses(*var, s);
                let kernel = self.kernel;
                self.addresses.define(*var, value, kernel);
                defined.push(*var);
            }
            Stmt::Declare { var, value } => {
                let mut val = self.settled_expr(value);
                if val.ty.lanes > 1 {
                    // Another value may follow that is not the same in all lanes.
                    val.splat = None;
                }
                self.bind(*var, val);
                self.count_uses(*var, s);
                defined.push(*var);
            }
            Stmt::Set { var, value } => {
                self.setting = Some(*var);
                let val = self.settled_expr(value);
                self.setting = None;
                let binding = self.vars[var.0 as usize].clone().expect("the verifier saw that it is in scope");
                // A mask keeps the width of its first value.
                let mut val = self.mask_to(&val, binding.val.lane);
                if val.ty.lanes > 1 {
                    val.splat = None;
                }
                self.vars[var.0 as usize] = Some(Binding { val, ..binding });
            }
            Stmt::Store { buf, index, value } => {
                let value = self.expr(value);
                let m = self.address(*buf, index);
                self.store(&value, m);
            }
            Stmt::Prefetch { buf, index } => {
                let m = self.address(*buf, index);
                self.push(Op::Prefetch, [Arg::Mem(m)]);
            }
            Stmt::For { var, lo, hi, step, body, .. } => self.for_loop(*var, lo, hi, *step, body),
            Stmt::If { cond, then, otherwise } => self.conditional(cond, then, otherwise),
            Stmt::While { cond, body } => self.while_loop(cond, body),
            Stmt::Contract(_) => self.unsupported("a contraction that is not scheduled"),
            Stmt::Tiles(t) => self.tiles(t),
        }
    }

    fn settled_expr(&mut self, e: &Expr) -> Val {
        let val = self.expr(e);
        self.settled(val)
    }

    /// `val` without operands in the kernel's memory, which may change.
    fn settled(&mut self, val: Val) -> Val {
        let mut rows: Rows = smallvec![];
        for (i, row) in val.rows.iter().enumerate() {
            let settled = match row {
                _ if i > 0 && val.rows[i - 1] == *row => rows[i - 1],
                Row::Mem(_) => Row::Reg(self.row_in_reg(&val, *row)),
                row => *row,
            };
            rows.push(settled);
        }
        let splat = match val.splat {
            Some(Row::Mem(_)) if val.is_scalar() => Some(rows[0]),
            Some(Row::Mem(_)) => None,
            s => s,
        };
        Val { rows, splat, ..val }
    }

    /// One row of `val` in a register of its class.
    fn row_in_reg(&mut self, val: &Val, row: Row) -> VReg {
        if val.is_scalar() && !in_vector(val.ty.elem) {
            self.in_general(row, val.ty.elem.size(), val.ty.elem.is_signed_int())
        } else {
            let w = self.width_of(val);
            self.in_reg(row, w, val.lane)
        }
    }

    fn bind(&mut self, var: Var, val: Val) {
        self.vars[var.0 as usize] = Some(Binding { val, depth: self.depth });
    }

    /// Notes how often the variable that `definition` defines will be read.
    fn count_uses(&mut self, var: Var, definition: &Stmt) {
        self.uses[var.0 as usize] = self.uses_of.get(&std::ptr::from_ref(definition)).copied().unwrap_or(u32::MAX);
    }

    pub(super) fn bind_index(&mut self, var: Var, v: Row) {
        self.bind(var, Val::scalar(DType::I64, v));
    }

    /// Variables in scope that `bodies` set.
    fn carried(&self, bodies: &[&[Stmt]]) -> Vec<Var> {
        let mut vars = std::collections::BTreeSet::new();
        bodies.iter().for_each(|b| vars.extend(set_in(b)));
        vars.into_iter().filter(|v| self.vars[v.0 as usize].is_some()).collect()
    }

    /// The registers of `vars`, one row after the other.
    fn rows_of(&mut self, vars: &[Var]) -> Vec<VReg> {
        let mut out = vec![];
        for v in vars {
            let val = self.vars[v.0 as usize].clone().expect("carried variables are in scope").val;
            for row in val.rows.clone() {
                out.push(self.row_in_reg(&val, row));
            }
        }
        out
    }

    /// Parameters of `block` for `vars`, which have their values from here on.
    fn parameters_for(&mut self, vars: &[Var], block: Block) {
        for v in vars {
            let mut binding = self.vars[v.0 as usize].clone().expect("carried variables are in scope");
            let scalar = binding.val.is_scalar();
            let class = if scalar && !in_vector(binding.val.ty.elem) { GENERAL } else { VECTOR };
            for row in &mut binding.val.rows {
                let p = self.func.reg(class);
                self.block_data(block).params.push(p);
                *row = Row::Reg(p);
            }
            binding.val.splat = scalar.then(|| binding.val.rows[0]);
            self.vars[v.0 as usize] = Some(binding);
        }
    }

    /// Ends the present block by `cond`.
    fn branch_on(&mut self, cond: &Expr, yes: Block, no: Block) {
        if let Expr::Compare(op, xy) = cond {
            let elem = self.kernel.type_of(&xy[0]).elem;
            if !elem.is_float() {
                let (x, y) = (self.expr(&xy[0]).rows[0], self.expr(&xy[1]).rows[0]);
                self.branch_compare(*op, elem, x, y, yes, no);
                return;
            }
        }
        let c = self.expr(cond).rows[0];
        let c = self.in_general(c, 1, false);
        self.branch(Cond::Ne, 4, (c, Arg::Imm(0)), yes, no);
    }

    fn branch_compare(&mut self, op: CmpOp, elem: DType, x: Row, y: Row, yes: Block, no: Block) {
        let size = if elem.size() == 8 { 8 } else { 4 };
        let signed = elem.is_signed_int();
        let a = self.in_general(x, elem.size(), signed);
        let b = self.compared(y, size, elem.size(), signed);
        self.branch(super::integer::condition(op, signed), size, (a, b), yes, no);
    }

    fn conditional(&mut self, cond: &Expr, then: &[Stmt], otherwise: &[Stmt]) {
        let (yes, no, end) = (self.new_block(), self.new_block(), self.new_block());
        self.branch_on(cond, yes, no);
        let vars = self.carried(&[then, otherwise]);
        let before: Vec<_> = vars.iter().map(|v| self.vars[v.0 as usize].clone()).collect();
        for (block, body) in [(yes, then), (no, otherwise)] {
            for (v, b) in vars.iter().zip(&before) {
                self.vars[v.0 as usize].clone_from(b);
            }
            self.place(block);
            self.depth += 1;
            self.block(body);
            self.depth -= 1;
            let args = self.rows_of(&vars);
            self.jump(end, args);
        }
        self.place(end);
        self.parameters_for(&vars, end);
    }

    fn while_loop(&mut self, cond: &Expr, body: &[Stmt]) {
        let (head, inside, end) = (self.new_block(), self.new_block(), self.new_block());
        let vars = self.carried(&[body]);
        let args = self.rows_of(&vars);
        self.jump(head, args);
        self.place(head);
        self.parameters_for(&vars, head);
        self.depth += 1;
        self.addresses.enter();
        self.branch_on(cond, inside, end);
        let after: Vec<_> = vars.iter().map(|v| self.vars[v.0 as usize].clone()).collect();
        self.place(inside);
        self.block(body);
        let args = self.rows_of(&vars);
        self.jump(head, args);
        self.addresses.leave();
        self.depth -= 1;
        self.place(end);
        for (v, b) in vars.iter().zip(after) {
            self.vars[v.0 as usize] = b;
        }
    }

    fn for_loop(&mut self, var: Var, lo: &Expr, hi: &Expr, step: i64, body: &[Stmt]) {
        let bounds = (self.constant_index(lo), self.constant_index(hi));
        let nonempty = match bounds {
            (Some(lo), Some(hi)) if lo >= hi => return,
            (Some(lo), Some(hi)) if hi.saturating_sub(lo) <= step => {
                // One iteration: its variable is a constant.
                self.addresses.define_constant(var, lo);
                self.bind_index(var, Row::Imm(lo));
                self.block(body);
                self.addresses.define_opaque(var);
                self.vars[var.0 as usize] = None;
                return;
            }
            (Some(_), Some(_)) => true,
            _ => false,
        };
        let of = |s: &mut Self, known: Option<i64>, e: &Expr| match known {
            Some(v) => Row::Imm(v),
            None => Row::Reg(s.index_expr(e)),
        };
        let lo_row = of(self, bounds.0, lo);
        let hi_row = of(self, bounds.1, hi);
        self.addresses.enter();
        self.addresses.define_opaque(var);
        let pointers = self.loop_pointers(var, lo_row, step, body);
        let vars = self.carried(&[body]);

        let (head, end) = (self.new_block(), self.new_block());
        let mut first = self.rows_of(&vars);
        let before = first.clone();
        first.extend(pointers.iter().map(|p| p.first));
        let lo_reg = self.in_general(lo_row, 8, true);
        first.push(lo_reg);
        if nonempty {
            self.jump(head, first);
        } else {
            let (enter, skip) = (self.new_block(), self.new_block());
            let hi = self.compared(hi_row, 8, 8, true);
            self.branch(Cond::L, 8, (lo_reg, hi), enter, skip);
            self.place(skip);
            self.jump(end, before);
            self.place(enter);
            self.jump(head, first);
        }

        self.place(head);
        self.block_data(head).hot = is_innermost(body);
        self.parameters_for(&vars, head);
        self.depth += 1;
        self.addresses.enter();
        let mut params = vec![];
        for p in &pointers {
            let param = self.gen_reg();
            self.block_data(head).params.push(param);
            self.addresses.remember(p.buf, p.terms.clone(), param);
            params.push(param);
        }
        let v = self.gen_reg();
        self.block_data(head).params.push(v);
        self.bind_index(var, Row::Reg(v));
        self.block(body);
        self.addresses.leave();
        self.vars[var.0 as usize] = None;
        self.depth -= 1;

        let args = self.rows_of(&vars);
        let mut next = args.clone();
        for (p, param) in pointers.iter().zip(&params) {
            next.push(self.advanced(*param, p.step));
        }
        let more = self.advanced(v, step);
        next.push(more);
        let hi = self.compared(hi_row, 8, 8, true);
        let (back, leave) = (self.new_block(), self.new_block());
        self.branch(Cond::L, 8, (more, hi), back, leave);
        self.place(back);
        self.jump(head, next);
        self.place(leave);
        if nonempty {
            self.jump(end, vec![]);
            self.place(end);
        } else {
            self.jump(end, args);
            self.place(end);
            self.parameters_for(&vars, end);
        }
        self.addresses.leave();
    }

    /// `v + by` in the register of `v`.
    fn advanced(&mut self, v: VReg, by: i64) -> VReg {
        match i32::try_from(by) {
            Ok(_) => {
                let d = self.gen_reg();
                self.push(crate::lir::Op::Alu(Alu::Add, 8), [Arg::Mod(d, v), Arg::Imm(by)]);
                d
            }
            Err(_) => self.alu_imm(Alu::Add, 8, v, by),
        }
    }
}

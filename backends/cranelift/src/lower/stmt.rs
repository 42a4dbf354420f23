//! Statements.

use super::Lower;
use super::value::{Binding, Val};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{BlockArg, InstBuilder, Value, types};
use tenon_base::DType;
use tenon_kernel::{Expr, Stmt, Type, Var};

impl Lower<'_> {
    /// The statements of a block, whose variables end with it.
    pub(super) fn block(&mut self, body: &[Stmt]) {
        let mut defined = vec![];
        self.addresses.enter();
        for s in body {
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
                self.bind(*var, val, vec![]);
                self.count_uses(*var, s);
                let kernel = self.kernel;
                self.addresses.define(*var, value, kernel);
                defined.push(*var);
            }
            Stmt::Declare { var, value } => {
                let val = self.expr(value);
                let reg_ty = self.reg_type(val.ty, val.lane);
                let cells = val
                    .regs
                    .iter()
                    .map(|r| {
                        let cell = self.b.declare_var(reg_ty);
                        self.b.def_var(cell, *r);
                        cell
                    })
                    .collect();
                self.bind(*var, val, cells);
                self.count_uses(*var, s);
                defined.push(*var);
            }
            Stmt::Set { var, value } => {
                let val = self.expr(value);
                let binding = self.vars[var.0 as usize].clone().expect("the verifier saw that it is in scope");
                // A mask keeps the width of its first value.
                let val = self.mask_to(&val, binding.val.lane);
                for (cell, reg) in binding.cells.iter().zip(&val.regs) {
                    self.b.def_var(*cell, *reg);
                }
            }
            Stmt::Store { buf, index, value } => {
                let value = self.expr(value);
                let (addr, offset) = self.address(*buf, index);
                self.store_val(*buf, &value, addr, offset);
            }
            // Cranelift has no instruction for it.
            Stmt::Prefetch { .. } => {}
            Stmt::For { var, lo, hi, step, body, .. } => self.for_loop(*var, lo, hi, *step, body),
            Stmt::If { cond, then, otherwise } => self.branch(cond, then, otherwise),
            Stmt::While { cond, body } => self.while_loop(cond, body),
            Stmt::Contract(_) => unreachable!("checked before lowering: the kernel is scheduled"),
            Stmt::Tiles(_) => unreachable!("made loops of before lowering"),
        }
    }

    fn bind(&mut self, var: Var, val: Val, cells: Vec<cranelift_frontend::Variable>) {
        self.vars[var.0 as usize] = Some(Binding { val, cells, depth: self.depth });
    }

    /// Notes how often the variable that `definition` defines will be read.
    fn count_uses(&mut self, var: Var, definition: &Stmt) {
        self.uses[var.0 as usize] = self.uses_of.get(&std::ptr::from_ref(definition)).copied().unwrap_or(u32::MAX);
    }

    pub(super) fn bind_index(&mut self, var: Var, v: Value) {
        let val = Val { ty: Type::INDEX, lane: DType::I64.size(), regs: vec![v], splat: Some(v) };
        self.bind(var, val, vec![]);
    }

    fn branch(&mut self, cond: &Expr, then: &[Stmt], otherwise: &[Stmt]) {
        let cond = self.scalar_expr(cond);
        let (yes, no, end) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.ins().brif(cond, yes, &[], no, &[]);
        for (block, body) in [(yes, then), (no, otherwise)] {
            self.b.switch_to_block(block);
            self.b.seal_block(block);
            self.block(body);
            self.ins().jump(end, &[]);
        }
        self.b.switch_to_block(end);
        self.b.seal_block(end);
    }

    fn while_loop(&mut self, cond: &Expr, body: &[Stmt]) {
        let (head, inside, end) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.ins().jump(head, &[]);
        self.b.switch_to_block(head);
        self.depth += 1;
        self.addresses.enter();
        let cond = self.scalar_expr(cond);
        self.ins().brif(cond, inside, &[], end, &[]);
        self.b.switch_to_block(inside);
        self.b.seal_block(inside);
        self.block(body);
        self.ins().jump(head, &[]);
        self.addresses.leave();
        self.depth -= 1;
        self.b.seal_block(head);
        self.b.switch_to_block(end);
        self.b.seal_block(end);
    }

    fn for_loop(&mut self, var: Var, lo: &Expr, hi: &Expr, step: i64, body: &[Stmt]) {
        let bounds = (self.constant_index(lo), self.constant_index(hi));
        let nonempty = match bounds {
            (Some(lo), Some(hi)) if lo >= hi => return,
            (Some(lo), Some(hi)) if hi.saturating_sub(lo) <= step => {
                // One iteration: its variable is a constant.
                let v = self.iconst(types::I64, lo);
                self.addresses.define_constant(var, lo);
                self.bind_index(var, v);
                self.block(body);
                self.addresses.define_opaque(var);
                self.vars[var.0 as usize] = None;
                return;
            }
            (Some(_), Some(_)) => true,
            _ => false,
        };
        let lo_value = self.scalar_expr(lo);
        let hi_value = self.scalar_expr(hi);
        self.addresses.enter();
        self.addresses.define_opaque(var);
        let pointers = self.loop_pointers(var, bounds.0, lo_value, step, body);

        let (head, end) = (self.b.create_block(), self.b.create_block());
        let v = self.b.append_block_param(head, types::I64);
        let mut first = vec![BlockArg::Value(lo_value)];
        let mut params = vec![];
        for p in &pointers {
            first.push(BlockArg::Value(p.first));
            params.push(self.b.append_block_param(head, types::I64));
        }
        if nonempty {
            self.ins().jump(head, &first);
        } else {
            let runs = self.ins().icmp(IntCC::SignedLessThan, lo_value, hi_value);
            self.ins().brif(runs, head, &first, end, &[]);
        }

        self.b.switch_to_block(head);
        self.depth += 1;
        self.addresses.enter();
        self.bind_index(var, v);
        for (p, param) in pointers.iter().zip(&params) {
            self.addresses.remember(p.buf, p.terms.clone(), *param);
        }
        self.block(body);
        self.addresses.leave();
        self.vars[var.0 as usize] = None;
        self.depth -= 1;

        let mut next = vec![];
        for (p, param) in pointers.iter().zip(&params) {
            let by = self.iconst(types::I64, p.step);
            next.push(BlockArg::Value(self.ins().iadd(*param, by)));
        }
        let by = self.iconst(types::I64, step);
        let v = self.ins().iadd(v, by);
        next.insert(0, BlockArg::Value(v));
        let more = match bounds.1 {
            Some(hi) => {
                let hi = self.iconst(types::I64, hi);
                self.ins().icmp(IntCC::SignedLessThan, v, hi)
            }
            None => self.ins().icmp(IntCC::SignedLessThan, v, hi_value),
        };
        self.ins().brif(more, head, &next, end, &[]);
        self.b.seal_block(head);
        self.b.switch_to_block(end);
        self.b.seal_block(end);
        self.addresses.leave();
    }
}

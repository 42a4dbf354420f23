//! Expressions.

use super::Lower;
use super::value::Val;
use cranelift_codegen::ir::Value;
use tenon_base::{DType, Scalar};
use tenon_kernel::{BinOp, Expr, Type, Var};

impl Lower<'_> {
    /// The value of `e`. Operands are evaluated in order, left to right.
    pub(super) fn expr(&mut self, e: &Expr) -> Val {
        match e {
            Expr::Const(s) => {
                let v = self.constant(*s);
                self.scalar(s.dtype(), v)
            }
            Expr::Var(v) => self.read(*v),
            Expr::Load { buf, index, lanes } => {
                let (addr, offset) = self.address(*buf, index);
                self.load_val(*buf, *lanes, addr, offset)
            }
            Expr::Unary(op, x) => {
                let x = self.expr(x);
                self.unary(*op, &x)
            }
            Expr::Binary(op @ (BinOp::Div | BinOp::Rem), xy) if xy[1].as_int().is_some() && self.is_index(&xy[0]) => {
                let x = self.expr(&xy[0]).regs[0];
                let q = self.divide_const(*op, x, xy[1].as_int().unwrap_or(1));
                self.scalar(DType::I64, q)
            }
            Expr::Binary(op, xy) => {
                let (x, y) = (self.expr(&xy[0]), self.expr(&xy[1]));
                self.binary(*op, &x, &y)
            }
            Expr::Compare(op, xy) => {
                let (x, y) = (self.expr(&xy[0]), self.expr(&xy[1]));
                self.compare(*op, &x, &y)
            }
            Expr::Select(mxy) => {
                let m = self.expr(&mxy[0]);
                let (x, y) = (self.expr(&mxy[1]), self.expr(&mxy[2]));
                self.select(&m, &x, &y)
            }
            Expr::Fma(xyz) => {
                let [x, y, z] = [0, 1, 2].map(|i| self.expr(&xyz[i]));
                let free = [self.is_free(&xyz[0]), self.is_free(&xyz[1])];
                self.fma(&x, &y, &z, free)
            }
            Expr::Dot(xyz) => {
                let [x, y, z] = [0, 1, 2].map(|i| self.expr(&xyz[i]));
                self.dot(&x, &y, &z)
            }
            Expr::ToBf16(x) => {
                let x = self.expr(x);
                self.rounded_bf16(&x)
            }
            Expr::Cast(to, x) => {
                let x = self.expr(x);
                self.cast(&x, *to)
            }
            Expr::Bitcast(to, x) => {
                let x = self.expr(x);
                self.bitcast(&x, *to)
            }
            Expr::Splat(n, x) => self.splat_expr(*n, x),
            Expr::Lanes(es) => self.lanes(es),
            Expr::Extract(x, i) => {
                let x = self.expr(x);
                let v = self.extract(&x, *i);
                self.scalar(x.ty.elem, v)
            }
            Expr::Reduce(op, x) => {
                let x = self.expr(x);
                self.reduce(*op, &x)
            }
            Expr::Math(..) => unreachable!("checked before lowering: the kernel is scheduled"),
        }
    }

    /// Whether `e` is an `i64` scalar.
    fn is_index(&self, e: &Expr) -> bool {
        self.kernel.type_of(e) == Type::INDEX
    }

    /// The scalar value of `e`.
    pub(super) fn scalar_expr(&mut self, e: &Expr) -> Value {
        self.expr(e).regs[0]
    }

    /// The present value of a variable.
    fn read(&mut self, v: Var) -> Val {
        let uses = &mut self.uses[v.0 as usize];
        *uses = uses.saturating_sub(1);
        let binding = self.vars[v.0 as usize].clone().expect("the verifier saw that it is in scope");
        if binding.cells.is_empty() {
            return binding.val;
        }
        let regs: Vec<Value> = binding.cells.iter().map(|c| self.b.use_var(*c)).collect();
        let splat = (binding.val.ty.lanes == 1).then(|| regs[0]);
        Val { regs, splat, ..binding.val }
    }

    /// Whether nothing later reads the register of `e`, which was just lowered.
    fn is_free(&self, e: &Expr) -> bool {
        match e {
            Expr::Var(v) => {
                let here = self.vars[v.0 as usize].as_ref().is_some_and(|b| b.depth == self.depth);
                here && self.uses[v.0 as usize] == 0
            }
            _ => true,
        }
    }

    fn splat_expr(&mut self, n: u16, x: &Expr) -> Val {
        if let Expr::Const(s) = x
            && s.dtype() != DType::Bool
        {
            let ty = Type::vector(s.dtype(), n);
            if !self.in_scalars(ty) {
                // Straight from the constant pool.
                let size = s.dtype().size();
                let reg_ty = self.reg_type(ty, size);
                let reg = self.vconst(reg_ty, &s.to_le_bytes());
                let scalar = self.constant(*s);
                return Val { ty, lane: size, regs: vec![reg; self.registers(n, size)], splat: Some(scalar) };
            }
        }
        if self.kernel.type_of(x).lanes > 1 {
            return self.repeat_expr(n, x);
        }
        let x = self.expr(x);
        self.splat(x.ty.elem, x.regs[0], n, x.ty.elem.size())
    }

    fn lanes(&mut self, es: &[Expr]) -> Val {
        if let [one] = es {
            return self.expr(one);
        }
        if let Some(v) = self.constant_lanes(es) {
            return v;
        }
        if let Some(v) = self.words_of_two(es) {
            return v;
        }
        let lanes: Vec<Value> = es.iter().map(|e| self.scalar_expr(e)).collect();
        let elem = self.kernel.type_of(&es[0]).elem;
        self.pack(elem, &lanes)
    }

    /// Lanes of two variables, all of four words each, by one shuffle.
    fn words_of_two(&mut self, es: &[Expr]) -> Option<Val> {
        let all = es.iter().map(Expr::as_lane).collect::<Option<Vec<_>>>()?;
        let (a, ty) = (all[0].0, self.kernel.var(all[0].0).ty);
        let b = all.iter().map(|(v, _)| *v).find(|v| *v != a)?;
        let words = ty.lanes == 4 && es.len() == 4 && ty.elem.size() == 4 && self.machine.shuffles;
        if !words || self.kernel.var(b).ty != ty || all.iter().any(|(v, _)| *v != a && *v != b) {
            return None;
        }
        let mut mask = [0; 16];
        for (i, m) in mask.iter_mut().enumerate() {
            let (v, lane) = all[i / 4];
            *m = if v == a { 0 } else { 16 } + 4 * lane as u8 + (i % 4) as u8;
        }
        let [x, y] = [a, b].map(|v| self.read(v));
        all.iter().skip(2).for_each(|(v, _)| drop(self.read(*v)));
        let v = self.shuffle(x.regs[0], y.regs[0], mask);
        let reg = self.bits_as(self.reg_type(ty, 4), v);
        Some(Val { ty, lane: 4, regs: vec![reg], splat: None })
    }

    /// A vector of constants, from the constant pool.
    fn constant_lanes(&mut self, es: &[Expr]) -> Option<Val> {
        let scalars: Option<Vec<Scalar>> =
            es.iter().map(|e| if let Expr::Const(s) = e { Some(*s) } else { None }).collect();
        let scalars = scalars?;
        let elem = scalars[0].dtype();
        let ty = Type::vector(elem, scalars.len() as u16);
        if self.in_scalars(ty) || elem == DType::Bool {
            return None;
        }
        let reg_ty = self.reg_type(ty, elem.size());
        let regs = scalars
            .chunks(self.machine.per_register(elem.size()))
            .map(|chunk| {
                let mut bytes: Vec<u8> = chunk.iter().flat_map(|s| s.to_le_bytes()).collect();
                bytes.resize(16, 0);
                self.vconst(reg_ty, &bytes)
            })
            .collect();
        Some(self.val(ty, regs))
    }
}

//! From a kernel to flat code over one register file.

use super::contract::ContractNode;
use super::tiles::TilesNode;
use super::value::{self, LaneFn, Lanewise, Operands};
use super::{InterpError, Options, flush};
use crate::{Access, BinOp, Buf, Expr, Kernel, Stmt, Type, Var};
use std::collections::BTreeMap;
use std::ops::Range;
use tenon_base::DType;

/// One instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instr {
    pub(super) op: Op,
    pub(super) o: Operands,
}

/// What an instruction does with its operands.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    /// Lanes from lanes.
    Map(Lanewise),
    /// A conversion of each lane.
    Cast(LaneFn),
    /// `n` elements of a buffer from the index in register `a`.
    Load(Buf),
}

/// Instructions to run, as a range of [`Code::instrs`].
pub(super) type Span = Range<usize>;

/// A compiled statement. Registers named here are read after the span before them has run.
#[derive(Debug)]
pub(super) enum Node {
    Eval(Span),
    Store { code: Span, buf: Buf, index: usize, value: usize, lanes: usize },
    For { code: Span, lo: usize, hi: usize, step: i64, var: usize, body: Vec<Node> },
    If { code: Span, cond: usize, then: Vec<Node>, otherwise: Vec<Node> },
    While { code: Span, cond: usize, body: Vec<Node> },
    Contract(Box<ContractNode>),
    Tiles(Box<TilesNode>),
}

/// A compiled kernel.
#[derive(Debug)]
pub(super) struct Code {
    pub(super) instrs: Vec<Instr>,
    pub(super) body: Vec<Node>,
    /// Registers that hold constants.
    pub(super) consts: Vec<(usize, u64)>,
    /// Size of the register file.
    pub(super) registers: usize,
    /// The register of the part that runs, and how many there are.
    pub(super) parts: Option<(usize, usize)>,
}

/// Compiles `kernel`.
pub(super) fn compile(kernel: &Kernel, options: &Options) -> Result<Code, InterpError> {
    let mut registers = 0;
    let vars = kernel
        .vars
        .iter()
        .map(|v| {
            registers += usize::from(v.ty.lanes);
            registers - usize::from(v.ty.lanes)
        })
        .collect();
    let mut c = Compiler {
        kernel,
        fused: options.fused_multiply_add,
        flush: options.flush_to_zero,
        vars,
        instrs: vec![],
        consts: BTreeMap::new(),
        registers,
    };
    let body = c.block(&kernel.body)?;
    let parts = kernel.parts.map(|p| Ok((c.var(p.var)?.0, p.count))).transpose()?;
    let consts = c.consts.into_iter().map(|((bits, _), reg)| (reg, bits)).collect();
    Ok(Code { instrs: c.instrs, body, consts, registers: c.registers, parts })
}

pub(super) struct Compiler<'k> {
    pub(super) kernel: &'k Kernel,
    fused: bool,
    flush: bool,
    /// First register of each variable.
    vars: Vec<usize>,
    instrs: Vec<Instr>,
    /// Registers of constants, by bits and dtype.
    consts: BTreeMap<(u64, DType), usize>,
    registers: usize,
}

impl Compiler<'_> {
    pub(super) fn malformed<T>(&self, message: impl Into<String>) -> Result<T, InterpError> {
        Err(InterpError::Malformed { kernel: self.kernel.name.clone(), message: message.into() })
    }

    fn alloc(&mut self, lanes: u16) -> usize {
        self.registers += usize::from(lanes);
        self.registers - usize::from(lanes)
    }

    pub(super) fn var(&self, v: Var) -> Result<(usize, Type), InterpError> {
        match self.vars.get(v.0 as usize) {
            Some(&reg) => Ok((reg, self.kernel.var(v).ty)),
            None => self.malformed(format!("there is no variable {}", v.0)),
        }
    }

    pub(super) fn buffer(&self, b: Buf) -> Result<(DType, Access), InterpError> {
        match self.kernel.buffers.get(b.0 as usize) {
            Some(decl) => Ok((decl.dtype, decl.access)),
            None => self.malformed(format!("there is no buffer {}", b.0)),
        }
    }

    /// Appends an instruction and gives its result's first register.
    fn emit(&mut self, op: Op, lanes: u16, a: usize, b: usize, c: usize) -> usize {
        let d = self.alloc(lanes);
        self.instrs.push(Instr { op, o: Operands { d, a, b, c, n: usize::from(lanes) } });
        d
    }

    fn map(
        &mut self,
        f: Option<Lanewise>,
        ty: Type,
        what: &str,
        a: usize,
        b: usize,
        c: usize,
    ) -> Result<usize, InterpError> {
        match f {
            Some(f) => Ok(self.emit(Op::Map(f), ty.lanes, a, b, c)),
            None => self.malformed(format!("{what} is not defined for {}", ty.elem)),
        }
    }

    /// Several operands of one type.
    fn same<const N: usize>(&mut self, what: &str, es: [&Expr; N]) -> Result<([usize; N], Type), InterpError> {
        let mut regs = [0; N];
        let mut first = None;
        for (r, e) in regs.iter_mut().zip(es) {
            let (reg, ty) = self.expr(e)?;
            *r = reg;
            if *first.get_or_insert(ty) != ty {
                return self.malformed(format!("the operands of {what} differ in type"));
            }
        }
        match first {
            Some(ty) => Ok((regs, ty)),
            None => self.malformed(format!("{what} has no operands")),
        }
    }

    pub(super) fn scalar(&mut self, e: &Expr, elem: DType, what: &str) -> Result<usize, InterpError> {
        match self.expr(e)? {
            (reg, ty) if ty == Type::scalar(elem) => Ok(reg),
            _ => self.malformed(format!("{what} is not a scalar {elem}")),
        }
    }

    /// Code for `e`: its first register and its type.
    fn expr(&mut self, e: &Expr) -> Result<(usize, Type), InterpError> {
        Ok(match e {
            Expr::Const(s) => {
                let (bits, next) = (value::of_scalar(*s), self.registers);
                let reg = *self.consts.entry((bits, s.dtype())).or_insert(next);
                if reg == next {
                    self.registers += 1;
                }
                (reg, Type::scalar(s.dtype()))
            }
            Expr::Var(v) => self.var(*v)?,
            Expr::Load { buf, index, lanes } => {
                let index = self.scalar(index, DType::I64, "an index")?;
                let (elem, _) = self.buffer(*buf)?;
                (self.emit(Op::Load(*buf), *lanes, index, 0, 0), Type::vector(elem, *lanes))
            }
            Expr::Unary(op, x) => {
                let (a, ty) = self.expr(x)?;
                (self.map(value::unary(*op, ty.elem), ty, &format!("{op:?}"), a, 0, 0)?, ty)
            }
            Expr::Binary(op, xy) => {
                let ([a, b], ty) = self.same(&format!("{op:?}"), [&xy[0], &xy[1]])?;
                (self.map(self.binary(*op, ty.elem), ty, &format!("{op:?}"), a, b, 0)?, ty)
            }
            Expr::Compare(op, xy) => {
                let ([a, b], ty) = self.same(&format!("{op:?}"), [&xy[0], &xy[1]])?;
                let r = self.map(value::compare(*op, ty.elem), ty, &format!("{op:?}"), a, b, 0)?;
                (r, Type::vector(DType::Bool, ty.lanes))
            }
            Expr::Select(mxy) => {
                let (m, mask) = self.expr(&mxy[0])?;
                let ([a, b], ty) = self.same("select", [&mxy[1], &mxy[2]])?;
                if mask != Type::vector(DType::Bool, ty.lanes) {
                    return self.malformed("the mask of select is not bool or has other lanes");
                }
                (self.map(Some(value::select), ty, "select", m, a, b)?, ty)
            }
            Expr::Fma(xyz) => {
                let ([a, b, c], ty) = self.same("fma", [&xyz[0], &xyz[1], &xyz[2]])?;
                let flushing = self.flush.then(|| flush::fma(ty.elem, self.fused)).flatten();
                (self.map(flushing.or_else(|| value::fma(ty.elem, self.fused)), ty, "fma", a, b, c)?, ty)
            }
            Expr::Dot(xyz) => {
                let [(a, x), (b, y), (c, sum)] = [self.expr(&xyz[0])?, self.expr(&xyz[1])?, self.expr(&xyz[2])?];
                let lanes = crate::verify::dot_group(x.elem, y.elem).and_then(|g| sum.lanes.checked_mul(g));
                if x.lanes != y.lanes || lanes != Some(x.lanes) || sum.elem != crate::verify::dot_sum(x.elem) {
                    return self.malformed("the operands of dot do not fit each other");
                }
                (self.map(value::dot(x.elem, y.elem), sum, "dot", a, b, c)?, sum)
            }
            Expr::ToBf16(x) => {
                let (a, ty) = self.expr(x)?;
                if ty.elem != DType::F32 {
                    return self.malformed("to_bf16 of what is not f32");
                }
                let round = |x: u64| u64::from(crate::bf16::round(f32::from_bits(x as u32)));
                (self.emit(Op::Cast(round), ty.lanes, a, 0, 0), Type::vector(DType::U16, ty.lanes))
            }
            Expr::Cast(to, x) => {
                let (a, ty) = self.expr(x)?;
                let flushing = self.flush.then(|| flush::cast(ty.elem, *to)).flatten();
                let cast = flushing.unwrap_or_else(|| value::cast(ty.elem, *to));
                let r = self.emit(Op::Cast(cast), ty.lanes, a, 0, 0);
                (r, Type::vector(*to, ty.lanes))
            }
            Expr::Bitcast(to, x) => {
                let (a, ty) = self.expr(x)?;
                if to.size() != ty.elem.size() || *to == DType::Bool || ty.elem == DType::Bool {
                    return self.malformed(format!("bitcast from {} to {to}", ty.elem));
                }
                (a, Type::vector(*to, ty.lanes))
            }
            Expr::Splat(n, x) => {
                let (a, ty) = self.expr(x)?;
                if !n.is_multiple_of(ty.lanes) {
                    return self.malformed("splat to lanes that are no multiple of the operand's");
                }
                let period = usize::from(ty.lanes);
                let ty = Type::vector(ty.elem, *n);
                (self.map(Some(value::splat), ty, "splat", a, 0, period)?, ty)
            }
            Expr::Lanes(es) => {
                let lanes = u16::try_from(es.len()).unwrap_or(0);
                let mut ty = None;
                let regs = es
                    .iter()
                    .map(|e| {
                        let (reg, t) = self.expr(e)?;
                        if t.lanes != 1 || *ty.get_or_insert(t) != t {
                            return self.malformed("the lanes of a vector are not scalars of one type");
                        }
                        Ok(reg)
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                let Some(ty) = ty.filter(|_| lanes > 0) else {
                    return self.malformed("a vector of no lanes, or of too many");
                };
                let d = self.alloc(lanes);
                for (k, a) in regs.into_iter().enumerate() {
                    self.instrs.push(Instr {
                        op: Op::Map(value::copy),
                        o: Operands { d: d + k, a, n: 1, ..Operands::default() },
                    });
                }
                (d, Type::vector(ty.elem, lanes))
            }
            Expr::Extract(x, lane) => {
                let (a, ty) = self.expr(x)?;
                if *lane >= ty.lanes {
                    return self.malformed(format!("lane {lane} of a vector of {}", ty.lanes));
                }
                (a + usize::from(*lane), Type::scalar(ty.elem))
            }
            Expr::Reduce(op, x) => self.reduce(*op, x)?,
            Expr::Math(f, xs) => {
                let ([a, b], ty) = match xs.as_slice() {
                    [x] => {
                        let (a, ty) = self.expr(x)?;
                        ([a, a], ty)
                    }
                    [x, y] => self.same(&format!("{f:?}"), [x, y])?,
                    _ => return self.malformed(format!("{f:?} has {} operands", xs.len())),
                };
                (self.map(value::math(*f, ty.elem), ty, &format!("{f:?}"), a, b, 0)?, ty)
            }
        })
    }

    /// `op` on lanes of `dtype`.
    fn binary(&self, op: BinOp, dtype: DType) -> Option<Lanewise> {
        let flushing = self.flush.then(|| flush::binary(op, dtype)).flatten();
        flushing.or_else(|| value::binary(op, dtype))
    }

    /// A fold of the lanes by halving.
    fn reduce(&mut self, op: BinOp, x: &Expr) -> Result<(usize, Type), InterpError> {
        let (mut a, ty) = self.expr(x)?;
        if !ty.lanes.is_power_of_two() {
            return self.malformed(format!("a reduction of {} lanes, which is not a power of two", ty.lanes));
        }
        let mut half = ty.lanes / 2;
        while half > 0 {
            let f = self.binary(op, ty.elem);
            a = self.map(f, Type::vector(ty.elem, half), &format!("{op:?}"), a, a + usize::from(half), 0)?;
            half /= 2;
        }
        Ok((a, Type::scalar(ty.elem)))
    }

    /// Code for the expressions `f` compiles.
    pub(super) fn span<T>(
        &mut self,
        f: impl FnOnce(&mut Self) -> Result<T, InterpError>,
    ) -> Result<(Span, T), InterpError> {
        let start = self.instrs.len();
        let r = f(self)?;
        Ok((start..self.instrs.len(), r))
    }

    fn block(&mut self, body: &[Stmt]) -> Result<Vec<Node>, InterpError> {
        body.iter().map(|s| self.stmt(s)).collect()
    }

    fn stmt(&mut self, s: &Stmt) -> Result<Node, InterpError> {
        Ok(match s {
            Stmt::Let { var, value } | Stmt::Declare { var, value } | Stmt::Set { var, value } => {
                let (d, declared) = self.var(*var)?;
                let start = self.instrs.len();
                let (code, ()) = self.span(|c| {
                    let (a, ty) = c.expr(value)?;
                    if ty != declared {
                        return c.malformed(format!("%{} is given a value of another type", c.kernel.var(*var).name));
                    }
                    c.give(d, a, usize::from(ty.lanes), start);
                    Ok(())
                })?;
                Node::Eval(code)
            }
            Stmt::Store { buf, index, value } => self.store(*buf, index, value)?,
            Stmt::Prefetch { .. } => Node::Eval(0..0),
            Stmt::For { var, lo, hi, step, body, .. } => {
                let (var, ty) = self.var(*var)?;
                if ty != Type::INDEX || *step < 1 {
                    return self.malformed("a loop variable is not i64, or the step is below 1");
                }
                let (code, (lo, hi)) = self.span(|c| {
                    Ok((c.scalar(lo, DType::I64, "a loop bound")?, c.scalar(hi, DType::I64, "a loop bound")?))
                })?;
                Node::For { code, lo, hi, step: *step, var, body: self.block(body)? }
            }
            Stmt::If { cond, then, otherwise } => {
                let (code, cond) = self.span(|c| c.scalar(cond, DType::Bool, "a condition"))?;
                Node::If { code, cond, then: self.block(then)?, otherwise: self.block(otherwise)? }
            }
            Stmt::While { cond, body } => {
                let (code, cond) = self.span(|c| c.scalar(cond, DType::Bool, "a condition"))?;
                Node::While { code, cond, body: self.block(body)? }
            }
            Stmt::Contract(c) => Node::Contract(Box::new(self.contract(c)?)),
            Stmt::Tiles(t) => self.tiles(t)?,
        })
    }

    /// Moves the value in registers `a..` to a variable's, `d..`; its code begins at instruction `start`.
    fn give(&mut self, d: usize, a: usize, n: usize, start: usize) {
        match self.instrs[start..].last_mut() {
            // The last instruction writes to the variable itself: every operation reads a lane before it writes it.
            Some(last) if last.o.d == a && last.o.n == n => last.o.d = d,
            _ => {
                let o = Operands { d, a, n, ..Operands::default() };
                self.instrs.push(Instr { op: Op::Map(value::copy), o });
            }
        }
    }

    pub(super) fn store(&mut self, buf: Buf, index: &Expr, value: &Expr) -> Result<Node, InterpError> {
        let (elem, access) = self.buffer(buf)?;
        if access == Access::In {
            return self.malformed(format!("a store to %{}, which is an input", self.kernel.buffer(buf).name));
        }
        let (code, (index, value, lanes)) = self.span(|c| {
            let index = c.scalar(index, DType::I64, "an index")?;
            let (value, ty) = c.expr(value)?;
            if ty.elem != elem {
                return c.malformed(format!("a store of {} to a buffer of {elem}", ty.elem));
            }
            Ok((index, value, usize::from(ty.lanes)))
        })?;
        Ok(Node::Store { code, buf, index, value, lanes })
    }
}

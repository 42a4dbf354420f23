//! Random kernels from a stream of decisions, which proptest draws and shrinks.
#![allow(dead_code, reason = "each test uses a part of it")]

use proptest::prelude::*;
use tenon_base::{DType, Scalar};
use tenon_kernel::{
    Access, BinOp, Buf, CmpOp, Contract, Expr, Kernel, KernelBuilder, MathFn, Memory, Type, UnOp, Var,
};

/// Decisions; when they run out, the first choice is taken.
pub(crate) struct Stream {
    data: Vec<u32>,
    pos: usize,
}

impl Stream {
    pub(crate) fn new(data: Vec<u32>) -> Stream {
        Stream { data, pos: 0 }
    }

    pub(crate) fn word(&mut self) -> u32 {
        self.pos += 1;
        self.data.get(self.pos - 1).copied().unwrap_or(0)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.word() as usize % n
    }

    pub(crate) fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

pub(crate) fn decisions(n: usize) -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(any::<u32>(), 0..n)
}

const BUFFERS: [(&str, DType, usize, Access); 10] = [
    ("x", DType::F32, 64, Access::In),
    ("n", DType::I64, 16, Access::In),
    ("a b", DType::I8, 32, Access::In),
    ("h/0:1", DType::F16, 16, Access::In),
    ("m", DType::Bool, 16, Access::In),
    ("d", DType::F64, 16, Access::In),
    ("u", DType::U32, 16, Access::In),
    ("t", DType::F32, 32, Access::Scratch),
    ("y", DType::F32, 64, Access::Out),
    ("z\"\\", DType::I64, 64, Access::Out),
];

/// Memory for the buffers of [`kernel`].
pub(crate) fn memories(s: &mut Stream) -> Vec<Memory> {
    BUFFERS
        .iter()
        .map(|&(_, dtype, len, access)| {
            let mut m = Memory::poisoned(dtype, len);
            if access == Access::In {
                let values = (0..len).map(|_| Scalar::of_int(dtype, i128::from(s.word() % 97) - 20));
                m.bytes = values.flat_map(Scalar::to_le_bytes).collect();
            }
            m
        })
        .collect()
}

struct Gen {
    s: Stream,
    k: KernelBuilder,
    /// Variables in scope, and whether they can be set.
    vars: Vec<(Var, Type, bool)>,
    /// How many statements may still be made.
    budget: usize,
    scheduled: bool,
}

/// A kernel whose types are right, and whose accesses are mostly within bounds.
pub(crate) fn kernel(s: Stream, scheduled: bool) -> Kernel {
    let mut k = KernelBuilder::new("k");
    for (name, dtype, len, access) in BUFFERS {
        k.buffer(name, dtype, len, access);
    }
    k.allow_in_place(Buf(0), Buf(8));
    let mut g = Gen { s, k, vars: vec![], budget: 24, scheduled };
    while g.budget > 0 {
        g.stmt(0);
    }
    g.k.finish()
}

const TYPES: [Type; 12] = [
    Type::INDEX,
    Type::scalar(DType::F32),
    Type::vector(DType::F32, 8),
    Type::scalar(DType::Bool),
    Type::scalar(DType::I8),
    Type::scalar(DType::U32),
    Type::vector(DType::I32, 4),
    Type::vector(DType::U64, 3),
    Type::scalar(DType::F64),
    Type::scalar(DType::F16),
    Type::vector(DType::Bool, 8),
    Type::vector(DType::I64, 2),
];

impl Gen {
    fn name(&mut self) -> &'static str {
        self.s.one(&["i", "a", "v", "é\n", "x.1", "for", "9", ""])
    }

    fn scoped(&mut self, f: impl FnOnce(&mut Self)) -> Vec<tenon_kernel::Stmt> {
        let n = self.vars.len();
        // The closure of the builder cannot borrow the generator around it.
        let outer = std::mem::replace(&mut self.k, KernelBuilder::new(""));
        let mut outer = outer;
        let body = outer.block(|k| {
            std::mem::swap(k, &mut self.k);
            f(self);
            std::mem::swap(k, &mut self.k);
        });
        self.k = outer;
        self.vars.truncate(n);
        body
    }

    fn stmt(&mut self, depth: usize) {
        self.budget = self.budget.saturating_sub(1);
        match self.s.below(if depth < 4 { 12 } else { 6 }) {
            0 | 1 => {
                let ty = self.s.one(&TYPES);
                let value = self.expr(ty, 3);
                let name = self.name();
                let var = self.k.fresh(name, ty);
                let mutable = self.s.below(2) == 1;
                self.k.push(if mutable {
                    tenon_kernel::Stmt::Declare { var, value }
                } else {
                    tenon_kernel::Stmt::Let { var, value }
                });
                self.vars.push((var, ty, mutable));
            }
            2 => {
                let settable: Vec<_> = self.vars.iter().filter(|v| v.2).copied().collect();
                if !settable.is_empty() {
                    let (var, ty, _) = self.s.one(&settable);
                    let value = self.expr(ty, 3);
                    self.k.set(var, value);
                }
            }
            3..=5 => {
                let b = self.s.one(&[7, 8, 9]);
                let ty = match self.s.below(3) {
                    0 if b != 9 => Type::vector(DType::F32, 8),
                    _ => Type::scalar(BUFFERS[b].1),
                };
                let index = self.index(BUFFERS[b].2, ty.lanes);
                let value = self.expr(ty, 3);
                self.k.store(Buf(b as u32), index, value);
            }
            6..=8 => {
                let (lo, hi) = match self.s.below(4) {
                    0 => (Expr::int(0), Expr::int(self.s.one(&[1, 2, 7, 8]))),
                    1 => (Expr::int(self.s.below(5) as i64 - 2), Expr::int(self.s.below(9) as i64 - 1)),
                    2 => {
                        let lo = self.small();
                        (lo.clone(), lo + self.s.one(&[0, 1, 4, 8]))
                    }
                    _ => {
                        let lo = self.small();
                        let n = self.s.one(&[3, 8]);
                        (lo.clone(), (lo + 5).min(Expr::int(n)))
                    }
                };
                let step = self.s.one(&[1, 1, 2, 3, 8]);
                let name = self.name();
                let var = self.k.fresh(name, Type::INDEX);
                let n = 1 + self.s.below(3);
                let body = self.scoped(|g| {
                    g.vars.push((var, Type::INDEX, false));
                    (0..n).for_each(|_| g.stmt(depth + 1));
                });
                let parallel = self.s.below(2) == 0;
                self.k.push(tenon_kernel::Stmt::For { var, lo, hi, step, parallel, body });
            }
            9 => {
                let cond = self.expr(Type::scalar(DType::Bool), 3);
                let then = self.scoped(|g| (0..2).for_each(|_| g.stmt(depth + 1)));
                let n = self.s.below(3);
                let otherwise = self.scoped(|g| (0..n).for_each(|_| g.stmt(depth + 1)));
                self.k.push(tenon_kernel::Stmt::If { cond, then, otherwise });
            }
            10 => {
                // A loop that ends: its counter only grows.
                let var = self.k.declare("count", Expr::int(0));
                let cond = Expr::Var(var).compare(CmpOp::Lt, Expr::int(1 + self.s.below(9) as i64));
                let body = self.scoped(|g| {
                    g.vars.push((var, Type::INDEX, false));
                    g.stmt(depth + 1);
                    g.k.set(var, Expr::Var(var) + 1);
                    g.stmt(depth + 1);
                });
                self.k.push(tenon_kernel::Stmt::While { cond, body });
            }
            _ if self.scheduled => {}
            _ => self.contract(),
        }
    }

    fn contract(&mut self) {
        let dim = |k: &mut KernelBuilder, name, n| k.contract_dim(name, n);
        let (m, mi) = dim(&mut self.k, "m", 4);
        let (n, ni) = dim(&mut self.k, "n", 2);
        let (r, ri) = dim(&mut self.k, "r", 3);
        let acc = self.k.fresh("acc", Type::scalar(DType::F32));
        let a = Expr::load(Buf(0), mi.clone() * 3 + ri.clone());
        let b = match self.s.below(2) {
            0 => Expr::load(Buf(0), ri * 2 + ni.clone()),
            _ => Expr::load(Buf(2), ri + ni.clone() * 4).cast(DType::F32),
        };
        let init = self.expr(Type::scalar(DType::F32), 1);
        self.k.contract(Contract {
            dims: vec![m, n],
            reduce: vec![r],
            acc,
            init,
            a,
            b,
            out: Buf(8),
            out_index: ni * 4 + mi,
            value: Expr::Var(acc).max(Expr::constant(DType::F32, 0.0)),
        });
    }

    /// A variable of type `ty`.
    fn var(&mut self, ty: Type) -> Option<Expr> {
        let fit: Vec<_> = self.vars.iter().filter(|v| v.1 == ty).map(|v| v.0).collect();
        (!fit.is_empty()).then(|| Expr::Var(self.s.one(&fit)))
    }

    /// An `i64` expression, mostly of loop variables.
    fn small(&mut self) -> Expr {
        let v = self.var(Type::INDEX).unwrap_or(Expr::int(1));
        match self.s.below(6) {
            0 => v,
            1 => v + self.s.below(5) as i64,
            2 => v * 2,
            3 => v / 2,
            4 => v % 5,
            _ => Expr::int(self.s.below(6) as i64),
        }
    }

    /// An index for `lanes` elements of a buffer of `len`.
    fn index(&mut self, len: usize, lanes: u16) -> Expr {
        let last = len as i64 - i64::from(lanes);
        match self.s.below(8) {
            0 => self.small(),
            1 => self.small() * 2 + self.small(),
            2 => self.expr(Type::INDEX, 2).binary(BinOp::And, Expr::int(7)),
            3 => self.expr(Type::INDEX, 2) % 4 + 3,
            4 => self.small() - self.small() + 4,
            _ => self.expr(Type::INDEX, 2).clamp(0, last),
        }
    }

    fn constant(&mut self, d: DType) -> Expr {
        let v = self.s.word();
        Expr::Const(match d {
            DType::F32 | DType::F64 | DType::F16 => match v % 9 {
                0 => Scalar::Float(d, f64::INFINITY),
                1 => Scalar::Float(d, f64::NAN),
                2 => Scalar::Float(d, -f64::NAN),
                3 => Scalar::Float(d, -0.0),
                4 => Scalar::of_f64(d, 1e-7),
                _ => Scalar::of_f64(d, f64::from(v as i32) / 64.0),
            },
            DType::Bool => Scalar::Int(d, i128::from(v % 2)),
            _ if v.is_multiple_of(5) => Scalar::Int(d, d.int_range().unwrap().0),
            _ => Scalar::of_int(d, i128::from(v % 16) - 3),
        })
    }

    fn expr(&mut self, ty: Type, depth: usize) -> Expr {
        let d = ty.elem;
        if depth == 0 || self.s.below(5) == 0 {
            if let Some(v) = self.var(ty).filter(|_| self.s.below(4) > 0) {
                return v;
            }
            let c = self.constant(d);
            return if ty.lanes == 1 { c } else { Expr::Splat(ty.lanes, Box::new(c)) };
        }
        let next = depth - 1;
        let loads: Vec<usize> = (0..8).filter(|b| BUFFERS[*b].1 == d).collect();
        let bitwise = [BinOp::And, BinOp::Or, BinOp::Xor];
        let arithmetic = [BinOp::Add, BinOp::Sub, BinOp::Mul, BinOp::Div, BinOp::Min, BinOp::Max];
        match self.s.below(10) {
            0 | 1 if !loads.is_empty() => {
                let b = self.s.one(&loads);
                let index = Box::new(self.index(BUFFERS[b].2, ty.lanes));
                Expr::Load { buf: Buf(b as u32), index, lanes: ty.lanes }
            }
            2 if d == DType::I32 && self.s.below(2) == 1 => {
                let (e, group) = self.s.one(&[(DType::I8, 4), (DType::U8, 4), (DType::I16, 2)]);
                let narrow = Type::vector(e, ty.lanes * group);
                Expr::dot(self.expr(narrow, next), self.expr(narrow, next), self.expr(ty, next))
            }
            2 => {
                let mask = self.expr(Type::vector(DType::Bool, ty.lanes), next);
                mask.select(self.expr(ty, next), self.expr(ty, next))
            }
            3 => {
                let from = self.s.one(&DType::ALL);
                self.expr(Type::vector(from, ty.lanes), next).cast(d)
            }
            4 if ty.lanes > 1 => match self.s.below(3) {
                1 if ty.lanes.is_multiple_of(2) => {
                    Expr::Splat(ty.lanes, Box::new(self.expr(Type::vector(d, ty.lanes / 2), next)))
                }
                0 => Expr::Lanes((0..ty.lanes).map(|_| self.expr(Type::scalar(d), 0)).collect()),
                _ => Expr::Splat(ty.lanes, Box::new(self.expr(Type::scalar(d), next))),
            },
            4 if d == DType::Bool => Expr::Reduce(BinOp::And, Box::new(self.expr(Type::vector(d, 4), next))),
            4 if d != DType::F16 => {
                let op = self.s.one(&[BinOp::Add, BinOp::Mul, BinOp::Min, BinOp::Max]);
                Expr::Reduce(op, Box::new(self.expr(Type::vector(d, 4), next)))
            }
            4 => Expr::Extract(Box::new(self.expr(Type::vector(d, 4), next)), self.s.below(4) as u16),
            _ if d == DType::Bool => match self.s.below(3) {
                0 => self.expr(ty, next).unary(UnOp::Not),
                1 => {
                    let op = self.s.one(&bitwise);
                    self.expr(ty, next).binary(op, self.expr(ty, next))
                }
                _ => {
                    let ty = Type::vector(self.s.one(&[DType::I64, DType::F32, DType::U32]), ty.lanes);
                    let op = self.s.one(&[CmpOp::Eq, CmpOp::Ne, CmpOp::Lt, CmpOp::Le, CmpOp::Gt, CmpOp::Ge]);
                    self.expr(ty, next).compare(op, self.expr(ty, next))
                }
            },
            _ if d == DType::F16 => self.expr(Type::vector(DType::I16, ty.lanes), 0).bitcast(d),
            5 if d.is_float() => match self.s.below(2) {
                0 => Expr::fma(self.expr(ty, next), self.expr(ty, next), self.expr(ty, next)),
                _ if !self.scheduled => self.expr(ty, next).math(self.s.one(&[MathFn::Exp, MathFn::Erf])),
                _ => self.expr(ty, next).unary(self.s.one(&[UnOp::Sqrt, UnOp::Floor, UnOp::Nearest])),
            },
            5 => {
                let op = self.s.one(&[BinOp::Rem, BinOp::Shl, BinOp::Shr, BinOp::And, BinOp::Or, BinOp::Xor]);
                self.expr(ty, next).binary(op, self.expr(ty, next))
            }
            6 => self.expr(ty, next).unary(self.s.one(&[UnOp::Neg, UnOp::Abs])),
            _ => {
                let op = self.s.one(&arithmetic);
                self.expr(ty, next).binary(op, self.expr(ty, next))
            }
        }
    }
}

//! Statements and kernels.

use crate::{Buf, Expr, Tiles, Type, Var};
use std::collections::BTreeSet;
use tenon_base::DType;

/// How a kernel uses a buffer. Buffers of one call never overlap, except that an `In` and an `Out` buffer may be
/// the same memory when the kernel reads element `i` only before or while it writes element `i`
/// ([`Kernel::in_place`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read only.
    In,
    /// Nothing is read before it is written, and what is not written before the kernel ends is undefined: other kernels write it,
    /// to which the buffer is [`Access::InOut`].
    Out,
    /// Some elements may be written; all others keep what they held at entry.
    InOut,
    /// Contents are undefined at entry and lost at exit.
    Scratch,
}

/// A parameter of a kernel: `len` elements of `dtype` at an address aligned to the element size at least.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Buffer {
    /// For the text form; unique in the kernel.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Elements.
    pub len: usize,
    /// Direction.
    pub access: Access,
}

/// A local variable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VarInfo {
    /// For the text form; unique in the kernel.
    pub name: String,
    /// Its type; loop variables are `i64`.
    pub ty: Type,
}

/// A statement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stmt {
    /// `let %v = value`: defined once, visible to the end of the block.
    Let {
        /// The new variable.
        var: Var,
        /// Its value.
        value: Expr,
    },
    /// `var %v = value`: as `let`, but [`Stmt::Set`] may change it.
    Declare {
        /// The new variable.
        var: Var,
        /// Its first value.
        value: Expr,
    },
    /// `%v = value`
    Set {
        /// A variable made by [`Stmt::Declare`] in this block or one around it.
        var: Var,
        /// Its next value.
        value: Expr,
    },
    /// `store %b[index] = value`: writes all lanes of `value` from element `index` on.
    Store {
        /// A buffer that is not `In`.
        buf: Buf,
        /// First element.
        index: Expr,
        /// What.
        value: Expr,
    },
    /// `prefetch %b[index]`: that element will be read before long. Changes no value, and no index is out of bounds.
    Prefetch {
        /// Any buffer.
        buf: Buf,
        /// The element; the cache line that holds it is meant.
        index: Expr,
    },
    /// `for %v in lo..hi step s { body }`: `v = lo, lo + s, …` while `v < hi`. The bounds are evaluated once.
    For {
        /// The loop variable.
        var: Var,
        /// First value.
        lo: Expr,
        /// End, exclusive.
        hi: Expr,
        /// At least 1.
        step: i64,
        /// `parfor`: iterations are independent and may run in any order, or at once if each has scratch buffers of its own:
        /// what an iteration reads of a scratch buffer that it writes, it has written itself before.
        parallel: bool,
        /// What to repeat.
        body: Vec<Stmt>,
    },
    /// `if cond { then } else { otherwise }`
    If {
        /// A scalar `bool`.
        cond: Expr,
        /// When true.
        then: Vec<Stmt>,
        /// When false; may be empty.
        otherwise: Vec<Stmt>,
    },
    /// `while cond { body }`
    While {
        /// A scalar `bool`.
        cond: Expr,
        /// What to repeat.
        body: Vec<Stmt>,
    },
    /// A multiply-accumulate nest; structured kernels only.
    Contract(Box<Contract>),
    /// A product of two-dimensional tiles: what the schedule makes of contractions for machines with registers that hold such tiles.
    Tiles(Box<Tiles>),
}

/// One loop of a [`Contract`]: `0..extent`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContractDim {
    /// The loop variable.
    pub var: Var,
    /// Iterations, at least 1.
    pub extent: usize,
}

/// `out[out_index] = value(init + Σ_reduce a · b)` for every point of `dims`.
///
/// GEMM, convolution and their batched and grouped forms. All indices are affine in `dims` and `reduce`, and in what is defined around the
/// contraction, such as the loop over blocks that it stands in; which dim is M, N or a batch follows from whether it occurs in the indices of `a`, `b` and `out`. The order of the sum is the
/// schedule's choice.
///
/// ```text
/// contract %m in 0..196, %n in 0..64 reduce %k in 0..576 {
///   %acc: f32 = load %bias[%n]
///   %acc += load %a[%m*576 + %k] * load %w[%k*64 + %n]
///   store %y[%m*64 + %n] = max(0.0, %acc)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Contract {
    /// Loops over the output's points.
    pub dims: Vec<ContractDim>,
    /// Loops summed over; outermost first. May be empty.
    pub reduce: Vec<ContractDim>,
    /// The accumulator; its type is the type of `init`, `a` and `b`.
    pub acc: Var,
    /// Its value before the sum; may use `dims`.
    pub init: Expr,
    /// Left factor: a load, or a cast of one.
    pub a: Expr,
    /// Right factor: a load, or a cast of one.
    pub b: Expr,
    /// Where the result goes.
    pub out: Buf,
    /// Which element; uses `dims` only, a different element for every point.
    pub out_index: Expr,
    /// The epilogue: uses `acc` and `dims`.
    pub value: Expr,
}

/// A kernel in parts: a call runs its body once for every value of a variable, in any order or at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Parts {
    /// The part that runs: an index, in scope everywhere.
    pub var: Var,
    /// How many there are: `var` is `0..count`.
    pub count: usize,
}

/// A function over buffers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// Unique in a program.
    pub name: String,
    /// Parameters, in call order.
    pub buffers: Vec<Buffer>,
    /// All local variables.
    pub vars: Vec<VarInfo>,
    /// The statements.
    pub body: Vec<Stmt>,
    /// Pairs (in, out) of buffers that may share memory.
    pub in_place: Vec<(Buf, Buf)>,
    /// Its parts, if it is to run in several threads.
    pub parts: Option<Parts>,
}

impl Kernel {
    /// The most parts of a kernel.
    pub const MAX_PARTS: usize = 64;

    /// What part `part` of it does, as a kernel of its own: loops and conditions that the part decides are decided.
    #[must_use]
    pub fn part(&self, part: usize) -> Kernel {
        let mut kernel = Kernel { parts: None, ..self.clone() };
        if let Some(p) = self.parts {
            let k = Expr::from(part);
            kernel.body = kernel.body.into_iter().map(|s| s.map_exprs(&mut |e| e.substitute(p.var, &k))).collect();
            kernel = crate::simplify_kernel(kernel);
        }
        kernel
    }

    /// Whether the two differ in nothing but their names.
    pub fn equals_but_for_name(&self, other: &Kernel) -> bool {
        let Kernel { name: _, buffers, vars, body, in_place, parts } = self;
        (buffers, vars, in_place, parts) == (&other.buffers, &other.vars, &other.in_place, &other.parts)
            && *body == other.body
    }

    /// The declaration of `buf`.
    pub fn buffer(&self, buf: Buf) -> &Buffer {
        &self.buffers[buf.0 as usize]
    }

    /// The declaration of `var`.
    pub fn var(&self, var: Var) -> &VarInfo {
        &self.vars[var.0 as usize]
    }

    /// A new variable; the name is made unique.
    pub fn new_var(&mut self, name: &str, ty: Type) -> Var {
        // Most names differ in the end, if they are of one length: they are compared from there.
        let same = |a: &str, b: &str| a.len() == b.len() && a.bytes().rev().eq(b.bytes().rev());
        let taken = |n: &str| self.vars.iter().any(|v| same(&v.name, n));
        let mut unique = name.to_string();
        if taken(&unique) {
            // The table only grows, so its length makes a fresh suffix almost always at the first try.
            let mut i = self.vars.len();
            while taken(&unique) {
                unique = format!("{name}_{i}");
                i += 1;
            }
        }
        self.vars.push(VarInfo { name: unique, ty });
        Var(self.vars.len() as u32 - 1)
    }

    /// A new buffer at the end of the parameters; the name is made unique.
    pub fn new_buffer(&mut self, name: &str, dtype: DType, len: usize, access: Access) -> Buf {
        let n = self.buffers.len();
        let unique =
            if self.buffers.iter().any(|b| b.name == name) { format!("{name}_{n}") } else { name.to_string() };
        self.buffers.push(Buffer { name: unique, dtype, len, access });
        Buf(n as u32)
    }

    /// The type of `e`, which must be well formed (see the verifier).
    pub fn type_of(&self, e: &Expr) -> Type {
        match e {
            Expr::Const(s) => Type::scalar(s.dtype()),
            Expr::Var(v) => self.var(*v).ty,
            Expr::Load { buf, lanes, .. } => Type::vector(self.buffer(*buf).dtype, *lanes),
            Expr::Unary(_, e) => self.type_of(e),
            Expr::Binary(_, b) => self.type_of(&b[0]),
            Expr::Compare(_, b) => Type::vector(DType::Bool, self.type_of(&b[0]).lanes),
            Expr::Select(b) => self.type_of(&b[1]),
            Expr::Fma(b) => self.type_of(&b[0]),
            Expr::Dot(b) => self.type_of(&b[2]),
            Expr::Cast(d, e) | Expr::Bitcast(d, e) => Type::vector(*d, self.type_of(e).lanes),
            Expr::ToBf16(e) => Type::vector(DType::U16, self.type_of(e).lanes),
            Expr::Splat(n, e) => Type::vector(self.type_of(e).elem, *n),
            Expr::Lanes(v) => Type::vector(self.type_of(&v[0]).elem, v.len() as u16),
            Expr::Extract(e, _) | Expr::Reduce(_, e) => Type::scalar(self.type_of(e).elem),
            Expr::Math(_, v) => self.type_of(&v[0]),
        }
    }
}

/// Calls `f` on every statement of `body`, outer ones first.
pub fn visit_stmts<'a>(body: &'a [Stmt], f: &mut dyn FnMut(&'a Stmt)) {
    for s in body {
        f(s);
        match s {
            Stmt::For { body, .. } | Stmt::While { body, .. } => visit_stmts(body, f),
            Stmt::If { then, otherwise, .. } => {
                visit_stmts(then, f);
                visit_stmts(otherwise, f);
            }
            _ => {}
        }
    }
}

/// The variables that [`Stmt::Set`]s in `body` change.
pub fn set_in(body: &[Stmt]) -> BTreeSet<Var> {
    let mut vars = BTreeSet::new();
    visit_stmts(body, &mut |s| {
        if let Stmt::Set { var, .. } = s {
            vars.insert(*var);
        }
    });
    vars
}

impl Stmt {
    /// The buffer that this statement itself writes to, not one inside it.
    pub fn written(&self) -> Option<Buf> {
        match self {
            Stmt::Store { buf, .. } => Some(*buf),
            Stmt::Contract(c) => Some(c.out),
            Stmt::Tiles(t) => Some(t.out),
            _ => None,
        }
    }

    /// Calls `f` on the expressions of this statement itself, not of statements inside it.
    pub fn exprs<'a>(&'a self, f: &mut dyn FnMut(&'a Expr)) {
        match self {
            Stmt::Let { value, .. } | Stmt::Declare { value, .. } | Stmt::Set { value, .. } => f(value),
            Stmt::Store { index, value, .. } => {
                f(index);
                f(value);
            }
            Stmt::For { lo, hi, .. } => {
                f(lo);
                f(hi);
            }
            Stmt::Prefetch { index: e, .. } | Stmt::If { cond: e, .. } | Stmt::While { cond: e, .. } => f(e),
            Stmt::Contract(c) => [&c.init, &c.a, &c.b, &c.out_index, &c.value].into_iter().for_each(f),
            Stmt::Tiles(t) => {
                let fetched = t.fetch.as_ref().map(|f| &f.first);
                [&t.out_index, &t.x, &t.w].into_iter().chain(fetched).for_each(f);
            }
        }
    }

    /// The same statement with every expression `e` in it, and in the statements inside it, replaced by `f(e)`.
    #[must_use]
    pub fn map_exprs(self, f: &mut dyn FnMut(Expr) -> Expr) -> Stmt {
        let all = |body: Vec<Stmt>, f: &mut dyn FnMut(Expr) -> Expr| -> Vec<Stmt> {
            body.into_iter().map(|s| s.map_exprs(f)).collect()
        };
        match self {
            Stmt::Let { var, value } => Stmt::Let { var, value: f(value) },
            Stmt::Declare { var, value } => Stmt::Declare { var, value: f(value) },
            Stmt::Set { var, value } => Stmt::Set { var, value: f(value) },
            Stmt::Store { buf, index, value } => Stmt::Store { buf, index: f(index), value: f(value) },
            Stmt::Prefetch { buf, index } => Stmt::Prefetch { buf, index: f(index) },
            Stmt::For { var, lo, hi, step, parallel, body } => {
                let (lo, hi) = (f(lo), f(hi));
                Stmt::For { var, lo, hi, step, parallel, body: all(body, f) }
            }
            Stmt::If { cond, then, otherwise } => {
                let cond = f(cond);
                Stmt::If { cond, then: all(then, f), otherwise: all(otherwise, f) }
            }
            Stmt::While { cond, body } => {
                let cond = f(cond);
                Stmt::While { cond, body: all(body, f) }
            }
            Stmt::Contract(c) => {
                let Contract { dims, reduce, acc, init, a, b, out, out_index, value } = *c;
                let [init, a, b, out_index, value] = [init, a, b, out_index, value].map(f);
                Stmt::Contract(Box::new(Contract { dims, reduce, acc, init, a, b, out, out_index, value }))
            }
            Stmt::Tiles(mut t) => {
                let fetched = t.fetch.as_mut().map(|f| &mut f.first);
                for e in [&mut t.out_index, &mut t.x, &mut t.w].into_iter().chain(fetched) {
                    *e = f(std::mem::replace(e, Expr::int(0)));
                }
                Stmt::Tiles(t)
            }
        }
    }
}

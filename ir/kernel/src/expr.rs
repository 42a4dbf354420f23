//! Types, operators and expressions.
//!
//! Semantics are total: every expression of a verified kernel has a value, on every engine the same bits.
//! Integers wrap; `x / 0 = 0` and `x % 0 = 0`; `MIN / -1 = MIN`; shifts use the low bits of the count; a cast from
//! float to integer truncates and saturates, NaN becomes 0.

use std::ops;
use tenon_base::{DType, Scalar};

/// The type of an expression: an element type and a number of lanes (1: a scalar).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Type {
    /// Element type. `bool` lanes are masks in a register and one byte in memory.
    pub elem: DType,
    /// Lanes; any count, a backend splits or scalarises what the machine lacks.
    pub lanes: u16,
}

impl Type {
    /// Loop variables and indices.
    pub const INDEX: Type = Type::scalar(DType::I64);

    /// One lane of `elem`.
    pub const fn scalar(elem: DType) -> Type {
        Type { elem, lanes: 1 }
    }

    /// `lanes` lanes of `elem`.
    pub const fn vector(elem: DType, lanes: u16) -> Type {
        Type { elem, lanes }
    }
}

/// A buffer of the kernel: its position in [`crate::Kernel::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Buf(pub u32);

/// A variable of the kernel: its position in [`crate::Kernel::vars`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Var(pub u32);

/// Operations on one operand, lane by lane; the result has the operand's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnOp {
    /// `-x`; for floats the sign bit is flipped.
    Neg,
    /// `|x|`; for floats the sign bit is cleared.
    Abs,
    /// Floats: correctly rounded square root.
    Sqrt,
    /// Floats: towards +∞.
    Ceil,
    /// Floats: towards −∞.
    Floor,
    /// Floats: towards 0.
    Trunc,
    /// Floats: to nearest, ties to even.
    Nearest,
    /// Integers and masks: bitwise (for `bool`, logical) complement.
    Not,
}

/// Operations on two operands of one type, lane by lane; the result has the same type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinOp {
    /// Sum.
    Add,
    /// Difference.
    Sub,
    /// Product.
    Mul,
    /// Quotient; integers truncate towards 0.
    Div,
    /// Integers only: the remainder, with the dividend's sign.
    Rem,
    /// `a < b ? a : b`: the second operand when either is NaN.
    Min,
    /// `a > b ? a : b`: the second operand when either is NaN, so `max(0, x)` lets NaN through.
    Max,
    /// Integers and masks.
    And,
    /// Integers and masks.
    Or,
    /// Integers and masks.
    Xor,
    /// Integers: towards the high bits.
    Shl,
    /// Integers: arithmetic for signed, logical for unsigned types.
    Shr,
}

/// Comparisons; the result is `bool` with the operands' lanes. With NaN all but `Ne` are false.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CmpOp {
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
}

/// Mathematical functions of floats (`f32`, `f64`). Structured kernels only: the schedule replaces them by
/// polynomials in the other operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MathFn {
    /// eˣ
    Exp,
    /// Natural logarithm.
    Log,
    /// Sine.
    Sin,
    /// Cosine.
    Cos,
    /// Tangent.
    Tan,
    /// Inverse sine.
    Asin,
    /// Inverse cosine.
    Acos,
    /// Inverse tangent.
    Atan,
    /// Hyperbolic sine.
    Sinh,
    /// Hyperbolic cosine.
    Cosh,
    /// Hyperbolic tangent.
    Tanh,
    /// Inverse hyperbolic sine.
    Asinh,
    /// Inverse hyperbolic cosine.
    Acosh,
    /// Inverse hyperbolic tangent.
    Atanh,
    /// The error function.
    Erf,
    /// xʸ, as C's `pow`.
    Pow,
    /// The remainder of truncated division, as C's `fmod`.
    Fmod,
}

impl MathFn {
    /// The number of operands.
    pub const fn arity(self) -> usize {
        match self {
            MathFn::Pow | MathFn::Fmod => 2,
            _ => 1,
        }
    }
}

/// An expression. Trees are small; share a value with [`crate::Stmt::Let`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expr {
    /// A scalar constant.
    Const(Scalar),
    /// A loop variable, a `let` or the present value of a `var`.
    Var(Var),
    /// `lanes` consecutive elements of `buf` from element `index` (a scalar `i64`).
    Load {
        /// Where from.
        buf: Buf,
        /// First element.
        index: Box<Expr>,
        /// How many.
        lanes: u16,
    },
    /// One operand.
    Unary(UnOp, Box<Expr>),
    /// Two operands of one type.
    Binary(BinOp, Box<[Expr; 2]>),
    /// Two operands of one type; gives `bool`.
    Compare(CmpOp, Box<[Expr; 2]>),
    /// `mask ? a : b`, lane by lane: a `bool` operand and two of one type and as many lanes.
    Select(Box<[Expr; 3]>),
    /// `a * b + c` of floats, rounded once where the target has the instruction and twice where it has not: see
    /// [`crate::Program::fused_multiply_add`].
    Fma(Box<[Expr; 3]>),
    /// Dot products of short runs: lane `i` is `c[i] + Σ_j a[g·i + j] · b[g·i + j]` in `i32`, which wraps. `c` has `n` lanes of `i32`;
    /// `a` and `b` have `g·n` lanes each, of `u8` or `i8` (not necessarily the same; `g` is 4) or both of `i16` (`g` is 2).
    ///
    /// Where both are `u16` they are the bits of `bf16`, `g` is 2, and `c` and the sum are `f32`, rounded as [`crate::bf16`] says.
    Dot(Box<[Expr; 3]>),
    /// The bits of `f32` lanes rounded to `bf16`, as `u16`: see [`crate::bf16`].
    ToBf16(Box<Expr>),
    /// Value conversion. To `bool`: `x != 0`. To and from `f16` by way of `f32`: a wider float is rounded twice.
    Cast(DType, Box<Expr>),
    /// The same bits as another element type of the same size (not `bool`).
    Bitcast(DType, Box<Expr>),
    /// A value repeated until there are that many lanes: a scalar in every lane, or a vector of a divisor of the lanes.
    Splat(u16, Box<Expr>),
    /// A vector of scalars, lane 0 first.
    Lanes(Vec<Expr>),
    /// One lane of a vector.
    Extract(Box<Expr>, u16),
    /// Folds the lanes with `Add`, `Mul`, `Min`, `Max`, `And` or `Or` by halving: lane `i` with lane `i + n/2`,
    /// until one is left. The lane count is a power of two.
    Reduce(BinOp, Box<Expr>),
    /// A mathematical function; structured kernels only.
    Math(MathFn, Vec<Expr>),
}

impl Expr {
    /// An `i64` constant.
    pub fn int(v: i64) -> Expr {
        Expr::Const(Scalar::Int(DType::I64, i128::from(v)))
    }

    /// The constant `v` of `dtype` (rounded or wrapped to it).
    pub fn constant(dtype: DType, v: f64) -> Expr {
        Expr::Const(Scalar::of_f64(dtype, v))
    }

    /// The value of an integer constant.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Expr::Const(Scalar::Int(_, v)) => i64::try_from(*v).ok(),
            _ => None,
        }
    }

    /// The variable and its lane, if the expression is a lane of a variable.
    pub fn as_lane(&self) -> Option<(Var, u16)> {
        match self {
            Expr::Extract(x, lane) => match **x {
                Expr::Var(v) => Some((v, *lane)),
                _ => None,
            },
            _ => None,
        }
    }

    /// One element of `buf`.
    pub fn load(buf: Buf, index: Expr) -> Expr {
        Expr::Load { buf, index: Box::new(index), lanes: 1 }
    }

    /// `op self`
    #[must_use]
    pub fn unary(self, op: UnOp) -> Expr {
        Expr::Unary(op, Box::new(self))
    }

    /// `self op other`; folds constants of `i64` arithmetic and the neutral elements of indices.
    #[must_use]
    pub fn binary(self, op: BinOp, other: Expr) -> Expr {
        match Folded::of(op, &self, &other) {
            Some(Folded::Number(v)) => Expr::Const(Scalar::of_int(DType::I64, v)),
            Some(Folded::First) => self,
            Some(Folded::Second) => other,
            None => Expr::Binary(op, Box::new([self, other])),
        }
    }

    /// `self op other` as `bool`.
    #[must_use]
    pub fn compare(self, op: CmpOp, other: Expr) -> Expr {
        Expr::Compare(op, Box::new([self, other]))
    }

    /// The smaller (see [`BinOp::Min`] for NaN).
    #[must_use]
    pub fn min(self, other: Expr) -> Expr {
        self.binary(BinOp::Min, other)
    }

    /// The larger (see [`BinOp::Max`] for NaN).
    #[must_use]
    pub fn max(self, other: Expr) -> Expr {
        self.binary(BinOp::Max, other)
    }

    /// An index kept within `lo..=hi`; the verifier knows the bounds of the result.
    #[must_use]
    pub fn clamp(self, lo: i64, hi: i64) -> Expr {
        self.max(Expr::int(lo)).min(Expr::int(hi))
    }

    /// `self ? a : b`
    #[must_use]
    pub fn select(self, a: Expr, b: Expr) -> Expr {
        Expr::Select(Box::new([self, a, b]))
    }

    /// `a * b + c`
    pub fn fma(a: Expr, b: Expr, c: Expr) -> Expr {
        Expr::Fma(Box::new([a, b, c]))
    }

    /// `c` plus dot products of neighbouring elements of `a` and `b`: see [`Expr::Dot`].
    pub fn dot(a: Expr, b: Expr, c: Expr) -> Expr {
        Expr::Dot(Box::new([a, b, c]))
    }

    /// The bits as `bf16`: see [`Expr::ToBf16`].
    #[must_use]
    pub fn rounded_bf16(self) -> Expr {
        Expr::ToBf16(Box::new(self))
    }

    /// Conversion to `dtype`.
    #[must_use]
    pub fn cast(self, dtype: DType) -> Expr {
        Expr::Cast(dtype, Box::new(self))
    }

    /// The same bits as `dtype`.
    #[must_use]
    pub fn bitcast(self, dtype: DType) -> Expr {
        Expr::Bitcast(dtype, Box::new(self))
    }

    /// Repeated until there are `lanes` lanes (`self` where `lanes` is 1).
    #[must_use]
    pub fn splat(self, lanes: u16) -> Expr {
        if lanes == 1 { self } else { Expr::Splat(lanes, Box::new(self)) }
    }

    /// `f(self)`
    #[must_use]
    pub fn math(self, f: MathFn) -> Expr {
        Expr::Math(f, vec![self])
    }

    /// The direct operands, in order.
    pub fn operands(&self) -> &[Expr] {
        match self {
            Expr::Const(_) | Expr::Var(_) => &[],
            Expr::Load { index: e, .. }
            | Expr::Unary(_, e)
            | Expr::ToBf16(e)
            | Expr::Cast(_, e)
            | Expr::Bitcast(_, e)
            | Expr::Splat(_, e)
            | Expr::Extract(e, _)
            | Expr::Reduce(_, e) => std::slice::from_ref(e),
            Expr::Binary(_, b) | Expr::Compare(_, b) => &b[..],
            Expr::Select(b) | Expr::Fma(b) | Expr::Dot(b) => &b[..],
            Expr::Lanes(v) | Expr::Math(_, v) => v,
        }
    }

    /// The same, to be changed.
    pub fn operands_mut(&mut self) -> &mut [Expr] {
        match self {
            Expr::Const(_) | Expr::Var(_) => &mut [],
            Expr::Load { index: e, .. }
            | Expr::Unary(_, e)
            | Expr::ToBf16(e)
            | Expr::Cast(_, e)
            | Expr::Bitcast(_, e)
            | Expr::Splat(_, e)
            | Expr::Extract(e, _)
            | Expr::Reduce(_, e) => std::slice::from_mut(e),
            Expr::Binary(_, b) | Expr::Compare(_, b) => &mut b[..],
            Expr::Select(b) | Expr::Fma(b) | Expr::Dot(b) => &mut b[..],
            Expr::Lanes(v) | Expr::Math(_, v) => v,
        }
    }

    /// Calls `f` on the direct operands, in order.
    pub fn for_each_child<'a>(&'a self, f: &mut dyn FnMut(&'a Expr)) {
        self.operands().iter().for_each(f);
    }

    /// The first direct operand.
    pub fn first_child(&self) -> Option<&Expr> {
        self.operands().first()
    }

    /// The same expression with every direct operand replaced by `f(operand)`; operands stay where they are in memory.
    #[must_use]
    pub fn map_children(mut self, f: &mut dyn FnMut(Expr) -> Expr) -> Expr {
        self.operands_mut().iter_mut().for_each(|e| *e = f(e.take()));
        self
    }

    /// The expression; something that means nothing stays in its place.
    fn take(&mut self) -> Expr {
        std::mem::replace(self, Expr::Var(Var(u32::MAX)))
    }

    /// Calls `f` on every sub-expression where it lies in memory, operands first, to change it.
    pub fn update(&mut self, f: &mut dyn FnMut(&mut Expr)) {
        for e in self.operands_mut() {
            e.update(f);
        }
        f(self);
    }

    /// Rewrites bottom-up: operands first, then the expression itself.
    #[must_use]
    pub fn rewrite(mut self, f: &mut dyn FnMut(Expr) -> Expr) -> Expr {
        self.update(&mut |e| *e = f(e.take()));
        self
    }

    /// Calls `f` on every sub-expression, parents first.
    pub fn visit<'a>(&'a self, f: &mut dyn FnMut(&'a Expr)) {
        f(self);
        for e in self.operands() {
            e.visit(f);
        }
    }

    /// Whether `var` occurs in it.
    pub fn uses(&self, var: Var) -> bool {
        matches!(self, Expr::Var(v) if *v == var) || self.operands().iter().any(|e| e.uses(var))
    }

    /// The same expression with `var` replaced by `by`.
    #[must_use]
    pub fn substitute(self, var: Var, by: &Expr) -> Expr {
        self.substitute_all(&mut |v| (v == var).then(|| by.clone()))
    }

    /// The same expression with every variable replaced for which `by` gives something.
    #[must_use]
    pub fn substitute_all(mut self, by: &mut dyn FnMut(Var) -> Option<Expr>) -> Expr {
        self.update(&mut |e| match e {
            Expr::Var(v) => {
                if let Some(by) = by(*v) {
                    *e = by;
                }
            }
            e => e.fold(),
        });
        self
    }

    /// Folds the expression as [`Expr::binary`] would have, after its operands have changed.
    fn fold(&mut self) {
        let Expr::Binary(op, b) = self else { return };
        let folded = match Folded::of(*op, &b[0], &b[1]) {
            Some(Folded::Number(v)) => Expr::Const(Scalar::of_int(DType::I64, v)),
            Some(Folded::First) => b[0].take(),
            Some(Folded::Second) => b[1].take(),
            None => return,
        };
        *self = folded;
    }
}

/// What an operation on two operands comes to without being done.
enum Folded {
    /// This `i64`.
    Number(i128),
    /// Its first operand.
    First,
    /// Its second operand.
    Second,
}

impl Folded {
    /// Of constants of `i64` arithmetic and the neutral elements of indices.
    fn of(op: BinOp, x: &Expr, y: &Expr) -> Option<Folded> {
        let number = |e: &Expr| match e {
            Expr::Const(Scalar::Int(DType::I64, v)) => Some(*v),
            _ => None,
        };
        let (a, b) = (number(x), number(y));
        if let (Some(a), Some(b)) = (a, b) {
            let v = match op {
                BinOp::Add => Some(a + b),
                BinOp::Sub => Some(a - b),
                BinOp::Mul => a.checked_mul(b),
                BinOp::Div if b != 0 => Some(a / b),
                BinOp::Rem if b != 0 => Some(a % b),
                BinOp::Min => Some(a.min(b)),
                BinOp::Max => Some(a.max(b)),
                _ => None,
            };
            if let Some(v) = v {
                return Some(Folded::Number(v));
            }
        }
        match (op, a, b) {
            (BinOp::Add, Some(0), _) | (BinOp::Mul, Some(1), _) => Some(Folded::Second),
            (BinOp::Add | BinOp::Sub, _, Some(0)) | (BinOp::Mul | BinOp::Div, _, Some(1)) => Some(Folded::First),
            (BinOp::Mul, Some(0), _) | (BinOp::Mul, _, Some(0)) | (BinOp::Rem, _, Some(1)) => Some(Folded::Number(0)),
            _ => None,
        }
    }
}

impl From<Var> for Expr {
    fn from(v: Var) -> Expr {
        Expr::Var(v)
    }
}

impl From<i64> for Expr {
    fn from(v: i64) -> Expr {
        Expr::int(v)
    }
}

impl From<i32> for Expr {
    fn from(v: i32) -> Expr {
        Expr::int(i64::from(v))
    }
}

impl From<usize> for Expr {
    fn from(v: usize) -> Expr {
        Expr::int(i64::try_from(v).unwrap_or(i64::MAX))
    }
}

macro_rules! operator {
    ($($tr:ident $f:ident $op:ident),*) => {$(
        impl<T: Into<Expr>> ops::$tr<T> for Expr {
            type Output = Expr;
            fn $f(self, other: T) -> Expr {
                self.binary(BinOp::$op, other.into())
            }
        }
    )*};
}
operator!(Add add Add, Sub sub Sub, Mul mul Mul, Div div Div, Rem rem Rem);

impl ops::Neg for Expr {
    type Output = Expr;
    fn neg(self) -> Expr {
        self.unary(UnOp::Neg)
    }
}

//! What an operator is: the trait every file under `ops/` implements.

use crate::import::{ImportError, Importer, OnnxNode};
use crate::lower::{self, LowerCx, LowerError};
use crate::{Attrs, ValueId};
use std::fmt;
use tenon_base::{DType, Dim, Fact, Tensor};
use tenon_kernel::Expr;

/// An ONNX operator that an operator file imports: domain (`""` is `ai.onnx`), name, and the versions that differ in
/// a way the file handles (the opset of each).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnnxName {
    /// `""`, `"ai.onnx.ml"`, `"com.microsoft"`, …
    pub domain: &'static str,
    /// As ONNX spells it.
    pub name: &'static str,
    /// Opset versions in which the operator changed, oldest first.
    pub versions: &'static [i64],
}

/// Operands that an operator cannot take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InferError {
    /// What is wrong: expected and found.
    pub message: String,
    /// What to try, if something can be tried.
    pub help: Option<String>,
}

impl InferError {
    /// An error without advice.
    pub fn new(message: impl Into<String>) -> InferError {
        InferError { message: message.into(), help: None }
    }
}

impl fmt::Display for InferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
impl std::error::Error for InferError {}

impl From<String> for InferError {
    fn from(message: String) -> InferError {
        InferError::new(message)
    }
}

/// How an operator relates output elements to input elements; decides what can be fused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpClass {
    /// `out[i] = f(in0[i], in1[i], …)` with ONNX broadcasting: [`Operator::scalar`] is `f`.
    Pointwise,
    /// One input, the same elements in the same row-major order: costs nothing.
    View,
    /// One data input; every output element is one input element: [`Operator::source`] says which.
    Move,
    /// Anything else: [`Operator::lower`] writes the kernel.
    Kernel,
    /// A branch or a loop: a step of the program and no kernel; nothing fuses with it.
    Control,
}

/// How close two engines must be on this operator, and compiled code to the reference:
/// `|x - y| ≤ absolute·scale + relative·|y|`, where `scale` is the largest magnitude of the expected output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Part of the output's scale.
    pub absolute: f64,
    /// Part of the element.
    pub relative: f64,
}

impl Tolerance {
    /// Bit-equal.
    pub const EXACT: Tolerance = Tolerance { absolute: 0.0, relative: 0.0 };
    /// A few roundings of `f32`.
    pub const ROUNDING: Tolerance = Tolerance { absolute: 1e-7, relative: 1e-6 };
    /// A mathematical function of `f32`.
    pub const MATH: Tolerance = Tolerance { absolute: 1e-6, relative: 4e-6 };
    /// A sum of many products in `f32`, in any order.
    pub const SUM: Tolerance = Tolerance { absolute: 2e-5, relative: 2e-5 };
}

/// An operator: typed attributes and everything the compiler needs to know of it.
pub trait Operator: Clone + fmt::Debug + PartialEq + Eq + std::hash::Hash + Sized {
    /// Every name it has in graph text; a family has one a member.
    fn names() -> Vec<&'static str>;

    /// The ONNX operators it imports.
    fn onnx() -> Vec<OnnxName>;

    /// Its name in graph text.
    fn name(&self) -> &'static str;

    /// Its attributes in generic form.
    fn attrs(&self) -> Attrs;

    /// The inverse of [`Operator::name`] and [`Operator::attrs`].
    fn parse(name: &str, attrs: Attrs) -> Result<Self, String>;

    /// Adds the operators that an ONNX node means to the graph and gives its outputs. Opset differences end here.
    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError>;

    /// The facts of the outputs, or what is wrong with the operands. Checks the number of operands, their dtypes and
    /// their shapes; symbolic extents are allowed.
    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError>;

    /// For small integer values known only symbolically (shapes): the output's elements, given the inputs'.
    fn infer_dims(&self, _ins: &[Option<Vec<Dim>>], _facts: &[Fact]) -> Option<Vec<Dim>> {
        None
    }

    /// The reference: naive, obviously right, wide accumulators. `ins` have passed [`Operator::infer`].
    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String>;

    /// Its relation of outputs to inputs.
    fn class(&self) -> OpClass {
        OpClass::Kernel
    }

    /// [`OpClass::Pointwise`]: the output element, given the operands' elements (of their own dtypes; `f16` operands
    /// arrive as `f32` and the result is rounded by the caller). `ins` are the operands' dtypes, `out` the result's.
    fn scalar(&self, _ins: &[DType], _out: DType, _args: &[Expr]) -> Option<Expr> {
        None
    }

    /// [`OpClass::Move`]: the index into the input of the element at `index` of the output, and, for elements that come from
    /// no input, a condition and a constant: see [`Source`].
    fn source(&self, _ins: &[Fact], _out: &Fact, _index: &[Expr]) -> Option<Source> {
        None
    }

    /// The same operator with its first operand and its result channels last (`[N, spatial…, C]`), where it is one that
    /// slides over spatial axes channels first.
    fn channels_last(&self) -> Option<crate::Op> {
        None
    }

    /// The operator `f'` with `f(T x0, T x1, …) = T f'(x0, x1, …)`, where `T` is the transpose by `perm` (axis `a` of its result is
    /// axis `perm[a]` of its operand) and `ins` are the facts of the transposed operands `T x`. All operands that
    /// [`Operator::permutes`] speaks of have the rank of `perm`. Pointwise operators need not say: they are the same.
    fn permuted(&self, _perm: &[usize], _ins: &[Fact]) -> Option<crate::Op> {
        None
    }

    /// Whether [`Operator::permuted`] means operand `i` to be transposed with the others; a table is not.
    fn permutes(&self, _i: usize) -> bool {
        true
    }

    /// What [`Operator::lower`] would read around its first operand. Where the operand lies in a buffer with such a border
    /// ([`lower::Halo`]), it need not be put there by a copy.
    fn halo(&self, _ins: &[Fact]) -> Option<lower::Padding> {
        None
    }

    /// Writes the kernel, as structured kernel IR. All extents are known. The default serves `Pointwise` and `Move`.
    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        lower::lower_by_element(cx)
    }

    /// How close engines must agree on it.
    fn tolerance(&self) -> Tolerance {
        Tolerance::EXACT
    }

    /// Cases to test it on: attributes, operand facts and the range of the operands' data. At least three.
    fn samples() -> Vec<Sample>;
}

/// Where an output element of a [`OpClass::Move`] operator comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// One index an axis of the input; always within bounds, also where `inside` is false.
    pub index: Vec<Expr>,
    /// `None`: always from the input. Else, where this is false, the element is `fill`.
    pub inside: Option<Expr>,
    /// The constant outside, rounded to the output's dtype.
    pub fill: f64,
}

impl Source {
    /// An element of the input.
    pub fn at(index: Vec<Expr>) -> Source {
        Source { index, inside: None, fill: 0.0 }
    }
}

/// A case to test an operator on.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The operator with its attributes.
    pub op: crate::Op,
    /// Facts of its operands; all extents known.
    pub ins: Vec<Fact>,
    /// Range `lo..hi` of the drawn data of each operand; operands beyond the list use `-2..2` (integers: `0..8`).
    pub range: Vec<(f64, f64)>,
}

impl Sample {
    /// A case with default data.
    pub fn new(op: impl Into<crate::Op>, ins: &[(DType, &[usize])]) -> Sample {
        let ins = ins.iter().map(|(d, s)| Fact::of(*d, s)).collect();
        Sample { op: op.into(), ins, range: vec![] }
    }

    /// The same, with the range of each operand's data.
    #[must_use]
    pub fn with_range(mut self, range: &[(f64, f64)]) -> Sample {
        self.range = range.to_vec();
        self
    }
}

/// Fails unless the number of operands is in `range`.
pub fn expect_operands(ins: &[Fact], range: std::ops::RangeInclusive<usize>) -> Result<(), InferError> {
    if range.contains(&ins.len()) {
        return Ok(());
    }
    let expected = match (*range.start(), *range.end()) {
        (a, b) if a == b => a.to_string(),
        (a, usize::MAX) => format!("{a} or more"),
        (a, b) => format!("{a} to {b}"),
    };
    Err(InferError::new(format!("expected {expected} operands, found {}", ins.len())))
}

/// Fails unless operand `i` has one of `dtypes`.
pub fn expect_dtype(ins: &[Fact], i: usize, ok: impl Fn(DType) -> bool, expected: &str) -> Result<(), InferError> {
    let found = ins[i].dtype;
    if ok(found) {
        return Ok(());
    }
    Err(InferError::new(format!("operand {i}: expected {expected}, found {found}")))
}

/// Fails unless operands `i` and `j` have one dtype.
pub fn expect_same_dtype(ins: &[Fact], i: usize, j: usize) -> Result<(), InferError> {
    if ins[i].dtype == ins[j].dtype {
        return Ok(());
    }
    Err(InferError::new(format!(
        "operands {i} and {j}: expected one dtype, found {} and {}",
        ins[i].dtype, ins[j].dtype
    )))
}

/// `axis` of ONNX (negative counts from the end) as a position in `0..rank`.
pub fn resolve_axis(axis: i64, rank: usize) -> Result<usize, InferError> {
    let n = rank as i64;
    let a = if axis < 0 { axis + n } else { axis };
    usize::try_from(a).ok().filter(|&a| a < rank).ok_or_else(|| {
        InferError::new(format!("axis {axis} is out of range: expected -{n} to {} for rank {rank}", n - 1))
    })
}

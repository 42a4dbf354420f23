//! What the tables of functions of one element ([`super::unary`]) and of two ([`super::binary`]) have in common.

use crate::op::{InferError, Tolerance, expect_dtype};
use std::hash::{Hash, Hasher};
use tenon_base::{DType, Fact};

/// Dtypes that a function takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    Float,
    /// Floats and integers.
    Number,
    Int,
    Bool,
    Any,
}

impl Takes {
    /// Whether the first operand has such a dtype.
    pub(super) fn check(self, ins: &[Fact]) -> Result<(), InferError> {
        match self {
            Takes::Float => expect_dtype(ins, 0, DType::is_float, "a float dtype"),
            Takes::Number => expect_dtype(ins, 0, |d| d != DType::Bool, "a number dtype"),
            Takes::Int => expect_dtype(ins, 0, DType::is_int, "an integer dtype"),
            Takes::Bool => expect_dtype(ins, 0, |d| d == DType::Bool, "bool"),
            Takes::Any => Ok(()),
        }
    }
}

/// One function; its name is its identity.
#[derive(Debug)]
pub(super) struct Row<Float, Int, Kernel> {
    /// Its name in graph text.
    pub(super) name: &'static str,
    /// ONNX's; empty where the importer chooses the row otherwise.
    pub(super) onnx: &'static str,
    pub(super) takes: Takes,
    /// The result is `bool`.
    pub(super) test: bool,
    /// On floats, through `f64`.
    pub(super) float: Float,
    /// On integers and `bool`; wraps to the dtype afterwards.
    pub(super) int: Int,
    /// As kernel code.
    pub(super) expr: Kernel,
    pub(super) tolerance: Tolerance,
}

impl<Float, Int, Kernel> Row<Float, Int, Kernel> {
    /// Dtype of the result for operands of `dtype`.
    pub(super) fn result(&self, dtype: DType) -> DType {
        if self.test { DType::Bool } else { dtype }
    }
}

impl<Float, Int, Kernel> PartialEq for Row<Float, Int, Kernel> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl<Float, Int, Kernel> Eq for Row<Float, Int, Kernel> {}

impl<Float, Int, Kernel> Hash for Row<Float, Int, Kernel> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// The table `ROWS` of a family, a row a line: name, ONNX's name, dtypes, whether it is a test; on floats; on integers; as kernel
/// code; tolerance.
macro_rules! rows {
    ($($name:literal $onnx:literal $takes:ident $(test $test:literal)? ; $float:expr ; $int:expr ; $expr:expr ; $tol:ident)*) => {
        static ROWS: &[Row] = &[$(Row {
            name: $name, onnx: $onnx, takes: Takes::$takes, test: false $(|| $test)?,
            float: $float, int: $int, expr: $expr, tolerance: Tolerance::$tol,
        }),*];
    };
}
pub(super) use rows;

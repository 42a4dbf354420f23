//! One of two lists of values: `y_i = cond ? then_i : else_i`.
//!
//! ONNX: [If](https://onnx.ai/onnx/operators/onnx__If.html), all versions, whose condition is not known at compile time.
//!
//! Operands are the condition, the results of the first branch and those of the second. The branches themselves are
//! ordinary nodes of the graph, so that every rewrite and every fusion sees through them; which nodes a branch consists of
//! follows from their uses (see [`crate::gate`]), and the program runs only those of the side that is taken.

use crate::import::{ImportError, Importer, OnnxNode};
use crate::lower::{LowerCx, LowerError};
use crate::op::{InferError, OnnxName, OpClass, Operator, Sample};
use crate::{Attrs, ValueId, attributes};
use tenon_base::{DType, Fact, Tensor};

attributes! {
    /// See the module.
    pub struct Branch {}
}

impl Operator for Branch {
    fn names() -> Vec<&'static str> {
        vec!["if"]
    }

    // The importer of graphs makes it: the branches are subgraphs.
    fn onnx() -> Vec<OnnxName> {
        vec![]
    }

    fn name(&self) -> &'static str {
        "if"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Branch::from_attrs(attrs)
    }

    fn import(_: &OnnxNode<'_>, _: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        Err(ImportError::new("the branches are imported with the graph"))
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        if ins.len() < 3 || ins.len().is_multiple_of(2) {
            return Err(InferError::new(format!("expected 3, 5, 7, … operands, found {}", ins.len())));
        }
        if ins[0] != Fact::of(DType::Bool, &[]) {
            return Err(InferError::new(format!("operand 0: expected one bool, found {}", ins[0])));
        }
        let (then, otherwise) = ins[1..].split_at((ins.len() - 1) / 2);
        for (i, (a, b)) in then.iter().zip(otherwise).enumerate() {
            if a != b {
                return Err(InferError::new(format!("result {i} is {a} in one branch and {b} in the other")));
            }
        }
        Ok(then.to_vec())
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let (then, otherwise) = ins[1..].split_at((ins.len() - 1) / 2);
        Ok(if ins[0].get(0).as_int() != 0 { then } else { otherwise }.to_vec())
    }

    fn class(&self) -> OpClass {
        OpClass::Control
    }

    fn lower(&self, _: &mut LowerCx<'_>) -> Result<(), LowerError> {
        Err(LowerError("a branch is a step of the program, not a kernel".into()))
    }

    fn samples() -> Vec<Sample> {
        use DType::{Bool, F32, I64};
        let cond: (DType, &[usize]) = (Bool, &[]);
        vec![
            Sample::new(Branch {}, &[cond, (F32, &[3]), (F32, &[3])]),
            Sample::new(Branch {}, &[cond, (F32, &[2, 5]), (I64, &[]), (F32, &[2, 5]), (I64, &[])]),
            Sample::new(Branch {}, &[cond, (Bool, &[0, 4]), (Bool, &[0, 4])]),
        ]
    }
}

//! How an object is made, beyond its program and its target.

use tenon_base::Tensor;
use tenon_kernel::Program;

/// What is to be soon: code, or the end of its runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Haste {
    /// Code is as fast as it can be made.
    #[default]
    None,
    /// Code is made as fast as it can be: what will run once is not worth to be optimised.
    Most,
}

/// What an object holds beside the program's code.
#[derive(Clone, Debug, Default)]
pub struct ObjectOptions {
    /// The constant data go to a file of their own ([`crate::Object::weights_file`]), and `run` takes the address where the
    /// application has mapped it.
    pub separate_weights: bool,
    /// Known results: with any of them the object has a function `<model>_selftest`.
    pub golden: Vec<Golden>,
}

/// Inputs with the outputs that they must give.
#[derive(Clone, Debug)]
pub struct Golden {
    /// In the model's order.
    pub inputs: Vec<Tensor>,
    /// In the model's order.
    pub outputs: Vec<Tensor>,
}

/// Floating-point outputs may differ from the golden ones by this part of the output's largest magnitude; integers must be
/// equal.
pub const GOLDEN_TOLERANCE: f64 = 1e-5;

impl Golden {
    /// Whether the tensors are what `program` takes and gives.
    pub(crate) fn fits(&self, program: &Program) -> bool {
        let same = |io: &[tenon_kernel::Io], t: &[Tensor]| {
            io.len() == t.len() && io.iter().zip(t).all(|(io, t)| io.fact == t.fact())
        };
        same(&program.inputs, &self.inputs) && same(&program.outputs, &self.outputs)
    }
}

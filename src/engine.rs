//! The ways to execute a compiled model: the same case on all of them names the layer at fault.

use crate::{Compiled, Error, jit};
use std::fmt;
use std::str::FromStr;
use tenon_base::Tensor;

mod object;

/// A way to execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    /// The operators' reference evaluation, on the graph as imported.
    Reference,
    /// The kernel interpreter, on the scheduled program.
    Kernel,
    /// Machine code in this process.
    Jit,
    /// The object file, linked by the system's linker into a shared library and loaded.
    Object,
}

impl Engine {
    /// All engines, from the front of the compiler to its end.
    pub const ALL: [Engine; 4] = [Engine::Reference, Engine::Kernel, Engine::Jit, Engine::Object];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Reference => "reference",
            Engine::Kernel => "kernel",
            Engine::Jit => "jit",
            Engine::Object => "object",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Engine {
    type Err = String;
    fn from_str(s: &str) -> Result<Engine, String> {
        let all = Engine::ALL.map(Engine::name).join(", ");
        Engine::ALL.into_iter().find(|e| e.name() == s).ok_or_else(|| format!("`{s}` is not one of {all}"))
    }
}

/// A compiled model, ready to run on one engine.
#[derive(Debug)]
pub struct Session<'a> {
    compiled: &'a Compiled,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Reference,
    Kernel,
    Jit(Box<jit::Model>),
    Object(object::Linked),
}

impl<'a> Session<'a> {
    /// Prepares `engine`; for machine code this compiles (and links).
    ///
    /// # Errors
    /// If the target is not this machine, or there is no linker.
    pub fn new(engine: Engine, compiled: &'a Compiled) -> Result<Session<'a>, Error> {
        let kind = match engine {
            Engine::Reference => Kind::Reference,
            Engine::Kernel => Kind::Kernel,
            Engine::Jit => Kind::Jit(Box::new(compiled.jit()?)),
            Engine::Object => Kind::Object(object::Linked::new(compiled)?),
        };
        Ok(Session { compiled, kind })
    }

    /// Runs the model on `inputs`, in the model's order.
    ///
    /// # Errors
    /// [`Error::Input`] if the inputs do not fit; else what the engine says.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, Error> {
        jit::check_inputs(&self.compiled.program, inputs)?;
        match &self.kind {
            Kind::Reference => Ok(tenon_ir::eval::run(&self.compiled.graph, inputs)?),
            Kind::Kernel => Ok(tenon_kernel::run_program(&self.compiled.program, inputs)?),
            Kind::Jit(m) => m.run(inputs),
            Kind::Object(l) => l.run(&self.compiled.program, inputs),
        }
    }
}

//! The ways to execute a compiled model: the same case on all of them names the layer at fault.

use crate::{Compiled, Error, jit};
use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;
use tenon_base::Tensor;
use tenon_target::Target;

mod foreign;
mod link;
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
    /// The object file, linked by the system's linker: into a shared library that is loaded, or for another machine into a
    /// program that an emulator runs.
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

/// A compiled model, ready to run on one engine. What it keeps from run to run begins as zeros.
#[derive(Debug)]
pub struct Session<'a> {
    compiled: &'a Compiled,
    kind: Kind,
    states: RefCell<Vec<Tensor>>,
}

#[derive(Debug)]
enum Kind {
    Reference,
    Kernel,
    Jit(Box<jit::Model>),
    Object(object::Linked),
    Emulated(foreign::Emulated),
}

impl<'a> Session<'a> {
    /// Prepares `engine`; for machine code this compiles (and links).
    ///
    /// # Errors
    /// If the target is not this machine or has features that this machine lacks (but for [`Engine::Object`] with an
    /// emulator), or there is no linker or emulator.
    pub fn new(engine: Engine, compiled: &'a Compiled) -> Result<Session<'a>, Error> {
        let kind = match engine {
            Engine::Reference => Kind::Reference,
            Engine::Kernel => Kind::Kernel,
            Engine::Jit => Kind::Jit(Box::new(compiled.jit()?)),
            Engine::Object => match runs_here(&compiled.target) {
                Ok(true) => Kind::Object(object::Linked::new(compiled)?),
                // What this machine lacks an emulator may have, if one is named.
                Err(e) if !link::has_emulator(&compiled.target) => return Err(e),
                _ => Kind::Emulated(foreign::Emulated::new(compiled)?),
            },
        };
        Ok(Session { compiled, kind, states: RefCell::new(compiled.program.initial_states()) })
    }

    /// Makes what is kept from run to run what a first run finds.
    pub fn reset(&self) {
        *self.states.borrow_mut() = self.compiled.program.initial_states();
    }

    /// Runs the model on `inputs`, in the model's order.
    ///
    /// # Errors
    /// [`Error::Input`] if the inputs do not fit; else what the engine says.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, Error> {
        jit::check_inputs(&self.compiled.program, inputs)?;
        match &self.kind {
            Kind::Reference => self.reference(inputs),
            Kind::Kernel => {
                let p = &self.compiled.program;
                Ok(p.actual(tenon_kernel::run_program_on(p, inputs, &mut self.states.borrow_mut())?))
            }
            Kind::Jit(m) => {
                let mut runner = m.runner();
                let mut states = self.states.borrow_mut();
                runner.set_states(&states)?;
                let outputs = runner.run(inputs)?;
                *states = runner.states()?;
                Ok(outputs)
            }
            Kind::Object(l) => l.run(&self.compiled.program, inputs, &mut self.states.borrow_mut()),
            Kind::Emulated(e) => e.run(&self.compiled.program, inputs, &mut self.states.borrow_mut()),
        }
    }

    /// The graph has the states among its inputs and outputs.
    fn reference(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, Error> {
        let Compiled { graph, program, states: pairs, .. } = self.compiled;
        let mut states = self.states.borrow_mut();
        let mut given = inputs.iter();
        let all = graph.inputs().iter().map(|id| {
            let kept = match &graph.node(*id).kind {
                tenon_ir::NodeKind::Input(name) => program.states.iter().position(|s| s.name == *name),
                _ => None,
            };
            match kept {
                Some(k) => Some(states[k].clone()),
                None => given.next().cloned(),
            }
        });
        let all = all.collect::<Option<Vec<_>>>().ok_or_else(|| Error::Input("an input is missing".into()))?;
        let found = tenon_ir::eval::run(graph, &all)?;
        let mut outputs = vec![];
        for ((name, _), t) in graph.outputs().iter().zip(found) {
            let input = pairs.iter().find(|(_, o)| o == name).map(|(i, _)| i);
            match input.and_then(|i| program.states.iter().position(|s| s.name == *i)) {
                Some(k) => states[k] = t,
                None => outputs.push(t),
            }
        }
        Ok(program.actual(outputs))
    }
}

/// Whether code for `target` runs in this process.
///
/// # Errors
/// It would, but for features that this machine lacks: running it would end the process.
pub(crate) fn runs_here(target: &Target) -> Result<bool, Error> {
    let Ok(host) = tenon_target::host() else { return Ok(false) };
    if host.arch != target.arch || host.triple.operating_system != target.triple.operating_system {
        return Ok(false);
    }
    let missing = target.missing_on(&host);
    if missing.is_empty() {
        return Ok(true);
    }
    let names: Vec<&str> = missing.iter().map(|f| f.info().name).collect();
    Err(Error::Target(format!(
        "{target}: this machine ({host}) has no {}, so its code does not run here; compile it with `tenon compile`, or run \
         `--target host`",
        names.join(", ")
    )))
}

//! Machine code in this process.
//!
//! ```no_run
//! # fn main() -> Result<(), tenon::Error> {
//! let model = tenon::jit::Model::load("model.onnx".as_ref())?;
//! let outputs = model.run(&[tenon::Tensor::new(&[1, 1, 8, 8], &[0f32; 64])])?;
//! # Ok(()) }
//! ```

use crate::compiler::in_pool;
use crate::{Compiled, Compiler, Effort, Error, Options};
use std::path::Path;
use tenon_base::Tensor;
use tenon_cranelift::{AlignedBuf, Haste, Jit};
use tenon_kernel::{Io, Program};
use tenon_runtime::{Env, Parallel, Pool};

/// Threads for `program`; `None` where it has no use for more than the caller's.
pub(crate) fn pool_for(program: &Program) -> Option<Pool> {
    Some(program.threads()).filter(|n| *n > 1).map(Pool::new)
}

/// The environment of runs on `pool`.
pub(crate) fn env_of(pool: Option<&Pool>) -> Env {
    pool.map_or(Env::SERIAL, Parallel::env)
}

/// A model as machine code. Any number of threads may run it at once; the code is freed on drop.
#[derive(Debug)]
pub struct Model {
    jit: Jit,
    program: Program,
    /// Runs the parts of kernels, where there are any.
    pool: Option<Pool>,
}

impl Model {
    /// Compiles the model in the file `path` for this machine.
    ///
    /// # Errors
    /// All problems of the model.
    pub fn load(path: &Path) -> Result<Model, Error> {
        Model::load_with(path, Options::host()?)
    }

    /// The same with `options`, e.g. `Options::host()?.threads(2)`: the model then has a pool of threads. Runs of one model at the
    /// same time do not share it: one has it, the others run in their own thread.
    ///
    /// # Errors
    /// All problems of the model; [`Error::Target`] if the options are for another machine.
    pub fn load_with(path: &Path, options: Options) -> Result<Model, Error> {
        Compiler::new(options).compile_file(path)?.jit()
    }

    pub(crate) fn new(c: &Compiled) -> Result<Model, Error> {
        crate::engine::runs_here(&c.target)?;
        let haste = match c.effort {
            Effort::Quick => Haste::Most,
            Effort::Full => Haste::None,
        };
        let jit = in_pool(|| Jit::in_haste(&c.program, &c.target, haste))?;
        // The code holds its own copy of the weights; keep only the signature.
        let program = Program {
            name: c.program.name.clone(),
            inputs: c.program.inputs.clone(),
            outputs: c.program.outputs.clone(),
            states: c.program.states.clone(),
            sized: c.program.sized.clone(),
            bounded: c.program.bounded.clone(),
            arena_bytes: c.program.arena_bytes,
            ..Program::default()
        };
        let pool = pool_for(&c.program);
        Ok(Model { jit, program, pool })
    }

    /// Threads that a run may use.
    pub fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, Pool::threads)
    }

    /// Inputs, in the model's order.
    pub fn inputs(&self) -> &[Io] {
        &self.program.inputs
    }

    /// Outputs, in the model's order.
    pub fn outputs(&self) -> &[Io] {
        &self.program.outputs
    }

    /// Runs the model once.
    ///
    /// # Errors
    /// [`Error::Input`] if the inputs do not fit.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, Error> {
        self.runner().run(inputs)
    }

    /// Memory for running the model many times without allocating.
    pub fn runner(&self) -> Runner<'_> {
        Runner {
            model: self,
            inputs: self.program.inputs.iter().map(|i| AlignedBuf::new(bytes_of(i))).collect(),
            outputs: self.program.outputs.iter().map(|o| AlignedBuf::new(bytes_of(o))).collect(),
            arena: AlignedBuf::new(self.program.arena_bytes),
        }
    }
}

/// Input, output and working memory for one thread's runs of a [`Model`].
#[derive(Debug)]
pub struct Runner<'m> {
    model: &'m Model,
    inputs: Vec<AlignedBuf>,
    outputs: Vec<AlignedBuf>,
    arena: AlignedBuf,
}

impl Runner<'_> {
    /// Copies `inputs` in, for the runs that follow.
    ///
    /// # Errors
    /// [`Error::Input`] if they do not fit the model.
    pub fn set_inputs(&mut self, inputs: &[Tensor]) -> Result<(), Error> {
        check_inputs(&self.model.program, inputs)?;
        for (a, t) in self.inputs.iter_mut().zip(inputs) {
            a.as_mut_slice().copy_from_slice(t.bytes());
        }
        Ok(())
    }

    /// Runs the machine code on the inputs set before: no allocation, no copy.
    ///
    /// # Errors
    /// What the entry point returns.
    pub fn run_once(&mut self) -> Result<(), Error> {
        let ins: Vec<&[u8]> = self.inputs.iter().map(AlignedBuf::as_slice).collect();
        let mut outs: Vec<&mut [u8]> = self.outputs.iter_mut().map(AlignedBuf::as_mut_slice).collect();
        let env = env_of(self.model.pool.as_ref());
        // SAFETY: the environment is that of a pool, which lives as long as the model.
        unsafe { self.model.jit.run_with(&ins, &mut outs, &mut self.arena, &env) }
            .map_err(|s| Error::Run(format!("the model returned {s:?}")))
    }

    /// The results of the last run.
    ///
    /// # Errors
    /// Never, for a program that passed the verifier.
    pub fn outputs(&self) -> Result<Vec<Tensor>, Error> {
        to_tensors(&self.model.program, &self.outputs)
    }

    /// Sets what the model keeps from run to run to what a first run finds: zeros.
    pub fn reset(&mut self) {
        let n = self.model.program.state_bytes();
        self.arena.as_mut_slice()[..n].fill(0);
    }

    /// What the model keeps from run to run, in the order in which the states were named.
    ///
    /// # Errors
    /// Never, for a program that passed the verifier.
    pub fn states(&self) -> Result<Vec<Tensor>, Error> {
        get_states(&self.model.program, self.arena.as_slice())
    }

    /// Brings back what [`Runner::states`] gave.
    ///
    /// # Errors
    /// [`Error::Input`] if they are not of this model.
    pub fn set_states(&mut self, states: &[Tensor]) -> Result<(), Error> {
        let program = &self.model.program;
        if !program.states.iter().map(|s| &s.fact).eq(&states.iter().map(Tensor::fact).collect::<Vec<_>>()) {
            return Err(Error::Input("the states are not those of this model".into()));
        }
        put_states(program, states, self.arena.as_mut_slice());
        Ok(())
    }

    /// [`Runner::set_inputs`], [`Runner::run_once`], [`Runner::outputs`].
    ///
    /// # Errors
    /// As these.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, Error> {
        self.set_inputs(inputs)?;
        self.run_once()?;
        self.outputs()
    }
}

/// Fails unless `inputs` are what `program` takes; names the input at fault.
pub(crate) fn check_inputs(program: &Program, inputs: &[Tensor]) -> Result<(), Error> {
    let names = || program.inputs.iter().map(|i| format!("{}: {}", i.name, i.fact)).collect::<Vec<_>>().join(", ");
    if inputs.len() != program.inputs.len() {
        return Err(Error::Input(format!(
            "expected {} inputs ({}), found {}",
            program.inputs.len(),
            names(),
            inputs.len()
        )));
    }
    for (io, t) in program.inputs.iter().zip(inputs) {
        if io.fact != t.fact() {
            return Err(Error::Input(format!("input \"{}\": expected {}, found {}", io.name, io.fact, t.fact())));
        }
    }
    for (k, (least, most)) in &program.bounded {
        if let (Some(io), Some(n)) =
            (program.inputs.get(*k), inputs.get(*k).and_then(|t| t.to_i64().first().copied()))
            && !(*least..=*most).contains(&n)
        {
            return Err(Error::Input(match least == most {
                true => format!("input \"{}\": expected {least}, found {n}", io.name),
                false => format!("size \"{}\": expected {least} to {most}, found {n}", io.name),
            }));
        }
    }
    Ok(())
}

/// Copies states to where the program has them.
pub(crate) fn put_states(program: &Program, states: &[Tensor], arena: &mut [u8]) {
    for (at, t) in program.state_offsets().into_iter().zip(states) {
        arena[at..at + t.bytes().len()].copy_from_slice(t.bytes());
    }
}

/// Copies states from where the program has them.
pub(crate) fn get_states(program: &Program, arena: &[u8]) -> Result<Vec<Tensor>, Error> {
    let tensor = |(at, s): (usize, &tenon_kernel::State)| {
        let dims = s.fact.dims().unwrap_or_default();
        let bytes = dims.iter().product::<usize>() * s.fact.dtype.size();
        Tensor::from_bytes(s.fact.dtype, &dims, arena[at..at + bytes].to_vec().into())
            .map_err(|e| Error::Internal(format!("state \"{}\": {e}", s.name)))
    };
    program.state_offsets().into_iter().zip(&program.states).map(tensor).collect()
}

pub(crate) fn bytes_of(io: &Io) -> usize {
    io.fact.dims().map_or(0, |d| d.iter().product::<usize>()) * io.fact.dtype.size()
}

pub(crate) fn to_tensors(program: &Program, outputs: &[AlignedBuf]) -> Result<Vec<Tensor>, Error> {
    let tensor = |(io, a): (&Io, &AlignedBuf)| {
        let dims = io.fact.dims().unwrap_or_default();
        let data = a.as_slice().to_vec();
        Tensor::from_bytes(io.fact.dtype, &dims, data.into())
            .map_err(|e| Error::Internal(format!("output \"{}\": {e}", io.name)))
    };
    let all: Result<Vec<Tensor>, Error> = program.outputs.iter().zip(outputs).map(tensor).collect();
    Ok(program.actual(all?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenon_ir::Graph;

    const TEXT: &str = "graph g(%x: f32[1,64]) -> (\"y\": %1) {\n  %0 = add(%x, %x)\n  %1 = relu(%0)\n}\n";

    fn model() -> Model {
        let compiler = Compiler::new(Options::host().expect("this machine is known"));
        compiler.compile_graph(Graph::parse(TEXT).expect("it reads")).and_then(|c| c.jit()).expect("it compiles")
    }

    #[test]
    fn threads_share_a_model_and_keep_their_own_memory() {
        fn shared<T: Send + Sync>(_: &T) {}
        let model = model();
        shared(&model);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let model = &model;
                scope.spawn(move || {
                    let mut runner = model.runner();
                    for run in 0..200 {
                        let v = (thread * 1000 + run) as f32;
                        let out = runner.run(&[Tensor::new(&[1, 64], &[v; 64])]).expect("it runs");
                        assert_eq!(out[0].to_vec::<f32>(), [2.0 * v; 64]);
                    }
                });
            }
        });
    }

    /// Executable memory of this process that belongs to no file.
    #[cfg(target_os = "linux")]
    fn code_mappings() -> usize {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux has it");
        maps.lines().filter(|l| l.contains("r-xp") && l.split_whitespace().nth(5).is_none()).count()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn code_is_freed_with_the_model() {
        // Other tests of this process make and free code meanwhile: only a leak grows with the number of models.
        const MODELS: usize = 64;
        let before = code_mappings();
        let models: Vec<Model> = (0..MODELS).map(|_| model()).collect();
        assert!(code_mappings() >= before + MODELS / 2, "the code is seen");
        drop(models);
        assert!(code_mappings() < before + MODELS / 2, "the code is gone");
    }
}

//! From a model to a compiled program.

use crate::{Artifact, ArtifactOptions, Error, Recipe, Report, artifact, example, jit, recipe};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tenon_base::{Diagnostics, Loc, Tensor};
use tenon_cranelift::Object;
use tenon_frontend::{Given, ImportOptions, Imported, ModelInfo};
use tenon_ir::Graph;
use tenon_kernel::work::{Work, work_of_calls};
use tenon_kernel::{Call, Program};
use tenon_passes::pipeline::{Math, Phase, Settings, State};
use tenon_target::Target;

/// What to compile for, and what is known of the inputs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The machine.
    pub target: Target,
    /// Pinned dimensions, by name.
    pub dims: BTreeMap<String, i64>,
    /// Inputs pinned to a value, by name; they are no inputs of the compiled model.
    pub set: BTreeMap<String, Tensor>,
    /// What a run will be given: pins dimensions that nothing else pins, and sets inputs whose value the compile needs (see
    /// [`ImportOptions::data`]).
    pub data: BTreeMap<String, Tensor>,
    /// Inputs that are sequences or optionals: see [`ImportOptions::given`].
    pub given: BTreeMap<String, Given>,
    /// Pairs of an input and an output that are kept in the arena from run to run: neither is an input or output of the
    /// compiled model any more.
    pub states: Vec<(String, String)>,
    /// Which rewrites of floating-point arithmetic are allowed.
    pub math: Math,
    /// Threads that a run may use, at least 1. Large kernels are divided for as many; results do not depend on it.
    pub threads: usize,
    /// The model's name in symbols and files; by default from the file's name.
    pub name: Option<String>,
    /// How to compute a float model in integers.
    pub recipe: Option<Recipe>,
}

impl Options {
    /// For `target`, with nothing pinned.
    pub fn new(target: Target) -> Options {
        let (dims, set, data) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (given, states) = (BTreeMap::new(), vec![]);
        Options {
            target,
            dims,
            set,
            data,
            given,
            states,
            math: Math::default(),
            threads: 1,
            name: None,
            recipe: None,
        }
    }

    /// For this machine.
    ///
    /// # Errors
    /// [`Error::Target`] if this machine is none that Tenon generates code for.
    pub fn host() -> Result<Options, Error> {
        tenon_target::host().map(Options::new).map_err(Error::Target)
    }

    /// Pins dimension `name` to `value`.
    #[must_use]
    pub fn dim(mut self, name: impl Into<String>, value: i64) -> Options {
        self.dims.insert(name.into(), value);
        self
    }

    /// Pins input `name` to `value`.
    #[must_use]
    pub fn set(mut self, name: impl Into<String>, value: Tensor) -> Options {
        self.set.insert(name.into(), value);
        self
    }

    /// Keeps what a run gives as `output` for the next run to find as `input`.
    #[must_use]
    pub fn state(mut self, input: impl Into<String>, output: impl Into<String>) -> Options {
        self.states.push((input.into(), output.into()));
        self
    }

    /// Lets a run use `threads` threads.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Options {
        self.threads = threads;
        self
    }

    /// Names the compiled model.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Options {
        self.name = Some(name.into());
        self
    }
}

/// How long one pass took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassTiming {
    /// The pass.
    pub name: String,
    /// Wall time.
    pub time: Duration,
    /// How many things it changed.
    pub changed: usize,
}

/// The compiler.
#[derive(Clone, Debug)]
pub struct Compiler {
    options: Options,
}

impl Compiler {
    /// A compiler with `options`.
    pub fn new(options: Options) -> Compiler {
        Compiler { options }
    }

    /// Its options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    fn import_options(&self) -> ImportOptions {
        let Options { dims, set, data, given, .. } = &self.options;
        ImportOptions { dims: dims.clone(), set: set.clone(), data: data.clone(), given: given.clone() }
    }

    /// Reads a model without compiling it.
    ///
    /// # Errors
    /// All problems of the model.
    pub fn import_file(&self, path: &Path) -> Result<Imported, Error> {
        Ok(tenon_frontend::import_file(path, &self.import_options())?)
    }

    /// Compiles the model in the file `path`.
    ///
    /// # Errors
    /// All problems of the model; anything else is a bug.
    pub fn compile_file(&self, path: &Path) -> Result<Compiled, Error> {
        let start = Instant::now();
        let imported = self.import_file(path)?;
        if let Some(r) = &self.options.recipe {
            r.check_model(&recipe::hash_file(path)?).map_err(|e| Error::Input(e.to_string()))?;
        }
        let read = PassTiming { name: "import".into(), time: start.elapsed(), changed: imported.graph.len() };
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or("model");
        // ONNX's test layout calls every model `model.onnx`: the folder's name says more.
        let folder = path.parent().and_then(Path::file_name).and_then(|s| s.to_str());
        let stem = if stem == "model" { folder.unwrap_or(stem) } else { stem };
        let name = self.options.name.clone().unwrap_or_else(|| stem.to_string());
        self.compile(imported.graph, &name, imported.warnings, Some(imported.info), read)
    }

    /// Compiles an imported graph.
    ///
    /// # Errors
    /// What the passes say of the model; anything else is a bug.
    pub fn compile_graph(&self, graph: Graph) -> Result<Compiled, Error> {
        let name = self.options.name.clone().unwrap_or_else(|| graph.name.clone());
        let read = PassTiming { name: "import".into(), time: Duration::ZERO, changed: graph.len() };
        self.compile(graph, &name, Diagnostics::default(), None, read)
    }

    /// Runs the pipeline on a model up to phase `to`, for looking at.
    ///
    /// # Errors
    /// As [`Compiler::compile_file`].
    pub fn run_to(&self, graph: Graph, to: Phase) -> Result<State, Error> {
        let name = self.options.name.clone().unwrap_or_else(|| graph.name.clone());
        let graph = self.quantised(graph, &name)?;
        Ok(tenon_passes::run(graph, &self.settings(&name), to, &mut |_, _, _| {})?)
    }

    /// The graph with what the recipe says of it; itself where there is none.
    fn quantised(&self, graph: Graph, name: &str) -> Result<Graph, Error> {
        let Some(recipe) = &self.options.recipe else { return Ok(graph) };
        let state = tenon_passes::run(graph, &self.settings(name), Phase::Canonical, &mut |_, _, _| {})?;
        let mut graph = state.graph;
        tenon_passes::quantize::weights::in_floats(&mut graph)?;
        tenon_passes::quantize::recipe::insert(&mut graph, &recipe.choice())
            .map_err(|e| Error::Input(format!("the recipe does not fit the model: {e}")))?;
        Ok(graph)
    }

    fn settings(&self, name: &str) -> Settings {
        let Options { target, math, states, threads, .. } = &self.options;
        let (target, name, states) = (target.clone(), artifact::c_identifier(name), states.clone());
        Settings { target, math: *math, threads: *threads, name, states }
    }

    fn compile(
        &self,
        graph: Graph,
        name: &str,
        warnings: Diagnostics,
        info: Option<ModelInfo>,
        read: PassTiming,
    ) -> Result<Compiled, Error> {
        let graph = self.quantised(graph, name)?;
        let mut timings = vec![read];
        let mut work = vec![];
        let mut last = Instant::now();
        let state =
            tenon_passes::run(graph.clone(), &self.settings(name), Phase::Planned, &mut |pass, state, changed| {
                timings.push(PassTiming { name: pass.name.to_string(), time: last.elapsed(), changed });
                if pass.phase == Phase::Lowered {
                    let calls = state.program.calls().into_iter().map(|c| c.loc.clone());
                    work = calls.zip(work_of_calls(&state.program)).collect();
                }
                last = Instant::now();
            })?;
        let work = assign(&work, &state.program.calls());
        Ok(Compiled {
            graph,
            states: self.options.states.clone(),
            optimized: state.graph,
            program: state.program,
            target: self.options.target.clone(),
            warnings,
            info,
            timings,
            work,
            recipe: self.options.recipe.clone(),
        })
    }
}

/// A compiled model.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// As imported: what the reference interpreter runs.
    pub graph: Graph,
    /// Inputs and outputs of the graph that are kept from run to run.
    pub states: Vec<(String, String)>,
    /// After the graph passes.
    pub optimized: Graph,
    /// The kernels: what every other engine runs.
    pub program: Program,
    /// The machine it is compiled for.
    pub target: Target,
    /// What was noticed at import.
    pub warnings: Diagnostics,
    /// What the file says of itself, when it came from one.
    pub info: Option<ModelInfo>,
    /// How long each pass took, in order.
    pub timings: Vec<PassTiming>,
    /// What each call of the program computes.
    pub work: Vec<Work>,
    /// The recipe that it was compiled by.
    pub recipe: Option<Recipe>,
}

/// Gives the work of the calls as they were lowered to the calls as they are scheduled. Where the schedule has made several
/// calls of one, the first has the work of all.
fn assign(lowered: &[(Loc, Work)], calls: &[&Call]) -> Vec<Work> {
    let mut left: BTreeMap<Option<&str>, Vec<Work>> = BTreeMap::new();
    for (loc, w) in lowered.iter().rev() {
        left.entry(loc.name()).or_default().push(*w);
    }
    calls.iter().map(|c| left.get_mut(&c.loc.name()).and_then(Vec::pop).unwrap_or_default()).collect()
}

impl Compiled {
    /// A relocatable object for the target.
    ///
    /// # Errors
    /// A bug of the backend.
    pub fn object(&self) -> Result<Vec<u8>, Error> {
        Ok(tenon_cranelift::compile_object(&self.program, &self.target)?.bytes)
    }

    /// Everything `tenon compile` writes.
    ///
    /// # Errors
    /// A bug of the backend.
    pub fn artifact(&self) -> Result<Artifact, Error> {
        self.artifact_of(&self.object_with(&ArtifactOptions::default())?)
    }

    /// The object with everything that is known of it: code and stack of each function, weights, self-test.
    ///
    /// # Errors
    /// A bug of the backend.
    pub fn object_with(&self, options: &ArtifactOptions) -> Result<Object, Error> {
        artifact::object(self, options)
    }

    /// The files around `object`, which [`Compiled::object_with`] has made.
    ///
    /// # Errors
    /// A bug of the backend.
    pub fn artifact_of(&self, object: &Object) -> Result<Artifact, Error> {
        Artifact::new(self, object)
    }

    /// All kernel calls, in order.
    pub fn calls(&self) -> Vec<&Call> {
        self.program.calls()
    }

    /// Machine code in this process.
    ///
    /// # Errors
    /// If the target is not this machine, or a bug of the backend.
    pub fn jit(&self) -> Result<jit::Model, Error> {
        jit::Model::new(self)
    }

    /// Sizes, kernels and memory, for people and tools.
    pub fn report(&self) -> Report {
        Report::new(self)
    }

    /// Inputs drawn from `seed`: floats in -1..1, integers in 0..8.
    pub fn example_inputs(&self, seed: u64) -> Vec<Tensor> {
        self.program
            .inputs
            .iter()
            .enumerate()
            .map(|(i, io)| example::draw(&io.fact, seed ^ (i as u64) << 32))
            .collect()
    }
}

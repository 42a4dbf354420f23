//! From a model to a compiled program.

use crate::{Artifact, ArtifactOptions, Error, Recipe, Report, artifact, example, jit, recipe};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tenon_base::{DType, Diagnostics, Dim, Loc, Scalar, Tensor};
use tenon_cranelift::Object;
use tenon_frontend::{Given, ImportOptions, Imported, ModelInfo};
use tenon_ir::{Graph, NodeKind};
use tenon_kernel::work::{Work, work_of_calls};
use tenon_kernel::{Call, Program};
use tenon_passes::bounded::Bounded;
use tenon_passes::effort::Effort;
use tenon_passes::pipeline::{Math, Pass, Phase, Precision, Settings, State};
use tenon_passes::tuning::Considered;
use tenon_target::Target;

/// What to compile for, and what is known of the inputs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The machine.
    pub target: Target,
    /// Pinned dimensions, by name.
    pub dims: BTreeMap<String, i64>,
    /// Dimensions that are always another one, by name: what a model that names each on its own does not say.
    pub same: BTreeMap<String, String>,
    /// Bounded dimensions, by name: the model runs any size up to the bound.
    pub bounds: BTreeMap<String, i64>,
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
    /// What factors of `f32` products may be rounded to: a permission, used where the target has the instruction. With
    /// [`Precision::Bf16`], `math` cannot be [`Math::Strict`].
    pub precision: Precision,
    /// What a compile is to make as short as it can: a run, or with [`Effort::Quick`] all until the first result.
    pub effort: Effort,
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
            same: BTreeMap::new(),
            bounds: BTreeMap::new(),
            set,
            data,
            given,
            states,
            math: Math::default(),
            precision: Precision::default(),
            effort: Effort::default(),
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

    /// Says that dimension `name` is always `other`.
    #[must_use]
    pub fn same_dim(mut self, name: impl Into<String>, other: impl Into<String>) -> Options {
        self.same.insert(name.into(), other.into());
        self
    }

    /// Bounds dimension `name` by `most`: a run tells its size in an input of that name.
    #[must_use]
    pub fn bound(mut self, name: impl Into<String>, most: i64) -> Options {
        self.bounds.insert(name.into(), most);
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

    /// Says what is to be short.
    #[must_use]
    pub fn effort(mut self, effort: Effort) -> Options {
        self.effort = effort;
        self
    }

    /// Names the compiled model.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Options {
        self.name = Some(name.into());
        self
    }
}

/// `f`, run by one of the threads that share the work. Whoever waits for each share from outside is woken by the system as often, which
/// for a small model takes longer than the work.
pub(crate) fn in_pool<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| f())
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
        let Options { dims, same, bounds, set, data, given, .. } = self.options.clone();
        ImportOptions { dims, same, set, data, given, free: bounds.into_keys().collect() }
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
        in_pool(|| self.compile_file_here(path))
    }

    fn compile_file_here(&self, path: &Path) -> Result<Compiled, Error> {
        let start = Instant::now();
        self.prepare();
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
        let mut compiled = self.compile(imported.graph, &name, imported.warnings, Some(imported.info), read)?;
        for (name, v) in imported.required {
            if let Some(k) = compiled.program.inputs.iter().position(|i| i.name == name) {
                compiled.program.bounded.insert(k, (v, v));
            }
        }
        Ok(compiled)
    }

    /// Makes what compiling needs once in a process, on other threads, while this one reads the model: what is needed first comes first.
    fn prepare(&self) {
        let Options { target, math, .. } = self.options.clone();
        rayon::spawn(move || {
            tenon_frontend::prepare();
            tenon_passes::pipeline::prepare(math);
            tenon_cranelift::prepare(&target);
        });
    }

    /// Compiles an imported graph.
    ///
    /// # Errors
    /// What the passes say of the model; anything else is a bug.
    pub fn compile_graph(&self, graph: Graph) -> Result<Compiled, Error> {
        let name = self.options.name.clone().unwrap_or_else(|| graph.name.clone());
        let read = PassTiming { name: "import".into(), time: Duration::ZERO, changed: graph.len() };
        in_pool(|| self.compile(graph, &name, Diagnostics::default(), None, read))
    }

    /// Runs the pipeline on a model up to phase `to`, for looking at.
    ///
    /// # Errors
    /// As [`Compiler::compile_file`].
    pub fn run_to(&self, graph: Graph, to: Phase) -> Result<State, Error> {
        self.watch_to(graph, to, &mut |_, _, _| {})
    }

    /// The same; `watch` is told of each pass, what there is behind it, and how much it changed.
    ///
    /// # Errors
    /// As [`Compiler::compile_file`].
    pub fn watch_to(
        &self,
        graph: Graph,
        to: Phase,
        watch: &mut dyn FnMut(&Pass, &State, usize),
    ) -> Result<State, Error> {
        let name = self.options.name.clone().unwrap_or_else(|| graph.name.clone());
        Ok(self.pipeline(graph, &name, to, watch)?.2)
    }

    /// The graph that the options ask for (for every size of its bounded dimensions, with what the recipe says), and what the
    /// pipeline makes of it.
    fn pipeline(
        &self,
        graph: Graph,
        name: &str,
        to: Phase,
        watch: &mut dyn FnMut(&Pass, &State, usize),
    ) -> Result<(Graph, Bounded, State), Error> {
        if self.options.precision == Precision::Bf16 && self.options.math == Math::Strict {
            let help =
                "allow other orders of sums (`--math default`) or leave factors as they are (`--precision f32`)";
            return Err(Error::Input(format!(
                "precision bf16 rounds the factors of products, where strict mathematics keeps every bit; {help}"
            )));
        }
        let (graph, bounded) = self.bounded(graph)?;
        let graph = self.quantised(graph, name)?;
        let mut state = tenon_passes::run(graph.clone(), &self.settings(name), to, watch)?;
        let place = |name: &str| state.program.inputs.iter().position(|i| i.name == name);
        let sizes = bounded.dims.iter().filter_map(|b| Some((place(&b.name)?, (b.least, b.most))));
        state.program.bounded = sizes.collect();
        Ok((graph, bounded, state))
    }

    /// The graph for every size of its bounded dimensions and of what data count; itself where there is neither.
    fn bounded(&self, graph: Graph) -> Result<(Graph, Bounded), Error> {
        let Options { bounds, states, .. } = &self.options;
        if bounds.is_empty() && !tenon_passes::bounded::has_counts(&graph) {
            return Ok((graph, Bounded::default()));
        }
        for (input, output) in states {
            let place = |id: &&tenon_ir::NodeId| matches!(&graph.node(**id).kind, NodeKind::Input(n) if n == input);
            let from = graph.inputs().iter().find(place).map(|id| graph.node(*id).facts[0].shape.clone());
            let to = graph.outputs().iter().find(|(n, _)| n == output).map(|(_, v)| graph.fact(*v).shape.clone());
            // Names that are not there are told of later.
            if let (Some(from), Some(to)) = (from, to)
                && from != to
            {
                let help = "dimensions that are always equal can be said to be: `--dim NAME=OTHER`";
                return Err(Error::Input(format!(
                    "state {input}={output}: {input} is {from}, {output} is {to}; {help}"
                )));
            }
        }
        tenon_passes::bounded::bound(&graph, bounds).map_err(|e| match e {
            tenon_passes::bounded::BoundError::Internal(_) => Error::Internal(e.to_string()),
            e => Error::Input(e.to_string()),
        })
    }

    /// The graph with what the recipe says of it; itself where there is none.
    fn quantised(&self, graph: Graph, name: &str) -> Result<Graph, Error> {
        let Some(recipe) = self.options.recipe.as_ref().filter(|r| r.quantises()) else { return Ok(graph) };
        let state = tenon_passes::run(graph, &self.settings(name), Phase::Canonical, &mut |_, _, _| {})?;
        let mut graph = state.graph;
        tenon_passes::quantize::weights::in_floats(&mut graph)?;
        tenon_passes::quantize::recipe::insert(&mut graph, &recipe.choice())
            .map_err(|e| Error::Input(format!("the recipe does not fit the model: {e}")))?;
        Ok(graph)
    }

    fn settings(&self, name: &str) -> Settings {
        let Options { target, math, precision, effort, states, threads, .. } = &self.options;
        let (target, name, states) = (target.clone(), artifact::c_identifier(name), states.clone());
        let tuning = self.options.recipe.as_ref().map(|r| r.tuning(&target.name)).unwrap_or_default();
        let (precision, effort, threads) = (*precision, *effort, *threads);
        Settings { precision, effort, states, threads, tuning, ..Settings::new(target, *math, &name) }
    }

    fn compile(
        &self,
        graph: Graph,
        name: &str,
        warnings: Diagnostics,
        info: Option<ModelInfo>,
        read: PassTiming,
    ) -> Result<Compiled, Error> {
        let mut timings = vec![read];
        let mut work = vec![];
        let mut last = Instant::now();
        let (graph, bounded, state) = self.pipeline(graph, name, Phase::Planned, &mut |pass, state, changed| {
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
            bounded,
            optimized: state.graph,
            program: state.program,
            target: self.options.target.clone(),
            effort: self.options.effort,
            warnings,
            info,
            timings,
            work,
            recipe: self.options.recipe.clone(),
            considered: state.considered,
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
    /// Dimensions with a bound, and the shapes that the inputs have by them.
    pub bounded: Bounded,
    /// After the graph passes.
    pub optimized: Graph,
    /// The kernels: what every other engine runs.
    pub program: Program,
    /// The machine it is compiled for.
    pub target: Target,
    /// What was to be short.
    pub effort: Effort,
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
    /// How its contractions could be tiled.
    pub considered: Vec<Considered>,
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

    /// The kernel calls that multiply factors rounded to `bf16`: see [`Options::precision`].
    pub fn rounded_calls(&self) -> usize {
        let rounds: Vec<bool> = self.program.kernels.iter().map(tenon_kernel::bf16::multiplies).collect();
        self.program.calls().iter().filter(|c| rounds[c.kernel]).count()
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

    /// `data` in the form that a run takes where the model has bounded dimensions: every tensor with the extents of the largest
    /// size, zeros behind its end, and the sizes by the names of the dimensions. `data` itself where it has none.
    ///
    /// # Errors
    /// [`Error::Input`] where a tensor does not fit the model, two disagree, or a size is beyond its bound.
    pub fn fill(&self, data: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, Error> {
        let mut all = data.clone();
        if self.bounded.dims.is_empty() {
            return Ok(all);
        }
        let mut sizes: BTreeMap<String, i64> = BTreeMap::new();
        for (name, shape) in &self.bounded.inputs {
            let Some(t) = data.get(name) else { continue };
            let wrong = || Error::Input(format!("input \"{name}\": expected {shape}, found {}", t.fact()));
            if shape.rank() != t.shape().len() {
                return Err(wrong());
            }
            for (d, &n) in shape.0.iter().zip(t.shape()) {
                if let Dim::Sym(symbol) = d {
                    let known = *sizes.entry(symbol.to_string()).or_insert(n as i64);
                    if known != n as i64 {
                        let why = format!("{}, and `{symbol}` is {known} elsewhere", wrong());
                        return Err(Error::Input(why));
                    }
                }
            }
            let actual = |d: &Dim| d.substitute(&|s| sizes.get(s).copied()).as_usize();
            if shape.0.iter().zip(t.shape()).any(|(d, n)| actual(d).is_some_and(|a| a != *n)) {
                return Err(wrong());
            }
        }
        for b in &self.bounded.dims {
            let Some(&n) = sizes.get(&b.name) else { continue };
            if n < b.least || n > b.most {
                let (least, most) = (b.least, b.most);
                return Err(Error::Input(format!("dimension `{}` is {n}: expected {least} to {most}", b.name)));
            }
            all.insert(b.name.clone(), Tensor::full(&[], Scalar::of_int(DType::I64, i128::from(n))));
        }
        for io in &self.program.inputs {
            if let (Some(t), Some(dims)) = (data.get(&io.name), io.fact.dims())
                && self.bounded.inputs.contains_key(&io.name)
            {
                let wide = t.widened(&dims).map_err(|e| Error::Input(format!("input \"{}\": {e}", io.name)))?;
                all.insert(io.name.clone(), wide);
            }
        }
        Ok(all)
    }

    /// Inputs drawn from `seed`: floats in -1..1, integers in 0..8.
    pub fn example_inputs(&self, seed: u64) -> Vec<Tensor> {
        self.program
            .inputs
            .iter()
            .enumerate()
            .map(|(i, io)| match self.program.bounded.get(&i) {
                Some((_, most)) => Tensor::full(&[], Scalar::of_int(DType::I64, i128::from(*most))),
                None => example::draw(&io.fact, seed ^ (i as u64) << 32),
            })
            .collect()
    }
}

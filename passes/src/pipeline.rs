//! The compiler's table of contents: every pass, in order.

use crate::effort::Effort;
use crate::tuning::{Considered, Tuning};
use crate::{
    algorithm, bands, egraph, fold, group, layout, normalize, plan, prefetch, quantize, rows, schedule, steps,
    threads,
};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use tenon_base::{Diagnostic, Diagnostics, Loc};
use tenon_ir::text::PrintOptions;
use tenon_ir::{Graph, NodeId, Op, Region, ValueId};
use tenon_kernel::{Program, Stage, VerifyError, verify_around, verify_kernel};
use tenon_target::Target;

/// Where one can stop, in order. The state is printable at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// As the importer made it.
    Imported,
    /// Folded, in normal form.
    Canonical,
    /// Integer operators in place of quantise-dequantise pairs.
    Quantized,
    /// Rewritten for speed.
    Optimized,
    /// Partitioned into kernels.
    Grouped,
    /// A program of structured kernels.
    Lowered,
    /// A program of scheduled kernels.
    Scheduled,
    /// With an arena layout: what a backend takes.
    Planned,
}

impl Phase {
    /// All phases, in order.
    pub const ALL: [Phase; 8] = [
        Phase::Imported,
        Phase::Canonical,
        Phase::Quantized,
        Phase::Optimized,
        Phase::Grouped,
        Phase::Lowered,
        Phase::Scheduled,
        Phase::Planned,
    ];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Imported => "imported",
            Phase::Canonical => "canonical",
            Phase::Quantized => "quantized",
            Phase::Optimized => "optimized",
            Phase::Grouped => "grouped",
            Phase::Lowered => "lowered",
            Phase::Scheduled => "scheduled",
            Phase::Planned => "planned",
        }
    }

    /// The phase called `name`.
    pub fn parse(name: &str) -> Option<Phase> {
        Phase::ALL.into_iter().find(|p| p.name() == name)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which rewrites of floating-point arithmetic are allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Math {
    /// Only those that keep every bit.
    Strict,
    /// Also other orders of sums and products, and zero for results below the least normal number where the machine is slow with those:
    /// [`tenon_kernel::Program::flush_to_zero`].
    #[default]
    Default,
    /// Also approximations with a stated bound.
    Fast,
}

/// What factors of products of `f32` may be rounded to; sums stay `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// Nothing else.
    #[default]
    F32,
    /// `bf16`, to nearest even, where the target multiplies it: each factor moves by at most 2⁻⁸ of itself, and so does what is kept in
    /// memory to be added to a sum of products.
    Bf16,
}

/// What a compile is for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The machine; only the optimiser's prices and the schedule read it.
    pub target: Target,
    /// Allowed rewrites.
    pub math: Math,
    /// What factors of products may be rounded to.
    pub precision: Precision,
    /// What is to be short: a run, or all until the first result.
    pub effort: Effort,
    /// The program's name: a C identifier.
    pub name: String,
    /// Threads that a run may use, 1 to [`tenon_kernel::Kernel::MAX_PARTS`].
    pub threads: usize,
    /// Inputs and outputs that are kept from run to run: see [`steps::lower`].
    pub states: Vec<(String, String)>,
    /// Tiles that were measured.
    pub tuning: Tuning,
}

impl Settings {
    /// For one thread of `target`; the program is called `name`.
    pub fn new(target: Target, math: Math, name: &str) -> Settings {
        let (precision, effort) = (Precision::default(), Effort::default());
        let (name, tuning) = (name.to_string(), Tuning::default());
        Settings { target, math, precision, effort, name, threads: 1, states: vec![], tuning }
    }

    /// Whether products are computed of factors rounded to `bf16`: it is allowed, and the target has the instruction.
    pub fn rounds_factors(&self) -> bool {
        self.precision == Precision::Bf16 && self.math > Math::Strict && self.target.multiplies_bf16()
    }
}

/// What the passes work on.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The graph; stays as it is from `Grouped` on.
    pub graph: Graph,
    /// The partition into kernels, from `Grouped` on.
    pub groups: Vec<group::Group>,
    /// The bodies of loops, by their nodes, each on its own: from `Grouped` on.
    pub regions: BTreeMap<NodeId, State>,
    /// What the optimiser decided, from `Grouped` on.
    pub decisions: egraph::decisions::Decisions,
    /// The program, from `Lowered` on.
    pub program: Program,
    /// Kernels that run together, a block of rows at a time: from `Lowered` on.
    pub blocked: Vec<rows::Blocked>,
    /// How contractions could be tiled, from `Scheduled` on.
    pub considered: Vec<Considered>,
}

impl State {
    /// The text of the state at `phase`, long constants elided when `elide`.
    pub fn print(&self, phase: Phase, elide: bool) -> String {
        match phase {
            Phase::Lowered | Phase::Scheduled | Phase::Planned => {
                let options = tenon_kernel::text::PrintOptions { longest_const: elide.then_some(16) };
                tenon_kernel::text::print_program(&self.program, &options)
            }
            Phase::Grouped => {
                let bodies = self.regions.values().map(|s| format!("// body\n{}", s.print(phase, elide)));
                self.print_graph(elide) + &group::print(&self.graph, &self.groups) + &bodies.collect::<String>()
            }
            _ => self.print_graph(elide),
        }
    }

    fn print_graph(&self, elide: bool) -> String {
        let options = if elide { PrintOptions::for_reading() } else { PrintOptions::default() };
        tenon_ir::text::print(&self.graph, &options)
    }
}

/// A pass that could not do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassError {
    /// The model cannot be compiled as it is: all reasons.
    Model(Diagnostics),
    /// A pass broke an invariant: a bug of the compiler.
    Internal {
        /// Which pass.
        pass: String,
        /// What the verifier (or the pass) says.
        message: String,
    },
}

impl fmt::Display for PassError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PassError::Model(d) => d.fmt(f),
            PassError::Internal { pass, message } => {
                write!(f, "internal error in pass `{pass}` (please report it): {message}")
            }
        }
    }
}
impl std::error::Error for PassError {}

/// One pass.
#[derive(Clone, Copy)]
pub struct Pass {
    /// For dumps, timings and messages.
    pub name: &'static str,
    /// The phase that is reached when the last pass of this phase has run.
    pub phase: Phase,
    /// In a sentence.
    pub doc: &'static str,
    /// The work; gives how many things it changed.
    pub run: fn(&mut State, &Settings) -> Result<usize, PassError>,
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.phase)
    }
}

/// Every pass, in order.
pub const PIPELINE: &[Pass] = &[
    Pass {
        name: "check-dims",
        phase: Phase::Imported,
        doc: "every dimension must be known: native code is made for one shape",
        run: check_dims,
    },
    Pass {
        name: "stored-weights",
        phase: Phase::Canonical,
        doc: "constant bytes that are converted and scaled are dequantised",
        run: |s, _| quantize::weights::recognise(&mut s.graph),
    },
    Pass {
        name: "fold",
        phase: Phase::Canonical,
        doc: "operators on constants become constants",
        run: |s, _| fold::fold(&mut s.graph),
    },
    Pass {
        name: "normalize",
        phase: Phase::Canonical,
        doc: "always-good rewrites to normal forms",
        run: |s, x| normalize::normalize(&mut s.graph, x.math),
    },
    Pass {
        name: "integers",
        phase: Phase::Quantized,
        doc: "regions that dequantise, compute and quantise become integer operators",
        run: |s, x| quantize::integers(&mut s.graph, x.math),
    },
    Pass {
        name: "channels-last",
        phase: Phase::Optimized,
        doc: "convolutions and poolings read and write channels last; transposes sink and cancel",
        run: |s, _| layout::channels_last(&mut s.graph),
    },
    Pass {
        name: "fold-again",
        phase: Phase::Optimized,
        doc: "constants that the layout moved",
        run: |s, _| fold::fold(&mut s.graph),
    },
    Pass {
        name: "normalize-again",
        phase: Phase::Optimized,
        doc: "rewrites that the layout made possible",
        run: |s, x| normalize::normalize(&mut s.graph, x.math),
    },
    Pass {
        name: "algorithms",
        phase: Phase::Optimized,
        doc: "convolutions by minimal filtering where the target gains from it",
        run: |s, x| algorithm::choose(&mut s.graph, x),
    },
    Pass {
        name: "egraph",
        phase: Phase::Grouped,
        doc: "rules add other forms of every value; the kernels that cost least are chosen",
        run: |s, x| egraph::run(s, x),
    },
    Pass {
        name: "group",
        phase: Phase::Grouped,
        doc: "every operator that moves or computes is in a kernel, and kernels run in order",
        run: |s, _| group::check(&s.graph, &s.groups),
    },
    Pass {
        name: "lower",
        phase: Phase::Lowered,
        doc: "each group becomes a structured kernel",
        run: |s, x| {
            s.program = steps::lower(s, &x.name, &x.states)?;
            Ok(s.program.kernels.len())
        },
    },
    Pass {
        name: "rows",
        phase: Phase::Lowered,
        doc: "kernels that hand each other rows run together, a block of rows at a time",
        run: |s, x| {
            s.blocked = rows::run(&mut s.program, &x.target);
            Ok(s.blocked.len())
        },
    },
    Pass {
        name: "bands",
        phase: Phase::Lowered,
        doc: "convolutions that hand each other images run together, a band of rows at a time",
        run: |s, x| {
            let found = bands::run(&mut s.program, &x.target);
            s.blocked.extend(found.iter().cloned());
            Ok(found.len())
        },
    },
    Pass {
        name: "schedule",
        phase: Phase::Scheduled,
        doc: "tiles, packs, vectorises and unrolls for the target",
        run: |s, x| {
            let reassociate = x.math > Math::Strict;
            let cx = schedule::ScheduleCx {
                target: &x.target,
                reassociate,
                bf16: x.rounds_factors(),
                price: x.effort.price(),
                tuning: &x.tuning,
            };
            let kernels = std::mem::take(&mut s.program.kernels);
            let around = s.program.clone();
            s.program.kernels = kernels;
            let lowered = &s.program;
            // What is made of kernels that turn out to be wrong is not used.
            let (scheduled, verified) = rayon::join(
                || schedule::schedule_program(around, &lowered.kernels, &cx),
                || if cfg!(debug_assertions) { Ok(()) } else { verify_kernels("lower", lowered, Stage::Structured) },
            );
            verified?;
            (s.program, s.considered) =
                scheduled.map_err(|e| PassError::Internal { pass: "schedule".into(), message: e.to_string() })?;
            Ok(s.program.kernels.len())
        },
    },
    Pass {
        name: "threads",
        phase: Phase::Scheduled,
        doc: "large kernels are divided into parts, one a thread",
        run: |s, x| Ok(threads::divide(&mut s.program, &threads::Threads::new(x.threads, &x.target))),
    },
    Pass {
        name: "prefetch",
        phase: Phase::Scheduled,
        doc: "weights that one tile after the other reads are fetched while the ones before them are used",
        run: |s, x| Ok(prefetch::run(&mut s.program, &x.target, x.effort.price())),
    },
    Pass {
        name: "plan",
        phase: Phase::Planned,
        doc: "every temporary gets its place in the arena",
        run: |s, _| Ok(plan::plan(&mut s.program).buffers),
    },
];

/// Makes what compiling with `math` needs once in a process: it is there when the first model is.
pub fn prepare(math: Math) {
    // Rules that cannot be read are told of where they are used.
    let _ = egraph::rules::ready(math);
}

/// Runs the pipeline on `graph` up to and including `to`. `watch` is told of every pass as it ends: the pass, the
/// state after it and how many things it changed.
///
/// The verifier runs after every pass. Kernels are the most work: without debug assertions, structured ones are verified while they are
/// scheduled, and scheduled ones not here, as a backend does it while it makes code of them.
pub fn run(
    graph: Graph,
    settings: &Settings,
    to: Phase,
    watch: &mut dyn FnMut(&Pass, &State, usize),
) -> Result<State, PassError> {
    let mut state = State { graph, ..State::default() };
    fold::allow_for_weights(&mut state.graph);
    for pass in PIPELINE.iter().filter(|p| p.phase <= to) {
        let changed = apply(pass, &mut state, settings)?;
        verify(pass, &state, changed, to)?;
        watch(pass, &state, changed);
    }
    Ok(state)
}

/// Runs `pass` on the bodies of loops, and on the graph around them.
fn apply(pass: &Pass, state: &mut State, settings: &Settings) -> Result<usize, PassError> {
    let mut changed = 0;
    if pass.phase <= Phase::Grouped {
        let loops: Vec<NodeId> =
            state.graph.nodes().filter(|id| matches!(state.graph.op(*id), Some(Op::Repeat(_)))).collect();
        for id in loops {
            let Some(Op::Repeat(op)) = state.graph.op(id) else { continue };
            let mut op = op.clone();
            let graph = op.body.graph().clone();
            let mut inner = State { graph, ..state.regions.remove(&id).unwrap_or_default() };
            let inside = apply(pass, &mut inner, settings)?;
            if inside > 0 {
                op.body = Region::new(inner.graph.clone());
                let set = state.graph.set_op(id, op);
                set.map_err(|e| PassError::Internal { pass: pass.name.to_string(), message: e.to_string() })?;
            }
            if pass.phase == Phase::Grouped {
                state.regions.insert(id, inner);
            }
            changed += inside;
        }
    }
    Ok(changed + (pass.run)(state, settings)?)
}

/// What `pass` made of `state`, of which it changed so much, on the way to `to`.
fn verify(pass: &Pass, state: &State, changed: usize, to: Phase) -> Result<(), PassError> {
    let internal = |message: String| PassError::Internal { pass: pass.name.to_string(), message };
    let stage = match pass.phase {
        // What was valid before, and is as it was.
        Phase::Canonical | Phase::Quantized | Phase::Optimized if changed == 0 && !cfg!(debug_assertions) => {
            return Ok(());
        }
        Phase::Imported | Phase::Canonical | Phase::Quantized | Phase::Optimized | Phase::Grouped => {
            return tenon_ir::verify::verify(&state.graph)
                .map_err(|e| internal(tenon_ir::verify::report(&state.graph, &e)));
        }
        Phase::Lowered if cfg!(debug_assertions) || to == Phase::Lowered => Stage::Structured,
        Phase::Scheduled | Phase::Planned if cfg!(debug_assertions) => Stage::Scheduled,
        Phase::Lowered | Phase::Scheduled | Phase::Planned => return Ok(()),
    };
    verify_kernels(pass.name, &state.program, stage)
}

/// What `pass` made of a program: its kernels, and what is around them.
fn verify_kernels(pass: &str, program: &Program, stage: Stage) -> Result<(), PassError> {
    let kernels = program.kernels.par_iter().with_max_len(1).filter_map(|k| verify_kernel(k, stage).err());
    let mut errors: Vec<VerifyError> = kernels.flatten_iter().collect();
    if errors.is_empty() {
        errors = verify_around(program).err().unwrap_or_default();
    }
    if errors.is_empty() {
        return Ok(());
    }
    let message = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    Err(PassError::Internal { pass: pass.to_string(), message })
}

/// Free dimensions, all of them, with the node that has each first.
fn check_dims(state: &mut State, _: &Settings) -> Result<usize, PassError> {
    let g = &state.graph;
    let mut free = BTreeSet::new();
    for &id in g.inputs() {
        g.fact(ValueId { node: id, port: 0 }).shape.0.iter().for_each(|d| d.symbols(&mut free));
    }
    let mut problems = Diagnostics::default();
    if !free.is_empty() {
        let names: Vec<&str> = free.iter().map(|s| &**s).collect();
        problems.push(
            Diagnostic::error(format!("the dimensions {} are not known", names.join(", ")))
                .with_help(format!("pin them: {}", tenon_ir::import::free_dims_help(&free))),
        );
    } else {
        for id in g.nodes() {
            let node = g.node(id);
            if let Some(fact) = node.facts.iter().find(|f| f.dims().is_none()) {
                let op = g.op(id).map_or("", |o| tenon_ir::Operator::name(o));
                problems.push(
                    Diagnostic::error(format!("the shape of the result, {fact}, is not known at compile time"))
                        .at(Loc::clone(&node.loc), op),
                );
            }
        }
    }
    if problems.has_errors() { Err(PassError::Model(problems)) } else { Ok(0) }
}

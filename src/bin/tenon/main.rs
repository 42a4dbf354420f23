//! The command `tenon`: one file a subcommand; what they share lies beside them.

mod args;
mod audit;
mod bench;
mod budget;
mod case;
mod check;
mod compare;
mod compile;
mod explain;
mod failure;
mod inputs;
mod model;
mod opt;
mod output;
mod panels;
mod peak;
mod picture;
mod prepared;
mod profile;
mod progress;
mod quantize;
mod report;
mod roofline;
mod roofs;
mod rules;
mod run;
mod targets;
mod tensors;
mod tune;
mod verify;

use clap::{Parser, Subcommand};
use failure::{EXIT_CODES, Failure, Outcome};
use std::process::ExitCode;

/// A compile makes and drops millions of small nodes on all cores; the system's allocator takes an eighth longer for all of it. Only
/// the command chooses: an application that compiles by the library has an allocator of its own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Compiles trained ONNX models to native code: no runtime, no interpreter, no allocator.
#[derive(Debug, Parser)]
#[command(name = "tenon", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print JSON instead of text, errors included.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say whether a model can be compiled: every problem, and a table of its operators.
    Check(check::Args),
    /// Compile a model to an object, an archive, a C header, a Rust module and a report.
    Compile(compile::Args),
    /// Compile a model for this machine and run it.
    Run(run::Args),
    /// Compare compiled models with reference outputs.
    Verify(verify::Args),
    /// Measure how fast a compiled model runs here.
    Bench(bench::Args),
    /// Show where the time of a compiled model goes, kernel call by kernel call.
    Profile(profile::Args),
    /// Find how to compute a float model in integers, from samples.
    Quantize(quantize::Args),
    /// Measure how the loops of a model are best tiled on this machine.
    Tune(tune::Args),
    /// Print a model in the compiler's own terms, at any phase.
    Opt(opt::Args),
    /// Show what is in an object or archive, and that it needs nothing from elsewhere.
    Audit(audit::Args),
    /// Write a page about a compiled model: sizes, memory over time, kernels by cost.
    Report(report::Args),
    /// Say what the optimiser decided and why: rules, near misses, kernels and what lost against them.
    Explain(explain::Args),
    /// List the rewrite rules.
    Rules(rules::Args),
    /// List the machines that code can be generated for.
    Targets(targets::Args),
    /// One case of `verify`, in a process of its own.
    #[command(hide = true)]
    VerifyWorker(verify::WorkerArgs),
}

fn main() -> ExitCode {
    start_threads();
    let cli = Cli::parse();
    let json = cli.json;
    // A panic is a bug of Tenon: say so instead of leaving a bare backtrace.
    let outcome = std::panic::catch_unwind(move || dispatch(cli.command, json))
        .unwrap_or_else(|_| Err(Failure::internal("internal error: Tenon panicked (see above); please report it")));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(f) => {
            if json && !f.told {
                output::json(&f.to_json());
            }
            eprintln!("{f}");
            f.exit_code()
        }
    }
}

/// Starts the threads that share a compile's work. This one takes part in it instead of handing it over, and the others begin while there is
/// nothing to do yet: systems put a thread that begins beside a busy one, where it waits for some milliseconds until it is moved to an idle
/// core. If it fails, there is a pool once it is asked for.
fn start_threads() {
    let _ = rayon::ThreadPoolBuilder::new().use_current_thread().build_global();
}

fn dispatch(command: Command, json: bool) -> Outcome {
    match command {
        Command::Check(a) => check::main(&a, json),
        Command::Compile(a) => compile::main(&a, json),
        Command::Run(a) => run::main(&a, json),
        Command::Verify(a) => verify::main(&a, json),
        Command::Bench(a) => bench::main(&a, json),
        Command::Profile(a) => profile::main(&a, json),
        Command::Quantize(a) => quantize::main(&a, json),
        Command::Tune(a) => tune::main(&a, json),
        Command::Opt(a) => opt::main(&a, json),
        Command::Audit(a) => audit::main(&a, json),
        Command::Report(a) => report::main(&a, json),
        Command::Explain(a) => explain::main(&a, json),
        Command::Rules(a) => rules::main(&a, json),
        Command::Targets(a) => targets::main(&a, json),
        Command::VerifyWorker(a) => verify::worker(&a),
    }
}

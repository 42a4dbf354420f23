//! The process that runs one case and tells its results as lines of JSON.

use super::result::{Event, Ran};
use super::{CheckArgs, WorkerArgs, per_node};
use crate::case::{self, Case, Stated};
use crate::compare::compare;
use crate::failure::{Failure, Outcome};
use crate::model::{Declared, declared_inputs};
use crate::inputs;
use std::collections::BTreeMap;
use std::io::Write;
use tenon::engine::{Engine, Session};
use tenon::{Compiled, Compiler, Error, Severity, Tensor};

pub(crate) fn main(args: &WorkerArgs) -> Outcome {
    if let Err(f) = run(args) {
        // The model is refused, or a file is at fault; either way the parent has a line to print.
        tell(&if f.problems.0.is_empty() { Event::Error(f.message) } else { Event::Unsupported(f.message) });
    }
    tell(&Event::Done);
    Ok(())
}

/// Writes one line at once, so that a crash later loses nothing.
pub(super) fn tell(event: &Event) {
    if let Ok(mut line) = serde_json::to_string(event) {
        line.push('\n');
        // If the parent is gone there is nobody to tell.
        let _ = std::io::stdout().lock().write_all(line.as_bytes());
    }
}

/// A data set: inputs, and the outputs expected of them.
struct Set {
    number: usize,
    inputs: BTreeMap<String, Tensor>,
    outputs: Vec<Option<Tensor>>,
}

/// What a compile depends on: pinned dimensions, and inputs pinned to values.
#[derive(Clone, PartialEq, Default)]
struct Pins {
    dims: BTreeMap<String, i64>,
    values: BTreeMap<String, Tensor>,
}

fn run(args: &WorkerArgs) -> Outcome {
    let case = Case::find(&args.case)?;
    let stated = case.tolerances()?;
    if case.sets.is_empty() {
        return against_reference(&args.check, &case, &stated);
    }
    tell(&Event::Stage("reading the model and its data".into()));
    let declared = declared_inputs(&case.model)?;
    let read = |(number, path): (usize, &std::path::PathBuf)| {
        let inputs = case::assign(&declared, case::read_set(path, "input")?)?;
        Ok(Set { number, inputs, outputs: case::read_set(path, "output")? })
    };
    let sets: Vec<Set> = case.sets.iter().enumerate().map(read).collect::<Outcome<_>>()?;
    let mut compiled: Option<(Pins, Compiled)> = None;
    for set in &sets {
        let dims = case::bind_dims(&declared, &set.inputs)?;
        tell(&Event::Stage(format!("compiling for data set {}", set.number)));
        let fits = compiled.as_ref().is_some_and(|(pins, _)| {
            pins.dims == dims && pins.values.iter().all(|(n, v)| set.inputs.get(n) == Some(v))
        });
        if !fits {
            let (pins, c) = compile(&args.check, &case, &declared, dims, &set.inputs)?;
            if !pins.values.is_empty() {
                tell(&Event::Pinned(pins.values.keys().cloned().collect()));
            }
            compiled = Some((pins, c));
        }
        let Some((_, compiled)) = &compiled else { continue };
        let ins = inputs::in_order(&compiled.program.inputs, &set.inputs)?;
        if set.outputs.len() != compiled.program.outputs.len() {
            let (have, want) = (set.outputs.len(), compiled.program.outputs.len());
            return Err(Failure::bad_input(format!("the model has {want} outputs, the data set has {have}")));
        }
        for &engine in &args.check.engines {
            run_engine(&args.check, compiled, engine, Some(set.number), &ins, &set.outputs, &stated)?;
        }
        if args.check.per_node && set.number == 0 {
            per_node::compare_all(&args.check, compiled, &ins)?;
        }
    }
    Ok(())
}

/// A model without data: engines against the reference interpreter, on drawn inputs.
fn against_reference(args: &CheckArgs, case: &Case, stated: &Stated) -> Outcome {
    tell(&Event::Stage("compiling".into()));
    let compiled = Compiler::new(args.compile.options(&case.model)?).compile_file(&case.model)?;
    let ins = compiled.example_inputs(args.seed);
    tell(&Event::Stage("reference interpreter".into()));
    let expected = Session::new(Engine::Reference, &compiled)?.run(&ins)?;
    let expected: Vec<Option<Tensor>> = expected.into_iter().map(Some).collect();
    for &engine in args.engines.iter().filter(|e| **e != Engine::Reference) {
        run_engine(args, &compiled, engine, None, &ins, &expected, stated)?;
    }
    if args.per_node {
        per_node::compare_all(args, &compiled, &ins)?;
    }
    Ok(())
}

/// Compiles the model for the data. Where the compiler says that a shape depends on the *value* of an input, the small
/// integer inputs are pinned to the data, and if that is not enough all small inputs; a model that is refused for
/// any other reason is not tried again, so that nothing is folded away that should have been compiled.
fn compile(
    args: &CheckArgs,
    case: &Case,
    declared: &[Declared],
    dims: BTreeMap<String, i64>,
    data: &BTreeMap<String, Tensor>,
) -> Outcome<(Pins, Compiled)> {
    let small = |t: &Tensor, any: bool| t.shape().len() <= 1 && t.len() <= 64 && (any || t.dtype().is_int());
    let pick = |any: bool| -> BTreeMap<String, Tensor> {
        let fits = declared.iter().filter_map(|(n, _)| Some((n, data.get(n)?))).filter(|(_, t)| small(t, any));
        fits.map(|(n, t)| (n.clone(), t.clone())).collect()
    };
    let attempt = |values: BTreeMap<String, Tensor>| -> Outcome<Result<(Pins, Compiled), Error>> {
        let mut options = args.compile.options(&case.model)?;
        for (n, v) in &dims {
            options.dims.entry(n.clone()).or_insert(*v);
        }
        for (n, v) in &values {
            options.set.entry(n.clone()).or_insert_with(|| v.clone());
        }
        let pins = Pins { dims: dims.clone(), values };
        Ok(Compiler::new(options).compile_file(&case.model).map(|c| (pins, c)))
    };
    let mut last = attempt(BTreeMap::new())?;
    for any in [false, true] {
        let values = pick(any);
        match &last {
            Err(e) if needs_values(e) && !values.is_empty() => last = attempt(values)?,
            _ => break,
        }
    }
    Ok(last?)
}

/// Whether the compiler asks for values of inputs. It then advises `--set`, or says that a shape is not known at compile
/// time.
fn needs_values(e: &Error) -> bool {
    let Error::Model(problems) = e else { return false };
    problems.0.iter().filter(|d| d.severity == Severity::Error).any(|d| {
        d.help.as_ref().is_some_and(|h| h.contains("--set")) || d.message.contains("known at compile time")
    })
}

/// Runs one engine on one data set and tells how it compares.
fn run_engine(
    args: &CheckArgs,
    compiled: &Compiled,
    engine: Engine,
    set: Option<usize>,
    ins: &[Tensor],
    expected: &[Option<Tensor>],
    stated: &Stated,
) -> Outcome {
    tell(&Event::Stage(format!("{engine}{}", set.map_or(String::new(), |s| format!(", data set {s}")))));
    let mut ran = Ran { engine: engine.name().into(), set, pass: true, max_abs: 0.0, part: Some(0.0), problem: None };
    match Session::new(engine, compiled).and_then(|s| s.run(ins)) {
        Ok(found) => {
            for (i, (e, f)) in expected.iter().zip(&found).enumerate() {
                let Some(e) = e else { continue };
                let tolerance = stated.of_output(i, e.dtype(), args.rtol, args.atol);
                let c = compare(e, f, &tolerance);
                ran.max_abs = ran.max_abs.max(c.max_abs);
                ran.part = ran.part.zip(c.worst.is_finite().then_some(c.worst)).map(|(a, b)| a.max(b));
                if !c.passes() && ran.pass {
                    ran.pass = false;
                    ran.problem = Some(format!("output \"{}\": {}", compiled.program.outputs[i].name, c.explain()));
                }
            }
        }
        Err(e) => {
            ran.pass = false;
            ran.problem = Some(e.to_string());
        }
    }
    tell(&Event::Ran(ran));
    Ok(())
}

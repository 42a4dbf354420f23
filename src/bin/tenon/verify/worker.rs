//! The process that runs one case and tells its results as lines of JSON.

use super::result::{Event, Ran};
use super::{CheckArgs, WorkerArgs, per_node};
use crate::case::{Case, Stated};
use crate::compare::compare;
use crate::failure::{Failure, Outcome};
use crate::inputs;
use crate::model::declared;
use std::collections::BTreeMap;
use std::io::Write;
use tenon::dataset::{self, Inputs};
use tenon::engine::{Engine, Session};
use tenon::frontend::Given;
use tenon::{Compiled, Compiler, Tensor};

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
    inputs: Inputs,
    outputs: Vec<Option<Tensor>>,
}

/// A compile with what it depends on: the shapes of the data, what sequences and optionals are, and inputs set to their values.
struct Compile {
    shapes: BTreeMap<String, Vec<usize>>,
    given: BTreeMap<String, Given>,
    set: BTreeMap<String, Tensor>,
    compiled: Compiled,
}

impl Compile {
    /// Compiles the model for the data: it pins dimensions, and inputs whose values decide shapes.
    fn new(args: &CheckArgs, case: &Case, inputs: &Inputs) -> Outcome<Compile> {
        let data = &inputs.tensors;
        let mut options = args.compile.options(&case.model)?;
        options.data = data.clone();
        options.given.extend(inputs.given.clone());
        let compiled = Compiler::new(options).compile_file(&case.model)?;
        let left: Vec<&str> = compiled.program.inputs.iter().map(|i| i.name.as_str()).collect();
        let set: BTreeMap<String, Tensor> =
            data.iter().filter(|(n, _)| !left.contains(&n.as_str())).map(|(n, t)| (n.clone(), t.clone())).collect();
        if !set.is_empty() {
            tell(&Event::Pinned(set.keys().cloned().collect()));
        }
        Ok(Compile { shapes: shapes(data), given: inputs.given.clone(), set, compiled })
    }

    /// Whether it is right for other data, too.
    fn fits(&self, inputs: &Inputs) -> bool {
        let data = &inputs.tensors;
        let any_size = !self.compiled.bounded.dims.is_empty() && self.compiled.fill(data).is_ok();
        (any_size || self.shapes == shapes(data))
            && self.given == inputs.given
            && self.set.iter().all(|(n, v)| data.get(n) == Some(v))
    }
}

fn shapes(data: &BTreeMap<String, Tensor>) -> BTreeMap<String, Vec<usize>> {
    data.iter().map(|(n, t)| (n.clone(), t.shape().to_vec())).collect()
}

fn run(args: &WorkerArgs) -> Outcome {
    let case = Case::find(&args.case)?;
    let stated = case.tolerances()?;
    if case.sets.is_empty() {
        return against_reference(&args.check, &case, &stated);
    }
    tell(&Event::Stage("reading the model and its data".into()));
    let declared = declared(&case.model)?;
    let read = |(number, path): (usize, &std::path::PathBuf)| {
        Ok(Set { number, inputs: dataset::inputs(&declared, path)?, outputs: dataset::outputs(&declared, path)? })
    };
    let sets: Vec<Set> = case.sets.iter().enumerate().map(read).collect::<Outcome<_>>()?;
    let mut last: Option<Compile> = None;
    for set in &sets {
        tell(&Event::Stage(format!("compiling for data set {}", set.number)));
        let compile = match last.take().filter(|c| c.fits(&set.inputs)) {
            Some(c) => c,
            None => Compile::new(&args.check, &case, &set.inputs)?,
        };
        let compiled = &compile.compiled;
        let ins = inputs::in_order(&compiled.program.inputs, &compiled.fill(&set.inputs.tensors)?)?;
        if set.outputs.len() != compiled.program.own_outputs().len() {
            let (have, want) = (set.outputs.len(), compiled.program.own_outputs().len());
            return Err(Failure::bad_input(format!("the model has {want} outputs, the data set has {have}")));
        }
        for &engine in &args.check.engines {
            run_engine(&args.check, compiled, engine, Some(set.number), &ins, &set.outputs, &stated)?;
        }
        if args.check.per_node && set.number == 0 {
            per_node::compare_all(&args.check, compiled, &ins)?;
        }
        last = Some(compile);
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
                let mut tolerance = stated.of_output(i, e.dtype(), args.rtol, args.atol);
                if engine != Engine::Reference && args.rtol.is_none() && args.atol.is_none() {
                    tolerance = tolerance.rounding(compiled.rounded_calls());
                }
                let c = compare(e, f, &tolerance);
                ran.max_abs = ran.max_abs.max(c.max_abs);
                ran.part = ran.part.zip(c.worst.is_finite().then_some(c.worst)).map(|(a, b)| a.max(b));
                if !c.passes() && ran.pass {
                    ran.pass = false;
                    ran.problem = Some(format!("output \"{}\": {}", compiled.program.outputs[i].name, c.explain()));
                }
            }
            if args.bits && ran.pass && set.unwrap_or(0) == 0 && !matches!(engine, Engine::Reference | Engine::Kernel)
            {
                tell(&Event::Stage(format!("{engine} against the kernel interpreter")));
                let interpreted = Session::new(Engine::Kernel, compiled).and_then(|s| s.run(ins))?;
                ran.problem = other_bits(compiled, &interpreted, &found);
                ran.pass = ran.problem.is_none();
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

/// The first element whose bits differ, but for those of NaNs.
fn other_bits(compiled: &Compiled, expected: &[Tensor], found: &[Tensor]) -> Option<String> {
    for (k, (e, f)) in expected.iter().zip(found).enumerate() {
        let nan = |s: tenon::Scalar| e.dtype().is_float() && s.as_f64().is_nan();
        let size = e.dtype().size().max(1);
        let differs = |(i, (a, b)): (usize, (&[u8], &[u8]))| (a != b).then_some(i);
        let at = e.bytes().chunks(size).zip(f.bytes().chunks(size)).enumerate().filter_map(differs);
        for i in at {
            let scalar = |t: &Tensor| t.scalars().nth(i);
            if let (Some(a), Some(b)) = (scalar(e), scalar(f))
                && !(nan(a) && nan(b))
            {
                let name = &compiled.program.outputs[k].name;
                return Some(format!(
                    "output \"{name}\": element {i} is {b}, the kernel interpreter has {a}: other bits"
                ));
            }
        }
    }
    None
}

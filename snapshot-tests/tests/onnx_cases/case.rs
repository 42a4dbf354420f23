//! One case on one engine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tenon::dataset::{self, Inputs};
use tenon::engine::{Engine, Session};
use tenon::{Compiler, DType, Options, Tensor};
use tenon_frontend::inspect_file;
use tenon_snapshot_tests::data::compare_numpy;
use tenon_snapshot_tests::ledger::Status;

/// The ONNX operators of a case's model; none if the model cannot be read.
pub(crate) fn operators(case: &Path) -> BTreeSet<String> {
    inspect_file(&case.join("model.onnx")).map(|info| info.ops.into_keys().collect()).unwrap_or_default()
}

/// Runs every data set of `case` on `engine`.
pub(crate) fn run(case: &Path, engine: &str) -> Status {
    let Ok(engine) = engine.parse::<Engine>() else {
        return Status::Failed(format!("there is no engine {engine}"));
    };
    let mut largest = 0f64;
    let sets = data_sets(case);
    if sets.is_empty() {
        return Status::Failed("the case has no data".into());
    }
    for set in sets {
        match run_set(case, &set, engine) {
            Ok(error) => largest = largest.max(error),
            Err(status) => return short(status, case),
        }
    }
    Status::Passed(largest)
}

fn data_sets(case: &Path) -> Vec<PathBuf> {
    (0..).map(|k| case.join(format!("test_data_set_{k}"))).take_while(|p| p.is_dir()).collect()
}

fn run_set(case: &Path, set: &Path, engine: Engine) -> Result<f64, Status> {
    let refused = |e: &dyn std::fmt::Display| Status::Refused(e.to_string());
    let failed = |e: &dyn std::fmt::Display| Status::Failed(e.to_string());
    let model = case.join("model.onnx");
    let info = inspect_file(&model).map_err(|e| refused(&e))?;
    let Inputs { tensors: data, given } = dataset::inputs(&info, set).map_err(|e| refused(&e))?;
    let expected = dataset::outputs(&info, set).map_err(|e| refused(&e))?;
    let expected: Option<Vec<Tensor>> = expected.into_iter().collect();
    let expected = expected.ok_or_else(|| Status::Failed("the case lacks the data of an output".into()))?;
    let mut options = Options::host().map_err(|e| failed(&e))?;
    options.data.clone_from(&data);
    options.given = given;
    let compiled = Compiler::new(options).compile_file(&model).map_err(|e| refused(&e))?;
    let inputs: Option<Vec<Tensor>> = compiled.program.inputs.iter().map(|io| data.get(&io.name).cloned()).collect();
    let inputs = inputs.ok_or_else(|| Status::Failed("the case lacks an input's data".into()))?;
    let all = Session::new(engine, &compiled).and_then(|s| s.run(&inputs)).map_err(|e| failed(&e))?;
    let found: Vec<Tensor> = compiled.program.own_outputs().into_iter().map(|k| all[k].clone()).collect();
    if found.len() != expected.len() {
        return Err(Status::Wrong(format!("expected {} outputs, found {}", expected.len(), found.len())));
    }
    let (rtol, atol) = tolerance(case).map_err(|e| failed(&e))?;
    let mut largest = 0f64;
    for (i, (x, y)) in found.iter().zip(&expected).enumerate() {
        let c = compare_numpy(x, y, rtol, atol);
        if !c.ok() {
            // Nobody can tell what a case's own generator has drawn.
            let drawn = [
                "Bernoulli",
                "Multinomial",
                "RandomNormal",
                "RandomNormalLike",
                "RandomUniform",
                "RandomUniformLike",
            ];
            let random = drawn.iter().any(|op| info.ops.contains_key(*op));
            let why = if random {
                "drawn numbers, for which ONNX prescribes no generator: "
            } else if matches!(y.dtype(), DType::BF16 | DType::F16) {
                "halves, which the case's generator rounds after other steps: "
            } else if info.ops.contains_key("DFT") {
                "what the rounding of another algorithm leaves of zeros: "
            } else {
                ""
            };
            return Err(Status::Wrong(format!("{why}output {i}: {c}")));
        }
        largest = largest.max(c.max_absolute);
    }
    Ok(largest)
}

fn tolerance(case: &Path) -> Result<(f64, f64), String> {
    let path = case.join("tolerance.json");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("tolerance.json: {e}"))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| format!("tolerance.json: {e}"))?;
    let number = |key: &str| {
        json.get(key).and_then(serde_json::Value::as_f64).ok_or_else(|| format!("tolerance.json: expected `{key}`"))
    };
    Ok((number("rtol")?, number("atol")?))
}

/// The first two lines of the reason, at most 240 characters, without the place of the case on this machine.
fn short(s: Status, case: &Path) -> Status {
    let place = format!("{}/", case.display());
    let cut = |r: String| {
        let lines: Vec<&str> = r.lines().take(2).map(str::trim).collect();
        lines.join("; ").replace(&place, "").chars().take(240).collect()
    };
    match s {
        Status::Refused(r) => Status::Refused(cut(r)),
        Status::Wrong(r) => Status::Wrong(cut(r)),
        Status::Failed(r) => Status::Failed(cut(r)),
        other => other,
    }
}

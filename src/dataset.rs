//! Data sets of a case folder: `input_<i>.pb` and `output_<i>.pb`, by position in the model's declaration.

use crate::Error;
use std::collections::BTreeMap;
use std::path::Path;
use tenon_base::Tensor;
use tenon_frontend::{Data, Given, ModelInfo, read_data_file};

/// Numbers of files above this are taken to be mistakes.
const MAX_NUMBER: usize = 10_000;

/// What a data set gives to a model's inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs {
    /// Tensors by the names of the program's inputs; the elements of a sequence are `<name>.0`, `<name>.1`, ….
    pub tensors: BTreeMap<String, Tensor>,
    /// What the inputs that are sequences and optionals are.
    pub given: BTreeMap<String, Given>,
}

/// The inputs of a data set; an optional input may be left out.
///
/// # Errors
/// A file cannot be read, or is for no input of the model.
pub fn inputs(model: &ModelInfo, set: &Path) -> Result<Inputs, Error> {
    let numbers = numbers(set, "input", model.inputs.len())?;
    let mut all = Inputs::default();
    for n in numbers {
        let (name, _) = &model.inputs[n];
        match read(model, name, &set.join(format!("input_{n}.pb")))? {
            Data::Tensor(t) => {
                if ty(model, name).starts_with("optional") {
                    all.given.insert(name.clone(), Given::Tensor(t.fact()));
                }
                all.tensors.insert(name.clone(), t);
            }
            Data::Sequence(items) => {
                all.given.insert(name.clone(), Given::Sequence(items.iter().map(Tensor::fact).collect()));
                all.tensors.extend(items.into_iter().enumerate().map(|(k, t)| (format!("{name}.{k}"), t)));
            }
            Data::Nothing => {
                all.given.insert(name.clone(), Given::Nothing);
            }
        }
    }
    Ok(all)
}

/// The outputs that a data set expects, in the order of the program's; `None` where a file between others is missing.
///
/// # Errors
/// A file cannot be read, or the data set has more or fewer outputs than the model.
pub fn outputs(model: &ModelInfo, set: &Path) -> Result<Vec<Option<Tensor>>, Error> {
    let numbers = numbers(set, "output", model.outputs.len())?;
    let found = numbers.last().map_or(0, |n| n + 1);
    if found != model.outputs.len() {
        let want = model.outputs.len();
        return Err(Error::Input(format!("the model has {want} outputs, the data set has {found}")));
    }
    let mut all = vec![];
    for (n, (name, _)) in model.outputs.iter().enumerate() {
        if !numbers.contains(&n) {
            all.push(None);
            continue;
        }
        match read(model, name, &set.join(format!("output_{n}.pb")))? {
            Data::Tensor(t) => all.push(Some(t)),
            Data::Sequence(items) => all.extend(items.into_iter().map(Some)),
            Data::Nothing => {}
        }
    }
    Ok(all)
}

fn ty<'m>(model: &'m ModelInfo, name: &str) -> &'m str {
    model.types.get(name).map_or("", String::as_str)
}

fn read(model: &ModelInfo, name: &str, file: &Path) -> Result<Data, Error> {
    read_data_file(file, ty(model, name)).map_err(Error::Model)
}

/// The numbers of the files `<kind>_<i>.pb`, in order, each below `count`.
fn numbers(set: &Path, kind: &str, count: usize) -> Result<Vec<usize>, Error> {
    let mut numbers: Vec<usize> = std::fs::read_dir(set)
        .map_err(Error::io("read", set))?
        .flatten()
        .filter_map(|e| {
            e.file_name().to_str()?.strip_prefix(kind)?.strip_prefix('_')?.strip_suffix(".pb")?.parse().ok()
        })
        .collect();
    numbers.sort_unstable();
    match numbers.last() {
        Some(&n) if n > MAX_NUMBER => {
            Err(Error::Input(format!("{}: {kind}_{n}.pb: the number is absurd", set.display())))
        }
        Some(&n) if n >= count => {
            Err(Error::Input(format!("the model has {count} {kind}s, the data set has {}", n + 1)))
        }
        _ => Ok(numbers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenon_base::{DType, Fact};

    fn model() -> ModelInfo {
        let fact = || Some(Fact::of(DType::F32, &[1]));
        ModelInfo { inputs: vec![("a".into(), fact()), ("b".into(), fact())], ..ModelInfo::default() }
    }

    #[test]
    fn files_are_assigned_by_position_and_may_have_gaps() {
        let set = tempfile::tempdir().unwrap();
        // A tensor of f32, one element, 2.0.
        let tensor = [0x08, 1, 0x10, 1, 0x4a, 4, 0, 0, 0, 0x40];
        std::fs::write(set.path().join("input_1.pb"), tensor).unwrap();
        let found = inputs(&model(), set.path()).unwrap();
        assert_eq!(found.tensors.into_iter().collect::<Vec<_>>(), [("b".to_string(), Tensor::new(&[1], &[2f32]))]);
        std::fs::write(set.path().join("input_2.pb"), tensor).unwrap();
        let error = inputs(&model(), set.path()).unwrap_err().to_string();
        assert!(error.contains("the model has 2 inputs, the data set has 3"), "{error}");
    }
}

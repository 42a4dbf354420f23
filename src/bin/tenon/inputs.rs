//! Inputs for a run: from files, from the command line, or drawn.

use crate::failure::{Failure, Outcome};
use crate::tensors::{Array, Arrays};
use std::collections::BTreeMap;
use std::path::Path;
use tenon::kernel::Io;
use tenon::{DType, Fact, Scalar, Tensor};

/// Reads `--input` arguments: `NAME=FILE`, `NAME=FILE:ARRAY`, or `FILE` (an .npz gives every array to the input of its
/// name; another file goes to the model's only input). What does not fit the `declared` type is not read; with `samples` the first
/// axis is not the model's.
pub(crate) fn read(
    specs: &[String],
    declared: &[(String, Option<Fact>)],
    samples: bool,
) -> Outcome<BTreeMap<String, Tensor>> {
    let mut all = BTreeMap::new();
    let names = || declared.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ");
    for spec in specs {
        match spec.split_once('=') {
            Some((name, file)) => {
                let Some((name, fact)) = declared.iter().find(|(n, _)| n == name) else {
                    return Err(Failure::bad_input(format!(
                        "--input {spec}: the model has no input `{name}`; it has {}",
                        names()
                    )));
                };
                let (path, array) = place(file);
                let arrays = Arrays::open(path)?;
                all.insert(name.clone(), fitting(&arrays, arrays.one(array)?, name, fact.as_ref(), samples)?);
            }
            None => {
                let arrays = Arrays::open(Path::new(spec))?;
                for array in arrays.list() {
                    let (name, fact) = match (declared.iter().find(|(n, _)| *n == array.name), declared) {
                        (Some(named), _) => named,
                        (None, [only]) => only,
                        (None, _) => {
                            return Err(Failure::bad_input(format!(
                                "{spec}: `{}` is no input of the model ({}); write --input NAME={spec}",
                                array.name,
                                names()
                            )));
                        }
                    };
                    all.insert(name.clone(), fitting(&arrays, array, name, fact.as_ref(), samples)?);
                }
            }
        }
    }
    Ok(all)
}

/// The file and the array of `FILE` or `FILE:ARRAY`.
fn place(spec: &str) -> (&Path, Option<&str>) {
    match spec.rsplit_once(':') {
        Some((file, array)) if !Path::new(spec).exists() => (Path::new(file), Some(array)),
        _ => (Path::new(spec), None),
    }
}

/// The elements of `array`, if it can be a value of type `fact`.
pub(crate) fn fitting(
    arrays: &Arrays,
    array: &Array,
    input: &str,
    fact: Option<&Fact>,
    samples: bool,
) -> Outcome<Tensor> {
    let can = |fact: &Fact| {
        let axes = fact.shape.0.iter().zip(&array.fact.shape.0).skip(usize::from(samples));
        fact.dtype == array.fact.dtype
            && fact.shape.rank() == array.fact.shape.rank()
            && axes.into_iter().all(|(a, b)| a.as_const().is_none() || a == b)
    };
    if let Some(fact) = fact.filter(|f| !can(f)) {
        let first = if samples { ", the first axis for samples," } else { "" };
        return Err(arrays.misfit(array, &format_args!("{fact}{first} for input `{input}`")));
    }
    arrays.read(array, None)
}

/// The labels written `FILE` or `FILE:ARRAY`: one whole number for each of the `samples`.
pub(crate) fn labels(spec: &str, samples: usize) -> Outcome<Vec<i64>> {
    let (path, name) = place(spec);
    let arrays = Arrays::open(path)?;
    let array = arrays.one(name)?;
    if !array.fact.dtype.is_int() || array.fact.dims().is_none_or(|d| d != [samples]) {
        return Err(arrays.misfit(array, &format_args!("{samples} labels, one whole number a sample")));
    }
    Ok(arrays.read(array, None)?.to_i64())
}

/// The inputs in the model's order; all of them must be there.
pub(crate) fn in_order(inputs: &[Io], data: &BTreeMap<String, Tensor>) -> Outcome<Vec<Tensor>> {
    let missing: Vec<String> =
        inputs.iter().filter(|i| !data.contains_key(&i.name)).map(|i| format!("{}: {}", i.name, i.fact)).collect();
    if !missing.is_empty() {
        return Err(Failure::bad_input(format!(
            "no data for the input{} {}; give --input NAME=FILE for each, or --draw SEED to draw some",
            if missing.len() == 1 { "" } else { "s" },
            missing.join(", ")
        )));
    }
    Ok(inputs.iter().map(|i| data[&i.name].clone()).collect())
}

/// The value written on the command line for a declared input: a file, a number, or numbers separated by commas.
pub(crate) fn value(text: &str, fact: &Fact) -> Result<Tensor, String> {
    if [".npy", ".npz", ".pb"].iter().any(|e| text.ends_with(e)) || text.contains(".npz:") {
        let (path, name) = place(text);
        let arrays = Arrays::open(path).map_err(|e| e.message)?;
        let array = arrays.one(name).map_err(|e| e.message)?;
        let len = |f: &Fact| f.dims().map(|d| d.iter().product::<usize>());
        if array.fact.dtype != fact.dtype || len(fact).is_some_and(|n| len(&array.fact) != Some(n)) {
            return Err(format!("expected {fact}, found {}", array.fact));
        }
        return arrays.read(array, None).map_err(|e| e.message);
    }
    let text = text.trim().trim_start_matches('[').trim_end_matches(']');
    let values = text.split(',').map(|v| scalar(v.trim(), fact.dtype)).collect::<Result<Vec<_>, _>>()?;
    let known = fact.dims();
    let shape = match (fact.shape.rank(), known) {
        (0, _) => vec![],
        (1, None) => vec![values.len()],
        (_, Some(d)) => d,
        _ => return Err(format!("the input is {fact}: give its value as a .npy file")),
    };
    let expected: usize = shape.iter().product();
    if expected != values.len() {
        return Err(format!("the input is {fact}: expected {expected} numbers, found {}", values.len()));
    }
    Ok(Tensor::from_scalars(fact.dtype, &shape, values))
}

fn scalar(text: &str, dtype: DType) -> Result<Scalar, String> {
    let bad = || format!("`{text}` is not a value of {dtype}");
    match dtype {
        DType::Bool => text.parse::<bool>().map(|b| Scalar::of_int(dtype, b.into())).map_err(|_| bad()),
        d if d.is_float() => text.parse::<f64>().map(|v| Scalar::of_f64(d, v)).map_err(|_| bad()),
        d => {
            let v: i128 = text.parse().map_err(|_| bad())?;
            let (lo, hi) = d.int_range().unwrap_or((0, 0));
            if (lo..=hi).contains(&v) { Ok(Scalar::of_int(d, v)) } else { Err(bad()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenon::{Dim, Shape};

    #[test]
    fn values_take_the_declared_type() {
        assert_eq!(value("16000", &Fact::of(DType::I64, &[])).unwrap(), Tensor::scalar(16000i64));
        let free = Fact::new(DType::F32, Shape(vec![Dim::Sym("n".into())]));
        assert_eq!(value("[1, 2.5]", &free).unwrap(), Tensor::new(&[2], &[1f32, 2.5]));
        assert_eq!(value("true", &Fact::of(DType::Bool, &[1])).unwrap(), Tensor::new(&[1], &[true]));
    }

    #[test]
    fn values_that_do_not_fit_are_refused() {
        assert!(value("300", &Fact::of(DType::U8, &[])).unwrap_err().contains("u8"));
        assert!(value("1.5", &Fact::of(DType::I64, &[])).is_err());
        assert!(value("1,2", &Fact::of(DType::F32, &[3])).unwrap_err().contains("expected 3 numbers"));
        let free = Fact::new(DType::F32, Shape(vec![Dim::Sym("n".into()), Dim::Const(2)]));
        assert!(value("1,2", &free).unwrap_err().contains(".npy"));
    }

    #[test]
    fn missing_inputs_are_all_named() {
        let io = |n: &str| Io { name: n.into(), fact: Fact::of(DType::F32, &[2]) };
        let e = in_order(&[io("a"), io("b")], &BTreeMap::new()).unwrap_err();
        assert!(e.message.contains("a: f32[2], b: f32[2]"), "{e}");
    }
}

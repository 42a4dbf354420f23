//! Inputs for a run: from files, from the command line, or drawn.

use crate::failure::{Failure, Outcome};
use crate::tensors;
use std::collections::BTreeMap;
use std::path::Path;
use tenon::kernel::Io;
use tenon::{DType, Fact, Scalar, Tensor};

/// Reads `--input` arguments: `NAME=FILE`, `NAME=FILE:ARRAY`, or `FILE` (an .npz gives every array to the input of its
/// name; another file goes to the model's only input).
pub(crate) fn read(specs: &[String], names: &[&str]) -> Outcome<BTreeMap<String, Tensor>> {
    let mut all = BTreeMap::new();
    for spec in specs {
        match spec.split_once('=') {
            Some((name, file)) => {
                if !names.contains(&name) {
                    let names = names.join(", ");
                    return Err(Failure::bad_input(format!(
                        "--input {spec}: the model has no input `{name}`; it has {names}"
                    )));
                }
                all.insert(name.to_string(), file_or_array(file)?);
            }
            None => {
                for (name, tensor) in tensors::read_all(Path::new(spec))? {
                    let name = match (names.contains(&name.as_str()), names) {
                        (true, _) => name,
                        (false, [only]) => only.to_string(),
                        (false, _) => {
                            let names = names.join(", ");
                            return Err(Failure::bad_input(format!(
                                "{spec}: `{name}` is no input of the model ({names}); write --input NAME={spec}"
                            )));
                        }
                    };
                    all.insert(name, tensor);
                }
            }
        }
    }
    Ok(all)
}

/// The tensor written `FILE` or `FILE:ARRAY`.
pub(crate) fn file_or_array(spec: &str) -> Outcome<Tensor> {
    match spec.rsplit_once(':') {
        Some((file, array)) if !Path::new(spec).exists() => tensors::read_one(Path::new(file), Some(array)),
        _ => tensors::read_one(Path::new(spec), None),
    }
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
        let t = file_or_array(text).map_err(|e| e.message)?;
        return if t.dtype() == fact.dtype { Ok(t) } else { Err(format!("expected {fact}, found {}", t.fact())) };
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

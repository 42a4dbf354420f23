//! The operators of `ai.onnx.ml` that prepare features.
//!
//! ONNX: [Scaler](https://onnx.ai/onnx/operators/onnx_aionnxml_Scaler.html), [Normalizer](https://onnx.ai/onnx/operators/onnx_aionnxml_Normalizer.html),
//! [Binarizer](https://onnx.ai/onnx/operators/onnx_aionnxml_Binarizer.html),
//! [ArrayFeatureExtractor](https://onnx.ai/onnx/operators/onnx_aionnxml_ArrayFeatureExtractor.html),
//! [FeatureVectorizer](https://onnx.ai/onnx/operators/onnx_aionnxml_FeatureVectorizer.html),
//! [Imputer](https://onnx.ai/onnx/operators/onnx_aionnxml_Imputer.html), [OneHotEncoder](https://onnx.ai/onnx/operators/onnx_aionnxml_OneHotEncoder.html)
//! and [LabelEncoder](https://onnx.ai/onnx/operators/onnx_aionnxml_LabelEncoder.html) (1, 2, 4) of numbers. ZipMap would make a list of
//! dictionaries: its scores stay the tensor that they are.

use super::concat::Concat;
use super::gather::Gather;
use super::ml;
use super::reduce::{Kind, Reduce};
use super::util::{apply, cast, reshape, with_constant};
use super::where_::Where;
use crate::OnnxAttr;
use crate::ops::*;
use tenon_base::{Scalar, Shape};

pub(super) fn onnx() -> Vec<OnnxName> {
    vec![
        ml::on("Scaler", &[1]),
        ml::on("Normalizer", &[1]),
        ml::on("Binarizer", &[1]),
        ml::on("ArrayFeatureExtractor", &[1]),
        ml::on("FeatureVectorizer", &[1]),
        ml::on("Imputer", &[1]),
        ml::on("OneHotEncoder", &[1]),
        ml::on("LabelEncoder", &[1, 2, 4]),
        ml::on("ZipMap", &[1]),
    ]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    let y = match node.op_type() {
        "Scaler" => scaler(node, cx, x)?,
        "Normalizer" => normalizer(node, cx, x)?,
        "Binarizer" => {
            let over = with_constant(cx, "greater", x, f64::from(node.float("threshold", 0.0)?))?;
            cast(cx, over, cx.dtype(x))?
        }
        "ArrayFeatureExtractor" => extractor(node, cx, x)?,
        "FeatureVectorizer" => vectorizer(node, cx)?,
        "Imputer" => imputer(node, cx, x)?,
        "OneHotEncoder" => one_hot(node, cx, x)?,
        "LabelEncoder" => label_encoder(node, cx, x)?,
        _ => x,
    };
    Ok(vec![y])
}

/// A list with one element for all features or one for each.
fn per_feature(cx: &mut Importer<'_>, x: ValueId, dtype: DType, v: &[f64], name: &str) -> Result<ValueId, ImportError> {
    let features = cx.shape(x).0.last().and_then(Dim::as_const);
    if v.len() != 1 && features.is_some_and(|f| f != v.len() as i64) {
        return Err(ImportError::new(format!("{name}: {} elements do not fit features of {}", v.len(), cx.shape(x))));
    }
    Ok(ml::vector(cx, dtype, v))
}

/// `(x - offset) · scale`
fn scaler(node: &OnnxNode<'_>, cx: &mut Importer<'_>, x: ValueId) -> Result<ValueId, ImportError> {
    let mut y = cast(cx, x, DType::F32)?;
    for (name, function) in [("offset", "sub"), ("scale", "mul")] {
        let v = ml::floats(node, name)?;
        if !v.is_empty() {
            let v = per_feature(cx, y, DType::F32, &v, name)?;
            y = apply(cx, function, &[y, v])?;
        }
    }
    Ok(y)
}

/// Each row by its largest element, its sum of sizes or its length; a row that this is 0 of stays.
fn normalizer(node: &OnnxNode<'_>, cx: &mut Importer<'_>, x: ValueId) -> Result<ValueId, ImportError> {
    let x = cast(cx, x, DType::F32)?;
    let last = cx.rank(x).checked_sub(1).ok_or_else(|| ImportError::new("expected an operand with features"))?;
    let kind = match node.str("norm", "MAX")? {
        "MAX" => Kind::Max,
        "L1" => Kind::L1,
        "L2" => Kind::L2,
        other => return Err(ImportError::new(format!("norm: expected MAX, L1 or L2, found {other:?}"))),
    };
    let size = cx.op(Reduce { kind, axes: vec![last] }, &[x])?;
    let none = with_constant(cx, "equal", size, 0.0)?;
    let one = ml::vector(cx, DType::F32, &[1.0]);
    let size = cx.op(Where {}, &[none, one, size])?;
    apply(cx, "div", &[x, size])
}

/// Elements of the last axis; of a vector, as one row.
fn extractor(node: &OnnxNode<'_>, cx: &mut Importer<'_>, mut x: ValueId) -> Result<ValueId, ImportError> {
    let at = node.input(1)?;
    let count = cx.shape(at).numel();
    let at = reshape(cx, at, Shape(vec![count]))?;
    if cx.rank(x) == 1 {
        let n = cx.shape(x).0[0].clone();
        x = reshape(cx, x, Shape(vec![Dim::Const(1), n]))?;
    }
    let axis = cx.rank(x).checked_sub(1).ok_or_else(|| ImportError::new("expected an operand with features"))?;
    cx.op(Gather { axis }, &[x, at])
}

/// All operands side by side, as `f32`.
fn vectorizer(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<ValueId, ImportError> {
    let mut parts = vec![];
    for mut x in node.all_inputs()? {
        // What one-hot encoding made of features has an axis more: it is taken row by row.
        if let [rows, rest @ ..] = &cx.shape(x).0[..]
            && rest.len() > 1
        {
            let to = Shape(vec![rows.clone(), Shape(rest.to_vec()).numel()]);
            x = reshape(cx, x, to)?;
        }
        parts.push(ml::rows(cx, x, DType::F32)?);
    }
    cx.op(Concat { axis: 1 }, &parts)
}

/// The imputed value where the operand is the replaced one.
fn imputer(node: &OnnxNode<'_>, cx: &mut Importer<'_>, x: ValueId) -> Result<ValueId, ImportError> {
    let dtype = cx.dtype(x);
    let values = if dtype.is_int() {
        ml::ints(node, "imputed_value_int64s")?.into_iter().map(|v| v as f64).collect()
    } else {
        ml::floats(node, "imputed_value_floats")?
    };
    if values.is_empty() {
        return Err(ImportError::new(format!("expected imputed values for an operand of {dtype}, found none")));
    }
    let values = per_feature(cx, x, dtype, &values, "imputed values")?;
    let replaced = if dtype.is_int() {
        node.int("replaced_value_int64", 0)? as f64
    } else {
        f64::from(node.float("replaced_value_float", 0.0)?)
    };
    let gone = if replaced.is_nan() { apply(cx, "is_nan", &[x])? } else { with_constant(cx, "equal", x, replaced)? };
    cx.op(Where {}, &[gone, values, x])
}

/// `x[…, 1] = keys[K]`, NaN being equal to NaN.
fn equal_to_keys(cx: &mut Importer<'_>, x: ValueId, keys: &Tensor) -> Result<ValueId, ImportError> {
    let mut to = cx.shape(x).clone();
    to.0.push(Dim::Const(1));
    let x = reshape(cx, x, to)?;
    let missing: Vec<bool> = keys.to_f64().iter().map(|k| k.is_nan()).collect();
    let table = cx.weight(keys.clone());
    let equal = apply(cx, "equal", &[x, table])?;
    if !missing.contains(&true) {
        return Ok(equal);
    }
    let nan = apply(cx, "is_nan", &[x])?;
    let missing = cx.weight(Tensor::new(&[missing.len()], &missing));
    let both = apply(cx, "and", &[nan, missing])?;
    apply(cx, "or", &[equal, both])
}

/// One for the category that an element is, else zeros (also where `zeros=0` would be an error at run time).
fn one_hot(node: &OnnxNode<'_>, cx: &mut Importer<'_>, x: ValueId) -> Result<ValueId, ImportError> {
    if !ml::strings(node, "cats_strings")?.is_empty() {
        return Err(ImportError::new("cats_strings: texts are not supported").with_help("encode categories as integers"));
    }
    let categories = ml::ints(node, "cats_int64s")?;
    let x = cast(cx, x, DType::I64)?;
    let equal = equal_to_keys(cx, x, &Tensor::new(&[categories.len()], &categories))?;
    cast(cx, equal, DType::F32)
}

/// The keys or values of a LabelEncoder, and the dtype they have there.
fn side(node: &OnnxNode<'_>, which: &str) -> Result<Tensor, ImportError> {
    let texts = format!("{which}_strings");
    if !ml::strings(node, &texts)?.is_empty() || (which == "keys" && node.attr("classes_strings").is_some()) {
        return Err(ImportError::new(format!("`{texts}`: texts are not supported"))
            .with_help("encode labels as integers before exporting"));
    }
    if let Some(t) = node.opt_tensor(&format!("{which}_tensor"))? {
        return Ok(t.clone());
    }
    let numbers = ml::ints(node, &format!("{which}_int64s"))?;
    if !numbers.is_empty() {
        return Ok(Tensor::new(&[numbers.len()], &numbers));
    }
    let floats = ml::floats(node, &format!("{which}_floats"))?;
    if floats.is_empty() {
        return Err(ImportError::new(format!("expected {which}_int64s or {which}_floats, found neither")));
    }
    Ok(Tensor::from_f64(DType::F32, &[floats.len()], &floats))
}

/// The value that stands where the key is the element, or the default.
fn label_encoder(node: &OnnxNode<'_>, cx: &mut Importer<'_>, x: ValueId) -> Result<ValueId, ImportError> {
    let (keys, values) = (side(node, "keys")?, side(node, "values")?);
    if keys.len() != values.len() || keys.is_empty() || keys.shape().len() != 1 || values.shape().len() != 1 {
        return Err(ImportError::new(format!("expected a value for each key, found {} and {}", keys.fact(), values.fact())));
    }
    let dtype = values.dtype();
    let default = match (node.attr("default_tensor"), dtype.is_float()) {
        (Some(OnnxAttr::Tensor(t)), _) if t.len() == 1 && t.dtype() == dtype => t.get(0),
        (_, true) => Scalar::of_f64(dtype, f64::from(node.float("default_float", -0.0)?)),
        (_, false) => Scalar::of_int(dtype, i128::from(node.int("default_int64", -1)?)),
    };
    let x = cast(cx, x, keys.dtype())?;
    let equal = equal_to_keys(cx, x, &keys)?;
    let axis = cx.rank(equal) - 1;
    let equal = cast(cx, equal, DType::I32)?;
    let at = cx.op(super::arg_reduce::ArgReduce { axis, max: true, last: false }, &[equal])?;
    let found = cx.op(Reduce { kind: Kind::Max, axes: vec![axis] }, &[equal])?;
    let found = cast(cx, found, DType::Bool)?;
    let table = cx.weight(values);
    let picked = cx.op(Gather { axis: 0 }, &[table, at])?;
    let rest = cx.weight(Tensor::full(&[], default));
    let y = cx.op(Where {}, &[found, picked, rest])?;
    let to = cx.shape(x).clone();
    reshape(cx, y, to)
}

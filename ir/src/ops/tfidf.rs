//! TfIdfVectorizer of numbers: how often each n-gram of a pool occurs in a row.
//!
//! ONNX: [TfIdfVectorizer](https://onnx.ai/onnx/operators/onnx__TfIdfVectorizer.html) (9). All n-grams of one length are compared at once with the
//! row shifted by 0, 1, … steps, for every distance of their elements that skipping allows.

use super::concat::Concat;
use super::gather::Gather;
use super::reduce::{Kind, Reduce};
use super::util::{apply, cast, part, reshape, with_constant};
use crate::OnnxAttr;
use crate::ops::*;
use tenon_base::Shape;

pub(super) fn onnx() -> Vec<OnnxName> {
    vec![OnnxName { domain: "", name: "TfIdfVectorizer", versions: &[9] }]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    let pool = node.opt_ints("pool_int64s")?.ok_or_else(|| {
        ImportError::new("expected pool_int64s: texts are not supported").with_help("tokenise to integers before the model")
    })?;
    let list = |name: &str| -> Result<Vec<usize>, ImportError> {
        let v = node.opt_ints(name)?.unwrap_or_default();
        let all = v.iter().map(|i| usize::try_from(*i).ok().filter(|i| *i < 1 << 24)).collect::<Option<Vec<_>>>();
        all.ok_or_else(|| ImportError::new(format!("{name}: expected non-negative integers, found {v:?}")))
    };
    let (starts, places) = (list("ngram_counts")?, list("ngram_indexes")?);
    let limits = ["min_gram_length", "max_gram_length", "max_skip_count"].map(|n| node.int(n, 0));
    let [shortest, longest, skips] = limits;
    let (shortest, longest, skips) = (shortest?, longest?, skips?);
    let mode = node.str("mode", "")?;
    if !["TF", "IDF", "TFIDF"].contains(&mode) {
        return Err(ImportError::new(format!("mode: expected TF, IDF or TFIDF, found {mode:?}")));
    }
    let shape = cx.shape(x).clone();
    if !(1..=2).contains(&shape.rank()) {
        return Err(ImportError::new(format!("expected a row or rows, found {shape}")));
    }
    let width = shape.0[shape.rank() - 1].as_usize();
    let width = width.ok_or_else(|| ImportError::new(format!("the length of a row must be known, found {shape}")))?;
    let rows = if shape.rank() == 2 { shape.0[0].clone() } else { Dim::Const(1) };
    let x = cast(cx, x, DType::I64)?;
    let x = reshape(cx, x, Shape(vec![rows.clone(), Dim::from(width), Dim::Const(1)]))?;
    let size = places.iter().max().map_or(0, |m| m + 1);
    // Counts of every n-gram in the order of the pool, and where it goes.
    let (mut counts, mut total) = (vec![], 0);
    for (i, &start) in starts.iter().enumerate() {
        let n = i + 1;
        let end = starts.get(n).copied().unwrap_or(pool.len());
        let grams = end.checked_sub(start).filter(|l| end <= pool.len() && l % n == 0).map(|l| l / n);
        let grams = grams.ok_or_else(|| ImportError::new(format!("ngram_counts {starts:?} do not fit a pool of {}", pool.len())))?;
        if grams == 0 {
            continue;
        }
        total += grams;
        let wanted = shortest <= n as i64 && n as i64 <= longest;
        // A single element has no distance.
        let distances = if n == 1 { 1 } else { skips.clamp(0, width as i64) as usize + 1 };
        let mut sum = None;
        for step in 1..=distances {
            let Some(places) = width.checked_sub((n - 1) * step).filter(|p| *p > 0 && wanted) else { continue };
            let mut all = None;
            for j in 0..n {
                let tokens: Vec<i64> = (0..grams).map(|g| pool[start + g * n + j]).collect();
                let tokens = cx.weight(Tensor::new(&[grams], &tokens));
                let here = part(cx, x, 1, j * step, places)?;
                let equal = apply(cx, "equal", &[here, tokens])?;
                all = Some(match all {
                    Some(a) => apply(cx, "and", &[a, equal])?,
                    None => equal,
                });
            }
            let Some(all) = all else { continue };
            let found = cast(cx, all, DType::F32)?;
            let found = cx.op(Reduce { kind: Kind::Sum, axes: vec![1] }, &[found])?;
            sum = Some(match sum {
                Some(s) => apply(cx, "add", &[s, found])?,
                None => found,
            });
        }
        let sum = match sum {
            Some(s) => reshape(cx, s, Shape(vec![rows.clone(), Dim::from(grams)]))?,
            None => {
                let zero = super::util::number(cx, DType::F32, 0.0);
                cx.op(super::expand::Expand { to: Shape(vec![rows.clone(), Dim::from(grams)]) }, &[zero])?
            }
        };
        counts.push(sum);
    }
    if total != places.len() || counts.is_empty() {
        return Err(ImportError::new(format!("{total} n-grams in the pool, {} ngram_indexes", places.len())));
    }
    let all = if counts.len() == 1 { counts[0] } else { cx.op(Concat { axis: 1 }, &counts)? };
    // The last n-gram of a place wins; places without one are 0.
    let mut from = vec![None; size];
    places.iter().enumerate().for_each(|(g, p)| from[*p] = Some(g));
    let gathered: Vec<i64> = from.iter().map(|g| g.unwrap_or(0) as i64).collect();
    let gathered = cx.weight(Tensor::new(&[size], &gathered));
    let mut y = cx.op(Gather { axis: 1 }, &[all, gathered])?;
    let mut weights = vec![1.0; places.len()];
    if let Some(OnnxAttr::Floats(w)) = node.attr("weights")
        && !w.is_empty()
        && mode != "TF"
    {
        if w.len() != places.len() {
            return Err(ImportError::new(format!("expected {} weights, found {}", places.len(), w.len())));
        }
        weights = w.iter().map(|v| f64::from(*v)).collect();
    }
    if mode == "IDF" {
        let some = with_constant(cx, "greater", y, 0.0)?;
        y = cast(cx, some, DType::F32)?;
    }
    let weights: Vec<f64> = from.iter().map(|g| g.map_or(0.0, |g| weights[g])).collect();
    if weights.iter().any(|w| *w != 1.0) {
        let weights = cx.weight(Tensor::from_f64(DType::F32, &[size], &weights));
        y = apply(cx, "mul", &[y, weights])?;
    }
    Ok(vec![if shape.rank() == 1 { reshape(cx, y, Shape::of(&[size]))? } else { y }])
}

//! Many samples with labels: what the model takes each for, in pictures and in numbers.

use super::Args;
use crate::failure::{Failure, Outcome};
use crate::output::{self, say, time};
use crate::picture::{Picture, gallery};
use crate::progress;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use tenon::engine::Session;
use tenon::{Compiled, DType, Tensor};

/// Images wider than this are not drawn.
const WIDEST: usize = 32;

/// Columns of the terminal that pictures may take.
const COLUMNS: usize = 80;

pub(super) fn main(
    args: &Args,
    compiled: &Compiled,
    session: &Session<'_>,
    data: &BTreeMap<String, Tensor>,
    labels: &[i64],
    json: bool,
) -> Outcome {
    let [input] = compiled.program.inputs.as_slice() else {
        let n = compiled.program.inputs.len();
        return Err(Failure::bad_input(format!("labels need a model with one input; this one has {n}")));
    };
    let samples = data.get(&input.name).ok_or_else(|| {
        Failure::bad_input(format!("no samples: give --input {}=FILE with one sample a label", input.name))
    })?;
    let batches = batches(samples, &input.fact.dims().unwrap_or_default(), input.fact.dtype, labels.len())?;
    let per_batch = labels.len() / batches.len().max(1);

    let bar = progress::bar(batches.len(), "running");
    let mut predictions: Vec<i64> = vec![];
    let mut spent = Duration::ZERO;
    for batch in &batches {
        let start = Instant::now();
        let outs = session.run(std::slice::from_ref(batch))?;
        spent += start.elapsed();
        let scores = outs.first().ok_or_else(|| Failure::bad_input("the model has no output"))?;
        predictions.extend(classes(scores, per_batch)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let right = predictions.iter().zip(labels).filter(|(p, l)| p == l).count();
    let total = labels.len();
    let accuracy = right as f64 / total as f64;
    let each = spent / total as u32;
    if json {
        output::json(&json!({
            "ok": true, "samples": total, "right": right, "accuracy": accuracy,
            "seconds_per_sample": each.as_secs_f64(), "predictions": predictions,
        }));
        return Ok(());
    }
    if args.show_images > 0
        && let Some((height, width)) = image_size(samples.shape())
    {
        show(samples, (height, width), &predictions, labels, args.show_images);
    }
    say!("\n{right} of {total} recognised: {:.2} %, {} each", 100.0 * accuracy, time(each));
    Ok(())
}

/// Samples as the model takes them: the first axis cut into the model's batches.
fn batches(samples: &Tensor, model: &[usize], dtype: DType, labels: usize) -> Outcome<Vec<Tensor>> {
    let misfit = |why: &str| {
        Failure::bad_input(format!("{why}: the model takes {dtype}{model:?}, the samples are {}", samples.fact()))
    };
    let (Some(&n), Some(&batch)) = (samples.shape().first(), model.first()) else {
        return Err(misfit("samples need a first axis"));
    };
    if n != labels || n == 0 {
        return Err(Failure::bad_input(format!("expected one label a sample: {n} samples, {labels} labels")));
    }
    if samples.dtype() != dtype || samples.shape()[1..] != model[1..] {
        return Err(misfit("the samples do not fit the model"));
    }
    if batch == 0 || n % batch != 0 {
        return Err(misfit("the number of samples is no multiple of the model's batch"));
    }
    let bytes = samples.bytes().len() / n * batch;
    (0..n / batch)
        .map(|i| {
            let part = samples.bytes().slice(i * bytes..(i + 1) * bytes);
            Tensor::from_bytes(dtype, model, part).map_err(|e| misfit(&e.to_string()))
        })
        .collect()
}

/// The class of each of `n` samples: the label itself where the output is one whole number a sample, else the
/// position of the largest score.
fn classes(scores: &Tensor, n: usize) -> Outcome<Vec<i64>> {
    if scores.dtype().is_int() && scores.len() == n {
        return Ok(scores.to_i64());
    }
    if n == 0 || scores.is_empty() || !scores.len().is_multiple_of(n) {
        return Err(Failure::bad_input(format!("the output, {}, is no score of {n} samples", scores.fact())));
    }
    let values = scores.to_f64();
    let largest = |row: &[f64]| (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
    Ok(values.chunks(values.len() / n).map(|row| largest(row) as i64).collect())
}

/// Height and width of `[n,h,w]`, `[n,1,h,w]` or `[n,h,w,1]` samples that are small enough to draw.
fn image_size(shape: &[usize]) -> Option<(usize, usize)> {
    let (h, w) = match *shape {
        [_, h, w] | [_, 1, h, w] | [_, h, w, 1] => (h, w),
        _ => return None,
    };
    (2..=WIDEST).contains(&h).then_some(())?;
    (2..=WIDEST).contains(&w).then_some((h, w))
}

/// Draws the first samples and, after them, those that were mistaken.
fn show(samples: &Tensor, (height, width): (usize, usize), predictions: &[i64], labels: &[i64], most: usize) {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let wrong = (0..labels.len()).filter(|&i| predictions[i] != labels[i]);
    let picture = |i: usize| {
        let pixels = height * width;
        let values: Vec<f32> = (i * pixels..(i + 1) * pixels).map(|k| samples.get(k).as_f64() as f32).collect();
        let p = Picture::new(width, &values);
        let p = if width <= 10 { p.doubled() } else { p };
        let verdict = if predictions[i] == labels[i] { "✓".to_string() } else { format!("✗ is {}", labels[i]) };
        (p, format!("{} {verdict}", predictions[i]))
    };
    let print = |title: &str, which: Vec<usize>| {
        if which.is_empty() {
            return;
        }
        say!("\n{title}\n");
        let pictures: Vec<_> = which.into_iter().map(picture).collect();
        let per_row = (COLUMNS / (pictures[0].0.columns() + 2)).max(1);
        for row in pictures.chunks(per_row) {
            gallery(row, colour).iter().for_each(|l| say!("{l}"));
        }
    };
    print("The first held-out samples, and what the model takes them for:", (0..labels.len().min(most)).collect());
    print("The ones it mistakes:", wrong.take(most.div_ceil(2)).collect());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_cut_into_batches() {
        let x = Tensor::new(&[4, 2], &[0f32, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        let b = batches(&x, &[2, 2], DType::F32, 4).unwrap();
        assert_eq!(b[1], Tensor::new(&[2, 2], &[4f32, 5.0, 6.0, 7.0]));
        assert!(batches(&x, &[3, 2], DType::F32, 4).is_err());
        assert!(batches(&x, &[1, 3], DType::F32, 4).is_err());
        assert!(batches(&x, &[1, 2], DType::F32, 5).unwrap_err().message.contains("4 samples, 5 labels"));
    }

    #[test]
    fn the_largest_score_is_the_class() {
        let t = Tensor::new(&[2, 3], &[0f32, 2.0, 1.0, 5.0, 2.0, 1.0]);
        assert_eq!(classes(&t, 2).unwrap(), [1, 0]);
        assert_eq!(classes(&Tensor::new(&[2], &[7i64, 8]), 2).unwrap(), [7, 8]);
        assert!(classes(&t, 4).is_err());
    }

    #[test]
    fn only_small_images_are_drawn() {
        assert_eq!(image_size(&[360, 1, 8, 8]), Some((8, 8)));
        assert_eq!(image_size(&[1, 3, 224, 224]), None);
        assert_eq!(image_size(&[5, 64]), None);
    }
}

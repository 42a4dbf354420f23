//! Calibration: the ranges of a model's values on samples, and how well the quantised model does on them.

use crate::recipe::{LayerPrecision, Precision, Recipe, ValueRange, shortest};
use crate::{Compiler, Error};
use std::collections::{BTreeMap, BTreeSet};
use tenon_base::Tensor;
use tenon_ir::ops::clip::Clip;
use tenon_ir::ops::conv::Conv;
use tenon_ir::{Graph, Op, ValueId};
use tenon_passes::pipeline::Phase;
use tenon_passes::quantize::recipe::{Choice, Range, Site, Sites, insert, quantised_weights, sites};
use tenon_target::{Arch, Feature, Target};

/// How a range is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// From the smallest to the largest value seen.
    MinMax,
    /// The range that leaves out this part of all values, in halves at both ends.
    Percentile(f64),
    /// The range with the least mean squared error of rounding and cutting off.
    Mse,
}

impl Method {
    /// As in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Method::MinMax => "minmax",
            Method::Percentile(_) => "percentile",
            Method::Mse => "mse",
        }
    }
}

/// How well a layer does in integers.
#[derive(Clone, Debug)]
pub struct LayerReport {
    /// What integers cost it.
    pub measured: LayerError,
    /// The range of what it reads.
    pub range: Option<Range>,
    /// Whether integers are faster on the target, and why or why not.
    pub helps: (bool, String),
}

/// What calibration made.
#[derive(Clone, Debug)]
pub struct Calibrated {
    /// The recipe.
    pub recipe: Recipe,
    /// Every layer.
    pub layers: Vec<LayerReport>,
    /// Signal to noise of each output, in dB.
    pub outputs: Vec<(String, f64)>,
}

/// Bins of a histogram.
const BINS: usize = 2048;
/// Samples on which errors are measured.
const MEASURED: usize = 16;

/// What is seen of one value.
#[derive(Clone, Debug)]
struct Seen {
    min: f32,
    max: f32,
    histogram: Vec<u64>,
    /// Sums and counts for each channel.
    sums: Vec<f64>,
    count: u64,
}

/// Finds a recipe for the imported `graph` on `samples`, each a list of inputs in the model's order; layers in `float` stay as
/// they are.
///
/// # Errors
/// Samples do not fit, give values that are not finite, or there is nothing to quantise.
pub fn calibrate(
    compiler: &Compiler,
    graph: Graph,
    model: String,
    samples: &[Vec<Tensor>],
    method: Method,
    float: &BTreeSet<String>,
) -> Result<Calibrated, Error> {
    let mut canonical = compiler.run_to(graph, Phase::Canonical)?.graph;
    tenon_passes::quantize::weights::in_floats(&mut canonical)?;
    let found = sites(&canonical, float).map_err(|e| Error::Internal(e.to_string()))?;
    if let Some(name) = float.iter().find(|n| !found.layers.iter().any(|l| l.name == **n)) {
        let have: Vec<&str> = found.layers.iter().map(|l| l.name.as_str()).collect();
        return Err(Error::Input(format!("the model has no layer \"{name}\"; it has {}", have.join(", "))));
    }
    if found.values.is_empty() {
        return Err(Error::Input(
            "there is nothing to quantise: the model has no convolution or matrix product of floats with constant weights".into(),
        ));
    }
    if samples.is_empty() {
        return Err(Error::Input("expected at least one sample, found none".into()));
    }
    let seen = observe(compiler, &canonical, &found, samples)?;
    let ranges: BTreeMap<String, Range> =
        found.values.iter().zip(&seen).map(|(s, v)| (s.name.clone(), v.range(method))).collect();
    let mut recipe = Recipe::new(model, method.name(), samples.len());
    for site in &found.values {
        let r = ranges[&site.name];
        recipe.values.push(ValueRange { name: site.name.clone(), min: shortest(r.min), max: shortest(r.max) });
    }
    for layer in &found.layers {
        let precision = if layer.input.is_some() { Precision::Int8 } else { Precision::Float };
        let input = layer.input.as_ref().and_then(|n| found.values.iter().position(|s| s.name == *n));
        let correction = input.and_then(|i| {
            let scale = ranges[&found.values[i].name].params().0;
            correction(&canonical, layer.node, scale, &seen[i].means())
        });
        recipe.layers.push(LayerPrecision {
            name: layer.name.clone(),
            precision,
            correction: correction.filter(|c| c.iter().any(|c| *c != 0)).unwrap_or_default(),
        });
    }
    let choice = recipe.choice();
    let measured = &samples[..samples.len().min(MEASURED)];
    let (layers, outputs) = errors(compiler, &canonical, &found, &choice, measured)?;
    Ok(Calibrated { recipe, layers, outputs })
}

/// How a quantised classifier does on samples it was not calibrated on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluated {
    /// Samples.
    pub samples: usize,
    /// The part of them for which the largest element of the first output is the same as in floats.
    pub agreement: f64,
    /// The part for which it is the label, in floats and in integers; `None` without labels.
    pub accuracy: Option<(f64, f64)>,
}

/// Compares the classes that the float model and the one quantised by `recipe` find.
///
/// # Errors
/// Samples do not fit, or there are not as many labels.
pub fn evaluate(
    compiler: &Compiler,
    graph: &Graph,
    recipe: &Recipe,
    samples: impl ExactSizeIterator<Item = Vec<Tensor>>,
    labels: Option<&[i64]>,
) -> Result<Evaluated, Error> {
    let count = samples.len();
    if let Some(l) = labels.filter(|l| l.len() != count) {
        return Err(Error::Input(format!("expected {count} labels, one a sample, found {}", l.len())));
    }
    let float = compiler.compile_graph(graph.clone())?.jit()?;
    let mut options = compiler.options().clone();
    options.recipe = Some(recipe.clone());
    let ints = Compiler::new(options).compile_graph(graph.clone())?.jit()?;
    let (mut a, mut b) = (float.runner(), ints.runner());
    let class = |t: &[Tensor]| {
        let v = t.first().map(Tensor::to_f64).unwrap_or_default();
        let best = v.iter().enumerate().max_by(|x, y| x.1.total_cmp(y.1).then(y.0.cmp(&x.0)));
        best.map_or(-1, |b| b.0 as i64)
    };
    let (mut same, mut right) = (0, (0, 0));
    for (i, sample) in samples.enumerate() {
        let (x, y) = (class(&a.run(&sample)?), class(&b.run(&sample)?));
        same += usize::from(x == y);
        if let Some(l) = labels {
            right.0 += usize::from(x == l[i]);
            right.1 += usize::from(y == l[i]);
        }
    }
    let part = |n: usize| n as f64 / count.max(1) as f64;
    Ok(Evaluated { samples: count, agreement: part(same), accuracy: labels.map(|_| (part(right.0), part(right.1))) })
}

/// Compiles `graph` with `values` as further outputs.
fn instrumented(compiler: &Compiler, graph: &Graph, values: &[ValueId]) -> Result<crate::jit::Model, Error> {
    let mut g = graph.clone();
    for (i, v) in values.iter().enumerate() {
        g.add_output(format!("value.{i}"), *v);
    }
    compiler.compile_graph(g)?.jit()
}

/// Runs the float model and looks at the values of the sites: twice, the second time within known bounds.
fn observe(compiler: &Compiler, graph: &Graph, found: &Sites, samples: &[Vec<Tensor>]) -> Result<Vec<Seen>, Error> {
    let values: Vec<ValueId> = found.values.iter().map(|s| s.value).collect();
    let model = instrumented(compiler, graph, &values)?;
    let mut runner = model.runner();
    let own = graph.outputs().len();
    let mut seen: Vec<Seen> = found.values.iter().map(|s| Seen::of(graph, s)).collect();
    for pass in 0..2 {
        for (n, sample) in samples.iter().enumerate() {
            let outs = runner.run(sample)?;
            for ((s, site), t) in seen.iter_mut().zip(&found.values).zip(&outs[own..]) {
                let v = t.to_vec::<f32>();
                if let Some(x) = v.iter().find(|x| !x.is_finite()) {
                    return Err(Error::Input(format!("sample {n}: value \"{}\" has an element {x}", site.name)));
                }
                if pass == 0 { s.extend(&v, t.shape()) } else { s.count(&v) }
            }
        }
    }
    Ok(seen)
}

impl Seen {
    fn of(graph: &Graph, site: &Site) -> Seen {
        let dims = graph.fact(site.value).dims().unwrap_or_default();
        let channels = dims.get(channel_axis(&dims)).copied().unwrap_or(1);
        Seen { min: 0.0, max: 0.0, histogram: vec![0; BINS], sums: vec![0.0; channels], count: 0 }
    }

    fn extend(&mut self, v: &[f32], dims: &[usize]) {
        let axis = channel_axis(dims);
        let inner: usize = dims.get(axis + 1..).map_or(1, |d| d.iter().product());
        let channels = self.sums.len().max(1);
        for (i, x) in v.iter().enumerate() {
            self.min = self.min.min(*x);
            self.max = self.max.max(*x);
            self.sums[i / inner.max(1) % channels] += f64::from(*x);
        }
        self.count += (v.len() / channels) as u64;
    }

    fn count(&mut self, v: &[f32]) {
        let width = (f64::from(self.max) - f64::from(self.min)) / BINS as f64;
        if width <= 0.0 {
            return;
        }
        for x in v {
            let bin = ((f64::from(*x) - f64::from(self.min)) / width) as usize;
            self.histogram[bin.min(BINS - 1)] += 1;
        }
    }

    fn means(&self) -> Vec<f64> {
        self.sums.iter().map(|s| s / (self.count.max(1) as f64)).collect()
    }

    fn range(&self, method: Method) -> Range {
        let all = Range { min: self.min, max: self.max };
        match method {
            Method::MinMax => all,
            Method::Percentile(p) => self.percentile((1.0 - p / 100.0).max(0.0)),
            Method::Mse => self.least_error(),
        }
    }

    /// The value at the lower edge of bin `i`.
    fn edge(&self, i: usize) -> f64 {
        f64::from(self.min) + (f64::from(self.max) - f64::from(self.min)) * i as f64 / BINS as f64
    }

    fn percentile(&self, outside: f64) -> Range {
        let total: u64 = self.histogram.iter().sum();
        let allowed = (total as f64 * outside / 2.0) as u64;
        let end = |bins: Vec<usize>| {
            let mut cut = 0;
            bins.into_iter().find(|i| {
                cut += self.histogram[*i];
                cut > allowed
            })
        };
        let lo = end((0..BINS).collect()).unwrap_or(0);
        let hi = end((0..BINS).rev().collect()).unwrap_or(BINS - 1);
        Range { min: self.edge(lo).min(0.0) as f32, max: self.edge(hi + 1).max(0.0) as f32 }
    }

    /// Shrinks the range from both ends together as long as the expected error falls.
    fn least_error(&self) -> Range {
        let mut best = (f64::INFINITY, Range { min: self.min, max: self.max });
        for step in 0..60 {
            let by = 1.0 - f64::from(step) / 80.0;
            let range = Range { min: (f64::from(self.min) * by) as f32, max: (f64::from(self.max) * by) as f32 };
            let (scale, zero) = range.params();
            let (scale, zero) = (f64::from(scale), f64::from(zero));
            let mut error = 0.0;
            for (i, n) in self.histogram.iter().enumerate().filter(|(_, n)| **n > 0) {
                let x = (self.edge(i) + self.edge(i + 1)) / 2.0;
                let q = ((x / scale).round() + zero).clamp(0.0, 255.0);
                let cut = q == 0.0 || q == 255.0;
                let d = (q - zero) * scale - x;
                // Within the range the error of rounding is uniform, whatever the middle of a bin says.
                error += *n as f64 * if cut { (d * d).max(scale * scale / 12.0) } else { scale * scale / 12.0 };
            }
            if error < best.0 {
                best = (error, range);
            }
        }
        best.1
    }
}

/// Where channels are, in a canonical graph.
fn channel_axis(dims: &[usize]) -> usize {
    if dims.len() >= 3 { 1 } else { dims.len().saturating_sub(1) }
}

/// What makes up for the mean error of the rounded weights, in units of the sum: `Σ (w - ŵ) · E[x]` over each output channel.
fn correction(graph: &Graph, node: tenon_ir::NodeId, x_scale: f32, means: &[f64]) -> Option<Vec<i32>> {
    let (q, scale, axis) = quantised_weights(graph, node)?;
    let w = graph.weight(graph.operands(node)[1])?;
    let dims = w.shape();
    let (group, matrix) = match graph.op(node)? {
        Op::Conv(c) => (c.group, false),
        _ => (1, true),
    };
    let inner: usize = dims[axis + 1..].iter().product();
    let mut sums = vec![0.0; scale.len()];
    let (exact, rounded) = (w.to_f64(), q.to_i64());
    for (i, (w, q)) in exact.iter().zip(&rounded).enumerate() {
        let o = i / inner.max(1) % scale.len();
        let c = if matrix {
            if axis == 1 { i / scale.len() } else { i % inner.max(1) }
        } else {
            let taps: usize = dims[2..].iter().product();
            let within = i % inner.max(1) / taps.max(1);
            o / (scale.len() / group.max(1)).max(1) * dims[1] + within
        };
        sums[o] += (w - *q as f64 * f64::from(scale[o])) * means.get(c).copied()?;
    }
    Some(sums.iter().zip(&scale).map(|(s, w)| (s / f64::from(x_scale * w)).round_ties_even() as i32).collect())
}

/// Reports of layers and of outputs.
type Errors = (Vec<LayerReport>, Vec<(String, f64)>);

/// Compares the float model with the quantised one, layer by layer.
fn errors(
    compiler: &Compiler,
    canonical: &Graph,
    found: &Sites,
    choice: &Choice,
    samples: &[Vec<Tensor>],
) -> Result<Errors, Error> {
    let results: Vec<ValueId> = found.layers.iter().map(|l| ValueId { node: l.node, port: 0 }).collect();
    let mut graph = canonical.clone();
    insert(&mut graph, choice).map_err(|e| Error::Input(e.to_string()))?;
    // A correction stands behind the layer: what its users read is the result.
    let corrected: Vec<ValueId> = results.iter().map(|v| behind_correction(&graph, *v)).collect();
    let own = canonical.outputs().len();
    let sums = differences(compiler, (canonical, &results), (&graph, &corrected), samples)?;
    let outputs = canonical.outputs().iter().zip(&sums).map(|((n, _), s)| (n.clone(), s.decibels())).collect();
    let target = &compiler.options().target;
    let layers = found
        .layers
        .iter()
        .zip(&sums[own..])
        .map(|(l, s)| {
            let op = kind(canonical, l.node);
            LayerReport {
                measured: s.of_layer(l.name.clone(), op),
                range: l.input.as_ref().and_then(|n| choice.ranges.get(n)).copied(),
                helps: if l.input.is_some() {
                    helps(target, op)
                } else {
                    (false, "stays in floats, as chosen".into())
                },
            }
        })
        .collect();
    Ok((layers, outputs))
}

/// How two forms of one value differ.
#[derive(Clone, Copy, Debug, Default)]
struct Difference {
    squares: f64,
    errors: f64,
    count: u64,
}

impl Difference {
    fn of_layer(&self, name: String, op: &'static str) -> LayerError {
        let mean = |sum: f64| (sum / self.count.max(1) as f64).sqrt();
        LayerError { name, op, rms: mean(self.squares), error: mean(self.errors), sqnr: self.decibels() }
    }

    fn decibels(&self) -> f64 {
        if self.errors == 0.0 { f64::INFINITY } else { 10.0 * (self.squares / self.errors).log10() }
    }
}

/// Runs two forms of a model, and compares their outputs and then their values, pairwise.
fn differences(
    compiler: &Compiler,
    (float, a): (&Graph, &[ValueId]),
    (ints, b): (&Graph, &[ValueId]),
    samples: &[Vec<Tensor>],
) -> Result<Vec<Difference>, Error> {
    let (float, ints) = (instrumented(compiler, float, a)?, instrumented(compiler, ints, b)?);
    let (mut one, mut other) = (float.runner(), ints.runner());
    let mut all: Vec<Difference> = vec![];
    for sample in samples {
        let (x, y) = (one.run(sample)?, other.run(sample)?);
        all.resize(x.len(), Difference::default());
        for ((x, y), d) in x.iter().zip(&y).zip(&mut all) {
            for (x, y) in x.to_f64().iter().zip(y.to_f64()) {
                d.squares += x * x;
                d.errors += (x - y) * (x - y);
                d.count += 1;
            }
        }
    }
    Ok(all)
}

/// How much rounding to integers changes the result of each convolution and matrix product of a quantised model: the name, the
/// root mean squares of the result in floats and of the difference, and their ratio in dB.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerError {
    /// The node.
    pub name: String,
    /// `conv`, `depthwise conv` or `matmul`.
    pub op: &'static str,
    /// Of the result in floats.
    pub rms: f64,
    /// Of the difference.
    pub error: f64,
    /// In dB.
    pub sqnr: f64,
}

/// The errors of all layers of the imported `graph` on `samples`. With a recipe among the compiler's options, floats are the
/// model as it is. A model that came quantised is compared with itself without the rounding of values: quantised values are only
/// cut off at the ends of their ranges, and weights are what their integers stand for.
///
/// # Errors
/// Samples do not fit, or the model cannot be compiled.
pub fn layer_errors(compiler: &Compiler, graph: Graph, samples: &[Vec<Tensor>]) -> Result<Vec<LayerError>, Error> {
    let mut options = compiler.options().clone();
    let recipe = options.recipe.take();
    let plain = Compiler::new(options);
    let mut canonical = plain.run_to(graph, Phase::Canonical)?.graph;
    let samples = &samples[..samples.len().min(MEASURED)];
    if let Some(recipe) = recipe {
        tenon_passes::quantize::weights::in_floats(&mut canonical)?;
        let choice = recipe.choice();
        let found = sites(&canonical, &choice.float).map_err(|e| Error::Internal(e.to_string()))?;
        let (layers, _) = errors(&plain, &canonical, &found, &choice, samples)?;
        return Ok(layers.into_iter().map(|l| l.measured).collect());
    }
    let float = without_rounding(&canonical)?;
    let layers: Vec<ValueId> = canonical
        .topological()
        .map_err(|e| Error::Internal(e.to_string()))?
        .into_iter()
        .filter(|n| matches!(canonical.op(*n), Some(Op::Conv(_) | Op::MatMul(_))))
        .map(|node| ValueId { node, port: 0 })
        .collect();
    let all = differences(&plain, (&float, &layers), (&canonical, &layers), samples)?;
    let own = canonical.outputs().len();
    let one = |(v, d): (&ValueId, &Difference)| {
        d.of_layer(canonical.node(v.node).loc.name().unwrap_or_default().to_string(), kind(&canonical, v.node))
    };
    Ok(layers.iter().zip(all.iter().skip(own)).map(one).collect())
}

/// `graph` with `DQ(Q(x))` replaced by `x` within the range that the integers span.
fn without_rounding(graph: &Graph) -> Result<Graph, Error> {
    let internal = |m: String| Error::Internal(m);
    let mut g = graph.clone();
    for id in g.topological().map_err(|e| internal(e.to_string()))? {
        let Some(Op::Dequantize(_)) = g.op(id) else { continue };
        let ins = g.operands(id);
        let Some(Op::Quantize(q)) = g.op(ins[0].node) else { continue };
        let Some((lo, hi)) = q.to.int_range() else { continue };
        let from = g.operands(ins[0].node);
        let number = |v: Option<&ValueId>, none: f64| match v {
            None => Some(none),
            Some(v) => g.weight(*v).filter(|t| t.len() == 1).map(|t| t.get(0).as_f64()),
        };
        let (scales, zeros) = (
            (number(from.get(1), 1.0), number(ins.get(1), 1.0)),
            (number(from.get(2), 0.0), number(ins.get(2), 0.0)),
        );
        let ((Some(scale), Some(back)), (Some(zero), Some(zero_back))) = (scales, zeros) else { continue };
        if (scale, zero) != (back, zero_back) {
            continue;
        }
        let bound = |v: i128| Some(tenon_base::Real((v as f64 - zero) * scale));
        let loc = g.node(id).loc.clone();
        let clip = g.add_op(Clip { min: bound(lo), max: bound(hi) }, &from[..1], loc);
        let clip = clip.map_err(|e| internal(e.message))?[0];
        g.replace(ValueId { node: id, port: 0 }, clip).map_err(|e| internal(e.to_string()))?;
    }
    Ok(g)
}

fn behind_correction(graph: &Graph, v: ValueId) -> ValueId {
    match graph.users(v)[..] {
        [(user, 0)]
            if graph.op(user).is_some_and(|op| tenon_ir::Operator::name(op) == "add")
                && graph.operands(user).get(1).is_some_and(|c| graph.weight(*c).is_some())
                && graph.node(user).loc == graph.node(v.node).loc =>
        {
            ValueId { node: user, port: 0 }
        }
        _ => v,
    }
}

fn kind(graph: &Graph, node: tenon_ir::NodeId) -> &'static str {
    match graph.op(node) {
        Some(Op::Conv(Conv { group, .. })) if *group > 1 => "depthwise conv",
        Some(Op::Conv(_)) => "conv",
        _ => "matmul",
    }
}

/// Whether a layer of bytes is faster on `target` than one of floats, and why.
fn helps(target: &Target, op: &str) -> (bool, String) {
    let has = |f| target.has(f);
    if op == "depthwise conv" {
        return (
            false,
            "a quarter of the memory; sums have too few terms for dot products, and are exact in floats".into(),
        );
    }
    let how = match target.arch {
        _ if target.vector_bytes == 0 => {
            return (false, "the machine has no vectors: a product of bytes takes as long as one of floats".into());
        }
        Arch::X86_64 if has(Feature::AvxVnni) || has(Feature::Avx512vnni) => "4 products a lane: VNNI",
        Arch::X86_64 => "2 products a lane: pairs of 16 bits",
        Arch::Aarch64 if has(Feature::Dotprod) => "4 products a lane: dot product",
        Arch::Aarch64 => "2 products a lane: widening multiplication",
        Arch::Riscv64 => return (false, "a quarter of the memory; pairwise sums take many instructions".into()),
    };
    (true, how.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(v: &[f32]) -> Seen {
        let mut s = Seen { min: 0.0, max: 0.0, histogram: vec![0; BINS], sums: vec![0.0], count: 0 };
        s.extend(v, &[v.len(), 1]);
        s.count(v);
        s
    }

    #[test]
    fn outliers_are_cut_off_by_percentile_and_error_but_not_by_extremes() {
        let mut v: Vec<f32> = (0..100_000).map(|i| (i % 1000) as f32 / 1000.0).collect();
        v.push(40.0);
        let s = seen(&v);
        assert_eq!(s.range(Method::MinMax), Range { min: 0.0, max: 40.0 });
        assert!(s.range(Method::Percentile(99.9)).max < 1.1);
        assert!(s.range(Method::Mse).max < 40.0);
        let uniform = seen(&v[..100_000]);
        assert!(uniform.range(Method::Mse).max > 0.95);
    }

    #[test]
    fn a_value_that_is_always_0_has_a_scale() {
        let s = seen(&[0.0; 10]);
        assert_eq!(s.range(Method::Mse).params(), (1.0, 0));
    }
}

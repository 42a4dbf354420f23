//! Random graphs with data, for differential tests: the same graph for the same seed, on every machine.
//!
//! A graph grows from operators' own samples, on fresh inputs drawn in the range that the sample asks for, and from
//! operators put on values that are there already. The latter are chosen so that a rounding error stays one: no
//! comparisons of computed floats, no rounding to integers, and only values of modest size are computed with.

use crate::data::{Rng, draw};
use tenon_base::{Fact, Loc, Shape, Tensor};
use tenon_ir::op::Sample;
use tenon_ir::ops::{all_samples, reshape::Reshape, transpose::Transpose};
use tenon_ir::{Graph, Op, OpClass, Operator, Tolerance, ValueId};

/// A graph with inputs that fit it, and what the operators' references make of them.
#[derive(Clone, Debug)]
pub struct RandomGraph {
    /// 1 to 40 operators.
    pub graph: Graph,
    /// One tensor an input.
    pub inputs: Vec<Tensor>,
    /// One tensor an output.
    pub expected: Vec<Tensor>,
    /// The largest magnitude of any value on the way: what errors are in proportion to.
    pub scale: f64,
    /// How close another engine must be, relative to `scale`: the loosest operator's tolerance, once for each operator.
    pub tolerance: Tolerance,
}

/// Values of more elements are not computed with further.
const MAX_ELEMENTS: usize = 4096;

/// Values beyond this are not computed with further: products of large numbers leave the range of `f16` soon, that of
/// `f32` later, and errors grow with them.
const MAX_MAGNITUDE: f64 = 64.0;

/// Pointwise functions whose error is not larger than that of their operands, apart from a small factor.
const SMOOTH: [&str; 18] = [
    "abs",
    "add",
    "atan",
    "clip",
    "erf",
    "gelu",
    "hard_swish",
    "max",
    "min",
    "mul",
    "neg",
    "relu",
    "sigmoid",
    "sin",
    "softplus",
    "softsign",
    "sub",
    "tanh",
];

/// Of these, the ones that are exact on integers too.
const EXACT: [&str; 7] = ["abs", "add", "max", "min", "mul", "neg", "sub"];

/// Kernels with the same property.
const KERNELS: [&str; 9] =
    ["concat", "layer_norm", "reduce_max", "reduce_mean", "reduce_min", "reduce_sum", "softmax", "split", "max_pool"];

/// A value with its data.
#[derive(Clone, Debug)]
struct Known {
    id: ValueId,
    data: Tensor,
    /// Whether it may be computed with further.
    tame: bool,
}

struct Generator {
    rng: Rng,
    graph: Graph,
    inputs: Vec<Tensor>,
    values: Vec<Known>,
    operators: usize,
    loosest: Tolerance,
    scale: f64,
}

/// The graph of `seed`.
///
/// # Panics
/// If a sample contradicts its operator: a bug that the operators' own tests report better.
pub fn random_graph(seed: u64) -> RandomGraph {
    let samples: Vec<Sample> =
        all_samples().into_iter().filter(|(file, _)| *file != "symbolic").flat_map(|(_, s)| s).collect();
    let chained: Vec<Op> = samples.iter().filter(|s| is_chained(s)).map(|s| s.op.clone()).collect();
    let mut g = Generator {
        rng: Rng::new(seed),
        graph: Graph::new(format!("random_{seed}")),
        inputs: vec![],
        values: vec![],
        operators: 0,
        loosest: Tolerance::EXACT,
        scale: 0.0,
    };
    let wanted = 1 + g.rng.below(40);
    let mut attempts = 0;
    while g.operators < wanted {
        attempts += 1;
        let fresh = g.operators == 0 || attempts > 50 || g.rng.below(6) == 0;
        let before = g.operators;
        if fresh {
            let sample = samples[g.rng.below(samples.len())].clone();
            g.add_sample(&sample);
        } else {
            match g.rng.below(6) {
                0 => g.add_reshape(),
                1 => g.add_transpose(),
                _ => {
                    let op = chained[g.rng.below(chained.len())].clone();
                    g.add_chained(op);
                }
            }
        }
        if g.operators > before {
            attempts = 0;
        }
    }
    g.finish()
}

fn is_chained(sample: &Sample) -> bool {
    let name = sample.op.name();
    SMOOTH.contains(&name)
        || KERNELS.contains(&name)
        || (matches!(sample.op.class(), OpClass::Move) && sample.ins.len() == 1)
}

impl Generator {
    fn add_input(&mut self, fact: &Fact, range: Option<(f64, f64)>) -> usize {
        let data = draw(fact, range, self.rng.bits());
        let id = self.graph.add_input(format!("x{}", self.inputs.len()), fact.clone());
        self.inputs.push(data.clone());
        self.push(id, data)
    }

    fn add_weight(&mut self, fact: &Fact) -> usize {
        let data = draw(fact, None, self.rng.bits());
        let id = self.graph.add_weight(format!("w{}", self.values.len()), data.clone());
        self.push(id, data)
    }

    fn push(&mut self, id: ValueId, data: Tensor) -> usize {
        let (mut largest, mut finite) = (0f64, true);
        if data.dtype().is_float() {
            for v in data.to_f64() {
                finite &= v.is_finite();
                largest = if v.is_finite() { largest.max(v.abs()) } else { largest };
            }
            self.scale = self.scale.max(largest);
        }
        let tame = finite && largest <= MAX_MAGNITUDE && data.len() <= MAX_ELEMENTS;
        self.values.push(Known { id, data, tame });
        self.values.len() - 1
    }

    /// Adds `op` on the values `at`, if it takes them.
    fn add_op(&mut self, op: Op, at: &[usize]) -> bool {
        let facts: Vec<Fact> = at.iter().map(|&i| self.values[i].data.fact()).collect();
        let small = |f: &Fact| f.dims().is_some_and(|d| d.iter().product::<usize>() <= MAX_ELEMENTS);
        if !op.infer(&facts).is_ok_and(|outs| outs.iter().all(small)) {
            return false;
        }
        let ins: Vec<Tensor> = at.iter().map(|&i| self.values[i].data.clone()).collect();
        let Ok(outs) = op.eval(&ins) else {
            return false;
        };
        let operands: Vec<ValueId> = at.iter().map(|&i| self.values[i].id).collect();
        let t = op.tolerance();
        let loc = Loc::new(format!("{}_{}", op.name(), self.operators));
        let ids = self.graph.add_op(op, &operands, loc).expect("inferred above");
        self.loosest.absolute = self.loosest.absolute.max(t.absolute);
        self.loosest.relative = self.loosest.relative.max(t.relative);
        self.operators += 1;
        for (id, data) in ids.into_iter().zip(outs) {
            self.push(id, data);
        }
        true
    }

    fn add_sample(&mut self, sample: &Sample) {
        let range = |i: usize| sample.range.get(i).copied();
        let at: Vec<usize> = sample.ins.iter().enumerate().map(|(i, f)| self.add_input(f, range(i))).collect();
        assert!(self.add_op(sample.op.clone(), &at), "{} does not take its own sample", sample.op.name());
    }

    /// A value to compute with further.
    fn pick(&mut self) -> Option<usize> {
        let tame: Vec<usize> = (0..self.values.len()).filter(|&i| self.values[i].tame).collect();
        (!tame.is_empty()).then(|| tame[self.rng.below(tame.len())])
    }

    fn add_reshape(&mut self) {
        let Some(x) = self.pick() else { return };
        let n = self.values[x].data.len();
        let divisors: Vec<usize> = (1..=n).filter(|d| n.is_multiple_of(*d)).collect();
        let to = match divisors.get(self.rng.below(divisors.len())) {
            Some(&d) => vec![d, n / d],
            None => vec![n],
        };
        self.add_op(Reshape { to: Shape::of(&to) }.into(), &[x]);
    }

    fn add_transpose(&mut self) {
        let Some(x) = self.pick() else { return };
        let mut perm: Vec<usize> = (0..self.values[x].data.shape().len()).collect();
        for i in (1..perm.len()).rev() {
            perm.swap(i, self.rng.below(i + 1));
        }
        self.add_op(Transpose { perm }.into(), &[x]);
    }

    /// `op` on a value, with partners of its shape from among the values, or a new weight.
    fn add_chained(&mut self, op: Op) {
        let Some(x) = self.pick() else { return };
        let fact = self.values[x].data.fact();
        if SMOOTH.contains(&op.name()) && fact.dtype.is_int() && !EXACT.contains(&op.name()) {
            return;
        }
        let partners: Vec<usize> =
            (0..self.values.len()).filter(|&i| self.values[i].tame && self.values[i].data.fact() == fact).collect();
        let mut at = vec![x];
        // The first number of operands that the operator takes.
        for _ in 0..3 {
            let facts: Vec<Fact> = at.iter().map(|&i| self.values[i].data.fact()).collect();
            if op.infer(&facts).is_ok() {
                self.add_op(op, &at);
                return;
            }
            at.push(partners[self.rng.below(partners.len())]);
        }
        // A row of numbers broadcasts to anything.
        let row = Fact::of(fact.dtype, &fact.dims().unwrap_or_default()[fact.shape.rank().saturating_sub(1)..]);
        if op.infer(&[fact.clone(), row.clone()]).is_ok() {
            let w = self.add_weight(&row);
            self.add_op(op, &[x, w]);
        }
    }

    fn finish(mut self) -> RandomGraph {
        let mut expected = vec![];
        // Every value that nothing uses, so that nothing is dead; inputs and weights are no outputs.
        for v in &self.values {
            if self.graph.op(v.id.node).is_some() && self.graph.use_count(v.id) == 0 {
                self.graph.add_output(format!("y{}", expected.len()), v.id);
                expected.push(v.data.clone());
            }
        }
        let n = self.operators as f64;
        let tolerance = Tolerance { absolute: self.loosest.absolute * n, relative: self.loosest.relative * n };
        RandomGraph { graph: self.graph, inputs: self.inputs, expected, scale: self.scale, tolerance }
    }
}

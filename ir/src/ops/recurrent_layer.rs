//! LSTM, GRU and RNN of ONNX: one product for the input of all steps, then a recurrence per direction.
//!
//! ONNX: [LSTM](https://onnx.ai/onnx/operators/onnx__LSTM.html) (1, 7, 14, 22), [GRU](https://onnx.ai/onnx/operators/onnx__GRU.html) (1, 3, 7, 14, 22),
//! [RNN](https://onnx.ai/onnx/operators/onnx__RNN.html) (1, 7, 14, 22).

use super::concat::Concat;
use super::expand::Expand;
use super::matmul::MatMul;
use super::quantized_weights::DynamicWeights;
use super::recurrent::{Cell, Function, Recurrent};
use super::slice::Slice;
use super::transpose::Transpose;
use super::util::{apply, cast, number, reshape};
use crate::OnnxAttr;
use crate::ops::*;
use tenon_base::{Real, Shape};

pub(super) fn onnx() -> Vec<OnnxName> {
    let on = |name, versions| OnnxName { domain: "", name, versions };
    vec![on("LSTM", &[1, 7, 14, 22]), on("GRU", &[1, 3, 7, 14, 22]), on("RNN", &[1, 7, 14, 22])]
}

/// Elements `from..from + count` of axis 0.
fn part(cx: &mut Importer<'_>, v: ValueId, from: usize, count: usize) -> Result<ValueId, ImportError> {
    let mut to = cx.shape(v).clone();
    if to.0.is_empty() || (from == 0 && to.0[0] == Dim::from(count)) {
        return Ok(v);
    }
    let (mut starts, steps) = (vec![0; to.rank()], vec![1; to.rank()]);
    starts[0] = from as i64;
    to.0[0] = Dim::from(count);
    cx.op(Slice { starts, steps, to }, &[v])
}

/// Direction `d` of an operand `[D, …]`, without that axis.
pub(super) fn direction(cx: &mut Importer<'_>, v: ValueId, d: usize, count: usize) -> Result<ValueId, ImportError> {
    if cx.shape(v).0.first() != Some(&Dim::from(count)) {
        return Err(ImportError::new(format!("expected an operand of {count} directions, found {}", cx.shape(v))));
    }
    // Of bytes that are known the rows are known, too: products of integers look at them.
    if let Some(t) = cx.known(v).filter(|t| t.dtype().is_int()) {
        let row = t.bytes().len() / count;
        let one = Tensor::from_bytes(t.dtype(), &t.shape()[1..], t.bytes().slice(d * row..(d + 1) * row));
        let one = one.map_err(|e| ImportError::new(e.to_string()))?;
        return Ok(cx.weight(one));
    }
    let v = part(cx, v, d, 1)?;
    let to = Shape(cx.shape(v).0[1..].to_vec());
    reshape(cx, v, to)
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let cell = match node.op_type() {
        "LSTM" | "DynamicQuantizeLSTM" => Cell::Lstm,
        "GRU" => Cell::Gru,
        _ => Cell::Rnn,
    };
    let batch_first = node.int("layout", 0)? != 0;
    let (mut x, w) = (node.input(0)?, node.input(1)?);
    for v in [x, w, node.input(2)?] {
        if cx.rank(v) != 3 {
            return Err(ImportError::new(format!("expected X, W and R of rank 3, found {}", cx.shape(v))));
        }
    }
    if batch_first {
        x = cx.op(Transpose { perm: vec![1, 0, 2] }, &[x])?;
    }
    let directions: &[bool] = match node.str("direction", "forward")? {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => {
            return Err(ImportError::new(format!(
                "direction: expected forward, reverse or bidirectional, found {other:?}"
            )));
        }
    };
    let mut all: Vec<Vec<ValueId>> = vec![];
    for (d, &reverse) in directions.iter().enumerate() {
        let layer = Layer { node, cell, d, count: directions.len(), reverse, batch_first };
        all.push(layer.import(cx, x)?);
    }
    let mut outs = vec![];
    for port in 0..all[0].len() {
        let axis = usize::from(port == 0);
        let mut parts = vec![];
        for direction in &all {
            let mut to = cx.shape(direction[port]).clone();
            to.0.insert(axis, Dim::Const(1));
            parts.push(reshape(cx, direction[port], to)?);
        }
        let mut y = if parts.len() == 1 { parts[0] } else { cx.op(Concat { axis }, &parts)? };
        if batch_first {
            // [T,D,N,H] → [N,T,D,H] and [D,N,H] → [N,D,H]
            let perm = if port == 0 { vec![2, 0, 1, 3] } else { vec![1, 0, 2] };
            y = cx.op(Transpose { perm }, &[y])?;
        }
        outs.push(y);
    }
    Ok(outs)
}

/// One direction of a node.
struct Layer<'a> {
    node: &'a OnnxNode<'a>,
    cell: Cell,
    /// Which direction of how many.
    d: usize,
    count: usize,
    reverse: bool,
    batch_first: bool,
}

impl Layer<'_> {
    /// The activations of this direction, and their parameters if any are given.
    fn functions(&self) -> Result<([Function; 3], Option<Vec<Real>>), ImportError> {
        let defaults: &[Function] = match self.cell {
            Cell::Rnn => &[Function::Tanh],
            Cell::Gru => &[Function::Sigmoid, Function::Tanh],
            Cell::Lstm => &[Function::Sigmoid, Function::Tanh, Function::Tanh],
        };
        let mut found = defaults.to_vec();
        let mut given = None;
        match self.node.attr("activations") {
            None => {}
            Some(OnnxAttr::Strs(names)) if names.is_empty() => {}
            Some(OnnxAttr::Strs(names)) if names.len() == defaults.len() * self.count => {
                let parse =
                    |n: &String| Function::parse(n).map_err(|e| ImportError::new(format!("activations: {e}")));
                let all = names.iter().map(parse).collect::<Result<Vec<Function>, _>>()?;
                let first = self.d * defaults.len();
                found = all[first..first + defaults.len()].to_vec();
                given = self.parameters(&all, first)?;
            }
            Some(other) => {
                return Err(ImportError::new(format!(
                    "activations: expected {} names, found {other:?}",
                    defaults.len() * self.count
                )));
            }
        }
        let at = |i: usize| found.get(i).copied().unwrap_or(Function::Tanh);
        Ok(([at(0), at(1), at(2)], given))
    }

    /// The parameters of three of the functions `all` of the node, from that at `first` on, as [`Recurrent`] has them. A function that has one
    /// takes the next of the node's, in order, as long as there are any.
    fn parameters(&self, all: &[Function], first: usize) -> Result<Option<Vec<Real>>, ImportError> {
        let mut lists = vec![];
        for name in ["activation_alpha", "activation_beta"] {
            lists.push(match self.node.attr(name) {
                None => vec![],
                Some(OnnxAttr::Floats(v)) => v.clone(),
                Some(other) => return Err(ImportError::new(format!("{name}: expected numbers, found {other:?}"))),
            });
        }
        if lists.iter().all(Vec::is_empty) {
            return Ok(None);
        }
        let mut rest: Vec<_> = lists.into_iter().map(Vec::into_iter).collect();
        let mut each = vec![];
        for f in all {
            for (default, given) in f.defaults().into_iter().zip(&mut rest) {
                let next = default.and_then(|_| given.next()).map(f64::from);
                each.push(Real(next.or(default).unwrap_or_default()));
            }
        }
        // Cells with fewer functions have none for the others.
        each.resize((2 * all.len()).max(2 * first + 6), Real(0.0));
        Ok(Some(each[2 * first..][..6].to_vec()))
    }

    /// The first state: operand `i`, or zeros.
    fn state(
        &self,
        cx: &mut Importer<'_>,
        i: usize,
        batch: &Dim,
        hidden: &Dim,
        like: ValueId,
    ) -> Result<ValueId, ImportError> {
        match self.node.opt_input(i) {
            Some(mut v) => {
                if self.batch_first {
                    v = cx.op(Transpose { perm: vec![1, 0, 2] }, &[v])?;
                }
                direction(cx, v, self.d, self.count)
            }
            None => {
                let dtype = cx.dtype(like);
                let zero = number(cx, dtype, 0.0);
                Ok(cx.op(Expand { to: Shape(vec![batch.clone(), hidden.clone()]) }, &[zero])?)
            }
        }
    }

    fn import(&self, cx: &mut Importer<'_>, x: ValueId) -> Result<Vec<ValueId>, ImportError> {
        let (node, cell) = (self.node, self.cell);
        let w = direction(cx, node.input(1)?, self.d, self.count)?;
        let r = direction(cx, node.input(2)?, self.d, self.count)?;
        let hidden = cx.shape(r).0[1].clone();
        let h = hidden.as_usize().ok_or_else(|| ImportError::new("R: the shape must be known"))?;
        if node.opt_int("hidden_size")?.is_some_and(|s| Dim::Const(s) != hidden) {
            return Err(ImportError::new(format!(
                "hidden_size does not fit the weights {}",
                cx.shape(node.input(2)?)
            )));
        }
        let gates = match cell {
            Cell::Rnn => 1,
            Cell::Gru => 3,
            Cell::Lstm => 4,
        };
        let reset_after = cell == Cell::Gru && node.int("linear_before_reset", 0)? != 0;
        // All steps at once.
        let xs = cx.shape(x).0.clone();
        let (steps, batch) = (xs[0].clone(), xs[1].clone());
        let flat = reshape(cx, x, Shape(vec![steps.mul(&batch), xs[2].clone()]))?;
        let dynamic = DynamicWeights::of(node, cx, self.d, self.count)?;
        let mut xw = match &dynamic {
            Some(q) => q.input(cx, flat, w)?,
            None => cx.op(MatMul { trans_a: false, trans_b: true }, &[flat, w])?,
        };
        let mut after = None;
        if let Some(b) = node.opt_input(3) {
            let b = direction(cx, b, self.d, self.count)?;
            let wb = part(cx, b, 0, gates * h)?;
            let mut rb = part(cx, b, gates * h, gates * h)?;
            if reset_after {
                // The last gate's recurrent bias is behind the reset gate.
                after = Some(part(cx, rb, 2 * h, h)?);
                let dtype = cx.dtype(b);
                let zeros = cx.weight(Tensor::full(&[h], tenon_base::Scalar::of_f64(dtype, 0.0)));
                let first = part(cx, rb, 0, 2 * h)?;
                rb = cx.op(Concat { axis: 0 }, &[first, zeros])?;
            }
            let bias = apply(cx, "add", &[wb, rb])?;
            xw = apply(cx, "add", &[xw, bias])?;
        }
        let width = Dim::from(gates * h);
        let xw = reshape(cx, xw, Shape(vec![steps, batch.clone(), width]))?;
        let mut operands = vec![xw, r, self.state(cx, 5, &batch, &hidden, x)?];
        if cell == Cell::Lstm {
            operands.push(self.state(cx, 6, &batch, &hidden, x)?);
        }
        let peephole = node.opt_input(7).filter(|_| cell == Cell::Lstm);
        if let Some(p) = peephole {
            operands.push(direction(cx, p, self.d, self.count)?);
        }
        if reset_after {
            let none = cx.weight(Tensor::full(&[h], tenon_base::Scalar::of_f64(cx.dtype(x), 0.0)));
            operands.push(after.unwrap_or(none));
        }
        if let Some(q) = &dynamic {
            operands.extend(q.recurrent(cx, r)?);
        }
        let lengths = self.lengths(cx, &xs[0])?;
        if let Some(l) = lengths {
            operands.push(cast(cx, l, DType::I32)?);
        }
        let ([f, g, k], parameters) = self.functions()?;
        let op = Recurrent {
            cell,
            reverse: self.reverse,
            f,
            g,
            k,
            parameters,
            clip: node.opt_float("clip")?.map(|c| Real(f64::from(c))),
            coupled: cell == Cell::Lstm && node.int("input_forget", 0)? != 0,
            peephole: peephole.is_some(),
            reset_after,
            quantized: dynamic.is_some(),
            lengths: lengths.is_some(),
        };
        cx.ops(op, &operands)
    }

    /// The lengths of the sequences, unless all are known to be the whole.
    fn lengths(&self, cx: &Importer<'_>, steps: &Dim) -> Result<Option<ValueId>, ImportError> {
        let Some(l) = self.node.opt_input(4) else { return Ok(None) };
        let whole = |t: &Tensor| t.to_i64().iter().all(|l| Dim::Const(*l) == *steps);
        Ok((!cx.known(l).is_some_and(whole)).then_some(l))
    }
}

//! One direction of a recurrent layer over time, given what the input contributes: LSTM, GRU and RNN cells.
//!
//! ONNX: see `recurrent_layer.rs`, which prepares the operands. With `x` the input's part of the gates (biases included), `h` and
//! `c` the state, `R` the recurrent weights, `f`, `g`, `k` the activations:
//! - RNN: `h' = f(x + h·Rᵀ)`
//! - LSTM (gates i, o, f, c): `c' = f(f)·c + f(i)·g(c̃)`, `h' = f(o)·k(c')`; peepholes add `p·c` (`p·c'` for o) to i, o and f
//! - GRU (gates z, r, h): `h' = (1 - f(z))·g(x_h + (f(r)·h)·Rᵀ) + f(z)·h`, or with `reset_after` `g(x_h + f(r)·(h·Rᵀ + b))`

use super::recurrent_dynamic as dynamic;
use super::util::{for_each_index, loop_over};
use crate::lower::wide;
use crate::op::{expect_dtype, expect_operands};
use crate::ops::*;
use tenon_base::{Real, Shape};
use tenon_kernel::{Buf, CmpOp, Contract, KernelBuilder, MathFn, Stmt, Type, UnOp};

crate::attr_enum! {
    /// Which cell.
    pub enum Cell {
        /// One gate.
        Rnn = "rnn",
        /// Input, output and forget gates and a cell state.
        Lstm = "lstm",
        /// Update and reset gates.
        Gru = "gru",
    }
}

crate::attr_enum! {
    /// An activation.
    pub enum Function {
        /// `1 / (1 + e^-x)`
        Sigmoid = "Sigmoid",
        /// Hyperbolic tangent.
        Tanh = "Tanh",
        /// `max(0, x)`
        Relu = "Relu",
        /// `clamp(α·x + β, 0, 1)`
        HardSigmoid = "HardSigmoid",
        /// `x / (1 + |x|)`
        Softsign = "Softsign",
        /// `log(1 + e^x)`
        Softplus = "Softplus",
        /// `α·x + β`
        Affine = "Affine",
        /// `x` where it is positive, elsewhere `α·x`
        LeakyRelu = "LeakyRelu",
        /// `x` where it is at least α, elsewhere 0
        ThresholdedRelu = "ThresholdedRelu",
        /// `α·tanh(β·x)`
        ScaledTanh = "ScaledTanh",
        /// `x` where it is positive, elsewhere `α·(e^x - 1)`
        Elu = "Elu",
    }
}

/// A function and its parameters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Activation {
    function: Function,
    alpha: f64,
    beta: f64,
}

impl Function {
    /// What α and β are if nothing is said, of those that there are.
    pub(super) fn defaults(self) -> [Option<f64>; 2] {
        match self {
            Function::HardSigmoid => [Some(0.2), Some(0.5)],
            Function::Affine => [Some(1.0), Some(0.0)],
            Function::ScaledTanh => [Some(1.0), Some(1.0)],
            Function::LeakyRelu => [Some(0.01), None],
            Function::ThresholdedRelu | Function::Elu => [Some(1.0), None],
            _ => [None, None],
        }
    }
}

impl Activation {
    fn float(self, x: f64) -> f64 {
        let Activation { function, alpha, beta } = self;
        match function {
            Function::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Function::Tanh => x.tanh(),
            Function::Relu => x.max(0.0),
            Function::HardSigmoid => (alpha * x + beta).clamp(0.0, 1.0),
            Function::Softsign => x / (1.0 + x.abs()),
            Function::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
            Function::Affine => alpha * x + beta,
            Function::LeakyRelu if x < 0.0 => alpha * x,
            Function::ThresholdedRelu if x < alpha => 0.0,
            Function::Elu if x < 0.0 => alpha * x.exp_m1(),
            Function::LeakyRelu | Function::ThresholdedRelu | Function::Elu => x,
            Function::ScaledTanh => alpha * (beta * x).tanh(),
        }
    }

    fn expr(self, x: Expr, d: DType) -> Expr {
        let c = |v: f64| Expr::constant(d, v);
        let (a, b) = (c(self.alpha), c(self.beta));
        let negative = |x: &Expr| x.clone().compare(CmpOp::Lt, c(0.0));
        match self.function {
            Function::Sigmoid => c(1.0) / (c(1.0) + (-x).math(MathFn::Exp)),
            Function::Tanh => x.math(MathFn::Tanh),
            Function::Relu => c(0.0).max(x),
            Function::HardSigmoid => c(0.0).max(c(1.0).min(x * a + b)),
            Function::Softsign => x.clone() / (c(1.0) + x.unary(UnOp::Abs)),
            Function::Softplus => {
                c(0.0).max(x.clone()) + (c(1.0) + (-x.unary(UnOp::Abs)).math(MathFn::Exp)).math(MathFn::Log)
            }
            Function::Affine => x * a + b,
            Function::LeakyRelu => negative(&x).select(x.clone() * a, x),
            Function::ThresholdedRelu => x.clone().compare(CmpOp::Lt, a).select(c(0.0), x),
            Function::ScaledTanh => a * (x * b).math(MathFn::Tanh),
            // The other branch of a select must not overflow.
            Function::Elu => negative(&x).select(a * (x.clone().min(c(0.0)).math(MathFn::Exp) - c(1.0)), x),
        }
    }
}

crate::attributes! {
    /// Operands: the input's part of the gates `[T, N, G·H]`, recurrent weights `[G·H, H]` and first hidden state `[N, H]`; LSTM: first
    /// cell state `[N, H]`; with `peephole` `[3·H]` (i, o, f); with `reset_after` the recurrent bias of the GRU's last gate `[H]`; with
    /// `quantized` the scale of each row of the recurrent weights `[G·H]` and its sum `[G·H]` (`i32`), see `recurrent_dynamic.rs`;
    /// with `lengths` the number of steps of each batch element `[N]` (`i32`). Results: all hidden states `[T, N, H]`, 0 after the end of a
    /// sequence; the last one `[N, H]`; LSTM: the last cell state `[N, H]`.
    pub struct Recurrent {
        /// Which cell.
        pub cell: Cell,
        /// From the last step to the first.
        pub reverse: bool,
        /// Activation of gates.
        pub f: Function,
        /// Activation of what enters the state.
        pub g: Function,
        /// LSTM: activation of what leaves it.
        pub k: Function,
        /// α and β of `f`, `g` and `k`, one behind the other, where they are given.
        pub parameters: Option<Vec<Real>>,
        /// Gates are kept within this magnitude before activation.
        pub clip: Option<Real>,
        /// LSTM: the forget gate is what the input gate leaves.
        pub coupled: bool,
        /// LSTM: gates see the cell state.
        pub peephole: bool,
        /// GRU: the reset gate applies after the product.
        pub reset_after: bool,
        /// LSTM: the recurrent weights are integers (`i8`, `u8` or `i16`), and the state is quantised before each step.
        pub quantized: bool,
        /// Sequences end at different steps.
        pub lengths: bool,
    }
}

impl Recurrent {
    fn gates(&self) -> usize {
        match self.cell {
            Cell::Rnn => 1,
            Cell::Lstm => 4,
            Cell::Gru => 3,
        }
    }

    /// The activations `f`, `g` and `k` with their parameters.
    fn activations(&self) -> [Activation; 3] {
        let mut i = 0;
        [self.f, self.g, self.k].map(|function| {
            let defaults = function.defaults().map(Option::unwrap_or_default);
            let at = |i: usize, default| self.parameters.as_ref().and_then(|p| p.get(i)).map_or(default, |p| p.0);
            let [alpha, beta] = [at(i, defaults[0]), at(i + 1, defaults[1])];
            i += 2;
            Activation { function, alpha, beta }
        })
    }

    /// The positions of the optional operands: cell state, peepholes, bias, scales, sums, lengths.
    fn positions(&self) -> [Option<usize>; 6] {
        let mut next = 3;
        let lstm = self.cell == Cell::Lstm;
        [lstm, self.peephole, self.reset_after, self.quantized, self.quantized, self.lengths].map(|there| {
            there.then(|| {
                next += 1;
                next - 1
            })
        })
    }

    /// What describes weights that are integers.
    fn dynamic(&self) -> Option<dynamic::Operands> {
        let [.., scales, sums, _] = self.positions();
        Some(dynamic::Operands { weights: 1, scales: scales?, sums: sums? })
    }

    fn operands(&self) -> usize {
        3 + self.positions().iter().flatten().count()
    }

    /// The next state of one element, from its gates: `x` the input's part, `r` the recurrent one. Gives `(h', c')`.
    fn step<V: Value>(&self, v: &V, x: &[V::T], r: &[V::T], h: &V::T, c: Option<&V::T>, p: Option<&[V::T]>) -> (V::T, Option<V::T>) {
        let gate = |i: usize, peep: Option<(usize, &V::T)>| {
            let mut sum = v.add(&x[i], &r[i]);
            if let (Some(p), Some((j, c))) = (p, peep) {
                sum = v.add(&sum, &v.mul(&p[j], c));
            }
            self.clipped(v, sum)
        };
        let [squash, enter, leave] = self.activations();
        match (self.cell, c) {
            (Cell::Lstm, Some(c)) => {
                let i = v.call(squash, gate(0, Some((0, c))));
                let f = if self.coupled { v.sub(&v.one(), &i) } else { v.call(squash, gate(2, Some((2, c)))) };
                let enters = v.call(enter, gate(3, None));
                let c = v.keep(v.add(&v.mul(&f, c), &v.mul(&i, &enters)));
                let o = v.call(squash, gate(1, Some((1, &c))));
                (v.mul(&o, &v.call(leave, c.clone())), Some(c))
            }
            (Cell::Gru, _) => {
                let z = v.keep(v.call(squash, gate(0, None)));
                // The caller has applied the reset gate to `r[2]`, before or after the product.
                let enters = v.call(enter, gate(2, None));
                (v.add(&v.mul(&v.sub(&v.one(), &z), &enters), &v.mul(&z, h)), None)
            }
            _ => (v.call(squash, gate(0, None)), None),
        }
    }

    fn clipped<V: Value>(&self, v: &V, x: V::T) -> V::T {
        match self.clip {
            None => x,
            Some(c) => v.clamp(x, c.0),
        }
    }

    /// The reset gate of a GRU.
    fn reset<V: Value>(&self, v: &V, x: &V::T, r: &V::T) -> V::T {
        v.call(self.activations()[0], self.clipped(v, v.add(x, r)))
    }
}

/// Arithmetic of the reference (numbers) and of the kernel (expressions), so that a cell is written once.
trait Value {
    type T: Clone;
    fn one(&self) -> Self::T;
    fn add(&self, a: &Self::T, b: &Self::T) -> Self::T;
    fn sub(&self, a: &Self::T, b: &Self::T) -> Self::T;
    fn mul(&self, a: &Self::T, b: &Self::T) -> Self::T;
    fn clamp(&self, x: Self::T, to: f64) -> Self::T;
    fn call(&self, f: Activation, x: Self::T) -> Self::T;
    /// A value that is used more than once.
    fn keep(&self, x: Self::T) -> Self::T;
}

struct Numbers;

impl Value for Numbers {
    type T = f64;
    fn one(&self) -> f64 {
        1.0
    }
    fn add(&self, a: &f64, b: &f64) -> f64 {
        a + b
    }
    fn sub(&self, a: &f64, b: &f64) -> f64 {
        a - b
    }
    fn mul(&self, a: &f64, b: &f64) -> f64 {
        a * b
    }
    fn clamp(&self, x: f64, to: f64) -> f64 {
        x.min(to).max(-to)
    }
    fn call(&self, f: Activation, x: f64) -> f64 {
        f.float(x)
    }
    fn keep(&self, x: f64) -> f64 {
        x
    }
}

struct Exprs<'k> {
    k: std::cell::RefCell<&'k mut KernelBuilder>,
    d: DType,
}

impl Value for Exprs<'_> {
    type T = Expr;
    fn one(&self) -> Expr {
        Expr::constant(self.d, 1.0)
    }
    fn add(&self, a: &Expr, b: &Expr) -> Expr {
        a.clone() + b.clone()
    }
    fn sub(&self, a: &Expr, b: &Expr) -> Expr {
        a.clone() - b.clone()
    }
    fn mul(&self, a: &Expr, b: &Expr) -> Expr {
        a.clone() * b.clone()
    }
    fn clamp(&self, x: Expr, to: f64) -> Expr {
        Expr::constant(self.d, -to).max(Expr::constant(self.d, to).min(x))
    }
    fn call(&self, f: Activation, x: Expr) -> Expr {
        let x = self.keep(x);
        f.expr(x, self.d)
    }
    fn keep(&self, x: Expr) -> Expr {
        self.k.borrow_mut().bind("v", x)
    }
}

impl Operator for Recurrent {
    fn names() -> Vec<&'static str> {
        vec!["recurrent"]
    }

    fn onnx() -> Vec<OnnxName> {
        recurrent_layer::onnx()
    }

    fn name(&self) -> &'static str {
        "recurrent"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Recurrent::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        recurrent_layer::import(node, cx)
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, self.operands()..=self.operands())?;
        expect_dtype(ins, 0, |d| d.is_float() && !d.is_stored(), "f32, f64 or f16")?;
        if self.parameters.as_ref().is_some_and(|p| p.len() != 6) {
            return Err(InferError::new("parameters: expected two of each of three activations"));
        }
        let [c, p, b, scales, sums, lengths] = self.positions();
        let d = ins[0].dtype;
        if self.quantized {
            if self.cell != Cell::Lstm {
                return Err(InferError::new("weights that are integers: only an LSTM can have them"));
            }
            expect_dtype(ins, 0, |d| d == DType::F32, "f32")?;
            expect_dtype(ins, 1, |d| matches!(d, DType::I8 | DType::U8 | DType::I16), "i8, u8 or i16")?;
        }
        let others = [self.quantized.then_some(1), sums, lengths];
        for i in (1..ins.len()).filter(|i| !others.contains(&Some(*i))) {
            expect_dtype(ins, i, |x| x == d, d.name())?;
        }
        let [steps, batch, width] = &ins[0].shape.0[..] else {
            return Err(InferError::new(format!("expected gates [T,N,{}·H], found {}", self.gates(), ins[0].shape)));
        };
        let hidden = ins[1].shape.0.get(1).cloned().unwrap_or(Dim::Const(0));
        if hidden.as_usize().is_none_or(|h| h == 0) || width.as_usize().is_none() {
            return Err(InferError::new(format!("the recurrent weights must be known, found {}", ins[1].shape)));
        }
        let state = Shape(vec![batch.clone(), hidden.clone()]);
        let all = hidden.mul(&Dim::from(self.gates()));
        let mut expected = vec![
            (0, Shape(vec![steps.clone(), batch.clone(), all.clone()])),
            (1, Shape(vec![all.clone(), hidden.clone()])),
            (2, state.clone()),
        ];
        expected.extend(c.map(|i| (i, state.clone())));
        expected.extend(p.map(|i| (i, Shape(vec![hidden.mul(&Dim::Const(3))]))));
        expected.extend(b.map(|i| (i, Shape(vec![hidden.clone()]))));
        expected.extend([scales, sums].into_iter().flatten().map(|i| (i, Shape(vec![all.clone()]))));
        expected.extend(lengths.map(|i| (i, Shape(vec![batch.clone()]))));
        for (i, shape) in expected {
            if ins[i].shape != shape {
                return Err(InferError::new(format!("operand {i}: expected {shape}, found {}", ins[i].shape)));
            }
        }
        for i in [sums, lengths].into_iter().flatten() {
            expect_dtype(ins, i, |d| d == DType::I32, "i32")?;
        }
        let mut outs = vec![Fact::new(d, Shape(vec![steps.clone(), batch.clone(), hidden])), Fact::new(d, state.clone())];
        outs.extend(c.map(|_| Fact::new(d, state)));
        Ok(outs)
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let (t, n, h) = (ins[0].shape()[0], ins[0].shape()[1], ins[1].shape()[1]);
        let width = self.gates() * h;
        let [c, p, b, _, _, lengths] = self.positions();
        let dynamic = self.dynamic().map(|o| (ins[o.scales].to_f64(), ins[o.sums].to_f64()));
        let (x, r) = (ins[0].to_f64(), ins[1].to_f64());
        let mut hs = ins[2].to_f64();
        let mut cs = c.map(|i| ins[i].to_f64());
        let peep = p.map(|i| ins[i].to_f64());
        let bias = b.map(|i| ins[i].to_f64());
        let ends: Vec<usize> = match lengths {
            Some(i) => ins[i].to_i64().into_iter().map(|l| l.clamp(0, t as i64) as usize).collect(),
            None => vec![t; n],
        };
        let mut y = vec![0.0; t * n * h];
        for s in 0..t {
            let (old, old_c) = (hs.clone(), cs.clone());
            let quantized = dynamic.as_ref().map(|rows| (dynamic::State::of(&old), rows));
            for_each_index(&[n, h], |i| {
                let (b_, j) = (i[0], i[1]);
                if s >= ends[b_] {
                    return;
                }
                let at = if self.reverse { ends[b_] - 1 - s } else { s };
                let gate_x = |q: usize, j: usize| x[(at * n + b_) * width + q * h + j];
                let product = |q: usize, j: usize, scale: &dyn Fn(usize) -> f64| -> f64 {
                    if let Some((state, (scales, sums))) = &quantized {
                        let row = q * h + j;
                        return state.product(b_ * h, &r[row * h..][..h], scales[row], sums[row]);
                    }
                    (0..h).map(|k| scale(k) * old[b_ * h + k] * r[(q * h + j) * h + k]).sum()
                };
                let xs: Vec<f64> = (0..self.gates()).map(|q| gate_x(q, j)).collect();
                let mut rs: Vec<f64> = (0..self.gates()).map(|q| product(q, j, &|_| 1.0)).collect();
                if self.cell == Cell::Gru {
                    let reset = |k: usize| self.reset(&Numbers, &gate_x(1, k), &product(1, k, &|_| 1.0));
                    rs[2] = match &bias {
                        Some(b) => reset(j) * (rs[2] + b[j]),
                        None => product(2, j, &reset),
                    };
                }
                let peeps = peep.as_ref().map(|p| [p[j], p[h + j], p[2 * h + j]]);
                let c = old_c.as_ref().map(|c| &c[b_ * h + j]);
                let (new, new_c) =
                    self.step(&Numbers, &xs, &rs, &old[b_ * h + j], c, peeps.as_ref().map(|p| &p[..]));
                hs[b_ * h + j] = new;
                if let (Some(cs), Some(new)) = (&mut cs, new_c) {
                    cs[b_ * h + j] = new;
                }
                y[(at * n + b_) * h + j] = new;
            });
        }
        let d = ins[0].dtype();
        let mut outs = vec![Tensor::from_f64(d, &[t, n, h], &y), Tensor::from_f64(d, &[n, h], &hs)];
        outs.extend(cs.map(|c| Tensor::from_f64(d, &[n, h], &c)));
        Ok(outs)
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let (t, n, h) = (cx.in_dims(0)[0], cx.in_dims(0)[1], cx.in_dims(1)[1]);
        if n == 0 {
            return Ok(());
        }
        let (d, gates) = (wide(cx.in_dtype(0)), self.gates());
        let state = cx.scratch("state", d, n * h);
        let cell = (self.cell == Cell::Lstm).then(|| cx.scratch("cell", d, n * h));
        let product = cx.scratch("product", d, n * gates * h);
        let [c, p, b, _, _, lengths] = self.positions();
        self.begin(cx, [(Some(state), Some(2)), (cell, c)], n * h);
        if lengths.is_some() {
            let e = cx.k.fresh("e", Type::INDEX);
            let store = write(cx, 0, Expr::Var(e), Expr::constant(d, 0.0));
            cx.k.push(loop_over(e, t * n * h, true, vec![store]));
        }
        let [s, i, j] = ["s", "n", "j"].map(|v| cx.k.fresh(v, Type::INDEX));
        let (iv, jv) = (Expr::Var(i), Expr::Var(j));
        let here = iv.clone() * h + jv.clone();
        // Which step of the sequence this is, for one batch element.
        let len = cx.k.fresh("len", Type::INDEX);
        let at = cx.k.fresh("at", Type::INDEX);
        let length = match lengths {
            Some(l) => cx.load_flat(l, iv.clone()).cast(DType::I64).clamp(0, t as i64),
            None => t.into(),
        };
        let place = if self.reverse { Expr::Var(len) - 1i64 - Expr::Var(s) } else { Expr::Var(s) };
        let place = vec![
            Stmt::Let { var: len, value: length },
            Stmt::Let { var: at, value: place.clamp(0, (t as i64 - 1).max(0)) },
        ];
        let x = |cx: &LowerCx<'_>, q: usize| {
            let flat = (Expr::Var(at) * n + iv.clone()) * (gates * h) + jv.clone() + q * h;
            crate::lower::widen(cx.load_flat(0, flat), cx.in_dtype(0))
        };
        let r = |q: usize| Expr::load(product, iv.clone() * (gates * h) + jv.clone() + q * h);
        let old = Expr::load(state, here.clone());
        let after = b.map(|b| crate::lower::widen(cx.load_flat(b, jv.clone()), cx.in_dtype(b)));
        let mut step = vec![];
        let reset_before = self.cell == Cell::Gru && after.is_none();
        match self.dynamic() {
            Some(ops) => step.extend(dynamic::product(cx, ops, (state, product), [n, h, gates * h])),
            None => step.push(self.product(cx, state, product, n, h, 0..if reset_before { 2 } else { gates })),
        }
        if reset_before {
            let scaled = cx.scratch("scaled", d, n * h);
            let xr = x(cx, 1);
            let body = cx.k.block(|k| {
                let gate = self.reset(&Exprs { k: std::cell::RefCell::new(&mut *k), d }, &xr, &r(1));
                k.store(scaled, here.clone(), gate * old.clone());
            });
            let mut all = place.clone();
            all.push(loop_over(j, h, true, body));
            step.push(loop_over(i, n, true, all));
            step.push(self.product(cx, scaled, product, n, h, 2..3));
        }
        let xs: Vec<Expr> = (0..gates).map(|q| x(cx, q)).collect();
        let peeps: Option<Vec<Expr>> = p.map(|p| {
            (0..3).map(|q| crate::lower::widen(cx.load_flat(p, jv.clone() + q * h), cx.in_dtype(p))).collect()
        });
        let new = cx.k.fresh("new", Type::scalar(d));
        let out = write(cx, 0, (Expr::Var(at) * n + iv.clone()) * h + jv.clone(), Expr::Var(new));
        let body = cx.k.block(|k| {
            let old_h = k.bind("old", old.clone());
            let old_c = cell.map(|c| k.bind("old_c", Expr::load(c, here.clone())));
            let mut rs: Vec<Expr> = (0..gates).map(r).collect();
            let values = Exprs { k: std::cell::RefCell::new(&mut *k), d };
            if let Some(bias) = &after {
                let gate = self.reset(&values, &xs[1], &rs[1]);
                rs[2] = gate * (rs[2].clone() + bias.clone());
            }
            let (h_new, c_new) = self.step(&values, &xs, &rs, &old_h, old_c.as_ref(), peeps.as_deref());
            k.push(Stmt::Let { var: new, value: h_new });
            k.store(state, here.clone(), Expr::Var(new));
            if let (Some(c), Some(v)) = (cell, c_new) {
                k.store(c, here.clone(), v);
            }
            k.push(out);
        });
        let mut all = place;
        let inner = vec![loop_over(j, h, true, body)];
        let active = Expr::Var(s).compare(CmpOp::Lt, Expr::Var(len));
        all.extend(if lengths.is_some() { vec![Stmt::If { cond: active, then: inner, otherwise: vec![] }] } else { inner });
        step.push(loop_over(i, n, true, all));
        cx.k.push(loop_over(s, t, false, step));
        for (port, buf) in [(1, Some(state)), (2, cell)] {
            let Some(buf) = buf else { continue };
            let e = cx.k.fresh("e", Type::INDEX);
            let store = write(cx, port, Expr::Var(e), Expr::load(buf, Expr::Var(e)));
            cx.k.push(loop_over(e, n * h, true, vec![store]));
        }
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::SUM
    }

    fn samples() -> Vec<Sample> {
        let cell = |cell| Recurrent {
            cell,
            reverse: false,
            f: if cell == Cell::Rnn { Function::Tanh } else { Function::Sigmoid },
            g: Function::Tanh,
            k: Function::Tanh,
            parameters: None,
            clip: None,
            coupled: false,
            peephole: false,
            reset_after: false,
            quantized: false,
            lengths: false,
        };
        let (lstm, gru, rnn) = (cell(Cell::Lstm), cell(Cell::Gru), cell(Cell::Rnn));
        let f = DType::F32;
        let given = |[a, b]: [f64; 2]| Some([a, b, 1.5, 0.7, 0.4, 0.0].map(Real).to_vec());
        let (g, k) = (Function::ScaledTanh, Function::Elu);
        let squashed =
            Recurrent { f: Function::HardSigmoid, g, k, parameters: given([0.3, 0.4]), ..lstm.clone() };
        let case = |op: Recurrent, d: DType, [t, n, h]: [usize; 3]| {
            let g = op.gates();
            let weights = if op.quantized { DType::I8 } else { d };
            let mut ins: Vec<(DType, Vec<usize>)> =
                vec![(d, vec![t, n, g * h]), (weights, vec![g * h, h]), (d, vec![n, h])];
            let [c, p, b, scales, sums, l] = op.positions();
            ins.extend(c.map(|_| (d, vec![n, h])));
            ins.extend(p.map(|_| (d, vec![3 * h])));
            ins.extend(b.map(|_| (d, vec![h])));
            ins.extend(scales.map(|_| (d, vec![g * h])));
            ins.extend(sums.map(|_| (DType::I32, vec![g * h])));
            ins.extend(l.map(|_| (DType::I32, vec![n])));
            let ins: Vec<(DType, &[usize])> = ins.iter().map(|(d, s)| (*d, &s[..])).collect();
            let state = (-1.0, 1.0);
            if op.quantized {
                let ranges = [state, (-127.0, 127.0), state, state, (0.001, 0.01), (-200.0, 200.0), (0.0, 6.0)];
                return Sample::new(op, &ins).with_range(&ranges);
            }
            Sample::new(op, &ins).with_range(&[state, (-0.5, 0.5), state])
        };
        vec![
            case(lstm.clone(), f, [5, 3, 7]),
            case(Recurrent { reverse: true, peephole: true, lengths: true, ..lstm.clone() }, f, [6, 3, 4]),
            case(Recurrent { quantized: true, ..lstm.clone() }, f, [4, 1, 19]),
            case(Recurrent { quantized: true, lengths: true, ..lstm.clone() }, f, [5, 2, 8]),
            case(Recurrent { coupled: true, clip: Some(Real(0.5)), ..lstm }, DType::F64, [3, 2, 3]),
            case(gru.clone(), f, [5, 3, 7]),
            case(Recurrent { reverse: true, reset_after: true, lengths: true, ..gru.clone() }, f, [6, 4, 5]),
            case(Recurrent { lengths: true, ..gru.clone() }, DType::F64, [4, 2, 3]),
            case(Recurrent { reverse: true, ..gru }, f, [3, 1, 5]),
            case(rnn.clone(), f, [4, 1, 9]),
            case(Recurrent { reverse: true, f: Function::Relu, ..rnn.clone() }, f, [4, 2, 3]),
            case(Recurrent { f: Function::Affine, ..rnn.clone() }, f, [3, 2, 3]),
            case(Recurrent { f: Function::ThresholdedRelu, parameters: given([0.3, 0.0]), ..rnn.clone() }, f, [3, 2, 3]),
            case(Recurrent { f: Function::LeakyRelu, parameters: given([0.2, 0.0]), ..rnn }, f, [3, 2, 3]),
            case(squashed, f, [4, 2, 5]),
        ]
    }
}

fn write(cx: &LowerCx<'_>, port: usize, flat: Expr, value: Expr) -> Stmt {
    let (buf, index, value) = cx.write(port, flat, value);
    Stmt::Store { buf, index, value }
}

impl Recurrent {
    /// Copies first states from operands.
    fn begin(&self, cx: &mut LowerCx<'_>, states: [(Option<Buf>, Option<usize>); 2], len: usize) {
        for (buf, operand) in states {
            let (Some(buf), Some(operand)) = (buf, operand) else { continue };
            let e = cx.k.fresh("e", Type::INDEX);
            let value = crate::lower::widen(cx.load_flat(operand, Expr::Var(e)), cx.in_dtype(operand));
            cx.k.push(loop_over(e, len, true, vec![Stmt::Store { buf, index: Expr::Var(e), value }]));
        }
    }

    /// `product[n, q·H + j] = Σ_k state[n, k] · R[q·H + j, k]` for the gates `q`.
    fn product(&self, cx: &mut LowerCx<'_>, state: Buf, product: Buf, n: usize, h: usize, q: std::ops::Range<usize>) -> Stmt {
        let d = wide(cx.in_dtype(0));
        let (di, i) = cx.k.contract_dim("pn", n);
        let (dj, j) = cx.k.contract_dim("pj", q.len() * h);
        let (dk, k) = cx.k.contract_dim("pk", h);
        let gate = j + q.start * h;
        let acc = cx.k.fresh("acc", Type::scalar(d));
        Stmt::Contract(Box::new(Contract {
            dims: vec![di, dj],
            reduce: vec![dk],
            acc,
            init: Expr::constant(d, 0.0),
            a: Expr::load(state, i.clone() * h + k.clone()),
            b: crate::lower::widen(cx.load_flat(1, gate.clone() * h + k), cx.in_dtype(1)),
            out: product,
            out_index: i * (self.gates() * h) + gate,
            value: Expr::Var(acc),
        }))
    }
}

//! Linear attention: a matrix of state for every head, which keys and values are written into and queries read.
//!
//! ONNX: [LinearAttention](https://onnx.ai/onnx/operators/onnx__LinearAttention.html) (27). At each step the state `S[dk, dv]` of a key head becomes
//! `diag(g)·S + β·k⊗u`, where `u` is the value `v` or, by the delta rule, `v - (diag(g)·S)ᵀk`; then each query head that shares it gives
//! `Sᵀq`. Without gates `g` is 1, without rates `β` is 1.

use super::expand::Expand;
use super::util::{apply, cast, loop_over, number, reshape, with_constant};
use crate::lower::{wide, widen};
use crate::op::{expect_dtype, expect_operands, expect_same_dtype};
use crate::ops::*;
use tenon_base::Shape;
use tenon_kernel::{Access, KernelBuilder, Type};

crate::attributes! {
    /// Operands: q `[B, T, heads·dk]`, k `[B, T, shared·dk]`, v `[B, T, shared·dv]`, state `[B, shared, dk, dv]`; where `gated`, factors of the
    /// state's rows `[B, T, shared·dk]`; where `rated`, rates `[B, T, shared]`. Results: `[B, T, heads·dv]` and the last state.
    pub struct LinearAttention {
        /// Query heads.
        pub heads: usize,
        /// Key and value heads.
        pub shared: usize,
        /// What the state already gives for a key is taken off its value.
        pub delta: bool,
        /// There are gates.
        pub gated: bool,
        /// There are rates.
        pub rated: bool,
    }
}

/// Extents of all operands.
struct Extents {
    batch: usize,
    steps: usize,
    dk: usize,
    dv: usize,
}

impl LinearAttention {
    fn extents(&self, q: &[usize], v: &[usize]) -> Extents {
        Extents { batch: q[0], steps: q[1], dk: q[2] / self.heads, dv: v[2] / self.shared }
    }

    fn rates(&self) -> Option<usize> {
        self.rated.then_some(4 + usize::from(self.gated))
    }
}

impl Operator for LinearAttention {
    fn names() -> Vec<&'static str> {
        vec!["linear_attention"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "LinearAttention", versions: &[27] }]
    }

    fn name(&self) -> &'static str {
        "linear_attention"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        LinearAttention::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let (q, k, v) = (node.input(0)?, node.input(1)?, node.input(2)?);
        let count = |name: &str| -> Result<usize, ImportError> {
            let n = node.int(name, 0)?;
            let ok = usize::try_from(n).ok().filter(|n| (1..1 << 20).contains(n));
            ok.ok_or_else(|| ImportError::new(format!("{name}: expected a positive integer, found {n}")))
        };
        let (heads, shared) = (count("q_num_heads")?, count("kv_num_heads")?);
        let ([b, t, qw], [.., vw]) = (&cx.shape(q).0[..], &cx.shape(v).0[..]) else {
            return Err(ImportError::new(format!("expected operands of rank 3, found {} and {}", cx.shape(q), cx.shape(v))));
        };
        let (b, t) = (b.clone(), t.clone());
        let (dk, dv) = (qw.div(&Dim::from(heads)), vw.div(&Dim::from(shared)));
        let size = dk.as_usize().filter(|n| *n > 0).ok_or_else(|| ImportError::new("the size of a head must be known"))?;
        let scale = match node.float("scale", 0.0)? {
            0.0 => 1.0 / (size as f64).sqrt(),
            s => f64::from(s),
        };
        let dtype = cx.dtype(q);
        let state = match node.opt_input(3) {
            Some(s) => s,
            None => {
                let zero = number(cx, dtype, 0.0);
                cx.op(Expand { to: Shape(vec![b.clone(), Dim::from(shared), dk.clone(), dv]) }, &[zero])?
            }
        };
        let rule = node.str("update_rule", "gated_delta")?;
        let (gated, delta) = match rule {
            "linear" => (false, false),
            "gated" => (true, false),
            "delta" => (false, true),
            "gated_delta" => (true, true),
            other => return Err(ImportError::new(format!("update_rule: {other:?} is not known"))),
        };
        // Everything is computed in f32 where the operands are half.
        let computed = wide(dtype);
        let q = cast(cx, q, computed)?;
        let mut operands = vec![with_constant(cx, "mul", q, scale)?];
        for x in [k, v, state] {
            operands.push(cast(cx, x, computed)?);
        }
        if gated {
            let d = node.opt_input(4).ok_or_else(|| ImportError::new("`decay` is missing"))?;
            let d = cast(cx, d, computed)?;
            let mut g = apply(cx, "exp", &[d])?;
            let width = Dim::from(shared).mul(&dk);
            if cx.shape(g).0.last() != Some(&width) {
                // One number a head, for all its rows.
                let one = Shape(vec![b.clone(), t.clone(), Dim::from(shared), Dim::Const(1)]);
                g = reshape(cx, g, one)?;
                g = cx.op(Expand { to: Shape(vec![b.clone(), t.clone(), Dim::from(shared), dk]) }, &[g])?;
                g = reshape(cx, g, Shape(vec![b.clone(), t.clone(), width]))?;
            }
            operands.push(g);
        }
        let rated = delta;
        if rated {
            let beta = node.opt_input(5).ok_or_else(|| ImportError::new("`beta` is missing"))?;
            let mut beta = cast(cx, beta, computed)?;
            let to = Shape(vec![b, t, Dim::from(shared)]);
            if *cx.shape(beta) != to {
                beta = cx.op(Expand { to }, &[beta])?;
            }
            operands.push(beta);
        }
        let all = cx.ops(LinearAttention { heads, shared, delta, gated, rated }, &operands)?;
        let mut outs = vec![];
        for (v, to) in all.into_iter().zip([dtype, cx.dtype(state)]) {
            outs.push(cast(cx, v, to)?);
        }
        Ok(outs)
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        let count = 4 + usize::from(self.gated) + usize::from(self.rated);
        expect_operands(ins, count..=count)?;
        expect_dtype(ins, 0, DType::is_float, "a float dtype")?;
        (1..count).try_for_each(|i| expect_same_dtype(ins, 0, i))?;
        if self.heads == 0 || self.shared == 0 || !self.heads.is_multiple_of(self.shared) {
            return Err(InferError::new(format!("{} heads do not share {} heads of keys", self.heads, self.shared)));
        }
        let (h, s) = (Dim::from(self.heads), Dim::from(self.shared));
        let ([b, t, qw], [_, _, vw]) = (&ins[0].shape.0[..], &ins[2].shape.0[..]) else {
            return Err(InferError::new(format!("expected q and v of rank 3, found {} and {}", ins[0].shape, ins[2].shape)));
        };
        let whole = |w: &Dim, n: usize| w.as_usize().is_none_or(|w| w % n == 0);
        if !whole(qw, self.heads) || !whole(vw, self.shared) {
            return Err(InferError::new(format!("{qw} and {vw} elements do not divide into heads")));
        }
        let (dk, dv) = (qw.div(&h), vw.div(&s));
        let row = |w: Dim| Shape(vec![b.clone(), t.clone(), w]);
        let state = Shape(vec![b.clone(), s.clone(), dk.clone(), dv.clone()]);
        let mut wanted = vec![row(h.mul(&dk)), row(s.mul(&dk)), row(s.mul(&dv)), state.clone()];
        if self.gated {
            wanted.push(row(s.mul(&dk)));
        }
        if self.rated {
            wanted.push(row(s));
        }
        for (i, w) in wanted.iter().enumerate() {
            if ins[i].shape != *w {
                return Err(InferError::new(format!("operand {i}: expected the shape {w}, found {}", ins[i].shape)));
            }
        }
        Ok(vec![Fact::new(ins[0].dtype, row(h.mul(&dv))), Fact::new(ins[0].dtype, state)])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let e = self.extents(ins[0].shape(), ins[2].shape());
        let all: Vec<Vec<f64>> = ins.iter().map(Tensor::to_f64).collect();
        let mut state = all[3].clone();
        let mut out = vec![0.0; e.batch * e.steps * self.heads * e.dv];
        let times = self.heads / self.shared;
        for b in 0..e.batch {
            for s in 0..self.shared {
                let state = &mut state[(b * self.shared + s) * e.dk * e.dv..][..e.dk * e.dv];
                for t in 0..e.steps {
                    let at = b * e.steps + t;
                    let k = &all[1][(at * self.shared + s) * e.dk..][..e.dk];
                    let mut u = all[2][(at * self.shared + s) * e.dv..][..e.dv].to_vec();
                    if self.gated {
                        for i in 0..e.dk {
                            let g = all[4][(at * self.shared + s) * e.dk + i];
                            state[i * e.dv..(i + 1) * e.dv].iter_mut().for_each(|x| *x *= g);
                        }
                    }
                    if self.delta {
                        for (j, u) in u.iter_mut().enumerate() {
                            *u -= (0..e.dk).map(|i| state[i * e.dv + j] * k[i]).sum::<f64>();
                        }
                    }
                    let rate = self.rates().map_or(1.0, |r| all[r][at * self.shared + s]);
                    for i in 0..e.dk {
                        for j in 0..e.dv {
                            state[i * e.dv + j] += rate * k[i] * u[j];
                        }
                    }
                    for h in s * times..(s + 1) * times {
                        let q = &all[0][(at * self.heads + h) * e.dk..][..e.dk];
                        for j in 0..e.dv {
                            out[(at * self.heads + h) * e.dv + j] = (0..e.dk).map(|i| state[i * e.dv + j] * q[i]).sum();
                        }
                    }
                }
            }
        }
        let d = ins[0].dtype();
        Ok(vec![
            Tensor::from_f64(d, &[e.batch, e.steps, self.heads * e.dv], &out),
            Tensor::from_f64(d, ins[3].shape(), &state),
        ])
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let e = self.extents(&cx.in_dims(0), &cx.in_dims(2));
        let (dk, dv, steps) = (e.dk, e.dv, e.steps);
        let (shared, heads, times) = (self.shared, self.heads, self.heads / self.shared);
        let groups = e.batch * shared;
        if groups == 0 || dv == 0 {
            return Ok(());
        }
        let d = wide(cx.in_dtype(0));
        let mut k = std::mem::replace(&mut cx.k, KernelBuilder::new("taken"));
        let cx_: &LowerCx<'_> = cx;
        let load = |i: usize, at: Expr| widen(cx_.load_flat(i, at), cx_.in_dtype(i));
        let state = k.buffer("state", d, groups * dk * dv, Access::Scratch);
        let held = k.buffer("held", d, groups * dv, Access::Scratch);
        let group = k.fresh("group", Type::INDEX);
        let g = Expr::Var(group);
        let (b, s) = (g.clone() / shared, g.clone() % shared);
        let cell = |i: Expr, j: Expr| (g.clone() * dk + i) * dv + j;
        let place = |j: Expr| g.clone() * dv + j;
        let mut stores: Vec<(usize, Expr, Expr)> = vec![];
        let (j_out, i_out) = (k.fresh("j", Type::INDEX), k.fresh("i", Type::INDEX));
        let (h_out, t_out) = (k.fresh("h", Type::INDEX), k.fresh("t", Type::INDEX));
        let at = b.clone() * steps + Expr::Var(t_out);
        let row = |width: usize, i: Expr| (at.clone() * shared + s.clone()) * width + i;
        let head = s.clone() * times + Expr::Var(h_out);
        // Results are stored by statements that the context makes.
        stores.push((0, (at.clone() * heads + head.clone()) * dv + Expr::Var(j_out), Expr::load(held, place(Expr::Var(j_out)))));
        let last = cell(Expr::Var(i_out), Expr::Var(j_out));
        stores.push((1, last.clone(), Expr::load(state, last)));
        let each = |k: &mut KernelBuilder, f: &dyn Fn(&mut KernelBuilder, Expr, Expr)| {
            k.for_range("i", 0i64, dk, |k, i| k.for_range("j", 0i64, dv, |k, j| f(k, i.clone(), j)));
        };
        let begin = k.block(|k| {
            each(k, &|k, i, j| {
                let c = cell(i, j);
                k.store(state, c.clone(), load(3, c));
            });
        });
        let step = k.block(|k| {
            if self.gated {
                each(k, &|k, i, j| {
                    let c = cell(i.clone(), j);
                    k.store(state, c.clone(), Expr::load(state, c) * load(4, row(dk, i)));
                });
            }
            k.for_range("j", 0i64, dv, |k, j| k.store(held, place(j.clone()), load(2, row(dv, j))));
            if self.delta {
                each(k, &|k, i, j| {
                    let given = Expr::load(state, cell(i.clone(), j.clone())) * load(1, row(dk, i));
                    k.store(held, place(j.clone()), Expr::load(held, place(j)) - given);
                });
            }
            each(k, &|k, i, j| {
                let mut key = load(1, row(dk, i.clone()));
                if let Some(r) = self.rates() {
                    key = key * load(r, at.clone() * shared + s.clone());
                }
                let c = cell(i, j.clone());
                k.store(state, c.clone(), Expr::load(state, c) + key * Expr::load(held, place(j)));
            });
        });
        let sum = k.block(|k| {
            k.for_range("j", 0i64, dv, |k, j| k.store(held, place(j), Expr::constant(d, 0.0)));
            each(k, &|k, i, j| {
                let q = load(0, (at.clone() * heads + head.clone()) * dk + i.clone());
                let term = q * Expr::load(state, cell(i, j.clone()));
                k.store(held, place(j.clone()), Expr::load(held, place(j)) + term);
            });
        });
        cx.k = k;
        let mut written = stores.into_iter().map(|(port, at, value)| {
            let (buf, index, value) = cx.write(port, at, value);
            tenon_kernel::Stmt::Store { buf, index, value }
        });
        let (Some(out), Some(end)) = (written.next(), written.next()) else { return Ok(()) };
        drop(written);
        let mut per_head = sum;
        per_head.push(loop_over(j_out, dv, false, vec![out]));
        let mut per_step = step;
        per_step.push(loop_over(h_out, times, false, per_head));
        let mut body = begin;
        body.push(loop_over(t_out, steps, false, per_step));
        body.push(loop_over(i_out, dk, false, vec![loop_over(j_out, dv, false, vec![end])]));
        cx.k.push(loop_over(group, groups, true, body));
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::SUM
    }

    fn samples() -> Vec<Sample> {
        let op = |heads, shared, delta, gated, rated| LinearAttention { heads, shared, delta, gated, rated };
        let f = DType::F32;
        let range = [(-0.7, 0.7), (-0.7, 0.7), (-1.0, 1.0), (-1.0, 1.0), (0.1, 0.9), (0.1, 0.9)];
        let case = |op, ins: &[(DType, &[usize])]| Sample::new(op, ins).with_range(&range);
        vec![
            case(op(2, 2, false, false, false), &[(f, &[1, 3, 8]), (f, &[1, 3, 8]), (f, &[1, 3, 10]), (f, &[1, 2, 4, 5])]),
            case(
                op(4, 2, true, true, true),
                &[
                    (f, &[2, 3, 12]),
                    (f, &[2, 3, 6]),
                    (f, &[2, 3, 10]),
                    (f, &[2, 2, 3, 5]),
                    (f, &[2, 3, 6]),
                    (f, &[2, 3, 2]),
                ],
            ),
            case(
                op(1, 1, false, true, false),
                &[(f, &[1, 4, 3]), (f, &[1, 4, 3]), (f, &[1, 4, 17]), (f, &[1, 1, 3, 17]), (f, &[1, 4, 3])],
            ),
            case(
                op(2, 1, true, false, true),
                &[
                    (DType::F64, &[1, 2, 4]),
                    (DType::F64, &[1, 2, 2]),
                    (DType::F64, &[1, 2, 2]),
                    (DType::F64, &[1, 1, 2, 2]),
                    (DType::F64, &[1, 2, 1]),
                ],
            ),
            case(op(1, 1, false, false, false), &[(f, &[1, 0, 2]), (f, &[1, 0, 2]), (f, &[1, 0, 2]), (f, &[1, 1, 2, 2])]),
        ]
    }
}

//! Normalisation over trailing axes: `y = (x - mean) / √(variance + ε) · scale + bias`; the root-mean-square form takes no mean.
//!
//! ONNX: [LayerNormalization](https://onnx.ai/onnx/operators/onnx__LayerNormalization.html) (17),
//! [RMSNormalization](https://onnx.ai/onnx/operators/onnx__RMSNormalization.html) (23),
//! [InstanceNormalization](https://onnx.ai/onnx/operators/onnx__InstanceNormalization.html) (1, 6, 22) and
//! [GroupNormalization](https://onnx.ai/onnx/operators/onnx__GroupNormalization.html) (18, 21), the last two through views of the
//! operand in which what is normalised together is the last axis.

use super::binary::Binary;
use super::cast::Cast;
use super::reshape::Reshape;
use super::util::{apply, broadcast_offset, cast, for_each_index};
use crate::import::dtype_of_code;
use crate::lower::{broadcast_index, flatten, wide};
use crate::op::{expect_dtype, expect_operands, expect_same_dtype, resolve_axis};
use crate::ops::*;
use tenon_base::{Real, Shape};
use tenon_kernel::UnOp;

crate::attributes! {
    /// Operands: x, and optionally scale and bias, which broadcast to the normalised axes. Results: y, and with `stats` the mean (not
    /// for `rms`) and the inverse deviation of every row.
    pub struct LayerNorm {
        /// The first normalised axis.
        pub axis: usize,
        /// Added to the variance.
        pub epsilon: Real,
        /// Root mean square: the mean is taken to be 0.
        pub rms: bool,
        /// Also give mean and inverse deviation.
        pub stats: bool,
    }
}

impl Operator for LayerNorm {
    fn names() -> Vec<&'static str> {
        vec!["layer_norm"]
    }

    fn onnx() -> Vec<OnnxName> {
        let on = |name, versions| OnnxName { domain: "", name, versions };
        vec![
            // ONNX Runtime writes it into older models, too, with the same meaning.
            on("LayerNormalization", &[1, 17]),
            on("RMSNormalization", &[23]),
            on("InstanceNormalization", &[1, 6, 22]),
            on("GroupNormalization", &[18, 21]),
        ]
    }

    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        LayerNorm::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        match node.op_type() {
            "InstanceNormalization" => import_grouped(node, cx, None),
            "GroupNormalization" => {
                let groups = node.opt_int("num_groups")?.and_then(|g| usize::try_from(g).ok()).filter(|g| *g > 0);
                let groups = groups.ok_or_else(|| ImportError::new("num_groups: expected a positive integer"))?;
                import_grouped(node, cx, Some(groups))
            }
            name => import_layer(node, cx, name == "RMSNormalization"),
        }
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=3)?;
        expect_dtype(ins, 0, DType::is_float, "a float dtype")?;
        let x = &ins[0].shape;
        resolve_axis(self.axis as i64, x.rank())?;
        for i in 1..ins.len() {
            expect_same_dtype(ins, 0, i)?;
            let s = &ins[i].shape;
            if s.rank() > x.rank() - self.axis || x.broadcast(s).ok().as_ref() != Some(x) {
                return Err(InferError::new(format!(
                    "operand {i}: expected a shape that broadcasts to {}, found {s}",
                    Shape(x.0[self.axis..].to_vec())
                )));
            }
        }
        let mut all = vec![ins[0].clone()];
        if self.stats {
            let mut row = x.clone();
            row.0[self.axis..].fill(Dim::Const(1));
            all.extend(vec![Fact::new(ins[0].dtype, row); 2]);
        }
        Ok(all)
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let dims = ins[0].shape();
        let n: usize = dims[self.axis..].iter().product();
        let operands: Vec<Vec<f64>> = ins.iter().map(Tensor::to_f64).collect();
        let (mut y, mut means, mut inverses) = (vec![], vec![], vec![]);
        let at = |o: usize, flat: usize| operands.get(o).map(|v| v[flat]);
        let mut index = vec![];
        for_each_index(&dims[self.axis..], |i| index.push(i.to_vec()));
        for row in operands[0].chunks_exact(n.max(1)) {
            let mean = if self.rms { 0.0 } else { row.iter().sum::<f64>() / n as f64 };
            let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n as f64;
            let inverse = 1.0 / (variance + self.epsilon.0).sqrt();
            for (v, i) in row.iter().zip(&index) {
                let scale = ins.get(1).map_or(Some(1.0), |t| at(1, broadcast_offset(i, t.shape())));
                let bias = ins.get(2).map_or(Some(0.0), |t| at(2, broadcast_offset(i, t.shape())));
                y.push((v - mean) * inverse * scale.unwrap_or(1.0) + bias.unwrap_or(0.0));
            }
            means.push(mean);
            inverses.push(inverse);
        }
        let dtype = ins[0].dtype();
        let mut all = vec![Tensor::from_f64(dtype, dims, &y)];
        if self.stats {
            let mut row = dims.to_vec();
            row[self.axis..].fill(1);
            let count: usize = row.iter().product();
            // Rows without elements: 0 / 0.
            means.resize(count, if self.rms { 0.0 } else { f64::NAN });
            inverses.resize(count, f64::NAN);
            all.push(Tensor::from_f64(dtype, &row, &means));
            all.push(Tensor::from_f64(dtype, &row, &inverses));
        }
        Ok(all)
    }

    fn permuted(&self, perm: &[usize], ins: &[Fact]) -> Option<Op> {
        // Only where the normalised axes stay last and in order.
        let kept = (self.axis..perm.len()).all(|a| perm[a] == a);
        (kept && ins.len() == 1).then(|| Op::LayerNorm(self.clone()))
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let dims = cx.in_dims(0);
        let d = wide(cx.in_dtype(0));
        let (outer, inner) = (dims[..self.axis].to_vec(), dims[self.axis..].to_vec());
        let n: usize = inner.iter().product();
        let rows: usize = outer.iter().product();
        if rows == 0 || (n == 0 && !self.stats) {
            return Ok(());
        }
        let this = self.clone();
        let row = cx.k.fresh("row", tenon_kernel::Type::INDEX);
        if n == 0 {
            let nan = || Expr::constant(d, f64::NAN);
            let mean = if self.rms { Expr::constant(d, 0.0) } else { nan() };
            let body = [(1, mean), (2, nan())].map(|(i, v)| {
                let (buf, index, value) = cx.write(i, Expr::Var(row), v);
                tenon_kernel::Stmt::Store { buf, index, value }
            });
            cx.k.push(tenon_kernel::Stmt::For {
                var: row,
                lo: Expr::int(0),
                hi: rows.into(),
                step: 1,
                parallel: true,
                body: body.into(),
            });
            return Ok(());
        }
        let e = cx.k.fresh("e", tenon_kernel::Type::INDEX);
        let (r, e_) = (Expr::Var(row), Expr::Var(e));
        let load = |cx: &LowerCx<'_>| crate::lower::widen(cx.load_flat(0, r.clone() * n + e_.clone()), cx.in_dtype(0));
        let x = load(cx);
        // Scale and bias are indexed within the row.
        let at = crate::lower::unflatten(&e_, &inner);
        let affine: Vec<Expr> = (1..cx.in_count())
            .map(|i| {
                let s = cx.in_dims(i);
                let index = broadcast_index(&at, &inner, &s);
                let flat = if s == inner { e_.clone() } else { flatten(&index, &s) };
                crate::lower::widen(cx.load_flat(i, flat), cx.in_dtype(i))
            })
            .collect();
        let over = |body| tenon_kernel::Stmt::For {
            var: e,
            lo: Expr::int(0),
            hi: n.into(),
            step: 1,
            parallel: false,
            body,
        };
        let count = || Expr::constant(d, n as f64);
        let sum = |k: &mut tenon_kernel::KernelBuilder, name: &str, term: Expr| {
            let acc = k.declare(name, Expr::constant(d, 0.0));
            let inner = k.block(|k| k.set(acc, Expr::Var(acc) + term));
            k.push(over(inner));
            Expr::Var(acc)
        };
        let (mut mean, mut inverse) = (Expr::constant(d, 0.0), Expr::constant(d, 1.0));
        let mut body = cx.k.block(|k| {
            if !this.rms {
                let total = sum(k, "sum", x.clone());
                mean = k.bind("mean", total / count());
            }
            let centred = if this.rms { x.clone() } else { x.clone() - mean.clone() };
            let square = k.fresh("d", tenon_kernel::Type::scalar(d));
            let acc = k.declare("squares", Expr::constant(d, 0.0));
            let inner = k.block(|k| {
                k.push(tenon_kernel::Stmt::Let { var: square, value: centred });
                k.set(acc, Expr::Var(acc) + Expr::Var(square) * Expr::Var(square));
            });
            k.push(over(inner));
            let deviation = (Expr::Var(acc) / count() + Expr::constant(d, this.epsilon.0)).unary(UnOp::Sqrt);
            inverse = k.bind("inverse", Expr::constant(d, 1.0) / deviation);
        });
        let centred = if self.rms { x } else { x - mean.clone() };
        let mut y = centred * inverse.clone();
        if let Some(s) = affine.first() {
            y = y * s.clone();
        }
        if let Some(b) = affine.get(1) {
            y = y + b.clone();
        }
        let store = |cx: &mut LowerCx<'_>, i: usize, flat: Expr, v: Expr| {
            let (buf, index, value) = cx.write(i, flat, v);
            tenon_kernel::Stmt::Store { buf, index, value }
        };
        let out = store(cx, 0, r.clone() * n + e_.clone(), y);
        body.push(over(vec![out]));
        if self.stats {
            body.push(store(cx, 1, r.clone(), mean));
            body.push(store(cx, 2, r.clone(), inverse));
        }
        cx.k.push(tenon_kernel::Stmt::For {
            var: row,
            lo: Expr::int(0),
            hi: rows.into(),
            step: 1,
            parallel: true,
            body,
        });
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::SUM
    }

    fn samples() -> Vec<Sample> {
        let ln = |axis, rms, stats| LayerNorm { axis, epsilon: Real(1e-5), rms, stats };
        let f = DType::F32;
        vec![
            Sample::new(ln(1, false, false), &[(f, &[3, 37]), (f, &[37]), (f, &[37])]),
            Sample::new(ln(1, false, true), &[(f, &[2, 3, 4]), (f, &[3, 4])]),
            Sample::new(ln(1, false, true), &[(f, &[2, 0])]),
            Sample::new(ln(2, true, false), &[(f, &[2, 3, 16]), (f, &[16])]),
            Sample::new(ln(2, false, false), &[(DType::F64, &[2, 1, 5])]),
            Sample::new(ln(1, false, false), &[(DType::F16, &[2, 9]), (DType::F16, &[9]), (DType::F16, &[1])]),
        ]
    }
}

fn import_layer(node: &OnnxNode<'_>, cx: &mut Importer<'_>, rms: bool) -> Result<Vec<ValueId>, ImportError> {
    let (mut x, scale) = (node.input(0)?, node.input(1)?);
    // What ONNX Runtime writes into older models may be normalised in the dtype of the scale, which is then that of the result.
    if node.opset < 17 {
        x = cast(cx, x, cx.dtype(scale))?;
    }
    let dtype = cx.dtype(x);
    let stats = node.wants_output(1) || node.wants_output(2);
    let stash = match node.int("stash_type", 1)? {
        code if stats && dtype == DType::F16 => dtype_of_code(code)?,
        _ => dtype,
    };
    let axis = resolve_axis(node.int("axis", -1)?, cx.rank(x))?;
    let op = LayerNorm { axis, epsilon: Real(f64::from(node.float("epsilon", 1e-5)?)), rms, stats };
    let mut operands = vec![x, scale];
    operands.extend(node.opt_input(2));
    normalised(cx, op, &operands, stash)
}

/// The results of `op`, its statistics of dtype `stash`.
pub(super) fn normalised(
    cx: &mut Importer<'_>,
    op: LayerNorm,
    operands: &[ValueId],
    stash: DType,
) -> Result<Vec<ValueId>, ImportError> {
    let dtype = cx.dtype(operands[0]);
    // Half floats are normalised in `f32` anyway; only the statistics' dtype tells the difference.
    if op.stats && stash != dtype {
        let wide = operands.iter().map(|v| cx.op(Cast::to(stash), &[*v])).collect::<Result<Vec<_>, _>>()?;
        let mut all = normalised(cx, op, &wide, stash)?;
        all[0] = cx.op(Cast::to(dtype), &[all[0]])?;
        return Ok(all);
    }
    // ONNX Runtime takes a scale and a bias that differ from row to row, too.
    let inner = cx.rank(operands[0]).saturating_sub(op.axis);
    if operands[1..].iter().all(|v| cx.rank(*v) <= inner) {
        return cx.ops(op, operands);
    }
    let mut all = cx.ops(op, &operands[..1])?;
    for (name, &v) in ["mul", "add"].into_iter().zip(&operands[1..]) {
        all[0] = apply(cx, name, &[all[0], v])?;
    }
    Ok(all)
}

/// Normalises every group of channels (one channel each for `None`) over its channels and the spatial axes.
fn import_grouped(
    node: &OnnxNode<'_>,
    cx: &mut Importer<'_>,
    groups: Option<usize>,
) -> Result<Vec<ValueId>, ImportError> {
    let (x, scale, bias) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let shape = cx.shape(x).clone();
    if shape.rank() < 2 {
        return Err(ImportError::new(format!("expected an operand [N,C,…], found {shape}")));
    }
    let (batch, channels) = (shape.0[0].clone(), shape.0[1].clone());
    let count = groups.map_or(channels.clone(), Dim::from);
    if let (Some(c), Some(g)) = (channels.as_const(), count.as_const())
        && g != 0
        && c % g != 0
    {
        return Err(ImportError::new(format!("{c} channels do not divide into {g} groups")));
    }
    let rest = Shape(shape.0[1..].to_vec()).numel().div(&count);
    let named = |n: &str| Binary::named(n).ok_or_else(|| ImportError::new(format!("no {n}")));
    let flat = cx.op(Reshape { to: Shape(vec![batch, count.clone(), rest]) }, &[x])?;
    let epsilon = Real(f64::from(node.float("epsilon", 1e-5)?));
    let y = cx.op(LayerNorm { axis: 2, epsilon, rms: false, stats: false }, &[flat])?;
    let mut y = cx.op(Reshape { to: shape.clone() }, &[y])?;
    for (name, v) in [("mul", scale), ("add", bias)] {
        let mut v = v;
        // Before opset 21 group normalisation had one scale a group, not a channel.
        if groups.is_some() && node.opset < 21 && cx.shape(v).numel() != channels {
            let per = channels.div(&count);
            let wide = cx.op(Reshape { to: Shape(vec![count.clone(), Dim::Const(1)]) }, &[v])?;
            let ones = per.as_usize().ok_or_else(|| ImportError::new("the number of channels must be known"))?;
            let ones = cx.weight(Tensor::full(&[1, ones], tenon_base::Scalar::of_f64(cx.dtype(v), 1.0)));
            v = cx.op(named("mul")?, &[wide, ones])?;
        }
        let mut to = vec![channels.clone()];
        to.extend(vec![Dim::Const(1); shape.rank() - 2]);
        let v = cx.op(Reshape { to: Shape(to) }, &[v])?;
        y = cx.op(named(name)?, &[y, v])?;
    }
    Ok(vec![y])
}

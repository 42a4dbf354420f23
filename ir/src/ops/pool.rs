//! Pooling: one number for every window of every channel.
//!
//! ONNX: [MaxPool](https://onnx.ai/onnx/operators/onnx__MaxPool.html) (1, 8, 10, 11, 12, 22),
//! [AveragePool](https://onnx.ai/onnx/operators/onnx__AveragePool.html) (1, 7, 10, 11, 19, 22) and
//! [LpPool](https://onnx.ai/onnx/operators/onnx__LpPool.html) (1, 2, 11, 18, 22).
//! `max`: `y[n, c, p] = max_k x[n, c, h]` with `h = p·stride + k·dilation - pad`, over the `k` for which `h` is inside; `average`: their
//! sum over their number (with `count_pad`: over the number of `k` within the padding); `lp`: `(Σ_k |x[n, c, h]|^p)^(1/p)`.
//! NaN is passed over by `max`, as ONNX Runtime does; a window that lies in the padding alone gives the least value.

use super::conv::{Layout, Window, window_of};
use super::expand::Expand;
use super::same;
use super::util::{apply, for_each_index, number, strides};
use crate::lower::{flatten, wide};
use crate::op::{expect_dtype, expect_operands};
use crate::ops::*;
use tenon_base::{Scalar, Shape};
use tenon_kernel::{CmpOp, KernelBuilder, MathFn, Stmt, Type, UnOp, Var};

crate::attr_enum! {
    /// What becomes of the elements of a window.
    pub enum PoolKind {
        /// The largest.
        Max = "max",
        /// Their mean.
        Average = "average",
        /// Their p-norm.
        Lp = "lp",
    }
}

crate::attr_enum! {
    /// How the positions that `max` reports are counted, within `[N, C, spatial…]`.
    pub enum IndexOrder {
        /// The last spatial axis runs fastest.
        RowMajor = "row_major",
        /// The first spatial axis runs fastest.
        ColumnMajor = "column_major",
    }
}

crate::attributes! {
    /// Pooling of `[N, C, spatial…]`; a second result of `i64`, where wanted, has the positions of the largest elements.
    pub struct Pool {
        /// What to compute.
        pub kind: PoolKind,
        /// Extent of the window.
        pub kernel: Vec<usize>,
        /// Step.
        pub strides: Vec<usize>,
        /// Distance of the window's elements.
        pub dilations: Vec<usize>,
        /// Padding before, then after, every spatial axis.
        pub pads: Vec<usize>,
        /// The last window may reach beyond the padding, if it begins before it.
        pub ceil: bool,
        /// `average`: elements of the padding count, as zeros.
        pub count_pad: bool,
        /// `lp`: which norm.
        pub p: usize,
        /// `max`: also give positions.
        pub indices: Option<IndexOrder>,
        /// Layout of operand and results.
        pub layout: Layout,
    }
}

/// What the reference keeps of a window.
struct Best {
    value: f64,
    position: Option<i64>,
    count: usize,
}

impl Pool {
    fn window(&self) -> Window {
        window_of!(self)
    }

    fn out_extent(&self, i: usize, x: &Dim) -> Result<Dim, InferError> {
        let w = self.window();
        if !self.ceil {
            return w.out_extent(i, x);
        }
        let up = |d: Dim| d.add(&Dim::from(w.strides[i] - 1)).div(&Dim::from(w.strides[i]));
        let begin = x.add(&Dim::from(w.pads[i]));
        let all = up(begin.add(&Dim::from(w.pads[i + w.rank()])).sub(&Dim::from(w.span(i)))).add(&Dim::Const(1));
        // The last window begins within the operand or the padding before it.
        let out = all.smaller(&up(begin));
        if out.as_const().is_some_and(|n| n < 1) && x.as_const() != Some(0) {
            return Err(InferError::new(format!("spatial axis {i}: the window spans {} elements of {x}", w.span(i))));
        }
        Ok(out)
    }

    /// Whether windows along axis `i`, of extent `x` and with `y` windows, reach into padding or beyond.
    fn has_border(&self, i: usize, x: usize, y: usize) -> bool {
        self.pads[i] > 0 || y.saturating_sub(1) * self.strides[i] + self.window().span(i) > x
    }

    /// Strides, per spatial axis, of the positions that `max` reports.
    fn position_strides(&self, spatial: &[usize]) -> Vec<usize> {
        match self.indices {
            Some(IndexOrder::ColumnMajor) => {
                let reversed: Vec<usize> = spatial.iter().rev().copied().collect();
                strides(&reversed).into_iter().rev().collect()
            }
            _ => strides(spatial),
        }
    }

    /// The term of an element in the sum, and the result of the sum.
    fn lp_term(&self, x: Expr, d: DType) -> Expr {
        match (self.kind, self.p) {
            (PoolKind::Lp, 1) => x.unary(UnOp::Abs),
            (PoolKind::Lp, 2) => x.clone() * x,
            (PoolKind::Lp, p) => {
                Expr::Math(MathFn::Pow, vec![x.unary(UnOp::Abs), Expr::constant(d, p as f64)])
            }
            _ => x,
        }
    }

    fn lp_result(&self, sum: Expr, d: DType) -> Expr {
        match (self.kind, self.p) {
            (PoolKind::Lp, 1) => sum,
            (PoolKind::Lp, 2) => sum.unary(UnOp::Sqrt),
            (PoolKind::Lp, p) => Expr::Math(MathFn::Pow, vec![sum, Expr::constant(d, 1.0 / p as f64)]),
            _ => sum,
        }
    }

    /// The number of elements of a window that count, along axis `i`: its value where it is the same everywhere.
    fn count(&self, i: usize, out: &Expr, x: usize, y: usize, range: &(Expr, Expr)) -> Expr {
        let (k, d, s) = (self.kernel[i], self.dilations[i], self.strides[i]);
        let taps = |length: Expr| (length + (d - 1)) / d;
        let padded = x + self.pads[i] + self.pads[i + self.kernel.len()];
        if !self.has_border(i, x, y) || self.count_pad && (y - 1) * s + self.window().span(i) <= padded {
            k.into()
        } else if self.count_pad {
            taps((Expr::from(padded) - out.clone() * s).min(self.window().span(i).into()))
        } else {
            // The range of a window in the padding alone is empty.
            taps((range.1.clone() - range.0.clone()).max(Expr::int(0)))
        }
    }
}

impl Operator for Pool {
    fn names() -> Vec<&'static str> {
        vec!["pool"]
    }

    fn onnx() -> Vec<OnnxName> {
        let on = |name, versions| OnnxName { domain: "", name, versions };
        vec![
            on("MaxPool", &[1, 8, 10, 11, 12, 22]),
            on("AveragePool", &[1, 7, 10, 11, 19, 22]),
            on("LpPool", &[1, 2, 11, 18, 22]),
        ]
    }

    fn name(&self) -> &'static str {
        "pool"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Pool::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let x = node.input(0)?;
        let shape = cx.shape(x).clone();
        let kernel = node.opt_ints("kernel_shape")?.ok_or_else(|| ImportError::new("kernel_shape is missing"))?;
        let extent = |k: &i64| usize::try_from(*k).ok().filter(|k| *k < 1 << 20);
        let extents = kernel.iter().map(extent).collect::<Option<Vec<usize>>>();
        if kernel.len() + 2 != shape.rank() || kernel.is_empty() {
            return Err(ImportError::new(format!(
                "kernel_shape: expected one extent for each spatial axis of {shape}, found {kernel:?}"
            )));
        }
        let extents = extents
            .ok_or_else(|| ImportError::new(format!("kernel_shape: expected extents below 2^20, found {kernel:?}")))?;
        let (w, late) = Window::read(node, extents, &shape.0[2..])?;
        let kind = match node.op_type() {
            "MaxPool" => PoolKind::Max,
            "AveragePool" => PoolKind::Average,
            _ => PoolKind::Lp,
        };
        let p = match kind {
            PoolKind::Lp => node.int("p", 2)?,
            _ => 1,
        };
        let p = usize::try_from(p).ok().filter(|p| (1..=64).contains(p));
        let order = match node.int("storage_order", 0)? {
            0 => IndexOrder::RowMajor,
            1 => IndexOrder::ColumnMajor,
            other => return Err(ImportError::new(format!("storage_order: expected 0 or 1, found {other}"))),
        };
        let op = Pool {
            kind,
            kernel: w.kernel.clone(),
            strides: w.strides.clone(),
            dilations: w.dilations.clone(),
            pads: w.pads.clone(),
            ceil: node.int("ceil_mode", 0)? != 0,
            count_pad: kind == PoolKind::Average && node.int("count_include_pad", 0)? != 0,
            p: p.ok_or_else(|| ImportError::new("p: expected an integer from 1 to 64"))?,
            indices: (kind == PoolKind::Max && node.wants_output(1)).then_some(order),
            layout: Layout::ChannelsFirst,
        };
        if late.is_empty() {
            return cx.ops(op, &[x]);
        }
        if op.indices.is_some() {
            return Err(ImportError::new("positions of the largest need a known extent").with_pins(&shape.numel()));
        }
        let lowest = cx.dtype(x).int_range().map_or(f64::NEG_INFINITY, |(low, _)| low as f64);
        let fill = if kind == PoolKind::Max { lowest } else { 0.0 };
        let y = same::fitted(node, cx, x, &w, &late, fill)?;
        if kind != PoolKind::Average {
            return cx.ops(op, &[y]);
        }
        // The part of a window that is not padding is the mean of ones there.
        let mean = Pool { count_pad: true, ..op.clone() };
        let y = cx.op(mean.clone(), &[y])?;
        if op.count_pad {
            return Ok(vec![y]);
        }
        let mut to = shape;
        (to.0[0], to.0[1]) = (Dim::Const(1), Dim::Const(1));
        let one = number(cx, cx.dtype(x), 1.0);
        let ones = cx.op(Expand { to }, &[one])?;
        let ones = same::fitted(node, cx, ones, &w, &late, 0.0)?;
        let part = cx.op(mean, &[ones])?;
        Ok(vec![apply(cx, "div", &[y, part])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        match self.kind {
            PoolKind::Max => expect_dtype(ins, 0, |d| d != DType::Bool, "a number dtype")?,
            _ => expect_dtype(ins, 0, DType::is_float, "a float dtype")?,
        }
        self.window().check()?;
        let x = &ins[0].shape;
        let rank = self.kernel.len() + 2;
        if x.rank() != rank || rank < 3 {
            return Err(InferError::new(format!("expected an operand of rank {rank}, found {x}")));
        }
        if self.p == 0 || self.indices.is_some() && self.kind != PoolKind::Max {
            return Err(InferError::new("p must be positive, and only max has indices"));
        }
        let spatial = self.layout.spatial(&x.0);
        let spatial: Vec<Dim> = spatial.iter().enumerate().map(|(i, d)| self.out_extent(i, d)).collect::<Result<_, _>>()?;
        let channels = x.0[self.layout.channel_axis(rank)].clone();
        let y = Shape(self.layout.assemble(x.0[0].clone(), channels, &spatial));
        let mut all = vec![Fact::new(ins[0].dtype, y.clone())];
        all.extend(self.indices.map(|_| Fact::new(DType::I64, y)));
        Ok(all)
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let y = self.infer(&[ins[0].fact()]).map_err(|e| e.message)?[0].dims().ok_or("the shape is not known")?;
        let (l, rank, dtype) = (self.layout, y.len(), ins[0].dtype());
        let x_dims = ins[0].shape();
        let spatial = l.spatial(x_dims);
        let (x_strides, positions) = (strides(x_dims), self.position_strides(&spatial));
        let channels = x_dims[l.channel_axis(rank)];
        let plane: usize = spatial.iter().product();
        let (mut values, mut indices) = (vec![], vec![]);
        for_each_index(&y, |at| {
            let (n, c, p) = (at[0], at[l.channel_axis(rank)], l.spatial(at));
            let first = (n * channels + c) * plane;
            let base = n * x_strides[0] + c * x_strides[l.channel_axis(rank)];
            let mut best = Best { value: f64::NEG_INFINITY, position: None, count: 0 };
            let mut sum = 0.0;
            for_each_index(&self.kernel, |k| {
                let h: Vec<usize> = (0..k.len()).map(|i| p[i] * self.strides[i] + k[i] * self.dilations[i]).collect();
                let padded = |i: usize| h[i] < spatial[i] + self.pads[i] + self.pads[i + k.len()];
                let inside = |i: usize| h[i] >= self.pads[i] && h[i] - self.pads[i] < spatial[i];
                if self.count_pad && (0..k.len()).all(padded) {
                    best.count += 1;
                }
                if !(0..k.len()).all(inside) {
                    return;
                }
                best.count += usize::from(!self.count_pad);
                let h = |i: usize| h[i] - self.pads[i];
                let x = ins[0].get(base + (0..k.len()).map(|i| h(i) * x_strides[l.spatial_axis(i)]).sum::<usize>());
                let x = x.as_f64();
                if best.position.is_none() || x > best.value {
                    let at = first + (0..k.len()).map(|i| h(i) * positions[i]).sum::<usize>();
                    best.position = Some(at as i64);
                    best.value = if x > best.value { x } else { best.value };
                }
                sum += if self.kind == PoolKind::Lp { x.abs().powi(self.p as i32) } else { x };
            });
            values.push(match self.kind {
                PoolKind::Max => best.value,
                PoolKind::Average => sum / best.count.max(1) as f64,
                PoolKind::Lp => sum.powf(1.0 / self.p as f64),
            });
            indices.push(best.position.unwrap_or(first as i64));
        });
        // Where `f64` does not hold every value of the dtype, the least is still itself.
        let value = |v: f64| match dtype.int_range() {
            Some((lo, _)) => Scalar::of_int(dtype, if v == f64::NEG_INFINITY { lo } else { v as i128 }),
            None => Scalar::of_f64(dtype, v),
        };
        let mut all = vec![Tensor::from_scalars(dtype, &y, values.into_iter().map(value))];
        all.extend(self.indices.map(|_| Tensor::new(&y, &indices)));
        Ok(all)
    }

    fn channels_last(&self) -> Option<Op> {
        let flips = self.layout == Layout::ChannelsFirst && self.indices.is_none();
        flips.then(|| Op::Pool(Pool { layout: Layout::ChannelsLast, ..self.clone() }))
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let (x_dims, y_dims) = (cx.in_dims(0), cx.out_dims(0));
        if y_dims.contains(&0) {
            return Ok(());
        }
        let (l, rank) = (self.layout, y_dims.len());
        let (xs, ys) = (l.spatial(&x_dims), l.spatial(&y_dims));
        let d = wide(cx.in_dtype(0));
        let vars: Vec<Var> = (0..rank).map(|i| cx.k.fresh(&format!("i{i}"), Type::INDEX)).collect();
        let index: Vec<Expr> = vars.iter().map(|v| Expr::Var(*v)).collect();
        let (n, c, out) = (index[0].clone(), index[l.channel_axis(rank)].clone(), l.spatial(&index));
        // What depends on the window's place alone: the range of its elements and what a sum is scaled by.
        let mut ranges = vec![];
        let mut scale = Expr::constant(d, 1.0);
        let place = cx.k.block(|k| {
            for i in 0..out.len() {
                let first = out[i].clone() * self.strides[i];
                if !self.has_border(i, xs[i], ys[i]) {
                    ranges.push((first.clone(), first + self.window().span(i)));
                    continue;
                }
                let first = k.bind(&format!("first{i}"), first - Expr::from(self.pads[i]));
                let steps = (Expr::int(0) - first.clone() + (self.dilations[i] - 1)) / self.dilations[i];
                let lo = match self.dilations[i] {
                    1 => first.clone(),
                    step => first.clone() + steps.max(Expr::int(0)) * step,
                };
                let lo = k.bind(&format!("lo{i}"), lo.max(Expr::int(0)));
                let hi = k.bind(&format!("hi{i}"), (first + self.window().span(i)).min(xs[i].into()));
                ranges.push((lo, hi));
            }
            if self.kind == PoolKind::Average {
                let counts = (0..out.len()).map(|i| self.count(i, &out[i], xs[i], ys[i], &ranges[i]));
                let count = counts.fold(Expr::int(1), |n, c| n * c);
                scale = match count.as_int() {
                    Some(n) => Expr::constant(d, 1.0 / n as f64),
                    None => {
                        let count = count.max(Expr::int(1)).cast(d);
                        k.bind("scale", Expr::constant(d, 1.0) / count)
                    }
                };
            }
        });
        let taps: Vec<Var> = (0..out.len()).map(|i| cx.k.fresh(&format!("h{i}"), Type::INDEX)).collect();
        // Where no window reaches a border the loops run from 0, so that their length is seen to be constant.
        let at: Vec<Expr> = (0..out.len())
            .map(|i| {
                let tap = Expr::Var(taps[i]);
                if self.has_border(i, xs[i], ys[i]) { tap } else { ranges[i].0.clone() + tap }
            })
            .collect();
        let x = cx.load_wide(0, &l.assemble(n.clone(), c.clone(), &at));
        let strides = self.position_strides(&xs);
        let plane: usize = xs.iter().product();
        let position = |at: Vec<Expr>| {
            let first = n.clone() * (plane * x_dims[l.channel_axis(rank)]) + c.clone() * plane;
            at.into_iter().zip(&strides).fold(first, |sum, (h, &s)| sum + h * s)
        };
        let here = position(at);
        let begin = position(ranges.iter().map(|r| r.0.clone()).collect());
        let acc = cx.k.fresh("acc", Type::scalar(d));
        let best = cx.k.fresh("position", Type::INDEX);
        let flat = flatten(&index, &y_dims);
        let result = match self.kind {
            PoolKind::Average => Expr::Var(acc) * scale,
            _ => self.lp_result(Expr::Var(acc), d),
        };
        let mut stores = vec![cx.write(0, flat.clone(), result)];
        if self.indices.is_some() {
            stores.push(cx.write(1, flat, Expr::Var(best)));
        }
        let step = |k: &mut KernelBuilder| {
            if self.indices.is_some() {
                let x = k.bind("x", x.clone());
                let larger = k.bind("larger", x.clone().compare(CmpOp::Gt, Expr::Var(acc)));
                k.set(best, larger.clone().select(here.clone(), Expr::Var(best)));
                k.set(acc, larger.select(x, Expr::Var(acc)));
            } else if self.kind == PoolKind::Max {
                k.set(acc, x.clone().max(Expr::Var(acc)));
            } else {
                let x = k.bind("x", x.clone());
                k.set(acc, Expr::Var(acc) + self.lp_term(x, d));
            }
        };
        let least = match (self.kind, d.int_range()) {
            (PoolKind::Max, Some((lo, _))) => Expr::Const(Scalar::of_int(d, lo)),
            (PoolKind::Max, None) => Expr::constant(d, f64::NEG_INFINITY),
            _ => Expr::constant(d, 0.0),
        };
        let pooled = cx.k.block(|k| {
            k.push(Stmt::Declare { var: acc, value: least });
            if self.indices.is_some() {
                k.push(Stmt::Declare { var: best, value: begin });
            }
            let mut body = k.block(step);
            for i in (0..taps.len()).rev() {
                let (lo, hi) = match self.has_border(i, xs[i], ys[i]) {
                    true => ranges[i].clone(),
                    false => (Expr::int(0), self.window().span(i).into()),
                };
                body = vec![Stmt::For { var: taps[i], lo, hi, step: self.dilations[i] as i64, parallel: false, body }];
            }
            body.into_iter().for_each(|s| k.push(s));
            for (buf, index, value) in stores {
                k.store(buf, index, value);
            }
        });
        let over = |axis: usize, body| Stmt::For {
            var: vars[axis],
            lo: Expr::int(0),
            hi: y_dims[axis].into(),
            step: 1,
            parallel: true,
            body,
        };
        let mut body = place;
        // Channels last are the innermost loop, within the window's place.
        let inner = if l == Layout::ChannelsLast { vec![over(rank - 1, pooled)] } else { pooled };
        body.extend(inner);
        let outer = if l == Layout::ChannelsLast { rank - 1 } else { rank };
        for axis in (0..outer).rev() {
            body = vec![over(axis, body)];
        }
        body.into_iter().for_each(|s| cx.k.push(s));
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        match self.kind {
            PoolKind::Max => Tolerance::EXACT,
            _ => Tolerance::SUM,
        }
    }

    fn samples() -> Vec<Sample> {
        use Layout::{ChannelsFirst as First, ChannelsLast as Last};
        let pool = |kind, kernel: &[usize], strides: &[usize], dilations: &[usize], pads: &[usize], layout| Pool {
            kind,
            kernel: kernel.to_vec(),
            strides: strides.to_vec(),
            dilations: dilations.to_vec(),
            pads: pads.to_vec(),
            ceil: false,
            count_pad: false,
            p: 2,
            indices: None,
            layout,
        };
        let ceil = |p: Pool| Pool { ceil: true, ..p };
        let counted = |p: Pool| Pool { count_pad: true, ..p };
        let indexed = |p: Pool, order| Pool { indices: Some(order), ..p };
        let f = DType::F32;
        let (max, mean, lp) = (PoolKind::Max, PoolKind::Average, PoolKind::Lp);
        vec![
            Sample::new(pool(max, &[2, 2], &[2, 2], &[1, 1], &[0; 4], First), &[(f, &[2, 3, 8, 6])]),
            Sample::new(pool(max, &[3, 3], &[2, 2], &[1, 1], &[1; 4], Last), &[(f, &[1, 9, 8, 19])]),
            Sample::new(pool(max, &[2, 2], &[1, 1], &[2, 3], &[1, 2, 0, 1], Last), &[(f, &[1, 7, 9, 4])]),
            Sample::new(ceil(pool(max, &[3], &[2], &[1], &[0, 1], First)), &[(DType::I8, &[1, 3, 8])]),
            Sample::new(pool(max, &[2], &[2], &[1], &[1, 0], Last), &[(DType::F16, &[1, 7, 3])]),
            Sample::new(
                indexed(pool(max, &[3, 2], &[2, 1], &[1, 2], &[1, 0, 1, 1], First), IndexOrder::RowMajor),
                &[(f, &[2, 2, 6, 5])],
            ),
            Sample::new(
                indexed(pool(max, &[2, 2], &[2, 2], &[1, 1], &[0; 4], First), IndexOrder::ColumnMajor),
                &[(DType::U8, &[1, 2, 4, 6])],
            ),
            Sample::new(pool(mean, &[3, 3], &[1, 1], &[1, 1], &[1; 4], Last), &[(f, &[1, 6, 5, 17])]),
            Sample::new(counted(pool(mean, &[3, 3], &[2, 2], &[1, 1], &[1; 4], First)), &[(f, &[1, 2, 7, 7])]),
            Sample::new(
                counted(ceil(pool(mean, &[3, 2], &[2, 3], &[1, 2], &[1, 0, 0, 1], First))),
                &[(f, &[1, 2, 8, 9])],
            ),
            Sample::new(ceil(pool(mean, &[2, 3], &[3, 2], &[2, 1], &[1, 1, 1, 0], Last)), &[(f, &[2, 8, 6, 5])]),
            Sample::new(pool(mean, &[7, 7], &[1, 1], &[1, 1], &[0; 4], Last), &[(f, &[1, 7, 7, 12])]),
            Sample::new(pool(mean, &[2, 2, 2], &[2, 1, 2], &[1; 3], &[0, 1, 0, 0, 0, 1], First), &[(f, &[1, 2, 4, 3, 5])]),
            Sample::new(pool(lp, &[2, 2], &[2, 2], &[1, 1], &[0, 1, 0, 1], Last), &[(f, &[1, 4, 5, 3])]),
            Sample::new(Pool { p: 3, ..pool(lp, &[3], &[1], &[2], &[0; 2], First) }, &[(DType::F64, &[1, 2, 9])]),
        ]
    }
}

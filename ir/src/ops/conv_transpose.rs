//! Transposed convolution: the gradient of a convolution with respect to its operand.
//!
//! ONNX: [ConvTranspose](https://onnx.ai/onnx/operators/onnx__ConvTranspose.html) (1, 11, 22).
//! `y[n, o, q] = bias[o] + Σ_{c, k, p: q + pad = p·stride + k·dilation} x[n, c, p] · w[c, o, k]`, `c` over the group of `o`.
//!
//! Outputs whose `q + pad` leave the same remainder by the stride meet the same elements of the window, at distances of
//! one element of `x`: each such *phase* is an ordinary convolution of stride 1. With many phases, all products are made by one
//! contraction and then added up where they belong.

use super::conv::{Layout, Window, import_group, import_kernel, pad_input, window_of};
use super::util::{for_each_index, strides};
use crate::lower::{flatten, wide, widen};
use crate::op::{expect_dtype, expect_operands, expect_same_dtype};
use crate::ops::*;
use tenon_base::{Shape, gcd};
use tenon_kernel::{Buf, Contract, Type};

/// With more phases than this, one contraction makes all products.
const MAX_PHASES: usize = 16;
/// Larger attributes are taken to be mistakes.
const MAX_EXTENT: usize = 1 << 20;

crate::attributes! {
    /// Transposed convolution; operands are the activations, the weights `[C, O/G, kernel…]` and an optional bias `[O]`.
    pub struct ConvTranspose {
        /// Extent of the window.
        pub kernel: Vec<usize>,
        /// Distance, in the result, of the operand's elements.
        pub strides: Vec<usize>,
        /// Distance of the window's elements.
        pub dilations: Vec<usize>,
        /// Cut off the result before, then after, every spatial axis.
        pub pads: Vec<usize>,
        /// Added to the result after every spatial axis.
        pub output_padding: Vec<usize>,
        /// Groups of channels that do not mix.
        pub group: usize,
        /// Layout of the activations, in and out.
        pub layout: Layout,
    }
}

/// Outputs `stride·j + first` for `j` in `0..count`, along one axis: they meet the elements `last_tap - t·tap_step` of the
/// window, and of the operand the elements `j + base + t·step`, for `t` in `0..taps`.
struct Phase {
    first: usize,
    count: usize,
    taps: usize,
    last_tap: usize,
    tap_step: usize,
    base: i64,
    step: usize,
}

impl ConvTranspose {
    /// The phases of axis `i` for an output extent `y`; those without outputs are left out.
    fn phases(&self, i: usize, y: usize) -> Vec<Phase> {
        let (s, d, pad) = (self.strides[i], self.dilations[i], self.pads[i]);
        let tap_step = s / gcd(s, d);
        (0..s.min(y))
            .map(|first| {
                let remainder = (first + pad) % s;
                let taps: Vec<usize> = (0..self.kernel[i]).filter(|k| k * d % s == remainder).collect();
                let last_tap = taps.last().copied().unwrap_or(0);
                Phase {
                    first,
                    count: (y - first).div_ceil(s),
                    taps: taps.len(),
                    last_tap,
                    tap_step,
                    base: ((first + pad) as i64 - (last_tap * d) as i64).div_euclid(s as i64),
                    step: tap_step * d / s,
                }
            })
            .collect()
    }

    /// One contraction a phase, over an operand with zeros around it.
    fn lower_phases(&self, cx: &mut LowerCx<'_>) {
        let (x_dims, w_dims, y_dims) = (cx.in_dims(0), cx.in_dims(1), cx.out_dims(0));
        let l = self.layout;
        let (xs, ys) = (l.spatial(&x_dims), l.spatial(&y_dims));
        let rank = self.kernel.len();
        let phases: Vec<Vec<Phase>> = (0..rank).map(|i| self.phases(i, ys[i])).collect();
        // How far the phases reach beyond the operand.
        let mut pads = vec![0; 2 * rank];
        for (i, axis) in phases.iter().enumerate() {
            for p in axis.iter().filter(|p| p.taps > 0) {
                let last = p.base + (p.count - 1 + (p.taps - 1) * p.step) as i64;
                pads[i] = pads[i].max(usize::try_from(-p.base).unwrap_or(0));
                pads[i + rank] = pads[i + rank].max(usize::try_from(last + 1 - xs[i] as i64).unwrap_or(0));
            }
        }
        let (source, padded) = if pads.iter().all(|&p| p == 0) {
            (None, x_dims)
        } else {
            let (buf, dims) = pad_input(cx, l, &pads);
            (Some(buf), dims)
        };
        let counts: Vec<usize> = phases.iter().map(Vec::len).collect();
        for_each_index(&counts, |which| {
            let chosen: Vec<&Phase> = which.iter().zip(&phases).map(|(&i, axis)| &axis[i]).collect();
            self.lower_phase(cx, &chosen, &pads, source, &padded, &w_dims);
        });
    }

    fn lower_phase(
        &self,
        cx: &mut LowerCx<'_>,
        phase: &[&Phase],
        pads: &[usize],
        source: Option<Buf>,
        padded: &[usize],
        w_dims: &[usize],
    ) {
        let (l, y_dims) = (self.layout, cx.out_dims(0));
        let d = wide(cx.out_dtype(0));
        let (c_group, o_group) = (w_dims[0] / self.group, w_dims[1]);
        let (dn, n) = cx.k.contract_dim("n", y_dims[0]);
        let mut dims = vec![dn];
        let mut at = vec![];
        for (i, p) in phase.iter().enumerate() {
            let (dim, v) = cx.k.contract_dim(&format!("p{i}"), p.count);
            dims.push(dim);
            at.push(v);
        }
        let (dg, g) = cx.k.contract_dim("g", self.group);
        let (d_o, o) = cx.k.contract_dim("o", o_group);
        dims.extend([dg, d_o]);
        let mut reduce = vec![];
        let (mut x_at, mut w_at) = (vec![], vec![]);
        for (i, p) in phase.iter().enumerate() {
            let (dim, t) = cx.k.contract_dim(&format!("t{i}"), p.taps.max(1));
            reduce.push(dim);
            let base = p.base + pads[i] as i64;
            x_at.push(at[i].clone() + t.clone() * p.step + base);
            w_at.push(Expr::from(p.last_tap) - t * p.tap_step);
        }
        let (dc, c) = cx.k.contract_dim("c", c_group.max(1));
        reduce.push(dc);
        let out_at: Vec<Expr> =
            phase.iter().enumerate().map(|(i, p)| at[i].clone() * self.strides[i] + p.first).collect();
        let in_channel = g.clone() * c_group + c;
        let out_channel = g * o_group + o.clone();
        let y_index = l.assemble(n.clone(), out_channel.clone(), &out_at);
        let init = if cx.in_count() > 2 { cx.load_wide(2, &[out_channel]) } else { Expr::constant(d, 0.0) };
        let acc = cx.k.fresh("acc", Type::scalar(d));
        let (out, out_index, value) = cx.write(0, flatten(&y_index, &y_dims), Expr::Var(acc));
        if c_group == 0 || phase.iter().any(|p| p.taps == 0) {
            // No element of the window falls here.
            let extents: Vec<usize> = dims.iter().map(|d| d.extent).collect();
            let value = value.substitute(acc, &init);
            cx.k.parfor_nest(&extents, |k, i| {
                let at = |x: Expr| dims.iter().zip(i).fold(x, |x, (d, v)| x.substitute(d.var, v));
                k.store(out, at(out_index), at(value));
            });
            return;
        }
        let x_index = l.assemble(n, in_channel.clone(), &x_at);
        let mut w_index = vec![in_channel, o];
        w_index.extend(w_at);
        let a = match source {
            Some(buf) => widen(Expr::load(buf, flatten(&x_index, padded)), cx.in_dtype(0)),
            None => cx.load_wide(0, &x_index),
        };
        let b = cx.load_wide(1, &w_index);
        cx.k.contract(Contract { dims, reduce, acc, init, a, b, out, out_index, value });
    }

    /// One contraction for all products, which are then added up into an uncut result.
    fn lower_scatter(&self, cx: &mut LowerCx<'_>) {
        let (x_dims, w_dims, y_dims) = (cx.in_dims(0), cx.in_dims(1), cx.out_dims(0));
        let l = self.layout;
        let d = wide(cx.out_dtype(0));
        let (xs, ys) = (l.spatial(&x_dims), l.spatial(&y_dims));
        let (c_group, o_group) = (w_dims[0] / self.group, w_dims[1]);
        let window = self.window();
        // Products, per batch, operand element, output channel and element of the window.
        let mut product_dims = vec![y_dims[0]];
        product_dims.extend(&xs);
        product_dims.extend([self.group, o_group]);
        product_dims.extend(&self.kernel);
        let products = cx.scratch("products", d, product_dims.iter().product());
        let mut dims = vec![];
        let mut index = vec![];
        for (i, &n) in product_dims.iter().enumerate() {
            let (dim, v) = cx.k.contract_dim(&format!("i{i}"), n);
            dims.push(dim);
            index.push(v);
        }
        let rank = xs.len();
        let (dc, c) = cx.k.contract_dim("c", c_group);
        let in_channel = index[1 + rank].clone() * c_group + c;
        let mut w_index = vec![in_channel.clone(), index[2 + rank].clone()];
        w_index.extend(index[3 + rank..].iter().cloned());
        let a = cx.load_wide(0, &l.assemble(index[0].clone(), in_channel, &index[1..1 + rank]));
        let b = cx.load_wide(1, &w_index);
        let acc = cx.k.fresh("acc", Type::scalar(d));
        let zero = Expr::constant(d, 0.0);
        cx.k.contract(Contract {
            dims,
            reduce: vec![dc],
            acc,
            init: zero.clone(),
            a,
            b,
            out: products,
            out_index: flatten(&index, &product_dims),
            value: Expr::Var(acc),
        });
        // The uncut result covers what the window reaches and what is kept of it.
        let full: Vec<usize> = (0..rank)
            .map(|i| ((xs[i] - 1) * self.strides[i] + window.span(i)).max(ys[i] + self.pads[i]))
            .collect();
        let mut sum_dims = vec![y_dims[0], self.group * o_group];
        sum_dims.extend(&full);
        let sums = cx.scratch("sums", d, sum_dims.iter().product());
        cx.k.parfor("z", sum_dims.iter().product::<usize>(), |k, z| k.store(sums, z, zero));
        cx.k.parfor_nest(&[y_dims[0], self.group, o_group], |k, outer| {
            k.for_nest(&xs, |k, p| {
                // The elements of a window go to different places.
                k.parfor_nest(&self.kernel, |k, t| {
                    let mut from = vec![outer[0].clone()];
                    from.extend(p.iter().cloned());
                    from.extend(outer[1..].iter().cloned());
                    from.extend(t.iter().cloned());
                    let mut to = vec![outer[0].clone(), outer[1].clone() * o_group + outer[2].clone()];
                    to.extend((0..rank).map(|i| p[i].clone() * self.strides[i] + t[i].clone() * self.dilations[i]));
                    let to = flatten(&to, &sum_dims);
                    let product = Expr::load(products, flatten(&from, &product_dims));
                    k.store(sums, to.clone(), Expr::load(sums, to) + product);
                });
            });
        });
        let vars: Vec<_> = (0..y_dims.len()).map(|i| cx.k.fresh(&format!("y{i}"), Type::INDEX)).collect();
        let index: Vec<Expr> = vars.iter().map(|v| Expr::Var(*v)).collect();
        let channel = index[l.channel_axis(y_dims.len())].clone();
        let mut from = vec![index[0].clone(), channel.clone()];
        from.extend(l.spatial(&index).into_iter().zip(&self.pads).map(|(q, &p)| q + p));
        let mut value = Expr::load(sums, flatten(&from, &sum_dims));
        if cx.in_count() > 2 {
            value = value + cx.load_wide(2, &[channel]);
        }
        let (buf, at, value) = cx.write(0, flatten(&index, &y_dims), value);
        cx.k.parfor_nest(&y_dims, |k, i| {
            let here = |e: Expr| vars.iter().zip(i).fold(e, |e, (v, by)| e.substitute(*v, by));
            k.store(buf, here(at), here(value));
        });
    }

    fn window(&self) -> Window {
        window_of!(self)
    }
}

impl Operator for ConvTranspose {
    fn names() -> Vec<&'static str> {
        vec!["conv_transpose"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "ConvTranspose", versions: &[1, 11, 22] }]
    }

    fn name(&self) -> &'static str {
        "conv_transpose"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        ConvTranspose::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let (x, w) = (node.input(0)?, node.input(1)?);
        let (xs, ws) = (cx.shape(x).clone(), cx.shape(w).clone());
        let kernel = import_kernel(node, &xs, &ws, "[C,O/G,kernel…]")?;
        let window = Window::import(node, kernel, &xs.0[2..])?;
        let mut op = ConvTranspose {
            output_padding: extents(node, "output_padding", window.rank())?.unwrap_or(vec![0; window.rank()]),
            kernel: window.kernel,
            strides: window.strides,
            dilations: window.dilations,
            pads: window.pads,
            group: import_group(node)?,
            layout: Layout::ChannelsFirst,
        };
        op.import_pads(node, &xs.0[2..])?;
        let mut operands = vec![x, w];
        operands.extend(node.opt_input(2));
        Ok(vec![cx.op(op, &operands)?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 2..=3)?;
        expect_dtype(ins, 0, |d| d.is_float() && !d.is_stored(), "f32, f64 or f16")?;
        (1..ins.len()).try_for_each(|i| expect_same_dtype(ins, 0, i))?;
        let window = self.window();
        window.check()?;
        let (x, w) = (&ins[0].shape, &ins[1].shape);
        let rank = self.kernel.len() + 2;
        if x.rank() != rank || w.rank() != rank || self.output_padding.len() + 2 != rank || self.output_padding.iter().any(|p| *p >= 1 << 30) || self.group == 0 {
            return Err(InferError::new(format!("expected operands of rank {rank}, found {x} and {w}")));
        }
        window.check_weights(w)?;
        let (c, o) = (&x.0[self.layout.channel_axis(rank)], w.0[1].mul(&Dim::from(self.group)));
        if let (Some(a), Some(b)) = (c.as_const(), w.0[0].as_const())
            && a != b
        {
            return Err(InferError::new(format!("expected {b} channels, as the weights {w} have, found {a} in {x}")));
        }
        if w.0[0].as_usize().is_some_and(|c| c % self.group != 0) {
            return Err(InferError::new(format!("{} channels do not divide into {} groups", w.0[0], self.group)));
        }
        if let Some(b) = ins.get(2)
            && b.shape != Shape(vec![o.clone()])
        {
            return Err(InferError::new(format!("expected a bias of [{o}], found {}", b.shape)));
        }
        let mut spatial = vec![];
        for (i, d) in self.layout.spatial(&x.0).iter().enumerate() {
            let uncut = d.sub(&Dim::Const(1)).mul(&Dim::from(self.strides[i]));
            let uncut = uncut.add(&Dim::from(window.span(i) + self.output_padding[i]));
            let y = uncut.sub(&Dim::from(self.pads[i] + self.pads[i + rank - 2]));
            if y.as_const().is_some_and(|y| y < 0) || d.as_const() == Some(0) {
                return Err(InferError::new(format!(
                    "spatial axis {i}: of {uncut} elements made from {d}, {} and {} are cut off",
                    self.pads[i],
                    self.pads[i + rank - 2]
                )));
            }
            spatial.push(y);
        }
        Ok(vec![Fact::new(ins[0].dtype, Shape(self.layout.assemble(x.0[0].clone(), o, &spatial)))])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let facts: Vec<Fact> = ins.iter().map(Tensor::fact).collect();
        let y = self.infer(&facts).map_err(|e| e.message)?[0].dims().ok_or("the shape is not known")?;
        let (x, w) = (ins[0].to_f64(), ins[1].to_f64());
        let (l, rank) = (self.layout, y.len());
        let (x_dims, w_dims) = (ins[0].shape(), ins[1].shape());
        let ys = l.spatial(&y);
        let (sx, sy) = (strides(x_dims), strides(&y));
        let (cx, cy) = (sx[l.channel_axis(rank)], sy[l.channel_axis(rank)]);
        let (c_group, o_group) = (w_dims[0] / self.group, w_dims[1]);
        let taps: usize = self.kernel.iter().product();
        let (window, spatial_strides) = (self.window(), l.spatial(&sy));
        let mut out = vec![0.0; y.iter().product()];
        if let Some(b) = ins.get(2).map(Tensor::to_f64) {
            let channels = y[l.channel_axis(rank)];
            out.iter_mut().enumerate().for_each(|(i, v)| *v = b[i / cy % channels]);
        }
        for n in 0..y[0] {
            for_each_index(&l.spatial(x_dims), |p| {
                let mut tap = 0;
                for_each_index(&self.kernel, |k| {
                    if let Some(at) = window.element(p, k, &ys, &spatial_strides) {
                        let at = n * sy[0] + at;
                        let from = n * sx[0] + (0..k.len()).map(|i| p[i] * sx[l.spatial_axis(i)]).sum::<usize>();
                        for c in 0..w_dims[0] {
                            for o in 0..o_group {
                                let to = at + (c / c_group * o_group + o) * cy;
                                out[to] += x[from + c * cx] * w[(c * o_group + o) * taps + tap];
                            }
                        }
                    }
                    tap += 1;
                });
            });
        }
        Ok(vec![Tensor::from_f64(ins[0].dtype(), &y, &out)])
    }

    fn channels_last(&self) -> Option<Op> {
        let first = self.layout == Layout::ChannelsFirst;
        first.then(|| Op::ConvTranspose(ConvTranspose { layout: Layout::ChannelsLast, ..self.clone() }))
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        if cx.out_dims(0).contains(&0) {
            return Ok(());
        }
        let phases = self.strides.iter().try_fold(1usize, |n, s| n.checked_mul(*s));
        match phases {
            Some(n) if n <= MAX_PHASES || cx.in_dims(1)[0] == 0 => self.lower_phases(cx),
            _ => self.lower_scatter(cx),
        }
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::SUM
    }

    fn samples() -> Vec<Sample> {
        let conv = |kernel: &[usize], strides: &[usize], dilations: &[usize], pads: &[usize], extra: &[usize], group, layout| {
            ConvTranspose {
                kernel: kernel.to_vec(),
                strides: strides.to_vec(),
                dilations: dilations.to_vec(),
                pads: pads.to_vec(),
                output_padding: extra.to_vec(),
                group,
                layout,
            }
        };
        use Layout::{ChannelsFirst as First, ChannelsLast as Last};
        let f = DType::F32;
        vec![
            Sample::new(
                conv(&[3, 3], &[1, 1], &[1, 1], &[0; 4], &[0, 0], 1, First),
                &[(f, &[1, 2, 3, 4]), (f, &[2, 5, 3, 3]), (f, &[5])],
            ),
            Sample::new(
                conv(&[2, 2], &[2, 2], &[1, 1], &[0; 4], &[0, 0], 1, Last),
                &[(f, &[2, 5, 3, 16]), (f, &[16, 24, 2, 2]), (f, &[24])],
            ),
            Sample::new(
                conv(&[3, 3], &[2, 2], &[1, 1], &[1; 4], &[1, 1], 1, Last),
                &[(f, &[1, 5, 4, 8]), (f, &[8, 17, 3, 3])],
            ),
            Sample::new(
                conv(&[4, 3], &[3, 2], &[1, 2], &[1, 0, 2, 3], &[2, 0], 2, First),
                &[(f, &[1, 4, 5, 4]), (f, &[4, 3, 4, 3]), (f, &[6])],
            ),
            // Fewer elements in the window than steps: some outputs are the bias alone.
            Sample::new(
                conv(&[2], &[4], &[1], &[0, 0], &[3], 1, First),
                &[(f, &[2, 3, 5]), (f, &[3, 2, 2]), (f, &[2])],
            ),
            Sample::new(
                conv(&[3, 2], &[2, 3], &[2, 3], &[2, 1, 0, 0], &[0, 1], 1, Last),
                &[(f, &[1, 3, 4, 2]), (f, &[2, 3, 3, 2])],
            ),
            // Long steps: the products are made at once.
            Sample::new(
                conv(&[40], &[20], &[1], &[10, 10], &[0], 1, First),
                &[(f, &[1, 6, 7]), (f, &[6, 1, 40]), (f, &[1])],
            ),
            Sample::new(
                conv(&[5, 3], &[5, 4], &[2, 1], &[1, 0, 3, 2], &[4, 3], 3, Last),
                &[(f, &[2, 2, 3, 6]), (f, &[6, 2, 5, 3]), (f, &[6])],
            ),
            Sample::new(
                conv(&[2, 2, 2], &[1, 2, 1], &[1; 3], &[0, 1, 0, 1, 0, 0], &[0; 3], 1, First),
                &[(f, &[1, 2, 2, 3, 2]), (f, &[2, 3, 2, 2, 2])],
            ),
            Sample::new(conv(&[3], &[2], &[1], &[1, 1], &[0], 1, First), &[(DType::F64, &[1, 2, 4]), (DType::F64, &[2, 3, 3])]),
            Sample::new(conv(&[3], &[2], &[1], &[0, 1], &[1], 1, First), &[(DType::F16, &[1, 2, 4]), (DType::F16, &[2, 3, 3])]),
        ]
    }
}

/// A list of small non-negative integers, one a spatial axis, if the node has it.
fn extents(node: &OnnxNode<'_>, name: &str, rank: usize) -> Result<Option<Vec<usize>>, ImportError> {
    let Some(v) = node.opt_ints(name)?.filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    let all = v.iter().map(|&i| usize::try_from(i).ok().filter(|i| *i < MAX_EXTENT)).collect::<Option<Vec<_>>>();
    all.filter(|u| u.len() == rank)
        .map(Some)
        .ok_or_else(|| ImportError::new(format!("{name}: expected {rank} small non-negative integers, found {v:?}")))
}

impl ConvTranspose {
    /// Sets `pads` where the node gives the result's extents (`output_shape`, `auto_pad`) instead; what the result lacks then
    /// is added after it.
    fn import_pads(&mut self, node: &OnnxNode<'_>, spatial: &[Dim]) -> Result<(), ImportError> {
        let rank = self.kernel.len();
        let auto_pad = node.str("auto_pad", "NOTSET")?;
        let given = extents(node, "output_shape", rank)?;
        if given.is_none() && !auto_pad.starts_with("SAME") {
            return Ok(());
        }
        for i in 0..rank {
            let x = spatial[i].as_usize().filter(|x| *x > 0).ok_or_else(|| {
                ImportError::new(format!("output_shape and auto_pad need a known extent, found {}", spatial[i]))
                    .with_pins(&spatial[i])
            })?;
            let y = given.as_ref().map_or(x.saturating_mul(self.strides[i]), |v| v[i]);
            let made = (x - 1).saturating_mul(self.strides[i]) + self.window().span(i) + self.output_padding[i];
            let cut = made.saturating_sub(y);
            let (small, large) = (cut / 2, cut - cut / 2);
            (self.pads[i], self.pads[i + rank]) = if auto_pad == "SAME_UPPER" { (small, large) } else { (large, small) };
            self.output_padding[i] += y.saturating_sub(made);
        }
        Ok(())
    }
}

//! Convolution over any number of spatial axes, with groups, strides, dilations and padding.
//!
//! ONNX: [Conv](https://onnx.ai/onnx/operators/onnx__Conv.html) (1, 11, 22).
//! `y[n, o, p] = bias[o] + Σ_{c, k} x[n, g·C/G + c, p·stride + k·dilation - pad] · w[o, c, k]`, `g` the group of `o`.

use super::same;
use super::util::{for_each_index, strides};
use crate::lower::{Padding, fill_border, flatten, wide};
use crate::op::{expect_dtype, expect_operands, expect_same_dtype};
use crate::ops::*;
use rayon::prelude::*;
use tenon_base::{Scalar, Shape};
use tenon_kernel::{Access, Affine, Contract, Stmt, Type, Var};

crate::attr_enum! {
    /// Where the channel axis of activations is.
    pub enum Layout {
        /// `[N, C, spatial…]`, as in ONNX.
        ChannelsFirst = "nchw",
        /// `[N, spatial…, C]`: what the layout pass makes, since channels are then contiguous.
        ChannelsLast = "nhwc",
    }
}

impl Layout {
    /// The position of the channel axis among `rank`.
    pub fn channel_axis(self, rank: usize) -> usize {
        match self {
            Layout::ChannelsFirst => 1,
            Layout::ChannelsLast => rank - 1,
        }
    }

    /// The position of spatial axis `i`.
    pub fn spatial_axis(self, i: usize) -> usize {
        match self {
            Layout::ChannelsFirst => i + 2,
            Layout::ChannelsLast => i + 1,
        }
    }

    /// A shape or index from its batch, channel and spatial parts.
    pub fn assemble<T: Clone>(self, n: T, c: T, spatial: &[T]) -> Vec<T> {
        let mut all = vec![n];
        match self {
            Layout::ChannelsFirst => {
                all.push(c);
                all.extend_from_slice(spatial);
            }
            Layout::ChannelsLast => {
                all.extend_from_slice(spatial);
                all.push(c);
            }
        }
        all
    }

    /// The spatial part of a shape.
    pub fn spatial<T: Clone>(self, shape: &[T]) -> Vec<T> {
        match self {
            Layout::ChannelsFirst => shape[2..].to_vec(),
            Layout::ChannelsLast => shape[1..shape.len() - 1].to_vec(),
        }
    }
}

/// How a window slides over the spatial axes: shared by convolution and pooling.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Extent of the window, per spatial axis.
    pub kernel: Vec<usize>,
    /// Step.
    pub strides: Vec<usize>,
    /// Distance of the window's elements.
    pub dilations: Vec<usize>,
    /// Padding before, then after, every spatial axis.
    pub pads: Vec<usize>,
}

/// The window that the attributes of an operator describe.
macro_rules! window_of {
    ($op:expr) => {
        Window {
            kernel: $op.kernel.clone(),
            strides: $op.strides.clone(),
            dilations: $op.dilations.clone(),
            pads: $op.pads.clone(),
        }
    };
}
pub(super) use window_of;

impl Window {
    /// Reads `strides`, `dilations`, `pads` and `auto_pad` of a node whose operand has the spatial extents `spatial`.
    pub fn import(node: &OnnxNode<'_>, kernel: Vec<usize>, spatial: &[Dim]) -> Result<Window, ImportError> {
        let (w, late) = Window::read(node, kernel, spatial)?;
        match late.first() {
            None => Ok(w),
            Some(&i) => Err(ImportError::new(format!("auto_pad needs a known extent, found {}", spatial[i]))
                .with_pins(&spatial[i])),
        }
    }

    /// The window, and the spatial axes whose padding depends on the size of a run: without padding there, see [`super::same`].
    pub(super) fn read(
        node: &OnnxNode<'_>,
        kernel: Vec<usize>,
        spatial: &[Dim],
    ) -> Result<(Window, Vec<usize>), ImportError> {
        let rank = kernel.len();
        let ints = |name: &str, count: usize, default: usize| -> Result<Vec<usize>, ImportError> {
            let v = match node.opt_ints(name)? {
                None => return Ok(vec![default; count]),
                Some(v) => v,
            };
            let ok = v.iter().map(|&i| usize::try_from(i).ok().filter(|i| *i < 1 << 20)).collect::<Option<Vec<_>>>();
            match ok {
                Some(u) if u.len() == count => Ok(u),
                _ => Err(ImportError::new(format!("{name}: expected {count} small non-negative integers, found {v:?}"))),
            }
        };
        let strides = ints("strides", rank, 1)?;
        let dilations = ints("dilations", rank, 1)?;
        if strides.contains(&0) || dilations.contains(&0) || kernel.contains(&0) {
            return Err(ImportError::new("strides, dilations and the kernel's extents must be at least 1"));
        }
        let mut w = Window { kernel, strides, dilations, pads: vec![0; 2 * rank] };
        let mut late = vec![];
        match node.str("auto_pad", "NOTSET")? {
            "NOTSET" | "" => w.pads = ints("pads", 2 * rank, 0)?,
            "VALID" => {}
            same @ ("SAME_UPPER" | "SAME_LOWER") => {
                for (i, d) in spatial.iter().enumerate().take(rank) {
                    let total = match d.as_usize() {
                        Some(x) => {
                            let out = x.div_ceil(w.strides[i]);
                            (out.saturating_sub(1) * w.strides[i] + w.span(i)).saturating_sub(x)
                        }
                        // As many windows as elements.
                        None if w.strides[i] == 1 => w.span(i) - 1,
                        None => {
                            late.push(i);
                            continue;
                        }
                    };
                    let (small, large) = (total / 2, total - total / 2);
                    (w.pads[i], w.pads[i + rank]) =
                        if same == "SAME_UPPER" { (small, large) } else { (large, small) };
                }
            }
            other => {
                return Err(ImportError::new(format!(
                    "auto_pad: expected NOTSET, VALID, SAME_UPPER or SAME_LOWER, found {other:?}"
                )));
            }
        }
        Ok((w, late))
    }

    /// Where element `k` of the window at position `p` lies in `extents`, by their `strides`; `None` in the padding.
    pub(super) fn element(&self, p: &[usize], k: &[usize], extents: &[usize], strides: &[usize]) -> Option<usize> {
        (0..k.len()).try_fold(0, |at, i| {
            let padded = p[i] * self.strides[i] + k[i] * self.dilations[i];
            let x = padded.checked_sub(self.pads[i]).filter(|x| *x < extents[i])?;
            Some(at + x * strides[i])
        })
    }

    /// The number of spatial axes.
    pub fn rank(&self) -> usize {
        self.kernel.len()
    }

    /// Input elements a window spans along axis `i`.
    pub fn span(&self, i: usize) -> usize {
        (self.kernel[i] - 1) * self.dilations[i] + 1
    }

    /// The output extent along axis `i` for an input extent `x`.
    pub fn out_extent(&self, i: usize, x: &Dim) -> Result<Dim, InferError> {
        let padded = x.add(&Dim::from(self.pads[i] + self.pads[i + self.rank()]));
        if let Some(p) = padded.as_const()
            && p < self.span(i) as i64
        {
            return Err(InferError::new(format!(
                "spatial axis {i}: the window spans {} elements, but the padded operand has {p}",
                self.span(i)
            )));
        }
        Ok(padded.sub(&Dim::from(self.span(i))).div(&Dim::from(self.strides[i])).add(&Dim::Const(1)))
    }

    /// Whether weights of the shape `w` have the window's extents behind their two axes of channels.
    pub fn check_weights(&self, w: &Shape) -> Result<(), InferError> {
        if w.0[2..].iter().zip(&self.kernel).any(|(d, &k)| d.as_usize().is_some_and(|d| d != k)) {
            return Err(InferError::new(format!("expected weights with a {:?} kernel, found {w}", self.kernel)));
        }
        Ok(())
    }

    /// Whether the lists have one entry an axis.
    pub fn check(&self) -> Result<(), InferError> {
        let r = self.rank();
        let ok = self.strides.len() == r && self.dilations.len() == r && self.pads.len() == 2 * r;
        let positive = [&self.kernel, &self.strides, &self.dilations].iter().all(|v| !v.contains(&0));
        // Products of two fit, and sums of a few of them.
        let lists = [&self.kernel, &self.strides, &self.dilations, &self.pads];
        let small = lists.iter().all(|v| v.iter().all(|n| *n < 1 << 30));
        if ok && positive && small {
            return Ok(());
        }
        Err(InferError::new("kernel, strides, dilations and pads do not fit each other"))
    }
}

crate::attributes! {
    /// Convolution; operands are the activations, the weights `[O, C/G, kernel…]` and an optional bias `[O]`. Integers of 8 or 16 bits
    /// are summed in `i32`, which the bias and the result then have.
    pub struct Conv {
        /// Extent of the window.
        pub kernel: Vec<usize>,
        /// Step.
        pub strides: Vec<usize>,
        /// Distance of the window's elements.
        pub dilations: Vec<usize>,
        /// Padding with `fill` before, then after, every spatial axis.
        pub pads: Vec<usize>,
        /// Groups of channels that do not mix.
        pub group: usize,
        /// Layout of the activations, in and out.
        pub layout: Layout,
        /// Quantised activations: what the padding holds, their zero point; 0 if absent.
        pub fill: Option<i64>,
    }
}

impl Conv {
    fn window(&self) -> Window {
        window_of!(self)
    }

    fn padded(&self) -> bool {
        self.pads.iter().any(|&p| p != 0)
    }
}

impl Operator for Conv {
    fn names() -> Vec<&'static str> {
        vec!["conv"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "Conv", versions: &[1, 11, 22] }]
    }

    fn name(&self) -> &'static str {
        "conv"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Conv::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        Ok(vec![convolution(node, cx, node.input(0)?, node.input(1)?, node.opt_input(2))?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 2..=3)?;
        let result = product_dtype(ins, |d| (d.is_float() && !d.is_stored()) || d == DType::I32, "a float dtype, i32 or an integer of 8 or 16 bits")?;
        if ins.len() > 2 {
            expect_dtype(ins, 2, |d| d == result, &format!("a bias of {result}"))?;
        }
        if let Some(v) = self.fill
            && ins[0].dtype.int_range().is_none_or(|(lo, hi)| !(lo..=hi).contains(&i128::from(v)))
        {
            return Err(InferError::new(format!("padding with {v} does not fit operands of {}", ins[0].dtype)));
        }
        let window = self.window();
        window.check()?;
        if self.group == 0 {
            return Err(InferError::new("expected at least one group"));
        }
        let (x, w) = (&ins[0].shape, &ins[1].shape);
        let rank = self.kernel.len() + 2;
        if x.rank() != rank || w.rank() != rank {
            return Err(InferError::new(format!("expected operands of rank {rank}, found {x} and {w}")));
        }
        window.check_weights(w)?;
        let (c, o) = (&x.0[self.layout.channel_axis(rank)], &w.0[0]);
        let per_group = w.0[1].mul(&Dim::from(self.group));
        if let (Some(a), Some(b)) = (c.as_const(), per_group.as_const())
            && a != b
        {
            return Err(InferError::new(format!(
                "expected {b} channels ({} groups of {}), found {a} in {x}",
                self.group, w.0[1]
            )));
        }
        if o.as_usize().is_some_and(|o| o % self.group != 0) {
            return Err(InferError::new(format!("{o} output channels do not divide into {} groups", self.group)));
        }
        if let Some(b) = ins.get(2)
            && b.shape != Shape(vec![o.clone()])
        {
            return Err(InferError::new(format!("expected a bias of [{o}], found {}", b.shape)));
        }
        let spatial = self.layout.spatial(&x.0);
        let spatial: Vec<Dim> =
            spatial.iter().enumerate().map(|(i, d)| window.out_extent(i, d)).collect::<Result<_, _>>()?;
        Ok(vec![Fact::new(result, Shape(self.layout.assemble(x.0[0].clone(), o.clone(), &spatial)))])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let facts: Vec<Fact> = ins.iter().map(Tensor::fact).collect();
        let out_fact = self.infer(&facts).map_err(|e| e.message)?.remove(0);
        let y = out_fact.dims().ok_or("the shape is not known")?;
        let fill = self.fill.unwrap_or(0) as f64;
        let (x, w) = (ins[0].to_f64(), ins[1].to_f64());
        let bias = ins.get(2).map(Tensor::to_f64);
        let l = self.layout;
        let xd = ins[0].shape();
        let (xs, ys) = (l.spatial(xd), l.spatial(&y));
        let rank = y.len();
        let (c_all, o_all) = (xd[l.channel_axis(rank)], y[l.channel_axis(rank)]);
        let (c_group, o_group) = (c_all / self.group, o_all / self.group);
        let (stride_x, stride_y) = (strides(xd), strides(&y));
        let (window, spatial_strides) = (self.window(), l.spatial(&stride_x));
        let taps: usize = self.kernel.iter().product();
        let mut positions = vec![];
        for n in 0..y[0] {
            for_each_index(&ys, |p| positions.push((n, p.to_vec())));
        }
        // What the window sees at a position, as the weights have it: channels, then taps.
        let patch = |n: usize, p: &[usize]| {
            let mut patch = vec![fill; c_all * taps];
            let mut tap = 0;
            for_each_index(&self.kernel, |k| {
                if let Some(at) = window.element(p, k, &xs, &spatial_strides) {
                    let at = n * stride_x[0] + at;
                    (0..c_all).for_each(|c| patch[c * taps + tap] = x[at + c * stride_x[l.channel_axis(rank)]]);
                }
                tap += 1;
            });
            patch
        };
        let (row, results) = (c_group * taps, o_group.max(1));
        let at_position = |(n, p): &(usize, Vec<usize>)| -> Vec<f64> {
            let patch = patch(*n, p);
            let sum = |o: usize| {
                let seen = &patch[o / results * row..][..row];
                bias.as_ref().map_or(0.0, |b| b[o]) + dot(seen, &w[o * row..][..row])
            };
            (0..o_all).map(sum).collect()
        };
        let sums: Vec<Vec<f64>> = positions.par_iter().map(at_position).collect();
        let mut out = vec![0.0; y.iter().product()];
        for ((n, p), sums) in positions.iter().zip(sums) {
            let at: usize = n * stride_y[0]
                + p.iter().enumerate().map(|(i, &p)| p * stride_y[l.spatial_axis(i)]).sum::<usize>();
            for (o, sum) in sums.into_iter().enumerate() {
                out[at + o * stride_y[l.channel_axis(rank)]] = sum;
            }
        }
        if out_fact.dtype == DType::I32 {
            // Sums of products of integers are exact in `f64`, and wrap.
            return Ok(vec![Tensor::of_wide(DType::I32, &y, &out)]);
        }
        Ok(vec![Tensor::from_f64(out_fact.dtype, &y, &out)])
    }

    fn channels_last(&self) -> Option<Op> {
        let first = self.layout == Layout::ChannelsFirst;
        first.then(|| Op::Conv(Conv { layout: Layout::ChannelsLast, ..self.clone() }))
    }

    fn halo(&self, ins: &[Fact]) -> Option<Padding> {
        if self.infer(ins).is_ok_and(|out| self.by_taps(ins, &out[0])) {
            return None;
        }
        let mut widths = vec![[0; 2]; ins[0].shape.rank()];
        for i in 0..self.kernel.len() {
            widths[self.layout.spatial_axis(i)] = [self.pads[i], self.pads[i + self.kernel.len()]];
        }
        self.padded().then(|| Padding { widths, fill: self.fill.unwrap_or(0) })
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let (wd, yd) = (cx.in_dims(1), cx.out_dims(0));
        if yd.contains(&0) {
            return Ok(());
        }
        if self.by_taps(&cx.in_facts(), &cx.out_fact(0)) {
            self.lower_by_taps(cx);
            return Ok(());
        }
        let l = self.layout;
        let rank = yd.len();
        let wanted = self.halo(&cx.in_facts());
        // The buffer with a border, its extents and layout, and where in it the first window begins.
        let (source, xd, from, first) = match (wanted, cx.halo(0)) {
            (None, _) => (None, cx.in_dims(0), l, vec![0; self.kernel.len()]),
            (Some(wanted), Some(halo)) if halo.covers(&wanted) => {
                let first = (0..self.kernel.len()).map(|i| halo.before[l.spatial_axis(i)] - self.pads[i]).collect();
                (Some(halo.buf), halo.dims.clone(), l, first)
            }
            (Some(_), _) => {
                let (buf, dims, from) = self.pad(cx);
                (Some(buf), dims, from, vec![0; self.kernel.len()])
            }
        };
        let (c_group, o_group) = (wd[1], wd[0] / self.group);
        let k = &mut cx.k;
        let (dn, n) = k.contract_dim("n", yd[0]);
        let mut dims = vec![dn];
        let mut spatial = vec![];
        for (i, &e) in l.spatial(&yd).iter().enumerate() {
            let (d, v) = k.contract_dim(&format!("p{i}"), e);
            dims.push(d);
            spatial.push(v);
        }
        let (dg, g) = k.contract_dim("g", self.group);
        let (d_o, o) = k.contract_dim("o", o_group);
        dims.extend([dg, d_o]);
        let mut reduce = vec![];
        let mut taps = vec![];
        for (i, &e) in self.kernel.iter().enumerate() {
            let (d, v) = k.contract_dim(&format!("k{i}"), e);
            reduce.push(d);
            taps.push(v);
        }
        let (dc, c) = k.contract_dim("c", c_group.max(1));
        reduce.push(dc);
        let at: Vec<Expr> = (0..taps.len())
            .map(|i| spatial[i].clone() * self.strides[i] + taps[i].clone() * self.dilations[i] + first[i])
            .collect();
        let channel = g.clone() * c_group + c.clone();
        let out_channel = g * o_group + o;
        let x_index = from.assemble(n.clone(), channel, &at);
        let mut w_index = vec![out_channel.clone(), c];
        w_index.extend(taps);
        let y_index = l.assemble(n, out_channel.clone(), &spatial);
        let dtype = wide(cx.out_dtype(0));
        let a = match source {
            Some(buf) => as_dtype(Expr::load(buf, flatten(&x_index, &xd)), cx.in_dtype(0), dtype),
            None => as_dtype(cx.load(0, &x_index), cx.in_dtype(0), dtype),
        };
        let b = as_dtype(cx.load(1, &w_index), cx.in_dtype(1), dtype);
        let init = if cx.in_count() > 2 { cx.load_wide(2, &[out_channel]) } else { Expr::constant(dtype, 0.0) };
        let acc = cx.k.fresh("acc", Type::scalar(dtype));
        debug_assert_eq!(rank, y_index.len());
        let (out, out_index, value) = cx.write(0, flatten(&y_index, &yd), Expr::Var(acc));
        debug_assert_ne!(cx.k.kernel().buffer(out).access, Access::In);
        cx.k.contract(Contract { dims, reduce, acc, init, a, b, out, out_index, value });
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::SUM
    }

    fn samples() -> Vec<Sample> {
        let filled = |fill: i64, c: Conv| Conv { fill: Some(fill), ..c };
        let (u, s, i) = (DType::U8, DType::I8, DType::I32);
        let bytes = [(0.0, 256.0), (-128.0, 128.0), (-1000.0, 1000.0)];
        let conv = |kernel: &[usize], strides: &[usize], dilations: &[usize], pads: &[usize], group, layout| Conv {
            kernel: kernel.to_vec(),
            strides: strides.to_vec(),
            dilations: dilations.to_vec(),
            pads: pads.to_vec(),
            group,
            layout,
            fill: None,
        };
        use Layout::{ChannelsFirst as First, ChannelsLast as Last};
        let f = DType::F32;
        vec![
            Sample::new(
                conv(&[3, 3], &[1, 1], &[1, 1], &[1, 1, 1, 1], 1, First),
                &[(f, &[1, 3, 9, 7]), (f, &[5, 3, 3, 3]), (f, &[5])],
            ),
            Sample::new(
                conv(&[3, 3], &[2, 2], &[1, 1], &[0, 1, 1, 2], 1, Last),
                &[(f, &[2, 9, 8, 4]), (f, &[17, 4, 3, 3]), (f, &[17])],
            ),
            Sample::new(
                conv(&[1, 1], &[1, 1], &[1, 1], &[0; 4], 1, Last),
                &[(f, &[1, 5, 5, 24]), (f, &[40, 24, 1, 1])],
            ),
            Sample::new(
                conv(&[3, 3], &[1, 1], &[1, 1], &[1; 4], 20, Last),
                &[(f, &[1, 6, 6, 20]), (f, &[20, 1, 3, 3]), (f, &[20])],
            ),
            Sample::new(
                conv(&[2, 3], &[1, 2], &[2, 1], &[1, 0, 0, 1], 2, First),
                &[(f, &[1, 6, 8, 7]), (f, &[4, 3, 2, 3])],
            ),
            // Taps most of which are outside.
            Sample::new(
                conv(&[3, 3], &[1, 1], &[4, 5], &[4, 5, 4, 5], 1, Last),
                &[(f, &[2, 6, 7, 17]), (f, &[20, 17, 3, 3]), (f, &[20])],
            ),
            Sample::new(
                conv(&[3, 2], &[2, 1], &[6, 4], &[5, 3, 6, 2], 2, First),
                &[(f, &[1, 32, 9, 5]), (f, &[6, 16, 3, 2])],
            ),
            // Few channels of results: long rows lie along the sum.
            Sample::new(
                conv(&[3, 3], &[1, 1], &[1, 1], &[1; 4], 1, Last),
                &[(f, &[1, 5, 11, 12]), (f, &[1, 12, 3, 3]), (f, &[1])],
            ),
            Sample::new(
                conv(&[3, 2], &[2, 1], &[1, 1], &[0; 4], 1, Last),
                &[(f, &[1, 7, 9, 17]), (f, &[2, 17, 3, 2]), (f, &[2])],
            ),
            Sample::new(conv(&[21], &[2], &[1], &[0; 2], 1, First), &[(f, &[1, 1, 60]), (f, &[1, 1, 21])]),
            Sample::new(conv(&[4], &[3], &[2], &[2, 2], 1, First), &[(f, &[2, 3, 30]), (f, &[6, 3, 4])]),
            Sample::new(
                conv(&[2, 2, 2], &[1, 1, 1], &[1, 1, 1], &[0, 1, 0, 0, 1, 0], 1, First),
                &[(f, &[1, 2, 3, 4, 5]), (f, &[3, 2, 2, 2, 2])],
            ),
            Sample::new(
                conv(&[3], &[1], &[1], &[1, 1], 1, First),
                &[(DType::F64, &[1, 2, 8]), (DType::F64, &[3, 2, 3]), (DType::F64, &[3])],
            ),
            Sample::new(conv(&[3], &[1], &[1], &[1, 1], 1, First), &[(DType::F16, &[1, 2, 8]), (DType::F16, &[3, 2, 3])]),
            Sample::new(
                conv(&[3, 3], &[1, 1], &[1, 1], &[1; 4], 1, Last),
                &[(DType::I32, &[1, 5, 4, 3]), (DType::I32, &[6, 3, 3, 3])],
            )
            .with_range(&[(-255.0, 255.0), (-128.0, 128.0)]),
            Sample::new(
                filled(117, conv(&[3, 3], &[2, 2], &[1, 1], &[1; 4], 1, First)),
                &[(u, &[1, 3, 9, 8]), (s, &[5, 3, 3, 3]), (i, &[5])],
            )
            .with_range(&bytes),
            Sample::new(
                filled(-9, conv(&[3, 3], &[1, 1], &[1, 1], &[1; 4], 1, Last)),
                &[(s, &[1, 5, 6, 8]), (s, &[18, 8, 3, 3]), (i, &[18])],
            )
            .with_range(&[(-128.0, 128.0), (-128.0, 128.0), (-1000.0, 1000.0)]),
            Sample::new(conv(&[1, 1], &[1, 1], &[1, 1], &[0; 4], 1, Last), &[(u, &[1, 5, 5, 18]), (s, &[40, 18, 1, 1])])
                .with_range(&bytes),
            Sample::new(
                filled(3, conv(&[3, 3], &[1, 1], &[1, 1], &[1; 4], 20, Last)),
                &[(u, &[1, 6, 6, 20]), (s, &[20, 1, 3, 3]), (i, &[20])],
            )
            .with_range(&bytes),
            Sample::new(
                filled(200, conv(&[3], &[1], &[2], &[2, 2], 1, First)),
                &[(u, &[1, 4, 12]), (u, &[7, 4, 3]), (i, &[7])],
            )
            .with_range(&[(0.0, 256.0), (0.0, 256.0)]),
            Sample::new(conv(&[2, 2], &[1, 1], &[1, 1], &[0; 4], 2, Last), &[(DType::I16, &[1, 4, 5, 6]), (DType::I16, &[8, 3, 2, 2])])
                .with_range(&[(-255.0, 256.0), (-255.0, 256.0)]),
        ]
    }
}

/// The dtype in which products of operands 0 and 1 are summed: their own, or `i32` for integers of 8 or 16 bits. `own` says
/// which dtypes are summed in themselves.
pub(super) fn product_dtype(ins: &[Fact], own: impl Fn(DType) -> bool, expected: &str) -> Result<DType, InferError> {
    let byte = |d| matches!(d, DType::U8 | DType::I8);
    let (a, b) = (ins[0].dtype, ins[1].dtype);
    if byte(a) && byte(b) || (a, b) == (DType::I16, DType::I16) {
        return Ok(DType::I32);
    }
    expect_dtype(ins, 0, own, expected)?;
    expect_same_dtype(ins, 0, 1)?;
    Ok(a)
}

/// `e` of dtype `from` as `to`.
pub(super) fn as_dtype(e: Expr, from: DType, to: DType) -> Expr {
    if from == to { e } else { e.cast(to) }
}

/// Copies operand 0 into a buffer with zeros around its spatial axes (`pads`: before, then after, every one), and gives
/// the buffer and its extents.
pub(super) fn pad_input(cx: &mut LowerCx<'_>, layout: Layout, pads: &[usize]) -> (tenon_kernel::Buf, Vec<usize>) {
    pad_input_with(cx, layout, pads, 0)
}

/// The same with `fill` around it.
pub(super) fn pad_input_with(
    cx: &mut LowerCx<'_>,
    layout: Layout,
    pads: &[usize],
    fill: i64,
) -> (tenon_kernel::Buf, Vec<usize>) {
    let vars = cx.nest("p", &cx.in_dims(0));
    let index: Vec<Expr> = vars.iter().map(|v| Expr::Var(*v)).collect();
    let value = cx.load(0, &index);
    let fill = Expr::constant(cx.in_dtype(0), fill as f64);
    pad_value(cx, [layout, layout], pads, fill, &vars, value)
}

/// Channels up to which their planes are padded one by one where they lie so: fewer than a vector has lanes.
const FEW: usize = 7;

impl Conv {
    /// The activations with their padding in a buffer of its own: that, its extents, and its layout.
    ///
    /// An image comes as planes of few channels. To weave them costs several times what it costs to copy their rows; and a convolution
    /// that mixes all channels reads one scalar at a time, wherever it is.
    fn pad(&self, cx: &mut LowerCx<'_>) -> (tenon_kernel::Buf, Vec<usize>, Layout) {
        let dims = cx.in_dims(0);
        let vars = cx.nest("p", &dims);
        let index: Vec<Expr> = vars.iter().map(|v| Expr::Var(*v)).collect();
        let value = cx.load(0, &index);
        let channels = self.layout.channel_axis(dims.len());
        let few = (2..=FEW).contains(&dims[channels]) && self.group == 1;
        let planes = few && matches!(cx.in_dtype(0), DType::F32 | DType::F64) && {
            let at = match &value {
                Expr::Load { index, .. } => Affine::of(&cx.simplified((**index).clone())),
                _ => None,
            };
            let row = vars[self.layout.spatial_axis(self.kernel.len() - 1)];
            at.is_some_and(|at| at.coefficient(row) == 1 && at.coefficient(vars[channels]) != 1)
        };
        let to = if planes { Layout::ChannelsFirst } else { self.layout };
        let fill = Expr::constant(cx.in_dtype(0), self.fill.unwrap_or(0) as f64);
        let (buf, dims) = pad_value(cx, [self.layout, to], &self.pads, fill, &vars, value);
        (buf, dims, to)
    }
}

/// Operand 0 with `fill` around it, in a scratch buffer of the second of `layouts`: that and its extents. `value` is its element at
/// `vars`, one an axis of the first layout.
fn pad_value(
    cx: &mut LowerCx<'_>,
    layouts: [Layout; 2],
    pads: &[usize],
    fill: Expr,
    vars: &[Var],
    value: Expr,
) -> (tenon_kernel::Buf, Vec<usize>) {
    let [from, layout] = layouts;
    let dims = cx.in_dims(0);
    let channel = from.channel_axis(dims.len());
    let vars = layout.assemble(vars[0], vars[channel], &from.spatial(vars));
    let dims = layout.assemble(dims[0], dims[channel], &from.spatial(&dims));
    let mut before = vec![0; dims.len()];
    let mut to = dims.clone();
    for i in 0..pads.len() / 2 {
        let a = layout.spatial_axis(i);
        before[a] = pads[i];
        to[a] += pads[i] + pads[i + pads.len() / 2];
    }
    let buf = cx.scratch("padded", cx.in_dtype(0), to.iter().product());
    fill_border(&mut cx.k, buf, &to, &before, &dims, &fill);
    let shifted: Vec<Expr> = vars.iter().zip(&before).map(|(v, &b)| Expr::Var(*v) + b).collect();
    cx.push_nest(&vars, &dims, vec![Stmt::Store { buf, index: flatten(&shifted, &to), value }]);
    (buf, to)
}

/// The bias of zeros that a convolution without one has, for passes that add to it.
pub fn zero_bias(dtype: DType, channels: usize) -> Tensor {
    Tensor::full(&[channels], Scalar::of_f64(dtype, 0.0))
}

/// `Σ a[i]·b[i]`, in eight partial sums.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        a.iter().zip(b).zip(&mut sums).for_each(|((a, b), s)| *s += a * b);
    }
    sums.iter().sum()
}

/// The extents of the window of a convolution of `[N, C, spatial…]` whose weights have the shape `ws`, written `form`.
pub(super) fn import_kernel(node: &OnnxNode<'_>, xs: &Shape, ws: &Shape, form: &str) -> Result<Vec<usize>, ImportError> {
    if xs.rank() < 3 || ws.rank() != xs.rank() {
        return Err(ImportError::new(format!(
            "expected operands [N,C,spatial…] and {form} of one rank, found {xs} and {ws}"
        )));
    }
    let kernel = ws.0[2..].iter().map(Dim::as_usize).collect::<Option<Vec<_>>>();
    let kernel = kernel.ok_or_else(|| ImportError::new(format!("the kernel's extents must be known, found {ws}")))?;
    if let Some(k) = node.opt_ints("kernel_shape")?
        && !k.iter().copied().eq(kernel.iter().map(|&k| k as i64))
    {
        return Err(ImportError::new(format!("kernel_shape is {k:?}, but the weights are {ws}")));
    }
    Ok(kernel)
}

/// The attribute `group`.
pub(super) fn import_group(node: &OnnxNode<'_>) -> Result<usize, ImportError> {
    let group = node.int("group", 1)?;
    usize::try_from(group)
        .ok()
        .filter(|g| (1..1 << 20).contains(g))
        .ok_or_else(|| ImportError::new(format!("group: expected a small positive integer, found {group}")))
}

/// The convolution of `x` with `w` that the attributes of `node` describe; the operands may have been prepared.
pub(super) fn convolution(
    node: &OnnxNode<'_>,
    cx: &mut Importer<'_>,
    x: ValueId,
    w: ValueId,
    bias: Option<ValueId>,
) -> Result<ValueId, ImportError> {
    let (xs, ws) = (cx.shape(x).clone(), cx.shape(w).clone());
    let kernel = import_kernel(node, &xs, &ws, "[O,C/G,kernel…]")?;
    let (w_, late) = Window::read(node, kernel, &xs.0[2..])?;
    let x = same::fitted(node, cx, x, &w_, &late, 0.0)?;
    let op = Conv {
        kernel: w_.kernel,
        strides: w_.strides,
        dilations: w_.dilations,
        pads: w_.pads,
        group: import_group(node)?,
        layout: Layout::ChannelsFirst,
        fill: None,
    };
    let mut operands = vec![x, w];
    operands.extend(bias);
    cx.op(op, &operands)
}

//! Convolutions most of whose taps read padding: a sum of products, one a tap, each over the results for which its tap is inside.
//!
//! A window whose elements are far apart is often wider than the image. Reading a border of zeros multiplies it with every tap at every
//! place; here the sums are kept in a buffer instead, to which every tap adds what it reads, and there is no border. What is saved
//! are the taps outside; what it costs is to read and write the sums once a tap, which is little where a tap is a sum over many channels.

use super::conv::{Conv, as_dtype};
use super::util::for_each_index;
use crate::lower::flatten;
use crate::ops::*;
use std::ops::Range;
use tenon_kernel::{Buf, Contract, Type};

/// Channels that a tap must sum over to be worth a pass over the sums.
const CHANNELS: usize = 16;
/// The part of the taps that may be inside at most: passes over the sums, and narrow rectangles, take a part of what is saved.
const INSIDE: f64 = 0.6;

impl Conv {
    /// The part of all taps of all results along the spatial axes that read the operand and not its padding.
    pub fn inside(&self, x: &[usize], y: &[usize]) -> f64 {
        let axis = |i: usize| {
            let met: usize = (0..self.kernel[i]).map(|k| self.results(i, k, x[i], y[i]).len()).sum();
            met as f64 / (self.kernel[i] * y[i]).max(1) as f64
        };
        (0..self.kernel.len()).map(axis).product()
    }

    /// The results along axis `i`, of `y`, for which tap `k` is inside of the operand's `x` elements.
    fn results(&self, i: usize, k: usize, x: usize, y: usize) -> Range<usize> {
        let (at, stride, before) = (k * self.dilations[i], self.strides[i], self.pads[i]);
        let first = before.saturating_sub(at).div_ceil(stride).min(y);
        let end = (before + x).saturating_sub(at).div_ceil(stride).clamp(first, y);
        first..end
    }

    /// Whether it is computed tap by tap, given what its operands and result are.
    pub fn by_taps(&self, ins: &[Fact], out: &Fact) -> bool {
        let (Some(x), Some(w), Some(y)) = (ins[0].dims(), ins[1].dims(), out.dims()) else { return false };
        let float = matches!(ins[0].dtype, DType::F32 | DType::F64) && out.dtype == ins[0].dtype;
        let padded = self.pads.iter().any(|p| *p > 0) && self.fill.is_none() && !y.contains(&0);
        float
            && padded
            && w[1] >= CHANNELS
            && self.inside(&self.layout.spatial(&x), &self.layout.spatial(&y)) <= INSIDE
    }

    /// Lowers it so.
    pub(super) fn lower_by_taps(&self, cx: &mut LowerCx<'_>) {
        let (xd, wd, yd) = (cx.in_dims(0), cx.in_dims(1), cx.out_dims(0));
        let dtype = cx.out_dtype(0);
        let sums = cx.scratch("sums", dtype, yd.iter().product());
        self.each(cx, &yd, |cx, _, at| {
            let channel = &at[self.layout.channel_axis(at.len())];
            let first = if cx.in_count() > 2 {
                cx.load(2, std::slice::from_ref(channel))
            } else {
                Expr::constant(dtype, 0.0)
            };
            cx.k.store(sums, flatten(at, &yd), first);
        });
        let (x, y) = (self.layout.spatial(&xd), self.layout.spatial(&yd));
        for_each_index(&self.kernel, |tap| {
            let of = |i: usize| self.results(i, tap[i], x[i], y[i]);
            let results: Vec<Range<usize>> = (0..tap.len()).map(of).collect();
            if results.iter().all(|r| !r.is_empty()) {
                self.add_tap(cx, sums, tap, &results, wd[0]);
            }
        });
        self.each(cx, &yd, |cx, flat, _| cx.store_flat(0, flat.clone(), Expr::load(sums, flat)));
    }

    /// A nest of loops over the elements of the result, given their place and index.
    fn each(&self, cx: &mut LowerCx<'_>, yd: &[usize], f: impl FnOnce(&mut LowerCx<'_>, Expr, &[Expr])) {
        let vars = cx.nest("p", yd);
        let at: Vec<Expr> = vars.iter().map(|v| Expr::Var(*v)).collect();
        cx.k.open();
        f(cx, flatten(&at, yd), &at);
        let body = cx.k.close();
        cx.push_nest(&vars, yd, body);
    }

    /// `sums[n, p, o] += Σ_c x[n, c, p·stride + k·dilation - pad] · w[o, c, k]` for the results `p` of which `tap` is inside.
    fn add_tap(&self, cx: &mut LowerCx<'_>, sums: Buf, tap: &[usize], results: &[Range<usize>], o_all: usize) {
        let (yd, c_group) = (cx.out_dims(0), cx.in_dims(1)[1]);
        let (dtype, o_group) = (cx.out_dtype(0), o_all / self.group);
        let (dn, n) = cx.k.contract_dim("n", yd[0]);
        let mut dims = vec![dn];
        let (mut to, mut from) = (vec![], vec![]);
        for (i, r) in results.iter().enumerate() {
            let (d, v) = cx.k.contract_dim(&format!("p{i}"), r.len());
            dims.push(d);
            // Not negative: the first result is one whose tap is inside.
            let first = r.start * self.strides[i] + tap[i] * self.dilations[i] - self.pads[i];
            from.push(v.clone() * self.strides[i] + first);
            to.push(v + r.start);
        }
        let (dg, g) = cx.k.contract_dim("g", self.group);
        let (d_o, o) = cx.k.contract_dim("o", o_group);
        let (dc, c) = cx.k.contract_dim("c", c_group);
        dims.extend([dg, d_o]);
        let channel = g.clone() * o_group + o;
        let x_index = self.layout.assemble(n.clone(), g * c_group + c.clone(), &from);
        let mut w_index = vec![channel.clone(), c];
        w_index.extend(tap.iter().map(|k| Expr::from(*k)));
        let out_index = flatten(&self.layout.assemble(n, channel, &to), &yd);
        let a = cx.load(0, &x_index);
        let b = as_dtype(cx.load(1, &w_index), cx.in_dtype(1), dtype);
        let acc = cx.k.fresh("acc", Type::scalar(dtype));
        let (init, value) = (Expr::load(sums, out_index.clone()), Expr::Var(acc));
        cx.k.contract(Contract { dims, reduce: vec![dc], acc, init, a, b, out: sums, out_index, value });
    }
}

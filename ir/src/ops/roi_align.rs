//! RoiAlign: regions of an image, each sampled on a grid of bins.
//!
//! ONNX: [RoiAlign](https://onnx.ai/onnx/operators/onnx__RoiAlign.html) (10, 16, 22). Each bin is the mean, or the largest, of samples between
//! elements, evenly spaced; without a fixed number of them a bin has one for each element that it covers.

use super::util::loop_over;
use crate::lower::{wide, widen};
use crate::op::{expect_dtype, expect_operands, expect_same_dtype};
use crate::ops::*;
use tenon_base::{Real, Shape};
use tenon_kernel::{CmpOp, KernelBuilder, Type, UnOp};

crate::attributes! {
    /// Operands: x `[N, C, H, W]`, regions `[R, 4]` (x1, y1, x2, y2) and the batch element of each `[R]`. Result: `[R, C, rows, columns]`.
    pub struct RoiAlign {
        /// Bins along the height.
        pub rows: usize,
        /// Bins along the width.
        pub columns: usize,
        /// Samples of a bin along each axis; 0: as many as elements.
        pub samples: usize,
        /// From coordinates of regions to those of `x`.
        pub scale: Real,
        /// Elements are points at ½, 1½, …; else at 0, 1, …, and regions have at least the extent of one.
        pub half_pixel: bool,
        /// The largest, over the four weighted neighbours of every sample; else the mean.
        pub max: bool,
    }
}

/// Along one axis, of a region in `first..last`: where samples begin, their distance, bins' distance, and how many a bin has.
struct Axis<T> {
    first: T,
    bin: T,
    count: T,
}

impl RoiAlign {
    fn axis(&self, first: f64, last: f64, bins: usize) -> Axis<f64> {
        let offset = if self.half_pixel { 0.5 } else { 0.0 };
        let (first, last) = (first * self.scale.0 - offset, last * self.scale.0 - offset);
        let extent = if self.half_pixel { last - first } else { (last - first).max(1.0) };
        let bin = extent / bins as f64;
        let count = if self.samples > 0 { self.samples as f64 } else { (extent / bins as f64).ceil() };
        Axis { first, bin, count: count.clamp(0.0, 4096.0) }
    }

    fn axis_expr(&self, k: &mut KernelBuilder, d: DType, first: Expr, last: Expr, bins: usize, name: &str) -> Axis<Expr> {
        let c = |v: f64| Expr::constant(d, v);
        let offset = if self.half_pixel { 0.5 } else { 0.0 };
        let place = |v: Expr| v * c(self.scale.0) - c(offset);
        let first = k.bind(&format!("first_{name}"), place(first));
        let extent = place(last) - first.clone();
        let extent = if self.half_pixel { extent } else { extent.max(c(1.0)) };
        let bin = k.bind(&format!("bin_{name}"), extent / c(bins as f64));
        let count = match self.samples {
            0 => bin.clone().unary(UnOp::Ceil).cast(DType::I64).clamp(0, 4096),
            n => n.into(),
        };
        let count = k.bind(&format!("count_{name}"), count);
        Axis { first, bin, count }
    }
}

/// The two elements around `v` and the weight of the second; `None` where `v` is off the image.
fn around(v: f64, n: usize) -> Option<(usize, usize, f64)> {
    if !(v >= -1.0 && v <= n as f64) {
        return None;
    }
    let v = v.max(0.0);
    let low = (v as usize).min(n - 1);
    if low >= n - 1 { Some((n - 1, n - 1, 0.0)) } else { Some((low, low + 1, v - low as f64)) }
}

impl Operator for RoiAlign {
    fn names() -> Vec<&'static str> {
        vec!["roi_align"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "RoiAlign", versions: &[10, 16, 22] }]
    }

    fn name(&self) -> &'static str {
        "roi_align"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        RoiAlign::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let size = |name: &str, default: i64, least: i64| -> Result<usize, ImportError> {
            let v = node.int(name, default)?;
            let ok = usize::try_from(v).ok().filter(|_| v >= least && v < 1 << 16);
            ok.ok_or_else(|| ImportError::new(format!("{name}: expected {least} or more, found {v}")))
        };
        let half_pixel = match node.str("coordinate_transformation_mode", if node.opset >= 16 { "half_pixel" } else { "output_half_pixel" })? {
            "half_pixel" => true,
            "output_half_pixel" => false,
            other => return Err(ImportError::new(format!("coordinate_transformation_mode: {other:?} is not known"))),
        };
        let max = match node.str("mode", "avg")? {
            "avg" => false,
            "max" => true,
            other => return Err(ImportError::new(format!("mode: expected avg or max, found {other:?}"))),
        };
        let op = RoiAlign {
            rows: size("output_height", 1, 1)?,
            columns: size("output_width", 1, 1)?,
            samples: size("sampling_ratio", 0, 0)?.min(4096),
            scale: Real(f64::from(node.float("spatial_scale", 1.0)?)),
            half_pixel,
            max,
        };
        cx.ops(op, &[node.input(0)?, node.input(1)?, node.input(2)?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 3..=3)?;
        expect_dtype(ins, 0, DType::is_float, "a float dtype")?;
        expect_same_dtype(ins, 0, 1)?;
        expect_dtype(ins, 2, |d| matches!(d, DType::I32 | DType::I64), "i32 or i64")?;
        let ([n, c, h, w], [r, four]) = (&ins[0].shape.0[..], &ins[1].shape.0[..]) else {
            return Err(InferError::new(format!("expected [N,C,H,W] and [R,4], found {} and {}", ins[0].shape, ins[1].shape)));
        };
        let empty = [n, h, w].iter().any(|d| d.as_const() == Some(0));
        if *four != Dim::Const(4) || ins[2].shape != Shape(vec![r.clone()]) || empty || self.rows * self.columns == 0 {
            return Err(InferError::new(format!(
                "expected an image with elements, regions [R,4] and [R], found {}, {} and {}",
                ins[0].shape, ins[1].shape, ins[2].shape
            )));
        }
        let to = vec![r.clone(), c.clone(), Dim::from(self.rows), Dim::from(self.columns)];
        Ok(vec![Fact::new(ins[0].dtype, Shape(to))])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let [n, c, h, w] = ins[0].shape() else { return Err("expected an image".into()) };
        let (n, c, h, w) = (*n, *c, *h, *w);
        let (x, rois, batch) = (ins[0].to_f64(), ins[1].to_f64(), ins[2].to_i64());
        let mut out = vec![];
        for (r, &b) in batch.iter().enumerate() {
            let b = super::util::wrap(b, n);
            let across = self.axis(rois[4 * r], rois[4 * r + 2], self.columns);
            let down = self.axis(rois[4 * r + 1], rois[4 * r + 3], self.rows);
            for plane in 0..c {
                let x = &x[(b * c + plane) * h * w..][..h * w];
                for row in 0..self.rows {
                    for column in 0..self.columns {
                        let (mut sum, mut largest) = (0.0, None::<f64>);
                        for i in 0..down.count as usize {
                            for j in 0..across.count as usize {
                                let y = down.first + down.bin * (row as f64 + (i as f64 + 0.5) / down.count);
                                let z = across.first + across.bin * (column as f64 + (j as f64 + 0.5) / across.count);
                                let (Some((y0, y1, fy)), Some((x0, x1, fx))) = (around(y, h), around(z, w)) else {
                                    largest = Some(largest.map_or(0.0, |l| l.max(0.0)));
                                    continue;
                                };
                                let parts = [
                                    (1.0 - fy) * (1.0 - fx) * x[y0 * w + x0],
                                    (1.0 - fy) * fx * x[y0 * w + x1],
                                    fy * (1.0 - fx) * x[y1 * w + x0],
                                    fy * fx * x[y1 * w + x1],
                                ];
                                sum += parts.iter().sum::<f64>();
                                let most = parts.into_iter().fold(f64::NEG_INFINITY, f64::max);
                                largest = Some(largest.map_or(most, |l| l.max(most)));
                            }
                        }
                        let count = (down.count * across.count).max(1.0);
                        out.push(if self.max { largest.unwrap_or(0.0) } else { sum / count });
                    }
                }
            }
        }
        Ok(vec![Tensor::from_f64(ins[0].dtype(), &[batch.len(), c, self.rows, self.columns], &out)])
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let (dims, regions) = (cx.in_dims(0), cx.in_dims(1)[0]);
        let (n, c, h, w) = (dims[0], dims[1], dims[2], dims[3]);
        if regions * c == 0 {
            return Ok(());
        }
        let d = wide(cx.in_dtype(0));
        let num = |v: f64| Expr::constant(d, v);
        // A place and its weights are the same in all planes: those are innermost, with a result each.
        let sums = cx.scratch("sums", d, c);
        let mut k = std::mem::replace(&mut cx.k, KernelBuilder::new("taken"));
        let shown: &LowerCx<'_> = cx;
        let [region, plane, row, column] = ["region", "plane", "row", "column"].map(|v| k.fresh(v, Type::INDEX));
        let r = Expr::Var(region);
        let edge = |i: i64| widen(shown.load_flat(1, r.clone() * 4i64 + i), shown.in_dtype(1));
        let mut down = None;
        let mut across = None;
        let mut base = None;
        let begin = k.block(|k| {
            across = Some(self.axis_expr(k, d, edge(0), edge(2), self.columns, "x"));
            down = Some(self.axis_expr(k, d, edge(1), edge(3), self.rows, "y"));
            let b = super::util::wrap_expr(shown.load_flat(2, r.clone()).cast(DType::I64), n);
            base = Some(k.bind("batch", b));
        });
        let (Some(down), Some(across), Some(base)) = (down, across, base) else { return Ok(()) };
        let none = || num(if self.max { f64::NEG_INFINITY } else { 0.0 });
        let planes = |k: &mut KernelBuilder, f: &mut dyn FnMut(&mut KernelBuilder)| {
            let body = k.block(|k| f(k));
            k.push(loop_over(plane, c, true, body));
        };
        let mut bin = k.block(|k| {
            planes(k, &mut |k| k.store(sums, Expr::Var(plane), none()));
            // The elements around a place, the weight of the second, and whether the place is on the image.
            let around = |k: &mut KernelBuilder, a: &Axis<Expr>, bin: Expr, i: Expr, extent: usize, name: &str| {
                let part = (i.cast(d) + num(0.5)) / a.count.clone().cast(d);
                let v = k.bind(name, a.first.clone() + a.bin.clone() * (bin.cast(d) + part));
                let low = v.clone().compare(CmpOp::Ge, num(-1.0));
                let on = low.binary(tenon_kernel::BinOp::And, v.clone().compare(CmpOp::Le, num(extent as f64)));
                let v = k.bind(&format!("{name}_in"), num(0.0).max(v));
                let first = v.clone().cast(DType::I64).clamp(0, extent as i64 - 1);
                let first = k.bind(&format!("{name}_low"), first);
                let second = k.bind(&format!("{name}_high"), (first.clone() + 1i64).clamp(0, extent as i64 - 1));
                let inner = first.clone().compare(CmpOp::Lt, (extent - 1).into());
                let f = inner.select(v - first.clone().cast(d), num(0.0));
                let f = k.bind(&format!("{name}_part"), f);
                (on, first, second, f)
            };
            k.for_range("i", 0i64, down.count.clone(), |k, i| {
                let (on_y, y0, y1, fy) = around(k, &down, Expr::Var(row), i, h, "y");
                let on_y = k.bind("on_y", on_y);
                k.for_range("j", 0i64, across.count.clone(), |k, j| {
                    let (on_x, x0, x1, fx) = around(k, &across, Expr::Var(column), j, w, "x");
                    let on = k.bind("on", on_y.clone().binary(tenon_kernel::BinOp::And, on_x));
                    let one = || num(1.0);
                    let mut corner = |y: &Expr, x: &Expr, weight: Expr| {
                        let at = k.bind("at", y.clone() * w + x.clone());
                        (at, k.bind("weight", weight))
                    };
                    let corners = [
                        corner(&y0, &x0, (one() - fy.clone()) * (one() - fx.clone())),
                        corner(&y0, &x1, (one() - fy.clone()) * fx.clone()),
                        corner(&y1, &x0, fy.clone() * (one() - fx.clone())),
                        corner(&y1, &x1, fy.clone() * fx.clone()),
                    ];
                    planes(k, &mut |k| {
                        let first = (base.clone() * c + Expr::Var(plane)) * (h * w);
                        let part = |(at, weight): &(Expr, Expr)| {
                            let e = shown.load_flat(0, first.clone() + at.clone());
                            weight.clone() * widen(e, shown.in_dtype(0))
                        };
                        let joined = corners.iter().map(part).reduce(|a, b| if self.max { b.max(a) } else { a + b });
                        let sample = on.clone().select(joined.unwrap_or_else(|| num(0.0)), num(0.0));
                        let held = Expr::load(sums, Expr::Var(plane));
                        k.store(sums, Expr::Var(plane), if self.max { sample.max(held) } else { held + sample });
                    });
                });
            });
        });
        let count = (down.count.clone() * across.count.clone()).max(Expr::int(1)).cast(d);
        let held = Expr::load(sums, Expr::Var(plane));
        let result = if self.max {
            held.clone().compare(CmpOp::Eq, num(f64::NEG_INFINITY)).select(num(0.0), held)
        } else {
            held / count
        };
        cx.k = k;
        let out = ((r * c + Expr::Var(plane)) * self.rows + Expr::Var(row)) * self.columns + Expr::Var(column);
        let (buf, index, value) = cx.write(0, out, result);
        bin.push(loop_over(plane, c, true, vec![tenon_kernel::Stmt::Store { buf, index, value }]));
        let mut body = loop_over(column, self.columns, true, bin);
        body = loop_over(row, self.rows, true, vec![body]);
        let mut all = begin;
        all.push(body);
        cx.k.push(loop_over(region, regions, true, all));
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::SUM
    }

    fn samples() -> Vec<Sample> {
        let op = |rows, columns, samples, scale, half_pixel, max| RoiAlign {
            rows,
            columns,
            samples,
            scale: Real(scale),
            half_pixel,
            max,
        };
        let f = DType::F32;
        let case = |op, ins: &[(DType, &[usize])]| Sample::new(op, ins).with_range(&[(0.1, 2.0), (0.3, 9.7), (0.0, 2.0)]);
        let i = DType::I64;
        vec![
            case(op(3, 2, 2, 0.7, true, false), &[(f, &[2, 3, 9, 11]), (f, &[4, 4]), (i, &[4])]),
            case(op(2, 2, 0, 1.0, false, false), &[(DType::F64, &[2, 1, 7, 5]), (DType::F64, &[3, 4]), (DType::I32, &[3])]),
            case(op(2, 3, 2, 0.5, false, true), &[(f, &[1, 2, 6, 6]), (f, &[2, 4]), (i, &[2])]),
            case(op(1, 1, 1, 1.0, true, false), &[(f, &[1, 1, 1, 1]), (f, &[0, 4]), (i, &[0])]),
        ]
    }
}

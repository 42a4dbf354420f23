//! GridSample: the operand at positions that another operand gives.
//!
//! ONNX: [GridSample](https://onnx.ai/onnx/operators/onnx__GridSample.html) (16, 20, 22). `y[n, c, p] = x[n, c, position(grid[n, p])]`, interpolated;
//! positions are normalised so that the operand spans `-1..1` and list the spatial axes from the last to the first.

use super::util::{for_each_index, loop_over, strides};
use crate::lower::{flatten, wide, widen, within};
use crate::op::{expect_dtype, expect_operands};
use crate::ops::*;
use tenon_base::Shape;
use tenon_kernel::{CmpOp, KernelBuilder, Type, UnOp, Var};

crate::attr_enum! {
    /// How elements are interpolated.
    pub enum SampleMode {
        /// The nearest element, halves to even.
        Nearest = "nearest",
        /// Between two elements an axis.
        Linear = "linear",
        /// Between four elements an axis.
        Cubic = "cubic",
    }
}

crate::attr_enum! {
    /// What stands outside the operand.
    pub enum Outside {
        /// Zeros.
        Zeros = "zeros",
        /// The nearest element.
        Border = "border",
        /// The operand mirrored at its ends.
        Reflection = "reflection",
    }
}

crate::attributes! {
    /// Operands: x `[N, C, spatial…]` and the grid `[N, out…, axes]`.
    pub struct GridSample {
        /// How to interpolate.
        pub mode: SampleMode,
        /// What stands outside.
        pub outside: Outside,
        /// -1 and 1 are the centres of the outermost elements, not their edges.
        pub align_corners: bool,
    }
}

/// The coefficient of cubic interpolation.
const A: f64 = -0.75;

/// Weights of the elements from one before the position on, `r` behind the second.
fn cubic_weights(r: f64) -> [f64; 4] {
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(r + 1.0), near(r), near(1.0 - r), far(2.0 - r)]
}

/// The same as expressions.
fn cubic_exprs(r: &Expr, d: DType) -> Vec<Expr> {
    let c = |v: f64| Expr::constant(d, v);
    let near = |x: Expr| ((c(A + 2.0) * x.clone() - c(A + 3.0)) * x.clone()) * x + c(1.0);
    let far = |x: Expr| ((c(A) * x.clone() - c(5.0 * A)) * x.clone() + c(8.0 * A)) * x - c(4.0 * A);
    vec![far(r.clone() + c(1.0)), near(r.clone()), near(c(1.0) - r.clone()), far(c(2.0) - r.clone())]
}

/// Neighbours of a position along one axis: their elements, always inside, and weights.
type Taps<I, W> = Vec<(I, W)>;

impl GridSample {
    /// The least and the largest position that is not outside.
    fn borders(&self, n: usize) -> (f64, f64) {
        if self.align_corners { (0.0, n as f64 - 1.0) } else { (-0.5, n as f64 - 0.5) }
    }

    /// The distance after which mirror images repeat, and the sum of an element and its mirror image in one.
    fn mirror(&self, n: usize) -> (i64, i64) {
        let n = n as i64;
        if self.align_corners { (2 * (n - 1).max(1), 2 * (n - 1)) } else { (2 * n, 2 * n - 1) }
    }

    fn taps(&self, g: f64, n: usize) -> Taps<usize, f64> {
        let (lo, hi) = self.borders(n);
        let last = n as f64 - 1.0;
        let mut x = if self.align_corners { (g + 1.0) / 2.0 * last } else { ((g + 1.0) * n as f64 - 1.0) / 2.0 };
        if self.mode == SampleMode::Nearest {
            x = x.round_ties_even();
        }
        if !(lo..=hi).contains(&x) {
            x = match self.outside {
                Outside::Zeros => x,
                Outside::Border => x.clamp(0.0, last),
                Outside::Reflection if lo == hi => lo,
                Outside::Reflection => {
                    let (length, t) = (hi - lo, (x - lo).abs());
                    let m = t - 2.0 * length * (t / (2.0 * length)).floor();
                    lo + if m <= length { m } else { 2.0 * length - m }
                }
            };
        }
        // Beyond this everything is outside; NaN is, too.
        let x = if x > -3.0 { x } else { -3.0 };
        let x = if x < last + 3.0 { x } else { last + 3.0 };
        let first = x.floor();
        let r = x - first;
        let first = first as i64;
        let taps: Vec<(i64, f64)> = match self.mode {
            SampleMode::Nearest => vec![(first, 1.0)],
            SampleMode::Linear => vec![(first, 1.0 - r), (first + 1, r)],
            SampleMode::Cubic => (first - 1..).zip(cubic_weights(r)).collect(),
        };
        let inside = |i: i64| (0..n as i64).contains(&i);
        let place = |(i, w): (i64, f64)| {
            let w = if self.outside == Outside::Zeros && !inside(i) { 0.0 } else { w };
            let (period, sum) = self.mirror(n);
            let m = i.rem_euclid(period);
            let i = if self.outside == Outside::Reflection { m.min(sum - m) } else { i };
            (i.clamp(0, n as i64 - 1) as usize, w)
        };
        taps.into_iter().map(place).collect()
    }

    /// The same as expressions; `g` is of `d`.
    fn tap_exprs(&self, k: &mut KernelBuilder, g: Expr, n: usize, d: DType) -> Taps<Expr, Expr> {
        let c = |v: f64| Expr::constant(d, v);
        let (lo, hi) = self.borders(n);
        let last = n as f64 - 1.0;
        let mut x = if self.align_corners {
            (g + c(1.0)) * c(last / 2.0)
        } else {
            ((g + c(1.0)) * c(n as f64) - c(1.0)) * c(0.5)
        };
        if self.mode == SampleMode::Nearest {
            x = x.unary(UnOp::Nearest);
        }
        let x = k.bind("x", x);
        let moved = match self.outside {
            Outside::Zeros => None,
            Outside::Border => Some(x.clone().max(c(0.0)).min(c(last))),
            Outside::Reflection if lo == hi => Some(c(lo)),
            Outside::Reflection => {
                let length = hi - lo;
                let t = k.bind("t", (x.clone() - c(lo)).unary(UnOp::Abs));
                let whole = (t.clone() / c(2.0 * length)).unary(UnOp::Floor);
                let m = k.bind("m", t - whole * c(2.0 * length));
                let back = c(2.0 * length) - m.clone();
                Some(c(lo) + m.clone().compare(CmpOp::Le, c(length)).select(m, back))
            }
        };
        let x = match moved {
            None => x,
            Some(moved) => {
                let from = x.clone().compare(CmpOp::Ge, c(lo));
                let until = x.clone().compare(CmpOp::Le, c(hi));
                from.select(until.select(x, moved.clone()), moved)
            }
        };
        let x = k.bind("x", x.max(c(-3.0)).min(c(last + 3.0)));
        let floor = k.bind("floor", x.clone().unary(UnOp::Floor));
        let first = k.bind("first", floor.clone().cast(DType::I64));
        let r = k.bind("r", x - floor);
        let taps: Vec<(Expr, Expr)> = match self.mode {
            SampleMode::Nearest => vec![(first, c(1.0))],
            SampleMode::Linear => vec![(first.clone(), c(1.0) - r.clone()), (first + 1i64, r)],
            SampleMode::Cubic => {
                cubic_exprs(&r, d).into_iter().zip(-1i64..).map(|(w, i)| (first.clone() + i, w)).collect()
            }
        };
        let mut all = vec![];
        for (i, w) in taps {
            let i = k.bind("i", i);
            let w = if self.outside == Outside::Zeros { within(&i, n).select(w, c(0.0)) } else { w };
            let at = if self.outside == Outside::Reflection {
                let (period, sum) = self.mirror(n);
                let m = k.bind("m", (i % period + period) % period);
                m.clone().min(Expr::int(sum) - m)
            } else {
                i
            };
            let at = k.bind("at", at.clamp(0, n as i64 - 1));
            all.push((at, k.bind("w", w)));
        }
        all
    }
}

impl Operator for GridSample {
    fn names() -> Vec<&'static str> {
        vec!["grid_sample"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "GridSample", versions: &[16, 20, 22] }]
    }

    fn name(&self) -> &'static str {
        "grid_sample"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        GridSample::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        // Opset 16 had names of its own.
        let mode = match node.str("mode", "linear")? {
            "bilinear" => "linear",
            "bicubic" => "cubic",
            other => other,
        };
        let op = GridSample {
            mode: SampleMode::parse(mode).map_err(|e| format!("mode: {e}"))?,
            outside: Outside::parse(node.str("padding_mode", "zeros")?).map_err(|e| format!("padding_mode: {e}"))?,
            align_corners: node.int("align_corners", 0)? != 0,
        };
        Ok(vec![cx.op(op, &[node.input(0)?, node.input(1)?])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 2..=2)?;
        (0..2).try_for_each(|i| expect_dtype(ins, i, DType::is_float, "a float dtype"))?;
        let (x, grid) = (&ins[0].shape, &ins[1].shape);
        let fits = x.rank() >= 3 && grid.rank() == x.rank() && grid.0.last() == Some(&Dim::from(x.rank() - 2));
        if !fits || x.0[0].as_const().zip(grid.0[0].as_const()).is_some_and(|(a, b)| a != b) {
            return Err(InferError::new(format!("expected [N,C,spatial…] and [N,out…,axes], found {x} and {grid}")));
        }
        if x.0[2..].contains(&Dim::Const(0)) {
            return Err(InferError::new(format!("an operand of {x} has no elements to sample")));
        }
        let mut to = x.0[..2].to_vec();
        to.extend(grid.0[1..grid.rank() - 1].iter().cloned());
        Ok(vec![Fact::new(ins[0].dtype, Shape(to))])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let facts: Vec<Fact> = ins.iter().map(Tensor::fact).collect();
        let to = self.infer(&facts).map_err(|e| e.message)?[0].dims().ok_or("the shape is not known")?;
        let (x, grid) = (ins[0].to_f64(), ins[1].to_f64());
        let dims = ins[0].shape();
        let (s, axes) = (strides(dims), dims.len() - 2);
        let grid_strides = strides(ins[1].shape());
        let mut y = vec![];
        for_each_index(&to, |i| {
            let at: usize = i[0] * grid_strides[0] + i[2..].iter().zip(&grid_strides[1..]).map(|(i, s)| i * s).sum::<usize>();
            let taps: Vec<Taps<usize, f64>> = (0..axes).map(|a| self.taps(grid[at + axes - 1 - a], dims[a + 2])).collect();
            let counts: Vec<usize> = taps.iter().map(Vec::len).collect();
            let mut sum = 0.0;
            for_each_index(&counts, |t| {
                let (mut from, mut w) = (i[0] * s[0] + i[1] * s[1], 1.0);
                for (a, &t) in t.iter().enumerate() {
                    from += taps[a][t].0 * s[a + 2];
                    w *= taps[a][t].1;
                }
                sum += w * x[from];
            });
            y.push(sum);
        });
        Ok(vec![Tensor::from_f64(ins[0].dtype(), &to, &y)])
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let (dims, to) = (cx.in_dims(0), cx.out_dims(0));
        if to.contains(&0) {
            return Ok(());
        }
        let axes = dims.len() - 2;
        let (d, grid_type) = (wide(cx.in_dtype(0)), wide(cx.in_dtype(1)));
        let vars: Vec<Var> = (0..to.len()).map(|i| cx.k.fresh(&format!("i{i}"), Type::INDEX)).collect();
        let index: Vec<Expr> = vars.iter().map(|v| Expr::Var(*v)).collect();
        let mut at = vec![index[0].clone()];
        at.extend(index[2..].iter().cloned());
        at.push(Expr::int(0));
        let mut coordinates = vec![];
        for a in 0..axes {
            at[axes + 1] = Expr::from(axes - 1 - a);
            coordinates.push(widen(cx.load(1, &at), cx.in_dtype(1)));
        }
        // Neighbours and weights once for all channels.
        let mut taps: Vec<(Vec<Expr>, Expr)> = vec![(vec![], Expr::constant(d, 1.0))];
        let mut body = cx.k.block(|k| {
            for (a, g) in coordinates.into_iter().enumerate() {
                let along = self.tap_exprs(k, g, dims[a + 2], grid_type);
                let mut all = vec![];
                for (at, w) in &taps {
                    for (i, v) in &along {
                        let v = if d == grid_type { v.clone() } else { v.clone().cast(d) };
                        let w = if a == 0 { v } else { k.bind("w", w.clone() * v) };
                        all.push(([&at[..], std::slice::from_ref(i)].concat(), w));
                    }
                }
                taps = all;
            }
        });
        let term = |(at, w): &(Vec<Expr>, Expr)| {
            let at = [&index[..2], at].concat();
            w.clone() * cx.load_wide(0, &at)
        };
        let sum = taps.iter().map(term).reduce(|a, b| a + b).unwrap_or_else(|| Expr::constant(d, 0.0));
        let (buf, at, value) = cx.write(0, flatten(&index, &to), sum);
        body.push(loop_over(vars[1], dims[1], true, vec![tenon_kernel::Stmt::Store { buf, index: at, value }]));
        for a in (0..to.len()).rev().filter(|a| *a != 1) {
            body = vec![loop_over(vars[a], to[a], true, body)];
        }
        body.into_iter().for_each(|s| cx.k.push(s));
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::SUM
    }

    fn samples() -> Vec<Sample> {
        let g = |mode, outside, align_corners| GridSample { mode, outside, align_corners };
        use SampleMode::{Cubic, Linear, Nearest};
        let f = DType::F32;
        let range = [(-2.0, 2.0), (-1.7, 1.7)];
        let case = |op, x: &[usize], grid: &[usize]| Sample::new(op, &[(f, x), (f, grid)]).with_range(&range);
        vec![
            case(g(Linear, Outside::Zeros, false), &[2, 3, 5, 4], &[2, 3, 7, 2]),
            case(g(Linear, Outside::Border, true), &[1, 2, 4, 6], &[1, 5, 5, 2]),
            case(g(Linear, Outside::Reflection, false), &[1, 2, 3, 3], &[1, 6, 4, 2]),
            case(g(Nearest, Outside::Reflection, true), &[1, 1, 4, 5], &[1, 4, 4, 2]),
            case(g(Nearest, Outside::Zeros, false), &[1, 2, 3, 4, 3], &[1, 2, 3, 2, 3]),
            case(g(Cubic, Outside::Zeros, false), &[1, 2, 6, 5], &[1, 3, 4, 2]),
            case(g(Cubic, Outside::Reflection, true), &[1, 1, 4, 3], &[1, 4, 4, 2]),
            case(g(Cubic, Outside::Border, false), &[1, 1, 7], &[1, 9, 1]),
            case(g(Linear, Outside::Reflection, true), &[1, 1, 1, 3], &[1, 4, 4, 2]),
        ]
    }
}

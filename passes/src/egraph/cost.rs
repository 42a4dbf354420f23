//! What things cost on a target, in cycles of one core: a roofline.
//!
//! `t(kernel) = call + max(operations / (peak · efficiency), Σ bytes / bandwidth of the level each value comes from)`. The numbers
//! serve to compare alternatives, not to predict. An alternative algorithm is an operator, so its price is one arm of
//! [`Cost::operations`].

use tenon_base::{DType, Fact};
use tenon_ir::lower::wide;
use tenon_ir::ops::conv::Layout;
use tenon_ir::ops::reduce::Kind;
use tenon_ir::{Op, OpClass, Operator};
use tenon_kernel::{Expr, Var};
use tenon_target::Target;

/// Prices on one target.
#[derive(Clone, Debug)]
pub struct Cost<'t> {
    target: &'t Target,
    /// Whether factors of products of `f32` are rounded to `bf16`.
    bf16: bool,
}

/// Cycles to enter and leave a kernel, with its cold start.
const CALL: f64 = 300.0;
/// Operations that a mathematical function takes.
const MATH: f64 = 20.0;
/// Bytes a cycle from the second level, the third and memory.
const BANDWIDTH: [f64; 3] = [24.0, 12.0, 4.0];

fn numel(f: &Fact) -> f64 {
    f.dims().map_or(0.0, |d| d.iter().product::<usize>() as f64)
}

/// Bytes of a value.
pub fn bytes(f: &Fact) -> f64 {
    numel(f) * f.dtype.size() as f64
}

impl<'t> Cost<'t> {
    /// Prices on `target`.
    pub fn new(target: &'t Target) -> Cost<'t> {
        Cost { target, bf16: false }
    }

    /// The same where products of `f32` are of factors rounded to `bf16`, if `yes`.
    #[must_use]
    pub fn rounding_factors(self, yes: bool) -> Cost<'t> {
        Cost { bf16: yes, ..self }
    }

    /// What factors of `d` are multiplied as, where one is a constant that is packed.
    fn multiplied(&self, d: DType) -> DType {
        if self.bf16 && d == DType::F32 { DType::BF16 } else { d }
    }

    /// Cycles to call a kernel that computes for `compute` cycles and waits for `moving` of its operands and results.
    pub fn kernel(&self, compute: f64, moving: f64) -> f64 {
        CALL + compute.max(moving)
    }

    /// Cycles to read or write a value of `bytes`, which lies in the smallest level that holds it. By its own size, not that of all
    /// that a kernel touches: a bias is no dearer beside large weights than in a kernel of its own.
    pub fn moving(&self, bytes: f64) -> f64 {
        let c = &self.target.caches;
        let per_cycle = match bytes {
            b if b <= c.l2 as f64 => BANDWIDTH[0],
            b if b <= c.l3 as f64 => BANDWIDTH[1],
            _ => BANDWIDTH[2],
        };
        bytes / per_cycle
    }

    /// Lanes that work at once.
    fn lanes(&self, d: DType) -> f64 {
        (self.target.widest_vector_bytes() / wide(d).size()).max(1) as f64
    }

    /// Multiply-adds of `d` a cycle at best, as operations.
    fn peak(&self, d: DType) -> f64 {
        let wider = self.target.widest_vector_bytes() as f64 / self.target.vector_bytes.max(1) as f64;
        self.target.peak_ops_per_cycle(d) * wider.max(1.0)
    }

    /// Cycles to compute `op` once for all its results, beside moving its operands and results.
    pub fn operations(&self, op: &Op, ins: &[Fact], out: &[Fact]) -> f64 {
        let (n, d) = (out.first().map_or(0.0, numel), out.first().map_or(DType::F32, |f| f.dtype));
        let x = ins.first().map_or(0.0, numel);
        let map = |count: f64, each: f64| count * each / self.lanes(d);
        match op {
            Op::Conv(k) => {
                let w: Vec<usize> = ins.get(1).and_then(Fact::dims).unwrap_or_default();
                let per: usize = w.get(1..).map_or(1, |w| w.iter().product());
                let depthwise = w.get(1) == Some(&1);
                let efficiency = match (depthwise, k.layout) {
                    (false, Layout::ChannelsLast) => 0.6,
                    (false, Layout::ChannelsFirst) => 0.35,
                    (true, Layout::ChannelsLast) => 0.2,
                    (true, Layout::ChannelsFirst) => 0.1,
                };
                let factors = if depthwise { d } else { self.multiplied(d) };
                2.0 * n * per as f64 / (self.peak(factors) * efficiency)
            }
            Op::ConvTranspose(_) => 2.0 * x * ins.get(1).map_or(1.0, numel) / (self.peak(d) * 0.2 * channels(ins)),
            // Minimal filtering: products of transformed tiles, and the transforms.
            Op::WinogradConv(k) => {
                let places = |r: &usize, m: &usize| (r + m - 1) as f64 / *m as f64;
                let per: f64 = k.kernel.iter().zip(&k.tile).map(|(r, m)| places(r, m)).product();
                let inner = ins.first().and_then(|f| f.dims()?.last().copied()).unwrap_or(1) as f64;
                let factors = if d == DType::I32 { DType::I16 } else { d };
                2.0 * n * inner * per / (self.peak(factors) * 0.5) + map(x + n, 8.0 * per)
            }
            Op::MatMul(m) => {
                let a = ins.first().and_then(Fact::dims).unwrap_or_default();
                let r = a.len();
                let k = if r < 2 {
                    1
                } else if m.trans_a {
                    a[r - 2]
                } else {
                    a[r - 1]
                };
                // A right operand that is not constant is packed inside the kernel unless its rows are; matrices are mostly constant.
                let matrix = ins.get(1).is_some_and(|b| b.shape.rank() <= 2);
                let factors = if matrix { self.multiplied(d) } else { d };
                2.0 * n * k as f64 / (self.peak(factors) * 0.6)
            }
            Op::Softmax(_) => map(n, 2.0 * MATH + 6.0),
            Op::LayerNorm(_) => map(x, 10.0),
            Op::Reduce(r) => {
                let dims = ins.first().and_then(Fact::dims).unwrap_or_default();
                let each = match r.kind {
                    Kind::LogSumExp => MATH + 3.0,
                    _ => 1.0,
                };
                // Rows that are summed up themselves are one chain of additions a row, short ones are all overhead.
                let rows = r.axes.last().is_some_and(|&a| a + 1 == dims.len());
                map(x, each * if rows { 2.0 } else { 1.0 })
            }
            Op::Pool(p) => {
                let spread = if p.layout == Layout::ChannelsLast { 1.0 } else { 6.0 };
                map(n, p.kernel.iter().product::<usize>() as f64 * spread)
            }
            op => match op.class() {
                OpClass::View => 0.0,
                OpClass::Pointwise => map(n, self.scalar(op, ins, d)),
                OpClass::Move => n * if self.runs(op, ins) { 1.0 / self.lanes(d) } else { 1.5 },
                OpClass::Kernel | OpClass::Control => match op {
                    Op::Concat(_) => map(n, 1.0),
                    Op::Gather(_) => n * 0.5,
                    _ => 4.0 * (n + ins.iter().map(numel).sum::<f64>()),
                },
            },
        }
    }

    /// Whether a move keeps elements that are neighbours together.
    fn runs(&self, op: &Op, ins: &[Fact]) -> bool {
        let rank = ins.first().map_or(0, |f| f.shape.rank());
        match op {
            Op::Transpose(t) => t.perm.last().is_none_or(|&a| a + 1 == rank),
            Op::Slice(s) => s.steps.last().is_none_or(|&s| s == 1),
            _ => true,
        }
    }

    /// Operations of one element of a pointwise operator.
    fn scalar(&self, op: &Op, ins: &[Fact], d: DType) -> f64 {
        let args: Vec<Expr> = (0..ins.len() as u32).map(|i| Expr::Var(Var(i))).collect();
        let dtypes: Vec<DType> = ins.iter().map(|f| wide(f.dtype)).collect();
        let mut sum = 0.0;
        if let Some(e) = op.scalar(&dtypes, wide(d), &args) {
            e.visit(&mut |e| {
                sum += match e {
                    Expr::Math(..) => MATH,
                    Expr::Var(_) | Expr::Const(_) => 0.0,
                    Expr::Binary(tenon_kernel::BinOp::Div, _) => 4.0,
                    _ => 1.0,
                };
            });
        }
        sum.max(0.5) / 2.0
    }
}

fn channels(ins: &[Fact]) -> f64 {
    ins.get(1).and_then(Fact::dims).and_then(|d| d.first().copied()).map_or(1.0, |c| c.max(1) as f64)
}

//! Pad: adds elements before and after every axis, or with negative counts takes them away.
//!
//! ONNX: [Pad](https://onnx.ai/onnx/operators/onnx__Pad.html) (1, 2, 11, 13, 18, 19, 21, 23, 24).

use super::util::gather_elements;
use crate::lower::within;
use crate::op::{expect_operands, resolve_axis};
use crate::ops::*;
use tenon_base::{Real, Shape};
use tenon_kernel::{BinOp, CmpOp, UnOp};

crate::attr_enum! {
    /// What stands outside.
    pub enum Mode {
        /// One value.
        Constant = "constant",
        /// The operand mirrored at its edge elements.
        Reflect = "reflect",
        /// The nearest element.
        Edge = "edge",
        /// The operand again, as if it were a torus.
        Wrap = "wrap",
    }
}

crate::attributes! {
    /// Padding.
    pub struct Pad {
        /// What stands outside.
        pub mode: Mode,
        /// Counts before every axis, then after every axis; negative ones crop.
        pub pads: Vec<i64>,
        /// For [`Mode::Constant`].
        pub value: Real,
    }
}

impl Pad {
    fn rank(&self) -> usize {
        self.pads.len() / 2
    }
}

/// The largest count: keeps index arithmetic far from overflow.
const LIMIT: i64 = 1 << 40;

impl Operator for Pad {
    fn names() -> Vec<&'static str> {
        vec!["pad"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![OnnxName { domain: "", name: "Pad", versions: &[1, 2, 11, 13, 18, 19, 21, 23, 24] }]
    }

    fn name(&self) -> &'static str {
        "pad"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Pad::from_attrs(attrs)
    }

    fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        let x = node.input(0)?;
        let rank = cx.rank(x);
        let mode = Mode::parse(node.str("mode", "constant")?).map_err(|e| format!("mode: {e}"))?;
        let given = match (node.opt_ints("pads")?, node.opt_ints("paddings")?) {
            (Some(p), _) | (None, Some(p)) => p,
            (None, None) => cx.constant_ints(node.input(1)?, "pads")?,
        };
        let value = match node.opt_input(2) {
            Some(v) if cx.fact(v).shape.numel() != Dim::Const(0) => {
                cx.constant(v, "constant_value")?.to_f64().first().copied().unwrap_or(0.0)
            }
            _ => f64::from(node.float("value", 0.0)?),
        };
        let axes: Vec<usize> = match node.opt_input(3) {
            None => (0..rank).collect(),
            Some(a) => {
                let a = cx.constant_ints(a, "axes")?;
                a.iter().map(|&a| resolve_axis(a, rank)).collect::<Result<_, _>>()?
            }
        };
        if given.len() != 2 * axes.len() {
            return Err(ImportError::new(format!("pads: expected {} counts, found {}", 2 * axes.len(), given.len())));
        }
        if let Some(p) = given.iter().find(|p| p.unsigned_abs() > LIMIT.unsigned_abs()) {
            return Err(ImportError::new(format!("pads: {p} elements are too many")));
        }
        let mut pads = vec![0; 2 * rank];
        for (i, &a) in axes.iter().enumerate() {
            pads[a] = given[i];
            pads[a + rank] = given[i + axes.len()];
        }
        if pads.iter().all(|&p| p == 0) {
            return Ok(vec![x]);
        }
        Ok(vec![cx.op(Pad { mode, pads, value: Real(value) }, &[x])?])
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        let x = &ins[0].shape;
        if self.pads.len() != 2 * x.rank() {
            return Err(InferError::new(format!("expected {} counts for {x}, found {}", 2 * x.rank(), self.pads.len())));
        }
        let mut to = vec![];
        for (a, d) in x.0.iter().enumerate() {
            let (before, after) = (self.pads[a], self.pads[a + x.rank()]);
            let n = d.add(&Dim::Const(before)).add(&Dim::Const(after));
            if n.as_const().is_some_and(|n| n < 0) {
                return Err(InferError::new(format!("axis {a}: {d} elements cannot lose {}", -(before + after))));
            }
            let short = match self.mode {
                Mode::Constant => None,
                Mode::Reflect => d.as_const().filter(|d| *d < 1 || (*d == 1 && before.max(after) > 0)),
                Mode::Edge | Mode::Wrap => d.as_const().filter(|d| *d < 1 && before.max(after) > 0),
            };
            if let Some(d) = short {
                return Err(InferError::new(format!("axis {a}: {d} elements cannot be continued by {}", self.mode.as_str())));
            }
            to.push(n);
        }
        Ok(vec![Fact::new(ins[0].dtype, Shape(to))])
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let dims = ins[0].shape();
        let out = self.infer(&[ins[0].fact()]).map_err(|e| e.message)?.remove(0);
        let to = out.dims().ok_or("the shape is not known")?;
        let s = crate::lower::strides(dims);
        let from = |i: &[usize]| {
            let mut at = 0;
            for (a, &i) in i.iter().enumerate() {
                let n = dims[a] as i64;
                let p = i as i64 - self.pads[a];
                let p = match self.mode {
                    Mode::Constant if p < 0 || p >= n => return None,
                    Mode::Constant => p,
                    Mode::Edge => p.clamp(0, n - 1),
                    Mode::Wrap => p.rem_euclid(n),
                    Mode::Reflect if n == 1 => 0,
                    Mode::Reflect => {
                        let q = p.rem_euclid(2 * (n - 1));
                        if q < n { q } else { 2 * (n - 1) - q }
                    }
                };
                at += p as usize * s[a];
            }
            Some(at)
        };
        let fill = tenon_base::Scalar::of_f64(ins[0].dtype(), self.value.0);
        Ok(vec![gather_elements(&ins[0], &to, Some(fill), from)])
    }

    fn class(&self) -> OpClass {
        OpClass::Move
    }

    fn source(&self, ins: &[Fact], _: &Fact, index: &[Expr]) -> Option<Source> {
        let dims = ins[0].dims()?;
        let mut inside: Option<Expr> = None;
        let mut at = vec![];
        for (a, i) in index.iter().enumerate() {
            let (before, after, n) = (self.pads[a], self.pads[a + self.rank()], dims[a] as i64);
            let p = i.clone() - before;
            if before <= 0 && after <= 0 {
                at.push(p);
                continue;
            }
            at.push(match self.mode {
                Mode::Constant => {
                    let here = within(&p, dims[a]);
                    inside = Some(match inside.take() {
                        None => here,
                        Some(c) => Expr::Binary(BinOp::And, Box::new([c, here])),
                    });
                    p.clamp(0, (n - 1).max(0))
                }
                Mode::Edge => p.clamp(0, n - 1),
                Mode::Wrap => positive_remainder(p, n),
                Mode::Reflect if n == 1 => Expr::int(0),
                Mode::Reflect => {
                    let q = positive_remainder(p, 2 * (n - 1));
                    // The distance from the far edge element, mirrored: n-1 - |q - (n-1)|.
                    let d = (q - (n - 1)).unary(UnOp::Abs);
                    (Expr::int(n - 1) - d).clamp(0, n - 1)
                }
            });
        }
        Some(Source { index: at, inside, fill: self.value.0 })
    }

    fn permuted(&self, perm: &[usize], _: &[Fact]) -> Option<Op> {
        let r = perm.len();
        let mut pads = vec![0; 2 * r];
        for (a, &p) in perm.iter().enumerate() {
            pads[p] = self.pads[a];
            pads[p + r] = self.pads[a + r];
        }
        Some(Op::Pad(Pad { pads, ..self.clone() }))
    }

    fn samples() -> Vec<Sample> {
        let p = |mode, pads: &[i64]| Pad { mode, pads: pads.to_vec(), value: Real(1.5) };
        let f = DType::F32;
        vec![
            Sample::new(p(Mode::Constant, &[1, 0, 2, 1]), &[(f, &[3, 4])]),
            Sample::new(p(Mode::Constant, &[1, 0, 2, 1]), &[(f, &[0, 4])]),
            Sample::new(p(Mode::Reflect, &[0, 2, 0, 3]), &[(f, &[2, 4])]),
            Sample::new(p(Mode::Reflect, &[7, 5]), &[(f, &[3])]),
            Sample::new(p(Mode::Edge, &[2, 1, 0, -1]), &[(DType::I32, &[2, 5])]),
            Sample::new(p(Mode::Wrap, &[4, 5]), &[(DType::I64, &[3])]),
            Sample::new(p(Mode::Constant, &[-1, 0, 0, -2]), &[(DType::F16, &[3, 4])]),
        ]
    }
}

/// `p mod n` in `0..n`; the remainder of the kernel IR has the dividend's sign.
fn positive_remainder(p: Expr, n: i64) -> Expr {
    let r = p.binary(BinOp::Rem, Expr::int(n));
    r.clone().compare(CmpOp::Lt, Expr::int(0)).select(r.clone() + n, r).clamp(0, n - 1)
}

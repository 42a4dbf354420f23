//! Class probabilities from the probabilities of pairs of classes, by the iteration of Wu, Lin and Weng ("Probability estimates for
//! multi-class classification by pairwise coupling", JMLR 5, 2004, algorithm 2), with the bounds of libsvm: probabilities of pairs within
//! `1e-7..1 - 1e-7`, at most 100 rounds, and an end where no component is further than `0.005 / classes` from the optimum.
//!
//! ONNX: what SVMClassifier with `prob_a` and `prob_b` becomes. Computed in `f64` throughout, so that all engines stop in the same round.

use super::util::loop_over;
use crate::op::{expect_dtype, expect_operands};
use crate::ops::*;
use tenon_base::Shape;
use tenon_kernel::{Access, CmpOp, Type, UnOp};

crate::attributes! {
    /// `[N, classes·(classes - 1)/2]`, pairs `(i, j)` with `i < j` in order, each the probability of `i`, to `[N, classes]`.
    pub struct PairCoupling {
        /// How many classes, at least 2.
        pub classes: usize,
    }
}

const LEAST: f64 = 1e-7;
const ROUNDS: usize = 100;

impl PairCoupling {
    fn pairs(&self) -> usize {
        self.classes * (self.classes - 1) / 2
    }

    fn end(&self) -> f64 {
        0.005 / self.classes as f64
    }

    /// The position of the pair `(i, j)`, `i < j`.
    fn pair(&self, i: usize, j: usize) -> usize {
        i * self.classes - i * (i + 1) / 2 + j - i - 1
    }

    /// The coupled probabilities of one row.
    fn couple(&self, pairs: &[f64]) -> Vec<f64> {
        let c = self.classes;
        // r[i][j]: the probability of i against j.
        let r = |i: usize, j: usize| {
            let bounded = |p: f64| p.clamp(LEAST, 1.0 - LEAST);
            if i < j { bounded(pairs[self.pair(i, j)]) } else { 1.0 - bounded(pairs[self.pair(j, i)]) }
        };
        let mut q = vec![vec![0.0; c]; c];
        for (i, row) in q.iter_mut().enumerate() {
            for j in (0..c).filter(|j| *j != i) {
                row[i] += r(j, i) * r(j, i);
                row[j] = -r(j, i) * r(i, j);
            }
        }
        let mut p = vec![1.0 / c as f64; c];
        for _ in 0..ROUNDS {
            let mut qp: Vec<f64> = q.iter().map(|row| row.iter().zip(&p).map(|(q, p)| q * p).sum()).collect();
            let mut pqp: f64 = p.iter().zip(&qp).map(|(p, q)| p * q).sum();
            if qp.iter().all(|q| (q - pqp).abs() < self.end()) {
                break;
            }
            for i in 0..c {
                let d = (pqp - qp[i]) / q[i][i];
                p[i] += d;
                pqp = (pqp + d * (d * q[i][i] + 2.0 * qp[i])) / (1.0 + d) / (1.0 + d);
                for j in 0..c {
                    qp[j] = (qp[j] + d * q[i][j]) / (1.0 + d);
                    p[j] /= 1.0 + d;
                }
            }
        }
        p
    }
}

impl Operator for PairCoupling {
    fn names() -> Vec<&'static str> {
        vec!["pair_coupling"]
    }

    fn onnx() -> Vec<OnnxName> {
        vec![]
    }

    fn name(&self) -> &'static str {
        "pair_coupling"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        PairCoupling::from_attrs(attrs)
    }

    fn import(_: &OnnxNode<'_>, _: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        Err(ImportError::new("the operator is not supported"))
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        expect_operands(ins, 1..=1)?;
        expect_dtype(ins, 0, |d| matches!(d, DType::F32 | DType::F64), "f32 or f64")?;
        if !(2..1 << 12).contains(&self.classes) {
            return Err(InferError::new(format!("expected 2 to 4095 classes, found {}", self.classes)));
        }
        match &ins[0].shape.0[..] {
            [n, p] if *p == Dim::from(self.pairs()) => {
                Ok(vec![Fact::new(ins[0].dtype, Shape(vec![n.clone(), Dim::from(self.classes)]))])
            }
            _ => Err(InferError::new(format!("expected [N, {}], found {}", self.pairs(), ins[0].shape))),
        }
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let x = ins[0].to_f64();
        let y: Vec<f64> = x.chunks(self.pairs()).flat_map(|row| self.couple(row)).collect();
        Ok(vec![Tensor::from_f64(ins[0].dtype(), &[ins[0].shape()[0], self.classes], &y)])
    }

    fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
        let (n, c, pairs) = (cx.in_dims(0)[0], self.classes, self.pairs());
        if n == 0 {
            return Ok(());
        }
        let f = DType::F64;
        let num = |v: f64| Expr::constant(f, v);
        let [row, out] = ["row", "class"].map(|v| cx.k.fresh(v, Type::INDEX));
        let pair = cx.k.fresh("pair", Type::INDEX);
        let given = cx.load_flat(0, Expr::Var(row) * pairs + Expr::Var(pair)).cast(f);
        let mut scratch = |name: &str, len: usize| cx.k.buffer(name, f, n * len, Access::Scratch);
        let (r, q, p, qp) = (scratch("r", pairs), scratch("q", c * c), scratch("p", c), scratch("qp", c));
        let r_ = Expr::Var(row);
        let at = |len: usize, i: Expr| r_.clone() * len + i;
        let mut body = cx.k.block(|k| {
            let bounded = num(LEAST).max(given).min(num(1.0 - LEAST));
            let step = k.block(|k| k.store(r, at(pairs, Expr::Var(pair)), bounded));
            k.push(loop_over(pair, pairs, false, step));
            k.for_range("i", 0i64, c, |k, i| {
                k.store(p, at(c, i.clone()), num(1.0 / c as f64));
                let own = k.declare("own", num(0.0));
                k.for_range("j", 0i64, c, |k, j| {
                    let (lo, hi) = (i.clone().min(j.clone()), i.clone().max(j.clone()));
                    let before = (lo.clone() * (2 * c as i64 - 1) - lo.clone() * lo.clone()) / 2i64;
                    let position = (before + hi - lo - 1i64).clamp(0, pairs as i64 - 1);
                    let first = k.bind("first", Expr::load(r, at(pairs, position)));
                    let rest = k.bind("rest", num(1.0) - first.clone());
                    // The probability of j against i.
                    let of_j = j.clone().compare(CmpOp::Lt, i.clone()).select(first.clone(), rest.clone());
                    let of_j = k.bind("of_j", of_j);
                    let other = j.clone().compare(CmpOp::Ne, i.clone());
                    k.set(own, other.select(Expr::Var(own) + of_j.clone() * of_j, Expr::Var(own)));
                    k.store(q, at(c * c, i.clone() * c + j), -(first * rest));
                });
                k.store(q, at(c * c, i.clone() * c + i), Expr::Var(own));
            });
            let round = k.declare("round", Expr::int(0));
            k.while_loop(Expr::Var(round).compare(CmpOp::Lt, ROUNDS.into()), |k| {
                let pqp = k.declare("pqp", num(0.0));
                k.for_range("i", 0i64, c, |k, i| {
                    let sum = k.declare("sum", num(0.0));
                    k.for_range("j", 0i64, c, |k, j| {
                        let term = Expr::load(q, at(c * c, i.clone() * c + j.clone())) * Expr::load(p, at(c, j));
                        k.set(sum, Expr::Var(sum) + term);
                    });
                    k.store(qp, at(c, i.clone()), Expr::Var(sum));
                    k.set(pqp, Expr::Var(pqp) + Expr::load(p, at(c, i)) * Expr::Var(sum));
                });
                let worst = k.declare("worst", num(0.0));
                k.for_range("i", 0i64, c, |k, i| {
                    let error = (Expr::load(qp, at(c, i)) - Expr::Var(pqp)).unary(UnOp::Abs);
                    k.set(worst, error.max(Expr::Var(worst)));
                });
                k.if_else(
                    // NaN ends too.
                    Expr::Var(worst).compare(CmpOp::Ge, num(self.end())),
                    |k| {
                        k.set(round, Expr::Var(round) + 1i64);
                        k.for_range("i", 0i64, c, |k, i| {
                            let diagonal = k.bind("diagonal", Expr::load(q, at(c * c, i.clone() * c + i.clone())));
                            let own = k.bind("own_qp", Expr::load(qp, at(c, i.clone())));
                            let d = k.bind("d", (Expr::Var(pqp) - own.clone()) / diagonal.clone());
                            let over = k.bind("over", num(1.0) + d.clone());
                            k.store(p, at(c, i.clone()), Expr::load(p, at(c, i.clone())) + d.clone());
                            let grown = Expr::Var(pqp) + d.clone() * (d.clone() * diagonal + num(2.0) * own);
                            k.set(pqp, grown / over.clone() / over.clone());
                            k.for_range("j", 0i64, c, |k, j| {
                                let moved = Expr::load(qp, at(c, j.clone()))
                                    + d.clone() * Expr::load(q, at(c * c, i.clone() * c + j.clone()));
                                k.store(qp, at(c, j.clone()), moved / over.clone());
                                k.store(p, at(c, j.clone()), Expr::load(p, at(c, j)) / over.clone());
                            });
                        });
                    },
                    |k| k.set(round, ROUNDS.into()),
                );
            });
        });
        let value = Expr::load(p, at(c, Expr::Var(out)));
        let value = if cx.out_dtype(0) == f { value } else { value.cast(cx.out_dtype(0)) };
        let (buf, index, value) = cx.write(0, at(c, Expr::Var(out)), value);
        body.push(loop_over(out, c, false, vec![tenon_kernel::Stmt::Store { buf, index, value }]));
        cx.k.push(loop_over(row, n, true, body));
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance::ROUNDING
    }

    fn samples() -> Vec<Sample> {
        let case = |classes, dtype, dims: &[usize]| {
            Sample::new(PairCoupling { classes }, &[(dtype, dims)]).with_range(&[(0.0, 1.0)])
        };
        vec![
            case(3, DType::F32, &[5, 3]),
            case(2, DType::F64, &[3, 1]),
            case(7, DType::F64, &[2, 21]),
            case(4, DType::F32, &[0, 6]),
        ]
    }
}

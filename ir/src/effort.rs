//! How much work the reference interpreter has with an operator: what constant folding must know before it begins.

use crate::lower::LowerCx;
use crate::op::OpClass;
use crate::{Op, Operator};
use tenon_base::Fact;
use tenon_kernel::work;

/// Products of operand and result elements up to which the product itself is a good enough bound.
const SMALL: u64 = 1 << 12;

/// Elements looked at, about, when `op` is evaluated on `ins`, which gives `outs`; all extents are known. An overestimate where
/// nothing better is known, so that no operator of a hostile model takes longer than was thought.
pub fn effort(op: &Op, ins: &[Fact], outs: &[Fact]) -> u64 {
    let elements = |all: &[Fact]| {
        let len = |f: &Fact| f.dims().map_or(u64::MAX, |d| product(&d));
        all.iter().map(len).fold(0, u64::saturating_add)
    };
    let (read, written) = (elements(ins), elements(outs));
    let both = read.saturating_add(written).saturating_add(1);
    if op.class() != OpClass::Kernel {
        return both;
    }
    // No operator looks at more than every operand element for every result element.
    let most = read.saturating_add(1).saturating_mul(written.saturating_add(1));
    if most <= SMALL || !fits(ins) || !fits(outs) {
        return most.max(both);
    }
    // Its kernel says how often its loops run.
    let lowered = LowerCx::alone(op, "effort", ins, outs).and_then(|mut cx| op.lower(&mut cx).map(|()| cx.finish()));
    lowered.map_or(most, |k| work::work(&k).steps.saturating_add(both))
}

/// Whether the elements can be counted.
fn fits(all: &[Fact]) -> bool {
    all.iter().all(|f| f.dims().is_some_and(|d| product(&d) < 1 << 40))
}

fn product(dims: &[usize]) -> u64 {
    dims.iter().fold(1, |n: u64, d| n.saturating_mul(*d as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::matmul::MatMul;
    use crate::ops::unary::Unary;
    use tenon_base::DType;

    #[test]
    fn products_cost_what_they_multiply() {
        let (a, b, y) = ([64, 1000], [1000, 32], [64, 32]);
        let [a, b, y] = [&a, &b, &y].map(|d| Fact::of(DType::F32, d));
        let op = Op::from(MatMul { trans_a: false, trans_b: false });
        let n = effort(&op, &[a, b], &[y]);
        assert!((64 * 32 * 1000..2 * 64 * 32 * 1000).contains(&n), "{n}");
    }

    #[test]
    fn functions_cost_their_elements() {
        let x = Fact::of(DType::F32, &[100, 100]);
        let neg = Op::from(Unary::named("neg").expect("a function"));
        assert_eq!(effort(&neg, std::slice::from_ref(&x), std::slice::from_ref(&x)), 20_001);
    }
}

//! Functions of one quantised element: 256 operands, so 256 results.

use super::params::{Quantised, Quantiser};
use crate::normalize::Rewrite;
use std::collections::BTreeMap;
use tenon_base::{DType, Scalar, Tensor};
use tenon_ir::ops::lookup::Lookup;
use tenon_ir::ops::quantize::Quantize;
use tenon_ir::{NodeId, Op, OpClass, Operator, ValueId};

/// Operators in one function at most.
const MAX_OPERATORS: usize = 32;

/// `Q(f(DQ x)) → table[x]`, where `f` is of pointwise operators on one value of bytes and constants that are one number each.
pub(super) fn lookup(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    let y = Quantiser::of(cx, v)?;
    let mut f = Function { cx, source: None, values: BTreeMap::new() };
    let x = f.value(y.x)?;
    let (source, applied) = (f.source?, f.values.len());
    let q = Quantised::of(cx, source)?;
    // Nothing but the quantised value itself is for the other rules.
    if applied < 2 || y.to.size() != 1 || cx.graph.fact(q.q).shape != cx.graph.fact(v).shape {
        return None;
    }
    let scale = Tensor::new(&[], &[y.scale]);
    let zero = Tensor::full(&[], Scalar::of_int(y.to, i128::from(y.zero)));
    let table = Quantize { to: y.to }.eval(&[x, scale, zero]).ok()?.pop()?;
    let table = cx.graph.add_weight("", table);
    cx.op(Lookup {}, &[q.q, table])
}

/// A function applied to all bytes at once.
struct Function<'a, 'g> {
    cx: &'a Rewrite<'g>,
    /// The dequantised value it is a function of.
    source: Option<ValueId>,
    values: BTreeMap<ValueId, Tensor>,
}

impl Function<'_, '_> {
    /// `v` for every byte, in the order of their bits.
    fn value(&mut self, v: ValueId) -> Option<Tensor> {
        if let Some(t) = self.values.get(&v) {
            return Some(t.clone());
        }
        let g = &*self.cx.graph;
        if let Some(w) = g.weight(v) {
            return (w.len() == 1).then(|| w.reshaped(&[1]));
        }
        let ins = g.operands(v.node);
        let op = g.op(v.node)?.clone();
        let t = match &op {
            Op::Dequantize(dq) => {
                let q = Quantised::of(self.cx, v)?;
                let (scale, zero) = q.per_tensor()?;
                if !q.is_bytes(self.cx) || *self.source.get_or_insert(v) != v {
                    return None;
                }
                let dtype = q.dtype(self.cx);
                let all = Tensor::from_scalars(
                    dtype,
                    &[256],
                    (0..256u16).map(|b| Scalar::from_le_bytes(dtype, &[b as u8])),
                );
                let (scale, zero) =
                    (Tensor::new(&[], &[scale]), Tensor::full(&[], Scalar::of_int(dtype, i128::from(zero))));
                dq.eval(&[all, scale, zero]).ok()?.pop()?
            }
            op if op.class() == OpClass::Pointwise && self.values.len() < MAX_OPERATORS => {
                if ins.iter().any(|v| g.fact(*v).dtype != DType::F32) || g.node(v.node).facts[0].dtype != DType::F32 {
                    return None;
                }
                let args = ins.iter().map(|v| self.value(*v)).collect::<Option<Vec<_>>>()?;
                op.eval(&args).ok()?.pop()?
            }
            _ => return None,
        };
        self.values.insert(v, t.clone());
        Some(t)
    }
}

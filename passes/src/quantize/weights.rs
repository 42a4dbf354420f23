//! Weights that are bytes beside floats: kept as bytes, and converted where they are multiplied.
//!
//! Such models dequantise constants, by `DequantizeLinear` or by a conversion and a product, and multiply floats by them. Folded,
//! the constants would be four times as large. So [`recognise`] finds them before constants are folded, and [`keep`] makes
//! `x · DQ(w, s)` of a matrix product `(x · w) · s`, where scales are one a column. Rows that are chosen from a table
//! stay bytes by [`super::moves`].

use super::params::{Quantised, floats};
use super::product::Weights;
use crate::PassError;
use crate::normalize::Rewrite;
use tenon_base::{DType, Fact, Scalar, Tensor};
use tenon_ir::ops::binary::Binary;
use tenon_ir::ops::dequantize::Dequantize;
use tenon_ir::{Graph, NodeId, Op, Operator, ValueId};

/// Elements of a constant for which a conversion in every run is worth while.
const WORTH: usize = 1 << 12;

fn internal(pass: &str, message: String) -> PassError {
    PassError::Internal { pass: pass.into(), message }
}

/// `cast(w) · s`, and `(cast(w) - z) · s`, of constant bytes `w → DQ(w, s, z)`; gives how many.
pub fn recognise(graph: &mut Graph) -> Result<usize, PassError> {
    let fail = |message: String| internal("stored-weights", message);
    let mut found = 0;
    for id in graph.topological().map_err(|e| fail(e.to_string()))? {
        let loc = graph.node(id).loc.clone();
        let Some(operands) = dequantised(graph, id) else { continue };
        let mut cx = Rewrite::new(graph, loc);
        let mut ins = vec![operands.0];
        for t in [Some(operands.1), operands.2].into_iter().flatten() {
            ins.push(cx.graph.add_weight("", t));
        }
        let old = ValueId { node: id, port: 0 };
        let Some(new) = cx.op(Dequantize {}, &ins) else { continue };
        if cx.graph.fact(new) == cx.graph.fact(old) {
            graph.replace(old, new).map_err(|e| fail(e.to_string()))?;
            found += 1;
        }
    }
    graph.remove_dead();
    Ok(found)
}

/// The bytes, the scale and the zero point, if node `id` is a product that dequantises them.
fn dequantised(graph: &Graph, id: NodeId) -> Option<(ValueId, Tensor, Option<Tensor>)> {
    let binary = |v: ValueId, name: &str| {
        let op = graph.op(v.node)?;
        (op.name() == name).then(|| graph.operands(v.node))
    };
    let ins = binary(ValueId { node: id, port: 0 }, "mul")?;
    [(ins[0], ins[1]), (ins[1], ins[0])].into_iter().find_map(|(x, s)| {
        let scale = graph.weight(s)?.clone();
        let (x, zero) = match binary(x, "sub") {
            Some(sub) => (sub[0], Some(graph.weight(sub[1])?)),
            None => (x, None),
        };
        let Some(Op::Cast(cast)) = graph.op(x.node) else { return None };
        let q = graph.operands(x.node)[0];
        let w = graph.weight(q)?;
        let bytes = matches!(w.dtype(), DType::U8 | DType::I8) && w.len() >= WORTH;
        if cast.to != DType::F32 || scale.dtype() != DType::F32 || !bytes {
            return None;
        }
        let (lo, hi) = w.dtype().int_range()?;
        let zero = match zero {
            None => None,
            Some(z) => {
                let whole = |v: &f64| v.fract() == 0.0 && *v >= lo as f64 && *v <= hi as f64;
                let values = z.to_f64();
                let ints = values.iter().map(|v| Scalar::of_int(w.dtype(), *v as i128));
                values.iter().all(whole).then(|| Some(Tensor::from_scalars(w.dtype(), z.shape(), ints)))?
            }
        };
        Some((q, scale, zero))
    })
}

/// `x · DQ(w, s) → (x · w) · s` for floats `x` and constant bytes `w`.
pub(super) fn matmul(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let v = ValueId { node: id, port: 0 };
    let (op, ins) = cx.operands_if(v, |op| if let Op::MatMul(m) = op { Some(m.clone()) } else { None })?;
    let data = Quantised::of(cx, ins[1])?;
    if cx.graph.fact(ins[0]).dtype != DType::F32 || cx.graph.weight(data.q)?.len() < WORTH {
        return None;
    }
    let rank = cx.graph.fact(ins[1]).shape.rank();
    let axis = if op.trans_b { rank - 2 } else { rank - 1 };
    let w = Weights::of(cx, ins[1], axis).filter(|w| w.data.dtype() != DType::I16)?;
    let n = w.data.shape()[axis];
    let scale = floats(&[n], &w.scale);
    let w = cx.graph.add_weight("", w.data);
    let y = cx.op(op, &[ins[0], w])?;
    let s = cx.graph.add_weight("", scale);
    let y = cx.op(Binary::named("mul")?, &[y, s])?;
    let same: (&Fact, &Fact) = (cx.graph.fact(y), cx.graph.fact(v));
    (same.0 == same.1).then_some(y)
}

/// The constants that [`recognise`] found, as floats: what decides on integers itself looks at floats. Models that quantise
/// values have decided already.
pub fn in_floats(graph: &mut Graph) -> Result<(), PassError> {
    let decided = graph.nodes().any(|n| matches!(graph.op(n), Some(Op::Quantize(_))));
    if decided { Ok(()) } else { super::fold_constants(graph) }
}

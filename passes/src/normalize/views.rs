//! Views and moves: what cancels, merges, or moves nothing.

use super::{Class, Rewrite, Rule};
use tenon_ir::ops::reshape::Reshape;
use tenon_ir::ops::transpose::Transpose;
use tenon_ir::{NodeId, Op, ValueId};

/// The rules of this file.
pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "reshape-noop",
        class: Class::Exact,
        doc: "reshape to the operand's own shape → the operand",
        apply: reshape_noop,
    },
    Rule {
        name: "reshape-reshape",
        class: Class::Exact,
        doc: "reshape(reshape(x)) → reshape(x)",
        apply: reshape_reshape,
    },
    Rule {
        name: "transpose-is-view",
        class: Class::Exact,
        doc: "transpose that only moves axes of extent 1 → reshape",
        apply: transpose_is_view,
    },
    Rule {
        name: "transpose-transpose",
        class: Class::Exact,
        doc: "transpose(transpose(x)) → transpose(x)",
        apply: transpose_transpose,
    },
];

fn as_reshape(op: &Op) -> Option<Reshape> {
    if let Op::Reshape(r) = op { Some(r.clone()) } else { None }
}

pub(super) fn as_transpose(op: &Op) -> Option<Transpose> {
    if let Op::Transpose(t) = op { Some(t.clone()) } else { None }
}

fn result(id: NodeId) -> ValueId {
    ValueId { node: id, port: 0 }
}

fn reshape_noop(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let (_, ins) = cx.operands_if(result(id), as_reshape)?;
    (cx.graph.fact(ins[0]) == cx.graph.fact(result(id))).then_some(ins[0])
}

fn reshape_reshape(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let (outer, ins) = cx.operands_if(result(id), as_reshape)?;
    let (_, inner) = cx.operands_if(ins[0], as_reshape)?;
    cx.op(outer, &[inner[0]])
}

fn transpose_is_view(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let (t, ins) = cx.operands_if(result(id), as_transpose)?;
    let dims = cx.graph.fact(ins[0]).dims()?;
    let moved: Vec<usize> = t.perm.iter().copied().filter(|&a| dims[a] != 1).collect();
    if !moved.is_sorted() {
        return None;
    }
    let to = cx.graph.fact(result(id)).shape.clone();
    cx.op(Reshape { to }, &[ins[0]])
}

fn transpose_transpose(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let (outer, ins) = cx.operands_if(result(id), as_transpose)?;
    let (inner, from) = cx.operands_if(ins[0], as_transpose)?;
    let perm: Vec<usize> = outer.perm.iter().map(|&a| inner.perm[a]).collect();
    if perm.is_sorted() {
        return Some(from[0]);
    }
    cx.op(Transpose { perm }, &[from[0]])
}

//! Views and moves: what cancels, merges, or moves nothing.

use super::{Class, Rewrite, Rule};
use tenon_ir::ops::concat::Concat;
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
    Rule {
        name: "shuffle-concat",
        class: Class::Exact,
        doc: "concat of rows that a transpose then interleaves → concat along an axis behind",
        apply: shuffle_concat,
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

/// Rows joined one behind the other, split again and transposed: element `i` of each follows element `i` of the one before.
fn shuffle_concat(cx: &mut Rewrite<'_>, id: NodeId) -> Option<ValueId> {
    let (t, ins) = cx.operands_if(result(id), as_transpose)?;
    let (_, joined) = cx.operands_if(ins[0], as_reshape)?;
    let (c, parts) = cx.operands_if(joined[0], |op| if let Op::Concat(c) = op { Some(c.clone()) } else { None })?;
    let (whole, split) = (cx.graph.fact(joined[0]).dims()?, cx.graph.fact(ins[0]).dims()?);
    // Only rows: channels that are not last yet are for the layout first.
    let (a, rank) = (c.axis, split.len());
    if a + 1 != whole.len() || rank != whole.len() + 1 || !t.perm[..a].is_sorted() || t.perm[a..] != [a + 1, a] {
        return None;
    }
    let n = split[a + 1];
    let alike = parts.iter().all(|p| cx.graph.fact(*p).dims().is_some_and(|d| d[a] == n));
    if !alike || split[a] != parts.len() || split[..a] != whole[..a] {
        return None;
    }
    let mut to = cx.graph.fact(result(id)).shape.clone();
    to.0[a + 1] = 1_usize.into();
    let columns: Vec<ValueId> =
        parts.iter().map(|p| cx.op(Reshape { to: to.clone() }, &[*p])).collect::<Option<_>>()?;
    cx.op(Concat { axis: a + 1 }, &columns)
}

//! Extents that are known only at run time, from operands to results.
//!
//! A value with such an axis has room for the largest extent, and anything behind its actual end. So an operator may take it
//! where no result element within the actual extents reads an operand element outside of them: along other axes, or one
//! element for one. What would is refused.

use crate::op::{OpClass, Operator};
use crate::{Op, ValueId};
use tenon_base::{Dim, Fact};

/// An extent: a scalar value, and what it is multiplied by.
pub(crate) type Extent = Option<(ValueId, i64)>;

/// The extents of the one result of `op`. `ins` are the operands with theirs.
pub(crate) fn spread(op: &Op, ins: &[(Fact, Vec<Option<ValueId>>)], outs: &[Fact]) -> Result<Vec<Extent>, String> {
    let [out] = outs else { return Err(refuse(op, ins)) };
    let rank = out.shape.rank();
    let mut found: Vec<Extent> = vec![None; rank];
    // Result axis `axis` is operand axis `a`, element for element.
    let mut keep = |axis: usize, e: Option<ValueId>| -> Result<(), String> {
        match (e, found[axis]) {
            (None, _) => Ok(()),
            (Some(n), None) => {
                found[axis] = Some((n, 1));
                Ok(())
            }
            (Some(n), Some((m, 1))) if n == m => Ok(()),
            _ => Err(format!("{}: two extents that are known only at run time meet at axis {axis}", op.name())),
        }
    };
    let (first, extents) = &ins[0];
    let only_first = ins[1..].iter().all(|(_, e)| e.iter().all(Option::is_none));
    match op {
        _ if op.class() == OpClass::Pointwise => {
            for (f, e) in ins {
                let skip = rank - f.shape.rank();
                for (a, n) in e.iter().enumerate() {
                    keep(skip + a, *n)?;
                }
            }
        }
        Op::Reshape(_) => return reshape(op, ins, out),
        Op::Transpose(t) => {
            for (axis, a) in t.perm.iter().enumerate() {
                keep(axis, extents[*a])?;
            }
        }
        Op::Gather(g) if extents[g.axis].is_none() => {
            let indices = &ins[1].1;
            for (a, n) in extents.iter().enumerate().filter(|(a, _)| *a != g.axis) {
                keep(if a < g.axis { a } else { a + indices.len() - 1 }, *n)?;
            }
            for (a, n) in indices.iter().enumerate() {
                keep(g.axis + a, *n)?;
            }
        }
        Op::GatherElements(_) if extents.iter().all(Option::is_none) => {
            for (a, n) in ins[1].1.iter().enumerate() {
                keep(a, *n)?;
            }
        }
        Op::GatherNd(g) if g.batch == 0 && extents.iter().all(Option::is_none) => {
            let indices = &ins[1].1;
            for (a, n) in indices[..indices.len() - 1].iter().enumerate() {
                keep(a, *n)?;
            }
        }
        Op::Slice(s) => {
            for (a, n) in extents.iter().enumerate() {
                let whole = s.starts[a] == 0 && s.steps[a] == 1 && s.to.0[a] == first.shape.0[a];
                if n.is_some() && !whole {
                    return Err(refuse(op, ins));
                }
                keep(a, *n)?;
            }
        }
        Op::Concat(c) => {
            for (_, e) in ins {
                for (a, n) in e.iter().enumerate() {
                    if n.is_some() && a == c.axis {
                        return Err(refuse(op, ins));
                    }
                    keep(a, *n)?;
                }
            }
        }
        Op::Expand(_) => {
            let skip = rank - first.shape.rank();
            for (a, n) in extents.iter().enumerate() {
                keep(skip + a, *n)?;
            }
        }
        Op::Reduce(r) if r.axes.iter().all(|a| extents[*a].is_none()) => {
            // Reduced axes stay, with one element.
            for (a, n) in extents.iter().enumerate().filter(|_| rank == extents.len()) {
                keep(a, *n)?;
            }
            if rank != extents.len() {
                return Err(refuse(op, ins));
            }
        }
        Op::Softmax(s) if extents[s.axis].is_none() => {
            for (a, n) in extents.iter().enumerate() {
                keep(a, *n)?;
            }
        }
        // Rows of the left operand.
        Op::MatMul(m) if !m.trans_a && only_first && rank == extents.len() && extents[rank - 1].is_none() => {
            for (a, n) in extents.iter().enumerate() {
                keep(a, *n)?;
            }
        }
        _ => return Err(refuse(op, ins)),
    }
    Ok(found)
}

fn refuse(op: &Op, ins: &[(Fact, Vec<Option<ValueId>>)]) -> String {
    let at = ins
        .iter()
        .enumerate()
        .find_map(|(i, (f, e))| e.iter().position(Option::is_some).map(|a| format!("axis {a} of operand {i}, {f},")));
    format!(
        "{}: {} has an extent that is known only at run time (its shape says the largest), and the result depends on where it ends",
        op.name(),
        at.unwrap_or_default()
    )
}

/// An axis stays one, or takes in those behind it if it is the outermost.
fn reshape(op: &Op, ins: &[(Fact, Vec<Option<ValueId>>)], out: &Fact) -> Result<Vec<Extent>, String> {
    let (from, extents) = &ins[0];
    let (Some(x), Some(y)) = (from.dims(), out.dims()) else { return Err(refuse(op, ins)) };
    let mut found: Vec<Extent> = vec![None; y.len()];
    for (a, n) in extents.iter().enumerate() {
        let Some(n) = n else { continue };
        let before: usize = x[..a].iter().product();
        let same = (0..y.len()).find(|b| y[..*b].iter().product::<usize>() == before && y[*b] == x[a]);
        if let Some(b) = same {
            found[b] = Some((*n, 1));
            continue;
        }
        // Outermost: what lies behind the end stays behind it.
        let outer = (0..y.len())
            .find(|b| y[..*b].iter().product::<usize>() == 1 && x[a] > 0 && y[*b] % x[a] == 0 && y[*b] > 0);
        match outer {
            Some(b) if before == 1 && found[b].is_none() && extents.iter().flatten().count() == 1 => {
                found[b] = Some((*n, (y[b] / x[a]) as i64));
            }
            _ => return Err(refuse(op, ins)),
        }
    }
    debug_assert!(out.shape.0.iter().all(|d| matches!(d, Dim::Const(_))));
    Ok(found)
}

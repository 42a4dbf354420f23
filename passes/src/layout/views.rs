//! Transposes behind reshapes, and behind transposes of a few axes.
//!
//! Models split the channels, exchange the halves and join them again (a channel shuffle), or join the spatial axes. In both cases the
//! transpose that makes channels first goes on towards the one that makes them last again:
//!
//! ```text
//! reshape(transpose(x: [1,H,W,C]) : [1,C,H,W]) : [1,g,C/g,H,W]  →  transpose(reshape(x) : [1,H,W,g,C/g])
//! ```

use super::{inverse, loc_of, perm_of, transposed};
use std::ops::Range;
use tenon_base::{Dim, Shape};
use tenon_ir::ops::reshape::Reshape;
use tenon_ir::ops::transpose::Transpose;
use tenon_ir::{Graph, NodeId, ValueId};

/// `reshape(transpose(x))` as `transpose(reshape(x))`, where axes that the reshape joins or splits lie together in `x` too.
pub(super) fn behind_reshape(graph: &mut Graph, id: NodeId) -> Option<ValueId> {
    let t = graph.operands(id)[0];
    let perm = perm_of(graph, t)?;
    let x = graph.operands(t.node)[0];
    let (from, to) = (graph.fact(t).dims()?, graph.node(id).facts[0].dims()?);
    // Extents of 1 lie anywhere: what counts are the other axes of `x`, by their order.
    let long: Vec<usize> = (0..perm.len()).filter(|a| graph.fact(x).dims().is_some_and(|d| d[*a] != 1)).collect();
    let place = |axis: &usize| long.iter().position(|a| a == axis);
    let mut pieces: Vec<(Option<usize>, Range<usize>)> = vec![];
    for (axes, result) in pieces_of(&from, &to)? {
        let places: Vec<usize> = perm[axes].iter().filter_map(place).collect();
        if places.windows(2).any(|w| w[1] != w[0] + 1) {
            return None;
        }
        pieces.push((places.first().copied(), result));
    }
    pieces.sort_by_key(|(first, _)| *first);
    // Axes of the result in the order in which `x` has them.
    let order: Vec<usize> = pieces.into_iter().flat_map(|(_, result)| result).collect();
    let dims = order.iter().map(|a| Dim::from(to[*a])).collect();
    let loc = loc_of(graph, id);
    let y = graph.add_op(Reshape { to: Shape(dims) }, &[x], loc.clone()).ok()?[0];
    let perm = inverse(&order);
    if perm.is_sorted() {
        return Some(y);
    }
    transposed(graph, y, &perm, &loc)
}

/// `transpose(transpose(x))` with the outer one first, if the axes that it exchanges lie together in `x` as well as in what
/// the inner one makes of it: a shuffle in place.
pub(super) fn behind_shuffle(graph: &mut Graph, id: NodeId, outer: &[usize]) -> Option<ValueId> {
    let t = graph.operands(id)[0];
    let perm = perm_of(graph, t)?;
    let x = graph.operands(t.node)[0];
    let moved: Vec<usize> = (0..outer.len()).filter(|i| outer[*i] != *i).collect();
    let in_x: Vec<usize> = moved.iter().map(|i| perm[*i]).collect();
    let together = |axes: &[usize]| axes.windows(2).all(|w| w[1] == w[0] + 1);
    if moved.is_empty() || moved.len() == outer.len() || !together(&moved) || !together(&in_x) {
        return None;
    }
    // Whichever moves more axes goes behind: of two that move as many, each would go behind the other for ever.
    if perm.iter().enumerate().filter(|(i, p)| i != *p).count() <= moved.len() {
        return None;
    }
    let mut shuffle: Vec<usize> = (0..outer.len()).collect();
    for i in moved {
        shuffle[perm[i]] = perm[outer[i]];
    }
    let loc = loc_of(graph, id);
    let y = graph.add_op(Transpose { perm: shuffle }, &[x], loc.clone()).ok()?[0];
    graph.add_op(Transpose { perm }, &[y], loc).ok().map(|v| v[0])
}

/// The shortest runs of axes of `from` and of `to` that have as many elements; `None` where there are no elements.
fn pieces_of(from: &[usize], to: &[usize]) -> Option<Vec<(Range<usize>, Range<usize>)>> {
    let elements = |d: &[usize]| d.iter().try_fold(1_usize, |n, d| n.checked_mul(*d)).filter(|n| *n > 0);
    if elements(from)? != elements(to)? {
        return None;
    }
    let mut pieces = vec![];
    let (mut i, mut j) = (0, 0);
    while i < from.len() && j < to.len() {
        let (first, result) = (i, j);
        let (mut a, mut b) = (from[i], to[j]);
        (i, j) = (i + 1, j + 1);
        while a != b {
            if a < b {
                a *= from[i];
                i += 1;
            } else {
                b *= to[j];
                j += 1;
            }
        }
        pieces.push((first..i, result..j));
    }
    // Extents of 1 at the end.
    match pieces.last_mut() {
        Some((axes, result)) => (axes.end, result.end) = (from.len(), to.len()),
        None => pieces.push((0..from.len(), 0..to.len())),
    }
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_shuffles_none_goes_behind_the_other_for_ever() {
        let text = "graph g(%x: f32[2,3,4,5,6,7]) -> (\"y\": %1) {\n  \
                    %0 = transpose(%x) {perm=[0,1,2,4,3,5]} : f32[2,3,4,6,5,7]\n  \
                    %1 = transpose(%0) {perm=[0,2,1,3,4,5]} : f32[2,4,3,6,5,7]\n}\n";
        let mut graph = Graph::parse(text).expect("reads");
        assert_eq!(crate::layout::channels_last(&mut graph).ok(), Some(0), "{graph}");
    }

    #[test]
    fn pieces_are_as_short_as_can_be() {
        let of = |a: &[usize], b: &[usize]| pieces_of(a, b).map(|p| format!("{p:?}"));
        assert_eq!(
            of(&[1, 116, 28, 28], &[1, 2, 58, 28, 28]).as_deref(),
            Some("[(0..1, 0..1), (1..2, 1..3), (2..3, 3..4), (3..4, 4..5)]")
        );
        assert_eq!(of(&[2, 6, 5], &[3, 4, 5]).as_deref(), Some("[(0..2, 0..2), (2..3, 2..3)]"));
        assert_eq!(of(&[7], &[1, 7, 1]).as_deref(), Some("[(0..1, 0..3)]"));
        assert_eq!(of(&[], &[1]).as_deref(), Some("[(0..0, 0..1)]"));
        assert_eq!(of(&[0, 2], &[2, 0]), None);
    }
}

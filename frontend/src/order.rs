//! The order in which nodes are imported.

use crate::proto::{GraphProto, NodeProto};
use std::collections::{BTreeMap, BTreeSet};

/// An order of nodes in which every value is made before it is used.
#[derive(Debug, PartialEq)]
pub(crate) struct Order {
    /// Positions in the list of nodes. Nodes on a cycle, or that depend on one, are not in it.
    pub(crate) nodes: Vec<usize>,
    /// For a list that is not in order: a node that uses a value before it is made, and that value.
    pub(crate) unsorted: Option<(usize, String)>,
    /// Nodes of a cycle, in its order.
    pub(crate) cycle: Vec<usize>,
}

/// Every name that `n` uses, those of its subgraphs included.
fn uses<'p>(n: &'p NodeProto, out: &mut Vec<&'p str>) {
    out.extend(n.input.iter().map(String::as_str));
    n.attribute.iter().filter_map(|a| a.g.as_deref()).for_each(|g| graph_uses(g, out));
}

fn graph_uses<'p>(g: &'p GraphProto, out: &mut Vec<&'p str>) {
    g.node.iter().for_each(|n| uses(n, out));
    out.extend(g.output.iter().map(|v| v.name.as_str()));
}

/// Names that a subgraph of `n` makes itself: a use of one of them there is not a use of an outer value.
fn makes_inside<'p>(n: &'p NodeProto, out: &mut BTreeSet<&'p str>) {
    for g in n.attribute.iter().filter_map(|a| a.g.as_deref()) {
        out.extend(g.input.iter().map(|v| v.name.as_str()));
        out.extend(g.initializer.iter().map(|t| t.name.as_str()));
        for n in &g.node {
            out.extend(n.output.iter().map(String::as_str));
            makes_inside(n, out);
        }
    }
}

/// Orders `nodes`: as they are, when that is an order; else stably sorted.
pub(crate) fn order(nodes: &[NodeProto]) -> Order {
    let mut maker: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, n) in nodes.iter().enumerate() {
        for o in n.output.iter().filter(|o| !o.is_empty()) {
            maker.entry(o).or_insert(i);
        }
    }
    let needs: Vec<Vec<(usize, &str)>> = nodes
        .iter()
        .map(|n| {
            let (mut used, mut own) = (vec![], BTreeSet::new());
            uses(n, &mut used);
            makes_inside(n, &mut own);
            let direct = n.input.len();
            let outer = used.into_iter().enumerate().filter(|(k, name)| *k < direct || !own.contains(name));
            outer.filter_map(|(_, name)| maker.get(name).map(|m| (*m, name))).collect()
        })
        .collect();
    let early = needs
        .iter()
        .enumerate()
        .find_map(|(i, all)| all.iter().find(|(m, _)| *m >= i).map(|(_, name)| (i, (*name).to_string())));
    if early.is_none() {
        return Order { nodes: (0..nodes.len()).collect(), unsorted: None, cycle: vec![] };
    }
    let mut missing: Vec<usize> = vec![0; nodes.len()];
    let mut users: Vec<Vec<usize>> = vec![vec![]; nodes.len()];
    for (i, all) in needs.iter().enumerate() {
        let makers: BTreeSet<usize> = all.iter().map(|(m, _)| *m).collect();
        missing[i] = makers.len();
        makers.into_iter().for_each(|m| users[m].push(i));
    }
    let mut ready: BTreeSet<usize> = (0..nodes.len()).filter(|i| missing[*i] == 0).collect();
    let mut sorted = Vec::with_capacity(nodes.len());
    while let Some(i) = ready.pop_first() {
        sorted.push(i);
        for &u in &users[i] {
            missing[u] -= 1;
            if missing[u] == 0 {
                ready.insert(u);
            }
        }
    }
    let cycle = find_cycle(&needs, &missing);
    Order { nodes: sorted, unsorted: early, cycle }
}

/// A cycle among the nodes that could not be sorted: each of them needs another one of them.
fn find_cycle(needs: &[Vec<(usize, &str)>], missing: &[usize]) -> Vec<usize> {
    let Some(mut at) = missing.iter().position(|m| *m > 0) else { return vec![] };
    let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
    let mut path = vec![];
    while !seen.contains_key(&at) {
        seen.insert(at, path.len());
        path.push(at);
        match needs[at].iter().find(|(m, _)| missing[*m] > 0) {
            Some((m, _)) => at = *m,
            None => return vec![],
        }
    }
    // The walk goes from user to maker; data flows the other way.
    let mut cycle = path.split_off(seen[&at]);
    cycle.reverse();
    cycle
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(inputs: &[&str], outputs: &[&str]) -> NodeProto {
        let own = |n: &[&str]| n.iter().map(|s| s.to_string()).collect();
        NodeProto { input: own(inputs), output: own(outputs), ..NodeProto::default() }
    }

    #[test]
    fn sorts_and_finds_cycles() {
        let sorted = order(&[node(&["x"], &["a"]), node(&["a", ""], &["b"])]);
        assert_eq!(sorted, Order { nodes: vec![0, 1], unsorted: None, cycle: vec![] });
        let unsorted = order(&[node(&["a"], &["b"]), node(&["x"], &["a"]), node(&["x"], &["c"])]);
        assert_eq!(unsorted, Order { nodes: vec![1, 0, 2], unsorted: Some((0, "a".into())), cycle: vec![] });
        let cyclic = order(&[
            node(&["x"], &["z"]),
            node(&["b"], &["a"]),
            node(&["c", "z"], &["b"]),
            node(&["a"], &["c"]),
            node(&["c"], &["d"]),
        ]);
        assert_eq!((cyclic.nodes, cyclic.cycle), (vec![0], vec![3, 2, 1]));
        assert_eq!(order(&[node(&["a"], &["a"])]).cycle, vec![0]);
    }
}

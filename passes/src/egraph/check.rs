//! The proof by example: in a saturated e-graph every node of every class is computed by the reference interpreter from drawn
//! inputs, and all nodes of a class must agree. This tests all rules, in all the combinations that arose, at once.

use super::node::{Egraph, Head, Node};
use egg::Id;
use std::collections::BTreeMap;
use tenon_base::Tensor;
use tenon_ir::Operator;

/// What was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Compared {
    /// Nodes computed.
    pub nodes: usize,
    /// Classes with more than one node.
    pub classes: usize,
    /// The largest difference within a class, as part of the class's largest magnitude.
    pub worst: f64,
}

/// Computes all nodes of `eg` on `inputs`; nodes of a class must agree within `tolerance` of its largest magnitude.
///
/// # Errors
/// The first disagreement, with both nodes and who made them.
pub fn class_wise(eg: &Egraph, inputs: &[Tensor], tolerance: f64) -> Result<Compared, String> {
    let mut ids: Vec<Id> = eg.classes().map(|c| c.id).collect();
    ids.sort_unstable();
    // Results of every class, one a port. Classes may need each other in circles, so any node will do at first.
    let mut values: BTreeMap<Id, Vec<Tensor>> = BTreeMap::new();
    loop {
        let before = values.len();
        for id in &ids {
            if values.contains_key(id) {
                continue;
            }
            if let Some(v) = eg[*id].nodes.iter().find_map(|n| compute(eg, n, inputs, &values).transpose()) {
                values.insert(*id, v?);
            }
        }
        if values.len() == before {
            break;
        }
    }
    let mut out = Compared::default();
    for id in &ids {
        let Some(first) = values.get(id) else { return Err(format!("class {id} cannot be computed")) };
        out.classes += usize::from(eg[*id].len() > 1);
        for n in &eg[*id].nodes {
            let Some(found) = compute(eg, n, inputs, &values)? else {
                return Err(format!("a node of class {id} cannot be computed"));
            };
            out.nodes += 1;
            let d = difference(first, &found).ok_or_else(|| format!("class {id}: types differ: {}", show(eg, n)))?;
            out.worst = out.worst.max(d);
            if d > tolerance {
                let all: Vec<String> = eg[*id].nodes.iter().map(|n| show(eg, n)).collect();
                return Err(format!(
                    "class {id}: {} differs by {d:e} from the others:\n  {}",
                    show(eg, n),
                    all.join("\n  ")
                ));
            }
        }
    }
    Ok(out)
}

fn show(eg: &Egraph, n: &Node) -> String {
    match n.head {
        Head::Op(name, op) => format!("{name} {:?} on {:?}", eg.analysis.op(op).attrs().0, &n.args[..]),
        other => format!("{other:?}"),
    }
}

fn compute(
    eg: &Egraph,
    n: &Node,
    inputs: &[Tensor],
    values: &BTreeMap<Id, Vec<Tensor>>,
) -> Result<Option<Vec<Tensor>>, String> {
    let args: Option<Vec<&Vec<Tensor>>> = n.args.iter().map(|a| values.get(&eg.find(*a))).collect();
    let Some(args) = args else { return Ok(None) };
    Ok(Some(match n.head {
        Head::Input(i) => vec![inputs[i as usize].clone()],
        Head::Const(c) => vec![eg.analysis.constants.known(c).cloned().ok_or("a constant without data")?],
        Head::Port(p) => vec![args[0][usize::from(p)].clone()],
        Head::Op(_, op) => {
            let ins: Vec<Tensor> = args.iter().map(|a| a[0].clone()).collect();
            eg.analysis.op(op).eval(&ins)?
        }
    }))
}

/// The largest difference, as part of the largest magnitude; `None` if types differ. Where both are not finite alike there is
/// none.
fn difference(a: &[Tensor], b: &[Tensor]) -> Option<f64> {
    let mut worst = 0f64;
    for (x, y) in a.iter().zip(b) {
        if x.fact() != y.fact() {
            return None;
        }
        let (x, y) = (x.to_f64(), y.to_f64());
        let scale = x.iter().filter(|v| v.is_finite()).fold(1e-6f64, |m, v| m.max(v.abs()));
        for (p, q) in x.iter().zip(&y) {
            let same = p == q || (p.is_nan() && q.is_nan());
            if !same {
                let d = (p - q).abs() / scale;
                worst = worst.max(if d.is_nan() { f64::INFINITY } else { d });
            }
        }
    }
    (a.len() == b.len()).then_some(worst)
}

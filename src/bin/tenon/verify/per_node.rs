//! Every value inside a model, compiled against the reference interpreter: finds the operator at fault.
//!
//! Each value is made an output of the model, which is compiled again. This keeps the operators' kernels but allows less
//! fusion: when every value agrees here and the model does not, the fault is in what joins the operators.

use super::CheckArgs;
use super::result::{Event, NodeResult};
use super::worker::tell;
use crate::compare::{Tolerance, compare};
use crate::failure::Outcome;
use std::collections::BTreeMap;
use tenon::engine::{Engine, Session};
use tenon::ir::{NodeKind, Operator, ValueId};
use tenon::{Compiled, Compiler, Tensor};

/// Lines told of one engine: the first values that differ, or the worst that agree.
const MOST: usize = 10;

pub(super) fn compare_all(args: &CheckArgs, compiled: &Compiled, ins: &[Tensor]) -> Outcome {
    tell(&Event::Stage("every value, reference interpreter".into()));
    let mut graph = compiled.graph.clone();
    let order = graph.topological().map_err(|e| crate::failure::Failure::internal(e.to_string()))?;
    let mut values: Vec<ValueId> = vec![];
    for id in order {
        if let NodeKind::Op(_) = graph.node(id).kind {
            values.extend((0..graph.node(id).facts.len()).map(|port| ValueId { node: id, port: port as u16 }));
        }
    }
    let own = graph.outputs().len();
    for (i, v) in values.iter().enumerate() {
        graph.add_output(format!("value_{i}"), *v);
    }
    let mut expected: BTreeMap<ValueId, Tensor> = BTreeMap::new();
    tenon::ir::eval::run_with(&graph, ins, &mut |v, t| {
        expected.insert(v, t.clone());
    })
    .map_err(tenon::Error::from)?;

    tell(&Event::Stage("every value, compiling".into()));
    let options = args.compile.machine_options()?.name("every_value");
    let all = Compiler::new(options).compile_graph(graph)?;
    for &engine in args.engines.iter().filter(|e| **e != Engine::Reference) {
        tell(&Event::Stage(format!("every value, {engine}")));
        let found = Session::new(engine, &all)?.run(ins)?;
        let mut results: Vec<NodeResult> = vec![];
        for (v, f) in values.iter().zip(&found[own..]) {
            let Some(e) = expected.get(v) else { continue };
            let c = compare(e, f, &Tolerance::default_for(e.dtype()).rounding(all.rounded_calls()));
            let node = all.graph.node(v.node);
            results.push(NodeResult {
                engine: engine.name().into(),
                node: node.loc.to_string(),
                op: all.graph.op(v.node).map_or("", |o| o.name()).into(),
                r#type: e.fact().to_string(),
                pass: c.passes(),
                max_abs: c.max_abs,
                part: c.worst.is_finite().then_some(c.worst),
                problem: (!c.passes()).then(|| c.explain()),
            });
        }
        if results.iter().any(|r| !r.pass) {
            // In the order of execution: the first is the cause, the others may only inherit it.
            results.retain(|r| !r.pass);
        } else {
            results.sort_by(|a, b| b.part.partial_cmp(&a.part).unwrap_or(std::cmp::Ordering::Equal));
        }
        results.iter().take(MOST).for_each(|r| tell(&Event::Node(r.clone())));
    }
    Ok(())
}

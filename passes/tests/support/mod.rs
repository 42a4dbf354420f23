//! Cases of rules as text: `tests/rules/<theme>.txt`.
//!
//! ```text
//! # silu
//! %x: f32[2,3]
//! %0 = sigmoid(%x)
//! %y = mul(%0, %x)
//! ~
//! …the near miss, in the same form
//! ```
//!
//! Lines are graph text; the result is `%y`. `drawn f32[2,3]` is a weight of drawn data, `full f32[] 0.5` one of one number,
//! `list i64[2] [1,3]` one of these.

use std::path::Path;
use tenon_base::{DType, Fact, Scalar, Tensor};
use tenon_ir::{Graph, ValueId};

/// A rule's case.
pub(crate) struct Case {
    pub(crate) rule: String,
    pub(crate) fires: Graph,
    pub(crate) near_miss: Graph,
}

/// All cases under `tests/rules`.
pub(crate) fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules");
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).expect("the cases").flatten().map(|e| e.path()).filter(|p| p.is_file()).collect();
    files.sort();
    let mut all = vec![];
    for file in files {
        let text = std::fs::read_to_string(&file).expect("readable");
        for case in text.split("# ").filter(|c| !c.trim().is_empty()) {
            let (name, body) = case.split_once('\n').expect("a name and a body");
            let (fires, near) = body.split_once("\n~\n").unwrap_or_else(|| panic!("{name}: no near miss"));
            let read = |what: &str, text: &str| {
                let graph = text_of(text);
                Graph::parse(&graph).unwrap_or_else(|e| panic!("{name}, {what}: {e}\n{graph}"))
            };
            let (fires, near_miss) = (read("case", fires), read("near miss", near));
            all.push(Case { rule: name.trim().to_string(), fires, near_miss });
        }
    }
    all
}

/// What exporters write in many ways: a name, the operator it is to become, kernels at most, and the graph.
pub(crate) fn variants() -> Vec<(String, String, usize, Graph)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/variants/exporters.txt");
    let text = std::fs::read_to_string(file).expect("the variants");
    let mut all = vec![];
    for case in text.split("# ").filter(|c| !c.trim().is_empty()) {
        let (head, body) = case.split_once('\n').expect("a head and a body");
        let (name, wanted) = head.split_once(" -> ").expect("what it becomes");
        let (op, kernels) = wanted.split_once(' ').expect("how many kernels");
        let graph = text_of(body);
        let graph = Graph::parse(&graph).unwrap_or_else(|e| panic!("{name}: {e}\n{graph}"));
        all.push((name.to_string(), op.to_string(), kernels.trim().parse().expect("a number"), graph));
    }
    all
}

fn text_of(body: &str) -> String {
    let (inputs, lines) = body.trim().split_once('\n').expect("inputs and a body");
    let mut out = format!("graph case({inputs}) -> (\"y\": %y) {{\n");
    for (i, line) in lines.lines().enumerate() {
        out += &format!("  {}\n", weight(line, i).unwrap_or_else(|| line.to_string()));
    }
    out + "}\n"
}

/// A line that makes a weight, in graph text.
fn weight(line: &str, seed: usize) -> Option<String> {
    let (name, rest) = line.split_once(" = ")?;
    let (kind, rest) = rest.split_once(' ')?;
    if !matches!(kind, "drawn" | "full" | "list") {
        return None;
    }
    let (fact, data) = rest.split_once(' ').unwrap_or((rest, ""));
    let dims = fact.split_once('[').map_or("", |(_, d)| d.trim_end_matches(']'));
    let n: usize =
        dims.split(',').filter(|d| !d.is_empty()).map(|d| d.parse::<usize>().expect("an extent")).product();
    let values: Vec<String> = match kind {
        "drawn" => (0..n).map(|i| format!("{:?}", ((i * 53 + seed * 97 + 31) % 211) as f32 / 100.0 - 1.05)).collect(),
        "full" => vec![data.to_string(); n],
        _ => {
            return Some(format!(
                "{name} = weight \"\" : {fact} = {}",
                if data.starts_with('[') && n > 0 { data.to_string() } else { format!("[{data}]") }
            ));
        }
    };
    Some(format!("{name} = weight \"\" : {fact} = [{}]", values.join(", ")))
}

/// Data for the inputs of `graph`: floats on both sides of 0, integers over all the dtype's small values.
pub(crate) fn inputs(graph: &Graph) -> Vec<Tensor> {
    let facts = graph.inputs().iter().map(|&node| graph.fact(ValueId { node, port: 0 }));
    facts.enumerate().map(|(i, f)| drawn(f, i + 11)).collect()
}

/// Data of one fact.
pub(crate) fn drawn(fact: &Fact, seed: usize) -> Tensor {
    let dims = fact.dims().expect("known");
    let n: usize = dims.iter().product();
    let value = |i: usize| {
        let k = (i * 53 + seed * 97) % 211;
        match fact.dtype {
            DType::Bool => Scalar::of_int(DType::Bool, (k % 2) as i128),
            d if d.is_int() => Scalar::of_int(d, (k % 200) as i128 - if d.is_signed_int() { 100 } else { 0 }),
            d => Scalar::of_f64(d, k as f64 / 50.0 - 2.1),
        }
    };
    Tensor::from_scalars(fact.dtype, &dims, (0..n).map(value))
}

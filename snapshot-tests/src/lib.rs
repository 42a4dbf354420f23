//! What the tests that span crates share: drawn data, comparison, random graphs, the ledger of ONNX cases, places.
//!
//! Expected outputs are data: text cases under `corpus/` with snapshots beside them, and `ledger/onnx-node.json`.
//! Nothing here may be needed to compile a model.
#![forbid(unsafe_code)]

pub mod data;
pub mod ledger;
pub mod places;
pub mod random_graph;
pub mod sources;

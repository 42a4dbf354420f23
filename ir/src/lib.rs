//! The operator graph: typed operators over symbolic facts, their text, verifier and reference interpreter.
//!
//! An operator is one file under [`ops`] and one line in its list; everything else here is generic. This crate
//! knows ONNX's operators but not its file format, and no machine.
#![forbid(unsafe_code)]

pub mod attrs;
pub mod effort;
pub mod eval;
pub mod gate;
pub mod graph;
pub mod import;
pub mod lower;
pub mod narrow;
pub mod op;
pub mod ops;
mod region;
pub mod text;
pub mod verify;

pub use attrs::{Attr, Attrs};
pub use graph::{Graph, GraphError, Node, NodeId, NodeKind, ValueId};
pub use import::{ImportError, Importer, OnnxAttr, OnnxGraph, OnnxNode};
pub use lower::{LowerCx, LowerError};
pub use op::{InferError, OnnxName, OpClass, Operator, Tolerance};
pub use ops::Op;
pub use region::Region;
pub use text::ParseError;
pub use verify::{VerifyError, verify};

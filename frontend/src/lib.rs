//! ONNX bytes to graph IR: the only crate that knows protobuf.
//!
//! [`import_file`] maps a model, so weights are slices of the file and are not copied, reads it into a
//! [`tenon_ir::Graph`] with every shape inferred, and reports all problems of the model at once. A model is untrusted:
//! whatever the bytes, the answer is a graph or an error, in bounded time and memory (the bounds are in `limits.rs`).
#![deny(unsafe_code)]

mod attr;
mod body;
mod control;
mod dims;
mod files;
mod flex;
mod import;
mod info;
mod level;
mod limits;
mod lists;
mod order;
mod proto;
mod repeat;
mod report;
mod tensor;
mod trips;
mod types;
mod wire;

pub use import::{Given, ImportOptions, Imported, import_bytes, import_file};
pub use info::{ModelInfo, OpUse, inspect_bytes, inspect_file};
pub use tensor::{Data, read_data_file, read_tensor_bytes, read_tensor_file};

/// Makes what importing needs once in a process.
pub fn prepare() {
    info::Table::all();
}

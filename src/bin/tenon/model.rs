//! What a model declares, read without compiling it.

use crate::failure::Outcome;
use std::path::Path;
use tenon::{Error, Fact};

/// An input's name, and its type where that is a tensor of known rank; extents may be symbols.
pub(crate) type Declared = (String, Option<Fact>);

/// The inputs that a run must be given, in the model's order.
pub(crate) fn declared_inputs(path: &Path) -> Outcome<Vec<Declared>> {
    Ok(tenon::frontend::inspect_file(path).map_err(Error::Model)?.inputs)
}

//! What a model declares, read without compiling it.

use crate::failure::Outcome;
use std::path::Path;
use tenon::Error;
use tenon::frontend::ModelInfo;

/// What the model in the file says of itself.
pub(crate) fn declared(path: &Path) -> Outcome<ModelInfo> {
    Ok(tenon::frontend::inspect_file(path).map_err(Error::Model)?)
}

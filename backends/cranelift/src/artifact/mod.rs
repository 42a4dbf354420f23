//! What is written beside an object: a C header, a Rust module.
//!
//! Both are plain text that depends on the program and the target only.

mod header;
mod names;
mod rust_module;

pub use header::c_header;
pub use rust_module::rust_module;

use names::Names;
use tenon_base::DType;
use tenon_kernel::{Io, Program};

/// One input or output as the texts show it.
struct Field {
    /// Its identifier.
    name: String,
    dtype: DType,
    /// Elements.
    len: usize,
    /// `f32[1,3,224,224]` and the model's own name, for a comment.
    what: String,
}

impl Field {
    fn bytes(&self) -> usize {
        self.len * self.dtype.size()
    }
}

/// The inputs and outputs of `program`, with identifiers that are unique among both.
fn fields(program: &Program, keywords: &[&str]) -> (Vec<Field>, Vec<Field>) {
    let mut names = Names::new(keywords);
    let mut list = |io: &[Io]| -> Vec<Field> {
        io.iter()
            .map(|io| Field {
                name: names.fresh(&io.name),
                dtype: io.fact.dtype,
                len: io.fact.dims().unwrap_or_default().iter().product(),
                what: comment(&format!("{}, `{}`", io.fact, io.name)),
            })
            .collect()
    };
    let inputs = list(&program.inputs);
    (inputs, list(&program.outputs))
}

/// `text` on one line, and unable to end a comment.
fn comment(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .replace("*/", "* /")
        .replace("/*", "/ *")
}

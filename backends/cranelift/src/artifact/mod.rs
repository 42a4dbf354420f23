//! What is written beside an object: a C header, a Rust module.
//!
//! Both are plain text that depends on the program and the target only.

mod header;
mod names;
mod rust_module;

pub use header::{c_header, c_header_of};
pub use rust_module::{rust_module, rust_module_of};

use crate::Object;
use names::Names;
use std::collections::BTreeMap;
use tenon_base::DType;
use tenon_kernel::{Io, Program};

/// What of an object, beyond its program, the texts beside it show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Bytes of the file of constant data, where they are not in the object.
    pub weights_file: Option<usize>,
    /// Bytes of the arena that the self-test takes, where there is one.
    pub selftest_arena: Option<usize>,
    /// Bytes of the stack that a run takes at most, where that is known.
    pub stack: Option<usize>,
    /// The shapes of inputs and outputs that differ from run to run, by name: `[batch,3,2*h]`.
    pub shapes: BTreeMap<String, String>,
}

impl Interface {
    /// That of `object`.
    pub fn of(object: &Object) -> Interface {
        Interface {
            weights_file: object.weights_file.as_ref().map(Vec::len),
            selftest_arena: object.selftest_arena_bytes,
            stack: Some(object.stack_bytes),
            shapes: BTreeMap::new(),
        }
    }
}

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
fn fields(program: &Program, keywords: &[&str], shapes: &BTreeMap<String, String>) -> (Vec<Field>, Vec<Field>) {
    let mut names = Names::new(keywords);
    let mut list = |io: &[Io], sized: &BTreeMap<usize, usize>, bounded: &BTreeMap<usize, (i64, i64)>| -> Vec<Field> {
        io.iter()
            .enumerate()
            .map(|(k, other)| (other, sized.get(&k).and_then(|by| io.get(*by)), bounded.get(&k)))
            .map(|(io, by, size)| Field {
                name: names.fresh(&io.name),
                dtype: io.fact.dtype,
                len: io.fact.dims().unwrap_or_default().iter().product(),
                what: comment(&match (by, shapes.get(&io.name)) {
                    (None, _) if size.is_some() => {
                        let (least, most) = size.copied().unwrap_or_default();
                        match least == most {
                            true => format!("{}, `{}`: {most}, others are refused", io.fact, io.name),
                            false => format!("{}, the size `{}` of this run: {least} to {most}", io.fact, io.name),
                        }
                    }
                    (None, None) => format!("{}, `{}`", io.fact, io.name),
                    (None, Some(shape)) => format!("{}, `{}`; {shape} of it in a run", io.fact, io.name),
                    (Some(by), Some(shape)) => {
                        format!("{}, `{}`; {shape} of it in a run, which `{}` tells", io.fact, io.name, by.name)
                    }
                    (Some(by), None) => {
                        format!("{} at most, `{}`; `{}` tells its actual extents", io.fact, io.name, by.name)
                    }
                }),
            })
            .collect()
    };
    let inputs = list(&program.inputs, &BTreeMap::new(), &program.bounded);
    (inputs, list(&program.outputs, &program.sized, &BTreeMap::new()))
}

/// `text` on one line, and unable to end a comment.
fn comment(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .replace("*/", "* /")
        .replace("/*", "/ *")
}

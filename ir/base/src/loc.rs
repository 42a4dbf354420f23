//! Where a thing came from in the user's model.

use std::fmt;
use std::sync::Arc;

/// The source location of a node: the ONNX node's name and operator. Survives every rewrite.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Loc(Option<Arc<str>>);

impl Loc {
    /// A location that prints as `name`.
    pub fn new(name: impl AsRef<str>) -> Loc {
        Loc(Some(Arc::from(name.as_ref())))
    }

    /// No location: made by the compiler, or unnamed.
    pub const fn none() -> Loc {
        Loc(None)
    }

    /// The name, if there is one.
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl fmt::Display for Loc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name().unwrap_or("<compiler>"))
    }
}

//! What is known of a value before it is computed: dtype and shape.

use crate::{DType, Dim};
use std::fmt;

/// A list of dimensions, outermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// A shape of known extents.
    pub fn of(dims: &[usize]) -> Shape {
        Shape(dims.iter().map(|&d| Dim::from(d)).collect())
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The extents, when all are known.
    pub fn to_usize(&self) -> Option<Vec<usize>> {
        self.0.iter().map(Dim::as_usize).collect()
    }

    /// The number of elements, symbolic where the shape is.
    pub fn numel(&self) -> Dim {
        self.0.iter().fold(Dim::Const(1), |n, d| n.mul(d))
    }

    /// ONNX multidirectional broadcasting. `Err` tells the two extents that disagree. An unknown extent against
    /// a known one above 1 is taken to be equal to it (or 1 at run time, which a pinned compile sees).
    pub fn broadcast(&self, other: &Shape) -> Result<Shape, (Dim, Dim)> {
        let rank = self.rank().max(other.rank());
        let at = |s: &Shape, i: usize| (i + s.rank()).checked_sub(rank).map_or(Dim::Const(1), |j| s.0[j].clone());
        (0..rank)
            .map(|i| match (at(self, i), at(other, i)) {
                (a, b) if a == b => Ok(a),
                (Dim::Const(1), b) => Ok(b),
                (a, Dim::Const(1)) => Ok(a),
                (Dim::Const(a), Dim::Const(b)) => Err((Dim::Const(a), Dim::Const(b))),
                (Dim::Const(a), _) | (_, Dim::Const(a)) => Ok(Dim::Const(a)),
                (a, b) => Ok(a.larger(&b)),
            })
            .collect::<Result<_, _>>()
            .map(Shape)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            write!(f, "{}{d}", if i > 0 { "," } else { "" })?;
        }
        f.write_str("]")
    }
}

/// The type of a value: its dtype and its shape. Prints as `f32[1,3,224,224]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fact {
    /// Element type.
    pub dtype: DType,
    /// Extents.
    pub shape: Shape,
}

impl Fact {
    /// A fact of `dtype` and `shape`.
    pub fn new(dtype: DType, shape: Shape) -> Fact {
        Fact { dtype, shape }
    }

    /// A fact of known extents.
    pub fn of(dtype: DType, dims: &[usize]) -> Fact {
        Fact { dtype, shape: Shape::of(dims) }
    }

    /// The known extents, or `None` when one is symbolic.
    pub fn dims(&self) -> Option<Vec<usize>> {
        self.shape.to_usize()
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

//! Attributes of operators: typed fields in Rust, one generic form for text and tools.

use crate::Region;
use std::collections::BTreeMap;
use std::fmt;
use tenon_base::text::quoted;
use tenon_base::{DType, Real, Shape};

/// An attribute in generic form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Attr {
    /// `true` / `false`
    Bool(bool),
    /// `7`
    Int(i64),
    /// `0.5`
    Real(Real),
    /// `f32`
    DType(DType),
    /// `"linear"`
    Str(String),
    /// `[1,2]`
    Ints(Vec<i64>),
    /// `[0.5,1.0]`
    Reals(Vec<Real>),
    /// `<[2,batch]>`
    Shape(Shape),
    /// `graph body(…) -> (…) { … }`
    Graph(Region),
}

impl fmt::Display for Attr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T>(f: &mut fmt::Formatter<'_>, v: &[T], show: impl Fn(&T) -> String) -> fmt::Result {
            write!(f, "[{}]", v.iter().map(show).collect::<Vec<_>>().join(","))
        }
        match self {
            Attr::Bool(b) => write!(f, "{b}"),
            Attr::Int(i) => write!(f, "{i}"),
            Attr::Real(r) => f.write_str(&real(r)),
            Attr::DType(d) => write!(f, "{d}"),
            Attr::Str(s) => {
                let mut out = String::new();
                quoted(&mut out, s);
                f.write_str(&out)
            }
            Attr::Ints(v) => list(f, v, i64::to_string),
            Attr::Reals(v) => list(f, v, real),
            Attr::Shape(s) => write!(f, "<{s}>"),
            Attr::Graph(g) => write!(f, "{g}"),
        }
    }
}

/// Reads back bit for bit: `0.5`, `-inf`, `nan`, and any other NaN by its bits.
fn real(r: &Real) -> String {
    match r.0 {
        v if v.is_nan() && v.to_bits() == f64::NAN.to_bits() => "nan".to_string(),
        v if v.is_nan() => format!("nan({:#x})", v.to_bits()),
        v => format!("{v:?}"),
    }
}

/// All attributes of one operator, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attrs(pub BTreeMap<String, Attr>);

impl Attrs {
    /// Takes `name` out and converts it.
    pub fn take<T: AttrValue>(&mut self, name: &str) -> Result<T, String> {
        match self.0.remove(name) {
            None => T::absent().ok_or_else(|| format!("attribute `{name}` is missing")),
            Some(a) => {
                T::from_attr(&a).ok_or_else(|| format!("attribute `{name}`: expected {}, found `{a}`", T::EXPECTED))
            }
        }
    }

    /// Fails if attributes are left that nobody took.
    pub fn finish(self) -> Result<(), String> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(k) => Err(format!("unknown attribute `{k}`")),
        }
    }
}

/// A field type that an attribute can hold.
pub trait AttrValue: Sized {
    /// What the text form should look like, for messages.
    const EXPECTED: &'static str;
    /// To the generic form; `None` leaves the attribute out.
    fn to_attr(&self) -> Option<Attr>;
    /// From the generic form.
    fn from_attr(a: &Attr) -> Option<Self>;
    /// The value when the attribute is left out, if it may be.
    fn absent() -> Option<Self> {
        None
    }
}

macro_rules! attr_value {
    ($($t:ty, $expected:literal, $($p:pat => $e:expr),+; $x:ident => $to:expr);* $(;)?) => {$(
        impl AttrValue for $t {
            const EXPECTED: &'static str = $expected;
            fn to_attr(&self) -> Option<Attr> {
                let $x = self;
                Some($to)
            }
            fn from_attr(a: &Attr) -> Option<Self> {
                match a { $($p => $e,)+ _ => None }
            }
        }
    )*};
}

attr_value! {
    bool, "true or false", Attr::Bool(b) => Some(*b); x => Attr::Bool(*x);
    i64, "an integer", Attr::Int(i) => Some(*i); x => Attr::Int(*x);
    usize, "a non-negative integer", Attr::Int(i) => usize::try_from(*i).ok(); x => Attr::Int(*x as i64);
    Real, "a number", Attr::Real(r) => Some(*r), Attr::Int(i) => Some(Real(*i as f64)); x => Attr::Real(*x);
    DType, "a dtype", Attr::DType(d) => Some(*d); x => Attr::DType(*x);
    String, "a string", Attr::Str(s) => Some(s.clone()); x => Attr::Str(x.clone());
    Vec<i64>, "a list of integers", Attr::Ints(v) => Some(v.clone()); x => Attr::Ints(x.clone());
    Vec<usize>, "a list of non-negative integers",
        Attr::Ints(v) => v.iter().map(|&i| usize::try_from(i).ok()).collect();
        x => Attr::Ints(x.iter().map(|&i| i as i64).collect());
    Vec<Real>, "a list of numbers",
        Attr::Reals(v) => Some(v.clone()), Attr::Ints(v) => Some(v.iter().map(|&i| Real(i as f64)).collect());
        x => Attr::Reals(x.clone());
    Shape, "a shape", Attr::Shape(s) => Some(s.clone()); x => Attr::Shape(x.clone());
    Region, "a graph", Attr::Graph(g) => Some(g.clone()); x => Attr::Graph(x.clone());
}

impl<T: AttrValue> AttrValue for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    fn to_attr(&self) -> Option<Attr> {
        self.as_ref().and_then(T::to_attr)
    }
    fn from_attr(a: &Attr) -> Option<Self> {
        T::from_attr(a).map(Some)
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
}

/// Declares an operator's attribute struct: the fields, their derives, and the two conversions
/// `to_attrs` / `from_attrs`.
#[macro_export]
macro_rules! attributes {
    ($(#[$m:meta])* pub struct $name:ident { $($(#[$fm:meta])* pub $f:ident : $t:ty),* $(,)? }) => {
        $(#[$m])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub struct $name { $($(#[$fm])* pub $f: $t),* }

        impl $name {
            fn to_attrs(&self) -> $crate::Attrs {
                #[allow(unused_mut, reason = "operators without attributes")]
                let mut all = $crate::Attrs::default();
                $(if let Some(a) = $crate::attrs::AttrValue::to_attr(&self.$f) {
                    all.0.insert(stringify!($f).to_string(), a);
                })*
                all
            }

            fn from_attrs(#[allow(unused_mut, reason = "operators without attributes")] mut all: $crate::Attrs) -> Result<Self, String> {
                let out = $name { $($f: all.take(stringify!($f))?),* };
                all.finish()?;
                Ok(out)
            }
        }
    };
}

/// Declares an enumeration attribute written as a string.
#[macro_export]
macro_rules! attr_enum {
    ($(#[$m:meta])* $vis:vis enum $name:ident { $($(#[$vm:meta])* $v:ident = $s:literal),* $(,)? }) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $vis enum $name { $($(#[$vm])* $v),* }

        impl $name {
            /// The spelling in text and in ONNX.
            $vis fn as_str(self) -> &'static str {
                match self { $($name::$v => $s),* }
            }
            /// Reads the spelling; the error lists the possible ones.
            $vis fn parse(s: &str) -> Result<Self, String> {
                match s {
                    $($s => Ok($name::$v),)*
                    other => Err(format!("`{other}` is not one of {}", [$($s),*].join(", "))),
                }
            }
        }

        impl $crate::attrs::AttrValue for $name {
            const EXPECTED: &'static str = concat!("one of", $(" \"", $s, "\""),*);
            fn to_attr(&self) -> Option<$crate::Attr> {
                Some($crate::Attr::Str(self.as_str().to_string()))
            }
            fn from_attr(a: &$crate::Attr) -> Option<Self> {
                match a {
                    $crate::Attr::Str(s) => $name::parse(s).ok(),
                    _ => None,
                }
            }
        }
    };
}

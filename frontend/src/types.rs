//! Declared types of inputs and outputs, and pinning them.

use crate::dims::{Extent, extent};
use crate::limits::MAX_RANK;
use crate::proto::{TensorType, TypeProto, TypeValue, ValueInfoProto};
use std::collections::{BTreeMap, BTreeSet};
use tenon_base::{DType, Dim, Fact, Shape};
use tenon_ir::ImportError;
use tenon_ir::import::dtype_of_code;

/// What a type is called in messages: `f32 tensor`, `sequence of string tensors`, …
pub(crate) fn type_name(t: &TypeProto) -> String {
    let element =
        |t: &Option<Box<TypeProto>>| t.as_ref().map_or_else(|| "unknown type".to_string(), |t| type_name(t));
    match &t.value {
        None => "unknown type".to_string(),
        Some(TypeValue::Tensor(t)) => format!("{} tensor", dtype_name(t.elem_type)),
        Some(TypeValue::SparseTensor(t)) => format!("sparse {} tensor", dtype_name(t.elem_type)),
        Some(TypeValue::Sequence(s)) => format!("sequence of {}s", element(&s.elem_type)),
        Some(TypeValue::Optional(s)) => format!("optional {}", element(&s.elem_type)),
        Some(TypeValue::Map(m)) => format!("map from {} to {}", dtype_name(m.key_type), element(&m.value_type)),
        Some(TypeValue::Opaque(o)) => format!("opaque {}", o.name),
    }
}

fn dtype_name(code: i32) -> String {
    match dtype_of_code(i64::from(code)) {
        Ok(d) => d.to_string(),
        // The message ends in the name where the code is known.
        Err(_) if code == 8 => "string".to_string(),
        Err(_) => format!("type-{code}"),
    }
}

/// A declared tensor type; extents without a name are `None`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Declared {
    /// Element type.
    pub(crate) dtype: DType,
    /// Extents; `None` when not even the rank is given.
    pub(crate) dims: Option<Vec<Option<Dim>>>,
}

/// Reads a declared type; `None` when none is given.
pub(crate) fn declared(v: &ValueInfoProto) -> Result<Option<Declared>, ImportError> {
    let Some(ty) = &v.ty else { return Ok(None) };
    let TensorType { elem_type, shape } = match &ty.value {
        None => return Ok(None),
        Some(TypeValue::Tensor(t)) => t,
        Some(_) => {
            return Err(ImportError::new(format!(
                "expected a tensor, found a value of type {}, which is not supported",
                type_name(ty)
            ))
            .with_help("export the model with plain tensors as inputs and outputs"));
        }
    };
    if *elem_type == 0 {
        return Ok(None);
    }
    let dtype = dtype_of_code(i64::from(*elem_type))?;
    let Some(shape) = shape else { return Ok(Some(Declared { dtype, dims: None })) };
    if shape.dim.len() > MAX_RANK {
        return Err(ImportError::new(format!(
            "its shape has {} axes; at most {MAX_RANK} are supported",
            shape.dim.len()
        )));
    }
    let dims = shape.dim.iter().enumerate().map(|(axis, d)| match extent(d) {
        Extent::Known(d) => Ok(Some(d)),
        Extent::Unnamed => Ok(None),
        Extent::Negative(n) => {
            Err(ImportError::new(format!("expected a non-negative extent or a name at axis {axis}, found {n}")))
        }
    });
    Ok(Some(Declared { dtype, dims: Some(dims.collect::<Result<_, _>>()?) }))
}

/// Extents pinned by name, and those that data do not pin.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pins(pub(crate) BTreeMap<String, i64>, pub(crate) BTreeSet<String>);

impl Pins {
    /// `d` with pinned names replaced.
    pub(crate) fn apply(&self, d: &Dim) -> Dim {
        d.substitute(&|name| self.0.get(name).copied())
    }

    /// Pins what has to hold for an input declared as `fact` to have the extents `shape`; tells the first axis that cannot.
    pub(crate) fn bind(&mut self, fact: &Fact, shape: &[usize]) -> Result<(), usize> {
        for (axis, (d, &n)) in fact.shape.0.iter().zip(shape).enumerate() {
            let n = i64::try_from(n).unwrap_or(i64::MAX);
            match self.apply(d) {
                Dim::Const(c) if c == n => {}
                Dim::Const(_) => return Err(axis),
                Dim::Sym(name) if self.1.contains(&*name) => {}
                Dim::Sym(name) => {
                    self.0.insert(name.to_string(), n);
                }
                // An expression: its names are pinned by others, or stay free.
                _ => {}
            }
        }
        Ok(())
    }
}

/// The type of input `name`: its unnamed extents get the names `<name>_<axis>`, distinct from all in `taken`.
pub(crate) fn input_fact(name: &str, d: &Declared, taken: &mut BTreeSet<String>) -> Option<Fact> {
    let dims = d.dims.as_ref()?.iter().enumerate().map(|(axis, d)| match d {
        Some(d) => d.clone(),
        None => {
            let mut symbol = format!("{name}_{axis}");
            while !taken.insert(symbol.clone()) {
                symbol.push('_');
            }
            Dim::sym(symbol)
        }
    });
    Some(Fact::new(d.dtype, Shape(dims.collect())))
}

/// Adds the names in `dims` to `out`.
pub(crate) fn names(dims: &[Dim], out: &mut BTreeSet<String>) {
    let mut symbols = BTreeSet::new();
    dims.iter().for_each(|d| d.symbols(&mut symbols));
    out.extend(symbols.iter().map(|s| s.to_string()));
}

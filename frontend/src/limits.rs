//! Bounds on what a model may ask for, so that a hostile file costs bounded time and memory. Each is far above what any
//! real model needs.

use tenon_base::{DType, Dim, Fact};

/// Axes of a tensor.
pub(crate) const MAX_RANK: usize = 64;
/// Bytes of one value.
pub(crate) const MAX_VALUE_BYTES: i64 = 1 << 40;
/// Nodes, each once for every time it is inlined.
pub(crate) const MAX_NODES: usize = 1 << 18;
/// Size of all that is inlined (nodes, operands, attributes, their elements), each once for every time it is.
pub(crate) const MAX_INLINED: usize = 1 << 22;
/// Functions and branches inlined into each other.
pub(crate) const MAX_DEPTH: usize = 48;
/// Problems told; the rest is only counted.
pub(crate) const MAX_PROBLEMS: usize = 200;
/// Bytes of all constants that are computed at import or repeated by inlining.
pub(crate) const MAX_FOLDED_BYTES: usize = 1 << 30;
/// Bytes that a decoded file may take, for each byte of it …
pub(crate) const DECODED_PER_BYTE: usize = 24;
/// … and on top of that.
pub(crate) const DECODED_SLACK: usize = 256 << 20;

/// Atoms of all symbolic extents of a value; also bounds how deep they nest.
const MAX_DIM_ATOMS: usize = 2000;
/// Terms that the product of a value's extents may have when it is multiplied out.
const MAX_DIM_TERMS: usize = 256;

/// What is wrong with the type of a value, if it goes beyond the bounds.
pub(crate) fn check_fact(fact: &Fact) -> Result<(), String> {
    let shape = &fact.shape;
    if shape.rank() > MAX_RANK {
        return Err(format!("the value has {} axes; at most {MAX_RANK} are supported", shape.rank()));
    }
    check_dims(&shape.0)?;
    if let Some((axis, d)) = shape.0.iter().enumerate().find(|(_, d)| d.as_const().is_some_and(|c| c < 0)) {
        return Err(format!("the value would be {fact}: extent {d} at axis {axis} is negative"));
    }
    let known = shape.0.iter().filter_map(Dim::as_const);
    if bytes_of(fact.dtype, known).is_none() {
        return Err(format!("the value would be {fact}, more than 2^40 bytes"));
    }
    Ok(())
}

/// The bytes of a tensor, `None` if it goes beyond the bound. Extents of 0 count as 1: strides are computed of the others.
pub(crate) fn bytes_of(dtype: DType, dims: impl Iterator<Item = i64>) -> Option<i64> {
    dims.into_iter().try_fold(dtype.size() as i64, |n, d| n.checked_mul(d.max(1))).filter(|n| *n <= MAX_VALUE_BYTES)
}

/// What is wrong with symbolic extents, if they have become too large to compute with.
pub(crate) fn check_dims(dims: &[Dim]) -> Result<(), String> {
    let mut atoms = 0;
    let mut product = 1usize;
    for d in dims {
        let terms = if let Dim::Sum(t) = d { t.len() } else { 1 };
        product = product.saturating_mul(terms);
        count_atoms(d, &mut atoms);
    }
    if product > MAX_DIM_TERMS || atoms > MAX_DIM_ATOMS {
        return Err("its symbolic shape has grown too large to compute with".to_string());
    }
    Ok(())
}

/// Adds the number of atoms of `d` to `n`; stops at the bound, since shared parts may repeat exponentially often.
fn count_atoms(d: &Dim, n: &mut usize) {
    *n += 1;
    if *n > MAX_DIM_ATOMS {
        return;
    }
    match d {
        Dim::Const(_) | Dim::Sym(_) => {}
        Dim::Sum(t) => t.keys().flatten().for_each(|a| count_atoms(a, n)),
        Dim::Div(p) | Dim::Min(p) | Dim::Max(p) => {
            count_atoms(&p.0, n);
            count_atoms(&p.1, n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenon_base::Shape;

    #[test]
    fn sizes_are_bounded() {
        let of = |d: &[i64]| Fact::new(DType::F32, Shape(d.iter().copied().map(Dim::Const).collect()));
        assert!(check_fact(&of(&[1 << 38])).is_ok());
        assert!(check_fact(&of(&[(1 << 38) + 1])).is_err());
        assert!(check_fact(&of(&[i64::MAX, i64::MAX])).is_err());
        assert!(check_fact(&of(&[i64::MAX, 0])).is_err());
        assert!(check_fact(&of(&[1 << 20, 0])).is_ok());
        assert!(check_fact(&of(&[2, -1])).is_err());
        assert!(check_fact(&of(&[1; 65])).is_err());
    }

    #[test]
    fn exponential_dims_are_found_in_linear_time() {
        // Doubles as a tree in every step, but is small as a DAG.
        let mut d = Dim::sym("n");
        for _ in 0..60 {
            d = Dim::Max(std::sync::Arc::new((d.clone(), d)));
        }
        assert!(check_dims(&[d]).is_err());
        let wide: Vec<Dim> = (0..20).map(|i| Dim::sym(format!("d{i}")).add(&Dim::Const(1))).collect();
        assert!(check_dims(&wide).is_err(), "the number of elements has 2^20 terms");
        assert!(check_dims(&wide[..8]).is_ok());
    }
}

//! The shared vocabulary of Tenon: dtypes, dims, shapes, tensors, locations, diagnostics.

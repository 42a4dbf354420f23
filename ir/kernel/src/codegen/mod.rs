//! What code generators share: analyses of scheduled kernels that know no machine.

pub mod address;
pub mod divide;

//! Who runs the parts of a model that was compiled for several threads.

use tenon_abi::Env;

/// Something that runs parts of a model's kernels; the generated modules' `run_on` takes it.
///
/// # Safety
/// [`Parallel::env`] gives an environment whose hook does what [`tenon_abi::ParallelFor`] says, as long as `self` is borrowed.
pub unsafe trait Parallel {
    /// The environment to run in.
    fn env(&self) -> Env;
}

/// Everything in the thread that calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

// SAFETY: there is no hook.
unsafe impl Parallel for Serial {
    fn env(&self) -> Env {
        Env::SERIAL
    }
}

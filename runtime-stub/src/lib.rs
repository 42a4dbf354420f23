//! What an application links beside an artifact: no std, no alloc.
//!
//! Nothing here is needed to run a model; the generated Rust module stands alone. This crate gives programs with
//! several models one [`Status`] and one kind of [`Arena`] for all of them.
//!
//! ```
//! use tenon_runtime::{Arena, Status, check};
//! // One piece of memory for every model of the program: the largest of their `ARENA_BYTES`.
//! static ARENA: Arena<8192> = Arena::new();
//! let mut arena = ARENA.clone();
//! assert_eq!(arena.bytes().as_ptr() as usize % 64, 0);
//! assert_eq!(check(1), Err(Status::NullPointer));
//! ```
//!
//! A model that was compiled for several threads runs on whatever is [`Parallel`]: with the feature `std`, on a [`Pool`].
#![no_std]

#[cfg(feature = "std")]
extern crate std;

mod parallel;
#[cfg(feature = "std")]
mod pool;

pub use parallel::{Parallel, Serial};
#[cfg(feature = "std")]
pub use pool::Pool;
pub use tenon_abi::{ABI_VERSION, ARENA_ALIGN, Env, ParallelFor, Status, Work};

/// Working memory of a model: `N` bytes with the alignment that `run` expects.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Arena<const N: usize>([u8; N]);

const _: () = assert!(align_of::<Arena<1>>() == ARENA_ALIGN);

impl<const N: usize> Arena<N> {
    /// Zeros; a model needs no particular contents.
    pub const fn new() -> Arena<N> {
        Arena([0; N])
    }

    /// The bytes, for `run_in` of a generated module.
    pub const fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl<const N: usize> Default for Arena<N> {
    fn default() -> Arena<N> {
        Arena::new()
    }
}

/// The result that the code `run` returned means.
///
/// # Errors
/// Every status but [`Status::Ok`]; [`Status::NullPointer`] for a code of a later version.
pub fn check(code: i32) -> Result<(), Status> {
    match Status::from_code(code) {
        Some(Status::Ok) => Ok(()),
        Some(error) => Err(error),
        None => Err(Status::NullPointer),
    }
}

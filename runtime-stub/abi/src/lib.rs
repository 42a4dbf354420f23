//! The contract between an artifact and the program that links it.
//!
//! An artifact of the model `digits` exports one function,
//!
//! ```c
//! int32_t digits_run(const digits_inputs *in, const digits_outputs *out, void *arena, const tenon_env *env);
//! ```
//!
//! and one string, `digits_info`. `in` and `out` are structs of pointers in the model's order, each aligned to its
//! element; where the constant data are in a file of their own, their address `const void *weights` stands before `env`, aligned
//! to [`ARENA_ALIGN`]; `arena` is `ARENA_BYTES` bytes aligned to [`ARENA_ALIGN`], its contents irrelevant before and after;
//! `env` may be null. Calls with different arenas may run at once.
#![no_std]
#![forbid(unsafe_code)]

use core::ffi::c_void;
use core::fmt;

/// Version of this contract. A change that breaks linked programs increments it.
pub const ABI_VERSION: u32 = 1;

/// Alignment in bytes of the arena and of constant data.
pub const ARENA_ALIGN: usize = 64;

/// Symbols that an artifact may leave undefined. It needs none: no C library, no runtime.
pub const ALLOWED_UNDEFINED: &[&str] = &[];

/// What `run` returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Status {
    /// The outputs are written.
    Ok = 0,
    /// `in`, `out`, the arena or one of the pointers in the structs is null.
    NullPointer = 1,
    /// The arena is not aligned to [`ARENA_ALIGN`].
    MisalignedArena = 2,
    /// An input or output is not aligned to its element.
    MisalignedBuffer = 3,
    /// A buffer is smaller than the model needs (found by the typed wrappers; machine code knows no lengths).
    WrongLength = 4,
    /// The constant data are not aligned to [`ARENA_ALIGN`] (where they are in a file of their own).
    MisalignedWeights = 5,
    /// The constant data are not those that this code was compiled with.
    WrongWeights = 6,
    /// The self-test found a result that differs from the known one.
    SelftestFailed = 7,
    /// The system does not let the program use the processor's tile registers (models compiled with `amx-int8` or `amx-bf16`).
    NoTiles = 8,
}

impl Status {
    /// Every status.
    pub const ALL: [Status; 9] = [
        Status::Ok,
        Status::NullPointer,
        Status::MisalignedArena,
        Status::MisalignedBuffer,
        Status::WrongLength,
        Status::MisalignedWeights,
        Status::WrongWeights,
        Status::SelftestFailed,
        Status::NoTiles,
    ];

    /// The status that `code` means.
    pub fn from_code(code: i32) -> Option<Status> {
        Status::ALL.into_iter().find(|s| *s as i32 == code)
    }

    /// Its name in the C header, without the `TENON_` prefix.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Ok => "OK",
            Status::NullPointer => "NULL_POINTER",
            Status::MisalignedArena => "MISALIGNED_ARENA",
            Status::MisalignedBuffer => "MISALIGNED_BUFFER",
            Status::WrongLength => "WRONG_LENGTH",
            Status::MisalignedWeights => "MISALIGNED_WEIGHTS",
            Status::WrongWeights => "WRONG_WEIGHTS",
            Status::SelftestFailed => "SELFTEST_FAILED",
            Status::NoTiles => "NO_TILES",
        }
    }

    /// One sentence.
    pub const fn what(self) -> &'static str {
        match self {
            Status::Ok => "the outputs are written",
            Status::NullPointer => "a pointer is null",
            Status::MisalignedArena => "the arena is not aligned to 64 bytes",
            Status::MisalignedBuffer => "an input or output is not aligned to its element",
            Status::WrongLength => "a buffer does not have the length the model needs",
            Status::MisalignedWeights => "the weights are not aligned to 64 bytes",
            Status::WrongWeights => "the weights are not those the model was compiled with",
            Status::SelftestFailed => "the self-test found a wrong result",
            Status::NoTiles => {
                "the system does not give the program the tile registers that the model was compiled for (AMX)"
            }
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what())
    }
}

impl core::error::Error for Status {}

/// What [`ParallelFor`] is to run: part `index` of the work that `data` describes. It does not unwind.
pub type Work = unsafe extern "C" fn(data: *mut c_void, index: usize);

/// Runs `work(data, k)` once for every `k` in `0..count`, in any order and on any threads, its own included, and returns when
/// all of them have returned. What the parts write is visible to the caller then.
pub type ParallelFor = unsafe extern "C" fn(context: *mut c_void, count: usize, work: Work, data: *mut c_void);

/// Hooks of the surrounding program, all optional: `tenon_env` of the C header.
///
/// A model that was compiled for several threads (`THREADS` of its header says for how many) hands the parts of its larger
/// kernels to `parallel_for`, from the thread that called `run`, one kernel after the other. Without the hook, or without an
/// environment, the parts run one after the other, with the same results to the bit. No code creates a thread.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Env {
    /// Size of this struct in bytes, so that later versions can add fields.
    pub size: usize,
    /// Runs the parts of a kernel.
    pub parallel_for: Option<ParallelFor>,
    /// The first parameter of `parallel_for`.
    pub context: *mut c_void,
}

impl Env {
    /// No hook: everything runs in the thread that calls.
    pub const SERIAL: Env = Env { size: size_of::<Env>(), parallel_for: None, context: core::ptr::null_mut() };
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Env>() == 24);

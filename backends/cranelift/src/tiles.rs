//! The permission to use tile registers, which Linux wants a process to ask for.
//!
//! Their 8 KiB are no part of what the system saves of every thread, so a program that touches them unasked ends with a signal. Asking again is
//! answered at once, so the entry point asks in every run: some 70 ns, and the caller has nothing to know.

use tenon_base::DType;
use tenon_kernel::Program;
use tenon_kernel::tiles::multiplies_tiles;
use tenon_target::Target;

/// A function without parameters that asks, and gives 0 in `rax` where the answer is yes:
/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)` (Linux, `Documentation/arch/x86/xstate.rst`), system call 158.
pub(crate) const ASK: [u8; 18] = [
    0xb8, 158, 0, 0, 0, // mov eax, 158
    0xbf, 0x23, 0x10, 0, 0, // mov edi, 0x1023
    0xbe, 18, 0, 0, 0, // mov esi, 18
    0x0f, 0x05, // syscall
    0xc3, // ret
];

/// Whether code for `program` on `target` uses tile registers.
pub(crate) fn uses(program: &Program, target: &Target) -> bool {
    let has = target.has_tiles(DType::I8) || target.has_tiles(DType::BF16);
    has && program.kernels.iter().any(multiplies_tiles)
}

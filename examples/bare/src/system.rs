//! Linux without a C library: the program's start, printing, leaving, and the few functions that `core` expects.

use core::arch::{asm, naked_asm};

/// Where the program begins.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() {
    naked_asm!("xor ebp, ebp", "and rsp, -16", "call {main}", main = sym main)
}

/// Where the program begins.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() {
    naked_asm!("mov x29, #0", "bl {main}", main = sym main)
}

extern "C" fn main() -> ! {
    exit(crate::run())
}

#[cfg(target_arch = "x86_64")]
const WRITE: usize = 1;
#[cfg(target_arch = "x86_64")]
const EXIT: usize = 60;
#[cfg(target_arch = "aarch64")]
const WRITE: usize = 64;
#[cfg(target_arch = "aarch64")]
const EXIT: usize = 93;

/// A call of the system with three arguments.
fn call(number: usize, a: usize, b: usize, c: usize) -> isize {
    let result: isize;
    // SAFETY: the calls made here read memory that the caller has borrowed, and change no memory of the program.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, options(nostack));
    }
    result
}

/// Writes to the standard output.
pub(crate) fn print(mut text: &[u8]) {
    while !text.is_empty() {
        let n = call(WRITE, 1, text.as_ptr() as usize, text.len());
        match usize::try_from(n) {
            Ok(n) if n > 0 && n <= text.len() => text = &text[n..],
            // Nobody is there to be told.
            _ => return,
        }
    }
}

/// Ends the program.
pub(crate) fn exit(code: u8) -> ! {
    call(EXIT, usize::from(code), 0, 0);
    loop {
        core::hint::spin_loop();
    }
}

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    print(b"panicked\n");
    exit(101)
}

/// # Safety
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    for i in 0..n {
        // SAFETY: both are valid for `n` bytes.
        unsafe { *to.add(i) = *from.add(i) }
    }
    to
}

/// # Safety
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, n: usize) -> *mut u8 {
    for i in 0..n {
        // SAFETY: it is valid for `n` bytes.
        unsafe { *to.add(i) = value as u8 }
    }
    to
}

//! A model in a static program without standard library, allocator or C library: what a kernel, a boot loader or a
//! microcontroller with a 64-bit core would have.
#![no_std]
#![no_main]
// The loops of `memcpy` below must not become calls of `memcpy`.
#![no_builtins]

mod system;

/// Made by `build.rs`.
mod digits {
    include!(concat!(env!("OUT_DIR"), "/digits.rs"));
}

/// Memory for the model and for its self-test.
#[repr(align(64))]
struct Arena([u8; digits::SELFTEST_ARENA_BYTES]);

static mut ARENA: Arena = Arena([0; digits::SELFTEST_ARENA_BYTES]);

/// A three, drawn by hand.
const DRAWING: [&[u8; 8]; 8] =
    [b"..####..", b".##..##.", b"......#.", b"...###..", b"...####.", b"......##", b".##..##.", b"..####.."];

/// Called by the start in `system`; what it gives is the program's exit code.
fn run() -> u8 {
    // SAFETY: this program has one thread, and this is the only place that names the arena.
    let arena = unsafe { &mut *(&raw mut ARENA) };
    if digits::selftest(&mut arena.0).is_err() {
        system::print(b"the self-test failed\n");
        return 1;
    }
    let mut image = [0f32; 64];
    for (pixel, c) in image.iter_mut().zip(DRAWING.into_iter().flatten()) {
        *pixel = if *c == b'#' { 16.0 } else { 0.0 };
    }
    let mut probabilities = [0f32; 10];
    if digits::run_in(&mut arena.0, &image, &mut probabilities).is_err() {
        system::print(b"the run failed\n");
        return 2;
    }
    let mut best = 0u8;
    for i in 1..10 {
        if probabilities[usize::from(i)] > probabilities[usize::from(best)] {
            best = i;
        }
    }
    system::print(b"self-test passed; seen as ");
    system::print(&[b'0' + best, b'\n']);
    0
}

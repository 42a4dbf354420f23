//! Running the code of many kernels on an emulated CPU, for instructions that this machine lacks.
//!
//! The kernels and their memory become one static program, an ELF file with one segment, that calls one after the other and
//! writes all memory to its standard output. `TENON_EMULATOR_x86_64` names the command that runs it (`tools/emulate.py`).

use super::{GUARD, guarded, unguard};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use tenon_kernel::Memory;
use tenon_wide::Code;

/// Where the program lies, and the bytes of its ELF header with one program header.
const BASE: u64 = 0x40_0000;
const HEADER: usize = 64 + 56;

/// The command that emulates, if one is named.
pub(crate) fn emulator() -> Option<Vec<String>> {
    let given = std::env::var("TENON_EMULATOR_x86_64").ok()?;
    let words: Vec<String> = given.split_whitespace().map(str::to_string).collect();
    (!words.is_empty()).then_some(words)
}

/// `mov register, value`, with the register's two bytes of code.
fn set(code: &mut Vec<u8>, register: [u8; 2], value: u64) {
    code.extend(register);
    code.extend(value.to_le_bytes());
}

const RAX: [u8; 2] = [0x48, 0xb8];
/// Those that take the first six arguments by the System V convention, in order.
const ARGUMENTS: [[u8; 2]; 6] = [[0x48, 0xbf], [0x48, 0xbe], [0x48, 0xba], [0x48, 0xb9], [0x49, 0xb8], [0x49, 0xb9]];
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// A call of the function at `code` with 12 pointers at most.
fn call(out: &mut Vec<u8>, code: u64, pointers: &[u64]) {
    let pointer = |i: usize| pointers.get(i).copied().unwrap_or(0);
    for i in (6..12).rev() {
        set(out, RAX, pointer(i));
        out.push(0x50); // push rax
    }
    for (i, register) in ARGUMENTS.into_iter().enumerate() {
        set(out, register, pointer(i));
    }
    set(out, RAX, code);
    out.extend([0xff, 0xd0, 0x48, 0x83, 0xc4, 48]); // call rax; add rsp, 48
}

/// The bytes of a call as [`call`] makes it.
const CALL: usize = 6 * 11 + 6 * 10 + 10 + 6;
/// The bytes of what ends a program: writing memory, and leaving.
const END: usize = 4 * 10 + 2 + 10 + 10 + 2;

/// Runs each code on its memories; gives the memories after it.
///
/// # Panics
/// If the emulator fails, or a byte outside a buffer was written.
pub(crate) fn run(command: &[String], cases: &[(&Code, &[Memory])]) -> Vec<Vec<Memory>> {
    // The program: calls and end, then codes, then memory.
    let mut at = HEADER + cases.len() * CALL + END;
    let codes: Vec<usize> = cases
        .iter()
        .map(|(c, _)| {
            let start = at.next_multiple_of(c.align.max(64));
            at = start + c.bytes.len();
            start
        })
        .collect();
    let data = at.next_multiple_of(64);
    let mut memory = vec![];
    let places: Vec<Vec<(usize, usize)>> = cases
        .iter()
        .map(|(_, memories)| {
            let place = |m: &Memory| {
                let begin = memory.len();
                let (bytes, start) = guarded(m, |_| data + begin);
                memory.extend(bytes);
                (begin, start)
            };
            memories.iter().map(place).collect()
        })
        .collect();
    let mut file = header((data + memory.len()) as u64);
    for (code, places) in codes.iter().zip(&places) {
        let pointers: Vec<u64> = places.iter().map(|(begin, start)| BASE + (data + begin + start) as u64).collect();
        call(&mut file, BASE + *code as u64, &pointers);
    }
    set(&mut file, RAX, 1);
    set(&mut file, ARGUMENTS[0], 1);
    set(&mut file, ARGUMENTS[1], BASE + data as u64);
    set(&mut file, ARGUMENTS[2], memory.len() as u64);
    file.extend(SYSCALL);
    set(&mut file, RAX, 60);
    set(&mut file, ARGUMENTS[0], 0);
    file.extend(SYSCALL);
    for (code, at) in cases.iter().map(|(c, _)| c).zip(codes) {
        file.resize(at, 0xcc);
        file.extend(&code.bytes);
    }
    file.resize(data, 0xcc);
    file.extend(&memory);

    let after = emulate(command, &file, memory.len());
    let mut results = vec![];
    for ((_, memories), places) in cases.iter().zip(&places) {
        let mut memories = memories.to_vec();
        for (m, (begin, start)) in memories.iter_mut().zip(places) {
            let bytes = GUARD + 64 + m.bytes.len() + GUARD;
            unguard(m, &after[*begin..begin + bytes], *start);
        }
        results.push(memories);
    }
    results
}

/// An ELF header and one program header: all of the file is one segment that may be read, written and run.
fn header(size: u64) -> Vec<u8> {
    let mut h = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    h.extend([2, 0, 62, 0, 1, 0, 0, 0]); // an executable for x86-64
    h.extend([BASE + HEADER as u64, 64, 0].map(u64::to_le_bytes).concat());
    h.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    h.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    h.extend([0, BASE, BASE, size, size, 0x1000].map(u64::to_le_bytes).concat());
    h
}

/// What the program writes: `size` bytes.
fn emulate(command: &[String], program: &[u8], size: usize) -> Vec<u8> {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("emulated-{}-{run}", std::process::id()));
    std::fs::write(&path, program).expect("there is space");
    let out = Command::new(&command[0]).args(&command[1..]).arg(&path).stdin(Stdio::null()).output();
    let out = out.unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&out.stderr);
    let right = out.status.success() && out.stdout.len() == size;
    assert!(right, "{command:?} on {} ({}): {said}", path.display(), out.status);
    std::fs::remove_file(&path).expect("we wrote it");
    out.stdout
}

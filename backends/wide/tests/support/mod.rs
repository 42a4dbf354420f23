//! Running the code of one kernel on memory, beside the interpreter.
#![allow(dead_code, reason = "each test file uses a part")]

#[path = "../../../cranelift/tests/support/cases.rs"]
pub(crate) mod cases;
pub(crate) mod emulated;

use memmap2::MmapMut;
use tenon_base::{DType, Scalar};
use tenon_kernel::interp::Options;
use tenon_kernel::{Access, Kernel, Memory, run_kernel};
use tenon_target::Target;
use tenon_wide::Code;

/// Bytes before and after each buffer that nothing may touch.
const GUARD: usize = 64;

/// The targets whose code this machine runs.
pub(crate) fn runnable() -> Vec<Target> {
    let mut levels = vec![];
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
        levels.push("x86-64-v3");
    }
    if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl") {
        levels.push("x86-64-v4");
    }
    levels.iter().map(|t| Target::parse(t).unwrap()).collect()
}

/// Every level that the generator knows.
pub(crate) fn levels() -> Vec<Target> {
    ["x86-64-v3", "x86-64-v4", "zen4", "x86-64-v3+avx-vnni"].iter().map(|t| Target::parse(t).unwrap()).collect()
}

/// The bytes of `memory` between guards, and where they begin: the element size is all the alignment there is, one element past
/// a line of the machine that the bytes will lie in at `address`.
fn guarded(memory: &Memory, address: impl Fn(&[u8]) -> usize) -> (Vec<u8>, usize) {
    let mut c = vec![0xa5; GUARD + 64 + memory.bytes.len() + GUARD];
    let at = address(&c) + GUARD;
    let start = (GUARD + at.next_multiple_of(64) - at + memory.dtype.size()).min(GUARD + 64);
    c[start..start + memory.bytes.len()].copy_from_slice(&memory.bytes);
    (c, start)
}

/// Takes the bytes back from between their guards, which must be whole.
fn unguard(memory: &mut Memory, c: &[u8], start: usize) {
    let end = start + memory.bytes.len();
    memory.bytes.copy_from_slice(&c[start..end]);
    let outside = c[..start].iter().chain(&c[end..]).all(|b| *b == 0xa5);
    assert!(outside, "a byte outside a buffer was written");
}

/// Calls `code`, which is for this machine, with a pointer to each of `memories`; says which neighbour was touched.
pub(crate) fn call(code: &Code, memories: &mut [Memory]) {
    let mut map = MmapMut::map_anon(code.bytes.len()).unwrap();
    map[..code.bytes.len()].copy_from_slice(&code.bytes);
    let map = map.make_exec().unwrap();
    let (mut copies, starts): (Vec<Vec<u8>>, Vec<usize>) =
        memories.iter().map(|m| guarded(m, |c| c.as_ptr() as usize)).unzip();
    let mut p: Vec<*mut u8> =
        copies.iter_mut().zip(&starts).map(|(c, at)| c.as_mut_ptr().wrapping_add(*at)).collect();
    assert!(p.len() <= 12, "the call below passes at most 12 pointers");
    p.resize(12, std::ptr::null_mut());
    type P = *mut u8;
    // SAFETY: the map holds a function of as many pointers by the System V convention; it ignores those after its own.
    // Each points to memory of the length that the kernel declares, which the verifier bounded it by.
    unsafe {
        let f: extern "sysv64" fn(P, P, P, P, P, P, P, P, P, P, P, P) = std::mem::transmute(map.as_ptr());
        f(p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11]);
    }
    for ((m, c), at) in memories.iter_mut().zip(&copies).zip(&starts) {
        unguard(m, c, *at);
    }
}

/// What the interpreter makes of `k`, and what is wrong with the code's result: (buffer, element, expected, found).
pub(crate) fn differences(k: &Kernel, code: &Code, inputs: &[Memory]) -> Vec<(usize, usize, String, String)> {
    let Some(expected) = interpreted(k, inputs) else { return vec![] };
    let mut found = inputs.to_vec();
    call(code, &mut found);
    unequal(k, &expected, &found)
}

/// What the interpreter makes of `k`; nothing where that is an error, such as a division by zero.
pub(crate) fn interpreted(k: &Kernel, inputs: &[Memory]) -> Option<Vec<Memory>> {
    let mut expected = inputs.to_vec();
    let options = Options { fused_multiply_add: true, ..Options::default() };
    run_kernel(k, &mut expected, &options).ok().map(|_| expected)
}

/// Where `found` is not `expected`: (buffer, element, expected, found).
pub(crate) fn unequal(k: &Kernel, expected: &[Memory], found: &[Memory]) -> Vec<(usize, usize, String, String)> {
    let mut out = vec![];
    for (n, (b, (e, f))) in k.buffers.iter().zip(expected.iter().zip(found)).enumerate() {
        if b.access == Access::Scratch {
            continue;
        }
        let size = b.dtype.size();
        for (i, (x, y)) in e.bytes.chunks(size).zip(f.bytes.chunks(size)).enumerate() {
            let nan = |v: &[u8]| b.dtype.is_float() && Scalar::from_le_bytes(b.dtype, v).as_f64().is_nan();
            if x != y && !(nan(x) && nan(y)) {
                let show = |v: &[u8]| format!("{} ({v:02x?})", Scalar::from_le_bytes(b.dtype, v));
                out.push((n, i, show(x), show(y)));
            }
        }
    }
    out
}

/// `n` values of `dtype`: those at which something happens first, then random bits.
pub(crate) fn values(dtype: DType, n: usize, seed: u64) -> Memory {
    const FLOATS: &[f64] = &[
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        -2.5,
        0.3,
        126.5,
        127.5,
        -128.5,
        255.5,
        256.0,
        32767.5,
        65504.0,
        65519.9,
        65520.0,
        8388607.5,
        8388608.0,
        -8388609.0,
        2147483520.0,
        2147483648.0,
        -2147483648.0,
        4294967040.0,
        4294967296.0,
        9.3e18,
        -9.3e18,
        1.9e19,
        1e30,
        -1e30,
        1e-30,
        6e-8,
        2.98e-8,
        2.99e-8,
        6.1e-5,
        1e-40,
        4.5e15,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
    ];
    const INTS: &[i128] =
        &[0, 1, -1, 2, 3, 7, -7, 8, 31, 63, 64, 127, 128, -128, 255, 256, 32767, 32768, -32768, 65535, 1 << 24 | 1];
    let mut state = seed;
    let mut bytes = vec![];
    for i in 0..n {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = (state ^ (state >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ (state >> 32);
        let s = if i % 3 == 2 {
            let mut b = x.to_le_bytes();
            if dtype == DType::Bool {
                b[0] &= 1;
            }
            Scalar::from_le_bytes(dtype, &b[..dtype.size()])
        } else if dtype.is_float() {
            Scalar::of_f64(dtype, FLOATS[x as usize % FLOATS.len()])
        } else {
            Scalar::of_int(dtype, INTS[x as usize % INTS.len()])
        };
        bytes.extend(s.to_le_bytes());
    }
    Memory { dtype, bytes }
}

/// Memory for the buffers of `k`, drawn from `seed` where it is read.
pub(crate) fn memories(k: &Kernel, seed: u64) -> Vec<Memory> {
    k.buffers
        .iter()
        .enumerate()
        .map(|(i, b)| match b.access {
            Access::In => values(b.dtype, b.len, seed + i as u64),
            _ => Memory::poisoned(b.dtype, b.len),
        })
        .collect()
}

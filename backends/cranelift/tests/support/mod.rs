//! Programs of one kernel, and running them by machine code and by the interpreter.
#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) mod cases;

use tenon_base::{DType, Fact, Loc, Tensor};
use tenon_cranelift::Jit;
use tenon_kernel::{Access, BufferKind, Call, Io, Kernel, Program};
use tenon_target::Target;

/// A program that calls `kernel` once: its `In` buffers are the inputs, its `Out` buffers the outputs.
pub(crate) fn program(kernel: Kernel, fused: bool) -> Program {
    let mut p = Program { name: "test".into(), fused_multiply_add: fused, ..Program::default() };
    let mut args = vec![];
    for b in &kernel.buffers {
        let io = Io { name: b.name.clone(), fact: Fact::of(b.dtype, &[b.len]) };
        let kind = match b.access {
            Access::In => {
                p.inputs.push(io);
                BufferKind::Input(p.inputs.len() - 1)
            }
            Access::Out => {
                p.outputs.push(io);
                BufferKind::Output(p.outputs.len() - 1)
            }
            Access::Scratch | Access::InOut => {
                let at = p.arena_bytes.next_multiple_of(Program::ALIGN);
                p.arena_bytes = at + b.len * b.dtype.size();
                BufferKind::Arena(Some(at))
            }
        };
        args.push(p.add_buffer(&b.name, b.dtype, b.len, kind));
    }
    p.kernels.push(kernel);
    p.push_call(Call { kernel: 0, args, loc: Loc::default() });
    p
}

/// The levels of x86-64 and the host's own target, as far as the host has them.
pub(crate) fn runnable() -> Vec<Target> {
    let host = tenon_target::host().unwrap();
    let mut out: Vec<Target> = tenon_target::CPUS
        .iter()
        .filter(|c| c.arch == host.arch && c.features().is_subset(host.features) && !c.name.starts_with("apple"))
        .map(|c| Target::parse(&format!("{}-{}/{}", host.arch, std::env::consts::OS, c.name)).unwrap())
        .collect();
    out.push(host);
    out
}

/// Targets of the other architectures.
pub(crate) fn foreign() -> Vec<Target> {
    ["aarch64-linux", "cortex-a76", "riscv64-linux", "rv64gcv", "aarch64-macos", "x86_64-windows", "x86_64-macos"]
        .iter()
        .map(|t| Target::parse(t).unwrap())
        .collect()
}

/// Runs `jit` on `inputs`.
pub(crate) fn run(jit: &Jit, p: &Program, inputs: &[Tensor]) -> Vec<Tensor> {
    let ins: Vec<&[u8]> = inputs.iter().map(|t| &t.bytes()[..]).collect();
    let mut outs: Vec<Vec<u8>> = jit.output_bytes().into_iter().map(|n| vec![0xee; n]).collect();
    let mut slices: Vec<&mut [u8]> = outs.iter_mut().map(Vec::as_mut_slice).collect();
    jit.run(&ins, &mut slices, &mut jit.arena()).unwrap();
    outs.into_iter()
        .zip(&p.outputs)
        .map(|(bytes, io)| Tensor::from_bytes(io.fact.dtype, &io.fact.dims().unwrap(), bytes.into()).unwrap())
        .collect()
}

/// Elements that differ, but for NaNs: (output, element, expected, found).
pub(crate) fn differences(expected: &[Tensor], found: &[Tensor]) -> Vec<(usize, usize, String, String)> {
    let mut out = vec![];
    for (k, (e, f)) in expected.iter().zip(found).enumerate() {
        let size = e.dtype().size();
        for (i, (x, y)) in e.bytes().chunks(size).zip(f.bytes().chunks(size)).enumerate() {
            let nan =
                |b: &[u8]| e.dtype().is_float() && tenon_base::Scalar::from_le_bytes(e.dtype(), b).as_f64().is_nan();
            if x != y && !(nan(x) && nan(y)) {
                let show = |b: &[u8]| format!("{} ({b:02x?})", tenon_base::Scalar::from_le_bytes(e.dtype(), b));
                out.push((k, i, show(x), show(y)));
            }
        }
    }
    out
}

/// A reproducible stream of numbers.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = self.0;
        (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ (x >> 32)
    }
}

/// `n` values of `dtype`: those at which something happens first, then random bits.
pub(crate) fn values(dtype: DType, n: usize, seed: u64) -> Tensor {
    let mut r = Random(seed);
    let floats: &[f64] = &[
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
        -0.3,
        126.5,
        127.5,
        -128.5,
        255.5,
        256.0,
        32767.5,
        65504.0,
        65519.9,
        65520.0,
        65535.6,
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
        6.097e-5,
        1e-40,
        4.5e15,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        9.25,
    ];
    let ints: &[i128] =
        &[0, 1, -1, 2, 3, 7, -7, 8, 31, 63, 64, 127, 128, -128, 255, 256, 32767, 32768, -32768, 65535, 1 << 24 | 1];
    let mut bytes = Vec::with_capacity(n * dtype.size());
    for i in 0..n {
        let random = r.next();
        let s = if i % 3 == 2 {
            let mut b = random.to_le_bytes();
            if dtype == DType::Bool {
                b[0] &= 1;
            }
            tenon_base::Scalar::from_le_bytes(dtype, &b[..dtype.size()])
        } else if dtype.is_float() {
            tenon_base::Scalar::of_f64(dtype, floats[random as usize % floats.len()])
        } else {
            let (lo, hi) = dtype.int_range().unwrap();
            let v = match random % 8 {
                0 => lo,
                1 => hi,
                2 => hi - 1,
                _ => ints[(random >> 8) as usize % ints.len()],
            };
            tenon_base::Scalar::of_int(dtype, v)
        };
        bytes.extend(s.to_le_bytes());
    }
    Tensor::from_bytes(dtype, &[n], bytes.into()).unwrap()
}

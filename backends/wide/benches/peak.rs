//! How much of a core the generated code reaches: scheduled kernels against a loop of independent multiply-adds.
//!
//! `cargo bench -p tenon-wide` prints operations a second and the part of the peak, and for functions nanoseconds an
//! element. Times are the least of many short runs, since a shared machine disturbs the long ones.
#![cfg(target_arch = "x86_64")]

use memmap2::{Mmap, MmapMut};
use std::fmt::Write;
use std::time::Instant;
use tenon_kernel::Kernel;
use tenon_target::Target;
use tenon_wide::compile;

/// Runs of each measurement.
const RUNS: usize = 400;

struct Function {
    map: Mmap,
    buffers: Vec<Vec<u8>>,
}

impl Function {
    fn new(text: &str, target: &Target) -> Function {
        let kernel = Kernel::parse(text).unwrap_or_else(|e| panic!("{e}"));
        let code = compile(&kernel, target).unwrap_or_else(|e| panic!("{}: {e}", kernel.name));
        let mut map = MmapMut::map_anon(code.bytes.len()).expect("memory for code");
        map[..code.bytes.len()].copy_from_slice(&code.bytes);
        if let Some(folder) = std::env::var_os("TENON_WIDE_DUMP") {
            let path = std::path::Path::new(&folder).join(format!("{}.bin", kernel.name));
            std::fs::write(path, &code.bytes).expect("the folder can be written");
        }
        let buffers = kernel
            .buffers
            .iter()
            .map(|b| (0..b.len + 16).flat_map(|i| ((i % 7) as f32 * 0.25).to_le_bytes()).collect())
            .collect();
        Function { map: map.make_exec().expect("executable memory"), buffers }
    }

    /// The least nanoseconds of a call.
    fn time(&mut self) -> f64 {
        type P = *mut u8;
        let mut p: Vec<P> = self
            .buffers
            .iter_mut()
            .map(|b| {
                let p = b.as_mut_ptr();
                p.wrapping_add(p.align_offset(64))
            })
            .collect();
        p.resize(4, std::ptr::null_mut());
        // SAFETY: the code is that of a verified kernel of up to four buffers, each at least as long as declared.
        let f: extern "sysv64" fn(P, P, P, P) = unsafe { std::mem::transmute(self.map.as_ptr()) };
        let mut best = f64::INFINITY;
        for _ in 0..RUNS {
            let start = Instant::now();
            f(p[0], p[1], p[2], p[3]);
            best = best.min(start.elapsed().as_nanos() as f64);
        }
        best
    }
}

/// Independent chains of multiply-adds, and nothing else.
fn peak_text(lanes: usize, chains: usize, rounds: usize) -> String {
    let mut t = format!("kernel peak(in %x: f32[64], out %y: f32[{}]) {{\n", chains * lanes);
    let _ = writeln!(t, "let %a = load{lanes} %x[0] let %b = load{lanes} %x[{lanes}]");
    for i in 0..chains {
        let _ = writeln!(t, "var %c{i} = splat{lanes}(0.0)");
    }
    let _ = writeln!(t, "for %k in 0..{rounds} {{");
    for i in 0..chains {
        let _ = writeln!(t, "%c{i} = fma(%a, %b, %c{i})");
    }
    t.push_str("}\n");
    for i in 0..chains {
        let _ = writeln!(t, "store %y[{}] = %c{i}", i * lanes);
    }
    t + "}\n"
}

/// A product of `m` by `k` and `k` by `n` in tiles of `mr` rows and two registers; the right factor lies in panels.
fn product_text(lanes: usize, mr: usize, m: usize, n: usize, k: usize) -> String {
    let w = 2 * lanes;
    let mut t = format!("kernel product(in %a: f32[{}], in %b: f32[{}], out %c: f32[{}]) {{\n", m * k, k * n, m * n);
    let _ = writeln!(t, "parfor %p in 0..{} {{ parfor %m in 0..{m} step {mr} {{", n / w);
    for i in 0..mr {
        for j in 0..2 {
            let _ = writeln!(t, "var %c{i}x{j} = splat{lanes}(0.0)");
        }
    }
    let _ = writeln!(t, "for %k in 0..{k} step 4 {{");
    for u in 0..4 {
        for j in 0..2 {
            let _ = writeln!(t, "let %b{j} = load{lanes} %b[%p*{} + %k*{w} + {}]", k * w, u * w + j * lanes);
        }
        for i in 0..mr {
            let _ = writeln!(t, "let %a = splat{lanes}(load %a[%m*{k} + {} + %k])", i * k + u);
            let _ = writeln!(t, "%c{i}x0 = fma(%a, %b0, %c{i}x0) %c{i}x1 = fma(%a, %b1, %c{i}x1)");
        }
    }
    t.push_str("}\n");
    for i in 0..mr {
        for j in 0..2 {
            let _ = writeln!(t, "store %c[%m*{n} + %p*{w} + {}] = %c{i}x{j}", i * n + j * lanes);
        }
    }
    t + "} }\n}\n"
}

/// `y = e^x` in the way the schedule writes it: a power of two times a polynomial.
fn exp_text(lanes: usize, n: usize) -> String {
    let s = |v: &str| format!("splat{lanes}({v})");
    format!(
        "kernel exponential(in %x: f32[{n}], out %y: f32[{n}]) {{
  parfor %i in 0..{n} step {lanes} {{
    let %x = min(max(load{lanes} %x[%i], {}), {})
    let %n = nearest(%x * {})
    let %r = fma(%n, {}, %x)
    let %p = fma(fma(fma(fma(fma({}, %r, {}), %r, {}), %r, {}), %r, {}), %r, {})
    let %e = bitcast_f32((i32(%n) + splat{lanes}(127i32)) << splat{lanes}(23i32))
    store %y[%i] = %p * %e
  }}
}}\n",
        s("-87.0"),
        s("88.0"),
        s("1.4426950408889634"),
        s("-0.6931471805599453"),
        s("0.008333"),
        s("0.041666"),
        s("0.166666"),
        s("0.5"),
        s("1.0"),
        s("1.0")
    )
}

fn main() {
    let wide = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl");
    if !is_x86_feature_detected!("avx2") || !is_x86_feature_detected!("fma") {
        println!("this machine has no AVX2");
        return;
    }
    let target = Target::parse(if wide { "x86-64-v4" } else { "x86-64-v3" }).expect("a preset");
    let lanes = target.lanes(tenon_base::DType::F32);
    let rounds = 2000;
    let chains = 12;
    let rate = |ops: usize, ns: f64| ops as f64 / ns;
    let peak = rate(2 * lanes * chains * rounds, Function::new(&peak_text(lanes, chains, rounds), &target).time());
    println!("multiply-adds alone: {peak:.1} GFLOP/s ({target})");
    for (m, n, k) in [(48, 96, 64), (96, 64, 256), (192, 128, 512)] {
        let mut f = Function::new(&product_text(lanes, 6, m, n, k), &target);
        let r = rate(2 * m * n * k, f.time());
        println!("product {m} x {n} x {k}: {r:.1} GFLOP/s, {:.0} % of it", 100.0 * r / peak);
    }
    for registers in [1, 2, 4] {
        let n = 4096;
        let mut f = Function::new(&exp_text(lanes * registers, n), &target);
        println!("exponential, {registers} registers: {:.3} ns an element", f.time() / n as f64);
    }
}

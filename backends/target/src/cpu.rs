//! CPU presets as data.

use crate::{Arch, Feature, FeatureSet};

/// Sizes of the data caches that one core sees, in bytes; 0 where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caches {
    /// First level, data.
    pub l1d: usize,
    /// Second level.
    pub l2: usize,
    /// Third level (a core's usual share).
    pub l3: usize,
    /// Bytes of a line.
    pub line: usize,
}

/// A CPU model, or a level that many CPUs reach.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    /// As written in a target: `x86-64-v3`, `cortex-a76`.
    pub name: &'static str,
    /// Its architecture.
    pub arch: Arch,
    /// Which machines it means, in one sentence.
    pub what: &'static str,
    /// The level it extends.
    pub base: Option<&'static str>,
    /// Features beyond `base`.
    pub adds: &'static [Feature],
    /// Data caches; levels state what is common among their CPUs.
    pub caches: Caches,
    /// Cores an application may expect.
    pub cores: usize,
    /// f32 multiply-adds (or multiplies and adds, where there is no fused form) on whole vectors ([`crate::Target::vector_bytes`])
    /// started a cycle and core.
    pub vector_ops_per_cycle: f64,
}

const KB: usize = 1024;
const MB: usize = 1024 * KB;

const fn caches(l1d: usize, l2: usize, l3: usize) -> Caches {
    Caches { l1d, l2, l3, line: 64 }
}

use Feature::*;

/// Every preset; the first of an architecture is its smallest.
pub const CPUS: &[Cpu] = &[
    Cpu {
        name: "x86-64-v1",
        arch: Arch::X86_64,
        what: "Every 64-bit x86, back to 2003.",
        base: None,
        adds: &[Sse2],
        caches: caches(32 * KB, 256 * KB, 2 * MB),
        cores: 2,
        vector_ops_per_cycle: 1.0,
    },
    Cpu {
        name: "x86-64-v2",
        arch: Arch::X86_64,
        what: "Intel and AMD from about 2011 on; the default for x86-64.",
        base: Some("x86-64-v1"),
        adds: &[Sse42, Popcnt, Cx16],
        caches: caches(32 * KB, 256 * KB, 2 * MB),
        cores: 4,
        vector_ops_per_cycle: 1.0,
    },
    Cpu {
        name: "x86-64-v3",
        arch: Arch::X86_64,
        what: "AVX2 and FMA: Intel from Haswell (2013), AMD from Zen (2017).",
        base: Some("x86-64-v2"),
        adds: &[Avx2, Fma, F16c, Bmi1, Bmi2, Lzcnt],
        caches: caches(32 * KB, 512 * KB, 2 * MB),
        cores: 4,
        vector_ops_per_cycle: 2.0,
    },
    Cpu {
        name: "x86-64-v4",
        arch: Arch::X86_64,
        what: "AVX-512: Intel servers from Skylake-SP, AMD from Zen 4.",
        base: Some("x86-64-v3"),
        adds: &[Avx512cd, Avx512dq, Avx512bw, Avx512vl],
        caches: caches(32 * KB, MB, 2 * MB),
        cores: 8,
        vector_ops_per_cycle: 2.0,
    },
    Cpu {
        name: "zen4",
        arch: Arch::X86_64,
        what: "AMD Zen 4: EPYC 9004, Ryzen 7000.",
        base: Some("x86-64-v4"),
        adds: &[Avx512vbmi, Avx512bitalg, Avx512vnni],
        caches: caches(32 * KB, MB, 4 * MB),
        cores: 8,
        vector_ops_per_cycle: 1.0, // 512 bits are two passes of 256
    },
    Cpu {
        name: "armv8-a",
        arch: Arch::Aarch64,
        what: "Every 64-bit Arm application core; the default for aarch64.",
        base: None,
        adds: &[Neon],
        caches: caches(32 * KB, 256 * KB, 0),
        cores: 4,
        vector_ops_per_cycle: 1.0,
    },
    Cpu {
        name: "cortex-a53",
        arch: Arch::Aarch64,
        what: "Arm Cortex-A53: in order, Raspberry Pi 3, small phone cores.",
        base: Some("armv8-a"),
        adds: &[],
        caches: caches(32 * KB, 512 * KB, 0),
        cores: 4,
        vector_ops_per_cycle: 0.5,
    },
    Cpu {
        name: "cortex-a76",
        arch: Arch::Aarch64,
        what: "Arm Cortex-A76: Raspberry Pi 5, phones from 2019 on.",
        base: Some("armv8-a"),
        adds: &[Lse, Fp16, Dotprod],
        caches: caches(64 * KB, 512 * KB, 2 * MB),
        cores: 4,
        vector_ops_per_cycle: 2.0,
    },
    Cpu {
        name: "neoverse-n1",
        arch: Arch::Aarch64,
        what: "Arm Neoverse N1: AWS Graviton 2, Ampere Altra.",
        base: Some("armv8-a"),
        adds: &[Lse, Fp16, Dotprod],
        caches: caches(64 * KB, MB, 2 * MB),
        cores: 16,
        vector_ops_per_cycle: 2.0,
    },
    Cpu {
        name: "apple-m1",
        arch: Arch::Aarch64,
        what: "Apple M1 and later; the default for macOS on aarch64.",
        base: Some("armv8-a"),
        adds: &[Lse, Fp16, Dotprod],
        caches: caches(128 * KB, 4 * MB, 0),
        cores: 4,
        vector_ops_per_cycle: 4.0,
    },
    Cpu {
        name: "rv64gc",
        arch: Arch::Riscv64,
        what: "64-bit RISC-V that runs Linux, without vectors; the default for riscv64.",
        base: None,
        adds: &[C],
        caches: caches(32 * KB, 256 * KB, 0),
        cores: 4,
        vector_ops_per_cycle: 0.25,
    },
    Cpu {
        name: "rv64gcv",
        arch: Arch::Riscv64,
        what: "rv64gc with the ratified vector extension 1.0.",
        base: Some("rv64gc"),
        adds: &[V],
        caches: caches(32 * KB, 512 * KB, 0),
        cores: 4,
        vector_ops_per_cycle: 1.0,
    },
];

impl Cpu {
    /// The preset called `name`.
    pub fn named(name: &str) -> Option<&'static Cpu> {
        CPUS.iter().find(|c| c.name == name)
    }

    /// Its features with those of the levels it extends.
    pub fn features(&self) -> FeatureSet {
        let mut set = self.base.and_then(Cpu::named).map_or(FeatureSet::EMPTY, Cpu::features);
        self.adds.iter().for_each(|f| set.insert(*f));
        set
    }

    /// The preset for a triple without a CPU.
    pub fn default_for(arch: Arch, apple: bool) -> &'static Cpu {
        let name = match arch {
            Arch::X86_64 => "x86-64-v2",
            Arch::Aarch64 if apple => "apple-m1",
            Arch::Aarch64 => "armv8-a",
            Arch::Riscv64 => "rv64gc",
        };
        CPUS.iter().find(|c| c.name == name).unwrap_or(&CPUS[0])
    }
}

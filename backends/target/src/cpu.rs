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
    /// Those of its features that are slower than doing without: code is not made of them.
    pub slow: &'static [Feature],
    /// Data caches; levels state what is common among their CPUs.
    pub caches: Caches,
    /// Cores an application may expect.
    pub cores: usize,
    /// Vector multiply-adds (or multiplies and adds, where there is no fused form) of up to `datapath_bytes` started a cycle
    /// and core; scalar ones for machines without vectors.
    pub vector_ops_per_cycle: f64,
    /// Bytes of a vector that one execution unit takes in one cycle; wider vectors take several.
    pub datapath_bytes: usize,
    /// The clock, in GHz, that a core usually keeps under load: for estimates of time alone.
    pub ghz: f64,
}

/// One row a CPU: name, architecture, the level it extends, features beyond it, those of no use; L1d, L2 and L3 in KiB; cores; vector
/// operations a cycle of so many bytes; GHz; which machines it means.
macro_rules! cpus {
    ($($name:literal $arch:ident < $base:expr; [$($feature:ident)*] $(slow [$($slow:ident)*])?;
       $l1:literal $l2:literal $l3:literal; $cores:literal; $rate:literal x $path:literal; $ghz:literal; $what:literal;)*) => {
        /// Every preset; the first of an architecture is its smallest, and what extends another stands below it.
        pub const CPUS: &[Cpu] = &[$(Cpu {
            name: $name,
            arch: Arch::$arch,
            what: $what,
            base: $base,
            adds: &[$(Feature::$feature),*],
            slow: &[$($(Feature::$slow),*)?],
            caches: Caches { l1d: $l1 * 1024, l2: $l2 * 1024, l3: $l3 * 1024, line: 64 },
            cores: $cores,
            vector_ops_per_cycle: $rate,
            datapath_bytes: $path,
            ghz: $ghz,
        },)*];
    };
}

// Caches, units and clocks are from the vendors' optimisation guides and data sheets, rounded to what is common among the
// products of a name. VDPBF16PS on Sapphire Rapids: measured, 0.77 ns for 32 multiply-adds where two VFMADD231PS take 0.38.
cpus! {
    "x86-64-v1" X86_64 < None; [Sse2]; 32 256 2048; 2; 1.0 x 16; 2.0;
        "Every 64-bit x86, back to 2003.";
    "x86-64-v2" X86_64 < Some("x86-64-v1"); [Sse42 Popcnt Cx16]; 32 256 2048; 4; 1.0 x 16; 2.5;
        "Intel and AMD from about 2011 on; the default for x86-64.";
    "x86-64-v3" X86_64 < Some("x86-64-v2"); [Avx2 Fma F16c Bmi1 Bmi2 Lzcnt]; 32 512 2048; 4; 2.0 x 32; 3.0;
        "AVX2 and FMA: Intel from Haswell (2013), AMD from Zen (2017).";
    "x86-64-v4" X86_64 < Some("x86-64-v3"); [Avx512cd Avx512dq Avx512bw Avx512vl]; 32 1024 2048; 8; 2.0 x 32; 2.6;
        "AVX-512: Intel servers from Skylake-SP, AMD from Zen 4.";
    "haswell" X86_64 < Some("x86-64-v3"); []; 32 256 2048; 4; 2.0 x 32; 3.2;
        "Intel Haswell and Broadwell.";
    "skylake" X86_64 < Some("x86-64-v3"); []; 32 256 2048; 4; 2.0 x 32; 3.4;
        "Intel Skylake to Comet Lake, without AVX-512.";
    "alderlake" X86_64 < Some("x86-64-v3"); [AvxVnni]; 48 1280 3072; 8; 2.0 x 32; 4.0;
        "Intel Alder Lake and Raptor Lake: 8-bit dot products in 256 bits.";
    "skylake-avx512" X86_64 < Some("x86-64-v4"); []; 32 1024 1408; 16; 2.0 x 64; 2.6;
        "Intel Skylake-SP and Skylake-X servers.";
    "cascadelake" X86_64 < Some("x86-64-v4"); [Avx512vnni]; 32 1024 1408; 16; 2.0 x 64; 2.6;
        "Intel Cascade Lake servers: the first with 8-bit dot products.";
    "cooperlake" X86_64 < Some("cascadelake"); [Avx512bf16]; 32 1024 1408; 16; 2.0 x 64; 2.6;
        "Intel Cooper Lake servers: the first with dot products of bf16.";
    "icelake-server" X86_64 < Some("x86-64-v4"); [Avx512vbmi Avx512bitalg Avx512vnni]; 48 1280 1536; 16; 2.0 x 64; 2.6;
        "Intel Ice Lake servers.";
    "sapphire-rapids" X86_64 < Some("icelake-server"); [AvxVnni Avx512bf16 AmxInt8 AmxBf16] slow [Avx512bf16]; 48 2048 1920; 16; 2.0 x 64; 2.6;
        "Intel Sapphire, Emerald and Granite Rapids servers: the first with products of tiles (AMX).";
    "zen1" X86_64 < Some("x86-64-v3"); []; 32 512 2048; 8; 2.0 x 16; 3.2;
        "AMD Zen and Zen+: EPYC 7001, Ryzen 1000 and 2000; 256-bit vectors take two steps.";
    "zen2" X86_64 < Some("x86-64-v3"); []; 32 512 4096; 8; 2.0 x 32; 3.4;
        "AMD Zen 2: EPYC 7002, Ryzen 3000.";
    "zen3" X86_64 < Some("x86-64-v3"); []; 32 512 4096; 8; 2.0 x 32; 3.5;
        "AMD Zen 3: EPYC 7003, Ryzen 5000.";
    "zen4" X86_64 < Some("x86-64-v4"); [Avx512vbmi Avx512bitalg Avx512vnni Avx512bf16]; 32 1024 4096; 8; 2.0 x 32; 3.7;
        "AMD Zen 4: EPYC 9004, Ryzen 7000; 512-bit vectors take two steps.";
    "zen5" X86_64 < Some("zen4"); [AvxVnni]; 48 1024 4096; 8; 2.0 x 64; 3.9;
        "AMD Zen 5: EPYC 9005, Ryzen 9000.";

    "armv8-a" Aarch64 < None; [Neon]; 32 256 0; 4; 1.0 x 16; 1.5;
        "Every 64-bit Arm application core; the default for aarch64.";
    "armv8.4-a" Aarch64 < Some("armv8-a"); [Lse Dotprod]; 64 512 1024; 4; 2.0 x 16; 2.0;
        "Arm cores with 8-bit dot products, from about 2018 on.";
    "armv8.6-a" Aarch64 < Some("armv8.4-a"); [Fp16 I8mm]; 64 512 1024; 4; 2.0 x 16; 2.5;
        "Arm cores with 8-bit matrix products, from about 2021 on.";
    "cortex-a53" Aarch64 < Some("armv8-a"); []; 32 512 0; 4; 0.5 x 16; 1.4;
        "Arm Cortex-A53: in order, Raspberry Pi 3, small phone cores.";
    "cortex-a55" Aarch64 < Some("armv8-a"); [Lse Fp16 Dotprod]; 32 128 512; 4; 0.5 x 16; 1.8;
        "Arm Cortex-A55: in order, small phone cores and gateways.";
    "cortex-a72" Aarch64 < Some("armv8-a"); []; 32 1024 0; 4; 1.0 x 16; 1.8;
        "Arm Cortex-A72: Raspberry Pi 4, AWS Graviton 1.";
    "cortex-a76" Aarch64 < Some("armv8-a"); [Lse Fp16 Dotprod]; 64 512 2048; 4; 2.0 x 16; 2.4;
        "Arm Cortex-A76: Raspberry Pi 5, phones from 2019 on.";
    "cortex-a78" Aarch64 < Some("armv8-a"); [Lse Fp16 Dotprod]; 64 512 1024; 4; 2.0 x 16; 2.6;
        "Arm Cortex-A78: phones from 2021 on, Jetson Orin.";
    "neoverse-n1" Aarch64 < Some("armv8-a"); [Lse Fp16 Dotprod]; 64 1024 2048; 16; 2.0 x 16; 2.6;
        "Arm Neoverse N1: AWS Graviton 2, Ampere Altra.";
    "neoverse-v1" Aarch64 < Some("armv8-a"); [Lse Fp16 Dotprod I8mm]; 64 1024 1024; 16; 4.0 x 16; 2.6;
        "Arm Neoverse V1: AWS Graviton 3.";
    "neoverse-n2" Aarch64 < Some("armv8-a"); [Lse Fp16 Dotprod I8mm]; 64 1024 1024; 16; 2.0 x 16; 2.8;
        "Arm Neoverse N2: Azure Cobalt 100, Yitian 710.";
    "apple-m1" Aarch64 < Some("armv8-a"); [Lse Fp16 Dotprod]; 128 4096 0; 4; 4.0 x 16; 3.2;
        "Apple M1 and later; the default for macOS on aarch64.";
    "apple-m2" Aarch64 < Some("apple-m1"); [I8mm]; 128 4096 0; 4; 4.0 x 16; 3.5;
        "Apple M2 and later.";

    "rv64gc" Riscv64 < None; [C]; 32 256 0; 4; 1.0 x 16; 1.2;
        "64-bit RISC-V that runs Linux, without vectors; the default for riscv64.";
    "rv64gcv" Riscv64 < Some("rv64gc"); [V]; 32 512 0; 4; 1.0 x 16; 1.5;
        "rv64gc with the ratified vector extension 1.0, of any length.";
    "rv64gcv256" Riscv64 < Some("rv64gcv"); [Zvl256b]; 32 512 0; 4; 1.0 x 16; 1.5;
        "rv64gcv with vectors of at least 256 bits.";
    "rv64gcv512" Riscv64 < Some("rv64gcv"); [Zvl512b]; 32 512 0; 4; 1.0 x 32; 1.5;
        "rv64gcv with vectors of at least 512 bits.";
    "rva22u64" Riscv64 < Some("rv64gc"); [Zba Zbb Zbs]; 32 512 0; 4; 1.0 x 16; 1.5;
        "The profile RVA22 without its optional vectors.";
    "rva23u64" Riscv64 < Some("rva22u64"); [V Zicond Zfa Zfhmin]; 64 512 1024; 8; 1.0 x 16; 2.0;
        "The profile RVA23, which has vectors.";
    "sifive-u74" Riscv64 < Some("rv64gc"); [Zba Zbb]; 32 512 0; 4; 1.0 x 16; 1.5;
        "SiFive U74: StarFive JH7110 (VisionFive 2), in order, no vectors.";
    "spacemit-k1" Riscv64 < Some("rva22u64"); [Zvl256b Zicond]; 32 512 0; 8; 1.0 x 16; 1.6;
        "SpacemiT K1: Banana Pi F3, vectors of 256 bits.";
}

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

    /// Whether it is a level that many CPUs reach, not one of them.
    pub fn is_level(&self) -> bool {
        ["x86-64-v", "armv8", "rv64", "rva"].iter().any(|p| self.name.starts_with(p))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_consistent() {
        for (i, c) in CPUS.iter().enumerate() {
            assert_eq!(CPUS.iter().position(|d| d.name == c.name), Some(i), "{}: one row a name", c.name);
            let base = c.base.map(|b| CPUS.iter().position(|d| d.name == b && d.arch == c.arch).expect(b));
            assert!(base.is_none_or(|b| b < i), "{}: what it extends stands above it", c.name);
            assert!(c.slow.iter().all(|f| c.features().has(*f)), "{}: what is slow is there", c.name);
            assert!(c.features().iter().all(|f| f.info().arch == c.arch), "{}: features of its architecture", c.name);
            assert!(c.caches.l1d > 0 && c.cores > 0 && c.ghz > 0.0 && c.what.ends_with('.'), "{}", c.name);
            let used: usize = if c.features().has(Feature::Sse2) || c.arch != Arch::X86_64 { 16 } else { 0 };
            assert!(c.datapath_bytes >= used && c.datapath_bytes.is_power_of_two() && c.datapath_bytes <= 64);
        }
        for arch in Arch::ALL {
            let first = CPUS.iter().find(|c| c.arch == arch).unwrap();
            let smallest = |c: &&Cpu| c.arch == arch;
            assert!(CPUS.iter().filter(smallest).all(|c| first.features().is_subset(c.features())), "{}", first.name);
        }
    }
}

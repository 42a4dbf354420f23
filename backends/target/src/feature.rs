//! Instruction set extensions as data: one table, one bitset.

use std::fmt;

/// An instruction set architecture that Tenon generates code for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arch {
    /// x86-64, also known as AMD64.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
    /// 64-bit RISC-V.
    Riscv64,
}

impl Arch {
    /// Every architecture.
    pub const ALL: [Arch; 3] = [Arch::X86_64, Arch::Aarch64, Arch::Riscv64];

    /// As in a triple: `x86_64`, `aarch64`, `riscv64`.
    pub const fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
            Arch::Riscv64 => "riscv64",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One row of the feature table.
#[derive(Clone, Copy, Debug)]
pub struct FeatureInfo {
    /// As written in a target after `+`: `avx2`.
    pub name: &'static str,
    /// The architecture it belongs to.
    pub arch: Arch,
    /// What it gives, in one sentence.
    pub what: &'static str,
    /// Where the CPU says so.
    pub detected_by: &'static str,
    /// What a CPU with it also has (direct implications; [`FeatureSet::insert`] closes them).
    pub implies: &'static [Feature],
}

macro_rules! features {
    ($($id:ident $name:literal $arch:ident $what:literal $by:literal [$($imp:ident),*];)*) => {
        /// An instruction set extension that changes the code Tenon generates.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Feature {
            $(#[doc = $what] $id,)*
        }

        /// Rows in the order of [`Feature`].
        const TABLE: &[FeatureInfo] = &[$(FeatureInfo {
            name: $name, arch: Arch::$arch, what: $what, detected_by: $by, implies: &[$(Feature::$imp),*],
        },)*];

        impl Feature {
            /// Every feature.
            pub const ALL: &'static [Feature] = &[$(Feature::$id,)*];
        }
    };
}

features! {
    Sse2 "sse2" X86_64 "128-bit float and integer vectors; every x86-64 has them." "CPUID.1:EDX.SSE2" [];
    Sse3 "sse3" X86_64 "Horizontal additions of floats." "CPUID.1:ECX.SSE3" [Sse2];
    Ssse3 "ssse3" X86_64 "Byte shuffles, integer absolute values." "CPUID.1:ECX.SSSE3" [Sse3];
    Sse41 "sse4.1" X86_64 "Rounding, blends, 32-bit multiplies, minima of every integer width." "CPUID.1:ECX.SSE4_1" [Ssse3];
    Sse42 "sse4.2" X86_64 "64-bit integer comparison." "CPUID.1:ECX.SSE4_2" [Sse41];
    Popcnt "popcnt" X86_64 "Population count." "CPUID.1:ECX.POPCNT" [];
    Cx16 "cx16" X86_64 "16-byte compare and exchange." "CPUID.1:ECX.CMPXCHG16B" [];
    Avx "avx" X86_64 "Three-operand vector instructions, 256-bit floats." "CPUID.1:ECX.AVX and XCR0" [Sse42];
    Avx2 "avx2" X86_64 "256-bit integer vectors." "CPUID.7:EBX.AVX2" [Avx];
    Fma "fma" X86_64 "Fused multiply-add." "CPUID.1:ECX.FMA" [Avx];
    F16c "f16c" X86_64 "Conversion between half and single precision." "CPUID.1:ECX.F16C" [Avx];
    Bmi1 "bmi1" X86_64 "Bit manipulation, first set." "CPUID.7:EBX.BMI1" [];
    Bmi2 "bmi2" X86_64 "Bit manipulation, second set; shifts without flags." "CPUID.7:EBX.BMI2" [];
    Lzcnt "lzcnt" X86_64 "Leading zero count." "CPUID.80000001:ECX.LZCNT" [];
    AvxVnni "avx-vnni" X86_64 "8-bit dot products in 128 and 256-bit vectors." "CPUID.7.1:EAX.AVX-VNNI" [Avx2];
    Avx512f "avx512f" X86_64 "512-bit vectors, masks, 32 vector registers." "CPUID.7:EBX.AVX512F and XCR0" [Avx2, Fma];
    Avx512cd "avx512cd" X86_64 "Conflict detection, vector leading zero count." "CPUID.7:EBX.AVX512CD" [Avx512f];
    Avx512dq "avx512dq" X86_64 "64-bit integer multiplies and conversions." "CPUID.7:EBX.AVX512DQ" [Avx512f];
    Avx512bw "avx512bw" X86_64 "8 and 16-bit lanes in 512-bit vectors." "CPUID.7:EBX.AVX512BW" [Avx512f];
    Avx512vl "avx512vl" X86_64 "AVX-512 instructions on 128 and 256-bit vectors." "CPUID.7:EBX.AVX512VL" [Avx512f];
    Avx512vbmi "avx512vbmi" X86_64 "Byte permutes across a vector." "CPUID.7:ECX.AVX512_VBMI" [Avx512bw];
    Avx512bitalg "avx512bitalg" X86_64 "Vector population count." "CPUID.7:ECX.AVX512_BITALG" [Avx512bw];
    Avx512vnni "avx512vnni" X86_64 "8-bit dot products in 512-bit vectors." "CPUID.7:ECX.AVX512_VNNI" [Avx512f];
    Avx512bf16 "avx512bf16" X86_64 "Dot products of pairs of bf16, added to f32, in 512-bit vectors." "CPUID.7.1:EAX.AVX512_BF16" [Avx512bw];
    AmxTile "amx-tile" X86_64 "Registers of 16 rows of 64 bytes." "CPUID.7:EDX.AMX-TILE and XCR0" [];
    AmxInt8 "amx-int8" X86_64 "Products of tiles of bytes." "CPUID.7:EDX.AMX-INT8" [AmxTile];
    AmxBf16 "amx-bf16" X86_64 "Products of tiles of bf16." "CPUID.7:EDX.AMX-BF16" [AmxTile, Avx512bf16];
    Neon "neon" Aarch64 "128-bit float and integer vectors with fused multiply-add; every 64-bit Arm application core has them." "HWCAP_ASIMD" [];
    Lse "lse" Aarch64 "Atomic read-modify-write instructions." "HWCAP_ATOMICS" [];
    Fp16 "fp16" Aarch64 "Half precision arithmetic." "HWCAP_FPHP and HWCAP_ASIMDHP" [Neon];
    Dotprod "dotprod" Aarch64 "8-bit dot products." "HWCAP_ASIMDDP" [Neon];
    I8mm "i8mm" Aarch64 "8-bit matrix products, mixed-sign dot products." "HWCAP2_I8MM" [Neon];
    C "c" Riscv64 "Compressed instructions; part of every `gc` profile." "HWCAP letter C" [];
    V "v" Riscv64 "Vectors of at least 128 bits." "HWCAP letter V" [];
    Zvl256b "zvl256b" Riscv64 "Vectors of at least 256 bits." "riscv_hwprobe, or the vlenb register" [V];
    Zvl512b "zvl512b" Riscv64 "Vectors of at least 512 bits." "riscv_hwprobe, or the vlenb register" [Zvl256b];
    Zvl1024b "zvl1024b" Riscv64 "Vectors of at least 1024 bits." "riscv_hwprobe, or the vlenb register" [Zvl512b];
    Zba "zba" Riscv64 "Address generation: shift and add." "riscv_hwprobe EXT_ZBA" [];
    Zbb "zbb" Riscv64 "Minimum, maximum, sign extension, rotations." "riscv_hwprobe EXT_ZBB" [];
    Zbs "zbs" Riscv64 "Single-bit instructions." "riscv_hwprobe EXT_ZBS" [];
    Zicond "zicond" Riscv64 "Conditional zeroing: selects without branches." "riscv_hwprobe EXT_ZICOND" [];
    Zfa "zfa" Riscv64 "Additional float instructions, rounding among them." "riscv_hwprobe EXT_ZFA" [];
    Zfhmin "zfhmin" Riscv64 "Half precision conversion." "riscv_hwprobe EXT_ZFHMIN" [];
    Zfh "zfh" Riscv64 "Half precision arithmetic." "riscv_hwprobe EXT_ZFH" [Zfhmin];
    Zvfh "zvfh" Riscv64 "Half precision vectors." "riscv_hwprobe EXT_ZVFH" [V, Zfhmin];
}

impl Feature {
    /// Its row of the table.
    pub fn info(self) -> &'static FeatureInfo {
        &TABLE[self as usize]
    }

    /// The feature written `name`.
    pub fn named(name: &str) -> Option<Feature> {
        Feature::ALL.iter().copied().find(|f| f.info().name == name)
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.info().name)
    }
}

/// A set of features, closed under implication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FeatureSet(u64);

// The set is one word.
const _: () = assert!(TABLE.len() <= 64);

impl FeatureSet {
    /// No feature.
    pub const EMPTY: FeatureSet = FeatureSet(0);

    /// The closure of `features`.
    pub fn of(features: &[Feature]) -> FeatureSet {
        let mut s = FeatureSet::EMPTY;
        features.iter().for_each(|f| s.insert(*f));
        s
    }

    /// Adds `f` and what it implies.
    pub fn insert(&mut self, f: Feature) {
        self.0 |= 1 << f as u32;
        f.info().implies.iter().for_each(|i| self.insert(*i));
    }

    /// Removes `f` and everything that implies it.
    pub fn remove(&mut self, f: Feature) {
        self.0 &= !(1 << f as u32);
        for g in Feature::ALL {
            if self.has(*g) && g.info().implies.contains(&f) {
                self.remove(*g);
            }
        }
    }

    /// Whether `f` is in the set.
    pub const fn has(self, f: Feature) -> bool {
        self.0 >> f as u32 & 1 != 0
    }

    /// Whether every feature of `self` is in `other`.
    pub const fn is_subset(self, other: FeatureSet) -> bool {
        self.0 & !other.0 == 0
    }

    /// The features, in table order.
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.iter().copied().filter(move |f| self.has(*f))
    }
}

/// `sse2 sse3 …`
impl fmt::Display for FeatureSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, x) in self.iter().enumerate() {
            write!(f, "{}{x}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

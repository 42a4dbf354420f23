//! Target descriptions as data: what code is generated for, on any machine.
//!
//! A target is written `triple[/cpu][+feature][-feature]`, or just a CPU (which then runs Linux):
//!
//! ```
//! use tenon_target::{Feature, Target};
//! let t = Target::parse("x86_64-linux/x86-64-v3+avx512f").unwrap();
//! assert!(t.has(Feature::Fma) && t.vector_bytes == 32);
//! assert_eq!(t.name, "x86_64-linux/x86-64-v3+avx512f");
//! // A plain triple means the oldest machine worth the name: x86-64-v2.
//! assert_eq!(Target::parse("x86_64-linux").unwrap().cpu, "x86-64-v2");
//! ```
#![forbid(unsafe_code)]

mod cpu;
mod feature;
#[cfg(feature = "host")]
pub mod host;
mod parse;

pub use cpu::{CPUS, Caches, Cpu};
pub use feature::{Arch, Feature, FeatureInfo, FeatureSet};
#[cfg(feature = "host")]
pub use host::host;
pub use parse::ParseError;

use std::fmt;
pub use target_lexicon::OperatingSystem;
use target_lexicon::{BinaryFormat, Triple};
use tenon_base::DType;

/// Products that tiles give a cycle, times the bytes of a factor: 16 by 16 sums of 64 bytes every 16 cycles (Intel's *Optimization Reference
/// Manual*, "Intel AMX").
const TILE_BYTES_PER_CYCLE: f64 = 1024.0;

/// A machine to generate code for.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// As [`Target::parse`] reads it back: `x86_64-linux/x86-64-v3`.
    pub name: String,
    /// The CPU preset it started from.
    pub cpu: &'static str,
    /// Architecture, system and object format.
    pub triple: Triple,
    /// The architecture of the triple.
    pub arch: Arch,
    /// Instruction set extensions the code may use.
    pub features: FeatureSet,
    /// Those of them that the CPU has but that gain nothing there.
    pub slow: FeatureSet,
    /// Bytes of the vectors that generated code uses, or 0 where the machine has none: what the schedule makes lanes and
    /// tiles for. On x86-64 64 with AVX-512 (F, BW, DQ and VL) and 32 with AVX2, FMA and BMI2, which have a code generator of
    /// their own; 16 everywhere else.
    pub vector_bytes: usize,
    /// Data caches.
    pub caches: Caches,
    /// Cores an application may expect.
    pub cores: usize,
    /// The clock a core usually keeps, in GHz: for estimates of time alone.
    pub ghz: f64,
    /// Multiply-adds on vectors of up to `datapath_bytes` started a cycle and core.
    vector_ops_per_cycle: f64,
    /// Bytes of a vector that one unit takes in one cycle.
    datapath_bytes: usize,
}

impl Target {
    /// The target written `s`; see the crate's documentation for the syntax.
    ///
    /// # Errors
    /// Says which part is unknown, what is near to it and what there is.
    pub fn parse(s: &str) -> Result<Target, ParseError> {
        parse::parse(s)
    }

    /// Whether the machine has `f`.
    pub fn has(&self, f: Feature) -> bool {
        self.features.has(f)
    }

    /// Whether `a * b + c` can be rounded once by one instruction.
    pub fn has_fma(&self) -> bool {
        match self.arch {
            Arch::X86_64 => self.has(Feature::Fma),
            Arch::Aarch64 | Arch::Riscv64 => true,
        }
    }

    /// Whether the machine is slow with subnormal numbers, and gives zero instead if it is told to. Cores for x86-64 take up to 150 cycles more for
    /// an operation with such a result (A. Fog, *The microarchitecture of Intel, AMD and VIA CPUs*); others compute with them as with all others.
    pub fn flushes_to_zero(&self) -> bool {
        self.arch == Arch::X86_64
    }

    /// Whether words of two vectors are put into any order by an instruction or two.
    pub fn shuffles_words(&self) -> bool {
        self.vector_bytes >= 16 && (self.arch != Arch::X86_64 || self.has(Feature::Sse41))
    }

    /// Bytes of the widest vectors of the machine, whether generated code uses them or not: 64 with AVX-512, 32 with AVX2.
    pub fn widest_vector_bytes(&self) -> usize {
        let has = |f| self.has(f);
        match self.arch {
            Arch::X86_64 if has(Feature::Avx512f) => 64,
            Arch::X86_64 if has(Feature::Avx2) => 32,
            Arch::Riscv64 if has(Feature::Zvl1024b) => 128,
            Arch::Riscv64 if has(Feature::Zvl512b) => 64,
            Arch::Riscv64 if has(Feature::Zvl256b) => 32,
            _ => self.vector_bytes,
        }
    }

    /// Lanes of a `vector_bytes` vector of `dtype`; 1 where the machine has no vectors.
    pub fn lanes(&self, dtype: DType) -> usize {
        (self.vector_bytes / dtype.size()).max(1)
    }

    /// Vector registers that a register tile may use.
    pub fn vector_registers(&self) -> usize {
        match self.arch {
            Arch::X86_64 if self.vector_bytes == 64 => 32,
            Arch::X86_64 => 16,
            Arch::Aarch64 | Arch::Riscv64 => 32,
        }
    }

    /// Multiplications and additions of `dtype` a cycle and core, at best, with `vector_bytes` vectors.
    pub fn peak_ops_per_cycle(&self, dtype: DType) -> f64 {
        // `f16` is computed in `f32`; narrow integers are as wide as their products, but for dot products of bytes.
        let lanes = match dtype {
            DType::I8 | DType::U8 if self.has_dot_product() => self.lanes(dtype),
            DType::I8 | DType::U8 | DType::BF16 if self.has_tiles(dtype) => {
                return 2.0 * TILE_BYTES_PER_CYCLE / dtype.size() as f64;
            }
            DType::BF16 if !self.has_bf16_dot_product() => self.lanes(DType::F32),
            DType::F16 | DType::Bool => self.lanes(DType::F32),
            DType::I8 | DType::U8 => self.lanes(DType::I16),
            _ => self.lanes(dtype),
        };
        // A vector wider than the data path takes several cycles.
        let passes = (self.vector_bytes as f64 / self.datapath_bytes as f64).max(1.0);
        2.0 * lanes as f64 * self.vector_ops_per_cycle / passes
    }

    /// Multiplications and additions of `dtype` a cycle and core, at best, with all that the machine has: its widest vectors,
    /// and dot products for 8-bit integers.
    pub fn machine_ops_per_cycle(&self, dtype: DType) -> f64 {
        let bytes = if self.vector_bytes == 0 { 0 } else { self.datapath_bytes.min(self.widest_vector_bytes()) };
        let lanes = (bytes / DType::F32.size()) as f64;
        if bytes == 0 {
            return self.peak_ops_per_cycle(dtype);
        }
        if self.has_tiles(dtype) {
            return self.peak_ops_per_cycle(dtype);
        }
        // A dot product adds four products of bytes into each 32-bit lane; a matrix product eight.
        let products = match dtype {
            DType::I8 | DType::U8 if self.has(Feature::I8mm) => 8.0,
            DType::I8 | DType::U8 if self.has_dot_product() => 4.0,
            DType::BF16 if self.has_bf16_dot_product() => 2.0,
            DType::I8 | DType::U8 | DType::I16 | DType::U16 => 2.0,
            DType::F64 | DType::I64 | DType::U64 => 0.5,
            _ => 1.0,
        };
        2.0 * products * lanes * self.vector_ops_per_cycle
    }

    /// Whether 8-bit integers are multiplied and summed by one instruction.
    pub fn has_dot_product(&self) -> bool {
        [Feature::AvxVnni, Feature::Avx512vnni, Feature::Dotprod].iter().any(|f| self.has(*f))
    }

    /// Whether pairs of `bf16` are multiplied and added to `f32` by one instruction that generated code uses, because two
    /// multiply-adds of `f32` take longer.
    pub fn has_bf16_dot_product(&self) -> bool {
        self.vector_bytes == 64 && self.has(Feature::Avx512bf16) && !self.slow.has(Feature::Avx512bf16)
    }

    /// Whether products of `dtype` are computed in tiles (AMX). Systems other than Linux hand out the registers in ways of their own, so
    /// generated code uses them there only.
    pub fn has_tiles(&self, dtype: DType) -> bool {
        let feature = match dtype {
            DType::I8 | DType::U8 => Feature::AmxInt8,
            DType::BF16 => Feature::AmxBf16,
            _ => return false,
        };
        let linux = matches!(self.triple.operating_system, OperatingSystem::Linux);
        linux && self.vector_bytes == 64 && self.has(feature)
    }

    /// Whether products of factors rounded to `bf16` are faster than those of `f32`.
    pub fn multiplies_bf16(&self) -> bool {
        self.has_bf16_dot_product() || self.has_tiles(DType::BF16)
    }

    /// Features that the code may use and `machine` has not; those of another architecture are not compared.
    pub fn missing_on(&self, machine: &Target) -> Vec<Feature> {
        if self.arch != machine.arch {
            return vec![];
        }
        self.features.iter().filter(|f| !machine.has(*f)).collect()
    }

    /// `ELF`, `Mach-O` or `COFF`.
    pub fn object_format(&self) -> &'static str {
        match self.triple.binary_format {
            BinaryFormat::Macho => "Mach-O",
            BinaryFormat::Coff => "COFF",
            _ => "ELF",
        }
    }

    /// Whether objects are ELF (Linux, bare metal).
    pub fn is_elf(&self) -> bool {
        self.triple.binary_format == BinaryFormat::Elf
    }

    /// Whether the system is macOS or another of Apple's.
    pub fn is_apple(&self) -> bool {
        matches!(
            self.triple.operating_system,
            OperatingSystem::Darwin(_) | OperatingSystem::MacOSX(_) | OperatingSystem::IOS(_)
        )
    }

    fn new(name: String, triple: Triple, arch: Arch, cpu: &'static Cpu, features: FeatureSet) -> Target {
        let all = |list: &[Feature]| list.iter().all(|f| features.has(*f));
        let vector_bytes = match arch {
            Arch::X86_64 if all(&[Feature::Avx512bw, Feature::Avx512dq, Feature::Avx512vl, Feature::Bmi2]) => 64,
            Arch::X86_64 if all(&[Feature::Avx2, Feature::Fma, Feature::Bmi2]) => 32,
            Arch::X86_64 if features.has(Feature::Sse2) => 16,
            Arch::Aarch64 if features.has(Feature::Neon) => 16,
            Arch::Riscv64 if features.has(Feature::V) => 16,
            _ => 0,
        };
        Target {
            name,
            cpu: cpu.name,
            triple,
            arch,
            features,
            slow: FeatureSet::of(cpu.slow),
            vector_bytes,
            caches: cpu.caches,
            cores: cpu.cores,
            ghz: cpu.ghz,
            vector_ops_per_cycle: cpu.vector_ops_per_cycle,
            datapath_bytes: cpu.datapath_bytes,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// What a user can name: every CPU preset, and the systems by architecture.
pub fn list() -> &'static [Cpu] {
    CPUS
}

/// Short triples that [`Target::parse`] knows, with what they stand for. Full triples work too.
pub fn triples() -> &'static [(&'static str, &'static str)] {
    parse::TRIPLES
}

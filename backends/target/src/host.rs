//! The machine this process runs on. The only place that asks the CPU.

use crate::{Arch, Cpu, Feature, FeatureSet, Target};
use std::str::FromStr;
use std::sync::OnceLock;
use target_lexicon::Triple;

/// The present machine: its system, the features its CPU reports, its cores.
///
/// # Errors
/// The architecture has no code generator.
pub fn host() -> Result<Target, String> {
    // It stays what it is. A virtual machine is asked for each answer of its CPU.
    static HOST: OnceLock<Result<Target, String>> = OnceLock::new();
    HOST.get_or_init(ask).clone()
}

fn ask() -> Result<Target, String> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => Arch::X86_64,
        "aarch64" => Arch::Aarch64,
        "riscv64" => Arch::Riscv64,
        other => return Err(format!("no code generator for this machine's architecture, {other}")),
    };
    let os = std::env::consts::OS;
    let short = format!("{arch}-{os}");
    let full = crate::triples().iter().find(|(s, _)| *s == short);
    let (_, full) = full.ok_or_else(|| format!("no code generator for this system, {short}"))?;
    let triple = Triple::from_str(full).map_err(|e| e.to_string())?;

    let apple = os == "macos";
    let found = detect(Cpu::default_for(arch, apple).features());
    // A CPU that says its name, or the largest level that it reaches, gives caches and rates.
    let reached = |c: &&Cpu| c.arch == arch && c.features().is_subset(found);
    let named = identify().and_then(Cpu::named).filter(reached);
    let level = || {
        crate::CPUS.iter().filter(reached).filter(|c| if apple { c.name.starts_with("apple") } else { c.is_level() })
    };
    let cpu = named
        .or_else(|| level().max_by_key(|c| c.features().iter().count()))
        .unwrap_or(Cpu::default_for(arch, apple));

    let mut name = format!("{short}/{}", cpu.name);
    let mut features = cpu.features();
    for f in found.iter().filter(|f| !cpu.features().has(*f)) {
        name.push_str(&format!("+{f}"));
        features.insert(f);
    }
    let mut t = Target::new(name, triple, arch, cpu, features);
    t.cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(t)
}

#[cfg(target_arch = "x86_64")]
fn detect(_baseline: FeatureSet) -> FeatureSet {
    let mut set = FeatureSet::EMPTY;
    macro_rules! ask {
        ($($id:ident $name:tt)*) => {$(
            if std::arch::is_x86_feature_detected!($name) {
                set.insert(Feature::$id);
            }
        )*};
    }
    ask! {
        Sse2 "sse2" Sse3 "sse3" Ssse3 "ssse3" Sse41 "sse4.1" Sse42 "sse4.2" Popcnt "popcnt" Cx16 "cmpxchg16b"
        Avx "avx" Avx2 "avx2" Fma "fma" F16c "f16c" Bmi1 "bmi1" Bmi2 "bmi2" Lzcnt "lzcnt" AvxVnni "avxvnni"
        Avx512f "avx512f" Avx512cd "avx512cd" Avx512dq "avx512dq" Avx512bw "avx512bw" Avx512vl "avx512vl"
        Avx512vbmi "avx512vbmi" Avx512bitalg "avx512bitalg" Avx512vnni "avx512vnni" Avx512bf16 "avx512bf16"
    }
    for f in tiles() {
        set.insert(f);
    }
    set
}

/// What the CPU has of AMX, where the system lets programs ask for its registers. The standard library does not tell.
#[cfg(target_arch = "x86_64")]
fn tiles() -> Vec<Feature> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    if __cpuid(0).eax < 0x1d {
        return vec![];
    }
    // Leaf 0DH: where the tiles' data lie in the area that saves all registers (subleaf 18), and how large that area is with what the
    // system has switched on (subleaf 0). Leaf 7: the bits of EDX.
    let (area, data, edx) = (__cpuid_count(0xd, 0).ebx, __cpuid_count(0xd, 18), __cpuid_count(7, 0).edx);
    let on = data.eax > 0 && area >= data.ebx.saturating_add(data.eax);
    let has = |bit: u32| on && edx >> bit & 1 != 0;
    [(24, Feature::AmxTile), (25, Feature::AmxInt8), (22, Feature::AmxBf16)]
        .into_iter()
        .filter(|(bit, _)| has(24) && has(*bit))
        .map(|(_, f)| f)
        .collect()
}

/// The preset that the CPU's own numbers mean. A virtual machine may hide features of it, so the caller checks them.
#[cfg(target_arch = "x86_64")]
fn identify() -> Option<&'static str> {
    use std::arch::x86_64::__cpuid;
    let vendor = __cpuid(0);
    let signature = __cpuid(1).eax;
    let (base, extended) = (signature >> 8 & 15, signature >> 20 & 255);
    let family = if base == 15 { base + extended } else { base };
    let model = signature >> 12 & 0xf0 | signature >> 4 & 15;
    // "AuthenticAMD" and "GenuineIntel", by the first four letters.
    match (&vendor.ebx.to_le_bytes(), family, model) {
        (b"Auth", 0x17, 0x00..=0x2f) => Some("zen1"),
        (b"Auth", 0x17, _) => Some("zen2"),
        (b"Auth", 0x19, 0x10..=0x1f | 0x60..=0x7f | 0xa0..=0xaf) => Some("zen4"),
        (b"Auth", 0x19, _) => Some("zen3"),
        (b"Auth", 0x1a, _) => Some("zen5"),
        (b"Genu", 6, 0x3c | 0x3d | 0x3f | 0x45 | 0x46 | 0x47 | 0x4f | 0x56) => Some("haswell"),
        (b"Genu", 6, 0x4e | 0x5e | 0x8e | 0x9e | 0xa5 | 0xa6) => Some("skylake"),
        (b"Genu", 6, 0x55) => Some(match signature & 15 {
            10.. => "cooperlake",
            5.. => "cascadelake",
            _ => "skylake-avx512",
        }),
        (b"Genu", 6, 0x6a | 0x6c) => Some("icelake-server"),
        (b"Genu", 6, 0x97 | 0x9a | 0xb7 | 0xba | 0xbf) => Some("alderlake"),
        // Later servers, too, and those whose number a virtual machine makes up: no other Intel CPU has the instructions.
        (b"Genu", 6, _) if std::arch::is_x86_feature_detected!("avx512bf16") => Some("sapphire-rapids"),
        _ => None,
    }
}

// Elsewhere only the system knows, and levels suffice.
#[cfg(not(target_arch = "x86_64"))]
fn identify() -> Option<&'static str> {
    None
}

#[cfg(target_arch = "aarch64")]
fn detect(_baseline: FeatureSet) -> FeatureSet {
    let mut set = FeatureSet::EMPTY;
    macro_rules! ask {
        ($($id:ident $name:tt)*) => {$(
            if std::arch::is_aarch64_feature_detected!($name) {
                set.insert(Feature::$id);
            }
        )*};
    }
    ask! { Neon "neon" Lse "lse" Fp16 "fp16" Dotprod "dotprod" I8mm "i8mm" }
    set
}

// Detection on RISC-V is not stable in std: what every such machine has.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detect(baseline: FeatureSet) -> FeatureSet {
    baseline
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_host_parses_back() {
        let h = super::host().unwrap();
        let again = crate::Target::parse(&h.name).unwrap();
        assert_eq!((again.features, again.triple), (h.features, h.triple));
    }
}

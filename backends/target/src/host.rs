//! The machine this process runs on. The only place that asks the CPU.

use crate::{Arch, Cpu, Feature, FeatureSet, Target};
use std::str::FromStr;
use target_lexicon::Triple;

/// The present machine: its system, the features its CPU reports, its cores.
///
/// # Errors
/// The architecture has no code generator.
pub fn host() -> Result<Target, String> {
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
    // The largest level that the CPU reaches gives caches and rates.
    let cpu = crate::CPUS
        .iter()
        .filter(|c| c.arch == arch && c.features().is_subset(found) && (c.name == "apple-m1") == apple)
        .max_by_key(|c| c.features().iter().count())
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
        Avx512vbmi "avx512vbmi" Avx512bitalg "avx512bitalg" Avx512vnni "avx512vnni"
    }
    set
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

//! `triple[/cpu][+feature][-feature]`

use crate::{Arch, CPUS, Cpu, Feature, Target};
use std::fmt;
use std::str::FromStr;
use target_lexicon::{Architecture, BinaryFormat, Triple};

/// Short names of triples.
pub(crate) const TRIPLES: &[(&str, &str)] = &[
    ("x86_64-linux", "x86_64-unknown-linux-gnu"),
    ("x86_64-macos", "x86_64-apple-darwin"),
    ("x86_64-windows", "x86_64-pc-windows-msvc"),
    ("x86_64-none", "x86_64-unknown-none-elf"),
    ("aarch64-linux", "aarch64-unknown-linux-gnu"),
    ("aarch64-macos", "aarch64-apple-darwin"),
    ("aarch64-windows", "aarch64-pc-windows-msvc"),
    ("aarch64-none", "aarch64-unknown-none-elf"),
    ("riscv64-linux", "riscv64gc-unknown-linux-gnu"),
    ("riscv64-none", "riscv64gc-unknown-none-elf"),
];

/// Why a target's name was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The whole text.
    pub text: String,
    /// What is wrong with it, with near names and what exists.
    pub reason: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "target `{}`: {}", self.text, self.reason)
    }
}

impl std::error::Error for ParseError {}

pub(crate) fn parse(text: &str) -> Result<Target, ParseError> {
    let fail = |reason: String| ParseError { text: text.to_string(), reason };
    let (head, rest) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));

    // A bare CPU (with features) runs Linux.
    if rest.is_none()
        && let Some((cpu, features)) = split_cpu(head)
    {
        let os = format!("{}-linux", cpu.arch);
        return build(&format!("{os}/{head}"), &os, Some(cpu), features).map_err(fail);
    }
    match rest {
        None => {
            let (triple, features) = split_triple(head);
            build(text, triple, None, features).map_err(fail)
        }
        Some(rest) => {
            let (cpu, features) = split_cpu(rest).ok_or_else(|| {
                let name = rest.split('+').next().unwrap_or(rest);
                let all: Vec<&str> = CPUS.iter().map(|c| c.name).collect();
                fail(unknown("CPU", name, &all))
            })?;
            build(text, head, Some(cpu), features).map_err(fail)
        }
    }
}

/// `x86_64-linux+avx` into the triple and the features; `-` belongs to the triple.
fn split_triple(s: &str) -> (&str, &str) {
    s.find('+').map_or((s, ""), |at| s.split_at(at))
}

/// `x86-64-v3+avx512f-bmi2` into the CPU with the longest matching name and the features.
fn split_cpu(s: &str) -> Option<(&'static Cpu, &str)> {
    CPUS.iter()
        .filter_map(|c| s.strip_prefix(c.name).map(|rest| (c, rest)))
        .filter(|(_, rest)| rest.is_empty() || rest.starts_with(['+', '-']))
        .max_by_key(|(c, _)| c.name.len())
}

fn build(name: &str, triple: &str, cpu: Option<&'static Cpu>, features: &str) -> Result<Target, String> {
    let triple = resolve(triple)?;
    let arch = match triple.architecture {
        Architecture::X86_64 => Arch::X86_64,
        Architecture::Aarch64(_) => Arch::Aarch64,
        Architecture::Riscv64(_) => Arch::Riscv64,
        other => return Err(format!("no code generator for {other}; there is x86_64, aarch64 and riscv64")),
    };
    let apple = triple.binary_format == BinaryFormat::Macho;
    let cpu = cpu.unwrap_or_else(|| Cpu::default_for(arch, apple));
    if cpu.arch != arch {
        let ours: Vec<&str> = CPUS.iter().filter(|c| c.arch == arch).map(|c| c.name).collect();
        return Err(format!(
            "{} is a CPU of {}, not of {arch}; for {arch} there is {}",
            cpu.name,
            cpu.arch,
            ours.join(", ")
        ));
    }
    let mut set = cpu.features();
    let mut rest = features;
    while let Some(sign) = rest.chars().next() {
        // Feature names may hold a `-` (`avx-vnni`), so the longest known name wins.
        let body = &rest[1..];
        let known = Feature::ALL
            .iter()
            .filter(|f| f.info().arch == arch)
            .filter(|f| body.strip_prefix(f.info().name).is_some_and(|r| r.is_empty() || r.starts_with(['+', '-'])))
            .max_by_key(|f| f.info().name.len());
        let Some(f) = known else {
            let word = body.split(['+', '-']).next().unwrap_or(body);
            let all: Vec<&str> =
                Feature::ALL.iter().map(|f| f.info()).filter(|i| i.arch == arch).map(|i| i.name).collect();
            return Err(unknown(&format!("feature of {arch}"), word, &all));
        };
        if sign == '+' {
            set.insert(*f);
        } else {
            set.remove(*f);
        }
        rest = &body[f.info().name.len()..];
    }
    for needed in [Feature::Sse2, Feature::Neon] {
        if needed.info().arch == arch && !set.has(needed) {
            return Err(format!("`{needed}` cannot be removed: the calling convention of {arch} needs it"));
        }
    }
    Ok(Target::new(name.to_string(), triple, arch, cpu, set))
}

/// The triple that a short or full name means.
fn resolve(name: &str) -> Result<Triple, String> {
    let short: Vec<&str> = TRIPLES.iter().map(|(s, _)| *s).collect();
    let full = match TRIPLES.iter().find(|(s, _)| *s == name) {
        Some((_, full)) => full,
        None if name.split('-').count() >= 3 => name,
        // `riscv64gc-linux`, `arm64-linux`, `amd64-linux`: other names of an architecture.
        None => {
            let alias = name.split_once('-').and_then(|(arch, os)| {
                let arch = match arch {
                    "amd64" | "x64" | "x86-64" => "x86_64",
                    "arm64" => "aarch64",
                    "riscv64gc" | "rv64" | "rv64gc" => "riscv64",
                    other => other,
                };
                let os = match os {
                    "darwin" => "macos",
                    other => other,
                };
                TRIPLES.iter().find(|(s, _)| *s == format!("{arch}-{os}"))
            });
            match alias {
                Some((_, full)) => full,
                None => {
                    let mut all = short;
                    all.extend(CPUS.iter().map(|c| c.name));
                    return Err(unknown("triple or CPU", name, &all));
                }
            }
        }
    };
    let triple = Triple::from_str(full).map_err(|e| format!("{e}; short names are {}", short.join(", ")))?;
    if triple.binary_format == BinaryFormat::Unknown {
        return Err(format!("the object format of `{full}` is not known; for bare metal write `{full}-elf`"));
    }
    Ok(triple)
}

/// `unknown CPU `x86-64-v9`; did you mean …? there is …`
fn unknown(what: &str, name: &str, all: &[&str]) -> String {
    let mut near: Vec<(usize, &str)> = all
        .iter()
        .map(|a| (distance(name, a), *a))
        .filter(|(d, a)| *d <= 1 + a.len() / 4 || (name.len() >= 3 && a.contains(name)))
        .collect();
    near.sort();
    near.truncate(3);
    let hint = match near.as_slice() {
        [] => String::new(),
        list => {
            format!(" did you mean {}?", list.iter().map(|(_, a)| format!("`{a}`")).collect::<Vec<_>>().join(" or "))
        }
    };
    format!("unknown {what} `{name}`;{hint} there is {}", all.join(", "))
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_short_triple_and_cpu_parses() {
        for (short, _) in TRIPLES {
            let t = Target::parse(short).unwrap();
            assert_eq!(t.name, *short);
        }
        for c in CPUS {
            let t = Target::parse(c.name).unwrap();
            assert_eq!((t.cpu, t.arch), (c.name, c.arch));
            assert_eq!(Target::parse(&t.name).unwrap(), t, "names parse back");
        }
    }

    #[test]
    fn features_are_added_and_removed_with_what_they_imply() {
        let t = Target::parse("x86_64-linux/x86-64-v2+avx-vnni").unwrap();
        assert!(t.has(Feature::Avx2) && !t.has_fma());
        let t = Target::parse("x86-64-v4-avx").unwrap();
        assert!(!t.has(Feature::Avx512bw) && !t.has_fma() && t.has(Feature::Sse42));
        let t = Target::parse("riscv64-linux").unwrap();
        assert_eq!((t.vector_bytes, t.lanes(DType::F32)), (0, 1));
        assert!(Target::parse("x86-64-v1-sse2").is_err());
    }

    use tenon_base::DType;

    #[test]
    fn other_names_of_triples() {
        for (a, b) in [
            ("arm64-macos", "aarch64-apple-darwin"),
            ("aarch64-apple-darwin", "aarch64-apple-darwin"),
            ("riscv64gc-linux", "riscv64gc-unknown-linux-gnu"),
            ("x86_64-pc-windows-gnu", "x86_64-pc-windows-gnu"),
        ] {
            assert_eq!(Target::parse(a).unwrap().triple.to_string(), b);
        }
    }

    #[test]
    fn errors_name_what_is_near_and_what_exists() {
        let e = |s: &str| Target::parse(s).unwrap_err().to_string();
        assert!(e("x86_64-linux/x86-64-v9").contains("did you mean `x86-64-v1`"), "{}", e("x86_64-linux/x86-64-v9"));
        assert!(e("x86_64-linx").contains("did you mean `x86_64-linux`"));
        assert!(e("x86_64-linux+avx3").contains("did you mean `avx`"));
        assert!(e("x86_64-linux/cortex-a76").contains("not of x86_64"));
        assert!(e("").contains("there is"));
        assert!(e("wasm32-unknown-unknown").contains("no code generator"));
        assert!(e("+").contains("unknown") && e("/").contains("unknown"));
    }
}

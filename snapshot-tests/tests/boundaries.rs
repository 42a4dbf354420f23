//! The invariants of `docs/ARCHITECTURE.md`, over `cargo metadata` and the sources. Each test names its sentence.

use cargo_metadata::{DependencyKind, MetadataCommand, Package};
use std::collections::{BTreeMap, BTreeSet};
use tenon_snapshot_tests::places::repository;
use tenon_snapshot_tests::sources::{Source, has_word, rust_files};

/// Every crate, its folder, and the crates of the workspace it may depend on. Lower ones first.
const LAYERS: [(&str, &str, &[&str]); 13] = [
    ("tenon-base", "ir/base", &[]),
    ("tenon-abi", "runtime-stub/abi", &[]),
    ("tenon-target", "backends/target", &["tenon-base"]),
    ("tenon-kernel", "ir/kernel", &["tenon-base"]),
    ("tenon-ir", "ir", &["tenon-base", "tenon-kernel"]),
    ("tenon-frontend", "frontend", &["tenon-base", "tenon-ir"]),
    ("tenon-passes", "passes", &["tenon-base", "tenon-kernel", "tenon-ir", "tenon-target"]),
    ("tenon-wide", "backends/wide", &["tenon-base", "tenon-kernel", "tenon-target"]),
    (
        "tenon-cranelift",
        "backends/cranelift",
        &["tenon-abi", "tenon-base", "tenon-kernel", "tenon-target", "tenon-wide"],
    ),
    ("tenon-runtime", "runtime-stub", &["tenon-abi"]),
    (
        "tenon",
        "",
        &[
            "tenon-abi",
            "tenon-base",
            "tenon-cranelift",
            "tenon-frontend",
            "tenon-ir",
            "tenon-kernel",
            "tenon-passes",
            "tenon-runtime",
            "tenon-target",
        ],
    ),
    ("tenon-build", "build-helper", &["tenon", "tenon-abi", "tenon-target"]),
    ("tenon-snapshot-tests", "snapshot-tests", &["*"]),
];

/// Applications in `examples/`, and all that they depend on.
const EXAMPLES: [(&str, &[&str]); 2] = [("app-build-rs", &["tenon-build"]), ("jit-example", &["tenon"])];

/// External crates that only these may depend on, and only these sources name.
const OWNED: [(&[&str], &str); 5] = [
    (&["prost"], "tenon-frontend"),
    (&["petgraph"], "tenon-ir"),
    (&["egg", "quanta"], "tenon-passes"),
    (&["iced-x86", "regalloc2"], "tenon-wide"),
    (
        &["cranelift-codegen", "cranelift-frontend", "cranelift-jit", "cranelift-module", "cranelift-object"],
        "tenon-cranelift",
    ),
];

/// Crates that contain `unsafe`, and why. All others forbid it.
const UNSAFE: [(&str, &str); 5] = [
    ("tenon-frontend", "models are mapped into memory"),
    ("tenon-cranelift", "the JIT calls machine code"),
    ("tenon", "linked objects are loaded and called"),
    ("tenon-runtime", "the pool runs what the artifact gives it"),
    ("tenon-build", "none so far; the facade's types are used"),
];

fn packages() -> Vec<Package> {
    all_packages().into_iter().filter(|p| EXAMPLES.iter().all(|(n, _)| *n != p.name.as_str())).collect()
}

fn all_packages() -> Vec<Package> {
    let manifest = repository().join("Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec().expect("cargo metadata runs");
    metadata.packages
}

/// The sources of a crate (`src/` alone: tests may know more).
fn sources(folder: &str) -> Vec<Source> {
    rust_files(&if folder.is_empty() { "src".to_string() } else { format!("{folder}/src") })
}

fn assert_none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

/// Lines of code of `sources` for which `f` gives a complaint.
fn lines(sources: &[Source], f: impl Fn(&Source, &str) -> bool) -> Vec<String> {
    let mut found = vec![];
    for s in sources {
        found.extend(s.code().filter(|(_, l)| f(s, l)).map(|(i, l)| format!("{}:{i}: {}", s.path, l.trim())));
    }
    found
}

#[test]
fn dependencies_point_one_way() {
    let packages = packages();
    let allowed: BTreeMap<&str, &[&str]> = LAYERS.iter().map(|(n, _, deps)| (*n, *deps)).collect();
    let names: BTreeSet<String> = packages.iter().map(|p| p.name.to_string()).collect();
    assert_eq!(names, allowed.keys().map(ToString::to_string).collect(), "LAYERS lists all crates of the workspace");
    let mut found = vec![];
    for p in &packages {
        let may = allowed[p.name.as_str()];
        for d in p.dependencies.iter().filter(|d| d.kind != DependencyKind::Development && names.contains(&d.name)) {
            if !may.contains(&"*") && !may.contains(&d.name.as_str()) {
                found.push(format!("{} depends on {}", p.name, d.name));
            }
        }
    }
    assert_none("dependencies against the direction", found);
}

#[test]
fn applications_need_one_crate() {
    let all = all_packages();
    for (name, needs) in EXAMPLES {
        let p = all.iter().find(|p| p.name.as_str() == name).expect("the application is in the workspace");
        let found: Vec<&str> = p.dependencies.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(found, needs, "{name}");
    }
}

#[test]
fn libraries_have_owners() {
    let mut found = vec![];
    for p in packages() {
        for (names, owner) in OWNED {
            let uses = p.dependencies.iter().filter(|d| names.contains(&d.name.as_str()));
            found.extend(uses.filter(|_| p.name != owner).map(|d| format!("{} depends on {}", p.name, d.name)));
        }
    }
    for (name, folder, _) in LAYERS {
        let all = sources(folder);
        for (names, owner) in OWNED {
            let idents: Vec<String> = names.iter().map(|n| n.replace('-', "_")).collect();
            if name != owner {
                let names = |l: &str| idents.iter().any(|n| has_word(l, n) && l.contains(&format!("{n}::")));
                found.extend(lines(&all, |_, l| names(l)));
            }
        }
    }
    assert_none("libraries named outside the crate that owns them", found);
}

#[test]
fn only_the_graph_module_names_petgraph() {
    let ir = sources("ir");
    assert!(ir.iter().any(|s| s.path == "ir/src/graph.rs" && s.text.contains("petgraph")));
    assert_none(
        "petgraph outside ir/src/graph.rs",
        lines(&ir, |s, l| s.path != "ir/src/graph.rs" && has_word(l, "petgraph")),
    );
}

#[test]
fn the_contract_has_no_dependencies() {
    for p in packages() {
        let external: Vec<&str> = p.dependencies.iter().map(|d| d.name.as_str()).collect();
        match p.name.as_str() {
            "tenon-abi" => assert_eq!(external, [""; 0], "tenon-abi"),
            "tenon-runtime" => assert_eq!(external, ["tenon-abi"], "tenon-runtime"),
            _ => {}
        }
    }
    for folder in ["runtime-stub/abi", "runtime-stub"] {
        // A crate without code uses no std.
        let all = sources(folder);
        let root = all.iter().find(|s| s.path.ends_with("/src/lib.rs")).expect("the crate has a root");
        let empty = all.iter().all(|s| s.code().next().is_none());
        assert!(empty || root.text.contains("#![no_std]"), "{folder} is no_std");
    }
}

/// What code below the facade must not touch, and the files that may, with the reason.
const AMBIENT: [(&str, &[(&str, &str)]); 5] = [
    ("std::env", &[]),
    ("std::time", &[]),
    ("std::fs", &[("frontend/src/files.rs", "a model and its external data are files")]),
    ("std::process", &[]),
    ("is_x86_feature_detected", &[("backends/target/src/host.rs", "the host's description, behind a feature")]),
];

#[test]
fn nothing_below_the_facade_reads_its_surroundings() {
    let below = LAYERS.iter().filter(|(n, ..)| !matches!(*n, "tenon" | "tenon-build" | "tenon-snapshot-tests"));
    let all: Vec<Source> = below.flat_map(|(_, folder, _)| sources(folder)).collect();
    let mut found = vec![];
    for (what, files) in AMBIENT {
        found.extend(lines(&all, |s, l| {
            // What is known when the compiler itself is compiled is no surrounding of a run.
            let l = l.replace("std::env::consts", "");
            l.contains(what) && !files.iter().any(|(f, _)| *f == s.path)
        }));
    }
    assert_none("environment, clock, files, processes or host CPU", found);
}

/// Files with hashed maps that are only looked up in, since their keys have no order.
const LOOKUPS: [&str; 5] = [
    "passes/src/schedule/link.rs",
    "ir/kernel/src/codegen/address.rs",
    "backends/cranelift/src/lower/mod.rs",
    "backends/wide/src/hoist.rs",
    "backends/wide/src/select/mod.rs",
];

#[test]
fn nothing_depends_on_the_order_of_hashes() {
    let mut all: Vec<Source> = [
        "ir",
        "ir/base",
        "ir/kernel",
        "passes",
        "frontend",
        "backends/cranelift",
        "backends/target",
        "backends/wide",
    ]
    .iter()
    .flat_map(|f| sources(f))
    .collect();
    all.extend(sources(""));
    let hashed = |l: &str| has_word(l, "HashMap") || has_word(l, "HashSet");
    assert_none("hashed maps", lines(&all, |s, l| hashed(l) && !LOOKUPS.contains(&s.path.as_str())));
    // Where they are allowed, names bound to one must not be walked through.
    for s in all.iter().filter(|s| LOOKUPS.contains(&s.path.as_str())) {
        let names: BTreeSet<&str> = s
            .code()
            .filter(|(_, l)| hashed(l))
            .filter_map(|(_, l)| l.split([':', '=']).next())
            .filter_map(|l| l.split_whitespace().next_back())
            .collect();
        let walked = lines(std::slice::from_ref(s), |_, l| {
            names.iter().any(|n| {
                let walks = [".iter()", ".keys()", ".values()", ".into_iter()", ".drain()"];
                walks.iter().any(|w| l.contains(&format!("{n}{w}")))
                    || (l.contains(" in ") && l.contains(&format!("&{n} ")))
            })
        });
        assert_none("hashed maps walked through", walked);
    }
}

#[test]
fn every_crate_says_what_it_is_for() {
    for (name, folder, _) in LAYERS {
        let root = repository().join(folder).join("src/lib.rs");
        let text = std::fs::read_to_string(root).expect("the crate has a root");
        assert!(text.starts_with("//! "), "{name}: the crate's root begins with its documentation");
    }
    let mut undocumented = vec![];
    for (_, folder, _) in LAYERS {
        undocumented.extend(sources(folder).into_iter().filter(|s| !s.text.starts_with("//!")).map(|s| s.path));
    }
    assert_none("modules without documentation", undocumented);
}

#[test]
fn unsafe_code_is_where_it_is_listed() {
    let mut found = vec![];
    for (name, folder, _) in LAYERS {
        if UNSAFE.iter().any(|(n, _)| *n == name) {
            continue;
        }
        let root = repository().join(folder).join("src/lib.rs");
        let text = std::fs::read_to_string(root).expect("the crate has a root");
        if !text.contains("#![forbid(unsafe_code)]") {
            found.push(name.to_string());
        }
    }
    assert_none("crates that must forbid unsafe code", found);
}

/// Files of more lines are split.
const MAX_LINES: usize = 1000;

#[test]
fn files_are_short_and_finished() {
    let folders = LAYERS.iter().filter(|(n, ..)| *n != "tenon").map(|(_, f, _)| *f).chain(["src"]);
    let all: BTreeMap<String, Source> = folders.flat_map(rust_files).map(|s| (s.path.clone(), s)).collect();
    let all: Vec<Source> = all.into_values().collect();
    assert!(all.len() > 100, "the sources were found");
    let long = all.iter().filter(|s| s.text.lines().count() > MAX_LINES);
    assert_none("files over the limit of lines", long.map(|s| s.path.clone()).collect());
    let this = "snapshot-tests/tests/boundaries.rs";
    let unfinished = ["todo!", "unimplemented!", "dbg!", "#[ignore"];
    assert_none("unfinished", lines(&all, |s, l| s.path != this && unfinished.iter().any(|u| l.contains(u))));
}

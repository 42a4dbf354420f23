//! `Model::compile` as Cargo sees it: this test runs itself as a build script and reads what it prints.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;

/// Set for the process that plays the build script: what it is to do.
const PLAY: &str = "TENON_BUILD_TEST";

fn digits() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits/model.onnx")
}

/// Runs the test below in a process of its own, in `folder`.
fn script(folder: &Path, what: &str) -> (Output, Vec<String>) {
    let out = folder.join("out");
    std::fs::create_dir_all(&out).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "plays_the_build_script", "--nocapture"])
        .current_dir(folder)
        .env(PLAY, what)
        .env("OUT_DIR", &out)
        .env("TARGET", "x86_64-unknown-linux-gnu")
        .env("CARGO_CFG_TARGET_FEATURE", "fxsr,sse,sse2")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter(|l| l.starts_with("cargo::")).map(ToString::to_string).collect();
    (output, lines)
}

/// The stage for `script`; nothing when it is run as a test.
#[test]
fn plays_the_build_script() {
    let Ok(what) = std::env::var(PLAY) else { return };
    let model = tenon_build::Model::new("model.onnx").name("m");
    let result = match what.as_str() {
        "plain" => model.compile(),
        "golden" => model.golden(1).compile(),
        "separate" => model.separate_weights().compile(),
        "budget" => model.budget("flash", "1 KiB").compile(),
        "bad budget" => model.budget("flesh", "1 KiB").compile(),
        _ => model.target("pdp11").compile(),
    };
    assert_eq!(result.is_ok(), ["plain", "golden", "separate"].contains(&what.as_str()));
}

fn written(folder: &Path) -> SystemTime {
    std::fs::metadata(folder.join("out/libm.a")).unwrap().modified().unwrap()
}

#[test]
fn only_what_changed_in_content_is_compiled() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    std::fs::copy(digits(), d.join("model.onnx")).unwrap();
    let (_, first) = script(d, "plain");
    assert_eq!(first[0], "cargo::rerun-if-changed=model.onnx");
    assert!(first.iter().any(|l| l == "cargo::rustc-link-lib=static=m"), "{first:?}");
    assert!(first.iter().all(|l| !l.starts_with("cargo::error")), "{first:?}");
    let at = written(d);
    // A new time stamp alone changes nothing; what is told is the same, but for how long the compile took.
    std::fs::write(d.join("model.onnx"), std::fs::read(digits()).unwrap()).unwrap();
    let (_, second) = script(d, "plain");
    let quiet = |l: &[String]| l.iter().filter(|l| !l.starts_with("cargo::warning")).cloned().collect::<Vec<_>>();
    assert_eq!((quiet(&second), written(d)), (quiet(&first), at));
    // Other options, or a file that is gone, do.
    script(d, "golden");
    assert_ne!(written(d), at);
    std::fs::remove_file(d.join("out/m.rs")).unwrap();
    script(d, "plain");
    assert!(d.join("out/m.rs").is_file());
    // Nothing half written stays behind.
    let left = std::fs::read_dir(d.join("out"))
        .unwrap()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with('.'));
    assert_eq!(left.count(), 0);
    let (_, lines) = script(d, "separate");
    let weights = lines.iter().find_map(|l| l.strip_prefix("cargo::rustc-env=M_WEIGHTS=")).unwrap();
    assert!(Path::new(weights).is_file());
}

#[test]
fn errors_are_cargos() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let errors = |what: &str| -> String {
        let (output, lines) = script(d, what);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(lines.contains(&"cargo::rerun-if-changed=model.onnx".to_string()), "{lines:?}");
        let errors: Vec<&str> = lines.iter().filter_map(|l| l.strip_prefix("cargo::error=")).collect();
        errors.join("\n")
    };
    assert!(errors("budget").contains("model.onnx"), "the model is missing");
    std::fs::write(d.join("model.onnx"), b"nonsense").unwrap();
    assert!(errors("budget").contains("model.onnx"));
    std::fs::copy(digits(), d.join("model.onnx")).unwrap();
    let over = errors("budget");
    assert!(over.contains("over its budget") && over.contains("constant %"), "{over}");
    assert!(errors("bad budget").contains("there is arena, flash"));
    assert!(errors("target").contains("pdp11"));
    assert!(!d.join("out/libm.a").exists());
}

//! Tells the crate how far it is optimised, so that it can explain itself.

fn main() {
    let level = std::env::var("OPT_LEVEL").unwrap_or_default();
    println!("cargo::rustc-env=TENON_BUILD_OPT_LEVEL={level}");
    println!("cargo::rerun-if-changed=build.rs");
}

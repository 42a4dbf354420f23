//! Where things are on this machine.

use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or_else(|| here.to_path_buf(), Path::to_path_buf)
}

/// The folder of whole models with test data: `TENON_ZOO`, or `shared/zoo` beside the repository. `None` if neither is
/// there.
pub fn zoo() -> Option<PathBuf> {
    let beside = || repository().parent().map(|p| p.join("shared/zoo"));
    std::env::var_os("TENON_ZOO").map(PathBuf::from).or_else(beside).filter(|p| p.is_dir())
}

/// The folder of ONNX's operator cases: `TENON_ONNX_CASES`. `None` if it is not set.
pub fn onnx_cases() -> Option<PathBuf> {
    std::env::var_os("TENON_ONNX_CASES").map(PathBuf::from)
}

/// Whether expected outputs are to be rewritten: `TENON_BLESS=1`.
pub fn bless() -> bool {
    std::env::var_os("TENON_BLESS").is_some_and(|v| v == "1")
}

//! The engines that can be compared with, and the Python programs that run them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::trouble::Trouble;

/// Whom to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peer {
    /// ONNX Runtime by its Python package.
    Onnxruntime,
    /// OpenVINO by its Python package, in what --precision says.
    Openvino,
    /// MNN by its Python package, which converts the model.
    Mnn,
    /// LiteRT (with XNNPACK) by its Python package; onnx2tf converts the model, unless --litert-model names one.
    Litert,
    /// The same model, compiled for one thread.
    OneThread,
}

impl Peer {
    /// As people write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Onnxruntime => "ONNX Runtime",
            Peer::Openvino => "OpenVINO",
            Peer::Mnn => "MNN",
            Peer::Litert => "LiteRT",
            Peer::OneThread => "Tenon on one thread",
        }
    }

    /// What it needs of Python; none for those that are ours.
    pub(super) fn needs(self) -> Option<Needs> {
        let (script, modules, packages) = match self {
            Peer::Onnxruntime => (include_str!("onnxruntime.py"), "numpy, onnxruntime", "onnxruntime"),
            Peer::Openvino => (include_str!("openvino.py"), "numpy, openvino", "openvino"),
            Peer::Mnn => (include_str!("mnn.py"), "numpy, onnx, MNN", "MNN onnx"),
            Peer::Litert => (include_str!("litert.py"), "numpy, onnx, ai_edge_litert", "ai-edge-litert onnx onnx2tf"),
            Peer::OneThread => return None,
        };
        Some(Needs { script: format!("{BASE}\n\n{script}"), modules, packages })
    }
}

/// What the program of every engine starts with: the protocol.
pub(super) const BASE: &str = include_str!("base.py");

/// What an engine needs of Python.
pub(super) struct Needs {
    /// The program.
    pub(super) script: String,
    /// What it imports.
    pub(super) modules: &'static str,
    /// What to install for that.
    packages: &'static str,
}

/// A Python on the command line: for one engine, or for all that have none of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Python {
    peer: Option<Peer>,
    path: PathBuf,
}

/// `PATH` or `ENGINE=PATH`.
pub(super) fn python(s: &str) -> Result<Python, String> {
    let named = s
        .split_once('=')
        .and_then(|(name, path)| Some((<Peer as clap::ValueEnum>::from_str(name, false).ok()?, path)));
    let (peer, path) = named.map_or((None, s), |(peer, path)| (Some(peer), path));
    match path {
        "" => Err("expected PATH or ENGINE=PATH".to_string()),
        path => Ok(Python { peer, path: path.into() }),
    }
}

/// A Python that has what `peer` needs: the one named for it, else the one named for all, else that of an active or usual virtual
/// environment, else one on the path.
pub(super) fn find(peer: Peer, needs: &Needs, named: &[Python]) -> Result<OsString, Trouble> {
    let of = |who| named.iter().rev().find(|p| p.peer == who).map(|p| p.path.clone().into_os_string());
    let tried = of(Some(peer)).or_else(|| of(None)).map_or_else(usual, |p| vec![p]);
    match tried.iter().find(|p| imports(p, needs.modules)) {
        Some(found) => Ok(found.clone()),
        None => Err(Trouble::NotInstalled {
            modules: needs.modules,
            packages: needs.packages,
            tried: tried.iter().map(|p| p.to_string_lossy().into_owned()).collect(),
        }),
    }
}

/// Where a Python may be if none is named.
pub(super) fn usual() -> Vec<OsString> {
    let bin = Path::new(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let environment = std::env::var_os("VIRTUAL_ENV").map(PathBuf::from);
    let folders = environment.into_iter().chain(["target/venv", ".venv", "venv"].map(PathBuf::from));
    let environments = folders.map(|p| p.join(bin)).filter(|p| p.is_file()).map(Into::into);
    environments.chain(["python3", "python"].map(OsString::from)).collect()
}

/// Whether `python` runs and has `modules`.
pub(super) fn imports(python: &OsString, modules: &str) -> bool {
    let quiet = Command::new(python)
        .args(["-c", &format!("import sys; sys.path[:] = [p for p in sys.path if p]; import {modules}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    quiet.is_ok_and(|s| s.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_python_is_for_all_or_for_one() {
        let of = |s: &str| python(s).map(|p| (p.peer, p.path.to_string_lossy().into_owned()));
        assert_eq!(of("venv/bin/python"), Ok((None, "venv/bin/python".to_string())));
        assert_eq!(of("openvino=a/python"), Ok((Some(Peer::Openvino), "a/python".to_string())));
        assert_eq!(of("odd=folder/python"), Ok((None, "odd=folder/python".to_string())));
        assert!(of("mnn=").is_err() && of("").is_err());
    }

    #[test]
    fn what_is_missing_is_said_with_what_to_install() {
        let named = [python("none/such").unwrap(), python("openvino=neither/this").unwrap()];
        let say = |peer: Peer| find(peer, &peer.needs().unwrap(), &named).unwrap_err().to_string();
        let (openvino, mnn) = (say(Peer::Openvino), say(Peer::Mnn));
        assert!(openvino.contains("neither/this") && openvino.contains("pip install openvino"), "{openvino}");
        assert!(mnn.contains("none/such") && mnn.contains("pip install MNN onnx"), "{mnn}");
    }
}

//! Case folders in ONNX's layout: `model.onnx` with `test_data_set_<k>/{input_<i>.pb,output_<i>.pb}`, and what a
//! folder says of tolerances.

use crate::compare::Tolerance;
use crate::failure::{Failure, Outcome};
use std::path::{Path, PathBuf};

/// A model with the data sets found beside it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// For people: the folder's name, or the file's.
    pub(crate) name: String,
    /// The model.
    pub(crate) model: PathBuf,
    /// Folders of data sets, in order of their numbers.
    pub(crate) sets: Vec<PathBuf>,
    /// The folder, if it is one.
    pub(crate) folder: Option<PathBuf>,
}

impl Case {
    /// The case at `path`: a folder with `model.onnx`, or a model file. A model file called `model.onnx` brings the data
    /// sets beside it.
    pub(crate) fn find(path: &Path) -> Outcome<Case> {
        let name =
            |p: &Path| p.file_name().map_or_else(|| p.display().to_string(), |n| n.to_string_lossy().into_owned());
        if path.is_dir() {
            let model = path.join("model.onnx");
            if !model.is_file() {
                let path = path.display();
                return Err(Failure::bad_input(format!("{path}: expected a folder with model.onnx; there is none")));
            }
            let full = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
            return Ok(Case { name: name(&full), model, sets: data_sets(path), folder: Some(path.to_path_buf()) });
        }
        if !path.is_file() {
            return Err(Failure::bad_input(format!("{}: no such file or folder", path.display())));
        }
        Ok(Case { name: name(path), model: path.to_path_buf(), sets: vec![], folder: None })
    }

    /// Tolerances of the outputs as the folder states them: `about.json` (`suggested_atol`, one an output) or
    /// `tolerance.json` (`rtol`, `atol`).
    pub(crate) fn tolerances(&self) -> Outcome<Stated> {
        let Some(folder) = &self.folder else { return Ok(Stated::Nothing) };
        if let Some(about) = read_json(&folder.join("about.json"))?
            && let Some(list) = about.get("suggested_atol")
        {
            let list: Option<Vec<f64>> =
                list.as_array().and_then(|l| l.iter().map(serde_json::Value::as_f64).collect());
            let list = list.filter(|l| l.iter().all(|a| *a >= 0.0)).ok_or_else(|| {
                let path = folder.join("about.json");
                Failure::bad_input(format!("{}: suggested_atol: expected a list of numbers", path.display()))
            })?;
            let drawn = about.get("kind").and_then(serde_json::Value::as_str) == Some("arch-random");
            return Ok(Stated::Absolute { list, of_scale: if drawn { OF_SCALE_DRAWN } else { 0.0 } });
        }
        if let Some(t) = read_json(&folder.join("tolerance.json"))? {
            let number = |key: &str| t.get(key).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
            return Ok(Stated::Both { relative: number("rtol"), absolute: number("atol") });
        }
        Ok(Stated::Nothing)
    }
}

/// What networks of drawn weights (`"kind": "arch-random"`) may differ by on top, as a part of the output's largest magnitude.
///
/// The zoo states, in absolute figures, the larger of 2e-5 of an output's scale and five times what ONNX Runtime's own
/// optimiser moves it by. For drawn weights those figures were taken of another draw: efficientnet_b0 has outputs up to 170 with
/// the weights that its figure of 1.6e-5 is compared with. So the first half of the rule is applied to the scale that is found. It
/// is also what [`Tolerance::DEFAULT`] allows. For comparison, against an evaluation in `f64`: on efficientnet_b0 ONNX Runtime
/// is off by 0.9e-5 of the scale and Tenon by 1.2e-5, on resnet18 by 3.6e-7 and 3.4e-7.
const OF_SCALE_DRAWN: f64 = 2e-5;

/// Tolerances found in a case folder.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stated {
    /// None: the defaults hold.
    Nothing,
    /// An absolute one for each output (the last holds for those beyond the list), and a part of the output's scale.
    Absolute {
        /// In the outputs' units.
        list: Vec<f64>,
        /// See [`Tolerance::of_scale`].
        of_scale: f64,
    },
    /// One pair for all outputs.
    Both {
        /// Part of the expected element.
        relative: f64,
        /// In the output's unit.
        absolute: f64,
    },
}

impl Stated {
    /// The tolerance of output `i`; `rtol` and `atol` of the command line replace what is stated.
    pub(crate) fn of_output(&self, i: usize, dtype: tenon::DType, rtol: Option<f64>, atol: Option<f64>) -> Tolerance {
        let stated = match self {
            Stated::Nothing if rtol.is_none() && atol.is_none() => return Tolerance::default_for(dtype),
            Stated::Nothing => Tolerance { absolute: 0.0, of_scale: 0.0, relative: 0.0 },
            Stated::Absolute { list, of_scale } => {
                let absolute = list.get(i).or(list.last()).copied().unwrap_or(0.0);
                Tolerance { absolute, of_scale: *of_scale, relative: 0.0 }
            }
            Stated::Both { relative, absolute } => {
                Tolerance { absolute: *absolute, of_scale: 0.0, relative: *relative }
            }
        };
        let of_scale = if atol.is_some() { 0.0 } else { stated.of_scale };
        Tolerance { absolute: atol.unwrap_or(stated.absolute), relative: rtol.unwrap_or(stated.relative), of_scale }
    }
}

fn read_json(path: &Path) -> Outcome<Option<serde_json::Value>> {
    let text = match tenon::read_text(path, 1 << 20) {
        Ok(t) => t,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Failure::bad_input(format!("cannot read {}: {e}", path.display()))),
    };
    serde_json::from_str(&text).map(Some).map_err(|e| Failure::bad_input(format!("{}: {e}", path.display())))
}

fn data_sets(folder: &Path) -> Vec<PathBuf> {
    let mut sets: Vec<(usize, PathBuf)> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| {
            let number = e.file_name().to_str()?.strip_prefix("test_data_set_")?.parse().ok()?;
            e.path().is_dir().then(|| (number, e.path()))
        })
        .collect();
    sets.sort();
    sets.into_iter().map(|(_, p)| p).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenon::DType;

    #[test]
    fn folders_state_tolerances() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.onnx"), b"").unwrap();
        let case = Case::find(folder.path()).unwrap();
        assert_eq!(case.tolerances().unwrap(), Stated::Nothing);
        std::fs::write(folder.path().join("tolerance.json"), br#"{"rtol": 0.5, "atol": 2}"#).unwrap();
        assert_eq!(case.tolerances().unwrap(), Stated::Both { relative: 0.5, absolute: 2.0 });
        std::fs::write(folder.path().join("about.json"), br#"{"suggested_atol": [0.1, 0.2]}"#).unwrap();
        let stated = case.tolerances().unwrap();
        assert_eq!(stated.of_output(5, DType::F32, None, None).absolute, 0.2);
        assert_eq!(stated.of_output(0, DType::F32, None, None).of_scale, 0.0);
        std::fs::write(folder.path().join("about.json"), br#"{"kind": "arch-random", "suggested_atol": [0.1]}"#)
            .unwrap();
        assert_eq!(case.tolerances().unwrap().of_output(0, DType::F32, None, None).of_scale, OF_SCALE_DRAWN);
        let strict = stated.of_output(0, DType::F32, Some(0.25), Some(0.5));
        assert_eq!(strict, Tolerance { absolute: 0.5, of_scale: 0.0, relative: 0.25 });
        std::fs::write(folder.path().join("about.json"), b"{").unwrap();
        assert!(case.tolerances().is_err());
    }
}

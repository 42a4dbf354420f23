//! Recipes: small text files with the decisions that a compile rests on and cannot make by itself.
//!
//! A recipe names the model it belongs to, the range of every quantised value, the precision of every layer, and tiles that were
//! measured to be fast. The same model with the same recipe gives the same bytes.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use tenon_passes::quantize::recipe::{Choice, Range};
use tenon_passes::tuning::{Tile, Tuning};

/// The version of the format that is written, and the only one that is read.
const VERSION: u32 = 1;

/// A recipe, as in its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Version of the format.
    pub version: u32,
    /// `sha256:` and the hash of the model's file.
    pub model: String,
    /// How the ranges were found; [`Recipe::NO_RANGES`] where nothing is quantised.
    pub method: String,
    /// From how many samples.
    pub samples: usize,
    /// Quantised values, in the order they are computed.
    #[serde(default, rename = "value", skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<ValueRange>,
    /// Convolutions and matrix products, in the order they are computed.
    #[serde(default, rename = "layer", skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerPrecision>,
    /// Tiles that were measured, by target.
    #[serde(default, rename = "tuned", skip_serializing_if = "Vec::is_empty")]
    pub tuned: Vec<Tuned>,
}

/// What `tenon tune` measured on one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// The target; a compile for another one does not use these.
    pub target: String,
    /// Contractions (such as `f32 56.56x64x64`) and their tiles (such as `6x2 rows-inside`).
    pub tiles: BTreeMap<String, String>,
}

/// The range of a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueRange {
    /// The node that makes it, or the input.
    pub name: String,
    /// Smaller values are cut off.
    pub min: f64,
    /// Larger values are cut off.
    pub max: f64,
}

/// How a layer is computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerPrecision {
    /// The node.
    pub name: String,
    /// Integers or floats.
    pub precision: Precision,
    /// Added to the bias of each output channel, in units of the sum of products: makes up for the mean error of the rounded
    /// weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub correction: Vec<i32>,
}

/// Elements that a layer multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precision {
    /// Bytes: unsigned activations, signed weights with one scale a channel.
    #[serde(rename = "int8")]
    Int8,
    /// As in the model.
    #[serde(rename = "float")]
    Float,
}

/// Why a recipe cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipeError(pub String);

impl fmt::Display for RecipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for RecipeError {}

/// `sha256:` and the hash of the file `path`.
///
/// # Errors
/// The file cannot be read.
pub fn hash_file(path: &Path) -> Result<String, crate::Error> {
    use sha2::{Digest, Sha256};
    let mut file = std::fs::File::open(path).map_err(crate::Error::io("read", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = std::io::Read::read(&mut file, &mut buffer).map_err(crate::Error::io("read", path))?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
    }
    let hex: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("sha256:{hex}"))
}

/// `f32` as the shortest decimal number that reads back as it.
pub(crate) fn shortest(v: f32) -> f64 {
    v.to_string().parse().unwrap_or(f64::from(v))
}

impl Recipe {
    /// The method of a recipe that quantises nothing.
    pub const NO_RANGES: &'static str = "none";

    /// An empty recipe for the model whose file hashes to `model`.
    pub fn new(model: String, method: &str, samples: usize) -> Recipe {
        Recipe {
            version: VERSION,
            model,
            method: method.to_string(),
            samples,
            values: vec![],
            layers: vec![],
            tuned: vec![],
        }
    }

    /// Reads the file `path`.
    ///
    /// # Errors
    /// The file cannot be read, is no recipe, or one of another version.
    pub fn read(path: &Path) -> Result<Recipe, RecipeError> {
        let bad = |e: &dyn fmt::Display| RecipeError(format!("cannot read recipe {}: {e}", path.display()));
        // A recipe is small: what is not is something else.
        let text = crate::read_text(path, 64 << 20).map_err(|e| bad(&e))?;
        Recipe::parse(&text).map_err(|e| bad(&e))
    }

    /// Reads the text of a recipe.
    ///
    /// # Errors
    /// Says where and what is wrong.
    pub fn parse(text: &str) -> Result<Recipe, RecipeError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let fail = |e: toml::de::Error| RecipeError(e.to_string().trim_end().to_string());
        let Version { version } = toml::from_str(text).map_err(fail)?;
        if version != VERSION {
            return Err(RecipeError(format!(
                "version {version} of the format is not known (known: {VERSION}); make the recipe anew with `tenon quantize`"
            )));
        }
        let recipe: Recipe = toml::from_str(text).map_err(fail)?;
        let mut names = std::collections::BTreeSet::new();
        for v in &recipe.values {
            if !v.min.is_finite() || !v.max.is_finite() || v.min > v.max {
                return Err(RecipeError(format!(
                    "value \"{}\": expected min <= max, both finite, found {}..{}",
                    v.name, v.min, v.max
                )));
            }
            if (v.min as f32).is_infinite() || (v.max as f32).is_infinite() {
                return Err(RecipeError(format!("value \"{}\": {}..{} is beyond f32", v.name, v.min, v.max)));
            }
            if !names.insert(&v.name) {
                return Err(RecipeError(format!("value \"{}\" occurs twice", v.name)));
            }
        }
        let mut names = std::collections::BTreeSet::new();
        if let Some(l) = recipe.layers.iter().find(|l| !names.insert(&l.name)) {
            return Err(RecipeError(format!("layer \"{}\" occurs twice", l.name)));
        }
        let mut targets = std::collections::BTreeSet::new();
        for t in &recipe.tuned {
            if !targets.insert(&t.target) {
                return Err(RecipeError(format!("tiles for {} occur twice", t.target)));
            }
            for (shape, tile) in &t.tiles {
                tile.parse::<Tile>().map_err(|e| RecipeError(format!("tile of \"{shape}\": {e}")))?;
            }
        }
        Ok(recipe)
    }

    /// The text of the recipe.
    ///
    /// # Errors
    /// Never for a recipe that was read or made by calibration.
    pub fn to_text(&self) -> Result<String, RecipeError> {
        let body = toml::to_string(self).map_err(|e| RecipeError(e.to_string()))?;
        Ok(format!(
            "# How to compile a model. Written by `tenon quantize` and `tenon tune`, used by `--recipe`; ranges and precisions may be edited.\n{body}"
        ))
    }

    /// Whether anything is to be computed in integers: what no layer says otherwise of is, unless no ranges were looked for.
    pub fn quantises(&self) -> bool {
        self.method != Recipe::NO_RANGES || !self.values.is_empty() || !self.layers.is_empty()
    }

    /// The tiles that were measured for the target of that name.
    pub fn tuning(&self, target: &str) -> Tuning {
        let of = self.tuned.iter().find(|t| t.target == target);
        let tiles = of.into_iter().flat_map(|t| &t.tiles);
        Tuning { tiles: tiles.filter_map(|(shape, tile)| Some((shape.clone(), tile.parse().ok()?))).collect() }
    }

    /// What the passes need of it to quantise the model.
    pub fn choice(&self) -> Choice {
        let mut choice = Choice::default();
        for v in &self.values {
            choice.ranges.insert(v.name.clone(), Range { min: v.min as f32, max: v.max as f32 });
        }
        for l in &self.layers {
            if l.precision == Precision::Float {
                choice.float.insert(l.name.clone());
                continue;
            }
            choice.integers.insert(l.name.clone());
            if !l.correction.is_empty() {
                choice.corrections.insert(l.name.clone(), l.correction.clone());
            }
        }
        // Ranges that only layers in floats would need are no mistake.
        choice
    }

    /// Fails unless the recipe belongs to the model that hashes to `model`.
    ///
    /// # Errors
    /// It belongs to another.
    pub fn check_model(&self, model: &str) -> Result<(), RecipeError> {
        if self.model == model {
            return Ok(());
        }
        Err(RecipeError(format!(
            "the recipe was made for another model ({}, this one is {model}); make one for this model with `tenon quantize`",
            self.model
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        let mut r = Recipe::new("sha256:00".into(), "mse", 3);
        r.values.push(ValueRange { name: "in/put \"x\"".into(), min: shortest(-0.1), max: shortest(1.7) });
        r.layers.push(LayerPrecision { name: "a".into(), precision: Precision::Int8, correction: vec![0, -3] });
        r.layers.push(LayerPrecision { name: "b".into(), precision: Precision::Float, correction: vec![] });
        let tiles = [("f32 56.56x64x64".to_string(), "6x2 rows-inside".to_string())].into();
        r.tuned.push(Tuned { target: "zen3".into(), tiles });
        r
    }

    #[test]
    fn text_reads_back_and_is_short() {
        let text = recipe().to_text().unwrap();
        assert_eq!(Recipe::parse(&text).unwrap(), recipe());
        assert!(text.contains("min = -0.1\n") && text.contains("precision = \"float\""), "{text}");
        assert_eq!(recipe().choice().ranges["in/put \"x\""], Range { min: -0.1, max: 1.7 });
        assert_eq!(recipe().tuning("zen3").tiles["f32 56.56x64x64"].registers, 2);
        assert!(recipe().tuning("zen4").tiles.is_empty());
        assert!(recipe().quantises() && Recipe::new("m".into(), "mse", 3).quantises());
        assert!(!Recipe::new("m".into(), Recipe::NO_RANGES, 0).quantises());
    }

    #[test]
    fn bad_recipes_are_told_apart() {
        let text = recipe().to_text().unwrap();
        let error = |from: &str, to: &str| Recipe::parse(&text.replace(from, to)).unwrap_err().0;
        assert!(error("version = 1", "version = 9").contains("version 9"));
        assert!(error("version = 1\n", "").contains("version"));
        assert!(error("min = -0.1", "min = nan").contains("min <= max"));
        assert!(error("min = -0.1", "min = 9.0").contains("min <= max"));
        assert!(error("max = 1.7", "max = 1e300").contains("beyond f32"));
        assert!(error("\"float\"", "\"int3\"").contains("int3"));
        assert!(error("name = \"b\"", "name = \"a\"").contains("twice"));
        assert!(error("samples = 3", "sample = 3").contains("sample"));
        assert!(error("6x2 rows", "6y2 rows").contains("56.56x64x64"));
        assert!(error("[[tuned]]", "[[tuned]]\ntarget = \"zen3\"\ntiles = {}\n[[tuned]]").contains("twice"));
        assert!(Recipe::parse("\u{0}").is_err() && Recipe::parse("").is_err());
        assert!(recipe().check_model("sha256:11").unwrap_err().0.contains("another model"));
    }
}

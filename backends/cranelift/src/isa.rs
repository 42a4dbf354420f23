//! A target as Cranelift's settings.
//!
//! Cranelift's CPU presets are not used: several of the x86 ones do not set `has_avx`, without which fused
//! multiply-adds become calls. Every flag is set here, from one table.

use crate::error::BackendError;
use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use tenon_target::{Feature, Target};

/// How a function is optimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Opt {
    /// Common subexpressions, loop-invariant code: control and elementwise code.
    Speed,
    /// Instructions stay in our order. `speed` sinks pure operations below all loads of a block, which spills the
    /// accumulators of a register tile.
    AsWritten,
}

/// The instruction set of one target, once for each [`Opt`].
#[derive(Clone)]
pub(crate) struct Isas {
    pub(crate) speed: OwnedTargetIsa,
    pub(crate) as_written: OwnedTargetIsa,
}

impl Isas {
    /// # Errors
    /// Cranelift does not know the architecture.
    pub(crate) fn new(target: &Target) -> Result<Isas, BackendError> {
        Ok(Isas { speed: build(target, Opt::Speed)?, as_written: build(target, Opt::AsWritten)? })
    }

    pub(crate) fn get(&self, opt: Opt) -> &OwnedTargetIsa {
        match opt {
            Opt::Speed => &self.speed,
            Opt::AsWritten => &self.as_written,
        }
    }
}

/// Cranelift's name of a feature; `None` for those it has no use for.
fn flag(f: Feature) -> Option<&'static str> {
    Some(match f {
        Feature::Sse3 => "has_sse3",
        Feature::Ssse3 => "has_ssse3",
        Feature::Sse41 => "has_sse41",
        Feature::Sse42 => "has_sse42",
        Feature::Popcnt => "has_popcnt",
        Feature::Cx16 => "has_cmpxchg16b",
        Feature::Avx => "has_avx",
        Feature::Avx2 => "has_avx2",
        Feature::Fma => "has_fma",
        Feature::Bmi1 => "has_bmi1",
        Feature::Bmi2 => "has_bmi2",
        Feature::Lzcnt => "has_lzcnt",
        Feature::AvxVnni => "has_avx_vnni",
        Feature::Avx512f => "has_avx512f",
        Feature::Avx512dq => "has_avx512dq",
        Feature::Avx512vl => "has_avx512vl",
        Feature::Avx512vbmi => "has_avx512vbmi",
        Feature::Avx512bitalg => "has_avx512bitalg",
        Feature::Avx512vnni => "has_avx512vnni",
        Feature::Lse => "has_lse",
        Feature::Fp16 => "has_fp16",
        Feature::Dotprod => "has_dotprod",
        Feature::I8mm => "has_i8mm",
        Feature::C => "has_c",
        Feature::V => "has_v",
        Feature::Zvl256b => "zvl256b",
        Feature::Zvl512b => "zvl512b",
        Feature::Zvl1024b => "zvl1024b",
        Feature::Zba => "has_zba",
        Feature::Zbb => "has_zbb",
        Feature::Zbs => "has_zbs",
        Feature::Zicond => "has_zicond",
        Feature::Zfa => "has_zfa",
        Feature::Zfhmin => "has_zfhmin",
        Feature::Zfh => "has_zfh",
        Feature::Zvfh => "has_zvfh",
        Feature::Sse2
        | Feature::F16c
        | Feature::Avx512cd
        | Feature::Avx512bw
        | Feature::Avx512bf16
        | Feature::AmxTile
        | Feature::AmxInt8
        | Feature::AmxBf16
        | Feature::Neon => return None,
    })
}

fn build(target: &Target, opt: Opt) -> Result<OwnedTargetIsa, BackendError> {
    let fail = |reason: String| BackendError::Target { target: target.name.clone(), reason };
    let mut shared = settings::builder();
    let verify = if cfg!(debug_assertions) { "true" } else { "false" };
    let level = match opt {
        Opt::Speed => "speed",
        Opt::AsWritten => "none",
    };
    for (key, value) in [
        ("opt_level", level),
        // All data is local to the object, so code is position independent without a global offset table.
        ("is_pic", "false"),
        ("enable_verifier", verify),
        ("log2_min_function_alignment", "5"),
        ("preserve_frame_pointers", "true"),
        ("unwind_info", "false"),
        ("enable_probestack", "false"),
    ] {
        shared.set(key, value).map_err(|e| fail(format!("setting {key}: {e}")))?;
    }
    let mut builder = isa::lookup(target.triple.clone()).map_err(|e| fail(e.to_string()))?;
    let vector_length = target.has(Feature::V).then_some("zvl128b");
    for name in target.features.iter().filter_map(flag).chain(vector_length) {
        builder.enable(name).map_err(|e| fail(format!("flag {name}: {e}")))?;
    }
    builder.finish(settings::Flags::new(shared)).map_err(|e| fail(e.to_string()))
}

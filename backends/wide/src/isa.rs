//! What of a target matters to selection.

use crate::lir::TileDot;
use tenon_base::DType;
use tenon_target::{Arch, Feature, Target};

/// An instruction set level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Isa {
    /// Bytes of the widest register: 32 or 64.
    pub(crate) bytes: usize,
    /// AVX-512 F, VL, BW and DQ: 32 registers, masks.
    pub(crate) avx512: bool,
    /// Conversion of half floats.
    pub(crate) f16c: bool,
    /// Dot products of bytes.
    pub(crate) vnni: bool,
    /// Rounding to `bf16`, and dot products of it.
    pub(crate) bf16: bool,
    /// Products of tiles of bytes and of `bf16`.
    tiles: (bool, bool),
}

impl Isa {
    /// `None` where the machine has no vectors of 32 bytes or more.
    pub(crate) fn of(target: &Target) -> Option<Isa> {
        if target.arch != Arch::X86_64 || target.vector_bytes < 32 {
            return None;
        }
        let avx512 = target.vector_bytes == 64;
        Some(Isa {
            bytes: target.vector_bytes,
            avx512,
            f16c: target.has(Feature::F16c),
            vnni: target.has(if avx512 { Feature::Avx512vnni } else { Feature::AvxVnni }),
            // Rounding is as fast as any conversion, where dot products are not.
            bf16: avx512 && target.has(Feature::Avx512bf16),
            tiles: (target.has_tiles(DType::I8), target.has_tiles(DType::BF16)),
        })
    }

    /// Whether it has this product.
    pub(crate) fn has_tiles(&self, product: TileDot) -> bool {
        if product == TileDot::Bf16 { self.tiles.1 } else { self.tiles.0 }
    }
}

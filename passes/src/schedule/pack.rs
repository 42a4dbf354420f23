//! Constants in another layout: what a kernel asks for, and the copy that provides it.

use rayon::prelude::*;
use tenon_base::Tensor;
use tenon_kernel::Buf;

/// The layout `[outer…][tiles][inner…][lanes]` of a buffer: element `(o, t, i, l)` is element
/// `base + Σ o·stride + (t·lanes + l)·lane_stride + Σ i·stride` of the source, or 0 where `t·lanes + l` is `extent` or more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Layout {
    /// First element.
    pub(crate) base: i64,
    /// Extents and source strides outside the tiles.
    pub(crate) outer: Vec<(usize, i64)>,
    /// Valid elements of the tiled dim.
    pub(crate) extent: usize,
    /// Its source stride.
    pub(crate) lane_stride: i64,
    /// Elements of a tile.
    pub(crate) lanes: usize,
    /// Extents and source strides between a tile and its lanes.
    pub(crate) inner: Vec<(usize, i64)>,
}

impl Layout {
    /// Tiles of the tiled dim.
    pub(crate) fn tiles(&self) -> usize {
        self.extent.div_ceil(self.lanes)
    }

    /// Elements of one tile with all that is inside it.
    pub(crate) fn tile_len(&self) -> usize {
        self.lanes * self.inner.iter().map(|d| d.0).product::<usize>()
    }

    /// Elements, with padding.
    pub(crate) fn len(&self) -> usize {
        self.tiles() * self.tile_len() * self.outer.iter().map(|d| d.0).product::<usize>()
    }

    /// Strides of the outer dims, of the tiles and of the inner dims in the packed buffer.
    pub(crate) fn strides(&self) -> (Vec<i64>, i64, Vec<i64>) {
        let mut at = self.lanes;
        let mut inner = vec![0; self.inner.len()];
        for (s, d) in inner.iter_mut().zip(&self.inner).rev() {
            *s = at as i64;
            at *= d.0;
        }
        let tile = at as i64;
        at *= self.tiles();
        let mut outer = vec![0; self.outer.len()];
        for (s, d) in outer.iter_mut().zip(&self.outer).rev() {
            *s = at as i64;
            at *= d.0;
        }
        (outer, tile, inner)
    }

    /// `source` in this layout. Indices are within it: the kernel that asked was verified.
    pub(crate) fn apply(&self, source: &Tensor) -> Tensor {
        let size = source.dtype().size();
        let from = source.bytes();
        let mut to = vec![0u8; self.len() * size];
        let tile_bytes = self.tile_len() * size;
        to.par_chunks_mut(tile_bytes.max(1)).enumerate().for_each(|(n, chunk)| {
            let (tile, mut rest) = (n % self.tiles(), n / self.tiles());
            let mut base = self.base + (tile * self.lanes) as i64 * self.lane_stride;
            for &(extent, stride) in self.outer.iter().rev() {
                base += (rest % extent) as i64 * stride;
                rest /= extent;
            }
            let valid = self.lanes.min(self.extent - tile * self.lanes);
            let mut index = vec![0; self.inner.len()];
            for row in chunk.chunks_exact_mut(self.lanes * size) {
                let at: i64 = base + index.iter().zip(&self.inner).map(|(&i, d)| i as i64 * d.1).sum::<i64>();
                for (l, element) in row.chunks_exact_mut(size).take(valid).enumerate() {
                    let k = (at + l as i64 * self.lane_stride) as usize * size;
                    element.copy_from_slice(&from[k..k + size]);
                }
                for (i, d) in index.iter_mut().zip(&self.inner).rev() {
                    *i += 1;
                    if *i < d.0 {
                        break;
                    }
                    *i = 0;
                }
            }
        });
        let shape = [self.len()];
        Tensor::from_bytes(source.dtype(), &shape, to.into()).expect("as many bytes as the layout has elements")
    }
}

/// A parameter that is another one, a constant, in another layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pack {
    /// The constant.
    pub(crate) source: Buf,
    /// The new parameter.
    pub(crate) packed: Buf,
    /// How.
    pub(crate) layout: Layout,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_matrix_in_tiles_of_two() {
        // B of [3, 2] (n, k), packed as [tiles of n][k][lanes].
        let b = Tensor::new::<f32>(&[3, 2], &[0., 1., 10., 11., 20., 21.]);
        let layout = Layout { base: 0, outer: vec![], extent: 3, lane_stride: 2, lanes: 2, inner: vec![(2, 1)] };
        assert_eq!(layout.apply(&b).to_vec::<f32>(), [0., 10., 1., 11., 20., 0., 21., 0.]);
        assert_eq!(layout.strides(), (vec![], 4, vec![2]));
    }
}

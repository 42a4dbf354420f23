//! Constants in another layout: what a kernel asks for, and the copy that provides it.

use rayon::prelude::*;
use tenon_base::{DType, Tensor};
use tenon_kernel::{Buf, bf16};

/// A layout of constants, whatever the size of their elements.
pub(crate) trait Arrange {
    /// Elements, with padding.
    fn elements(&self) -> usize;

    /// Elements of `SIZE` bytes in this layout; `to` is all zeros.
    fn arrange<const SIZE: usize>(&self, from: &[[u8; SIZE]], to: &mut [[u8; SIZE]]);

    /// `source` in this layout. Indices are within it: the kernel that asked was verified. `to` is all zeros.
    fn apply(&self, source: &Tensor, to: &mut [u8]) {
        let from = source.bytes();
        match source.dtype().size() {
            1 => self.arrange::<1>(from.as_chunks().0, to.as_chunks_mut().0),
            2 => self.arrange::<2>(from.as_chunks().0, to.as_chunks_mut().0),
            4 => self.arrange::<4>(from.as_chunks().0, to.as_chunks_mut().0),
            _ => self.arrange::<8>(from.as_chunks().0, to.as_chunks_mut().0),
        }
    }

    /// The same as a tensor of its own.
    fn applied(&self, source: &Tensor) -> Tensor {
        let mut to = vec![0u8; self.elements() * source.dtype().size()];
        self.apply(source, &mut to);
        Tensor::from_bytes(source.dtype(), &[self.elements()], to.into())
            .expect("as many bytes as the layout has elements")
    }
}

/// Rows of lanes that are written at a time: as many floats as a line of the source holds.
const ROWS: usize = 16;

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
}

impl Arrange for Layout {
    fn elements(&self) -> usize {
        self.len()
    }

    fn arrange<const SIZE: usize>(&self, from: &[[u8; SIZE]], to: &mut [[u8; SIZE]]) {
        to.par_chunks_mut(self.tile_len().max(1)).enumerate().for_each(|(n, chunk)| {
            let (tile, mut rest) = (n % self.tiles(), n / self.tiles());
            let mut base = self.base + (tile * self.lanes) as i64 * self.lane_stride;
            for &(extent, stride) in self.outer.iter().rev() {
                base += (rest % extent) as i64 * stride;
                rest /= extent;
            }
            let valid = self.lanes.min(self.extent - tile * self.lanes);
            let (&(rows, row_stride), outside) = self.inner.split_last().unwrap_or((&(1, 0), &[]));
            // Blocks of rows outermost: what a line of the source holds of a lane goes to all its places while it is in the cache.
            for first in (0..rows).step_by(ROWS) {
                let last = rows.min(first + ROWS);
                let mut index = vec![0; outside.len()];
                for block in chunk.chunks_exact_mut(rows * self.lanes) {
                    let block = &mut block[first * self.lanes..last * self.lanes];
                    let at = base + index.iter().zip(outside).map(|(&i, d)| i as i64 * d.1).sum::<i64>();
                    let at = at + first as i64 * row_stride;
                    if self.lane_stride == 1 {
                        for (row, at) in block.chunks_exact_mut(self.lanes).zip((0i64..).map(|r| at + r * row_stride))
                        {
                            row[..valid].copy_from_slice(&from[at as usize..at as usize + valid]);
                        }
                    } else {
                        for l in 0..valid {
                            let at = at + l as i64 * self.lane_stride;
                            let to = block[l..].iter_mut().step_by(self.lanes);
                            match usize::try_from(row_stride) {
                                Ok(stride @ 1..) => {
                                    to.zip(from[at as usize..].iter().step_by(stride))
                                        .for_each(|(to, from)| *to = *from);
                                }
                                _ => to.zip(0i64..).for_each(|(to, r)| *to = from[(at + r * row_stride) as usize]),
                            }
                        }
                    }
                    for (i, d) in index.iter_mut().zip(outside).rev() {
                        *i += 1;
                        if *i < d.0 {
                            break;
                        }
                        *i = 0;
                    }
                }
            }
        });
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
    pub(crate) layout: Arrangement,
}

/// How a constant is laid out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Arrangement {
    /// In panels.
    Panels(Layout),
    /// In panels, converted to `f32`.
    Floats(Layout),
    /// In groups of neighbours.
    Groups(Groups),
    /// In groups of neighbours, rounded to `bf16`.
    Bf16(Groups),
    /// The sums of the columns of groups, in `i32`.
    Sums(Groups),
}

impl Arrangement {
    /// The type and number of the elements of a source of `dtype` in this layout.
    pub(crate) fn of(&self, dtype: DType) -> (DType, usize) {
        match self {
            Arrangement::Panels(l) => (dtype, l.len()),
            Arrangement::Floats(l) => (DType::F32, l.len()),
            Arrangement::Groups(g) => (dtype, g.len()),
            Arrangement::Bf16(g) => (DType::U16, g.len()),
            Arrangement::Sums(g) => (DType::I32, g.columns()),
        }
    }

    /// Writes `source` so into `to`, which has room for [`Arrangement::of`] and is all zeros.
    pub(crate) fn apply(&self, source: &Tensor, to: &mut [u8]) {
        match self {
            Arrangement::Panels(l) => l.apply(source, to),
            Arrangement::Groups(g) => g.apply(source, to),
            Arrangement::Floats(l) => {
                let t = l.applied(source);
                to.copy_from_slice(Tensor::from_f64(DType::F32, &[t.len()], &t.to_f64()).bytes());
            }
            Arrangement::Bf16(g) => {
                let floats = g.applied(source).to_vec::<f32>();
                to.as_chunks_mut().0.iter_mut().zip(floats).for_each(|(to, v)| *to = bf16::round(v).to_le_bytes());
            }
            Arrangement::Sums(g) => to.copy_from_slice(g.sums(source).bytes()),
        }
    }
}

/// The layout `[outer…][tiles of v][reduce…][groups][width][group]` of the factor of a contraction whose sum takes neighbouring
/// elements at once: zeros fill the last tile and the last group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Groups {
    /// First element.
    pub(crate) base: i64,
    /// Extents and source strides outside the tiles.
    pub(crate) outer: Vec<(usize, i64)>,
    /// Extent and source stride of the tiled dim.
    pub(crate) v: (usize, i64),
    /// Elements of the tiled dim in a tile.
    pub(crate) width: usize,
    /// Extents and source strides summed over outside the run.
    pub(crate) reduce: Vec<(usize, i64)>,
    /// Extents and source strides of the run, outermost first.
    pub(crate) run: Vec<(usize, i64)>,
    /// Elements that the innermost dim of the run takes; zeros are behind the last.
    pub(crate) run_width: usize,
    /// Elements of the run in a group.
    pub(crate) group: usize,
}

impl Groups {
    /// Elements of the run, with padding.
    fn length(&self) -> usize {
        self.run.iter().rev().skip(1).fold(self.run_width, |n, d| n * d.0)
    }

    /// Elements of one point of the dims outside the run, with padding.
    fn run_len(&self) -> usize {
        self.length().div_ceil(self.group) * self.width * self.group
    }

    /// Elements, with padding.
    pub(crate) fn len(&self) -> usize {
        let all = |dims: &[(usize, i64)]| dims.iter().map(|d| d.0).product::<usize>();
        all(&self.outer) * self.v.0.div_ceil(self.width) * all(&self.reduce) * self.run_len()
    }

    /// Strides of the outer dims, of the tiles and of the dims summed over; a group follows the one before by
    /// `width · group`.
    pub(crate) fn strides(&self) -> (Vec<i64>, i64, Vec<i64>) {
        let mut at = self.run_len();
        let mut walk = |dims: &[(usize, i64)]| {
            let mut strides: Vec<i64> = dims
                .iter()
                .rev()
                .map(|d| {
                    let stride = at as i64;
                    at *= d.0;
                    stride
                })
                .collect();
            strides.reverse();
            strides
        };
        let reduce = walk(&self.reduce);
        let tile = walk(&[(self.v.0.div_ceil(self.width), 0)])[0];
        (walk(&self.outer), tile, reduce)
    }

    /// The position in the source of every point of `dims`, in row-major order.
    fn offsets(dims: &[(usize, i64)]) -> Vec<i64> {
        dims.iter()
            .fold(vec![0], |all, d| all.iter().flat_map(|a| (0..d.0 as i64).map(move |i| a + i * d.1)).collect())
    }
}

impl Arrange for Groups {
    fn elements(&self) -> usize {
        self.len()
    }

    fn arrange<const SIZE: usize>(&self, from: &[[u8; SIZE]], to: &mut [[u8; SIZE]]) {
        let (outer, reduce, run) =
            (Groups::offsets(&self.outer), Groups::offsets(&self.reduce), Groups::offsets(&self.run));
        let innermost = self.run.last().map_or(1, |d| d.0);
        let tiles = self.v.0.div_ceil(self.width);
        let tile_len = reduce.len() * self.run_len();
        to.par_chunks_mut(tile_len.max(1)).enumerate().for_each(|(n, tile)| {
            let base = self.base + outer[n / tiles];
            let first = n % tiles * self.width;
            for (r, part) in reduce.iter().zip(tile.chunks_exact_mut(self.run_len())) {
                for (k, at) in run.iter().enumerate() {
                    let k = k / innermost * self.run_width + k % innermost;
                    let row = k / self.group * self.width * self.group + k % self.group;
                    let source = base + r + at + first as i64 * self.v.1;
                    let to = part[row..].iter_mut().step_by(self.group).take(self.width.min(self.v.0 - first));
                    match usize::try_from(self.v.1) {
                        Ok(stride @ 1..) => {
                            to.zip(from[source as usize..].iter().step_by(stride)).for_each(|(to, from)| *to = *from);
                        }
                        _ => to.zip(0i64..).for_each(|(to, l)| *to = from[(source + l * self.v.1) as usize]),
                    }
                }
            }
        });
    }
}

impl Groups {
    /// How many points the outer dims and the tiled one have.
    fn columns(&self) -> usize {
        self.outer.iter().map(|d| d.0).product::<usize>() * self.v.0
    }

    /// For each point of the outer dims and of the tiled one, the sum over all others.
    fn sums(&self, source: &Tensor) -> Tensor {
        let v = source.to_i64();
        let (reduce, run) = (Groups::offsets(&self.reduce), Groups::offsets(&self.run));
        let mut sums = vec![];
        for o in Groups::offsets(&self.outer) {
            for i in 0..self.v.0 as i64 {
                let base = self.base + o + i * self.v.1;
                let at = |r: i64, k: i64| v[(base + r + k) as usize];
                let sum: i64 = reduce.iter().map(|r| run.iter().map(|k| at(*r, *k)).sum::<i64>()).sum();
                sums.push(sum as i32);
            }
        }
        Tensor::new(&[sums.len()], &sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_two_along_a_run_of_three() {
        // W of [3, 3] (n, k): tiles of two columns, groups of two along k.
        let w = Tensor::new::<i8>(&[3, 3], &[1, 2, 3, 11, 12, 13, 21, 22, 23]);
        let g = Groups {
            base: 0,
            outer: vec![],
            v: (3, 3),
            width: 2,
            reduce: vec![],
            run: vec![(3, 1)],
            run_width: 3,
            group: 2,
        };
        assert_eq!(g.applied(&w).to_vec::<i8>(), [1, 2, 11, 12, 3, 0, 13, 0, 21, 22, 0, 0, 23, 0, 0, 0]);
        assert_eq!(g.strides(), (vec![], 8, vec![]));
        assert_eq!(g.sums(&w).to_vec::<i32>(), [6, 36, 66]);
    }

    #[test]
    fn a_transposed_matrix_in_tiles_of_two() {
        // B of [3, 2] (n, k), packed as [tiles of n][k][lanes].
        let b = Tensor::new::<f32>(&[3, 2], &[0., 1., 10., 11., 20., 21.]);
        let layout = Layout { base: 0, outer: vec![], extent: 3, lane_stride: 2, lanes: 2, inner: vec![(2, 1)] };
        assert_eq!(layout.applied(&b).to_vec::<f32>(), [0., 10., 1., 11., 20., 0., 21., 0.]);
        assert_eq!(layout.strides(), (vec![], 4, vec![2]));
    }
}

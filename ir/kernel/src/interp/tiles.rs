//! Products of tiles, compiled and run.

use super::InterpError;
use super::compile::{Compiler, Node, Span};
use super::run::{Machine, View};
use crate::{Access, Buf, Expr, Tiles, bf16};
use tenon_base::DType;

/// A compiled [`Tiles`].
#[derive(Debug)]
pub(super) struct TilesNode {
    /// Sizes and distances.
    shape: Tiles,
    /// The same loops, as registers and extents.
    reduce: Vec<(usize, i64)>,
    /// Neighbours of a group, and elements of `w` that hold them.
    group: usize,
    of_w: usize,
    out: (Span, usize),
    x: Source,
    w: Source,
}

/// Where a factor begins.
#[derive(Debug)]
struct Source {
    buf: Buf,
    dtype: DType,
    code: Span,
    index: usize,
}

impl Compiler<'_> {
    pub(super) fn tiles(&mut self, t: &Tiles) -> Result<Node, InterpError> {
        let reduce = self.dims(&t.reduce)?;
        let (sums, access) = self.buffer(t.out)?;
        let out = self.span(|c| c.scalar(&t.out_index, DType::I64, "an index"))?;
        let (x, w) = (self.source(&t.x)?, self.source(&t.w)?);
        let expected = if x.dtype == DType::U16 { DType::F32 } else { DType::I32 };
        let (Some(group), Some(of_w), true) =
            (Tiles::group(x.dtype), Tiles::group_beside(x.dtype, w.dtype), sums == expected && access != Access::In)
        else {
            return self.malformed(format!("tiles of {} and {} with sums of {sums}", x.dtype, w.dtype));
        };
        Ok(Node::Tiles(Box::new(TilesNode { shape: t.clone(), reduce, group, of_w, out, x, w })))
    }

    fn source(&mut self, factor: &Expr) -> Result<Source, InterpError> {
        let Some((buf, index)) = Tiles::source(factor) else {
            return self.malformed("a factor of tiles is not a load of one element");
        };
        let dtype = self.buffer(buf)?.0;
        let (code, index) = self.span(|c| c.scalar(index, DType::I64, "an index"))?;
        Ok(Source { buf, dtype, code, index })
    }
}

impl Machine<'_, '_> {
    pub(super) fn tiles(&mut self, n: &TilesNode) -> Result<(), InterpError> {
        let t = &n.shape;
        let mut sums = vec![0u32; t.height() * t.columns()];
        self.odometer(&n.reduce, &mut |m| m.run_of_tiles(n, &mut sums))?;
        self.instrs(&n.out.0)?;
        let (view, at) = self.locate(t.out, self.register(n.out.1) as i64, sums.len())?;
        let bytes = &mut self.memory_mut(view)[at..];
        sums.iter().zip(bytes.chunks_exact_mut(4)).for_each(|(s, b)| b.copy_from_slice(&s.to_le_bytes()));
        Ok(())
    }

    /// Adds the products of one run to `sums`.
    fn run_of_tiles(&mut self, n: &TilesNode, sums: &mut [u32]) -> Result<(), InterpError> {
        let (t, group) = (&n.shape, n.group);
        self.step((t.height() * t.columns() * t.groups) as u64)?;
        let run = t.groups * group;
        let x = self.factor(&n.x, t.row_offset(t.height() - 1) + run)?;
        // Two halves of an element are two elements.
        let halves = group / n.of_w;
        let w = self.factor(&n.w, (t.panels - 1) * t.beside + t.groups * n.of_w * Tiles::LANES)?;
        for (i, sums) in sums.chunks_exact_mut(t.columns()).enumerate() {
            let row = &x[t.row_offset(i)..][..run];
            for (c, sum) in sums.iter_mut().enumerate() {
                let panel = c / Tiles::LANES * t.beside * halves;
                let column = |g: usize| &w[panel + (g * Tiles::LANES + c % Tiles::LANES) * group..][..group];
                if n.x.dtype == DType::U16 {
                    for first in (0..t.groups).step_by(Tiles::STEP) {
                        let pairs = (first..t.groups.min(first + Tiles::STEP)).map(|g| {
                            let pair = |v: &[i32]| [v[0] as u16, v[1] as u16];
                            (pair(&row[g * group..]), pair(column(g)))
                        });
                        *sum = bf16::step(pairs, f32::from_bits(*sum)).to_bits();
                    }
                } else {
                    for g in 0..t.groups {
                        let products = row[g * group..].iter().zip(column(g)).map(|(a, b)| a * b);
                        *sum = sum.wrapping_add(products.sum::<i32>() as u32);
                    }
                }
            }
        }
        Ok(())
    }

    /// `len` elements of a factor, as integers.
    fn factor(&mut self, s: &Source, len: usize) -> Result<Vec<i32>, InterpError> {
        self.instrs(&s.code)?;
        let (view, at): (View, usize) = self.locate(s.buf, self.register(s.index) as i64, len)?;
        let bytes = &self.memory(view)[at..][..len * s.dtype.size()];
        Ok(match s.dtype {
            DType::U8 => bytes.iter().map(|b| i32::from(*b)).collect(),
            DType::I8 => bytes.iter().map(|b| i32::from(*b as i8)).collect(),
            _ => bytes.chunks_exact(2).map(|b| i32::from(u16::from_le_bytes([b[0], b[1]]))).collect(),
        })
    }
}

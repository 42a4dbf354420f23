//! Images of a few planes, interleaved for products of tiles.
//!
//! A run along a row of one plane is as short as the window is wide, and often odd. Where the planes of an image are few, a copy in `bf16` holds
//! the elements of all planes beside each other, and zeros until they are even: then the run goes over the window's row and the planes, and what
//! the zeros are multiplied with does not matter.

use crate::schedule::Unit;
use crate::schedule::scope::{Block, for_loop};
use tenon_base::DType;
use tenon_kernel::{Access, Affine, Buf, Contract, ContractDim, Expr, Kernel, Stmt};

/// More planes than this are interleaved by whoever makes the image.
const MOST: usize = 8;

/// The factor in the rows, whose planes are interleaved in a copy.
#[derive(Clone, Debug)]
pub(super) struct Planes {
    from: Buf,
    /// The loop over planes, and elements from plane to plane.
    planes: ContractDim,
    apart: i64,
    /// The first element that is read, in the present iteration of loops around, and how many of a plane are.
    first: Affine,
    len: usize,
    /// Where the factor is read in the copy.
    pub(super) index: Affine,
    /// Elements of all planes at one point of the image, with zeros.
    pub(super) width: usize,
}

impl Planes {
    /// Those of `x`, which `c` reads at `index`; `None` if it has no such form.
    pub(super) fn of(c: &Contract, x: Buf, index: &Affine) -> Option<Planes> {
        let outermost = c.reduce.iter().filter(|d| d.extent > 1).max_by_key(|d| index.coefficient(d.var))?;
        let apart = index.coefficient(outermost.var);
        // All else stays within a plane.
        let others = c.dims.iter().chain(&c.reduce).filter(|d| d.var != outermost.var);
        let last = others.clone().try_fold(0_i64, |n, d| {
            n.checked_add(index.coefficient(d.var).checked_mul(i64::try_from(d.extent).ok()? - 1)?)
        })?;
        let forward = others.clone().all(|d| index.coefficient(d.var) >= 0);
        if !forward || last >= apart || outermost.extent > MOST {
            return None;
        }
        let width = outermost.extent.next_multiple_of(2);
        let by = width as i64;
        let first = others.clone().fold(index.clone().with(outermost.var, 0), |i, d| i.with(d.var, 0));
        let scaled = others.fold(Affine::default(), |i, d| i.with(d.var, index.coefficient(d.var) * by));
        let (planes, len) = (outermost.clone(), usize::try_from(last + 1).ok()?);
        let index = scaled.with(planes.var, 1);
        Some(Planes { from: x, planes, apart, first, len, index, width })
    }

    /// The buffer of the copy.
    pub(super) fn buffer(&self, unit: &mut Unit) -> Buf {
        let name = format!("{}_planes", unit.kernel.buffer(self.from).name);
        unit.kernel.new_buffer(&name, DType::U16, self.len * self.width, Access::Scratch)
    }

    /// Fills it.
    pub(super) fn copy(&self, to: Buf, kernel: &mut Kernel) -> Stmt {
        let i = Block::new(kernel).index("i");
        let store = |c: usize| {
            let value = match c < self.planes.extent {
                true => {
                    Expr::load(self.from, self.first.to_expr() + Expr::Var(i) + self.apart * c as i64).rounded_bf16()
                }
                false => Expr::constant(DType::U16, 0.0),
            };
            Stmt::Store { buf: to, index: Expr::Var(i) * self.width + c, value }
        };
        for_loop(i, self.len, 1, true, (0..self.width).map(store).collect())
    }
}

//! How much a kernel computes, counted on its text.

use crate::{Expr, Kernel, Program, Stmt, UnOp};

/// What a kernel computes in one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Multiply-adds of contractions, of any element type.
    pub macs: u64,
    /// Operations on data: two a multiply-add, one an operation or function of floating-point numbers. Index arithmetic,
    /// moves, comparisons and selections are none.
    pub operations: u64,
    /// Statements that are run, and multiply-adds.
    pub steps: u64,
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, o: Work) {
        self.macs = self.macs.saturating_add(o.macs);
        self.operations = self.operations.saturating_add(o.operations);
        self.steps = self.steps.saturating_add(o.steps);
    }
}

/// Counts `kernel`, which is structured: what its operators ask for, before tiles are padded and functions become polynomials.
/// The body of a loop counts as often as the loop runs, of a `while` or a loop of unknown length once; of the branches of an
/// `if` the longer one counts.
pub fn work(kernel: &Kernel) -> Work {
    block(kernel, &kernel.body)
}

/// The same for every call of a program, in order.
pub fn work_of_calls(program: &Program) -> Vec<Work> {
    let kernels: Vec<Work> = program.kernels.iter().map(work).collect();
    program.calls().iter().map(|c| kernels[c.kernel]).collect()
}

fn block(k: &Kernel, body: &[Stmt]) -> Work {
    let mut sum = Work::default();
    for s in body {
        let mut here = Work::default();
        match s {
            Stmt::Contract(c) => {
                let points = product(c.dims.iter().map(|d| d.extent));
                let macs = points.saturating_mul(product(c.reduce.iter().map(|d| d.extent)));
                let rest = [&c.init, &c.value].iter().map(|e| operations(k, e)).sum::<u64>();
                let operations = macs.saturating_mul(2).saturating_add(points.saturating_mul(rest));
                here = Work { macs, operations, steps: macs.saturating_add(points) };
            }
            Stmt::For { lo, hi, step, body, .. } => {
                let trips = match (lo.as_int(), hi.as_int()) {
                    (Some(lo), Some(hi)) => (hi.saturating_sub(lo).max(0) as u64).div_ceil((*step).max(1) as u64),
                    _ => 1,
                };
                here = times(block(k, body), trips);
            }
            Stmt::While { body, .. } => here = block(k, body),
            Stmt::If { then, otherwise, .. } => {
                let (a, b) = (block(k, then), block(k, otherwise));
                here = if (a.operations, a.steps) >= (b.operations, b.steps) { a } else { b };
            }
            s => s.exprs(&mut |e| here.operations += operations(k, e)),
        }
        here.steps = here.steps.saturating_add(1);
        sum += here;
    }
    sum
}

fn product(extents: impl Iterator<Item = usize>) -> u64 {
    extents.fold(1, |n: u64, e| n.saturating_mul(e as u64))
}

fn times(w: Work, n: u64) -> Work {
    Work {
        macs: w.macs.saturating_mul(n),
        operations: w.operations.saturating_mul(n),
        steps: w.steps.saturating_mul(n),
    }
}

/// Operations of floating-point numbers in `e`.
fn operations(k: &Kernel, e: &Expr) -> u64 {
    let mut n = 0u64;
    e.visit(&mut |e| {
        let each = match e {
            Expr::Unary(op, _) => u64::from(!matches!(op, UnOp::Neg | UnOp::Abs | UnOp::Not)),
            Expr::Binary(..) | Expr::Math(..) => 1,
            Expr::Fma(_) => 2,
            _ => return,
        };
        let ty = k.type_of(e);
        if ty.elem.is_float() {
            n = n.saturating_add(each.saturating_mul(u64::from(ty.lanes)));
        }
    });
    n
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, KernelBuilder};
    use tenon_base::DType;

    #[test]
    fn contractions_count_two_an_element_and_functions_one() {
        let text = "kernel k(in %a: f32[12], in %b: f32[20], out %y: f32[15]) {
            parfor %g in 0..1 {
              contract %m in 0..3, %n in 0..5 reduce %k in 0..4 {
                %acc: f32 = 0.0
                %acc += load %a[%m * 4 + %k] * load %b[%k * 5 + %n]
                store %y[%m * 5 + %n] = exp(%acc) + 1.0
              }
            }
          }";
        let kernel = Kernel::parse(text).expect("the kernel reads");
        assert_eq!(work(&kernel), Work { macs: 60, operations: 2 * 60 + 2 * 15, steps: 60 + 15 + 2 });
    }

    #[test]
    fn index_arithmetic_is_no_work() {
        let mut k = KernelBuilder::new("k");
        let x = k.buffer("x", DType::F32, 64, Access::In);
        let y = k.buffer("y", DType::F32, 64, Access::Out);
        k.parfor("i", 64, |k, i| {
            k.store(y, i.clone(), Expr::load(x, (i + 3) % 64) * Expr::constant(DType::F32, 2.0))
        });
        assert_eq!(work(&k.finish()), Work { macs: 0, operations: 64, steps: 65 });
    }
}

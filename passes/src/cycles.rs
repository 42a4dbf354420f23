//! How long a program takes, estimated from its scheduled kernels and the target's description, without running it.
//!
//! A model of ports, as instruction tables of processors have them: what a kernel asks of the arithmetic units, of the load
//! and store units and of the decoder is counted apart, loops by their trip counts, and the busiest of the three gives the
//! time; memory that the caches cannot hold adds its own. It ranks kernels and catches a budget that is missed by far; where
//! the target is this machine, a measurement is better.

use rayon::prelude::*;
use tenon_kernel::{BinOp, Expr, Kernel, Program, Stmt, Tiles, Type, UnOp};
use tenon_target::Target;

/// The cost of a kernel call.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Cycles of one core.
    pub cycles: f64,
    /// Bytes of its buffers.
    pub bytes: usize,
}

/// What a piece of code asks of a core, in cycles of each kind of unit.
#[derive(Clone, Copy, Debug, Default)]
struct Ports {
    arithmetic: f64,
    memory: f64,
    instructions: f64,
}

impl Ports {
    fn add(&mut self, o: Ports, times: f64) {
        self.arithmetic += o.arithmetic * times;
        self.memory += o.memory * times;
        self.instructions += o.instructions * times;
    }

    fn cycles(self, decoded: f64) -> f64 {
        self.arithmetic.max(self.memory).max(self.instructions / decoded)
    }
}

/// Trips of a loop whose length depends on data.
const UNKNOWN_TRIPS: f64 = 8.0;
/// Cycles to call a kernel.
const CALL: f64 = 20.0;
/// Cycles from one product of tiles to the next, and until one is there to be added to.
const TILE_PRODUCT: f64 = 16.0;
const TILE_LATENCY: f64 = 52.0;
/// Bytes a cycle that come from beyond the caches.
const FROM_MEMORY: f64 = 6.0;

/// The cost of every kernel of `program`, called once with cold constants that exceed the last cache.
pub fn of_kernels(program: &Program, target: &Target) -> Vec<Cost> {
    program.kernels.par_iter().map(|k| of_kernel(k, target)).collect()
}

/// Cycles to hand parts to other threads and to wait for the last: some 0.8 µs where they spin. More would be too careful: what stays in one
/// piece fetches what the others have computed from their caches.
pub const FORK_JOIN: f64 = 3000.0;

/// The cycles of a core for `body`, a part of `k`.
pub(crate) fn of_block(k: &Kernel, body: &[Stmt], target: &Target) -> f64 {
    let machine = Machine::new(target);
    machine.block(k, body).cycles(machine.decoded)
}

fn of_kernel(k: &Kernel, target: &Target) -> Cost {
    let bytes = k.buffers.iter().map(|b| b.len * b.dtype.size()).sum::<usize>();
    let core = match k.parts {
        None => of_block(k, &k.body, target),
        // As long as its longest part.
        Some(p) => {
            let part = |i| of_block(k, &k.part(i).body, target);
            FORK_JOIN + (0..p.count).map(part).fold(0.0, f64::max)
        }
    };
    let cached = target.caches.l2.max(target.caches.l3);
    let far = bytes.saturating_sub(cached) as f64 / FROM_MEMORY;
    Cost { cycles: CALL + core + far, bytes }
}

struct Machine {
    /// Bytes of one vector operation.
    width: usize,
    /// Vector operations of `width` started a cycle.
    rate: f64,
    /// Instructions started a cycle.
    decoded: f64,
}

impl Machine {
    fn new(target: &Target) -> Machine {
        let width = target.vector_bytes;
        // From the peak of `f32`, which the target's data state for multiply-adds: two operations a lane.
        let lanes = (width / 4).max(1) as f64;
        let rate = target.peak_ops_per_cycle(tenon_base::DType::F32) / (2.0 * lanes);
        Machine { width, rate: rate.max(0.25), decoded: if rate >= 2.0 { 4.0 } else { 2.0 } }
    }

    fn registers(&self, ty: Type) -> f64 {
        let bytes = usize::from(ty.lanes) * ty.elem.size();
        if ty.lanes == 1 || self.width == 0 { f64::from(ty.lanes) } else { bytes.div_ceil(self.width) as f64 }
    }

    fn block(&self, k: &Kernel, body: &[Stmt]) -> Ports {
        let mut sum = Ports::default();
        for s in body {
            match s {
                Stmt::For { lo, hi, step, body, .. } => {
                    let trips = match (lo.as_int(), hi.as_int()) {
                        (Some(lo), Some(hi)) => (hi.saturating_sub(lo).max(0) as f64 / (*step).max(1) as f64).ceil(),
                        _ => UNKNOWN_TRIPS,
                    };
                    let mut inner = self.block(k, body);
                    // Count, compare, branch.
                    inner.instructions += 2.0;
                    sum.add(inner, trips);
                }
                Stmt::While { cond, body } => {
                    let mut inner = self.block(k, body);
                    inner.add(self.expr(k, cond), 1.0);
                    sum.add(inner, UNKNOWN_TRIPS);
                }
                Stmt::If { cond, then, otherwise } => {
                    sum.add(self.expr(k, cond), 1.0);
                    let (a, b) = (self.block(k, then), self.block(k, otherwise));
                    sum.add(if a.cycles(self.decoded) >= b.cycles(self.decoded) { a } else { b }, 1.0);
                }
                Stmt::Store { index, value, .. } => {
                    sum.add(self.expr(k, index), 1.0);
                    sum.add(self.expr(k, value), 1.0);
                    let n = self.registers(k.type_of(value));
                    sum.add(Ports { arithmetic: 0.0, memory: n, instructions: n }, 1.0);
                }
                Stmt::Tiles(t) => {
                    let runs = t.reduce.iter().map(|d| d.extent as f64).product::<f64>();
                    let tiles = (t.blocks * t.panels) as f64;
                    let products = runs * tiles * t.groups.div_ceil(Tiles::STEP) as f64;
                    // What the sums' tiles wait for each other, where they are few.
                    let each = TILE_PRODUCT.max(TILE_LATENCY / tiles);
                    let moved = Tiles::STEP as f64 * tiles;
                    sum.add(Ports { arithmetic: products * each, memory: moved, instructions: 2.0 * products }, 1.0);
                }
                s => s.exprs(&mut |e| sum.add(self.expr(k, e), 1.0)),
            }
        }
        sum
    }

    fn expr(&self, k: &Kernel, e: &Expr) -> Ports {
        let mut sum = Ports::default();
        e.visit(&mut |e| sum.add(self.node(k, e), 1.0));
        sum
    }

    fn node(&self, k: &Kernel, e: &Expr) -> Ports {
        let n = self.registers(k.type_of(e));
        let op = |weight: f64| Ports {
            arithmetic: n * weight / self.rate,
            memory: 0.0,
            instructions: n * weight.min(2.0),
        };
        match e {
            Expr::Const(_) | Expr::Var(_) | Expr::Bitcast(..) => Ports::default(),
            Expr::Load { .. } => Ports { arithmetic: 0.0, memory: n / 2.0, instructions: n },
            // Index arithmetic is folded into addresses and counters for the most part.
            e if k.type_of(e) == Type::INDEX => Ports { instructions: 0.25, ..Ports::default() },
            Expr::Unary(UnOp::Sqrt, _) | Expr::Binary(BinOp::Div | BinOp::Rem, _) => op(6.0),
            Expr::Reduce(..) => op(4.0),
            _ => op(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(body: &str, target: &str) -> f64 {
        let text = format!("kernel k(in %a: f32[4096], out %y: f32[4096]) {{ {body} }}");
        of_kernel(&Kernel::parse(&text).expect("it reads"), &Target::parse(target).expect("it parses")).cycles
    }

    #[test]
    fn vectors_and_faster_cores_cost_less() {
        let scalar = "parfor %i in 0..4096 { store %y[%i] = load %a[%i] * 2.0 }";
        let vector = "parfor %i in 0..4096 step 4 { store %y[%i] = load4 %a[%i] * splat4(2.0) }";
        assert!(cost(vector, "cortex-a76") * 2.0 < cost(scalar, "cortex-a76"));
        assert!(cost(vector, "cortex-a76") < cost(vector, "cortex-a53"));
        let division = "parfor %i in 0..4096 { store %y[%i] = load %a[%i] / 3.0 }";
        assert!(cost(scalar, "cortex-a53") < cost(division, "cortex-a53"));
    }
}

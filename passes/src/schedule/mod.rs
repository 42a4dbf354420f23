//! The schedule: structured kernels become kernels a backend can translate one statement at a time.
//!
//! [`SCHEDULE`] is the table of contents; each pass is a file. Only here is the target read: its vectors, registers and
//! caches decide how loops are tiled, which loop becomes lanes and how constants are laid out.
//!
//! Kernels are scheduled on their own and in parallel. What reaches beyond a kernel — constants in another layout, new
//! scratch buffers, parameters that became unused — is recorded in its [`Unit`] and done in the end by [`link`].

mod between;
mod collapse;
mod contract;
mod lanes;
mod link;
mod math;
mod pack;
mod rounding;
mod scope;
mod subnormal;
mod sums;
mod transpose;
mod unroll;
mod vectorize;

use crate::effort::{Effort, Price};
use crate::tuning::{Considered, Tuning};
pub(crate) use link::rename_buffers;
use pack::Pack;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use tenon_base::Scalar;
use tenon_kernel::simplify::simplify_kernel;
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::verify::{Stage, render, verify_kernel};
use tenon_kernel::{BinOp, Buf, BufferKind, Expr, Kernel, Program, ProgramBuffer, Stmt};
use tenon_target::Target;

/// What the schedule may rely on.
#[derive(Clone, Copy, Debug)]
pub struct ScheduleCx<'a> {
    /// The machine.
    pub target: &'a Target,
    /// Whether sums and products may be computed in another order than the text of a loop says.
    pub reassociate: bool,
    /// Whether factors of products of `f32` may be rounded to `bf16`, and the machine multiplies those.
    pub bf16: bool,
    /// What code costs to be made.
    pub price: Price,
    /// Tiles that are known to be better than what the estimate says.
    pub tuning: &'a Tuning,
}

impl<'a> ScheduleCx<'a> {
    /// For `target`, with nothing measured, where a run is all that counts.
    pub fn new(target: &'a Target, reassociate: bool) -> ScheduleCx<'a> {
        ScheduleCx { target, reassociate, bf16: false, price: Effort::Full.price(), tuning: Tuning::NONE }
    }

    /// Whether what is subnormal may be zero: see [`Program::flush_to_zero`].
    pub(crate) fn flushes(&self) -> bool {
        self.reassociate && self.target.flushes_to_zero()
    }
}

/// Why a program could not be scheduled: a pass left a kernel that does not verify, which is a fault of the pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleError {
    /// The pass at fault.
    pub pass: &'static str,
    /// The kernel.
    pub kernel: String,
    /// Its text with what is wrong.
    pub message: String,
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "schedule pass `{}` broke kernel {}:\n{}", self.pass, self.kernel, self.message)
    }
}
impl std::error::Error for ScheduleError {}

/// A kernel on its way through the schedule.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    /// The kernel.
    pub(crate) kernel: Kernel,
    /// Calls of it in a program.
    pub(crate) calls: usize,
    /// For each parameter: whether every call gives it a constant.
    pub(crate) constant: Vec<bool>,
    /// For each of these parameters that holds constant integers: the largest magnitude that any call gives it.
    pub(crate) largest: Vec<Option<u64>>,
    /// Parameters that were added for constants in another layout.
    pub(crate) packs: Vec<Pack>,
    /// Scratch buffers that hold a parameter rounded to `bf16`, element for element, with that parameter.
    pub(crate) roundings: Vec<(Buf, Buf)>,
    /// Parameters that hold one number, the same for every call.
    numbers: BTreeMap<Buf, Scalar>,
    /// What was considered for its contractions.
    pub(crate) considered: Vec<Considered>,
}

impl Unit {
    /// `kernel` before any pass, whose parameters hold constants where `constant` says so.
    fn new(kernel: Kernel, constant: Vec<bool>) -> Unit {
        Unit {
            kernel,
            calls: 1,
            constant,
            largest: vec![],
            packs: vec![],
            roundings: vec![],
            numbers: BTreeMap::new(),
            considered: vec![],
        }
    }
}

/// One schedule pass.
pub(crate) type Pass = fn(&mut Unit, &ScheduleCx<'_>);

/// All passes in order: name and function.
pub(crate) const SCHEDULE: &[(&str, Pass)] = &[
    ("numbers", numbers),
    ("simplify", simplify),
    ("rounding", rounding::run),
    ("collapse", collapse::run),
    ("contract", contract::run),
    ("sums", sums::run),
    ("transpose", transpose::run),
    ("vectorize", vectorize::run),
    ("unroll", unroll::run),
    ("math", math::run),
    ("simplify again", simplify),
];

/// Schedules `kernels`, which the calls of `program` name, and gives the program of what comes of them; also what was considered for
/// contractions. They verify as structured, or what is given is not used.
///
/// # Errors
/// A pass left a kernel that does not verify.
pub fn schedule_program(
    mut program: Program,
    kernels: &[Kernel],
    cx: &ScheduleCx<'_>,
) -> Result<(Program, Vec<Considered>), ScheduleError> {
    program.fused_multiply_add = cx.target.has_fma();
    let units = split_by_constants(&mut program, kernels);
    // Each on its own: some take ten times as long as others.
    let mut done: Vec<Unit> =
        units.into_par_iter().with_max_len(1).map(|u| schedule_unit(u, cx)).collect::<Result<_, _>>()?;
    let considered = done.iter_mut().flat_map(|u| std::mem::take(&mut u.considered)).collect();
    between::round(&mut program, &mut done);
    // Sums alone hardly make subnormal numbers, and changing how the machine rounds takes a few dozen cycles.
    program.flush_to_zero = cx.flushes() && done.par_iter().any(|u| multiplies_floats(&u.kernel));
    Ok((link::link(program, done), considered))
}

/// Whether `kernel` has products or quotients of floats.
fn multiplies_floats(kernel: &Kernel) -> bool {
    let mut found = false;
    visit_stmts(&kernel.body, &mut |s| {
        s.exprs(&mut |e| {
            e.visit(&mut |e| {
                let product = matches!(e, Expr::Fma(_) | Expr::Binary(BinOp::Mul | BinOp::Div, _));
                found |= product && kernel.type_of(e).elem.is_float();
            });
        });
    });
    found
}

/// Numbers in the place of parameters that hold them.
fn numbers(unit: &mut Unit, _cx: &ScheduleCx<'_>) {
    if !unit.numbers.is_empty() {
        put_numbers(&mut unit.kernel, &unit.numbers);
    }
}

/// Index arithmetic in canonical form.
fn simplify(unit: &mut Unit, _cx: &ScheduleCx<'_>) {
    unit.kernel = simplify_kernel(std::mem::take(&mut unit.kernel));
}

/// Runs every pass on `unit`. With debug assertions, verifies the kernel in the end; a backend does so in any case.
fn schedule_unit(mut unit: Unit, cx: &ScheduleCx<'_>) -> Result<Unit, ScheduleError> {
    if !cfg!(debug_assertions) {
        SCHEDULE.iter().for_each(|(_, pass)| pass(&mut unit, cx));
        return Ok(unit);
    }
    let mut stages = vec![];
    for &(name, pass) in SCHEDULE {
        pass(&mut unit, cx);
        stages.push((name, unit.kernel.clone()));
    }
    let Err(errors) = verify_kernel(&unit.kernel, Stage::Scheduled) else { return Ok(unit) };
    // Which pass was it? The first whose result is not even structured, else the last.
    let mut found = (SCHEDULE[SCHEDULE.len() - 1].0, render(&unit.kernel, &errors));
    for (name, kernel) in stages {
        if let Err(errors) = verify_kernel(&kernel, Stage::Structured) {
            found = (name, render(&kernel, &errors));
            break;
        }
    }
    Err(ScheduleError { pass: found.0, kernel: unit.kernel.name.clone(), message: found.1 })
}

/// One unit for every kernel and way of calling it with constants; calls then name units.
fn split_by_constants(program: &mut Program, kernels: &[Kernel]) -> Vec<Unit> {
    let mut seen: BTreeMap<(usize, Vec<bool>), usize> = BTreeMap::new();
    let mut variants = vec![0usize; kernels.len()];
    let mut units: Vec<Unit> = vec![];
    let is_const: Vec<bool> = program.buffers.iter().map(|b| matches!(b.kind, BufferKind::Const(_))).collect();
    let largest: Vec<Option<u64>> = program.buffers.iter().map(largest).collect();
    for call in program.calls_mut() {
        let constant: Vec<bool> = call.args.iter().map(|id| is_const[id.0 as usize]).collect();
        let old = call.kernel;
        call.kernel = *seen.entry((old, constant.clone())).or_insert_with(|| {
            let mut kernel = kernels[old].clone();
            if variants[old] > 0 {
                kernel.name = format!("{}_c{}", kernel.name, variants[old]);
            }
            variants[old] += 1;
            let largest = vec![Some(0); constant.len()];
            units.push(Unit { largest, calls: 0, ..Unit::new(kernel, constant) });
            units.len() - 1
        });
        units[call.kernel].calls += 1;
        for (l, id) in units[call.kernel].largest.iter_mut().zip(&call.args) {
            *l = l.zip(largest[id.0 as usize]).map(|(a, b)| a.max(b));
        }
    }
    let mut numbers: Vec<BTreeMap<Buf, Option<Scalar>>> = vec![BTreeMap::new(); units.len()];
    for call in program.calls() {
        for (i, id) in call.args.iter().enumerate() {
            let number = match &program.buffer(*id).kind {
                BufferKind::Const(t) if t.len() == 1 && t.dtype() == program.buffer(*id).dtype => Some(t.get(0)),
                _ => None,
            };
            let entry = numbers[call.kernel].entry(Buf(i as u32)).or_insert(number);
            *entry = entry.filter(|n| number.is_some_and(|m| n.to_le_bytes() == m.to_le_bytes()));
        }
    }
    for (u, n) in units.iter_mut().zip(numbers) {
        u.numbers = n.into_iter().filter_map(|(b, n)| Some((b, n?))).collect();
    }
    units
}

/// Numbers in the place of loads of them. Factors of contractions stay loads, which is what those are made of.
fn put_numbers(kernel: &mut Kernel, numbers: &BTreeMap<Buf, Scalar>) {
    let mut factors = BTreeSet::new();
    visit_stmts(&kernel.body, &mut |s| {
        if let Stmt::Contract(c) = s {
            for e in [&c.a, &c.b] {
                e.visit(&mut |e| {
                    if let Expr::Load { buf, .. } = e {
                        factors.insert(*buf);
                    }
                });
            }
        }
    });
    let number = |e: &Expr| match e {
        Expr::Load { buf, lanes: 1, .. } if !factors.contains(buf) => numbers.get(buf).copied(),
        _ => None,
    };
    let body = std::mem::take(&mut kernel.body);
    let put = |s: Stmt| s.map_exprs(&mut |e| e.rewrite(&mut |e| number(&e).map_or(e, Expr::Const)));
    kernel.body = body.into_iter().map(put).collect();
}

/// The largest magnitude in a constant of 32-bit integers: what sums begin with.
fn largest(b: &ProgramBuffer) -> Option<u64> {
    let BufferKind::Const(t) = &b.kind else { return None };
    (t.dtype() == tenon_base::DType::I32).then(|| t.to_i64().iter().map(|v| v.unsigned_abs()).max().unwrap_or(0))
}

#[cfg(test)]
mod tests;

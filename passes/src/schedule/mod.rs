//! The schedule: structured kernels become kernels a backend can translate one statement at a time.
//!
//! [`SCHEDULE`] is the table of contents; each pass is a file. Only here is the target read: its vectors, registers and
//! caches decide how loops are tiled, which loop becomes lanes and how constants are laid out.
//!
//! Kernels are scheduled on their own and in parallel. What reaches beyond a kernel — constants in another layout, new
//! scratch buffers, parameters that became unused — is recorded in its [`Unit`] and done in the end by [`link`].

mod collapse;
mod contract;
mod lanes;
mod link;
mod math;
mod pack;
mod scope;
mod sums;
mod vectorize;

use pack::Pack;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fmt;
use tenon_kernel::simplify::simplify_kernel;
use tenon_kernel::verify::{Stage, render, verify_kernel};
use tenon_kernel::{BufferKind, Kernel, Program};
use tenon_target::Target;

/// What the schedule may rely on.
#[derive(Clone, Copy, Debug)]
pub struct ScheduleCx<'a> {
    /// The machine.
    pub target: &'a Target,
    /// Whether sums and products may be computed in another order than the text of a loop says.
    pub reassociate: bool,
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
    /// For each parameter: whether every call gives it a constant.
    pub(crate) constant: Vec<bool>,
    /// Parameters that were added for constants in another layout.
    pub(crate) packs: Vec<Pack>,
}

/// One schedule pass.
pub(crate) type Pass = fn(&mut Unit, &ScheduleCx<'_>);

/// All passes in order: name and function.
pub(crate) const SCHEDULE: &[(&str, Pass)] = &[
    ("simplify", simplify),
    ("collapse", collapse::run),
    ("contract", contract::run),
    ("sums", sums::run),
    ("vectorize", vectorize::run),
    ("math", math::run),
    ("simplify again", simplify),
];

/// Schedules every kernel of `program`, which is verified as structured.
///
/// # Errors
/// A pass left a kernel that does not verify.
pub fn schedule_program(program: Program, cx: &ScheduleCx<'_>) -> Result<Program, ScheduleError> {
    let mut program = program;
    program.fused_multiply_add = cx.target.has_fma();
    let units = split_by_constants(&mut program);
    let done: Vec<Unit> = units.into_par_iter().map(|u| schedule_unit(u, cx)).collect::<Result<_, _>>()?;
    Ok(link::link(program, done))
}

/// Index arithmetic in canonical form.
fn simplify(unit: &mut Unit, _cx: &ScheduleCx<'_>) {
    let empty = Kernel { name: String::new(), buffers: vec![], vars: vec![], body: vec![], in_place: vec![] };
    unit.kernel = simplify_kernel(std::mem::replace(&mut unit.kernel, empty));
}

/// Runs every pass on `unit`, and verifies the kernel in the end.
fn schedule_unit(mut unit: Unit, cx: &ScheduleCx<'_>) -> Result<Unit, ScheduleError> {
    let mut stages = cfg!(debug_assertions).then(Vec::new);
    for &(name, pass) in SCHEDULE {
        pass(&mut unit, cx);
        if let Some(stages) = &mut stages {
            stages.push((name, unit.kernel.clone()));
        }
    }
    let Err(errors) = verify_kernel(&unit.kernel, Stage::Scheduled) else { return Ok(unit) };
    // Which pass was it? The first whose result is not even structured, else the last.
    let mut found = (SCHEDULE[SCHEDULE.len() - 1].0, render(&unit.kernel, &errors));
    for (name, kernel) in stages.unwrap_or_default() {
        if let Err(errors) = verify_kernel(&kernel, Stage::Structured) {
            found = (name, render(&kernel, &errors));
            break;
        }
    }
    Err(ScheduleError { pass: found.0, kernel: unit.kernel.name.clone(), message: found.1 })
}

/// One unit for every kernel and way of calling it with constants; calls then name units.
fn split_by_constants(program: &mut Program) -> Vec<Unit> {
    let mut seen: BTreeMap<(usize, Vec<bool>), usize> = BTreeMap::new();
    let mut variants = vec![0usize; program.kernels.len()];
    let mut units: Vec<Unit> = vec![];
    let is_const: Vec<bool> = program.buffers.iter().map(|b| matches!(b.kind, BufferKind::Const(_))).collect();
    let kernels = std::mem::take(&mut program.kernels);
    for call in program.calls_mut() {
        let constant: Vec<bool> = call.args.iter().map(|id| is_const[id.0 as usize]).collect();
        let old = call.kernel;
        call.kernel = *seen.entry((old, constant.clone())).or_insert_with(|| {
            let mut kernel = kernels[old].clone();
            if variants[old] > 0 {
                kernel.name = format!("{}_c{}", kernel.name, variants[old]);
            }
            variants[old] += 1;
            units.push(Unit { kernel, constant, packs: vec![] });
            units.len() - 1
        });
    }
    program.kernels = kernels;
    units
}

#[cfg(test)]
mod tests;

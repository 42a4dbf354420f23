//! Scheduled kernel IR to CLIF.
//!
//! One function a kernel, one pointer parameter a buffer, and for a kernel in parts the number of the part behind them
//! ([`parallel`]). Virtual vectors of any lane count become rows of 128-bit registers ([`value`]); machines without vectors take
//! one scalar a lane, by the same code.

mod address;
mod bf16;
mod cast;
mod dot;
pub(crate) mod entry;
mod expr;
mod guard;
mod half;
pub(crate) mod parallel;
mod round;
mod rounding;
mod scalar;
pub(crate) mod selftest;
mod stmt;
mod value;
mod vector;

use crate::capability::Machine;
use crate::isa::Opt;
use cranelift_codegen::ir::{
    AbiParam, AliasRegion, AliasRegionData, Function, InstBuilder, MemFlagsData, Signature, UserFuncName, Value,
};
use cranelift_codegen::isa::{CallConv, TargetIsa};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use std::collections::HashMap;
use target_lexicon::Architecture;
use tenon_kernel::codegen::address::Addresses;
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::{BinOp, Expr, Kernel, Stmt, Var};
use value::Binding;

/// The state of lowering one kernel.
pub(super) struct Lower<'f> {
    b: FunctionBuilder<'f>,
    kernel: &'f Kernel,
    machine: Machine,
    /// The address of each buffer.
    buffers: Vec<Value>,
    /// Memory that no other buffer shares, by buffer.
    regions: Vec<AliasRegion>,
    /// Variables in scope.
    vars: Vec<Option<Binding>>,
    /// Occurrences of each variable not lowered yet: at 0 its register is free.
    uses: Vec<u32>,
    /// Occurrences of the variable that a `let` or `var` defines; a variable may be defined in several blocks.
    uses_of: HashMap<*const Stmt, u32>,
    /// Loops around the present statement.
    depth: u32,
    addresses: Addresses<Value>,
}

/// The signature of a kernel with `parameters`, of a pointer's size each.
pub(crate) fn kernel_signature(isa: &dyn TargetIsa, parameters: usize) -> Signature {
    // Kernels are local, so on x86-64 one convention serves every system, and both code generators.
    let x86 = matches!(isa.triple().architecture, Architecture::X86_64);
    let convention = if x86 { CallConv::SystemV } else { isa.default_call_conv() };
    let mut sig = Signature::new(convention);
    sig.params = vec![AbiParam::new(isa.pointer_type()); parameters];
    sig
}

/// The CLIF function of `kernel`, which the verifier accepts as scheduled; `index` numbers it in its module.
pub(crate) fn kernel(kernel: &Kernel, index: u32, machine: Machine, isa: &dyn TargetIsa) -> Function {
    let sig = parallel::signature_of(kernel, isa);
    let mut func = Function::with_name_signature(UserFuncName::user(0, index), sig);
    let mut cx = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(&mut func, &mut cx);
    let entry = guard::enter(&mut b);
    let mut buffers = b.block_params(entry).to_vec();
    let part = kernel.parts.and_then(|p| Some((p.var, buffers.pop()?)));
    let regions = alias_classes(kernel)
        .into_iter()
        .map(|class| {
            let data = AliasRegionData { user_id: class as u32, description: "buffer".into() };
            b.func.dfg.alias_regions.insert(data)
        })
        .collect();
    let mut lower = Lower {
        b,
        kernel,
        machine,
        buffers,
        regions,
        vars: vec![None; kernel.vars.len()],
        uses: vec![u32::MAX; kernel.vars.len()],
        uses_of: count_uses(kernel),
        depth: 0,
        addresses: Addresses::new(kernel),
    };
    if let Some((var, value)) = part {
        lower.addresses.define_opaque(var);
        lower.bind_index(var, value);
    }
    lower.block(&kernel.body);
    lower.ins().return_(&[]);
    lower.b.finalize(isa.frontend_config());
    func
}

impl<'f> Lower<'f> {
    fn ins(&mut self) -> cranelift_frontend::FuncInstBuilder<'_, 'f> {
        self.b.ins()
    }

    /// Flags of an access to `buf`. Never `aligned`: on SSE an aligned scalar load may become the 16-byte memory operand of
    /// a vector instruction, which faults at an address that is aligned to its element only.
    fn flags(&self, buf: tenon_kernel::Buf) -> MemFlagsData {
        MemFlagsData::new().with_notrap().with_alias_region(Some(self.regions[buf.0 as usize]))
    }
}

/// Which optimisation suits `kernel`.
///
/// Vectors of several registers, and accumulators in vectors, mean that the schedule has put independent operations
/// side by side; there the optimiser's reordering costs registers (a tile of 4 by 2 runs at 34 instead of 52 GFLOP/s,
/// an exponential of 16 lanes at 0.93 instead of 0.73 ns an element). All else gains from its removal of common and
/// loop-invariant code.
pub(crate) fn optimisation(kernel: &Kernel, machine: &Machine) -> Opt {
    let mut scheduled = false;
    let mut nodes = 0;
    visit_stmts(&kernel.body, &mut |s| {
        match s {
            Stmt::Set { var, value } => {
                scheduled |= kernel.var(*var).ty.lanes > 1 && is_multiply_add(*var, value);
            }
            Stmt::Store { value, .. } => {
                let ty = kernel.type_of(value);
                scheduled |= machine.vectors && usize::from(ty.lanes) > machine.per_register(ty.elem.size());
            }
            _ => {}
        }
        s.exprs(&mut |e| e.visit(&mut |_| nodes += 1));
    });
    // The optimiser's time grows faster than the code.
    if scheduled || nodes > 20_000 { Opt::AsWritten } else { Opt::Speed }
}

/// `acc = a * b + acc`
fn is_multiply_add(acc: Var, value: &Expr) -> bool {
    let is_product = |e: &Expr| matches!(e, Expr::Binary(BinOp::Mul, _));
    match value {
        Expr::Fma(args) | Expr::Dot(args) => args[2] == Expr::Var(acc),
        Expr::Binary(BinOp::Add, ab) => {
            (ab[0] == Expr::Var(acc) && is_product(&ab[1])) || (ab[1] == Expr::Var(acc) && is_product(&ab[0]))
        }
        _ => false,
    }
}

/// A number for each buffer; those with the same number may be the same memory.
fn alias_classes(kernel: &Kernel) -> Vec<usize> {
    let mut class: Vec<usize> = (0..kernel.buffers.len()).collect();
    for (a, b) in &kernel.in_place {
        let (from, to) = (class[a.0 as usize], class[b.0 as usize]);
        class.iter_mut().filter(|c| **c == from).for_each(|c| *c = to);
    }
    class
}

/// By definition, in text order.
fn count_uses(kernel: &Kernel) -> HashMap<*const Stmt, u32> {
    let mut present: Vec<Option<*const Stmt>> = vec![None; kernel.vars.len()];
    let mut uses = HashMap::new();
    visit_stmts(&kernel.body, &mut |s| {
        s.exprs(&mut |e| {
            e.visit(&mut |e| {
                if let Expr::Var(v) = e
                    && let Some(definition) = present[v.0 as usize]
                {
                    *uses.entry(definition).or_insert(0) += 1;
                }
            });
        });
        if let Stmt::Let { var, .. } | Stmt::Declare { var, .. } = s {
            present[var.0 as usize] = Some(std::ptr::from_ref(s));
        }
    });
    uses
}

//! Code around kernels that are to round in another way than the caller does.

use crate::rounding::FLUSHING;
use cranelift_codegen::ir::{FuncRef, InstBuilder, StackSlot, StackSlotData, StackSlotKind, types};
use cranelift_frontend::FunctionBuilder;

/// The way that kernels of this function are to round in.
pub(super) struct Rounding {
    exchange: FuncRef,
    /// The caller's way, then ours.
    slot: StackSlot,
}

impl Rounding {
    /// Of a function that refers to `exchange`; `None` where kernels round as the caller does.
    pub(super) fn new(b: &mut FunctionBuilder<'_>, exchange: Option<FuncRef>) -> Option<Rounding> {
        let exchange = exchange?;
        let slot = b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, 8, 2));
        let ours = b.ins().iconst(types::I32, i64::from(FLUSHING));
        b.ins().stack_store(types::I64, ours, slot, 4);
        Some(Rounding { exchange, slot })
    }

    /// From here on kernels may be called.
    pub(super) fn begin(&self, b: &mut FunctionBuilder<'_>) {
        self.exchange(b, 0, 4);
    }

    /// From here on the caller's code may run.
    pub(super) fn end(&self, b: &mut FunctionBuilder<'_>) {
        self.exchange(b, 4, 0);
    }

    fn exchange(&self, b: &mut FunctionBuilder<'_>, old: i32, new: i32) {
        let [old, new] = [old, new].map(|at| b.ins().stack_addr(types::I64, self.slot, at));
        b.ins().call(self.exchange, &[old, new]);
    }
}

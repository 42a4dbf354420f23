//! What functions for the caller begin and end with: their parameters, checks of pointers, a status.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Block, InstBuilder, Value, types};
use cranelift_frontend::FunctionBuilder;
use tenon_abi::Status;

/// The function's first block, which has its parameters; what comes next goes there.
pub(super) fn enter(b: &mut FunctionBuilder<'_>) -> Block {
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    b.seal_block(entry);
    entry
}

/// Returns `status`.
pub(super) fn give(b: &mut FunctionBuilder<'_>, status: Status) {
    let code = b.ins().iconst(types::I32, i64::from(status as i32));
    b.ins().return_(&[code]);
}

/// Goes on behind; returns `status` where `cond` is not 0.
pub(super) fn fail_if(b: &mut FunctionBuilder<'_>, cond: Value, status: Status) {
    leave_if(b, cond, |b| give(b, status));
}

/// Goes on behind; returns `status` itself where it is not [`Status::Ok`].
pub(super) fn pass_on(b: &mut FunctionBuilder<'_>, status: Value) {
    leave_if(b, status, |b| {
        b.ins().return_(&[status]);
    });
}

fn leave_if(b: &mut FunctionBuilder<'_>, cond: Value, leave: impl FnOnce(&mut FunctionBuilder<'_>)) {
    let (fail, go): (Block, Block) = (b.create_block(), b.create_block());
    b.set_cold_block(fail);
    b.ins().brif(cond, fail, &[], go, &[]);
    b.seal_block(fail);
    b.seal_block(go);
    b.switch_to_block(fail);
    leave(b);
    b.switch_to_block(go);
}

/// Returns [`Status::NullPointer`] if `p` is null.
pub(super) fn fail_if_null(b: &mut FunctionBuilder<'_>, p: Value) {
    let zero = b.ins().iconst(types::I64, 0);
    let null = b.ins().icmp(IntCC::Equal, p, zero);
    fail_if(b, null, Status::NullPointer);
}

/// Returns `status` if `p` is not aligned to `align`, a power of two.
pub(super) fn fail_if_misaligned(b: &mut FunctionBuilder<'_>, p: Value, align: usize, status: Status) {
    if align > 1 {
        let mask = b.ins().iconst(types::I64, align as i64 - 1);
        let low = b.ins().band(p, mask);
        fail_if(b, low, status);
    }
}

/// `base` and `bytes` behind it.
pub(super) fn offset(b: &mut FunctionBuilder<'_>, base: Value, bytes: usize) -> Value {
    if bytes == 0 {
        return base;
    }
    let by = b.ins().iconst(types::I64, bytes as i64);
    b.ins().iadd(base, by)
}

//! Kernels in parts: the caller's `parallel_for` runs the parts, or they run one after the other.
//!
//! What a part is given goes through a block of pointers on the entry point's stack: one a buffer. For each kernel in parts there
//! is a function `void work(void *data, size_t part)` in the system's calling convention, which takes them from there.

use super::rounding::Rounding;
use super::{guard, kernel_signature};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    AbiParam, FuncRef, Function, InstBuilder, MemFlagsData, Signature, StackSlot, StackSlotData, StackSlotKind,
    Value, types,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use target_lexicon::{Architecture, BinaryFormat};
use tenon_kernel::{Kernel, Program};

/// Bytes of [`tenon_abi::Env`] and where its fields are; pointers have 64 bits.
const ENV: [i32; 3] = [24, 8, 16];

fn flags() -> MemFlagsData {
    MemFlagsData::new().with_notrap().with_aligned()
}

/// `void work(void *data, size_t part)`
pub(crate) fn work_signature(isa: &dyn TargetIsa) -> Signature {
    let mut sig = Signature::new(isa.default_call_conv());
    sig.params = vec![AbiParam::new(types::I64); 2];
    sig
}

/// Whether code finds the address of a function by a call. In COFF objects for aarch64 the object writer has no other way: see
/// [`crate::blob::Blob`].
pub(crate) fn addresses_by_call(isa: &dyn TargetIsa) -> bool {
    isa.triple().binary_format == BinaryFormat::Coff && matches!(isa.triple().architecture, Architecture::Aarch64(_))
}

/// The signature of a function that gives the address of what stands behind it.
pub(crate) fn address_signature(isa: &dyn TargetIsa) -> Signature {
    let mut sig = Signature::new(isa.default_call_conv());
    sig.returns = vec![AbiParam::new(types::I64)];
    sig
}

/// Fills in the body of `func`, whose signature is [`work_signature`]: calls `kernel`, which is `target`, between two calls of `exchange` if it is
/// to round in another way than the caller.
pub(crate) fn build_work(
    kernel: &Kernel,
    target: FuncRef,
    exchange: Option<FuncRef>,
    func: &mut Function,
    isa: &dyn TargetIsa,
) {
    let mut cx = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(func, &mut cx);
    let entry = guard::enter(&mut b);
    let [data, part] = [0, 1].map(|i| b.block_params(entry)[i]);
    let mut args: Vec<Value> =
        (0..kernel.buffers.len()).map(|k| b.ins().load(types::I64, flags(), data, 8 * k as i32)).collect();
    args.push(part);
    let rounding = Rounding::new(&mut b, exchange);
    if let Some(r) = &rounding {
        r.begin(&mut b);
    }
    b.ins().call(target, &args);
    if let Some(r) = &rounding {
        r.end(&mut b);
    }
    b.ins().return_(&[]);
    b.finalize(isa.frontend_config());
}

/// The caller's hook, in a function that has it at hand.
pub(super) struct Hook {
    /// Its address; null where there is none.
    function: Value,
    /// What it is called with.
    context: Value,
    /// Room for the pointers of a call.
    slot: StackSlot,
    by_call: bool,
    signature: cranelift_codegen::ir::SigRef,
}

/// A kernel in parts.
pub(super) struct Work<'r> {
    pub(super) kernel: FuncRef,
    /// Its function for the hook.
    pub(super) work: FuncRef,
    /// How many parts.
    pub(super) count: usize,
    /// The way in which the parts round, already the machine's.
    pub(super) rounding: Option<&'r Rounding>,
}

impl Hook {
    /// Reads `env`, which may be null or of a version without hooks; `None` where `program` has no kernel in parts.
    pub(super) fn read(
        b: &mut FunctionBuilder<'_>,
        program: &Program,
        env: Value,
        isa: &dyn TargetIsa,
    ) -> Option<Hook> {
        let most = program.kernels.iter().filter(|k| k.parts.is_some()).map(|k| k.buffers.len()).max()?;
        let slot =
            b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, 8 * most.max(1) as u32, 3));
        let [size, function, context] = ENV;
        let [check, read, end] = [(); 3].map(|()| b.create_block());
        let found = [(); 2].map(|()| b.append_block_param(end, types::I64));
        let null = b.ins().iconst(types::I64, 0);
        b.ins().brif(env, check, &[], end, &[null.into(), null.into()]);
        b.seal_block(check);
        b.switch_to_block(check);
        let bytes = b.ins().load(types::I64, flags(), env, 0);
        let least = b.ins().iconst(types::I64, i64::from(size));
        let has = b.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, bytes, least);
        b.ins().brif(has, read, &[], end, &[null.into(), null.into()]);
        b.seal_block(read);
        b.switch_to_block(read);
        let of = [function, context].map(|at| b.ins().load(types::I64, flags(), env, at));
        b.ins().jump(end, &[of[0].into(), of[1].into()]);
        b.seal_block(end);
        b.switch_to_block(end);
        // `void parallel_for(void *context, size_t count, work, void *data)`
        let mut sig = Signature::new(isa.default_call_conv());
        sig.params = vec![AbiParam::new(types::I64); 4];
        let signature = b.import_signature(sig);
        Some(Hook { function: found[0], context: found[1], slot, by_call: addresses_by_call(isa), signature })
    }

    /// Runs all parts of a kernel on `args`.
    pub(super) fn call(&self, b: &mut FunctionBuilder<'_>, work: &Work<'_>, args: &[Value]) {
        let Work { kernel, work, count, rounding } = *work;
        let [together, head, end] = [(); 3].map(|()| b.create_block());
        let part = b.append_block_param(head, types::I64);
        let zero = b.ins().iconst(types::I64, 0);
        let count = b.ins().iconst(types::I64, count as i64);
        b.ins().brif(self.function, together, &[], head, &[zero.into()]);
        b.seal_block(together);

        b.switch_to_block(together);
        for (k, p) in args.iter().enumerate() {
            b.ins().stack_store(types::I64, *p, self.slot, 8 * k as i32);
        }
        let data = b.ins().stack_addr(types::I64, self.slot, 0);
        let work = match self.by_call {
            true => {
                let call = b.ins().call(work, &[]);
                b.inst_results(call)[0]
            }
            false => b.ins().func_addr(types::I64, work),
        };
        // What the hook does besides calling the parts is the caller's code.
        if let Some(r) = rounding {
            r.end(b);
        }
        b.ins().call_indirect(self.signature, self.function, &[self.context, count, work, data]);
        if let Some(r) = rounding {
            r.begin(b);
        }
        b.ins().jump(end, &[]);

        b.switch_to_block(head);
        let with_part: Vec<Value> = args.iter().copied().chain([part]).collect();
        b.ins().call(kernel, &with_part);
        let next = b.ins().iadd_imm_s(part, 1);
        let more = b.ins().icmp(IntCC::UnsignedLessThan, next, count);
        b.ins().brif(more, head, &[next.into()], end, &[]);
        b.seal_block(head);
        b.seal_block(end);
        b.switch_to_block(end);
    }
}

/// The signature of `kernel`: a pointer for each buffer, then the part that is to run where it has parts.
pub(crate) fn signature_of(kernel: &Kernel, isa: &dyn TargetIsa) -> Signature {
    kernel_signature(isa, kernel.buffers.len() + usize::from(kernel.parts.is_some()))
}

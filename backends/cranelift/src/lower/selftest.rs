//! The self-test: runs the model on known inputs and compares.

use super::guard;
use crate::blob::BlobRef;
use cranelift_codegen::ir::{
    AbiParam, FuncRef, Function, InstBuilder, MemFlagsData, Signature, StackSlotData, StackSlotKind, Value, types,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use tenon_abi::Status;
use tenon_base::DType;
use tenon_kernel::{Access, BinOp, CmpOp, Expr, Kernel, KernelBuilder, UnOp};

/// `int32_t selftest(void *arena)`, with the address of the constant data behind it where they are not in the object.
pub(crate) fn signature(isa: &dyn TargetIsa, separate_weights: bool) -> Signature {
    let mut sig = Signature::new(isa.default_call_conv());
    sig.params = vec![AbiParam::new(isa.pointer_type()); if separate_weights { 2 } else { 1 }];
    sig.returns = vec![AbiParam::new(types::I32)];
    sig
}

/// One known result: offsets of its inputs and outputs in the golden data, and of each output's tolerance.
pub(crate) struct Vector {
    pub(crate) inputs: Vec<usize>,
    pub(crate) outputs: Vec<usize>,
    pub(crate) tolerances: Vec<usize>,
}

/// What the self-test refers to.
pub(crate) struct Plan {
    /// The model's entry point.
    pub(crate) run: FuncRef,
    /// The golden data.
    pub(crate) golden: BlobRef,
    /// The kernel that compares each output ([`compare`]).
    pub(crate) compare: Vec<FuncRef>,
    /// The kernel that makes the state what a first run finds ([`reset`]), where there is any.
    pub(crate) reset: Option<FuncRef>,
    /// Where in the arena each output goes.
    pub(crate) outputs: Vec<usize>,
    /// Where in the arena the number of wrong elements goes.
    pub(crate) wrong: usize,
    /// The known results.
    pub(crate) vectors: Vec<Vector>,
    /// Whether the constant data are a parameter.
    pub(crate) separate_weights: bool,
}

/// Fills in the body of `func`, whose signature is [`signature`].
pub(crate) fn build(plan: &Plan, func: &mut Function, isa: &dyn TargetIsa) {
    let mut cx = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(func, &mut cx);
    let entry = guard::enter(&mut b);
    let arena = b.block_params(entry)[0];
    let weights = plan.separate_weights.then(|| b.block_params(entry)[1]);
    guard::fail_if_null(&mut b, arena);
    guard::fail_if_misaligned(&mut b, arena, tenon_abi::ARENA_ALIGN, Status::MisalignedArena);
    let golden = plan.golden.address(&mut b);
    for v in &plan.vectors {
        let ins: Vec<Value> = v.inputs.iter().map(|at| guard::offset(&mut b, golden, *at)).collect();
        let outs: Vec<Value> = plan.outputs.iter().map(|at| guard::offset(&mut b, arena, *at)).collect();
        if let Some(reset) = plan.reset {
            b.ins().call(reset, &[arena]);
        }
        let (ins, out_struct) = (pointers(&mut b, &ins), pointers(&mut b, &outs));
        let null = b.ins().iconst(types::I64, 0);
        let args: Vec<Value> = [ins, out_struct, arena].into_iter().chain(weights).chain([null]).collect();
        let call = b.ins().call(plan.run, &args);
        let status = b.inst_results(call)[0];
        guard::pass_on(&mut b, status);
        let wrong = guard::offset(&mut b, arena, plan.wrong);
        for (k, out) in outs.into_iter().enumerate() {
            let [expected, tolerance] = [v.outputs[k], v.tolerances[k]].map(|at| guard::offset(&mut b, golden, at));
            b.ins().call(plan.compare[k], &[out, expected, tolerance, wrong]);
            let flags = MemFlagsData::new().with_notrap().with_aligned();
            let count = b.ins().load(types::I32, flags, wrong, 0);
            guard::fail_if(&mut b, count, Status::SelftestFailed);
        }
    }
    guard::give(&mut b, Status::Ok);
    b.finalize(isa.frontend_config());
}

/// The address of a struct of `list` on the stack.
fn pointers(b: &mut FunctionBuilder<'_>, list: &[Value]) -> Value {
    let bytes = 8 * list.len().max(1) as u32;
    let slot = b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, bytes, 3));
    let base = b.ins().stack_addr(types::I64, slot, 0);
    let flags = MemFlagsData::new().with_notrap().with_aligned();
    for (k, p) in list.iter().enumerate() {
        b.ins().store(flags, *p, base, 8 * k as i32);
    }
    base
}

/// Zeros in `bytes` bytes.
pub(crate) fn reset(bytes: usize) -> Kernel {
    let mut k = KernelBuilder::new(format!("reset_{bytes}"));
    let state = k.buffer("state", DType::U8, bytes, Access::Out);
    k.parfor("i", bytes, |k, i| k.store(state, i, Expr::constant(DType::U8, 0.0)));
    k.finish()
}

/// Counts the elements of `found` that are neither equal to those of `expected` nor, for floats, as near as `tolerance`.
pub(crate) fn compare(dtype: DType, len: usize) -> Kernel {
    let mut k = KernelBuilder::new(format!("compare_{dtype}_{len}"));
    let found = k.buffer("found", dtype, len, Access::In);
    let expected = k.buffer("expected", dtype, len, Access::In);
    let tolerance = k.buffer("tolerance", DType::F64, 1, Access::In);
    let wrong = k.buffer("wrong", DType::I32, 1, Access::Out);
    let int = |v: f64| Expr::constant(DType::I32, v);
    let limit = k.bind("limit", Expr::load(tolerance, Expr::int(0)));
    let count = k.declare("count", int(0.0));
    k.for_range("i", 0, len, |k, i| {
        let wide = match dtype {
            d if d.is_float() => DType::F64,
            DType::Bool => DType::I32,
            d => d,
        };
        let read = |buf, i: Expr| match wide {
            w if w == dtype => Expr::load(buf, i),
            w => Expr::load(buf, i).cast(w),
        };
        let a = k.bind("a", read(found, i.clone()));
        let b = k.bind("b", read(expected, i));
        let mut same = a.clone().compare(CmpOp::Eq, b.clone());
        if dtype.is_float() {
            let distance = (a.clone() - b.clone()).unary(UnOp::Abs);
            let nan = |v: Expr| v.clone().compare(CmpOp::Ne, v);
            let near = distance.compare(CmpOp::Le, limit);
            same = same.binary(BinOp::Or, near).binary(BinOp::Or, nan(a).binary(BinOp::And, nan(b)));
        }
        let here = same.select(int(0.0), int(1.0));
        k.set(count, Expr::Var(count).binary(BinOp::Add, here));
    });
    k.store(wrong, Expr::int(0), Expr::Var(count));
    k.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenon_kernel::{Stage, verify_kernel};

    #[test]
    fn comparisons_verify_for_every_type() {
        assert!(verify_kernel(&reset(192), Stage::Scheduled).is_ok());
        for d in DType::ALL {
            for len in [0, 1, 7] {
                let k = compare(d, len);
                assert!(
                    verify_kernel(&k, Stage::Scheduled).is_ok(),
                    "{d}: {:?}",
                    verify_kernel(&k, Stage::Scheduled)
                );
            }
        }
    }
}

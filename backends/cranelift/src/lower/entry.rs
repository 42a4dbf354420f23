//! The entry point: checks the caller's pointers, then runs the steps: calls of kernels, branches and loops around them. And
//! its parts: one step each, for who wants to time them.

use super::guard;
use super::parallel::{Hook, Work};
use super::rounding::Rounding;
use crate::blob::BlobRef;
use crate::weights::Header;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{AbiParam, FuncRef, Function, InstBuilder, MemFlagsData, Signature, Type, Value, types};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use tenon_abi::Status;
use tenon_kernel::{BufferId, BufferKind, If, Loop, Program, Step};

/// `int32_t run(const inputs *, const outputs *, void *arena, const env *)`, with `const void *weights` before the last
/// where the constant data are not in the object.
pub(crate) fn signature(isa: &dyn TargetIsa, separate_weights: bool) -> Signature {
    let mut sig = Signature::new(isa.default_call_conv());
    sig.params = vec![AbiParam::new(isa.pointer_type()); if separate_weights { 5 } else { 4 }];
    sig.returns = vec![AbiParam::new(types::I32)];
    sig
}

/// Where all constant data are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weights {
    /// There are none.
    Nowhere,
    /// In the object.
    Here(BlobRef),
    /// Where the fourth parameter points, if these words are there.
    Given(Header),
}

/// What the entry point refers to.
pub(crate) struct Links<'l> {
    /// The kernels.
    pub(crate) kernels: Vec<FuncRef>,
    /// What the caller's hook is given of each kernel in parts.
    pub(crate) works: Vec<Option<FuncRef>>,
    /// All constant data.
    pub(crate) weights: Weights,
    /// Offset in it, by program buffer (0 for buffers that are not constant).
    pub(crate) offsets: &'l [usize],
    /// The function that asks the system for tile registers, where kernels use them.
    pub(crate) ask_for_tiles: Option<FuncRef>,
    /// The function that changes how the machine rounds, where kernels are to round in another way than the caller.
    pub(crate) exchange: Option<FuncRef>,
}

/// Fills in the body of `func`, whose signature is [`signature`].
pub(crate) fn build(program: &Program, func: &mut Function, links: &Links<'_>, isa: &dyn TargetIsa) {
    let mut cx = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(func, &mut cx);
    let entry = guard::enter(&mut b);
    let [inputs, outputs, arena] = [0, 1, 2].map(|i| b.block_params(entry)[i]);
    let env = b.block_params(entry)[b.block_params(entry).len() - 1];
    let mut e = Entry::new(b, program, links, arena);

    e.inputs = e.pointers(inputs, program, false);
    e.outputs = e.pointers(outputs, program, true);
    e.check_sizes();
    if program.arena_bytes > 0 {
        guard::fail_if_null(&mut e.b, arena);
        guard::fail_if_misaligned(&mut e.b, arena, tenon_abi::ARENA_ALIGN, Status::MisalignedArena);
    }
    e.weights = e.find_weights(links.weights);
    if let Some(ask) = links.ask_for_tiles {
        let call = e.b.ins().call(ask, &[]);
        let refused = e.b.inst_results(call)[0];
        guard::fail_if(&mut e.b, refused, Status::NoTiles);
    }
    e.hook = Hook::read(&mut e.b, program, env, isa);
    e.run(&program.steps);
    e.b.finalize(isa.frontend_config());
}

/// Fills in the body of `func`, whose signature is [`signature`], with one step of the program and nothing else: who calls it
/// has had its pointers checked by the entry point.
pub(crate) fn build_step(
    program: &Program,
    step: &Step,
    func: &mut Function,
    links: &Links<'_>,
    isa: &dyn TargetIsa,
) {
    let mut cx = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(func, &mut cx);
    let entry = guard::enter(&mut b);
    let [inputs, outputs, arena] = [0, 1, 2].map(|i| b.block_params(entry)[i]);
    let env = b.block_params(entry)[b.block_params(entry).len() - 1];
    let mut e = Entry::new(b, program, links, arena);
    e.inputs = (0..program.inputs.len()).map(|k| e.pointer(inputs, k)).collect();
    e.outputs = (0..program.outputs.len()).map(|k| e.pointer(outputs, k)).collect();
    e.weights = e.find_weights(links.weights);
    e.hook = Hook::read(&mut e.b, program, env, isa);
    e.run(std::slice::from_ref(step));
    e.b.finalize(isa.frontend_config());
}

struct Entry<'f, 'p> {
    b: FunctionBuilder<'f>,
    program: &'p Program,
    links: &'p Links<'p>,
    /// The caller's pointers.
    inputs: Vec<Value>,
    outputs: Vec<Value>,
    arena: Value,
    /// Where the constant data begin.
    weights: Option<Value>,
    /// The caller's hook, where a kernel has parts.
    hook: Option<Hook>,
    /// How the kernels round.
    rounding: Option<Rounding>,
}

impl<'f, 'p> Entry<'f, 'p> {
    /// With nothing read but the arena's address.
    fn new(b: FunctionBuilder<'f>, program: &'p Program, links: &'p Links<'p>, arena: Value) -> Entry<'f, 'p> {
        Entry { b, program, links, inputs: vec![], outputs: vec![], arena, weights: None, hook: None, rounding: None }
    }

    /// Runs `steps` and returns.
    fn run(&mut self, steps: &[Step]) {
        self.rounding = Rounding::new(&mut self.b, self.links.exchange);
        if let Some(r) = &self.rounding {
            r.begin(&mut self.b);
        }
        self.steps(steps);
        if let Some(r) = &self.rounding {
            r.end(&mut self.b);
        }
        guard::give(&mut self.b, Status::Ok);
    }

    fn steps(&mut self, steps: &[Step]) {
        for s in steps {
            match s {
                Step::Call(call) => {
                    let args: Vec<Value> = call.args.iter().map(|id| self.address(*id)).collect();
                    let (kernel, parts) = (self.links.kernels[call.kernel], self.program.kernels[call.kernel].parts);
                    match (&self.hook, self.links.works[call.kernel], parts) {
                        (Some(hook), Some(work), Some(p)) => {
                            let work = Work { kernel, work, count: p.count, rounding: self.rounding.as_ref() };
                            hook.call(&mut self.b, &work, &args);
                        }
                        _ => {
                            self.b.ins().call(kernel, &args);
                        }
                    }
                }
                Step::If(s) => self.branch(s),
                Step::Loop(s) => self.repeat(s),
            }
        }
    }

    /// The address of the constant data; those that the caller gives are checked.
    fn find_weights(&mut self, weights: Weights) -> Option<Value> {
        match weights {
            Weights::Nowhere => None,
            Weights::Here(blob) => Some(blob.address(&mut self.b)),
            Weights::Given(header) => {
                let entry = self.b.func.layout.entry_block()?;
                let p = self.b.block_params(entry)[3];
                guard::fail_if_null(&mut self.b, p);
                guard::fail_if_misaligned(&mut self.b, p, Program::ALIGN, Status::MisalignedWeights);
                for (k, word) in header.into_iter().enumerate() {
                    let flags = MemFlagsData::new().with_notrap().with_aligned();
                    let found = self.b.ins().load(types::I64, flags, p, 8 * k as i32);
                    let expected = self.b.ins().iconst(types::I64, word.cast_signed());
                    let other = self.b.ins().icmp(IntCC::NotEqual, found, expected);
                    guard::fail_if(&mut self.b, other, Status::WrongWeights);
                }
                Some(p)
            }
        }
    }

    fn address(&mut self, id: BufferId) -> Value {
        match &self.program.buffer(id).kind {
            BufferKind::Input(k) => self.inputs[*k],
            BufferKind::Output(k) => self.outputs[*k],
            BufferKind::Const(_) => {
                let base = self.weights.unwrap_or(self.arena);
                guard::offset(&mut self.b, base, self.links.offsets[id.0 as usize])
            }
            BufferKind::Arena(at) => guard::offset(&mut self.b, self.arena, at.unwrap_or(0)),
        }
    }

    fn branch(&mut self, s: &If) {
        let cond = self.read(s.cond, types::I8);
        let [then, otherwise, end] = [(); 3].map(|()| self.b.create_block());
        self.b.ins().brif(cond, then, &[], otherwise, &[]);
        for (block, steps) in [(then, &s.then), (otherwise, &s.otherwise)] {
            self.b.seal_block(block);
            self.b.switch_to_block(block);
            self.steps(steps);
            self.b.ins().jump(end, &[]);
        }
        self.b.seal_block(end);
        self.b.switch_to_block(end);
    }

    fn repeat(&mut self, s: &Loop) {
        let trip = s.trip.map(|id| self.read(id, types::I64));
        let [head, body, end] = [(); 3].map(|()| self.b.create_block());
        let i = self.b.append_block_param(head, types::I64);
        let zero = self.b.ins().iconst(types::I64, 0);
        self.b.ins().jump(head, &[zero.into()]);
        self.b.switch_to_block(head);
        if let Some(n) = trip {
            let more = self.b.ins().icmp(IntCC::SignedLessThan, i, n);
            let next = self.b.create_block();
            self.b.ins().brif(more, next, &[], end, &[]);
            self.b.seal_block(next);
            self.b.switch_to_block(next);
        }
        match s.cond {
            Some(id) => {
                let more = self.read(id, types::I8);
                self.b.ins().brif(more, body, &[], end, &[]);
            }
            None => {
                self.b.ins().jump(body, &[]);
            }
        }
        self.b.seal_block(body);
        self.b.switch_to_block(body);
        if let Some(iter) = s.iter {
            let at = self.address(iter);
            self.b.ins().store(MemFlagsData::new().with_notrap().with_aligned(), i, at, 0);
        }
        self.steps(&s.body);
        let next = self.b.ins().iadd_imm_s(i, 1);
        self.b.ins().jump(head, &[next.into()]);
        self.b.seal_block(head);
        self.b.seal_block(end);
        self.b.switch_to_block(end);
    }

    /// The one element of a buffer that control reads.
    fn read(&mut self, id: BufferId, ty: Type) -> Value {
        let at = self.address(id);
        self.b.ins().load(ty, MemFlagsData::new().with_notrap().with_aligned(), at, 0)
    }

    /// Loads and checks the pointers of one of the caller's structs.
    fn pointers(&mut self, base: Value, program: &Program, out: bool) -> Vec<Value> {
        let io = if out { &program.outputs } else { &program.inputs };
        if !io.is_empty() {
            guard::fail_if_null(&mut self.b, base);
        }
        (0..io.len())
            .map(|k| {
                let p = self.pointer(base, k);
                let here = program.buffers.iter().find(|b| match b.kind {
                    BufferKind::Input(i) => !out && i == k,
                    BufferKind::Output(i) => out && i == k,
                    _ => false,
                });
                // A tensor without elements may have any pointer.
                if here.is_some_and(|b| b.bytes() > 0) {
                    guard::fail_if_null(&mut self.b, p);
                    guard::fail_if_misaligned(&mut self.b, p, io[k].fact.dtype.size(), Status::MisalignedBuffer);
                }
                p
            })
            .collect()
    }

    /// Checks the sizes of the run.
    fn check_sizes(&mut self) {
        for (k, (least, most)) in &self.program.bounded {
            let flags = MemFlagsData::new().with_notrap().with_aligned();
            let n = self.b.ins().load(types::I64, flags, self.inputs[*k], 0);
            // Both ends in one comparison without sign.
            let least_value = self.b.ins().iconst(types::I64, *least);
            let room = self.b.ins().iconst(types::I64, most - least);
            let from = self.b.ins().isub(n, least_value);
            let beyond = self.b.ins().icmp(IntCC::UnsignedGreaterThan, from, room);
            guard::fail_if(&mut self.b, beyond, Status::WrongLength);
        }
    }

    /// Pointer `k` of one of the caller's structs.
    fn pointer(&mut self, base: Value, k: usize) -> Value {
        let flags = MemFlagsData::new().with_notrap().with_aligned();
        self.b.ins().load(types::I64, flags, base, 8 * k as i32)
    }
}

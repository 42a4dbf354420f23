//! Running the steps of a program.

use super::compile::{self, Code};
use super::run::{Machine, View};
use super::{InterpError, Options, arguments, poison_outputs};
use crate::{BufferId, BufferKind, Call, Program, Step};
use std::borrow::Cow;
use tenon_base::DType;

/// One run of one program.
pub(super) struct Run<'r, 'm> {
    pub(super) program: &'r Program,
    pub(super) options: Options,
    pub(super) views: &'r [View],
    pub(super) memories: &'r mut Vec<Cow<'m, [u8]>>,
    /// Kernels that were called before.
    pub(super) compiled: Vec<Option<Code>>,
    /// Iterations of loops so far.
    pub(super) iterations: u64,
}

impl Run<'_, '_> {
    pub(super) fn block(&mut self, steps: &[Step]) -> Result<(), InterpError> {
        for s in steps {
            match s {
                Step::Call(c) => self.call(c)?,
                Step::If(s) => {
                    let taken = self.read(s.cond, DType::Bool)? != 0;
                    self.block(if taken { &s.then } else { &s.otherwise })?;
                }
                Step::Loop(s) => {
                    let trip = s.trip.map(|id| self.read(id, DType::I64)).transpose()?;
                    let mut i = 0i64;
                    while trip.is_none_or(|n| i < n)
                        && s.cond.map(|id| self.read(id, DType::Bool)).transpose()?.is_none_or(|c| c != 0)
                    {
                        if let Some(iter) = s.iter {
                            self.write(iter, i)?;
                        }
                        self.block(&s.body)?;
                        i += 1;
                        self.iterations += 1;
                        if self.iterations > self.options.max_steps {
                            let limit = self.options.max_steps;
                            return Err(InterpError::Steps { kernel: self.program.name.clone(), limit });
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn call(&mut self, call: &Call) -> Result<(), InterpError> {
        let Some(kernel) = self.program.kernels.get(call.kernel) else {
            return Err(InterpError::Arguments(format!("a call of kernel {}, which is not there", call.kernel)));
        };
        let args = arguments(self.program, kernel, call, self.views)?;
        poison_outputs(kernel, &args, self.memories);
        let code = match &mut self.compiled[call.kernel] {
            Some(code) => code,
            slot => slot.insert(compile::compile(kernel, &self.options)?),
        };
        Machine::new(kernel, code, &args, self.memories, &self.options).run()
    }

    /// The one element of a buffer that control reads.
    fn view(&self, id: BufferId, dtype: DType) -> Result<View, InterpError> {
        match self.views.get(id.0 as usize) {
            Some(v) if (v.dtype, v.len) == (dtype, 1) => Ok(*v),
            _ => Err(InterpError::Arguments(format!("control needs one {dtype}: buffer {} is none", id.0))),
        }
    }

    fn read(&self, id: BufferId, dtype: DType) -> Result<i64, InterpError> {
        let bytes = &self.memories[self.view(id, dtype)?.memory][self.view(id, dtype)?.range()];
        Ok(match <[u8; 8]>::try_from(bytes) {
            Ok(b) => i64::from_le_bytes(b),
            Err(_) => i64::from(bytes.iter().any(|b| *b != 0)),
        })
    }

    fn write(&mut self, id: BufferId, value: i64) -> Result<(), InterpError> {
        let view = self.view(id, DType::I64)?;
        if !matches!(self.program.buffer(id).kind, BufferKind::Arena(_)) {
            return Err(InterpError::Arguments(format!("a loop counts in buffer {}, outside of the arena", id.0)));
        }
        self.memories[view.memory].to_mut()[view.range()].copy_from_slice(&value.to_le_bytes());
        Ok(())
    }
}

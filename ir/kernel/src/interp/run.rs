//! Running compiled code on memory.

use super::compile::{Code, Instr, Node, Op};
use super::contract::{ContractNode, Factor};
use super::{InterpError, Options};
use crate::{Buf, Kernel};
use std::borrow::Cow;
use tenon_base::DType;

/// Where one kernel parameter lives.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// Position in the list of memories.
    pub(super) memory: usize,
    /// First byte.
    pub(super) offset: usize,
    /// Elements.
    pub(super) len: usize,
    pub(super) dtype: DType,
}

impl View {
    /// Its bytes.
    pub(super) fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len * self.dtype.size()
    }
}

/// One run of one kernel.
pub(super) struct Machine<'r, 'm> {
    kernel: &'r Kernel,
    code: &'r Code,
    views: &'r [View],
    memories: &'r mut [Cow<'m, [u8]>],
    registers: Vec<u64>,
    steps: u64,
    max_steps: u64,
}

impl<'r, 'm> Machine<'r, 'm> {
    pub(super) fn new(
        kernel: &'r Kernel,
        code: &'r Code,
        views: &'r [View],
        memories: &'r mut [Cow<'m, [u8]>],
        options: &Options,
    ) -> Machine<'r, 'm> {
        let mut registers = vec![0; code.registers];
        for &(reg, bits) in &code.consts {
            registers[reg] = bits;
        }
        Machine { kernel, code, views, memories, registers, steps: 0, max_steps: options.max_steps }
    }

    /// Runs the kernel; its parts from the last to the first, so that what depends on their order shows.
    pub(super) fn run(&mut self) -> Result<(), InterpError> {
        let Some((register, count)) = self.code.parts else { return self.block(&self.code.body) };
        for part in (0..count).rev() {
            self.registers[register] = part as u64;
            self.block(&self.code.body)?;
        }
        Ok(())
    }

    pub(super) fn step(&mut self, n: u64) -> Result<(), InterpError> {
        self.steps = self.steps.saturating_add(n);
        if self.steps > self.max_steps {
            return Err(InterpError::Steps { kernel: self.kernel.name.clone(), limit: self.max_steps });
        }
        Ok(())
    }

    fn out_of_bounds(&self, buf: Buf, index: i64, lanes: usize) -> InterpError {
        let b = self.kernel.buffer(buf);
        InterpError::Bounds { kernel: self.kernel.name.clone(), buffer: b.name.clone(), index, lanes, len: b.len }
    }

    /// What a register holds.
    pub(super) fn register(&self, n: usize) -> u64 {
        self.registers[n]
    }

    /// The memory that `view` is in.
    pub(super) fn memory(&self, view: View) -> &[u8] {
        &self.memories[view.memory]
    }

    /// The same, to be written.
    pub(super) fn memory_mut(&mut self, view: View) -> &mut [u8] {
        self.memories[view.memory].to_mut()
    }

    /// The memory and first byte of elements `index..index + n` of `buf`.
    pub(super) fn locate(&self, buf: Buf, index: i64, n: usize) -> Result<(View, usize), InterpError> {
        let view = self.views[buf.0 as usize];
        match usize::try_from(index) {
            Ok(i) if i <= view.len && n <= view.len - i => Ok((view, view.offset + i * view.dtype.size())),
            _ => Err(self.out_of_bounds(buf, index, n)),
        }
    }

    pub(super) fn instrs(&mut self, span: &std::ops::Range<usize>) -> Result<(), InterpError> {
        let code = self.code;
        for Instr { op, o } in &code.instrs[span.clone()] {
            match op {
                Op::Map(f) => f(&mut self.registers, *o),
                Op::Cast(f) => {
                    for k in 0..o.n {
                        self.registers[o.d + k] = f(self.registers[o.a + k]);
                    }
                }
                Op::Load(buf) => {
                    let (view, at) = self.locate(*buf, self.registers[o.a] as i64, o.n)?;
                    let bytes = &self.memories[view.memory][at..];
                    read(bytes, view.dtype, &mut self.registers[o.d..o.d + o.n]);
                }
            }
        }
        Ok(())
    }

    fn block(&mut self, nodes: &[Node]) -> Result<(), InterpError> {
        nodes.iter().try_for_each(|n| self.node(n))
    }

    fn node(&mut self, node: &Node) -> Result<(), InterpError> {
        match node {
            Node::Eval(code) => self.instrs(code),
            Node::Store { code, buf, index, value, lanes } => {
                self.instrs(code)?;
                let (view, at) = self.locate(*buf, self.registers[*index] as i64, *lanes)?;
                let bytes = &mut self.memories[view.memory].to_mut()[at..];
                write(bytes, view.dtype, &self.registers[*value..*value + *lanes]);
                Ok(())
            }
            Node::For { code, lo, hi, step, var, body } => {
                self.instrs(code)?;
                let (mut i, hi) = (self.registers[*lo] as i64, self.registers[*hi] as i64);
                while i < hi {
                    self.step(1)?;
                    self.registers[*var] = i as u64;
                    self.block(body)?;
                    let Some(next) = i.checked_add(*step) else { break };
                    i = next;
                }
                Ok(())
            }
            Node::If { code, cond, then, otherwise } => {
                self.instrs(code)?;
                let taken = self.registers[*cond] != 0;
                self.block(if taken { then } else { otherwise })
            }
            Node::While { code, cond, body } => loop {
                self.instrs(code)?;
                if self.registers[*cond] == 0 {
                    return Ok(());
                }
                self.step(1)?;
                self.block(body)?;
            },
            Node::Contract(c) => self.contract(c),
            Node::Tiles(t) => self.tiles(t),
        }
    }

    fn contract(&mut self, c: &ContractNode) -> Result<(), InterpError> {
        let (outer, inner) = match c.reduce.split_last() {
            Some((&(_, n), outer)) => (outer, n),
            None => (&c.reduce[..], 1),
        };
        self.odometer(&c.dims, &mut |m| {
            m.instrs(&c.init.0)?;
            let mut acc = m.registers[c.init.1];
            m.odometer(outer, &mut |m| {
                m.step(inner as u64)?;
                acc = m.dot(c, inner, acc)?;
                Ok(())
            })?;
            m.registers[c.acc] = acc;
            m.node(&c.store)
        })
    }

    /// Calls `f` with the registers of `dims` at every point, the last dim fastest.
    pub(super) fn odometer(
        &mut self,
        dims: &[(usize, i64)],
        f: &mut dyn FnMut(&mut Self) -> Result<(), InterpError>,
    ) -> Result<(), InterpError> {
        match dims {
            [] => f(self),
            [(reg, extent), rest @ ..] => {
                for i in 0..*extent {
                    self.registers[*reg] = i as u64;
                    self.odometer(rest, f)?;
                }
                Ok(())
            }
        }
    }

    /// `acc + Σ a · b` over the innermost reduction loop of `n` iterations.
    fn dot(&mut self, c: &ContractNode, n: i64, mut acc: u64) -> Result<u64, InterpError> {
        let (a, b) = (self.elements(&c.a, n)?, self.elements(&c.b, n)?);
        let (ma, mb) = (&self.memories[a.0.memory], &self.memories[b.0.memory]);
        let (mut ia, mut ib) = (a.1, b.1);
        if c.acc_dtype == DType::F32 && c.a.cast.is_none() && c.b.cast.is_none() {
            let mut sum = f32::from_bits(acc as u32);
            let at = |m: &[u8], i: isize| {
                let i = i as usize;
                f32::from_le_bytes([m[i], m[i + 1], m[i + 2], m[i + 3]])
            };
            for _ in 0..n {
                sum += at(ma, ia) * at(mb, ib);
                (ia, ib) = (ia + a.2, ib + b.2);
            }
            return Ok(u64::from(sum.to_bits()));
        }
        let load = |m: &[u8], i: isize, view: View, f: &Factor| {
            let mut lane = [0];
            read(&m[i as usize..], view.dtype, &mut lane);
            f.cast.map_or(lane[0], |cast| cast(lane[0]))
        };
        for _ in 0..n {
            acc = (c.multiply_add)(load(ma, ia, a.0, &c.a), load(mb, ib, b.0, &c.b), acc);
            (ia, ib) = (ia + a.2, ib + b.2);
        }
        Ok(acc)
    }

    /// The `n` elements of `f` in the innermost reduction loop: view, first byte, bytes from one to the next. All of
    /// them are within bounds.
    fn elements(&self, f: &Factor, n: i64) -> Result<(View, isize, isize), InterpError> {
        let first =
            f.terms.iter().fold(f.base, |i, &(reg, c)| i.wrapping_add(c.wrapping_mul(self.registers[reg] as i64)));
        // An overflow of the last index is an access out of bounds as well.
        let last = f.stride.checked_mul(n - 1).and_then(|d| d.checked_add(first)).unwrap_or(i64::MIN);
        let (view, at) = self.locate(f.buf, first, 1)?;
        self.locate(f.buf, last, 1)?;
        Ok((view, at as isize, f.stride as isize * view.dtype.size() as isize))
    }
}

/// Reads elements into lanes.
fn read(bytes: &[u8], dtype: DType, lanes: &mut [u64]) {
    match (dtype, dtype.size()) {
        (DType::Bool, _) => lanes.iter_mut().zip(bytes).for_each(|(l, b)| *l = u64::from(*b != 0)),
        (_, 1) => lanes.iter_mut().zip(bytes).for_each(|(l, b)| *l = u64::from(*b)),
        (_, 2) => {
            let elements = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
            lanes.iter_mut().zip(elements).for_each(|(l, b)| *l = u64::from(b));
        }
        (_, 4) => {
            let elements = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            lanes.iter_mut().zip(elements).for_each(|(l, b)| *l = u64::from(b));
        }
        _ => {
            let elements =
                bytes.chunks_exact(8).map(|b| u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]));
            lanes.iter_mut().zip(elements).for_each(|(l, b)| *l = b);
        }
    }
}

/// Writes lanes as elements.
fn write(bytes: &mut [u8], dtype: DType, lanes: &[u64]) {
    let size = dtype.size();
    for (l, b) in lanes.iter().zip(bytes.chunks_exact_mut(size)) {
        b.copy_from_slice(&l.to_le_bytes()[..size]);
    }
}

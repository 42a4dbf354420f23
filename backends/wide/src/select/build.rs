//! Writing instructions: operands into registers, one function for each shape of instruction.

use super::Select;
use super::value::Row;
use crate::lir::{Alu, Arg, Base, BlockData, Cond, Inst, Mem, Op, Shift, Width};
use crate::table::V;
use regalloc2::{Block, VReg};

impl Select<'_> {
    /// Adds an instruction to the present block.
    pub(super) fn push(&mut self, op: Op, args: impl IntoIterator<Item = Arg>) {
        let inst = Inst { op, args: args.into_iter().collect() };
        self.func.blocks[self.here.index()].insts.push(inst);
    }

    /// A new block, to be placed later.
    pub(super) fn new_block(&mut self) -> Block {
        self.func.block()
    }

    /// Goes on in `b`, behind all that is placed.
    pub(super) fn place(&mut self, b: Block) {
        self.func.order.push(b);
        self.here = b;
    }

    /// Data of a block.
    pub(super) fn block_data(&mut self, b: Block) -> &mut BlockData {
        &mut self.func.blocks[b.index()]
    }

    /// Ends the present block with a jump.
    pub(super) fn jump(&mut self, to: Block, args: Vec<VReg>) {
        self.push(Op::Jump, []);
        self.func.edge(self.here, to, args);
    }

    /// Ends the present block: to `yes` if the comparison holds, else to `no`. Both must have no other predecessor.
    pub(super) fn branch(&mut self, cond: Cond, size: u8, ab: (VReg, Arg), yes: Block, no: Block) {
        self.push(Op::Branch(cond, size), [Arg::Use(ab.0), ab.1]);
        self.func.edge(self.here, yes, vec![]);
        self.func.edge(self.here, no, vec![]);
    }

    /// Where the bytes of a constant are.
    fn pooled(&mut self, id: u32) -> Mem {
        let bytes = self.constants[id as usize].clone();
        let pool = &mut self.func.pool;
        let at = *self.pool.entry(bytes).or_insert_with_key(|bytes| {
            // Aligned to its size, so that no access crosses a line.
            pool.resize(pool.len().next_multiple_of(bytes.len().next_power_of_two()), 0);
            let at = pool.len() as u32;
            pool.extend_from_slice(bytes);
            at
        });
        self.func.pool_align = self.func.pool_align.max(self.constants[id as usize].len().next_power_of_two());
        Mem { base: Base::Pool(at), index: None, disp: 0, broadcast: false }
    }

    /// The element of 4 or 8 bytes that constant `id` repeats: a load that repeats it costs no more than one of the whole.
    fn repeats(&self, id: u32) -> Option<Vec<u8>> {
        let bytes = &self.constants[id as usize];
        let all_same = |n: &usize| bytes.len() > *n && bytes.chunks(*n).all(|c| *c == bytes[..*n]);
        [4, 8].iter().find(|n| all_same(n)).map(|n| bytes[..*n].to_vec())
    }

    /// `row` as an operand that may be memory.
    pub(super) fn operand(&mut self, row: Row) -> Arg {
        match row {
            Row::Reg(v) => Arg::Use(v),
            Row::Mem(m) => Arg::Mem(m),
            Row::Const(id) => Arg::Mem(self.pooled(id)),
            Row::Imm(v) => Arg::Imm(v),
        }
    }

    /// `row`, of width `w`, in a vector register; `bytes` is the size of the lane for scalars.
    pub(super) fn in_reg(&mut self, row: Row, w: Width, bytes: usize) -> VReg {
        match row {
            Row::Reg(v) => v,
            Row::Const(id) if self.constants[id as usize].iter().all(|b| *b == 0) => {
                let d = self.vec_reg();
                self.push(Op::Zero, [Arg::Def(d)]);
                d
            }
            Row::Imm(v) => {
                // A scalar that is not a float, as the first lane.
                let g = self.gen_reg();
                self.push(Op::MovImm, [Arg::Def(g), Arg::Imm(v)]);
                self.v(V::MovqFrom, Width::X, &[Arg::Use(g)])
            }
            Row::Const(id) if w != Width::S && self.repeats(id).is_some() => {
                // One element in the pool is enough.
                let element = self.repeats(id).unwrap_or_default();
                let (one, bytes) = (self.constant(element.clone()), element.len());
                self.broadcast(one, bytes, true, w)
            }
            Row::Mem(m) if m.broadcast => self.broadcast(Row::Mem(Mem { broadcast: false, ..m }), bytes, true, w),
            row => {
                let m = self.operand(row);
                let op = match (w, bytes) {
                    (Width::S, 8) => V::Movsd,
                    (Width::S, _) => V::Movss,
                    _ => V::Movups,
                };
                self.v(op, if w == Width::S { Width::X } else { w }, &[m])
            }
        }
    }

    /// An instruction with a new vector register as result.
    pub(super) fn v(&mut self, op: V, w: Width, args: &[Arg]) -> VReg {
        let d = self.vec_reg();
        self.push(Op::V(op, w), std::iter::once(Arg::Def(d)).chain(args.iter().copied()));
        d
    }

    /// `op a, b`; `bytes` is the size of a lane.
    pub(super) fn v2(&mut self, op: V, w: Width, bytes: usize, a: Row, b: Row) -> Row {
        let a = self.in_reg(a, w, bytes);
        let b = self.operand(b);
        Row::Reg(self.v(op, w, &[Arg::Use(a), b]))
    }

    /// `op a, b` where the order does not matter: memory comes second.
    pub(super) fn v2c(&mut self, op: V, w: Width, bytes: usize, a: Row, b: Row) -> Row {
        match (a, b) {
            (Row::Reg(_), _) => self.v2(op, w, bytes, a, b),
            (_, Row::Reg(_)) => self.v2(op, w, bytes, b, a),
            // A constant stays in memory, of two loads either may.
            (Row::Const(_), _) => self.v2(op, w, bytes, b, a),
            _ => self.v2(op, w, bytes, a, b),
        }
    }

    /// `op a`
    pub(super) fn v1(&mut self, op: V, w: Width, a: Row) -> Row {
        let a = self.operand(a);
        Row::Reg(self.v(op, w, &[a]))
    }

    /// `op a, imm` of a register or memory.
    pub(super) fn v1i(&mut self, op: V, w: Width, a: Row, imm: i64) -> Row {
        let a = self.operand(a);
        Row::Reg(self.v(op, w, &[a, Arg::Imm(imm)]))
    }

    /// `op a, imm` of a register.
    pub(super) fn vri(&mut self, op: V, w: Width, a: Row, imm: i64) -> Row {
        let a = self.in_reg(a, w, 0);
        Row::Reg(self.v(op, w, &[Arg::Use(a), Arg::Imm(imm)]))
    }

    /// `op a, b, imm`
    pub(super) fn v2i(&mut self, op: V, w: Width, a: Row, b: Row, imm: i64) -> Row {
        let a = self.in_reg(a, w, 0);
        let b = self.operand(b);
        Row::Reg(self.v(op, w, &[Arg::Use(a), b, Arg::Imm(imm)]))
    }

    /// The scalar `row` in a general register; `bytes` and `signed` say how it lies in memory.
    pub(super) fn in_general(&mut self, row: Row, bytes: usize, signed: bool) -> VReg {
        match row {
            Row::Reg(v) => v,
            Row::Imm(v) => self.imm(v),
            row => {
                let m = self.operand(row);
                let d = self.gen_reg();
                self.push(Op::Load { bytes: bytes as u8, signed }, [Arg::Def(d), m]);
                d
            }
        }
    }

    /// A constant in a general register.
    pub(super) fn imm(&mut self, v: i64) -> VReg {
        let d = self.gen_reg();
        self.push(Op::MovImm, [Arg::Def(d), Arg::Imm(v)]);
        d
    }

    /// `a op b` in general registers of `size` bytes.
    pub(super) fn alu(&mut self, op: Alu, size: u8, a: VReg, b: VReg) -> VReg {
        let d = self.gen_reg();
        self.push(Op::Alu(op, size), [Arg::Mod(d, a), Arg::Use(b)]);
        d
    }

    /// `a op v` in general registers of `size` bytes.
    pub(super) fn alu_imm(&mut self, op: Alu, size: u8, a: VReg, v: i64) -> VReg {
        let Some(v) = fits(v, size) else {
            let b = self.imm(v);
            return self.alu(op, size, a, b);
        };
        let d = self.gen_reg();
        match op {
            Alu::Imul => self.push(Op::MulImm(size), [Arg::Def(d), Arg::Use(a), Arg::Imm(v)]),
            // Three operands.
            Alu::Add if size == 8 => {
                let m = Mem { base: Base::Reg(a), index: None, disp: v as i32, broadcast: false };
                self.push(Op::Lea, [Arg::Def(d), Arg::Mem(m)]);
            }
            op => self.push(Op::Alu(op, size), [Arg::Mod(d, a), Arg::Imm(v)]),
        }
        d
    }

    /// A shift by a constant below the register's bits.
    pub(super) fn shift_imm(&mut self, op: Shift, size: u8, a: VReg, by: u32) -> VReg {
        if by == 0 {
            return a;
        }
        let d = self.gen_reg();
        self.push(Op::ShiftImm(op, size), [Arg::Mod(d, a), Arg::Imm(i64::from(by))]);
        d
    }

    /// `a` or `b` as the second operand of a comparison of `size` bytes.
    pub(super) fn compared(&mut self, row: Row, size: u8, bytes: usize, signed: bool) -> Arg {
        match row {
            Row::Imm(v) => match fits(v, size) {
                Some(v) => Arg::Imm(v),
                None => Arg::Use(self.imm(v)),
            },
            row => Arg::Use(self.in_general(row, bytes, signed)),
        }
    }
}

/// `v` as an immediate of an instruction on `size` bytes.
fn fits(v: i64, size: u8) -> Option<i64> {
    if size == 8 { i32::try_from(v).ok().map(i64::from) } else { Some(i64::from(v as i32)) }
}

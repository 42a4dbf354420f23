//! Values of any lane count in registers; loads and stores of them.

use super::Lower;
use cranelift_codegen::ir::{
    ConstantData, Endianness, InstBuilder, InstructionData, MemFlagsData, Opcode, Type as Clif, Value, ValueDef,
    types,
};
use cranelift_frontend::Variable;
use tenon_base::{DType, Scalar};
use tenon_kernel::{Buf, Type};

/// A value in registers.
///
/// One lane is one scalar. More lanes are `ceil(lanes / n)` registers of `n = 16 / lane` lanes each; the last may be
/// part full, its other lanes hold anything. On machines without vectors `n` is 1.
///
/// `f16` is its bits, in integers. A scalar `bool` is an 8-bit integer 0 or 1; lanes of `bool` in vectors are masks, all zeros or
/// all ones, as wide as what they were compared from.
#[derive(Clone, Debug)]
pub(super) struct Val {
    /// Element type and lanes.
    pub(super) ty: Type,
    /// Bytes of a lane in a register: the element's size, for masks anything.
    pub(super) lane: usize,
    /// The registers, lane 0 first.
    pub(super) regs: Vec<Value>,
    /// The scalar that every lane equals, if known.
    pub(super) splat: Option<Value>,
}

/// What a variable of the kernel is bound to.
#[derive(Clone, Debug)]
pub(super) struct Binding {
    /// Its value, or for `var` its type and layout.
    pub(super) val: Val,
    /// The mutable registers of a `var`.
    pub(super) cells: Vec<Variable>,
    /// Loops around the definition.
    pub(super) depth: u32,
}

/// The CLIF type of one element outside vectors.
pub(super) fn scalar_type(elem: DType) -> Clif {
    match elem {
        DType::F32 => types::F32,
        DType::F64 => types::F64,
        DType::Bool | DType::I8 | DType::U8 => types::I8,
        DType::F16 | DType::I16 | DType::U16 => types::I16,
        DType::I32 | DType::U32 => types::I32,
        DType::I64 | DType::U64 => types::I64,
        stored => scalar_type(stored.carrier()),
    }
}

/// The integer type of `bytes` bytes.
pub(super) fn int_type(bytes: usize) -> Clif {
    match bytes {
        1 => types::I8,
        2 => types::I16,
        4 => types::I32,
        _ => types::I64,
    }
}

/// Flags of a bitcast between vectors: lane 0 is the lowest bytes.
pub(super) fn little() -> MemFlagsData {
    MemFlagsData::new().with_endianness(Endianness::Little)
}

impl Lower<'_> {
    /// Whether a value of `ty` is in scalars, one a lane.
    pub(super) fn in_scalars(&self, ty: Type) -> bool {
        ty.lanes == 1 || !self.machine.vectors
    }

    /// Whether a value of `ty` is a vector of masks.
    pub(super) fn is_mask(&self, ty: Type) -> bool {
        ty.elem == DType::Bool && !self.in_scalars(ty)
    }

    /// Registers of a value of `lanes` lanes of `lane` bytes.
    pub(super) fn registers(&self, lanes: u16, lane: usize) -> usize {
        usize::from(lanes).div_ceil(if lanes == 1 { 1 } else { self.machine.per_register(lane) })
    }

    /// The CLIF type of the registers of a value of `ty` with lanes of `lane` bytes.
    pub(super) fn reg_type(&self, ty: Type, lane: usize) -> Clif {
        if self.in_scalars(ty) {
            return scalar_type(ty.elem);
        }
        let scalar = if ty.elem == DType::Bool { int_type(lane) } else { scalar_type(ty.elem) };
        self.vector_of(scalar)
    }

    /// The 128-bit vector of `scalar`.
    pub(super) fn vector_of(&self, scalar: Clif) -> Clif {
        scalar.by(16 / scalar.bytes()).expect("a power of two of lanes")
    }

    /// A value of `ty` in `regs`, lanes as wide as the element.
    pub(super) fn val(&self, ty: Type, regs: Vec<Value>) -> Val {
        debug_assert_eq!(regs.len(), self.registers(ty.lanes, ty.elem.size()));
        Val { ty, lane: ty.elem.size(), regs, splat: None }
    }

    /// A scalar value.
    pub(super) fn scalar(&self, elem: DType, v: Value) -> Val {
        Val { ty: Type::scalar(elem), lane: elem.size(), regs: vec![v], splat: Some(v) }
    }

    /// A constant of the scalar integer type `ty`.
    pub(super) fn iconst(&mut self, ty: Clif, v: i64) -> Value {
        // CLIF wants the bits beyond the type to be 0.
        let bits = ty.bits();
        let v = if bits < 64 { v & ((1 << bits) - 1) } else { v };
        self.ins().iconst(ty, v)
    }

    /// The value of an integer scalar that is a constant.
    pub(super) fn constant_value(&self, v: Value) -> Option<i64> {
        let dfg = &self.b.func.dfg;
        match dfg.value_def(v) {
            ValueDef::Result(inst, 0) => match dfg.insts[inst] {
                InstructionData::UnaryImm { opcode: Opcode::Iconst, imm } => Some(imm.bits()),
                _ => None,
            },
            _ => None,
        }
    }

    /// A scalar constant.
    pub(super) fn constant(&mut self, s: Scalar) -> Value {
        match s {
            Scalar::Float(DType::F32, v) => self.ins().f32const(v as f32),
            Scalar::Float(DType::F64, v) => self.ins().f64const(v),
            s => {
                let mut bytes = [0; 8];
                let le = s.to_le_bytes();
                bytes[..le.len()].copy_from_slice(&le);
                self.iconst(scalar_type(s.dtype()), i64::from_le_bytes(bytes))
            }
        }
    }

    /// A 128-bit constant of type `ty` that repeats `pattern`.
    pub(super) fn vconst(&mut self, ty: Clif, pattern: &[u8]) -> Value {
        let bytes: Vec<u8> = pattern.iter().copied().cycle().take(16).collect();
        let constant = self.b.func.dfg.constants.insert(ConstantData::from(bytes.as_slice()));
        self.ins().vconst(ty, constant)
    }

    /// The integer `v` in a scalar or in every lane of `ty`.
    pub(super) fn int_like(&mut self, ty: Clif, v: i64) -> Value {
        if ty.is_vector() {
            let size = ty.lane_type().bytes() as usize;
            self.vconst(ty, &v.to_le_bytes()[..size])
        } else {
            self.iconst(ty, v)
        }
    }

    /// The float `v` in a scalar or in every lane of `ty`.
    pub(super) fn float_like(&mut self, ty: Clif, v: f64) -> Value {
        match (ty.is_vector(), ty.lane_type() == types::F32) {
            (true, true) => self.vconst(ty, &(v as f32).to_le_bytes()),
            (true, false) => self.vconst(ty, &v.to_le_bytes()),
            (false, true) => self.ins().f32const(v as f32),
            (false, false) => self.ins().f64const(v),
        }
    }

    /// The same bits as CLIF type `ty`.
    pub(super) fn bits_as(&mut self, ty: Clif, v: Value) -> Value {
        if self.b.func.dfg.value_type(v) == ty {
            return v;
        }
        let flags = if ty.is_vector() { little() } else { MemFlagsData::new() };
        self.ins().bitcast(ty, flags, v)
    }

    /// The CLIF type of `v`.
    pub(super) fn type_of(&self, v: Value) -> Clif {
        self.b.func.dfg.value_type(v)
    }

    /// Bytes picked from `a` (0..16) and `b` (16..32).
    pub(super) fn shuffle(&mut self, a: Value, b: Value, mask: [u8; 16]) -> Value {
        let (a, b) = (self.bits_as(types::I8X16, a), self.bits_as(types::I8X16, b));
        let imm = self.b.func.dfg.immediates.push(ConstantData::from(mask.as_slice()));
        self.ins().shuffle(a, b, imm)
    }

    /// `scalar` in every one of `lanes` lanes; masks take `lane` bytes.
    pub(super) fn splat(&mut self, elem: DType, scalar: Value, lanes: u16, lane: usize) -> Val {
        let ty = Type::vector(elem, lanes);
        let n = self.registers(lanes, lane);
        let reg = if self.in_scalars(ty) {
            scalar
        } else {
            let reg_ty = self.reg_type(ty, lane);
            let one = if elem == DType::Bool {
                // 0 or 1 to all zeros or all ones.
                let wide = self.resize_int(scalar, reg_ty.lane_type(), false);
                self.ins().ineg(wide)
            } else {
                scalar
            };
            self.ins().splat(reg_ty, one)
        };
        Val { ty, lane, regs: vec![reg; n], splat: Some(scalar) }
    }

    /// A scalar integer extended or cut to `to`.
    pub(super) fn resize_int(&mut self, v: Value, to: Clif, signed: bool) -> Value {
        let from = self.type_of(v);
        match from.bytes().cmp(&to.bytes()) {
            std::cmp::Ordering::Equal => v,
            std::cmp::Ordering::Greater => self.ins().ireduce(to, v),
            std::cmp::Ordering::Less if signed => self.ins().sextend(to, v),
            std::cmp::Ordering::Less => self.ins().uextend(to, v),
        }
    }

    /// One lane as a scalar.
    pub(super) fn extract(&mut self, v: &Val, i: u16) -> Value {
        if let Some(s) = v.splat {
            return s;
        }
        if self.in_scalars(v.ty) {
            return v.regs[usize::from(i)];
        }
        let n = self.machine.per_register(v.lane);
        let lane = self.ins().extractlane(v.regs[usize::from(i) / n], (usize::from(i) % n) as u8);
        if v.ty.elem != DType::Bool {
            return lane;
        }
        let byte = self.resize_int(lane, types::I8, false);
        let one = self.iconst(types::I8, 1);
        self.ins().band(byte, one)
    }

    /// Every lane as a scalar.
    pub(super) fn unpack(&mut self, v: &Val) -> Vec<Value> {
        (0..v.ty.lanes).map(|i| self.extract(v, i)).collect()
    }

    /// A vector of scalars (`bool`: 0 or 1).
    pub(super) fn pack(&mut self, elem: DType, lanes: &[Value]) -> Val {
        let ty = Type::vector(elem, lanes.len() as u16);
        let lane = elem.size();
        if self.in_scalars(ty) {
            return Val { ty, lane, regs: lanes.to_vec(), splat: None };
        }
        let n = self.machine.per_register(lane);
        let reg_ty = self.reg_type(ty, lane);
        let regs = lanes
            .chunks(n)
            .map(|chunk| {
                let mut reg = self.first_lane(reg_ty, chunk[0]);
                for (i, v) in chunk.iter().enumerate().skip(1) {
                    reg = self.ins().insertlane(reg, *v, i as u8);
                }
                if elem == DType::Bool { self.ins().ineg(reg) } else { reg }
            })
            .collect();
        Val { ty, lane, regs, splat: None }
    }

    /// A register whose lane 0 is `v`.
    fn first_lane(&mut self, ty: Clif, v: Value) -> Value {
        if self.type_of(v).bytes() >= 4 {
            return self.ins().scalar_to_vector(ty, v);
        }
        // x86 moves 32 bits or more between its register files.
        let wide = self.resize_int(v, types::I32, false);
        let reg = self.ins().scalar_to_vector(types::I32X4, wide);
        self.bits_as(ty, reg)
    }

    /// Reads `lanes` elements of `buf` from `addr + offset` bytes.
    pub(super) fn load_val(&mut self, buf: Buf, lanes: u16, addr: Value, offset: i32) -> Val {
        let elem = self.kernel.buffer(buf).dtype;
        let ty = Type::vector(elem, lanes);
        let size = elem.size();
        if self.in_scalars(ty) {
            let flags = self.flags(buf);
            let regs: Vec<Value> = (0..i32::from(lanes))
                .map(|i| {
                    let v = self.ins().load(scalar_type(elem), flags, addr, offset + i * size as i32);
                    if elem == DType::Bool { self.is_nonzero(v) } else { v }
                })
                .collect();
            let splat = (lanes == 1).then(|| regs[0]);
            return Val { ty, lane: size, regs, splat };
        }
        let n = self.machine.per_register(size);
        let reg_ty = self.reg_type(ty, size);
        let regs = (0..usize::from(lanes).div_ceil(n))
            .map(|r| {
                let bytes = (usize::from(lanes) - r * n).min(n) * size;
                let v = self.load_bytes(buf, reg_ty, bytes, addr, offset + 16 * r as i32);
                if elem == DType::Bool { self.is_nonzero(v) } else { v }
            })
            .collect();
        Val { ty, lane: size, regs, splat: None }
    }

    /// `bytes` bytes of memory in a register; 0 or anything above them.
    fn load_bytes(&mut self, buf: Buf, ty: Clif, bytes: usize, addr: Value, offset: i32) -> Value {
        let flags = self.flags(buf);
        if bytes == 16 && self.machine.aligned_operands && ty != types::I32X4 {
            // Cranelift folds an unaligned load into a packed comparison of floats; a load of another type it does not.
            let v = self.ins().load(types::I32X4, flags, addr, offset);
            return self.bits_as(ty, v);
        }
        if bytes == 16 {
            return self.ins().load(ty, flags, addr, offset);
        }
        let mut reg = None;
        for (at, piece) in pieces(bytes) {
            let v = self.ins().load(piece, flags, addr, offset + at as i32);
            let vec = self.vector_of(piece);
            reg = Some(match reg {
                None => self.first_lane(vec, v),
                Some(r) => {
                    let r = self.bits_as(vec, r);
                    self.ins().insertlane(r, v, (at / piece.bytes() as usize) as u8)
                }
            });
        }
        self.bits_as(ty, reg.expect("at least one byte"))
    }

    /// Writes `v` to `buf` at `addr + offset` bytes.
    pub(super) fn store_val(&mut self, buf: Buf, v: &Val, addr: Value, offset: i32) {
        let size = v.ty.elem.size();
        if self.in_scalars(v.ty) {
            let flags = self.flags(buf);
            for (i, reg) in v.regs.iter().enumerate() {
                self.ins().store(flags, *reg, addr, offset + (i * size) as i32);
            }
            return;
        }
        let n = self.machine.per_register(size);
        let v = self.mask_to(v, size);
        for (r, reg) in v.regs.iter().enumerate() {
            let bytes = (usize::from(v.ty.lanes) - r * n).min(n) * size;
            let reg = if v.ty.elem == DType::Bool {
                let one = self.int_like(types::I8X16, 1);
                self.ins().band(*reg, one)
            } else {
                *reg
            };
            self.store_bytes(buf, reg, bytes, addr, offset + 16 * r as i32);
        }
    }

    fn store_bytes(&mut self, buf: Buf, reg: Value, bytes: usize, addr: Value, offset: i32) {
        let flags = self.flags(buf);
        if bytes == 16 {
            self.ins().store(flags, reg, addr, offset);
            return;
        }
        for (at, piece) in pieces(bytes) {
            let vec = self.vector_of(piece);
            let r = self.bits_as(vec, reg);
            let v = self.ins().extractlane(r, (at / piece.bytes() as usize) as u8);
            self.ins().store(flags, v, addr, offset + at as i32);
        }
    }
}

/// `bytes < 16` as scalar accesses, largest first: (offset, type). Floats for the wide ones: they live in vector
/// registers.
fn pieces(bytes: usize) -> impl Iterator<Item = (usize, Clif)> {
    let mut at = 0;
    [types::F64, types::F32, types::I16, types::I8].into_iter().filter_map(move |t| {
        let size = t.bytes() as usize;
        let here = at;
        (bytes & size != 0).then(|| {
            at += size;
            (here, t)
        })
    })
}
